/* SPDX-License-Identifier: MIT */

/*
 * litefunnel adopt: gives a database to the daemon's user, so that everybody else can only read it,
 * and remembers what was before. It runs while no daemon does, often as root in a directory of
 * another user: so that directory is closed first, and only then are the files in it looked at.
 */

#include "server/base/cleanup.h"
#include "server/cli/adoption.h"
#include "server/cli/cli.h"
#include "server/cli/options.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel adopt DB [--user U] [--readers G] [--writers G] [--dry-run]\n"
	"\n"
	"Prepares a database for the daemon: the daemon's user owns the files and the directory\n"
	"and is the only one who may write them, a group may read them, the journal is a WAL.\n"
	"`litefunnel leave DB` undoes it. Each change is printed. No daemon and no writer may "
	"have\n"
	"the database open meanwhile. Running it again changes nothing that is right already.\n"
	"\n"
	"  DB              path of the database, or LITEFUNNEL_DB\n"
	"  --user U        who the daemon runs as [as root: litefunnel; else: yourself]\n"
	"  --readers G     group that may read the files and connect [the database's group]\n"
	"  --writers G     group that may connect, if it is another one; it sees the socket only.\n"
	"                  The daemon needs `socket_group = G`, and its user must be in G\n"
	"  --create        make the database if it is missing, and the last directory of the path\n"
	"  --directory-too take the directory although it holds other things than this database\n"
	"  --dry-run       print what would be done, change nothing\n"
	"  --json          print one JSON object instead of lines\n"
	"  --help          this text\n"
	"\n"
	"Afterwards: directory 2750 U:READERS (2751 if --writers is another group), database, "
	"-wal\n"
	"and -shm 0640 U:READERS, journal_mode = wal, and what was before in DB-adopted.\n"
	"\n"
	"The directory is changed only if it holds nothing but the files of this database, or "
	"with\n"
	"--directory-too; never / and no directory such as /tmp. Where it is shared, give the\n"
	"database one of its own first: mkdir DIR; mv app.db* DIR\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage.\n";

struct adopt {
	const char *db_arg;
	const char *user_arg;
	const char *readers_arg;
	const char *writers_arg;
	bool create;
	bool directory_too;
	bool dry_run;
	bool json;

	uid_t uid;
	gid_t gid; /* primary group of uid */
	gid_t readers;
	gid_t writers;
	struct place place;
	struct account account;
	struct owner dir_was;
	bool db_missing;
	int lock_fd;
	char error[ADOPTION_ERROR_BYTES];
};

__attribute__((format(printf, 2, 3))) static int fail(struct adopt *adopt, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(adopt->error, sizeof(adopt->error), format, args);
	va_end(args);
	return CLI_FAILED;
}

/* ---- who ---------------------------------------------------------------------------------- */

static int choose_user(struct adopt *adopt)
{
	if (adopt->user_arg == NULL && geteuid() != 0) {
		adopt->uid = geteuid();
		adopt->gid = getegid();
		return 0;
	}
	const char *name = adopt->user_arg != NULL ? adopt->user_arg : "litefunnel";
	if (owner_find_user(name, &adopt->uid, &adopt->gid) < 0) {
		return fail(adopt,
			"there is no user %s (cure: --user U, or make it: adduser "
			"--system --group %s)",
			name, name);
	}
	return 0;
}

static int choose_groups(struct adopt *adopt, const struct stat *db)
{
	/* root's group is nobody's group of readers */
	adopt->readers = db != NULL && db->st_gid != 0 ? db->st_gid : adopt->gid;
	if (adopt->readers_arg != NULL &&
		owner_find_group(adopt->readers_arg, &adopt->readers) < 0) {
		return fail(adopt,
			"there is no group %s (cure: --readers G, or make it: addgroup "
			"--system %s)",
			adopt->readers_arg, adopt->readers_arg);
	}
	adopt->writers = adopt->readers;
	if (adopt->writers_arg != NULL &&
		owner_find_group(adopt->writers_arg, &adopt->writers) < 0) {
		return fail(adopt,
			"there is no group %s (cure: --writers G, or make it: addgroup "
			"--system %s)",
			adopt->writers_arg, adopt->writers_arg);
	}
	return 0;
}

static bool user_in_group(uid_t uid, gid_t primary, gid_t gid)
{
	const struct passwd *user = getpwuid(uid);
	gid_t groups[256];
	int count = (int)(sizeof(groups) / sizeof(groups[0]));

	if (uid == 0 || gid == primary) {
		return true;
	}
	if (user == NULL || getgrouplist(user->pw_name, user->pw_gid, groups, &count) < 0) {
		return false;
	}
	for (int i = 0; i < count; i++) {
		if (groups[i] == gid) {
			return true;
		}
	}
	return false;
}

/* ---- may this be done at all -------------------------------------------------------------- */

static bool is_own_file(const struct place *place, const char *entry)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-journal", "-funnel",
		"-funnel.lock", "-ship", "-reserve", "-poisoned", "-adopted", "-adopted.tmp"};
	size_t len = strlen(place->name);

	if (strcmp(entry, ".") == 0 || strcmp(entry, "..") == 0 ||
		strcmp(entry, "lost+found") == 0) {
		return true;
	}
	if (strncmp(entry, place->name, len) != 0) {
		return false;
	}
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		if (strcmp(entry + len, suffixes[i]) == 0) {
			return true;
		}
	}
	return false;
}

static int check_directory_alone(struct adopt *adopt)
{
	const struct place *place = &adopt->place;
	char other[NAME_MAX + 1] = "";
	DIR *dir = opendir(place->dir);

	if (dir == NULL) {
		return fail(adopt, "%s: %s (cure: run as root)", place->dir, strerror(errno));
	}
	for (const struct dirent *entry = readdir(dir); entry != NULL && other[0] == '\0';
		entry = readdir(dir)) {
		if (!is_own_file(place, entry->d_name)) {
			snprintf(other, sizeof(other), "%s", entry->d_name);
		}
	}
	closedir(dir);
	if (other[0] != '\0') {
		return fail(adopt,
			"the directory %s holds other things too (%s), and adopting takes the "
			"directory with the database (cure: a directory of its own: mkdir DIR; mv "
			"%s* DIR; or --directory-too)",
			place->dir, other, place->name);
	}
	return 0;
}

static struct owner dir_wanted(const struct adopt *adopt)
{
	return (struct owner){
		adopt->uid, adopt->readers, adopt->writers != adopt->readers ? 02751 : 02750};
}

static bool same_owner(const struct owner *a, const struct owner *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->mode == b->mode;
}

static int check_directory(struct adopt *adopt)
{
	struct stat st;
	struct owner want = dir_wanted(adopt);

	if (stat(adopt->place.dir, &st) != 0) {
		return fail(adopt, "%s: %s", adopt->place.dir, strerror(errno));
	}
	adopt->dir_was = owner_of(&st);
	if (strcmp(adopt->place.dir, "/") == 0 ||
		((st.st_mode & S_ISVTX) != 0 && (st.st_mode & S_IWOTH) != 0)) {
		return fail(adopt,
			"%s belongs to everybody and cannot be taken (cure: a directory of its "
			"own: mkdir DIR; mv %s* DIR)",
			adopt->place.dir, adopt->place.name);
	}
	if (same_owner(&adopt->dir_was, &want) || adopt->directory_too) {
		return 0;
	}
	return check_directory_alone(adopt);
}

static int check_nobody_writes(struct adopt *adopt)
{
	char who[64];
	unsigned count = adoption_openers(&adopt->place, false, who, sizeof(who));
	if (count > 0) {
		return fail(adopt,
			"%u process%s has %s open for writing: %s (cure: stop it, adopt, then let "
			"it write through the funnel)",
			count, count == 1 ? "" : "es", adopt->place.db, who);
	}
	return 0;
}

static int check_database(struct adopt *adopt, char journal_mode[16])
{
	struct place_report report;
	int r = place_check_ground(&adopt->place, &report);

	if (report.warning[0] != '\0') {
		account_note(&adopt->account, "%s", report.warning);
	}
	adopt->db_missing = r == PLACE_MISSING;
	if (r < 0) {
		return fail(adopt, "%s: %s", adopt->place.db, strerror(-r));
	}
	if (adopt->db_missing && adopt->create) {
		return 0;
	}
	if (r != 0) {
		return fail(adopt, "%s", report.error);
	}
	return adoption_journal_mode(&adopt->place, journal_mode, adopt->error) != 0 ? CLI_FAILED
										     : 0;
}

/* systemd may hold the socket and start a daemon at any moment. */
static int check_socket(struct adopt *adopt)
{
	if (adoption_socket_listens(&adopt->place)) {
		return fail(adopt,
			"somebody listens on %s (cure: stop the daemon, and the socket unit of "
			"systemd: systemctl stop litefunnel@NAME.socket litefunnel@NAME)",
			adopt->place.socket);
	}
	return 0;
}

/* A dry run must not even make the lock file, so it only asks. */
static int take_lock(struct adopt *adopt)
{
	if (!adopt->dry_run) {
		int r = place_lock(
			&adopt->place, &adopt->lock_fd, adopt->error, sizeof(adopt->error));
		return r != 0 ? CLI_FAILED : 0;
	}
	if (access(adopt->place.lock, F_OK) != 0) {
		return 0;
	}
	FILE *lock = fopen(adopt->place.lock, "re");
	if (lock == NULL) {
		return fail(
			adopt, "%s: %s (cure: run as root)", adopt->place.lock, strerror(errno));
	}
	bool held = flock(fileno(lock), LOCK_SH | LOCK_NB) != 0;
	fclose(lock);
	return held ? fail(adopt, "a litefunnel serves %s (cure: stop it first)", adopt->place.db)
		    : 0;
}

/* ---- doing it ----------------------------------------------------------------------------- */

static int remember(struct adopt *adopt, const char *journal_mode, bool *ret_new)
{
	struct adoption before;
	struct stat st;

	int r = adoption_read(&adopt->place, &before, adopt->error);
	if (r != ADOPTION_NONE) {
		return r == 0 ? 0 : CLI_FAILED; /* the first memory is the one to keep */
	}
	before.dir = adopt->dir_was;
	if (lstat(adopt->place.db, &st) == 0) {
		before.db = owner_of(&st);
	} else { /* made by us: then it will be like its directory */
		before.db = (struct owner){adopt->dir_was.uid, adopt->dir_was.gid, 0640};
	}
	snprintf(before.journal_mode, sizeof(before.journal_mode), "%s",
		journal_mode[0] != '\0'     ? journal_mode
			: adopt->db_missing ? "wal"
					    : "delete");
	account_change(&adopt->account, "remember owner, modes and journal_mode in %s",
		adopt->place.adopted);
	if (adopt->dry_run) {
		return 0;
	}
	*ret_new = adoption_write(&adopt->place, &before, adopt->error) == 0;
	return *ret_new ? 0 : CLI_FAILED;
}

/*
 * While root changes files in it, nobody else may exchange them. Left as it is if it is right
 * already, since readers may be at work in it.
 */
static int close_directory(struct adopt *adopt, bool *ret_closed)
{
	struct owner want = dir_wanted(adopt);

	*ret_closed = false;
	bool safe = adopt->dir_was.uid == 0 && (adopt->dir_was.mode & 022) == 0;
	if (adopt->dry_run || geteuid() != 0 || safe || same_owner(&adopt->dir_was, &want)) {
		return 0;
	}
	struct owner nobody_else = {0, adopt->dir_was.gid, 0700};
	int r = owner_set_directory(adopt->place.dir, &nobody_else);
	*ret_closed = r == 0;
	return r == 0 ? 0 : fail(adopt, "%s: %s", adopt->place.dir, strerror(-r));
}

static void reopen_directory(struct adopt *adopt)
{
	int r = owner_set_directory(adopt->place.dir, &adopt->dir_was);
	if (r < 0) {
		account_note(&adopt->account,
			"%s could not be given back: %s (cure: run adopt again)", adopt->place.dir,
			strerror(-r));
	}
}

static int first_column(sqlite3 *db, const char *sql, char *ret_text, size_t bytes)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
	if (rc == SQLITE_OK) {
		rc = sqlite3_step(stmt);
	}
	if (rc == SQLITE_ROW) {
		const char *text = (const char *)sqlite3_column_text(stmt, 0);
		snprintf(ret_text, bytes, "%s", text != NULL ? text : "");
	}
	sqlite3_finalize(stmt);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* Also makes -wal and -shm, so that they get their owner now and readers find them. */
static int switch_to_wal(struct adopt *adopt, const char *journal_mode)
{
	sqlite3 *db = NULL;
	char mode[16] = "";
	int persist = 1;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE;

	if (strcmp(journal_mode, "wal") != 0) {
		account_change(&adopt->account, "%s %s",
			adopt->db_missing ? "create" : "set journal_mode=wal in", adopt->place.db);
	}
	if (adopt->dry_run) {
		return 0;
	}
	int rc = sqlite3_open_v2(
		adopt->place.db, &db, flags | (adopt->db_missing ? SQLITE_OPEN_CREATE : 0), NULL);
	if (rc == SQLITE_OK) {
		sqlite3_busy_timeout(db, 2000);
		sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
		sqlite3_file_control(db, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
		rc = first_column(db, "PRAGMA journal_mode=wal", mode, sizeof(mode));
	}
	if (rc == SQLITE_OK) {
		rc = first_column(db, "SELECT count(*) FROM sqlite_schema", (char[24]){0}, 24);
	}
	if (rc != SQLITE_OK) {
		fail(adopt, "%s: %s%s", adopt->place.db, sqlite3_errmsg(db),
			(rc & 0xff) == SQLITE_BUSY ? " (cure: stop who uses it, then try again)"
						   : "");
	} else if (strcmp(mode, "wal") != 0) {
		rc = SQLITE_ERROR;
		fail(adopt, "%s stays in journal_mode %s instead of wal (cure: a local filesystem)",
			adopt->place.db, mode);
	}
	sqlite3_close(db);
	return rc == SQLITE_OK ? 0 : CLI_FAILED;
}

static int give(struct adopt *adopt)
{
	struct owner file = {adopt->uid, adopt->readers, 0640};
	struct owner dir = dir_wanted(adopt);
	const struct place *place = &adopt->place;
	const char *const paths[] = {place->db, place->wal, place->shm, place->lock};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		if (owner_apply(&adopt->account, paths[i], NULL, &file, adopt->error) != 0) {
			return CLI_FAILED;
		}
	}
	/* The account begins at what it was, not at the closed state in between. */
	return owner_apply(&adopt->account, place->dir, &adopt->dir_was, &dir, adopt->error) != 0
		? CLI_FAILED
		: 0;
}

static int change(struct adopt *adopt, const char *journal_mode)
{
	bool closed = false;
	bool memory_is_new = false;

	int r = remember(adopt, journal_mode, &memory_is_new);
	if (r == 0) {
		r = close_directory(adopt, &closed);
	}
	if (r == 0 && closed) { /* what was seen in an open directory must be seen again */
		char mode[16];
		r = check_database(adopt, mode);
	}
	if (r == 0) {
		r = switch_to_wal(adopt, journal_mode);
	}
	if (r != 0 && memory_is_new) {
		unlink(adopt->place.adopted); /* no owner has changed: nothing to remember */
	}
	if (r == 0) {
		r = give(adopt);
	}
	if (r != 0 && closed) {
		reopen_directory(adopt);
	}
	return r;
}

static int verify(struct adopt *adopt)
{
	struct place_report report;

	if (adopt->dry_run) {
		return 0;
	}
	int r = place_check(&adopt->place, adopt->uid, adopt->gid, &report);
	if (r != 0) {
		return fail(adopt, "after all changes: %s", r > 0 ? report.error : strerror(-r));
	}
	return check_nobody_writes(adopt);
}

static void advise(struct adopt *adopt)
{
	char user[64];
	char group[64];
	struct stat st;

	owner_user_name(adopt->uid, user, sizeof(user));
	if (adopt->writers != adopt->readers) {
		owner_group_name(adopt->writers, group, sizeof(group));
		account_note(&adopt->account,
			"the socket needs another group: start the daemon with --socket-group %s, "
			"or "
			"`socket_group = %s` in its config file",
			group, group);
		if (!user_in_group(adopt->uid, adopt->gid, adopt->writers)) {
			account_note(&adopt->account,
				"%s is not in the group %s and could not give it the socket (cure: "
				"usermod -aG %s %s)",
				user, group, group, user);
		}
	}
	if (lstat(adopt->place.ship, &st) == 0 && st.st_uid != adopt->uid) {
		account_note(&adopt->account, "%s belongs to uid %u (cure: chown -R %s %s)",
			adopt->place.ship, st.st_uid, user, adopt->place.ship);
	}
	if (adopt->json || adopt->dry_run) {
		return;
	}
	if (adopt->account.changes == 0) {
		printf("nothing to change\n");
	}
	printf("adopted: as %s, litefunnel serve %s\n", user, adopt->place.db);
}

static int run(struct adopt *adopt)
{
	struct stat st;
	char journal_mode[16] = "";

	int r = choose_user(adopt);
	if (r == 0) {
		r = check_database(adopt, journal_mode);
	}
	if (r == 0) {
		r = choose_groups(adopt, lstat(adopt->place.db, &st) == 0 ? &st : NULL);
	}
	if (r == 0) {
		r = check_directory(adopt);
	}
	if (r == 0) {
		r = take_lock(adopt);
	}
	if (r == 0) {
		r = check_socket(adopt);
	}
	if (r == 0) {
		r = check_nobody_writes(adopt);
	}
	if (r == 0) {
		r = change(adopt, journal_mode);
	}
	if (r == 0) {
		r = verify(adopt);
	}
	if (r == 0) {
		advise(adopt);
	}
	return r;
}

/* Only the last directory of the path: what is above it is not ours to make. */
static int make_directory(struct adopt *adopt)
{
	const char *slash = strrchr(adopt->db_arg, '/');

	if (!adopt->create || adopt->dry_run || slash == NULL || slash == adopt->db_arg) {
		return 0;
	}
	CLEANUP_FREE char *dir = strndup(adopt->db_arg, (size_t)(slash - adopt->db_arg));
	if (dir == NULL || (mkdir(dir, 0700) != 0 && errno != EEXIST)) {
		return fail(adopt, "%s: %s (cure: make the directories above it first)",
			dir != NULL ? dir : adopt->db_arg, strerror(errno));
	}
	return 0;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct adopt *adopt, int argc, char **argv)
{
	enum { HELP, USER, READERS, WRITERS, CREATE, DIRECTORY_TOO, DRY_RUN, JSON };
	static const struct option table[] = {
		{"help", no_argument, NULL, HELP},
		{"user", required_argument, NULL, USER},
		{"readers", required_argument, NULL, READERS},
		{"writers", required_argument, NULL, WRITERS},
		{"create", no_argument, NULL, CREATE},
		{"directory-too", no_argument, NULL, DIRECTORY_TOO},
		{"dry-run", no_argument, NULL, DRY_RUN},
		{"json", no_argument, NULL, JSON},
		{NULL, 0, NULL, 0},
	};
	struct options options;

	options_init(&options, "adopt", table, argc, argv);
	for (int option = options_next(&options); option != OPTIONS_END;
		option = options_next(&options)) {
		switch (option) {
		case HELP:
			fputs(help, stdout);
			return CLI_DONE;
		case USER:
			adopt->user_arg = optarg;
			break;
		case READERS:
			adopt->readers_arg = optarg;
			break;
		case WRITERS:
			adopt->writers_arg = optarg;
			break;
		case CREATE:
			adopt->create = true;
			break;
		case DIRECTORY_TOO:
			adopt->directory_too = true;
			break;
		case DRY_RUN:
			adopt->dry_run = true;
			break;
		case JSON:
			adopt->json = true;
			break;
		default:
			return CLI_USAGE;
		}
	}
	adopt->db_arg = options_db(&options, 0);
	return adopt->db_arg == NULL || options_finish(&options) != 0 ? CLI_USAGE : -1;
}

int cli_adopt(int argc, char **argv)
{
	struct adopt adopt = {.lock_fd = -1};

	int code = parse(&adopt, argc, argv);
	if (code >= 0) {
		return code;
	}
	if (account_init(&adopt.account, adopt.json, adopt.dry_run) < 0) {
		fputs("litefunnel adopt: no memory\n", stderr);
		return CLI_FAILED;
	}
	umask(0027);
	int r = make_directory(&adopt);
	if (r == 0 &&
		place_resolve(adopt.db_arg, NULL, &adopt.place, adopt.error, sizeof(adopt.error)) !=
			0) {
		r = CLI_FAILED;
	}
	if (r == 0) {
		r = run(&adopt);
	}
	account_finish(&adopt.account, adopt.place.db != NULL ? adopt.place.db : adopt.db_arg,
		r != 0 ? adopt.error : NULL);
	if (r != 0) {
		fprintf(stderr, "litefunnel adopt: %s\n", adopt.error);
	}
	place_finish(&adopt.place);
	close_fd(&adopt.lock_fd);
	return r;
}
