/*
 * Lockstep: every block runs by interp first and then translated, from the same
 * state, and both have to leave the same state.
 *
 *     save registers
 *     interp runs the block's instructions;     its stores are logged
 *     keep its registers and what it stored
 *     put memory and registers back
 *     run the translated block
 *     compare registers and the memory that was stored to
 *
 * For this, translate.c makes blocks that come back to C at each way out and
 * that have nothing in them that must not be done twice: a call-out, which is
 * interp's own handler anyway, is a block by itself and runs once. Where interp
 * raises an exception, reaches a device or writes to code, its result stands
 * and nothing is compared.
 *
 * All of interp's stores come to mmu.c's slow path, as no page is entered as
 * writable into the TLB, and (before_store) sees the bytes before they change.
 *
 * Devices write to memory meanwhile, so a difference counts only if it shows
 * several times in a row; until then it is undone and tried again.
 *
 * FPU state, which is big, is compared for the blocks with instructions that
 * have to do with it, and now and then for the others.
 */
#include <errno.h>
#include <stdlib.h>

#include "vcpu/bt/bt.h"
#include "vcpu/interp/fpu.h"

#define MAX_STORES  512
#define LOG_SIZE    16384
#define FPU_EVERY   64
#define MAX_RETRIES 4

#define NO_FPU_SIZE offsetof(struct x86_state, xsave)

struct store {
	uint8_t *hva;
	uint32_t len, at; /* in (before), (after) */
};

struct check {
	struct bt *bt;
	const struct tblock *block;
	uint32_t host;
	bool is_logging, is_overflown;
	unsigned nr_stores, used;
	struct store stores[MAX_STORES];
	uint8_t before[LOG_SIZE], after[LOG_SIZE];
	struct x86_state start, end;
	uint64_t start_insns;
	unsigned nr_done; /* instructions by interp */
	bool is_unclear;  /* interp did what is not to be done twice */
	uint64_t count;
	uint64_t retry_rip;
	unsigned nr_retries;
};

/* ---- Memory ----------------------------------------------------------------- */

static void before_store(struct cpu *cpu, uint8_t *hva, unsigned len)
{
	struct check *c = bt_of(cpu)->check;

	if (!c->is_logging)
		return;
	if (c->nr_stores == MAX_STORES || len > LOG_SIZE - c->used) {
		c->is_overflown = true;
		return;
	}
	c->stores[c->nr_stores++] = (struct store){ hva, len, c->used };
	copy_bytes(c->before + c->used, hva, len);
	c->used += len;
}

/* Note what interp stored, and take it back. */
static void memory_undo(struct check *c)
{
	for (unsigned i = 0; i < c->nr_stores; i++)
		copy_bytes(c->after + c->stores[i].at, c->stores[i].hva,
			   c->stores[i].len);
	for (unsigned i = c->nr_stores; i--;)
		copy_bytes(c->stores[i].hva, c->before + c->stores[i].at,
			   c->stores[i].len);
}

static bool bytes_differ(const void *a, const void *b, size_t len)
{
	const uint8_t *x = a, *y = b;

	for (size_t i = 0; i < len; i++)
		if (x[i] != y[i])
			return true;
	return false;
}

/* A store to a page table whose entry the block uses afterwards: interp sets A
 * and D in it, having no entry for writing. The translated block has one by
 * then, interp's, and would not: it gets them here. */
static void tables_settle(const struct check *c)
{
	for (unsigned i = 0; i < c->nr_stores; i++) {
		const struct store *s = &c->stores[i];
		uint64_t theirs, ours;

		if (s->len != 4 && s->len != 8)
			continue;
		theirs = host_load(c->after + s->at, s->len);
		ours = host_load(s->hva, s->len);
		if (!(ours & ~theirs) &&
		    !((theirs ^ ours) & ~(uint64_t)(PTE_A | PTE_D)))
			host_store(s->hva, s->len, theirs);
	}
}

/* The first store that the translated block did not do alike, or NULL. */
static const struct store *memory_difference(const struct check *c)
{
	for (unsigned i = 0; i < c->nr_stores; i++) {
		const struct store *s = &c->stores[i];

		if (bytes_differ(s->hva, c->after + s->at, s->len))
			return s;
	}
	return NULL;
}

/* ---- Registers ---------------------------------------------------------------- */

static void state_get(struct cpu *cpu, struct x86_state *to, bool with_fpu)
{
	if (with_fpu)
		cpu_fpu_save(cpu);
	copy_bytes(to, &cpu->s, with_fpu ? sizeof(*to) : NO_FPU_SIZE);
}

static void state_put(struct cpu *cpu, const struct x86_state *from,
		      bool with_fpu)
{
	uint64_t changed = cpu->s.rflags ^ from->rflags;

	if (with_fpu)
		cpu->fpu_live = false;
	copy_bytes(&cpu->s, from, with_fpu ? sizeof(*from) : NO_FPU_SIZE);
	if (changed & FLAG_AC)
		cpu_update_access(cpu);
}

/* The first byte of the XSAVE images that differs, or -1. XSTATE_BV says what
 * the host's processor tracks, and FOP is from the host's instruction. */
static int fpu_difference(struct cpu *cpu, const struct x86_state *end)
{
	static const uint8_t skipped[] = { 6, 7 };
	uint64_t extended = 0;

	for (unsigned i = XCOMP_AVX; i < NR_XCOMPS; i++)
		if (cpu->fpu_mask & BIT(i))
			extended = MAX(extended, (uint64_t)cpu->fpu_offset[i] +
							 cpu->fpu_size[i]);
	for (unsigned i = 0; i < MAX(extended, (uint64_t)XSAVE_LEGACY); i++) {
		if (i == skipped[0] || i == skipped[1] ||
		    (i >= 416 && i < XSAVE_EXTENDED))
			continue;
		if (cpu->s.xsave[i] != end->xsave[i])
			return (int)i;
	}
	return -1;
}

/* The guest's instructions in (c->block); some may be in it twice, the second
 * time behind all others. */
static unsigned count_insns(const struct check *c)
{
	const struct tblock *b = c->block;
	const struct side *side = &c->bt->code.sides[b->insns];
	unsigned n = 1;

	while (n < b->nr_insns && side[n].off > side[n - 1].off)
		n++;
	return n;
}

/* ---- A report ------------------------------------------------------------------- */

static void print_registers(const struct x86_state *start,
			    const struct x86_state *interp,
			    const struct x86_state *bt)
{
	static const char names[][4] = { "rax", "rcx", "rdx", "rbx",
					 "rsp", "rbp", "rsi", "rdi",
					 "r8",  "r9",  "r10", "r11",
					 "r12", "r13", "r14", "r15" };

	fprintf(stderr, "            %16s %16s %16s\n", "before", "interp",
		"translated");
	for (unsigned i = 0; i < NR_GPR + 2U; i++) {
		const uint64_t *s = i < NR_GPR    ? &start->gpr[i]
				    : i == NR_GPR ? &start->rip
						  : &start->rflags;
		size_t off = (size_t)((const char *)s - (const char *)start);
		uint64_t a =
			*(const uint64_t *)(const void *)((const char *)interp +
							  off);
		uint64_t b = *(
			const uint64_t *)(const void *)((const char *)bt + off);

		fprintf(stderr, "  %c %-6s  %016llx %016llx %016llx\n",
			a == b ? ' ' : '*',
			i < NR_GPR    ? names[i]
			: i == NR_GPR ? "rip"
				      : "rflags",
			(unsigned long long)*s, (unsigned long long)a,
			(unsigned long long)b);
	}
}

static void print_bytes(const char *what, const uint8_t *bytes, unsigned len)
{
	fprintf(stderr, "  %s", what);
	for (unsigned i = 0; i < len; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fputc('\n', stderr);
}

static void report(struct check *c, const char *raised)
{
	struct bt *bt = c->bt;
	struct cpu *cpu = &bt->cpu;
	const struct code_page *p = &bt->code.pages[c->block->page];
	const struct store *s = memory_difference(c);
	int at;

	cpu_fpu_save(cpu);
	at = fpu_difference(cpu, &c->end);
	fprintf(stderr,
		"lockstep: translated code differs from interp at %#llx"
		" (block %llu)\n",
		(unsigned long long)c->start.rip, (unsigned long long)c->count);
	if (raised)
		fprintf(stderr, "  translated, it raises %s %u\n", raised,
			cpu->raised.vector);
	print_bytes("guest bytes", p->hva + c->block->off, c->block->len);
	trace_block(bt, stderr, c->block);
	fprintf(stderr, "  interp ran %u of %u instructions\n", c->nr_done,
		count_insns(c));
	print_registers(&c->start, &c->end, &cpu->s);
	if (s) {
		fprintf(stderr, "  memory at host address %p\n",
			(void *)s->hva);
		print_bytes("before    ", c->before + s->at, s->len);
		print_bytes("interp    ", c->after + s->at, s->len);
		print_bytes("translated", s->hva, s->len);
	}
	if (at >= 0) {
		unsigned from = (unsigned)at & ~15U;

		fprintf(stderr, "  XSAVE image at offset %u\n", from);
		print_bytes("before    ", c->start.xsave + from, 16);
		print_bytes("interp    ", c->end.xsave + from, 16);
		print_bytes("translated", cpu->s.xsave + from, 16);
	}
	snprintf(cpu->exit->text, sizeof(cpu->exit->text),
		 "lockstep: translated code at %#llx differs from interp",
		 (unsigned long long)c->start.rip);
	cpu_exit(cpu, EXIT_ERROR);
}

/* ---- Both ways --------------------------------------------------------------------- */

/* By interp: as many instructions as the block has, or up to where it is
 * left. */
static void run_interp(struct check *c)
{
	struct cpu *cpu = &c->bt->cpu;
	const struct tblock *b = c->block;
	const struct side *side = &c->bt->code.sides[b->insns];
	unsigned nr = count_insns(c);

	while (c->nr_done < nr &&
	       cpu->s.rip == c->bt->page + side[c->nr_done].off) {
		c->nr_done += cpu_run_some(cpu, nr - c->nr_done);
		if (cpu->exit_block) {
			c->is_unclear = true;
			return;
		}
	}
}

/* Where an access goes to interp (step() in gate.c) the block may be left behind
 * it, to be gone on with as another block: interp does the rest here. */
static void complete(struct check *c)
{
	struct cpu *cpu = &c->bt->cpu;
	const struct side *side = &c->bt->code.sides[c->block->insns];
	bool exit_block = cpu->exit_block;
	unsigned n = 1;

	while (n < c->nr_done && cpu->s.rip != c->bt->page + side[n].off)
		n++;
	while (n < c->nr_done) {
		cpu->exit_block = false;
		n += cpu_run_some(cpu, c->nr_done - n);
	}
	cpu->exit_block |= exit_block;
}

static void run_translated(struct check *c)
{
	struct bt *bt = c->bt;
	uint64_t steps = bt->stats.steps, insns = bt->cpu.insns;

	gate_enter(bt, c->host);
	if (bt->stats.steps != steps && bt->cpu.s.rip != c->end.rip)
		complete(c);
	bt->cpu.insns = insns;
}

/* Call (fn). False: it raised an exception, or wants to leave run(). */
static bool run_guarded(struct check *c, void (*fn)(struct check *c))
{
	struct cpu *cpu = &c->bt->cpu;
	sigjmp_buf here, *there = cpu->unwind;
	volatile bool is_done = false;

	cpu->unwind = &here;
	if (!sigsetjmp(here, 0)) {
		fn(c);
		is_done = true;
	}
	cpu->unwind = there;
	return is_done;
}

/* They differ: report it, or try once more. */
static void handle_difference(struct check *c, const char *raised,
			      bool with_fpu)
{
	struct cpu *cpu = &c->bt->cpu;

	if (c->retry_rip != c->start.rip)
		c->nr_retries = 0;
	c->retry_rip = c->start.rip;
	/* A block is left in the middle when it goes, as it does for the first
	 * of its accesses that is not aligned: the next one is another. */
	c->nr_retries += !c->block->is_dead;
	if (c->nr_retries > MAX_RETRIES) {
		report(c, raised);
		return;
	}
	c->bt->stats.check_retries++;
	for (unsigned i = c->nr_stores; i--;)
		copy_bytes(c->stores[i].hva, c->before + c->stores[i].at,
			   c->stores[i].len);
	state_put(cpu, &c->start, with_fpu);
	cpu->insns = c->start_insns;
	cpu->exit_block = true;
}

void check_run_block(struct bt *bt, uint32_t host)
{
	struct check *c = bt->check;
	struct cpu *cpu = &bt->cpu;
	const char *raised = NULL;
	bool with_fpu, is_done;

	c->host = host;
	c->block = code_find(bt, host, NULL);
	if (c->block->is_alone || cpu->watch) {
		gate_enter(bt, host);
		return;
	}
	with_fpu =
		c->block->has_fpu || !(c->count++ % FPU_EVERY) || c->nr_retries;
	c->nr_stores = c->used = c->nr_done = 0;
	c->is_overflown = c->is_unclear = false;
	state_get(cpu, &c->start, with_fpu);
	c->start_insns = cpu->insns;
	c->is_logging = true;
	is_done = run_guarded(c, run_interp);
	c->is_logging = false;
	if (!is_done || c->is_unclear || c->is_overflown) {
		bt->stats.unchecked++;
		if (!is_done)
			cpu_unwound(cpu);
		return;
	}
	state_get(cpu, &c->end, with_fpu);
	memory_undo(c);
	state_put(cpu, &c->start, with_fpu);
	if (!run_guarded(c, run_translated))
		raised = "exception";
	if (with_fpu)
		cpu_fpu_save(cpu);
	tables_settle(c);
	if (raised || bytes_differ(&cpu->s, &c->end, NO_FPU_SIZE) ||
	    memory_difference(c) ||
	    (with_fpu && fpu_difference(cpu, &c->end) >= 0)) {
		handle_difference(c, raised, with_fpu);
		return;
	}
	c->nr_retries = 0;
	bt->stats.checked++;
}

/* ---- Life ----------------------------------------------------------------------------- */

int check_create(struct bt *bt, struct err *err)
{
	struct check *c = aligned_alloc(64, ALIGN_UP(sizeof(*c), (size_t)64));

	if (!c)
		return err_set(err, ENOMEM, NULL, "cannot check blocks:");
	zero_bytes(c, sizeof(*c));
	c->bt = bt;
	bt->check = c;
	bt->cpu.before_store = before_store;
	return 0;
}

void check_destroy(struct bt *bt)
{
	free(bt->check);
	bt->check = NULL;
}
