/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What commits have changed, on its way from the writer to those who watch: a bounded list under one
 * lock. While nobody watches it is one number. Who comes too late is told from where to where it has
 * missed something; nothing is ever left out in silence.
 */

#include "server/base/list.h"
#include "server/store/store.h"

struct feed;

/* One commit. The names, of tables first, stand behind the struct. */
struct feed_event {
	struct list node;
	struct store_changes changes;
	const char *names[]; /* tables_count + channels_count */
};

/* Commits whose events are lost, all of them newer than those in the list; from 0: none. */
struct feed_gap {
	uint64_t from;
	uint64_t to;
};

/* `wake` is called, from the writer's thread, when there is something to collect. */
int feed_new(uint64_t commit_no, void (*wake)(void *ctx), void *ctx, struct feed **ret_feed);
void feed_free(struct feed *feed); /* accepts NULL */

/* The writer: fits struct store_observer, with the feed as ctx. */
void feed_publish(void *ctx, const struct store_changes *changes, const char *const *tables,
	const char *const *channels);

/* The loop: one more, or one less, watches. From the number that is returned on, nothing is left out. */
uint64_t feed_subscribe(struct feed *feed);
void feed_unsubscribe(struct feed *feed);

/* The loop: takes what was published; the caller frees the events with free(). */
void feed_collect(struct feed *feed, struct list *ret_events, struct feed_gap *ret_gap);
