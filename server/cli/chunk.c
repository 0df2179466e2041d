/* SPDX-License-Identifier: MIT */

/* litefunnel chunk: begins a long statement in slices, or finds one, and waits for its end. */

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/param.h"
#include "server/cli/progress.h"
#include "server/cli/text.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char help[] =
	"usage: litefunnel chunk DB SQL [PARAM...] [options]\n"
	"       litefunnel chunk DB --wait NAME | --pause NAME | --resume NAME | --cancel NAME\n"
	"\n"
	"Runs a long UPDATE, DELETE or INSERT ... SELECT in slices of a few milliseconds, with\n"
	"everybody's writes between, and waits for its end. It is all or nothing only slice by slice:\n"
	"a cancelled or failed chunk keeps what its slices have done. It runs in the daemon, goes on\n"
	"after a crash exactly where it was, and does not need this command.\n"
	"\n"
	"The rows are walked once along a key, as they are at the start; rows that others add beyond\n"
	"its highest value, or behind the slice at hand, are not. What cannot be cut safely is refused\n"
	"with the reason.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  PARAM           as with litefunnel exec\n"
	"  --text          every PARAM is text, just as it is\n"
	"  --by COLUMN     walk along that column, NOT NULL and alone UNIQUE [the INTEGER PRIMARY KEY]\n"
	"  --name NAME     the chunk's name: the same command with it finds the same chunk [random]\n"
	"  --rate N        at most N rows a second; with --resume a new limit\n"
	"  --slice-ms N    how long a slice may hold the writer [the daemon's slice_ms]\n"
	"  --detach        do not wait for the end\n"
	"  --wait NAME     wait for one that there is\n"
	"  --pause NAME    it holds still until --resume, also through restarts\n"
	"  --resume NAME   goes on with one that was paused or has failed\n"
	"  --cancel NAME   ends it; what was done stays. Fails if it was done already\n"
	"  --json          print the end as an object\n"
	"  --deadline T    give up after 500ms, 30s, 5m if the daemon cannot be reached [30s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed and nothing applied, 2 usage, 4 daemon not reachable, 5 some of it\n"
	"applied: the last line says how far, and how to go on.\n";

enum {
	OPTION_HELP,
	OPTION_TEXT,
	OPTION_BY,
	OPTION_NAME,
	OPTION_RATE,
	OPTION_SLICE_MS,
	OPTION_DETACH,
	OPTION_WAIT,
	OPTION_PAUSE,
	OPTION_RESUME,
	OPTION_CANCEL,
	OPTION_JSON
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"text", no_argument, NULL, OPTION_TEXT},
	{"by", required_argument, NULL, OPTION_BY},
	{"name", required_argument, NULL, OPTION_NAME},
	{"rate", required_argument, NULL, OPTION_RATE},
	{"slice-ms", required_argument, NULL, OPTION_SLICE_MS},
	{"detach", no_argument, NULL, OPTION_DETACH},
	{"wait", required_argument, NULL, OPTION_WAIT},
	{"pause", required_argument, NULL, OPTION_PAUSE},
	{"resume", required_argument, NULL, OPTION_RESUME},
	{"cancel", required_argument, NULL, OPTION_CANCEL},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

enum { TURN_MS = 400, NAME_BYTES_MAX = 255 };

struct chunk {
	struct connect connect;
	struct lf_chunk_options options;
	const char *sql;
	const char *name;
	const char *op; /* "wait", "pause", … or NULL: begin one */
	char random[24];
	bool text;
	bool detach;
	bool json;
};

/* ---- the command line ---- */

static int take_number(const char *what, uint32_t *ret_number)
{
	char *end = NULL;
	errno = 0;
	unsigned long number = strtoul(optarg, &end, 10);
	if (!isdigit((unsigned char)optarg[0]) || *end != '\0' || errno != 0 || number < 1 ||
		number > INT32_MAX) {
		return cli_usage("chunk", "%s %s: use a number from 1 on", what, optarg);
	}
	*ret_number = (uint32_t)number;
	return 0;
}

static int take_name(struct chunk *chunk, const char *op)
{
	if (chunk->name != NULL || optarg[0] == '\0' || strlen(optarg) > NAME_BYTES_MAX) {
		return cli_usage("chunk",
			chunk->name != NULL
				? "give one of --name, --wait, --pause, --resume, --cancel"
				: "a name has 1 to 255 bytes");
	}
	chunk->name = optarg;
	chunk->op = op;
	return 0;
}

static int take_option(struct chunk *chunk, int option)
{
	switch (option) {
	case OPTION_TEXT:
		chunk->text = true;
		return 0;
	case OPTION_BY:
		chunk->options.by = optarg;
		return 0;
	case OPTION_RATE:
		return take_number("--rate", &chunk->options.rate);
	case OPTION_SLICE_MS:
		return take_number("--slice-ms", &chunk->options.slice_ms);
	case OPTION_DETACH:
		chunk->detach = true;
		return 0;
	case OPTION_NAME:
		return take_name(chunk, NULL);
	case OPTION_WAIT:
		return take_name(chunk, "wait");
	case OPTION_PAUSE:
		return take_name(chunk, "pause");
	case OPTION_RESUME:
		return take_name(chunk, "resume");
	case OPTION_CANCEL:
		return take_name(chunk, "cancel");
	case OPTION_JSON:
		chunk->json = true;
		return 0;
	default:
		return connect_option(&chunk->connect, option);
	}
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct chunk *chunk, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD || take_option(chunk, option) != 0) {
			return CLI_USAGE;
		}
	}
	chunk->connect.db =
		chunk->op != NULL ? options_db(options, 0) : options_db_before_sql(options);
	if (chunk->connect.db == NULL) {
		return CLI_USAGE;
	}
	if (chunk->op != NULL) {
		return options_finish(options) != 0 ? CLI_USAGE : -1;
	}
	chunk->sql = options_shift(options);
	return chunk->sql != NULL ? -1
				  : cli_usage("chunk", "no SQL (give a statement, or --wait NAME)");
}

/* A name that nobody else has, for those who gave none. */
static void choose_name(struct chunk *chunk)
{
	uint64_t number = 0;
	if (chunk->name == NULL) {
		if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number)) {
			number = clock_now_us();
		}
		snprintf(chunk->random, sizeof(chunk->random), "chunk-%012" PRIx64,
			number & UINT64_C(0xffffffffffff));
		chunk->name = chunk->random;
	}
}

/* ---- how far it is ---- */

struct facts {
	char state[16];
	char error[512];
	int64_t rows;
	int64_t of;
	int64_t changes;
	int64_t slices;
	int64_t rate;
	int64_t eta_ms;
	int64_t commit;
};

/* Texts of a reply are not terminated. */
static void take_text(const lf_reply *reply, const char *key, char *to, size_t size)
{
	const char *text = NULL;
	size_t len = 0;
	if (lf_reply_field_text(reply, key, &text, &len)) {
		snprintf(to, size, "%.*s", (int)(len < size ? len : size), text);
	}
}

static struct facts facts_of(const lf_reply *reply)
{
	struct facts facts = {0};
	take_text(reply, "state", facts.state, sizeof(facts.state));
	take_text(reply, "error", facts.error, sizeof(facts.error));
	(void)lf_reply_field_int64(reply, "rows", &facts.rows);
	(void)lf_reply_field_int64(reply, "of", &facts.of);
	(void)lf_reply_field_int64(reply, "changes", &facts.changes);
	(void)lf_reply_field_int64(reply, "slices", &facts.slices);
	(void)lf_reply_field_int64(reply, "rate", &facts.rate);
	(void)lf_reply_field_int64(reply, "eta_ms", &facts.eta_ms);
	facts.commit = (int64_t)lf_reply_commit(reply);
	return facts;
}

static bool is_state(const struct facts *facts, const char *state)
{
	return strcmp(facts->state, state) == 0;
}

static void print_json(const struct chunk *chunk, const struct facts *facts)
{
	fputs("{\"chunk\":", stdout);
	text_json_cstr(stdout, chunk->name);
	fputs(",\"state\":", stdout);
	text_json_cstr(stdout, facts->state);
	printf(",\"rows\":%" PRId64 ",\"changes\":%" PRId64 ",\"slices\":%" PRId64
	       ",\"commit\":%" PRId64,
		facts->rows, facts->changes, facts->slices, facts->commit);
	if (facts->of > 0) {
		printf(",\"of\":%" PRId64, facts->of);
	}
	if (facts->error[0] != '\0') {
		fputs(",\"error\":", stdout);
		text_json_cstr(stdout, facts->error);
	}
	fputs("}\n", stdout);
}

/* The last line. */
static void print_end(const struct chunk *chunk, const struct facts *facts, FILE *out)
{
	fprintf(out, "%s: %s, %" PRId64 " changes in %" PRId64 " rows, %" PRId64 " slices",
		chunk->name, facts->state, facts->changes, facts->rows, facts->slices);
	if (facts->error[0] != '\0') {
		fprintf(out, ": %s", facts->error);
	}
	if (is_state(facts, "running")) {
		fprintf(out, "; it goes on: litefunnel chunk %s --wait %s", chunk->connect.db,
			chunk->name);
	} else if (is_state(facts, "paused") || is_state(facts, "failed")) {
		fprintf(out, "; go on with: litefunnel chunk %s --resume %s", chunk->connect.db,
			chunk->name);
	}
	fputc('\n', out);
}

/* Prints where it stands; what that means for whoever waited for its end. */
static int report(const struct chunk *chunk, const lf_reply *reply, bool asked_for_end)
{
	struct facts facts = facts_of(reply);
	bool good = is_state(&facts, "done") || !asked_for_end;
	if (chunk->json) {
		print_json(chunk, &facts);
	} else {
		print_end(chunk, &facts, good ? stdout : stderr);
	}
	if (print_flush("chunk") != 0) {
		return CLI_FAILED;
	}
	return good ? CLI_DONE : facts.changes > 0 ? CLI_PARTLY : CLI_FAILED;
}

/* ---- waiting ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int signo)
{
	(void)signo;
	interrupted = 1;
}

static int wait_for_end(const struct chunk *chunk, lf_db *db)
{
	struct progress progress;
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	progress_init(&progress, chunk->name);
	for (;;) {
		CLEANUP(connect_free_reply) lf_reply *reply = NULL;
		int result = lf_chunk_wait(db, chunk->name, TURN_MS, &reply);
		if (result != LF_OK) {
			progress_end(&progress);
			return connect_report(&chunk->connect, db, result, reply);
		}
		struct facts facts = facts_of(reply);
		if (!is_state(&facts, "running") || interrupted != 0) {
			progress_end(&progress);
			return report(chunk, reply, true);
		}
		progress_show(&progress, (uint64_t)facts.rows, (uint64_t)facts.of, "rows",
			(uint64_t)facts.rate, (uint64_t)facts.eta_ms);
	}
}

/* ---- beginning ---- */

static int begin(
	const struct chunk *chunk, const struct params *params, lf_db *db, lf_reply **reply)
{
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return cli_fail("chunk", "out of memory");
	}
	lf_batch_step(batch, chunk->sql);
	for (unsigned i = 0; i < params->count; i++) {
		if (params->list[i].name != NULL) {
			lf_bind_name(batch, params->list[i].name);
		}
		param_bind(batch, &params->list[i].value);
	}
	int result = lf_chunk(db, chunk->name, batch, &chunk->options, reply);
	lf_batch_free(batch);
	return result == LF_OK ? CLI_DONE : connect_report(&chunk->connect, db, result, *reply);
}

static int run(const struct chunk *chunk, const struct params *params)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int code = connect_open(&chunk->connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	if (chunk->op == NULL) {
		code = begin(chunk, params, db, &reply);
		if (code != CLI_DONE || chunk->detach) {
			return code != CLI_DONE ? code : report(chunk, reply, false);
		}
		return wait_for_end(chunk, db);
	}
	if (strcmp(chunk->op, "wait") == 0) {
		return wait_for_end(chunk, db);
	}
	int result = lf_chunk_control(db, chunk->name, chunk->op, chunk->options.rate, &reply);
	if (result != LF_OK) {
		return connect_report(&chunk->connect, db, result, reply);
	}
	bool go_on = strcmp(chunk->op, "resume") == 0 && !chunk->detach;
	return go_on ? wait_for_end(chunk, db) : report(chunk, reply, false);
}

int cli_chunk(int argc, char **argv)
{
	struct chunk chunk = {.connect = {.command = "chunk"}, .options = LF_CHUNK_OPTIONS_INIT};
	CLEANUP(params_finish) struct params params = {0};
	struct options options;
	char error[PARAM_ERROR_BYTES];
	options_init(&options, "chunk", table, argc, argv);
	int code = parse(&chunk, &options);
	if (code >= 0) {
		return code;
	}
	int rc = params_read(
		&params, (const char *const *)options.values, options.count, chunk.text, error);
	if (rc != 0) {
		return rc == -ENOMEM ? cli_fail("chunk", "out of memory")
				     : cli_usage("chunk", "%s", error);
	}
	choose_name(&chunk);
	return run(&chunk, &params);
}
