/* The virtio devices as the machine makes them: classes and options. */
#ifndef DEVICE_VIRTIO_DEVICES_H
#define DEVICE_VIRTIO_DEVICES_H

#include "device/device.h"

/** Options of virtio-blk. A disk that the machine opened is lent as (blk), and
 * then (file), (writable), (readonly), (direct) and (engine) are not looked
 * at. */
struct virtio_blk_options {
	struct blk *blk;
	char *file;
	bool writable, readonly, direct;
	int engine;      /* index into auto, io_uring, threads */
	char *serial;    /* NULL: the disk's own */
	unsigned queues; /* 0: one for each CPU, up to 4 */
	unsigned queue_size;
	bool iothread; /* a thread of its own, or the main loop */
};

/** Options of virtio-console. */
struct virtio_console_options {
	char *chardev; /* as chr_open() takes it */
};

extern const struct device_class virtio_blk_device, virtio_console_device,
	virtio_rng_device;

#endif
