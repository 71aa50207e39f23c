/*
 * Ways out of a block: branches, calls and returns, and with them the stack.
 *
 * A branch to a known place is written down (way_out) and completed behind the
 * block. In the same page it becomes a link, which gate_link closes when it is
 * first followed; so does one to another page whose address is known, which is
 * the kernel's. All others look their target up in the table for execution, for
 * what is at an address may change without this page's code knowing.
 */
#include "vcpu/bt/translate.h"

/* ---- Ways out ------------------------------------------------------------ */

/* Jump to the guest address in r8. */
static void jump_indirect(struct tr *t)
{
	bool is_user = t->page->key & KEY_USER;
	uint8_t *jrcxz;

	if (unlikely(t->bt->check)) {
		emit_call(&t->e, t->bt->gate[GATE_JUMP]);
		return;
	}
	emit_pext(&t->e, H_RCX, H_R8,
		  hmem_state(BT_OFF(exec_masks) + (is_user ? 0 : 8)));
	emit_load(&t->e, H_TABLE, hmem_state(BT_OFF(exec_table)));
	emit_load(&t->e, H_RCX, hmem_index(H_TABLE, H_RCX, 3, 0));
	tr_table_back(t);
	emit_u8(&t->e, 0xe3);
	jrcxz = t->e.p;
	emit_u8(&t->e, 0);
	/* The entry is that of the page's array less four times the page's
	 * address: a non-canonical one faults. */
	emit_load32(&t->e, H_RCX, hmem_index(H_RCX, H_R8, 2, 0));
	emit_jmp_reg(&t->e, H_RCX);
	*jrcxz = (uint8_t)(t->e.p - (jrcxz + 1));
	emit_call(&t->e, t->bt->gate[GATE_JUMP]);
}

/* Jump to (to), an offset from the page's start which is in another one. */
static void jump_away(struct tr *t, int32_t to)
{
	tr_page_address(t, H_R8, to);
	jump_indirect(t);
}

static void way_add(struct tr *t, uint32_t site, int32_t to)
{
	if (t->nr_ways == MAX_EXITS) {
		t->failed = true;
		return;
	}
	t->ways[t->nr_ways++] = (struct way_out){ site, to };
}

void tr_patch(struct tr *t, uint32_t site, uint32_t to)
{
	uint8_t *p = (uint8_t *)(site - t->e.shift);

	if (p + 4 <= t->e.end)
		*(uint32_t *)(void *)p = to - (site + 4);
}

void tr_ways_write(struct tr *t)
{
	struct code *c = t->code;

	for (unsigned n = 0; n < t->nr_ways; n++) {
		const struct way_out *w = &t->ways[n];
		uint32_t site;

		if (w->to == t->block_off && !t->bt->check) {
			tr_patch(t, w->site,
				 t->block_start +
					 c->blocks[c->nr_blocks].entry_len);
			continue;
		}
		site = w->site;
		tr_patch(t, site, emit_here(&t->e));
		if (w->to < 0 || w->to >= (int32_t)PAGE_SIZE) {
			if (!t->page->gva || t->bt->check) {
				jump_away(t, w->to);
				continue;
			}
			tr_page_address(t, H_R8, w->to);
			site = emit_jmp(&t->e, 0);
			tr_patch(t, site, emit_here(&t->e));
		}
		c->links[c->nr_links + t->nr_links] = (struct link){
			.site = site,
			.stub = emit_here(&t->e),
			.block = c->nr_blocks,
			.target = w->to,
		};
		emit_call(&t->e, t->bt->gate[GATE_LINK]);
		emit_u32(&t->e, c->nr_links + t->nr_links);
		t->nr_links++;
	}
}

void tr_branch_to(struct tr *t, int32_t to)
{
	way_add(t, emit_jmp(&t->e, 0), to);
}

/* ---- The stack ----------------------------------------------------------- */

bool tr_push(struct tr *t)
{
	const struct insn *i = &t->i;
	struct hmem top = hmem_index(H_R8, H_RCX, 0, 0);

	if (i->opsize != 8)
		return tr_callout(t);
	if (t->run.is_active) {
		top = tr_run_operand(t, -8);
		if (i->form == FORM_IMM) {
			tr_commit(t);
			emit_store_imm(&t->e, top, (int32_t)i->imm);
		} else {
			unsigned reg = tr_reg_in(t, i->rm, H_RCX);

			tr_commit(t);
			emit_store(&t->e, top, reg);
		}
		tr_push_done(t);
		return true;
	}
	if (i->flags & INSN_MEM) {
		tr_operand(t, 8, false);
		emit_load(&t->e, H_R8, top);
		emit_store(&t->e, hmem_state(BT_OFF(tmp)), H_R8);
		tr_push_lookup(t);
		emit_load(&t->e, H_TABLE, hmem_state(BT_OFF(tmp)));
		tr_commit(t);
		emit_store(&t->e, top, H_TABLE);
		tr_push_done(t);
		tr_table_back(t);
		return true;
	}
	tr_push_lookup(t);
	if (i->form == FORM_IMM) {
		tr_commit(t);
		emit_store_imm(&t->e, top, (int32_t)i->imm);
		tr_push_done(t);
		return true;
	}
	if (tr_homes[i->rm] == INSN_NONE) {
		emit_load(&t->e, H_TABLE, tr_gpr_memory(i->rm));
		tr_commit(t);
		emit_store(&t->e, top, H_TABLE);
		tr_push_done(t);
		tr_table_back(t);
		return true;
	}
	tr_commit(t);
	emit_store(&t->e, top, tr_homes[i->rm]);
	tr_push_done(t);
	return true;
}

bool tr_pop(struct tr *t)
{
	const struct insn *i = &t->i;
	struct hmem top = hmem_index(H_R8, H_RCX, 0, 0);

	if (i->opsize != 8 || (i->flags & INSN_MEM))
		return tr_callout(t);
	if (t->run.is_active) {
		top = tr_run_operand(t, 0);
	} else {
		emit_mov(&t->e, H_R8, H_GUEST_RSP);
		tr_lookup(t, false);
	}
	tr_commit(t);
	if (i->rm == RSP) {
		emit_load(&t->e, H_GUEST_RSP, top);
		tr_check_rsp(t);
		return true;
	}
	if (tr_homes[i->rm] == INSN_NONE) {
		emit_load(&t->e, H_RCX, top);
		emit_store(&t->e, tr_gpr_memory(i->rm), H_RCX);
	} else {
		emit_load(&t->e, tr_homes[i->rm], top);
	}
	emit_lea(&t->e, H_GUEST_RSP, hmem_base(H_GUEST_RSP, 8));
	return true;
}

bool tr_leave(struct tr *t)
{
	if (t->i.opsize != 8)
		return tr_callout(t);
	emit_mov(&t->e, H_R8, H_RBP);
	tr_lookup(t, false);
	/* What is at an odd address goes to interp, which leaves RSP odd. */
	tr_check_operand(t, CHECK_ALIGNED, 8);
	emit_load(&t->e, H_RCX, hmem_index(H_R8, H_RCX, 0, 0));
	tr_commit(t);
	emit_lea(&t->e, H_GUEST_RSP, hmem_base(H_RBP, 8));
	emit_mov(&t->e, H_RBP, H_RCX);
	return true;
}

/* ---- Branches ------------------------------------------------------------ */

/* Store the return address; RSP is changed. */
static void call_push(struct tr *t)
{
	if (t->run.is_active) {
		tr_page_address(t, H_RCX, t->off + t->i.len);
		tr_commit(t);
		emit_store(&t->e, tr_run_operand(t, -8), H_RCX);
		tr_push_done(t);
		return;
	}
	tr_push_lookup(t);
	emit_lea(&t->e, H_RCX, hmem_index(H_R8, H_RCX, 0, 0));
	tr_page_address(t, H_R8, t->off + t->i.len);
	tr_commit(t);
	emit_store(&t->e, hmem_base(H_RCX, 0), H_R8);
	tr_push_done(t);
}

/* r8 = where an indirect branch leads. */
static void target_indirect(struct tr *t)
{
	const struct insn *i = &t->i;

	if (i->flags & INSN_MEM) {
		tr_operand(t, 8, false);
		emit_load(&t->e, H_R8, hmem_index(H_R8, H_RCX, 0, 0));
	} else {
		unsigned reg = tr_reg_in(t, i->rm, H_R8);

		if (reg != H_R8)
			emit_mov(&t->e, H_R8, reg);
	}
}

static int32_t branch_target(const struct tr *t)
{
	return (int32_t)(t->off + t->i.len + t->i.imm);
}

static bool is_branch_fit(const struct tr *t)
{
	return t->i.opsize == 8 && t->i.imm == (int32_t)t->i.imm;
}

bool tr_jmp(struct tr *t)
{
	if (!is_branch_fit(t))
		return tr_callout(t);
	tr_commit(t);
	tr_branch_to(t, branch_target(t));
	return false;
}

bool tr_jcc(struct tr *t)
{
	if (!is_branch_fit(t))
		return tr_callout(t);
	tr_commit(t);
	way_add(t, emit_jcc(&t->e, t->i.cond & 15, 0), branch_target(t));
	return true;
}

bool tr_jmp_ind(struct tr *t)
{
	if (t->i.opsize != 8)
		return tr_callout(t);
	target_indirect(t);
	tr_commit(t);
	jump_indirect(t);
	return false;
}

bool tr_call(struct tr *t)
{
	if (!is_branch_fit(t))
		return tr_callout(t);
	call_push(t);
	tr_branch_to(t, branch_target(t));
	return false;
}

bool tr_call_ind(struct tr *t)
{
	if (t->i.opsize != 8)
		return tr_callout(t);
	target_indirect(t);
	emit_store(&t->e, hmem_state(BT_OFF(tmp)), H_R8);
	call_push(t);
	emit_load(&t->e, H_R8, hmem_state(BT_OFF(tmp)));
	jump_indirect(t);
	return false;
}

bool tr_ret(struct tr *t)
{
	const struct insn *i = &t->i;
	int32_t more = i->form == FORM_IMM ? (uint16_t)i->imm : 0;

	if (i->opsize != 8 || (more & 7))
		return tr_callout(t);
	if (t->run.is_active) {
		emit_load(&t->e, H_R8, tr_run_operand(t, 0));
	} else {
		emit_mov(&t->e, H_R8, H_GUEST_RSP);
		tr_lookup(t, false);
		emit_load(&t->e, H_R8, hmem_index(H_R8, H_RCX, 0, 0));
	}
	tr_commit(t);
	emit_lea(&t->e, H_GUEST_RSP, hmem_base(H_GUEST_RSP, 8 + more));
	jump_indirect(t);
	return false;
}

/* Jump if the counter is zero, or is not: it is in rcx. */
static void jump_by_rcx(struct tr *t, bool if_zero)
{
	uint8_t *jrcxz, *over = NULL;

	emit_u8(&t->e, 0xe3);
	jrcxz = t->e.p;
	emit_u8(&t->e, 0);
	if (if_zero) {
		emit_u8(&t->e, 0xeb);
		over = t->e.p;
		emit_u8(&t->e, 0);
		*jrcxz = (uint8_t)(t->e.p - (jrcxz + 1));
	}
	tr_branch_to(t, branch_target(t));
	if (if_zero)
		*over = (uint8_t)(t->e.p - (over + 1));
	else
		*jrcxz = (uint8_t)(t->e.p - (jrcxz + 1));
}

bool tr_jcxz(struct tr *t)
{
	if (!is_branch_fit(t))
		return tr_callout(t);
	if (t->i.addrsize == 4)
		emit_mov32(&t->e, H_RCX, H_GUEST_RCX);
	else
		emit_mov(&t->e, H_RCX, H_GUEST_RCX);
	tr_commit(t);
	jump_by_rcx(t, true);
	return true;
}

bool tr_loop(struct tr *t)
{
	struct hmem less = hmem_base(H_GUEST_RCX, -1);

	if (!is_branch_fit(t))
		return tr_callout(t);
	tr_commit(t);
	if (t->i.addrsize == 4)
		emit_lea32(&t->e, H_GUEST_RCX, less);
	else
		emit_lea(&t->e, H_GUEST_RCX, less);
	emit_mov(&t->e, H_RCX, H_GUEST_RCX);
	jump_by_rcx(t, false);
	return true;
}
