/* SPDX-License-Identifier: MIT */

/* Who is who: the kernel's answer about a real socket, and the lists of the settings roles_…. */

#include "server/funnel/credentials.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STRANGER = 61001, GROUP = 61002, OTHER_GROUP = 61003 };

/* ---- the lists ---- */

static struct credentials somebody(uid_t uid, gid_t gid)
{
	static gid_t groups[2] = {GROUP, GROUP + 10};
	return (struct credentials){
		.references = 1, .uid = uid, .gid = gid, .groups_count = 2, .groups = groups};
}

static enum role role_with(const struct credentials *who, const char *setting, const char *list)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES];
	assert_int_equal(config_init(&config), 0);
	assert_int_equal(config_set(&config, "roles_ddl", "", SETTING_FROM_OPTION, error), 0);
	assert_int_equal(config_set(&config, setting, list, SETTING_FROM_OPTION, error), 0);
	enum role role = credentials_role(who, &config);
	config_finish(&config);
	return role;
}

static void test_lists(void **state)
{
	const struct credentials stranger = somebody(STRANGER, OTHER_GROUP);
	static const struct {
		const char *list;
		bool matches;
	} cases[] = {
		{"", false},
		{"*", true},
		{"61001", true},
		{"61002", false},
		{"61001x", false},
		{"x61001", false},
		{"-61001", false},
		{"4295028297", false}, /* 2^32 + 61001 */
		{"4294967295", false},
		{"@61002", true}, /* a supplementary group */
		{"@61012", true},
		{"@61003", true},  /* the group itself */
		{"@61001", false}, /* the uid is no gid */
		{"@", false},
		{"@*", false},
		{"root", false},
		{"@root", false},
		{"no-such-user", false},
		{"@no-such-group", false},
		{"root,61001", true},
		{"root, 61001", true},
		{"root 61001", true},
		{" 61001 ", true},
		{",,61001,,", true},
		{"root,nobody,@no-such-group", false},
		{"**", false},
		{"no-such-user, *", true},
		{"61001;61002", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		enum role role = role_with(&stranger, "roles_write", cases[i].list);
		if (role != (cases[i].matches ? ROLE_WRITE : ROLE_NONE)) {
			fail_msg("\"%s\": %s", cases[i].list, role_name(role));
		}
	}
}

static void test_names_of_users_and_groups(void **state)
{
	(void)state;
	const struct passwd *user = getpwnam("daemon");
	const struct group *group = getgrnam("daemon");
	if (user == NULL || group == NULL) {
		skip();
	}
	struct credentials who = somebody(user->pw_uid, 5);
	assert_int_equal(role_with(&who, "roles_query", "daemon"), ROLE_QUERY);
	assert_int_equal(role_with(&who, "roles_query", "@daemon"), ROLE_NONE);
	who.gid = group->gr_gid;
	assert_int_equal(role_with(&who, "roles_query", "@daemon"), ROLE_QUERY);
	assert_int_equal(role_with(&who, "roles_query", "Daemon"), ROLE_NONE);
}

static void test_the_highest_match_wins(void **state)
{
	static const struct {
		const char *name;
		enum role role;
	} settings_of[] = {
		{"roles_stats", ROLE_STATS},
		{"roles_query", ROLE_QUERY},
		{"roles_write", ROLE_WRITE},
		{"roles_ddl", ROLE_DDL},
		{"roles_admin", ROLE_ADMIN},
	};
	const struct credentials stranger = somebody(STRANGER, OTHER_GROUP);
	struct config config;
	char error[CONFIG_ERROR_BYTES];
	(void)state;
	assert_int_equal(config_init(&config), 0);
	assert_int_equal(credentials_role(&stranger, &config), ROLE_DDL); /* the default */
	assert_int_equal(config_set(&config, "roles_ddl", "", SETTING_FROM_FILE, error), 0);
	assert_int_equal(credentials_role(&stranger, &config), ROLE_NONE);
	for (size_t i = 0; i < sizeof(settings_of) / sizeof(settings_of[0]); i++) {
		assert_int_equal(config_set(&config, settings_of[i].name, "61001",
					 SETTING_FROM_OPTION, error),
			0);
		assert_int_equal(credentials_role(&stranger, &config), settings_of[i].role);
	}
	config_finish(&config);
}

static void test_root_and_ourselves_are_admin(void **state)
{
	struct credentials who = somebody(0, 0);
	(void)state;
	assert_int_equal(role_with(&who, "roles_stats", ""), ROLE_ADMIN);
	who.foreign_root = true;
	assert_int_equal(role_with(&who, "roles_admin", "*"), ROLE_NONE);
	who = somebody(geteuid(), 1);
	assert_int_equal(role_with(&who, "roles_stats", ""), ROLE_ADMIN);
}

static void test_another_role_for_the_same_peer(void **state)
{
	struct credentials who = somebody(5000, 1);
	(void)state;
	struct credentials *copy = credentials_with_role(&who, ROLE_WRITE);
	assert_non_null(copy);
	assert_int_equal(copy->role, ROLE_WRITE);
	assert_int_equal(copy->groups_count, 2);
	assert_memory_equal(copy->groups, who.groups, 2 * sizeof(gid_t));
	credentials_unref(copy);
	who.groups = NULL; /* as it is without supplementary groups */
	who.groups_count = 0;
	copy = credentials_with_role(&who, ROLE_QUERY);
	assert_non_null(copy);
	assert_int_equal(copy->groups_count, 0);
	credentials_unref(copy);
}

/* A uid without a name here may be anybody: nothing matches it, not even '*' or its number. */
static void test_the_overflow_uid_is_nobody(void **state)
{
	struct credentials who = somebody(65534, 65534);
	(void)state;
	who.overflow = true;
	assert_int_equal(role_with(&who, "roles_admin", "*"), ROLE_NONE);
	assert_int_equal(role_with(&who, "roles_admin", "65534,nobody,@65534"), ROLE_NONE);
}

/* ---- real sockets ---- */

static void test_the_kernel_tells_who_we_are(void **state)
{
	int fds[2];
	struct credentials *who = NULL;
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(credentials_read(fds[0], &who), 0);
	assert_int_equal(who->uid, geteuid());
	assert_int_equal(who->gid, getegid());
	assert_int_equal(who->pid, getpid());
	assert_false(who->foreign_root);
	assert_int_equal(who->groups_count, getgroups(0, NULL));
	char want[64];
	(void)snprintf(want, sizeof(want), "uid %u (", (unsigned)geteuid());
	assert_memory_equal(who->text, want, strlen(want));
	struct credentials *again = credentials_ref(who);
	assert_ptr_equal(again, who);
	credentials_unref(who);
	assert_int_equal(again->references, 1);
	credentials_unref(again);
	credentials_unref(NULL);
	close(fds[0]);
	close(fds[1]);
}

/* Another uid with many groups connects: a child that gives up root first. */
static void with_groups(int count)
{
	int fds[2];
	gid_t *groups = calloc((size_t)count + 1, sizeof(*groups));
	struct credentials *who = NULL;
	char byte = 0;
	for (int i = 0; i < count; i++) {
		groups[i] = (gid_t)(GROUP + i);
	}
	/* SO_PEERCRED of a pair tells who made it: so the child makes it and passes one end. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	pid_t child = fork();
	if (child == 0) {
		int pair[2];
		char control[CMSG_SPACE(sizeof(int))] = {0};
		struct iovec one = {&byte, 1};
		struct msghdr message = {.msg_iov = &one,
			.msg_iovlen = 1,
			.msg_control = control,
			.msg_controllen = sizeof(control)};
		struct cmsghdr *head = CMSG_FIRSTHDR(&message);
		head->cmsg_level = SOL_SOCKET;
		head->cmsg_type = SCM_RIGHTS;
		head->cmsg_len = CMSG_LEN(sizeof(int));
		if (setgroups((size_t)count, groups) != 0 || setgid(OTHER_GROUP) != 0 ||
			setuid(STRANGER) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
			_exit(1);
		}
		memcpy(CMSG_DATA(head), &pair[0], sizeof(int));
		if (sendmsg(fds[1], &message, 0) != 1 || read(fds[1], &byte, 1) != 1) {
			_exit(2);
		}
		_exit(0);
	}
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec one = {&byte, 1};
	struct msghdr message = {.msg_iov = &one,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	int passed = -1;
	assert_int_equal(recvmsg(fds[0], &message, MSG_CMSG_CLOEXEC), 1);
	assert_non_null(CMSG_FIRSTHDR(&message));
	memcpy(&passed, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(passed));
	assert_int_equal(credentials_read(passed, &who), 0);
	assert_int_equal(who->uid, STRANGER);
	assert_int_equal(who->gid, OTHER_GROUP);
	assert_int_equal(who->pid, child);
	assert_false(who->overflow);
	assert_int_equal(who->groups_count, count);
	for (int i = 0; i < count; i++) {
		assert_int_equal(who->groups[i], GROUP + i);
	}
	assert_true(strlen(who->text) < sizeof(who->text));
	assert_non_null(strstr(who->text, "uid 61001 (no name), groups 61003"));
	if (count > 0) {
		char last[32];
		(void)snprintf(last, sizeof(last), "@%d", GROUP + count - 1);
		assert_int_equal(role_with(who, "roles_write", last), ROLE_WRITE);
		(void)snprintf(last, sizeof(last), "@%d", GROUP + count + 1);
		assert_int_equal(role_with(who, "roles_write", last), ROLE_NONE);
	}
	credentials_unref(who);
	assert_int_equal(write(fds[0], "x", 1), 1);
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	close(passed);
	close(fds[0]);
	close(fds[1]);
	free(groups);
}

static void test_another_user_with_many_groups(void **state)
{
	static const int counts[] = {0, 1, 63, 64, 65, 1000, 65535};
	(void)state;
	if (geteuid() != 0) {
		skip();
	}
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		with_groups(counts[i]);
	}
}

static void test_what_is_no_socket(void **state)
{
	struct credentials *who = NULL;
	(void)state;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_int_equal(credentials_read(fd, &who), -ENOTSOCK);
	close(fd);
	assert_int_equal(credentials_read(-1, &who), -EBADF);
	assert_null(who);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lists),
		cmocka_unit_test(test_names_of_users_and_groups),
		cmocka_unit_test(test_the_highest_match_wins),
		cmocka_unit_test(test_root_and_ourselves_are_admin),
		cmocka_unit_test(test_another_role_for_the_same_peer),
		cmocka_unit_test(test_the_overflow_uid_is_nobody),
		cmocka_unit_test(test_the_kernel_tells_who_we_are),
		cmocka_unit_test(test_another_user_with_many_groups),
		cmocka_unit_test(test_what_is_no_socket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
