#include "bus/dma.h"

#include <errno.h>
#include <string.h>

void *dma_map(struct dma_space *dma, uint64_t iova, uint64_t *len,
	      enum dma_dir dir)
{
	struct gmem_region *r = gmem_find(dma->mem, iova);

	if (!r || !*len || (dir == DMA_FROM_DEVICE && r->flags & GMEM_RO))
		return NULL;
	*len = MIN(*len, r->size - (iova - r->gpa));
	return r->hva + (iova - r->gpa);
}

void dma_unmap(struct dma_space *dma, uint64_t iova, void *hva,
	       uint64_t written)
{
	if (written)
		gmem_mark_written(dma->mem, iova, written);
}

static int copy(struct dma_space *dma, uint64_t iova, uint8_t *buf,
		uint64_t len, enum dma_dir dir)
{
	while (len) {
		uint64_t n = len;
		void *hva = dma_map(dma, iova, &n, dir);

		if (!hva)
			return -EFAULT;
		if (dir == DMA_TO_DEVICE)
			memcpy(buf, hva, n);
		else
			memcpy(hva, buf, n);
		dma_unmap(dma, iova, hva, dir == DMA_FROM_DEVICE ? n : 0);
		buf += n;
		iova += n;
		len -= n;
	}
	return 0;
}

int dma_read(struct dma_space *dma, uint64_t iova, void *buf, uint64_t len)
{
	return copy(dma, iova, buf, len, DMA_TO_DEVICE);
}

int dma_write(struct dma_space *dma, uint64_t iova, const void *buf,
	      uint64_t len)
{
	void *from;

	/* Only read in this direction. */
	memcpy(&from, &buf, sizeof(from));
	return copy(dma, iova, from, len, DMA_FROM_DEVICE);
}
