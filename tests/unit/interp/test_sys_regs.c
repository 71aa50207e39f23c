/*
 * Control, debug and model-specific registers, flags, fast system calls, ports
 * and KVM's paravirtual interface.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/endian.h"
#include "box.h"
#include "vcpu/pv.h"

static int setup(void **state)
{
	*state = box_create(true);
	return 0;
}

static int teardown(void **state)
{
	box_destroy(*state);
	return 0;
}

GUEST(int3, 64, "int3");
GUEST(mov_cr0, 64, "mov %rax, %cr0; mov %cr0, %rbx; smsw %rcx; hlt");
GUEST(mov_cr3, 64, "mov %rax, %cr3; hlt");
GUEST(mov_cr4, 64, "mov %rax, %cr4; hlt");
GUEST(mov_cr0_32, 32, "mov %eax, %cr0; mov %cr0, %ebx; hlt; hlt");
GUEST(mov_cr4_32, 32, "mov %eax, %cr4; hlt");

/* Run (code) in 64-bit mode with RAX; the vector, or -1. */
static int run_rax(struct box *b, const uint8_t *code, unsigned len,
		   uint64_t rax)
{
	b->st.gpr[RAX] = rax;
	b->st.rip = BOX_CODE;
	box_write(b, BOX_CODE, code, len);
	return box_run(b);
}

#define RUN_RAX(b, code, rax) \
	run_rax(b, code, (unsigned)(code##_end - code), rax)

/* ---- Control registers --------------------------------------------------- */

static uint64_t host_smsw(void)
{
	uint64_t v;

	asm volatile("smsw %0" : "=r"(v));
	return v;
}

/* (A9) CR0 is the guest's own: it reads back, has its effect, and the host's
 * stays as it is. */
static void a9_cr0_is_virtual(void **state)
{
	struct box *b = *state;
	uint64_t host = host_smsw();

	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr0, b->st.cr0 | CR0_TS | CR0_MP), -1);
	assert_true(b->st.gpr[RBX] & CR0_TS);
	assert_int_equal(b->st.gpr[RBX], b->st.cr0);
	assert_int_equal(b->st.gpr[RCX], b->st.cr0);
	assert_int_equal(host_smsw(), host);
}

static void cr0_combinations_are_checked(void **state)
{
	struct box *b = *state;
	const uint64_t base = CR0_PE | CR0_ET | CR0_NE;

	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr0, base | CR0_PG | BIT(32)), EXC_GP);
	box_long(b); /* no leaving of paging in 64-bit mode */
	assert_int_equal(RUN_RAX(b, mov_cr0, base), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr0, base | CR0_PG | CR0_NW), EXC_GP);
	box_protected(b);
	assert_int_equal(RUN_RAX(b, mov_cr0_32, CR0_PG | CR0_ET), EXC_GP);
	/* with LME, PG wants PAE */
	box_protected(b);
	b->st.efer = EFER_LME;
	assert_int_equal(RUN_RAX(b, mov_cr0_32, base | CR0_PG), EXC_GP);
	assert_int_equal(b->st.efer, EFER_LME);
	/* ET cannot be cleared, reserved bits are ignored */
	box_protected(b);
	assert_int_equal(RUN_RAX(b, mov_cr0_32, CR0_PE | 0x1000), -1);
	assert_int_equal(b->st.gpr[RBX], CR0_PE | CR0_ET);
}

static void paging_with_lme_activates_long_mode(void **state)
{
	struct box *b = *state;

	box_long(b); /* for the tables */
	box_protected(b);
	b->st.efer = EFER_LME;
	b->st.cr4 = CR4_PAE;
	b->st.cr3 = BOX_PML4;
	assert_int_equal(RUN_RAX(b, mov_cr0_32, b->st.cr0 | CR0_PG), -1);
	assert_true(b->st.efer & EFER_LMA);
	assert_false(x86_is_long64(&b->st)); /* compatibility mode */
	/* and back */
	assert_int_equal(RUN_RAX(b, mov_cr0_32, b->st.cr0 & ~CR0_PG), -1);
	assert_int_equal(b->st.efer, EFER_LME);
}

static void cr3_and_cr4_are_checked(void **state)
{
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr3, BIT(63) | BOX_PML4), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr3, BIT(52)), EXC_GP);
	box_long(b);
	b->st.cr4 |= CR4_PCIDE;
	assert_int_equal(RUN_RAX(b, mov_cr3, BIT(63) | BOX_PML4 | 5), -1);
	assert_int_equal(b->st.cr3, BOX_PML4 | 5);
	/* reserved and hidden bits */
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr4, b->st.cr4 | CR4_LA57), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr4, b->st.cr4 | CR4_UMIP), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr4, b->st.cr4 | CR4_VME), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr4, b->st.cr4 & ~CR4_PAE), EXC_GP);
	/* PCIDE: CR3's low bits must be clear, and paging be in long mode */
	box_long(b);
	b->st.cr3 |= 8;
	assert_int_equal(RUN_RAX(b, mov_cr4, b->st.cr4 | CR4_PCIDE), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr4, b->st.cr4 | CR4_PCIDE), -1);
	assert_int_equal(RUN_RAX(b, mov_cr0, b->st.cr0 & ~CR0_PG), EXC_GP);
	box_protected(b);
	assert_int_equal(RUN_RAX(b, mov_cr4_32, CR4_PCIDE), EXC_GP);
}

static void pae_loads_its_directory_pointers(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_protected(b);
	b->st.cr4 = CR4_PAE;
	b->st.cr3 = BOX_DATA;
	for (unsigned i = 0; i < 4; i++)
		box_poke(b, BOX_DATA + 8 * i, 8, i ? 0 : BOX_PD | 1);
	/* a user bit in a PDPTE is reserved */
	box_poke(b, BOX_DATA + 24, 8, 0x5007);
	assert_int_equal(RUN_RAX(b, mov_cr0_32, b->st.cr0 | CR0_PG), EXC_GP);
	assert_false(b->st.cr0 & CR0_PG);
	box_protected(b);
	b->st.cr4 = CR4_PAE;
	b->st.cr3 = BOX_DATA;
	box_poke(b, BOX_DATA + 24, 8, 0);
	assert_int_equal(RUN_RAX(b, mov_cr0_32, b->st.cr0 | CR0_PG), -1);
	assert_int_equal(b->st.pdpte[0], BOX_PD | 1);
}

GUEST(lmsw, 32, "lmsw %ax; hlt");
GUEST(clts, 32, "clts; hlt");

static void lmsw_cannot_leave_protected_mode(void **state)
{
	struct box *b = *state;

	box_protected(b);
	assert_int_equal(RUN_RAX(b, lmsw, CR0_TS), -1);
	assert_int_equal(b->st.cr0, CR0_PE | CR0_TS | CR0_ET | CR0_NE);
	assert_int_equal(RUN_RAX(b, clts, 0), -1);
	assert_false(b->st.cr0 & CR0_TS);
}

GUEST(cr8, 64, "mov %rax, %cr8; mov %cr8, %rbx; hlt");

static void cr8_is_the_controllers_priority(void **state)
{
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, cr8, 9), -1);
	assert_int_equal(b->tpr, 9);
	assert_int_equal(b->st.gpr[RBX], 9);
	box_long(b);
	assert_int_equal(RUN_RAX(b, cr8, 16), EXC_GP);
}

GUEST(xsetbv, 64, "xor %ecx, %ecx; xor %edx, %edx; xsetbv; xgetbv; hlt");

static void xcr0_combinations_are_checked(void **state)
{
	struct box *b = *state;
	uint64_t mask = cpuid_xcr0_mask(&b->vs.cpuid);

	box_long(b);
	assert_int_equal(RUN_RAX(b, xsetbv, 3), EXC_UD); /* OSXSAVE is off */
	for (uint64_t v = 0; v < 0x400; v++) {
		uint64_t zmm = v & XCR0_AVX512;
		bool is_fine = (v & 1) && !(v & ~mask) &&
			       (!(v & 4) || (v & 2)) &&
			       (!zmm || (zmm == XCR0_AVX512 && (v & 4)));

		box_long(b);
		b->st.cr4 |= CR4_OSXSAVE;
		assert_int_equal(RUN_RAX(b, xsetbv, v), is_fine ? -1 : EXC_GP);
		if (is_fine)
			assert_int_equal(b->st.gpr[RAX], v);
	}
}

/* ---- Debug registers ----------------------------------------------------- */

GUEST(dr6, 64, "mov %rax, %dr6; mov %dr6, %rbx; hlt");
GUEST(dr7, 64, "mov %rax, %dr7; mov %dr7, %rbx; hlt");
GUEST(dr4, 64, ".byte 0x0f, 0x21, 0xe0; hlt");

static void debug_registers(void **state)
{
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, dr6, 0), -1);
	assert_int_equal(b->st.gpr[RBX], 0xffff0ff0);
	assert_int_equal(RUN_RAX(b, dr6, 0xffffffff), -1);
	assert_int_equal(b->st.gpr[RBX], 0xffffeff0 | 0xf);
	assert_int_equal(RUN_RAX(b, dr7, 0), -1);
	assert_int_equal(b->st.gpr[RBX], 0x400);
	assert_int_equal(RUN_RAX(b, dr6, BIT(32)), EXC_GP);
	box_long(b);
	assert_int_equal(RUN_RAX(b, dr7, BIT(32)), EXC_GP);
	/* DR4 is DR6 unless DE */
	box_long(b);
	assert_int_equal(RUN_RAX(b, dr4, 0), -1);
	assert_int_equal(b->st.gpr[RAX], 0xffff0ff0);
	box_long(b);
	b->st.cr4 |= CR4_DE;
	assert_int_equal(RUN_RAX(b, dr4, 0), EXC_UD);
	/* general detect */
	box_long(b);
	b->st.dr[7] |= DR7_GD;
	assert_int_equal(RUN_RAX(b, dr6, 0), EXC_DB);
	assert_true(b->st.dr[6] & DR6_BD);
	assert_false(b->st.dr[7] & DR7_GD);
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE);
}

GUEST(step, 64, "nop; nop; hlt");

static void single_step_traps_behind_the_instruction(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.rflags |= FLAG_TF;
	assert_int_equal(RUN_RAX(b, step, 0), EXC_DB);
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE + 1);
	assert_true(b->st.dr[6] & DR6_BS);
	assert_true(box_stack(b, 2, 8) & FLAG_TF);
	assert_false(b->st.rflags & FLAG_TF);
}

/* ---- Flags --------------------------------------------------------------- */

GUEST(cli_sti, 64, "cli; pushf; pop %rbx; sti; pushf; pop %rcx; cli; hlt");

/* (A8) CLI is emulated: the guest's IF changes, the host's never. */
static void a8_cli_changes_the_virtual_flag(void **state)
{
	struct box *b = *state;
	uint64_t host;

	box_long(b);
	b->st.rflags |= FLAG_IF;
	assert_int_equal(RUN_RAX(b, cli_sti, 0), -1);
	assert_false(b->st.gpr[RBX] & FLAG_IF);
	assert_true(b->st.gpr[RCX] & FLAG_IF);
	if (strcmp(ACCEL.name, "bt")) { /* which does not count them */
		assert_int_equal(b->cpu->trap_counts[OP_CLI], 2);
		assert_int_equal(b->cpu->trap_counts[OP_STI], 1);
	}
	asm volatile("pushf; pop %0" : "=r"(host));
	assert_true(host & FLAG_IF);
	/* at CPL 3 it is IOPL that decides */
	box_long(b);
	box_level(b, 3, true);
	b->st.rflags |= FLAG_IF;
	BOX_LOAD(b, BOX_USER, cli_sti);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 1, 8), BOX_USER);
	assert_true(box_stack(b, 3, 8) & FLAG_IF);
	box_long(b);
	box_level(b, 3, true);
	b->st.rflags |= FLAG_IF | FLAG_IOPL;
	assert_int_equal(box_run(b), EXC_GP); /* HLT */
	assert_int_equal(box_stack(b, 1, 8), BOX_USER + 7);
}

GUEST(popf, 64, "push %rax; popfq; pushfq; pop %rbx; int3");

/* (A7) POPF changes IF at CPL 0; at CPL 3 it is silently kept. */
static void a7_popf(void **state)
{
	const uint64_t all = FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID |
			     FLAG_DF | FLAGS_STATUS | FLAG_RF | FLAG_VM |
			     FLAG_VIF | FLAG_VIP | 2;
	const uint64_t shown = all & ~(FLAG_RF | FLAG_VM | FLAG_VIF | FLAG_VIP);
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, popf, all), EXC_BP);
	assert_int_equal(b->st.gpr[RBX], shown);
	box_long(b);
	box_level(b, 3, true);
	b->st.gpr[RAX] = all;
	BOX_LOAD(b, BOX_USER, popf);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(b->st.gpr[RBX], shown & ~(FLAG_IF | FLAG_IOPL));
	box_long(b);
	box_level(b, 3, true);
	b->st.gpr[RAX] = 2;
	b->st.rflags |= FLAG_IF | FLAG_IOPL;
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(b->st.gpr[RBX], 2 | FLAG_IOPL);
}

GUEST(v86_pushf, 16, "pushf; hlt");
GUEST(v86_popf, 16, "popf; hlt");

static void v86_flags_need_iopl_3(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_v86(b);
	BOX_LOAD(b, BOX_USER, v86_pushf);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 1, 4), 0);
	box_protected(b);
	box_v86(b);
	b->st.rflags |= FLAG_IOPL;
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 1, 4), 1); /* HLT */
	box_protected(b);
	box_v86(b);
	BOX_LOAD(b, BOX_USER, v86_popf);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 1, 4), 0);
}

GUEST(stac, 64, "stac; clac; stac; int3");

static void stac_is_for_the_kernel(void **state)
{
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, stac, 0), EXC_BP);
	assert_true(box_stack(b, 2, 8) & FLAG_AC);
	box_long(b);
	box_level(b, 3, true);
	BOX_LOAD(b, BOX_USER, stac);
	assert_int_equal(box_run(b), EXC_UD);
}

/* ---- Fast system calls --------------------------------------------------- */

GUEST(syscall_int3, 64, "syscall; int3");
GUEST(sysretq, 64, "sysretq");
GUEST(sysretl, 64, "sysretl");

static void make_syscall(struct box *b)
{
	box_long(b);
	b->st.star = (uint64_t)(0x18 | 3) << 48 | (uint64_t)CODE0_64 << 32;
	b->st.lstar = BOX_CODE;
	b->st.fmask = FLAG_IF | FLAG_DF | FLAG_AC;
	box_level(b, 3, true);
	BOX_LOAD(b, BOX_USER, syscall_int3);
}

/* (A3) SYSCALL and SYSRET: registers, flags, selectors both ways. */
static void a3_syscall_and_sysret(void **state)
{
	struct box *b = *state;

	make_syscall(b);
	b->st.rflags |= FLAG_IF | FLAG_DF | FLAG_CF;
	BOX_LOAD(b, BOX_CODE, int3);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(b->st.gpr[RCX], BOX_USER + 2);
	assert_int_equal(b->st.gpr[R11], 2 | FLAG_IF | FLAG_DF | FLAG_CF);
	assert_int_equal(box_stack(b, 1, 8), CODE0_64);
	assert_int_equal(box_stack(b, 2, 8), 2 | FLAG_CF);
	assert_int_equal(box_stack(b, 4, 8), 0x40);

	make_syscall(b);
	b->st.rflags |= FLAG_IF | FLAG_CF;
	BOX_LOAD(b, BOX_CODE, sysretq);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 0, 8), BOX_USER + 3);
	assert_int_equal(box_stack(b, 1, 8), CODE3_64);
	assert_int_equal(box_stack(b, 2, 8), 2 | FLAG_IF | FLAG_CF);
	assert_int_equal(box_stack(b, 4, 8), DATA3);

	make_syscall(b);
	BOX_LOAD(b, BOX_CODE, sysretl);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 1, 8), CODE3);
}

static void sysret_to_a_bad_address_faults_in_the_kernel(void **state)
{
	struct box *b = *state;

	make_syscall(b);
	BOX_LOAD(b, BOX_CODE, sysretq);
	box_level(b, 0, true);
	b->st.seg[SEG_CS].sel = CODE0_64;
	b->st.seg[SEG_CS].attr &= (uint16_t)~0x60;
	b->st.rip = BOX_CODE;
	b->st.gpr[RCX] = 0x0000800000000000;
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 2, 8), CODE0_64);
}

static void syscall_needs_sce_and_64_bit_mode(void **state)
{
	struct box *b = *state;

	make_syscall(b);
	b->st.efer &= ~EFER_SCE;
	assert_int_equal(box_run(b), EXC_UD);
	if (cpuid_is_amd(&b->vs.cpuid))
		return;
	make_syscall(b);
	box_level(b, 3, false);
	assert_int_equal(box_run(b), EXC_UD);
}

GUEST(sysenter, 32, "sysenter; int3");
GUEST(sysexit, 32, "mov $0x12002, %edx; mov $0x35f00, %ecx; sysexit");

/* (A3) SYSENTER and SYSEXIT in protected mode. */
static void a3_sysenter_and_sysexit(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_level(b, 3, false);
	b->st.rflags |= FLAG_IF;
	b->st.sysenter_cs = CODE0;
	b->st.sysenter_eip = BOX_CODE;
	b->st.sysenter_esp = BOX_STACK1;
	BOX_LOAD(b, BOX_USER, sysenter);
	BOX_LOAD(b, BOX_CODE, sysexit);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 0, 4), BOX_USER + 3);
	assert_int_equal(box_stack(b, 1, 4), CODE3);
	assert_int_equal(box_stack(b, 2, 4), 2); /* IF went with SYSENTER */
	assert_int_equal(box_stack(b, 3, 4), 0x35f00);
	assert_int_equal(box_stack(b, 4, 4), DATA3);
	box_protected(b);
	box_level(b, 3, false);
	b->st.sysenter_cs = 3;
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), 0);
}

/* ---- MSRs ---------------------------------------------------------------- */

GUEST(wrmsr, 64, "wrmsr; rdmsr; hlt");
GUEST(rdmsr, 64, "rdmsr; hlt");

static int wrmsr_run(struct box *b, uint32_t msr, uint64_t value)
{
	int r;

	box_long(b);
	b->st.gpr[RCX] = msr;
	b->st.gpr[RDX] = value >> 32;
	r = RUN_RAX(b, wrmsr, (uint32_t)value);
	if (r == -1 && msr != MSR_TSC)
		assert_int_equal(b->st.gpr[RAX] | b->st.gpr[RDX] << 32, value);
	return r;
}

static int rdmsr_run(struct box *b, uint32_t msr, uint64_t *value)
{
	int r;

	box_long(b);
	b->st.gpr[RCX] = msr;
	r = RUN_RAX(b, rdmsr, 0);
	*value = b->st.gpr[RAX] | b->st.gpr[RDX] << 32;
	return r;
}

static void msr_values_are_checked(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t value;
		bool is_fine;
	} cases[] = {
		{ MSR_LSTAR, 0xffffffff81000000, true },
		{ MSR_LSTAR, 0x0000800000000000, false },
		{ MSR_CSTAR, 0x1234567800000000, false },
		{ MSR_STAR, 0x0023001000000000, true },
		{ MSR_FMASK, 0x47700, true },
		{ MSR_FMASK, BIT(32), false },
		{ MSR_FS_BASE, 0x00007fffffffffff, true },
		{ MSR_GS_BASE, 0x8000000000000000, false },
		{ MSR_KERNEL_GS_BASE, 0xffff888000000000, true },
		{ MSR_KERNEL_GS_BASE, 0x0fff888000000000, false },
		{ MSR_SYSENTER_EIP, 0x0fff888000000000, false },
		{ MSR_TSC_AUX, 0xffffffff, true },
		{ MSR_TSC_AUX, BIT(32), false },
		{ MSR_PAT, 0x0407050600070106, true },
		{ MSR_PAT, 0x0407050600070206, false },
		{ MSR_MTRR_DEF_TYPE, 0xc06, true },
		{ MSR_MTRR_DEF_TYPE, 0xc02, false },
		{ MSR_MTRR_PHYSBASE0, 0xc0000000, true },
		{ MSR_MTRR_PHYSBASE0, 0xc0000100, false },
		{ MSR_MTRR_PHYSBASE0 + 1, 0xc0000800, true },
		{ MSR_MTRR_PHYSBASE0 + 1, 0xc0000001, false },
		{ MSR_MTRR_PHYSBASE0 + 15, BIT(60), false },
		{ MSR_MTRR_FIX64K, 0x0606060606060606, true },
		{ MSR_MTRR_FIX4K_0 + 7, 0x0606060306060606, false },
		{ MSR_SPEC_CTRL, 1, true },
		{ MSR_SPEC_CTRL, 8, false },
		{ MSR_DEBUGCTL, 2, true },
		{ MSR_DEBUGCTL, 0x100, false },
		{ MSR_EFER, EFER_LME | EFER_LMA | EFER_SCE, true },
		{ MSR_EFER, EFER_LMA, false }, /* LME while paging */
		{ MSR_EFER, EFER_LME | EFER_LMA | BIT(12), false }, /* SVME */
		{ MSR_FEAT_CTL, 5, false },                         /* locked */
		{ MSR_ARCH_CAPABILITIES, 0, false },
		{ MSR_MTRRCAP, 0, false },
		{ MSR_XSS, 0, false },
		{ 0x12345678, 0, false },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(wrmsr_run(b, cases[i].msr, cases[i].value),
				 cases[i].is_fine ? -1 : EXC_GP);
}

static void unknown_msrs_are_gp(void **state)
{
	static const uint32_t msrs[] = { 0x12345678,    MSR_PRED_CMD,
					 MSR_FLUSH_CMD, 0x4b564d08,
					 0x480,         0xc0010117,
					 0x800 };
	struct box *b = *state;
	uint64_t value;

	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		assert_int_equal(rdmsr_run(b, msrs[i], &value), EXC_GP);
	assert_int_equal(rdmsr_run(b, MSR_ARCH_CAPABILITIES, &value), -1);
	assert_int_equal(value & 0x10e17b, 0x10e17b);
	assert_int_equal(rdmsr_run(b, MSR_UCODE_REV, &value), -1);
}

GUEST(rdtsc, 64, "rdtsc; hlt");

static uint64_t guest_tsc(struct box *b)
{
	assert_int_equal(RUN_RAX(b, rdtsc, 0), -1);
	return b->st.gpr[RAX] | b->st.gpr[RDX] << 32;
}

static void tsc_writes_move_tsc_adjust(void **state)
{
	struct box *b = *state;
	uint64_t before, after;

	box_long(b);
	before = vclock_tsc(b->vs.clock);
	after = guest_tsc(b);
	assert_true(after >= before && after - before < 2600000000);
	b->st.gpr[RCX] = MSR_TSC;
	b->st.gpr[RDX] = 0x1000;
	assert_int_equal(RUN_RAX(b, wrmsr, 0), -1);
	after = guest_tsc(b);
	assert_true(after - 0x100000000000 < 2600000000);
	assert_true(b->st.tsc_adjust > 0x0f0000000000);
	/* the deadline is in the guest's own count */
	b->st.gpr[RCX] = MSR_TSC_DEADLINE;
	b->st.gpr[RDX] = 0x1000;
	assert_int_equal(RUN_RAX(b, wrmsr, 5), -1);
	assert_int_equal(b->deadline, 0x100000000005 - b->st.tsc_adjust);
	assert_int_equal(b->st.gpr[RAX] | b->st.gpr[RDX] << 32, 0x100000000005);
	/* back to what it was */
	b->st.gpr[RCX] = MSR_TSC_ADJUST;
	b->st.gpr[RDX] = 0;
	assert_int_equal(RUN_RAX(b, wrmsr, 0), -1);
	assert_true(guest_tsc(b) - before < 2600000000);
}

GUEST(rdtsc_user, 64, "rdtsc; int3");

static void tsd_makes_rdtsc_privileged(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.cr4 |= CR4_TSD;
	box_level(b, 3, true);
	BOX_LOAD(b, BOX_USER, rdtsc_user);
	assert_int_equal(box_run(b), EXC_GP);
}

GUEST(cpuid, 64, "cpuid; hlt");

/* (A17) CPUID shows what the policy chose. */
static void a17_cpuid_is_the_policys(void **state)
{
	struct box *b = *state;
	struct cpuid_regs r;

	box_long(b);
	b->st.gpr[RCX] = 0;
	assert_int_equal(RUN_RAX(b, cpuid, 0x40000000), -1);
	assert_int_equal(b->st.gpr[RBX], 0x4b4d564b);
	assert_int_equal(RUN_RAX(b, cpuid, 7), -1);
	r = cpuid_get(&b->vs.cpuid, 7, 0);
	assert_int_equal(b->cpu->trap_counts[OP_CPUID], 2);
	b->st.gpr[RCX] = 0;
	assert_int_equal(RUN_RAX(b, cpuid, 7), -1);
	assert_int_equal(b->st.gpr[RBX], r.ebx);
	assert_int_equal(b->st.gpr[RDX], r.edx);
	assert_true(b->vcpu.stats.exits[EXIT_CPUID] >= 3);
}

GUEST(monitor, 64, "monitor");
GUEST(mwait, 64, "mwait");
GUEST(rdpmc, 64, "rdpmc");
GUEST(invpcid, 64, "mov $0x14000, %ecx; invpcid (%rcx), %rax; hlt");

static void hidden_instructions_are_ud(void **state)
{
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, monitor, 0), EXC_UD);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mwait, 0), EXC_UD);
	box_long(b);
	assert_int_equal(RUN_RAX(b, rdpmc, 0), EXC_GP);
}

static void invpcid_is_checked(void **state)
{
	static const struct {
		uint64_t type, pcid, gva;
		bool pcide, is_fine;
	} cases[] = {
		{ 0, 0, 0x1000, false, true },
		{ 0, 1, 0x1000, false, false },
		{ 0, 1, 0x1000, true, true },
		{ 0, 0, 0x0000800000000000, true, false },
		{ 1, 0, 0x0000800000000000, true, true },
		{ 1, 0x1000, 0, true, false },
		{ 2, 0, 0, true, true },
		{ 3, 0, 0, false, true },
		{ 4, 0, 0, true, false },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		box_long(b);
		if (cases[i].pcide)
			b->st.cr4 |= CR4_PCIDE;
		box_poke(b, 0x14000, 8, cases[i].pcid);
		box_poke(b, 0x14008, 8, cases[i].gva);
		assert_int_equal(RUN_RAX(b, invpcid, cases[i].type),
				 cases[i].is_fine ? -1 : EXC_GP);
	}
}

/* ---- Ports --------------------------------------------------------------- */

GUEST(out_in, 64, "out %eax, %dx; in %dx, %ax; hlt");
GUEST(rep_outsb, 64, "rep outsb; hlt");
GUEST(rep_insb, 64, "rep insb; hlt");
GUEST(rep_insd_std, 64, "std; rep insl; hlt");

/* (C1) IN and OUT reach the bus with their sizes. */
static void c1_in_and_out(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.gpr[RDX] = 0x100;
	assert_int_equal(RUN_RAX(b, out_in, 0x99887766), -1);
	assert_int_equal(b->nr_out, 4);
	assert_int_equal(load_le32(b->port_out), 0x99887766);
	assert_int_equal(b->st.gpr[RAX], 0x99880100);
}

/* (C1) Strings: whole, in order, with the registers where they belong. */
static void c1_string_io(void **state)
{
	struct box *b = *state;

	box_long(b);
	for (unsigned i = 0; i < 3000; i++)
		b->ram[0x50000 - 100 + i] = (uint8_t)(i * 7);
	b->st.gpr[RDX] = 0x100;
	b->st.gpr[RCX] = 3000;
	b->st.gpr[RSI] = 0x50000 - 100;
	assert_int_equal(RUN_RAX(b, rep_outsb, 0), -1);
	assert_int_equal(b->nr_out, 3000);
	assert_memory_equal(b->port_out, b->ram + 0x50000 - 100, 3000);
	assert_int_equal(b->st.gpr[RCX], 0);
	assert_int_equal(b->st.gpr[RSI], 0x50000 - 100 + 3000);

	b->st.gpr[RCX] = 5000;
	b->st.gpr[RDI] = 0x60000 - 3;
	b->port_next = 0;
	assert_int_equal(RUN_RAX(b, rep_insb, 0), -1);
	for (unsigned i = 0; i < 5000; i++)
		assert_int_equal(b->ram[0x60000 - 3 + i], (uint8_t)i);
	assert_int_equal(b->st.gpr[RDI], 0x60000 - 3 + 5000);

	b->st.gpr[RCX] = 2;
	b->st.gpr[RDI] = 0x70004;
	b->port_next = 0;
	assert_int_equal(RUN_RAX(b, rep_insd_std, 0), -1);
	assert_int_equal(box_peek(b, 0x70004, 4), 0x03020100);
	assert_int_equal(box_peek(b, 0x70000, 4), 0x07060504);
	assert_int_equal(b->st.gpr[RDI], 0x70004 - 8);
}

/* (C1) A page fault in the middle: the device has given only what arrived. */
static void c1_string_io_is_restartable(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_poke(b, BOX_PT + 8 * 0x60, 8, 0); /* page 0x60000 */
	b->st.gpr[RDX] = 0x100;
	b->st.gpr[RCX] = 100;
	b->st.gpr[RDI] = 0x60000 - 10;
	assert_int_equal(RUN_RAX(b, rep_insb, 0), EXC_PF);
	assert_int_equal(b->st.cr2, 0x60000);
	assert_int_equal(b->st.gpr[RCX], 90);
	assert_int_equal(b->st.gpr[RDI], 0x60000);
	assert_int_equal(b->port_next, 10);
	assert_int_equal(box_stack(b, 1, 8), BOX_CODE);
}

/* (A1, C1) IOPL, then the permission bitmap of the TSS. */
static void c1_permission_bitmap(void **state)
{
	static const struct {
		uint16_t port;
		unsigned size;
		uint16_t allowed_from, allowed_to;
		unsigned iopl;
		bool is_fine;
	} cases[] = {
		{ 0x100, 1, 0, 0, 0, false },
		{ 0x100, 1, 0, 0, 3, true },
		{ 0x100, 1, 0x100, 0x101, 0, true },
		{ 0x101, 1, 0x100, 0x101, 0, false },
		{ 0x104, 4, 0x104, 0x108, 0, true },
		{ 0x104, 4, 0x104, 0x107, 0, false },
		{ 0x106, 4, 0x106, 0x108, 0, false },
		{ 0xffff, 1, 0, 0, 0, false },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t code[] = { 0xed, 0xcc };

		if (cases[i].size == 1)
			code[0] = 0xec;
		box_long(b);
		box_level(b, 3, true);
		for (unsigned p = cases[i].allowed_from;
		     p < cases[i].allowed_to; p++)
			b->ram[BOX_TSS + 0x68 + p / 8] &=
				(uint8_t) ~(1u << (p % 8));
		b->st.rflags |= (uint64_t)cases[i].iopl << 12;
		b->st.gpr[RDX] = cases[i].port;
		box_write(b, BOX_USER, code, 2);
		assert_int_equal(box_run(b),
				 cases[i].is_fine ? EXC_BP : EXC_GP);
	}
	/* a bitmap beyond the limit allows nothing */
	box_long(b);
	box_level(b, 3, true);
	memset(b->ram + BOX_TSS + 0x68, 0, 0x200);
	b->st.tr.limit = 0x68 + 0x20;
	b->st.gpr[RDX] = 0x100;
	box_write(b, BOX_USER, (uint8_t[]){ 0xec, 0xcc }, 2);
	assert_int_equal(box_run(b), EXC_GP);
	b->st.tr.limit = 0x68 + 0x21;
	box_level(b, 3, true);
	assert_int_equal(box_run(b), EXC_BP);
}

/* ---- KVM's paravirtual interface ----------------------------------------- */

struct clock_page {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags;
};

static uint64_t page_ns(const struct clock_page *p, uint64_t tsc)
{
	uint64_t delta = tsc - p->tsc_timestamp;

	delta = p->shift < 0 ? delta >> -p->shift : delta << p->shift;
	return p->system_time +
	       (uint64_t)(((unsigned __int128)delta * p->mul) >> 32);
}

/* (F2) The clock page: even version, stable bit, and the right time, also when
 * the guest has moved its TSC and after a pause. */
static void f2_clock_page(void **state)
{
	struct box *b = *state;
	const uint64_t gpa = 0x50000;
	struct clock_page page;
	int64_t before, ns;
	uint64_t tsc;

	box_long(b);
	assert_int_equal(wrmsr_run(b, 0x4b564d01, gpa | 1), -1);
	for (unsigned round = 0; round < 3; round++) {
		memcpy(&page, b->ram + gpa, sizeof(page));
		assert_int_equal(page.version & 1, 0);
		assert_true(page.version > 2 * round);
		assert_int_equal(page.flags, 1);
		before = vclock_now(b->vs.clock);
		tsc = guest_tsc(b);
		ns = (int64_t)page_ns(&page, tsc);
		/* However long this thread waited for a CPU; the two clocks of
		 * the host may differ a little. */
		assert_true(ns > before - NSEC_PER_MSEC);
		assert_true(ns < vclock_now(b->vs.clock) + NSEC_PER_MSEC);
		if (round == 0) {
			uint64_t pv = b->st.pv_system_time;

			b->st.gpr[RCX] = MSR_TSC;
			b->st.gpr[RDX] = 0x77;
			assert_int_equal(RUN_RAX(b, wrmsr, 0), -1);
			assert_int_equal(b->st.pv_system_time, pv);
		} else {
			struct timespec ms = { 0, 50 * NSEC_PER_MSEC };

			before = vclock_now(b->vs.clock);
			vclock_stop(b->vs.clock);
			nanosleep(&ms, NULL);
			vclock_start(b->vs.clock, false);
			guest_tsc(b); /* entering updates the page */
			memcpy(&page, b->ram + gpa, sizeof(page));
			ns = (int64_t)page_ns(&page, guest_tsc(b));
			assert_true(ns > before - NSEC_PER_MSEC);
			assert_true(ns <
				    vclock_now(b->vs.clock) + NSEC_PER_MSEC);
		}
	}
}

static void pv_registers_are_checked(void **state)
{
	struct box *b = *state;

	/* addresses that are no RAM are the guest's loss */
	assert_int_equal(wrmsr_run(b, 0x4b564d01, 0xfffffffffff00001), -1);
	assert_int_equal(wrmsr_run(b, 0x4b564d00, 0xffffffffffffff00), -1);
	assert_int_equal(wrmsr_run(b, 0x4b564d03, 0x50003), EXC_GP);
	assert_int_equal(wrmsr_run(b, 0x4b564d03, 0x0ffffffffffc0 | 1), -1);
	assert_int_equal(wrmsr_run(b, 0x4b564d04, 0x50002), EXC_GP);
	assert_int_equal(wrmsr_run(b, 0x4b564d05, 2), EXC_GP);
	assert_int_equal(wrmsr_run(b, 0x4b564d05, 1), -1);
	assert_int_equal(wrmsr_run(b, 0x4b564d02, 0), EXC_GP);
	assert_int_equal(wrmsr_run(b, 0x12, 0), EXC_GP);
	b->vs.cpuid.config.pv = false;
	assert_int_equal(wrmsr_run(b, 0x4b564d01, 0), EXC_GP);
}

static void pv_wall_clock(void **state)
{
	struct box *b = *state;
	int64_t boot;

	assert_int_equal(wrmsr_run(b, 0x4b564d00, 0x50000), -1);
	assert_int_equal(box_peek(b, 0x50000, 4) & 1, 0);
	boot = (int64_t)box_peek(b, 0x50004, 4);
	assert_true(time(NULL) - boot < 100 && time(NULL) >= boot - 1);
}

/* (F4) Time that the thread waited while it should have run is stolen. */
static void f4_steal_time(void **state)
{
	struct box *b = *state;
	struct timespec ms = { 0, 30 * NSEC_PER_MSEC };
	uint64_t stolen;

	assert_int_equal(wrmsr_run(b, 0x4b564d03, 0x50001), -1);
	/* HLT ended it: the CPU is marked preempted, and not charged */
	assert_int_equal(box_peek(b, 0x50010, 1), 1);
	nanosleep(&ms, NULL);
	pv_steal_update(&b->vcpu, &b->st);
	assert_int_equal(box_peek(b, 0x50010, 1), 0);
	assert_int_equal(box_peek(b, 0x50000, 8), 0);
	/* not running without having halted */
	nanosleep(&ms, NULL);
	pv_steal_update(&b->vcpu, &b->st);
	stolen = box_peek(b, 0x50000, 8);
	assert_true(stolen > 20 * NSEC_PER_MSEC);
	assert_int_equal(box_peek(b, 0x50008, 4) & 1, 0);
	assert_int_equal(b->vcpu.stats.steal_ns, stolen);
	/* another CPU asked for a flush */
	box_poke(b, 0x50010, 1, 3);
	pv_steal_update(&b->vcpu, &b->st);
	assert_true(b->vcpu.requests & VCPU_REQ_TLB);
}

GUEST(sti_hlt, 64, "sti; nop; nop; hlt");

/* The EOI word: set with the interrupt; cleared by the guest it is an EOI,
 * left alone it is none. */
static void pv_eoi(void **state)
{
	struct box *b = *state;

	for (unsigned used = 0; used < 2; used++) {
		uint8_t code[] = { 0xf4, 0xf4 };

		b->eois = 0;
		box_long(b);
		b->st.pv_eoi = 0x50001;
		b->irq = 0x55;
		if (used) { /* btr $0, 0x50000 */
			static const uint8_t btr[] = { 0x0f, 0xba, 0x34, 0x25,
						       0,    0,    5,    0,
						       0,    0xf4 };

			box_write(b, BOX_HANDLERS + 16 * 0x55, btr,
				  sizeof(btr));
		} else {
			box_write(b, BOX_HANDLERS + 16 * 0x55, code, 1);
		}
		assert_int_equal(RUN_RAX(b, sti_hlt, 0), 0x55);
		assert_int_equal(b->eois, used);
		assert_int_equal(box_peek(b, 0x50000, 4), 0);
		assert_int_equal(b->st.pv_eoi, 0x50001);
	}
}

GUEST(vmcall, 64, "vmcall; hlt");
GUEST(vmmcall, 64, "vmmcall; int3");

/* (C8) Hypercalls by KVM's numbers, and our own. */
static void c8_hypercalls(void **state)
{
	struct box *b = *state;

	box_long(b);
	assert_int_equal(RUN_RAX(b, vmcall, 12345), -1);
	assert_int_equal(b->st.gpr[RAX], (uint64_t)-1000);
	/* an IPI to the CPUs in the map that exist */
	b->st.gpr[RBX] = 5;
	b->st.gpr[RCX] = 0;
	b->st.gpr[RDX] = 0;
	b->st.gpr[RSI] = 0xfd;
	assert_int_equal(RUN_RAX(b, vmcall, 10), -1);
	assert_int_equal(b->st.gpr[RAX], 1);
	assert_int_equal(b->ipis, 1);
	assert_int_equal(b->ipi_icr, 0xfd);
	/* clock pairing */
	b->st.gpr[RBX] = 0x50000;
	b->st.gpr[RCX] = 0;
	assert_int_equal(RUN_RAX(b, vmcall, 9), -1);
	assert_int_equal(b->st.gpr[RAX], 0);
	assert_true((int64_t)box_peek(b, 0x50000, 8) - time(NULL) < 5);
	/* our log: not from where there is no memory */
	b->st.gpr[RBX] = 0xffffffffffff;
	b->st.gpr[RCX] = 4;
	assert_int_equal(RUN_RAX(b, vmcall, PV_HC_LOG), -1);
	assert_int_equal(b->st.gpr[RAX], (uint64_t)-14);
	box_write(b, 0x50000, "hi\n", 3);
	b->st.gpr[RBX] = 0x50000;
	b->st.gpr[RCX] = 3;
	assert_int_equal(RUN_RAX(b, vmcall, PV_HC_LOG), -1);
	assert_int_equal(b->st.gpr[RAX], 0);
	/* user space may not; without pv there is no such instruction */
	box_level(b, 3, true);
	b->st.gpr[RAX] = 10;
	BOX_LOAD(b, BOX_USER, vmmcall);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(b->st.gpr[RAX], (uint64_t)-1);
	box_long(b);
	b->vs.cpuid.config.pv = false;
	assert_int_equal(RUN_RAX(b, vmcall, 0), EXC_UD);
}

/* KICK_CPU ends a HLT, also one that comes after it. */
static void c8_kick_ends_hlt(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->vcpu.requests |= VCPU_REQ_UNHALT;
	BOX_LOAD(b, BOX_CODE, sti_hlt);
	box_write(b, BOX_CODE + 4, int3, 1);
	b->st.rip = BOX_CODE;
	assert_int_equal(box_run(b), EXC_BP);
}

/* ---- Counters ------------------------------------------------------------ */

/* (A6) Each class of sensitive instruction is intercepted, and counted. */
static void a6_sensitive_classes_are_counted(void **state)
{
	struct box *b = *state;
	const uint64_t *n = b->cpu->trap_counts;

	box_long(b);
	b->st.gpr[RDX] = 0x100;
	assert_int_equal(RUN_RAX(b, out_in, 0), -1);
	assert_int_equal(n[OP_IN], 1); /* input and output */
	assert_int_equal(n[OP_OUT], 1);
	assert_int_equal(n[OP_HLT], 1); /* machine state */
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr0, b->st.cr0), -1);
	assert_int_equal(n[OP_MOV_TO_CR], 1); /* sensitive registers */
	assert_int_equal(n[OP_SMSW], 1);
	box_long(b);
	assert_int_equal(RUN_RAX(b, mov_cr3, b->st.cr3), -1);
	assert_int_equal(n[OP_MOV_TO_CR], 2); /* address relocation */
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(a9_cr0_is_virtual),
		T(cr0_combinations_are_checked),
		T(paging_with_lme_activates_long_mode),
		T(cr3_and_cr4_are_checked),
		T(pae_loads_its_directory_pointers),
		T(lmsw_cannot_leave_protected_mode),
		T(cr8_is_the_controllers_priority),
		T(xcr0_combinations_are_checked),
		T(debug_registers),
		T(single_step_traps_behind_the_instruction),
		T(a8_cli_changes_the_virtual_flag),
		T(a7_popf),
		T(v86_flags_need_iopl_3),
		T(stac_is_for_the_kernel),
		T(a3_syscall_and_sysret),
		T(sysret_to_a_bad_address_faults_in_the_kernel),
		T(syscall_needs_sce_and_64_bit_mode),
		T(a3_sysenter_and_sysexit),
		T(msr_values_are_checked),
		T(unknown_msrs_are_gp),
		T(tsc_writes_move_tsc_adjust),
		T(tsd_makes_rdtsc_privileged),
		T(a17_cpuid_is_the_policys),
		T(hidden_instructions_are_ud),
		T(invpcid_is_checked),
		T(c1_in_and_out),
		T(c1_string_io),
		T(c1_string_io_is_restartable),
		T(c1_permission_bitmap),
		T(f2_clock_page),
		T(pv_registers_are_checked),
		T(pv_wall_clock),
		T(f4_steal_time),
		T(pv_eoi),
		T(c8_hypercalls),
		T(c8_kick_ends_hlt),
		T(a6_sensitive_classes_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
