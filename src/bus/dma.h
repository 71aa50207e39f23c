/*
 * The door to guest memory for devices. A device names memory by I/O virtual
 * address in its own address space; this is the one place that checks the
 * range, translates, and, when a write is done, marks pages dirty and tells
 * the translator.
 */
#ifndef BUS_DMA_H
#define BUS_DMA_H

#include "base/base.h"
#include "mem/gmem.h"

/** A device's view of memory: the identity, until an IOMMU gives it another. */
struct dma_space {
	struct gmem *mem;
};

/** Which way data goes: the device reads memory, or writes it. */
enum dma_dir { DMA_TO_DEVICE, DMA_FROM_DEVICE };

/**
 * The host address of up to (*len) bytes at (iova), with (*len) reduced to
 * what is contiguous; NULL when (iova) is not RAM that (dir) may use. Devices
 * reach RAM only, never registers. Pair it with dma_unmap(). Any thread.
 */
void *dma_map(struct dma_space *dma, uint64_t iova, uint64_t *len,
	      enum dma_dir dir);

/** Give back what dma_map() returned for (iova); (written) bytes from its
 * start were stored. */
void dma_unmap(struct dma_space *dma, uint64_t iova, void *hva,
	       uint64_t written);

/** Copy across contiguous pieces. 0 or -EFAULT. */
int dma_read(struct dma_space *dma, uint64_t iova, void *buf, uint64_t len);
int dma_write(struct dma_space *dma, uint64_t iova, const void *buf,
	      uint64_t len);

#endif
