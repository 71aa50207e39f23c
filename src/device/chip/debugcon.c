/* The debug port of Bochs and QEMU: what is written appears outside, and a read
 * gives 0xe9, by which a guest knows that somebody listens. */
#include <errno.h>

#include "chr/chr.h"
#include "device/chip/isa_debug.h"
#include "state/stream.h"

#define PRESENT 0xe9

struct debugcon {
	struct device dev;
	struct chr *chr;
};

static uint64_t debugcon_read(void *dev, unsigned cpu, uint64_t offset,
			      unsigned size)
{
	return PRESENT;
}

static void debugcon_write(void *dev, unsigned cpu, uint64_t offset,
			   unsigned size, uint64_t value)
{
	struct debugcon *con = dev;
	uint8_t byte = (uint8_t)value;

	chr_write(con->chr, &byte, 1);
}

static const struct bus_ops debugcon_ops = { .read = debugcon_read,
					     .write = debugcon_write,
					     .max_size = 1 };

static void debugcon_destroy(struct device *dev)
{
	struct debugcon *con = container_of(dev, struct debugcon, dev);

	device_finish(dev);
	if (con->chr)
		chr_close(con->chr);
	free(con);
}

static void debugcon_reset(struct device *dev)
{
}

/* There is nothing to keep; the record says that it was here. */
static void debugcon_state(struct device *dev, struct stream *s)
{
	stream_begin(s, STREAM_TAG('D', 'C', 'O', 'N'), 1);
	stream_end(s);
}

static int debugcon_create(struct device **dev, const struct device_env *env,
			   const void *options, struct err *err)
{
	const struct debugcon_opts *opts = options;
	struct debugcon *con = calloc(1, sizeof(*con));
	struct chr_keys keys = { .quit = device_quit };
	int r;

	if (!con)
		return err_set(err, ENOMEM, NULL, "cannot make debugcon:");
	device_init(&con->dev, &debugcon_class, env);
	keys.opaque = &con->dev;
	r = chr_open(&con->chr, opts->chr, env->loop, &keys, err);
	if (!r)
		r = device_map(&con->dev, env->pio, opts->port, 1,
			       &debugcon_ops, err);
	if (r) {
		debugcon_destroy(&con->dev);
		return r;
	}
	*dev = &con->dev;
	return 0;
}

static const struct opt_desc debugcon_descs[] = {
	{ .name = "iobase",
	  .type = OPT_UINT,
	  .offset = offsetof(struct debugcon_opts, port),
	  .help = "I/O port",
	  .def = "0xe9",
	  .max = 0xffff },
	{ .name = "chr",
	  .type = OPT_STR,
	  .offset = offsetof(struct debugcon_opts, chr),
	  .help = "where it goes: stdio, file:PATH, unix:PATH or none",
	  .def = "stdio" },
	OPT_END
};

const struct device_class debugcon_class = {
	.name = "debugcon",
	.help = "debug console at an I/O port",
	.opts = debugcon_descs,
	.opts_size = sizeof(struct debugcon_opts),
	.create = debugcon_create,
	.destroy = debugcon_destroy,
	.reset = debugcon_reset,
	.state = debugcon_state,
};
