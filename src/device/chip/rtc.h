/* The real-time clock with its CMOS memory. */
#ifndef DEVICE_CHIP_RTC_H
#define DEVICE_CHIP_RTC_H

#include "device/device.h"

/** How to make one. */
struct rtc_opts {
	/* What it shows, in ns since 1970 (local time or UTC as the guest
	 * expects it), when guest time is zero. */
	int64_t wall_ns;
	struct irq_line irq;
	/* Bytes of RAM from 0 up to the hole, and from 4 GiB on: firmware
	 * reads them from CMOS. */
	uint64_t ram_low, ram_high;
	unsigned nr_cpus;
};

extern const struct device_class rtc_class;

/** Make one at ports 0x70 and 0x71. -errno with (err). */
int rtc_create(struct device **dev, const struct device_env *env,
	       const struct rtc_opts *opts, struct err *err);

/** Set byte (index) of the CMOS memory, 0x0e to 0x7f, for firmware. */
void rtc_set_cmos(struct device *dev, unsigned index, uint8_t value);

#endif
