/*
 * Where things are in guest-physical memory. One file, so that the recipe,
 * ACPI, and the loaders cannot disagree.
 *
 *   0000_0000  RAM, 640 KiB; its last KiB is the extended BIOS data area
 *   000A_0000  VGA, 128 KiB: claimed, answers all ones
 *   000C_0000  ROM, 256 KiB: ACPI at E0000, SMBIOS at F0000
 *   0010_0000  RAM, up to 3 GiB
 *   C000_0000  PCI window for 32-bit BARs, 512 MiB
 *   E000_0000  PCI Express configuration space (ECAM), 256 buses
 *   FEC0_0000  IOAPIC
 *   FED0_0000  HPET
 *   FEE0_0000  local APICs
 *   FFFF_F000  ROM with the reset vector
 * 1_0000_0000  the rest of RAM
 *        then  PCI window for 64-bit BARs, aligned to 4 GiB
 */
#ifndef MACHINE_MEMMAP_H
#define MACHINE_MEMMAP_H

#include "base/base.h"
#include "base/err.h"
#include "base/overflow.h"

struct gmem;

/* clang-format off */
#define MEM_EBDA        0x0009fc00ULL
#define MEM_EBDA_SIZE   (1 * KiB)
#define MEM_FACS        0x0009fc40ULL /* in the EBDA: writable, reserved */
#define MEM_VGA         0x000a0000ULL
#define MEM_VGA_SIZE    (128 * KiB)
#define MEM_ROM         0x000c0000ULL
#define MEM_ROM_SIZE    (256 * KiB)
#define MEM_ACPI        0x000e0000ULL
#define MEM_ACPI_SIZE   (64 * KiB)
#define MEM_SMBIOS      0x000f0000ULL
#define MEM_SMBIOS_SIZE (64 * KiB)
#define MEM_LOW         0x00100000ULL
#define MEM_LOW_MAX     0xc0000000ULL
#define MEM_PCI32       0xc0000000ULL
#define MEM_PCI32_SIZE  (512 * MiB)
#define MEM_ECAM        0xe0000000ULL
#define MEM_ECAM_SIZE   (256 * MiB)
#define MEM_NR_BUSES    256
#define MEM_IOAPIC      0xfec00000ULL
#define MEM_HPET        0xfed00000ULL
#define MEM_LAPIC       0xfee00000ULL
#define MEM_RESET_ROM   0xfffff000ULL
#define MEM_RESET_SIZE  (4 * KiB)
#define MEM_HIGH        0x100000000ULL
#define MEM_PCI64_MIN   (32 * GiB)
/* clang-format on */

#define MEM_SIZE_MIN (2 * MiB)

/** Types of ranges as the BIOS call e820 numbers them. */
enum mem_type { MEM_RAM = 1, MEM_RESERVED = 2 };

/** A range that the guest is told about. */
struct mem_entry {
	uint64_t base, len;
	enum mem_type type;
};

#define MEM_MAX_ENTRIES 12

/** The map of a machine with a given amount of RAM. */
struct memmap {
	uint64_t low_end;  /* RAM below the PCI hole ends here */
	uint64_t high_end; /* RAM above 4 GiB ends here; MEM_HIGH: none */
	uint64_t pci64, pci64_size;
	unsigned nr;
	struct mem_entry entry[MEM_MAX_ENTRIES]; /* sorted, apart */
};

/** Lay out (ram) bytes for a CPU with physical addresses of (phys_bits).
 * -EINVAL with (err) when the size cannot be. */
int memmap_init(struct memmap *map, uint64_t ram, unsigned phys_bits,
		struct err *err);

/** Add the RAM and ROM of (map) to (mem). -errno with (err). */
int memmap_populate(const struct memmap *map, struct gmem *mem,
		    struct err *err);

/** Is [base, base + len) RAM of the guest, all of it in one piece? */
bool memmap_is_ram(const struct memmap *map, uint64_t base, uint64_t len);

#endif
