/*
 * Interrupts: lines that devices raise, messages that they send, and the
 * controller of one CPU as that CPU sees it.
 */
#ifndef BUS_IRQ_H
#define BUS_IRQ_H

#include "base/base.h"

struct stream;

/** A wire, handed to a device by value. It never learns who listens. */
struct irq_line {
	void (*set)(void *ctl, unsigned n, bool level);
	void *ctl;
	unsigned n;
};

static inline void irq_set(struct irq_line line, bool level)
{
	if (line.set)
		line.set(line.ctl, line.n, level);
}

/** A message-signalled interrupt (SDM volume 3, 10.11). */
struct msi_msg {
	uint64_t addr;
	uint32_t data;
};

/**
 * Where the machine's interrupts go: chips in software or in KVM. GSIs 0 to 23
 * are the IOAPIC's pins (and below 16 the 8259s').
 */
struct irqchip_ops {
	void (*set_gsi)(void *chip, unsigned gsi, bool level);
	void (*send_msi)(void *chip, const struct msi_msg *msg);
	/*
	 * Make a write to eventfd (fd) send (msg), without a user thread if
	 * the accelerator can, until called with msg NULL. A new (msg) takes
	 * the place of the old one; NULL for an fd without a route is 0. What
	 * was written while there was no route is sent when there is one. No
	 * function, or -ENOTSUP: the caller sends by itself.
	 */
	int (*route_msi)(void *chip, int fd, const struct msi_msg *msg);
};

/** One of them, for those that raise interrupts. */
struct irqchip {
	const struct irqchip_ops *ops;
	void *chip;
};

/** Wires that end at GSI (gsi) of (chip), which is borrowed. */
struct irq_line irq_gsi_line(struct irqchip *chip, unsigned gsi);

/** Several wires on one level-triggered GSI: asserted while any is. Each
 * source has a bit of (mask), which is updated atomically; sources on several
 * threads never wait for each other, and (out) always ends at the level that
 * the mask says. Save and load the low 30 bits, with sources quiet. */
struct irq_shared {
	struct irq_line out;
	uint32_t mask;
};

/** Wire number (n), below 30, of (shared). */
struct irq_line irq_shared_line(struct irq_shared *shared, unsigned n);

/** What reaches a CPU besides fixed interrupts. */
enum cpu_signal { CPU_WAKE, CPU_NMI, CPU_INIT, CPU_SIPI, CPU_SMI };

/** How an interrupt controller gets the attention of its CPU. (vector) is
 * SIPI's. Any thread; never waits. */
struct cpu_port {
	void (*signal)(void *cpu, enum cpu_signal s, uint8_t vector);
	void *cpu;
};

/**
 * A CPU's interrupt controller (its local APIC with what the 8259s send
 * through it), called by that CPU's thread except where it says otherwise.
 */
struct intc_ops {
	/* The vector to deliver now by priority, or -1. Cheap. 0 stands for
	 * one of the 8259s, whose vector only acknowledge() tells. */
	int (*pending)(void *intc);
	/* Take that vector: it moves to in-service. -1: spurious, none. */
	int (*acknowledge)(void *intc);
	/* Task priority as CR8 (0 to 15). */
	uint8_t (*get_tpr)(void *intc);
	void (*set_tpr)(void *intc, uint8_t cr8);
	/* x2APIC registers, APIC_BASE, TSC_DEADLINE (in terms of vclock_tsc():
	 * the caller applies TSC_ADJUST): 0, or -1 for #GP. */
	int (*read_msr)(void *intc, uint32_t msr, uint64_t *value);
	int (*write_msr)(void *intc, uint32_t msr, uint64_t value);
	/* End of interrupt by the paravirtual bit. */
	void (*eoi)(void *intc);
	/* Send a fixed IPI (PV_SEND_IPI) to APIC id (dest). */
	void (*send_ipi)(void *intc, uint32_t dest, uint32_t icr);
	/* INIT reached the CPU. */
	void (*reset)(void *intc);
};

/** One of them, as its CPU holds it; no (ops): the accelerator has its own. */
struct intc {
	const struct intc_ops *ops;
	void *dev;
};

#endif
