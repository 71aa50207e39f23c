/*
 * Guest-physical memory: RAM and ROM as regions of host memory, and the only
 * function that turns a guest address into a pointer.
 *
 * RAM is a memfd mapped shared, touched lazily, with a guard page behind each
 * region. A byte per page says what a write there must do besides storing.
 */
#ifndef MEM_GMEM_H
#define MEM_GMEM_H

#include "base/base.h"
#include "base/err.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ULL

/** What a region allows the guest. */
enum gmem_flag {
	GMEM_RO = 1 << 0, /* ROM: guest and device writes are dropped */
	GMEM_NX = 1 << 1, /* an instruction fetch is an error of the guest */
};

/** Per-page flags, in gmem_region.page_flags. */
enum gmem_page_flag {
	GMEM_PAGE_DIRTY = 1 << 0, /* written since the flag was cleared */
	GMEM_PAGE_CODE = 1 << 1,  /* translated code was made from it */
};

/** [gpa, gpa + size) backed by host memory at (hva), (fd) from (offset). */
struct gmem_region {
	uint64_t gpa, size;
	uint8_t *hva;
	int fd;
	uint64_t offset;
	unsigned flags;
	uint8_t *page_flags; /* one a page; accessed atomically, relaxed */
	char name[16];
};

#define GMEM_MAX_REGIONS 8

/** All memory of a machine. Regions are added before CPUs run and stay. */
struct gmem {
	struct gmem_region region[GMEM_MAX_REGIONS]; /* sorted by gpa */
	unsigned nr_regions;
	/* Called after a write to pages with GMEM_PAGE_CODE, from the writing
	 * thread; set by an accelerator that translates. */
	void (*code_written)(void *opaque, uint64_t gpa, uint64_t len);
	void *code_opaque;
};

/** Make (mem) empty. */
void gmem_init(struct gmem *mem);
/** Unmap and close everything. */
void gmem_finish(struct gmem *mem);

/** Add (size) bytes of zeroed memory at (gpa), both page-aligned. Returns 0,
 * -EEXIST for an overlap, -ENOMEM, -EINVAL, -ENOSPC with (err). */
int gmem_add(struct gmem *mem, const char *name, uint64_t gpa, uint64_t size,
	     unsigned flags, struct err *err);

/** The region that holds (gpa), or NULL. */
struct gmem_region *gmem_find(struct gmem *mem, uint64_t gpa);

/**
 * The host address of [gpa, gpa + len), or NULL unless all of it lies in one
 * region. For reading; a writer that is not a guest CPU uses gmem_write() or
 * the DMA door (bus/dma.h), which respect GMEM_RO and page flags.
 */
void *gmem_at(struct gmem *mem, uint64_t gpa, uint64_t len);

/** Copy to or from guest memory across regions. 0, or -EFAULT if any byte is
 * not memory (then nothing, or a prefix, was copied). Writes to ROM are
 * dropped; (gmem_load) writes it, for firmware and loaders. */
int gmem_read(struct gmem *mem, uint64_t gpa, void *buf, uint64_t len);
int gmem_write(struct gmem *mem, uint64_t gpa, const void *buf, uint64_t len);
int gmem_load(struct gmem *mem, uint64_t gpa, const void *buf, uint64_t len);

/** Account for a write to [gpa, gpa + len) that is done already: mark pages
 * dirty and tell the translator. Any thread. */
void gmem_mark_written(struct gmem *mem, uint64_t gpa, uint64_t len);

/** Bytes of RAM (regions without GMEM_RO). */
uint64_t gmem_ram_size(const struct gmem *mem);

#endif
