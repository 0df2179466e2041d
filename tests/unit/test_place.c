/* SPDX-License-Identifier: MIT */

/*
 * Where a database may be served, as tables: names of filesystems, lines of mountinfo, paths, and
 * owners and modes of a directory, a database and its sidecars. Real mounts and real second users
 * are the business of the system tests.
 */

#include "server/base/place.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char temp[PATH_MAX];

/* ---- filesystems -------------------------------------------------------------------------- */

static void test_filesystem_names(void **state)
{
	static const struct {
		const char *name;
		enum place_fs fs;
	} cases[] = {
		{"ext4", PLACE_FS_LOCAL},
		{"xfs", PLACE_FS_LOCAL},
		{"btrfs", PLACE_FS_LOCAL},
		{"zfs", PLACE_FS_LOCAL},
		{"tmpfs", PLACE_FS_LOCAL},
		{"fusectl", PLACE_FS_LOCAL},
		{"", PLACE_FS_LOCAL},
		{"overlay", PLACE_FS_OVERLAY},
		{"aufs", PLACE_FS_OVERLAY},
		{"nfs", PLACE_FS_REMOTE},
		{"nfs4", PLACE_FS_REMOTE},
		{"cifs", PLACE_FS_REMOTE},
		{"smb3", PLACE_FS_REMOTE},
		{"9p", PLACE_FS_REMOTE},
		{"virtiofs", PLACE_FS_REMOTE},
		{"fuse", PLACE_FS_REMOTE},
		{"fuse.sshfs", PLACE_FS_REMOTE},
		{"fuse.gcsfuse", PLACE_FS_REMOTE},
		{"fuseblk", PLACE_FS_REMOTE},
		{"ceph", PLACE_FS_REMOTE},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		assert_int_equal(place_fs_by_name(cases[i].name), cases[i].fs);
	}
	assert_int_equal(place_fs_by_magic(0xef53), PLACE_FS_LOCAL);
	assert_int_equal(place_fs_by_magic(0x794c7630), PLACE_FS_OVERLAY);
	assert_int_equal(place_fs_by_magic(0x6969), PLACE_FS_REMOTE);
	assert_int_equal(place_fs_by_magic(0xff534d42), PLACE_FS_REMOTE);
	assert_int_equal(place_fs_by_magic(0x01021997), PLACE_FS_REMOTE);
	assert_int_equal(place_fs_by_magic(0x65735546), PLACE_FS_REMOTE);
}

static const char mountinfo_text[] =
	"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
	"30 22 0:40 / /data rw - xfs /dev/sdb rw\n"
	"31 30 0:41 / /data/shared rw shared:2 master:3 - nfs4 host:/x rw,vers=4.2\n"
	"32 22 0:42 / /with\\040space\\134and\\011tab rw - 9p share rw\n"
	"33 22 0:43 / /twice rw - ext4 /dev/sdc rw\n"
	"34 33 0:44 / /twice rw - virtiofs tag rw\n"
	"not a line of mountinfo\n"
	"35 22 0:45 /sub /host rw - fuse.sshfs me@there:/x rw\n";

static void test_mountinfo(void **state)
{
	static const struct {
		uint64_t id;
		const char *path;
		const char *fstype; /* NULL: not found */
	} cases[] = {
		{0, "/", "ext4"},
		{0, "/home/me", "ext4"},
		{0, "/data", "xfs"},
		{0, "/data/a", "xfs"},
		{0, "/database", "ext4"},
		{0, "/data/shared/deep/down", "nfs4"},
		{0, "/data/sharedx", "xfs"},
		{0, "/with space\\and\ttab/db", "9p"},
		{0, "/twice/x", "virtiofs"},
		{0, "/host", "fuse.sshfs"},
		{31, "/anywhere", "nfs4"},
		{33, "/twice/x", "ext4"},
		{99, "/data", NULL},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char fstype[64] = "";
		FILE *file = fmemopen(
			(char *)(uintptr_t)mountinfo_text, sizeof(mountinfo_text) - 1, "r");
		bool found = place_fs_by_mountinfo(
			file, cases[i].id, cases[i].path, fstype, sizeof(fstype));
		fclose(file);
		assert_int_equal(found, cases[i].fstype != NULL);
		if (found) {
			assert_string_equal(fstype, cases[i].fstype);
		}
	}
}

/* ---- paths -------------------------------------------------------------------------------- */

static int resolve(const char *db, const char *socket, struct place *place, char *error)
{
	error[0] = '\0';
	return place_resolve(db, socket, place, error, PLACE_TEXT_BYTES);
}

static void test_socket_is_found_in_order(void **state)
{
	struct place place;
	char error[PLACE_TEXT_BYTES];
	char expected[PATH_MAX + 32];
	(void)state;

	assert_int_equal(chdir(temp), 0);
	unsetenv("LITEFUNNEL_SOCKET");
	assert_int_equal(resolve("a.db", NULL, &place, error), 0);
	snprintf(expected, sizeof(expected), "%s/a.db", temp);
	assert_string_equal(place.db, expected);
	snprintf(expected, sizeof(expected), "%s/a.db-funnel", temp);
	assert_string_equal(place.socket, expected);
	snprintf(expected, sizeof(expected), "%s/a.db-funnel.lock", temp);
	assert_string_equal(place.lock, expected);
	place_finish(&place);

	setenv("LITEFUNNEL_SOCKET", "/run/env.sock", 1);
	assert_int_equal(resolve("./a.db", "", &place, error), 0);
	assert_string_equal(place.socket, "/run/env.sock");
	place_finish(&place);
	assert_int_equal(resolve("a.db", "opt.sock", &place, error), 0);
	snprintf(expected, sizeof(expected), "%s/opt.sock", temp);
	assert_string_equal(place.socket, expected);
	place_finish(&place);
	unsetenv("LITEFUNNEL_SOCKET");
}

static void test_links_to_directories_are_resolved(void **state)
{
	struct place place;
	char error[PLACE_TEXT_BYTES];
	char expected[PATH_MAX + 32];
	(void)state;

	assert_int_equal(chdir(temp), 0);
	assert_int_equal(mkdir("real", 0700), 0);
	assert_int_equal(symlink("real", "alias"), 0);
	assert_int_equal(symlink("real/a.db", "link.db"), 0);
	close(open("real/a.db", O_CREAT | O_WRONLY, 0600));

	assert_int_equal(resolve("alias/a.db", NULL, &place, error), 0);
	snprintf(expected, sizeof(expected), "%s/real/a.db", temp);
	assert_string_equal(place.db, expected);
	place_finish(&place);

	/* a client may name the database through a link, and finds the socket of the file */
	assert_int_equal(resolve("link.db", NULL, &place, error), 0);
	snprintf(expected, sizeof(expected), "%s/real/a.db-funnel", temp);
	assert_string_equal(place.socket, expected);
	place_finish(&place);
}

static void test_paths_that_are_refused(void **state)
{
	char long_name[PATH_MAX] = "";
	char long_socket[PATH_MAX] = "/";
	struct place place;
	char error[PLACE_TEXT_BYTES];
	(void)state;

	memset(long_name, 'n', 250);
	memset(long_socket + 1, 's', PLACE_SOCKET_BYTES_MAX - 1);
	assert_int_equal(chdir(temp), 0);
	assert_int_equal(resolve("a.db", long_socket, &place, error), 0);
	assert_int_equal(strlen(place.socket), PLACE_SOCKET_BYTES_MAX);
	place_finish(&place);

	long_socket[PLACE_SOCKET_BYTES_MAX] = 's';
	assert_int_equal(resolve("a.db", long_socket, &place, error), PLACE_REFUSED);
	assert_non_null(strstr(error, "108 bytes"));
	assert_non_null(strstr(error, "--socket"));
	const char *const bad[] = {"", "/", "dir/", ".", "..", "/tmp/..",
		":memory:", "file:a.db?mode=ro", "no/such/directory/a.db", long_name};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(resolve(bad[i], NULL, &place, error), PLACE_REFUSED);
		assert_non_null(strstr(error, "(cure: "));
		assert_null(place.db);
		place_finish(&place);
	}
}

/* ---- owners and modes --------------------------------------------------------------------- */

enum { ME = 2001, OTHER = 2002, MY_GROUP = 3001, READERS = 3002 };

struct entry {
	int uid;
	int gid;
	mode_t mode; /* 0: not there */
};

struct rights_case {
	const char *name;
	struct entry dir;
	struct entry db;
	struct entry wal;
	struct entry shm;
	int condition;
	const char *says; /* part of the text */
};

#define DIR_ADOPTED                                                                                \
	{                                                                                          \
		ME, READERS, 02750                                                                 \
	}
#define DB_ADOPTED                                                                                 \
	{                                                                                          \
		ME, READERS, 0640                                                                  \
	}

static const struct rights_case rights_cases[] = {
	{"adopted", DIR_ADOPTED, DB_ADOPTED, DB_ADOPTED, DB_ADOPTED, 0, ""},
	{"adopted, no sidecars", DIR_ADOPTED, DB_ADOPTED, {0}, {0}, 0, ""},
	{"adopted, others may pass", {ME, READERS, 02751}, DB_ADOPTED, DB_ADOPTED, DB_ADOPTED, 0,
		""},
	{"one's own", {ME, MY_GROUP, 0755}, {ME, MY_GROUP, 0644}, {0}, {0}, 0, ""},
	{"one's own with umask 002", {ME, MY_GROUP, 0775}, {ME, MY_GROUP, 0644}, {0}, {0}, 0, ""},
	{"root's directory, my group", {0, MY_GROUP, 0775}, {ME, MY_GROUP, 0640}, {0}, {0}, 0, ""},
	{"missing", DIR_ADOPTED, {0}, {0}, {0}, PLACE_MISSING, "--create"},
	{"missing, but its wal is there", DIR_ADOPTED, {0}, DB_ADOPTED, {0}, PLACE_REFUSED,
		"may hold commits"},
	{"anybody's directory", {0, 0, 0777}, DB_ADOPTED, {0}, {0}, PLACE_REFUSED, "anybody"},
	{"anybody's, sticky", {0, 0, 01777}, DB_ADOPTED, {0}, {0}, PLACE_REFUSED, "anybody"},
	{"missing in anybody's", {0, 0, 01777}, {0}, {0}, {0}, PLACE_REFUSED, "anybody"},
	{"readers write the directory", {ME, READERS, 02770}, DB_ADOPTED, {0}, {0}, PLACE_REFUSED,
		"the group 3002"},
	{"another's directory", {OTHER, READERS, 02750}, DB_ADOPTED, {0}, {0}, PLACE_REFUSED,
		"uid 2002"},
	{"root's directory", {0, 0, 0755}, DB_ADOPTED, {0}, {0}, PLACE_REFUSED, "may not make"},
	{"another's database", DIR_ADOPTED, {OTHER, READERS, 0640}, {0}, {0}, PLACE_REFUSED,
		"belongs to uid 2002"},
	{"root's database", DIR_ADOPTED, {0, READERS, 0640}, {0}, {0}, PLACE_REFUSED, "adopt"},
	{"the group writes", DIR_ADOPTED, {ME, READERS, 0660}, {0}, {0}, PLACE_REFUSED, "0660"},
	{"my own group writes", {ME, MY_GROUP, 0700}, {ME, MY_GROUP, 0660}, {0}, {0}, PLACE_REFUSED,
		"0660"},
	{"others write", DIR_ADOPTED, {ME, READERS, 0642}, {0}, {0}, PLACE_REFUSED, "0642"},
	{"wal of another", DIR_ADOPTED, DB_ADOPTED, {OTHER, READERS, 0640}, {0}, PLACE_REFUSED,
		"agree"},
	{"wal of another group", DIR_ADOPTED, DB_ADOPTED, {ME, MY_GROUP, 0640}, {0}, PLACE_REFUSED,
		"agree"},
	{"wal of another mode", DIR_ADOPTED, DB_ADOPTED, {ME, READERS, 0600}, {0}, PLACE_REFUSED,
		"agree"},
	{"shm of another group", DIR_ADOPTED, DB_ADOPTED, DB_ADOPTED, {ME, MY_GROUP, 0640},
		PLACE_REFUSED, "-shm"},
	{"sidecars would get another group", {ME, READERS, 0750}, DB_ADOPTED, {0}, {0},
		PLACE_REFUSED, "lock readers out"},
};

static void make(const char *path, const struct entry *entry, bool directory)
{
	if (entry->mode == 0) {
		return;
	}
	if (directory) {
		assert_int_equal(mkdir(path, 0700), 0);
	} else {
		int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
		assert_int_equal(write(fd, "x", 1), 1);
		close(fd);
	}
	assert_int_equal(chown(path, (uid_t)entry->uid, (gid_t)entry->gid), 0);
	assert_int_equal(chmod(path, entry->mode), 0);
}

static void check_case(const struct rights_case *c, size_t number)
{
	char path[64];
	char error[PLACE_TEXT_BYTES];
	struct place place;
	struct place_report report;

	assert_int_equal(chdir(temp), 0);
	snprintf(path, sizeof(path), "case%zu", number);
	make(path, &c->dir, true);
	assert_int_equal(chdir(path), 0);
	make("a.db", &c->db, false);
	make("a.db-wal", &c->wal, false);
	make("a.db-shm", &c->shm, false);
	assert_int_equal(place_resolve("a.db", NULL, &place, error, sizeof(error)), 0);
	int condition = place_check(&place, ME, MY_GROUP, &report);
	if (condition != c->condition || strstr(report.error, c->says) == NULL) {
		fail_msg("%s: condition %d, \"%s\"", c->name, condition, report.error);
	}
	if (condition == PLACE_REFUSED) {
		assert_non_null(strstr(report.error, "(cure: "));
		assert_null(strchr(report.error, '\n'));
	}
	if (condition == 0) {
		assert_true(report.ino != 0);
	}
	place_finish(&place);
}

static void test_rights(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		skip();
	}
	for (size_t i = 0; i < sizeof(rights_cases) / sizeof(rights_cases[0]); i++) {
		check_case(&rights_cases[i], i);
	}
}

static void expect_refused(const char *says)
{
	char error[PLACE_TEXT_BYTES];
	struct place place;
	struct place_report report;

	assert_int_equal(place_resolve("k.db", NULL, &place, error, sizeof(error)), 0);
	assert_int_equal(place_check(&place, geteuid(), getegid(), &report), PLACE_REFUSED);
	assert_non_null(strstr(report.error, says));
	place_finish(&place);
}

static void test_kinds_of_file(void **state)
{
	(void)state;
	assert_int_equal(chdir(temp), 0);
	assert_int_equal(mkdir("kinds", 0700), 0);
	assert_int_equal(chdir("kinds"), 0);

	assert_int_equal(mkdir("k.db", 0700), 0);
	expect_refused("not a regular file");
	assert_int_equal(rmdir("k.db"), 0);
	assert_int_equal(mkfifo("k.db", 0600), 0);
	expect_refused("not a regular file");
	assert_int_equal(unlink("k.db"), 0);
	close(open("other.db", O_CREAT | O_WRONLY, 0600));
	assert_int_equal(symlink("other.db", "k.db"), 0);
	expect_refused("symbolic link");
	assert_int_equal(unlink("k.db"), 0);
	assert_int_equal(symlink("nowhere", "k.db"), 0);
	expect_refused("symbolic link");
	assert_int_equal(unlink("k.db"), 0);
	assert_int_equal(link("other.db", "k.db"), 0);
	expect_refused("2 hard links");
	assert_int_equal(unlink("other.db"), 0);
	assert_int_equal(symlink("elsewhere", "k.db-wal"), 0);
	expect_refused("k.db-wal is not a regular file");
}

/* ---- the lock ----------------------------------------------------------------------------- */

static void test_second_daemon_learns_the_pid_of_the_first(void **state)
{
	struct place place;
	char error[PLACE_TEXT_BYTES];
	char pid_text[32];
	int go[2];
	int done[2];
	int fd = -1;
	char byte = 0;
	(void)state;

	assert_int_equal(chdir(temp), 0);
	assert_int_equal(resolve("lock.db", NULL, &place, error), 0);
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(done), 0);
	pid_t first = fork();
	if (first == 0) {
		int held = -1;
		byte = place_lock(&place, &held, error, sizeof(error)) == 0 ? 'y' : 'n';
		_exit(write(done[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1);
	}
	assert_int_equal(read(done[0], &byte, 1), 1);
	assert_int_equal(byte, 'y');
	assert_int_equal(place_lock(&place, &fd, error, sizeof(error)), PLACE_LOCKED);
	snprintf(pid_text, sizeof(pid_text), "(pid %ld)", (long)first);
	assert_non_null(strstr(error, pid_text));

	/* gone without a word: the lock is free, the file stays */
	kill(first, SIGKILL);
	waitpid(first, NULL, 0);
	assert_int_equal(access(place.lock, F_OK), 0);
	assert_int_equal(place_lock(&place, &fd, error, sizeof(error)), 0);
	assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
	close(fd);
	for (int i = 0; i < 2; i++) {
		close(go[i]);
		close(done[i]);
	}
	place_finish(&place);
}

static void test_lock_file_must_be_a_file(void **state)
{
	struct place place;
	char error[PLACE_TEXT_BYTES];
	int fd = -1;
	(void)state;

	assert_int_equal(chdir(temp), 0);
	assert_int_equal(resolve("trap.db", NULL, &place, error), 0);
	close(open("victim", O_CREAT | O_WRONLY, 0600));
	assert_int_equal(symlink("victim", place.lock), 0);
	assert_int_equal(place_lock(&place, &fd, error, sizeof(error)), PLACE_REFUSED);
	assert_int_equal(unlink(place.lock), 0);
	assert_int_equal(link("victim", place.lock), 0);
	assert_int_equal(place_lock(&place, &fd, error, sizeof(error)), PLACE_REFUSED);
	assert_int_equal(unlink(place.lock), 0);
	assert_int_equal(mkfifo(place.lock, 0600), 0);
	assert_int_equal(place_lock(&place, &fd, error, sizeof(error)), PLACE_REFUSED);
	assert_int_equal(fd, -1);
	place_finish(&place);
}

static int make_temp(void **state)
{
	char path[] = "/tmp/test_place.XXXXXX";
	(void)state;
	umask(0022);
	return mkdtemp(path) == NULL || realpath(path, temp) == NULL ? -1 : 0;
}

static int remove_temp(void **state)
{
	char command[PATH_MAX + 16];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", temp);
	return chdir("/") != 0 || system(command) != 0 ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filesystem_names),
		cmocka_unit_test(test_mountinfo),
		cmocka_unit_test(test_socket_is_found_in_order),
		cmocka_unit_test(test_links_to_directories_are_resolved),
		cmocka_unit_test(test_paths_that_are_refused),
		cmocka_unit_test(test_rights),
		cmocka_unit_test(test_kinds_of_file),
		cmocka_unit_test(test_second_daemon_learns_the_pid_of_the_first),
		cmocka_unit_test(test_lock_file_must_be_a_file),
	};
	return cmocka_run_group_tests(tests, make_temp, remove_temp);
}
