/*
 * Native emulation: run one guest instruction on the host's CPU, with its
 * memory operand replaced by a host address. What the guest would see (result,
 * flags, every undefined bit, FPU state, atomicity) is what this CPU does.
 *
 * The guest's FPU, SSE and AVX state is live in the host's registers while an
 * instruction runs; interp/ loads it before the first and saves it before any
 * C code that may use those registers (interp/ and insn/ are built with
 * -mgeneral-regs-only).
 */
#ifndef VCPU_INSN_NATIVE_H
#define VCPU_INSN_NATIVE_H

#include "arch/regs.h"
#include "base/err.h"
#include "vcpu/insn/decode.h"

/** Executable memory with the stubs of one virtual CPU; used by its thread. */
struct native;

/** A stub: the instruction between a prologue that loads the registers it
 * reads and an epilogue that stores those it writes. */
struct native_stub;

/** How the instruction ended. */
enum native_result {
	NATIVE_DONE,
	NATIVE_UD, /* SIGILL */
	NATIVE_GP, /* SIGSEGV: a misaligned vector operand */
	NATIVE_AC, /* SIGBUS: a split lock, on a host that forbids them */
	NATIVE_DE, /* SIGFPE, integer */
	NATIVE_MF, /* SIGFPE, x87 */
	NATIVE_XM, /* SIGFPE, SSE and later */
	NATIVE_PF, /* SIGSEGV: (operand) was on a page that is not there */
};

/** Allocate the stub memory (two mappings of one memfd: one writable, one
 * executable). The first instance of the process installs the handlers of
 * SIGSEGV, SIGBUS, SIGFPE and SIGILL, the last one puts the old ones back;
 * what is no stub's fault goes to those. Any thread; returns 0 or -errno. */
int native_create(struct native **out, struct err *err);
void native_destroy(struct native *n);

/** Shows the (ucontext_t) of a SIGSEGV, SIGBUS, SIGFPE or SIGILL that hit no
 * stub; true if it is dealt with. In the signal handler. */
typedef bool (*native_hook)(void *opaque, void *context);
/** Set it for the calling thread; NULL for none. */
void native_set_hook(native_hook fn, void *opaque);

/**
 * The stub that runs (insn), made if it is new: OP_NATIVE, and arithmetic,
 * shifts, moves and locked operations with a ModRM byte. NULL for others (no
 * control flow, no privilege, no memory beyond the operand). Valid until
 * native_generation() changes, when full stub memory starts over: worth
 * keeping with the decoded instruction.
 */
const struct native_stub *native_get(struct native *n, const struct insn *insn);
unsigned native_generation(const struct native *n);

/**
 * Run (stub) on (st)'s general registers and flags. (operand) is the host
 * address for the memory operand, unused without one; it has the same offset
 * in its page as the guest's, so that alignment checks hold. On a result
 * other than NATIVE_DONE (st) and the FPU state are as before. x87
 * environments that the guest stores name the stub as the last x87
 * instruction.
 */
enum native_result native_run(const struct native_stub *stub,
			      struct x86_state *st, void *operand);

#endif
