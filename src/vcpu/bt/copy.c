/*
 * Copied instructions: the guest's own, with the operands where the host has
 * them.
 *
 * A register that lives in memory, or cannot be named next to a high byte
 * register, gets a scratch register as a substitute, which is loaded before and
 * stored after. Loading comes before the commit point and storing behind it: an
 * instruction that faults has changed nothing.
 */
#include "vcpu/bt/translate.h"
#include "vcpu/insn/native_encode.h"

/* ---- What can be copied -------------------------------------------------- */

/* May the FPU be used, as far as the code page's key says? */
static bool has_fpu(const struct tr *t, const struct insn *i)
{
	unsigned need = 0;

	if (i->flags & INSN_VECTOR) {
		need = KEY_SSE;
		if (i->flags & INSN_VEX)
			need = KEY_AVX;
		if ((i->flags & INSN_EVEX) || (i->feature >= FEAT_AVX512F &&
					       i->feature <= FEAT_AVX512FP16))
			need = KEY_AVX512;
	} else if (i->flags & INSN_X87) {
		need = KEY_X87;
	}
	return (t->page->key & need) == need;
}

bool tr_is_usable(const struct tr *t, const struct insn *i)
{
	return cpu_has_insn(&t->bt->cpu, i) && has_fpu(t, i);
}

bool tr_is_copied(const struct insn *i)
{
	unsigned size = i->mem_size;

	switch (i->op) {
	case OP_CBW:
	case OP_CWD:
	case OP_LAHF:
	case OP_SAHF:
	case OP_CLC:
	case OP_STC:
	case OP_CMC:
	case OP_BSWAP:
		return true;
	case OP_MASKMOV:
		return false;
	default:
		break;
	}
	if (!i->modrm_off) {
		if (i->op == OP_MOV || i->op == OP_XCHG)
			return true;
		if (i->op == OP_NATIVE) /* EMMS, VZEROUPPER, VZEROALL */
			return i->map == 1 && i->opcode == 0x77;
		if (i->op < OP_ADD || i->op > OP_TEST)
			return false;
	} else if (!insn_is_native(i)) {
		return false;
	}
	if (!(i->flags & INSN_MEM))
		return true;
	/* One with a mask faults for less, but not within a page. */
	if ((i->flags & INSN_ELEMENTS) && i->op != OP_NATIVE)
		return false;
	return size && size <= 64 && (IS_POW2(size) || size == 10);
}

/* Is operand (reg) only written, all of it? */
static bool is_overwritten(const struct insn *i, unsigned reg)
{
	if (i->opsize < 4 || i->high8)
		return false;
	if (i->op == OP_MOV || i->op == OP_MOVZX || i->op == OP_MOVSX) {
		if (i->form == FORM_REG_RM)
			return i->reg == reg &&
			       ((i->flags & INSN_MEM) || i->rm != reg);
		if (i->form == FORM_RM_REG)
			return i->rm == reg && i->reg != reg;
		return i->form == FORM_RM_IMM;
	}
	return false;
}

bool tr_is_only_read(const struct insn *i, unsigned reg)
{
	unsigned in_reg = i->high8 & 1 ? i->reg & 3U : i->reg;
	unsigned in_rm = i->high8 & 2 ? i->rm & 3U : i->rm;

	switch (i->op) {
	case OP_CMP:
	case OP_TEST:
	case OP_BT:
		return true;
	case OP_XCHG:
	case OP_XADD:
	case OP_NATIVE:
		return false;
	default:
		break;
	}
	if (i->form == FORM_RM_REG)
		return in_reg == reg && ((i->flags & INSN_MEM) || in_rm != reg);
	return (i->form == FORM_REG_RM || i->form == FORM_REG_RM_IMM) &&
	       in_reg != reg;
}

static bool writes_rsp(const struct insn *i)
{
	return ((insn_reg_is_gpr(i) && i->reg == RSP && !(i->high8 & 1)) ||
		(insn_rm_is_gpr(i) && i->rm == RSP && !(i->high8 & 2)) ||
		(insn_v_is_gpr(i) && i->vvvv == RSP)) &&
	       !tr_is_only_read(i, RSP);
}

/* Additions of and masks with multiples of 8 keep it aligned. */
static bool keeps_rsp_aligned(const struct insn *i)
{
	return i->form == FORM_RM_IMM && i->opsize == 8 && i->rm == RSP &&
	       (i->op == OP_AND ||
		((i->op == OP_ADD || i->op == OP_SUB) && !(i->imm & 7)));
}

/* ---- Substituted registers ----------------------------------------------- */

/** A general register operand that does not live where it can be named. */
struct substitute {
	uint8_t reg, scratch;
};

struct operands {
	struct substitute subs[3];
	unsigned nr;
	uint8_t free[3]; /* scratch registers left */
	unsigned nr_free;
	bool has_rcx; /* the instruction has RCX for itself */
	bool no_rex;
	bool failed;
};

/* What is free depends on what the address of a memory operand takes. */
static void operands_init(struct operands *o, const struct tr *t)
{
	bool in_run = t->run.is_active;
	bool has_mem = t->i.flags & INSN_MEM;

	*o = (struct operands){
		.has_rcx = insn_implied_gprs(&t->i) >> RCX & 1,
		.no_rex = t->i.high8,
	};
	if (!o->has_rcx && (in_run || !has_mem))
		o->free[o->nr_free++] = H_RCX;
	if (!in_run && !(o->has_rcx && has_mem))
		o->free[o->nr_free++] = H_R8;
	o->free[o->nr_free++] = H_TABLE;
}

/* The host register for operand (reg). */
static uint8_t operand(struct operands *o, uint8_t reg, bool is_high8)
{
	unsigned guest = is_high8 ? reg & 3U : reg;
	uint8_t home = tr_homes[guest];

	if (home != INSN_NONE && !(o->no_rex && home >= 8))
		return is_high8 ? reg : home;
	for (unsigned n = 0; n < o->nr; n++)
		if (o->subs[n].reg == guest)
			return is_high8 ? o->subs[n].scratch + 4
					: o->subs[n].scratch;
	for (unsigned n = 0; n < o->nr_free; n++) {
		uint8_t scratch = o->free[n];

		if (o->no_rex && scratch >= 8)
			continue;
		o->free[n] = o->free[--o->nr_free];
		o->subs[o->nr++] =
			(struct substitute){ (uint8_t)guest, scratch };
		return is_high8 ? scratch + 4 : scratch;
	}
	o->failed = true;
	return 0;
}

static void operands_load(struct tr *t, const struct operands *o)
{
	for (unsigned n = 0; n < o->nr; n++) {
		const struct substitute *s = &o->subs[n];

		if (is_overwritten(&t->i, s->reg))
			continue;
		if (tr_homes[s->reg] == INSN_NONE)
			emit_load(&t->e, s->scratch, tr_gpr_memory(s->reg));
		else
			emit_mov(&t->e, s->scratch, tr_homes[s->reg]);
	}
}

static void operands_store(struct tr *t, const struct operands *o)
{
	for (unsigned n = 0; n < o->nr; n++)
		if (!tr_is_only_read(&t->i, o->subs[n].reg))
			tr_reg_out(t, o->subs[n].reg, o->subs[n].scratch);
}

/* Look the memory operand up, and name it. */
static void memory_operand(struct tr *t, const struct operands *o,
			   struct host_insn *h)
{
	const struct insn *i = &t->i;
	enum span_check check;

	if (t->run.is_active) {
		h->mem = tr_run_operand(t, (int32_t)i->disp);
		return;
	}
	check = tr_operand(t, i->mem_size,
			   i->flags & (INSN_WRITE_MEM | INSN_LOCK));
	h->make_aligned = emit_has_aligned(i) && check == CHECK_NONE;
	h->mem = hmem_index(H_R8, H_RCX, 0, 0);
	if (o->nr || o->has_rcx || o->no_rex) {
		unsigned reg = o->has_rcx ? H_R8 : H_RCX;

		emit_lea(&t->e, reg, h->mem);
		h->mem = hmem_base(reg, 0);
	}
}

bool tr_copy(struct tr *t)
{
	const struct insn *i = &t->i;
	struct host_insn h = { .has_mem = i->flags & INSN_MEM };
	struct operands o;

	operands_init(&o, t);
	if (insn_reg_is_gpr(i))
		h.reg = operand(&o, i->reg, i->high8 & 1);
	if (insn_rm_is_gpr(i))
		h.rm = operand(&o, i->rm, i->high8 & 2);
	if (insn_v_is_gpr(i))
		h.vvvv = operand(&o, i->vvvv, false);
	if (o.failed || (o.no_rex && h.has_mem && o.has_rcx))
		return tr_callout(t);
	if (h.has_mem)
		memory_operand(t, &o, &h);
	if (o.has_rcx)
		emit_mov(&t->e, H_RCX, H_GUEST_RCX);
	operands_load(t, &o);
	tr_commit(t);
	emit_insn(&t->e, i, &h);
	operands_store(t, &o);
	/* PCMPISTRI, PCMPESTRI: the index */
	if (o.has_rcx && i->op == OP_NATIVE)
		emit_mov(&t->e, H_GUEST_RCX, H_RCX);
	for (unsigned n = 0; n < o.nr; n++)
		if (o.subs[n].scratch == H_TABLE)
			tr_table_back(t);
	if (writes_rsp(i) && !keeps_rsp_aligned(i))
		tr_check_rsp(t);
	return true;
}

/* ---- Nearly copied ------------------------------------------------------- */

bool tr_lea(struct tr *t)
{
	const struct insn *i = &t->i;
	struct hmem m;
	unsigned base = INSN_NONE, index = INSN_NONE, to;
	int64_t disp = i->disp;

	if (i->opsize == 2 || disp != (int32_t)disp)
		return tr_callout(t);
	if (i->flags & INSN_RIPREL) {
		tr_page_address(t, H_R8, (int32_t)(disp + t->off + i->len));
		base = H_R8;
		disp = 0;
	} else if (i->base != INSN_NONE) {
		base = tr_reg_in(t, i->base, H_R8);
	}
	if (i->index != INSN_NONE)
		index = tr_reg_in(t, i->index, H_RCX);
	to = tr_homes[i->reg] == INSN_NONE ? H_R8 : tr_homes[i->reg];
	m = hmem_index(base, index, i->scale_log2, (int32_t)disp);
	tr_commit(t);
	if (i->opsize == 4 || i->addrsize == 4)
		emit_lea32(&t->e, to, m);
	else
		emit_lea(&t->e, to, m);
	if (tr_homes[i->reg] == INSN_NONE)
		tr_reg_out(t, i->reg, to);
	if (i->reg == RSP && !(i->base == RSP && index == INSN_NONE &&
			       !(i->disp & 7) && i->opsize == 8))
		tr_check_rsp(t);
	return true;
}

/* BT, BTS, BTR, BTC of memory with a bit number in a register, which reaches
 * beyond the operand (SDM, BT): first the operand that has the bit. */
static bool bit_string(struct tr *t)
{
	const struct insn *i = &t->i;
	unsigned size = i->opsize, wide = size == 8;
	enum span_check check =
		tr_is_misaligned(t) ? CHECK_PAGE : CHECK_ALIGNED;
	struct host_insn h = { .has_mem = true, .reg = H_TABLE };
	unsigned reg;

	if (size < 4)
		return tr_callout(t);
	tr_address(t);
	reg = tr_reg_in(t, i->reg, H_TABLE);
	/* rcx = the number, sign-extended, by 32 or 64 */
	emit_imm(&t->e, H_RCX, wide ? 6 : 5);
	emit_sarx(&t->e, wide, H_TABLE, reg, H_RCX);
	if (!wide)
		emit_movsxd(&t->e, H_TABLE, H_TABLE);
	emit_lea(&t->e, H_R8, hmem_index(H_R8, H_TABLE, wide ? 3 : 2, 0));
	tr_table_back(t);
	tr_check_page(t, check, size);
	tr_lookup(t, i->op != OP_BT);
	tr_check_operand(t, check, size);
	emit_lea(&t->e, H_RCX, hmem_index(H_R8, H_RCX, 0, 0));
	reg = tr_reg_in(t, i->reg, H_TABLE);
	emit_pext(&t->e, H_TABLE, reg,
		  hmem_state(BT_OFF(bit_masks) + 8 * (int)wide));
	h.mem = hmem_base(H_RCX, 0);
	tr_commit(t);
	emit_insn(&t->e, i, &h);
	tr_table_back(t);
	return true;
}

bool tr_bit_test(struct tr *t)
{
	bool is_string = (t->i.flags & INSN_MEM) && t->i.form == FORM_RM_REG;

	return is_string ? bit_string(t) : tr_copy(t);
}
