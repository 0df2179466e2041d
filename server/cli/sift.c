/* SPDX-License-Identifier: MIT */

/*
 * What this file keeps true: nothing is committed but after each of its answers was seen. A refused row
 * is no trouble; whatever else goes wrong breaks the whole, and the caller has its own way to do it over.
 */

#include "server/cli/sift.h"

#include "server/base/cleanup.h"
#include "server/cli/connect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* What is sent before the first row. */
enum { SENT_BEGIN, SENT_MARK, SENT_ROWS };

static const char mark_sql[] = "SELECT 1 WHERE lf_mark(?) = ?";

/* SQLite has undone that statement alone, and the rest stands. */
static bool is_refusal(const struct sift *sift, size_t number, const lf_reply *reply)
{
	const char *code = lf_reply_code(reply);
	return number >= SENT_ROWS && sift->refused_count < SIFT_ROWS &&
		lf_lease_open(sift->lease) &&
		(strcmp(code, "sql") == 0 || strcmp(code, "too_large") == 0);
}

static void take(struct sift *sift, int result, const lf_reply *reply)
{
	size_t number = sift->answered++;
	if (result == LF_OK) {
		sift->changes += number >= SENT_ROWS ? (uint64_t)lf_reply_changes(reply, 0) : 0;
	} else if (result == LF_FAILED && is_refusal(sift, number, reply)) {
		struct sift_refusal *refusal = &sift->refused[sift->refused_count++];
		refusal->row = number - SENT_ROWS;
		snprintf(refusal->why, sizeof(refusal->why), "%s", lf_reply_message(reply));
	} else {
		sift->broken = true;
	}
}

/* Waits for the oldest answer. */
static int collect(struct sift *sift)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int result = lf_wait(sift->db, sift->tickets[sift->answered % SIFT_AHEAD], &reply);
	if (result < 0) {
		return result;
	}
	take(sift, result, reply);
	return 0;
}

static int send_step(struct sift *sift, const lf_batch *step)
{
	int rc = sift->sent - sift->answered == SIFT_AHEAD ? collect(sift) : 0;
	if (rc == 0) {
		rc = lf_lease_submit_step(
			sift->lease, step, &sift->tickets[sift->sent % SIFT_AHEAD]);
	}
	sift->sent += rc == 0;
	return rc == 1 ? -EAGAIN : rc; /* the library takes more than that */
}

int sift_begin(struct sift *sift, lf_db *db, const char *mark, uint64_t from)
{
	struct lf_lease_options options = LF_LEASE_OPTIONS_INIT;
	options.request_class = "bulk";
	*sift = (struct sift){.db = db};
	lf_batch *guard = lf_batch_new();
	if (guard == NULL) {
		return -ENOMEM;
	}
	lf_batch_step(guard, mark_sql);
	lf_bind_text(guard, mark, -1);
	lf_bind_int64(guard, (int64_t)from);
	lf_expect_rows(guard, 1);
	int rc = lf_lease_submit_begin(db, &options, &sift->lease, &sift->tickets[0]);
	sift->sent += rc == 0;
	rc = rc == 0 ? send_step(sift, guard) : rc == 1 ? -EAGAIN : rc;
	lf_batch_free(guard);
	return rc;
}

int sift_row(struct sift *sift, const lf_batch *row)
{
	return sift->broken ? 0 : send_step(sift, row);
}

int sift_look(struct sift *sift)
{
	int rc = 0;
	while (rc == 0 && sift->answered < sift->sent) {
		rc = collect(sift);
	}
	return rc;
}

int sift_commit(struct sift *sift, const lf_batch *last, enum sift_end *ret_end)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	size_t refused = sift->refused_count;
	uint64_t changes = sift->changes;
	int rc = sift_row(sift, last);
	rc = rc == 0 ? sift_look(sift) : rc;
	sift->changes = changes;
	*ret_end = SIFT_BROKEN;
	if (rc != 0 || sift->broken || sift->refused_count > refused) {
		return rc;
	}
	int result = lf_lease_commit(sift->lease, &reply);
	if (result < 0) {
		return result;
	}
	sift->unshipped = connect_unshipped(reply);
	*ret_end = result == LF_OK ? SIFT_DONE : result == LF_UNKNOWN ? SIFT_UNKNOWN : SIFT_BROKEN;
	return 0;
}

void sift_finish(struct sift *sift)
{
	lf_lease_free(sift->lease);
	sift->lease = NULL;
	(void)sift_look(sift); /* no ticket is left behind */
}
