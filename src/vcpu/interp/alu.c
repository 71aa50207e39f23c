/*
 * Two-operand and one-operand arithmetic and logic, by exact form.
 *
 * Each handler runs the very instruction on the host and takes its flags with
 * LAHF and SETO, so that results and undefined flags are the host's. Handlers
 * that work on memory do it in place: a locked instruction stays locked.
 *
 * The names say operation, size (b, w, l, q) and form: rr register, register;
 * ri register, immediate; rm register, memory; mr memory, register; mi memory,
 * immediate; and _lock.
 */
#include "vcpu/interp/uop.h"

/* The carry flag, from the guest's RFLAGS, for those that use or keep it. */
#define CARRY_IN       "btl $0, %[fl]\n\t"
#define NO_CARRY       ""
#define LOCKED         "lock "
#define UNLOCKED       ""

#define REG(offset, T) UOP_FIELD(cpu, T, offset)

/* ---- ADD OR ADC SBB AND SUB XOR ------------------------------------------- */

/* clang-format off */
#define BINARY_MEM(name, op, S, T, PRE, LOCK, is_locked, operand)              \
	static void name(struct cpu *cpu, const struct uop *u)                 \
	{                                                                      \
		struct rmw m;                                                  \
		T *p = rmw_begin(cpu, u, &m, sizeof(T), is_locked);            \
		uint32_t ax;                                                   \
                                                                               \
		__asm__ volatile(PRE LOCK #op #S " %[b], %[a]" FLAGS_OUT       \
				 : [a] "+m"(*p), "=&a"(ax)                     \
				 : [b] "r"((T)(operand)),                      \
				   [fl] "r"((uint32_t)cpu->s.rflags)           \
				 : "cc", "memory");                            \
		flags_put(cpu, ax);                                            \
		rmw_end(cpu, &m, p);                                           \
	}
/* clang-format on */

#define BINARY(op, S, T, PRE)                                             \
	static inline __attribute__((always_inline))                      \
	T op##_##S(struct cpu *cpu, T a, T b)                             \
	{                                                                 \
		uint32_t ax;                                              \
                                                                          \
		__asm__(PRE #op #S " %[b], %[a]" FLAGS_OUT                \
			: [a] "+r"(a), "=&a"(ax)                          \
			: [b] "r"(b), [fl] "r"((uint32_t)cpu->s.rflags)   \
			: "cc");                                          \
		flags_put(cpu, ax);                                       \
		return a;                                                 \
	}                                                                 \
	static void op##_##S##_rr(struct cpu *cpu, const struct uop *u)   \
	{                                                                 \
		gpr_write(cpu, u->rm, sizeof(T),                          \
			  op##_##S(cpu, REG(u->rm, T), REG(u->reg, T)));  \
	}                                                                 \
	static void op##_##S##_ri(struct cpu *cpu, const struct uop *u)   \
	{                                                                 \
		gpr_write(cpu, u->rm, sizeof(T),                          \
			  op##_##S(cpu, REG(u->rm, T), (T)u->imm));       \
	}                                                                 \
	static void op##_##S##_rm(struct cpu *cpu, const struct uop *u)   \
	{                                                                 \
		T b = (T)uop_load(cpu, u, sizeof(T));                     \
                                                                          \
		gpr_write(cpu, u->reg, sizeof(T),                         \
			  op##_##S(cpu, REG(u->reg, T), b));              \
	}                                                                 \
	BINARY_MEM(op##_##S##_mr, op, S, T, PRE, UNLOCKED, false,         \
		   REG(u->reg, T))                                        \
	BINARY_MEM(op##_##S##_mi, op, S, T, PRE, UNLOCKED, false, u->imm) \
	BINARY_MEM(op##_##S##_mr_lock, op, S, T, PRE, LOCKED, true,       \
		   REG(u->reg, T))                                        \
	BINARY_MEM(op##_##S##_mi_lock, op, S, T, PRE, LOCKED, true, u->imm)

#define BINARY_SIZES(op, PRE)        \
	BINARY(op, b, uint8_t, PRE)  \
	BINARY(op, w, uint16_t, PRE) \
	BINARY(op, l, uint32_t, PRE) \
	BINARY(op, q, uint64_t, PRE)

BINARY_SIZES(add, NO_CARRY)
BINARY_SIZES(or, NO_CARRY)
BINARY_SIZES(adc, CARRY_IN)
BINARY_SIZES(sbb, CARRY_IN)
BINARY_SIZES(and, NO_CARRY)
BINARY_SIZES(sub, NO_CARRY)
BINARY_SIZES(xor, NO_CARRY)

/* ---- CMP TEST -------------------------------------------------------------- */

#define COMPARE(op, S, T)                                               \
	static inline __attribute__((always_inline)) void op##_##S(     \
		struct cpu *cpu, T a, T b)                              \
	{                                                               \
		uint32_t ax;                                            \
                                                                        \
		__asm__(#op #S " %[b], %[a]" FLAGS_OUT                  \
			: "=&a"(ax)                                     \
			: [a] "r"(a), [b] "r"(b)                        \
			: "cc");                                        \
		flags_put(cpu, ax);                                     \
	}                                                               \
	static void op##_##S##_rr(struct cpu *cpu, const struct uop *u) \
	{                                                               \
		op##_##S(cpu, REG(u->rm, T), REG(u->reg, T));           \
	}                                                               \
	static void op##_##S##_ri(struct cpu *cpu, const struct uop *u) \
	{                                                               \
		op##_##S(cpu, REG(u->rm, T), (T)u->imm);                \
	}                                                               \
	static void op##_##S##_rm(struct cpu *cpu, const struct uop *u) \
	{                                                               \
		T b = (T)uop_load(cpu, u, sizeof(T));                   \
                                                                        \
		op##_##S(cpu, REG(u->reg, T), b);                       \
	}                                                               \
	static void op##_##S##_mr(struct cpu *cpu, const struct uop *u) \
	{                                                               \
		T a = (T)uop_load(cpu, u, sizeof(T));                   \
                                                                        \
		op##_##S(cpu, a, REG(u->reg, T));                       \
	}                                                               \
	static void op##_##S##_mi(struct cpu *cpu, const struct uop *u) \
	{                                                               \
		T a = (T)uop_load(cpu, u, sizeof(T));                   \
                                                                        \
		op##_##S(cpu, a, (T)u->imm);                            \
	}

#define COMPARE_SIZES(op)        \
	COMPARE(op, b, uint8_t)  \
	COMPARE(op, w, uint16_t) \
	COMPARE(op, l, uint32_t) \
	COMPARE(op, q, uint64_t)

COMPARE_SIZES(cmp)
COMPARE_SIZES(test)

/* ---- INC DEC NEG NOT ------------------------------------------------------- */

#define UNARY_MEM(name, op, S, T, LOCK, is_locked)                      \
	static void name(struct cpu *cpu, const struct uop *u)          \
	{                                                               \
		struct rmw m;                                           \
		T *p = rmw_begin(cpu, u, &m, sizeof(T), is_locked);     \
		uint32_t ax = flags_get(cpu);                           \
                                                                        \
		__asm__ volatile(FLAGS_IN LOCK #op #S " %[a]" FLAGS_OUT \
				 : [a] "+m"(*p), "+a"(ax)               \
				 :                                      \
				 : "cc", "memory");                     \
		flags_put(cpu, ax);                                     \
		rmw_end(cpu, &m, p);                                    \
	}

#define UNARY(op, S, T)                                                \
	static void op##_##S##_r(struct cpu *cpu, const struct uop *u) \
	{                                                              \
		uint32_t ax = flags_get(cpu);                          \
		T a = REG(u->rm, T);                                   \
                                                                       \
		__asm__(FLAGS_IN #op #S " %[a]" FLAGS_OUT              \
			: [a] "+r"(a), "+a"(ax)                        \
			:                                              \
			: "cc");                                       \
		flags_put(cpu, ax);                                    \
		gpr_write(cpu, u->rm, sizeof(T), a);                   \
	}                                                              \
	UNARY_MEM(op##_##S##_m, op, S, T, UNLOCKED, false)             \
	UNARY_MEM(op##_##S##_m_lock, op, S, T, LOCKED, true)

#define UNARY_SIZES(op)        \
	UNARY(op, b, uint8_t)  \
	UNARY(op, w, uint16_t) \
	UNARY(op, l, uint32_t) \
	UNARY(op, q, uint64_t)

UNARY_SIZES(inc)
UNARY_SIZES(dec)
UNARY_SIZES(neg)
/* clang-format off */
UNARY_SIZES(not)
/* clang-format on */

/* ---- IMUL with two or three operands --------------------------------------- */

/* The flags that IMUL leaves undefined may be those before it. */
#define IMUL(S, T)                                                       \
	static inline __attribute__((always_inline)) void imul_##S(      \
		struct cpu *cpu, const struct uop *u, T a, T b)          \
	{                                                                \
		uint32_t ax = flags_get(cpu);                            \
                                                                         \
		__asm__(FLAGS_IN "imul" #S " %[b], %[a]" FLAGS_OUT       \
			: [a] "+r"(a), "+a"(ax)                          \
			: [b] "r"(b)                                     \
			: "cc");                                         \
		flags_put(cpu, ax);                                      \
		gpr_write(cpu, u->reg, sizeof(T), a);                    \
	}                                                                \
	static void imul_##S##_rr(struct cpu *cpu, const struct uop *u)  \
	{                                                                \
		imul_##S(cpu, u, REG(u->reg, T), REG(u->rm, T));         \
	}                                                                \
	static void imul_##S##_rm(struct cpu *cpu, const struct uop *u)  \
	{                                                                \
		T b = (T)uop_load(cpu, u, sizeof(T));                    \
                                                                         \
		imul_##S(cpu, u, REG(u->reg, T), b);                     \
	}                                                                \
	static void imul_##S##_rri(struct cpu *cpu, const struct uop *u) \
	{                                                                \
		imul_##S(cpu, u, REG(u->rm, T), (T)u->imm);              \
	}                                                                \
	static void imul_##S##_rmi(struct cpu *cpu, const struct uop *u) \
	{                                                                \
		T a = (T)uop_load(cpu, u, sizeof(T));                    \
                                                                         \
		imul_##S(cpu, u, a, (T)u->imm);                          \
	}

IMUL(w, uint16_t)
IMUL(l, uint32_t)
IMUL(q, uint64_t)

/* ---- The tables ------------------------------------------------------------- */

enum binary_form { RR, RI, RM, MR, MI, MR_LOCK, MI_LOCK, NR_BINARY_FORMS };

#define BINARY_ROW(op, S)                                                     \
	{                                                                     \
		op##_##S##_rr, op##_##S##_ri, op##_##S##_rm, op##_##S##_mr,   \
			op##_##S##_mi, op##_##S##_mr_lock, op##_##S##_mi_lock \
	}
#define COMPARE_ROW(op, S)                                                  \
	{                                                                   \
		op##_##S##_rr, op##_##S##_ri, op##_##S##_rm, op##_##S##_mr, \
			op##_##S##_mi                                       \
	}
#define UNARY_ROW(op, S)                                      \
	{                                                     \
		op##_##S##_r, op##_##S##_m, op##_##S##_m_lock \
	}
#define BY_SIZE(ROW, op)                                       \
	{                                                      \
		ROW(op, b), ROW(op, w), ROW(op, l), ROW(op, q) \
	}

/* From OP_ADD to OP_TEST, by size. */
static const uop_fn binary[][4][NR_BINARY_FORMS] = {
	BY_SIZE(BINARY_ROW, add),  BY_SIZE(BINARY_ROW, or),
	BY_SIZE(BINARY_ROW, adc),  BY_SIZE(BINARY_ROW, sbb),
	BY_SIZE(BINARY_ROW, and),  BY_SIZE(BINARY_ROW, sub),
	BY_SIZE(BINARY_ROW, xor),  BY_SIZE(COMPARE_ROW, cmp),
	BY_SIZE(COMPARE_ROW, test)
};

_Static_assert(OP_TEST - OP_ADD + 1 == ARRAY_SIZE(binary), "order of ops.h");

/* From OP_INC to OP_NOT, by size: register, memory, locked. */
static const uop_fn unary[][4][3] = { BY_SIZE(UNARY_ROW, inc),
				      BY_SIZE(UNARY_ROW, dec),
				      BY_SIZE(UNARY_ROW, neg),
				      BY_SIZE(UNARY_ROW, not ) };

_Static_assert(OP_NOT - OP_INC + 1 == ARRAY_SIZE(unary), "order of ops.h");

/* By size: register, memory, each without and with an immediate. */
static const uop_fn imul[4][4] = {
	[1] = { imul_w_rr, imul_w_rm, imul_w_rri, imul_w_rmi },
	[2] = { imul_l_rr, imul_l_rm, imul_l_rri, imul_l_rmi },
	[3] = { imul_q_rr, imul_q_rm, imul_q_rri, imul_q_rmi },
};

static uop_fn binary_form(const struct insn *insn, struct uop *u,
			  const uop_fn *forms)
{
	bool mem = insn->flags & INSN_MEM, lock = insn->flags & INSN_LOCK;

	switch (insn->form) {
	case FORM_RM_REG:
		if (mem)
			return forms[lock ? MR_LOCK : MR];
		return forms[RR];
	case FORM_REG_RM:
		if (mem)
			return forms[RM];
		/* One handler for both directions. */
		u->reg = gpr_offset(insn->rm, insn->high8 & 2);
		u->rm = gpr_offset(insn->reg, insn->high8 & 1);
		return forms[RR];
	case FORM_RM_IMM:
		if (mem)
			return forms[lock ? MI_LOCK : MI];
		return forms[RI];
	default:
		return NULL;
	}
}

bool alu_lower(const struct insn *insn, struct uop *u)
{
	unsigned size = size_index(insn->opsize);
	bool mem = insn->flags & INSN_MEM;

	switch (insn->op) {
	case OP_ADD ... OP_TEST:
		u->fn = binary_form(insn, u, binary[insn->op - OP_ADD][size]);
		break;
	case OP_INC ... OP_NOT:
		u->fn = unary[insn->op - OP_INC][size][!mem ? 0
						       : insn->flags & INSN_LOCK
							       ? 2
							       : 1];
		break;
	case OP_IMUL2:
		u->fn = imul[size][mem];
		break;
	case OP_IMUL3:
		u->fn = imul[size][2 + mem];
		break;
	default:
		return false;
	}
	return u->fn != NULL;
}
