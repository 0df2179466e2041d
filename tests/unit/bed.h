/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A store on a real file in a directory of its own, and clocks whose hands the test turns. What a
 * test needs to see inside, it sees through the store's own handle.
 */

#include "server/store/inside.h"
#include "tests/unit/cmocka_all.h"

#include <stdatomic.h>

struct bed {
	char dir[512];
	char path[640];
	struct store_options options;
	struct store *store;
};

/* Monotonic and wall time of the process; each look at it moves it by bed_tick_us. */
extern _Atomic uint64_t bed_now_us;
extern _Atomic uint64_t bed_tick_us;
extern _Atomic uint64_t bed_wall_ahead_us; /* of the clock on the wall */
void bed_set_clocks(void);

/* A new directory; then the store, created. */
void bed_make(struct bed *bed);
void bed_remove(struct bed *bed);
void bed_make_dir(struct bed *bed);

void bed_open(struct bed *bed);
void bed_close(struct bed *bed);
void bed_reopen(struct bed *bed);

/* A file of the directory, or of the database with a suffix: into a static buffer. */
const char *bed_file(const struct bed *bed, const char *name);

/* What a step gave, as text: names and types of columns, rows with '|' and ';'. */
struct shown {
	char columns[1024];
	char rows[65536];
	size_t rows_len;
	size_t rows_max; /* 0: no limit; else the sink refuses what is beyond */
	size_t count;
	struct step_result result;
	struct store_error error;
};

/* A step of that text with no values. */
struct step bed_step_of(const char *sql);

/* Runs it in the open transaction; the condition. `shown` is emptied first. */
int bed_step(struct store *store, enum role role, const struct step *step, struct shown *shown);
void bed_shown_clear(struct shown *shown);

/* One statement in the open transaction as role ddl; fails the test if it fails. */
void bed_do(struct store *store, const char *sql);

/* A script in a transaction of its own, committed. */
void bed_script(struct store *store, const char *sql);

void bed_begin(struct store *store);
void bed_commit(struct store *store);

/* The single value of a query, by the daemon's own hand. */
int64_t bed_number(struct store *store, const char *sql);
const char *bed_text(struct store *store, const char *sql); /* static buffer */

/* Schema and content of the whole database but litefunnel's tables; to be freed. */
char *bed_dump(struct store *store);
