/*
 * Theory of operation
 *
 * virtio-blk (virtio 1.2, section 5.2). Queues run on a worker thread of the
 * disk's own, so that neither a CPU nor the main thread is part of a request:
 *
 *   kick -> blk_notify -> request_start -> blk_submit        (down)
 *   virtio_push -> interrupt <- request_end <- request_done  (up)
 *
 * A request is at most two steps of the backend: its own, and, when the driver
 * did not ask for a write-back cache, a flush behind each change of the disk.
 * Then a write is durable when the driver sees it done (5.2.6.2).
 *
 * Each queue has as many requests as the ring has entries, allocated with it.
 * What a driver can have in flight is bounded by that, and memory that is
 * never used is never touched. A chain of more than MAX_PIECES pieces is more
 * than (seg_max) promised and breaks the device.
 *
 * The status byte is the last writable byte of the chain, wherever descriptors
 * are split; the header is its first 16 readable bytes. Both are private
 * copies. A request that has no room for either breaks the device, as there is
 * nowhere to say so; any other mistake is an error status.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/overflow.h"
#include "block/blk.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"
#include "state/stream.h"

#define SEG_MAX            126               /* data segments of a request */
#define MAX_PIECES         (SEG_MAX + 2 + 8) /* header, status, splits by regions */
#define MAX_DEFAULT_QUEUES 4

#define SERIAL_SIZE        VIRTIO_BLK_ID_BYTES

/* For discard and write zeroes: a request of more would keep the disk from
 * others for long. */
#define MAX_RANGE_SECTORS (2 * GiB / BLK_SECTOR)
#define DISCARD_ALIGNMENT (4 * KiB / BLK_SECTOR)

struct vblk_queue;

struct request {
	struct request *next; /* while free */
	struct vblk_queue *queue;
	struct blk_req req;
	struct vring_chain chain;
	struct vring_piece piece[MAX_PIECES];
	struct iovec iov[MAX_PIECES];
};

struct vblk_queue {
	struct virtio_blk *vblk;
	unsigned index;
	struct blk_queue *backend;
	struct request *requests, *free;
	bool is_starved; /* chains may wait for a free request */
};

struct virtio_blk {
	struct virtio_dev vdev; /* first */
	struct blk *blk;
	bool is_own_blk;     /* opened here */
	struct loop *worker; /* NULL: on the main loop */
	struct vblk_queue queue[VIRTIO_MAX_QUEUES];
	char serial[SERIAL_SIZE];
	atomic_bool is_writeback; /* what the driver set (5.2.5.2) */
	struct err queue_err;
};

static struct virtio_blk *to_blk(struct virtio_dev *vdev)
{
	return (struct virtio_blk *)vdev;
}

static struct virtio_queue *queue_of(struct vblk_queue *q)
{
	return &q->vblk->vdev.queue[q->index];
}

/* Must a change be durable before the driver sees it done? A driver that
 * cannot flush takes it for granted. */
static bool is_write_through(const struct virtio_blk *vblk)
{
	const struct virtio_dev *vdev = &vblk->vdev;

	if (!virtio_has(vdev, VIRTIO_BLK_F_FLUSH))
		return true;
	return virtio_has(vdev, VIRTIO_BLK_F_CONFIG_WCE) && !vblk->is_writeback;
}

/* With the queue's lock. */
static void request_end(struct request *r, uint8_t status)
{
	struct vblk_queue *q = r->queue;
	struct vring_chain *chain = &r->chain;

	vring_write(chain, chain->in_len - 1, &status, 1);
	/* A chain of 4 GiB is one byte longer than can be said. */
	virtio_push(queue_of(q), chain,
		    (uint32_t)MIN(chain->in_len, UINT32_MAX));
	r->next = q->free;
	q->free = r;
}

static void serve(struct vblk_queue *q);

static uint8_t status_of(const struct blk_req *req)
{
	if (!req->result)
		return VIRTIO_BLK_S_OK;
	return req->result == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP
				       : VIRTIO_BLK_S_IOERR;
}

/* On the queue's loop. */
static void request_done(struct blk_req *req)
{
	struct request *r = container_of(req, struct request, req);
	struct vblk_queue *q = r->queue;
	struct virtio_queue *vq = queue_of(q);
	bool is_change = req->op != BLK_READ && req->op != BLK_FLUSH;

	if (!req->result && is_change && is_write_through(q->vblk)) {
		req->op = BLK_FLUSH;
		blk_submit(q->backend, req);
		return;
	}
	pthread_mutex_lock(&vq->lock);
	request_end(r, status_of(req));
	if (q->is_starved) {
		q->is_starved = false;
		if (virtio_renew(vq))
			serve(q);
	}
	pthread_mutex_unlock(&vq->lock);
}

/* A range in sectors, as bytes of (req); false when it is not on the disk. */
static bool set_range(struct request *r, uint64_t sector, uint64_t nr_bytes)
{
	uint64_t size = blk_info(r->queue->vblk->blk)->size;
	uint64_t offset;

	if (nr_bytes % BLK_SECTOR ||
	    mul_overflow(sector, BLK_SECTOR, &offset) ||
	    !range_fits(offset, nr_bytes, size))
		return false;
	r->req.offset = offset;
	r->req.len = nr_bytes;
	return true;
}

/* What is left to do after a request was looked at. */
#define SUBMIT 0xff

static uint8_t start_data(struct request *r, bool is_in, uint64_t sector)
{
	uint64_t in = r->chain.in_len - 1;
	uint64_t out = r->chain.out_len - sizeof(struct virtio_blk_outhdr);
	int nr;

	if ((is_in ? out : in) || !set_range(r, sector, is_in ? in : out))
		return VIRTIO_BLK_S_IOERR;
	nr = vring_iov(&r->chain, is_in,
		       is_in ? 0 : sizeof(struct virtio_blk_outhdr), r->req.len,
		       r->iov);
	vm_assert(nr >= 0);
	r->req.iov = r->iov;
	r->req.nr_iov = nr;
	r->req.op = is_in ? BLK_READ : BLK_WRITE;
	return SUBMIT;
}

/* Discard and write zeroes: one segment each, as offered (5.2.6.2). */
static uint8_t start_range(struct request *r, bool is_discard)
{
	const uint32_t unmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	struct virtio_blk_discard_write_zeroes segment;
	uint64_t at = sizeof(struct virtio_blk_outhdr);

	if (r->chain.in_len != 1 || r->chain.out_len != at + sizeof(segment) ||
	    !vring_read(&r->chain, at, &segment, sizeof(segment)))
		return VIRTIO_BLK_S_IOERR;
	if (segment.flags & ~(is_discard ? 0 : unmap))
		return VIRTIO_BLK_S_UNSUPP;
	if (segment.num_sectors > MAX_RANGE_SECTORS ||
	    !set_range(r, segment.sector, segment.num_sectors * BLK_SECTOR))
		return VIRTIO_BLK_S_IOERR;
	r->req.op = is_discard ? BLK_DISCARD : BLK_WRITE_ZEROES;
	r->req.may_unmap = segment.flags & unmap;
	return SUBMIT;
}

static uint8_t start_flush(struct request *r)
{
	r->req.op = BLK_FLUSH;
	r->req.offset = r->req.len = 0;
	return SUBMIT;
}

static uint8_t get_id(struct request *r)
{
	if (r->chain.in_len != SERIAL_SIZE + 1)
		return VIRTIO_BLK_S_IOERR;
	vring_write(&r->chain, 0, r->queue->vblk->serial, SERIAL_SIZE);
	return VIRTIO_BLK_S_OK;
}

static uint8_t dispatch(struct request *r, uint32_t type, uint64_t sector)
{
	const struct virtio_dev *vdev = &r->queue->vblk->vdev;
	bool is_read_only = vdev->features & BIT(VIRTIO_BLK_F_RO);

	switch (type) {
	case VIRTIO_BLK_T_IN:
		return start_data(r, true, sector);
	case VIRTIO_BLK_T_OUT:
		return is_read_only ? VIRTIO_BLK_S_IOERR
				    : start_data(r, false, sector);
	case VIRTIO_BLK_T_FLUSH:
		if (virtio_has(vdev, VIRTIO_BLK_F_FLUSH))
			return start_flush(r);
		break;
	case VIRTIO_BLK_T_GET_ID:
		return get_id(r);
	case VIRTIO_BLK_T_DISCARD:
		if (virtio_has(vdev, VIRTIO_BLK_F_DISCARD))
			return start_range(r, true);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		if (virtio_has(vdev, VIRTIO_BLK_F_WRITE_ZEROES))
			return start_range(r, false);
		break;
	}
	return VIRTIO_BLK_S_UNSUPP;
}

/* False when the device is broken by it. */
static bool request_start(struct request *r)
{
	struct vblk_queue *q = r->queue;
	struct virtio_blk_outhdr header;
	uint8_t status;

	if (!vring_read(&r->chain, 0, &header, sizeof(header)) ||
	    !r->chain.in_len) {
		virtio_reject(queue_of(q), &r->chain,
			      "request without room for header and status");
		return false;
	}
	r->req = (struct blk_req){ .done = request_done };
	status = dispatch(r, header.type, header.sector);
	if (status == SUBMIT)
		blk_submit(q->backend, &r->req);
	else
		request_end(r, status);
	return true;
}

/* Take chains while there are chains and free requests. With the queue's
 * lock, on its loop. */
static void serve(struct vblk_queue *q)
{
	struct request *r;

	while ((r = q->free)) {
		r->chain.piece = r->piece;
		r->chain.max = MAX_PIECES;
		if (!virtio_next(queue_of(q), &r->chain))
			return;
		q->free = r->next;
		if (!request_start(r)) {
			r->next = q->free;
			q->free = r;
			return;
		}
	}
	q->is_starved = true;
}

static void blk_notify(struct virtio_dev *vdev, unsigned queue)
{
	serve(&to_blk(vdev)->queue[queue]);
}

static void drain_queues(void *opaque)
{
	struct virtio_blk *vblk = opaque;

	for (unsigned i = 0; i < vblk->vdev.nr_queues; i++) {
		while (vblk->vdev.queue[i].nr_in_flight)
			blk_drain(vblk->queue[i].backend);
	}
}

static void blk_drain_device(struct virtio_dev *vdev)
{
	loop_call(vdev->loop, drain_queues, to_blk(vdev));
}

static void blk_reset(struct virtio_dev *vdev)
{
	struct virtio_blk *vblk = to_blk(vdev);
	uint8_t wce = 1;

	vblk->is_writeback = true;
	virtio_config_set(vdev, offsetof(struct virtio_blk_config, wce), &wce,
			  sizeof(wce), false);
}

static void blk_config_written(struct virtio_dev *vdev, unsigned offset,
			       unsigned size, uint32_t value)
{
	uint8_t wce = (uint8_t)value;

	if (offset != offsetof(struct virtio_blk_config, wce) || size != 1 ||
	    wce > 1 || !virtio_has(vdev, VIRTIO_BLK_F_CONFIG_WCE)) {
		virtio_log(vdev, "configuration %#x set to %#x", offset, value);
		return;
	}
	to_blk(vdev)->is_writeback = wce;
	virtio_config_set(vdev, offset, &wce, sizeof(wce), false);
}

static void blk_state(struct virtio_dev *vdev, struct stream *s)
{
	struct virtio_blk *vblk = to_blk(vdev);
	uint64_t size = blk_info(vblk->blk)->size;
	bool is_writeback = vblk->is_writeback;
	uint8_t wce;

	stream_begin(s, STREAM_TAG('V', 'B', 'L', 'K'), 1);
	stream_u64(s, &size);
	stream_check(s, size == blk_info(vblk->blk)->size);
	stream_bool(s, &is_writeback);
	stream_end(s);
	if (!s->is_loading)
		return;
	vblk->is_writeback = is_writeback;
	wce = is_writeback;
	virtio_config_set(vdev, offsetof(struct virtio_blk_config, wce), &wce,
			  sizeof(wce), false);
}

/* Making and freeing. */

static void set_config(struct virtio_blk *vblk)
{
	const struct blk_info *info = blk_info(vblk->blk);
	const struct virtio_blk_config config = {
		.capacity = info->size / BLK_SECTOR,
		.seg_max = MIN(SEG_MAX, vblk->vdev.queue_size - 2u),
		.blk_size = BLK_SECTOR,
		/* The host's page cache works in pages of 4 KiB. */
		.physical_block_exp = 3,
		.min_io_size = 8,
		.wce = 1,
		.num_queues = (uint16_t)vblk->vdev.nr_queues,
		.max_discard_sectors = MAX_RANGE_SECTORS,
		.max_discard_seg = 1,
		.discard_sector_alignment = DISCARD_ALIGNMENT,
		.max_write_zeroes_sectors = MAX_RANGE_SECTORS,
		.max_write_zeroes_seg = 1,
		.write_zeroes_may_unmap = 1,
	};

	virtio_config_set(&vblk->vdev, 0, &config, vblk->vdev.cls->config_size,
			  false);
	vblk->vdev.features |= info->is_read_only
				       ? BIT(VIRTIO_BLK_F_RO)
				       : BIT(VIRTIO_BLK_F_DISCARD) |
						 BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	if (vblk->vdev.nr_queues > 1)
		vblk->vdev.features |= BIT(VIRTIO_BLK_F_MQ);
}

static void queue_close(struct vblk_queue *q)
{
	blk_queue_close(q->backend);
	free(q->requests);
	q->backend = NULL;
	q->requests = q->free = NULL;
}

static void queues_close(void *opaque)
{
	struct virtio_blk *vblk = opaque;

	for (unsigned i = 0; i < vblk->vdev.nr_queues; i++)
		queue_close(&vblk->queue[i]);
}

static int queue_open(struct virtio_blk *vblk, unsigned i)
{
	struct vblk_queue *q = &vblk->queue[i];
	unsigned n = vblk->vdev.queue_size;

	q->vblk = vblk;
	q->index = i;
	q->requests = calloc(n, sizeof(*q->requests));
	if (!q->requests)
		return err_set(&vblk->queue_err, ENOMEM, NULL,
			       "virtio-blk: no memory for requests");
	for (unsigned j = n; j--;) {
		q->requests[j].queue = q;
		q->requests[j].next = q->free;
		q->free = &q->requests[j];
	}
	return blk_queue_open(&q->backend, vblk->blk, vblk->vdev.loop, n,
			      &vblk->queue_err);
}

/* On the loop of the queues; a failure is left in (queue_err). */
static void queues_open(void *opaque)
{
	struct virtio_blk *vblk = opaque;

	for (unsigned i = 0; i < vblk->vdev.nr_queues; i++) {
		if (queue_open(vblk, i))
			return;
	}
}

static int open_disk(struct virtio_blk *vblk,
		     const struct virtio_blk_options *o, struct err *err)
{
	static const char *const engines[] = { "auto", "io_uring", "threads" };
	const struct blk_options options = {
		.path = o->file,
		.is_writable = o->writable && !o->readonly,
		.is_read_only = o->readonly,
		.direct = o->direct,
		.engine = engines[o->engine],
	};

	vblk->blk = o->blk;
	if (o->blk)
		return 0;
	if (!o->file)
		return err_set(err, EINVAL, "add file=PATH",
			       "virtio-blk needs a disk");
	vblk->is_own_blk = true;
	return blk_open(&vblk->blk, &options, err);
}

static int start_worker(struct virtio_blk *vblk, struct err *err)
{
	int ret = loop_thread_create(&vblk->worker, vblk->vdev.dev.id, err);

	if (ret)
		return ret;
	vblk->vdev.loop = vblk->worker;
	return 0;
}

static void blk_destroy(struct virtio_dev *vdev)
{
	struct virtio_blk *vblk = to_blk(vdev);

	loop_call(vdev->loop, queues_close, vblk);
	if (vblk->worker)
		loop_thread_destroy(vblk->worker);
	if (vblk->is_own_blk)
		blk_close(vblk->blk);
}

static int blk_create(struct virtio_dev *vdev, const void *opts,
		      struct err *err)
{
	const struct virtio_blk_options *o = opts;
	struct virtio_blk *vblk = to_blk(vdev);
	const char *serial;
	int ret;

	vdev->nr_queues = o->queues;
	if (!vdev->nr_queues)
		vdev->nr_queues =
			MAX(1, MIN(vdev->dev.env->nr_cpus, MAX_DEFAULT_QUEUES));
	if (!IS_POW2(o->queue_size))
		return err_set(err, EINVAL, NULL,
			       "virtio-blk: queue-size=%u is no power of two",
			       o->queue_size);
	vdev->queue_size = (uint16_t)o->queue_size;
	ret = open_disk(vblk, o, err);
	if (ret)
		return ret;
	serial = o->serial ? o->serial : blk_info(vblk->blk)->id;
	memcpy(vblk->serial, serial, strnlen(serial, SERIAL_SIZE));
	if (vblk->is_own_blk && vdev->dev.env->stats)
		blk_add_stats(vblk->blk, vdev->dev.env->stats, serial);
	vblk->is_writeback = true;
	set_config(vblk);
	if (o->iothread)
		ret = start_worker(vblk, err);
	if (!ret) {
		loop_call(vdev->loop, queues_open, vblk);
		if (!vblk->queue_err.what[0])
			return 0;
		ret = err_set(err, EIO, vblk->queue_err.hint, "%s",
			      vblk->queue_err.what);
	}
	blk_destroy(vdev);
	return ret;
}

static const struct virtio_class virtio_blk_class = {
	.name = "virtio-blk",
	.id = VIRTIO_ID_BLOCK,
	.nr_queues = 1,
	.queue_size = 256,
	.config_size =
		offsetof(struct virtio_blk_config, max_secure_erase_sectors),
	.features = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) |
		    BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_FLUSH) |
		    BIT(VIRTIO_BLK_F_CONFIG_WCE),
	.pci_class = 0x010000, /* mass storage */
	.dev_size = sizeof(struct virtio_blk),
	.create = blk_create,
	.destroy = blk_destroy,
	.notify = blk_notify,
	.reset = blk_reset,
	.drain = blk_drain_device,
	.config_written = blk_config_written,
	.state = blk_state,
};

static const char *const engine_choices[] = { "auto", "io_uring", "threads",
					      NULL };

#define OPT(member) offsetof(struct virtio_blk_options, member)

static const struct opt_desc blk_opts[] = {
	{ .name = "file",
	  .type = OPT_STR,
	  .offset = OPT(file),
	  .help = "the disk's image" },
	{ .name = "rw",
	  .type = OPT_BOOL,
	  .offset = OPT(writable),
	  .help = "write to the image; else writes go to a private overlay",
	  .def = "off" },
	{ .name = "readonly",
	  .type = OPT_BOOL,
	  .offset = OPT(readonly),
	  .help = "the guest cannot write",
	  .def = "off" },
	{ .name = "direct",
	  .type = OPT_BOOL,
	  .offset = OPT(direct),
	  .help = "bypass the host's page cache",
	  .def = "off" },
	{ .name = "engine",
	  .type = OPT_CHOICE,
	  .offset = OPT(engine),
	  .help = "how the host does I/O",
	  .def = "auto",
	  .choices = engine_choices },
	{ .name = "serial",
	  .type = OPT_STR,
	  .offset = OPT(serial),
	  .help = "what the guest reads as serial number, 20 characters" },
	{ .name = "queues",
	  .type = OPT_UINT,
	  .offset = OPT(queues),
	  .help = "request queues; 0: one for each CPU, up to 4",
	  .def = "0",
	  .max = 16 },
	{ .name = "queue-size",
	  .type = OPT_UINT,
	  .offset = OPT(queue_size),
	  .help = "entries of each queue, a power of two",
	  .def = "256",
	  .min = 4,
	  .max = VRING_MAX_SIZE },
	{ .name = "iothread",
	  .type = OPT_BOOL,
	  .offset = OPT(iothread),
	  .help = "a thread of its own for the queues",
	  .def = "on" },
	OPT_END,
};

VIRTIO_PCI_DEVICE(virtio_blk, "virtio-blk", "a disk", blk_opts,
		  sizeof(struct virtio_blk_options));
