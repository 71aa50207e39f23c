/*
 * Theory of operation
 *
 * Intel 8254 (order 231164). Nothing counts: a channel knows at which tick of
 * guest time its count was loaded, and counter, output and next interrupt
 * follow from the ticks since then. While the gate stops a channel, the ticks
 * that passed are kept instead.
 *
 * A count written to a running channel of mode 2 or 3 takes effect at the end
 * of the period: sync() does that when the channel is next looked at.
 *
 * The output of channel 0 goes low for one tick in modes 2 and 4, and for half
 * a period in mode 3. The interrupt controller wants its rising edge, so that
 * is what it gets: a pulse at each one, and the line is high in between.
 */
#include "device/chip/pit.h"

#include <errno.h>

#include "base/bits.h"
#include "device/chip/ticks.h"
#include "state/stream.h"

#define PORT_BASE    0x40
#define PORT_SPEAKER 0x61
#define REG_CONTROL  3

#define NR_CHANNELS  3
#define SPEAKER      2 /* the channel with a gate */

/* Control word; mode 6 is 2, and 7 is 3. */
#define CONTROL_BCD       BIT(0)
#define CONTROL_MODE(v)   bits_get(v, 1, 3)
#define CONTROL_ACCESS(v) bits_get(v, 4, 2)
#define CONTROL_SELECT(v) bits_get(v, 6, 2)
#define SELECT_READBACK   3

enum readback { READBACK_NO_STATUS = BIT(4), READBACK_NO_COUNT = BIT(5) };
enum status { STATUS_NULL = BIT(6), STATUS_OUT = BIT(7) };

enum access { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

enum mode {
	MODE_TERMINAL, /* interrupt on terminal count */
	MODE_ONE_SHOT, /* started by the gate */
	MODE_RATE,     /* one low tick each period */
	MODE_SQUARE,
	MODE_STROBE,    /* one low tick at the end */
	MODE_HW_STROBE, /* started by the gate */
};

enum speaker {
	SPEAKER_GATE = BIT(0),
	SPEAKER_DATA = BIT(1),
	SPEAKER_REFRESH = BIT(4), /* toggles */
	SPEAKER_OUT = BIT(5),
};

struct channel {
	uint8_t mode, access;
	bool is_bcd;
	bool gate;
	bool is_loaded;  /* a count was written since the control word */
	bool is_started; /* counts; false with gate modes before an edge */
	bool is_stopped; /* by the gate: (elapsed) is valid, not (start) */
	uint32_t count;  /* 1 to 65536, in effect */
	uint32_t reload; /* written last */
	uint64_t start, elapsed; /* ticks */
	/* Access by bytes. */
	bool write_high, read_high; /* ACCESS_BOTH: which is next */
	uint8_t write_low;
	bool has_latch, has_status;
	uint16_t latch;
	uint8_t status;
};

struct pit {
	struct device dev;
	struct channel ch[NR_CHANNELS];
	struct irq_line irq;
	bool level; /* of (irq) */
	uint8_t speaker;
	struct vtimer timer; /* next rising edge of channel 0 */
};

static uint64_t ticks_now(struct pit *pit)
{
	return vclock_ticks(pit->dev.env->clock, PIT_HZ);
}

static bool is_periodic(const struct channel *c)
{
	return c->mode == MODE_RATE || c->mode == MODE_SQUARE;
}

static bool is_gate_started(const struct channel *c)
{
	return c->mode == MODE_ONE_SHOT || c->mode == MODE_HW_STROBE;
}

/* Ticks counted since the count was loaded. */
static uint64_t ticks_done(const struct channel *c, uint64_t now)
{
	if (c->is_stopped)
		return c->elapsed;
	return now > c->start ? now - c->start : 0;
}

/* Let a new count take over where a period ended. */
static void sync(struct channel *c, uint64_t now)
{
	if (!is_periodic(c) || !c->is_started || c->is_stopped ||
	    c->count == c->reload || ticks_done(c, now) < c->count)
		return;
	c->start += c->count;
	c->count = c->reload;
}

static bool output(const struct channel *c, uint64_t now)
{
	uint64_t done = ticks_done(c, now);

	if (!c->is_started)
		return c->mode != MODE_TERMINAL;
	switch ((enum mode)c->mode) {
	case MODE_TERMINAL:
	case MODE_ONE_SHOT:
		return done >= c->count;
	case MODE_RATE:
		return c->is_stopped || done % c->count != c->count - 1;
	case MODE_SQUARE:
		return c->is_stopped || done % c->count < (c->count + 1) / 2;
	case MODE_STROBE:
	case MODE_HW_STROBE:
		return done != c->count;
	}
	return true;
}

static uint16_t to_bcd(uint32_t n)
{
	return (uint16_t)(n % 10 | n / 10 % 10 << 4 | n / 100 % 10 << 8 |
			  n / 1000 % 10 << 12);
}

/* What the guest reads. One-shots go on below zero. */
static uint16_t counter(const struct channel *c, uint64_t now)
{
	uint64_t done = ticks_done(c, now);
	uint32_t range = c->is_bcd ? 10000 : 0x10000, left;

	if (!c->is_started)
		left = c->count;
	else if (c->mode == MODE_RATE)
		left = c->count - (uint32_t)(done % c->count);
	else if (c->mode == MODE_SQUARE)
		left = c->count - (uint32_t)(done % c->count * 2 % c->count);
	else
		left = c->count + range - (uint32_t)(done % range);
	left %= range;
	return c->is_bcd ? to_bcd(left) : (uint16_t)left;
}

/* The tick after (now) at which the output rises, or UINT64_MAX. */
static uint64_t next_rise(const struct channel *c, uint64_t now)
{
	uint64_t done = ticks_done(c, now), at;

	if (!c->is_started || c->is_stopped)
		return UINT64_MAX;
	if (is_periodic(c))
		at = done - done % c->count + c->count;
	else
		at = c->mode == MODE_STROBE ? c->count + 1 : c->count;
	return at > done ? c->start + at : UINT64_MAX;
}

static void arm(struct pit *pit, uint64_t now)
{
	struct vclock *clock = pit->dev.env->clock;
	uint64_t at = next_rise(&pit->ch[0], now);

	if (at == UINT64_MAX)
		vtimer_disarm(clock, &pit->timer);
	else
		vtimer_arm(clock, &pit->timer,
			   MAX(ticks_to_ns(at, PIT_HZ),
			       ticks_to_ns(now, PIT_HZ) +
				       (is_periodic(&pit->ch[0])
						? TICKS_MIN_PERIOD_NS
						: 0)));
}

static void set_irq(struct pit *pit, bool level)
{
	pit->level = level;
	irq_set(pit->irq, level);
}

static void timer_expired(void *opaque)
{
	struct pit *pit = opaque;
	uint64_t now = ticks_now(pit);

	sync(&pit->ch[0], now);
	set_irq(pit, false);
	set_irq(pit, true);
	arm(pit, now);
}

/* Start counting (count) from now. */
static void start(struct channel *c, uint64_t now)
{
	c->count = c->reload;
	c->start = now;
	c->elapsed = 0;
	c->is_started = true;
	c->is_stopped = !c->gate && !is_gate_started(c);
}

static void load(struct pit *pit, unsigned n, uint16_t value)
{
	struct channel *c = &pit->ch[n];
	uint64_t now = ticks_now(pit);
	uint32_t count = value;

	if (c->is_bcd)
		count = (value & 0xf) + (value >> 4 & 0xf) * 10 +
			(value >> 8 & 0xf) * 100 + (value >> 12) * 1000;
	if (!count)
		count = c->is_bcd ? 10000 : 0x10000;
	sync(c, now);
	c->reload = count;
	if (!c->is_loaded)
		c->count = count;
	if (!is_gate_started(c) && !(is_periodic(c) && c->is_started))
		start(c, now);
	c->is_loaded = true;
	if (n)
		return;
	if (c->mode == MODE_TERMINAL && pit->level)
		set_irq(pit, false);
	arm(pit, now);
}

static void write_channel(struct pit *pit, unsigned n, uint8_t value)
{
	struct channel *c = &pit->ch[n];

	switch ((enum access)c->access) {
	case ACCESS_LOW:
		load(pit, n, value);
		break;
	case ACCESS_HIGH:
		load(pit, n, (uint16_t)(value << 8));
		break;
	case ACCESS_LATCH:
	case ACCESS_BOTH:
		if (c->write_high)
			load(pit, n, (uint16_t)(value << 8 | c->write_low));
		else if (c->mode == MODE_TERMINAL)
			c->is_started = false; /* the first byte stops it */
		c->write_low = value;
		c->write_high = !c->write_high;
		break;
	}
}

static void latch_count(struct channel *c, uint64_t now)
{
	if (c->has_latch)
		return;
	sync(c, now);
	c->latch = counter(c, now);
	c->has_latch = true;
}

static void latch_status(struct channel *c, uint64_t now)
{
	if (c->has_status)
		return;
	sync(c, now);
	c->status = (output(c, now) ? STATUS_OUT : 0) |
		    (c->is_loaded ? 0 : STATUS_NULL) | c->access << 4 |
		    c->mode << 1 | c->is_bcd;
	c->has_status = true;
}

static void write_readback(struct pit *pit, uint8_t value)
{
	uint64_t now = ticks_now(pit);

	for (unsigned n = 0; n < NR_CHANNELS; n++) {
		if (!(value & BIT(n + 1)))
			continue;
		if (!(value & READBACK_NO_COUNT))
			latch_count(&pit->ch[n], now);
		if (!(value & READBACK_NO_STATUS))
			latch_status(&pit->ch[n], now);
	}
}

static void write_control(struct pit *pit, uint8_t value)
{
	unsigned n = CONTROL_SELECT(value), mode = CONTROL_MODE(value);
	struct channel *c;

	if (n == SELECT_READBACK) {
		write_readback(pit, value);
		return;
	}
	c = &pit->ch[n];
	if (CONTROL_ACCESS(value) == ACCESS_LATCH) {
		latch_count(c, ticks_now(pit));
		return;
	}
	c->access = CONTROL_ACCESS(value);
	c->mode = (uint8_t)(mode > MODE_HW_STROBE ? mode - 4 : mode);
	c->is_bcd = value & CONTROL_BCD;
	c->is_loaded = c->is_started = c->is_stopped = false;
	c->write_high = c->read_high = false;
	c->has_latch = c->has_status = false;
	if (n == 0) {
		set_irq(pit, c->mode != MODE_TERMINAL);
		vtimer_disarm(pit->dev.env->clock, &pit->timer);
	}
}

static uint8_t read_channel(struct pit *pit, unsigned n)
{
	struct channel *c = &pit->ch[n];
	uint64_t now = ticks_now(pit);
	uint16_t value;
	bool high = c->access == ACCESS_HIGH;

	if (c->has_status) {
		c->has_status = false;
		return c->status;
	}
	sync(c, now);
	value = c->has_latch ? c->latch : counter(c, now);
	if (c->access == ACCESS_BOTH || c->access == ACCESS_LATCH) {
		high = c->read_high;
		c->read_high = !c->read_high;
	}
	if (!c->read_high)
		c->has_latch = false;
	return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t pit_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	if (offset == REG_CONTROL)
		return 0xff;
	return read_channel(dev, (unsigned)offset);
}

static void pit_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
	if (offset == REG_CONTROL)
		write_control(dev, (uint8_t)value);
	else
		write_channel(dev, (unsigned)offset, (uint8_t)value);
}

static void set_gate(struct channel *c, bool gate, uint64_t now)
{
	sync(c, now);
	if (gate && !c->gate) {
		c->gate = true;
		if (c->is_loaded && (is_gate_started(c) || is_periodic(c)))
			start(c, now); /* the edge reloads */
		else if (c->is_stopped)
			c->start = now - c->elapsed;
		c->is_stopped = false;
	} else if (!gate && c->gate) {
		c->gate = false;
		if (c->is_started && !is_gate_started(c)) {
			c->elapsed = ticks_done(c, now);
			c->is_stopped = true;
		}
	}
}

static uint64_t speaker_read(void *dev, unsigned cpu, uint64_t offset,
			     unsigned size)
{
	struct pit *pit = dev;
	uint64_t now = ticks_now(pit);

	sync(&pit->ch[SPEAKER], now);
	/* Guests wait for the refresh bit to change: every 15 us on a PC. */
	return pit->speaker | (now / 18 & 1 ? SPEAKER_REFRESH : 0) |
	       (output(&pit->ch[SPEAKER], now) ? SPEAKER_OUT : 0);
}

static void speaker_write(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size, uint64_t value)
{
	struct pit *pit = dev;

	pit->speaker = value & (SPEAKER_GATE | SPEAKER_DATA);
	set_gate(&pit->ch[SPEAKER], value & SPEAKER_GATE, ticks_now(pit));
}

static const struct bus_ops pit_ops = { .read = pit_read,
					.write = pit_write,
					.max_size = 1 };
static const struct bus_ops speaker_ops = { .read = speaker_read,
					    .write = speaker_write,
					    .max_size = 1 };

static void channel_state(struct channel *c, struct stream *s)
{
	stream_u8(s, &c->mode);
	stream_u8(s, &c->access);
	stream_check(s, c->mode <= MODE_HW_STROBE && c->access <= ACCESS_BOTH);
	stream_bool(s, &c->is_bcd);
	stream_bool(s, &c->gate);
	stream_bool(s, &c->is_loaded);
	stream_bool(s, &c->is_started);
	stream_bool(s, &c->is_stopped);
	stream_u32(s, &c->count);
	stream_u32(s, &c->reload);
	stream_check(s, c->count && c->count <= 0x10000);
	stream_check(s, c->reload && c->reload <= 0x10000);
	stream_u64(s, &c->start);
	stream_u64(s, &c->elapsed);
	stream_bool(s, &c->write_high);
	stream_bool(s, &c->read_high);
	stream_u8(s, &c->write_low);
	stream_bool(s, &c->has_latch);
	stream_bool(s, &c->has_status);
	stream_u16(s, &c->latch);
	stream_u8(s, &c->status);
	/* A divisor also of what could not be loaded. */
	c->count = MAX(c->count, 1);
	c->reload = MAX(c->reload, 1);
}

static void pit_state(struct device *dev, struct stream *s)
{
	struct pit *pit = container_of(dev, struct pit, dev);

	stream_begin(s, STREAM_TAG('P', 'I', 'T', ' '), 1);
	for (unsigned n = 0; n < NR_CHANNELS; n++)
		channel_state(&pit->ch[n], s);
	stream_bool(s, &pit->level);
	stream_u8(s, &pit->speaker);
	stream_check(s, !(pit->speaker & ~(SPEAKER_GATE | SPEAKER_DATA)));
	stream_end(s);
	if (s->is_loading && !stream_error(s)) {
		irq_set(pit->irq, pit->level);
		arm(pit, ticks_now(pit));
	}
}

static void pit_reset(struct device *dev)
{
	struct pit *pit = container_of(dev, struct pit, dev);

	pthread_mutex_lock(&dev->lock);
	for (unsigned n = 0; n < NR_CHANNELS; n++)
		pit->ch[n] = (struct channel){ .mode = MODE_SQUARE,
					       .access = ACCESS_BOTH,
					       .gate = n != SPEAKER,
					       .count = 0x10000,
					       .reload = 0x10000 };
	pit->speaker = 0;
	vtimer_disarm(dev->env->clock, &pit->timer);
	set_irq(pit, false);
	pthread_mutex_unlock(&dev->lock);
}

static void pit_destroy(struct device *dev)
{
	struct pit *pit = container_of(dev, struct pit, dev);

	vtimer_disarm(dev->env->clock, &pit->timer);
	device_finish(dev);
	free(pit);
}

const struct device_class pit_class = {
	.name = "pit",
	.help = "8254 interval timer",
	.destroy = pit_destroy,
	.reset = pit_reset,
	.state = pit_state,
};

int pit_create(struct device **dev, const struct device_env *env,
	       const struct pit_opts *opts, struct err *err)
{
	struct pit *pit = calloc(1, sizeof(*pit));
	int r;

	if (!pit)
		return err_set(err, ENOMEM, NULL, "cannot make the PIT:");
	device_init(&pit->dev, &pit_class, env);
	pit->irq = opts->irq;
	vtimer_init(env->clock, &pit->timer, timer_expired, pit,
		    &pit->dev.lock);
	pit_reset(&pit->dev);
	r = device_map(&pit->dev, env->pio, PORT_BASE, 4, &pit_ops, err);
	if (!r)
		r = device_map(&pit->dev, env->pio, PORT_SPEAKER, 1,
			       &speaker_ops, err);
	if (r) {
		pit_destroy(&pit->dev);
		return r;
	}
	*dev = &pit->dev;
	return 0;
}
