#include "chip_test.h"

#include "bus/pci.h"
#include "device/chip/pm.h"

#define SCI 9

static const struct board_range ranges[] = { { false, PM_BASE, PM_SIZE },
					     { false, PM_BASE, 0x40 },
					     { false, PM_SMI_CMD, 2 },
					     { false, PM_RESET_PORT, 1 },
					     { 0 } };

static struct device *make(struct board *b)
{
	const struct pm_opts opts = { .sci = board_line(b, SCI) };
	struct device *dev;

	assert_int_equal(pm_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static uint32_t in(struct board *b, unsigned reg, unsigned size)
{
	return (uint32_t)board_in(b, PM_BASE + reg, size);
}

static void out(struct board *b, unsigned reg, unsigned size, uint32_t value)
{
	board_out(b, PM_BASE + reg, size, value);
}

static void f12_pm_timer(void **state)
{
	struct board b;
	struct device *dev;
	uint32_t first, second;

	board_init(&b, 42);
	dev = make(&b);
	first = in(&b, PM_TIMER, 4);
	board_run(&b, NSEC_PER_SEC);
	second = in(&b, PM_TIMER, 4);
	assert_int_equal(second - first, PM_TIMER_HZ);
	assert_int_equal(in(&b, PM_TIMER, 2), second & 0xffff);
	assert_int_equal(in(&b, PM_TIMER + 2, 1), second >> 16);
	/* The top bit changes every 2.34 s; polled, then interrupting. */
	assert_int_equal(in(&b, PM_EVENT, 2) & 1, 0);
	board_run(&b, 2 * NSEC_PER_SEC);
	assert_int_equal(in(&b, PM_EVENT, 2) & 1, 1);
	out(&b, PM_EVENT, 2, 1);
	assert_int_equal(in(&b, PM_EVENT, 2) & 1, 0);
	out(&b, PM_EVENT + 2, 2, 1);
	assert_false(b.level[SCI]);
	board_run(&b, 1680 * NSEC_PER_MSEC);
	assert_false(b.level[SCI]);
	board_run(&b, 10 * NSEC_PER_MSEC);
	assert_true(b.level[SCI]);
	assert_int_equal(in(&b, PM_TIMER, 4) >> 23, 0); /* wrapped */
	out(&b, PM_EVENT, 2, 1);
	assert_false(b.level[SCI]);
	board_run(&b, 2400 * NSEC_PER_MSEC);
	assert_int_equal(b.rises[SCI], 2);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void f12_pm_power_button(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 42);
	dev = make(&b);
	board_out(&b, PM_SMI_CMD, 1, PM_ACPI_ENABLE);
	assert_int_equal(in(&b, PM_CONTROL, 2), 1);
	out(&b, PM_EVENT + 2, 2, 0x100);
	pm_powerbutton(dev);
	assert_true(b.level[SCI]);
	assert_int_equal(in(&b, PM_EVENT, 4), 0x01000100);
	out(&b, PM_EVENT, 2, 0x100);
	assert_false(b.level[SCI]);
	/* Pressed before anyone cared. */
	out(&b, PM_EVENT + 2, 2, 0);
	pm_powerbutton(dev);
	assert_false(b.level[SCI]);
	out(&b, PM_EVENT + 3, 1, 1); /* by bytes */
	assert_true(b.level[SCI]);
	out(&b, PM_EVENT + 1, 1, 1);
	assert_false(b.level[SCI]);
	board_out(&b, PM_SMI_CMD, 1, PM_ACPI_DISABLE);
	assert_int_equal(in(&b, PM_CONTROL, 2), 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void f12_pm_power_off_and_reset(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 42);
	dev = make(&b);
	out(&b, PM_CONTROL, 2, 5 << 10 | 1 << 13); /* no such sleep */
	out(&b, PM_CONTROL, 2, 0);
	assert_int_equal(b.nr_events, 0);
	out(&b, PM_CONTROL, 2, PM_SLP_TYP_S5 << 10 | 1 << 13);
	assert_int_equal(b.nr_events, 1);
	assert_int_equal(b.event, MACHINE_POWEROFF);
	assert_int_equal(in(&b, PM_CONTROL, 2), 0);
	out(&b, PM_CONTROL + 1, 1, 0x3c); /* ICH9's S5, by byte */
	assert_int_equal(b.nr_events, 2);
	board_out(&b, PM_RESET_PORT, 1, 0x02);
	assert_int_equal(b.nr_events, 2);
	assert_int_equal(board_in(&b, PM_RESET_PORT, 1), 0x02);
	board_out(&b, PM_RESET_PORT, 1, PM_RESET_VALUE);
	assert_int_equal(b.nr_events, 3);
	assert_int_equal(b.event, MACHINE_RESET);
	board_out(&b, PM_RESET_PORT, 1, 0x0e);
	assert_int_equal(b.nr_events, 4);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pm_general_purpose_events(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 42);
	dev = make(&b);
	pm_raise_gpe(dev, 13);
	assert_int_equal(in(&b, PM_GPE0 + 1, 1), 0x20);
	assert_false(b.level[SCI]);
	out(&b, PM_GPE0 + 9, 1, 0x20);
	assert_true(b.level[SCI]);
	assert_int_equal(in(&b, PM_GPE0 + 8, 4), 0x2000);
	out(&b, PM_GPE0, 4, 0xffffdfff);
	assert_true(b.level[SCI]);
	out(&b, PM_GPE0 + 1, 1, 0x20);
	assert_false(b.level[SCI]);
	out(&b, 0x30, 4, 0x12345678);
	assert_int_equal(in(&b, 0x30, 4), 0x12345678);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void pm_moves_with_event_pending(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 42);
	board_init(&b, 1LL << 40);
	from = make(&a);
	to = make(&b);
	board_out(&a, PM_SMI_CMD, 1, PM_ACPI_ENABLE);
	out(&a, PM_EVENT + 2, 2, 0x101);
	pm_powerbutton(from);
	board_run(&a, 2 * NSEC_PER_SEC);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_true(b.level[SCI]);
	assert_int_equal(in(&b, PM_EVENT, 2), 0x100);
	assert_int_equal(in(&b, PM_TIMER, 4), 2 * PM_TIMER_HZ);
	assert_int_equal(in(&b, PM_CONTROL, 2), 1);
	out(&b, PM_EVENT, 2, 0x100);
	assert_false(b.level[SCI]);
	board_run(&b, NSEC_PER_SEC);
	assert_true(b.level[SCI]);
	assert_int_equal(in(&b, PM_EVENT, 2), 1);
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void pm_borrows_the_reset_port_of_pci(void **state)
{
	struct board b;
	struct device *dev;
	struct pci_host host;

	board_init(&b, 42);
	host = (struct pci_host){ .pio = b.pio,
				  .mmio = b.mmio,
				  .dma = &b.dma,
				  .irqchip = &b.irqchip,
				  .ecam_base = 0xb0000000,
				  .nr_buses = 1 };
	assert_int_equal(pci_host_create(&b.env.pci, &host, NULL), 0);
	dev = make(&b);
	board_out(&b, 0xcf8, 4, 0x80000600);
	assert_int_equal(b.nr_events, 0);
	board_out(&b, PM_RESET_PORT, 1, 0x06);
	assert_int_equal(b.nr_events, 1);
	assert_int_equal(b.event, MACHINE_RESET);
	assert_int_equal(board_in(&b, 0xcf8, 4), 0x80000600);
	assert_int_equal(board_in(&b, PM_RESET_PORT, 1), 0x02);
	dev->cls->destroy(dev);
	board_out(&b, PM_RESET_PORT, 1, 0x06);
	assert_int_equal(b.nr_events, 1);
	pci_host_destroy(b.env.pci);
	board_finish(&b);
}

static void pm_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 42);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	out(&b, PM_EVENT + 2, 2, 0x101);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(f12_pm_timer),
		cmocka_unit_test(f12_pm_power_button),
		cmocka_unit_test(f12_pm_power_off_and_reset),
		cmocka_unit_test(pm_general_purpose_events),
		cmocka_unit_test(pm_moves_with_event_pending),
		cmocka_unit_test(pm_borrows_the_reset_port_of_pci),
		cmocka_unit_test(pm_survives),
	};

	return cmocka_run_group_tests_name("pm", tests, NULL, NULL);
}
