/* SPDX-License-Identifier: MIT */

/*
 * litefunnel halt: somebody else's program writes the file itself. The daemon is paused meanwhile and
 * keeps the file open; a read transaction of ours keeps what CMD commits in the WAL, and CMD from being
 * the only one there. Afterwards the database is checked before anybody writes again.
 */

#include "server/base/cleanup.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
	"was paused before, it stays paused until `litefunnel resume`.\n";

enum { OPTION_HELP, OPTION_FOR, OPTION_NO_CHECK };

enum {
	HALT_FAILED = 125,
	FOR_MS = 600000,
	SLACK_MS = 60000, /* that the pause outlasts CMD: for the check, and for saying resume */
	KILL_MS = 5000,
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
	char **cmd;
	struct stat wal; /* before CMD; st_ino 0: there was none */
	lf_db *db;
	sqlite3 *reader; /* the library's */
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
	if (halt->cmd == NULL || halt->cmd[0] == NULL) {
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

static int pause_daemon(struct halt *halt)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int64_t for_ms = (int64_t)halt->for_ms + KILL_MS + SLACK_MS;
	int result = lf_admin_int64(halt->db, "pause", "for_ms", for_ms, &reply);
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

static int read_failed(struct halt *halt)
{
	cli_fail("halt", "%s: %s", halt->connect.db,
		halt->reader != NULL ? sqlite3_errmsg(halt->reader) : lf_errmsg(halt->db));
	return HALT_FAILED;
}

/* A transaction that stands where the daemon stopped: the WAL does not begin anew before it ends. */
static int hold_snapshot(struct halt *halt)
{
	if (lf_reader(halt->db, &halt->reader) < 0 ||
		sqlite3_exec(halt->reader, "BEGIN; SELECT 1 FROM sqlite_schema", NULL, NULL,
			NULL) != SQLITE_OK) {
		return read_failed(halt);
	}
	return 0;
}

/* The first row of a check, unless it says "ok". */
static int check(struct halt *halt, const char *sql, const char *what)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(halt->reader, sql, -1, &stmt, NULL);
	rc = rc == SQLITE_OK ? sqlite3_step(stmt) : rc;
	const char *text = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : "ok";
	int code = 0;
	if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
		code = read_failed(halt);
	} else if (text == NULL || strcmp(text, "ok") != 0) {
		cli_fail(
			"halt", "%s: %s: %s", halt->connect.db, what, text != NULL ? text : "NULL");
		code = HALT_FAILED;
	}
	sqlite3_finalize(stmt);
	return code;
}

static void look_at_wal(const struct halt *halt, struct stat *ret_wal)
{
	char path[4096];
	snprintf(path, sizeof(path), "%s-wal", halt->connect.db);
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
		halt->cmd[0], halt->connect.db);
	return HALT_FAILED;
}

static int check_database(struct halt *halt, const uint8_t *epoch)
{
	uint8_t now[16];
	uint64_t commit = 0;
	(void)sqlite3_exec(halt->reader, "ROLLBACK", NULL, NULL, NULL);
	int replaced = lf_reader(halt->db, &halt->reader);
	if (replaced < 0 || lf_snapshot(halt->db, now, &commit) < 0) {
		return read_failed(halt);
	}
	if (replaced == 1 || memcmp(epoch, now, sizeof(now)) != 0) {
		cli_fail("halt",
			"%s is another file, or another database, than before: stop the daemon and "
			"start it anew",
			halt->connect.db);
		return HALT_FAILED;
	}
	if (halt->unchecked) {
		return 0;
	}
	int code = check(halt, "PRAGMA quick_check(1)", "it is damaged");
	return code != 0
		? code
		: check(halt, "SELECT \"table\" || ' row ' || rowid FROM pragma_foreign_key_check",
			  "a foreign key points nowhere (--no-check, if it may)");
}

/* ---- the command ---- */

static pid_t start_command(const struct halt *halt, const sigset_t *mask)
{
	pid_t pid = fork();
	if (pid != 0) {
		return pid;
	}
	sigprocmask(SIG_SETMASK, mask, NULL);
	setenv("LITEFUNNEL_DB", halt->connect.db, 1);
	execvp(halt->cmd[0], halt->cmd);
	int error = errno;
	fprintf(stderr, "litefunnel halt: %s: %s\n", halt->cmd[0], strerror(error));
	_exit(HALT_FAILED);
}

/* Its wait status once it has ended, at most after that time; false: it has not. */
static bool wait_for(pid_t pid, const sigset_t *signals, unsigned ms, int *ret_status)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	int64_t until_ms = (int64_t)until.tv_sec * 1000 + until.tv_nsec / 1000000 + ms;
	for (;;) {
		if (waitpid(pid, ret_status, WNOHANG) == pid) {
			return true;
		}
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		int64_t left_ms = until_ms - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
		if (left_ms <= 0) {
			return false;
		}
		struct timespec left = {left_ms / 1000, left_ms % 1000 * 1000000};
		int signo = sigtimedwait(signals, NULL, &left);
		if (signo == SIGTERM || signo == SIGHUP) {
			kill(pid, signo); /* SIGINT comes to it from the terminal itself */
		}
	}
}

/* Runs CMD to its end. Its exit code as a shell would have it; HALT_FAILED if it took too long. */
static int run_command(const struct halt *halt)
{
	sigset_t signals;
	sigset_t before;
	int status = 0;
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigprocmask(SIG_BLOCK, &signals, &before);
	pid_t pid = start_command(halt, &before);
	if (pid < 0) {
		cli_fail("halt", "%s", strerror(errno));
		return HALT_FAILED;
	}
	bool late = !wait_for(pid, &signals, halt->for_ms, &status);
	if (late) {
		cli_fail("halt", "%s has had its time (--for)", halt->cmd[0]);
		kill(pid, SIGTERM);
		if (!wait_for(pid, &signals, KILL_MS, &status)) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
		}
		return HALT_FAILED;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* As it was before: a pause of somebody else's is not ours to end. */
static int go_on(struct halt *halt, bool was_paused)
{
	if (!was_paused) {
		return resume_daemon(halt);
	}
	stay_paused(halt);
	fprintf(stderr,
		"litefunnel halt: the daemon was paused before, and stays so: litefunnel resume "
		"%s\n",
		halt->connect.db);
	return 0;
}

static int run(struct halt *halt)
{
	uint8_t epoch[16];
	uint64_t commit = 0;
	bool was_paused = is_paused(halt);
	int code = pause_daemon(halt);
	if (code != 0) {
		return code;
	}
	code = hold_snapshot(halt);
	if (code == 0 && lf_snapshot(halt->db, epoch, &commit) < 0) {
		code = read_failed(halt);
	}
	if (code != 0) {
		(void)go_on(halt, was_paused);
		return code;
	}
	look_at_wal(halt, &halt->wal);
	int ended = run_command(halt);
	if (check_wal(halt) != 0) {
		(void)go_on(halt, was_paused);
		return HALT_FAILED;
	}
	if (check_database(halt, epoch) != 0) {
		stay_paused(halt);
		cli_fail("halt",
			"the daemon stays paused: mend the database, then litefunnel resume %s",
			halt->connect.db);
		return HALT_FAILED;
	}
	return go_on(halt, was_paused) != 0 ? HALT_FAILED : ended;
}

int cli_halt(int argc, char **argv)
{
	struct halt halt = {.connect = {.command = "halt"}, .for_ms = FOR_MS};
	struct options options;
	halt.cmd = cut_command(&argc, argv);
	options_init(&options, "halt", table, argc, argv);
	int code = parse(&halt, &options);
	if (code >= 0) {
		return code;
	}
	if (connect_open(&halt.connect, &halt.db) != 0) {
		return HALT_FAILED;
	}
	code = run(&halt);
	connect_close(&halt.db);
	return code;
}
