/*
 * The instruction decoder: bytes to struct insn, for 16-, 32- and 64-bit code.
 *
 * It decides what an instruction is, how long it is, which operands it has and
 * every byte of memory that it touches. What it means is said elsewhere: by
 * interp/ for integer and system instructions, by the real CPU (native.h) for
 * the rest, by bt/ for translated code.
 *
 * References: Intel SDM volume 2 (chapter 2 and appendix A), AMD APM volume 3.
 */
#ifndef VCPU_INSN_DECODE_H
#define VCPU_INSN_DECODE_H

#include "arch/x86.h"

#define INSN_MAX_LEN 15

/** Default operand and address size of the code segment. */
enum insn_mode { MODE_16, MODE_32, MODE_64 };

/* What an instruction does: (enum insn_op) has one value for every operation
 * that interp/ or bt/ treats by itself, and OP_NATIVE for all that the host's
 * CPU is asked to do. Defined by the table. */
#include "vcpu/insn/ops.h"

/** Properties, from the table. */
enum insn_flag {
	INSN_MODRM = 1 << 0,
	INSN_MEM = 1 << 1,       /* has a memory operand (by ModRM or moffs) */
	INSN_READ_MEM = 1 << 2,  /* ... that it reads */
	INSN_WRITE_MEM = 1 << 3, /* ... that it writes */
	INSN_LOCK = 1 << 4,      /* LOCK prefix (then legal), or XCHG m */
	INSN_PRIV = 1 << 5,      /* #GP(0) at CPL > 0 */
	INSN_BRANCH = 1 << 6,    /* may change RIP other than by its length */
	INSN_END = 1 << 7,       /* a block of code ends behind it */
	INSN_VECTOR = 1 << 8,   /* SSE or later: #NM on TS, needs OSFXSR/XCR0 */
	INSN_X87 = 1 << 9,      /* x87 or MMX: #NM on TS or EM */
	INSN_VEX = 1 << 10,     /* VEX or EVEX encoded */
	INSN_ALIGNED = 1 << 11, /* #GP unless aligned to (mem_size) */
	INSN_ADDR32 = 1 << 12,  /* effective address truncated to 32 bits */
	INSN_ADDR16 = 1 << 13,  /* ... or to 16 */
	INSN_RIPREL = 1 << 14,  /* base is RIP; (disp) is relative to the end */
	INSN_ELEMENTS = 1 << 15, /* touches memory element by element, faults
				    * only where its mask says so (gather,
				    * masked vector move, maskmov): (mem_size)
				    * is the whole span that it may reach, or 0
				    * when unbounded */
	INSN_EVEX = 1 << 16,     /* EVEX encoded; INSN_VEX is set too */
};

/* A segment or register number that is none. */
#define INSN_NONE 0xff

/**
 * Which explicit operands an instruction has, destination first; (rm) is a
 * register or, with INSN_MEM, the memory operand. Registers in the opcode are
 * given as (rm), and so is the accumulator of the short forms ("add al, 1",
 * "in al, dx", "xchg eax, ecx"): there is one form for all encodings. The
 * accumulator forms of MOV with an absolute address (moffs) have it as (reg).
 * Segment, control and debug registers are numbers in (reg).
 */
enum insn_form {
	FORM_NONE,       /* no operands, or implied by (op) */
	FORM_RM_REG,     /* rm, reg */
	FORM_REG_RM,     /* reg, rm */
	FORM_RM_IMM,     /* rm, imm */
	FORM_REG_RM_IMM, /* reg, rm, imm */
	FORM_RM_REG_IMM, /* rm, reg, imm */
	FORM_RM_CL,      /* rm, cl: (imm) is -1 */
	FORM_RM_REG_CL,  /* rm, reg, cl: (imm) is -1 */
	FORM_RM,         /* one operand; IN and OUT: the accumulator, port DX */
	FORM_REG,        /* PUSH_SEG, POP_SEG: segment register (reg) */
	FORM_IMM,        /* imm: PUSH, INT, RET; branches: the displacement */
	/* VEX-encoded integer instructions; (vvvv) is a general register */
	FORM_REG_V_RM,
	FORM_REG_RM_V,
	FORM_V_RM,
	/* x87 and vector instructions, with or without an immediate */
	FORM_VEC,     /* no general register but those of an address */
	FORM_VEC_RM,  /* (rm), if a register, is a general one, read */
	FORM_RM_VEC,  /* ... written */
	FORM_REG_VEC, /* (reg) is a general register, written */
};

/**
 * A decoded instruction. Registers are numbers of enum gpr. A byte register is
 * AH, CH, DH or BH where (high8) says so: then its number stays 4 to 7 (the
 * low two bits are the general register's).
 *
 * (op, form, opsize) decide most: MOVZX and MOVSX (MOVSXD too) take (mem_size)
 * bytes from (rm), register or not. SHL by one has (imm) 1. String
 * instructions, XLAT, IN and OUT have no memory operand in the sense of
 * INSN_MEM; (seg) is that of the source and (addrsize) that of the pointers.
 * MASKMOVQ and MASKMOVDQU have one with base RDI.
 */
struct insn {
	uint16_t op;      /* enum insn_op */
	uint8_t feature;  /* enum insn_feature: CPUID bit that it needs, on
			    * top of AVX with INSN_VEX, AVX512F with INSN_EVEX */
	uint8_t form;     /* enum insn_form */
	uint32_t flags;   /* enum insn_flag */
	uint8_t len;      /* bytes, prefixes included */
	uint8_t opsize;   /* operand size in bytes: 1, 2, 4, 8 */
	uint8_t addrsize; /* 2, 4, 8 */
	uint8_t seg;      /* enum seg of the memory operand, override applied */
	uint16_t mem_size; /* bytes accessed at the memory operand; 0: none
			    * (LEA, INVLPG, NOP), or what the state says (XSAVE),
			    * or see INSN_ELEMENTS */
	uint8_t base, index, scale_log2; /* of the memory operand; INSN_NONE.
			    * GATHER and SCATTER: (index) is a vector register */
	uint8_t reg;      /* ModRM.reg with REX.R (vectors: EVEX.R' too) */
	uint8_t rm;       /* ModRM.rm with REX.B if a register, or INSN_NONE */
	uint8_t cond;     /* low four opcode bits of Jcc, SETcc, CMOVcc */
	uint8_t prefixes; /* enum insn_prefix */
	uint8_t rex;      /* REX byte, or 0 */
	uint8_t high8;    /* bit 0: reg, bit 1: rm is a high byte register */
	uint8_t map;      /* 0 one-byte, 1 0F, 2 0F38, 3 0F3A, 5, 6 EVEX */
	uint8_t opcode;   /* last opcode byte */
	uint8_t modrm;
	uint8_t modrm_off;  /* offset of ModRM in the bytes; 0 when none */
	uint8_t op_off;     /* offset of the opcode byte */
	uint8_t imm_off;    /* offset of what follows the memory operand */
	uint8_t prefixes64; /* enum insn_prefix: those that the same instruction
			    * has in 64-bit mode, but for segment and 67 */
	uint8_t prefix_len; /* legacy prefixes before REX/VEX/EVEX/opcode */
	uint8_t vlen;       /* VEX, EVEX: vector length 16, 32, 64 */
	uint8_t vvvv;       /* VEX, EVEX: the extra register operand */
	uint8_t vex_w;      /* VEX, EVEX: the W bit */
	uint8_t mask;       /* EVEX: opmask register 1 to 7, 0: none */
	uint8_t mode;       /* enum insn_mode */
	uint16_t imm2; /* ENTER's level, far selector; LOAD_FAR: enum seg */
	int64_t disp;  /* displacement (EVEX: scaled), or the moffs address */
	int64_t imm;   /* immediate (sign-extended), or branch displacement;
			    * far pointers: offset, selector in (imm2) */
	uint8_t bytes[INSN_MAX_LEN];
};

/** Prefixes that were seen, as bits. */
enum insn_prefix {
	PREFIX_66 = 1 << 0,
	PREFIX_67 = 1 << 1,
	PREFIX_F2 = 1 << 2, /* of F2 and F3 only the last one counts */
	PREFIX_F3 = 1 << 3,
	PREFIX_LOCK = 1 << 4,
	PREFIX_SEG = 1 << 5,
};

/** Why bytes do not decode. */
enum insn_error {
	INSN_OK = 0,
	INSN_TRUNCATED = -1, /* more bytes are needed than were given */
	INSN_INVALID = -2,   /* #UD */
	INSN_TOO_LONG = -3,  /* over 15 bytes: #GP(0) */
};

/**
 * Decode the instruction at (bytes), of which (len) are readable, for (mode).
 * Returns INSN_OK, with (insn) complete, or another enum insn_error. Pure;
 * any thread.
 */
enum insn_error insn_decode(struct insn *insn, const uint8_t *bytes, size_t len,
			    enum insn_mode mode);

/** The name of an operation ("ADD", "NATIVE"), for traces. */
const char *insn_op_name(unsigned op);

#endif
