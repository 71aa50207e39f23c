/* String instructions: where they stop at a fault, in what direction they go,
 * interrupts in their midst (A12, B3). */
#include "lib/pc.h"

#define VECTOR 0x51
#define GVA    0x40000000ULL /* page[0], page[1], then nothing */
#define END    (GVA + 0x2000)

static uint8_t page[2][4096] __attribute__((aligned(4096)));
static uint8_t buf[8192] __attribute__((aligned(4096)));

struct regs {
	uint64_t a, c, s, d;
};

/* Run (insns) with (r), which is updated as far as it got. The vector of the
 * exception, or -1. */
#define STRING(insns, r)                                                     \
	({                                                                   \
		int64_t v_ = -1;                                             \
		__asm__ volatile("lea 1f(%%rip), %%r8\n\t"                   \
				 "mov %%r8, trap_resume\n\t" insns "\n\t"    \
				 "jmp 2f\n"                                  \
				 "1: mov last_trap+120, %[v]\n"              \
				 "2: movq $0, trap_resume\n\t"               \
				 "cld"                                       \
				 : [v] "+&r"(v_), "+a"((r).a), "+c"((r).c),  \
				   "+S"((r).s), "+D"((r).d)::"r8", "memory", \
				   "cc");                                    \
		(int)v_;                                                     \
	})

static uint64_t addr(const void *p)
{
	return (uint64_t)p;
}

/* buf counts up: 0, 1, ..., in bytes. */
static void fill(void)
{
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7 + (i >> 8));
	memset(page, 0xee, sizeof(page));
}

/* ---- faults ------------------------------------------------------------------- */

static void test_fault_in_destination(void)
{
	struct regs r;

	fill();
	r = (struct regs){ 0, 200, addr(buf), END - 100 };
	ok(STRING("rep movsb", r) == 14 && last_cr2 == END &&
		   last_trap.error == 2,
	   "b3_movsb_faults_where_memory_ends");
	ok(r.c == 100 && r.s == addr(buf) + 100 && r.d == END,
	   "b3_movsb_stopped_exactly (%lu)", r.c);
	ok(!memcmp(page[1] + 4096 - 100, buf, 100), "b3_movsb_did_the_rest");
	r = (struct regs){ 0, 50, addr(buf), END - 100 };
	ok(STRING("rep movsq", r) == 14 && r.c == 50 - 12 &&
		   r.s == addr(buf) + 96 && r.d == END - 4,
	   "b3_movsq_stopped_before_the_element_that_straddles");
	fill();
	r = (struct regs){ 0x1122334455667788, 50, 0, END - 20 };
	ok(STRING("rep stosq", r) == 14 && r.c == 48 && r.d == END - 4 &&
		   page[1][4092] == 0xee && page[1][4091] == 0x11,
	   "b3_stosq_stores_no_part_of_an_element");
	r = (struct regs){ 0xabcd, 5000, 0, GVA };
	ok(STRING("rep stosw", r) == 14 && r.c == 5000 - 4096 && r.d == END,
	   "b3_stosw_over_two_pages");
	ok(page[0][0] == 0xcd && page[1][4095] == 0xab, "b3_and_stored");
	r = (struct regs){ 0x99, 6000, 0, END };
	ok(STRING("rep stosb", r) == 14 && r.c == 6000 && r.d == END,
	   "b3_a_fault_at_the_first_element");
}

static void test_fault_in_source(void)
{
	struct regs r;

	fill();
	r = (struct regs){ 0, 200, END - 64, addr(buf) };
	ok(STRING("rep movsl", r) == 14 && last_cr2 == END &&
		   last_trap.error == 0,
	   "b3_movsl_faults_at_its_source");
	ok(r.c == 200 - 16 && r.s == END && r.d == addr(buf) + 64,
	   "b3_movsl_stopped_exactly");
	page[1][4095] = 0x5a;
	r = (struct regs){ 0, 200, END - 64, 0 };
	ok(STRING("rep lodsb", r) == 14 && r.c == 136 && r.a == 0x5a,
	   "b3_lodsb_has_what_it_read_last");
	r = (struct regs){ 0x77, 200, 0, END - 30 };
	ok(STRING("repne scasb", r) == 14 && r.c == 170 && r.d == END,
	   "b3_scasb_stopped_exactly");
	memcpy(buf, page[1] + 4096 - 40, 40);
	r = (struct regs){ 0, 200, addr(buf), END - 40 };
	ok(STRING("repe cmpsb", r) == 14 && r.c == 160 && r.d == END &&
		   r.s == addr(buf) + 40,
	   "b3_cmpsb_stopped_exactly");
	r = (struct regs){ 0, 100, GVA + 0x1000 + 40, addr(buf) + 4000 };
	ok(STRING("std; rep movsb", r) == -1, "b3_backwards_within_memory");
	r = (struct regs){ 0, 6000, addr(buf), GVA + 9 };
	ok(STRING("std; rep stosb", r) == 14 && r.c == 6000 - 10 &&
		   r.d == GVA - 1 && last_cr2 == GVA - 1,
	   "b3_backwards_out_of_memory");
	r = (struct regs){ 0, 10, 0x800000000000, addr(buf) };
	ok(STRING("rep movsb", r) == 13 && r.c == 10,
	   "b3_a_non_canonical_source_is_gp");
}

static uint64_t *find_pte(uint64_t gva)
{
	uint64_t *table = pml4;

	for (unsigned shift = 39; shift > 12; shift -= 9)
		table = (void *)(table[gva >> shift & 511] &
				 0xffffffffff000ULL);
	return &table[gva >> 12 & 511];
}

static void test_dirty(void)
{
	uint64_t *pte = find_pte(GVA);
	struct regs r;

	page_map(GVA, addr(page[0]), 3);
	page_map(GVA + 0x1000, addr(page[1]), 3);
	r = (struct regs){ 0, 4096, GVA + 0x1000, GVA };
	STRING("rep movsb", r);
	ok((pte[0] & 0x60) == 0x60 && (pte[1] & 0x60) == 0x20,
	   "b3_movs_dirties_its_destination_alone");
	page_map(GVA + 0x1000, addr(page[1]), 3);
	r = (struct regs){ 0, 4096, 0, GVA };
	STRING("rep stosb", r);
	ok(!(pte[1] & 0x60), "b3_stos_up_to_a_page_leaves_the_next_alone");
	/* A page that may only be read, in the middle of a long store. */
	page_map(GVA + 0x1000, addr(page[1]), 1);
	r = (struct regs){ 0, 8192, 0, GVA };
	ok(STRING("rep stosb", r) == 14 && r.c == 4096 &&
		   last_trap.error == 3 && last_cr2 == GVA + 0x1000,
	   "b3_stos_stops_at_a_read_only_page");
	page_map(GVA + 0x1000, addr(page[1]), 3);
}

/* ---- order, ends --------------------------------------------------------------- */

static void test_overlap(void)
{
	struct regs r;
	unsigned bad = 0;

	fill();
	buf[0] = 0x42;
	r = (struct regs){ 0, 3000, addr(buf), addr(buf) + 1 };
	STRING("rep movsb", r);
	for (unsigned i = 0; i <= 3000; i++)
		bad += buf[i] != 0x42;
	ok(!bad, "a12_movsb_onto_the_next_byte_repeats_it");
	fill();
	memcpy(page, buf, 4096);
	for (unsigned i = 0; i < 400; i++) {
		uint64_t v;

		memcpy(&v, (uint8_t *)page + 8 * i, 8);
		memcpy((uint8_t *)page + 8 * i + 3, &v, 8);
	}
	r = (struct regs){ 0, 400, addr(buf), addr(buf) + 3 };
	STRING("rep movsq", r);
	ok(!memcmp(buf, page, 4096), "a12_movsq_overlapping_by_three_bytes");
	for (unsigned i = 0; i < 4096; i++)
		buf[i] = (uint8_t)(i * 3);
	r = (struct regs){ 0, 2000, addr(buf) + 1, addr(buf) };
	STRING("rep movsb", r);
	for (unsigned i = 0; i < 2000; i++)
		bad += buf[i] != (uint8_t)((i + 1) * 3);
	ok(!bad, "a12_movsb_onto_the_byte_before_shifts");
	for (unsigned i = 0; i < 4096; i++)
		buf[i] = (uint8_t)(i * 3);
	r = (struct regs){ 0, 2000, addr(buf) + 1999, addr(buf) + 2000 };
	STRING("std; rep movsb", r);
	for (unsigned i = 1; i <= 2000; i++)
		bad += buf[i] != (uint8_t)((i - 1) * 3);
	ok(!bad && r.s == addr(buf) - 1 && r.d == addr(buf),
	   "a12_backwards_it_shifts_up");
}

static void test_ends(void)
{
	struct regs r;
	uint8_t zf;

	fill();
	r = (struct regs){ 0, 0, 0x800000000000, 0x800000000000 };
	ok(STRING("rep movsb", r) == -1 && r.s == 0x800000000000,
	   "a12_a_count_of_zero_touches_nothing");
	r = (struct regs){ 0, 0, 0, 0x800000000000 };
	ok(STRING("cmp %%rax, %%rax; repne scasb; setz %%al", r) == -1 &&
		   (uint8_t)r.a == 1,
	   "a12_scas_with_a_count_of_zero_keeps_the_flags");
	buf[100] = 0xf1;
	for (unsigned i = 0; i < 100; i++)
		buf[i] = 0;
	r = (struct regs){ 0xf1, 4000, 0, addr(buf) };
	STRING("repne scasb", r);
	__asm__ volatile("" ::: "memory");
	ok(r.c == 4000 - 101 && r.d == addr(buf) + 101, "a12_scasb_finds");
	memset(page, 0, sizeof(page));
	buf[37] = 3;
	r = (struct regs){ 0, 100, addr(buf), addr(page) };
	STRING("repe cmpsb; setc %%al", r);
	ok(r.c == 100 - 38 && r.s == addr(buf) + 38 && !(uint8_t)r.a,
	   "a12_cmpsb_stops_at_the_difference_with_its_flags");
	r = (struct regs){ 0, 4, addr(page), addr(buf) + 36 };
	STRING("repe cmpsw; setc %%al", r);
	ok(r.c == 3 && (uint8_t)r.a == 1,
	   "a12_cmpsw_subtracts_its_destination");
	r = (struct regs){ 0, 5, addr(buf), addr(page) };
	__asm__ volatile("repe cmpsb; setz %0"
			 : "=&a"(zf), "+c"(r.c), "+S"(r.s), "+D"(r.d)::"cc",
			   "memory");
	ok(zf && r.c == 0, "a12_cmpsb_to_its_end_says_equal");
	r = (struct regs){ 0xffffffffffffff00, 3, addr(buf) + 100, 0 };
	STRING("rep lodsb", r);
	ok(r.a == (0xffffffffffffff00 | buf[102]), "a12_lodsb_keeps_the_rest");
	r = (struct regs){ ~0ULL, 1, addr(buf), 0 };
	STRING("lodsl", r);
	ok(r.a >> 32 == 0 && r.c == 1, "a12_lodsl_zero_extends");
}

static void test_addresses(void)
{
	struct regs r;

	fill();
	/* The last page below 4 GiB and the first one. */
	page_map(0xfffff000, addr(page[0]), 3);
	page_map(0, addr(page[1]), 3);
	page[0][4094] = 1;
	page[0][4095] = 2;
	page[1][0] = 3;
	page[1][1] = 4;
	r = (struct regs){ 0, 0xaaaa00000004, 0xbbbbfffffffe,
			   0xcccc00000000 | addr(buf) };
	ok(STRING("addr32 rep movsb", r) == -1 && r.c == 0 && r.s == 2 &&
		   r.d == addr(buf) + 4,
	   "a12_32_bit_addresses_wrap (%lx %lx %lx)", r.c, r.s, r.d);
	ok(buf[0] == 1 && buf[1] == 2 && buf[2] == 3 && buf[3] == 4,
	   "a12_and_read_both_ends");
	wrmsr(0xc0000100, addr(buf));
	r = (struct regs){ 0, 4, 1000, addr(page[1]) + 100 };
	STRING("rep movsb %%fs:(%%rsi), %%es:(%%rdi)", r);
	ok(!memcmp(page[1] + 100, buf + 1000, 4) && r.s == 1004,
	   "a12_a_segment_override_is_the_sources");
	wrmsr(0xc0000100, 0);
}

/* ---- interrupts ------------------------------------------------------------------ */

extern uint8_t long_string[];
static volatile unsigned ticks, inside, wrong;

static void on_tick(struct trap_frame *f)
{
	ticks++;
	if (f->rip == (uint64_t)long_string) {
		inside++;
		/* Registers say how far it is, and memory agrees. */
		if (f->rdi > 0x1800000 && ((uint8_t *)f->rdi)[-1] != 0x3c)
			wrong++;
		if (f->rdi + f->rcx != 0x1800000 + 0x200000)
			wrong++;
	}
	apic_eoi();
}

static void test_interrupts(void)
{
	unsigned bad = 0;

	pic_init(0x20);
	trap_set(VECTOR, on_tick);
	apic_write(APIC_SVR, 0x1ff);
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, 0x20000 | VECTOR);
	apic_write(APIC_INITIAL, 500000);
	for (unsigned i = 0; i < 40 && inside < 5; i++) {
		uint64_t d = 0x1800000, c = 0x200000;

		memset((void *)d, 0, c);
		*(uint8_t *)d = 0x3c;
		__asm__ volatile("mov %%rdi, %%rsi; inc %%rdi; dec %%rcx; sti\n"
				 "long_string: rep movsb\n\t"
				 "cli"
				 : "+D"(d), "+c"(c)::"rsi", "memory", "cc");
		bad += c != 0 || d != 0x1800000 + 0x200000;
		for (unsigned k = 0; k < 0x200000; k += 4093)
			bad += ((uint8_t *)0x1800000)[k] != 0x3c;
	}
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR);
	apic_write(APIC_INITIAL, 0);
	ok(inside >= 5, "c14_interrupts_come_within_an_instruction (%u of %u)",
	   inside, ticks);
	ok(!bad, "c14_it_goes_on_where_it_was");
	ok(!wrong, "c14_its_registers_are_right_in_between");
}

void guest_main(void)
{
	page_map(GVA - 0x1000, 0, 0);
	page_map(GVA, addr(page[0]), 3);
	page_map(GVA + 0x1000, addr(page[1]), 3);
	page_map(END, 0, 0);
	test_fault_in_destination();
	test_fault_in_source();
	test_dirty();
	test_overlap();
	test_ends();
	test_interrupts();
	test_addresses();
}
