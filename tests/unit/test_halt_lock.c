/* SPDX-License-Identifier: MIT */

/* The lock of a halt: one at a time, with all that its command starts, and never taken for free by mistake. */

#include "server/base/halt_lock.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/litefunnel-halt-XXXXXX";
static char db[64];
static char path[80];

static int set_up(void **state)
{
	(void)state;
	(void)strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (mkdtemp(dir) == NULL) {
		return -1;
	}
	(void)snprintf(db, sizeof(db), "%s/app.db", dir);
	(void)snprintf(path, sizeof(path), "%s-halt", db);
	return close(open(db, O_RDWR | O_CREAT, 0640));
}

static int tear_down(void **state)
{
	(void)state;
	(void)unlink(path);
	(void)unlink(db);
	return rmdir(dir);
}

static void test_one_at_a_time(void **state)
{
	(void)state;
	int fd = -1;
	int other = -1;
	pid_t holder = 0;
	assert_false(halt_lock_is_held(db, &holder));
	assert_int_equal(halt_lock_take(db, &fd, &holder), 0);
	assert_int_equal(halt_lock_take(db, &other, &holder), -EWOULDBLOCK);
	assert_int_equal(holder, getpid());
	holder = 0;
	assert_true(halt_lock_is_held(db, &holder));
	assert_int_equal(holder, getpid());
	halt_lock_release(db, fd);
	assert_false(halt_lock_is_held(db, &holder));
	assert_int_equal(access(path, F_OK), -1);
}

static void test_whoever_was_started_holds_it_until_it_is_released(void **state)
{
	(void)state;
	int fd = -1;
	pid_t holder = 0;
	for (int released = 0; released < 2; released++) {
		assert_int_equal(halt_lock_take(db, &fd, &holder), 0);
		pid_t child = fork();
		if (child == 0) {
			(void)pause();
			_exit(0);
		}
		if (released) {
			halt_lock_release(db, fd);
		} else {
			assert_int_equal(close(fd), 0); /* as if halt was killed */
		}
		assert_int_equal(halt_lock_is_held(db, &holder), !released);
		assert_int_equal(kill(child, SIGKILL), 0);
		assert_int_equal(waitpid(child, NULL, 0), child);
		assert_false(halt_lock_is_held(db, &holder));
	}
}

static void test_whatever_the_umask_is_and_by_any_name(void **state)
{
	(void)state;
	int fd = -1;
	pid_t holder = 0;
	struct stat status;
	char link[96];
	mode_t before = umask(077);
	assert_int_equal(halt_lock_take(db, &fd, &holder), 0);
	(void)umask(before);
	assert_int_equal(stat(path, &status), 0);
	assert_true((status.st_mode & 0400) != 0 &&
		(geteuid() != 0 ? (status.st_mode & 0044) == 0044 : (status.st_mode & 0077) == 0));
	(void)snprintf(link, sizeof(link), "%s/link", dir);
	assert_int_equal(symlink(db, link), 0);
	assert_true(halt_lock_is_held(link, &holder));
	assert_int_equal(unlink(link), 0);
	halt_lock_release(db, fd);
}

static void test_a_lock_of_a_reader_is_none(void **state)
{
	(void)state;
	pid_t holder = 0;
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_len = 1};
	int fd = open(path, O_RDWR | O_CREAT, 0644);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
	assert_false(halt_lock_is_held(db, &holder));
	assert_int_equal(close(fd), 0);
}

/* Whoever cannot ask does not write beneath a command. */
static void test_without_descriptors_it_counts_as_held(void **state)
{
	(void)state;
	int fd = -1;
	pid_t holder = 0;
	struct rlimit limit;
	struct rlimit none;
	assert_int_equal(halt_lock_take(db, &fd, &holder), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	bool held = halt_lock_is_held(db, &holder);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(held);
	halt_lock_release(db, fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_one_at_a_time),
		TEST(test_whoever_was_started_holds_it_until_it_is_released),
		TEST(test_whatever_the_umask_is_and_by_any_name),
		TEST(test_a_lock_of_a_reader_is_none),
		TEST(test_without_descriptors_it_counts_as_held),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
