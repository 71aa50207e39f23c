/*
 * Signals that hit translated code.
 *
 * The guest's registers are where they belong whenever an instruction's commit
 * point is not passed (operand.c), so a fault needs no repair: the handler
 * sends the thread to a gate as if the code had called it, and the gate's
 * function runs the instruction by interp, which raises what there is to raise.
 *
 * A kick from another thread does the same between two instructions. If it
 * hits one behind its commit point, the host's TF takes the thread, one host
 * instruction at a time, to its end. If it hits C, it leaves a note that the
 * gates look at on the way back.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <asm/prctl.h>
#include <pthread.h>

#include "vcpu/bt/bt.h"

/* The CPU of this thread, while it is in run(). */
static __thread struct bt *volatile current;

/* The handlers are installed while there is any CPU. */
static const int stop_signals[] = { SIGUSR2, SIGTRAP };

#define NR_STOP_SIGNALS (sizeof(stop_signals) / sizeof(*stop_signals))

static pthread_mutex_t handlers_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned nr_instances;
static struct sigaction previous[NR_STOP_SIGNALS];

void fault_enter(struct bt *bt)
{
	current = bt;
}

/* Go on as if translated code had called (gate) from (from). */
static void call_gate(struct bt *bt, greg_t *regs, enum gate gate,
		      uint64_t from)
{
	uint64_t *rsp = (uint64_t *)(void *)bt - 1;

	*rsp = from;
	regs[REG_RSP] = (greg_t)rsp;
	regs[REG_RIP] = bt->gate[gate];
}

bool fault_signal(void *opaque, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct bt *bt = opaque;
	uint64_t pc = (uint64_t)regs[REG_RIP];

	if (!bt_is_block(bt, pc))
		return false;
	call_gate(bt, regs, GATE_FAULT, pc);
	return true;
}

/* Leave translated code at the next clean point. */
static void stop(struct bt *bt, greg_t *regs)
{
	uint64_t pc = (uint64_t)regs[REG_RIP], at;
	const struct side *side;
	struct tblock *b;
	unsigned n;

	regs[REG_EFL] &= ~(greg_t)FLAG_TF;
	bt->is_stepping = false;
	if (pc >= bt->gates_restore && pc < bt->gates_restore_end) {
		regs[REG_RIP] = bt->gate_leave;
		return;
	}
	if (!bt_is_block(bt, pc)) {
		bt->kick = 1;
		return;
	}
	b = code_find(bt, (uint32_t)pc, &n);
	/* PUSHF has something on the stack for a moment. */
	if (b && (struct bt *)regs[REG_RSP] == bt) {
		side = &bt->code.sides[b->insns + n];
		at = pc - b->host;
		if (at >= side->start && at <= side->commit && !side->no_kick) {
			call_gate(bt, regs, GATE_KICK, bt->page + side->off);
			return;
		}
	}
	regs[REG_EFL] |= FLAG_TF;
	bt->is_stepping = true;
}

/* A signal that is somebody else's. */
static void chain(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *sa = &previous[sig == SIGTRAP];

	if (sa->sa_flags & SA_SIGINFO)
		sa->sa_sigaction(sig, info, context);
	else if (sa->sa_handler != SIG_DFL && sa->sa_handler != SIG_IGN)
		sa->sa_handler(sig);
	else if (sa->sa_handler == SIG_DFL) {
		sigaction(sig, sa, NULL);
		raise(sig); /* when this handler returns */
	}
}

static void on_stop(int sig, siginfo_t *info, void *context)
{
	struct bt *bt = current;
	bool is_ours = sig == SIGTRAP ? bt && bt->is_stepping
				      : info->si_code == SI_TKILL &&
						info->si_pid == getpid();

	if (!is_ours)
		chain(sig, info, context);
	else if (bt) /* a kick may come too late */
		stop(bt, ((ucontext_t *)context)->uc_mcontext.gregs);
}

int fault_install(struct err *err)
{
	struct sigaction sa = { .sa_sigaction = on_stop,
				.sa_flags = SA_SIGINFO | SA_RESTART };
	int r = 0;

	sigemptyset(&sa.sa_mask);
	sigaddset(&sa.sa_mask, SIGUSR2);
	sigaddset(&sa.sa_mask, SIGTRAP);
	pthread_mutex_lock(&handlers_lock);
	for (unsigned n = 0; n < NR_STOP_SIGNALS && nr_instances == 0; n++)
		if (sigaction(stop_signals[n], &sa, &previous[n]) < 0)
			r = err_set(
				err, errno, NULL,
				"cannot handle signal %d:", stop_signals[n]);
	nr_instances += !r;
	pthread_mutex_unlock(&handlers_lock);
	return r;
}

void fault_remove(void)
{
	pthread_mutex_lock(&handlers_lock);
	nr_instances--;
	for (unsigned n = 0; n < NR_STOP_SIGNALS && nr_instances == 0; n++) {
		struct sigaction now;

		if (sigaction(stop_signals[n], NULL, &now) == 0 &&
		    now.sa_sigaction == on_stop)
			sigaction(stop_signals[n], &previous[n], NULL);
	}
	pthread_mutex_unlock(&handlers_lock);
}

int fault_thread(void)
{
	static __thread bool is_done;
	sigset_t set;

	if (is_done)
		return 0;
	/* Entries for writing are KIND_SIZE from those that r11 leads to. */
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, KIND_SIZE))
		return -errno;
	sigemptyset(&set);
	for (unsigned n = 0; n < NR_STOP_SIGNALS; n++)
		sigaddset(&set, stop_signals[n]);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	is_done = true;
	return 0;
}
