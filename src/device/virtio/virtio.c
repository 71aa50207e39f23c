/*
 * Theory of operation
 *
 * The status machine (virtio 1.2, 2.1 and 3.1). The driver climbs one bit at a
 * time, writes zero to start over, and never takes a bit back:
 *
 *   0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK
 *   ^                     |           |              |
 *   |                  features    queues are     queues run
 *   |                  may change  set up           |
 *   |                                               v
 *   +---- write 0, when nothing is in flight --- NEEDS_RESET (set by us)
 *
 *   the driver writes        is taken when            otherwise
 *   -----------------------  -----------------------  --------------------
 *   status 0                 always                   -
 *   ACKNOWLEDGE              always                   -
 *   DRIVER                   ACKNOWLEDGE              ignored
 *   FEATURES_OK              DRIVER, and features     ignored: the bit reads
 *                            offered, VERSION_1       back as zero
 *   DRIVER_OK                FEATURES_OK              ignored
 *   FAILED                   always; queues stop      -
 *   any, after NEEDS_RESET   -                        ignored
 *   any, less bits than set  -                        ignored
 *   features                 DRIVER, not FEATURES_OK  ignored
 *   size, addresses          FEATURES_OK, not         ignored
 *                            DRIVER_OK, queue not yet
 *                            enabled
 *   enable                   the same; bad geometry   ignored
 *                            is NEEDS_RESET
 *   configuration space      FEATURES_OK, and the     ignored
 *                            device lets it
 *
 * What is ignored is logged, at a bounded rate. So after a queue is enabled
 * its geometry stays as it was checked.
 *
 * Reset. Requests in flight own guest memory, which the driver takes back when
 * it reads zero from device_status. A CPU must not wait for a disk, so writing
 * zero only stops the queues; the status reads as before until the last
 * request came home, and every other write is ignored until then. The driver
 * polls (4.1.4.3.2). What comes home meanwhile is dropped.
 *
 * Threads and locks. Registers run on CPU threads with the device's lock; a
 * queue runs on its loop with the queue's lock, which CPUs take for a moment
 * to start and stop it. Completions take it, too. Order: the device's lock, a
 * queue's lock, the transport's and the leaf lock. The loop never takes the
 * device's lock, so a CPU that holds it may wait for a queue's. The status is
 * atomic: a queue's thread sets NEEDS_RESET.
 *
 * A queue may pop while (is_running), the device is neither broken nor frozen
 * (quiesced by the machine) and the transport lets it reach memory. It may push
 * while (is_running) and not broken.
 */
#include "device/virtio/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/overflow.h"
#include "state/stream.h"

#define COMMON_FEATURES                                     \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VRING_F_EVENT_IDX) | \
	 BIT(VRING_F_INDIRECT_DESC))

/* An eventfd adds up; our own kicks are told from the driver's by weight. */
#define OWN_KICK       (1ULL << 32)

#define STATUS_STOPPED (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)

static bool is_broken(const struct virtio_dev *vdev)
{
	return vdev->status & STATUS_STOPPED;
}

static bool can_pop(const struct virtio_queue *vq)
{
	const struct virtio_dev *vdev = vq->vdev;

	return vq->is_running && !is_broken(vdev) && !vdev->is_frozen &&
	       vdev->can_dma;
}

bool virtio_renew(struct virtio_queue *vq)
{
	if (!can_pop(vq))
		return false;
	vq->budget = vq->ring.size;
	return true;
}

void virtio_broken(struct virtio_dev *vdev, const char *why)
{
	uint8_t old =
		atomic_fetch_or(&vdev->status, VIRTIO_CONFIG_S_NEEDS_RESET);

	if (old & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	virtio_log(vdev, "%s: the device needs a reset", why);
	/* Section 2.1.2. */
	if (old & VIRTIO_CONFIG_S_DRIVER_OK)
		vdev->transport->config_changed(vdev);
}

bool virtio_next(struct virtio_queue *vq, struct vring_chain *chain)
{
	const char *why;

	if (!can_pop(vq))
		return false;
	while (vq->budget) {
		vq->budget--;
		switch (vring_pop(&vq->ring, chain, &why)) {
		case VRING_CHAIN:
			vring_disable_kicks(&vq->ring);
			atomic_fetch_add(&vq->nr_in_flight, 1);
			return true;
		case VRING_BROKEN:
			virtio_broken(vq->vdev, why);
			return false;
		case VRING_EMPTY:
			if (!vring_enable_kicks(&vq->ring))
				return false;
			break;
		}
	}
	virtio_kick(vq);
	return false;
}

void virtio_push(struct virtio_queue *vq, struct vring_chain *chain,
		 uint32_t written)
{
	struct virtio_dev *vdev = vq->vdev;

	if (vq->is_running && !is_broken(vdev)) {
		vring_push(&vq->ring, chain, written);
		if (vring_should_notify(&vq->ring))
			vdev->transport->interrupt(vdev, vq);
	} else {
		vring_drop(&vq->ring, chain, written);
	}
	atomic_fetch_sub(&vq->nr_in_flight, 1);
}

void virtio_reject(struct virtio_queue *vq, struct vring_chain *chain,
		   const char *why)
{
	vring_drop(&vq->ring, chain, 0);
	atomic_fetch_sub(&vq->nr_in_flight, 1);
	virtio_broken(vq->vdev, why);
}

void virtio_kick(struct virtio_queue *vq)
{
	/* Only fails when so many kicks are waiting already. */
	(void)!write(vq->kick_fd, &(uint64_t){ OWN_KICK }, sizeof(uint64_t));
}

static void kick_all(struct virtio_dev *vdev)
{
	for (unsigned i = 0; i < vdev->nr_queues; i++)
		virtio_kick(&vdev->queue[i]);
}

static void kick_ready(void *opaque, uint32_t events)
{
	struct virtio_queue *vq = opaque;
	uint64_t nr;

	if (read(vq->kick_fd, &nr, sizeof(nr)) != sizeof(nr))
		return;
	pthread_mutex_lock(&vq->lock);
	vq->ring.nr_kicks += nr & (OWN_KICK - 1);
	if (virtio_renew(vq))
		vq->vdev->cls->notify(vq->vdev, vq->index);
	pthread_mutex_unlock(&vq->lock);
}

/* Status and reset. */

static void start_queues(struct virtio_dev *vdev)
{
	for (unsigned i = 0; i < vdev->nr_queues; i++) {
		struct virtio_queue *vq = &vdev->queue[i];

		pthread_mutex_lock(&vq->lock);
		vq->is_running = vq->ring.is_enabled;
		pthread_mutex_unlock(&vq->lock);
	}
}

/* What came while the queues could not run has been missed. */
static void go_on(struct virtio_dev *vdev)
{
	if (vdev->cls->activate)
		vdev->cls->activate(vdev);
	kick_all(vdev);
}

static void stop_queues(struct virtio_dev *vdev)
{
	for (unsigned i = 0; i < vdev->nr_queues; i++) {
		struct virtio_queue *vq = &vdev->queue[i];

		pthread_mutex_lock(&vq->lock);
		vq->is_running = false;
		pthread_mutex_unlock(&vq->lock);
	}
}

static void finish_reset(struct virtio_dev *vdev)
{
	for (unsigned i = 0; i < vdev->nr_queues; i++) {
		struct virtio_queue *vq = &vdev->queue[i];

		pthread_mutex_lock(&vq->lock);
		vring_reset(&vq->ring);
		pthread_mutex_unlock(&vq->lock);
	}
	vdev->driver_features = 0;
	if (vdev->cls->reset)
		vdev->cls->reset(vdev);
	vdev->transport->reset(vdev);
	vdev->is_resetting = false;
	vdev->status = 0;
}

bool virtio_is_resetting(struct virtio_dev *vdev)
{
	if (!vdev->is_resetting)
		return false;
	for (unsigned i = 0; i < vdev->nr_queues; i++) {
		if (vdev->queue[i].nr_in_flight)
			return true;
	}
	finish_reset(vdev);
	return false;
}

uint8_t virtio_get_status(struct virtio_dev *vdev)
{
	virtio_is_resetting(vdev);
	return vdev->status;
}

static bool features_are_ok(const struct virtio_dev *vdev)
{
	return !(vdev->driver_features & ~vdev->features) &&
	       virtio_has(vdev, VIRTIO_F_VERSION_1);
}

/* The bits of (value) that the driver may set now, given those in (status). */
static uint8_t status_climb(struct virtio_dev *vdev, uint8_t status,
			    uint8_t value)
{
	static const struct {
		uint8_t bit, needs;
	} steps[] = {
		{ VIRTIO_CONFIG_S_ACKNOWLEDGE, 0 },
		{ VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE },
		{ VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER },
		{ VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK },
		{ VIRTIO_CONFIG_S_FAILED, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		uint8_t bit = steps[i].bit;

		if (!(value & bit) ||
		    (status & steps[i].needs) != steps[i].needs)
			continue;
		if (bit == VIRTIO_CONFIG_S_FEATURES_OK && !(status & bit) &&
		    !features_are_ok(vdev)) {
			virtio_log(vdev, "features %#llx refused",
				   (unsigned long long)vdev->driver_features);
			continue;
		}
		status |= bit;
	}
	return status;
}

void virtio_set_status(struct virtio_dev *vdev, uint8_t value)
{
	uint8_t old = virtio_get_status(vdev), new;

	if (!value) {
		stop_queues(vdev);
		vdev->is_resetting = true;
		virtio_is_resetting(vdev);
		return;
	}
	if (vdev->is_resetting || old & VIRTIO_CONFIG_S_NEEDS_RESET ||
	    (value & old) != old) {
		virtio_log(vdev, "status %#x ignored in status %#x%s", value,
			   old, vdev->is_resetting ? ", in reset" : "");
		return;
	}
	new = status_climb(vdev, old, value);
	if (new != value)
		virtio_log(vdev, "status %#x taken as %#x", value, new);
	atomic_fetch_or(&vdev->status, new);
	if (new & ~old & VIRTIO_CONFIG_S_DRIVER_OK) {
		start_queues(vdev);
		go_on(vdev);
	}
}

/* Features, queues and configuration space as the driver sets them. */

uint32_t virtio_offered(const struct virtio_dev *vdev, uint32_t page)
{
	return page < 2 ? (uint32_t)(vdev->features >> 32 * page) : 0;
}

uint32_t virtio_accepted(const struct virtio_dev *vdev, uint32_t page)
{
	return page < 2 ? (uint32_t)(vdev->driver_features >> 32 * page) : 0;
}

void virtio_accept(struct virtio_dev *vdev, uint32_t page, uint32_t bits)
{
	const uint8_t both =
		VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;

	if ((vdev->status & both) != VIRTIO_CONFIG_S_DRIVER ||
	    is_broken(vdev)) {
		virtio_log(vdev, "features written in status %#x",
			   vdev->status);
		return;
	}
	if (page < 2) {
		vdev->driver_features &= ~(0xffffffffULL << 32 * page);
		vdev->driver_features |= (uint64_t)bits << 32 * page;
	} else if (bits) {
		virtio_log(vdev, "features %#x of page %u do not exist", bits,
			   page);
	}
}

static bool may_set_up(struct virtio_queue *vq, const char *what)
{
	const uint8_t both =
		VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	struct virtio_dev *vdev = vq->vdev;

	if ((vdev->status & both) == VIRTIO_CONFIG_S_FEATURES_OK &&
	    !is_broken(vdev) && !vq->ring.is_enabled)
		return true;
	virtio_log(vdev, "%s of queue %u written in status %#x%s", what,
		   vq->index, vdev->status,
		   vq->ring.is_enabled ? ", enabled" : "");
	return false;
}

void virtio_queue_set_size(struct virtio_queue *vq, uint16_t size)
{
	if (!may_set_up(vq, "size"))
		return;
	if (IS_POW2(size) && size <= vq->ring.max_size)
		vq->ring.size = size;
	else
		virtio_log(vq->vdev, "queue %u cannot have size %u", vq->index,
			   size);
}

void virtio_queue_set_addr(struct virtio_queue *vq, uint64_t *addr,
			   uint64_t value)
{
	if (may_set_up(vq, "address"))
		*addr = value;
}

static void set_ring_features(struct virtio_queue *vq)
{
	vq->ring.has_event_idx = virtio_has(vq->vdev, VRING_F_EVENT_IDX);
	vq->ring.has_indirect = virtio_has(vq->vdev, VRING_F_INDIRECT_DESC);
}

void virtio_queue_enable(struct virtio_queue *vq)
{
	const char *why;
	bool is_ok;

	if (!may_set_up(vq, "enable"))
		return;
	pthread_mutex_lock(&vq->lock);
	set_ring_features(vq);
	is_ok = vring_enable(&vq->ring, &why);
	pthread_mutex_unlock(&vq->lock);
	if (!is_ok)
		virtio_broken(vq->vdev, why);
}

uint32_t virtio_config_read(struct virtio_dev *vdev, unsigned offset,
			    unsigned size)
{
	uint32_t value = 0;

	if (!range_fits(offset, size, vdev->cls->config_size))
		return 0;
	pthread_mutex_lock(&vdev->leaf_lock);
	value = (uint32_t)load_le(vdev->config + offset, size);
	pthread_mutex_unlock(&vdev->leaf_lock);
	return value;
}

void virtio_config_write(struct virtio_dev *vdev, unsigned offset,
			 unsigned size, uint32_t value)
{
	if (!(vdev->status & VIRTIO_CONFIG_S_FEATURES_OK) || is_broken(vdev) ||
	    !vdev->cls->config_written ||
	    !range_fits(offset, size, vdev->cls->config_size))
		virtio_log(vdev, "configuration %#x written in status %#x",
			   offset, vdev->status);
	else
		vdev->cls->config_written(vdev, offset, size, value);
}

uint8_t virtio_config_generation(struct virtio_dev *vdev)
{
	uint8_t generation;

	pthread_mutex_lock(&vdev->leaf_lock);
	generation = vdev->config_generation;
	pthread_mutex_unlock(&vdev->leaf_lock);
	return generation;
}

void virtio_config_set(struct virtio_dev *vdev, unsigned offset,
		       const void *buf, unsigned len, bool notify)
{
	vm_assert(range_fits(offset, len, vdev->cls->config_size));
	pthread_mutex_lock(&vdev->leaf_lock);
	memcpy(vdev->config + offset, buf, len);
	if (notify)
		vdev->config_generation++;
	pthread_mutex_unlock(&vdev->leaf_lock);
	if (notify && vdev->status & VIRTIO_CONFIG_S_DRIVER_OK &&
	    !is_broken(vdev))
		vdev->transport->config_changed(vdev);
}

/* What the machine asks. */

void virtio_set_dma(struct virtio_dev *vdev, bool can_dma)
{
	if (vdev->can_dma == can_dma)
		return;
	vdev->can_dma = can_dma;
	if (can_dma)
		kick_all(vdev);
}

static void drain(struct virtio_dev *vdev)
{
	/* Handlers that were popping when it was told to stop are out. */
	for (unsigned i = 0; i < vdev->nr_queues; i++) {
		pthread_mutex_lock(&vdev->queue[i].lock);
		pthread_mutex_unlock(&vdev->queue[i].lock);
	}
	if (vdev->cls->drain)
		vdev->cls->drain(vdev);
}

void virtio_reset(struct virtio_dev *vdev)
{
	stop_queues(vdev);
	drain(vdev);
	finish_reset(vdev);
}

void virtio_quiesce(struct virtio_dev *vdev)
{
	vdev->is_frozen = true;
	drain(vdev);
	virtio_is_resetting(vdev);
}

void virtio_resume(struct virtio_dev *vdev)
{
	vdev->is_frozen = false;
	go_on(vdev);
}

/* Is it a status that a driver and we could have reached? */
static bool status_is_sane(struct virtio_dev *vdev, uint8_t status)
{
	uint8_t bits = status & (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET;

	return status_climb(vdev, 0, bits) == bits;
}

static void queue_state(struct virtio_queue *vq, struct stream *s)
{
	uint16_t vector = vq->msix_vector;

	pthread_mutex_lock(&vq->lock);
	vring_state(&vq->ring, s);
	if (s->is_loading) {
		stream_check(s, !vq->ring.is_enabled ||
					vq->vdev->status &
						VIRTIO_CONFIG_S_FEATURES_OK);
		if (vq->ring.is_enabled)
			set_ring_features(vq);
		vq->is_running = vq->ring.is_enabled &&
				 vq->vdev->status & VIRTIO_CONFIG_S_DRIVER_OK;
	}
	pthread_mutex_unlock(&vq->lock);
	stream_u16(s, &vector);
	stream_check(s, vector == 0xffff || vector <= vq->vdev->nr_queues);
	vq->msix_vector = stream_error(s) ? 0xffff : vector;
}

void virtio_state(struct virtio_dev *vdev, struct stream *s)
{
	uint8_t status = virtio_get_status(vdev);
	uint32_t nr_queues = vdev->nr_queues;

	if (s->is_loading) {
		virtio_reset(vdev);
		vdev->is_frozen = true;
	}
	stream_begin(s, STREAM_TAG('V', 'I', 'R', 'T'), 1);
	stream_u32(s, &nr_queues);
	stream_check(s, nr_queues == vdev->nr_queues);
	stream_u64(s, &vdev->driver_features);
	stream_u8(s, &status);
	stream_u8(s, &vdev->config_generation);
	if (s->is_loading) {
		stream_check(s, !(vdev->driver_features & ~vdev->features));
		stream_check(s, status_is_sane(vdev, status));
		vdev->status = stream_error(s) ? 0 : status;
	}
	for (unsigned i = 0; i < vdev->nr_queues && !stream_error(s); i++)
		queue_state(&vdev->queue[i], s);
	if (vdev->cls->state && !stream_error(s))
		vdev->cls->state(vdev, s);
	stream_end(s);
	if (s->is_loading && stream_error(s))
		virtio_reset(vdev);
}

void virtio_describe(struct virtio_dev *vdev, char *buf, size_t len)
{
	size_t at = 0;
	int n;

	n = snprintf(buf, len, "%s status %#x features %#llx\n", vdev->dev.id,
		     vdev->status, (unsigned long long)vdev->driver_features);
	for (unsigned i = 0; n >= 0 && i < vdev->nr_queues; i++) {
		struct virtio_queue *vq = &vdev->queue[i];
		struct vring *r = &vq->ring;

		at += (size_t)n;
		if (at >= len)
			return;
		pthread_mutex_lock(&vq->lock);
		n = snprintf(buf + at, len - at,
			     "queue %u: %s size %u desc %#llx avail %#llx used "
			     "%#llx last_avail %u used_idx %u in_flight %u "
			     "kicks %llu chains %llu interrupts %llu "
			     "suppressed %llu\n",
			     i, vq->is_running ? "running" : "stopped", r->size,
			     (unsigned long long)r->desc,
			     (unsigned long long)r->avail,
			     (unsigned long long)r->used, r->last_avail,
			     r->used_idx, vq->nr_in_flight,
			     (unsigned long long)r->nr_kicks,
			     (unsigned long long)r->nr_chains,
			     (unsigned long long)r->nr_interrupts,
			     (unsigned long long)r->nr_suppressed);
		pthread_mutex_unlock(&vq->lock);
	}
}

void virtio_add_stats(struct virtio_dev *vdev, const char *name)
{
	static const struct stat_desc descs[] = {
		STAT(struct vring, nr_kicks),
		STAT(struct vring, nr_chains),
		STAT(struct vring, nr_interrupts),
		STAT(struct vring, nr_suppressed),
		{ .name = NULL },
	};
	char full[32];

	if (!vdev->dev.env->stats)
		return;
	for (unsigned i = 0; i < vdev->nr_queues; i++) {
		struct virtio_queue *vq = &vdev->queue[i];

		snprintf(full, sizeof(full), "%.18s.q%u", name, i);
		stats_add(vdev->dev.env->stats, &vq->stats, full, descs,
			  &vq->ring);
	}
}

/* Making and freeing. */

static int queue_init(struct virtio_dev *vdev, unsigned i, struct err *err)
{
	struct virtio_queue *vq = &vdev->queue[i];
	int ret;

	vq->vdev = vdev;
	vq->index = i;
	vq->loop = vdev->loop;
	vq->msix_vector = 0xffff; /* VIRTIO_MSI_NO_VECTOR */
	vq->ring.dma = vdev->dev.env->dma;
	vq->ring.max_size = vq->ring.size = vdev->queue_size;
	pthread_mutex_init(&vq->lock, NULL);
	vq->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (vq->kick_fd < 0) {
		ret = err_set(err, errno, "raise the limit on open files",
			      "%s: no eventfd for queue %u:", vdev->cls->name,
			      i);
		goto err_lock;
	}
	vq->kick_watch = (struct loop_fd){ .fd = vq->kick_fd,
					   .fn = kick_ready,
					   .opaque = vq };
	ret = loop_watch(vq->loop, &vq->kick_watch, EPOLLIN);
	if (ret) {
		err_set(err, -ret, NULL,
			"%s: cannot watch queue %u:", vdev->cls->name, i);
		goto err_fd;
	}
	return 0;

err_fd:
	close(vq->kick_fd);
err_lock:
	pthread_mutex_destroy(&vq->lock);
	return ret;
}

static void queue_finish(struct virtio_queue *vq)
{
	stats_remove(&vq->stats);
	loop_unwatch(&vq->kick_watch);
	vring_reset(&vq->ring);
	close(vq->kick_fd);
	pthread_mutex_destroy(&vq->lock);
}

static int queues_init(struct virtio_dev *vdev, struct err *err)
{
	unsigned i;
	int ret;

	vm_assert(vdev->nr_queues && vdev->nr_queues <= VIRTIO_MAX_QUEUES &&
		  IS_POW2(vdev->queue_size) &&
		  vdev->queue_size <= VRING_MAX_SIZE);
	vdev->queue = calloc(vdev->nr_queues, sizeof(*vdev->queue));
	if (!vdev->queue)
		return err_set(err, ENOMEM, NULL, "%s: no memory for queues",
			       vdev->cls->name);
	for (i = 0; i < vdev->nr_queues; i++) {
		ret = queue_init(vdev, i, err);
		if (ret)
			goto err_queues;
	}
	return 0;

err_queues:
	while (i--)
		queue_finish(&vdev->queue[i]);
	free(vdev->queue);
	return ret;
}

int virtio_create(struct virtio_dev **out, const struct virtio_class *cls,
		  const struct device_class *dcls, const struct device_env *env,
		  const void *opts, struct err *err)
{
	struct virtio_dev *vdev = calloc(1, cls->dev_size);
	int ret;

	vm_assert(cls->config_size <= VIRTIO_CONFIG_SIZE);
	if (!vdev)
		return err_set(err, ENOMEM, NULL, "%s: no memory", cls->name);
	device_init(&vdev->dev, dcls, env);
	pthread_mutex_init(&vdev->leaf_lock, NULL);
	vdev->cls = cls;
	vdev->features = cls->features | COMMON_FEATURES;
	vdev->nr_queues = cls->nr_queues;
	vdev->queue_size = cls->queue_size;
	vdev->loop = env->loop;
	ret = cls->create(vdev, opts, err);
	if (ret)
		goto err_dev;
	ret = queues_init(vdev, err);
	if (ret)
		goto err_cls;
	if (cls->ready)
		cls->ready(vdev);
	*out = vdev;
	return 0;

err_cls:
	cls->destroy(vdev);
err_dev:
	pthread_mutex_destroy(&vdev->leaf_lock);
	device_finish(&vdev->dev);
	free(vdev);
	return ret;
}

void virtio_destroy(struct virtio_dev *vdev)
{
	stop_queues(vdev);
	drain(vdev);
	for (unsigned i = 0; i < vdev->nr_queues; i++)
		loop_unwatch(&vdev->queue[i].kick_watch);
	vdev->cls->destroy(vdev);
	for (unsigned i = 0; i < vdev->nr_queues; i++)
		queue_finish(&vdev->queue[i]);
	free(vdev->queue);
	pthread_mutex_destroy(&vdev->leaf_lock);
	device_finish(&vdev->dev);
	free(vdev);
}
