/*
 * Every operation that the software processors treat by themselves, in one
 * list. All others are OP_NATIVE: run on the host's own CPU.
 */
#ifndef VCPU_INSN_OPS_H
#define VCPU_INSN_OPS_H

#include "base/base.h"

/* One list, aligned. */
/* clang-format off */
#define INSN_OPS(X) \
	/* none of the others */ \
	X(INVALID) X(NATIVE) X(NOP) X(PAUSE) X(UD) \
	/* arithmetic and logic: (reg, rm), (rm, reg), (rm, imm) by the form */ \
	X(ADD) X(OR) X(ADC) X(SBB) X(AND) X(SUB) X(XOR) X(CMP) X(TEST) \
	X(INC) X(DEC) X(NEG) X(NOT) \
	X(ROL) X(ROR) X(RCL) X(RCR) X(SHL) X(SHR) X(SAR) X(SHLD) X(SHRD) \
	X(MUL) X(IMUL1) X(IMUL2) X(IMUL3) X(DIV) X(IDIV) \
	X(BT) X(BTS) X(BTR) X(BTC) X(BSF) X(BSR) X(BSWAP) \
	X(CBW) X(CWD) X(LAHF) X(SAHF) X(CLC) X(STC) X(CMC) X(CLD) X(STD) \
	X(DAA) X(DAS) X(AAA) X(AAS) X(AAM) X(AAD) X(SALC) \
	/* moves */ \
	X(MOV) X(MOVZX) X(MOVSX) X(LEA) X(XCHG) X(XADD) X(CMPXCHG) \
	X(CMPXCHG8B) X(CMPXCHG16B) X(SETCC) X(CMOVCC) X(XLAT) \
	X(PUSH) X(POP) X(PUSHA) X(POPA) X(PUSHF) X(POPF) X(ENTER) X(LEAVE) \
	/* control flow */ \
	X(JMP) X(JMP_IND) X(CALL) X(CALL_IND) X(RET) X(JCC) X(JCXZ) \
	X(LOOP) X(LOOPE) X(LOOPNE) \
	X(JMP_FAR) X(JMP_FAR_IND) X(CALL_FAR) X(CALL_FAR_IND) X(RET_FAR) \
	X(INT) X(INT1) X(INT3) X(INTO) X(BOUND) X(IRET) \
	X(SYSCALL) X(SYSRET) X(SYSENTER) X(SYSEXIT) \
	/* strings, with or without REP */ \
	X(MOVS) X(CMPS) X(STOS) X(LODS) X(SCAS) X(INS) X(OUTS) X(IN) X(OUT) \
	/* segments and descriptor tables */ \
	X(MOV_TO_SEG) X(MOV_FROM_SEG) X(PUSH_SEG) X(POP_SEG) X(LOAD_FAR) \
	X(SGDT) X(SIDT) X(LGDT) X(LIDT) X(SLDT) X(STR) X(LLDT) X(LTR) \
	X(VERR) X(VERW) X(LAR) X(LSL) X(ARPL) X(SMSW) X(LMSW) \
	X(RDFSBASE) X(RDGSBASE) X(WRFSBASE) X(WRGSBASE) X(SWAPGS) \
	/* system */ \
	X(CLI) X(STI) X(CLAC) X(STAC) X(CLTS) X(HLT) X(CPUID) \
	X(MOV_TO_CR) X(MOV_FROM_CR) X(MOV_TO_DR) X(MOV_FROM_DR) \
	X(RDMSR) X(WRMSR) X(RDTSC) X(RDTSCP) X(RDPMC) X(RDPID) \
	X(INVLPG) X(INVPCID) X(INVD) X(WBINVD) X(CLFLUSH) X(SERIALIZE) \
	X(MONITOR) X(MWAIT) X(XGETBV) X(XSETBV) X(VMCALL) X(VMMCALL) \
	/* state components, and memory touched element by element */ \
	X(FWAIT) X(FXSAVE) X(FXRSTOR) X(XSAVE) X(XSAVEOPT) X(XSAVEC) X(XRSTOR) \
	X(GATHER) X(SCATTER) X(MASKMOV)

/* CPUID features that an instruction may need; a guest from which the bit is
 * hidden gets #UD although the host would run it. Instructions that no guest
 * is offered do not decode. The decoder names no AVX512VL: it comes with
 * AVX512F on every processor but the Xeon Phi. */
#define INSN_FEATURES(X) \
	X(BASE) X(CX8) X(CMOV) X(FPU) X(MMX) X(FXSR) X(SSE) X(SSE2) X(SSE3) \
	X(SSSE3) X(SSE4_1) X(SSE4_2) X(SSE4A) X(POPCNT) X(PCLMUL) X(AES) \
	X(MOVBE) X(CX16) X(XSAVE) X(XSAVEOPT) X(XSAVEC) X(AVX) X(F16C) X(FMA) \
	X(AVX2) X(BMI1) X(BMI2) X(LZCNT) X(ADX) X(SHA) X(RDRAND) X(RDSEED) \
	X(FSGSBASE) X(RDTSCP) X(RDPID) X(INVPCID) X(SMAP) X(CLFLUSH) \
	X(CLFLUSHOPT) X(CLWB) X(GFNI) X(VAES) X(VPCLMUL) X(AVX_VNNI) \
	X(AVX512F) X(AVX512BW) X(AVX512DQ) X(AVX512CD) X(AVX512IFMA) \
	X(AVX512VBMI) X(AVX512VBMI2) X(AVX512VNNI) X(AVX512BITALG) \
	X(AVX512VPOPCNT) X(AVX512BF16) X(AVX512FP16) X(MOVDIRI) X(MOVDIR64B) \
	X(SERIALIZE) X(MONITOR) X(SEP) X(LM) X(PREFETCHW) \
	X(NEVER) /* for instructions that no guest is to be offered */
/* clang-format on */

#define X(name) OP_##name,
/** What an instruction does. */
enum insn_op { INSN_OPS(X) NR_OPS };
#undef X

#define X(name) FEAT_##name,
/** The CPUID feature that an instruction needs. */
enum insn_feature { INSN_FEATURES(X) NR_FEATURES };
#undef X

/** One bit for each enum insn_feature. */
struct insn_features {
	uint64_t word[(NR_FEATURES + 63) / 64];
};

static inline bool insn_has_feature(const struct insn_features *f, unsigned n)
{
	return f->word[n / 64] >> (n % 64) & 1;
}

#endif
