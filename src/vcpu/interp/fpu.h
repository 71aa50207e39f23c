/* What fpu.c and vector.c share: where state components are in s.xsave, and
 * memory that stands in for operands without one host address. */
#ifndef VCPU_INTERP_FPU_H
#define VCPU_INTERP_FPU_H

#include "vcpu/interp/uop.h"

/* The legacy region and header of an XSAVE area (SDM volume 1, 13.4). */
/* clang-format off */
#define XSAVE_FCW       0
#define XSAVE_FSW       2
#define XSAVE_FTW       4	/* abridged: a bit for each register in use */
#define XSAVE_FIP       8	/* with FDP, 16 bytes */
#define XSAVE_MXCSR     24
#define XSAVE_MXCSR_MASK 28
#define XSAVE_ST        32	/* 8 registers, 16 bytes each */
#define XSAVE_XMM       160
#define XSAVE_LEGACY    512	/* the header is behind it */
#define XSAVE_BV        512
#define XSAVE_COMP_BV   520
#define XSAVE_EXTENDED  576
#define XCOMP_COMPACT   BIT(63)
/* clang-format on */

/** Components of an XSAVE area, by their bit in XCR0. */
enum xcomp {
	XCOMP_X87,
	XCOMP_SSE,
	XCOMP_AVX,
	XCOMP_OPMASK = 5,
	XCOMP_ZMM_HI,
	XCOMP_ZMM_16,
	NR_XCOMPS
};

#define MXCSR_INIT 0x1f80

static inline uint32_t *xsave_u32(struct cpu *cpu, unsigned offset)
{
	return (uint32_t *)(void *)&cpu->s.xsave[offset];
}

static inline uint64_t *xsave_u64(struct cpu *cpu, unsigned offset)
{
	return (uint64_t *)(void *)&cpu->s.xsave[offset];
}

/** With the guest's state live: is an unmasked x87 exception pending? */
bool fpu_is_pending(void);

/** Learn the host's layout and make the stand-in memory. 0 or -errno. */
int fpu_create(struct cpu *cpu);
void fpu_destroy(struct cpu *cpu);

/** The stub for (slow), from the cache in it. Raises #UD if there is none. */
const struct native_stub *native_stub_of(struct cpu *cpu,
					 struct slow_insn *slow);
/** Raise what (result) means; returns if that is nothing. */
void native_finish(struct cpu *cpu, enum native_result result);

/** Run (slow), which has a memory operand; its FPU state is live. (is_masked):
 * it faults only for elements of the operand that a mask selects. */
void native_memory(struct cpu *cpu, struct slow_insn *slow, bool is_masked);

/** MEM_UNALIGNED for the conversions from and to half precision, which do not
 * care for the alignment of 64 bits, else 0. */
unsigned unaligned_flag(const struct insn *insn);

/** VZEROALL and VZEROUPPER for 32-bit code. */
void vector_zero(struct cpu *cpu, const struct insn *insn);

/** Run an instruction that may not touch all of its operand at (gva), or none,
 * and faults only for what it touches. False: all of it may be accessed, so
 * there is nothing special to it. */
bool native_masked(struct cpu *cpu, struct slow_insn *slow, uint64_t gva);
/** Store the bytes of [copy, copy + len) that differ from (old). */
void store_changes(struct cpu *cpu, uint64_t gva, const uint8_t *copy,
		   const uint8_t *old, unsigned len);

/* The stand-in: two pages that may be accessed between pages that may not. */
#define BOUNCE_GUARD (2 * PAGE_SIZE)
#define BOUNCE_SIZE  (2 * BOUNCE_GUARD + 2 * PAGE_SIZE)

#endif
