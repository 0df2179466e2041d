/* SPDX-License-Identifier: MIT */
#pragma once

/* What chunks are made of: for chunk.c, chunk_table.c and chunk_target.c only. */

#include "server/base/list.h"
#include "server/store/chunk.h"
#include "server/store/inside.h"
#include "server/store/slicing.h"

#include <sqlite3.h>

enum { CHUNK_HASH_BYTES = 16, CHUNK_ERROR_BYTES = 512, CHUNK_TARGETS = 2 };

enum chunk_sql {
	CHUNK_SQL_FIND,
	CHUNK_SQL_FIND_ANY,
	CHUNK_SQL_READ,
	CHUNK_SQL_LIST,
	CHUNK_SQL_INSERT,
	CHUNK_SQL_PRUNE,
	CHUNK_SQL_COUNT_OPEN,
	CHUNK_SQL_STATE,
	CHUNK_SQL_SAVE,
	CHUNK_SQL_SCHEMA,
	CHUNK_SQL_TARGET,
	CHUNK_SQL_LOSE,
	CHUNK_SQL_IS_LOST,
	CHUNK_SQL_HAS_COLUMN,
	CHUNK_SQL_MARK_READ,
	CHUNK_SQL_MARK_NOTE,
	CHUNK_SQL_MARK_MOVE,
	CHUNK_SQL_MARK_FORGET,
	CHUNK_SQL_MANY_READ,
	CHUNK_SQL_MANY_ANY,
	CHUNK_SQL_MANY_MOVE,
	CHUNK_SQL_MANY_FORGET,
	CHUNK_SQL_COUNT,
};

/* One row of _lf_chunk, and what runs it. */
struct chunk {
	struct list node;
	struct chunk_facts facts;
	char *name;
	char *sql;
	char *by;   /* or NULL */
	char *walk; /* as in struct slicing; NULL: not known, or an INTEGER PRIMARY KEY */
	char error[CHUNK_ERROR_BYTES];
	void *params; /* as chunk_params_pack() made them */
	size_t params_len;
	sqlite3_value *first; /* the keys at the ends, and the last one done; NULL: none */
	sqlite3_value *last;
	sqlite3_value *done;

	/* The tables that its statement names: whose rows are walked, and where an INSERT puts its own. */
	struct chunk_target {
		char name[SLICING_NAME_BYTES]; /* "": none */
		uint64_t identity;             /* as the schema has it; 0: not known */
	} targets[CHUNK_TARGETS];
	bool lost; /* one of them is not the table any more that it began with: it never goes on */

	struct slicing slicing;
	bool planned;
	int64_t schema; /* the schema_version for which it is */
	sqlite3_stmt *slice;
	sqlite3_stmt *from;
	sqlite3_stmt *after;
	uint64_t slice_rows; /* that the next slice takes */
	bool seen;           /* by the running load */
};

struct chunks {
	struct list list;
	sqlite3_stmt *stmts[CHUNK_SQL_COUNT];
	uint64_t last_id; /* that was seen: what is known here of one is never another's */
	bool stale;
};

int chunks_new(struct chunks **ret_chunks);
void chunks_free(struct chunks *chunks); /* accepts NULL */

struct chunk *chunk_find(const struct store *store, uint64_t id); /* or NULL */

/* The statement, prepared at its first use; NULL: SQLite says why. */
sqlite3_stmt *chunk_stmt(struct store *store, enum chunk_sql which);

/* Writes down that it has failed, and chunk->error. SQLite's code. */
int chunk_fail(struct store *store, const struct chunk *chunk);

void chunk_free(struct chunk *chunk);
void chunk_unplan(struct chunk *chunk);

/*
 * chunk_target.c: to which tables a chunk is bound. Read: from its statement. Note: what these tables are
 * now, outside of a transaction, is what they are to stay. Check resume: whether one that has failed
 * may go on.
 */
void chunk_targets_read(struct chunk *chunk);
void chunk_targets_note(struct store *store);
int chunk_check_resume(
	struct store *store, uint64_t id, struct bytes name, struct store_error *error);

/* chunk_params.c: the values of a statement as one blob, and back as a step of `sql`. */
char *chunk_params_pack(
	const struct step *step, size_t *ret_len); /* NULL: no memory; sqlite3_free() */
struct chunk_params {
	struct step step;
	struct value *values;
	struct bytes *names;
};
int chunk_params_unpack(
	const void *data, size_t len, struct chunk_params *ret_params); /* 0 or -errno */
void chunk_params_finish(struct chunk_params *params);

/* mark.c: gives the handle the function lf_mark(). */
void mark_install(struct store *store);
