/* SPDX-License-Identifier: MIT */

/* Starts ourselves again. It knows nothing of what the child does. */

#include "server/base/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SAFE_FD = 64 }; /* above every number that a child's descriptors get */

/* Copies descriptors out of the way, so that none is overwritten before it was moved. */
static int lift(const int *fds, size_t count, int *ret_lifted)
{
	for (size_t i = 0; i < count; i++) {
		ret_lifted[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, SAFE_FD);
		if (ret_lifted[i] < 0) {
			int rc = -errno;
			while (i-- > 0) {
				close(ret_lifted[i]);
			}
			return rc;
		}
	}
	return 0;
}

static int spawn(const char *const *argv, const int *lifted, size_t count, pid_t *ret_pid)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	sigset_t usual;
	int rc = posix_spawn_file_actions_init(&actions);
	if (rc != 0) {
		return -rc;
	}
	rc = posix_spawnattr_init(&attributes);
	if (rc != 0) {
		posix_spawn_file_actions_destroy(&actions);
		return -rc;
	}
	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = posix_spawn_file_actions_adddup2(&actions, lifted[i], CHILD_FD_FIRST + (int)i);
	}
	sigemptyset(&none);
	sigfillset(&usual);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &usual);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (rc == 0) {
		rc = posix_spawn(ret_pid, "/proc/self/exe", &actions, &attributes,
			(char *const *)(uintptr_t)argv, environ);
	}
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return -rc;
}

int child_start(
	const char *const *argv, const int *fds, size_t fds_count, pid_t *ret_pid, int *ret_fd)
{
	int pair[2];
	int wanted[CHILD_FDS_MAX];
	int lifted[CHILD_FDS_MAX];
	if (fds_count + 1 > CHILD_FDS_MAX) {
		return -EINVAL;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
		return -errno;
	}
	wanted[0] = pair[1];
	for (size_t i = 0; i < fds_count; i++) {
		wanted[i + 1] = fds[i];
	}
	int rc = lift(wanted, fds_count + 1, lifted);
	if (rc == 0) {
		rc = spawn(argv, lifted, fds_count + 1, ret_pid);
		for (size_t i = 0; i <= fds_count; i++) {
			close(lifted[i]);
		}
	}
	close(pair[1]);
	if (rc != 0) {
		close(pair[0]);
		return rc;
	}
	*ret_fd = pair[0];
	return 0;
}

void child_bind_to_parent(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < CHILD_FDS_MAX; i++) {
		(void)fcntl(CHILD_FD_FIRST + i, F_SETFD, FD_CLOEXEC); /* not for children of ours */
	}
	struct pollfd fd = {.fd = CHILD_FD_FIRST}; /* its end only: there may be words to read */
	if (poll(&fd, 1, 0) > 0) {
		_exit(0); /* it was gone before we could ask */
	}
}

int child_wait(pid_t pid, int fd, int timeout_ms)
{
	struct pollfd gone = {.fd = fd, .events = POLLIN};
	if (poll(&gone, 1, timeout_ms) <= 0) {
		return -ETIMEDOUT;
	}
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
	}
	return 0;
}
