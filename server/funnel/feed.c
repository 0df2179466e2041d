/* SPDX-License-Identifier: MIT */

/*
 * The list between the two threads. When it is full, or there is no memory for an event, what is
 * dropped is remembered as a gap, and everything behind a gap belongs to it until it is collected: so
 * order is kept without a record of each loss.
 */

#include "server/funnel/feed.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS_MAX = 4096, BYTES_MAX = 4 * 1024 * 1024 };

struct feed {
	pthread_mutex_t lock;
	struct list events;
	size_t count;
	size_t bytes;
	struct feed_gap gap;
	size_t watchers;
	uint64_t newest; /* commit that was published */
	void (*wake)(void *ctx);
	void *wake_ctx;
};

int feed_new(uint64_t commit_no, void (*wake)(void *ctx), void *ctx, struct feed **ret_feed)
{
	struct feed *feed = calloc(1, sizeof(*feed));
	if (feed == NULL) {
		return -ENOMEM;
	}
	pthread_mutex_init(&feed->lock, NULL);
	list_init(&feed->events);
	feed->newest = commit_no;
	feed->wake = wake;
	feed->wake_ctx = ctx;
	*ret_feed = feed;
	return 0;
}

void feed_free(struct feed *feed)
{
	if (feed == NULL) {
		return;
	}
	list_for_each_safe(node, &feed->events) {
		free(container_of(node, struct feed_event, node));
	}
	pthread_mutex_destroy(&feed->lock);
	free(feed);
}

static struct feed_event *event_new(const struct store_changes *changes, const char *const *tables,
	const char *const *channels, size_t *ret_bytes)
{
	size_t count = changes->tables_count + changes->channels_count;
	size_t bytes = sizeof(struct feed_event) + count * sizeof(char *);
	for (size_t i = 0; i < count; i++) {
		bytes += strlen(i < changes->tables_count ? tables[i]
							  : channels[i - changes->tables_count]) +
			1;
	}
	struct feed_event *event = malloc(bytes);
	if (event == NULL) {
		return NULL;
	}
	event->changes = *changes;
	char *to = (char *)&event->names[count];
	for (size_t i = 0; i < count; i++) {
		event->names[i] = to;
		to = stpcpy(to,
			     i < changes->tables_count ? tables[i]
						       : channels[i - changes->tables_count]) +
			1;
	}
	*ret_bytes = bytes;
	return event;
}

void feed_publish(void *ctx, const struct store_changes *changes, const char *const *tables,
	const char *const *channels)
{
	struct feed *feed = ctx;
	bool wake = false;
	pthread_mutex_lock(&feed->lock);
	feed->newest = changes->commit_no;
	if (feed->watchers > 0) {
		struct feed_event *event = NULL;
		size_t bytes = 0;
		wake = list_empty(&feed->events) && feed->gap.from == 0;
		if (feed->gap.from == 0 && feed->count < EVENTS_MAX && feed->bytes < BYTES_MAX) {
			event = event_new(changes, tables, channels, &bytes);
		}
		if (event != NULL) {
			list_push_back(&feed->events, &event->node);
			feed->count++;
			feed->bytes += bytes;
		} else {
			feed->gap.from = feed->gap.from != 0 ? feed->gap.from : changes->commit_no;
			feed->gap.to = changes->commit_no;
		}
	}
	pthread_mutex_unlock(&feed->lock);
	if (wake) {
		feed->wake(feed->wake_ctx);
	}
}

uint64_t feed_subscribe(struct feed *feed)
{
	pthread_mutex_lock(&feed->lock);
	feed->watchers++;
	uint64_t newest = feed->newest;
	pthread_mutex_unlock(&feed->lock);
	return newest;
}

void feed_unsubscribe(struct feed *feed)
{
	pthread_mutex_lock(&feed->lock);
	feed->watchers--;
	pthread_mutex_unlock(&feed->lock);
}

void feed_collect(struct feed *feed, struct list *ret_events, struct feed_gap *ret_gap)
{
	pthread_mutex_lock(&feed->lock);
	list_append_all(ret_events, &feed->events);
	*ret_gap = feed->gap;
	feed->gap = (struct feed_gap){0};
	feed->count = 0;
	feed->bytes = 0;
	pthread_mutex_unlock(&feed->lock);
}
