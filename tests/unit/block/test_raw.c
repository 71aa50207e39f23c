/* Raw disks, with both engines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/blk_impl.h"
#include "host/loop.h"
#include "storm.h"

#define SIZE (8 * MiB)

static const char *const engines[] = { "io_uring", "threads", "auto" };

/* One disk with one queue whose loop does not run. */
struct disk {
	struct blk *blk;
	struct blk_queue *queue;
	struct loop *loop;
	struct err err;
};

static void attach(struct disk *disk)
{
	assert_int_equal(loop_create(&disk->loop, "test", &disk->err), 0);
	assert_int_equal(blk_queue_open(&disk->queue, disk->blk, disk->loop, 8,
					&disk->err),
			 0);
}

static void open_disk(struct disk *disk, const char *path, const char *engine)
{
	struct blk_options options = {
		.path = path,
		.is_writable = true,
		.engine = engine,
	};

	memset(disk, 0, sizeof(*disk));
	assert_int_equal(blk_open(&disk->blk, &options, &disk->err), 0);
	attach(disk);
}

/* A disk that is a descriptor of any kind, to have errors. */
static void open_fd(struct disk *disk, const char *path, const char *engine)
{
	struct blk_options options = {
		.path = path,
		.is_writable = true,
		.engine = engine,
	};
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	memset(disk, 0, sizeof(*disk));
	assert_int_equal(raw_open_fd(&disk->blk, fd, MiB, &options, &disk->err),
			 0);
	attach(disk);
}

static void close_disk(struct disk *disk)
{
	blk_queue_close(disk->queue);
	blk_close(disk->blk);
	loop_destroy(disk->loop);
}

static void assert_file_is(const char *path, const uint8_t *model, uint64_t len)
{
	uint8_t *buf = malloc(len);
	int fd = open(path, O_RDONLY);

	assert_int_equal(pread(fd, buf, len, 0), len);
	assert_int_equal(memcmp(buf, model, len), 0);
	close(fd);
	free(buf);
}

static void run_storm(const char *engine, bool direct, unsigned nr_requests,
		      uint64_t size, bool no_clears)
{
	struct blk_options options = {
		.is_writable = true,
		.direct = direct,
		.engine = engine,
	};
	struct storm storm = {
		.nr_queues = 4,
		.depth = 16,
		.nr_requests = nr_requests,
		.seed = size,
		.no_clears = no_clears,
	};
	struct err err = { 0 };
	char path[64];

	storm_make_file(path, size, 1);
	options.path = path;
	storm.model = malloc(size);
	storm_fill(storm.model, size, 1);
	assert_int_equal(blk_open(&storm.blk, &options, &err), 0);
	assert_int_equal(blk_info(storm.blk)->size, size);
	storm_run(&storm);
	assert_int_equal(storm.nr_done, 4 * nr_requests);
	assert_int_equal(storm.nr_errors, 0);
	assert_int_equal(storm.nr_mismatches, 0);
	assert_int_equal(storm.nr_twice, 0);
	blk_close(storm.blk);
	assert_file_is(path, storm.model, size);
	unlink(path);
	free(storm.model);
}

/* 4 x 30,000 requests, each of which completes once with the right data. */
static void e9_e10_storm_io_uring(void **state)
{
	run_storm("io_uring", false, 30000, SIZE, false);
}

static void e9_e10_storm_threads(void **state)
{
	run_storm("threads", false, 30000, SIZE, false);
}

static void e4_storm_direct(void **state)
{
	run_storm("io_uring", true, 1000, SIZE, false);
	run_storm("threads", true, 1000, SIZE, true);
}

static void no_op(struct blk_req *req)
{
}

/* More pieces than one system call takes (IOV_MAX). */
static void many_iovecs(void **state)
{
	enum { NR = 3000 };
	const uint64_t len = NR * BLK_SECTOR;
	uint8_t *buf = malloc(len), *model = malloc(SIZE);
	struct iovec *iov = calloc(NR, sizeof(*iov));

	storm_fill(model, SIZE, 2);
	for (int i = 0; i < NR; i++) {
		iov[i].iov_base = buf + i * BLK_SECTOR;
		iov[i].iov_len = BLK_SECTOR;
	}
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct blk_req req = {
			.op = BLK_READ,
			.offset = 4096,
			.len = len,
			.iov = iov,
			.nr_iov = NR,
			.done = no_op,
		};
		struct disk disk;
		char path[64];

		storm_make_file(path, SIZE, 2);
		open_disk(&disk, path, engines[i]);
		memset(buf, 0, len);
		blk_submit(disk.queue, &req);
		blk_drain(disk.queue);
		assert_int_equal(req.result, 0);
		assert_int_equal(memcmp(buf, model + 4096, len), 0);

		req.op = BLK_WRITE;
		req.offset = 8192;
		blk_submit(disk.queue, &req);
		blk_drain(disk.queue);
		assert_int_equal(req.result, 0);
		memset(buf, 0, len);
		assert_int_equal(
			storm_one(disk.queue, BLK_READ, 8192, buf, len), 0);
		assert_int_equal(memcmp(buf, model + 4096, len), 0);
		close_disk(&disk);
		unlink(path);
	}
	free(iov);
	free(buf);
	free(model);
}

/* A file that ends within a sector: the rest reads as zeroes, and a write makes
 * it whole. */
static void file_of_odd_size(void **state)
{
	for (size_t i = 0; i < 2 * ARRAY_SIZE(engines); i++) {
		struct blk_options options = {
			.is_writable = true,
			.direct = i >= ARRAY_SIZE(engines),
			.engine = engines[i % ARRAY_SIZE(engines)],
		};
		struct disk disk = { 0 };
		uint8_t buf[1536], model[1536] = { 0 };
		struct stat st;
		char path[64];

		storm_make_file(path, 1100, 3);
		storm_fill(model, 1100, 3);
		options.path = path;
		assert_int_equal(blk_open(&disk.blk, &options, &disk.err), 0);
		attach(&disk);
		assert_int_equal(blk_info(disk.blk)->size, 1536);
		memset(buf, 0xff, sizeof(buf));
		assert_int_equal(storm_one(disk.queue, BLK_READ, 0, buf, 1536),
				 0);
		assert_int_equal(memcmp(buf, model, 1536), 0);
		memset(buf, 0xff, sizeof(buf));
		assert_int_equal(
			storm_one(disk.queue, BLK_READ, 1024, buf, 512), 0);
		assert_int_equal(memcmp(buf, model + 1024, 512), 0);

		storm_fill(model + 1024, 512, 4);
		assert_int_equal(storm_one(disk.queue, BLK_WRITE, 1024,
					   model + 1024, 512),
				 0);
		assert_int_equal(storm_one(disk.queue, BLK_READ, 0, buf, 1536),
				 0);
		assert_int_equal(memcmp(buf, model, 1536), 0);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_size, 1536);
		close_disk(&disk);
		unlink(path);
	}
}

/* A file that someone cut is an error, not zeroes. */
static void file_that_shrank(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct disk disk;
		uint8_t buf[4096];
		char path[64];

		storm_make_file(path, 64 * KiB, 5);
		open_disk(&disk, path, engines[i]);
		assert_int_equal(truncate(path, 1024), 0);
		assert_int_equal(storm_one(disk.queue, BLK_READ, 0, buf, 4096),
				 -EIO);
		close_disk(&disk);
		unlink(path);
	}
}

static void e4_sparse(void **state)
{
	char path[] = "/tmp/ringer-blk-XXXXXX";
	uint8_t buf[4096];
	struct disk disk;
	struct stat st;

	close(mkstemp(path));
	assert_int_equal(truncate(path, 1024 * GiB), 0);
	open_disk(&disk, path, "auto");
	storm_fill(buf, sizeof(buf), 6);
	assert_int_equal(storm_one(disk.queue, BLK_WRITE, 700 * GiB, buf, 4096),
			 0);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(storm_one(disk.queue, BLK_READ, 699 * GiB, buf, 4096),
			 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks * 512 < 64 * 1024);
	assert_int_equal(
		storm_one(disk.queue, BLK_DISCARD, 0, NULL, 1024 * GiB), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_blocks, 0);
	close_disk(&disk);
	unlink(path);
}

static void bad_requests(void **state)
{
	uint8_t buf[1024];
	struct iovec iov = { .iov_base = buf, .iov_len = 512 };
	struct blk_req req = {
		.op = BLK_WRITE,
		.len = 1024,
		.iov = &iov,
		.nr_iov = 1,
		.done = no_op,
	};
	struct disk disk;
	char path[64];

	storm_make_file(path, 64 * KiB, 7);
	open_disk(&disk, path, "auto");
	assert_int_equal(storm_one(disk.queue, BLK_READ, 64 * KiB, buf, 512),
			 -EINVAL);
	assert_int_equal(
		storm_one(disk.queue, BLK_READ, 64 * KiB - 512, buf, 1024),
		-EINVAL);
	assert_int_equal(storm_one(disk.queue, BLK_READ, -512ULL, buf, 1024),
			 -EINVAL);
	assert_int_equal(storm_one(disk.queue, BLK_READ, 1, buf, 512), -EINVAL);
	assert_int_equal(storm_one(disk.queue, BLK_READ, 0, buf, 511), -EINVAL);
	assert_int_equal(storm_one(disk.queue, BLK_DISCARD, 0, NULL, 128 * KiB),
			 -EINVAL);
	assert_int_equal(
		storm_one(disk.queue, BLK_WRITE_ZEROES + 1, 0, buf, 512),
		-EINVAL);
	assert_int_equal(storm_one(disk.queue, BLK_READ, 0, buf, 0), 0);
	blk_submit(disk.queue, &req); /* its pieces are shorter than it */
	blk_drain(disk.queue);
	assert_int_equal(req.result, -EINVAL);
	close_disk(&disk);
	unlink(path);
}

/* Without room: /dev/full refuses every write, and cannot be flushed. */
static void write_errors(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct disk disk;
		uint8_t buf[4096] = { 0 };

		open_fd(&disk, "/dev/full", engines[i]);
		assert_int_equal(storm_one(disk.queue, BLK_WRITE, 0, buf, 4096),
				 -ENOSPC);
		assert_int_equal(
			storm_one(disk.queue, BLK_WRITE_ZEROES, 0, NULL, 4096),
			-ENOSPC);
		close_disk(&disk);
	}
}

/* Page 0 of a process is not there: reading it is an input/output error. */
static void read_errors(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct disk disk;
		uint8_t buf[4096];

		open_fd(&disk, "/proc/self/mem", engines[i]);
		assert_int_equal(storm_one(disk.queue, BLK_READ, 0, buf, 4096),
				 -EIO);
		close_disk(&disk);
	}
}

static void failed_flush_latches(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct disk disk;

		open_fd(&disk, "/dev/full", engines[i]);
		assert_int_equal(storm_one(disk.queue, BLK_FLUSH, 0, NULL, 0),
				 -EINVAL);
		assert_true(disk.blk->is_failed);
		assert_int_equal(storm_one(disk.queue, BLK_FLUSH, 0, NULL, 0),
				 -EIO);
		assert_int_equal(disk.blk->nr_errors, 2);
		close_disk(&disk);
	}
}

static unsigned nr_late;

static void count_failure(struct blk_req *req)
{
	nr_late += req->result < 0;
}

/* Of flushes that wait together none succeeds once one has failed. */
static void all_waiting_flushes_fail(void **state)
{
	struct blk_req reqs[32] = { 0 };
	struct disk disk;

	nr_late = 0;
	open_fd(&disk, "/dev/full", "auto");
	for (size_t i = 0; i < ARRAY_SIZE(reqs); i++) {
		reqs[i].op = BLK_FLUSH;
		reqs[i].done = count_failure;
		blk_submit(disk.queue, &reqs[i]);
	}
	blk_drain(disk.queue);
	assert_int_equal(nr_late, ARRAY_SIZE(reqs));
	close_disk(&disk);
}

/* A write that is cut short by a limit continues, and then fails; what was
 * written before stays readable. */
static void short_write_is_continued(void **state)
{
	struct rlimit old, limit;
	uint8_t *buf = malloc(MiB), *got = malloc(MiB);

	storm_fill(buf, MiB, 8);
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		char path[] = "/tmp/ringer-blk-XXXXXX";
		struct disk disk;

		close(mkstemp(path));
		assert_int_equal(truncate(path, 4 * MiB), 0);
		open_disk(&disk, path, engines[i]);
		limit = (struct rlimit){ 512 * KiB, old.rlim_max };
		setrlimit(RLIMIT_FSIZE, &limit);
		assert_int_equal(storm_one(disk.queue, BLK_WRITE, 0, buf, MiB),
				 -EFBIG);
		setrlimit(RLIMIT_FSIZE, &old);
		assert_int_equal(storm_one(disk.queue, BLK_READ, 0, got, MiB),
				 0);
		assert_int_equal(memcmp(got, buf, 512 * KiB), 0);
		close_disk(&disk);
		unlink(path);
	}
	free(buf);
	free(got);
}

static unsigned nr_completed;

static void count_done(struct blk_req *req)
{
	nr_completed++;
}

struct close_call {
	struct disk *disk;
	struct blk_req *reqs;
	unsigned nr;
	bool must_close;
};

static void submit_and_wait(void *opaque)
{
	struct close_call *call = opaque;

	for (unsigned i = 0; i < call->nr; i++)
		blk_submit(call->disk->queue, &call->reqs[i]);
	if (call->must_close)
		blk_queue_close(call->disk->queue);
	else
		blk_drain(call->disk->queue);
}

/* A running loop's queue with far more in flight than its depth is drained, and
 * closed, on that loop: everything has completed when that returns. */
static void drain_and_close_wait(void **state)
{
	enum { NR = 300 };
	struct blk_req *reqs = calloc(NR, sizeof(*reqs));
	struct iovec *iov = calloc(NR, sizeof(*iov));
	uint8_t *buf = malloc(NR * 4096);

	for (size_t i = 0; i < 2 * ARRAY_SIZE(engines); i++) {
		struct disk disk = { 0 };
		struct close_call call = { &disk, reqs, NR, i % 2 };
		struct blk_options options = {
			.is_writable = true,
			.engine = engines[i / 2],
		};
		char path[64];

		storm_make_file(path, SIZE, 9);
		options.path = path;
		assert_int_equal(blk_open(&disk.blk, &options, &disk.err), 0);
		assert_int_equal(
			loop_thread_create(&disk.loop, "test", &disk.err), 0);
		assert_int_equal(blk_queue_open(&disk.queue, disk.blk,
						disk.loop, 8, &disk.err),
				 0);
		for (unsigned n = 0; n < NR; n++) {
			iov[n].iov_base = buf + n * 4096;
			iov[n].iov_len = 4096;
			reqs[n] = (struct blk_req){
				.op = n % 10 ? BLK_READ : BLK_FLUSH,
				.offset = n % 100 * 64 * KiB,
				.len = 4096,
				.iov = &iov[n],
				.nr_iov = 1,
				.done = count_done,
			};
		}
		nr_completed = 0;
		loop_call(disk.loop, submit_and_wait, &call);
		assert_int_equal(nr_completed, NR);
		if (!call.must_close)
			blk_queue_close(disk.queue);
		loop_thread_destroy(disk.loop);
		blk_close(disk.blk);
		unlink(path);
	}
	free(buf);
	free(iov);
	free(reqs);
}

static uint64_t stat_of(const struct stats_group *group, const char *name)
{
	for (const struct stat_desc *d = group->descs; d->name; d++)
		if (!strcmp(d->name, name))
			return stats_read(group, d);
	fail_msg("no counter %s", name);
	return 0;
}

static void e10_statistics(void **state)
{
	struct stats stats;
	struct stats_group *group;
	uint64_t nr_latencies = 0;
	struct disk disk;
	uint8_t buf[4096] = { 0 };
	char path[64];

	storm_make_file(path, 64 * KiB, 10);
	open_disk(&disk, path, "auto");
	stats_init(&stats);
	blk_add_stats(disk.blk, &stats, "disk0");
	storm_one(disk.queue, BLK_READ, 0, buf, 4096);
	storm_one(disk.queue, BLK_WRITE, 0, buf, 1024);
	storm_one(disk.queue, BLK_WRITE, 0, buf, 512);
	storm_one(disk.queue, BLK_FLUSH, 0, NULL, 0);
	storm_one(disk.queue, BLK_READ, 1, buf, 512);
	group = list_entry(stats.groups.next, struct stats_group, link);
	assert_string_equal(group->name, "disk0");
	assert_int_equal(stat_of(group, "reads"), 1);
	assert_int_equal(stat_of(group, "read_bytes"), 4096);
	assert_int_equal(stat_of(group, "writes"), 2);
	assert_int_equal(stat_of(group, "written_bytes"), 1536);
	assert_int_equal(stat_of(group, "flushes"), 1);
	assert_int_equal(stat_of(group, "errors"), 1);
	for (const struct stat_desc *d = group->descs; d->name; d++)
		if (!strncmp(d->name, "latency", 7))
			nr_latencies += stats_read(group, d);
	assert_int_equal(nr_latencies, 5);
	close_disk(&disk);
	assert_true(list_is_empty(&stats.groups));
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(e9_e10_storm_io_uring),
		cmocka_unit_test(e9_e10_storm_threads),
		cmocka_unit_test(e4_storm_direct),
		cmocka_unit_test(e4_sparse),
		cmocka_unit_test(many_iovecs),
		cmocka_unit_test(file_of_odd_size),
		cmocka_unit_test(file_that_shrank),
		cmocka_unit_test(bad_requests),
		cmocka_unit_test(write_errors),
		cmocka_unit_test(read_errors),
		cmocka_unit_test(failed_flush_latches),
		cmocka_unit_test(all_waiting_flushes_fail),
		cmocka_unit_test(short_write_is_continued),
		cmocka_unit_test(drain_and_close_wait),
		cmocka_unit_test(e10_statistics),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
