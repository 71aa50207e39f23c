/*
 * The reference processor: the run loop, and what an accelerator offers.
 *
 *   interp_run()
 *     cpu_boundary()   between blocks, when something asks for it: requests of
 *                    other threads, #DB traps, interrupts, HLT
 *     block_next()   the block at RIP (block.c), usually by a link from the
 *                    last one
 *     block_run()    its instructions, one call each
 *
 * An exception anywhere inside comes back by cpu_raise() to interp_run(),
 * which delivers it and goes on. What must be taken one instruction at a time
 * (TF, code breakpoints, the interrupt shadows, RF) runs in run_single().
 *
 * Everything that could make cpu_boundary() do something sets cpu->exit_block or
 * vcpu->requests; nothing else is looked at between blocks.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "vcpu/interp/block.h"
#include "vcpu/interp/fpu.h"
#include "vcpu/interp/interp.h"
#include "vcpu/interp/mmu.h"
#include "vcpu/pv.h"

/* Requests that run() leaves to its caller. */
#define REQUESTS_OUTSIDE (VCPU_REQ_PAUSE | VCPU_REQ_STOP)

/* ---- Mode --------------------------------------------------------------------------- */

static bool watch_changed(const struct cpu *cpu)
{
	for (unsigned i = 0; i < 4; i++)
		if (cpu->watched[i] != cpu->s.dr[i])
			return true;
	return cpu->watched[4] != cpu->s.dr[7];
}

/* Breakpoints of DR7 (SDM 17.2.4): type 0 is execution, 1 and 3 data. */
static void update_debug(struct cpu *cpu)
{
	uint64_t dr7 = cpu->s.dr[7];
	bool was_watched = cpu->watch;

	cpu->watch = cpu->code_break = false;
	for (unsigned i = 0; i < 4; i++) {
		if (!(dr7 >> (2 * i) & 3))
			continue;
		if (dr7 >> (16 + 4 * i) & 1)
			cpu->watch = true;
		else if (!(dr7 >> (16 + 4 * i) & 3))
			cpu->code_break = true;
	}
	/* Watched pages have no entries in the TLB. */
	if ((cpu->watch || was_watched) && watch_changed(cpu)) {
		for (unsigned i = 0; i < 4; i++)
			cpu->watched[i] = cpu->s.dr[i];
		cpu->watched[4] = dr7;
		tlb_flush(cpu);
	}
}

void cpu_update_mode(struct cpu *cpu)
{
	struct x86_state *s = &cpu->s;
	uint16_t cs = s->seg[SEG_CS].attr;

	cpu->exit_block = true;
	cpu->is_long = s->efer & EFER_LMA;
	if (!(s->cr0 & CR0_PE))
		cpu->cpl = 0;
	else if (s->rflags & FLAG_VM)
		cpu->cpl = 3;
	else
		cpu->cpl = (uint8_t)x86_cpl(s);
	if (cpu->is_long && (cs & ATTR_L))
		cpu->mode = MODE_64;
	else
		cpu->mode = cs & ATTR_DB ? MODE_32 : MODE_16;
	cpu->stack64 = cpu->mode == MODE_64;
	cpu->stack32 = !cpu->stack64 && (s->seg[SEG_SS].attr & ATTR_DB);
	cpu->ip_mask = cpu->mode == MODE_64   ? ~0ULL
		       : cpu->mode == MODE_32 ? 0xffffffff
					      : 0xffff;
	update_debug(cpu);
	cpu->single_step = (s->rflags & FLAG_TF) || cpu->code_break;
	cpu_update_access(cpu);
}

/* ---- Leaving ------------------------------------------------------------------------- */

void cpu_raise(struct cpu *cpu, uint8_t vector, uint32_t error)
{
	cpu->raised = (struct x86_event){ .valid = true,
					  .vector = vector,
					  .error = error };
	siglongjmp(*cpu->unwind, 1);
}

void cpu_raise_pf(struct cpu *cpu, uint64_t gva, uint32_t error)
{
	cpu->s.cr2 = gva;
	cpu_raise(cpu, EXC_PF, error);
}

void cpu_exit(struct cpu *cpu, enum exit_reason reason)
{
	cpu->exit->reason = reason;
	cpu->has_exit = true;
	cpu->exit_block = true;
}

void cpu_abort(struct cpu *cpu, enum exit_reason reason)
{
	cpu_exit(cpu, reason);
	siglongjmp(*cpu->unwind, 1);
}

/* ---- Locked accesses that have no single host address -------------------------------- */

/* They are atomic among each other: one lock for the machine. */

void *rmw_begin_slow(struct cpu *cpu, struct rmw *m, uint64_t gva,
		     unsigned size, bool is_locked)
{
	struct interp *vm = cpu->vcpu->set->accel;
	void *hva = mem_host_slow(cpu, gva, size, true);

	if (hva)
		return hva;
	m->gva = gva;
	m->size = size & MEM_SIZE_MASK;
	m->is_locked = is_locked;
	mem_probe(cpu, gva, m->size, true);
	if (is_locked) {
		cpu_fpu_save(cpu);
		pthread_mutex_lock(&vm->split_lock);
		cpu->holds_lock = true;
	}
	mem_load_bytes(cpu, gva, m->tmp, m->size);
	return m->tmp;
}

static void lock_release(struct cpu *cpu)
{
	struct interp *vm = cpu->vcpu->set->accel;

	if (cpu->holds_lock) {
		cpu->holds_lock = false;
		pthread_mutex_unlock(&vm->split_lock);
	}
}

void rmw_end_slow(struct cpu *cpu, struct rmw *m)
{
	mem_store_bytes(cpu, m->gva, m->tmp, m->size);
	if (m->is_locked)
		lock_release(cpu);
}

/* ---- Blocks --------------------------------------------------------------------------- */

insn_fn interp_handler(const struct insn *insn)
{
	static const insn_fn *const tables[] = {
		alu_handlers,   bits_handlers,   string_handlers, flow_handlers,
		event_handlers, seg_handlers,    sys_handlers,    io_handlers,
		fpu_handlers,   vector_handlers,
	};

	if (insn->op == OP_NATIVE && (insn->flags & INSN_VEX) &&
	    insn->map == 1 && insn->opcode == 0x77 && insn->mode != MODE_64)
		return vector_zero;
	for (unsigned i = 0; i < ARRAY_SIZE(tables); i++)
		if (tables[i][insn->op])
			return tables[i][insn->op];
	return NULL;
}

/* Is (b) what is to run at (rip)? The others are found the long way. */
static inline __attribute__((always_inline)) bool
block_fits(const struct cpu *cpu, const struct block *b, uint64_t rip,
	   const uint8_t *hva)
{
	return b && b->rip == rip && b->hva == hva && b->mode == MODE_64 &&
	       cpu->mode == MODE_64 && !b->is_straddling && block_is_current(b);
}

/* The block at RIP; (last), which may be NULL, ran before it. */
static inline __attribute__((always_inline)) struct block *
block_next(struct cpu *cpu, struct block *last)
{
	uint64_t rip = cpu->s.rip, linear = rip, resets;
	struct block **link = &cpu->guesses[block_guess(rip)], *b;
	struct block **guess = link;
	const uint8_t *hva;

	if (unlikely(cpu->mode != MODE_64))
		linear = (uint32_t)(rip + cpu->s.seg[SEG_CS].base);
	cpu->code_page = 1;
	hva = mem_code_fast(cpu, linear) + (linear & (PAGE_SIZE - 1));
	if (likely(last))
		link = &last->link[rip != last->rip + last->len];
	b = *link;
	if (unlikely(!block_fits(cpu, b, rip, hva))) {
		b = *guess;
		if (!block_fits(cpu, b, rip, hva)) {
			resets = cpu->block_resets;
			b = block_get(cpu, linear, hva);
			if (resets != cpu->block_resets)
				link = guess;
			*guess = b;
		}
		*link = b;
	}
	cpu->code_page = (uint64_t)hva & PAGE_MASK;
	return b;
}

/* Run (b)'s first (nr) instructions, up to one that sets exit_block. */
static inline __attribute__((always_inline)) void
block_run(struct cpu *cpu, const struct block *b, unsigned nr)
{
	const struct uop *u = b->uops, *end = u + nr;
	uint64_t rip = b->rip;

	cpu->block = b;
	do {
		cpu->s.rip = rip;
		rip += u->len;
		cpu->next_rip = rip;
		u->fn(cpu, u);
		u++;
	} while (u < end && likely(!cpu->exit_block));
	cpu->s.rip = cpu->next_rip;
	cpu->insns += (uint64_t)(u - b->uops);
	cpu->block = NULL;
}

/* An exception left a block: count what it had completed. */
static void block_leave(struct cpu *cpu)
{
	const struct block *b = cpu->block;
	uint64_t rip;

	if (!b)
		return;
	rip = b->rip;
	for (const struct uop *u = b->uops; rip != cpu->s.rip; u++) {
		rip += u->len;
		cpu->insns++;
	}
	cpu->block = NULL;
}

/* ---- One by one ------------------------------------------------------------------------- */

/* The code breakpoints at RIP, as bits of DR6. */
static uint32_t code_breaks(const struct cpu *cpu)
{
	uint64_t linear = cpu->s.rip, dr7 = cpu->s.dr[7];
	uint32_t hits = 0;

	if (cpu->mode != MODE_64)
		linear = (uint32_t)(linear + cpu->s.seg[SEG_CS].base);
	for (unsigned i = 0; i < 4; i++)
		if ((dr7 >> (2 * i) & 3) && !(dr7 >> (16 + 4 * i) & 15) &&
		    cpu->s.dr[i] == linear)
			hits |= 1U << i;
	return hits;
}

static void debug_deliver(struct cpu *cpu, uint32_t dr6_bits)
{
	struct x86_event ev = { .valid = true, .vector = EXC_DB };

	/* Of the breakpoint bits only those of this one are sure to be set;
	 * BS and the others stay until the guest clears them (SDM 17.2.3). */
	cpu->s.dr[6] = (cpu->s.dr[6] & ~15ULL) | dr6_bits;
	cpu->debug_trap = 0;
	event_deliver(cpu, &ev);
}

/* With TF set, does an instruction that cleared it trap? POPF and IRET do;
 * those that enter a handler do not, for there it is clear. */
static bool enters_handler(const struct block *b)
{
	const struct uop *u = b->uops;

	if (!uop_is_slow(u))
		return false;
	switch (u->slow->insn.op) {
	case OP_INT:
	case OP_INT1:
	case OP_INT3:
	case OP_INTO:
	case OP_SYSCALL:
	case OP_SYSENTER:
		return true;
	default:
		return false;
	}
}

void cpu_run_single(struct cpu *cpu)
{
	struct x86_state *s = &cpu->s;
	bool tf = s->rflags & FLAG_TF;
	const struct block *b;
	uint32_t hits;

	if (cpu->code_break && !(s->rflags & FLAG_RF)) {
		hits = code_breaks(cpu);
		if (hits) {
			cpu->next_rip = s->rip;
			debug_deliver(cpu, hits);
			return;
		}
	}
	b = block_next(cpu, NULL);
	s->shadow_sti = s->shadow_ss = false;
	s->rflags &= ~FLAG_RF;
	cpu->block = b;
	cpu->next_rip = s->rip + b->uops[0].len;
	b->uops[0].fn(cpu, &b->uops[0]);
	s->rip = cpu->next_rip;
	cpu->insns++;
	cpu->block = NULL;
	/* A trap that MOV SS holds back comes with the next instruction's. */
	if (tf && !s->shadow_ss &&
	    ((s->rflags & FLAG_TF) || !enters_handler(b)))
		cpu->debug_trap |= DR6_BS;
	cpu->exit_block = true;
}

/* ---- Between blocks ----------------------------------------------------------------------- */

static void take_init(struct cpu *cpu)
{
	struct intc *intc = &cpu->vcpu->intc;

	x86_state_init(&cpu->s, cpu->vcpu->index == 0);
	if (intc->ops)
		intc->ops->reset(intc->dev);
	cpu->debug_trap = 0;
	tlb_flush(cpu);
	cpu_update_mode(cpu);
}

static void take_sipi(struct cpu *cpu)
{
	if (cpu->s.activity != ACT_WAIT_SIPI)
		return;
	x86_state_sipi(&cpu->s, cpu->vcpu->sipi_vector);
	tlb_flush(cpu);
	cpu_update_mode(cpu);
}

/* Act on other threads' requests. False: one that run() returns for. */
static bool take_requests(struct cpu *cpu)
{
	uint32_t requests = vcpu_take_requests(
		cpu->vcpu,
		VCPU_REQ_WAKE | VCPU_REQ_TLB | VCPU_REQ_INIT | VCPU_REQ_SIPI);

	cpu->irq_check = true;
	if (!(requests & ~VCPU_REQ_WAKE) &&
	    !(atomic_load(&cpu->vcpu->requests) & REQUESTS_OUTSIDE))
		return true;
	cpu_fpu_save(cpu);
	if (requests & VCPU_REQ_TLB)
		tlb_flush(cpu);
	if (requests & VCPU_REQ_INIT)
		take_init(cpu);
	if (requests & VCPU_REQ_SIPI)
		take_sipi(cpu);
	if (atomic_load(&cpu->vcpu->requests) & REQUESTS_OUTSIDE) {
		cpu_exit(cpu, EXIT_KICK);
		return false;
	}
	return true;
}

/* What is to be done between two instructions. False: return from run(). */
bool cpu_boundary(struct cpu *cpu)
{
	struct x86_state *s = &cpu->s;

	cpu->vcpu->stats.instructions = cpu->insns;
	do {
		cpu->exit_block = false;
		if (cpu->has_exit)
			return false;
		if (cpu_has_request(cpu) && !take_requests(cpu))
			return false;
		if (s->activity == ACT_SHUTDOWN) {
			cpu_exit(cpu, EXIT_SHUTDOWN);
			return false;
		}
		if (s->activity == ACT_WAIT_SIPI) {
			vcpu_take_requests(cpu->vcpu,
					   VCPU_REQ_NMI | VCPU_REQ_UNHALT);
			cpu_exit(cpu, EXIT_HLT);
			return false;
		}
		cpu->next_rip = s->rip;
		if (unlikely(cpu->debug_trap) && !s->shadow_ss)
			debug_deliver(cpu, cpu->debug_trap);
		else
			event_check(cpu);
		if (s->activity == ACT_HALTED && !cpu->exit_block) {
			cpu_exit(cpu, EXIT_HLT);
			return false;
		}
	} while (cpu->exit_block);
	return true;
}

void cpu_run_block(struct cpu *cpu)
{
	cpu_run_some(cpu, ~0U);
}

unsigned cpu_run_some(struct cpu *cpu, unsigned max)
{
	uint64_t before = cpu->insns;
	const struct block *b = block_next(cpu, NULL);

	block_run(cpu, b, MIN(max, (unsigned)b->nr_uops));
	cpu->code_page = 1;
	return (unsigned)(cpu->insns - before);
}

static void run_loop(struct cpu *cpu)
{
	struct block *b = NULL;

	for (;;) {
		if (unlikely(cpu->exit_block || cpu_has_request(cpu))) {
			if (!cpu_boundary(cpu))
				return;
			if (unlikely(cpu_needs_single(cpu))) {
				cpu_run_single(cpu);
				b = NULL;
				continue;
			}
		}
		b = block_next(cpu, b);
		block_run(cpu, b, b->nr_uops);
	}
}

/* An exception, or an access that ends the run, came out of an instruction. */
void cpu_unwound(struct cpu *cpu)
{
	lock_release(cpu);
	block_leave(cpu);
	cpu->exit_block = true;
	if (cpu->has_exit)
		return;
	cpu->debug_trap = 0;
	cpu->next_rip = cpu->s.rip;
	event_deliver(cpu, &cpu->raised);
}

static int interp_run(struct vcpu *vcpu, struct exit *exit)
{
	struct cpu *cpu = vcpu->accel;
	sigjmp_buf unwind;

	cpu->exit = exit;
	cpu->has_exit = false;
	cpu->exit_block = true;
	cpu->unwind = &unwind;
	sys_enter(cpu);
	if (sigsetjmp(unwind, 0))
		cpu_unwound(cpu);
	run_loop(cpu);
	cpu_fpu_save(cpu);
	sys_leave(cpu);
	vcpu->stats.instructions = cpu->insns;
	return 0;
}

/* Requests are looked at between blocks, and every one has its bit set. */
static void interp_kick(struct vcpu *vcpu)
{
}

/* ---- Life --------------------------------------------------------------------------------- */

int interp_vm_create(struct vcpus *vs, struct err *err)
{
	struct interp *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return err_set(err, ENOMEM, NULL, "cannot make a processor:");
	pthread_mutex_init(&vm->split_lock, NULL);
	vs->accel = vm;
	return 0;
}

void interp_vm_destroy(struct vcpus *vs)
{
	struct interp *vm = vs->accel;

	for (unsigned i = 0; i < ARRAY_SIZE(vm->groups); i++) {
		stats_remove(&vm->groups[i]);
		stats_remove(&vm->op_groups[i]);
	}
	pthread_mutex_destroy(&vm->split_lock);
	free(vm);
	vs->accel = NULL;
}

int cpu_create(struct cpu *cpu, struct vcpu *vcpu, struct err *err)
{
	int r;

	cpu->vcpu = vcpu;
	x86_state_reset(&cpu->s, vcpu->index == 0);
	cpuid_features(&vcpu->set->cpuid, &cpu->features);
	r = mmu_create(cpu);
	if (!r)
		r = block_cache_create(cpu);
	if (!r)
		r = fpu_create(cpu);
	if (r)
		err_set(err, -r, NULL, "cannot make a processor:");
	else
		r = native_create(&cpu->native, err);
	if (r) {
		cpu_destroy(cpu);
		return r;
	}
	cpu_update_mode(cpu);
	return 0;
}

void cpu_destroy(struct cpu *cpu)
{
	native_destroy(cpu->native);
	fpu_destroy(cpu);
	block_cache_destroy(cpu);
	mmu_destroy(cpu);
}

static int interp_vcpu_create(struct vcpu *vcpu, struct err *err)
{
	struct cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));
	int r;

	if (!cpu)
		return err_set(err, ENOMEM, NULL, "cannot make a processor:");
	memset(cpu, 0, sizeof(*cpu));
	cpu->nr_spaces = TLB_SPACES;
	r = cpu_create(cpu, vcpu, err);
	if (r) {
		free(cpu);
		return r;
	}
	vcpu->accel = cpu;
	return 0;
}

static void interp_vcpu_destroy(struct vcpu *vcpu)
{
	struct cpu *cpu = vcpu->accel;

	cpu_destroy(cpu);
	free(cpu);
	vcpu->accel = NULL;
}

int interp_get_state(struct vcpu *vcpu, struct x86_state *st)
{
	struct cpu *cpu = vcpu->accel;

	*st = cpu->s;
	return 0;
}

int interp_set_state(struct vcpu *vcpu, const struct x86_state *st)
{
	struct cpu *cpu = vcpu->accel;

	cpu->s = *st;
	cpu_fpu_sanitize(cpu);
	cpu->debug_trap = 0;
	tlb_flush(cpu);
	cpu_update_mode(cpu);
	return 0;
}

void interp_add_op_stats(struct vcpus *vs, unsigned n, const char *name,
			 const uint64_t *counts)
{
#define X(op) { #op, OP_##op * sizeof(*counts) },
	static const struct stat_desc descs[] = { INSN_OPS(X){ .name = NULL } };
#undef X
	struct interp *vm = vs->accel;

	vm->op_groups[n].is_sparse = true;
	stats_add(vs->stats, &vm->op_groups[n], name, descs, counts);
}

static void interp_add_stats(struct vcpus *vs)
{
	static const struct stat_desc descs[] = {
		STAT(struct cpu, insns),        STAT(struct cpu, tlb_fills),
		STAT(struct cpu, tlb_flushes),  STAT(struct cpu, nr_blocks),
		STAT(struct cpu, block_resets), { .name = NULL },
	};
	struct interp *vm = vs->accel;

	for (unsigned i = 0; i < vs->nr; i++) {
		char name[] = "interp00.traps";

		name[6] = (char)('0' + i / 10);
		name[7] = (char)('0' + i % 10);
		interp_add_op_stats(vs, i, name,
				    cpu_of(&vs->vcpu[i])->trap_counts);
		name[8] = 0;
		stats_add(vs->stats, &vm->groups[i], name, descs,
			  vs->vcpu[i].accel);
	}
}

static int64_t interp_probe(struct err *err)
{
	return software_probe(&accel_interp, err);
}

const struct accel_ops accel_interp = {
	.name = "interp",
	.probe = interp_probe,
	.vm_create = interp_vm_create,
	.vm_destroy = interp_vm_destroy,
	.vcpu_create = interp_vcpu_create,
	.vcpu_destroy = interp_vcpu_destroy,
	.run = interp_run,
	.kick = interp_kick,
	.get_state = interp_get_state,
	.set_state = interp_set_state,
	.add_stats = interp_add_stats,
};
