/* SPDX-License-Identifier: MIT */
#pragma once

/* For tests of the store: one on a real file, and another process's view of that file. */

#include "tests/unit/bed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct bed bed;
static struct shown shown;

/* ---- another process's view ---- */

static inline sqlite3 *open_other(int flags)
{
	sqlite3 *other = NULL;
	assert_int_equal(sqlite3_open_v2(bed.path, &other, flags, NULL), SQLITE_OK);
	return other;
}

static inline int other_exec(const char *sql)
{
	sqlite3 *other = open_other(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
	int rc = sqlite3_exec(other, sql, NULL, NULL, NULL);
	sqlite3_close(other);
	return rc;
}

/* The same, by one that leaves the WAL where it is. */
static inline int other_exec_in_wal(const char *sql)
{
	int persist = 1;
	sqlite3 *other = open_other(SQLITE_OPEN_READWRITE);
	sqlite3_db_config(other, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	sqlite3_file_control(other, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
	int rc = sqlite3_exec(other, sql, NULL, NULL, NULL);
	sqlite3_close(other);
	return rc;
}

static inline int64_t other_number(const char *sql)
{
	sqlite3 *other = open_other(SQLITE_OPEN_READONLY);
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(sqlite3_prepare_v2(other, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int64_t number = sqlite3_column_int64(stmt, 0);
	sqlite3_finalize(stmt);
	sqlite3_close(other);
	return number;
}

/* ---- each test ---- */

static inline int set_up(void **state)
{
	(void)state;
	bed_make(&bed);
	shown.error = (struct store_error){.row = -1};
	return 0;
}

static inline int tear_down(void **state)
{
	(void)state;
	bed_shown_clear(&shown);
	bed_remove(&bed);
	return 0;
}
