/* SPDX-License-Identifier: MIT */

/*
 * Where the WAL ends, read from the file itself by a descriptor of our own: SQLite holds no lock on
 * the -wal, so that opening and closing it harms nothing. What SQLite does not tell, the header of
 * the last frame does.
 */

#include "server/base/wal_format.h"
#include "server/store/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int read_end(int fd, const struct store *store, struct wal_end *ret_end)
{
	uint8_t header[WAL_FRAME_HEADER_BYTES];
	uint64_t last = store->wal.frames;
	ssize_t got =
		pread(fd, header, sizeof(header), (off_t)wal_frame_offset(store->page_size, last));
	if (got < 0) {
		return -errno;
	}
	struct wal_frame frame = wal_frame_parse(header);
	*ret_end = (struct wal_end){
		.frames = last,
		.pages = frame.commit,
		.salt = {frame.salt[0], frame.salt[1]},
		.checksum = {frame.checksum[0], frame.checksum[1]},
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
