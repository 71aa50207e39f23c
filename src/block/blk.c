/*
 * What all disk formats share: checks before a request goes down, completion
 * and counting when it comes back, and waiting for it.
 *
 * A queue belongs to one loop. Its requests may end on other threads (those of
 * a pool); blk_complete_later() carries them to the loop through the queue's
 * list (finished). blk_drain() takes them from there itself, so that it waits
 * on a loop's thread without running the loop.
 */
#include "block/blk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/overflow.h"
#include "block/blk_impl.h"
#include "host/clock.h"

static void count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void blk_set_failed(struct blk *blk)
{
	__atomic_store_n(&blk->is_failed, true, __ATOMIC_RELEASE);
}

bool blk_has_failed(const struct blk *blk)
{
	return __atomic_load_n(&blk->is_failed, __ATOMIC_ACQUIRE);
}

void blk_init(struct blk *blk, const struct blk_ops *ops, uint64_t size,
	      const char *path)
{
	const char *base = strrchr(path, '/');

	blk->ops = ops;
	blk->info.size = ALIGN_UP(size, BLK_SECTOR);
	blk->info.format = ops->format;
	snprintf(blk->info.id, sizeof(blk->info.id), "%.20s",
		 base ? base + 1 : path);
	list_init(&blk->stats_group.link);
}

int blk_open(struct blk **blk, const struct blk_options *options,
	     struct err *err)
{
	if (options->is_writable || options->is_read_only)
		return raw_open(blk, options, err);
	return overlay_open(blk, options, err);
}

void blk_close(struct blk *blk)
{
	if (!blk)
		return;
	stats_remove(&blk->stats_group);
	blk->ops->destroy(blk);
}

const struct blk_info *blk_info(const struct blk *blk)
{
	return &blk->info;
}

/* Complete what ended elsewhere. One at a time off the list, for a (done) may
 * drain the queue. */
static void run_finished(void *opaque)
{
	struct blk_queue *queue = opaque;
	struct blk_req *req;

	for (;;) {
		req = NULL;
		pthread_mutex_lock(&queue->lock);
		if (!list_is_empty(&queue->finished)) {
			req = list_entry(queue->finished.next, struct blk_req,
					 link);
			list_remove(&req->link);
		}
		pthread_mutex_unlock(&queue->lock);
		if (!req)
			return;
		blk_complete(req, req->result);
	}
}

int blk_queue_open(struct blk_queue **out, struct blk *blk, struct loop *loop,
		   unsigned depth, struct err *err)
{
	struct blk_queue *queue = calloc(1, blk->ops->queue_size);
	int r;

	if (!queue)
		return err_set(err, ENOMEM, NULL, "cannot make a disk queue:");
	queue->blk = blk;
	queue->loop = loop;
	queue->depth = depth;
	pthread_mutex_init(&queue->lock, NULL);
	pthread_cond_init(&queue->changed, NULL);
	list_init(&queue->finished);
	queue->finish.fn = run_finished;
	queue->finish.opaque = queue;
	r = blk->ops->queue_open ? blk->ops->queue_open(queue, err) : 0;
	if (r < 0) {
		pthread_cond_destroy(&queue->changed);
		pthread_mutex_destroy(&queue->lock);
		free(queue);
		return r;
	}
	*out = queue;
	return 0;
}

void blk_queue_close(struct blk_queue *queue)
{
	if (!queue)
		return;
	blk_drain(queue);
	loop_unpost(queue->loop, &queue->finish);
	if (queue->blk->ops->queue_close)
		queue->blk->ops->queue_close(queue);
	pthread_cond_destroy(&queue->changed);
	pthread_mutex_destroy(&queue->lock);
	free(queue);
}

void blk_drain(struct blk_queue *queue)
{
	while (queue->nr_in_flight) {
		run_finished(queue);
		if (queue->blk->ops->drain)
			queue->blk->ops->drain(queue);
		pthread_mutex_lock(&queue->lock);
		while (queue->nr_in_flight && list_is_empty(&queue->finished))
			pthread_cond_wait(&queue->changed, &queue->lock);
		pthread_mutex_unlock(&queue->lock);
	}
}

static bool iov_holds(const struct iovec *iov, int nr_iov, uint64_t len)
{
	for (int i = 0; i < nr_iov && len; i++)
		len -= MIN(len, iov[i].iov_len);
	return !len;
}

static int check(const struct blk *blk, const struct blk_req *req)
{
	if (req->op == BLK_FLUSH)
		return blk_has_failed(blk) ? -EIO : 0;
	if (req->op >= BLK_NR_OPS || (req->offset | req->len) % BLK_SECTOR ||
	    !range_fits(req->offset, req->len, blk->info.size))
		return -EINVAL;
	if (req->op != BLK_READ && blk->info.is_read_only)
		return -EROFS;
	if ((req->op == BLK_READ || req->op == BLK_WRITE) &&
	    !iov_holds(req->iov, req->nr_iov, req->len))
		return -EINVAL;
	return 0;
}

void blk_submit(struct blk_queue *queue, struct blk_req *req)
{
	int r = check(queue->blk, req);

	queue->nr_in_flight++;
	req->queue = queue;
	req->progress = 0;
	req->backend = NULL;
	req->start_ns = clock_now_ns();
	if (r < 0 || (!req->len && req->op != BLK_FLUSH))
		blk_complete_later(req, r);
	else
		queue->blk->ops->submit(queue, req);
}

void blk_complete(struct blk_req *req, int result)
{
	struct blk_queue *queue = req->queue;
	struct blk *blk = queue->blk;
	uint64_t us = (clock_now_ns() - req->start_ns) / NSEC_PER_USEC;
	unsigned bucket = us ? 64 - __builtin_clzll(us) : 0;

	if (req->op == BLK_FLUSH && result < 0)
		blk_set_failed(blk);
	if (result < 0) {
		count(&blk->nr_errors, 1);
	} else {
		count(&blk->nr_ops[req->op], 1);
		count(&blk->nr_bytes[req->op], req->len);
	}
	count(&blk->latency_us_log2[MIN(bucket, BLK_LATENCY_BUCKETS - 1u)], 1);
	vm_assert(queue->nr_in_flight);
	queue->nr_in_flight--;
	req->result = result;
	req->done(req);
}

void blk_complete_later(struct blk_req *req, int result)
{
	struct blk_queue *queue = req->queue;

	req->result = result;
	/* The post is under the lock: as soon as it is free, a drain may take
	 * the request and the queue be closed. */
	pthread_mutex_lock(&queue->lock);
	list_insert(&queue->finished, &req->link);
	pthread_cond_signal(&queue->changed);
	loop_post(queue->loop, &queue->finish);
	pthread_mutex_unlock(&queue->lock);
}

int blk_iov_slice(struct iovec *out, int max, const struct iovec *iov,
		  int nr_iov, uint64_t offset, uint64_t len)
{
	int nr = 0;

	for (int i = 0; i < nr_iov && len && nr < max; i++) {
		uint64_t n;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - offset, len);
		out[nr].iov_base = (uint8_t *)iov[i].iov_base + offset;
		out[nr++].iov_len = n;
		offset = 0;
		len -= n;
	}
	return nr;
}

/* NOLINTBEGIN(bugprone-macro-parentheses): a member has none */
#define STAT_AT(text, member)                                        \
	{                                                            \
		.name = text, .offset = offsetof(struct blk, member) \
	}
/* NOLINTEND(bugprone-macro-parentheses) */
#define STAT_LATENCY(text, n) STAT_AT("latency_us_" text, latency_us_log2[n])

void blk_add_stats(struct blk *blk, struct stats *stats, const char *name)
{
	/* clang-format off */
	static const struct stat_desc descs[] = {
		STAT_AT("reads", nr_ops[BLK_READ]),
		STAT_AT("writes", nr_ops[BLK_WRITE]),
		STAT_AT("flushes", nr_ops[BLK_FLUSH]),
		STAT_AT("discards", nr_ops[BLK_DISCARD]),
		STAT_AT("write_zeroes", nr_ops[BLK_WRITE_ZEROES]),
		STAT_AT("read_bytes", nr_bytes[BLK_READ]),
		STAT_AT("written_bytes", nr_bytes[BLK_WRITE]),
		STAT_AT("discarded_bytes", nr_bytes[BLK_DISCARD]),
		STAT_AT("zeroed_bytes", nr_bytes[BLK_WRITE_ZEROES]),
		STAT_AT("errors", nr_errors),
		STAT_LATENCY("below_1", 0),
		STAT_LATENCY("below_2", 1),
		STAT_LATENCY("below_4", 2),
		STAT_LATENCY("below_8", 3),
		STAT_LATENCY("below_16", 4),
		STAT_LATENCY("below_32", 5),
		STAT_LATENCY("below_64", 6),
		STAT_LATENCY("below_128", 7),
		STAT_LATENCY("below_256", 8),
		STAT_LATENCY("below_512", 9),
		STAT_LATENCY("below_1024", 10),
		STAT_LATENCY("below_2048", 11),
		STAT_LATENCY("below_4096", 12),
		STAT_LATENCY("below_8192", 13),
		STAT_LATENCY("below_16384", 14),
		STAT_LATENCY("below_32768", 15),
		STAT_LATENCY("below_65536", 16),
		STAT_LATENCY("below_131072", 17),
		STAT_LATENCY("below_262144", 18),
		STAT_LATENCY("below_524288", 19),
		STAT_LATENCY("below_1048576", 20),
		STAT_LATENCY("below_2097152", 21),
		STAT_LATENCY("below_4194304", 22),
		STAT_LATENCY("more", 23),
		{ 0 },
	};
	/* clang-format on */

	stats_add(stats, &blk->stats_group, name, descs, blk);
}
