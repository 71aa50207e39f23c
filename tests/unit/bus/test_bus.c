#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "bus/bus.h"

/* Registers that are memory, and note how they were asked. */
struct toy {
	uint8_t bytes[64];
	unsigned nr_calls;
	struct {
		uint64_t offset, value;
		unsigned size, cpu;
		bool is_write;
	} calls[16];
};

static void note(struct toy *t, unsigned cpu, uint64_t offset, unsigned size,
		 uint64_t value, bool is_write)
{
	unsigned i = t->nr_calls++ % ARRAY_SIZE(t->calls);

	t->calls[i].offset = offset;
	t->calls[i].value = value;
	t->calls[i].size = size;
	t->calls[i].cpu = cpu;
	t->calls[i].is_write = is_write;
}

static uint64_t toy_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	struct toy *t = dev;

	assert_true(offset + size <= sizeof(t->bytes));
	note(t, cpu, offset, size, 0, false);
	return load_le(&t->bytes[offset], size);
}

static void toy_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct toy *t = dev;

	assert_true(offset + size <= sizeof(t->bytes));
	assert_int_equal(value & ~size_mask(size), 0);
	note(t, cpu, offset, size, value, true);
	store_le(&t->bytes[offset], size, value);
}

static const struct bus_ops any_ops = { toy_read, toy_write, 0, 0 };
static const struct bus_ops byte_ops = { toy_read, toy_write, 1, 1 };
static const struct bus_ops dword_ops = { toy_read, toy_write, 4, 4 };
static const struct bus_ops upto_dword_ops = { toy_read, toy_write, 1, 4 };

static int setup(void **state)
{
	*state = bus_create("mmio", false);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	bus_destroy(*state);
	return 0;
}

static void b15_overlap_rules(void **state)
{
	static const struct {
		uint64_t base, len;
		int ret;
	} table[] = {
		{ 0x1000, 0x100, 0 },       { 0x1000, 0x100, -EEXIST },
		{ 0x10ff, 1, -EEXIST },     { 0xfff, 2, -EEXIST },
		{ 0x0, 0x10000, -EEXIST },  { 0x1040, 4, -EEXIST },
		{ 0x1100, 0x10, 0 }, /* touching is not overlapping */
		{ 0xff0, 0x10, 0 },         { 0x2000, 0, -EINVAL },
		{ UINT64_MAX, 2, -EINVAL }, { UINT64_MAX - 1, 1, 0 },
	};
	struct bus *bus = *state;
	struct toy t = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		assert_int_equal(bus_map(bus, table[i].base, table[i].len,
					 "toy", &any_ops, &t, NULL),
				 table[i].ret);
	assert_int_equal(bus_map(bus, 0x3000, 6, "toy", &dword_ops, &t, NULL),
			 -EINVAL);
	assert_true(bus_is_mapped(bus, 0x10ff));
	assert_false(bus_is_mapped(bus, 0x1110));
	assert_int_equal(bus_unmap(bus, 0x1001), -ENOENT);
	assert_int_equal(bus_unmap(bus, 0x1000), 0);
	assert_int_equal(bus_unmap(bus, 0x1000), -ENOENT);
	assert_false(bus_is_mapped(bus, 0x1000));
	assert_int_equal(bus_map(bus, 0x1040, 4, "toy", &any_ops, &t, NULL), 0);
}

struct listing {
	unsigned n;
	uint64_t last;
	char names[256];
	uint64_t nr_reads, nr_writes;
};

static void list_range(void *opaque, const struct bus_range *r)
{
	struct listing *l = opaque;

	assert_true(!l->n || r->base > l->last);
	l->last = r->base;
	l->n++;
	l->nr_reads += r->nr_reads;
	l->nr_writes += r->nr_writes;
	strncat(l->names, r->name, sizeof(l->names) - strlen(l->names) - 1);
}

static void b15_owners_are_listed_in_order(void **state)
{
	struct bus *bus = *state;
	struct toy t = { 0 };
	struct listing l = { 0 };

	bus_map(bus, 0x300, 8, "c", &any_ops, &t, NULL);
	bus_map(bus, 0x100, 8, "a", &any_ops, &t, NULL);
	bus_map(bus, 0x200, 8, "b", &any_ops, &t, NULL);
	bus_read(bus, 0, 0x100, 8);
	bus_write(bus, 0, 0x200, 1, 0);
	bus_write(bus, 0, 0x208, 1, 0);
	bus_for_each(bus, list_range, &l);
	assert_string_equal(l.names, "abc");
	assert_int_equal(l.nr_reads, 1);
	assert_int_equal(l.nr_writes, 1);
}

static void c1_nothing_reads_ones_and_drops_writes(void **state)
{
	struct bus *bus = *state;

	for (unsigned size = 1; size <= 8; size++)
		assert_int_equal(bus_read(bus, 0, 0x80, size), size_mask(size));
	assert_false(bus_write(bus, 0, 0x80, 4, 1));
}

static void c1_cpu_reaches_the_device(void **state)
{
	struct bus *bus = *state;
	struct toy t = { 0 };

	bus_map(bus, 0x1000, 64, "toy", &any_ops, &t, NULL);
	bus_read(bus, 77, 0x1000, 4);
	assert_int_equal(t.calls[0].cpu, 77);
}

/* Every size at every offset gives the same bytes, however they are moved. */
static void c2_all_sizes_and_alignments(void **state)
{
	static const struct bus_ops *const kinds[] = { &any_ops, &byte_ops,
						       &dword_ops,
						       &upto_dword_ops };
	struct bus *bus = *state;

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct toy t;

		bus_map(bus, 0x1000, 64, "toy", kinds[k], &t, NULL);
		for (unsigned i = 0; i < 64 * 8; i++) {
			unsigned at = i / 8, size = i % 8 + 1;
			uint64_t want = 0, got;

			for (unsigned b = 0; b < 64; b++)
				t.bytes[b] = (uint8_t)(b + 1);
			for (unsigned b = 0; b < size; b++)
				want |= (at + b < 64 ? at + b + 1 : 0xffULL)
					<< 8 * b;
			got = bus_read(bus, 0, 0x1000 + at, size);
			assert_int_equal(got, want);
			assert_true(bus_write(bus, 0, 0x1000 + at, size,
					      0xf8f7f6f5f4f3f2f1));
			for (unsigned b = 0; b < 64; b++) {
				bool is_hit = b >= at && b < at + size;

				assert_int_equal(t.bytes[b],
						 is_hit ? 0xf1 + b - at
							: b + 1);
			}
		}
		bus_unmap(bus, 0x1000);
	}
}

static void c2_splitting_into_what_the_device_takes(void **state)
{
	struct bus *bus = *state;
	struct toy t = { 0 };

	bus_map(bus, 0x1000, 64, "toy", &upto_dword_ops, &t, NULL);
	bus_write(bus, 0, 0x1000, 8, 0x1122334455667788);
	assert_int_equal(t.nr_calls, 2);
	assert_int_equal(t.calls[0].size, 4);
	assert_int_equal(t.calls[0].value, 0x55667788);
	assert_int_equal(t.calls[1].offset, 4);
	assert_int_equal(t.calls[1].value, 0x11223344);
	t.nr_calls = 0;
	bus_read(bus, 0, 0x1008, 7);
	assert_int_equal(t.nr_calls, 3); /* 4 + 2 + 1 */
	bus_unmap(bus, 0x1000);
	bus_map(bus, 0x1000, 64, "toy", &dword_ops, &t, NULL);
	t.nr_calls = 0;
	bus_write(bus, 0, 0x1006, 1, 0xaa);
	assert_int_equal(t.nr_calls, 2);
	assert_false(t.calls[0].is_write);
	assert_int_equal(t.calls[1].offset, 4);
	assert_int_equal(t.calls[1].size, 4);
	assert_int_equal(t.calls[1].value, 0x11aa3344);
}

static void access_across_two_owners(void **state)
{
	struct bus *bus = *state;
	struct toy a = { .bytes = { 1, 2, 3, 4 } };
	struct toy b = { .bytes = { 5, 6, 7, 8 } };

	bus_map(bus, 0x100, 4, "a", &any_ops, &a, NULL);
	bus_map(bus, 0x104, 2, "b", &any_ops, &b, NULL);
	assert_int_equal(bus_read(bus, 0, 0x102, 8), 0xffffffff06050403);
	assert_int_equal(bus_read(bus, 0, 0xff, 2), 0x01ff);
	bus_write(bus, 0, 0x103, 2, 0xbbaa);
	assert_int_equal(a.bytes[3], 0xaa);
	assert_int_equal(b.bytes[0], 0xbb);
	/* The ends of the space. */
	assert_int_equal(bus_read(bus, 0, UINT64_MAX - 1, 8), ~0ULL);
}

static uint64_t rung(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void c4_doorbells_come_before_ranges(void **state)
{
	struct bus *bus = *state;
	struct toy t = { 0 };
	int any = eventfd(0, EFD_NONBLOCK), three = eventfd(0, EFD_NONBLOCK);
	int word = eventfd(0, EFD_NONBLOCK);
	struct doorbell d_any = { .addr = 0x1010, .fd = any };
	struct doorbell d_three = { .addr = 0x1020,
				    .size = 2,
				    .has_value = true,
				    .value = 3,
				    .fd = three };
	struct doorbell d_word = { .addr = 0x1030, .size = 2, .fd = word };

	bus_map(bus, 0x1000, 64, "toy", &any_ops, &t, NULL);
	assert_int_equal(bus_doorbell(bus, &d_three, true), 0);
	assert_int_equal(bus_doorbell(bus, &d_any, true), 0);
	assert_int_equal(bus_doorbell(bus, &d_word, true), 0);
	assert_int_equal(bus_doorbell(bus, &d_any, true), -EEXIST);

	assert_true(bus_write(bus, 0, 0x1010, 1, 9));
	assert_true(bus_write(bus, 0, 0x1010, 4, 9));
	assert_int_equal(rung(any), 2);
	assert_true(bus_write(bus, 0, 0x1020, 2, 3));
	assert_true(bus_write(bus, 0, 0x1030, 2, 1234));
	assert_int_equal(rung(three), 1);
	assert_int_equal(rung(word), 1);
	assert_int_equal(t.nr_calls, 0);

	/* Another value, another size: the device's. */
	bus_write(bus, 0, 0x1020, 2, 4);
	bus_write(bus, 0, 0x1020, 4, 3);
	bus_write(bus, 0, 0x1030, 4, 0);
	bus_write(bus, 0, 0x100f, 4, 0);
	assert_int_equal(t.nr_calls, 4);
	/* Reads do not ring. */
	bus_read(bus, 0, 0x1010, 4);
	assert_int_equal(rung(any), 0);
	assert_int_equal(rung(three), 0);
	assert_int_equal(rung(word), 0);

	assert_int_equal(bus_doorbell(bus, &d_any, false), 0);
	assert_int_equal(bus_doorbell(bus, &d_any, false), -ENOENT);
	t.nr_calls = 0;
	bus_write(bus, 0, 0x1010, 1, 9);
	assert_int_equal(t.nr_calls, 1);
	close(any);
	close(three);
	close(word);
}

static unsigned nr_set;
static struct doorbell last_set;
static bool last_on;

static int kernel_set(void *opaque, bool is_pio, const struct doorbell *d,
		      bool on)
{
	assert_ptr_equal(opaque, &nr_set);
	assert_false(is_pio);
	nr_set++;
	last_set = *d;
	last_on = on;
	return -ENOSPC; /* the bus rings it itself then */
}

static void c4_accelerator_is_offered_doorbells(void **state)
{
	static const struct doorbell_ops ops = { .set = kernel_set };
	struct bus *bus = *state;
	int fd = eventfd(0, EFD_NONBLOCK);
	struct doorbell d = { .addr = 0x50, .fd = fd };

	nr_set = 0;
	bus_set_doorbell_ops(bus, &ops, &nr_set);
	assert_int_equal(bus_doorbell(bus, &d, true), 0);
	assert_true(last_on && last_set.addr == 0x50 && last_set.fd == fd);
	bus_write(bus, 0, 0x50, 4, 0);
	assert_int_equal(rung(fd), 1);
	bus_doorbell(bus, &d, false);
	assert_true(!last_on && nr_set == 2);
	close(fd);
}

/* A register that moves its own range, as a BAR behind a command register. */
struct mover {
	struct bus *bus;
	pthread_mutex_t lock;
	uint64_t base;
	unsigned nr_calls;
};

static void mover_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
			uint64_t value);
static const struct bus_ops mover_ops = { NULL, mover_write, 0, 0 };

static void mover_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
			uint64_t value)
{
	struct mover *m = dev;

	m->nr_calls++;
	assert_int_equal(bus_unmap(m->bus, m->base), 0);
	m->base = value;
	assert_int_equal(
		bus_map(m->bus, m->base, 16, "mover", &mover_ops, m, &m->lock),
		0);
}

static void handler_may_move_itself(void **state)
{
	struct bus *bus = *state;
	struct mover m = { .bus = bus, .base = 0x1000 };

	pthread_mutex_init(&m.lock, NULL);
	bus_map(bus, 0x1000, 16, "mover", &mover_ops, &m, &m.lock);
	assert_true(bus_write(bus, 0, 0x1000, 4, 0x2000));
	assert_false(bus_write(bus, 0, 0x1000, 4, 0x3000));
	assert_true(bus_write(bus, 0, 0x2000, 4, 0x1008));
	assert_true(bus_write(bus, 0, 0x1010, 4, 0x4000));
	assert_int_equal(m.nr_calls, 3);
	/* Unreadable registers read ones. */
	assert_int_equal(bus_read(bus, 0, 0x4000, 2), 0xffff);
	pthread_mutex_destroy(&m.lock);
}

/* A device that must not be called after bus_unmap() returned. */
struct fragile {
	struct bus *bus;
	pthread_mutex_t lock;
	pthread_mutex_t *used; /* &lock, or NULL */
	int is_alive;          /* atomic */
	int nr_bad;            /* atomic */
	int is_stopping;       /* atomic */
	uint64_t nr_calls;     /* atomic */
};

static uint64_t fragile_read(void *dev, unsigned cpu, uint64_t offset,
			     unsigned size)
{
	struct fragile *f = dev;

	if (!__atomic_load_n(&f->is_alive, __ATOMIC_SEQ_CST))
		__atomic_add_fetch(&f->nr_bad, 1, __ATOMIC_SEQ_CST);
	for (volatile int i = 0; i < 50; i++)
		;
	if (!__atomic_load_n(&f->is_alive, __ATOMIC_SEQ_CST))
		__atomic_add_fetch(&f->nr_bad, 1, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&f->nr_calls, 1, __ATOMIC_RELAXED);
	return 0;
}

static const struct bus_ops fragile_ops = { fragile_read, NULL, 0, 0 };

struct reader {
	struct fragile *f;
	unsigned cpu;
	pthread_t thread;
};

static void *reader_main(void *opaque)
{
	struct reader *r = opaque;

	while (!__atomic_load_n(&r->f->is_stopping, __ATOMIC_RELAXED)) {
		uint64_t v = bus_read(r->f->bus, r->cpu, 0x1000, 4);

		if (v != 0 && v != 0xffffffff)
			__atomic_add_fetch(&r->f->nr_bad, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* (with_lock): the unmapper holds the device's lock, as a register handler
 * that unmaps would. */
static void hammer(struct bus *bus, bool is_locked, bool with_lock)
{
	struct fragile f = { .bus = bus };
	struct reader readers[3];
	struct toy other = { 0 };

	pthread_mutex_init(&f.lock, NULL);
	f.used = is_locked ? &f.lock : NULL;
	for (unsigned i = 0; i < 3; i++) {
		readers[i] = (struct reader){ .f = &f, .cpu = i };
		assert_int_equal(pthread_create(&readers[i].thread, NULL,
						reader_main, &readers[i]),
				 0);
	}
	for (unsigned i = 0; i < 3000 || !f.nr_calls; i++) {
		__atomic_store_n(&f.is_alive, 1, __ATOMIC_SEQ_CST);
		assert_int_equal(
			bus_map(bus, 0x1000, 8, "f", &fragile_ops, &f, f.used),
			0);
		bus_map(bus, 0x800 + i % 8 * 64, 64, "o", &any_ops, &other,
			NULL);
		if (i % 16 == 0)
			usleep(10);
		if (with_lock)
			pthread_mutex_lock(&f.lock);
		assert_int_equal(bus_unmap(bus, 0x1000), 0);
		__atomic_store_n(&f.is_alive, 0, __ATOMIC_SEQ_CST);
		if (with_lock)
			pthread_mutex_unlock(&f.lock);
		bus_unmap(bus, 0x800 + i % 8 * 64);
	}
	__atomic_store_n(&f.is_stopping, 1, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(readers[i].thread, NULL);
	assert_int_equal(f.nr_bad, 0);
	pthread_mutex_destroy(&f.lock);
}

static void unmap_against_readers(void **state)
{
	hammer(*state, false, false);
}

static void unmap_against_readers_of_a_locked_device(void **state)
{
	hammer(*state, true, false);
}

static void unmap_with_the_lock_that_readers_wait_for(void **state)
{
	hammer(*state, true, true);
}

struct ringer_thread {
	struct bus *bus;
	pthread_t thread;
	unsigned cpu;
	uint64_t nr_rung;
};

static void *ring_main(void *opaque)
{
	struct ringer_thread *r = opaque;

	for (unsigned i = 0; i < 20000; i++)
		r->nr_rung += bus_write(r->bus, r->cpu, 0x100, 4, 1);
	return NULL;
}

static void doorbells_from_many_threads(void **state)
{
	struct bus *bus = *state;
	int fd = eventfd(0, EFD_NONBLOCK);
	struct doorbell d = { .addr = 0x100, .fd = fd };
	struct ringer_thread t[3];
	uint64_t sum = 0;

	for (unsigned i = 0; i < 3; i++) {
		t[i] = (struct ringer_thread){ .bus = bus, .cpu = i };
		pthread_create(&t[i].thread, NULL, ring_main, &t[i]);
	}
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(bus_doorbell(bus, &d, true), 0);
		assert_int_equal(bus_doorbell(bus, &d, false), 0);
	}
	for (unsigned i = 0; i < 3; i++) {
		pthread_join(t[i].thread, NULL);
		sum += t[i].nr_rung;
	}
	/* As many signals as writes that were told so. */
	assert_int_equal(rung(fd), sum);
	close(fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(b15_overlap_rules),
		T(b15_owners_are_listed_in_order),
		T(c1_nothing_reads_ones_and_drops_writes),
		T(c1_cpu_reaches_the_device),
		T(c2_all_sizes_and_alignments),
		T(c2_splitting_into_what_the_device_takes),
		T(access_across_two_owners),
		T(c4_doorbells_come_before_ranges),
		T(c4_accelerator_is_offered_doorbells),
		T(handler_may_move_itself),
		T(unmap_against_readers),
		T(unmap_against_readers_of_a_locked_device),
		T(unmap_with_the_lock_that_readers_wait_for),
		T(doorbells_from_many_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
