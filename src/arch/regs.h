/*
 * The architectural state of one virtual CPU, the same for every accelerator:
 * what get_state and set_state exchange, what a snapshot holds, and what the
 * software processors work on.
 */
#ifndef ARCH_REGS_H
#define ARCH_REGS_H

#include "arch/x86.h"

struct stream;

/** A segment register with its hidden part; (attr) as in arch/x86.h. */
struct x86_seg {
	uint64_t base;
	uint32_t limit; /* in bytes, granularity applied */
	uint16_t attr;
	uint16_t sel;
};

/** GDTR or IDTR. */
struct x86_dtr {
	uint64_t base;
	uint16_t limit;
};

/** What the CPU is doing between instructions. */
enum x86_activity {
	ACT_RUNNING,
	ACT_HALTED,
	ACT_WAIT_SIPI, /* after INIT, or an AP after power-on */
	ACT_SHUTDOWN,  /* triple fault */
};

/** An event accepted but not delivered yet. */
struct x86_event {
	bool valid, has_error, is_soft;
	uint8_t vector;
	uint32_t error;
};

#define NR_MTRR_VAR 8
#define XSAVE_SIZE  4096 /* x87 to AVX-512 need 2,696 */

/** Everything about a CPU that survives an instruction, the same for every
 * accelerator. What was loaded from elsewhere is checked by x86_state_load(). */
struct x86_state {
	uint64_t gpr[NR_GPR];
	uint64_t rip;
	uint64_t rflags;
	struct x86_seg seg[NR_SEG];
	struct x86_seg ldtr, tr;
	struct x86_dtr gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4;
	uint64_t efer, xcr0;
	uint64_t pdpte[4]; /* loaded with CR3 in PAE mode */
	uint64_t dr[8];    /* 4 and 5 unused */

	/* MSRs */
	uint64_t star, lstar, cstar, fmask, kernel_gs_base;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, tsc_aux, tsc_adjust, misc_enable, spec_ctrl, debugctl;
	uint64_t feat_ctl, mcg_status;
	uint64_t mtrr_def, mtrr_fix[11];
	uint64_t mtrr_var[NR_MTRR_VAR][2]; /* base, mask */
	int64_t tsc_offset;                /* guest TSC = host TSC + this */

	/* KVM's paravirtual MSRs (Linux Documentation/virt/kvm/x86/msr.rst) */
	uint64_t pv_wall_clock, pv_system_time, pv_steal_time, pv_eoi;
	uint64_t pv_poll_control;

	/* Between instructions */
	uint8_t activity; /* enum x86_activity */
	bool nmi_pending, nmi_masked;
	bool shadow_sti, shadow_ss; /* no interrupt; for SS no #DB either */
	struct x86_event event;

	uint8_t xsave[XSAVE_SIZE] __attribute__((aligned(64)));
};

/** Put (st) into the state after power-on (SDM table 10-1), the boot processor
 * at the reset vector, others waiting for SIPI. */
void x86_state_reset(struct x86_state *st, bool is_bsp);
/** What INIT leaves (SDM table 10-1): as after power-on, but FPU state, MSRs,
 * TSC, MTRRs and the cache bits of CR0 stay. */
void x86_state_init(struct x86_state *st, bool is_bsp);
/** Start a CPU that waits for SIPI at (vector) << 12. */
void x86_state_sipi(struct x86_state *st, uint8_t vector);

/** Write (st) to (s), or read it back. Loading checks every field that a later
 * stage trusts and returns -EINVAL for what no CPU can be in. */
int x86_state_save(const struct x86_state *st, struct stream *s);
int x86_state_load(struct x86_state *st, struct stream *s);

/** Is CS a 64-bit code segment in long mode? */
static inline bool x86_is_long64(const struct x86_state *st)
{
	return (st->efer & EFER_LMA) && (st->seg[SEG_CS].attr & ATTR_L);
}

/** The current privilege level. */
static inline unsigned x86_cpl(const struct x86_state *st)
{
	return ATTR_DPL(st->seg[SEG_SS].attr);
}

#endif
