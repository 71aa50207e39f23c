/*
 * Theory of operation
 *
 * A virtio device as a modern PCI function (virtio 1.2, 4.1; no legacy
 * interface). One 64-bit BAR holds everything, each part in pages of its own:
 *
 *   0x0000  common configuration    status, features, queues
 *   0x1000  ISR status              reading clears it, and INTx with it
 *   0x2000  device configuration
 *   0x3000  doorbells               queue n at 4 * n
 *   0x4000  MSI-X                   vector table, pending bits
 *
 * Vendor capabilities in configuration space say so, and a fifth one
 * (VIRTIO_PCI_CAP_PCI_CFG) is a window to the same BAR for those that cannot
 * map it.
 *
 * A kick: the guest writes to a doorbell -> bus_doorbell() has it signal the
 * queue's eventfd, in the kernel or in bus_write() -> the queue's loop wakes.
 * Doorbells follow the BAR (bar_moved()). A write that no doorbell took, of an
 * odd size or through the window, ends in bar_write() and signals the same
 * eventfd.
 *
 * An interrupt: the queue's thread, or whoever changed configuration space ->
 * msix_notify(), which signals the vector's eventfd where the accelerator has
 * taken that into the kernel (vector_of() asks for it), else sends the message;
 * without MSI-X the ISR bit and INTx. The ISR and the wire change together
 * under (irq_lock).
 */
#include "device/virtio/pci_transport.h"

#include <errno.h>
#include <linux/virtio_pci.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/overflow.h"
#include "bus/msix.h"
#include "bus/pci.h"
#include "state/stream.h"

#define VIRTIO_VENDOR      0x1af4
#define VIRTIO_DEVICE_BASE 0x1040 /* plus the virtio id (4.1.2) */
#define NO_VECTOR          0xffff

#define BAR                4
#define BAR_SIZE           0x8000
#define COMMON_OFFSET      0x0000
#define ISR_OFFSET         0x1000
#define DEVICE_OFFSET      0x2000
#define NOTIFY_OFFSET      0x3000
#define MSIX_OFFSET        0x4000
#define PART_SIZE          0x1000
#define NOTIFY_STEP        4 /* notify_off_multiplier */

#define COMMON_SIZE        0x3c /* up to queue_reset */

#define ISR_QUEUE          BIT(0)
#define ISR_CONFIG         BIT(1)

struct virtio_pci {
	struct pci_dev pci;
	struct virtio_dev *vdev;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select;
	_Atomic uint16_t config_vector;
	uint64_t doorbells;       /* where they are set; 0: nowhere */
	unsigned window;          /* of VIRTIO_PCI_CAP_PCI_CFG */
	pthread_mutex_t irq_lock; /* what follows, and the wire */
	uint8_t isr;
};

static struct virtio_pci *to_pci(struct virtio_dev *vdev)
{
	return vdev->transport_data;
}

/* Interrupts, on any thread. */

static void interrupt(struct virtio_pci *vp, uint16_t vector, uint8_t isr)
{
	if (msix_is_enabled(&vp->pci)) {
		msix_notify(&vp->pci, vector); /* none is out of its range */
		return;
	}
	pthread_mutex_lock(&vp->irq_lock);
	vp->isr |= isr;
	pci_intx_set(&vp->pci, true);
	pthread_mutex_unlock(&vp->irq_lock);
}

static void queue_interrupt(struct virtio_dev *vdev, struct virtio_queue *vq)
{
	interrupt(to_pci(vdev), vq->msix_vector, ISR_QUEUE);
}

static void config_interrupt(struct virtio_dev *vdev)
{
	struct virtio_pci *vp = to_pci(vdev);

	interrupt(vp, vp->config_vector, ISR_CONFIG);
}

static uint8_t isr_take(struct virtio_pci *vp)
{
	uint8_t isr;

	pthread_mutex_lock(&vp->irq_lock);
	isr = vp->isr;
	vp->isr = 0;
	pci_intx_set(&vp->pci, false);
	pthread_mutex_unlock(&vp->irq_lock);
	return isr;
}

static void registers_reset(struct virtio_dev *vdev)
{
	struct virtio_pci *vp = to_pci(vdev);

	vp->device_feature_select = vp->driver_feature_select = 0;
	vp->queue_select = 0;
	vp->config_vector = NO_VECTOR;
	for (unsigned i = 0; i < vdev->nr_queues; i++)
		vdev->queue[i].msix_vector = NO_VECTOR;
	isr_take(vp);
}

static const struct virtio_transport_ops transport_ops = {
	.interrupt = queue_interrupt,
	.config_changed = config_interrupt,
	.reset = registers_reset,
};

/* The common configuration structure (4.1.4.3). */

static const struct {
	uint8_t offset, size;
} common_fields[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4 },
	{ VIRTIO_PCI_COMMON_DF, 4 },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4 },
	{ VIRTIO_PCI_COMMON_GF, 4 },
	{ VIRTIO_PCI_COMMON_MSIX, 2 },
	{ VIRTIO_PCI_COMMON_NUMQ, 2 },
	{ VIRTIO_PCI_COMMON_STATUS, 1 },
	{ VIRTIO_PCI_COMMON_CFGGENERATION, 1 },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2 },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2 },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2 },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2 },
	{ VIRTIO_PCI_COMMON_Q_NOFF, 2 },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 4 },
	{ VIRTIO_PCI_COMMON_Q_DESCHI, 4 },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 4 },
	{ VIRTIO_PCI_COMMON_Q_AVAILHI, 4 },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 4 },
	{ VIRTIO_PCI_COMMON_Q_USEDHI, 4 },
	{ 0x38, 2 }, /* queue_notify_data: not offered */
	{ 0x3a, 2 }, /* queue_reset: not offered */
};

static struct virtio_queue *selected(struct virtio_pci *vp)
{
	return vp->queue_select < vp->vdev->nr_queues
		       ? &vp->vdev->queue[vp->queue_select]
		       : NULL;
}

/* The ring address that the field at (offset) is half of. */
static uint64_t *ring_addr(struct virtio_queue *vq, unsigned offset)
{
	if (offset < VIRTIO_PCI_COMMON_Q_AVAILLO)
		return &vq->ring.desc;
	return offset < VIRTIO_PCI_COMMON_Q_USEDLO ? &vq->ring.avail
						   : &vq->ring.used;
}

static uint32_t queue_load(struct virtio_pci *vp, unsigned offset)
{
	struct virtio_queue *vq = selected(vp);

	if (!vq)
		return offset == VIRTIO_PCI_COMMON_Q_MSIX ? NO_VECTOR : 0;
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return vq->ring.size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return vq->msix_vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return vq->ring.is_enabled;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return vq->index;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return (uint32_t)*ring_addr(vq, offset);
	case VIRTIO_PCI_COMMON_Q_DESCHI:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return (uint32_t)(*ring_addr(vq, offset) >> 32);
	default:
		return 0;
	}
}

static uint32_t common_load(struct virtio_pci *vp, unsigned offset)
{
	struct virtio_dev *vdev = vp->vdev;

	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return vp->device_feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return virtio_offered(vdev, vp->device_feature_select);
	case VIRTIO_PCI_COMMON_GFSELECT:
		return vp->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return virtio_accepted(vdev, vp->driver_feature_select);
	case VIRTIO_PCI_COMMON_MSIX:
		return vp->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return vdev->nr_queues;
	case VIRTIO_PCI_COMMON_STATUS:
		return virtio_get_status(vdev);
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return virtio_config_generation(vdev);
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return vp->queue_select;
	default:
		return queue_load(vp, offset);
	}
}

/* A part of a field may be read. */
static uint32_t common_read(struct virtio_pci *vp, unsigned offset,
			    unsigned size)
{
	for (size_t i = 0; i < ARRAY_SIZE(common_fields); i++) {
		unsigned start = common_fields[i].offset;

		if (offset < start ||
		    !range_fits(offset - start, size, common_fields[i].size))
			continue;
		return (uint32_t)(common_load(vp, start) >>
				  8 * (offset - start));
	}
	virtio_log(vp->vdev, "read of %u bytes at %#x of the common structure",
		   size, offset);
	return 0;
}

/* A vector that does not exist reads back as none (4.1.5.1.2.1). Drivers give
 * vectors back after a reset, so the status does not matter. One that is used
 * gets its eventfd, and with it a route where the accelerator takes it. */
static uint16_t vector_of(struct virtio_pci *vp, uint32_t value)
{
	bool is_routed;

	if (value > vp->vdev->nr_queues)
		return NO_VECTOR;
	/* Without one, msix_notify() sends the message by itself. */
	msix_eventfd(&vp->pci, value, &is_routed);
	return (uint16_t)value;
}

static void queue_store(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	struct virtio_queue *vq = selected(vp);
	uint64_t *addr;

	if (!vq) {
		virtio_log(vp->vdev, "there is no queue %u", vp->queue_select);
		return;
	}
	switch (offset) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		virtio_queue_set_size(vq, (uint16_t)value);
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		vq->msix_vector = vector_of(vp, value);
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (value == 1)
			virtio_queue_enable(vq);
		else
			virtio_log(vp->vdev, "queue_enable %#x", value);
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		addr = ring_addr(vq, offset);
		virtio_queue_set_addr(vq, addr, (*addr & MASK(63, 32)) | value);
		break;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		addr = ring_addr(vq, offset);
		virtio_queue_set_addr(vq, addr,
				      (uint32_t)*addr | (uint64_t)value << 32);
		break;
	default:
		virtio_log(vp->vdev, "write to %#x, which is read-only",
			   offset);
	}
}

static void common_store(struct virtio_pci *vp, unsigned offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		vp->device_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		vp->driver_feature_select = value;
		break;
	case VIRTIO_PCI_COMMON_GF:
		virtio_accept(vp->vdev, vp->driver_feature_select, value);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		vp->config_vector = vector_of(vp, value);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		vp->queue_select = (uint16_t)value;
		break;
	default:
		queue_store(vp, offset, value);
	}
}

/* Only whole fields are written (4.1.3.1). */
static void common_write(struct virtio_pci *vp, unsigned offset, unsigned size,
			 uint32_t value)
{
	struct virtio_dev *vdev = vp->vdev;
	bool is_field = false;

	for (size_t i = 0; i < ARRAY_SIZE(common_fields); i++)
		is_field |= common_fields[i].offset == offset &&
			    common_fields[i].size == size;
	if (!is_field)
		virtio_log(vdev,
			   "write of %u bytes at %#x of the common "
			   "structure",
			   size, offset);
	else if (offset == VIRTIO_PCI_COMMON_STATUS)
		virtio_set_status(vdev, (uint8_t)value);
	else if (virtio_is_resetting(vdev))
		virtio_log(vdev, "write to %#x before the reset is done",
			   offset);
	else
		common_store(vp, offset, value);
}

/* The BAR. */

static uint64_t bar_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	struct virtio_pci *vp = dev;
	unsigned at = offset % PART_SIZE;

	if (offset >= MSIX_OFFSET)
		return msix_read(&vp->pci, offset - MSIX_OFFSET, size);
	switch (offset - at) {
	case COMMON_OFFSET:
		return common_read(vp, at, size) & size_mask(size);
	case ISR_OFFSET:
		return at ? 0 : isr_take(vp);
	case DEVICE_OFFSET:
		return virtio_config_read(vp->vdev, at, size);
	default:
		return 0;
	}
}

static void doorbell_written(struct virtio_pci *vp, unsigned at)
{
	static const uint64_t one = 1;
	unsigned n = at / NOTIFY_STEP;

	if (at % NOTIFY_STEP || n >= vp->vdev->nr_queues)
		virtio_log(vp->vdev, "there is no doorbell at %#x", at);
	else if (write(vp->vdev->queue[n].kick_fd, &one, sizeof(one)) < 0)
		return; /* as many as it can count are waiting */
}

static void bar_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct virtio_pci *vp = dev;
	unsigned at = offset % PART_SIZE;

	if (offset >= MSIX_OFFSET) {
		msix_write(&vp->pci, offset - MSIX_OFFSET, size, value);
		return;
	}
	switch (offset - at) {
	case COMMON_OFFSET:
		common_write(vp, at, size, (uint32_t)value);
		break;
	case DEVICE_OFFSET:
		if (virtio_is_resetting(vp->vdev))
			virtio_log(vp->vdev, "configuration in reset");
		else
			virtio_config_write(vp->vdev, at, size,
					    (uint32_t)value);
		break;
	case NOTIFY_OFFSET:
		doorbell_written(vp, at);
		break;
	default:
		virtio_log(vp->vdev, "write to the ISR");
	}
}

static const struct bus_ops bar_ops = {
	.read = bar_read,
	.write = bar_write,
	.min_size = 1,
	.max_size = 4,
};

/* Doorbells are of 16 bits, the queue's number (4.1.5.2). */
static void doorbells_set(struct virtio_pci *vp, bool on)
{
	for (unsigned i = 0; i < vp->vdev->nr_queues; i++) {
		struct doorbell d = {
			.addr = vp->doorbells + (uint64_t)i * NOTIFY_STEP,
			.size = 2,
			.fd = vp->vdev->queue[i].kick_fd,
		};

		/* Without memory for it, bar_write() takes the kick. */
		bus_doorbell(vp->vdev->dev.env->mmio, &d, on);
	}
}

static void bar_moved(struct pci_dev *pci, unsigned n)
{
	struct virtio_pci *vp = pci->owner;

	if (n != BAR)
		return;
	if (vp->doorbells)
		doorbells_set(vp, false);
	vp->doorbells = pci->bar[BAR].is_mapped
				? pci->bar[BAR].addr + NOTIFY_OFFSET
				: 0;
	if (vp->doorbells)
		doorbells_set(vp, true);
}

/* Configuration space. */

/* The window (4.1.4.9): its capability says where in which BAR, and how many
 * bytes; four bytes behind it are the data. */
#define WINDOW_DATA sizeof(struct virtio_pci_cap)

static bool window_target(struct virtio_pci *vp, uint32_t *offset,
			  uint32_t *len)
{
	const uint8_t *cap = vp->pci.config + vp->window;

	*offset = load_le32(cap + VIRTIO_PCI_CAP_OFFSET);
	*len = load_le32(cap + VIRTIO_PCI_CAP_LENGTH);
	return cap[VIRTIO_PCI_CAP_BAR] == BAR &&
	       (*len == 1 || *len == 2 || *len == 4) && *offset % *len == 0 &&
	       range_fits(*offset, *len, BAR_SIZE);
}

static bool is_window_data(struct virtio_pci *vp, unsigned offset,
			   unsigned size)
{
	return vp->window &&
	       range_overlaps(offset, size, vp->window + WINDOW_DATA, 4);
}

static void config_reading(struct pci_dev *pci, unsigned offset, unsigned size)
{
	struct virtio_pci *vp = pci->owner;
	uint32_t at, len;

	if (is_window_data(vp, offset, size) && window_target(vp, &at, &len))
		store_le32(pci->config + vp->window + WINDOW_DATA,
			   (uint32_t)bar_read(vp, 0, at, len));
}

static void config_written(struct pci_dev *pci, unsigned offset, unsigned size)
{
	struct virtio_pci *vp = pci->owner;
	uint32_t at, len;

	if (is_window_data(vp, offset, size) && window_target(vp, &at, &len))
		bar_write(vp, 0, at, len,
			  load_le(pci->config + vp->window + WINDOW_DATA, len));
	if (range_overlaps(offset, size, PCI_COMMAND, 2))
		virtio_set_dma(vp->vdev, pci_is_bus_master(pci));
}

/* A vendor capability that says where a structure is (4.1.4). */
static int cap_add(struct virtio_pci *vp, uint8_t type, uint32_t offset,
		   uint32_t length, unsigned extra)
{
	unsigned len = sizeof(struct virtio_pci_cap) + extra;
	int at = pci_cap_add(&vp->pci, PCI_CAP_ID_VNDR, (uint8_t)len);
	uint8_t *cap;

	if (at < 0)
		return at;
	cap = vp->pci.config + at;
	cap[VIRTIO_PCI_CAP_LEN] = (uint8_t)len;
	cap[VIRTIO_PCI_CAP_CFG_TYPE] = type;
	cap[VIRTIO_PCI_CAP_BAR] = type == VIRTIO_PCI_CAP_PCI_CFG ? 0 : BAR;
	store_le32(cap + VIRTIO_PCI_CAP_OFFSET, offset);
	store_le32(cap + VIRTIO_PCI_CAP_LENGTH, length);
	return at;
}

static int caps_add(struct virtio_pci *vp)
{
	const struct virtio_class *cls = vp->vdev->cls;
	uint8_t *mask;
	int at;

	at = cap_add(vp, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_SIZE,
		     0);
	if (at >= 0)
		at = cap_add(vp, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, 1, 0);
	if (at >= 0 && cls->config_size)
		at = cap_add(vp, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFFSET,
			     cls->config_size, 0);
	if (at >= 0)
		at = cap_add(vp, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFFSET,
			     vp->vdev->nr_queues * NOTIFY_STEP, 4);
	if (at < 0)
		return at;
	store_le32(vp->pci.config + at + VIRTIO_PCI_NOTIFY_CAP_MULT,
		   NOTIFY_STEP);
	at = cap_add(vp, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);
	if (at < 0)
		return at;
	vp->window = (unsigned)at;
	mask = vp->pci.write_mask + at;
	mask[VIRTIO_PCI_CAP_BAR] = 0xff;
	memset(mask + VIRTIO_PCI_CAP_OFFSET, 0xff, 4);
	memset(mask + VIRTIO_PCI_CAP_LENGTH, 0xff, 4);
	memset(mask + WINDOW_DATA, 0xff, 4);
	return 0;
}

/* The machine's side. */

static int function_init(struct virtio_pci *vp)
{
	struct virtio_dev *vdev = vp->vdev;
	const struct pci_ident ident = {
		.vendor = VIRTIO_VENDOR,
		.device = VIRTIO_DEVICE_BASE + vdev->cls->id,
		.subsys_vendor = VIRTIO_VENDOR,
		.subsys = VIRTIO_DEVICE_BASE + vdev->cls->id,
		.class_code = vdev->cls->pci_class,
		.revision = 1,
		.has_intx = true,
		.is_express = true,
	};
	const struct pci_bar bar = {
		.size = BAR_SIZE,
		.is_64 = true,
		.is_prefetchable = true,
		.ops = &bar_ops,
		.opaque = vp,
		.moved = bar_moved,
	};
	int ret;

	pci_dev_init(&vp->pci, &ident, vdev->dev.id, &vdev->dev.lock, vp);
	vp->pci.config_reading = config_reading;
	vp->pci.config_written = config_written;
	pci_bar_init(&vp->pci, BAR, &bar);
	ret = caps_add(vp);
	if (ret)
		return ret;
	return msix_init(&vp->pci, vdev->nr_queues + 1, BAR, MSIX_OFFSET);
}

int virtio_pci_create(struct device **dev, const struct device_class *dcls,
		      const struct virtio_class *cls,
		      const struct device_env *env, const void *opts,
		      struct err *err)
{
	struct virtio_pci *vp = calloc(1, sizeof(*vp));
	char name[32];
	int ret;

	if (!vp)
		return err_set(err, ENOMEM, NULL, "%s: no memory", cls->name);
	pthread_mutex_init(&vp->irq_lock, NULL);
	ret = virtio_create(&vp->vdev, cls, dcls, env, opts, err);
	if (ret)
		goto err_free;
	vp->vdev->transport = &transport_ops;
	vp->vdev->transport_data = vp;
	vp->config_vector = NO_VECTOR;
	ret = function_init(vp);
	if (ret) {
		err_set(err, -ret, NULL, "%s: no PCI function:", cls->name);
		goto err_dev;
	}
	ret = pci_dev_add(&vp->pci, env->pci, -1, 0);
	if (ret) {
		err_set(err, -ret, "use fewer devices",
			"%s: no place on the PCI bus:", cls->name);
		goto err_msix;
	}
	snprintf(name, sizeof(name), "%s@%u", cls->name,
		 (unsigned)vp->pci.devfn >> 3);
	virtio_add_stats(vp->vdev, name);
	*dev = &vp->vdev->dev;
	return 0;

err_msix:
	msix_finish(&vp->pci);
err_dev:
	virtio_destroy(vp->vdev);
err_free:
	pthread_mutex_destroy(&vp->irq_lock);
	free(vp);
	return ret;
}

static struct virtio_dev *to_virtio(struct device *dev)
{
	return container_of(dev, struct virtio_dev, dev);
}

struct pci_dev *virtio_pci_function(struct device *dev)
{
	return &to_pci(to_virtio(dev))->pci;
}

/* Routes of vectors are given back while the function still has a bus, and
 * when no queue's thread sends any more. */
void virtio_pci_destroy(struct device *dev)
{
	struct virtio_pci *vp = to_pci(to_virtio(dev));

	virtio_reset(vp->vdev);
	msix_finish(&vp->pci);
	pci_dev_remove(&vp->pci);
	virtio_destroy(vp->vdev);
	pthread_mutex_destroy(&vp->irq_lock);
	free(vp);
}

void virtio_pci_reset(struct device *dev)
{
	struct virtio_pci *vp = to_pci(to_virtio(dev));

	virtio_reset(vp->vdev);
	pci_dev_reset(&vp->pci);
	virtio_set_dma(vp->vdev, false);
}

void virtio_pci_quiesce(struct device *dev)
{
	virtio_quiesce(to_virtio(dev));
}

void virtio_pci_resume(struct device *dev)
{
	virtio_resume(to_virtio(dev));
}

void virtio_pci_state(struct device *dev, struct stream *s)
{
	struct virtio_pci *vp = to_pci(to_virtio(dev));
	uint16_t vector;

	stream_begin(s, STREAM_TAG('V', 'P', 'C', 'I'), 1);
	/* First: its loading resets the registers that follow. */
	virtio_state(vp->vdev, s);
	vector = vp->config_vector;
	stream_u32(s, &vp->device_feature_select);
	stream_u32(s, &vp->driver_feature_select);
	stream_u16(s, &vp->queue_select);
	stream_u16(s, &vector);
	stream_check(s, vector == vector_of(vp, vector));
	vp->config_vector = vector;
	pthread_mutex_lock(&vp->irq_lock);
	stream_u8(s, &vp->isr);
	pthread_mutex_unlock(&vp->irq_lock);
	for (unsigned i = 0; i < vp->vdev->nr_queues; i++)
		vector_of(vp, vp->vdev->queue[i].msix_vector);
	pci_dev_state(&vp->pci, s);
	stream_end(s);
	if (s->is_loading)
		virtio_set_dma(vp->vdev, pci_is_bus_master(&vp->pci));
}

void virtio_pci_describe(struct device *dev, char *buf, size_t len)
{
	virtio_describe(to_virtio(dev), buf, len);
}
