/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The spool: the directory DB-ship, where everything that is to be shipped stands durably first.
 *
 *	lock                   held by flock for the shipper's life, never removed
 *	position               where the chain stands: how much of the database is in it
 *	writers                who has written to this spool, one after the other
 *	used-HASH              the replica of that URL has had something
 *	had-HASH               … and up to which commit, when last it was known
 *	parts                  WAL frames that are not yet in a segment (parts.h)
 *	segments/NAME.ltx      segments in the order of their numbers, and NAME.record beside each
 *	images/NAME.ltx        files of all pages, for a replica that lacks segments, and snapshots
 *
 * A file appears by rename after its content and before its name are durable. Without `position`
 * there is no chain: the next one begins with all pages. Whoever breaks the chain removes it first (chain_break()).
 *
 * Functions belong to one thread at a time, but opening, listing and removing files may be done by
 * any. Results: 0; SPOOL_MISSING; SPOOL_LOCKED; negative errno.
 */

#include "server/ship/digest.h"
#include "server/ship/ltx.h"
#include "server/ship/record.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spool;

enum { SPOOL_USED_BYTES = 32 };

enum spool_condition {
	SPOOL_MISSING = 1,
	SPOOL_LOCKED, /* another shipper has it */
};

/* Where the chain stands: after which frame of the WAL, and what the last segment was. */
struct position {
	uint8_t epoch[RECORD_ID_BYTES];
	uint32_t page_size;
	uint32_t pages; /* of the database there */
	uint32_t salt[2];
	uint32_t checksum[2]; /* of the frame */
	uint64_t frame;
	uint64_t commit_no;
	int64_t committed_ms;
	uint64_t txid;        /* of the newest segment */
	int64_t timestamp_ms; /* of it: they never decrease */
	uint8_t sha256[RECORD_SHA256_BYTES];
	struct digest digest; /* of the database there */
};

enum spool_kind { SPOOL_SEGMENTS, SPOOL_IMAGES };

struct spool_file {
	uint64_t min_txid;
	uint64_t max_txid;
	uint64_t bytes;
};

int spool_open(const char *dir, struct spool **ret_spool);
void spool_free(struct spool *spool); /* accepts NULL */
const char *spool_dir(const struct spool *spool);

int spool_position_read(struct spool *spool, struct position *ret_position);
int spool_position_write(struct spool *spool, const struct position *position);

/*
 * What becomes of a chain that ends: the number that it had come to, kept for the last 64 epochs. 0: this spool has had no
 * chain in that epoch, or it is not known any more.
 */
int spool_bury(struct spool *spool, const struct position *position);
uint64_t spool_buried_txid(struct spool *spool, const uint8_t epoch[RECORD_ID_BYTES]);

/*
 * The writers that this spool has had: whether a segment in a replica is of its own chain, or of a
 * copy's. Each start of a shipper is a new one.
 */
int spool_add_writer(struct spool *spool, const uint8_t writer[RECORD_ID_BYTES]);
bool spool_has_writer(struct spool *spool, const uint8_t writer[RECORD_ID_BYTES]);

/*
 * That a replica has had something from this spool: a file used-HASH, durable. One that is empty later
 * was emptied, or is not there. ret_name is the file's.
 */
int spool_mark_used(struct spool *spool, const char *url);
bool spool_was_used(struct spool *spool, const char *url, char ret_name[SPOOL_USED_BYTES]);

/*
 * The newest commit that a replica is known to have, and when it was made; {0}: none. Not durable: what a power loss
 * takes back makes a lag longer, never shorter.
 */
struct spool_had {
	uint64_t commit_no;
	int64_t committed_ms;
};
int spool_note_had(struct spool *spool, const char *url, const struct spool_had *had);
struct spool_had spool_had(struct spool *spool, const char *url);

/* ---- files ---- */

struct outgoing;

/* A file that is being made; `outgoing_write` takes its bytes. */
int spool_create(struct spool *spool, enum spool_kind kind, struct outgoing **ret_outgoing);
int outgoing_write(void *ctx, const void *bytes, size_t len); /* an ltx_sink */

/* Ends it, fills in record->sha256, and gives it its name. The outgoing is freed in any case. */
int outgoing_commit(
	struct outgoing *outgoing, uint64_t min_txid, uint64_t max_txid, struct record *record);
void outgoing_abandon(struct outgoing *outgoing); /* accepts NULL */

/* The files of a kind in order; free() them. */
int spool_list(struct spool *spool, enum spool_kind kind, struct spool_file **ret_files,
	size_t *ret_count);

/* A descriptor to read from, and what is known of the file. */
int spool_get(struct spool *spool, enum spool_kind kind, uint64_t min_txid, uint64_t max_txid,
	int *ret_fd, uint64_t *ret_bytes, struct record *ret_record);
int spool_remove(struct spool *spool, enum spool_kind kind, uint64_t min_txid, uint64_t max_txid);
