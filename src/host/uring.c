#include "host/uring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <liburing.h>

#include "base/log.h"
#include "host/loop.h"

#define MAX_ENTRIES 1024u

struct uring {
	struct io_uring ring;
	struct loop *loop;
	struct loop_fd ready;   /* the ring's descriptor: completions */
	struct loop_work flush; /* hands (waiting) to the kernel */
	struct list waiting;
	unsigned nr_in_flight, max;
	bool has_told;
};

static int init_ring(struct io_uring *ring, unsigned entries)
{
	/* Without it the kernel interrupts this thread at every completion;
	 * it sees them at its next system call anyway. */
	int r = io_uring_queue_init(entries, ring, IORING_SETUP_COOP_TASKRUN);

	if (r == -EINVAL) /* before Linux 5.19 */
		r = io_uring_queue_init(entries, ring, 0);
	return r;
}

int uring_probe(void)
{
	struct io_uring_probe *probe;
	struct io_uring ring;
	int r = init_ring(&ring, 2);

	if (r < 0)
		return r;
	probe = io_uring_get_probe_ring(&ring);
	if (!probe || !io_uring_opcode_supported(probe, IORING_OP_READV) ||
	    !io_uring_opcode_supported(probe, IORING_OP_WRITEV))
		r = -ENOSYS;
	io_uring_free_probe(probe);
	io_uring_queue_exit(&ring);
	return r;
}

static void reap(struct uring *uring)
{
	struct io_uring_cqe *cqe;
	struct uring_op *op;
	int result;

	while (!io_uring_peek_cqe(&uring->ring, &cqe)) {
		op = io_uring_cqe_get_data(cqe);
		result = cqe->res;
		io_uring_cqe_seen(&uring->ring, cqe);
		uring->nr_in_flight--;
		op->done(op, result);
	}
}

/* Move what waits into the ring. */
static void fill(struct uring *uring)
{
	struct io_uring_sqe *sqe;
	struct uring_op *op;

	while (!list_is_empty(&uring->waiting) &&
	       uring->nr_in_flight < uring->max) {
		sqe = io_uring_get_sqe(&uring->ring);
		if (!sqe)
			break;
		op = list_entry(uring->waiting.next, struct uring_op, link);
		list_remove(&op->link);
		op->prep(op, sqe);
		io_uring_sqe_set_data(sqe, op);
		uring->nr_in_flight++;
	}
}

/* A refused submission stays in the ring and is tried again. */
static void check_submit(struct uring *uring, int r)
{
	if (r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY)
		return;
	if (!uring->has_told)
		log_warn("io_uring: %s; trying again", strerror(-r));
	uring->has_told = true;
}

static void flush(void *opaque)
{
	struct uring *uring = opaque;

	fill(uring);
	if (io_uring_sq_ready(&uring->ring))
		check_submit(uring, io_uring_submit(&uring->ring));
	/* What the page cache had is complete already. */
	reap(uring);
	if (io_uring_sq_ready(&uring->ring) ||
	    (!list_is_empty(&uring->waiting) &&
	     uring->nr_in_flight < uring->max))
		loop_post(uring->loop, &uring->flush);
}

static void ready(void *opaque, uint32_t events)
{
	struct uring *uring = opaque;

	reap(uring);
	if (!list_is_empty(&uring->waiting))
		loop_post(uring->loop, &uring->flush);
}

int uring_create(struct uring **out, struct loop *loop, unsigned entries,
		 struct err *err)
{
	struct uring *uring = calloc(1, sizeof(*uring));
	int r;

	if (!uring)
		return err_set(err, ENOMEM, NULL, "cannot make an io_uring:");
	entries = MIN(MAX(entries, 2u), MAX_ENTRIES);
	r = init_ring(&uring->ring, entries);
	if (r < 0)
		goto err_free;
	uring->max = uring->ring.sq.ring_entries;
	uring->loop = loop;
	list_init(&uring->waiting);
	uring->flush.fn = flush;
	uring->ready.fn = ready;
	uring->ready.fd = uring->ring.ring_fd;
	uring->flush.opaque = uring->ready.opaque = uring;
	r = loop_watch(loop, &uring->ready, EPOLLIN);
	if (r < 0)
		goto err_exit;
	*out = uring;
	return 0;

err_exit:
	io_uring_queue_exit(&uring->ring);
err_free:
	free(uring);
	return err_set(err, -r, NULL, "cannot make an io_uring:");
}

void uring_destroy(struct uring *uring)
{
	vm_assert(!uring->nr_in_flight && list_is_empty(&uring->waiting));
	loop_unpost(uring->loop, &uring->flush);
	loop_unwatch(&uring->ready);
	io_uring_queue_exit(&uring->ring);
	free(uring);
}

void uring_start(struct uring *uring, struct uring_op *op)
{
	list_insert(&uring->waiting, &op->link);
	loop_post(uring->loop, &uring->flush);
}

bool uring_wait(struct uring *uring)
{
	if (!uring->nr_in_flight && list_is_empty(&uring->waiting))
		return false;
	fill(uring);
	check_submit(uring, io_uring_submit_and_wait(&uring->ring, 1));
	reap(uring);
	return true;
}
