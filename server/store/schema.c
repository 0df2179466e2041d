/* SPDX-License-Identifier: MIT */

/*
 * Schemas that cannot be served: those that need what this process has not, and those that reach into
 * the daemon's own tables, or into SQLite, in ways that the authorizer is not asked about.
 */

#include "server/store/inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

/*
 * A function, collation or module that the schema needs and this process has not would make every
 * write to that table fail later. Compiling one statement of each kind per table finds them now.
 */
int schema_check(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	static const char *const probes[] = {"SELECT * FROM \"%w\"", "DELETE FROM \"%w\"",
		"INSERT INTO \"%w\" DEFAULT VALUES", "REINDEX \"%w\""};
	sqlite3_stmt *tables = NULL;
	int rc = own_prepare(store,
		"SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') "
		"AND name NOT LIKE 'sqlite~_%' ESCAPE '~'",
		&tables);
	int found = 0;
	while (rc == SQLITE_OK && found == 0 && sqlite3_step(tables) == SQLITE_ROW) {
		const char *name = (const char *)sqlite3_column_text(tables, 0);
		bool view = strcmp((const char *)sqlite3_column_text(tables, 1), "view") == 0;
		size_t count = view ? 1 : sizeof(probes) / sizeof(probes[0]);
		for (size_t i = 0; i < count && found == 0; i++) {
			char *sql = sqlite3_mprintf(probes[i], name);
			sqlite3_stmt *probe = NULL;
			if (own_prepare(store, sql, &probe) != SQLITE_OK &&
				is_missing(sqlite3_errmsg(store->handle))) {
				snprintf(ret_error, STORE_ERROR_BYTES,
					"%s: the schema of \"%s\" needs what this process has not: %s "
					"(cure: the setting `extensions`)",
					store->path, name, sqlite3_errmsg(store->handle));
				found = -EINVAL;
			}
			sqlite3_finalize(probe);
			sqlite3_free(sql);
		}
	}
	sqlite3_finalize(tables);
	return found;
}

bool schema_is_trespassed(struct store *store)
{
	sqlite3_stmt *stmt = NULL;
	store_batch_end(store); /* this look is ours and is not interrupted */
	int rc = own_prepare(store,
		"SELECT 1 FROM sqlite_schema AS s, pragma_foreign_key_list(s.name) AS f"
		" WHERE s.type = 'table' AND f.\"table\" LIKE '~_lf~_%' ESCAPE '~' "
		"UNION ALL "
		"SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view')"
		" AND name LIKE '~_lf~_%' ESCAPE '~'"
		" AND name NOT IN ('_lf_state', '_lf_group', '_lf_session', '_lf_key') "
		"UNION ALL "
		"SELECT 1 FROM sqlite_schema WHERE type IN ('trigger', 'index')"
		" AND tbl_name LIKE '~_lf~_%' ESCAPE '~' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
		" AND name <> '_lf_session_grave' "
		"UNION ALL "
		"SELECT 1 FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
		" AND tbl_name IN (SELECT name FROM pragma_table_list WHERE type = 'shadow')",
		&stmt);
	/* In doubt it is: too little memory must not let one through. */
	bool trespassed = rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_DONE;
	sqlite3_finalize(stmt);
	return trespassed;
}
