/* The machine's part of the reference processor, and its speed. */
#ifndef VCPU_INTERP_INTERP_H
#define VCPU_INTERP_INTERP_H

#include "vcpu/interp/cpu.h"

/** (vcpus->accel). */
struct interp {
	/* Held by a locked instruction whose operand has no single host
	 * address. */
	pthread_mutex_t split_lock;
	struct stats_group groups[MAX_VCPUS];
	struct stats_group op_groups[MAX_VCPUS]; /* by instruction */
};

/** Of accel_ops, for the accelerators that are built on this one. */
int interp_vm_create(struct vcpus *vs, struct err *err);
void interp_vm_destroy(struct vcpus *vs);
/** List (counts), NR_OPS counters of CPU (n) by instruction, as (name). */
void interp_add_op_stats(struct vcpus *vs, unsigned n, const char *name,
			 const uint64_t *counts);
int interp_get_state(struct vcpu *vcpu, struct x86_state *st);
int interp_set_state(struct vcpu *vcpu, const struct x86_state *st);

/** accel_ops.probe of (ops): run a loop in 64-bit mode, with loads and stores
 * through its page tables, for some milliseconds. */
int64_t software_probe(const struct accel_ops *ops, struct err *err);

#endif
