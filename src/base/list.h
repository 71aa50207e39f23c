/* An intrusive, circular, doubly linked list. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/base.h"

/** A link, and the head of a list when no entry is around it. */
struct list {
	struct list *prev, *next;
};

#define LIST_INIT(head)                          \
	{                                        \
		.prev = &(head), .next = &(head) \
	}

static inline void list_init(struct list *head)
{
	head->prev = head->next = head;
}

static inline bool list_is_empty(const struct list *head)
{
	return head->next == head;
}

/* Put (entry) in front of (before); with the head, that is the end. */
static inline void list_insert(struct list *before, struct list *entry)
{
	entry->prev = before->prev;
	entry->next = before;
	before->prev->next = entry;
	before->prev = entry;
}

/* Take (entry) out and leave it an empty list, so that it is safe twice. */
static inline void list_remove(struct list *entry)
{
	entry->prev->next = entry->next;
	entry->next->prev = entry->prev;
	list_init(entry);
}

#define list_entry(ptr, type, member) container_of(ptr, type, member)

#define list_for_each(pos, head, member)                               \
	for (pos = list_entry((head)->next, __typeof__(*pos), member); \
	     &pos->member != (head);                                   \
	     pos = list_entry(pos->member.next, __typeof__(*pos), member))

/* As list_for_each, but (pos) may be removed from the list in the body. */
#define list_for_each_safe(pos, tmp, head, member)                        \
	for (pos = list_entry((head)->next, __typeof__(*pos), member),    \
	    tmp = list_entry(pos->member.next, __typeof__(*pos), member); \
	     &pos->member != (head); pos = tmp,                           \
	    tmp = list_entry(tmp->member.next, __typeof__(*tmp), member))

#endif
