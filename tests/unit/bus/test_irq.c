#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "bus/dma.h"
#include "bus/irq.h"

/* A controller that wants its calls one after the other. */
struct wire {
	int is_busy; /* atomic */
	int nr_bad;
	int nr_sets;
	bool level;
};

static void wire_set(void *ctl, unsigned n, bool level)
{
	struct wire *w = ctl;

	if (__atomic_exchange_n(&w->is_busy, 1, __ATOMIC_ACQUIRE))
		__atomic_add_fetch(&w->nr_bad, 1, __ATOMIC_RELAXED);
	w->level = level;
	w->nr_sets++;
	__atomic_store_n(&w->is_busy, 0, __ATOMIC_RELEASE);
}

static void shared_line_is_an_or(void **state)
{
	struct wire w = { 0 };
	struct irq_shared s = { .out = { wire_set, &w, 0 } };
	struct irq_line a = irq_shared_line(&s, 0);
	struct irq_line b = irq_shared_line(&s, 29);

	irq_set(a, false);
	assert_int_equal(w.nr_sets, 0);
	irq_set(a, true);
	assert_true(w.level);
	irq_set(b, true);
	irq_set(a, false);
	assert_true(w.level);
	assert_int_equal(s.mask, 1u << 29);
	irq_set(b, false);
	assert_false(w.level);
	assert_int_equal(s.mask, 0);
	/* A line to nowhere. */
	irq_set((struct irq_line){ 0 }, true);
}

struct source {
	struct irq_line line;
	bool last;
	pthread_t thread;
};

static void *toggle(void *opaque)
{
	struct source *s = opaque;

	for (unsigned i = 0; i < 50000; i++)
		irq_set(s->line, i % 2 == 0);
	irq_set(s->line, s->last);
	return NULL;
}

/* Whoever comes last, the wire ends as the mask says. */
static void shared_line_from_two_threads(void **state)
{
	for (unsigned round = 0; round < 12; round++) {
		struct wire w = { 0 };
		struct irq_shared s = { .out = { wire_set, &w, 0 } };
		struct source src[2];

		for (unsigned i = 0; i < 2; i++) {
			src[i].line = irq_shared_line(&s, i);
			src[i].last = round >> i & 1;
			pthread_create(&src[i].thread, NULL, toggle, &src[i]);
		}
		for (unsigned i = 0; i < 2; i++)
			pthread_join(src[i].thread, NULL);
		assert_int_equal(s.mask, round & 3);
		assert_int_equal(w.level, (round & 3) != 0);
		assert_int_equal(w.nr_bad, 0);
	}
}

static unsigned gsi_seen;
static bool gsi_level;

static void chip_set_gsi(void *chip, unsigned gsi, bool level)
{
	gsi_seen = gsi;
	gsi_level = level;
}

static void gsi_line_reaches_the_chip(void **state)
{
	static const struct irqchip_ops ops = { .set_gsi = chip_set_gsi };
	struct irqchip chip = { 0 };
	struct irq_line line = irq_gsi_line(&chip, 19);

	irq_set(line, true); /* no chip yet */
	chip.ops = &ops;
	irq_set(line, true);
	assert_int_equal(gsi_seen, 19);
	assert_true(gsi_level);
}

static void dma_respects_memory(void **state)
{
	struct gmem mem;
	struct dma_space dma = { .mem = &mem };
	struct err err = { 0 };
	char buf[32] = "some bytes";
	uint64_t len = 2 * PAGE_SIZE;
	uint8_t *p;

	gmem_init(&mem);
	gmem_add(&mem, "a", 0, PAGE_SIZE, 0, &err);
	gmem_add(&mem, "b", PAGE_SIZE, PAGE_SIZE, 0, &err);
	gmem_add(&mem, "rom", 4 * PAGE_SIZE, PAGE_SIZE, GMEM_RO, &err);

	p = dma_map(&dma, 16, &len, DMA_FROM_DEVICE);
	assert_ptr_equal(p, mem.region[0].hva + 16);
	assert_int_equal(len, PAGE_SIZE - 16);
	assert_int_equal(mem.region[0].page_flags[0], 0);
	dma_unmap(&dma, 16, p, 4);
	assert_int_equal(mem.region[0].page_flags[0], GMEM_PAGE_DIRTY);

	assert_int_equal(dma_write(&dma, PAGE_SIZE - 16, buf, 32), 0);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(dma_read(&dma, PAGE_SIZE - 16, buf, 32), 0);
	assert_string_equal(buf, "some bytes");
	assert_int_equal(mem.region[1].page_flags[0], GMEM_PAGE_DIRTY);

	assert_int_equal(dma_read(&dma, 2 * PAGE_SIZE - 8, buf, 16), -EFAULT);
	assert_int_equal(dma_read(&dma, UINT64_MAX - 3, buf, 16), -EFAULT);
	assert_int_equal(dma_read(&dma, 4 * PAGE_SIZE, buf, 16), 0);
	assert_int_equal(dma_write(&dma, 4 * PAGE_SIZE, buf, 16), -EFAULT);
	len = 1;
	assert_null(dma_map(&dma, 2 * PAGE_SIZE, &len, DMA_TO_DEVICE));
	gmem_finish(&mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shared_line_is_an_or),
		cmocka_unit_test(shared_line_from_two_threads),
		cmocka_unit_test(gsi_line_reaches_the_chip),
		cmocka_unit_test(dma_respects_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
