/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How far each chunk is, where both threads can look: the writer writes it down after each slice,
 * the loop reads. One lock, held for a walk over a few dozen entries.
 */

#include "server/base/list.h"
#include "server/store/chunk.h"

#include <pthread.h>

/* How far a chunk is, for people and programs. */
struct chunk_view {
	struct chunk_facts facts; /* its texts are the board's */
	uint64_t rows_per_s;      /* as measured lately; 0: not known */
	uint64_t eta_ms;          /* 0: not known, or over */
};

struct chunk_entry {
	struct list node;
	struct chunk_view view;
	char *name;
	char *sql;
	char table[256];
	char key[256];
	char error[512];
	uint64_t rows_then; /* for the rate */
	uint64_t then_us;
	bool seen;
	bool queued;     /* the loop's: a task of it is in the queue */
	unsigned orders; /* that wait to stop it: no slice begins before them */
};

struct chunk_board {
	pthread_mutex_t lock;
	struct list entries;
	uint64_t slice_timeout_us; /* exec_timeout, for the writer */
	bool closed;               /* no further slice is to begin */
};

void board_init(struct chunk_board *board);
void board_finish(struct chunk_board *board);

/* The writer, or before it starts: all that the store says. Too little memory leaves one out. */
void board_publish(struct chunk_board *board, const struct store *store);

/* With the lock held: the entry of that id, or NULL; of that name, the uid's own before others. */
struct chunk_entry *board_find(struct chunk_board *board, uint64_t id);
struct chunk_entry *board_find_name(
	struct chunk_board *board, uint32_t uid, bool any, const char *name, size_t len);

/* Whether slices of it are to run. */
bool chunk_view_is_running(const struct chunk_view *view);
