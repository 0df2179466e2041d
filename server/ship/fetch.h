/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Files of a replica, read one after another as if from a local disk, while the next ones and the
 * next parts of a large one are already under way. Memory is bounded by FETCH_PART_BYTES for each
 * of twice as many parts as there are threads, whatever the size of the files.
 *
 * A store that does not answer is asked again until `patience_ms` have passed without an answer.
 *
 * Results: 0; a positive replica_condition with its sentence; negative errno.
 */

#include "server/ship/plan.h"
#include "server/ship/replica.h"

#include <stddef.h>
#include <stdint.h>

enum { FETCH_PART_BYTES = 4 * 1024 * 1024, FETCH_THREADS_MAX = 32 };

struct fetch;

/* Begins with the first file at once. The files are copied. -EAGAIN: no thread can be made. */
int fetch_new(const char *url, const struct plan_file *const *files, size_t count, unsigned threads,
	uint64_t patience_ms, struct fetch **ret_fetch);

/* Ends what is under way. Accepts NULL. */
void fetch_free(struct fetch *fetch);

/*
 * Turns to the next file, whatever is left of the last one, and completes its record. The pointer
 * is valid until the next call.
 */
int fetch_next(
	struct fetch *fetch, const struct plan_file **ret_file, struct replica_error *ret_error);

/* The bytes of the file, in order: how many (0: the end) or, through ret_rc, a result as above. */
size_t fetch_read(
	struct fetch *fetch, void *bytes, size_t len, int *ret_rc, struct replica_error *ret_error);

/* How many bytes have been handed out so far. */
uint64_t fetch_bytes(const struct fetch *fetch);
