/* SMBIOS tables: make, processors and memory for people (DSP0134 3.2). */
#ifndef MACHINE_SMBIOS_H
#define MACHINE_SMBIOS_H

#include "arch/cpuid.h"
#include "base/bits.h"
#include "base/err.h"
#include "machine/memmap.h"

/** What differs between machines. */
struct smbios_config {
	const struct memmap *map;
	uint64_t mem_size;
	struct cpu_topology cpus;
};

/**
 * Write both entry points and the tables, for guest address MEM_SMBIOS, into
 * (buf) of MEM_SMBIOS_SIZE bytes. -ENOSPC with (err) if they do not fit.
 */
int smbios_build(const struct smbios_config *config, uint8_t *buf,
		 struct err *err);

#endif
