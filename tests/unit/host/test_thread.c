/* Threads and the pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/thread.h"

struct report {
	sigset_t mask;
};

static void *report(void *opaque)
{
	struct report *r = opaque;

	pthread_sigmask(SIG_BLOCK, NULL, &r->mask);
	return NULL;
}

static void signals_stay_away_from_threads(void **state)
{
	struct report r;
	struct err err = { 0 };
	sigset_t before, after;
	pthread_t thread;

	pthread_sigmask(SIG_BLOCK, NULL, &before);
	assert_int_equal(thread_create(&thread, "a name that is too long",
				       report, &r, &err),
			 0);
	pthread_join(thread, NULL);
	pthread_sigmask(SIG_BLOCK, NULL, &after);
	assert_int_equal(sigismember(&r.mask, SIGTERM), 1);
	assert_int_equal(sigismember(&r.mask, SIGWINCH), 1);
	assert_int_equal(sigismember(&r.mask, SIGPIPE), 1);
	assert_int_equal(sigismember(&r.mask, SIGSEGV), 0);
	assert_int_equal(sigismember(&r.mask, SIGUSR1), 0);
	assert_int_equal(sigismember(&after, SIGTERM),
			 sigismember(&before, SIGTERM));
}

#define NR_WORKS 20000

struct job {
	struct pool_work work;
	unsigned nr_runs;
	unsigned *total;
};

static void run_job(struct pool_work *work)
{
	struct job *job = container_of(work, struct job, work);

	job->nr_runs++;
	__atomic_fetch_add(job->total, 1, __ATOMIC_RELAXED);
}

static void each_work_runs_once(void **state)
{
	struct job *jobs = calloc(NR_WORKS, sizeof(*jobs));
	struct thread_pool *pool;
	struct err err = { 0 };
	unsigned total = 0;

	assert_int_equal(thread_pool_create(&pool, 8, &err), 0);
	for (int i = 0; i < NR_WORKS; i++) {
		jobs[i].work.fn = run_job;
		jobs[i].total = &total;
		thread_pool_submit(pool, &jobs[i].work);
	}
	thread_pool_destroy(pool); /* finishes them */
	assert_int_equal(total, NR_WORKS);
	for (int i = 0; i < NR_WORKS; i++)
		assert_int_equal(jobs[i].nr_runs, 1);
	free(jobs);
}

struct sleeper {
	struct pool_work work;
	unsigned *now, *most;
};

static void sleep_a_little(struct pool_work *work)
{
	struct sleeper *s = container_of(work, struct sleeper, work);
	struct timespec ts = { .tv_nsec = 20 * NSEC_PER_MSEC };
	unsigned now = __atomic_add_fetch(s->now, 1, __ATOMIC_SEQ_CST);
	unsigned most = __atomic_load_n(s->most, __ATOMIC_SEQ_CST);

	while (now > most &&
	       !__atomic_compare_exchange_n(s->most, &most, now, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		;
	nanosleep(&ts, NULL);
	__atomic_sub_fetch(s->now, 1, __ATOMIC_SEQ_CST);
}

/* Calls that block do so side by side, up to the limit. */
static void works_run_side_by_side(void **state)
{
	struct sleeper sleepers[16];
	struct thread_pool *pool;
	struct err err = { 0 };
	unsigned now = 0, most = 0;

	assert_int_equal(thread_pool_create(&pool, 4, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(sleepers); i++) {
		sleepers[i].work.fn = sleep_a_little;
		sleepers[i].now = &now;
		sleepers[i].most = &most;
		thread_pool_submit(pool, &sleepers[i].work);
	}
	thread_pool_destroy(pool);
	assert_int_equal(most, 4);
}

static void pool_without_threads_still_works(void **state)
{
	struct thread_pool *pool;
	struct err err = { 0 };
	unsigned total = 0;
	struct job job = { .work.fn = run_job, .total = &total };

	/* Stands for a host that starts no thread. */
	assert_int_equal(thread_pool_create(&pool, 0, &err), 0);
	thread_pool_submit(pool, &job.work);
	assert_int_equal(total, 1);
	thread_pool_destroy(pool);
	thread_pool_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(signals_stay_away_from_threads),
		cmocka_unit_test(each_work_runs_once),
		cmocka_unit_test(works_run_side_by_side),
		cmocka_unit_test(pool_without_threads_still_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
