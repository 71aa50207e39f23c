/*
 * System instructions: control and debug registers, CPUID, fast system calls,
 * flags that matter to the system, time, caches and TLB.
 *
 * Nothing here touches the host's registers of the same name: a guest's CR0,
 * IF or IDTR is a field of struct x86_state.
 *
 * SDM volume 2, and volume 3: 2.5 (control registers), 4.4.1 (PDPTEs), 4.10.4
 * (invalidation), 5.8.7 (fast system calls), 17.2 (debug registers).
 */
#include "vcpu/interp/desc.h"
#include "vcpu/pv.h"

#define CR0_WRITABLE                                                    \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | \
	 CR0_NW | CR0_CD | CR0_PG)
#define SYSRET_FLAGS 0x3c7fd7ULL
#define KVM_EPERM    1

static void gp0(struct cpu *cpu) NORETURN;
static void gp0(struct cpu *cpu)
{
	cpu_raise(cpu, EXC_GP, 0);
}

static void ud(struct cpu *cpu) NORETURN;
static void ud(struct cpu *cpu)
{
	cpu_raise(cpu, EXC_UD, 0);
}

static const struct cpuid_policy *policy(const struct cpu *cpu)
{
	return &cpu->vcpu->set->cpuid;
}

static uint64_t phys_mask(const struct cpu *cpu)
{
	return BIT(policy(cpu)->config.phys_bits) - 1;
}

/* ---- Control registers --------------------------------------------------- */

static bool is_pae(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* Load the four entries of PAE paging; #GP(0) if one is malformed. */
static void load_pdptes(struct cpu *cpu, uint64_t cr3)
{
	uint64_t reserved = ~phys_mask(cpu) | MASK(8, 5) | MASK(2, 1);
	const uint64_t *table;
	uint64_t pdpte[4] = { 0 };

	cpu_fpu_save(cpu);
	table = gmem_at(cpu->vcpu->set->mem, cr3 & 0xffffffe0, 32);
	for (unsigned i = 0; i < 4; i++) {
		if (table)
			pdpte[i] = __atomic_load_n(&table[i], __ATOMIC_RELAXED);
		if ((pdpte[i] & PTE_P) && (pdpte[i] & reserved))
			gp0(cpu);
	}
	for (unsigned i = 0; i < 4; i++)
		cpu->s.pdpte[i] = pdpte[i];
}

void cr0_write(struct cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	uint64_t changed, efer = s->efer;

	if (value >> 32)
		gp0(cpu);
	value = (value & CR0_WRITABLE) | CR0_ET;
	changed = s->cr0 ^ value;
	if ((value & CR0_PG) && !(value & CR0_PE))
		gp0(cpu);
	if ((value & CR0_NW) && !(value & CR0_CD))
		gp0(cpu);
	if (changed & value & CR0_PG & -(uint64_t) !!(efer & EFER_LME)) {
		if (!(s->cr4 & CR4_PAE) || (s->seg[SEG_CS].attr & ATTR_L))
			gp0(cpu);
		efer |= EFER_LMA;
	} else if (changed & ~value & CR0_PG) {
		if (cpu->mode == MODE_64 || (s->cr4 & CR4_PCIDE))
			gp0(cpu);
		efer &= ~EFER_LMA;
	}
	if (is_pae(value, s->cr4, efer) &&
	    (changed & (CR0_PG | CR0_CD | CR0_NW)))
		load_pdptes(cpu, s->cr3);
	s->cr0 = value;
	s->efer = efer;
	if (changed & (CR0_PG | CR0_WP))
		tlb_flush(cpu);
	cpu_update_mode(cpu);
}

void cr3_write(struct cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	bool keep = false;

	if (s->cr4 & CR4_PCIDE) {
		keep = value & CR3_NOFLUSH;
		value &= ~CR3_NOFLUSH;
	}
	if (cpu->is_long && (value & ~phys_mask(cpu)))
		gp0(cpu);
	if (is_pae(s->cr0, s->cr4, s->efer))
		load_pdptes(cpu, value);
	s->cr3 = value;
	tlb_load_cr3(cpu, keep);
}

static uint64_t cr4_writable(const struct cpu *cpu)
{
	struct cpuid_regs leaf1 = cpuid_get(policy(cpu), 1, 0);
	struct cpuid_regs leaf7 = cpuid_get(policy(cpu), 7, 0);

	return CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE |
	       CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT |
	       (leaf1.ecx & BIT(17) ? CR4_PCIDE : 0) |
	       (leaf1.ecx & BIT(26) ? CR4_OSXSAVE : 0) |
	       (leaf7.ebx & BIT(0) ? CR4_FSGSBASE : 0) |
	       (leaf7.ebx & BIT(7) ? CR4_SMEP : 0) |
	       (leaf7.ebx & BIT(20) ? CR4_SMAP : 0);
}

void cr4_write(struct cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	uint64_t changed = s->cr4 ^ value;

	cpu_fpu_save(cpu);
	if (value & ~cr4_writable(cpu))
		gp0(cpu);
	if (cpu->is_long && !(value & CR4_PAE))
		gp0(cpu);
	if ((changed & value & CR4_PCIDE) &&
	    (!cpu->is_long || (s->cr3 & CR3_PCID)))
		gp0(cpu);
	if (is_pae(s->cr0, value, s->efer) &&
	    (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)))
		load_pdptes(cpu, s->cr3);
	s->cr4 = value;
	if (changed &
	    (CR4_PAE | CR4_PGE | CR4_PSE | CR4_PCIDE | CR4_SMEP | CR4_SMAP))
		tlb_flush(cpu);
	cpu_update_mode(cpu);
}

static void cr8_write(struct cpu *cpu, uint64_t value)
{
	struct intc *intc = &cpu->vcpu->intc;

	if (value > 15)
		gp0(cpu);
	cpu_fpu_save(cpu);
	if (intc->ops)
		intc->ops->set_tpr(intc->dev, (uint8_t)value);
	cpu->irq_check = cpu->exit_block = true;
}

static uint64_t cr8_read(struct cpu *cpu)
{
	struct intc *intc = &cpu->vcpu->intc;

	cpu_fpu_save(cpu);
	return intc->ops ? intc->ops->get_tpr(intc->dev) : 0;
}

static void do_mov_to_cr(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = reg_read(cpu, insn->rm, insn->opsize);

	count_trap(cpu, insn);
	switch (insn->reg) {
	case 0:
		cr0_write(cpu, value);
		break;
	case 2:
		cpu->s.cr2 = value;
		break;
	case 3:
		cr3_write(cpu, value);
		break;
	case 4:
		cr4_write(cpu, value);
		break;
	case 8:
		cr8_write(cpu, value);
		break;
	default:
		ud(cpu);
	}
}

static void do_mov_from_cr(struct cpu *cpu, const struct insn *insn)
{
	const struct x86_state *s = &cpu->s;
	uint64_t value;

	count_trap(cpu, insn);
	switch (insn->reg) {
	case 0:
		value = s->cr0;
		break;
	case 2:
		value = s->cr2;
		break;
	case 3:
		value = s->cr3;
		break;
	case 4:
		value = s->cr4;
		break;
	case 8:
		value = cr8_read(cpu);
		break;
	default:
		ud(cpu);
	}
	reg_write(cpu, insn->rm, insn->opsize, value);
}

static void do_smsw(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	if (insn->flags & INSN_MEM)
		mem_store(cpu, mem_operand(cpu, insn, 2, true), 2,
			  cpu->s.cr0 & 0xffff);
	else
		reg_write(cpu, insn->rm, insn->opsize, cpu->s.cr0);
}

/* Sets PE, MP, EM and TS, but cannot clear PE. */
static void do_lmsw(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value;

	count_trap(cpu, insn);
	if (insn->flags & INSN_MEM)
		value = mem_load(cpu, mem_operand(cpu, insn, 2, false), 2);
	else
		value = cpu->s.gpr[insn->rm];
	cr0_write(cpu, (cpu->s.cr0 & ~0xeULL) | (value & 0xf));
}

static void do_clts(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	cpu->s.cr0 &= ~CR0_TS;
	cpu_update_mode(cpu);
}

static void do_xgetbv(struct cpu *cpu, const struct insn *insn)
{
	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		ud(cpu);
	if ((uint32_t)cpu->s.gpr[RCX] != 0)
		gp0(cpu);
	cpu->s.gpr[RAX] = (uint32_t)cpu->s.xcr0;
	cpu->s.gpr[RDX] = cpu->s.xcr0 >> 32;
}

/* (SDM volume 1, 13.3) */
static void do_xsetbv(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = (uint32_t)cpu->s.gpr[RAX] | cpu->s.gpr[RDX] << 32;
	uint64_t zmm = value & XCR0_AVX512;

	count_trap(cpu, insn);
	if (!(cpu->s.cr4 & CR4_OSXSAVE))
		ud(cpu);
	cpu_fpu_save(cpu);
	if ((uint32_t)cpu->s.gpr[RCX] != 0 || !(value & XCR0_X87) ||
	    (value & ~cpuid_xcr0_mask(policy(cpu))))
		gp0(cpu);
	if ((value & XCR0_AVX) && !(value & XCR0_SSE))
		gp0(cpu);
	if (zmm && (zmm != XCR0_AVX512 || !(value & XCR0_AVX)))
		gp0(cpu);
	cpu->s.xcr0 = value;
	cpu_update_mode(cpu);
}

/* ---- Debug registers ----------------------------------------------------- */

/* DR4 and DR5 are names of DR6 and DR7 until CR4.DE takes them away. */
static unsigned debug_register(struct cpu *cpu, unsigned n)
{
	if (n == 4 || n == 5) {
		if (cpu->s.cr4 & CR4_DE)
			ud(cpu);
		n += 2;
	}
	if (cpu->s.dr[7] & DR7_GD) {
		cpu->s.dr[6] |= DR6_BD;
		cpu_raise(cpu, EXC_DB, 0);
	}
	return n;
}

static void do_mov_from_dr(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	reg_write(cpu, insn->rm, insn->opsize,
		  cpu->s.dr[debug_register(cpu, insn->reg)]);
}

static void do_mov_to_dr(struct cpu *cpu, const struct insn *insn)
{
	unsigned n = debug_register(cpu, insn->reg);
	uint64_t value = reg_read(cpu, insn->rm, insn->opsize);

	count_trap(cpu, insn);
	if (n >= 6 && value >> 32)
		gp0(cpu);
	if (n == 6)
		value = (value & 0xe00f) | DR6_FIXED;
	else if (n == 7)
		value = (value & 0xffff23ff) | DR7_FIXED;
	cpu->s.dr[n] = value;
	cpu_update_mode(cpu);
}

/* ---- Flags --------------------------------------------------------------- */

static void require_iopl(struct cpu *cpu)
{
	if ((cpu->s.cr0 & CR0_PE) && cpu->cpl > cpu_iopl(cpu))
		gp0(cpu);
}

static void do_cli(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	require_iopl(cpu);
	cpu->s.rflags &= ~FLAG_IF;
}

static void do_sti(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	require_iopl(cpu);
	if (cpu->s.rflags & FLAG_IF)
		return;
	cpu->s.rflags |= FLAG_IF;
	cpu->s.shadow_sti = true;
	cpu->exit_block = true;
}

static void set_ac(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	if (cpu->cpl > 0)
		ud(cpu);
	flags_set(cpu, insn->op == OP_STAC ? FLAG_AC : 0, FLAG_AC);
	cpu_update_access(cpu);
}

/* ---- Fast system calls --------------------------------------------------- */

/* Flat CS and, eight above it, SS, as SYSCALL and the others load them. */
static void set_flat(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned dpl,
		     bool is_64)
{
	struct x86_state *s = &cpu->s;

	s->seg[SEG_CS] = (struct x86_seg){
		.sel = cs,
		.limit = 0xffffffff,
		.attr = (uint16_t)(ATTR_FLAT_CODE | ATTR_SET_DPL(dpl) |
				   (is_64 ? ATTR_L : ATTR_DB)),
	};
	s->seg[SEG_SS] = (struct x86_seg){
		.sel = ss,
		.limit = 0xffffffff,
		.attr = (uint16_t)(ATTR_FLAT_DATA | ATTR_SET_DPL(dpl)),
	};
	cpu_update_mode(cpu);
}

/* AMD's CPUs have SYSCALL in every protected mode, Intel's in 64-bit mode. */
static void require_syscall(struct cpu *cpu)
{
	if (!(cpu->s.efer & EFER_SCE) || !(cpu->s.cr0 & CR0_PE))
		ud(cpu);
	if (cpu->mode != MODE_64 && !cpuid_is_amd(policy(cpu)))
		ud(cpu);
}

static void do_syscall(struct cpu *cpu, const struct insn *insn)
{
	struct x86_state *s = &cpu->s;
	uint16_t cs = s->star >> 32 & 0xfffc;

	count_trap(cpu, insn);
	require_syscall(cpu);
	s->gpr[RCX] = cpu->next_rip;
	if (cpu->is_long) {
		s->gpr[R11] = s->rflags & ~FLAG_RF;
		cpu->next_rip = cpu->mode == MODE_64 ? s->lstar : s->cstar;
		flags_set(cpu, 0, s->fmask | FLAG_RF);
	} else {
		cpu->next_rip = (uint32_t)s->star;
		flags_set(cpu, 0, FLAG_VM | FLAG_IF | FLAG_RF);
	}
	set_flat(cpu, cs, (uint16_t)(cs + 8), 0, cpu->is_long);
}

static void do_sysret(struct cpu *cpu, const struct insn *insn)
{
	struct x86_state *s = &cpu->s;
	uint16_t base = s->star >> 48 & 0xffff;
	bool to_64 = insn->opsize == 8;

	count_trap(cpu, insn);
	require_syscall(cpu);
	if (to_64 && !is_canonical(s->gpr[RCX], 48))
		gp0(cpu);
	cpu->next_rip = to_64 ? s->gpr[RCX] : (uint32_t)s->gpr[RCX];
	if (cpu->is_long)
		s->rflags = (s->gpr[R11] & SYSRET_FLAGS) | FLAG_ONE;
	else
		s->rflags |= FLAG_IF;
	set_flat(cpu, (uint16_t)((base + (to_64 ? 16 : 0)) | 3),
		 (uint16_t)((base + 8) | 3), 3, to_64);
}

static void require_sysenter(struct cpu *cpu)
{
	if (cpu->is_long && cpuid_is_amd(policy(cpu)))
		ud(cpu);
	if (!(cpu->s.cr0 & CR0_PE) || !SEL_CODE(cpu->s.sysenter_cs))
		gp0(cpu);
}

static void do_sysenter(struct cpu *cpu, const struct insn *insn)
{
	struct x86_state *s = &cpu->s;
	uint16_t cs = s->sysenter_cs & 0xfffc;

	count_trap(cpu, insn);
	require_sysenter(cpu);
	flags_set(cpu, 0, FLAG_VM | FLAG_IF | FLAG_RF);
	s->gpr[RSP] =
		cpu->is_long ? s->sysenter_esp : (uint32_t)s->sysenter_esp;
	cpu->next_rip =
		cpu->is_long ? s->sysenter_eip : (uint32_t)s->sysenter_eip;
	set_flat(cpu, cs, (uint16_t)(cs + 8), 0, cpu->is_long);
}

static void do_sysexit(struct cpu *cpu, const struct insn *insn)
{
	struct x86_state *s = &cpu->s;
	bool to_64 = insn->opsize == 8;
	uint16_t cs = s->sysenter_cs & 0xfffc;

	count_trap(cpu, insn);
	require_sysenter(cpu);
	if (to_64 &&
	    (!is_canonical(s->gpr[RCX], 48) || !is_canonical(s->gpr[RDX], 48)))
		gp0(cpu);
	cpu->next_rip = to_64 ? s->gpr[RDX] : (uint32_t)s->gpr[RDX];
	s->gpr[RSP] = to_64 ? s->gpr[RCX] : (uint32_t)s->gpr[RCX];
	cs = (uint16_t)(cs + (to_64 ? 32 : 16));
	set_flat(cpu, cs | 3, (uint16_t)(cs + 8) | 3, 3, to_64);
}

/* ---- Time, identity, model-specific registers ---------------------------- */

static bool apic_is_off(struct cpu *cpu)
{
	struct intc *intc = &cpu->vcpu->intc;
	uint64_t base;

	return intc->ops &&
	       !intc->ops->read_msr(intc->dev, MSR_APIC_BASE, &base) &&
	       !(base & BIT(11));
}

static void do_cpuid(struct cpu *cpu, const struct insn *insn)
{
	struct x86_state *s = &cpu->s;
	uint32_t id =
		cpuid_apic_id(&policy(cpu)->config.topology, cpu->vcpu->index);
	struct cpuid_regs r;

	count_trap(cpu, insn);
	cpu_fpu_save(cpu);
	r = cpuid_lookup(policy(cpu), (uint32_t)s->gpr[RAX],
			 (uint32_t)s->gpr[RCX], id, s);
	/* A disabled APIC is not there (SDM volume 3, 10.4.3). */
	if ((uint32_t)s->gpr[RAX] == 1 && apic_is_off(cpu))
		r.edx &= ~(uint32_t)BIT(9);
	s->gpr[RAX] = r.eax;
	s->gpr[RBX] = r.ebx;
	s->gpr[RCX] = r.ecx;
	s->gpr[RDX] = r.edx;
	cpu->vcpu->stats.exits[EXIT_CPUID]++;
}

static void do_rdtsc(struct cpu *cpu, const struct insn *insn)
{
	uint64_t tsc;

	if ((cpu->s.cr4 & CR4_TSD) && cpu->cpl > 0)
		gp0(cpu);
	tsc = __builtin_ia32_rdtsc() + (uint64_t)cpu->s.tsc_offset;
	cpu->s.gpr[RAX] = (uint32_t)tsc;
	cpu->s.gpr[RDX] = tsc >> 32;
	if (insn->op == OP_RDTSCP)
		cpu->s.gpr[RCX] = (uint32_t)cpu->s.tsc_aux;
}

static void do_rdpid(struct cpu *cpu, const struct insn *insn)
{
	reg_write(cpu, insn->rm, cpu->mode == MODE_64 ? 8 : 4, cpu->s.tsc_aux);
}

/* There are no performance counters. */
static void do_rdpmc(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	gp0(cpu);
}

static void do_rdmsr(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = 0;

	count_trap(cpu, insn);
	if (msr_read(cpu, (uint32_t)cpu->s.gpr[RCX], &value))
		gp0(cpu);
	cpu->s.gpr[RAX] = (uint32_t)value;
	cpu->s.gpr[RDX] = value >> 32;
	cpu->vcpu->stats.exits[EXIT_MSR]++;
}

static void do_wrmsr(struct cpu *cpu, const struct insn *insn)
{
	uint64_t value = (uint32_t)cpu->s.gpr[RAX] | cpu->s.gpr[RDX] << 32;

	count_trap(cpu, insn);
	if (msr_write(cpu, (uint32_t)cpu->s.gpr[RCX], value))
		gp0(cpu);
	cpu->vcpu->stats.exits[EXIT_MSR]++;
	cpu->exit_block = true;
}

/* ---- TLB, caches --------------------------------------------------------- */

static void do_invlpg(struct cpu *cpu, const struct insn *insn)
{
	uint64_t gva = mem_effective(cpu, insn);
	bool is_based = cpu->mode != MODE_64 || insn->seg >= SEG_FS;

	count_trap(cpu, insn);
	if (is_based && insn->seg < NR_SEG)
		gva += cpu->s.seg[insn->seg].base;
	if (cpu->mode != MODE_64)
		gva = (uint32_t)gva;
	if (is_canonical(gva, 48))
		tlb_flush_page(cpu, gva);
}

static void do_invpcid(struct cpu *cpu, const struct insn *insn)
{
	uint64_t type = reg_read(cpu, insn->reg, cpu->mode == MODE_64 ? 8 : 4);
	uint64_t gva = mem_operand(cpu, insn, 16, false);
	uint64_t pcid = mem_load(cpu, gva, 8);
	uint64_t page = mem_load(cpu, gva + 8, 8);

	count_trap(cpu, insn);
	if (type > 3 || pcid & ~CR3_PCID)
		gp0(cpu);
	if (type < 2 && pcid && !(cpu->s.cr4 & CR4_PCIDE))
		gp0(cpu);
	if (type == 0) {
		if (!is_canonical(page, 48))
			gp0(cpu);
		tlb_flush_page(cpu, page);
	} else if (type == 1) {
		tlb_flush_pcid(cpu, (uint16_t)pcid);
	} else {
		tlb_flush(cpu);
	}
}

static void do_clflush(struct cpu *cpu, const struct insn *insn)
{
	mem_probe(cpu, mem_operand(cpu, insn, 1, false), 1, false);
}

/* Caches are coherent and execution is in order. */
static void do_nothing(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
}

/* ---- HLT, hypercalls ----------------------------------------------------- */

static void do_hlt(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	cpu->s.activity = ACT_HALTED;
	cpu->exit_block = true;
}

static void do_vmcall(struct cpu *cpu, const struct insn *insn)
{
	count_trap(cpu, insn);
	if (!policy(cpu)->config.pv)
		ud(cpu);
	cpu->vcpu->stats.exits[EXIT_HYPERCALL]++;
	if (cpu->cpl > 0) {
		cpu->s.gpr[RAX] = (uint64_t)-KVM_EPERM;
		return;
	}
	cpu_fpu_save(cpu);
	pv_hypercall(cpu->vcpu, &cpu->s);
	cpu->irq_check = cpu->exit_block = true;
}

void sys_enter(struct cpu *cpu)
{
	struct vcpu *vcpu = cpu->vcpu;
	struct x86_state *s = &cpu->s;
	int64_t offset =
		vclock_tsc_offset(vcpu->set->clock) + (int64_t)s->tsc_adjust;

	if (offset != s->tsc_offset) {
		s->tsc_offset = offset;
		pv_clock_update(vcpu, s);
	}
	pv_steal_update(vcpu, s);
	if (vcpu_take_requests(vcpu, VCPU_REQ_TLB))
		tlb_flush(cpu);
	cpu->irq_check = true;
}

void sys_leave(struct cpu *cpu)
{
	event_settle_eoi(cpu);
	if (cpu->s.activity == ACT_HALTED) {
		cpu_fpu_save(cpu);
		pv_set_preempted(cpu->vcpu, &cpu->s);
	}
}

/* ---- What CPUID promises, as the decoder names it ------------------------ */

enum reg { EAX, EBX, ECX, EDX };

static const struct {
	uint32_t leaf, index;
	uint8_t reg, bit;
} feature_bits[NR_FEATURES] = {
	/* clang-format off */
	[FEAT_CX8] = { 1, 0, EDX, 8 },
	[FEAT_CMOV] = { 1, 0, EDX, 15 },
	[FEAT_FPU] = { 1, 0, EDX, 0 },
	[FEAT_MMX] = { 1, 0, EDX, 23 },
	[FEAT_FXSR] = { 1, 0, EDX, 24 },
	[FEAT_SSE] = { 1, 0, EDX, 25 },
	[FEAT_SSE2] = { 1, 0, EDX, 26 },
	[FEAT_CLFLUSH] = { 1, 0, EDX, 19 },
	[FEAT_SEP] = { 1, 0, EDX, 11 },
	[FEAT_SSE3] = { 1, 0, ECX, 0 },
	[FEAT_PCLMUL] = { 1, 0, ECX, 1 },
	[FEAT_MONITOR] = { 1, 0, ECX, 3 },
	[FEAT_SSSE3] = { 1, 0, ECX, 9 },
	[FEAT_FMA] = { 1, 0, ECX, 12 },
	[FEAT_CX16] = { 1, 0, ECX, 13 },
	[FEAT_SSE4_1] = { 1, 0, ECX, 19 },
	[FEAT_SSE4_2] = { 1, 0, ECX, 20 },
	[FEAT_MOVBE] = { 1, 0, ECX, 22 },
	[FEAT_POPCNT] = { 1, 0, ECX, 23 },
	[FEAT_AES] = { 1, 0, ECX, 25 },
	[FEAT_XSAVE] = { 1, 0, ECX, 26 },
	[FEAT_AVX] = { 1, 0, ECX, 28 },
	[FEAT_F16C] = { 1, 0, ECX, 29 },
	[FEAT_RDRAND] = { 1, 0, ECX, 30 },
	[FEAT_FSGSBASE] = { 7, 0, EBX, 0 },
	[FEAT_BMI1] = { 7, 0, EBX, 3 },
	[FEAT_AVX2] = { 7, 0, EBX, 5 },
	[FEAT_BMI2] = { 7, 0, EBX, 8 },
	[FEAT_INVPCID] = { 7, 0, EBX, 10 },
	[FEAT_AVX512F] = { 7, 0, EBX, 16 },
	[FEAT_AVX512DQ] = { 7, 0, EBX, 17 },
	[FEAT_RDSEED] = { 7, 0, EBX, 18 },
	[FEAT_ADX] = { 7, 0, EBX, 19 },
	[FEAT_SMAP] = { 7, 0, EBX, 20 },
	[FEAT_AVX512IFMA] = { 7, 0, EBX, 21 },
	[FEAT_CLFLUSHOPT] = { 7, 0, EBX, 23 },
	[FEAT_CLWB] = { 7, 0, EBX, 24 },
	[FEAT_AVX512CD] = { 7, 0, EBX, 28 },
	[FEAT_SHA] = { 7, 0, EBX, 29 },
	[FEAT_AVX512BW] = { 7, 0, EBX, 30 },
	[FEAT_AVX512VBMI] = { 7, 0, ECX, 1 },
	[FEAT_AVX512VBMI2] = { 7, 0, ECX, 6 },
	[FEAT_GFNI] = { 7, 0, ECX, 8 },
	[FEAT_VAES] = { 7, 0, ECX, 9 },
	[FEAT_VPCLMUL] = { 7, 0, ECX, 10 },
	[FEAT_AVX512VNNI] = { 7, 0, ECX, 11 },
	[FEAT_AVX512BITALG] = { 7, 0, ECX, 12 },
	[FEAT_AVX512VPOPCNT] = { 7, 0, ECX, 14 },
	[FEAT_RDPID] = { 7, 0, ECX, 22 },
	[FEAT_MOVDIRI] = { 7, 0, ECX, 27 },
	[FEAT_MOVDIR64B] = { 7, 0, ECX, 28 },
	[FEAT_SERIALIZE] = { 7, 0, EDX, 14 },
	[FEAT_AVX512FP16] = { 7, 0, EDX, 23 },
	[FEAT_AVX_VNNI] = { 7, 1, EAX, 4 },
	[FEAT_AVX512BF16] = { 7, 1, EAX, 5 },
	[FEAT_XSAVEOPT] = { 0xd, 1, EAX, 0 },
	[FEAT_XSAVEC] = { 0xd, 1, EAX, 1 },
	[FEAT_LZCNT] = { 0x80000001, 0, ECX, 5 },
	[FEAT_SSE4A] = { 0x80000001, 0, ECX, 6 },
	[FEAT_PREFETCHW] = { 0x80000001, 0, ECX, 8 },
	[FEAT_RDTSCP] = { 0x80000001, 0, EDX, 27 },
	[FEAT_LM] = { 0x80000001, 0, EDX, 29 },
	/* clang-format on */
};

void cpuid_features(const struct cpuid_policy *p, struct insn_features *f)
{
	for (unsigned i = 0; i < ARRAY_SIZE(f->word); i++)
		f->word[i] = 0;
	f->word[0] = BIT(FEAT_BASE);
	for (unsigned n = 0; n < NR_FEATURES; n++) {
		struct cpuid_regs r;
		uint32_t regs[4];

		if (!feature_bits[n].leaf)
			continue;
		r = cpuid_get(p, feature_bits[n].leaf, feature_bits[n].index);
		regs[EAX] = r.eax;
		regs[EBX] = r.ebx;
		regs[ECX] = r.ecx;
		regs[EDX] = r.edx;
		if (regs[feature_bits[n].reg] >> feature_bits[n].bit & 1)
			f->word[n / 64] |= BIT(n % 64);
	}
}

const insn_fn sys_handlers[NR_OPS] = {
	[OP_MOV_TO_CR] = do_mov_to_cr,
	[OP_MOV_FROM_CR] = do_mov_from_cr,
	[OP_MOV_TO_DR] = do_mov_to_dr,
	[OP_MOV_FROM_DR] = do_mov_from_dr,
	[OP_SMSW] = do_smsw,
	[OP_LMSW] = do_lmsw,
	[OP_CLTS] = do_clts,
	[OP_XGETBV] = do_xgetbv,
	[OP_XSETBV] = do_xsetbv,
	[OP_CLI] = do_cli,
	[OP_STI] = do_sti,
	[OP_CLAC] = set_ac,
	[OP_STAC] = set_ac,
	[OP_SYSCALL] = do_syscall,
	[OP_SYSRET] = do_sysret,
	[OP_SYSENTER] = do_sysenter,
	[OP_SYSEXIT] = do_sysexit,
	[OP_CPUID] = do_cpuid,
	[OP_RDTSC] = do_rdtsc,
	[OP_RDTSCP] = do_rdtsc,
	[OP_RDPID] = do_rdpid,
	[OP_RDPMC] = do_rdpmc,
	[OP_RDMSR] = do_rdmsr,
	[OP_WRMSR] = do_wrmsr,
	[OP_INVLPG] = do_invlpg,
	[OP_INVPCID] = do_invpcid,
	[OP_CLFLUSH] = do_clflush,
	[OP_INVD] = do_nothing,
	[OP_WBINVD] = do_nothing,
	[OP_SERIALIZE] = do_nothing,
	[OP_HLT] = do_hlt,
	[OP_VMCALL] = do_vmcall,
	[OP_VMMCALL] = do_vmcall,
};
