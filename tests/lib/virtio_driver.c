#include "virtio_driver.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>
#include <time.h>

#include "base/bits.h"

#define F_INDIRECT  28
#define F_EVENT_IDX 29

/* Where rings and buffers go. */
#define FIRST_GPA 0x100000

static const struct timespec short_while = { .tv_nsec = 20000 };

int64_t vdrv_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static uint32_t config_read(struct vdrv *d, unsigned offset, unsigned size)
{
	return pci_config_read(d->pc->pci, d->bdf, offset, size);
}

static void config_write(struct vdrv *d, unsigned offset, unsigned size,
			 uint32_t value)
{
	pci_config_write(d->pc->pci, d->bdf, offset, size, value);
}

static uint64_t bar_addr(struct vdrv *d, unsigned bar)
{
	unsigned at = PCI_BASE_ADDRESS_0 + 4 * bar;
	uint64_t addr = config_read(d, at, 4);

	if (addr & PCI_BASE_ADDRESS_MEM_TYPE_64)
		addr |= (uint64_t)config_read(d, at + 4, 4) << 32;
	return addr & ~0xfULL;
}

static void parse_vendor_cap(struct vdrv *d, unsigned at)
{
	uint32_t offset = config_read(d, at + VIRTIO_PCI_CAP_OFFSET, 4);
	uint64_t base = bar_addr(d, config_read(d, at + VIRTIO_PCI_CAP_BAR, 1));

	switch (config_read(d, at + VIRTIO_PCI_CAP_CFG_TYPE, 1)) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		d->common = base + offset;
		break;
	case VIRTIO_PCI_CAP_ISR_CFG:
		d->isr = base + offset;
		break;
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		d->device = base + offset;
		d->device_len = config_read(d, at + VIRTIO_PCI_CAP_LENGTH, 4);
		break;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		d->notify = base + offset;
		d->notify_step =
			config_read(d, at + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
		break;
	case VIRTIO_PCI_CAP_PCI_CFG:
		d->window = at;
		break;
	}
}

static void enable_msix(struct vdrv *d)
{
	uint32_t flags = config_read(d, d->msix_cap + PCI_MSIX_FLAGS, 2);
	uint32_t where = config_read(d, d->msix_cap + PCI_MSIX_TABLE, 4);
	uint64_t table = bar_addr(d, where & 7) + (where & ~7u);

	for (unsigned i = 0; i <= (flags & PCI_MSIX_FLAGS_QSIZE); i++) {
		uint64_t entry = table + i * PCI_MSIX_ENTRY_SIZE;

		bus_write(d->pc->mmio, 0, entry, 4, 0xfee00000);
		bus_write(d->pc->mmio, 0, entry + 4, 4, 0);
		bus_write(d->pc->mmio, 0, entry + 8, 4, d->first_vector + i);
		bus_write(d->pc->mmio, 0, entry + 12, 4, 0);
	}
	config_write(d, d->msix_cap + PCI_MSIX_FLAGS, 2,
		     flags | PCI_MSIX_FLAGS_ENABLE);
}

void vdrv_probe(struct vdrv *d, struct fake_pc *pc, const struct pci_dev *pci,
		uint8_t first_vector)
{
	unsigned at;

	*d = (struct vdrv){ .pc = pc,
			    .bdf = pci->devfn,
			    .first_vector = first_vector,
			    .next_gpa = FIRST_GPA };
	config_write(d, PCI_COMMAND, 2,
		     PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	at = config_read(d, PCI_CAPABILITY_LIST, 1);
	for (; at; at = config_read(d, at + 1, 1)) {
		uint32_t id = config_read(d, at, 1);

		if (id == PCI_CAP_ID_VNDR)
			parse_vendor_cap(d, at);
		else if (id == PCI_CAP_ID_MSIX)
			d->msix_cap = at;
	}
	vm_assert(d->common && d->isr && d->notify && d->window && d->msix_cap);
	if (first_vector != VDRV_NO_MSIX)
		enable_msix(d);
	d->nr_queues = vdrv_read(d, VIRTIO_PCI_COMMON_NUMQ, 2);
}

uint32_t vdrv_read(struct vdrv *d, unsigned offset, unsigned size)
{
	return (uint32_t)bus_read(d->pc->mmio, 0, d->common + offset, size);
}

void vdrv_write(struct vdrv *d, unsigned offset, unsigned size, uint32_t value)
{
	bus_write(d->pc->mmio, 0, d->common + offset, size, value);
}

uint8_t vdrv_status(struct vdrv *d)
{
	return (uint8_t)vdrv_read(d, VIRTIO_PCI_COMMON_STATUS, 1);
}

void vdrv_set_status(struct vdrv *d, uint8_t bits)
{
	vdrv_write(d, VIRTIO_PCI_COMMON_STATUS, 1, vdrv_status(d) | bits);
}

uint32_t vdrv_config(struct vdrv *d, unsigned offset, unsigned size)
{
	return (uint32_t)bus_read(d->pc->mmio, 0, d->device + offset, size);
}

bool vdrv_reset(struct vdrv *d)
{
	int64_t end = vdrv_now_ms() + 2000;

	vdrv_write(d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	while (vdrv_status(d)) {
		if (vdrv_now_ms() > end)
			return false;
		nanosleep(&short_while, NULL);
	}
	d->next_gpa = FIRST_GPA;
	return true;
}

bool vdrv_negotiate(struct vdrv *d, uint64_t want)
{
	uint64_t offered = 0;

	vdrv_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vdrv_set_status(d, VIRTIO_CONFIG_S_DRIVER);
	for (unsigned i = 0; i < 2; i++) {
		vdrv_write(d, VIRTIO_PCI_COMMON_DFSELECT, 4, i);
		offered |= (uint64_t)vdrv_read(d, VIRTIO_PCI_COMMON_DF, 4)
			   << 32 * i;
	}
	d->features = offered & (want | BIT(VIRTIO_F_VERSION_1));
	for (unsigned i = 0; i < 2; i++) {
		vdrv_write(d, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		vdrv_write(d, VIRTIO_PCI_COMMON_GF, 4,
			   (uint32_t)(d->features >> 32 * i));
	}
	vdrv_set_status(d, VIRTIO_CONFIG_S_FEATURES_OK);
	return vdrv_status(d) & VIRTIO_CONFIG_S_FEATURES_OK;
}

uint64_t vdrv_alloc(struct vdrv *d, uint64_t len)
{
	uint64_t gpa = d->next_gpa;

	d->next_gpa = ALIGN_UP(gpa + len, 64);
	vm_assert(d->next_gpa <= FAKE_PC_RAM_SIZE);
	memset(vdrv_mem(d, gpa, len), 0, len);
	return gpa;
}

void *vdrv_mem(struct vdrv *d, uint64_t gpa, uint64_t len)
{
	void *hva = gmem_at(&d->pc->mem, gpa, len);

	vm_assert(hva);
	return hva;
}

/* Fields of rings are shared with the device's threads. */
static uint16_t load16(struct vdrv *d, uint64_t gpa)
{
	return __atomic_load_n((uint16_t *)vdrv_mem(d, gpa, 2),
			       __ATOMIC_SEQ_CST);
}

static void store16(struct vdrv *d, uint64_t gpa, uint16_t value)
{
	__atomic_store_n((uint16_t *)vdrv_mem(d, gpa, 2), value,
			 __ATOMIC_SEQ_CST);
}

static void write64(struct vdrv *d, unsigned offset, uint64_t value)
{
	vdrv_write(d, offset, 4, (uint32_t)value);
	vdrv_write(d, offset + 4, 4, (uint32_t)(value >> 32));
}

void vdrv_queue_setup(struct vdrv *d, unsigned i, uint16_t size)
{
	struct vdrv_queue *q = &d->queue[i];

	vm_assert(i < VDRV_MAX_QUEUES);
	*q = (struct vdrv_queue){ .drv = d, .index = i, .size = size };
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
	if (!size)
		q->size = (uint16_t)vdrv_read(d, VIRTIO_PCI_COMMON_Q_SIZE, 2);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, q->size);
	q->desc = vdrv_alloc(d, 16ULL * q->size);
	q->avail = vdrv_alloc(d, 6 + 2ULL * q->size);
	q->used = vdrv_alloc(d, 6 + 8ULL * q->size);
	q->indirect = vdrv_alloc(d, 16ULL * q->size * 16);
	q->nr_free = q->size;
	for (uint16_t n = 0; n < q->size; n++)
		vdrv_desc(q, n, 0, 0, 0, n + 1);
	write64(d, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc);
	write64(d, VIRTIO_PCI_COMMON_Q_AVAILLO, q->avail);
	write64(d, VIRTIO_PCI_COMMON_Q_USEDLO, q->used);
	if (d->first_vector != VDRV_NO_MSIX)
		vdrv_write(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, i + 1);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

bool vdrv_start(struct vdrv *d, uint64_t want, uint16_t size)
{
	if (!vdrv_reset(d))
		return false;
	if (!vdrv_negotiate(d, want))
		return false;
	if (d->first_vector != VDRV_NO_MSIX)
		vdrv_write(d, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	for (unsigned i = 0; i < d->nr_queues; i++)
		vdrv_queue_setup(d, i, size);
	vdrv_set_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
	return !(vdrv_status(d) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

void vdrv_desc_at(struct vdrv *d, uint64_t table, unsigned i, uint64_t gpa,
		  uint32_t len, uint16_t flags, uint16_t next)
{
	uint64_t *at = vdrv_mem(d, table + 16ULL * i, 16);

	__atomic_store_n(&at[0], gpa, __ATOMIC_RELAXED);
	__atomic_store_n(&at[1],
			 len | (uint64_t)flags << 32 | (uint64_t)next << 48,
			 __ATOMIC_RELAXED);
}

void vdrv_desc(struct vdrv_queue *q, unsigned i, uint64_t gpa, uint32_t len,
	       uint16_t flags, uint16_t next)
{
	vdrv_desc_at(q->drv, q->desc, i, gpa, len, flags, next);
}

static uint16_t next_of(struct vdrv_queue *q, unsigned i)
{
	uint64_t *at = vdrv_mem(q->drv, q->desc + 16ULL * i, 16);

	return (uint16_t)(__atomic_load_n(&at[1], __ATOMIC_RELAXED) >> 48);
}

int vdrv_add(struct vdrv_queue *q, const struct vdrv_buf *bufs, unsigned nr_out,
	     unsigned nr_in, bool is_indirect)
{
	unsigned n = nr_out + nr_in, used = is_indirect ? 1 : n;
	uint16_t head = q->free_head, i = head;
	uint64_t table = q->desc;

	if (q->nr_free < used)
		return -1;
	if (is_indirect) {
		vm_assert(n <= 16);
		table = q->indirect + 256ULL * head;
		q->free_head = next_of(q, head);
		vdrv_desc(q, head, table, n * 16, 4, q->free_head);
		i = 0;
	}
	for (unsigned k = 0; k < n; k++) {
		uint16_t flags = (k >= nr_out ? 2 : 0) | (k + 1 < n ? 1 : 0);
		uint16_t next = is_indirect ? i + 1 : next_of(q, i);

		vdrv_desc_at(q->drv, table, i, bufs[k].gpa, bufs[k].len, flags,
			     next);
		i = next;
	}
	if (!is_indirect)
		q->free_head = i;
	q->nr_free -= used;
	q->chain_len[head] = (uint16_t)used;
	vdrv_offer(q, head);
	vdrv_publish(q);
	return head;
}

void vdrv_offer(struct vdrv_queue *q, uint16_t head)
{
	store16(q->drv, q->avail + 4 + 2ULL * (q->avail_idx % q->size), head);
	q->avail_idx++;
}

void vdrv_publish(struct vdrv_queue *q)
{
	store16(q->drv, q->avail + 2, q->avail_idx);
}

void vdrv_ring(struct vdrv_queue *q)
{
	struct vdrv *d = q->drv;

	q->kicked_idx = q->avail_idx;
	q->nr_kicks++;
	bus_write(d->pc->mmio, 0, d->notify + q->index * d->notify_step, 2,
		  q->index);
}

bool vdrv_kick(struct vdrv_queue *q)
{
	struct vdrv *d = q->drv;
	uint16_t old = q->kicked_idx, new = q->avail_idx, event;
	bool is_wanted;

	if (d->features & BIT(F_EVENT_IDX)) {
		event = load16(d, q->used + 4 + 8ULL * q->size);
		is_wanted = (uint16_t)(new - event - 1) < (uint16_t)(new - old);
	} else {
		is_wanted = !(load16(d, q->used) & 1);
	}
	q->kicked_idx = new;
	if (is_wanted)
		vdrv_ring(q);
	else
		q->nr_saved_kicks++;
	return is_wanted;
}

int vdrv_take(struct vdrv_queue *q, uint32_t *len)
{
	struct vdrv *d = q->drv;
	uint32_t *element;
	uint16_t head, tail;

	if (load16(d, q->used + 2) == q->used_idx)
		return -1;
	element = vdrv_mem(d, q->used + 4 + 8ULL * (q->used_idx % q->size), 8);
	head = (uint16_t)__atomic_load_n(&element[0], __ATOMIC_RELAXED);
	if (len)
		*len = __atomic_load_n(&element[1], __ATOMIC_RELAXED);
	q->used_idx++;
	vm_assert(head < q->size && q->chain_len[head]);
	tail = head;
	for (unsigned n = 1; n < q->chain_len[head]; n++)
		tail = next_of(q, tail);
	vdrv_desc(q, tail, 0, 0, 0, q->free_head);
	q->free_head = head;
	q->nr_free += q->chain_len[head];
	q->chain_len[head] = 0;
	return head;
}

int vdrv_wait(struct vdrv_queue *q, uint32_t *len, unsigned ms)
{
	int64_t end = vdrv_now_ms() + ms;
	int head;

	while ((head = vdrv_take(q, len)) < 0) {
		if (vdrv_now_ms() > end)
			return -1;
		nanosleep(&short_while, NULL);
	}
	return head;
}

bool vdrv_want_interrupt(struct vdrv_queue *q, bool is_wanted)
{
	struct vdrv *d = q->drv;

	if (d->features & BIT(F_EVENT_IDX)) {
		/* Far away, when it is not wanted. */
		uint16_t event = is_wanted ? q->used_idx : q->used_idx - 1;

		store16(d, q->avail + 4 + 2ULL * q->size, event);
	} else {
		store16(d, q->avail, !is_wanted);
	}
	return load16(d, q->used + 2) != q->used_idx;
}

bool vdrv_wait_status(struct vdrv *d, uint8_t bit, unsigned ms)
{
	int64_t end = vdrv_now_ms() + ms;

	while (!(vdrv_status(d) & bit)) {
		if (vdrv_now_ms() > end)
			return false;
		nanosleep(&short_while, NULL);
	}
	return true;
}
