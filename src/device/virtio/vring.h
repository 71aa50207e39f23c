/*
 * The split virtqueue, from the device's side (virtio 1.2, section 2.7).
 *
 * Guest memory is shared with CPUs that may change it at any moment. So a
 * chain is walked once, by vring_pop(), which copies every descriptor before
 * it decides, bounds the walk by the queue's size, and hands out private
 * copies. Devices never index a ring.
 */
#ifndef DEVICE_VIRTIO_VRING_H
#define DEVICE_VIRTIO_VRING_H

#include <sys/uio.h>

#include "base/base.h"
#include "bus/dma.h"

struct stream;

#define VRING_MAX_SIZE 1024

/* Feature bits (6). <linux/virtio_ring.h> has a struct vring of its own. */
#define VRING_F_INDIRECT_DESC 28
#define VRING_F_EVENT_IDX     29

/** A queue's geometry, fixed when the driver enables it, and its positions.
 * The owner fills in (dma), (max_size) and the two features; a queue belongs
 * to one thread at a time. */
struct vring {
	struct dma_space *dma;
	uint16_t max_size; /* offered: bounds (size) and indirect tables */
	uint16_t size;
	bool has_event_idx, has_indirect; /* negotiated */
	bool is_enabled;
	uint64_t desc, avail, used; /* guest addresses */
	void *desc_hva, *avail_hva; /* mapped for reading while enabled */
	uint16_t last_avail, used_idx, signalled_used;
	bool has_signalled;
	bool is_quiet; /* the driver was told not to kick */
	uint64_t nr_kicks, nr_chains, nr_interrupts, nr_suppressed;
};

/** A piece of a request's buffer: guest address and host address. */
struct vring_piece {
	uint64_t iova;
	void *hva;
	uint32_t len;
};

/** One request: (nr_out) pieces to read, then (nr_in) to write, mapped through
 * the DMA door until vring_push() or vring_drop(). The device owns it and sets
 * (piece), an array of (max), before it pops. */
struct vring_chain {
	uint16_t head;
	unsigned nr_out, nr_in, max;
	uint64_t out_len, in_len;
	struct vring_piece *piece;
};

/** What vring_pop() found. */
enum vring_result { VRING_EMPTY, VRING_CHAIN, VRING_BROKEN };

/**
 * Take the next chain. VRING_BROKEN: the driver broke the rules (a loop, an
 * index or length out of range, a readable descriptor behind a writable one, a
 * nested indirect table, memory that is not RAM...); (*why) says which, and
 * the device must be marked DEVICE_NEEDS_RESET. Bounded work.
 */
enum vring_result vring_pop(struct vring *vq, struct vring_chain *chain,
			    const char **why);

/** Return (chain) with (written) bytes stored in its in-pieces, from their
 * start. Unmaps them. Publishes the used index. */
void vring_push(struct vring *vq, struct vring_chain *chain, uint32_t written);

/** Unmap (chain), in which (written) bytes were stored, without telling the
 * driver: the queue was reset or is broken. */
void vring_drop(struct vring *vq, struct vring_chain *chain, uint64_t written);

/** Must the driver be interrupted for what was pushed since the last call? */
bool vring_should_notify(struct vring *vq);

/** Ask for kicks again, or say that they are not needed for now. The first
 * returns true if chains arrived meanwhile: look again. */
bool vring_enable_kicks(struct vring *vq);
void vring_disable_kicks(struct vring *vq);

/** Check the geometry and start at index 0. Returns false (with *why) for
 * addresses that are misaligned or not RAM. */
bool vring_enable(struct vring *vq, const char **why);
/** Back to a queue that the driver has not set up. Counters stay. */
void vring_reset(struct vring *vq);
/** Write or read geometry and positions; loading refuses what a driver could
 * not have set up. */
void vring_state(struct vring *vq, struct stream *s);

/** Copy (len) bytes at (offset) out of the out-pieces, or into the in-pieces:
 * false when they are not that long. The out-copy is the one fetch. */
bool vring_read(const struct vring_chain *chain, uint64_t offset, void *buf,
		uint64_t len);
bool vring_write(const struct vring_chain *chain, uint64_t offset,
		 const void *buf, uint64_t len);

/** Fill (iov), which has room for chain->max, with (len) bytes at (offset) of
 * the out-pieces, or with (is_in) of the in-pieces. Returns the number of
 * entries, or -1 when they are not that long. */
int vring_iov(const struct vring_chain *chain, bool is_in, uint64_t offset,
	      uint64_t len, struct iovec *iov);

#endif
