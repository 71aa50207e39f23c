#include "chip_test.h"

#include "device/chip/hpet.h"

#define GSI_PIT        0
#define GSI_RTC        8
#define GSI            20

#define TICKS_PER_MSEC 100000

static const struct board_range ranges[] = { { true, HPET_BASE, 0x400 },
					     { true, HPET_BASE, 0x180 },
					     { 0 } };

static struct device *make(struct board *b)
{
	const struct hpet_opts opts = {
		.base = HPET_BASE,
		.legacy = { board_line(b, GSI_PIT), board_line(b, GSI_RTC) },
		.route_mask = 0xf00000,
	};
	struct device *dev;

	assert_int_equal(hpet_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static uint64_t get(struct board *b, unsigned reg)
{
	return bus_read(b->mmio, 0, HPET_BASE + reg, 8);
}

static void set(struct board *b, unsigned reg, uint64_t value)
{
	bus_write(b->mmio, 0, HPET_BASE + reg, 8, value);
}

static void f12_hpet_counter(void **state)
{
	struct board b;
	struct device *dev;
	uint64_t high;

	board_init(&b, 7);
	dev = make(&b);
	assert_int_equal(get(&b, 0) >> 32, 10000000); /* fs */
	assert_int_equal(get(&b, 0) >> 16 & 0xffff, 0x8086);
	assert_int_equal(get(&b, 0) >> 8 & 0x1f, 2);
	board_run(&b, 1000);
	assert_int_equal(get(&b, 0xf0), 0);
	set(&b, 0xf0, 0x1fffffff0);
	set(&b, 0x10, 1);
	board_run(&b, 5 * NSEC_PER_MSEC);
	assert_int_equal(get(&b, 0xf0), 0x1fffffff0 + 5 * TICKS_PER_MSEC);
	high = bus_read(b.mmio, 0, HPET_BASE + 0xf4, 4);
	assert_int_equal(high, 2);
	set(&b, 0xf0, 0); /* not while it runs */
	assert_int_equal(get(&b, 0xf0), 0x1fffffff0 + 5 * TICKS_PER_MSEC);
	set(&b, 0x10, 0);
	board_run(&b, NSEC_PER_MSEC);
	assert_int_equal(get(&b, 0xf0), 0x1fffffff0 + 5 * TICKS_PER_MSEC);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void hpet_one_shot_edge(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 7);
	dev = make(&b);
	assert_int_equal(get(&b, 0x120) >> 32, 0xf00000);
	set(&b, 0x120, GSI << 9 | 4);
	set(&b, 0x128, 3 * TICKS_PER_MSEC);
	board_run(&b, 5 * NSEC_PER_MSEC);
	assert_int_equal(b.rises[GSI], 0);
	set(&b, 0x10, 1);
	board_run(&b, 3 * NSEC_PER_MSEC - 20);
	assert_int_equal(b.rises[GSI], 0);
	board_run(&b, 20);
	assert_int_equal(b.rises[GSI], 1);
	assert_false(b.level[GSI]);
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(b.rises[GSI], 1);
	/* Written for a moment just gone: at once; for long ago: not. */
	set(&b, 0x128, get(&b, 0xf0) - 50);
	assert_int_equal(b.rises[GSI], 2);
	set(&b, 0x128, get(&b, 0xf0) - 50 * TICKS_PER_MSEC);
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(b.rises[GSI], 2);
	/* A pin that is not its own. */
	set(&b, 0x120, 3 << 9 | 4);
	set(&b, 0x128, get(&b, 0xf0) + 5);
	board_run(&b, NSEC_PER_MSEC);
	assert_int_equal(b.rises[3], 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void hpet_32_bit_wraps(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 7);
	dev = make(&b);
	set(&b, 0x100, 0x100 | GSI << 9 | 4);
	set(&b, 0x108, 0xabc00001000);
	assert_int_equal(get(&b, 0x108), 0x1000);
	set(&b, 0xf0, 0xfffff000);
	set(&b, 0x10, 1);
	board_run(&b, 0x1fff * 10);
	assert_int_equal(b.rises[GSI], 0);
	board_run(&b, 10);
	assert_int_equal(b.rises[GSI], 1);
	board_run(&b, (1LL << 32) * 10);
	assert_int_equal(b.rises[GSI], 2);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void hpet_periodic_level(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 7);
	dev = make(&b);
	set(&b, 0x10, 1);
	board_run(&b, NSEC_PER_MSEC);
	/* As Linux writes it: first the comparator, then the period. */
	set(&b, 0x100, GSI << 9 | 0x4e);
	set(&b, 0x108, get(&b, 0xf0) + 2 * TICKS_PER_MSEC);
	set(&b, 0x108, 2 * TICKS_PER_MSEC);
	board_run(&b, 2 * NSEC_PER_MSEC);
	assert_true(b.level[GSI]);
	assert_int_equal(get(&b, 0x20), 1);
	set(&b, 0x20, 1);
	assert_false(b.level[GSI]);
	assert_int_equal(get(&b, 0x20), 0);
	for (unsigned i = 0; i < 100; i++) {
		board_run(&b, 2 * NSEC_PER_MSEC);
		set(&b, 0x20, 1);
	}
	assert_int_equal(b.rises[GSI], 101);
	assert_int_equal(get(&b, 0x108), 205 * TICKS_PER_MSEC);
	/* Turning the timer around lets go of the line. */
	board_run(&b, 2 * NSEC_PER_MSEC);
	assert_true(b.level[GSI]);
	set(&b, 0x100, 0);
	assert_false(b.level[GSI]);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void hpet_tiny_period_is_bounded(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 7);
	dev = make(&b);
	set(&b, 0x10, 1);
	set(&b, 0x100, GSI << 9 | 0x4c);
	set(&b, 0x108, 1);
	board_run(&b, NSEC_PER_SEC);
	assert_in_range(b.rises[GSI], 10000, 20001);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_hpet_message(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 7);
	dev = make(&b);
	set(&b, 0x10, 1);
	set(&b, 0x140, 0x4004);
	set(&b, 0x150, 0xfee0300000000041);
	set(&b, 0x148, TICKS_PER_MSEC);
	board_run(&b, 2 * NSEC_PER_MSEC);
	assert_int_equal(b.nr_msi, 1);
	assert_int_equal(b.msi.addr, 0xfee03000);
	assert_int_equal(b.msi.data, 0x41);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void hpet_legacy_replacement(void **state)
{
	struct board b;
	struct device *dev;
	struct irq_line pit, rtc;

	board_init(&b, 7);
	dev = make(&b);
	pit = hpet_legacy_line(dev, HPET_LEGACY_PIT);
	rtc = hpet_legacy_line(dev, HPET_LEGACY_RTC);
	irq_set(pit, true);
	assert_true(b.level[GSI_PIT]);
	set(&b, 0x10, 3);
	assert_false(b.level[GSI_PIT]);
	irq_set(pit, false);
	irq_set(pit, true);
	irq_set(rtc, true);
	assert_false(b.level[GSI_PIT]);
	assert_false(b.level[GSI_RTC]);
	set(&b, 0x100, GSI << 9 | 4);
	set(&b, 0x120, GSI << 9 | 4);
	set(&b, 0x108, TICKS_PER_MSEC);
	set(&b, 0x128, 2 * TICKS_PER_MSEC);
	b.rises[GSI_PIT] = 0;
	board_run(&b, NSEC_PER_MSEC);
	assert_int_equal(b.rises[GSI_PIT], 1);
	assert_int_equal(b.rises[GSI_RTC], 0);
	board_run(&b, NSEC_PER_MSEC);
	assert_int_equal(b.rises[GSI_RTC], 1);
	assert_int_equal(b.rises[GSI], 0);
	/* Given back, the wires show what was on them all along. */
	set(&b, 0x10, 1);
	assert_true(b.level[GSI_PIT]);
	assert_true(b.level[GSI_RTC]);
	set(&b, 0x10, 3);
	dev->cls->reset(dev);
	assert_true(b.level[GSI_PIT]);
	assert_int_equal(get(&b, 0x10), 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void hpet_moves_while_running(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 7);
	board_init(&b, 1LL << 45);
	from = make(&a);
	to = make(&b);
	irq_set(hpet_legacy_line(from, HPET_LEGACY_PIT), true);
	set(&a, 0xf0, 1000000);
	set(&a, 0x10, 1);
	set(&a, 0x100, GSI << 9 | 0x4e);
	set(&a, 0x108, 1000000 + 3 * TICKS_PER_MSEC);
	set(&a, 0x108, 3 * TICKS_PER_MSEC);
	set(&a, 0x120, (GSI + 1) << 9 | 4);
	set(&a, 0x128, 1000000 + 10 * TICKS_PER_MSEC);
	board_run(&a, 7 * NSEC_PER_MSEC);
	assert_true(a.level[GSI]);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_true(b.level[GSI]);
	assert_true(b.level[GSI_PIT]);
	set(&b, 0x20, 1);
	assert_false(b.level[GSI]);
	assert_int_equal(get(&b, 0xf0), 1000000 + 7 * TICKS_PER_MSEC);
	board_run(&b, 2 * NSEC_PER_MSEC);
	assert_true(b.level[GSI]);
	assert_int_equal(b.rises[GSI + 1], 0);
	board_run(&b, NSEC_PER_MSEC);
	assert_int_equal(b.rises[GSI + 1], 1);
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void hpet_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 7);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	dev->cls->reset(dev);
	set(&b, 0x10, 1);
	set(&b, 0x100, GSI << 9 | 0x4e);
	set(&b, 0x108, TICKS_PER_MSEC);
	board_run(&b, 10 * NSEC_PER_MSEC);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f12_hpet_counter),
		cmocka_unit_test(hpet_one_shot_edge),
		cmocka_unit_test(hpet_32_bit_wraps),
		cmocka_unit_test(hpet_periodic_level),
		cmocka_unit_test(hpet_tiny_period_is_bounded),
		cmocka_unit_test(c14_hpet_message),
		cmocka_unit_test(hpet_legacy_replacement),
		cmocka_unit_test(hpet_moves_while_running),
		cmocka_unit_test(hpet_survives),
	};

	return cmocka_run_group_tests_name("hpet", tests, NULL, NULL);
}
