/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A restore into a file, for the commands that need one: it chooses among several replicas, looks
 * at the result through SQLite, and shows how far it is.
 */

#include "server/cli/inspect.h"
#include "server/cli/replicas.h"
#include "server/ship/restore.h"

#include <stdbool.h>
#include <stdint.h>

struct recover {
	const char *command; /* for what is said on stderr */
	const struct replicas *replicas;
	struct plan_target target;
	const char *path; /* the file to be made; must not exist */
	bool to_last_good;
	bool quiet; /* no bar, also on a terminal */
	unsigned threads;
	uint64_t bytes_max; /* a larger database is -ENOSPC; 0: no limit */

	/* what came of it */
	const char *url;
	struct restore_result result;
	char error[REPLICA_ERROR_BYTES + 200];
	uint64_t took_us;
	uint64_t shown_us; /* the bar */
};

enum { RECOVER_PATIENCE_MS = 30000 };

/*
 * 0 and the file; a restore_condition or negative errno and no file. RESTORE_DAMAGED with
 * to_last_good is 0 with result.short_of_it.
 */
int recover_run(struct recover *recover);

/* The exit code of a result other than 0, with what is to be said about it on stderr. */
int recover_report(const struct recover *recover, int rc);

/* "commit 7 (segment 0000000000000003, of 2026-…)", as far as it is known. */
enum { RECOVER_POINT_BYTES = 160 };
void recover_point_text(const struct restore_point *point, char ret_text[RECOVER_POINT_BYTES]);

/* ,"commit":…,"txid":…,"committed":…,"epoch":… of an object that is being printed. */
void recover_point_json(const struct restore_point *point);
