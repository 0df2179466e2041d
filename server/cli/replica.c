/* SPDX-License-Identifier: MIT */

/*
 * litefunnel replica: what a replica holds, and whether it is what it should be. Neither changes
 * anything in it.
 */

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/options.h"
#include "server/cli/print.h"
#include "server/cli/recover.h"
#include "server/cli/replicas.h"
#include "server/cli/scratch.h"
#include "server/cli/text.h"
#include "server/cli/when.h"
#include "server/ship/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel replica ls URL|DB [--names] [--json]\n"
	"       litefunnel replica verify URL|DB [--dir DIRECTORY] [--json]\n"
	"\n"
	"ls lists the files of a replica: level, segments, commits, size, time of the last commit.\n"
	"verify reads each of them whole: checksums, SHA-256, digests, how they follow each other;\n"
	"then it restores the newest point into a directory that it removes again. With DB the\n"
	"replicas are those of its settings, or, where those name none, of the daemon that runs.\n"
	"\n"
	"  --names          ls: do not ask for the commits, which is a request for each file on S3\n"
	"  --dir DIRECTORY  verify: where to restore to [TMPDIR, or /var/tmp]\n"
	"  --config FILE    the settings of DB [LITEFUNNEL_CONFIG, /etc/litefunnel/NAME.conf]\n"
	"  --json           print an array of objects, one for each file or replica\n"
	"  --help           this text\n"
	"\n"
	"Exit codes of verify: 0 proven, 1 bad, 2 usage, 4 could not tell. Of ls: 0 done, 1 failed, 2\n"
	"usage, 4 not reachable.\n";

enum { OPTION_HELP, OPTION_NAMES, OPTION_DIR, OPTION_CONFIG, OPTION_JSON };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"names", no_argument, NULL, OPTION_NAMES},
	{"dir", required_argument, NULL, OPTION_DIR},
	{"config", required_argument, NULL, OPTION_CONFIG},
	{"json", no_argument, NULL, OPTION_JSON},
	{NULL, 0, NULL, 0},
};

struct looking {
	const char *what; /* ls, verify */
	const char *source;
	const char *config;
	const char *dir;
	bool names;
	bool json;
	struct replicas replicas;
	struct printer printer;
	struct replica *replica; /* ls: the one that is listed */
	const char *url;
	size_t printed; /* verify: objects, then issues of one */
};

/* -1: go on. Otherwise the exit code. */
static int parse(struct looking *looking, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD) {
			return CLI_USAGE;
		}
		looking->names = looking->names || option == OPTION_NAMES;
		looking->json = looking->json || option == OPTION_JSON;
		looking->dir = option == OPTION_DIR ? optarg : looking->dir;
		looking->config = option == OPTION_CONFIG ? optarg : looking->config;
	}
	looking->what = options_shift(options);
	if (looking->what == NULL ||
		(strcmp(looking->what, "ls") != 0 && strcmp(looking->what, "verify") != 0)) {
		return cli_usage("replica", "ls or verify?");
	}
	looking->source = options_db(options, 0);
	return looking->source == NULL || options_finish(options) != 0 ? CLI_USAGE : -1;
}

/* ---- ls ---- */

enum {
	COLUMN_REPLICA,
	COLUMN_LEVEL,
	COLUMN_MIN,
	COLUMN_MAX,
	COLUMN_FIRST,
	COLUMN_LAST,
	COLUMN_BYTES,
	COLUMN_COMMITTED,
	COLUMN_KIND,
	COLUMNS
};

static const char *const column_names[COLUMNS] = {"replica", "level", "min_txid", "max_txid",
	"commit_first", "commit_last", "bytes", "committed", "kind"};

static struct print_value text_value(const char *text)
{
	return (struct print_value){.type = LF_TEXT, .data = text, .len = strlen(text)};
}

static struct print_value number_value(uint64_t number)
{
	return (struct print_value){.type = LF_INTEGER, .integer = (int64_t)number};
}

static const char *kind_of(const struct plan_file *file)
{
	if (!file->looked) {
		return "";
	}
	if (!file->known) {
		return "litestream";
	}
	return !file->record.has_digest ? "base" : file->record.full ? "full" : "changes";
}

static int print_file(struct looking *looking, const struct plan_file *file)
{
	char min[20];
	char max[20];
	char time[WHEN_TEXT_BYTES];
	struct print_value values[COLUMNS];
	snprintf(min, sizeof min, "%016" PRIx64, file->file.min_txid);
	snprintf(max, sizeof max, "%016" PRIx64, file->file.max_txid);
	when_text(file->known ? file->record.committed_ms : file->file.created_ms, time);
	values[COLUMN_REPLICA] = text_value(looking->url);
	values[COLUMN_LEVEL] = number_value((uint64_t)file->file.level);
	values[COLUMN_MIN] = text_value(min);
	values[COLUMN_MAX] = text_value(max);
	values[COLUMN_FIRST] = values[COLUMN_LAST] = (struct print_value){.type = LF_NULL};
	if (file->known) {
		values[COLUMN_FIRST] = number_value(file->record.commit_first);
		values[COLUMN_LAST] = number_value(file->record.commit_last);
	}
	values[COLUMN_BYTES] = number_value(file->file.size);
	values[COLUMN_COMMITTED] = text_value(time);
	values[COLUMN_KIND] = text_value(kind_of(file));
	return printer_row(&looking->printer, values);
}

/* A file that compaction or retention took away meanwhile is not there to be listed. */
static int list_file(void *ctx, const struct replica_file *listed)
{
	struct looking *looking = ctx;
	struct plan_file file = {.file = *listed};
	struct replica_error error = {0};
	if (!looking->names) {
		int rc = replica_look(looking->replica, listed->level, listed->min_txid,
			listed->max_txid, &file.file, &file.record, &file.known, &error);
		if (rc == REPLICA_MISSING) {
			return 0;
		}
		file.looked = rc == 0;
	}
	return print_file(looking, &file);
}

static int list_replica(struct looking *looking, const char *url)
{
	struct replica_error error = {0};
	int rc = replica_open(url, &looking->replica, &error);
	looking->url = url;
	for (int level = REPLICA_LEVEL_MAX; rc == 0 && level >= 0; level--) {
		/* Each level with a handle of its own that looks while another one lists. */
		struct replica *lister = NULL;
		rc = replica_open(url, &lister, &error);
		rc = rc == 0 ? replica_list(lister, level, 0, list_file, looking, &error) : rc;
		replica_free(lister);
	}
	if (rc == 0 && !replica_is_there(looking->replica)) {
		replica_say_empty(looking->replica, &error);
		rc = -ENOENT;
	}
	replica_free(looking->replica);
	looking->replica = NULL;
	if (rc != 0) {
		cli_fail("replica", "%s", error.text[0] != '\0' ? error.text : strerror(-rc));
		return rc > 0 ? CLI_UNREACHABLE : rc == -EINVAL ? CLI_USAGE : CLI_FAILED;
	}
	return CLI_DONE;
}

static int list_all(struct looking *looking)
{
	enum print_format format = looking->json ? PRINT_JSON : print_format_for(stdout);
	int code = printer_init(&looking->printer, stdout, format, true, COLUMNS, column_names) == 0
		? CLI_DONE
		: cli_fail("replica", "out of memory");
	for (size_t i = 0; code == CLI_DONE && i < looking->replicas.count; i++) {
		code = list_replica(looking, looking->replicas.urls[i]);
	}
	if (printer_end(&looking->printer) != 0 && code == CLI_DONE) {
		code = CLI_FAILED;
	}
	printer_finish(&looking->printer);
	return code;
}

/* ---- verify ---- */

static void print_issue(void *ctx, const char *sentence)
{
	struct looking *looking = ctx;
	if (looking->json) {
		fputs(looking->printed++ > 0 ? "," : "", stdout);
		text_json_cstr(stdout, sentence);
	} else {
		printf("bad      %s\n", sentence);
	}
}

/* The exit code, with what is to be said. */
static int verify_restore(
	struct looking *looking, const char *url, size_t issues, struct recover *ret_recover)
{
	CLEANUP(scratch_finish) struct scratch scratch = {0};
	int code = scratch_begin(&scratch, "replica", looking->dir);
	if (code != CLI_DONE) {
		return CLI_UNREACHABLE;
	}
	const struct replicas one = {.urls = {url}, .count = 1};
	*ret_recover = (struct recover){.command = "replica",
		.replicas = &one,
		.path = scratch.file,
		.quiet = looking->json};
	int rc = recover_run(ret_recover);
	ret_recover->replicas = NULL;
	if (rc == RESTORE_DAMAGED || (rc == 0 && ret_recover->result.damaged > 0 && issues == 0)) {
		print_issue(looking, ret_recover->result.damage);
	}
	if (rc != 0 && rc != RESTORE_DAMAGED) {
		return recover_report(ret_recover, rc);
	}
	return rc == 0 && ret_recover->result.damaged == 0 ? CLI_DONE : CLI_FAILED;
}

static void print_verdict(const struct looking *looking, int code,
	const struct verify_result *result, const struct recover *recover)
{
	static const char *const verdicts[] = {
		[CLI_DONE] = "proven", [CLI_FAILED] = "bad", [CLI_UNREACHABLE] = "unknown"};
	char point[RECOVER_POINT_BYTES];
	if (looking->json) {
		printf("],\"verdict\":\"%s\",\"files\":%zu,\"bytes\":%" PRIu64 ",\"digests\":%zu",
			verdicts[code], result->files, result->bytes, result->digests);
		recover_point_json(&recover->result.point);
		fputs("}", stdout);
		return;
	}
	recover_point_text(&recover->result.point, point);
	printf("%-8s %s: %zu files, %.1f MiB, %zu digests of whole databases; restored: %s\n",
		verdicts[code], looking->url, result->files, (double)result->bytes / 1048576,
		result->digests, point);
}

static int verify_one(struct looking *looking, const char *url)
{
	struct verify_result result;
	struct replica_error error;
	struct recover recover = {0};
	const struct verify_options options = {.url = url,
		.patience_ms = RECOVER_PATIENCE_MS,
		.issue = print_issue,
		.ctx = looking};
	looking->url = url;
	looking->printed = 0;
	if (looking->json) {
		fputs("{\"replica\":", stdout);
		text_json_cstr(stdout, url);
		fputs(",\"issues\":[", stdout);
	}
	int rc = verify_run(&options, &result, &error);
	int code = CLI_UNREACHABLE;
	if (rc == 0) {
		code = verify_restore(looking, url, result.issues, &recover);
		code = result.issues > 0 ? CLI_FAILED : code;
	} else {
		cli_fail("replica", "%s", error.text[0] != '\0' ? error.text : strerror(-rc));
	}
	print_verdict(looking, code, &result, &recover);
	return code;
}

/* A bad one decides; then one that could not be asked. */
static int verify_all(struct looking *looking)
{
	int worst = CLI_DONE;
	fputs(looking->json ? "[" : "", stdout);
	for (size_t i = 0; i < looking->replicas.count; i++) {
		fputs(looking->json && i > 0 ? "," : "", stdout);
		int code = verify_one(looking, looking->replicas.urls[i]);
		worst = worst == CLI_FAILED || code == CLI_DONE ? worst : code;
	}
	fputs(looking->json ? "]\n" : "", stdout);
	return worst;
}

int cli_replica(int argc, char **argv)
{
	struct looking looking = {0};
	struct options options;
	options_init(&options, "replica", table, argc, argv);
	int code = parse(&looking, &options);
	if (code >= 0) {
		return code;
	}
	code = replicas_find("replica", looking.source, looking.config, &looking.replicas);
	if (code == 0) {
		code = strcmp(looking.what, "ls") == 0 ? list_all(&looking) : verify_all(&looking);
	}
	replicas_finish(&looking.replicas);
	return print_flush("replica") != 0 && code == CLI_DONE ? CLI_FAILED : code;
}
