/*
 * Exceptions and interrupts, and the instructions that make and end them.
 *
 * SDM volume 3, chapter 6; volume 2, INT n and IRET, whose pseudo-code gives
 * the order of checks and every error code.
 *
 * Delivery reads the gate and the code segment, builds the frame on the stack
 * that it found, and changes registers only then. What faults inside comes
 * back to event_deliver() (it stands in for the run loop meanwhile), which
 * combines it with the event that was being delivered: table 6-5. A software
 * interrupt's fault is the instruction's own: it goes to the loop.
 *
 * RIP. Faults return to the instruction (s.rip, with RF in the saved flags),
 * software interrupts behind it (next_rip); between instructions the two are
 * equal.
 */
#include "vcpu/interp/desc.h"
#include "vcpu/pv.h"

/* How often one event may turn into another before the CPU gives up. Real
 * ones do not get that far; a #AC that cannot be delivered would. */
#define MAX_NESTING 8

struct delivery {
	uint8_t vector;
	bool is_soft; /* INT n, INT3, INTO: gate DPL counts, EXT is 0 */
	bool has_error;
	uint32_t error;
	uint64_t rip;    /* to return to */
	uint64_t rflags; /* to save */
};

/* A gate of the IDT. */
struct gate {
	uint16_t sel, attr;
	uint64_t offset;
	unsigned ist;
};

static uint32_t ext_of(const struct delivery *e)
{
	return e->is_soft ? 0 : 1;
}

/* Error codes that name the IDT entry */
static uint32_t idt_error(const struct delivery *e)
{
	return (uint32_t)e->vector << 3 | 2 | ext_of(e);
}

static void deliver_real(struct cpu *cpu, const struct delivery *e)
{
	struct x86_state *s = &cpu->s;
	struct x86_seg *cs = &s->seg[SEG_CS];
	struct frame f = frame_current(cpu);
	uint32_t entry;

	if (e->vector * 4U + 3 > s->idtr.limit)
		cpu_raise(cpu, EXC_GP, idt_error(e));
	entry = (uint32_t)mem_load_sys(
		cpu, (uint32_t)(s->idtr.base + e->vector * 4U), 4);
	frame_push(&f, 2, e->rflags);
	frame_push(&f, 2, cs->sel);
	frame_push(&f, 2, e->rip);
	frame_commit(&f);
	s->rflags &= ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF);
	cs->sel = (uint16_t)(entry >> 16);
	cs->base = (uint64_t)cs->sel << 4;
	cpu->next_rip = entry & 0xffff;
}

static void read_gate(struct cpu *cpu, const struct delivery *e, struct gate *g)
{
	unsigned size = cpu->is_long ? 16 : 8;
	uint64_t gva = cpu->s.idtr.base + (uint64_t)e->vector * size;
	struct descriptor d = { .high = 0 };
	unsigned type;
	bool is_gate;

	if (e->vector * size + size - 1 > cpu->s.idtr.limit)
		cpu_raise(cpu, EXC_GP, idt_error(e));
	if (!cpu->is_long)
		gva = (uint32_t)gva;
	d.raw = mem_load_sys(cpu, gva, 8);
	g->attr = desc_attr(&d);
	type = g->attr & (ATTR_TYPE | ATTR_S);
	is_gate = type == SYS_INT || type == SYS_TRAP ||
		  (!cpu->is_long && (type == SYS_INT16 || type == SYS_TRAP16 ||
				     type == SYS_TASK));
	if (!is_gate)
		cpu_raise(cpu, EXC_GP, idt_error(e));
	if (e->is_soft && ATTR_DPL(g->attr) < cpu->cpl)
		cpu_raise(cpu, EXC_GP, idt_error(e));
	if (!(g->attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, idt_error(e));
	if (cpu->is_long)
		d.high = mem_load_sys(cpu, gva + 8, 8);
	g->sel = d.raw >> 16 & 0xffff;
	g->ist = cpu->is_long ? d.raw >> 32 & 7 : 0;
	g->offset =
		(d.raw & 0xffff) | (d.raw >> 32 & 0xffff0000) | d.high << 32;
	if (type == SYS_INT16 || type == SYS_TRAP16)
		g->offset &= 0xffff;
}

/* The handler's code segment, checked. */
static void read_handler(struct cpu *cpu, const struct delivery *e,
			 const struct gate *g, struct x86_seg *cs)
{
	uint32_t ext = ext_of(e);
	struct descriptor d;
	uint16_t attr;

	if (SEL_NULL(g->sel))
		cpu_raise(cpu, EXC_GP, ext);
	if (!desc_read(cpu, g->sel, &d))
		cpu_raise(cpu, EXC_GP, SEL_CODE(g->sel) | ext);
	attr = desc_attr(&d);
	if (!desc_is_code(attr) || ATTR_DPL(attr) > cpu->cpl)
		cpu_raise(cpu, EXC_GP, SEL_CODE(g->sel) | ext);
	if (cpu->is_long && (!(attr & ATTR_L) || (attr & ATTR_DB)))
		cpu_raise(cpu, EXC_GP, SEL_CODE(g->sel) | ext);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(g->sel) | ext);
	/* From virtual-8086 mode only level 0 is entered. */
	if ((cpu->s.rflags & FLAG_VM) &&
	    ((attr & ATTR_CE) || ATTR_DPL(attr) != 0))
		cpu_raise(cpu, EXC_GP, SEL_CODE(g->sel) | ext);
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, g->sel, cs);
}

/* Push what the handler finds on its stack. */
static void push_frame(struct cpu *cpu, const struct delivery *e,
		       struct frame *f, unsigned size, bool with_stack)
{
	static const uint8_t v86_segs[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
	struct x86_state *s = &cpu->s;

	if (s->rflags & FLAG_VM)
		for (unsigned i = 0; i < ARRAY_SIZE(v86_segs); i++)
			frame_push(f, size, s->seg[v86_segs[i]].sel);
	if (with_stack) {
		frame_push(f, size, s->seg[SEG_SS].sel);
		frame_push(f, size, s->gpr[RSP]);
	}
	frame_push(f, size, e->rflags);
	frame_push(f, size, s->seg[SEG_CS].sel);
	frame_push(f, size, e->rip);
	if (e->has_error)
		frame_push(f, size, e->error);
}

static void deliver_gate(struct cpu *cpu, const struct delivery *e,
			 const struct gate *g)
{
	struct x86_state *s = &cpu->s;
	unsigned size = cpu->is_long ? 8 : (g->attr & 8) ? 4 : 2, cpl;
	bool is_inner, is_v86 = s->rflags & FLAG_VM;
	struct x86_seg cs, ss = s->seg[SEG_SS];
	struct frame f;

	read_handler(cpu, e, g, &cs);
	is_inner = !(cs.attr & ATTR_CE) && ATTR_DPL(cs.attr) < cpu->cpl;
	cpl = is_inner ? ATTR_DPL(cs.attr) : cpu->cpl;
	if (is_inner || g->ist) {
		struct x86_seg inner;

		f = frame_inner(cpu, cpl, g->ist, &inner, ext_of(e));
		if (is_inner) {
			ss = inner;
			f.ss = cpu->is_long ? NULL : &ss;
		}
	} else {
		f = frame_new(cpu, cpu->is_long ? NULL : &ss, s->gpr[RSP], cpl,
			      ext_of(e));
	}
	if (cpu->is_long)
		f.sp &= ~15ULL;
	push_frame(cpu, e, &f, size, is_inner || cpu->is_long);
	seg_check_ip(cpu, &cs, g->offset, ext_of(e));

	frame_commit(&f);
	s->seg[SEG_SS] = ss;
	s->seg[SEG_CS] = cs;
	s->seg[SEG_CS].sel = (uint16_t)(SEL_CODE(g->sel) | cpl);
	if (is_v86) {
		seg_set_null(&s->seg[SEG_ES], 0);
		seg_set_null(&s->seg[SEG_DS], 0);
		seg_set_null(&s->seg[SEG_FS], 0);
		seg_set_null(&s->seg[SEG_GS], 0);
	}
	s->rflags &= ~(FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM);
	if (!(g->attr & 1)) /* interrupt, not trap gate */
		s->rflags &= ~FLAG_IF;
	cpu->next_rip = g->offset;
}

/* (SDM volume 2, INT n, TASK-GATE) */
static void deliver_task(struct cpu *cpu, const struct delivery *e,
			 const struct gate *g)
{
	uint32_t error = SEL_CODE(g->sel) | ext_of(e);
	struct descriptor d;
	uint16_t attr;

	if ((g->sel & SEL_TI) || SEL_NULL(g->sel) ||
	    !desc_read(cpu, g->sel, &d))
		cpu_raise(cpu, EXC_GP, error);
	attr = desc_attr(&d);
	if (!desc_is_system(attr, SYS_TSS) && !desc_is_system(attr, SYS_TSS16))
		cpu_raise(cpu, EXC_GP, error);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, error);
	cpu->next_rip = e->rip;
	task_switch(cpu, g->sel, TASK_GATE, e->has_error, e->error);
}

static void deliver(struct cpu *cpu, const struct delivery *e)
{
	struct gate g;

	if (!(cpu->s.cr0 & CR0_PE)) {
		deliver_real(cpu, e);
	} else {
		read_gate(cpu, e, &g);
		if (desc_is_system(g.attr, SYS_TASK))
			deliver_task(cpu, e, &g);
		else
			deliver_gate(cpu, e, &g);
	}
	cpu->s.rip = cpu->next_rip;
	cpu->s.shadow_sti = cpu->s.shadow_ss = false;
	/* The #DB handler may touch debug registers (SDM 17.2.4, GD). */
	if (e->vector == EXC_DB && !e->is_soft)
		cpu->s.dr[7] &= ~DR7_GD;
	cpu_update_mode(cpu);
}

/* Exceptions that push an error code: #DF #TS #NP #SS #GP #PF #AC */
static bool vector_has_error(uint8_t vector)
{
	return vector < 32 && (0x00027d00U >> vector & 1);
}

/* #DE #TS #NP #SS #GP (SDM table 6-4) */
static bool is_contributory(uint8_t vector)
{
	return vector < 32 && (0x00003c01U >> vector & 1);
}

/* What (second), raised while (first) was being delivered, makes of it (SDM
 * table 6-5). Interrupts count as benign. False: shutdown. */
static bool combine(uint8_t *vector, bool is_interrupt, uint8_t second)
{
	uint8_t first = is_interrupt ? EXC_NMI : *vector;
	bool is_serious = is_contributory(second) || second == EXC_PF;

	if (first == EXC_DF && is_serious)
		return false;
	if ((is_contributory(first) && is_contributory(second)) ||
	    (first == EXC_PF && is_serious))
		*vector = EXC_DF;
	else
		*vector = second;
	return true;
}

static void shut_down(struct cpu *cpu)
{
	cpu->s.activity = ACT_SHUTDOWN;
	cpu_exit(cpu, EXIT_SHUTDOWN);
}

/* Deliver an exception, or with (is_interrupt) an interrupt or NMI, whatever
 * happens meanwhile. */
static void deliver_hard(struct cpu *cpu, uint8_t first, uint32_t code,
			 bool is_interrupt)
{
	sigjmp_buf here, *outer = cpu->unwind;
	bool had_exit = cpu->has_exit;
	volatile bool is_irq = is_interrupt;
	volatile uint32_t error = code;
	volatile uint8_t vector = first;

	cpu->nesting = 0;
	/* cppcheck-suppress autoVariables ; (outer) is put back at the end */
	cpu->unwind = &here;
	if (sigsetjmp(here, 0)) {
		uint8_t v = vector;

		/* The machine's policy may end it at a register access. */
		if (cpu->has_exit && !had_exit)
			goto out;
		if (cpu->nesting > MAX_NESTING ||
		    !combine(&v, is_irq, cpu->raised.vector)) {
			shut_down(cpu);
			goto out;
		}
		error = v == EXC_DF ? 0 : cpu->raised.error;
		vector = v;
		is_irq = false;
	}
	cpu->nesting++;
	if (!is_irq)
		cpu->vcpu->stats.exceptions++;
	deliver(cpu,
		&(struct delivery){
			.vector = vector,
			.has_error = !is_irq && (cpu->s.cr0 & CR0_PE) &&
				     vector_has_error(vector),
			.error = error,
			.rip = cpu->s.rip,
			.rflags = cpu->s.rflags |
				  (is_irq || vector == EXC_DB ? 0 : FLAG_RF),
		});
out:
	cpu->nesting = 0;
	cpu->unwind = outer;
}

/* INT n and the like, from their handlers. */
static void deliver_soft(struct cpu *cpu, uint8_t vector, bool is_soft)
{
	cpu->vcpu->stats.exceptions++;
	deliver(cpu, &(struct delivery){ .vector = vector,
					 .is_soft = is_soft,
					 .rip = cpu->next_rip,
					 .rflags = cpu->s.rflags });
}

void event_deliver(struct cpu *cpu, const struct x86_event *ev)
{
	if (ev->is_soft)
		deliver_soft(cpu, ev->vector, true);
	else
		deliver_hard(cpu, ev->vector, ev->error,
			     ev->vector == EXC_NMI || ev->vector > 31);
}

/* ---- Between instructions ------------------------------------------------ */

void event_settle_eoi(struct cpu *cpu)
{
	struct intc *intc = &cpu->vcpu->intc;

	if (cpu->s.pv_eoi & PV_EOI_OFFERED) {
		cpu_fpu_save(cpu);
		if (pv_eoi_taken(cpu->vcpu, &cpu->s))
			intc->ops->eoi(intc->dev);
	}
}

/* KVM's KICK_CPU ends HLT, or the next one if it comes first. */
static void take_kick(struct cpu *cpu)
{
	if (vcpu_take_requests(cpu->vcpu, VCPU_REQ_UNHALT))
		cpu->pv_kicked = true;
	if (cpu->pv_kicked && cpu->s.activity == ACT_HALTED) {
		cpu->pv_kicked = false;
		cpu->s.activity = ACT_RUNNING;
	}
}

static bool take_interrupt(struct cpu *cpu)
{
	struct intc *intc = &cpu->vcpu->intc;
	int vector;

	if (!intc->ops || !cpu->irq_check || !(cpu->s.rflags & FLAG_IF))
		return false;
	cpu_fpu_save(cpu);
	event_settle_eoi(cpu);
	if (intc->ops->pending(intc->dev) < 0) {
		cpu->irq_check = false;
		return false;
	}
	vector = intc->ops->acknowledge(intc->dev);
	if (vector < 0)
		return false;
	pv_eoi_offer(cpu->vcpu, &cpu->s);
	pv_steal_update(cpu->vcpu, &cpu->s);
	cpu->vcpu->stats.interrupts++;
	cpu->s.activity = ACT_RUNNING;
	deliver_hard(cpu, (uint8_t)vector, 0, true);
	return true;
}

bool event_check(struct cpu *cpu)
{
	struct x86_state *s = &cpu->s;

	take_kick(cpu);
	if (vcpu_take_requests(cpu->vcpu, VCPU_REQ_NMI))
		s->nmi_pending = true;
	if (s->event.valid) {
		struct x86_event ev = s->event;

		s->event.valid = false;
		/* A software interrupt happens again by itself. */
		if (!ev.is_soft) {
			s->activity = ACT_RUNNING;
			event_deliver(cpu, &ev);
			return true;
		}
	}
	if (s->shadow_ss)
		return false;
	if (s->nmi_pending && !s->nmi_masked) {
		s->nmi_pending = false;
		s->nmi_masked = true;
		s->activity = ACT_RUNNING;
		deliver_hard(cpu, EXC_NMI, 0, true);
		return true;
	}
	return !s->shadow_sti && take_interrupt(cpu);
}

/* ---- Instructions -------------------------------------------------------- */

static void do_int(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	if ((cpu->s.rflags & FLAG_VM) && cpu_iopl(cpu) < 3)
		cpu_raise(cpu, EXC_GP, 0);
	deliver_soft(cpu, (uint8_t)insn->imm, true);
}

static void do_int3(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	deliver_soft(cpu, EXC_BP, true);
}

/* Its gate's DPL does not count, and EXT is set in error codes. */
static void do_int1(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	deliver_soft(cpu, EXC_DB, false);
}

static void do_into(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	if (cpu->s.rflags & FLAG_OF)
		deliver_soft(cpu, EXC_OF, true);
}

static void do_bound(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, width = size * 8;
	uint64_t gva = mem_operand(cpu, insn, size * 2, false);
	int64_t low = sign_extend(mem_load(cpu, gva, size), width);
	int64_t high = sign_extend(mem_load(cpu, gva + size, size), width);
	int64_t index = sign_extend(cpu->s.gpr[insn->reg], width);

	if (index < low || index > high)
		cpu_raise(cpu, EXC_BR, 0);
}

/* ---- IRET ---------------------------------------------------------------- */

/* Flags that IRET with (size) bytes pops in protected mode at this level. */
static uint64_t iret_mask(const struct cpu *cpu, unsigned size)
{
	uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT;

	if (size > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (cpu->cpl <= cpu_iopl(cpu))
		mask |= FLAG_IF;
	if (cpu->cpl == 0)
		mask |= FLAG_IOPL;
	return mask;
}

/* Real and virtual-8086 mode. */
static void iret_real(struct cpu *cpu, unsigned size)
{
	struct x86_seg *cs = &cpu->s.seg[SEG_CS];
	struct frame f = frame_current(cpu);
	bool is_v86 = cpu->s.rflags & FLAG_VM;
	uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_IF;
	uint64_t rip, flags;
	uint16_t sel;

	if (is_v86 && cpu_iopl(cpu) < 3)
		cpu_raise(cpu, EXC_GP, 0);
	rip = frame_pop(&f, size);
	sel = (uint16_t)frame_pop(&f, size);
	flags = frame_pop(&f, size);
	if (rip > cs->limit)
		cpu_raise(cpu, EXC_GP, 0);
	if (size > 2)
		mask |= FLAG_RF | FLAG_AC | FLAG_ID;
	if (!is_v86)
		mask |= FLAG_IOPL;
	frame_commit(&f);
	flags_set(cpu, flags, mask);
	cs->sel = sel;
	cs->base = (uint64_t)sel << 4;
	cpu->next_rip = rip;
	cpu_update_mode(cpu);
}

static void iret_to_v86(struct cpu *cpu, struct frame *f, uint64_t rip,
			uint16_t sel, uint64_t flags)
{
	static const uint8_t order[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	struct x86_state *s = &cpu->s;
	uint64_t rsp = frame_pop(f, 4);
	uint16_t ss = (uint16_t)frame_pop(f, 4), segs[4];

	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		segs[i] = (uint16_t)frame_pop(f, 4);
	if (rip > 0xffff)
		cpu_raise(cpu, EXC_GP, 0);
	flags_set(cpu, flags, FLAG_VM | iret_mask(cpu, 4));
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		seg_load_real(cpu, order[i], segs[i]);
	seg_load_real(cpu, SEG_CS, sel);
	seg_load_real(cpu, SEG_SS, ss);
	s->gpr[RSP] = rsp;
	cpu->next_rip = rip;
	cpu_update_mode(cpu);
}

/* NT is set: back to the task that the TSS names (SDM 7.4). */
static void iret_task(struct cpu *cpu)
{
	struct descriptor d;
	uint16_t sel, attr;

	if (cpu->is_long)
		cpu_raise(cpu, EXC_GP, 0);
	sel = (uint16_t)mem_load_sys(cpu, cpu->s.tr.base, 2);
	if ((sel & SEL_TI) || !desc_read(cpu, sel, &d))
		cpu_raise(cpu, EXC_TS, SEL_CODE(sel));
	attr = desc_attr(&d);
	if (!desc_is_system(attr, SYS_TSS_BUSY) &&
	    !desc_is_system(attr, SYS_TSS16_BUSY))
		cpu_raise(cpu, EXC_TS, SEL_CODE(sel));
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
	task_switch(cpu, sel, TASK_IRET, false, 0);
}

static void iret_protected(struct cpu *cpu, unsigned size)
{
	struct frame f = frame_current(cpu);
	uint64_t rip = frame_pop(&f, size);
	uint16_t sel = (uint16_t)frame_pop(&f, size);
	uint64_t flags = frame_pop(&f, size);
	uint64_t mask = iret_mask(cpu, size), rsp;
	bool is_outer = SEL_RPL(sel) > cpu->cpl;
	struct x86_seg cs, ss;

	if ((flags & FLAG_VM) && size == 4 && !cpu->is_long && cpu->cpl == 0) {
		iret_to_v86(cpu, &f, rip, sel, flags);
		return;
	}
	far_return_code(cpu, sel, &cs);
	if (!is_outer && cpu->mode != MODE_64) {
		seg_check_ip(cpu, &cs, rip, 0);
		flags_set(cpu, flags, mask);
		frame_commit(&f);
		cpu->s.seg[SEG_CS] = cs;
		cpu->next_rip = rip;
		cpu_update_mode(cpu);
		return;
	}
	rsp = frame_pop(&f, size);
	far_return_stack(cpu, (uint16_t)frame_pop(&f, size), &cs, &ss);
	seg_check_ip(cpu, &cs, rip, 0);
	flags_set(cpu, flags, mask);
	far_set_outer(cpu, &cs, &ss, rip, rsp);
	if (is_outer)
		seg_drop_privileged(cpu);
}

static void do_iret(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	/* NMIs are let in again even if it faults (SDM 6.7.1). */
	cpu->s.nmi_masked = false;
	cpu->exit_block = true;
	if (!cpu_is_protected(cpu))
		iret_real(cpu, insn->opsize);
	else if (cpu->s.rflags & FLAG_NT)
		iret_task(cpu);
	else
		iret_protected(cpu, insn->opsize);
}

const insn_fn event_handlers[NR_OPS] = {
	[OP_INT] = do_int,   [OP_INT1] = do_int1,   [OP_INT3] = do_int3,
	[OP_INTO] = do_into, [OP_BOUND] = do_bound, [OP_IRET] = do_iret,
};
