/*
 * Disks, for the devices that use them. A request goes down with submit and
 * comes back once through its (done), on the loop of the queue that it was
 * submitted on; nothing here blocks.
 */
#ifndef BLOCK_BLK_H
#define BLOCK_BLK_H

#include <sys/uio.h>

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"
#include "base/stats.h"

#define BLK_SECTOR 512ULL

struct blk;
struct blk_queue;
struct loop;

/** What a request does. Ranges are in bytes, multiples of BLK_SECTOR. */
enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,        /* all writes completed before it are durable */
	BLK_DISCARD,      /* contents become unspecified: zeroes, or where the
			   * host cannot free space what they were */
	BLK_WRITE_ZEROES, /* contents become zeroes; may free space */
};

/** One request; embedded by the device, which owns it and (iov) until
 * (done). */
struct blk_req {
	enum blk_op op;
	bool may_unmap; /* WRITE_ZEROES may free the space */
	uint64_t offset, len;
	struct iovec *iov;
	int nr_iov;
	int result; /* 0 or -errno, when done */
	void (*done)(struct blk_req *req);
	/* The backend's, while it is in flight: */
	struct blk_queue *queue;
	struct list link;
	int64_t start_ns;
	uint64_t progress;
	void *backend;
};

/** How to open a disk. */
struct blk_options {
	const char *path;
	bool is_writable;   /* write through to (path); else a private overlay,
			   * thrown away at close, takes the writes */
	bool is_read_only;  /* the guest cannot write at all */
	bool direct;        /* O_DIRECT */
	const char *engine; /* "auto", "io_uring" or "threads" */
};

/** Facts about an open disk. */
struct blk_info {
	uint64_t size; /* bytes, whole sectors; of a file that ends within one,
			* the rest of it reads as zeroes */
	bool is_read_only;
	char id[21]; /* at most 20 characters, for GET_ID */
	const char *format, *engine;
};

/**
 * Open a disk. Takes the image's lock (OFD byte ranges: many readers or one
 * writer), so two machines cannot write one image (A33). Errors say which file
 * and why: missing, a directory, not readable, empty, in use.
 */
int blk_open(struct blk **blk, const struct blk_options *options,
	     struct err *err);
/** Close it; all queues are closed already. NULL is fine. */
void blk_close(struct blk *blk);

/** Facts about (blk); valid until blk_close(). */
const struct blk_info *blk_info(const struct blk *blk);

/** Make a queue for about (depth) requests at a time whose completions run on
 * (loop); more are taken, and wait. Open and close it on that loop's thread, or
 * when the loop does not run, and not within (done); closing waits for what is
 * in flight. */
int blk_queue_open(struct blk_queue **out, struct blk *blk, struct loop *loop,
		   unsigned depth, struct err *err);
void blk_queue_close(struct blk_queue *queue);

/** Start (req). (done) is called later on the loop, never from here. On the
 * loop's thread. A request out of the disk's range or whose (iov) is shorter
 * than (len) ends with -EINVAL, a write to a read-only disk with -EROFS. After
 * a flush has failed every later one does, with -EIO: the host may have dropped
 * the data, so that trying again proves nothing. */
void blk_submit(struct blk_queue *queue, struct blk_req *req);
/** Requests in flight on the queue are done on return; waits. Loop's thread. */
void blk_drain(struct blk_queue *queue);

/** List counters as (name), until blk_close(): requests and bytes by kind,
 * errors, a latency histogram in powers of two microseconds (E10). */
void blk_add_stats(struct blk *blk, struct stats *stats, const char *name);

#endif
