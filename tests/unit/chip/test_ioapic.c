#include "chip_test.h"

#include "device/chip/ioapic.h"

static const struct board_range ranges[] = { { true, IOAPIC_BASE, 0x1000 },
					     { true, IOAPIC_BASE, 0x50 },
					     { 0 } };

static void send(void *opaque, const struct msi_msg *msg)
{
	struct board *b = opaque;

	b->nr_msi++;
	b->msi = *msg;
}

static struct device *make(struct board *b)
{
	const struct ioapic_opts opts = {
		.base = IOAPIC_BASE, .id = 5, .send = send, .opaque = b
	};
	struct device *dev;

	assert_int_equal(ioapic_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static uint32_t get(struct board *b, uint8_t index)
{
	bus_write(b->mmio, 0, IOAPIC_BASE, 4, index);
	return (uint32_t)bus_read(b->mmio, 0, IOAPIC_BASE + 0x10, 4);
}

static void set(struct board *b, uint8_t index, uint32_t value)
{
	bus_write(b->mmio, 0, IOAPIC_BASE, 4, index);
	bus_write(b->mmio, 0, IOAPIC_BASE + 0x10, 4, value);
}

static void set_pin(struct board *b, unsigned n, uint64_t entry)
{
	set(b, 0x11 + 2 * n, entry >> 32);
	set(b, 0x10 + 2 * n, (uint32_t)entry);
}

static void c14_ioapic_registers(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	assert_int_equal(get(&b, 0), 5 << 24);
	assert_int_equal(get(&b, 1), 0x170020);
	set(&b, 0, 0x0a000000);
	assert_int_equal(get(&b, 0), 0x0a000000);
	assert_int_equal(get(&b, 2), 0x0a000000);
	for (unsigned n = 0; n < IOAPIC_NR_PINS; n++)
		assert_int_equal(get(&b, 0x10 + 2 * n), 0x10000);
	/* Delivery status and remote IRR are not the guest's. */
	set_pin(&b, 3, UINT64_MAX);
	assert_int_equal(get(&b, 0x16), 0x1afff);
	assert_int_equal(get(&b, 0x17), 0xfffe0000);
	assert_int_equal(get(&b, 0x40), 0);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_ioapic_edge_and_masked(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	set_pin(&b, 4, 0x0300000000000831);
	ioapic_set_pin(dev, 4, true);
	assert_int_equal(b.nr_msi, 1);
	assert_int_equal(b.msi.addr, 0xfee03004);
	assert_int_equal(b.msi.data, 0x4031);
	ioapic_set_pin(dev, 4, true);
	ioapic_set_pin(dev, 4, false);
	assert_int_equal(b.nr_msi, 1);
	ioapic_set_pin(dev, 4, true);
	assert_int_equal(b.nr_msi, 2);
	/* An edge on a masked pin is lost. */
	ioapic_set_pin(dev, 4, false);
	set_pin(&b, 4, 0x0300000000010831);
	ioapic_set_pin(dev, 4, true);
	set_pin(&b, 4, 0x0300000000000831);
	assert_int_equal(b.nr_msi, 2);
	/* A wide destination. */
	set_pin(&b, 5, 0x0106000000000042);
	ioapic_set_pin(dev, 5, true);
	assert_int_equal(b.msi.addr, 0xfee01000 | 3 << 5);
	ioapic_set_pin(dev, 24, true);
	ioapic_set_pin(dev, UINT32_MAX, true);
	assert_int_equal(b.nr_msi, 3);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_ioapic_level_and_eoi(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	/* A masked level waits. */
	set_pin(&b, 17, 0x18055);
	ioapic_set_pin(dev, 17, true);
	assert_int_equal(b.nr_msi, 0);
	set_pin(&b, 17, 0x8055);
	assert_int_equal(b.nr_msi, 1);
	assert_int_equal(b.msi.data, 0xc055);
	assert_int_equal(get(&b, 0x32), 0xc055); /* remote IRR */
	/* Until the EOI nothing comes, whatever the line does. */
	ioapic_set_pin(dev, 17, false);
	ioapic_set_pin(dev, 17, true);
	assert_int_equal(b.nr_msi, 1);
	ioapic_eoi(dev, 0x54);
	assert_int_equal(b.nr_msi, 1);
	ioapic_eoi(dev, 0x55);
	assert_int_equal(b.nr_msi, 2);
	ioapic_set_pin(dev, 17, false);
	/* The EOI register does the same. */
	bus_write(b.mmio, 0, IOAPIC_BASE + 0x40, 4, 0x55);
	assert_int_equal(b.nr_msi, 2);
	assert_int_equal(get(&b, 0x32), 0x8055);
	/* EOI while masked: no new one, but remote IRR goes. */
	ioapic_set_pin(dev, 17, true);
	assert_int_equal(b.nr_msi, 3);
	set(&b, 0x32, 0x18055);
	ioapic_eoi(dev, 0x55);
	assert_int_equal(b.nr_msi, 3);
	assert_int_equal(get(&b, 0x32), 0x18055);
	set(&b, 0x32, 0x8055);
	assert_int_equal(b.nr_msi, 4);
	/* To edge and back: Linux's way to forget a remote IRR. */
	set(&b, 0x32, 0x10055);
	assert_int_equal(get(&b, 0x32), 0x10055);
	set(&b, 0x32, 0x8055);
	assert_int_equal(b.nr_msi, 5);
	/* Two pins of one vector end together. */
	set_pin(&b, 18, 0x8055);
	ioapic_set_pin(dev, 18, true);
	assert_int_equal(b.nr_msi, 6);
	ioapic_eoi(dev, 0x55);
	assert_int_equal(b.nr_msi, 8);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void c14_ioapic_moves_with_level_pending(void **state)
{
	struct board a, b;
	struct device *from, *to;

	board_init(&a, 0);
	board_init(&b, 0);
	from = make(&a);
	to = make(&b);
	set_pin(&a, 20, 0x8060);
	set_pin(&a, 6, 0x61);
	ioapic_set_pin(from, 20, true);
	ioapic_set_pin(from, 6, true);
	bus_write(a.mmio, 0, IOAPIC_BASE, 4, 0x10 + 2 * 20);
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_int_equal(bus_read(b.mmio, 0, IOAPIC_BASE + 0x10, 4), 0xc060);
	/* A device that drives its wire again does nothing new. */
	ioapic_set_pin(to, 6, true);
	ioapic_set_pin(to, 20, true);
	assert_int_equal(b.nr_msi, 0);
	ioapic_eoi(to, 0x60);
	assert_int_equal(b.nr_msi, 1);
	from->cls->destroy(from);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void ioapic_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	for (unsigned i = 0; i < 20000; i++) {
		set(&b, i * 7, i * 2654435761u);
		ioapic_set_pin(dev, i * 5 % 26, i % 3);
		ioapic_eoi(dev, (uint8_t)i);
	}
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(c14_ioapic_registers),
		cmocka_unit_test(c14_ioapic_edge_and_masked),
		cmocka_unit_test(c14_ioapic_level_and_eoi),
		cmocka_unit_test(c14_ioapic_moves_with_level_pending),
		cmocka_unit_test(ioapic_survives),
	};

	return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
