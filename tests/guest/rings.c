/* Privilege levels: A1, A2, the system calls of A3, I/O rights of C1. */
#include "lib/guest.h"

volatile uint64_t counter;

static int64_t read_cpl(void)
{
	uint16_t cs;

	__asm__ volatile("mov %%cs, %0" : "=r"(cs));
	return cs & 3;
}

static int64_t try_hlt(void)
{
	__asm__ volatile("hlt");
	return 0;
}

static int64_t try_wrmsr(void)
{
	__asm__ volatile("wrmsr" ::"a"(0), "d"(0), "c"(0x10));
	return 0;
}

static int64_t try_cr0(void)
{
	return (int64_t)read_cr0();
}

static int64_t try_in(void)
{
	return inb(0x71);
}

static int64_t try_out_e9(void)
{
	__asm__ volatile("outb %0, %1" ::"a"((uint8_t)'#'),
			 "Nd"((uint16_t)0xe9));
	__asm__ volatile("outb %0, %1" ::"a"((uint8_t)'\n'),
			 "Nd"((uint16_t)0xe9));
	return 7;
}

static int64_t try_out_e8_word(void)
{
	__asm__ volatile("outw %0, %1" ::"a"((uint16_t)0),
			 "Nd"((uint16_t)0xe8));
	return 7;
}

static uint64_t supervisor_page[512] __attribute__((aligned(4096)));

static int64_t read_supervisor(void)
{
	return (int64_t) * (volatile uint64_t *)0x40000000;
}

/* ---- gates ----------------------------------------------------------------- */

uint64_t gate_cpl, gate_rsp;

/* Entered by a call gate; returns by a far return with no parameters. */
__asm__("gate_entry:\n\t"
	"push %rax\n\t"
	"mov %cs, %rax\n\t"
	"and $3, %eax\n\t"
	"mov %rax, gate_cpl\n\t"
	"mov %rsp, gate_rsp\n\t"
	"pop %rax\n\t"
	"lretq\n");
extern uint8_t gate_entry[];

static void call_gate_set(uint16_t sel, unsigned dpl, uint16_t cs)
{
	uint64_t a = (uint64_t)gate_entry;

	gdt[sel / 8] = (a & 0xffff) | (uint64_t)cs << 16 |
		       (uint64_t)(0x80 | dpl << 5 | 12) << 40 |
		       (a >> 16 & 0xffff) << 48;
	gdt[sel / 8 + 1] = a >> 32;
}

static int64_t call_gate(void)
{
	static struct __attribute__((packed)) {
		uint64_t offset;
		uint16_t sel;
	} target = { 0, FREE_SEL | 3 };

	__asm__ volatile("rex.w lcall *%0" ::"m"(target) : "memory");
	return read_cpl();
}

static void test_rings(void)
{
	ok(read_cpl() == 0, "a1_kernel_is_cpl_0");
	ok(user_run(read_cpl, CS1, DS1) == 1, "a1_code_runs_at_cpl_1");
	ok(user_run(read_cpl, CS2, DS2) == 2, "a1_code_runs_at_cpl_2");
	ok(user(read_cpl) == 3, "a1_code_runs_at_cpl_3");
	for (unsigned i = 0; i < 3; i++) {
		static const uint16_t cs[] = { CS1, CS2, USER_CS };
		static const uint16_t ss[] = { DS1, DS2, USER_DS };

		ok(user_run(try_hlt, cs[i], ss[i]) == -1013,
		   "a1_hlt_at_cpl_%u_is_gp", i + 1);
		ok(last_trap.error == 0, "its error code is 0");
		ok(user_run(try_wrmsr, cs[i], ss[i]) == -1013,
		   "a1_wrmsr_at_cpl_%u_is_gp", i + 1);
		ok(user_run(try_cr0, cs[i], ss[i]) == -1013,
		   "a1_mov_cr0_at_cpl_%u_is_gp", i + 1);
	}
	/* Paging knows two privileges: 0 to 2 are supervisor. */
	supervisor_page[0] = 77;
	page_map(0x40000000, (uint64_t)supervisor_page, 3);
	ok(user_run(read_supervisor, CS1, DS1) == 77,
	   "a2_cpl_1_is_supervisor_to_paging");
	ok(user_run(read_supervisor, CS2, DS2) == 77,
	   "a2_cpl_2_is_supervisor_to_paging");
	ok(user(read_supervisor) == -1014 && last_trap.error == 5,
	   "a2_cpl_3_is_user_to_paging");
}

static void test_call_gates(void)
{
	call_gate_set(FREE_SEL, 3, KERNEL_CS);
	ok(user(call_gate) == 3 && gate_cpl == 0,
	   "a2_far_call_through_a_gate_from_3_to_0_and_back");
	ok(gate_rsp != 0 && gate_rsp < *(uint64_t *)(void *)(tss + 4) &&
		   gate_rsp > *(uint64_t *)(void *)(tss + 4) - 256,
	   "a2_the_gate_switched_stacks");
	*(uint64_t *)(void *)(tss + 12) = *(uint64_t *)(void *)(tss + 4) - 4096;
	call_gate_set(FREE_SEL, 3, CS1);
	ok(user(call_gate) == 3 && gate_cpl == 1,
	   "a2_far_call_through_a_gate_from_3_to_1_and_back");
	call_gate_set(FREE_SEL, 2, KERNEL_CS);
	ok(user(call_gate) == -1013 && last_trap.error == FREE_SEL,
	   "a2_a_gate_of_dpl_2_refuses_cpl_3");
	ok(user_run(call_gate, CS2, DS2) == -1013,
	   "a2_the_selectors_rpl_counts_too");
}

static int64_t with_iopl(int64_t (*fn)(void), unsigned iopl)
{
	/* user_call pushes flags of 2: raise IOPL by a trap handler would be
	 * more; the frame is built here instead. */
	uint64_t flags;
	int64_t r;

	__asm__ volatile("pushfq; pop %0" : "=r"(flags));
	__asm__ volatile("push %0; popfq" ::"r"((flags & ~0x3000ULL) |
						(uint64_t)iopl << 12)
			 : "cc");
	r = user_run(fn, USER_CS, USER_DS);
	__asm__ volatile("push %0; popfq" ::"r"(flags) : "cc");
	return r;
}

static void test_io_rights(void)
{
	ok(user(try_in) == -1013, "c1_in_at_cpl_3_without_rights_is_gp");
	ok(with_iopl(try_in, 0) == -1013, "c1_iopl_0_gives_none");
	/* An I/O map that allows port 0xE9 alone. */
	*(uint16_t *)(void *)(tss + 102) = 104;
	for (unsigned i = 0; i < 8193; i++)
		tss[104 + i] = 0xff;
	tss[104 + 0xe9 / 8] &= (uint8_t) ~(1 << (0xe9 % 8));
	ok(user(try_out_e9) == 7, "a1_the_io_map_allows_a_port");
	ok(user(try_in) == -1013, "a1_the_io_map_refuses_others");
	ok(user(try_out_e8_word) == -1013,
	   "a1_a_word_needs_both_bits_of_the_io_map");
	ok(user_run(try_out_e9, CS1, DS1) == 7, "a1_the_map_serves_cpl_1");
	*(uint16_t *)(void *)(tss + 102) = sizeof(tss);
	ok(user(try_out_e9) == -1013, "a1_a_map_beyond_the_limit_refuses_all");
}

/* ---- system calls ------------------------------------------------------------ */

__asm__("syscall_entry:\n\t"
	"incq counter\n\t"
	"sysretq\n"
	"sysenter_entry:\n\t"
	"incq counter\n\t"
	"rex.w sysexit\n");
extern uint8_t syscall_entry[], sysenter_entry[];

static void count_int(struct trap_frame *f)
{
	counter++;
}

static int64_t million_syscalls(void)
{
	for (unsigned i = 0; i < 1000000; i++)
		__asm__ volatile("syscall" ::: "rcx", "r11", "memory");
	return read_cpl();
}

static int64_t thousand_sysenters(void)
{
	for (unsigned i = 0; i < 1000; i++)
		__asm__ volatile("mov %%rsp, %%rcx\n\t"
				 "lea 1f(%%rip), %%rdx\n\t"
				 "sysenter\n"
				 "1:" ::
					 : "rcx", "rdx", "memory");
	return read_cpl();
}

static int64_t thousand_ints(void)
{
	for (unsigned i = 0; i < 1000; i++)
		__asm__ volatile("int $0x81" ::: "memory");
	return read_cpl();
}

static int64_t int_of_kernel_gate(void)
{
	__asm__ volatile("int $0x82");
	return 0;
}

static int64_t syscall_flags(void)
{
	uint64_t r11, rcx, here;

	__asm__ volatile("stc; lea 1f(%%rip), %2; syscall; 1:"
			 : "=&c"(rcx), "=&r"(r11), "=&r"(here)::"r11", "cc");
	__asm__ volatile("mov %%r11, %0" : "=r"(r11));
	return rcx == here;
}

static void test_system_calls(void)
{
	idt_set(0x81, trap_stubs + 16 * 0x81, 3, 0, 14);
	trap_set(0x81, count_int);
	counter = 0;
	ok(user(thousand_ints) == 3 && counter == 1000,
	   "a3_int_reaches_the_kernel_and_returns");
	ok(user(int_of_kernel_gate) == -1013 &&
		   last_trap.error == (0x82 * 8 | 2),
	   "a3_int_of_a_gate_with_dpl_0_is_gp_with_its_index");
	wrmsr(0xc0000081, (uint64_t)0x28 << 48 | (uint64_t)KERNEL_CS << 32);
	wrmsr(0xc0000082, (uint64_t)syscall_entry);
	wrmsr(0xc0000084, 0x200);
	counter = 0;
	ok(user(million_syscalls) == 3 && counter == 1000000,
	   "a3_a_million_syscalls_counted");
	ok(user(syscall_flags) == 1, "a3_syscall_saves_rip_in_rcx");
	/* SYSENTER: CS, then SS, then user 32, 64 at fixed distances. */
	gdt[FREE_SEL / 8 + 0] = gdt[KERNEL_CS / 8];
	gdt[FREE_SEL / 8 + 1] = gdt[KERNEL_DS / 8];
	gdt[FREE_SEL / 8 + 2] = gdt[USER_CS32 / 8];
	gdt[FREE_SEL / 8 + 3] = gdt[USER_DS / 8];
	gdt[FREE_SEL / 8 + 4] = gdt[USER_CS / 8];
	gdt[FREE_SEL / 8 + 5] = gdt[USER_DS / 8];
	wrmsr(0x174, FREE_SEL);
	wrmsr(0x175, *(uint64_t *)(void *)(tss + 4));
	wrmsr(0x176, (uint64_t)sysenter_entry);
	counter = 0;
	ok(user(thousand_sysenters) == 3 && counter == 1000,
	   "a3_sysenter_and_sysexit");
	wrmsr(0x174, 0);
	ok(user(thousand_sysenters) == -1013, "a3_sysenter_without_cs_is_gp");
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~1ULL);
	ok(user(million_syscalls) == -1006, "a3_syscall_without_sce_is_ud");
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
}

void guest_main(void)
{
	test_rings();
	test_call_gates();
	test_io_rights();
	test_system_calls();
}
