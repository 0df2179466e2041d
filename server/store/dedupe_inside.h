/* SPDX-License-Identifier: MIT */
#pragma once

/* What the memory of answers is made of: for dedupe.c and dedupe_tables.c only. */

#include "server/store/inside.h"
#include "server/store/sessions.h"

#include <pthread.h>

/* What dedupe_remember() did to the index, to be taken back if the transaction is. */
struct pending {
	struct session *session;
	uint64_t seq;
	uint64_t max_seq_before;
	bool added; /* the session with it */
};

/* An answer that the running trim has copied to _lf_session. */
struct move {
	struct session *session;
	uint64_t seq;
};

/* A session that is gone from the index but still has rows. */
struct doomed {
	uint32_t uid;
	uint8_t id[DEDUPE_SESSION_BYTES];
};

/* What this transaction did to the number of a user's keys. */
struct key_change {
	uint32_t uid;
	int64_t more;
};

/* Statements on the tables. Their texts stand in dedupe_tables.c. */
enum sql {
	SQL_GROUP_INSERT,
	SQL_GROUP_READ,
	SQL_GROUP_OLDEST,
	SQL_GROUP_DELETE,
	SQL_SESSION_PUT,
	SQL_SESSION_READ,
	SQL_SESSION_CUT,
	SQL_SESSION_DROP,
	SQL_SESSION_UNBURY,
	SQL_KEY_READ,
	SQL_KEY_INSERT,
	SQL_KEY_OLDEST,
	SQL_KEY_DELETE,
	SQL_COUNT,
};

struct dedupe {
	struct store *store;
	struct dedupe_limits limits;
	sqlite3_stmt *stmts[SQL_COUNT];

	/* Guards the index: the writer changes it, dedupe_peek() looks from elsewhere. */
	pthread_mutex_t lock;
	struct sessions sessions;
	uint64_t keys; /* that are committed */
	uint64_t repeats;

	uint64_t started_us;
	uint64_t start_commit_no; /* keys from before were born, for our purpose, at the start */
	uint64_t next_sweep_us;
	uint64_t next_full_sweep_us;
	size_t group_rows;
	uint64_t trim_stamp;
	struct shares key_shares; /* with those of this transaction */

	/* This transaction. */
	sqlite3_str *record;
	struct pending *pending;
	size_t pending_count;
	size_t pending_cap;
	struct move *moves;
	size_t moves_count;
	size_t moves_cap;
	uint64_t trimmed_rows;
	struct key_change *key_changes;
	size_t key_changes_count;
	size_t key_changes_cap;
	struct session **forgets; /* sessions whose clients said bye */
	size_t forgets_count;
	size_t forgets_cap;
	struct session **raises; /* sessions whose clients said a higher `done` */
	size_t raises_count;
	size_t raises_cap;
	bool buried;

	struct doomed *doomed;
	size_t doomed_count;
	size_t doomed_cap;
};

/* ---- dedupe_tables.c; SQLite's codes where nothing else is said ---- */

int tables_prepare(struct dedupe *dedupe);
void tables_finish(struct dedupe *dedupe);

/* Rebuilds the index. 0, -ENOMEM, or -EINVAL: a row cannot be read. */
int tables_load(struct dedupe *dedupe);

/* The answer of a record as it is appended to the group's row: where it will lie. 0 or -ENOMEM. */
int tables_append(struct dedupe *dedupe, const struct identity *identity, struct bytes payload,
	struct entry *ret_entry);

/* The group's one row. */
int tables_write_group(struct dedupe *dedupe, uint64_t commit_no);

/* Takes the oldest rows of _lf_group away; what may still be asked for moves to _lf_session. */
bool tables_trim_is_due(const struct dedupe *dedupe);
int tables_trim(struct dedupe *dedupe);

/*
 * Removes what the tables hold of sessions that are gone. Their records in _lf_group stay until the
 * trim reaches them; a row in _lf_session says until which commit they are dead, for the next start.
 */
int tables_bury(struct dedupe *dedupe, uint64_t commit_no);

/* Keys that have outlived their time to live; *ret_more: perhaps not all of them. */
int tables_sweep_keys(struct dedupe *dedupe, uint64_t now_us, bool *ret_more);

/* Takes back what was counted of keys since there were so many changes. */
void tables_uncount_keys(struct dedupe *dedupe, size_t changes);

/* Reads one answer: DEDUPE_REPEAT, -EIO or -ENOMEM. */
int tables_read(struct dedupe *dedupe, const struct identity *identity, const struct entry *entry,
	struct dedupe_reply *ret_reply);

/* Looks a free key up: a verdict, or -EIO or -ENOMEM. */
int tables_read_key(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply);
int tables_insert_key(struct dedupe *dedupe, const struct identity *identity, struct bytes payload);
