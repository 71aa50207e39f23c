/*
 * Names of the architecture: control bits, exceptions, selectors, MSRs.
 * Intel SDM volume 3 (chapters 2 to 6) and volume 4, AMD APM volume 2.
 */
#ifndef ARCH_X86_H
#define ARCH_X86_H

#include "base/bits.h"

/* clang-format off */
/** General registers, by their numbers in instructions. */
enum gpr {
	RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI,
	R8, R9, R10, R11, R12, R13, R14, R15,
	NR_GPR
};
/* clang-format on */

/** In the order of the segment field of instructions. */
enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, NR_SEG };

/* clang-format off */

/* RFLAGS (SDM 3.4.3) */
#define FLAG_CF   BIT(0)
#define FLAG_ONE  BIT(1)	/* always set */
#define FLAG_PF   BIT(2)
#define FLAG_AF   BIT(4)
#define FLAG_ZF   BIT(6)
#define FLAG_SF   BIT(7)
#define FLAG_TF   BIT(8)
#define FLAG_IF   BIT(9)
#define FLAG_DF   BIT(10)
#define FLAG_OF   BIT(11)
#define FLAG_IOPL MASK(13, 12)
#define FLAG_NT   BIT(14)
#define FLAG_RF   BIT(16)
#define FLAG_VM   BIT(17)
#define FLAG_AC   BIT(18)
#define FLAG_VIF  BIT(19)
#define FLAG_VIP  BIT(20)
#define FLAG_ID   BIT(21)
#define FLAGS_STATUS (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

/* CR0 */
#define CR0_PE    BIT(0)
#define CR0_MP    BIT(1)
#define CR0_EM    BIT(2)
#define CR0_TS    BIT(3)
#define CR0_ET    BIT(4)
#define CR0_NE    BIT(5)
#define CR0_WP    BIT(16)
#define CR0_AM    BIT(18)
#define CR0_NW    BIT(29)
#define CR0_CD    BIT(30)
#define CR0_PG    BIT(31)

/* CR4 */
#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)

#define CR3_PCID       MASK(11, 0)
#define CR3_NOFLUSH    BIT(63)

/* EFER */
#define EFER_SCE BIT(0)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)
#define EFER_NX  BIT(11)

/* XCR0 */
#define XCR0_X87       BIT(0)
#define XCR0_SSE       BIT(1)
#define XCR0_AVX       BIT(2)
#define XCR0_AVX512    MASK(7, 5)

/* Page table entries (SDM 4.5) */
#define PTE_P   BIT(0)
#define PTE_W   BIT(1)
#define PTE_U   BIT(2)
#define PTE_A   BIT(5)
#define PTE_D   BIT(6)
#define PTE_PS  BIT(7)
#define PTE_G   BIT(8)
#define PTE_NX  BIT(63)
#define PTE_ADDR MASK(51, 12)

/* Page fault error code (SDM 4.7) */
#define PFERR_P    BIT(0)
#define PFERR_W    BIT(1)
#define PFERR_U    BIT(2)
#define PFERR_RSVD BIT(3)
#define PFERR_I    BIT(4)

/* DR6, DR7 (SDM 17.2) */
#define DR6_FIXED  0xffff0ff0ULL
#define DR6_BD     BIT(13)
#define DR6_BS     BIT(14)
#define DR6_BT     BIT(15)
#define DR7_FIXED  0x400ULL
#define DR7_GD     BIT(13)
/* clang-format on */

/* clang-format off */
/** Exception vectors (SDM 6.3.1) */
enum exception {
	EXC_DE = 0, EXC_DB = 1, EXC_NMI = 2, EXC_BP = 3, EXC_OF = 4,
	EXC_BR = 5, EXC_UD = 6, EXC_NM = 7, EXC_DF = 8, EXC_TS = 10,
	EXC_NP = 11, EXC_SS = 12, EXC_GP = 13, EXC_PF = 14, EXC_MF = 16,
	EXC_AC = 17, EXC_MC = 18, EXC_XM = 19,
};
/* clang-format on */

/* Descriptor attributes as bits 8..15 and 20..23 of the descriptor's second
 * word, packed into 16 bits: TYPE(4) S DPL(2) P, then from bit 12 AVL L DB G.
 * Bit 11, free there, marks an unusable (null) segment. */
#define ATTR_TYPE     0xf
#define ATTR_S        BIT(4)
#define ATTR_DPL(a)   (((a) >> 5) & 3)
#define ATTR_P        BIT(7)
#define ATTR_UNUSABLE BIT(11)
#define ATTR_AVL      BIT(12)
#define ATTR_L        BIT(13)
#define ATTR_DB       BIT(14)
#define ATTR_G        BIT(15)
/* Of code and data segments' TYPE: */
#define ATTR_ACCESSED BIT(0)
#define ATTR_RW       BIT(1) /* data: writable; code: readable */
#define ATTR_CE       BIT(2) /* data: expand down; code: conforming */
#define ATTR_CODE     BIT(3)

/* clang-format off */
/** System descriptor types (SDM table 3-2); the 64-bit ones share numbers. */
enum sysdesc {
	SYS_TSS16 = 1, SYS_LDT = 2, SYS_TSS16_BUSY = 3, SYS_CALL16 = 4,
	SYS_TASK = 5, SYS_INT16 = 6, SYS_TRAP16 = 7, SYS_TSS = 9,
	SYS_TSS_BUSY = 11, SYS_CALL = 12, SYS_INT = 14, SYS_TRAP = 15,
};
/* clang-format on */

/* clang-format off */
/** Model-specific registers (SDM volume 4, table 2-2) */
enum msr {
	MSR_TSC = 0x10, MSR_PLATFORM_ID = 0x17, MSR_APIC_BASE = 0x1b,
	MSR_FEAT_CTL = 0x3a, MSR_TSC_ADJUST = 0x3b, MSR_SPEC_CTRL = 0x48,
	MSR_PRED_CMD = 0x49, MSR_UCODE_WRITE = 0x79, MSR_UCODE_REV = 0x8b,
	MSR_MTRRCAP = 0xfe, MSR_ARCH_CAPABILITIES = 0x10a,
	MSR_FLUSH_CMD = 0x10b, MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP = 0x175, MSR_SYSENTER_EIP = 0x176,
	MSR_MCG_CAP = 0x179, MSR_MCG_STATUS = 0x17a, MSR_MCG_CTL = 0x17b,
	MSR_PERF_STATUS = 0x198, MSR_MISC_ENABLE = 0x1a0,
	MSR_DEBUGCTL = 0x1d9, MSR_MTRR_PHYSBASE0 = 0x200,
	MSR_MTRR_FIX64K = 0x250, MSR_MTRR_FIX16K_0 = 0x258,
	MSR_MTRR_FIX16K_1 = 0x259, MSR_MTRR_FIX4K_0 = 0x268,
	MSR_PAT = 0x277, MSR_MTRR_DEF_TYPE = 0x2ff, MSR_MC0_CTL = 0x400,
	MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC_FIRST = 0x800,
	MSR_X2APIC_LAST = 0x8ff, MSR_XSS = 0xda0, MSR_EFER = 0xc0000080,
	MSR_STAR = 0xc0000081, MSR_LSTAR = 0xc0000082, MSR_CSTAR = 0xc0000083,
	MSR_FMASK = 0xc0000084, MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE = 0xc0000101, MSR_KERNEL_GS_BASE = 0xc0000102,
	MSR_TSC_AUX = 0xc0000103,
};
/* clang-format on */

/** Is (gva) canonical with (width) implemented bits (48, or 57)? */
static inline bool is_canonical(uint64_t gva, unsigned width)
{
	return (uint64_t)sign_extend(gva, width) == gva;
}

#endif
