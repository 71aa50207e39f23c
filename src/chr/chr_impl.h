/* What a kind of character stream provides; devices use chr/chr.h. */
#ifndef CHR_CHR_IMPL_H
#define CHR_CHR_IMPL_H

#include <poll.h>
#include <pthread.h>

#include "chr/chr.h"
#include "host/loop.h"

#define CHR_BUFFER      (64 * KiB)
#define CHR_FILE_BUFFER MiB

/** A byte queue of a fixed size. */
struct fifo {
	uint8_t *buf;
	size_t size, start, len;
};

/** Make it hold up to (size) bytes; fifo_free() also takes a zeroed one. */
int fifo_init(struct fifo *fifo, size_t size);
void fifo_free(struct fifo *fifo);
/** Append, dropping the oldest bytes where there is no room. Returns how many
 * were dropped. */
size_t fifo_put(struct fifo *fifo, const uint8_t *buf, size_t len);
/** The first bytes in one piece, (*len) of them. */
const uint8_t *fifo_peek(const struct fifo *fifo, size_t *len);
/** Take the first (len) bytes away. */
void fifo_drop(struct fifo *fifo, size_t len);
/** Take up to (max) bytes into (buf); returns how many. */
size_t fifo_get(struct fifo *fifo, uint8_t *buf, size_t max);

static inline size_t fifo_room(const struct fifo *fifo)
{
	return fifo->size - fifo->len;
}

/** A kind of stream. All but close may be NULL. */
struct chr_ops {
	/* Something is in (out). Any thread, with the lock held. */
	void (*output)(struct chr *chr);
	/* There is room in (in) again. On the loop's thread. */
	void (*input)(struct chr *chr);
	/* The terminal's size. */
	void (*size)(unsigned *columns, unsigned *rows);
	/* Free everything, chr_fini() included. */
	void (*close)(struct chr *chr);
};

/** The common part of every stream; a kind embeds it first. */
struct chr {
	const struct chr_ops *ops;
	struct loop *loop;
	struct chr_keys keys;
	struct chr_user user; /* of the loop's thread, as is (in) */
	bool has_user;
	struct fifo in;
	struct loop_work deliver;

	pthread_mutex_t lock; /* what follows */
	struct fifo out;
	uint64_t nr_dropped;
	bool is_dead; /* nobody will ever read (out) */
};

/** Prepare the common part, with buffers of these sizes; 0 for none. Undone by
 * chr_fini(), also where it fails. */
int chr_init(struct chr *chr, const struct chr_ops *ops, struct loop *loop,
	     size_t in_size, size_t out_size);
void chr_fini(struct chr *chr);
/** Hand (in) to the user, as far as it takes it. On the loop's thread. */
void chr_deliver(struct chr *chr);

/** A thread that writes (chr->out) to a descriptor, which may block it. */
struct writer {
	struct chr *chr;
	struct pollfd ready;
	pthread_t thread;
	pthread_cond_t changed; /* with the stream's lock */
	bool is_started, is_ending, is_done;
	uint64_t nr_writes;
	uint8_t buf[4096]; /* the thread's */
};

/** Start it; -errno with (err). */
int writer_start(struct writer *writer, struct chr *chr, int fd,
		 struct err *err);
/** Something is in (chr->out); the stream's lock is held. */
void writer_wake(struct writer *writer);
/** Let it write the rest, but give up once nothing moves for (patience_ms), and
 * end it. Nothing where it was not started. */
void writer_stop(struct writer *writer, unsigned patience_ms);

/** The kinds; see chr_open(). */
int chr_stdio_open(struct chr **chr, struct loop *loop,
		   const struct chr_keys *keys, struct err *err);
int chr_file_open(struct chr **chr, const char *path, struct loop *loop,
		  struct err *err);
int chr_socket_open(struct chr **chr, const char *path, struct loop *loop,
		    struct err *err);

#endif
