#include "chip_test.h"

#include "device/chip/i8042.h"

#define KBD   1
#define MOUSE 12

static const struct board_range ranges[] = {
	{ false, 0x60, 1 }, { false, 0x64, 1 }, { false, 0x92, 1 }, { 0 }
};

static struct device *make(struct board *b)
{
	const struct i8042_opts opts = { .keyboard = board_line(b, KBD),
					 .mouse = board_line(b, MOUSE) };
	struct device *dev;

	assert_int_equal(i8042_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static uint8_t status(struct board *b)
{
	return (uint8_t)board_in(b, 0x64, 1);
}

static void command(struct board *b, uint8_t value)
{
	board_out(b, 0x64, 1, value);
}

static void data(struct board *b, uint8_t value)
{
	board_out(b, 0x60, 1, value);
}

/* The next byte, which must be there. */
static uint8_t answer(struct board *b)
{
	assert_true(status(b) & 1);
	return (uint8_t)board_in(b, 0x60, 1);
}

static void expect(struct board *b, const uint8_t *bytes, unsigned nr,
		   bool is_mouse)
{
	for (unsigned i = 0; i < nr; i++) {
		assert_int_equal(status(b) >> 5 & 1, is_mouse);
		assert_int_equal(answer(b), bytes[i]);
	}
	assert_false(status(b) & 1);
}

#define EXPECT(b, is_mouse, ...)                    \
	expect(b, (const uint8_t[]){ __VA_ARGS__ }, \
	       sizeof((const uint8_t[]){ __VA_ARGS__ }), is_mouse)

/* The order of Linux: drivers/input/serio/i8042.c. */
static void f12_i8042_is_probed(void **state)
{
	struct board b;
	struct device *dev;
	uint8_t config;

	board_init(&b, 0);
	dev = make(&b);
	assert_int_equal(status(&b), 0x14);
	command(&b, 0xaa);
	assert_int_equal(answer(&b), 0x55);
	command(&b, 0x20);
	config = answer(&b);
	command(&b, 0x60);
	assert_int_equal(status(&b) & 8, 8);
	data(&b, config | 0x30);
	command(&b, 0x20);
	assert_int_equal(answer(&b), config | 0x30);
	/* The auxiliary port: loop, disable, enable. */
	command(&b, 0xd3);
	data(&b, 0x5a);
	EXPECT(&b, true, 0x5a);
	command(&b, 0xa7);
	command(&b, 0x20);
	assert_true(answer(&b) & 0x20);
	command(&b, 0xa8);
	command(&b, 0x20);
	assert_false(answer(&b) & 0x20);
	/* Its interrupt arrives. */
	command(&b, 0x60);
	data(&b, 0x42);
	command(&b, 0xd3);
	data(&b, 0xa5);
	assert_int_equal(b.rises[MOUSE], 1);
	EXPECT(&b, true, 0xa5);
	assert_false(b.level[MOUSE]);
	command(&b, 0xa9);
	EXPECT(&b, false, 0);
	command(&b, 0xab);
	EXPECT(&b, false, 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void i8042_keyboard_answers(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	command(&b, 0x60);
	data(&b, 0x61); /* interrupt, translation */
	data(&b, 0xff);
	assert_int_equal(b.rises[KBD], 1);
	EXPECT(&b, false, 0xfa, 0xaa);
	assert_int_equal(b.rises[KBD], 2); /* an edge for each byte */
	assert_false(b.level[KBD]);
	data(&b, 0xf2);
	EXPECT(&b, false, 0xfa, 0xab, 0x41);
	data(&b, 0xed);
	EXPECT(&b, false, 0xfa);
	data(&b, 0x02);
	EXPECT(&b, false, 0xfa);
	data(&b, 0xf0);
	data(&b, 0x00);
	EXPECT(&b, false, 0xfa, 0xfa, 0x02);
	data(&b, 0xee);
	EXPECT(&b, false, 0xee);
	data(&b, 0xf5);
	data(&b, 0xf4);
	EXPECT(&b, false, 0xfa, 0xfa);
	data(&b, 0x12);
	EXPECT(&b, false, 0xfe);
	/* A command in place of its byte. */
	data(&b, 0xf3);
	data(&b, 0xf4);
	EXPECT(&b, false, 0xfa, 0xfa);
	/* Disabled, its bytes wait. */
	command(&b, 0x60);
	data(&b, 0x20);
	data(&b, 0xf2);
	assert_int_equal(answer(&b), 0xfa);
	command(&b, 0xad);
	assert_int_equal(answer(&b), 0xab); /* had left already */
	assert_false(status(&b) & 1);
	command(&b, 0xae);
	EXPECT(&b, false, 0x83);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void i8042_mouse_answers(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	command(&b, 0x60);
	data(&b, 0x42);
	command(&b, 0xd4);
	data(&b, 0xff);
	EXPECT(&b, true, 0xfa, 0xaa, 0x00);
	assert_int_equal(b.rises[MOUSE], 3);
	assert_int_equal(b.rises[KBD], 0);
	command(&b, 0xd4);
	data(&b, 0xf2);
	EXPECT(&b, true, 0xfa, 0x00);
	command(&b, 0xd4);
	data(&b, 0xf3);
	command(&b, 0xd4);
	data(&b, 200);
	command(&b, 0xd4);
	data(&b, 0xe8);
	command(&b, 0xd4);
	data(&b, 3);
	command(&b, 0xd4);
	data(&b, 0xf4);
	command(&b, 0xd4);
	data(&b, 0xe9);
	EXPECT(&b, true, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0x20, 3, 200);
	command(&b, 0xd4);
	data(&b, 0xeb);
	EXPECT(&b, true, 0xfa, 8, 0, 0);
	command(&b, 0xd4);
	data(&b, 0xe1);
	EXPECT(&b, true, 0xfe);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void f12_i8042_reset_and_a20(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	command(&b, 0xd0);
	assert_int_equal(answer(&b), 0x03);
	command(&b, 0xd1);
	data(&b, 0x01);
	command(&b, 0xd0);
	assert_int_equal(answer(&b), 0x01);
	assert_int_equal(board_in(&b, 0x92, 1), 0);
	board_out(&b, 0x92, 1, 2);
	assert_int_equal(board_in(&b, 0x92, 1), 2);
	command(&b, 0xff);
	assert_int_equal(b.nr_events, 0);
	command(&b, 0xfe);
	assert_int_equal(b.nr_events, 1);
	assert_int_equal(b.event, MACHINE_RESET);
	command(&b, 0xd1);
	data(&b, 0x02);
	assert_int_equal(b.nr_events, 2);
	board_out(&b, 0x92, 1, 3);
	assert_int_equal(b.nr_events, 3);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void i8042_moves_in_mid_answer(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 0);
	board_init(&b, 0);
	from = make(&a);
	to = make(&b);
	command(&a, 0x60);
	data(&a, 0x03);
	command(&a, 0xd4);
	data(&a, 0xff);
	data(&a, 0xf0);
	assert_int_equal(answer(&a), 0xfa);
	command(&a, 0xd4);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_true(b.level[KBD]); /* the keyboard's goes first */
	assert_int_equal(answer(&b), 0xfa);
	EXPECT(&b, true, 0xaa, 0x00);
	data(&b, 0xf2); /* to the mouse, as was asked before */
	EXPECT(&b, true, 0xfa, 0x00);
	data(&b, 3); /* the scan code set */
	data(&b, 0xf0);
	data(&b, 0);
	EXPECT(&b, false, 0xfa, 0xfa, 0xfa, 3);
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void i8042_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	for (unsigned i = 0; i < 65536; i++) {
		if (i % 3 == 0)
			command(&b, 0xd4);
		data(&b, (uint8_t)(i >> 8));
		data(&b, (uint8_t)i);
		if (i % 7 == 0)
			board_in(&b, 0x60, 1);
	}
	dev->cls->reset(dev);
	data(&b, 0xf2);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f12_i8042_is_probed),
		cmocka_unit_test(i8042_keyboard_answers),
		cmocka_unit_test(i8042_mouse_answers),
		cmocka_unit_test(f12_i8042_reset_and_a20),
		cmocka_unit_test(i8042_moves_in_mid_answer),
		cmocka_unit_test(i8042_survives),
	};

	return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
