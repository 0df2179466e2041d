/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * For tests of what is remembered of answers: a store on a real file, identities, and what asks,
 * executes and commits as a group does. The clock's hands are turned for everything that ages.
 */

#include "server/store/dedupe_inside.h"
#include "tests/unit/bed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	UID = 1001,
	WINDOW = 1024,
	GROUPS_UNTIL_TRIM = 1153, /* rows of _lf_group that make the next commit trim */
	TRIMMED = 128,
};

#define SECOND 1000000ull
#define MINUTE (60 * SECOND)
#define HOUR   (60 * MINUTE)

static const struct dedupe_limits limits = {100, HOUR, 1000, 24 * HOUR};

static inline int set_up(void **state)
{
	static struct bed bed;
	bed_make(&bed);
	dedupe_set_limits(store_dedupe(bed.store), &limits);
	*state = &bed;
	return 0;
}

static inline int tear_down(void **state)
{
	bed_remove(*state);
	return 0;
}

static inline void restart(struct bed *bed)
{
	bed_reopen(bed);
	dedupe_set_limits(store_dedupe(bed->store), &limits);
}

/* ---- asking and remembering ---- */

static inline struct identity seq_of(char session, uint64_t seq, uint64_t done)
{
	struct identity identity = {
		.kind = IDENTITY_SEQ, .uid = UID, .seq = seq, .done = done, .hash = "content"};
	memset(identity.session, session, sizeof(identity.session));
	return identity;
}

static inline struct identity key_of(const char *key)
{
	return (struct identity){
		.kind = IDENTITY_KEY, .uid = UID, .key = {key, strlen(key)}, .hash = "content"};
}

/* The answer that is remembered for a seq: different for each, and sometimes empty. */
static inline struct bytes answer_to(const struct identity *identity)
{
	static char text[512];
	int len = identity->kind == IDENTITY_SEQ
		? snprintf(text, sizeof(text), "S%02x-%llu", identity->session[0],
			  (unsigned long long)identity->seq)
		: snprintf(text, sizeof(text), "K%.*s", (int)identity->key.len,
			  (const char *)identity->key.data);
	return (struct bytes){text, (size_t)len};
}

/* Asks in the open transaction; a remembered answer must be the right one. */
static inline int ask(struct bed *bed, struct identity identity, uint64_t *ret_commit_no)
{
	struct dedupe_reply reply;
	int verdict = dedupe_check(store_dedupe(bed->store), &identity, &reply);
	if (verdict == DEDUPE_REPEAT) {
		struct bytes want = answer_to(&identity);
		assert_int_equal(reply.payload_len, want.len);
		assert_memory_equal(reply.payload, want.data, want.len);
		if (ret_commit_no != NULL) {
			*ret_commit_no = reply.commit_no;
		}
		free(reply.payload);
	} else {
		assert_null(reply.payload);
	}
	return verdict;
}

static inline void remember(struct bed *bed, struct identity identity)
{
	assert_int_equal(
		dedupe_remember(store_dedupe(bed->store), &identity, answer_to(&identity)), 0);
}

/* Asks, and executes what is new, in the open transaction. */
static inline int run(struct bed *bed, struct identity identity)
{
	int verdict = ask(bed, identity, NULL);
	if (verdict == DEDUPE_NEW) {
		remember(bed, identity);
	}
	return verdict;
}

/* The same in a transaction of its own. */
static inline int commit(struct bed *bed, struct identity identity)
{
	bed_begin(bed->store);
	int verdict = run(bed, identity);
	if (dedupe_has_pending(store_dedupe(bed->store))) {
		bed_commit(bed->store);
	} else {
		store_rollback(bed->store);
	}
	return verdict;
}

/* The verdict alone, without a trace. */
static inline int peek(struct bed *bed, struct identity identity)
{
	bed_begin(bed->store);
	int verdict = ask(bed, identity, NULL);
	store_rollback(bed->store);
	return verdict;
}

/* `count` commits of a session of their own, whose answers nobody asks for. */
static inline void fill(struct bed *bed, size_t count)
{
	static uint64_t seq = 1000000;
	for (size_t i = 0; i < count; i++) {
		seq++;
		assert_int_equal(commit(bed, seq_of('f', seq, seq - 1)), DEDUPE_NEW);
	}
}

static inline int64_t rows_of(struct bed *bed, const char *table)
{
	char sql[128];
	(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
	return bed_number(bed->store, sql);
}
