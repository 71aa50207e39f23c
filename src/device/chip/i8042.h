/* The keyboard controller, with a keyboard and a mouse that nobody touches. */
#ifndef DEVICE_CHIP_I8042_H
#define DEVICE_CHIP_I8042_H

#include "device/device.h"

/** How to make one. */
struct i8042_opts {
	struct irq_line keyboard, mouse; /* IRQ 1 and 12 */
};

extern const struct device_class i8042_class;

/** Make one at ports 0x60 and 0x64, with port 0x92 (fast A20 and reset).
 * -errno with (err). */
int i8042_create(struct device **dev, const struct device_env *env,
		 const struct i8042_opts *opts, struct err *err);

#endif
