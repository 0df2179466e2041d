/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What SQLite may take to compile a text that is not ours. Nothing else bounds it: views and WITH clauses that name one
 * another twice double with each what has to be built, and the compiler calls itself for each trigger that a
 * statement may fire. Nothing interrupts it either (SQLite before 3.41), and others wait for the writer meanwhile.
 */

#include "server/store/authorizer.h"

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

enum {
	COMPILER_BYTES = 32 << 20, /* about 0.1 s of doubling */
	COMPILER_VIEW_BYTES =
		8 << 20, /* of a view, for each change of the schema compiles them all */
	/* And for each byte of the text; short VALUES take about 130, columns 220. */
	COMPILER_BYTES_PER_BYTE = 256,
	COMPILER_STACK = 4 << 20, /* or half of what the process allows its first thread */
	COMPILER_MS =
		10000, /* of the thread's time; 32766 named parameters take it several seconds */
	COMPILER_VIEWS_MS = 2000, /* the same, for all views together */
	COMPILER_CLAUSES =
		2000, /* of WITH; the compiler calls itself for each that names the one before */
};

enum compiler_bound { COMPILER_FITS, COMPILER_MEMORY, COMPILER_DEPTH, COMPILER_TIME };

/* One call of compiler_prepare(), for the authorizer, which SQLite asks all along. */
struct compiling {
	uintptr_t stack;
	size_t stack_max;
	uint64_t until_us;
	unsigned asked;
	enum compiler_bound bound;
};

/* Whether it has met a bound of depth or time: then no action is authorized any more. */
bool compiler_is_over(struct compiling *compiling);

/*
 * sqlite3_prepare_v3() within so many bytes (0: any), and those for the text; len < 0: it ends in a NUL. *ret_bound:
 * which of the bounds made it fail. Like SQLite's heap limits, which it uses, it is for one thread at a time.
 */
int compiler_prepare(sqlite3 *handle, struct authorizer *authorizer, size_t bytes, const char *sql,
	int len, unsigned flags, sqlite3_stmt **ret_stmt, const char **ret_tail,
	enum compiler_bound *ret_bound);

/* "compiling it takes more than …", with a cure, for a bound that was met. */
const char *compiler_refusal(enum compiler_bound bound);
