/*
 * What firmware does before a guest looks: number the buses depth first, then
 * give each bus, from the leaves up, the space that its functions need.
 *
 * Three spaces are packed apart from each other: ports, memory below 4 GiB,
 * and, for prefetchable BARs of 64 bits, memory above. In each, what a bus
 * holds (BARs, and the windows of its bridges) is placed in order of
 * alignment, the largest first, so little is lost between them. The size of a
 * bridge's window is found by placing its bus at 0.
 */
#include "bus/pci_impl.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/endian.h"

#define BRIDGE_WINDOW ~0u /* as an item's BAR */

enum space { SPACE_IO, SPACE_MEM32, SPACE_MEM64, NR_SPACES };

/** A piece of address space that a function or the bus behind it needs. */
struct item {
	struct pci_dev *dev;
	unsigned bar;
	uint64_t size, align;
};

struct assignment {
	const struct pci_windows *windows;
	unsigned nr_buses, next_bus;
};

static enum space space_of(const struct assignment *a,
			   const struct pci_bar *bar)
{
	if (bar->is_io)
		return SPACE_IO;
	return bar->is_64 && bar->is_prefetchable && a->windows->mmio64_size
		       ? SPACE_MEM64
		       : SPACE_MEM32;
}

static void number_bus(struct assignment *a, struct pci_bus *bus,
		       unsigned number)
{
	for (unsigned i = 0; i < PCI_NR_DEVFN; i++) {
		struct pci_dev *dev = bus->dev[i];
		unsigned secondary;

		if (!dev || !dev->secondary)
			continue;
		secondary = a->next_bus++;
		dev->config[PCI_PRIMARY_BUS] = (uint8_t)number;
		dev->config[PCI_SECONDARY_BUS] = (uint8_t)secondary;
		number_bus(a, dev->secondary, secondary);
		dev->config[PCI_SUBORDINATE_BUS] = (uint8_t)(a->next_bus - 1);
	}
}

static int compare_items(const void *a, const void *b)
{
	uint64_t x = ((const struct item *)a)->align;
	uint64_t y = ((const struct item *)b)->align;

	return x > y ? -1 : x < y;
}

static int window_size(const struct assignment *a, struct pci_bus *bus,
		       enum space space, struct item *window);

/* What (bus) needs in (space), in the order in which it is placed, as an array
 * that the caller frees. Returns how many, or -ENOMEM. */
static int collect(const struct assignment *a, struct pci_bus *bus,
		   enum space space, struct item **items)
{
	unsigned n = 0, max = 0;
	int ret;

	for (unsigned i = 0; i < PCI_NR_DEVFN; i++)
		max += bus->dev[i] ? PCI_NR_BARS + 1 : 0;
	*items = calloc(max + 1, sizeof(**items));
	if (!*items)
		return -ENOMEM;
	for (unsigned i = 0; i < PCI_NR_DEVFN; i++) {
		struct pci_dev *dev = bus->dev[i];

		for (unsigned j = 0; dev && j < PCI_NR_BARS; j++) {
			const struct pci_bar *bar = &dev->bar[j];

			if (bar->size && space_of(a, bar) == space)
				(*items)[n++] =
					(struct item){ dev, j, bar->size,
						       bar->size };
		}
		if (!dev || !dev->secondary)
			continue;
		(*items)[n].dev = dev;
		ret = window_size(a, dev->secondary, space, &(*items)[n]);
		if (ret) {
			free(*items);
			return ret;
		}
		n += (*items)[n].size > 0;
	}
	qsort(*items, n, sizeof(**items), compare_items);
	return (int)n;
}

static int window_size(const struct assignment *a, struct pci_bus *bus,
		       enum space space, struct item *window)
{
	uint64_t unit = space == SPACE_IO ? 4 * KiB : 1 * MiB, end = 0;
	struct item *items;
	int n = collect(a, bus, space, &items);

	if (n < 0)
		return n;
	for (int i = 0; i < n; i++)
		end = ALIGN_UP(end, items[i].align) + items[i].size;
	window->bar = BRIDGE_WINDOW;
	window->size = ALIGN_UP(end, unit);
	window->align = n ? MAX(items[0].align, unit) : unit;
	free(items);
	return 0;
}

static void set_bar(const struct item *item, uint64_t addr)
{
	uint8_t *at = &item->dev->config[PCI_BASE_ADDRESS_0 + 4 * item->bar];
	uint32_t type = load_le32(at) & (uint32_t)(item->size - 1) & 0xf;

	store_le32(at, (uint32_t)addr | type);
	if (item->dev->bar[item->bar].is_64)
		store_le32(at + 4, (uint32_t)(addr >> 32));
}

static void set_window(uint8_t *config, enum space space, uint64_t base,
		       uint64_t limit)
{
	switch (space) {
	case SPACE_IO:
		config[PCI_IO_BASE] = base >> 8 & 0xf0;
		config[PCI_IO_LIMIT] = limit >> 8 & 0xf0;
		break;
	case SPACE_MEM32:
		store_le16(&config[PCI_MEMORY_BASE], base >> 16 & 0xfff0);
		store_le16(&config[PCI_MEMORY_LIMIT], limit >> 16 & 0xfff0);
		break;
	default:
		store_le16(&config[PCI_PREF_MEMORY_BASE],
			   (base >> 16 & 0xfff0) | PCI_PREF_RANGE_TYPE_64);
		store_le16(&config[PCI_PREF_MEMORY_LIMIT],
			   (limit >> 16 & 0xfff0) | PCI_PREF_RANGE_TYPE_64);
		store_le32(&config[PCI_PREF_BASE_UPPER32],
			   (uint32_t)(base >> 32));
		store_le32(&config[PCI_PREF_LIMIT_UPPER32],
			   (uint32_t)(limit >> 32));
		break;
	}
}

/* Place what (bus) needs from (base) on, which suits every alignment but the
 * root's. */
static int place(const struct assignment *a, struct pci_bus *bus,
		 enum space space, uint64_t base, uint64_t end, struct err *err)
{
	struct item *items;
	int n = collect(a, bus, space, &items), ret = 0;

	if (n < 0)
		return err_set(err, -n, NULL, "cannot assign PCI addresses:");
	for (int i = 0; i < n && !ret; i++) {
		const struct item *item = &items[i];

		base = ALIGN_UP(base, item->align);
		if (base > end || item->size > end - base) {
			ret = err_set(err, ENOSPC,
				      "leave out a device, or make its BAR "
				      "smaller",
				      "no PCI address space for %s: %#llx "
				      "bytes do not fit below %#llx",
				      item->dev->name,
				      (unsigned long long)item->size,
				      (unsigned long long)end);
		} else if (item->bar == BRIDGE_WINDOW) {
			set_window(item->dev->config, space, base,
				   base + item->size - 1);
			ret = place(a, item->dev->secondary, space, base,
				    base + item->size, err);
		} else {
			set_bar(item, base);
		}
		base += item->size;
	}
	free(items);
	return ret;
}

static void enable(void *opaque, struct pci_dev *dev, uint16_t bdf)
{
	uint8_t command = PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
	int gsi = pci_intx_gsi(dev);

	if (dev->secondary)
		command |= PCI_COMMAND_MASTER;
	__atomic_store_n(&dev->config[PCI_COMMAND], command, __ATOMIC_RELAXED);
	if (gsi >= 0)
		dev->config[PCI_INTERRUPT_LINE] = (uint8_t)gsi;
}

static void disable(void *opaque, struct pci_dev *dev, uint16_t bdf)
{
	__atomic_store_n(&dev->config[PCI_COMMAND], 0, __ATOMIC_RELAXED);
	if (dev->secondary)
		pci_bridge_close(dev);
}

int pci_assign(struct pci_bus *root, const struct pci_windows *w,
	       struct err *err)
{
	const struct {
		uint64_t base, size;
	} spaces[NR_SPACES] = {
		[SPACE_IO] = { w->pio, w->pio_size },
		[SPACE_MEM32] = { w->mmio32, w->mmio32_size },
		[SPACE_MEM64] = { w->mmio64, w->mmio64_size },
	};
	struct assignment a = { .windows = w,
				.nr_buses = root->root->host.nr_buses,
				.next_bus = 1 };
	int ret = 0;

	pthread_mutex_lock(&root->root->lock);
	pci_for_each(root, disable, NULL);
	pci_map_tree(root);
	number_bus(&a, root, 0);
	if (a.next_bus > a.nr_buses)
		ret = err_set(err, ENOSPC, "leave out some bridges",
			      "%u PCI buses do not fit into %u", a.next_bus,
			      a.nr_buses);
	for (int i = 0; i < NR_SPACES && !ret; i++)
		ret = place(&a, root, i, spaces[i].base,
			    spaces[i].base + spaces[i].size, err);
	if (!ret) {
		pci_for_each(root, enable, NULL);
		pci_map_tree(root);
	}
	pthread_mutex_unlock(&root->root->lock);
	return ret;
}
