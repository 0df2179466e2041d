/* SPDX-License-Identifier: MIT */

/*
 * From the replicas of a database to a file of it. What it keeps true: of several replicas the one
 * that reaches furthest is taken, and that another one could not be asked is said.
 */

#include "server/cli/recover.h"

#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/text.h"
#include "server/cli/when.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BAR_EVERY_US 200000

/* ---- the bar ---- */

static void show_progress(void *ctx, uint64_t done, uint64_t total)
{
	struct recover *recover = ctx;
	uint64_t now_us = clock_now_us();
	if (recover->quiet || now_us - recover->shown_us < BAR_EVERY_US || total == 0) {
		return;
	}
	recover->shown_us = now_us;
	done = done < total ? done : total;
	char bar[31];
	size_t filled = (size_t)(done * 30 / total);
	memset(bar, ' ', sizeof bar - 1);
	memset(bar, '=', filled);
	bar[sizeof bar - 1] = '\0';
	fprintf(stderr, "\r[%s] %3u %%  %.1f of %.1f MiB ", bar, (unsigned)(done * 100 / total),
		(double)done / 1048576, (double)total / 1048576);
}

static void end_progress(const struct recover *recover)
{
	if (recover->shown_us != 0) {
		fputs("\r\033[K", stderr);
	}
}

/* ---- one replica ---- */

static int inspect_result(void *ctx, const char *path, const struct restore_point *point,
	char ret_why[RESTORE_DAMAGE_BYTES])
{
	struct inspect *inspect = NULL;
	bool ours = false;
	uint64_t commit = 0;
	(void)ctx;
	int rc = inspect_open(path, &inspect, ret_why);
	rc = rc == 0 ? inspect_commit(inspect, &ours, &commit, ret_why) : rc;
	inspect_close(inspect);
	if (rc == 0 && ours && point->known && commit != point->commit) {
		snprintf(ret_why, RESTORE_DAMAGE_BYTES,
			"its record says commit %" PRIu64 ", but the database is at %" PRIu64,
			point->commit, commit);
		return 1;
	}
	return rc;
}

static struct restore_options options_for(struct recover *recover, const char *url)
{
	return (struct restore_options){
		.url = url,
		.target = recover->target,
		.path = recover->path,
		.threads = recover->threads,
		.patience_ms = RECOVER_PATIENCE_MS,
		.bytes_max = recover->bytes_max,
		.progress = show_progress,
		.inspect = inspect_result,
		.ctx = recover,
	};
}

static int try_one(struct recover *recover, const char *url)
{
	struct replica_error error;
	struct restore_options options = options_for(recover, url);
	recover->url = url;
	recover->shown_us = 0;
	int rc = restore_run(&options, &recover->result, &error);
	end_progress(recover);
	snprintf(recover->error, sizeof recover->error, "%s", error.text);
	if (rc == RESTORE_DAMAGED && recover->result.point.txid != 0 && recover->to_last_good) {
		return 0;
	}
	if (rc == RESTORE_DAMAGED) {
		unlink(recover->path);
	}
	return rc;
}

/* ---- several ---- */

struct candidate {
	const char *url;
	uint64_t txid;
	int rc;
	char error[REPLICA_ERROR_BYTES];
};

/* By how far they reach; in the order given if that is the same. */
static void rank(struct candidate *candidates, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		for (size_t j = i; j > 0 && candidates[j].txid > candidates[j - 1].txid; j--) {
			struct candidate swap = candidates[j];
			candidates[j] = candidates[j - 1];
			candidates[j - 1] = swap;
		}
	}
}

static void ask_all(struct recover *recover, struct candidate *candidates)
{
	for (size_t i = 0; i < recover->replicas->count; i++) {
		struct candidate *candidate = &candidates[i];
		struct restore_options options = options_for(recover, recover->replicas->urls[i]);
		struct replica_error error;
		candidate->url = options.url;
		candidate->rc = restore_ask(&options, &candidate->txid, &error);
		snprintf(candidate->error, sizeof candidate->error, "%s", error.text);
	}
}

/* The worst that was found says what can be claimed: an empty one proves nothing beside a silent one. */
static int no_candidate(struct recover *recover, const struct candidate *candidates, size_t count)
{
	const struct candidate *worst = &candidates[0];
	for (size_t i = 1; i < count; i++) {
		if (candidates[i].rc < 0 ||
			(worst->rc >= 0 && candidates[i].rc == RESTORE_UNREACHABLE)) {
			worst = &candidates[i];
		}
	}
	recover->url = worst->url;
	snprintf(recover->error, sizeof recover->error, "%s", worst->error);
	return worst->rc;
}

static int try_all(struct recover *recover)
{
	struct candidate candidates[REPLICAS_MAX] = {0};
	size_t count = recover->replicas->count;
	const char *best = NULL;
	uint64_t best_txid = 0;
	bool to_last_good = recover->to_last_good;
	int rc = RESTORE_UNREACHABLE;
	ask_all(recover, candidates);
	rank(candidates, count);
	if (candidates[0].rc != 0) {
		return no_candidate(recover, candidates, count);
	}
	recover->to_last_good = false; /* first, whether one of them is whole */
	for (size_t i = 0; i < count && rc != 0; i++) {
		if (candidates[i].rc != 0) {
			fprintf(stderr, "litefunnel %s: warning: left out %s: %s\n",
				recover->command, candidates[i].url, candidates[i].error);
			continue;
		}
		rc = try_one(recover, candidates[i].url);
		if (rc == RESTORE_DAMAGED && recover->result.point.txid > best_txid) {
			best = candidates[i].url;
			best_txid = recover->result.point.txid;
		}
		if (rc != 0) {
			fprintf(stderr, "litefunnel %s: warning: %s: %s\n", recover->command,
				recover->url, recover->error);
		}
	}
	recover->to_last_good = to_last_good;
	return rc != 0 && best != NULL ? try_one(recover, best) : rc;
}

int recover_run(struct recover *recover)
{
	uint64_t began_us = clock_now_us();
	recover->quiet = recover->quiet || isatty(STDERR_FILENO) == 0;
	int rc = recover->replicas->count == 1 ? try_one(recover, recover->replicas->urls[0])
					       : try_all(recover);
	recover->took_us = clock_now_us() - began_us;
	return rc;
}

/* ---- words ---- */

void recover_point_text(const struct restore_point *point, char ret_text[RECOVER_POINT_BYTES])
{
	char time[WHEN_TEXT_BYTES];
	when_text(point->committed_ms, time);
	if (point->txid == 0) {
		snprintf(ret_text, RECOVER_POINT_BYTES, "nothing");
	} else if (point->known) {
		snprintf(ret_text, RECOVER_POINT_BYTES,
			"commit %" PRIu64 " (segment %016" PRIx64 ", of %s)", point->commit,
			point->txid, time);
	} else {
		snprintf(ret_text, RECOVER_POINT_BYTES,
			"segment %016" PRIx64 " (of %s, written by Litestream)", point->txid, time);
	}
}

void recover_point_json(const struct restore_point *point)
{
	char time[WHEN_TEXT_BYTES];
	printf(",\"txid\":\"%016" PRIx64 "\"", point->txid);
	if (point->txid != 0) {
		when_text(point->committed_ms, time);
		printf(",\"committed\":\"%s\"", time);
	}
	if (point->txid != 0 && point->known) {
		printf(",\"commit\":%" PRIu64 ",\"epoch\":\"", point->commit);
		text_hex(stdout, point->epoch, sizeof point->epoch);
		fputc('"', stdout);
	}
}

int recover_report(const struct recover *recover, int rc)
{
	char point[RECOVER_POINT_BYTES];
	const struct restore_point *good = &recover->result.point;
	cli_fail(recover->command, "%s", recover->error);
	if (rc == RESTORE_DAMAGED && good->txid != 0) {
		recover_point_text(good, point);
		fprintf(stderr,
			"The last that is good before it is %s: --to-last-good restores that, "
			"--at, --commit or --txid an older one.\n",
			point);
	} else if (rc == RESTORE_DAMAGED) {
		fputs("Nothing before it can be restored either.\n", stderr);
	}
	if (rc == -EINVAL) {
		return CLI_USAGE; /* of the URL */
	}
	return rc == RESTORE_UNREACHABLE || rc < 0 ? CLI_UNREACHABLE : CLI_FAILED;
}
