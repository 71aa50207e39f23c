/* Which devices exist: every class that --device takes, one line each. */
#include <string.h>

#include "device/chip/isa_debug.h"
#include "device/device.h"
#include "device/virtio/devices.h"

const struct device_class *const device_classes[] = {
	&virtio_blk_device,
	&virtio_console_device,
	&virtio_rng_device,
	&debugcon_class,
	&debugexit_class,
	&pvpanic_class,
	NULL,
};

const struct device_class *device_find(const char *name)
{
	for (const struct device_class *const *c = device_classes; *c; c++)
		if (!strcmp((*c)->name, name))
			return *c;
	return NULL;
}
