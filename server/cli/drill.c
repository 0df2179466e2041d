/* SPDX-License-Identifier: MIT */

/*
 * litefunnel drill: proves that a replica can be restored, by restoring it. What keeps it honest: it
 * works from the replica alone, and says `pass` only for what it has seen.
 */

#include "client/litefunnel.h"
#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/inspect.h"
#include "server/cli/options.h"
#include "server/cli/print.h"
#include "server/cli/recover.h"
#include "server/cli/replicas.h"
#include "server/cli/scratch.h"
#include "server/cli/text.h"
#include "server/cli/when.h"
#include "server/ship/heartbeat.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
	"usage: litefunnel drill URL|DB [--assert SQL]... [options]\n"
	"\n"
	"Restores the newest point of a replica into a directory that is removed again, from the\n"
	"replica alone, and looks: every checksum and SHA-256, the digest that the live database had,\n"
	"integrity_check, foreign_key_check, rows in each table, and your own questions. With DB the\n"
	"replicas are those of its settings, and how far the replica is behind DB is told.\n"
	"\n"
	"  --assert SQL      a SELECT whose first column must be true in every row, and that must\n"
	"                    have one; may be given several times\n"
	"  --commit N        restore the newest point at or before commit N\n"
	"  --digest HEX      the digest of the live database at commit N: both must be equal there\n"
	"  --dir DIRECTORY   where to restore to [TMPDIR, or /var/tmp]\n"
	"  --heartbeat URL   GET it after a pass (not otherwise: who waits for it raises the alarm)\n"
	"  --config FILE     the settings of DB [LITEFUNNEL_CONFIG, /etc/litefunnel/NAME.conf]\n"
	"  --json            print an object\n"
	"  --help            this text\n"
	"\n"
	"The verdict is pass, fail, or inconclusive: the replica does not answer, or there is less\n"
	"than 1.2 times the space that is needed. Damage fails a drill even where the restore got\n"
	"around it. Rows without their parent are counted, and are no failure: the live database has\n"
	"them too.\n"
	"\n"
	"Exit codes: 0 pass, 1 fail, 2 usage, 4 inconclusive.\n";

enum {
	OPTION_HELP,
	OPTION_ASSERT,
	OPTION_COMMIT,
	OPTION_DIGEST,
	OPTION_DIR,
	OPTION_HEARTBEAT,
	OPTION_CONFIG,
	OPTION_JSON,
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"assert", required_argument, NULL, OPTION_ASSERT},
	{"commit", required_argument, NULL, OPTION_COMMIT},
	{"digest", required_argument, NULL, OPTION_DIGEST},
	{"dir", required_argument, NULL, OPTION_DIR},
	{"heartbeat", required_argument, NULL, OPTION_HEARTBEAT},
	{"config", required_argument, NULL, OPTION_CONFIG},
	{"json", no_argument, NULL, OPTION_JSON},
	{NULL, 0, NULL, 0},
};

enum { ASSERTIONS_MAX = 100 };

enum verdict { VERDICT_PASS, VERDICT_FAIL, VERDICT_INCONCLUSIVE };

static const char *const verdict_names[] = {"pass", "fail", "inconclusive"};
static const enum cli_code verdict_codes[] = {CLI_DONE, CLI_FAILED, CLI_UNREACHABLE};

struct drill {
	const char *source;
	const char *config;
	const char *dir;
	const char *heartbeat;
	const char *assertions[ASSERTIONS_MAX];
	size_t assertion_count;
	bool has_digest;
	uint8_t digest[RECORD_DIGEST_BYTES];
	bool json;

	struct replicas replicas;
	struct recover recover;
	struct scratch scratch;

	enum verdict verdict;
	char reason[INSPECT_TEXT_BYTES + 200];
	int64_t began_ms;
	bool restored;
	uint64_t orphans; /* rows without their parent */
	json_t *tables;   /* name -> rows */
	bool has_live;    /* DB could be read: its newest commit when the drill began */
	uint64_t live_commit;
};

/* The worst that was found stays; the first reason for it is told. */
__attribute__((format(printf, 3, 4))) static void judge(
	struct drill *drill, enum verdict verdict, const char *format, ...)
{
	bool worse = drill->verdict == VERDICT_PASS ||
		(drill->verdict == VERDICT_INCONCLUSIVE && verdict == VERDICT_FAIL);
	if (!worse) {
		return;
	}
	va_list args;
	va_start(args, format);
	drill->verdict = verdict;
	vsnprintf(drill->reason, sizeof drill->reason, format, args);
	va_end(args);
}

/* ---- options ---- */

static int take_value(struct drill *drill, int option)
{
	char *end = NULL;
	switch (option) {
	case OPTION_ASSERT:
		if (drill->assertion_count == ASSERTIONS_MAX) {
			return cli_usage("drill", "more than %d assertions", ASSERTIONS_MAX);
		}
		drill->assertions[drill->assertion_count++] = optarg;
		return 0;
	case OPTION_COMMIT:
		drill->recover.target = (struct plan_target){
			.kind = PLAN_COMMIT, .number = strtoull(optarg, &end, 10)};
		return *end == '\0' && drill->recover.target.number > 0
			? 0
			: cli_usage("drill", "--commit takes a number, not \"%s\"", optarg);
	case OPTION_DIGEST:
		drill->has_digest = true;
		return strlen(optarg) == 2 * RECORD_DIGEST_BYTES &&
				text_from_hex(optarg, strlen(optarg), drill->digest)
			? 0
			: cli_usage(
				  "drill", "--digest takes %d hex digits", 2 * RECORD_DIGEST_BYTES);
	case OPTION_DIR:
		drill->dir = optarg;
		return 0;
	case OPTION_HEARTBEAT:
		drill->heartbeat = optarg;
		return 0;
	case OPTION_CONFIG:
		drill->config = optarg;
		return 0;
	case OPTION_JSON:
		drill->json = true;
		return 0;
	default:
		return CLI_USAGE;
	}
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct drill *drill, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD || take_value(drill, option) != 0) {
			return CLI_USAGE;
		}
	}
	drill->source = options_db(options, 0);
	if (drill->source == NULL || options_finish(options) != 0) {
		return CLI_USAGE;
	}
	if (drill->has_digest && drill->recover.target.kind != PLAN_COMMIT) {
		return cli_usage("drill", "--digest is that of a commit: --commit N");
	}
	return -1;
}

/* ---- the drill ---- */

/* What the live database was at when the drill began: whatever is newer was not its task. */
static void look_at_live(struct drill *drill)
{
	lf_db *db = NULL;
	if (replicas_is_url(drill->source)) {
		return;
	}
	if (lf_open(drill->source, NULL, &db) == LF_OK) {
		drill->has_live = lf_snapshot(db, NULL, &drill->live_commit) == 0;
	}
	lf_close(db);
}

static void restore(struct drill *drill)
{
	uint64_t space = scratch_free_bytes(&drill->scratch);
	drill->recover.command = "drill";
	drill->recover.replicas = &drill->replicas;
	drill->recover.path = drill->scratch.file;
	drill->recover.quiet = drill->json;
	drill->recover.bytes_max = space == UINT64_MAX ? 0 : space / 12 * 10 + 1;
	int rc = recover_run(&drill->recover);
	drill->restored = rc == 0;
	if (rc == -ENOSPC) {
		judge(drill, VERDICT_INCONCLUSIVE,
			"%s has %.1f MiB free, which is less than 1.2 times the database (cure: --dir)",
			drill->scratch.dir, (double)space / 1048576);
	} else if (rc == RESTORE_UNREACHABLE || rc < 0) {
		judge(drill, VERDICT_INCONCLUSIVE, "%s", drill->recover.error);
	} else if (rc != 0) {
		judge(drill, VERDICT_FAIL, "%s", drill->recover.error);
	} else if (drill->recover.result.damaged > 0) {
		judge(drill, VERDICT_FAIL, "%s", drill->recover.result.damage);
	}
}

static void compare(struct drill *drill)
{
	const struct restore_point *point = &drill->recover.result.point;
	if (!drill->has_digest) {
		return;
	}
	if (!point->known || point->commit != drill->recover.target.number) {
		judge(drill, VERDICT_INCONCLUSIVE,
			"the newest restore point is not commit %" PRIu64
			": nothing to compare with",
			drill->recover.target.number);
	} else if (!point->has_digest ||
		memcmp(point->digest, drill->digest, RECORD_DIGEST_BYTES) != 0) {
		judge(drill, VERDICT_FAIL, "restored and live database differ at commit %" PRIu64,
			point->commit);
	}
}

static void count_table(void *ctx, const char *table_name, uint64_t rows)
{
	struct drill *drill = ctx;
	json_object_set_new(drill->tables, table_name, json_integer((json_int_t)rows));
}

static void look_into(struct drill *drill)
{
	struct inspect *inspect = NULL;
	char text[INSPECT_TEXT_BYTES] = "out of memory";
	int rc = inspect_open(drill->scratch.file, &inspect, text);
	rc = rc == 0 ? inspect_integrity(inspect, INSPECT_FULL, text) : rc;
	rc = rc == 0 ? inspect_foreign_keys(inspect, &drill->orphans, text) : rc;
	rc = rc == 0 ? inspect_tables(inspect, count_table, drill, text) : rc;
	if (rc != 0) {
		judge(drill, VERDICT_FAIL, "%s", text);
	}
	for (size_t i = 0; rc == 0 && i < drill->assertion_count; i++) {
		if (inspect_assert(inspect, drill->assertions[i], text) != 0) {
			judge(drill, VERDICT_FAIL, "%.200s: %s", drill->assertions[i], text);
		}
	}
	inspect_close(inspect);
}

/* ---- what is said ---- */

static uint64_t behind(const struct drill *drill)
{
	uint64_t commit = drill->recover.result.point.commit;
	return drill->has_live && drill->live_commit > commit ? drill->live_commit - commit : 0;
}

/* How much would have been lost: from the restored point to the beginning of the drill. */
static int64_t rpo_ms(const struct drill *drill)
{
	int64_t ms = drill->began_ms - drill->recover.result.point.committed_ms;
	return behind(drill) > 0 && ms > 0 ? ms : 0;
}

static void print_json(const struct drill *drill)
{
	char began[WHEN_TEXT_BYTES];
	when_text(drill->began_ms, began);
	printf("{\"verdict\":\"%s\",\"reason\":", verdict_names[drill->verdict]);
	text_json_cstr(stdout, drill->reason);
	printf(",\"began\":\"%s\",\"began_ms\":%" PRId64 ",\"replica\":", began, drill->began_ms);
	text_json_cstr(stdout, drill->recover.url != NULL ? drill->recover.url : "");
	if (drill->restored) {
		const struct restore_result *result = &drill->recover.result;
		char *tables = json_dumps(drill->tables, JSON_COMPACT);
		recover_point_json(&result->point);
		printf(",\"digest\":\"%s\",\"rto_s\":%.3f,\"files\":%zu,\"bytes\":%" PRIu64
		       ",\"database_bytes\":%" PRIu64 ",\"foreign_key_violations\":%" PRIu64
		       ",\"assertions\":%zu,\"tables\":%s",
			result->point.has_digest ? "equal" : "none",
			(double)drill->recover.took_us / 1e6, result->files, result->bytes,
			(uint64_t)result->page_size * result->pages, drill->orphans,
			drill->assertion_count, tables != NULL ? tables : "{}");
		free(tables);
	}
	if (drill->restored && drill->has_live) {
		printf(",\"live_commit\":%" PRIu64 ",\"commits_behind\":%" PRIu64 ",\"rpo_s\":%.3f",
			drill->live_commit, behind(drill), (double)rpo_ms(drill) / 1000);
	}
	fputs("}\n", stdout);
}

static void print_lines(const struct drill *drill)
{
	char point[RECOVER_POINT_BYTES];
	const struct restore_result *result = &drill->recover.result;
	printf("%s%s%s\n", verdict_names[drill->verdict], drill->reason[0] != '\0' ? ": " : "",
		drill->reason);
	if (!drill->restored) {
		return;
	}
	recover_point_text(&result->point, point);
	printf("restored %s\n", point);
	printf("from     %s: %zu file%s, %.1f MiB\n", drill->recover.url, result->files,
		result->files == 1 ? "" : "s", (double)result->bytes / 1048576);
	printf("took     %.1f s for %.1f MiB of database (RTO)\n",
		(double)drill->recover.took_us / 1e6,
		(double)result->page_size * result->pages / 1048576);
	if (drill->has_live && behind(drill) == 0) {
		puts("behind   nothing: all commits of the live database are in it (RPO)");
	} else if (drill->has_live) {
		printf("behind   %" PRIu64 " commits, %.1f s (RPO)\n", behind(drill),
			(double)rpo_ms(drill) / 1000);
	}
	if (drill->orphans > 0) {
		printf("orphans  %" PRIu64 " rows without their parent (foreign_key_check)\n",
			drill->orphans);
	}
	const char *name = NULL;
	json_t *rows = NULL;
	json_object_foreach(drill->tables, name, rows)
	{
		printf("table    %s: %" JSON_INTEGER_FORMAT " rows\n", name,
			json_integer_value(rows));
	}
}

static void send_heartbeat(const struct drill *drill)
{
	char error[HEARTBEAT_ERROR_BYTES];
	if (drill->verdict == VERDICT_PASS && drill->heartbeat != NULL &&
		heartbeat(drill->heartbeat, error) != 0) {
		fprintf(stderr, "litefunnel drill: warning: the heartbeat failed: %s\n", error);
	}
}

/* ---- the command ---- */

static int run(struct drill *drill)
{
	int code = scratch_begin(&drill->scratch, "drill", drill->dir);
	if (code != CLI_DONE) {
		return CLI_UNREACHABLE;
	}
	drill->began_ms = (int64_t)(clock_wall_us() / 1000);
	look_at_live(drill);
	restore(drill);
	if (drill->restored) {
		compare(drill);
		look_into(drill);
	}
	if (drill->json) {
		print_json(drill);
	} else {
		print_lines(drill);
	}
	send_heartbeat(drill);
	code = (int)verdict_codes[drill->verdict];
	return print_flush("drill") != 0 && code == CLI_DONE ? CLI_FAILED : code;
}

int cli_drill(int argc, char **argv)
{
	struct drill drill = {0};
	struct options options;
	options_init(&options, "drill", table, argc, argv);
	int code = parse(&drill, &options);
	if (code >= 0) {
		return code;
	}
	drill.tables = json_object();
	code = replicas_find("drill", drill.source, drill.config, &drill.replicas);
	code = code == 0 ? run(&drill) : code;
	scratch_finish(&drill.scratch);
	replicas_finish(&drill.replicas);
	json_decref(drill.tables);
	return code;
}
