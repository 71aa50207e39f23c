/*
 * A countdown: one port of 32 bits. Writing N starts N microseconds of guest
 * time, at whose end the interrupt comes; reading gives what is left; writing
 * zero stops it.
 */
#include "countdown.h"

#include <errno.h>

#include "base/log.h"
#include "state/stream.h"

#define MAX_USEC (60 * 1000 * 1000) /* longer is a mistake of the guest */

struct countdown {
	struct device dev;
	unsigned gsi;
	struct vtimer timer;
	uint64_t nr_ends;
	struct log_limit log;
};

/* On the clock's thread, with the device's lock. */
static void countdown_ended(void *opaque)
{
	struct countdown *c = opaque;
	struct irq_line line = irq_gsi_line(c->dev.env->irqchip, c->gsi);

	c->nr_ends++;
	irq_set(line, true);
	irq_set(line, false);
}

static uint64_t countdown_read(void *dev, unsigned cpu, uint64_t offset,
			       unsigned size)
{
	struct countdown *c = container_of(dev, struct countdown, dev);
	int64_t left = c->timer.deadline - vclock_now(c->dev.env->clock);

	if (!c->timer.is_armed || left < 0)
		return 0;
	return (uint64_t)left / NSEC_PER_USEC;
}

static void countdown_write(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size, uint64_t value)
{
	struct countdown *c = container_of(dev, struct countdown, dev);
	struct vclock *clock = c->dev.env->clock;

	vtimer_disarm(clock, &c->timer);
	if (value > MAX_USEC)
		log_guest(&c->log, c->dev.id, "%llu us are too many",
			  (unsigned long long)value);
	else if (value)
		vtimer_arm(clock, &c->timer,
			   vclock_now(clock) + (int64_t)value * NSEC_PER_USEC);
}

/* One size: the bus splits or widens the others. */
static const struct bus_ops countdown_ops = { .read = countdown_read,
					      .write = countdown_write,
					      .min_size = 4,
					      .max_size = 4 };

static void countdown_reset(struct device *dev)
{
	struct countdown *c = container_of(dev, struct countdown, dev);

	pthread_mutex_lock(&dev->lock);
	vtimer_disarm(dev->env->clock, &c->timer);
	pthread_mutex_unlock(&dev->lock);
}

/* One function for both directions. What is loaded is checked like anything
 * else from outside; the timer's own state is checked by vtimer_state(). */
static void countdown_state(struct device *dev, struct stream *s)
{
	struct countdown *c = container_of(dev, struct countdown, dev);

	stream_begin(s, STREAM_TAG('C', 'N', 'T', 'D'), 1);
	stream_u64(s, &c->nr_ends);
	vtimer_state(dev->env->clock, &c->timer, s);
	stream_end(s);
}

static void countdown_destroy(struct device *dev)
{
	struct countdown *c = container_of(dev, struct countdown, dev);

	vtimer_disarm(dev->env->clock, &c->timer);
	device_finish(dev);
	free(c);
}

static const struct stat_desc countdown_stats[] = {
	STAT(struct countdown, nr_ends),
	{ .name = NULL },
};

static int countdown_create(struct device **dev, const struct device_env *env,
			    const void *options, struct err *err)
{
	const struct countdown_opts *opts = options;
	struct countdown *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return err_set(err, ENOMEM, NULL, "cannot make a countdown:");
	device_init(&c->dev, &countdown_class, env);
	c->gsi = opts->gsi;
	vtimer_init(env->clock, &c->timer, countdown_ended, c, &c->dev.lock);
	r = device_map(&c->dev, env->pio, opts->port, 4, &countdown_ops, err);
	if (r) {
		countdown_destroy(&c->dev);
		return r;
	}
	if (env->stats)
		stats_add(env->stats, &c->dev.stats_group, c->dev.id,
			  countdown_stats, c);
	*dev = &c->dev;
	return 0;
}

static const struct opt_desc countdown_descs[] = {
	{ .name = "port",
	  .type = OPT_UINT,
	  .offset = offsetof(struct countdown_opts, port),
	  .help = "I/O port",
	  .def = "0x700",
	  .max = 0xfffc },
	{ .name = "gsi",
	  .type = OPT_UINT,
	  .offset = offsetof(struct countdown_opts, gsi),
	  .help = "interrupt",
	  .def = "11",
	  .max = 23 },
	OPT_END
};

const struct device_class countdown_class = {
	.name = "countdown",
	.help = "an interrupt after a given time",
	.opts = countdown_descs,
	.opts_size = sizeof(struct countdown_opts),
	.create = countdown_create,
	.destroy = countdown_destroy,
	.reset = countdown_reset,
	.state = countdown_state,
};
