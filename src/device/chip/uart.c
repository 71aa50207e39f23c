/*
 * National Semiconductor PC16550D. What is sent leaves at once, so the
 * transmitter is always empty; what is received waits outside until the FIFO
 * has room, so nothing is overrun. The character timeout runs at the speed that
 * the guest set.
 *
 * OUT2 gates the interrupt on a PC's card. It does not here: no driver relies
 * on it to keep the port silent, and some forget to set it.
 */
#include "device/chip/uart.h"

#include <errno.h>

#include "base/bits.h"
#include "chr/chr.h"
#include "device/chip/ticks.h"
#include "state/stream.h"

#define NR_PORTS  8
#define FIFO_SIZE 16
#define CLOCK_HZ  1843200

enum reg {
	REG_DATA, /* with LCR_DLAB: divisor, low byte */
	REG_IER,  /* with LCR_DLAB: divisor, high byte */
	REG_IIR,  /* written: FCR */
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCRATCH,
};

enum ier {
	IER_RECEIVE = BIT(0),
	IER_TRANSMIT = BIT(1),
	IER_LINE = BIT(2),
	IER_MODEM = BIT(3),
};

enum iir {
	IIR_MODEM = 0x0,
	IIR_NONE = 0x1,
	IIR_TRANSMIT = 0x2,
	IIR_RECEIVE = 0x4,
	IIR_LINE = 0x6,
	IIR_TIMEOUT = 0xc,
	IIR_FIFOS = 0xc0,
};

#define FCR_ENABLE     BIT(0)
#define FCR_CLEAR_RX   BIT(1)
#define FCR_CLEAR_TX   BIT(2)
#define FCR_TRIGGER(v) bits_get(v, 6, 2)

#define LCR_DLAB       BIT(7)

enum mcr {
	MCR_DTR = BIT(0),
	MCR_RTS = BIT(1),
	MCR_OUT1 = BIT(2),
	MCR_OUT2 = BIT(3),
	MCR_LOOP = BIT(4),
};

enum lsr {
	LSR_DATA = BIT(0),
	LSR_OVERRUN = BIT(1),
	LSR_THR_EMPTY = BIT(5),
	LSR_EMPTY = BIT(6),
	LSR_ERRORS = 0x1e,
};

enum msr {
	MSR_DELTAS = 0xf,
	MSR_RI_DELTA = BIT(2), /* only when RI drops */
	MSR_CTS = BIT(4),
	MSR_DSR = BIT(5),
	MSR_RI = BIT(6),
	MSR_DCD = BIT(7),
};

static const uint8_t triggers[4] = { 1, 4, 8, 14 };

struct uart {
	struct device dev;
	struct irq_line irq;
	struct chr *chr;

	uint16_t divisor;
	uint8_t ier, fcr, lcr, mcr, lsr, msr, scratch;
	bool transmit_event; /* THR became empty, and nobody was told */
	bool is_timed_out;   /* bytes wait below the trigger */
	uint8_t fifo[FIFO_SIZE];
	uint8_t head, count;
	struct vtimer timeout;

	bool is_stalled; /* the stream was told to wait */
};

static unsigned fifo_size(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned trigger(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? triggers[FCR_TRIGGER(u->fcr)] : 1;
}

/* The reason for an interrupt, by priority (table IV). */
static enum iir reason(const struct uart *u)
{
	if (u->ier & IER_LINE && u->lsr & LSR_ERRORS)
		return IIR_LINE;
	if (u->ier & IER_RECEIVE && u->count >= trigger(u))
		return IIR_RECEIVE;
	if (u->ier & IER_RECEIVE && u->is_timed_out)
		return IIR_TIMEOUT;
	if (u->ier & IER_TRANSMIT && u->transmit_event)
		return IIR_TRANSMIT;
	if (u->ier & IER_MODEM && u->msr & MSR_DELTAS)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	irq_set(u->irq, reason(u) != IIR_NONE);
}

/* Four characters' time without a read or an arrival (8.4.2). */
static void restart_timeout(struct uart *u)
{
	struct vclock *clock = u->dev.env->clock;
	uint64_t bits = 4 * 10ULL, divisor = u->divisor ? u->divisor : 1;

	u->is_timed_out = false;
	if (u->count && u->fcr & FCR_ENABLE)
		vtimer_arm(clock, &u->timeout,
			   vclock_now(clock) +
				   ticks_to_ns(bits * 16 * divisor, CLOCK_HZ));
	else
		vtimer_disarm(clock, &u->timeout);
}

static void timed_out(void *opaque)
{
	struct uart *u = opaque;

	u->is_timed_out = u->count != 0;
	update_irq(u);
}

static void push(struct uart *u, uint8_t byte)
{
	if (u->count >= fifo_size(u)) {
		u->lsr |= LSR_OVERRUN;
		return;
	}
	u->fifo[(u->head + u->count) % FIFO_SIZE] = byte;
	u->count++;
	u->lsr |= LSR_DATA;
}

static void clear_receiver(struct uart *u)
{
	u->head = u->count = 0;
	u->lsr &= ~LSR_DATA;
	restart_timeout(u);
}

/* Registers. */

static void resume(struct uart *u)
{
	if (!u->chr || !u->is_stalled || u->count >= fifo_size(u) ||
	    u->mcr & MCR_LOOP)
		return;
	u->is_stalled = false;
	chr_resume(u->chr);
}

static uint8_t read_data(struct uart *u)
{
	uint8_t byte = u->fifo[u->head];

	if (!u->count)
		return 0;
	u->head = (u->head + 1) % FIFO_SIZE;
	u->count--;
	if (!u->count)
		u->lsr &= ~LSR_DATA;
	restart_timeout(u);
	resume(u);
	return byte;
}

static void write_data(struct uart *u, uint8_t byte)
{
	if (u->mcr & MCR_LOOP) {
		push(u, byte);
		restart_timeout(u);
	} else if (u->chr) {
		chr_write(u->chr, &byte, 1);
	}
	u->transmit_event = true;
}

static void write_ier(struct uart *u, uint8_t value)
{
	/* Enabling it while THR is empty, which it is, reports that: Linux
	 * probes for it. */
	if (value & ~u->ier & IER_TRANSMIT)
		u->transmit_event = true;
	u->ier = value & 0xf;
}

static void write_fcr(struct uart *u, uint8_t value)
{
	bool is_switched = (value ^ u->fcr) & FCR_ENABLE;

	if (is_switched || value & FCR_CLEAR_RX)
		clear_receiver(u);
	if (is_switched || value & FCR_CLEAR_TX)
		u->transmit_event = true;
	/* Without FIFOs the other bits cannot be set. */
	u->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
	resume(u);
}

/* The modem's lines: always there, or our own outputs in loopback. */
static void update_modem(struct uart *u)
{
	uint8_t lines = u->chr ? MSR_CTS | MSR_DSR | MSR_DCD : 0, changed;

	if (u->mcr & MCR_LOOP)
		lines = (u->mcr & MCR_RTS ? MSR_CTS : 0) |
			(u->mcr & MCR_DTR ? MSR_DSR : 0) |
			(u->mcr & MCR_OUT1 ? MSR_RI : 0) |
			(u->mcr & MCR_OUT2 ? MSR_DCD : 0);
	changed = (lines ^ u->msr) >> 4;
	if (lines & MSR_RI)
		changed &= ~MSR_RI_DELTA;
	u->msr = lines | (u->msr & MSR_DELTAS) | changed;
}

static uint8_t read_iir(struct uart *u)
{
	enum iir why = reason(u);

	if (why == IIR_TRANSMIT)
		u->transmit_event = false;
	return why | (u->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t reg_read(struct uart *u, unsigned reg)
{
	uint8_t value;

	switch ((enum reg)reg) {
	case REG_DATA:
		return u->lcr & LCR_DLAB ? (uint8_t)u->divisor : read_data(u);
	case REG_IER:
		return u->lcr & LCR_DLAB ? u->divisor >> 8 : u->ier;
	case REG_IIR:
		return read_iir(u);
	case REG_LCR:
		return u->lcr;
	case REG_MCR:
		return u->mcr;
	case REG_LSR:
		value = u->lsr;
		u->lsr &= ~LSR_ERRORS;
		return value;
	case REG_MSR:
		value = u->msr;
		u->msr &= ~MSR_DELTAS;
		return value;
	case REG_SCRATCH:
		return u->scratch;
	}
	return 0xff;
}

static void reg_write(struct uart *u, unsigned reg, uint8_t value)
{
	switch ((enum reg)reg) {
	case REG_DATA:
		if (u->lcr & LCR_DLAB)
			u->divisor = (u->divisor & 0xff00) | value;
		else
			write_data(u, value);
		break;
	case REG_IER:
		if (u->lcr & LCR_DLAB)
			u->divisor = (u->divisor & 0xff) | value << 8;
		else
			write_ier(u, value);
		break;
	case REG_IIR:
		write_fcr(u, value);
		break;
	case REG_LCR:
		u->lcr = value;
		break;
	case REG_MCR:
		u->mcr = value & 0x1f;
		update_modem(u);
		resume(u);
		break;
	case REG_LSR: /* for tests in a factory */
	case REG_MSR:
		break;
	case REG_SCRATCH:
		u->scratch = value;
		break;
	}
}

static uint64_t uart_read(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	uint8_t value = reg_read(dev, (unsigned)offset);

	update_irq(dev);
	return value;
}

static void uart_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		       uint64_t value)
{
	reg_write(dev, (unsigned)offset, (uint8_t)value);
	update_irq(dev);
}

static const struct bus_ops uart_ops = { .read = uart_read,
					 .write = uart_write,
					 .max_size = 1 };

/* The stream's side, on the loop's thread. */

static size_t uart_can_receive(void *opaque)
{
	struct uart *u = opaque;
	size_t room;

	pthread_mutex_lock(&u->dev.lock);
	room = u->mcr & MCR_LOOP || u->count > fifo_size(u)
		       ? 0
		       : fifo_size(u) - u->count;
	u->is_stalled = !room;
	pthread_mutex_unlock(&u->dev.lock);
	return room;
}

static void uart_receive(void *opaque, const uint8_t *buf, size_t len)
{
	struct uart *u = opaque;

	pthread_mutex_lock(&u->dev.lock);
	for (size_t i = 0; i < len; i++)
		push(u, buf[i]);
	restart_timeout(u);
	update_irq(u);
	pthread_mutex_unlock(&u->dev.lock);
}

static void uart_state(struct device *dev, struct stream *s)
{
	struct uart *u = container_of(dev, struct uart, dev);

	stream_begin(s, STREAM_TAG('U', 'A', 'R', 'T'), 1);
	stream_u16(s, &u->divisor);
	stream_u8(s, &u->ier);
	stream_u8(s, &u->fcr);
	stream_u8(s, &u->lcr);
	stream_u8(s, &u->mcr);
	stream_u8(s, &u->lsr);
	stream_u8(s, &u->msr);
	stream_u8(s, &u->scratch);
	stream_bool(s, &u->transmit_event);
	stream_bool(s, &u->is_timed_out);
	stream_bytes(s, u->fifo, sizeof(u->fifo));
	stream_u8(s, &u->head);
	stream_u8(s, &u->count);
	stream_check(s, u->ier <= 0xf && !(u->fcr & ~0xc9) && u->mcr <= 0x1f);
	stream_check(s, u->head < FIFO_SIZE && u->count <= fifo_size(u));
	vtimer_state(dev->env->clock, &u->timeout, s);
	stream_end(s);
	/* An index also when it could not be loaded. */
	u->head %= FIFO_SIZE;
	u->count = MIN(u->count, FIFO_SIZE);
	if (!s->is_loading || stream_error(s))
		return;
	update_irq(u);
	u->is_stalled = true; /* as far as the new stream knows */
	resume(u);
}

static void uart_reset(struct device *dev)
{
	struct uart *u = container_of(dev, struct uart, dev);

	pthread_mutex_lock(&dev->lock);
	u->divisor = 12; /* 9600 baud */
	u->ier = u->fcr = u->lcr = u->mcr = u->scratch = 0;
	u->lsr = LSR_THR_EMPTY | LSR_EMPTY;
	u->msr = 0;
	update_modem(u);
	u->msr &= ~MSR_DELTAS;
	u->transmit_event = false;
	clear_receiver(u);
	resume(u);
	update_irq(u);
	pthread_mutex_unlock(&dev->lock);
}

static void uart_destroy(struct device *dev)
{
	struct uart *u = container_of(dev, struct uart, dev);

	if (u->chr)
		chr_set_user(u->chr, NULL);
	vtimer_disarm(dev->env->clock, &u->timeout);
	device_finish(dev);
	free(u);
}

const struct device_class uart_class = {
	.name = "uart",
	.help = "16550A serial port",
	.destroy = uart_destroy,
	.reset = uart_reset,
	.state = uart_state,
};

int uart_create(struct device **dev, const struct device_env *env,
		const struct uart_opts *opts, struct err *err)
{
	struct uart *u = calloc(1, sizeof(*u));
	const struct chr_user user = { .can_receive = uart_can_receive,
				       .receive = uart_receive,
				       .opaque = u };
	int r;

	if (!u)
		return err_set(err, ENOMEM, NULL, "cannot make a serial port:");
	device_init(&u->dev, &uart_class, env);
	u->irq = opts->irq;
	u->chr = opts->chr;
	vtimer_init(env->clock, &u->timeout, timed_out, u, &u->dev.lock);
	uart_reset(&u->dev);
	if (u->chr)
		chr_set_user(u->chr, &user);
	r = device_map(&u->dev, env->pio, opts->port, NR_PORTS, &uart_ops, err);
	if (r) {
		uart_destroy(&u->dev);
		return r;
	}
	*dev = &u->dev;
	return 0;
}
