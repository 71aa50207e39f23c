/*
 * Theory of operation
 *
 *   devices --set_gsi--> 8259s --INTR--> LINT0 of every local APIC
 *                    \-> I/O APIC --message--\
 *   devices --send_msi-----------------------+--> irqchip_send() --> local
 *   local APIC: ICR --------------------------/                       APICs
 *   local APIC: EOI of a level-triggered vector --> I/O APIC
 *
 * A GSI is the I/O APIC's pin of that number, and below 16 the 8259s' input.
 * GSI 0, the PIT's, also drives pin 2: firmware tables of PCs say that the
 * timer is there, and an override may or may not be given; a guest unmasks one.
 *
 * Lock order: device -> 8259s, I/O APIC -> local APIC; see lapic.c. What is
 * here does not change after creation; the device's own lock is only for the
 * log.
 */
#include "device/chip/irqchip.h"

#include <errno.h>

#include "base/bits.h"
#include "base/log.h"
#include "device/chip/ioapic.h"
#include "device/chip/lapic.h"
#include "device/chip/pic.h"
#include "state/stream.h"

#define TIMER_GSI 0
#define TIMER_PIN 2

/* Messages: SDM volume 3, 10.11. */
#define MSI_ADDR_BASE  0xfee00000
#define MSI_LOGICAL    BIT(2)
#define MSI_REDIRECT   BIT(3) /* to one of the set, any */
#define MSI_DATA_LEVEL BIT(15)

struct chips {
	struct device dev;
	struct device *pic, *ioapic;
	unsigned nr_cpus;
	unsigned next; /* where the search of the lowest priority starts */
	struct log_limit log;
	struct device *lapic[]; /* (nr_cpus) */
};

/* The guest's side: each CPU sees its own APIC at the one address. */

static uint64_t apic_read(void *opaque, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	struct chips *chips = opaque;

	if (cpu >= chips->nr_cpus)
		return UINT32_MAX;
	return lapic_read(chips->lapic[cpu], offset);
}

static void apic_write(void *opaque, unsigned cpu, uint64_t offset,
		       unsigned size, uint64_t value)
{
	struct chips *chips = opaque;

	if (cpu < chips->nr_cpus)
		lapic_write(chips->lapic[cpu], offset, (uint32_t)value);
}

static const struct bus_ops apic_ops = {
	.read = apic_read, .write = apic_write, .min_size = 4, .max_size = 4
};

/* Between the chips. */

static bool is_receiver(const struct chips *chips, unsigned cpu, unsigned from,
			const struct apic_msg *msg)
{
	switch (msg->shorthand) {
	case APIC_SELF:
		return cpu == from;
	case APIC_OTHERS:
		return cpu != from;
	case APIC_ALL:
		return true;
	case APIC_DEST:
		break;
	}
	return lapic_matches(chips->lapic[cpu], msg);
}

/* One of the receivers, that with the lowest priority; equals take turns. */
static void send_lowest(struct chips *chips, unsigned from,
			const struct apic_msg *msg)
{
	unsigned start = __atomic_fetch_add(&chips->next, 1, __ATOMIC_RELAXED);
	unsigned best_priority = UINT8_MAX;
	struct device *best = NULL;

	for (unsigned i = 0; i < chips->nr_cpus; i++) {
		unsigned cpu = (start + i) % chips->nr_cpus;
		unsigned priority;

		if (!is_receiver(chips, cpu, from, msg))
			continue;
		priority = lapic_priority(chips->lapic[cpu]);
		if (priority < best_priority) {
			best = chips->lapic[cpu];
			best_priority = priority;
		}
	}
	if (best)
		lapic_accept(best, msg);
}

static void irqchip_send(void *opaque, unsigned from,
			 const struct apic_msg *msg)
{
	struct chips *chips = opaque;

	if (msg->mode == APIC_LOWEST) {
		send_lowest(chips, from, msg);
		return;
	}
	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++) {
		if (is_receiver(chips, cpu, from, msg))
			lapic_accept(chips->lapic[cpu], msg);
	}
}

static void irqchip_eoi(void *opaque, uint8_t vector)
{
	struct chips *chips = opaque;

	ioapic_eoi(chips->ioapic, vector);
}

static uint8_t irqchip_extint(void *opaque)
{
	struct chips *chips = opaque;

	return pic_acknowledge(chips->pic);
}

/* The 8259s' output. */
static void set_intr(void *opaque, unsigned n, bool level)
{
	struct chips *chips = opaque;

	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++)
		lapic_set_lint(chips->lapic[cpu], 0, level);
}

/* The devices' side. */

static void chips_send_msi(void *opaque, const struct msi_msg *msg)
{
	struct chips *chips = opaque;
	struct apic_msg m = {
		.mode = bits_get(msg->data, 8, 3),
		.vector = (uint8_t)msg->data,
		/* Bits 11:5 continue the destination: see ioapic.c. */
		.dest = (uint32_t)(bits_get(msg->addr, 12, 8) |
				   bits_get(msg->addr, 5, 7) << 8),
		.is_logical = msg->addr & MSI_LOGICAL,
		.is_level = msg->data & MSI_DATA_LEVEL,
	};

	if (msg->addr >> 20 != MSI_ADDR_BASE >> 20) {
		pthread_mutex_lock(&chips->dev.lock);
		log_guest(&chips->log, chips->dev.id,
			  "a message to 0x%llx, where no APIC is",
			  (unsigned long long)msg->addr);
		pthread_mutex_unlock(&chips->dev.lock);
		return;
	}
	if (m.mode == APIC_RESERVED || m.mode == APIC_EXTINT)
		return;
	if (m.dest == 0xff)
		m.shorthand = APIC_ALL;
	if (m.mode == APIC_FIXED && m.is_logical && msg->addr & MSI_REDIRECT)
		m.mode = APIC_LOWEST;
	irqchip_send(chips, chips->nr_cpus, &m);
}

static void chips_set_gsi(void *opaque, unsigned gsi, bool level)
{
	struct chips *chips = opaque;

	pic_set_irq(chips->pic, gsi, level);
	if (gsi == TIMER_GSI)
		ioapic_set_pin(chips->ioapic, TIMER_PIN, level);
	if (gsi != TIMER_PIN)
		ioapic_set_pin(chips->ioapic, gsi, level);
}

static int chips_route_msi(void *opaque, int fd, const struct msi_msg *msg)
{
	return -ENOTSUP;
}

static const struct irqchip_ops chips_ops = {
	.set_gsi = chips_set_gsi,
	.send_msi = chips_send_msi,
	.route_msi = chips_route_msi,
};

struct irqchip irqchip_get(struct device *dev)
{
	return (struct irqchip){ .ops = &chips_ops,
				 .chip = container_of(dev, struct chips, dev) };
}

struct intc irqchip_connect(struct device *dev, unsigned cpu,
			    struct cpu_port port)
{
	struct chips *chips = container_of(dev, struct chips, dev);

	vm_assert(cpu < chips->nr_cpus);
	lapic_connect(chips->lapic[cpu], port);
	return lapic_intc(chips->lapic[cpu]);
}

void irqchip_nmi(struct device *dev)
{
	struct chips *chips = container_of(dev, struct chips, dev);

	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++) {
		lapic_set_lint(chips->lapic[cpu], 1, true);
		lapic_set_lint(chips->lapic[cpu], 1, false);
	}
}

static void irqchip_state(struct device *dev, struct stream *s)
{
	struct chips *chips = container_of(dev, struct chips, dev);
	uint32_t nr_cpus = chips->nr_cpus;

	stream_begin(s, STREAM_TAG('I', 'R', 'Q', 'C'), 1);
	stream_u32(s, &nr_cpus);
	stream_check(s, nr_cpus == chips->nr_cpus);
	pic_class.state(chips->pic, s);
	ioapic_class.state(chips->ioapic, s);
	/* Last: what the 8259s drove while loading is overwritten. */
	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++)
		lapic_class.state(chips->lapic[cpu], s);
	stream_end(s);
}

static void irqchip_reset(struct device *dev)
{
	struct chips *chips = container_of(dev, struct chips, dev);

	pic_class.reset(chips->pic);
	ioapic_class.reset(chips->ioapic);
	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++)
		lapic_class.reset(chips->lapic[cpu]);
}

static void irqchip_destroy(struct device *dev)
{
	struct chips *chips = container_of(dev, struct chips, dev);

	bus_unmap(dev->env->mmio, LAPIC_BASE);
	if (chips->ioapic)
		ioapic_class.destroy(chips->ioapic);
	if (chips->pic)
		pic_class.destroy(chips->pic);
	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++) {
		if (chips->lapic[cpu])
			lapic_class.destroy(chips->lapic[cpu]);
	}
	device_finish(dev);
	free(chips);
}

const struct device_class irqchip_class = {
	.name = "irqchip",
	.help = "interrupt controllers: 8259s, I/O APIC and local APICs",
	.destroy = irqchip_destroy,
	.reset = irqchip_reset,
	.state = irqchip_state,
};

static int create_chips(struct chips *chips, const struct irqchip_opts *opts,
			struct err *err)
{
	const struct device_env *env = chips->dev.env;
	const struct ioapic_opts ioapic = {
		.base = IOAPIC_BASE,
		.id = opts->ioapic_id,
		.send = chips_send_msi,
		.opaque = chips,
	};
	const struct pic_opts pic = { .out = { .set = set_intr,
					       .ctl = chips } };
	int r;

	for (unsigned cpu = 0; cpu < chips->nr_cpus; cpu++) {
		const struct lapic_opts lapic = {
			.cpu = cpu,
			.apic_id = opts->apic_ids[cpu],
			.is_bsp = cpu == 0,
			.bus = { .send = irqchip_send,
				 .eoi = irqchip_eoi,
				 .extint = irqchip_extint,
				 .opaque = chips },
		};

		r = lapic_create(&chips->lapic[cpu], env, &lapic, err);
		if (r)
			return r;
	}
	r = pic_create(&chips->pic, env, &pic, err);
	if (!r)
		r = ioapic_create(&chips->ioapic, env, &ioapic, err);
	return r;
}

int irqchip_create(struct device **dev, const struct device_env *env,
		   const struct irqchip_opts *opts, struct err *err)
{
	struct chips *chips = calloc(
		1, sizeof(*chips) + opts->nr_cpus * sizeof(struct device *));
	int r;

	if (!chips)
		return err_set(err, ENOMEM, NULL,
			       "cannot make the interrupt controllers:");
	device_init(&chips->dev, &irqchip_class, env);
	chips->nr_cpus = opts->nr_cpus;
	/* Without a lock: each APIC has its own, and sends to others. */
	r = bus_map(env->mmio, LAPIC_BASE, LAPIC_SIZE, "lapic", &apic_ops,
		    chips, NULL);
	if (r) {
		err_set(err, -r, NULL, "cannot map the local APICs:");
		device_finish(&chips->dev);
		free(chips);
		return r;
	}
	r = create_chips(chips, opts, err);
	if (r) {
		irqchip_destroy(&chips->dev);
		return r;
	}
	*dev = &chips->dev;
	return 0;
}
