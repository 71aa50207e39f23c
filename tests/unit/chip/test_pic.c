#include "chip_test.h"

#include "device/chip/pic.h"

#define OUT 0 /* wire that shows INTR */

static const struct board_range ranges[] = {
	{ false, 0x20, 2 }, { false, 0xa0, 2 }, { false, 0x4d0, 2 }, { 0 }
};

static struct device *make(struct board *b)
{
	const struct pic_opts opts = { .out = board_line(b, OUT) };
	struct device *dev;

	assert_int_equal(pic_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static void init_unit(struct board *b, uint16_t port, uint8_t base,
		      uint8_t icw3, uint8_t icw4)
{
	board_out(b, port, 1, 0x11);
	board_out(b, port + 1, 1, base);
	board_out(b, port + 1, 1, icw3);
	board_out(b, port + 1, 1, icw4);
	board_out(b, port + 1, 1, 0);
}

/* As Linux does: vectors 0x30 and 0x38, nothing masked. */
static struct device *make_ready(struct board *b)
{
	struct device *dev = make(b);

	init_unit(b, 0x20, 0x30, 4, 1);
	init_unit(b, 0xa0, 0x38, 2, 1);
	return dev;
}

static void pulse(struct device *dev, unsigned n)
{
	pic_set_irq(dev, n, true);
	pic_set_irq(dev, n, false);
}

static uint8_t read_isr(struct board *b, uint16_t port)
{
	board_out(b, port, 1, 0x0b);
	return (uint8_t)board_in(b, port, 1);
}

static uint8_t read_irr(struct board *b, uint16_t port)
{
	board_out(b, port, 1, 0x0a);
	return (uint8_t)board_in(b, port, 1);
}

static void c14_pic_priority_and_eoi(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	assert_false(b.level[OUT]);
	pulse(dev, 5);
	pulse(dev, 1);
	assert_true(b.level[OUT]);
	assert_int_equal(read_irr(&b, 0x20), 0x22);
	assert_int_equal(pic_acknowledge(dev), 0x31);
	assert_int_equal(read_isr(&b, 0x20), 0x02);
	/* 5 waits for 1, and 0 does not. */
	assert_false(b.level[OUT]);
	pulse(dev, 0);
	assert_true(b.level[OUT]);
	assert_int_equal(pic_acknowledge(dev), 0x30);
	board_out(&b, 0x20, 1, 0x20);
	assert_int_equal(read_isr(&b, 0x20), 0x02);
	board_out(&b, 0x20, 1, 0x61);
	assert_true(b.level[OUT]);
	assert_int_equal(pic_acknowledge(dev), 0x35);
	board_out(&b, 0x20, 1, 0x20);
	assert_false(b.level[OUT]);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_pic_cascade(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	pulse(dev, 12);
	pulse(dev, 9);
	pulse(dev, 3);
	/* The second chip is the first one's input 2: before 3. */
	assert_int_equal(pic_acknowledge(dev), 0x39);
	assert_int_equal(read_isr(&b, 0x20), 0x04);
	assert_int_equal(read_isr(&b, 0xa0), 0x02);
	assert_false(b.level[OUT]);
	board_out(&b, 0xa0, 1, 0x20);
	board_out(&b, 0x20, 1, 0x20);
	assert_int_equal(pic_acknowledge(dev), 0x3c);
	board_out(&b, 0xa0, 1, 0x20);
	board_out(&b, 0x20, 1, 0x20);
	assert_int_equal(pic_acknowledge(dev), 0x33);
	board_out(&b, 0x20, 1, 0x20);
	assert_false(b.level[OUT]);
	/* Nobody drives input 2. */
	pic_set_irq(dev, 2, true);
	pic_set_irq(dev, 16, true);
	assert_false(b.level[OUT]);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_pic_masked(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	board_out(&b, 0x21, 1, 0x10);
	pulse(dev, 4);
	assert_false(b.level[OUT]);
	assert_int_equal(board_in(&b, 0x21, 1), 0x10);
	board_out(&b, 0x21, 1, 0);
	assert_true(b.level[OUT]);
	assert_int_equal(pic_acknowledge(dev), 0x34);
	board_out(&b, 0x20, 1, 0x20);
	/* A masked cascade keeps the second chip quiet. */
	board_out(&b, 0x21, 1, 0x04);
	pulse(dev, 8);
	assert_false(b.level[OUT]);
	board_out(&b, 0x21, 1, 0);
	assert_int_equal(pic_acknowledge(dev), 0x38);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_pic_level_triggered(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	/* 0, 1, 2, 8 and 13 are edge-triggered always. */
	board_out(&b, 0x4d0, 1, 0xff);
	board_out(&b, 0x4d1, 1, 0xff);
	assert_int_equal(board_in(&b, 0x4d0, 1), 0xf8);
	assert_int_equal(board_in(&b, 0x4d1, 1), 0xde);
	pic_set_irq(dev, 11, true);
	assert_int_equal(pic_acknowledge(dev), 0x3b);
	board_out(&b, 0xa0, 1, 0x20);
	board_out(&b, 0x20, 1, 0x20);
	/* Still up: it comes again. */
	assert_true(b.level[OUT]);
	assert_int_equal(pic_acknowledge(dev), 0x3b);
	pic_set_irq(dev, 11, false);
	board_out(&b, 0xa0, 1, 0x20);
	board_out(&b, 0x20, 1, 0x20);
	assert_false(b.level[OUT]);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pic_spurious(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	board_out(&b, 0x4d0, 1, 0x20);
	pic_set_irq(dev, 5, true);
	pic_set_irq(dev, 5, false);
	assert_int_equal(pic_acknowledge(dev), 0x37);
	assert_int_equal(read_isr(&b, 0x20), 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pic_auto_eoi_and_rotation(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make(&b);
	init_unit(&b, 0x20, 0x40, 4, 3); /* auto-EOI */
	pulse(dev, 3);
	assert_int_equal(pic_acknowledge(dev), 0x43);
	assert_int_equal(read_isr(&b, 0x20), 0);
	/* Rotating: 3 served last comes last. */
	board_out(&b, 0x20, 1, 0x80);
	pulse(dev, 3);
	assert_int_equal(pic_acknowledge(dev), 0x43);
	pulse(dev, 3);
	pulse(dev, 6);
	assert_int_equal(pic_acknowledge(dev), 0x46);
	assert_int_equal(pic_acknowledge(dev), 0x43);
	/* Set priority: 5 lowest, so 6 first. */
	init_unit(&b, 0x20, 0x40, 4, 1);
	board_out(&b, 0x20, 1, 0xc5);
	pulse(dev, 0);
	pulse(dev, 6);
	assert_int_equal(pic_acknowledge(dev), 0x46);
	board_out(&b, 0x20, 1, 0xa0); /* rotate on EOI */
	pulse(dev, 6);
	pulse(dev, 7);
	assert_int_equal(pic_acknowledge(dev), 0x47);
	board_out(&b, 0x20, 1, 0xe7); /* specific, rotate */
	assert_int_equal(pic_acknowledge(dev), 0x40);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pic_special_mask_and_poll(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	pulse(dev, 1);
	assert_int_equal(pic_acknowledge(dev), 0x31);
	board_out(&b, 0x20, 1, 0x68); /* special mask mode */
	board_out(&b, 0x21, 1, 0x02);
	pulse(dev, 6);
	/* 1 is in service but masked: lower ones pass. */
	assert_true(b.level[OUT]);
	board_out(&b, 0x20, 1, 0x0c); /* poll */
	assert_int_equal(board_in(&b, 0x20, 1), 0x86);
	assert_int_equal(read_isr(&b, 0x20), 0x42);
	board_out(&b, 0x20, 1, 0x0c);
	assert_int_equal(board_in(&b, 0x20, 1), 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pic_fully_nested(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make(&b);
	init_unit(&b, 0x20, 0x30, 4, 0x11);
	init_unit(&b, 0xa0, 0x38, 2, 1);
	pulse(dev, 14);
	assert_int_equal(pic_acknowledge(dev), 0x3e);
	pulse(dev, 8);
	assert_int_equal(pic_acknowledge(dev), 0x38);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pic_moves_in_service(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 1000);
	board_init(&b, 77);
	from = make_ready(&a);
	to = make(&b);
	board_out(&a, 0x4d0, 1, 0x20);
	pulse(from, 12);
	assert_int_equal(pic_acknowledge(from), 0x3c);
	pic_set_irq(from, 5, true);
	pulse(from, 1);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_true(b.level[OUT]);
	assert_int_equal(pic_acknowledge(to), 0x31);
	board_out(&b, 0x20, 1, 0x20);
	assert_false(b.level[OUT]);
	board_out(&b, 0xa0, 1, 0x20);
	board_out(&b, 0x20, 1, 0x20);
	assert_int_equal(pic_acknowledge(to), 0x35);
	pic_set_irq(to, 5, false);
	board_out(&b, 0x20, 1, 0x20);
	assert_false(b.level[OUT]);
	/* An initialization begun here ends there. */
	board_out(&b, 0x20, 1, 0x11);
	board_out(&b, 0x21, 1, 0x50);
	assert_int_equal(board_move(&b, to, &a, from), 0);
	board_out(&a, 0x21, 1, 4);
	board_out(&a, 0x21, 1, 1);
	pulse(from, 0);
	assert_int_equal(pic_acknowledge(from), 0x50);
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void pic_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 1000);
	dev = make_ready(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	for (unsigned i = 0; i < 10000; i++) {
		pic_set_irq(dev, i * 7 % 17, i * 13 % 3);
		board_fuzz(&b, ranges, 3, i);
		pic_acknowledge(dev);
	}
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(c14_pic_priority_and_eoi),
		cmocka_unit_test(c14_pic_cascade),
		cmocka_unit_test(c14_pic_masked),
		cmocka_unit_test(c14_pic_level_triggered),
		cmocka_unit_test(pic_spurious),
		cmocka_unit_test(pic_auto_eoi_and_rotation),
		cmocka_unit_test(pic_special_mask_and_poll),
		cmocka_unit_test(pic_fully_nested),
		cmocka_unit_test(pic_moves_in_service),
		cmocka_unit_test(pic_survives),
	};

	return cmocka_run_group_tests_name("pic", tests, NULL, NULL);
}
