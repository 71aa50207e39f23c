/*
 * Blocks of decoded instructions: the code that ran lately, ready to run again.
 *
 * A block is straight-line code from one page, up to and with a branch. It is
 * found by its RIP, the mode and the host address of its bytes, and holds a
 * copy of those bytes: each time before it runs they are compared with what is
 * in memory now. So whatever changed the code, this CPU, another one, a device
 * or a new mapping, a stale block never runs, and nothing has to be told about
 * writes. (A store into the page of the running block ends that block.)
 *
 * An instruction over the end of a page is a block of its own.
 */
#ifndef VCPU_INTERP_BLOCK_H
#define VCPU_INTERP_BLOCK_H

#include "vcpu/interp/uop.h"

/** A block; its uops, and what they point to, follow it in the cache. Good for
 * as long as block_is_current() says so and the cache was not reset. */
/* Bytes of a block that (word) holds, behind the first eight. */
#define BLOCK_WORDS        3
#define BLOCK_INLINE_BYTES (8 + 8 * BLOCK_WORDS + 8)

struct block {
	/* What is looked at each time, in one cache line */
	uint64_t rip;
	const uint8_t *hva;    /* of the first byte */
	struct block *link[2]; /* what ran next lately: straight on, or not */
	uint64_t first, first_mask, last; /* bytes: the first and last eight */
	uint16_t len;
	uint8_t nr_uops;
	uint8_t mode;       /* enum insn_mode */
	bool is_straddling; /* goes on in the next page */
	int8_t first_off;   /* where the bytes for (first) are, from hva */
	/* and in the next */
	struct block *chain;        /* in the same bucket */
	uint64_t word[BLOCK_WORDS]; /* bytes between (first) and (last); what
				     * does not fit is behind (uops) */
	struct uop uops[];
};

_Static_assert(offsetof(struct block, chain) == 64, "a cache line");

/** Make an empty cache for (cpu). 0 or -ENOMEM. */
int block_cache_create(struct cpu *cpu);
void block_cache_destroy(struct cpu *cpu);

/** What ran lately, by RIP: a first guess for branches whose target varies. */
#define BLOCK_GUESS_BITS 12
static inline unsigned block_guess(uint64_t rip)
{
	return (unsigned)(rip ^ rip >> BLOCK_GUESS_BITS) &
	       ((1 << BLOCK_GUESS_BITS) - 1);
}

/** The block at (cpu)'s s.rip, whose code is at (hva): from the cache, if it is
 * still what memory says, or made now. Raises what fetching and decoding the
 * first instruction raise. All blocks got before may be gone. */
struct block *block_get(struct cpu *cpu, uint64_t linear, const uint8_t *hva);

static inline uint64_t load_word(const uint8_t *hva)
{
	return *(const volatile uint64_t *)(const void *)hva;
}

/** Further bytes of (b), as words. */
static inline uint64_t *block_words(const struct block *b)
{
	return (uint64_t *)(uintptr_t)(b->uops + b->nr_uops);
}

/** Are the bytes of (b), which are in one page, unchanged? */
static inline bool block_is_current(const struct block *b)
{
	const uint8_t *hva = b->hva;
	uint64_t diff =
		(load_word(hva + b->first_off) ^ b->first) & b->first_mask;

	if (b->len > 8) {
		unsigned n = (b->len - 9U) / 8;

		diff |= load_word(hva + b->len - 8) ^ b->last;
		for (unsigned i = 0; i < n && i < BLOCK_WORDS; i++)
			diff |= load_word(hva + 8 + 8 * i) ^ b->word[i];
		for (unsigned i = BLOCK_WORDS; i < n; i++)
			diff |= load_word(hva + 8 + 8 * i) ^
				block_words(b)[i - BLOCK_WORDS];
	}
	return !diff;
}

#endif
