/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Exactly once: the answers that are remembered, so that a request which comes again gets its
 * answer and not a second execution.
 *
 * A request is known by (uid, session, seq) or by (uid, key). Answers are stored in the transaction
 * of the work that they answer: for sessions in one row of _lf_group for the whole commit group,
 * for keys in a row of _lf_key each. An index in memory finds them; it is rebuilt at start.
 *
 * Everything belongs to the writer's thread except dedupe_peek(), which any thread may call.
 */

#include "server/store/value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct dedupe;

enum { DEDUPE_SESSION_BYTES = 16, DEDUPE_KEY_BYTES_MAX = 255 };

enum identity_kind { IDENTITY_NONE, IDENTITY_SEQ, IDENTITY_KEY };

struct identity {
	enum identity_kind kind;
	uint32_t uid;
	uint8_t session[DEDUPE_SESSION_BYTES]; /* IDENTITY_SEQ */
	uint64_t seq;
	uint64_t done;    /* every seq up to here has been answered for good */
	struct bytes key; /* IDENTITY_KEY */
	uint8_t hash[16]; /* of the content: the same identity with another hash is a mistake */
};

/* Bounds; may be changed between transactions. */
struct dedupe_limits {
	uint64_t sessions_max;
	uint64_t session_ttl_us;
	uint64_t keys_max;
	uint64_t key_ttl_us;
};

enum dedupe_verdict {
	DEDUPE_NEW = 0,  /* execute it, then remember */
	DEDUPE_REPEAT,   /* here is the answer */
	DEDUPE_MISMATCH, /* known, but with other content */
	DEDUPE_EXPIRED,  /* outside the window, or its answer was given up by `done` */
	DEDUPE_FULL,     /* no room for another session or key */
};

struct dedupe_reply {
	uint64_t commit_no; /* the commit that holds it; the next one if it is of this group */
	uint8_t *payload;   /* as given to dedupe_remember(); the caller frees it */
	size_t payload_len;
};

int dedupe_new(struct store *store, uint32_t session_window, struct dedupe **ret_dedupe);
void dedupe_free(struct dedupe *dedupe);

/* Rebuilds the index from the tables. 0, -ENOMEM, or -EINVAL: a row cannot be read. */
int dedupe_load(struct dedupe *dedupe);

void dedupe_set_limits(struct dedupe *dedupe, const struct dedupe_limits *limits);
struct dedupe_limits dedupe_get_limits(const struct dedupe *dedupe);

/* Inside a transaction. A verdict, or -EIO / -ENOMEM: the answer is known but cannot be read. */
int dedupe_check(
	struct dedupe *dedupe, const struct identity *identity, struct dedupe_reply *ret_reply);

/* Inside the transaction, outside the batch's savepoint. 0, -ENOMEM or -EIO. */
int dedupe_remember(struct dedupe *dedupe, const struct identity *identity, struct bytes payload);

/* True if the transaction must commit for the sake of what was remembered. */
bool dedupe_has_pending(const struct dedupe *dedupe);

/* Before COMMIT: writes what was remembered, trims what is old. SQLite's code. */
int dedupe_write(struct dedupe *dedupe, uint64_t commit_no);

/* After COMMIT, or after the transaction is gone. */
void dedupe_committed(struct dedupe *dedupe);
void dedupe_rolled_back(struct dedupe *dedupe);

/* The client has said goodbye to its session: takes effect with the commit. */
int dedupe_forget(struct dedupe *dedupe, uint32_t uid, const uint8_t *session);

/* What hello tells: whether the session is known, and its highest seq. Any thread. */
bool dedupe_peek(
	struct dedupe *dedupe, uint32_t uid, const uint8_t *session, uint64_t *ret_max_seq);

struct dedupe_stats {
	uint64_t sessions;
	uint64_t replies; /* remembered for sessions */
	uint64_t keys;
	uint64_t repeats; /* answered from memory since start */
};
struct dedupe_stats dedupe_stats(struct dedupe *dedupe); /* any thread */
