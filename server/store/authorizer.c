/* SPDX-License-Identifier: MIT */

/*
 * The lists of what passes, by role. Anything not named here is refused: SQLite may learn new
 * tricks and this file must then be asked first. It keeps no state but the context that it is
 * given.
 */

#include "server/store/authorizer.h"
#include "server/store/compiler.h"
#include "server/store/touched.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *role_name(enum role role)
{
	static const char *const names[] = {
		"none", "stats", "query", "write", "ddl", "admin", "self"};
	return names[role];
}

/* PRAGMAs that tell facts; an argument, where there is one, names a table or a limit. */
static const char *const pragmas_telling[] = {"table_info", "table_xinfo", "table_list",
	"index_list", "index_info", "index_xinfo", "foreign_key_list", "foreign_key_check",
	"integrity_check", "quick_check", "data_version", "database_list", "collation_list",
	"function_list", "compile_options", "module_list", "pragma_list", NULL};

/* Settings that may be read, that is: given without an argument. */
static const char *const pragmas_readable[] = {"analysis_limit", "application_id", "auto_vacuum",
	"automatic_index", "busy_timeout", "cache_size", "cache_spill", "case_sensitive_like",
	"cell_size_check", "checkpoint_fullfsync", "count_changes", "defer_foreign_keys",
	"empty_result_callbacks", "encoding", "foreign_keys", "freelist_count", "full_column_names",
	"fullfsync", "hard_heap_limit", "ignore_check_constraints", "journal_mode",
	"journal_size_limit", "legacy_alter_table", "locking_mode", "max_page_count", "mmap_size",
	"page_count", "page_size", "query_only", "read_uncommitted", "recursive_triggers",
	"reverse_unordered_selects", "schema_version", "secure_delete", "short_column_names",
	"soft_heap_limit", "synchronous", "temp_store", "threads", "trusted_schema", "user_version",
	"wal_autocheckpoint", "writable_schema", NULL};

/* Settings that the owner of the schema may change. */
static const char *const pragmas_of_ddl[] = {
	"user_version", "application_id", "optimize", "incremental_vacuum", NULL};

/*
 * Settings that every driver sends and that the daemon has long decided: answered, not executed.
 * journal_mode only if it asks for what is there.
 */
static const char *const pragmas_answered[] = {"journal_mode", "synchronous", "busy_timeout",
	"cache_size", "mmap_size", "temp_store", "journal_size_limit", NULL};

static const char *const functions_refused[] = {
	"load_extension", "fts3_tokenizer", "edit", "readfile", "writefile", NULL};

static bool in_list(const char *const *list, const char *word)
{
	for (; *list != NULL; list++) {
		if (sqlite3_stricmp(*list, word) == 0) {
			return true;
		}
	}
	return false;
}

static int refuse(
	struct authorizer *authorizer, enum role needed, const char *what, const char *name)
{
	if (authorizer->denied[0] == 0) {
		authorizer->needed = needed;
		snprintf(authorizer->denied, sizeof(authorizer->denied), "%s%s%s", what,
			name != NULL ? " " : "", name != NULL ? name : "");
	}
	return SQLITE_DENY;
}

static int require(
	struct authorizer *authorizer, enum role needed, const char *what, const char *name)
{
	return authorizer->role >= needed ? SQLITE_OK : refuse(authorizer, needed, what, name);
}

static bool is_own_table(const char *table)
{
	return table != NULL && sqlite3_strnicmp(table, "_lf_", 4) == 0;
}

/*
 * Tables of facts that SQLite makes as they are asked for, unless the schema has one of that name: then ours
 * would be asked of it.
 */
static bool is_telling_table(const char *table)
{
	return table != NULL && sqlite3_strnicmp(table, "pragma_", 7) == 0;
}

/* A switch as SQLite reads it. */
static bool is_on(const char *argument)
{
	static const char *const words[] = {"on", "yes", "true", NULL};
	return in_list(words, argument) || strtol(argument, NULL, 0) != 0;
}

static int authorize_pragma(struct authorizer *authorizer, const char *name, const char *argument)
{
	if (in_list(pragmas_telling, name)) {
		return require(authorizer, ROLE_QUERY, "PRAGMA", name);
	}
	if (argument == NULL && in_list(pragmas_readable, name)) {
		return require(authorizer, ROLE_QUERY, "PRAGMA", name);
	}
	if (in_list(pragmas_of_ddl, name)) {
		authorizer->saw_ddl = true;
		return require(authorizer, ROLE_DDL, "PRAGMA", name);
	}
	if (authorizer->lease && argument != NULL &&
		sqlite3_stricmp(name, "defer_foreign_keys") == 0) {
		authorizer->saw_lease = true; /* SQLite takes it back when the transaction ends */
		return require(authorizer, ROLE_WRITE, "PRAGMA", name);
	}
	if (authorizer->lease && argument != NULL && sqlite3_stricmp(name, "foreign_keys") == 0) {
		/* Inside a transaction it does nothing, and SQLite would not say so. */
		if (is_on(argument) != authorizer->lease_foreign_keys) {
			return refuse(authorizer, ROLE_NONE,
				"PRAGMA foreign_keys within a transaction, where it does nothing: "
				"give it to `begin`, in `set`",
				NULL);
		}
		authorizer->saw_lease = true;
		snprintf(authorizer->answered, sizeof(authorizer->answered), "%s", name);
		return SQLITE_IGNORE;
	}
	if (argument != NULL && in_list(pragmas_answered, name) &&
		(sqlite3_stricmp(name, "journal_mode") != 0 ||
			sqlite3_stricmp(argument, "wal") == 0)) {
		snprintf(authorizer->answered, sizeof(authorizer->answered), "%s", name);
		return SQLITE_IGNORE;
	}
	return refuse(authorizer, ROLE_NONE, "PRAGMA", name);
}

/* TEMP objects: a lease's own, for as long as it lasts. */
static int authorize_temp(struct authorizer *authorizer, const char *name, const char *on)
{
	if (!authorizer->lease) {
		return refuse(authorizer, ROLE_NONE, "a TEMP object", name);
	}
	if (is_own_table(name) || is_own_table(on)) {
		return refuse(authorizer, ROLE_NONE, "litefunnel's own table",
			is_own_table(name) ? name : on);
	}
	authorizer->saw_temp = true;
	authorizer->saw_lease = true;
	return require(authorizer, ROLE_WRITE, "a TEMP object", name);
}

/*
 * Changes of the schema: `name` is made, changed or dropped; `on` is the table of an index or
 * trigger.
 */
static int authorize_schema(struct authorizer *authorizer, const char *what, const char *name,
	const char *on, const char *database)
{
	if (database != NULL && sqlite3_stricmp(database, "temp") == 0) {
		return authorize_temp(authorizer, name, on);
	}
	authorizer->saw_ddl = true;
	if (is_own_table(name) || is_own_table(on)) {
		return refuse(authorizer, ROLE_NONE, "litefunnel's own table",
			is_own_table(name) ? name : on);
	}
	return require(authorizer, ROLE_DDL, what, name);
}

static bool is_schema_table(const char *table)
{
	static const char *const names[] = {
		"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema", NULL};
	return in_list(names, table);
}

static int authorize_rows(struct authorizer *authorizer, int action, const char *what,
	const char *table, const char *database)
{
	bool temp = database != NULL && sqlite3_stricmp(database, "temp") == 0;
	if (is_own_table(table)) {
		return refuse(authorizer, ROLE_NONE, "writing litefunnel's own table", table);
	}
	if (is_schema_table(table)) {
		/*
		 * SQLite's own bookkeeping: a client cannot write there directly, and what it is for
		 * was asked about before. Only a row that is added to the TEMP schema gives away a
		 * `CREATE TRIGGER temp.x`, which is reported as one in main.
		 */
		return temp && action == SQLITE_INSERT ? authorize_temp(authorizer, NULL, NULL)
						       : SQLITE_OK;
	}
	if (temp && !authorizer->lease) {
		return refuse(authorizer, ROLE_NONE, "a TEMP object", table);
	}
	return require(authorizer, ROLE_WRITE, what, table);
}

static int authorize_transaction(struct authorizer *authorizer, const char *what)
{
	if (!authorizer->lease) {
		return refuse(authorizer, ROLE_NONE, "transaction control inside a batch:", what);
	}
	authorizer->saw_lease = true;
	authorizer->control = strcmp(what, "COMMIT") == 0 ? CONTROL_COMMIT
		: strcmp(what, "ROLLBACK") == 0           ? CONTROL_ROLLBACK
							  : CONTROL_BEGIN;
	return SQLITE_OK;
}

static int authorize(void *ctx, int action, const char *first, const char *second,
	const char *database, const char *inner)
{
	struct authorizer *authorizer = ctx;
	/* A trigger or view does not widen what its caller may do. */
	if (authorizer->compiling != NULL && compiler_is_over(authorizer->compiling)) {
		return SQLITE_DENY;
	}
	if (authorizer->role == ROLE_SELF) {
		return SQLITE_OK;
	}
	if (authorizer->observe != NULL) {
		authorizer->observe(authorizer->observe_ctx, action, first, second, inner);
	}
	switch (action) {
	case SQLITE_READ:
		if (first != NULL && sqlite3_stricmp(first, "sqlite_stmt") == 0) {
			/* It shows the statements of everybody. */
			return require(authorizer, ROLE_ADMIN, "reading", first);
		}
		return require(authorizer, ROLE_QUERY, "reading", first);
	case SQLITE_SELECT:
	case SQLITE_RECURSIVE:
		return require(authorizer, ROLE_QUERY, "reading", first);
	case SQLITE_FUNCTION:
		authorizer->saw_changes |= sqlite3_stricmp(second, "changes") == 0;
		if (sqlite3_stricmp(second, "lf_notify") == 0 ||
			sqlite3_stricmp(second, "lf_mark") == 0 ||
			sqlite3_stricmp(second, "lf_mark_note") == 0) {
			return require(authorizer, ROLE_WRITE, "the function", second);
		}
		return in_list(functions_refused, second)
			? refuse(authorizer, ROLE_NONE, "the function", second)
			: require(authorizer, ROLE_QUERY, "the function", second);
	case SQLITE_INSERT:
		return authorize_rows(authorizer, action, "INSERT into", first, database);
	case SQLITE_UPDATE:
		return authorize_rows(authorizer, action, "UPDATE of", first, database);
	case SQLITE_DELETE:
		return authorize_rows(authorizer, action, "DELETE from", first, database);
	case SQLITE_PRAGMA:
		return authorize_pragma(authorizer, first, second);
	case SQLITE_CREATE_VIEW:
	case SQLITE_CREATE_TEMP_VIEW:
		authorizer->made_view = true;
		__attribute__((fallthrough));
	case SQLITE_CREATE_TABLE:
	case SQLITE_CREATE_VTABLE:
	case SQLITE_CREATE_TEMP_TABLE:
		if (is_telling_table(first)) {
			return refuse(authorizer, ROLE_NONE, "the name of a table of SQLite's own",
				first);
		}
		return action == SQLITE_CREATE_TEMP_TABLE || action == SQLITE_CREATE_TEMP_VIEW
			? authorize_temp(authorizer, first, second)
			: authorize_schema(authorizer, "CREATE of", first, second, database);
	case SQLITE_CREATE_INDEX:
	case SQLITE_CREATE_TRIGGER:
		return authorize_schema(authorizer, "CREATE of", first, second, database);
	case SQLITE_DROP_TABLE:
	case SQLITE_DROP_INDEX:
	case SQLITE_DROP_VIEW:
	case SQLITE_DROP_TRIGGER:
	case SQLITE_DROP_VTABLE:
		return authorize_schema(authorizer, "DROP of", first, second, database);
	case SQLITE_ALTER_TABLE: /* the table stands second, the database first */
		return authorize_schema(authorizer, "ALTER of", second, NULL, first);
	case SQLITE_REINDEX:
		authorizer->saw_ddl = true;
		return require(authorizer, ROLE_DDL, "REINDEX of", first); /* ours does no harm */
	case SQLITE_ANALYZE:
		if (is_own_table(first)) {
			return SQLITE_IGNORE; /* ANALYZE of everything leaves ours out */
		}
		return authorize_schema(authorizer, "ANALYZE of", first, NULL, database);
	case SQLITE_TRANSACTION:
		return authorize_transaction(authorizer, first);
	case SQLITE_SAVEPOINT: /* what it does stands first, its name second */
		authorizer->saw_lease = true;
		authorizer->control = strcmp(first, "ROLLBACK") == 0 ? CONTROL_REWIND
			: strcmp(first, "RELEASE") == 0              ? CONTROL_RELEASE
								     : CONTROL_SAVEPOINT;
		authorizer->savepoint = touched_name(second);
		return !authorizer->lease
			? refuse(authorizer, ROLE_NONE, "a savepoint inside a batch:", first)
			: is_own_table(second)
			? refuse(authorizer, ROLE_NONE, "litefunnel's own savepoint", second)
			: SQLITE_OK;
	case SQLITE_ATTACH:
		return refuse(authorizer, ROLE_NONE, "ATTACH (or VACUUM)", NULL);
	case SQLITE_DETACH:
		return refuse(authorizer, ROLE_NONE, "DETACH", NULL);
	case SQLITE_CREATE_TEMP_INDEX:
	case SQLITE_CREATE_TEMP_TRIGGER:
	case SQLITE_DROP_TEMP_TABLE:
	case SQLITE_DROP_TEMP_INDEX:
	case SQLITE_DROP_TEMP_VIEW:
	case SQLITE_DROP_TEMP_TRIGGER:
		return authorize_temp(authorizer, first, second);
	default:
		return refuse(
			authorizer, ROLE_NONE, "an action that this version does not know", NULL);
	}
}

int authorizer_install(struct authorizer *authorizer, sqlite3 *handle)
{
	return sqlite3_set_authorizer(handle, authorize, authorizer);
}

enum role authorizer_enter(struct authorizer *authorizer, enum role role)
{
	enum role before = authorizer->role;
	authorizer->role = role;
	authorizer->saw_ddl = false;
	authorizer->saw_changes = false;
	authorizer->saw_temp = false;
	authorizer->saw_lease = false;
	authorizer->control = CONTROL_NONE;
	authorizer->answered[0] = 0;
	authorizer->needed = ROLE_NONE;
	authorizer->denied[0] = 0;
	return before;
}
