/* SPDX-License-Identifier: MIT */

/*
 * Compiles statements, keeps them, and finds out what the commit group must know about each. It
 * never steps a client's statement; its own EXPLAINs read no table.
 */

#include "server/store/stmt.h"
#include "server/store/compiler.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	/* Texts with literals are as long as their data and are seldom seen again. */
	KEEP_BYTES_MAX = 16 * 1024,
	/* No statement is kept that takes more than this part of what all may take. */
	KEEP_SHARE = 16,
};

void store_error_clear(struct store_error *error)
{
	free(error->message);
	*error = (struct store_error){.row = -1};
}

int store_error_set(struct store_error *error, enum store_condition condition, int sqlite,
	const char *format, ...)
{
	va_list args;
	store_error_clear(error);
	error->condition = condition;
	error->sqlite = sqlite;
	va_start(args, format);
	if (vasprintf(&error->message, format, args) < 0) {
		error->message = NULL;
	}
	va_end(args);
	return (int)condition;
}

int stmt_failed(
	sqlite3 *handle, const struct authorizer *authorizer, int rc, struct store_error *error)
{
	if (authorizer->denied[0] != 0 &&
		((rc & 0xff) == SQLITE_ERROR || (rc & 0xff) == SQLITE_SCHEMA)) {
		rc = SQLITE_AUTH; /* a refused function is reported as a plain error */
	}
	switch (rc & 0xff) {
	case SQLITE_AUTH:
		store_error_set(error, STORE_DENIED, SQLITE_AUTH, "%s",
			authorizer->denied[0] != 0 ? authorizer->denied : sqlite3_errmsg(handle));
		error->needed = authorizer->needed;
		return STORE_DENIED;
	case SQLITE_INTERRUPT:
		return store_error_set(
			error, STORE_TIMEOUT, rc, "interrupted at a limit of execution");
	case SQLITE_FULL:
	case SQLITE_NOMEM:
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
		return store_error_set(error, STORE_RESOURCE, rc, "%s", sqlite3_errmsg(handle));
	case SQLITE_LOCKED: /* by ourselves: nobody else shares the handle */
		return store_error_set(error, STORE_SQL, rc,
			"%s: a cursor of this transaction still reads (cure: close it first)",
			sqlite3_errmsg(handle));
	case SQLITE_BUSY:
	case SQLITE_PROTOCOL: /* locks that somebody else holds for long */
		return store_error_set(error, STORE_BUSY, rc, "%s", sqlite3_errmsg(handle));
	default:
		return store_error_set(error, STORE_SQL, rc, "%s", sqlite3_errmsg(handle));
	}
}

size_t sql_skip_space(struct bytes sql, size_t at)
{
	const char *text = sql.data;
	while (at < sql.len) {
		if (strchr(" \t\n\f\r;", text[at]) != NULL && text[at] != 0) {
			at++;
		} else if (sql.len - at >= 2 && text[at] == '-' && text[at + 1] == '-') {
			while (at < sql.len && text[at] != '\n') {
				at++;
			}
		} else if (sql.len - at >= 2 && text[at] == '/' && text[at + 1] == '*') {
			const char *end = memmem(text + at + 2, sql.len - at - 2, "*/", 2);
			at = end != NULL ? (size_t)(end - text) + 2 : sql.len;
		} else {
			break;
		}
	}
	return at;
}

bool sql_begins_with(struct bytes sql, const char *word)
{
	size_t at = sql_skip_space(sql, 0);
	size_t len = strlen(word);
	return sql.len - at >= len &&
		sqlite3_strnicmp((const char *)sql.data + at, word, (int)len) == 0;
}

bool sql_is_dml(struct bytes sql)
{
	/*
	 * By name: the authorizer is not asked about a DDL statement that does nothing (IF EXISTS),
	 * and is asked about PRAGMAs that a virtual table runs while it is connected.
	 */
	static const char *const words[] = {"insert", "update", "delete", "replace", "with"};
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (sql_begins_with(sql, words[i])) {
			return true;
		}
	}
	return false;
}

int stmt_prepare(sqlite3 *handle, struct authorizer *authorizer, enum role role, struct bytes sql,
	unsigned flags, sqlite3_stmt **ret_handle, size_t *ret_tail, struct store_error *error)
{
	const char *tail = NULL;
	*ret_handle = NULL;
	authorizer_enter(authorizer, role);
	/*
	 * VACUUM is authorised only when it runs, and then only as ATTACH; in a transaction it fails
	 * with a text that blames the client for a BEGIN it never sent. Refuse it by name.
	 */
	if (role != ROLE_SELF && sql_begins_with(sql, "vacuum")) {
		error->needed = ROLE_NONE;
		return store_error_set(error, STORE_DENIED, SQLITE_AUTH, "VACUUM inside a batch");
	}
	/* PRAGMA hard_heap_limit is answered while it is compiled. */
	size_t bytes = sql_begins_with(sql, "pragma") ? 0 : COMPILER_BYTES;
	enum compiler_bound bound = COMPILER_FITS;
	int rc = compiler_prepare(handle, authorizer, bytes, sql.data, (int)sql.len, flags,
		ret_handle, &tail, &bound);
	if (rc == SQLITE_SCHEMA) {
		/* The picture of the schema was stale, and is not any more: now the true error. */
		authorizer_enter(authorizer, role);
		rc = compiler_prepare(handle, authorizer, bytes, sql.data, (int)sql.len, flags,
			ret_handle, &tail, &bound);
	}
	if (bound != COMPILER_FITS) {
		return store_error_set(
			error, STORE_SQL, SQLITE_TOOBIG, "%s", compiler_refusal(bound));
	}
	if (rc == SQLITE_OK && *ret_handle != NULL && authorizer->answered[0] != 0) {
		/*
		 * journal_mode and a few others answer a setting with its value: read it instead.
		 */
		static const char *const with_row[] = {
			"journal_mode", "busy_timeout", "mmap_size", "journal_size_limit"};
		for (size_t i = 0; i < sizeof(with_row) / sizeof(with_row[0]); i++) {
			if (sqlite3_stricmp(with_row[i], authorizer->answered) == 0) {
				char instead[64];
				snprintf(instead, sizeof(instead), "PRAGMA %s", with_row[i]);
				sqlite3_finalize(*ret_handle);
				authorizer_enter(authorizer, role);
				rc = sqlite3_prepare_v3(
					handle, instead, -1, flags, ret_handle, NULL);
				break;
			}
		}
	}
	if (rc != SQLITE_OK) {
		sqlite3_finalize(*ret_handle);
		*ret_handle = NULL;
		return stmt_failed(handle, authorizer, rc, error);
	}
	*ret_tail = sql_skip_space(
		sql, tail != NULL ? (size_t)(tail - (const char *)sql.data) : sql.len);
	return 0;
}

int stmt_cache_init(struct stmt_cache *cache, sqlite3 *handle, struct authorizer *authorizer,
	size_t max, size_t bytes_max)
{
	size_t buckets = 64;
	while (buckets < max) {
		buckets *= 2;
	}
	*cache = (struct stmt_cache){.handle = handle,
		.authorizer = authorizer,
		.max = max,
		.bytes_max = bytes_max,
		.buckets_count = buckets};
	list_init(&cache->recent);
	cache->buckets = calloc(buckets, sizeof(*cache->buckets));
	return cache->buckets != NULL ? 0 : -ENOMEM;
}

static struct stmt **bucket_of(const struct stmt_cache *cache, uint64_t hash, enum role role)
{
	return &cache->buckets[(hash + (uint64_t)role) & (cache->buckets_count - 1)];
}

static void evict(struct stmt_cache *cache, struct stmt *stmt)
{
	struct stmt **at = bucket_of(cache, stmt->hash, stmt->role);
	while (*at != stmt) {
		at = &(*at)->next_in_bucket;
	}
	*at = stmt->next_in_bucket;
	list_remove(&stmt->recent);
	cache->count--;
	cache->bytes -= stmt->bytes;
	sqlite3_finalize(stmt->handle);
	free(stmt);
}

void stmt_cache_clear(struct stmt_cache *cache)
{
	list_for_each_safe(node, &cache->recent) {
		struct stmt *stmt = container_of(node, struct stmt, recent);
		if (!stmt->busy) {
			evict(cache, stmt);
		}
	}
}

void stmt_cache_finish(struct stmt_cache *cache)
{
	if (cache->buckets != NULL) {
		stmt_cache_clear(cache);
		free(cache->buckets);
		cache->buckets = NULL;
	}
}

/* The least recently used statements that nobody runs make room for one. */
static void make_room(struct stmt_cache *cache, const struct stmt *coming)
{
	for (struct list *at = cache->recent.prev; at != &cache->recent &&
		(cache->count >= cache->max || cache->bytes + coming->bytes > cache->bytes_max);) {
		struct stmt *stmt = container_of(at, struct stmt, recent);
		at = at->prev;
		if (!stmt->busy) {
			evict(cache, stmt);
		}
	}
}

static struct stmt *look_up(
	const struct stmt_cache *cache, enum role role, struct bytes sql, uint64_t hash)
{
	struct stmt *stmt = *bucket_of(cache, hash, role);
	for (; stmt != NULL; stmt = stmt->next_in_bucket) {
		if (stmt->hash == hash && stmt->role == role && stmt->sql_len == sql.len &&
			!stmt->busy && memcmp(stmt->sql, sql.data, sql.len) == 0) {
			return stmt;
		}
	}
	return NULL;
}

static int compile(struct stmt_cache *cache, enum role role, struct bytes sql, uint64_t hash,
	struct stmt **ret_stmt, struct store_error *error)
{
	sqlite3_stmt *handle = NULL;
	size_t tail = 0;
	int rc = stmt_prepare(cache->handle, cache->authorizer, role, sql,
		SQLITE_PREPARE_PERSISTENT, &handle, &tail, error);
	if (rc != 0) {
		return rc;
	}
	if (handle == NULL || tail < sql.len) {
		sqlite3_finalize(handle);
		return store_error_set(error, STORE_BAD_REQUEST, 0,
			handle == NULL
				? "the step holds no statement"
				: "the step holds more than one statement: use a step for each, or "
				  "script:true");
	}
	struct stmt *stmt = malloc(sizeof(*stmt) + sql.len + 1);
	if (stmt == NULL) {
		sqlite3_finalize(handle);
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	/* A PRAGMA that passes and is no DDL tells something, whatever SQLite calls it. */
	bool pragma = sql_begins_with(sql, "pragma") && !cache->authorizer->saw_ddl;
	bool readonly = pragma || sqlite3_stmt_readonly(handle) != 0;
	bool explain = sqlite3_stmt_isexplain(handle) != 0;
	size_t bytes = sizeof(*stmt) + sql.len +
		(size_t)sqlite3_stmt_status(handle, SQLITE_STMTSTATUS_MEMUSED, 0);
	*stmt = (struct stmt){
		.handle = handle,
		.bytes = bytes,
		.hash = hash,
		.role = role,
		.sql_len = sql.len,
		.params = (unsigned)sqlite3_bind_parameter_count(handle),
		.columns = (unsigned)sqlite3_column_count(handle),
		.once = sql.len > KEEP_BYTES_MAX || bytes > cache->bytes_max / KEEP_SHARE ||
			cache->authorizer->saw_lease,
		.temp = cache->authorizer->saw_temp && !explain,
		.lease = cache->authorizer->saw_lease,
		.control = explain ? CONTROL_NONE : cache->authorizer->control,
		.savepoint = cache->authorizer->savepoint,
		.readonly = readonly || explain,
		.ddl = cache->authorizer->saw_ddl && !explain,
		.asks_changes = cache->authorizer->saw_changes,
		.dml = !readonly && !explain && sql_is_dml(sql),
	};
	memcpy(stmt->sql, sql.data, sql.len);
	stmt->sql[sql.len] = 0;
	*ret_stmt = stmt;
	return 0;
}

int stmt_acquire(struct stmt_cache *cache, enum role role, struct bytes sql, uint64_t hash,
	struct stmt **ret_stmt, struct store_error *error)
{
	struct stmt *stmt = look_up(cache, role, sql, hash);
	if (stmt != NULL) {
		cache->hits++;
		list_remove(&stmt->recent);
	} else {
		int rc = compile(cache, role, sql, hash, &stmt, error);
		if (rc != 0) {
			return rc;
		}
		cache->misses++;
		make_room(cache, stmt);
		struct stmt **bucket = bucket_of(cache, hash, role);
		stmt->next_in_bucket = *bucket;
		*bucket = stmt;
		cache->count++;
		cache->bytes += stmt->bytes;
	}
	list_push_front(&cache->recent, &stmt->recent);
	stmt->busy = true;
	*ret_stmt = stmt;
	return 0;
}

bool stmt_is_at_hand(
	const struct stmt_cache *cache, enum role role, struct bytes sql, uint64_t hash)
{
	return look_up(cache, role, sql, hash) != NULL;
}

void stmt_release(struct stmt_cache *cache, struct stmt *stmt)
{
	sqlite3_reset(stmt->handle);
	sqlite3_clear_bindings(stmt->handle);
	stmt->busy = false;
	if (stmt->ddl || stmt->once) {
		evict(cache, stmt);
	}
}

/*
 * SQLite's own program for the statement, triggers included. Halt and HaltIfNull carry in P2 what a
 * failure does: 1 OE_Rollback, 3 OE_Fail. FkCounter with P1 != 0 counts a deferred foreign key.
 */
static bool explain_says_atomic(sqlite3 *handle, const char *sql)
{
	char *text = sqlite3_mprintf("EXPLAIN %s", sql);
	sqlite3_stmt *explain = NULL;
	bool atomic =
		text != NULL && sqlite3_prepare_v2(handle, text, -1, &explain, NULL) == SQLITE_OK;
	while (atomic && sqlite3_step(explain) == SQLITE_ROW) {
		const char *opcode = (const char *)sqlite3_column_text(explain, 1);
		int p1 = sqlite3_column_int(explain, 2);
		int p2 = sqlite3_column_int(explain, 3);
		if (opcode == NULL) {
			atomic = false;
		} else if (strcmp(opcode, "Halt") == 0 || strcmp(opcode, "HaltIfNull") == 0) {
			atomic = p2 != 1 && p2 != 3;
		} else if (strcmp(opcode, "FkCounter") == 0) {
			atomic = p1 == 0;
		} else if (strncmp(opcode, "V", 1) == 0 && strcmp(opcode, "VOpen") != 0 &&
			strcmp(opcode, "Variable") != 0 && strcmp(opcode, "VerifyCookie") != 0 &&
			strcmp(opcode, "VFilter") != 0 && strcmp(opcode, "VColumn") != 0 &&
			strcmp(opcode, "VNext") != 0) {
			atomic = false; /* a virtual table writes in its own ways */
		}
	}
	sqlite3_finalize(explain);
	sqlite3_free(text);
	return atomic;
}

bool stmt_is_atomic(struct stmt_cache *cache, struct stmt *stmt)
{
	if (stmt->atomic == STMT_UNKNOWN) {
		enum role before = authorizer_enter(cache->authorizer, ROLE_SELF);
		bool atomic = !stmt->ddl && stmt->columns == 0 && (stmt->readonly || stmt->dml) &&
			explain_says_atomic(cache->handle, stmt->sql);
		stmt->atomic = atomic ? STMT_ATOMIC : STMT_NEEDS_SAVEPOINT;
		authorizer_enter(cache->authorizer, before);
	}
	return stmt->atomic == STMT_ATOMIC;
}

bool stmt_self_test(void)
{
	static const struct {
		const char *sql;
		bool atomic;
	} known[] = {
		{"INSERT INTO plain VALUES (1, 2)", true},
		{"UPDATE plain SET b = b + 1 WHERE a = 1", true},
		{"DELETE FROM plain WHERE a = 1", true},
		{"INSERT OR IGNORE INTO plain VALUES (1, 2)", true},
		{"INSERT OR REPLACE INTO plain VALUES (1, 2)", true},
		{"INSERT OR ROLLBACK INTO plain VALUES (1, 2)", false},
		{"UPDATE OR ROLLBACK plain SET a = 1", false},
		{"INSERT OR FAIL INTO plain SELECT 1, 2", false},
		{"INSERT INTO harsh VALUES (1)", false},
		{"INSERT INTO watched VALUES (1)", false},
		{"INSERT INTO child_deferred VALUES (1)", false},
		{"DELETE FROM parent WHERE a = 1", false},
		{"INSERT INTO child_immediate VALUES (1)", true},
	};
	sqlite3 *memory = NULL;
	bool passed = sqlite3_open_v2(":memory:", &memory,
			      SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) == SQLITE_OK &&
		sqlite3_exec(memory,
			"PRAGMA foreign_keys = ON;"
			"CREATE TABLE plain(a INTEGER UNIQUE NOT NULL, b);"
			"CREATE TABLE harsh(a UNIQUE ON CONFLICT ROLLBACK);"
			"CREATE TABLE watched(a);"
			"CREATE TRIGGER w BEFORE INSERT ON watched BEGIN"
			" SELECT RAISE(ROLLBACK, 'no') WHERE NEW.a = 1; END;"
			"CREATE TABLE parent(a INTEGER PRIMARY KEY);"
			"CREATE TABLE child_deferred(a REFERENCES parent DEFERRABLE INITIALLY DEFERRED);"
			"CREATE TABLE child_immediate(a REFERENCES plain(a))",
			NULL, NULL, NULL) == SQLITE_OK;
	for (size_t i = 0; passed && i < sizeof(known) / sizeof(known[0]); i++) {
		passed = explain_says_atomic(memory, known[i].sql) == known[i].atomic;
	}
	sqlite3_close(memory);
	return passed;
}
