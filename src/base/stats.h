/*
 * Statistics: counters that live where they are counted, and one list of
 * where they are. Counting is a plain increment by the owner; reading is done
 * by the control thread without a lock, and may be a count behind.
 */
#ifndef BASE_STATS_H
#define BASE_STATS_H

#include "base/base.h"
#include "base/list.h"

/** One machine's list of counters. */
struct stats {
	struct list groups;
};

/** A counter's place in the struct that holds it, always a uint64_t. */
struct stat_desc {
	const char *name;
	size_t offset;
};

#define STAT(type, member)                                        \
	{                                                         \
		.name = #member, .offset = offsetof(type, member) \
	}

/** Counters of one owner, linked into the machine's list; the owner embeds
 * it. (descs) ends with an entry without a name. */
struct stats_group {
	struct list link;
	char name[32];
	const struct stat_desc *descs;
	const void *base;
	bool is_sparse; /* one of many kinds each: leave out those at 0 */
};

/** Prepare an empty list. */
void stats_init(struct stats *stats);

/** List the counters (descs) of (base) as (name). The group is borrowed until
 * stats_remove(); call both from the main loop's thread or before it runs. */
void stats_add(struct stats *stats, struct stats_group *group, const char *name,
	       const struct stat_desc *descs, const void *base);

/** Take (group) out of its list; nothing where it is in none. */
void stats_remove(struct stats_group *group);

/** Count (n) more. For counters that several threads count; where one owner
 * does, a plain increment is enough. */
static inline void stat_add(uint64_t *counter, uint64_t n)
{
	__atomic_add_fetch(counter, n, __ATOMIC_RELAXED);
}

/** The value of the counter (desc) in (group). */
uint64_t stats_read(const struct stats_group *group,
		    const struct stat_desc *desc);

#endif
