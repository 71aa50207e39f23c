/*
 * The event loop: descriptors, work posted from other threads, a timer. The
 * main thread runs one; each worker thread of a device runs one of its own.
 *
 * A callback runs on the loop's thread and must not block: the loop measures
 * the longest one, and says so once when it exceeds the limit (C20).
 */
#ifndef HOST_LOOP_H
#define HOST_LOOP_H

#include <sys/epoll.h>

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"
#include "base/stats.h"

struct loop;

/** Something that a loop calls when (fd) has (events), of EPOLLIN etc.;
 * embedded by its owner. */
struct loop_fd {
	int fd;
	void (*fn)(void *opaque, uint32_t events);
	void *opaque;
	struct loop *loop; /* NULL while not watched */
	uint32_t events;   /* the loop's: what is watched, 0 while paused */
};

/** A piece of work for a loop's thread; embedded by its owner. Posting it
 * again before it ran is the same as once. */
struct loop_work {
	struct list link;
	void (*fn)(void *opaque);
	void *opaque;
	bool is_queued;
};

/** Counters of a loop, for the statistics. */
struct loop_stats {
	uint64_t wakeups, callbacks, works, longest_ns, slow;
};

/** Make a loop called (name); it runs when a thread calls loop_run(). */
int loop_create(struct loop **out, const char *name, struct err *err);
/** Free it; not while it runs. */
void loop_destroy(struct loop *loop);

/** Run until loop_stop(), which may come first. Callbacks may stop it, post and
 * watch. What was posted before the end still runs. */
void loop_run(struct loop *loop);
/** Make loop_run() return. Any thread, and from signal handlers. */
void loop_stop(struct loop *loop);

/** Make a loop with a thread of its own that runs it, named (name). It ends
 * with loop_thread_destroy(), which stops, joins and frees. */
int loop_thread_create(struct loop **out, const char *name, struct err *err);
void loop_thread_destroy(struct loop *loop);

/** Watch (w->fd) for (events), or change them (0 pauses). -errno. The loop's
 * thread, or any thread while the loop's thread cannot be in (w->fn). */
int loop_watch(struct loop *loop, struct loop_fd *w, uint32_t events);
/** Stop watching; before (w->fd) is closed. (w->fn) is not called any more; from
 * another thread than the loop's it also waits until it has returned, so hold
 * no lock that (w->fn) takes. Nothing if not watched. */
void loop_unwatch(struct loop_fd *w);

/** Run (work) soon on the loop's thread. Any thread; never waits. */
void loop_post(struct loop *loop, struct loop_work *work);
/** Take back a (work) that has not run; as loop_unwatch(), it waits for one
 * that runs on the loop's thread right now. Nothing if not queued. */
void loop_unpost(struct loop *loop, struct loop_work *work);

/** Run (fn) on the loop's thread and wait for it; at once when called on that
 * thread or when the loop does not run. */
void loop_call(struct loop *loop, void (*fn)(void *opaque), void *opaque);

/** Run the works that are queued: for a callback that waits for a thread which
 * may itself be waiting in loop_call(). On the loop's thread. */
void loop_serve(struct loop *loop);

/** Call (fn) at monotonic time (host_ns), replacing an earlier setting;
 * INT64_MAX: never. Any thread; a call of the earlier setting may just be under
 * way. One timer per loop, for the vclock. */
void loop_timer(struct loop *loop, int64_t host_ns, void (*fn)(void *opaque),
		void *opaque);

/** Is the caller on the thread that runs the loop? False while none does. */
bool loop_is_current(struct loop *loop);

/** The loop's counters; they belong to its thread. */
const struct loop_stats *loop_stats(const struct loop *loop);
/** List the loop's counters until it is destroyed. */
void loop_add_stats(struct loop *loop, struct stats *stats);

#endif
