/*
 * A bare machine for processor tests: RAM, empty buses, and virtual CPUs that
 * run on the caller's thread, with tables for every mode in place.
 *
 * Exceptions: every vector's handler is a HLT at its own address, so a run
 * ends there, and rig_exception() tells which one it was and what is on its
 * stack.
 */
#ifndef TESTS_LIB_RIG_H
#define TESTS_LIB_RIG_H

#include <signal.h>

#include "vcpu/vcpu.h"

#define RIG_MAX_CPUS 2

/* Where things are, guest-physical; also guest-virtual below 1 GiB (identity)
 * unless a test changes the tables. */
#define RIG_GDT      0x1000
#define RIG_IDT      0x2000
#define RIG_TSS      0x3000
#define RIG_HANDLERS 0x4000 /* 16 bytes each: HLT */
#define RIG_PML4     0x5000
#define RIG_PDPT     0x6000
#define RIG_PD       0x7000
#define RIG_PT       0x8000  /* for the first 2 MiB */
#define RIG_PD32     0x9000  /* two-level paging */
#define RIG_IVT      0x0000  /* real mode */
#define RIG_STACK0   0x20000 /* top of the level 0 stack */
#define RIG_CODE     0x10000
#define RIG_DATA     0x40000
#define RIG_STACK    0x60000

/* Selectors. */
#define RIG_CS64  0x08
#define RIG_CS32  0x10
#define RIG_CS16  0x18
#define RIG_DS    0x20
#define RIG_DS16  0x28
#define RIG_UCS64 0x30
#define RIG_UCS32 0x38
#define RIG_UDS   0x40
#define RIG_TR    0x50

enum rig_mode { RIG_REAL, RIG_PROT16, RIG_PROT32, RIG_COMPAT32, RIG_LONG };

struct rig {
	struct gmem mem;
	struct vcpus vs;
	struct vcpu vcpu[RIG_MAX_CPUS];
	struct stats stats;
	/* What the next run starts from and where the last one ended. */
	struct x86_state st[RIG_MAX_CPUS];
	/* The accelerator's signal handlers, which cmocka replaces by its own
	 * for each test. */
	struct sigaction handlers[4];
};

/** What a run ended with, if it was an exception. */
struct rig_exception {
	int vector; /* -1: none, HLT in the code itself */
	bool has_error;
	uint64_t error, rip, rflags, rsp;
	uint16_t cs;
};

/** Make a machine with (ram) bytes at 0 and CPUs 0 to (nr) - 1, run by (ops). */
void rig_create(struct rig *rig, const struct accel_ops *ops, unsigned nr,
		uint64_t ram);
void rig_destroy(struct rig *rig);

/** Put CPU (n)'s state into (mode) at level (cpl), RIP at RIG_CODE. */
void rig_mode(struct rig *rig, unsigned n, enum rig_mode mode, unsigned cpl);

/** Copy (len) bytes of code to RIG_CODE, with a HLT behind. */
void rig_code(struct rig *rig, const void *code, unsigned len);
#define RIG_RUN(rig, ...)                                       \
	({                                                      \
		static const uint8_t code_[] = { __VA_ARGS__ }; \
		rig_code(rig, code_, sizeof(code_));            \
		rig_run(rig, 0);                                \
	})

/** Run CPU (n) from its state until HLT; says how it ended. */
struct rig_exception rig_run(struct rig *rig, unsigned n);
/** The same from where the CPU is, without a new state. */
struct rig_exception rig_continue(struct rig *rig, unsigned n);

/** Guest-physical memory. */
uint64_t rig_read(struct rig *rig, uint64_t gpa, unsigned size);
void rig_write(struct rig *rig, uint64_t gpa, unsigned size, uint64_t value);

#endif
