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
};

/** accel_ops.probe: run a loop in 64-bit mode, with loads and stores through
 * its page tables, for some milliseconds. */
int64_t interp_probe(struct err *err);

#endif
