/*
 * Host instructions as bytes.
 *
 * The generic ones here are those that translation itself needs: none changes
 * the status flags. emit_insn() writes a guest instruction down again with
 * other registers and another memory operand.
 */
#ifndef VCPU_BT_EMIT_H
#define VCPU_BT_EMIT_H

#include "vcpu/insn/decode.h"

/* Host registers with a part of their own. */
enum { H_RAX, H_RCX, H_RDX, H_RBX, H_RSP, H_RBP, H_RSI, H_RDI, H_R8 };
#define H_GUEST_RCX 9
#define H_GUEST_RSP 10
#define H_TABLE     11

/** Where bytes go: (p) writes, through another mapping than they run from. */
struct emit {
	uint8_t *p, *end;
	uint64_t shift; /* address that runs - address that is written */
};

/** Where the next byte will run. */
static inline uint32_t emit_here(const struct emit *e)
{
	return (uint32_t)((uint64_t)e->p + e->shift);
}

/** One byte; what does not fit is left out, and (p) stays at (end). */
void emit_u8(struct emit *e, uint8_t v);
/** Four bytes, the lowest first. */
void emit_u32(struct emit *e, uint32_t v);
/** Eight bytes, the lowest first. */
void emit_u64(struct emit *e, uint64_t v);

/** A memory operand [base + index * (1 << scale) + disp]; INSN_NONE for none. */
struct hmem {
	uint8_t base, index, scale;
	bool is_gs;
	int32_t disp;
};

/** [rsp + disp]: a field of struct bt. */
static inline struct hmem hmem_state(int disp)
{
	return (struct hmem){ .base = H_RSP, .index = INSN_NONE, .disp = disp };
}

/** [base + disp] */
static inline struct hmem hmem_base(unsigned base, int32_t disp)
{
	return (struct hmem){ .base = (uint8_t)base,
			      .index = INSN_NONE,
			      .disp = disp };
}

/** [base + index * (1 << scale) + disp] */
static inline struct hmem hmem_index(unsigned base, unsigned index,
				     unsigned scale, int32_t disp)
{
	return (struct hmem){ .base = (uint8_t)base,
			      .index = (uint8_t)index,
			      .scale = (uint8_t)scale,
			      .disp = disp };
}

/** mov reg, [m]: 64 bits */
void emit_load(struct emit *e, unsigned reg, struct hmem m);
/** mov reg, [m]: 32 bits, zero-extended */
void emit_load32(struct emit *e, unsigned reg, struct hmem m);
/** mov [m], reg: 64 bits */
void emit_store(struct emit *e, struct hmem m, unsigned reg);
/** mov qword [m], sign-extended (imm) */
void emit_store_imm(struct emit *e, struct hmem m, int32_t imm);
/** lea reg, m */
void emit_lea(struct emit *e, unsigned reg, struct hmem m);
/** lea with a 32-bit result */
void emit_lea32(struct emit *e, unsigned reg, struct hmem m);
/** mov to, from: 64 bits */
void emit_mov(struct emit *e, unsigned to, unsigned from);
/** not reg */
void emit_not(struct emit *e, unsigned reg);
/** mov to, from: 32 bits, zero-extended */
void emit_mov32(struct emit *e, unsigned to, unsigned from);
/** mov reg, value: as short as it can be without changing flags */
void emit_imm(struct emit *e, unsigned reg, uint64_t value);
/** reg = the bits of src that [m] selects, next to each other */
void emit_pext(struct emit *e, unsigned reg, unsigned src, struct hmem m);
/** reg = the low bits of src, where [m] has bits */
void emit_pdep(struct emit *e, unsigned reg, unsigned src, struct hmem m);
/** reg = src rotated right by n, 64 bits */
void emit_rorx(struct emit *e, unsigned reg, unsigned src, unsigned n);
/** reg = src >> count, signed, 64 (wide) or 32 bits */
void emit_sarx(struct emit *e, bool wide, unsigned reg, unsigned src,
	       unsigned count);
/** movsxd reg, src */
void emit_movsxd(struct emit *e, unsigned reg, unsigned src);
/** movzx reg, low byte of src */
void emit_zero_extend8(struct emit *e, unsigned reg, unsigned src);
/** jmp reg */
void emit_jmp_reg(struct emit *e, unsigned reg);
/** jmp to a host address; returns where the rel32 is (as it runs) */
uint32_t emit_jmp(struct emit *e, uint32_t to);
/** The same for Jcc, with its (cond) */
uint32_t emit_jcc(struct emit *e, unsigned cond, uint32_t to);
/** The same for CALL */
uint32_t emit_call(struct emit *e, uint32_t to);

/** How a guest instruction's operands are on the host. */
struct host_insn {
	uint8_t reg, rm, vvvv; /* numbers where these are general registers */
	bool has_mem;
	struct hmem mem;
	bool make_aligned; /* MOVUPS and the like: as MOVAPS */
};

/** Is (i) an unaligned vector move that has an aligned twin? */
bool emit_has_aligned(const struct insn *i);
/** Guest instruction (i) with the operands of (h). */
void emit_insn(struct emit *e, const struct insn *i, const struct host_insn *h);

#endif
