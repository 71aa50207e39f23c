/* QEMU's isa-debug-exit: a guest ends its machine with an exit status. */
#include <errno.h>

#include "device/chip/isa_debug.h"
#include "state/stream.h"

struct debugexit {
	struct device dev;
};

static uint64_t debugexit_read(void *dev, unsigned cpu, uint64_t offset,
			       unsigned size)
{
	return 0;
}

static void debugexit_write(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size, uint64_t value)
{
	device_event(dev, MACHINE_EXIT, (int)((uint32_t)value << 1 | 1));
}

static const struct bus_ops debugexit_ops = { .read = debugexit_read,
					      .write = debugexit_write,
					      .max_size = 4 };

static void debugexit_destroy(struct device *dev)
{
	device_finish(dev);
	free(container_of(dev, struct debugexit, dev));
}

static void debugexit_reset(struct device *dev)
{
}

/* There is nothing to keep; the record says that it was here. */
static void debugexit_state(struct device *dev, struct stream *s)
{
	stream_begin(s, STREAM_TAG('D', 'E', 'X', 'I'), 1);
	stream_end(s);
}

static int debugexit_create(struct device **dev, const struct device_env *env,
			    const void *options, struct err *err)
{
	const struct debugexit_opts *opts = options;
	struct debugexit *e = calloc(1, sizeof(*e));
	int r;

	if (!e)
		return err_set(err, ENOMEM, NULL,
			       "cannot make isa-debug-exit:");
	device_init(&e->dev, &debugexit_class, env);
	r = device_map(&e->dev, env->pio, opts->port, opts->size,
		       &debugexit_ops, err);
	if (r) {
		debugexit_destroy(&e->dev);
		return r;
	}
	*dev = &e->dev;
	return 0;
}

static const struct opt_desc debugexit_descs[] = {
	{ .name = "iobase",
	  .type = OPT_UINT,
	  .offset = offsetof(struct debugexit_opts, port),
	  .help = "I/O port",
	  .def = "0x501",
	  .max = 0xffff },
	{ .name = "iosize",
	  .type = OPT_UINT,
	  .offset = offsetof(struct debugexit_opts, size),
	  .help = "number of ports",
	  .def = "2",
	  .min = 1,
	  .max = 8 },
	OPT_END
};

const struct device_class debugexit_class = {
	.name = "isa-debug-exit",
	.help = "port by which the guest exits with a status",
	.opts = debugexit_descs,
	.opts_size = sizeof(struct debugexit_opts),
	.create = debugexit_create,
	.destroy = debugexit_destroy,
	.reset = debugexit_reset,
	.state = debugexit_state,
};
