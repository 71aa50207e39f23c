/*
 * A storm of random requests on several queues at once, each queue with a loop
 * on a thread of its own, checked against a copy of the disk in memory.
 *
 * The disk is cut into lanes of 16 sectors that go to the queues in turn, so
 * four queues share each 64-bit word of a map of sectors. A queue has at most
 * one request under way in a lane; what it finds there is thus known.
 */
#ifndef TESTS_BLOCK_STORM_H
#define TESTS_BLOCK_STORM_H

#include "block/blk.h"

#define STORM_LANE_SECTORS 16
#define STORM_MAX_QUEUES   4

/** What to do, and what came of it. */
struct storm {
	struct blk *blk;
	uint8_t *model; /* what the disk holds; (blk_info()->size) bytes */
	unsigned nr_queues, depth, nr_requests; /* requests per queue */
	unsigned seed;
	bool no_clears; /* neither discards nor zeroes */
	/* Results */
	uint64_t nr_done, nr_errors, nr_mismatches, nr_twice;
};

/** Run it to its end. */
void storm_run(struct storm *storm);

/** One request, waited for, on a queue whose loop does not run. Its result. */
int storm_one(struct blk_queue *queue, enum blk_op op, uint64_t offset,
	      void *buf, uint64_t len);

/** Fill (buf) with bytes that (seed) determines. */
void storm_fill(uint8_t *buf, uint64_t len, unsigned seed);

/** Make a file of (len) such bytes in a new place, written to (path), which has
 * room for 64 characters. */
void storm_make_file(char *path, uint64_t len, unsigned seed);

#endif
