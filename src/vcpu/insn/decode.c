/*
 * The instruction decoder.
 *
 * Theory of operation. decode_table.h holds one row (struct entry) for each
 * instruction. A row of the first table (by map and opcode) may point to a
 * further one, by mandatory prefix, ModRM.reg, ModRM.mod or ModRM.rm; what a
 * row of the second leaves empty (zero), it takes from the first. insn_decode()
 * goes over the bytes once:
 *
 *   prefixes -> REX, VEX or EVEX -> opcode -> ModRM -> row -> checks
 *            -> SIB and displacement -> immediate -> what follows from the row
 *
 * What no row allows is INSN_INVALID. Instructions that no guest is offered
 * (VMX, SVM, TSX, CET, AMX, SGX, 3DNow!, protection keys...) have no row.
 *
 * Where vendors differ it does what Intel's processors do: the operand size
 * prefix is ignored by near branches in 64-bit mode.
 */
#include "vcpu/insn/decode.h"

#include <string.h>

#include "base/base.h"
#include "vcpu/insn/decode_table.h"

/** Where decoding stands. */
struct dec {
	struct insn *i;
	const uint8_t *b;
	uint8_t pos, limit;
	bool truncated;
	bool w;             /* REX.W, VEX.W */
	uint8_t pp;         /* mandatory prefix: 0, 1 66, 2 F3, 3 F2 */
	uint8_t enc;        /* 0 legacy, 1 VEX, 2 EVEX */
	uint8_t xr, xx, xb; /* bit 3 of reg, index, rm and base; bit 4 of */
	uint8_t xr2, xv2;   /* ... reg, and of vvvv or a vector index */
	uint8_t vl;         /* VEX.L, EVEX.L'L */
	bool evex_b, evex_z;
	uint8_t over; /* segment override or INSN_NONE */
};

static uint8_t take8(struct dec *d)
{
	if (unlikely(d->pos >= d->limit)) {
		d->truncated = true;
		return 0;
	}
	return d->b[d->pos++];
}

/* (size) bytes, little-endian, sign-extended. */
static int64_t take(struct dec *d, unsigned size)
{
	int64_t v64 = 0;
	int32_t v32;
	int16_t v16;

	if (unlikely(d->pos + size > d->limit)) {
		d->truncated = true;
		return 0;
	}
	switch (size) {
	case 1:
		v64 = (int8_t)d->b[d->pos];
		break;
	case 2:
		memcpy(&v16, d->b + d->pos, 2);
		v64 = v16;
		break;
	case 4:
		memcpy(&v32, d->b + d->pos, 4);
		v64 = v32;
		break;
	case 8:
		memcpy(&v64, d->b + d->pos, 8);
		break;
	}
	d->pos += size;
	return v64;
}

/* Legacy prefixes and REX (SDM volume 2, 2.1.1, 2.2.1). Returns the byte that
 * follows. */
static uint8_t take_prefixes(struct dec *d)
{
	struct insn *i = d->i;
	unsigned rex_pos = 0;

	for (;;) {
		uint8_t byte = take8(d);

		switch (byte) {
		case 0x26:
		case 0x2e:
		case 0x36:
		case 0x3e:
			i->prefixes |= PREFIX_SEG;
			if (i->mode != MODE_64)
				d->over = (byte >> 3) & 3;
			break;
		case 0x64:
		case 0x65:
			i->prefixes |= PREFIX_SEG;
			d->over = byte & 7;
			break;
		case 0x66:
			i->prefixes |= PREFIX_66;
			break;
		case 0x67:
			i->prefixes |= PREFIX_67;
			break;
		case 0xf0:
			i->prefixes |= PREFIX_LOCK;
			break;
		case 0xf2:
			i->prefixes &= ~PREFIX_F3;
			i->prefixes |= PREFIX_F2;
			break;
		case 0xf3:
			i->prefixes &= ~PREFIX_F2;
			i->prefixes |= PREFIX_F3;
			break;
		default:
			/* REX counts only directly before the opcode */
			if (i->mode == MODE_64 && (byte & 0xf0) == 0x40) {
				i->rex = byte;
				rex_pos = d->pos;
				continue;
			}
			i->prefix_len = d->pos - !d->truncated;
			if (rex_pos != i->prefix_len)
				i->rex = 0;
			else
				i->prefix_len -= i->rex != 0;
			return byte;
		}
	}
}

/* VEX prefixes, C5 and C4 (SDM volume 2, 2.3.5). */
static void take_vex(struct dec *d, uint8_t first)
{
	struct insn *i = d->i;
	uint8_t byte = take8(d);

	d->enc = 1;
	i->map = 1;
	d->xr = ~byte >> 4 & 8;
	if (first == 0xc4) {
		d->xx = ~byte >> 3 & 8;
		d->xb = ~byte >> 2 & 8;
		i->map = byte & 0x1f;
		byte = take8(d);
		d->w = byte >> 7;
	}
	i->vvvv = ~byte >> 3 & 15;
	d->vl = byte >> 2 & 1;
	d->pp = byte & 3;
	if (i->map < 1 || i->map > 3)
		i->map = 0;
}

/* The EVEX prefix (SDM volume 2, 2.7.1). False if a fixed bit is wrong. */
static bool take_evex(struct dec *d)
{
	struct insn *i = d->i;
	uint8_t p0 = take8(d), p1 = take8(d), p2 = take8(d);

	d->enc = 2;
	d->xr = ~p0 >> 4 & 8;
	d->xx = ~p0 >> 3 & 8;
	d->xb = ~p0 >> 2 & 8;
	d->xr2 = ~p0 & 0x10;
	i->map = p0 & 7;
	d->w = p1 >> 7;
	i->vvvv = ~p1 >> 3 & 15;
	d->pp = p1 & 3;
	d->evex_z = p2 >> 7;
	d->vl = p2 >> 5 & 3;
	d->evex_b = p2 >> 4 & 1;
	d->xv2 = p2 & 8 ? 0 : 0x10;
	i->mask = p2 & 7;
	return !(p0 & 8) && (p1 & 4) && (0x6e >> i->map & 1);
}

/* The bytes from (byte), which follows the prefixes, up to the opcode. */
static enum insn_error take_opcode(struct dec *d, uint8_t byte)
{
	struct insn *i = d->i;

	d->w = i->rex >> 3 & 1;
	d->xr = i->rex << 1 & 8;
	d->xx = i->rex << 2 & 8;
	d->xb = i->rex << 3 & 8;
	if (byte == 0xc4 || byte == 0xc5 || byte == 0x62) {
		/* In other modes LES, LDS and BOUND, unless ModRM.mod were 3 */
		if (i->mode != MODE_64 && d->pos >= d->limit) {
			d->truncated = true;
			return INSN_OK;
		}
		if (i->mode == MODE_64 || d->b[d->pos] >= 0xc0) {
			if (i->rex || (i->prefixes & (PREFIX_66 | PREFIX_F2 |
						      PREFIX_F3 | PREFIX_LOCK)))
				return INSN_INVALID;
			if (byte != 0x62)
				take_vex(d, byte);
			else if (!take_evex(d))
				return d->truncated ? INSN_OK : INSN_INVALID;
			if (i->map == 0)
				return d->truncated ? INSN_OK : INSN_INVALID;
			if (i->mode != MODE_64) {
				d->xr = d->xx = d->xb = 0;
				d->xr2 = 0;
				if (d->xv2)
					return INSN_INVALID;
			}
			byte = take8(d);
			goto done;
		}
	}
	d->pp = i->prefixes & PREFIX_F2   ? 3
		: i->prefixes & PREFIX_F3 ? 2
		: i->prefixes & PREFIX_66 ? 1
					  : 0;
	if (byte == 0x0f) {
		i->map = 1;
		byte = take8(d);
		if (byte == 0x38 || byte == 0x3a) {
			i->map = byte == 0x38 ? 2 : 3;
			byte = take8(d);
		}
	}
done:
	i->opcode = byte;
	i->op_off = d->pos - 1;
	return INSN_OK;
}

static const struct entry *first_row(const struct dec *d)
{
	unsigned n = d->i->opcode;

	if (d->enc == 0) {
		switch (d->i->map) {
		case 0:
			return &one_byte[n];
		case 1:
			return &two_byte[n];
		default:
			return &sse_maps[d->i->map][n << 2 | d->pp];
		}
	}
	n = n << 3 | d->pp << 1 | d->w;
	return d->enc == 1 ? &vex_maps[d->i->map][n] : &evex_maps[d->i->map][n];
}

/* Row (to), its empty fields taken from (from). */
static void merge(struct entry *from, const struct entry *to)
{
	from->op = to->op;
	from->sub = to->sub;
	from->attr |= to->attr;
	if (to->form)
		from->form = to->form;
	if (to->feature)
		from->feature = to->feature;
	if (to->mem)
		from->mem = to->mem;
	if (to->imm)
		from->imm = to->imm;
	if (to->bcast)
		from->bcast = to->bcast;
}

/* D8 to DF: rows by opcode and ModRM.reg; with a register operand, which of
 * the eight exist. */
static bool find_x87(const struct dec *d, struct entry *e)
{
	unsigned n = (d->i->opcode & 7) << 3 | (d->i->modrm >> 3 & 7);

	if (d->i->modrm < 0xc0) {
		merge(e, &x87_mem[n]);
		return e->op != OP_INVALID;
	}
	if (!(x87_reg[n] >> (d->i->modrm & 7) & 1))
		return false;
	e->op = OP_NATIVE;
	if (d->i->opcode == 0xdf && d->i->modrm == 0xe0)
		e->form = FORM_RM_VEC; /* FNSTSW AX */
	return true;
}

/* The row that (e) leads to, through further tables. */
static bool find_row(const struct dec *d, struct entry *e)
{
	uint8_t modrm = d->i->modrm;
	unsigned reg = modrm >> 3 & 7;
	const struct entry *t;

	while (e->sub) {
		if (e->sub == SUB_X87)
			return find_x87(d, e);
		if (e->sub == SUB_SSE) {
			merge(e, &sse_maps[1][d->i->opcode << 2 | d->pp]);
			continue;
		}
		t = groups[e->op];
		switch (e->sub) {
		case SUB_REG:
			t += reg;
			break;
		case SUB_MOD_REG:
			t += reg | (modrm >= 0xc0) << 3;
			break;
		case SUB_PP_MOD_REG:
			t += reg | (modrm >= 0xc0) << 3 | d->pp << 4;
			break;
		case SUB_RM:
			t += modrm & 7;
			break;
		case SUB_MODE:
			t += d->i->mode == MODE_64;
			break;
		case SUB_W:
			t += reg << 1 | d->w;
			break;
		}
		merge(e, t);
	}
	return e->op != OP_INVALID;
}

/* Is VEX or EVEX encoded (e) legal with the fields around it? Sets vlen. */
static bool check_vex(struct dec *d, struct entry *e, bool mem)
{
	struct insn *i = d->i;
	uint64_t a = e->attr;
	bool rounding = false;

	if (d->enc == 2) {
		if (d->evex_b && !mem) {
			if (!(a & (A_RC | A_SAE)))
				return false;
			rounding = true; /* L'L is no length then */
		} else if (d->evex_b && !e->bcast) {
			return false;
		}
		if (i->mask ? !(a & A_K) : (a & A_KREQ) != 0)
			return false;
		if (d->evex_z && (!(a & A_Z) || !i->mask || (mem && (a & W))))
			return false;
		if (!(a & A_VSIB)) {
			if ((a & A_NOV) && d->xv2)
				return false;
			i->vvvv |= d->xv2;
		}
	}
	if (e->form == FORM_REG_VEC && d->xr2)
		return false;
	if ((a & A_KREG) && (d->xr | d->xr2))
		return false;
	if (rounding)
		d->vl = 2;
	if (!(a & A_LIG)) {
		if (d->vl > 2 || (a & A_NOT_L0 << d->vl))
			return false;
	} else if (d->vl > 2) {
		return false;
	}
	if ((a & A_NOV) || (mem && (a & A_NOV_MEM)))
		if (i->vvvv)
			return false;
	if (i->mode != MODE_64)
		i->vvvv &= 7;
	if ((a & A_KV) && i->vvvv > 7)
		return false;
	i->vlen = 16 << d->vl;
	if (a & A_DISTINCT) {
		uint8_t reg = (i->modrm >> 3 & 7) | d->xr | d->xr2;

		if (reg == i->vvvv ||
		    (!mem && reg == ((i->modrm & 7) | d->xb | d->xx << 1)))
			return false;
	}
	if (!mem && (a & A_AVX2_REG))
		e->feature = FEAT_AVX2;
	if (d->vl > 0 && (a & A_AVX2))
		e->feature = e->feature == FEAT_AVX   ? FEAT_AVX2
			     : e->feature == FEAT_AES ? FEAT_VAES
						      : FEAT_VPCLMUL;
	return true;
}

/* Whether (e) may be encoded as it is: mode, prefixes, register or memory. */
static bool check(struct dec *d, struct entry *e)
{
	struct insn *i = d->i;
	bool mem =
		(e->attr & A_MODRM) && i->modrm < 0xc0 && !(e->attr & A_MOD3);

	if (i->mode == MODE_64 ? e->attr & A_I64 : e->attr & A_O64)
		return false;
	if ((e->attr & A_NP) && d->pp)
		return false;
	if (mem ? e->attr & A_REG_ONLY : e->attr & A_MEM_ONLY)
		return false;
	if ((i->prefixes & PREFIX_LOCK) && (!mem || !(e->attr & LK)))
		return false;
	if (d->enc && !check_vex(d, e, mem))
		return false;
	if (mem)
		i->flags |= INSN_MEM;
	return true;
}

static void set_sizes(struct dec *d, const struct entry *e)
{
	struct insn *i = d->i;
	bool p66 = i->prefixes & PREFIX_66;

	if (e->attr & BY)
		i->opsize = 1;
	else if (i->mode == MODE_64 && (d->w || (e->attr & A_F64)) &&
		 !(e->attr & A_MAX4))
		i->opsize = 8;
	else if (d->w && (e->attr & A_MAX4))
		i->opsize = 4;
	else if (e->attr & A_NO66)
		i->opsize = 4;
	else if (i->mode == MODE_16)
		i->opsize = p66 ? 4 : 2;
	else if (p66)
		i->opsize = 2;
	else
		i->opsize = i->mode == MODE_64 && (e->attr & A_D64) ? 8 : 4;

	i->prefixes64 = i->prefixes & PREFIX_LOCK;
	if (i->map && e->op == OP_NATIVE)
		i->prefixes64 |= i->prefixes & (PREFIX_F2 | PREFIX_F3);
	if (e->attr & A_NO66 ? p66 : i->opsize == 2)
		i->prefixes64 |= PREFIX_66;
}

static unsigned rm_size(const struct dec *d, const struct entry *e)
{
	const struct insn *i = d->i;
	unsigned opsize = i->opsize;

	switch (e->mem) {
	case M_OP:
		return opsize;
	case M_Z:
		return opsize > 4 ? 4 : opsize;
	case M_FAR:
		return opsize + 2;
	case M_DTR:
		return i->mode == MODE_64 ? 10 : 6;
	case M_2OP:
		return opsize * 2;
	case M_ENV:
		return opsize == 2 ? 14 : 28;
	case M_STATE:
		return opsize == 2 ? 94 : 108;
	case M_512:
		return 512;
	case M_VL:
		return i->vlen;
	case M_HALF:
		return i->vlen / 2;
	case M_QUARTER:
		return i->vlen / 4;
	case M_EIGHTH:
		return i->vlen / 8;
	case M_DUP:
		return i->vlen == 16 ? 8 : i->vlen;
	default:
		return mem_sizes[e->mem];
	}
}

/* There is a memory operand. */
static void note_mem(struct insn *i)
{
	i->seg = SEG_DS;
	i->flags |= INSN_MEM;
	if (i->addrsize == 4)
		i->flags |= INSN_ADDR32;
	else if (i->addrsize == 2)
		i->flags |= INSN_ADDR16;
}

/* ModRM with 16-bit addressing (SDM volume 2, table 2-1). */
static void take_mem16(struct dec *d)
{
	static const uint8_t bases[8] = {
		RBX, RBX, RBP, RBP, RSI, RDI, RBP, RBX
	};
	static const uint8_t indices[8] = { RSI,       RDI,       RSI,
					    RDI,       INSN_NONE, INSN_NONE,
					    INSN_NONE, INSN_NONE };
	struct insn *i = d->i;
	unsigned mod = i->modrm >> 6, rm = i->modrm & 7;

	i->base = bases[rm];
	i->index = indices[rm];
	if (mod == 0 && rm == 6) {
		i->base = INSN_NONE;
		i->disp = take(d, 2);
	} else if (mod) {
		i->disp = take(d, mod);
	}
	if (i->base == RBP)
		i->seg = SEG_SS;
}

/* ModRM, SIB and displacement; an 8-bit one counts (disp8) bytes. */
static bool take_mem(struct dec *d, const struct entry *e, unsigned disp8)
{
	struct insn *i = d->i;
	unsigned mod = i->modrm >> 6, rm = i->modrm & 7;
	bool no_base = mod == 0 && rm == 5;

	note_mem(i);
	if (i->addrsize == 2) {
		if (e->attr & A_VSIB)
			return false;
		take_mem16(d);
		if (i->modrm >> 6 == 1)
			i->disp *= disp8;
		return true;
	}
	if (rm == 4) {
		uint8_t sib = take8(d);

		rm = sib & 7;
		no_base = mod == 0 && rm == 5;
		i->index = (sib >> 3 & 7) | d->xx;
		i->scale_log2 = sib >> 6;
		if (e->attr & A_VSIB)
			i->index |= d->xv2;
		else if (i->index == RSP)
			i->index = INSN_NONE;
		if (i->index == INSN_NONE)
			i->scale_log2 = 0;
	} else if (e->attr & A_VSIB) {
		return false;
	} else if (no_base && i->mode == MODE_64) {
		i->flags |= INSN_RIPREL;
	}
	if (!no_base) {
		i->base = rm | d->xb;
		if (rm == RSP || rm == RBP)
			i->seg = d->xb ? SEG_DS : SEG_SS;
	}
	if (mod == 1)
		i->disp = take(d, 1) * (int64_t)disp8;
	else if (mod == 2 || no_base)
		i->disp = take(d, 4);
	return true;
}

static void take_imm(struct dec *d, const struct entry *e)
{
	struct insn *i = d->i;
	unsigned z = i->opsize > 4 ? 4 : i->opsize;

	switch (e->imm) {
	case IMM_NO:
		break;
	case IMM_I8:
		i->imm = take(d, 1);
		break;
	case IMM_U8:
		i->imm = (uint8_t)take(d, 1);
		break;
	case IMM_U16:
		i->imm = (uint16_t)take(d, 2);
		break;
	case IMM_IZ:
		i->imm = take(d, z);
		break;
	case IMM_IV:
		i->imm = take(d, i->opsize);
		break;
	case IMM_16_8:
		i->imm = (uint16_t)take(d, 2);
		i->imm2 = (uint8_t)take(d, 1);
		break;
	case IMM_FAR:
		i->imm = take(d, z) & (z == 2 ? 0xffff : 0xffffffff);
		i->imm2 = (uint16_t)take(d, 2);
		break;
	case IMM_MOFFS:
		note_mem(i);
		i->disp = take(d, i->addrsize);
		if (i->addrsize < 8)
			i->disp &= i->addrsize == 2 ? 0xffff : 0xffffffff;
		break;
	case IMM_ONE:
		i->imm = 1;
		break;
	case IMM_CL:
		i->imm = -1;
		break;
	}
}

/* The register operands, and the memory operand. */
static bool take_operands(struct dec *d, const struct entry *e)
{
	struct insn *i = d->i;
	unsigned disp8 = 1;

	i->mem_size = rm_size(d, e);
	if (e->attr & A_MODRM) {
		i->reg = (i->modrm >> 3 & 7) | d->xr | d->xr2;
		if (i->flags & INSN_MEM) {
			if (d->evex_b)
				i->mem_size = e->bcast;
			if (d->enc == 2)
				disp8 = e->attr & A_T1S   ? 4 << d->w
					: e->attr & A_T1B ? 1 << d->w
							  : i->mem_size;
			if (!take_mem(d, e, disp8))
				return false;
		} else {
			i->rm = (i->modrm & 7) | d->xb;
			if (d->enc == 2 && e->form != FORM_VEC_RM &&
			    e->form != FORM_RM_VEC)
				i->rm |= d->xx << 1;
			if (e->form == FORM_RM_VEC && i->map == 0)
				i->rm = RAX; /* FNSTSW, whatever REX.B says */
		}
	} else if (e->attr & A_OPREG) {
		i->rm = (i->opcode & 7) | d->xb;
	} else if (e->attr & A_ACC) {
		i->rm = RAX;
	}
	return true;
}

/* What depends on more than the row. False for #UD. */
static bool finish_special(struct dec *d, const struct entry *e)
{
	struct insn *i = d->i;

	switch (e->op) {
	case OP_XCHG:
		if (i->flags & INSN_MEM) {
			i->flags |= INSN_LOCK;
		} else if (i->map == 0 && i->opcode == 0x90 && i->rm == RAX) {
			i->op = i->prefixes & PREFIX_F3 ? OP_PAUSE : OP_NOP;
			i->form = FORM_NONE;
		}
		break;
	case OP_MOV_TO_SEG:
	case OP_MOV_FROM_SEG:
		i->reg &= 7;
		return i->reg < NR_SEG &&
		       (i->op == OP_MOV_FROM_SEG || i->reg != SEG_CS);
	case OP_PUSH_SEG:
	case OP_POP_SEG:
		i->reg = i->opcode >> 3 & 7; /* 0F A0, A8: FS, GS as well */
		break;
	case OP_LOAD_FAR:
		i->imm2 = i->map              ? i->opcode & 7
			  : i->opcode == 0xc4 ? SEG_ES
					      : SEG_DS;
		break;
	case OP_MOV_TO_CR:
	case OP_MOV_FROM_CR:
		i->opsize = i->mode == MODE_64 ? 8 : 4;
		return 0x11d >> i->reg & 1;
	case OP_MOV_TO_DR:
	case OP_MOV_FROM_DR:
		i->opsize = i->mode == MODE_64 ? 8 : 4;
		return i->reg < 8;
	case OP_MASKMOV:
		if (e->attr & A_RDI) {
			i->base = RDI;
			note_mem(i);
		}
		break;
	case OP_GATHER:
		/* EVEX: the destination is not the index; VEX: nor the mask */
		if (i->reg == i->index)
			return false;
		if (d->enc == 1 && (i->vvvv == i->reg || i->vvvv == i->index))
			return false;
		break;
	}
	return true;
}

/* Turn (e) and what was read into the rest of the fields. */
static bool finish(struct dec *d, const struct entry *e)
{
	struct insn *i = d->i;

	i->op = e->op;
	i->form = e->form;
	i->feature = e->feature;
	i->vex_w = d->enc && d->w;
	i->flags |= e->attr & A_PUBLIC;
	if (d->enc)
		i->flags |= d->enc == 2 ? INSN_VEX | INSN_EVEX : INSN_VEX;
	if (e->attr & A_COND)
		i->cond = i->opcode & 15;
	if (i->prefixes & PREFIX_LOCK)
		i->flags |= INSN_LOCK;
	if (!i->rex && !d->enc) {
		if ((e->attr & BY) && (i->reg & ~3) == 4 &&
		    (e->form == FORM_RM_REG || e->form == FORM_REG_RM))
			i->high8 = 1;
		if ((e->attr & (BY | A_RM8)) && (i->rm & ~3) == 4)
			i->high8 |= 2;
	}
	if (!finish_special(d, e))
		return false;
	if (i->flags & INSN_MEM) {
		if (d->over != INSN_NONE)
			i->seg = d->over;
		if (i->mask && !(e->attr & A_KREQ))
			i->flags |= INSN_ELEMENTS;
		if (i->flags & INSN_RIPREL)
			i->base = INSN_NONE;
	} else {
		i->seg = d->over != INSN_NONE ? d->over : SEG_DS;
		i->flags &= ~(INSN_READ_MEM | INSN_WRITE_MEM | INSN_ALIGNED |
			      INSN_ELEMENTS);
	}
	return true;
}

static enum insn_error decode(struct dec *d)
{
	struct insn *i = d->i;
	struct entry e;
	uint8_t byte = take_prefixes(d);

	if (unlikely(d->truncated) || take_opcode(d, byte))
		return INSN_INVALID;
	if (unlikely(d->truncated))
		return INSN_INVALID;
	i->addrsize = i->mode == MODE_64 ? 8 : i->mode == MODE_32 ? 4 : 2;
	if (i->prefixes & PREFIX_67)
		i->addrsize = i->addrsize == 4 ? 2 : 4;

	e = *first_row(d);
	if ((e.attr & A_MODRM)) {
		i->modrm_off = d->pos;
		i->modrm = take8(d);
		if (unlikely(d->truncated))
			return INSN_INVALID;
	}
	if (e.sub ? !find_row(d, &e) : e.op == OP_INVALID)
		return INSN_INVALID;
	if (!check(d, &e))
		return INSN_INVALID;
	set_sizes(d, &e);
	if (!take_operands(d, &e))
		return INSN_INVALID;
	i->imm_off = d->pos;
	take_imm(d, &e);
	if (!finish(d, &e) || unlikely(d->truncated))
		return INSN_INVALID;
	return INSN_OK;
}

enum insn_error insn_decode(struct insn *insn, const uint8_t *bytes, size_t len,
			    enum insn_mode mode)
{
	struct dec d = {
		.i = insn,
		.b = bytes,
		.limit = len < INSN_MAX_LEN ? len : INSN_MAX_LEN,
		.over = INSN_NONE,
	};

	memset(insn, 0, sizeof(*insn));
	insn->base = insn->index = insn->rm = INSN_NONE;
	insn->mode = mode;
	if (decode(&d)) {
		if (!d.truncated)
			return INSN_INVALID;
		return d.limit == INSN_MAX_LEN ? INSN_TOO_LONG : INSN_TRUNCATED;
	}
	insn->len = d.pos;
	memcpy(insn->bytes, bytes, d.pos);
	return INSN_OK;
}

const char *insn_op_name(unsigned op)
{
#define X(name) #name,
	static const char *const names[NR_OPS] = { INSN_OPS(X) };
#undef X

	return op < NR_OPS ? names[op] : "?";
}
