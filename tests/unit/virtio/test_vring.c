/* The split ring by itself: a driver that writes guest memory, no device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "device/virtio/vring.h"
#include "state/stream.h"

#define SIZE  16
#define RAM   (1 * MiB)
#define DESC  0x1000ULL
#define AVAIL 0x2000ULL
#define USED  0x3000ULL
#define TABLE 0x4000ULL
#define BUF   0x10000ULL
#define ROM   (16 * MiB)
#define HOLE  (12 * MiB)
#define NEXT  1
#define WRITE 2
#define INDIR 4

struct ring {
	struct gmem mem;
	struct dma_space dma;
	struct vring vq;
	struct vring_chain chain;
	struct vring_piece piece[2 * SIZE];
	uint16_t avail_idx;
};

static void *at(struct ring *r, uint64_t gpa, uint64_t len)
{
	void *hva = gmem_at(&r->mem, gpa, len);

	assert_non_null(hva);
	return hva;
}

static void start(struct ring *r, bool has_event_idx)
{
	const char *why;

	memset(at(r, DESC, 0xf000), 0, 0xf000);
	vring_reset(&r->vq);
	r->vq.has_event_idx = has_event_idx;
	r->vq.has_indirect = true;
	r->vq.desc = DESC;
	r->vq.avail = AVAIL;
	r->vq.used = USED;
	r->avail_idx = 0;
	assert_true(vring_enable(&r->vq, &why));
}

static int setup(void **state)
{
	struct ring *r = calloc(1, sizeof(*r));

	assert_non_null(r);
	gmem_init(&r->mem);
	/* Two regions side by side, and ROM elsewhere. */
	assert_int_equal(gmem_add(&r->mem, "a", 0, RAM, 0, NULL), 0);
	assert_int_equal(gmem_add(&r->mem, "b", RAM, RAM, 0, NULL), 0);
	assert_int_equal(gmem_add(&r->mem, "rom", ROM, RAM, GMEM_RO, NULL), 0);
	r->dma.mem = &r->mem;
	r->vq.dma = &r->dma;
	r->vq.max_size = SIZE;
	r->chain.piece = r->piece;
	r->chain.max = ARRAY_SIZE(r->piece);
	start(r, false);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct ring *r = *state;

	vring_reset(&r->vq);
	gmem_finish(&r->mem);
	free(r);
	return 0;
}

static void desc(struct ring *r, uint64_t table, unsigned i, uint64_t gpa,
		 uint32_t len, uint16_t flags, uint16_t next)
{
	uint64_t raw[2] = { gpa, len | (uint64_t)flags << 32 |
					 (uint64_t)next << 48 };

	memcpy(at(r, table + 16 * i, 16), raw, 16);
}

static void offer(struct ring *r, uint16_t head)
{
	memcpy(at(r, AVAIL + 4 + 2 * (r->avail_idx % SIZE), 2), &head, 2);
	r->avail_idx++;
	memcpy(at(r, AVAIL + 2, 2), &r->avail_idx, 2);
}

static enum vring_result pop(struct ring *r, const char **why)
{
	const char *unused;

	return vring_pop(&r->vq, &r->chain, why ? why : &unused);
}

static uint16_t used16(struct ring *r, uint64_t offset)
{
	uint16_t v;

	memcpy(&v, at(r, USED + offset, 2), 2);
	return v;
}

static void c10_split_ring_round_trip(void **state)
{
	struct ring *r = *state;
	char text[8] = "";
	uint32_t element[2];

	memcpy(at(r, BUF, 6), "hello", 6);
	desc(r, DESC, 3, BUF, 6, NEXT, 5);
	desc(r, DESC, 5, BUF + 0x100, 4, NEXT | WRITE, 7);
	desc(r, DESC, 7, BUF + 0x200, 4, WRITE, 0);
	assert_int_equal(pop(r, NULL), VRING_EMPTY);
	offer(r, 3);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.head, 3);
	assert_int_equal(r->chain.nr_out, 1);
	assert_int_equal(r->chain.nr_in, 2);
	assert_int_equal(r->chain.out_len, 6);
	assert_int_equal(r->chain.in_len, 8);
	assert_true(vring_read(&r->chain, 0, text, 6));
	assert_string_equal(text, "hello");
	assert_true(vring_read(&r->chain, 3, text, 3));
	assert_string_equal(text, "lo");
	assert_false(vring_read(&r->chain, 1, text, 6));
	assert_false(vring_read(&r->chain, UINT64_MAX, text, 2));
	/* Across two descriptors. */
	assert_true(vring_write(&r->chain, 2, "wxyz", 4));
	assert_false(vring_write(&r->chain, 5, "wxyz", 4));
	assert_memory_equal(at(r, BUF + 0x102, 2), "wx", 2);
	assert_memory_equal(at(r, BUF + 0x200, 2), "yz", 2);
	vring_push(&r->vq, &r->chain, 6);
	assert_int_equal(used16(r, 2), 1);
	memcpy(element, at(r, USED + 4, 8), 8);
	assert_int_equal(element[0], 3);
	assert_int_equal(element[1], 6);
	assert_int_equal(pop(r, NULL), VRING_EMPTY);
}

static void c10_indices_wrap_past_65536(void **state)
{
	struct ring *r = *state;

	for (unsigned event = 0; event < 2; event++) {
		start(r, event);
		desc(r, DESC, 0, BUF, 8, WRITE, 0);
		desc(r, DESC, 1, BUF, 8, 0, 0);
		for (unsigned i = 0; i < 70000; i++) {
			offer(r, i & 1);
			if (i % 3 == 2)
				offer(r, i & 1);
			while (pop(r, NULL) == VRING_CHAIN)
				vring_push(&r->vq, &r->chain,
					   r->chain.nr_in ? 8 : 0);
			assert_int_equal(used16(r, 2), r->avail_idx);
			vring_should_notify(&r->vq);
		}
		assert_true(r->vq.nr_chains > 65536);
	}
}

static void c10_indirect_after_direct(void **state)
{
	struct ring *r = *state;

	desc(r, TABLE, 0, BUF, 1, NEXT, 2);
	desc(r, TABLE, 2, BUF + 1, 2, NEXT | WRITE, 1);
	desc(r, TABLE, 1, BUF + 3, 4, WRITE, 0);
	desc(r, DESC, 0, BUF + 64, 16, NEXT, 1);
	/* The write flag of what refers to the table is to be ignored. */
	desc(r, DESC, 1, TABLE, 48, INDIR | WRITE, 0);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.out_len, 17);
	assert_int_equal(r->chain.in_len, 6);
	vring_push(&r->vq, &r->chain, 0);
	/* A table need not be aligned, nor in one region. */
	desc(r, TABLE + 1, 0, BUF, 5, 0, 0);
	desc(r, DESC, 2, TABLE + 1, 16, INDIR, 0);
	offer(r, 2);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.out_len, 5);
	vring_push(&r->vq, &r->chain, 0);
	memcpy(at(r, RAM - 8, 8), &(uint64_t){ BUF }, 8);
	memcpy(at(r, RAM, 8), &(uint64_t){ 9 }, 8);
	desc(r, DESC, 3, RAM - 8, 16, INDIR, 0);
	offer(r, 3);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.out_len, 9);
	vring_push(&r->vq, &r->chain, 0);
}

static void c10_pieces_split_where_regions_meet(void **state)
{
	struct ring *r = *state;
	struct iovec iov[2 * SIZE];

	desc(r, DESC, 0, RAM - 100, 300, WRITE, 0);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.nr_in, 2);
	assert_int_equal(r->piece[0].len, 100);
	assert_int_equal(r->piece[1].len, 200);
	assert_int_equal(vring_iov(&r->chain, true, 50, 100, iov), 2);
	assert_int_equal(iov[0].iov_len, 50);
	assert_int_equal(iov[1].iov_len, 50);
	assert_ptr_equal(iov[1].iov_base, at(r, RAM, 1));
	assert_int_equal(vring_iov(&r->chain, true, 50, 251, iov), -1);
	assert_int_equal(vring_iov(&r->chain, true, 300, 0, iov), 0);
	vring_push(&r->vq, &r->chain, 300);
}

static uint8_t take_dirty(struct ring *r, uint64_t gpa)
{
	struct gmem_region *region = gmem_find(&r->mem, gpa);
	uint8_t *flags = &region->page_flags[(gpa - region->gpa) >> PAGE_SHIFT];
	uint8_t old = *flags;

	*flags = 0;
	return old & GMEM_PAGE_DIRTY;
}

static void c10_written_pages_become_dirty(void **state)
{
	struct ring *r = *state;

	desc(r, DESC, 0, BUF, 16, NEXT, 1);
	desc(r, DESC, 1, BUF + 0x1000, 0x1000, NEXT | WRITE, 2);
	desc(r, DESC, 2, BUF + 0x2000, 0x2000, WRITE, 0);
	for (uint64_t gpa = 0; gpa < 0x20000; gpa += PAGE_SIZE)
		take_dirty(r, gpa);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	vring_push(&r->vq, &r->chain, 0x1001);
	assert_true(take_dirty(r, USED));
	assert_false(take_dirty(r, DESC));
	assert_false(take_dirty(r, AVAIL));
	assert_false(take_dirty(r, BUF));
	assert_true(take_dirty(r, BUF + 0x1000));
	assert_true(take_dirty(r, BUF + 0x2000));
	assert_false(take_dirty(r, BUF + 0x3000));
}

static void c10_empty_descriptors_are_legal(void **state)
{
	struct ring *r = *state;

	desc(r, DESC, 0, HOLE, 0, NEXT, 1);
	desc(r, DESC, 1, BUF, 4, NEXT, 2);
	desc(r, DESC, 2, HOLE, 0, WRITE, 0);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.out_len, 4);
	assert_int_equal(r->chain.nr_out + r->chain.nr_in, 1);
	vring_push(&r->vq, &r->chain, 0);
}

static void c13_flags_suppress(void **state)
{
	struct ring *r = *state;

	desc(r, DESC, 0, BUF, 4, 0, 0);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	vring_disable_kicks(&r->vq);
	assert_int_equal(used16(r, 0), 1);
	vring_push(&r->vq, &r->chain, 0);
	assert_true(vring_should_notify(&r->vq));
	memcpy(at(r, AVAIL, 2), &(uint16_t){ 1 }, 2);
	assert_false(vring_should_notify(&r->vq));
	assert_false(vring_enable_kicks(&r->vq));
	assert_int_equal(used16(r, 0), 0);
	offer(r, 0);
	assert_true(vring_enable_kicks(&r->vq));
	assert_int_equal(r->vq.nr_interrupts, 1);
	assert_int_equal(r->vq.nr_suppressed, 1);
}

static void set_used_event(struct ring *r, uint16_t event)
{
	memcpy(at(r, AVAIL + 4 + 2 * SIZE, 2), &event, 2);
}

static void c13_event_index_suppresses(void **state)
{
	struct ring *r = *state;
	unsigned nr = 0;

	start(r, true);
	desc(r, DESC, 0, BUF, 4, 0, 0);
	/* An interrupt each fourth; across the wrap of the index. */
	for (unsigned i = 0; i < 66000; i++) {
		set_used_event(r, (uint16_t)(i & ~3u) + 3);
		offer(r, 0);
		assert_int_equal(pop(r, NULL), VRING_CHAIN);
		vring_push(&r->vq, &r->chain, 0);
		if (vring_should_notify(&r->vq) && i)
			assert_int_equal(i % 4, 3), nr++;
	}
	assert_int_equal(nr, 66000 / 4);
	/* A kick is wanted for what comes next. */
	vring_disable_kicks(&r->vq);
	assert_int_equal(used16(r, 0), 0);
	assert_false(vring_enable_kicks(&r->vq));
	assert_int_equal(used16(r, 4 + 8 * SIZE), r->avail_idx);
}

/* Each makes the ring of (r) bad in one way. */

static void self_loop(struct ring *r)
{
	desc(r, DESC, 0, BUF, 4, NEXT, 0);
	offer(r, 0);
}

static void mutual_loop(struct ring *r)
{
	desc(r, DESC, 0, BUF, 4, NEXT, 1);
	desc(r, DESC, 1, BUF, 4, NEXT, 0);
	offer(r, 0);
}

static void empty_loop(struct ring *r)
{
	desc(r, DESC, 0, BUF, 0, NEXT, 1);
	desc(r, DESC, 1, BUF, 0, NEXT, 0);
	offer(r, 0);
}

static void head_out_of_range(struct ring *r)
{
	offer(r, SIZE);
}

static void head_far_out_of_range(struct ring *r)
{
	offer(r, 0xffff);
}

static void next_out_of_range(struct ring *r)
{
	desc(r, DESC, 0, BUF, 4, NEXT, SIZE);
	offer(r, 0);
}

static void readable_after_writable(struct ring *r)
{
	desc(r, DESC, 0, BUF, 4, NEXT | WRITE, 1);
	desc(r, DESC, 1, BUF, 4, 0, 0);
	offer(r, 0);
}

static void readable_after_writable_indirect(struct ring *r)
{
	desc(r, TABLE, 0, BUF, 4, NEXT | WRITE, 1);
	desc(r, TABLE, 1, BUF, 4, 0, 0);
	desc(r, DESC, 0, TABLE, 32, INDIR, 0);
	offer(r, 0);
}

static void buffer_in_hole(struct ring *r)
{
	desc(r, DESC, 0, HOLE, 4, 0, 0);
	offer(r, 0);
}

static void buffer_runs_into_hole(struct ring *r)
{
	desc(r, DESC, 0, 2 * RAM - 2, 4, 0, 0);
	offer(r, 0);
}

static void buffer_at_top(struct ring *r)
{
	desc(r, DESC, 0, UINT64_MAX, 1, 0, 0);
	offer(r, 0);
}

static void buffer_wraps(struct ring *r)
{
	desc(r, DESC, 0, UINT64_MAX - 2, 0x1000, WRITE, 0);
	offer(r, 0);
}

static void buffer_wraps_to_ram(struct ring *r)
{
	desc(r, DESC, 0, -(uint64_t)0x1000, 0x2000, WRITE, 0);
	offer(r, 0);
}

static void write_to_rom(struct ring *r)
{
	desc(r, DESC, 0, ROM, 4, WRITE, 0);
	offer(r, 0);
}

static void longest_length(struct ring *r)
{
	desc(r, DESC, 0, BUF, UINT32_MAX, 0, 0);
	offer(r, 0);
}

static void second_is_bad(struct ring *r)
{
	desc(r, DESC, 0, BUF, 4, NEXT, 1);
	desc(r, DESC, 1, HOLE, 4, WRITE, 0);
	offer(r, 0);
}

static void index_jumps(struct ring *r)
{
	r->avail_idx = SIZE;
	offer(r, 0);
}

static void index_jumps_by_half(struct ring *r)
{
	r->avail_idx = 0x7fff;
	offer(r, 0);
}

static void index_goes_back(struct ring *r)
{
	r->avail_idx = 0xfffe;
	offer(r, 0);
}

static void indirect_not_offered(struct ring *r)
{
	r->vq.has_indirect = false;
	desc(r, TABLE, 0, BUF, 4, 0, 0);
	desc(r, DESC, 0, TABLE, 16, INDIR, 0);
	offer(r, 0);
}

static void indirect_nested(struct ring *r)
{
	desc(r, TABLE, 0, TABLE, 16, INDIR, 0);
	desc(r, DESC, 0, TABLE, 16, INDIR, 0);
	offer(r, 0);
}

static void indirect_goes_on(struct ring *r)
{
	desc(r, TABLE, 0, BUF, 4, 0, 0);
	desc(r, DESC, 0, TABLE, 16, INDIR | NEXT, 1);
	desc(r, DESC, 1, BUF, 4, 0, 0);
	offer(r, 0);
}

static void indirect_empty(struct ring *r)
{
	desc(r, DESC, 0, TABLE, 0, INDIR, 0);
	offer(r, 0);
}

static void indirect_odd(struct ring *r)
{
	desc(r, DESC, 0, TABLE, 17, INDIR, 0);
	offer(r, 0);
}

static void indirect_short(struct ring *r)
{
	desc(r, DESC, 0, TABLE, 15, INDIR, 0);
	offer(r, 0);
}

static void indirect_too_long(struct ring *r)
{
	desc(r, TABLE, 0, BUF, 4, 0, 0);
	desc(r, DESC, 0, TABLE, (SIZE + 1) * 16, INDIR, 0);
	offer(r, 0);
}

static void indirect_gigantic(struct ring *r)
{
	desc(r, TABLE, 0, BUF, 4, 0, 0);
	desc(r, DESC, 0, TABLE, 0xfffffff0, INDIR, 0);
	offer(r, 0);
}

static void indirect_in_hole(struct ring *r)
{
	desc(r, DESC, 0, HOLE, 16, INDIR, 0);
	offer(r, 0);
}

static void indirect_runs_into_hole(struct ring *r)
{
	desc(r, 2 * RAM - 16, 0, BUF, 4, NEXT, 1);
	desc(r, DESC, 0, 2 * RAM - 16, 32, INDIR, 0);
	offer(r, 0);
}

static void indirect_wraps(struct ring *r)
{
	desc(r, DESC, 0, -(uint64_t)16, 32, INDIR, 0);
	offer(r, 0);
}

static void indirect_loops(struct ring *r)
{
	desc(r, TABLE, 0, BUF, 1, NEXT, 1);
	desc(r, TABLE, 1, BUF, 1, NEXT, 0);
	desc(r, DESC, 0, TABLE, 32, INDIR, 0);
	offer(r, 0);
}

static void indirect_next_out_of_range(struct ring *r)
{
	desc(r, TABLE, 0, BUF, 1, NEXT, 2);
	desc(r, DESC, 0, TABLE, 32, INDIR, 0);
	offer(r, 0);
}

static void more_pieces_than_room(struct ring *r)
{
	r->chain.max = 3;
	for (unsigned i = 0; i < 4; i++)
		desc(r, DESC, i, BUF, 4, i < 3 ? NEXT : 0, i + 1);
	offer(r, 0);
}

static void c9_bad_rings_are_broken(void **state)
{
	/* clang-format off */
	static const struct {
		void (*make)(struct ring *r);
		const char *why;
	} cases[] = {
		{ self_loop, "loops" },
		{ mutual_loop, "loops" },
		{ empty_loop, "loops" },
		{ head_out_of_range, "out of range" },
		{ head_far_out_of_range, "out of range" },
		{ next_out_of_range, "out of range" },
		{ readable_after_writable, "behind a writable" },
		{ readable_after_writable_indirect, "behind a writable" },
		{ buffer_in_hole, "not RAM" },
		{ buffer_runs_into_hole, "not RAM" },
		{ buffer_at_top, "wraps" },
		{ buffer_wraps, "wraps" },
		{ buffer_wraps_to_ram, "wraps" },
		{ write_to_rom, "not RAM" },
		{ longest_length, "not RAM" },
		{ second_is_bad, "not RAM" },
		{ index_jumps, "index moved" },
		{ index_jumps_by_half, "index moved" },
		{ index_goes_back, "index moved" },
		{ indirect_not_offered, "without the feature" },
		{ indirect_nested, "in an indirect" },
		{ indirect_goes_on, "goes on" },
		{ indirect_empty, "odd length" },
		{ indirect_odd, "odd length" },
		{ indirect_short, "odd length" },
		{ indirect_too_long, "longer than the queue" },
		{ indirect_gigantic, "longer than the queue" },
		{ indirect_in_hole, "not RAM" },
		{ indirect_runs_into_hole, "not RAM" },
		{ indirect_wraps, "wraps" },
		{ indirect_loops, "loops" },
		{ indirect_next_out_of_range, "out of range" },
		{ more_pieces_than_room, "more buffers" },
	};
	/* clang-format on */
	struct ring *r = *state;
	const char *why;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		start(r, false);
		cases[i].make(r);
		assert_int_equal(pop(r, &why), VRING_BROKEN);
		if (!strstr(why, cases[i].why))
			fail_msg("case %zu: %s", i, why);
		/* Nothing was taken, and nothing stays mapped. */
		assert_int_equal(r->vq.last_avail, 0);
		assert_int_equal(r->chain.nr_in + r->chain.nr_out, 0);
		assert_int_equal(used16(r, 2), 0);
		r->chain.max = ARRAY_SIZE(r->piece);
	}
}

/* Chains of almost nothing but length: 16 entries of 1 MiB are fine, and the
 * sum of lengths is what counts, not what is behind them. */
static void c9_total_length_is_bounded(void **state)
{
	struct ring *r = *state;
	struct vring_piece *piece = calloc(64, sizeof(*piece));
	const char *why;

	assert_non_null(piece);
	for (unsigned i = 0; i < SIZE; i++)
		desc(r, DESC, i, 0, RAM, i + 1 < SIZE ? NEXT : 0, i + 1);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	assert_int_equal(r->chain.out_len, SIZE * RAM);
	vring_push(&r->vq, &r->chain, 0);
	free(piece);

	/* Only a region of gigabytes shows the bound itself. */
	assert_int_equal(gmem_add(&r->mem, "big", 8 * GiB, 3 * GiB, 0, NULL),
			 0);
	start(r, false);
	desc(r, DESC, 0, 8 * GiB, 3 * GiB - 1, NEXT, 1);
	desc(r, DESC, 1, 8 * GiB, 1 * GiB + 1, 0, 0);
	offer(r, 0);
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	vring_drop(&r->vq, &r->chain, 0);
	start(r, false);
	desc(r, DESC, 0, 8 * GiB, 3 * GiB - 1, NEXT, 1);
	desc(r, DESC, 1, 8 * GiB, 1 * GiB + 2, 0, 0);
	offer(r, 0);
	assert_int_equal(pop(r, &why), VRING_BROKEN);
	assert_non_null(strstr(why, "4 GiB"));
}

static void c9_geometry_is_checked(void **state)
{
	static const struct {
		uint64_t desc, avail, used;
	} bad[] = {
		{ DESC + 8, AVAIL, USED },      { DESC, AVAIL + 1, USED },
		{ DESC, AVAIL, USED + 2 },      { HOLE, AVAIL, USED },
		{ DESC, HOLE, USED },           { DESC, AVAIL, HOLE },
		{ DESC, AVAIL, ROM },           { 2 * RAM - 16, AVAIL, USED },
		{ DESC, 2 * RAM - 8, USED },    { DESC, AVAIL, 2 * RAM - 8 },
		{ -(uint64_t)16, AVAIL, USED }, { DESC, -(uint64_t)8, USED },
		{ DESC, AVAIL, -(uint64_t)8 },
	};
	struct ring *r = *state;
	const char *why;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vring_reset(&r->vq);
		r->vq.desc = bad[i].desc;
		r->vq.avail = bad[i].avail;
		r->vq.used = bad[i].used;
		why = NULL;
		assert_false(vring_enable(&r->vq, &why));
		assert_non_null(why);
		assert_false(r->vq.is_enabled);
	}
}

static void state_goes_on(void **state)
{
	struct ring *r = *state;
	struct vring other = { .dma = &r->dma, .max_size = SIZE };
	struct stream s;
	size_t len;
	uint8_t *data;

	desc(r, DESC, 0, BUF, 4, 0, 0);
	for (unsigned i = 0; i < 70; i++) {
		offer(r, 0);
		assert_int_equal(pop(r, NULL), VRING_CHAIN);
		vring_push(&r->vq, &r->chain, 0);
	}
	offer(r, 0);
	stream_init_save(&s);
	vring_state(&r->vq, &s);
	assert_int_equal(stream_error(&s), 0);
	len = s.len;
	data = malloc(len);
	assert_non_null(data);
	memcpy(data, s.data, len);
	stream_finish(&s);

	stream_init_load(&s, data, len);
	vring_state(&other, &s);
	assert_int_equal(stream_error(&s), 0);
	vring_reset(&r->vq);
	r->vq = other;
	assert_int_equal(pop(r, NULL), VRING_CHAIN);
	vring_push(&r->vq, &r->chain, 0);
	assert_int_equal(used16(r, 2), 71);
	assert_int_equal(pop(r, NULL), VRING_EMPTY);

	/* Every flipped bit is refused or gives a ring that can be used. */
	for (size_t bit = 0; bit < len * 8; bit++) {
		struct vring copy = { .dma = &r->dma, .max_size = SIZE };
		struct vring_chain chain = { .piece = r->piece,
					     .max = 2 * SIZE };
		const char *why;

		data[bit / 8] ^= 1 << bit % 8;
		stream_init_load(&s, data, len);
		vring_state(&copy, &s);
		if (!stream_error(&s) && copy.is_enabled &&
		    vring_pop(&copy, &chain, &why) == VRING_CHAIN)
			vring_push(&copy, &chain, 0);
		vring_reset(&copy);
		data[bit / 8] ^= 1 << bit % 8;
	}
	free(data);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(c10_split_ring_round_trip),
		T(c10_indices_wrap_past_65536),
		T(c10_indirect_after_direct),
		T(c10_pieces_split_where_regions_meet),
		T(c10_written_pages_become_dirty),
		T(c10_empty_descriptors_are_legal),
		T(c13_flags_suppress),
		T(c13_event_index_suppresses),
		T(c9_bad_rings_are_broken),
		T(c9_total_length_is_bounded),
		T(c9_geometry_is_checked),
		T(state_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
