#include "vcpu/kvm/kvm.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "base/endian.h"
#include "base/log.h"

#define NR_PINS 24

/* ---- routes (section 4.52, KVM_SET_GSI_ROUTING) -------------------------- */

static struct kvm_irq_routing_entry pin_entry(uint32_t gsi, uint32_t chip,
					      uint32_t pin)
{
	return (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/* The pins as KVM wires them by itself, then a GSI for each MSI route. */
static int routes_commit(struct kvm_vm *kvm)
{
	unsigned n = 0, max = NR_PINS + 16 + KVM_MAX_MSI_ROUTES;
	struct kvm_irq_routing *table =
		calloc(1, sizeof(*table) + max * sizeof(table->entries[0]));
	int r;

	if (!table)
		return -ENOMEM;
	for (uint32_t i = 0; i < 16; i++)
		if (i != 2) /* the cascade */
			table->entries[n++] =
				pin_entry(i,
					  i < 8 ? KVM_IRQCHIP_PIC_MASTER
						: KVM_IRQCHIP_PIC_SLAVE,
					  i % 8);
	/* IRQ 0 is the IOAPIC's pin 2, as the MADT says. */
	for (uint32_t i = 0; i < NR_PINS; i++)
		if (i != 2)
			table->entries[n++] =
				pin_entry(i, KVM_IRQCHIP_IOAPIC, i ? i : 2);
	for (uint32_t i = 0; i < KVM_MAX_MSI_ROUTES; i++) {
		const struct kvm_msi_route *route = &kvm->route[i];

		if (route->fd < 0)
			continue;
		table->entries[n++] = (struct kvm_irq_routing_entry){
			.gsi = NR_PINS + i,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (uint32_t)route->msg.addr,
				   .address_hi =
					   (uint32_t)(route->msg.addr >> 32),
				   .data = route->msg.data },
		};
	}
	table->nr = n;
	r = kvm_ioctl(kvm->vm_fd, KVM_SET_GSI_ROUTING, table);
	free(table);
	return r;
}

static int irqfd_set(struct kvm_vm *kvm, int fd, uint32_t gsi, bool on)
{
	struct kvm_irqfd irqfd = {
		.fd = (uint32_t)fd,
		.gsi = gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_IRQFD, &irqfd);
}

static struct kvm_msi_route *route_find(struct kvm_vm *kvm, int fd)
{
	for (unsigned i = 0; i < KVM_MAX_MSI_ROUTES; i++)
		if (kvm->route[i].fd == fd)
			return &kvm->route[i];
	return NULL;
}

static int route_msi_locked(struct kvm_vm *kvm, int fd,
			    const struct msi_msg *msg)
{
	struct kvm_msi_route *route = route_find(kvm, fd);
	bool is_new = !route;
	uint32_t gsi;
	int r;

	if (!msg && !route)
		return 0;
	if (!route)
		route = route_find(kvm, -1);
	if (!route)
		return -ENOSPC;
	gsi = NR_PINS + (uint32_t)(route - kvm->route);
	if (!msg) {
		irqfd_set(kvm, fd, gsi, false);
		route->fd = -1;
		return routes_commit(kvm);
	}
	*route = (struct kvm_msi_route){ .fd = fd, .msg = *msg };
	r = routes_commit(kvm);
	if (!r && is_new)
		r = irqfd_set(kvm, fd, gsi, true);
	if (r)
		route->fd = -1;
	else if (is_new)
		kvm->nr_irqfds++;
	return r;
}

static int route_msi(void *chip, int fd, const struct msi_msg *msg)
{
	struct kvm_vm *kvm = chip;
	int r;

	pthread_mutex_lock(&kvm->lock);
	r = route_msi_locked(kvm, fd, msg);
	pthread_mutex_unlock(&kvm->lock);
	return r;
}

/* ---- lines and messages --------------------------------------------------- */

static void set_gsi(void *chip, unsigned gsi, bool level)
{
	struct kvm_vm *kvm = chip;
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	__atomic_fetch_add(&kvm->nr_lines, 1, __ATOMIC_RELAXED);
	kvm_ioctl(kvm->vm_fd, KVM_IRQ_LINE, &l);
}

static void send_msi(void *chip, const struct msi_msg *msg)
{
	struct kvm_vm *kvm = chip;
	struct kvm_msi m = {
		.address_lo = (uint32_t)msg->addr,
		.address_hi = (uint32_t)(msg->addr >> 32),
		.data = msg->data,
	};

	__atomic_fetch_add(&kvm->nr_msi, 1, __ATOMIC_RELAXED);
	kvm_ioctl(kvm->vm_fd, KVM_SIGNAL_MSI, &m);
}

const struct irqchip_ops kvm_irqchip_ops = {
	.set_gsi = set_gsi,
	.send_msi = send_msi,
	.route_msi = route_msi,
};

/* ---- doorbells (section 4.59, KVM_IOEVENTFD) ------------------------------ */

static int doorbell_set(void *opaque, bool is_pio, const struct doorbell *d,
			bool on)
{
	struct kvm_vm *kvm = opaque;
	struct kvm_ioeventfd io = {
		.addr = d->addr,
		.len = d->size,
		.fd = d->fd,
		.datamatch = d->value,
		.flags = (is_pio ? KVM_IOEVENTFD_FLAG_PIO : 0U) |
			 (d->has_value ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0U) |
			 (on ? 0U : KVM_IOEVENTFD_FLAG_DEASSIGN),
	};
	int r = kvm_ioctl(kvm->vm_fd, KVM_IOEVENTFD, &io);

	if (!r && on)
		__atomic_fetch_add(&kvm->nr_ioeventfds, 1, __ATOMIC_RELAXED);
	return r;
}

const struct doorbell_ops kvm_doorbell_ops = { .set = doorbell_set };

/* ---- the chips ------------------------------------------------------------ */

int kvm_irqchip_create(struct kvm_vm *kvm)
{
	int r;

	for (unsigned i = 0; i < KVM_MAX_MSI_ROUTES; i++)
		kvm->route[i].fd = -1;
	if (ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP) <= 0 ||
	    ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SIGNAL_MSI) <= 0)
		return -ENOTSUP;
	r = kvm_ioctl(kvm->vm_fd, KVM_CREATE_IRQCHIP, NULL);
	return r ? r : routes_commit(kvm);
}

static void lapic_set(struct kvm_lapic_state *l, unsigned reg, uint32_t value)
{
	store_le32(l->regs + reg, value);
}

/* SDM volume 3, 10.4.7.1: the state after power-on. */
int kvm_lapic_reset(struct vcpu *vcpu)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct kvm_lapic_state l;
	struct kvm_sregs sregs;
	uint32_t id, version;
	int r = kvm_ioctl(kv->fd, KVM_GET_SREGS, &sregs);

	sregs.apic_base = 0xfee00000 | BIT(11) | (vcpu->index ? 0 : BIT(8));
	sregs.cr8 = 0;
	if (!r)
		r = kvm_ioctl(kv->fd, KVM_SET_SREGS, &sregs);
	if (!r)
		r = kvm_ioctl(kv->fd, KVM_GET_LAPIC, &l);
	if (r)
		return r;
	id = load_le32(l.regs + 0x20);
	version = load_le32(l.regs + 0x30);
	memset(&l, 0, sizeof(l));
	lapic_set(&l, 0x20, id);
	lapic_set(&l, 0x30, version);
	lapic_set(&l, 0xe0, 0xffffffff);
	lapic_set(&l, 0xf0, 0xff);
	for (unsigned lvt = 0x320; lvt <= 0x370; lvt += 0x10)
		lapic_set(&l, lvt, 0x10000);
	return kvm_ioctl(kv->fd, KVM_SET_LAPIC, &l);
}

void kvm_irqchip_reset(struct vcpus *vs)
{
	struct kvm_vm *kvm = kvm_vm_of(vs);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	chip.chip.ioapic.base_address = 0xfec00000;
	for (unsigned i = 0; i < NR_PINS; i++)
		chip.chip.ioapic.redirtbl[i].fields.mask = 1;
	if (kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip))
		log_warn("kvm: the IOAPIC was not reset");
	for (uint32_t id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_PIC_SLAVE;
	     id++) {
		memset(&chip, 0, sizeof(chip));
		chip.chip_id = id;
		chip.chip.pic.elcr_mask = id ? 0xde : 0xf8;
		if (kvm_ioctl(kvm->vm_fd, KVM_SET_IRQCHIP, &chip))
			log_warn("kvm: 8259 %u was not reset", id);
	}
	for (unsigned i = 0; i < vs->nr; i++)
		if (kvm_lapic_reset(&vs->vcpu[i]))
			log_warn("kvm: the LAPIC of CPU %u was not reset", i);
}
