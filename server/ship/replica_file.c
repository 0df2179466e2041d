/* SPDX-License-Identifier: MIT */

/*
 * A replica in a directory: ROOT/ltx/LEVEL/NAME, as Litestream lays it out, and NAME.record beside
 * it. All but the creation of files, which is replica_file_put.c.
 */

#include "server/ship/replica_file.h"

#include "server/base/cleanup.h"
#include "server/ship/sidecar.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	READ_BYTES = 128 * 1024,
	LEFTOVER_SECONDS = 24 * 60 * 60,
};

static void dir_free(struct replica *replica)
{
	free((struct replica_dir *)replica);
}

/* ---- errors ---- */

int replica_dir_fail(const struct replica *replica, struct replica_error *error, int number,
	const char *what, const char *name)
{
	int result;
	switch (number) {
	case ENOMEM:
		return -ENOMEM;
	case ENOENT:
		result = REPLICA_MISSING;
		break;
	case EACCES:
	case EPERM:
	case EROFS:
	case ENOTDIR:
	case ELOOP:
	case EOPNOTSUPP:
	case ENAMETOOLONG:
		result = REPLICA_DENIED;
		break;
	default:
		result = REPLICA_AGAIN;
	}
	error->gone = number == ENODEV;
	return replica_fail(replica, error, result, "%s %s: %s", what, name,
		number == ENODEV ? "its directory is gone (cure: mount it)" : strerror(number));
}

static int interrupted(const struct replica *replica, struct replica_error *error)
{
	return replica->interrupted ? replica_fail(replica, error, REPLICA_AGAIN, "interrupted")
				    : 0;
}

/* ---- directories ---- */

/* Makes the name of a new directory durable in the one above. `path` is changed and put back. */
static int sync_above(char *path)
{
	char *last = strrchr(path, '/');
	*last = '\0';
	CLEANUP_FD int fd = open(last == path ? "/" : path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || fsync(fd) < 0 ? -errno : 0;
	*last = '/';
	return rc;
}

static int make_dir(char *path)
{
	if (mkdir(path, 0750) < 0) {
		return errno == EEXIST ? 0 : -errno;
	}
	return sync_above(path);
}

/* An absolute path, and all that is missing above it. */
static int make_dirs(char *path)
{
	int rc = 0;
	for (char *slash = strchr(path + 1, '/'); rc == 0 && slash != NULL;
		slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		rc = make_dir(path);
		*slash = '/';
	}
	return rc == 0 ? make_dir(path) : rc;
}

/* An open stream of a directory that stays the caller's. */
static DIR *dir_stream(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (fd >= 0 && stream == NULL) {
		close(fd);
	}
	return stream;
}

static void sweep(int dir)
{
	DIR *stream = dir_stream(dir);
	if (stream == NULL) {
		return;
	}
	struct dirent *entry;
	while ((entry = readdir(stream)) != NULL) {
		struct stat st;
		bool private = strncmp(entry->d_name, ".record-", 8) == 0 ||
			strncmp(entry->d_name, ".segment-", 9) == 0;
		if (private && fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			st.st_ctim.tv_sec < time(NULL) - LEFTOVER_SECONDS) {
			(void)unlinkat(dir, entry->d_name, 0);
		}
	}
	closedir(stream);
}

static bool has_seen(const struct replica_dir *place)
{
	for (int level = 0; level <= REPLICA_LEVEL_MAX; level++) {
		if (place->seen[level]) {
			return true;
		}
	}
	return false;
}

int replica_dir_level(struct replica_dir *place, int level, bool make)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof path, "%s/ltx/%d", place->root, level) >= (int)sizeof path) {
		return -ENAMETOOLONG;
	}
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT && place->seen[level]) {
		return -ENODEV;
	}
	if (fd < 0 && errno == ENOENT && make) {
		bool held = has_seen(place); /* then what is above the level is not made anew */
		int rc = held ? make_dir(path) : make_dirs(path);
		if (rc < 0) {
			return held && rc == -ENOENT ? -ENODEV : rc;
		}
		fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0) {
		return -errno;
	}
	place->seen[level] = true;
	if (make && !place->swept[level]) {
		place->swept[level] = true;
		sweep(fd);
	}
	return fd;
}

/* ---- reading ---- */

/* Feeds the sink from an open file. */
static int get_from(struct replica *replica, int fd, uint64_t offset, uint64_t len,
	replica_sink sink, void *ctx, struct replica_error *error)
{
	CLEANUP_FREE uint8_t *buffer = malloc(READ_BYTES);
	if (buffer == NULL) {
		return -ENOMEM;
	}
	while (len > 0) {
		int rc = interrupted(replica, error);
		if (rc != 0) {
			return rc;
		}
		size_t part = len < READ_BYTES ? (size_t)len : READ_BYTES;
		ssize_t got = pread(fd, buffer, part, (off_t)offset);
		if (got <= 0) {
			return got < 0 ? replica_dir_fail(
						 replica, error, errno, "cannot read", "a segment")
				       : replica_fail(replica, error, REPLICA_CORRUPT,
						 "a segment became shorter");
		}
		replica->bytes_received += (uint64_t)got;
		rc = sink(ctx, buffer, (size_t)got);
		if (rc != 0) {
			return rc;
		}
		offset += (uint64_t)got;
		len -= (uint64_t)got;
	}
	return 0;
}

static int dir_get(struct replica *replica, int level, const char *name, uint64_t size,
	uint64_t offset, uint64_t len, replica_sink sink, void *ctx,
	struct replica_error *ret_error)
{
	struct stat st;
	CLEANUP_FD int dir = replica_dir_level((struct replica_dir *)replica, level, false);
	replica_asks(replica, REQUEST_GET);
	CLEANUP_FD int fd = dir < 0 ? -1 : openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0) {
		return replica_dir_fail(
			replica, ret_error, dir < 0 ? -dir : errno, "cannot open", name);
	}
	if (!S_ISREG(st.st_mode) || (size != 0 && (uint64_t)st.st_size != size)) {
		return replica_fail(replica, ret_error, REPLICA_CORRUPT,
			"%s has not the size that it had", name);
	}
	uint64_t there = (uint64_t)st.st_size;
	uint64_t rest = offset < there ? there - offset : 0;
	return get_from(replica, fd, offset, len < rest ? len : rest, sink, ctx, ret_error);
}

static int64_t mtime_ms(const struct stat *st)
{
	return (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000;
}

static int dir_look(struct replica *replica, int level, const char *name,
	struct replica_file *ret_file, struct record *ret_record, bool *ret_known,
	struct replica_error *ret_error)
{
	struct stat st;
	CLEANUP_FD int dir = replica_dir_level((struct replica_dir *)replica, level, false);
	replica_asks(replica, REQUEST_HEAD);
	if (dir < 0 || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		return replica_dir_fail(
			replica, ret_error, dir < 0 ? -dir : errno, "cannot find", name);
	}
	ret_file->size = (uint64_t)st.st_size;
	ret_file->created_ms = mtime_ms(&st);
	int rc = sidecar_read(dir, name, ret_record, ret_known);
	if (rc == 0 && !*ret_known && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		return replica_dir_fail(replica, ret_error, errno, "cannot find", name);
	}
	if (rc == -EBADMSG) {
		return replica_fail(
			replica, ret_error, REPLICA_CORRUPT, "%s.record cannot be read", name);
	}
	return rc < 0 ? replica_dir_fail(replica, ret_error, -rc, "cannot read the record of", name)
		      : 0;
}

/* ---- listing ---- */

struct listing {
	struct replica_file *files;
	size_t count;
	size_t room;
};

static int listing_add(struct listing *listing, const struct replica_file *file)
{
	if (listing->count == listing->room) {
		size_t room = listing->room == 0 ? 64 : listing->room * 2;
		struct replica_file *files = reallocarray(listing->files, room, sizeof files[0]);
		if (files == NULL) {
			return -ENOMEM;
		}
		listing->files = files;
		listing->room = room;
	}
	listing->files[listing->count++] = *file;
	return 0;
}

/* In the order of their names. */
static int compare_files(const void *a, const void *b)
{
	const struct replica_file *one = a;
	const struct replica_file *two = b;
	if (one->min_txid != two->min_txid) {
		return one->min_txid < two->min_txid ? -1 : 1;
	}
	return (one->max_txid > two->max_txid) - (one->max_txid < two->max_txid);
}

/*
 * A file that appears while a directory is read may be passed over, and a later one be seen. Numbers
 * are given in order: what leads to the highest that was seen is there for the next reading.
 */
static int find_highest(int dir, uint64_t *ret_txid)
{
	DIR *stream = dir_stream(dir);
	if (stream == NULL) {
		return -errno;
	}
	struct dirent *entry;
	*ret_txid = 0;
	while ((errno = 0, entry = readdir(stream)) != NULL) {
		uint64_t min_txid = 0;
		uint64_t max_txid = 0;
		if (ltx_name_parse(entry->d_name, &min_txid, &max_txid) && max_txid > *ret_txid) {
			*ret_txid = max_txid;
		}
	}
	int rc = errno != 0 && errno != ENOENT ? -errno : 0;
	closedir(stream);
	return rc;
}

/* All files of a level that end at or before `last`; one that vanishes meanwhile is left out. */
static int collect(int dir, int level, uint64_t from, uint64_t last, struct listing *listing)
{
	DIR *stream = dir_stream(dir);
	if (stream == NULL) {
		return -errno;
	}
	int rc = 0;
	struct dirent *entry;
	while (rc == 0 && (errno = 0, entry = readdir(stream)) != NULL) {
		struct replica_file file = {.level = level};
		struct stat st;
		if (ltx_name_parse(entry->d_name, &file.min_txid, &file.max_txid) &&
			file.min_txid >= from && file.max_txid <= last &&
			fstatat(dir, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			S_ISREG(st.st_mode)) {
			file.size = (uint64_t)st.st_size;
			file.created_ms = mtime_ms(&st);
			rc = listing_add(listing, &file);
		}
	}
	rc = rc == 0 && entry == NULL && errno != 0 && errno != ENOENT ? -errno : rc;
	closedir(stream);
	return rc;
}

static int dir_list(struct replica *replica, int level, uint64_t from,
	int (*fn)(void *ctx, const struct replica_file *file), void *ctx,
	struct replica_error *ret_error)
{
	struct listing listing = {0};
	CLEANUP_FD int dir = replica_dir_level((struct replica_dir *)replica, level, false);
	replica_asks(replica, REQUEST_LIST);
	if (dir == -ENOENT) {
		return 0;
	}
	uint64_t last = 0;
	int rc = dir < 0 ? dir : find_highest(dir, &last);
	rc = rc == 0 ? collect(dir, level, from, last, &listing) : rc;
	if (rc < 0) {
		free(listing.files);
		return replica_dir_fail(replica, ret_error, -rc, "cannot list", "a level");
	}
	if (listing.count > 0) {
		qsort(listing.files, listing.count, sizeof listing.files[0], compare_files);
	}
	for (size_t i = 0; rc == 0 && i < listing.count; i++) {
		rc = fn(ctx, &listing.files[i]);
	}
	free(listing.files);
	return rc;
}

/* ---- the rest ---- */

static int dir_remove(
	struct replica *replica, int level, const char *name, struct replica_error *ret_error)
{
	CLEANUP_FD int dir = replica_dir_level((struct replica_dir *)replica, level, false);
	replica_asks(replica, REQUEST_DELETE);
	if (dir == -ENOENT) {
		return 0;
	}
	int rc = dir < 0 ? dir : 0;
	if (rc == 0 && unlinkat(dir, name, 0) < 0 && errno != ENOENT) {
		rc = -errno;
	}
	rc = rc == 0 ? sidecar_remove(dir, name) : rc;
	if (rc == 0 && fsync(dir) < 0) {
		rc = -errno;
	}
	return rc < 0 ? replica_dir_fail(replica, ret_error, -rc, "cannot delete", name) : 0;
}

static int dir_has_generations(
	struct replica *replica, bool *ret_has, struct replica_error *ret_error)
{
	char path[PATH_MAX];
	const char *root = ((struct replica_dir *)replica)->root;
	if (snprintf(path, sizeof path, "%s/generations", root) >= (int)sizeof path) {
		return replica_dir_fail(replica, ret_error, ENAMETOOLONG, "cannot look into", root);
	}
	*ret_has = access(path, F_OK) == 0;
	if (!*ret_has && errno != ENOENT) {
		return replica_dir_fail(replica, ret_error, errno, "cannot look into", root);
	}
	return 0;
}

static bool dir_is_there(const struct replica *replica)
{
	return access(((const struct replica_dir *)replica)->root, F_OK) == 0 || errno != ENOENT;
}

static bool dir_vanished(const struct replica *replica)
{
	char path[PATH_MAX];
	const char *root = ((const struct replica_dir *)replica)->root;
	return snprintf(path, sizeof path, "%s/ltx", root) < (int)sizeof path &&
		access(path, F_OK) != 0 && errno == ENOENT;
}

static void dir_forget(struct replica *replica)
{
	struct replica_dir *place = (struct replica_dir *)replica;
	for (int level = 0; level <= REPLICA_LEVEL_MAX; level++) {
		place->seen[level] = false;
	}
}

static const struct replica_kind dir_kind = {
	.free = dir_free,
	.probe = replica_dir_probe,
	.put = replica_dir_put,
	.get = dir_get,
	.look = dir_look,
	.list = dir_list,
	.remove = dir_remove,
	.vanished = dir_vanished,
	.forget = dir_forget,
	.has_generations = dir_has_generations,
	.is_there = dir_is_there,
};

/* The path of a URL, decoded; NULL or what is wrong with it. */
static const char *take_path(const char *rest, char root[PATH_MAX])
{
	if (rest[0] != '/') {
		return "the path must be absolute, with three slashes: file:///backup/app";
	}
	if (strpbrk(rest, "?#") != NULL) {
		return "a directory has no options; a ? or # of its name is written %3F or %23";
	}
	/* Room for /ltx/LEVEL behind it. */
	if (snprintf(root, PATH_MAX, "%s", rest) >= PATH_MAX - 16) {
		return "the path is too long";
	}
	if (replica_url_decode(root) < 0) {
		return "a % of the path is written %25";
	}
	for (size_t len = strlen(root); len > 1 && root[len - 1] == '/'; len--) {
		root[len - 1] = '\0';
	}
	return root[1] == '\0' ? "the path is the root directory" : NULL;
}

int replica_file_open(
	const char *rest, struct replica **ret_replica, struct replica_error *ret_error)
{
	struct replica_dir *place = calloc(1, sizeof *place);
	if (place == NULL) {
		return -ENOMEM;
	}
	place->replica.kind = &dir_kind;
	const char *fault = take_path(rest, place->root);
	if (fault != NULL) {
		snprintf(ret_error->text, sizeof ret_error->text, "file://%.200s: %s", rest, fault);
		free(place);
		return -EINVAL;
	}
	if (asprintf(&place->replica.url, "file://%s", rest) < 0) {
		free(place);
		return -ENOMEM;
	}
	*ret_replica = &place->replica;
	return 0;
}
