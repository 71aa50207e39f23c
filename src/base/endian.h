/* Little-endian loads and stores at any alignment. The host is x86-64, so
 * these are plain moves; the names say what the format is. */
#ifndef BASE_ENDIAN_H
#define BASE_ENDIAN_H

#include <string.h>

#include "base/base.h"

#define DEFINE_LE(bits)                                              \
	static inline uint##bits##_t load_le##bits(const void *p)    \
	{                                                            \
		uint##bits##_t v;                                    \
		memcpy(&v, p, sizeof(v));                            \
		return v;                                            \
	}                                                            \
	static inline void store_le##bits(void *p, uint##bits##_t v) \
	{                                                            \
		memcpy(p, &v, sizeof(v));                            \
	}

DEFINE_LE(16)
DEFINE_LE(32)
DEFINE_LE(64)
#undef DEFINE_LE

/* (size) is 1, 2, 4 or 8. */
static inline uint64_t load_le(const void *p, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, p, size);
	return v;
}

static inline void store_le(void *p, unsigned size, uint64_t v)
{
	memcpy(p, &v, size);
}

#endif
