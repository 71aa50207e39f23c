/*
 * A virtio driver, for tests: finds a function's structures through its
 * capabilities and drives it through the buses as a guest's driver does, with
 * rings in guest memory. Rings are public so that a test can break them.
 */
#ifndef TESTS_LIB_VIRTIO_DRIVER_H
#define TESTS_LIB_VIRTIO_DRIVER_H

#include "fake_pc.h"

#define VDRV_MAX_QUEUES 8
#define VDRV_MAX_SIZE   1024
#define VDRV_NO_MSIX    0xff

/** A buffer of a request, by guest address. */
struct vdrv_buf {
	uint64_t gpa;
	uint32_t len;
};

/** A queue as the driver sees it. */
struct vdrv_queue {
	struct vdrv *drv;
	unsigned index;
	uint16_t size;
	uint64_t desc, avail, used, indirect; /* guest addresses */
	uint16_t avail_idx, kicked_idx, used_idx;
	uint16_t free_head, nr_free;
	uint16_t chain_len[VDRV_MAX_SIZE];
	uint64_t nr_kicks, nr_saved_kicks;
};

/** A driver of one function. */
struct vdrv {
	struct fake_pc *pc;
	uint16_t bdf;
	uint64_t common, isr, device, notify;
	uint32_t notify_step, device_len;
	unsigned window; /* of VIRTIO_PCI_CAP_PCI_CFG */
	unsigned msix_cap;
	uint8_t first_vector; /* data of vector 0; VDRV_NO_MSIX */
	uint64_t features;
	unsigned nr_queues;
	struct vdrv_queue queue[VDRV_MAX_QUEUES];
	uint64_t next_gpa; /* memory for rings and buffers */
};

/** Find the function (pci), let it decode and reach memory; with
 * (first_vector), vector n sends data first_vector + n. */
void vdrv_probe(struct vdrv *d, struct fake_pc *pc, const struct pci_dev *pci,
		uint8_t first_vector);

/** Registers of the common structure, and of the device's. */
uint32_t vdrv_read(struct vdrv *d, unsigned offset, unsigned size);
void vdrv_write(struct vdrv *d, unsigned offset, unsigned size, uint32_t value);
uint8_t vdrv_status(struct vdrv *d);
void vdrv_set_status(struct vdrv *d, uint8_t bits);
uint32_t vdrv_config(struct vdrv *d, unsigned offset, unsigned size);

/** Write zero and wait until it reads back; false after two seconds. Memory of
 * rings is taken back. */
bool vdrv_reset(struct vdrv *d);
/** Up to FEATURES_OK, with (want) of what is offered, and VERSION_1. */
bool vdrv_negotiate(struct vdrv *d, uint64_t want);
/** Set up queue (i) with (size) entries, 0: as offered. */
void vdrv_queue_setup(struct vdrv *d, unsigned i, uint16_t size);
/** Everything: reset, negotiate, all queues, DRIVER_OK. */
bool vdrv_start(struct vdrv *d, uint64_t want, uint16_t size);

/** Guest memory: (len) bytes that nothing else uses, and the way to it. */
uint64_t vdrv_alloc(struct vdrv *d, uint64_t len);
void *vdrv_mem(struct vdrv *d, uint64_t gpa, uint64_t len);

/** Offer a chain of (nr_out) and then (nr_in) buffers. Returns its head, or -1
 * when there is no room. (is_indirect) puts it into a table. */
int vdrv_add(struct vdrv_queue *q, const struct vdrv_buf *bufs, unsigned nr_out,
	     unsigned nr_in, bool is_indirect);
/** Write one descriptor, put a head into the available ring. */
void vdrv_desc(struct vdrv_queue *q, unsigned i, uint64_t gpa, uint32_t len,
	       uint16_t flags, uint16_t next);
void vdrv_desc_at(struct vdrv *d, uint64_t table, unsigned i, uint64_t gpa,
		  uint32_t len, uint16_t flags, uint16_t next);
void vdrv_offer(struct vdrv_queue *q, uint16_t head);
/** Write the available index as it is in (q). */
void vdrv_publish(struct vdrv_queue *q);
/** Kick if the device wants it; returns whether it did. */
bool vdrv_kick(struct vdrv_queue *q);
/** Ring the doorbell in any case. */
void vdrv_ring(struct vdrv_queue *q);
/** A used chain: its head, and how much was written, or -1. */
int vdrv_take(struct vdrv_queue *q, uint32_t *len);
/** The same, waiting up to (ms) without interrupts. */
int vdrv_wait(struct vdrv_queue *q, uint32_t *len, unsigned ms);
/** Say that an interrupt is wanted for the next used chain, or for none. True
 * when one is there already. */
bool vdrv_want_interrupt(struct vdrv_queue *q, bool is_wanted);

/** Wait until the status has (bit), up to (ms). */
bool vdrv_wait_status(struct vdrv *d, uint8_t bit, unsigned ms);

/** Milliseconds of a clock that only goes forward. */
int64_t vdrv_now_ms(void);

#endif
