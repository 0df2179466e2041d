/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Prepared statements, kept by (role, text) and with the facts that the commit group needs. The
 * role is part of the key because what was compiled under one role may be refused under another.
 *
 * A change of the schema empties the cache: facts such as "a trigger of this table can throw the
 * transaction away" would go stale otherwise.
 */

#include "server/base/list.h"
#include "server/store/authorizer.h"
#include "server/store/store.h"

#include <sqlite3.h>

struct stmt {
	struct stmt *next_in_bucket;
	struct list recent; /* stmt_cache::recent */
	sqlite3_stmt *handle;
	uint64_t hash;
	enum role role;
	size_t sql_len;
	size_t bytes; /* of memory, when it was compiled */
	unsigned params;
	unsigned columns;
	bool readonly;     /* sqlite3_stmt_readonly() */
	bool dml;          /* INSERT, UPDATE, DELETE: changes() means something */
	bool ddl;          /* changes the schema, or the facts of other statements */
	bool asks_changes; /* uses changes() */
	enum { STMT_UNKNOWN, STMT_ATOMIC, STMT_NEEDS_SAVEPOINT } atomic;
	bool busy;  /* in use: not to be evicted */
	bool once;  /* too large to be kept, or for leases only */
	bool temp;  /* changes the TEMP schema */
	bool lease; /* may run in a lease only */
	enum control control;
	uint64_t savepoint; /* as in struct authorizer */
	char sql[];         /* sql_len bytes and a NUL */
};

struct stmt_cache {
	sqlite3 *handle;
	struct authorizer *authorizer;
	struct stmt **buckets;
	size_t buckets_count; /* a power of two */
	struct list recent;   /* most recently used first */
	size_t count;
	size_t max;
	size_t bytes;
	size_t bytes_max;
	uint64_t hits;
	uint64_t misses;
};

/* max statements are kept, in bytes_max of memory at most; those in use stand outside of both. */
int stmt_cache_init(struct stmt_cache *cache, sqlite3 *handle, struct authorizer *authorizer,
	size_t max, size_t bytes_max);
void stmt_cache_finish(struct stmt_cache *cache);

/* Finalizes everything that is not in use. */
void stmt_cache_clear(struct stmt_cache *cache);

/*
 * The statement for that text under that role: 0, STORE_SQL, STORE_DENIED, STORE_BAD_REQUEST or
 * STORE_RESOURCE. It stays valid until stmt_release().
 */
int stmt_acquire(struct stmt_cache *cache, enum role role, struct bytes sql, uint64_t hash,
	struct stmt **ret_stmt, struct store_error *error);

/* Whether stmt_acquire() would compile nothing. */
bool stmt_is_at_hand(
	const struct stmt_cache *cache, enum role role, struct bytes sql, uint64_t hash);

/* Resets the statement, unbinds its values and gives it back. */
void stmt_release(struct stmt_cache *cache, struct stmt *stmt);

/*
 * Whether the statement, run once, leaves nothing behind if it fails, and never throws the
 * transaction away by itself: found by EXPLAIN, remembered.
 */
bool stmt_is_atomic(struct stmt_cache *cache, struct stmt *stmt);

/*
 * EXPLAIN is no stable interface, so its meaning is pinned by statements whose behaviour is known.
 * False: do not rely on stmt_is_atomic() with this SQLite.
 */
bool stmt_self_test(void);

/* Prepares one statement of a text under a role; *ret_tail is the offset behind it. */
int stmt_prepare(sqlite3 *handle, struct authorizer *authorizer, enum role role, struct bytes sql,
	unsigned flags, sqlite3_stmt **ret_handle, size_t *ret_tail, struct store_error *error);

/* The offset of the first byte at or after `at` that is no space, comment or semicolon. */
size_t sql_skip_space(struct bytes sql, size_t at);

/* Whether the first word of the text, behind space and comments, is that one (lower case). */
bool sql_begins_with(struct bytes sql, const char *word);

/* Whether it is a statement that counts changes, if it writes at all. */
bool sql_is_dml(struct bytes sql);

/* What a failed sqlite3 call means for the client who sent the statement. */
int stmt_failed(
	sqlite3 *handle, const struct authorizer *authorizer, int rc, struct store_error *error);
