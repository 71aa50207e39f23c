/*
 * Ports and memory-mapped registers: one mechanism, two instances. A range has
 * an owner; an access outside every range reads all ones and writes nothing.
 *
 * Dispatch takes the owner's lock, so a device runs its registers on one
 * thread at a time. Doorbells are looked up first and signal an eventfd
 * without the lock: a write there never waits for the device.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include <pthread.h>

#include "base/base.h"
#include "base/stats.h"

/** Registers of a device, by offset in their range. (size) is 1, 2, 4 or 8;
 * the value's bytes above it are zero. The guest chooses (offset), so it is
 * not a multiple of (size) unless (min_size) says so; it is never so high that
 * the access leaves the range. (cpu) is the index of the CPU that
 * asks, for per-CPU ranges. */
struct bus_ops {
	uint64_t (*read)(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size);
	void (*write)(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value);
	/* Sizes that the device takes; other accesses are split into the
	 * largest that fit, or widened (read, modify) to whole aligned units
	 * of the smallest. 0: 1 and 8. */
	uint8_t min_size, max_size;
};

/** A mapped range; counters are of its own accesses. */
struct bus_range {
	uint64_t base, len;
	const struct bus_ops *ops;
	void *dev;
	pthread_mutex_t *lock; /* the device's; NULL when it needs none */
	char name[24];
	uint64_t nr_reads, nr_writes;
};

/** A write of (size) bytes to (addr), any value or just (value), signals (fd). */
struct doorbell {
	uint64_t addr;
	unsigned size; /* 0: any */
	bool has_value;
	uint64_t value;
	int fd;
};

/** What an accelerator offers to take doorbells into the kernel. */
struct doorbell_ops {
	int (*set)(void *opaque, bool is_pio, const struct doorbell *d,
		   bool on);
};

/** An address space of registers. CPUs never wait for each other in a lookup,
 * and for a change of the map only while it is swapped in. */
struct bus;

/** Make an empty bus. (is_pio) only for names and doorbells. NULL: no memory. */
struct bus *bus_create(const char *name, bool is_pio);
void bus_destroy(struct bus *bus);

/**
 * Map (dev) at [base, base + len). The bus borrows (dev) and (lock). Returns
 * 0, -EINVAL for an empty or wrapping range or one that is not whole units of
 * (ops->min_size), -EEXIST if the range overlaps one
 * already mapped, -ENOMEM. Any thread.
 */
int bus_map(struct bus *bus, uint64_t base, uint64_t len, const char *name,
	    const struct bus_ops *ops, void *dev, pthread_mutex_t *lock);

/** Unmap the range at exactly (base). No access to it is running on return,
 * except the caller's own. One that still waits for the device's lock, which
 * the caller may hold, will find the range gone; so the lock outlives it: free
 * it when CPUs are parked. -ENOENT when there is none. Any thread. */
int bus_unmap(struct bus *bus, uint64_t base);

/** Signal (d->fd) on writes to it from now on, or no longer. In the kernel
 * where the accelerator can, else in bus_write(). (d->fd) is borrowed until
 * then. -EEXIST, -ENOENT, -ENOMEM. Any thread. */
int bus_doorbell(struct bus *bus, const struct doorbell *d, bool on);

/** Let (ops) take doorbells from now on. Before any is set. */
void bus_set_doorbell_ops(struct bus *bus, const struct doorbell_ops *ops,
			  void *opaque);

/** Read (size) bytes, 1 to 8, at (addr) for CPU (cpu). All ones where nothing
 * answers. Any thread; takes the owner's lock. */
uint64_t bus_read(struct bus *bus, unsigned cpu, uint64_t addr, unsigned size);
/** Write; dropped where nothing answers. Returns false in that case. */
bool bus_write(struct bus *bus, unsigned cpu, uint64_t addr, unsigned size,
	       uint64_t value);

/** Does any range hold (addr)? */
bool bus_is_mapped(struct bus *bus, uint64_t addr);

/** Call (fn) for every range in address order, for people; it must not change
 * the map. */
void bus_for_each(struct bus *bus,
		  void (*fn)(void *opaque, const struct bus_range *r),
		  void *opaque);

#endif
