/* SPDX-License-Identifier: MIT */

/*
 * litefunnel restore: a database from its replica, in its place, proven. It knows the order of
 * things and the words; what is restored is recover.c's, what is put where is install.c's.
 */

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/follow.h"
#include "server/cli/inspect.h"
#include "server/cli/install.h"
#include "server/cli/options.h"
#include "server/cli/print.h"
#include "server/cli/recover.h"
#include "server/cli/replicas.h"
#include "server/cli/text.h"
#include "server/cli/when.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel restore URL -o OUT [--at TIME | --commit N | --txid HEX] [options]\n"
	"       litefunnel restore URL -o OUT --follow [--interval T] [options]\n"
	"       litefunnel restore DB [-o OUT] …\n"
	"\n"
	"Makes the database file OUT from a replica: file:///directory or s3://bucket/prefix. With DB\n"
	"the replicas are those of its settings, and OUT is DB itself unless -o says otherwise. The\n"
	"result is proven before it gets its name: every file by its checksums, the whole by the\n"
	"digest of the live database at that commit, and by quick_check. What is damaged is gone\n"
	"around if that is possible; if not, nothing is put into place and the last good commit is\n"
	"named. Replicas that Litestream 0.5 wrote are read too.\n"
	"\n"
	"  -o OUT              the file to make\n"
	"  --at TIME           the newest restore point at or before: 2026-11-22T10:42:07Z, 10:42,\n"
	"                      \"2 hours ago\"\n"
	"  --commit N          the newest restore point at or before commit N, of the newest epoch\n"
	"                      that has one; exit 1 if a record that is lost may hide a nearer one\n"
	"  --txid HEX          exactly the end of that segment\n"
	"  --to-last-good      be satisfied with the last good commit of a damaged replica\n"
	"  --force             OUT may exist: it is moved to OUT.before-TIME with all that belongs to\n"
	"                      it, unless a daemon or anybody else has it open\n"
	"  --if-db-not-exists  do nothing, and exit with 0, if OUT exists\n"
	"  --if-replica-exists do nothing, and exit with 0, if the replica holds nothing\n"
	"  --follow            go on until told to end: OUT becomes a read-only copy that follows the\n"
	"                      replica. Open it with mode=ro: a reader always sees a whole commit, and\n"
	"                      waits for nobody. An OUT that followed before is taken up again\n"
	"  --interval T        how often the replica is asked, a request each time [1s]\n"
	"  --integrity-check C none, quick or full [quick]\n"
	"  --parallelism N     requests under way at a time [6]\n"
	"  --config FILE       the settings of DB [LITEFUNNEL_CONFIG, /etc/litefunnel/NAME.conf]\n"
	"  --json              print an object\n"
	"  --help              this text\n"
	"\n"
	"Litestream's -timestamp and one dash instead of two are understood. A daemon that serves\n"
	"OUT afterwards begins a new epoch, so that clients which know newer commits are told.\n"
	"\n"
	"Exit codes: 0 proven, 1 bad or refused, 2 usage, 4 could not tell.\n";

enum {
	OPTION_HELP = 256,
	OPTION_AT,
	OPTION_COMMIT,
	OPTION_TXID,
	OPTION_TO_LAST_GOOD,
	OPTION_FORCE,
	OPTION_IF_DB_NOT_EXISTS,
	OPTION_IF_REPLICA_EXISTS,
	OPTION_FOLLOW,
	OPTION_INTERVAL,
	OPTION_CHECK,
	OPTION_PARALLELISM,
	OPTION_CONFIG,
	OPTION_JSON,
};

static const struct option table[] = {
	{"output", required_argument, NULL, 'o'},
	{"at", required_argument, NULL, OPTION_AT},
	{"timestamp", required_argument, NULL, OPTION_AT},
	{"commit", required_argument, NULL, OPTION_COMMIT},
	{"txid", required_argument, NULL, OPTION_TXID},
	{"to-last-good", no_argument, NULL, OPTION_TO_LAST_GOOD},
	{"force", no_argument, NULL, OPTION_FORCE},
	{"if-db-not-exists", no_argument, NULL, OPTION_IF_DB_NOT_EXISTS},
	{"if-replica-exists", no_argument, NULL, OPTION_IF_REPLICA_EXISTS},
	{"follow", no_argument, NULL, OPTION_FOLLOW},
	{"interval", required_argument, NULL, OPTION_INTERVAL},
	{"integrity-check", required_argument, NULL, OPTION_CHECK},
	{"parallelism", required_argument, NULL, OPTION_PARALLELISM},
	{"config", required_argument, NULL, OPTION_CONFIG},
	{"json", no_argument, NULL, OPTION_JSON},
	{"help", no_argument, NULL, OPTION_HELP},
	{NULL, 0, NULL, 0},
};

struct restoring {
	const char *source; /* URL or database */
	const char *out;
	const char *config;
	bool force;
	bool if_db_not_exists;
	bool if_replica_exists;
	bool follow;
	unsigned interval_ms;
	enum inspect_depth depth;
	bool json;
	struct replicas replicas;
	struct recover recover;
	struct install install;
};

/* ---- options ---- */

static bool take_number(const char *text, int base, uint64_t *ret_number)
{
	char *end = NULL;
	errno = 0;
	unsigned long long number = strtoull(text, &end, base);
	*ret_number = number;
	return text[0] != '\0' && strspn(text, " +-") == 0 && *end == '\0' && errno == 0;
}

static int take_target(struct restoring *restoring, int option)
{
	struct plan_target *target = &restoring->recover.target;
	if (target->kind != PLAN_LATEST) {
		return cli_usage("restore", "only one of --at, --commit and --txid");
	}
	if (option == OPTION_AT) {
		target->kind = PLAN_TIME;
		return when_parse(optarg, (int64_t)(clock_wall_us() / 1000), &target->time_ms)
			? 0
			: cli_usage("restore",
				  "--at \"%s\" is no time: 2026-11-22T10:42:07Z, 10:42, or \"2 hours "
				  "ago\"",
				  optarg);
	}
	bool commit = option == OPTION_COMMIT;
	target->kind = commit ? PLAN_COMMIT : PLAN_TXID;
	return take_number(optarg, commit ? 10 : 16, &target->number) && target->number > 0
		? 0
		: cli_usage("restore", "%s takes a number, not \"%s\"",
			  commit ? "--commit" : "--txid", optarg);
}

static int take_check(struct restoring *restoring)
{
	static const char *const names[] = {"none", "quick", "full"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(optarg, names[i]) == 0) {
			restoring->depth = (enum inspect_depth)i;
			return 0;
		}
	}
	return cli_usage("restore", "--integrity-check is none, quick or full");
}

static int take_parallelism(struct restoring *restoring)
{
	uint64_t number = 0;
	if (!take_number(optarg, 10, &number) || number < 1 || number > 32) {
		return cli_usage("restore", "--parallelism is a number from 1 to 32");
	}
	restoring->recover.threads = (unsigned)number;
	return 0;
}

/* 0, or CLI_USAGE. */
static int take_option(struct restoring *restoring, int option)
{
	switch (option) {
	case 'o':
		restoring->out = optarg;
		return 0;
	case OPTION_AT:
	case OPTION_COMMIT:
	case OPTION_TXID:
		return take_target(restoring, option);
	case OPTION_TO_LAST_GOOD:
		restoring->recover.to_last_good = true;
		return 0;
	case OPTION_FORCE:
		restoring->force = true;
		return 0;
	case OPTION_IF_DB_NOT_EXISTS:
		restoring->if_db_not_exists = true;
		return 0;
	case OPTION_IF_REPLICA_EXISTS:
		restoring->if_replica_exists = true;
		return 0;
	case OPTION_FOLLOW:
		restoring->follow = true;
		return 0;
	case OPTION_INTERVAL:
		return options_duration(optarg, &restoring->interval_ms)
			? 0
			: cli_usage("restore", "--interval is a time such as 500ms, 1s, 5m");
	case OPTION_CHECK:
		return take_check(restoring);
	case OPTION_PARALLELISM:
		return take_parallelism(restoring);
	case OPTION_CONFIG:
		restoring->config = optarg;
		return 0;
	case OPTION_JSON:
		restoring->json = true;
		return 0;
	}
	return CLI_USAGE;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct restoring *restoring, int argc, char **argv)
{
	int option = 0;
	opterr = 0;
	while ((option = getopt_long_only(argc, argv, "o:", table, NULL)) >= 0) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == '?') {
			return cli_usage(
				"restore", "unknown option or missing value: %s", argv[optind - 1]);
		}
		if (take_option(restoring, option) != 0) {
			return CLI_USAGE;
		}
	}
	restoring->source = optind < argc ? argv[optind++] : options_environment_db();
	if (restoring->source == NULL) {
		return cli_usage("restore", "which replica? Give its URL, or the database");
	}
	if (optind < argc) {
		return cli_usage("restore", "one argument too many: \"%s\"", argv[optind]);
	}
	if (restoring->out == NULL && replicas_is_url(restoring->source)) {
		return cli_usage("restore", "where to? -o OUT");
	}
	if (restoring->follow &&
		(restoring->recover.target.kind != PLAN_LATEST ||
			restoring->recover.to_last_good)) {
		return cli_usage("restore", "--follow goes with the newest point only");
	}
	restoring->out = restoring->out != NULL ? restoring->out : restoring->source;
	return -1;
}

/* ---- what is said ---- */

static void print_json(const struct restoring *restoring)
{
	const struct recover *recover = &restoring->recover;
	const struct restore_result *result = &recover->result;
	fputs("{\"ok\":true,\"output\":", stdout);
	text_json_cstr(stdout, restoring->install.place.db);
	fputs(",\"replica\":", stdout);
	text_json_cstr(stdout, recover->url);
	recover_point_json(&result->point);
	printf(",\"digest\":\"%s\",\"integrity_check\":\"%s\",\"complete\":%s",
		result->point.has_digest ? "equal" : "none",
		restoring->depth == INSPECT_NONE ? "none" : "ok",
		result->short_of_it ? "false" : "true");
	printf(",\"page_size\":%u,\"pages\":%u,\"files\":%zu,\"bytes\":%" PRIu64
	       ",\"seconds\":%.3f",
		result->page_size, result->pages, result->files, result->bytes,
		(double)recover->took_us / 1e6);
	printf(",\"damaged_files\":%u,\"damage\":", result->damaged);
	text_json_cstr(stdout, result->damage);
	if (restoring->install.before != NULL) {
		fputs(",\"moved_to\":", stdout);
		text_json_cstr(stdout, restoring->install.before);
	}
	fputs("}\n", stdout);
}

/* The newest point of a replica is not what was asked for, if that lies beyond it. */
static void name_what_is_missing(const struct restoring *restoring)
{
	const struct recover *recover = &restoring->recover;
	const struct restore_point *point = &recover->result.point;
	if (recover->target.kind == PLAN_COMMIT && point->known &&
		point->txid == recover->result.newest_txid &&
		point->commit < recover->target.number) {
		fprintf(stderr,
			"litefunnel restore: commit %" PRIu64
			" is beyond what %s holds: its newest "
			"restore point is commit %" PRIu64 "\n",
			recover->target.number, recover->url, point->commit);
	}
}

static void print_lines(const struct restoring *restoring)
{
	const struct recover *recover = &restoring->recover;
	const struct restore_result *result = &recover->result;
	char point[RECOVER_POINT_BYTES];
	recover_point_text(&result->point, point);
	printf("restored %s at %s\n", restoring->install.place.db, point);
	printf("from     %s: %zu file%s, %.1f MiB, in %.1f s\n", recover->url, result->files,
		result->files == 1 ? "" : "s", (double)result->bytes / 1048576,
		(double)recover->took_us / 1e6);
	printf("proven   %s%s\n",
		result->point.has_digest
			? "equal to the live database at that commit, by its digest"
			: "by the checksums of its files; they carry no digest of the whole",
		restoring->depth == INSPECT_NONE           ? ""
			: restoring->depth == INSPECT_FULL ? "; integrity_check ok"
							   : "; quick_check ok");
	if (restoring->install.before != NULL) {
		printf("before   what was there is in %s\n", restoring->install.before);
	}
	if (result->damage[0] != '\0') {
		printf("damaged  %s (%s)\n", result->damage,
			result->in_doubt              ? "restored is the commit before it"
				: result->short_of_it ? "the commits behind it are lost"
						      : "gone around: nothing is lost");
	}
}

/* ---- the way ---- */

/* What the next start of a daemon is told, and the shipper with it. */
static void write_note(const struct restoring *restoring, char *ret_note, size_t bytes)
{
	const struct restore_point *point = &restoring->recover.result.point;
	char epoch[2 * RECORD_ID_BYTES + 1] = "";
	for (size_t i = 0; point->known && i < RECORD_ID_BYTES; i++) {
		snprintf(epoch + 2 * i, 3, "%02x", point->epoch[i]);
	}
	snprintf(ret_note, bytes,
		"txid: %016" PRIx64 "\nnewest: %016" PRIx64 "\ncommit: %" PRIu64
		"\nepoch: %s\nreplica: %s\n",
		point->txid, restoring->recover.result.newest_txid, point->commit, epoch,
		restoring->recover.url);
}

static int check_result(struct restoring *restoring)
{
	struct inspect *inspect = NULL;
	char why[INSPECT_TEXT_BYTES] = "out of memory";
	int rc = inspect_open(restoring->install.file, &inspect, why);
	rc = rc == 0 ? inspect_integrity(inspect, restoring->depth, why) : rc;
	inspect_close(inspect);
	return rc == 0 ? CLI_DONE
		       : cli_fail("restore",
				 "what the replica holds is not sound: %s (nothing was put into "
				 "place; --integrity-check none would)",
				 why);
}

static int put_into_place(struct restoring *restoring)
{
	char note[1024];
	char error[INSTALL_ERROR_BYTES] = "";
	write_note(restoring, note, sizeof note);
	return install_commit(&restoring->install, note, error) == 0
		? CLI_DONE
		: cli_fail("restore", "%s", error);
}

static int restore(struct restoring *restoring)
{
	char error[INSTALL_ERROR_BYTES] = "";
	int rc = install_begin(&restoring->install, restoring->out, restoring->force, error);
	if (rc != 0) {
		return cli_fail("restore", "%s", error);
	}
	restoring->recover.path = restoring->install.file;
	rc = recover_run(&restoring->recover);
	if (rc == RESTORE_EMPTY && restoring->if_replica_exists) {
		printf("%s: nothing to restore\n", restoring->recover.error);
		return CLI_DONE;
	}
	if (rc != 0) {
		return recover_report(&restoring->recover, rc);
	}
	int code = check_result(restoring);
	code = code == CLI_DONE ? put_into_place(restoring) : code;
	if (code == CLI_DONE) {
		name_what_is_missing(restoring);
	}
	if (code == CLI_DONE && restoring->json) {
		print_json(restoring);
	} else if (code == CLI_DONE) {
		print_lines(restoring);
	}
	return code == CLI_DONE && print_flush("restore") != 0 ? CLI_FAILED : code;
}

/* ---- following ---- */

/* A copy that followed before, and that nobody has served since. */
static bool find_copy(struct restoring *restoring, struct follow_note *ret_note)
{
	struct place place;
	struct stat st;
	char error[INSTALL_ERROR_BYTES];
	if (!restoring->follow || restoring->force ||
		place_resolve(restoring->out, NULL, &place, error, sizeof error) != 0) {
		return false;
	}
	bool found = lstat(place.db, &st) == 0 && follow_note_read(&place, ret_note);
	place_finish(&place);
	return found;
}

static size_t replica_index(const struct restoring *restoring)
{
	const struct replicas *replicas = &restoring->replicas;
	for (size_t i = 0; i < replicas->count; i++) {
		if (replicas->urls[i] == restoring->recover.url) {
			return i;
		}
	}
	return 0;
}

/* What was just restored, as the point from which it follows. */
static struct follow_note note_of(const struct restoring *restoring)
{
	const struct restore_result *result = &restoring->recover.result;
	return (struct follow_note){.at = {.at = result->point, .pages = result->pages}};
}

static int follow(struct restoring *restoring, const struct follow_note *note, bool fresh)
{
	struct following following = {
		.place = &restoring->install.place,
		.replicas = &restoring->replicas,
		.replica = replica_index(restoring),
		.note = *note,
		.fresh = fresh,
		.interval_ms = restoring->interval_ms,
		.json = restoring->json,
	};
	return follow_run(&following);
}

static int take_up(struct restoring *restoring)
{
	struct follow_note note;
	struct install *install = &restoring->install;
	char error[INSTALL_ERROR_BYTES];
	*install = (struct install){.lock_fd = -1};
	if (place_resolve(restoring->out, NULL, &install->place, error, sizeof error) != 0 ||
		place_lock(&install->place, &install->lock_fd, error, sizeof error) != 0) {
		return cli_fail("restore", "%s", error);
	}
	/* Anew, now that nobody else moves it. */
	return follow_note_read(&install->place, &note)
		? follow(restoring, &note, false)
		: cli_fail("restore", "%s has changed; start again", install->place.restored);
}

static int run(struct restoring *restoring)
{
	struct follow_note note;
	if (find_copy(restoring, &note)) {
		return take_up(restoring);
	}
	int code = restore(restoring);
	if (code != CLI_DONE || !restoring->follow || restoring->recover.result.point.txid == 0) {
		return code;
	}
	note = note_of(restoring);
	return follow(restoring, &note, true);
}

int cli_restore(int argc, char **argv)
{
	struct restoring restoring = {
		.depth = INSPECT_QUICK, .interval_ms = 1000, .install = {.lock_fd = -1}};
	struct stat st;
	umask(0027);
	int code = parse(&restoring, argc, argv);
	if (code >= 0) {
		return code;
	}
	if (restoring.if_db_not_exists && !restoring.follow && lstat(restoring.out, &st) == 0) {
		printf("%s exists: nothing to do\n", restoring.out);
		return CLI_DONE;
	}
	code = replicas_find("restore", restoring.source, restoring.config, &restoring.replicas);
	restoring.recover.command = "restore";
	restoring.recover.replicas = &restoring.replicas;
	code = code == 0 ? run(&restoring) : code;
	install_finish(&restoring.install);
	replicas_finish(&restoring.replicas);
	return code;
}
