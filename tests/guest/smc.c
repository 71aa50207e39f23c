/* Code that changes: by its own stores of every kind, under other names, by
 * remapping, across page ends; faults of instruction fetch (A10, B3). */
#include "lib/guest.h"

#define GVA  0x40000000ULL /* code[0], then code[1] */
#define NX   (1ULL << 63)
#define MOV  0xb8 /* mov $imm32, %eax */
#define RET  0xc3
#define CODE __attribute__((aligned(4096)))

static uint8_t code[3][4096] CODE;

static int call(const void *at)
{
	int r;

	__asm__ volatile("call *%1"
			 : "=a"(r)
			 : "r"(at)
			 : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
			   "memory", "cc");
	return r;
}

/* mov $value, %eax; ret */
static void put_mov(volatile uint8_t *at, uint32_t value)
{
	at[0] = MOV;
	for (unsigned i = 0; i < 4; i++)
		at[1 + i] = (uint8_t)(value >> 8 * i);
	at[5] = RET;
}

/* ---- its own code -------------------------------------------------------------- */

__asm__("smc_next:\n\t"
	"movb %dil, 1f+1(%rip)\n"
	"1: mov $0x11, %eax\n\t"
	"ret\n"
	"smc_later:\n\t"
	"xor %eax, %eax\n\t"
	"movl %edi, 1f+1(%rip)\n\t"
	"inc %eax\n\t"
	"dec %eax\n\t"
	"nop\n"
	"1: mov $0x22222222, %eax\n\t"
	"ret\n"
	/* Each turn of the loop adds one more than the last. */
	"smc_loop:\n\t"
	"xor %eax, %eax\n\t"
	"movl $0, 1f+1(%rip)\n\t"
	"mov $1000, %ecx\n"
	"1: .byte 0x05, 0, 0, 0, 0 /* add $0, %eax */\n\t"
	"incl 1b+1(%rip)\n\t"
	"dec %ecx\n\t"
	"jnz 1b\n\t"
	"ret\n"
	/* A store that makes the RET behind it a NOP, and back. */
	"smc_locked:\n\t"
	"mov $0x90, %eax\n\t"
	"xchgb %al, 1f(%rip)\n\t"
	"mov $1, %eax\n"
	"1: ret\n\t"
	"movb $0xc3, 1b(%rip)\n\t"
	"mov $2, %eax\n\t"
	"ret\n"
	"smc_cmpxchg:\n\t"
	"mov $0x11111111, %eax\n\t"
	"lock cmpxchgl %edi, 1f+1(%rip)\n"
	"1: mov $0x11111111, %eax\n\t"
	"movl $0x11111111, 1b+1(%rip)\n\t"
	"ret\n"
	/* PUSH with the stack in the code. */
	"smc_push:\n\t"
	"mov %rsp, %rsi\n\t"
	"lea 2f(%rip), %rsp\n\t"
	"push %rdi\n\t"
	"mov %rsi, %rsp\n"
	"1: mov $0x33333333, %eax\n\t"
	"ret; nop; nop\n"
	"2:\n\t"
	"ret\n"
	"smc_stos:\n\t"
	"mov %edi, %eax\n\t"
	"lea 1f+1(%rip), %rdi\n\t"
	"mov $4, %ecx\n\t"
	"rep stosb\n"
	"1: mov $0x44444444, %eax\n\t"
	"ret\n"
	"smc_movups:\n\t"
	"movups 1f(%rip), %xmm0\n\t"
	"movups (%rdi), %xmm1\n\t"
	"movups %xmm1, 1f(%rip)\n"
	"1: mov $0x55555555, %eax\n\t"
	"movups %xmm0, 1b(%rip)\n\t"
	"ret; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop; nop\n");
extern const uint8_t smc_next[], smc_later[], smc_loop[], smc_locked[],
	smc_cmpxchg[], smc_push[], smc_stos[], smc_movups[];

static int call1(const void *at, uint64_t arg)
{
	int r;

	__asm__ volatile("call *%2"
			 : "=a"(r), "+D"(arg)
			 : "r"(at)
			 : "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11",
			   "memory", "cc");
	return r;
}

static void test_own_code(void)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < 1000; i++)
		bad += call1(smc_next, i & 0x7f) != (int)(i & 0x7f);
	ok(!bad, "a10_the_next_instruction_changes_1000_times");
	for (unsigned i = 0; i < 1000; i++)
		bad += call1(smc_later, i * 77777) != (int)(i * 77777);
	ok(!bad, "a10_one_further_on_does");
	ok(call1(smc_loop, 0) == 1000 * 999 / 2 &&
		   call1(smc_loop, 0) == 1000 * 999 / 2,
	   "a10_a_loop_changes_itself_every_turn");
	for (unsigned i = 0; i < 100; i++)
		bad += call1(smc_locked, 0) != 2;
	ok(!bad, "a10_xchg_changes_code");
	for (unsigned i = 0; i < 100; i++)
		bad += call1(smc_cmpxchg, 0x22000000 + i) !=
		       (int)(0x22000000 + i);
	ok(!bad, "a10_cmpxchg_changes_code");
	for (unsigned i = 0; i < 100; i++) {
		uint64_t insn = MOV | (uint64_t)i << 8 | (uint64_t)RET << 40 |
				0x9090ULL << 48;

		bad += call1(smc_push, insn) != (int)i;
	}
	ok(!bad, "a10_push_changes_code");
	for (unsigned i = 0; i < 100; i++)
		bad += call1(smc_stos, i) != (int)(i * 0x01010101);
	ok(!bad, "a10_rep_stos_changes_code_behind_it");
	for (unsigned i = 0; i < 100; i++) {
		/* mov $i, %eax; movups %xmm0, -12(%rip); ret */
		uint8_t insns[16] = { MOV,  (uint8_t)i, 0,    0,    0,    0x0f,
				      0x11, 0x05,       0xf4, 0xff, 0xff, 0xff,
				      RET,  0x90,       0x90, 0x90 };

		bad += call1(smc_movups, (uint64_t)insns) != (int)i;
	}
	ok(!bad, "a10_movups_changes_code");
}

/* ---- other code, other names ------------------------------------------------------ */

static void test_other_code(void)
{
	uint8_t *alias = (void *)GVA;
	unsigned bad = 0;

	for (unsigned i = 0; i < 1000; i++) {
		put_mov(code[0], i);
		bad += call(code[0]) != (int)i;
	}
	ok(!bad, "a10_code_that_is_written_runs");
	for (unsigned i = 0; i < 1000; i++) {
		put_mov(alias, i + 5);
		bad += call(code[0]) != (int)i + 5;
	}
	ok(!bad, "a10_written_under_another_address");
	for (unsigned i = 0; i < 1000; i++) {
		put_mov(code[0], i + 9);
		bad += call(alias) != (int)i + 9 || call(code[0]) != (int)i + 9;
	}
	ok(!bad, "a10_run_under_another_address");
	/* A store that begins on the page before. */
	put_mov(code[1], 1);
	call(code[1]);
	for (unsigned i = 0; i < 100; i++) {
		*(volatile uint64_t *)(void *)(code[0] + 4093) =
			(uint64_t)MOV << 24 | (uint64_t)i << 32;
		bad += call(code[1]) != (int)i;
	}
	ok(!bad, "a10_a_store_across_the_page_boundary_changes_code");
	for (unsigned i = 0; i < 100; i++) {
		put_mov(code[2], 1000 + i);
		memcpy(code[0] + 16, code[2], 6);
		bad += call(code[0] + 16) != (int)(1000 + i);
	}
	ok(!bad, "a10_code_is_copied_over_code");
	/* FXSAVE stores 512 bytes: code in its reserved end is kept, in its
	 * middle is not. */
	put_mov(code[0] + 1024 + 32, 7);
	call(code[0] + 1024 + 32);
	for (unsigned i = 0; i < 10; i++) {
		uint8_t image[512] __attribute__((aligned(16)));

		__asm__ volatile("fxsave %0" : "=m"(image));
		put_mov(image + 160, i); /* XMM0 */
		__asm__ volatile("movups 160(%1), %%xmm0; fxsave %0"
				 : "=m"(*(uint8_t(*)[512])(code[0] + 1024))
				 : "r"(image)
				 : "memory");
		bad += call(code[0] + 1024 + 160) != (int)i;
	}
	ok(!bad, "a10_fxsave_changes_code");
}

static void test_remap(void)
{
	unsigned bad = 0;

	put_mov(code[1], 111);
	put_mov(code[2], 222);
	for (unsigned i = 0; i < 100; i++) {
		page_map(GVA, (uint64_t)code[1 + (i & 1)], 3);
		bad += call((void *)GVA) != (i & 1 ? 222 : 111);
	}
	ok(!bad, "b7_remapped_code_is_the_new_code");
	/* One instruction over two pages, of which the second changes. */
	page_map(GVA, (uint64_t)code[0], 3);
	code[0][4094] = MOV;
	code[0][4095] = 0x66;
	for (unsigned i = 0; i < 100; i++) {
		uint8_t *second = code[1 + (i & 1)];

		second[0] = second[1] = 0;
		second[2] = (uint8_t)i;
		second[3] = RET;
		page_map(GVA + 4096, (uint64_t)second, 3);
		bad += call((void *)(GVA + 4094)) != (int)(i << 24 | 0x66);
	}
	ok(!bad, "b7_an_instruction_across_pages_follows_the_second");
	for (unsigned i = 0; i < 100; i++) {
		code[2][2] = (uint8_t)(i + 3);
		code[0][4095] = (uint8_t)i;
		bad += call((void *)(GVA + 4094)) != (int)((i + 3) << 24 | i);
	}
	ok(!bad, "a10_and_its_two_ends_change");
}

/* ---- faults ------------------------------------------------------------------------ */

static uint64_t *find_pte(uint64_t gva)
{
	uint64_t *table = pml4;

	for (unsigned shift = 39; shift > 12; shift -= 9)
		table = (void *)(table[gva >> shift & 511] &
				 0xffffffffff000ULL);
	return &table[gva >> 12 & 511];
}

static int try_call(uint64_t gva)
{
	return TRAP_OF("call *%[p]", [p] "r"(gva));
}

static void test_faults(void)
{
	uint64_t *pte = find_pte(GVA);

	put_mov(code[0], 5);
	page_map(GVA, 0, 0);
	ok(try_call(GVA + 7) == 14 && last_trap.error == 16 &&
		   last_cr2 == GVA + 7 && last_trap.rip == GVA + 7,
	   "b3_a_fetch_from_nothing_faults_at_its_target");
	page_map(GVA, (uint64_t)code[0], 3 | NX);
	ok(try_call(GVA) == 14 && last_trap.error == 17 && last_cr2 == GVA,
	   "b3_a_fetch_from_nx_faults");
	ok(!(*pte & 0x20), "b3_without_accessed");
	page_map(GVA, (uint64_t)code[0], 3);
	ok(try_call(GVA) == -1 && (*pte & 0x60) == 0x20,
	   "b3_a_fetch_sets_accessed_alone");
	/* The last instruction reaches into a page that is not there. */
	page_map(GVA + 4096, 0, 0);
	code[0][4094] = MOV;
	ok(try_call(GVA + 4094) == 14 && last_cr2 == GVA + 4096 &&
		   last_trap.rip == GVA + 4094 && last_trap.error == 16,
	   "b3_a_fetch_across_the_end_faults_at_the_second_page");
	code[0][4094] = 0x90;
	code[0][4095] = 0x90;
	ok(try_call(GVA + 4094) == 14 && last_cr2 == GVA + 4096 &&
		   last_trap.rip == GVA + 4096,
	   "b3_falling_off_the_end_faults_there");
	code[0][4095] = RET;
	ok(try_call(GVA + 4094) == -1, "b3_returning_before_it_does_not");
	page_map(GVA + 4096, (uint64_t)code[1], 3);
	ok(try_call(GVA + 4094) == -1 && !(pte[1] & 0x20),
	   "b3_the_page_behind_is_not_accessed");
	/* Mapped after the fault, the instruction runs. */
	code[0][4094] = MOV;
	code[0][4095] = 1;
	code[1][0] = code[1][1] = code[1][2] = 0;
	code[1][3] = RET;
	page_map(GVA + 4096, (uint64_t)code[1], 3 | NX);
	ok(try_call(GVA + 4094) == 14 && last_trap.error == 17 &&
		   last_cr2 == GVA + 4096,
	   "b3_nx_counts_for_the_second_page");
	page_map(GVA + 4096, (uint64_t)code[1], 3);
	ok(call((void *)(GVA + 4094)) == 1, "b3_then_it_runs");
	ok(TRAP_OF("jmp *%[p]", [p] "r"(0x800000000000)) == 13,
	   "b3_a_jump_to_a_non_canonical_address_is_gp");
	/* Fifteen bytes are an instruction, though they cross. */
	memset(code[0] + 4084, 0x66, 12);
	code[1][0] = 0x66;
	code[1][1] = 0x66;
	code[1][2] = 0x90;
	code[1][3] = RET;
	ok(try_call(GVA + 4084) == -1, "b3_15_bytes_over_two_pages");
	code[0][4083] = 0x66;
	ok(try_call(GVA + 4083) == 13, "b3_16_are_too_many");
}

void guest_main(void)
{
	page_map(GVA + 4096, (uint64_t)code[1], 3);
	page_map(GVA, (uint64_t)code[0], 3);
	test_own_code();
	test_other_code();
	test_remap();
	test_faults();
}
