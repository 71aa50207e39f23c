#include "base/stats.h"

#include <stdio.h>

void stats_init(struct stats *stats)
{
	list_init(&stats->groups);
}

void stats_add(struct stats *stats, struct stats_group *group, const char *name,
	       const struct stat_desc *descs, const void *base)
{
	snprintf(group->name, sizeof(group->name), "%s", name);
	group->descs = descs;
	group->base = base;
	list_insert(&stats->groups, &group->link);
}

void stats_remove(struct stats_group *group)
{
	/* Zeroed storage that was never listed. */
	if (group->link.next)
		list_remove(&group->link);
}

uint64_t stats_read(const struct stats_group *group,
		    const struct stat_desc *desc)
{
	const char *at = (const char *)group->base + desc->offset;

	return __atomic_load_n((const uint64_t *)(const void *)at,
			       __ATOMIC_RELAXED);
}
