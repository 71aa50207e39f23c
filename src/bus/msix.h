/*
 * MSI-X (PCI 3.0 section 6.8.2): the table and pending bits of a function in
 * one of its BARs, and the way from a vector to the interrupt controllers.
 */
#ifndef BUS_MSIX_H
#define BUS_MSIX_H

#include "bus/pci.h"

/** Give (dev) (nr) vectors, with table and pending bits in BAR (bar) at
 * (offset). Table: nr * 16 bytes, then, 8-aligned, the pending bits. The device routes
 * accesses of that part of its BAR to msix_read() and msix_write(). */
int msix_init(struct pci_dev *dev, unsigned nr, unsigned bar, uint32_t offset);
void msix_finish(struct pci_dev *dev);
/** Bytes that table and pending bits take for (nr) vectors. */
uint32_t msix_size(unsigned nr);

/** Is MSI-X enabled by the guest? INTx is silent then. */
bool msix_is_enabled(const struct pci_dev *dev);

/** Send vector (n), or set its pending bit while it is masked. Out of range, or
 * while MSI-X is off, it is ignored. Any thread, any lock. */
void msix_notify(struct pci_dev *dev, unsigned n);

/**
 * The eventfd that sends vector (n): for backends that complete outside this
 * thread or process. It leads straight into the interrupt controller where the
 * accelerator can route it; otherwise the caller polls it and calls
 * msix_notify(), and (*is_routed) says so. It is closed by msix_finish().
 * -errno on failure. After pci_dev_add().
 */
int msix_eventfd(struct pci_dev *dev, unsigned n, bool *is_routed);

/** Register access in the table area. */
uint64_t msix_read(struct pci_dev *dev, uint64_t offset, unsigned size);
void msix_write(struct pci_dev *dev, uint64_t offset, unsigned size,
		uint64_t value);

/** Power-on state. */
void msix_reset(struct pci_dev *dev);
/** Write or read the state, with routes made again. */
void msix_state(struct pci_dev *dev, struct stream *s);

#endif
