/* The event loop: descriptors, works, timers, and all of it across threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "host/clock.h"
#include "host/loop.h"

static void sleep_ms(unsigned ms)
{
	struct timespec ts = { .tv_nsec = ms * NSEC_PER_MSEC };

	nanosleep(&ts, NULL);
}

/* Stands in for libc's, to refuse a thread. */
static bool refuses_threads;

int pthread_create(pthread_t *thread, const pthread_attr_t *attr,
		   void *(*fn)(void *), void *opaque)
{
	__typeof__(pthread_create) *real = NULL;

	if (refuses_threads)
		return EAGAIN;
	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	return real(thread, attr, fn, opaque);
}

static struct loop *make_thread_loop(void)
{
	struct err err = { 0 };
	struct loop *loop;

	assert_int_equal(loop_thread_create(&loop, "test", &err), 0);
	return loop;
}

static struct loop *make_loop(void)
{
	struct err err = { 0 };
	struct loop *loop;

	assert_int_equal(loop_create(&loop, "test", &err), 0);
	return loop;
}

/* --- one thread --------------------------------------------------------- */

struct pair {
	struct loop *loop;
	struct loop_fd w, other;
	int far, other_far;
	unsigned nr_calls, nr_other;
	uint32_t events;
};

static void stop_loop(void *opaque)
{
	loop_stop(opaque);
}

/* Run for a moment; what is ready is called. */
static void run_ms(struct loop *loop, unsigned ms)
{
	loop_timer(loop, clock_now_ns() + ms * NSEC_PER_MSEC, stop_loop, loop);
	loop_run(loop);
}

static void count_and_read(void *opaque, uint32_t events)
{
	struct pair *pair = opaque;
	char c;

	pair->nr_calls++;
	pair->events = events;
	if (read(pair->w.fd, &c, 1) <= 0)
		loop_watch(pair->loop, &pair->w, 0);
}

static void pair_open(struct pair *pair, struct loop *loop)
{
	int fds[2];

	memset(pair, 0, sizeof(*pair));
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	pair->loop = loop;
	pair->w.fd = fds[0];
	pair->far = fds[1];
	pair->w.fn = count_and_read;
	pair->w.opaque = pair;
}

static void pair_close(struct pair *pair)
{
	loop_unwatch(&pair->w);
	close(pair->w.fd);
	close(pair->far);
}

static void watch_pause_and_change(void **state)
{
	struct loop *loop = make_loop();
	struct pair pair;

	pair_open(&pair, loop);
	assert_int_equal(loop_watch(loop, &pair.w, EPOLLIN), 0);
	assert_int_equal(write(pair.far, "ab", 2), 2);
	run_ms(loop, 5);
	assert_int_equal(pair.nr_calls, 2);
	assert_true(pair.events & EPOLLIN);

	assert_int_equal(loop_watch(loop, &pair.w, 0), 0);
	assert_int_equal(write(pair.far, "c", 1), 1);
	run_ms(loop, 5);
	assert_int_equal(pair.nr_calls, 2);

	assert_int_equal(loop_watch(loop, &pair.w, EPOLLIN), 0);
	run_ms(loop, 5);
	assert_int_equal(pair.nr_calls, 3);
	pair_close(&pair);
	loop_destroy(loop);
}

/* A paused watch of a peer that is gone does not make the loop spin. */
static void paused_hang_up_is_quiet(void **state)
{
	struct loop *loop = make_loop();
	struct pair pair;
	uint64_t before;

	pair_open(&pair, loop);
	assert_int_equal(loop_watch(loop, &pair.w, EPOLLIN), 0);
	shutdown(pair.far, SHUT_RDWR);
	run_ms(loop, 5); /* reads the end, pauses */
	assert_int_equal(pair.nr_calls, 1);
	before = loop_stats(loop)->wakeups;
	run_ms(loop, 20);
	assert_true(loop_stats(loop)->wakeups - before < 5);
	pair_close(&pair);
	loop_destroy(loop);
}

static void unwatch_other(void *opaque, uint32_t events)
{
	struct pair *pair = opaque;

	pair->nr_calls++;
	loop_unwatch(&pair->w);
	loop_unwatch(&pair->other);
}

/* Both are ready in one batch; whoever is first unwatches the other. */
static void unwatch_in_batch(void **state)
{
	struct loop *loop = make_loop();
	struct pair pair = { .loop = loop };

	pair.w.fd = eventfd(1, EFD_NONBLOCK);
	pair.other.fd = eventfd(1, EFD_NONBLOCK);
	pair.w.fn = pair.other.fn = unwatch_other;
	pair.w.opaque = pair.other.opaque = &pair;
	assert_int_equal(loop_watch(loop, &pair.w, EPOLLIN), 0);
	assert_int_equal(loop_watch(loop, &pair.other, EPOLLIN), 0);
	run_ms(loop, 5);
	assert_int_equal(pair.nr_calls, 1);
	close(pair.w.fd);
	close(pair.other.fd);
	loop_destroy(loop);
}

static void watch_errors(void **state)
{
	struct loop *loop = make_loop();
	struct loop_fd w = { .fd = -1 };
	char path[] = "/tmp/ringer-loop-XXXXXX";

	loop_unwatch(&w);
	w.fd = mkstemp(path);
	assert_true(w.fd >= 0);
	unlink(path);
	assert_int_equal(loop_watch(loop, &w, EPOLLIN), -EPERM);
	assert_null(w.loop);
	close(w.fd);
	assert_int_equal(loop_watch(loop, &w, EPOLLIN), -EBADF);
	loop_destroy(loop);
}

struct timed {
	struct loop *loop;
	int64_t at_ns;
	unsigned nr_calls;
};

static void note_time(void *opaque)
{
	struct timed *timed = opaque;

	timed->nr_calls++;
	timed->at_ns = clock_now_ns();
	loop_stop(timed->loop);
}

static void timer_fires_once_in_time(void **state)
{
	struct loop *loop = make_loop();
	struct timed timed = { .loop = loop };
	int64_t due_ns = clock_now_ns() + 10 * NSEC_PER_MSEC;

	loop_timer(loop, due_ns + NSEC_PER_SEC, note_time, &timed);
	loop_timer(loop, due_ns, note_time, &timed);
	loop_run(loop);
	assert_int_equal(timed.nr_calls, 1);
	assert_true(timed.at_ns >= due_ns);

	/* In the past, and at 0: at once. */
	loop_timer(loop, 0, note_time, &timed);
	loop_run(loop);
	assert_int_equal(timed.nr_calls, 2);

	loop_timer(loop, clock_now_ns() + NSEC_PER_MSEC, note_time, &timed);
	loop_timer(loop, INT64_MAX, note_time, &timed);
	loop_stop(loop);
	sleep_ms(3);
	loop_run(loop);
	assert_int_equal(timed.nr_calls, 2);
	loop_destroy(loop);
}

struct counter {
	struct loop *loop;
	struct loop_work work;
	unsigned nr_runs, nr_again;
	pthread_t thread;
};

static void count_run(void *opaque)
{
	struct counter *counter = opaque;

	counter->nr_runs++;
	counter->thread = pthread_self();
	if (counter->nr_runs < counter->nr_again)
		loop_post(counter->loop, &counter->work);
}

static void post_twice_is_once(void **state)
{
	struct loop *loop = make_loop();
	struct counter a = { .loop = loop,
			     .work = { .fn = count_run, .opaque = &a } };
	struct counter b = { .loop = loop,
			     .work = { .fn = count_run, .opaque = &b },
			     .nr_again = 3 };

	loop_post(loop, &a.work);
	loop_post(loop, &a.work);
	loop_post(loop, &b.work);
	run_ms(loop, 5);
	assert_int_equal(a.nr_runs, 1);
	assert_int_equal(b.nr_runs, 3);

	loop_post(loop, &a.work);
	loop_unpost(loop, &a.work);
	loop_unpost(loop, &a.work);
	run_ms(loop, 5);
	assert_int_equal(a.nr_runs, 1);

	/* What was posted before the end runs, even where it ends at once. */
	loop_post(loop, &a.work);
	loop_stop(loop);
	loop_run(loop);
	assert_int_equal(a.nr_runs, 2);
	loop_destroy(loop);
}

/* --- several threads ---------------------------------------------------- */

static void call_runs_there(void **state)
{
	struct loop *loop = make_thread_loop(), *idle = make_loop();
	struct counter counter = { .loop = loop };

	for (int i = 0; i < 1000; i++)
		loop_call(loop, count_run, &counter);
	assert_int_equal(counter.nr_runs, 1000);
	assert_false(pthread_equal(counter.thread, pthread_self()));
	assert_false(loop_is_current(loop));

	loop_call(idle, count_run, &counter);
	assert_true(pthread_equal(counter.thread, pthread_self()));
	loop_thread_destroy(loop);
	loop_destroy(idle);
}

static void *stop_soon(void *opaque)
{
	sleep_ms(2);
	loop_stop(opaque);
	return NULL;
}

/* A loop that ends serves whoever waits for it; later calls run here. */
static void call_while_ending(void **state)
{
	struct loop *loop = make_loop();
	struct counter counter = { .loop = loop };

	for (int i = 0; i < 20; i++) {
		pthread_t stopper;

		loop_thread_destroy(make_thread_loop());
		pthread_create(&stopper, NULL, stop_soon, loop);
		loop_run(loop);
		pthread_join(stopper, NULL);
		loop_call(loop, count_run, &counter);
	}
	assert_int_equal(counter.nr_runs, 20);
	loop_destroy(loop);
}

#define NR_POSTERS 4
#define NR_POSTS   20000

struct poster {
	struct loop *loop;
	struct loop_work work;
	unsigned posted;
	unsigned seen; /* the loop's thread */
	unsigned nr_runs;
};

static void note_seen(void *opaque)
{
	struct poster *poster = opaque;

	poster->seen = __atomic_load_n(&poster->posted, __ATOMIC_ACQUIRE);
	poster->nr_runs++;
}

static void *post_many(void *opaque)
{
	struct poster *poster = opaque;

	for (int i = 0; i < NR_POSTS; i++) {
		__atomic_fetch_add(&poster->posted, 1, __ATOMIC_RELEASE);
		loop_post(poster->loop, &poster->work);
	}
	return NULL;
}

static void nothing(void *opaque)
{
}

/* No post is lost: the last run of each has seen the last count. */
static void posts_from_many_threads(void **state)
{
	struct loop *loop = make_thread_loop();
	struct poster posters[NR_POSTERS] = { 0 };
	pthread_t threads[NR_POSTERS];

	for (int i = 0; i < NR_POSTERS; i++) {
		posters[i].loop = loop;
		posters[i].work.fn = note_seen;
		posters[i].work.opaque = &posters[i];
		pthread_create(&threads[i], NULL, post_many, &posters[i]);
	}
	for (int i = 0; i < NR_POSTERS; i++)
		pthread_join(threads[i], NULL);
	loop_call(loop, nothing, NULL);
	for (int i = 0; i < NR_POSTERS; i++) {
		assert_int_equal(posters[i].seen, NR_POSTS);
		assert_true(posters[i].nr_runs <= NR_POSTS);
	}
	loop_thread_destroy(loop);
}

struct slow {
	struct loop_fd w;
	struct loop_work work;
	bool is_inside, was_called;
};

static void slow_body(struct slow *slow)
{
	__atomic_store_n(&slow->is_inside, true, __ATOMIC_RELEASE);
	__atomic_store_n(&slow->was_called, true, __ATOMIC_RELEASE);
	sleep_ms(2);
	__atomic_store_n(&slow->is_inside, false, __ATOMIC_RELEASE);
}

static void slow_ready(void *opaque, uint32_t events)
{
	slow_body(opaque);
}

static void slow_work(void *opaque)
{
	slow_body(opaque);
}

static void wait_called(struct slow *slow)
{
	while (!__atomic_load_n(&slow->was_called, __ATOMIC_ACQUIRE))
		sched_yield();
}

/* After loop_unwatch() the callback neither runs nor will: the watch can be
 * freed. Descriptors are used again at once, so stale events would show. */
static void unwatch_from_another_thread(void **state)
{
	struct loop *loop = make_thread_loop();

	for (int i = 0; i < 200; i++) {
		struct slow *slow = calloc(1, sizeof(*slow));

		slow->w.fd = eventfd(1, EFD_NONBLOCK);
		slow->w.fn = slow_ready;
		slow->w.opaque = slow;
		assert_int_equal(loop_watch(loop, &slow->w, EPOLLIN), 0);
		if (i % 2)
			wait_called(slow);
		loop_unwatch(&slow->w);
		assert_false(slow->is_inside);
		close(slow->w.fd);
		free(slow);
	}
	loop_thread_destroy(loop);
}

static void unpost_from_another_thread(void **state)
{
	struct loop *loop = make_thread_loop();

	for (int i = 0; i < 200; i++) {
		struct slow *slow = calloc(1, sizeof(*slow));

		slow->work.fn = slow_work;
		slow->work.opaque = slow;
		loop_post(loop, &slow->work);
		if (i % 2)
			wait_called(slow);
		loop_unpost(loop, &slow->work);
		assert_false(slow->is_inside);
		free(slow);
	}
	loop_thread_destroy(loop);
}

static struct loop *signalled;

static void stop_from_handler(int signum)
{
	loop_stop(signalled);
}

static void stop_from_a_signal(void **state)
{
	struct sigaction action = { .sa_handler = stop_from_handler }, old;

	signalled = make_loop();
	sigaction(SIGALRM, &action, &old);
	alarm(1);
	loop_run(signalled);
	sigaction(SIGALRM, &old, NULL);
	loop_destroy(signalled);
}

static void block_60_ms(void *opaque)
{
	sleep_ms(60);
}

static void c20_longest_callback_is_measured(void **state)
{
	struct loop *loop = make_thread_loop();
	struct stats stats;
	uint64_t longest_ns = 0;
	struct stats_group *group;

	stats_init(&stats);
	loop_add_stats(loop, &stats);
	loop_call(loop, block_60_ms, NULL);
	loop_call(loop, nothing, NULL);
	assert_true(loop_stats(loop)->slow >= 1);
	group = list_entry(stats.groups.next, struct stats_group, link);
	assert_string_equal(group->name, "loop.test");
	for (const struct stat_desc *d = group->descs; d->name; d++)
		if (!strcmp(d->name, "longest_ns"))
			longest_ns = stats_read(group, d);
	assert_true(longest_ns >= 60 * (uint64_t)NSEC_PER_MSEC);
	loop_thread_destroy(loop);
	assert_true(list_is_empty(&stats.groups));
}

/* Both clocks at one moment: again where the thread was away in between. */
static void read_clocks(int64_t *ns, uint64_t *tsc)
{
	do {
		*ns = clock_now_ns();
		*tsc = clock_tsc();
	} while (clock_now_ns() - *ns > 20 * NSEC_PER_USEC);
}

static void clocks_agree(void **state)
{
	uint32_t khz = clock_tsc_khz();
	uint64_t tsc_before, tsc_after;
	int64_t ns_before, ns_after;
	double ratio;

	assert_int_equal(clock_tsc_khz(), khz);
	read_clocks(&ns_before, &tsc_before);
	sleep_ms(50);
	read_clocks(&ns_after, &tsc_after);
	ratio = (double)(tsc_after - tsc_before) / khz * 1e6 /
		(ns_after - ns_before);
	assert_true(ratio > 0.999 && ratio < 1.001);
}

/* A caller that cleans up what it has must not find it. */
static void a_refused_thread_leaves_nothing(void **state)
{
	struct err err = { 0 };
	struct loop *loop = NULL;

	refuses_threads = true;
	assert_int_equal(loop_thread_create(&loop, "test", &err), -EAGAIN);
	refuses_threads = false;
	assert_null(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(watch_pause_and_change),
		cmocka_unit_test(paused_hang_up_is_quiet),
		cmocka_unit_test(unwatch_in_batch),
		cmocka_unit_test(watch_errors),
		cmocka_unit_test(timer_fires_once_in_time),
		cmocka_unit_test(post_twice_is_once),
		cmocka_unit_test(call_runs_there),
		cmocka_unit_test(call_while_ending),
		cmocka_unit_test(posts_from_many_threads),
		cmocka_unit_test(unwatch_from_another_thread),
		cmocka_unit_test(unpost_from_another_thread),
		cmocka_unit_test(stop_from_a_signal),
		cmocka_unit_test(c20_longest_callback_is_measured),
		cmocka_unit_test(clocks_agree),
		cmocka_unit_test(a_refused_thread_leaves_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
