/*
 * Encoding of guest instructions for the host, and of the stubs around them.
 */
#include "vcpu/insn/native_encode.h"

#include <string.h>

#include "base/base.h"

/* ---- Which instructions, which registers --------------------------------- */

/* The allow-list. Of integer instructions, those that touch nothing but the
 * operands that the decoder found. */
bool insn_is_native(const struct insn *i)
{
	switch (i->op) {
	case OP_NATIVE:
		return true;
	case OP_BT:
	case OP_BTS:
	case OP_BTR:
	case OP_BTC: /* a bit number in a register goes beyond the operand */
		return i->form == FORM_RM_IMM || !(i->flags & INSN_MEM);
	case OP_ADD:
	case OP_OR:
	case OP_ADC:
	case OP_SBB:
	case OP_AND:
	case OP_SUB:
	case OP_XOR:
	case OP_CMP:
	case OP_TEST:
	case OP_INC:
	case OP_DEC:
	case OP_NEG:
	case OP_NOT:
	case OP_ROL:
	case OP_ROR:
	case OP_RCL:
	case OP_RCR:
	case OP_SHL:
	case OP_SHR:
	case OP_SAR:
	case OP_SHLD:
	case OP_SHRD:
	case OP_MUL:
	case OP_IMUL1:
	case OP_IMUL2:
	case OP_IMUL3:
	case OP_DIV:
	case OP_IDIV:
	case OP_BSF:
	case OP_BSR:
	case OP_MOV:
	case OP_MOVZX:
	case OP_MOVSX:
	case OP_XCHG:
	case OP_XADD:
	case OP_CMPXCHG:
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B:
	case OP_SETCC:
	case OP_CMOVCC:
		return i->modrm_off != 0;
	case OP_MASKMOV: /* VMASKMOV, VPMASKMOV; the others imply RDI */
		return i->map == 2;
	default:
		return false;
	}
}

/* ModRM.reg, ModRM.rm, vvvv: is it a general register? */
bool insn_reg_is_gpr(const struct insn *i)
{
	switch (i->form) {
	case FORM_RM_REG:
	case FORM_REG_RM:
	case FORM_REG_RM_IMM:
	case FORM_RM_REG_IMM:
	case FORM_RM_REG_CL:
	case FORM_REG_V_RM:
	case FORM_REG_RM_V:
	case FORM_REG_VEC:
		return true;
	default:
		return false;
	}
}

bool insn_rm_is_gpr(const struct insn *i)
{
	return !(i->flags & INSN_MEM) && i->form != FORM_NONE &&
	       i->form != FORM_VEC && i->form != FORM_REG_VEC;
}

bool insn_v_is_gpr(const struct insn *i)
{
	return i->form == FORM_REG_V_RM || i->form == FORM_REG_RM_V ||
	       i->form == FORM_V_RM;
}

static bool is_pcmpstr(const struct insn *i)
{
	return i->map == 3 && i->opcode >= 0x60 && i->opcode <= 0x63;
}

uint32_t insn_implied_gprs(const struct insn *i)
{
	switch (i->op) {
	case OP_MUL:
	case OP_IMUL1:
	case OP_DIV:
	case OP_IDIV:
		return 1 << RAX | 1 << RDX;
	case OP_CMPXCHG:
		return 1 << RAX;
	case OP_CMPXCHG8B:
	case OP_CMPXCHG16B:
		return 1 << RAX | 1 << RBX | 1 << RCX | 1 << RDX;
	case OP_NATIVE:
		if (is_pcmpstr(i))
			return 1 << RAX | 1 << RCX | 1 << RDX;
		if (i->form == FORM_REG_V_RM && i->opcode == 0xf6)
			return 1 << RDX; /* MULX */
		return 0;
	default:
		return i->form == FORM_RM_CL || i->form == FORM_RM_REG_CL
			       ? 1 << RCX
			       : 0;
	}
}

static uint32_t gpr_bit(unsigned reg, bool high8)
{
	return 1U << (high8 ? reg & 3 : reg);
}

static uint32_t gprs_of(const struct insn *i)
{
	uint32_t gprs = insn_implied_gprs(i);

	if (insn_reg_is_gpr(i))
		gprs |= gpr_bit(i->reg, i->high8 & 1);
	if (insn_rm_is_gpr(i))
		gprs |= gpr_bit(i->rm, i->high8 & 2);
	if (insn_v_is_gpr(i))
		gprs |= 1U << i->vvvv;
	return gprs;
}

/* Does it read or write status flags? */
bool insn_uses_flags(const struct insn *i)
{
	if (i->flags & INSN_X87) /* FCMOVcc, FCOMI and the like */
		return i->map == 0 && i->modrm >= 0xc0 &&
		       (i->opcode == 0xda || i->opcode == 0xdb ||
			i->opcode == 0xdf);
	if (!(i->flags & INSN_VECTOR))
		return i->form != FORM_NONE;
	switch (i->map) {
	case 1: /* COMIS, UCOMIS; KORTEST, KTEST */
		return i->opcode == 0x2e || i->opcode == 0x2f ||
		       i->opcode == 0x98 || i->opcode == 0x99;
	case 2: /* VTESTPS, VTESTPD, PTEST */
		return i->opcode == 0x0e || i->opcode == 0x0f ||
		       i->opcode == 0x17;
	case 3:
		return is_pcmpstr(i);
	case 5:
		return i->opcode == 0x2e || i->opcode == 0x2f;
	default:
		return false;
	}
}

/* The first register of (list) that is not in (used); there is one. */
static uint8_t pick(const uint8_t *list, uint32_t used)
{
	while (used >> *list & 1)
		list++;
	return *list;
}

/* ---- The instruction ----------------------------------------------------- */

/** Encoding in progress: the fields as they will be. */
struct enc {
	struct native_code *code;
	const struct insn *i;
	uint8_t reg, rm, vvvv; /* numbers, RSP replaced */
	bool mem, w;
};

static void put(struct enc *e, uint8_t byte)
{
	e->code->bytes[e->code->len++] = byte;
}

static uint8_t replace_rsp(const struct enc *e, uint8_t reg, bool is_gpr,
			   bool high8)
{
	return is_gpr && reg == RSP && !high8 ? e->code->rsp : reg;
}

static void put_legacy(struct enc *e)
{
	const struct insn *i = e->i;
	uint8_t rex = i->rex;

	if (i->prefixes64 & PREFIX_66)
		put(e, 0x66);
	if (i->prefixes64 & PREFIX_LOCK)
		put(e, 0xf0);
	if (i->prefixes64 & PREFIX_F2)
		put(e, 0xf2);
	if (i->prefixes64 & PREFIX_F3)
		put(e, 0xf3);
	if (rex && e->mem)
		rex &= ~3; /* no X, B: the address is in a low register */
	if (rex)
		put(e, rex);
	if (i->map)
		put(e, 0x0f);
	if (i->map > 1)
		put(e, i->map == 2 ? 0x38 : 0x3a);
}

/* VEX, always in its three-byte form; register extensions are inverted. */
static void put_vex(struct enc *e)
{
	const struct insn *i = e->i;
	uint8_t last = i->bytes[i->op_off - 1]; /* has L, pp in both forms */

	put(e, 0xc4);
	put(e, (e->reg & 8 ? 0 : 0x80) | 0x40 |
		       (!e->mem && (e->rm & 8) ? 0 : 0x20) | i->map);
	put(e, e->w << 7 | (~e->vvvv & 15) << 3 | (last & 7));
}

static void put_evex(struct enc *e)
{
	const struct insn *i = e->i;
	const uint8_t *p = i->bytes + i->op_off - 3;
	uint8_t p0 = p[0];

	if (e->mem)
		p0 |= 0x60;
	if (i->mode != MODE_64)
		p0 |= 0xf0;
	put(e, 0x62);
	put(e, p0);
	put(e, e->w << 7 | (~e->vvvv & 15) << 3 | (p[1] & 7));
	put(e, p[2]);
}

static void put_insn(struct enc *e)
{
	const struct insn *i = e->i;

	if (i->flags & INSN_EVEX)
		put_evex(e);
	else if (i->flags & INSN_VEX)
		put_vex(e);
	else
		put_legacy(e);
	/* 82, an alias of 80, is gone in 64-bit mode */
	put(e, i->map == 0 && i->opcode == 0x82 ? 0x80 : i->opcode);
	if (i->modrm_off) {
		uint8_t reg =
			insn_reg_is_gpr(i) ? e->reg & 7 : i->modrm >> 3 & 7;

		put(e, (e->mem ? e->code->mem : 0xc0 | (e->rm & 7)) | reg << 3);
	}
	for (unsigned n = i->imm_off; n < i->len; n++)
		put(e, i->bytes[n]);
	/* Of a register in the immediate, bit 3 counts in 64-bit mode only. */
	if ((i->flags & INSN_VEX) && i->map == 3 && i->mode != MODE_64 &&
	    i->opcode >= 0x4a && i->opcode <= 0x4c)
		e->code->bytes[e->code->len - 1] &= 0x7f;
}

bool native_encode(struct native_code *code, const struct insn *i)
{
	/* None of these needs REX, SIB or a displacement. RDI holds the state
	 * until the last register is loaded, so it cannot take over the address
	 * from RSI. No instruction has more than four general registers, none
	 * with RSP more than three: one of each list is free. */
	static const uint8_t for_mem[] = { RSI, RAX, RCX, RDX, RBX };
	static const uint8_t for_rsp[] = { RDI, RBP, RBX, RDX };
	struct enc e = { .code = code, .i = i };
	uint32_t gprs;

	if (!insn_is_native(i))
		return false;
	memset(code, 0, sizeof(*code));
	code->mem = code->rsp = INSN_NONE;
	gprs = code->gprs = gprs_of(i);
	code->flags = insn_uses_flags(i);
	e.mem = i->flags & INSN_MEM;
	if (e.mem) {
		code->mem = pick(for_mem, gprs);
		gprs |= 1U << code->mem;
	}
	if (gprs & 1 << RSP)
		code->rsp = pick(for_rsp, gprs);
	e.reg = replace_rsp(&e, i->reg, insn_reg_is_gpr(i), i->high8 & 1);
	e.rm = replace_rsp(&e, i->rm, insn_rm_is_gpr(i), i->high8 & 2);
	e.vvvv = replace_rsp(&e, i->vvvv, insn_v_is_gpr(i), false);
	/* Outside 64-bit mode W of general registers is ignored */
	e.w = i->vex_w;
	if (i->mode != MODE_64 && (i->form != FORM_VEC || is_pcmpstr(i)))
		e.w = false;
	put_insn(&e);
	return true;
}

/* ---- The stub ------------------------------------------------------------ */

#define CALLEE_SAVED \
	(1 << RBX | 1 << RBP | 1 << R12 | 1 << R13 | 1 << R14 | 1 << R15)

static uint8_t *put_push(uint8_t *p, unsigned reg)
{
	if (reg & 8)
		*p++ = 0x41;
	*p++ = 0x50 | (reg & 7);
	return p;
}

static uint8_t *put_pop(uint8_t *p, unsigned reg)
{
	if (reg & 8)
		*p++ = 0x41;
	*p++ = 0x58 | (reg & 7);
	return p;
}

/* mov reg, [base + 8 * slot], or with (opcode) 89 the other way */
static uint8_t *put_move(uint8_t *p, uint8_t opcode, unsigned reg,
			 unsigned base, unsigned slot)
{
	*p++ = 0x48 | (reg & 8) >> 1 | (base & 8) >> 3;
	*p++ = opcode;
	*p++ = 0x40 | (reg & 7) << 3 | (base & 7);
	*p++ = (uint8_t)(slot * 8);
	return p;
}

/* The host register for the guest's (reg). */
static unsigned host_reg(const struct native_code *code, unsigned reg)
{
	return reg == RSP ? code->rsp : reg;
}

/* Load the operands; RDI, which holds the state, last. */
static uint8_t *put_loads(uint8_t *p, const struct native_code *code)
{
	int last = -1;

	if (code->mem != INSN_NONE && code->mem != RSI) {
		*p++ = 0x48; /* mov mem, rsi */
		*p++ = 0x89;
		*p++ = 0xc0 | RSI << 3 | code->mem;
	}
	for (unsigned reg = 0; reg < NR_GPR; reg++) {
		if (!(code->gprs >> reg & 1))
			continue;
		if (host_reg(code, reg) == RDI)
			last = (int)reg;
		else
			p = put_move(p, 0x8b, host_reg(code, reg), RDI, reg);
	}
	if (last >= 0)
		p = put_move(p, 0x8b, RDI, RDI, (unsigned)last);
	return p;
}

/* Store them, through a register that is none of them. */
static uint8_t *put_stores(uint8_t *p, const struct native_code *code,
			   uint32_t used, unsigned st_slot)
{
	static const uint8_t temps[] = { R8, R9, R10, R11, RDI, RSI };
	unsigned tmp = pick(temps, used);

	if (!code->gprs)
		return p;
	*p++ = 0x48 | (tmp & 8) >> 1; /* mov tmp, [rsp + 8 * st_slot] */
	*p++ = 0x8b;
	*p++ = 0x44 | (tmp & 7) << 3;
	*p++ = 0x24;
	*p++ = (uint8_t)(st_slot * 8);
	for (unsigned reg = 0; reg < NR_GPR; reg++)
		if (code->gprs >> reg & 1)
			p = put_move(p, 0x89, host_reg(code, reg), tmp, reg);
	return p;
}

unsigned native_emit(const struct native_code *code, uint8_t *out,
		     struct native_layout *at)
{
	uint32_t used = code->gprs & ~(1U << RSP);
	unsigned nr_saved = 0;
	uint8_t *p = out;

	if (code->rsp != INSN_NONE)
		used |= 1U << code->rsp;
	if (code->mem != INSN_NONE)
		used |= 1U << code->mem;

	p = put_push(p, RDI);
	for (unsigned reg = 0; reg < NR_GPR; reg++) {
		if (used & CALLEE_SAVED & 1U << reg) {
			p = put_push(p, reg);
			nr_saved++;
		}
	}
	if (code->flags) {
		p = put_push(p, RDX);
		*p++ = 0x9d; /* popfq */
	}
	p = put_loads(p, code);

	at->insn = (uint16_t)(p - out);
	memcpy(p, code->bytes, code->len);
	p += code->len;

	if (code->flags)
		*p++ = 0x9c; /* pushfq */
	p = put_stores(p, code, used, nr_saved + code->flags);
	if (code->flags)
		p = put_pop(p, RAX);

	at->fail = (uint16_t)(p - out);
	for (unsigned reg = NR_GPR; reg-- > 0;)
		if (used & CALLEE_SAVED & 1U << reg)
			p = put_pop(p, reg);
	p = put_pop(p, RDI);
	*p++ = 0xc3;
	return (unsigned)(p - out);
}
