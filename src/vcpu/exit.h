/* What stopped the guest. */
#ifndef VCPU_EXIT_H
#define VCPU_EXIT_H

#include "base/base.h"

/* One list: the enum, the names, the histogram, the handlers. */
/* clang-format off */
#define EXIT_REASONS(X) \
	X(KICK,      "kick")		/* asked to: pause, stop, an event */ \
	X(PIO,       "pio")		/* counted only: see vcpu_pio() */ \
	X(MMIO,      "mmio")		/* counted only: see vcpu_mmio() */ \
	X(HLT,       "hlt")		/* nothing to do until an interrupt */ \
	X(SHUTDOWN,  "shutdown")	/* triple fault */ \
	X(HYPERCALL, "hypercall") \
	X(MSR,       "msr") \
	X(CPUID,     "cpuid") \
	X(DEBUG,     "debug")		/* a debugger's breakpoint or step */ \
	X(UNMAPPED,  "unmapped")	/* outside RAM and registers, and the
					 * machine's policy is to stop */ \
	X(ERROR,     "error")		/* the accelerator cannot go on */
/* clang-format on */

#define X(name, text) EXIT_##name,
/** Why run() returned, or what is counted like that. */
enum exit_reason { EXIT_REASONS(X) NR_EXIT_REASONS };
#undef X

/** An access to a port or a register; (data) holds (count) items of (size)
 * bytes for string I/O, count is 1 otherwise. */
struct access {
	uint64_t addr;
	uint8_t size;
	bool is_write;
	uint32_t count;
	void *data;
};

/** Filled by run(). */
struct exit {
	enum exit_reason reason;
	struct access access; /* valid for UNMAPPED */
	char text[120];       /* ERROR: why */
};

/** The name of (reason), for statistics and messages. */
const char *exit_name(enum exit_reason reason);

#endif
