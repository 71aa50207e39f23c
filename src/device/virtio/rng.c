/*
 * virtio-rng (virtio 1.2, section 5.4): fills the driver's buffers with the
 * host's random bytes. getrandom() does not wait once the host is up.
 */
#include <errno.h>
#include <linux/virtio_ids.h>
#include <sys/random.h>

#include "base/bits.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"

/* Of one request, which then is answered in part, as is allowed: a guest that
 * asks for 4 GiB would have the main loop make random bytes for half a minute. */
#define MAX_BYTES  1024
#define MAX_PIECES 64

struct virtio_rng {
	struct virtio_dev vdev; /* first */
	struct vring_piece piece[MAX_PIECES];
};

static void rng_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct virtio_rng *rng = (struct virtio_rng *)vdev;
	struct virtio_queue *vq = &vdev->queue[queue];
	struct vring_chain chain = { .piece = rng->piece, .max = MAX_PIECES };
	uint8_t buf[MAX_BYTES];
	ssize_t n;

	while (virtio_next(vq, &chain)) {
		if (!chain.in_len || chain.out_len) {
			virtio_reject(vq, &chain,
				      "request is not a buffer to "
				      "write");
			return;
		}
		n = getrandom(buf, MIN(chain.in_len, sizeof(buf)),
			      GRND_NONBLOCK);
		if (n > 0)
			vring_write(&chain, 0, buf, (uint64_t)n);
		virtio_push(vq, &chain, n > 0 ? (uint32_t)n : 0);
	}
}

static int rng_create(struct virtio_dev *vdev, const void *opts,
		      struct err *err)
{
	return 0;
}

static void rng_destroy(struct virtio_dev *vdev)
{
}

static const struct virtio_class virtio_rng_class = {
	.name = "virtio-rng",
	.id = VIRTIO_ID_RNG,
	.nr_queues = 1,
	.queue_size = 64,
	.pci_class = 0x00ff00, /* fits no class */
	.dev_size = sizeof(struct virtio_rng),
	.create = rng_create,
	.destroy = rng_destroy,
	.notify = rng_notify,
};

static const struct opt_desc rng_opts[] = { OPT_END };

VIRTIO_PCI_DEVICE(virtio_rng, "virtio-rng", "random numbers of the host",
		  rng_opts, 0);
