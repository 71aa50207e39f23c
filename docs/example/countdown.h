/* The device of docs/adding-a-device.md. */
#ifndef EXAMPLE_COUNTDOWN_H
#define EXAMPLE_COUNTDOWN_H

#include "device/device.h"

/** Options of the countdown. */
struct countdown_opts {
	unsigned port; /* of its one register */
	unsigned gsi;  /* pulsed at the end */
};

extern const struct device_class countdown_class;

#endif
