/*
 * The decoder's tables; included by decode.c alone.
 *
 * One row for each instruction, found by map, opcode, mandatory prefix and, for
 * VEX and EVEX, the W bit. Legacy rows from SDM volume 2 appendix A, VEX and
 * EVEX rows from the instructions' pages.
 */
#ifndef VCPU_INSN_DECODE_TABLE_H
#define VCPU_INSN_DECODE_TABLE_H

#include "vcpu/insn/decode.h"

/** How many bytes of (rm) are used. */
enum mem_kind {
	M_OP,  /* the operand size */
	M_Z,   /* ... but at most 4 */
	M_FAR, /* offset of the operand size, and a selector */
	M_DTR, /* limit and base of a descriptor table */
	M_2OP, /* two of the operand size */
	M_ENV,
	M_STATE, /* FSTENV, FSAVE */
	M_512,
	M_VL,
	M_HALF,
	M_QUARTER,
	M_EIGHTH, /* of the vector length */
	M_DUP,    /* MOVDDUP: half of 16, or all */
	M_NO,     /* none, or not told by the instruction */
	M_1,
	M_2,
	M_4,
	M_8,
	M_10,
	M_16,
	M_32,
	NR_MEM_KINDS
};

static const uint8_t mem_sizes[NR_MEM_KINDS] = {
	[M_1] = 1,   [M_2] = 2,   [M_4] = 4,   [M_8] = 8,
	[M_10] = 10, [M_16] = 16, [M_32] = 32,
};

/** The immediate operand. */
enum imm_kind {
	IMM_NO,
	IMM_I8, /* signed byte */
	IMM_U8,
	IMM_U16,
	IMM_IZ,   /* operand size, at most 4 bytes, signed */
	IMM_IV,   /* operand size */
	IMM_16_8, /* ENTER */
	IMM_FAR,
	IMM_MOFFS, /* an absolute address */
	IMM_ONE,
	IMM_CL, /* no bytes: shift by one, by CL */
};

/** Where a row is continued. */
enum sub {
	SUB_NONE,
	SUB_REG,        /* by ModRM.reg */
	SUB_MOD_REG,    /* ... and whether mod is 3 */
	SUB_PP_MOD_REG, /* ... and the mandatory prefix */
	SUB_RM,         /* by ModRM.rm */
	SUB_MODE,       /* 64-bit mode or not */
	SUB_W,          /* by ModRM.reg and W */
	SUB_X87,
	SUB_SSE, /* in two_byte[]: by mandatory prefix, in sse_0f[] */
};

/** A row. What is zero in a row that another leads to is as in that one. */
struct entry {
	uint16_t op; /* enum insn_op, or with (sub) an index of groups[] */
	uint8_t form;
	uint8_t feature;
	uint8_t mem;
	uint8_t imm;
	uint8_t sub;
	uint8_t bcast; /* EVEX: element size of broadcasts, 0: not allowed */
	uint64_t attr;
};

/* Tables, one row a line, from here on. */
/* clang-format off */

/* Attributes. Those of enum insn_flag, in short: */
#define A_PUBLIC 0x1ffffULL
#define R        INSN_READ_MEM
#define W        INSN_WRITE_MEM
#define RW       (R | W)
#define PV       INSN_PRIV
#define BR       (INSN_BRANCH | INSN_END)
#define END      INSN_END
#define VX       INSN_VECTOR
#define FP       INSN_X87
#define AL       INSN_ALIGNED
#define ELEM     INSN_ELEMENTS
#define A_MODRM  INSN_MODRM
/* and the decoder's own: */
#define ATTR(n)    (1ULL << (17 + (n)))
#define BY         ATTR(0)  /* byte operands */
#define LK         ATTR(1)  /* LOCK allowed with a memory operand */
#define A_D64      ATTR(2)  /* operand size 8 by default in 64-bit mode */
#define A_F64      ATTR(3)  /* ... always */
#define A_I64      ATTR(4)  /* invalid in 64-bit mode */
#define A_O64      ATTR(5)  /* only in 64-bit mode */
#define A_NP       ATTR(6)  /* none of 66, F2, F3 */
#define A_REG_ONLY ATTR(7)  /* ModRM.mod 3 */
#define A_MEM_ONLY ATTR(8)  /* ... not 3 */
#define A_MOD3     ATTR(9)  /* ModRM.mod ignored: taken as 3 */
#define A_MAX4     ATTR(10) /* operand size at most 4 */
#define A_NO66     ATTR(11) /* 66 is no operand size prefix */
#define A_OPREG    ATTR(12) /* (rm) is in the opcode */
#define A_ACC      ATTR(13) /* (rm) is the accumulator */
#define A_COND     ATTR(14) /* condition in the opcode */
#define A_RM8      ATTR(15) /* (rm) is a byte, (reg) not */
#define A_NOV      ATTR(16) /* vvvv unused */
#define A_NOV_MEM  ATTR(17) /* ... with a memory operand */
#define A_AVX2     ATTR(18) /* 256 bits need a later feature: check_vex() */
#define A_NOT_L0   ATTR(19) /* vector length of 16 bytes not allowed */
#define A_NOT_L1   ATTR(20) /* ... 32 */
#define A_NOT_L2   ATTR(21) /* ... 64 */
#define A_LIG      ATTR(22) /* length ignored */
#define A_RC       ATTR(23) /* embedded rounding allowed */
#define A_SAE      ATTR(24) /* exception suppression allowed */
#define A_K        ATTR(25) /* may have an opmask */
#define A_Z        ATTR(26) /* ... zeroing */
#define A_KREQ     ATTR(27) /* must have one */
#define A_T1S      ATTR(28) /* disp8 counts elements of 4 or 8 bytes (W) */
#define A_T1B      ATTR(29) /* ... of 1 or 2 */
#define A_VSIB     ATTR(30)
#define A_KREG     ATTR(31) /* (reg) is an opmask register */
#define A_KV       ATTR(32) /* (vvvv) is one */
#define A_RDI      ATTR(33) /* memory operand at RDI */
#define A_DISTINCT ATTR(35) /* (reg) is none of the other registers */
#define A_AVX2_REG ATTR(34) /* with a register operand AVX2 */

/* Short names of combinations. */
#define L0   (A_NOT_L1 | A_NOT_L2)
#define L1   (A_NOT_L0 | A_NOT_L2)
#define L2   (A_NOT_L0 | A_NOT_L1)
#define L12  A_NOT_L0
#define LIG  A_LIG
#define NV   A_NOV
#define NVM  A_NOV_MEM
#define KZ   (A_K | A_Z)
#define K    A_K
#define RC   A_RC
#define SAE  A_SAE
#define MO   A_MEM_ONLY
#define RO   A_REG_ONLY
#define I2   A_AVX2
#define D64  A_D64
#define F64  A_F64
#define I64  A_I64
#define O64  A_O64
#define NP_  A_NP
#define MAX4 A_MAX4

/* Indices: mandatory prefixes, and W. */
#define PP_NP          0
#define PP_66          1
#define PP_F3          2
#define PP_F2          3
#define W_W0(opc, pp)  [(opc) << 3 | (pp) << 1]
#define W_W1(opc, pp)  [(opc) << 3 | (pp) << 1 | 1]
#define W_WIG(opc, pp) [(opc) << 3 | (pp) << 1 ... ((opc) << 3 | (pp) << 1 | 1)]

/* Rows of integer and system instructions; E without, M with ModRM. */
#define E(o, f, m, i, a) { OP_##o, FORM_##f, 0, M_##m, IMM_##i, 0, 0, a }
#define M(o, f, m, i, a) E(o, f, m, i, A_MODRM | (a))
/* the same with a CPUID feature */
#define EF(o, f, m, i, ft, a) { OP_##o, FORM_##f, FEAT_##ft, M_##m, IMM_##i, 0, 0, a }
#define MF(o, f, m, i, ft, a) EF(o, f, m, i, ft, A_MODRM | (a))
/* to a group; attributes and so on hold for all of it */
#define G(n, s, f, m, i, a) { GROUP_##n, FORM_##f, 0, M_##m, IMM_##i, SUB_##s, 0, A_MODRM | (a) }
/* to sse_0f[] */
#define P { 0, 0, 0, 0, 0, SUB_SSE, 0, A_MODRM }

/** Further tables, in groups[]. */
enum group {
	GROUP_1, GROUP_1A, GROUP_2, GROUP_3, GROUP_4, GROUP_5, GROUP_6, GROUP_7,
	GROUP_7_0, GROUP_7_1, GROUP_7_2, GROUP_7_3, GROUP_7_5, GROUP_7_7,
	GROUP_8, GROUP_9, GROUP_9_1, GROUP_11, GROUP_12, GROUP_14, GROUP_15,
	GROUP_63,
	GROUP_V12, GROUP_V14, GROUP_V15, GROUP_V17, /* VEX */
	GROUP_X12, GROUP_X13, GROUP_X13W, GROUP_X14, GROUP_X14W, /* EVEX */
	NR_GROUPS
};

/* ---- One-byte opcodes ---------------------------------------------------- */

/* ADD to CMP: (acc) is how the memory operand is accessed. */
#define ALU(opc, name, acc) \
	[(opc) + 0] = M(name, RM_REG, OP, NO, acc | BY), \
	[(opc) + 1] = M(name, RM_REG, OP, NO, acc), \
	[(opc) + 2] = M(name, REG_RM, OP, NO, R | BY), \
	[(opc) + 3] = M(name, REG_RM, OP, NO, R), \
	[(opc) + 4] = E(name, RM_IMM, OP, IZ, A_ACC | BY), \
	[(opc) + 5] = E(name, RM_IMM, OP, IZ, A_ACC)

static const struct entry one_byte[256] = {
	ALU(0x00, ADD, RW | LK),
	[0x06] = E(PUSH_SEG, REG, OP, NO, I64 | D64),
	[0x07] = E(POP_SEG, REG, OP, NO, I64 | D64 | END),
	ALU(0x08, OR, RW | LK),
	[0x0e] = E(PUSH_SEG, REG, OP, NO, I64 | D64),
	ALU(0x10, ADC, RW | LK),
	[0x16] = E(PUSH_SEG, REG, OP, NO, I64 | D64),
	[0x17] = E(POP_SEG, REG, OP, NO, I64 | D64 | END),
	ALU(0x18, SBB, RW | LK),
	[0x1e] = E(PUSH_SEG, REG, OP, NO, I64 | D64),
	[0x1f] = E(POP_SEG, REG, OP, NO, I64 | D64 | END),
	ALU(0x20, AND, RW | LK),
	[0x27] = E(DAA, NONE, OP, NO, I64),
	ALU(0x28, SUB, RW | LK),
	[0x2f] = E(DAS, NONE, OP, NO, I64),
	ALU(0x30, XOR, RW | LK),
	[0x37] = E(AAA, NONE, OP, NO, I64),
	ALU(0x38, CMP, R),
	[0x3f] = E(AAS, NONE, OP, NO, I64),
	[0x40 ... 0x47] = E(INC, RM, OP, NO, A_OPREG), /* REX in 64-bit mode */
	[0x48 ... 0x4f] = E(DEC, RM, OP, NO, A_OPREG),
	[0x50 ... 0x57] = E(PUSH, RM, OP, NO, A_OPREG | D64),
	[0x58 ... 0x5f] = E(POP, RM, OP, NO, A_OPREG | D64),
	[0x60] = E(PUSHA, NONE, OP, NO, I64),
	[0x61] = E(POPA, NONE, OP, NO, I64),
	[0x62] = M(BOUND, REG_RM, 2OP, NO, R | I64 | MO),
	[0x63] = G(63, MODE, NONE, OP, NO, 0),
	[0x68] = E(PUSH, IMM, OP, IZ, D64),
	[0x69] = M(IMUL3, REG_RM_IMM, OP, IZ, R),
	[0x6a] = E(PUSH, IMM, OP, I8, D64),
	[0x6b] = M(IMUL3, REG_RM_IMM, OP, I8, R),
	[0x6c] = E(INS, NONE, OP, NO, BY),
	[0x6d] = E(INS, NONE, OP, NO, MAX4),
	[0x6e] = E(OUTS, NONE, OP, NO, BY),
	[0x6f] = E(OUTS, NONE, OP, NO, MAX4),
	[0x70 ... 0x7f] = E(JCC, IMM, OP, I8, A_COND | F64 | BR),
	[0x80] = G(1, REG, RM_IMM, OP, IZ, BY),
	[0x81] = G(1, REG, RM_IMM, OP, IZ, 0),
	[0x82] = G(1, REG, RM_IMM, OP, IZ, BY | I64),
	[0x83] = G(1, REG, RM_IMM, OP, I8, 0),
	[0x84] = M(TEST, RM_REG, OP, NO, R | BY),
	[0x85] = M(TEST, RM_REG, OP, NO, R),
	[0x86] = M(XCHG, RM_REG, OP, NO, RW | LK | BY),
	[0x87] = M(XCHG, RM_REG, OP, NO, RW | LK),
	[0x88] = M(MOV, RM_REG, OP, NO, W | BY),
	[0x89] = M(MOV, RM_REG, OP, NO, W),
	[0x8a] = M(MOV, REG_RM, OP, NO, R | BY),
	[0x8b] = M(MOV, REG_RM, OP, NO, R),
	[0x8c] = M(MOV_FROM_SEG, RM_REG, 2, NO, W),
	[0x8d] = M(LEA, REG_RM, NO, NO, MO),
	[0x8e] = M(MOV_TO_SEG, REG_RM, 2, NO, R | END),
	[0x8f] = G(1A, REG, NONE, OP, NO, 0),
	[0x90 ... 0x97] = E(XCHG, RM_REG, OP, NO, A_OPREG),
	[0x98] = E(CBW, NONE, OP, NO, 0),
	[0x99] = E(CWD, NONE, OP, NO, 0),
	[0x9a] = E(CALL_FAR, IMM, OP, FAR, I64 | BR),
	[0x9b] = EF(FWAIT, NONE, OP, NO, FPU, 0),
	[0x9c] = E(PUSHF, NONE, OP, NO, D64),
	[0x9d] = E(POPF, NONE, OP, NO, D64 | END),
	[0x9e] = E(SAHF, NONE, OP, NO, 0),
	[0x9f] = E(LAHF, NONE, OP, NO, 0),
	[0xa0] = E(MOV, REG_RM, OP, MOFFS, R | BY),
	[0xa1] = E(MOV, REG_RM, OP, MOFFS, R),
	[0xa2] = E(MOV, RM_REG, OP, MOFFS, W | BY),
	[0xa3] = E(MOV, RM_REG, OP, MOFFS, W),
	[0xa4] = E(MOVS, NONE, OP, NO, BY),
	[0xa5] = E(MOVS, NONE, OP, NO, 0),
	[0xa6] = E(CMPS, NONE, OP, NO, BY),
	[0xa7] = E(CMPS, NONE, OP, NO, 0),
	[0xa8] = E(TEST, RM_IMM, OP, IZ, A_ACC | BY),
	[0xa9] = E(TEST, RM_IMM, OP, IZ, A_ACC),
	[0xaa] = E(STOS, NONE, OP, NO, BY),
	[0xab] = E(STOS, NONE, OP, NO, 0),
	[0xac] = E(LODS, NONE, OP, NO, BY),
	[0xad] = E(LODS, NONE, OP, NO, 0),
	[0xae] = E(SCAS, NONE, OP, NO, BY),
	[0xaf] = E(SCAS, NONE, OP, NO, 0),
	[0xb0 ... 0xb7] = E(MOV, RM_IMM, OP, IZ, A_OPREG | BY),
	[0xb8 ... 0xbf] = E(MOV, RM_IMM, OP, IV, A_OPREG),
	[0xc0] = G(2, REG, RM_IMM, OP, U8, BY),
	[0xc1] = G(2, REG, RM_IMM, OP, U8, 0),
	[0xc2] = E(RET, IMM, OP, U16, F64 | BR),
	[0xc3] = E(RET, NONE, OP, NO, F64 | BR),
	[0xc4] = M(LOAD_FAR, REG_RM, FAR, NO, R | I64 | MO),
	[0xc5] = M(LOAD_FAR, REG_RM, FAR, NO, R | I64 | MO),
	[0xc6] = G(11, REG, RM_IMM, OP, IZ, W | BY),
	[0xc7] = G(11, REG, RM_IMM, OP, IZ, W),
	[0xc8] = E(ENTER, IMM, OP, 16_8, D64),
	[0xc9] = E(LEAVE, NONE, OP, NO, D64),
	[0xca] = E(RET_FAR, IMM, OP, U16, BR),
	[0xcb] = E(RET_FAR, NONE, OP, NO, BR),
	[0xcc] = E(INT3, NONE, OP, NO, BR),
	[0xcd] = E(INT, IMM, OP, U8, BR),
	[0xce] = E(INTO, NONE, OP, NO, I64 | BR),
	[0xcf] = E(IRET, NONE, OP, NO, BR),
	[0xd0] = G(2, REG, RM_IMM, OP, ONE, BY),
	[0xd1] = G(2, REG, RM_IMM, OP, ONE, 0),
	[0xd2] = G(2, REG, RM_CL, OP, CL, BY),
	[0xd3] = G(2, REG, RM_CL, OP, CL, 0),
	[0xd4] = E(AAM, IMM, OP, U8, I64),
	[0xd5] = E(AAD, IMM, OP, U8, I64),
	[0xd6] = E(SALC, NONE, OP, NO, I64),
	[0xd7] = E(XLAT, NONE, OP, NO, BY),
	[0xd8 ... 0xdf] = { 0, FORM_VEC, FEAT_FPU, 0, 0, SUB_X87, 0, A_MODRM | FP },
	[0xe0] = E(LOOPNE, IMM, OP, I8, F64 | BR),
	[0xe1] = E(LOOPE, IMM, OP, I8, F64 | BR),
	[0xe2] = E(LOOP, IMM, OP, I8, F64 | BR),
	[0xe3] = E(JCXZ, IMM, OP, I8, F64 | BR),
	[0xe4] = E(IN, RM_IMM, OP, U8, A_ACC | BY),
	[0xe5] = E(IN, RM_IMM, OP, U8, A_ACC | MAX4),
	[0xe6] = E(OUT, RM_IMM, OP, U8, A_ACC | BY),
	[0xe7] = E(OUT, RM_IMM, OP, U8, A_ACC | MAX4),
	[0xe8] = E(CALL, IMM, OP, IZ, F64 | BR),
	[0xe9] = E(JMP, IMM, OP, IZ, F64 | BR),
	[0xea] = E(JMP_FAR, IMM, OP, FAR, I64 | BR),
	[0xeb] = E(JMP, IMM, OP, I8, F64 | BR),
	[0xec] = E(IN, RM, OP, NO, A_ACC | BY),
	[0xed] = E(IN, RM, OP, NO, A_ACC | MAX4),
	[0xee] = E(OUT, RM, OP, NO, A_ACC | BY),
	[0xef] = E(OUT, RM, OP, NO, A_ACC | MAX4),
	[0xf1] = E(INT1, NONE, OP, NO, BR),
	[0xf4] = E(HLT, NONE, OP, NO, PV | END),
	[0xf5] = E(CMC, NONE, OP, NO, 0),
	[0xf6] = G(3, REG, RM, OP, NO, BY),
	[0xf7] = G(3, REG, RM, OP, NO, 0),
	[0xf8] = E(CLC, NONE, OP, NO, 0),
	[0xf9] = E(STC, NONE, OP, NO, 0),
	[0xfa] = E(CLI, NONE, OP, NO, END),
	[0xfb] = E(STI, NONE, OP, NO, END),
	[0xfc] = E(CLD, NONE, OP, NO, 0),
	[0xfd] = E(STD, NONE, OP, NO, 0),
	[0xfe] = G(4, REG, RM, OP, NO, BY),
	[0xff] = G(5, REG, RM, OP, NO, 0),
};

/* ---- Two-byte opcodes, 0F ------------------------------------------------ */

static const struct entry two_byte[256] = {
	[0x00] = G(6, REG, RM, 2, NO, 0),
	[0x01] = G(7, MOD_REG, RM, NO, NO, 0),
	[0x02] = M(LAR, REG_RM, 2, NO, R),
	[0x03] = M(LSL, REG_RM, 2, NO, R),
	[0x05] = EF(SYSCALL, NONE, OP, NO, LM, O64 | BR),
	[0x06] = E(CLTS, NONE, OP, NO, PV | END),
	[0x07] = EF(SYSRET, NONE, OP, NO, LM, O64 | BR | PV | A_NO66),
	[0x08] = E(INVD, NONE, OP, NO, PV | END),
	[0x09] = E(WBINVD, NONE, OP, NO, PV | END),
	[0x0b] = E(UD, NONE, OP, NO, END),
	[0x0d] = MF(NOP, RM, NO, NO, PREFETCHW, 0),
	[0x10 ... 0x17] = P,
	[0x18 ... 0x1f] = M(NOP, RM, NO, NO, 0),
	[0x20] = M(MOV_FROM_CR, RM_REG, NO, NO, PV | A_MOD3),
	[0x21] = M(MOV_FROM_DR, RM_REG, NO, NO, PV | A_MOD3),
	[0x22] = M(MOV_TO_CR, REG_RM, NO, NO, PV | A_MOD3 | END),
	[0x23] = M(MOV_TO_DR, REG_RM, NO, NO, PV | A_MOD3 | END),
	[0x28 ... 0x2f] = P,
	[0x30] = E(WRMSR, NONE, OP, NO, PV | END),
	[0x31] = E(RDTSC, NONE, OP, NO, 0),
	[0x32] = E(RDMSR, NONE, OP, NO, PV),
	[0x33] = E(RDPMC, NONE, OP, NO, 0),
	[0x34] = EF(SYSENTER, NONE, OP, NO, SEP, BR),
	[0x35] = EF(SYSEXIT, NONE, OP, NO, SEP, BR | PV | A_NO66),
	[0x40 ... 0x4f] = MF(CMOVCC, REG_RM, OP, NO, CMOV, R | A_COND),
	[0x50 ... 0x76] = P,
	[0x77] = { 0, 0, 0, 0, 0, SUB_SSE, 0, 0 },
	[0x78 ... 0x7f] = P,
	[0x80 ... 0x8f] = E(JCC, IMM, OP, IZ, A_COND | F64 | BR),
	[0x90 ... 0x9f] = M(SETCC, RM, OP, NO, W | BY | A_COND),
	[0xa0] = E(PUSH_SEG, REG, OP, NO, D64),
	[0xa1] = E(POP_SEG, REG, OP, NO, D64 | END),
	[0xa2] = E(CPUID, NONE, OP, NO, 0),
	[0xa3] = M(BT, RM_REG, OP, NO, R),
	[0xa4] = M(SHLD, RM_REG_IMM, OP, U8, RW),
	[0xa5] = M(SHLD, RM_REG_CL, OP, CL, RW),
	[0xa8] = E(PUSH_SEG, REG, OP, NO, D64),
	[0xa9] = E(POP_SEG, REG, OP, NO, D64 | END),
	[0xab] = M(BTS, RM_REG, OP, NO, RW | LK),
	[0xac] = M(SHRD, RM_REG_IMM, OP, U8, RW),
	[0xad] = M(SHRD, RM_REG_CL, OP, CL, RW),
	[0xae] = G(15, PP_MOD_REG, RM, OP, NO, 0),
	[0xaf] = M(IMUL2, REG_RM, OP, NO, R),
	[0xb0] = M(CMPXCHG, RM_REG, OP, NO, RW | LK | BY),
	[0xb1] = M(CMPXCHG, RM_REG, OP, NO, RW | LK),
	[0xb2] = M(LOAD_FAR, REG_RM, FAR, NO, R | MO | END),
	[0xb3] = M(BTR, RM_REG, OP, NO, RW | LK),
	[0xb4] = M(LOAD_FAR, REG_RM, FAR, NO, R | MO | END),
	[0xb5] = M(LOAD_FAR, REG_RM, FAR, NO, R | MO | END),
	[0xb6] = M(MOVZX, REG_RM, 1, NO, R | A_RM8),
	[0xb7] = M(MOVZX, REG_RM, 2, NO, R),
	[0xb8] = P,
	[0xb9] = M(UD, REG_RM, NO, NO, END),
	[0xba] = G(8, REG, RM_IMM, OP, U8, 0),
	[0xbb] = M(BTC, RM_REG, OP, NO, RW | LK),
	[0xbc] = P,
	[0xbd] = P,
	[0xbe] = M(MOVSX, REG_RM, 1, NO, R | A_RM8),
	[0xbf] = M(MOVSX, REG_RM, 2, NO, R),
	[0xc0] = M(XADD, RM_REG, OP, NO, RW | LK | BY),
	[0xc1] = M(XADD, RM_REG, OP, NO, RW | LK),
	[0xc2] = P,
	[0xc3] = P,
	[0xc4 ... 0xc6] = P,
	[0xc7] = G(9, PP_MOD_REG, RM, OP, NO, 0),
	[0xc8 ... 0xcf] = E(BSWAP, RM, OP, NO, A_OPREG),
	[0xd0 ... 0xfe] = P,
	[0xff] = M(UD, REG_RM, NO, NO, END),
};

/* ---- Groups by ModRM ----------------------------------------------------- */

static const struct entry group_1[8] = {
	E(ADD, NONE, OP, NO, RW | LK), E(OR, NONE, OP, NO, RW | LK),
	E(ADC, NONE, OP, NO, RW | LK), E(SBB, NONE, OP, NO, RW | LK),
	E(AND, NONE, OP, NO, RW | LK), E(SUB, NONE, OP, NO, RW | LK),
	E(XOR, NONE, OP, NO, RW | LK), E(CMP, NONE, OP, NO, R),
};

static const struct entry group_1a[8] = { E(POP, RM, OP, NO, W | D64) };

static const struct entry group_2[8] = {
	E(ROL, NONE, OP, NO, RW), E(ROR, NONE, OP, NO, RW),
	E(RCL, NONE, OP, NO, RW), E(RCR, NONE, OP, NO, RW),
	E(SHL, NONE, OP, NO, RW), E(SHR, NONE, OP, NO, RW),
	E(SHL, NONE, OP, NO, RW), E(SAR, NONE, OP, NO, RW),
};

static const struct entry group_3[8] = {
	E(TEST, RM_IMM, OP, IZ, R), E(TEST, RM_IMM, OP, IZ, R),
	E(NOT, RM, OP, NO, RW | LK), E(NEG, RM, OP, NO, RW | LK),
	E(MUL, RM, OP, NO, R), E(IMUL1, RM, OP, NO, R),
	E(DIV, RM, OP, NO, R), E(IDIV, RM, OP, NO, R),
};

static const struct entry group_4[8] = {
	E(INC, RM, OP, NO, RW | LK),
	E(DEC, RM, OP, NO, RW | LK),
};

static const struct entry group_5[8] = {
	E(INC, RM, OP, NO, RW | LK),
	E(DEC, RM, OP, NO, RW | LK),
	E(CALL_IND, RM, OP, NO, R | F64 | BR),
	E(CALL_FAR_IND, RM, FAR, NO, R | MO | BR),
	E(JMP_IND, RM, OP, NO, R | F64 | BR),
	E(JMP_FAR_IND, RM, FAR, NO, R | MO | BR),
	E(PUSH, RM, OP, NO, R | D64),
};

static const struct entry group_6[8] = {
	E(SLDT, RM, OP, NO, W), E(STR, RM, OP, NO, W),
	E(LLDT, RM, OP, NO, R | PV), E(LTR, RM, OP, NO, R | PV),
	E(VERR, RM, OP, NO, R), E(VERW, RM, OP, NO, R),
};

static const struct entry group_7[16] = {
	E(SGDT, RM, DTR, NO, W | D64),
	E(SIDT, RM, DTR, NO, W | D64),
	E(LGDT, RM, DTR, NO, R | PV | D64),
	E(LIDT, RM, DTR, NO, R | PV | D64),
	E(SMSW, RM, 2, NO, W),
	[6] = E(LMSW, RM, 2, NO, R | PV | END),
	[7] = E(INVLPG, RM, NO, NO, PV | END),
	[8] = G(7_0, RM, NONE, OP, NO, 0),
	G(7_1, RM, NONE, OP, NO, 0),
	G(7_2, RM, NONE, OP, NO, 0),
	G(7_3, RM, NONE, OP, NO, 0),
	[12] = E(SMSW, RM, 2, NO, 0),
	[13] = G(7_5, RM, NONE, OP, NO, 0),
	[14] = E(LMSW, RM, 2, NO, PV | END),
	[15] = G(7_7, RM, NONE, OP, NO, 0),
};

static const struct entry group_7_0[8] = {
	[1] = E(VMCALL, NONE, OP, NO, NP_ | END),
};

static const struct entry group_7_1[8] = {
	EF(MONITOR, NONE, OP, NO, MONITOR, NP_),
	EF(MWAIT, NONE, OP, NO, MONITOR, NP_ | END),
	EF(CLAC, NONE, OP, NO, SMAP, NP_ | END),
	EF(STAC, NONE, OP, NO, SMAP, NP_ | END),
};

static const struct entry group_7_2[8] = {
	EF(XGETBV, NONE, OP, NO, XSAVE, NP_),
	EF(XSETBV, NONE, OP, NO, XSAVE, NP_ | PV | END),
};

static const struct entry group_7_3[8] = {
	[1] = E(VMMCALL, NONE, OP, NO, END),
};

static const struct entry group_7_5[8] = {
	EF(SERIALIZE, NONE, OP, NO, SERIALIZE, NP_ | END),
};

static const struct entry group_7_7[8] = {
	EF(SWAPGS, NONE, OP, NO, LM, O64 | PV),
	EF(RDTSCP, NONE, OP, NO, RDTSCP, 0),
};

static const struct entry group_8[8] = {
	[4] = E(BT, NONE, OP, NO, R),
	E(BTS, NONE, OP, NO, RW | LK),
	E(BTR, NONE, OP, NO, RW | LK),
	E(BTC, NONE, OP, NO, RW | LK),
};

/* 0F C7 /1 by W */
static const struct entry group_9_1[16] = {
	[2] = EF(CMPXCHG8B, RM, 8, NO, CX8, RW | LK | A_NO66),
	[3] = EF(CMPXCHG16B, RM, 16, NO, CX16, RW | LK | AL | A_NO66),
};

static const struct entry group_9[64] = {
	[0x00 | 1] = G(9_1, W, RM, OP, NO, 0),
	[0x10 | 1] = G(9_1, W, RM, OP, NO, 0),
	[0x20 | 1] = G(9_1, W, RM, OP, NO, 0),
	[0x30 | 1] = G(9_1, W, RM, OP, NO, 0),
	[0x00 | 4] = EF(XSAVEC, RM, NO, NO, XSAVEC, W),
	[0x08 | 6] = EF(NATIVE, RM, OP, NO, RDRAND, 0),
	[0x18 | 6] = EF(NATIVE, RM, OP, NO, RDRAND, 0),
	[0x08 | 7] = EF(NATIVE, RM, OP, NO, RDSEED, 0),
	[0x18 | 7] = EF(NATIVE, RM, OP, NO, RDSEED, 0),
	[0x28 | 7] = EF(RDPID, RM, OP, NO, RDPID, F64 | A_NO66),
};

static const struct entry group_11[8] = {
	E(MOV, NONE, OP, NO, 0),
};

/* MMX and SSE2 shifts by an immediate, 0F 71 to 73 */
#define SHIFT_M EF(NATIVE, VEC, NO, U8, MMX, RO | FP)
#define SHIFT_X EF(NATIVE, VEC, NO, U8, SSE2, RO | VX)

static const struct entry group_12[64] = {
	[0x08 | 2] = SHIFT_M, [0x08 | 4] = SHIFT_M, [0x08 | 6] = SHIFT_M,
	[0x18 | 2] = SHIFT_X, [0x18 | 4] = SHIFT_X, [0x18 | 6] = SHIFT_X,
};

static const struct entry group_14[64] = {
	[0x08 | 2] = SHIFT_M, [0x08 | 6] = SHIFT_M, [0x18 | 2] = SHIFT_X,
	[0x18 | 3] = SHIFT_X, [0x18 | 6] = SHIFT_X, [0x18 | 7] = SHIFT_X,
};

/* 0F AE: by prefix (10h: 66, 20h: F3), register (8), ModRM.reg */
static const struct entry group_15[64] = {
	[0x00 | 0] = EF(FXSAVE, RM, 512, NO, FXSR, W),
	[0x00 | 1] = EF(FXRSTOR, RM, 512, NO, FXSR, R),
	[0x00 | 2] = EF(NATIVE, VEC, 4, NO, SSE, R | VX),
	[0x00 | 3] = EF(NATIVE, VEC, 4, NO, SSE, W | VX),
	[0x00 | 4] = EF(XSAVE, RM, NO, NO, XSAVE, RW),
	[0x00 | 5] = EF(XRSTOR, RM, NO, NO, XSAVE, R),
	[0x00 | 6] = EF(XSAVEOPT, RM, NO, NO, XSAVEOPT, RW),
	[0x00 | 7] = EF(CLFLUSH, RM, 1, NO, CLFLUSH, R),
	[0x10 | 6] = EF(CLFLUSH, RM, 1, NO, CLWB, R),
	[0x10 | 7] = EF(CLFLUSH, RM, 1, NO, CLFLUSHOPT, R),
	[0x08 | 5] = EF(NATIVE, NONE, NO, NO, SSE2, 0), /* LFENCE */
	[0x08 | 6] = EF(NATIVE, NONE, NO, NO, SSE2, 0), /* MFENCE */
	[0x08 | 7] = EF(NATIVE, NONE, NO, NO, SSE, 0), /* SFENCE */
	[0x28 | 0] = EF(RDFSBASE, RM, OP, NO, FSGSBASE, O64 | A_NO66),
	[0x28 | 1] = EF(RDGSBASE, RM, OP, NO, FSGSBASE, O64 | A_NO66),
	[0x28 | 2] = EF(WRFSBASE, RM, OP, NO, FSGSBASE, O64 | A_NO66),
	[0x28 | 3] = EF(WRGSBASE, RM, OP, NO, FSGSBASE, O64 | A_NO66),
};

static const struct entry group_63[2] = {
	M(ARPL, RM_REG, 2, NO, RW), M(MOVSX, REG_RM, Z, NO, R), /* MOVSXD */
};

/* ---- x87 (SDM volume 2, A.5) --------------------------------------------- */

#define F(m, a)  { OP_NATIVE, 0, 0, M_##m, 0, 0, 0, a }
#define F3(m, a) { OP_NATIVE, 0, FEAT_SSE3, M_##m, 0, 0, 0, a } /* FISTTP */

static const struct entry x87_mem[64] = {
	/* D8 */ F(4, R), F(4, R), F(4, R), F(4, R), F(4, R), F(4, R), F(4, R), F(4, R),
	/* D9 */ F(4, R), { 0 }, F(4, W), F(4, W), F(ENV, R), F(2, R), F(ENV, W), F(2, W),
	/* DA */ F(4, R), F(4, R), F(4, R), F(4, R), F(4, R), F(4, R), F(4, R), F(4, R),
	/* DB */ F(4, R), F3(4, W), F(4, W), F(4, W), { 0 }, F(10, R), { 0 }, F(10, W),
	/* DC */ F(8, R), F(8, R), F(8, R), F(8, R), F(8, R), F(8, R), F(8, R), F(8, R),
	/* DD */ F(8, R), F3(8, W), F(8, W), F(8, W), F(STATE, R), { 0 }, F(STATE, W), F(2, W),
	/* DE */ F(2, R), F(2, R), F(2, R), F(2, R), F(2, R), F(2, R), F(2, R), F(2, R),
	/* DF */ F(2, R), F3(2, W), F(2, W), F(2, W), F(10, R), F(8, R), F(10, W), F(8, W),
};

/* With a register: a bit for each value of ModRM.rm that exists. */
static const uint8_t x87_reg[64] = {
	/* D8 */ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	/* D9 */ 0xff, 0xff, 0x01, 0xff, 0x33, 0x7f, 0xff, 0xff,
	/* DA */ 0xff, 0xff, 0xff, 0xff, 0x00, 0x02, 0x00, 0x00,
	/* DB */ 0xff, 0xff, 0xff, 0xff, 0x1f, 0xff, 0xff, 0x00,
	/* DC */ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	/* DD */ 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x00,
	/* DE */ 0xff, 0xff, 0xff, 0x02, 0xff, 0xff, 0xff, 0xff,
	/* DF */ 0xff, 0xff, 0xff, 0xff, 0x01, 0xff, 0xff, 0x00,
};

/* ---- MMX and SSE: 0F, 0F38, 0F3A by mandatory prefix --------------------- */

#define S_(opc, pp, f, m, i, ft, a) [(opc) << 2 | PP_##pp] = \
	{ OP_NATIVE, FORM_##f, FEAT_##ft, M_##m, IMM_##i, 0, 0, A_MODRM | A_NO66 | (a) }
/* a vector instruction; one on MMX registers; both; a scalar integer one */
#define S(opc, pp, f, m, i, ft, a)  S_(opc, pp, f, m, i, ft, VX | (a))
#define SM(opc, pp, f, m, i, ft, a) S_(opc, pp, f, m, i, ft, FP | (a))
#define SB(opc, pp, f, m, i, ft, a) S_(opc, pp, f, m, i, ft, VX | FP | (a))
#define SI(opc, pp, f, m, i, ft, a) S_(opc, pp, f, m, i, ft, a)
/* packed single and double; all four; packed and scalar single */
#define PSPD(opc, i)   S(opc, NP, VEC, 16, i, SSE, R | AL), S(opc, 66, VEC, 16, i, SSE2, R | AL)
#define PSS4(opc, i)   PSPD(opc, i), S(opc, F3, VEC, 4, i, SSE, R), S(opc, F2, VEC, 8, i, SSE2, R)
#define PSSS(opc)      S(opc, NP, VEC, 16, NO, SSE, R | AL), S(opc, F3, VEC, 4, NO, SSE, R)
/* an MMX instruction and its SSE2 twin */
#define PI(opc, ft)    SM(opc, NP, VEC, 8, NO, ft, R), S(opc, 66, VEC, 16, NO, SSE2, R | AL)
#define SSSE3(opc)     SM(opc, NP, VEC, 8, NO, SSSE3, R), S(opc, 66, VEC, 16, NO, SSSE3, R | AL)
/* prefix 66 alone, without and with an immediate */
#define S66(opc, ft)   S(opc, 66, VEC, 16, NO, ft, R | AL)
#define S66I(opc, ft)  S(opc, 66, VEC, 16, U8, ft, R | AL)
#define GRP(opc, n)    [(opc) << 2 ... ((opc) << 2 | 3)] = G(n, PP_MOD_REG, VEC, OP, NO, A_NO66)
/* integer: with or without 66; F2 too */
#define INT2(opc, ...) [(opc) << 2] = __VA_ARGS__, [(opc) << 2 | PP_66] = __VA_ARGS__
#define INT3(opc, ...) INT2(opc, __VA_ARGS__), [(opc) << 2 | PP_F2] = __VA_ARGS__

static const struct entry sse_0f[1024] = {
	/* MOVUPS, MOVUPD, MOVSS, MOVSD */
	S(0x10, NP, VEC, 16, NO, SSE, R),
	S(0x10, 66, VEC, 16, NO, SSE2, R),
	S(0x10, F3, VEC, 4, NO, SSE, R),
	S(0x10, F2, VEC, 8, NO, SSE2, R),
	S(0x11, NP, VEC, 16, NO, SSE, W),
	S(0x11, 66, VEC, 16, NO, SSE2, W),
	S(0x11, F3, VEC, 4, NO, SSE, W),
	S(0x11, F2, VEC, 8, NO, SSE2, W),
	/* MOVLPS, MOVHLPS, MOVLPD, MOVSLDUP, MOVDDUP */
	S(0x12, NP, VEC, 8, NO, SSE, R),
	S(0x12, 66, VEC, 8, NO, SSE2, R | MO),
	S(0x12, F3, VEC, 16, NO, SSE3, R | AL),
	S(0x12, F2, VEC, 8, NO, SSE3, R),
	S(0x13, NP, VEC, 8, NO, SSE, W | MO),
	S(0x13, 66, VEC, 8, NO, SSE2, W | MO),
	PSPD(0x14, NO), PSPD(0x15, NO),
	S(0x16, NP, VEC, 8, NO, SSE, R),
	S(0x16, 66, VEC, 8, NO, SSE2, R | MO),
	S(0x16, F3, VEC, 16, NO, SSE3, R | AL),
	S(0x17, NP, VEC, 8, NO, SSE, W | MO),
	S(0x17, 66, VEC, 8, NO, SSE2, W | MO),
	PSPD(0x28, NO),
	S(0x29, NP, VEC, 16, NO, SSE, W | AL),
	S(0x29, 66, VEC, 16, NO, SSE2, W | AL),
	/* CVTPI2PS, CVTPI2PD, CVTSI2SS, CVTSI2SD */
	SB(0x2a, NP, VEC, 8, NO, SSE, R),
	SB(0x2a, 66, VEC, 8, NO, SSE2, R),
	S(0x2a, F3, VEC_RM, OP, NO, SSE, R),
	S(0x2a, F2, VEC_RM, OP, NO, SSE2, R),
	/* MOVNTPS, MOVNTPD */
	S(0x2b, NP, VEC, 16, NO, SSE, W | AL | MO),
	S(0x2b, 66, VEC, 16, NO, SSE2, W | AL | MO),
	/* CVTTPS2PI and so on */
	SB(0x2c, NP, VEC, 8, NO, SSE, R),
	SB(0x2c, 66, VEC, 16, NO, SSE2, R | AL),
	S(0x2c, F3, REG_VEC, 4, NO, SSE, R),
	S(0x2c, F2, REG_VEC, 8, NO, SSE2, R),
	SB(0x2d, NP, VEC, 8, NO, SSE, R),
	SB(0x2d, 66, VEC, 16, NO, SSE2, R | AL),
	S(0x2d, F3, REG_VEC, 4, NO, SSE, R),
	S(0x2d, F2, REG_VEC, 8, NO, SSE2, R),
	/* UCOMISS, COMISS */
	S(0x2e, NP, VEC, 4, NO, SSE, R),
	S(0x2e, 66, VEC, 8, NO, SSE2, R),
	S(0x2f, NP, VEC, 4, NO, SSE, R),
	S(0x2f, 66, VEC, 8, NO, SSE2, R),
	S(0x50, NP, REG_VEC, NO, NO, SSE, RO),
	S(0x50, 66, REG_VEC, NO, NO, SSE2, RO),
	PSS4(0x51, NO),
	PSSS(0x52), PSSS(0x53),
	PSPD(0x54, NO), PSPD(0x55, NO), PSPD(0x56, NO), PSPD(0x57, NO),
	PSS4(0x58, NO), PSS4(0x59, NO),
	/* CVTPS2PD and so on */
	S(0x5a, NP, VEC, 8, NO, SSE2, R),
	S(0x5a, 66, VEC, 16, NO, SSE2, R | AL),
	S(0x5a, F3, VEC, 4, NO, SSE2, R),
	S(0x5a, F2, VEC, 8, NO, SSE2, R),
	S(0x5b, NP, VEC, 16, NO, SSE2, R | AL),
	S(0x5b, 66, VEC, 16, NO, SSE2, R | AL),
	S(0x5b, F3, VEC, 16, NO, SSE2, R | AL),
	PSS4(0x5c, NO), PSS4(0x5d, NO), PSS4(0x5e, NO), PSS4(0x5f, NO),
	/* PUNPCKL: a half of the MMX operand */
	SM(0x60, NP, VEC, 4, NO, MMX, R),
	S66(0x60, SSE2),
	SM(0x61, NP, VEC, 4, NO, MMX, R),
	S66(0x61, SSE2),
	SM(0x62, NP, VEC, 4, NO, MMX, R),
	S66(0x62, SSE2),
	PI(0x63, MMX), PI(0x64, MMX), PI(0x65, MMX), PI(0x66, MMX), PI(0x67, MMX), PI(0x68, MMX),
	PI(0x69, MMX), PI(0x6a, MMX), PI(0x6b, MMX),
	S66(0x6c, SSE2), S66(0x6d, SSE2),
	/* MOVD, MOVQ, MOVDQA, MOVDQU */
	SM(0x6e, NP, VEC_RM, OP, NO, MMX, R),
	S(0x6e, 66, VEC_RM, OP, NO, SSE2, R),
	SM(0x6f, NP, VEC, 8, NO, MMX, R),
	S66(0x6f, SSE2),
	S(0x6f, F3, VEC, 16, NO, SSE2, R),
	SM(0x70, NP, VEC, 8, U8, SSE, R),
	S66I(0x70, SSE2),
	S(0x70, F3, VEC, 16, U8, SSE2, R | AL),
	S(0x70, F2, VEC, 16, U8, SSE2, R | AL),
	GRP(0x71, 12), GRP(0x72, 12), GRP(0x73, 14),
	PI(0x74, MMX), PI(0x75, MMX), PI(0x76, MMX),
	[0x77 << 2] = EF(NATIVE, VEC, NO, NO, MMX, FP), /* EMMS */
	S66(0x7c, SSE3),
	S(0x7c, F2, VEC, 16, NO, SSE3, R | AL),
	S66(0x7d, SSE3),
	S(0x7d, F2, VEC, 16, NO, SSE3, R | AL),
	SM(0x7e, NP, RM_VEC, OP, NO, MMX, W),
	S(0x7e, 66, RM_VEC, OP, NO, SSE2, W),
	S(0x7e, F3, VEC, 8, NO, SSE2, R),
	SM(0x7f, NP, VEC, 8, NO, MMX, W),
	S(0x7f, 66, VEC, 16, NO, SSE2, W | AL),
	S(0x7f, F3, VEC, 16, NO, SSE2, W),
	/* POPCNT; BSF, TZCNT; BSR, LZCNT */
	[0xb8 << 2 | PP_F3] = MF(NATIVE, REG_RM, OP, NO, POPCNT, R),
	INT3(0xbc, M(BSF, REG_RM, OP, NO, R)),
	[0xbc << 2 | PP_F3] = MF(NATIVE, REG_RM, OP, NO, BMI1, R),
	INT3(0xbd, M(BSR, REG_RM, OP, NO, R)),
	[0xbd << 2 | PP_F3] = MF(NATIVE, REG_RM, OP, NO, LZCNT, R),
	PSS4(0xc2, U8),
	SI(0xc3, NP, RM_REG, OP, NO, SSE2, W | MO), /* MOVNTI */
	SB(0xc4, NP, VEC_RM, 2, U8, SSE, R),
	S(0xc4, 66, VEC_RM, 2, U8, SSE2, R),
	SB(0xc5, NP, REG_VEC, NO, U8, SSE, RO),
	S(0xc5, 66, REG_VEC, NO, U8, SSE2, RO),
	PSPD(0xc6, U8),
	S66(0xd0, SSE3),
	S(0xd0, F2, VEC, 16, NO, SSE3, R | AL),
	PI(0xd1, MMX), PI(0xd2, MMX), PI(0xd3, MMX), PI(0xd4, SSE2), PI(0xd5, MMX),
	/* MOVQ, MOVQ2DQ, MOVDQ2Q */
	S(0xd6, 66, VEC, 8, NO, SSE2, W),
	SB(0xd6, F3, VEC, NO, NO, SSE2, RO),
	SB(0xd6, F2, VEC, NO, NO, SSE2, RO),
	SM(0xd7, NP, REG_VEC, NO, NO, SSE, RO),
	S(0xd7, 66, REG_VEC, NO, NO, SSE2, RO),
	PI(0xd8, MMX), PI(0xd9, MMX), PI(0xda, SSE), PI(0xdb, MMX), PI(0xdc, MMX), PI(0xdd, MMX),
	PI(0xde, SSE), PI(0xdf, MMX), PI(0xe0, SSE), PI(0xe1, MMX), PI(0xe2, MMX), PI(0xe3, SSE),
	PI(0xe4, SSE), PI(0xe5, MMX),
	/* CVTTPD2DQ, CVTDQ2PD, CVTPD2DQ */
	S66(0xe6, SSE2),
	S(0xe6, F3, VEC, 8, NO, SSE2, R),
	S(0xe6, F2, VEC, 16, NO, SSE2, R | AL),
	SM(0xe7, NP, VEC, 8, NO, SSE, W | MO),
	S(0xe7, 66, VEC, 16, NO, SSE2, W | AL | MO),
	PI(0xe8, MMX), PI(0xe9, MMX), PI(0xea, SSE), PI(0xeb, MMX), PI(0xec, MMX), PI(0xed, MMX),
	PI(0xee, SSE), PI(0xef, MMX),
	S(0xf0, F2, VEC, 16, NO, SSE3, R | MO),
	PI(0xf1, MMX), PI(0xf2, MMX), PI(0xf3, MMX), PI(0xf4, SSE2), PI(0xf5, MMX), PI(0xf6, SSE),
	/* MASKMOVQ, MASKMOVDQU */
	[0xf7 << 2] = EF(MASKMOV, VEC, 8, NO, SSE, A_MODRM | A_NO66 | FP | RO | W | ELEM | A_RDI),
	[0xf7 << 2 | PP_66] = EF(MASKMOV, VEC, 16, NO, SSE2, A_MODRM | A_NO66 | VX | RO | W | ELEM | A_RDI),
	PI(0xf8, MMX), PI(0xf9, MMX), PI(0xfa, MMX), PI(0xfb, SSE2), PI(0xfc, MMX), PI(0xfd, MMX),
	PI(0xfe, MMX),
};

static const struct entry sse_0f38[1024] = {
	SSSE3(0x00), SSSE3(0x01), SSSE3(0x02), SSSE3(0x03), SSSE3(0x04), SSSE3(0x05), SSSE3(0x06),
	SSSE3(0x07), SSSE3(0x08), SSSE3(0x09), SSSE3(0x0a), SSSE3(0x0b),
	S66(0x10, SSE4_1), S66(0x14, SSE4_1), S66(0x15, SSE4_1), S66(0x17, SSE4_1),
	SSSE3(0x1c), SSSE3(0x1d), SSSE3(0x1e),
	/* PMOVSX, PMOVZX */
	S(0x20, 66, VEC, 8, NO, SSE4_1, R),
	S(0x21, 66, VEC, 4, NO, SSE4_1, R),
	S(0x22, 66, VEC, 2, NO, SSE4_1, R),
	S(0x23, 66, VEC, 8, NO, SSE4_1, R),
	S(0x24, 66, VEC, 4, NO, SSE4_1, R),
	S(0x25, 66, VEC, 8, NO, SSE4_1, R),
	S66(0x28, SSE4_1), S66(0x29, SSE4_1),
	S(0x2a, 66, VEC, 16, NO, SSE4_1, R | AL | MO),
	S66(0x2b, SSE4_1),
	S(0x30, 66, VEC, 8, NO, SSE4_1, R),
	S(0x31, 66, VEC, 4, NO, SSE4_1, R),
	S(0x32, 66, VEC, 2, NO, SSE4_1, R),
	S(0x33, 66, VEC, 8, NO, SSE4_1, R),
	S(0x34, 66, VEC, 4, NO, SSE4_1, R),
	S(0x35, 66, VEC, 8, NO, SSE4_1, R),
	S66(0x37, SSE4_2), S66(0x38, SSE4_1), S66(0x39, SSE4_1), S66(0x3a, SSE4_1),
	S66(0x3b, SSE4_1), S66(0x3c, SSE4_1), S66(0x3d, SSE4_1), S66(0x3e, SSE4_1),
	S66(0x3f, SSE4_1), S66(0x40, SSE4_1), S66(0x41, SSE4_1),
	[0x82 << 2 | PP_66] = MF(INVPCID, REG_RM, 16, NO, INVPCID, R | MO | PV | END | F64 | A_NO66),
	/* SHA */
	S(0xc8, NP, VEC, 16, NO, SHA, R | AL),
	S(0xc9, NP, VEC, 16, NO, SHA, R | AL),
	S(0xca, NP, VEC, 16, NO, SHA, R | AL),
	S(0xcb, NP, VEC, 16, NO, SHA, R | AL),
	S(0xcc, NP, VEC, 16, NO, SHA, R | AL),
	S(0xcd, NP, VEC, 16, NO, SHA, R | AL),
	S66(0xcf, GFNI), S66(0xdb, AES), S66(0xdc, AES), S66(0xdd, AES), S66(0xde, AES),
	S66(0xdf, AES),
	/* MOVBE, CRC32 */
	INT2(0xf0, MF(NATIVE, REG_RM, OP, NO, MOVBE, R | MO)),
	INT2(0xf1, MF(NATIVE, RM_REG, OP, NO, MOVBE, W | MO)),
	[0xf0 << 2 | PP_F2] = MF(NATIVE, REG_RM, 1, NO, SSE4_2, R | A_RM8),
	[0xf1 << 2 | PP_F2] = MF(NATIVE, REG_RM, OP, NO, SSE4_2, R),
	SI(0xf6, 66, REG_RM, OP, NO, ADX, R),
	SI(0xf6, F3, REG_RM, OP, NO, ADX, R),
	SI(0xf9, NP, RM_REG, OP, NO, MOVDIRI, W | MO),
};

static const struct entry sse_0f3a[1024] = {
	S66I(0x08, SSE4_1), S66I(0x09, SSE4_1),
	S(0x0a, 66, VEC, 4, U8, SSE4_1, R),
	S(0x0b, 66, VEC, 8, U8, SSE4_1, R),
	S66I(0x0c, SSE4_1), S66I(0x0d, SSE4_1), S66I(0x0e, SSE4_1),
	SM(0x0f, NP, VEC, 8, U8, SSSE3, R),
	S66I(0x0f, SSSE3),
	S(0x14, 66, RM_VEC, 1, U8, SSE4_1, W),
	S(0x15, 66, RM_VEC, 2, U8, SSE4_1, W),
	S(0x16, 66, RM_VEC, OP, U8, SSE4_1, W),
	S(0x17, 66, RM_VEC, 4, U8, SSE4_1, W),
	S(0x20, 66, VEC_RM, 1, U8, SSE4_1, R),
	S(0x21, 66, VEC, 4, U8, SSE4_1, R),
	S(0x22, 66, VEC_RM, OP, U8, SSE4_1, R),
	S66I(0x40, SSE4_1), S66I(0x41, SSE4_1), S66I(0x42, SSE4_1), S66I(0x44, PCLMUL),
	/* PCMPxSTRx need no alignment */
	S(0x60, 66, VEC, 16, U8, SSE4_2, R),
	S(0x61, 66, VEC, 16, U8, SSE4_2, R),
	S(0x62, 66, VEC, 16, U8, SSE4_2, R),
	S(0x63, 66, VEC, 16, U8, SSE4_2, R),
	S(0xcc, NP, VEC, 16, U8, SHA, R | AL),
	S66I(0xce, GFNI), S66I(0xcf, GFNI), S66I(0xdf, AES),
};

static const struct entry *const sse_maps[4] = {
	NULL,
	sse_0f,
	sse_0f38,
	sse_0f3a,
};

/* clang-format on */

#include "vcpu/insn/decode_vex.h"

/* clang-format off */
static const struct entry *const groups[NR_GROUPS] = {
	[GROUP_1] = group_1, [GROUP_1A] = group_1a,
	[GROUP_2] = group_2, [GROUP_3] = group_3,
	[GROUP_4] = group_4, [GROUP_5] = group_5,
	[GROUP_6] = group_6, [GROUP_7] = group_7,
	[GROUP_7_0] = group_7_0, [GROUP_7_1] = group_7_1,
	[GROUP_7_2] = group_7_2, [GROUP_7_3] = group_7_3,
	[GROUP_7_5] = group_7_5, [GROUP_7_7] = group_7_7,
	[GROUP_8] = group_8, [GROUP_9] = group_9,
	[GROUP_9_1] = group_9_1, [GROUP_11] = group_11,
	[GROUP_12] = group_12, [GROUP_14] = group_14,
	[GROUP_15] = group_15, [GROUP_63] = group_63,
	[GROUP_V12] = group_v12, [GROUP_V14] = group_v14,
	[GROUP_V15] = group_v15, [GROUP_V17] = group_v17,
	[GROUP_X12] = group_x12, [GROUP_X13] = group_x13,
	[GROUP_X13W] = group_x13w, [GROUP_X14] = group_x14,
	[GROUP_X14W] = group_x14w,
};
/* clang-format on */

#endif
