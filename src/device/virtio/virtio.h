/*
 * Virtio devices independent of their transport: the status machine, features,
 * queues, configuration space (virtio 1.2, chapters 2 and 3).
 *
 * (The status machine is drawn and tabled in virtio.c, with what each lock
 * guards.)
 */
#ifndef DEVICE_VIRTIO_VIRTIO_H
#define DEVICE_VIRTIO_VIRTIO_H

#include <linux/virtio_config.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "device/device.h"
#include "device/virtio/vring.h"
#include "host/loop.h"

struct virtio_dev;

#define VIRTIO_MAX_QUEUES  64
#define VIRTIO_CONFIG_SIZE 64 /* room for any device's configuration space */

/** A kind of virtio device; const, one per kind. */
struct virtio_class {
	const char *name;
	uint16_t id, nr_queues, queue_size, config_size;
	uint64_t features; /* offered, besides what virtio.c offers for all */
	uint32_t pci_class;
	size_t dev_size; /* of the struct that starts with struct virtio_dev */
	/* Read (opts), which are the device class's; may change (features),
	 * (nr_queues), (queue_size), (config) and (loop) of (vdev). */
	int (*create)(struct virtio_dev *vdev, const void *opts,
		      struct err *err);
	/* The queues exist; what comes from outside may come. May be NULL. */
	void (*ready)(struct virtio_dev *vdev);
	/* Queues do not run any more. Also after a (create) alone,
	 * without queues. */
	void (*destroy)(struct virtio_dev *vdev);
	/* Queues are ready: the driver set DRIVER_OK, or the machine goes on.
	 * The queues are kicked afterwards. May be NULL. */
	void (*activate)(struct virtio_dev *vdev);
	/* The driver kicked (queue); on the queue's loop, with its lock. */
	void (*notify)(struct virtio_dev *vdev, unsigned queue);
	/* The driver reset the device; nothing is in flight. May be NULL. */
	void (*reset)(struct virtio_dev *vdev);
	/* Wait until nothing is in flight; queues pop no more. Not on a CPU's
	 * thread. NULL: nothing ever is, outside of (notify). */
	void (*drain)(struct virtio_dev *vdev);
	/* The driver wrote (size) bytes of configuration space. What it may
	 * write the class stores with virtio_config_set(). NULL: nothing. */
	void (*config_written)(struct virtio_dev *vdev, unsigned offset,
			       unsigned size, uint32_t value);
	/* Of the device's own state. May be NULL. */
	void (*state)(struct virtio_dev *vdev, struct stream *s);
};

/** A queue. (lock) guards (ring), (is_running) and what the device keeps for
 * the queue. */
struct virtio_queue {
	pthread_mutex_t lock;
	struct vring ring;
	struct virtio_dev *vdev;
	unsigned index;
	bool is_running;          /* between DRIVER_OK and reset */
	unsigned budget;          /* pops left before others get their turn */
	atomic_uint nr_in_flight; /* chains popped and not pushed */
	_Atomic uint16_t msix_vector;
	struct loop *loop; /* where its notify and completions run */
	int kick_fd;       /* eventfd; the doorbell */
	struct loop_fd kick_watch;
	struct stats_group stats;
};

/** How a device reaches its driver; provided by the transport. Any thread,
 * perhaps with a queue's lock. */
struct virtio_transport_ops {
	void (*interrupt)(struct virtio_dev *vdev, struct virtio_queue *vq);
	void (*config_changed)(struct virtio_dev *vdev);
	/* The device was reset: so are the transport's registers. */
	void (*reset)(struct virtio_dev *vdev);
};

/** The common part of a virtio device. */
struct virtio_dev {
	struct device dev;
	const struct virtio_class *cls;
	const struct virtio_transport_ops *transport;
	void *transport_data;
	_Atomic uint8_t status;
	bool is_resetting;        /* until nothing is in flight */
	atomic_bool is_frozen;    /* quiesced: pop nothing */
	atomic_bool can_dma;      /* the transport lets it reach memory */
	uint64_t features;        /* offered */
	uint64_t driver_features; /* accepted */
	unsigned nr_queues;
	uint16_t queue_size;
	struct virtio_queue *queue;
	struct loop *loop;         /* of its queues */
	pthread_mutex_t leaf_lock; /* of the rest; nothing is taken in it */
	uint8_t config[VIRTIO_CONFIG_SIZE];
	uint8_t config_generation;
	struct log_limit log;
};

/** Say that the driver did something wrong. Any thread. */
#define virtio_log(vdev, ...)                                         \
	do {                                                          \
		pthread_mutex_lock(&(vdev)->leaf_lock);               \
		log_guest(&(vdev)->log, (vdev)->dev.id, __VA_ARGS__); \
		pthread_mutex_unlock(&(vdev)->leaf_lock);             \
	} while (0)

/** Has the driver accepted feature bit (bit)? */
static inline bool virtio_has(const struct virtio_dev *vdev, unsigned bit)
{
	return vdev->driver_features >> bit & 1;
}

/* For devices. */

/** The driver broke the rules: say so, set DEVICE_NEEDS_RESET, interrupt. All
 * queues stop until it resets the device. Any thread. */
void virtio_broken(struct virtio_dev *vdev, const char *why);

/**
 * The next chain of (vq), within a share of the loop's time: false when there
 * is none, when the queue does not run, or when it had its share and the loop
 * should look at others first. Keeps the driver from kicking while there are
 * chains, and marks the device broken where the ring is. With the queue's
 * lock.
 */
bool virtio_next(struct virtio_queue *vq, struct vring_chain *chain);

/** Start a new share of (vq), outside of its notify, which has one. False when
 * the queue does not run. With the queue's lock. */
bool virtio_renew(struct virtio_queue *vq);

/** Push (chain), with (written) bytes stored, and interrupt the driver if it
 * wants it now. With the queue's lock. */
void virtio_push(struct virtio_queue *vq, struct vring_chain *chain,
		 uint32_t written);

/** Give (chain) up because the device cannot use it: the device is broken. */
void virtio_reject(struct virtio_queue *vq, struct vring_chain *chain,
		   const char *why);

/** Run the queue's notify soon, with a new share. Any thread. */
void virtio_kick(struct virtio_queue *vq);

/** Store (len) bytes of configuration space; with (notify), when they are not
 * what the driver wrote, there is a new generation and an interrupt. Any
 * thread. */
void virtio_config_set(struct virtio_dev *vdev, unsigned offset,
		       const void *buf, unsigned len, bool notify);

/* For transports; with the device's lock, except where it says otherwise. */

/** Make (*out), a device of (cls) that is (dcls) to the machine, with its queues
 * watched. Not visible to the guest yet; no lock. */
int virtio_create(struct virtio_dev **out, const struct virtio_class *cls,
		  const struct device_class *dcls, const struct device_env *env,
		  const void *opts, struct err *err);
/** List the queues' counters as (name) until virtio_destroy(). */
void virtio_add_stats(struct virtio_dev *vdev, const char *name);
/** Stop, wait for what is in flight, and free it. Not on a CPU's thread; no
 * lock. */
void virtio_destroy(struct virtio_dev *vdev);

/** device_status as the driver reads it; finishes a reset that was waiting. */
uint8_t virtio_get_status(struct virtio_dev *vdev);
/** The driver wrote (value) to device_status. */
void virtio_set_status(struct virtio_dev *vdev, uint8_t value);
/** Is the device still finishing requests after a reset? */
bool virtio_is_resetting(struct virtio_dev *vdev);

/** 32 feature bits of page (page): offered, accepted, and accept them. */
uint32_t virtio_offered(const struct virtio_dev *vdev, uint32_t page);
uint32_t virtio_accepted(const struct virtio_dev *vdev, uint32_t page);
void virtio_accept(struct virtio_dev *vdev, uint32_t page, uint32_t bits);

/** Set the geometry of a queue and enable it; ignored in wrong states. (addr)
 * points at one of the ring's three addresses. */
void virtio_queue_set_size(struct virtio_queue *vq, uint16_t size);
void virtio_queue_set_addr(struct virtio_queue *vq, uint64_t *addr,
			   uint64_t value);
void virtio_queue_enable(struct virtio_queue *vq);

/** Access the device's configuration space, by 1, 2 or 4 bytes. */
uint32_t virtio_config_read(struct virtio_dev *vdev, unsigned offset,
			    unsigned size);
void virtio_config_write(struct virtio_dev *vdev, unsigned offset,
			 unsigned size, uint32_t value);
/** The number that changes with configuration space. */
uint8_t virtio_config_generation(struct virtio_dev *vdev);

/** Whether the device may reach memory now; queues look again when it may. */
void virtio_set_dma(struct virtio_dev *vdev, bool can_dma);

/** The hooks of struct device_class. */
void virtio_reset(struct virtio_dev *vdev);
void virtio_quiesce(struct virtio_dev *vdev);
void virtio_resume(struct virtio_dev *vdev);
void virtio_state(struct virtio_dev *vdev, struct stream *s);
void virtio_describe(struct virtio_dev *vdev, char *buf, size_t len);

#endif
