/* SPDX-License-Identifier: MIT */

/*
 * litefunnel halt: somebody else's program writes the file itself. The daemon is paused meanwhile and
 * keeps the file open; a read transaction of ours keeps what CMD commits in the WAL, and CMD from being
 * the only one there. A lock on DB-halt says so to other halts, and to a daemon that is started anew meanwhile.
 * Afterwards the database is checked before anybody writes again.
 */

#include "server/base/cleanup.h"
#include "server/base/halt_lock.h"
#include "server/base/place.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/halt_command.h"
#include "server/cli/lock.h"

#include <errno.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static const char help[] =
	"usage: litefunnel halt DB [--for T] [options] -- CMD [ARG...]\n"
	"\n"
	"Pauses the daemon, lets CMD write the database file itself, checks the database and resumes.\n"
	"For programs that insist on a handle of their own, such as sqlite3 or a migration tool; CMD finds\n"
	"the path in LITEFUNNEL_DB. What comes to the daemon meanwhile waits; reads go on.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  --for T         how long CMD may take [10m]: then it gets SIGTERM, and SIGKILL 5s later\n"
	"  --no-check      do not look at pages and foreign keys, which takes long in a large database\n"
	"  --deadline T    give up after 500ms, 30s, 5m if the daemon does not come to rest [30s]\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: CMD's own; 125: halt itself failed, and says how. If the check fails, or if the daemon\n"
	"was paused before, it stays paused until `litefunnel resume`. One halt at a time: while CMD runs,\n"
	"or what it has started with the database open, the file DB-halt is locked.\n";

enum { OPTION_HELP, OPTION_FOR, OPTION_NO_CHECK };

enum {
	HALT_FAILED = 125,
	FOR_MS = 600000,
	SLACK_MS =
		70000, /* that the pause outlasts CMD: for its end, the check, and for saying resume */
	ATTEMPT_MS = 1000,
	BRIEF_MS = 5000, /* the pause before CMD runs, should we be killed */
	DEADLINE_MS = 30000,
	TAKE_OVER_MS = 15000, /* the daemon's own check takes ten seconds at most */
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"for", required_argument, NULL, OPTION_FOR},
	{"no-check", no_argument, NULL, OPTION_NO_CHECK},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

struct halt {
	struct connect connect;
	unsigned for_ms;
	bool unchecked;
	struct halt_command cmd;
	char real[PATH_MAX]; /* the file, whichever way it is named */
	struct stat file;    /* before CMD; st_ino 0: there was none */
	struct stat wal;
	int lock_fd;
	bool was_paused; /* by somebody else, without an end */
	bool ran;        /* CMD */
	lf_db *db;
	sqlite3 *before; /* the library's, in a transaction that stands where the daemon stopped */
	lf_db *checks;   /* a second one, which sees what is there behind CMD */
	sqlite3 *after;
};

/* ---- the command line ---- */

static int take_option(struct halt *halt, int option)
{
	if (option == OPTION_FOR) {
		return options_duration(optarg, &halt->for_ms)
			? 0
			: cli_usage("halt", "--for %s: use 500ms, 30s, 5m or 1h", optarg);
	}
	if (option == OPTION_NO_CHECK) {
		halt->unchecked = true;
		return 0;
	}
	return connect_option(&halt->connect, option);
}

/* Cuts the command behind `--` off. */
static char **cut_command(int *argc, char **argv)
{
	for (int i = 1; i < *argc; i++) {
		if (strcmp(argv[i], "--") == 0) {
			*argc = i;
			argv[i] = NULL;
			return argv + i + 1;
		}
	}
	return NULL;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct halt *halt, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD || take_option(halt, option) != 0) {
			return HALT_FAILED;
		}
	}
	halt->connect.db = options_db(options, 0);
	if (halt->connect.db == NULL || options_finish(options) != 0) {
		return HALT_FAILED;
	}
	if (halt->cmd.argv == NULL || halt->cmd.argv[0] == NULL) {
		cli_usage("halt", "which command? Give it behind --");
		return HALT_FAILED;
	}
	return -1;
}

/* ---- the daemon ---- */

/* Somebody has paused it already, by hand or by a halt whose check failed. */
static bool is_paused(struct halt *halt)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	return lf_show(halt->db, "stats", "paused", &reply) == LF_OK &&
		lf_reply_rows(reply, 0) == 1 && answer_value(reply, 0, 0, 1).integer != 0;
}

/* The pause that guards what is not right has no end of its own. */
static void stay_paused(struct halt *halt)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int result = lf_admin(halt->db, "pause", &reply);
	if (result != LF_OK) {
		connect_report(&halt->connect, halt->db, result, reply);
		cli_fail("halt", "the pause may end by itself: litefunnel pause %s",
			halt->connect.db);
	}
}

static int ask_for_pause(struct halt *halt, lf_db *db, int64_t for_ms, lf_reply **ret_reply)
{
	return halt->was_paused ? lf_admin(db, "pause", ret_reply)
				: lf_admin_int64(db, "pause", "for_ms", for_ms, ret_reply);
}

/* Nobody else is to blame for it: the daemon is there, and does not do that. */
static bool is_refused(int result, const lf_reply *reply)
{
	return result < 0 || (result == LF_FAILED && strcmp(lf_reply_code(reply), "deadline") != 0);
}

static bool daemon_runs(const struct halt *halt)
{
	struct place place;
	char error[PLACE_TEXT_BYTES];
	if (place_resolve(halt->connect.db, halt->connect.socket, &place, error, sizeof(error)) !=
		0) {
		return true; /* nobody can tell */
	}
	bool runs = lock_look(place.lock).state == LOCK_HELD;
	place_finish(&place);
	return runs;
}

/* With brief pauses until it has come to rest, so that it does not stay paused if we are given up. */
static int pause_briefly(struct halt *halt, lf_db *brief, int64_t for_ms)
{
	struct timespec began;
	struct timespec now;
	unsigned wish_ms = halt->connect.deadline_ms != 0 ? halt->connect.deadline_ms : DEADLINE_MS;
	unsigned deadline_ms = halt->ran ? TAKE_OVER_MS : wish_ms;
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (;;) {
		CLEANUP(connect_free_reply) lf_reply *reply = NULL;
		int result = ask_for_pause(halt, brief, for_ms, &reply);
		int signo = halt_command_signal();
		clock_gettime(CLOCK_MONOTONIC, &now);
		int64_t waited_ms = (int64_t)(now.tv_sec - began.tv_sec) * 1000 +
			(now.tv_nsec - began.tv_nsec) / 1000000;
		if (result == LF_OK) {
			return 0;
		}
		if (halt->ran) {
			if (!daemon_runs(halt)) {
				cli_fail("halt",
					"the daemon has ended: it does not go on with what CMD has left "
					"behind, and its log says why");
				return HALT_FAILED;
			}
		} else if (signo != 0) {
			cli_fail("halt", "%s: nothing was run", strsignal(signo));
			return 128 + signo;
		}
		if (is_refused(result, reply) || waited_ms + ATTEMPT_MS / 2 >= deadline_ms) {
			connect_report(&halt->connect, brief, result, reply);
			return HALT_FAILED;
		}
	}
}

/* 0, or the exit code. */
static int pause_in_attempts(struct halt *halt, int64_t for_ms)
{
	struct connect connect = halt->connect;
	lf_db *brief = NULL;
	if (connect.deadline_ms == 0 || connect.deadline_ms > ATTEMPT_MS) {
		connect.deadline_ms = ATTEMPT_MS;
	}
	if (connect_open(&connect, &brief) != 0) {
		return HALT_FAILED;
	}
	int code = pause_briefly(halt, brief, for_ms);
	connect_close(&brief);
	return code;
}

static int pause_daemon(struct halt *halt)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int code = pause_in_attempts(halt, BRIEF_MS);
	if (code != 0) {
		return code;
	}
	int result = ask_for_pause(halt, halt->db, (int64_t)halt->for_ms + SLACK_MS, &reply);
	if (result == LF_OK) {
		return 0;
	}
	connect_report(&halt->connect, halt->db, result, reply);
	return HALT_FAILED;
}

static int resume_daemon(struct halt *halt)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int result = lf_admin(halt->db, "resume", &reply);
	if (result == LF_OK) {
		return 0;
	}
	connect_report(&halt->connect, halt->db, result, reply);
	cli_fail("halt", "the daemon may still be paused: litefunnel resume %s", halt->connect.db);
	return HALT_FAILED;
}

/* ---- the file ---- */

static int read_failed(const struct halt *halt, const lf_db *db, sqlite3 *reader)
{
	cli_fail("halt", "%s: %s", halt->connect.db,
		reader != NULL && sqlite3_errcode(reader) != SQLITE_OK ? sqlite3_errmsg(reader)
								       : lf_errmsg(db));
	return HALT_FAILED;
}

/*
 * As long as it stands nothing of CMD's leaves the WAL, where shipping finds it; and what was there before can be
 * looked at behind CMD.
 */
static int hold_snapshot(struct halt *halt)
{
	if (lf_reader(halt->db, &halt->before) < 0 ||
		sqlite3_exec(halt->before, "BEGIN; SELECT 1 FROM sqlite_schema", NULL, NULL,
			NULL) != SQLITE_OK) {
		return read_failed(halt, halt->db, halt->before);
	}
	return 0;
}

/* The first column of the first row, or "ok" if there is none; NULL: it could not be asked. The caller frees it. */
static char *ask(sqlite3 *reader, const char *sql)
{
	sqlite3_stmt *stmt = NULL;
	char *answer = NULL;
	int rc = sqlite3_prepare_v2(reader, sql, -1, &stmt, NULL);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
		const char *text =
			rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : "ok";
		answer = strdup(text != NULL ? text : "NULL");
	}
	sqlite3_finalize(stmt);
	return answer;
}

static int check_pages(const struct halt *halt)
{
	CLEANUP_FREE char *found = ask(halt->after, "PRAGMA quick_check(1)");
	if (found == NULL) {
		return read_failed(halt, halt->checks, halt->after);
	}
	if (strcmp(found, "ok") != 0) {
		cli_fail("halt", "%s: it is damaged: %s", halt->connect.db, found);
		return HALT_FAILED;
	}
	return 0;
}

/* A row that points nowhere is CMD's doing, unless there were as many before. */
static int check_foreign_keys(const struct halt *halt)
{
	static const char count[] = "SELECT count(*) FROM pragma_foreign_key_check";
	CLEANUP_FREE char *found = ask(halt->after,
		"SELECT \"table\" || ' row ' || ifnull(rowid, '') FROM pragma_foreign_key_check");
	if (found == NULL) {
		return read_failed(halt, halt->checks, halt->after);
	}
	if (strcmp(found, "ok") == 0) {
		return 0;
	}
	CLEANUP_FREE char *before = ask(halt->before, count);
	CLEANUP_FREE char *after = ask(halt->after, count);
	long long known = before != NULL ? strtoll(before, NULL, 10) : 0;
	long long now = after != NULL ? strtoll(after, NULL, 10) : LLONG_MAX;
	if (now <= known) {
		fprintf(stderr,
			"litefunnel halt: %s: %lld foreign keys point nowhere (%s is one), as %lld did "
			"before\n",
			halt->connect.db, now, found, known);
		return 0;
	}
	cli_fail("halt", "%s: a foreign key points nowhere (--no-check, if it may): %s",
		halt->connect.db, found);
	return HALT_FAILED;
}

static void look_at_wal(const struct halt *halt, struct stat *ret_wal)
{
	char path[PATH_MAX + 8];
	snprintf(path, sizeof(path), "%s-wal", halt->real);
	if (stat(path, ret_wal) < 0) {
		*ret_wal = (struct stat){0};
	}
}

/* The daemon has the old one open, and saves what is in it once it sees that. */
static int check_wal(const struct halt *halt)
{
	struct stat now;
	look_at_wal(halt, &now);
	if (now.st_ino == halt->wal.st_ino && now.st_dev == halt->wal.st_dev) {
		return 0;
	}
	cli_fail("halt",
		"%s has removed or replaced %s-wal: the daemon brings what was in it into the database, and "
		"ends; what CMD itself has committed may be lost",
		halt->cmd.argv[0], halt->real);
	return HALT_FAILED;
}

/* The daemon's epoch: it takes a new one where it was started anew and saw what CMD had written. */
static bool is_daemons_epoch(struct halt *halt, const uint8_t *epoch)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	char text[33];
	for (size_t i = 0; i < 16; i++) {
		snprintf(text + 2 * i, 3, "%02x", epoch[i]);
	}
	if (lf_show(halt->db, "stats", "epoch", &reply) != LF_OK || lf_reply_rows(reply, 0) != 1) {
		return false;
	}
	struct print_value value = answer_value(reply, 0, 0, 1);
	return value.len == strlen(text) && memcmp(value.data, text, value.len) == 0;
}

static int check_database(struct halt *halt, const uint8_t *epoch, uint64_t commit)
{
	uint8_t now[16];
	uint64_t commit_now = 0;
	if (connect_open(&halt->connect, &halt->checks) != 0) {
		return HALT_FAILED;
	}
	if (lf_reader(halt->checks, &halt->after) < 0 ||
		lf_snapshot(halt->checks, now, &commit_now) < 0) {
		return read_failed(halt, halt->checks, halt->after);
	}
	struct stat file = {.st_ino = 0};
	(void)stat(halt->real, &file);
	if (file.st_ino != halt->file.st_ino || file.st_dev != halt->file.st_dev ||
		(memcmp(epoch, now, sizeof(now)) != 0 && !is_daemons_epoch(halt, now))) {
		cli_fail("halt",
			"%s is another file, or another database, than before: stop the daemon and "
			"start it anew",
			halt->connect.db);
		return HALT_FAILED;
	}
	if (commit_now < commit) {
		cli_fail("halt",
			"%s is an older state of itself: commit %llu, and the daemon has answered for "
			"%llu: stop the daemon and start it anew, if that is what you want",
			halt->connect.db, (unsigned long long)commit_now,
			(unsigned long long)commit);
		return HALT_FAILED;
	}
	if (halt->unchecked) {
		return 0;
	}
	int code = check_pages(halt);
	return code != 0 ? code : check_foreign_keys(halt);
}

/* ---- the whole ---- */

/* The daemon looks at what CMD has written before it writes itself: what it says of that is our result. */
static int ask_daemon(struct halt *halt)
{
	static const char *const verdicts[] = {"foreign_writer", "shutting_down", NULL};
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	lf_batch *batch = lf_batch_new();
	lf_batch_step(batch, "SELECT 1");
	lf_batch_deadline(batch, BRIEF_MS);
	int result = lf_write(halt->db, batch, &reply);
	lf_batch_free(batch);
	for (size_t i = 0; result == LF_FAILED && verdicts[i] != NULL; i++) {
		if (strcmp(lf_reply_code(reply), verdicts[i]) == 0) {
			cli_fail("halt", "the daemon does not go on with that: %s",
				lf_reply_message(reply));
			return HALT_FAILED;
		}
	}
	return 0;
}

/* As it was before: a pause of somebody else's is not ours to end. */
static int go_on(struct halt *halt)
{
	halt_lock_release(halt->connect.db, halt->lock_fd);
	if (!halt->was_paused) {
		return resume_daemon(halt);
	}
	fprintf(stderr,
		"litefunnel halt: the daemon was paused before, and stays so: litefunnel resume "
		"%s\n",
		halt->connect.db);
	return 0;
}

static int run_paused(struct halt *halt)
{
	uint8_t epoch[16];
	uint64_t commit = 0;
	bool failed = false;
	int code = hold_snapshot(halt);
	if (code == 0 && lf_snapshot(halt->db, epoch, &commit) < 0) {
		code = read_failed(halt, halt->db, halt->before);
	}
	if (code != 0) {
		(void)go_on(halt);
		return code;
	}
	look_at_wal(halt, &halt->wal);
	(void)stat(halt->real, &halt->file);
	int ended = halt_command_run(&halt->cmd, &failed);
	halt->ran = true;
	if (check_wal(halt) != 0) {
		(void)go_on(halt);
		return HALT_FAILED;
	}
	bool sound = check_database(halt, epoch, commit) == 0;
	if (!sound) {
		stay_paused(halt);
	} else if (pause_in_attempts(halt, SLACK_MS) != 0) {
		/* Behind CMD the daemon takes over what that has committed before it answers to a pause. */
		halt_lock_release(halt->connect.db, halt->lock_fd);
		return HALT_FAILED;
	}
	if (!sound) {
		halt_lock_release(halt->connect.db, halt->lock_fd);
		cli_fail("halt",
			"the daemon stays paused: mend the database, then litefunnel resume %s",
			halt->connect.db);
		return HALT_FAILED;
	}
	if (go_on(halt) != 0 || (!halt->was_paused && ask_daemon(halt) != 0)) {
		return HALT_FAILED;
	}
	return failed ? HALT_FAILED : ended;
}

static int run(struct halt *halt)
{
	pid_t holder = 0;
	int rc = halt_lock_take(halt->connect.db, &halt->lock_fd, &holder);
	if (rc == -EWOULDBLOCK) {
		cli_fail("halt",
			"%s: another halt is at work, or what it has started (process %d): wait for its end",
			halt->connect.db, (int)holder);
		return HALT_FAILED;
	}
	if (rc != 0) {
		cli_fail("halt", "%s-halt: %s", halt->real, strerror(-rc));
		return HALT_FAILED;
	}
	halt_command_block(&halt->cmd);
	halt->was_paused = is_paused(halt);
	int code = pause_daemon(halt);
	if (code != 0) {
		(void)go_on(halt);
		return code;
	}
	return run_paused(halt);
}

int cli_halt(int argc, char **argv)
{
	struct halt halt = {.connect = {.command = "halt"}, .for_ms = FOR_MS, .lock_fd = -1};
	struct options options;
	halt.cmd.argv = cut_command(&argc, argv);
	options_init(&options, "halt", table, argc, argv);
	int code = parse(&halt, &options);
	if (code >= 0) {
		return code;
	}
	halt.cmd.db = halt.connect.db;
	halt.cmd.for_ms = halt.for_ms;
	if (realpath(halt.connect.db, halt.real) == NULL) {
		cli_fail("halt", "%s: %s", halt.connect.db, strerror(errno));
		return HALT_FAILED;
	}
	if (connect_open(&halt.connect, &halt.db) != 0) {
		return HALT_FAILED;
	}
	code = run(&halt);
	if (halt.checks != NULL) {
		connect_close(&halt.checks);
	}
	connect_close(&halt.db);
	return code;
}
