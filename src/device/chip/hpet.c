/*
 * Theory of operation
 *
 * IA-PC HPET 1.0a, with a 64-bit counter of 100 MHz and three timers of which
 * all can be periodic and send messages. The counter is guest time plus an
 * offset; a timer's comparator is the count at which it goes off next, and
 * periods that passed unseen are added when someone looks (catch_up).
 *
 * A comparator that the counter has passed waits for the counter to wrap, as
 * the specification says, with one exception: one written for a moment that
 * passed very recently goes off at once, for the guest meant the future and
 * was interrupted while it computed it.
 */
#include "device/chip/hpet.h"

#include <errno.h>

#include "base/bits.h"
#include "device/chip/ticks.h"
#include "state/stream.h"

#define RANGE_SIZE 0x400
#define NR_TIMERS  3

#define TICK_NS    10
#define TICK_FS    (TICK_NS * 1000000ULL)
#define LATE_TICKS (NSEC_PER_MSEC / TICK_NS)
#define NR_LEGACY  2

enum reg {
	REG_CAPABILITIES = 0x000,
	REG_CONFIG = 0x010,
	REG_STATUS = 0x020,
	REG_COUNTER = 0x0f0,
	REG_TIMERS = 0x100, /* 0x20 apart: */
	REG_TIMER_CONFIG = 0x00,
	REG_TIMER_COMPARATOR = 0x08,
	REG_TIMER_FSB = 0x10,
};

/* Revision 1, 64 bits, legacy replacement, Intel. */
#define CAPABILITIES                                           \
	(TICK_FS << 32 | 0x8086ULL << 16 | BIT(15) | BIT(13) | \
	 (NR_TIMERS - 1) << 8 | 1)

#define CONFIG_ENABLE   BIT(0)
#define CONFIG_LEGACY   BIT(1)
#define CONFIG_BITS     (CONFIG_ENABLE | CONFIG_LEGACY)

#define TIMER_LEVEL     BIT(1)
#define TIMER_INTERRUPT BIT(2)
#define TIMER_PERIODIC  BIT(3)
#define TIMER_SET       BIT(6) /* the next write is the comparator's */
#define TIMER_32BIT     BIT(8)
#define TIMER_ROUTE(c)  bits_get(c, 9, 5)
#define TIMER_FSB       BIT(14)
#define TIMER_WRITABLE                                                \
	(TIMER_LEVEL | TIMER_INTERRUPT | TIMER_PERIODIC | TIMER_SET | \
	 TIMER_32BIT | MASK(13, 9) | TIMER_FSB)
/* What it can: periodic, 64 bits, FSB; (route_mask) is above. */
#define TIMER_ABILITIES (BIT(4) | BIT(5) | BIT(15))

struct hpet_timer {
	struct hpet *hpet;
	unsigned n;
	uint64_t config, comparator, period, fsb;
	struct vtimer vtimer;
};

struct hpet {
	struct device dev;
	struct hpet_opts opts;
	uint64_t config, status;
	uint64_t counter; /* while stopped; else what to add to guest time */
	struct hpet_timer timer[NR_TIMERS];
	bool legacy_level[NR_LEGACY]; /* of the PIT and the RTC */
};

static bool is_running(const struct hpet *hpet)
{
	return hpet->config & CONFIG_ENABLE;
}

static uint64_t now_ticks(struct hpet *hpet)
{
	return (uint64_t)vclock_now(hpet->dev.env->clock) / TICK_NS;
}

static uint64_t counter(struct hpet *hpet)
{
	return hpet->counter + (is_running(hpet) ? now_ticks(hpet) : 0);
}

static uint64_t width_mask(const struct hpet_timer *t)
{
	return t->config & TIMER_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* Interrupts. */

static bool is_legacy(const struct hpet_timer *t)
{
	return t->hpet->config & CONFIG_LEGACY && t->n < NR_LEGACY;
}

static struct irq_line timer_line(const struct hpet_timer *t)
{
	unsigned gsi = TIMER_ROUTE(t->config);

	if (is_legacy(t))
		return t->hpet->opts.legacy[t->n];
	if (!(t->hpet->opts.route_mask >> gsi & 1))
		return (struct irq_line){ .set = NULL };
	return irq_gsi_line(t->hpet->dev.env->irqchip, gsi);
}

static void raise_timer(struct hpet_timer *t)
{
	struct irqchip *chip = t->hpet->dev.env->irqchip;
	struct msi_msg msg = { .addr = t->fsb >> 32, .data = (uint32_t)t->fsb };

	if (t->config & TIMER_LEVEL)
		t->hpet->status |= BIT(t->n);
	if (!(t->config & TIMER_INTERRUPT))
		return;
	if (t->config & TIMER_FSB && !is_legacy(t)) {
		chip->ops->send_msi(chip->chip, &msg);
	} else {
		irq_set(timer_line(t), true);
		if (!(t->config & TIMER_LEVEL))
			irq_set(timer_line(t), false);
	}
}

/* Let go of the line of a level-triggered timer. */
static void lower_timer(struct hpet_timer *t)
{
	if (t->hpet->status & BIT(t->n))
		irq_set(timer_line(t), false);
	t->hpet->status &= ~BIT(t->n);
}

/* Timers. */

static bool is_repeating(const struct hpet_timer *t)
{
	return t->config & TIMER_PERIODIC && t->period & width_mask(t);
}

/* Has the counter passed (comparator) in the last half of its range? */
static bool is_past(const struct hpet_timer *t, uint64_t now)
{
	uint64_t behind = (now - t->comparator) & width_mask(t);

	return behind <= width_mask(t) / 2;
}

static void catch_up(struct hpet_timer *t, uint64_t now)
{
	uint64_t period = t->period & width_mask(t);
	uint64_t behind = (now - t->comparator) & width_mask(t);

	if (is_repeating(t) && is_past(t, now))
		t->comparator =
			(t->comparator + (behind / period + 1) * period) &
			width_mask(t);
}

static void arm(struct hpet_timer *t)
{
	struct vclock *clock = t->hpet->dev.env->clock;
	uint64_t now = counter(t->hpet), ticks;
	int64_t ns;

	if (!is_running(t->hpet)) {
		vtimer_disarm(clock, &t->vtimer);
		return;
	}
	catch_up(t, now);
	ticks = (t->comparator - now) & width_mask(t);
	if (!ticks) /* it has just been: a whole round, or nearly */
		ticks = MAX(width_mask(t), width_mask(t) + 1);
	ns = vclock_now(clock);
	if (ticks > (uint64_t)(INT64_MAX - ns) / TICK_NS) {
		vtimer_disarm(clock, &t->vtimer);
		return;
	}
	/* From the start of the present tick. */
	ns = ns / TICK_NS * TICK_NS + (int64_t)ticks * TICK_NS;
	if (is_repeating(t))
		ns = MAX(ns, vclock_now(clock) + TICKS_MIN_PERIOD_NS);
	vtimer_arm(clock, &t->vtimer, ns);
}

static void timer_expired(void *opaque)
{
	struct hpet_timer *t = opaque;

	raise_timer(t);
	arm(t);
}

/* Registers. All are 64 bits wide; halves can be accessed alone. */

static uint64_t timer_read(struct hpet_timer *t, unsigned reg)
{
	switch (reg) {
	case REG_TIMER_CONFIG:
		return t->config | TIMER_ABILITIES |
		       (uint64_t)t->hpet->opts.route_mask << 32;
	case REG_TIMER_COMPARATOR:
		if (is_running(t->hpet))
			catch_up(t, counter(t->hpet));
		return t->comparator;
	case REG_TIMER_FSB:
		return t->fsb;
	}
	return 0;
}

static void write_timer_config(struct hpet_timer *t, uint64_t value)
{
	lower_timer(t);
	t->config = value & TIMER_WRITABLE;
	t->comparator &= width_mask(t);
	t->period &= width_mask(t);
	arm(t);
}

static void write_comparator(struct hpet_timer *t, uint64_t value,
			     uint64_t written)
{
	uint64_t now = counter(t->hpet), late;

	/* In periodic mode a write is the period's, and with TIMER_SET the
	 * comparator's as well: guests write both, or one for both. */
	if (!(t->config & TIMER_PERIODIC) || t->config & TIMER_SET)
		t->comparator =
			((t->comparator & ~written) | value) & width_mask(t);
	if (t->config & TIMER_PERIODIC)
		t->period = ((t->period & ~written) | value) & width_mask(t);
	t->config &= ~TIMER_SET;
	late = (now - t->comparator) & width_mask(t);
	if (is_running(t->hpet) && !is_repeating(t) && late <= LATE_TICKS)
		raise_timer(t);
	arm(t);
}

static void write_timer(struct hpet_timer *t, unsigned reg, uint64_t value,
			uint64_t written)
{
	switch (reg) {
	case REG_TIMER_CONFIG:
		write_timer_config(t, (t->config & ~written) | value);
		break;
	case REG_TIMER_COMPARATOR:
		write_comparator(t, value, written);
		break;
	case REG_TIMER_FSB:
		t->fsb = (t->fsb & ~written) | value;
		break;
	}
}

/* Timers 0 and 1 take over the legacy wires, or give them back. */
static void switch_legacy(struct hpet *hpet, uint64_t config)
{
	for (unsigned n = 0; n < NR_TIMERS; n++)
		lower_timer(&hpet->timer[n]);
	hpet->config =
		(hpet->config & ~CONFIG_LEGACY) | (config & CONFIG_LEGACY);
	for (unsigned n = 0; n < NR_LEGACY; n++)
		irq_set(hpet->opts.legacy[n],
			config & CONFIG_LEGACY ? false : hpet->legacy_level[n]);
}

static void write_config(struct hpet *hpet, uint64_t value)
{
	uint64_t changed = (value ^ hpet->config) & CONFIG_BITS;
	uint64_t now = counter(hpet);

	if (changed & CONFIG_LEGACY)
		switch_legacy(hpet, value);
	if (!(changed & CONFIG_ENABLE))
		return;
	hpet->config ^= CONFIG_ENABLE;
	hpet->counter = is_running(hpet) ? now - now_ticks(hpet) : now;
	for (unsigned n = 0; n < NR_TIMERS; n++)
		arm(&hpet->timer[n]);
}

static void write_status(struct hpet *hpet, uint64_t value)
{
	for (unsigned n = 0; n < NR_TIMERS; n++) {
		if (value & BIT(n))
			lower_timer(&hpet->timer[n]);
	}
}

static uint64_t reg_read(struct hpet *hpet, unsigned reg)
{
	unsigned n = (reg - REG_TIMERS) / 0x20;

	switch (reg) {
	case REG_CAPABILITIES:
		return CAPABILITIES;
	case REG_CONFIG:
		return hpet->config;
	case REG_STATUS:
		return hpet->status;
	case REG_COUNTER:
		return counter(hpet);
	}
	if (reg >= REG_TIMERS && n < NR_TIMERS)
		return timer_read(&hpet->timer[n], reg % 0x20);
	return 0;
}

/* The bits (written) of (reg) become (value). */
static void reg_write(struct hpet *hpet, unsigned reg, uint64_t value,
		      uint64_t written)
{
	unsigned n = (reg - REG_TIMERS) / 0x20;

	switch (reg) {
	case REG_CONFIG:
		write_config(hpet, (hpet->config & ~written) | value);
		return;
	case REG_STATUS:
		write_status(hpet, value);
		return;
	case REG_COUNTER: /* only while it stands, says the specification */
		if (!is_running(hpet))
			hpet->counter = (hpet->counter & ~written) | value;
		return;
	}
	if (reg >= REG_TIMERS && n < NR_TIMERS)
		write_timer(&hpet->timer[n], reg % 0x20, value, written);
}

static uint64_t hpet_read(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	return reg_read(dev, (unsigned)offset & ~7u) >> offset % 8 * 8 &
	       size_mask(size);
}

static void hpet_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		       uint64_t value)
{
	unsigned shift = offset % 8 * 8;

	reg_write(dev, (unsigned)offset & ~7u, value << shift,
		  size_mask(size) << shift);
}

static const struct bus_ops hpet_ops = {
	.read = hpet_read, .write = hpet_write, .min_size = 4, .max_size = 8
};

/* The machine's side. */

static void set_legacy(void *ctl, unsigned n, bool level)
{
	struct hpet *hpet = ctl;

	pthread_mutex_lock(&hpet->dev.lock);
	hpet->legacy_level[n] = level;
	if (!(hpet->config & CONFIG_LEGACY))
		irq_set(hpet->opts.legacy[n], level);
	pthread_mutex_unlock(&hpet->dev.lock);
}

struct irq_line hpet_legacy_line(struct device *dev, enum hpet_legacy n)
{
	return (struct irq_line){ .set = set_legacy,
				  .ctl = container_of(dev, struct hpet, dev),
				  .n = n };
}

static void hpet_state(struct device *dev, struct stream *s)
{
	struct hpet *hpet = container_of(dev, struct hpet, dev);

	stream_begin(s, STREAM_TAG('H', 'P', 'E', 'T'), 1);
	stream_u64(s, &hpet->config);
	stream_u64(s, &hpet->status);
	stream_u64(s, &hpet->counter);
	stream_check(s, !(hpet->config & ~CONFIG_BITS) &&
				!(hpet->status >> NR_TIMERS));
	for (unsigned n = 0; n < NR_TIMERS; n++) {
		struct hpet_timer *t = &hpet->timer[n];

		stream_u64(s, &t->config);
		stream_u64(s, &t->comparator);
		stream_u64(s, &t->period);
		stream_u64(s, &t->fsb);
		stream_check(s, !(t->config & ~TIMER_WRITABLE) &&
					!(t->comparator & ~width_mask(t)) &&
					!(t->period & ~width_mask(t)));
	}
	for (unsigned n = 0; n < NR_LEGACY; n++)
		stream_bool(s, &hpet->legacy_level[n]);
	stream_end(s);
	if (!s->is_loading || stream_error(s))
		return;
	for (unsigned n = 0; n < NR_LEGACY; n++) {
		if (!(hpet->config & CONFIG_LEGACY))
			irq_set(hpet->opts.legacy[n], hpet->legacy_level[n]);
	}
	for (unsigned n = 0; n < NR_TIMERS; n++) {
		struct hpet_timer *t = &hpet->timer[n];

		if (hpet->status & BIT(n) && t->config & TIMER_INTERRUPT)
			irq_set(timer_line(t), true);
		arm(t);
	}
}

static void hpet_reset(struct device *dev)
{
	struct hpet *hpet = container_of(dev, struct hpet, dev);

	pthread_mutex_lock(&dev->lock);
	write_config(hpet, 0);
	write_status(hpet, UINT64_MAX);
	hpet->counter = 0;
	for (unsigned n = 0; n < NR_TIMERS; n++) {
		hpet->timer[n].config = 0;
		hpet->timer[n].comparator = UINT64_MAX;
		hpet->timer[n].period = 0;
		hpet->timer[n].fsb = 0;
	}
	pthread_mutex_unlock(&dev->lock);
}

static void hpet_destroy(struct device *dev)
{
	struct hpet *hpet = container_of(dev, struct hpet, dev);

	for (unsigned n = 0; n < NR_TIMERS; n++)
		vtimer_disarm(dev->env->clock, &hpet->timer[n].vtimer);
	device_finish(dev);
	free(hpet);
}

const struct device_class hpet_class = {
	.name = "hpet",
	.help = "high-precision event timer",
	.destroy = hpet_destroy,
	.reset = hpet_reset,
	.state = hpet_state,
};

int hpet_create(struct device **dev, const struct device_env *env,
		const struct hpet_opts *opts, struct err *err)
{
	struct hpet *hpet = calloc(1, sizeof(*hpet));
	int r;

	if (!hpet)
		return err_set(err, ENOMEM, NULL, "cannot make the HPET:");
	device_init(&hpet->dev, &hpet_class, env);
	hpet->opts = *opts;
	for (unsigned n = 0; n < NR_TIMERS; n++) {
		struct hpet_timer *t = &hpet->timer[n];

		t->hpet = hpet;
		t->n = n;
		vtimer_init(env->clock, &t->vtimer, timer_expired, t,
			    &hpet->dev.lock);
	}
	hpet_reset(&hpet->dev);
	r = device_map(&hpet->dev, env->mmio, opts->base, RANGE_SIZE, &hpet_ops,
		       err);
	if (r) {
		hpet_destroy(&hpet->dev);
		return r;
	}
	*dev = &hpet->dev;
	return 0;
}
