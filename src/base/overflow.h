/* Checked arithmetic on values that a guest, an image or a client chose. */
#ifndef BASE_OVERFLOW_H
#define BASE_OVERFLOW_H

#include "base/base.h"

/* True, and (*out) unspecified, when the result does not fit. */
#define add_overflow(a, b, out) __builtin_add_overflow(a, b, out)
#define sub_overflow(a, b, out) __builtin_sub_overflow(a, b, out)
#define mul_overflow(a, b, out) __builtin_mul_overflow(a, b, out)

/* Is [start, start + len) inside [0, limit)? An empty range at limit is. */
static inline bool range_fits(uint64_t start, uint64_t len, uint64_t limit)
{
	return start <= limit && len <= limit - start;
}

/* Do two ranges, neither of which wraps, share a byte? */
static inline bool range_overlaps(uint64_t a, uint64_t a_len, uint64_t b,
				  uint64_t b_len)
{
	return a_len && b_len && a < b + b_len && b < a + a_len;
}

#endif
