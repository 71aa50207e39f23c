/*
 * Operands: how translated code gets at the guest's registers and memory.
 *
 *     instruction with a memory operand =
 *                  lea   r8, [operand]
 *                  pext  rcx, r8, [page_masks]     number of the page
 *                  mov   rcx, [r11 + rcx * 8]      hva - gva, or 0
 *                  jrcxz pad
 *                  (alignment check)
 *                  op    [r8 + rcx]
 *     pad        = call gate_miss; .short offset of the instruction in its page
 *                  jmp  back behind the jrcxz
 *
 * None of that changes flags, or a register that stands for one of the guest's;
 * only the last line does, and it comes after everything that may fault.
 *
 * An access over a page's end would go on in whatever is behind the page on the
 * host. Scalar operands are taken to be aligned; the check makes the address
 * non-canonical if one is not (PDEP puts the low bits to 60 and up), and after
 * the fault the instruction is translated with a check of the page's end
 * instead. Unaligned vector moves become their aligned twins and fault by
 * themselves. RSP is always aligned here: what may change that checks it.
 */
#include "vcpu/bt/translate.h"

/* ---- Registers ----------------------------------------------------------- */

const uint8_t tr_homes[NR_GPR] = {
	[RAX] = H_RAX,    [RCX] = H_GUEST_RCX, [RDX] = H_RDX,
	[RBX] = H_RBX,    [RSP] = H_GUEST_RSP, [RBP] = H_RBP,
	[RSI] = H_RSI,    [RDI] = H_RDI,       [R8] = INSN_NONE,
	[R9] = INSN_NONE, [R10] = INSN_NONE,   [R11] = INSN_NONE,
	[R12] = 12,       [R13] = 13,          [R14] = 14,
	[R15] = 15,
};

unsigned tr_reg_in(struct tr *t, unsigned reg, unsigned scratch)
{
	if (tr_homes[reg] != INSN_NONE)
		return tr_homes[reg];
	emit_load(&t->e, scratch, tr_gpr_memory(reg));
	return scratch;
}

void tr_reg_out(struct tr *t, unsigned reg, unsigned from)
{
	if (tr_homes[reg] == INSN_NONE)
		emit_store(&t->e, tr_gpr_memory(reg), from);
	else if (tr_homes[reg] != from)
		emit_mov(&t->e, tr_homes[reg], from);
}

void tr_page_address(struct tr *t, unsigned reg, int32_t off)
{
	if (t->page->gva) { /* mov reg, sign-extended imm32 */
		emit_u8(&t->e, (uint8_t)(0x48 | (reg >> 3)));
		emit_u8(&t->e, 0xc7);
		emit_u8(&t->e, (uint8_t)(0xc0 | (reg & 7)));
		emit_u32(&t->e, (uint32_t)t->page->gva + (uint32_t)off);
		return;
	}
	emit_load(&t->e, reg, hmem_state(BT_OFF(page)));
	emit_lea(&t->e, reg, hmem_base(reg, off));
}

void tr_table_back(struct tr *t)
{
	emit_load(&t->e, H_TABLE, hmem_state(BT_OFF(table)));
}

void tr_commit(struct tr *t)
{
	t->side->commit = (uint16_t)(emit_here(&t->e) - t->block_start);
}

/* ---- Pads ---------------------------------------------------------------- */

void tr_pads_write(struct tr *t)
{
	for (unsigned n = 0; n < t->nr_pads; n++) {
		struct pad *p = &t->pads[n];
		ptrdiff_t d = t->e.p - (p->jrcxz + 1);

		if (d > 127)
			t->failed = true;
		*p->jrcxz = (uint8_t)d;
		if (p->gate == NR_GATES) {
			t->alts[p->alt].site = emit_jmp(&t->e, 0);
			continue;
		}
		emit_call(&t->e, t->bt->gate[p->gate]);
		emit_u8(&t->e, (uint8_t)p->off);
		emit_u8(&t->e, (uint8_t)(p->off >> 8));
		emit_jmp(&t->e, p->back);
	}
	t->nr_pads = 0;
}

void tr_pads_settle(struct tr *t)
{
	uint8_t *over;

	if (!t->nr_pads || (t->nr_pads < MAX_PADS - 2 &&
			    t->e.p - t->pads[0].jrcxz < t->pad_reach))
		return;
	emit_u8(&t->e, 0xeb);
	over = t->e.p;
	emit_u8(&t->e, 0);
	tr_pads_write(t);
	*over = (uint8_t)(t->e.p - (over + 1));
}

void tr_pad_add(struct tr *t, enum gate gate)
{
	struct pad *p;

	if (t->nr_pads == MAX_PADS) {
		t->failed = true;
		return;
	}
	emit_u8(&t->e, 0xe3); /* jrcxz */
	p = &t->pads[t->nr_pads++];
	p->jrcxz = t->e.p;
	emit_u8(&t->e, 0);
	p->back = emit_here(&t->e);
	p->off = t->off;
	p->gate = gate;
}

/* ---- Memory -------------------------------------------------------------- */

void tr_lookup(struct tr *t, bool is_write)
{
	struct hmem entry = hmem_index(H_TABLE, H_RCX, 3, 0);
	bool is_user = t->page->key & KEY_USER;

	emit_pext(&t->e, H_RCX, H_R8,
		  hmem_state(BT_OFF(page_masks) + (is_user ? 0 : 8)));
	entry.is_gs = is_write;
	emit_load(&t->e, H_RCX, entry);
	tr_pad_add(t, is_write ? GATE_MISS_WRITE : GATE_MISS_READ);
}

static unsigned log2_of(unsigned n)
{
	return (unsigned)__builtin_ctz(n);
}

void tr_check_page(struct tr *t, enum span_check check, unsigned size)
{
	if (check != CHECK_PAGE)
		return;
	/* 4095 - offset + 4097 - size: bit 12 is set if they are. */
	emit_mov(&t->e, H_RCX, H_R8);
	emit_not(&t->e, H_RCX);
	emit_pext(&t->e, H_RCX, H_RCX, hmem_state(BT_OFF(offset_mask)));
	emit_lea(&t->e, H_RCX, hmem_base(H_RCX, 4097 - (int)size));
	emit_rorx(&t->e, H_RCX, H_RCX, PAGE_SHIFT);
	emit_zero_extend8(&t->e, H_RCX, H_RCX);
	tr_pad_add(t, GATE_STEP);
}

void tr_check_operand(struct tr *t, enum span_check check, unsigned size)
{
	if (check != CHECK_ALIGNED)
		return;
	emit_pdep(&t->e, H_TABLE, H_R8,
		  hmem_state(BT_OFF(align_masks) + 8 * (int)log2_of(size)));
	emit_lea(&t->e, H_R8, hmem_index(H_R8, H_TABLE, 0, 0));
	tr_table_back(t);
}

void tr_address(struct tr *t)
{
	const struct insn *i = &t->i;
	unsigned base = INSN_NONE, index = INSN_NONE;
	int64_t disp = i->disp;
	struct hmem m;

	if (i->seg >= SEG_FS && i->addrsize == 8 && i->base == INSN_NONE &&
	    i->index == INSN_NONE && !(i->flags & INSN_RIPREL) &&
	    disp == (int32_t)disp) {
		emit_load(&t->e, H_R8,
			  hmem_state((int)(offsetof(struct bt, cpu.s.seg) +
					   i->seg * sizeof(struct x86_seg))));
		if (disp)
			emit_lea(&t->e, H_R8, hmem_base(H_R8, (int32_t)disp));
		return;
	}
	if (i->flags & INSN_RIPREL) {
		tr_page_address(t, H_R8, (int32_t)(disp + t->off + i->len));
		base = H_R8;
		disp = 0;
	} else if (i->base != INSN_NONE) {
		base = tr_reg_in(t, i->base, H_R8);
	}
	if (i->index != INSN_NONE)
		index = tr_reg_in(t, i->index, H_RCX);
	if (disp != (int32_t)disp) { /* an absolute address */
		emit_imm(&t->e, H_R8, (uint64_t)disp);
		base = H_R8;
		disp = 0;
	}
	m = hmem_index(base, index, i->scale_log2, (int32_t)disp);
	if (i->addrsize == 4)
		emit_lea32(&t->e, H_R8, m);
	else if (base == INSN_NONE && index == INSN_NONE)
		emit_lea(&t->e, H_R8,
			 (struct hmem){ .base = INSN_NONE,
					.index = INSN_NONE,
					.disp = (int32_t)disp });
	else if (index == INSN_NONE && !disp && base != H_R8)
		emit_mov(&t->e, H_R8, base);
	else if (index != INSN_NONE || disp || base != H_R8)
		emit_lea(&t->e, H_R8, m);
	if (i->seg >= SEG_FS) {
		emit_load(&t->e, H_RCX,
			  hmem_state((int)(offsetof(struct bt, cpu.s.seg) +
					   i->seg * sizeof(struct x86_seg))));
		emit_lea(&t->e, H_R8, hmem_index(H_R8, H_RCX, 0, 0));
	}
}

bool tr_is_misaligned(const struct tr *t)
{
	return t->page->misaligned[t->off / 64] >> (t->off % 64) & 1;
}

/* RSP with a multiple of 8: aligned. */
static bool is_stack_operand(const struct insn *i, unsigned size)
{
	return i->base == RSP && i->index == INSN_NONE && i->addrsize == 8 &&
	       i->seg < SEG_FS && size <= 8 && !(i->disp & (size - 1));
}

static enum span_check check_for(const struct tr *t, unsigned size)
{
	if (size == 1 || is_stack_operand(&t->i, size))
		return CHECK_NONE;
	if ((t->i.flags & INSN_ALIGNED) ||
	    (emit_has_aligned(&t->i) && !tr_is_misaligned(t)))
		return CHECK_NONE;
	if (size > 8 || tr_is_misaligned(t))
		return CHECK_PAGE;
	return CHECK_ALIGNED;
}

enum span_check tr_operand(struct tr *t, unsigned size, bool is_write)
{
	enum span_check check = check_for(t, size);

	tr_address(t);
	tr_check_page(t, check, size);
	tr_lookup(t, is_write);
	tr_check_operand(t, check, size);
	return check;
}

/* ---- The stack's top ----------------------------------------------------- */

void tr_push_lookup(struct tr *t)
{
	tr_pads_settle(t);
	emit_lea(&t->e, H_R8, hmem_base(H_GUEST_RSP, -8));
	tr_lookup(t, true);
}

void tr_push_done(struct tr *t)
{
	emit_lea(&t->e, H_GUEST_RSP, hmem_base(H_GUEST_RSP, -8));
}

void tr_check_rsp(struct tr *t)
{
	uint8_t *jrcxz;

	emit_pext(&t->e, H_RCX, H_GUEST_RSP, hmem_state(BT_OFF(three_bits)));
	emit_u8(&t->e, 0xe3);
	jrcxz = t->e.p;
	emit_u8(&t->e, 0);
	tr_page_address(t, H_R8, t->off + t->i.len);
	emit_call(&t->e, t->bt->gate[GATE_JUMP]);
	*jrcxz = (uint8_t)(t->e.p - (jrcxz + 1));
}

/* ---- What interp does ---------------------------------------------------- */

/* Let interp's handler do it. */
static void callout(struct tr *t, uint8_t len)
{
	struct code *c = t->code;
	struct callout *o = &c->callouts[c->nr_callouts];

	o->off = t->off;
	o->len = len;
	o->op = t->i.op;
	o->is_branch = t->i.flags & (INSN_BRANCH | INSN_END);
	emit_call(&t->e, t->bt->gate[GATE_CALLOUT]);
	emit_u32(&t->e, c->nr_callouts++);
}

bool tr_callout(struct tr *t)
{
	struct code *c = t->code;
	struct callout *o = &c->callouts[c->nr_callouts];

	uop_make(&t->bt->cpu, &o->uop, &t->i, &o->slow, NULL);
	callout(t, t->i.len);
	return !(t->i.flags & (INSN_BRANCH | INSN_END));
}

void tr_callout_raise(struct tr *t, int error)
{
	struct callout *o = &t->code->callouts[t->code->nr_callouts];

	t->i = (struct insn){ .flags = INSN_BRANCH };
	uop_make_raise(&o->uop, error == INSN_INVALID ? EXC_UD : EXC_GP);
	callout(t, 1);
}
