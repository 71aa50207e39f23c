/*
 * Runs. Several instructions with operands [base + displacement] off the same
 * base share one lookup: r8 is the host's address of what is around the base,
 * and the operands are [r8 + displacement]. They are known to be in one page
 * unless the base is so near its end that they may not be; then the way goes
 * through an alternative (alt) behind the block, where each looks for itself.
 * A store starts a run of its own, for loads may not set dirty bits.
 */
#include "vcpu/bt/translate.h"
#include "vcpu/insn/native_encode.h"

#define RUN_SPAN 512 /* bytes that a run may reach over */

/* May (i) change general register (reg)? Only asked about what is_plain(). */
static bool writes_gpr(const struct insn *i, unsigned reg)
{
	unsigned in_reg = i->high8 & 1 ? i->reg & 3U : i->reg;
	unsigned in_rm = i->high8 & 2 ? i->rm & 3U : i->rm;

	if (i->op == OP_JCC || i->op == OP_NOP)
		return false;
	if (i->op == OP_LEA)
		return i->reg == reg;
	if (insn_implied_gprs(i) >> reg & 1)
		return true;
	if ((reg == RAX || reg == RDX) &&
	    (i->op == OP_CBW || i->op == OP_CWD || i->op == OP_LAHF ||
	     i->op == OP_XCHG || i->form == FORM_VEC || i->form == FORM_NONE))
		return true;
	return ((insn_reg_is_gpr(i) && in_reg == reg) ||
		(insn_rm_is_gpr(i) && in_rm == reg) ||
		(insn_v_is_gpr(i) && i->vvvv == reg)) &&
	       !tr_is_only_read(i, reg);
}

bool tr_moves_gpr(const struct insn *i, unsigned reg, int32_t *by)
{
	*by = 0;
	if (i->opsize != 8)
		return false;
	switch (i->op) {
	case OP_PUSH:
		*by = -8;
		return reg == RSP;
	case OP_POP:
		*by = 8;
		return reg == RSP && i->rm != RSP;
	case OP_ADD:
	case OP_SUB:
		*by = (int32_t)(i->op == OP_ADD ? i->imm : -i->imm);
		return i->form == FORM_RM_IMM && !(i->flags & INSN_MEM) &&
		       i->rm == reg && i->imm > -4096 && i->imm < 4096;
	case OP_LEA:
		*by = (int32_t)i->disp;
		return i->reg == reg && i->base == reg &&
		       i->index == INSN_NONE && i->addrsize == 8 &&
		       i->disp > -4096 && i->disp < 4096;
	default:
		return false;
	}
}

/* Where a push, a pop or a return finds its item, from RSP. */
static bool stack_item(const struct insn *i, int32_t *disp)
{
	*disp = i->op == OP_PUSH || i->op == OP_CALL ? -8 : 0;
	if (i->opsize != 8)
		return false;
	switch (i->op) {
	case OP_PUSH:
	case OP_POP:
		return !(i->flags & INSN_MEM) &&
		       (i->form == FORM_IMM || i->rm != RSP);
	case OP_CALL:
		return i->imm == (int32_t)i->imm;
	case OP_RET:
		return i->form != FORM_IMM;
	default:
		return false;
	}
}

/** An operand that may be part of a run. */
struct run_access {
	uint8_t base;
	int32_t disp;
	unsigned size;
	bool is_write;
};

static bool access_of(const struct tr *t, const struct insn *i,
		      struct run_access *a)
{
	if (stack_item(i, &a->disp)) {
		a->base = RSP;
		a->size = 8;
		a->is_write = a->disp;
		return true;
	}
	if (i->op == OP_PUSH || i->op == OP_POP || !(i->flags & INSN_MEM) ||
	    !tr_is_copied(i) || !tr_is_usable(t, i) || i->high8 ||
	    i->base == INSN_NONE || i->index != INSN_NONE || i->addrsize != 8 ||
	    i->seg >= SEG_FS ||
	    (insn_implied_gprs(i) & ~(1U << RAX | 1U << RDX)) ||
	    i->disp < -RUN_SPAN * 4 || i->disp > RUN_SPAN * 4)
		return false;
	a->base = i->base;
	a->disp = (int32_t)i->disp;
	a->size = i->mem_size;
	a->is_write = i->flags & (INSN_WRITE_MEM | INSN_LOCK);
	return true;
}

/* Is (i) translated without r8, so that a run goes on behind it? */
static bool is_plain(const struct tr *t, const struct insn *i)
{
	if (!tr_is_usable(t, i))
		return false;
	switch (i->op) {
	case OP_NOP:
	case OP_JCC:
		return true;
	case OP_LEA:
		return i->opsize == 8 && i->addrsize == 8 &&
		       !(i->flags & INSN_RIPREL) && i->base != INSN_NONE &&
		       tr_homes[i->base] != INSN_NONE &&
		       (i->index == INSN_NONE ||
			tr_homes[i->index] != INSN_NONE) &&
		       tr_homes[i->reg] != INSN_NONE &&
		       i->disp == (int32_t)i->disp;
	default:
		return !(i->flags & INSN_MEM) && tr_is_copied(i);
	}
}

bool tr_run_plan(struct tr *t)
{
	struct run *r = &t->run;
	unsigned nr_accesses = 0;
	struct run_access a;
	int32_t moved = 0, by;

	*r = (struct run){ .lo = INT32_MAX, .hi = INT32_MIN };
	if (!t->has_runs || t->nr_alts == MAX_ALTS ||
	    !access_of(t, &t->insns[t->at], &a))
		return false;
	r->base = a.base;
	r->is_write = a.is_write;
	for (unsigned n = t->at; n < t->nr; n++) {
		const struct insn *i = &t->insns[n];
		bool is_access = access_of(t, i, &a);

		if (is_access) {
			int32_t from = MIN(r->lo, a.disp + moved);
			int32_t to =
				MAX(r->hi, a.disp + moved + (int32_t)a.size);

			if (a.base != r->base || (a.is_write && !r->is_write) ||
			    to - from > RUN_SPAN)
				break;
			r->lo = from;
			r->hi = to;
			r->last = n;
			nr_accesses++;
		} else if (!is_plain(t, i)) {
			break;
		}
		if (tr_moves_gpr(i, r->base, &by))
			moved += by;
		else if (i->op == OP_CALL || i->op == OP_RET ||
			 (i->op != OP_PUSH && i->op != OP_POP &&
			  writes_gpr(i, r->base)) ||
			 (i->op == OP_POP && i->rm == r->base))
			break;
	}
	r->is_active = nr_accesses >= (r->base == RSP ? 3 : 2);
	return r->is_active;
}

void tr_run_start(struct tr *t)
{
	struct run *r = &t->run;
	unsigned span = (unsigned)(r->hi - r->lo), n = 0;
	unsigned base = tr_reg_in(t, r->base, H_R8);

	while ((1U << n) < span)
		n++;
	emit_lea(&t->e, H_R8, hmem_base(base, r->lo));
	/* Not in the last 2^n bytes of the page. */
	emit_mov(&t->e, H_RCX, H_R8);
	emit_not(&t->e, H_RCX);
	emit_pext(&t->e, H_RCX, H_RCX,
		  hmem_state(BT_OFF(near_masks) + 8 * (int)n));
	tr_pad_add(t, NR_GATES);
	t->pads[t->nr_pads - 1].alt = t->nr_alts;
	t->alts[t->nr_alts++] = (struct alt){ .first = t->at, .last = r->last };
	tr_lookup(t, r->is_write);
	emit_lea(&t->e, H_R8, hmem_index(H_R8, H_RCX, 0, 0));
}
