/* SPDX-License-Identifier: MIT */

/* The lock file of a daemon, read and never written. */

#include "server/cli/lock.h"

#include "server/base/cleanup.h"
#include "server/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/time.h>
#include <unistd.h>

enum { LOOK_MS = 100 };

static pid_t read_pid(int fd)
{
	char text[24] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	long pid = n > 0 ? strtol(text, NULL, 10) : 0;
	return pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

static int open_lock(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
}

struct lock_view lock_look(const char *path)
{
	struct lock_view view = {.state = LOCK_FREE};
	CLEANUP_FD int fd = open_lock(path);
	if (fd < 0) {
		view.state = errno == ENOENT ? LOCK_FREE : LOCK_HIDDEN;
		return view;
	}
	view.pid = read_pid(fd);
	if (flock(fd, LOCK_SH | LOCK_NB) != 0) {
		view.state = errno == EWOULDBLOCK ? LOCK_HELD : LOCK_HIDDEN;
	}
	return view;
}

/* Its arrival interrupts flock(); there is nothing else to do. */
static void on_alarm(int signo)
{
	(void)signo;
}

static void set_alarms(unsigned every_ms)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval timer = {.it_value.tv_usec = (suseconds_t)every_ms * 1000};
	timer.it_interval = timer.it_value;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static int wait_held(int fd, pid_t holder, uint64_t until_us)
{
	while (flock(fd, LOCK_SH) != 0) {
		if (errno != EINTR) {
			return -errno;
		}
		if (read_pid(fd) != holder) {
			return 0; /* the next daemon was quicker than we */
		}
		if (clock_now_us() >= until_us) {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

int lock_wait(const char *path, unsigned timeout_ms)
{
	uint64_t until_us = clock_now_us() + (uint64_t)timeout_ms * 1000;
	CLEANUP_FD int fd = open_lock(path);
	if (fd < 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	set_alarms(LOOK_MS);
	int rc = wait_held(fd, read_pid(fd), until_us);
	set_alarms(0);
	return rc;
}
