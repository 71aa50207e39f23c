/*
 * The decoder's tables, second part: VEX and EVEX encodings, by map. An index
 * is made of the opcode, the mandatory prefix and W; see W_WIG() and so on.
 */
#ifndef VCPU_INSN_DECODE_VEX_H
#define VCPU_INSN_DECODE_VEX_H

#include "vcpu/insn/decode_table.h"

/* Tables, one row a line. */
/* clang-format off */

/* ---- VEX ----------------------------------------------------------------- */

#define V_(opc, pp, w, f, m, i, ft, a) W_##w(opc, PP_##pp) = \
	{ OP_NATIVE, FORM_##f, FEAT_##ft, M_##m, IMM_##i, 0, 0, A_MODRM | A_NO66 | (a) }
/* a vector instruction; on general registers; with memory element by element;
 * a group */
#define V(opc, pp, w, f, m, i, ft, a)  V_(opc, pp, w, f, m, i, ft, VX | (a))
#define VI(opc, pp, f, i, ft, a)       V_(opc, pp, WIG, f, OP, i, ft, R | L0 | (a))
#define VE(opc, w, o, m, ft, a) W_##w(opc, PP_66) = \
	{ OP_##o, FORM_VEC, FEAT_##ft, M_##m, 0, 0, 0, A_MODRM | A_NO66 | VX | ELEM | MO | (a) }
#define VG(opc, pp, n, a) W_WIG(opc, PP_##pp) = \
	{ GROUP_##n, FORM_VEC, 0, 0, 0, SUB_REG, 0, A_MODRM | A_NO66 | (a) }
/* packed single and double; their scalars; all */
#define VPP(opc, i, a)  V(opc, NP, WIG, VEC, VL, i, AVX, a), V(opc, 66, WIG, VEC, VL, i, AVX, a)
#define VSS(opc, i)     V(opc, F3, WIG, VEC, 4, i, AVX, R | LIG), V(opc, F2, WIG, VEC, 8, i, AVX, R | LIG)
#define VPS4(opc, i)    VPP(opc, i, R), VSS(opc, i)
/* prefix 66: integer (AVX; AVX2 for 256 bits), with a count in m128, with one
 * source; others */
#define VPI(opc)        V(opc, 66, WIG, VEC, VL, NO, AVX, R | I2)
#define VPIX(opc)       V(opc, 66, WIG, VEC, 16, NO, AVX, R | I2)
#define VP1(opc)        V(opc, 66, WIG, VEC, VL, NO, AVX, R | I2 | NV)
#define V66(opc, w, m, i, ft, a) V(opc, 66, w, VEC, m, i, ft, R | (a))
/* opmasks: three registers, two, the former in four sizes */
#define VK3(opc, pp, w, ft)    V(opc, pp, w, VEC, NO, NO, ft, RO | L1 | A_KREG | A_KV)
#define VK2(opc, pp, w, ft)    V(opc, pp, w, VEC, NO, NO, ft, RO | L0 | A_KREG | NV)
#define VK3X4(opc, ft) \
	VK3(opc, NP, W0, ft),       VK3(opc, NP, W1, AVX512BW), \
	VK3(opc, 66, W0, AVX512DQ), VK3(opc, 66, W1, AVX512BW)

static const struct entry vex_0f[2048] = {
	VPP(0x10, NO, R | NV),
	V(0x10, F3, WIG, VEC, 4, NO, AVX, R | NVM | LIG),
	V(0x10, F2, WIG, VEC, 8, NO, AVX, R | NVM | LIG),
	VPP(0x11, NO, W | NV),
	V(0x11, F3, WIG, VEC, 4, NO, AVX, W | NVM | LIG),
	V(0x11, F2, WIG, VEC, 8, NO, AVX, W | NVM | LIG),
	V(0x12, NP, WIG, VEC, 8, NO, AVX, R | L0),
	V(0x12, 66, WIG, VEC, 8, NO, AVX, R | L0 | MO),
	V(0x12, F3, WIG, VEC, VL, NO, AVX, R | NV),
	V(0x12, F2, WIG, VEC, DUP, NO, AVX, R | NV),
	V(0x13, NP, WIG, VEC, 8, NO, AVX, W | L0 | MO | NV),
	V(0x13, 66, WIG, VEC, 8, NO, AVX, W | L0 | MO | NV),
	VPP(0x14, NO, R),
	VPP(0x15, NO, R),
	V(0x16, NP, WIG, VEC, 8, NO, AVX, R | L0),
	V(0x16, 66, WIG, VEC, 8, NO, AVX, R | L0 | MO),
	V(0x16, F3, WIG, VEC, VL, NO, AVX, R | NV),
	V(0x17, NP, WIG, VEC, 8, NO, AVX, W | L0 | MO | NV),
	V(0x17, 66, WIG, VEC, 8, NO, AVX, W | L0 | MO | NV),
	VPP(0x28, NO, R | AL | NV),
	VPP(0x29, NO, W | AL | NV),
	V(0x2a, F3, WIG, VEC_RM, OP, NO, AVX, R | LIG),
	V(0x2a, F2, WIG, VEC_RM, OP, NO, AVX, R | LIG),
	VPP(0x2b, NO, W | AL | NV | MO),
	V(0x2c, F3, WIG, REG_VEC, 4, NO, AVX, R | NV | LIG),
	V(0x2c, F2, WIG, REG_VEC, 8, NO, AVX, R | NV | LIG),
	V(0x2d, F3, WIG, REG_VEC, 4, NO, AVX, R | NV | LIG),
	V(0x2d, F2, WIG, REG_VEC, 8, NO, AVX, R | NV | LIG),
	V(0x2e, NP, WIG, VEC, 4, NO, AVX, R | NV | LIG),
	V(0x2e, 66, WIG, VEC, 8, NO, AVX, R | NV | LIG),
	V(0x2f, NP, WIG, VEC, 4, NO, AVX, R | NV | LIG),
	V(0x2f, 66, WIG, VEC, 8, NO, AVX, R | NV | LIG),
	/* KAND, KANDN, KNOT, KOR, KXNOR, KXOR, KADD, KUNPCK */
	VK3X4(0x41, AVX512F), VK3X4(0x42, AVX512F),
	VK2(0x44, NP, W0, AVX512F), VK2(0x44, NP, W1, AVX512BW), VK2(0x44, 66, W0, AVX512DQ),
	VK2(0x44, 66, W1, AVX512BW),
	VK3X4(0x45, AVX512F), VK3X4(0x46, AVX512F), VK3X4(0x47, AVX512F), VK3X4(0x4a, AVX512DQ),
	VK3(0x4b, NP, W0, AVX512BW), VK3(0x4b, NP, W1, AVX512BW), VK3(0x4b, 66, W0, AVX512F),
	V(0x50, NP, WIG, REG_VEC, NO, NO, AVX, RO | NV),
	V(0x50, 66, WIG, REG_VEC, NO, NO, AVX, RO | NV),
	VPP(0x51, NO, R | NV),
	VSS(0x51, NO),
	V(0x52, NP, WIG, VEC, VL, NO, AVX, R | NV),
	V(0x52, F3, WIG, VEC, 4, NO, AVX, R | LIG),
	V(0x53, NP, WIG, VEC, VL, NO, AVX, R | NV),
	V(0x53, F3, WIG, VEC, 4, NO, AVX, R | LIG),
	VPP(0x54, NO, R),
	VPP(0x55, NO, R),
	VPP(0x56, NO, R),
	VPP(0x57, NO, R),
	VPS4(0x58, NO), VPS4(0x59, NO),
	V(0x5a, NP, WIG, VEC, HALF, NO, AVX, R | NV),
	V(0x5a, 66, WIG, VEC, VL, NO, AVX, R | NV),
	VSS(0x5a, NO),
	VPP(0x5b, NO, R | NV),
	V(0x5b, F3, WIG, VEC, VL, NO, AVX, R | NV),
	VPS4(0x5c, NO), VPS4(0x5d, NO), VPS4(0x5e, NO), VPS4(0x5f, NO),
	VPI(0x60), VPI(0x61), VPI(0x62), VPI(0x63), VPI(0x64), VPI(0x65), VPI(0x66), VPI(0x67),
	VPI(0x68), VPI(0x69), VPI(0x6a), VPI(0x6b), VPI(0x6c), VPI(0x6d),
	V(0x6e, 66, WIG, VEC_RM, OP, NO, AVX, R | L0 | NV),
	V(0x6f, 66, WIG, VEC, VL, NO, AVX, R | AL | NV),
	V(0x6f, F3, WIG, VEC, VL, NO, AVX, R | NV),
	V(0x70, 66, WIG, VEC, VL, U8, AVX, R | NV | I2),
	V(0x70, F3, WIG, VEC, VL, U8, AVX, R | NV | I2),
	V(0x70, F2, WIG, VEC, VL, U8, AVX, R | NV | I2),
	VG(0x71, 66, V12, RO), VG(0x72, 66, V12, RO), VG(0x73, 66, V14, RO),
	VPI(0x74), VPI(0x75), VPI(0x76),
	/* VZEROUPPER, VZEROALL */
	W_WIG(0x77, PP_NP) = EF(NATIVE, VEC, NO, NO, AVX, VX | NV),
	V(0x7c, 66, WIG, VEC, VL, NO, AVX, R),
	V(0x7c, F2, WIG, VEC, VL, NO, AVX, R),
	V(0x7d, 66, WIG, VEC, VL, NO, AVX, R),
	V(0x7d, F2, WIG, VEC, VL, NO, AVX, R),
	V(0x7e, 66, WIG, RM_VEC, OP, NO, AVX, W | L0 | NV),
	V(0x7e, F3, WIG, VEC, 8, NO, AVX, R | L0 | NV),
	V(0x7f, 66, WIG, VEC, VL, NO, AVX, W | AL | NV),
	V(0x7f, F3, WIG, VEC, VL, NO, AVX, W | NV),
	/* KMOV with opmask or memory, from and to a general register; KORTEST, KTEST */
	V(0x90, NP, W0, VEC, 2, NO, AVX512F, R | L0 | A_KREG | NV),
	V(0x90, NP, W1, VEC, 8, NO, AVX512BW, R | L0 | A_KREG | NV),
	V(0x90, 66, W0, VEC, 1, NO, AVX512DQ, R | L0 | A_KREG | NV),
	V(0x90, 66, W1, VEC, 4, NO, AVX512BW, R | L0 | A_KREG | NV),
	V(0x91, NP, W0, VEC, 2, NO, AVX512F, W | L0 | A_KREG | NV | MO),
	V(0x91, NP, W1, VEC, 8, NO, AVX512BW, W | L0 | A_KREG | NV | MO),
	V(0x91, 66, W0, VEC, 1, NO, AVX512DQ, W | L0 | A_KREG | NV | MO),
	V(0x91, 66, W1, VEC, 4, NO, AVX512BW, W | L0 | A_KREG | NV | MO),
	V(0x92, NP, W0, VEC_RM, OP, NO, AVX512F, RO | L0 | A_KREG | NV),
	V(0x92, 66, W0, VEC_RM, OP, NO, AVX512DQ, RO | L0 | A_KREG | NV),
	V(0x92, F2, WIG, VEC_RM, OP, NO, AVX512BW, RO | L0 | A_KREG | NV),
	V(0x93, NP, W0, REG_VEC, OP, NO, AVX512F, RO | L0 | NV),
	V(0x93, 66, W0, REG_VEC, OP, NO, AVX512DQ, RO | L0 | NV),
	V(0x93, F2, WIG, REG_VEC, OP, NO, AVX512BW, RO | L0 | NV),
	VK2(0x98, NP, W0, AVX512F), VK2(0x98, NP, W1, AVX512BW), VK2(0x98, 66, W0, AVX512DQ),
	VK2(0x98, 66, W1, AVX512BW), VK2(0x99, NP, W0, AVX512DQ), VK2(0x99, NP, W1, AVX512BW),
	VK2(0x99, 66, W0, AVX512DQ), VK2(0x99, 66, W1, AVX512BW),
	VG(0xae, NP, V15, VX | MO | L0 | NV),
	VPS4(0xc2, U8),
	V(0xc4, 66, WIG, VEC_RM, 2, U8, AVX, R | L0),
	V(0xc5, 66, WIG, REG_VEC, NO, U8, AVX, RO | L0 | NV),
	VPP(0xc6, U8, R),
	V(0xd0, 66, WIG, VEC, VL, NO, AVX, R),
	V(0xd0, F2, WIG, VEC, VL, NO, AVX, R),
	VPIX(0xd1), VPIX(0xd2), VPIX(0xd3),
	VPI(0xd4), VPI(0xd5),
	V(0xd6, 66, WIG, VEC, 8, NO, AVX, W | L0 | NV),
	V(0xd7, 66, WIG, REG_VEC, NO, NO, AVX, RO | NV | I2),
	VPI(0xd8), VPI(0xd9), VPI(0xda), VPI(0xdb), VPI(0xdc), VPI(0xdd), VPI(0xde), VPI(0xdf),
	VPI(0xe0),
	VPIX(0xe1), VPIX(0xe2),
	VPI(0xe3), VPI(0xe4), VPI(0xe5),
	V(0xe6, 66, WIG, VEC, VL, NO, AVX, R | NV),
	V(0xe6, F3, WIG, VEC, HALF, NO, AVX, R | NV),
	V(0xe6, F2, WIG, VEC, VL, NO, AVX, R | NV),
	V(0xe7, 66, WIG, VEC, VL, NO, AVX, W | AL | NV | MO),
	VPI(0xe8), VPI(0xe9), VPI(0xea), VPI(0xeb), VPI(0xec), VPI(0xed), VPI(0xee), VPI(0xef),
	V(0xf0, F2, WIG, VEC, VL, NO, AVX, R | NV | MO),
	VPIX(0xf1), VPIX(0xf2), VPIX(0xf3),
	VPI(0xf4), VPI(0xf5), VPI(0xf6),
	W_WIG(0xf7, PP_66) = EF(MASKMOV, VEC, 16, NO, AVX, A_MODRM | A_NO66 | VX | RO | W | ELEM | A_RDI | L0 | NV),
	VPI(0xf8), VPI(0xf9), VPI(0xfa), VPI(0xfb), VPI(0xfc), VPI(0xfd), VPI(0xfe),
};

/* Fused multiply and add, ten operations at (opc) + 6: packed and scalar. */
#define FMA_P(opc) V66(opc, WIG, VL, NO, FMA, 0)
#define FMA_S(opc) V66(opc, W0, 4, NO, FMA, LIG), V66(opc, W1, 8, NO, FMA, LIG)
#define FMA(opc) \
	FMA_P((opc) + 0x6), FMA_P((opc) + 0x7), FMA_P((opc) + 0x8), FMA_S((opc) + 0x9), \
	FMA_P((opc) + 0xa), FMA_S((opc) + 0xb), FMA_P((opc) + 0xc), FMA_S((opc) + 0xd), \
	FMA_P((opc) + 0xe), FMA_S((opc) + 0xf)

static const struct entry vex_0f38[2048] = {
	VPI(0x00), VPI(0x01), VPI(0x02), VPI(0x03), VPI(0x04), VPI(0x05), VPI(0x06), VPI(0x07),
	VPI(0x08), VPI(0x09), VPI(0x0a), VPI(0x0b),
	V66(0x0c, W0, VL, NO, AVX, 0),
	V66(0x0d, W0, VL, NO, AVX, 0),
	V66(0x0e, W0, VL, NO, AVX, NV),
	V66(0x0f, W0, VL, NO, AVX, NV),
	V66(0x13, W0, HALF, NO, F16C, NV),
	V66(0x16, W0, VL, NO, AVX2, L1),
	V66(0x17, WIG, VL, NO, AVX, NV),
	/* VBROADCAST: from a register AVX2, see check_vex() */
	V66(0x18, W0, 4, NO, AVX, NV | A_AVX2_REG),
	V66(0x19, W0, 8, NO, AVX, NV | L1 | A_AVX2_REG),
	V66(0x1a, W0, 16, NO, AVX, NV | L1 | MO),
	VP1(0x1c), VP1(0x1d), VP1(0x1e),
	/* VPMOVSX, VPMOVZX */
	V66(0x20, WIG, HALF, NO, AVX, NV | I2),
	V66(0x21, WIG, QUARTER, NO, AVX, NV | I2),
	V66(0x22, WIG, EIGHTH, NO, AVX, NV | I2),
	V66(0x23, WIG, HALF, NO, AVX, NV | I2),
	V66(0x24, WIG, QUARTER, NO, AVX, NV | I2),
	V66(0x25, WIG, HALF, NO, AVX, NV | I2),
	VPI(0x28), VPI(0x29),
	V66(0x2a, WIG, VL, NO, AVX, NV | I2 | AL | MO),
	VPI(0x2b),
	/* VMASKMOVPS, VMASKMOVPD */
	VE(0x2c, W0, MASKMOV, VL, AVX, R), VE(0x2d, W0, MASKMOV, VL, AVX, R),
	VE(0x2e, W0, MASKMOV, VL, AVX, W), VE(0x2f, W0, MASKMOV, VL, AVX, W),
	V66(0x30, WIG, HALF, NO, AVX, NV | I2),
	V66(0x31, WIG, QUARTER, NO, AVX, NV | I2),
	V66(0x32, WIG, EIGHTH, NO, AVX, NV | I2),
	V66(0x33, WIG, HALF, NO, AVX, NV | I2),
	V66(0x34, WIG, QUARTER, NO, AVX, NV | I2),
	V66(0x35, WIG, HALF, NO, AVX, NV | I2),
	V66(0x36, W0, VL, NO, AVX2, L1),
	VPI(0x37), VPI(0x38), VPI(0x39), VPI(0x3a), VPI(0x3b), VPI(0x3c), VPI(0x3d), VPI(0x3e),
	VPI(0x3f), VPI(0x40),
	V66(0x41, WIG, VL, NO, AVX, NV | L0),
	V66(0x45, WIG, VL, NO, AVX2, 0),
	V66(0x46, W0, VL, NO, AVX2, 0),
	V66(0x47, WIG, VL, NO, AVX2, 0),
	V66(0x50, W0, VL, NO, AVX_VNNI, 0),
	V66(0x51, W0, VL, NO, AVX_VNNI, 0),
	V66(0x52, W0, VL, NO, AVX_VNNI, 0),
	V66(0x53, W0, VL, NO, AVX_VNNI, 0),
	/* VPBROADCAST */
	V66(0x58, W0, 4, NO, AVX2, NV),
	V66(0x59, W0, 8, NO, AVX2, NV),
	V66(0x5a, W0, 16, NO, AVX2, NV | L1 | MO),
	V66(0x78, W0, 1, NO, AVX2, NV),
	V66(0x79, W0, 2, NO, AVX2, NV),
	VE(0x8c, WIG, MASKMOV, VL, AVX2, R), VE(0x8e, WIG, MASKMOV, VL, AVX2, W),
	VE(0x90, WIG, GATHER, NO, AVX2, R | A_VSIB), VE(0x91, WIG, GATHER, NO, AVX2, R | A_VSIB),
	VE(0x92, WIG, GATHER, NO, AVX2, R | A_VSIB), VE(0x93, WIG, GATHER, NO, AVX2, R | A_VSIB),
	FMA(0x90), FMA(0xa0), FMA(0xb0),
	V66(0xcf, W0, VL, NO, GFNI, 0),
	V66(0xdb, WIG, VL, NO, AES, NV | L0),
	V66(0xdc, WIG, VL, NO, AES, I2),
	V66(0xdd, WIG, VL, NO, AES, I2),
	V66(0xde, WIG, VL, NO, AES, I2),
	V66(0xdf, WIG, VL, NO, AES, I2),
	/* ANDN; BLSR...; BZHI, PEXT, PDEP; MULX; BEXTR, SHLX, SARX, SHRX */
	VI(0xf2, NP, REG_V_RM, NO, BMI1, 0),
	VG(0xf3, NP, V17, 0),
	VI(0xf5, NP, REG_RM_V, NO, BMI2, 0),
	VI(0xf5, F3, REG_V_RM, NO, BMI2, 0),
	VI(0xf5, F2, REG_V_RM, NO, BMI2, 0),
	VI(0xf6, F2, REG_V_RM, NO, BMI2, 0),
	VI(0xf7, NP, REG_RM_V, NO, BMI1, 0),
	VI(0xf7, 66, REG_RM_V, NO, BMI2, 0),
	VI(0xf7, F3, REG_RM_V, NO, BMI2, 0),
	VI(0xf7, F2, REG_RM_V, NO, BMI2, 0),
};

static const struct entry vex_0f3a[2048] = {
	V66(0x00, W1, VL, U8, AVX2, NV | L1),
	V66(0x01, W1, VL, U8, AVX2, NV | L1), V66(0x02, W0, VL, U8, AVX2, 0),
	V66(0x04, W0, VL, U8, AVX, NV), V66(0x05, W0, VL, U8, AVX, NV),
	V66(0x06, W0, VL, U8, AVX, L1), V66(0x08, WIG, VL, U8, AVX, NV),
	V66(0x09, WIG, VL, U8, AVX, NV), V66(0x0a, WIG, 4, U8, AVX, LIG),
	V66(0x0b, WIG, 8, U8, AVX, LIG), V66(0x0c, WIG, VL, U8, AVX, 0),
	V66(0x0d, WIG, VL, U8, AVX, 0), V66(0x0e, WIG, VL, U8, AVX, I2),
	V66(0x0f, WIG, VL, U8, AVX, I2),
	V(0x14, 66, WIG, RM_VEC, 1, U8, AVX, W | NV | L0),
	V(0x15, 66, WIG, RM_VEC, 2, U8, AVX, W | NV | L0),
	V(0x16, 66, WIG, RM_VEC, OP, U8, AVX, W | NV | L0),
	V(0x17, 66, WIG, RM_VEC, 4, U8, AVX, W | NV | L0),
	V66(0x18, W0, 16, U8, AVX, L1),
	V(0x19, 66, W0, VEC, 16, U8, AVX, W | NV | L1),
	V(0x1d, 66, W0, VEC, HALF, U8, F16C, W | NV),
	V(0x20, 66, WIG, VEC_RM, 1, U8, AVX, R | L0),
	V66(0x21, WIG, 4, U8, AVX, L0),
	V(0x22, 66, WIG, VEC_RM, OP, U8, AVX, R | L0),
	/* KSHIFT */
	V(0x30, 66, W0, VEC, NO, U8, AVX512DQ, RO | L0 | A_KREG | NV),
	V(0x30, 66, W1, VEC, NO, U8, AVX512F, RO | L0 | A_KREG | NV),
	V(0x31, 66, WIG, VEC, NO, U8, AVX512BW, RO | L0 | A_KREG | NV),
	V(0x32, 66, W0, VEC, NO, U8, AVX512DQ, RO | L0 | A_KREG | NV),
	V(0x32, 66, W1, VEC, NO, U8, AVX512F, RO | L0 | A_KREG | NV),
	V(0x33, 66, WIG, VEC, NO, U8, AVX512BW, RO | L0 | A_KREG | NV),
	V66(0x38, W0, 16, U8, AVX2, L1),
	V(0x39, 66, W0, VEC, 16, U8, AVX2, W | NV | L1),
	V66(0x40, WIG, VL, U8, AVX, 0), V66(0x41, WIG, VL, U8, AVX, L0),
	V66(0x42, WIG, VL, U8, AVX, I2), V66(0x44, WIG, VL, U8, PCLMUL, I2),
	V66(0x46, W0, VL, U8, AVX2, L1), V66(0x4a, W0, VL, U8, AVX, 0),
	V66(0x4b, W0, VL, U8, AVX, 0), V66(0x4c, W0, VL, U8, AVX, I2),
	V66(0x60, WIG, VL, U8, AVX, NV | L0),
	V66(0x61, WIG, VL, U8, AVX, NV | L0),
	V66(0x62, WIG, VL, U8, AVX, NV | L0),
	V66(0x63, WIG, VL, U8, AVX, NV | L0), V66(0xce, W1, VL, U8, GFNI, 0),
	V66(0xcf, W1, VL, U8, GFNI, 0), V66(0xdf, WIG, VL, U8, AES, NV | L0),
	VI(0xf0, F2, REG_RM, U8, BMI2, NV), /* RORX */
};

static const struct entry *const vex_maps[4] = {
	NULL,
	vex_0f,
	vex_0f38,
	vex_0f3a,
};

/* Shifts by an immediate, the result in vvvv. */
#define VSHIFT EF(NATIVE, VEC, NO, U8, AVX, VX | I2)
static const struct entry group_v12[8] = { [2] = VSHIFT, [4] = VSHIFT, [6] = VSHIFT };
static const struct entry group_v14[8] = { [2] = VSHIFT, [3] = VSHIFT, [6] = VSHIFT, [7] = VSHIFT };
/* VLDMXCSR, VSTMXCSR */
static const struct entry group_v15[8] = {
	[2] = EF(NATIVE, VEC, 4, NO, AVX, R),
	[3] = EF(NATIVE, VEC, 4, NO, AVX, W),
};
/* BLSR, BLSMSK, BLSI */
static const struct entry group_v17[8] = {
	[1 ... 3] = EF(NATIVE, V_RM, OP, NO, BMI1, R | L0),
};

/* ---- EVEX ---------------------------------------------------------------- */

#define X__(opc, pp, w, o, f, m, i, ft, b, a) W_##w(opc, PP_##pp) = \
	{ OP_##o, FORM_##f, FEAT_##ft, M_##m, IMM_##i, 0, b, A_MODRM | A_NO66 | VX | (a) }
#define XG(opc, w, n) W_##w(opc, PP_66) = \
	{ GROUP_##n, FORM_VEC, 0, 0, 0, SUB_REG, 0, A_MODRM | A_NO66 }
/* any; one without general registers; with broadcast of (b) bytes */
#define X_(opc, pp, w, f, m, i, ft, a)   X__(opc, pp, w, NATIVE, f, m, i, ft, 0, a)
#define XV(opc, pp, w, m, i, ft, a)      X_(opc, pp, w, VEC, m, i, ft, a)
#define XB(opc, pp, w, m, i, ft, b, a)   X__(opc, pp, w, NATIVE, VEC, m, i, ft, b, R | (a))
/* a full vector with broadcast, masked and zeroed: of 4 bytes, of 8, by W */
#define XD(opc, pp, i, ft, a)            XB(opc, pp, W0, VL, i, ft, 4, KZ | (a))
#define XQ(opc, pp, i, ft, a)            XB(opc, pp, W1, VL, i, ft, 8, KZ | (a))
#define XDQ(opc, i, ft, a)               XD(opc, 66, i, ft, a), XQ(opc, 66, i, ft, a)
/* the same of 2 bytes (half precision) */
#define XH(opc, pp, i, a)                XB(opc, pp, W0, VL, i, AVX512FP16, 2, KZ | (a))
/* a full vector without: bytes and words */
#define XW(opc, w, i, ft, a)             XV(opc, 66, w, VL, i, ft, R | KZ | (a))
/* scalars of 4 and of 8 bytes, by W; of 2 */
#define XS(opc, i, ft, a)                XV(opc, 66, W0, 4, i, ft, R | KZ | LIG | (a)), \
					 XV(opc, 66, W1, 8, i, ft, R | KZ | LIG | (a))
#define XSH(opc, pp, i, a)               XV(opc, pp, W0, 2, i, AVX512FP16, R | KZ | LIG | (a))
/* packed single and double; their scalars; all four */
#define XPP(opc, i, ft, a)               XD(opc, NP, i, ft, a), XQ(opc, 66, i, ft, a)
#define XSS(opc, i, a)                   XV(opc, F3, W0, 4, i, AVX512F, R | LIG | (a)), \
					 XV(opc, F2, W1, 8, i, AVX512F, R | LIG | (a))
#define XPS4(opc, i, a)                  XPP(opc, i, AVX512F, a), XSS(opc, i, KZ | (a))
/* moves: packed without broadcast */
#define XMV(opc, a)                      XV(opc, NP, W0, VL, NO, AVX512F, a), XV(opc, 66, W1, VL, NO, AVX512F, a)
/* compares into an opmask, never zeroed: bytes and words, 4 and 8 bytes */
#define XW_K(opc, w, i, ft)              XV(opc, 66, w, VL, i, ft, R | K | A_KREG)
#define XCB(opc, i)                      XW_K(opc, WIG, i, AVX512BW)
#define XCD(opc, pp, i, ft, a)           XB(opc, pp, W0, VL, i, ft, 4, K | A_KREG | (a))
#define XCQ(opc, pp, i, ft, a)           XB(opc, pp, W1, VL, i, ft, 8, K | A_KREG | (a))
/* down-conversions: VPMOV, VPMOVS, VPMOVUS */
#define XDOWN(opc, m, ft)                XV(opc, F3, W0, m, NO, ft, W | KZ | NV)
/* memory element by element; disp8 counts elements */
#define XE(opc, w, o, m, ft, a)          X__(opc, 66, w, o, VEC, m, NO, ft, 0, NV | (a))
#define XGATHER(opc, o, a) \
	XE(opc, WIG, o, NO, AVX512F, a | K | A_KREQ | A_VSIB | A_T1S | ELEM | MO)

static const struct entry evex_0f[2048] = {
	XMV(0x10, R | KZ | NV),
	XV(0x10, F3, W0, 4, NO, AVX512F, R | KZ | NVM | LIG),
	XV(0x10, F2, W1, 8, NO, AVX512F, R | KZ | NVM | LIG),
	XMV(0x11, W | KZ | NV),
	XV(0x11, F3, W0, 4, NO, AVX512F, W | KZ | NVM | LIG),
	XV(0x11, F2, W1, 8, NO, AVX512F, W | KZ | NVM | LIG),
	XV(0x12, NP, W0, 8, NO, AVX512F, R | L0),
	XV(0x12, 66, W1, 8, NO, AVX512F, R | L0 | MO),
	XV(0x12, F3, W0, VL, NO, AVX512F, R | KZ | NV),
	XV(0x12, F2, W1, DUP, NO, AVX512F, R | KZ | NV),
	XV(0x13, NP, W0, 8, NO, AVX512F, W | L0 | MO | NV),
	XV(0x13, 66, W1, 8, NO, AVX512F, W | L0 | MO | NV),
	XPP(0x14, NO, AVX512F, 0),
	XPP(0x15, NO, AVX512F, 0),
	XV(0x16, NP, W0, 8, NO, AVX512F, R | L0),
	XV(0x16, 66, W1, 8, NO, AVX512F, R | L0 | MO),
	XV(0x16, F3, W0, VL, NO, AVX512F, R | KZ | NV),
	XV(0x17, NP, W0, 8, NO, AVX512F, W | L0 | MO | NV),
	XV(0x17, 66, W1, 8, NO, AVX512F, W | L0 | MO | NV),
	XMV(0x28, R | AL | KZ | NV),
	XMV(0x29, W | AL | KZ | NV),
	/* VCVTSI2SS, VCVTSI2SD; rounding may be given where it is exact too */
	X_(0x2a, F3, WIG, VEC_RM, OP, NO, AVX512F, R | LIG | RC),
	X_(0x2a, F2, WIG, VEC_RM, OP, NO, AVX512F, R | LIG | RC),
	XMV(0x2b, W | AL | NV | MO),
	X_(0x2c, F3, WIG, REG_VEC, 4, NO, AVX512F, R | NV | LIG | SAE),
	X_(0x2c, F2, WIG, REG_VEC, 8, NO, AVX512F, R | NV | LIG | SAE),
	X_(0x2d, F3, WIG, REG_VEC, 4, NO, AVX512F, R | NV | LIG | RC),
	X_(0x2d, F2, WIG, REG_VEC, 8, NO, AVX512F, R | NV | LIG | RC),
	XV(0x2e, NP, W0, 4, NO, AVX512F, R | NV | LIG | SAE),
	XV(0x2e, 66, W1, 8, NO, AVX512F, R | NV | LIG | SAE),
	XV(0x2f, NP, W0, 4, NO, AVX512F, R | NV | LIG | SAE),
	XV(0x2f, 66, W1, 8, NO, AVX512F, R | NV | LIG | SAE),
	XPP(0x51, NO, AVX512F, RC | NV),
	XSS(0x51, NO, KZ | RC),
	XPP(0x54, NO, AVX512DQ, 0),
	XPP(0x55, NO, AVX512DQ, 0),
	XPP(0x56, NO, AVX512DQ, 0),
	XPP(0x57, NO, AVX512DQ, 0),
	XPS4(0x58, NO, RC), XPS4(0x59, NO, RC),
	/* VCVTPS2PD, VCVTPD2PS, VCVTSS2SD, VCVTSD2SS */
	XB(0x5a, NP, W0, HALF, NO, AVX512F, 4, KZ | NV | SAE),
	XQ(0x5a, 66, NO, AVX512F, NV | RC),
	XV(0x5a, F3, W0, 4, NO, AVX512F, R | KZ | LIG | SAE),
	XV(0x5a, F2, W1, 8, NO, AVX512F, R | KZ | LIG | RC),
	XD(0x5b, NP, NO, AVX512F, NV | RC),
	XQ(0x5b, NP, NO, AVX512DQ, NV | RC),
	XD(0x5b, 66, NO, AVX512F, NV | RC),
	XD(0x5b, F3, NO, AVX512F, NV | SAE),
	XPS4(0x5c, NO, RC), XPS4(0x5d, NO, SAE), XPS4(0x5e, NO, RC), XPS4(0x5f, NO, SAE),
	XW(0x60, WIG, NO, AVX512BW, 0), XW(0x61, WIG, NO, AVX512BW, 0),
	XD(0x62, 66, NO, AVX512F, 0),
	XW(0x63, WIG, NO, AVX512BW, 0),
	XCB(0x64, NO), XCB(0x65, NO),
	XCD(0x66, 66, NO, AVX512F, 0),
	XW(0x67, WIG, NO, AVX512BW, 0), XW(0x68, WIG, NO, AVX512BW, 0),
	XW(0x69, WIG, NO, AVX512BW, 0),
	XD(0x6a, 66, NO, AVX512F, 0),
	XD(0x6b, 66, NO, AVX512BW, 0),
	XQ(0x6c, 66, NO, AVX512F, 0),
	XQ(0x6d, 66, NO, AVX512F, 0),
	X_(0x6e, 66, WIG, VEC_RM, OP, NO, AVX512F, R | L0 | NV),
	XV(0x6f, 66, WIG, VL, NO, AVX512F, R | AL | KZ | NV),
	XV(0x6f, F3, WIG, VL, NO, AVX512F, R | KZ | NV),
	XV(0x6f, F2, WIG, VL, NO, AVX512BW, R | KZ | NV),
	XD(0x70, 66, U8, AVX512F, NV),
	XV(0x70, F3, WIG, VL, U8, AVX512BW, R | KZ | NV),
	XV(0x70, F2, WIG, VL, U8, AVX512BW, R | KZ | NV),
	XG(0x71, WIG, X12), XG(0x72, W0, X13), XG(0x72, W1, X13W), XG(0x73, W0, X14),
	XG(0x73, W1, X14W),
	XCB(0x74, NO), XCB(0x75, NO),
	XCD(0x76, 66, NO, AVX512F, 0),
	/* conversions with unsigned and 64-bit integers */
	XD(0x78, NP, NO, AVX512F, NV | SAE),
	XQ(0x78, NP, NO, AVX512F, NV | SAE),
	XB(0x78, 66, W0, HALF, NO, AVX512DQ, 4, KZ | NV | SAE),
	XQ(0x78, 66, NO, AVX512DQ, NV | SAE),
	X_(0x78, F3, WIG, REG_VEC, 4, NO, AVX512F, R | NV | LIG | SAE),
	X_(0x78, F2, WIG, REG_VEC, 8, NO, AVX512F, R | NV | LIG | SAE),
	XD(0x79, NP, NO, AVX512F, NV | RC),
	XQ(0x79, NP, NO, AVX512F, NV | RC),
	XB(0x79, 66, W0, HALF, NO, AVX512DQ, 4, KZ | NV | RC),
	XQ(0x79, 66, NO, AVX512DQ, NV | RC),
	X_(0x79, F3, WIG, REG_VEC, 4, NO, AVX512F, R | NV | LIG | RC),
	X_(0x79, F2, WIG, REG_VEC, 8, NO, AVX512F, R | NV | LIG | RC),
	XB(0x7a, 66, W0, HALF, NO, AVX512DQ, 4, KZ | NV | SAE),
	XQ(0x7a, 66, NO, AVX512DQ, NV | SAE),
	XB(0x7a, F3, W0, HALF, NO, AVX512F, 4, KZ | NV | RC),
	XQ(0x7a, F3, NO, AVX512DQ, NV | RC),
	XD(0x7a, F2, NO, AVX512F, NV | RC),
	XQ(0x7a, F2, NO, AVX512DQ, NV | RC),
	XB(0x7b, 66, W0, HALF, NO, AVX512DQ, 4, KZ | NV | RC),
	XQ(0x7b, 66, NO, AVX512DQ, NV | RC),
	X_(0x7b, F3, WIG, VEC_RM, OP, NO, AVX512F, R | LIG | RC),
	X_(0x7b, F2, WIG, VEC_RM, OP, NO, AVX512F, R | LIG | RC),
	X_(0x7e, 66, WIG, RM_VEC, OP, NO, AVX512F, W | L0 | NV),
	XV(0x7e, F3, W1, 8, NO, AVX512F, R | L0 | NV),
	XV(0x7f, 66, WIG, VL, NO, AVX512F, W | AL | KZ | NV),
	XV(0x7f, F3, WIG, VL, NO, AVX512F, W | KZ | NV),
	XV(0x7f, F2, WIG, VL, NO, AVX512BW, W | KZ | NV),
	XCD(0xc2, NP, U8, AVX512F, SAE),
	XCQ(0xc2, 66, U8, AVX512F, SAE),
	XSS(0xc2, U8, K | A_KREG | SAE),
	X_(0xc4, 66, WIG, VEC_RM, 2, U8, AVX512BW, R | L0),
	X_(0xc5, 66, WIG, REG_VEC, NO, U8, AVX512BW, RO | L0 | NV),
	XPP(0xc6, U8, AVX512F, 0),
	XV(0xd1, 66, WIG, 16, NO, AVX512BW, R | KZ),
	XV(0xd2, 66, W0, 16, NO, AVX512F, R | KZ),
	XV(0xd3, 66, W1, 16, NO, AVX512F, R | KZ),
	XQ(0xd4, 66, NO, AVX512F, 0),
	XW(0xd5, WIG, NO, AVX512BW, 0),
	XV(0xd6, 66, W1, 8, NO, AVX512F, W | L0 | NV),
	XW(0xd8, WIG, NO, AVX512BW, 0), XW(0xd9, WIG, NO, AVX512BW, 0),
	XW(0xda, WIG, NO, AVX512BW, 0),
	XDQ(0xdb, NO, AVX512F, 0),
	XW(0xdc, WIG, NO, AVX512BW, 0), XW(0xdd, WIG, NO, AVX512BW, 0),
	XW(0xde, WIG, NO, AVX512BW, 0),
	XDQ(0xdf, NO, AVX512F, 0),
	XW(0xe0, WIG, NO, AVX512BW, 0),
	XV(0xe1, 66, WIG, 16, NO, AVX512BW, R | KZ),
	XV(0xe2, 66, WIG, 16, NO, AVX512F, R | KZ),
	XW(0xe3, WIG, NO, AVX512BW, 0), XW(0xe4, WIG, NO, AVX512BW, 0),
	XW(0xe5, WIG, NO, AVX512BW, 0),
	XQ(0xe6, 66, NO, AVX512F, NV | SAE),
	XB(0xe6, F3, W0, HALF, NO, AVX512F, 4, KZ | NV | RC),
	XQ(0xe6, F3, NO, AVX512DQ, NV | RC),
	XQ(0xe6, F2, NO, AVX512F, NV | RC),
	XV(0xe7, 66, W0, VL, NO, AVX512F, W | AL | NV | MO),
	XW(0xe8, WIG, NO, AVX512BW, 0), XW(0xe9, WIG, NO, AVX512BW, 0),
	XW(0xea, WIG, NO, AVX512BW, 0),
	XDQ(0xeb, NO, AVX512F, 0),
	XW(0xec, WIG, NO, AVX512BW, 0), XW(0xed, WIG, NO, AVX512BW, 0),
	XW(0xee, WIG, NO, AVX512BW, 0),
	XDQ(0xef, NO, AVX512F, 0),
	XV(0xf1, 66, WIG, 16, NO, AVX512BW, R | KZ),
	XV(0xf2, 66, W0, 16, NO, AVX512F, R | KZ),
	XV(0xf3, 66, W1, 16, NO, AVX512F, R | KZ),
	XQ(0xf4, 66, NO, AVX512F, 0),
	XW(0xf5, WIG, NO, AVX512BW, 0),
	XV(0xf6, 66, WIG, VL, NO, AVX512BW, R),
	XW(0xf8, WIG, NO, AVX512BW, 0), XW(0xf9, WIG, NO, AVX512BW, 0),
	XD(0xfa, 66, NO, AVX512F, 0),
	XQ(0xfb, 66, NO, AVX512F, 0),
	XW(0xfc, WIG, NO, AVX512BW, 0), XW(0xfd, WIG, NO, AVX512BW, 0),
	XD(0xfe, 66, NO, AVX512F, 0),
};

#define XFMA_P(opc) XDQ(opc, NO, AVX512F, RC)
#define XFMA_S(opc) XS(opc, NO, AVX512F, RC)
#define XFMA(opc) \
	XFMA_P((opc) + 0x6), XFMA_P((opc) + 0x7), XFMA_P((opc) + 0x8), XFMA_S((opc) + 0x9), \
	XFMA_P((opc) + 0xa), XFMA_S((opc) + 0xb), XFMA_P((opc) + 0xc), XFMA_S((opc) + 0xd), \
	XFMA_P((opc) + 0xe), XFMA_S((opc) + 0xf)

static const struct entry evex_0f38[2048] = {
	XW(0x00, WIG, NO, AVX512BW, 0), XW(0x04, WIG, NO, AVX512BW, 0),
	XW(0x0b, WIG, NO, AVX512BW, 0),
	XD(0x0c, 66, NO, AVX512F, 0),
	XQ(0x0d, 66, NO, AVX512F, 0),
	XW(0x10, W1, NO, AVX512BW, 0),
	XDOWN(0x10, HALF, AVX512BW),
	XW(0x11, W1, NO, AVX512BW, 0),
	XDOWN(0x11, QUARTER, AVX512F),
	XW(0x12, W1, NO, AVX512BW, 0),
	XDOWN(0x12, EIGHTH, AVX512F),
	XV(0x13, 66, W0, HALF, NO, AVX512F, R | KZ | NV | SAE),
	XDOWN(0x13, HALF, AVX512F),
	XDQ(0x14, NO, AVX512F, 0),
	XDOWN(0x14, QUARTER, AVX512F),
	XDQ(0x15, NO, AVX512F, 0),
	XDOWN(0x15, HALF, AVX512F),
	XDQ(0x16, NO, AVX512F, L12),
	/* VBROADCAST */
	XV(0x18, 66, W0, 4, NO, AVX512F, R | KZ | NV),
	XV(0x19, 66, W0, 8, NO, AVX512DQ, R | KZ | NV | L12),
	XV(0x19, 66, W1, 8, NO, AVX512F, R | KZ | NV | L12),
	XV(0x1a, 66, W0, 16, NO, AVX512F, R | KZ | NV | L12 | MO),
	XV(0x1a, 66, W1, 16, NO, AVX512DQ, R | KZ | NV | L12 | MO),
	XV(0x1b, 66, W0, 32, NO, AVX512DQ, R | KZ | NV | L2 | MO),
	XV(0x1b, 66, W1, 32, NO, AVX512F, R | KZ | NV | L2 | MO),
	XW(0x1c, WIG, NO, AVX512BW, NV), XW(0x1d, WIG, NO, AVX512BW, NV),
	XD(0x1e, 66, NO, AVX512F, NV),
	XQ(0x1f, 66, NO, AVX512F, NV),
	/* VPMOVSX, VPMOVS */
	XV(0x20, 66, WIG, HALF, NO, AVX512BW, R | KZ | NV),
	XDOWN(0x20, HALF, AVX512BW),
	XV(0x21, 66, WIG, QUARTER, NO, AVX512F, R | KZ | NV),
	XDOWN(0x21, QUARTER, AVX512F),
	XV(0x22, 66, WIG, EIGHTH, NO, AVX512F, R | KZ | NV),
	XDOWN(0x22, EIGHTH, AVX512F),
	XV(0x23, 66, WIG, HALF, NO, AVX512F, R | KZ | NV),
	XDOWN(0x23, HALF, AVX512F),
	XV(0x24, 66, WIG, QUARTER, NO, AVX512F, R | KZ | NV),
	XDOWN(0x24, QUARTER, AVX512F),
	XV(0x25, 66, W0, HALF, NO, AVX512F, R | KZ | NV),
	XDOWN(0x25, HALF, AVX512F),
	/* VPTESTM, VPTESTNM */
	XW_K(0x26, WIG, NO, AVX512BW),
	XV(0x26, F3, WIG, VL, NO, AVX512BW, R | K | A_KREG),
	XCD(0x27, 66, NO, AVX512F, 0),
	XCQ(0x27, 66, NO, AVX512F, 0),
	XCD(0x27, F3, NO, AVX512F, 0),
	XCQ(0x27, F3, NO, AVX512F, 0),
	XQ(0x28, 66, NO, AVX512F, 0),
	XV(0x28, F3, WIG, NO, NO, AVX512BW, RO | NV),
	XCQ(0x29, 66, NO, AVX512F, 0),
	XV(0x29, F3, WIG, NO, NO, AVX512BW, RO | NV | A_KREG),
	XV(0x2a, 66, W0, VL, NO, AVX512F, R | AL | NV | MO),
	XV(0x2a, F3, W1, NO, NO, AVX512CD, RO | NV),
	XD(0x2b, 66, NO, AVX512BW, 0),
	XDQ(0x2c, NO, AVX512F, RC),
	XS(0x2d, NO, AVX512F, RC),
	/* VPMOVZX, VPMOV */
	XV(0x30, 66, WIG, HALF, NO, AVX512BW, R | KZ | NV),
	XDOWN(0x30, HALF, AVX512BW),
	XV(0x31, 66, WIG, QUARTER, NO, AVX512F, R | KZ | NV),
	XDOWN(0x31, QUARTER, AVX512F),
	XV(0x32, 66, WIG, EIGHTH, NO, AVX512F, R | KZ | NV),
	XDOWN(0x32, EIGHTH, AVX512F),
	XV(0x33, 66, WIG, HALF, NO, AVX512F, R | KZ | NV),
	XDOWN(0x33, HALF, AVX512F),
	XV(0x34, 66, WIG, QUARTER, NO, AVX512F, R | KZ | NV),
	XDOWN(0x34, QUARTER, AVX512F),
	XV(0x35, 66, W0, HALF, NO, AVX512F, R | KZ | NV),
	XDOWN(0x35, HALF, AVX512F),
	XDQ(0x36, NO, AVX512F, L12),
	XCQ(0x37, 66, NO, AVX512F, 0),
	XW(0x38, WIG, NO, AVX512BW, 0),
	XV(0x38, F3, WIG, NO, NO, AVX512DQ, RO | NV),
	XDQ(0x39, NO, AVX512F, 0),
	XV(0x39, F3, WIG, NO, NO, AVX512DQ, RO | NV | A_KREG),
	XW(0x3a, WIG, NO, AVX512BW, 0),
	XV(0x3a, F3, W0, NO, NO, AVX512CD, RO | NV),
	XDQ(0x3b, NO, AVX512F, 0),
	XW(0x3c, WIG, NO, AVX512BW, 0),
	XDQ(0x3d, NO, AVX512F, 0),
	XW(0x3e, WIG, NO, AVX512BW, 0),
	XDQ(0x3f, NO, AVX512F, 0),
	XD(0x40, 66, NO, AVX512F, 0),
	XQ(0x40, 66, NO, AVX512DQ, 0),
	XDQ(0x42, NO, AVX512F, NV | SAE),
	XS(0x43, NO, AVX512F, SAE),
	XDQ(0x44, NO, AVX512CD, NV), XDQ(0x45, NO, AVX512F, 0), XDQ(0x46, NO, AVX512F, 0),
	XDQ(0x47, NO, AVX512F, 0), XDQ(0x4c, NO, AVX512F, NV),
	XS(0x4d, NO, AVX512F, 0),
	XDQ(0x4e, NO, AVX512F, NV),
	XS(0x4f, NO, AVX512F, 0),
	XD(0x50, 66, NO, AVX512VNNI, 0),
	XD(0x51, 66, NO, AVX512VNNI, 0),
	XD(0x52, 66, NO, AVX512VNNI, 0),
	XD(0x52, F3, NO, AVX512BF16, 0),
	XD(0x53, 66, NO, AVX512VNNI, 0),
	XW(0x54, WIG, NO, AVX512BITALG, NV),
	XDQ(0x55, NO, AVX512VPOPCNT, NV),
	XV(0x58, 66, W0, 4, NO, AVX512F, R | KZ | NV),
	XV(0x59, 66, W0, 8, NO, AVX512DQ, R | KZ | NV),
	XV(0x59, 66, W1, 8, NO, AVX512F, R | KZ | NV),
	XV(0x5a, 66, W0, 16, NO, AVX512F, R | KZ | NV | L12 | MO),
	XV(0x5a, 66, W1, 16, NO, AVX512DQ, R | KZ | NV | L12 | MO),
	XV(0x5b, 66, W0, 32, NO, AVX512DQ, R | KZ | NV | L2 | MO),
	XV(0x5b, 66, W1, 32, NO, AVX512F, R | KZ | NV | L2 | MO),
	XE(0x62, WIG, NATIVE, VL, AVX512VBMI2, R | KZ | A_T1B),
	XE(0x63, WIG, NATIVE, VL, AVX512VBMI2, W | KZ | A_T1B),
	XDQ(0x64, NO, AVX512F, 0), XDQ(0x65, NO, AVX512F, 0),
	XW(0x66, WIG, NO, AVX512BW, 0), XW(0x70, W1, NO, AVX512VBMI2, 0),
	XDQ(0x71, NO, AVX512VBMI2, 0),
	XW(0x72, W1, NO, AVX512VBMI2, 0),
	XD(0x72, F3, NO, AVX512BF16, NV),
	XD(0x72, F2, NO, AVX512BF16, 0),
	XDQ(0x73, NO, AVX512VBMI2, 0),
	XW(0x75, W0, NO, AVX512VBMI, 0), XW(0x75, W1, NO, AVX512BW, 0),
	XDQ(0x76, NO, AVX512F, 0), XDQ(0x77, NO, AVX512F, 0),
	XV(0x78, 66, W0, 1, NO, AVX512BW, R | KZ | NV),
	XV(0x79, 66, W0, 2, NO, AVX512BW, R | KZ | NV),
	X_(0x7a, 66, W0, VEC_RM, NO, NO, AVX512BW, RO | KZ | NV),
	X_(0x7b, 66, W0, VEC_RM, NO, NO, AVX512BW, RO | KZ | NV),
	X_(0x7c, 66, WIG, VEC_RM, NO, NO, AVX512F, RO | KZ | NV),
	XW(0x7d, W0, NO, AVX512VBMI, 0), XW(0x7d, W1, NO, AVX512BW, 0),
	XDQ(0x7e, NO, AVX512F, 0), XDQ(0x7f, NO, AVX512F, 0),
	XQ(0x83, 66, NO, AVX512VBMI, 0),
	/* VEXPAND, VCOMPRESS */
	XE(0x88, WIG, NATIVE, VL, AVX512F, R | KZ | A_T1S),
	XE(0x89, WIG, NATIVE, VL, AVX512F, R | KZ | A_T1S),
	XE(0x8a, WIG, NATIVE, VL, AVX512F, W | KZ | A_T1S),
	XE(0x8b, WIG, NATIVE, VL, AVX512F, W | KZ | A_T1S),
	XW(0x8d, W0, NO, AVX512VBMI, 0), XW(0x8d, W1, NO, AVX512BW, 0),
	XW_K(0x8f, W0, NO, AVX512BITALG),
	XGATHER(0x90, GATHER, R), XGATHER(0x91, GATHER, R), XGATHER(0x92, GATHER, R),
	XGATHER(0x93, GATHER, R),
	XFMA(0x90),
	XGATHER(0xa0, SCATTER, W), XGATHER(0xa1, SCATTER, W), XGATHER(0xa2, SCATTER, W),
	XGATHER(0xa3, SCATTER, W),
	XFMA(0xa0),
	XQ(0xb4, 66, NO, AVX512IFMA, 0),
	XQ(0xb5, 66, NO, AVX512IFMA, 0),
	XFMA(0xb0),
	XDQ(0xc4, NO, AVX512CD, NV),
	XW(0xcf, W0, NO, GFNI, 0),
	XV(0xdc, 66, WIG, VL, NO, VAES, R),
	XV(0xdd, 66, WIG, VL, NO, VAES, R),
	XV(0xde, 66, WIG, VL, NO, VAES, R),
	XV(0xdf, 66, WIG, VL, NO, VAES, R),
};

/* Insertion and extraction of 16 and 32 bytes, at (opc): two of each. */
#define XPARTS(opc) \
	XV((opc) + 0, 66, W0, 16, U8, AVX512F, R | KZ | L12),      XV((opc) + 0, 66, W1, 16, U8, AVX512DQ, R | KZ | L12), \
	XV((opc) + 1, 66, W0, 16, U8, AVX512F, W | KZ | L12 | NV), XV((opc) + 1, 66, W1, 16, U8, AVX512DQ, W | KZ | L12 | NV), \
	XV((opc) + 2, 66, W0, 32, U8, AVX512DQ, R | KZ | L2),      XV((opc) + 2, 66, W1, 32, U8, AVX512F, R | KZ | L2), \
	XV((opc) + 3, 66, W0, 32, U8, AVX512DQ, W | KZ | L2 | NV), XV((opc) + 3, 66, W1, 32, U8, AVX512F, W | KZ | L2 | NV)

static const struct entry evex_0f3a[2048] = {
	XQ(0x00, 66, U8, AVX512F, NV | L12),
	XQ(0x01, 66, U8, AVX512F, NV | L12),
	XDQ(0x03, U8, AVX512F, 0),
	XD(0x04, 66, U8, AVX512F, NV),
	XQ(0x05, 66, U8, AVX512F, NV),
	/* VRNDSCALE */
	XD(0x08, 66, U8, AVX512F, NV | SAE),
	XH(0x08, NP, U8, NV | SAE),
	XQ(0x09, 66, U8, AVX512F, NV | SAE),
	XV(0x0a, 66, W0, 4, U8, AVX512F, R | KZ | LIG | SAE),
	XSH(0x0a, NP, U8, SAE),
	XV(0x0b, 66, W1, 8, U8, AVX512F, R | KZ | LIG | SAE),
	XW(0x0f, WIG, U8, AVX512BW, 0),
	X_(0x14, 66, WIG, RM_VEC, 1, U8, AVX512BW, W | NV | L0),
	X_(0x15, 66, WIG, RM_VEC, 2, U8, AVX512BW, W | NV | L0),
	X_(0x16, 66, WIG, RM_VEC, OP, U8, AVX512DQ, W | NV | L0),
	X_(0x17, 66, WIG, RM_VEC, 4, U8, AVX512F, W | NV | L0),
	XPARTS(0x18),
	XV(0x1d, 66, W0, HALF, U8, AVX512F, W | KZ | NV | SAE),
	XCD(0x1e, 66, U8, AVX512F, 0),
	XCQ(0x1e, 66, U8, AVX512F, 0),
	XCD(0x1f, 66, U8, AVX512F, 0),
	XCQ(0x1f, 66, U8, AVX512F, 0),
	X_(0x20, 66, WIG, VEC_RM, 1, U8, AVX512BW, R | L0),
	XV(0x21, 66, W0, 4, U8, AVX512F, R | L0),
	X_(0x22, 66, WIG, VEC_RM, OP, U8, AVX512DQ, R | L0),
	XDQ(0x23, U8, AVX512F, L12), XDQ(0x25, U8, AVX512F, 0), XDQ(0x26, U8, AVX512F, NV | SAE),
	XH(0x26, NP, U8, NV | SAE),
	XS(0x27, U8, AVX512F, SAE),
	XSH(0x27, NP, U8, SAE),
	XPARTS(0x38),
	XW_K(0x3e, WIG, U8, AVX512BW),
	XW_K(0x3f, WIG, U8, AVX512BW),
	XW(0x42, W0, U8, AVX512BW, 0),
	XDQ(0x43, U8, AVX512F, L12),
	XV(0x44, 66, WIG, VL, U8, VPCLMUL, R),
	XDQ(0x50, U8, AVX512DQ, SAE),
	XS(0x51, U8, AVX512DQ, SAE),
	XDQ(0x54, U8, AVX512F, SAE),
	XS(0x55, U8, AVX512F, SAE),
	XDQ(0x56, U8, AVX512DQ, NV | SAE),
	XH(0x56, NP, U8, NV | SAE),
	XS(0x57, U8, AVX512DQ, SAE),
	XSH(0x57, NP, U8, SAE),
	/* VFPCLASS */
	XCD(0x66, 66, U8, AVX512DQ, NV),
	XCQ(0x66, 66, U8, AVX512DQ, NV),
	XB(0x66, NP, W0, VL, U8, AVX512FP16, 2, K | A_KREG | NV),
	XV(0x67, 66, W0, 4, U8, AVX512DQ, R | K | A_KREG | NV | LIG),
	XV(0x67, 66, W1, 8, U8, AVX512DQ, R | K | A_KREG | NV | LIG),
	XV(0x67, NP, W0, 2, U8, AVX512FP16, R | K | A_KREG | NV | LIG),
	XW(0x70, W1, U8, AVX512VBMI2, 0),
	XDQ(0x71, U8, AVX512VBMI2, 0),
	XW(0x72, W1, U8, AVX512VBMI2, 0),
	XDQ(0x73, U8, AVX512VBMI2, 0),
	XB(0xc2, NP, W0, VL, U8, AVX512FP16, 2, K | A_KREG | SAE),
	XV(0xc2, F3, W0, 2, U8, AVX512FP16, R | K | A_KREG | LIG | SAE),
	XQ(0xce, 66, U8, GFNI, 0),
	XQ(0xcf, 66, U8, GFNI, 0),
};

/* Half precision: packed with its scalar; conversions of (m) bytes, 2 each */
#define XH2(opc, a)          XH(opc, NP, NO, a), XSH(opc, F3, NO, a)
#define XHC(opc, pp, m, a)   XB(opc, pp, W0, m, NO, AVX512FP16, 2, KZ | NV | (a))

static const struct entry evex_map5[2048] = {
	XV(0x10, F3, W0, 2, NO, AVX512FP16, R | KZ | NVM | LIG),
	XV(0x11, F3, W0, 2, NO, AVX512FP16, W | KZ | NVM | LIG),
	XD(0x1d, 66, NO, AVX512FP16, NV | RC),
	XV(0x1d, NP, W0, 4, NO, AVX512FP16, R | KZ | LIG | RC),
	X_(0x2a, F3, WIG, VEC_RM, OP, NO, AVX512FP16, R | LIG | RC),
	X_(0x2c, F3, WIG, REG_VEC, 2, NO, AVX512FP16, R | NV | LIG | SAE),
	X_(0x2d, F3, WIG, REG_VEC, 2, NO, AVX512FP16, R | NV | LIG | RC),
	XV(0x2e, NP, W0, 2, NO, AVX512FP16, R | NV | LIG | SAE),
	XV(0x2f, NP, W0, 2, NO, AVX512FP16, R | NV | LIG | SAE),
	XH(0x51, NP, NO, NV | RC),
	XSH(0x51, F3, NO, RC),
	XH2(0x58, RC), XH2(0x59, RC),
	XHC(0x5a, NP, QUARTER, SAE),
	XQ(0x5a, 66, NO, AVX512FP16, NV | RC),
	XSH(0x5a, F3, NO, SAE),
	XV(0x5a, F2, W1, 8, NO, AVX512FP16, R | KZ | LIG | RC),
	XD(0x5b, NP, NO, AVX512FP16, NV | RC),
	XQ(0x5b, NP, NO, AVX512FP16, NV | RC),
	XHC(0x5b, 66, HALF, RC), XHC(0x5b, F3, HALF, SAE),
	XH2(0x5c, RC), XH2(0x5d, SAE), XH2(0x5e, RC), XH2(0x5f, SAE),
	X_(0x6e, 66, WIG, VEC_RM, 2, NO, AVX512FP16, R | L0 | NV),
	X_(0x7e, 66, WIG, RM_VEC, 2, NO, AVX512FP16, W | L0 | NV),
	XHC(0x78, NP, HALF, SAE), XHC(0x78, 66, QUARTER, SAE),
	X_(0x78, F3, WIG, REG_VEC, 2, NO, AVX512FP16, R | NV | LIG | SAE),
	XHC(0x79, NP, HALF, RC), XHC(0x79, 66, QUARTER, RC),
	X_(0x79, F3, WIG, REG_VEC, 2, NO, AVX512FP16, R | NV | LIG | RC),
	XHC(0x7a, 66, QUARTER, SAE),
	XD(0x7a, F2, NO, AVX512FP16, NV | RC),
	XQ(0x7a, F2, NO, AVX512FP16, NV | RC),
	XHC(0x7b, 66, QUARTER, RC),
	X_(0x7b, F3, WIG, VEC_RM, OP, NO, AVX512FP16, R | LIG | RC),
	XHC(0x7c, NP, VL, SAE), XHC(0x7c, 66, VL, SAE), XHC(0x7d, NP, VL, RC), XHC(0x7d, 66, VL, RC),
	XHC(0x7d, F3, VL, RC), XHC(0x7d, F2, VL, RC),
};

#define XHMA_P(opc) XH(opc, 66, NO, RC)
#define XHMA_S(opc) XSH(opc, 66, NO, RC)
#define XHMA(opc) \
	XHMA_P((opc) + 0x6), XHMA_P((opc) + 0x7), XHMA_P((opc) + 0x8), XHMA_S((opc) + 0x9), \
	XHMA_P((opc) + 0xa), XHMA_S((opc) + 0xb), XHMA_P((opc) + 0xc), XHMA_S((opc) + 0xd), \
	XHMA_P((opc) + 0xe), XHMA_S((opc) + 0xf)
/* complex multiplication: pairs of half precision */
#define XHCX(opc, pp) \
	XD(opc, pp, NO, AVX512FP16, RC | A_DISTINCT), \
	XV((opc) + 1, pp, W0, 4, NO, AVX512FP16, R | KZ | LIG | RC | A_DISTINCT)

static const struct entry evex_map6[2048] = {
	XHC(0x13, 66, HALF, SAE),
	XSH(0x13, NP, NO, SAE),
	XH(0x2c, 66, NO, RC),
	XSH(0x2d, 66, NO, RC),
	XH(0x42, 66, NO, NV | SAE),
	XSH(0x43, 66, NO, SAE),
	XH(0x4c, 66, NO, NV),
	XSH(0x4d, 66, NO, 0),
	XH(0x4e, 66, NO, NV),
	XSH(0x4f, 66, NO, 0),
	XHCX(0x56, F3), XHCX(0x56, F2), XHCX(0xd6, F3), XHCX(0xd6, F2),
	XHMA(0x90), XHMA(0xa0), XHMA(0xb0),
};

static const struct entry *const evex_maps[8] = {
	NULL, evex_0f, evex_0f38, evex_0f3a, NULL, evex_map5, evex_map6, NULL,
};

/* Shifts and rotations by an immediate: words; doublewords; quadwords */
#define XSHW EF(NATIVE, VEC, VL, U8, AVX512BW, VX | R | KZ)
#define XSHB EF(NATIVE, VEC, VL, U8, AVX512BW, VX | R)
#define XSHD { OP_NATIVE, FORM_VEC, FEAT_AVX512F, M_VL, IMM_U8, 0, 4, VX | R | KZ }
#define XSHQ { OP_NATIVE, FORM_VEC, FEAT_AVX512F, M_VL, IMM_U8, 0, 8, VX | R | KZ }
static const struct entry group_x12[8] = { [2] = XSHW, [4] = XSHW, [6] = XSHW };
static const struct entry group_x13[8] = { XSHD, XSHD, XSHD, [4] = XSHD, [6] = XSHD };
static const struct entry group_x13w[8] = { XSHQ, XSHQ, [4] = XSHQ };
static const struct entry group_x14[8] = { [3] = XSHB, [7] = XSHB };
static const struct entry group_x14w[8] = { [2] = XSHQ, [3] = XSHB, [6] = XSHQ, [7] = XSHB };

/* clang-format on */

#endif
