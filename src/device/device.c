#include "device/device.h"

#include <errno.h>

void device_init(struct device *dev, const struct device_class *cls,
		 const struct device_env *env)
{
	dev->cls = cls;
	dev->env = env;
	snprintf(dev->id, sizeof(dev->id), "%s", cls->name);
	pthread_mutex_init(&dev->lock, NULL);
	list_init(&dev->link);
	list_init(&dev->stats_group.link);
	dev->nr_ranges = 0;
}

void device_finish(struct device *dev)
{
	while (dev->nr_ranges) {
		dev->nr_ranges--;
		bus_unmap(dev->ranges[dev->nr_ranges].bus,
			  dev->ranges[dev->nr_ranges].base);
	}
	stats_remove(&dev->stats_group);
	list_remove(&dev->link);
	pthread_mutex_destroy(&dev->lock);
}

int device_map(struct device *dev, struct bus *bus, uint64_t base, uint64_t len,
	       const struct bus_ops *ops, struct err *err)
{
	int r = -ENOSPC;

	if (dev->nr_ranges < DEVICE_MAX_RANGES)
		r = bus_map(bus, base, len, dev->id, ops, dev, &dev->lock);
	if (r)
		return err_set(err, -r, NULL,
			       "cannot give %s its registers at 0x%llx:",
			       dev->id, (unsigned long long)base);
	dev->ranges[dev->nr_ranges].bus = bus;
	dev->ranges[dev->nr_ranges].base = base;
	dev->nr_ranges++;
	return 0;
}

void device_event(struct device *dev, enum machine_event event, int value)
{
	if (dev->env->event)
		dev->env->event(dev->env->event_opaque, event, value);
}

void device_quit(void *dev)
{
	device_event(dev, MACHINE_EXIT, 0);
}
