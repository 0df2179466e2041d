/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The index of remembered answers: which session has which seq, and where its answer lies. In
 * memory only; it knows neither SQLite nor locks.
 *
 * An entry is dropped as soon as nobody may ask for it any more: its client has said `done`, or it
 * is below the window. Memory is bounded by sessions x window.
 */

#include "server/base/list.h"
#include "server/store/dedupe.h"
#include "server/store/shares.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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
	struct list recent; /* sessions::recent */
	uint32_t uid;
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq;
	uint64_t done;
	uint64_t done_before; /* … before the running transaction, if that has raised it */
	bool raised;
	uint64_t last_used_us;
	struct entry *entries; /* ascending by seq: [first, first + count) of cap */
	size_t first;
	size_t count;
	size_t cap;
	uint64_t trim_stamp; /* the trim that has already written its header row */
	uint32_t pending;    /* answers of the running transaction: it must not go away now */
	bool has_rows;       /* in _lf_session */
	bool forgotten;      /* its client said bye in the running transaction */
	uint64_t born;       /* records of an earlier commit are of another life of the same id */
};

enum { SESSIONS_BUCKETS = 4096 };

struct sessions {
	struct session *buckets[SESSIONS_BUCKETS];
	struct list recent; /* least recently used first */
	uint64_t seed;
	uint32_t window;
	struct shares shares; /* by user; their total is the number of sessions */
	uint64_t replies;     /* entries of all sessions */
};

void sessions_init(struct sessions *sessions, uint32_t window);
void sessions_finish(struct sessions *sessions);

struct session *session_find(struct sessions *sessions, uint32_t uid, const uint8_t *id);
struct session *session_add(struct sessions *sessions, uint32_t uid, const uint8_t *id);
void session_remove(struct sessions *sessions, struct session *session);
void session_touch(struct sessions *sessions, struct session *session); /* used just now */

/* No answer at or below this number can be asked for any more. */
uint64_t session_floor(const struct sessions *sessions, const struct session *session);
void session_drop_below(struct sessions *sessions, struct session *session, uint64_t floor);

struct entry *entry_find(const struct session *session, uint64_t seq); /* or NULL */
int entry_insert(struct sessions *sessions, struct session *session, const struct entry *entry);
void entry_remove(struct sessions *sessions, struct session *session, uint64_t seq);

/* Room for one more element in a growing array. 0 or -ENOMEM. */
int array_grow(void **array, size_t *cap, size_t count, size_t size);
