/*
 * The guest's FPU state, the instructions that save and restore it, and native
 * emulation.
 *
 * The state is either live in the host's registers or in s.xsave, in standard
 * format, as the host's XSAVE wrote it: every component is valid there whether
 * its bit in XSTATE_BV is set or not. The guest's own XSAVE and XRSTOR move
 * components between s.xsave and guest memory; nothing that the guest made is
 * ever given to the host's XRSTOR but register contents, checked.
 *
 * The last instruction's pointers (FIP, FDP) are zero: natively run, they
 * would be addresses of ours.
 */
#include "vcpu/interp/fpu.h"

#include <cpuid.h>
#include <errno.h>
#include <sys/mman.h>

#include "vcpu/interp/mmu.h"

#define FSW_ES        0x80 /* an unmasked x87 exception is pending */
#define FXSAVE_LEN    416  /* bytes that FXSAVE writes in 64-bit mode */
#define FXSAVE_LEN_32 288  /* ... and without XMM8 to XMM15 */

/* ---- Host registers ------------------------------------------------------------- */

int fpu_create(struct cpu *cpu)
{
	uint32_t a, b, c, d;

	cpu->bounce = mmap(NULL, BOUNCE_SIZE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (cpu->bounce == MAP_FAILED) {
		cpu->bounce = NULL;
		return -errno;
	}
	if (mprotect(cpu->bounce + BOUNCE_GUARD, 2 * PAGE_SIZE,
		     PROT_READ | PROT_WRITE))
		return -errno;
	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE))
		return 0;
	cpu->fpu_mask =
		cpuid_xcr0_mask(&cpu->vcpu->set->cpuid) | XCR0_X87 | XCR0_SSE;
	for (unsigned i = XCOMP_AVX; i < NR_XCOMPS; i++) {
		if (!(cpu->fpu_mask & BIT(i)))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		cpu->fpu_offset[i] = b;
		cpu->fpu_size[i] = a;
		if (b + a > XSAVE_SIZE)
			return -ENOTSUP;
		if (c & 2)
			cpu->fpu_align_mask |= BIT(i);
	}
	return 0;
}

void fpu_destroy(struct cpu *cpu)
{
	if (cpu->bounce)
		munmap(cpu->bounce, BOUNCE_SIZE);
}

void cpu_fpu_load(struct cpu *cpu)
{
	if (cpu->fpu_live)
		return;
	cpu->fpu_live = true;
	if (cpu->fpu_mask)
		__asm__ volatile("xrstor64 %0"
				 :
				 : "m"(cpu->s.xsave),
				   "a"((uint32_t)cpu->fpu_mask), "d"(0)
				 : "memory");
	else
		__asm__ volatile("fxrstor64 %0"
				 :
				 : "m"(cpu->s.xsave)
				 : "memory");
}

void cpu_fpu_save(struct cpu *cpu)
{
	static const uint32_t mxcsr = MXCSR_INIT;

	if (!cpu->fpu_live)
		return;
	cpu->fpu_live = false;
	if (cpu->fpu_mask)
		__asm__ volatile("xsave64 %0"
				 : "+m"(cpu->s.xsave)
				 : "a"((uint32_t)cpu->fpu_mask), "d"(0)
				 : "memory");
	else
		__asm__ volatile("fxsave64 %0"
				 : "=m"(cpu->s.xsave)
				 :
				 : "memory");
	*xsave_u64(cpu, XSAVE_FIP) = *xsave_u64(cpu, XSAVE_FIP + 8) = 0;
	/* What C code expects to find. */
	if (cpu->fpu_mask & XCR0_AVX)
		__asm__ volatile("vzeroupper");
	__asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

void cpu_fpu_sanitize(struct cpu *cpu)
{
	cpu->fpu_live = false;
	*xsave_u64(cpu, XSAVE_BV) &= cpu->fpu_mask;
	zero_bytes(&cpu->s.xsave[XSAVE_COMP_BV],
		   XSAVE_EXTENDED - XSAVE_COMP_BV);
	*xsave_u32(cpu, XSAVE_MXCSR) &= 0xffff;
	cpu_fpu_load(cpu);
	cpu_fpu_save(cpu);
}

/* ---- May it be used? ---------------------------------------------------------------- */

static bool needs_avx512(const struct insn *insn)
{
	return (insn->flags & INSN_EVEX) || (insn->feature >= FEAT_AVX512F &&
					     insn->feature <= FEAT_AVX512FP16);
}

/* SDM volume 2, 2.4, and table 2-1 of volume 3 for TS, EM and MP. */
void cpu_fpu_check(struct cpu *cpu, const struct insn *insn)
{
	const struct x86_state *s = &cpu->s;
	uint64_t need = XCR0_SSE | XCR0_AVX;

	if (insn->flags & INSN_VEX) {
		if (!(s->cr0 & CR0_PE) || (s->rflags & FLAG_VM))
			cpu_raise(cpu, EXC_UD, 0);
		if (!(insn->flags & INSN_VECTOR))
			return;
		if (needs_avx512(insn))
			need |= XCR0_AVX512;
		if (!(s->cr4 & CR4_OSXSAVE) || (s->xcr0 & need) != need)
			cpu_raise(cpu, EXC_UD, 0);
	} else if (insn->flags & INSN_VECTOR) {
		if ((s->cr0 & CR0_EM) || !(s->cr4 & CR4_OSFXSR))
			cpu_raise(cpu, EXC_UD, 0);
	} else if (insn->flags & INSN_X87) {
		/* Of the two-byte opcodes, those of MMX. */
		if (s->cr0 & CR0_EM)
			cpu_raise(cpu, insn->map ? EXC_UD : EXC_NM, 0);
	} else {
		return;
	}
	if (s->cr0 & CR0_TS)
		cpu_raise(cpu, EXC_NM, 0);
}

/* #MF, or, as on a PC before the 486, an interrupt that nobody waits for. */
static void raise_x87(struct cpu *cpu)
{
	if (cpu->s.cr0 & CR0_NE)
		cpu_raise(cpu, EXC_MF, 0);
}

bool fpu_is_pending(void)
{
	uint16_t fsw;

	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	return fsw & FSW_ES;
}

static void fwait(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->s.cr0 & CR0_MP) && (cpu->s.cr0 & CR0_TS))
		cpu_raise(cpu, EXC_NM, 0);
	cpu_fpu_load(cpu);
	if (fpu_is_pending())
		raise_x87(cpu);
}

/* ---- Native emulation ------------------------------------------------------------------ */

const struct native_stub *native_stub_of(struct cpu *cpu,
					 struct slow_insn *slow)
{
	bool was_live = cpu->fpu_live;

	if (likely(slow->stub &&
		   slow->generation == native_generation(cpu->native)))
		return slow->stub;
	cpu_fpu_save(cpu);
	slow->stub = native_get(cpu->native, &slow->insn);
	slow->generation = native_generation(cpu->native);
	if (!slow->stub)
		cpu_raise(cpu, EXC_UD, 0);
	if (was_live)
		cpu_fpu_load(cpu);
	return slow->stub;
}

void native_finish(struct cpu *cpu, enum native_result result)
{
	if (likely(result == NATIVE_DONE))
		return;
	switch (result) {
	case NATIVE_GP:
	case NATIVE_PF: /* it touched more than it said */
		cpu_raise(cpu, EXC_GP, 0);
	case NATIVE_AC:
		cpu_raise(cpu, EXC_AC, 0);
	case NATIVE_DE:
		cpu_raise(cpu, EXC_DE, 0);
	case NATIVE_MF:
		raise_x87(cpu);
		return;
	case NATIVE_XM:
		cpu_raise(cpu, cpu->s.cr4 & CR4_OSXMMEXCPT ? EXC_XM : EXC_UD,
			  0);
	default:
		cpu_raise(cpu, EXC_UD, 0);
	}
}

/* FNSTENV and FNSAVE store the instruction pointers of the host. */
static bool stores_pointers(const struct insn *insn)
{
	return (insn->flags & INSN_X87) && !insn->map &&
	       (insn->opcode == 0xd9 || insn->opcode == 0xdd) &&
	       (insn->modrm >> 3 & 7) == 6;
}

static void pointers_clear(const struct insn *insn, uint8_t *env)
{
	if (insn->opsize == 2)
		zero_bytes(env + 6, 8);
	else
		zero_bytes(env + 12, 16);
}

unsigned unaligned_flag(const struct insn *insn)
{
	/* VCVTPH2PS, not the EVEX instructions with its opcode that store;
	 * VCVTPS2PH */
	bool is_half = (insn->map == 2 && insn->opcode == 0x13 &&
			!(insn->flags & INSN_WRITE_MEM)) ||
		       (insn->map == 3 && insn->opcode == 0x1d);

	return is_half && (insn->flags & INSN_VEX) ? MEM_UNALIGNED : 0;
}

/* The operand is not in one page of RAM, or has code: run on a copy of it, at
 * the same offset in a page. */
static void native_bounced(struct cpu *cpu, struct slow_insn *slow,
			   uint64_t gva, unsigned len, bool is_masked)
{
	const struct insn *insn = &slow->insn;
	uint8_t *copy = cpu->bounce + BOUNCE_GUARD + (gva & (PAGE_SIZE - 1));
	bool is_write = insn->flags & INSN_WRITE_MEM;
	unsigned flag = unaligned_flag(insn);
	bool is_partial = is_write && (is_masked || insn->mask) &&
			  !(insn->flags & INSN_X87);
	enum native_result result;
	uint8_t old[64];

	if (is_write)
		mem_probe(cpu, gva, len | flag, true);
	/* (An x87 store may turn out to store nothing.) */
	if (is_partial || (insn->flags & (INSN_READ_MEM | INSN_X87)))
		mem_load_bytes(cpu, gva, copy, len | flag);
	if (is_partial) {
		vm_assert(len <= sizeof(old));
		copy_bytes(old, copy, len);
	}
	/* A device's registers may have put the FPU state away. */
	if (insn->flags & (INSN_VECTOR | INSN_X87))
		cpu_fpu_load(cpu);
	result = native_run(native_stub_of(cpu, slow), &cpu->s, copy);
	native_finish(cpu, result);
	if (result != NATIVE_DONE)
		return;
	if (stores_pointers(insn))
		pointers_clear(insn, copy);
	if (is_partial)
		store_changes(cpu, gva, copy, old, len);
	else if (is_write)
		mem_store_bytes(cpu, gva, copy, len | flag);
}

/* Does x87 instruction (insn), with a memory operand, look for pending
 * exceptions? Not FNSTENV, FNSTCW, FNSAVE, FNSTSW. */
static bool waits(const struct insn *insn)
{
	if (insn->opcode != 0xd9 && insn->opcode != 0xdd)
		return true;
	return (insn->modrm >> 3 & 7) < 6;
}

/* An x87 exception comes before any fault of the operand: one that is pending
 * now, and, unmasked, one that keeps a store from being done. True: the host
 * is to decide whether the operand is touched. */
static bool x87_comes_first(struct cpu *cpu, const struct insn *insn)
{
	if (insn->map) /* MMX */
		return true;
	if (!waits(insn))
		return false;
	if (fpu_is_pending())
		raise_x87(cpu);
	return insn->flags & INSN_WRITE_MEM;
}

/* VCVTPS2PH sets flags in MXCSR even if its store faults then. */
static bool is_vcvtps2ph(const struct insn *insn)
{
	return insn->map == 3 && insn->opcode == 0x1d &&
	       (insn->flags & INSN_VEX);
}

void native_memory(struct cpu *cpu, struct slow_insn *slow, bool is_masked)
{
	const struct insn *insn = &slow->insn;
	bool is_write = insn->flags & INSN_WRITE_MEM;
	unsigned len = insn->mem_size;
	enum native_result result;
	uint64_t gva;
	void *hva;

	if (insn->flags & INSN_X87)
		is_masked |= x87_comes_first(cpu, insn);
	else if (is_vcvtps2ph(insn))
		is_masked = true;
	gva = mem_operand(cpu, insn, len, is_write);
	/* (Of a masked one it depends on the mask.) */
	if ((insn->flags & INSN_ALIGNED) && !is_masked && (gva & (len - 1)))
		cpu_raise(cpu, EXC_GP, 0);
	hva = is_write ? tlb_write(cpu, gva, len) : tlb_read(cpu, gva, len);
	if (unlikely(!hva)) {
		if (is_masked && native_masked(cpu, slow, gva))
			return;
		hva = mem_host_slow(cpu, gva, len | unaligned_flag(insn),
				    is_write);
	}
	if (unlikely(!hva || stores_pointers(insn))) {
		native_bounced(cpu, slow, gva, len, is_masked);
		return;
	}
	result = native_run(native_stub_of(cpu, slow), &cpu->s, hva);
	native_finish(cpu, result);
}

void native_uop(struct cpu *cpu, const struct uop *u)
{
	struct slow_insn *slow = u->slow;
	const struct insn *insn = &slow->insn;
	enum native_result result;

	if (insn->flags & (INSN_VECTOR | INSN_X87 | INSN_VEX))
		cpu_fpu_check(cpu, insn);
	if (insn->flags & (INSN_VECTOR | INSN_X87))
		cpu_fpu_load(cpu);
	if ((insn->flags & INSN_MEM) && insn->mem_size) {
		native_memory(cpu, slow, insn->flags & INSN_ELEMENTS);
		return;
	}
	result = native_run(native_stub_of(cpu, slow), &cpu->s,
			    cpu->bounce + BOUNCE_GUARD);
	native_finish(cpu, result);
}

/* ---- FXSAVE FXRSTOR ----------------------------------------------------------------------- */

/* The address of a state image, checked. */
static uint64_t image_linear(struct cpu *cpu, const struct insn *insn,
			     unsigned len, unsigned align, bool is_write)
{
	uint64_t gva = mem_operand(cpu, insn, len, is_write);

	if (cpu->align_check && (gva & 3))
		cpu_raise(cpu, EXC_AC, 0);
	if (gva & (align - 1))
		cpu_raise(cpu, EXC_GP, 0);
	return gva;
}

/* The same; brings the state into s.xsave. */
static uint64_t image_begin(struct cpu *cpu, const struct insn *insn,
			    unsigned len, unsigned align, bool is_write)
{
	uint64_t gva = image_linear(cpu, insn, len, align, is_write);

	cpu_fpu_load(cpu);
	cpu_fpu_save(cpu);
	return gva;
}

static void fxsave_check(struct cpu *cpu)
{
	if (cpu->s.cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, EXC_NM, 0);
}

static void fxsave(struct cpu *cpu, const struct insn *insn)
{
	uint64_t gva;

	fxsave_check(cpu);
	gva = image_begin(cpu, insn, 512, 16, true);
	mem_probe(cpu, gva, 512, true);
	mem_store_bytes(cpu, gva, cpu->s.xsave,
			cpu->mode == MODE_64 ? FXSAVE_LEN : FXSAVE_LEN_32);
}

static bool mxcsr_is_bad(const struct cpu *cpu, uint32_t mxcsr)
{
	uint32_t mask = host_load(&cpu->s.xsave[XSAVE_MXCSR_MASK], 4);

	return mxcsr & ~(mask ?: 0xffbf);
}

static void fxrstor(struct cpu *cpu, const struct insn *insn)
{
	uint8_t image[512];
	uint64_t gva;
	uint32_t mask;

	fxsave_check(cpu);
	gva = image_begin(cpu, insn, 512, 16, false);
	mem_load_bytes(cpu, gva, image, sizeof(image));
	if (mxcsr_is_bad(cpu, (uint32_t)host_load(image + XSAVE_MXCSR, 4)))
		cpu_raise(cpu, EXC_GP, 0);
	mask = *xsave_u32(cpu, XSAVE_MXCSR_MASK);
	copy_bytes(cpu->s.xsave, image,
		   cpu->mode == MODE_64 ? XSAVE_XMM + 256 : XSAVE_XMM + 128);
	*xsave_u32(cpu, XSAVE_MXCSR_MASK) = mask;
	*xsave_u64(cpu, XSAVE_BV) |= XCR0_X87 | XCR0_SSE;
	cpu_fpu_load(cpu); /* clears what is reserved */
}

/* ---- XSAVE XSAVEOPT XSAVEC XRSTOR ------------------------------------------------------------ */

static void xsave_check(struct cpu *cpu)
{
	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, EXC_UD, 0);
	if (cpu->s.cr0 & CR0_TS)
		cpu_raise(cpu, EXC_NM, 0);
}

static uint64_t requested_features(const struct cpu *cpu)
{
	uint64_t mask = cpu->s.gpr[RDX] << 32 | (uint32_t)cpu->s.gpr[RAX];

	return mask & cpu->s.xcr0 & cpu->fpu_mask;
}

/* How much of component (i) the current mode sees: outside 64-bit mode, vector
 * registers 0 to 7. */
static unsigned visible_size(const struct cpu *cpu, unsigned i)
{
	if (cpu->mode == MODE_64)
		return cpu->fpu_size[i];
	switch (i) {
	case XCOMP_AVX:
	case XCOMP_ZMM_HI:
		return cpu->fpu_size[i] / 2;
	case XCOMP_ZMM_16:
		return 0;
	default:
		return cpu->fpu_size[i];
	}
}

/* Where component (i) is in an area in compacted format with (all). */
static unsigned compact_offset(const struct cpu *cpu, uint64_t all, unsigned i)
{
	unsigned at = XSAVE_EXTENDED;

	for (unsigned j = XCOMP_AVX; j <= i; j++) {
		if (!(all & BIT(j)))
			continue;
		if (cpu->fpu_align_mask & BIT(j))
			at = ALIGN_UP(at, 64U);
		if (j < i)
			at += cpu->fpu_size[j];
	}
	return at;
}

/* Store a piece of an area, or see whether that would fault. */
static void area_put(struct cpu *cpu, uint64_t gva, const void *from,
		     unsigned len, bool is_probe)
{
	if (is_probe)
		mem_probe(cpu, gva, len, true);
	else
		mem_store_bytes(cpu, gva, from, len);
}

/* Store the components (write) into the area at (gva), which is compacted for
 * (compact_for), unless that is 0. MXCSR goes with the vectors. */
static void area_store(struct cpu *cpu, uint64_t gva, uint64_t write,
		       uint64_t compact_for, bool mxcsr, bool is_probe)
{
	const uint8_t *x = cpu->s.xsave;

	if (write & XCR0_X87) {
		area_put(cpu, gva, x, XSAVE_MXCSR, is_probe);
		area_put(cpu, gva + XSAVE_ST, x + XSAVE_ST, 128, is_probe);
	}
	if (mxcsr)
		area_put(cpu, gva + XSAVE_MXCSR, x + XSAVE_MXCSR, 8, is_probe);
	if (write & XCR0_SSE)
		area_put(cpu, gva + XSAVE_XMM, x + XSAVE_XMM,
			 cpu->mode == MODE_64 ? 256 : 128, is_probe);
	for (unsigned i = XCOMP_AVX; i < NR_XCOMPS; i++) {
		unsigned at = compact_for ? compact_offset(cpu, compact_for, i)
					  : cpu->fpu_offset[i];

		if ((write & BIT(i)) && visible_size(cpu, i))
			area_put(cpu, gva + at, x + cpu->fpu_offset[i],
				 visible_size(cpu, i), is_probe);
	}
}

/* The host address of an area with components up to the last of (all), or NULL
 * unless the TLB knows it to be one piece of the host's memory. */
static uint8_t *area_host(struct cpu *cpu, uint64_t gva, uint64_t all,
			  bool compact, bool is_write, unsigned *len)
{
	unsigned last = 63 - (unsigned)__builtin_clzll(all | XCR0_SSE);
	uint64_t next = (gva & PAGE_MASK) + PAGE_SIZE;
	uint8_t *hva, *hva2;

	*len = XSAVE_EXTENDED;
	if (last >= XCOMP_AVX)
		*len = (compact ? compact_offset(cpu, all, last)
				: cpu->fpu_offset[last]) +
		       cpu->fpu_size[last];
	hva = is_write ? tlb_write(cpu, gva, 1) : tlb_read(cpu, gva, 1);
	if (!hva || gva + *len <= next)
		return hva;
	hva2 = is_write ? tlb_write(cpu, next, 1) : tlb_read(cpu, next, 1);
	return hva2 == hva + (next - gva) ? hva : NULL;
}

/* With the guest's state live, its own instruction does it, on its own memory.
 * The last instruction's pointers would be the host's: they are cleared. */
static bool xsave_direct(struct cpu *cpu, const struct insn *insn, uint64_t gva,
			 uint64_t rfbm)
{
	bool compact = insn->op == OP_XSAVEC;
	unsigned len;
	uint8_t *hva;

	if (!cpu->fpu_live || cpu->mode != MODE_64 || !cpu->fpu_mask ||
	    cpu->watch)
		return false;
	hva = area_host(cpu, gva, rfbm, compact, true, &len);
	if (!hva)
		return false;
	if (compact)
		__asm__ volatile("xsavec64 (%0)"
				 :
				 : "r"(hva), "a"((uint32_t)rfbm), "d"(0)
				 : "memory");
	else if (insn->op == OP_XSAVEOPT)
		__asm__ volatile("xsaveopt64 (%0)"
				 :
				 : "r"(hva), "a"((uint32_t)rfbm), "d"(0)
				 : "memory");
	else
		__asm__ volatile("xsave64 (%0)"
				 :
				 : "r"(hva), "a"((uint32_t)rfbm), "d"(0)
				 : "memory");
	if ((rfbm & XCR0_X87) &&
	    (insn->op == OP_XSAVE || (host_load(hva + XSAVE_BV, 8) & XCR0_X87)))
		zero_bytes(hva + XSAVE_FIP, 16);
	return true;
}

static void xsave(struct cpu *cpu, const struct insn *insn)
{
	bool compact = insn->op == OP_XSAVEC, mxcsr;
	uint64_t rfbm, in_use, write, bv = 0, gva, compact_for;

	xsave_check(cpu);
	gva = image_linear(cpu, insn, XSAVE_EXTENDED, 64, true);
	rfbm = requested_features(cpu);
	if (xsave_direct(cpu, insn, gva, rfbm))
		return;
	cpu_fpu_load(cpu);
	cpu_fpu_save(cpu);
	in_use = *xsave_u64(cpu, XSAVE_BV);
	if (cpu->mode != MODE_64)
		in_use &= ~BIT(XCOMP_ZMM_16);
	if (compact && *xsave_u32(cpu, XSAVE_MXCSR) != MXCSR_INIT)
		in_use |= XCR0_SSE;
	write = insn->op == OP_XSAVE ? rfbm : rfbm & in_use;
	mxcsr = compact ? write & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
	compact_for = compact ? rfbm | XCOMP_COMPACT : 0;
	mem_probe(cpu, gva + XSAVE_BV, 64, true);
	area_store(cpu, gva, write, compact_for, mxcsr, true);
	if (!compact)
		bv = mem_load(cpu, gva + XSAVE_BV, 8) & ~rfbm;

	area_store(cpu, gva, write, compact_for, mxcsr, false);
	mem_store(cpu, gva + XSAVE_BV, 8, bv | (rfbm & in_use));
	if (compact)
		mem_store(cpu, gva + XSAVE_COMP_BV, 8, compact_for);
}

/* Is a header (its first 64 bytes) one that XRSTOR takes? SDM 13.8.1. */
static bool header_is_good(const struct cpu *cpu, const uint64_t header[8],
			   bool compact)
{
	uint64_t bv = header[0], comp = header[1];

	if (compact) {
		if (!insn_has_feature(&cpu->features, FEAT_XSAVEC) ||
		    (comp & ~XCOMP_COMPACT & ~cpu->s.xcr0) || (bv & ~comp))
			return false;
	} else if ((bv & ~cpu->s.xcr0) || comp || header[2]) {
		return false;
	}
	if (!compact)
		return true;
	for (unsigned i = 2; i < 8; i++)
		if (header[i])
			return false;
	return true;
}

/* MXCSR as XRSTOR finds it: in the area, or, where the compacted format leaves
 * SSE state out, initial. */
static uint32_t load_mxcsr(struct cpu *cpu, uint64_t gva, uint64_t bv,
			   bool compact)
{
	uint32_t mxcsr = MXCSR_INIT;

	if (!compact || (bv & XCR0_SSE))
		mxcsr = (uint32_t)mem_load(cpu, gva + XSAVE_MXCSR, 4);
	if (mxcsr_is_bad(cpu, mxcsr))
		cpu_raise(cpu, EXC_GP, 0);
	return mxcsr;
}

/* Read the components (load) of an area at (gva) to where they belong in
 * (image). */
static void area_load(struct cpu *cpu, uint64_t gva, uint64_t load,
		      uint64_t comp_bv, uint8_t *image)
{
	if (load & XCR0_X87) {
		mem_load_bytes(cpu, gva, image, XSAVE_MXCSR);
		mem_load_bytes(cpu, gva + XSAVE_ST, image + XSAVE_ST, 128);
	}
	if (load & XCR0_SSE)
		mem_load_bytes(cpu, gva + XSAVE_XMM, image + XSAVE_XMM,
			       cpu->mode == MODE_64 ? 256 : 128);
	for (unsigned i = XCOMP_AVX; i < NR_XCOMPS; i++) {
		unsigned at = comp_bv & XCOMP_COMPACT
				      ? compact_offset(cpu, comp_bv, i)
				      : cpu->fpu_offset[i];

		if (load & BIT(i))
			mem_load_bytes(cpu, gva + at,
				       image + cpu->fpu_offset[i],
				       visible_size(cpu, i));
	}
}

/* Put (size) bytes at (offset) of (image) into s.xsave, or zeros. */
static void state_put(struct cpu *cpu, const uint8_t *image, unsigned offset,
		      unsigned size, bool is_loaded)
{
	if (is_loaded)
		copy_bytes(&cpu->s.xsave[offset], image + offset, size);
	else
		zero_bytes(&cpu->s.xsave[offset], size);
}

/* Load the components (load) from (image), initialize the others of (rfbm). */
static void state_restore(struct cpu *cpu, const uint8_t *image, uint64_t rfbm,
			  uint64_t load)
{
	if (rfbm & XCR0_X87) {
		state_put(cpu, image, 0, XSAVE_MXCSR, load & XCR0_X87);
		state_put(cpu, image, XSAVE_ST, 128, load & XCR0_X87);
		if (!(load & XCR0_X87))
			*xsave_u32(cpu, XSAVE_FCW) = 0x37f;
	}
	if (rfbm & XCR0_SSE)
		state_put(cpu, image, XSAVE_XMM,
			  cpu->mode == MODE_64 ? 256 : 128, load & XCR0_SSE);
	for (unsigned i = XCOMP_AVX; i < NR_XCOMPS; i++)
		if (rfbm & BIT(i))
			state_put(cpu, image, cpu->fpu_offset[i],
				  visible_size(cpu, i), load & BIT(i));
	/* Components that are initial as a whole are known to be. */
	*xsave_u64(cpu, XSAVE_BV) |= rfbm;
	if (cpu->mode == MODE_64)
		*xsave_u64(cpu, XSAVE_BV) &= ~(rfbm & ~load);
}

/* The same for XRSTOR, on a copy of what is in memory, so that what was checked
 * is what is loaded. */
static bool xrstor_direct(struct cpu *cpu, uint64_t gva, uint64_t rfbm)
{
	uint8_t image[XSAVE_SIZE] __attribute__((aligned(64)));
	const uint64_t *header = (const uint64_t *)(void *)(image + XSAVE_BV);
	uint64_t head[2];
	unsigned len;
	bool compact;
	uint8_t *hva;

	if (cpu->mode != MODE_64 || !cpu->fpu_mask || cpu->watch)
		return false;
	mem_load_bytes(cpu, gva + XSAVE_BV, head, sizeof(head));
	compact = head[1] & XCOMP_COMPACT;
	if ((compact ? head[1] & ~XCOMP_COMPACT : head[0]) & ~cpu->s.xcr0)
		return false;
	hva = area_host(cpu, gva,
			compact ? head[1] & ~XCOMP_COMPACT : rfbm & head[0],
			compact, false, &len);
	if (!hva || len > sizeof(image))
		return false;
	copy_bytes(image, hva, len);
	if (header[0] != head[0] || header[1] != head[1] ||
	    !header_is_good(cpu, header, compact))
		return false;
	if ((rfbm & (compact ? XCR0_SSE : XCR0_SSE | XCR0_AVX)) &&
	    (!compact || (header[0] & XCR0_SSE)) &&
	    mxcsr_is_bad(cpu, (uint32_t)host_load(image + XSAVE_MXCSR, 4)))
		return false;
	cpu_fpu_load(cpu); /* the components that stay */
	__asm__ volatile("xrstor64 %0"
			 :
			 : "m"(image), "a"((uint32_t)rfbm), "d"(0)
			 : "memory");
	return true;
}

static void xrstor(struct cpu *cpu, const struct insn *insn)
{
	uint64_t gva, rfbm, header[8], bv;
	uint8_t image[XSAVE_SIZE];
	uint32_t mxcsr = 0;
	bool compact, has_mxcsr;

	xsave_check(cpu);
	gva = image_linear(cpu, insn, XSAVE_EXTENDED, 64, false);
	rfbm = requested_features(cpu);
	if (xrstor_direct(cpu, gva, rfbm))
		return;
	cpu_fpu_load(cpu);
	cpu_fpu_save(cpu);
	mem_load_bytes(cpu, gva + XSAVE_BV, header, sizeof(header));
	compact = header[1] & XCOMP_COMPACT;
	if (!header_is_good(cpu, header, compact))
		cpu_raise(cpu, EXC_GP, 0);
	bv = header[0];
	has_mxcsr = rfbm & (compact ? XCR0_SSE : XCR0_SSE | XCR0_AVX);
	if (has_mxcsr)
		mxcsr = load_mxcsr(cpu, gva, bv, compact);
	/* All of it first: a fault must leave the registers alone. */
	area_load(cpu, gva, rfbm & bv, header[1], image);
	state_restore(cpu, image, rfbm, rfbm & bv);
	if (has_mxcsr)
		*xsave_u32(cpu, XSAVE_MXCSR) = mxcsr;
	cpu_fpu_load(cpu); /* clears what is reserved */
}

const insn_fn fpu_handlers[NR_OPS] = {
	[OP_FWAIT] = fwait,   [OP_FXSAVE] = fxsave,  [OP_FXRSTOR] = fxrstor,
	[OP_XSAVE] = xsave,   [OP_XSAVEOPT] = xsave, [OP_XSAVEC] = xsave,
	[OP_XRSTOR] = xrstor,
};
