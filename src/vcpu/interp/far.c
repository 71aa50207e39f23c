/*
 * Far JMP, CALL and RET: between segments, privilege levels and tasks.
 *
 * SDM volume 2, the pseudo-code of JMP, CALL and RET; volume 3, 5.8. In every
 * one the descriptors are checked and the stack is built first; CS, SS, RSP
 * and next_rip change together at the end, when nothing can fault any more.
 */
#include "vcpu/interp/desc.h"

/* Where a far transfer goes: what the instruction says. */
struct far_target {
	uint16_t sel;
	uint64_t offset;
	unsigned size; /* of the operand */
	bool is_call;
};

static void set_cs(struct cpu *cpu, const struct x86_seg *cs, uint64_t rip)
{
	cpu->s.seg[SEG_CS] = *cs;
	cpu->next_rip = rip;
	cpu_update_mode(cpu);
}

static void gp(struct cpu *cpu, uint16_t sel) NORETURN;
static void gp(struct cpu *cpu, uint16_t sel)
{
	cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
}

/* Real and virtual-8086 mode: a selector is a paragraph number. */
static void far_real(struct cpu *cpu, const struct far_target *t)
{
	struct x86_seg *cs = &cpu->s.seg[SEG_CS];
	struct frame f = frame_current(cpu);

	if (t->offset > cs->limit)
		cpu_raise(cpu, EXC_GP, 0);
	if (t->is_call) {
		frame_push(&f, t->size, cs->sel);
		frame_push(&f, t->size, cpu->next_rip);
		frame_commit(&f);
	}
	cs->sel = t->sel;
	cs->base = (uint64_t)t->sel << 4;
	cpu->next_rip = t->offset;
	cpu_update_mode(cpu);
}

/* L and D both set are reserved in IA-32e mode. */
static void check_long_code(struct cpu *cpu, uint16_t sel, uint16_t attr)
{
	if (cpu->is_long && (attr & ATTR_L) && (attr & ATTR_DB))
		gp(cpu, sel);
}

/* Same level, straight to the code segment in (d). */
static void far_code(struct cpu *cpu, const struct far_target *t,
		     struct descriptor *d)
{
	uint16_t attr = desc_attr(d);
	uint64_t offset = t->offset;
	struct frame f = frame_current(cpu);
	struct x86_seg cs;

	if (attr & ATTR_CE) {
		if (ATTR_DPL(attr) > cpu->cpl)
			gp(cpu, t->sel);
	} else if (SEL_RPL(t->sel) > cpu->cpl || ATTR_DPL(attr) != cpu->cpl) {
		gp(cpu, t->sel);
	}
	check_long_code(cpu, t->sel, attr);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(t->sel));
	desc_to_seg(d, (uint16_t)(SEL_CODE(t->sel) | cpu->cpl), &cs);
	if (t->is_call) {
		frame_push(&f, t->size, cpu->s.seg[SEG_CS].sel);
		frame_push(&f, t->size, cpu->next_rip);
	}
	/* A 64-bit offset into compatibility code loses its upper half. */
	if (!(cpu->is_long && (attr & ATTR_L)))
		offset = (uint32_t)offset;
	seg_check_ip(cpu, &cs, offset, 0);
	desc_set_accessed(cpu, d);
	cs.attr |= ATTR_ACCESSED;
	if (t->is_call)
		frame_commit(&f);
	set_cs(cpu, &cs, offset);
}

/* A call gate to an inner level: the TSS has the stack, parameters move. */
static void gate_inner(struct cpu *cpu, const struct descriptor *gate,
		       const struct x86_seg *cs, uint64_t offset, unsigned size)
{
	unsigned cpl = ATTR_DPL(cs->attr), params = gate->raw >> 32 & 0x1f;
	struct frame old = frame_current(cpu), f, from;
	struct x86_seg ss;
	uint64_t param[31];

	f = frame_inner(cpu, cpl, 0, &ss, 0);
	seg_check_ip(cpu, cs, offset, 0);
	if (cpu->is_long)
		params = 0;
	from = old;
	for (unsigned i = 0; i < params; i++)
		param[i] = frame_pop(&from, size);
	frame_push(&f, size, cpu->s.seg[SEG_SS].sel);
	frame_push(&f, size, old.sp);
	for (unsigned i = params; i-- > 0;)
		frame_push(&f, size, param[i]);
	frame_push(&f, size, cpu->s.seg[SEG_CS].sel);
	frame_push(&f, size, cpu->next_rip);
	cpu->s.seg[SEG_SS] = ss;
	frame_commit(&f);
	set_cs(cpu, cs, offset);
}

static void far_gate(struct cpu *cpu, const struct far_target *t,
		     struct descriptor *gate)
{
	uint16_t attr = desc_attr(gate);
	bool is_16 = (attr & ATTR_TYPE) == SYS_CALL16;
	unsigned size = cpu->is_long ? 8 : is_16 ? 2 : 4;
	uint64_t offset = (gate->raw & 0xffff) | (gate->raw >> 32 & 0xffff0000);
	uint16_t sel = gate->raw >> 16 & 0xffff, cs_attr;
	struct descriptor d;
	struct x86_seg cs;

	if (ATTR_DPL(attr) < cpu->cpl || ATTR_DPL(attr) < SEL_RPL(t->sel))
		gp(cpu, t->sel);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(t->sel));
	if (cpu->is_long && !desc_read_high(cpu, t->sel, gate))
		gp(cpu, t->sel);
	offset = is_16 ? offset & 0xffff : offset | gate->high << 32;
	if (SEL_NULL(sel))
		cpu_raise(cpu, EXC_GP, 0);
	if (!desc_read(cpu, sel, &d))
		gp(cpu, sel);
	cs_attr = desc_attr(&d);
	if (!desc_is_code(cs_attr) || ATTR_DPL(cs_attr) > cpu->cpl)
		gp(cpu, sel);
	if (!t->is_call && !(cs_attr & ATTR_CE) &&
	    ATTR_DPL(cs_attr) != cpu->cpl)
		gp(cpu, sel);
	if (cpu->is_long && (!(cs_attr & ATTR_L) || (cs_attr & ATTR_DB)))
		gp(cpu, sel);
	if (!(cs_attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, sel, &cs);
	if (t->is_call && !(cs_attr & ATTR_CE) &&
	    ATTR_DPL(cs_attr) < cpu->cpl) {
		cs.sel = (uint16_t)(SEL_CODE(sel) | ATTR_DPL(cs_attr));
		gate_inner(cpu, gate, &cs, offset, size);
		return;
	}
	cs.sel = (uint16_t)(SEL_CODE(sel) | cpu->cpl);
	seg_check_ip(cpu, &cs, offset, 0);
	if (t->is_call) {
		struct frame f = frame_current(cpu);

		/* From compatibility mode the new code's stack is flat. */
		if (cpu->is_long)
			f = frame_new(cpu, NULL, f.sp, 3, 0);
		frame_push(&f, size, cpu->s.seg[SEG_CS].sel);
		frame_push(&f, size, cpu->next_rip);
		frame_commit(&f);
	}
	set_cs(cpu, &cs, offset);
}

static void far_task(struct cpu *cpu, const struct far_target *t,
		     const struct descriptor *d)
{
	uint16_t attr = desc_attr(d), sel = t->sel;
	bool is_gate = desc_is_system(attr, SYS_TASK);
	struct descriptor tss;

	if (cpu->is_long)
		gp(cpu, sel);
	if (ATTR_DPL(attr) < cpu->cpl || ATTR_DPL(attr) < SEL_RPL(sel))
		gp(cpu, sel);
	if (is_gate) {
		if (!(attr & ATTR_P))
			cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
		sel = d->raw >> 16 & 0xffff;
		if ((sel & SEL_TI) || !desc_read(cpu, sel, &tss))
			gp(cpu, sel);
		attr = desc_attr(&tss);
	} else if (sel & SEL_TI) {
		gp(cpu, sel);
	}
	if (!desc_is_system(attr, SYS_TSS) && !desc_is_system(attr, SYS_TSS16))
		gp(cpu, sel);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
	task_switch(cpu, sel, t->is_call ? TASK_CALL : TASK_JUMP, false, 0);
}

static void far_transfer(struct cpu *cpu, const struct far_target *t)
{
	struct descriptor d;
	uint16_t attr;

	if (!cpu_is_protected(cpu)) {
		far_real(cpu, t);
		return;
	}
	if (SEL_NULL(t->sel))
		cpu_raise(cpu, EXC_GP, 0);
	if (!desc_read(cpu, t->sel, &d))
		gp(cpu, t->sel);
	attr = desc_attr(&d);
	if (attr & ATTR_S) {
		if (!(attr & ATTR_CODE))
			gp(cpu, t->sel);
		far_code(cpu, t, &d);
		return;
	}
	switch (attr & ATTR_TYPE) {
	case SYS_CALL:
		far_gate(cpu, t, &d);
		break;
	case SYS_CALL16:
		if (cpu->is_long)
			gp(cpu, t->sel);
		far_gate(cpu, t, &d);
		break;
	case SYS_TASK:
	case SYS_TSS:
	case SYS_TSS16:
		far_task(cpu, t, &d);
		break;
	default:
		gp(cpu, t->sel);
	}
}

void far_direct(struct cpu *cpu, const struct insn *insn)
{
	struct far_target t = {
		.sel = insn->imm2,
		.offset = (uint64_t)insn->imm & size_mask(insn->opsize),
		.size = insn->opsize,
		.is_call = insn->op == OP_CALL_FAR,
	};

	count_trap(cpu, insn);
	far_transfer(cpu, &t);
}

void far_indirect(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t gva = mem_operand(cpu, insn, size + 2, false);
	struct far_target t = {
		.offset = mem_load(cpu, gva, size),
		.sel = (uint16_t)mem_load(cpu, gva + size, 2),
		.size = size,
		.is_call = insn->op == OP_CALL_FAR_IND,
	};

	count_trap(cpu, insn);
	far_transfer(cpu, &t);
}

/* ---- RET ----------------------------------------------------------------- */

static void ret_real(struct cpu *cpu, struct frame *f, uint64_t rip,
		     uint16_t sel, uint64_t release)
{
	struct x86_seg *cs = &cpu->s.seg[SEG_CS];

	if (rip > cs->limit)
		cpu_raise(cpu, EXC_GP, 0);
	frame_skip(f, release);
	frame_commit(f);
	cs->sel = sel;
	cs->base = (uint64_t)sel << 4;
	cpu->next_rip = rip;
	cpu_update_mode(cpu);
}

void far_return_code(struct cpu *cpu, uint16_t sel, struct x86_seg *cs)
{
	struct descriptor d;
	uint16_t attr;

	if (SEL_NULL(sel))
		cpu_raise(cpu, EXC_GP, 0);
	if (!desc_read(cpu, sel, &d))
		gp(cpu, sel);
	attr = desc_attr(&d);
	if (!desc_is_code(attr) || SEL_RPL(sel) < cpu->cpl)
		gp(cpu, sel);
	if (attr & ATTR_CE ? ATTR_DPL(attr) > SEL_RPL(sel)
			   : ATTR_DPL(attr) != SEL_RPL(sel))
		gp(cpu, sel);
	check_long_code(cpu, sel, attr);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, sel, cs);
}

void far_return_stack(struct cpu *cpu, uint16_t sel, const struct x86_seg *cs,
		      struct x86_seg *ss)
{
	unsigned rpl = SEL_RPL(cs->sel);
	bool is_64 = cpu->is_long && (cs->attr & ATTR_L);

	if (SEL_NULL(sel) && is_64 && rpl < 3 && SEL_RPL(sel) == rpl) {
		seg_set_null(ss, sel);
		ss->attr |= (uint16_t)ATTR_SET_DPL(rpl);
		return;
	}
	seg_read_stack(cpu, sel, rpl, EXC_GP, 0, ss);
}

void far_set_outer(struct cpu *cpu, const struct x86_seg *cs,
		   const struct x86_seg *ss, uint64_t rip, uint64_t rsp)
{
	bool is_64 = cpu->is_long && (cs->attr & ATTR_L);

	cpu->s.seg[SEG_CS] = *cs;
	cpu->s.seg[SEG_SS] = *ss;
	/* With a 16-bit stack the upper half of ESP is not touched. */
	if (is_64)
		cpu->s.gpr[RSP] = rsp;
	else
		reg_write(cpu, RSP, ss->attr & ATTR_DB ? 4 : 2, rsp);
	cpu->next_rip = rip;
	cpu_update_mode(cpu);
}

void far_return(struct cpu *cpu, const struct insn *insn)
{
	uint64_t release = insn->form == FORM_IMM ? (uint16_t)insn->imm : 0;
	unsigned size = insn->opsize;
	struct frame f = frame_current(cpu);
	uint64_t rip = frame_pop(&f, size), rsp;
	uint16_t sel = (uint16_t)frame_pop(&f, size), ss_sel;
	struct x86_seg cs, ss;

	count_trap(cpu, insn);
	if (!cpu_is_protected(cpu)) {
		ret_real(cpu, &f, rip, sel, release);
		return;
	}
	far_return_code(cpu, sel, &cs);
	frame_skip(&f, release);
	if (SEL_RPL(sel) == cpu->cpl) {
		seg_check_ip(cpu, &cs, rip, 0);
		frame_commit(&f);
		set_cs(cpu, &cs, rip);
		return;
	}
	rsp = frame_pop(&f, size);
	ss_sel = (uint16_t)frame_pop(&f, size);
	far_return_stack(cpu, ss_sel, &cs, &ss);
	seg_check_ip(cpu, &cs, rip, 0);
	far_set_outer(cpu, &cs, &ss, rip, rsp);
	f = frame_current(cpu);
	frame_skip(&f, release);
	frame_commit(&f);
	seg_drop_privileged(cpu);
}
