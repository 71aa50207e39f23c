#include "storm.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/loop.h"

#define LANE      (STORM_LANE_SECTORS * BLK_SECTOR)
#define MAX_DEPTH 32
#define MAX_IOV   8
/* Room for pieces that lie apart and begin at odd places */
#define BUF_LEN (LANE + MAX_IOV * 64)

struct worker;

struct slot {
	struct blk_req req;
	struct worker *worker;
	struct iovec iov[MAX_IOV];
	uint8_t *buf, expected[LANE];
	uint64_t lane;
	bool is_busy;
};

struct worker {
	struct storm *storm;
	unsigned index;
	struct loop *loop;
	struct blk_queue *queue;
	uint64_t random;
	unsigned nr_left, nr_busy;
	bool *lane_is_busy;
	struct slot slots[MAX_DEPTH];
	uint64_t nr_done, nr_errors, nr_mismatches, nr_twice;
	sem_t ended;
};

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

void storm_fill(uint8_t *buf, uint64_t len, unsigned seed)
{
	uint64_t x = 0x9e3779b97f4a7c15ULL * (seed + 1);

	for (uint64_t i = 0; i < len; i += 8) {
		uint64_t value = next_random(&x);

		memcpy(buf + i, &value, MIN(8, len - i));
	}
}

void storm_make_file(char *path, uint64_t len, unsigned seed)
{
	uint8_t *buf = malloc(len);
	int fd;

	snprintf(path, 64, "/tmp/ringer-blk-XXXXXX");
	fd = mkstemp(path);
	storm_fill(buf, len, seed);
	if (fd < 0 || write(fd, buf, len) != (ssize_t)len)
		abort();
	close(fd);
	free(buf);
}

/* Lay (len) bytes out in pieces of any length with gaps between. */
static void make_iov(struct slot *slot, uint64_t len)
{
	uint64_t *x = &slot->worker->random;
	uint8_t *p = slot->buf;
	int nr = 0;

	while (len) {
		uint64_t n = len;

		if (nr < MAX_IOV - 1 && next_random(x) % 4)
			n = 1 + next_random(x) % len;
		if (next_random(x) % 2)
			p += next_random(x) % 64;
		slot->iov[nr].iov_base = p;
		slot->iov[nr++].iov_len = n;
		p += n;
		len -= n;
	}
	slot->req.iov = slot->iov;
	slot->req.nr_iov = nr;
}

static void copy_to_iov(struct slot *slot, const uint8_t *from)
{
	for (int i = 0; i < slot->req.nr_iov; i++) {
		memcpy(slot->iov[i].iov_base, from, slot->iov[i].iov_len);
		from += slot->iov[i].iov_len;
	}
}

static bool iov_equals(struct slot *slot, const uint8_t *expected)
{
	for (int i = 0; i < slot->req.nr_iov; i++) {
		if (memcmp(slot->iov[i].iov_base, expected,
			   slot->iov[i].iov_len))
			return false;
		expected += slot->iov[i].iov_len;
	}
	return true;
}

static enum blk_op choose_op(struct worker *worker)
{
	unsigned n = next_random(&worker->random) % 100;

	if (n < 2)
		return BLK_FLUSH;
	if (n < 46 || worker->storm->no_clears)
		return n % 2 ? BLK_READ : BLK_WRITE;
	if (n < 88)
		return n % 2 ? BLK_READ : BLK_WRITE;
	return n < 94 ? BLK_DISCARD : BLK_WRITE_ZEROES;
}

static void start(struct slot *slot)
{
	struct worker *worker = slot->worker;
	struct storm *storm = worker->storm;
	uint64_t *x = &worker->random;
	uint64_t nr_lanes =
		blk_info(storm->blk)->size / LANE / storm->nr_queues;
	struct blk_req *req = &slot->req;
	unsigned first, nr;

	do
		slot->lane = next_random(x) % nr_lanes;
	while (worker->lane_is_busy[slot->lane]);
	worker->lane_is_busy[slot->lane] = true;
	first = next_random(x) % STORM_LANE_SECTORS;
	nr = 1 + next_random(x) % (STORM_LANE_SECTORS - first);

	req->op = choose_op(worker);
	req->offset = (slot->lane * storm->nr_queues + worker->index) * LANE +
		      first * BLK_SECTOR;
	req->len = nr * BLK_SECTOR;
	req->may_unmap = next_random(x) % 2;
	make_iov(slot, req->len);
	if (req->op == BLK_WRITE) {
		storm_fill(slot->expected, req->len, next_random(x));
		copy_to_iov(slot, slot->expected);
		memcpy(storm->model + req->offset, slot->expected, req->len);
	} else if (req->op == BLK_DISCARD || req->op == BLK_WRITE_ZEROES) {
		memset(storm->model + req->offset, 0, req->len);
	}
	slot->is_busy = true;
	worker->nr_busy++;
	worker->nr_left--;
	blk_submit(worker->queue, req);
}

static void fill_queue(void *opaque)
{
	struct worker *worker = opaque;

	for (unsigned i = 0; i < worker->storm->depth && worker->nr_left; i++)
		if (!worker->slots[i].is_busy)
			start(&worker->slots[i]);
	if (!worker->nr_left && !worker->nr_busy)
		sem_post(&worker->ended);
}

static void slot_done(struct blk_req *req)
{
	struct slot *slot = container_of(req, struct slot, req);
	struct worker *worker = slot->worker;

	if (!slot->is_busy) {
		worker->nr_twice++;
		return;
	}
	worker->nr_done++;
	if (req->result)
		worker->nr_errors++;
	else if (req->op == BLK_READ &&
		 !iov_equals(slot, worker->storm->model + req->offset))
		worker->nr_mismatches++;
	worker->lane_is_busy[slot->lane] = false;
	slot->is_busy = false;
	worker->nr_busy--;
	fill_queue(worker);
}

static void worker_open(void *opaque)
{
	struct worker *worker = opaque;
	struct storm *storm = worker->storm;
	struct err err = { 0 };

	if (blk_queue_open(&worker->queue, storm->blk, worker->loop,
			   storm->depth, &err) < 0)
		abort();
	fill_queue(worker);
}

static void worker_close(void *opaque)
{
	struct worker *worker = opaque;

	blk_queue_close(worker->queue);
}

static struct worker *worker_start(struct storm *storm, unsigned index)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	struct err err = { 0 };

	worker->storm = storm;
	worker->index = index;
	worker->random = 88172645463325252ULL + storm->seed * 1000 + index;
	worker->nr_left = storm->nr_requests;
	worker->lane_is_busy = calloc(blk_info(storm->blk)->size / LANE, 1);
	sem_init(&worker->ended, 0, 0);
	for (unsigned i = 0; i < storm->depth; i++) {
		worker->slots[i].worker = worker;
		worker->slots[i].req.done = slot_done;
		worker->slots[i].buf = malloc(BUF_LEN);
	}
	if (loop_thread_create(&worker->loop, "storm", &err) < 0)
		abort();
	loop_call(worker->loop, worker_open, worker);
	return worker;
}

static void worker_end(struct worker *worker)
{
	struct storm *storm = worker->storm;

	while (sem_wait(&worker->ended))
		;
	loop_call(worker->loop, worker_close, worker);
	loop_thread_destroy(worker->loop);
	storm->nr_done += worker->nr_done;
	storm->nr_errors += worker->nr_errors;
	storm->nr_mismatches += worker->nr_mismatches;
	storm->nr_twice += worker->nr_twice;
	for (unsigned i = 0; i < storm->depth; i++)
		free(worker->slots[i].buf);
	sem_destroy(&worker->ended);
	free(worker->lane_is_busy);
	free(worker);
}

void storm_run(struct storm *storm)
{
	struct worker *workers[STORM_MAX_QUEUES];

	for (unsigned i = 0; i < storm->nr_queues; i++)
		workers[i] = worker_start(storm, i);
	for (unsigned i = 0; i < storm->nr_queues; i++)
		worker_end(workers[i]);
}

static void one_done(struct blk_req *req)
{
}

int storm_one(struct blk_queue *queue, enum blk_op op, uint64_t offset,
	      void *buf, uint64_t len)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct blk_req req = {
		.op = op,
		.may_unmap = true,
		.offset = offset,
		.len = len,
		.iov = &iov,
		.nr_iov = 1,
		.result = 1,
		.done = one_done,
	};

	blk_submit(queue, &req);
	blk_drain(queue);
	return req.result;
}
