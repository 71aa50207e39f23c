/*
 * How a guest instruction is written down for the host: see native.c for the
 * whole picture. Private to native.c and native_encode.c.
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
