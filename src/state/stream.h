/*
 * The wire format in which devices and CPUs write themselves down.
 *
 *   record:  u32 tag | u32 version | u64 length | payload
 *
 * A payload is a sequence of fixed-width little-endian fields and nested
 * records. Loading is hostile-input-safe: reading past a record's end fails
 * and keeps failing, so a loader checks once, at the end.
 */
#ifndef STATE_STREAM_H
#define STATE_STREAM_H

#include "base/base.h"
#include "base/err.h"

/** A growing buffer when saving, a borrowed one when loading. */
struct stream {
	uint8_t *data;
	size_t len, cap, pos;
	bool is_loading;
	int error; /* 0 or the first -errno */
	unsigned depth;
	struct {
		size_t at, end;
	} open[8];
};

/** Four letters as a tag. */
#define STREAM_TAG(a, b, c, d)                                      \
	((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | \
	 (uint32_t)(d) << 24)

/** Start to save into an empty stream; stream_finish() frees the buffer. */
void stream_init_save(struct stream *s);
/** Start to load (len) bytes at (data), which are borrowed. */
void stream_init_load(struct stream *s, const void *data, size_t len);
/** Free what saving allocated. */
void stream_finish(struct stream *s);

/** Open a record. Saving writes (version); loading requires (tag) and returns
 * the stored version, at most (version), or 0 after an error. */
uint32_t stream_begin(struct stream *s, uint32_t tag, uint32_t version);
/** Close the innermost record. Loading fails if bytes are left unread. */
void stream_end(struct stream *s);

/** Transfer one value in the stream's direction. After an error they do
 * nothing, and loads give zero. */
void stream_u8(struct stream *s, uint8_t *v);
void stream_u16(struct stream *s, uint16_t *v);
void stream_u32(struct stream *s, uint32_t *v);
void stream_u64(struct stream *s, uint64_t *v);
void stream_i64(struct stream *s, int64_t *v);
/** A bool; loading refuses anything but 0 and 1. */
void stream_bool(struct stream *s, bool *v);
/** (len) raw bytes. */
void stream_bytes(struct stream *s, void *p, size_t len);

/** Mark the stream failed (-EINVAL) when (ok) is false: for values that the
 * loader must be able to trust, such as an index. */
void stream_check(struct stream *s, bool ok);

/** 0 or the first error, as -errno. */
static inline int stream_error(const struct stream *s)
{
	return s->error;
}

#endif
