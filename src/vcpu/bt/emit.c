/* Encoding (SDM volume 2, chapter 2). */
#include "vcpu/bt/emit.h"

#include "vcpu/insn/native_encode.h"

void emit_u8(struct emit *e, uint8_t v)
{
	if (e->p < e->end)
		*e->p++ = v;
}

void emit_u32(struct emit *e, uint32_t v)
{
	for (unsigned i = 0; i < 4; i++)
		emit_u8(e, (uint8_t)(v >> (8 * i)));
}

void emit_u64(struct emit *e, uint64_t v)
{
	emit_u32(e, (uint32_t)v);
	emit_u32(e, (uint32_t)(v >> 32));
}

static unsigned high(unsigned reg)
{
	return reg != INSN_NONE && (reg & 8) ? 1 : 0;
}

/* ModRM, SIB and displacement for (m), ModRM.reg being (reg). Vector
 * instructions scale 8-bit displacements: (no_disp8). */
static void emit_modrm(struct emit *e, unsigned reg, struct hmem m,
		       bool no_disp8)
{
	unsigned mod = 2, base = m.base & 7;
	bool has_sib = m.index != INSN_NONE || base == 4 || m.base == INSN_NONE;

	reg = (reg & 7) << 3;
	if (m.base == INSN_NONE) { /* [index * scale + disp32] */
		mod = 0;
		base = 5;
	} else if (!m.disp && base != 5) {
		mod = 0;
	} else if (m.disp == (int8_t)m.disp && !no_disp8) {
		mod = 1;
	}
	if (has_sib) {
		unsigned index = m.index == INSN_NONE ? 4 : m.index & 7U;

		emit_u8(e, (uint8_t)(mod << 6 | reg | 4));
		emit_u8(e, (uint8_t)(m.scale << 6 | index << 3 | base));
	} else {
		emit_u8(e, (uint8_t)(mod << 6 | reg | base));
	}
	if (mod == 1)
		emit_u8(e, (uint8_t)m.disp);
	else if (mod == 2 || m.base == INSN_NONE)
		emit_u32(e, (uint32_t)m.disp);
}

/* An instruction with a REX prefix, one opcode byte and operands reg, [m]. */
static void emit_rm(struct emit *e, bool wide, uint8_t opcode, unsigned reg,
		    struct hmem m)
{
	unsigned rex = (unsigned)wide << 3 | high(reg) << 2 |
		       high(m.index) << 1 | high(m.base);

	if (m.is_gs)
		emit_u8(e, 0x65);
	if (rex)
		emit_u8(e, (uint8_t)(0x40 | rex));
	emit_u8(e, opcode);
	emit_modrm(e, reg, m, false);
}

static void emit_rr(struct emit *e, bool wide, uint8_t opcode, unsigned reg,
		    unsigned rm)
{
	unsigned rex = (unsigned)wide << 3 | high(reg) << 2 | high(rm);

	if (rex)
		emit_u8(e, (uint8_t)(0x40 | rex));
	emit_u8(e, opcode);
	emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

void emit_load(struct emit *e, unsigned reg, struct hmem m)
{
	emit_rm(e, true, 0x8b, reg, m);
}

void emit_load32(struct emit *e, unsigned reg, struct hmem m)
{
	emit_rm(e, false, 0x8b, reg, m);
}

void emit_store(struct emit *e, struct hmem m, unsigned reg)
{
	emit_rm(e, true, 0x89, reg, m);
}

void emit_store_imm(struct emit *e, struct hmem m, int32_t imm)
{
	emit_rm(e, true, 0xc7, 0, m);
	emit_u32(e, (uint32_t)imm);
}

void emit_lea(struct emit *e, unsigned reg, struct hmem m)
{
	emit_rm(e, true, 0x8d, reg, m);
}

void emit_lea32(struct emit *e, unsigned reg, struct hmem m)
{
	emit_rm(e, false, 0x8d, reg, m);
}

void emit_mov(struct emit *e, unsigned to, unsigned from)
{
	emit_rr(e, true, 0x89, from, to);
}

void emit_not(struct emit *e, unsigned reg)
{
	emit_u8(e, (uint8_t)(0x48 | high(reg)));
	emit_u8(e, 0xf7);
	emit_u8(e, (uint8_t)(0xd0 | (reg & 7)));
}

void emit_mov32(struct emit *e, unsigned to, unsigned from)
{
	emit_rr(e, false, 0x89, from, to);
}

void emit_imm(struct emit *e, unsigned reg, uint64_t value)
{
	if (value >> 32) {
		emit_u8(e, (uint8_t)(0x48 | high(reg)));
		emit_u8(e, (uint8_t)(0xb8 | (reg & 7)));
		emit_u64(e, value);
		return;
	}
	if (high(reg))
		emit_u8(e, 0x41);
	emit_u8(e, (uint8_t)(0xb8 | (reg & 7)));
	emit_u32(e, (uint32_t)value);
}

/* VEX.128, map 0F38, W1: reg, vvvv = src, [m] */
static void emit_vex38(struct emit *e, unsigned pp, uint8_t opcode,
		       unsigned reg, unsigned src, struct hmem m)
{
	emit_u8(e, 0xc4);
	emit_u8(e,
		(uint8_t)((high(reg) ? 0 : 0x80) | (high(m.index) ? 0 : 0x40) |
			  (high(m.base) ? 0 : 0x20) | 2));
	emit_u8(e, (uint8_t)(0x80 | (~src & 15) << 3 | pp));
	emit_u8(e, opcode);
	emit_modrm(e, reg, m, false);
}

void emit_pext(struct emit *e, unsigned reg, unsigned src, struct hmem m)
{
	emit_vex38(e, 2, 0xf5, reg, src, m);
}

void emit_pdep(struct emit *e, unsigned reg, unsigned src, struct hmem m)
{
	emit_vex38(e, 3, 0xf5, reg, src, m);
}

void emit_rorx(struct emit *e, unsigned reg, unsigned src, unsigned n)
{
	emit_u8(e, 0xc4);
	emit_u8(e, (uint8_t)((high(reg) ? 0 : 0x80) | 0x40 |
			     (high(src) ? 0 : 0x20) | 3));
	emit_u8(e, 0xfb); /* W1, vvvv unused, F2 */
	emit_u8(e, 0xf0);
	emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (src & 7)));
	emit_u8(e, (uint8_t)n);
}

void emit_sarx(struct emit *e, bool wide, unsigned reg, unsigned src,
	       unsigned count)
{
	emit_u8(e, 0xc4);
	emit_u8(e, (uint8_t)((high(reg) ? 0 : 0x80) | 0x40 |
			     (high(src) ? 0 : 0x20) | 2));
	emit_u8(e, (uint8_t)(wide << 7 | (~count & 15) << 3 | 2)); /* F3 */
	emit_u8(e, 0xf7);
	emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (src & 7)));
}

void emit_movsxd(struct emit *e, unsigned reg, unsigned src)
{
	emit_rr(e, true, 0x63, reg, src);
}

void emit_zero_extend8(struct emit *e, unsigned reg, unsigned src)
{
	emit_u8(e, (uint8_t)(0x40 | high(reg) << 2 | high(src)));
	emit_u8(e, 0x0f);
	emit_u8(e, 0xb6);
	emit_u8(e, (uint8_t)(0xc0 | (reg & 7) << 3 | (src & 7)));
}

void emit_jmp_reg(struct emit *e, unsigned reg)
{
	if (high(reg))
		emit_u8(e, 0x41);
	emit_u8(e, 0xff);
	emit_u8(e, (uint8_t)(0xe0 | (reg & 7)));
}

static uint32_t emit_rel32(struct emit *e, uint32_t to)
{
	uint32_t at = emit_here(e);

	emit_u32(e, to - (at + 4));
	return at;
}

uint32_t emit_jmp(struct emit *e, uint32_t to)
{
	emit_u8(e, 0xe9);
	return emit_rel32(e, to);
}

uint32_t emit_jcc(struct emit *e, unsigned cond, uint32_t to)
{
	emit_u8(e, 0x0f);
	emit_u8(e, (uint8_t)(0x80 | cond));
	return emit_rel32(e, to);
}

uint32_t emit_call(struct emit *e, uint32_t to)
{
	emit_u8(e, 0xe8);
	return emit_rel32(e, to);
}

/* ---- Guest instructions ------------------------------------------------------- */

/* The opcode of the twin that faults unless its operand is aligned, or 0:
 * MOVUPS, MOVUPD 10, 11; MOVDQU, VMOVDQU* 6F, 7F. */
static uint8_t aligned_opcode(const struct insn *i)
{
	unsigned pp;

	if (i->op != OP_NATIVE || i->map != 1 || !(i->flags & INSN_MEM) ||
	    i->mask)
		return 0;
	if (i->flags & INSN_VEX)
		pp = i->bytes[i->op_off - ((i->flags & INSN_EVEX) ? 2 : 1)] & 3;
	else
		pp = i->prefixes64 & PREFIX_F3   ? 2
		     : i->prefixes64 & PREFIX_F2 ? 3
		     : i->prefixes64 & PREFIX_66 ? 1
						 : 0;
	if ((i->opcode == 0x10 || i->opcode == 0x11) && pp < 2)
		return i->opcode + 0x18;
	/* Of the forms by bytes and words there is no aligned one. */
	if ((i->opcode == 0x6f || i->opcode == 0x7f) && pp == 2)
		return i->opcode;
	return 0;
}

bool emit_has_aligned(const struct insn *i)
{
	return aligned_opcode(i);
}

/* Mandatory prefix of what MOVDQU becomes: 66. */
static unsigned aligned_pp(const struct insn *i, unsigned pp)
{
	return i->opcode == 0x6f || i->opcode == 0x7f ? 1 : pp;
}

/** An instruction being written: fields that all encodings have. */
struct fields {
	const struct insn *i;
	const struct host_insn *h;
	bool reg_gpr, rm_gpr;
	unsigned r, x, b; /* extension bits */
};

static void put_legacy(struct emit *e, const struct fields *f)
{
	const struct insn *i = f->i;
	uint8_t prefixes = i->prefixes64, rex;

	if (f->h->make_aligned && (prefixes & PREFIX_F3))
		prefixes = (uint8_t)((prefixes & ~PREFIX_F3) | PREFIX_66);
	if (prefixes & PREFIX_66)
		emit_u8(e, 0x66);
	if (prefixes & PREFIX_LOCK)
		emit_u8(e, 0xf0);
	if (prefixes & PREFIX_F2)
		emit_u8(e, 0xf2);
	if (prefixes & PREFIX_F3)
		emit_u8(e, 0xf3);
	rex = (uint8_t)((i->rex & 8) | f->r << 2 | f->x << 1 | f->b);
	if (rex || i->rex)
		emit_u8(e, rex | 0x40);
	if (i->map)
		emit_u8(e, 0x0f);
	if (i->map > 1)
		emit_u8(e, i->map == 2 ? 0x38 : 0x3a);
}

static void put_vex(struct emit *e, const struct fields *f)
{
	const struct insn *i = f->i;
	unsigned last = i->bytes[i->op_off - 1] & 7;
	unsigned v = insn_v_is_gpr(i) ? f->h->vvvv : i->vvvv;

	if (f->h->make_aligned)
		last = (last & 4) | aligned_pp(i, last & 3);
	emit_u8(e, 0xc4);
	emit_u8(e, (uint8_t)((f->r ? 0 : 0x80) | (f->x ? 0 : 0x40) |
			     (f->b ? 0 : 0x20) | i->map));
	emit_u8(e, (uint8_t)(i->vex_w << 7 | (~v & 15) << 3 | last));
}

static void put_evex(struct emit *e, const struct fields *f)
{
	const struct insn *i = f->i;
	const uint8_t *p = i->bytes + i->op_off - 3;
	uint8_t p0 = p[0], p1 = p[1];

	if (f->reg_gpr)
		p0 = (uint8_t)((p0 & ~0x90) | (f->r ? 0 : 0x80) | 0x10);
	if (f->h->has_mem || f->rm_gpr)
		p0 = (uint8_t)((p0 & ~0x60) | (f->x ? 0 : 0x40) |
			       (f->b ? 0 : 0x20));
	if (f->h->make_aligned)
		p1 = (uint8_t)((p1 & ~3) | aligned_pp(i, p1 & 3));
	emit_u8(e, 0x62);
	emit_u8(e, p0);
	emit_u8(e, p1);
	emit_u8(e, p[2]);
}

static bool is_reg_in_opcode(const struct insn *i)
{
	if (i->modrm_off)
		return false;
	if (i->map == 1)
		return i->opcode >= 0xc8 && i->opcode <= 0xcf;
	return i->map == 0 && ((i->opcode >= 0x90 && i->opcode <= 0x97) ||
			       (i->opcode >= 0xb0 && i->opcode <= 0xbf));
}

/* MOV with an absolute address: as MOV with ModRM. */
static uint8_t moffs_opcode(uint8_t opcode)
{
	return opcode < 0xa2 ? opcode - 0xa0 + 0x8a : opcode - 0xa2 + 0x88;
}

void emit_insn(struct emit *e, const struct insn *i, const struct host_insn *h)
{
	struct fields f = { .i = i, .h = h };
	bool is_moffs = !i->modrm_off && (i->flags & INSN_MEM);
	bool in_opcode = is_reg_in_opcode(i), is_xchg = i->op == OP_XCHG;
	uint8_t opcode = i->opcode;
	unsigned reg;

	f.reg_gpr = insn_reg_is_gpr(i);
	f.rm_gpr = insn_rm_is_gpr(i);
	f.r = f.reg_gpr ? high(h->reg) : i->rex >> 2 & 1;
	f.x = i->rex >> 1 & 1;
	f.b = i->rex & 1;
	if ((i->flags & INSN_VEX) && !(i->flags & INSN_EVEX) && !f.reg_gpr)
		f.r = i->reg >> 3 & 1;
	if (h->has_mem) {
		f.x = high(h->mem.index);
		f.b = high(h->mem.base);
	} else if (f.rm_gpr) {
		f.x = 0;
		f.b = high(h->rm);
	} else if (i->flags & INSN_VEX) {
		f.x = 0;
		f.b = i->rm != INSN_NONE && (i->rm & 8);
	}
	if (in_opcode && is_xchg) { /* 90: also ModRM.reg = rax */
		f.r = 0;
	} else if (!i->modrm_off && !in_opcode) {
		f.b = f.b && h->has_mem;
		if (!is_moffs)
			f.r = f.x = f.b = 0;
	}
	if (i->flags & INSN_EVEX)
		put_evex(e, &f);
	else if (i->flags & INSN_VEX)
		put_vex(e, &f);
	else
		put_legacy(e, &f);

	reg = f.reg_gpr ? h->reg & 7U : i->modrm >> 3 & 7U;
	if (h->make_aligned)
		opcode = aligned_opcode(i);
	if (is_moffs) {
		emit_u8(e, moffs_opcode(opcode));
		emit_modrm(e, H_RAX, h->mem, false);
		return;
	}
	if (in_opcode && is_xchg) {
		emit_u8(e, 0x87);
		emit_u8(e, (uint8_t)(0xc0 | (h->rm & 7)));
		return;
	}
	if (in_opcode)
		opcode = (uint8_t)((opcode & ~7) | (h->rm & 7));
	emit_u8(e, opcode);
	if (i->modrm_off) {
		if (h->has_mem)
			emit_modrm(e, reg, h->mem, i->flags & INSN_EVEX);
		else
			emit_u8(e, (uint8_t)(0xc0 | reg << 3 |
					     (f.rm_gpr ? h->rm & 7
						       : i->modrm & 7)));
	}
	for (unsigned n = i->imm_off; n < i->len; n++)
		emit_u8(e, i->bytes[n]);
}
