/* SPDX-License-Identifier: MIT */

/* The command line of `litefunnel bench`, and its help. */

#include "server/cli/bench_options.h"

#include "server/cli/cli.h"
#include "server/cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
	"usage: litefunnel bench [options]\n"
	"\n"
	"Measures on this machine what writing through the funnel costs and gives, with real\n"
	"processes, beside plain SQLite. Each run makes a fresh database, and removes it. In the end\n"
	"it is counted whether the database holds exactly what was answered.\n"
	"\n"
	"  --mode MODE        funnel: through a daemon started for the run; direct: each process has\n"
	"                     its own handle (WAL, busy_timeout 5000, BEGIN IMMEDIATE); raw: one\n"
	"                     process, alone, with the batch size that is best, the physical limit\n"
	"                     [funnel]\n"
	"  --compare          funnel with and without exactly-once, direct and raw in turn, in several\n"
	"                     rounds, with medians and ratios; with --mode A,B,… only these\n"
	"                     (funnel-no-keys is one of them)\n"
	"  --rounds N         rounds of --compare [5]\n"
	"  --workload W       insert, update, upsert, tpcb, jobs or mixed [insert]\n"
	"  --writers N        processes that write [8]\n"
	"  --depth D          requests that each has in flight; direct and raw: always 1 [1]\n"
	"  --rows R           rows, or transactions of tpcb, a request [1]\n"
	"  --row-bytes B      bytes of text in a row [100]\n"
	"  --table-rows N     rows that are there before [100000]\n"
	"  --rate N           requests a second of all writers together; how long each took counts\n"
	"                     from the moment at which it should have begun [as many as go]\n"
	"  --readers N        processes beside them that read one row at a time, directly [0]\n"
	"  --bulk             one process beside them that imports rows without a pause, in class\n"
	"                     bulk, the others in class interactive; direct: 10000 rows a transaction\n"
	"  --sync full|normal [full]\n"
	"  --keys, --no-keys  exactly-once on or off; --no-keys is --mode funnel-no-keys [on]\n"
	"  --seconds S        how long is measured [5]\n"
	"  --warmup S         how long it runs before [1]\n"
	"  --db DIR           the directory, and so the disk, for the databases [TMPDIR, or /var/tmp]\n"
	"  --set NAME=VALUE   a setting of the daemon; may be given several times\n"
	"  --progress         a line a second on stderr\n"
	"  --json             one object\n"
	"  --help             this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, or the database does not hold what was answered, 2 usage.\n";

enum option_id {
	OPTION_HELP,
	OPTION_MODE,
	OPTION_COMPARE,
	OPTION_ROUNDS,
	OPTION_WORKLOAD,
	OPTION_WRITERS,
	OPTION_DEPTH,
	OPTION_ROWS,
	OPTION_ROW_BYTES,
	OPTION_TABLE_ROWS,
	OPTION_RATE,
	OPTION_READERS,
	OPTION_BULK,
	OPTION_SYNC,
	OPTION_KEYS,
	OPTION_NO_KEYS,
	OPTION_SECONDS,
	OPTION_WARMUP,
	OPTION_DB,
	OPTION_SET,
	OPTION_PROGRESS,
	OPTION_JSON,
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"mode", required_argument, NULL, OPTION_MODE},
	{"compare", no_argument, NULL, OPTION_COMPARE},
	{"rounds", required_argument, NULL, OPTION_ROUNDS},
	{"workload", required_argument, NULL, OPTION_WORKLOAD},
	{"writers", required_argument, NULL, OPTION_WRITERS},
	{"depth", required_argument, NULL, OPTION_DEPTH},
	{"rows", required_argument, NULL, OPTION_ROWS},
	{"row-bytes", required_argument, NULL, OPTION_ROW_BYTES},
	{"table-rows", required_argument, NULL, OPTION_TABLE_ROWS},
	{"rate", required_argument, NULL, OPTION_RATE},
	{"readers", required_argument, NULL, OPTION_READERS},
	{"bulk", no_argument, NULL, OPTION_BULK},
	{"sync", required_argument, NULL, OPTION_SYNC},
	{"keys", no_argument, NULL, OPTION_KEYS},
	{"no-keys", no_argument, NULL, OPTION_NO_KEYS},
	{"seconds", required_argument, NULL, OPTION_SECONDS},
	{"warmup", required_argument, NULL, OPTION_WARMUP},
	{"db", required_argument, NULL, OPTION_DB},
	{"set", required_argument, NULL, OPTION_SET},
	{"progress", no_argument, NULL, OPTION_PROGRESS},
	{"json", no_argument, NULL, OPTION_JSON},
	{NULL, 0, NULL, 0},
};

static const char *const mode_names[BENCH_MODES] = {"funnel", "funnel-no-keys", "direct", "raw"};
static const char *const workload_names[WORKLOADS] = {
	"insert", "update", "upsert", "tpcb", "jobs", "mixed"};

const char *bench_mode_name(enum bench_mode mode)
{
	return mode_names[mode];
}

const char *bench_workload_name(enum bench_workload workload)
{
	return workload_names[workload];
}

/* What was said about modes; they are made out of it when everything is read. */
struct said {
	bool mode;
	bool keys;
	bool no_keys;
};

/* The index of the `len` bytes at `text` among `names`, or -1. */
static int find_name(const char *const *names, int count, const char *text, size_t len)
{
	for (int i = 0; i < count; i++) {
		if (strlen(names[i]) == len && memcmp(names[i], text, len) == 0) {
			return i;
		}
	}
	return -1;
}

static int take_modes(struct bench_options *options)
{
	const char *at = optarg;
	do {
		size_t len = strcspn(at, ",");
		int mode = find_name(mode_names, BENCH_MODES, at, len);
		if (mode < 0) {
			return cli_usage("bench",
				"--mode %s: use funnel, funnel-no-keys, direct or raw", optarg);
		}
		options->modes[mode] = true;
		at += len;
	} while (*at++ == ',');
	return 0;
}

static int take_number(const char *name, uint64_t min, uint64_t max, uint64_t *ret_number)
{
	char *end = NULL;
	errno = 0;
	unsigned long long number = strtoull(optarg, &end, 10);
	if (optarg[0] < '0' || optarg[0] > '9' || *end != '\0' || errno != 0 || number < min ||
		number > max) {
		return cli_usage("bench", "--%s %s: use a number from %llu to %llu", name, optarg,
			(unsigned long long)min, (unsigned long long)max);
	}
	*ret_number = number;
	return 0;
}

static int take_count(const char *name, unsigned min, unsigned max, unsigned *ret_number)
{
	uint64_t number = 0;
	int code = take_number(name, min, max, &number);
	*ret_number = (unsigned)number;
	return code;
}

static int take_real(const char *name, double min, double max, double *ret_number)
{
	char *end = NULL;
	double number = strtod(optarg, &end);
	if (end == optarg || *end != '\0' || !(number >= min && number <= max)) {
		return cli_usage(
			"bench", "--%s %s: use a number from %g to %g", name, optarg, min, max);
	}
	*ret_number = number;
	return 0;
}

static int take_workload(struct bench_options *options)
{
	int workload = find_name(workload_names, WORKLOADS, optarg, strlen(optarg));
	if (workload < 0) {
		return cli_usage("bench",
			"--workload %s: use insert, update, upsert, tpcb, jobs or mixed", optarg);
	}
	options->workload = (enum bench_workload)workload;
	return 0;
}

static int take_sync(struct bench_options *options)
{
	options->sync_full = strcmp(optarg, "full") == 0;
	if (!options->sync_full && strcmp(optarg, "normal") != 0) {
		return cli_usage("bench", "--sync %s: use full or normal", optarg);
	}
	return 0;
}

static int take_setting(struct bench_options *options)
{
	if (strchr(optarg, '=') == NULL || optarg[0] == '=') {
		return cli_usage("bench", "--set %s: use NAME=VALUE", optarg);
	}
	if (options->settings_count == BENCH_SETTINGS_MAX) {
		return cli_usage("bench", "--set: at most %d times", BENCH_SETTINGS_MAX);
	}
	options->settings[options->settings_count++] = optarg;
	return 0;
}

/* The numbers. 0, or CLI_USAGE. */
static int take_amount(struct bench_options *options, int option)
{
	switch (option) {
	case OPTION_ROUNDS:
		return take_count("rounds", 1, 1000, &options->rounds);
	case OPTION_WRITERS:
		return take_count("writers", 1, 1000, &options->writers);
	case OPTION_DEPTH:
		return take_count("depth", 1, 1000, &options->depth);
	case OPTION_ROWS:
		return take_count("rows", 1, 10000, &options->rows);
	case OPTION_ROW_BYTES:
		return take_count("row-bytes", 0, 1000000, &options->row_bytes);
	case OPTION_TABLE_ROWS:
		return take_number("table-rows", 1, 1000000000, &options->table_rows);
	case OPTION_READERS:
		return take_count("readers", 0, 1000, &options->readers);
	case OPTION_RATE:
		return take_real("rate", 0.001, 1e9, &options->rate);
	case OPTION_SECONDS:
		return take_real("seconds", 0.01, 86400, &options->seconds);
	case OPTION_WARMUP:
		return take_real("warmup", 0, 86400, &options->warmup_seconds);
	default:
		return CLI_USAGE; /* OPTIONS_BAD: said so */
	}
}

static int take_option(struct bench_options *options, struct said *said, int option)
{
	switch (option) {
	case OPTION_MODE:
		said->mode = true;
		return take_modes(options);
	case OPTION_COMPARE:
		options->compare = true;
		return 0;
	case OPTION_WORKLOAD:
		return take_workload(options);
	case OPTION_BULK:
		options->bulk = true;
		return 0;
	case OPTION_SYNC:
		return take_sync(options);
	case OPTION_KEYS:
		said->keys = true;
		return 0;
	case OPTION_NO_KEYS:
		said->no_keys = true;
		return 0;
	case OPTION_DB:
		options->directory = optarg;
		return 0;
	case OPTION_SET:
		return take_setting(options);
	case OPTION_PROGRESS:
		options->progress = true;
		return 0;
	case OPTION_JSON:
		options->json = true;
		return 0;
	default:
		return take_amount(options, option);
	}
}

static int settle_modes(struct bench_options *options, const struct said *said)
{
	unsigned count = 0;
	if (said->keys && said->no_keys) {
		return cli_usage("bench", "--keys or --no-keys, not both");
	}
	for (int i = 0; !said->mode && i < BENCH_MODES; i++) {
		options->modes[i] = options->compare || i == BENCH_FUNNEL;
	}
	bool funnel = options->modes[BENCH_FUNNEL] || options->modes[BENCH_FUNNEL_NO_KEYS];
	if (funnel && (said->keys || said->no_keys)) {
		options->modes[BENCH_FUNNEL] = said->keys;
		options->modes[BENCH_FUNNEL_NO_KEYS] = said->no_keys;
	}
	for (int i = 0; i < BENCH_MODES; i++) {
		count += options->modes[i];
	}
	return count > 1 && !options->compare
		? cli_usage("bench", "one --mode, or several with --compare")
		: 0;
}

static int check_load(const struct bench_options *options)
{
	struct stat status;
	if (options->workload == WORKLOAD_TPCB && options->rows > 2000) {
		return cli_usage("bench", "tpcb has five statements a row: at most 2000 --rows");
	}
	if ((uint64_t)options->rows * options->row_bytes > 7 * 1024 * 1024) {
		return cli_usage("bench",
			"%u rows of %u bytes are more than a request holds (8 MiB): use fewer or smaller rows",
			options->rows, options->row_bytes);
	}
	if (stat(options->directory, &status) != 0) {
		return cli_usage("bench", "--db %s: %s", options->directory, strerror(errno));
	}
	return S_ISDIR(status.st_mode)
		? 0
		: cli_usage("bench",
			  "--db %s: a directory, in which a fresh database is made; none of yours is touched",
			  options->directory);
}

int bench_options_parse(struct bench_options *bench, int argc, char **argv)
{
	struct options options;
	struct said said = {false, false, false};
	const char *temporary = getenv("TMPDIR");
	*bench = (struct bench_options){
		.writers = 8,
		.depth = 1,
		.rows = 1,
		.row_bytes = 100,
		.table_rows = 100000,
		.seconds = 5,
		.warmup_seconds = 1,
		.rounds = 5,
		.sync_full = true,
		.directory = temporary != NULL && temporary[0] != '\0' ? temporary : "/var/tmp",
	};
	options_init(&options, "bench", table, argc, argv);
	for (int option = options_next(&options); option != OPTIONS_END;
		option = options_next(&options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (take_option(bench, &said, option) != 0) {
			return CLI_USAGE;
		}
	}
	if (options_finish(&options) != 0 || settle_modes(bench, &said) != 0 ||
		check_load(bench) != 0) {
		return CLI_USAGE;
	}
	return -1;
}
