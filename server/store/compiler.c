/* SPDX-License-Identifier: MIT */

/*
 * The bound of memory is a heap limit of SQLite, set around the call. It holds for the process: while a text is compiled,
 * no other thread may take more from SQLite than it leaves. Depth and time are looked at whenever SQLite asks the
 * authorizer, which it does at least once for each trigger.
 */

#include "server/store/compiler.h"

#include "server/base/clock.h"
#include "server/store/sql_text.h"

#include <string.h>
#include <sys/resource.h>

enum { ASKED_A_LOOK = 64, LONG_US = 5000 };

bool compiler_is_over(struct compiling *compiling)
{
	uintptr_t now = (uintptr_t)__builtin_frame_address(0);
	uintptr_t depth = now < compiling->stack ? compiling->stack - now : now - compiling->stack;
	if (compiling->bound != COMPILER_FITS) {
		return true;
	}
	if (depth > compiling->stack_max) {
		compiling->bound = COMPILER_DEPTH;
	} else if (compiling->asked++ % ASKED_A_LOOK == 0 &&
		clock_thread_us() >= compiling->until_us) {
		compiling->bound = COMPILER_TIME;
	}
	return compiling->bound != COMPILER_FITS;
}

static size_t stack_max(void)
{
	struct rlimit limit;
	return getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur / 2 < COMPILER_STACK
		? (size_t)limit.rlim_cur / 2
		: COMPILER_STACK;
}

/* More clauses than the stack has room for. They are counted only where a text is long enough for them. */
static bool has_many_clauses(struct bytes sql)
{
	struct sql_text text = {.sql = sql};
	struct token token = {.kind = TOKEN_WORD};
	unsigned count = 0;
	bool as = false;
	if (sql.len < COMPILER_CLAUSES * sizeof("a AS(TABLE b)")) {
		return false;
	}
	while (token.kind != TOKEN_END && token.kind != TOKEN_BROKEN && count <= COMPILER_CLAUSES) {
		token = sql_next(&text);
		count += as && token.kind == TOKEN_MARK && token.first == '(';
		as = token_is(sql, &token, "as") ||
			(as &&
				(token_is(sql, &token, "not") ||
					token_is(sql, &token, "materialized")));
	}
	return count > COMPILER_CLAUSES;
}

/* Within a heap limit. *ret_met: it was what made it fail. */
static int prepare_within(sqlite3 *handle, sqlite3_int64 room, const char *sql, int len,
	unsigned flags, sqlite3_stmt **ret_stmt, const char **ret_tail, bool *ret_met)
{
	sqlite3_int64 hard = sqlite3_hard_heap_limit64(-1);
	sqlite3_int64 soft = sqlite3_soft_heap_limit64(-1);
	sqlite3_int64 used = sqlite3_memory_used();
	bool bounded = room > 0 && (hard == 0 || used + room < hard);
	if (bounded) {
		(void)sqlite3_hard_heap_limit64(used + room);
	}
	(void)sqlite3_memory_highwater(1);
	int rc = sqlite3_prepare_v3(handle, sql, len, flags, ret_stmt, ret_tail);
	/* What did not fit was one more piece; an allocation that fails by itself does so long before. */
	sqlite3_int64 taken = sqlite3_memory_highwater(0) - used;
	*ret_met = bounded && (rc & 0xff) == SQLITE_NOMEM && taken >= room / 4;
	if (bounded) {
		(void)sqlite3_hard_heap_limit64(hard);
		(void)sqlite3_soft_heap_limit64(soft);
	}
	return rc;
}

int compiler_prepare(sqlite3 *handle, struct authorizer *authorizer, size_t bytes, const char *sql,
	int len, unsigned flags, sqlite3_stmt **ret_stmt, const char **ret_tail,
	enum compiler_bound *ret_bound)
{
	uint64_t began_us = clock_thread_us();
	struct compiling compiling = {.stack = (uintptr_t)__builtin_frame_address(0),
		.stack_max = stack_max(),
		.until_us = began_us + COMPILER_MS * 1000ull};
	size_t text = len < 0 ? strlen(sql) : (size_t)len;
	size_t room = bytes > 0 ? bytes + text * COMPILER_BYTES_PER_BYTE : 0;
	bool met = false;
	if (has_many_clauses((struct bytes){sql, text})) {
		*ret_stmt = NULL;
		*ret_bound = COMPILER_DEPTH;
		return SQLITE_TOOBIG;
	}
	authorizer->compiling = &compiling;
	int rc = prepare_within(
		handle, (sqlite3_int64)room, sql, len, flags, ret_stmt, ret_tail, &met);
	authorizer->compiling = NULL;
	authorizer->compiled_long |= clock_thread_us() - began_us >= LONG_US;
	*ret_bound = met ? COMPILER_MEMORY : rc != SQLITE_OK ? compiling.bound : COMPILER_FITS;
	return rc;
}

const char *compiler_refusal(enum compiler_bound bound)
{
	_Static_assert(
		COMPILER_BYTES == 32 << 20 && COMPILER_MS == 10000 && COMPILER_CLAUSES == 2000,
		"as the texts say");
	switch (bound) {
	case COMPILER_MEMORY:
		return "compiling it takes more than 32 MiB (cure: name views and WITH clauses that name "
		       "others twice less often, or keep what they give in a table)";
	case COMPILER_DEPTH:
		return "it is nested too deep to be compiled: triggers that reach one another, or more than "
		       "2000 clauses of WITH";
	case COMPILER_TIME:
		return "compiling it takes more than 10 s (cure: fewer triggers, views and WITH clauses)";
	default:
		return "";
	}
}
