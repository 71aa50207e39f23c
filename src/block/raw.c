/*
 * Raw disks: a file or a block device whose bytes are the disk's.
 *
 * Reads and writes go to the queue's io_uring, or where the host refuses that,
 * to a pool of threads that call preadv() and pwritev(). Either way one
 * transfer may be short or interrupted, and is continued at (req->progress)
 * until the request is whole. What cannot be given to the kernel as it is goes
 * through a bounce buffer: pieces that O_DIRECT finds misaligned.
 *
 * Everything else blocks in the kernel and runs on the pool with both engines:
 * punching holes, writing zeroes, and flushes. A disk has one fdatasync() under
 * way at a time, for all its queues: flushes that arrive meanwhile share the
 * next one. That is not only cheaper. Linux reports a lost write to the first
 * fdatasync() of an open file and drops the data; of two at once, one would
 * claim success. So the first failure latches before a later one is answered.
 */
#include "block/blk_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <liburing.h>
#include <linux/fs.h>

#include "base/log.h"
#include "host/thread.h"
#include "host/uring.h"

#define DIRECT_ALIGN 512ULL
/* A guest decides how many requests need one at a time. */
#define BOUNCE_MAX   (128 * KiB)
#define BOUNCE_ALIGN 4096ULL
/* Zeroes are written from one buffer many times over. */
#define ZEROES_LEN (64 * KiB)
#define ZEROES_IOV 16

/* More threads than this only queue up in the kernel. */
#define THREADS_ENGINE_MAX 16
#define URING_ENGINE_MAX   4

struct raw {
	struct blk blk;
	int fd;
	bool is_direct, has_uring, must_uring;
	uint64_t file_size; /* atomic: a write to its last sector moves it */
	struct thread_pool *pool;
	bool has_no_punch, has_no_zero_range; /* atomic: the host said so */

	pthread_mutex_t flush_lock; /* what follows */
	struct list flushes;        /* requests */
	bool is_flushing;
	struct pool_work flush;
};

struct raw_queue {
	struct blk_queue queue;
	struct uring *uring; /* NULL: the pool */
};

/* A request on its way; its window is what the next transfer moves. */
struct raw_io {
	struct uring_op op;
	struct pool_work work;
	struct blk_req *req;
	const struct iovec *iov;
	int nr_iov;
	bool must_bounce;
	struct iovec *slice, bounce;
};

static struct raw *to_raw(struct blk *blk)
{
	return container_of(blk, struct raw, blk);
}

static struct raw_queue *to_raw_queue(struct blk_queue *queue)
{
	return container_of(queue, struct raw_queue, queue);
}

/* --- transfers ---------------------------------------------------------- */

static bool is_misaligned(const struct blk_req *req)
{
	uintptr_t bits = 0;

	for (int i = 0; i < req->nr_iov; i++)
		bits |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
	return bits % DIRECT_ALIGN;
}

static struct raw_io *io_create(struct blk_req *req)
{
	struct raw_io *io = calloc(1, sizeof(*io));

	if (!io)
		return NULL;
	io->req = req;
	io->must_bounce =
		to_raw(req->queue->blk)->is_direct && is_misaligned(req);
	return io;
}

static void io_free(struct raw_io *io)
{
	free(io->slice);
	free(io->bounce.iov_base);
	free(io);
}

enum copy { COPY_IN, COPY_OUT, COPY_ZERO };

/* Copy between (buf) and the request's bytes at its progress. */
static void copy_iov(const struct blk_req *req, uint8_t *buf, uint64_t len,
		     enum copy how)
{
	uint64_t offset = req->progress, n;
	uint8_t *p;

	for (int i = 0; i < req->nr_iov && len; i++) {
		if (offset >= req->iov[i].iov_len) {
			offset -= req->iov[i].iov_len;
			continue;
		}
		p = (uint8_t *)req->iov[i].iov_base + offset;
		n = MIN(req->iov[i].iov_len - offset, len);
		if (how == COPY_ZERO)
			memset(p, 0, n);
		else if (how == COPY_IN)
			memcpy(buf, p, n);
		else
			memcpy(p, buf, n);
		if (buf)
			buf += n;
		len -= n;
		offset = 0;
	}
}

static int set_bounce(struct raw_io *io, uint64_t left)
{
	struct blk_req *req = io->req;
	uint64_t len = MIN(left, BOUNCE_MAX);

	if (!io->bounce.iov_base &&
	    posix_memalign(&io->bounce.iov_base, BOUNCE_ALIGN, len))
		return -ENOMEM;
	io->bounce.iov_len = len;
	if (req->op == BLK_WRITE)
		copy_iov(req, io->bounce.iov_base, len, COPY_IN);
	io->iov = &io->bounce;
	io->nr_iov = 1;
	return 0;
}

static int set_window(struct raw_io *io)
{
	struct blk_req *req = io->req;
	uint64_t left = req->len - req->progress;
	int max = MIN(req->nr_iov, IOV_MAX);

	if (io->must_bounce)
		return set_bounce(io, left);
	if (!req->progress && req->nr_iov <= IOV_MAX) {
		io->iov = req->iov;
		io->nr_iov = req->nr_iov;
		return 0;
	}
	if (!io->slice)
		io->slice = malloc(max * sizeof(*io->slice));
	if (!io->slice)
		return -ENOMEM;
	io->iov = io->slice;
	io->nr_iov = blk_iov_slice(io->slice, max, req->iov, req->nr_iov,
				   req->progress, left);
	return 0;
}

static uint64_t file_size(const struct raw *raw)
{
	return __atomic_load_n(&raw->file_size, __ATOMIC_RELAXED);
}

/* A disk that ends within a sector grows to its end at the first write. */
static void extend(struct raw *raw, uint64_t end)
{
	uint64_t size = file_size(raw);

	while (unlikely(end > size) &&
	       !__atomic_compare_exchange_n(&raw->file_size, &size, end, false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/* What becomes of a request after a transfer. */
enum next { DONE, AGAIN };

/* A transfer ended with (n) bytes or -errno. DONE, AGAIN or -errno. */
static int take_result(struct raw_io *io, int64_t n)
{
	struct blk_req *req = io->req;
	struct raw *raw = to_raw(req->queue->blk);
	uint64_t at;

	if (n == -EINTR || n == -EAGAIN)
		return AGAIN;
	if (n == -EINVAL && raw->is_direct && !io->must_bounce) {
		/* This device wants more than DIRECT_ALIGN. */
		io->must_bounce = true;
		return AGAIN;
	}
	if (n < 0)
		return n;
	if (io->must_bounce && req->op == BLK_READ)
		copy_iov(req, io->bounce.iov_base, n, COPY_OUT);
	req->progress += n;
	at = req->offset + req->progress;
	if (req->op == BLK_WRITE)
		extend(raw, at);
	if (req->progress >= req->len)
		return DONE;
	if (req->op == BLK_READ && at >= file_size(raw)) {
		copy_iov(req, NULL, req->len - req->progress, COPY_ZERO);
		return DONE;
	}
	if (!n) /* the file was cut, or takes no more */
		return req->op == BLK_READ ? -EIO : -ENOSPC;
	return AGAIN;
}

static void ring_prep(struct uring_op *op, struct io_uring_sqe *sqe)
{
	struct raw_io *io = container_of(op, struct raw_io, op);
	struct blk_req *req = io->req;
	int fd = to_raw(req->queue->blk)->fd;
	uint64_t at = req->offset + req->progress;

	if (req->op == BLK_READ)
		io_uring_prep_readv(sqe, fd, io->iov, io->nr_iov, at);
	else
		io_uring_prep_writev(sqe, fd, io->iov, io->nr_iov, at);
}

static void ring_done(struct uring_op *op, int result)
{
	struct raw_io *io = container_of(op, struct raw_io, op);
	struct blk_req *req = io->req;
	int r = take_result(io, result);

	if (r == AGAIN) {
		r = set_window(io);
		if (!r) {
			uring_start(to_raw_queue(req->queue)->uring, op);
			return;
		}
	}
	io_free(io);
	blk_complete(req, r);
}

static void pool_transfer(struct pool_work *work)
{
	struct raw_io *io = container_of(work, struct raw_io, work);
	struct blk_req *req = io->req;
	int r, fd = to_raw(req->queue->blk)->fd;
	ssize_t n;

	do {
		off_t at = req->offset + req->progress;

		if (req->op == BLK_READ)
			n = preadv(fd, io->iov, io->nr_iov, at);
		else
			n = pwritev(fd, io->iov, io->nr_iov, at);
		r = take_result(io, n < 0 ? -errno : n);
		if (r == AGAIN && (r = set_window(io)) == 0)
			r = AGAIN;
	} while (r == AGAIN);
	io_free(io);
	blk_complete_later(req, r);
}

/* --- holes and zeroes --------------------------------------------------- */

static int write_zeroes(struct raw *raw, uint64_t offset, uint64_t len)
{
	struct iovec iov[ZEROES_IOV];
	uint64_t left;
	void *zeroes;
	ssize_t n;
	int nr, r = 0;

	if (posix_memalign(&zeroes, BOUNCE_ALIGN, ZEROES_LEN))
		return -ENOMEM;
	memset(zeroes, 0, ZEROES_LEN);
	while (len) {
		left = len;
		for (nr = 0; nr < ZEROES_IOV && left; nr++) {
			iov[nr].iov_base = zeroes;
			iov[nr].iov_len = MIN(left, ZEROES_LEN);
			left -= iov[nr].iov_len;
		}
		n = pwritev(raw->fd, iov, nr, offset);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n <= 0) {
			r = n ? -errno : -ENOSPC;
			break;
		}
		offset += n;
		len -= n;
		extend(raw, offset);
	}
	free(zeroes);
	return r;
}

/* fallocate(), which block devices understand too. What the host does not
 * know is remembered in (has_not). */
static int allocate(struct raw *raw, int mode, bool *has_not,
		    const struct blk_req *req)
{
	int r;

	if (__atomic_load_n(has_not, __ATOMIC_RELAXED))
		return -EOPNOTSUPP;
	do {
		r = fallocate(raw->fd, mode | FALLOC_FL_KEEP_SIZE, req->offset,
			      req->len);
	} while (r && errno == EINTR);
	if (!r)
		return 0;
	if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV) {
		__atomic_store_n(has_not, true, __ATOMIC_RELAXED);
		return -EOPNOTSUPP;
	}
	/* A block device of larger sectors */
	return errno == EINVAL ? -EOPNOTSUPP : -errno;
}

static void pool_clear(struct pool_work *work)
{
	struct raw_io *io = container_of(work, struct raw_io, work);
	struct blk_req *req = io->req;
	struct raw *raw = to_raw(req->queue->blk);
	bool is_discard = req->op == BLK_DISCARD;
	int r = -EOPNOTSUPP;

	if (is_discard || req->may_unmap)
		r = allocate(raw, FALLOC_FL_PUNCH_HOLE, &raw->has_no_punch,
			     req);
	if (is_discard && r == -EOPNOTSUPP)
		r = 0;
	if (r == -EOPNOTSUPP)
		r = allocate(raw, FALLOC_FL_ZERO_RANGE, &raw->has_no_zero_range,
			     req);
	if (r == -EOPNOTSUPP)
		r = write_zeroes(raw, req->offset, req->len);
	io_free(io);
	blk_complete_later(req, r);
}

/* --- flushes ------------------------------------------------------------ */

static int sync_file(struct raw *raw)
{
	int r;

	if (blk_has_failed(&raw->blk))
		return -EIO;
	do {
		r = fdatasync(raw->fd);
	} while (r && errno == EINTR);
	if (!r)
		return 0;
	r = -errno;
	blk_set_failed(&raw->blk);
	log_error("disk '%s': flush: %s; all later ones will fail",
		  raw->blk.info.id, strerror(-r));
	return r;
}

static void pool_flush(struct pool_work *work)
{
	struct raw *raw = container_of(work, struct raw, flush);
	struct list batch = LIST_INIT(batch);
	struct blk_req *req, *next;
	int r;

	pthread_mutex_lock(&raw->flush_lock);
	while (!list_is_empty(&raw->flushes)) {
		list_insert(&raw->flushes, &batch);
		list_remove(&raw->flushes);
		pthread_mutex_unlock(&raw->flush_lock);
		r = sync_file(raw);
		list_for_each_safe (req, next, &batch, link) {
			list_remove(&req->link);
			blk_complete_later(req, r);
		}
		pthread_mutex_lock(&raw->flush_lock);
	}
	raw->is_flushing = false;
	pthread_mutex_unlock(&raw->flush_lock);
}

static void start_flush(struct raw *raw, struct blk_req *req)
{
	bool is_first;

	pthread_mutex_lock(&raw->flush_lock);
	list_insert(&raw->flushes, &req->link);
	is_first = !raw->is_flushing;
	raw->is_flushing = true;
	pthread_mutex_unlock(&raw->flush_lock);
	if (is_first)
		thread_pool_submit(raw->pool, &raw->flush);
}

/* --- the format's functions --------------------------------------------- */

static void raw_submit(struct blk_queue *queue, struct blk_req *req)
{
	struct raw *raw = to_raw(queue->blk);
	struct uring *uring = to_raw_queue(queue)->uring;
	bool is_transfer = req->op == BLK_READ || req->op == BLK_WRITE;
	struct raw_io *io;

	if (req->op == BLK_FLUSH) {
		if (raw->blk.info.is_read_only)
			blk_complete_later(req, 0);
		else
			start_flush(raw, req);
		return;
	}
	io = io_create(req);
	if (!io || (is_transfer && set_window(io) < 0)) {
		if (io)
			io_free(io);
		blk_complete_later(req, -ENOMEM);
		return;
	}
	if (is_transfer && uring) {
		io->op.prep = ring_prep;
		io->op.done = ring_done;
		uring_start(uring, &io->op);
		return;
	}
	io->work.fn = is_transfer ? pool_transfer : pool_clear;
	thread_pool_submit(raw->pool, &io->work);
}

static int raw_queue_open(struct blk_queue *queue, struct err *err)
{
	struct raw *raw = to_raw(queue->blk);
	struct err why = { 0 };
	int r;

	if (!raw->has_uring)
		return 0;
	r = uring_create(&to_raw_queue(queue)->uring, queue->loop, queue->depth,
			 raw->must_uring ? err : &why);
	if (r < 0 && !raw->must_uring) {
		log_info("disk '%s': %s; a queue uses threads instead",
			 raw->blk.info.id, why.what);
		return 0;
	}
	return r;
}

static void raw_queue_close(struct blk_queue *queue)
{
	struct uring *uring = to_raw_queue(queue)->uring;

	if (uring)
		uring_destroy(uring);
}

static void raw_drain(struct blk_queue *queue)
{
	struct uring *uring = to_raw_queue(queue)->uring;

	while (uring && uring_wait(uring))
		;
}

static void raw_destroy(struct blk *blk)
{
	struct raw *raw = to_raw(blk);

	thread_pool_destroy(raw->pool);
	pthread_mutex_destroy(&raw->flush_lock);
	close(raw->fd);
	free(raw);
}

static const struct blk_ops raw_ops = {
	.format = "raw",
	.queue_size = sizeof(struct raw_queue),
	.queue_open = raw_queue_open,
	.queue_close = raw_queue_close,
	.submit = raw_submit,
	.drain = raw_drain,
	.destroy = raw_destroy,
};

/* --- opening ------------------------------------------------------------ */

static int choose_engine(struct raw *raw, const char *engine, struct err *err)
{
	int r;

	if (!engine)
		engine = "auto";
	raw->must_uring = strcmp(engine, "io_uring") == 0;
	if (!raw->must_uring && strcmp(engine, "auto") != 0 &&
	    strcmp(engine, "threads") != 0)
		return err_set(err, EINVAL, "it is auto, io_uring or threads",
			       "unknown disk engine '%s'", engine);
	raw->blk.info.engine = "threads";
	if (strcmp(engine, "threads") == 0)
		return 0;
	r = uring_probe();
	if (!r) {
		raw->has_uring = true;
		raw->blk.info.engine = "io_uring";
	} else if (raw->must_uring) {
		return err_set(err, -r, "use engine=auto or engine=threads",
			       "this host refuses io_uring:");
	} else {
		log_info("this host refuses io_uring (%s): disks use threads",
			 strerror(-r));
	}
	return 0;
}

int raw_open_fd(struct blk **blk, int fd, uint64_t size,
		const struct blk_options *options, struct err *err)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	int r = -ENOMEM;

	if (!raw) {
		err_set(err, ENOMEM, NULL,
			"cannot open disk '%s':", options->path);
		goto err_close;
	}
	blk_init(&raw->blk, &raw_ops, size, options->path);
	raw->blk.info.is_read_only =
		options->is_read_only || !options->is_writable;
	raw->fd = fd;
	raw->file_size = size;
	raw->is_direct = options->direct;
	list_init(&raw->flushes);
	raw->flush.fn = pool_flush;
	r = choose_engine(raw, options->engine, err);
	if (r < 0)
		goto err_free;
	r = thread_pool_create(
		&raw->pool,
		raw->has_uring ? URING_ENGINE_MAX : THREADS_ENGINE_MAX, err);
	if (r < 0)
		goto err_free;
	pthread_mutex_init(&raw->flush_lock, NULL);
	*blk = &raw->blk;
	return 0;

err_free:
	free(raw);
err_close:
	close(fd);
	return r;
}

static int find_size(int fd, const char *path, uint64_t *size, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st))
		return err_set(err, errno, NULL, "cannot use disk '%s':", path);
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, NULL, "disk '%s' is a directory",
			       path);
	*size = st.st_size;
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, size))
			return err_set(
				err, errno, NULL,
				"cannot find the size of disk '%s':", path);
	} else if (!S_ISREG(st.st_mode)) {
		return err_set(err, EINVAL, NULL,
			       "disk '%s' is neither a file nor a block device",
			       path);
	}
	if (!*size)
		return err_set(err, EINVAL,
			       "truncate -s 4G FILE makes an empty disk",
			       "disk '%s' has no bytes", path);
	if (*size > INT64_MAX - BLK_SECTOR)
		return err_set(err, EFBIG, NULL, "cannot use disk '%s':", path);
	return 0;
}

/* The guest's sectors have 512 bytes; a host device of larger ones takes them
 * only through the page cache. */
static int check_direct(int fd, const char *path, struct err *err)
{
	void *buf;
	ssize_t n;

	if (posix_memalign(&buf, BOUNCE_ALIGN, BOUNCE_ALIGN))
		return err_set(err, ENOMEM, NULL,
			       "cannot open disk '%s':", path);
	n = pread(fd, buf, BLK_SECTOR, BLK_SECTOR);
	free(buf);
	if (n < 0 && errno == EINVAL)
		return err_set(err, EINVAL, "leave out direct=on",
			       "disk '%s' is on a host disk whose sectors are "
			       "larger than 512 bytes",
			       path);
	return 0;
}

static int open_error(int errnum, const struct blk_options *options,
		      bool is_writer, struct err *err)
{
	const char *hint = NULL;

	if (errnum == EISDIR)
		return err_set(err, EISDIR, NULL, "disk '%s' is a directory",
			       options->path);
	if (errnum == EINVAL && options->direct)
		hint = "its file system may not know direct=on: leave it out";
	else if (errnum == EACCES && is_writer)
		hint = "it needs write permission, or a private overlay";
	else if (errnum == ENOENT)
		hint = "check the path; truncate -s 4G FILE makes an empty "
		       "disk";
	return err_set(err, errnum, hint,
		       "cannot open disk '%s':", options->path);
}

int raw_open(struct blk **blk, const struct blk_options *options,
	     struct err *err)
{
	bool is_writer = options->is_writable && !options->is_read_only;
	int r, fd,
		flags = O_CLOEXEC | O_NOCTTY | (is_writer ? O_RDWR : 0) |
			(options->direct ? O_DIRECT : 0);
	uint64_t size = 0;

	/* O_NONBLOCK: not to wait where (path) is a pipe. */
	fd = open(options->path, flags | O_NONBLOCK);
	if (fd < 0)
		return open_error(errno, options, is_writer, err);
	r = find_size(fd, options->path, &size, err);
	if (r < 0)
		goto err_close;
	if (fcntl(fd, F_SETFL, flags & O_DIRECT)) {
		r = open_error(errno, options, is_writer, err);
		goto err_close;
	}
	if (options->direct) {
		r = check_direct(fd, options->path, err);
		if (r < 0)
			goto err_close;
	}
	r = image_lock(fd, is_writer, options->path, err);
	if (r < 0)
		goto err_close;
	return raw_open_fd(blk, fd, size, options, err);

err_close:
	close(fd);
	return r;
}
