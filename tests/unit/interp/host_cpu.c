#include "host_cpu.h"

#include <signal.h>
#include <string.h>
#include <sys/ucontext.h>
#include <ucontext.h>

#include <cpuid.h>

#define CS_32        0x23
#define SIGNALS      5
#define NR_COMPS     8
#define LEGACY_BYTES 464 /* behind them the kernel has its own */
#define XSAVE_BV     512

static const int signals[SIGNALS] = { SIGTRAP, SIGSEGV, SIGILL, SIGFPE,
				      SIGBUS };
static struct sigaction old_actions[SIGNALS];
static uint8_t alt_stack[64 * 1024] __attribute__((aligned(64)));
static stack_t old_stack;

static struct {
	struct x86_state *st;
	bool is_32;
	volatile enum { IDLE, ENTER, RUNNING } phase;
	uint64_t mask;
	uint32_t offset[NR_COMPS], size[NR_COMPS];
	gregset_t gregs;
	uint8_t fp[8192];
	size_t fp_size;
	struct host_result result;
} host;

static const int greg_of[NR_GPR] = {
	REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
	REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static void fp_put(uint8_t *fp)
{
	const uint8_t *x = host.st->xsave;
	uint64_t *bv = (uint64_t *)(void *)(fp + XSAVE_BV);

	memcpy(fp, x, LEGACY_BYTES);
	for (unsigned i = 2; i < NR_COMPS; i++)
		if (host.mask & BIT(i))
			memcpy(fp + host.offset[i], x + host.offset[i],
			       host.size[i]);
	*bv |= host.mask;
}

static void fp_get(const uint8_t *fp)
{
	uint8_t *x = host.st->xsave;
	uint64_t bv = *(const uint64_t *)(const void *)(fp + XSAVE_BV);

	memcpy(x, fp, LEGACY_BYTES);
	if (!(bv & XCR0_X87)) {
		memset(x, 0, 24);
		memset(x + 32, 0, 128);
		x[0] = 0x7f;
		x[1] = 0x03;
	}
	if (!(bv & XCR0_SSE))
		memset(x + 160, 0, 256);
	for (unsigned i = 2; i < NR_COMPS; i++) {
		if (!(host.mask & BIT(i)))
			continue;
		if (bv & BIT(i))
			memcpy(x + host.offset[i], fp + host.offset[i],
			       host.size[i]);
		else
			memset(x + host.offset[i], 0, host.size[i]);
	}
}

static void test_enter(mcontext_t *mc)
{
	struct x86_state *st = host.st;

	memcpy(host.gregs, mc->gregs, sizeof(gregset_t));
	memcpy(host.fp, mc->fpregs, host.fp_size);
	for (unsigned i = 0; i < NR_GPR; i++)
		mc->gregs[greg_of[i]] = (greg_t)st->gpr[i];
	mc->gregs[REG_RIP] = (greg_t)st->rip;
	mc->gregs[REG_EFL] = (greg_t)st->rflags;
	if (host.is_32)
		mc->gregs[REG_CSGSFS] =
			(mc->gregs[REG_CSGSFS] & ~0xffffLL) | CS_32;
	fp_put((uint8_t *)mc->fpregs);
	host.phase = RUNNING;
}

static void test_leave(mcontext_t *mc)
{
	struct x86_state *st = host.st;

	for (unsigned i = 0; i < NR_GPR; i++)
		st->gpr[i] = (uint64_t)mc->gregs[greg_of[i]];
	st->rip = (uint64_t)mc->gregs[REG_RIP];
	st->rflags = (uint64_t)mc->gregs[REG_EFL];
	fp_get((const uint8_t *)mc->fpregs);
	host.result = (struct host_result){
		.vector = (int)mc->gregs[REG_TRAPNO],
		.error = (uint64_t)mc->gregs[REG_ERR],
		.cr2 = (uint64_t)mc->gregs[REG_CR2],
	};
	memcpy(mc->gregs, host.gregs, sizeof(gregset_t));
	memcpy(mc->fpregs, host.fp, host.fp_size);
	host.phase = IDLE;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	if (host.phase == ENTER && sig == SIGTRAP) {
		test_enter(&uc->uc_mcontext);
		return;
	}
	if (host.phase == RUNNING) {
		test_leave(&uc->uc_mcontext);
		return;
	}
	/* The processor's own native emulation. */
	for (unsigned i = 0; i < SIGNALS; i++)
		if (signals[i] == sig && (old_actions[i].sa_flags & SA_SIGINFO))
			old_actions[i].sa_sigaction(sig, info, context);
}

void host_cpu_begin(uint64_t xsave_mask)
{
	struct sigaction sa = { .sa_sigaction = handler,
				.sa_flags =
					SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t ss = { .ss_sp = alt_stack, .ss_size = sizeof(alt_stack) };
	uint32_t a, b, c, d;

	host.mask = xsave_mask;
	host.fp_size = XSAVE_BV + 64;
	for (unsigned i = 2; i < NR_COMPS; i++) {
		if (!(xsave_mask & BIT(i)))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		host.offset[i] = b;
		host.size[i] = a;
		host.fp_size = MAX(host.fp_size, (size_t)(a + b));
	}
	sigaltstack(&ss, &old_stack);
	for (unsigned i = 0; i < SIGNALS; i++)
		sigaction(signals[i], &sa, &old_actions[i]);
	/* 32-bit code needs data segments. */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(0x2b));
}

void host_cpu_end(void)
{
	for (unsigned i = 0; i < SIGNALS; i++)
		sigaction(signals[i], &old_actions[i], NULL);
	sigaltstack(&old_stack, NULL);
}

struct host_result host_cpu_run(struct x86_state *st, bool is_32)
{
	host.st = st;
	host.is_32 = is_32;
	host.phase = ENTER;
	__asm__ volatile("int3" : : : "memory");
	return host.result;
}
