/*
 * Hardware task switches (SDM volume 3, chapter 7): 32-bit and 16-bit TSS.
 *
 * Three phases. First the new TSS is read and the old one written: a fault
 * there is the old task's and may be restarted. Then registers change hands.
 * Last, segments are loaded one by one: a fault there is the new task's, at
 * its first instruction, with selectors loaded and segments unusable.
 */
#include "vcpu/interp/desc.h"

/* Places in a TSS (SDM figures 7-2 and 7-10); general registers and, from
 * (seg), ES CS SS DS FS GS LDT follow each other in that order. */
struct tss_layout {
	uint8_t ip, flags, gpr, seg, nr_segs;
	uint8_t width, seg_stride;
	uint8_t min_limit;
};

static const struct tss_layout layouts[2] = {
	/* 16 bits */
	{ .ip = 0x0e,
	  .flags = 0x10,
	  .gpr = 0x12,
	  .seg = 0x22,
	  .nr_segs = 4,
	  .width = 2,
	  .seg_stride = 2,
	  .min_limit = 0x2b },
	/* 32 bits */
	{ .ip = 0x20,
	  .flags = 0x24,
	  .gpr = 0x28,
	  .seg = 0x48,
	  .nr_segs = 6,
	  .width = 4,
	  .seg_stride = 4,
	  .min_limit = 0x67 },
};

#define TSS_CR3 0x1c
#define TSS_T   0x64

/* What a TSS holds. */
struct task {
	uint64_t ip, flags, cr3, gpr[8];
	uint16_t seg[NR_SEG], ldt;
	bool traps;
};

static const struct tss_layout *layout_of(const struct x86_seg *tss)
{
	return &layouts[(tss->attr & 8) ? 1 : 0];
}

static uint64_t tss_read(struct cpu *cpu, const struct x86_seg *tss,
			 unsigned off, unsigned size)
{
	return mem_load_sys(cpu, (uint32_t)(tss->base + off), size);
}

static void tss_write(struct cpu *cpu, const struct x86_seg *tss, unsigned off,
		      unsigned size, uint64_t value)
{
	mem_store_sys(cpu, (uint32_t)(tss->base + off), size,
		      value & size_mask(size));
}

static void task_read(struct cpu *cpu, const struct x86_seg *tss,
		      struct task *t)
{
	const struct tss_layout *l = layout_of(tss);
	bool is_32 = l->width == 4;

	t->ip = tss_read(cpu, tss, l->ip, l->width);
	t->flags = tss_read(cpu, tss, l->flags, l->width);
	for (unsigned i = 0; i < 8; i++)
		t->gpr[i] = tss_read(cpu, tss, l->gpr + i * l->width, l->width);
	for (unsigned i = 0; i < NR_SEG; i++)
		t->seg[i] = i < l->nr_segs
				    ? (uint16_t)tss_read(
					      cpu, tss,
					      l->seg + i * l->seg_stride, 2)
				    : 0;
	t->ldt = (uint16_t)tss_read(cpu, tss,
				    l->seg + l->nr_segs * l->seg_stride, 2);
	t->cr3 = is_32 ? tss_read(cpu, tss, TSS_CR3, 4) : cpu->s.cr3;
	t->traps = is_32 && (tss_read(cpu, tss, TSS_T, 1) & 1);
}

static void task_write(struct cpu *cpu, const struct x86_seg *tss,
		       uint64_t flags)
{
	const struct tss_layout *l = layout_of(tss);

	tss_write(cpu, tss, l->ip, l->width, cpu->next_rip);
	tss_write(cpu, tss, l->flags, l->width, flags);
	for (unsigned i = 0; i < 8; i++)
		tss_write(cpu, tss, l->gpr + i * l->width, l->width,
			  cpu->s.gpr[i]);
	for (unsigned i = 0; i < l->nr_segs; i++)
		tss_write(cpu, tss, l->seg + i * l->seg_stride, 2,
			  cpu->s.seg[i].sel);
}

static void set_busy(struct cpu *cpu, struct descriptor *d, bool is_busy)
{
	d->raw = is_busy ? d->raw | BIT(41) : d->raw & ~BIT(41);
	mem_store_sys(cpu, d->gva + 5, 1, d->raw >> 40 & 0xff);
}

/* EXT of error codes: an event brought us here. */
static uint32_t ext_of(const struct cpu *cpu)
{
	return cpu->nesting ? 1 : 0;
}

static void ts(struct cpu *cpu, uint16_t sel) NORETURN;
static void ts(struct cpu *cpu, uint16_t sel)
{
	cpu_raise(cpu, EXC_TS, SEL_CODE(sel) | ext_of(cpu));
}

static void load_ldt(struct cpu *cpu, uint16_t sel)
{
	struct descriptor d;

	if (SEL_NULL(sel))
		return;
	if ((sel & SEL_TI) || !desc_read(cpu, sel, &d) ||
	    !desc_is_system(desc_attr(&d), SYS_LDT) ||
	    !(desc_attr(&d) & ATTR_P))
		ts(cpu, sel);
	desc_to_sys(cpu, &d, sel, &cpu->s.ldtr);
}

static void load_cs(struct cpu *cpu, uint16_t sel)
{
	struct descriptor d;
	uint16_t attr;

	if (SEL_NULL(sel) || !desc_read(cpu, sel, &d))
		ts(cpu, sel);
	attr = desc_attr(&d);
	if (!desc_is_code(attr) ||
	    (attr & ATTR_CE ? ATTR_DPL(attr) > SEL_RPL(sel)
			    : ATTR_DPL(attr) != SEL_RPL(sel)))
		ts(cpu, sel);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel) | ext_of(cpu));
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, sel, &cpu->s.seg[SEG_CS]);
}

static void load_data(struct cpu *cpu, enum seg seg, uint16_t sel)
{
	struct descriptor d;
	uint16_t attr;

	if (SEL_NULL(sel))
		return;
	if (!desc_read(cpu, sel, &d))
		ts(cpu, sel);
	attr = desc_attr(&d);
	if (!(attr & ATTR_S) || ((attr & ATTR_CODE) && !(attr & ATTR_RW)))
		ts(cpu, sel);
	if ((attr & (ATTR_CODE | ATTR_CE)) != (ATTR_CODE | ATTR_CE) &&
	    (SEL_RPL(sel) > ATTR_DPL(attr) || cpu->cpl > ATTR_DPL(attr)))
		ts(cpu, sel);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel) | ext_of(cpu));
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, sel, &cpu->s.seg[seg]);
}

/* Load the segments of (t), whose selectors are in place already. */
static void load_segments(struct cpu *cpu, const struct task *t)
{
	static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	load_ldt(cpu, t->ldt);
	if (cpu->s.rflags & FLAG_VM) {
		for (unsigned i = 0; i < NR_SEG; i++)
			seg_load_real(cpu, i, t->seg[i]);
		cpu_update_mode(cpu);
		return;
	}
	load_cs(cpu, t->seg[SEG_CS]);
	cpu_update_mode(cpu);
	seg_read_stack(cpu, t->seg[SEG_SS], SEL_RPL(t->seg[SEG_CS]), EXC_TS,
		       ext_of(cpu), &cpu->s.seg[SEG_SS]);
	cpu_update_mode(cpu);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		load_data(cpu, data[i], t->seg[data[i]]);
}

/* Registers change hands; from here on faults are the new task's. */
static void task_enter(struct cpu *cpu, const struct task *t,
		       const struct x86_seg *tr)
{
	struct x86_state *s = &cpu->s;
	unsigned cpl = t->flags & FLAG_VM ? 3 : SEL_RPL(t->seg[SEG_CS]);
	bool is_16 = layout_of(tr)->width == 2;

	s->tr = *tr;
	s->cr0 |= CR0_TS;
	s->dr[7] &= ~0x155ULL; /* local enable bits (SDM 17.2.4) */
	for (unsigned i = 0; i < 8; i++)
		s->gpr[i] = is_16 ? t->gpr[i] | 0xffff0000 : t->gpr[i];
	s->rflags = (t->flags &
		     (FLAGS_STATUS | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL |
		      FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_ID)) |
		    FLAG_ONE;
	s->rip = cpu->next_rip = t->ip;
	cpu->block = NULL; /* a fault from here on is not of its code */
	for (unsigned i = 0; i < NR_SEG; i++)
		seg_set_null(&s->seg[i], t->seg[i]);
	s->seg[SEG_SS].attr |= (uint16_t)ATTR_SET_DPL(cpl);
	seg_set_null(&s->ldtr, t->ldt);
	if (t->traps)
		cpu->debug_trap |= DR6_BT;
	if ((s->cr0 & CR0_PG) && t->cr3 != s->cr3)
		cr3_write(cpu, t->cr3);
	cpu_update_mode(cpu);
}

void task_switch(struct cpu *cpu, uint16_t sel, enum task_source source,
		 bool has_error, uint32_t error)
{
	bool nests = source == TASK_CALL || source == TASK_GATE;
	struct x86_seg old = cpu->s.tr, tr;
	struct descriptor d, old_d;
	struct task t;
	uint64_t flags = cpu->s.rflags;
	struct frame f;

	if (!desc_read(cpu, sel, &d) || !desc_read(cpu, old.sel, &old_d))
		ts(cpu, sel);
	desc_to_sys(cpu, &d, sel, &tr);
	tr.attr |= ATTR_RW; /* busy */
	if (tr.limit < layout_of(&tr)->min_limit)
		ts(cpu, sel);
	task_read(cpu, &tr, &t);
	if (source == TASK_IRET)
		flags &= ~FLAG_NT;
	task_write(cpu, &old, flags);
	if (nests) {
		tss_write(cpu, &tr, 0, 2, old.sel);
		t.flags |= FLAG_NT;
	} else {
		set_busy(cpu, &old_d, false);
	}
	if (source != TASK_IRET)
		set_busy(cpu, &d, true);
	task_enter(cpu, &t, &tr);
	load_segments(cpu, &t);
	if (has_error) {
		f = frame_new(cpu, &cpu->s.seg[SEG_SS], cpu->s.gpr[RSP],
			      cpu->cpl, ext_of(cpu));
		frame_push(&f, layout_of(&tr)->width, error);
		frame_commit(&f);
	}
	seg_check_ip(cpu, &cpu->s.seg[SEG_CS], t.ip, ext_of(cpu));
}
