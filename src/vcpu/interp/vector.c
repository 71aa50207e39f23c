/*
 * Vector instructions that touch memory element by element and fault only for
 * elements that their mask selects.
 *
 * Gathers and scatters are done here, one element after the other, in s.xsave:
 * what a fault interrupts has its mask bits cleared so far, as the
 * architecture wants it. Masked loads and stores run natively; where their
 * operand is not in one accessible page, on a copy laid out so that the pages
 * that the guest may not access fall on pages that the host may not: the
 * host's CPU then says whether the mask selects anything there.
 */
#include "vcpu/interp/fpu.h"
#include "vcpu/interp/mmu.h"

/* ---- Vector registers in s.xsave ---------------------------------------------------- */

/* The address of byte (at) of vector register (reg). */
static uint8_t *vector_byte(struct cpu *cpu, unsigned reg, unsigned at)
{
	uint8_t *x = cpu->s.xsave;

	if (reg >= 16)
		return x + cpu->fpu_offset[XCOMP_ZMM_16] + (reg - 16) * 64 + at;
	if (at < 16)
		return x + XSAVE_XMM + reg * 16 + at;
	if (at < 32)
		return x + cpu->fpu_offset[XCOMP_AVX] + reg * 16 + at - 16;
	return x + cpu->fpu_offset[XCOMP_ZMM_HI] + reg * 32 + at - 32;
}

static uint64_t element_read(struct cpu *cpu, unsigned reg, unsigned size,
			     unsigned n)
{
	return host_load(vector_byte(cpu, reg, size * n), size);
}

static void element_write(struct cpu *cpu, unsigned reg, unsigned size,
			  unsigned n, uint64_t value)
{
	host_store(vector_byte(cpu, reg, size * n), size, value);
}

/* Clear (reg) from byte (from) on. */
static void vector_clear(struct cpu *cpu, unsigned reg, unsigned from)
{
	unsigned end = cpu->fpu_mask & XCR0_AVX512 ? 64 : 32;

	for (unsigned at = from; at < end; at++)
		*vector_byte(cpu, reg, at) = 0;
}

static uint64_t *opmask(struct cpu *cpu, unsigned k)
{
	return xsave_u64(cpu, cpu->fpu_offset[XCOMP_OPMASK] + k * 8);
}

/* ---- Gathers and scatters -------------------------------------------------------------- */

/** How the elements of one of them are laid out. */
struct gather {
	unsigned index_size, size, nr;
};

/* Opcodes 90 to 93 and A0 to A3: bit 0 says 64-bit indexes, W 64-bit
 * elements (SDM volume 2, VGATHERDPS and so on). */
static struct gather gather_layout(const struct insn *insn)
{
	struct gather g = { .index_size = insn->opcode & 1 ? 8 : 4,
			    .size = insn->vex_w ? 8 : 4 };

	g.nr = insn->vlen / MAX(g.index_size, g.size);
	return g;
}

static void gather_check(struct cpu *cpu, const struct insn *insn)
{
	bool is_evex = insn->flags & INSN_EVEX;

	cpu_fpu_check(cpu, insn);
	if (is_evex && !insn->mask)
		cpu_raise(cpu, EXC_UD, 0);
	if (insn->op == OP_GATHER && insn->reg == insn->index)
		cpu_raise(cpu, EXC_UD, 0);
	if (!is_evex && (insn->vvvv == insn->reg || insn->vvvv == insn->index))
		cpu_raise(cpu, EXC_UD, 0);
	/* Into s.xsave, where all components count from now on. */
	cpu_fpu_load(cpu);
	cpu_fpu_save(cpu);
	*xsave_u64(cpu, XSAVE_BV) |= cpu->fpu_mask;
}

static uint64_t element_address(struct cpu *cpu, const struct insn *insn,
				const struct gather *g, unsigned n,
				bool is_write)
{
	uint64_t index = element_read(cpu, insn->index, g->index_size, n);
	uint64_t ea = (uint64_t)insn->disp;

	if (insn->base != INSN_NONE)
		ea += cpu->s.gpr[insn->base];
	ea += (uint64_t)sign_extend(index, g->index_size * 8)
	      << insn->scale_log2;
	return mem_linear(cpu, insn->seg, ea & size_mask(insn->addrsize),
			  g->size, is_write);
}

static bool is_selected(struct cpu *cpu, const struct insn *insn,
			const struct gather *g, unsigned n)
{
	if (insn->flags & INSN_EVEX)
		return *opmask(cpu, insn->mask) >> n & 1;
	return element_read(cpu, insn->vvvv, g->size, n) >> (g->size * 8 - 1) &
	       1;
}

static void deselect(struct cpu *cpu, const struct insn *insn,
		     const struct gather *g, unsigned n)
{
	if (insn->flags & INSN_EVEX)
		*opmask(cpu, insn->mask) &= ~BIT(n);
	else
		element_write(cpu, insn->vvvv, g->size, n, 0);
}

static void gather(struct cpu *cpu, const struct insn *insn)
{
	struct gather g = gather_layout(insn);
	uint64_t value;

	gather_check(cpu, insn);
	/* All mask elements become all ones or zeros first. */
	for (unsigned i = 0; i < g.nr && !(insn->flags & INSN_EVEX); i++)
		element_write(cpu, insn->vvvv, g.size, i,
			      is_selected(cpu, insn, &g, i) ? ~0ULL : 0);
	if (!(insn->flags & INSN_EVEX))
		vector_clear(cpu, insn->vvvv, g.nr * g.size);
	for (unsigned i = 0; i < g.nr; i++) {
		if (!is_selected(cpu, insn, &g, i))
			continue;
		value = mem_load_fast(cpu,
				      element_address(cpu, insn, &g, i, false),
				      g.size, MEM_UNALIGNED);
		element_write(cpu, insn->reg, g.size, i, value);
		vector_clear(cpu, insn->reg, g.nr * g.size);
		deselect(cpu, insn, &g, i);
	}
	vector_clear(cpu, insn->reg, g.nr * g.size);
	if (insn->flags & INSN_EVEX)
		*opmask(cpu, insn->mask) = 0;
	else
		vector_clear(cpu, insn->vvvv, 0);
}

static void scatter(struct cpu *cpu, const struct insn *insn)
{
	struct gather g = gather_layout(insn);

	gather_check(cpu, insn);
	for (unsigned i = 0; i < g.nr; i++) {
		if (!is_selected(cpu, insn, &g, i))
			continue;
		mem_store_fast(cpu, element_address(cpu, insn, &g, i, true),
			       g.size, MEM_UNALIGNED,
			       element_read(cpu, insn->reg, g.size, i));
		deselect(cpu, insn, &g, i);
	}
	*opmask(cpu, insn->mask) = 0;
}

/* ---- MASKMOVQ MASKMOVDQU ------------------------------------------------------------------ */

/* As every MMX instruction: TOP becomes zero, so that ST(n) in s.xsave is
 * register n, and all registers valid. */
static void mmx_begin(struct cpu *cpu)
{
	uint32_t mm0;

	if (fpu_is_pending())
		cpu_raise(cpu, EXC_MF, 0);
	__asm__ volatile("movd %%mm0, %0" : "=r"(mm0));
}

/* VMASKMOVPS, VPMASKMOVD and so on. */
static void vmaskmov(struct cpu *cpu, const struct insn *insn)
{
	struct slow_insn *slow = slow_of(insn);

	cpu_fpu_check(cpu, insn);
	cpu_fpu_load(cpu);
	native_memory(cpu, slow, true);
}

static void maskmov(struct cpu *cpu, const struct insn *insn)
{
	bool is_mmx = insn->flags & INSN_X87;
	unsigned len = is_mmx ? 8 : 16;
	unsigned regs = is_mmx ? XSAVE_ST : XSAVE_XMM, last = is_mmx ? 7 : 15;
	const uint8_t *data = &cpu->s.xsave[regs + (insn->reg & last) * 16];
	const uint8_t *mask = &cpu->s.xsave[regs + (insn->rm & last) * 16];
	uint64_t ea = mem_effective(cpu, insn), gva;

	if (insn->map == 2) {
		vmaskmov(cpu, insn);
		return;
	}
	cpu_fpu_check(cpu, insn);
	cpu_fpu_load(cpu);
	if (is_mmx)
		mmx_begin(cpu);
	cpu_fpu_save(cpu);
	/* The whole operand has to be writable, whatever the mask says. */
	gva = mem_linear(cpu, insn->seg, ea, len, true);
	if (cpu->align_check && (gva & 7))
		cpu_raise(cpu, EXC_AC, 0);
	mem_probe(cpu, gva, len, true);
	for (unsigned i = 0; i < len; i++)
		if (mask[i] & 0x80)
			mem_store(cpu, gva + i, 1, data[i]);
}

/* ---- Masked loads and stores, natively ------------------------------------------------------ */

/* Those that the mask did not select must not be written, lest another CPU's be
 * lost. */
void store_changes(struct cpu *cpu, uint64_t gva, const uint8_t *copy,
		   const uint8_t *old, unsigned len)
{
	for (unsigned i = 0; i < len; i++)
		if (copy[i] != old[i])
			mem_store(cpu, gva + i, 1, copy[i]);
}

bool native_masked(struct cpu *cpu, struct slow_insn *slow, uint64_t gva)
{
	const struct insn *insn = &slow->insn;
	bool is_write = insn->flags & INSN_WRITE_MEM;
	unsigned len = insn->mem_size, off = gva & (PAGE_SIZE - 1);
	unsigned here = MIN(len, (unsigned)PAGE_SIZE - off), there = len - here;
	uint64_t next = gva + here;
	bool open = mem_is_open(cpu, gva, is_write);
	bool next_open = !there || mem_is_open(cpu, next, is_write);
	uint8_t *copy = cpu->bounce + BOUNCE_GUARD + off, old[128];
	bool is_x87 = insn->flags & INSN_X87;
	bool is_misaligned =
		!unaligned_flag(insn) && mem_is_misaligned(cpu, gva, len);
	enum native_result result;

	vm_assert(len <= sizeof(old));
	if (is_misaligned)
		open = next_open = false;
	if (open && (!there || (next_open && is_x87)))
		return false;
	/* guard guard | page page | guard guard */
	if (!open)
		copy -= there && next_open ? PAGE_SIZE : 2 * PAGE_SIZE;
	else if (!next_open)
		copy += PAGE_SIZE;
	if (open) {
		mem_load_bytes(cpu, gva, copy, here | MEM_UNALIGNED);
		copy_bytes(old, copy, here);
	}
	if (next_open && there) {
		mem_load_bytes(cpu, next, copy + here, there | MEM_UNALIGNED);
		copy_bytes(old + here, copy + here, there);
	}
	cpu_fpu_load(cpu);
	result = native_run(native_stub_of(cpu, slow), &cpu->s, copy);
	if (result == NATIVE_PF) {
		if (is_x87 || is_misaligned)
			mem_probe(cpu, gva, len, is_write);
		mem_probe(cpu, open ? next : gva, 1, is_write);
		/* It was opened meanwhile: run the instruction again. */
		cpu_repeat(cpu);
		return true;
	}
	native_finish(cpu, result);
	if (!is_write || result != NATIVE_DONE)
		return true;
	if (open)
		store_changes(cpu, gva, copy, old, here);
	if (next_open)
		store_changes(cpu, next, copy + here, old + here, there);
	return true;
}

/* ---- VZEROUPPER VZEROALL outside 64-bit mode ------------------------------------------------ */

/* They leave registers 8 to 15 alone, so the host's, in 64-bit mode, will not
 * do. */
void vector_zero(struct cpu *cpu, const struct insn *insn)
{
	cpu_fpu_check(cpu, insn);
	cpu_fpu_load(cpu);
	cpu_fpu_save(cpu);
	for (unsigned i = 0; i < 8; i++)
		vector_clear(cpu, i, insn->vlen == 32 ? 0 : 16);
}

const insn_fn vector_handlers[NR_OPS] = {
	[OP_GATHER] = gather,
	[OP_SCATTER] = scatter,
	[OP_MASKMOV] = maskmov,
};
