/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Whether a replica is what it should be, file by file, read once from the first to the last byte:
 * checksums, SHA-256, names against headers, the digest of whatever holds all pages, and how the
 * records follow each other. That the increments lead to the right database, only a restore shows.
 *
 * Results: 0, also when something was found; RESTORE_EMPTY, RESTORE_UNREACHABLE with a sentence;
 * negative errno.
 */

#include "server/ship/restore.h"

struct verify_options {
	const char *url;
	unsigned threads; /* 0: RESTORE_THREADS */
	uint64_t patience_ms;
	/* A sentence for each thing that is not as it should be; it names the file. */
	void (*issue)(void *ctx, const char *sentence);
	void (*progress)(void *ctx, uint64_t done, uint64_t total); /* may be NULL */
	void *ctx;
};

struct verify_result {
	size_t files;
	uint64_t bytes;
	size_t digests; /* computed from all pages and found equal */
	size_t issues;
	size_t gone; /* removed by retention or compaction while they were read */
};

int verify_run(const struct verify_options *options, struct verify_result *ret_result,
	struct replica_error *ret_error);
