/* Threads: names, and a pool for calls that block. */
#ifndef HOST_THREAD_H
#define HOST_THREAD_H

#include <pthread.h>

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"

/** Start a thread called (name), of which the first 15 characters count. All
 * signals but those of faults are blocked in it; SIGUSR1, which kicks virtual
 * processors, is as in the caller. -errno with (err). */
int thread_create(pthread_t *thread, const char *name, void *(*fn)(void *),
		  void *opaque, struct err *err);

/** Threads that make blocking calls for others. */
struct thread_pool;

/** One call for the pool; embedded by its owner. (fn) runs on a pool thread. */
struct pool_work {
	struct list link;
	void (*fn)(struct pool_work *work);
};

/** A pool of up to (max) threads, started when there is work. */
int thread_pool_create(struct thread_pool **out, unsigned max, struct err *err);
/** Finish what was submitted, then end the threads. NULL is fine. */
void thread_pool_destroy(struct thread_pool *pool);
/** Run (work) on a thread of the pool. Any thread; it waits only where the host
 * refuses the pool its first thread: then it runs (work) itself. */
void thread_pool_submit(struct thread_pool *pool, struct pool_work *work);

#endif
