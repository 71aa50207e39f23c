/*
 * Segments and descriptor tables: loads with their checks, and the
 * instructions that look at or store them.
 *
 * SDM volume 3, chapters 3 and 5, and the pseudo-code of volume 2. The order
 * of checks is the pseudo-code's, as error codes depend on it. Descriptors are
 * read with supervisor privilege. A null or unusable segment has
 * ATTR_UNUSABLE; SS keeps the DPL there, which is the CPL.
 */
#include "vcpu/interp/desc.h"

static const struct x86_seg *table_of(const struct cpu *cpu, uint16_t sel,
				      struct x86_seg *gdt)
{
	if (sel & SEL_TI)
		return &cpu->s.ldtr;
	gdt->base = cpu->s.gdtr.base;
	gdt->limit = cpu->s.gdtr.limit;
	gdt->attr = 0;
	return gdt;
}

bool desc_read(struct cpu *cpu, uint16_t sel, struct descriptor *d)
{
	struct x86_seg gdt;
	const struct x86_seg *table = table_of(cpu, sel, &gdt);

	if ((table->attr & ATTR_UNUSABLE) || (sel | 7U) > table->limit)
		return false;
	d->gva = table->base + (sel & 0xfff8U);
	if (!cpu->is_long)
		d->gva = (uint32_t)d->gva;
	d->raw = mem_load_sys(cpu, d->gva, 8);
	d->high = 0;
	return true;
}

bool desc_read_high(struct cpu *cpu, uint16_t sel, struct descriptor *d)
{
	struct x86_seg gdt;
	const struct x86_seg *table = table_of(cpu, sel, &gdt);

	if ((sel & 0xfff8U) + 15 > table->limit)
		return false;
	d->high = mem_load_sys(cpu, d->gva + 8, 8);
	return !(d->high >> 40 & 0x1f);
}

void desc_to_seg(const struct descriptor *d, uint16_t sel, struct x86_seg *seg)
{
	uint32_t limit = (d->raw & 0xffff) | (d->raw >> 32 & 0xf0000);

	seg->sel = sel;
	seg->attr = desc_attr(d);
	seg->base = (d->raw >> 16 & 0xffffff) | (d->raw >> 32 & 0xff000000);
	seg->limit = seg->attr & ATTR_G ? limit << 12 | 0xfff : limit;
}

void desc_to_sys(const struct cpu *cpu, const struct descriptor *d,
		 uint16_t sel, struct x86_seg *seg)
{
	desc_to_seg(d, sel, seg);
	if (cpu->is_long)
		seg->base |= d->high << 32;
}

void desc_set_accessed(struct cpu *cpu, struct descriptor *d)
{
	if (d->raw & BIT(40))
		return;
	d->raw |= BIT(40);
	mem_store_sys(cpu, d->gva + 5, 1, d->raw >> 40 & 0xff);
}

bool seg_holds(const struct x86_seg *seg, uint64_t off, unsigned size)
{
	uint64_t last = off + size - 1;
	bool is_down = (seg->attr & (ATTR_S | ATTR_CODE | ATTR_CE)) ==
		       (ATTR_S | ATTR_CE);

	if (is_down)
		return off > seg->limit &&
		       last <= (seg->attr & ATTR_DB ? 0xffffffff : 0xffff);
	return last <= seg->limit;
}

void seg_set_null(struct x86_seg *seg, uint16_t sel)
{
	*seg = (struct x86_seg){ .sel = sel, .attr = ATTR_UNUSABLE };
}

void seg_drop_privileged(struct cpu *cpu)
{
	static const uint8_t segs[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(segs); i++) {
		struct x86_seg *seg = &cpu->s.seg[segs[i]];
		bool is_conforming =
			desc_is_code(seg->attr) && (seg->attr & ATTR_CE);

		if (!(seg->attr & ATTR_UNUSABLE) && !is_conforming &&
		    ATTR_DPL(seg->attr) < x86_cpl(&cpu->s))
			seg_set_null(seg, 0);
	}
}

void seg_check_ip(struct cpu *cpu, const struct x86_seg *cs, uint64_t rip,
		  uint32_t error)
{
	bool is_fine = cpu->is_long && (cs->attr & ATTR_L)
			       ? is_canonical(rip, 48)
			       : rip <= cs->limit;

	if (!is_fine)
		cpu_raise(cpu, EXC_GP, error);
}

/* ---- Stacks being built -------------------------------------------------- */

struct frame frame_new(struct cpu *cpu, const struct x86_seg *ss, uint64_t sp,
		       unsigned cpl, uint32_t error)
{
	return (struct frame){
		.cpu = cpu,
		.ss = ss,
		.sp = sp,
		.mask = !ss                  ? ~0ULL
			: ss->attr & ATTR_DB ? 0xffffffff
					     : 0xffff,
		.is_sys = cpl < 3,
		.error = error,
	};
}

struct frame frame_current(struct cpu *cpu)
{
	struct frame f = frame_new(
		cpu, cpu->mode == MODE_64 ? NULL : &cpu->s.seg[SEG_SS],
		cpu->s.gpr[RSP], 3, 0);

	return f;
}

static uint64_t frame_address(const struct frame *f, unsigned size)
{
	uint64_t off = f->sp & f->mask;

	if (!f->ss) {
		if (!is_canonical(off, 48) || !is_canonical(off + size - 1, 48))
			cpu_raise(f->cpu, EXC_SS, f->error);
		return off;
	}
	if (!seg_holds(f->ss, off, size))
		cpu_raise(f->cpu, EXC_SS, f->error);
	return (uint32_t)(f->ss->base + off);
}

void frame_skip(struct frame *f, uint64_t bytes)
{
	uint64_t keep = f->mask == 0xffff ? ~f->mask : 0;

	f->sp = (f->sp & keep) | ((f->sp + bytes) & f->mask);
}

void frame_push(struct frame *f, unsigned size, uint64_t value)
{
	uint64_t gva;

	frame_skip(f, -(uint64_t)size);
	gva = frame_address(f, size);
	if (f->is_sys)
		mem_store_sys(f->cpu, gva, size, value & size_mask(size));
	else
		mem_store(f->cpu, gva, size, value & size_mask(size));
}

uint64_t frame_pop(struct frame *f, unsigned size)
{
	uint64_t gva = frame_address(f, size), value;

	value = f->is_sys ? mem_load_sys(f->cpu, gva, size)
			  : mem_load(f->cpu, gva, size);
	frame_skip(f, size);
	return value;
}

void frame_commit(struct frame *f)
{
	f->cpu->s.gpr[RSP] = f->sp;
}

/* (SDM volume 2, CALL, MORE-PRIVILEGE; INT n, INTER-PRIVILEGE-LEVEL) */
static struct frame inner_long(struct cpu *cpu, unsigned cpl, unsigned ist,
			       struct x86_seg *ss, uint32_t ext)
{
	const struct x86_seg *tr = &cpu->s.tr;
	uint32_t off = ist ? ist * 8 + 28 : cpl * 8 + 4;

	if (off + 7 > tr->limit)
		cpu_raise(cpu, EXC_TS, SEL_CODE(tr->sel) | ext);
	seg_set_null(ss, (uint16_t)cpl);
	ss->attr |= (uint16_t)ATTR_SET_DPL(cpl);
	return frame_new(cpu, NULL, mem_load_sys(cpu, tr->base + off, 8), cpl,
			 ext);
}

void seg_read_stack(struct cpu *cpu, uint16_t sel, unsigned cpl, uint8_t vector,
		    uint32_t ext, struct x86_seg *ss)
{
	struct descriptor d;
	uint16_t attr;

	if (SEL_NULL(sel))
		cpu_raise(cpu, vector, ext);
	if (!desc_read(cpu, sel, &d) || SEL_RPL(sel) != cpl)
		cpu_raise(cpu, vector, SEL_CODE(sel) | ext);
	attr = desc_attr(&d);
	if (!desc_is_stack(attr) || ATTR_DPL(attr) != cpl)
		cpu_raise(cpu, vector, SEL_CODE(sel) | ext);
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_SS, SEL_CODE(sel) | ext);
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, sel, ss);
}

struct frame frame_inner(struct cpu *cpu, unsigned cpl, unsigned ist,
			 struct x86_seg *ss, uint32_t ext)
{
	const struct x86_seg *tr = &cpu->s.tr;
	bool is_32 = tr->attr & 8; /* of the type: 9, 11 against 1, 3 */
	unsigned size = is_32 ? 4 : 2;
	uint32_t off = is_32 ? cpl * 8 + 4 : cpl * 4 + 2;
	uint64_t sp;
	uint16_t sel;

	if (cpu->is_long)
		return inner_long(cpu, cpl, ist, ss, ext);
	if (off + size + 1 > tr->limit)
		cpu_raise(cpu, EXC_TS, SEL_CODE(tr->sel) | ext);
	sp = mem_load_sys(cpu, (uint32_t)(tr->base + off), size);
	sel = (uint16_t)mem_load_sys(cpu, (uint32_t)(tr->base + off + size), 2);
	seg_read_stack(cpu, sel, cpl, EXC_TS, ext, ss);
	return frame_new(cpu, ss, sp, cpl, SEL_CODE(sel) | ext);
}

/* ---- Loading segment registers ------------------------------------------- */

void seg_load_real(struct cpu *cpu, enum seg seg, uint16_t sel)
{
	struct x86_seg *r = &cpu->s.seg[seg];

	r->sel = sel;
	r->base = (uint64_t)sel << 4;
	if (cpu->s.rflags & FLAG_VM) {
		r->limit = 0xffff;
		r->attr = ATTR_P | ATTR_S | 3 | ATTR_SET_DPL(3);
	} else if (r->attr & ATTR_UNUSABLE) {
		/* Usable again; the limit stays whatever protected mode left */
		r->attr = ATTR_P | ATTR_S | 3;
	}
}

/* (SDM volume 2, MOV: loading SS) */
static void load_ss(struct cpu *cpu, uint16_t sel)
{
	struct x86_seg *ss = &cpu->s.seg[SEG_SS];
	struct x86_seg loaded;

	if (SEL_NULL(sel) && cpu->mode == MODE_64 && cpu->cpl < 3 &&
	    SEL_RPL(sel) == cpu->cpl) {
		seg_set_null(ss, sel);
		ss->attr |= (uint16_t)ATTR_SET_DPL(cpu->cpl);
	} else {
		seg_read_stack(cpu, sel, cpu->cpl, EXC_GP, 0, &loaded);
		*ss = loaded;
	}
	cpu_update_mode(cpu);
}

void seg_load(struct cpu *cpu, enum seg seg, uint16_t sel)
{
	struct x86_seg *r = &cpu->s.seg[seg];
	struct descriptor d;
	uint16_t attr;

	if (!cpu_is_protected(cpu)) {
		seg_load_real(cpu, seg, sel);
		return;
	}
	if (seg == SEG_SS) {
		load_ss(cpu, sel);
		return;
	}
	if (SEL_NULL(sel)) {
		seg_set_null(r, sel);
		return;
	}
	if (!desc_read(cpu, sel, &d))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	attr = desc_attr(&d);
	if (!(attr & ATTR_S) || ((attr & ATTR_CODE) && !(attr & ATTR_RW)))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	/* Data and non-conforming code */
	if ((attr & (ATTR_CODE | ATTR_CE)) != (ATTR_CODE | ATTR_CE) &&
	    (SEL_RPL(sel) > ATTR_DPL(attr) || cpu->cpl > ATTR_DPL(attr)))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
	desc_set_accessed(cpu, &d);
	desc_to_seg(&d, sel, r);
}

static uint64_t rm_read(struct cpu *cpu, const struct insn *insn, unsigned size)
{
	if (insn->flags & INSN_MEM)
		return mem_load(cpu, mem_operand(cpu, insn, size, false), size);
	return reg_read(cpu, insn->rm, size);
}

/* Store a selector: 16 bits to memory, zero-extended to a register. */
static void rm_write_sel(struct cpu *cpu, const struct insn *insn, uint16_t sel)
{
	if (insn->flags & INSN_MEM)
		mem_store(cpu, mem_operand(cpu, insn, 2, true), 2, sel);
	else
		reg_write(cpu, insn->rm, insn->opsize, sel);
}

/* Behind a load of SS one instruction runs without interrupts and #DB. */
static void shadow_ss(struct cpu *cpu)
{
	cpu->s.shadow_ss = true;
	cpu->exit_block = true;
}

static void do_mov_to_seg(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	seg_load(cpu, insn->reg, (uint16_t)rm_read(cpu, insn, 2));
	if (insn->reg == SEG_SS)
		shadow_ss(cpu);
}

static void do_mov_from_seg(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	rm_write_sel(cpu, insn, cpu->s.seg[insn->reg].sel);
}

/* With a 32-bit operand today's Intel CPUs leave the slot's upper half as it
 * was (SDM volume 2, PUSH); AMD's zero it. */
static void do_push_seg(struct cpu *cpu, const struct insn *insn)
{
	struct frame f = frame_current(cpu);
	uint16_t sel = cpu->s.seg[insn->reg].sel;

	count_trap(cpu, insn);
	if (insn->opsize == 4 && !cpuid_is_amd(&cpu->vcpu->set->cpuid)) {
		frame_skip(&f, -(uint64_t)2);
		frame_push(&f, 2, sel);
	} else {
		frame_push(&f, insn->opsize, sel);
	}
	frame_commit(&f);
}

static void do_pop_seg(struct cpu *cpu, const struct insn *insn)
{
	struct frame f = frame_current(cpu);
	uint16_t sel = (uint16_t)frame_pop(&f, insn->opsize);

	count_trap(cpu, insn);
	seg_load(cpu, insn->reg, sel);
	frame_commit(&f);
	if (insn->reg == SEG_SS)
		shadow_ss(cpu);
}

static void do_load_far(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	uint64_t gva = mem_operand(cpu, insn, size + 2, false);
	uint64_t off = mem_load(cpu, gva, size);

	count_trap(cpu, insn);
	seg_load(cpu, insn->imm2, (uint16_t)mem_load(cpu, gva + size, 2));
	reg_write(cpu, insn->reg, size, off);
}

/* ---- Descriptor table registers ------------------------------------------ */

static void store_dtr(struct cpu *cpu, const struct insn *insn,
		      const struct x86_dtr *dtr)
{
	unsigned size = cpu->mode == MODE_64 ? 8 : 4;
	uint64_t gva = mem_operand(cpu, insn, size + 2, true);

	count_trap(cpu, insn);
	mem_probe(cpu, gva, size + 2, true);
	mem_store(cpu, gva, 2, dtr->limit);
	mem_store(cpu, gva + 2, size, dtr->base & size_mask(size));
}

static void load_dtr(struct cpu *cpu, const struct insn *insn,
		     struct x86_dtr *dtr)
{
	unsigned size = cpu->mode == MODE_64 ? 8 : 4;
	uint64_t gva = mem_operand(cpu, insn, size + 2, false);
	uint16_t limit = (uint16_t)mem_load(cpu, gva, 2);
	uint64_t base = mem_load(cpu, gva + 2, size);

	count_trap(cpu, insn);
	if (size == 8 && !is_canonical(base, 48))
		cpu_raise(cpu, EXC_GP, 0);
	dtr->base = size == 4 && insn->opsize == 2 ? base & 0xffffff : base;
	dtr->limit = limit;
}

static void do_sgdt(struct cpu *cpu, const struct insn *insn)
{
	store_dtr(cpu, insn, &cpu->s.gdtr);
}

static void do_sidt(struct cpu *cpu, const struct insn *insn)
{
	store_dtr(cpu, insn, &cpu->s.idtr);
}

static void do_lgdt(struct cpu *cpu, const struct insn *insn)
{
	load_dtr(cpu, insn, &cpu->s.gdtr);
}

static void do_lidt(struct cpu *cpu, const struct insn *insn)
{
	load_dtr(cpu, insn, &cpu->s.idtr);
}

static void require_protected(struct cpu *cpu)
{
	if (!cpu_is_protected(cpu))
		cpu_raise(cpu, EXC_UD, 0);
}

static void do_sldt(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	require_protected(cpu);
	rm_write_sel(cpu, insn, cpu->s.ldtr.sel);
}

static void do_str(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	require_protected(cpu);
	rm_write_sel(cpu, insn, cpu->s.tr.sel);
}

/* What LLDT and LTR check of the descriptor of (sel): it is in the GDT, of
 * (type) or (type16), present, and well-formed where it is 16 bytes. */
static void read_system(struct cpu *cpu, uint16_t sel, enum sysdesc type,
			enum sysdesc type16, struct descriptor *d)
{
	uint16_t attr;

	if ((sel & SEL_TI) || !desc_read(cpu, sel, d))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	attr = desc_attr(d);
	if (!desc_is_system(attr, type) &&
	    (cpu->is_long || !desc_is_system(attr, type16)))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	if (!(attr & ATTR_P))
		cpu_raise(cpu, EXC_NP, SEL_CODE(sel));
	if (cpu->is_long && !desc_read_high(cpu, sel, d))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
}

static void do_lldt(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	struct x86_seg seg;
	uint16_t sel;

	count_trap(cpu, insn);
	require_protected(cpu);
	sel = (uint16_t)rm_read(cpu, insn, 2);
	if (SEL_NULL(sel)) {
		seg_set_null(&cpu->s.ldtr, sel);
		return;
	}
	read_system(cpu, sel, SYS_LDT, SYS_LDT, &d);
	desc_to_sys(cpu, &d, sel, &seg);
	if (!is_canonical(seg.base, 48))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	cpu->s.ldtr = seg;
}

static void do_ltr(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	struct x86_seg seg;
	uint16_t sel;

	count_trap(cpu, insn);
	require_protected(cpu);
	sel = (uint16_t)rm_read(cpu, insn, 2);
	if (SEL_NULL(sel))
		cpu_raise(cpu, EXC_GP, 0);
	read_system(cpu, sel, SYS_TSS, SYS_TSS16, &d);
	d.raw |= BIT(41); /* busy */
	desc_to_sys(cpu, &d, sel, &seg);
	if (!is_canonical(seg.base, 48))
		cpu_raise(cpu, EXC_GP, SEL_CODE(sel));
	mem_store_sys(cpu, d.gva + 5, 1, d.raw >> 40 & 0xff);
	cpu->s.tr = seg;
}

/* ---- Looking at descriptors ---------------------------------------------- */

static void set_zf(struct cpu *cpu, bool zf)
{
	cpu->s.rflags = (cpu->s.rflags & ~FLAG_ZF) | (zf ? FLAG_ZF : 0);
}

/* May the current level see (attr) through (sel)? */
static bool is_visible(const struct cpu *cpu, uint16_t sel, uint16_t attr)
{
	if (desc_is_code(attr) && (attr & ATTR_CE))
		return true;
	return cpu->cpl <= ATTR_DPL(attr) && SEL_RPL(sel) <= ATTR_DPL(attr);
}

/* LAR and LSL: system types that each takes, as bits (SDM volume 2, tables
 * of LAR and LSL; the second column is IA-32e mode). */
static const uint16_t lar_types[2] = {
	1 << SYS_TSS16 | 1 << SYS_LDT | 1 << SYS_TSS16_BUSY | 1 << SYS_CALL16 |
		1 << SYS_TASK | 1 << SYS_TSS | 1 << SYS_TSS_BUSY |
		1 << SYS_CALL,
	1 << SYS_LDT | 1 << SYS_TSS | 1 << SYS_TSS_BUSY | 1 << SYS_CALL,
};
static const uint16_t lsl_types[2] = {
	1 << SYS_TSS16 | 1 << SYS_LDT | 1 << SYS_TSS16_BUSY | 1 << SYS_TSS |
		1 << SYS_TSS_BUSY,
	1 << SYS_LDT | 1 << SYS_TSS | 1 << SYS_TSS_BUSY,
};

static bool look_up(struct cpu *cpu, const struct insn *insn,
		    const uint16_t types[2], struct descriptor *d)
{
	uint16_t sel, attr;

	count_trap(cpu, insn);
	require_protected(cpu);
	sel = (uint16_t)rm_read(cpu, insn, 2);
	if (SEL_NULL(sel) || !desc_read(cpu, sel, d))
		return false;
	attr = desc_attr(d);
	if (!(attr & ATTR_S)) {
		if (!(types[cpu->is_long] >> (attr & ATTR_TYPE) & 1))
			return false;
		if (cpu->is_long && !desc_read_high(cpu, sel, d))
			return false;
	}
	return is_visible(cpu, sel, attr);
}

static void do_lar(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	bool ok = look_up(cpu, insn, lar_types, &d);

	set_zf(cpu, ok);
	if (ok) /* bits 19:16 come through, as on silicon */
		reg_write(cpu, insn->reg, insn->opsize,
			  d.raw >> 32 & 0x00ffff00);
}

static void do_lsl(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	struct x86_seg seg;
	bool ok = look_up(cpu, insn, lsl_types, &d);

	set_zf(cpu, ok);
	if (!ok)
		return;
	desc_to_seg(&d, 0, &seg);
	reg_write(cpu, insn->reg, insn->opsize, seg.limit);
}

static void do_verify(struct cpu *cpu, const struct insn *insn)
{
	static const uint16_t no_types[2];
	struct descriptor d;
	bool ok = look_up(cpu, insn, no_types, &d);
	uint16_t attr = ok ? desc_attr(&d) : 0;

	if (insn->op == OP_VERW)
		ok = ok && desc_is_stack(attr);
	else /* data can always be read */
		ok = ok && (!(attr & ATTR_CODE) || (attr & ATTR_RW));
	set_zf(cpu, ok);
}

static void do_arpl(struct cpu *cpu, const struct insn *insn)
{
	uint16_t rpl = SEL_RPL(cpu->s.gpr[insn->reg]), dest;
	uint64_t gva = 0;
	bool is_raised;

	count_trap(cpu, insn);
	require_protected(cpu);
	if (insn->flags & INSN_MEM) {
		gva = mem_operand(cpu, insn, 2, true);
		dest = (uint16_t)mem_load(cpu, gva, 2);
	} else {
		dest = (uint16_t)cpu->s.gpr[insn->rm];
	}
	is_raised = SEL_RPL(dest) < rpl;
	if (is_raised) {
		dest = (uint16_t)((dest & ~3U) | rpl);
		if (insn->flags & INSN_MEM)
			mem_store(cpu, gva, 2, dest);
		else
			reg_write(cpu, insn->rm, 2, dest);
	}
	set_zf(cpu, is_raised);
}

/* ---- FS and GS bases ----------------------------------------------------- */

static void require_fsgsbase(struct cpu *cpu)
{
	if (cpu->mode != MODE_64 || !(cpu->s.cr4 & CR4_FSGSBASE))
		cpu_raise(cpu, EXC_UD, 0);
}

static void do_rdbase(struct cpu *cpu, const struct insn *insn)
{
	enum seg seg = insn->op == OP_RDFSBASE ? SEG_FS : SEG_GS;

	require_fsgsbase(cpu);
	reg_write(cpu, insn->rm, insn->opsize, cpu->s.seg[seg].base);
}

static void do_wrbase(struct cpu *cpu, const struct insn *insn)
{
	enum seg seg = insn->op == OP_WRFSBASE ? SEG_FS : SEG_GS;
	uint64_t base = reg_read(cpu, insn->rm, insn->opsize);

	require_fsgsbase(cpu);
	if (!is_canonical(base, 48))
		cpu_raise(cpu, EXC_GP, 0);
	cpu->s.seg[seg].base = base;
}

static void do_swapgs(struct cpu *cpu, const struct insn *insn)
{
	uint64_t base = cpu->s.seg[SEG_GS].base;

	count_trap(cpu, insn);
	cpu->s.seg[SEG_GS].base = cpu->s.kernel_gs_base;
	cpu->s.kernel_gs_base = base;
}

const insn_fn seg_handlers[NR_OPS] = {
	[OP_MOV_TO_SEG] = do_mov_to_seg,
	[OP_MOV_FROM_SEG] = do_mov_from_seg,
	[OP_PUSH_SEG] = do_push_seg,
	[OP_POP_SEG] = do_pop_seg,
	[OP_LOAD_FAR] = do_load_far,
	[OP_SGDT] = do_sgdt,
	[OP_SIDT] = do_sidt,
	[OP_LGDT] = do_lgdt,
	[OP_LIDT] = do_lidt,
	[OP_SLDT] = do_sldt,
	[OP_STR] = do_str,
	[OP_LLDT] = do_lldt,
	[OP_LTR] = do_ltr,
	[OP_LAR] = do_lar,
	[OP_LSL] = do_lsl,
	[OP_VERR] = do_verify,
	[OP_VERW] = do_verify,
	[OP_ARPL] = do_arpl,
	[OP_RDFSBASE] = do_rdbase,
	[OP_RDGSBASE] = do_rdbase,
	[OP_WRFSBASE] = do_wrbase,
	[OP_WRGSBASE] = do_wrbase,
	[OP_SWAPGS] = do_swapgs,
	[OP_JMP_FAR] = far_direct,
	[OP_CALL_FAR] = far_direct,
	[OP_JMP_FAR_IND] = far_indirect,
	[OP_CALL_FAR_IND] = far_indirect,
	[OP_RET_FAR] = far_return,
};
