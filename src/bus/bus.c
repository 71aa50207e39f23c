/*
 * Theory of operation
 *
 * Ranges and doorbells are in two sorted tables that are replaced as a whole.
 * A lookup holds one of NR_LOOKUP_LOCKS small locks, chosen by CPU, just long
 * enough to find a range and take a reference; a change holds all of them
 * while it swaps the table. So CPUs never wait for each other here, and what
 * was replaced can be freed at once.
 *
 * An access then goes through three stages, so that a range can disappear
 * under it:
 *
 *   referenced   it may wait for the device's lock; the range stays allocated
 *   running      counted in (running), after which (is_dead) was still false
 *   gone         it found (is_dead) and answers as if nothing were mapped
 *
 * bus_unmap() sets (is_dead) and waits until nobody but the caller is running.
 * It does not wait for those that are merely referenced: they may be waiting
 * for a lock that its caller holds, as when a write to a PCI command register
 * unmaps the function's BARs. What the caller itself runs is found in a chain
 * of frames on its stack.
 *
 * Lock order: a device's lock, (change_lock), a lookup lock. None of the
 * latter two is held while a device runs.
 */
#include "bus/bus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/overflow.h"

/* All are taken to publish; the deadlock detector that the tests run under
 * follows 64 locks, so this leaves room for those held outside. */
#define NR_LOOKUP_LOCKS 32

struct range {
	struct bus_range pub; /* first */
	unsigned refs;        /* the table's and those of accesses */
	unsigned running;
	bool is_dead;
};

/* An access under way on this thread, innermost first. */
struct frame {
	const struct range *range;
	const struct frame *outer;
};

static _Thread_local const struct frame *frames;

struct lookup_lock {
	pthread_mutex_t mutex;
} __attribute__((aligned(64)));

struct bus {
	struct lookup_lock lookup[NR_LOOKUP_LOCKS];
	pthread_mutex_t change_lock;
	pthread_mutex_t drain_lock; /* with (drained): (running) went down */
	pthread_cond_t drained;
	struct range **ranges; /* sorted by base */
	unsigned nr_ranges;
	struct doorbell *doorbells; /* sorted by address */
	unsigned nr_doorbells;
	const struct doorbell_ops *doorbell_ops;
	void *doorbell_opaque;
	bool is_pio;
	char name[16];
};

struct bus *bus_create(const char *name, bool is_pio)
{
	struct bus *bus = aligned_alloc(64, ALIGN_UP(sizeof(*bus), 64));

	if (!bus)
		return NULL;
	*bus = (struct bus){ .is_pio = is_pio };
	snprintf(bus->name, sizeof(bus->name), "%s", name);
	for (unsigned i = 0; i < NR_LOOKUP_LOCKS; i++)
		pthread_mutex_init(&bus->lookup[i].mutex, NULL);
	pthread_mutex_init(&bus->change_lock, NULL);
	pthread_mutex_init(&bus->drain_lock, NULL);
	pthread_cond_init(&bus->drained, NULL);
	return bus;
}

static void range_put(struct range *r)
{
	if (__atomic_sub_fetch(&r->refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(r);
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	for (unsigned i = 0; i < bus->nr_ranges; i++)
		range_put(bus->ranges[i]);
	for (unsigned i = 0; i < NR_LOOKUP_LOCKS; i++)
		pthread_mutex_destroy(&bus->lookup[i].mutex);
	pthread_mutex_destroy(&bus->change_lock);
	pthread_mutex_destroy(&bus->drain_lock);
	pthread_cond_destroy(&bus->drained);
	free(bus->ranges);
	free(bus->doorbells);
	free(bus);
}

static pthread_mutex_t *lookup_begin(struct bus *bus, unsigned cpu)
{
	pthread_mutex_t *lock = &bus->lookup[cpu % NR_LOOKUP_LOCKS].mutex;

	pthread_mutex_lock(lock);
	return lock;
}

static void lookups_stop(struct bus *bus)
{
	for (unsigned i = 0; i < NR_LOOKUP_LOCKS; i++)
		pthread_mutex_lock(&bus->lookup[i].mutex);
}

static void lookups_resume(struct bus *bus)
{
	for (unsigned i = 0; i < NR_LOOKUP_LOCKS; i++)
		pthread_mutex_unlock(&bus->lookup[i].mutex);
}

/* The first range that ends above (addr), as an index. */
static unsigned range_index(const struct bus *bus, uint64_t addr)
{
	unsigned lo = 0, hi = bus->nr_ranges;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		const struct bus_range *r = &bus->ranges[mid]->pub;

		if (r->base + r->len <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct range *range_at(const struct bus *bus, uint64_t addr)
{
	unsigned i = range_index(bus, addr);

	if (i == bus->nr_ranges || bus->ranges[i]->pub.base > addr)
		return NULL;
	return bus->ranges[i];
}

/* A copy of (nr) entries of (size) bytes with room for one more at (at). */
static void *copy_with_gap(const void *table, unsigned nr, size_t size,
			   unsigned at)
{
	char *copy = malloc((nr + 1) * size);

	if (!copy)
		return NULL;
	if (nr) {
		memcpy(copy, table, at * size);
		memcpy(copy + (at + 1) * size, (const char *)table + at * size,
		       (nr - at) * size);
	}
	return copy;
}

static int insert_range(struct bus *bus, struct range *r)
{
	unsigned at = range_index(bus, r->pub.base);
	struct range **ranges, **old = bus->ranges;

	if (at < bus->nr_ranges &&
	    bus->ranges[at]->pub.base < r->pub.base + r->pub.len)
		return -EEXIST;
	ranges = copy_with_gap(old, bus->nr_ranges, sizeof(*old), at);
	if (!ranges)
		return -ENOMEM;
	ranges[at] = r;
	lookups_stop(bus);
	bus->ranges = ranges;
	bus->nr_ranges++;
	lookups_resume(bus);
	free(old);
	return 0;
}

int bus_map(struct bus *bus, uint64_t base, uint64_t len, const char *name,
	    const struct bus_ops *ops, void *dev, pthread_mutex_t *lock)
{
	struct range *r;
	uint64_t end;
	int ret;

	if (!len || add_overflow(base, len, &end) ||
	    (ops->min_size && len % ops->min_size))
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->pub = (struct bus_range){
		.base = base, .len = len, .ops = ops, .dev = dev, .lock = lock
	};
	snprintf(r->pub.name, sizeof(r->pub.name), "%s", name);
	r->refs = 1;
	pthread_mutex_lock(&bus->change_lock);
	ret = insert_range(bus, r);
	pthread_mutex_unlock(&bus->change_lock);
	if (ret)
		free(r);
	return ret;
}

static struct range *remove_range(struct bus *bus, uint64_t base)
{
	unsigned at = range_index(bus, base);
	struct range *r;

	if (at == bus->nr_ranges || bus->ranges[at]->pub.base != base)
		return NULL;
	r = bus->ranges[at];
	lookups_stop(bus);
	bus->nr_ranges--;
	memmove(&bus->ranges[at], &bus->ranges[at + 1],
		(bus->nr_ranges - at) * sizeof(struct range *));
	lookups_resume(bus);
	return r;
}

static unsigned running_here(const struct range *r)
{
	unsigned n = 0;

	for (const struct frame *f = frames; f; f = f->outer)
		n += f->range == r;
	return n;
}

int bus_unmap(struct bus *bus, uint64_t base)
{
	struct range *r;
	unsigned own;

	pthread_mutex_lock(&bus->change_lock);
	r = remove_range(bus, base);
	pthread_mutex_unlock(&bus->change_lock);
	if (!r)
		return -ENOENT;
	own = running_here(r);
	__atomic_store_n(&r->is_dead, true, __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&bus->drain_lock);
	while (__atomic_load_n(&r->running, __ATOMIC_SEQ_CST) > own)
		pthread_cond_wait(&bus->drained, &bus->drain_lock);
	pthread_mutex_unlock(&bus->drain_lock);
	range_put(r);
	return 0;
}

/* Either this sees (is_dead), or bus_unmap() sees (running). */
static bool run_begin(struct range *r, struct frame *frame)
{
	if (r->pub.lock)
		pthread_mutex_lock(r->pub.lock);
	__atomic_add_fetch(&r->running, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->is_dead, __ATOMIC_SEQ_CST))
		return false;
	frame->range = r;
	frame->outer = frames;
	frames = frame;
	return true;
}

static void run_end(struct bus *bus, struct range *r)
{
	__atomic_sub_fetch(&r->running, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&r->is_dead, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&bus->drain_lock);
		pthread_cond_broadcast(&bus->drained);
		pthread_mutex_unlock(&bus->drain_lock);
	}
	if (r->pub.lock)
		pthread_mutex_unlock(r->pub.lock);
}

/* The power of two that one call moves out of (left) bytes at (offset): as
 * much as the device takes, the range holds and is left. */
static unsigned piece_size(const struct bus_range *r, uint64_t offset,
			   unsigned left)
{
	unsigned max = r->ops->max_size ? r->ops->max_size : 8;
	uint64_t n = MIN(MIN(left, max), r->len - offset);

	return n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
}

/*
 * The call to make for (left) bytes at (offset): (*start) and the returned
 * size are what the device sees, and (*used) bytes of it, from (offset) on,
 * are the access's. A device with a smallest size sees whole aligned units.
 */
static unsigned piece_plan(const struct bus_range *r, uint64_t offset,
			   unsigned left, uint64_t *start, unsigned *used)
{
	unsigned size = piece_size(r, offset, left);
	unsigned min = r->ops->min_size ? r->ops->min_size : 1;
	unsigned skip = offset & (min - 1);

	*start = offset;
	*used = size;
	if (size >= min && !skip)
		return size;
	*start = offset - skip;
	*used = MIN(left, min - skip);
	return min;
}

static uint64_t read_range(struct range *r, unsigned cpu, uint64_t offset,
			   unsigned size)
{
	const struct bus_ops *ops = r->pub.ops;
	uint64_t start, value = 0;
	unsigned done, used;

	stat_add(&r->pub.nr_reads, 1);
	for (done = 0; done < size; done += used) {
		uint64_t at = offset + done, v;
		unsigned n =
			piece_plan(&r->pub, at, size - done, &start, &used);

		v = ops->read ? ops->read(r->pub.dev, cpu, start, n) : ~0ULL;
		v = v >> 8 * (at - start) & size_mask(used);
		value |= v << 8 * done;
	}
	return value;
}

static void write_range(struct range *r, unsigned cpu, uint64_t offset,
			unsigned size, uint64_t value)
{
	const struct bus_ops *ops = r->pub.ops;
	unsigned done, used;
	uint64_t start;

	stat_add(&r->pub.nr_writes, 1);
	if (!ops->write)
		return;
	for (done = 0; done < size; done += used) {
		uint64_t at = offset + done;
		unsigned n =
			piece_plan(&r->pub, at, size - done, &start, &used);
		unsigned shift = 8 * (unsigned)(at - start);
		uint64_t v = value >> 8 * done & size_mask(used);

		if (used != n) {
			uint64_t old =
				ops->read ? ops->read(r->pub.dev, cpu, start, n)
					  : 0;

			v = (old & ~(size_mask(used) << shift)) | v << shift;
		}
		ops->write(r->pub.dev, cpu, start, n, v & size_mask(n));
	}
}

/* What is left of an access: (size) bytes at (addr). */
struct access {
	uint64_t addr, value;
	unsigned cpu, size;
	bool is_write, is_mapped;
};

/*
 * Do the part of (a) that one range, or the hole before the next, answers,
 * and return how many bytes that is. A hole reads as ones; it is found at
 * once, so that what is mapped meanwhile does not answer half an access.
 */
static unsigned access_part(struct bus *bus, struct access *a)
{
	pthread_mutex_t *lock = lookup_begin(bus, a->cpu);
	unsigned i = range_index(bus, a->addr), n = a->size;
	struct range *r = NULL;
	struct frame frame;

	if (i < bus->nr_ranges && bus->ranges[i]->pub.base <= a->addr) {
		r = bus->ranges[i];
		n = (unsigned)MIN(n, r->pub.base + r->pub.len - a->addr);
		__atomic_add_fetch(&r->refs, 1, __ATOMIC_RELAXED);
	} else if (i < bus->nr_ranges) {
		n = (unsigned)MIN(n, bus->ranges[i]->pub.base - a->addr);
	}
	pthread_mutex_unlock(lock);
	if (!a->is_write)
		a->value = size_mask(n);
	if (!r)
		return n;
	if (run_begin(r, &frame)) {
		uint64_t offset = a->addr - r->pub.base;

		if (a->is_write)
			write_range(r, a->cpu, offset, n,
				    a->value & size_mask(n));
		else
			a->value = read_range(r, a->cpu, offset, n);
		a->is_mapped = true;
		frames = frame.outer;
	}
	run_end(bus, r);
	range_put(r);
	return n;
}

uint64_t bus_read(struct bus *bus, unsigned cpu, uint64_t addr, unsigned size)
{
	struct access a = { .cpu = cpu };
	uint64_t value = 0;
	unsigned done, n;

	for (done = 0; done < size; done += n) {
		a.addr = addr + done;
		a.size = size - done;
		n = access_part(bus, &a);
		value |= a.value << 8 * done;
	}
	return value;
}

static int compare_doorbells(const struct doorbell *a, const struct doorbell *b)
{
	if (a->addr != b->addr)
		return a->addr < b->addr ? -1 : 1;
	if (a->has_value != b->has_value)
		return a->has_value ? 1 : -1;
	if (a->has_value && a->value != b->value)
		return a->value < b->value ? -1 : 1;
	return a->size < b->size ? -1 : a->size > b->size;
}

/* The first doorbell not before (key), as an index. */
static unsigned doorbell_index(const struct bus *bus,
			       const struct doorbell *key)
{
	unsigned lo = 0, hi = bus->nr_doorbells;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (compare_doorbells(&bus->doorbells[mid], key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool ring_doorbell(struct bus *bus, unsigned cpu, uint64_t addr,
			  unsigned size, uint64_t value)
{
	const struct doorbell key = { .addr = addr };
	static const uint64_t one = 1;
	pthread_mutex_t *lock = lookup_begin(bus, cpu);
	bool is_rung = false;
	unsigned i = bus->nr_doorbells ? doorbell_index(bus, &key) : 0;

	for (; i < bus->nr_doorbells; i++) {
		const struct doorbell *d = &bus->doorbells[i];

		if (d->addr != addr)
			break;
		if ((d->size && d->size != size) ||
		    (d->has_value && d->value != (value & size_mask(size))))
			continue;
		/* EAGAIN: so many signals are waiting already. */
		while (write(d->fd, &one, sizeof(one)) < 0 && errno == EINTR)
			;
		is_rung = true;
	}
	pthread_mutex_unlock(lock);
	return is_rung;
}

bool bus_write(struct bus *bus, unsigned cpu, uint64_t addr, unsigned size,
	       uint64_t value)
{
	struct access a = { .cpu = cpu, .is_write = true };
	unsigned done, n;

	if (ring_doorbell(bus, cpu, addr, size, value))
		return true;
	for (done = 0; done < size; done += n) {
		a.addr = addr + done;
		a.size = size - done;
		a.value = value >> 8 * done;
		n = access_part(bus, &a);
	}
	return a.is_mapped;
}

static int doorbell_add(struct bus *bus, const struct doorbell *d, unsigned at)
{
	struct doorbell *old = bus->doorbells;
	struct doorbell *table;

	if (at < bus->nr_doorbells && !compare_doorbells(&old[at], d))
		return -EEXIST;
	table = copy_with_gap(old, bus->nr_doorbells, sizeof(*old), at);
	if (!table)
		return -ENOMEM;
	table[at] = *d;
	lookups_stop(bus);
	bus->doorbells = table;
	bus->nr_doorbells++;
	lookups_resume(bus);
	free(old);
	return 0;
}

static int doorbell_remove(struct bus *bus, const struct doorbell *d,
			   unsigned at)
{
	if (at == bus->nr_doorbells ||
	    compare_doorbells(&bus->doorbells[at], d))
		return -ENOENT;
	lookups_stop(bus);
	bus->nr_doorbells--;
	memmove(&bus->doorbells[at], &bus->doorbells[at + 1],
		(bus->nr_doorbells - at) * sizeof(*d));
	lookups_resume(bus);
	return 0;
}

int bus_doorbell(struct bus *bus, const struct doorbell *d, bool on)
{
	unsigned at;
	int ret;

	pthread_mutex_lock(&bus->change_lock);
	at = doorbell_index(bus, d);
	ret = on ? doorbell_add(bus, d, at) : doorbell_remove(bus, d, at);
	/* One that the accelerator refuses is still rung by bus_write(). */
	if (!ret && bus->doorbell_ops)
		bus->doorbell_ops->set(bus->doorbell_opaque, bus->is_pio, d,
				       on);
	pthread_mutex_unlock(&bus->change_lock);
	return ret;
}

void bus_set_doorbell_ops(struct bus *bus, const struct doorbell_ops *ops,
			  void *opaque)
{
	pthread_mutex_lock(&bus->change_lock);
	bus->doorbell_ops = ops;
	bus->doorbell_opaque = opaque;
	pthread_mutex_unlock(&bus->change_lock);
}

bool bus_is_mapped(struct bus *bus, uint64_t addr)
{
	pthread_mutex_t *lock = lookup_begin(bus, 0);
	bool is_mapped = range_at(bus, addr);

	pthread_mutex_unlock(lock);
	return is_mapped;
}

void bus_for_each(struct bus *bus,
		  void (*fn)(void *opaque, const struct bus_range *r),
		  void *opaque)
{
	pthread_mutex_lock(&bus->change_lock);
	for (unsigned i = 0; i < bus->nr_ranges; i++) {
		struct bus_range *r = &bus->ranges[i]->pub;
		struct bus_range copy = *r;

		copy.nr_reads = __atomic_load_n(&r->nr_reads, __ATOMIC_RELAXED);
		copy.nr_writes =
			__atomic_load_n(&r->nr_writes, __ATOMIC_RELAXED);
		fn(opaque, &copy);
	}
	pthread_mutex_unlock(&bus->change_lock);
}
