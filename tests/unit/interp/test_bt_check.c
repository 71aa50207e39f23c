/*
 * The translator's own instruments: lockstep finds a wrong translation and
 * only that; the trace of blocks is complete.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "rig.h"
#include "vcpu/bt/bt.h"

#define ENDED_BY_ERROR (-2 - EXIT_ERROR) /* as rig_run() says it */

static struct rig rig;
static struct x86_state *const st = &rig.st[0];
static struct accel_options options;

/* The rig knows no options: they are set on the way. */
static int create_with_options(struct vcpus *vs, struct err *err)
{
	vs->options = options;
	return accel_bt.vm_create(vs, err);
}

static void create(bool check, const char *trace)
{
	static struct accel_ops ops;

	options = (struct accel_options){ .check = check, .trace = trace };
	ops = accel_bt;
	ops.vm_create = create_with_options;
	rig_create(&rig, &ops, 1, 8 * MiB);
	rig_mode(&rig, 0, RIG_LONG, 0);
}

static int setup(void **state)
{
	create(true, NULL);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

static struct bt *bt(void)
{
	return bt_of(rig.vcpu[0].accel);
}

/* Change the last one of (bytes) where they are in translated code. */
static void corrupt(const void *bytes, unsigned len)
{
	struct code *c = &bt()->code;
	uint8_t *p = memmem(c->rw + c->first, c->used - c->first, bytes, len);

	assert_non_null(p);
	p[len - 1] ^= 1;
}

/* A loop with memory, flags, x87 and vectors:
 *     1: add [rdi], rcx; paddd xmm0, xmm1; fadd st(0), st(0);
 *        mov [rdi + 9], eax; dec rcx; jnz 1b */
static const uint8_t loop[] = { 0x48, 0x01, 0x0f, 0x66, 0x0f, 0xfe,
				0xc1, 0xd8, 0xc0, 0x89, 0x47, 0x09,
				0x48, 0xff, 0xc9, 0x75, 0xef };

static void run_loop(unsigned n, int vector)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->cr4 |= CR4_OSFXSR;
	st->gpr[RDI] = RIG_DATA;
	st->gpr[RCX] = n;
	rig_code(&rig, loop, sizeof(loop));
	assert_int_equal(rig_run(&rig, 0).vector, vector);
}

static void right_code_passes(void **state)
{
	run_loop(1000, -1);
	assert_int_equal(rig_read(&rig, RIG_DATA, 8), 500500);
	assert_true(bt()->stats.checked >= 1000);
	assert_int_equal(bt()->stats.unchecked, 0);
	/* Each counts once; but HLT is not translated. */
	assert_int_equal(rig.vcpu[0].stats.instructions, 6000);
}

static void a_wrong_register_is_found(void **state)
{
	static const uint8_t imm[] = { 0x44, 0x33, 0x22, 0x11 };

	/* add eax, 0x11223344 */
	assert_int_equal(RIG_RUN(&rig, 0x05, 0x44, 0x33, 0x22, 0x11).vector,
			 -1);
	corrupt(imm, sizeof(imm));
	rig_mode(&rig, 0, RIG_LONG, 0);
	assert_int_equal(rig_run(&rig, 0).vector, ENDED_BY_ERROR);
}

static void a_wrong_store_is_found(void **state)
{
	static const uint8_t imm[] = { 0x44, 0x33, 0x22, 0x11 };

	/* mov dword [rdi], 0x11223344 */
	st->gpr[RDI] = RIG_DATA;
	assert_int_equal(
		RIG_RUN(&rig, 0xc7, 0x07, 0x44, 0x33, 0x22, 0x11).vector, -1);
	corrupt(imm, sizeof(imm));
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RDI] = RIG_DATA;
	assert_int_equal(rig_run(&rig, 0).vector, ENDED_BY_ERROR);
}

static void a_wrong_vector_is_found(void **state)
{
	/* pshufd xmm0, xmm1, 0x1b after pcmpeqd and psrld make it matter */
	static const uint8_t code[] = { 0x66, 0x0f, 0x76, 0xc9, 0x66,
					0x0f, 0x73, 0xd9, 0x05, 0x66,
					0x0f, 0x70, 0xc1, 0x1b };

	for (int i = 0; i < 2; i++) {
		rig_mode(&rig, 0, RIG_LONG, 0);
		st->cr4 |= CR4_OSFXSR;
		if (!i)
			rig_code(&rig, code, sizeof(code));
		else
			corrupt(code + 9, 5);
		assert_int_equal(rig_run(&rig, 0).vector,
				 i ? ENDED_BY_ERROR : -1);
	}
}

static void a_wrong_branch_is_found(void **state)
{
	static const uint8_t jz[] = { 0x0f, 0x84 };

	/* test eax, eax; jz +2; inc ecx */
	assert_int_equal(
		RIG_RUN(&rig, 0x85, 0xc0, 0x74, 0x02, 0xff, 0xc1).vector, -1);
	corrupt(jz, sizeof(jz));
	rig_mode(&rig, 0, RIG_LONG, 0);
	assert_int_equal(rig_run(&rig, 0).vector, ENDED_BY_ERROR);
}

static void an_exception_stands(void **state)
{
	/* mov [rdi], eax; div ecx */
	st->gpr[RDI] = RIG_DATA;
	st->gpr[RAX] = 7;
	assert_int_equal(RIG_RUN(&rig, 0x89, 0x07, 0xf7, 0xf1).vector, EXC_DE);
	assert_int_equal(rig_read(&rig, RIG_DATA, 4), 7);
	assert_int_equal(bt()->stats.unchecked, 1);
}

static void modified_code_stands(void **state)
{
	/* mov byte [rip + 1], 2; mov eax, 1 */
	assert_int_equal(
		RIG_RUN(&rig, 0xc6, 5, 1, 0, 0, 0, 2, 0xb8, 1, 0, 0, 0).vector,
		-1);
	assert_int_equal(st->gpr[RAX], 2);
}

static void one_cpu_only(void **state)
{
	struct vcpus vs = { .nr = 2, .options = { .check = true } };
	struct err err = { .what = "" };

	assert_true(accel_bt.vm_create(&vs, &err) < 0);
	assert_non_null(strstr(err.what, "one processor"));
}

static void blocks_are_written_down(void **state)
{
	char path[] = "/tmp/test-trace-XXXXXX", line[256];
	unsigned nr_blocks = 0, nr_guest = 0;
	FILE *f;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	create(false, path);
	/* add eax, 1; mov [rdi], eax; nop */
	st->gpr[RDI] = RIG_DATA;
	assert_int_equal(RIG_RUN(&rig, 0x83, 0xc0, 1, 0x89, 0x07, 0x90).vector,
			 -1);
	assert_true(bt()->stats.blocks > 0);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		nr_blocks += !strncmp(line, "block ", 6);
		nr_guest += line[0] == '0' && strstr(line, " |");
	}
	fclose(f);
	unlink(path);
	assert_int_equal(nr_blocks, bt()->stats.blocks);
	assert_int_equal(nr_guest, bt()->stats.insns);
}

static int setup_unchecked(void **state)
{
	create(false, NULL);
	return 0;
}

static void a6_callouts_are_counted_by_instruction(void **state)
{
	/* cpuid; cpuid; sgdt [rdi] */
	st->gpr[RDI] = RIG_DATA;
	assert_int_equal(
		RIG_RUN(&rig, 0x0f, 0xa2, 0x0f, 0xa2, 0x0f, 0x01, 0x07).vector,
		-1);
	assert_int_equal(bt()->callout_counts[OP_CPUID], 2);
	assert_int_equal(bt()->callout_counts[OP_SGDT], 1);
	assert_int_equal(bt()->callout_counts[OP_HLT], 1);
	assert_int_equal(bt()->stats.callouts, 4);
}

static void faults_are_counted_by_cause(void **state)
{
	st->gpr[RDI] = RIG_DATA + 0xffd;
	st->gpr[RCX] = 3;
	/* 1: add [rdi], eax; dec ecx; jnz 1b */
	assert_int_equal(
		RIG_RUN(&rig, 0x01, 0x07, 0xff, 0xc9, 0x75, 0xfa).vector, -1);
	assert_int_equal(bt()->stats.misaligned, 1);
	assert_int_equal(bt()->stats.page_ends, 2);
	assert_int_equal(bt()->stats.steps, 3);
	assert_int_equal(bt()->stats.steps_raised, 0);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RDI] = 0x800000000000;
	assert_int_equal(RIG_RUN(&rig, 0x8b, 0x07).vector, EXC_GP);
	assert_int_equal(bt()->stats.steps_raised, 1);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RDI] = 0x800000000000;
	assert_int_equal(RIG_RUN(&rig, 0xff, 0xe7).vector, EXC_GP); /* jmp */
	assert_int_equal(bt()->stats.steps_raised, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(right_code_passes, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_wrong_register_is_found,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_wrong_store_is_found, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_wrong_vector_is_found, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_wrong_branch_is_found, setup,
						teardown),
		cmocka_unit_test_setup_teardown(an_exception_stands, setup,
						teardown),
		cmocka_unit_test_setup_teardown(modified_code_stands, setup,
						teardown),
		cmocka_unit_test(one_cpu_only),
		cmocka_unit_test_teardown(blocks_are_written_down, teardown),
		cmocka_unit_test_setup_teardown(
			a6_callouts_are_counted_by_instruction, setup_unchecked,
			teardown),
		cmocka_unit_test_setup_teardown(faults_are_counted_by_cause,
						setup_unchecked, teardown),
	};
	struct err err = { .what = "" };

	if (accel_bt.probe(&err) < 0) {
		printf("1..0 # SKIP %s\n", err.what);
		return 0;
	}
	return cmocka_run_group_tests_name("bt_check", tests, NULL, NULL);
}
