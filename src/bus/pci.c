/*
 * Theory of operation
 *
 * One lock of the root serialises every access to configuration space and
 * every decision about what is mapped where; under it the function's own lock
 * is taken, for its registers. A device's register handlers hold its lock and
 * so must not call what takes the root's; raising interrupts does not.
 *
 * What is mapped is never changed piecemeal. After a write that may matter
 * (command, BARs, bridge windows) the whole tree is compared with what is
 * mapped: first everything that is to go or move is unmapped, then everything
 * missing is mapped. A BAR that lands on RAM, on another BAR or on a chip is
 * left unmapped without a word, as guests do that while sizing, and gets its
 * next chance the next time.
 *
 * INTx: each function holds its pin's level (intx_level), which reaches the
 * wire while neither the command register nor MSI-X masks it. Pins of several
 * functions meet at one GSI, which is asserted while any of them is.
 */
#include "bus/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/overflow.h"
#include "base/stats.h"
#include "bus/msix.h"
#include "bus/pci_impl.h"
#include "state/stream.h"

#define PORT_CONFIG_ADDRESS   0xcf8
#define PORT_CONFIG_DATA      0xcfc
#define CONFIG_ADDRESS_ENABLE BIT(31)
#define CONFIG_ADDRESS_BITS   0x80fffffc
#define ECAM_BUS_SIZE         (1 * MiB)
#define STREAM_TAG_PCI        STREAM_TAG('P', 'C', 'I', 'F')

struct pci_root *pci_root(struct pci_bus *bus)
{
	while (bus && bus->bridge)
		bus = bus->bridge->bus;
	return bus ? bus->root : NULL;
}

void pci_lock(struct pci_dev *dev)
{
	if (dev->lock)
		pthread_mutex_lock(dev->lock);
}

void pci_unlock(struct pci_dev *dev)
{
	if (dev->lock)
		pthread_mutex_unlock(dev->lock);
}

static struct pci_bus *top_of(struct pci_bus *bus)
{
	while (bus->bridge)
		bus = bus->bridge->bus;
	return bus;
}

/* ---- The tree ---- */

static void for_each(struct pci_bus *bus, uint8_t number,
		     void (*fn)(void *opaque, struct pci_dev *dev,
				uint16_t bdf),
		     void *opaque)
{
	for (unsigned i = 0; i < PCI_NR_DEVFN; i++) {
		struct pci_dev *dev = bus->dev[i];

		if (!dev)
			continue;
		fn(opaque, dev, (uint16_t)(number << 8 | i));
		if (dev->secondary)
			for_each(dev->secondary, dev->config[PCI_SECONDARY_BUS],
				 fn, opaque);
	}
}

void pci_for_each(struct pci_bus *root,
		  void (*fn)(void *opaque, struct pci_dev *dev, uint16_t bdf),
		  void *opaque)
{
	pthread_mutex_lock(&root->root->lock);
	for_each(root, 0, fn, opaque);
	pthread_mutex_unlock(&root->root->lock);
}

/* The function that a configuration access to (bdf) reaches through the
 * bridges' bus numbers, which the guest chose, or NULL. */
static struct pci_dev *find(struct pci_bus *bus, uint8_t number, uint16_t bdf)
{
	uint8_t target = bdf >> 8;
	struct pci_dev *found = NULL;

	if (number == target)
		return bus->dev[bdf & 0xff];
	for (unsigned i = 0; i < PCI_NR_DEVFN && !found; i++) {
		const struct pci_dev *b = bus->dev[i];

		if (!b || !b->secondary || !b->config[PCI_SECONDARY_BUS] ||
		    target < b->config[PCI_SECONDARY_BUS] ||
		    target > b->config[PCI_SUBORDINATE_BUS])
			continue;
		found = find(b->secondary, b->config[PCI_SECONDARY_BUS], bdf);
	}
	return found;
}

/* ---- What is mapped where ---- */

static bool is_in(uint64_t addr, uint64_t size, uint64_t base, uint64_t limit)
{
	return base <= limit && addr >= base && addr + (size - 1) <= limit;
}

/* Does (bridge) pass accesses to [addr, addr + size) down? */
static bool bridge_forwards(const struct pci_dev *bridge, bool is_io,
			    uint64_t addr, uint64_t size)
{
	const uint8_t *c = bridge->config;
	uint64_t base, limit;

	if (!(c[PCI_COMMAND] & (is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return false;
	if (is_io)
		return is_in(addr, size, (c[PCI_IO_BASE] & 0xf0) << 8,
			     (c[PCI_IO_LIMIT] & 0xf0) << 8 | 0xfff);
	base = (load_le16(&c[PCI_MEMORY_BASE]) & 0xfff0ULL) << 16;
	limit = (load_le16(&c[PCI_MEMORY_LIMIT]) & 0xfff0ULL) << 16 | 0xfffff;
	if (is_in(addr, size, base, limit))
		return true;
	base = (load_le16(&c[PCI_PREF_MEMORY_BASE]) & 0xfff0ULL) << 16 |
	       (uint64_t)load_le32(&c[PCI_PREF_BASE_UPPER32]) << 32;
	limit = (load_le16(&c[PCI_PREF_MEMORY_LIMIT]) & 0xfff0ULL) << 16 |
		(uint64_t)load_le32(&c[PCI_PREF_LIMIT_UPPER32]) << 32 | 0xfffff;
	return is_in(addr, size, base, limit);
}

static bool is_over_memory(const struct pci_root *root, uint64_t addr,
			   uint64_t size)
{
	const struct gmem *mem = root->host.dma ? root->host.dma->mem : NULL;

	for (unsigned i = 0; mem && i < mem->nr_regions; i++) {
		if (range_overlaps(addr, size, mem->region[i].gpa,
				   mem->region[i].size))
			return true;
	}
	return false;
}

/* Where configuration space says that BAR (n) is, if anywhere. */
static bool wanted_addr(const struct pci_dev *dev, unsigned n, uint64_t *addr)
{
	const struct pci_bar *bar = &dev->bar[n];
	uint8_t enable = bar->is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
	const struct pci_bus *bus;

	if (!bar->size || !(dev->config[PCI_COMMAND] & enable) ||
	    !pci_bar_addr(dev, n, addr))
		return false;
	for (bus = dev->bus; bus->bridge; bus = bus->bridge->bus) {
		if (!bridge_forwards(bus->bridge, bar->is_io, *addr, bar->size))
			return false;
	}
	return true;
}

static struct bus *space_of(const struct pci_root *root,
			    const struct pci_bar *bar)
{
	return bar->is_io ? root->host.pio : root->host.mmio;
}

static void unmap_bar(struct pci_root *root, struct pci_dev *dev, unsigned n)
{
	struct pci_bar *bar = &dev->bar[n];

	if (!bar->is_mapped)
		return;
	if (bar->ops)
		bus_unmap(space_of(root, bar), bar->addr);
	bar->is_mapped = false;
	if (bar->moved)
		bar->moved(dev, n);
}

static void unmap_stale(void *opaque, struct pci_dev *dev, uint16_t bdf)
{
	uint64_t addr;

	pci_lock(dev);
	for (unsigned i = 0; i < PCI_NR_BARS; i++) {
		if (!wanted_addr(dev, i, &addr) || addr != dev->bar[i].addr)
			unmap_bar(opaque, dev, i);
	}
	pci_unlock(dev);
}

static void map_missing(void *opaque, struct pci_dev *dev, uint16_t bdf)
{
	struct pci_root *root = opaque;
	uint64_t addr;

	pci_lock(dev);
	for (unsigned i = 0; i < PCI_NR_BARS; i++) {
		struct pci_bar *bar = &dev->bar[i];

		if (bar->is_mapped || !wanted_addr(dev, i, &addr))
			continue;
		if (!bar->is_io && is_over_memory(root, addr, bar->size))
			continue;
		if (bar->ops &&
		    bus_map(space_of(root, bar), addr, bar->size, dev->name,
			    bar->ops, bar->opaque, dev->lock))
			continue;
		bar->addr = addr;
		bar->is_mapped = true;
		if (bar->moved)
			bar->moved(dev, i);
	}
	pci_unlock(dev);
}

void pci_map_tree(struct pci_bus *root)
{
	for_each(root, 0, unmap_stale, root->root);
	for_each(root, 0, map_missing, root->root);
}

/* ---- Configuration space ---- */

static uint32_t config_read(struct pci_dev *dev, unsigned offset, unsigned size)
{
	uint8_t status = PCI_STATUS_INTERRUPT;
	uint32_t value;

	pci_lock(dev);
	if (dev->config_reading)
		dev->config_reading(dev, offset, size);
	value = (uint32_t)load_le(&dev->config[offset], size);
	if (offset <= PCI_STATUS && PCI_STATUS < offset + size &&
	    __atomic_load_n(&dev->intx_level, __ATOMIC_RELAXED))
		value |= (uint32_t)status << 8 * (PCI_STATUS - offset);
	pci_unlock(dev);
	return value;
}

uint32_t pci_config_read(struct pci_bus *root, uint16_t bdf, unsigned offset,
			 unsigned size)
{
	uint32_t value = (uint32_t)size_mask(size);
	struct pci_dev *dev;

	if (!range_fits(offset, size, PCI_CONFIG_SIZE))
		return value;
	pthread_mutex_lock(&root->root->lock);
	dev = find(root, 0, bdf);
	if (dev)
		value = config_read(dev, offset, size);
	pthread_mutex_unlock(&root->root->lock);
	return value;
}

/* Other threads look at single bits of command and message control. */
static void store_bytes(struct pci_dev *dev, unsigned offset, unsigned size,
			uint32_t value)
{
	for (unsigned i = offset; i < offset + size; i++, value >>= 8) {
		uint8_t byte = (uint8_t)value, set = dev->write_mask[i];
		uint8_t old = dev->config[i];

		old = (old & ~set) | (byte & set);
		old &= ~(byte & dev->clear_mask[i]);
		__atomic_store_n(&dev->config[i], old, __ATOMIC_RELAXED);
	}
}

static void config_write(struct pci_bus *top, struct pci_dev *dev,
			 unsigned offset, unsigned size, uint32_t value)
{
	top->root->is_writing = true;
	pci_lock(dev);
	store_bytes(dev, offset, size, value);
	if (dev->msix)
		msix_config_written(dev);
	pci_intx_update(dev);
	if (dev->config_written)
		dev->config_written(dev, offset, size);
	pci_unlock(dev);
	top->root->is_writing = false;
	pci_map_tree(top);
}

void pci_config_write(struct pci_bus *root, uint16_t bdf, unsigned offset,
		      unsigned size, uint32_t value)
{
	struct pci_dev *dev;

	if (!range_fits(offset, size, PCI_CONFIG_SIZE))
		return;
	pthread_mutex_lock(&root->root->lock);
	dev = find(root, 0, bdf);
	if (dev)
		config_write(root, dev, offset, size, value);
	pthread_mutex_unlock(&root->root->lock);
}

/* PCI Express Base 4.0 section 7.2.2. */
static uint64_t ecam_read(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	return pci_config_read(dev, (uint16_t)(offset >> 12), offset & 0xfff,
			       size);
}

static void ecam_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		       uint64_t value)
{
	pci_config_write(dev, (uint16_t)(offset >> 12), offset & 0xfff, size,
			 (uint32_t)value);
}

static const struct bus_ops ecam_ops = { .read = ecam_read,
					 .write = ecam_write,
					 .max_size = 4 };

/* PCI Local Bus 3.0 section 3.2.2.3.2: only whole dwords are CONFIG_ADDRESS;
 * anything else there is another port. */
static uint64_t address_read(void *dev, unsigned cpu, uint64_t offset,
			     unsigned size)
{
	struct pci_root *root = ((struct pci_bus *)dev)->root;
	uint32_t value = (uint32_t)size_mask(size);

	if (size == 4) {
		pthread_mutex_lock(&root->lock);
		value = root->config_address;
		pthread_mutex_unlock(&root->lock);
	} else if (offset == 1 && size == 1 && root->reset_read) {
		value = root->reset_read(root->reset_opaque);
	}
	return value;
}

static void address_write(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size, uint64_t value)
{
	struct pci_root *root = ((struct pci_bus *)dev)->root;

	if (size == 4) {
		pthread_mutex_lock(&root->lock);
		root->config_address = (uint32_t)value & CONFIG_ADDRESS_BITS;
		pthread_mutex_unlock(&root->lock);
	} else if (offset == 1 && size == 1 && root->reset_write) {
		root->reset_write(root->reset_opaque, (uint8_t)value);
	}
}

static const struct bus_ops address_ops = { .read = address_read,
					    .write = address_write,
					    .max_size = 4 };

/* The lock is recursive: address and access are one step. */
static uint64_t data_read(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	struct pci_bus *bus = dev;
	uint64_t value = size_mask(size);
	uint32_t addr;

	pthread_mutex_lock(&bus->root->lock);
	addr = bus->root->config_address;
	if (addr & CONFIG_ADDRESS_ENABLE)
		value = pci_config_read(bus, (uint16_t)(addr >> 8),
					(addr & 0xfc) + (unsigned)offset, size);
	pthread_mutex_unlock(&bus->root->lock);
	return value;
}

static void data_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct pci_bus *bus = dev;
	uint32_t addr;

	pthread_mutex_lock(&bus->root->lock);
	addr = bus->root->config_address;
	if (addr & CONFIG_ADDRESS_ENABLE)
		pci_config_write(bus, (uint16_t)(addr >> 8),
				 (addr & 0xfc) + (unsigned)offset, size,
				 (uint32_t)value);
	pthread_mutex_unlock(&bus->root->lock);
}

static const struct bus_ops data_ops = { .read = data_read,
					 .write = data_write,
					 .max_size = 4 };

/* ---- INTx ---- */

/* PCI-to-PCI Bridge Architecture 1.2 section 9.1: a bridge turns the pins of
 * its secondary bus by the slot; so do the traces of bus 0. Returns the pin
 * of slot 0, 0 to 3, or -1. */
static int root_pin(const struct pci_dev *dev)
{
	unsigned pin = dev->config[PCI_INTERRUPT_PIN];

	if (!pin)
		return -1;
	pin--;
	while (true) {
		pin = (pin + (dev->devfn >> 3)) % 4;
		if (!dev->bus->bridge)
			return (int)pin;
		dev = dev->bus->bridge;
	}
}

int pci_intx_gsi(struct pci_dev *dev)
{
	struct pci_root *root = pci_root(dev->bus);
	int pin = root ? root_pin(dev) : -1;

	return pin < 0 ? -1 : root->host.intx_gsi[pin];
}

/* Call with the lock held, so that levels reach the GSI in order. */
static void set_wire(struct pci_root *root, struct pci_dev *dev, bool level)
{
	const struct pci_host *host = &root->host;
	int pin = root_pin(dev);
	unsigned was, is;

	if (pin < 0 || dev->intx_asserted == level)
		return;
	/* Pins that end at one GSI count together, at the first of them. */
	for (int i = 0; i < pin; i++) {
		if (host->intx_gsi[i] == host->intx_gsi[pin])
			pin = i;
	}
	dev->intx_asserted = level;
	was = root->intx_count[pin];
	is = root->intx_count[pin] = level ? was + 1 : was - 1;
	if (level)
		stat_add(&dev->nr_intx, 1);
	if (!was != !is)
		irq_set(irq_gsi_line(host->irqchip, host->intx_gsi[pin]), is);
}

void pci_intx_set(struct pci_dev *dev, bool level)
{
	struct pci_root *root = pci_root(dev->bus);

	if (!root)
		return;
	pthread_mutex_lock(&root->intx_lock);
	__atomic_store_n(&dev->intx_level, level, __ATOMIC_RELAXED);
	set_wire(root, dev, level && !dev->intx_masked);
	pthread_mutex_unlock(&root->intx_lock);
}

void pci_intx_update(struct pci_dev *dev)
{
	struct pci_root *root = pci_root(dev->bus);
	uint16_t command = load_le16(&dev->config[PCI_COMMAND]);

	if (!root)
		return;
	pthread_mutex_lock(&root->intx_lock);
	dev->intx_masked =
		command & PCI_COMMAND_INTX_DISABLE || msix_is_enabled(dev);
	set_wire(root, dev, dev->intx_level && !dev->intx_masked);
	pthread_mutex_unlock(&root->intx_lock);
}

/* ---- Coming, going, state ---- */

int pci_host_create(struct pci_bus **bus, const struct pci_host *host,
		    struct err *err)
{
	struct pci_bus *b = calloc(1, sizeof(*b));
	struct pci_root *root = calloc(1, sizeof(*root));
	pthread_mutexattr_t attr;
	int ret = -ENOMEM;

	if (!b || !root)
		goto err_free;
	b->root = root;
	root->host = *host;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&root->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_mutex_init(&root->intx_lock, NULL);
	ret = bus_map(host->mmio, host->ecam_base,
		      host->nr_buses * ECAM_BUS_SIZE, "pci-ecam", &ecam_ops, b,
		      NULL);
	if (ret)
		goto err_locks;
	ret = bus_map(host->pio, PORT_CONFIG_ADDRESS, 4, "pci-address",
		      &address_ops, b, NULL);
	if (ret)
		goto err_ecam;
	ret = bus_map(host->pio, PORT_CONFIG_DATA, 4, "pci-data", &data_ops, b,
		      NULL);
	if (ret)
		goto err_address;
	*bus = b;
	return 0;

err_address:
	bus_unmap(host->pio, PORT_CONFIG_ADDRESS);
err_ecam:
	bus_unmap(host->mmio, host->ecam_base);
err_locks:
	pthread_mutex_destroy(&root->lock);
	pthread_mutex_destroy(&root->intx_lock);
err_free:
	free(b);
	free(root);
	return err_set(err, -ret, NULL, "cannot map PCI configuration space:");
}

void pci_host_destroy(struct pci_bus *bus)
{
	struct pci_root *root;

	if (!bus)
		return;
	root = bus->root;
	bus_unmap(root->host.pio, PORT_CONFIG_DATA);
	bus_unmap(root->host.pio, PORT_CONFIG_ADDRESS);
	bus_unmap(root->host.mmio, root->host.ecam_base);
	pthread_mutex_destroy(&root->lock);
	pthread_mutex_destroy(&root->intx_lock);
	free(root);
	free(bus);
}

void pci_host_set_reset_port(struct pci_bus *root,
			     uint8_t (*read)(void *opaque),
			     void (*write)(void *opaque, uint8_t value),
			     void *opaque)
{
	root->root->reset_read = read;
	root->root->reset_write = write;
	root->root->reset_opaque = opaque;
}

/* Only one device is at the other end of a PCI Express link. */
static int nr_slots(const struct pci_bus *bus)
{
	return bus->bridge && bus->bridge->exp_cap ? 1 : 32;
}

static int pick_place(const struct pci_bus *bus, int slot, int fn)
{
	if (fn < 0 || fn > 7 || slot >= nr_slots(bus))
		return -ENOSPC;
	if (slot >= 0)
		return bus->dev[PCI_DEVFN(slot, fn)] ? -EEXIST
						     : PCI_DEVFN(slot, fn);
	for (slot = 0; slot < nr_slots(bus); slot++) {
		if (!bus->dev[PCI_DEVFN(slot, 0)] &&
		    !bus->dev[PCI_DEVFN(slot, fn)])
			return PCI_DEVFN(slot, fn);
	}
	return -ENOSPC;
}

int pci_dev_add(struct pci_dev *dev, struct pci_bus *bus, int slot, int fn)
{
	struct pci_dev *first;
	int devfn = pick_place(bus, slot, fn);

	if (devfn < 0)
		return devfn;
	if (dev->exp_cap && !dev->secondary && !bus->bridge)
		dev->config[dev->exp_cap + PCI_EXP_FLAGS] =
			2 | PCI_EXP_TYPE_RC_END << 4;
	dev->bus = bus;
	dev->devfn = (uint8_t)devfn;
	memcpy(dev->power_on, dev->config, sizeof(dev->power_on));
	bus->dev[devfn] = dev;
	first = bus->dev[devfn & ~7];
	for (int i = 1; first && i < 8; i++) {
		if (bus->dev[(devfn & ~7) + i])
			first->config[PCI_HEADER_TYPE] |= 0x80;
	}
	return 0;
}

void pci_dev_remove(struct pci_dev *dev)
{
	struct pci_root *root = pci_root(dev->bus);

	if (!root)
		return;
	pthread_mutex_lock(&root->lock);
	pci_lock(dev);
	for (unsigned i = 0; i < PCI_NR_BARS; i++)
		unmap_bar(root, dev, i);
	pci_unlock(dev);
	pci_intx_set(dev, false);
	dev->bus->dev[dev->devfn] = NULL;
	pci_map_tree(top_of(dev->bus));
	dev->bus = NULL;
	pthread_mutex_unlock(&root->lock);
}

void pci_dev_reset(struct pci_dev *dev)
{
	struct pci_root *root = pci_root(dev->bus);

	if (!root)
		return;
	pthread_mutex_lock(&root->lock);
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
		uint8_t guest = dev->write_mask[i] | dev->clear_mask[i];
		uint8_t byte =
			(dev->config[i] & ~guest) | (dev->power_on[i] & guest);

		__atomic_store_n(&dev->config[i], byte, __ATOMIC_RELAXED);
	}
	if (dev->msix)
		msix_reset(dev);
	pci_intx_set(dev, false);
	pci_intx_update(dev);
	/* In a write the device's lock is held, and the tree comes later. */
	if (!root->is_writing)
		pci_map_tree(top_of(dev->bus));
	pthread_mutex_unlock(&root->lock);
}

/* Only what the guest could have written is taken over. */
static void load_config(struct pci_dev *dev, const uint8_t *stored)
{
	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
		uint8_t guest = dev->write_mask[i] | dev->clear_mask[i];

		dev->config[i] =
			(dev->config[i] & ~guest) | (stored[i] & guest);
	}
}

void pci_dev_state(struct pci_dev *dev, struct stream *s)
{
	struct pci_root *root = pci_root(dev->bus);
	uint8_t config[PCI_CONFIG_SIZE];
	bool level = dev->intx_level;

	vm_assert(root);
	memcpy(config, dev->config, sizeof(config));
	stream_begin(s, STREAM_TAG_PCI, 1);
	stream_bytes(s, config, sizeof(config));
	stream_bool(s, &level);
	stream_check(s, !memcmp(config, dev->config, PCI_COMMAND));
	if (s->is_loading && !stream_error(s))
		load_config(dev, config);
	if (dev->msix)
		msix_state(dev, s);
	stream_end(s);
	if (!s->is_loading || stream_error(s))
		return;
	pthread_mutex_lock(&root->lock);
	pci_intx_update(dev);
	pci_intx_set(dev, level);
	pci_map_tree(top_of(dev->bus));
	pthread_mutex_unlock(&root->lock);
}
