/*
 * The event loop.
 *
 * One turn: wait in epoll_wait() unless work is queued, call the descriptors
 * that are ready, then the works that were queued when their turn began. A work
 * that a callback posts thus runs before the next wait, which lets a producer
 * gather what one callback brings and hand it to the host in one piece.
 *
 * An event names its watch by descriptor and generation, never by pointer, and
 * is looked up when its callback is due. So a watch may go away at any time,
 * on any thread, and events of it that were already fetched are recognised as
 * stale, even where the descriptor's number was used again.
 *
 * (lock) guards everything but the counters, which belong to the loop's
 * thread. No callback runs with it held; (running) says whose callback runs,
 * for those that wait for its end.
 */
#include "host/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/log.h"
#include "host/clock.h"
#include "host/thread.h"

/* A callback longer than this is a defect worth knowing (C20). */
#define SLOW_NS (50 * NSEC_PER_MSEC)

/* Events fetched in one turn. */
#define BATCH 64

/* IDLE -> RUNNING -> ENDING, which serves the last works -> IDLE. */
enum loop_state { LOOP_IDLE, LOOP_RUNNING, LOOP_ENDING };

/* Who watches the descriptor that is this entry's index. */
struct watch {
	struct loop_fd *w;
	uint32_t generation;
};

struct loop {
	char name[16];
	int epoll_fd;
	struct loop_fd wake, timer;
	pthread_t thread; /* of loop_thread_create() */
	_Atomic bool must_stop;
	_Atomic(pthread_t) runner; /* 0: none */

	pthread_mutex_t lock; /* what follows */
	pthread_cond_t changed;
	enum loop_state state;
	bool is_waiting; /* in epoll_wait(), or nearly */
	struct list works;
	const void *running; /* the loop_fd or loop_work that is called now */
	struct watch *watches;
	size_t nr_watches;
	uint32_t generation;
	int64_t timer_ns;
	void (*timer_fn)(void *opaque);
	void *timer_opaque;

	struct loop_stats stats;
	struct stats_group stats_group;
	bool has_told; /* of a slow callback */
};

static void wake(struct loop *loop)
{
	uint64_t one = 1;

	/* Fails only when the counter is full, which wakes as well. */
	if (write(loop->wake.fd, &one, sizeof(one)) < 0)
		return;
}

static void wake_ready(void *opaque, uint32_t events)
{
	struct loop *loop = opaque;
	uint64_t count;

	if (read(loop->wake.fd, &count, sizeof(count)) < 0)
		return;
}

/* The timer may have been set anew since it fired; then it fires again. */
static void timer_ready(void *opaque, uint32_t events)
{
	struct loop *loop = opaque;
	void (*fn)(void *opaque) = NULL;
	void *fn_opaque = NULL;
	uint64_t count;

	pthread_mutex_lock(&loop->lock);
	if (read(loop->timer.fd, &count, sizeof(count)) == sizeof(count) &&
	    loop->timer_ns <= clock_now_ns()) {
		fn = loop->timer_fn;
		fn_opaque = loop->timer_opaque;
		loop->timer_ns = INT64_MAX;
	}
	pthread_mutex_unlock(&loop->lock);
	if (fn)
		fn(fn_opaque);
}

int loop_create(struct loop **out, const char *name, struct err *err)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int r;

	if (!loop)
		return err_set(err, ENOMEM, NULL, "cannot make a loop:");
	snprintf(loop->name, sizeof(loop->name), "%s", name);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->changed, NULL);
	list_init(&loop->works);
	list_init(&loop->stats_group.link);
	loop->timer_ns = INT64_MAX;
	loop->wake.fn = wake_ready;
	loop->timer.fn = timer_ready;
	loop->wake.opaque = loop->timer.opaque = loop;

	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop->timer.fd =
		timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (loop->epoll_fd < 0 || loop->wake.fd < 0 || loop->timer.fd < 0)
		r = -errno;
	else
		r = loop_watch(loop, &loop->wake, EPOLLIN);
	if (!r)
		r = loop_watch(loop, &loop->timer, EPOLLIN);
	if (r < 0) {
		err_set(err, -r, NULL, "cannot make loop '%s':", name);
		loop_destroy(loop);
		return r;
	}
	*out = loop;
	return 0;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void loop_destroy(struct loop *loop)
{
	vm_assert(loop->state == LOOP_IDLE);
	stats_remove(&loop->stats_group);
	close_if_open(loop->timer.fd);
	close_if_open(loop->wake.fd);
	close_if_open(loop->epoll_fd);
	pthread_cond_destroy(&loop->changed);
	pthread_mutex_destroy(&loop->lock);
	free(loop->watches);
	free(loop);
}

/* A callback begins; call with the lock held, returns without it. */
static int64_t callback_begin(struct loop *loop, const void *what)
{
	loop->running = what;
	pthread_mutex_unlock(&loop->lock);
	return clock_now_ns();
}

/* It ended; returns with the lock held. */
static void callback_end(struct loop *loop, int64_t start_ns)
{
	int64_t took_ns = clock_now_ns() - start_ns;

	if (took_ns > (int64_t)loop->stats.longest_ns)
		loop->stats.longest_ns = took_ns;
	if (unlikely(took_ns > SLOW_NS)) {
		loop->stats.slow++;
		if (!loop->has_told)
			log_debug("loop '%s': a callback took %lld ms",
				  loop->name,
				  (long long)(took_ns / NSEC_PER_MSEC));
		loop->has_told = true;
	}
	pthread_mutex_lock(&loop->lock);
	loop->running = NULL;
	pthread_cond_broadcast(&loop->changed);
}

/* Lock held; released during the callback. */
static void dispatch(struct loop *loop, const struct epoll_event *event)
{
	uint32_t fd = event->data.u64, generation = event->data.u64 >> 32;
	struct watch *watch = &loop->watches[fd];
	struct loop_fd *w = watch->w;
	uint32_t events;
	int64_t start_ns;

	if (!w || watch->generation != generation)
		return;
	events = event->events & (w->events | EPOLLERR | EPOLLHUP);
	if (!events)
		return;
	loop->stats.callbacks++;
	start_ns = callback_begin(loop, w);
	w->fn(w->opaque, events);
	callback_end(loop, start_ns);
}

/* Lock held; released during the callbacks. A work that was posted since the
 * batch began waits for the next turn, so that descriptors have theirs. A
 * callback may be in loop_serve(), which takes from the same list. */
static void run_works(struct loop *loop)
{
	struct loop_work *work;
	unsigned nr = 0;
	int64_t start_ns;

	list_for_each (work, &loop->works, link)
		nr++;
	while (nr-- && !list_is_empty(&loop->works)) {
		work = list_entry(loop->works.next, struct loop_work, link);
		list_remove(&work->link);
		work->is_queued = false;
		loop->stats.works++;
		start_ns = callback_begin(loop, work);
		work->fn(work->opaque);
		callback_end(loop, start_ns);
	}
}

void loop_serve(struct loop *loop)
{
	const void *outer;

	pthread_mutex_lock(&loop->lock);
	outer = loop->running;
	run_works(loop);
	loop->running = outer;
	pthread_mutex_unlock(&loop->lock);
}

void loop_run(struct loop *loop)
{
	struct epoll_event events[BATCH];
	int n, timeout_ms;

	pthread_mutex_lock(&loop->lock);
	loop->state = LOOP_RUNNING;
	atomic_store(&loop->runner, pthread_self());
	while (!atomic_load(&loop->must_stop)) {
		loop->is_waiting = list_is_empty(&loop->works);
		timeout_ms = loop->is_waiting ? -1 : 0;
		pthread_mutex_unlock(&loop->lock);
		n = epoll_wait(loop->epoll_fd, events, BATCH, timeout_ms);
		vm_assert(n >= 0 || errno == EINTR);
		pthread_mutex_lock(&loop->lock);
		loop->is_waiting = false;
		loop->stats.wakeups++;
		for (int i = 0; i < n; i++)
			dispatch(loop, &events[i]);
		run_works(loop);
	}
	/* Whoever waits in loop_call() is served. */
	loop->state = LOOP_ENDING;
	run_works(loop);
	loop->state = LOOP_IDLE;
	atomic_store(&loop->must_stop, false);
	atomic_store(&loop->runner, 0);
	pthread_cond_broadcast(&loop->changed);
	pthread_mutex_unlock(&loop->lock);
}

void loop_stop(struct loop *loop)
{
	int saved_errno = errno; /* of the code that a signal interrupted */

	atomic_store(&loop->must_stop, true);
	wake(loop);
	errno = saved_errno;
}

static void *loop_thread(void *opaque)
{
	loop_run(opaque);
	return NULL;
}

int loop_thread_create(struct loop **out, const char *name, struct err *err)
{
	int r = loop_create(out, name, err);

	if (r < 0)
		return r;
	/* Already: a loop_call() before the thread comes to run must wait. */
	(*out)->state = LOOP_RUNNING;
	r = thread_create(&(*out)->thread, name, loop_thread, *out, err);
	if (r < 0) {
		(*out)->state = LOOP_IDLE;
		loop_destroy(*out);
		*out = NULL;
	}
	return r;
}

void loop_thread_destroy(struct loop *loop)
{
	loop_stop(loop);
	pthread_join(loop->thread, NULL);
	loop_destroy(loop);
}

bool loop_is_current(struct loop *loop)
{
	return atomic_load(&loop->runner) == pthread_self();
}

/* Lock held. Make the table reach (fd). */
static int grow_watches(struct loop *loop, int fd)
{
	size_t nr = MAX((size_t)fd + 1, loop->nr_watches * 2);
	struct watch *watches;

	if ((size_t)fd < loop->nr_watches)
		return 0;
	watches = realloc(loop->watches, nr * sizeof(*watches));
	if (!watches)
		return -ENOMEM;
	memset(watches + loop->nr_watches, 0,
	       (nr - loop->nr_watches) * sizeof(*watches));
	loop->watches = watches;
	loop->nr_watches = nr;
	return 0;
}

/* Lock held. Take (w) out of the epoll set. */
static void disarm(struct loop *loop, struct loop_fd *w)
{
	if (!w->events)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	loop->watches[w->fd].w = NULL;
	w->events = 0;
}

/* Lock held. Put (w) into the epoll set, or change its events there. */
static int arm(struct loop *loop, struct loop_fd *w, uint32_t events)
{
	struct epoll_event event = { .events = events };
	int r, op = w->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
	struct watch *watch;

	r = grow_watches(loop, w->fd);
	if (r < 0)
		return r;
	watch = &loop->watches[w->fd];
	if (op == EPOLL_CTL_ADD)
		watch->generation = ++loop->generation;
	event.data.u64 = (uint64_t)watch->generation << 32 | (uint32_t)w->fd;
	if (epoll_ctl(loop->epoll_fd, op, w->fd, &event))
		return -errno;
	watch->w = w;
	w->events = events;
	return 0;
}

int loop_watch(struct loop *loop, struct loop_fd *w, uint32_t events)
{
	int r = 0;

	pthread_mutex_lock(&loop->lock);
	vm_assert(!w->loop || w->loop == loop);
	if (!w->loop)
		w->events = 0;
	/* Not an empty mask: epoll reports EPOLLHUP and EPOLLERR even so. */
	if (!events)
		disarm(loop, w);
	else if (events != w->events)
		r = arm(loop, w, events);
	if (!r)
		__atomic_store_n(&w->loop, loop, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&loop->lock);
	return r;
}

/* Lock held, and released while waiting. */
static void wait_for_end(struct loop *loop, const void *what)
{
	if (loop_is_current(loop))
		return;
	while (loop->running == what)
		pthread_cond_wait(&loop->changed, &loop->lock);
}

void loop_unwatch(struct loop_fd *w)
{
	struct loop *loop = __atomic_load_n(&w->loop, __ATOMIC_ACQUIRE);

	if (!loop)
		return;
	pthread_mutex_lock(&loop->lock);
	disarm(loop, w);
	wait_for_end(loop, w);
	/* Again: its last call may have watched it. */
	disarm(loop, w);
	__atomic_store_n(&w->loop, NULL, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&loop->lock);
}

/* Lock held. */
static void post_locked(struct loop *loop, struct loop_work *work)
{
	if (work->is_queued)
		return;
	work->is_queued = true;
	list_insert(&loop->works, &work->link);
	/* One signal is enough for all that comes until the loop wakes. */
	if (loop->is_waiting) {
		loop->is_waiting = false;
		wake(loop);
	}
}

void loop_post(struct loop *loop, struct loop_work *work)
{
	pthread_mutex_lock(&loop->lock);
	post_locked(loop, work);
	pthread_mutex_unlock(&loop->lock);
}

void loop_unpost(struct loop *loop, struct loop_work *work)
{
	pthread_mutex_lock(&loop->lock);
	do {
		if (work->is_queued) {
			list_remove(&work->link);
			work->is_queued = false;
		}
		wait_for_end(loop, work);
	} while (work->is_queued); /* its last run posted it again */
	pthread_mutex_unlock(&loop->lock);
}

/* One loop_call() under way. */
struct call {
	struct loop_work work;
	struct loop *loop;
	void (*fn)(void *opaque);
	void *opaque;
	bool is_done;
};

static void call_run(void *opaque)
{
	struct call *call = opaque;

	call->fn(call->opaque);
	pthread_mutex_lock(&call->loop->lock);
	call->is_done = true;
	pthread_cond_broadcast(&call->loop->changed);
	pthread_mutex_unlock(&call->loop->lock);
}

void loop_call(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
	struct call call = { .loop = loop, .fn = fn, .opaque = opaque };

	if (loop_is_current(loop)) {
		fn(opaque);
		return;
	}
	call.work = (struct loop_work){ .fn = call_run, .opaque = &call };
	pthread_mutex_lock(&loop->lock);
	while (loop->state == LOOP_ENDING)
		pthread_cond_wait(&loop->changed, &loop->lock);
	if (loop->state == LOOP_IDLE) {
		pthread_mutex_unlock(&loop->lock);
		fn(opaque);
		return;
	}
	post_locked(loop, &call.work);
	while (!call.is_done)
		pthread_cond_wait(&loop->changed, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}

void loop_timer(struct loop *loop, int64_t host_ns, void (*fn)(void *opaque),
		void *opaque)
{
	struct itimerspec when = { 0 };
	int64_t ns = MAX(host_ns, 1); /* 0 would disarm it */

	if (host_ns != INT64_MAX) {
		when.it_value.tv_sec = ns / NSEC_PER_SEC;
		when.it_value.tv_nsec = ns % NSEC_PER_SEC;
	}
	pthread_mutex_lock(&loop->lock);
	loop->timer_fn = fn;
	loop->timer_opaque = opaque;
	if (host_ns != loop->timer_ns) {
		loop->timer_ns = host_ns;
		timerfd_settime(loop->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
	}
	pthread_mutex_unlock(&loop->lock);
}

const struct loop_stats *loop_stats(const struct loop *loop)
{
	return &loop->stats;
}

void loop_add_stats(struct loop *loop, struct stats *stats)
{
	static const struct stat_desc descs[] = {
		STAT(struct loop_stats, wakeups),
		STAT(struct loop_stats, callbacks),
		STAT(struct loop_stats, works),
		STAT(struct loop_stats, longest_ns),
		STAT(struct loop_stats, slow),
		{ 0 },
	};
	char name[sizeof(loop->stats_group.name)];

	snprintf(name, sizeof(name), "loop.%s", loop->name);
	stats_add(stats, &loop->stats_group, name, descs, &loop->stats);
}
