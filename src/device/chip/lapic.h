/*
 * The local APIC of one CPU. What travels between APICs is struct apic_msg;
 * who receives it is decided where all of them are known (irqchip.c).
 */
#ifndef DEVICE_CHIP_LAPIC_H
#define DEVICE_CHIP_LAPIC_H

#include "device/device.h"

#define LAPIC_BASE 0xfee00000
#define LAPIC_SIZE 0x1000

/** Delivery modes (SDM volume 3, 10.6.1). */
enum apic_mode {
	APIC_FIXED,
	APIC_LOWEST,
	APIC_SMI,
	APIC_RESERVED,
	APIC_NMI,
	APIC_INIT,
	APIC_SIPI,
	APIC_EXTINT,
};

/** Which APICs a message is for. */
enum apic_shorthand { APIC_DEST, APIC_SELF, APIC_ALL, APIC_OTHERS };

/** An interrupt on its way. */
struct apic_msg {
	enum apic_mode mode;
	enum apic_shorthand shorthand;
	uint32_t dest; /* with APIC_DEST: an APIC id, or a logical set */
	uint8_t vector;
	bool is_logical, is_level;
};

/** What an APIC asks of the others; called without any APIC's lock. */
struct apic_bus {
	/* Deliver what the APIC of CPU (from) sends. */
	void (*send)(void *opaque, unsigned from, const struct apic_msg *msg);
	/* A level-triggered interrupt ended. */
	void (*eoi)(void *opaque, uint8_t vector);
	/* Acknowledge the 8259s: their vector. */
	uint8_t (*extint)(void *opaque);
	void *opaque;
};

/** How to make one. */
struct lapic_opts {
	unsigned cpu; /* index, for (apic_bus.send) */
	uint32_t apic_id;
	bool is_bsp;
	struct apic_bus bus;
};

extern const struct device_class lapic_class;

/** Make one in its power-on state. Its registers are not mapped: they are per
 * CPU, see lapic_read(). -errno with (err). */
int lapic_create(struct device **dev, const struct device_env *env,
		 const struct lapic_opts *opts, struct err *err);

/** Connect the CPU, before it runs. */
void lapic_connect(struct device *dev, struct cpu_port port);
/** The APIC as its CPU sees it. TSC_DEADLINE is in terms of vclock_tsc(): the
 * caller adds and removes the CPU's own TSC offset. */
struct intc lapic_intc(struct device *dev);

/** Registers, 4 bytes wide and 16 apart, for the CPU whose APIC this is. */
uint32_t lapic_read(struct device *dev, uint64_t offset);
void lapic_write(struct device *dev, uint64_t offset, uint32_t value);

/** Is (msg), with APIC_DEST, for this APIC? Any thread. */
bool lapic_matches(struct device *dev, const struct apic_msg *msg);
/** Take (msg) in. Any thread. */
void lapic_accept(struct device *dev, const struct apic_msg *msg);
/** The processor priority, for lowest-priority delivery. Any thread. */
uint8_t lapic_priority(struct device *dev);
/** Set LINT0 (the 8259s' output) or LINT1 (NMI). Any thread. */
void lapic_set_lint(struct device *dev, unsigned n, bool level);

#endif
