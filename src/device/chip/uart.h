/* A serial port. */
#ifndef DEVICE_CHIP_UART_H
#define DEVICE_CHIP_UART_H

#include "device/device.h"

#define UART_COM1 0x3f8
#define UART_COM2 0x2f8

/** How to make one. */
struct uart_opts {
	uint16_t port;
	struct irq_line irq;
	struct chr *chr; /* borrowed; NULL: nothing is connected */
};

extern const struct device_class uart_class;

/** Make one at 8 ports, connected to (opts->chr) until it is destroyed. -errno
 * with (err). */
int uart_create(struct device **dev, const struct device_env *env,
		const struct uart_opts *opts, struct err *err);

#endif
