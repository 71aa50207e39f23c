/* The host's clocks. */
#ifndef HOST_CLOCK_H
#define HOST_CLOCK_H

#include "base/base.h"

/** CLOCK_MONOTONIC in nanoseconds. */
int64_t clock_now_ns(void);

/** The host's TSC now. */
static inline uint64_t clock_tsc(void)
{
	return __builtin_ia32_rdtsc();
}

/** The TSC's frequency in kHz: from CPUID where it says, else measured against
 * CLOCK_MONOTONIC_RAW for a few milliseconds. The first call takes that long;
 * the result is kept. */
uint32_t clock_tsc_khz(void);

#endif
