/* SPDX-License-Identifier: MIT */

/*
 * Reads frames of a WAL. The format is SQLite's (fileformat2.html, "The Write-Ahead Log"): a header
 * of 32 bytes, then frames of 24 bytes and a page each. Checksums run through the whole generation,
 * but since each frame stores its own, one frame can be checked from the header of the one before.
 */

#include "server/ship/wal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	HEADER_BYTES = 32,
	FRAME_HEADER_BYTES = 24,
	MAGIC_LITTLE = 0x377f0682, /* checksums over little-endian words */
	MAGIC_BIG = 0x377f0683,
	PATH_BYTES = 4096,
};

struct wal {
	char path[PATH_BYTES];
	int fd;
	uint32_t page_size;
	uint32_t salt[2];
	uint32_t checksum[2]; /* of the header: what the first frame continues */
	bool big_endian;
	bool empty;      /* at the last refresh */
	bool valid;      /* the header was, then */
	uint8_t *buffer; /* a frame */
};

static uint32_t be32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t le32(const uint8_t *at)
{
	return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

static void checksum_add(const struct wal *wal, uint32_t sum[2], const uint8_t *bytes, size_t len)
{
	uint32_t s0 = sum[0];
	uint32_t s1 = sum[1];
	if (wal->big_endian) {
		for (size_t i = 0; i < len; i += 8) {
			s0 += be32(bytes + i) + s1;
			s1 += be32(bytes + i + 4) + s0;
		}
	} else {
		for (size_t i = 0; i < len; i += 8) {
			s0 += le32(bytes + i) + s1;
			s1 += le32(bytes + i + 4) + s0;
		}
	}
	sum[0] = s0;
	sum[1] = s1;
}

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

static uint64_t offset_of(const struct wal *wal, uint64_t frame)
{
	return HEADER_BYTES + (frame - 1) * (wal->page_size + FRAME_HEADER_BYTES);
}

static struct wal_frame frame_parse(const uint8_t *at)
{
	return (struct wal_frame){
		.page_no = be32(at),
		.commit = be32(at + 4),
		.salt = {be32(at + 8), be32(at + 12)},
		.checksum = {be32(at + 16), be32(at + 20)},
	};
}

int wal_new(const char *db, uint32_t page_size, struct wal **ret_wal)
{
	struct wal *wal = calloc(1, sizeof(*wal));
	if (wal == NULL) {
		return -ENOMEM;
	}
	wal->fd = -1;
	wal->page_size = page_size;
	wal->buffer = malloc(page_size + FRAME_HEADER_BYTES);
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
	uint8_t header[HEADER_BYTES];
	uint32_t sum[2] = {0, 0};
	int rc = read_at(wal, header, sizeof(header), 0);
	if (rc != 0) {
		return rc;
	}
	uint32_t magic = be32(header);
	if (magic != MAGIC_LITTLE && magic != MAGIC_BIG) {
		return WAL_GONE;
	}
	wal->big_endian = magic == MAGIC_BIG;
	checksum_add(wal, sum, header, 24);
	if (sum[0] != be32(header + 24) || sum[1] != be32(header + 28) ||
		be32(header + 8) != wal->page_size) {
		return WAL_GONE;
	}
	wal->salt[0] = be32(header + 16);
	wal->salt[1] = be32(header + 20);
	wal->checksum[0] = sum[0];
	wal->checksum[1] = sum[1];
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
	return wal->valid ? wal->salt : NULL;
}

int wal_frame(struct wal *wal, uint64_t frame, struct wal_frame *ret_frame)
{
	uint8_t header[FRAME_HEADER_BYTES];
	int rc = wal->fd < 0 ? WAL_GONE
			     : read_at(wal, header, sizeof(header), offset_of(wal, frame));
	if (rc != 0) {
		return rc;
	}
	*ret_frame = frame_parse(header);
	return ret_frame->salt[0] == wal->salt[0] && ret_frame->salt[1] == wal->salt[1] ? 0
											: WAL_GONE;
}

int wal_page(struct wal *wal, const uint32_t salt[2], uint64_t frame, void *page,
	struct wal_frame *ret_frame)
{
	struct wal_frame before = {.checksum = {wal->checksum[0], wal->checksum[1]}};
	if (wal->fd < 0 || salt[0] != wal->salt[0] || salt[1] != wal->salt[1]) {
		return WAL_GONE;
	}
	int rc = frame > 1 ? wal_frame(wal, frame - 1, &before) : 0;
	rc = rc == 0 ? read_at(wal, wal->buffer, wal->page_size + FRAME_HEADER_BYTES,
			       offset_of(wal, frame))
		     : rc;
	if (rc != 0) {
		return rc;
	}
	uint32_t sum[2] = {before.checksum[0], before.checksum[1]};
	*ret_frame = frame_parse(wal->buffer);
	checksum_add(wal, sum, wal->buffer, 8);
	checksum_add(wal, sum, wal->buffer + FRAME_HEADER_BYTES, wal->page_size);
	if (ret_frame->salt[0] != salt[0] || ret_frame->salt[1] != salt[1] ||
		sum[0] != ret_frame->checksum[0] || sum[1] != ret_frame->checksum[1]) {
		return WAL_GONE;
	}
	memcpy(page, wal->buffer + FRAME_HEADER_BYTES, wal->page_size);
	return 0;
}

int wal_sync(struct wal *wal)
{
	return wal->fd >= 0 && fdatasync(wal->fd) != 0 ? -errno : 0;
}
