/*
 * The machine's interrupt controllers in software: a local APIC for each CPU,
 * the I/O APIC and the 8259s, wired as on a PC. One device to the machine.
 */
#ifndef DEVICE_CHIP_IRQCHIP_H
#define DEVICE_CHIP_IRQCHIP_H

#include "device/device.h"

/** How to make them. */
struct irqchip_opts {
	unsigned nr_cpus;
	const uint32_t *apic_ids; /* of (nr_cpus), copied; the first boots */
	uint8_t ioapic_id;
};

extern const struct device_class irqchip_class;

/** Make and map them, in their power-on state. (env->irqchip) is not used: it
 * may be what irqchip_get() returns. -errno with (err). */
int irqchip_create(struct device **dev, const struct device_env *env,
		   const struct irqchip_opts *opts, struct err *err);

/** Where interrupts go; for (env->irqchip). */
struct irqchip irqchip_get(struct device *dev);

/** Connect CPU (cpu), below (nr_cpus), before it runs; the result is how it
 * sees its interrupts. */
struct intc irqchip_connect(struct device *dev, unsigned cpu,
			    struct cpu_port port);

/** Pulse the NMI input (LINT1) of every CPU. Any thread. */
void irqchip_nmi(struct device *dev);

#endif
