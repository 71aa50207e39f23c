/*
 * virtio-console (virtio 1.2, section 5.3) with one port: queue 0 brings
 * bytes to the guest, queue 1 takes them from it. Both live on the main loop,
 * where the character stream's callbacks run.
 *
 * Input waits in a small buffer until the driver has room for it: what is typed
 * before the guest is up is not lost, and no chain is ever held. can_receive()
 * is the room in it, and zero while the machine is quiet. The buffer is under
 * the receive queue's lock; its fill level is atomic, so that can_receive()
 * takes no lock.
 */
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <string.h>

#include "base/bits.h"
#include "base/endian.h"
#include "chr/chr.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"
#include "state/stream.h"

#define RX_QUEUE  0
#define TX_QUEUE  1

#define RX_BUFFER 4096
/* A driver may use many small descriptors, but not one byte each. */
#define MAX_PIECES 128
/* Of one chain, the rest is dropped: a chain of 4 GiB would keep the main loop
 * busy for a second. The stream keeps no more than this anyway. */
#define TX_MAX (64 * KiB)

struct virtio_console {
	struct virtio_dev vdev; /* first */
	struct chr *chr;
	uint8_t rx[RX_BUFFER];
	atomic_uint rx_len;
	struct vring_piece piece[2][MAX_PIECES];
};

static struct virtio_console *to_console(struct virtio_dev *vdev)
{
	return (struct virtio_console *)vdev;
}

static bool next_chain(struct virtio_console *con, unsigned queue,
		       struct vring_chain *chain)
{
	chain->piece = con->piece[queue];
	chain->max = MAX_PIECES;
	return virtio_next(&con->vdev.queue[queue], chain);
}

/* Give the guest what the buffer holds. With the receive queue's lock. */
static void flush_rx(struct virtio_console *con)
{
	struct virtio_queue *vq = &con->vdev.queue[RX_QUEUE];
	unsigned done = 0, len = con->rx_len;
	struct vring_chain chain;

	while (done < len && next_chain(con, RX_QUEUE, &chain)) {
		unsigned n = (unsigned)MIN(chain.in_len, len - done);

		if (!n) {
			virtio_reject(vq, &chain, "receive buffer of no size");
			break;
		}
		vring_write(&chain, 0, con->rx + done, n);
		virtio_push(vq, &chain, n);
		done += n;
	}
	memmove(con->rx, con->rx + done, len - done);
	con->rx_len = len - done;
}

static void send_tx(struct virtio_console *con)
{
	struct virtio_queue *vq = &con->vdev.queue[TX_QUEUE];
	struct vring_chain chain;

	while (next_chain(con, TX_QUEUE, &chain)) {
		uint64_t left = TX_MAX;

		for (unsigned i = 0; i < chain.nr_out && left; i++) {
			uint64_t n = MIN(chain.piece[i].len, left);

			chr_write(con->chr, chain.piece[i].hva, n);
			left -= n;
		}
		virtio_push(vq, &chain, 0);
	}
}

static void console_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct virtio_console *con = to_console(vdev);

	if (queue == TX_QUEUE) {
		send_tx(con);
		return;
	}
	flush_rx(con);
	chr_resume(con->chr);
}

static void set_size(struct virtio_console *con, unsigned columns,
		     unsigned rows, bool notify)
{
	/* Zero is "not known". */
	const uint16_t size[2] = { (uint16_t)MIN(columns, UINT16_MAX),
				   (uint16_t)MIN(rows, UINT16_MAX) };

	virtio_config_set(&con->vdev,
			  offsetof(struct virtio_console_config, cols), size,
			  sizeof(size), notify);
}

/* A size that was there from the start: Linux looks only when it changes. */
static void console_activate(struct virtio_dev *vdev)
{
	struct virtio_console *con = to_console(vdev);
	unsigned columns, rows;

	chr_size(con->chr, &columns, &rows);
	if (columns || rows)
		set_size(con, columns, rows, true);
	chr_resume(con->chr);
}

static size_t can_receive(void *opaque)
{
	struct virtio_console *con = opaque;

	return con->vdev.is_frozen ? 0 : RX_BUFFER - con->rx_len;
}

static void receive(void *opaque, const uint8_t *buf, size_t len)
{
	struct virtio_console *con = opaque;
	struct virtio_queue *vq = &con->vdev.queue[RX_QUEUE];
	size_t n;

	pthread_mutex_lock(&vq->lock);
	n = MIN(len, RX_BUFFER - con->rx_len);
	memcpy(con->rx + con->rx_len, buf, n);
	con->rx_len += (unsigned)n;
	if (virtio_renew(vq))
		flush_rx(con);
	pthread_mutex_unlock(&vq->lock);
}

static void resized(void *opaque, unsigned columns, unsigned rows)
{
	set_size(opaque, columns, rows, true);
}

static void console_state(struct virtio_dev *vdev, struct stream *s)
{
	struct virtio_console *con = to_console(vdev);
	uint32_t len = con->rx_len;

	stream_begin(s, STREAM_TAG('V', 'C', 'O', 'N'), 1);
	stream_u32(s, &len);
	stream_check(s, len <= RX_BUFFER);
	if (!stream_error(s))
		stream_bytes(s, con->rx, len);
	stream_end(s);
	con->rx_len = stream_error(s) ? 0 : len;
}

static int console_create(struct virtio_dev *vdev, const void *opts,
			  struct err *err)
{
	const struct virtio_console_options *o = opts;
	struct virtio_console *con = to_console(vdev);
	const struct chr_keys keys = { .quit = device_quit,
				       .opaque = &vdev->dev };
	unsigned columns, rows;
	int ret;

	ret = chr_open(&con->chr, o->chardev, vdev->loop, &keys, err);
	if (ret)
		return ret;
	chr_size(con->chr, &columns, &rows);
	set_size(con, columns, rows, false);
	return 0;
}

/* Only now: the queues exist. */
static void console_ready(struct virtio_dev *vdev)
{
	struct virtio_console *con = to_console(vdev);
	const struct chr_user user = {
		.can_receive = can_receive,
		.receive = receive,
		.resized = resized,
		.opaque = con,
	};

	chr_set_user(con->chr, &user);
}

static void console_destroy(struct virtio_dev *vdev)
{
	struct virtio_console *con = to_console(vdev);

	chr_set_user(con->chr, NULL);
	chr_close(con->chr);
}

static const struct virtio_class virtio_console_class = {
	.name = "virtio-console",
	.id = VIRTIO_ID_CONSOLE,
	.nr_queues = 2,
	.queue_size = 64,
	.config_size = sizeof(struct virtio_console_config),
	.features = BIT(VIRTIO_CONSOLE_F_SIZE),
	.pci_class = 0x078000, /* communication controller */
	.dev_size = sizeof(struct virtio_console),
	.create = console_create,
	.ready = console_ready,
	.destroy = console_destroy,
	.activate = console_activate,
	.notify = console_notify,
	.state = console_state,
};

static const struct opt_desc console_opts[] = {
	{ .name = "chardev",
	  .type = OPT_STR,
	  .offset = offsetof(struct virtio_console_options, chardev),
	  .help = "where it leads: stdio, none, file:PATH, unix:PATH",
	  .def = "none" },
	OPT_END,
};

VIRTIO_PCI_DEVICE(virtio_console, "virtio-console", "a console (hvc0)",
		  console_opts, sizeof(struct virtio_console_options));
