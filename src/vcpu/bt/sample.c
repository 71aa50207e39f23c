/*
 * Where a CPU's time goes: the guest's user mode, the guest's kernel, or the
 * VMM (gates, translation, call-outs, devices).
 *
 * Each way into and out of translated code costs too little to read a clock
 * there. Instead a timer of the thread's own CPU time interrupts it, 250 times
 * a second of that time, and its handler looks at where it was: some
 * microseconds in four milliseconds, 0.05 % of it. A CPU that sleeps is not
 * interrupted.
 */
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vcpu/bt/bt.h"

#define INTERVAL_NS 4000000

/* The CPU of this thread, while it is in run(). */
static __thread struct bt *volatile sampled;

static void on_sample(int sig, siginfo_t *info, void *context)
{
	const greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct bt *bt = sampled;

	if (!bt)
		return;
	if (!bt_is_block(bt, (uint64_t)regs[REG_RIP]))
		bt->stats.samples_vmm++;
	else if (bt->cpu.cpl == 3)
		bt->stats.samples_user++;
	else
		bt->stats.samples_kernel++;
}

/* Take the signal, unless somebody else has it. */
static bool handler_install(void)
{
	struct sigaction sa = { .sa_sigaction = on_sample,
				.sa_flags =
					SA_SIGINFO | SA_RESTART | SA_ONSTACK };
	struct sigaction now;

	if (sigaction(SIGPROF, NULL, &now) < 0)
		return false;
	if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sample)
		return true;
	if ((now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL)
		return false;
	sigfillset(&sa.sa_mask);
	return sigaction(SIGPROF, &sa, NULL) == 0;
}

static void sampler_start(struct bt *bt, int tid)
{
	const struct timespec interval = { .tv_nsec = INTERVAL_NS };
	const struct itimerspec its = { interval, interval };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID,
			       .sigev_signo = SIGPROF };
	sigset_t set;

	sample_destroy(bt);
	/* Also where it fails: it is not tried again. */
	bt->sampler.tid = -tid;
	ev._sigev_un._tid = tid;
	if (!handler_install() ||
	    timer_create(CLOCK_THREAD_CPUTIME_ID, &ev, &bt->sampler.timer) < 0)
		return;
	bt->sampler.tid = tid;
	sigemptyset(&set);
	sigaddset(&set, SIGPROF);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	timer_settime(bt->sampler.timer, 0, &its, NULL);
}

void sample_enter(struct bt *bt)
{
	static __thread int tid;

	if (!tid)
		tid = (int)syscall(SYS_gettid);
	sampled = bt;
	if (bt->sampler.tid != tid && bt->sampler.tid != -tid)
		sampler_start(bt, tid);
}

void sample_leave(void)
{
	sampled = NULL;
}

void sample_destroy(struct bt *bt)
{
	if (bt->sampler.tid > 0)
		timer_delete(bt->sampler.timer);
	bt->sampler.tid = 0;
}
