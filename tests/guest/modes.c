/* The CPU outside of 64-bit mode: real mode, 16-bit and 32-bit protected mode
 * with segments, tasks and gates, paging of both kinds, compatibility mode (A1,
 * A3, B3). */
#include "lib/guest.h"

__asm__(".include \"modes.s\"");

/* As in modes.s. */
enum {
	CS16 = 0x70,
	DS16 = 0x78,
	SMALL = 0x80,
	DOWN = 0x88,
	TASK_MAIN = 0x90,
	TASK_B = 0x98,
	GATE = 0xa0,
	TASK_DF = 0xa8,
};
#define BASE16 0x10000
#define OUT16  (BASE16 + 0xe000)

void mode_run(void (*code)(void));
extern uint32_t mode_cr0, mode_cr3, mode_cr4;
void pm_segments(void), pm_instructions(void), pm_user(void), pm_tasks(void),
	pm_v86(void), paging32(void), paging_pae(void), pm16(void), real(void);
extern uint8_t stubs32[], gate32[], task_b[], task_df[], blob16[], blob16_end[],
	pm16_gate[], compat32[], compat_limit[];

uint64_t idt32[256] __attribute__((aligned(16)));
uint8_t mode_stack[4096] __attribute__((aligned(16)));
uint8_t user_stack32[4096] __attribute__((aligned(16)));
uint32_t tss_main[26], tss_b[26], tss_df[26];
uint64_t bad_pdpt[4] __attribute__((aligned(32)));

static uint8_t kernel_stack32[4096] __attribute__((aligned(16)));
static uint8_t task_stack[2][1024] __attribute__((aligned(16)));
static uint8_t small_area[8192] __attribute__((aligned(4096)));
static uint32_t page[1024] __attribute__((aligned(4096)));
static uint32_t pd32[1024] __attribute__((aligned(4096)));
static uint32_t pt32[1024] __attribute__((aligned(4096)));
static uint64_t pdpt_pae[4] __attribute__((aligned(32)));
static uint64_t pd_pae[512] __attribute__((aligned(4096)));
static uint64_t pt_pae[512] __attribute__((aligned(4096)));

struct result {
	int32_t vector; /* or a value */
	uint32_t error, eip, cr2;
};
/* What a test of modes.s left. */
#define RESULT(name)                           \
	({                                     \
		extern struct result r_##name; \
		r_##name;                      \
	})
#define VALUE(name)          ((uint32_t)RESULT(name).vector)
#define CAUGHT(name, v)      (RESULT(name).vector == (v))
#define CAUGHT_E(name, v, e) (CAUGHT(name, v) && RESULT(name).error == (e))
#define PASSED(name)         CAUGHT(name, -1)

static void descriptor(uint16_t sel, uint32_t base, uint32_t limit,
		       uint64_t access, uint64_t flags)
{
	gdt[sel / 8] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
		       access << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
		       flags << 52 | (uint64_t)(base >> 24) << 56;
}

static void gate(unsigned vector, uint16_t sel, uint64_t offset,
		 uint64_t access)
{
	idt32[vector] = (offset & 0xffff) | (uint64_t)sel << 16 | access << 40 |
			(offset >> 16) << 48;
}

static void tss_fill(uint32_t *t, const void *entry, void *stack)
{
	t[1] = (uint32_t)(uint64_t)kernel_stack32 + sizeof(kernel_stack32);
	t[2] = KERNEL_DS32;
	t[8] = (uint32_t)(uint64_t)entry;
	t[9] = 2;         /* EFLAGS */
	t[11] = 0xc0ffee; /* ECX */
	t[14] = (uint32_t)(uint64_t)stack;
	t[18] = t[20] = t[21] = KERNEL_DS32;
	t[19] = KERNEL_CS32;
	t[25] = 104 << 16;
}

static void tables_fill(void)
{
	descriptor(CS16, BASE16, 0xffff, 0x9b, 0);
	descriptor(DS16, BASE16, 0xffff, 0x93, 0);
	descriptor(SMALL, (uint32_t)(uint64_t)small_area, 0xfff, 0x93, 4);
	descriptor(DOWN, (uint32_t)(uint64_t)small_area, 0xfff, 0x97, 4);
	descriptor(TASK_MAIN, (uint32_t)(uint64_t)tss_main, 103, 0x89, 0);
	descriptor(TASK_B, (uint32_t)(uint64_t)tss_b, 103, 0x89, 0);
	descriptor(TASK_DF, (uint32_t)(uint64_t)tss_df, 103, 0x89, 0);
	/* A call gate for CPL 3 with two parameters. */
	gdt[GATE / 8] = ((uint64_t)gate32 & 0xffff) | KERNEL_CS32 << 16 |
			2ULL << 32 | 0xecULL << 40 |
			((uint64_t)gate32 >> 16) << 48;
	tss_fill(tss_main, NULL, NULL);
	tss_fill(tss_b, task_b, task_stack[0] + sizeof(task_stack[0]));
	tss_fill(tss_df, task_df, task_stack[1] + sizeof(task_stack[1]));
	for (unsigned i = 0; i < 256; i++)
		gate(i, KERNEL_CS32, (uint64_t)stubs32 + 16 * i,
		     i == 0x80 ? 0xee : 0x8e);
	gate(4, KERNEL_CS32, (uint64_t)stubs32 + 16 * 4, 0xee);
	gate(8, TASK_DF, 0, 0x85);
	gate(0x81, TASK_B, 0, 0x85);
	gate(0x82, CS16, (uint64_t)(pm16_gate - blob16), 0x86);
	memcpy((void *)BASE16, blob16, (size_t)(blob16_end - blob16));
	memset((void *)OUT16, 0, 256);
}

/* ---- protected mode ----------------------------------------------------------------- */

static void test_segments(void)
{
	mode_run(pm_segments);
	ok((VALUE(pm_cr0) & 0x80000001) == 1,
	   "b3_protected_mode_without_pages");
	ok(PASSED(limit_in) && PASSED(limit_dword_in), "a1_within_the_limit");
	ok(CAUGHT_E(limit_out, 13, 0) && CAUGHT_E(limit_dword_out, 13, 0),
	   "a1_beyond_the_limit_is_gp");
	ok(CAUGHT_E(down_out, 13, 0) && PASSED(down_in),
	   "a1_expand_down_is_the_other_way_round");
	ok(CAUGHT_E(null, 13, 0), "a1_a_null_selector_is_gp_when_used");
	ok(CAUGHT_E(write_code, 13, 0), "a1_code_is_not_written");
	ok(CAUGHT_E(stack_limit, 12, 0), "a1_beyond_the_stack_is_ss");
	ok(CAUGHT_E(code_in_ss, 13, KERNEL_CS32), "a1_code_in_ss_is_gp");
	ok(CAUGHT_E(beyond_table, 13, 0x7ff8), "a1_beyond_the_table_is_gp");
	ok(CAUGHT_E(jump_to_data, 13, KERNEL_DS32), "a1_a_jump_to_data_is_gp");
}

static void test_instructions(void)
{
	mode_run(pm_instructions);
	ok(PASSED(bound_in) && CAUGHT(bound_out, 5), "a12_bound");
	ok(CAUGHT(into, 4) && PASSED(into_not), "a12_into");
	ok(CAUGHT(aam_zero, 0), "a12_aam_by_zero_is_de");
	ok((VALUE(aam) & 0xffff) == 0x0603, "a12_aam");
	ok((VALUE(aad) & 0xffff) == 73, "a12_aad");
	ok(VALUE(daa) == 0x114, "a12_daa (%x)", VALUE(daa));
	ok(VALUE(das) == 0x188, "a12_das (%x)", VALUE(das));
	ok(VALUE(aaa) == 0x105, "a12_aaa (%x)", VALUE(aaa));
	ok((VALUE(aas) & 0xffff) == 0x106, "a12_aas (%x)", VALUE(aas));
	ok(VALUE(salc) == 0xff, "a12_salc");
	ok(VALUE(pusha_edi) == 0x77 && VALUE(popa_ecx) == 0x99 &&
		   VALUE(popa_edx) == 0x22,
	   "a12_pusha_and_popa");
	ok(VALUE(lea16) == 0xe115, "a12_16_bit_addresses (%x)", VALUE(lea16));
	ok((VALUE(arpl) & 0xffff) == 0x11b, "a12_arpl");
	ok(VALUE(les_offset) == 0x13579bdf &&
		   (VALUE(les_selector) & 0xffff) == 0x33,
	   "a12_les");
	ok((VALUE(push_ds) & 0xffff) == KERNEL_DS32, "a12_push_ds");
	ok(VALUE(enter) == 4 + 4 + 16, "a12_enter_and_leave (%u)",
	   VALUE(enter));
	ok(CAUGHT(syscall, 6), "a12_syscall_is_ud_outside_of_long_mode");
}

static void test_user(void)
{
	mode_run(pm_user);
	ok(CAUGHT(user_int, 0x80) && (VALUE(user_cs) & 0xffff) == USER_CS32,
	   "a3_int_from_cpl_3");
	ok((VALUE(user_ss) & 0xffff) == USER_DS &&
		   VALUE(user_esp) == (uint32_t)(uint64_t)user_stack32 + 4096,
	   "a3_it_saved_the_users_stack");
	ok(VALUE(user_frame) > (uint64_t)kernel_stack32 &&
		   VALUE(user_frame) <= (uint64_t)kernel_stack32 + 4096,
	   "a3_it_took_the_kernels");
	ok(CAUGHT_E(user_cli, 13, 0), "a1_cli_at_cpl_3_is_gp");
	ok(CAUGHT_E(user_kernel_int, 13, 0x83 * 8 + 2),
	   "a3_a_gate_of_dpl_0_is_gp");
	ok(CAUGHT(user_gate, 0x80) && (VALUE(gate_cs) & 0xffff) == KERNEL_CS32,
	   "a2_a_call_gate_to_cpl_0_and_back");
	ok(VALUE(gate_first) == 0x11111111 && VALUE(gate_second) == 0x22222222,
	   "a2_it_copied_its_parameters");
	ok(VALUE(user_gate_esp) == (uint32_t)(uint64_t)user_stack32 + 4096,
	   "a2_both_stacks_are_clean");
}

static uint16_t out16(unsigned offset)
{
	return *(volatile uint16_t *)(uint64_t)(OUT16 + offset);
}

static void test_v86(void)
{
	mode_run(pm_v86);
	ok(CAUGHT(v86_int, 0x80) && (VALUE(v86_flags) & 0x20000),
	   "a1_virtual_8086_mode_and_an_interrupt_out_of_it");
	ok(out16(0x50) == 0x1000 && out16(0x54) == 0x4321,
	   "a1_its_segments_are_paragraphs");
	ok((out16(0x52) & 0x3002) == 0x3002, "a1_iopl_3_lets_it_push_flags");
	ok((VALUE(v86_ss) & 0xffff) == 0x1000 && VALUE(v86_esp) == 0xd000 &&
		   (VALUE(v86_es) & 0xffff) == 0x1e00 &&
		   (VALUE(v86_ds) & 0xffff) == 0x1000,
	   "a1_its_segments_are_on_the_kernels_stack");
	ok(CAUGHT_E(v86_cli, 13, 0) && CAUGHT_E(v86_software_int, 13, 0),
	   "a1_without_iopl_3_cli_and_int_are_gp");
	ok(CAUGHT_E(v86_in, 13, 0), "a1_its_ports_need_the_io_map");
	ok(CAUGHT_E(v86_hlt, 13, 0), "a1_hlt_in_it_is_gp");
	ok(CAUGHT_E(v86_limit, 13, 0), "a1_it_has_64_kib_segments");
}

static void test_tasks(void)
{
	mode_run(pm_tasks);
	ok(PASSED(task_call) && VALUE(task_ebx) == 0x5a5a,
	   "a1_call_of_a_task_and_iret");
	ok(VALUE(task_b_tr) == TASK_B && VALUE(task_b_ecx) == 0xc0ffee,
	   "a1_the_task_has_its_registers");
	ok(VALUE(task_b_flags) & 0x4000 && VALUE(task_b_link) == TASK_MAIN,
	   "a1_nt_and_the_link_lead_back");
	ok(VALUE(task_back_tr) == TASK_MAIN, "a1_tr_is_back");
	ok(VALUE(task_cr0) & 8, "a9_a_task_switch_sets_ts");
	ok(PASSED(task_jmp) && !(VALUE(task_jmp_flags) & 0x4000) &&
		   VALUE(task_jmp_ecx) == 0x77777777,
	   "a1_jmp_to_a_task_goes_on_where_it_was");
	ok(PASSED(task_int) && VALUE(task_int_flags) & 0x4000,
	   "a1_int_through_a_task_gate");
	ok(CAUGHT_E(task_busy, 13, TASK_MAIN), "a1_a_busy_task_is_gp");
	ok(CAUGHT_E(task_absent, 11, TASK_B), "a1_an_absent_task_is_np");
	ok(CAUGHT(task_df, 8) && VALUE(task_df_error) == 0 &&
		   VALUE(task_df_tr) == TASK_DF,
	   "a1_a_double_fault_through_a_task_gate");
}

/* ---- paging --------------------------------------------------------------------------- */

static void test_paging32(void)
{
	for (unsigned i = 0; i < 1024; i++)
		pd32[i] = i << 22 | 0x83;
	pd32[0x40000000 >> 22] = (uint32_t)(uint64_t)pt32 | 3;
	pd32[0x40800000 >> 22] = 0x83;
	pt32[0] = (uint32_t)(uint64_t)page | 1;
	pt32[1] = 0;
	memcpy((uint8_t *)page + 0x123, "abcd", 4);
	mode_cr0 = 0x80010023;
	mode_cr3 = (uint32_t)(uint64_t)pd32;
	mode_cr4 = 0x610;
	mode_run(paging32);
	ok(PASSED(p32_read) && VALUE(p32_value) == 0x64636261,
	   "b3_32_bit_paging_reads");
	ok(CAUGHT_E(p32_absent, 14, 0) && RESULT(p32_absent).cr2 == 0x40001456,
	   "b3_32_bit_paging_faults");
	ok(CAUGHT_E(p32_read_only, 14, 3), "b3_32_bit_paging_protects");
	ok(pt32[0] == ((uint32_t)(uint64_t)page | 0x21) && pd32[0x100] & 0x20,
	   "b3_32_bit_paging_sets_accessed");
	ok(PASSED(p32_large) && (pd32[0x102] & 0x60) == 0x60,
	   "b3_4_mib_pages_map_and_get_dirty");
}

static void test_pae(void)
{
	for (unsigned i = 0; i < 4; i++)
		pdpt_pae[i] = ((uint64_t)pds + 4096 * i) | 1;
	memcpy(pd_pae, pds + 512, 4096);
	pdpt_pae[1] = (uint64_t)pd_pae | 1;
	pd_pae[0] = (uint64_t)pt_pae | 3;
	pt_pae[0] = (uint64_t)page | 3 | 1ULL << 63;
	pt_pae[1] = 0;
	memcpy(bad_pdpt, pdpt_pae, 32);
	bad_pdpt[2] |= 2; /* reserved */
	mode_cr0 = 0x80010023;
	mode_cr3 = (uint32_t)(uint64_t)pdpt_pae;
	mode_cr4 = 0x620;
	mode_run(paging_pae);
	ok(PASSED(pae_read) && VALUE(pae_value) == 0x64636261,
	   "b3_pae_paging_reads");
	ok(CAUGHT_E(pae_absent, 14, 2) && RESULT(pae_absent).cr2 == 0x40001456,
	   "b3_pae_paging_faults");
	ok(CAUGHT_E(pae_nx, 14, 17), "b3_pae_paging_knows_nx");
	ok(CAUGHT_E(pae_bad_pdpte, 13, 0) && VALUE(pae_cr3) == mode_cr3,
	   "b3_a_reserved_bit_in_a_pdpte_is_gp");
	mode_cr0 = 0x23;
	mode_cr3 = mode_cr4 = 0;
}

/* ---- 16 bits --------------------------------------------------------------------------- */

static uint32_t out32(unsigned offset)
{
	return out16(offset) | (uint32_t)out16(offset + 2) << 16;
}

static void test_pm16(void)
{
	mode_run(pm16);
	ok(PASSED(pm16) && out16(0) == CS16, "b3_16_bit_protected_mode");
	ok(out16(2) == 0xcffe && out16(4) == 0, "b3_calls_push_two_bytes");
	ok(out16(6) == 0xd000 - 6, "b3_16_bit_gates_push_six");
	ok(out16(8) == 0x5678 && out16(10) == 0x1234, "b3_operand_size_prefix");
	ok(CAUGHT_E(pm16_limit, 13, 0), "b3_a_word_across_64_kib_is_gp");
	ok(CAUGHT_E(pm16_jump, 13, 0), "b3_a_jump_beyond_the_limit_is_gp");
}

static void test_real(void)
{
	uint8_t *b = (uint8_t *)OUT16;

	mode_run(real);
	ok(out16(0x20) == 0x1000, "b3_real_mode");
	ok(out16(0x26) == 1 && out16(0x22) == 0xd000 - 6 &&
		   out16(0x24) == 0xd000,
	   "b3_int_goes_through_the_vector_table");
	ok(out16(0x28) == 1, "b3_division_by_zero_is_interrupt_0");
	ok(out16(0x2a) == 1, "b3_a_word_at_ffff_is_interrupt_13");
	ok(out16(0x2e) == 1, "b3_far_call_and_return");
	ok(b[0x30] == 0x11 && b[0x31] == 0x22 &&
		   b[0x32] == *(uint8_t *)BASE16 &&
		   b[0x33] == *(uint8_t *)(BASE16 + 1) && out16(0x2c) == 2,
	   "b3_strings_wrap_at_64_kib");
	ok(out32(0x38) == *(volatile uint32_t *)0x100000,
	   "b3_ffff_0010_is_the_second_megabyte");
	ok((out16(0x3c) & 0x8002) == 2, "b3_flags_in_real_mode");
	ok(out32(0x40) == 0x12345678, "b3_32_bit_operands_in_real_mode");
}

/* ---- compatibility mode ------------------------------------------------------------------- */

static struct __attribute__((packed)) {
	uint32_t offset;
	uint16_t sel;
} far_pointer;

static void on_gp(struct trap_frame *f)
{
	last_trap = *f;
	f->cs = KERNEL_CS;
	f->rip = trap_resume;
}

static void test_compat(void)
{
	far_pointer.sel = KERNEL_CS32;
	far_pointer.offset = (uint32_t)(uint64_t)compat32;
	__asm__ volatile("lcall *%0" ::"m"(far_pointer)
			 : "rax", "rcx", "rdx", "memory", "cc");
	ok(VALUE(compat_inc) == 6, "b3_compatibility_mode");
	ok(VALUE(compat_push) == 4, "b3_it_pushes_four_bytes");
	ok(VALUE(compat_64) == 0x1234567,
	   "b3_far_calls_between_32_and_64_bits");
	__asm__ volatile("mov %0, %%gs" ::"r"(SMALL));
	trap_set(13, on_gp);
	far_pointer.offset = (uint32_t)(uint64_t)compat_limit;
	ok(TRAP_OF("lcall *%[p]", [p] "m"(far_pointer)) == 13 &&
		   last_trap.cs == KERNEL_CS32 && last_trap.error == 0 &&
		   last_trap.rip == (uint64_t)compat_limit,
	   "b3_segments_have_limits_in_it");
	trap_set(13, NULL);
	__asm__ volatile("mov %0, %%gs" ::"r"(0));
}

void guest_main(void)
{
	tables_fill();
	test_segments();
	test_instructions();
	test_user();
	test_v86();
	test_tasks();
	test_paging32();
	test_pae();
	test_pm16();
	test_real();
	test_compat();
}
