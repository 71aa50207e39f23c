/* Exceptions with their error codes, nested faults, IST, shadows, single step,
 * breakpoints. */
#include "lib/guest.h"

static uint8_t ist_stack[2][8192] __attribute__((aligned(16)));
static volatile uint64_t hits, hit_rsp, hit_dr6, hit_rip;

static void on_hit(struct trap_frame *f)
{
	hits++;
	hit_rsp = (uint64_t)f;
	hit_rip = f->rip;
}

static uint64_t flags_now(void)
{
	uint64_t f;

	__asm__ volatile("pushfq; pop %0" : "=r"(f));
	return f;
}

static int64_t user_int3(void)
{
	__asm__ volatile("int3");
	return 0;
}

static int64_t user_unaligned(void)
{
	uint64_t buf[2] = { 0 };

	__asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq;"
			 "movl 1(%0), %%eax;"
			 "pushfq; andq $~0x40000, (%%rsp); popfq" ::"r"(buf)
			 : "rax", "cc", "memory");
	return 1;
}

static void test_exceptions(void)
{
	uint64_t cr0 = read_cr0();

	ok(TRAP_IN("div %%rcx", 1, 0, 0, 0) == 0, "divide_by_zero_is_de");
	ok(TRAP_IN("idiv %%rcx", 0, 0, -1ULL, 1ULL << 63) == 0,
	   "overflow_of_idiv_is_de");
	ok(TRAP_OF("int3") == 3, "int3_is_bp");
	ok(last_trap.rip != trap_resume, "bp_is_a_trap");
	ok(TRAP_OF("ud2") == 6, "ud2_is_ud");
	ok(TRAP_OF(".byte 0xf0; nop") == 6, "lock_nop_is_ud");
	ok(TRAP_OF(".byte 0x0f, 0x0b") == 6, "ud2_again");
	ok(TRAP_OF(".byte 0x06") == 6, "push_es_is_ud_in_64_bit_mode");
	hits = 0;
	trap_set(0x99, on_hit);
	__asm__ volatile("int $0x99");
	ok(hits == 1, "int_n_reaches_its_gate");
	ok(user(user_int3) == -1013, "int3_needs_a_gate_of_dpl_3");
	ok(last_trap.error == (3 * 8 | 2), "its_error_code_names_the_gate");
	write_cr0(cr0 | 1 << 18);
	ok(user(user_unaligned) == -1017 && last_trap.error == 0,
	   "an_unaligned_access_at_cpl_3_with_ac_is_ac");
	write_cr0(cr0);
	ok(user(user_unaligned) == 1, "without_am_it_is_allowed");
	ok(TRAP_OF(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,"
		   "0x66,0x66,0x66,0x66,0x66,0x90") == 13,
	   "an_instruction_of_16_bytes_is_gp");
}

static void test_fpu_exceptions(void)
{
	uint32_t mxcsr = 0x1f80 & ~0x200U, old = 0x1f80;
	uint16_t cw = 0x37f & ~4;
	double zero = 0;

	__asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
	ok(TRAP_OF("movq %[z], %%xmm0; mov $1, %%eax; cvtsi2sd %%eax, %%xmm1;"
		   "divsd %%xmm0, %%xmm1",
		   [z] "m"(zero)) == 19,
	   "an_unmasked_sse_division_by_zero_is_xm");
	write_cr4(read_cr4() & ~0x400ULL);
	ok(TRAP_OF("mov $1, %%eax; cvtsi2sd %%eax, %%xmm1; divsd %%xmm0, "
		   "%%xmm1") == 6,
	   "without_osxmmexcpt_it_is_ud");
	write_cr4(read_cr4() | 0x400);
	__asm__ volatile("ldmxcsr %0" ::"m"(old));
	__asm__ volatile("fninit; fldcw %0" ::"m"(cw));
	ok(TRAP_OF("fld1; fldz; fdivrp; fwait") == 16,
	   "an_unmasked_x87_division_by_zero_is_mf");
	__asm__ volatile("fnclex; fninit");
	ok(TRAP_OF("fld1; fldz; fdivrp; fwait") == -1, "masked_it_is_quiet");
	ok(TRAP_OF("ldmxcsr %[v]", [v] "m"(*(const uint32_t *)&(const uint32_t){
					   0x10000 })) == 13,
	   "reserved_bits_of_mxcsr_are_gp");
	write_cr4(read_cr4() & ~0x200ULL);
	ok(TRAP_OF("movaps %%xmm0, %%xmm1") == 6, "without_osfxsr_sse_is_ud");
	write_cr4(read_cr4() | 0x200);
	ok(TRAP_OF("movaps 8(%[p]), %%xmm0", [p] "r"((uint64_t)ist_stack[0])) ==
		   13,
	   "an_unaligned_movaps_is_gp");
}

/* ---- double faults, IST ------------------------------------------------------- */

static volatile uint64_t df_resume, df_rsp;

static void on_double_fault(struct trap_frame *f)
{
	hits++;
	hit_rsp = (uint64_t)f;
	last_trap = *f;
	f->rip = df_resume;
	f->rsp = df_rsp;
	f->ss = KERNEL_DS;
	f->cs = KERNEL_CS;
}

static void test_double_fault(void)
{
	uint64_t gate = idt[13 * 2];

	*(uint64_t *)(void *)(tss + 36) =
		(uint64_t)ist_stack[0] + sizeof(ist_stack[0]);
	idt_set(8, trap_stubs + 16 * 8, 0, 1, 14);
	trap_set(8, on_double_fault);
	hits = 0;
	idt[13 * 2] = gate & ~(1ULL << 47); /* #GP's gate is not present */
	__asm__ volatile("mov %%rsp, %0; lea 1f(%%rip), %%rax; mov %%rax, %1;"
			 "mov $0x8000000000000000, %%rax; mov (%%rax), %%rax;"
			 "1:"
			 : "=m"(df_rsp), "=m"(df_resume)::"rax", "memory");
	idt[13 * 2] = gate;
	ok(hits == 1 && last_trap.vector == 8, "gp_on_gp_is_a_double_fault");
	ok(last_trap.error == 0, "its_error_code_is_0");
	ok(hit_rsp > (uint64_t)ist_stack[0] &&
		   hit_rsp < (uint64_t)ist_stack[0] + sizeof(ist_stack[0]),
	   "it_came_on_its_ist_stack");
	/* A page fault on a broken stack: #PF while delivering #PF. */
	hits = 0;
	__asm__ volatile("mov %%rsp, %0; lea 1f(%%rip), %%rax; mov %%rax, %1;"
			 "mov $0x7f0000000000, %%rsp; push %%rax;"
			 "1:"
			 : "=m"(df_rsp), "=m"(df_resume)::"rax", "memory");
	ok(hits == 1 && last_trap.vector == 8, "pf_on_pf_is_a_double_fault");
	trap_set(8, NULL);
	*(uint64_t *)(void *)(tss + 36 + 8) =
		(uint64_t)ist_stack[1] + sizeof(ist_stack[1]);
	idt_set(0x90, trap_stubs + 16 * 0x90, 0, 2, 15);
	trap_set(0x90, on_hit);
	__asm__ volatile("int $0x90");
	ok(hit_rsp > (uint64_t)ist_stack[1] &&
		   hit_rsp < (uint64_t)ist_stack[1] + sizeof(ist_stack[1]),
	   "an_interrupt_takes_its_ist_stack");
}

/* ---- debugging ------------------------------------------------------------------- */

static void on_debug(struct trap_frame *f)
{
	uint64_t dr6;

	hits++;
	hit_rip = f->rip;
	__asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
	hit_dr6 = dr6;
	__asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ULL));
	f->rflags |= 1 << 16; /* RF: go past an instruction breakpoint */
}

static void set_dr7(uint64_t v)
{
	__asm__ volatile("mov %0, %%dr7" ::"r"(v));
}

static volatile uint64_t watched[2] __attribute__((aligned(16)));

static void test_debug(void)
{
	uint64_t target;

	trap_set(1, on_debug);
	hits = 0;
	__asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq;"
			 "nop; nop; nop;"
			 "pushfq; andq $~0x100, (%%rsp); popfq" ::
				 : "cc", "memory");
	/* After each of nop nop nop pushfq and popfq: TF traps behind an
	 * instruction that began with it set. */
	ok(hits == 6, "single_step_traps_each_instruction (%lu)", hits);
	ok(hit_dr6 & 1 << 14, "dr6_says_single_step");
	/* MOV SS holds the trap back until the next instruction is done. */
	hits = 0;
	__asm__ volatile("mov %%ss, %%ecx;"
			 "pushfq; orq $0x100, (%%rsp); popfq;"
			 "mov %%ecx, %%ss; nop; nop;"
			 "pushfq; andq $~0x100, (%%rsp); popfq" ::
				 : "rcx", "cc", "memory");
	ok(hits == 5, "mov_ss_holds_back_single_step (%lu)", hits);

	hits = 0;
	__asm__ volatile("lea 1f(%%rip), %0; mov %0, %%dr0" : "=r"(target));
	set_dr7(0x401 | 1);
	__asm__ volatile("lea 1f(%%rip), %0; mov %0, %%dr0; nop\n"
			 "1: nop"
			 : "=r"(target)::"memory");
	ok(hits == 1 && hit_rip == target && (hit_dr6 & 1),
	   "an_instruction_breakpoint_comes_before (%lu)", hits);
	set_dr7(0x400);

	hits = 0;
	__asm__ volatile("mov %0, %%dr1" ::"r"(&watched[0]));
	set_dr7(0x400 | 1 << 2 | 0xdULL << 20); /* write, 4 bytes */
	watched[0] = 1;
	ok(hits == 1 && (hit_dr6 & 2), "a_write_breakpoint_comes_behind (%lu)",
	   hits);
	hits = 0;
	(void)watched[0];
	ok(hits == 0, "it_does_not_watch_reads");
	watched[1] = 1;
	ok(hits == 0, "nor_the_neighbour");
	set_dr7(0x400);
	ok(TRAP_OF("mov %%dr4, %%rax") == -1, "dr4_is_dr6_without_de");
	write_cr4(read_cr4() | 8);
	ok(TRAP_OF("mov %%dr4, %%rax") == 6, "dr4_is_ud_with_de");
	write_cr4(read_cr4() & ~8ULL);
	ok(TRAP_OF("mov %[v], %%dr7", [v] "r"(1ULL << 32)) == 13,
	   "high_bits_of_dr7_are_gp");
	trap_set(1, NULL);
}

static void test_icebp(void)
{
	trap_set(1, on_hit);
	hits = 0;
	ok(TRAP_OF(".byte 0xf1") == -1 && hits == 1, "int1_is_db");
	trap_set(1, NULL);
}

/* ---- IRET, flags ------------------------------------------------------------------ */

static void test_flags(void)
{
	__asm__ volatile("push $0x3002; popfq" ::: "cc");
	ok((flags_now() & 0x3000) == 0x3000, "popf_at_cpl_0_sets_iopl");
	__asm__ volatile("push $2; popfq" ::: "cc");
	ok(flags_now() == 2, "bit_1_is_always_set");
	__asm__ volatile("pushq $-1; andq $~0x4d5500, (%%rsp); popfq" ::: "cc");
	ok((flags_now() & 0xffffffffffc08028ULL) == 0,
	   "reserved_flags_stay_clear");
	__asm__ volatile("push $2; popfq" ::: "cc");
}

void guest_main(void)
{
	test_exceptions();
	test_fpu_exceptions();
	test_double_fault();
	test_debug();
	test_icebp();
	test_flags();
}
