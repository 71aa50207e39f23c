/*
 * The real CPU as the oracle: runs one instruction natively, from a given
 * state, and says what it left.
 *
 * The instruction runs inside a signal frame: a first trap's handler puts the
 * test's registers into the frame, FPU state included, so that sigreturn loads
 * them; the trap or fault that ends the instruction finds them in its own
 * frame. INT3 behind the instruction makes it end in any case.
 */
#ifndef TESTS_INTERP_HOST_CPU_H
#define TESTS_INTERP_HOST_CPU_H

#include "arch/regs.h"

/** How an instruction ended. */
struct host_result {
	int vector;
	uint64_t error, cr2;
};

/** Install the handlers, and put back what was there. */
void host_cpu_begin(uint64_t xsave_mask);
void host_cpu_end(void);

/**
 * Run what is at (st->rip), in 64-bit or with (is_32) in 32-bit mode, from
 * (st)'s general registers, flags and FPU state; they are replaced by what it
 * left.
 */
struct host_result host_cpu_run(struct x86_state *st, bool is_32);

#endif
