/* The high-precision event timer. */
#ifndef DEVICE_CHIP_HPET_H
#define DEVICE_CHIP_HPET_H

#include "device/device.h"

#define HPET_BASE 0xfed00000

/** Wires that HPET takes over in legacy replacement mode. */
enum hpet_legacy { HPET_LEGACY_PIT, HPET_LEGACY_RTC };

/** How to make one. */
struct hpet_opts {
	uint64_t base;
	/* Where the PIT's and the RTC's interrupts end: GSIs 0 and 8. */
	struct irq_line legacy[2];
	/* The GSIs that timers may be routed to, of no other device. */
	uint32_t route_mask;
};

extern const struct device_class hpet_class;

/** Make one with three timers, stopped. -errno with (err). */
int hpet_create(struct device **dev, const struct device_env *env,
		const struct hpet_opts *opts, struct err *err);

/** The wire to give the PIT or the RTC: it leads through the HPET to its end in
 * (hpet_opts.legacy), and is cut while timers 0 and 1 replace them. */
struct irq_line hpet_legacy_line(struct device *dev, enum hpet_legacy n);

#endif
