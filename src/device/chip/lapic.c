/*
 * Theory of operation
 *
 * Intel SDM volume 3, chapter 10, as xAPIC and as x2APIC. Registers are kept
 * in the form in which they are used; lapic_read() and reg_write() are the one
 * translation, and both ways to them (memory, MSRs) go through these.
 *
 *   message --> accept() --> IRR --\
 *   LVT, timer --------------^      update() --> ready --> pending()
 *   8259s --> LINT0 --------------/                 \--> CPU_WAKE
 *
 * The CPU asks pending() before every instruction block, so the answer is a
 * cached word, (ready), that every change of state brings up to date. The CPU
 * is woken when (ready) goes from nothing to something, and only then: while it
 * says something, the CPU has been told and looks again by itself when it
 * enables interrupts.
 *
 * Locks: device -> 8259s, I/O APIC -> local APIC. One APIC's lock is never held
 * while another's, or one of a chip, is taken: a register write that concerns
 * others (ICR, EOI) notes that in struct after and does it when the lock is
 * dropped.
 *
 * The timer counts nanoseconds (a 1 GHz bus). It is kept as the guest time at
 * which it reaches zero, so reading, saving and pausing need no other state.
 *
 * Not here: moving the registers with APIC_BASE, the thermal and performance
 * monitoring sources (their LVT entries are storage), SMM.
 */
#include "device/chip/lapic.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/bits.h"
#include "base/log.h"
#include "device/chip/ticks.h"
#include "state/stream.h"

/* Offsets of registers; an x2APIC MSR is 0x800 + offset / 16. */
enum reg {
	REG_ID = 0x020,
	REG_VERSION = 0x030,
	REG_TPR = 0x080,
	REG_APR = 0x090,
	REG_PPR = 0x0a0,
	REG_EOI = 0x0b0,
	REG_LDR = 0x0d0,
	REG_DFR = 0x0e0,
	REG_SVR = 0x0f0,
	REG_ISR = 0x100,
	REG_TMR = 0x180,
	REG_IRR = 0x200,
	REG_ESR = 0x280,
	REG_ICR = 0x300,
	REG_ICR_HIGH = 0x310,
	REG_LVT = 0x320, /* and up to 0x370 */
	REG_TIMER_INITIAL = 0x380,
	REG_TIMER_CURRENT = 0x390,
	REG_TIMER_DIVIDE = 0x3e0,
	REG_SELF_IPI = 0x3f0,
};

enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR };
#define NR_LVT 6

enum msr {
	MSR_APIC_BASE = 0x1b,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
};

#define BASE_BSP      BIT(8)
#define BASE_EXTD     BIT(10)
#define BASE_ENABLE   BIT(11)
#define BASE_RESERVED (MASK(63, 52) | BIT(9) | MASK(7, 0))

/* Integrated APIC, (NR_LVT) entries, EOI broadcast can be suppressed. */
#define VERSION           (0x14 | (NR_LVT - 1) << 16 | 1 << 24)

#define SVR_ENABLE        BIT(8)
#define SVR_SUPPRESS      BIT(12)
#define SVR_BITS          (SVR_SUPPRESS | MASK(9, 0))

#define DFR_CLUSTER       0x0
#define DFR_FLAT          0xf

#define LVT_MODE(e)       bits_get(e, 8, 3)
#define LVT_READ_ONLY     (BIT(12) | BIT(14))
#define LVT_MASKED        BIT(16)
#define LVT_TIMER_ONCE    0
#define LVT_TIMER_REPEAT  1
#define LVT_TIMER_TSC     2
#define LVT_TIMER_MODE(e) bits_get(e, 17, 2)

static const uint32_t lvt_bits[NR_LVT] = {
	[LVT_TIMER] = MASK(18, 16) | MASK(7, 0),
	[LVT_THERMAL] = BIT(16) | MASK(10, 0),
	[LVT_PERF] = BIT(16) | MASK(10, 0),
	[LVT_LINT0] = MASK(16, 15) | BIT(13) | MASK(10, 0),
	[LVT_LINT1] = MASK(16, 15) | BIT(13) | MASK(10, 0),
	[LVT_ERROR] = BIT(16) | MASK(7, 0),
};

#define ICR_LOGICAL BIT(11)
#define ICR_STATUS  BIT(12) /* read-only: nothing is ever pending */
#define ICR_ASSERT  BIT(14)
#define ICR_LEVEL   BIT(15)
#define ICR_BITS    (MASK(63, 32) | MASK(19, 18) | MASK(15, 14) | MASK(11, 0))

enum esr {
	ESR_SEND_VECTOR = BIT(5),
	ESR_RECEIVE_VECTOR = BIT(6),
	ESR_REGISTER = BIT(7),
};

#define NOTHING_READY (-1)
/* An external interrupt: only acknowledging it tells the vector. */
#define EXTINT_READY 0

struct lapic {
	struct device dev;
	struct lapic_opts opts;
	struct cpu_port port;
	_Atomic int ready; /* a vector, or one of the above */

	uint64_t base; /* the MSR */
	uint8_t tpr;
	uint8_t ldr, dfr; /* xAPIC: high byte, high nibble */
	uint32_t svr;
	uint32_t esr, errors; /* as latched; since then */
	uint64_t icr;
	uint32_t lvt[NR_LVT];
	uint32_t isr[8], tmr[8], irr[8];
	bool lint[2];

	uint32_t divide_reg, initial;
	int64_t deadline; /* guest ns; 0: the timer stands at 0 */
	uint64_t tsc_deadline;
	struct vtimer timer;
	struct log_limit log;
};

/* What a register write leaves to be done without the lock. */
struct after {
	bool has_msg, has_eoi;
	struct apic_msg msg;
	uint8_t eoi_vector;
};

static bool is_x2apic(const struct lapic *l)
{
	return l->base & BASE_EXTD;
}

static bool is_enabled(const struct lapic *l)
{
	return l->base & BASE_ENABLE;
}

/* Vectors and priorities. */

static bool vector_test(const uint32_t *set, unsigned v)
{
	return set[v / 32] >> v % 32 & 1;
}

static void vector_assign(uint32_t *set, unsigned v, bool on)
{
	if (on)
		set[v / 32] |= 1u << v % 32;
	else
		set[v / 32] &= ~(1u << v % 32);
}

static int vector_highest(const uint32_t *set)
{
	for (int i = 7; i >= 0; i--) {
		if (set[i])
			return i * 32 + 31 - __builtin_clz(set[i]);
	}
	return -1;
}

static uint8_t ppr(const struct lapic *l)
{
	int serving = vector_highest(l->isr);
	uint8_t class = serving < 0 ? 0 : serving & 0xf0;

	return (l->tpr & 0xf0) >= class ? l->tpr : class;
}

static bool accepts_extint(const struct lapic *l)
{
	uint32_t lint0 = l->lvt[LVT_LINT0];

	if (!l->lint[0])
		return false;
	return !is_enabled(l) ||
	       (LVT_MODE(lint0) == APIC_EXTINT && !(lint0 & LVT_MASKED));
}

/* The highest request above the processor's priority, or -1. */
static int next_vector(const struct lapic *l)
{
	int v = is_enabled(l) ? vector_highest(l->irr) : -1;

	return v >= 0 && (v & 0xf0) > (ppr(l) & 0xf0) ? v : -1;
}

/* Bring (ready) up to date, and wake the CPU if it has to look. */
static void update_after(struct lapic *l, int before)
{
	int ready = next_vector(l);

	if (ready < 0)
		ready = accepts_extint(l) ? EXTINT_READY : NOTHING_READY;
	atomic_store_explicit(&l->ready, ready, memory_order_release);
	if (ready >= 0 && before < 0 && l->port.signal)
		l->port.signal(l->port.cpu, CPU_WAKE, 0);
}

static void update(struct lapic *l)
{
	update_after(l, atomic_load_explicit(&l->ready, memory_order_relaxed));
}

/* Interrupts arrive. */

static void accept_fixed(struct lapic *l, uint8_t vector, bool is_level)
{
	vector_assign(l->irr, vector, true);
	vector_assign(l->tmr, vector, is_level);
}

static void report_error(struct lapic *l, uint32_t error)
{
	uint32_t lvt = l->lvt[LVT_ERROR];

	l->errors |= error;
	/* An illegal vector here must not report itself. */
	if (!(lvt & LVT_MASKED) && (uint8_t)lvt >= 16)
		accept_fixed(l, (uint8_t)lvt, false);
}

/* Disabled by software it still takes what is not a vector (10.4.7.2). */
static void accept(struct lapic *l, enum apic_mode mode, uint8_t vector,
		   bool is_level)
{
	enum cpu_signal signal;

	switch (mode) {
	case APIC_FIXED:
	case APIC_LOWEST:
		if (!(l->svr & SVR_ENABLE))
			return;
		if (vector < 16)
			report_error(l, ESR_RECEIVE_VECTOR);
		else
			accept_fixed(l, vector, is_level);
		update(l);
		return;
	case APIC_SMI:
		signal = CPU_SMI;
		break;
	case APIC_NMI:
		signal = CPU_NMI;
		break;
	case APIC_INIT:
		signal = CPU_INIT;
		break;
	case APIC_SIPI:
		signal = CPU_SIPI;
		break;
	default:
		return;
	}
	if (l->port.signal)
		l->port.signal(l->port.cpu, signal, vector);
}

static void deliver_lvt(struct lapic *l, enum lvt n)
{
	uint32_t lvt = l->lvt[n];
	enum apic_mode mode = APIC_FIXED;

	if (lvt & LVT_MASKED)
		return;
	if (n != LVT_TIMER && n != LVT_ERROR)
		mode = LVT_MODE(lvt);
	accept(l, mode, (uint8_t)lvt, false);
}

/* The timer. */

static int64_t divide(const struct lapic *l)
{
	unsigned code = (l->divide_reg & 3) | (l->divide_reg & 8) >> 1;

	return code == 7 ? 1 : 2 << code;
}

static int64_t period_ns(const struct lapic *l)
{
	return l->initial * divide(l);
}

static bool timer_is(const struct lapic *l, unsigned mode)
{
	return LVT_TIMER_MODE(l->lvt[LVT_TIMER]) == mode;
}

static uint32_t timer_current(const struct lapic *l)
{
	int64_t now, left;

	if (!l->deadline || !l->initial)
		return 0;
	now = vclock_now(l->dev.env->clock);
	left = l->deadline - now;
	if (left <= 0 && timer_is(l, LVT_TIMER_REPEAT))
		left = period_ns(l) - -left % period_ns(l);
	left = left <= 0 ? 0 : (left - 1) / divide(l) + 1;
	return (uint32_t)MIN(left, (int64_t)l->initial);
}

static void timer_stop(struct lapic *l)
{
	l->deadline = 0;
	l->tsc_deadline = 0;
	vtimer_disarm(l->dev.env->clock, &l->timer);
}

static void timer_start(struct lapic *l, int64_t ns)
{
	if (!ns) {
		timer_stop(l);
		return;
	}
	l->deadline = vclock_now(l->dev.env->clock) + ns;
	vtimer_arm(l->dev.env->clock, &l->timer, l->deadline);
}

static void timer_write_tsc(struct lapic *l, uint64_t tsc)
{
	if (!timer_is(l, LVT_TIMER_TSC))
		return;
	timer_stop(l);
	l->tsc_deadline = tsc;
	if (tsc)
		vtimer_arm(l->dev.env->clock, &l->timer,
			   vclock_tsc_to_ns(l->dev.env->clock, tsc));
}

static void timer_expired(void *opaque)
{
	struct lapic *l = opaque;
	int64_t now = vclock_now(l->dev.env->clock);

	l->tsc_deadline = 0;
	if (timer_is(l, LVT_TIMER_REPEAT) && l->deadline && l->initial) {
		int64_t period = period_ns(l);

		if (now >= l->deadline)
			l->deadline +=
				((now - l->deadline) / period + 1) * period;
		vtimer_arm(l->dev.env->clock, &l->timer,
			   MAX(l->deadline, now + TICKS_MIN_PERIOD_NS));
	} else {
		l->deadline = 0;
	}
	deliver_lvt(l, LVT_TIMER);
}

static void timer_write_divide(struct lapic *l, uint32_t value)
{
	uint32_t current = timer_current(l);

	l->divide_reg = value & 0xb;
	if (current)
		timer_start(l, current * divide(l));
}

/* Registers. */

static uint32_t read_ldr(const struct lapic *l)
{
	uint32_t id = l->opts.apic_id;

	if (is_x2apic(l))
		return id >> 4 << 16 | 1u << (id & 0xf);
	return (uint32_t)l->ldr << 24;
}

static uint32_t reg_read(struct lapic *l, enum reg reg)
{
	switch ((unsigned)reg) {
	case REG_ID:
		return is_x2apic(l) ? l->opts.apic_id : l->opts.apic_id << 24;
	case REG_VERSION:
		return VERSION;
	case REG_TPR:
		return l->tpr;
	case REG_PPR:
		return ppr(l);
	case REG_LDR:
		return read_ldr(l);
	case REG_DFR:
		return (uint32_t)l->dfr << 28 | MASK(27, 0);
	case REG_SVR:
		return l->svr;
	case REG_ISR ... REG_ISR + 0x70:
		return l->isr[(reg - REG_ISR) >> 4];
	case REG_TMR ... REG_TMR + 0x70:
		return l->tmr[(reg - REG_TMR) >> 4];
	case REG_IRR ... REG_IRR + 0x70:
		return l->irr[(reg - REG_IRR) >> 4];
	case REG_ESR:
		return l->esr;
	case REG_ICR:
		return (uint32_t)l->icr;
	case REG_ICR_HIGH:
		return (uint32_t)(l->icr >> 32);
	case REG_LVT ... REG_LVT + 0x50:
		return l->lvt[(reg - REG_LVT) >> 4];
	case REG_TIMER_INITIAL:
		return l->initial;
	case REG_TIMER_CURRENT:
		return timer_current(l);
	case REG_TIMER_DIVIDE:
		return l->divide_reg;
	case REG_APR: /* no focus processor, no arbitration */
	case REG_EOI:
	case REG_SELF_IPI:
		return 0;
	}
	report_error(l, ESR_REGISTER);
	update(l);
	return 0;
}

static void write_svr(struct lapic *l, uint32_t value)
{
	l->svr = value & SVR_BITS;
	if (l->svr & SVR_ENABLE)
		return;
	for (unsigned n = 0; n < NR_LVT; n++)
		l->lvt[n] |= LVT_MASKED;
}

static void write_lvt(struct lapic *l, enum lvt n, uint32_t value)
{
	uint32_t old = l->lvt[n];

	if (!(l->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	l->lvt[n] = value & lvt_bits[n];
	/* Going to or from the TSC deadline disarms the timer (10.5.4.1). */
	if (n == LVT_TIMER && LVT_TIMER_MODE(old) != LVT_TIMER_MODE(value) &&
	    (LVT_TIMER_MODE(old) == LVT_TIMER_TSC ||
	     LVT_TIMER_MODE(value) == LVT_TIMER_TSC))
		timer_stop(l);
}

static void write_eoi(struct lapic *l, struct after *after)
{
	int v = vector_highest(l->isr);

	if (v < 0)
		return;
	vector_assign(l->isr, (unsigned)v, false);
	after->has_eoi =
		vector_test(l->tmr, (unsigned)v) && !(l->svr & SVR_SUPPRESS);
	after->eoi_vector = (uint8_t)v;
}

/* All ones addresses every APIC, in either width. */
static void set_dest(struct apic_msg *msg, uint32_t dest, bool is_wide)
{
	msg->dest = dest;
	if (dest == (is_wide ? UINT32_MAX : UINT8_MAX))
		msg->shorthand = APIC_ALL;
}

static void write_icr(struct lapic *l, uint64_t value, struct after *after)
{
	struct apic_msg *msg = &after->msg;

	l->icr = value & ICR_BITS;
	*msg = (struct apic_msg){
		.mode = bits_get(value, 8, 3),
		.shorthand = bits_get(value, 18, 2),
		.vector = (uint8_t)value,
		.is_logical = value & ICR_LOGICAL,
	};
	if (msg->shorthand == APIC_DEST && is_x2apic(l))
		set_dest(msg, (uint32_t)(value >> 32), true);
	else if (msg->shorthand == APIC_DEST)
		set_dest(msg, value >> 56, false);
	/* INIT level de-assert only synchronizes arbitration ids, which no
	 * longer exist. */
	if (msg->mode == APIC_INIT && value & ICR_LEVEL &&
	    !(value & ICR_ASSERT))
		return;
	if (msg->mode == APIC_RESERVED || msg->mode == APIC_EXTINT)
		return;
	if (msg->mode <= APIC_LOWEST && msg->vector < 16) {
		report_error(l, ESR_SEND_VECTOR);
		return;
	}
	after->has_msg = true;
}

static void write_timer_initial(struct lapic *l, uint32_t value)
{
	if (timer_is(l, LVT_TIMER_TSC))
		return;
	l->initial = value;
	timer_start(l, period_ns(l));
}

static void reg_write(struct lapic *l, enum reg reg, uint64_t value,
		      struct after *after)
{
	switch ((unsigned)reg) {
	case REG_TPR:
		l->tpr = (uint8_t)value;
		break;
	case REG_EOI:
		write_eoi(l, after);
		break;
	case REG_LDR:
		l->ldr = (uint8_t)(value >> 24);
		break;
	case REG_DFR:
		l->dfr = value >> 28 & 0xf;
		break;
	case REG_SVR:
		write_svr(l, (uint32_t)value);
		break;
	case REG_ESR:
		l->esr = l->errors;
		l->errors = 0;
		break;
	case REG_ICR:
		write_icr(l, value, after);
		break;
	case REG_ICR_HIGH:
		l->icr = (uint32_t)l->icr | (value & MASK(31, 24)) << 32;
		break;
	case REG_LVT ... REG_LVT + 0x50:
		write_lvt(l, (reg - REG_LVT) >> 4, (uint32_t)value);
		break;
	case REG_TIMER_INITIAL:
		write_timer_initial(l, (uint32_t)value);
		break;
	case REG_TIMER_DIVIDE:
		timer_write_divide(l, (uint32_t)value);
		break;
	case REG_ID: /* read-only, as in today's processors */
		break;
	default:
		report_error(l, ESR_REGISTER);
		log_guest(&l->log, l->dev.id, "wrote local APIC register 0x%x",
			  reg);
		break;
	}
	update(l);
}

/* With the lock dropped. */
static void run_after(struct lapic *l, const struct after *after)
{
	const struct apic_bus *bus = &l->opts.bus;

	if (after->has_eoi)
		bus->eoi(bus->opaque, after->eoi_vector);
	if (after->has_msg)
		bus->send(bus->opaque, l->opts.cpu, &after->msg);
}

uint32_t lapic_read(struct device *dev, uint64_t offset)
{
	struct lapic *l = container_of(dev, struct lapic, dev);
	uint32_t value = UINT32_MAX;

	pthread_mutex_lock(&dev->lock);
	if (is_enabled(l) && !is_x2apic(l))
		value = offset & 0xf ? 0 : reg_read(l, (enum reg)offset);
	pthread_mutex_unlock(&dev->lock);
	return value;
}

void lapic_write(struct device *dev, uint64_t offset, uint32_t value)
{
	struct lapic *l = container_of(dev, struct lapic, dev);
	struct after after = { .has_msg = false };
	uint64_t wide = value;

	if (offset & 0xf)
		return;
	pthread_mutex_lock(&dev->lock);
	if (is_enabled(l) && !is_x2apic(l)) {
		if (offset == REG_ICR)
			wide |= l->icr & MASK(63, 32);
		reg_write(l, (enum reg)offset, wide, &after);
	}
	pthread_mutex_unlock(&dev->lock);
	run_after(l, &after);
}

/* The CPU's side: MSRs. */

static void reset_registers(struct lapic *l, bool is_power_on)
{
	l->tpr = 0;
	l->ldr = 0;
	l->dfr = DFR_FLAT;
	l->svr = 0xff;
	l->esr = l->errors = 0;
	l->icr = 0;
	memset(l->isr, 0, sizeof(l->isr));
	memset(l->tmr, 0, sizeof(l->tmr));
	memset(l->irr, 0, sizeof(l->irr));
	for (unsigned n = 0; n < NR_LVT; n++)
		l->lvt[n] = LVT_MASKED;
	l->divide_reg = 0;
	l->initial = 0;
	timer_stop(l);
	/* Virtual wire mode, in which firmware hands over the boot CPU: a
	 * machine that boots a kernel by itself has no other firmware. */
	if (is_power_on && l->opts.is_bsp) {
		l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
		l->lvt[LVT_LINT1] = APIC_NMI << 8;
	}
}

/* Transitions: SDM volume 3, 10.12.5. */
static int write_apic_base(struct lapic *l, uint64_t value)
{
	uint64_t mode = value & (BASE_ENABLE | BASE_EXTD);
	uint64_t old = l->base & (BASE_ENABLE | BASE_EXTD);

	if (value & BASE_RESERVED || mode == BASE_EXTD)
		return -1;
	if (old == (BASE_ENABLE | BASE_EXTD) && mode == BASE_ENABLE)
		return -1;
	if (!old && mode == (BASE_ENABLE | BASE_EXTD))
		return -1;
	if ((value & MASK(51, 12)) != LAPIC_BASE)
		log_guest(&l->log, l->dev.id,
			  "the registers stay at 0x%x, asked to go to 0x%llx",
			  LAPIC_BASE, (unsigned long long)value);
	l->base = (value & ~BASE_BSP) | (l->base & BASE_BSP);
	if (old && !mode)
		reset_registers(l, false);
	if (old != mode)
		l->icr &= UINT32_MAX;
	update(l);
	return 0;
}

/* Which (bits) a write to (reg) as an MSR may set; false: none exists. */
static bool x2apic_writable(unsigned reg, uint64_t *bits)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		*bits = 0xff;
		return true;
	case REG_EOI:
	case REG_ESR:
		*bits = 0;
		return true;
	case REG_SVR:
		*bits = SVR_BITS;
		return true;
	case REG_ICR:
		*bits = ICR_BITS | ICR_STATUS;
		return true;
	case REG_LVT ... REG_LVT + 0x50:
		*bits = lvt_bits[(reg - REG_LVT) >> 4] | LVT_READ_ONLY;
		return true;
	case REG_TIMER_INITIAL:
		*bits = UINT32_MAX;
		return true;
	case REG_TIMER_DIVIDE:
		*bits = 0xb;
		return true;
	}
	return false;
}

static bool x2apic_readable(unsigned reg)
{
	switch (reg) {
	case REG_ID:
	case REG_VERSION:
	case REG_TPR:
	case REG_PPR:
	case REG_LDR:
	case REG_SVR:
	case REG_ISR ... REG_IRR + 0x70:
	case REG_ESR:
	case REG_ICR:
	case REG_LVT ... REG_LVT + 0x50:
	case REG_TIMER_INITIAL:
	case REG_TIMER_CURRENT:
	case REG_TIMER_DIVIDE:
		return true;
	}
	return false;
}

static int read_x2apic(struct lapic *l, uint32_t msr, uint64_t *value)
{
	unsigned reg = (msr - MSR_X2APIC) << 4;

	if (!is_x2apic(l) || msr < MSR_X2APIC || reg > 0xff0 ||
	    !x2apic_readable(reg))
		return -1;
	*value = reg == REG_ICR ? l->icr : reg_read(l, (enum reg)reg);
	return 0;
}

static int write_x2apic(struct lapic *l, uint32_t msr, uint64_t value,
			struct after *after)
{
	unsigned reg = (msr - MSR_X2APIC) << 4;
	uint64_t writable;

	if (!is_x2apic(l) || msr < MSR_X2APIC || reg > 0xff0 ||
	    !x2apic_writable(reg, &writable) || value & ~writable)
		return -1;
	if (reg == REG_SELF_IPI) {
		accept(l, APIC_FIXED, (uint8_t)value, false);
		return 0;
	}
	reg_write(l, (enum reg)reg, value, after);
	return 0;
}

static int intc_read_msr(void *intc, uint32_t msr, uint64_t *value)
{
	struct lapic *l = intc;
	int r = 0;

	pthread_mutex_lock(&l->dev.lock);
	if (msr == MSR_APIC_BASE)
		*value = l->base;
	else if (msr == MSR_TSC_DEADLINE)
		*value = l->tsc_deadline;
	else
		r = read_x2apic(l, msr, value);
	pthread_mutex_unlock(&l->dev.lock);
	return r;
}

static int intc_write_msr(void *intc, uint32_t msr, uint64_t value)
{
	struct after after = { .has_msg = false };
	struct lapic *l = intc;
	int r = 0;

	pthread_mutex_lock(&l->dev.lock);
	if (msr == MSR_APIC_BASE)
		r = write_apic_base(l, value);
	else if (msr == MSR_TSC_DEADLINE)
		timer_write_tsc(l, value);
	else
		r = write_x2apic(l, msr, value, &after);
	pthread_mutex_unlock(&l->dev.lock);
	run_after(l, &after);
	return r;
}

/* The CPU's side: interrupts. */

static int intc_pending(void *intc)
{
	struct lapic *l = intc;

	return atomic_load_explicit(&l->ready, memory_order_acquire);
}

static int intc_acknowledge(void *intc)
{
	struct lapic *l = intc;
	bool is_external = false;
	int v;

	pthread_mutex_lock(&l->dev.lock);
	v = next_vector(l);
	if (v >= 0) {
		vector_assign(l->irr, (unsigned)v, false);
		vector_assign(l->isr, (unsigned)v, true);
	} else {
		is_external = accepts_extint(l);
	}
	/* What is left needs another look by the CPU: it was told once. */
	if (!is_external)
		update_after(l, NOTHING_READY);
	pthread_mutex_unlock(&l->dev.lock);
	if (!is_external)
		return v;
	v = l->opts.bus.extint(l->opts.bus.opaque);
	pthread_mutex_lock(&l->dev.lock);
	update_after(l, NOTHING_READY);
	pthread_mutex_unlock(&l->dev.lock);
	return v;
}

static uint8_t intc_get_tpr(void *intc)
{
	struct lapic *l = intc;
	uint8_t tpr;

	pthread_mutex_lock(&l->dev.lock);
	tpr = l->tpr >> 4;
	pthread_mutex_unlock(&l->dev.lock);
	return tpr;
}

static void intc_set_tpr(void *intc, uint8_t cr8)
{
	struct lapic *l = intc;

	pthread_mutex_lock(&l->dev.lock);
	l->tpr = (uint8_t)(cr8 << 4);
	update(l);
	pthread_mutex_unlock(&l->dev.lock);
}

static void intc_eoi(void *intc)
{
	struct after after = { .has_msg = false };
	struct lapic *l = intc;

	pthread_mutex_lock(&l->dev.lock);
	reg_write(l, REG_EOI, 0, &after);
	pthread_mutex_unlock(&l->dev.lock);
	run_after(l, &after);
}

static void intc_send_ipi(void *intc, uint32_t dest, uint32_t icr)
{
	struct lapic *l = intc;
	struct apic_msg msg = { .mode = bits_get(icr, 8, 3),
				.dest = dest,
				.vector = (uint8_t)icr };

	if (msg.mode == APIC_NMI ||
	    (msg.mode == APIC_FIXED && msg.vector >= 16))
		l->opts.bus.send(l->opts.bus.opaque, l->opts.cpu, &msg);
}

static void intc_reset(void *intc)
{
	struct lapic *l = intc;

	pthread_mutex_lock(&l->dev.lock);
	reset_registers(l, false);
	update(l);
	pthread_mutex_unlock(&l->dev.lock);
}

static const struct intc_ops lapic_intc_ops = {
	.pending = intc_pending,
	.acknowledge = intc_acknowledge,
	.get_tpr = intc_get_tpr,
	.set_tpr = intc_set_tpr,
	.read_msr = intc_read_msr,
	.write_msr = intc_write_msr,
	.eoi = intc_eoi,
	.send_ipi = intc_send_ipi,
	.reset = intc_reset,
};

struct intc lapic_intc(struct device *dev)
{
	return (struct intc){ .ops = &lapic_intc_ops,
			      .dev = container_of(dev, struct lapic, dev) };
}

/* The machine's side. */

void lapic_connect(struct device *dev, struct cpu_port port)
{
	container_of(dev, struct lapic, dev)->port = port;
}

static bool matches_logical(const struct lapic *l, uint32_t dest)
{
	if (is_x2apic(l)) {
		uint32_t id = read_ldr(l);

		return dest >> 16 == id >> 16 && dest & id & 0xffff;
	}
	if (dest > 0xff)
		return false;
	if (l->dfr == DFR_CLUSTER)
		return dest >> 4 == l->ldr >> 4 && dest & l->ldr & 0xf;
	return l->dfr == DFR_FLAT && dest & l->ldr;
}

bool lapic_matches(struct device *dev, const struct apic_msg *msg)
{
	struct lapic *l = container_of(dev, struct lapic, dev);
	bool is_match;

	if (!msg->is_logical)
		return msg->dest == l->opts.apic_id;
	pthread_mutex_lock(&dev->lock);
	is_match = matches_logical(l, msg->dest);
	pthread_mutex_unlock(&dev->lock);
	return is_match;
}

void lapic_accept(struct device *dev, const struct apic_msg *msg)
{
	struct lapic *l = container_of(dev, struct lapic, dev);

	pthread_mutex_lock(&dev->lock);
	if (is_enabled(l))
		accept(l, msg->mode, msg->vector, msg->is_level);
	pthread_mutex_unlock(&dev->lock);
}

uint8_t lapic_priority(struct device *dev)
{
	struct lapic *l = container_of(dev, struct lapic, dev);
	uint8_t priority;

	pthread_mutex_lock(&dev->lock);
	priority = is_enabled(l) && l->svr & SVR_ENABLE ? ppr(l) : UINT8_MAX;
	pthread_mutex_unlock(&dev->lock);
	return priority;
}

void lapic_set_lint(struct device *dev, unsigned n, bool level)
{
	struct lapic *l = container_of(dev, struct lapic, dev);
	enum lvt lvt = n ? LVT_LINT1 : LVT_LINT0;
	bool was;

	pthread_mutex_lock(&dev->lock);
	was = l->lint[n & 1];
	l->lint[n & 1] = level;
	/* ExtINT is looked up when the CPU asks; the rest is sent by edge. */
	if (level && !was && is_enabled(l))
		deliver_lvt(l, lvt);
	update(l);
	pthread_mutex_unlock(&dev->lock);
}

static void load_timer(struct lapic *l)
{
	struct vclock *clock = l->dev.env->clock;

	vtimer_disarm(clock, &l->timer);
	if (l->deadline)
		vtimer_arm(clock, &l->timer, l->deadline);
	else if (l->tsc_deadline)
		vtimer_arm(clock, &l->timer,
			   vclock_tsc_to_ns(clock, l->tsc_deadline));
}

static void lapic_state(struct device *dev, struct stream *s)
{
	struct lapic *l = container_of(dev, struct lapic, dev);

	stream_begin(s, STREAM_TAG('L', 'A', 'P', 'I'), 1);
	stream_u64(s, &l->base);
	stream_check(s, !(l->base & BASE_RESERVED) &&
				(l->base & BASE_ENABLE || !is_x2apic(l)));
	stream_u8(s, &l->tpr);
	stream_u8(s, &l->ldr);
	stream_u8(s, &l->dfr);
	stream_u32(s, &l->svr);
	stream_u32(s, &l->esr);
	stream_u32(s, &l->errors);
	stream_u64(s, &l->icr);
	stream_check(s, l->dfr <= DFR_FLAT && !(l->svr & ~SVR_BITS) &&
				!(l->icr & ~ICR_BITS));
	for (unsigned n = 0; n < NR_LVT; n++) {
		stream_u32(s, &l->lvt[n]);
		stream_check(s, !(l->lvt[n] & ~lvt_bits[n]));
	}
	for (unsigned i = 0; i < 8; i++) {
		stream_u32(s, &l->isr[i]);
		stream_u32(s, &l->tmr[i]);
		stream_u32(s, &l->irr[i]);
	}
	stream_bool(s, &l->lint[0]);
	stream_bool(s, &l->lint[1]);
	stream_u32(s, &l->divide_reg);
	stream_u32(s, &l->initial);
	stream_i64(s, &l->deadline);
	stream_u64(s, &l->tsc_deadline);
	stream_check(s, !(l->divide_reg & ~0xbu) && l->deadline >= 0);
	stream_end(s);
	if (s->is_loading && !stream_error(s)) {
		load_timer(l);
		update_after(l, NOTHING_READY);
	}
}

static void lapic_reset(struct device *dev)
{
	struct lapic *l = container_of(dev, struct lapic, dev);

	pthread_mutex_lock(&dev->lock);
	l->base = LAPIC_BASE | BASE_ENABLE | (l->opts.is_bsp ? BASE_BSP : 0);
	reset_registers(l, true);
	update(l);
	pthread_mutex_unlock(&dev->lock);
}

static void lapic_destroy(struct device *dev)
{
	struct lapic *l = container_of(dev, struct lapic, dev);

	vtimer_disarm(dev->env->clock, &l->timer);
	device_finish(dev);
	free(l);
}

const struct device_class lapic_class = {
	.name = "lapic",
	.help = "local APIC of a CPU",
	.destroy = lapic_destroy,
	.reset = lapic_reset,
	.state = lapic_state,
};

int lapic_create(struct device **dev, const struct device_env *env,
		 const struct lapic_opts *opts, struct err *err)
{
	struct lapic *l = calloc(1, sizeof(*l));

	if (!l)
		return err_set(err, ENOMEM, NULL, "cannot make a local APIC:");
	device_init(&l->dev, &lapic_class, env);
	l->opts = *opts;
	atomic_init(&l->ready, NOTHING_READY);
	vtimer_init(env->clock, &l->timer, timer_expired, l, &l->dev.lock);
	lapic_reset(&l->dev);
	*dev = &l->dev;
	return 0;
}
