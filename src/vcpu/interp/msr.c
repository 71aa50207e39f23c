/*
 * Model-specific registers: SDM volume 4, table 2-2; AMD APM volume 2,
 * appendix A; Linux Documentation/virt/kvm/x86/msr.rst for KVM's.
 *
 * What is not here is #GP, as on a CPU that does not have it. A few that
 * guests touch without asking CPUID first read as constants and swallow
 * writes.
 */
#include "vcpu/interp/cpu.h"
#include "vcpu/pv.h"

/*
 * IA32_ARCH_CAPABILITIES: which work-arounds this CPU does not need. A guest
 * that trusts it keeps its kernel mapped (no PTI) and its branches direct.
 */
#define ARCH_CAPS                                                \
	(BIT(0) /* RDCL_NO */ | BIT(1) /* IBRS_ALL */ |          \
	 BIT(3) /* SKIP_L1DFL_VMENTRY */ | BIT(4) /* SSB_NO */ | \
	 BIT(5) /* MDS_NO */ | BIT(6) /* IF_PSCHANGE_MC_NO */ |  \
	 BIT(8) /* TAA_NO */ | BIT(13) /* SBDR_SSDP_NO */ |      \
	 BIT(14) /* FBSDP_NO */ | BIT(15) /* PSDP_NO */ |        \
	 BIT(20) /* BHI_NO */ | BIT(24) /* PBRSB_NO */ |         \
	 BIT(26) /* GDS_NO */ | BIT(27) /* RFDS_NO */ | BIT(62) /* ITS_NO */)

#define SPEC_CTRL_VALID (MASK(2, 0) | BIT(10)) /* IBRS STIBP SSBD BHI_DIS_S */
#define DEBUGCTL_VALID  MASK(1, 0)             /* LBR BTF */
#define FEAT_CTL_LOCKED BIT(0)
#define MISC_FAST       BIT(0)
#define MISC_FIXED      (BIT(11) | BIT(12))              /* no BTS, no PEBS */
#define MTRR_CAP        (NR_MTRR_VAR | BIT(8) | BIT(10)) /* FIX, WC */
#define MTRR_DEF_VALID  (BIT(11) | BIT(10) | 0xff)

/* Constants, with writes ignored; those of AMD are only there on AMD. */
static const struct {
	uint32_t msr;
	bool is_amd;
	uint64_t value;
} constants[] = {
	{ MSR_PLATFORM_ID, false, 0 },
	{ 0x2a, false, 0 },            /* EBL_CR_POWERON */
	{ 0x34, false, 0 },            /* SMI_COUNT */
	{ MSR_UCODE_WRITE, false, 0 }, /* write-only */
	{ MSR_UCODE_REV, false, BIT(32) },
	{ 0xce, false, 0 }, /* PLATFORM_INFO */
	{ MSR_MCG_CAP, false, 0 },
	{ MSR_PERF_STATUS, false, 1000 | BIT(42) },
	{ 0x199, false, 0 },           /* PERF_CTL */
	{ 0x19c, false, 0 },           /* THERM_STATUS */
	{ 0x1db, false, 0 },           /* LASTBRANCHFROMIP */
	{ 0x1dc, false, 0 },           /* LASTBRANCHTOIP */
	{ 0x1dd, false, 0 },           /* LASTINTFROMIP */
	{ 0x1de, false, 0 },           /* LASTINTTOIP */
	{ 0xc0010010, true, 0 },       /* SYSCFG */
	{ 0xc0010015, true, BIT(24) }, /* HWCR: TSC counts at P0 */
	{ 0xc001001f, true, 0 },       /* NB_CFG */
	{ 0xc0010055, true, 0 },       /* INT_PENDING */
	{ 0xc0010058, true, 0 },       /* MMIO_CONF_BASE */
	{ 0xc0011020, true, 0 },       /* LS_CFG */
	{ 0xc0011022, true, 0 },       /* DC_CFG */
	{ 0xc0011029, true, BIT(1) },  /* DE_CFG: LFENCE serializes */
	{ 0xc001102a, true, 0 },       /* BU_CFG2 */
};

static bool find_constant(const struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	for (unsigned i = 0; i < ARRAY_SIZE(constants); i++) {
		if (constants[i].msr != msr)
			continue;
		if (constants[i].is_amd &&
		    !cpuid_is_amd(&cpu->vcpu->set->cpuid))
			return false;
		*value = constants[i].value;
		return true;
	}
	return false;
}

/* ---- Registers that are a field ------------------------------------------ */

static uint64_t *mtrr_field(struct x86_state *s, uint32_t msr)
{
	if (msr >= MSR_MTRR_PHYSBASE0 &&
	    msr < MSR_MTRR_PHYSBASE0 + 2 * NR_MTRR_VAR)
		return &s->mtrr_var[(msr - MSR_MTRR_PHYSBASE0) / 2][msr & 1];
	if (msr == MSR_MTRR_FIX64K)
		return &s->mtrr_fix[0];
	if (msr == MSR_MTRR_FIX16K_0 || msr == MSR_MTRR_FIX16K_1)
		return &s->mtrr_fix[1 + msr - MSR_MTRR_FIX16K_0];
	if (msr >= MSR_MTRR_FIX4K_0 && msr < MSR_MTRR_FIX4K_0 + 8)
		return &s->mtrr_fix[3 + msr - MSR_MTRR_FIX4K_0];
	return NULL;
}

/* Where a register lives that reads as it was written; NULL for others. */
static uint64_t *field_of(struct x86_state *s, uint32_t msr)
{
	switch (msr) {
	case MSR_FEAT_CTL:
		return &s->feat_ctl;
	case MSR_TSC_ADJUST:
		return &s->tsc_adjust;
	case MSR_SPEC_CTRL:
		return &s->spec_ctrl;
	case MSR_SYSENTER_CS:
		return &s->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &s->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &s->sysenter_eip;
	case MSR_MCG_STATUS:
		return &s->mcg_status;
	case MSR_MISC_ENABLE:
		return &s->misc_enable;
	case MSR_DEBUGCTL:
		return &s->debugctl;
	case MSR_PAT:
		return &s->pat;
	case MSR_MTRR_DEF_TYPE:
		return &s->mtrr_def;
	case MSR_EFER:
		return &s->efer;
	case MSR_STAR:
		return &s->star;
	case MSR_LSTAR:
		return &s->lstar;
	case MSR_CSTAR:
		return &s->cstar;
	case MSR_FMASK:
		return &s->fmask;
	case MSR_FS_BASE:
		return &s->seg[SEG_FS].base;
	case MSR_GS_BASE:
		return &s->seg[SEG_GS].base;
	case MSR_KERNEL_GS_BASE:
		return &s->kernel_gs_base;
	case MSR_TSC_AUX:
		return &s->tsc_aux;
	default:
		return mtrr_field(s, msr);
	}
}

/* ---- Interrupt controller ------------------------------------------------ */

static bool is_intc_msr(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST);
}

/* The APIC compares with the clock's TSC; the guest's has TSC_ADJUST on top.
 * Zero disarms and stays zero. */
static int intc_read(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	struct intc *intc = &cpu->vcpu->intc;

	if (!intc->ops || intc->ops->read_msr(intc->dev, msr, value))
		return -1;
	if (msr == MSR_TSC_DEADLINE && *value)
		*value += cpu->s.tsc_adjust;
	return 0;
}

static int intc_write(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	struct intc *intc = &cpu->vcpu->intc;

	if (!intc->ops)
		return -1;
	if (msr == MSR_TSC_DEADLINE && value) {
		value -= cpu->s.tsc_adjust;
		value = value ? value : 1;
	}
	return intc->ops->write_msr(intc->dev, msr, value);
}

/* ---- Reading ------------------------------------------------------------- */

static uint64_t read_tsc(const struct cpu *cpu)
{
	return __builtin_ia32_rdtsc() + (uint64_t)cpu->s.tsc_offset;
}

int msr_read(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	const uint64_t *field = field_of(&cpu->s, msr);

	if (field) {
		*value = *field;
		return 0;
	}
	cpu_fpu_save(cpu);
	if (is_intc_msr(msr))
		return intc_read(cpu, msr, value);
	if (pv_owns_msr(msr))
		return pv_msr_read(cpu->vcpu, &cpu->s, msr, value);
	switch (msr) {
	case MSR_TSC:
		*value = read_tsc(cpu);
		return 0;
	case MSR_MTRRCAP:
		*value = MTRR_CAP;
		return 0;
	case MSR_ARCH_CAPABILITIES:
		*value = ARCH_CAPS;
		return 0;
	default:
		return find_constant(cpu, msr, value) ? 0 : -1;
	}
}

/* ---- Writing ------------------------------------------------------------- */

static bool is_memory_type(uint8_t type)
{
	return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

/* Eight memory types, one in each byte; (extra) is one more that is fine. */
static bool are_memory_types(uint64_t value, uint8_t extra)
{
	for (unsigned i = 0; i < 8; i++, value >>= 8)
		if (!is_memory_type(value & 0xff) && (value & 0xff) != extra)
			return false;
	return true;
}

static bool mtrr_is_valid(const struct cpu *cpu, uint32_t msr, uint64_t value)
{
	unsigned width = cpu->vcpu->set->cpuid.config.phys_bits;

	if (msr >= MSR_MTRR_FIX64K)
		return are_memory_types(value, 0);
	if (value & ~(BIT(width) - 1))
		return false;
	if (msr & 1) /* mask: bit 11 is valid */
		return !(value & MASK(10, 0));
	return !(value & MASK(11, 8)) && is_memory_type(value & 0xff);
}

/* Move the guest's TSC by (delta): TSC_ADJUST shows it (SDM 18.17.3). */
static void tsc_move(struct cpu *cpu, uint64_t delta)
{
	cpu->s.tsc_adjust += delta;
	cpu->s.tsc_offset += (int64_t)delta;
	cpu_fpu_save(cpu);
	pv_clock_update(cpu->vcpu, &cpu->s);
}

static int efer_write(struct cpu *cpu, uint64_t value)
{
	struct x86_state *s = &cpu->s;
	uint64_t changed = s->efer ^ value;

	if (value & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX))
		return -1;
	if ((changed & EFER_LME) && (s->cr0 & CR0_PG))
		return -1;
	s->efer = (value & ~EFER_LMA) | (s->efer & EFER_LMA);
	if (changed & EFER_NX)
		tlb_flush(cpu);
	cpu_update_mode(cpu);
	return 0;
}

/* The value that (msr), a field, takes for (*value). False: #GP. */
static bool field_is_valid(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	switch (msr) {
	case MSR_FEAT_CTL:
		return !(cpu->s.feat_ctl & FEAT_CTL_LOCKED) &&
		       !(*value & ~FEAT_CTL_LOCKED);
	case MSR_SPEC_CTRL:
		return !(*value & ~SPEC_CTRL_VALID);
	case MSR_MISC_ENABLE:
		*value = (*value & MISC_FAST) | MISC_FIXED;
		return true;
	case MSR_DEBUGCTL:
		return !(*value & ~DEBUGCTL_VALID);
	case MSR_PAT:
		return are_memory_types(*value, 7);
	case MSR_MTRR_DEF_TYPE:
		return !(*value & ~MTRR_DEF_VALID) &&
		       is_memory_type(*value & 0xff);
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_FS_BASE:
	case MSR_GS_BASE:
	case MSR_KERNEL_GS_BASE:
		return is_canonical(*value, 48);
	case MSR_FMASK:
	case MSR_TSC_AUX:
		return !(*value >> 32);
	case MSR_STAR:
	case MSR_SYSENTER_CS:
	case MSR_MCG_STATUS:
		return true;
	default:
		return mtrr_is_valid(cpu, msr, *value);
	}
}

int msr_write(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	uint64_t *field = field_of(&cpu->s, msr), ignored;

	switch (msr) {
	case MSR_EFER:
		return efer_write(cpu, value);
	case MSR_TSC:
		tsc_move(cpu, value - read_tsc(cpu));
		return 0;
	case MSR_TSC_ADJUST:
		tsc_move(cpu, value - cpu->s.tsc_adjust);
		return 0;
	case MSR_PRED_CMD: /* IBPB: nothing is predicted across guests */
	case MSR_FLUSH_CMD:
		return value & ~1ULL ? -1 : 0;
	case MSR_MCG_CAP:
		return -1;
	}
	if (field) {
		if (!field_is_valid(cpu, msr, &value))
			return -1;
		*field = value;
		return 0;
	}
	cpu_fpu_save(cpu);
	if (is_intc_msr(msr)) {
		cpu->irq_check = true;
		return intc_write(cpu, msr, value);
	}
	if (pv_owns_msr(msr))
		return pv_msr_write(cpu->vcpu, &cpu->s, msr, value);
	return find_constant(cpu, msr, &ignored) ? 0 : -1;
}
