/* ACPI tables: what the guest is told of the PC (ACPI 6.4). */
#ifndef MACHINE_ACPI_H
#define MACHINE_ACPI_H

#include "base/err.h"
#include "machine/memmap.h"

/** What differs between machines; arrays are borrowed. */
struct acpi_config {
	const struct memmap *map;
	const uint32_t *apic_ids;
	unsigned nr_cpus;
	unsigned nr_coms;
	bool has_pvpanic, has_fwcfg;
};

/** Where the root pointer is. */
#define ACPI_RSDP MEM_ACPI

/**
 * Write all tables, for guest address MEM_ACPI, into (buf) of MEM_ACPI_SIZE
 * bytes: root pointer, RSDT, XSDT, FADT, DSDT, MADT, HPET, MCFG. The FACS is
 * at MEM_FACS, written by acpi_facs(). -ENOSPC with (err) if they do not fit.
 */
int acpi_build(const struct acpi_config *config, uint8_t *buf, struct err *err);

/** Write the FACS, 64 bytes, into (buf). */
void acpi_facs(uint8_t *buf);

#endif
