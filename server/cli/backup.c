/* SPDX-License-Identifier: MIT */

/*
 * litefunnel backup: the database as one plain file, of one moment. It reads as any reader does, so
 * it needs no daemon and disturbs none; it never writes to the database.
 */

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/base/place.h"
#include "server/cli/adoption.h"
#include "server/cli/cli.h"
#include "server/cli/inspect.h"
#include "server/cli/lock.h"
#include "server/cli/options.h"
#include "server/cli/print.h"
#include "server/cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel backup DB -o FILE [--force] [--json]\n"
	"\n"
	"Copies the database as it is at this moment into FILE: one plain SQLite file, whole when it\n"
	"gets its name, with journal_mode delete and nothing beside it. A daemon may run or not;\n"
	"writes go on. While it runs it is a reader: what is written meanwhile stays in the WAL.\n"
	"The copy has an epoch of its own, so a daemon that serves it is taken for another one.\n"
	"\n"
	"  DB          path of the database; or set LITEFUNNEL_DB\n"
	"  -o FILE     the file to make; also --output FILE\n"
	"  --force     FILE may exist and is replaced\n"
	"  --json      print an object\n"
	"  --help      this text\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage.\n";

enum { OPTION_HELP, OPTION_OUTPUT, OPTION_FORCE, OPTION_JSON };

/* As many pages at a time as leaves room for a look at the clock. */
enum { STEP_PAGES = 4096, BUSY_MS = 5000 };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"output", required_argument, NULL, OPTION_OUTPUT},
	{"force", no_argument, NULL, OPTION_FORCE},
	{"json", no_argument, NULL, OPTION_JSON},
	{NULL, 0, NULL, 0},
};

struct backup {
	const char *db;
	const char *out;
	char *tmp;
	bool force;
	bool json;
	sqlite3 *from;
	sqlite3 *to;
	bool ours;
	uint64_t commit;
};

static int failed(const char *what, sqlite3 *db)
{
	return cli_fail("backup", "%s: %s", what, db != NULL ? sqlite3_errmsg(db) : "no memory");
}

static int failed_errno(const char *what)
{
	return cli_fail("backup", "%s: %s", what, strerror(errno));
}

/* ---- the copy ---- */

/* A transaction that is open all the time holds one moment: no step ever has to begin anew. */
static int open_source(struct backup *backup)
{
	int rc = sqlite3_open_v2(backup->db, &backup->from,
		SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(backup->from, BUSY_MS);
		sqlite3_db_config(backup->from, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
		rc = sqlite3_exec(backup->from, "BEGIN; SELECT count(*) FROM sqlite_schema", NULL,
			NULL, NULL);
	}
	return rc == SQLITE_OK ? CLI_DONE : failed(backup->db, backup->from);
}

static int copy_pages(struct backup *backup)
{
	int rc = sqlite3_open_v2(backup->tmp, &backup->to,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
			SQLITE_OPEN_EXRESCODE,
		NULL);
	if (rc == SQLITE_OK) {
		/* It has no name yet, and is synced once at the end. */
		rc = sqlite3_exec(backup->to,
			"PRAGMA synchronous=off; PRAGMA journal_mode=off; "
			"PRAGMA locking_mode=exclusive",
			NULL, NULL, NULL);
	}
	if (rc != SQLITE_OK) {
		return failed(backup->tmp, backup->to);
	}
	sqlite3_backup *copy = sqlite3_backup_init(backup->to, "main", backup->from, "main");
	while (copy != NULL && (rc = sqlite3_backup_step(copy, STEP_PAGES)) == SQLITE_OK) {
	}
	if (copy == NULL || sqlite3_backup_finish(copy) != SQLITE_OK || rc != SQLITE_DONE) {
		return failed(backup->tmp, backup->to);
	}
	return CLI_DONE;
}

/* A copy that goes on under the same epoch would give its numbers to other commits. */
static int make_independent(struct backup *backup)
{
	backup->ours = sqlite3_table_column_metadata(backup->to, "main", "_lf_state", "epoch", NULL,
			       NULL, NULL, NULL, NULL) == SQLITE_OK;
	int rc = backup->ours
		? sqlite3_exec(backup->to, "UPDATE main._lf_state SET epoch = randomblob(16)", NULL,
			  NULL, NULL)
		: SQLITE_OK;
	if (rc == SQLITE_OK) {
		rc = sqlite3_exec(backup->to, "PRAGMA journal_mode=delete", NULL, NULL, NULL);
	}
	if (rc != SQLITE_OK) {
		return failed(backup->tmp, backup->to);
	}
	rc = sqlite3_close(backup->to);
	backup->to = NULL;
	return rc == SQLITE_OK ? CLI_DONE : cli_fail("backup", "%s: cannot be closed", backup->tmp);
}

static int check(struct backup *backup)
{
	struct inspect *inspect = NULL;
	char why[INSPECT_TEXT_BYTES] = "out of memory";
	int rc = inspect_open(backup->tmp, &inspect, why);
	rc = rc == 0 ? inspect_commit(inspect, &backup->ours, &backup->commit, why) : rc;
	rc = rc == 0 ? inspect_integrity(inspect, INSPECT_QUICK, why) : rc;
	inspect_close(inspect);
	return rc == 0 ? CLI_DONE : cli_fail("backup", "the copy is not sound: %s", why);
}

/* ---- its name ---- */

static int sync_directory(const char *path)
{
	const char *slash = strrchr(path, '/');
	CLEANUP_FREE char *dir =
		slash == NULL ? strdup(".") : strndup(path, (size_t)(slash - path) + 1);
	CLEANUP_FD int fd = dir != NULL ? open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return fd >= 0 && fsync(fd) == 0 ? 0 : -1;
}

static int give_name(const struct backup *backup)
{
	struct stat from;
	CLEANUP_FD int fd = open(backup->tmp, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || stat(backup->db, &from) != 0 || fchmod(fd, from.st_mode & 0777) != 0 ||
		fsync(fd) != 0) {
		return failed_errno(backup->tmp);
	}
	/* link() takes no name that is taken. */
	if (backup->force ? rename(backup->tmp, backup->out) != 0
			  : link(backup->tmp, backup->out) != 0) {
		return failed_errno(backup->out);
	}
	return sync_directory(backup->out) == 0 ? CLI_DONE : failed_errno(backup->out);
}

/* With --force a name may be taken over, but not from under those who use it. */
static int check_no_database_in_use(const struct backup *backup)
{
	CLEANUP(place_finish) struct place place = {0};
	char error[PLACE_TEXT_BYTES];
	char who[64];
	if (place_resolve(backup->out, NULL, &place, error, sizeof error) != 0) {
		return cli_fail("backup", "%s", error);
	}
	struct stat from;
	struct stat to;
	if (stat(backup->db, &from) == 0 && stat(backup->out, &to) == 0 &&
		from.st_dev == to.st_dev && from.st_ino == to.st_ino) {
		return cli_fail("backup", "%s is the database itself", backup->out);
	}
	struct lock_view lock = lock_look(place.lock);
	if (lock.state == LOCK_HELD) {
		return cli_fail("backup", "a daemon (pid %ld) serves %s (cure: another name)",
			(long)lock.pid, backup->out);
	}
	if (adoption_openers(&place, true, who, sizeof who) > 0) {
		return cli_fail("backup", "%s has %s open (cure: another name)", who, backup->out);
	}
	return CLI_DONE;
}

static int check_target(const struct backup *backup)
{
	static const char *const beside[] = {"-wal", "-journal"};
	struct stat st;
	for (size_t i = 0; i < sizeof(beside) / sizeof(beside[0]); i++) {
		CLEANUP_FREE char *path = NULL;
		if (asprintf(&path, "%s%s", backup->out, beside[i]) < 0) {
			path = NULL;
			return cli_fail("backup", "no memory");
		}
		if (lstat(path, &st) == 0) {
			return cli_fail("backup",
				"%s exists and would be taken for a part of the copy (cure: another "
				"name)",
				path);
		}
	}
	if (!backup->force && lstat(backup->out, &st) == 0) {
		return cli_fail("backup", "%s exists (cure: --force replaces it)", backup->out);
	}
	return check_no_database_in_use(backup);
}

static int make_tmp(struct backup *backup)
{
	if (asprintf(&backup->tmp, "%s.backup-tmp.XXXXXX", backup->out) < 0) {
		backup->tmp = NULL;
		return cli_fail("backup", "no memory");
	}
	CLEANUP_FD int fd = mkostemp(backup->tmp, O_CLOEXEC);
	if (fd < 0) {
		int code = failed_errno(backup->out);
		free(backup->tmp);
		backup->tmp = NULL;
		return code;
	}
	return CLI_DONE;
}

/* ---- the command ---- */

static void report(const struct backup *backup, uint64_t took_us)
{
	struct stat st = {0};
	(void)stat(backup->out, &st);
	if (backup->json) {
		fputs("{\"ok\":true,\"output\":", stdout);
		text_json_cstr(stdout, backup->out);
		if (backup->ours) {
			printf(",\"commit\":%" PRIu64, backup->commit);
		}
		printf(",\"bytes\":%lld,\"seconds\":%.3f}\n", (long long)st.st_size,
			(double)took_us / 1e6);
		return;
	}
	printf("%s: %.1f MiB", backup->out, (double)st.st_size / 1048576);
	if (backup->ours) {
		printf(", commit %" PRIu64, backup->commit);
	}
	printf(", quick_check ok, in %.1f s\n", (double)took_us / 1e6);
}

static int run(struct backup *backup)
{
	uint64_t began_us = clock_now_us();
	int code = check_target(backup);
	code = code == CLI_DONE ? open_source(backup) : code;
	code = code == CLI_DONE ? make_tmp(backup) : code;
	code = code == CLI_DONE ? copy_pages(backup) : code;
	sqlite3_close(backup->from);
	code = code == CLI_DONE ? make_independent(backup) : code;
	sqlite3_close(backup->to);
	code = code == CLI_DONE ? check(backup) : code;
	code = code == CLI_DONE ? give_name(backup) : code;
	if (backup->tmp != NULL) {
		(void)unlink(backup->tmp);
	}
	if (code == CLI_DONE) {
		report(backup, clock_now_us() - began_us);
		code = print_flush("backup") == 0 ? CLI_DONE : CLI_FAILED;
	}
	free(backup->tmp);
	return code;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct backup *backup, int argc, char **argv)
{
	int option = 0;
	opterr = 0;
	while ((option = getopt_long(argc, argv, "o:", table, NULL)) >= 0) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == '?') {
			return cli_usage(
				"backup", "unknown option or missing value: %s", argv[optind - 1]);
		}
		backup->out = option == 'o' || option == OPTION_OUTPUT ? optarg : backup->out;
		backup->force = backup->force || option == OPTION_FORCE;
		backup->json = backup->json || option == OPTION_JSON;
	}
	backup->db = optind < argc ? argv[optind++] : options_environment_db();
	if (backup->db == NULL) {
		return cli_usage("backup", "which database? Give its path, or set LITEFUNNEL_DB");
	}
	if (backup->out == NULL || backup->out[0] == '\0') {
		return cli_usage("backup", "where to? -o FILE");
	}
	return optind < argc ? cli_usage("backup", "one argument too many: \"%s\"", argv[optind])
			     : -1;
}

int cli_backup(int argc, char **argv)
{
	struct backup backup = {0};
	umask(0027);
	int code = parse(&backup, argc, argv);
	return code >= 0 ? code : run(&backup);
}
