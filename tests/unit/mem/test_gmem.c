#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mem/gmem.h"

#define ROM_GPA 0xfffc0000ULL

/* RAM round the hole below 4 GiB, and a ROM. */
static int setup(void **state)
{
	static struct gmem mem;
	struct err err = { 0 };

	gmem_init(&mem);
	assert_int_equal(
		gmem_add(&mem, "rom", ROM_GPA, 256 * KiB, GMEM_RO, &err), 0);
	assert_int_equal(gmem_add(&mem, "ram-high", 4 * GiB, 16 * MiB, 0, &err),
			 0);
	assert_int_equal(gmem_add(&mem, "ram-low", 0, 64 * MiB, 0, &err), 0);
	*state = &mem;
	return 0;
}

static int teardown(void **state)
{
	gmem_finish(*state);
	return 0;
}

static void b2_ram_from_zero_round_the_hole(void **state)
{
	struct gmem *mem = *state;

	assert_int_equal(mem->nr_regions, 3);
	assert_string_equal(mem->region[0].name, "ram-low");
	assert_string_equal(mem->region[1].name, "rom");
	assert_string_equal(mem->region[2].name, "ram-high");
	assert_int_equal(gmem_ram_size(mem), 80 * MiB);
	assert_ptr_equal(gmem_find(mem, 0), &mem->region[0]);
	assert_ptr_equal(gmem_find(mem, 64 * MiB - 1), &mem->region[0]);
	assert_null(gmem_find(mem, 64 * MiB));
	assert_null(gmem_find(mem, ROM_GPA - 1));
	assert_ptr_equal(gmem_find(mem, 4 * GiB - 1), &mem->region[1]);
	assert_ptr_equal(gmem_find(mem, 4 * GiB), &mem->region[2]);
	assert_null(gmem_find(mem, UINT64_MAX));
}

static void memory_is_zero_and_aligned_for_huge_pages(void **state)
{
	struct gmem *mem = *state;

	for (unsigned i = 0; i < mem->nr_regions; i++) {
		const struct gmem_region *r = &mem->region[i];

		assert_int_equal(((uintptr_t)r->hva - r->gpa) % (2 * MiB), 0);
		assert_int_equal(r->hva[0], 0);
		assert_int_equal(r->hva[r->size - 1], 0);
		assert_int_equal(r->page_flags[(r->size - 1) / PAGE_SIZE], 0);
	}
}

static void bounds_of_pointers(void **state)
{
	static const struct {
		uint64_t gpa, len;
		bool ok;
	} table[] = {
		{ 0, 64 * MiB, true },
		{ 0, 64 * MiB + 1, false },
		{ 64 * MiB - 1, 1, true },
		{ 64 * MiB - 1, 2, false },
		{ 64 * MiB, 0, false },
		{ 1, UINT64_MAX, false },
		{ ROM_GPA, 256 * KiB, true },
		{ ROM_GPA, 256 * KiB + 1, false }, /* two regions */
		{ 4 * GiB - 1, 2, false },
		{ UINT64_MAX, 1, false },
		{ UINT64_MAX, UINT64_MAX, false },
	};
	struct gmem *mem = *state;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		void *p = gmem_at(mem, table[i].gpa, table[i].len);

		assert_int_equal(p != NULL, table[i].ok);
	}
}

static void straddling_copies(void **state)
{
	struct gmem *mem = *state;
	char in[64], out[64];

	memset(in, 'x', sizeof(in));
	/* The last bytes of the ROM and the first of high memory. */
	assert_int_equal(gmem_load(mem, 4 * GiB - 32, in, 64), 0);
	assert_int_equal(gmem_read(mem, 4 * GiB - 32, out, 64), 0);
	assert_memory_equal(in, out, 64);
	assert_int_equal(gmem_write(mem, 64 * MiB - 32, in, 64), -EFAULT);
	assert_int_equal(gmem_read(mem, 64 * MiB - 32, out, 64), -EFAULT);
	assert_int_equal(gmem_read(mem, 64 * MiB - 32, out, 32), 0);
	assert_int_equal(gmem_read(mem, UINT64_MAX, out, 2), -EFAULT);
	assert_int_equal(gmem_read(mem, UINT64_MAX, out, 0), 0);
}

static void b10_rom_write_dropped(void **state)
{
	struct gmem *mem = *state;
	char out[8] = { 0 };

	assert_int_equal(gmem_load(mem, ROM_GPA, "firmware", 8), 0);
	assert_int_equal(gmem_write(mem, ROM_GPA, "nonsense", 8), 0);
	assert_int_equal(gmem_read(mem, ROM_GPA, out, 8), 0);
	assert_memory_equal(out, "firmware", 8);
}

static void overlaps_and_bad_shapes_refused(void **state)
{
	static const struct {
		uint64_t gpa, size;
		int ret;
	} table[] = {
		{ 0, PAGE_SIZE, -EEXIST },
		{ 64 * MiB - PAGE_SIZE, PAGE_SIZE * 2, -EEXIST },
		{ GiB, 3 * GiB, -EEXIST },
		{ GiB, 0, -EINVAL },
		{ GiB, 1000, -EINVAL },
		{ GiB + 1, PAGE_SIZE, -EINVAL },
		{ UINT64_MAX - PAGE_SIZE + 1, 2 * PAGE_SIZE, -EINVAL },
		{ GiB << 10, GiB << 20, -ENOMEM }, /* a PiB */
	};
	struct gmem *mem = *state;

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct err err = { 0 };

		assert_int_equal(gmem_add(mem, "more", table[i].gpa,
					  table[i].size, 0, &err),
				 table[i].ret);
		assert_true(err.what[0]);
	}
	assert_int_equal(mem->nr_regions, 3);
}

static void errors_name_the_size_and_the_option(void **state)
{
	struct gmem *mem = *state;
	struct err err = { 0 };

	assert_int_equal(gmem_add(mem, "ram", 8 * GiB, GiB << 20, 0, &err),
			 -ENOMEM);
	assert_non_null(strstr(err.what, "1073741824 MiB"));
	assert_non_null(strstr(err.hint, "-m"));
}

static void regions_are_finite(void **state)
{
	struct gmem *mem = *state;
	struct err err = { 0 };

	for (unsigned i = 3; i < GMEM_MAX_REGIONS; i++)
		assert_int_equal(gmem_add(mem, "more", (8 + i) * GiB, PAGE_SIZE,
					  0, &err),
				 0);
	assert_int_equal(gmem_add(mem, "last", 100 * GiB, PAGE_SIZE, 0, &err),
			 -ENOSPC);
}

static uint64_t rss_kib(void)
{
	FILE *f = fopen("/proc/self/status", "r");
	char line[128];
	uint64_t kib = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "RssShmem:", 9))
			kib = strtoull(line + 9, NULL, 10);
	}
	fclose(f);
	return kib;
}

static void b9_rss_grows_on_touch_only(void **state)
{
	struct gmem *mem = *state;
	struct err err = { 0 };
	struct gmem_region *r;
	uint64_t before = rss_kib(), after;

	assert_int_equal(gmem_add(mem, "big", 8 * GiB, 64 * GiB, 0, &err), 0);
	assert_true(rss_kib() < before + 1024);
	r = gmem_find(mem, 8 * GiB);
	madvise(r->hva, r->size, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < 16 * MiB; i += PAGE_SIZE)
		r->hva[32 * GiB + i] = 1;
	after = rss_kib();
	assert_in_range(after, before + 15 * 1024, before + 24 * 1024);
}

/* In a child, as the fault ends it. */
static void guards_catch_stray_pointers(void **state)
{
	struct gmem *mem = *state;
	const struct gmem_region *r = gmem_find(mem, 4 * GiB);
	volatile uint8_t *strays[] = { r->hva - 1, r->hva - 64 * KiB,
				       r->hva + r->size,
				       r->hva + r->size + 64 * KiB - 1 };

	for (size_t i = 0; i < ARRAY_SIZE(strays); i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (!pid) {
			signal(SIGSEGV, SIG_DFL);
			*strays[i] = 1;
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	}
}

static uint64_t noted_gpa, noted_len;
static unsigned nr_noted;

static void note_code(void *opaque, uint64_t gpa, uint64_t len)
{
	noted_gpa = gpa;
	noted_len = len;
	nr_noted++;
}

static void writes_mark_pages_and_tell_translator(void **state)
{
	struct gmem *mem = *state;
	struct gmem_region *r = &mem->region[0];
	char buf[2 * PAGE_SIZE] = { 0 };

	mem->code_written = note_code;
	nr_noted = 0;
	assert_int_equal(gmem_write(mem, 0x1ff8, buf, 16), 0);
	assert_int_equal(r->page_flags[0], 0);
	assert_int_equal(r->page_flags[1], GMEM_PAGE_DIRTY);
	assert_int_equal(r->page_flags[2], GMEM_PAGE_DIRTY);
	assert_int_equal(r->page_flags[3], 0);
	assert_int_equal(nr_noted, 0);
	r->page_flags[5] = GMEM_PAGE_CODE;
	assert_int_equal(gmem_write(mem, 0x4800, buf, 2 * PAGE_SIZE), 0);
	assert_int_equal(nr_noted, 1);
	assert_int_equal(noted_gpa, 0x4800);
	assert_int_equal(noted_len, 2 * PAGE_SIZE);
	assert_int_equal(r->page_flags[5], GMEM_PAGE_CODE | GMEM_PAGE_DIRTY);
	/* Reading marks nothing; a mark beyond memory is ignored. */
	assert_int_equal(gmem_read(mem, 0x8000, buf, 16), 0);
	assert_int_equal(r->page_flags[8], 0);
	gmem_mark_written(mem, 64 * MiB - 1, 100);
	assert_int_equal(r->page_flags[r->size / PAGE_SIZE - 1],
			 GMEM_PAGE_DIRTY);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(b2_ram_from_zero_round_the_hole),
		T(memory_is_zero_and_aligned_for_huge_pages),
		T(bounds_of_pointers),
		T(straddling_copies),
		T(b10_rom_write_dropped),
		T(overlaps_and_bad_shapes_refused),
		T(errors_name_the_size_and_the_option),
		T(regions_are_finite),
		T(b9_rss_grows_on_touch_only),
		T(guards_catch_stray_pointers),
		T(writes_mark_pages_and_tell_translator),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
