/* Small ISA devices by which a guest talks to whoever runs it: a debug
 * console, an exit port, and the report of a crash. */
#ifndef DEVICE_CHIP_ISA_DEBUG_H
#define DEVICE_CHIP_ISA_DEBUG_H

#include "device/device.h"

/** Options of "debugcon": bytes written to (port) go to a stream. */
struct debugcon_opts {
	unsigned port;
	char *chr; /* a stream, as chr_open() takes it */
};

/** Options of "isa-debug-exit": a write of n ends the process with status
 * (n << 1) | 1. */
struct debugexit_opts {
	unsigned port, size;
};

/** Options of "pvpanic": how a kernel says that it crashed. */
struct pvpanic_opts {
	unsigned port;
};

extern const struct device_class debugcon_class;
extern const struct device_class debugexit_class;
extern const struct device_class pvpanic_class;

#endif
