/*
 * What seg.c, far.c, event.c and task.c share: selectors, limits, and stacks
 * that are built before anything is committed.
 */
#ifndef VCPU_INTERP_DESC_H
#define VCPU_INTERP_DESC_H

#include "vcpu/interp/cpu.h"

#define SEL_RPL(sel)  ((sel)&3)
#define SEL_CODE(sel) ((sel)&0xfffcU) /* as an exception's error code */
#define SEL_TI        4
#define SEL_NULL(sel) (!SEL_CODE(sel))

/* Flat code and data segments as SYSCALL and the like load them; DPL, L and
 * DB are added. */
#define ATTR_FLAT_CODE  (ATTR_P | ATTR_S | 0xb | ATTR_G)
#define ATTR_FLAT_DATA  (ATTR_P | ATTR_S | 0x3 | ATTR_G | ATTR_DB)
#define ATTR_SET_DPL(n) ((n) << 5)

/** Count that (insn), a sensitive one, was emulated. */
static inline void count_trap(struct cpu *cpu, const struct insn *insn)
{
	cpu->trap_counts[insn->op]++;
}

/** Protected mode, and not virtual-8086? */
static inline bool cpu_is_protected(const struct cpu *cpu)
{
	return (cpu->s.cr0 & CR0_PE) && !(cpu->s.rflags & FLAG_VM);
}

/** Replace the bits (mask) of RFLAGS. */
static inline void flags_set(struct cpu *cpu, uint64_t value, uint64_t mask)
{
	cpu->s.rflags = (cpu->s.rflags & ~mask) | (value & mask) | FLAG_ONE;
}

static inline unsigned cpu_iopl(const struct cpu *cpu)
{
	return cpu->s.rflags >> 12 & 3;
}

/** Is (d) an ordinary (code or data) segment, and of that kind? */
static inline bool desc_is_code(uint16_t attr)
{
	return (attr & ATTR_S) && (attr & ATTR_CODE);
}

static inline bool desc_is_stack(uint16_t attr)
{
	return (attr & ATTR_S) && !(attr & ATTR_CODE) && (attr & ATTR_RW);
}

static inline bool desc_is_system(uint16_t attr, enum sysdesc type)
{
	return !(attr & ATTR_S) && (attr & ATTR_TYPE) == type;
}

/** The high half of a 16-byte descriptor (LDT, TSS, call gate in long mode),
 * checked: false if it is beyond the limit or its type field is not zero. */
bool desc_read_high(struct cpu *cpu, uint16_t sel, struct descriptor *d);

/** Unpack the LDT or TSS descriptor (d) of (sel). */
void desc_to_sys(const struct cpu *cpu, const struct descriptor *d,
		 uint16_t sel, struct x86_seg *seg);

/** Are [off, off + size) inside (seg)'s limit? Attributes apart from the
 * direction are not looked at. */
bool seg_holds(const struct x86_seg *seg, uint64_t off, unsigned size);

/** Make (seg) a null segment with selector (sel). */
void seg_set_null(struct x86_seg *seg, uint16_t sel);

/** After a return to an outer level: forget data segments that the new level
 * may not use (SDM volume 2, RET). */
void seg_drop_privileged(struct cpu *cpu);

/** #GP(0) unless (rip) is inside (cs), or canonical in 64-bit code. */
void seg_check_ip(struct cpu *cpu, const struct x86_seg *cs, uint64_t rip,
		  uint32_t error);

/**
 * A stack that is being pushed to or popped from, the current or a new one.
 * RSP changes in frame_commit() only.
 */
struct frame {
	struct cpu *cpu;
	const struct x86_seg *ss; /* NULL: flat, 64 bits */
	uint64_t sp, mask;
	bool is_sys;    /* accessed with supervisor privilege */
	uint32_t error; /* of #SS */
};

/** The current stack. */
struct frame frame_current(struct cpu *cpu);
/** A stack in (ss), NULL for 64-bit mode, used at level (cpl). */
struct frame frame_new(struct cpu *cpu, const struct x86_seg *ss, uint64_t sp,
		       unsigned cpl, uint32_t error);
void frame_push(struct frame *f, unsigned size, uint64_t value);
uint64_t frame_pop(struct frame *f, unsigned size);
/** Move SP by (bytes) without an access. */
void frame_skip(struct frame *f, uint64_t bytes);
/** Make it the current RSP. */
void frame_commit(struct frame *f);

/** The stack for level (cpl) as the current TSS has it; (error_ext) is the EXT
 * bit of error codes. (ss) is filled; #TS and #SS are raised. */
struct frame frame_inner(struct cpu *cpu, unsigned cpl, unsigned ist,
			 struct x86_seg *ss, uint32_t error_ext);

/** Load SS with (sel) as the stack of level (cpl): raises (vector) #GP or #TS,
 * #SS if it is not present, with (ext) added to the codes. */
void seg_read_stack(struct cpu *cpu, uint16_t sel, unsigned cpl, uint8_t vector,
		    uint32_t ext, struct x86_seg *ss);

/** Handlers of JMP, CALL and RET, in far.c. */
void far_direct(struct cpu *cpu, const struct insn *insn);
void far_indirect(struct cpu *cpu, const struct insn *insn);
void far_return(struct cpu *cpu, const struct insn *insn);

/* What RET and IRET share, in far.c. */

/** Check the code segment (sel) that is returned to and unpack it: #GP, #NP. */
void far_return_code(struct cpu *cpu, uint16_t sel, struct x86_seg *cs);
/** The stack segment that goes with it, at an outer level or for IRET in 64-bit
 * mode: #GP, #SS. */
void far_return_stack(struct cpu *cpu, uint16_t sel, const struct x86_seg *cs,
		      struct x86_seg *ss);
/** Commit CS, SS, RIP and RSP. */
void far_set_outer(struct cpu *cpu, const struct x86_seg *cs,
		   const struct x86_seg *ss, uint64_t rip, uint64_t rsp);

#endif
