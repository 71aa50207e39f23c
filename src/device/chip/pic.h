/* The pair of 8259A interrupt controllers of a PC. */
#ifndef DEVICE_CHIP_PIC_H
#define DEVICE_CHIP_PIC_H

#include "device/device.h"

/** How to make the pair. */
struct pic_opts {
	struct irq_line out; /* INTR of the CPUs: LINT0 of the local APICs */
};

extern const struct device_class pic_class;

/** Make the pair at its ports, with all inputs low. -errno with (err). */
int pic_create(struct device **dev, const struct device_env *env,
	       const struct pic_opts *opts, struct err *err);

/** Set input (n), 0 to 15; 2 is taken by the second chip. Any thread. */
void pic_set_irq(struct device *dev, unsigned n, bool level);

/** The CPU's acknowledge cycle: the vector to deliver. IRQ 7 or 15 of a chip
 * whose request went away meanwhile. Any thread, no local APIC's lock held. */
uint8_t pic_acknowledge(struct device *dev);

#endif
