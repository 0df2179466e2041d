/* SPDX-License-Identifier: MIT */

/*
 * litefunnel leave: the way back from `adopt`. Everything of the WAL goes into the database, then
 * owner, modes and journal mode become what they were. It runs while no daemon does, and keeps true
 * that no row is touched unless --drop-tables says so.
 */

#include "server/base/cleanup.h"
#include "server/cli/adoption.h"
#include "server/cli/cli.h"
#include "server/cli/options.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel leave DB [--drop-tables] [--dry-run] [--json]\n"
	"\n"
	"Undoes `litefunnel adopt DB`: copies the WAL into the database, and gives files and\n"
	"directory the owner, the modes and the journal mode that they had. Each change is\n"
	"printed. No daemon may run, and nobody may have the database open.\n"
	"\n"
	"  DB             path of the database, or LITEFUNNEL_DB\n"
	"  --drop-tables  also drop litefunnel's own tables (_lf_...): with them go the commit\n"
	"                 numbers and the memory of answered requests. Nothing else is dropped\n"
	"  --dry-run      print what would be done, change nothing\n"
	"  --json         print one JSON object instead of lines\n"
	"  --help         this text\n"
	"\n"
	"A database that was never adopted keeps its owner and modes. DB-ship (not yet shipped\n"
	"commits) and DB-funnel.lock stay.\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage.\n";

static const char *const tables[] = {
	"_lf_state", "_lf_group", "_lf_session", "_lf_key", "_lf_chunk", "_lf_drill"};

struct leave {
	const char *db_arg;
	bool drop_tables;
	bool dry_run;
	bool json;

	struct place place;
	struct account account;
	struct adoption before;
	bool adopted;
	struct owner dir_was;
	int lock_fd;
	char error[ADOPTION_ERROR_BYTES];
};

__attribute__((format(printf, 2, 3))) static int fail(struct leave *leave, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(leave->error, sizeof(leave->error), format, args);
	va_end(args);
	return CLI_FAILED;
}

/* ---- may this be done --------------------------------------------------------------------- */

static int check_place(struct leave *leave)
{
	struct place_report report;
	struct stat st;

	int r = place_check_ground(&leave->place, &report);
	if (r == PLACE_MISSING) {
		return fail(
			leave, "there is no database %s (cure: the right path)", leave->place.db);
	}
	if (r != 0) {
		return fail(leave, "%s", r < 0 ? strerror(-r) : report.error);
	}
	if (lstat(leave->place.poisoned, &st) == 0) {
		return fail(leave,
			"the last daemon of %s ended in an I/O error and recovery is due (cure: "
			"start litefunnel serve once, stop it, then leave)",
			leave->place.db);
	}
	return 0;
}

static int look_at_directory(struct leave *leave)
{
	struct stat st;
	if (stat(leave->place.dir, &st) != 0) {
		return fail(leave, "%s: %s", leave->place.dir, strerror(errno));
	}
	leave->dir_was = owner_of(&st);
	return 0;
}

static int check_unused(struct leave *leave)
{
	char who[64];

	if (adoption_socket_listens(&leave->place)) {
		return fail(leave,
			"somebody listens on %s (cure: stop the daemon, and the socket unit of "
			"systemd: systemctl stop litefunnel@NAME.socket litefunnel@NAME)",
			leave->place.socket);
	}
	unsigned count = adoption_openers(&leave->place, true, who, sizeof(who));
	if (count > 0) {
		return fail(leave, "%u process%s has %s open: %s (cure: stop it, then leave)",
			count, count == 1 ? "" : "es", leave->place.db, who);
	}
	return 0;
}

static int recall(struct leave *leave)
{
	int r = adoption_read(&leave->place, &leave->before, leave->error);
	leave->adopted = r == 0;
	if (r == ADOPTION_NONE) {
		account_note(&leave->account,
			"nothing is remembered of %s: owner, modes and journal_mode stay",
			leave->place.db);
		return 0;
	}
	return r == 0 ? 0 : CLI_FAILED;
}

/* ---- the database ------------------------------------------------------------------------- */

static int sqlite_fail(struct leave *leave, sqlite3 *db, int rc)
{
	return fail(leave, "%s: %s%s", leave->place.db, sqlite3_errmsg(db),
		(rc & 0xff) == SQLITE_BUSY ? " (cure: stop who uses it, then try again)" : "");
}

static bool has_table(sqlite3 *db, const char *name)
{
	return sqlite3_table_column_metadata(
		       db, "main", name, NULL, NULL, NULL, NULL, NULL, NULL) == SQLITE_OK;
}

static int drop_tables(struct leave *leave, sqlite3 *db)
{
	int rc = leave->dry_run
		? SQLITE_OK
		: sqlite3_exec(db, "PRAGMA foreign_keys=off; BEGIN IMMEDIATE", NULL, NULL, NULL);

	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]) && rc == SQLITE_OK; i++) {
		char sql[64];
		if (!has_table(db, tables[i])) {
			continue;
		}
		account_change(&leave->account, "drop table %s", tables[i]);
		snprintf(sql, sizeof(sql), "DROP TABLE main.%s", tables[i]);
		rc = leave->dry_run ? SQLITE_OK : sqlite3_exec(db, sql, NULL, NULL, NULL);
	}
	if (rc == SQLITE_OK && !leave->dry_run) {
		rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
	}
	return rc == SQLITE_OK ? 0 : sqlite_fail(leave, db, rc);
}

static void name_tables(struct leave *leave, sqlite3 *db)
{
	unsigned count = 0;
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		count += has_table(db, tables[i]);
	}
	if (count > 0) {
		account_note(&leave->account,
			"%u table%s of litefunnel stay%s in the database (--drop-tables removes "
			"them)",
			count, count == 1 ? "" : "s", count == 1 ? "s" : "");
	}
}

static int empty_wal(struct leave *leave, sqlite3 *db)
{
	int in_wal = 0;
	int copied = 0;

	if (leave->dry_run) {
		account_change(&leave->account, "copy the WAL into %s", leave->place.db);
		return 0;
	}
	int rc =
		sqlite3_wal_checkpoint_v2(db, "main", SQLITE_CHECKPOINT_TRUNCATE, &in_wal, &copied);
	if (rc != SQLITE_OK) {
		return sqlite_fail(leave, db, rc);
	}
	account_change(&leave->account, "copy the WAL into %s", leave->place.db);
	return 0;
}

static int restore_journal(struct leave *leave, sqlite3 *db)
{
	sqlite3_stmt *stmt = NULL;

	if (!leave->adopted || strcmp(leave->before.journal_mode, "delete") != 0) {
		return 0;
	}
	account_change(&leave->account, "set journal_mode=delete in %s (was wal)", leave->place.db);
	if (leave->dry_run) {
		return 0;
	}
	int rc = sqlite3_prepare_v2(db, "PRAGMA journal_mode=delete", -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
	}
	const char *mode = rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : NULL;
	bool good = mode != NULL && strcmp(mode, "delete") == 0;
	sqlite3_finalize(stmt);
	return good ? 0 : sqlite_fail(leave, db, rc == SQLITE_ROW ? SQLITE_BUSY : rc);
}

/* Without PERSIST_WAL, so -wal and -shm go away with the last handle: this one. */
static int work_on_database(struct leave *leave)
{
	sqlite3 *db = NULL;
	int r = 0;
	int rc = sqlite3_open_v2(leave->place.db, &db,
		(leave->dry_run ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE) |
			SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE,
		NULL);

	if (rc != SQLITE_OK) {
		r = sqlite_fail(leave, db, rc);
	} else {
		int persist = leave->dry_run;
		sqlite3_busy_timeout(db, 2000);
		sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
		sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, persist, NULL);
		sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
		if (leave->drop_tables) {
			r = drop_tables(leave, db);
		} else {
			name_tables(leave, db);
		}
	}
	if (r == 0) {
		r = empty_wal(leave, db);
	}
	if (r == 0) {
		r = restore_journal(leave, db);
	}
	sqlite3_close(db);
	return r;
}

/* ---- files -------------------------------------------------------------------------------- */

static int remove_file(struct leave *leave, const char *path)
{
	if (access(path, F_OK) != 0) {
		return 0;
	}
	if (!leave->dry_run && unlink(path) != 0) {
		return fail(leave, "%s: %s", path, strerror(errno));
	}
	account_change(&leave->account, "remove %s", path);
	return 0;
}

static int remove_files(struct leave *leave)
{
	struct stat st;
	int r = 0;

	if (lstat(leave->place.socket, &st) == 0 && S_ISSOCK(st.st_mode)) {
		r = remove_file(leave, leave->place.socket);
	}
	if (r == 0) {
		r = remove_file(leave, leave->place.reserve);
	}
	if (r == 0 && lstat(leave->place.ship, &st) == 0) {
		account_note(&leave->account, "%s stays: it may hold commits not yet shipped",
			leave->place.ship);
	}
	return r;
}

static int close_directory(struct leave *leave)
{
	if (leave->dry_run || !leave->adopted || geteuid() != 0) {
		return 0;
	}
	struct owner nobody_else = {0, leave->dir_was.gid, 0700};
	int r = owner_set_directory(leave->place.dir, &nobody_else);
	return r == 0 ? 0 : fail(leave, "%s: %s", leave->place.dir, strerror(-r));
}

static void reopen_directory(struct leave *leave)
{
	if (leave->dry_run || !leave->adopted || geteuid() != 0) {
		return;
	}
	int r = owner_set_directory(leave->place.dir, &leave->dir_was);
	if (r < 0) {
		account_note(&leave->account, "%s could not be given back: %s", leave->place.dir,
			strerror(-r));
	}
}

static int give_back(struct leave *leave)
{
	const struct place *place = &leave->place;
	const char *const paths[] = {place->db, place->wal, place->shm};
	struct owner lock = {leave->before.db.uid, leave->before.db.gid, 0640};

	if (!leave->adopted) {
		return 0;
	}
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		if (owner_apply(&leave->account, paths[i], NULL, &leave->before.db, leave->error) !=
			0) {
			return CLI_FAILED;
		}
	}
	if (owner_apply(&leave->account, place->lock, NULL, &lock, leave->error) != 0) {
		return CLI_FAILED;
	}
	if (owner_apply(&leave->account, place->dir, &leave->dir_was, &leave->before.dir,
		    leave->error) != 0) {
		return CLI_FAILED;
	}
	return remove_file(leave, place->adopted);
}

/* ---- the way ------------------------------------------------------------------------------ */

static int change(struct leave *leave)
{
	int r = close_directory(leave);
	if (r != 0) {
		return r;
	}
	r = check_place(leave); /* what was seen in an open directory must be seen again */
	if (r == 0) {
		r = work_on_database(leave);
	}
	if (r == 0) {
		r = remove_files(leave);
	}
	if (r == 0) {
		r = give_back(leave);
	}
	return r;
}

static int run(struct leave *leave)
{
	int r = check_place(leave);
	if (r == 0) {
		r = look_at_directory(leave);
	}
	if (r == 0 && !leave->dry_run &&
		place_lock(&leave->place, &leave->lock_fd, leave->error, sizeof(leave->error)) !=
			0) {
		r = CLI_FAILED;
	}
	if (r == 0) {
		r = check_unused(leave);
	}
	if (r == 0) {
		r = recall(leave);
	}
	if (r != 0) {
		return r;
	}
	r = change(leave);
	if (r != 0) {
		reopen_directory(leave);
	} else if (!leave->json && !leave->dry_run) {
		printf("left: %s is an ordinary database again\n", leave->place.db);
	}
	return r;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct leave *leave, int argc, char **argv)
{
	enum { HELP, DROP_TABLES, DRY_RUN, JSON };
	static const struct option table[] = {
		{"help", no_argument, NULL, HELP},
		{"drop-tables", no_argument, NULL, DROP_TABLES},
		{"dry-run", no_argument, NULL, DRY_RUN},
		{"json", no_argument, NULL, JSON},
		{NULL, 0, NULL, 0},
	};
	struct options options;

	options_init(&options, "leave", table, argc, argv);
	for (int option = options_next(&options); option != OPTIONS_END;
		option = options_next(&options)) {
		switch (option) {
		case HELP:
			fputs(help, stdout);
			return CLI_DONE;
		case DROP_TABLES:
			leave->drop_tables = true;
			break;
		case DRY_RUN:
			leave->dry_run = true;
			break;
		case JSON:
			leave->json = true;
			break;
		default:
			return CLI_USAGE;
		}
	}
	leave->db_arg = options_db(&options, 0);
	return leave->db_arg == NULL || options_finish(&options) != 0 ? CLI_USAGE : -1;
}

int cli_leave(int argc, char **argv)
{
	struct leave leave = {.lock_fd = -1};

	int code = parse(&leave, argc, argv);
	if (code >= 0) {
		return code;
	}
	if (account_init(&leave.account, leave.json, leave.dry_run) < 0) {
		fputs("litefunnel leave: no memory\n", stderr);
		return CLI_FAILED;
	}
	umask(0027);
	int r = place_resolve(leave.db_arg, NULL, &leave.place, leave.error, sizeof(leave.error));
	r = r == 0 ? run(&leave) : CLI_FAILED;
	account_finish(&leave.account, leave.place.db != NULL ? leave.place.db : leave.db_arg,
		r != 0 ? leave.error : NULL);
	if (r != 0) {
		fprintf(stderr, "litefunnel leave: %s\n", leave.error);
	}
	place_finish(&leave.place);
	close_fd(&leave.lock_fd);
	return r;
}
