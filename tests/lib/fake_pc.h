/*
 * As much of a machine as a PCI device needs: memory, buses, a main loop on a
 * thread, and an interrupt controller that only counts.
 */
#ifndef TESTS_LIB_FAKE_PC_H
#define TESTS_LIB_FAKE_PC_H

#include <pthread.h>
#include <semaphore.h>

#include "bus/pci.h"
#include "device/device.h"

#define FAKE_PC_RAM_SIZE   (32 * MiB)
#define FAKE_PC_HIGH_RAM   (4 * GiB) /* a second region */
#define FAKE_PC_HIGH_SIZE  (1 * MiB)
#define FAKE_PC_ROM        (64 * MiB)
#define FAKE_PC_ECAM       0xb0000000
#define FAKE_PC_WINDOW     0xc0000000
#define FAKE_PC_WINDOW64   0x800000000
#define FAKE_PC_NR_VECTORS 64

/** The machine. Messages are told apart by their data. */
struct fake_pc {
	struct gmem mem;
	struct dma_space dma;
	struct bus *pio, *mmio;
	struct pci_bus *pci;
	struct irqchip irqchip;
	struct loop *loop;
	struct stats stats;
	struct device_env env;
	bool can_route; /* take vectors "into the kernel" */
	uint64_t nr_msi[FAKE_PC_NR_VECTORS]; /* atomic */
	sem_t msi[FAKE_PC_NR_VECTORS];       /* posted with each */
	int routed_fd[FAKE_PC_NR_VECTORS];   /* -1: none; atomic */
	bool gsi[24];                        /* levels; atomic */
};

/** Make one; it asserts that it can. */
void fake_pc_init(struct fake_pc *pc);
void fake_pc_finish(struct fake_pc *pc);

/** Make a device as "--device NAME,options" does, or fail the test. */
struct device *fake_pc_add(struct fake_pc *pc, const struct device_class *cls,
			   const char *options);

/** Place BARs as firmware would and let everything decode. */
void fake_pc_assign(struct fake_pc *pc);

/** Messages with (data) so far. */
uint64_t fake_pc_msi_count(struct fake_pc *pc, unsigned data);
/** Wait for one more; false after (ms). */
bool fake_pc_msi_wait(struct fake_pc *pc, unsigned data, unsigned ms);

#endif
