/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A database file, made from a replica alone and proven: each file by its checksums and SHA-256, the
 * whole by the digest that the writer of the last segment knew, read back from the disk.
 *
 * What is damaged is gone around if other files lead to the same point. If none do, the result is
 * the last point that is good, and it is for the caller to be satisfied with that or not.
 *
 * Results: 0; a restore_condition with a sentence; negative errno for what happened on this side.
 */

#include "server/ship/plan.h"
#include "server/ship/replica.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum restore_condition {
	RESTORE_DAMAGED = 400, /* the point that was asked for is not to be had */
	RESTORE_EMPTY,         /* the replica answers, and holds no segment */
	RESTORE_NO_POINT,      /* it holds some, but no point at or before the target */
	RESTORE_UNREACHABLE,   /* nobody can tell: it does not answer, or does not let us in */
};

enum { RESTORE_DAMAGE_BYTES = 600, RESTORE_THREADS = 6 };

/* A restore point, and what its record says. */
struct restore_point {
	uint64_t txid; /* 0: none */
	bool known;    /* the rest is valid: litefunnel wrote it */
	uint64_t commit;
	int64_t committed_ms;
	uint8_t epoch[RECORD_ID_BYTES];
	bool has_digest;
	uint8_t digest[RECORD_DIGEST_BYTES];
};

struct restore_options {
	const char *url;
	struct plan_target target;
	const char *path;     /* the file to be made; must not exist */
	unsigned threads;     /* 0: RESTORE_THREADS */
	uint64_t patience_ms; /* how long a replica may be away */
	uint64_t bytes_max;   /* a larger database is -ENOSPC before it is written; 0: no limit */
	/* Bytes of so many that will be read; NULL: nobody wants to know. */
	void (*progress)(void *ctx, uint64_t done, uint64_t total);
	/*
	 * What only somebody with SQLite can see: whether the file is at the commit number of the
	 * point. 0, 1 with a sentence if it is not, negative errno. May be NULL.
	 */
	int (*inspect)(void *ctx, const char *path, const struct restore_point *point,
		char ret_why[RESTORE_DAMAGE_BYTES]);
	void *ctx;
};

struct restore_result {
	struct restore_point point;        /* where the file is */
	uint64_t wanted_txid;              /* what the target meant */
	uint64_t newest_txid;              /* the highest number that the replica held then */
	bool short_of_it;                  /* the point is before that */
	bool in_doubt;                     /* … or may be: a record that would tell is lost */
	char damage[RESTORE_DAMAGE_BYTES]; /* the first thing that was wrong; "" */
	unsigned damaged;                  /* files that were found damaged, or that do not fit */
	uint32_t page_size;
	uint32_t pages;
	size_t files;
	uint64_t bytes; /* read from the replica */
};

/*
 * 0: the file is there, closed and not synced; it is the target, or short of it with RESTORE_DAMAGED
 * (then the file is there too, at result->point). All else: there is no file.
 */
int restore_run(const struct restore_options *options, struct restore_result *ret_result,
	struct replica_error *ret_error);

/*
 * Only what the target means there: 0 and a txid, or as above. To choose among replicas, whose
 * numbers are the same.
 */
int restore_ask(
	const struct restore_options *options, uint64_t *ret_txid, struct replica_error *ret_error);

/* "0000000000000001-0000000000000009 of level 1", for messages. */
enum { RESTORE_NAME_BYTES = 64 };
void restore_name(const struct replica_file *file, char ret_name[RESTORE_NAME_BYTES]);
