/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A database file that nobody uses, looked at through SQLite: read-only, without touching what
 * lies beside it. For files that were just restored or copied.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INSPECT_TEXT_BYTES = 500 };

enum inspect_condition {
	INSPECT_BAD = 1, /* it is not what it should be; the text says how */
};

enum inspect_depth { INSPECT_NONE, INSPECT_QUICK, INSPECT_FULL };

struct inspect;

/* INSPECT_BAD: not a database. -ENOMEM. */
int inspect_open(const char *path, struct inspect **ret_inspect, char ret_text[INSPECT_TEXT_BYTES]);
void inspect_close(struct inspect *inspect);

/* The newest commit number in it. *ret_ours false: litefunnel never served it. */
int inspect_commit(struct inspect *inspect, bool *ret_ours, uint64_t *ret_commit,
	char ret_text[INSPECT_TEXT_BYTES]);

/* PRAGMA quick_check or integrity_check. */
int inspect_integrity(
	struct inspect *inspect, enum inspect_depth depth, char ret_text[INSPECT_TEXT_BYTES]);

/* PRAGMA foreign_key_check. *ret_count rows whose parent is missing; the text names the first. */
int inspect_foreign_keys(
	struct inspect *inspect, uint64_t *ret_count, char ret_text[INSPECT_TEXT_BYTES]);

/* fn for each ordinary table of a user, with its number of rows. */
int inspect_tables(struct inspect *inspect, void (*fn)(void *ctx, const char *table, uint64_t rows),
	void *ctx, char ret_text[INSPECT_TEXT_BYTES]);

/*
 * A SELECT of the user's that must yield something true: INSPECT_BAD if it yields no row, or 0 or
 * NULL in the first column of any row, or fails.
 */
int inspect_assert(struct inspect *inspect, const char *sql, char ret_text[INSPECT_TEXT_BYTES]);

/* The same for each statement of a script, until one fails; *count is raised by each that was asked. */
int inspect_assert_all(struct inspect *inspect, const char *script, uint64_t *count,
	char ret_text[INSPECT_TEXT_BYTES]);
