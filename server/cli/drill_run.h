/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A drill itself: a replica is restored into a scratch directory and looked at. For the command, and
 * for the process that the daemon starts.
 */

#include "server/base/drill.h"
#include "server/cli/inspect.h"
#include "server/cli/recover.h"
#include "server/cli/scratch.h"

#include <jansson.h>

struct drill_run {
	const struct replicas *replicas;
	struct plan_target target;
	const char *const *assertions; /* SELECTs that must be true */
	size_t assertions_count;
	const char *script; /* a file of such SELECTs, or NULL */
	bool has_digest;    /* the live database had it at the target, a commit */
	uint8_t digest[RECORD_DIGEST_BYTES];
	const struct scratch *scratch;
	uint64_t keep_free; /* bytes of the scratch's disk that are not to be used */
	bool quiet;

	/* what came of it */
	enum drill_verdict verdict;
	char reason[DRILL_REASON_BYTES];
	struct recover recover;
	bool restored;
	uint64_t violations; /* rows without their parent */
	uint64_t asked;      /* assertions */
	json_t *tables;      /* name -> rows; to be given back with json_decref() */
};

/* The worst that is found becomes the verdict; the first reason for it is kept. */
void drill_run(struct drill_run *run);
