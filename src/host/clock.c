#include "host/clock.h"

#include <stdatomic.h>
#include <time.h>

#include <cpuid.h>

/* Long enough for an error of a few parts in a million. */
#define MEASURE_NS (10 * NSEC_PER_MSEC)

static int64_t clock_read_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

int64_t clock_now_ns(void)
{
	return clock_read_ns(CLOCK_MONOTONIC);
}

/* Read both clocks at one moment: of some tries, the one that was disturbed
 * least. */
static void read_pair(int64_t *ns, uint64_t *tsc)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < 8; i++) {
		uint64_t before = clock_tsc();
		int64_t now = clock_read_ns(CLOCK_MONOTONIC_RAW);
		uint64_t after = clock_tsc();

		if (after - before < best) {
			best = after - before;
			*ns = now;
			*tsc = before + best / 2;
		}
	}
}

static uint32_t measure_khz(void)
{
	int64_t start_ns = 0, end_ns = 0;
	uint64_t start_tsc = 0, end_tsc = 0;
	struct timespec pause = { .tv_nsec = MEASURE_NS };

	read_pair(&start_ns, &start_tsc);
	while (nanosleep(&pause, &pause))
		;
	read_pair(&end_ns, &end_tsc);
	return (end_tsc - start_tsc) * 1000000 / (end_ns - start_ns);
}

/* Intel SDM volume 2, CPUID leaf 15h: the crystal's frequency (ECX) and the
 * TSC's ratio to it (EBX/EAX). 0 where the processor does not say. */
static uint32_t cpuid_khz(void)
{
	uint32_t eax, ebx, ecx, edx;

	if (!__get_cpuid_count(0x15, 0, &eax, &ebx, &ecx, &edx) || !eax ||
	    !ebx || !ecx)
		return 0;
	return (uint64_t)ecx * ebx / eax / 1000;
}

uint32_t clock_tsc_khz(void)
{
	/* A fact of the host, found once; threads that race find the same. */
	static _Atomic uint32_t known_khz;
	uint32_t khz = atomic_load_explicit(&known_khz, memory_order_relaxed);

	if (!khz) {
		khz = cpuid_khz();
		if (!khz)
			khz = measure_khz();
		atomic_store_explicit(&known_khz, khz, memory_order_relaxed);
	}
	return khz;
}
