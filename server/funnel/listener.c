/* SPDX-License-Identifier: MIT */

/* Binding and accepting. Who may do what is decided after the connection is made. */

#include "server/funnel/listener.h"

#include "server/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	BACKLOG = 1024,
	ACCEPTS_MAX = 64,      /* in a row, before others get their turn */
	PAUSE_US = 100 * 1000, /* without descriptors */
};

struct listener {
	int fd;
	int spare_fd; /* given up to accept, and turn away, one connection when none is left */
	struct loop_watch *watch;
	struct loop_timer *retry;
	listener_fn *fn;
	void *ctx;
	bool complained;
};

static int fail(char *ret_error, size_t bytes, const char *path, const char *what)
{
	int error = errno;
	snprintf(ret_error, bytes, "socket %s: %s: %s", path, what, strerror(error));
	return -error;
}

/* Only a socket is ever removed: a file of that name is somebody's. */
static int remove_stale(const char *path, char *ret_error, size_t bytes)
{
	struct stat status;
	if (lstat(path, &status) != 0) {
		return errno == ENOENT ? 0 : fail(ret_error, bytes, path, "cannot be looked at");
	}
	if (!S_ISSOCK(status.st_mode)) {
		errno = EEXIST;
		return fail(ret_error, bytes, path,
			"something else stands there; remove it or use --socket");
	}
	return unlink(path) == 0 ? 0
				 : fail(ret_error, bytes, path, "cannot remove the stale socket");
}

static int give_to_group(const char *path, const char *group, char *ret_error, size_t bytes)
{
	char space[16384];
	struct group entry;
	struct group *found = NULL;
	if (group[0] == 0) {
		return 0;
	}
	char *end = NULL;
	gid_t gid = (gid_t)strtoul(group, &end, 10);
	if (*end != 0) {
		if (getgrnam_r(group, &entry, space, sizeof(space), &found) != 0 || found == NULL) {
			snprintf(ret_error, bytes,
				"socket_group = %s: there is no such group (cure: groupadd, or a gid)",
				group);
			return -ENOENT;
		}
		gid = entry.gr_gid;
	}
	return lchown(path, (uid_t)-1, gid) == 0
		? 0
		: fail(ret_error, bytes, path, "cannot be given to socket_group");
}

int listener_bind(const char *path, const char *group, char *ret_error, size_t error_bytes)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return fail(ret_error, error_bytes, path, "over 107 bytes; use --socket");
	}
	memcpy(address.sun_path, path, strlen(path) + 1);
	int rc = remove_stale(path, ret_error, error_bytes);
	if (rc < 0) {
		return rc;
	}
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		return fail(ret_error, error_bytes, path, "cannot be made");
	}
	/* The mode comes with the bind: a chmod afterwards would leave a moment to slip through. */
	mode_t before = umask(0117);
	rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0
		? 0
		: fail(ret_error, error_bytes, path, "cannot be bound");
	umask(before);
	rc = rc == 0 ? give_to_group(path, group, ret_error, error_bytes) : rc;
	if (rc == 0 && listen(fd, BACKLOG) != 0) {
		rc = fail(ret_error, error_bytes, path, "cannot listen");
	}
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}

/* One connection is accepted with the spare descriptor and closed, so that its client is told. */
static void turn_one_away(struct listener *listener)
{
	if (listener->spare_fd >= 0) {
		close(listener->spare_fd);
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0) {
			close(fd);
		}
		listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
}

static void out_of_descriptors(struct listener *listener, int error)
{
	if (!listener->complained) {
		log_warn("cannot accept: pausing", log_str("error", strerror(error)));
		listener->complained = true;
	}
	turn_one_away(listener);
	(void)loop_watch_set(listener->watch, 0);
	loop_timer_start(listener->retry, PAUSE_US);
}

static void accept_some(void *ctx, unsigned ready)
{
	struct listener *listener = ctx;
	(void)ready;
	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			listener->complained = false;
			listener->fn(listener->ctx, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			out_of_descriptors(listener, errno);
			return;
		}
		if (errno == EAGAIN) {
			return;
		}
		/* ECONNABORTED, EINTR and their like concern one connection only. */
	}
}

static void accept_again(void *ctx)
{
	struct listener *listener = ctx;
	(void)loop_watch_set(listener->watch, LOOP_READ);
}

int listener_new(
	struct loop *loop, int fd, listener_fn *fn, void *ctx, struct listener **ret_listener)
{
	struct listener *listener = calloc(1, sizeof(*listener));
	if (listener == NULL) {
		return -ENOMEM;
	}
	*listener = (struct listener){.fd = -1, .fn = fn, .ctx = ctx};
	listener->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	listener->watch = loop_watch_new(loop, fd, accept_some, listener);
	listener->retry = loop_timer_new(loop, accept_again, listener);
	if (listener->watch == NULL || listener->retry == NULL ||
		loop_watch_set(listener->watch, LOOP_READ) < 0) {
		listener_free(listener);
		return -ENOMEM;
	}
	listener->fd = fd;
	*ret_listener = listener;
	return 0;
}

void listener_pause(struct listener *listener)
{
	loop_timer_stop(listener->retry);
	(void)loop_watch_set(listener->watch, 0);
}

void listener_free(struct listener *listener)
{
	if (listener == NULL) {
		return;
	}
	loop_watch_free(listener->watch);
	loop_timer_free(listener->retry);
	if (listener->fd >= 0) {
		close(listener->fd);
	}
	if (listener->spare_fd >= 0) {
		close(listener->spare_fd);
	}
	free(listener);
}
