#include "machine/memmap.h"

#include <errno.h>

#include "mem/gmem.h"

static void add(struct memmap *map, uint64_t base, uint64_t end,
		enum mem_type type)
{
	if (base >= end)
		return;
	vm_assert(map->nr < MEM_MAX_ENTRIES);
	map->entry[map->nr++] = (struct mem_entry){ base, end - base, type };
}

int memmap_init(struct memmap *map, uint64_t ram, unsigned phys_bits,
		struct err *err)
{
	uint64_t limit = 1ULL << MIN(phys_bits, 52u);
	uint64_t pci64_end;

	*map = (struct memmap){ .low_end = MIN(ram, MEM_LOW_MAX),
				.high_end = MEM_HIGH };
	if (ram < MEM_SIZE_MIN || ram % PAGE_SIZE)
		return err_set(
			err, EINVAL, "give at least 2M, in whole pages of 4K",
			"cannot make a machine with %llu bytes of memory",
			(unsigned long long)ram);
	if (ram - map->low_end > limit - MIN(limit, MEM_HIGH))
		return err_set(err, EINVAL, "give less memory",
			       "%llu MiB of memory are more than physical "
			       "addresses of %u bits reach",
			       (unsigned long long)(ram / MiB), phys_bits);
	map->high_end += ram - map->low_end;
	map->pci64 = ALIGN_UP(map->high_end, 4 * GiB);
	pci64_end = MIN(map->pci64 + MEM_PCI64_MIN, limit);
	if (map->pci64 < pci64_end)
		map->pci64_size = pci64_end - map->pci64;

	add(map, 0, MEM_EBDA, MEM_RAM);
	add(map, MEM_EBDA, MEM_VGA, MEM_RESERVED);
	add(map, MEM_ROM, MEM_LOW, MEM_RESERVED);
	add(map, MEM_LOW, map->low_end, MEM_RAM);
	add(map, MEM_ECAM, MEM_ECAM + MEM_ECAM_SIZE, MEM_RESERVED);
	add(map, MEM_RESET_ROM, MEM_HIGH, MEM_RESERVED);
	add(map, MEM_HIGH, map->high_end, MEM_RAM);
	return 0;
}

int memmap_populate(const struct memmap *map, struct gmem *mem, struct err *err)
{
	const struct {
		const char *name;
		uint64_t base, end;
		unsigned flags;
	} region[] = {
		{ "ram-base", 0, MEM_VGA, 0 },
		{ "rom", MEM_ROM, MEM_LOW, GMEM_RO },
		{ "ram", MEM_LOW, map->low_end, 0 },
		{ "reset-rom", MEM_RESET_ROM, MEM_HIGH, GMEM_RO },
		{ "ram-high", MEM_HIGH, map->high_end, 0 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(region); i++) {
		int r;

		if (region[i].base == region[i].end)
			continue;
		r = gmem_add(mem, region[i].name, region[i].base,
			     region[i].end - region[i].base, region[i].flags,
			     err);
		if (r)
			return r;
	}
	return 0;
}

bool memmap_is_ram(const struct memmap *map, uint64_t base, uint64_t len)
{
	for (unsigned i = 0; i < map->nr; i++) {
		const struct mem_entry *e = &map->entry[i];

		if (e->type == MEM_RAM && base >= e->base &&
		    range_fits(base - e->base, len, e->len))
			return true;
	}
	return false;
}
