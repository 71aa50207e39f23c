/*
 * A small machine for the reference processor: one CPU, RAM, a descriptor
 * table with a segment of every kind, and for each vector a handler that is
 * one HLT, so that a test sees where an event ended and what it pushed.
 */
#ifndef TESTS_BOX_H
#define TESTS_BOX_H

#include "vcpu/interp/desc.h"

/* Guest code between (name) and (name)_end, assembled for (bits). */
#define GUEST(name, bits, text)                                               \
	asm(".pushsection .rodata\n.globl " #name "\n" #name ":\n.code" #bits \
	    "\n" text "\n.globl " #name "_end\n" #name                        \
	    "_end:\n.code64\n.popsection");                                   \
	extern const uint8_t name[], name##_end[]
#define BOX_LOAD(b, gpa, name) \
	box_write(b, gpa, name, (unsigned)(name##_end - name))

/* Memory */
enum {
	BOX_GDT = 0x1000,
	BOX_IDT = 0x2000,
	BOX_TSS = 0x3000,
	BOX_LDT = 0x3800,
	BOX_PML4 = 0x4000,
	BOX_PDPT = 0x5000,
	BOX_PD = 0x6000,
	BOX_PT = 0x7000,
	BOX_HANDLERS = 0x8000, /* 16 bytes each */
	BOX_CODE = 0x10000,
	BOX_USER = 0x12000,
	BOX_DATA = 0x14000,
	BOX_STACK0 = 0x30000,
	BOX_STACK1 = 0x32000,
	BOX_STACK2 = 0x34000,
	BOX_STACK3 = 0x36000,
	BOX_IST = 0x38000,
	BOX_TSS2 = 0x3a000,
	BOX_TSS16 = 0x3b000,
	BOX_RAM = 0x800000,
};

/* Selectors; those for CPL 3 have their RPL. */
enum {
	CODE0 = 0x08,
	DATA0 = 0x10,
	CODE3 = 0x18 | 3,
	DATA3 = 0x20 | 3,
	CODE3_64 = 0x28 | 3,
	CODE0_64 = 0x38,
	CODE1 = 0x48 | 1,
	DATA1 = 0x50 | 1,
	CODE2 = 0x58 | 2,
	DATA2 = 0x60 | 2,
	CONFORMING = 0x68,
	DATA_NP = 0x70,
	CODE_NP = 0x78,
	TSS = 0x80,
	LDT = 0x90,
	GATE = 0xa0,
	SEL_TSS2 = 0xb0,
	TASK_GATE_SEL = 0xb8,
	SEL_TSS16 = 0xc0,
	DATA_RO = 0xc8,
	CODE_XO = 0xd0,
	DATA_DOWN = 0xd8,
	DATA16_3 = 0xe0 | 3,
	BOX_GDT_LIMIT = 0xff,
};

struct box {
	struct vcpus vs;
	struct vcpu vcpu;
	struct gmem mem;
	struct cpu *cpu;
	struct x86_state st; /* what to run; what came out */
	struct exit exit;
	uint8_t *ram;

	/* The interrupt controller: (irq) is pending if not negative. */
	int irq;
	unsigned eois, ipis, acks;
	uint32_t ipi_dest[8], ipi_icr;
	uint8_t tpr;
	uint64_t apic_base, deadline;

	/* Ports 0x100 to 0x107: what was written, and a counter to read. */
	uint8_t port_out[4096];
	unsigned nr_out, port_next;
};

/** Make a machine; (pv) with KVM's interface. */
struct box *box_create(bool pv);
void box_destroy(struct box *b);

/** Start from (mode) at BOX_CODE, CPL 0. */
void box_real(struct box *b);
void box_protected(struct box *b);
void box_long(struct box *b);
/** At CPL (cpl), at BOX_USER with the stack of that level. (is_64): 64-bit
 * code, otherwise 32. */
void box_level(struct box *b, unsigned cpl, bool is_64);
/** Virtual-8086 mode at 0x1200:0, stack 0x3600:0x100. */
void box_v86(struct box *b);

void box_write(struct box *b, uint64_t gpa, const void *p, unsigned len);
uint64_t box_peek(struct box *b, uint64_t gpa, unsigned size);
void box_poke(struct box *b, uint64_t gpa, unsigned size, uint64_t value);

/** A descriptor as the CPU has it; the type and DPL of a gate are in (access),
 * the low byte of (attr) above 8 bits' worth. */
void box_segment(struct box *b, uint16_t sel, uint32_t base, uint32_t limit,
		 uint8_t access, uint8_t flags);
void box_call_gate(struct box *b, uint16_t sel, uint16_t cs, uint32_t offset,
		   uint8_t access, unsigned params);
void box_gate(struct box *b, unsigned vector, uint16_t cs, uint64_t offset,
	      uint8_t access, unsigned ist);

/**
 * Run until HLT. The vector whose handler it was, -1 for a HLT elsewhere, -2
 * for a triple fault, -3 for anything else.
 */
int box_run(struct box *b);

/** The (n)th item of (size) bytes on the stack where it stopped. */
uint64_t box_stack(struct box *b, unsigned n, unsigned size);

#endif
