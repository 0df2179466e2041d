/* SPDX-License-Identifier: MIT */

/* The reader, with plain SQLite files in the place of a served database. */

#include "tests/unit/scripted_daemon.h"

/* ---- reading --------------------------------------------------------------------------------- */

/* A database file as the daemon would leave it. epoch < 0: one that was never served. */
static void make_database(const char *path, int epoch, int commit, int value)
{
	sqlite3 *handle = NULL;
	char sql[512];
	assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
	(void)snprintf(sql, sizeof(sql),
		"PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES (%d);", value);
	assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	if (epoch >= 0) {
		(void)snprintf(sql, sizeof(sql),
			"CREATE TABLE _lf_state(id INTEGER PRIMARY KEY, format, epoch, commit_no);"
			"INSERT INTO _lf_state VALUES (1, 1, x'%032x', %d);",
			(unsigned)epoch, commit);
		assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	}
	assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

static void change_database(const char *path, const char *sql)
{
	sqlite3 *handle = NULL;
	assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
	assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

/* With its WAL, as a restore does it: one left behind would bring the old rows into the new file.
 */
static void remove_database(const char *path)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	char name[256];
	for (int i = 0; i < 3; i++) {
		(void)snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		(void)unlink(name);
	}
}

static int read_value(sqlite3 *handle)
{
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(sqlite3_prepare_v2(handle, "SELECT v FROM t", -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int value = sqlite3_column_int(stmt, 0);
	assert_int_equal(sqlite3_finalize(stmt), SQLITE_OK);
	return value;
}

static void reader_follows_the_file(void **state)
{
	char odd[160];
	char other[160];
	sqlite3 *first = NULL;
	sqlite3 *handle = NULL;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(odd, sizeof(odd), "%s/a b%%41?mode=rw#\xc3\xa4.db", folder);
	(void)snprintf(other, sizeof(other), "%s/other.db", folder);
	assert_int_equal(lf_open(odd, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), -EIO);
	assert_non_null(strstr(lf_errmsg(db), "No such file"));
	make_database(odd, 5, 10, 1);
	assert_int_equal(lf_reader(db, &first), 0);
	assert_int_equal(read_value(first), 1);
	assert_int_equal(sqlite3_exec(first, "DELETE FROM t", NULL, NULL, NULL), SQLITE_READONLY);
	change_database(odd, "UPDATE t SET v = 2");
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_ptr_equal(handle, first);
	assert_int_equal(read_value(handle), 2);
	/* Another file under the name. */
	make_database(other, 5, 11, 3);
	remove_database(odd);
	assert_int_equal(rename(other, odd), 0);
	assert_int_equal(lf_reader(db, &handle), 1);
	assert_int_equal(read_value(handle), 3);
	assert_int_equal(lf_reader(db, &handle), 0);
	/* Another epoch in the same file, noticed by another call first. */
	change_database(odd, "UPDATE _lf_state SET epoch = x'00000000000000000000000000000006'");
	uint64_t commit = 0;
	uint8_t epoch[16];
	assert_int_equal(lf_snapshot(db, epoch, &commit), 0);
	assert_int_equal(commit, 11);
	assert_int_equal(epoch[15], 6);
	assert_int_equal(lf_reader(db, &handle), 1);
	assert_int_equal(lf_reader(db, &handle), 0);
	/* Gone and back. */
	remove_database(odd);
	assert_int_equal(lf_reader(db, &handle), -EIO);
	make_database(odd, 6, 12, 4);
	assert_int_equal(lf_reader(db, &handle), 1);
	assert_int_equal(read_value(handle), 4);
	lf_close(db);
}

static void reader_of_a_database_never_served(void **state)
{
	char path[128];
	sqlite3 *handle = NULL;
	uint64_t commit = 0;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/plain.db", folder);
	make_database(path, -1, 0, 1);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_int_equal(read_value(handle), 1);
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_int_equal(lf_snapshot(db, NULL, &commit), -EIO);
	assert_int_equal(lf_wait_commit(db, NULL, 1, 5), -ETIMEDOUT);
	lf_close(db);
}

static void reader_refuses_what_is_no_database(void **state)
{
	char path[128];
	sqlite3 *handle = NULL;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/text.db", folder);
	FILE *file = fopen(path, "w");
	(void)fputs("this is not a database, and long enough for SQLite to look at it twice........"
		    "..............................",
		file);
	(void)fclose(file);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), -EIO);
	assert_non_null(strstr(lf_errmsg(db), "not a database"));
	lf_close(db);
}

static void commits_are_waited_for(void **state)
{
	char path[128];
	uint8_t mine[16] = {[15] = 5};
	uint8_t strange[16] = {[15] = 9};
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/wait.db", folder);
	make_database(path, 5, 10, 1);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_wait_commit(db, mine, 10, 0), 0);
	assert_int_equal(lf_wait_commit(db, NULL, 9, 0), 0);
	assert_int_equal(lf_wait_commit(db, strange, 10, 1000), -ESTALE);
	assert_int_equal(lf_wait_commit(db, mine, 11, 10), -ETIMEDOUT);
	pid_t pid = fork();
	if (pid == 0) {
		(void)poll(NULL, 0, 50);
		change_database(path, "UPDATE _lf_state SET commit_no = 11");
		_exit(0);
	}
	assert_int_equal(lf_wait_commit(db, mine, 11, 5000), 0);
	played(pid);
	lf_close(db);
}

/* Locks of this process on the file, from the kernel's list. */
static int locks_held(const char *path)
{
	struct stat found;
	char line[256];
	char pattern[64];
	int count = 0;
	assert_int_equal(stat(path, &found), 0);
	(void)snprintf(pattern, sizeof(pattern), " %d ", (int)getpid());
	char inode[32];
	(void)snprintf(inode, sizeof(inode), ":%llu ", (unsigned long long)found.st_ino);
	FILE *locks = fopen("/proc/locks", "r");
	while (locks != NULL && fgets(line, sizeof(line), locks) != NULL) {
		count += strstr(line, pattern) != NULL && strstr(line, inode) != NULL ? 1 : 0;
	}
	if (locks != NULL) {
		(void)fclose(locks);
	}
	return count;
}

static void reader_in_a_forked_child(void **state)
{
	char path[128];
	char shm[160];
	sqlite3 *handle = NULL;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/fork.db", folder);
	(void)snprintf(shm, sizeof(shm), "%s-shm", path);
	make_database(path, 5, 10, 1);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), 0);
	int of_parent = locks_held(shm);
	assert_true(of_parent > 0);
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *own = NULL;
		int r = lf_reader(db, &own);
		bool locked = locks_held(shm) > 0 && locks_held(path) > 0;
		bool read = r == 1 && read_value(own) == 1;
		lf_close(db);
		_exit(locked && read ? 0 : 1);
	}
	played(pid);
	assert_int_equal(locks_held(shm), of_parent);
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_int_equal(read_value(handle), 1);
	lf_close(db);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reader_follows_the_file),
		cmocka_unit_test(reader_of_a_database_never_served),
		cmocka_unit_test(reader_refuses_what_is_no_database),
		cmocka_unit_test(commits_are_waited_for),
		cmocka_unit_test(reader_in_a_forked_child),
	};
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
