/* SPDX-License-Identifier: MIT */

/*
 * litefunnel drill: proves that a replica can be restored, by restoring it: here, or, with --live, by
 * the daemon, which compares it with the database that it serves. What keeps it honest: it works from
 * the replica alone, and says `pass` only for what it has seen.
 */

#include "client/litefunnel.h"
#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/drill_run.h"
#include "server/cli/drills.h"
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
	"       litefunnel drill DB --live [--json] [--deadline T] [--socket PATH]\n"
	"\n"
	"Restores the newest point of a replica into a directory that is removed again, from the\n"
	"replica alone, and looks: every checksum and SHA-256, the digest that the live database had,\n"
	"integrity_check, foreign_key_check, rows in each table, and your own questions. With DB the\n"
	"replicas are those of its settings, and how far the replica is behind DB is told.\n"
	"\n"
	"  --live            the daemon of DB drills each of its replicas, as it does on schedule\n"
	"                    (setting drill_every): the live database is read at one of its commits,\n"
	"                    and what is restored must be equal to it. It is recorded, and `show DB\n"
	"                    drills` lists it. The settings drill_… take the place of the options\n"
	"  --assert SQL      a SELECT whose first column must be true in every row, and that must\n"
	"                    have one; may be given several times\n"
	"  --assert-file FILE  a file of such SELECTs, each ended by a semicolon\n"
	"  --commit N        restore the newest point at or before commit N\n"
	"  --digest HEX      the digest of the live database at commit N: both must be equal there\n"
	"  --dir DIRECTORY   where to restore to [TMPDIR, or /var/tmp]\n"
	"  --heartbeat URL   GET it after a pass (not otherwise: who waits for it raises the alarm)\n"
	"  --heartbeat-fail URL  GET it after a fail\n"
	"  --deadline T      with --live: wait for 500ms, 30s, 5m, 2h [24h]\n"
	"  --socket PATH     with --live: the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
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
	OPTION_ASSERT_FILE,
	OPTION_COMMIT,
	OPTION_DIGEST,
	OPTION_DIR,
	OPTION_HEARTBEAT,
	OPTION_HEARTBEAT_FAIL,
	OPTION_LIVE,
	OPTION_CONFIG,
	OPTION_JSON,
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"assert", required_argument, NULL, OPTION_ASSERT},
	{"assert-file", required_argument, NULL, OPTION_ASSERT_FILE},
	{"commit", required_argument, NULL, OPTION_COMMIT},
	{"digest", required_argument, NULL, OPTION_DIGEST},
	{"dir", required_argument, NULL, OPTION_DIR},
	{"heartbeat", required_argument, NULL, OPTION_HEARTBEAT},
	{"heartbeat-fail", required_argument, NULL, OPTION_HEARTBEAT_FAIL},
	{"live", no_argument, NULL, OPTION_LIVE},
	{"config", required_argument, NULL, OPTION_CONFIG},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

enum { ASSERTIONS_MAX = 100, DEADLINE_MS = 24 * 3600 * 1000 };

static const enum cli_code verdict_codes[] = {CLI_DONE, CLI_FAILED, CLI_UNREACHABLE};

struct drill {
	const char *source;
	const char *config;
	const char *dir;
	const char *heartbeat;
	const char *heartbeat_fail;
	const char *assertions[ASSERTIONS_MAX];
	struct connect connect;
	bool live;
	bool here; /* an option was given that is for a drill of this process */
	bool json;

	struct replicas replicas;
	struct scratch scratch;
	struct drill_run run;
	int64_t began_ms;
	bool has_live; /* DB could be read: its newest commit when the drill began */
	uint64_t live_commit;
};

/* ---- options ---- */

static int take_value(struct drill *drill, int option)
{
	char *end = NULL;
	struct drill_run *run = &drill->run;
	drill->here |=
		option != OPTION_LIVE && option != OPTION_JSON && option < CONNECT_OPTION_SOCKET;
	switch (option) {
	case OPTION_ASSERT:
		if (run->assertions_count == ASSERTIONS_MAX) {
			return cli_usage("drill", "more than %d assertions", ASSERTIONS_MAX);
		}
		drill->assertions[run->assertions_count++] = optarg;
		return 0;
	case OPTION_ASSERT_FILE:
		run->script = optarg;
		return 0;
	case OPTION_COMMIT:
		run->target = (struct plan_target){
			.kind = PLAN_COMMIT, .number = strtoull(optarg, &end, 10)};
		return *end == '\0' && run->target.number > 0
			? 0
			: cli_usage("drill", "--commit takes a number, not \"%s\"", optarg);
	case OPTION_DIGEST:
		run->has_digest = true;
		return strlen(optarg) == 2 * RECORD_DIGEST_BYTES &&
				text_from_hex(optarg, strlen(optarg), run->digest)
			? 0
			: cli_usage(
				  "drill", "--digest takes %d hex digits", 2 * RECORD_DIGEST_BYTES);
	case OPTION_DIR:
		drill->dir = optarg;
		return 0;
	case OPTION_HEARTBEAT:
		drill->heartbeat = optarg;
		return 0;
	case OPTION_HEARTBEAT_FAIL:
		drill->heartbeat_fail = optarg;
		return 0;
	case OPTION_LIVE:
		drill->live = true;
		return 0;
	case OPTION_CONFIG:
		drill->config = optarg;
		return 0;
	case OPTION_JSON:
		drill->json = true;
		return 0;
	default:
		return connect_option(&drill->connect, option);
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
	if (drill->live && (drill->here || replicas_is_url(drill->source))) {
		return cli_usage("drill",
			drill->here ? "--live goes by the daemon's settings drill_…"
				    : "--live takes the path of a database");
	}
	if (drill->run.has_digest && drill->run.target.kind != PLAN_COMMIT) {
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

/* ---- what is said ---- */

static uint64_t behind(const struct drill *drill)
{
	uint64_t commit = drill->run.recover.result.point.commit;
	return drill->has_live && drill->live_commit > commit ? drill->live_commit - commit : 0;
}

/* How much would have been lost: from the restored point to the beginning of the drill. */
static int64_t rpo_ms(const struct drill *drill)
{
	int64_t ms = drill->began_ms - drill->run.recover.result.point.committed_ms;
	return behind(drill) > 0 && ms > 0 ? ms : 0;
}

static void print_json(const struct drill *drill)
{
	char began[WHEN_TEXT_BYTES];
	when_text(drill->began_ms, began);
	printf("{\"verdict\":\"%s\",\"reason\":", drill_verdict_name(drill->run.verdict));
	text_json_cstr(stdout, drill->run.reason);
	printf(",\"began\":\"%s\",\"began_ms\":%" PRId64 ",\"replica\":", began, drill->began_ms);
	text_json_cstr(stdout, drill->run.recover.url != NULL ? drill->run.recover.url : "");
	if (drill->run.restored) {
		const struct restore_result *result = &drill->run.recover.result;
		char *tables = json_dumps(drill->run.tables, JSON_COMPACT);
		recover_point_json(&result->point);
		printf(",\"digest\":\"%s\",\"rto_s\":%.3f,\"files\":%zu,\"bytes\":%" PRIu64
		       ",\"database_bytes\":%" PRIu64 ",\"foreign_key_violations\":%" PRIu64
		       ",\"assertions\":%zu,\"tables\":%s",
			result->point.has_digest ? "equal" : "none",
			(double)drill->run.recover.took_us / 1e6, result->files, result->bytes,
			(uint64_t)result->page_size * result->pages, drill->run.violations,
			(size_t)drill->run.asked, tables != NULL ? tables : "{}");
		free(tables);
	}
	if (drill->run.restored && drill->has_live) {
		printf(",\"live_commit\":%" PRIu64 ",\"commits_behind\":%" PRIu64 ",\"rpo_s\":%.3f",
			drill->live_commit, behind(drill), (double)rpo_ms(drill) / 1000);
	}
	fputs("}\n", stdout);
}

static void print_lines(const struct drill *drill)
{
	char point[RECOVER_POINT_BYTES];
	const struct restore_result *result = &drill->run.recover.result;
	printf("%s%s%s\n", drill_verdict_name(drill->run.verdict),
		drill->run.reason[0] != '\0' ? ": " : "", drill->run.reason);
	if (!drill->run.restored) {
		return;
	}
	recover_point_text(&result->point, point);
	printf("restored %s\n", point);
	printf("from     %s: %zu file%s, %.1f MiB\n", drill->run.recover.url, result->files,
		result->files == 1 ? "" : "s", (double)result->bytes / 1048576);
	printf("took     %.1f s for %.1f MiB of database (RTO)\n",
		(double)drill->run.recover.took_us / 1e6,
		(double)result->page_size * result->pages / 1048576);
	if (drill->has_live && behind(drill) == 0) {
		puts("behind   nothing: all commits of the live database are in it (RPO)");
	} else if (drill->has_live) {
		printf("behind   %" PRIu64 " commits, %.1f s (RPO)\n", behind(drill),
			(double)rpo_ms(drill) / 1000);
	}
	if (drill->run.violations > 0) {
		printf("orphans  %" PRIu64 " rows without their parent (foreign_key_check)\n",
			drill->run.violations);
	}
	const char *name = NULL;
	json_t *rows = NULL;
	json_object_foreach(drill->run.tables, name, rows)
	{
		printf("table    %s: %" JSON_INTEGER_FORMAT " rows\n", name,
			json_integer_value(rows));
	}
}

static void send_heartbeat(const struct drill *drill)
{
	char error[HEARTBEAT_ERROR_BYTES];
	const char *url = drill->run.verdict == DRILL_PASS ? drill->heartbeat
		: drill->run.verdict == DRILL_FAIL         ? drill->heartbeat_fail
							   : NULL;
	if (url != NULL && heartbeat(url, error) != 0) {
		fprintf(stderr, "litefunnel drill: warning: the heartbeat failed: %s\n", error);
	}
}

/* ---- the command ---- */

static int run_here(struct drill *drill)
{
	int code = scratch_begin(&drill->scratch, "drill", drill->dir);
	if (code != CLI_DONE) {
		return CLI_UNREACHABLE;
	}
	drill->began_ms = (int64_t)(clock_wall_us() / 1000);
	look_at_live(drill);
	drill->run.replicas = &drill->replicas;
	drill->run.assertions = drill->assertions;
	drill->run.scratch = &drill->scratch;
	drill->run.quiet = drill->json;
	drill_run(&drill->run);
	if (drill->json) {
		print_json(drill);
	} else {
		print_lines(drill);
	}
	send_heartbeat(drill);
	code = (int)verdict_codes[drill->run.verdict];
	return print_flush("drill") != 0 && code == CLI_DONE ? CLI_FAILED : code;
}

/* By the daemon. */
static int run_live(struct drill *drill)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	drill->connect.db = drill->source;
	int code = connect_open(&drill->connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_admin(db, "drill", &reply);
	if (result != LF_OK) {
		return connect_report(&drill->connect, db, result, reply);
	}
	code = (int)verdict_codes[drills_worst(reply)];
	if (drill->json) {
		drills_json(reply);
		putchar('\n');
	} else {
		drills_print(reply);
	}
	return print_flush("drill") != 0 && code == CLI_DONE ? CLI_FAILED : code;
}

int cli_drill(int argc, char **argv)
{
	struct drill drill = {.connect = {.command = "drill", .deadline_ms = DEADLINE_MS}};
	struct options options;
	options_init(&options, "drill", table, argc, argv);
	int code = parse(&drill, &options);
	if (code >= 0) {
		return code;
	}
	if (drill.live) {
		return run_live(&drill);
	}
	code = replicas_find("drill", drill.source, drill.config, &drill.replicas);
	code = code == 0 ? run_here(&drill) : code;
	scratch_finish(&drill.scratch);
	replicas_finish(&drill.replicas);
	json_decref(drill.run.tables);
	return code;
}
