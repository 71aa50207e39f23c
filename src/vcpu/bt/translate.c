/*
 * Translation: a block of guest code to host code.
 *
 * A block is straight-line code in one page, up to an unconditional branch, a
 * conditional one being a way out in its middle. It does not depend on the
 * address that its page is mapped at, only on the page: what needs RIP takes
 * it from bt->page. So a library is translated once for all processes.
 *
 *     block      = [entry for jumps from elsewhere: sets bt->page]
 *                  { instruction }
 *                  { pads, ways out }
 *                  { alternatives to runs }
 *
 * Here is what goes through the instructions; each one is translated by a
 * function of copy.c, flow.c or system.c, or left to interp.
 */
#include "vcpu/bt/translate.h"

#define BLOCK_MAX 24000 /* bytes of host code */

/** Translates (t->i). False: the block ends with it. */
typedef bool (*tr_fn)(struct tr *t);

static bool nop(struct tr *t)
{
	tr_commit(t);
	return true;
}

static const tr_fn handlers[NR_OPS] = {
	[OP_NOP] = nop,
	[OP_LEA] = tr_lea,
	[OP_BT] = tr_bit_test,
	[OP_BTS] = tr_bit_test,
	[OP_BTR] = tr_bit_test,
	[OP_BTC] = tr_bit_test,
	[OP_PUSH] = tr_push,
	[OP_POP] = tr_pop,
	[OP_LEAVE] = tr_leave,
	[OP_JMP] = tr_jmp,
	[OP_JCC] = tr_jcc,
	[OP_JCXZ] = tr_jcxz,
	[OP_LOOP] = tr_loop,
	[OP_JMP_IND] = tr_jmp_ind,
	[OP_CALL] = tr_call,
	[OP_CALL_IND] = tr_call_ind,
	[OP_RET] = tr_ret,
	[OP_CLI] = tr_cli,
	[OP_STI] = tr_sti,
	[OP_CLAC] = tr_stac,
	[OP_STAC] = tr_stac,
	[OP_PUSHF] = tr_pushf,
	[OP_MOV_FROM_SEG] = tr_mov_from_seg,
	[OP_RDFSBASE] = tr_read_base,
	[OP_RDGSBASE] = tr_read_base,
	[OP_SWAPGS] = tr_swapgs,
	[OP_RDTSC] = tr_rdtsc,
	[OP_RDTSCP] = tr_rdtsc,
};

/* Translate one instruction. False: the block ends with it. */
static bool translate(struct tr *t)
{
	const struct insn *i = &t->i;

	if (!tr_is_usable(t, i))
		return tr_callout(t);
	if (handlers[i->op])
		return handlers[i->op](t);
	return tr_is_copied(i) ? tr_copy(t) : tr_callout(t);
}

/* Decode the block from (off) on. Returns why it ends: INSN_OK, or the error of
 * the instruction behind it. */
static int decode_block(struct tr *t, unsigned off)
{
	for (t->nr = 0; t->nr < MAX_INSNS && off < PAGE_SIZE; t->nr++) {
		struct insn *i = &t->insns[t->nr];
		int error = insn_decode(i, t->page->hva + off, PAGE_SIZE - off,
					MODE_64);

		if (error)
			return error;
		off += i->len;
		if ((i->flags & INSN_BRANCH) && i->op != OP_JCC &&
		    i->op != OP_JCXZ && i->op != OP_LOOP) {
			t->nr++;
			break;
		}
	}
	return INSN_OK;
}

/* The next one to translate is (n), at (off). */
static void side_add(struct tr *t, const struct tblock *b, unsigned n,
		     unsigned off)
{
	uint16_t at = (uint16_t)(emit_here(&t->e) - t->block_start);

	t->at = n;
	t->i = t->insns[n];
	t->off = (uint16_t)off;
	t->side = &t->code->sides[b->insns + t->nr_insns++];
	*t->side = (struct side){ .start = at,
				  .commit = at,
				  .off = t->off & 0xfff,
				  .no_kick = t->no_kick,
				  .mid_run = t->run.is_active };
	t->no_kick = false;
}

/* In check mode, what is not the same when it is done twice (what calls out,
 * the time, random numbers) is a block of its own. Is the instruction just
 * translated one? If it is not the first, it goes away again: (before) is what
 * was. */
static bool check_ends_block(struct tr *t, struct tblock *b,
			     const struct tr *before, unsigned callouts)
{
	b->has_fpu |= !!(t->i.flags & (INSN_VECTOR | INSN_X87)) ||
		      t->i.op == OP_NATIVE;
	if (t->code->nr_callouts == callouts && t->i.op != OP_RDTSC &&
	    t->i.op != OP_RDTSCP && t->i.feature != FEAT_RDRAND &&
	    t->i.feature != FEAT_RDSEED)
		return false;
	b->is_alone = t->nr_insns == 1;
	if (!b->is_alone && before) {
		*t = *before;
		t->code->nr_callouts = callouts;
	}
	return true;
}

/* An instruction over the end of the page: a block of its own, that looks
 * whether the next page is the one that the end was read from. */
static bool translate_straddler(struct tr *t, struct tblock *b)
{
	struct cpu *cpu = &t->bt->cpu;
	const struct code_page *p2 = &t->code->pages[b->page2 - 1];
	unsigned here = (unsigned)PAGE_SIZE - b->off;
	uint8_t bytes[INSN_MAX_LEN], *jrcxz;
	unsigned callouts;
	bool goes_on;

	copy_bytes(bytes, t->page->hva + b->off, here);
	copy_bytes(bytes + here, p2->hva, INSN_MAX_LEN - here);
	if (insn_decode(&t->i, bytes, INSN_MAX_LEN, MODE_64))
		return false;
	t->insns[0] = t->i;
	side_add(t, b, 0, b->off);
	emit_load(&t->e, H_R8, hmem_state(BT_OFF(page)));
	emit_lea(&t->e, H_R8, hmem_base(H_R8, PAGE_SIZE));
	emit_pext(&t->e, H_RCX, H_R8,
		  hmem_state(BT_OFF(exec_masks) + (cpu->cpl == 3 ? 0 : 8)));
	emit_load(&t->e, H_TABLE, hmem_state(BT_OFF(exec_table)));
	emit_load(&t->e, H_RCX, hmem_index(H_TABLE, H_RCX, 3, 0));
	emit_lea(&t->e, H_RCX, hmem_index(H_RCX, H_R8, 2, 0));
	emit_imm(&t->e, H_R8, -(uint64_t)p2->entry);
	emit_lea(&t->e, H_RCX, hmem_index(H_RCX, H_R8, 0, 0));
	tr_table_back(t);
	emit_u8(&t->e, 0xe3);
	jrcxz = t->e.p;
	emit_u8(&t->e, 0);
	emit_call(&t->e, t->bt->gate[GATE_STRADDLE]);
	*jrcxz = (uint8_t)(t->e.p - (jrcxz + 1));
	tr_commit(t);
	callouts = t->code->nr_callouts;
	goes_on = translate(t);
	if (unlikely(t->bt->check))
		check_ends_block(t, b, NULL, callouts);
	if (goes_on)
		tr_branch_to(t, (int32_t)b->off + t->i.len);
	return true;
}

/* Translate instruction (n) at (off). False: the block ends with it. */
static bool translate_at(struct tr *t, const struct tblock *b, unsigned n,
			 unsigned off)
{
	struct run *r = &t->run;
	bool goes_on;
	int32_t by;

	tr_pads_settle(t);
	side_add(t, b, n, off);
	if (!r->is_active && tr_run_plan(t))
		tr_run_start(t);
	goes_on = translate(t);
	if (r->is_active && tr_moves_gpr(&t->i, r->base, &by))
		r->moved += by;
	if (n == r->last)
		r->is_active = false;
	return goes_on;
}

/* The alternatives to the runs of the (nr) instructions that there are, where
 * each looks for itself. */
static void translate_alts(struct tr *t, const struct tblock *b, unsigned nr)
{
	t->has_runs = false;
	for (unsigned k = 0; k < t->nr_alts && !t->failed; k++) {
		const struct alt *a = &t->alts[k];
		unsigned off = b->off, n;
		bool goes_on = true;

		for (n = 0; n < a->first; n++)
			off += t->insns[n].len;
		tr_patch(t, a->site, emit_here(&t->e));
		for (; n <= a->last && n < nr; n++) {
			goes_on = translate_at(t, b, n, off);
			off += t->insns[n].len;
		}
		if (goes_on)
			emit_jmp(&t->e, t->host[n]);
		tr_pads_write(t);
	}
}

/* All instructions; returns the offset behind the last one, or 0 if there is
 * not even one. */
static unsigned translate_insns(struct tr *t, struct tblock *b)
{
	unsigned off = b->off, n, callouts;
	int error = decode_block(t, off);
	bool goes_on = true;
	struct tr before;

	if (!t->nr) {
		if (error == INSN_OK || error == INSN_TRUNCATED)
			return 0;
		t->insns[0] = (struct insn){ .flags = INSN_BRANCH };
		side_add(t, b, 0, off);
		tr_callout_raise(t, error);
		b->is_alone = true;
		return off + 1;
	}
	for (n = 0; n < t->nr && goes_on && t->nr_ways < MAX_EXITS - 2; n++) {
		if (unlikely(t->bt->check))
			before = *t;
		callouts = t->code->nr_callouts;
		t->host[n] = emit_here(&t->e);
		goes_on = translate_at(t, b, n, off);
		if (unlikely(t->bt->check) &&
		    check_ends_block(t, b, &before, callouts)) {
			if (b->is_alone)
				off += t->insns[n++].len;
			else
				goes_on = true;
			break;
		}
		off += t->insns[n].len;
	}
	t->host[n] = emit_here(&t->e);
	t->run.is_active = false;
	if (goes_on)
		tr_branch_to(t, (int32_t)off);
	tr_pads_write(t);
	translate_alts(t, b, n);
	return off;
}

static bool write_block(struct tr *t, struct tblock *b)
{
	struct code *c = t->code;
	unsigned end;

	t->e = (struct emit){ .p = c->rw + c->used,
			      .end = c->rw + MIN(c->used + BLOCK_MAX, c->size),
			      .shift = (uint64_t)c->rx - (uint64_t)c->rw };
	t->block_start = b->host = emit_here(&t->e);
	b->is_alone = b->has_fpu = false;
	emit_lea(&t->e, H_R8, hmem_base(H_R8, -(int32_t)b->off));
	emit_store(&t->e, hmem_state(BT_OFF(page)), H_R8);
	b->entry_len = (uint16_t)(emit_here(&t->e) - b->host);
	if (b->page2) {
		if (!translate_straddler(t, b))
			return false;
		end = PAGE_SIZE;
	} else {
		end = translate_insns(t, b);
		if (!end)
			return false;
	}
	tr_pads_write(t);
	tr_ways_write(t);
	b->len = (uint16_t)(end - b->off);
	b->nr_insns = (uint16_t)t->nr_insns;
	b->host_end = emit_here(&t->e);
	if (t->e.p >= t->e.end)
		t->failed = true;
	return true;
}

static bool is_straddling(const struct code_page *p, unsigned off)
{
	struct insn i;

	return off > PAGE_SIZE - INSN_MAX_LEN &&
	       insn_decode(&i, p->hva + off, PAGE_SIZE - off, MODE_64) ==
		       INSN_TRUNCATED;
}

struct tblock *translate_block(struct bt *bt, uint32_t page, uint16_t off)
{
	struct code *c = &bt->code;
	struct tblock *b = &c->blocks[c->nr_blocks];
	unsigned callouts = c->nr_callouts;

	*b = (struct tblock){ .page = page, .off = off, .insns = c->nr_sides };
	if (is_straddling(&c->pages[page], off)) {
		uint64_t next = bt->cpu.s.rip - off + PAGE_SIZE;
		struct code_page *p2 =
			code_page_get(bt, mem_code_fast(&bt->cpu, next), next);

		code_page_protect(bt, p2);
		b->page2 = (uint32_t)(p2 - c->pages) + 1;
	}
	static const int reaches[] = { 56, 24, 0 };

	for (unsigned n = 0; n < ARRAY_SIZE(reaches); n++) {
		struct insn insns[MAX_INSNS];
		struct tr t = { .bt = bt,
				.insns = insns,
				.has_runs = reaches[n] > 0,
				.code = c,
				.page = &c->pages[page],
				.pad_reach = reaches[n],
				.block_off = off };

		c->nr_callouts = callouts;
		if (!write_block(&t, b))
			return NULL;
		if (t.failed)
			continue;
		c->used += b->host_end - b->host;
		c->nr_blocks++;
		c->nr_sides += t.nr_insns;
		c->nr_links += t.nr_links;
		bt->stats.blocks++;
		bt->stats.insns += t.nr_insns;
		bt->stats.bytes += b->host_end - b->host;
		return b;
	}
	vm_assert(!"a block that does not fit");
	return NULL;
}
