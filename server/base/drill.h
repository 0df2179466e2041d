/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the daemon and its drill process say to each other, and what is kept of a drill. Both are the
 * same build, so the structs themselves go over the socket: an order down, a report up, one at a
 * time.
 *
 * Verdicts: pass, it was restored and is equal; fail, it cannot be restored, or is not equal, or not
 * what it should be; inconclusive, nobody can tell.
 */

#include "server/base/notice.h"

#include <stdbool.h>
#include <stdint.h>

enum drill_verdict { DRILL_PASS, DRILL_FAIL, DRILL_INCONCLUSIVE, DRILL_VERDICTS };
const char *drill_verdict_name(enum drill_verdict verdict);
bool drill_verdict_parse(const char *name, enum drill_verdict *ret_verdict);

enum {
	DRILL_PATH_BYTES = 4096,
	DRILL_URL_BYTES = 2048,
	DRILL_REASON_BYTES = 700,
	DRILL_TABLES_BYTES = 4000,
	DRILL_ERROR_BYTES = 200,
	DRILL_DIGEST_BYTES = 16,
	DRILLS_KEPT = 100, /* rows in the database, and in memory */
};

enum drill_step {
	DRILL_STEP_HASH,    /* the database's file, which nobody writes to meanwhile */
	DRILL_STEP_RESTORE, /* the replica, and everything that is asked of the result */
};

struct drill_order {
	enum drill_step step;
	char db[DRILL_PATH_BYTES];
	char replica[DRILL_URL_BYTES];
	uint64_t commit_no; /* where both are compared */
	uint8_t digest[DRILL_DIGEST_BYTES];
	char spool[DRILL_PATH_BYTES];      /* where what it asks of the replica is counted */
	char dir[DRILL_PATH_BYTES];        /* to restore into; it is made, and removed again */
	uint64_t keep_free;                /* bytes of its disk that are not to be used */
	char assertions[DRILL_PATH_BYTES]; /* a file of SELECTs, or "" */
	char heartbeat[DRILL_URL_BYTES];   /* asked for after a pass, or "" */
	char heartbeat_fail[DRILL_URL_BYTES];
};

struct drill_report {
	enum drill_step step;
	enum drill_verdict verdict;
	char reason[DRILL_REASON_BYTES];
	uint8_t digest[DRILL_DIGEST_BYTES]; /* DRILL_STEP_HASH; all else is of the restore */
	uint64_t commit_no;
	uint64_t txid;
	int64_t rto_ms;
	uint64_t files;
	uint64_t bytes; /* read from the replica */
	uint64_t database_bytes;
	uint64_t violations; /* rows without their parent */
	uint64_t assertions;
	char tables[DRILL_TABLES_BYTES]; /* {"table":rows,…}, or "" if that is too long */
	char heartbeat_error[DRILL_ERROR_BYTES];
};

/* What is kept: a row of _lf_drill. */
struct drill_record {
	uint64_t id;
	bool scheduled;                 /* else somebody asked for it */
	char replica[NOTICE_URL_BYTES]; /* without secrets */
	int64_t began_ms;               /* wall clock */
	int64_t ended_ms;
	enum drill_verdict verdict;
	char reason[DRILL_REASON_BYTES];
	uint64_t
		commit_no; /* of the live database, where both were compared; 0: it never came to that */
	bool has_digest;
	uint8_t digest[DRILL_DIGEST_BYTES]; /* of the live database */
	uint64_t txid;
	uint64_t behind; /* commits that the replica did not have when the drill began … */
	int64_t rpo_ms;  /* … and the age of the oldest of them */
	int64_t ship_ms; /* until the replica had commit_no */
	int64_t rto_ms;  /* the restore took */
	uint64_t bytes;
	uint64_t database_bytes;
	uint64_t violations;
	uint64_t assertions;
	char tables[DRILL_TABLES_BYTES];
};
