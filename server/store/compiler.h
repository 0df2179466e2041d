/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How much memory SQLite may take to compile a text that is not ours. Nothing else bounds it, nor the time: views and
 * WITH clauses that name one another twice double with each what has to be built, nothing interrupts the compiler
 * (SQLite before 3.41), and all of it is done while others wait for the writer.
 */

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>

enum {
	COMPILER_BYTES = 32 << 20, /* about 0.1 s of doubling */
	COMPILER_VIEW_BYTES =
		8 << 20, /* of a view, for each change of the schema compiles them all */
	/* And for each byte of the text; short VALUES take about 130, columns 220. */
	COMPILER_BYTES_PER_BYTE = 256,
};

/*
 * sqlite3_prepare_v3() within so many bytes (0: any), and those for the text; len < 0: it ends in a NUL. *ret_too_large: SQLITE_NOMEM says that
 * they were met, and not that memory is short. Like SQLite's heap limits, which it uses, it is for one thread at a time.
 */
int compiler_prepare(sqlite3 *handle, size_t bytes, const char *sql, int len, unsigned flags,
	sqlite3_stmt **ret_stmt, const char **ret_tail, bool *ret_too_large);
