/* SPDX-License-Identifier: MIT */

/*
 * Remembered answers. What this file keeps true: an answer is in the database if and only if the
 * work that it answers is; the index holds exactly the answers that may still be asked for; nothing
 * grows without a limit. sessions.c is the index, dedupe_tables.c the rows.
 */

#include "server/store/dedupe.h"

#include "server/base/clock.h"
#include "server/store/dedupe_inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SWEEP_INTERVAL_US (60ull * 1000 * 1000)
#define SWEEP_FULL_US     (1000ull * 1000) /* … when there is no room */

int dedupe_new(struct store *store, uint32_t session_window, struct dedupe **ret_dedupe)
{
	struct dedupe *dedupe = calloc(1, sizeof(*dedupe));
	if (dedupe == NULL) {
		return -ENOMEM;
	}
	dedupe->store = store;
	sessions_init(&dedupe->sessions, session_window);
	dedupe->limits = (struct dedupe_limits){10000, 3600000000ull, 1000000, 86400000000ull};
	pthread_mutex_init(&dedupe->lock, NULL);
	dedupe->started_us = clock_now_us();
	dedupe->next_sweep_us = dedupe->started_us + SWEEP_INTERVAL_US;
	if (tables_prepare(dedupe) != SQLITE_OK) {
		dedupe_free(dedupe);
		return -EINVAL;
	}
	*ret_dedupe = dedupe;
	return 0;
}

void dedupe_free(struct dedupe *dedupe)
{
	if (dedupe == NULL) {
		return;
	}
	tables_finish(dedupe);
	sessions_finish(&dedupe->sessions);
	sqlite3_free(sqlite3_str_finish(dedupe->record));
	free(dedupe->pending);
	free(dedupe->moves);
	free(dedupe->doomed);
	free(dedupe->forgets);
	free(dedupe->raises);
	free(dedupe->key_changes);
	shares_finish(&dedupe->key_shares);
	pthread_mutex_destroy(&dedupe->lock);
	free(dedupe);
}

void dedupe_set_limits(struct dedupe *dedupe, const struct dedupe_limits *limits)
{
	dedupe->limits = *limits;
}

struct dedupe_limits dedupe_get_limits(const struct dedupe *dedupe)
{
	return dedupe->limits;
}

int dedupe_load(struct dedupe *dedupe)
{
	return tables_load(dedupe);
}

bool dedupe_peek(struct dedupe *dedupe, uint32_t uid, const uint8_t *session, uint64_t *ret_max_seq)
{
	pthread_mutex_lock(&dedupe->lock);
	struct session *found = session_find(&dedupe->sessions, uid, session);
	*ret_max_seq = 0;
	if (found != NULL) {
		session_touch(&dedupe->sessions, found);
		*ret_max_seq = found->max_seq;
	}
	pthread_mutex_unlock(&dedupe->lock);
	return found != NULL;
}

struct dedupe_stats dedupe_stats(struct dedupe *dedupe)
{
	pthread_mutex_lock(&dedupe->lock);
	struct dedupe_stats stats = {
		.sessions = dedupe->sessions.shares.total,
		.replies = dedupe->sessions.replies,
		.keys = dedupe->keys,
		.repeats = dedupe->repeats,
	};
	pthread_mutex_unlock(&dedupe->lock);
	return stats;
}

/* ---- making room ---- */

/* Sessions that nobody has used for their time to live leave the index; their rows are doomed. */
static void expire_sessions(struct dedupe *dedupe)
{
	pthread_mutex_lock(&dedupe->lock);
	uint64_t now_us = clock_now_us(); /* under the lock: no session can be younger than this */
	list_for_each_safe(node, &dedupe->sessions.recent) {
		struct session *session = container_of(node, struct session, recent);
		if (now_us - session->last_used_us < dedupe->limits.session_ttl_us) {
			break;
		}
		if (session->pending > 0 || session->forgotten || session->raised ||
			array_grow((void **)&dedupe->doomed, &dedupe->doomed_cap,
				dedupe->doomed_count, sizeof(*dedupe->doomed)) < 0) {
			continue;
		}
		struct doomed *doomed = &dedupe->doomed[dedupe->doomed_count++];
		doomed->uid = session->uid;
		memcpy(doomed->id, session->id, DEDUPE_SESSION_BYTES);
		session_remove(&dedupe->sessions, session);
	}
	pthread_mutex_unlock(&dedupe->lock);
}

/* ---- asking ---- */

/*
 * The answers up to there may go when the transaction is committed: if it runs again, whoever asked for one of
 * them before gets it again. Without memory for that they stay.
 */
static void raise_done(struct dedupe *dedupe, struct session *session, uint64_t done)
{
	if (done <= session->done) {
		return;
	}
	if (!session->raised) {
		if (array_grow((void **)&dedupe->raises, &dedupe->raises_cap, dedupe->raises_count,
			    sizeof(struct session *)) < 0) {
			return;
		}
		dedupe->raises[dedupe->raises_count++] = session;
		session->raised = true;
		session->done_before = session->done;
	}
	session->done = done;
}

static int check_seq(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply)
{
	struct entry found = {0};
	enum dedupe_verdict verdict = DEDUPE_NEW;

	pthread_mutex_lock(&dedupe->lock);
	struct session *session = session_find(&dedupe->sessions, identity->uid, identity->session);
	if (session == NULL && identity->seq <= identity->done) {
		verdict = DEDUPE_EXPIRED;
	} else if (session == NULL) {
		verdict = shares_have_room(&dedupe->sessions.shares, identity->uid,
				  dedupe->limits.sessions_max)
			? DEDUPE_NEW
			: DEDUPE_FULL;
	} else {
		session_touch(&dedupe->sessions, session);
		raise_done(dedupe, session, identity->done);
		const struct entry *entry =
			identity->seq > session->done ? entry_find(session, identity->seq) : NULL;
		if (entry != NULL) {
			found = *entry;
			verdict = memcmp(entry->hash, identity->hash, sizeof(entry->hash)) == 0
				? DEDUPE_REPEAT
				: DEDUPE_MISMATCH;
		} else if (identity->seq <= session_floor(&dedupe->sessions, session)) {
			verdict = DEDUPE_EXPIRED;
		}
	}
	dedupe->repeats += verdict == DEDUPE_REPEAT;
	pthread_mutex_unlock(&dedupe->lock);
	return verdict == DEDUPE_REPEAT ? tables_read(dedupe, identity, &found, ret_reply)
					: (int)verdict;
}

static int check(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply)
{
	*ret_reply = (struct dedupe_reply){0};
	switch (identity->kind) {
	case IDENTITY_SEQ:
		return check_seq(dedupe, identity, ret_reply);
	case IDENTITY_KEY:
		return tables_read_key(dedupe, identity, ret_reply);
	default:
		return DEDUPE_NEW;
	}
}

int dedupe_check(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply)
{
	int verdict = check(dedupe, identity, ret_reply);
	uint64_t now_us = clock_now_us();
	if (verdict == DEDUPE_FULL && now_us >= dedupe->next_full_sweep_us) {
		/* Whoever is refused commits nothing, so no commit would ever make room. */
		bool more = false;
		dedupe->next_full_sweep_us = now_us + SWEEP_FULL_US;
		authorizer_enter(&dedupe->store->authorizer, ROLE_SELF);
		expire_sessions(dedupe);
		verdict = tables_sweep_keys(dedupe, now_us, &more) == SQLITE_OK
			? check(dedupe, identity, ret_reply)
			: -EIO;
	}
	return verdict;
}

/* ---- remembering ---- */

static int remember_seq(
	struct dedupe *dedupe, const struct identity *identity, struct bytes payload)
{
	struct entry entry;
	if (array_grow((void **)&dedupe->pending, &dedupe->pending_cap, dedupe->pending_count,
		    sizeof(*dedupe->pending)) < 0 ||
		tables_append(dedupe, identity, payload, &entry) < 0) {
		return -ENOMEM;
	}
	pthread_mutex_lock(&dedupe->lock);
	int rc = -ENOMEM;
	struct session *session = session_find(&dedupe->sessions, identity->uid, identity->session);
	bool added = session == NULL;
	if (added) {
		session = session_add(&dedupe->sessions, identity->uid, identity->session);
	}
	if (session != NULL) {
		session->born = added ? entry.commit_no : session->born;
		session->forgotten = false; /* a bye before it in this transaction is overtaken */
		dedupe->pending[dedupe->pending_count] =
			(struct pending){session, identity->seq, session->max_seq, added};
		rc = entry_insert(&dedupe->sessions, session, &entry);
	}
	if (rc == 0) {
		dedupe->pending_count++;
		session->pending++;
		if (added) {
			session->done = identity->done;
		} else {
			raise_done(dedupe, session, identity->done);
		}
		session->max_seq =
			identity->seq > session->max_seq ? identity->seq : session->max_seq;
	}
	pthread_mutex_unlock(&dedupe->lock);
	return rc;
}

int dedupe_remember(struct dedupe *dedupe, const struct identity *identity, struct bytes payload)
{
	switch (identity->kind) {
	case IDENTITY_SEQ:
		return remember_seq(dedupe, identity, payload);
	case IDENTITY_KEY:
		return tables_insert_key(dedupe, identity, payload);
	default:
		return 0;
	}
}

bool dedupe_has_pending(const struct dedupe *dedupe)
{
	return dedupe->pending_count > 0 || dedupe->key_changes_count > 0 ||
		dedupe->forgets_count > 0 || dedupe->doomed_count > 0;
}

/* ---- the end of a transaction ---- */

int dedupe_write(struct dedupe *dedupe, uint64_t commit_no)
{
	int rc = SQLITE_OK;
	uint64_t now_us = clock_now_us();

	authorizer_enter(&dedupe->store->authorizer, ROLE_SELF);
	if (dedupe->pending_count > 0) {
		rc = tables_write_group(dedupe, commit_no);
	}
	if (rc == SQLITE_OK && now_us >= dedupe->next_sweep_us) {
		bool more = false;
		expire_sessions(dedupe); /* before the trim, whose list of moves names sessions */
		rc = tables_sweep_keys(dedupe, now_us, &more);
		dedupe->next_sweep_us = more ? now_us : now_us + SWEEP_INTERVAL_US;
	}
	if (rc == SQLITE_OK && tables_trim_is_due(dedupe)) {
		rc = tables_trim(dedupe);
	}
	return rc == SQLITE_OK ? tables_bury(dedupe, commit_no) : rc;
}

/* What the end of a transaction leaves to do either way. */
static void transaction_over(struct dedupe *dedupe)
{
	if (sqlite3_str_errcode(dedupe->record) == SQLITE_OK) {
		sqlite3_str_reset(dedupe->record);
	} else {
		/* It would never forget that there was no memory, however much there is now. */
		sqlite3_free(sqlite3_str_finish(dedupe->record));
		dedupe->record = NULL;
	}
	dedupe->pending_count = 0;
	dedupe->moves_count = 0;
	dedupe->forgets_count = 0;
	dedupe->raises_count = 0;
	dedupe->trimmed_rows = 0;
	dedupe->key_changes_count = 0;
	dedupe->buried = false;
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
	dedupe->keys = dedupe->key_shares.total;
	for (size_t i = 0; i < dedupe->pending_count; i++) {
		struct session *session = dedupe->pending[i].session;
		session->pending = 0;
		session_drop_below(
			&dedupe->sessions, session, session_floor(&dedupe->sessions, session));
	}
	for (size_t i = 0; i < dedupe->raises_count; i++) {
		struct session *session = dedupe->raises[i];
		session->raised = false;
		session_drop_below(&dedupe->sessions, session, session->done);
	}
	for (size_t i = 0; i < dedupe->forgets_count; i++) {
		if (dedupe->forgets[i]->forgotten) {
			session_remove(&dedupe->sessions, dedupe->forgets[i]);
		}
	}
	if (dedupe->buried) {
		dedupe->doomed_count = 0;
	}
	transaction_over(dedupe);
	pthread_mutex_unlock(&dedupe->lock);
}

void dedupe_rolled_back(struct dedupe *dedupe)
{
	pthread_mutex_lock(&dedupe->lock);
	for (size_t i = 0; i < dedupe->forgets_count; i++) {
		dedupe->forgets[i]->forgotten = false; /* the bye will come again, or has failed */
	}
	for (size_t i = 0; i < dedupe->raises_count; i++) {
		dedupe->raises[i]->raised = false;
		dedupe->raises[i]->done = dedupe->raises[i]->done_before;
	}
	for (size_t i = dedupe->pending_count; i-- > 0;) {
		struct pending *pending = &dedupe->pending[i];
		entry_remove(&dedupe->sessions, pending->session, pending->seq);
		pending->session->pending = 0;
		pending->session->max_seq = pending->max_seq_before;
		if (pending->added) {
			session_remove(&dedupe->sessions, pending->session);
		}
	}
	tables_uncount_keys(dedupe, 0);
	transaction_over(dedupe);
	pthread_mutex_unlock(&dedupe->lock);
}

int dedupe_forget(struct dedupe *dedupe, uint32_t uid, const uint8_t *session)
{
	pthread_mutex_lock(&dedupe->lock);
	int rc = 0;
	struct session *found = session_find(&dedupe->sessions, uid, session);
	bool listed = false;
	for (size_t i = 0; i < dedupe->forgets_count; i++) {
		listed |= dedupe->forgets[i] == found;
	}
	if (found != NULL && listed) {
		found->forgotten = true;
	} else if (found != NULL) {
		rc = array_grow((void **)&dedupe->forgets, &dedupe->forgets_cap,
			dedupe->forgets_count, sizeof(struct session *));
		if (rc == 0) {
			dedupe->forgets[dedupe->forgets_count++] = found;
			found->forgotten = true;
		}
	}
	pthread_mutex_unlock(&dedupe->lock);
	return rc;
}
