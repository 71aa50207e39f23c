#include "pci_fixture.h"

#define CMD_ON (PCI_COMMAND_IO | PCI_COMMAND_MEMORY)

static int setup(void **state)
{
	static struct world w;

	world_init(&w);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	world_finish(*state);
	return 0;
}

static uint32_t rd(struct world *w, uint16_t bdf, unsigned offset,
		   unsigned size)
{
	return pci_config_read(w->root, bdf, offset, size);
}

static void wr(struct world *w, uint16_t bdf, unsigned offset, unsigned size,
	       uint32_t value)
{
	pci_config_write(w->root, bdf, offset, size, value);
}

static void identity_and_capabilities(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);
	unsigned at;

	assert_true(pci_ext_cap_add(&f->pci, 0x0b, 1, 8) == 0x100);
	assert_true(pci_ext_cap_add(&f->pci, 0x03, 1, 12) == 0x108);
	assert_int_equal(pci_dev_add(&f->pci, w->root, 3, 0), 0);
	assert_int_equal(rd(w, 3 << 3, 0, 4), 0x10611af4);
	assert_int_equal(rd(w, 3 << 3, 8, 4), 0x02000001);
	assert_int_equal(rd(w, 3 << 3, 0x2c, 4), 0x11001af4);
	assert_int_equal(rd(w, 3 << 3, PCI_INTERRUPT_PIN, 1), 1);
	assert_int_equal(rd(w, 3 << 3, PCI_STATUS, 2), PCI_STATUS_CAP_LIST);
	at = rd(w, 3 << 3, PCI_CAPABILITY_LIST, 1);
	assert_int_equal(rd(w, 3 << 3, at, 2), PCI_CAP_ID_EXP);
	/* On the root bus an endpoint is integrated. */
	assert_int_equal(rd(w, 3 << 3, at + 2, 2), 0x92);
	assert_int_equal(rd(w, 3 << 3, 0x100, 4), 0x1081000b);
	assert_int_equal(rd(w, 3 << 3, 0x108, 4), 0x00010003);
	/* Nobody there. */
	assert_int_equal(rd(w, 4 << 3, 0, 4), 0xffffffff);
	assert_int_equal(rd(w, 0x500, 0, 2), 0xffff);
	wr(w, 4 << 3, 4, 2, 7);
	/* Beyond the space of a function. */
	assert_int_equal(rd(w, 3 << 3, 4094, 4), 0xffffffff);
	/* Read-only bytes stay. */
	wr(w, 3 << 3, 0, 4, 0);
	assert_int_equal(rd(w, 3 << 3, 0, 2), 0x1af4);
	assert_int_equal(f->nr_config, 1);
	fn_free(f);
}

static void capabilities_fill_the_space(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);
	unsigned n = 0, seen = 0;

	while (pci_cap_add(&f->pci, PCI_CAP_ID_VNDR, 16) > 0)
		n++;
	assert_int_equal(n, (256 - 0x40 - 0x3c) / 16);
	for (unsigned at = f->pci.config[PCI_CAPABILITY_LIST]; at;
	     at = f->pci.config[at + 1])
		seen++;
	assert_int_equal(seen, n + 1);
	assert_int_equal(pci_ext_cap_add(&f->pci, 1, 1, 0xf04), -ENOSPC);
	assert_int_equal(pci_dev_add(&f->pci, w->root, -1, 0), 0);
	fn_free(f);
}

static void bar_sizing(void **state)
{
	static const struct {
		unsigned n;
		uint64_t size;
		bool is_io, is_64;
		uint32_t low, high;
	} bars[] = {
		{ 0, 0x1000, false, false, 0xfffff000, 0 },
		{ 1, 0x20, true, false, 0xffffffe1, 0 },
		{ 2, 0x4000, false, true, 0xffffc00c, 0xffffffff },
		{ 4, 8 * GiB, false, true, 0x0000000c, 0xfffffffe },
	};
	struct world *w = *state;
	struct fn *f = fn_new('a', false);

	for (size_t i = 0; i < ARRAY_SIZE(bars); i++)
		fn_bar(f, bars[i].n, bars[i].size, bars[i].is_io,
		       bars[i].is_64);
	pci_dev_add(&f->pci, w->root, 1, 0);
	/* With decoding on, as careless guests do: nothing stays mapped. */
	wr(w, 8, PCI_COMMAND, 2, CMD_ON);
	for (size_t i = 0; i < ARRAY_SIZE(bars); i++) {
		unsigned at = PCI_BASE_ADDRESS_0 + 4 * bars[i].n;

		wr(w, 8, at, 4, 0xffffffff);
		assert_int_equal(rd(w, 8, at, 4), bars[i].low);
		if (bars[i].is_64) {
			wr(w, 8, at + 4, 4, 0xffffffff);
			assert_int_equal(rd(w, 8, at + 4, 4), bars[i].high);
		}
	}
	for (unsigned i = 0; i < PCI_NR_BARS; i++)
		assert_false(f->pci.bar[i].is_mapped);
	fn_free(f);
}

static void bars_follow_registers(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);

	fn_bar(f, 0, 0x1000, false, false);
	fn_bar(f, 1, 0x20, true, false);
	fn_bar(f, 2, 0x1000, false, true);
	pci_dev_add(&f->pci, w->root, 1, 0);
	wr(w, 8, 0x10, 4, 0xfe000000);
	wr(w, 8, 0x14, 4, 0xc000);
	wr(w, 8, 0x18, 4, 0);
	wr(w, 8, 0x1c, 4, 0x40);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe000000, 1), 0xff);
	wr(w, 8, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe000000, 1), 'a');
	assert_int_equal(bus_read(w->mmio, 0, 0x4000000000, 1), 'a');
	assert_int_equal(bus_read(w->pio, 0, 0xc000, 1), 0xff);
	wr(w, 8, PCI_COMMAND, 2, CMD_ON);
	assert_int_equal(bus_read(w->pio, 0, 0xc01f, 1), 'a');
	assert_int_equal(f->nr_moved, 3);
	assert_true(f->pci.bar[2].is_mapped);
	assert_int_equal(f->pci.bar[2].addr, 0x4000000000);

	/* Moved, with decoding on. */
	wr(w, 8, 0x10, 4, 0xfe100000);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe000000, 1), 0xff);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe100000, 1), 'a');
	assert_int_equal(f->nr_moved, 5);
	/* Over RAM, and at 0: nowhere. */
	wr(w, 8, 0x10, 4, 8 * MiB);
	assert_false(bus_is_mapped(w->mmio, 8 * MiB));
	wr(w, 8, 0x10, 4, 0);
	assert_false(bus_is_mapped(w->mmio, 0));
	/* Over the ECAM. */
	wr(w, 8, 0x10, 4, ECAM);
	assert_false(f->pci.bar[0].is_mapped);
	assert_int_equal(bus_read(w->mmio, 0, ECAM + (1 << 15), 2), 0x1af4);
	wr(w, 8, 0x10, 4, 0xfe000000);
	assert_true(f->pci.bar[0].is_mapped);

	pci_dev_reset(&f->pci);
	assert_int_equal(rd(w, 8, PCI_COMMAND, 2), 0);
	assert_int_equal(rd(w, 8, 0x10, 4), 0);
	assert_int_equal(rd(w, 8, 0x14, 4), 1);
	assert_false(bus_is_mapped(w->mmio, 0xfe000000));
	assert_false(bus_is_mapped(w->pio, 0xc000));
	fn_free(f);
}

static void second_bar_waits_for_the_first(void **state)
{
	struct world *w = *state;
	struct fn *a = fn_new('a', false), *b = fn_new('b', false);

	fn_bar(a, 0, 0x2000, false, false);
	fn_bar(b, 0, 0x1000, false, false);
	pci_dev_add(&a->pci, w->root, 1, 0);
	pci_dev_add(&b->pci, w->root, 2, 0);
	wr(w, 8, 0x10, 4, 0xfe000000);
	wr(w, 8, PCI_COMMAND, 2, CMD_ON);
	wr(w, 16, 0x10, 4, 0xfe001000);
	wr(w, 16, PCI_COMMAND, 2, CMD_ON);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe001000, 1), 'a');
	assert_false(b->pci.bar[0].is_mapped);
	wr(w, 8, 0x10, 4, 0xfe010000);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe001000, 1), 'b');
	/* Removal makes room too. */
	wr(w, 16, 0x10, 4, 0xfe010000);
	assert_false(b->pci.bar[0].is_mapped);
	fn_free(a);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe010000, 1), 'b');
	fn_free(b);
	assert_false(bus_is_mapped(w->mmio, 0xfe010000));
}

static void slots(void **state)
{
	struct world *w = *state;
	struct fn *a = fn_new('a', false), *b = fn_new('b', false);
	struct fn *c = fn_new('c', false), *p = fn_new('p', true);
	struct fn *d = fn_new('d', false), *e = fn_new('e', false);

	assert_int_equal(pci_dev_add(&a->pci, w->root, 0, 0), 0);
	assert_int_equal(pci_dev_add(&b->pci, w->root, 0, 0), -EEXIST);
	assert_int_equal(pci_dev_add(&b->pci, w->root, 32, 0), -ENOSPC);
	assert_int_equal(pci_dev_add(&b->pci, w->root, -1, 0), 0);
	assert_int_equal(b->pci.devfn, PCI_DEVFN(1, 0));
	assert_int_equal(rd(w, 8, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(pci_dev_add(&c->pci, w->root, 1, 2), 0);
	assert_int_equal(rd(w, 8, PCI_HEADER_TYPE, 1), 0x80);
	assert_int_equal(pci_dev_add(&p->pci, w->root, -1, 0), 0);
	assert_int_equal(p->pci.devfn, PCI_DEVFN(2, 0));
	assert_int_equal(pci_dev_add(&d->pci, p->pci.secondary, -1, 0), 0);
	assert_int_equal(pci_dev_add(&e->pci, p->pci.secondary, -1, 0),
			 -ENOSPC);
	assert_int_equal(pci_dev_add(&e->pci, p->pci.secondary, 1, 0), -ENOSPC);
	fn_free(e);
	fn_free(d);
	fn_free(p);
	fn_free(c);
	fn_free(b);
	fn_free(a);
}

static void cf8(struct world *w, uint16_t bdf, unsigned offset)
{
	bus_write(w->pio, 0, 0xcf8, 4, BIT(31) | bdf << 8 | (offset & 0xfc));
}

static void ports_and_ecam_are_one(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);
	uint64_t base = ECAM + (8 << 12);

	fn_bar(f, 0, 0x1000, false, true);
	pci_dev_add(&f->pci, w->root, 1, 0);
	for (unsigned size = 1; size <= 4; size *= 2) {
		for (unsigned at = 0; at < 256; at += size) {
			cf8(w, 8, at);
			assert_int_equal(
				bus_read(w->pio, 0, 0xcfc + at % 4, size),
				bus_read(w->mmio, 0, base + at, size));
			assert_int_equal(bus_read(w->mmio, 0, base + at, size),
					 rd(w, 8, at, size));
		}
	}
	cf8(w, 8, PCI_INTERRUPT_LINE);
	bus_write(w->pio, 0, 0xcfc, 1, 0x5a);
	assert_int_equal(bus_read(w->mmio, 0, base + 0x3c, 1), 0x5a);
	bus_write(w->mmio, 0, base + 0x3c, 1, 0xa5);
	assert_int_equal(bus_read(w->pio, 0, 0xcfc, 1), 0xa5);
	cf8(w, 8, 0x10);
	bus_write(w->pio, 0, 0xcfe, 2, 0xfe12);
	assert_int_equal(rd(w, 8, 0x10, 4), 0xfe12000c);
	/* 8 bytes by ECAM are two registers. */
	bus_write(w->mmio, 0, base + 0x10, 8, 0x1fe340000);
	assert_int_equal(bus_read(w->mmio, 0, base + 0x10, 8), 0x1fe34000c);
	/* Address register: its enable bit, its reserved bits, its width. */
	bus_write(w->pio, 0, 0xcf8, 4, 0xffffffff);
	assert_int_equal(bus_read(w->pio, 0, 0xcf8, 4), 0x80fffffc);
	bus_write(w->pio, 0, 0xcf8, 4, 8 << 8);
	assert_int_equal(bus_read(w->pio, 0, 0xcfc, 4), 0xffffffff);
	bus_write(w->pio, 0, 0xcf8, 2, 0x1234);
	assert_int_equal(bus_read(w->pio, 0, 0xcf8, 4), 8 << 8);
	/* The last byte, and an access across functions. */
	assert_int_equal(bus_read(w->mmio, 0, base + 0xfff, 1), 0);
	assert_int_equal(bus_read(w->mmio, 0, base + 0xffe, 4), 0xffffffff);
	fn_free(f);
}

static uint8_t reset_value;

static uint8_t reset_read(void *opaque)
{
	return reset_value;
}

static void reset_write(void *opaque, uint8_t value)
{
	reset_value = value;
}

static void reset_port_amid_the_address(void **state)
{
	struct world *w = *state;

	assert_int_equal(bus_read(w->pio, 0, 0xcf9, 1), 0xff);
	bus_write(w->pio, 0, 0xcf9, 1, 6);
	pci_host_set_reset_port(w->root, reset_read, reset_write, NULL);
	cf8(w, 8, 0x10);
	bus_write(w->pio, 0, 0xcf9, 1, 6);
	assert_int_equal(reset_value, 6);
	assert_int_equal(bus_read(w->pio, 0, 0xcf9, 1), 6);
	assert_int_equal(bus_read(w->pio, 0, 0xcf8, 4), 0x80000810);
	bus_write(w->pio, 0, 0xcf8, 1, 9);
	bus_write(w->pio, 0, 0xcfa, 2, 9);
	assert_int_equal(reset_value, 6);
}

static void status_bits_clear_by_one(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);

	pci_dev_add(&f->pci, w->root, 1, 0);
	store_le16(&f->pci.config[PCI_STATUS],
		   PCI_STATUS_CAP_LIST | PCI_STATUS_REC_MASTER_ABORT |
			   PCI_STATUS_SIG_SYSTEM_ERROR);
	wr(w, 8, PCI_STATUS, 2, PCI_STATUS_REC_MASTER_ABORT);
	assert_int_equal(rd(w, 8, PCI_STATUS, 2),
			 PCI_STATUS_CAP_LIST | PCI_STATUS_SIG_SYSTEM_ERROR);
	assert_false(pci_is_bus_master(&f->pci));
	wr(w, 8, PCI_COMMAND, 2, 0xffff);
	assert_int_equal(rd(w, 8, PCI_COMMAND, 2), 0x547);
	assert_true(pci_is_bus_master(&f->pci));
	fn_free(f);
}

static void bridge_passes_what_its_registers_say(void **state)
{
	struct world *w = *state;
	struct fn *p = fn_new('p', true), *f = fn_new('a', false);

	fn_bar(f, 0, 0x1000, false, false);
	fn_bar(f, 1, 0x20, true, false);
	fn_bar(f, 2, 0x1000, false, true);
	pci_dev_add(&p->pci, w->root, 2, 0);
	pci_dev_add(&f->pci, p->pci.secondary, 0, 0);
	assert_int_equal(rd(w, 16, PCI_HEADER_TYPE, 1), 1);
	assert_int_equal(rd(w, 0x300, 0, 2), 0xffff);
	wr(w, 16, PCI_PRIMARY_BUS, 4, 0x00050300);
	assert_int_equal(rd(w, 0x300, 0, 2), 0x1af4);
	assert_int_equal(rd(w, 0x400, 0, 2), 0xffff);
	assert_int_equal(rd(w, 0x301, 0, 2), 0xffff);

	wr(w, 0x300, 0x10, 4, 0xfe000000);
	wr(w, 0x300, 0x14, 4, 0xc000);
	wr(w, 0x300, 0x1c, 4, 0x40);
	wr(w, 0x300, PCI_COMMAND, 2, CMD_ON);
	assert_false(bus_is_mapped(w->mmio, 0xfe000000));
	wr(w, 16, PCI_COMMAND, 2, CMD_ON);
	assert_false(bus_is_mapped(w->mmio, 0xfe000000));
	wr(w, 16, PCI_MEMORY_BASE, 4, 0xfe00fe00);
	assert_int_equal(bus_read(w->mmio, 0, 0xfe000000, 1), 'a');
	wr(w, 16, PCI_IO_BASE, 2, 0xc0c0);
	assert_int_equal(bus_read(w->pio, 0, 0xc000, 1), 'a');
	wr(w, 16, PCI_PREF_MEMORY_BASE, 4, 0);
	wr(w, 16, PCI_PREF_BASE_UPPER32, 4, 0x40);
	wr(w, 16, PCI_PREF_LIMIT_UPPER32, 4, 0x40);
	assert_int_equal(bus_read(w->mmio, 0, 0x4000000000, 1), 'a');

	/* Outside the window, and with the bridge closed. */
	wr(w, 0x300, 0x10, 4, 0xfe100000);
	assert_false(bus_is_mapped(w->mmio, 0xfe100000));
	wr(w, 0x300, 0x10, 4, 0xfe000000);
	assert_true(bus_is_mapped(w->mmio, 0xfe000000));
	wr(w, 16, PCI_COMMAND, 2, 0);
	assert_false(bus_is_mapped(w->mmio, 0xfe000000));
	assert_false(bus_is_mapped(w->pio, 0xc000));
	/* Bus numbers that make no sense lead nowhere. */
	wr(w, 16, PCI_PRIMARY_BUS, 4, 0x00000000);
	assert_int_equal(rd(w, 0x300, 0, 2), 0xffff);
	wr(w, 16, PCI_PRIMARY_BUS, 4, 0x00ff0100);
	assert_int_equal(rd(w, 0x100, 0, 2), 0x1af4);
	assert_int_equal(rd(w, 0xff00, 0, 2), 0xffff);
	fn_free(f);
	fn_free(p);
}

static void intx_is_swizzled_and_shared(void **state)
{
	struct world *w = *state;
	struct fn *p = fn_new('p', true), *f = fn_new('a', false);
	struct fn *g = fn_new('b', false);

	pci_dev_add(&p->pci, w->root, 2, 0);
	pci_dev_add(&f->pci, p->pci.secondary, 0, 0);
	pci_dev_add(&g->pci, w->root, 6, 0); /* 6 % 4 = 2, as the bridge */
	pci_intx_set(&f->pci, true);
	assert_true(w->chip.gsi[18]);
	pci_intx_set(&g->pci, true);
	pci_intx_set(&f->pci, false);
	assert_true(w->chip.gsi[18]);
	pci_intx_set(&g->pci, false);
	assert_false(w->chip.gsi[18]);
	/* Other pins turn with it. */
	g->pci.config[PCI_INTERRUPT_PIN] = 4;
	pci_intx_set(&g->pci, true);
	assert_true(w->chip.gsi[17]);
	assert_int_equal(g->pci.nr_intx, 2);

	/* The guest's mask, and what status says meanwhile. */
	assert_int_equal(rd(w, 6 << 3, PCI_STATUS, 1), 0x18);
	assert_int_equal(rd(w, 6 << 3, PCI_COMMAND, 4), 0x00180000);
	wr(w, 6 << 3, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_false(w->chip.gsi[17]);
	assert_int_equal(rd(w, 6 << 3, PCI_STATUS, 1), 0x18);
	pci_intx_set(&g->pci, false);
	pci_intx_set(&g->pci, true);
	assert_false(w->chip.gsi[17]);
	wr(w, 6 << 3, PCI_COMMAND, 2, 0);
	assert_true(w->chip.gsi[17]);
	/* Gone with the device. */
	fn_free(g);
	assert_false(w->chip.gsi[17]);
	fn_free(f);
	fn_free(p);
}

static const struct pci_windows windows = {
	.mmio32 = 0xc0000000,
	.mmio32_size = 0x20000000,
	.mmio64 = 0x4000000000,
	.mmio64_size = 0x1000000000,
	.pio = 0xc000,
	.pio_size = 0x3000,
};

struct seen {
	unsigned n;
	uint16_t bdf[16];
};

static void see(void *opaque, struct pci_dev *dev, uint16_t bdf)
{
	struct seen *s = opaque;

	s->bdf[s->n++] = bdf;
	for (unsigned i = 0; i < PCI_NR_BARS; i++) {
		if (dev->bar[i].size)
			assert_true(dev->bar[i].is_mapped);
	}
}

/* Two root ports, one with a switch of two levels behind it. */
static void firmware_assigns_everything(void **state)
{
	struct world *w = *state;
	struct fn *p = fn_new('p', true), *q = fn_new('q', true);
	struct fn *r = fn_new('r', true), *f = fn_new('a', false);
	struct fn *g = fn_new('b', false), *h = fn_new('c', false);
	struct seen s = { 0 };
	struct err err = { 0 };

	fn_bar(f, 0, 16 * MiB, false, false);
	fn_bar(f, 1, 0x20, true, false);
	fn_bar(f, 2, 8 * GiB, false, true);
	fn_bar(f, 4, 64 * KiB, false, false);
	fn_bar(g, 0, 0x1000, false, false);
	fn_bar(g, 1, 0x100, true, false);
	fn_bar(h, 0, 0x4000, false, true);
	fn_bar(h, 2, 0x40, true, false);
	pci_dev_add(&p->pci, w->root, 1, 0);
	pci_dev_add(&q->pci, p->pci.secondary, 0, 0);
	pci_dev_add(&f->pci, q->pci.secondary, 0, 0);
	pci_dev_add(&r->pci, w->root, 2, 0);
	pci_dev_add(&g->pci, r->pci.secondary, 0, 0);
	pci_dev_add(&h->pci, w->root, 3, 0);

	for (unsigned round = 0; round < 2; round++) {
		assert_int_equal(pci_assign(w->root, &windows, &err), 0);
		s.n = 0;
		pci_for_each(w->root, see, &s);
		assert_int_equal(s.n, 6);
		assert_int_equal(s.bdf[0], 0x008);
		assert_int_equal(s.bdf[1], 0x100);
		assert_int_equal(s.bdf[2], 0x200);
		assert_int_equal(s.bdf[3], 0x010);
		assert_int_equal(s.bdf[4], 0x300);
		assert_int_equal(s.bdf[5], 0x018);
		assert_int_equal(rd(w, 0x008, PCI_PRIMARY_BUS, 4), 0x020100);
		assert_int_equal(rd(w, 0x100, PCI_PRIMARY_BUS, 4), 0x020201);
		assert_int_equal(rd(w, 0x010, PCI_PRIMARY_BUS, 4), 0x030300);
		/* Largest first. */
		assert_int_equal(f->pci.bar[0].addr, 0xc0000000);
		assert_int_equal(f->pci.bar[4].addr, 0xc1000000);
		assert_int_equal(f->pci.bar[2].addr, 0x4000000000);
		assert_int_equal(h->pci.bar[0].addr, 0x4200000000);
		assert_int_equal(f->pci.bar[1].addr & 0xfff, 0);
		/* Pin A of slot 0 behind slot 0 behind slot 1. */
		assert_int_equal(rd(w, 0x200, PCI_INTERRUPT_LINE, 1), 17);
		assert_int_equal(rd(w, 0x018, PCI_INTERRUPT_LINE, 1), 19);
		assert_int_equal(rd(w, 0x018, PCI_COMMAND, 1), 3);
		assert_int_equal(rd(w, 0x008, PCI_COMMAND, 1), 7);
		/* Nothing prefetchable behind the second port. */
		assert_true(rd(w, 0x010, PCI_PREF_MEMORY_BASE, 2) >
			    rd(w, 0x010, PCI_PREF_MEMORY_LIMIT, 2));
	}
	assert_int_equal(bus_read(w->mmio, 0, f->pci.bar[2].addr, 1), 'a');
	assert_int_equal(bus_read(w->pio, 0, g->pci.bar[1].addr, 1), 'b');
	fn_free(h);
	fn_free(g);
	fn_free(r);
	fn_free(f);
	fn_free(q);
	fn_free(p);
}

static void firmware_says_what_does_not_fit(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);
	struct err err = { 0 };

	fn_bar(f, 0, GiB, false, false);
	pci_dev_add(&f->pci, w->root, 1, 0);
	assert_int_equal(pci_assign(w->root, &windows, &err), -ENOSPC);
	assert_non_null(strstr(err.what, "fn"));
	assert_true(err.hint[0]);
	assert_false(f->pci.bar[0].is_mapped);
	fn_free(f);
}

static void state_moves_to_another_machine(void **state)
{
	struct world *w = *state;
	struct world v;
	struct fn *f = fn_new('a', false), *g = fn_new('a', false);
	struct fn *other = fn_new('b', false);
	struct stream s, l;

	world_init(&v);
	fn_bar(f, 0, 0x1000, false, true);
	fn_bar(g, 0, 0x1000, false, true);
	pci_dev_add(&f->pci, w->root, 1, 0);
	pci_dev_add(&g->pci, v.root, 1, 0);
	pci_dev_add(&other->pci, v.root, 2, 0);
	wr(w, 8, 0x10, 4, 0xfe000000);
	wr(w, 8, 0x14, 4, 1);
	wr(w, 8, PCI_COMMAND, 2, CMD_ON | PCI_COMMAND_MASTER);
	wr(w, 8, PCI_INTERRUPT_LINE, 1, 9);
	pci_intx_set(&f->pci, true);
	stream_init_save(&s);
	pci_dev_state(&f->pci, &s);
	assert_int_equal(stream_error(&s), 0);

	stream_init_load(&l, s.data, s.len);
	pci_dev_state(&g->pci, &l);
	assert_int_equal(stream_error(&l), 0);
	assert_int_equal(bus_read(v.mmio, 0, 0x1fe000000, 1), 'a');
	assert_true(v.chip.gsi[17]);
	assert_true(pci_is_bus_master(&g->pci));
	assert_memory_equal(f->pci.config, g->pci.config, PCI_CONFIG_SIZE);
	pci_intx_set(&g->pci, false);
	assert_false(v.chip.gsi[17]);

	/* Another device's state; a read-only byte changed; cut short. */
	stream_init_load(&l, s.data, s.len);
	pci_dev_state(&other->pci, &l);
	assert_int_equal(stream_error(&l), -EINVAL);
	s.data[16 + PCI_CLASS_DEVICE] ^= 0xff;
	s.data[16 + PCI_BASE_ADDRESS_0 + 0] ^= 0xff;
	stream_init_load(&l, s.data, s.len);
	pci_dev_state(&g->pci, &l);
	assert_int_equal(rd(&v, 8, PCI_CLASS_DEVICE, 2), 0x200);
	assert_int_equal(rd(&v, 8, 0x10, 4), 0xfe00000c);
	for (size_t n = 0; n < s.len; n += 97) {
		stream_init_load(&l, s.data, n);
		pci_dev_state(&g->pci, &l);
		assert_int_equal(stream_error(&l), -EINVAL);
	}
	stream_finish(&s);
	fn_free(f);
	fn_free(g);
	fn_free(other);
	world_finish(&v);
}

/* A function that resets itself by a bit of its own configuration space. */
static void resetting_config_written(struct pci_dev *dev, unsigned offset,
				     unsigned size)
{
	if (offset == PCI_CACHE_LINE_SIZE)
		pci_dev_reset(dev);
}

static void function_resets_itself(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);

	fn_bar(f, 0, 0x1000, false, false);
	f->pci.config_written = resetting_config_written;
	pci_dev_add(&f->pci, w->root, 1, 0);
	wr(w, 8, 0x10, 4, 0xfe000000);
	wr(w, 8, PCI_COMMAND, 2, CMD_ON);
	pci_intx_set(&f->pci, true);
	assert_true(bus_is_mapped(w->mmio, 0xfe000000));
	wr(w, 8, PCI_CACHE_LINE_SIZE, 1, 16);
	assert_false(bus_is_mapped(w->mmio, 0xfe000000));
	assert_false(w->chip.gsi[17]);
	assert_int_equal(rd(w, 8, PCI_CACHE_LINE_SIZE, 1), 0);
	fn_free(f);
}

/* Garbage over all of configuration space: nothing may break. */
static void hostile_configuration(void **state)
{
	struct world *w = *state;
	struct fn *p = fn_new('p', true), *f = fn_new('a', false);
	uint64_t x = 88172645463325252ULL;

	fn_bar(f, 0, 0x1000, false, true);
	fn_bar(f, 2, 0x20, true, false);
	assert_int_equal(msix_init(&f->pci, 4, 0, 0), 0);
	pci_dev_add(&p->pci, w->root, 2, 0);
	pci_dev_add(&f->pci, p->pci.secondary, 0, 0);
	for (unsigned i = 0; i < 200000; i++) {
		unsigned size, offset;
		uint16_t bdf;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		size = 1u << (x & 3);
		offset = x >> 8 & (x & 4 ? 0x3f : 0xfff);
		bdf = x & 8 ? 16 : (uint16_t)(x >> 20 & 0x0f00);
		if (x & 16)
			bus_write(w->mmio, 0, ECAM + (bdf << 12) + offset, size,
				  x >> 24);
		else
			bus_read(w->mmio, 0, ECAM + (bdf << 12) + offset, size);
		if (i % 512 == 0)
			wr(w, 16, PCI_PRIMARY_BUS, 4, 0x00ff0100);
	}
	fn_free(f);
	fn_free(p);
}

/* CPUs in the BAR, in configuration space, and a device raising INTx. */
struct crowd {
	struct world *w;
	struct fn *f;
	int is_stopping; /* atomic */
};

static void *crowd_bar(void *opaque)
{
	struct crowd *c = opaque;

	while (!__atomic_load_n(&c->is_stopping, __ATOMIC_RELAXED)) {
		uint64_t v = bus_read(c->w->mmio, 1, 0xfe000000, 1);

		if (v != 'a' && v != 0xff)
			abort();
		bus_write(c->w->mmio, 1, 0xfe100000, 4, v);
	}
	return NULL;
}

static void *crowd_device(void *opaque)
{
	struct crowd *c = opaque;
	bool level = false;

	while (!__atomic_load_n(&c->is_stopping, __ATOMIC_RELAXED)) {
		pci_intx_set(&c->f->pci, level = !level);
		pci_is_bus_master(&c->f->pci);
		msix_notify(&c->f->pci, 0);
	}
	return NULL;
}

static void bars_move_under_other_cpus(void **state)
{
	struct world *w = *state;
	struct fn *f = fn_new('a', false);
	struct crowd c = { .w = w, .f = f };
	pthread_t t[2];

	fn_bar(f, 0, 0x1000, false, false);
	assert_int_equal(msix_init(&f->pci, 4, 0, 0), 0);
	pci_dev_add(&f->pci, w->root, 1, 0);
	pthread_create(&t[0], NULL, crowd_bar, &c);
	pthread_create(&t[1], NULL, crowd_device, &c);
	for (unsigned i = 0; i < 3000; i++) {
		wr(w, 8, 0x10, 4, i % 2 ? 0xfe000000 : 0xfe100000);
		wr(w, 8, PCI_COMMAND, 2,
		   i % 3 ? CMD_ON | PCI_COMMAND_MASTER : 0);
		wr(w, 8, f->pci.config[PCI_CAPABILITY_LIST] + 2, 2,
		   i % 5 ? PCI_MSIX_FLAGS_ENABLE : 0);
	}
	__atomic_store_n(&c.is_stopping, 1, __ATOMIC_RELAXED);
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	pci_intx_set(&f->pci, false);
	for (unsigned i = 16; i < 20; i++)
		assert_false(w->chip.gsi[i]);
	fn_free(f);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(identity_and_capabilities),
		T(capabilities_fill_the_space),
		T(bar_sizing),
		T(bars_follow_registers),
		T(second_bar_waits_for_the_first),
		T(slots),
		T(ports_and_ecam_are_one),
		T(reset_port_amid_the_address),
		T(status_bits_clear_by_one),
		T(bridge_passes_what_its_registers_say),
		T(intx_is_swizzled_and_shared),
		T(firmware_assigns_everything),
		T(firmware_says_what_does_not_fit),
		T(state_moves_to_another_machine),
		T(function_resets_itself),
		T(hostile_configuration),
		T(bars_move_under_other_cpus),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
