/* SPDX-License-Identifier: MIT */

/*
 * Schemas that cannot be served: those that need what this process has not, and those that reach into
 * the daemon's own tables, or into SQLite, in ways that the authorizer is not asked about.
 */

#include "server/store/compiler.h"
#include "server/store/inside.h"

#include "server/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_US = 5000000 }; /* for all tables */

/* Errors of compiling that speak of what this process lacks, and not of the probe itself. */
static bool is_missing(const char *message)
{
	static const char *const signs[] = {"no such function", "unknown function",
		"no such collation", "no such module", "unsafe use of"};
	for (size_t i = 0; i < sizeof(signs) / sizeof(signs[0]); i++) {
		if (strstr(message, signs[i]) != NULL) {
			return true;
		}
	}
	return false;
}

/* Compiles one probe. 0, or -EINVAL with a sentence. */
static int probe(
	struct store *store, const char *table, const char *sql, char ret_error[STORE_ERROR_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	enum compiler_bound bound = COMPILER_FITS;
	int found = 0;
	authorizer_enter(&store->authorizer, ROLE_SELF);
	if (sql != NULL &&
		compiler_prepare(store->handle, &store->authorizer, COMPILER_BYTES, sql, -1, 0,
			&stmt, NULL, &bound) != SQLITE_OK &&
		bound == COMPILER_FITS && is_missing(sqlite3_errmsg(store->handle))) {
		snprintf(ret_error, STORE_ERROR_BYTES,
			"%s: the schema of \"%s\" needs what this process has not: %s (cure: the setting "
			"`extensions`)",
			store->path, table, sqlite3_errmsg(store->handle));
		found = -EINVAL;
	}
	sqlite3_finalize(stmt);
	return found;
}

/*
 * Such a lack would make every write to the table fail later. Compiling a statement of each kind, with
 * the triggers that it would fire, finds it now; nothing is run. What is not looked at in time is found later.
 */
int schema_check(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	static const char tables[] =
		"SELECT s.name, (SELECT group_concat(printf('\"%w\" = NULL', c.name), ', ')"
		" FROM pragma_table_info(iif(s.type = 'table', s.name, '')) AS c) FROM sqlite_schema AS s"
		" WHERE s.type IN ('table', 'view') AND s.name NOT LIKE 'sqlite~_%' ESCAPE '~'";
	static const char *const probes[] = {"SELECT * FROM \"%w\"", "DELETE FROM \"%w\"",
		"INSERT INTO \"%w\" DEFAULT VALUES", "UPDATE \"%w\" SET %s", "REINDEX \"%w\""};
	sqlite3_stmt *list = NULL;
	int found = own_prepare(store, tables, &list) == SQLITE_OK ? 0 : -EINVAL;
	uint64_t until_us = clock_now_us() + CHECK_US;
	while (found == 0 && clock_now_us() < until_us && sqlite3_step(list) == SQLITE_ROW) {
		const char *name = (const char *)sqlite3_column_text(list, 0);
		const char *columns = (const char *)sqlite3_column_text(list, 1);
		for (size_t i = 0; found == 0 && clock_now_us() < until_us &&
			i < sizeof(probes) / sizeof(probes[0]);
			i++) {
			char *sql =
				sqlite3_mprintf(probes[i], name, columns != NULL ? columns : "");
			found = probe(store, name, sql, ret_error);
			sqlite3_free(sql);
		}
	}
	sqlite3_finalize(list);
	return found;
}

/* SQLite's code, and whether it gives a row. */
static int finds(struct store *store, const char *sql, bool *ret_found)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(store, sql, &stmt);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	*ret_found = rc == SQLITE_ROW;
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int schema_find_large_view(struct store *store, char **ret_view)
{
	sqlite3_stmt *list = NULL;
	enum compiler_bound bound = COMPILER_FITS;
	int rc = own_prepare(store,
		"SELECT name FROM sqlite_schema WHERE type = 'view' UNION ALL "
		"SELECT name FROM sqlite_temp_schema WHERE type = 'view'",
		&list);
	uint64_t until_us = clock_thread_us() + COMPILER_VIEWS_MS * 1000ull;
	*ret_view = NULL;
	while (rc == SQLITE_OK && bound == COMPILER_FITS &&
		(rc = sqlite3_step(list)) == SQLITE_ROW) {
		sqlite3_stmt *stmt = NULL;
		const char *name = (const char *)sqlite3_column_text(list, 0);
		char *sql = sqlite3_mprintf("SELECT * FROM \"%w\"", name);
		rc = sql != NULL ? SQLITE_OK : SQLITE_NOMEM;
		if (sql != NULL) {
			/* What does not compile for other reasons is no matter of size. */
			(void)compiler_prepare(store->handle, &store->authorizer,
				COMPILER_VIEW_BYTES, sql, -1, 0, &stmt, NULL, &bound);
			sqlite3_finalize(stmt);
		}
		if (bound == COMPILER_FITS && clock_thread_us() >= until_us) {
			bound = COMPILER_TIME; /* of all together */
		}
		if (bound != COMPILER_FITS) {
			*ret_view = strdup(name);
			rc = *ret_view != NULL ? SQLITE_OK : SQLITE_NOMEM;
		}
		sqlite3_free(sql);
	}
	sqlite3_finalize(list);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

uint64_t schema_bytes(struct store *store)
{
	int bytes = 0;
	int ignored = 0;
	(void)sqlite3_db_status(
		store->handle, SQLITE_DBSTATUS_SCHEMA_USED, &bytes, &ignored, false);
	return bytes > 0 ? (uint64_t)bytes : 0;
}

void schema_allow_views(struct store *store)
{
	char *view = NULL;
	store->large_views = schema_find_large_view(store, &view) != SQLITE_OK || view != NULL;
	free(view);
	store->large_schema = schema_bytes(store) > store->schema_bytes_max;
}

/* For what is looked at see inside.h. */
int schema_find_trespass(struct store *store, bool *ret_found)
{
	/* Before anything is asked of SQLite's own tables of facts: a table of that name would answer. */
	static const char impostors[] =
		"SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view') AND name LIKE 'pragma~_%' ESCAPE '~' "
		"UNION ALL "
		"SELECT 1 FROM sqlite_temp_schema WHERE type IN ('table', 'view') AND name LIKE 'pragma~_%' ESCAPE '~'";
	static const char trespasses[] =
		"WITH shadow(name) AS MATERIALIZED (SELECT name FROM pragma_table_list"
		" WHERE schema = 'main' AND type = 'shadow') "
		"SELECT 1 FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f"
		" WHERE s.type = 'table' AND f.\"table\" LIKE '~_lf~_%' ESCAPE '~' "
		"UNION ALL "
		"SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view')"
		" AND name LIKE '~_lf~_%' ESCAPE '~'"
		" AND name NOT IN ('_lf_state', '_lf_group', '_lf_session', '_lf_key', '_lf_chunk', '_lf_drill') "
		"UNION ALL "
		"SELECT 1 FROM sqlite_schema WHERE type IN ('trigger', 'index')"
		" AND tbl_name LIKE '~_lf~_%' ESCAPE '~' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
		" AND name <> '_lf_session_grave' "
		"UNION ALL "
		/* What runs inside a virtual table's own statements is not undone as a batch is. */
		"SELECT 1 FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
		" AND tbl_name COLLATE NOCASE IN (SELECT name FROM shadow) "
		"UNION ALL "
		"SELECT 1 FROM sqlite_temp_schema WHERE type = 'trigger'"
		" AND tbl_name COLLATE NOCASE IN (SELECT name FROM shadow) "
		"UNION ALL "
		"SELECT 1 FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f"
		" WHERE s.type = 'table' AND f.\"table\" COLLATE NOCASE IN (SELECT name FROM shadow) "
		/* A TEMP table of such a name would stand before ours. */
		"UNION ALL "
		"SELECT 1 FROM sqlite_temp_schema WHERE name LIKE '~_lf~_%' ESCAPE '~'"
		" OR tbl_name LIKE '~_lf~_%' ESCAPE '~'";
	uint64_t deadline_us = store->exec_deadline_us;
	store->exec_deadline_us =
		0; /* this look is ours and is not interrupted; what follows it is */
	int rc = finds(store, impostors, ret_found);
	rc = rc == SQLITE_OK && !*ret_found ? finds(store, trespasses, ret_found) : rc;
	store->exec_deadline_us = deadline_us;
	return rc;
}

int schema_find_lost(struct store *store, char ret_table[STORE_OWN_NAME_BYTES])
{
	sqlite3_stmt *stmt = NULL;
	ret_table[0] = 0;
	int rc = own_prepare(store,
		"WITH own(name) AS (VALUES ('_lf_state'), ('_lf_group'), ('_lf_session'), ('_lf_key'),"
		" ('_lf_chunk'), ('_lf_drill'))"
		" SELECT name FROM own WHERE name NOT IN"
		" (SELECT name FROM sqlite_schema WHERE type = 'table')",
		&stmt);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	if (rc == SQLITE_ROW) {
		sqlite3_snprintf(
			STORE_OWN_NAME_BYTES, ret_table, "%s", sqlite3_column_text(stmt, 0));
	}
	sqlite3_finalize(stmt);
	if (rc != SQLITE_DONE) {
		return rc == SQLITE_ROW ? SQLITE_OK : rc;
	}
	stmt = NULL;
	rc = own_prepare(store, "SELECT 1 FROM _lf_state WHERE id = 1", &stmt);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	if (rc == SQLITE_DONE) {
		sqlite3_snprintf(STORE_OWN_NAME_BYTES, ret_table, "the row of _lf_state");
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}
