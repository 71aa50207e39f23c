/* A user that records what a stream tells it, and a way to let a loop run until
 * something is so. */
#ifndef TESTS_CHR_CHR_TEST_H
#define TESTS_CHR_CHR_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "chr/chr.h"
#include "host/clock.h"
#include "host/loop.h"

struct recorder {
	struct loop *loop;
	struct chr *chr;
	size_t limit; /* of what it takes in total */
	uint8_t got[256 * 1024];
	size_t len;
	unsigned nr_quits, columns, rows, nr_resizes;
};

static inline size_t recorder_can_receive(void *opaque)
{
	struct recorder *r = opaque;

	return r->limit - r->len;
}

static inline void recorder_receive(void *opaque, const uint8_t *buf,
				    size_t len)
{
	struct recorder *r = opaque;

	assert_true(len <= r->limit - r->len);
	memcpy(r->got + r->len, buf, len);
	r->len += len;
}

static inline void recorder_resized(void *opaque, unsigned columns,
				    unsigned rows)
{
	struct recorder *r = opaque;

	r->columns = columns;
	r->rows = rows;
	r->nr_resizes++;
}

static inline void recorder_quit(void *opaque)
{
	struct recorder *r = opaque;

	r->nr_quits++;
}

/* Open (spec) with a recorder as its user. */
static inline struct recorder *recorder_open(const char *spec)
{
	struct recorder *r = calloc(1, sizeof(*r));
	struct chr_user user = {
		.can_receive = recorder_can_receive,
		.receive = recorder_receive,
		.resized = recorder_resized,
		.opaque = r,
	};
	struct chr_keys keys = { .quit = recorder_quit, .opaque = r };
	struct err err = { 0 };

	r->limit = sizeof(r->got);
	assert_int_equal(loop_create(&r->loop, "test", &err), 0);
	if (chr_open(&r->chr, spec, r->loop, &keys, &err) < 0)
		fail_msg("%s", err.what);
	chr_set_user(r->chr, &user);
	return r;
}

static inline void recorder_close(struct recorder *r)
{
	chr_close(r->chr);
	loop_destroy(r->loop);
	free(r);
}

static inline void recorder_stop(void *opaque)
{
	loop_stop(opaque);
}

static inline void run_ms(struct recorder *r, unsigned ms)
{
	loop_timer(r->loop, clock_now_ns() + ms * NSEC_PER_MSEC, recorder_stop,
		   r->loop);
	loop_run(r->loop);
}

/* Let the loop run until (cond), for five seconds at most. */
#define run_until(r, cond)                                   \
	do {                                                 \
		for (int i_ = 0; !(cond) && i_ < 2500; i_++) \
			run_ms(r, 2);                        \
		assert_true(cond);                           \
	} while (0)

#define assert_got(r, text)                                    \
	do {                                                   \
		run_until(r, (r)->len >= sizeof(text) - 1);    \
		assert_int_equal((r)->len, sizeof(text) - 1);  \
		assert_memory_equal((r)->got, text, (r)->len); \
	} while (0)

#endif
