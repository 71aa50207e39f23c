/* What a disk format provides; devices use block/blk.h. */
#ifndef BLOCK_BLK_IMPL_H
#define BLOCK_BLK_IMPL_H

#include <pthread.h>

#include "block/blk.h"
#include "host/loop.h"

#define BLK_NR_OPS          (BLK_WRITE_ZEROES + 1)
#define BLK_LATENCY_BUCKETS 24

/** A format's functions. Ranges were checked by blk_submit(). */
struct blk_ops {
	const char *format;
	size_t queue_size; /* of its struct blk_queue, which it embeds first */
	/* Open one queue's state, or close it; nothing is in flight then. Both
	 * may be NULL. */
	int (*queue_open)(struct blk_queue *queue, struct err *err);
	void (*queue_close)(struct blk_queue *queue);
	/* Run one request: blk_complete() it from the loop, not from within,
	 * or blk_complete_later() from anywhere. */
	void (*submit)(struct blk_queue *queue, struct blk_req *req);
	/* Wait for the requests that only this thread can bring to their end;
	 * those of blk_complete_later() are waited for above. May be NULL. */
	void (*drain)(struct blk_queue *queue);
	void (*destroy)(struct blk *blk);
};

/** The common part of every disk; a format embeds it first. Queues on several
 * threads count in it, with atomic additions. */
struct blk {
	const struct blk_ops *ops;
	struct blk_info info;
	struct stats_group stats_group;
	uint64_t nr_ops[BLK_NR_OPS], nr_bytes[BLK_NR_OPS], nr_errors;
	uint64_t latency_us_log2[BLK_LATENCY_BUCKETS]; /* [n]: below 2^n us */
	bool is_failed; /* a flush failed: every later one does (integrity) */
};

/** The common part of every queue; a format embeds it first. */
struct blk_queue {
	struct blk *blk;
	struct loop *loop;
	unsigned depth, nr_in_flight;
	/* What ended elsewhere and is to be completed on the loop. */
	pthread_mutex_t lock; /* finished */
	pthread_cond_t changed;
	struct list finished;
	struct loop_work finish;
};

/** Prepare the common part of a disk of (size) bytes, for messages and its id
 * called (path). */
void blk_init(struct blk *blk, const struct blk_ops *ops, uint64_t size,
	      const char *path);

/** Finish (req) with (result): counts it and calls its (done). On the queue's
 * loop, not from within submit. */
void blk_complete(struct blk_req *req, int result);

/** Have (req) finished with (result) on its queue's loop. Any thread, and from
 * within submit. */
void blk_complete_later(struct blk_req *req, int result);

/** A flush failed: let all later ones fail. Any thread. */
void blk_set_failed(struct blk *blk);
/** Did one? */
bool blk_has_failed(const struct blk *blk);

/** Write to (out), which has room for (max), the pieces of (iov) that hold its
 * bytes [offset, offset + len), as many as fit, and return how many. */
int blk_iov_slice(struct iovec *out, int max, const struct iovec *iov,
		  int nr_iov, uint64_t offset, uint64_t len);

/** Open a file or block device as it is. (options->is_writable) and
 * (is_read_only) say how; there is no overlay. */
int raw_open(struct blk **blk, const struct blk_options *options,
	     struct err *err);
/** The same for an open (fd) of (size) bytes, which it takes in any case; no
 * lock is taken. */
int raw_open_fd(struct blk **blk, int fd, uint64_t size,
		const struct blk_options *options, struct err *err);

/** Open (options->path) for reading, beneath a private file that takes the
 * writes and is gone at close. */
int overlay_open(struct blk **blk, const struct blk_options *options,
		 struct err *err);

/** Take the lock of the image open as (fd), for one writer or for readers,
 * until (fd) is closed. -EBUSY with (err) when another open file holds it. */
int image_lock(int fd, bool is_writer, const char *path, struct err *err);

#endif
