#include "state/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/overflow.h"

#define HEADER_SIZE 16

void stream_init_save(struct stream *s)
{
	*s = (struct stream){ 0 };
}

void stream_init_load(struct stream *s, const void *data, size_t len)
{
	*s = (struct stream){ .len = len, .is_loading = true };
	/* Never written through: (is_loading) decides. */
	memcpy(&s->data, &data, sizeof(data));
}

void stream_finish(struct stream *s)
{
	if (!s->is_loading)
		free(s->data);
	*s = (struct stream){ 0 };
}

static void fail(struct stream *s, int error)
{
	if (!s->error)
		s->error = error;
}

/* Room for (len) more bytes at the end of what is saved. */
static bool grow(struct stream *s, size_t len)
{
	size_t need, cap = s->cap ? s->cap : 4096;
	uint8_t *data;

	if (add_overflow(s->len, len, &need) || need > SIZE_MAX / 2) {
		fail(s, -ENOMEM);
		return false;
	}
	if (need <= s->cap)
		return true;
	while (cap < need)
		cap *= 2;
	data = realloc(s->data, cap);
	if (!data) {
		fail(s, -ENOMEM);
		return false;
	}
	s->data = data;
	s->cap = cap;
	return true;
}

void stream_bytes(struct stream *s, void *p, size_t len)
{
	size_t end = s->depth ? s->open[s->depth - 1].end : s->len;

	if (!len)
		return;
	if (s->is_loading) {
		if (!s->error && len > end - s->pos)
			fail(s, -EINVAL);
		if (s->error) {
			memset(p, 0, len);
			return;
		}
		memcpy(p, s->data + s->pos, len);
		s->pos += len;
	} else if (!s->error && grow(s, len)) {
		memcpy(s->data + s->len, p, len);
		s->len += len;
	}
}

void stream_u8(struct stream *s, uint8_t *v)
{
	stream_bytes(s, v, sizeof(*v));
}

/* The host is little-endian, as the format is. */
void stream_u16(struct stream *s, uint16_t *v)
{
	stream_bytes(s, v, sizeof(*v));
}

void stream_u32(struct stream *s, uint32_t *v)
{
	stream_bytes(s, v, sizeof(*v));
}

void stream_u64(struct stream *s, uint64_t *v)
{
	stream_bytes(s, v, sizeof(*v));
}

void stream_i64(struct stream *s, int64_t *v)
{
	stream_bytes(s, v, sizeof(*v));
}

void stream_bool(struct stream *s, bool *v)
{
	uint8_t byte = s->is_loading ? 0 : *v;

	stream_u8(s, &byte);
	stream_check(s, byte <= 1);
	*v = s->error && s->is_loading ? false : byte;
}

void stream_check(struct stream *s, bool ok)
{
	if (!ok)
		fail(s, -EINVAL);
}

uint32_t stream_begin(struct stream *s, uint32_t tag, uint32_t version)
{
	uint32_t stored_tag = tag, stored_version = version;
	size_t at = s->is_loading ? s->pos : s->len;
	size_t outer = s->depth ? s->open[s->depth - 1].end : s->len;
	uint64_t length = 0;

	stream_u32(s, &stored_tag);
	stream_u32(s, &stored_version);
	stream_u64(s, &length);
	if (s->is_loading && !s->error)
		stream_check(s, stored_tag == tag && stored_version &&
					stored_version <= version &&
					length <= outer - s->pos);
	if (s->error)
		return 0;
	vm_assert(s->depth < ARRAY_SIZE(s->open));
	s->open[s->depth].at = at;
	s->open[s->depth].end = s->pos + length;
	s->depth++;
	return stored_version;
}

void stream_end(struct stream *s)
{
	if (s->error)
		return;
	vm_assert(s->depth);
	s->depth--;
	if (s->is_loading) {
		stream_check(s, s->pos == s->open[s->depth].end);
	} else {
		size_t at = s->open[s->depth].at;

		store_le64(s->data + at + 8, s->len - at - HEADER_SIZE);
	}
}
