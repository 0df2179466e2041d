/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A place that segments are shipped to: a directory (file:///path) or a bucket
 * (s3://bucket/prefix?endpoint=…&region=…&force-path-style=true). The layout is Litestream's: a
 * directory has ltx/LEVEL/NAME, a bucket PREFIX/%04x/NAME. Level 0 holds the segments as they were
 * shipped, 1 to 3 what compaction merged, 9 snapshots.
 *
 * Every function blocks, and belongs to one thread at a time per handle; a process may have several
 * handles of one replica. Time limits and retries of a single request are inside; waiting out an
 * outage is the caller's: a result REPLICA_AGAIN says so and how long to wait.
 *
 * Results: 0; a positive replica_condition, with a sentence in the error that names the replica
 * (never a secret); negative errno for what no caller can handle.
 */

#include "server/ship/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct replica;

enum {
	REPLICA_ERROR_BYTES = 400,
	REPLICA_LEVEL_MAX = 9,
	REPLICA_SNAPSHOT_LEVEL = 9,
};

enum replica_condition {
	REPLICA_AGAIN = 1, /* unreachable, slow, 5xx, 429, no space: later it may work */
	REPLICA_EXISTS,    /* put: there is another file of that name, and it is not this one */
	REPLICA_MISSING,   /* get, look: there is no such file */
	REPLICA_DENIED,    /* credentials, permissions, no such bucket: somebody must mend it */
	REPLICA_CORRUPT,   /* the answer cannot be what was stored */
	REPLICA_UNFENCED,  /* probe: the store ignores conditions */
};

struct replica_error {
	char text[REPLICA_ERROR_BYTES];
	uint64_t retry_after_ms; /* asked for by the store, or 0 */
	bool gone; /* what it held is not there any more: somebody has taken it away */
};

struct replica_stats {
	uint64_t requests[5]; /* by enum replica_request, retries included */
	uint64_t bytes_sent;
	uint64_t bytes_received;
};
enum replica_request { REQUEST_PUT, REQUEST_GET, REQUEST_HEAD, REQUEST_LIST, REQUEST_DELETE };

/* One file of a replica. */
struct replica_file {
	int level;
	uint64_t min_txid;
	uint64_t max_txid;
	uint64_t size;
	int64_t created_ms; /* what Litestream goes by: mtime, object metadata or LastModified */
};

/*
 * -EINVAL: the URL is none that we know; the error says what is wrong with it. An ack=1 in it is said to
 * the daemon, and not looked at.
 */
int replica_open(const char *url, struct replica **ret_replica, struct replica_error *ret_error);
void replica_free(struct replica *replica);

/*
 * From now on whatever this process asks of replicas is counted in this directory (usage.h), by all
 * handles that are opened later. For the start of a process; the string must stay.
 */
void replica_count_usage(const char *spool);

/* The URL without secrets, for people. */
const char *replica_url(const struct replica *replica);

/* Totals since it was opened; any thread. */
struct replica_stats replica_stats(const struct replica *replica);

/*
 * True if the directory of a replica is not there. Asks nothing of a store: a bucket is never known to
 * be gone.
 */
bool replica_vanished(const struct replica *replica);

/* What was there and is not any more may be made anew. */
void replica_forget(struct replica *replica);

/*
 * Makes an unfinished request end soon, also one of another thread: it and all later ones return
 * REPLICA_AGAIN. For stopping.
 */
void replica_interrupt(struct replica *replica);

/*
 * Finds out whether the store keeps create-only promises: 0 or REPLICA_UNFENCED. After the latter
 * this handle puts without conditions, and only looks before it does: one daemon must be alone.
 */
int replica_probe(struct replica *replica, struct replica_error *ret_error);

/*
 * Creates a file with the bytes of `fd` from 0 to `size`, never over another one. What is there
 * already and equals it (our own upload whose answer was lost: same writer, same SHA-256) counts
 * as done. timestamp_ms is the time of its header. 0, REPLICA_EXISTS, REPLICA_AGAIN,
 * REPLICA_DENIED. After 0 the file is durable.
 */
int replica_put(struct replica *replica, int level, uint64_t min_txid, uint64_t max_txid, int fd,
	uint64_t size, int64_t timestamp_ms, const struct record *record,
	struct replica_error *ret_error);

/* Takes bytes in order: 0, or a result that ends the transfer and is passed up. */
typedef int (*replica_sink)(void *ctx, const void *bytes, size_t len);

/*
 * Bytes from `offset`, at most `len` (UINT64_MAX: to the end). A transfer that breaks is taken up
 * again where it broke. REPLICA_MISSING, REPLICA_AGAIN, REPLICA_CORRUPT.
 */
int replica_get(struct replica *replica, const struct replica_file *file, uint64_t offset,
	uint64_t len, replica_sink sink, void *ctx, struct replica_error *ret_error);

/*
 * What is known of a file. *ret_known false: it has no record of ours, it was written by
 * Litestream. ret_file may be NULL; it is completed with size and created_ms. REPLICA_MISSING.
 */
int replica_look(struct replica *replica, int level, uint64_t min_txid, uint64_t max_txid,
	struct replica_file *ret_file, struct record *ret_record, bool *ret_known,
	struct replica_error *ret_error);

/*
 * The files of a level whose min_txid is at least `from`, in the order of their names; also over
 * thousands. A result other than 0 of fn ends it and is passed up; fn must not use this handle. created_ms may be of the
 * listing only; replica_look() is exact.
 */
int replica_list(struct replica *replica, int level, uint64_t from,
	int (*fn)(void *ctx, const struct replica_file *file), void *ctx,
	struct replica_error *ret_error);

/* Removes exactly that file, its sidecar last. Missing is 0. */
int replica_delete(
	struct replica *replica, const struct replica_file *file, struct replica_error *ret_error);

/* False if there is not even a place that could hold something: no such directory. */
bool replica_is_there(const struct replica *replica);

/* The sentence about a replica in which no file was found. */
void replica_say_empty(const struct replica *replica, struct replica_error *ret_error);

/* True if there is anything of Litestream 0.3 (`generations/`), which stock restore would prefer. */
int replica_has_generations(
	struct replica *replica, bool *ret_has, struct replica_error *ret_error);
