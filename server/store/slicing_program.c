/* SPDX-License-Identifier: MIT */

/*
 * What SQLite's own program for a slice tells: the b-trees and virtual tables that it opens, in the
 * statement itself and in its triggers and foreign keys. Nothing that one slice changes may be read by
 * another, so what is written may be reached in one way only: row by row, along the key. It changes
 * nothing, and does not know how the slice was made.
 */

#include "server/store/inside.h"
#include "server/store/slicing.h"

#include <stdlib.h>
#include <string.h>

enum { OPENED_MAX = 512, VIRTUAL_MAX = 64, VIRTUAL_BYTES = 32 };

/* A cursor of the program on the b-tree of a table or an index. */
struct opened {
	bool inner; /* of a trigger, or a foreign key's action */
	int cursor;
	int root;
	bool writes;
	bool index;
	bool walked; /* of the index that is the key */
	bool shadow; /* what a virtual table is made of */
	char table[SLICING_NAME_BYTES];
};

/* A virtual table, by what EXPLAIN calls it. */
struct virtual
{
	char id[VIRTUAL_BYTES];
	bool read; /* by the statement itself */
	bool written;
};

struct program {
	struct opened opened[OPENED_MAX];
	size_t count;
	struct virtual virtuals[VIRTUAL_MAX];
	size_t virtuals_count;
};

static void note_opened(struct program *program, bool inner, int cursor, int root, bool writes)
{
	for (size_t i = 0; i < program->count && i < OPENED_MAX; i++) {
		struct opened *opened = &program->opened[i];
		if (opened->inner == inner && opened->cursor == cursor && opened->root == root) {
			opened->writes |= writes;
			return;
		}
	}
	if (program->count < OPENED_MAX) {
		program->opened[program->count] = (struct opened){
			.inner = inner, .cursor = cursor, .root = root, .writes = writes};
	}
	program->count++;
}

static void note_virtual(struct program *program, const char *id, bool read, bool written)
{
	size_t at = 0;
	while (at < program->virtuals_count && at < VIRTUAL_MAX &&
		strcmp(program->virtuals[at].id, id) != 0) {
		at++;
	}
	if (at < VIRTUAL_MAX) {
		struct virtual *virtual = &program->virtuals[at];
		sqlite3_snprintf(sizeof(virtual->id), virtual->id, "%s", id);
		virtual->read |= read;
		virtual->written |= written;
	}
	program->virtuals_count += at == program->virtuals_count;
}

static void note_opcode(struct program *program, bool inner, const char *opcode, sqlite3_stmt *row)
{
	int first = sqlite3_column_int(row, 2);
	int second = sqlite3_column_int(row, 3);
	const char *fourth = (const char *)sqlite3_column_text(row, 5);
	if (strcmp(opcode, "OpenRead") == 0 || strcmp(opcode, "ReopenIdx") == 0) {
		note_opened(program, inner, first, second, false);
	} else if (strcmp(opcode, "OpenWrite") == 0) {
		note_opened(program, inner, first, second, true);
	} else if (strcmp(opcode, "Clear") == 0) {
		note_opened(program, inner, -1, first, true);
	} else if (strcmp(opcode, "VOpen") == 0 || strcmp(opcode, "VUpdate") == 0) {
		bool writes = opcode[1] == 'U';
		note_virtual(program, fourth != NULL ? fourth : "", !writes && !inner, writes);
	}
}

/* Reads EXPLAIN: the program itself, then those of its triggers, each from address 0. SQLite's code. */
static int read_program(struct store *store, const char *slice, struct program *program)
{
	char *text = sqlite3_mprintf("EXPLAIN %s", slice);
	sqlite3_stmt *stmt = NULL;
	int rc = text != NULL ? own_prepare(store, text, &stmt) : SQLITE_NOMEM;
	int programs = 0;
	while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
		const char *opcode = (const char *)sqlite3_column_text(stmt, 1);
		programs += sqlite3_column_int(stmt, 0) == 0;
		rc = opcode != NULL ? SQLITE_OK : SQLITE_NOMEM;
		if (opcode != NULL) {
			note_opcode(program, programs > 1, opcode, stmt);
		}
	}
	sqlite3_finalize(stmt);
	sqlite3_free(text);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static void take_name(const struct slicing *slicing, sqlite3_stmt *row, struct opened *opened)
{
	const char *table = (const char *)sqlite3_column_text(row, 0);
	const char *name = (const char *)sqlite3_column_text(row, 2);
	sqlite3_snprintf(sizeof(opened->table), opened->table, "%s", table != NULL ? table : "");
	opened->index = sqlite3_column_int(row, 1) != 0;
	opened->walked = opened->index && name != NULL && strcmp(name, slicing->index) == 0;
	opened->shadow = sqlite3_column_int(row, 3) != 0;
}

/* Gives each cursor the table that its b-tree belongs to. SQLite's code. */
static int name_tables(struct store *store, const struct slicing *slicing, struct program *program)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store,
		"SELECT tbl_name, type = 'index', name, (SELECT type = 'shadow'"
		" FROM pragma_table_list AS l WHERE l.schema = 'main' AND l.name = tbl_name)"
		" FROM sqlite_schema WHERE rootpage = ?1",
		&stmt);
	for (size_t i = 0; rc == SQLITE_OK && i < program->count; i++) {
		sqlite3_bind_int(stmt, 1, program->opened[i].root);
		if (sqlite3_step(stmt) == SQLITE_ROW) {
			take_name(slicing, stmt, &program->opened[i]);
		}
		rc = sqlite3_reset(stmt);
	}
	sqlite3_finalize(stmt);
	return rc;
}

/* ---- what follows ---- */

static bool is_written(const struct program *program, const char *table)
{
	for (size_t i = 0; i < program->count; i++) {
		if (program->opened[i].writes && strcmp(program->opened[i].table, table) == 0) {
			return true;
		}
	}
	return false;
}

/* Whether another cursor of the statement itself is open on the same b-tree. */
static bool is_shared(const struct program *program, const struct opened *one)
{
	for (size_t i = 0; i < program->count; i++) {
		const struct opened *other = &program->opened[i];
		if (!other->inner && other->root == one->root && other->cursor != one->cursor) {
			return true;
		}
	}
	return false;
}

static int check_cursors(
	const struct slicing *slicing, const struct program *program, struct store_error *error)
{
	bool met = false;
	for (size_t i = 0; i < program->count; i++) {
		const struct opened *opened = &program->opened[i];
		bool written = is_written(program, opened->table);
		bool walked = strcmp(opened->table, slicing->table) == 0;
		met |= walked && !opened->inner;
		if (!written) {
			continue;
		}
		if (opened->inner && walked) {
			return slicing_refuse(error,
				"a trigger or a foreign key of \"%s\" reads or changes it too: what a slice did would be seen by the next (as one statement, or with that dropped meanwhile)",
				slicing->table);
		}
		if (!opened->inner &&
			(is_shared(program, opened) || (!opened->writes && !opened->walked))) {
			return slicing_refuse(error,
				"it reads \"%s\", which it also changes: what a slice did would be seen by the next (put what it reads into a table first)",
				opened->table);
		}
	}
	return met ? 0
		   : slicing_refuse(
			     error, "it does not walk \"%s\" (as one statement)", slicing->table);
}

/* A virtual table's b-trees do not show in the program, only the table itself. */
static int check_virtuals(const struct program *program, struct store_error *error)
{
	bool any_written = false;
	for (size_t i = 0; i < program->virtuals_count; i++) {
		const struct virtual *virtual = &program->virtuals[i];
		any_written |= virtual->written;
		if (virtual->written && virtual->read) {
			return slicing_refuse(error,
				"it reads a virtual table that it also changes: what a slice did would be seen by the next (put what it reads into a table first)");
		}
	}
	for (size_t i = 0; any_written && i < program->count; i++) {
		if (program->opened[i].shadow) {
			return slicing_refuse(error,
				"it reads \"%s\", of which a virtual table is made, and changes a virtual table (put what it reads into a table first)",
				program->opened[i].table);
		}
	}
	return 0;
}

static int check(struct store *store, const struct slicing *slicing, struct program *program,
	struct store_error *error)
{
	int rc = read_program(store, slicing->slice, program);
	if (rc == SQLITE_OK &&
		(program->count > OPENED_MAX || program->virtuals_count > VIRTUAL_MAX)) {
		return slicing_refuse(error,
			"it opens more than %d tables and indexes, or %d virtual tables",
			OPENED_MAX, VIRTUAL_MAX);
	}
	rc = rc == SQLITE_OK ? name_tables(store, slicing, program) : rc;
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	int verdict = check_cursors(slicing, program, error);
	return verdict == 0 ? check_virtuals(program, error) : verdict;
}

int slicing_check_program(
	struct store *store, const struct slicing *slicing, struct store_error *error)
{
	struct program *program = calloc(1, sizeof(*program));
	if (program == NULL) {
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	int verdict = check(store, slicing, program, error);
	free(program);
	return verdict;
}
