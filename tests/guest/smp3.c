/* Code that one CPU changes under another (SDM volume 3, 8.1.3; A10, A19). */
#include "lib/pc.h"

#define VECTOR 0x51

extern uint8_t patched[], patched_end[];
int64_t patched_call(void);

/* An instruction of five bytes that is replaced while it may run. */
__asm__(".balign 64\n"
	"patched_call:\n\t"
	"patched: mov $1, %eax\n"
	"patched_end:\n\t"
	"movslq %eax, %rax\n\t"
	"ret\n");

static volatile unsigned calls, bad, stop, ready, traps, synced;

static void on_breakpoint(struct trap_frame *f)
{
	traps++;
	f->rip = (uint64_t)patched_end;
	f->rax = 0; /* what the probe says */
}

static void on_sync(struct trap_frame *f)
{
	synced++; /* IRET serializes */
	apic_eoi();
}

static void ap_caller(void)
{
	apic_write(APIC_SVR, 0x1ff);
	__asm__ volatile("sti");
	ready++;
	while (!stop) {
		int64_t v = patched_call();

		if (v < 0 || v > 3)
			bad++;
		calls++;
	}
	ready++;
	for (;;)
		__asm__ volatile("hlt");
}

static void sync_other(void)
{
	unsigned was = synced;

	apic_send(1, 0x4000 | VECTOR);
	WAIT_FOR(synced != was, 5000);
}

/* Breakpoint, tail, first byte, with every CPU serialized in between: how
 * kernels patch themselves. */
static void patch(uint8_t value)
{
	volatile uint8_t *code = patched;

	code[0] = 0xcc;
	sync_other();
	code[1] = value;
	code[2] = code[3] = code[4] = 0;
	sync_other();
	code[0] = 0xb8;
	sync_other();
}

static void wait_calls(unsigned n)
{
	unsigned until = calls + n;

	WAIT_FOR((int)(calls - until) >= 0, 5000);
}

void guest_main(void)
{
	unsigned before;

	pic_init(0x20);
	apic_write(APIC_SVR, 0x1ff);
	trap_set(3, on_breakpoint);
	trap_set(VECTOR, on_sync);
	if (!ok(cpu_start(1, ap_caller) && WAIT_FOR(ready == 1, 5000),
		"a19_a_second_cpu"))
		return;
	wait_calls(1000);
	ok(!bad, "a10_the_code_runs");
	for (unsigned i = 0; i < 100; i++) {
		patch((uint8_t)(2 + (i & 1)));
		wait_calls(3);
	}
	ok(!bad, "a10_100_patches_by_breakpoint (%u wrong)", bad);
	ok(patched_call() == 3, "a10_the_last_one_is_in_force");
	/* A breakpoint that stays is taken, and gone when it is gone. */
	patched[0] = 0xcc;
	sync_other();
	before = traps;
	ok(WAIT_FOR(traps > before + 10, 5000), "a10_a_probe_is_hit");
	patched[0] = 0xb8;
	sync_other();
	before = traps;
	wait_calls(1000);
	ok(traps == before, "a10_and_not_after_it_is_gone");
	/* One byte of an immediate may change without any ceremony; in the
	 * end the other CPU sees it. */
	for (unsigned i = 0; i < 50; i++) {
		((volatile uint8_t *)patched)[1] = (uint8_t)(2 + (i & 1));
		wait_calls(3);
	}
	ok(!bad, "a10_a_byte_changes_as_a_whole");
	stop = 1;
	ok(WAIT_FOR(ready == 2, 5000), "a19_the_other_cpu_ended");
}
