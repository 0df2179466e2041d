/* SPDX-License-Identifier: MIT */

/*
 * The bounds of one call are heap limits of SQLite, set around it. They hold for the process: while a text is compiled,
 * no other thread may take more from SQLite than it leaves.
 */

#include "server/store/compiler.h"

#include <string.h>

int compiler_prepare(sqlite3 *handle, size_t bytes, const char *sql, int len, unsigned flags,
	sqlite3_stmt **ret_stmt, const char **ret_tail, bool *ret_too_large)
{
	size_t text = len < 0 ? strlen(sql) : (size_t)len;
	sqlite3_int64 room = (sqlite3_int64)(bytes + text * COMPILER_BYTES_PER_BYTE);
	sqlite3_int64 hard = sqlite3_hard_heap_limit64(-1);
	sqlite3_int64 soft = sqlite3_soft_heap_limit64(-1);
	sqlite3_int64 used = sqlite3_memory_used();
	bool bounded = bytes > 0 && (hard == 0 || used + room < hard);
	if (bounded) {
		(void)sqlite3_hard_heap_limit64(used + room);
	}
	(void)sqlite3_memory_highwater(1);
	int rc = sqlite3_prepare_v3(handle, sql, len, flags, ret_stmt, ret_tail);
	/* What did not fit was one more piece; an allocation that fails by itself does so long before. */
	sqlite3_int64 taken = sqlite3_memory_highwater(0) - used;
	*ret_too_large = bounded && (rc & 0xff) == SQLITE_NOMEM && taken >= room / 4;
	if (bounded) {
		(void)sqlite3_hard_heap_limit64(hard);
		(void)sqlite3_soft_heap_limit64(soft);
	}
	return rc;
}
