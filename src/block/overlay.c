/*
 * The private overlay of a disk that is not opened for writing: what the guest
 * writes goes to an unlinked, sparse file of the disk's size, and is gone when
 * the disk is closed. The image beneath is only ever read.
 *
 * A bit per sector says where the sector's data is. A write goes to the file
 * and then sets its bits, so sectors are never copied up and queues need no
 * lock: a reader that may see the write (it was told of its end) sees the bit,
 * and one that races with it sees either, as on any disk. A read is cut into
 * runs of sectors of one owner, some of which are under way at a time.
 *
 * The map is mapped memory that is only there where it was written to. Of a
 * whole region of 32,768 sectors, or one page of the map, that the guest
 * discards or zeroes only a flag is kept: an mkfs that discards a terabyte does
 * not fill the map.
 */
#include "block/blk_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"

#define REGION_SECTORS 32768ULL
#define REGION_WORDS   (REGION_SECTORS / 64)

/* Runs of one request under way at a time. */
#define MAX_PARTS 16

struct overlay {
	struct blk blk;
	struct blk *base, *top;
	uint64_t *owned; /* a bit per sector: it is in (top) */
	size_t owned_len;
	uint8_t *is_region_owned; /* all of it */
};

struct overlay_queue {
	struct blk_queue queue;
	struct blk_queue *base, *top;
};

/* A request that is cut into parts; its (progress) is what was started. */
struct split {
	unsigned nr_parts;
	int result;
};

/* One run of sectors of one owner. */
struct part {
	struct blk_req req;
	struct blk_req *parent;
	struct iovec iov[];
};

static struct overlay *to_overlay(struct blk *blk)
{
	return container_of(blk, struct overlay, blk);
}

static struct overlay_queue *to_overlay_queue(struct blk_queue *queue)
{
	return container_of(queue, struct overlay_queue, queue);
}

/* --- the map ------------------------------------------------------------ */

static uint64_t load_word(const struct overlay *overlay, uint64_t n)
{
	if (__atomic_load_n(&overlay->is_region_owned[n / REGION_WORDS],
			    __ATOMIC_ACQUIRE))
		return ~0ULL;
	return __atomic_load_n(&overlay->owned[n], __ATOMIC_ACQUIRE);
}

/* The end of the run of sectors from (sector) on that have one owner, at most
 * (end); (*is_top) says which. Each word is read once: others set bits. */
static uint64_t find_run(const struct overlay *overlay, uint64_t sector,
			 uint64_t end, bool *is_top)
{
	uint64_t n = sector / 64, word = load_word(overlay, n);
	uint64_t others;

	*is_top = word >> sector % 64 & 1;
	others = (*is_top ? ~word : word) & ~0ULL << sector % 64;
	while (!others && ++n * 64 < end) {
		word = load_word(overlay, n);
		others = *is_top ? ~word : word;
	}
	if (others)
		end = MIN(end, n * 64 + __builtin_ctzll(others));
	return end;
}

static void set_bits(struct overlay *overlay, uint64_t sector, uint64_t end)
{
	while (sector < end) {
		uint64_t stop = MIN(end, ALIGN_DOWN(sector, 64ULL) + 64);
		uint64_t mask = MASK((stop - 1) % 64, sector % 64);

		__atomic_fetch_or(&overlay->owned[sector / 64], mask,
				  __ATOMIC_RELEASE);
		sector = stop;
	}
}

static void set_owned(struct overlay *overlay, uint64_t sector, uint64_t end)
{
	while (sector < end) {
		uint64_t region = sector / REGION_SECTORS;
		uint64_t stop = MIN(end, (region + 1) * REGION_SECTORS);

		if (stop - sector == REGION_SECTORS)
			__atomic_store_n(&overlay->is_region_owned[region], 1,
					 __ATOMIC_RELEASE);
		else
			set_bits(overlay, sector, stop);
		sector = stop;
	}
}

/* --- requests ----------------------------------------------------------- */

static int start_parts(struct blk_req *req);

static void part_done(struct blk_req *part_req)
{
	struct part *part = container_of(part_req, struct part, req);
	struct blk_req *req = part->parent;
	struct overlay *overlay = to_overlay(req->queue->blk);
	struct split *split = req->backend;
	int r;

	if (part_req->result < 0)
		split->result = part_req->result;
	else if (part_req->op != BLK_READ)
		set_owned(overlay, part_req->offset / BLK_SECTOR,
			  (part_req->offset + part_req->len) / BLK_SECTOR);
	free(part);
	split->nr_parts--;
	r = start_parts(req);
	if (r <= 0)
		blk_complete(req, r);
}

/* Start one part, the next (len) bytes, on (queue). */
static int start_part(struct blk_req *req, struct blk_queue *queue,
		      uint64_t len)
{
	bool is_whole = !req->progress && len == req->len;
	int nr_iov = is_whole ? 0 : req->nr_iov;
	struct part *part;

	part = calloc(1, sizeof(*part) + nr_iov * sizeof(part->iov[0]));
	if (!part)
		return -ENOMEM;
	part->parent = req;
	part->req.op = req->op;
	part->req.offset = req->offset + req->progress;
	part->req.len = len;
	part->req.done = part_done;
	if (req->op == BLK_DISCARD || req->op == BLK_WRITE_ZEROES) {
		/* What the base has there must not show. */
		part->req.op = BLK_WRITE_ZEROES;
		part->req.may_unmap = true;
	} else if (is_whole) {
		part->req.iov = req->iov;
		part->req.nr_iov = req->nr_iov;
	} else {
		part->req.iov = part->iov;
		part->req.nr_iov =
			blk_iov_slice(part->iov, nr_iov, req->iov, req->nr_iov,
				      req->progress, len);
	}
	req->progress += len;
	((struct split *)req->backend)->nr_parts++;
	blk_submit(queue, &part->req);
	return 0;
}

/* Start what may be under way of (req): 1 while it is, else its result. */
static int start_parts(struct blk_req *req)
{
	struct overlay *overlay = to_overlay(req->queue->blk);
	struct overlay_queue *queue = to_overlay_queue(req->queue);
	uint64_t at, end = req->offset + req->len, stop;
	struct split *split = req->backend;
	bool is_top = true;
	int r;

	while (req->progress < req->len && split->nr_parts < MAX_PARTS &&
	       !split->result) {
		at = req->offset + req->progress;
		stop = end;
		if (req->op == BLK_READ)
			stop = BLK_SECTOR * find_run(overlay, at / BLK_SECTOR,
						     end / BLK_SECTOR, &is_top);
		r = start_part(req, is_top ? queue->top : queue->base,
			       stop - at);
		if (r < 0)
			split->result = r;
	}
	if (split->nr_parts)
		return 1;
	r = split->result;
	free(split);
	return r;
}

static void overlay_submit(struct blk_queue *queue, struct blk_req *req)
{
	int r;

	/* What is thrown away at the end need not survive a crash. */
	if (req->op == BLK_FLUSH) {
		blk_complete_later(req, 0);
		return;
	}
	req->backend = calloc(1, sizeof(struct split));
	r = req->backend ? start_parts(req) : -ENOMEM;
	if (r <= 0)
		blk_complete_later(req, r);
}

/* --- opening and closing ------------------------------------------------ */

static int overlay_queue_open(struct blk_queue *queue, struct err *err)
{
	struct overlay *overlay = to_overlay(queue->blk);
	struct overlay_queue *oq = to_overlay_queue(queue);
	int r;

	r = blk_queue_open(&oq->base, overlay->base, queue->loop, queue->depth,
			   err);
	if (r < 0)
		return r;
	r = blk_queue_open(&oq->top, overlay->top, queue->loop, queue->depth,
			   err);
	if (r < 0)
		blk_queue_close(oq->base);
	return r;
}

static void overlay_queue_close(struct blk_queue *queue)
{
	blk_queue_close(to_overlay_queue(queue)->top);
	blk_queue_close(to_overlay_queue(queue)->base);
}

/* The end of a part starts another one, perhaps on the other queue. */
static void overlay_drain(struct blk_queue *queue)
{
	struct overlay_queue *oq = to_overlay_queue(queue);

	while (oq->base->nr_in_flight || oq->top->nr_in_flight) {
		blk_drain(oq->base);
		blk_drain(oq->top);
	}
}

static void overlay_destroy(struct blk *blk)
{
	struct overlay *overlay = to_overlay(blk);

	if (overlay->owned)
		munmap(overlay->owned, overlay->owned_len);
	free(overlay->is_region_owned);
	blk_close(overlay->top);
	blk_close(overlay->base);
	free(overlay);
}

static const struct blk_ops overlay_ops = {
	.format = "raw",
	.queue_size = sizeof(struct overlay_queue),
	.queue_open = overlay_queue_open,
	.queue_close = overlay_queue_close,
	.submit = overlay_submit,
	.drain = overlay_drain,
	.destroy = overlay_destroy,
};

/* A nameless file: on disk where there is a place for it, else in memory. */
static int make_file(uint64_t size, struct err *err)
{
	const char *dir = getenv("TMPDIR");
	int r, fd;

	if (!dir || !*dir)
		dir = "/var/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0) {
		log_info("no file for writes in %s: they are kept in memory",
			 dir);
		fd = memfd_create("ringer-overlay", MFD_CLOEXEC);
	}
	if (fd >= 0 && !ftruncate(fd, size))
		return fd;
	r = err_set(err, errno, "TMPDIR says where the file goes",
		    "cannot make a file for a private overlay:");
	if (fd >= 0)
		close(fd);
	return r;
}

static int make_map(struct overlay *overlay, struct err *err)
{
	uint64_t nr_sectors = overlay->base->info.size / BLK_SECTOR;
	uint64_t nr_regions =
		(nr_sectors + REGION_SECTORS - 1) / REGION_SECTORS;
	void *map;

	overlay->owned_len = nr_regions * REGION_WORDS * sizeof(uint64_t);
	overlay->is_region_owned = calloc(nr_regions, 1);
	map = mmap(NULL, overlay->owned_len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map != MAP_FAILED)
		overlay->owned = map;
	if (!overlay->owned || !overlay->is_region_owned)
		return err_set(err, ENOMEM, NULL,
			       "cannot make a private overlay:");
	return 0;
}

static int make_top(struct overlay *overlay, const struct blk_options *options,
		    struct err *err)
{
	struct blk_options top_options = {
		.path = options->path,
		.is_writable = true,
		/* If it fell back to threads, that was said already. */
		.engine = strcmp(overlay->base->info.engine, "threads")
				  ? options->engine
				  : "threads",
	};
	uint64_t size = overlay->base->info.size;
	int fd = make_file(size, err);

	if (fd < 0)
		return fd;
	return raw_open_fd(&overlay->top, fd, size, &top_options, err);
}

int overlay_open(struct blk **blk, const struct blk_options *options,
		 struct err *err)
{
	struct overlay *overlay = calloc(1, sizeof(*overlay));
	int r;

	if (!overlay)
		return err_set(err, ENOMEM, NULL,
			       "cannot open disk '%s':", options->path);
	list_init(&overlay->blk.stats_group.link);
	r = raw_open(&overlay->base, options, err);
	if (!r)
		r = make_top(overlay, options, err);
	if (!r)
		r = make_map(overlay, err);
	if (r < 0) {
		overlay_destroy(&overlay->blk);
		return r;
	}
	blk_init(&overlay->blk, &overlay_ops, overlay->base->info.size,
		 options->path);
	overlay->blk.info.engine = overlay->base->info.engine;
	*blk = &overlay->blk;
	return 0;
}
