/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How a long statement is cut: into the same statement over one range of a key after another. What
 * makes that the same as running it once is checked here, mostly by asking SQLite; what cannot be
 * shown is refused, with what would make it possible.
 */

#include "server/store/store.h"

enum { SLICING_NAME_BYTES = 256, SLICING_WALK_BYTES = SLICING_NAME_BYTES + 8 };

enum slicing_kind { SLICING_UPDATE, SLICING_DELETE, SLICING_INSERT };

struct slicing {
	enum slicing_kind kind;
	char table[SLICING_NAME_BYTES]; /* whose rows are walked */
	char key[SLICING_NAME_BYTES];   /* the column that orders them */
	char index[SLICING_NAME_BYTES]; /* that does so; "" for an INTEGER PRIMARY KEY */
	char collation[SLICING_NAME_BYTES];
	char walk
		[SLICING_WALK_BYTES]; /* "BINARY ASC": collation and direction; "" for an INTEGER PRIMARY KEY */
	bool descending; /* the index is walked from its beginning, which holds the highest key */
	unsigned params; /* of the statement; the range takes the two behind them */

	char *slice; /* the statement over one range, its ends included; sqlite3_free() */
	char *from;  /* the keys in order, up to ?1: at most ?2 of them */
	char *after; /* the same behind the key ?3 */
	char *ends;  /* the first and the last key */
};

/*
 * 0; or a condition: STORE_BAD_REQUEST says what stands in the way, and what would help. `by` NULL: the primary key;
 * `walk` NULL or, for what is under way, what it was: in another order it would leave rows out.
 */
int slicing_make(struct store *store, enum role role, struct bytes sql, const char *by,
	const char *walk, struct slicing *ret_slicing, struct store_error *error);
void slicing_finish(struct slicing *slicing);

/* The walk that slicing_make() would choose now for that table and key; "": an INTEGER PRIMARY KEY's. SQLite's code. */
int slicing_find_walk(
	struct store *store, const char *table, const char *by, char ret_walk[SLICING_WALK_BYTES]);

/* STORE_BAD_REQUEST with "cannot be sliced: " before the reason. */
__attribute__((format(printf, 2, 3))) int slicing_refuse(
	struct store_error *error, const char *format, ...);

/* slicing_program.c: 0 if no part of the slice reads what another changes; or a condition. */
int slicing_check_program(
	struct store *store, const struct slicing *slicing, struct store_error *error);

/* slicing_text.c: where a statement's table and condition stand. */
struct slicing_text {
	enum slicing_kind kind;
	char table[SLICING_NAME_BYTES];
	char into[SLICING_NAME_BYTES]; /* of an INSERT; else "" */
	struct bytes as;               /* what its columns are qualified with, as it is written */
	size_t verb_at;                /* UPDATE, DELETE or INSERT */
	size_t select_at;              /* the SELECT of an INSERT */
	size_t hint_at;                /* behind the table: where INDEXED BY belongs */
	size_t where_at;               /* behind the word WHERE; 0: there is none */
	size_t where_end;              /* behind the condition, or where one would belong */
	size_t end;                    /* behind the last word */
	bool params_behind;            /* values without a number stand behind the condition */
	bool as_with;                  /* WITH gives something else the table's name */
};

/* 0, or STORE_BAD_REQUEST. */
int slicing_read(struct bytes sql, struct slicing_text *ret_text, struct store_error *error);
