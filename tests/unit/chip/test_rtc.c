#include "chip_test.h"

#include "device/chip/rtc.h"

#define IRQ 8

/* 2024-02-28 23:59:57.250 UTC, a Wednesday before a leap day. */
#define WALL_NS (1709164797LL * NSEC_PER_SEC + 250 * NSEC_PER_MSEC)

static const struct board_range ranges[] = { { false, 0x70, 2 }, { 0 } };

static struct device *make(struct board *b)
{
	const struct rtc_opts opts = {
		.wall_ns = WALL_NS,
		.irq = board_line(b, IRQ),
		.ram_low = 3 * GiB,
		.ram_high = 5 * GiB,
		.nr_cpus = 4,
	};
	struct device *dev;

	assert_int_equal(rtc_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static uint8_t get(struct board *b, uint8_t index)
{
	board_out(b, 0x70, 1, index);
	return (uint8_t)board_in(b, 0x71, 1);
}

static void set(struct board *b, uint8_t index, uint8_t value)
{
	board_out(b, 0x70, 1, index);
	board_out(b, 0x71, 1, value);
}

static void expect_time(struct board *b, unsigned hour, unsigned minute,
			unsigned second)
{
	assert_int_equal(get(b, 4), hour);
	assert_int_equal(get(b, 2), minute);
	assert_int_equal(get(b, 0), second);
}

static void f12_rtc_time_and_formats(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	expect_time(&b, 0x23, 0x59, 0x57);
	assert_int_equal(get(&b, 6), 4);
	assert_int_equal(get(&b, 7), 0x28);
	assert_int_equal(get(&b, 8), 0x02);
	assert_int_equal(get(&b, 9), 0x24);
	assert_int_equal(get(&b, 0x32), 0x20);
	assert_int_equal(get(&b, 0x0d), 0x80);
	board_run(&b, 2750 * NSEC_PER_MSEC);
	expect_time(&b, 0, 0, 0);
	assert_int_equal(get(&b, 7), 0x29);
	/* 12 hours: midnight is 12 am. */
	set(&b, 0x0b, 0);
	assert_int_equal(get(&b, 4), 0x12);
	board_run(&b, 13 * 3600 * NSEC_PER_SEC);
	assert_int_equal(get(&b, 4), 0x81);
	/* Binary. */
	set(&b, 0x0b, 6);
	expect_time(&b, 13, 0, 0);
	board_run(&b, 47 * 60 * NSEC_PER_SEC);
	assert_int_equal(get(&b, 2), 47);
	assert_int_equal(get(&b, 0x32), 20);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_is_set(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	/* As Linux: SET, divider reset, the bytes, and back. */
	set(&b, 0x0b, 0x82);
	set(&b, 0x0a, 0x76);
	board_run(&b, 5 * NSEC_PER_SEC);
	expect_time(&b, 0x23, 0x59, 0x57);
	set(&b, 9, 0x99);
	set(&b, 0x32, 0x19);
	set(&b, 8, 0x12);
	set(&b, 7, 0x31);
	set(&b, 4, 0x23);
	set(&b, 2, 0x59);
	set(&b, 0, 0x58);
	set(&b, 0x0b, 0x02);
	set(&b, 0x0a, 0x26);
	/* The divider starts half a second before the update. */
	board_run(&b, 499 * NSEC_PER_MSEC);
	expect_time(&b, 0x23, 0x59, 0x58);
	board_run(&b, NSEC_PER_MSEC);
	expect_time(&b, 0x23, 0x59, 0x59);
	board_run(&b, NSEC_PER_SEC);
	expect_time(&b, 0, 0, 0);
	assert_int_equal(get(&b, 9), 0);
	assert_int_equal(get(&b, 0x32), 0x20);
	assert_int_equal(get(&b, 6), 7); /* Saturday, 1 January 2000 */
	/* Without stopping it. */
	set(&b, 2, 0x30);
	expect_time(&b, 0, 0x30, 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_update_in_progress(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	assert_int_equal(get(&b, 0x0a), 0x26);
	board_run(&b, 750 * NSEC_PER_MSEC - 200 * NSEC_PER_USEC);
	assert_int_equal(get(&b, 0x0a), 0xa6);
	set(&b, 0x0b, 0x82);
	assert_int_equal(get(&b, 0x0a), 0x26);
	set(&b, 0x0b, 0x02);
	assert_int_equal(get(&b, 0x0a), 0xa6);
	board_run(&b, 200 * NSEC_PER_USEC);
	assert_int_equal(get(&b, 0x0a), 0x26);
	assert_int_equal(get(&b, 0), 0x58);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_update_interrupt(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	set(&b, 0x0b, 0x12);
	board_run(&b, 749 * NSEC_PER_MSEC);
	assert_false(b.level[IRQ]);
	board_run(&b, NSEC_PER_MSEC);
	assert_true(b.level[IRQ]);
	assert_int_equal(get(&b, 0x0c) & 0xb0, 0x90);
	assert_false(b.level[IRQ]);
	assert_int_equal(get(&b, 0x0c), 0);
	board_run(&b, 10 * NSEC_PER_SEC);
	assert_int_equal(b.rises[IRQ], 2);
	/* Polled, with the interrupt off. */
	get(&b, 0x0c);
	set(&b, 0x0b, 0x02);
	assert_int_equal(get(&b, 0x0c) & 0x10, 0);
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(get(&b, 0x0c) & 0x90, 0x10);
	assert_int_equal(b.rises[IRQ], 2);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_alarm(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	/* 00:00:05, in 7.75 s. */
	set(&b, 1, 0x05);
	set(&b, 3, 0x00);
	set(&b, 5, 0x00);
	set(&b, 0x0b, 0x22);
	board_run(&b, 7749 * NSEC_PER_MSEC);
	assert_false(b.level[IRQ]);
	board_run(&b, NSEC_PER_MSEC);
	assert_true(b.level[IRQ]);
	assert_int_equal(get(&b, 0x0c) & 0xa0, 0xa0);
	/* The same tomorrow. */
	board_run(&b, 86399 * NSEC_PER_SEC);
	assert_false(b.level[IRQ]);
	board_run(&b, NSEC_PER_SEC);
	assert_true(b.level[IRQ]);
	get(&b, 0x0c);
	/* Any hour and minute: each minute at 30. */
	set(&b, 1, 0x30);
	set(&b, 3, 0xff);
	set(&b, 5, 0xc0);
	b.rises[IRQ] = 0;
	board_run(&b, 25 * NSEC_PER_SEC);
	assert_int_equal(b.rises[IRQ], 1);
	get(&b, 0x0c);
	board_run(&b, 60 * NSEC_PER_SEC);
	assert_int_equal(b.rises[IRQ], 2);
	get(&b, 0x0c);
	/* One that never comes. */
	set(&b, 1, 0x75);
	board_run(&b, 100000 * NSEC_PER_SEC);
	assert_int_equal(b.rises[IRQ], 2);
	/* Polled: passed unseen. */
	set(&b, 0x0b, 0x02);
	set(&b, 1, 0xff);
	get(&b, 0x0c);
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(get(&b, 0x0c) & 0xa0, 0x20);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_periodic(void **state)
{
	struct board b;
	struct device *dev;
	unsigned nr = 0;

	board_init(&b, 99);
	dev = make(&b);
	set(&b, 0x0b, 0x42); /* 1024 Hz */
	for (unsigned i = 0; i < 10000; i++) {
		board_run(&b, 100 * NSEC_PER_USEC);
		nr += get(&b, 0x0c) >> 7;
	}
	assert_in_range(nr, 1023, 1025);
	set(&b, 0x0a, 0x2f); /* 2 Hz */
	b.rises[IRQ] = 0;
	for (unsigned i = 0; i < 100; i++) {
		board_run(&b, 100 * NSEC_PER_MSEC);
		get(&b, 0x0c);
	}
	assert_in_range(b.rises[IRQ], 19, 21);
	set(&b, 0x0a, 0x20);
	b.rises[IRQ] = 0;
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(b.rises[IRQ], 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_memory(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	assert_int_equal(get(&b, 0x15) | get(&b, 0x16) << 8, 640);
	assert_int_equal(get(&b, 0x17) | get(&b, 0x18) << 8, 0xffff);
	assert_int_equal(get(&b, 0x34) | get(&b, 0x35) << 8,
			 (3 * GiB - 16 * MiB) / (64 * KiB));
	assert_int_equal(get(&b, 0x5b) | get(&b, 0x5c) << 8 |
				 get(&b, 0x5d) << 16,
			 5 * GiB / (64 * KiB));
	assert_int_equal(get(&b, 0x5f), 3);
	/* Bit 7 of the index masks NMI; memory keeps what is written. */
	set(&b, 0x40 | 0x80, 0xa5);
	assert_int_equal(get(&b, 0x40), 0xa5);
	rtc_set_cmos(dev, 0x3d, 0x23);
	assert_int_equal(get(&b, 0x3d), 0x23);
	dev->cls->reset(dev);
	assert_int_equal(get(&b, 0x40), 0xa5);
	expect_time(&b, 0x23, 0x59, 0x57);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void rtc_moves_with_alarm(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 99);
	board_init(&b, 1LL << 50);
	from = make(&a);
	to = make(&b);
	board_run(&a, 1750 * NSEC_PER_MSEC);
	set(&a, 2, 0x10); /* no longer what the host says */
	set(&a, 1, 0xff);
	set(&a, 3, 0x12);
	set(&a, 5, 0xff);
	set(&a, 0x0b, 0x62);
	set(&a, 0x0a, 0x2e);
	board_run(&a, NSEC_PER_SEC);
	get(&a, 0x0c);
	board_out(&a, 0x70, 1, 0x0c);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_int_equal(board_in(&b, 0x71, 1), 0);
	expect_time(&b, 0x23, 0x11, 0);
	board_run(&b, 250 * NSEC_PER_MSEC);
	assert_int_equal(get(&b, 0x0c) & 0xe0, 0xc0);
	board_run(&b, 59 * NSEC_PER_SEC);
	get(&b, 0x0c);
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(get(&b, 0x0c) & 0xa0, 0xa0);
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void rtc_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 99);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	/* Every combination of nonsense as the time. */
	for (unsigned i = 0; i < 65536; i++) {
		set(&b, 0x0b, i & 0x86);
		set(&b, i % 10, (i * 37) >> 4);
		set(&b, 0x32, i >> 8);
		get(&b, i % 14);
	}
	set(&b, 0x0b, 0x72);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f12_rtc_time_and_formats),
		cmocka_unit_test(rtc_is_set),
		cmocka_unit_test(rtc_update_in_progress),
		cmocka_unit_test(rtc_update_interrupt),
		cmocka_unit_test(rtc_alarm),
		cmocka_unit_test(rtc_periodic),
		cmocka_unit_test(rtc_memory),
		cmocka_unit_test(rtc_moves_with_alarm),
		cmocka_unit_test(rtc_survives),
	};

	return cmocka_run_group_tests_name("rtc", tests, NULL, NULL);
}
