/* SPDX-License-Identifier: MIT */

/*
 * Some threads that fetch parts of files into a ring of slots, and one reader that takes them out in
 * order. It does not know what is in the files. What it keeps true: a slot belongs either to the one
 * thread that fills it or to the reader; nobody waits holding the lock.
 */

#include "server/ship/fetch.h"

#include "server/base/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOTS_MAX = 2 * FETCH_THREADS_MAX };

#define WAIT_MS_MIN 100
#define WAIT_MS_MAX 5000

/* A part: `len` bytes of a file from `offset`. */
struct slot {
	bool ready;
	size_t file;
	uint64_t offset;
	size_t len;
	size_t filled;
	uint8_t *bytes;
	int rc;
	struct replica_error error;
};

struct worker {
	struct fetch *fetch;
	pthread_t thread;
	struct replica *replica; /* guarded by the lock until it is set */
};

struct fetch {
	char *url;
	struct plan_file *files;
	size_t count;
	uint64_t patience_ms;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stopping;
	size_t next_file; /* the next part to be fetched */
	uint64_t next_offset;
	uint64_t taken; /* parts that threads took, and that the reader is done with */
	uint64_t done;

	struct worker workers[FETCH_THREADS_MAX];
	unsigned threads;
	struct slot slots[SLOTS_MAX];
	unsigned slot_count;

	size_t file; /* the reader's; count + 1 before the first */
	size_t at;   /* in the first slot */
	uint64_t bytes;
};

/* ---- the threads ---- */

/* Waits for room and takes the next part; NULL when there is none or all shall end. */
static struct slot *take_part(struct fetch *fetch)
{
	struct slot *slot = NULL;
	pthread_mutex_lock(&fetch->lock);
	while (!fetch->stopping && fetch->next_file < fetch->count &&
		fetch->taken - fetch->done == fetch->slot_count) {
		pthread_cond_wait(&fetch->changed, &fetch->lock);
	}
	if (!fetch->stopping && fetch->next_file < fetch->count) {
		uint64_t left = fetch->files[fetch->next_file].file.size - fetch->next_offset;
		slot = &fetch->slots[fetch->taken++ % fetch->slot_count];
		*slot = (struct slot){.file = fetch->next_file, .offset = fetch->next_offset};
		slot->len = left < FETCH_PART_BYTES ? (size_t)left : FETCH_PART_BYTES;
		fetch->next_offset += slot->len;
		if (fetch->next_offset >= fetch->files[fetch->next_file].file.size) {
			fetch->next_file++;
			fetch->next_offset = 0;
		}
	}
	pthread_mutex_unlock(&fetch->lock);
	return slot;
}

static int fill(void *ctx, const void *bytes, size_t len)
{
	struct slot *slot = ctx;
	if (len > slot->len - slot->filled) {
		return REPLICA_CORRUPT; /* more than was asked for */
	}
	memcpy(slot->bytes + slot->filled, bytes, len);
	slot->filled += len;
	return 0;
}

static int open_replica(struct worker *worker, struct replica_error *ret_error)
{
	struct replica *replica = NULL;
	int rc =
		worker->replica != NULL ? 0 : replica_open(worker->fetch->url, &replica, ret_error);
	if (replica != NULL) {
		pthread_mutex_lock(&worker->fetch->lock);
		worker->replica = replica;
		pthread_mutex_unlock(&worker->fetch->lock);
	}
	return rc;
}

/* The file's own words are the reader's; a thread looks for the first part into its copy. */
static int ask(struct worker *worker, struct slot *slot)
{
	struct plan_file *file = &worker->fetch->files[slot->file];
	int rc = open_replica(worker, &slot->error);
	if (rc == 0 && slot->offset == 0 && !file->looked) {
		rc = replica_look(worker->replica, file->file.level, file->file.min_txid,
			file->file.max_txid, NULL, &file->record, &file->known, &slot->error);
		file->looked = rc == 0;
	}
	if (rc == 0) {
		slot->filled = 0;
		rc = replica_get(worker->replica, &file->file, slot->offset, slot->len, fill, slot,
			&slot->error);
	}
	if (rc == 0 && slot->filled != slot->len) {
		snprintf(slot->error.text, sizeof slot->error.text,
			"%s: a file is shorter than listed", replica_url(worker->replica));
		rc = REPLICA_CORRUPT;
	}
	return rc;
}

/* True if there is time for another try; waits before it. */
static bool wait_a_little(struct fetch *fetch, uint64_t until_us, uint64_t wait_ms)
{
	struct timespec until;
	if (clock_now_us() + wait_ms * 1000 > until_us) {
		return false;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(wait_ms / 1000);
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&fetch->lock);
	int rc = 0;
	while (!fetch->stopping && rc == 0) {
		rc = pthread_cond_timedwait(&fetch->changed, &fetch->lock, &until);
	}
	bool again = !fetch->stopping;
	pthread_mutex_unlock(&fetch->lock);
	return again;
}

static void fetch_part(struct worker *worker, struct slot *slot)
{
	struct fetch *fetch = worker->fetch;
	uint64_t until_us = clock_now_us() + fetch->patience_ms * 1000;
	uint64_t wait_ms = WAIT_MS_MIN;
	slot->bytes = malloc(slot->len > 0 ? slot->len : 1);
	slot->rc = slot->bytes == NULL ? -ENOMEM : ask(worker, slot);
	while (slot->rc == REPLICA_AGAIN) {
		uint64_t asked_ms = slot->error.retry_after_ms;
		if (!wait_a_little(fetch, until_us, asked_ms > wait_ms ? asked_ms : wait_ms)) {
			break;
		}
		wait_ms = wait_ms * 2 < WAIT_MS_MAX ? wait_ms * 2 : WAIT_MS_MAX;
		slot->rc = ask(worker, slot);
	}
	pthread_mutex_lock(&fetch->lock);
	slot->ready = true;
	pthread_cond_broadcast(&fetch->changed);
	pthread_mutex_unlock(&fetch->lock);
}

static void *work(void *ctx)
{
	struct worker *worker = ctx;
	for (struct slot *slot = take_part(worker->fetch); slot != NULL;
		slot = take_part(worker->fetch)) {
		fetch_part(worker, slot);
	}
	return NULL;
}

/* ---- life ---- */

static int start(struct fetch *fetch, unsigned threads)
{
	for (unsigned i = 0; i < threads; i++) {
		struct worker *worker = &fetch->workers[i];
		worker->fetch = fetch;
		if (pthread_create(&worker->thread, NULL, work, worker) != 0) {
			break;
		}
		fetch->threads++;
	}
	return fetch->threads > 0 ? 0 : -EAGAIN;
}

int fetch_new(const char *url, const struct plan_file *const *files, size_t count, unsigned threads,
	uint64_t patience_ms, struct fetch **ret_fetch)
{
	pthread_condattr_t monotonic;
	struct fetch *fetch = calloc(1, sizeof *fetch);
	if (fetch == NULL) {
		return -ENOMEM;
	}
	pthread_mutex_init(&fetch->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&fetch->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	threads = threads < 1 ? 1 : threads > FETCH_THREADS_MAX ? FETCH_THREADS_MAX : threads;
	fetch->slot_count = 2 * threads;
	fetch->patience_ms = patience_ms;
	fetch->count = count;
	fetch->file = SIZE_MAX;
	fetch->url = strdup(url);
	fetch->files = calloc(count + 1, sizeof *fetch->files);
	int rc = fetch->url == NULL || fetch->files == NULL ? -ENOMEM : 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		fetch->files[i] = *files[i];
	}
	rc = rc == 0 ? start(fetch, threads) : rc;
	if (rc != 0) {
		fetch_free(fetch);
		return rc;
	}
	*ret_fetch = fetch;
	return 0;
}

void fetch_free(struct fetch *fetch)
{
	if (fetch == NULL) {
		return;
	}
	pthread_mutex_lock(&fetch->lock);
	fetch->stopping = true;
	for (unsigned i = 0; i < fetch->threads; i++) {
		if (fetch->workers[i].replica != NULL) {
			replica_interrupt(fetch->workers[i].replica);
		}
	}
	pthread_cond_broadcast(&fetch->changed);
	pthread_mutex_unlock(&fetch->lock);
	for (unsigned i = 0; i < fetch->threads; i++) {
		pthread_join(fetch->workers[i].thread, NULL);
		replica_free(fetch->workers[i].replica);
	}
	for (unsigned i = 0; i < fetch->slot_count; i++) {
		free(fetch->slots[i].bytes);
	}
	pthread_cond_destroy(&fetch->changed);
	pthread_mutex_destroy(&fetch->lock);
	free(fetch->files);
	free(fetch->url);
	free(fetch);
}

/* ---- the reader ---- */

/* The first part that is not done, when it is there; NULL after the last one. */
static struct slot *first_part(struct fetch *fetch)
{
	struct slot *slot = &fetch->slots[fetch->done % fetch->slot_count];
	pthread_mutex_lock(&fetch->lock);
	bool more = fetch->done < fetch->taken || fetch->next_file < fetch->count;
	while (more && (fetch->done == fetch->taken || !slot->ready)) {
		pthread_cond_wait(&fetch->changed, &fetch->lock);
	}
	pthread_mutex_unlock(&fetch->lock);
	return more ? slot : NULL;
}

static void give_back(struct fetch *fetch, struct slot *slot)
{
	pthread_mutex_lock(&fetch->lock);
	free(slot->bytes);
	*slot = (struct slot){0};
	fetch->done++;
	fetch->at = 0;
	pthread_cond_broadcast(&fetch->changed);
	pthread_mutex_unlock(&fetch->lock);
}

int fetch_next(
	struct fetch *fetch, const struct plan_file **ret_file, struct replica_error *ret_error)
{
	struct slot *slot = first_part(fetch);
	while (slot != NULL && slot->file == fetch->file) {
		give_back(fetch, slot);
		slot = first_part(fetch);
	}
	if (slot == NULL) {
		return -ENODATA;
	}
	fetch->file = slot->file;
	*ret_file = &fetch->files[slot->file];
	if (slot->rc != 0) {
		*ret_error = slot->error;
	}
	return slot->rc;
}

size_t fetch_read(
	struct fetch *fetch, void *bytes, size_t len, int *ret_rc, struct replica_error *ret_error)
{
	*ret_rc = 0;
	struct slot *slot = first_part(fetch);
	while (slot != NULL && slot->file == fetch->file && fetch->at == slot->filled &&
		slot->rc == 0) {
		give_back(fetch, slot);
		slot = first_part(fetch);
	}
	if (slot == NULL || slot->file != fetch->file) {
		return 0;
	}
	if (slot->rc != 0) {
		*ret_error = slot->error;
		*ret_rc = slot->rc;
		return 0;
	}
	size_t left = slot->filled - fetch->at;
	len = len < left ? len : left;
	memcpy(bytes, slot->bytes + fetch->at, len);
	fetch->at += len;
	fetch->bytes += len;
	return len;
}

uint64_t fetch_bytes(const struct fetch *fetch)
{
	return fetch->bytes;
}
