/* SPDX-License-Identifier: MIT */

/* How the replicas are, in words. */

#include "server/cli/status_replicas.h"

#include "server/cli/answer.h"
#include "server/cli/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { FAILING_S_MAX = 60, LAG_MS_MAX = 60000 };

/* The columns of the table, by their names: more may be added on either side. */
static struct print_value cell(const lf_reply *reply, size_t row, const char *name)
{
	for (unsigned column = 0; column < lf_reply_columns(reply, 0); column++) {
		if (strcmp(lf_reply_column(reply, 0, column), name) == 0) {
			return answer_value(reply, 0, row, column);
		}
	}
	return (struct print_value){.type = LF_NULL, .data = ""};
}

static bool is(struct print_value value, const char *text)
{
	return value.data != NULL && value.len == strlen(text) &&
		memcmp(value.data, text, value.len) == 0;
}

bool status_replicas_well(const lf_reply *replicas, char *ret_reason, size_t bytes)
{
	for (size_t row = 0; row < lf_reply_rows(replicas, 0); row++) {
		struct print_value url = cell(replicas, row, "url");
		struct print_value state = cell(replicas, row, "state");
		struct print_value error = cell(replicas, row, "error");
		int64_t failing_s = cell(replicas, row, "failing_s").integer;
		int64_t lag_ms = cell(replicas, row, "lag_ms").integer;
		bool refused = is(state, "refused");
		if (!refused && failing_s <= FAILING_S_MAX && lag_ms <= LAG_MS_MAX) {
			continue;
		}
		if (refused || failing_s > FAILING_S_MAX) {
			snprintf(ret_reason, bytes, "the replica %.*s %s: %.*s", (int)url.len,
				url.data, refused ? "is refused" : "fails", (int)error.len,
				error.data);
		} else {
			snprintf(ret_reason, bytes, "the replica %.*s is %.0f s behind",
				(int)url.len, url.data, (double)lag_ms / 1000);
		}
		return false;
	}
	return true;
}

static double mib(const lf_reply *replicas, size_t row, const char *name)
{
	return (double)cell(replicas, row, name).integer / 1048576;
}

/* What it costs; nothing of a daemon that does not tell. */
static void print_usage(const lf_reply *replicas, size_t row)
{
	struct print_value today = cell(replicas, row, "requests_today");
	if (today.type != LF_NULL) {
		printf("           today %" PRId64 " requests, %.1f MiB; this month %" PRId64
		       " requests, %.1f MiB\n",
			today.integer, mib(replicas, row, "bytes_today"),
			cell(replicas, row, "requests_month").integer,
			mib(replicas, row, "bytes_month"));
	}
}

static void print_one(const lf_reply *replicas, size_t row)
{
	struct print_value url = cell(replicas, row, "url");
	struct print_value error = cell(replicas, row, "error");
	int64_t commit = cell(replicas, row, "commit").integer;
	int64_t behind = cell(replicas, row, "behind").integer;
	int64_t percent = cell(replicas, row, "percent").integer;
	printf("replica    %.*s: ", (int)url.len, url.data);
	if (is(cell(replicas, row, "state"), "refused")) {
		printf("refused");
	} else if (commit == 0) {
		printf("first snapshot %" PRId64 " %%", percent);
	} else if (behind == 0) {
		printf("shipped to commit %" PRId64, commit);
	} else {
		printf("shipped to commit %" PRId64 ", %" PRId64 " commits behind, %.1f s", commit,
			behind, (double)cell(replicas, row, "lag_ms").integer / 1000);
	}
	if (error.len > 0) {
		printf("; %.*s", (int)error.len, error.data);
	}
	putchar('\n');
	print_usage(replicas, row);
}

void status_replicas_print(const lf_reply *replicas, const char *db)
{
	size_t best = 0;
	for (size_t row = 0; row < lf_reply_rows(replicas, 0); row++) {
		print_one(replicas, row);
		bool newer = cell(replicas, row, "commit").integer >
			cell(replicas, best, "commit").integer;
		best = newer ? row : best;
	}
	if (lf_reply_rows(replicas, 0) > 0) {
		struct print_value url = cell(replicas, best, "url");
		printf("restore    litefunnel restore '%.*s' -o %s\n", (int)url.len, url.data, db);
	}
}

void status_replicas_json(const lf_reply *replicas)
{
	fputs(",\"replicas\":[", stdout);
	for (size_t row = 0; row < lf_reply_rows(replicas, 0); row++) {
		fputs(row > 0 ? ",{" : "{", stdout);
		for (unsigned column = 0; column < lf_reply_columns(replicas, 0); column++) {
			struct print_value value = answer_value(replicas, 0, row, column);
			fputs(column > 0 ? "," : "", stdout);
			text_json_cstr(stdout, lf_reply_column(replicas, 0, column));
			fputc(':', stdout);
			print_json_value(stdout, &value);
		}
		fputc('}', stdout);
	}
	fputc(']', stdout);
}
