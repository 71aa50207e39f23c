/*
 * Gates: from translated code to C and back.
 *
 * Translated code CALLs a gate, so the return address says where from. The gate
 * stores the guest's registers and flags to struct cpu and calls a function
 * below, which returns the host address to go on at, or 0 to leave to the run
 * loop. RIP, in cpu->s.rip, is then that of the next instruction: whoever
 * leaves, at any time after the function, finds the state complete.
 *
 * The FPU's registers stay the guest's: C code here is built without.
 */
#include "vcpu/bt/bt.h"
#include "vcpu/bt/emit.h"

typedef uint64_t (*gate_fn)(struct bt *bt, uint64_t r8, uint64_t from);

static void state_in(struct bt *bt)
{
	flags_put(&bt->cpu, (uint32_t)bt->flags);
	/* STAC and CLAC in translated code */
	if (unlikely(bt->access_ac != !!(bt->cpu.s.rflags & FLAG_AC)))
		cpu_update_access(&bt->cpu);
}

static uint64_t state_out(struct bt *bt, uint64_t host)
{
	cpu_fpu_load(&bt->cpu);
	bt->flags = flags_get(&bt->cpu);
	return host;
}

/* The block at RIP, if a jump there would find it. */
static uint64_t exec_entry(struct bt *bt, uint64_t rip)
{
	uint64_t entry;
	uint32_t host;

	if (!is_canonical(rip, 48) || (rip >> 63 && bt->cpu.cpl == 3))
		return 0;
	entry = *tables_exec_entry(bt, rip);
	if (!entry)
		return 0;
	host = *(const uint32_t *)(entry + rip * 4);
	if (host == bt->gate_find)
		return 0;
	bt->r8 = rip;
	return host;
}

/* Is there nothing to be done between two instructions but what translated code
 * needs no help with? */
static bool is_quiet(struct cpu *cpu)
{
	bt_clear_rf(cpu);
	return !cpu_has_request(cpu) && !cpu->has_exit && !cpu->debug_trap &&
	       !(cpu->irq_check && (cpu->s.rflags & FLAG_IF)) &&
	       cpu->s.activity == ACT_RUNNING && !cpu->s.event.valid &&
	       !cpu->s.nmi_pending && !cpu_needs_single(cpu);
}

/* Go on at RIP, having done what there is to be done between instructions. */
static uint64_t go_on(struct bt *bt)
{
	struct cpu *cpu = &bt->cpu;
	uint64_t host;

	if (unlikely(bt->check))
		return 0;
	while (unlikely(cpu->exit_block || cpu_has_request(cpu))) {
		if (likely(is_quiet(cpu))) {
			cpu->exit_block = false;
			break;
		}
		bt->kick = 0;
		peer_read_mail(bt);
		if (!cpu_boundary(cpu))
			return 0;
		if (cpu_needs_single(cpu))
			return 0;
	}
	if (unlikely(bt->recheck))
		code_recheck(bt);
	if (unlikely(!bt_can_run(cpu)))
		return 0;
	host = exec_entry(bt, cpu->s.rip);
	if (!host)
		host = code_lookup(bt);
	if (unlikely(cpu->exit_block)) {
		/* Making room, or a mapping that was made, wants it looked
		 * at again. */
		cpu->exit_block = false;
		if (host)
			host = code_lookup(bt);
	}
	return host ? state_out(bt, host) : 0;
}

/* Run the instruction at RIP, that is at (off) of (b), by interp's handler. */
static uint64_t step(struct bt *bt, struct tblock *b, unsigned n)
{
	struct cpu *cpu = &bt->cpu;
	struct code *c = &bt->code;
	const struct side *side = &c->sides[b->insns + n];
	unsigned generation = c->generation, len;
	uint8_t bytes[INSN_MAX_LEN];
	struct slow_insn slow;
	struct insn insn;
	struct uop uop;

	bt->stats.steps++;
	cpu_fpu_save(cpu);
	len = code_bytes(bt, b, n, bytes);
	if (insn_decode(&insn, bytes, len, MODE_64)) {
		cpu->exit_block = true; /* it changed meanwhile */
		return go_on(bt);
	}
	uop_make(cpu, &uop, &insn, &slow, NULL);
	cpu->next_rip = cpu->s.rip + insn.len;
	bt->stats.steps_raised++; /* unless it comes back */
	uop.fn(cpu, &uop);
	bt->stats.steps_raised--;
	if (likely(!cpu->exit_block && !b->is_dead && n + 1U < b->nr_insns &&
		   !side[1].mid_run && side[1].off == side->off + insn.len &&
		   cpu->next_rip == cpu->s.rip + insn.len &&
		   generation == c->generation && !(cpu->s.gpr[RSP] & 7))) {
		cpu->s.rip = cpu->next_rip;
		return state_out(bt, b->host + side[1].start);
	}
	cpu->s.rip = cpu->next_rip;
	return go_on(bt);
}

/* Where (gva)'s page is on the host. NULL: interp has to look at the access,
 * because it is no plain one or because it may fault: of several faults only
 * the instruction as a whole knows which comes first. */
static void *probe(struct cpu *cpu, uint64_t gva, bool is_write)
{
	sigjmp_buf here, *there = cpu->unwind;
	uint64_t cr2 = cpu->s.cr2;
	void *volatile hva = NULL;

	if (unlikely(cpu->watch || !is_canonical(gva, 48)))
		return NULL;
	cpu->unwind = &here;
	if (!sigsetjmp(here, 0))
		hva = mem_host_slow(cpu, gva, 1, is_write);
	else
		cpu->s.cr2 = cr2;
	cpu->unwind = there;
	return hva;
}

static uint64_t miss(struct bt *bt, uint64_t r8, uint64_t from, bool is_write)
{
	struct cpu *cpu = &bt->cpu;
	struct tblock *b;
	void *hva;
	unsigned n;

	state_in(bt);
	bt->stats.misses++;
	cpu->s.rip = bt->page + *(const uint16_t *)from;
	hva = probe(cpu, r8, is_write);
	if (likely(hva)) {
		bt->rcx = (uint64_t)hva - r8;
		return state_out(bt, from + 2);
	}
	b = code_find(bt, (uint32_t)from, NULL);
	for (n = 0; n < b->nr_insns; n++)
		if (bt->code.sides[b->insns + n].off == *(const uint16_t *)from)
			return step(bt, b, n);
	cpu->exit_block = true;
	return go_on(bt);
}

/* The operand of the instruction, whose offset is at (from), goes over the end
 * of its page. */
static uint64_t step_over(struct bt *bt, uint64_t r8, uint64_t from)
{
	unsigned off = *(const uint16_t *)from, n;
	struct tblock *b = code_find(bt, (uint32_t)from, NULL);

	state_in(bt);
	bt->stats.page_ends++;
	bt->cpu.s.rip = bt->page + off;
	for (n = 0; n + 1U < b->nr_insns; n++)
		if (bt->code.sides[b->insns + n].off == off)
			break;
	return step(bt, b, n);
}

static uint64_t miss_read(struct bt *bt, uint64_t r8, uint64_t from)
{
	return miss(bt, r8, from, false);
}

static uint64_t miss_write(struct bt *bt, uint64_t r8, uint64_t from)
{
	return miss(bt, r8, from, true);
}

static uint64_t callout(struct bt *bt, uint64_t r8, uint64_t from)
{
	struct cpu *cpu = &bt->cpu;
	struct callout *o = &bt->code.callouts[*(const uint32_t *)from];
	unsigned generation = bt->code.generation;

	state_in(bt);
	bt->callout_counts[o->op]++;
	bt->stats.callouts++;
	cpu->s.rip = bt->page + o->off;
	cpu->next_rip = cpu->s.rip + o->len;
	o->uop.fn(cpu, &o->uop);
	cpu->s.rip = cpu->next_rip;
	if (likely(!o->is_branch && !cpu->exit_block &&
		   generation == bt->code.generation && !(cpu->s.gpr[RSP] & 7)))
		return state_out(bt, from + 4);
	return go_on(bt);
}

/* The branch with host address (from) leads to no canonical address (r8): it
 * faults itself, so what it did to RSP is undone. */
static uint64_t bad_target(struct bt *bt, uint64_t from)
{
	unsigned n;
	struct tblock *b = code_find(bt, (uint32_t)from, &n);
	const struct side *side = &bt->code.sides[b->insns + n];
	uint8_t bytes[INSN_MAX_LEN];
	unsigned len = code_bytes(bt, b, n, bytes);
	uint64_t *rsp = &bt->cpu.s.gpr[RSP];
	struct insn insn;

	cpu_fpu_save(&bt->cpu);
	bt->cpu.s.rip = bt->page + side->off;
	if (!insn_decode(&insn, bytes, len, MODE_64)) {
		if (insn.op == OP_RET)
			*rsp -= 8 + (insn.form == FORM_IMM ? (uint16_t)insn.imm
							   : 0);
		else if (insn.op == OP_CALL || insn.op == OP_CALL_IND)
			*rsp += 8;
	}
	return step(bt, b, n);
}

static uint64_t jump(struct bt *bt, uint64_t r8, uint64_t from)
{
	state_in(bt);
	if (unlikely(!is_canonical(r8, 48)))
		return bad_target(bt, from - 1);
	bt->cpu.s.rip = r8;
	return go_on(bt);
}

static uint64_t link_up(struct bt *bt, uint64_t r8, uint64_t from)
{
	struct cpu *cpu = &bt->cpu;
	uint32_t link = *(const uint32_t *)from;
	uint32_t host;

	state_in(bt);
	cpu->s.rip = bt->page + bt->code.links[link].target;
	if (cpu->exit_block || cpu_has_request(cpu) || bt->check)
		return go_on(bt);
	host = code_follow(bt, link);
	cpu->exit_block = false;
	return host ? state_out(bt, host) : go_on(bt);
}

/* A signal at host address (from). */
static uint64_t fault(struct bt *bt, uint64_t r8, uint64_t from)
{
	struct cpu *cpu = &bt->cpu;
	struct code *c = &bt->code;
	unsigned n;
	struct tblock *b = code_find(bt, (uint32_t)from, &n);
	struct code_page *p = &c->pages[b->page];
	const struct side *side = &c->sides[b->insns + n];

	state_in(bt);
	bt->stats.faults++;
	if (from - b->host > side->commit) {
		bt->stats.fault_targets++;
		return jump(bt, r8, from + 1);
	}
	cpu->s.rip = bt->page + side->off;
	if (!(p->misaligned[side->off / 64] >> (side->off % 64) & 1)) {
		code_misaligned(bt, p, side->off);
		cpu->exit_block = false;
	}
	return step(bt, b, n);
}

/* The block at (from) has an instruction whose end was in a page that is not
 * known to be the next one now. */
static uint64_t straddle(struct bt *bt, uint64_t r8, uint64_t from)
{
	struct cpu *cpu = &bt->cpu;
	struct tblock *b = code_find(bt, (uint32_t)from, NULL);
	const struct code *c = &bt->code;
	uint64_t next = bt->page + PAGE_SIZE;
	const uint8_t *hva;

	state_in(bt);
	cpu->s.rip = bt->page + c->sides[b->insns].off;
	hva = mem_code_fast(cpu, next);
	if (hva != c->pages[b->page2 - 1].hva)
		code_drop(bt, b);
	else
		tables_enter_exec(bt, next,
				  (uint64_t)c->pages[b->page2 - 1].entry -
					  4 * next);
	return go_on(bt);
}

static uint64_t kick(struct bt *bt, uint64_t r8, uint64_t from)
{
	state_in(bt);
	bt->stats.kicks++;
	bt->cpu.s.rip = from;
	bt->cpu.exit_block = true;
	return go_on(bt);
}

/* ---- Their code ------------------------------------------------------------------ */

/** Guest registers that have a host register, but for RAX. */
static const struct {
	uint8_t guest, host;
} homes[] = {
	{ RCX, H_GUEST_RCX }, { RDX, H_RDX }, { RBX, H_RBX },
	{ RSP, H_GUEST_RSP }, { RBP, H_RBP }, { RSI, H_RSI },
	{ RDI, H_RDI },       { R12, 12 },    { R13, 13 },
	{ R14, 14 },          { R15, 15 },
};

#define GPR(reg) (BT_OFF(cpu.s.gpr) + (reg)*8)

static void bytes(struct emit *e, const char *s, unsigned n)
{
	while (n--)
		emit_u8(e, (uint8_t)*s++);
}

#define BYTES(e, s) bytes(e, s, sizeof(s) - 1)

/* The way back, with RSP at struct bt: (resume) is where. All state is still in
 * memory, so a signal in it may leave. */
static void restore_write(struct bt *bt, struct emit *e)
{
	bt->gates_restore = emit_here(e);
	BYTES(e, "\x83\xbc\x24"); /* cmp dword [rsp + kick], 0 */
	emit_u32(e, (uint32_t)BT_OFF(kick));
	emit_u8(e, 0);
	emit_jcc(e, 5, bt->gate_leave);
	emit_load(e, H_RAX, hmem_state(BT_OFF(flags)));
	BYTES(e, "\x04\x7f\x9e"); /* add al, 7f; sahf */
	for (unsigned n = 0; n < ARRAY_SIZE(homes); n++)
		emit_load(e, homes[n].host, hmem_state(GPR(homes[n].guest)));
	emit_load(e, H_RCX, hmem_state(BT_OFF(rcx)));
	emit_load(e, H_R8, hmem_state(BT_OFF(r8)));
	emit_load(e, H_TABLE, hmem_state(BT_OFF(table)));
	emit_load(e, H_RAX, hmem_state(GPR(RAX)));
	BYTES(e, "\xff\xa4\x24"); /* jmp [rsp + resume] */
	emit_u32(e, (uint32_t)BT_OFF(resume));
	bt->gates_restore_end = emit_here(e);
}

static void leave_write(struct bt *bt, struct emit *e)
{
	bt->gate_leave = emit_here(e);
	emit_load(e, H_RSP, hmem_state(BT_OFF(host_rsp)));
	/* pop r15, r14, r13, r12, rbp, rbx; ret */
	BYTES(e, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
}

/* void enter(struct bt *bt) */
static void enter_write(struct bt *bt, struct emit *e)
{
	bt->gate_enter = emit_here(e);
	BYTES(e, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57");
	emit_store(e, hmem_base(H_RDI, BT_OFF(host_rsp)), H_RSP);
	emit_mov(e, H_RSP, H_RDI);
	emit_jmp(e, bt->gates_restore);
}

static void gate_write(struct bt *bt, struct emit *e, gate_fn fn)
{
	const int up = 8; /* the return address */
	uint64_t address;

	emit_store(e, hmem_state(up + GPR(RAX)), H_RAX);
	BYTES(e, "\x9f\x0f\x90\xc0"); /* lahf; seto al */
	emit_store(e, hmem_state(up + BT_OFF(flags)), H_RAX);
	for (unsigned n = 0; n < ARRAY_SIZE(homes); n++)
		emit_store(e, hmem_state(up + GPR(homes[n].guest)),
			   homes[n].host);
	emit_store(e, hmem_state(up + BT_OFF(r8)), H_R8);
	emit_lea(e, H_RDI, hmem_state(up));
	emit_mov(e, H_RSI, H_R8);
	emit_load(e, H_RDX, hmem_state(0));
	emit_lea(e, H_RSP, hmem_state(-8));
	address = (uint64_t)fn;
	emit_imm(e, H_RAX, address);
	BYTES(e, "\xff\xd0"); /* call rax */
	emit_lea(e, H_RSP, hmem_state(16));
	BYTES(e, "\x48\x85\xc0"); /* test rax, rax */
	emit_jcc(e, 4, bt->gate_leave);
	emit_store(e, hmem_state(BT_OFF(resume)), H_RAX);
	emit_jmp(e, bt->gates_restore);
}

void gates_create(struct bt *bt)
{
	static const gate_fn fns[NR_GATES] = {
		[GATE_MISS_READ] = miss_read, [GATE_MISS_WRITE] = miss_write,
		[GATE_CALLOUT] = callout,     [GATE_JUMP] = jump,
		[GATE_LINK] = link_up,        [GATE_FAULT] = fault,
		[GATE_KICK] = kick,           [GATE_STRADDLE] = straddle,
		[GATE_STEP] = step_over,
	};
	struct code *c = &bt->code;
	struct emit e = { .p = c->rw,
			  .end = c->rw + 16 * PAGE_SIZE,
			  .shift = (uint64_t)c->rx - (uint64_t)c->rw };

	leave_write(bt, &e);
	restore_write(bt, &e);
	enter_write(bt, &e);
	for (unsigned n = 0; n < NR_GATES; n++) {
		bt->gate[n] = emit_here(&e);
		gate_write(bt, &e, fns[n]);
	}
	/* Jumped to, not called. */
	bt->gate_find = emit_here(&e);
	emit_call(&e, bt->gate[GATE_JUMP]);
	c->first = c->used = (uint32_t)ALIGN_UP((uint64_t)(e.p - c->rw), 64);
}

void gate_enter(struct bt *bt, uint32_t host)
{
	void (*enter)(struct bt *) =
		(void (*)(struct bt *))(uint64_t)bt->gate_enter;

	bt->resume = state_out(bt, host);
	enter(bt);
}
