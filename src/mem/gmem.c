/*
 * Each region is a memfd of its own, so that it can be handed to another
 * process, mapped between two ranges that fault: a pointer that ran off its
 * region stops there. Nothing is touched until the guest does, neither memory
 * nor page flags.
 *
 * A region's host address is congruent to its guest address modulo 2 MiB, so
 * that huge pages of one are huge pages of the other.
 */
#include "mem/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/overflow.h"

#define GUARD_SIZE     (64 * KiB)
#define HUGE_PAGE_SIZE (2 * MiB)

void gmem_init(struct gmem *mem)
{
	*mem = (struct gmem){ 0 };
}

static void unmap_region(struct gmem_region *r)
{
	if (r->page_flags)
		munmap(r->page_flags, r->size >> PAGE_SHIFT);
	if (r->hva)
		munmap(r->hva - GUARD_SIZE, r->size + 2 * GUARD_SIZE);
	if (r->fd >= 0)
		close(r->fd);
}

void gmem_finish(struct gmem *mem)
{
	for (unsigned i = 0; i < mem->nr_regions; i++)
		unmap_region(&mem->region[i]);
	gmem_init(mem);
}

/* Address space for (r) with its guards, all of it faulting. Returns where the
 * region goes in it, or NULL. */
static uint8_t *reserve(const struct gmem_region *r)
{
	uint64_t kept = r->size + 2 * GUARD_SIZE;
	uint64_t total = kept + HUGE_PAGE_SIZE;
	uint8_t *base, *hva;
	uint64_t skip;

	base = mmap(NULL, total, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return NULL;
	skip = (r->gpa - (uintptr_t)(base + GUARD_SIZE)) % HUGE_PAGE_SIZE;
	hva = base + skip + GUARD_SIZE;
	if (skip)
		munmap(base, skip);
	if (skip < HUGE_PAGE_SIZE)
		munmap(base + skip + kept, HUGE_PAGE_SIZE - skip);
	return hva;
}

static int map_region(struct gmem_region *r)
{
	void *p;

	r->fd = memfd_create(r->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->fd < 0 || ftruncate(r->fd, (off_t)r->size))
		return -errno;
	/* A process that shares it cannot cut it off under us. */
	if (fcntl(r->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return -errno;
	r->hva = reserve(r);
	if (!r->hva)
		return -errno;
	p = mmap(r->hva, r->size, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_NORESERVE | MAP_FIXED, r->fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	p = mmap(NULL, r->size >> PAGE_SHIFT, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	r->page_flags = p;
	/* Advice only: a host without either does without. */
	if (r->size >= HUGE_PAGE_SIZE)
		madvise(r->hva, r->size, MADV_HUGEPAGE);
	madvise(r->hva, r->size, MADV_DONTDUMP);
	return 0;
}

static int check_region(const struct gmem *mem, const struct gmem_region *r,
			struct err *err)
{
	uint64_t end;

	if (!r->size || r->size % PAGE_SIZE || r->gpa % PAGE_SIZE ||
	    add_overflow(r->gpa, r->size, &end) || r->size > INT64_MAX / 2)
		return err_set(err, EINVAL,
			       "memory (-m) comes in whole pages of 4 KiB",
			       "cannot place %#llx bytes of %s at %#llx",
			       (unsigned long long)r->size, r->name,
			       (unsigned long long)r->gpa);
	for (unsigned i = 0; i < mem->nr_regions; i++) {
		const struct gmem_region *o = &mem->region[i];

		if (range_overlaps(r->gpa, r->size, o->gpa, o->size))
			return err_set(err, EEXIST, NULL,
				       "%s at %#llx, %#llx bytes, overlaps %s",
				       r->name, (unsigned long long)r->gpa,
				       (unsigned long long)r->size, o->name);
	}
	if (mem->nr_regions == GMEM_MAX_REGIONS)
		return err_set(
			err, ENOSPC, NULL,
			"no place for %s: all %u memory regions are used",
			r->name, GMEM_MAX_REGIONS);
	return 0;
}

int gmem_add(struct gmem *mem, const char *name, uint64_t gpa, uint64_t size,
	     unsigned flags, struct err *err)
{
	struct gmem_region r = {
		.gpa = gpa, .size = size, .flags = flags, .fd = -1
	};
	unsigned at;
	int ret;

	snprintf(r.name, sizeof(r.name), "%s", name);
	ret = check_region(mem, &r, err);
	if (ret)
		return ret;
	ret = map_region(&r);
	if (ret) {
		unmap_region(&r);
		return err_set(
			err, -ret,
			"ask for less with -m, or raise the host's limit "
			"on address space (ulimit -v)",
			"cannot map %llu MiB of guest memory (%s):",
			(unsigned long long)(size / MiB), name);
	}
	for (at = mem->nr_regions; at && mem->region[at - 1].gpa > gpa; at--)
		mem->region[at] = mem->region[at - 1];
	mem->region[at] = r;
	mem->nr_regions++;
	return 0;
}

struct gmem_region *gmem_find(struct gmem *mem, uint64_t gpa)
{
	for (unsigned i = 0; i < mem->nr_regions; i++) {
		struct gmem_region *r = &mem->region[i];

		if (gpa - r->gpa < r->size)
			return r;
	}
	return NULL;
}

void *gmem_at(struct gmem *mem, uint64_t gpa, uint64_t len)
{
	struct gmem_region *r = gmem_find(mem, gpa);

	if (!r || !range_fits(gpa - r->gpa, len, r->size))
		return NULL;
	return r->hva + (gpa - r->gpa);
}

int gmem_read(struct gmem *mem, uint64_t gpa, void *buf, uint64_t len)
{
	uint8_t *to = buf;

	while (len) {
		struct gmem_region *r = gmem_find(mem, gpa);
		uint64_t n;

		if (!r)
			return -EFAULT;
		n = MIN(len, r->size - (gpa - r->gpa));
		memcpy(to, r->hva + (gpa - r->gpa), n);
		to += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

static int write_regions(struct gmem *mem, uint64_t gpa, const uint8_t *from,
			 uint64_t len, bool is_rom_too)
{
	while (len) {
		struct gmem_region *r = gmem_find(mem, gpa);
		uint64_t n;

		if (!r)
			return -EFAULT;
		n = MIN(len, r->size - (gpa - r->gpa));
		if (is_rom_too || !(r->flags & GMEM_RO)) {
			memcpy(r->hva + (gpa - r->gpa), from, n);
			gmem_mark_written(mem, gpa, n);
		}
		from += n;
		gpa += n;
		len -= n;
	}
	return 0;
}

int gmem_write(struct gmem *mem, uint64_t gpa, const void *buf, uint64_t len)
{
	return write_regions(mem, gpa, buf, len, false);
}

int gmem_load(struct gmem *mem, uint64_t gpa, const void *buf, uint64_t len)
{
	return write_regions(mem, gpa, buf, len, true);
}

/*
 * A translator sets GMEM_PAGE_CODE and then reads the page; a writer stores
 * and then looks at the flag. Both sides' exchange is a full barrier, so that
 * at least one sees the other.
 */
static bool mark_region(struct gmem_region *r, uint64_t offset, uint64_t len)
{
	bool has_code = false;

	for (uint64_t page = offset >> PAGE_SHIFT;
	     page <= (offset + len - 1) >> PAGE_SHIFT; page++) {
		uint8_t old =
			__atomic_fetch_or(&r->page_flags[page], GMEM_PAGE_DIRTY,
					  __ATOMIC_SEQ_CST);

		has_code |= old & GMEM_PAGE_CODE;
	}
	return has_code;
}

void gmem_mark_written(struct gmem *mem, uint64_t gpa, uint64_t len)
{
	while (len) {
		struct gmem_region *r = gmem_find(mem, gpa);
		uint64_t n;

		if (!r)
			return;
		n = MIN(len, r->size - (gpa - r->gpa));
		if (mark_region(r, gpa - r->gpa, n) && mem->code_written)
			mem->code_written(mem->code_opaque, gpa, n);
		gpa += n;
		len -= n;
	}
}

uint64_t gmem_ram_size(const struct gmem *mem)
{
	uint64_t size = 0;

	for (unsigned i = 0; i < mem->nr_regions; i++) {
		if (!(mem->region[i].flags & GMEM_RO))
			size += mem->region[i].size;
	}
	return size;
}
