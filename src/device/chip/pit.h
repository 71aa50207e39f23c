/* The interval timer, with the speaker port that shows and gates channel 2. */
#ifndef DEVICE_CHIP_PIT_H
#define DEVICE_CHIP_PIT_H

#include "device/device.h"

#define PIT_HZ 1193182

/** How to make one. */
struct pit_opts {
	struct irq_line irq; /* output of channel 0 */
};

extern const struct device_class pit_class;

/** Make one at ports 0x40 to 0x43 and 0x61. -errno with (err). */
int pit_create(struct device **dev, const struct device_env *env,
	       const struct pit_opts *opts, struct err *err);

#endif
