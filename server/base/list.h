/* SPDX-License-Identifier: MIT */
#pragma once

/* A doubly linked list whose links stand inside what is linked. An empty list points to itself. */

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next;
	struct list *prev;
};

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define list_for_each(pos, head)                                                                   \
	for (struct list *pos = (head)->next; pos != (head); pos = pos->next)

/* The current element may be removed, or freed, in the body. */
#define list_for_each_safe(pos, head)                                                              \
	for (struct list *pos = (head)->next, *pos##_next = pos->next; pos != (head);              \
		pos = pos##_next, pos##_next = pos->next)

static inline void list_init(struct list *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool list_empty(const struct list *list)
{
	return list->next == list;
}

static inline void list_insert_before(struct list *at, struct list *node)
{
	node->prev = at->prev;
	node->next = at;
	at->prev->next = node;
	at->prev = node;
}

static inline void list_push_back(struct list *head, struct list *node)
{
	list_insert_before(head, node);
}

static inline void list_push_front(struct list *head, struct list *node)
{
	list_insert_before(head->next, node);
}

/* The removed node is a list of its own, so removing it again does no harm. */
static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

/* Moves everything in `from` to the end, or to the front, of `to`. */
static inline void list_append_all(struct list *to, struct list *from)
{
	if (!list_empty(from)) {
		from->next->prev = to->prev;
		from->prev->next = to;
		to->prev->next = from->next;
		to->prev = from->prev;
		list_init(from);
	}
}

static inline void list_prepend_all(struct list *to, struct list *from)
{
	if (!list_empty(from)) {
		from->prev->next = to->next;
		from->next->prev = to;
		to->next->prev = from->prev;
		to->next = from->next;
		list_init(from);
	}
}
