#include "fake_blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOG_SIZE 4096

struct fake_blk {
	struct blk blk; /* first */
	uint8_t *data;
	pthread_t thread;
	pthread_mutex_t lock; /* what follows */
	pthread_cond_t changed;
	struct list waiting; /* of struct blk_req */
	unsigned nr_waiting;
	unsigned delay_us;
	unsigned seed;
	bool is_held, is_ending;
	int fail[BLK_NR_OPS];
	struct fake_blk_entry log[LOG_SIZE];
	unsigned nr_log;
};

static struct fake_blk *to_fake(struct blk *blk)
{
	return (struct fake_blk *)blk;
}

static void copy(struct fake_blk *f, struct blk_req *req)
{
	uint64_t at = req->offset, left = req->len;

	for (int i = 0; i < req->nr_iov && left; i++) {
		uint64_t n = MIN(left, req->iov[i].iov_len);

		if (req->op == BLK_READ)
			memcpy(req->iov[i].iov_base, f->data + at, n);
		else
			memcpy(f->data + at, req->iov[i].iov_base, n);
		at += n;
		left -= n;
	}
}

/* With the lock held. */
static int perform(struct fake_blk *f, struct blk_req *req)
{
	if (f->nr_log < LOG_SIZE)
		f->log[f->nr_log++] = (struct fake_blk_entry){
			.op = req->op, .offset = req->offset, .len = req->len
		};
	if (f->fail[req->op])
		return f->fail[req->op];
	if (req->op == BLK_READ || req->op == BLK_WRITE)
		copy(f, req);
	else if (req->op != BLK_FLUSH)
		memset(f->data + req->offset, 0, req->len);
	return 0;
}

/* One that waits, chosen at random, so that they end in any order. */
static struct blk_req *pick(struct fake_blk *f)
{
	unsigned n = (unsigned)rand_r(&f->seed) % f->nr_waiting;
	struct blk_req *req;

	list_for_each (req, &f->waiting, link) {
		if (!n--)
			return req;
	}
	return NULL;
}

static void *run(void *opaque)
{
	struct fake_blk *f = opaque;
	struct blk_req *req;
	unsigned us;

	pthread_mutex_lock(&f->lock);
	while (!f->is_ending) {
		if (f->is_held || !f->nr_waiting) {
			pthread_cond_wait(&f->changed, &f->lock);
			continue;
		}
		us = f->delay_us ? (unsigned)rand_r(&f->seed) % f->delay_us : 0;
		if (us) {
			struct timespec ts = { .tv_nsec = us * 1000L };

			pthread_mutex_unlock(&f->lock);
			nanosleep(&ts, NULL);
			pthread_mutex_lock(&f->lock);
		}
		if (f->is_held)
			continue;
		req = pick(f);
		list_remove(&req->link);
		f->nr_waiting--;
		blk_complete_later(req, perform(f, req));
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static void submit(struct blk_queue *queue, struct blk_req *req)
{
	struct fake_blk *f = to_fake(queue->blk);

	pthread_mutex_lock(&f->lock);
	list_insert(&f->waiting, &req->link);
	f->nr_waiting++;
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

static void destroy(struct blk *blk)
{
}

static const struct blk_ops ops = {
	.format = "fake",
	.queue_size = sizeof(struct blk_queue),
	.submit = submit,
	.destroy = destroy,
};

struct fake_blk *fake_blk_create(uint64_t size, bool is_read_only)
{
	struct fake_blk *f = calloc(1, sizeof(*f));
	int ret;

	vm_assert(f);
	blk_init(&f->blk, &ops, size, "/fake/disk");
	f->blk.info.is_read_only = is_read_only;
	f->data = calloc(1, size);
	vm_assert(f->data);
	f->seed = 1;
	list_init(&f->waiting);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	ret = pthread_create(&f->thread, NULL, run, f);
	vm_assert(!ret);
	return f;
}

void fake_blk_destroy(struct fake_blk *f)
{
	pthread_mutex_lock(&f->lock);
	vm_assert(!f->nr_waiting);
	f->is_ending = true;
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
	blk_close(&f->blk);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->changed);
	free(f->data);
	free(f);
}

struct blk *fake_blk_get(struct fake_blk *f)
{
	return &f->blk;
}

void fake_blk_delay(struct fake_blk *f, unsigned us)
{
	pthread_mutex_lock(&f->lock);
	f->delay_us = us;
	pthread_mutex_unlock(&f->lock);
}

void fake_blk_hold(struct fake_blk *f, bool is_held)
{
	pthread_mutex_lock(&f->lock);
	f->is_held = is_held;
	pthread_cond_signal(&f->changed);
	pthread_mutex_unlock(&f->lock);
}

void fake_blk_fail(struct fake_blk *f, enum blk_op op, int result)
{
	pthread_mutex_lock(&f->lock);
	f->fail[op] = result;
	pthread_mutex_unlock(&f->lock);
}

uint8_t *fake_blk_data(struct fake_blk *f)
{
	return f->data;
}

unsigned fake_blk_waiting(struct fake_blk *f)
{
	unsigned n;

	pthread_mutex_lock(&f->lock);
	n = f->nr_waiting;
	pthread_mutex_unlock(&f->lock);
	return n;
}

bool fake_blk_log(struct fake_blk *f, unsigned n, struct fake_blk_entry *e)
{
	bool is_there;

	pthread_mutex_lock(&f->lock);
	is_there = n < f->nr_log;
	if (is_there)
		*e = f->log[n];
	pthread_mutex_unlock(&f->lock);
	return is_there;
}
