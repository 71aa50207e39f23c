/*
 * Intel 8259A (order 231468), twice: the second one's output is the first one's
 * input 2. Edge or level is chosen per input by the ELCR ports of PCI chipsets.
 *
 * Input 2 of the first chip follows the second's output as a level, so that a
 * request that stays up through an EOI is seen without a new edge.
 */
#include "device/chip/pic.h"

#include <errno.h>

#include "base/bits.h"
#include "state/stream.h"

#define PORT_MASTER  0x20
#define PORT_SLAVE   0xa0
#define PORT_ELCR    0x4d0

#define CASCADE_IRQ  2
#define SPURIOUS_IRQ 7

enum icw1 { ICW1_IC4 = BIT(0), ICW1_SINGLE = BIT(1), ICW1_INIT = BIT(4) };
enum icw4 { ICW4_AUTO_EOI = BIT(1), ICW4_NESTED = BIT(4) };
enum ocw3 {
	OCW3_RIS = BIT(0),
	OCW3_RR = BIT(1),
	OCW3_POLL = BIT(2),
	OCW3_ID = BIT(3),
	OCW3_SMM = BIT(5),
	OCW3_ESMM = BIT(6),
};

/* OCW2, bits 7 to 5. */
enum ocw2 {
	OCW2_AUTO_ROTATE_OFF,
	OCW2_EOI,
	OCW2_NOP,
	OCW2_EOI_SPECIFIC,
	OCW2_AUTO_ROTATE_ON,
	OCW2_EOI_ROTATE,
	OCW2_SET_PRIORITY,
	OCW2_EOI_SPECIFIC_ROTATE,
};

/* Which initialization word is expected at the odd port. */
enum init_step { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct pic_unit {
	uint8_t irr, isr, imr;
	uint8_t lines;  /* levels of the inputs */
	uint8_t elcr;   /* 1: level-triggered */
	uint8_t base;   /* vector of input 0 */
	uint8_t lowest; /* input of the lowest priority */
	uint8_t init_step;
	bool needs_icw4, is_single;
	bool is_auto_eoi, is_auto_rotating;
	bool has_special_mask, is_fully_nested;
	bool reads_isr, is_polled;
};

struct pic {
	struct device dev;
	struct pic_unit unit[2];
	struct irq_line out;
	bool level; /* of (out) */
};

static const uint8_t elcr_mask[2] = { 0xf8, 0xde };

/* The set bit of (mask) that comes first in the order of priority, or -1. */
static int first_in_order(const struct pic_unit *u, uint8_t mask)
{
	for (unsigned i = 1; i <= 8; i++) {
		unsigned n = (u->lowest + i) & 7;

		if (mask & BIT(n))
			return (int)n;
	}
	return -1;
}

static unsigned rank(const struct pic_unit *u, int n)
{
	return ((unsigned)n - u->lowest - 1) & 7;
}

/* The request that interrupts what is in service now, or -1. */
static int next_request(const struct pic *pic, const struct pic_unit *u)
{
	int request = first_in_order(u, u->irr & ~u->imr);
	uint8_t isr = u->isr;
	int serving;

	if (request < 0)
		return -1;
	if (u->has_special_mask)
		isr &= ~u->imr;
	/* A second one of the other chip may nest in the first. */
	if (u->is_fully_nested && u == &pic->unit[0])
		isr &= ~BIT(CASCADE_IRQ);
	serving = first_in_order(u, isr);
	if (serving >= 0 && rank(u, serving) <= rank(u, request))
		return -1;
	return request;
}

static void unit_set_line(struct pic_unit *u, unsigned n, bool level,
			  bool is_level_triggered)
{
	uint8_t bit = BIT(n);

	if (is_level_triggered) {
		if (level)
			u->irr |= bit;
		else
			u->irr &= ~bit;
	} else if (level && !(u->lines & bit)) {
		u->irr |= bit;
	}
	if (level)
		u->lines |= bit;
	else
		u->lines &= ~bit;
}

/* Carry the requests through to the output. */
static void pic_update(struct pic *pic)
{
	bool level;

	unit_set_line(&pic->unit[0], CASCADE_IRQ,
		      next_request(pic, &pic->unit[1]) >= 0, true);
	level = next_request(pic, &pic->unit[0]) >= 0;
	if (level != pic->level) {
		pic->level = level;
		irq_set(pic->out, level);
	}
}

static void unit_acknowledge(struct pic_unit *u, int n)
{
	if (!u->is_auto_eoi)
		u->isr |= BIT(n);
	else if (u->is_auto_rotating)
		u->lowest = (uint8_t)n;
	if (!(u->elcr & BIT(n)))
		u->irr &= ~BIT(n);
}

static void end_interrupt(struct pic_unit *u, int n, bool is_rotating)
{
	if (n < 0)
		return;
	u->isr &= ~BIT(n);
	if (is_rotating)
		u->lowest = (uint8_t)n;
}

static void write_icw1(struct pic_unit *u, uint8_t value)
{
	/* What is level-triggered stays requested. */
	u->irr &= u->elcr & u->lines;
	u->isr = u->imr = 0;
	u->lowest = 7;
	u->is_auto_eoi = u->is_auto_rotating = false;
	u->has_special_mask = u->is_fully_nested = false;
	u->reads_isr = u->is_polled = false;
	u->needs_icw4 = value & ICW1_IC4;
	u->is_single = value & ICW1_SINGLE;
	u->init_step = INIT_ICW2;
}

static void write_ocw2(struct pic_unit *u, uint8_t value)
{
	enum ocw2 op = value >> 5;
	uint8_t n = value & 7, isr = u->isr;

	if (u->has_special_mask)
		isr &= ~u->imr;
	switch (op) {
	case OCW2_AUTO_ROTATE_OFF:
	case OCW2_AUTO_ROTATE_ON:
		u->is_auto_rotating = op == OCW2_AUTO_ROTATE_ON;
		break;
	case OCW2_EOI:
	case OCW2_EOI_ROTATE:
		end_interrupt(u, first_in_order(u, isr), op == OCW2_EOI_ROTATE);
		break;
	case OCW2_EOI_SPECIFIC:
	case OCW2_EOI_SPECIFIC_ROTATE:
		end_interrupt(u, n, op == OCW2_EOI_SPECIFIC_ROTATE);
		break;
	case OCW2_SET_PRIORITY:
		u->lowest = n;
		break;
	case OCW2_NOP:
		break;
	}
}

static void write_ocw3(struct pic_unit *u, uint8_t value)
{
	if (value & OCW3_POLL)
		u->is_polled = true;
	if (value & OCW3_RR)
		u->reads_isr = value & OCW3_RIS;
	if (value & OCW3_ESMM)
		u->has_special_mask = value & OCW3_SMM;
}

/* The odd port: initialization words in sequence, else the mask. */
static void write_data(struct pic_unit *u, uint8_t value)
{
	switch ((enum init_step)u->init_step) {
	case INIT_DONE:
		u->imr = value;
		break;
	case INIT_ICW2:
		u->base = value & 0xf8;
		u->init_step = !u->is_single   ? INIT_ICW3
			       : u->needs_icw4 ? INIT_ICW4
					       : INIT_DONE;
		break;
	case INIT_ICW3: /* the wiring of a PC is fixed */
		u->init_step = u->needs_icw4 ? INIT_ICW4 : INIT_DONE;
		break;
	case INIT_ICW4:
		u->is_auto_eoi = value & ICW4_AUTO_EOI;
		u->is_fully_nested = value & ICW4_NESTED;
		u->init_step = INIT_DONE;
		break;
	}
}

static void unit_write(struct pic *pic, struct pic_unit *u, uint64_t offset,
		       uint8_t value)
{
	if (offset == 1)
		write_data(u, value);
	else if (value & ICW1_INIT)
		write_icw1(u, value);
	else if (value & OCW3_ID)
		write_ocw3(u, value);
	else
		write_ocw2(u, value);
	pic_update(pic);
}

static uint8_t unit_read(struct pic *pic, struct pic_unit *u, uint64_t offset)
{
	int n;

	if (u->is_polled) {
		u->is_polled = false;
		n = next_request(pic, u);
		if (n < 0)
			return 0;
		unit_acknowledge(u, n);
		pic_update(pic);
		return (uint8_t)(0x80 | n);
	}
	if (offset == 1)
		return u->imr;
	return u->reads_isr ? u->isr : u->irr;
}

static uint64_t master_read(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size)
{
	struct pic *pic = dev;

	return unit_read(pic, &pic->unit[0], offset);
}

static void master_write(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size, uint64_t value)
{
	struct pic *pic = dev;

	unit_write(pic, &pic->unit[0], offset, (uint8_t)value);
}

static uint64_t slave_read(void *dev, unsigned cpu, uint64_t offset,
			   unsigned size)
{
	struct pic *pic = dev;

	return unit_read(pic, &pic->unit[1], offset);
}

static void slave_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
			uint64_t value)
{
	struct pic *pic = dev;

	unit_write(pic, &pic->unit[1], offset, (uint8_t)value);
}

static uint64_t elcr_read(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	struct pic *pic = dev;

	return pic->unit[offset].elcr;
}

static void elcr_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		       uint64_t value)
{
	struct pic *pic = dev;

	pic->unit[offset].elcr = (uint8_t)value & elcr_mask[offset];
}

static const struct bus_ops master_ops = { .read = master_read,
					   .write = master_write,
					   .max_size = 1 };
static const struct bus_ops slave_ops = { .read = slave_read,
					  .write = slave_write,
					  .max_size = 1 };
static const struct bus_ops elcr_ops = { .read = elcr_read,
					 .write = elcr_write,
					 .max_size = 1 };

/* The machine's side. */

void pic_set_irq(struct device *dev, unsigned n, bool level)
{
	struct pic *pic = container_of(dev, struct pic, dev);
	struct pic_unit *u = &pic->unit[n >> 3 & 1];

	if (n > 15 || n == CASCADE_IRQ)
		return;
	pthread_mutex_lock(&dev->lock);
	unit_set_line(u, n & 7, level, u->elcr & BIT(n & 7));
	pic_update(pic);
	pthread_mutex_unlock(&dev->lock);
}

/* The next request of (u), acknowledged, or the spurious one. */
static int take_request(struct pic *pic, struct pic_unit *u)
{
	int n = next_request(pic, u);

	if (n < 0)
		return SPURIOUS_IRQ;
	unit_acknowledge(u, n);
	return n;
}

uint8_t pic_acknowledge(struct device *dev)
{
	struct pic *pic = container_of(dev, struct pic, dev);
	struct pic_unit *u = &pic->unit[0];
	int n;

	pthread_mutex_lock(&dev->lock);
	n = take_request(pic, u);
	if (n == CASCADE_IRQ) {
		u = &pic->unit[1];
		n = take_request(pic, u);
	}
	pic_update(pic);
	pthread_mutex_unlock(&dev->lock);
	return (uint8_t)(u->base + n);
}

static void pic_state(struct device *dev, struct stream *s)
{
	struct pic *pic = container_of(dev, struct pic, dev);

	stream_begin(s, STREAM_TAG('P', 'I', 'C', ' '), 1);
	for (unsigned i = 0; i < 2; i++) {
		struct pic_unit *u = &pic->unit[i];

		stream_u8(s, &u->irr);
		stream_u8(s, &u->isr);
		stream_u8(s, &u->imr);
		stream_u8(s, &u->lines);
		stream_u8(s, &u->elcr);
		stream_u8(s, &u->base);
		stream_u8(s, &u->lowest);
		stream_u8(s, &u->init_step);
		stream_bool(s, &u->needs_icw4);
		stream_bool(s, &u->is_single);
		stream_bool(s, &u->is_auto_eoi);
		stream_bool(s, &u->is_auto_rotating);
		stream_bool(s, &u->has_special_mask);
		stream_bool(s, &u->is_fully_nested);
		stream_bool(s, &u->reads_isr);
		stream_bool(s, &u->is_polled);
		stream_check(s, !(u->base & 7) && u->lowest < 8 &&
					u->init_step <= INIT_ICW4 &&
					!(u->elcr & ~elcr_mask[i]));
	}
	stream_bool(s, &pic->level);
	stream_end(s);
	if (s->is_loading && !stream_error(s))
		irq_set(pic->out, pic->level);
}

static void pic_reset(struct device *dev)
{
	struct pic *pic = container_of(dev, struct pic, dev);

	pthread_mutex_lock(&dev->lock);
	for (unsigned i = 0; i < 2; i++) {
		uint8_t lines = pic->unit[i].lines;

		pic->unit[i] = (struct pic_unit){ .lines = lines, .lowest = 7 };
	}
	pic_update(pic);
	pthread_mutex_unlock(&dev->lock);
}

static void pic_destroy(struct device *dev)
{
	device_finish(dev);
	free(container_of(dev, struct pic, dev));
}

const struct device_class pic_class = {
	.name = "pic",
	.help = "8259A interrupt controllers",
	.destroy = pic_destroy,
	.reset = pic_reset,
	.state = pic_state,
};

int pic_create(struct device **dev, const struct device_env *env,
	       const struct pic_opts *opts, struct err *err)
{
	struct pic *pic = calloc(1, sizeof(*pic));
	int r;

	if (!pic)
		return err_set(err, ENOMEM, NULL, "cannot make the PIC:");
	device_init(&pic->dev, &pic_class, env);
	pic->out = opts->out;
	pic_reset(&pic->dev);
	r = device_map(&pic->dev, env->pio, PORT_MASTER, 2, &master_ops, err);
	if (!r)
		r = device_map(&pic->dev, env->pio, PORT_SLAVE, 2, &slave_ops,
			       err);
	if (!r)
		r = device_map(&pic->dev, env->pio, PORT_ELCR, 2, &elcr_ops,
			       err);
	if (r) {
		pic_destroy(&pic->dev);
		return r;
	}
	*dev = &pic->dev;
	return 0;
}
