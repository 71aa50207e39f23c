/*
 * An io_uring on a loop. Operations that are started during one callback go
 * to the kernel together when it has returned; completions arrive on the loop.
 */
#ifndef HOST_URING_H
#define HOST_URING_H

#include "base/base.h"
#include "base/err.h"
#include "base/list.h"

struct io_uring_sqe;
struct loop;
struct uring;

/** One operation; embedded by its owner until (done). */
struct uring_op {
	struct list link;
	/* Fill the entry in; soon after uring_start(). */
	void (*prep)(struct uring_op *op, struct io_uring_sqe *sqe);
	/* It ended with (result), 0 or more, or -errno. May start others, but
	 * not destroy the ring. */
	void (*done)(struct uring_op *op, int result);
};

/** 0 where this process may use io_uring with what ringer needs of it, else
 * the -errno that the kernel gave: -ENOSYS, -EPERM, -ENOMEM. */
int uring_probe(void);

/** Make a ring of about (entries) for (loop). Used on the loop's thread only,
 * but made and destroyed by any while the loop does not run. */
int uring_create(struct uring **out, struct loop *loop, unsigned entries,
		 struct err *err);
/** Free it; nothing is in flight. */
void uring_destroy(struct uring *uring);

/** Start (op). More than the ring holds wait in order. Never calls (done). */
void uring_start(struct uring *uring, struct uring_op *op);

/** Wait until something in flight has ended and call its (done). False when
 * nothing is. */
bool uring_wait(struct uring *uring);

#endif
