/* A machine of buses, memory and an interrupt controller that notes what it is
 * told, with functions to put on it. */
#ifndef TESTS_PCI_FIXTURE_H
#define TESTS_PCI_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "bus/msix.h"
#include "bus/pci.h"
#include "state/stream.h"

#define ECAM 0xe0000000ULL

/** The controller's side of everything. */
struct fake_chip {
	bool gsi[24];
	unsigned nr_msis;
	struct msi_msg last;
	bool can_route;
	int routed_fd;
	struct msi_msg route;
	unsigned nr_routes, nr_unroutes;
};

/** A function whose first BAR reads its letter. */
struct fn {
	struct pci_dev pci;
	pthread_mutex_t lock;
	uint8_t letter;
	unsigned nr_moved, nr_config;
	uint64_t last_write;
};

/** All of it. */
struct world {
	struct bus *pio, *mmio;
	struct gmem mem;
	struct dma_space dma;
	struct fake_chip chip;
	struct irqchip irqchip;
	struct pci_bus *root;
};

static void chip_set_gsi(void *chip, unsigned gsi, bool level)
{
	((struct fake_chip *)chip)->gsi[gsi] = level;
}

static void chip_send_msi(void *chip, const struct msi_msg *msg)
{
	struct fake_chip *c = chip;

	c->nr_msis++;
	c->last = *msg;
}

static int chip_route_msi(void *chip, int fd, const struct msi_msg *msg)
{
	struct fake_chip *c = chip;

	if (!c->can_route)
		return -ENOTSUP;
	if (msg) {
		c->routed_fd = fd;
		c->route = *msg;
		c->nr_routes++;
	} else {
		c->routed_fd = -1;
		c->nr_unroutes++;
	}
	return 0;
}

static const struct irqchip_ops chip_ops = { chip_set_gsi, chip_send_msi,
					     chip_route_msi };

static void world_init(struct world *w)
{
	struct err err = { 0 };

	memset(w, 0, sizeof(*w));
	w->pio = bus_create("pio", true);
	w->mmio = bus_create("mmio", false);
	gmem_init(&w->mem);
	assert_int_equal(gmem_add(&w->mem, "ram", 0, 16 * MiB, 0, &err), 0);
	w->dma.mem = &w->mem;
	w->chip.routed_fd = -1;
	w->irqchip = (struct irqchip){ &chip_ops, &w->chip };
	assert_int_equal(
		pci_host_create(
			&w->root,
			&(struct pci_host){ .pio = w->pio,
					    .mmio = w->mmio,
					    .dma = &w->dma,
					    .irqchip = &w->irqchip,
					    .ecam_base = ECAM,
					    .nr_buses = 16,
					    .intx_gsi = { 16, 17, 18, 19 } },
			&err),
		0);
}

static void world_finish(struct world *w)
{
	pci_host_destroy(w->root);
	bus_destroy(w->pio);
	bus_destroy(w->mmio);
	gmem_finish(&w->mem);
}

static uint64_t fn_read(void *dev, unsigned cpu, uint64_t offset, unsigned size)
{
	return ((struct fn *)dev)->letter;
}

static void fn_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		     uint64_t value)
{
	((struct fn *)dev)->last_write = value;
}

static const struct bus_ops fn_ops = { fn_read, fn_write, 0, 0 };

static void fn_moved(struct pci_dev *dev, unsigned bar)
{
	((struct fn *)dev->owner)->nr_moved++;
}

static void fn_config_written(struct pci_dev *dev, unsigned offset,
			      unsigned size)
{
	((struct fn *)dev->owner)->nr_config++;
}

static struct fn *fn_new(char letter, bool is_bridge)
{
	struct pci_ident ident = { .vendor = 0x1af4,
				   .device = 0x1000 + (uint8_t)letter,
				   .subsys_vendor = 0x1af4,
				   .subsys = 0x1100,
				   .class_code =
					   is_bridge ? 0x060400 : 0x020000,
				   .revision = 1,
				   .is_bridge = is_bridge,
				   .has_intx = true,
				   .is_express = true };
	struct fn *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->letter = (uint8_t)letter;
	pthread_mutex_init(&f->lock, NULL);
	pci_dev_init(&f->pci, &ident, is_bridge ? "bridge" : "fn", &f->lock, f);
	f->pci.config_written = fn_config_written;
	if (is_bridge)
		assert_int_equal(pci_bridge_init(&f->pci), 0);
	return f;
}

static void fn_bar(struct fn *f, unsigned n, uint64_t size, bool is_io,
		   bool is_64)
{
	pci_bar_init(&f->pci, n,
		     &(struct pci_bar){ .size = size,
					.is_io = is_io,
					.is_64 = is_64,
					.is_prefetchable = is_64,
					.ops = &fn_ops,
					.opaque = f,
					.moved = fn_moved });
}

static void fn_free(struct fn *f)
{
	pci_dev_remove(&f->pci);
	msix_finish(&f->pci);
	pci_bridge_finish(&f->pci);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

#endif
