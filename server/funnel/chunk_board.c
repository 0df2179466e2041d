/* SPDX-License-Identifier: MIT */

/* Copies of what the store knows of chunks, and what follows from looking twice: rate and time left. */

#include "server/funnel/chunk_board.h"

#include "server/base/clock.h"
#include "server/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RATE_US = 200000 };

void board_init(struct chunk_board *board)
{
	*board = (struct chunk_board){.slice_timeout_us = 30000000};
	pthread_mutex_init(&board->lock, NULL);
	list_init(&board->entries);
}

static void entry_free(struct chunk_entry *entry)
{
	list_remove(&entry->node);
	free(entry->name);
	free(entry->sql);
	free(entry);
}

void board_finish(struct chunk_board *board)
{
	list_for_each_safe(node, &board->entries) {
		entry_free(container_of(node, struct chunk_entry, node));
	}
	pthread_mutex_destroy(&board->lock);
}

bool chunk_view_is_running(const struct chunk_view *view)
{
	return view->facts.state == CHUNK_RUNNING;
}

struct chunk_entry *board_find(struct chunk_board *board, uint64_t id)
{
	list_for_each(node, &board->entries) {
		struct chunk_entry *entry = container_of(node, struct chunk_entry, node);
		if (entry->view.facts.id == id) {
			return entry;
		}
	}
	return NULL;
}

struct chunk_entry *board_find_name(
	struct chunk_board *board, uint32_t uid, bool any, const char *name, size_t len)
{
	struct chunk_entry *other = NULL;
	list_for_each(node, &board->entries) {
		struct chunk_entry *entry = container_of(node, struct chunk_entry, node);
		if (strlen(entry->name) != len || memcmp(entry->name, name, len) != 0) {
			continue;
		}
		if (entry->view.facts.uid == uid) {
			return entry;
		}
		other = other == NULL ? entry : other;
	}
	return any ? other : NULL;
}

static struct chunk_entry *add(struct chunk_board *board, const struct chunk_facts *facts)
{
	struct chunk_entry *entry = calloc(1, sizeof(*entry));
	if (entry == NULL) {
		return NULL;
	}
	list_init(&entry->node);
	entry->name = strdup(facts->name);
	entry->sql = strdup(facts->sql);
	if (entry->name == NULL || entry->sql == NULL) {
		entry_free(entry);
		return NULL;
	}
	entry->rows_then = facts->rows;
	entry->then_us = clock_now_us();
	list_push_back(&board->entries, &entry->node);
	return entry;
}

/* Rows a second, smoothed, and what that means for the rest. */
static void measure(struct chunk_entry *entry)
{
	struct chunk_view *view = &entry->view;
	const struct chunk_facts *facts = &view->facts;
	uint64_t passed_us = clock_now_us() - entry->then_us;
	if (passed_us >= RATE_US && facts->rows >= entry->rows_then) {
		uint64_t lately = (facts->rows - entry->rows_then) * 1000000 / passed_us;
		view->rows_per_s =
			view->rows_per_s == 0 ? lately : (3 * view->rows_per_s + lately) / 4;
		entry->rows_then = facts->rows;
		entry->then_us += passed_us;
	}
	view->eta_ms =
		facts->state == CHUNK_RUNNING && facts->of > facts->rows && view->rows_per_s > 0
		? (facts->of - facts->rows) * 1000 / view->rows_per_s
		: 0;
}

/* Says in the log what nobody may be waiting for. */
static void log_end(const struct chunk_facts *facts)
{
	if (facts->state == CHUNK_FAILED) {
		log_warn("chunk failed", log_str("name", facts->name), log_uint("uid", facts->uid),
			log_uint("rows", facts->rows), log_str("error", facts->error));
	} else if (facts->state == CHUNK_DONE) {
		log_info("chunk done", log_str("name", facts->name), log_uint("uid", facts->uid),
			log_uint("rows", facts->rows), log_uint("changes", facts->changes),
			log_uint("slices", facts->slices));
	}
}

static void publish(void *ctx, const struct chunk_facts *facts)
{
	struct chunk_board *board = ctx;
	struct chunk_entry *entry = board_find(board, facts->id);
	bool known = entry != NULL;
	entry = known ? entry : add(board, facts);
	if (entry == NULL) {
		return;
	}
	if (known && entry->view.facts.state != facts->state) {
		log_end(facts);
	}
	if (entry->view.facts.state != facts->state) {
		entry->rows_then = facts->rows;
		entry->then_us = clock_now_us();
		entry->view.rows_per_s = 0;
	}
	snprintf(entry->table, sizeof(entry->table), "%s", facts->table);
	snprintf(entry->key, sizeof(entry->key), "%s", facts->key);
	snprintf(entry->error, sizeof(entry->error), "%s", facts->error);
	entry->view.facts = *facts;
	entry->view.facts.name = entry->name;
	entry->view.facts.sql = entry->sql;
	entry->view.facts.table = entry->table;
	entry->view.facts.key = entry->key;
	entry->view.facts.error = entry->error;
	entry->seen = true;
	measure(entry);
}

void board_publish(struct chunk_board *board, const struct store *store)
{
	pthread_mutex_lock(&board->lock);
	list_for_each(node, &board->entries) {
		container_of(node, struct chunk_entry, node)->seen = false;
	}
	store_chunks_each(store, publish, board);
	list_for_each_safe(node, &board->entries) {
		struct chunk_entry *entry = container_of(node, struct chunk_entry, node);
		if (!entry->seen) {
			entry_free(entry);
		}
	}
	pthread_mutex_unlock(&board->lock);
}
