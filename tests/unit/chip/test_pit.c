#include "chip_test.h"

#include "device/chip/pit.h"

#define IRQ 0

static const struct board_range ranges[] = { { false, 0x40, 4 },
					     { false, 0x61, 1 },
					     { 0 } };

static struct device *make(struct board *b)
{
	const struct pit_opts opts = { .irq = board_line(b, IRQ) };
	struct device *dev;

	assert_int_equal(pit_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

/* Until (ticks) more of them have been, and no further. */
static void run_ticks(struct board *b, uint64_t ticks)
{
	uint64_t now = vclock_ticks(b->env.clock, PIT_HZ);
	uint64_t ns = ((now + ticks) * 1000000000 + PIT_HZ - 1) / PIT_HZ;

	board_run(b, (int64_t)ns - vclock_now(b->env.clock));
}

static void load(struct board *b, unsigned n, unsigned mode, uint16_t count)
{
	board_out(b, 0x43, 1, n << 6 | 0x30 | mode << 1);
	board_out(b, 0x40 + n, 1, count & 0xff);
	board_out(b, 0x40 + n, 1, count >> 8);
}

static uint16_t latch(struct board *b, unsigned n)
{
	uint16_t low;

	board_out(b, 0x43, 1, n << 6);
	low = board_in(b, 0x40 + n, 1);
	return low | board_in(b, 0x40 + n, 1) << 8;
}

static uint8_t status(struct board *b, unsigned n)
{
	board_out(b, 0x43, 1, 0xe0 | 2 << n);
	return board_in(b, 0x40 + n, 1);
}

static bool speaker_out(struct board *b)
{
	return board_in(b, 0x61, 1) & 0x20;
}

static void f12_pit_rate_generator(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	load(&b, 0, 2, 1193); /* a kilohertz */
	board_run(&b, 1000 * NSEC_PER_MSEC);
	assert_in_range(b.rises[IRQ], 1000, 1001);
	run_ticks(&b, 1193 - vclock_ticks(b.env.clock, PIT_HZ) % 1193);
	assert_in_range(latch(&b, 0), 1, 1193);
	/* It does not drift: a period is a whole number of ticks. */
	b.rises[IRQ] = 0;
	run_ticks(&b, 1193 * 1000);
	assert_int_equal(b.rises[IRQ], 1000);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_terminal_count(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	load(&b, 0, 0, 1000);
	assert_false(b.level[IRQ]);
	assert_int_equal(status(&b, 0), 0x30);
	run_ticks(&b, 999);
	assert_int_equal(b.rises[IRQ], 0);
	assert_int_equal(latch(&b, 0), 1);
	run_ticks(&b, 1);
	assert_int_equal(b.rises[IRQ], 1);
	assert_true(b.level[IRQ]);
	assert_int_equal(status(&b, 0), 0xb0);
	run_ticks(&b, 10);
	assert_int_equal(latch(&b, 0), 0xfff6);
	run_ticks(&b, 100000);
	assert_int_equal(b.rises[IRQ], 1);
	/* The first byte of a new count stops it, the second starts. */
	board_out(&b, 0x40, 1, 10);
	board_out(&b, 0x40, 1, 0);
	assert_false(b.level[IRQ]);
	run_ticks(&b, 10);
	assert_true(b.level[IRQ]);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_software_strobe(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	load(&b, 0, 4, 500);
	b.rises[IRQ] = 0;
	run_ticks(&b, 500);
	assert_int_equal(b.rises[IRQ], 0);
	assert_false(status(&b, 0) & 0x80);
	run_ticks(&b, 1);
	assert_int_equal(b.rises[IRQ], 1);
	assert_true(status(&b, 0) & 0x80);
	run_ticks(&b, 200000);
	assert_int_equal(b.rises[IRQ], 1);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_square_wave_and_new_count(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	board_out(&b, 0x61, 1, 1);
	load(&b, 2, 3, 100);
	assert_true(speaker_out(&b));
	run_ticks(&b, 49);
	assert_true(speaker_out(&b));
	run_ticks(&b, 1);
	assert_false(speaker_out(&b));
	assert_int_equal(latch(&b, 2), 100);
	/* A new count waits for the end of the period. */
	board_out(&b, 0x42, 1, 10);
	board_out(&b, 0x42, 1, 0);
	run_ticks(&b, 49);
	assert_false(speaker_out(&b));
	run_ticks(&b, 1);
	assert_true(speaker_out(&b));
	assert_int_equal(latch(&b, 2), 10);
	run_ticks(&b, 5);
	assert_false(speaker_out(&b));
	/* An odd count is high for one tick longer. */
	load(&b, 2, 3, 7);
	run_ticks(&b, 3);
	assert_true(speaker_out(&b));
	run_ticks(&b, 1);
	assert_false(speaker_out(&b));
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_gate(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	/* Linux calibrates so: mode 0, gate, wait for OUT. */
	board_out(&b, 0x61, 1, 0);
	load(&b, 2, 0, 1000);
	run_ticks(&b, 5000);
	assert_false(speaker_out(&b));
	assert_int_equal(latch(&b, 2), 1000);
	board_out(&b, 0x61, 1, 1);
	run_ticks(&b, 600);
	board_out(&b, 0x61, 1, 0);
	run_ticks(&b, 600);
	assert_false(speaker_out(&b));
	assert_int_equal(latch(&b, 2), 400);
	board_out(&b, 0x61, 1, 1);
	run_ticks(&b, 399);
	assert_false(speaker_out(&b));
	run_ticks(&b, 1);
	assert_true(speaker_out(&b));
	/* Mode 2 stands high and starts over. */
	load(&b, 2, 2, 100);
	run_ticks(&b, 99);
	assert_false(speaker_out(&b));
	board_out(&b, 0x61, 1, 0);
	assert_true(speaker_out(&b));
	board_out(&b, 0x61, 1, 1);
	run_ticks(&b, 98);
	assert_true(speaker_out(&b));
	assert_int_equal(latch(&b, 2), 2);
	/* One-shots wait for the edge, and take another one. */
	board_out(&b, 0x61, 1, 0);
	load(&b, 2, 1, 50);
	run_ticks(&b, 100);
	assert_true(speaker_out(&b));
	board_out(&b, 0x61, 1, 1);
	assert_false(speaker_out(&b));
	run_ticks(&b, 40);
	board_out(&b, 0x61, 1, 0);
	board_out(&b, 0x61, 1, 1);
	run_ticks(&b, 49);
	assert_false(speaker_out(&b));
	run_ticks(&b, 1);
	assert_true(speaker_out(&b));
	/* The hardware strobe is low for one tick. */
	load(&b, 2, 5, 50);
	board_out(&b, 0x61, 1, 0);
	board_out(&b, 0x61, 1, 1);
	run_ticks(&b, 50);
	assert_false(speaker_out(&b));
	run_ticks(&b, 1);
	assert_true(speaker_out(&b));
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_access_modes(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	/* Low byte only, then high byte only. */
	board_out(&b, 0x43, 1, 0x50 | 2 << 1);
	assert_int_equal(status(&b, 1), 0xd4); /* no count yet */
	board_out(&b, 0x41, 1, 200);
	assert_int_equal(status(&b, 1), 0x94);
	run_ticks(&b, 20);
	assert_int_equal(board_in(&b, 0x41, 1), 180);
	board_out(&b, 0x43, 1, 0x60 | 2 << 1);
	board_out(&b, 0x41, 1, 4);
	run_ticks(&b, 1);
	assert_int_equal(board_in(&b, 0x41, 1), 3);
	/* A latch holds, and a second one does not replace it. */
	load(&b, 1, 2, 1000);
	run_ticks(&b, 100);
	board_out(&b, 0x43, 1, 0x40);
	run_ticks(&b, 100);
	board_out(&b, 0x43, 1, 0x40);
	assert_int_equal(board_in(&b, 0x41, 1), 900 & 0xff);
	assert_int_equal(board_in(&b, 0x41, 1), 900 >> 8);
	/* Read back of two channels, status before count. */
	load(&b, 2, 3, 0);
	board_out(&b, 0x43, 1, 0xc0 | 2 << 1 | 2 << 2);
	assert_int_equal(board_in(&b, 0x41, 1) & 0x3f, 0x34);
	assert_int_equal(board_in(&b, 0x41, 1), 800 & 0xff);
	assert_int_equal(board_in(&b, 0x41, 1), 800 >> 8);
	assert_int_equal(board_in(&b, 0x42, 1) & 0x3f, 0x36);
	/* BCD. */
	board_out(&b, 0x43, 1, 0x70 | 2 << 1 | 1);
	board_out(&b, 0x41, 1, 0x34);
	board_out(&b, 0x41, 1, 0x12);
	run_ticks(&b, 5);
	assert_int_equal(latch(&b, 1), 0x1229);
	assert_int_equal(board_in(&b, 0x43, 1), 0xff);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_tiny_period_is_bounded(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	load(&b, 0, 2, 2);
	b.rises[IRQ] = 0;
	board_run(&b, NSEC_PER_SEC);
	assert_in_range(b.rises[IRQ], 10000, 21000);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pit_moves_while_counting(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 5);
	board_init(&b, 1LL << 40);
	from = make(&a);
	to = make(&b);
	board_run(&a, 12345678);
	load(&a, 0, 2, 11932);
	board_out(&a, 0x61, 1, 1);
	load(&a, 2, 0, 50000);
	run_ticks(&a, 11932 * 2 + 4000);
	/* Mid-operation: a latched count of which one byte was read. */
	board_out(&a, 0x43, 1, 0);
	assert_int_equal(board_in(&a, 0x40, 1), 7932 & 0xff);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_true(b.level[IRQ]);
	assert_int_equal(board_in(&b, 0x40, 1), 7932 >> 8);
	b.rises[IRQ] = 0;
	run_ticks(&b, 7931);
	assert_int_equal(b.rises[IRQ], 0);
	run_ticks(&b, 1);
	assert_int_equal(b.rises[IRQ], 1);
	run_ticks(&b, 50000 - 11932 * 3 - 1);
	assert_false(speaker_out(&b));
	run_ticks(&b, 1);
	assert_true(speaker_out(&b));
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void pit_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 5);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	dev->cls->reset(dev);
	load(&b, 0, 2, 1000);
	load(&b, 2, 3, 77);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f12_pit_rate_generator),
		cmocka_unit_test(pit_terminal_count),
		cmocka_unit_test(pit_software_strobe),
		cmocka_unit_test(pit_square_wave_and_new_count),
		cmocka_unit_test(pit_gate),
		cmocka_unit_test(pit_access_modes),
		cmocka_unit_test(pit_tiny_period_is_bounded),
		cmocka_unit_test(pit_moves_while_counting),
		cmocka_unit_test(pit_survives),
	};

	return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
