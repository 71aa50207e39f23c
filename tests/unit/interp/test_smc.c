/*
 * Code that is changed under a CPU that runs it: by another CPU with the
 * protocol of SDM volume 3, 8.1.3, by a device, by both at once.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"
#include "vcpu/bt/bt.h"

#define RAM    (16 * MiB)
#define F      (4 * MiB) /* the code that changes; then a page each */
#define FLAG   RIG_DATA
#define ACKS   (RIG_DATA + 0x1000)
#define WRITER 0x18000
#define MIXER  0x19000
#define ADDER  0x1a000
#define TWICE  0x1b000

/* Guest code between (name) and (name)_end. */
#define GUEST(name, text)                                        \
	asm(".pushsection .rodata\n" #name ":\n" text "\n" #name \
	    "_end:\n.popsection");                               \
	extern const uint8_t name[], name##_end[]
#define LOAD(gpa, name) \
	gmem_load(&rig.mem, gpa, name, (uint64_t)(name##_end - name))

static struct rig rig;

static int setup(void **state)
{
	rig_create(&rig, &ACCEL, 2, RAM);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

/* f: mov eax, value; ret. It is written as one. */
static uint64_t function(uint32_t value)
{
	return 0xb8 | (uint64_t)value << 8 | 0xc3ULL << 40;
}

/* rbp = where f number esi is: every second one, with r13 set, in a page of
 * its own. */
#define WHERE              \
	"mov %esi, %ebp\n" \
	"shr $1, %ebp\n"   \
	"shl $12, %ebp\n"  \
	"and %r13, %rbp\n" \
	"add %r15, %rbp\n"

/* Wait for f number esi, serialize, call it; it must return its number. Say so
 * at [r9]; r12 is the last one. */
GUEST(executor, "1: mov (%rdi), %eax\n"
		"cmp %eax, %esi\n"
		"je 2f\n"
		"pause\n"
		"jmp 1b\n"
		"2: cpuid\n" WHERE "call *%rbp\n"
		"cmp %eax, %esi\n"
		"jne 3f\n"
		"mov %esi, (%r9)\n"
		"inc %esi\n"
		"cmp %r12d, %esi\n"
		"jbe 1b\n"
		"hlt\n"
		"3: ud2");
/* The other side: r14 is f without its number. */
GUEST(writer, "1:" WHERE "mov %esi, %eax\n"
	      "shl $8, %rax\n"
	      "or %r14, %rax\n"
	      "mov %rax, (%rbp)\n"
	      "mov %esi, (%rdi)\n"
	      "2: pause\n"
	      "cmp %esi, (%r9)\n"
	      "jne 2b\n"
	      "inc %esi\n"
	      "cmp %r12d, %esi\n"
	      "jbe 1b\n"
	      "hlt");
/* As these two, while f runs all the time and is written many times before it
 * gets its number. */
GUEST(caller, "1: call *%r15\n"
	      "cmp %esi, (%rdi)\n"
	      "jne 1b\n"
	      "cpuid\n"
	      "call *%r15\n"
	      "cmp %eax, %esi\n"
	      "jne 3f\n"
	      "mov %esi, (%r9)\n"
	      "inc %esi\n"
	      "cmp %r12d, %esi\n"
	      "jbe 1b\n"
	      "hlt\n"
	      "3: ud2");
GUEST(bursts, "1: imul $37, %esi, %ecx\n"
	      "movzx %cl, %ecx\n"
	      "inc %ecx\n"
	      "3: mov %ecx, %eax\n"
	      "shl $16, %rax\n"
	      "or %r14, %rax\n"
	      "mov %rax, (%r15)\n"
	      "dec %ecx\n"
	      "jnz 3b\n"
	      "mov %esi, %eax\n"
	      "shl $8, %rax\n"
	      "or %r14, %rax\n"
	      "mov %rax, (%r15)\n"
	      "mov %esi, (%rdi)\n"
	      "2: pause\n"
	      "cmp %esi, (%r9)\n"
	      "jne 2b\n"
	      "inc %esi\n"
	      "cmp %r12d, %esi\n"
	      "jbe 1b\n"
	      "hlt");
/* Store f number esi in the ecx pages at r15, and again, which makes them
 * writable; call what is in those at r13. r12 times. */
#define STORE_ALL(n)                                 \
	"mov %r15, %rbx\n"                           \
	"mov %ecx, %r10d\n" n ": mov %rax, (%rbx)\n" \
	"add $0x1000, %rbx\n"                        \
	"dec %r10d\n"                                \
	"jnz " n "b\n"
GUEST(mixer,
      "1: mov %esi, %eax\n"
      "shl $8, %rax\n"
      "or %r14, %rax\n" STORE_ALL("2") STORE_ALL("3") "mov %r13, %rbp\n"
						      "mov %ecx, %r10d\n"
						      "4: call *%rbp\n"
						      "add $0x1000, %rbp\n"
						      "dec %r10d\n"
						      "jnz 4b\n"
						      "inc %esi\n"
						      "cmp %r12d, %esi\n"
						      "jbe 1b\n"
						      "hlt");
/* Add up in edx what the ecx functions from rbp on return. */
GUEST(adder, "1: call *%rbp\n"
	     "add %eax, %edx\n"
	     "add $0x1000, %rbp\n"
	     "dec %ecx\n"
	     "jnz 1b\n"
	     "hlt");
/* Call the ecx functions from rbp on, a page each; add up in edx. Then read a
 * port, and all that again into r8. */
GUEST(twice, "mov %ecx, %r10d\n"
	     "mov %rbp, %r11\n"
	     "1: call *%rbp\n"
	     "add %eax, %edi\n"
	     "add $0x1000, %rbp\n"
	     "dec %ecx\n"
	     "jnz 1b\n"
	     "in (%dx), %al\n"
	     "2: call *%r11\n"
	     "add %eax, %r8d\n"
	     "add $0x1000, %r11\n"
	     "dec %r10d\n"
	     "jnz 2b\n"
	     "hlt");

static void *run_cpu(void *n)
{
	static struct rig_exception result[RIG_MAX_CPUS];
	unsigned i = (unsigned)(uintptr_t)n;

	result[i] = rig_run(&rig, i);
	return &result[i];
}

static pthread_t cpu_start(unsigned n)
{
	pthread_t thread;

	assert_int_equal(
		pthread_create(&thread, NULL, run_cpu, (void *)(uintptr_t)n),
		0);
	return thread;
}

static void cpu_join(pthread_t thread)
{
	void *e;

	pthread_join(thread, &e);
	assert_int_equal(((struct rig_exception *)e)->vector, -1);
}

/* CPU (n) at (rip), for f number 1 to (last). */
static void prepare(unsigned n, uint64_t rip, unsigned last, bool many)
{
	struct x86_state *s = &rig.st[n];

	rig_mode(&rig, n, RIG_LONG, 0);
	s->rip = rip;
	s->gpr[RSP] = RIG_STACK - n * 0x1000;
	s->gpr[RSI] = 1;
	s->gpr[RDI] = FLAG;
	s->gpr[R9] = ACKS + 64 * n;
	s->gpr[R12] = last;
	s->gpr[R13] = many ? ~0ULL : 0;
	s->gpr[R14] = function(0);
	s->gpr[R15] = F;
}

static void protocol(unsigned last, bool many)
{
	pthread_t thread;

	LOAD(RIG_CODE, executor);
	LOAD(WRITER, writer);
	rig_write(&rig, FLAG, 4, 0);
	rig_write(&rig, ACKS, 4, 0);
	prepare(0, RIG_CODE, last, many);
	prepare(1, WRITER, last, many);
	rig.st[1].gpr[R9] = ACKS;
	thread = cpu_start(0);
	assert_int_equal(rig_run(&rig, 1).vector, -1);
	cpu_join(thread);
}

static void another_cpu_changes_code_by_the_protocol(void **state)
{
	protocol(5000, false);
}

/* Each page is written, run, written, run, by both in turn: the one that
 * writes has to lose it. */
static void pages_become_code_while_they_are_written(void **state)
{
	protocol(4000, true);
}

/* The one that writes has a writable entry at times, and may be about to use it
 * when it is taken back. */
static void code_runs_while_it_is_written(void **state)
{
	pthread_t thread;

	LOAD(RIG_CODE, caller);
	LOAD(WRITER, bursts);
	rig_write(&rig, F, 8, function(0));
	rig_write(&rig, FLAG, 4, 0);
	rig_write(&rig, ACKS, 4, 0);
	prepare(0, RIG_CODE, 2000, false);
	prepare(1, WRITER, 2000, false);
	rig.st[1].gpr[R9] = ACKS;
	thread = cpu_start(0);
	assert_int_equal(rig_run(&rig, 1).vector, -1);
	cpu_join(thread);
}

static uint32_t ack(unsigned n)
{
	const volatile uint32_t *p = gmem_at(&rig.mem, ACKS + 64 * n, 4);

	return *p;
}

static void a_device_changes_code_of_two_cpus(void **state)
{
	const unsigned last = 3000;
	pthread_t threads[2];

	LOAD(RIG_CODE, executor);
	rig_write(&rig, FLAG, 4, 0);
	for (unsigned n = 0; n < 2; n++) {
		rig_write(&rig, ACKS + 64 * n, 4, 0);
		prepare(n, RIG_CODE, last, false);
	}
	for (unsigned n = 0; n < 2; n++)
		threads[n] = cpu_start(n);
	for (uint32_t i = 1; i <= last; i++) {
		uint64_t f = function(i);

		assert_int_equal(gmem_write(&rig.mem, F, &f, 8), 0);
		assert_int_equal(gmem_write(&rig.mem, FLAG, &i, 4), 0);
		while (ack(0) != i || ack(1) != i)
			sched_yield();
	}
	for (unsigned n = 0; n < 2; n++)
		cpu_join(threads[n]);
}

/* Both translate what the other writes: no change is lost, and neither waits
 * for ever. */
static void two_cpus_change_each_others_code(void **state)
{
	const unsigned pages = 1000, rounds = 30;
	pthread_t thread;

	LOAD(MIXER, mixer);
	LOAD(ADDER, adder);
	for (unsigned i = 0; i < 2 * pages; i++)
		rig_write(&rig, F + i * PAGE_SIZE, 8, function(0));
	for (unsigned n = 0; n < 2; n++) {
		prepare(n, MIXER, rounds, false);
		rig.st[n].gpr[R15] = F + n * pages * PAGE_SIZE;
		rig.st[n].gpr[R13] = F + !n * pages * PAGE_SIZE;
		rig.st[n].gpr[RCX] = pages;
	}
	thread = cpu_start(0);
	assert_int_equal(rig_run(&rig, 1).vector, -1);
	cpu_join(thread);
	for (unsigned n = 0; n < 2; n++) {
		prepare(n, ADDER, 0, false);
		rig.st[n].gpr[RBP] = F + !n * pages * PAGE_SIZE;
		rig.st[n].gpr[RCX] = pages;
		assert_int_equal(rig_run(&rig, n).vector, -1);
		assert_int_equal(rig.st[n].gpr[RDX], pages * rounds);
	}
}

#define MANY (2 * MAX_MAILS)

static void *change_all(void *opaque)
{
	uint64_t f = function(2);

	for (unsigned i = 0; i < MANY; i++)
		gmem_write(&rig.mem, F + i * PAGE_SIZE, &f, 8);
	return NULL;
}

/* A port that takes its time. */
static uint64_t port_read(void *dev, unsigned cpu, uint64_t off, unsigned size)
{
	pthread_t thread;

	pthread_create(&thread, NULL, change_all, NULL);
	pthread_join(thread, NULL);
	return 0;
}

static void port_write(void *dev, unsigned cpu, uint64_t off, unsigned size,
		       uint64_t value)
{
}

static const struct bus_ops port_ops = { .read = port_read,
					 .write = port_write };

static void more_changes_than_a_cpu_remembers(void **state)
{
	struct x86_state *s = &rig.st[0];
	const struct bt *bt = bt_of(rig.vcpu[0].accel);
	bool is_bt = !strcmp(ACCEL.name, "bt");
	uint64_t lost = is_bt ? bt->stats.mails_lost : 0;

	assert_int_equal(
		bus_map(rig.vs.pio, 0x100, 8, "test", &port_ops, NULL, NULL),
		0);
	LOAD(TWICE, twice);
	for (unsigned i = 0; i < MANY; i++)
		rig_write(&rig, F + i * PAGE_SIZE, 8, function(1));
	prepare(0, TWICE, 0, false);
	s->gpr[RCX] = MANY;
	s->gpr[RBP] = F;
	s->gpr[RDI] = 0;
	s->gpr[RDX] = 0x100;
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(s->gpr[RDI], MANY);
	assert_int_equal(s->gpr[R8], 2 * MANY);
	if (is_bt)
		assert_true(bt->stats.mails_lost > lost);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(another_cpu_changes_code_by_the_protocol),
		cmocka_unit_test(pages_become_code_while_they_are_written),
		cmocka_unit_test(code_runs_while_it_is_written),
		cmocka_unit_test(a_device_changes_code_of_two_cpus),
		cmocka_unit_test(two_cpus_change_each_others_code),
		cmocka_unit_test(more_changes_than_a_cpu_remembers),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
