/*
 * The run loop: modified code, locked instructions on two CPUs, traps and
 * breakpoints, shadows, requests, start-up of CPUs, the block cache.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"
#include "vcpu/interp/cpu.h"

static struct rig rig;
static struct x86_state *const st = &rig.st[0];

static volatile sig_atomic_t nr_traps;

static void on_trap(int sig)
{
	nr_traps = nr_traps + 1;
}

static int setup(void **state)
{
	signal(SIGTRAP, on_trap);
	rig_create(&rig, &ACCEL, 2, 8 * MiB);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

static void probe_tells_a_speed(void **state)
{
	struct err err = { .what = "" };
	int64_t speed = ACCEL.probe(&err);

	printf("# %lld instructions a second\n", (long long)speed);
	assert_true(speed > 1000000);
}

static void instructions_are_counted(void **state)
{
	uint64_t before;

	if (!strcmp(ACCEL.name, "bt")) /* which does not count */
		return;
	rig_mode(&rig, 0, RIG_LONG, 0);
	before = rig.vcpu[0].stats.instructions;
	st->gpr[RCX] = 10;
	/* dec ecx; jnz; hlt */
	assert_int_equal(RIG_RUN(&rig, 0xff, 0xc9, 0x75, 0xfc).vector, -1);
	assert_int_equal(rig.vcpu[0].stats.instructions - before, 21);
	/* An exception ends a block early: what it completed counts. */
	rig_mode(&rig, 0, RIG_LONG, 0);
	before = rig.vcpu[0].stats.instructions;
	/* nop; nop; div ecx; nop... */
	assert_int_equal(RIG_RUN(&rig, 0x90, 0x90, 0xf7, 0xf1, 0x90).vector,
			 EXC_DE);
	assert_int_equal(rig.vcpu[0].stats.instructions - before, 3);
}

/* ---- Modified code --------------------------------------------------------- */

static void code_changes_the_next_instruction(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	/* mov byte [rip + 1], 2; mov eax, 1 */
	assert_int_equal(
		RIG_RUN(&rig, 0xc6, 5, 1, 0, 0, 0, 2, 0xb8, 1, 0, 0, 0).vector,
		-1);
	assert_int_equal(st->gpr[RAX], 2);
}

static void code_changes_the_next_block(void **state)
{
	/* A loop: call f; add eax to edx; inc f's immediate; loop. */
	static const uint8_t code[] = {
		0xe8, 15,   0,    0, 0,       /* call f */
		0x01, 0xc2,                   /* add edx, eax */
		0xff, 0x05, 8,    0, 0, 0,    /* inc dword [f + 1] */
		0xff, 0xc9,                   /* dec ecx */
		0x75, 0xef,                   /* jnz */
		0xf4, 0x90, 0x90,             /* hlt */
		0xb8, 1,    0,    0, 0, 0xc3, /* f: mov eax, 1; ret */
	};

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RCX] = 100;
	rig_code(&rig, code, sizeof(code));
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(st->gpr[RDX], 5050);
}

/* REP STOS over the instructions that follow it. */
static void string_store_over_own_code(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RAX] = 0x41; /* with REX.B: what follows is inc r9 */
	st->gpr[RDI] = RIG_CODE + 2;
	st->gpr[RCX] = 1;
	/* rep stosb; inc eax with REX */
	assert_int_equal(RIG_RUN(&rig, 0xf3, 0xaa, 0x40, 0xff, 0xc1).vector,
			 -1);
	assert_int_equal(st->gpr[R9], 1);
}

static void code_over_two_pages_changes(void **state)
{
	/* mov eax, imm32 whose bytes 3 to 5 are in the next page */
	const uint64_t at = RIG_CODE + 0x1000 - 2;

	for (uint64_t i = 1; i < 3; i++) {
		rig_mode(&rig, 0, RIG_LONG, 0);
		rig_write(&rig, at, 8, 0xf400000000b8 | i << 24);
		st->rip = at;
		assert_int_equal(rig_run(&rig, 0).vector, -1);
		assert_int_equal(st->gpr[RAX], i << 16);
	}
	/* The second page goes away: a fault at its start, RIP at the first. */
	rig_write(&rig, RIG_PT + ((at + 8) >> 12) * 8, 8, 0);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->rip = at;
	assert_int_equal(rig_run(&rig, 0).vector, EXC_PF);
	assert_int_equal(st->cr2, RIG_CODE + 0x1000);
	rig_write(&rig, RIG_PT + ((at + 8) >> 12) * 8, 8,
		  (at & ~0xfffULL) + 0x1000 + (PTE_P | PTE_W | PTE_U));
}

static void a_new_mapping_shows_new_code(void **state)
{
	const uint64_t page = 0x70000, other = 0x71000;

	/* f at (page): mov eax, 1; ret. Then another page with 2 is put there.
	 */
	rig_write(&rig, page, 8, 0xc300000001b8ULL);
	rig_write(&rig, other, 8, 0xc300000002b8ULL);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = page;
	st->gpr[RDI] = RIG_PT + (page >> 12) * 8;
	st->gpr[RSI] = other | PTE_P | PTE_W | PTE_U;
	/* call rbx; mov ecx, eax; mov [rdi], rsi; invlpg [rbx]; call rbx */
	assert_int_equal(RIG_RUN(&rig, 0xff, 0xd3, 0x89, 0xc1, 0x48, 0x89, 0x37,
				 0x0f, 0x01, 0x3b, 0xff, 0xd3)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RCX], 1);
	assert_int_equal(st->gpr[RAX], 2);
	rig_write(&rig, RIG_PT + (page >> 12) * 8, 8,
		  page | PTE_P | PTE_W | PTE_U);
}

static void *run_cpu(void *n)
{
	rig_run(&rig, (unsigned)(uintptr_t)n);
	return NULL;
}

static void another_cpu_changes_code(void **state)
{
	const uint64_t f = 0x70000;
	pthread_t thread;

	rig_write(&rig, f, 8, 0xc300000001b8ULL);
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_mode(&rig, 1, RIG_LONG, 0);
	/* 0: call rbx until it returns 2 */
	st->gpr[RBX] = f;
	rig_code(&rig, "\xff\xd3\x83\xf8\x02\x75\xf9", 7);
	/* 1: count down, then store the 2 */
	rig.st[1].gpr[RCX] = 2000000;
	rig.st[1].gpr[RBX] = f;
	rig.st[1].rip = 0x72000;
	rig_write(&rig, 0x72000, 8, 0x0143c6fc75c9ffULL);
	rig_write(&rig, 0x72007, 2, 0xf402);
	rig.st[1].gpr[RSP] -= 0x1000;
	pthread_create(&thread, NULL, run_cpu, (void *)1);
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	pthread_join(thread, NULL);
	assert_int_equal(st->gpr[RAX], 2);
}

/* ---- Locked instructions ------------------------------------------------------ */

/* Both CPUs run (code), which counts RCX down, on [rbx]. */
static uint64_t run_both(const void *code, unsigned len, uint64_t operand,
			 unsigned count)
{
	pthread_t thread;

	rig_code(&rig, code, len);
	for (unsigned i = 0; i < 2; i++) {
		rig_mode(&rig, i, RIG_LONG, 0);
		rig.st[i].gpr[RBX] = operand;
		rig.st[i].gpr[RCX] = count;
		rig.st[i].gpr[RSI] = 1;
	}
	rig_write(&rig, operand, 4, 0);
	pthread_create(&thread, NULL, run_cpu, (void *)1);
	rig_run(&rig, 0);
	pthread_join(thread, NULL);
	return rig_read(&rig, operand, 4);
}

static void locked_operations_are_atomic(void **state)
{
	static const uint8_t inc[] = {
		0xf0, 0xff, 0x03, 0xff, 0xc9, 0x75, 0xf9
	};
	static const uint8_t xadd[] = { 0xbe, 1,    0,    0,    0,
					0xf0, 0x0f, 0xc1, 0x33, 0xff,
					0xc9, 0x75, 0xf3 };
	/* mov eax,[rbx]; lea edx,[rax+1]; lock cmpxchg [rbx],edx; jnz */
	static const uint8_t cmpxchg[] = { 0x8b, 0x03, 0x8d, 0x50, 0x01,
					   0xf0, 0x0f, 0xb1, 0x13, 0x75,
					   0xf5, 0xff, 0xc9, 0x75, 0xf1 };
	/* A lock by XCHG, in [rbx + 4], round a plain INC. */
	static const uint8_t xchg[] = { 0xb8, 1,    0,    0,    0,
					0x87, 0x43, 4,    0x85, 0xc0,
					0x75, 0xf4, 0xff, 0x03, 0xc7,
					0x43, 4,    0,    0,    0,
					0,    0xff, 0xc9, 0x75, 0xe7 };

	assert_int_equal(run_both(inc, sizeof(inc), RIG_DATA, 500000), 1000000);
	assert_int_equal(run_both(xadd, sizeof(xadd), RIG_DATA, 500000),
			 1000000);
	assert_int_equal(run_both(cmpxchg, sizeof(cmpxchg), RIG_DATA, 300000),
			 600000);
	rig_write(&rig, RIG_DATA + 4, 4, 0);
	assert_int_equal(run_both(xchg, sizeof(xchg), RIG_DATA, 50000), 100000);
	/* Over the end of a page too. */
	assert_int_equal(run_both(inc, sizeof(inc), RIG_DATA + 0xffe, 100000),
			 200000);
}

/* ---- #DB ------------------------------------------------------------------------ */

static void single_step_traps_behind_an_instruction(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	/* pushf; or dword [rsp], 0x100; popf; inc eax; inc ecx */
	e = RIG_RUN(&rig, 0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0xff, 0xc0,
		    0xff, 0xc1);
	assert_int_equal(e.vector, EXC_DB);
	assert_int_equal(e.rip, RIG_CODE + 11);
	assert_true(e.rflags & FLAG_TF);
	assert_true(st->dr[6] & DR6_BS);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RCX], 0);
}

static void single_step_stops_between_iterations(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->rflags |= FLAG_TF;
	st->gpr[RDI] = RIG_DATA;
	st->gpr[RCX] = 5;
	e = RIG_RUN(&rig, 0xf3, 0xaa);
	assert_int_equal(e.vector, EXC_DB);
	assert_int_equal(e.rip, RIG_CODE);
	assert_int_equal(st->gpr[RCX], 4);
}

static void mov_ss_holds_the_trap_back(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->rflags |= FLAG_TF;
	st->gpr[RAX] = RIG_DS;
	/* mov ss, eax; inc ecx; inc ecx */
	e = RIG_RUN(&rig, 0x8e, 0xd0, 0xff, 0xc1, 0xff, 0xc1);
	assert_int_equal(e.vector, EXC_DB);
	assert_int_equal(e.rip, RIG_CODE + 4);
	assert_int_equal(st->gpr[RCX], 1);
}

static void code_breakpoint_faults_once(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->dr[1] = RIG_CODE + 2;
	st->dr[7] = DR7_FIXED | 1 << 2;
	e = RIG_RUN(&rig, 0xff, 0xc0, 0xff, 0xc1, 0xff, 0xc2);
	assert_int_equal(e.vector, EXC_DB);
	assert_int_equal(e.rip, RIG_CODE + 2);
	assert_int_equal(st->dr[6] & 15, 2);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RCX], 0);
	/* RF lets it pass, once. */
	st->rip = RIG_CODE + 2;
	st->rflags |= FLAG_RF;
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(st->gpr[RCX], 1);
	assert_false(st->rflags & FLAG_RF);
}

static void data_breakpoint_traps_behind_the_access(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	st->dr[0] = RIG_DATA + 4;
	st->dr[7] = DR7_FIXED | 1 | 1 << 16 | 3 << 18; /* write, 4 bytes */
	st->gpr[RBX] = RIG_DATA;
	/* mov [rbx], eax; mov eax, [rbx + 4]; mov [rbx + 7], al; inc ecx */
	e = RIG_RUN(&rig, 0x89, 0x03, 0x8b, 0x43, 4, 0x88, 0x43, 7, 0xff, 0xc1);
	assert_int_equal(e.vector, EXC_DB);
	assert_int_equal(e.rip, RIG_CODE + 8);
	assert_int_equal(st->dr[6] & 15, 1);
	assert_int_equal(st->gpr[RCX], 0);
	/* Reads or writes; switched on by MOV to DR7 after the page was used */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->dr[0] = RIG_DATA + 8;
	st->gpr[RBX] = RIG_DATA;
	st->gpr[RDX] = 1 | 3 << 16;
	/* mov eax, [rbx + 8]; mov dr7, rdx; mov eax, [rbx + 8] */
	e = RIG_RUN(&rig, 0x8b, 0x43, 8, 0x0f, 0x23, 0xfa, 0x8b, 0x43, 8);
	assert_int_equal(e.vector, EXC_DB);
	assert_int_equal(e.rip, RIG_CODE + 9);
}

/* ---- Interrupts, requests --------------------------------------------------------- */

static int pending_vector;

static int fake_pending(void *intc)
{
	return pending_vector;
}

static int fake_acknowledge(void *intc)
{
	int vector = pending_vector;

	pending_vector = -1;
	return vector;
}

static void fake_reset(void *intc)
{
	pending_vector = -1;
}

static const struct intc_ops fake_intc = { .pending = fake_pending,
					   .acknowledge = fake_acknowledge,
					   .reset = fake_reset };

static void sti_lets_one_instruction_pass(void **state)
{
	struct rig_exception e;

	rig.vcpu[0].intc = (struct intc){ .ops = &fake_intc };
	pending_vector = 30;
	rig_mode(&rig, 0, RIG_LONG, 0);
	/* sti; inc eax; inc ecx */
	e = RIG_RUN(&rig, 0xfb, 0xff, 0xc0, 0xff, 0xc1);
	assert_int_equal(e.vector, 30);
	assert_int_equal(e.rip, RIG_CODE + 3);
	assert_int_equal(st->gpr[RAX], 1);
	assert_int_equal(st->gpr[RCX], 0);
	/* With POPF there is no shadow. */
	pending_vector = 30;
	rig_mode(&rig, 0, RIG_LONG, 0);
	/* push 0x202; popf; inc eax */
	e = RIG_RUN(&rig, 0x68, 2, 2, 0, 0, 0x9d, 0xff, 0xc0);
	assert_int_equal(e.vector, 30);
	assert_int_equal(e.rip, RIG_CODE + 6);
	rig.vcpu[0].intc.ops = NULL;
}

/* The accelerator's handlers pass on what is not theirs. */
static void a_signal_of_the_program_reaches_it(void **state)
{
	raise(SIGTRAP);
	assert_int_equal(nr_traps, 1);
}

static void nmi_ends_hlt(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	assert_int_equal(RIG_RUN(&rig, 0xf4, 0xff, 0xc0).vector, -1);
	assert_int_equal(st->gpr[RAX], 0);
	assert_int_equal(st->activity, ACT_HALTED);
	/* Nothing happened: it sleeps on. */
	assert_int_equal(rig_continue(&rig, 0).vector, -1);
	atomic_fetch_or(&rig.vcpu[0].requests, VCPU_REQ_NMI);
	e = rig_continue(&rig, 0);
	assert_int_equal(e.vector, EXC_NMI);
	assert_int_equal(e.rip, RIG_CODE + 1);
}

static void *ask_for_pause(void *vcpu)
{
	vcpu_request(vcpu, VCPU_REQ_PAUSE);
	return NULL;
}

static void a_request_ends_run(void **state)
{
	struct exit exit = { .reason = EXIT_ERROR };
	pthread_t thread;

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_code(&rig, "\xeb\xfe", 2);
	ACCEL.set_state(rig.vcpu, st);
	pthread_create(&thread, NULL, ask_for_pause, rig.vcpu);
	assert_int_equal(ACCEL.run(rig.vcpu, &exit), 0);
	pthread_join(thread, NULL);
	assert_int_equal(exit.reason, EXIT_KICK);
	ACCEL.get_state(rig.vcpu, st);
	assert_int_equal(st->rip, RIG_CODE);
	/* A long REP notices too, with its registers half way. */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RDI] = 2 * MiB;
	st->gpr[RCX] = 4 * MiB;
	rig_code(&rig, "\xf3\xaa", 2);
	ACCEL.set_state(rig.vcpu, st);
	assert_int_equal(ACCEL.run(rig.vcpu, &exit), 0);
	assert_int_equal(exit.reason, EXIT_KICK);
	atomic_store(&rig.vcpu[0].requests, 0);
	assert_int_equal(rig_continue(&rig, 0).vector, -1);
	assert_int_equal(st->gpr[RCX], 0);
	assert_int_equal(st->gpr[RDI], 6 * MiB);
}

static void init_and_sipi_start_a_cpu(void **state)
{
	struct x86_state *ap = &rig.st[1];
	struct exit exit = { .reason = EXIT_ERROR };
	struct vcpu *vcpu = &rig.vcpu[1];

	rig_mode(&rig, 1, RIG_LONG, 0);
	ACCEL.set_state(vcpu, ap);
	atomic_fetch_or(&vcpu->requests, VCPU_REQ_INIT);
	assert_int_equal(ACCEL.run(vcpu, &exit), 0);
	assert_int_equal(exit.reason, EXIT_HLT);
	ACCEL.get_state(vcpu, ap);
	assert_int_equal(ap->activity, ACT_WAIT_SIPI);
	/* at 0x7a000: mov ax, cs; hlt */
	rig_write(&rig, 0x7a000, 4, 0xf4c88c);
	vcpu->sipi_vector = 0x7a;
	atomic_fetch_or(&vcpu->requests, VCPU_REQ_SIPI);
	assert_int_equal(ACCEL.run(vcpu, &exit), 0);
	ACCEL.get_state(vcpu, ap);
	assert_int_equal(ap->activity, ACT_HALTED);
	assert_int_equal((uint16_t)ap->gpr[RAX], 0x7a00);
	assert_int_equal(ap->rip, 3);
}

static void triple_fault_is_a_shutdown(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->idtr.limit = 0;
	assert_int_equal(RIG_RUN(&rig, 0x0f, 0x0b).vector, -2 - EXIT_SHUTDOWN);
	assert_int_equal(st->activity, ACT_SHUTDOWN);
	assert_int_equal(st->rip, RIG_CODE);
}

/* ---- Blocks ---------------------------------------------------------------------------- */

static void full_block_memory_starts_over(void **state)
{
	/* next: inc dword [rip + 2]; jmp +0; mov eax, imm; dec ecx; jnz */
	static const uint8_t code[] = {
		0xff, 0x05, 3, 0, 0,    0,    0xeb, 0,    0xb8,
		0,    0,    0, 0, 0xff, 0xc9, 0x75, 0xef,
	};
	struct cpu *cpu = cpu_of(&rig.vcpu[0]);
	uint64_t resets = cpu->block_resets;

	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_code(&rig, code, sizeof(code));
	st->gpr[RCX] = 500000;
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(st->gpr[RAX], 500000);
	if (strcmp(ACCEL.name, "bt")) /* which counts them elsewhere */
		assert_true(cpu->block_resets > resets);
}

static void long_straight_code_runs(void **state)
{
	uint8_t code[3000];

	for (unsigned i = 0; i < sizeof(code); i += 2)
		memcpy(code + i, "\xff\xc0", 2);
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_code(&rig, code, sizeof(code));
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(st->gpr[RAX], sizeof(code) / 2);
}

static void bad_instructions_are_ud(void **state)
{
	struct rig_exception e;

	rig_mode(&rig, 0, RIG_LONG, 0);
	/* inc eax; ud2 */
	e = RIG_RUN(&rig, 0xff, 0xc0, 0x0f, 0x0b);
	assert_int_equal(e.vector, EXC_UD);
	assert_int_equal(e.rip, RIG_CODE + 2);
	/* push es, not in 64-bit mode */
	rig_mode(&rig, 0, RIG_LONG, 0);
	assert_int_equal(RIG_RUN(&rig, 0x06).vector, EXC_UD);
	/* lock on a register operand */
	rig_mode(&rig, 0, RIG_LONG, 0);
	assert_int_equal(RIG_RUN(&rig, 0xf0, 0xff, 0xc0).vector, EXC_UD);
	/* sixteen bytes */
	rig_mode(&rig, 0, RIG_LONG, 0);
	e = RIG_RUN(&rig, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
		    0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90);
	assert_int_equal(e.vector, EXC_GP);
	/* hlt at level 3 */
	rig_mode(&rig, 0, RIG_LONG, 3);
	assert_int_equal(RIG_RUN(&rig, 0xf4).vector, EXC_GP);
}

static void every_operation_has_a_handler(void **state)
{
	for (unsigned op = OP_INVALID + 1; op < NR_OPS; op++) {
		struct insn insn = { .op = (uint16_t)op };

		switch (op) { /* those with one for each exact form */
		case OP_NATIVE:
		case OP_NOP:
		case OP_PAUSE:
		case OP_ADD ... OP_SAR:
		case OP_IMUL2:
		case OP_IMUL3:
		case OP_MOVZX:
		case OP_MOVSX:
		case OP_LEA:
		case OP_SETCC:
		case OP_CMOVCC:
			continue;
		case OP_MONITOR: /* never shown to the guest: #UD */
		case OP_MWAIT:
			continue;
		}
		if (!interp_handler(&insn))
			fail_msg("%s has none", insn_op_name(op));
	}
}

/* ---- Other modes -------------------------------------------------------------------------- */

static void code_runs_in_16_and_32_bits(void **state)
{
	/* 16 bits: push 0x1234; pop bx; mov cx, 3; add ax, bx; loop */
	static const enum rig_mode modes[] = { RIG_REAL, RIG_PROT16 };

	for (unsigned i = 0; i < 2; i++) {
		rig_mode(&rig, 0, modes[i], 0);
		assert_int_equal(RIG_RUN(&rig, 0x68, 0x34, 0x12, 0x5b, 0xb9, 3,
					 0, 0x01, 0xd8, 0xe2, 0xfc)
					 .vector,
				 -1);
		assert_int_equal((uint16_t)st->gpr[RAX], 3 * 0x1234);
	}
	/* 32 bits: pusha; popa; enter 8, 1; leave; call +0; pop edx */
	rig_mode(&rig, 0, RIG_PROT32, 0);
	st->gpr[RBP] = RIG_STACK - 0x100;
	st->gpr[RBX] = 7;
	assert_int_equal(RIG_RUN(&rig, 0x60, 0x61, 0xc8, 8, 0, 1, 0xc9, 0xe8, 0,
				 0, 0, 0, 0x5a)
				 .vector,
			 -1);
	assert_int_equal(st->gpr[RBX], 7);
	assert_int_equal(st->gpr[RSP], RIG_STACK);
	assert_int_equal(st->gpr[RDX], RIG_CODE + 12);
	/* daa: 0x19 + 0x28 = 0x47 */
	rig_mode(&rig, 0, RIG_PROT32, 0);
	RIG_RUN(&rig, 0xb0, 0x19, 0x04, 0x28, 0x27);
	assert_int_equal((uint8_t)st->gpr[RAX], 0x47);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probe_tells_a_speed),
		cmocka_unit_test(instructions_are_counted),
		cmocka_unit_test(code_changes_the_next_instruction),
		cmocka_unit_test(code_changes_the_next_block),
		cmocka_unit_test(string_store_over_own_code),
		cmocka_unit_test(code_over_two_pages_changes),
		cmocka_unit_test(a_new_mapping_shows_new_code),
		cmocka_unit_test(another_cpu_changes_code),
		cmocka_unit_test(locked_operations_are_atomic),
		cmocka_unit_test(single_step_traps_behind_an_instruction),
		cmocka_unit_test(single_step_stops_between_iterations),
		cmocka_unit_test(mov_ss_holds_the_trap_back),
		cmocka_unit_test(code_breakpoint_faults_once),
		cmocka_unit_test(data_breakpoint_traps_behind_the_access),
		cmocka_unit_test(sti_lets_one_instruction_pass),
		cmocka_unit_test(nmi_ends_hlt),
		cmocka_unit_test(a_request_ends_run),
		cmocka_unit_test(a_signal_of_the_program_reaches_it),
		cmocka_unit_test(init_and_sipi_start_a_cpu),
		cmocka_unit_test(triple_fault_is_a_shutdown),
		cmocka_unit_test(full_block_memory_starts_over),
		cmocka_unit_test(long_straight_code_runs),
		cmocka_unit_test(bad_instructions_are_ud),
		cmocka_unit_test(every_operation_has_a_handler),
		cmocka_unit_test(code_runs_in_16_and_32_bits),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
