/*
 * Writing to what may block: terminals that are stopped, pipes that nobody
 * reads, slow files. O_NONBLOCK is no way out, for it belongs to the open file,
 * which the shell and other programs share. So a thread does the writing and
 * may sit in write() as long as it likes; cancelling it is allowed there and
 * nowhere else.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "chr/chr_impl.h"
#include "host/clock.h"
#include "host/thread.h"

/* write() or wait, as the one place where the thread may be cancelled. Nothing
 * on the stack has an address here: the address sanitizer cannot follow it. */
static ssize_t write_some(struct writer *writer, const uint8_t *buf, size_t len)
{
	ssize_t n;

	pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
	n = write(writer->ready.fd, buf, len);
	if (n < 0)
		n = -errno;
	if (n == -EAGAIN)
		poll(&writer->ready, 1, -1); /* others made it non-blocking */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	return n;
}

/* Lock held, and released while writing. */
static void write_all(struct writer *writer, size_t len)
{
	struct chr *chr = writer->chr;
	const uint8_t *buf = writer->buf;
	ssize_t n;

	while (len && !chr->is_dead) {
		pthread_mutex_unlock(&chr->lock);
		n = write_some(writer, buf, len);
		pthread_mutex_lock(&chr->lock);
		if (n >= 0) {
			buf += n;
			len -= n;
			writer->nr_writes++;
			pthread_cond_broadcast(&writer->changed);
		} else if (n != -EAGAIN && n != -EINTR) {
			chr->is_dead = true;
		}
	}
	chr->nr_dropped += len;
}

static void *writer_thread(void *opaque)
{
	struct writer *writer = opaque;
	struct chr *chr = writer->chr;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	pthread_mutex_lock(&chr->lock);
	for (;;) {
		while (!chr->out.len && !writer->is_ending)
			pthread_cond_wait(&writer->changed, &chr->lock);
		if (!chr->out.len || chr->is_dead)
			break;
		write_all(writer, fifo_get(&chr->out, writer->buf,
					   sizeof(writer->buf)));
	}
	chr->nr_dropped += chr->out.len;
	fifo_drop(&chr->out, chr->out.len);
	writer->is_done = true;
	pthread_cond_broadcast(&writer->changed);
	pthread_mutex_unlock(&chr->lock);
	return NULL;
}

int writer_start(struct writer *writer, struct chr *chr, int fd,
		 struct err *err)
{
	pthread_condattr_t attr;
	int r;

	writer->chr = chr;
	writer->ready = (struct pollfd){ .fd = fd, .events = POLLOUT };
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&writer->changed, &attr);
	pthread_condattr_destroy(&attr);
	r = thread_create(&writer->thread, "chr-writer", writer_thread, writer,
			  err);
	if (r < 0)
		pthread_cond_destroy(&writer->changed);
	else
		writer->is_started = true;
	return r;
}

void writer_wake(struct writer *writer)
{
	pthread_cond_broadcast(&writer->changed);
}

/* Lock held. Wait for the thread's end, or until nothing moved for so long. */
static void wait_for_end(struct writer *writer, unsigned patience_ms)
{
	struct timespec until;
	uint64_t seen;
	int64_t ns;
	int r = 0;

	while (!writer->is_done && r != ETIMEDOUT) {
		seen = writer->nr_writes;
		ns = clock_now_ns() + patience_ms * NSEC_PER_MSEC;
		until.tv_sec = ns / NSEC_PER_SEC;
		until.tv_nsec = ns % NSEC_PER_SEC;
		for (r = 0; !writer->is_done && seen == writer->nr_writes &&
			    r != ETIMEDOUT;)
			r = pthread_cond_timedwait(&writer->changed,
						   &writer->chr->lock, &until);
	}
}

void writer_stop(struct writer *writer, unsigned patience_ms)
{
	struct chr *chr = writer->chr;
	bool must_cancel;

	if (!writer->is_started)
		return;
	pthread_mutex_lock(&chr->lock);
	writer->is_ending = true;
	pthread_cond_broadcast(&writer->changed);
	wait_for_end(writer, patience_ms);
	must_cancel = !writer->is_done;
	chr->is_dead = true;
	pthread_mutex_unlock(&chr->lock);
	if (must_cancel) {
		log_warn("output was lost: its reader does not read");
		pthread_cancel(writer->thread);
	}
	pthread_join(writer->thread, NULL);
	pthread_cond_destroy(&writer->changed);
}
