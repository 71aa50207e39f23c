/*
 * Addresses and memory: effective addresses, segments, paging of every kind,
 * the TLB's rules, straddling accesses, devices, ROM, policies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

#define RAM      (8 * MiB)
#define PAGE_A   0x44000 /* two neighbours in guest-virtual space */
#define PAGE_B   0x45000
#define FAR_PAGE 0x300000 /* where the second one really is */
#define ROM      0x10000000ULL
#define NX_RAM   0x10010000ULL
#define DEVICE   0x20000000ULL

static struct rig rig;
static struct x86_state *const st = &rig.st[0];

static int setup(void **state)
{
	struct err err = { .what = "" };

	rig_create(&rig, &ACCEL, 1, RAM);
	assert_int_equal(gmem_add(&rig.mem, "rom", ROM, 0x2000, GMEM_RO, &err),
			 0);
	assert_int_equal(
		gmem_add(&rig.mem, "nx", NX_RAM, 0x1000, GMEM_NX, &err), 0);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

static void set_pte(uint64_t gva, uint64_t entry)
{
	rig_write(&rig, RIG_PT + (gva >> 12) * 8, 8, entry);
}

static uint64_t get_pte(uint64_t gva)
{
	return rig_read(&rig, RIG_PT + (gva >> 12) * 8, 8);
}

#define RIGHTS (PTE_P | PTE_W | PTE_U)

/* ---- Effective addresses --------------------------------------------------- */

static void addresses_have_all_parts(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_DATA + 0x123, 4, 0x11223344);
	st->gpr[RBX] = RIG_DATA - 0x1000;
	st->gpr[R9] = 0x400;
	/* mov eax, [rbx + r9 * 4 + 0x123] */
	assert_int_equal(
		RIG_RUN(&rig, 0x42, 0x8b, 0x84, 0x8b, 0x23, 1, 0, 0).vector,
		-1);
	assert_int_equal(st->gpr[RAX], 0x11223344);

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->seg[SEG_FS].base = RIG_DATA + 0x100;
	/* mov rax, fs:[0x23] */
	RIG_RUN(&rig, 0x64, 0x48, 0x8b, 4, 0x25, 0x23, 0, 0, 0);
	assert_int_equal((uint32_t)st->gpr[RAX], 0x11223344);

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_CODE + 0x100 + 6, 4, 0x55667788);
	/* mov eax, [rip + 0x100] */
	RIG_RUN(&rig, 0x8b, 0x05, 0, 1, 0, 0);
	assert_int_equal(st->gpr[RAX], 0x55667788);

	/* A 32-bit address is truncated; DS has no base in 64-bit mode. */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->seg[SEG_DS].base = 0x1000;
	st->gpr[RBX] = 0xdead00000000 | (RIG_DATA + 0x123);
	RIG_RUN(&rig, 0x67, 0x8b, 0x03);
	assert_int_equal(st->gpr[RAX], 0x11223344);
}

static void addresses_16_bit_wrap(void **state)
{
	rig_mode(&rig, 0, RIG_REAL, 0);
	st->seg[SEG_DS].base = RIG_DATA;
	rig_write(&rig, RIG_DATA + 0x10, 2, 0xbeef);
	st->gpr[RBX] = 0xfff0;
	st->gpr[RSI] = 0x0020;
	/* mov ax, [bx + si] */
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x00).vector, -1);
	assert_int_equal(st->gpr[RAX], 0xbeef);
	/* A word at 0xffff: beyond the limit, #GP. */
	rig_mode(&rig, 0, RIG_REAL, 0);
	st->gpr[RBX] = 0xffff;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x07).vector, EXC_GP);
	/* By BP: the stack segment, #SS. */
	rig_mode(&rig, 0, RIG_REAL, 0);
	st->gpr[RBP] = 0xffff;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x46, 0).vector, EXC_SS);
}

static void noncanonical_is_gp_or_ss(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = 1ULL << 47;
	e = RIG_RUN(&rig, 0x8b, 0x03);
	assert_int_equal(e.vector, EXC_GP);
	assert_int_equal(e.error, 0);
	assert_int_equal(e.rip, RIG_CODE);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBP] = 1ULL << 47;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x45, 0).vector, EXC_SS);
	/* The last byte counts too. */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = (1ULL << 47) - 2;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03).vector, EXC_GP);
}

/* ---- Segments (B3) ------------------------------------------------------------ */

static void b3_limits_and_rights(void **state)
{
	static const struct {
		uint32_t limit;
		uint16_t clear, set;
		uint32_t offset;
		bool is_write;
		int vector;
	} cases[] = {
		{ 0xfff, 0, 0, 0xffc, false, -1 },
		{ 0xfff, 0, 0, 0xffd, false, EXC_GP },
		{ 0xfff, ATTR_RW, 0, 0x10, true, EXC_GP },
		{ 0xfff, ATTR_RW, 0, 0x10, false, -1 },
		{ 0xfff, ATTR_RW, ATTR_CODE, 0x10, false, EXC_GP },
		{ 0xfff, 0, ATTR_CODE, 0x10, false, -1 },
		{ 0xfff, 0, ATTR_CODE, 0x10, true, EXC_GP },
		{ 0xfff, 0, ATTR_UNUSABLE, 0x10, false, EXC_GP },
		/* Expand-down: what is above the limit. */
		{ 0xfff, 0, ATTR_CE, 0x1000, true, -1 },
		{ 0xfff, 0, ATTR_CE, 0xfff, true, EXC_GP },
		{ 0xfff, ATTR_DB, ATTR_CE, 0xfffc, true, -1 },
		{ 0xfff, ATTR_DB, ATTR_CE, 0xfffd, true, EXC_GP },
		{ 0xfff, 0, ATTR_CE, 0xfffe, true, -1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct x86_seg *ds = &st->seg[SEG_DS];

		rig_mode(&rig, 0, RIG_PROT32, 0);
		ds->base = RIG_DATA;
		ds->limit = cases[i].limit;
		ds->attr =
			(uint16_t)((ds->attr & ~cases[i].clear) | cases[i].set);
		st->gpr[RBX] = cases[i].offset;
		if (cases[i].is_write)
			assert_int_equal(RIG_RUN(&rig, 0x89, 0x03).vector,
					 cases[i].vector);
		else
			assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03).vector,
					 cases[i].vector);
	}
}

static void b3_segment_base_wraps_at_4_gib(void **state)
{
	rig_mode(&rig, 0, RIG_PROT32, 0);
	rig_write(&rig, RIG_DATA, 4, 0xcafe);
	st->seg[SEG_DS].base = 0xfffff000;
	st->gpr[RBX] = RIG_DATA + 0x1000;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03).vector, -1);
	assert_int_equal(st->gpr[RAX], 0xcafe);
}

static void code_beyond_the_limit_is_gp(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_PROT32, 0);
	st->seg[SEG_CS].limit = RIG_CODE + 2;
	/* inc eax; inc ecx; nop; nop */
	e = RIG_RUN(&rig, 0x40, 0x41, 0x90, 0x90);
	assert_int_equal(e.vector, EXC_GP);
	assert_int_equal(e.rip, RIG_CODE + 3);
	assert_int_equal(st->gpr[RCX], 1);
	/* and so is a branch there, at the branch */
	rig_mode(&rig, 0, RIG_PROT32, 0);
	st->seg[SEG_CS].limit = RIG_CODE + 0x100;
	e = RIG_RUN(&rig, 0x90, 0xe9, 0, 2, 0, 0);
	assert_int_equal(e.vector, EXC_GP);
	assert_int_equal(e.rip, RIG_CODE + 1);
}

/* ---- Paging (B3, B6) -------------------------------------------------------------- */

/* mov [rbx], eax; mov ecx, [rbx] */
#define STORE_LOAD 0x89, 0x03, 0x8b, 0x0b

static void b3_long_mode_sets_a_and_d(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_A, PAGE_A | RIGHTS);
	st->gpr[RBX] = PAGE_A;
	RIG_RUN(&rig, 0x8b, 0x0b);
	assert_int_equal(get_pte(PAGE_A), PAGE_A | RIGHTS | PTE_A);
	assert_true(rig_read(&rig, RIG_PML4, 8) & PTE_A);
	assert_false(rig_read(&rig, RIG_PML4, 8) & PTE_D);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = PAGE_A;
	RIG_RUN(&rig, 0x8b, 0x0b, 0x89, 0x03); /* a load first, then D */
	assert_int_equal(get_pte(PAGE_A), PAGE_A | RIGHTS | PTE_A | PTE_D);
}

static void b3_rights_and_error_codes(void **state)
{
	static const struct {
		uint64_t entry;
		unsigned cpl;
		bool is_write, wp;
		int error; /* -1: none */
	} cases[] = {
		{ 0, 0, false, true, 0 },
		{ 0, 3, true, true, PFERR_U | PFERR_W },
		{ PTE_P | PTE_U, 3, false, true, -1 },
		{ PTE_P | PTE_U, 3, true, true, PFERR_P | PFERR_U | PFERR_W },
		{ PTE_P | PTE_W, 3, false, true, PFERR_P | PFERR_U },
		{ PTE_P, 0, true, true, PFERR_P | PFERR_W },
		{ PTE_P, 0, true, false, -1 },
		{ PTE_P | PTE_U, 0, true, false, -1 },
		{ PTE_P | PTE_NX, 0, false, true, -1 },
		{ PTE_P | BIT(51), 0, false, true, PFERR_P | PFERR_RSVD },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rig_exception e;

		rig_mode(&rig, 0, RIG_LONG, cases[i].cpl);
		set_pte(PAGE_A, cases[i].entry ? PAGE_A | cases[i].entry : 0);
		if (!cases[i].wp)
			st->cr0 &= ~CR0_WP;
		st->gpr[RBX] = PAGE_A + 8;
		if (cases[i].is_write)
			e = RIG_RUN(&rig, 0x89, 0x03);
		else
			e = RIG_RUN(&rig, 0x8b, 0x03);
		if (cases[i].error < 0) {
			/* HLT, at level 3 a #GP */
			assert_int_equal(e.vector, cases[i].cpl ? EXC_GP : -1);
			continue;
		}
		assert_int_equal(e.vector, EXC_PF);
		assert_int_equal(e.error, cases[i].error);
		assert_int_equal(st->cr2, PAGE_A + 8);
		assert_int_equal(e.rip, RIG_CODE);
	}
	set_pte(PAGE_A, PAGE_A | RIGHTS);
}

static void b3_nx_smep_smap(void **state)
{
	struct rig_exception e;

	/* jmp rbx, to a page without the right to run */
	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_A, PAGE_A | RIGHTS | PTE_NX);
	st->gpr[RBX] = PAGE_A;
	e = RIG_RUN(&rig, 0xff, 0xe3);
	assert_int_equal(e.vector, EXC_PF);
	assert_int_equal(e.error, PFERR_P | PFERR_I);
	assert_int_equal(e.rip, PAGE_A);
	/* SMEP: level 0 does not run user pages. The code's is one of its own.
	 */
	set_pte(RIG_CODE, RIG_CODE | PTE_P | PTE_W);
	set_pte(RIG_HANDLERS, RIG_HANDLERS | PTE_P | PTE_W);
	set_pte(PAGE_A, PAGE_A | RIGHTS);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->cr4 |= CR4_SMEP;
	st->gpr[RBX] = PAGE_A;
	e = RIG_RUN(&rig, 0xff, 0xe3);
	assert_int_equal(e.vector, EXC_PF);
	assert_int_equal(e.error, PFERR_P | PFERR_I);
	/* SMAP: nor reads them, unless AC is set: load; stac; load; clac;
	 * load. The CPU's own tables are not user pages either. */
	for (unsigned i = 0; i < 0x30; i++)
		set_pte(i * PAGE_SIZE, i * PAGE_SIZE | PTE_P | PTE_W);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RSP] = RIG_STACK0;
	st->cr4 |= CR4_SMAP;
	st->gpr[RBX] = PAGE_A;
	e = RIG_RUN(&rig, 0x0f, 0x01, 0xcb, 0x8b, 0x03, 0x0f, 0x01, 0xca, 0x8b,
		    0x0b);
	assert_int_equal(e.vector, EXC_PF);
	assert_int_equal(e.error, PFERR_P);
	assert_int_equal(e.rip, RIG_CODE + 8);
	for (unsigned i = 0; i < 0x30; i++)
		set_pte(i * PAGE_SIZE, i * PAGE_SIZE | RIGHTS);
}

static void b3_large_pages(void **state)
{
	/* 2 MiB at 4 MiB to 2 MiB, 1 GiB at 1 GiB to 0 */
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PD + 2 * 8, 8, 2 * MiB | RIGHTS | PTE_PS);
	rig_write(&rig, RIG_PDPT + 8, 8, RIGHTS | PTE_PS);
	rig_write(&rig, 2 * MiB + 0x12344, 4, 0xabcd);
	st->gpr[RBX] = 4 * MiB + 0x12344;
	st->gpr[RSI] = GiB + 2 * MiB + 0x12344;
	/* mov eax, [rbx]; mov ecx, [rsi] */
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03, 0x8b, 0x0e).vector, -1);
	assert_int_equal(st->gpr[RAX], 0xabcd);
	assert_int_equal(st->gpr[RCX], 0xabcd);
	rig_write(&rig, RIG_PD + 2 * 8, 8, 4 * MiB | RIGHTS | PTE_PS);
	/* Reserved address bits of a large page */
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PDPT + 8, 8, RIGHTS | PTE_PS | 0x2000);
	st->gpr[RSI] = GiB;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x0e).error, PFERR_P | PFERR_RSVD);
	rig_write(&rig, RIG_PDPT + 8, 8, 0);
}

static void b3_two_level_paging_with_pse(void **state)
{
	rig_mode(&rig, 0, RIG_PROT32, 0);
	rig_write(&rig, RIG_PD32 + 1 * 4, 4, RIG_PT | RIGHTS);
	st->cr3 = RIG_PD32;
	st->cr4 |= CR4_PSE;
	st->cr0 |= CR0_PG | CR0_WP;
	/* Its small table: 4-byte entries. */
	rig_write(&rig, RIG_PT + 3 * 4, 4, 0x300000 | RIGHTS);
	rig_write(&rig, 0x300010, 4, 0x77);
	st->gpr[RBX] = 4 * MiB + 3 * PAGE_SIZE + 0x10;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03, 0x89, 0x03).vector, -1);
	assert_int_equal(st->gpr[RAX], 0x77);
	assert_int_equal(rig_read(&rig, RIG_PT + 3 * 4, 4),
			 0x300000 | RIGHTS | PTE_A | PTE_D);
	assert_true(rig_read(&rig, RIG_PD32, 4) & PTE_A);
	/* Without PSE, bit 7 means nothing: entry 0 is a table. */
	rig_mode(&rig, 0, RIG_PROT32, 0);
	st->cr3 = RIG_PD32;
	st->cr0 |= CR0_PG;
	assert_int_equal(RIG_RUN(&rig, 0x90).vector < -1, 1); /* shutdown */
}

static void b3_pae_paging(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_PROT32, 0);
	for (unsigned i = 0; i < 4; i++)
		st->pdpte[i] = i ? 0 : RIG_PD | PTE_P;
	rig_write(&rig, RIG_PD, 8, RIG_PT | RIGHTS);
	for (unsigned i = 0; i < 512; i++)
		rig_write(&rig, RIG_PT + i * 8, 8, i * PAGE_SIZE | RIGHTS);
	set_pte(PAGE_A, FAR_PAGE | RIGHTS | PTE_NX);
	st->cr3 = RIG_PDPT;
	st->cr4 |= CR4_PAE;
	st->cr0 |= CR0_PG | CR0_WP;
	st->efer = EFER_NX;
	rig_write(&rig, FAR_PAGE + 4, 4, 0x99);
	st->gpr[RBX] = PAGE_A + 4;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03).vector, -1);
	assert_int_equal(st->gpr[RAX], 0x99);
	st->rip = RIG_CODE;
	st->gpr[RBX] = PAGE_A;
	e = RIG_RUN(&rig, 0xff, 0xe3);
	assert_int_equal(e.error, PFERR_P | PFERR_I);
	/* An absent directory */
	st->rip = RIG_CODE;
	st->gpr[RSP] = RIG_STACK;
	st->gpr[RBX] = GiB;
	e = RIG_RUN(&rig, 0x8b, 0x03);
	assert_int_equal(e.vector, EXC_PF);
	assert_int_equal(st->cr2, GiB);
	set_pte(PAGE_A, PAGE_A | RIGHTS);
}

/* ---- The TLB (B7) -------------------------------------------------------------------- */

/* Load [rbx]; change its entry by [rdi]; load it again; INVLPG; load it. */
static void b7_invlpg_drops_a_page(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_A, PAGE_A | RIGHTS);
	rig_write(&rig, PAGE_A, 4, 1);
	rig_write(&rig, FAR_PAGE, 4, 2);
	st->gpr[RBX] = PAGE_A;
	st->gpr[RDI] = RIG_PT + (PAGE_A >> 12) * 8;
	st->gpr[RSI] = FAR_PAGE | RIGHTS;
	/* mov eax,[rbx]; mov [rdi],rsi; mov ecx,[rbx]; invlpg [rbx];
	 * mov edx,[rbx] */
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03, 0x48, 0x89, 0x37, 0x8b, 0x0b,
				 0x0f, 0x01, 0x3b, 0x8b, 0x13)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RCX], 1); /* a TLB may, and this one does */
	assert_int_equal(st->gpr[RDX], 2);
	set_pte(PAGE_A, PAGE_A | RIGHTS);
}

static void b7_invlpg_drops_all_of_a_large_page(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PD + 8, 8, 4 * MiB | RIGHTS | PTE_PS);
	rig_write(&rig, 4 * MiB + 0x5000, 4, 1);
	rig_write(&rig, 2 * MiB + 0x5000, 4, 2);
	st->gpr[RBX] = 2 * MiB + 0x5000;
	st->gpr[RDI] = RIG_PD + 8;
	st->gpr[RSI] = 2 * MiB | RIGHTS | PTE_PS;
	/* invlpg at another address of the page */
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03, 0x48, 0x89, 0x37, 0x0f, 0x01,
				 0xbb, 0, 0x20, 0, 0, 0x8b, 0x13)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RDX], 2);
}

static void b7_cr3_keeps_global_pages(void **state)
{
	uint64_t high = 0xffff800000000000;

	/* The upper half is mapped as the lower. */
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PML4 + 256 * 8, 8, RIG_PDPT | RIGHTS);
	set_pte(PAGE_A, PAGE_A | RIGHTS | PTE_G);
	set_pte(PAGE_B, PAGE_B | RIGHTS);
	rig_write(&rig, PAGE_A, 4, 1);
	rig_write(&rig, PAGE_B, 4, 1);
	rig_write(&rig, FAR_PAGE, 4, 2);
	st->cr4 |= CR4_PGE;
	st->gpr[RBX] = high + PAGE_A;
	st->gpr[RDI] = RIG_PT + (PAGE_A >> 12) * 8;
	st->gpr[RSI] = FAR_PAGE | RIGHTS;
	/* Touch both, change both, load CR3, load both. */
	assert_int_equal(
		RIG_RUN(&rig, 0x8b, 0x03, 0x8b, 0x93, 0, 0x10, 0, 0, /* load */
			0x48, 0x89, 0x37, 0x48, 0x89, 0x77, 8, /* entries */
			0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8,    /* cr3 */
			0x8b, 0x03, 0x8b, 0x93, 0, 0x10, 0, 0)
			.vector,
		-1);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RDX], 2);
	set_pte(PAGE_A, PAGE_A | RIGHTS);
	set_pte(PAGE_B, PAGE_B | RIGHTS);
	rig_write(&rig, RIG_PML4 + 256 * 8, 8, 0);
}

static void b7_pcid_keeps_address_spaces_apart(void **state)
{
	uint64_t other = 0x400000; /* a second PML4 with its own tables */

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, other, 8, (other + 0x1000) | RIGHTS);
	rig_write(&rig, other + 0x1000, 8, (other + 0x2000) | RIGHTS);
	rig_write(&rig, other + 0x2000, 8, (other + 0x3000) | RIGHTS);
	for (unsigned i = 0; i < 512; i++)
		rig_write(&rig, other + 0x3000 + i * 8, 8,
			  i * PAGE_SIZE | RIGHTS);
	rig_write(&rig, other + 0x3000 + (PAGE_A >> 12) * 8, 8,
		  FAR_PAGE | RIGHTS);
	rig_write(&rig, PAGE_A, 4, 1);
	rig_write(&rig, FAR_PAGE, 4, 2);
	st->cr4 |= CR4_PCIDE;
	st->gpr[RBX] = PAGE_A;
	st->gpr[RSI] = RIG_PML4 | CR3_NOFLUSH;
	st->gpr[RDI] = other | 1 | CR3_NOFLUSH;
	/* eax in 0, ecx in 1, edx in 0 again */
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03, 0x0f, 0x22, 0xdf, 0x8b, 0x0b,
				 0x0f, 0x22, 0xde, 0x8b, 0x13)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RCX], 2);
	assert_int_equal(st->gpr[RDX], 1);
}

/* ---- Straddling accesses ---------------------------------------------------------- */

static void straddling_is_exact(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_B, FAR_PAGE | RIGHTS);
	st->gpr[RBX] = PAGE_B - 3;
	st->gpr[RAX] = 0x1122334455667788;
	/* mov [rbx], rax; add [rbx], rax; mov rcx, [rbx] */
	assert_int_equal(RIG_RUN(&rig, 0x48, 0x89, 0x03, 0x48, 0x01, 0x03, 0x48,
				 0x8b, 0x0b)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RCX], 0x22446688aaccef10);
	assert_int_equal(rig_read(&rig, FAR_PAGE, 4), 0x446688aa);
	assert_int_equal(rig_read(&rig, PAGE_B - 1, 1), 0xcc);
	set_pte(PAGE_B, PAGE_B | RIGHTS);
}

static void straddling_store_is_all_or_nothing(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_B, PAGE_B | PTE_P);
	rig_write(&rig, PAGE_B - 4, 4, 0);
	st->gpr[RBX] = PAGE_B - 4;
	st->gpr[RAX] = ~0ULL;
	e = RIG_RUN(&rig, 0x48, 0x89, 0x03);
	assert_int_equal(e.vector, EXC_PF);
	assert_int_equal(st->cr2, PAGE_B);
	assert_int_equal(rig_read(&rig, PAGE_B - 4, 4), 0);
	set_pte(PAGE_B, PAGE_B | RIGHTS);
}

static void vectors_straddle_too(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_B, FAR_PAGE | RIGHTS);
	for (unsigned i = 0; i < 8; i++) {
		rig_write(&rig, PAGE_B - 8 + i, 1, i);
		rig_write(&rig, FAR_PAGE + i, 1, 8 + i);
	}
	st->gpr[RBX] = PAGE_B - 8;
	st->gpr[RSI] = RIG_DATA;
	/* movups xmm3, [rbx]; movups [rsi], xmm3 */
	assert_int_equal(
		RIG_RUN(&rig, 0x0f, 0x10, 0x1b, 0x0f, 0x11, 0x1e).vector, -1);
	assert_int_equal(rig_read(&rig, RIG_DATA, 8), 0x0706050403020100);
	assert_int_equal(rig_read(&rig, RIG_DATA + 8, 8), 0x0f0e0d0c0b0a0908);
	set_pte(PAGE_B, PAGE_B | RIGHTS);
}

/* ---- Strings -------------------------------------------------------------------------- */

static void rep_movs_stops_at_the_fault(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	set_pte(PAGE_B, 0);
	for (unsigned i = 0; i < 64; i++)
		rig_write(&rig, RIG_DATA + i, 1, i + 1);
	st->gpr[RSI] = RIG_DATA;
	st->gpr[RDI] = PAGE_B - 21;
	st->gpr[RCX] = 64;
	e = RIG_RUN(&rig, 0xf3, 0xa4);
	assert_int_equal(e.vector, EXC_PF);
	assert_int_equal(st->cr2, PAGE_B);
	assert_int_equal(e.rip, RIG_CODE);
	assert_int_equal(st->gpr[RCX], 64 - 21);
	assert_int_equal(st->gpr[RSI], RIG_DATA + 21);
	assert_int_equal(st->gpr[RDI], PAGE_B);
	assert_int_equal(rig_read(&rig, PAGE_B - 1, 1), 21);
	/* and goes on when the page is there */
	set_pte(PAGE_B, FAR_PAGE | RIGHTS);
	st->rip = RIG_CODE;
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(st->gpr[RCX], 0);
	assert_int_equal(rig_read(&rig, FAR_PAGE + 42, 1), 64);
	set_pte(PAGE_B, PAGE_B | RIGHTS);
}

static void rep_movs_down_across_pages(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	for (unsigned i = 0; i < 0x1800; i += 8)
		rig_write(&rig, 0x50000 + i, 8, i);
	st->gpr[RSI] = 0x50000 + 0x17f8;
	st->gpr[RDI] = 0x54000 + 0x17fb; /* straddles */
	st->gpr[RCX] = 0x300;
	st->rflags |= FLAG_DF;
	assert_int_equal(RIG_RUN(&rig, 0xf3, 0x48, 0xa5).vector, -1);
	for (unsigned i = 0; i < 0x1800; i += 8)
		assert_int_equal(rig_read(&rig, 0x54003 + i, 8), i);
}

/* Forward over itself one element apart: the first is copied everywhere. */
static void rep_movs_overlapping(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, 0x50ff0, 1, 0x5a);
	st->gpr[RSI] = 0x50ff0;
	st->gpr[RDI] = 0x50ff1;
	st->gpr[RCX] = 0x40;
	assert_int_equal(RIG_RUN(&rig, 0xf3, 0xa4).vector, -1);
	assert_int_equal(rig_read(&rig, 0x51028, 8), 0x5a5a5a5a5a5a5a5a);
}

/* ---- Other memory ------------------------------------------------------------------------ */

static uint64_t device_value;

static uint64_t device_read(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size)
{
	return (0x1122334455667788 >> (8 * (offset & 7))) & size_mask(size);
}

static void device_write(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size, uint64_t value)
{
	device_value = value;
}

static const struct bus_ops device_ops = {
	.read = device_read, .write = device_write, .min_size = 1, .max_size = 8
};

static void devices_are_reached_by_any_instruction(void **state)
{
	bus_map(rig.vs.mmio, DEVICE, 0x1000, "dev", &device_ops, NULL, NULL);
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PD + 0x100 * 8, 8, DEVICE | RIGHTS | PTE_PS);
	st->gpr[RBX] = DEVICE;
	st->gpr[RCX] = 3;
	/* mov eax,[rbx]; add [rbx],ecx */
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03, 0x01, 0x0b).vector, -1);
	assert_int_equal(st->gpr[RAX], 0x55667788);
	assert_int_equal(device_value, 0x5566778b);
	/* movq xmm0,[rbx]; movq rdx,xmm0; lock xadd [rbx],rcx;
	 * popcnt rsi,[rbx] */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = DEVICE;
	st->gpr[RCX] = 1;
	assert_int_equal(RIG_RUN(&rig, 0xf3, 0x0f, 0x7e, 0x03, 0x66, 0x48, 0x0f,
				 0x7e, 0xc2, 0xf0, 0x48, 0x0f, 0xc1, 0x0b, 0xf3,
				 0x48, 0x0f, 0xb8, 0x33)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RDX], 0x1122334455667788);
	assert_int_equal(st->gpr[RCX], 0x1122334455667788);
	assert_int_equal(device_value, 0x1122334455667789);
	assert_int_equal(st->gpr[RSI],
			 __builtin_popcountll(0x1122334455667788));
	/* rep movsd from it */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RSI] = DEVICE;
	st->gpr[RDI] = RIG_DATA;
	st->gpr[RCX] = 2;
	RIG_RUN(&rig, 0xf3, 0xa5);
	assert_int_equal(rig_read(&rig, RIG_DATA, 8), 0x1122334455667788);
	bus_unmap(rig.vs.mmio, DEVICE);
}

static void b9_unmapped_follows_the_policy(void **state)
{
	const uint64_t nowhere = DEVICE + 0x1000;
	struct exit exit = { .reason = EXIT_ERROR };

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PD + 0x100 * 8, 8, DEVICE | RIGHTS | PTE_PS);
	rig.vs.unmapped = UNMAPPED_IGNORE;
	st->gpr[RBX] = nowhere;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03).vector, -1);
	assert_int_equal(st->gpr[RAX], 0xffffffff);

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig.vs.unmapped = UNMAPPED_INJECT;
	st->gpr[RBX] = nowhere;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x03).vector, EXC_GP);

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig.vs.unmapped = UNMAPPED_KILL;
	st->gpr[RBX] = nowhere;
	rig_code(&rig, "\x89\x03", 2);
	ACCEL.set_state(rig.vcpu, st);
	assert_int_equal(ACCEL.run(rig.vcpu, &exit), 0);
	assert_int_equal(exit.reason, EXIT_UNMAPPED);
	assert_int_equal(exit.access.addr, nowhere);
	assert_true(exit.access.is_write);
	rig.vs.unmapped = UNMAPPED_IGNORE;
}

static void b10_rom_keeps_its_bytes_and_nx_does_not_run(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, RIG_PD + 0x80 * 8, 8, ROM | RIGHTS | PTE_PS);
	rig_write(&rig, ROM + 8, 8, 0x1234);
	st->gpr[RBX] = ROM + 8;
	/* mov [rbx],eax; lock inc [rbx]; movups [rbx],xmm0; mov ecx,[rbx] */
	assert_int_equal(RIG_RUN(&rig, 0x89, 0x03, 0xf0, 0xff, 0x03, 0x0f, 0x11,
				 0x03, 0x8b, 0x0b)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RCX], 0x1234);
	/* Data in the region that must not run, then a jump there */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = NX_RAM;
	assert_int_equal(RIG_RUN(&rig, 0x89, 0x03, 0xff, 0xe3).vector, EXC_GP);
}

static void stores_mark_pages_dirty(void **state)
{
	uint8_t *flags = rig.mem.region[0].page_flags;

	rig_mode(&rig, 0, RIG_LONG, 0);
	for (unsigned i = 0; i < RAM / PAGE_SIZE; i++)
		flags[i] &= (uint8_t)~GMEM_PAGE_DIRTY;
	set_pte(PAGE_A, PAGE_A | RIGHTS | PTE_A | PTE_D);
	st->gpr[RBX] = PAGE_A;
	RIG_RUN(&rig, 0x8b, 0x03);
	assert_int_equal(flags[PAGE_A / PAGE_SIZE], 0);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = PAGE_A;
	RIG_RUN(&rig, 0x8b, 0x03, 0x89, 0x03);
	assert_int_equal(flags[PAGE_A / PAGE_SIZE], GMEM_PAGE_DIRTY);
}

static void page_tables_in_rom_stay_as_they_are(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, ROM + 0x1000, 8, RIG_PDPT | RIGHTS);
	st->cr3 = ROM + 0x1000;
	assert_int_equal(RIG_RUN(&rig, 0x90).vector, -1);
	assert_int_equal(rig_read(&rig, ROM + 0x1000, 8), RIG_PDPT | RIGHTS);
}

static void alignment_is_checked_at_level_3(void **state)
{
	struct rig_exception e;

	for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
		rig_mode(&rig, 0, RIG_LONG, cpl);
		st->cr0 |= CR0_AM;
		st->rflags |= FLAG_AC;
		st->gpr[RBX] = RIG_DATA + 2;
		st->gpr[RSI] = RIG_DATA + 4;
		/* mov [rsi], eax; mov [rbx], eax */
		e = RIG_RUN(&rig, 0x89, 0x06, 0x89, 0x03);
		if (cpl) {
			assert_int_equal(e.vector, EXC_AC);
			assert_int_equal(e.rip, RIG_CODE + 2);
		} else {
			assert_int_equal(e.vector, -1);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_have_all_parts),
		cmocka_unit_test(addresses_16_bit_wrap),
		cmocka_unit_test(noncanonical_is_gp_or_ss),
		cmocka_unit_test(b3_limits_and_rights),
		cmocka_unit_test(b3_segment_base_wraps_at_4_gib),
		cmocka_unit_test(code_beyond_the_limit_is_gp),
		cmocka_unit_test(b3_long_mode_sets_a_and_d),
		cmocka_unit_test(b3_rights_and_error_codes),
		cmocka_unit_test(b3_nx_smep_smap),
		cmocka_unit_test(b3_large_pages),
		cmocka_unit_test(b7_invlpg_drops_a_page),
		cmocka_unit_test(b7_invlpg_drops_all_of_a_large_page),
		cmocka_unit_test(b7_cr3_keeps_global_pages),
		cmocka_unit_test(b7_pcid_keeps_address_spaces_apart),
		cmocka_unit_test(straddling_is_exact),
		cmocka_unit_test(straddling_store_is_all_or_nothing),
		cmocka_unit_test(vectors_straddle_too),
		cmocka_unit_test(rep_movs_stops_at_the_fault),
		cmocka_unit_test(rep_movs_down_across_pages),
		cmocka_unit_test(rep_movs_overlapping),
		cmocka_unit_test(devices_are_reached_by_any_instruction),
		cmocka_unit_test(b9_unmapped_follows_the_policy),
		cmocka_unit_test(b10_rom_keeps_its_bytes_and_nx_does_not_run),
		cmocka_unit_test(stores_mark_pages_dirty),
		cmocka_unit_test(page_tables_in_rom_stay_as_they_are),
		cmocka_unit_test(alignment_is_checked_at_level_3),
		cmocka_unit_test(b3_two_level_paging_with_pse),
		cmocka_unit_test(b3_pae_paging),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
