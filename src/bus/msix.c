/*
 * A vector is deliverable while MSI-X is enabled and neither the function nor
 * the vector is masked. msix_notify() sends a deliverable one and sets the
 * pending bit of another; whatever makes a vector deliverable sends what is
 * pending.
 *
 * A vector with an eventfd that the accelerator routes has its route exactly
 * while it is deliverable. What others write to the eventfd meanwhile stays in
 * it until the route is back; a look at the pending bits moves it there.
 *
 * Lock order: the device's, then this one, then whatever the interrupt
 * controller takes.
 */
#include "bus/msix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/overflow.h"
#include "base/stats.h"
#include "bus/pci_impl.h"
#include "state/stream.h"

#define STREAM_TAG_MSIX   STREAM_TAG('M', 'S', 'I', 'X')
#define MAX_VECTORS       2048
#define PENDING_WORDS(nr) (((nr) + 63) / 64)

struct vector {
	int fd; /* -1: none */
	bool can_route;
	bool is_routed; /* now, to (routed) */
	struct msi_msg routed;
};

struct pci_msix {
	pthread_mutex_t lock;
	unsigned nr, cap;
	uint8_t *table;
	uint64_t *pending;
	struct vector *vectors;
};

uint32_t msix_size(unsigned nr)
{
	return nr * PCI_MSIX_ENTRY_SIZE + PENDING_WORDS(nr) * 8;
}

int msix_init(struct pci_dev *dev, unsigned nr, unsigned bar, uint32_t offset)
{
	struct pci_msix *m;
	uint32_t pending_offset = offset + nr * PCI_MSIX_ENTRY_SIZE;
	int cap;

	if (!nr || nr > MAX_VECTORS || bar >= PCI_NR_BARS || offset % 8)
		return -EINVAL;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->nr = nr;
	m->table = calloc(nr, PCI_MSIX_ENTRY_SIZE);
	m->pending = calloc(PENDING_WORDS(nr), sizeof(*m->pending));
	m->vectors = calloc(nr, sizeof(*m->vectors));
	cap = -ENOMEM;
	if (m->table && m->pending && m->vectors)
		cap = pci_cap_add(dev, PCI_CAP_ID_MSIX, PCI_CAP_MSIX_SIZEOF);
	if (cap < 0) {
		free(m->table);
		free(m->pending);
		free(m->vectors);
		free(m);
		return cap;
	}
	m->cap = (unsigned)cap;
	pthread_mutex_init(&m->lock, NULL);
	store_le16(&dev->config[cap + PCI_MSIX_FLAGS], (uint16_t)(nr - 1));
	store_le16(&dev->write_mask[cap + PCI_MSIX_FLAGS],
		   PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	store_le32(&dev->config[cap + PCI_MSIX_TABLE], offset | bar);
	store_le32(&dev->config[cap + PCI_MSIX_PBA], pending_offset | bar);
	for (unsigned i = 0; i < nr; i++)
		m->vectors[i].fd = -1;
	dev->msix = m;
	msix_reset(dev);
	return 0;
}

static const struct irqchip *chip_of(const struct pci_dev *dev)
{
	const struct pci_root *root = pci_root(dev->bus);

	return root && root->host.irqchip && root->host.irqchip->ops
		       ? root->host.irqchip
		       : NULL;
}

static void unroute(struct pci_dev *dev, struct vector *v)
{
	const struct irqchip *chip = chip_of(dev);

	if (v->is_routed && chip)
		chip->ops->route_msi(chip->chip, v->fd, NULL);
	v->is_routed = false;
}

void msix_finish(struct pci_dev *dev)
{
	struct pci_msix *m = dev->msix;

	if (!m)
		return;
	for (unsigned i = 0; i < m->nr; i++) {
		unroute(dev, &m->vectors[i]);
		if (m->vectors[i].fd >= 0)
			close(m->vectors[i].fd);
	}
	pthread_mutex_destroy(&m->lock);
	free(m->table);
	free(m->pending);
	free(m->vectors);
	free(m);
	dev->msix = NULL;
}

/* The high byte of message control. */
static uint8_t control(const struct pci_dev *dev)
{
	return __atomic_load_n(
		&dev->config[dev->msix->cap + PCI_MSIX_FLAGS + 1],
		__ATOMIC_RELAXED);
}

bool msix_is_enabled(const struct pci_dev *dev)
{
	return dev->msix && control(dev) & PCI_MSIX_FLAGS_ENABLE >> 8;
}

static uint8_t *entry(const struct pci_msix *m, unsigned n)
{
	return &m->table[n * PCI_MSIX_ENTRY_SIZE];
}

static struct msi_msg message(const struct pci_msix *m, unsigned n)
{
	const uint8_t *e = entry(m, n);

	return (struct msi_msg){
		.addr = load_le64(e + PCI_MSIX_ENTRY_LOWER_ADDR),
		.data = load_le32(e + PCI_MSIX_ENTRY_DATA),
	};
}

static bool is_deliverable(const struct pci_dev *dev, unsigned n)
{
	const uint8_t enable = PCI_MSIX_FLAGS_ENABLE >> 8;
	const uint8_t mask_all = PCI_MSIX_FLAGS_MASKALL >> 8;

	return (control(dev) & (enable | mask_all)) == enable &&
	       !(entry(dev->msix, n)[PCI_MSIX_ENTRY_VECTOR_CTRL] &
		 PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* With the lock held. */
static void send(struct pci_dev *dev, unsigned n)
{
	static const uint64_t one = 1;
	const struct pci_msix *m = dev->msix;
	const struct irqchip *chip = chip_of(dev);
	struct msi_msg msg = message(m, n);

	if (!chip)
		return;
	stat_add(&dev->nr_msix, 1);
	if (!m->vectors[n].is_routed) {
		chip->ops->send_msi(chip->chip, &msg);
		return;
	}
	/* EAGAIN: a signal is waiting already. */
	while (write(m->vectors[n].fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* Make route and pending bit of vector (n) follow what the guest wrote. With
 * the lock held. */
static void update_vector(struct pci_dev *dev, unsigned n)
{
	struct pci_msix *m = dev->msix;
	struct vector *v = &m->vectors[n];
	const struct irqchip *chip = chip_of(dev);
	bool is_open = is_deliverable(dev, n);
	struct msi_msg msg = message(m, n);

	if (!is_open) {
		unroute(dev, v);
		return;
	}
	if (v->can_route && chip &&
	    !(v->is_routed && v->routed.addr == msg.addr &&
	      v->routed.data == msg.data)) {
		v->is_routed = !chip->ops->route_msi(chip->chip, v->fd, &msg);
		v->routed = msg;
	}
	if (m->pending[n / 64] & BIT(n % 64)) {
		m->pending[n / 64] &= ~BIT(n % 64);
		send(dev, n);
	}
}

static void update_all(struct pci_dev *dev)
{
	for (unsigned i = 0; i < dev->msix->nr; i++)
		update_vector(dev, i);
}

void msix_config_written(struct pci_dev *dev)
{
	pthread_mutex_lock(&dev->msix->lock);
	update_all(dev);
	pthread_mutex_unlock(&dev->msix->lock);
}

void msix_notify(struct pci_dev *dev, unsigned n)
{
	struct pci_msix *m = dev->msix;

	if (!m || n >= m->nr)
		return;
	pthread_mutex_lock(&m->lock);
	if (is_deliverable(dev, n))
		send(dev, n);
	else if (msix_is_enabled(dev))
		m->pending[n / 64] |= BIT(n % 64);
	pthread_mutex_unlock(&m->lock);
}

int msix_eventfd(struct pci_dev *dev, unsigned n, bool *is_routed)
{
	struct pci_msix *m = dev->msix;
	const struct irqchip *chip = chip_of(dev);
	struct vector *v;
	int fd;

	if (!m || n >= m->nr)
		return -EINVAL;
	v = &m->vectors[n];
	pthread_mutex_lock(&m->lock);
	if (v->fd < 0) {
		v->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (v->fd < 0)
			v->fd = -errno;
		v->can_route = v->fd >= 0 && chip && chip->ops->route_msi &&
			       !chip->ops->route_msi(chip->chip, v->fd, NULL);
	}
	fd = v->fd;
	if (fd >= 0)
		update_vector(dev, n);
	*is_routed = v->can_route;
	pthread_mutex_unlock(&m->lock);
	return fd;
}

/* Take what is in the eventfds of masked vectors into their pending bits. */
static void collect_pending(struct pci_dev *dev)
{
	struct pci_msix *m = dev->msix;
	uint64_t count;

	for (unsigned i = 0; i < m->nr; i++) {
		const struct vector *v = &m->vectors[i];

		if (v->can_route && !v->is_routed &&
		    read(v->fd, &count, sizeof(count)) == sizeof(count) &&
		    msix_is_enabled(dev))
			m->pending[i / 64] |= BIT(i % 64);
	}
}

uint64_t msix_read(struct pci_dev *dev, uint64_t offset, unsigned size)
{
	struct pci_msix *m = dev->msix;
	uint64_t table_len = m->nr * PCI_MSIX_ENTRY_SIZE, value = 0;

	if ((size != 4 && size != 8) || offset % size ||
	    !range_fits(offset, size, msix_size(m->nr)))
		return 0;
	pthread_mutex_lock(&m->lock);
	if (offset < table_len) {
		value = load_le(&m->table[offset], size);
	} else {
		collect_pending(dev);
		offset -= table_len;
		value = m->pending[offset / 8] >> 8 * (offset % 8);
	}
	pthread_mutex_unlock(&m->lock);
	return value & size_mask(size);
}

/* One dword of an entry, without its reserved bits. */
static void write_dword(struct pci_msix *m, uint64_t offset, uint32_t value)
{
	switch (offset % PCI_MSIX_ENTRY_SIZE) {
	case PCI_MSIX_ENTRY_LOWER_ADDR:
		value &= ~3u;
		break;
	case PCI_MSIX_ENTRY_VECTOR_CTRL:
		value &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
		break;
	}
	store_le32(&m->table[offset], value);
}

void msix_write(struct pci_dev *dev, uint64_t offset, unsigned size,
		uint64_t value)
{
	struct pci_msix *m = dev->msix;

	/* The pending bits are read-only. */
	if ((size != 4 && size != 8) || offset % size ||
	    !range_fits(offset, size, m->nr * PCI_MSIX_ENTRY_SIZE))
		return;
	pthread_mutex_lock(&m->lock);
	write_dword(m, offset, (uint32_t)value);
	if (size == 8)
		write_dword(m, offset + 4, (uint32_t)(value >> 32));
	update_vector(dev, (unsigned)(offset / PCI_MSIX_ENTRY_SIZE));
	pthread_mutex_unlock(&m->lock);
}

void msix_reset(struct pci_dev *dev)
{
	struct pci_msix *m = dev->msix;
	uint64_t count;
	uint8_t *high = &dev->config[m->cap + PCI_MSIX_FLAGS + 1];
	uint8_t off = (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;

	pthread_mutex_lock(&m->lock);
	__atomic_store_n(high, *high & ~off, __ATOMIC_RELAXED);
	memset(m->table, 0, m->nr * PCI_MSIX_ENTRY_SIZE);
	memset(m->pending, 0, PENDING_WORDS(m->nr) * sizeof(*m->pending));
	for (unsigned i = 0; i < m->nr; i++) {
		entry(m, i)[PCI_MSIX_ENTRY_VECTOR_CTRL] =
			PCI_MSIX_ENTRY_CTRL_MASKBIT;
		unroute(dev, &m->vectors[i]);
		/* What was signalled before belongs to another life. */
		if (m->vectors[i].can_route &&
		    read(m->vectors[i].fd, &count, sizeof(count)) < 0)
			continue;
	}
	pthread_mutex_unlock(&m->lock);
}

/* Message control is configuration space, and was read with that. */
void msix_state(struct pci_dev *dev, struct stream *s)
{
	struct pci_msix *m = dev->msix;
	uint32_t nr = m->nr;
	unsigned tail = m->nr % 64;

	pthread_mutex_lock(&m->lock);
	if (!s->is_loading)
		collect_pending(dev);
	stream_begin(s, STREAM_TAG_MSIX, 1);
	stream_u32(s, &nr);
	stream_check(s, nr == m->nr);
	for (unsigned i = 0; i < m->nr * PCI_MSIX_ENTRY_SIZE; i += 4) {
		uint32_t dword = load_le32(&m->table[i]);

		stream_u32(s, &dword);
		write_dword(m, i, dword);
	}
	stream_bytes(s, m->pending, PENDING_WORDS(m->nr) * 8);
	stream_end(s);
	if (s->is_loading && tail)
		m->pending[m->nr / 64] &= BIT(tail) - 1;
	if (s->is_loading && !stream_error(s))
		update_all(dev);
	pthread_mutex_unlock(&m->lock);
}
