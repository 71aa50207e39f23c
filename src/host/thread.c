#include "host/thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

int thread_create(pthread_t *thread, const char *name, void *(*fn)(void *),
		  void *opaque, struct err *err)
{
	/* Faults cannot be deferred, and SIGUSR1 is the caller's. */
	static const int left[] = { SIGSEGV, SIGBUS,  SIGFPE, SIGILL,
				    SIGTRAP, SIGABRT, SIGSYS, SIGUSR1 };
	char short_name[16];
	sigset_t block, old;
	int r;

	sigfillset(&block);
	for (size_t i = 0; i < ARRAY_SIZE(left); i++)
		sigdelset(&block, left[i]);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	r = pthread_create(thread, NULL, fn, opaque);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return err_set(err, r, NULL, "cannot start thread '%s':", name);
	snprintf(short_name, sizeof(short_name), "%s", name);
	pthread_setname_np(*thread, short_name);
	return 0;
}

struct thread_pool {
	pthread_mutex_t lock; /* what follows */
	pthread_cond_t changed;
	struct list works;
	unsigned nr_works, nr_idle, nr_threads, max;
	bool is_ending;
	pthread_t threads[];
};

static void *pool_thread(void *opaque)
{
	struct thread_pool *pool = opaque;
	struct pool_work *work;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (list_is_empty(&pool->works) && !pool->is_ending) {
			pool->nr_idle++;
			pthread_cond_wait(&pool->changed, &pool->lock);
			pool->nr_idle--;
		}
		if (list_is_empty(&pool->works))
			break;
		work = list_entry(pool->works.next, struct pool_work, link);
		list_remove(&work->link);
		pool->nr_works--;
		pthread_mutex_unlock(&pool->lock);
		work->fn(work);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

int thread_pool_create(struct thread_pool **out, unsigned max, struct err *err)
{
	struct thread_pool *pool;

	pool = calloc(1, sizeof(*pool) + max * sizeof(pool->threads[0]));
	if (!pool)
		return err_set(err, ENOMEM, NULL, "cannot make threads:");
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->changed, NULL);
	list_init(&pool->works);
	pool->max = max;
	*out = pool;
	return 0;
}

void thread_pool_destroy(struct thread_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->is_ending = true;
	pthread_cond_broadcast(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->nr_threads; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->changed);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

void thread_pool_submit(struct thread_pool *pool, struct pool_work *work)
{
	bool is_alone = false;

	pthread_mutex_lock(&pool->lock);
	list_insert(&pool->works, &work->link);
	pool->nr_works++;
	if (pool->nr_works > pool->nr_idle && pool->nr_threads < pool->max) {
		struct err err = { 0 };

		if (!thread_create(&pool->threads[pool->nr_threads], "pool",
				   pool_thread, pool, &err))
			pool->nr_threads++;
		else
			log_debug("%s", err.what);
	}
	if (!pool->nr_threads) {
		list_remove(&work->link);
		pool->nr_works--;
		is_alone = true;
	}
	pthread_cond_signal(&pool->changed);
	pthread_mutex_unlock(&pool->lock);
	if (is_alone)
		work->fn(work);
}
