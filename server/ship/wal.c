/* SPDX-License-Identifier: MIT */

/* Reads frames of a WAL, each checked from the header of the one before. */

#include "server/ship/wal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096 };

struct wal {
	char path[PATH_BYTES];
	int fd;
	uint32_t page_size;
	struct wal_header header; /* at the last refresh */
	bool empty;               /* the file was, then */
	bool valid;               /* the header was, then */
	uint8_t *buffer;          /* a frame */
};

/* 0, WAL_GONE if the file is shorter, or negative errno. */
static int read_at(const struct wal *wal, void *bytes, size_t len, uint64_t offset)
{
	size_t done = 0;
	while (done < len) {
		ssize_t got =
			pread(wal->fd, (uint8_t *)bytes + done, len - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			return got == 0 ? WAL_GONE : -errno;
		}
		done += (size_t)got;
	}
	return 0;
}

int wal_new(const char *db, uint32_t page_size, struct wal **ret_wal)
{
	struct wal *wal = calloc(1, sizeof(*wal));
	if (wal == NULL) {
		return -ENOMEM;
	}
	wal->fd = -1;
	wal->page_size = page_size;
	wal->buffer = malloc(page_size + WAL_FRAME_HEADER_BYTES);
	int len = snprintf(wal->path, sizeof(wal->path), "%s-wal", db);
	if (wal->buffer == NULL || len < 0 || (size_t)len >= sizeof(wal->path)) {
		int rc = wal->buffer == NULL ? -ENOMEM : -ENAMETOOLONG;
		wal_free(wal);
		return rc;
	}
	*ret_wal = wal;
	return 0;
}

void wal_free(struct wal *wal)
{
	if (wal != NULL) {
		if (wal->fd >= 0) {
			close(wal->fd);
		}
		free(wal->buffer);
		free(wal);
	}
}

static int header_read(struct wal *wal)
{
	uint8_t bytes[WAL_HEADER_BYTES];
	struct wal_header header;
	int rc = read_at(wal, bytes, sizeof(bytes), 0);
	if (rc != 0) {
		return rc;
	}
	if (!wal_header_parse(bytes, &header) || header.page_size != wal->page_size) {
		return WAL_GONE;
	}
	wal->header = header;
	return 0;
}

int wal_refresh(struct wal *wal)
{
	/* Opened anew each time: the file may be another one by now. */
	int fd = open(wal->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	wal->empty = wal->valid = false;
	if (fd < 0 && errno != ENOENT) {
		return -errno;
	}
	if (wal->fd >= 0) {
		close(wal->fd);
	}
	wal->fd = fd;
	struct stat status;
	wal->empty = fd < 0 || (fstat(fd, &status) == 0 && status.st_size == 0);
	int rc = wal->empty ? WAL_GONE : header_read(wal);
	wal->valid = rc == 0;
	return rc;
}

bool wal_is_empty(const struct wal *wal)
{
	return wal->empty;
}

const uint32_t *wal_salt(const struct wal *wal)
{
	return wal->valid ? wal->header.salt : NULL;
}

int wal_frame(struct wal *wal, uint64_t frame, struct wal_frame *ret_frame)
{
	uint8_t header[WAL_FRAME_HEADER_BYTES];
	int rc = wal->fd < 0
		? WAL_GONE
		: read_at(wal, header, sizeof(header), wal_frame_offset(wal->page_size, frame));
	if (rc != 0) {
		return rc;
	}
	*ret_frame = wal_frame_parse(header);
	return ret_frame->salt[0] == wal->header.salt[0] &&
			ret_frame->salt[1] == wal->header.salt[1]
		? 0
		: WAL_GONE;
}

int wal_page(struct wal *wal, const uint32_t salt[2], uint64_t frame, void *page,
	struct wal_frame *ret_frame)
{
	struct wal_frame before = {.checksum = {wal->header.checksum[0], wal->header.checksum[1]}};
	if (wal->fd < 0 || salt[0] != wal->header.salt[0] || salt[1] != wal->header.salt[1]) {
		return WAL_GONE;
	}
	int rc = frame > 1 ? wal_frame(wal, frame - 1, &before) : 0;
	rc = rc == 0 ? read_at(wal, wal->buffer, wal->page_size + WAL_FRAME_HEADER_BYTES,
			       wal_frame_offset(wal->page_size, frame))
		     : rc;
	if (rc != 0) {
		return rc;
	}
	*ret_frame = wal_frame_parse(wal->buffer);
	if (ret_frame->salt[0] != salt[0] || ret_frame->salt[1] != salt[1] ||
		!wal_frame_sums_up(
			wal->header.big_endian, wal->buffer, wal->page_size, before.checksum)) {
		return WAL_GONE;
	}
	memcpy(page, wal->buffer + WAL_FRAME_HEADER_BYTES, wal->page_size);
	return 0;
}

/* In SQLite's index of the WAL (walformat.html): two headers, then what checkpoints and readers share. */
enum {
	INDEX_HEADER_BYTES = 48,
	INDEX_VALID = 12,
	INDEX_SALT = 32,
	INDEX_COPIED = 96,
	INDEX_CHECKPOINT_LOCK = 121,
	INDEX_ATTEMPTED =
		128, /* as far as a checkpoint means to come; after a recovery all that there is */
	INDEX_BYTES = 132,
};

/*
 * The lock is looked at first: a checkpoint that has let go of it by then has said how far it came, and
 * one that takes it later writes to the database later than the file was read.
 */
static int index_look(int fd, uint32_t *ret_frames, bool *ret_copying, uint32_t ret_salt[2])
{
	uint8_t index[INDEX_BYTES];
	uint32_t attempted = 0;
	struct flock lock = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = INDEX_CHECKPOINT_LOCK,
		.l_len = 1,
	};
	if (fcntl(fd, F_GETLK, &lock) < 0) {
		return -errno;
	}
	ssize_t got = pread(fd, index, sizeof(index), 0);
	if (got < 0) {
		return -errno;
	}
	if (got != (ssize_t)sizeof(index) || index[INDEX_VALID] == 0 ||
		memcmp(index, index + INDEX_HEADER_BYTES, INDEX_HEADER_BYTES) != 0) {
		return WAL_GONE;
	}
	/* These two are in the order of the machine, the salt in that of the file. */
	memcpy(ret_frames, index + INDEX_COPIED, sizeof(*ret_frames));
	memcpy(&attempted, index + INDEX_ATTEMPTED, sizeof(attempted));
	ret_salt[0] = wal_get32(index + INDEX_SALT);
	ret_salt[1] = wal_get32(index + INDEX_SALT + 4);
	*ret_copying = lock.l_type != F_UNLCK && attempted > *ret_frames;
	return 0;
}

int wal_copied(const struct wal *wal, struct wal_copied *ret_copied)
{
	char path[PATH_BYTES];
	uint32_t frames = 0;
	size_t stem = strlen(wal->path) - strlen("-wal");
	snprintf(path, sizeof(path), "%.*s-shm", (int)stem, wal->path);
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return errno == ENOENT ? WAL_GONE : -errno;
	}
	int rc = index_look(fd, &frames, &ret_copied->copying, ret_copied->salt);
	ret_copied->frames = frames;
	close(fd);
	return rc;
}

int wal_sync(struct wal *wal)
{
	return wal->fd >= 0 && fdatasync(wal->fd) != 0 ? -errno : 0;
}
