#include "bus/irq.h"

static void set_gsi(void *ctl, unsigned gsi, bool level)
{
	const struct irqchip *chip = ctl;

	if (chip->ops)
		chip->ops->set_gsi(chip->chip, gsi, level);
}

struct irq_line irq_gsi_line(struct irqchip *chip, unsigned gsi)
{
	return (struct irq_line){ .set = set_gsi, .ctl = chip, .n = gsi };
}

/*
 * Two sources may change at once, on two threads. Updating the mask atomically
 * is not enough: the one that drops the last bit and the one that sets a new
 * one could reach the controller in the wrong order, and the line would stay
 * low with a source asserted. So the level is sent under a lock of one bit in
 * the mask, and always as the mask then says. Sources that change while the
 * lock is held leave their bit and a mark, and the holder sends again: nobody
 * ever waits, so a source may hold whatever lock it likes.
 */
#define SHARED_BUSY  (1u << 31) /* a thread is sending */
#define SHARED_AGAIN (1u << 30) /* the mask changed since it looked */
#define SHARED_BITS  (SHARED_AGAIN - 1)

static void set_shared(void *ctl, unsigned n, bool level)
{
	struct irq_shared *s = ctl;
	uint32_t old = __atomic_load_n(&s->mask, __ATOMIC_RELAXED), new;

	do {
		new = level ? old | 1u << n : old & ~(1u << n);
		if (!((new ^ old) & SHARED_BITS))
			return;
		new |= old &SHARED_BUSY ? SHARED_AGAIN : SHARED_BUSY;
	} while (!__atomic_compare_exchange_n(
		&s->mask, &old, new, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	if (old & SHARED_BUSY)
		return;
	do {
		irq_set(s->out, new &SHARED_BITS);
		old = new;
		/* Release it, unless there is something new to send. */
		if (__atomic_compare_exchange_n(
			    &s->mask, &old, new &SHARED_BITS, false,
			    __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
			return;
		new = __atomic_and_fetch(&s->mask, ~SHARED_AGAIN,
					 __ATOMIC_ACQ_REL);
	} while (true);
}

struct irq_line irq_shared_line(struct irq_shared *shared, unsigned n)
{
	return (struct irq_line){ .set = set_shared, .ctl = shared, .n = n };
}
