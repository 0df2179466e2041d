/* SPDX-License-Identifier: MIT */

/* Sessions by (uid, id), their entries by seq: a hash table of sorted arrays. */

#include "server/store/sessions.h"

#include "server/base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

int array_grow(void **array, size_t *cap, size_t count, size_t size)
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

void sessions_init(struct sessions *sessions, uint32_t window)
{
	memset(sessions, 0, sizeof(*sessions));
	list_init(&sessions->recent);
	sessions->window = window;
	if (getrandom(&sessions->seed, sizeof(sessions->seed), 0) < 0) {
		sessions->seed = clock_now_us();
	}
}

void sessions_finish(struct sessions *sessions)
{
	list_for_each_safe(node, &sessions->recent) {
		session_remove(sessions, container_of(node, struct session, recent));
	}
	shares_finish(&sessions->shares);
}

static struct session **bucket_of(struct sessions *sessions, uint32_t uid, const uint8_t *id)
{
	/* Clients choose the id: a seed of our own keeps them from choosing one bucket. */
	uint64_t hash = XXH3_64bits_withSeed(id, DEDUPE_SESSION_BYTES, sessions->seed ^ uid);
	return &sessions->buckets[hash % SESSIONS_BUCKETS];
}

struct session *session_find(struct sessions *sessions, uint32_t uid, const uint8_t *id)
{
	struct session *session = *bucket_of(sessions, uid, id);
	while (session != NULL &&
		(session->uid != uid || memcmp(session->id, id, DEDUPE_SESSION_BYTES) != 0)) {
		session = session->next_in_bucket;
	}
	return session;
}

struct session *session_add(struct sessions *sessions, uint32_t uid, const uint8_t *id)
{
	struct session *session = calloc(1, sizeof(*session));
	if (session == NULL || shares_add(&sessions->shares, uid, 1) < 0) {
		free(session);
		return NULL;
	}
	struct session **bucket = bucket_of(sessions, uid, id);
	session->uid = uid;
	memcpy(session->id, id, DEDUPE_SESSION_BYTES);
	session->last_used_us = clock_now_us();
	session->next_in_bucket = *bucket;
	*bucket = session;
	list_push_back(&sessions->recent, &session->recent);
	return session;
}

void session_remove(struct sessions *sessions, struct session *session)
{
	struct session **at = bucket_of(sessions, session->uid, session->id);
	while (*at != session) {
		at = &(*at)->next_in_bucket;
	}
	*at = session->next_in_bucket;
	list_remove(&session->recent);
	(void)shares_add(&sessions->shares, session->uid, -1);
	sessions->replies -= session->count;
	free(session->entries);
	free(session);
}

void session_touch(struct sessions *sessions, struct session *session)
{
	session->last_used_us = clock_now_us();
	list_remove(&session->recent);
	list_push_back(&sessions->recent, &session->recent);
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

struct entry *entry_find(const struct session *session, uint64_t seq)
{
	size_t at = entry_place(session, seq);
	bool found = at < session->first + session->count && session->entries[at].seq == seq;
	return found ? &session->entries[at] : NULL;
}

int entry_insert(struct sessions *sessions, struct session *session, const struct entry *entry)
{
	if (session->first > 0 && session->first + session->count == session->cap) {
		memmove(session->entries, session->entries + session->first,
			session->count * sizeof(*session->entries));
		session->first = 0;
	}
	if (array_grow((void **)&session->entries, &session->cap, session->first + session->count,
		    sizeof(*session->entries)) < 0) {
		return -ENOMEM;
	}
	size_t at = entry_place(session, entry->seq);
	size_t behind = session->first + session->count - at;
	memmove(session->entries + at + 1, session->entries + at,
		behind * sizeof(*session->entries));
	session->entries[at] = *entry;
	session->count++;
	sessions->replies++;
	return 0;
}

void entry_remove(struct sessions *sessions, struct session *session, uint64_t seq)
{
	size_t at = entry_place(session, seq);
	size_t end = session->first + session->count;
	if (at < end && session->entries[at].seq == seq) {
		memmove(session->entries + at, session->entries + at + 1,
			(end - at - 1) * sizeof(*session->entries));
		session->count--;
		sessions->replies--;
	}
}

/* No answer at or below this number can be asked for any more. */
uint64_t session_floor(const struct sessions *sessions, const struct session *session)
{
	uint64_t below =
		session->max_seq > sessions->window ? session->max_seq - sessions->window : 0;
	return session->done > below ? session->done : below;
}

void session_drop_below(struct sessions *sessions, struct session *session, uint64_t floor)
{
	while (session->count > 0 && session->entries[session->first].seq <= floor) {
		session->first++;
		session->count--;
		sessions->replies--;
	}
	if (session->count == 0) {
		session->first = 0;
	}
}
