/* SPDX-License-Identifier: MIT */

/*
 * litefunnel status: how the daemon of a database is, and if there is none, what its files tell. It
 * writes nothing and starts nothing that is not there.
 */

#include "server/base/cleanup.h"
#include "server/base/place.h"
#include "server/cli/adoption.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/lock.h"
#include "server/cli/status_drills.h"
#include "server/cli/status_replicas.h"
#include "server/cli/text.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel status DB [--check] [--json] [options]\n"
	"\n"
	"The first line is ok, or degraded, paused, stopped or unknown with the reason. Degraded is a\n"
	"daemon that is about to stop, that refuses writes for want of room on the disk, in which\n"
	"somebody has waited for more than 5 s, whose WAL is over 1 GiB, whose replica has failed or is\n"
	"behind for more than 60 s, refuses, or failed its last drill, or that has no drill that passed\n"
	"in 30 days. Without a daemon the facts come from the files. A daemon that is stopping takes no\n"
	"clients: it is told as stopped, with its pid, and holds the database until it has ended.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --check         for monitoring: exit with 1 if degraded or paused, and print one line\n"
	"  --json          an object with these facts, and all of `litefunnel show DB stats`\n"
	"  --deadline T    how long a daemon may take to answer: 500ms, 30s [5s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 a daemon answers, 1 failed, 2 usage, 4 stopped, or it does not answer.\n";

enum { OPTION_HELP, OPTION_CHECK, OPTION_JSON };

enum { FIRST_ASK_MS = 250 };

#define WAIT_US_MAX   5000000
#define WAL_BYTES_MAX (1024ll * 1024 * 1024)

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"check", no_argument, NULL, OPTION_CHECK},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

struct status {
	struct connect connect;
	struct place place;
	bool check;
	bool json;
	lf_db *db;
	lf_reply *stats;    /* what the daemon answered, or NULL */
	lf_reply *replicas; /* … about these, or NULL */
	lf_reply *drills;   /* … and these */
	struct lock_view lock;
	const char *word; /* ok, degraded, paused, stopped, unknown */
	char reason[PLACE_TEXT_BYTES];
};

__attribute__((format(printf, 3, 4))) static void judge(
	struct status *status, const char *word, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	status->word = word;
	vsnprintf(status->reason, sizeof(status->reason), format, args);
	va_end(args);
}

/* ---- facts of a daemon ---- */

static struct print_value fact(const struct status *status, const char *name)
{
	for (size_t row = 0; row < lf_reply_rows(status->stats, 0); row++) {
		struct print_value key = answer_value(status->stats, 0, row, 0);
		if (key.len == strlen(name) && memcmp(key.data, name, key.len) == 0) {
			return answer_value(status->stats, 0, row, 1);
		}
	}
	return (struct print_value){.type = LF_NULL, .data = "", .len = 0};
}

static int64_t number(const struct status *status, const char *name)
{
	return fact(status, name).integer;
}

static void print_text(const struct status *status, const char *before, const char *name)
{
	struct print_value value = fact(status, name);
	printf("%s%.*s", before, (int)value.len, value.data != NULL ? value.data : "");
}

static void judge_daemon(struct status *status)
{
	struct print_value state = fact(status, "state");
	int64_t wait_us = number(status, "longest_wait_us");
	int64_t wal_bytes = number(status, "wal_bytes");
	struct print_value trouble = fact(status, "trouble");
	struct print_value ship_trouble = fact(status, "ship_trouble");
	if (state.len != strlen("running") || memcmp(state.data, "running", state.len) != 0) {
		judge(status, "degraded", "the daemon is %.*s", (int)state.len, state.data);
	} else if (trouble.len > 0) {
		judge(status, number(status, "stopped") != 0 ? "stopped" : "degraded", "%.*s",
			(int)trouble.len, trouble.data);
	} else if (ship_trouble.len > 0) {
		judge(status, "degraded", "shipping: %.*s", (int)ship_trouble.len,
			ship_trouble.data);
	} else if (number(status, "paused") != 0) {
		struct print_value by = fact(status, "paused_by");
		int64_t left_s = number(status, "pause_left_s");
		char until[64] = "until `litefunnel resume`";
		if (left_s > 0) {
			snprintf(until, sizeof(until), "for another %" PRId64 " s", left_s);
		}
		judge(status, "paused", "for %" PRId64 " s by %.*s, %s", number(status, "paused_s"),
			(int)by.len, by.data, until);
	} else if (number(status, "ship_paused") != 0) {
		judge(status, "degraded",
			"shipping is paused, for %" PRId64
			" s: what is committed is in the spool only, until `litefunnel resume "
			"--shipping`",
			number(status, "ship_paused_s"));
	} else if (status->replicas != NULL &&
		!status_replicas_well(status->replicas, status->reason, sizeof(status->reason))) {
		status->word = "degraded";
	} else if (status->replicas != NULL &&
		!status_drills_well(
			status->replicas, status->drills, status->reason, sizeof(status->reason))) {
		status->word = "degraded";
	} else if (wait_us > WAIT_US_MAX) {
		judge(status, "degraded", "a batch has waited for %.1f s", (double)wait_us / 1e6);
	} else if (wal_bytes > WAL_BYTES_MAX) {
		judge(status, "degraded",
			"the WAL has %.1f GiB: a reader that never ends its transaction keeps it",
			(double)wal_bytes / (double)WAL_BYTES_MAX);
	} else {
		judge(status, "ok", "%s", "");
	}
}

/* ---- asking ---- */

/* 0 and status->stats, or an exit code and, in there, what went wrong, if anybody said it. */
static int ask(struct status *status, unsigned deadline_ms)
{
	struct connect connect = status->connect;
	connect.deadline_ms = deadline_ms;
	connect_close(&status->db);
	connect_free_reply(&status->stats);
	connect_free_reply(&status->replicas);
	connect_free_reply(&status->drills);
	int code = connect_open(&connect, &status->db);
	if (code != CLI_DONE) {
		return code;
	}
	int result = lf_show(status->db, "stats", NULL, &status->stats);
	if (result == LF_OK && lf_show(status->db, "replicas", NULL, &status->replicas) != LF_OK) {
		connect_free_reply(&status->replicas); /* a daemon that knows none */
	}
	if (result == LF_OK && lf_show(status->db, "drills", NULL, &status->drills) != LF_OK) {
		connect_free_reply(&status->drills);
	}
	return connect_code(result, status->stats);
}

/*
 * A dead daemon is known within a moment; one that is there, or for which systemd listens, has the
 * whole deadline.
 */
static int ask_patiently(struct status *status)
{
	unsigned deadline_ms = status->connect.deadline_ms;
	unsigned first_ms = deadline_ms < FIRST_ASK_MS ? deadline_ms : FIRST_ASK_MS;
	int code = ask(status, first_ms);
	if (code != CLI_UNREACHABLE && code != CLI_UNKNOWN) {
		return code;
	}
	status->lock = lock_look(status->place.lock);
	if (status->lock.state == LOCK_FREE && !adoption_socket_listens(&status->place)) {
		return CLI_UNREACHABLE;
	}
	return deadline_ms > first_ms ? ask(status, deadline_ms - first_ms) : code;
}

/* ---- without a daemon ---- */

static void judge_absence(struct status *status)
{
	const struct lock_view *lock = &status->lock;
	const char *why = status->stats != NULL ? lf_reply_message(status->stats) : "";
	struct stat st;
	bool lives = lock->pid > 0 && (kill(lock->pid, 0) == 0 || errno == EPERM);
	if (access(status->place.socket, F_OK) == 0 && access(status->place.socket, W_OK) != 0) {
		judge(status, "unknown",
			"uid %u may not connect to %s (cure: membership in its group, or the setting "
			"socket_group)",
			geteuid(), status->place.socket);
	} else if (lock->state == LOCK_HELD) {
		judge(status, "stopped",
			"the daemon, pid %ld%s, does not answer (%s); it still holds the database: it "
			"is stopping, or hangs",
			(long)lock->pid, lives ? "" : " elsewhere", why);
	} else if (lock->state == LOCK_HIDDEN) {
		judge(status, "stopped", "no daemon answers, and %s cannot be read (%s)",
			status->place.lock, why);
	} else if (lstat(status->place.db, &st) != 0) {
		judge(status, "stopped", "there is no database %s", status->place.db);
	} else if (lstat(status->place.poisoned, &st) == 0) {
		judge(status, "stopped",
			"an I/O error ended the daemon; the next start checks the database (litefunnel "
			"serve %s)",
			status->connect.db);
	} else if (lock->pid > 0) {
		judge(status, "stopped", "no daemon runs; the last one was pid %ld, which %s",
			(long)lock->pid, lives ? "is another process now" : "is dead");
	} else {
		judge(status, "stopped", "no daemon runs, and none has");
	}
}

static int64_t wal_bytes(const struct status *status)
{
	struct stat st;
	return lstat(status->place.wal, &st) == 0 ? (int64_t)st.st_size : -1;
}

static void print_absent(struct status *status)
{
	uint64_t commit = 0;
	int64_t wal = wal_bytes(status);
	printf("database   %s\n", status->place.db);
	printf("socket     %s\n", status->place.socket);
	if (lf_snapshot(status->db, NULL, &commit) == 0) {
		printf("commit     %" PRIu64 "\n", commit);
	} else {
		printf("commit     unknown: %s\n", lf_errmsg(status->db));
	}
	if (wal >= 0) {
		printf("WAL        %.1f MiB\n", (double)wal / 1048576);
	}
}

static void json_absent(struct status *status)
{
	static const char *const locks[] = {"free", "held", "hidden"};
	uint64_t commit = 0;
	uint8_t epoch[16];
	int64_t wal = wal_bytes(status);
	fputs(",\"db\":", stdout);
	text_json_cstr(stdout, status->place.db);
	fputs(",\"socket\":", stdout);
	text_json_cstr(stdout, status->place.socket);
	printf(",\"lock\":\"%s\",\"last_pid\":%ld", locks[status->lock.state],
		(long)status->lock.pid);
	if (lf_snapshot(status->db, epoch, &commit) == 0) {
		printf(",\"commit\":%" PRIu64 ",\"epoch\":\"", commit);
		text_hex(stdout, epoch, sizeof(epoch));
		fputc('"', stdout);
	}
	if (wal >= 0) {
		printf(",\"wal_bytes\":%" PRId64, wal);
	}
}

/* ---- with one ---- */

static void print_uptime(int64_t seconds)
{
	if (seconds >= 172800) {
		printf(", up %" PRId64 " days\n", seconds / 86400);
	} else if (seconds >= 7200) {
		printf(", up %" PRId64 " h\n", seconds / 3600);
	} else if (seconds >= 120) {
		printf(", up %" PRId64 " min\n", seconds / 60);
	} else {
		printf(", up %" PRId64 " s\n", seconds);
	}
}

static void print_daemon(const struct status *status)
{
	print_text(status, "database   ", "db");
	print_text(status, "\nsocket     ", "socket");
	printf("\ndaemon     pid %" PRId64, number(status, "pid"));
	print_text(status, ", litefunnel ", "version");
	print_text(status, ", SQLite ", "sqlite");
	print_uptime(number(status, "uptime_s"));
	printf("commit     %" PRId64, number(status, "commit"));
	print_text(status, ", epoch ", "epoch");
	print_text(status, "\nsync       ", "sync");
	printf("\nclients    %" PRId64 "\n", number(status, "clients"));
	printf("queue      %" PRId64 " batches, %" PRId64 " bytes, longest wait %.1f ms\n",
		number(status, "queue_batches"), number(status, "queue_bytes"),
		(double)number(status, "longest_wait_us") / 1000);
	printf("WAL        %.1f MiB, %" PRId64 " of %" PRId64 " pages copied into the database\n",
		(double)number(status, "wal_bytes") / 1048576, number(status, "wal_backfilled"),
		number(status, "wal_frames"));
	if (fact(status, "wal_pinned_by").len > 0) {
		print_text(status, "pinned by  ", "wal_pinned_by");
		putchar('\n');
	}
	if (status->replicas != NULL) {
		status_replicas_print(status->replicas, status->place.db);
		status_drills_print(status->replicas, status->drills);
	}
	printf("your role  %s\n", lf_server_role(status->db));
}

static void json_daemon(const struct status *status)
{
	fputs(",\"role\":", stdout);
	text_json_cstr(stdout, lf_server_role(status->db));
	for (size_t row = 0; row < lf_reply_rows(status->stats, 0); row++) {
		struct print_value name = answer_value(status->stats, 0, row, 0);
		struct print_value value = answer_value(status->stats, 0, row, 1);
		fputc(',', stdout);
		text_json(stdout, name.data, name.len);
		fputc(':', stdout);
		print_json_value(stdout, &value);
	}
	if (status->replicas != NULL) {
		status_replicas_json(status->replicas);
		status_drills_json(status->replicas, status->drills);
	}
}

/* ---- the command ---- */

static void print_status(struct status *status, bool answered)
{
	if (status->json) {
		printf("{\"status\":\"%s\",\"reason\":", status->word);
		text_json_cstr(stdout, status->reason);
		if (answered) {
			json_daemon(status);
		} else {
			json_absent(status);
		}
		fputs("}\n", stdout);
		return;
	}
	printf("%s%s%s\n", status->word, status->reason[0] != '\0' ? ": " : "", status->reason);
	if (!status->check && answered) {
		print_daemon(status);
	} else if (!status->check) {
		print_absent(status);
	}
}

static int run(struct status *status)
{
	int code = ask_patiently(status);
	bool absent = code == CLI_UNREACHABLE || code == CLI_UNKNOWN;
	if (code != CLI_DONE && !absent) {
		return status->stats == NULL
			? code
			: cli_fail("status", "%s", lf_reply_message(status->stats));
	}
	if (absent) {
		judge_absence(status);
		code = CLI_UNREACHABLE;
	} else {
		judge_daemon(status);
		code = status->check && strcmp(status->word, "ok") != 0 ? CLI_FAILED : CLI_DONE;
	}
	print_status(status, !absent);
	return print_flush("status") == 0 ? code : CLI_FAILED;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct status *status, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTION_CHECK) {
			status->check = true;
		} else if (option == OPTION_JSON) {
			status->json = true;
		} else if (option == OPTIONS_BAD || connect_option(&status->connect, option) != 0) {
			return CLI_USAGE;
		}
	}
	status->connect.db = options_db(options, 0);
	return status->connect.db == NULL || options_finish(options) != 0 ? CLI_USAGE : -1;
}

int cli_status(int argc, char **argv)
{
	struct status status = {.connect = {.command = "status", .deadline_ms = CONNECT_PROMPT_MS}};
	struct options options;
	char error[PLACE_TEXT_BYTES];
	options_init(&options, "status", table, argc, argv);
	int code = parse(&status, &options);
	if (code >= 0) {
		return code;
	}
	code = place_resolve(status.connect.db, status.connect.socket, &status.place, error,
		       sizeof(error)) == 0
		? run(&status)
		: cli_fail("status", "%s", error);
	connect_free_reply(&status.stats);
	connect_free_reply(&status.replicas);
	connect_free_reply(&status.drills);
	connect_close(&status.db);
	place_finish(&status.place);
	return code;
}
