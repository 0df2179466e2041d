/* SPDX-License-Identifier: MIT */

/*
 * Remembered answers. What this file keeps true: an answer is in the database if and only if the work
 * that it answers is; the index holds exactly the answers that may still be asked for; nothing grows
 * without a limit.
 *
 * An answer's life: appended to the group's record, written as one row of _lf_group, found there by
 * (commit number, offset). When that row gets old and the client has still not said `done`, the
 * answer moves to a row of its own in _lf_session. It is forgotten with `done`, below the window, or
 * with its session.
 */

#include "server/store/dedupe.h"

#include "server/base/clock.h"
#include "server/base/list.h"
#include "server/store/inside.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

enum {
	GROUP_ROWS_KEPT = 1024, /* rows of _lf_group that stay before the oldest are looked at */
	GROUP_ROWS_TRIM = 128,  /* … so many at once */
	KEYS_SWEEP = 1000,      /* free keys that are dropped at once */
	RECORD_HEADER = 4 + DEDUPE_SESSION_BYTES + 8 + 8 + 16 + 4,
	BUCKETS = 4096,
};

#define SWEEP_INTERVAL_US (60ull * 1000 * 1000)

/* Where one answer is. */
struct entry {
	uint64_t seq;
	uint64_t commit_no; /* of its row in _lf_group */
	uint32_t offset;    /* of the payload in that row */
	uint32_t len;
	uint8_t hash[16];
	bool moved; /* in _lf_session instead */
};

struct session {
	struct session *next_in_bucket;
	struct list recent; /* dedupe::recent, least recently used first */
	uint32_t uid;
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq;
	uint64_t done;
	uint64_t last_used_us;
	struct entry *entries; /* ascending by seq: [first, first + count) of cap */
	size_t first;
	size_t count;
	size_t cap;
	uint64_t trim_stamp; /* the trim that has already written its header row */
	uint32_t pending;    /* answers of the running transaction: it must not go away now */
	bool has_rows;       /* in _lf_session */
	bool forgotten;
};

/* What dedupe_remember() did to the index, to be taken back if the transaction is. */
struct pending {
	struct session *session;
	uint64_t seq;
	uint64_t max_seq_before;
};

/* An answer that the running trim has copied to _lf_session. */
struct move {
	struct session *session;
	uint64_t seq;
};

struct doomed {
	uint32_t uid;
	uint8_t id[DEDUPE_SESSION_BYTES];
};

enum sql {
	SQL_GROUP_INSERT,
	SQL_GROUP_READ,
	SQL_GROUP_OLDEST,
	SQL_GROUP_DELETE,
	SQL_SESSION_PUT,
	SQL_SESSION_READ,
	SQL_SESSION_CUT,
	SQL_SESSION_DROP,
	SQL_KEY_READ,
	SQL_KEY_INSERT,
	SQL_KEY_OLDEST,
	SQL_KEY_DELETE,
	SQL_COUNT,
};

static const char *const sql_texts[SQL_COUNT] = {
	[SQL_GROUP_INSERT] = "INSERT INTO _lf_group(commit_no, replies) VALUES (?1, ?2)",
	[SQL_GROUP_READ] = "SELECT substr(replies, ?2 + 1, ?3) FROM _lf_group WHERE commit_no = ?1",
	[SQL_GROUP_OLDEST] = "SELECT commit_no, replies FROM _lf_group ORDER BY commit_no LIMIT ?1",
	[SQL_GROUP_DELETE] = "DELETE FROM _lf_group WHERE commit_no <= ?1",
	/* seq 0 is the session itself: commit_no holds max_seq, hash is NULL */
	[SQL_SESSION_PUT] = "INSERT OR REPLACE INTO _lf_session(uid, session, seq, done, commit_no, "
			    "hash, reply) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
	[SQL_SESSION_READ] = "SELECT reply FROM _lf_session WHERE uid = ?1 AND session = ?2 AND seq = ?3",
	[SQL_SESSION_CUT] = "DELETE FROM _lf_session WHERE uid = ?1 AND session = ?2 AND seq BETWEEN 1 AND ?3",
	[SQL_SESSION_DROP] = "DELETE FROM _lf_session WHERE uid = ?1 AND session = ?2",
	[SQL_KEY_READ] = "SELECT hash, commit_no, reply FROM _lf_key WHERE uid = ?1 AND key = ?2",
	[SQL_KEY_INSERT] = "INSERT INTO _lf_key(uid, key, hash, commit_no, born_s, reply) "
			   "VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
	[SQL_KEY_OLDEST] = "SELECT id, commit_no, born_s FROM _lf_key ORDER BY id LIMIT ?1",
	[SQL_KEY_DELETE] = "DELETE FROM _lf_key WHERE id <= ?1",
};

struct dedupe {
	struct store *store;
	uint32_t window;
	struct dedupe_limits limits;
	sqlite3_stmt *stmts[SQL_COUNT];

	/* Guards the index: the writer changes it, dedupe_peek() looks from elsewhere. */
	pthread_mutex_t lock;
	struct session *buckets[BUCKETS];
	struct list recent;
	uint64_t hash_seed;
	struct dedupe_stats stats;

	uint64_t started_us;
	uint64_t start_commit_no; /* keys from before were born, for our purpose, at the start */
	uint64_t next_sweep_us;
	size_t group_rows;
	uint64_t trim_stamp;

	/* This transaction. */
	sqlite3_str *record;
	struct pending *pending;
	size_t pending_count;
	size_t pending_cap;
	struct move *moves;
	size_t moves_count;
	size_t moves_cap;
	uint64_t trimmed_rows;
	uint64_t keys_added;
	uint64_t keys_dropped;
	bool dooms_deleted;

	/* Sessions that are gone from the index but still have rows. */
	struct doomed *doomed;
	size_t doomed_count;
	size_t doomed_cap;
};

/* Room for one more element in a growing array. */
static int grow(void **array, size_t *cap, size_t count, size_t size)
{
	if (count < *cap) {
		return 0;
	}
	size_t more = *cap == 0 ? 8 : *cap * 2;
	void *bigger = reallocarray(*array, more, size);
	if (bigger == NULL) {
		return -ENOMEM;
	}
	*array = bigger;
	*cap = more;
	return 0;
}

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

/* ---- the index ---- */

static struct session **bucket_of(struct dedupe *dedupe, uint32_t uid, const uint8_t *id)
{
	/* Clients choose the id: a seed of our own keeps them from choosing one bucket. */
	uint64_t hash = XXH3_64bits_withSeed(id, DEDUPE_SESSION_BYTES, dedupe->hash_seed ^ uid);
	return &dedupe->buckets[hash % BUCKETS];
}

static struct session *session_find(struct dedupe *dedupe, uint32_t uid, const uint8_t *id)
{
	struct session *session = *bucket_of(dedupe, uid, id);
	while (session != NULL &&
		(session->uid != uid || memcmp(session->id, id, DEDUPE_SESSION_BYTES) != 0)) {
		session = session->next_in_bucket;
	}
	return session;
}

static struct session *session_add(struct dedupe *dedupe, uint32_t uid, const uint8_t *id)
{
	struct session *session = calloc(1, sizeof(*session));
	if (session == NULL) {
		return NULL;
	}
	struct session **bucket = bucket_of(dedupe, uid, id);
	session->uid = uid;
	memcpy(session->id, id, DEDUPE_SESSION_BYTES);
	session->last_used_us = clock_now_us();
	session->next_in_bucket = *bucket;
	*bucket = session;
	list_push_back(&dedupe->recent, &session->recent);
	dedupe->stats.sessions++;
	return session;
}

static void session_remove(struct dedupe *dedupe, struct session *session)
{
	struct session **at = bucket_of(dedupe, session->uid, session->id);
	while (*at != session) {
		at = &(*at)->next_in_bucket;
	}
	*at = session->next_in_bucket;
	list_remove(&session->recent);
	dedupe->stats.sessions--;
	dedupe->stats.replies -= session->count;
	free(session->entries);
	free(session);
}

static void session_touch(struct dedupe *dedupe, struct session *session)
{
	session->last_used_us = clock_now_us();
	list_remove(&session->recent);
	list_push_back(&dedupe->recent, &session->recent);
}

/* The place of seq, or of the first entry above it. */
static size_t entry_place(const struct session *session, uint64_t seq)
{
	size_t low = session->first;
	size_t high = session->first + session->count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (session->entries[middle].seq < seq) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low;
}

static struct entry *entry_find(const struct session *session, uint64_t seq)
{
	size_t at = entry_place(session, seq);
	bool found = at < session->first + session->count && session->entries[at].seq == seq;
	return found ? &session->entries[at] : NULL;
}

static int entry_insert(struct dedupe *dedupe, struct session *session, const struct entry *entry)
{
	if (session->first > 0 && session->first + session->count == session->cap) {
		memmove(session->entries, session->entries + session->first,
			session->count * sizeof(*session->entries));
		session->first = 0;
	}
	if (grow((void **)&session->entries, &session->cap, session->first + session->count,
		    sizeof(*session->entries)) < 0) {
		return -ENOMEM;
	}
	size_t at = entry_place(session, entry->seq);
	size_t behind = session->first + session->count - at;
	memmove(session->entries + at + 1, session->entries + at, behind * sizeof(*session->entries));
	session->entries[at] = *entry;
	session->count++;
	dedupe->stats.replies++;
	return 0;
}

static void entry_remove(struct dedupe *dedupe, struct session *session, uint64_t seq)
{
	size_t at = entry_place(session, seq);
	size_t end = session->first + session->count;
	if (at < end && session->entries[at].seq == seq) {
		memmove(session->entries + at, session->entries + at + 1,
			(end - at - 1) * sizeof(*session->entries));
		session->count--;
		dedupe->stats.replies--;
	}
}

/* No answer at or below this number can be asked for any more. */
static uint64_t session_floor(const struct dedupe *dedupe, const struct session *session)
{
	uint64_t below = session->max_seq > dedupe->window ? session->max_seq - dedupe->window : 0;
	return session->done > below ? session->done : below;
}

static void session_drop_old(struct dedupe *dedupe, struct session *session)
{
	uint64_t floor = session_floor(dedupe, session);
	while (session->count > 0 && session->entries[session->first].seq <= floor) {
		session->first++;
		session->count--;
		dedupe->stats.replies--;
	}
	if (session->count == 0) {
		session->first = 0;
	}
}

bool dedupe_peek(struct dedupe *dedupe, uint32_t uid, const uint8_t *session, uint64_t *ret_max_seq)
{
	pthread_mutex_lock(&dedupe->lock);
	struct session *found = session_find(dedupe, uid, session);
	*ret_max_seq = 0;
	if (found != NULL) {
		session_touch(dedupe, found);
		*ret_max_seq = found->max_seq;
	}
	pthread_mutex_unlock(&dedupe->lock);
	return found != NULL;
}

struct dedupe_stats dedupe_stats(struct dedupe *dedupe)
{
	pthread_mutex_lock(&dedupe->lock);
	struct dedupe_stats stats = dedupe->stats;
	pthread_mutex_unlock(&dedupe->lock);
	return stats;
}

/* ---- making and loading ---- */

int dedupe_new(struct store *store, uint32_t session_window, struct dedupe **ret_dedupe)
{
	struct dedupe *dedupe = calloc(1, sizeof(*dedupe));
	if (dedupe == NULL) {
		return -ENOMEM;
	}
	dedupe->store = store;
	dedupe->window = session_window;
	dedupe->limits = (struct dedupe_limits){10000, 3600000000ull, 1000000, 86400000000ull};
	list_init(&dedupe->recent);
	pthread_mutex_init(&dedupe->lock, NULL);
	dedupe->started_us = clock_now_us();
	dedupe->next_sweep_us = dedupe->started_us + SWEEP_INTERVAL_US;
	if (getrandom(&dedupe->hash_seed, sizeof(dedupe->hash_seed), 0) < 0) {
		dedupe->hash_seed = dedupe->started_us;
	}
	for (size_t i = 0; i < SQL_COUNT; i++) {
		if (own_prepare(store, sql_texts[i], &dedupe->stmts[i]) != SQLITE_OK) {
			dedupe_free(dedupe);
			return -EINVAL;
		}
	}
	*ret_dedupe = dedupe;
	return 0;
}

void dedupe_free(struct dedupe *dedupe)
{
	if (dedupe == NULL) {
		return;
	}
	for (size_t i = 0; i < SQL_COUNT; i++) {
		sqlite3_finalize(dedupe->stmts[i]);
	}
	list_for_each_safe(node, &dedupe->recent)
	{
		session_remove(dedupe, container_of(node, struct session, recent));
	}
	sqlite3_free(sqlite3_str_finish(dedupe->record));
	free(dedupe->pending);
	free(dedupe->moves);
	free(dedupe->doomed);
	pthread_mutex_destroy(&dedupe->lock);
	free(dedupe);
}

void dedupe_set_limits(struct dedupe *dedupe, const struct dedupe_limits *limits)
{
	dedupe->limits = *limits;
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

static struct bytes column_bytes(sqlite3_stmt *stmt, int column)
{
	const void *data = sqlite3_column_blob(stmt, column);
	return (struct bytes){data, (size_t)sqlite3_column_bytes(stmt, column)};
}

/* Takes an answer that stands in the database into the index. */
static int load_entry(struct dedupe *dedupe, uint32_t uid, const uint8_t *id, uint64_t done,
	const struct entry *entry)
{
	struct session *session = session_find(dedupe, uid, id);
	if (session == NULL) {
		session = session_add(dedupe, uid, id);
	}
	if (session == NULL) {
		return -ENOMEM;
	}
	session->done = done > session->done ? done : session->done;
	session->max_seq = entry->seq > session->max_seq ? entry->seq : session->max_seq;
	session->has_rows |= entry->moved;
	if (entry->seq > session_floor(dedupe, session) && entry_find(session, entry->seq) == NULL) {
		return entry_insert(dedupe, session, entry);
	}
	return 0;
}

static int load_groups(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_GROUP_OLDEST];
	int rc = 0;
	sqlite3_bind_int64(stmt, 1, INT64_MAX);
	while (rc == 0 && sqlite3_step(stmt) == SQLITE_ROW) {
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
	return rc;
}

static int load_sessions(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = NULL;
	int rc = own_prepare(dedupe->store,
			 "SELECT uid, session, seq, done, commit_no, hash FROM _lf_session", &stmt) ==
				 SQLITE_OK ?
		0 :
		-EINVAL;
	while (rc == 0 && sqlite3_step(stmt) == SQLITE_ROW) {
		struct bytes id = column_bytes(stmt, 1);
		struct bytes hash = column_bytes(stmt, 5);
		struct entry entry = {.seq = (uint64_t)sqlite3_column_int64(stmt, 2),
			.commit_no = (uint64_t)sqlite3_column_int64(stmt, 4),
			.moved = true};
		bool header = entry.seq == 0;
		if (id.len != DEDUPE_SESSION_BYTES || (!header && hash.len != sizeof(entry.hash))) {
			rc = -EINVAL;
			break;
		}
		if (!header) {
			memcpy(entry.hash, hash.data, sizeof(entry.hash));
		}
		rc = load_entry(dedupe, (uint32_t)sqlite3_column_int64(stmt, 0), id.data,
			(uint64_t)sqlite3_column_int64(stmt, 3), &entry);
		struct session *session =
			session_find(dedupe, (uint32_t)sqlite3_column_int64(stmt, 0), id.data);
		if (header && session != NULL && entry.commit_no > session->max_seq) {
			session->max_seq = entry.commit_no;
		}
	}
	sqlite3_finalize(stmt);
	return rc;
}

int dedupe_load(struct dedupe *dedupe)
{
	int rc = load_sessions(dedupe);
	if (rc == 0) {
		rc = load_groups(dedupe);
	}
	list_for_each(node, &dedupe->recent)
	{
		session_drop_old(dedupe, container_of(node, struct session, recent));
	}
	sqlite3_stmt *stmt = NULL;
	if (rc == 0 && own_prepare(dedupe->store, "SELECT count(*) FROM _lf_key", &stmt) == SQLITE_OK &&
		sqlite3_step(stmt) == SQLITE_ROW) {
		dedupe->stats.keys = (uint64_t)sqlite3_column_int64(stmt, 0);
	}
	sqlite3_finalize(stmt);
	dedupe->start_commit_no = dedupe->store->commit_no;
	return rc;
}

/* ---- asking ---- */

static int take_payload(struct bytes bytes, struct dedupe_reply *ret_reply)
{
	ret_reply->payload = malloc(bytes.len > 0 ? bytes.len : 1);
	if (ret_reply->payload == NULL) {
		return -ENOMEM;
	}
	memcpy(ret_reply->payload, bytes.data, bytes.len);
	ret_reply->payload_len = bytes.len;
	return DEDUPE_REPEAT;
}

/* The single blob that an own statement answers with. */
static int read_payload(sqlite3_stmt *stmt, int column, struct dedupe_reply *ret_reply)
{
	int rc = sqlite3_step(stmt) == SQLITE_ROW ? take_payload(column_bytes(stmt, column), ret_reply) :
						    -EIO;
	sqlite3_reset(stmt);
	return rc;
}

static int load_reply(struct dedupe *dedupe, const struct identity *identity,
	const struct entry *entry, struct dedupe_reply *ret_reply)
{
	authorizer_enter(&dedupe->store->authorizer, ROLE_SELF);
	ret_reply->commit_no = entry->commit_no;
	if (entry->commit_no > dedupe->store->commit_no) {
		/* Of this very transaction: it still stands in the record. */
		return take_payload(
			(struct bytes){sqlite3_str_value(dedupe->record) + entry->offset, entry->len},
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

static int check_seq(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply)
{
	struct entry found = {0};
	enum dedupe_verdict verdict = DEDUPE_NEW;

	pthread_mutex_lock(&dedupe->lock);
	struct session *session = session_find(dedupe, identity->uid, identity->session);
	if (session == NULL && identity->seq <= identity->done) {
		verdict = DEDUPE_EXPIRED;
	} else if (session == NULL) {
		verdict = dedupe->stats.sessions < dedupe->limits.sessions_max ? DEDUPE_NEW : DEDUPE_FULL;
	} else {
		session_touch(dedupe, session);
		if (identity->done > session->done) {
			session->done = identity->done;
			session_drop_old(dedupe, session);
		}
		const struct entry *entry = entry_find(session, identity->seq);
		if (entry != NULL) {
			found = *entry;
			verdict = memcmp(entry->hash, identity->hash, sizeof(entry->hash)) == 0 ?
				DEDUPE_REPEAT :
				DEDUPE_MISMATCH;
		} else if (identity->seq <= session_floor(dedupe, session)) {
			verdict = DEDUPE_EXPIRED;
		}
	}
	dedupe->stats.repeats += verdict == DEDUPE_REPEAT;
	pthread_mutex_unlock(&dedupe->lock);
	return verdict == DEDUPE_REPEAT ? load_reply(dedupe, identity, &found, ret_reply) : (int)verdict;
}

static int check_key(
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
		rc = dedupe->stats.keys + dedupe->keys_added < dedupe->limits.keys_max ? DEDUPE_NEW :
											  DEDUPE_FULL;
	}
	sqlite3_reset(stmt);
	if (rc == DEDUPE_REPEAT) {
		pthread_mutex_lock(&dedupe->lock);
		dedupe->stats.repeats++;
		pthread_mutex_unlock(&dedupe->lock);
	}
	return rc;
}

int dedupe_check(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply)
{
	*ret_reply = (struct dedupe_reply){0};
	switch (identity->kind) {
	case IDENTITY_SEQ:
		return check_seq(dedupe, identity, ret_reply);
	case IDENTITY_KEY:
		return check_key(dedupe, identity, ret_reply);
	default:
		return DEDUPE_NEW;
	}
}

/* ---- remembering ---- */

static int append_record(struct dedupe *dedupe, const struct identity *identity, struct bytes payload,
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

static int remember_seq(struct dedupe *dedupe, const struct identity *identity, struct bytes payload)
{
	struct entry entry;
	if (grow((void **)&dedupe->pending, &dedupe->pending_cap, dedupe->pending_count,
		    sizeof(*dedupe->pending)) < 0 ||
		append_record(dedupe, identity, payload, &entry) < 0) {
		return -ENOMEM;
	}
	pthread_mutex_lock(&dedupe->lock);
	int rc = -ENOMEM;
	struct session *session = session_find(dedupe, identity->uid, identity->session);
	if (session == NULL) {
		session = session_add(dedupe, identity->uid, identity->session);
	}
	if (session != NULL) {
		dedupe->pending[dedupe->pending_count] =
			(struct pending){session, identity->seq, session->max_seq};
		rc = entry_insert(dedupe, session, &entry);
	}
	if (rc == 0) {
		dedupe->pending_count++;
		session->pending++;
		session->done = identity->done > session->done ? identity->done : session->done;
		session->max_seq = identity->seq > session->max_seq ? identity->seq : session->max_seq;
	}
	pthread_mutex_unlock(&dedupe->lock);
	return rc;
}

static int remember_key(struct dedupe *dedupe, const struct identity *identity, struct bytes payload)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_KEY_INSERT];
	sqlite3_bind_int64(stmt, 1, identity->uid);
	sqlite3_bind_blob(stmt, 2, identity->key.data, (int)identity->key.len, SQLITE_STATIC);
	sqlite3_bind_blob(stmt, 3, identity->hash, sizeof(identity->hash), SQLITE_STATIC);
	sqlite3_bind_int64(stmt, 4, (sqlite3_int64)dedupe->store->commit_no + 1);
	sqlite3_bind_int64(
		stmt, 5, (sqlite3_int64)((clock_now_us() - dedupe->started_us) / 1000000));
	sqlite3_bind_blob(stmt, 6, payload.data, (int)payload.len, SQLITE_STATIC);
	if (own_run(dedupe->store, stmt) != SQLITE_OK) {
		return -EIO;
	}
	dedupe->keys_added++;
	return 0;
}

int dedupe_remember(struct dedupe *dedupe, const struct identity *identity, struct bytes payload)
{
	switch (identity->kind) {
	case IDENTITY_SEQ:
		return remember_seq(dedupe, identity, payload);
	case IDENTITY_KEY:
		return remember_key(dedupe, identity, payload);
	default:
		return 0;
	}
}

bool dedupe_has_pending(const struct dedupe *dedupe)
{
	return dedupe->pending_count > 0 || dedupe->keys_added > 0;
}

/* ---- writing and trimming ---- */

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
		sqlite3_bind_blob(stmt, 7, record->payload.data, (int)record->payload.len, SQLITE_STATIC);
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
		sqlite3_bind_int64(stmt, 3, (sqlite3_int64)session_floor(dedupe, session));
		rc = own_run(dedupe->store, stmt);
	}
	session->has_rows = true;
	return rc;
}

/* Copies one answer out of a row that is about to go, if somebody may still ask for it. */
static int move_record(struct dedupe *dedupe, const struct record *record, uint64_t commit_no)
{
	struct session *session = session_find(dedupe, record->uid, record->session);
	if (session == NULL) {
		return SQLITE_OK;
	}
	int rc = write_session(dedupe, session);
	const struct entry *entry = entry_find(session, record->seq);
	if (rc != SQLITE_OK || entry == NULL || entry->moved || entry->commit_no != commit_no) {
		return rc;
	}
	if (grow((void **)&dedupe->moves, &dedupe->moves_cap, dedupe->moves_count,
		    sizeof(*dedupe->moves)) < 0) {
		return SQLITE_NOMEM;
	}
	rc = put_session_row(dedupe, session, record, commit_no);
	if (rc == SQLITE_OK) {
		dedupe->moves[dedupe->moves_count++] = (struct move){session, record->seq};
	}
	return rc;
}

static int trim_groups(struct dedupe *dedupe)
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
	return rc;
}

/* The session leaves the index, now or with the transaction; its rows are doomed. */
static int doom(struct dedupe *dedupe, const struct session *session)
{
	if (grow((void **)&dedupe->doomed, &dedupe->doomed_cap, dedupe->doomed_count,
		    sizeof(*dedupe->doomed)) < 0) {
		return -ENOMEM;
	}
	struct doomed *doomed = &dedupe->doomed[dedupe->doomed_count++];
	doomed->uid = session->uid;
	memcpy(doomed->id, session->id, DEDUPE_SESSION_BYTES);
	return 0;
}

/* Sessions that nobody has used for their time to live. */
static void expire_sessions(struct dedupe *dedupe, uint64_t now_us)
{
	pthread_mutex_lock(&dedupe->lock);
	list_for_each_safe(node, &dedupe->recent)
	{
		struct session *session = container_of(node, struct session, recent);
		if (now_us - session->last_used_us < dedupe->limits.session_ttl_us) {
			break;
		}
		if (session->pending == 0 && doom(dedupe, session) == 0) {
			session_remove(dedupe, session);
		}
	}
	pthread_mutex_unlock(&dedupe->lock);
}

static int delete_doomed(struct dedupe *dedupe)
{
	sqlite3_stmt *stmt = dedupe->stmts[SQL_SESSION_DROP];
	int rc = SQLITE_OK;
	for (size_t i = 0; rc == SQLITE_OK && i < dedupe->doomed_count; i++) {
		sqlite3_bind_int64(stmt, 1, dedupe->doomed[i].uid);
		sqlite3_bind_blob(stmt, 2, dedupe->doomed[i].id, DEDUPE_SESSION_BYTES, SQLITE_STATIC);
		rc = own_run(dedupe->store, stmt);
	}
	dedupe->dooms_deleted = rc == SQLITE_OK;
	return rc;
}

/* Keys that have outlived their time to live. Ids ascend with age, so the oldest stand first. */
static int sweep_keys(struct dedupe *dedupe, uint64_t now_us)
{
	uint64_t uptime_us = now_us - dedupe->started_us;
	if (uptime_us < dedupe->limits.key_ttl_us) {
		return SQLITE_OK; /* none can be older than this run */
	}
	uint64_t born_before_s = (uptime_us - dedupe->limits.key_ttl_us) / 1000000;
	sqlite3_stmt *stmt = dedupe->stmts[SQL_KEY_OLDEST];
	sqlite3_int64 last = 0;
	uint64_t dropped = 0;
	sqlite3_bind_int64(stmt, 1, KEYS_SWEEP);
	while (sqlite3_step(stmt) == SQLITE_ROW) {
		bool of_this_run = (uint64_t)sqlite3_column_int64(stmt, 1) > dedupe->start_commit_no;
		if (of_this_run && (uint64_t)sqlite3_column_int64(stmt, 2) >= born_before_s) {
			break;
		}
		last = sqlite3_column_int64(stmt, 0);
		dropped++;
	}
	sqlite3_reset(stmt);
	if (dropped == 0) {
		return SQLITE_OK;
	}
	sqlite3_bind_int64(dedupe->stmts[SQL_KEY_DELETE], 1, last);
	int rc = own_run(dedupe->store, dedupe->stmts[SQL_KEY_DELETE]);
	dedupe->keys_dropped = rc == SQLITE_OK ? dropped : 0;
	return rc;
}

int dedupe_write(struct dedupe *dedupe, uint64_t commit_no)
{
	int rc = SQLITE_OK;
	uint64_t now_us = clock_now_us();

	authorizer_enter(&dedupe->store->authorizer, ROLE_SELF);
	if (dedupe->pending_count > 0) {
		sqlite3_stmt *stmt = dedupe->stmts[SQL_GROUP_INSERT];
		sqlite3_bind_int64(stmt, 1, (sqlite3_int64)commit_no);
		sqlite3_bind_blob(stmt, 2, sqlite3_str_value(dedupe->record),
			sqlite3_str_length(dedupe->record), SQLITE_STATIC);
		rc = own_run(dedupe->store, stmt);
		sqlite3_clear_bindings(stmt);
	}
	if (rc == SQLITE_OK && now_us >= dedupe->next_sweep_us) {
		/* Before the trim, whose list of moves names sessions. */
		expire_sessions(dedupe, now_us);
		rc = sweep_keys(dedupe, now_us);
		dedupe->next_sweep_us = now_us + SWEEP_INTERVAL_US;
	}
	if (rc == SQLITE_OK && dedupe->group_rows > GROUP_ROWS_KEPT + GROUP_ROWS_TRIM) {
		rc = trim_groups(dedupe);
	}
	if (rc == SQLITE_OK && dedupe->doomed_count > 0) {
		rc = delete_doomed(dedupe);
	}
	return rc;
}

/* What the end of a transaction leaves to do either way. */
static void transaction_over(struct dedupe *dedupe)
{
	for (size_t i = 0; i < dedupe->doomed_count; i++) {
		struct session *session =
			session_find(dedupe, dedupe->doomed[i].uid, dedupe->doomed[i].id);
		if (session != NULL && session->forgotten) {
			session_remove(dedupe, session);
		}
	}
	if (dedupe->record != NULL) {
		sqlite3_str_reset(dedupe->record);
	}
	dedupe->pending_count = 0;
	dedupe->moves_count = 0;
	dedupe->trimmed_rows = 0;
	dedupe->keys_added = 0;
	dedupe->keys_dropped = 0;
	dedupe->dooms_deleted = false;
}

void dedupe_committed(struct dedupe *dedupe)
{
	pthread_mutex_lock(&dedupe->lock);
	for (size_t i = 0; i < dedupe->moves_count; i++) {
		struct entry *entry = entry_find(dedupe->moves[i].session, dedupe->moves[i].seq);
		if (entry != NULL) {
			entry->moved = true;
		}
	}
	dedupe->group_rows += dedupe->pending_count > 0;
	dedupe->group_rows -= dedupe->trimmed_rows;
	dedupe->stats.keys += dedupe->keys_added;
	dedupe->stats.keys -= dedupe->keys_dropped;
	for (size_t i = 0; i < dedupe->pending_count; i++) {
		dedupe->pending[i].session->pending = 0;
		session_drop_old(dedupe, dedupe->pending[i].session);
	}
	bool deleted = dedupe->dooms_deleted;
	transaction_over(dedupe);
	if (deleted) {
		dedupe->doomed_count = 0;
	}
	pthread_mutex_unlock(&dedupe->lock);
}

void dedupe_rolled_back(struct dedupe *dedupe)
{
	pthread_mutex_lock(&dedupe->lock);
	for (size_t i = dedupe->pending_count; i-- > 0;) {
		struct pending *pending = &dedupe->pending[i];
		entry_remove(dedupe, pending->session, pending->seq);
		pending->session->pending = 0;
		pending->session->max_seq = pending->max_seq_before;
	}
	transaction_over(dedupe);
	pthread_mutex_unlock(&dedupe->lock);
}

int dedupe_forget(struct dedupe *dedupe, uint32_t uid, const uint8_t *session)
{
	pthread_mutex_lock(&dedupe->lock);
	int rc = 0;
	struct session *found = session_find(dedupe, uid, session);
	if (found != NULL && !found->forgotten) {
		rc = doom(dedupe, found);
		found->forgotten = rc == 0;
	}
	pthread_mutex_unlock(&dedupe->lock);
	return rc;
}
