/* SPDX-License-Identifier: MIT */

/*
 * The tables of remembered answers: what a row holds, how it is read and when it goes.
 *
 * An answer's life: appended to the group's record, written as one row of _lf_group, found there by
 * (commit number, offset). When that row gets old and the client has still not said `done`, the
 * answer moves to a row of its own in _lf_session.
 */

#include "server/base/clock.h"
#include "server/store/dedupe_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	GROUP_ROWS_KEPT = 1024, /* rows of _lf_group that stay before the oldest are looked at */
	GROUP_ROWS_TRIM = 128,  /* … so many at once */
	KEYS_SWEEP = 1000,      /* free keys that are dropped at once */
	RECORD_HEADER = 4 + DEDUPE_SESSION_BYTES + 8 + 8 + 16 + 4,
};

static const char *const sql_texts[SQL_COUNT] = {
	[SQL_GROUP_INSERT] = "INSERT INTO _lf_group(commit_no, replies) VALUES (?1, ?2)",
	[SQL_GROUP_READ] = "SELECT substr(replies, ?2 + 1, ?3) FROM _lf_group WHERE commit_no = ?1",
	[SQL_GROUP_OLDEST] = "SELECT commit_no, replies FROM _lf_group ORDER BY commit_no LIMIT ?1",
	[SQL_GROUP_DELETE] = "DELETE FROM _lf_group WHERE commit_no <= ?1",
	/*
	 * seq 0 is the session itself: commit_no holds max_seq, hash is NULL; or, with done -1, its
	 * grave: what it had up to that commit number is dead.
	 */
	[SQL_SESSION_PUT] =
		"INSERT OR REPLACE INTO _lf_session(uid, session, seq, done, commit_no, "
		"hash, reply) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
	[SQL_SESSION_READ] =
		"SELECT reply FROM _lf_session WHERE uid = ?1 AND session = ?2 AND seq = ?3",
	[SQL_SESSION_CUT] =
		"DELETE FROM _lf_session WHERE uid = ?1 AND session = ?2 AND seq BETWEEN 1 AND ?3",
	[SQL_SESSION_UNBURY] =
		"DELETE FROM _lf_session WHERE seq = 0 AND done = -1 AND commit_no <= ?1",
	[SQL_SESSION_DROP] = "DELETE FROM _lf_session WHERE uid = ?1 AND session = ?2",
	[SQL_KEY_READ] = "SELECT hash, commit_no, reply FROM _lf_key WHERE uid = ?1 AND key = ?2",
	[SQL_KEY_INSERT] = "INSERT INTO _lf_key(uid, key, hash, commit_no, born_s, reply) "
			   "VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
	[SQL_KEY_OLDEST] = "SELECT id, commit_no, born_s, uid FROM _lf_key ORDER BY id LIMIT ?1",
	[SQL_KEY_DELETE] = "DELETE FROM _lf_key WHERE id <= ?1",
};

int tables_prepare(struct dedupe *dedupe)
{
	for (size_t i = 0; i < SQL_COUNT; i++) {
		int rc = own_prepare(dedupe->store, sql_texts[i], &dedupe->stmts[i]);
		if (rc != SQLITE_OK) {
			return rc;
		}
	}
	return SQLITE_OK;
}

void tables_finish(struct dedupe *dedupe)
{
	for (size_t i = 0; i < SQL_COUNT; i++) {
		sqlite3_finalize(dedupe->stmts[i]);
	}
}

/* ---- records ---- */

static void put_be(uint8_t *at, uint64_t value, size_t width)
{
	for (size_t i = 0; i < width; i++) {
		at[i] = (uint8_t)(value >> (8 * (width - 1 - i)));
	}
}

static uint64_t get_be(const uint8_t *at, size_t width)
{
	uint64_t value = 0;
	for (size_t i = 0; i < width; i++) {
		value = value << 8 | at[i];
	}
	return value;
}

/* One answer of a record, as it stands in the row. */
struct record {
	uint32_t uid;
	const uint8_t *session;
	uint64_t seq;
	uint64_t done;
	const uint8_t *hash;
	struct bytes payload;
	uint32_t offset;
};

/* Reads the record at *at and moves on. False at the end, or where the bytes make no sense. */
static bool record_next(struct bytes row, size_t *at, struct record *ret_record)
{
	const uint8_t *data = (const uint8_t *)row.data + *at;
	if (row.len - *at < RECORD_HEADER) {
		return false;
	}
	size_t len = (size_t)get_be(data + RECORD_HEADER - 4, 4);
	if (row.len - *at - RECORD_HEADER < len) {
		return false;
	}
	*ret_record = (struct record){
		.uid = (uint32_t)get_be(data, 4),
		.session = data + 4,
		.seq = get_be(data + 20, 8),
		.done = get_be(data + 28, 8),
		.hash = data + 36,
		.payload = {data + RECORD_HEADER, len},
		.offset = (uint32_t)(*at + RECORD_HEADER),
	};
	*at += RECORD_HEADER + len;
	return true;
}

int tables_append(struct dedupe *dedupe, const struct identity *identity, struct bytes payload,
	struct entry *ret_entry)
{
	uint8_t header[RECORD_HEADER];
	if (dedupe->record == NULL) {
		dedupe->record = sqlite3_str_new(NULL);
	}
	put_be(header, identity->uid, 4);
	memcpy(header + 4, identity->session, DEDUPE_SESSION_BYTES);
	put_be(header + 20, identity->seq, 8);
	put_be(header + 28, identity->done, 8);
	memcpy(header + 36, identity->hash, 16);
	put_be(header + RECORD_HEADER - 4, payload.len, 4);
	int begin = sqlite3_str_length(dedupe->record);
	sqlite3_str_append(dedupe->record, (const char *)header, RECORD_HEADER);
	sqlite3_str_append(dedupe->record, payload.data, (int)payload.len);
	if (sqlite3_str_errcode(dedupe->record) != SQLITE_OK) {
		return -ENOMEM;
	}
	*ret_entry = (struct entry){
		.seq = identity->seq,
		.commit_no = dedupe->store->commit_no + 1,
		.offset = (uint32_t)begin + RECORD_HEADER,
		.len = (uint32_t)payload.len,
	};
	memcpy(ret_entry->hash, identity->hash, sizeof(ret_entry->hash));
	return 0;
}

static struct bytes column_bytes(sqlite3_stmt *stmt, int column)
{
	const void *data = sqlite3_column_blob(stmt, column);
	return (struct bytes){data, (size_t)sqlite3_column_bytes(stmt, column)};
}

/* ---- loading ---- */

/* Takes an answer that stands in the database into the index. */
static int load_entry(struct dedupe *dedupe, uint32_t uid, const uint8_t *id, uint64_t done,
	const struct entry *entry)
{
	struct session *session = session_find(&dedupe->sessions, uid, id);
	if (session == NULL) {
		session = session_add(&dedupe->sessions, uid, id);
	}
	if (session == NULL) {
		return -ENOMEM;
	}
	if (entry->commit_no < session->born) {
		return 0; /* of a life that ended */
	}
	session->done = done > session->done ? done : session->done;
	session->max_seq = entry->seq > session->max_seq ? entry->seq : session->max_seq;
	session->has_rows |= entry->moved;
	if (entry->seq > session_floor(&dedupe->sessions, session) &&
		entry_find(session, entry->seq) == NULL) {
		return entry_insert(&dedupe->sessions, session, entry);
	}
	return 0;
}

static int load_groups(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_GROUP_OLDEST];
	int rc = 0;
	int step = SQLITE_DONE;
	sqlite3_bind_int64(stmt, 1, INT64_MAX);
	while (rc == 0 && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		uint64_t commit_no = (uint64_t)sqlite3_column_int64(stmt, 0);
		struct bytes row = column_bytes(stmt, 1);
		struct record record;
		size_t at = 0;
		dedupe->group_rows++;
		while (rc == 0 && record_next(row, &at, &record)) {
			struct entry entry = {.seq = record.seq,
				.commit_no = commit_no,
				.offset = record.offset,
				.len = (uint32_t)record.payload.len};
			memcpy(entry.hash, record.hash, sizeof(entry.hash));
			rc = load_entry(dedupe, record.uid, record.session, record.done, &entry);
		}
		if (rc == 0 && at != row.len) {
			rc = -EINVAL;
		}
	}
	sqlite3_reset(stmt);
	/* A row that cannot be read is not the end: an answer behind it would be forgotten. */
	return rc == 0 && step != SQLITE_DONE ? -EINVAL : rc;
}

/* The row of the session itself: its highest seq, or its grave. */
static int load_header(
	struct dedupe *dedupe, uint32_t uid, const uint8_t *id, int64_t done, uint64_t number)
{
	struct session *session = session_find(&dedupe->sessions, uid, id);
	if (session == NULL) {
		session = session_add(&dedupe->sessions, uid, id);
	}
	if (session == NULL) {
		return -ENOMEM;
	}
	session->has_rows = true;
	if (done < 0) {
		session->born = number + 1;
	} else {
		session->done = (uint64_t)done > session->done ? (uint64_t)done : session->done;
		session->max_seq = number > session->max_seq ? number : session->max_seq;
	}
	return 0;
}

static int load_sessions(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = NULL;
	int step = own_prepare(dedupe->store,
		"SELECT uid, session, seq, done, commit_no, hash FROM _lf_session", &stmt);
	int rc = step == SQLITE_OK ? 0 : -EINVAL;
	while (rc == 0 && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		uint32_t uid = (uint32_t)sqlite3_column_int64(stmt, 0);
		struct bytes id = column_bytes(stmt, 1);
		int64_t done = sqlite3_column_int64(stmt, 3);
		struct bytes hash = column_bytes(stmt, 5);
		struct entry entry = {.seq = (uint64_t)sqlite3_column_int64(stmt, 2),
			.commit_no = (uint64_t)sqlite3_column_int64(stmt, 4),
			.moved = true};
		bool header = entry.seq == 0;
		if (id.len != DEDUPE_SESSION_BYTES || (!header && hash.len != sizeof(entry.hash))) {
			rc = -EINVAL;
		} else if (header) {
			rc = load_header(dedupe, uid, id.data, done, entry.commit_no);
		} else {
			memcpy(entry.hash, hash.data, sizeof(entry.hash));
			rc = load_entry(dedupe, uid, id.data, (uint64_t)done, &entry);
		}
	}
	sqlite3_finalize(stmt);
	return rc == 0 && step != SQLITE_DONE ? -EINVAL : rc;
}

static int load_keys_count(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = NULL;
	int step =
		own_prepare(dedupe->store, "SELECT uid, count(*) FROM _lf_key GROUP BY uid", &stmt);
	int rc = step == SQLITE_OK ? 0 : -EINVAL;
	while (rc == 0 && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		rc = shares_add(&dedupe->key_shares, (uint32_t)sqlite3_column_int64(stmt, 0),
			sqlite3_column_int64(stmt, 1));
	}
	sqlite3_finalize(stmt);
	dedupe->keys = dedupe->key_shares.total;
	return rc == 0 && step != SQLITE_DONE ? -EINVAL : rc;
}

int tables_load(struct dedupe *dedupe)
{
	int rc = load_sessions(dedupe);
	rc = rc == 0 ? load_groups(dedupe) : rc;
	list_for_each_safe(node, &dedupe->sessions.recent) {
		struct session *session = container_of(node, struct session, recent);
		session_drop_below(
			&dedupe->sessions, session, session_floor(&dedupe->sessions, session));
		if (session->born > 0 && session->max_seq == 0) {
			session_remove(&dedupe->sessions, session); /* a grave and nothing since */
		}
	}
	dedupe->start_commit_no = dedupe->store->commit_no;
	return rc == 0 ? load_keys_count(dedupe) : rc;
}

/* ---- reading ---- */

static int take_payload(struct bytes bytes, struct dedupe_reply *ret_reply)
{
	ret_reply->payload = malloc(bytes.len > 0 ? bytes.len : 1);
	if (ret_reply->payload == NULL) {
		return -ENOMEM;
	}
	if (bytes.len > 0) {
		memcpy(ret_reply->payload, bytes.data, bytes.len);
	}
	ret_reply->payload_len = bytes.len;
	return DEDUPE_REPEAT;
}

/* The single blob that an own statement answers with. */
static int read_payload(sqlite3_stmt *stmt, int column, struct dedupe_reply *ret_reply)
{
	int rc = sqlite3_step(stmt) == SQLITE_ROW
		? take_payload(column_bytes(stmt, column), ret_reply)
		: -EIO;
	sqlite3_reset(stmt);
	return rc;
}

int tables_read(struct dedupe *dedupe, const struct identity *identity, const struct entry *entry,
	struct dedupe_reply *ret_reply)
{
	authorizer_enter(&dedupe->store->authorizer, ROLE_SELF);
	ret_reply->commit_no = entry->commit_no;
	if (entry->commit_no > dedupe->store->commit_no) {
		/* Of this very transaction: it still stands in the record. */
		return take_payload(
			(struct bytes){
				sqlite3_str_value(dedupe->record) + entry->offset, entry->len},
			ret_reply);
	}
	sqlite3_stmt *stmt = dedupe->stmts[entry->moved ? SQL_SESSION_READ : SQL_GROUP_READ];
	if (entry->moved) {
		sqlite3_bind_int64(stmt, 1, identity->uid);
		sqlite3_bind_blob(stmt, 2, identity->session, DEDUPE_SESSION_BYTES, SQLITE_STATIC);
		sqlite3_bind_int64(stmt, 3, (sqlite3_int64)identity->seq);
	} else {
		sqlite3_bind_int64(stmt, 1, (sqlite3_int64)entry->commit_no);
		sqlite3_bind_int64(stmt, 2, entry->offset);
		sqlite3_bind_int64(stmt, 3, entry->len);
	}
	return read_payload(stmt, 0, ret_reply);
}

/* Counts keys that this transaction adds or drops: a rollback takes it back. */
static int count_keys(struct dedupe *dedupe, uint32_t uid, int64_t more)
{
	if (array_grow((void **)&dedupe->key_changes, &dedupe->key_changes_cap,
		    dedupe->key_changes_count, sizeof(*dedupe->key_changes)) < 0 ||
		shares_add(&dedupe->key_shares, uid, more) < 0) {
		return -ENOMEM;
	}
	dedupe->key_changes[dedupe->key_changes_count++] = (struct key_change){uid, more};
	return 0;
}

void tables_uncount_keys(struct dedupe *dedupe, size_t changes)
{
	while (dedupe->key_changes_count > changes) {
		const struct key_change *change = &dedupe->key_changes[--dedupe->key_changes_count];
		(void)shares_add(&dedupe->key_shares, change->uid, -change->more);
	}
}

int tables_read_key(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_KEY_READ];
	authorizer_enter(&dedupe->store->authorizer, ROLE_SELF);
	sqlite3_bind_int64(stmt, 1, identity->uid);
	sqlite3_bind_blob(stmt, 2, identity->key.data, (int)identity->key.len, SQLITE_STATIC);
	int step = sqlite3_step(stmt);
	int rc = -EIO;
	if (step == SQLITE_ROW) {
		struct bytes hash = column_bytes(stmt, 0);
		bool same = hash.len == sizeof(identity->hash) &&
			memcmp(hash.data, identity->hash, hash.len) == 0;
		ret_reply->commit_no = (uint64_t)sqlite3_column_int64(stmt, 1);
		rc = same ? take_payload(column_bytes(stmt, 2), ret_reply) : DEDUPE_MISMATCH;
	} else if (step == SQLITE_DONE) {
		rc = shares_have_room(&dedupe->key_shares, identity->uid, dedupe->limits.keys_max)
			? DEDUPE_NEW
			: DEDUPE_FULL;
	}
	sqlite3_reset(stmt);
	if (rc == DEDUPE_REPEAT) {
		pthread_mutex_lock(&dedupe->lock);
		dedupe->repeats++;
		pthread_mutex_unlock(&dedupe->lock);
	}
	return rc;
}

int tables_insert_key(struct dedupe *dedupe, const struct identity *identity, struct bytes payload)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_KEY_INSERT];
	size_t counted = dedupe->key_changes_count;
	if (count_keys(dedupe, identity->uid, 1) < 0) {
		return -ENOMEM;
	}
	sqlite3_bind_int64(stmt, 1, identity->uid);
	sqlite3_bind_blob(stmt, 2, identity->key.data, (int)identity->key.len, SQLITE_STATIC);
	sqlite3_bind_blob(stmt, 3, identity->hash, sizeof(identity->hash), SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 4, (sqlite3_int64)dedupe->store->commit_no + 1);
	sqlite3_bind_int64(
		stmt, 5, (sqlite3_int64)((clock_now_us() - dedupe->started_us) / 1000000));
	sqlite3_bind_blob(stmt, 6, payload.data, (int)payload.len, SQLITE_STATIC);
	if (own_run(dedupe->store, stmt) != SQLITE_OK) {
		tables_uncount_keys(dedupe, counted);
		return -EIO;
	}
	return 0;
}

/* ---- writing and trimming ---- */

int tables_write_group(struct dedupe *dedupe, uint64_t commit_no)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_GROUP_INSERT];
	sqlite3_bind_int64(stmt, 1, (sqlite3_int64)commit_no);
	sqlite3_bind_blob(stmt, 2, sqlite3_str_value(dedupe->record),
		sqlite3_str_length(dedupe->record), SQLITE_STATIC);
	int rc = own_run(dedupe->store, stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

static int put_session_row(struct dedupe *dedupe, const struct session *session,
	const struct record *record, uint64_t commit_no)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_SESSION_PUT];
	sqlite3_bind_int64(stmt, 1, session->uid);
	sqlite3_bind_blob(stmt, 2, session->id, DEDUPE_SESSION_BYTES, SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 3, record != NULL ? (sqlite3_int64)record->seq : 0);
	sqlite3_bind_int64(stmt, 4, (sqlite3_int64)session->done);
	sqlite3_bind_int64(stmt, 5, (sqlite3_int64)commit_no);
	if (record != NULL) {
		sqlite3_bind_blob(stmt, 6, record->hash, 16, SQLITE_STATIC);
		sqlite3_bind_blob(
			stmt, 7, record->payload.data, (int)record->payload.len, SQLITE_STATIC);
	}
	int rc = own_run(dedupe->store, stmt);
	sqlite3_clear_bindings(stmt);
	return rc;
}

/* The session's own row, and no longer any row that nobody may ask for. Once a trim. */
static int write_session(struct dedupe *dedupe, struct session *session)
{
	if (session->trim_stamp == dedupe->trim_stamp) {
		return SQLITE_OK;
	}
	session->trim_stamp = dedupe->trim_stamp;
	int rc = put_session_row(dedupe, session, NULL, session->max_seq);
	if (rc == SQLITE_OK && session->has_rows) {
		sqlite3_stmt *stmt = dedupe->stmts[SQL_SESSION_CUT];
		sqlite3_bind_int64(stmt, 1, session->uid);
		sqlite3_bind_blob(stmt, 2, session->id, DEDUPE_SESSION_BYTES, SQLITE_STATIC);
		sqlite3_bind_int64(
			stmt, 3, (sqlite3_int64)session_floor(&dedupe->sessions, session));
		rc = own_run(dedupe->store, stmt);
	}
	session->has_rows = true;
	return rc;
}

/* Copies one answer out of a row that is about to go, if somebody may still ask for it. */
static int move_record(struct dedupe *dedupe, const struct record *record, uint64_t commit_no)
{
	struct session *session = session_find(&dedupe->sessions, record->uid, record->session);
	if (session == NULL || commit_no < session->born) {
		return SQLITE_OK;
	}
	int rc = write_session(dedupe, session);
	const struct entry *entry = entry_find(session, record->seq);
	if (rc != SQLITE_OK || entry == NULL || entry->moved || entry->commit_no != commit_no ||
		record->seq <= session->done) {
		return rc;
	}
	if (array_grow((void **)&dedupe->moves, &dedupe->moves_cap, dedupe->moves_count,
		    sizeof(*dedupe->moves)) < 0) {
		return SQLITE_NOMEM;
	}
	rc = put_session_row(dedupe, session, record, commit_no);
	if (rc == SQLITE_OK) {
		dedupe->moves[dedupe->moves_count++] = (struct move){session, record->seq};
	}
	return rc;
}

bool tables_trim_is_due(const struct dedupe *dedupe)
{
	return dedupe->group_rows > GROUP_ROWS_KEPT + GROUP_ROWS_TRIM;
}

int tables_trim(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_GROUP_OLDEST];
	uint64_t last = 0;
	int rc = SQLITE_OK;
	int step = SQLITE_DONE;

	dedupe->trim_stamp++;
	sqlite3_bind_int64(stmt, 1, GROUP_ROWS_TRIM);
	while (rc == SQLITE_OK && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct bytes row = column_bytes(stmt, 1);
		struct record record;
		size_t at = 0;
		last = (uint64_t)sqlite3_column_int64(stmt, 0);
		while (rc == SQLITE_OK && record_next(row, &at, &record)) {
			rc = move_record(dedupe, &record, last);
		}
		dedupe->trimmed_rows++;
	}
	sqlite3_reset(stmt);
	if (rc == SQLITE_OK && step != SQLITE_DONE) {
		rc = step;
	}
	if (rc == SQLITE_OK) {
		sqlite3_bind_int64(dedupe->stmts[SQL_GROUP_DELETE], 1, (sqlite3_int64)last);
		rc = own_run(dedupe->store, dedupe->stmts[SQL_GROUP_DELETE]);
	}
	if (rc == SQLITE_OK) {
		/* Graves whose dead have all gone now. */
		sqlite3_bind_int64(dedupe->stmts[SQL_SESSION_UNBURY], 1, (sqlite3_int64)last);
		rc = own_run(dedupe->store, dedupe->stmts[SQL_SESSION_UNBURY]);
	}
	return rc;
}

/* One session's rows go; its grave says up to which commit its records are dead. */
static int bury(struct dedupe *dedupe, uint32_t uid, const uint8_t *id, uint64_t commit_no)
{
	sqlite3_stmt *drop = dedupe->stmts[SQL_SESSION_DROP];
	sqlite3_bind_int64(drop, 1, uid);
	sqlite3_bind_blob(drop, 2, id, DEDUPE_SESSION_BYTES, SQLITE_STATIC);
	int rc = own_run(dedupe->store, drop);
	if (rc == SQLITE_OK) {
		sqlite3_stmt *put = dedupe->stmts[SQL_SESSION_PUT];
		sqlite3_bind_int64(put, 1, uid);
		sqlite3_bind_blob(put, 2, id, DEDUPE_SESSION_BYTES, SQLITE_STATIC);
		sqlite3_bind_int64(put, 3, 0);
		sqlite3_bind_int64(put, 4, -1);
		sqlite3_bind_int64(put, 5, (sqlite3_int64)commit_no);
		rc = own_run(dedupe->store, put);
		sqlite3_clear_bindings(put);
	}
	return rc;
}

int tables_bury(struct dedupe *dedupe, uint64_t commit_no)
{
	int rc = SQLITE_OK;
	for (size_t i = 0; rc == SQLITE_OK && i < dedupe->doomed_count; i++) {
		rc = bury(dedupe, dedupe->doomed[i].uid, dedupe->doomed[i].id, commit_no);
	}
	for (size_t i = 0; rc == SQLITE_OK && i < dedupe->forgets_count; i++) {
		const struct session *session = dedupe->forgets[i];
		if (session->forgotten) {
			rc = bury(dedupe, session->uid, session->id, commit_no);
		}
	}
	dedupe->buried = rc == SQLITE_OK;
	return rc;
}

/* Keys that have outlived their time to live. Ids ascend with age, so the oldest stand first. */
int tables_sweep_keys(struct dedupe *dedupe, uint64_t now_us, bool *ret_more)
{
	*ret_more = false;
	uint64_t uptime_us = now_us - dedupe->started_us;
	if (uptime_us < dedupe->limits.key_ttl_us) {
		return SQLITE_OK; /* none can be older than this run */
	}
	uint64_t born_before_s = (uptime_us - dedupe->limits.key_ttl_us) / 1000000;
	sqlite3_stmt *stmt = dedupe->stmts[SQL_KEY_OLDEST];
	sqlite3_int64 last = 0;
	size_t counted = dedupe->key_changes_count;
	int rc = SQLITE_OK;
	sqlite3_bind_int64(stmt, 1, KEYS_SWEEP);
	while (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
		bool of_this_run =
			(uint64_t)sqlite3_column_int64(stmt, 1) > dedupe->start_commit_no;
		if (of_this_run && (uint64_t)sqlite3_column_int64(stmt, 2) >= born_before_s) {
			break;
		}
		last = sqlite3_column_int64(stmt, 0);
		if (count_keys(dedupe, (uint32_t)sqlite3_column_int64(stmt, 3), -1) < 0) {
			rc = SQLITE_NOMEM;
		}
	}
	sqlite3_reset(stmt);
	*ret_more = dedupe->key_changes_count - counted == KEYS_SWEEP;
	if (rc == SQLITE_OK && dedupe->key_changes_count > counted) {
		sqlite3_bind_int64(dedupe->stmts[SQL_KEY_DELETE], 1, last);
		rc = own_run(dedupe->store, dedupe->stmts[SQL_KEY_DELETE]);
	}
	if (rc != SQLITE_OK) {
		tables_uncount_keys(dedupe, counted);
	}
	return rc;
}
