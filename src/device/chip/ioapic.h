/* The I/O APIC: 24 pins, each turned into a message to the local APICs. */
#ifndef DEVICE_CHIP_IOAPIC_H
#define DEVICE_CHIP_IOAPIC_H

#include "device/device.h"

#define IOAPIC_NR_PINS 24
#define IOAPIC_BASE    0xfec00000

/** How to make one, and where its messages go. */
struct ioapic_opts {
	uint64_t base;
	uint8_t id;
	/* Called with the device's lock held. */
	void (*send)(void *opaque, const struct msi_msg *msg);
	void *opaque;
};

extern const struct device_class ioapic_class;

/** Make one with all pins masked. -errno with (err). */
int ioapic_create(struct device **dev, const struct device_env *env,
		  const struct ioapic_opts *opts, struct err *err);

/** Set pin (n); one out of range is ignored. Any thread. */
void ioapic_set_pin(struct device *dev, unsigned n, bool level);

/** A CPU ended a level-triggered interrupt of (vector). No local APIC's lock is
 * held. */
void ioapic_eoi(struct device *dev, uint8_t vector);

#endif
