/* Counters of a fixed frequency, in guest time. */
#ifndef DEVICE_CHIP_TICKS_H
#define DEVICE_CHIP_TICKS_H

#include "base/base.h"

/* A guest may program a period of a few ticks. Expiring that often would keep
 * the loop from everything else, so periodic timers run at most this often. */
#define TICKS_MIN_PERIOD_NS (50 * NSEC_PER_USEC)

/* The first guest time, in ns, at which vclock_ticks(hz) is (ticks). */
static inline int64_t ticks_to_ns(uint64_t ticks, uint64_t hz)
{
	unsigned __int128 ns =
		((unsigned __int128)ticks * NSEC_PER_SEC + hz - 1) / hz;

	return ns > INT64_MAX ? INT64_MAX : (int64_t)ns;
}

#endif
