/*
 * The seam between a virtual machine and what runs its instructions: kvm, bt,
 * interp. Everything that an accelerator must offer is one struct.
 */
#ifndef VCPU_ACCEL_H
#define VCPU_ACCEL_H

#include "arch/cpuid.h"
#include "base/err.h"
#include "bus/bus.h"
#include "bus/irq.h"
#include "vcpu/exit.h"

struct vcpu;
struct vcpus;

/** What an accelerator can be asked beside running the machine; zero: nothing.
 * One that cannot do what is asked says so in vm_create. */
struct accel_options {
	bool check;        /* bt: compare each block with interp's result */
	const char *trace; /* bt: write down each block; a file, or "" for
			    * stderr */
};

/** An accelerator. Functions return 0 or -errno; the ones that may be NULL
 * say so. (vs) is the machine's set of CPUs, with memory and buses. */
struct accel_ops {
	const char *name;

	/* Can it be used here, and how fast is it? Runs a short guest. Returns
	 * guest instructions a second, or -errno with the reason in (err). */
	int64_t (*probe)(struct err *err);

	/* Prepare (vs->accel) for (vs): memory is there, CPUs are not. */
	int (*vm_create)(struct vcpus *vs, struct err *err);
	void (*vm_destroy)(struct vcpus *vs);

	/* Make (vcpu->accel); on the CPU's own thread. */
	int (*vcpu_create)(struct vcpu *vcpu, struct err *err);
	void (*vcpu_destroy)(struct vcpu *vcpu);

	/* Run guest instructions until (exit) says what happened; a kick ends
	 * it soon. On the CPU's own thread. When it returns, the state is where
	 * get_state finds it from another thread. -errno only for our own or
	 * the host's failure, with (exit->text). */
	int (*run)(struct vcpu *vcpu, struct exit *exit);
	/* Make run() return soon, also when called just before it starts: a
	 * bit in (vcpu->requests) is set already. Any thread, never waits. */
	void (*kick)(struct vcpu *vcpu);

	/* Exchange the whole state; the CPU is not running. */
	int (*get_state)(struct vcpu *vcpu, struct x86_state *st);
	int (*set_state)(struct vcpu *vcpu, const struct x86_state *st);

	/* Interrupt controllers that the accelerator offers itself, in place
	 * of the machine's own chips, for (vs->accel): NULL where it never
	 * has any, and in use where vm_create set (vs->has_irqchip). */
	const struct irqchip_ops *irqchip;
	/* Put them into their state after power-on; all CPUs are parked. */
	void (*irqchip_reset)(struct vcpus *vs);

	/* Take doorbells into the kernel, for (vs->accel); NULL where it
	 * cannot. */
	const struct doorbell_ops *doorbell;

	/* Print the accelerator's own counters into (vs->stats); may be NULL. */
	void (*add_stats)(struct vcpus *vs);
};

extern const struct accel_ops accel_interp, accel_bt;
extern const struct accel_ops accel_kvm, accel_kvm_user;

#endif
