#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "state/stream.h"

#define TAG_OUTER STREAM_TAG('O', 'U', 'T', 'R')
#define TAG_INNER STREAM_TAG('I', 'N', 'N', 'R')

struct sample {
	uint8_t a;
	uint16_t b;
	uint32_t c;
	uint64_t d;
	int64_t e;
	bool f;
	char g[5];
	uint32_t index;
};

static const struct sample sample = {
	0x12, 0x3456, 0x789abcde, 0x1122334455667788, -42, true, "wire", 3
};

static void transfer(struct stream *s, struct sample *x, uint32_t version)
{
	stream_begin(s, TAG_OUTER, version);
	stream_u8(s, &x->a);
	stream_u16(s, &x->b);
	stream_begin(s, TAG_INNER, 1);
	stream_u32(s, &x->c);
	stream_u64(s, &x->d);
	stream_i64(s, &x->e);
	stream_end(s);
	stream_bool(s, &x->f);
	stream_bytes(s, x->g, sizeof(x->g));
	stream_u32(s, &x->index);
	stream_check(s, x->index < 8);
	stream_end(s);
}

static size_t save(uint8_t *buf, size_t size, struct sample x)
{
	struct stream s;
	size_t len;

	stream_init_save(&s);
	transfer(&s, &x, 1);
	assert_int_equal(stream_error(&s), 0);
	assert_int_equal(s.depth, 0);
	len = s.len;
	assert_true(len <= size);
	memcpy(buf, s.data, len);
	stream_finish(&s);
	return len;
}

static int load(const void *data, size_t len, struct sample *x)
{
	struct stream s;

	stream_init_load(&s, data, len);
	transfer(&s, x, 1);
	return stream_error(&s);
}

static void round_trip(void **state)
{
	uint8_t buf[256];
	struct sample x;
	size_t len = save(buf, sizeof(buf), sample);

	assert_int_equal(load(buf, len, &x), 0);
	assert_int_equal(x.a, sample.a);
	assert_int_equal(x.b, sample.b);
	assert_int_equal(x.c, sample.c);
	assert_int_equal(x.d, sample.d);
	assert_int_equal(x.e, sample.e);
	assert_true(x.f);
	assert_string_equal(x.g, "wire");
	assert_int_equal(x.index, 3);
	/* u32 tag, u32 version, u64 length. */
	assert_int_equal(load_le32(buf), TAG_OUTER);
	assert_int_equal(load_le32(buf + 4), 1);
	assert_int_equal(load_le64(buf + 8), len - 16);
}

/* From a heap block of just that size, so that ASan sees a byte too far. */
static void truncation_at_every_byte(void **state)
{
	uint8_t buf[256];
	size_t len = save(buf, sizeof(buf), sample);

	for (size_t n = 0; n < len; n++) {
		struct sample x = { 0 };
		uint8_t *copy = malloc(n ? n : 1);

		assert_non_null(copy);
		memcpy(copy, buf, n);
		assert_int_equal(load(copy, n, &x), -EINVAL);
		assert_int_equal(x.index, 0);
		free(copy);
	}
}

static void bad_records_are_refused(void **state)
{
	static const struct {
		size_t at;
		uint8_t value;
	} edits[] = {
		{ 0, 'X' },   /* outer tag */
		{ 4, 2 },     /* a version of the future */
		{ 4, 0 },     /* no version */
		{ 8, 0xff },  /* outer length: beyond the end */
		{ 15, 0xff }, /* the same, enormous */
		{ 8, 1 },     /* too short */
		{ 19, 'X' },  /* inner tag */
		{ 27, 21 },   /* inner length: bytes left unread */
		{ 27, 19 },   /* inner length: a field is cut */
		{ 55, 2 },    /* bool */
		{ 61, 8 },    /* index out of range */
	};
	uint8_t buf[256];
	struct sample x;
	size_t len = save(buf, sizeof(buf), sample);

	assert_int_equal(load(buf, len, &x), 0);
	for (size_t i = 0; i < ARRAY_SIZE(edits); i++) {
		uint8_t old = buf[edits[i].at];

		buf[edits[i].at] = edits[i].value;
		assert_int_equal(load(buf, len, &x), -EINVAL);
		buf[edits[i].at] = old;
	}
}

static void every_corrupt_byte_is_survived(void **state)
{
	uint8_t buf[256];
	struct sample x;
	size_t len = save(buf, sizeof(buf), sample);

	for (size_t i = 0; i < len; i++) {
		for (unsigned v = 0; v < 256; v++) {
			uint8_t old = buf[i];

			buf[i] = (uint8_t)v;
			load(buf, len, &x);
			buf[i] = old;
		}
	}
}

static void old_version_is_told(void **state)
{
	uint8_t buf[256];
	struct stream s;
	size_t len = save(buf, sizeof(buf), sample);

	stream_init_load(&s, buf, len);
	assert_int_equal(stream_begin(&s, TAG_OUTER, 7), 1);
}

static void large_payload_grows(void **state)
{
	size_t len = 3 * MiB + 1;
	uint8_t *in = malloc(len), *out = malloc(len);
	struct stream s, t;

	assert_non_null(in);
	assert_non_null(out);
	memset(in, 0x5a, len);
	stream_init_save(&s);
	stream_begin(&s, TAG_OUTER, 1);
	stream_bytes(&s, in, len);
	stream_end(&s);
	stream_init_load(&t, s.data, s.len);
	stream_begin(&t, TAG_OUTER, 1);
	stream_bytes(&t, out, len);
	stream_end(&t);
	assert_int_equal(stream_error(&t), 0);
	assert_memory_equal(in, out, len);
	stream_finish(&t);
	stream_finish(&s);
	free(in);
	free(out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(truncation_at_every_byte),
		cmocka_unit_test(bad_records_are_refused),
		cmocka_unit_test(every_corrupt_byte_is_survived),
		cmocka_unit_test(old_version_is_told),
		cmocka_unit_test(large_payload_grows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
