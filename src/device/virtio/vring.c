/*
 * Theory of operation
 *
 * A split ring is three areas in guest memory (virtio 1.2, 2.7):
 *
 *   descriptors  (addr, len, flags, next) x size     the driver writes
 *   available    flags, idx, ring[size], used_event  the driver writes
 *   used         flags, idx, ring[size], avail_event we write
 *
 * The two areas that we only read are mapped once, when the driver enables the
 * queue; gmem's regions stay for the life of the machine. Every store into the
 * used area goes through the DMA door by itself, so that its page becomes
 * dirty.
 *
 * What the driver may do to us, and what stops it:
 *
 *   change memory while we look      each word is loaded once, into a copy
 *   make a chain that never ends     a budget of one table's length per table
 *   nest indirect tables             only the ring's own table may lead to one
 *   point anywhere                   only what dma_map() maps is touched
 *   ask for 2^64 bytes               at most 2^32 a chain (2.7.4.2)
 *   move the index by more than      refused
 *   there are descriptors
 *
 * Ordering: the available index is loaded with acquire before the entries that
 * it covers, and the used index stored with release behind its element. What
 * one side stores and the other tests before it looks at its own side (used
 * index and used_event, avail_event and available index, 2.7.7.1 and 2.7.10.1)
 * is sequentially consistent, so that one of them sees the other.
 */
#include "device/virtio/vring.h"

#include <string.h>

#include "base/endian.h"
#include "base/overflow.h"
#include "state/stream.h"

/* Descriptor flags (2.7.5), and those of the two rings (2.7.7, 2.7.10). */
#define DESC_NEXT          1
#define DESC_WRITE         2
#define DESC_INDIRECT      4
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

#define DESC_SIZE          16
#define CHAIN_MAX_SIZE     (4 * GiB) /* 2.7.4.2 */

/* Offsets in the available and the used area; the events are behind the rings
 * (2.7.6, 2.7.8). */
#define RING_FLAGS 0
#define RING_IDX   2
#define RING_START 4

static uint64_t avail_size(const struct vring *vq)
{
	return RING_START + 2ULL * vq->size + 2;
}

static uint64_t used_size(const struct vring *vq)
{
	return RING_START + 8ULL * vq->size + 2;
}

static uint64_t used_event_offset(const struct vring *vq)
{
	return avail_size(vq) - 2;
}

static uint64_t avail_event_offset(const struct vring *vq)
{
	return used_size(vq) - 2;
}

/* The area is 2-aligned (vring_enable()). */
static uint16_t avail_load(const struct vring *vq, uint64_t offset, int order)
{
	const char *at = (const char *)vq->avail_hva + offset;

	return __atomic_load_n((const uint16_t *)(const void *)at, order);
}

static void used_store16(struct vring *vq, uint64_t offset, uint16_t value)
{
	uint64_t iova = vq->used + offset, len = sizeof(value);
	uint16_t *hva = dma_map(vq->dma, iova, &len, DMA_FROM_DEVICE);

	if (!hva)
		return;
	__atomic_store_n(hva, value, __ATOMIC_SEQ_CST);
	dma_unmap(vq->dma, iova, hva, sizeof(value));
}

static void used_store_element(struct vring *vq, uint16_t head, uint32_t len)
{
	uint64_t iova =
		vq->used + RING_START + 8ULL * (vq->used_idx & (vq->size - 1));
	uint64_t size = 8;
	uint32_t *hva = dma_map(vq->dma, iova, &size, DMA_FROM_DEVICE);

	if (!hva)
		return;
	__atomic_store_n(&hva[0], head, __ATOMIC_RELAXED);
	__atomic_store_n(&hva[1], len, __ATOMIC_RELAXED);
	dma_unmap(vq->dma, iova, hva, size);
}

/* A descriptor table: the ring's own, or an indirect one. Without (hva) it
 * lies in several pieces of RAM. */
struct table {
	uint64_t iova;
	char *hva;
	unsigned nr;
	bool is_indirect;
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* The one fetch of descriptor (i). */
static bool table_fetch(const struct vring *vq, const struct table *t,
			unsigned i, struct desc *d)
{
	uint64_t raw[2];

	if (!t->hva) {
		if (dma_read(vq->dma, t->iova + (uint64_t)i * DESC_SIZE, raw,
			     sizeof(raw)))
			return false;
	} else if (t->iova % sizeof(raw[0])) {
		/* Indirect tables have no alignment (2.7.5.3). */
		memcpy(raw, t->hva + (size_t)i * DESC_SIZE, sizeof(raw));
	} else {
		const uint64_t *from = (const uint64_t *)(const void *)t->hva;

		raw[0] = __atomic_load_n(&from[2 * i], __ATOMIC_RELAXED);
		raw[1] = __atomic_load_n(&from[2 * i + 1], __ATOMIC_RELAXED);
	}
	*d = (struct desc){ .addr = raw[0],
			    .len = (uint32_t)raw[1],
			    .flags = (uint16_t)(raw[1] >> 32),
			    .next = (uint16_t)(raw[1] >> 48) };
	return true;
}

/* Go on in the indirect table that (d) points at (2.7.5.3). Its own write flag
 * is to be ignored. */
static const char *table_enter(struct vring *vq, struct table *t,
			       const struct desc *d)
{
	uint64_t len = d->len, end;

	if (!vq->has_indirect)
		return "indirect descriptor without the feature";
	if (t->is_indirect)
		return "indirect table in an indirect table";
	if (d->flags & DESC_NEXT)
		return "indirect descriptor that goes on";
	if (!len || len % DESC_SIZE)
		return "indirect table of odd length";
	if (len / DESC_SIZE > vq->max_size)
		return "indirect table longer than the queue";
	if (add_overflow(d->addr, len, &end))
		return "indirect table wraps";
	*t = (struct table){ .iova = d->addr,
			     .nr = (unsigned)(len / DESC_SIZE),
			     .is_indirect = true };
	t->hva = dma_map(vq->dma, d->addr, &len, DMA_TO_DEVICE);
	if (!t->hva)
		return "indirect table is not RAM";
	if (len < d->len) {
		dma_unmap(vq->dma, d->addr, t->hva, 0);
		t->hva = NULL;
	}
	return NULL;
}

static void table_leave(struct vring *vq, struct table *t)
{
	if (t->is_indirect && t->hva)
		dma_unmap(vq->dma, t->iova, t->hva, 0);
}

/* Map the buffer of (d) as pieces of (chain). An empty one is legal and holds
 * nothing. */
static const char *chain_add(struct vring *vq, struct vring_chain *chain,
			     const struct desc *d)
{
	bool is_in = d->flags & DESC_WRITE;
	uint64_t iova = d->addr, left = d->len, end;

	if (chain->nr_in && !is_in)
		return "readable descriptor behind a writable one";
	if (add_overflow(iova, left, &end))
		return "buffer wraps";
	if (chain->in_len + chain->out_len + left > CHAIN_MAX_SIZE)
		return "chain of more than 4 GiB";
	while (left) {
		unsigned n = chain->nr_out + chain->nr_in;
		uint64_t len = left;
		void *hva;

		if (n == chain->max)
			return "more buffers than the device takes";
		hva = dma_map(vq->dma, iova, &len,
			      is_in ? DMA_FROM_DEVICE : DMA_TO_DEVICE);
		if (!hva)
			return "buffer is not RAM";
		chain->piece[n] = (struct vring_piece){ .iova = iova,
							.hva = hva,
							.len = (uint32_t)len };
		if (is_in)
			chain->nr_in++;
		else
			chain->nr_out++;
		iova += len;
		left -= len;
	}
	if (is_in)
		chain->in_len += d->len;
	else
		chain->out_len += d->len;
	return NULL;
}

static const char *chain_walk(struct vring *vq, struct vring_chain *chain)
{
	struct table t = { .iova = vq->desc,
			   .hva = vq->desc_hva,
			   .nr = vq->size };
	unsigned i = chain->head, left = t.nr;
	const char *why = NULL;
	bool is_last = false;
	struct desc d;

	while (!why && !is_last) {
		if (i >= t.nr) {
			why = "descriptor index out of range";
		} else if (!left--) {
			why = "chain loops or is longer than its table";
		} else if (!table_fetch(vq, &t, i, &d)) {
			why = "indirect table is not RAM";
		} else if (d.flags & DESC_INDIRECT) {
			why = table_enter(vq, &t, &d);
			i = 0;
			left = t.nr;
		} else {
			why = chain_add(vq, chain, &d);
			is_last = !(d.flags & DESC_NEXT);
			i = d.next;
		}
	}
	table_leave(vq, &t);
	return why;
}

enum vring_result vring_pop(struct vring *vq, struct vring_chain *chain,
			    const char **why)
{
	uint16_t idx = avail_load(vq, RING_IDX, __ATOMIC_ACQUIRE);
	uint16_t waiting = (uint16_t)(idx - vq->last_avail);

	*why = NULL;
	if (!waiting)
		return VRING_EMPTY;
	if (waiting > vq->size) {
		*why = "available index moved by more than the queue's size";
		return VRING_BROKEN;
	}
	chain->head = avail_load(
		vq, RING_START + 2ULL * (vq->last_avail & (vq->size - 1)),
		__ATOMIC_RELAXED);
	chain->nr_out = chain->nr_in = 0;
	chain->out_len = chain->in_len = 0;
	*why = chain_walk(vq, chain);
	if (*why) {
		vring_drop(vq, chain, 0);
		return VRING_BROKEN;
	}
	vq->last_avail++;
	vq->nr_chains++;
	return VRING_CHAIN;
}

void vring_drop(struct vring *vq, struct vring_chain *chain, uint64_t written)
{
	for (unsigned i = 0; i < chain->nr_out + chain->nr_in; i++) {
		struct vring_piece *p = &chain->piece[i];
		uint64_t stored = 0;

		if (i >= chain->nr_out) {
			stored = MIN(written, p->len);
			written -= stored;
		}
		dma_unmap(vq->dma, p->iova, p->hva, stored);
	}
	chain->nr_out = chain->nr_in = 0;
}

void vring_push(struct vring *vq, struct vring_chain *chain, uint32_t written)
{
	vring_drop(vq, chain, written);
	used_store_element(vq, chain->head, written);
	used_store16(vq, RING_IDX, ++vq->used_idx);
}

bool vring_should_notify(struct vring *vq)
{
	uint16_t old = vq->signalled_used, event;
	bool is_wanted = true;

	if (!vq->has_event_idx) {
		is_wanted = !(avail_load(vq, RING_FLAGS, __ATOMIC_SEQ_CST) &
			      AVAIL_NO_INTERRUPT);
	} else if (vq->has_signalled) {
		event = avail_load(vq, used_event_offset(vq), __ATOMIC_SEQ_CST);
		/* Did the index pass the event (2.7.7.2)? */
		is_wanted = (uint16_t)(vq->used_idx - event - 1) <
			    (uint16_t)(vq->used_idx - old);
	}
	vq->signalled_used = vq->used_idx;
	vq->has_signalled = true;
	if (is_wanted)
		vq->nr_interrupts++;
	else
		vq->nr_suppressed++;
	return is_wanted;
}

bool vring_enable_kicks(struct vring *vq)
{
	if (vq->has_event_idx)
		used_store16(vq, avail_event_offset(vq), vq->last_avail);
	else if (vq->is_quiet)
		used_store16(vq, RING_FLAGS, 0);
	vq->is_quiet = false;
	return avail_load(vq, RING_IDX, __ATOMIC_SEQ_CST) != vq->last_avail;
}

/* With event indices, silence is the default: the driver kicks when it passes
 * the index that vring_enable_kicks() left. */
void vring_disable_kicks(struct vring *vq)
{
	if (vq->is_quiet)
		return;
	vq->is_quiet = true;
	if (!vq->has_event_idx)
		used_store16(vq, RING_FLAGS, USED_NO_NOTIFY);
}

/* The host address of an area that lies in one piece of RAM. */
static void *map_area(struct vring *vq, uint64_t iova, uint64_t size,
		      enum dma_dir dir)
{
	uint64_t len = size, end;
	void *hva;

	if (add_overflow(iova, size, &end))
		return NULL;
	hva = dma_map(vq->dma, iova, &len, dir);
	if (hva && len < size) {
		dma_unmap(vq->dma, iova, hva, 0);
		return NULL;
	}
	return hva;
}

bool vring_enable(struct vring *vq, const char **why)
{
	void *used;

	/* Section 2.7, the table of alignments. */
	if (vq->desc % 16 || vq->avail % 2 || vq->used % 4) {
		*why = "queue memory is misaligned";
		return false;
	}
	used = map_area(vq, vq->used, used_size(vq), DMA_FROM_DEVICE);
	vq->desc_hva = map_area(vq, vq->desc, (uint64_t)vq->size * DESC_SIZE,
				DMA_TO_DEVICE);
	vq->avail_hva = map_area(vq, vq->avail, avail_size(vq), DMA_TO_DEVICE);
	if (used)
		dma_unmap(vq->dma, vq->used, used, 0);
	vq->is_enabled = used && vq->desc_hva && vq->avail_hva;
	if (!vq->is_enabled) {
		vring_reset(vq);
		*why = "queue memory is not RAM";
		return false;
	}
	vq->last_avail = vq->used_idx = vq->signalled_used = 0;
	vq->has_signalled = vq->is_quiet = false;
	return true;
}

void vring_reset(struct vring *vq)
{
	if (vq->desc_hva)
		dma_unmap(vq->dma, vq->desc, vq->desc_hva, 0);
	if (vq->avail_hva)
		dma_unmap(vq->dma, vq->avail, vq->avail_hva, 0);
	vq->desc_hva = vq->avail_hva = NULL;
	vq->size = vq->max_size;
	vq->desc = vq->avail = vq->used = 0;
	vq->last_avail = vq->used_idx = vq->signalled_used = 0;
	vq->has_event_idx = vq->has_indirect = vq->is_enabled = false;
	vq->has_signalled = vq->is_quiet = false;
}

void vring_state(struct vring *vq, struct stream *s)
{
	uint16_t last_avail = vq->last_avail, used_idx = vq->used_idx;
	uint16_t signalled_used = vq->signalled_used;
	bool is_enabled = vq->is_enabled, has_signalled = vq->has_signalled;
	bool is_quiet = vq->is_quiet;
	const char *why;

	stream_u16(s, &vq->size);
	stream_bool(s, &is_enabled);
	stream_u64(s, &vq->desc);
	stream_u64(s, &vq->avail);
	stream_u64(s, &vq->used);
	stream_u16(s, &last_avail);
	stream_u16(s, &used_idx);
	stream_u16(s, &signalled_used);
	stream_bool(s, &has_signalled);
	stream_bool(s, &is_quiet);
	if (!s->is_loading)
		return;
	stream_check(s, IS_POW2(vq->size) && vq->size <= vq->max_size);
	if (stream_error(s)) {
		vring_reset(vq);
		return;
	}
	if (!is_enabled)
		return;
	stream_check(s, vring_enable(vq, &why));
	vq->last_avail = last_avail;
	vq->used_idx = used_idx;
	vq->signalled_used = signalled_used;
	vq->has_signalled = has_signalled;
	vq->is_quiet = is_quiet;
}

/*
 * Go through (len) bytes at (offset) of the pieces [first, first + nr): the
 * next run of them is at the returned address and (*n) long. NULL at the end.
 */
struct cursor {
	const struct vring_piece *piece;
	unsigned nr;
	uint64_t offset, left;
};

static bool cursor_init(struct cursor *c, const struct vring_chain *chain,
			bool is_in, uint64_t offset, uint64_t len)
{
	*c = (struct cursor){
		.piece = chain->piece + (is_in ? chain->nr_out : 0),
		.nr = is_in ? chain->nr_in : chain->nr_out,
		.offset = offset,
		.left = len,
	};
	return range_fits(offset, len, is_in ? chain->in_len : chain->out_len);
}

static char *cursor_next(struct cursor *c, uint64_t *n)
{
	char *at;

	while (c->nr && c->offset >= c->piece->len) {
		c->offset -= c->piece->len;
		c->piece++;
		c->nr--;
	}
	if (!c->nr || !c->left)
		return NULL;
	at = (char *)c->piece->hva + c->offset;
	*n = MIN(c->left, c->piece->len - c->offset);
	c->left -= *n;
	c->offset += *n;
	return at;
}

bool vring_read(const struct vring_chain *chain, uint64_t offset, void *buf,
		uint64_t len)
{
	char *from, *to = buf;
	struct cursor c;
	uint64_t n;

	if (!cursor_init(&c, chain, false, offset, len))
		return false;
	for (; (from = cursor_next(&c, &n)); to += n)
		memcpy(to, from, n);
	return true;
}

bool vring_write(const struct vring_chain *chain, uint64_t offset,
		 const void *buf, uint64_t len)
{
	const char *from = buf;
	struct cursor c;
	uint64_t n;
	char *to;

	if (!cursor_init(&c, chain, true, offset, len))
		return false;
	for (; (to = cursor_next(&c, &n)); from += n)
		memcpy(to, from, n);
	return true;
}

int vring_iov(const struct vring_chain *chain, bool is_in, uint64_t offset,
	      uint64_t len, struct iovec *iov)
{
	struct cursor c;
	uint64_t n;
	char *at;
	int nr = 0;

	if (!cursor_init(&c, chain, is_in, offset, len))
		return -1;
	for (; (at = cursor_next(&c, &n)); nr++)
		iov[nr] = (struct iovec){ .iov_base = at, .iov_len = n };
	return nr;
}
