/* SPDX-License-Identifier: MIT */

/*
 * Makes the slices of a statement and shows that they are the same as the whole:
 *
 *	- rows are walked along a unique key without NULLs, so that ranges of it part them;
 *	- the statement does not change that key;
 *	- nothing that it changes is read by another part of it (slicing_program.c);
 *	- it aggregates nothing: a slice over no rows changes nothing.
 *
 * Nothing is changed here; the statements that are run read.
 */

#include "server/store/slicing.h"

#include "server/store/inside.h"

#include <stdlib.h>
#include <string.h>

int slicing_refuse(struct store_error *error, const char *format, ...)
{
	char why[STORE_ERROR_BYTES];
	va_list args;
	va_start(args, format);
	sqlite3_vsnprintf(sizeof(why), why, format, args);
	va_end(args);
	return store_error_set(error, STORE_BAD_REQUEST, 0, "cannot be sliced: %s", why);
}

static int no_memory(struct store_error *error)
{
	return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
}

/* ---- the key ---- */

enum { LOOK_MAX = 4 };

/* One row of up to that many texts, with up to three text values. SQLite's code; NULL reads as "". */
static int look_up_for(struct store *store, const char *sql, const char *const values[3],
	char texts[LOOK_MAX][SLICING_NAME_BYTES], bool *ret_found)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store, sql, &stmt);
	*ret_found = false;
	if (rc == SQLITE_OK) {
		for (int i = 0; i < 3 && i < sqlite3_bind_parameter_count(stmt); i++) {
			sqlite3_bind_text(stmt, i + 1, values[i], -1, SQLITE_STATIC);
		}
		rc = sqlite3_step(stmt);
		*ret_found = rc == SQLITE_ROW;
		for (int i = 0; rc == SQLITE_ROW && i < sqlite3_column_count(stmt); i++) {
			const char *text = (const char *)sqlite3_column_text(stmt, i);
			sqlite3_snprintf(
				SLICING_NAME_BYTES, texts[i], "%s", text != NULL ? text : "");
		}
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int look_up(struct store *store, const char *sql, const char *first, const char *second,
	char texts[LOOK_MAX][SLICING_NAME_BYTES], bool *ret_found)
{
	return look_up_for(
		store, sql, (const char *const[]){first, second, NULL}, texts, ret_found);
}

/* The INTEGER PRIMARY KEY of the table, if it has one: such a column is the rowid. */
static int find_rowid(struct store *store, struct slicing *slicing, bool *ret_found)
{
	static const char sql[] =
		"SELECT c.name FROM pragma_table_info(?1) AS c"
		" WHERE c.pk = 1 AND c.type = 'INTEGER' COLLATE NOCASE"
		" AND (SELECT count(*) FROM pragma_table_info(?1) WHERE pk > 0) = 1"
		" AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')";
	char texts[LOOK_MAX][SLICING_NAME_BYTES] = {""};
	int rc = look_up(store, sql, slicing->table, NULL, texts, ret_found);
	if (*ret_found) {
		memcpy(slicing->key, texts[0], sizeof(slicing->key));
	}
	return rc;
}

/* A unique index over one column that is never NULL, with that walk; `by` NULL: the primary key's. */
static int find_unique(struct store *store, const char *by, const char *walk,
	struct slicing *slicing, bool *ret_found)
{
	static const char sql[] =
		"SELECT l.name, c.name, x.coll, iif(x.\"desc\", ' DESC', ' ASC')"
		" FROM pragma_index_list(?1) AS l,"
		" pragma_index_xinfo(l.name) AS x, pragma_table_info(?1) AS c"
		" WHERE l.\"unique\" AND NOT l.partial AND x.\"key\" AND x.seqno = 0"
		" AND (SELECT count(*) FROM pragma_index_info(l.name)) = 1"
		" AND c.name = x.name AND (c.\"notnull\" OR (c.pk = 1 AND"
		" (SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1)))"
		" AND (c.name = ?2 COLLATE NOCASE OR (?2 IS NULL AND l.origin = 'pk'))"
		" AND (?3 IS NULL OR ?3 = x.coll || iif(x.\"desc\", ' DESC', ' ASC'))";
	char texts[LOOK_MAX][SLICING_NAME_BYTES] = {""};
	int rc = look_up_for(
		store, sql, (const char *const[]){slicing->table, by, walk}, texts, ret_found);
	if (*ret_found) {
		memcpy(slicing->index, texts[0], sizeof(slicing->index));
		memcpy(slicing->key, texts[1], sizeof(slicing->key));
		memcpy(slicing->collation, texts[2], sizeof(slicing->collation));
		slicing->descending = strcmp(texts[3], " DESC") == 0;
		sqlite3_snprintf(sizeof(slicing->walk), slicing->walk, "%s%s", texts[2], texts[3]);
	}
	return rc;
}

/* Which kind of table it is; its name as the schema has it. */
static int find_table(struct store *store, struct slicing *slicing, struct store_error *error)
{
	char texts[LOOK_MAX][SLICING_NAME_BYTES] = {""};
	bool found = false;
	int rc = look_up(store,
		"SELECT name, type FROM pragma_table_list"
		" WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
		slicing->table, NULL, texts, &found);
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	if (!found || strcmp(texts[1], "table") != 0) {
		return slicing_refuse(error,
			"\"%s\" is no ordinary table%s%s (walk the table behind it, or put its rows into one first)",
			slicing->table, found ? " but a " : "", texts[1]);
	}
	memcpy(slicing->table, texts[0], sizeof(slicing->table));
	return 0;
}

static int find_key(struct store *store, const char *by, const char *walk, struct slicing *slicing,
	struct store_error *error)
{
	bool found = false;
	int rc = find_table(store, slicing, error);
	if (rc != 0) {
		return rc;
	}
	rc = find_rowid(store, slicing, &found);
	if (found && by != NULL && sqlite3_stricmp(by, slicing->key) != 0) {
		found = false;
		slicing->key[0] = 0;
	}
	if (rc == SQLITE_OK && !found) {
		rc = find_unique(store, by, walk, slicing, &found);
	}
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	if (found) {
		return 0;
	}
	return walk != NULL
		? slicing_refuse(error,
			  "\"%s\" has no unique index any more in the order that it is walked in (%s: make one, and resume)",
			  by, walk)
		: by != NULL
		? slicing_refuse(error,
			  "\"%s\" is no key of \"%s\": `by` names an INTEGER PRIMARY KEY, or a column that is NOT NULL and alone UNIQUE (a bare rowid is renumbered by VACUUM)",
			  by, slicing->table)
		: slicing_refuse(error,
			  "\"%s\" has no INTEGER PRIMARY KEY: name with `by` a column that is NOT NULL and alone UNIQUE",
			  slicing->table);
}

int slicing_find_walk(
	struct store *store, const char *table, const char *by, char ret_walk[SLICING_WALK_BYTES])
{
	struct slicing slicing = {.table = ""};
	bool found = false;
	sqlite3_snprintf(sizeof(slicing.table), slicing.table, "%s", table);
	int rc = find_rowid(store, &slicing, &found);
	bool is_rowid = found && sqlite3_stricmp(by, slicing.key) == 0;
	rc = rc == SQLITE_OK && !is_rowid ? find_unique(store, by, NULL, &slicing, &found) : rc;
	memcpy(ret_walk, slicing.walk, sizeof(slicing.walk));
	return rc;
}

/* ---- texts ---- */

/* The key as it is compared, qualified by `as` unless that is empty. */
static void append_key(sqlite3_str *text, const struct slicing *slicing, struct bytes as)
{
	if (as.len > 0) {
		sqlite3_str_append(text, as.data, (int)as.len);
		sqlite3_str_appendchar(text, 1, '.');
	}
	sqlite3_str_appendf(text, "\"%w\"", slicing->key);
	if (slicing->collation[0] != 0) {
		sqlite3_str_appendf(text, " COLLATE \"%w\"", slicing->collation);
	}
}

static void append_hint(sqlite3_str *text, const struct slicing *slicing)
{
	if (slicing->index[0] != 0) {
		sqlite3_str_appendf(text, " INDEXED BY \"%w\"", slicing->index);
	} else {
		sqlite3_str_appendall(text, " NOT INDEXED");
	}
}

/* From one key to another, in the order of the walk. */
static void append_range(sqlite3_str *text, const struct slicing *slicing, struct bytes as)
{
	append_key(text, slicing, as);
	sqlite3_str_appendf(
		text, " %s ?%u AND ", slicing->descending ? "<=" : ">=", slicing->params + 1);
	append_key(text, slicing, as);
	sqlite3_str_appendf(
		text, " %s ?%u", slicing->descending ? ">=" : "<=", slicing->params + 2);
}

/* The statement from `from` on, up to the end of its condition, with the range in it. */
static void append_sliced(sqlite3_str *text, const struct slicing *slicing, struct bytes sql,
	const struct slicing_text *parts, size_t from)
{
	const char *at = sql.data;
	size_t condition = parts->where_at > 0 ? parts->where_at : parts->where_end;
	sqlite3_str_append(text, at + from, (int)(parts->hint_at - from));
	append_hint(text, slicing);
	sqlite3_str_append(text, at + parts->hint_at, (int)(condition - parts->hint_at));
	if (parts->where_at > 0) {
		/* The plus keeps SQLite from walking by a bound of the client's instead of the range. */
		sqlite3_str_appendall(text, " +(");
		sqlite3_str_append(text, at + condition, (int)(parts->where_end - condition));
		sqlite3_str_appendall(text, ") AND ");
	} else {
		sqlite3_str_appendall(text, " WHERE ");
	}
	append_range(text, slicing, parts->as);
}

static char *slice_text(struct store *store, const struct slicing *slicing, struct bytes sql,
	const struct slicing_text *parts)
{
	sqlite3_str *text = sqlite3_str_new(store->handle);
	append_sliced(text, slicing, sql, parts, 0);
	sqlite3_str_appendchar(text, 1, ' ');
	sqlite3_str_append(text, (const char *)sql.data + parts->where_end,
		(int)(parts->end - parts->where_end));
	return sqlite3_str_finish(text);
}

/* SELECT key FROM table … ORDER BY key …, with a condition between. */
static char *keys_text(struct store *store, const struct slicing *slicing, const char *condition,
	const char *order)
{
	const struct bytes none = {NULL, 0};
	sqlite3_str *text = sqlite3_str_new(store->handle);
	sqlite3_str_appendf(text, "SELECT \"%w\" FROM \"%w\"", slicing->key, slicing->table);
	append_hint(text, slicing);
	for (; *condition != 0; condition++) {
		if (*condition == '@') {
			append_key(text, slicing, none);
		} else {
			sqlite3_str_appendchar(text, 1, *condition);
		}
	}
	sqlite3_str_appendall(text, " ORDER BY ");
	append_key(text, slicing, none);
	sqlite3_str_appendall(text, order);
	return sqlite3_str_finish(text);
}

static int make_texts(struct store *store, struct bytes sql, const struct slicing_text *parts,
	struct slicing *slicing, struct store_error *error)
{
	bool down = slicing->descending;
	char *first = keys_text(store, slicing, "", down ? " DESC LIMIT 1" : " LIMIT 1");
	char *last = keys_text(store, slicing, "", down ? " LIMIT 1" : " DESC LIMIT 1");
	slicing->slice = slice_text(store, slicing, sql, parts);
	slicing->from = keys_text(store, slicing, down ? " WHERE @ >= ?1" : " WHERE @ <= ?1",
		down ? " DESC LIMIT ?2" : " LIMIT ?2");
	slicing->after = keys_text(store, slicing,
		down ? " WHERE @ < ?3 AND @ >= ?1" : " WHERE @ > ?3 AND @ <= ?1",
		down ? " DESC LIMIT ?2" : " LIMIT ?2");
	slicing->ends = first != NULL && last != NULL
		? sqlite3_mprintf("SELECT (%s), (%s)", first, last)
		: NULL;
	sqlite3_free(first);
	sqlite3_free(last);
	return slicing->slice != NULL && slicing->from != NULL && slicing->after != NULL &&
			slicing->ends != NULL
		? 0
		: no_memory(error);
}

/* ---- what the authorizer tells ---- */

enum { READ_MAX = 128 };

struct watching {
	const struct slicing *slicing;
	bool changes_key;
	const char *function; /* whose value would be another in each slice, or NULL */
	char read[READ_MAX][SLICING_NAME_BYTES];    /* tables and views */
	size_t read_count;                          /* READ_MAX + 1: there are more */
	char updated[READ_MAX][SLICING_NAME_BYTES]; /* columns of the table */
	size_t updated_count;                       /* the same */
};

static void note(char list[READ_MAX][SLICING_NAME_BYTES], size_t *count, const char *name)
{
	for (size_t i = 0; i < *count && i < READ_MAX; i++) {
		if (strcmp(list[i], name) == 0) {
			return;
		}
	}
	if (*count < READ_MAX) {
		sqlite3_snprintf(SLICING_NAME_BYTES, list[*count], "%s", name);
	}
	*count += *count <= READ_MAX;
}

/*
 * last_insert_rowid() at the start of a batch is 0, and no UPDATE or DELETE changes it; an INSERT sees
 * that of the row before.
 */
static void note_function(struct watching *watching, const char *name)
{
	static const char *const counting[] = {"changes", "total_changes", "last_insert_rowid"};
	size_t count = watching->slicing->kind == SLICING_INSERT ? 3 : 2;
	for (size_t i = 0; i < count; i++) {
		if (sqlite3_stricmp(name, counting[i]) == 0) {
			watching->function = counting[i];
		}
	}
}

static void watch(void *ctx, int action, const char *first, const char *second, const char *inner)
{
	struct watching *watching = ctx;
	(void)inner;
	if (action == SQLITE_UPDATE && second != NULL &&
		sqlite3_stricmp(first, watching->slicing->table) == 0) {
		note(watching->updated, &watching->updated_count, second);
	}
	if (action == SQLITE_UPDATE && watching->slicing->kind == SLICING_UPDATE &&
		sqlite3_stricmp(first, watching->slicing->table) == 0 &&
		(sqlite3_stricmp(second, watching->slicing->key) == 0 ||
			sqlite3_stricmp(second, "ROWID") == 0)) {
		watching->changes_key = true;
	} else if (action == SQLITE_FUNCTION && second != NULL) {
		note_function(watching, second);
	} else if (action == SQLITE_READ && first != NULL) {
		note(watching->read, &watching->read_count, first);
	}
}

/*
 * A virtual table that keeps its text in a table of the client's, or shows what is in another virtual
 * table, reads what the program does not tell.
 */
static int check_read(
	struct store *store, const struct watching *watching, struct store_error *error)
{
	static const char sql[] =
		"SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE"
		" AND " SQL_SHOWS_OTHERS
		/* Ours; and SQLite's, which are there without a row in the schema: all but two tell of its state. */
		" UNION ALL SELECT ?1 WHERE ?1 LIKE '~_lf~_%' ESCAPE '~' OR ?1 LIKE 'pragma~_%' ESCAPE '~'"
		" OR (lower(?1) NOT IN ('json_each', 'json_tree')"
		" AND EXISTS (SELECT 1 FROM pragma_module_list WHERE name = ?1 COLLATE NOCASE)"
		" AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view')"
		" AND name = ?1 COLLATE NOCASE))";
	if (watching->read_count > READ_MAX) {
		return slicing_refuse(error, "it reads more than %d tables and views", READ_MAX);
	}
	for (size_t i = 0; i < watching->read_count; i++) {
		char texts[LOOK_MAX][SLICING_NAME_BYTES] = {""};
		bool found = false;
		int rc = look_up(store, sql, watching->read[i], NULL, texts, &found);
		if (rc != SQLITE_OK) {
			return store_failed(store, rc, error);
		}
		if (found) {
			return slicing_refuse(error,
				"\"%s\" is a virtual table over other tables, or tells of the database as a whole, which it may change (put what it reads into a table first)",
				watching->read[i]);
		}
	}
	return 0;
}

/*
 * A foreign key is looked at when a statement, or a transaction, is over: what points into the air in
 * between would end a slice, and the whole would have mended it.
 */
static int check_updated(
	struct store *store, const struct watching *watching, struct store_error *error)
{
	static const char sql[] =
		"SELECT s.name FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f"
		" WHERE s.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE"
		" AND (f.\"to\" = ?2 COLLATE NOCASE OR (f.\"to\" IS NULL AND EXISTS (SELECT 1"
		" FROM pragma_table_info(?1) AS c WHERE c.name = ?2 COLLATE NOCASE AND c.pk > 0)))";
	if (watching->updated_count > READ_MAX) {
		return slicing_refuse(error, "it changes more than %d columns", READ_MAX);
	}
	for (size_t i = 0; i < watching->updated_count; i++) {
		char texts[LOOK_MAX][SLICING_NAME_BYTES] = {""};
		bool found = false;
		int rc = look_up(
			store, sql, watching->slicing->table, watching->updated[i], texts, &found);
		if (rc != SQLITE_OK) {
			return store_failed(store, rc, error);
		}
		if (found) {
			return slicing_refuse(error,
				"it changes \"%s\", to which a foreign key of \"%s\" points: what the whole may do, a part may not (as one statement, or with that key dropped meanwhile)",
				watching->updated[i], texts[0]);
		}
	}
	return 0;
}

/* What a foreign key does when its parent goes stands in the same statement, which looks for it, too. */
static int check_deleted(
	struct store *store, const struct watching *watching, struct store_error *error)
{
	static const char sql[] =
		"SELECT s.name, f.on_delete FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f"
		" WHERE s.type = 'table' AND s.name <> ?1 COLLATE NOCASE"
		" AND f.\"table\" = ?1 COLLATE NOCASE"
		" AND f.on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT')";
	char texts[LOOK_MAX][SLICING_NAME_BYTES] = {""};
	bool found = false;
	if (watching->slicing->kind != SLICING_DELETE || !store->foreign_keys) {
		return 0;
	}
	int rc = look_up(store, sql, watching->slicing->table, NULL, texts, &found);
	if (rc != SQLITE_OK) {
		return store_failed(store, rc, error);
	}
	return found
		? slicing_refuse(error,
			  "with a row that it deletes a foreign key of \"%s\" changes that table (ON DELETE %s), which the statement reads, too (as one statement; or a chunk for \"%s\" first, and then this one while that key is dropped)",
			  texts[0], texts[1], texts[0])
		: 0;
}

/* Compiles the statement of a text alone; with values its count of parameters. */
static int compile(struct store *store, enum role role, struct bytes sql, sqlite3_stmt **ret_stmt,
	struct store_error *error)
{
	size_t tail = 0;
	int rc = stmt_prepare(
		store->handle, &store->authorizer, role, sql, 0, ret_stmt, &tail, error);
	if (rc == 0 && (*ret_stmt == NULL || tail < sql.len)) {
		sqlite3_finalize(*ret_stmt);
		*ret_stmt = NULL;
		return store_error_set(
			error, STORE_BAD_REQUEST, 0, "a chunk is exactly one statement");
	}
	return rc;
}

/* What was seen while the slice was compiled. */
static int judge(struct store *store, const struct watching *watching, struct store_error *error)
{
	if (watching->function != NULL) {
		return slicing_refuse(error,
			"%s() would speak of the slice, not of the whole (give the number as a value)",
			watching->function);
	}
	if (watching->changes_key) {
		return slicing_refuse(error,
			"it changes the key \"%s\" that it is walked along (name with `by` another one, or as one statement)",
			watching->slicing->key);
	}
	int rc = check_updated(store, watching, error);
	rc = rc == 0 ? check_deleted(store, watching, error) : rc;
	return rc == 0 ? check_read(store, watching, error) : rc;
}

/* The slice compiles, asks for the range beside its own values, and leaves the key alone. */
static int check_slice(struct store *store, enum role role, const struct slicing *slicing,
	struct store_error *error)
{
	struct watching *watching = calloc(1, sizeof(*watching));
	struct bytes text = {slicing->slice, strlen(slicing->slice)};
	sqlite3_stmt *stmt = NULL;
	if (watching == NULL) {
		return no_memory(error);
	}
	watching->slicing = slicing;
	store->authorizer.observe = watch;
	store->authorizer.observe_ctx = watching;
	int rc = compile(store, role, text, &stmt, error);
	store->authorizer.observe = NULL;
	unsigned params = stmt != NULL ? (unsigned)sqlite3_bind_parameter_count(stmt) : 0;
	bool rows = stmt != NULL && sqlite3_column_count(stmt) > 0;
	bool ddl = store->authorizer.saw_ddl;
	sqlite3_finalize(stmt);
	if (rc == 0 && (params != slicing->params + 2 || rows || ddl)) {
		rc = slicing_refuse(error, "its text is not understood");
	}
	rc = rc == 0 ? judge(store, watching, error) : rc;
	free(watching);
	return rc;
}

/*
 * An aggregate gives a row even of no rows. Only the SELECT of an INSERT can hold one: it is run over
 * a range without rows.
 */
static int check_no_aggregate(struct store *store, enum role role, const struct slicing *slicing,
	struct bytes sql, const struct slicing_text *parts, struct store_error *error)
{
	sqlite3_stmt *stmt = NULL;
	if (slicing->kind != SLICING_INSERT) {
		return 0;
	}
	sqlite3_str *builder = sqlite3_str_new(store->handle);
	sqlite3_str_append(builder, sql.data, (int)parts->verb_at);
	append_sliced(builder, slicing, sql, parts, parts->select_at);
	char *text = sqlite3_str_finish(builder);
	int rc = text != NULL
		? compile(store, role, (struct bytes){text, strlen(text)}, &stmt, error)
		: no_memory(error);
	if (rc == 0) {
		int stepped = sqlite3_step(stmt);
		rc = stepped == SQLITE_ROW
			? slicing_refuse(error,
				  "its SELECT aggregates, and so looks at all rows at once: put what it gives into a table first")
			: stepped != SQLITE_DONE ? store_failed(store, stepped, error)
						 : 0;
	} else if (rc == STORE_SQL) {
		rc = slicing_refuse(
			error, "its SELECT does not stand by itself (put WITH before INSERT)");
	}
	sqlite3_finalize(stmt);
	sqlite3_free(text);
	return rc;
}

/* ---- the whole ---- */

static int make(struct store *store, enum role role, struct bytes sql, const char *by,
	const char *walk, struct slicing *slicing, struct store_error *error)
{
	struct slicing_text parts;
	sqlite3_stmt *stmt = NULL;
	int rc = compile(store, role, sql, &stmt, error);
	if (rc != 0) {
		return rc;
	}
	slicing->params = (unsigned)sqlite3_bind_parameter_count(stmt);
	sqlite3_finalize(stmt);
	rc = slicing_read(sql, &parts, error);
	if (rc == 0 && parts.params_behind) {
		rc = slicing_refuse(
			error, "number or name the values behind ON CONFLICT (?1, :name)");
	} else if (rc == 0 && parts.as_with) {
		rc = slicing_refuse(
			error, "WITH gives something else the name of \"%s\"", parts.table);
	}
	if (rc != 0) {
		return rc;
	}
	slicing->kind = parts.kind;
	memcpy(slicing->table, parts.table, sizeof(slicing->table));
	rc = find_key(store, by, walk, slicing, error);
	rc = rc == 0 ? make_texts(store, sql, &parts, slicing, error) : rc;
	rc = rc == 0 ? check_slice(store, role, slicing, error) : rc;
	rc = rc == 0 ? slicing_check_program(store, slicing, error) : rc;
	return rc == 0 ? check_no_aggregate(store, role, slicing, sql, &parts, error) : rc;
}

int slicing_make(struct store *store, enum role role, struct bytes sql, const char *by,
	const char *walk, struct slicing *ret_slicing, struct store_error *error)
{
	*ret_slicing = (struct slicing){0};
	int rc = make(store, role, sql, by, walk, ret_slicing, error);
	if (rc != 0) {
		slicing_finish(ret_slicing);
	}
	return rc;
}

void slicing_finish(struct slicing *slicing)
{
	sqlite3_free(slicing->slice);
	sqlite3_free(slicing->from);
	sqlite3_free(slicing->after);
	sqlite3_free(slicing->ends);
	*slicing = (struct slicing){0};
}
