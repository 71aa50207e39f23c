/* Sensitive and critical instructions: A6 to A9, A15, A17. */
#include "lib/pc.h"

struct __attribute__((packed)) table_reg {
	uint16_t limit;
	uint64_t base;
};
extern uint8_t gdt_end[];

static bool interrupts_on(void)
{
	uint64_t flags;

	__asm__ volatile("pushfq; pop %0" : "=r"(flags));
	return flags >> 9 & 1;
}

static int64_t user_popf_if(void)
{
	uint64_t flags;

	/* Ring 3 cannot change IF: the write is dropped, not refused. */
	__asm__ volatile("pushfq; orq $0x200, (%%rsp); popfq; pushfq; pop %0"
			 : "=r"(flags));
	return flags >> 9 & 1;
}

static int64_t user_sidt(void)
{
	struct table_reg r;

	__asm__ volatile("sidt %0" : "=m"(r));
	return r.base == (uint64_t)idt;
}

static void test_descriptor_tables(void)
{
	struct table_reg r = { 0, 0 };
	uint32_t sel = 0xffffffff;
	uint64_t msw;

	__asm__ volatile("sidt %0" : "=m"(r));
	ok(r.base == (uint64_t)idt && r.limit == sizeof(idt) - 1,
	   "a7_sidt_gives_the_guests_table");
	__asm__ volatile("sgdt %0" : "=m"(r));
	ok(r.base == (uint64_t)gdt && r.limit == gdt_end - (uint8_t *)gdt - 1,
	   "a7_sgdt_gives_the_guests_table");
	__asm__ volatile("sldt %0" : "=r"(sel));
	ok((sel & 0xffff) == 0, "a7_sldt_gives_the_guests_selector");
	__asm__ volatile("str %0" : "=r"(sel));
	ok((sel & 0xffff) == TSS_SEL, "a7_str_gives_the_guests_selector");
	__asm__ volatile("smsw %0" : "=r"(msw));
	ok((msw & 0xffff) == (read_cr0() & 0xffff), "a7_smsw_gives_cr0");
	ok(user(user_sidt) == 1, "a7_sidt_at_cpl_3_without_umip");
}

static void test_segments(void)
{
	uint32_t v = 0;
	uint8_t zf;

	__asm__ volatile("lar %2, %0; setz %1"
			 : "=r"(v), "=q"(zf)
			 : "r"((uint32_t)KERNEL_CS)
			 : "cc");
	ok(zf && (v & 0xff00) == 0x9b00, "a7_lar_of_a_code_segment");
	__asm__ volatile("lsl %2, %0; setz %1"
			 : "=r"(v), "=q"(zf)
			 : "r"((uint32_t)KERNEL_DS)
			 : "cc");
	ok(zf && v == 0xffffffff, "a7_lsl_applies_granularity");
	__asm__ volatile("lar %2, %0; setz %1"
			 : "=r"(v), "=q"(zf)
			 : "r"(0x7ff8U)
			 : "cc");
	ok(!zf, "a7_lar_beyond_the_table_clears_zf");
	__asm__ volatile("verr %w1; setz %0"
			 : "=q"(zf)
			 : "r"((uint32_t)KERNEL_CS)
			 : "cc");
	ok(zf, "a7_verr_of_readable_code");
	__asm__ volatile("verw %w1; setz %0"
			 : "=q"(zf)
			 : "r"((uint32_t)KERNEL_CS)
			 : "cc");
	ok(!zf, "a7_verw_of_code");
	ok(TRAP_OF("mov %[s], %%ds", [s] "r"(0x7ff8)) == 13 &&
		   last_trap.error == 0x7ff8,
	   "a7_mov_to_ds_beyond_the_table_is_gp_with_the_selector");
	ok(TRAP_OF("mov %[s], %%ss", [s] "r"(KERNEL_CS)) == 13 &&
		   last_trap.error == KERNEL_CS,
	   "a7_code_in_ss_is_gp");
	gdt[FREE_SEL / 8] = gdt[KERNEL_DS / 8] & ~(1ULL << 47);
	ok(TRAP_OF("mov %[s], %%ds", [s] "r"(FREE_SEL)) == 11 &&
		   last_trap.error == FREE_SEL,
	   "a7_a_segment_not_present_is_np");
	ok(TRAP_OF("mov %[s], %%ss", [s] "r"(FREE_SEL)) == 12 &&
		   last_trap.error == FREE_SEL,
	   "a7_a_stack_not_present_is_ss");
	ok(TRAP_OF("push $0; push $0; lretq") == 13 && last_trap.error == 0,
	   "a7_far_return_to_a_null_selector_is_gp");
}

static void test_interrupt_flag(void)
{
	__asm__ volatile("sti");
	ok(interrupts_on(), "a8_sti_sets_the_virtual_if");
	__asm__ volatile("cli");
	ok(!interrupts_on(), "a8_cli_clears_the_virtual_if");
	__asm__ volatile("pushfq; orq $0x200, (%%rsp); popfq" ::: "cc");
	ok(interrupts_on(), "a7_popf_at_cpl_0_really_changes_if");
	__asm__ volatile("cli");
	ok(user(user_popf_if) == 0, "a7_popf_at_cpl_3_cannot_change_if");
}

static void test_control_registers(void)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4();

	write_cr0(cr0 | 8);
	ok(read_cr0() == (cr0 | 8), "a9_cr0_reads_back_what_was_written");
	ok(TRAP_OF("fninit") == 7, "a9_ts_makes_x87_raise_nm");
	__asm__ volatile("clts");
	ok(read_cr0() == cr0, "a9_clts_clears_ts");
	ok(TRAP_OF("fninit") == -1, "a9_x87_works_again");
	write_cr0(cr0 | 4);
	ok(TRAP_OF("fninit") == 7, "a9_em_makes_x87_raise_nm");
	write_cr0(cr0);
	ok(TRAP_OF("mov %[v], %%cr0", [v] "r"(cr0 & ~1ULL)) == 13,
	   "a9_pg_without_pe_is_gp");
	ok(TRAP_OF("mov %[v], %%cr0", [v] "r"(cr0 | 1ULL << 32)) == 13,
	   "a9_high_bits_of_cr0_are_gp");
	ok(TRAP_OF("mov %[v], %%cr0", [v] "r"((cr0 | 1ULL << 29) &
					      ~(1ULL << 30))) == 13,
	   "a9_nw_without_cd_is_gp");
	ok(TRAP_OF("mov %[v], %%cr4", [v] "r"(cr4 | 1ULL << 63)) == 13,
	   "a9_reserved_bits_of_cr4_are_gp");
	ok(TRAP_OF("mov %[v], %%cr4", [v] "r"(cr4 & ~0x20ULL)) == 13,
	   "a9_pae_cannot_go_in_long_mode");
	ok(TRAP_OF("mov %[v], %%cr8", [v] "r"(16ULL)) == 13,
	   "a9_cr8_has_four_bits");
	ok(read_cr0() == cr0 && read_cr4() == cr4,
	   "a9_refused_writes_changed_nothing");
}

static void test_msrs(void)
{
	ok(TRAP_IN("rdmsr", 0, 0, 0x12345678, 0) == 13,
	   "a15_unknown_msr_is_gp");
	ok(TRAP_IN("wrmsr", 0x401, 0, 0xc0000080, 0) == 13,
	   "a15_lme_cannot_change_under_paging");
	ok(TRAP_IN("wrmsr", 0, 0, 0xc0000082, 0x00800000) == 13,
	   "a15_lstar_must_be_canonical");
	ok(TRAP_IN("wrmsr", 2, 0, 0x277, 0) == 13, "a15_pat_knows_its_types");
	wrmsr(0xc0000102, 0x1234567890);
	ok(rdmsr(0xc0000102) == 0x1234567890, "a15_kernel_gs_base_is_kept");
	wrmsr(0xc0000101, 0x111);
	__asm__ volatile("swapgs");
	ok(rdmsr(0xc0000101) == 0x1234567890 && rdmsr(0xc0000102) == 0x111,
	   "a7_swapgs_swaps");
	wrmsr(0xc0000101, 0);
}

static void test_cpuid(void)
{
	uint32_t r[4], s[4];

	cpuid(0, 0, r);
	ok(r[0] >= 7, "a17_cpuid_has_leaf_7");
	cpuid(0x40000000, 0, r);
	if (r[1] == 0x4b4d564b) /* "KVMK" */
		ok(r[2] == 0x564b4d56 && r[3] == 0x4d,
		   "a27_the_signature_is_kvms");
	cpuid(1, 0, r);
	ok(r[2] >> 31, "a27_the_hypervisor_bit_is_set");
	ok((r[2] >> 27 & 1) == (read_cr4() >> 18 & 1),
	   "a17_osxsave_follows_cr4");
	if (r[2] >> 26 & 1) { /* XSAVE */
		write_cr4(read_cr4() | 1 << 18);
		cpuid(1, 0, s);
		ok(s[2] >> 27 & 1, "a17_osxsave_follows_cr4_when_set");
	}
	cpuid(0x80000008, 0, r);
	ok((r[0] >> 8 & 0xff) == 48, "b3_virtual_addresses_have_48_bits");
}

static volatile uint64_t hypercall_result;

static void test_hypercalls(void)
{
	uint32_t r[4];
	int64_t result;

	cpuid(0x40000000, 0, r);
	if (r[1] != 0x4b4d564b)
		return;
	__asm__ volatile("vmcall" : "=a"(result) : "a"(0x7fffULL), "b"(0ULL));
	ok(result == -1000, "c8_an_unknown_hypercall_is_enosys");
	__asm__ volatile("vmcall" : "=a"(result) : "a"(1ULL), "b"(0ULL));
	ok(result == 0, "c8_vapic_poll_irq_is_answered");
}

void guest_main(void)
{
	pic_init(0x20); /* nothing interrupts */
	test_descriptor_tables();
	test_segments();
	test_interrupt_flag();
	test_control_registers();
	test_msrs();
	test_cpuid();
	test_hypercalls();
}
