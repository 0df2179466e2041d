/* SPDX-License-Identifier: MIT */

/*
 * Where the WAL ends, read from the file itself by a descriptor of our own: SQLite holds no lock on
 * the -wal, so that opening and closing it harms nothing. What SQLite does not tell, the header of
 * the last frame does.
 */

#include "server/store/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum { WAL_HEADER_BYTES = 32, FRAME_HEADER_BYTES = 24 };

static uint32_t be32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int read_end(int fd, const struct store *store, struct wal_end *ret_end)
{
	uint8_t header[FRAME_HEADER_BYTES];
	uint64_t frame = store->wal.frames;
	uint64_t offset = WAL_HEADER_BYTES + (frame - 1) * (store->page_size + FRAME_HEADER_BYTES);
	ssize_t got = pread(fd, header, sizeof(header), (off_t)offset);
	if (got < 0) {
		return -errno;
	}
	*ret_end = (struct wal_end){
		.frames = frame,
		.pages = be32(header + 4),
		.salt = {be32(header + 8), be32(header + 12)},
		.checksum = {be32(header + 16), be32(header + 20)},
	};
	/* The last frame of a commit says how large the database is; no other does. */
	return got == (ssize_t)sizeof(header) && ret_end->pages != 0 ? 0 : -ENODATA;
}

int store_wal_end(struct store *store, struct wal_end *ret_end)
{
	if (store->wal.frames == 0) {
		return -ENODATA;
	}
	if (store->wal.fd < 0) {
		const char *path = sqlite3_filename_wal(sqlite3_db_filename(store->handle, "main"));
		store->wal.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
		if (store->wal.fd < 0) {
			return -errno;
		}
	}
	return read_end(store->wal.fd, store, ret_end);
}
