/*
 * Moves, by exact form: MOV, MOVZX, MOVSX, LEA, XCHG of registers, CMOVcc,
 * SETcc, NOP, PUSH and POP of registers in 64-bit mode.
 */
#include <sched.h>

#include "vcpu/interp/uop.h"

#define PAUSES_TO_YIELD 256

#define REG(offset, T)  UOP_FIELD(cpu, T, offset)

#define MOVE(S, T)                                                      \
	static void mov_##S##_rr(struct cpu *cpu, const struct uop *u)  \
	{                                                               \
		gpr_write(cpu, u->rm, sizeof(T), REG(u->reg, T));       \
	}                                                               \
	static void mov_##S##_rm(struct cpu *cpu, const struct uop *u)  \
	{                                                               \
		gpr_write(cpu, u->reg, sizeof(T),                       \
			  uop_load(cpu, u, sizeof(T)));                 \
	}                                                               \
	static void mov_##S##_mr(struct cpu *cpu, const struct uop *u)  \
	{                                                               \
		uop_store(cpu, u, sizeof(T), REG(u->reg, T));           \
	}                                                               \
	static void mov_##S##_mi(struct cpu *cpu, const struct uop *u)  \
	{                                                               \
		uop_store(cpu, u, sizeof(T), (T)u->imm);                \
	}                                                               \
	static void mov_##S##_ri(struct cpu *cpu, const struct uop *u)  \
	{                                                               \
		gpr_write(cpu, u->rm, sizeof(T), (T)u->imm64);          \
	}                                                               \
	static void xchg_##S##_rr(struct cpu *cpu, const struct uop *u) \
	{                                                               \
		T a = REG(u->rm, T), b = REG(u->reg, T);                \
                                                                        \
		gpr_write(cpu, u->rm, sizeof(T), b);                    \
		gpr_write(cpu, u->reg, sizeof(T), a);                   \
	}

MOVE(b, uint8_t)
MOVE(w, uint16_t)
MOVE(l, uint32_t)
MOVE(q, uint64_t)

/* From type FROM, extended as (FROM) is signed or not, to (S, T). */
#define EXTEND(name, S, T, FROM)                                          \
	static void name##_##S##_rr(struct cpu *cpu, const struct uop *u) \
	{                                                                 \
		gpr_write(cpu, u->reg, sizeof(T),                         \
			  (T)(int64_t)REG(u->rm, FROM));                  \
	}                                                                 \
	static void name##_##S##_rm(struct cpu *cpu, const struct uop *u) \
	{                                                                 \
		FROM value = (FROM)uop_load(cpu, u, sizeof(FROM));        \
                                                                          \
		gpr_write(cpu, u->reg, sizeof(T), (T)(int64_t)value);     \
	}

EXTEND(movzb, w, uint16_t, uint8_t)
EXTEND(movzb, l, uint32_t, uint8_t)
EXTEND(movzb, q, uint64_t, uint8_t)
EXTEND(movzw, w, uint16_t, uint16_t)
EXTEND(movzw, l, uint32_t, uint16_t)
EXTEND(movzw, q, uint64_t, uint16_t)
EXTEND(movsb, w, uint16_t, int8_t)
EXTEND(movsb, l, uint32_t, int8_t)
EXTEND(movsb, q, uint64_t, int8_t)
EXTEND(movsw, w, uint16_t, int16_t)
EXTEND(movsw, l, uint32_t, int16_t)
EXTEND(movsw, q, uint64_t, int16_t)
EXTEND(movsl, w, uint16_t, int32_t)
EXTEND(movsl, l, uint32_t, int32_t)
EXTEND(movsl, q, uint64_t, int32_t)

static uint64_t lea_address(struct cpu *cpu, const struct uop *u)
{
	uint64_t ea = uop_effective(cpu, u);

	if (likely(u->ea == EA_FLAT))
		return ea;
	return u->ea == EA_SEG16 ? (uint16_t)ea : (uint32_t)ea;
}

static void lea_w(struct cpu *cpu, const struct uop *u)
{
	gpr_write(cpu, u->reg, 2, lea_address(cpu, u));
}

static void lea_l(struct cpu *cpu, const struct uop *u)
{
	gpr_write(cpu, u->reg, 4, lea_address(cpu, u));
}

static void lea_q(struct cpu *cpu, const struct uop *u)
{
	gpr_write(cpu, u->reg, 8, lea_address(cpu, u));
}

/* The source is read, and may fault, whether the condition holds or not; 32
 * bits clear the upper half of the destination either way. */
#define CMOV(S, T)                                                            \
	static void cmov_##S##_rr(struct cpu *cpu, const struct uop *u)       \
	{                                                                     \
		T value = cond_test(cpu->s.rflags, u->cond) ? REG(u->rm, T)   \
							    : REG(u->reg, T); \
                                                                              \
		gpr_write(cpu, u->reg, sizeof(T), value);                     \
	}                                                                     \
	static void cmov_##S##_rm(struct cpu *cpu, const struct uop *u)       \
	{                                                                     \
		T value = (T)uop_load(cpu, u, sizeof(T));                     \
                                                                              \
		if (!cond_test(cpu->s.rflags, u->cond))                       \
			value = REG(u->reg, T);                               \
		gpr_write(cpu, u->reg, sizeof(T), value);                     \
	}

CMOV(w, uint16_t)
CMOV(l, uint32_t)
CMOV(q, uint64_t)

static void setcc_r(struct cpu *cpu, const struct uop *u)
{
	REG(u->rm, uint8_t) = cond_test(cpu->s.rflags, u->cond);
}

static void setcc_m(struct cpu *cpu, const struct uop *u)
{
	uop_store(cpu, u, 1, cond_test(cpu->s.rflags, u->cond));
}

static void nop(struct cpu *cpu, const struct uop *u)
{
}

/* A loop that waits for another CPU, which may be waiting for ours. */
static void spin(struct cpu *cpu, const struct uop *u)
{
	if (cpu->vcpu->set->nr > 1 && ++cpu->nr_pauses % PAUSES_TO_YIELD == 0)
		sched_yield();
}

/* In 64-bit mode the stack is flat and RSP whole. */
static void push64(struct cpu *cpu, uint64_t value)
{
	uint64_t rsp = cpu->s.gpr[RSP] - 8;

	mem_store_fast(cpu, rsp, 8, MEM_SS, value);
	cpu->s.gpr[RSP] = rsp;
}

static void push_r(struct cpu *cpu, const struct uop *u)
{
	push64(cpu, REG(u->rm, uint64_t));
}

static void push_i(struct cpu *cpu, const struct uop *u)
{
	push64(cpu, (uint64_t)u->imm64);
}

static void push_m(struct cpu *cpu, const struct uop *u)
{
	push64(cpu, uop_load(cpu, u, 8));
}

static void pop_r(struct cpu *cpu, const struct uop *u)
{
	uint64_t value = mem_load_fast(cpu, cpu->s.gpr[RSP], 8, MEM_SS);

	cpu->s.gpr[RSP] += 8;
	REG(u->rm, uint64_t) = value;
}

static void leave64(struct cpu *cpu, const struct uop *u)
{
	uint64_t rbp = cpu->s.gpr[RBP];
	uint64_t value = mem_load_fast(cpu, rbp, 8, MEM_SS);

	cpu->s.gpr[RSP] = rbp + 8;
	cpu->s.gpr[RBP] = value;
}

/* ---- The tables ------------------------------------------------------------- */

/* By size: rr, rm, mr, mi, ri, xchg. */
enum move_form { MOV_RR, MOV_RM, MOV_MR, MOV_MI, MOV_RI, XCHG_RR };

#define MOVE_ROW(S)                                                     \
	{                                                               \
		mov_##S##_rr, mov_##S##_rm, mov_##S##_mr, mov_##S##_mi, \
			mov_##S##_ri, xchg_##S##_rr                     \
	}

static const uop_fn moves[4][6] = { MOVE_ROW(b), MOVE_ROW(w), MOVE_ROW(l),
				    MOVE_ROW(q) };

#define EXTEND_ROW(name)                                \
	{                                               \
		{ NULL }, { name##_w_rr, name##_w_rm }, \
			{ name##_l_rr, name##_l_rm },   \
			{ name##_q_rr, name##_q_rm },   \
	}

/* By source size, size, register or memory. */
static const uop_fn zero_extends[3][4][2] = { EXTEND_ROW(movzb),
					      EXTEND_ROW(movzw),
					      /* There is no such MOVZX. */
					      { { NULL } } };
static const uop_fn sign_extends[3][4][2] = { EXTEND_ROW(movsb),
					      EXTEND_ROW(movsw),
					      EXTEND_ROW(movsl) };

static const uop_fn leas[4] = { NULL, lea_w, lea_l, lea_q };
static const uop_fn cmovs[4][2] = { { NULL },
				    { cmov_w_rr, cmov_w_rm },
				    { cmov_l_rr, cmov_l_rm },
				    { cmov_q_rr, cmov_q_rm } };

static uop_fn mov_form(const struct insn *insn, struct uop *u,
		       const uop_fn *forms)
{
	bool mem = insn->flags & INSN_MEM;

	switch (insn->form) {
	case FORM_RM_REG:
		return forms[mem ? MOV_MR : MOV_RR];
	case FORM_REG_RM:
		if (mem)
			return forms[MOV_RM];
		u->reg = gpr_offset(insn->rm, insn->high8 & 2);
		u->rm = gpr_offset(insn->reg, insn->high8 & 1);
		return forms[MOV_RR];
	case FORM_RM_IMM:
		if (mem)
			return forms[MOV_MI];
		u->imm64 = insn->imm;
		return forms[MOV_RI];
	default:
		return NULL;
	}
}

static uop_fn stack_form(const struct insn *insn, struct uop *u)
{
	bool mem = insn->flags & INSN_MEM;

	if (insn->mode != MODE_64 || insn->opsize != 8)
		return NULL;
	switch (insn->op) {
	case OP_PUSH:
		if (insn->form == FORM_IMM) {
			u->imm64 = insn->imm;
			return push_i;
		}
		return mem ? push_m : push_r;
	case OP_POP:
		return mem ? NULL : pop_r;
	default:
		return leave64;
	}
}

bool move_lower(const struct insn *insn, struct uop *u)
{
	unsigned size = size_index(insn->opsize);
	unsigned from = (unsigned)__builtin_ctz(insn->mem_size | 16);
	bool mem = insn->flags & INSN_MEM;

	switch (insn->op) {
	case OP_MOV:
		u->fn = mov_form(insn, u, moves[size]);
		break;
	case OP_XCHG:
		u->fn = mem ? NULL : moves[size][XCHG_RR];
		break;
	case OP_MOVZX:
		u->fn = from < 3 ? zero_extends[from][size][mem] : NULL;
		break;
	case OP_MOVSX:
		u->fn = from < 3 ? sign_extends[from][size][mem] : NULL;
		break;
	case OP_LEA:
		u->fn = leas[size];
		break;
	case OP_CMOVCC:
		u->fn = cmovs[size][mem];
		break;
	case OP_SETCC:
		u->fn = mem ? setcc_m : setcc_r;
		break;
	case OP_NOP:
		u->fn = nop;
		break;
	case OP_PAUSE:
		u->fn = spin;
		break;
	case OP_PUSH:
	case OP_POP:
	case OP_LEAVE:
		u->fn = stack_form(insn, u);
		break;
	default:
		return false;
	}
	return u->fn != NULL;
}
