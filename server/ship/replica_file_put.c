/* SPDX-License-Identifier: MIT */

/*
 * Creates the files of a replica in a directory. Whatever happens, a segment is there whole and
 * durable or not at all, and none is ever replaced: it is written under a private name, fsynced, and
 * given its name by link(), which fails if the name is taken. (rename() would overwrite the owner;
 * O_EXCL on the final name would show a torn file after a crash.)
 */

#include "server/base/cleanup.h"
#include "server/ship/replica_file.h"
#include "server/ship/sidecar.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COPY_BYTES = 128 * 1024 };

/* What a put carries from one of its steps to the next. */
struct put {
	struct replica_dir *place;
	int dir;
	const char *name;
	int fd;
	uint64_t size;
	int64_t timestamp_ms;
	const struct record *record; /* or NULL */
	struct replica_error *error;
};

static int put_fail(const struct put *put, int rc, const char *what)
{
	return replica_dir_fail(&put->place->replica, put->error, -rc, what, put->name);
}

/* Writes all of it. */
static int write_all(int fd, const uint8_t *bytes, size_t len)
{
	while (len > 0) {
		ssize_t written = write(fd, bytes, len);
		if (written < 0 && errno != EINTR) {
			return -errno;
		}
		if (written > 0) {
			bytes += written;
			len -= (size_t)written;
		}
	}
	return 0;
}

/* Reads `size` bytes from the start of `from`, hashes them, and writes them to `to` if that is one. */
static int copy_hashed(const struct replica *replica, int from, uint64_t size, int to,
	uint8_t ret_sha256[RECORD_SHA256_BYTES])
{
	CLEANUP_FREE uint8_t *buffer = malloc(COPY_BYTES);
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	int rc = buffer != NULL && hash != NULL && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1
		? 0
		: -ENOMEM;
	for (uint64_t at = 0; rc == 0 && at < size;) {
		size_t part = size - at < COPY_BYTES ? (size_t)(size - at) : COPY_BYTES;
		ssize_t got = pread(from, buffer, part, (off_t)at);
		if (got <= 0) {
			rc = got == 0 ? -ENODATA : -errno;
		} else {
			EVP_DigestUpdate(hash, buffer, (size_t)got);
			rc = to >= 0 ? write_all(to, buffer, (size_t)got) : 0;
			at += (uint64_t)got;
		}
		rc = rc == 0 && replica->interrupted ? -ECANCELED : rc;
	}
	if (rc == 0) {
		EVP_DigestFinal_ex(hash, ret_sha256, NULL);
	}
	EVP_MD_CTX_free(hash);
	return rc;
}

/* The segment under a private name: whole, of the right hash, durable. */
static int write_segment(const struct put *put, const char *private_name)
{
	uint8_t sha256[RECORD_SHA256_BYTES];
	CLEANUP_FD int to =
		openat(put->dir, private_name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (to < 0) {
		return -errno;
	}
	int rc = copy_hashed(&put->place->replica, put->fd, put->size, to, sha256);
	if (rc == 0 && put->record != NULL &&
		memcmp(sha256, put->record->sha256, sizeof sha256) != 0) {
		rc = -EBADMSG;
	}
	struct timespec when = {put->timestamp_ms / 1000, put->timestamp_ms % 1000 * 1000000};
	if (rc == 0 && (futimens(to, (struct timespec[]){when, when}) < 0 || fsync(to) < 0)) {
		rc = -errno;
	}
	return rc;
}

/* True if what stands under the name has exactly these bytes. */
static int same_bytes(const struct put *put, bool *ret_same)
{
	uint8_t sha256[RECORD_SHA256_BYTES];
	struct stat st;
	*ret_same = false;
	CLEANUP_FD int fd = openat(put->dir, put->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0) {
		return -errno;
	}
	if ((uint64_t)st.st_size != put->size) {
		return 0;
	}
	int rc = copy_hashed(&put->place->replica, fd, put->size, -1, sha256);
	*ret_same = rc == 0 && memcmp(sha256, put->record->sha256, sizeof sha256) == 0;
	return rc;
}

/*
 * Whose the segment under the name is. A crash can have come between our segment and the moment
 * at which its sidecar takes the name: then the bytes tell, and the sidecar is put right.
 */
static int settle_existing(const struct put *put)
{
	struct record there;
	bool known;
	bool same = false;
	const struct replica *replica = &put->place->replica;
	int rc = put->record == NULL ? -EBADMSG : sidecar_read(put->dir, put->name, &there, &known);
	if (rc == 0 && known && replica_same_upload(&there, put->record)) {
		return 0;
	}
	if (put->record != NULL && (rc == 0 || rc == -EBADMSG)) {
		bool claimed = rc == 0 && known &&
			memcmp(there.sha256, put->record->sha256, sizeof there.sha256) == 0;
		rc = claimed ? 0 : same_bytes(put, &same);
	}
	if (same) {
		struct sidecar sidecar;
		rc = sidecar_propose(put->dir, put->name, put->record, &sidecar);
		return rc == 0 ? sidecar_settle(put->dir, &sidecar, true) : rc;
	}
	if (rc < 0 && rc != -EBADMSG) {
		return rc;
	}
	return replica_fail(replica, put->error, REPLICA_EXISTS,
		"%s is there already, and it is not ours: another daemon ships to this replica",
		put->name);
}

/* Gives the segment its name. 0, REPLICA_EXISTS, or negative errno. */
static int name_segment(const struct put *put, const char *private_name)
{
	struct sidecar sidecar;
	if (put->record != NULL) {
		int rc = sidecar_propose(put->dir, put->name, put->record, &sidecar);
		if (rc < 0) {
			return rc;
		}
	}
	int rc = linkat(put->dir, private_name, put->dir, put->name, 0) < 0 ? -errno : 0;
	if (put->record != NULL) {
		int settled = sidecar_settle(put->dir, &sidecar, rc == 0);
		rc = rc == 0 ? settled : rc;
	}
	return rc;
}

/* The same, alone on this machine: only the sidecars need it, so a lock that fails is no matter. */
static int name_alone(const struct put *put, const char *private_name)
{
	(void)flock(put->dir, LOCK_EX);
	int rc = name_segment(put, private_name);
	(void)flock(put->dir, LOCK_UN);
	return rc;
}

/* Creates the segment under a free name. */
static int create_segment(const struct put *put)
{
	char private_name[SIDECAR_NAME_BYTES];
	sidecar_private_name("segment", private_name);
	int rc = write_segment(put, private_name);
	rc = rc == 0 ? name_alone(put, private_name) : rc;
	(void)unlinkat(put->dir, private_name, 0);
	return rc;
}

static int put_in(const struct put *put)
{
	int rc = faccessat(put->dir, put->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0
		? -EEXIST
		: create_segment(put);
	if (rc == -EEXIST) {
		rc = settle_existing(put);
	}
	/* Also for a file that was there: the attempt that made it may have died before this. */
	if (rc == 0 && fsync(put->dir) < 0) {
		rc = -errno;
	}
	return rc;
}

int replica_dir_put(struct replica *replica, int level, const char *name, int fd, uint64_t size,
	int64_t timestamp_ms, const struct record *record, struct replica_error *ret_error)
{
	struct replica_dir *place = (struct replica_dir *)replica;
	CLEANUP_FD int dir = replica_dir_level(place, level, true);
	const struct put put = {.place = place,
		.dir = dir,
		.name = name,
		.fd = fd,
		.size = size,
		.timestamp_ms = timestamp_ms,
		.record = record,
		.error = ret_error};
	replica_asks(replica, REQUEST_PUT);
	int rc = dir < 0 ? dir : put_in(&put);
	if (rc >= 0) {
		replica->bytes_sent += rc == 0 ? size : 0;
		return rc;
	}
	switch (rc) {
	case -EBADMSG:
	case -ENODATA:
		return replica_fail(replica, ret_error, -EIO,
			"%s changed between being hashed and being sent", name);
	case -ECANCELED:
		return replica_fail(replica, ret_error, REPLICA_AGAIN, "interrupted");
	case -ENOENT: /* somebody removed the directory under us: the next attempt makes it again */
		return replica_fail(replica, ret_error, REPLICA_AGAIN, "the directory went away");
	case -EPERM:
	case -EOPNOTSUPP:
		return replica_fail(replica, ret_error, REPLICA_DENIED,
			"cannot link files (%s): use a file system that has hard links",
			strerror(-rc));
	default:
		return put_fail(&put, rc, "cannot create");
	}
}

/* Two links to one name: the second must fail. Says at the start what would fail later. */
static int probe_in(int dir)
{
	char first[SIDECAR_NAME_BYTES];
	char second[SIDECAR_NAME_BYTES];
	sidecar_private_name("segment", first);
	sidecar_private_name("segment", second);
	CLEANUP_FD int fd = openat(dir, first, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (fd < 0) {
		return -errno;
	}
	int rc = 0;
	if (linkat(dir, first, dir, second, 0) < 0) {
		rc = -errno;
	} else if (linkat(dir, first, dir, second, 0) == 0 || errno != EEXIST) {
		rc = REPLICA_UNFENCED;
	}
	(void)unlinkat(dir, second, 0);
	(void)unlinkat(dir, first, 0);
	return rc;
}

int replica_dir_probe(struct replica *replica, struct replica_error *ret_error)
{
	CLEANUP_FD int dir = replica_dir_level((struct replica_dir *)replica, 0, true);
	int rc = dir < 0 ? dir : probe_in(dir);
	if (rc == -EPERM || rc == -EOPNOTSUPP) {
		return replica_fail(replica, ret_error, REPLICA_DENIED,
			"cannot link files (%s): use a file system that has hard links",
			strerror(-rc));
	}
	if (rc == REPLICA_UNFENCED) {
		return replica_fail(replica, ret_error, rc, "the file system links over a name");
	}
	return rc < 0 ? replica_dir_fail(replica, ret_error, -rc, "cannot create files in", "ltx/0")
		      : 0;
}
