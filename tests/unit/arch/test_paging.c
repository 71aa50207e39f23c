/*
 * The page walk alone: its steps as people see them (xlate), and entries that
 * are nowhere, change meanwhile, or must not be touched. Rights and modes are
 * tested through the processor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "arch/paging.h"

#define PML4   0x1000
#define PDPT   0x2000
#define PD     0x3000
#define PT     0x4000
#define RIGHTS (PTE_P | PTE_W | PTE_U)
#define GVA    0xffff888000403123ULL

static uint64_t memory[0x8000 / 8];
static unsigned nr_reads;
/* After this many reads, the entry at (change) becomes (changed). */
static unsigned change_after;
static uint64_t change, changed;

static void *entry(void *opaque, uint64_t gpa)
{
	if (gpa >= sizeof(memory))
		return NULL;
	if (++nr_reads == change_after)
		memory[change / 8] = changed;
	return &memory[gpa / 8];
}

static const struct paging_ops ops = { .entry = entry, .phys_bits = 40 };

static void make(struct x86_state *st)
{
	memset(st, 0, sizeof(*st));
	memset(memory, 0, sizeof(memory));
	st->cr0 = CR0_PE | CR0_PG | CR0_WP;
	st->cr4 = CR4_PAE | CR4_PGE;
	st->cr3 = PML4;
	st->efer = EFER_LMA | EFER_NX;
	memory[(PML4 + 0x111 * 8) / 8] = PDPT | RIGHTS;
	memory[PDPT / 8] = PD | RIGHTS;
	memory[(PD + 2 * 8) / 8] = PT | RIGHTS;
	memory[(PT + 3 * 8) / 8] = 0x7000 | PTE_P | PTE_G | PTE_NX;
	nr_reads = change_after = 0;
}

static void b6_steps_are_named_in_order(void **state)
{
	static const char *const names[] = { "PML4", "PDPT", "PD", "PT" };
	static const uint64_t at[] = { PML4 + 0x111 * 8, PDPT, PD + 16,
				       PT + 24 };
	static struct x86_state st;
	struct paging_result r;

	make(&st);
	assert_true(paging_walk(&st, &ops, GVA,
				(struct paging_access){ .no_ad = true }, &r));
	assert_int_equal(r.gpa, 0x7123);
	assert_int_equal(r.size_log2, 12);
	assert_int_equal(r.nr_steps, 4);
	for (unsigned i = 0; i < 4; i++) {
		assert_string_equal(r.step[i].level, names[i]);
		assert_int_equal(r.step[i].gpa, at[i]);
		assert_int_equal(r.step[i].entry, memory[at[i] / 8]);
	}
	assert_false(r.can_write || r.can_user || r.can_exec || r.is_dirty);
	assert_true(r.is_global);
	/* A debugger's look leaves no trace. */
	assert_int_equal(memory[PDPT / 8], PD | RIGHTS);
}

static void five_levels(void **state)
{
	static struct x86_state st;
	struct paging_result r;

	make(&st);
	st.cr4 |= CR4_LA57;
	st.cr3 = 0x5000;
	memory[(0x5000 + 0x1ff * 8) / 8] = PML4 | RIGHTS;
	assert_true(
		paging_walk(&st, &ops, GVA, (struct paging_access){ 0 }, &r));
	assert_int_equal(r.nr_steps, 5);
	assert_string_equal(r.step[0].level, "PML5");
	assert_int_equal(r.gpa, 0x7123);
}

static void entries_that_are_nowhere_read_as_ones(void **state)
{
	static struct x86_state st;
	struct paging_result r;

	make(&st);
	memory[PDPT / 8] = 0x12345000 | RIGHTS;
	assert_false(paging_walk(&st, &ops, GVA,
				 (struct paging_access){ .is_write = true },
				 &r));
	assert_int_equal(r.error, PFERR_P | PFERR_RSVD | PFERR_W);
	assert_int_equal(r.nr_steps, 3);
}

static void a_width_of_addresses_is_reserved_above(void **state)
{
	static struct x86_state st;
	struct paging_result r;

	make(&st);
	memory[PDPT / 8] |= 1ULL << 40;
	assert_false(
		paging_walk(&st, &ops, GVA, (struct paging_access){ 0 }, &r));
	assert_int_equal(r.error, PFERR_P | PFERR_RSVD);
}

/* Another CPU takes the page away between the walk and its accessed bits. */
static void a_change_meanwhile_starts_again(void **state)
{
	static struct x86_state st;
	struct paging_result r;

	make(&st);
	change_after = 4; /* the last read */
	change = PML4 + 0x111 * 8;
	changed = 0;
	assert_false(
		paging_walk(&st, &ops, GVA, (struct paging_access){ 0 }, &r));
	assert_int_equal(r.error, 0);
	assert_int_equal(memory[change / 8], 0);
}

static void without_paging_addresses_are_themselves(void **state)
{
	static struct x86_state st;
	struct paging_result r;

	assert_true(paging_walk(&st, &ops, 0x1234,
				(struct paging_access){ .is_write = true },
				&r));
	assert_int_equal(r.gpa, 0x1234);
	assert_true(r.can_write && r.can_exec && r.is_dirty);
	assert_int_equal(r.nr_steps, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(b6_steps_are_named_in_order),
		cmocka_unit_test(five_levels),
		cmocka_unit_test(entries_that_are_nowhere_read_as_ones),
		cmocka_unit_test(a_width_of_addresses_is_reserved_above),
		cmocka_unit_test(a_change_meanwhile_starts_again),
		cmocka_unit_test(without_paging_addresses_are_themselves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
