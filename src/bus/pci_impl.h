/* What the files behind bus/pci.h and bus/msix.h share. */
#ifndef BUS_PCI_IMPL_H
#define BUS_PCI_IMPL_H

#include "bus/pci.h"

#define PCI_NR_DEVFN 256

/** The host bridge: what is there once for a tree. */
struct pci_root {
	struct pci_host host;
	/* Recursive: a device's config_written may reset the device. Taken
	 * before any device's lock. */
	pthread_mutex_t lock;
	bool is_writing; /* a configuration write will map the tree itself */
	uint32_t config_address;
	uint8_t (*reset_read)(void *opaque);
	void (*reset_write)(void *opaque, uint8_t value);
	void *reset_opaque;
	/* Guards intx_* of every function; taken after devices' locks. */
	pthread_mutex_t intx_lock;
	unsigned intx_count[4]; /* functions asserting, by root pin */
};

/** One bus: its functions, and the bridge that leads to it. */
struct pci_bus {
	struct pci_root *root;  /* of bus 0 */
	struct pci_dev *bridge; /* of the others */
	struct pci_dev *dev[PCI_NR_DEVFN];
};

/** The host bridge above (bus), or NULL while a bridge on the way up is on no
 * bus. */
struct pci_root *pci_root(struct pci_bus *bus);

/** Take and release the lock of (dev), which may have none. */
void pci_lock(struct pci_dev *dev);
void pci_unlock(struct pci_dev *dev);

/** Map and unmap BARs until they are what configuration space says. With the
 * root's lock held, and no device's. */
void pci_map_tree(struct pci_bus *root);

/** Send the function's INTx again after something that masks it changed. */
void pci_intx_update(struct pci_dev *dev);

/** The GSI at which the function's interrupt pin ends, or -1. */
int pci_intx_gsi(struct pci_dev *dev);

/** The address in BAR (n), and whether it is one. */
bool pci_bar_addr(const struct pci_dev *dev, unsigned n, uint64_t *addr);

/** Close the windows of a bridge: limits below bases. */
void pci_bridge_close(struct pci_dev *dev);

/** Message control may have changed. With the device's lock held. */
void msix_config_written(struct pci_dev *dev);

#endif
