/*
 * How a guest instruction is written down for the host: see native.c for the
 * whole picture. For native.c, and for bt/, which writes instructions down
 * in the same way.
 */
#ifndef VCPU_INSN_NATIVE_ENCODE_H
#define VCPU_INSN_NATIVE_ENCODE_H

#include "vcpu/insn/decode.h"

/** The instruction as the host runs it, and which registers its stub moves.
 * Compared as a whole, so unused bytes are zero. */
struct native_code {
	uint8_t bytes[16];
	uint8_t len;
	uint8_t mem;   /* register with the operand's address, or INSN_NONE */
	uint8_t rsp;   /* register that stands for RSP, or INSN_NONE */
	uint8_t flags; /* 1: it reads or writes status flags */
	uint32_t gprs; /* bit n: the guest's general register n is an operand */
};

/** May (insn) run on the host, as it is but for its registers and where its
 * memory operand is? The integer instructions asked about have a ModRM byte. */
bool insn_is_native(const struct insn *insn);
/** Is what ModRM.reg, ModRM.rm, VEX.vvvv name a general register? */
bool insn_reg_is_gpr(const struct insn *insn);
bool insn_rm_is_gpr(const struct insn *insn);
bool insn_v_is_gpr(const struct insn *insn);
/** General registers that it uses without naming them, as bits. */
uint32_t insn_implied_gprs(const struct insn *insn);
/** Does it read or write status flags? */
bool insn_uses_flags(const struct insn *insn);

/** Offsets in a stub: its instruction, and its way out after a fault. */
struct native_layout {
	uint16_t insn, fail;
};

/**
 * Encode (insn) for the host into (code). False if it is none of those that
 * may run there: those are OP_NATIVE instructions and integer ones with a
 * ModRM byte whose memory operand is what the decoder says.
 */
bool native_encode(struct native_code *code, const struct insn *insn);

/** Write (code)'s stub to (out), at most 256 bytes; returns its size. */
unsigned native_emit(const struct native_code *code, uint8_t *out,
		     struct native_layout *at);

#endif
