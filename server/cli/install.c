/* SPDX-License-Identifier: MIT */

/*
 * One database file in the place of another. What it keeps true: at every moment OUT is the old
 * database with its own -wal, or nothing, or the new database alone; and nothing is ever deleted
 * but the directory of work.
 */

#include "server/cli/install.h"

#include "server/base/cleanup.h"
#include "server/cli/adoption.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

__attribute__((format(printf, 2, 3))) static int refuse(
	char ret_error[INSTALL_ERROR_BYTES], const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error, INSTALL_ERROR_BYTES, format, args);
	va_end(args);
	return INSTALL_REFUSED;
}

static int failed(const char *path, char ret_error[INSTALL_ERROR_BYTES])
{
	int error = errno != 0 ? errno : EIO;
	(void)refuse(ret_error, "%s: %s", path, strerror(error));
	return -error;
}

static bool is_there(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0;
}

static int sync_path(const char *path, int flags)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | flags);
	return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

/* ---- the directory of work ---- */

/* What a crash left of an earlier one: files, no directories. Under the lock nobody else uses it. */
static void empty(const char *dir)
{
	DIR *list = opendir(dir);
	for (struct dirent *entry = NULL; list != NULL && (entry = readdir(list)) != NULL;) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			unlinkat(dirfd(list), entry->d_name, 0);
		}
	}
	if (list != NULL) {
		closedir(list);
	}
}

static int make_dir(struct install *install, char *ret_error)
{
	struct stat st;
	if (asprintf(&install->dir, "%s.restore-tmp", install->place.db) < 0) {
		install->dir = NULL;
		return -ENOMEM;
	}
	if (asprintf(&install->file, "%s/%s", install->dir, install->place.name) < 0) {
		install->file = NULL;
		return -ENOMEM;
	}
	if (mkdir(install->dir, 0700) != 0 && errno != EEXIST) {
		return failed(install->dir, ret_error);
	}
	if (lstat(install->dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid()) {
		return refuse(
			ret_error, "%s is not a directory of ours (cure: remove it)", install->dir);
	}
	empty(install->dir);
	return 0;
}

/* ---- what is there ---- */

/* What belongs to a database, in the order in which it is moved: the -wal never stays alone behind. */
enum { OLD_FILES = 6 };

static void old_files(const struct place *place, const char *ret_paths[OLD_FILES])
{
	const char *const paths[OLD_FILES] = {
		place->db, place->wal, place->shm, place->ship, place->poisoned, place->restored};
	memcpy(ret_paths, paths, sizeof paths);
}

static int check_unused(struct install *install, char *ret_error)
{
	char who[64];
	unsigned count = adoption_openers(&install->place, true, who, sizeof who);
	if (count > 0) {
		return refuse(ret_error,
			"%u process%s has %s open: %s (cure: stop it; it would go on with the old "
			"file)",
			count, count == 1 ? "" : "es", install->place.db, who);
	}
	return 0;
}

/* The new file is to be like the old one; without one, like its directory if root makes it. */
static int choose_owner(struct install *install, char *ret_error)
{
	struct stat st;
	install->uid = geteuid();
	install->gid = (gid_t)-1;
	install->mode = 0640;
	if (lstat(install->place.db, &st) == 0) {
		if (!S_ISREG(st.st_mode) || st.st_nlink > 1) {
			return refuse(ret_error,
				"%s is not a regular file with one name (cure: name the file itself)",
				install->place.db);
		}
		install->uid = st.st_uid;
		install->gid = st.st_gid;
		install->mode = st.st_mode & 0777;
	} else if (geteuid() == 0 && stat(install->place.dir, &st) == 0) {
		install->uid = st.st_uid;
		install->gid = st.st_gid;
	}
	return 0;
}

int install_begin(
	struct install *install, const char *out, bool force, char ret_error[INSTALL_ERROR_BYTES])
{
	const char *old[OLD_FILES];
	*install = (struct install){.lock_fd = -1};
	if (place_resolve(out, NULL, &install->place, ret_error, INSTALL_ERROR_BYTES) != 0) {
		return INSTALL_REFUSED;
	}
	int rc = choose_owner(install, ret_error);
	if (rc == 0 &&
		place_lock(&install->place, &install->lock_fd, ret_error, INSTALL_ERROR_BYTES) !=
			0) {
		rc = INSTALL_REFUSED;
	}
	/* The daemon, whoever it runs as, must be able to take it later. */
	if (rc == 0 && geteuid() == 0 &&
		fchown(install->lock_fd, install->uid, install->gid) != 0) {
		rc = failed(install->place.lock, ret_error);
	}
	old_files(&install->place, old);
	for (size_t i = 0; rc == 0 && i < OLD_FILES; i++) {
		/* What an earlier restore said of a file that is gone is in nobody's way. */
		bool there = is_there(old[i]) && old[i] != install->place.restored;
		install->exists = install->exists || there;
		if (there && !force) {
			(void)refuse(ret_error, "%s exists (cure: --force, which moves it aside)",
				old[i]);
			rc = INSTALL_EXISTS;
		}
	}
	if (rc == 0 && install->exists) {
		rc = check_unused(install, ret_error);
	}
	rc = rc == 0 ? make_dir(install, ret_error) : rc;
	if (rc == -ENOMEM) {
		(void)refuse(ret_error, "out of memory");
	}
	return rc;
}

/* ---- the change ---- */

/* A directory that was not there before: OUT.before-20261122T104207Z, with a number if need be. */
static int make_before(struct install *install, char *ret_error)
{
	char stamp[24] = "";
	time_t now = time(NULL);
	struct tm tm;
	if (gmtime_r(&now, &tm) != NULL) {
		strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &tm);
	}
	for (unsigned i = 1; i < 1000; i++) {
		char number[8] = "";
		if (i > 1) {
			snprintf(number, sizeof number, ".%u", i);
		}
		free(install->before);
		if (asprintf(&install->before, "%s.before-%s%s", install->place.db, stamp, number) <
			0) {
			install->before = NULL;
			return -ENOMEM;
		}
		if (mkdir(install->before, 0750) == 0) {
			return 0;
		}
		if (errno != EEXIST) {
			break;
		}
	}
	return failed(install->before, ret_error);
}

static int move_old(struct install *install, char *ret_error)
{
	const char *old[OLD_FILES];
	old_files(&install->place, old);
	int rc = make_before(install, ret_error);
	for (size_t i = 0; rc == 0 && i < OLD_FILES; i++) {
		CLEANUP_FREE char *to = NULL;
		if (asprintf(&to, "%s/%s", install->before, strrchr(old[i], '/') + 1) < 0) {
			to = NULL;
			return -ENOMEM;
		}
		if (rename(old[i], to) != 0 && errno != ENOENT) {
			return failed(old[i], ret_error);
		}
	}
	if (rc == 0 && sync_path(install->before, O_DIRECTORY) != 0) {
		return failed(install->before, ret_error);
	}
	return rc;
}

static int write_note(const struct install *install, const char *note, char *ret_error)
{
	CLEANUP_FD int fd = open(install->place.restored,
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	size_t len = strlen(note);
	if (fd < 0 || write(fd, note, len) != (ssize_t)len || fsync(fd) != 0 ||
		(geteuid() == 0 && fchown(fd, install->uid, install->gid) != 0)) {
		return failed(install->place.restored, ret_error);
	}
	return 0;
}

static int prepare_new(const struct install *install, char *ret_error)
{
	CLEANUP_FD int fd = open(install->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || (geteuid() == 0 && fchown(fd, install->uid, install->gid) != 0) ||
		fchmod(fd, install->mode) != 0 || fsync(fd) != 0) {
		return failed(install->file, ret_error);
	}
	return 0;
}

int install_commit(struct install *install, const char *note, char ret_error[INSTALL_ERROR_BYTES])
{
	int rc = prepare_new(install, ret_error);
	if (rc == 0 && install->exists) {
		rc = check_unused(install, ret_error);
		rc = rc == 0 ? move_old(install, ret_error) : rc;
	}
	if (rc == 0 && note != NULL) {
		rc = write_note(install, note, ret_error);
	}
	if (rc == 0 && sync_path(install->place.dir, O_DIRECTORY) != 0) {
		rc = failed(install->place.dir, ret_error);
	}
	if (rc == 0 && rename(install->file, install->place.db) != 0) {
		rc = failed(install->place.db, ret_error);
	}
	if (rc == 0 && sync_path(install->place.dir, O_DIRECTORY) != 0) {
		rc = failed(install->place.dir, ret_error);
	}
	return rc;
}

void install_finish(struct install *install)
{
	if (install->dir != NULL) {
		empty(install->dir);
		rmdir(install->dir);
	}
	free(install->dir);
	free(install->file);
	free(install->before);
	place_finish(&install->place);
	close_fd(&install->lock_fd);
	*install = (struct install){.lock_fd = -1};
}
