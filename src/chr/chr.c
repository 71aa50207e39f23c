/*
 * What all streams share. Input waits in (in) until the user takes it, on the
 * loop's thread. Output waits in (out), under the lock, until the kind of
 * stream has written it: a thread where writing may block, the loop else.
 */
#include "chr/chr.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chr/chr_impl.h"

int fifo_init(struct fifo *fifo, size_t size)
{
	fifo->buf = size ? malloc(size) : NULL;
	fifo->size = size;
	return size && !fifo->buf ? -ENOMEM : 0;
}

void fifo_free(struct fifo *fifo)
{
	free(fifo->buf);
}

size_t fifo_put(struct fifo *fifo, const uint8_t *buf, size_t len)
{
	size_t dropped = 0, end, n;

	if (len > fifo->size) {
		dropped = len - fifo->size;
		buf += dropped;
		len = fifo->size;
	}
	if (len > fifo_room(fifo)) {
		n = len - fifo_room(fifo);
		fifo_drop(fifo, n);
		dropped += n;
	}
	if (!len)
		return dropped;
	end = (fifo->start + fifo->len) % fifo->size;
	n = MIN(len, fifo->size - end);
	memcpy(fifo->buf + end, buf, n);
	memcpy(fifo->buf, buf + n, len - n);
	fifo->len += len;
	return dropped;
}

const uint8_t *fifo_peek(const struct fifo *fifo, size_t *len)
{
	*len = MIN(fifo->len, fifo->size - fifo->start);
	return fifo->buf + fifo->start;
}

void fifo_drop(struct fifo *fifo, size_t len)
{
	fifo->len -= len;
	fifo->start = fifo->len ? (fifo->start + len) % fifo->size : 0;
}

size_t fifo_get(struct fifo *fifo, uint8_t *buf, size_t max)
{
	size_t got = 0, n;

	while (got < max && fifo->len) {
		const uint8_t *p = fifo_peek(fifo, &n);

		n = MIN(n, max - got);
		memcpy(buf + got, p, n);
		fifo_drop(fifo, n);
		got += n;
	}
	return got;
}

/* Taken out before it is handed over, for the user may call back. */
void chr_deliver(struct chr *chr)
{
	bool was_full = chr->in.len && !fifo_room(&chr->in);
	uint8_t buf[256];
	size_t n;

	while (chr->has_user && chr->in.len) {
		n = chr->user.can_receive(chr->user.opaque);
		if (!n)
			break;
		n = fifo_get(&chr->in, buf, MIN(n, sizeof(buf)));
		chr->user.receive(chr->user.opaque, buf, n);
	}
	if (was_full && fifo_room(&chr->in) && chr->ops->input)
		chr->ops->input(chr);
}

static void run_deliver(void *opaque)
{
	chr_deliver(opaque);
}

int chr_init(struct chr *chr, const struct chr_ops *ops, struct loop *loop,
	     size_t in_size, size_t out_size)
{
	chr->ops = ops;
	chr->loop = loop;
	chr->deliver.fn = run_deliver;
	chr->deliver.opaque = chr;
	pthread_mutex_init(&chr->lock, NULL);
	if (fifo_init(&chr->in, in_size) < 0 ||
	    fifo_init(&chr->out, out_size) < 0)
		return -ENOMEM;
	return 0;
}

void chr_fini(struct chr *chr)
{
	loop_unpost(chr->loop, &chr->deliver);
	pthread_mutex_destroy(&chr->lock);
	fifo_free(&chr->in);
	fifo_free(&chr->out);
}

/* --- "none" ------------------------------------------------------------- */

static void none_close(struct chr *chr)
{
	chr_fini(chr);
	free(chr);
}

static const struct chr_ops none_ops = { .close = none_close };

static int none_open(struct chr **out, struct loop *loop, struct err *err)
{
	struct chr *chr = calloc(1, sizeof(*chr));

	if (!chr)
		return err_set(err, ENOMEM, NULL, "cannot open a stream:");
	chr_init(chr, &none_ops, loop, 0, 0);
	*out = chr;
	return 0;
}

/* --- for the users ------------------------------------------------------ */

/* What follows (prefix) in (spec), or NULL. */
static const char *after(const char *spec, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(spec, prefix, len) == 0 && spec[len] ? spec + len : NULL;
}

int chr_open(struct chr **chr, const char *spec, struct loop *loop,
	     const struct chr_keys *keys, struct err *err)
{
	const char *path;

	if (!strcmp(spec, "none"))
		return none_open(chr, loop, err);
	if (!strcmp(spec, "stdio"))
		return chr_stdio_open(chr, loop, keys, err);
	path = after(spec, "file:");
	if (path)
		return chr_file_open(chr, path, loop, err);
	path = after(spec, "unix:");
	if (path)
		return chr_socket_open(chr, path, loop, err);
	return err_set(err, EINVAL, "it is stdio, none, file:PATH or unix:PATH",
		       "unknown stream '%s'", spec);
}

void chr_close(struct chr *chr)
{
	if (chr)
		chr->ops->close(chr);
}

struct set_user {
	struct chr *chr;
	const struct chr_user *user;
};

static void set_user(void *opaque)
{
	struct set_user *call = opaque;
	struct chr *chr = call->chr;

	chr->has_user = call->user;
	if (!call->user)
		return;
	chr->user = *call->user;
	if (chr->in.len)
		chr_resume(chr);
}

void chr_set_user(struct chr *chr, const struct chr_user *user)
{
	struct set_user call = { .chr = chr, .user = user };

	loop_call(chr->loop, set_user, &call);
}

void chr_write(struct chr *chr, const uint8_t *buf, size_t len)
{
	if (!chr->ops->output)
		return;
	pthread_mutex_lock(&chr->lock);
	if (chr->is_dead) {
		chr->nr_dropped += len;
	} else {
		chr->nr_dropped += fifo_put(&chr->out, buf, len);
		chr->ops->output(chr);
	}
	pthread_mutex_unlock(&chr->lock);
}

uint64_t chr_dropped(struct chr *chr)
{
	uint64_t n;

	pthread_mutex_lock(&chr->lock);
	n = chr->nr_dropped;
	pthread_mutex_unlock(&chr->lock);
	return n;
}

void chr_resume(struct chr *chr)
{
	loop_post(chr->loop, &chr->deliver);
}

void chr_size(struct chr *chr, unsigned *columns, unsigned *rows)
{
	*columns = *rows = 0;
	if (chr->ops->size)
		chr->ops->size(columns, rows);
}
