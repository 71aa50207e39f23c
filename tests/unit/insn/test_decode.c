/*
 * Decoded forms, operations and operands, one instruction at a time, as
 * interp/ and bt/ rely on them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"
#include "vcpu/insn/decode.h"

/** Bytes and what they mean; (rm) is a register, or NO for memory. */
struct golden {
	enum insn_mode mode;
	const char *bytes;
	uint8_t len;
	uint16_t op;
	uint8_t form, opsize;
	uint8_t reg, rm;
	uint16_t mem_size;
	uint32_t flags;
	int64_t imm;
};

#define NO   INSN_NONE
#define M_R  (INSN_MODRM | INSN_MEM | INSN_READ_MEM)
#define M_W  (INSN_MODRM | INSN_MEM | INSN_WRITE_MEM)
#define M_RW (M_R | INSN_WRITE_MEM)
#define MRM  INSN_MODRM
#define JUMP (INSN_BRANCH | INSN_END)
#define A32  INSN_ADDR32
#define A16  INSN_ADDR16
#define B(s) s, sizeof(s) - 1

/* clang-format off */
static const struct golden table[] = {
	/* mode, bytes, op, form, opsize, reg, rm, size, flags, imm */
	/* all encodings of ADD */
	{ MODE_64, B("\x00\xc8"), OP_ADD, FORM_RM_REG, 1, RCX, RAX, 1, MRM, 0 },
	{ MODE_64, B("\x48\x01\x08"), OP_ADD, FORM_RM_REG, 8, RCX, NO, 8, M_RW,
	  0 },
	{ MODE_64, B("\xf0\x48\x01\x08"), OP_ADD, FORM_RM_REG, 8, RCX, NO, 8,
	  M_RW | INSN_LOCK, 0 },
	{ MODE_64, B("\x44\x03\x08"), OP_ADD, FORM_REG_RM, 4, R9, NO, 4, M_R,
	  0 },
	{ MODE_64, B("\x04\xff"), OP_ADD, FORM_RM_IMM, 1, 0, RAX, 1, 0, -1 },
	{ MODE_64, B("\x66\x05\x34\x12"), OP_ADD, FORM_RM_IMM, 2, 0, RAX, 2, 0,
	  0x1234 },
	{ MODE_64, B("\x48\x05\0\0\0\x80"), OP_ADD, FORM_RM_IMM, 8, 0, RAX, 8,
	  0, INT32_MIN },
	{ MODE_64, B("\x83\xc1\xfe"), OP_ADD, FORM_RM_IMM, 4, 0, RCX, 4, MRM,
	  -2 },
	{ MODE_64, B("\x41\x80\x04\x24\x05"), OP_ADD, FORM_RM_IMM, 1, 0, NO, 1,
	  M_RW, 5 },
	{ MODE_32, B("\x82\xc1\x05"), OP_ADD, FORM_RM_IMM, 1, 0, RCX, 1, MRM,
	  5 },
	{ MODE_16, B("\x81\xc1\x34\x12"), OP_ADD, FORM_RM_IMM, 2, 0, RCX, 2,
	  MRM, 0x1234 },
	/* unary, shifts, multiplication */
	{ MODE_32, B("\x40"), OP_INC, FORM_RM, 4, 0, RAX, 4, 0, 0 },
	{ MODE_64, B("\xff\xc0"), OP_INC, FORM_RM, 4, 0, RAX, 4, MRM, 0 },
	{ MODE_64, B("\xf6\x18"), OP_NEG, FORM_RM, 1, 3, NO, 1, M_RW, 0 },
	{ MODE_64, B("\xf7\xc1\x78\x56\x34\x12"), OP_TEST, FORM_RM_IMM, 4, 0,
	  RCX, 4, MRM, 0x12345678 },
	{ MODE_64, B("\xd1\xe0"), OP_SHL, FORM_RM_IMM, 4, 4, RAX, 4, MRM, 1 },
	{ MODE_64, B("\xd3\x38"), OP_SAR, FORM_RM_CL, 4, 7, NO, 4, M_RW, -1 },
	{ MODE_64, B("\xc0\xc8\xff"), OP_ROR, FORM_RM_IMM, 1, 1, RAX, 1, MRM,
	  255 },
	{ MODE_64, B("\x0f\xa4\xc8\x03"), OP_SHLD, FORM_RM_REG_IMM, 4, RCX, RAX,
	  4, MRM, 3 },
	{ MODE_64, B("\x0f\xad\xc8"), OP_SHRD, FORM_RM_REG_CL, 4, RCX, RAX, 4,
	  MRM, -1 },
	{ MODE_64, B("\x48\xf7\x21"), OP_MUL, FORM_RM, 8, 4, NO, 8, M_R, 0 },
	{ MODE_64, B("\x0f\xaf\xc1"), OP_IMUL2, FORM_REG_RM, 4, RAX, RCX, 4,
	  MRM, 0 },
	{ MODE_64, B("\x6b\xc1\x80"), OP_IMUL3, FORM_REG_RM_IMM, 4, RAX, RCX, 4,
	  MRM, -128 },
	/* bits */
	{ MODE_64, B("\x0f\xab\x08"), OP_BTS, FORM_RM_REG, 4, RCX, NO, 4, M_RW,
	  0 },
	{ MODE_64, B("\x48\x0f\xba\xe0\x3f"), OP_BT, FORM_RM_IMM, 8, 4, RAX, 8,
	  MRM, 63 },
	{ MODE_64, B("\x0f\xbc\xc1"), OP_BSF, FORM_REG_RM, 4, RAX, RCX, 4, MRM,
	  0 },
	{ MODE_64, B("\xf3\x0f\xbc\xc1"), OP_NATIVE, FORM_REG_RM, 4, RAX, RCX,
	  4, MRM, 0 },
	{ MODE_64, B("\x49\x0f\xc9"), OP_BSWAP, FORM_RM, 8, 0, R9, 8, 0, 0 },
	/* moves */
	{ MODE_64, B("\x88\xe1"), OP_MOV, FORM_RM_REG, 1, 4, RCX, 1, MRM, 0 },
	{ MODE_64, B("\xb4\x80"), OP_MOV, FORM_RM_IMM, 1, 0, 4, 1, 0, -128 },
	{ MODE_64, B("\x49\xb8\1\2\3\4\5\6\7\x08"), OP_MOV, FORM_RM_IMM, 8, 0,
	  R8, 8, 0, 0x0807060504030201 },
	{ MODE_64, B("\xc7\x00\xff\xff\xff\xff"), OP_MOV, FORM_RM_IMM, 4, 0, NO,
	  4, M_W, -1 },
	{ MODE_64, B("\x48\xa1\1\2\3\4\5\6\7\x08"), OP_MOV, FORM_REG_RM, 8, RAX,
	  NO, 8, INSN_MEM | INSN_READ_MEM, 0 },
	{ MODE_64, B("\x67\xa2\1\2\3\xf4"), OP_MOV, FORM_RM_REG, 1, RAX, NO, 1,
	  INSN_MEM | INSN_WRITE_MEM | A32, 0 },
	{ MODE_16, B("\xa3\x34\x12"), OP_MOV, FORM_RM_REG, 2, RAX, NO, 2,
	  INSN_MEM | INSN_WRITE_MEM | A16, 0 },
	{ MODE_64, B("\x48\x0f\xb6\xc4"), OP_MOVZX, FORM_REG_RM, 8, RAX, RSP, 1,
	  MRM, 0 },
	{ MODE_64, B("\x0f\xb6\xc4"), OP_MOVZX, FORM_REG_RM, 4, RAX, 4, 1, MRM,
	  0 },
	{ MODE_64, B("\x0f\xbf\x00"), OP_MOVSX, FORM_REG_RM, 4, RAX, NO, 2, M_R,
	  0 },
	{ MODE_64, B("\x48\x63\xc1"), OP_MOVSX, FORM_REG_RM, 8, RAX, RCX, 4,
	  MRM, 0 },
	{ MODE_32, B("\x63\xc1"), OP_ARPL, FORM_RM_REG, 4, RAX, RCX, 2, MRM,
	  0 },
	{ MODE_64, B("\x48\x8d\x04\x8a"), OP_LEA, FORM_REG_RM, 8, RAX, NO, 0,
	  MRM | INSN_MEM, 0 },
	{ MODE_64, B("\x91"), OP_XCHG, FORM_RM_REG, 4, RAX, RCX, 4, 0, 0 },
	{ MODE_64, B("\x41\x90"), OP_XCHG, FORM_RM_REG, 4, RAX, R8, 4, 0, 0 },
	{ MODE_64, B("\x90"), OP_NOP, FORM_NONE, 4, 0, RAX, 4, 0, 0 },
	{ MODE_64, B("\xf3\x90"), OP_PAUSE, FORM_NONE, 4, 0, RAX, 4, 0, 0 },
	{ MODE_64, B("\x87\x08"), OP_XCHG, FORM_RM_REG, 4, RCX, NO, 4,
	  M_RW | INSN_LOCK, 0 },
	{ MODE_64, B("\xf0\x0f\xb1\x0a"), OP_CMPXCHG, FORM_RM_REG, 4, RCX, NO,
	  4, M_RW | INSN_LOCK, 0 },
	{ MODE_64, B("\x0f\xc7\x0e"), OP_CMPXCHG8B, FORM_RM, 4, 1, NO, 8, M_RW,
	  0 },
	{ MODE_64, B("\x48\x0f\xc7\x0e"), OP_CMPXCHG16B, FORM_RM, 8, 1, NO, 16,
	  M_RW | INSN_ALIGNED, 0 },
	{ MODE_64, B("\x0f\x95\xc0"), OP_SETCC, FORM_RM, 1, 0, RAX, 1, MRM, 0 },
	{ MODE_64, B("\x0f\x44\xc1"), OP_CMOVCC, FORM_REG_RM, 4, RAX, RCX, 4,
	  MRM, 0 },
	/* stack */
	{ MODE_64, B("\x41\x54"), OP_PUSH, FORM_RM, 8, 0, R12, 8, 0, 0 },
	{ MODE_64, B("\x66\x50"), OP_PUSH, FORM_RM, 2, 0, RAX, 2, 0, 0 },
	{ MODE_64, B("\x6a\xff"), OP_PUSH, FORM_IMM, 8, 0, NO, 8, 0, -1 },
	{ MODE_64, B("\xff\x30"), OP_PUSH, FORM_RM, 8, 6, NO, 8, M_R, 0 },
	{ MODE_64, B("\x8f\x00"), OP_POP, FORM_RM, 8, 0, NO, 8, M_W, 0 },
	{ MODE_64, B("\x0f\xa8"), OP_PUSH_SEG, FORM_REG, 8, SEG_GS, NO, 8, 0,
	  0 },
	{ MODE_32, B("\x1f"), OP_POP_SEG, FORM_REG, 4, SEG_DS, NO, 4, INSN_END,
	  0 },
	{ MODE_64, B("\xc8\x10\x00\x02"), OP_ENTER, FORM_IMM, 8, 0, NO, 8, 0,
	  16 },
	/* control flow */
	{ MODE_64, B("\x74\xfe"), OP_JCC, FORM_IMM, 8, 0, NO, 8, JUMP, -2 },
	{ MODE_64, B("\x0f\x84\0\0\0\x80"), OP_JCC, FORM_IMM, 8, 0, NO, 8, JUMP,
	  INT32_MIN },
	{ MODE_16, B("\x0f\x84\0\x80"), OP_JCC, FORM_IMM, 2, 0, NO, 2, JUMP,
	  INT16_MIN },
	{ MODE_64, B("\x66\xe8\0\0\0\0"), OP_CALL, FORM_IMM, 8, 0, NO, 8, JUMP,
	  0 },
	{ MODE_64, B("\xff\x10"), OP_CALL_IND, FORM_RM, 8, 2, NO, 8, M_R | JUMP,
	  0 },
	{ MODE_64, B("\xff\xe0"), OP_JMP_IND, FORM_RM, 8, 4, RAX, 8, MRM | JUMP,
	  0 },
	{ MODE_64, B("\x48\xff\x28"), OP_JMP_FAR_IND, FORM_RM, 8, 5, NO, 10,
	  M_R | JUMP, 0 },
	{ MODE_16, B("\xea\x5b\xe0\x00\xf0"), OP_JMP_FAR, FORM_IMM, 2, 0, NO, 2,
	  JUMP, 0xe05b },
	{ MODE_32, B("\x9a\1\0\0\x80\x10\0"), OP_CALL_FAR, FORM_IMM, 4, 0, NO,
	  4, JUMP, 0x80000001 },
	{ MODE_64, B("\xc2\x10\x80"), OP_RET, FORM_IMM, 8, 0, NO, 8, JUMP,
	  0x8010 },
	{ MODE_64, B("\xc3"), OP_RET, FORM_NONE, 8, 0, NO, 8, JUMP, 0 },
	{ MODE_64, B("\x48\xcf"), OP_IRET, FORM_NONE, 8, 0, NO, 8, JUMP, 0 },
	{ MODE_64, B("\xcd\x80"), OP_INT, FORM_IMM, 4, 0, NO, 4, JUMP, 0x80 },
	{ MODE_64, B("\xe3\x05"), OP_JCXZ, FORM_IMM, 8, 0, NO, 8, JUMP, 5 },
	{ MODE_64, B("\x48\x0f\x07"), OP_SYSRET, FORM_NONE, 8, 0, NO, 8,
	  JUMP | INSN_PRIV, 0 },
	/* strings and ports */
	{ MODE_64, B("\xf3\x48\xa5"), OP_MOVS, FORM_NONE, 8, 0, NO, 8, 0, 0 },
	{ MODE_64, B("\xe4\x60"), OP_IN, FORM_RM_IMM, 1, 0, RAX, 1, 0, 0x60 },
	{ MODE_64, B("\xef"), OP_OUT, FORM_RM, 4, 0, RAX, 4, 0, 0 },
	{ MODE_64, B("\x48\xed"), OP_IN, FORM_RM, 4, 0, RAX, 4, 0, 0 },
	/* segments, tables, system */
	{ MODE_64, B("\x8e\xd8"), OP_MOV_TO_SEG, FORM_REG_RM, 4, SEG_DS, RAX, 2,
	  MRM | INSN_END, 0 },
	{ MODE_64, B("\x48\x8c\xd8"), OP_MOV_FROM_SEG, FORM_RM_REG, 8, SEG_DS,
	  RAX, 2, MRM, 0 },
	{ MODE_16, B("\xc5\x36\0\0"), OP_LOAD_FAR, FORM_REG_RM, 2, RSI, NO, 4,
	  M_R | A16, 0 },
	{ MODE_64, B("\x0f\x01\x10"), OP_LGDT, FORM_RM, 8, 2, NO, 10,
	  M_R | INSN_PRIV, 0 },
	{ MODE_16, B("\x0f\x01\x17"), OP_LGDT, FORM_RM, 2, 2, NO, 6,
	  M_R | INSN_PRIV | A16, 0 },
	{ MODE_64, B("\x0f\x22\xd8"), OP_MOV_TO_CR, FORM_REG_RM, 8, 3, RAX, 0,
	  MRM | INSN_PRIV | INSN_END, 0 },
	{ MODE_64, B("\x44\x0f\x20\xc0"), OP_MOV_FROM_CR, FORM_RM_REG, 8, 8,
	  RAX, 0, MRM | INSN_PRIV, 0 },
	{ MODE_64, B("\x0f\x01\xf8"), OP_SWAPGS, FORM_RM, 4, 7, RAX, 0,
	  MRM | INSN_PRIV, 0 },
	{ MODE_64, B("\x0f\x01\x38"), OP_INVLPG, FORM_RM, 4, 7, NO, 0,
	  MRM | INSN_MEM | INSN_PRIV | INSN_END, 0 },
	{ MODE_64, B("\x66\x0f\x38\x82\x06"), OP_INVPCID, FORM_REG_RM, 8, RAX,
	  NO, 16, M_R | INSN_PRIV | INSN_END, 0 },
	{ MODE_64, B("\xf3\x48\x0f\xae\xd8"), OP_WRGSBASE, FORM_RM, 8, 3, RAX,
	  8, MRM, 0 },
	{ MODE_64, B("\x0f\xae\x38"), OP_CLFLUSH, FORM_RM, 4, 7, NO, 1, M_R,
	  0 },
	{ MODE_64, B("\x48\x0f\xae\x00"), OP_FXSAVE, FORM_RM, 8, 0, NO, 512,
	  M_W, 0 },
	{ MODE_64, B("\x0f\x0b"), OP_UD, FORM_NONE, 4, 0, NO, 4, INSN_END, 0 },
	{ MODE_64, B("\xf3\x0f\x1e\xfa"), OP_NOP, FORM_RM, 4, 7, RDX, 0, MRM,
	  0 },
	{ MODE_64, B("\x0f\x18\x08"), OP_NOP, FORM_RM, 4, 1, NO, 0,
	  MRM | INSN_MEM, 0 },
	/* x87, vectors */
	{ MODE_64, B("\xdb\x28"), OP_NATIVE, FORM_VEC, 4, 5, NO, 10,
	  M_R | INSN_X87, 0 },
	{ MODE_32, B("\xdd\x30"), OP_NATIVE, FORM_VEC, 4, 6, NO, 108,
	  M_W | INSN_X87 | A32, 0 },
	{ MODE_16, B("\xd9\x34"), OP_NATIVE, FORM_VEC, 2, 6, NO, 14,
	  M_W | INSN_X87 | A16, 0 },
	{ MODE_64, B("\xdf\xe0"), OP_NATIVE, FORM_RM_VEC, 4, 4, RAX, 4,
	  MRM | INSN_X87, 0 },
	{ MODE_64, B("\x0f\x28\x01"), OP_NATIVE, FORM_VEC, 4, 0, NO, 16,
	  M_R | INSN_VECTOR | INSN_ALIGNED, 0 },
	{ MODE_64, B("\xf2\x0f\x2a\xc1"), OP_NATIVE, FORM_VEC_RM, 4, 0, RCX, 4,
	  MRM | INSN_VECTOR, 0 },
	{ MODE_64, B("\x66\x48\x0f\x7e\xc1"), OP_NATIVE, FORM_RM_VEC, 8, 0, RCX,
	  8, MRM | INSN_VECTOR, 0 },
	{ MODE_64, B("\x66\x0f\xd7\xc1"), OP_NATIVE, FORM_REG_VEC, 4, 0, 1, 0,
	  MRM | INSN_VECTOR, 0 },
	{ MODE_64, B("\x66\x0f\xf7\xc1"), OP_MASKMOV, FORM_VEC, 4, 0, 1, 16,
	  M_W | INSN_VECTOR | INSN_ELEMENTS, 0 },
	{ MODE_64, B("\xc5\xfc\x77"), OP_NATIVE, FORM_VEC, 4, 0, NO, 0,
	  INSN_VECTOR | INSN_VEX, 0 },
	{ MODE_64, B("\xc4\xe2\x71\x8c\x02"), OP_MASKMOV, FORM_VEC, 4, 0, NO,
	  16, M_R | INSN_VECTOR | INSN_VEX | INSN_ELEMENTS, 0 },
	{ MODE_64, B("\xc4\xe2\xe9\x91\x04\x0a"), OP_GATHER, FORM_VEC, 8, 0, NO,
	  0, M_R | INSN_VECTOR | INSN_VEX | INSN_ELEMENTS, 0 },
	{ MODE_64, B("\xc4\xe2\xf0\xf2\xc2"), OP_NATIVE, FORM_REG_V_RM, 8, 0,
	  RDX, 8, MRM | INSN_VEX, 0 },
	{ MODE_64, B("\x62\xf1\x7c\x48\x10\x41\x01"), OP_NATIVE, FORM_VEC, 4, 0,
	  NO, 64, M_R | INSN_VECTOR | INSN_VEX | INSN_EVEX, 0 },
	{ MODE_64, B("\x62\xf1\x7c\x49\x10\x01"), OP_NATIVE, FORM_VEC, 4, 0, NO,
	  64, M_R | INSN_VECTOR | INSN_VEX | INSN_EVEX | INSN_ELEMENTS, 0 },
	{ MODE_64, B("\x62\xf1\x74\x58\x58\x41\x01"), OP_NATIVE, FORM_VEC, 4, 0,
	  NO, 4, M_R | INSN_VECTOR | INSN_VEX | INSN_EVEX, 0 },
	{ MODE_64, B("\x62\xf2\xfd\x49\xa0\x04\x0a"), OP_SCATTER, FORM_VEC, 8,
	  0, NO, 0, M_W | INSN_VECTOR | INSN_VEX | INSN_EVEX | INSN_ELEMENTS,
	  0 },
};
/* clang-format on */

static void forms(void **state)
{
	for (size_t n = 0; n < ARRAY_SIZE(table); n++) {
		const struct golden *g = &table[n];
		/* 64-bit addresses are the common case, not said each time */
		uint32_t flags = g->flags;
		struct insn i;

		if (insn_decode(&i, (const uint8_t *)g->bytes, g->len,
				g->mode) != INSN_OK)
			fail_msg("row %zu does not decode", n);
		if (g->mode == MODE_32 && (flags & INSN_MEM))
			flags |= INSN_ADDR32;
		if (i.len != g->len || i.op != g->op || i.form != g->form ||
		    i.opsize != g->opsize || i.reg != g->reg || i.rm != g->rm ||
		    i.mem_size != g->mem_size || i.flags != flags ||
		    i.imm != g->imm)
			fail_msg("row %zu: len %u %s form %u opsize %u reg %u "
				 "rm %u size %u flags %x imm %llx",
				 n, i.len, insn_op_name(i.op), i.form, i.opsize,
				 i.reg, i.rm, i.mem_size, i.flags,
				 (long long)i.imm);
	}
}

/* Every proper prefix of an instruction needs more bytes. */
static void truncation(void **state)
{
	for (size_t n = 0; n < ARRAY_SIZE(table); n++) {
		const struct golden *g = &table[n];
		struct insn i;

		for (unsigned len = 0; len < g->len; len++) {
			enum insn_error err = insn_decode(
				&i, (const uint8_t *)g->bytes, len, g->mode);

			if (err != INSN_TRUNCATED)
				fail_msg("row %zu, %u bytes: %d", n, len, err);
		}
	}
}

static enum insn_error decode(struct insn *i, const char *bytes, unsigned len,
			      enum insn_mode mode)
{
	return insn_decode(i, (const uint8_t *)bytes, len, mode);
}
#define DECODE(i, s, mode) decode(i, s, sizeof(s) - 1, mode)

static void lengths(void **state)
{
	uint8_t b[32];
	struct insn i;

	memset(b, 0x66, sizeof(b));
	assert_int_equal(insn_decode(&i, b, 32, MODE_64), INSN_TOO_LONG);
	assert_int_equal(insn_decode(&i, b, 15, MODE_64), INSN_TOO_LONG);
	assert_int_equal(insn_decode(&i, b, 14, MODE_64), INSN_TRUNCATED);
	b[14] = 0x90;
	assert_int_equal(insn_decode(&i, b, 15, MODE_64), INSN_OK);
	assert_int_equal(i.len, 15);
	assert_int_equal(i.prefix_len, 14);
}

static void addressing(void **state)
{
	struct insn i;

	/* mov eax, [rip - 1] */
	DECODE(&i, "\x8b\x05\xff\xff\xff\xff", MODE_64);
	assert_true(i.flags & INSN_RIPREL);
	assert_int_equal(i.base, INSN_NONE);
	assert_int_equal(i.disp, -1);
	/* the same bytes: absolute in 32-bit code, and with SIB in 64-bit */
	DECODE(&i, "\x8b\x05\xff\xff\xff\xff", MODE_32);
	assert_false(i.flags & INSN_RIPREL);
	DECODE(&i, "\x8b\x04\x25\xff\xff\xff\xff", MODE_64);
	assert_false(i.flags & INSN_RIPREL);
	assert_int_equal(i.base, INSN_NONE);
	assert_int_equal(i.index, INSN_NONE);
	/* segments: SS by base; overrides; only FS and GS in 64-bit mode */
	DECODE(&i, "\x8b\x04\x24", MODE_64);
	assert_int_equal(i.seg, SEG_SS);
	DECODE(&i, "\x41\x8b\x04\x24", MODE_64); /* R12 */
	assert_int_equal(i.seg, SEG_DS);
	DECODE(&i, "\x2e\x8b\x04\x24", MODE_32);
	assert_int_equal(i.seg, SEG_CS);
	DECODE(&i, "\x2e\x8b\x04\x24", MODE_64);
	assert_int_equal(i.seg, SEG_SS);
	DECODE(&i, "\x65\x2e\x8b\x04\x24", MODE_64);
	assert_int_equal(i.seg, SEG_GS);
	DECODE(&i, "\x8b\x46\x10", MODE_16); /* [bp + 10h] */
	assert_int_equal(i.seg, SEG_SS);
	assert_int_equal(i.base, RBP);
	assert_int_equal(i.disp, 16);
	DECODE(&i, "\x26\xac", MODE_16); /* es lodsb */
	assert_int_equal(i.seg, SEG_ES);
	/* [r13 + r12 * 8 + 40h] */
	DECODE(&i, "\x4b\x8b\x44\xe5\x40", MODE_64);
	assert_int_equal(i.base, R13);
	assert_int_equal(i.index, R12);
	assert_int_equal(i.scale_log2, 3);
	/* compressed displacement: 64 bytes each, or an element */
	DECODE(&i, "\x62\xf1\x7c\x48\x10\x41\xff", MODE_64);
	assert_int_equal(i.disp, -64);
	DECODE(&i, "\x62\xf1\x74\x58\x58\x41\xff", MODE_64);
	assert_int_equal(i.disp, -4);
	DECODE(&i, "\x62\xf2\xfd\x49\x88\x41\xff", MODE_64); /* vexpandpd */
	assert_int_equal(i.disp, -8);
	assert_int_equal(i.mem_size, 64);
	/* VSIB: vector index 16 + 1 */
	DECODE(&i, "\x62\xf2\xfd\x41\xa0\x04\x0a", MODE_64);
	assert_int_equal(i.index, 17);
	assert_int_equal(i.mask, 1);
}

static void extras(void **state)
{
	struct insn i;

	/* AH to BH: with and without REX */
	DECODE(&i, "\x88\xe5", MODE_64);
	assert_int_equal(i.high8, 3);
	DECODE(&i, "\x40\x88\xe5", MODE_64);
	assert_int_equal(i.high8, 0);
	DECODE(&i, "\x88\x25\0\0\0\0", MODE_64);
	assert_int_equal(i.high8, 1);
	DECODE(&i, "\x0f\xbe\xf7", MODE_64); /* movsx esi, bh */
	assert_int_equal(i.high8, 2);
	DECODE(&i, "\xb7\x01", MODE_64);
	assert_int_equal(i.high8, 2);
	/* conditions */
	DECODE(&i, "\x0f\x9f\xc0", MODE_64);
	assert_int_equal(i.cond, 15);
	DECODE(&i, "\x75\x00", MODE_64);
	assert_int_equal(i.cond, 5);
	/* second immediates */
	DECODE(&i, "\xc8\x10\x00\x02", MODE_64);
	assert_int_equal(i.imm2, 2);
	DECODE(&i, "\xea\x5b\xe0\x00\xf0", MODE_16);
	assert_int_equal(i.imm2, 0xf000);
	DECODE(&i, "\x0f\xb2\x00", MODE_64);
	assert_int_equal(i.imm2, SEG_SS);
	DECODE(&i, "\xc4\x00", MODE_32);
	assert_int_equal(i.imm2, SEG_ES);
	/* REP: the last of F2 and F3 */
	DECODE(&i, "\xf2\xf3\xa4", MODE_64);
	assert_int_equal(i.prefixes, PREFIX_F3);
	/* REX counts only in front of the opcode */
	DECODE(&i, "\x48\x66\x01\xc0", MODE_64);
	assert_int_equal(i.opsize, 2);
	assert_int_equal(i.rex, 0);
}

static void features(void **state)
{
	static const struct {
		const char *bytes;
		uint8_t feature;
	} rows[] = {
		{ "\x0f\x58\xc0", FEAT_SSE },
		{ "\x66\x0f\x58\xc0", FEAT_SSE2 },
		{ "\x0f\xfc\xc0", FEAT_MMX },
		{ "\xd9\xe8", FEAT_FPU },
		{ "\xf3\x0f\xb8\xc0", FEAT_POPCNT },
		{ "\xc5\xf1\xfe\xc0", FEAT_AVX },
		{ "\xc5\xf5\xfe\xc0", FEAT_AVX2 },
		{ "\xc4\xe2\x71\xdc\xc0", FEAT_AES },
		{ "\xc4\xe2\x75\xdc\xc0", FEAT_VAES },
		{ "\xc4\xe2\x7d\x18\xc0", FEAT_AVX2 },
		{ "\xc4\xe2\x7d\x18\x06", FEAT_AVX },
		{ "\xc4\xe2\xf0\xf2\xc2", FEAT_BMI1 },
		{ "\x62\xf1\x75\x48\xfc\xc0", FEAT_AVX512BW },
		{ "\x62\xf1\x75\x48\xfe\xc0", FEAT_AVX512F },
	};
	struct insn i;

	for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
		assert_int_equal(decode(&i, rows[n].bytes,
					strlen(rows[n].bytes), MODE_64),
				 INSN_OK);
		assert_int_equal(i.feature, rows[n].feature);
	}
}

/* clang-format off */
static void invalid(void **state)
{
	struct insn i;

#define UD(mode, s) assert_int_equal(DECODE(&i, s, mode), INSN_INVALID)
	UD(MODE_64, "\x06"); /* push es */
	UD(MODE_64, "\x27"); /* daa */
	UD(MODE_64, "\x82\xc0\x01");
	UD(MODE_64, "\xea\0\0\0\0\0\0");
	UD(MODE_64, "\xf0\x01\xc0");     /* lock with a register */
	UD(MODE_64, "\xf0\x8b\x00");     /* lock mov */
	UD(MODE_64, "\xf0\xc5\xfc\x77"); /* prefixes before VEX */
	UD(MODE_64, "\x66\xc5\xfc\x77");
	UD(MODE_64, "\x48\xc5\xfc\x77");
	UD(MODE_64, "\x8e\xc8");         /* mov cs, ax */
	UD(MODE_64, "\x0f\x22\xc8");     /* mov cr1, rax */
	UD(MODE_64, "\x44\x0f\x21\xc0"); /* mov rax, dr8 */
	UD(MODE_64, "\x8d\xc0");         /* lea with a register */
	UD(MODE_64, "\x66\x0f\x01\xd0"); /* 66 xgetbv */
	UD(MODE_32, "\x0f\x05");         /* syscall */
	UD(MODE_64, "\xc7\xf8\0\0\0\0"); /* xbegin */
	UD(MODE_64, "\x0f\x01\xee");     /* rdpkru */
	UD(MODE_64, "\x0f\x01\xc2");     /* vmlaunch */
	UD(MODE_64, "\x0f\xc7\x2e");     /* xsaves */
	UD(MODE_64, "\x0f\x0f\xc0\x9e"); /* 3DNow! */
	UD(MODE_64, "\xd9\xd1");
	UD(MODE_64, "\xc4\xe2\x71\x91\x04\x0a"); /* gather: mask is index */
}
/* clang-format on */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms),   cmocka_unit_test(truncation),
		cmocka_unit_test(lengths), cmocka_unit_test(addressing),
		cmocka_unit_test(extras),  cmocka_unit_test(features),
		cmocka_unit_test(invalid),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
