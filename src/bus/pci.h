/*
 * PCI Express configuration space, by ECAM and by ports 0xCF8/0xCFC, with
 * BARs, INTx, capabilities and bridges (root ports). PCI Local Bus 3.0, PCI
 * Express Base 4.0.
 *
 * A function's 4 KiB of configuration space are plain bytes with a mask of
 * those the guest may write; what a write means is done after it was stored.
 */
#ifndef BUS_PCI_H
#define BUS_PCI_H

#include <linux/pci_regs.h>
#include <pthread.h>

#include "base/base.h"
#include "base/err.h"
#include "bus/bus.h"
#include "bus/dma.h"
#include "bus/irq.h"

struct pci_bus;
struct pci_dev;
struct stream;

#define PCI_CONFIG_SIZE     4096
#define PCI_NR_BARS         6
#define PCI_DEVFN(slot, fn) ((uint8_t)((slot) << 3 | (fn)))

/** A base address register and the registers behind it. */
struct pci_bar {
	uint64_t size; /* a power of two; 0: no such BAR */
	bool is_io, is_64, is_prefetchable;
	const struct bus_ops *ops; /* NULL: only (moved), not on the bus */
	void *opaque;
	uint64_t addr; /* where it is mapped, valid while (is_mapped) */
	bool is_mapped;
	/* The mapping came, went or moved: doorbells follow. The device's lock
	 * is held. May be NULL. */
	void (*moved)(struct pci_dev *dev, unsigned bar);
};

/** Identity of a function, for pci_dev_init(). */
struct pci_ident {
	uint16_t vendor, device, subsys_vendor, subsys;
	uint32_t class_code; /* 24 bits: class, subclass, interface */
	uint8_t revision;
	bool is_bridge;
	bool has_intx;
	bool is_express; /* gets a PCI Express capability */
};

/** MSI-X state of a function; see bus/msix.h. */
struct pci_msix;

/** A function; embedded by its device. */
struct pci_dev {
	struct pci_bus *bus;
	uint8_t devfn;
	char name[24];
	pthread_mutex_t *lock; /* the device's; config accesses hold it too */
	uint8_t config[PCI_CONFIG_SIZE];
	uint8_t write_mask[PCI_CONFIG_SIZE]; /* bits the guest may set */
	uint8_t clear_mask[PCI_CONFIG_SIZE]; /* bits that writing 1 clears */
	struct pci_bar bar[PCI_NR_BARS];
	uint8_t power_on[PCI_CONFIG_SIZE]; /* what reset restores */
	uint8_t next_cap;                  /* where the next capability goes */
	uint16_t next_ext_cap;
	uint8_t exp_cap;           /* the PCI Express capability, or 0 */
	bool intx_level;           /* what the device wants */
	bool intx_masked;          /* by the guest, or by MSI-X */
	bool intx_asserted;        /* what the wire has: level and not masked */
	struct pci_bus *secondary; /* of a bridge */
	struct pci_msix *msix;
	uint64_t nr_intx, nr_msix; /* interrupts sent */
	/* Called after a guest's write to configuration space was stored. May
	 * be NULL. */
	void (*config_written)(struct pci_dev *dev, unsigned offset,
			       unsigned size);
	/* Before a read, to bring registers up to date. May be NULL. */
	void (*config_reading)(struct pci_dev *dev, unsigned offset,
			       unsigned size);
	void *owner;
};

/** What a host bridge needs of its machine, borrowed. */
struct pci_host {
	struct bus *pio, *mmio;
	struct dma_space *dma;
	struct irqchip *irqchip;
	uint64_t ecam_base; /* 1 MiB a bus */
	unsigned nr_buses;
	uint8_t intx_gsi[4]; /* what INTA..INTD of a slot 0 end at */
};

/** Make bus 0 with its two ways to configuration space mapped. */
int pci_host_create(struct pci_bus **bus, const struct pci_host *host,
		    struct err *err);
void pci_host_destroy(struct pci_bus *bus);

/** Answer one-byte accesses to port 0xCF9, which lies amid CONFIG_ADDRESS but
 * is the machine's reset register. No lock is held. Before CPUs run. */
void pci_host_set_reset_port(struct pci_bus *root,
			     uint8_t (*read)(void *opaque),
			     void (*write)(void *opaque, uint8_t value),
			     void *opaque);

/** Make the secondary bus of the bridge (bridge); it answers as the guest (or
 * the machine) programs the bridge's bus numbers and windows. */
int pci_bridge_init(struct pci_dev *bridge);
void pci_bridge_finish(struct pci_dev *bridge);

/** Fill in (dev)'s configuration space from (ident). Capabilities and BARs
 * come next, then pci_dev_add(). */
void pci_dev_init(struct pci_dev *dev, const struct pci_ident *ident,
		  const char *name, pthread_mutex_t *lock, void *owner);

/** Put (dev) on (bus) at (slot), function (fn); slot -1 takes the first free.
 * -EEXIST when taken, -ENOSPC when the bus is full; behind a root port there
 * is slot 0 only. */
int pci_dev_add(struct pci_dev *dev, struct pci_bus *bus, int slot, int fn);
/** Take it off; BARs are unmapped. The device's lock is not held. */
void pci_dev_remove(struct pci_dev *dev);

/** Describe BAR (n) before pci_dev_add(). A 64-bit one takes (n) and (n+1). */
void pci_bar_init(struct pci_dev *dev, unsigned n, const struct pci_bar *bar);

/** Add a capability of (len) bytes, header included; returns its offset in
 * configuration space, or -ENOSPC. Its bytes are read-only until the caller
 * sets (write_mask). */
int pci_cap_add(struct pci_dev *dev, uint8_t id, uint8_t len);
int pci_ext_cap_add(struct pci_dev *dev, uint16_t id, uint8_t version,
		    uint16_t len);

/** The function's interrupt pin, swizzled up through bridges to a GSI. Level;
 * nothing while the guest disabled INTx. Any thread, any lock. */
void pci_intx_set(struct pci_dev *dev, bool level);

/** Power-on state: command, BARs, interrupt registers and whatever else the
 * guest may write. From (config_written), or with the device's lock free. */
void pci_dev_reset(struct pci_dev *dev);

/** Where pci_assign() may put things; sizes may be 0. */
struct pci_windows {
	uint64_t mmio32, mmio32_size, mmio64, mmio64_size;
	uint16_t pio, pio_size;
};
/** Number the buses and assign every BAR, bridge window and interrupt line, as
 * firmware would: for guests booted without one. I/O and memory are enabled,
 * and bridges may forward. -ENOSPC with (err) when something does not fit. */
int pci_assign(struct pci_bus *root, const struct pci_windows *w,
	       struct err *err);

/** Is (dev) allowed to reach memory (bus master)? */
bool pci_is_bus_master(const struct pci_dev *dev);

/** Write or read the function's configuration, BAR mappings and MSI-X. The
 * device's lock is not held. */
void pci_dev_state(struct pci_dev *dev, struct stream *s);

/** Write and read configuration space as the guest does; for tests and
 * firmware work. (bdf) is bus << 8 | devfn. No device's lock is held. */
uint32_t pci_config_read(struct pci_bus *root, uint16_t bdf, unsigned offset,
			 unsigned size);
void pci_config_write(struct pci_bus *root, uint16_t bdf, unsigned offset,
		      unsigned size, uint32_t value);

/** Call (fn) for every function below (root), depth first. */
void pci_for_each(struct pci_bus *root,
		  void (*fn)(void *opaque, struct pci_dev *dev, uint16_t bdf),
		  void *opaque);

#endif
