/*
 * Virtual CPUs and their threads: running, pausing, waking. What is here knows
 * neither devices nor how instructions run.
 *
 * State of a set of CPUs:
 *
 *     created --vcpus_start--> paused <--vcpus_pause/resume--> running
 *                                 \------vcpus_stop------> stopped
 *
 * Every CPU has a thread. It runs, sleeps in HLT, or is parked while the set
 * is paused. Requests from other threads are bits in (requests) and a kick.
 */
#ifndef VCPU_VCPU_H
#define VCPU_VCPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "arch/cpuid.h"
#include "arch/regs.h"
#include "base/log.h"
#include "base/stats.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "bus/vclock.h"
#include "mem/gmem.h"
#include "vcpu/accel.h"

#define MAX_VCPUS 64

/** What other threads ask of a CPU's thread, in vcpu.requests. */
enum vcpu_request {
	VCPU_REQ_WAKE = 1 << 0, /* look for interrupts */
	VCPU_REQ_NMI = 1 << 1,
	VCPU_REQ_INIT = 1 << 2,
	VCPU_REQ_SIPI = 1 << 3,
	VCPU_REQ_PAUSE = 1 << 4,  /* park */
	VCPU_REQ_STOP = 1 << 5,   /* leave the thread */
	VCPU_REQ_TLB = 1 << 6,    /* flush the software TLB */
	VCPU_REQ_UNHALT = 1 << 7, /* leave HLT: KVM's KICK_CPU */
	VCPU_REQ_CODE = 1 << 8,   /* a translator's own */
};

/** What happens to an access that neither RAM nor a device answers. */
enum unmapped_policy {
	UNMAPPED_IGNORE, /* reads all ones, as on a PC */
	UNMAPPED_KILL,   /* the machine stops with a message */
	UNMAPPED_INJECT, /* #GP(0) */
};

/** Counters of one CPU, in the statistics. */
struct vcpu_stats {
	uint64_t instructions; /* where the accelerator counts them */
	uint64_t interrupts, exceptions, halts, kicks;
	uint64_t run_ns, steal_ns;
	uint64_t exits[NR_EXIT_REASONS];
};

/** What pv.c keeps for a CPU. */
struct vcpu_pv {
	int64_t mark_ns;     /* guest time when steal time was last counted, */
	int64_t mark_cpu_ns; /* and the thread's CPU time; 0: not counting */
	struct log_limit log;
};

/** One moment on the two clocks of a machine: what the clock pages of all its
 * CPUs start from, so that they agree. */
struct pv_moment {
	bool is_valid;
	int64_t tsc_offset; /* of the clock, while this is good */
	uint64_t tsc;
	int64_t ns;
};

/** A virtual CPU. What is not marked otherwise belongs to its thread. */
struct vcpu {
	unsigned index;
	struct vcpus *set;
	struct intc intc;
	void *accel; /* the accelerator's part */

	pthread_t thread;
	_Atomic uint32_t requests; /* enum vcpu_request */
	uint8_t sipi_vector;
	_Atomic bool is_asleep;     /* waiting for (wake) */
	bool is_created, is_parked; /* under (set->lock) */
	bool is_dead;               /* shut down: waits for a new state */
	pthread_mutex_t lock; /* guards sleeping; nothing is taken in it */
	pthread_cond_t wake;
	int create_error;
	struct err create_err;

	struct vcpu_pv pv;
	struct vcpu_stats stats;
	struct stats_group stats_group;
};

/** What the CPUs tell the machine; called on a CPU's thread, which must not
 * wait for the CPUs in it. */
struct vcpus_events {
	/* Triple fault, or an exit that ends the machine, with why. */
	void (*shutdown)(void *opaque, struct vcpu *vcpu,
			 const struct exit *exit);
	void *opaque;
};

/** A machine's CPUs and what they are connected to, all borrowed. */
struct vcpus {
	const struct accel_ops *ops;
	void *accel;
	struct gmem *mem;
	struct bus *pio, *mmio;
	struct vclock *clock;
	struct stats *stats;
	struct cpuid_policy cpuid;
	/* Set by the accelerator's vm_create: its own interrupt controllers
	 * (ops->irqchip, for (accel)) take the place of the machine's. */
	bool has_irqchip;
	enum unmapped_policy unmapped;
	struct accel_options options;
	struct vcpus_events events;
	unsigned nr;
	struct vcpu *vcpu; /* array of (nr) */

	pthread_mutex_t lock; /* guards parking, (moment) */
	pthread_cond_t parked, resumed;
	bool is_paused;
	struct pv_moment moment;
};

/**
 * Make the accelerator's machine and one parked thread for each of (nr) CPUs.
 * (vs) has its connections and (ops) filled in. Undone by vcpus_destroy().
 */
int vcpus_create(struct vcpus *vs, unsigned nr, struct err *err);
/** Stop all threads and free the CPUs. */
void vcpus_destroy(struct vcpus *vs);

/** Let all CPUs run, or park them all and wait until they are. Not from a
 * CPU's thread. Both do nothing when it is so already. */
void vcpus_resume(struct vcpus *vs);
void vcpus_pause(struct vcpus *vs);

/** vcpus_pause() in two halves, for a caller whom a CPU may be waiting for:
 * ask all CPUs to park, from any thread, and wait up to (timeout_ns) until
 * they are, which is the result. */
void vcpus_pause_begin(struct vcpus *vs);
bool vcpus_pause_wait(struct vcpus *vs, int64_t timeout_ns);

/** Set bits of enum vcpu_request and make the CPU notice. Any thread, never
 * waits. VCPU_REQ_WAKE is cleared by the run loop when the CPU wakes up or by
 * the accelerator when it looks for interrupts; the accelerator clears NMI,
 * INIT, SIPI, TLB and CODE when it acts on them, the run loop PAUSE and STOP. */
void vcpu_request(struct vcpu *vcpu, uint32_t requests);

/** A port that signals (vcpu), for its interrupt controller. */
struct cpu_port vcpu_port(struct vcpu *vcpu);

/** The whole state of a parked CPU. */
int vcpu_get_state(struct vcpu *vcpu, struct x86_state *st);
int vcpu_set_state(struct vcpu *vcpu, const struct x86_state *st);

/** What the CPU's thread does when run() returned (exit): waits in HLT, tells
 * the machine, and so on (exits.c). */
void vcpu_handle_exit(struct vcpu *vcpu, const struct exit *exit);

/** Sleep until a request arrives. On the CPU's thread. */
void vcpu_sleep(struct vcpu *vcpu);

/**
 * For accelerators, on the CPU's thread. Every port and register access of
 * every accelerator goes through these two, which count it and dispatch to the
 * bus. vcpu_mmio() returns false when nothing answers at the address and the
 * unmapped policy is not UNMAPPED_IGNORE: the accelerator injects #GP(0) or
 * exits with EXIT_UNMAPPED, by (vcpu->set->unmapped).
 */
void vcpu_pio(struct vcpu *vcpu, const struct access *a);
bool vcpu_mmio(struct vcpu *vcpu, const struct access *a);

/** Take and clear request bits (mask) of (vcpu). */
static inline uint32_t vcpu_take_requests(struct vcpu *vcpu, uint32_t mask)
{
	if (!(atomic_load_explicit(&vcpu->requests, memory_order_relaxed) &
	      mask))
		return 0;
	return atomic_fetch_and(&vcpu->requests, ~mask) & mask;
}

#endif
