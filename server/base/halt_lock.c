/* SPDX-License-Identifier: MIT */

/* The file is removed by whoever lets go of the lock, so a lock is good only on the file that stands there. */

#include "server/base/halt_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 20, PID_BYTES = 24 };

/* Beside the file itself, whichever way it is named. False: there is no such path. */
static bool lock_path(const char *db, char ret_path[PATH_MAX])
{
	char *real = realpath(db, NULL);
	int len = snprintf(ret_path, PATH_MAX, "%s-halt", real != NULL ? real : db);
	free(real);
	return len > 0 && len < PATH_MAX;
}

static pid_t read_holder(int fd)
{
	char text[PID_BYTES] = "";
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	return len > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

static int lock(int fd, int command, short type, struct flock *ret_lock)
{
	*ret_lock = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_len = 1};
	return fcntl(fd, command, ret_lock) == 0 ? 0 : -errno;
}

static bool stands_there(int fd, const char *path)
{
	struct stat opened;
	struct stat there;
	return fstat(fd, &opened) == 0 && lstat(path, &there) == 0 &&
		opened.st_dev == there.st_dev && opened.st_ino == there.st_ino;
}

static int write_holder(int fd)
{
	char text[PID_BYTES];
	int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	return ftruncate(fd, 0) == 0 && pwrite(fd, text, (size_t)len, 0) == len ? 0 : -errno;
}

/* Whoever can open it could hold up halts, and starts, by a lock of his own: that is nobody but the daemon's user. */
static void let_the_daemon_ask(int fd, const char *db)
{
	struct stat status;
	bool given = geteuid() == 0 && stat(db, &status) == 0 &&
		fchown(fd, status.st_uid, (gid_t)-1) == 0;
	(void)fchmod(fd, given ? 0600 : 0644); /* whatever the umask is */
}

int halt_lock_take(const char *db, int *ret_fd, pid_t *ret_holder)
{
	char path[PATH_MAX];
	struct flock ignored;
	*ret_holder = 0;
	if (!lock_path(db, path)) {
		return -ENAMETOOLONG;
	}
	for (int i = 0; i < TRIES; i++) {
		int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0644);
		if (fd < 0) {
			int rc = -errno;
			/* One that another user has left behind, when his halt was killed. */
			if (rc != -EACCES || halt_lock_is_held(db, ret_holder) ||
				unlink(path) != 0) {
				return rc;
			}
			continue;
		}
		let_the_daemon_ask(fd, db);
		int rc = lock(fd, F_OFD_SETLK, F_WRLCK, &ignored);
		if (rc == 0 && stands_there(fd, path)) {
			rc = write_holder(fd);
			*ret_fd = fd;
			if (rc != 0) {
				halt_lock_release(db, fd);
			}
			return rc;
		}
		if (rc != 0) {
			*ret_holder = read_holder(fd);
			close(fd);
			return rc == -EAGAIN || rc == -EACCES ? -EWOULDBLOCK : rc;
		}
		close(fd);
	}
	return -EWOULDBLOCK;
}

void halt_lock_release(const char *db, int fd)
{
	char path[PATH_MAX];
	struct flock ignored;
	if (lock_path(db, path) && stands_there(fd, path)) {
		(void)unlink(path);
	}
	(void)lock(fd, F_OFD_SETLK, F_UNLCK, &ignored);
	close(fd);
}

bool halt_lock_is_held(const char *db, pid_t *ret_holder)
{
	char path[PATH_MAX];
	struct flock found;
	*ret_holder = 0;
	errno = ENAMETOOLONG;
	int fd = lock_path(db, path) ? open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
				     : -1;
	if (fd < 0) {
		/* It is not there; or, for want of descriptors, nobody can tell: then CMD may be at work. */
		return errno != ENOENT && errno != ENOTDIR && errno != ELOOP &&
			errno != ENAMETOOLONG;
	}
	bool held = lock(fd, F_OFD_GETLK, F_WRLCK, &found) == 0 && found.l_type == F_WRLCK;
	if (held) {
		*ret_holder = read_holder(fd);
	}
	close(fd);
	return held;
}
