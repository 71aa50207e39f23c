/* Bits and fields of registers. */
#ifndef BASE_BITS_H
#define BASE_BITS_H

#include "base/base.h"

#define BIT(n) (1ULL << (n))
/* Bits (hi) down to (lo), both included. */
#define MASK(hi, lo) ((~0ULL >> (63 - (hi))) & (~0ULL << (lo)))

/* The field of (width) bits at (lo). */
static inline uint64_t bits_get(uint64_t x, unsigned lo, unsigned width)
{
	return (x >> lo) & (width >= 64 ? ~0ULL : BIT(width) - 1);
}

/* All ones in the low (size) bytes: what an access to nothing reads. */
static inline uint64_t size_mask(unsigned size)
{
	return size >= 8 ? ~0ULL : BIT(size * 8) - 1;
}

static inline int64_t sign_extend(uint64_t x, unsigned width)
{
	return (int64_t)(x << (64 - width)) >> (64 - width);
}

#endif
