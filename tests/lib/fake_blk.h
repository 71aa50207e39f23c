/*
 * A disk in memory whose requests take as long as a test wants, on a thread of
 * its own, and that notes what it was asked.
 */
#ifndef TESTS_LIB_FAKE_BLK_H
#define TESTS_LIB_FAKE_BLK_H

#include "block/blk_impl.h"

struct fake_blk;

/** What was asked, in the order in which it was done. */
struct fake_blk_entry {
	enum blk_op op;
	uint64_t offset, len;
};

/** A disk of (size) zeroed bytes. */
struct fake_blk *fake_blk_create(uint64_t size, bool is_read_only);
void fake_blk_destroy(struct fake_blk *f);
/** To lend to a device. */
struct blk *fake_blk_get(struct fake_blk *f);

/** Requests take up to (us), at random; data moves at the end of it. */
void fake_blk_delay(struct fake_blk *f, unsigned us);
/** Keep requests until told otherwise. */
void fake_blk_hold(struct fake_blk *f, bool is_held);
/** Requests of (op) end with (result) from now on; 0: as they should. */
void fake_blk_fail(struct fake_blk *f, enum blk_op op, int result);

/** The contents; while nothing is in flight. */
uint8_t *fake_blk_data(struct fake_blk *f);
/** Requests that were taken and have not ended. */
unsigned fake_blk_waiting(struct fake_blk *f);
/** Entry (n) of the log; false when there are not that many. The first 4096
 * are kept. */
bool fake_blk_log(struct fake_blk *f, unsigned n, struct fake_blk_entry *e);

#endif
