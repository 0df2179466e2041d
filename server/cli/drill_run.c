/* SPDX-License-Identifier: MIT */

/*
 * What is kept true: `pass` is said only for what was seen; `fail` only where nothing on this side
 * can be to blame.
 */

#include "server/cli/drill_run.h"

#include "server/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCRIPT_BYTES_MAX = 1024 * 1024 };

__attribute__((format(printf, 3, 4))) static void judge(
	struct drill_run *run, enum drill_verdict verdict, const char *format, ...)
{
	bool worse = run->verdict == DRILL_PASS ||
		(run->verdict == DRILL_INCONCLUSIVE && verdict == DRILL_FAIL);
	if (!worse) {
		return;
	}
	va_list args;
	va_start(args, format);
	run->verdict = verdict;
	vsnprintf(run->reason, sizeof run->reason, format, args);
	va_end(args);
}

/* What an answer of inspect.h is worth: it is damage, or this process that has no memory. */
static enum drill_verdict verdict_of(int rc)
{
	return rc < 0 ? DRILL_INCONCLUSIVE : DRILL_FAIL;
}

static void restore(struct drill_run *run)
{
	uint64_t space = scratch_free_bytes(run->scratch);
	struct recover *recover = &run->recover;
	if (space != UINT64_MAX) {
		space = space > run->keep_free ? space - run->keep_free : 0;
	}
	recover->command = "drill";
	recover->replicas = run->replicas;
	recover->target = run->target;
	recover->path = run->scratch->file;
	recover->quiet = run->quiet;
	recover->bytes_max = space == UINT64_MAX ? 0 : space / 12 * 10 + 1;
	int rc = recover_run(recover);
	run->restored = rc == 0;
	if (rc == -ENOSPC) {
		judge(run, DRILL_INCONCLUSIVE,
			"%s has %.1f MiB free, which is less than 1.2 times the database (cure: %s)",
			run->scratch->dir, (double)space / 1048576,
			run->keep_free > 0 ? "setting drill_dir" : "--dir");
	} else if (rc == RESTORE_UNREACHABLE || rc < 0) {
		judge(run, DRILL_INCONCLUSIVE, "%s", recover->error);
	} else if (rc != 0) {
		judge(run, DRILL_FAIL, "%s", recover->error);
	} else if (recover->result.damaged > 0) {
		judge(run, DRILL_FAIL, "%s", recover->result.damage);
	}
}

static void compare(struct drill_run *run)
{
	const struct restore_point *point = &run->recover.result.point;
	if (!run->has_digest) {
		return;
	}
	if (!point->known || point->commit != run->target.number) {
		judge(run, DRILL_INCONCLUSIVE,
			"the newest restore point is not commit %" PRIu64
			": nothing to compare with",
			run->target.number);
	} else if (!point->has_digest ||
		memcmp(point->digest, run->digest, RECORD_DIGEST_BYTES) != 0) {
		judge(run, DRILL_FAIL, "restored and live database differ at commit %" PRIu64,
			point->commit);
	}
}

static void count_table(void *ctx, const char *table_name, uint64_t rows)
{
	struct drill_run *run = ctx;
	json_object_set_new(run->tables, table_name, json_integer((json_int_t)rows));
}

/* The file's text. NULL: it was said why. */
static char *read_script(struct drill_run *run)
{
	struct stat status;
	CLEANUP_FD int fd = open(run->script, O_RDONLY | O_CLOEXEC);
	bool good = fd >= 0 && fstat(fd, &status) == 0 && status.st_size <= SCRIPT_BYTES_MAX;
	size_t len = good ? (size_t)status.st_size : 0;
	char *text = good ? calloc(1, len + 1) : NULL;
	if (text != NULL && read(fd, text, len) == (ssize_t)len) {
		return text;
	}
	judge(run, DRILL_INCONCLUSIVE, "the assertions in %s cannot be read: %s", run->script,
		fd >= 0 && !good ? "more than 1 MiB" : strerror(errno));
	free(text);
	return NULL;
}

static void ask(struct drill_run *run, struct inspect *inspect)
{
	char text[INSPECT_TEXT_BYTES] = "out of memory";
	CLEANUP_FREE char *script = run->script != NULL ? read_script(run) : NULL;
	for (size_t i = 0; i < run->assertions_count; i++) {
		int rc = inspect_assert(inspect, run->assertions[i], text);
		run->asked++;
		if (rc != 0) {
			judge(run, verdict_of(rc), "%.200s: %s", run->assertions[i], text);
		}
	}
	int rc = script != NULL ? inspect_assert_all(inspect, script, &run->asked, text) : 0;
	if (rc != 0) {
		judge(run, verdict_of(rc), "%s", text);
	}
}

static void look_into(struct drill_run *run)
{
	struct inspect *inspect = NULL;
	char text[INSPECT_TEXT_BYTES] = "out of memory";
	int rc = inspect_open(run->scratch->file, &inspect, text);
	rc = rc == 0 ? inspect_integrity(inspect, INSPECT_FULL, text) : rc;
	rc = rc == 0 ? inspect_foreign_keys(inspect, &run->violations, text) : rc;
	rc = rc == 0 ? inspect_tables(inspect, count_table, run, text) : rc;
	if (rc != 0) {
		judge(run, verdict_of(rc), "%s", text);
	} else {
		ask(run, inspect);
	}
	inspect_close(inspect);
}

void drill_run(struct drill_run *run)
{
	run->tables = json_object();
	restore(run);
	if (run->restored) {
		compare(run);
		look_into(run);
	}
}
