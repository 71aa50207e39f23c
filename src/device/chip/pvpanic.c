/* QEMU, docs/specs/pvpanic: a guest's kernel reports that it crashed. */
#include <errno.h>

#include "base/bits.h"
#include "device/chip/isa_debug.h"
#include "state/stream.h"

enum event {
	EVENT_PANICKED = BIT(0),
	EVENT_CRASH_LOADED = BIT(1), /* and a crash kernel takes over */
};

struct pvpanic {
	struct device dev;
};

static uint64_t pvpanic_read(void *dev, unsigned cpu, uint64_t offset,
			     unsigned size)
{
	return EVENT_PANICKED | EVENT_CRASH_LOADED;
}

static void pvpanic_write(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size, uint64_t value)
{
	if (value & EVENT_PANICKED)
		device_event(dev, MACHINE_PANICKED, EVENT_PANICKED);
	else if (value & EVENT_CRASH_LOADED)
		device_event(dev, MACHINE_PANICKED, EVENT_CRASH_LOADED);
}

static const struct bus_ops pvpanic_ops = { .read = pvpanic_read,
					    .write = pvpanic_write,
					    .max_size = 1 };

static void pvpanic_destroy(struct device *dev)
{
	device_finish(dev);
	free(container_of(dev, struct pvpanic, dev));
}

static void pvpanic_reset(struct device *dev)
{
}

/* There is nothing to keep; the record says that it was here. */
static void pvpanic_state(struct device *dev, struct stream *s)
{
	stream_begin(s, STREAM_TAG('P', 'A', 'N', 'C'), 1);
	stream_end(s);
}

static int pvpanic_create(struct device **dev, const struct device_env *env,
			  const void *options, struct err *err)
{
	const struct pvpanic_opts *opts = options;
	struct pvpanic *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(err, ENOMEM, NULL, "cannot make pvpanic:");
	device_init(&p->dev, &pvpanic_class, env);
	r = device_map(&p->dev, env->pio, opts->port, 1, &pvpanic_ops, err);
	if (r) {
		pvpanic_destroy(&p->dev);
		return r;
	}
	*dev = &p->dev;
	return 0;
}

static const struct opt_desc pvpanic_descs[] = {
	{ .name = "ioport",
	  .type = OPT_UINT,
	  .offset = offsetof(struct pvpanic_opts, port),
	  .help = "I/O port",
	  .def = "0x505",
	  .max = 0xffff },
	OPT_END
};

const struct device_class pvpanic_class = {
	.name = "pvpanic",
	.help = "port by which a kernel reports that it crashed",
	.opts = pvpanic_descs,
	.opts_size = sizeof(struct pvpanic_opts),
	.create = pvpanic_create,
	.destroy = pvpanic_destroy,
	.reset = pvpanic_reset,
	.state = pvpanic_state,
};
