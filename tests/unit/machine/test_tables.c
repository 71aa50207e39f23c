/* Memory map, ACPI and SMBIOS tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "machine/acpi.h"
#include "machine/memmap.h"
#include "machine/smbios.h"
#include "mem/gmem.h"

static void b2_memory_map_of_many_sizes(void **state)
{
	static const uint64_t sizes[] = {
		2 * MiB,
		16 * MiB,
		128 * MiB,
		128 * MiB + 4 * KiB,
		1 * GiB,
		2 * GiB,
		3 * GiB - 4 * KiB,
		3 * GiB,
		3 * GiB + 4 * KiB,
		4 * GiB,
		8 * GiB + 12 * KiB,
		64 * GiB,
		1024 * GiB,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct err err = { .what = "" };
		struct memmap m;
		uint64_t ram = 0, end = 0;

		assert_int_equal(memmap_init(&m, sizes[i], 46, &err), 0);
		for (unsigned j = 0; j < m.nr; j++) {
			const struct mem_entry *e = &m.entry[j];

			assert_true(e->len > 0 && e->base >= end);
			end = e->base + e->len;
			if (e->type == MEM_RAM)
				ram += e->len;
			if (e->type == MEM_RAM && e->base < MEM_HIGH)
				assert_true(end <= MEM_LOW_MAX);
		}
		/* All but the EBDA, VGA and ROM below 1 MiB. */
		assert_int_equal(ram, sizes[i] - (MEM_LOW - MEM_EBDA));
		assert_true(memmap_is_ram(&m, 0, 4096));
		assert_false(memmap_is_ram(&m, MEM_EBDA - 1, 2));
		assert_true(memmap_is_ram(&m, m.low_end - 1, 1));
		assert_false(memmap_is_ram(&m, m.low_end - 1, 2));
		assert_false(memmap_is_ram(&m, MEM_LOW, UINT64_MAX));
		assert_true(m.pci64 >= m.high_end && m.pci64_size);
		assert_int_equal(m.pci64 % (4 * GiB), 0);
	}
}

static void b2_memory_map_refuses(void **state)
{
	static const uint64_t bad[] = { 0, 1, 1 * MiB, 16 * MiB + 1,
					4097 * MiB * 16 };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = { .what = "" };
		struct memmap m;

		assert_int_equal(memmap_init(&m, bad[i], 36, &err), -EINVAL);
		assert_true(err.what[0] && err.hint[0]);
	}
}

static void b2_memory_map_in_memory(void **state)
{
	struct err err = { .what = "" };
	struct memmap m;
	struct gmem mem;

	gmem_init(&mem);
	assert_int_equal(memmap_init(&m, 4 * GiB, 46, &err), 0);
	assert_int_equal(memmap_populate(&m, &mem, &err), 0);
	for (unsigned i = 0; i < m.nr; i++)
		if (m.entry[i].type == MEM_RAM)
			assert_non_null(
				gmem_at(&mem, m.entry[i].base, m.entry[i].len));
	assert_null(gmem_find(&mem, MEM_VGA));
	assert_null(gmem_find(&mem, MEM_PCI32));
	assert_true(gmem_find(&mem, MEM_ACPI)->flags & GMEM_RO);
	assert_non_null(gmem_at(&mem, 0xfffffff0, 16));
	gmem_finish(&mem);
}

/*
 * ACPI
 */

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

static void build(uint8_t *buf, unsigned nr_cpus, uint64_t mem_size,
		  uint32_t first_apic_id)
{
	struct err err = { .what = "" };
	uint32_t ids[64];
	struct memmap map;
	struct acpi_config c = { .map = &map,
				 .apic_ids = ids,
				 .nr_cpus = nr_cpus,
				 .nr_coms = 4,
				 .has_pvpanic = true,
				 .has_fwcfg = true };

	for (unsigned i = 0; i < nr_cpus; i++)
		ids[i] = first_apic_id + i;
	assert_int_equal(memmap_init(&map, mem_size, 46, &err), 0);
	assert_int_equal(acpi_build(&c, buf, &err), 0);
}

static const uint8_t *table_at(const uint8_t *buf, uint64_t gpa)
{
	assert_in_range(gpa, MEM_ACPI, MEM_ACPI + MEM_ACPI_SIZE - 36);
	return buf + (gpa - MEM_ACPI);
}

static const uint8_t *find_table(const uint8_t *buf, const char *signature)
{
	const uint8_t *xsdt = table_at(buf, load_le64(buf + 24));

	if (!memcmp(signature, "DSDT", 4))
		return table_at(buf, load_le64(find_table(buf, "FACP") + 140));
	for (uint32_t at = 36; at < load_le32(xsdt + 4); at += 8) {
		const uint8_t *t = table_at(buf, load_le64(xsdt + at));

		if (!memcmp(t, signature, 4))
			return t;
	}
	return NULL;
}

static const char *const names[] = { "FACP", "APIC", "HPET", "MCFG", "DSDT" };

static void f12_acpi_checksums(void **state)
{
	uint8_t *buf = malloc(MEM_ACPI_SIZE);

	build(buf, 3, 5 * GiB, 0);
	assert_memory_equal(buf, "RSD PTR ", 8);
	assert_int_equal(sum(buf, 20), 0);
	assert_int_equal(sum(buf, 36), 0);
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		const uint8_t *t = find_table(buf, names[i]);

		assert_non_null(t);
		assert_memory_equal(t, names[i], 4);
		assert_int_equal(sum(t, load_le32(t + 4)), 0);
	}
	assert_int_equal(load_le32(table_at(buf, load_le32(buf + 16)) + 4),
			 36 + 4 * 4);
	free(buf);
}

static void f12_acpi_fits_64_cpus(void **state)
{
	uint8_t *buf = malloc(MEM_ACPI_SIZE);

	build(buf, 64, 64 * GiB, 250); /* some need x2APIC entries */
	assert_non_null(find_table(buf, "APIC"));
	free(buf);
}

/* Run (cmd) in (dir); what it printed is in "log" there. */
static int run(const char *dir, const char *cmd)
{
	char line[512];

	snprintf(line, sizeof(line), "cd %s && %s >log 2>&1", dir, cmd);
	return system(line);
}

static void write_file(const char *dir, const char *name, const uint8_t *t,
		       size_t len)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(t, 1, len, f), len);
	fclose(f);
}

/* Intel's compiler takes each table apart and puts it together again. */
static void f12_acpi_accepted_by_iasl(void **state)
{
	static const struct {
		unsigned cpus;
		uint64_t mem;
		uint32_t apic_id;
	} machine[] = { { 1, 128 * MiB, 0 }, { 64, 64 * GiB, 250 } };
	uint8_t *buf = malloc(MEM_ACPI_SIZE);
	char dir[] = "/tmp/ringer-acpi-XXXXXX", cmd[300];

	assert_non_null(mkdtemp(dir));
	for (unsigned m = 0; m < ARRAY_SIZE(machine); m++) {
		build(buf, machine[m].cpus, machine[m].mem, machine[m].apic_id);
		for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
			const uint8_t *t = find_table(buf, names[i]);

			write_file(dir, "t.aml", t, load_le32(t + 4));
			assert_int_equal(run(dir, "iasl -d t.aml"), 0);
			assert_int_equal(run(dir, "! grep -iE "
						  "'error|invalid|unknown' "
						  "t.dsl"),
					 0);
			if (run(dir, "iasl -p u t.dsl"))
				fail_msg("iasl refuses %s: see %s/log",
					 names[i], dir);
			assert_int_equal(run(dir, "! grep -E '[1-9][0-9]* "
						  "Warnings|Error:' log"),
					 0);
			/* The same bytes come out, but for AML's lengths. */
			if (memcmp(names[i], "DSDT", 4))
				assert_int_equal(run(dir, "cmp -i 36 t.aml "
							  "u.aml"),
						 0);
		}
	}
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
	free(buf);
}

/*
 * SMBIOS
 */

static void f12_smbios_structures(void **state)
{
	uint8_t *buf = malloc(MEM_SMBIOS_SIZE), *p;
	struct err err = { .what = "" };
	struct memmap map;
	struct smbios_config c = { .map = &map,
				   .mem_size = 40 * GiB,
				   .cpus = { 2, 4, 2 } };
	unsigned seen[128] = { 0 }, nr = 0;
	uint32_t len;

	assert_int_equal(memmap_init(&map, c.mem_size, 46, &err), 0);
	assert_int_equal(smbios_build(&c, buf, &err), 0);
	assert_memory_equal(buf, "_SM_", 4);
	assert_int_equal(sum(buf, 31), 0);
	assert_int_equal(sum(buf + 16, 15), 0);
	assert_memory_equal(buf + 0x20, "_SM3_", 5);
	assert_int_equal(sum(buf + 0x20, 24), 0);
	p = buf + (load_le64(buf + 0x30) - MEM_SMBIOS);
	len = load_le32(buf + 0x2c);
	for (uint8_t *at = p; at < p + len; nr++) {
		seen[at[0]]++;
		at += at[1];
		while (at[0] || at[1])
			at++;
		at += 2;
	}
	assert_int_equal(nr, load_le16(buf + 28));
	assert_int_equal(seen[0] + seen[1] + seen[3], 3);
	assert_int_equal(seen[4], 2);
	assert_int_equal(seen[16] + seen[17] + seen[32] + seen[127], 4);
	assert_int_equal(seen[19], 2);
	free(buf);
}

/* dmidecode reads a dump that begins with the entry point at 0 and has the
 * tables at 0x20. */
static void f12_smbios_accepted_by_dmidecode(void **state)
{
	uint8_t *buf = malloc(MEM_SMBIOS_SIZE), *dump;
	struct err err = { .what = "" };
	struct memmap map;
	struct smbios_config c = { .map = &map,
				   .mem_size = 2 * GiB,
				   .cpus = { 1, 2, 1 } };
	char dir[] = "/tmp/ringer-smbios-XXXXXX", cmd[64];
	uint32_t len;

	if (system("dmidecode --version >/dev/null 2>&1")) {
		free(buf);
		return;
	}
	assert_non_null(mkdtemp(dir));
	assert_int_equal(memmap_init(&map, c.mem_size, 46, &err), 0);
	assert_int_equal(smbios_build(&c, buf, &err), 0);
	len = load_le32(buf + 0x2c);
	dump = calloc(1, 32 + len);
	memcpy(dump, buf + 0x20, 24);
	store_le64(dump + 16, 32);
	dump[5] = 0;
	dump[5] = (uint8_t)-sum(dump, 24);
	memcpy(dump + 32, buf + 0x100, len);
	write_file(dir, "dump", dump, 32 + len);
	assert_int_equal(run(dir, "dmidecode --from-dump dump"), 0);
	assert_int_equal(run(dir, "dmidecode --from-dump dump > out; grep -q "
				  "'Size: 2 GB' out && ! grep -iE "
				  "'bad|truncated|broken|<' out"),
			 0);
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
	free(dump);
	free(buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(b2_memory_map_of_many_sizes),
		cmocka_unit_test(b2_memory_map_refuses),
		cmocka_unit_test(b2_memory_map_in_memory),
		cmocka_unit_test(f12_acpi_checksums),
		cmocka_unit_test(f12_acpi_fits_64_cpus),
		cmocka_unit_test(f12_smbios_structures),
		cmocka_unit_test(f12_smbios_accepted_by_dmidecode),
		cmocka_unit_test(f12_acpi_accepted_by_iasl),
	};
	/* The compiler's check comes last, where it can be left out. */
	bool has_iasl = !system("iasl -v >/dev/null 2>&1");

	if (!has_iasl)
		print_message("# SKIP iasl is not installed: tables are not "
			      "recompiled\n");
	if (!has_iasl)
		return _cmocka_run_group_tests(
			"tables", tests, ARRAY_SIZE(tests) - 1, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
