/* Address translation: rights, accessed and dirty bits, large pages, TLB
 * rules (B1, B3, B6). */
#include "lib/guest.h"

#define P   1ULL
#define W   2ULL
#define U   4ULL
#define A   0x20ULL
#define D   0x40ULL
#define G   0x100ULL
#define NX  (1ULL << 63)
#define GVA 0x40000000ULL

static volatile uint64_t page[2][512] __attribute__((aligned(4096)));
static uint64_t *pte;

static int64_t user_read(void)
{
	return (int64_t) * (volatile uint64_t *)GVA;
}

static int64_t user_write(void)
{
	*(volatile uint64_t *)GVA = 5;
	return 5;
}

static int64_t user_exec(void)
{
	return ((int64_t(*)(void))GVA)();
}

static int try_read(uint64_t gva)
{
	return TRAP_OF("mov (%[p]), %%rax", [p] "r"(gva));
}

static int try_write(uint64_t gva)
{
	return TRAP_OF("mov %%rax, (%[p])", [p] "r"(gva));
}

/* Jump to gva, where JMP *RBX is: it comes back without a stack. */
static int try_exec(uint64_t gva)
{
	return TRAP_OF("lea 3f(%%rip), %%rbx; jmp *%[p]; 3:", [p] "r"(gva));
}

/* The entry that maps GVA's 4 KiB page. */
static uint64_t *find_pte(uint64_t gva)
{
	uint64_t *table = pml4;

	for (unsigned shift = 39; shift > 12; shift -= 9)
		table = (void *)(table[gva >> shift & 511] &
				 0xffffffffff000ULL);
	return &table[gva >> 12 & 511];
}

static void map(uint64_t flags)
{
	*pte = (uint64_t)page[0] | flags;
	invlpg(GVA);
}

/* Every combination of P, W, U, NX against what the SDM says (4.6). */
static void test_rights(void)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < 16; i++) {
		uint64_t f = (i & 1 ? P : 0) | (i & 2 ? W : 0) |
			     (i & 4 ? U : 0) | (i & 8 ? NX : 0);
		bool p = f & P, w = f & W, u = f & U;
		uint64_t err;

		map(f);
		if (try_read(GVA) != (p ? -1 : 14))
			bad |= 1;
		map(f);
		/* CR0.WP is set: the kernel respects W. */
		if (try_write(GVA) != (p && w ? -1 : 14))
			bad |= 2;
		map(f);
		err = 4 | (p ? 1 : 0);
		if (user(user_read) == -1014
			    ? (p && u) || last_trap.error != err
			    : !(p && u))
			bad |= 4;
		map(f);
		err |= 2;
		if (user(user_write) == -1014
			    ? (p && w && u) || last_trap.error != err
			    : !(p && w && u))
			bad |= 8;
		page[0][0] = 0xc3; /* ret */
		map(f);
		err = 4 | 16 | (p ? 1 : 0);
		if (user(user_exec) == -1014
			    ? (p && u && !(f & NX)) || last_trap.error != err
			    : !(p && u && !(f & NX)))
			bad |= 16;
	}
	ok(!(bad & 1), "b3_supervisor_reads");
	ok(!(bad & 2), "b3_supervisor_writes_respect_wp");
	ok(!(bad & 4), "b3_user_reads_and_their_error_codes");
	ok(!(bad & 8), "b3_user_writes_and_their_error_codes");
	ok(!(bad & 16), "b3_user_fetches_and_their_error_codes");
	write_cr0(read_cr0() & ~0x10000ULL);
	map(P);
	ok(try_write(GVA) == -1, "b3_without_wp_the_kernel_writes_all");
	write_cr0(read_cr0() | 0x10000);
	ok(try_write(GVA) == 14, "b3_wp_takes_effect_at_once");
}

static void test_cr2(void)
{
	map(0);
	try_read(GVA + 0x123);
	ok(last_cr2 == GVA + 0x123, "b3_cr2_is_the_faulting_byte");
	*find_pte(GVA + 0x1000) = 0;
	invlpg(GVA + 0x1000);
	map(P | W);
	page[0][511] = 0x1122334455667788;
	ok(try_read(GVA + 0xffc) == 14 && last_cr2 == GVA + 0x1000,
	   "b3_a_straddling_read_faults_at_the_second_page");
	ok(try_write(GVA + 0xffc) == 14 && page[0][511] == 0x1122334455667788,
	   "b3_a_straddling_write_that_faults_changes_nothing");
	ok(try_read(0x800000000000) == 13 && last_trap.error == 0,
	   "b3_a_non_canonical_address_is_gp");
}

static void test_accessed_dirty(void)
{
	map(P | W);
	try_read(GVA);
	ok((*pte & (A | D)) == A, "b3_a_read_sets_accessed_alone");
	try_write(GVA);
	ok((*pte & (A | D)) == (A | D), "b3_a_write_sets_dirty");
	map(P | W | A);
	try_read(GVA);
	*pte &= ~D;
	try_write(GVA);
	ok(*pte & D, "b3_a_write_after_a_read_sets_dirty");
	map(P);
	try_write(GVA);
	ok(!(*pte & D), "b3_a_refused_write_leaves_dirty_alone");
}

/* Take the guest itself out of user mode's reach, or give it back. */
static void hide_kernel(bool hide)
{
	for (unsigned i = 0; i < 512; i++)
		pds[i] = hide ? pds[i] & ~U : pds[i] | U;
	write_cr3(read_cr3());
}

static void test_smep_smap(void)
{
	uint32_t a = 7, b, c = 0, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	page[0][0] = 0xe3ff; /* jmp *%rbx */
	hide_kernel(true);
	if (b & 1 << 7) {
		write_cr4(read_cr4() | 1 << 20);
		map(P | W | U);
		ok(try_exec(GVA) == 14 && last_trap.error == 17,
		   "b3_smep_refuses_user_code_in_the_kernel");
		map(P | W);
		ok(try_exec(GVA) == -1, "b3_smep_allows_kernel_code");
		write_cr4(read_cr4() & ~(1ULL << 20));
	}
	if (b & 1 << 20) {
		write_cr4(read_cr4() | 1 << 21);
		map(P | W | U);
		ok(try_read(GVA) == 14 && last_trap.error == 1,
		   "b3_smap_refuses_user_data");
		ok(TRAP_OF("stac; mov (%[p]), %%rax; clac", [p] "r"(GVA)) == -1,
		   "b3_stac_opens_smap");
		ok(try_read(GVA) == 14, "b3_clac_closes_smap");
		write_cr4(read_cr4() & ~(1ULL << 21));
	}
	hide_kernel(false);
}

static void test_large_pages(void)
{
	uint64_t old = pds[512 + 100];
	uint64_t gva = (1ULL << 30) + (100ULL << 21);

	pds[512 + 100] = 0x87; /* the first 2 MiB again */
	invlpg(gva);
	page[0][7] = 0xabcdef;
	ok(*(volatile uint64_t *)(gva + (uint64_t)&page[0][7]) == 0xabcdef,
	   "b3_a_2_mib_page_maps");
	ok(pds[512 + 100] & A, "b3_a_2_mib_entry_gets_accessed");
	*(volatile uint64_t *)(gva + (uint64_t)&page[0][7]) = 1;
	ok(pds[512 + 100] & D, "b3_a_2_mib_entry_gets_dirty");
	pds[512 + 100] = 0x87 | 1 << 13;
	invlpg(gva);
	ok(try_read(gva) == 14 && last_trap.error == 9,
	   "b3_a_reserved_bit_in_a_2_mib_entry_is_rsvd");
	pds[512 + 100] = old;
	invlpg(gva);
	map(P | W | 1ULL << 51);
	ok(try_read(GVA) == 14 && (last_trap.error & 8),
	   "b3_an_address_beyond_maxphyaddr_is_rsvd");
}

static void test_tlb(void)
{
	uint64_t cr4 = read_cr4();

	page[0][0] = 10;
	page[1][0] = 11;
	map(P | W);
	ok(*(volatile uint64_t *)GVA == 10, "b7_first_mapping");
	*pte = (uint64_t)page[1] | P | W;
	invlpg(GVA);
	ok(*(volatile uint64_t *)GVA == 11, "b7_invlpg_shows_the_new_one");
	*pte = (uint64_t)page[0] | P | W;
	write_cr3(read_cr3());
	ok(*(volatile uint64_t *)GVA == 10, "b7_cr3_shows_the_new_one");
	write_cr4(cr4 | 0x80);
	map(P | W | G);
	(void)*(volatile uint64_t *)GVA;
	*pte = (uint64_t)page[1] | P | W | G;
	write_cr4(cr4);
	ok(*(volatile uint64_t *)GVA == 11, "b7_pge_flushes_global_pages");
	/* A right that was raised needs no flush. */
	map(P);
	try_read(GVA);
	*pte |= W;
	ok(try_write(GVA) == -1, "b7_raised_rights_need_no_flush");
}

static void test_pcid(void)
{
	uint32_t a = 1, b, c = 0, d;
	uint64_t cr3 = read_cr3();

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	if (!(c & 1 << 17))
		return;
	write_cr4(read_cr4() | 1 << 17);
	page[0][0] = 20;
	page[1][0] = 21;
	map(P | W);
	write_cr3(cr3 | 1);
	ok(*(volatile uint64_t *)GVA == 20, "b7_pcid_1_sees_the_page");
	*pte = (uint64_t)page[1] | P | W;
	write_cr3(cr3 | 1);
	ok(*(volatile uint64_t *)GVA == 21,
	   "b7_cr3_without_noflush_flushes_its_pcid");
	ok(TRAP_OF("mov %[v], %%cr4", [v] "r"(read_cr4() & ~(1ULL << 17))) ==
		   -1,
	   "b7_pcide_may_go");
	write_cr3(cr3);
	write_cr4(read_cr4() | 1 << 17);
	{
		uint64_t desc[2] = { 0, 0 };

		map(P | W);
		(void)*(volatile uint64_t *)GVA;
		*pte = (uint64_t)page[1] | P | W;
		ok(TRAP_OF("invpcid %[m], %[t]", [m] "m"(desc),
			   [t] "r"(2ULL)) == -1 &&
			   *(volatile uint64_t *)GVA == 21,
		   "b7_invpcid_of_everything");
		ok(TRAP_OF("invpcid %[m], %[t]", [m] "m"(desc),
			   [t] "r"(4ULL)) == 13,
		   "b7_invpcid_of_a_reserved_kind_is_gp");
	}
	write_cr4(read_cr4() & ~(1ULL << 17));
}

void guest_main(void)
{
	page_map(GVA + 0x1000, (uint64_t)page[1], P | W);
	page_map(GVA, (uint64_t)page[0], P | W);
	pte = find_pte(GVA);
	test_rights();
	test_cr2();
	test_accessed_dirty();
	test_smep_smap();
	test_large_pages();
	test_tlb();
	test_pcid();
}
