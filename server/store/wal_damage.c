/* SPDX-License-Identifier: MIT */

/*
 * Commits that stand in the WAL and do not count any more. Recovery ends at the first frame whose checksum
 * is wrong, and says nothing: behind a crash that is where the unfinished begins, but behind a damage (a
 * flipped bit, a copy that was made while the file changed) acknowledged commits may follow. Which of the
 * two it was, their numbers tell: each of our transactions holds the page of _lf_state, and under FULL one
 * is on the disk before the next begins. So one that nobody was told of can be lost there, and no more.
 *
 * A frame is believed by its own checksum, which goes on from the one that stands in the frame before it.
 * The formats are SQLite's (fileformat2.html).
 */

#include "server/base/wal_format.h"
#include "server/store/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	LEAF = 0x0d,
	LEAF_HEADER_BYTES = 8,
	COLUMN_EPOCH = 2,
	COLUMN_COMMIT = 3,
	COLUMNS = 5, /* of _lf_state */
	BLOB = 12,   /* serial types from here on: and with half of what is above that its length */
};

struct search {
	const struct store *store;
	int fd;
	uint32_t state_page; /* 0: the table is gone, and whichever page holds such a row is its */
	bool has_header;     /* whole; if it is damaged, no frame counts */
	struct wal_header header;
	uint32_t before[2]; /* the checksum in the frame before */
	uint8_t *frame;
};

/* ---- the row of _lf_state in its page ---- */

/* False: it goes beyond the end. */
static bool varint(const uint8_t **at, const uint8_t *end, uint64_t *ret_value)
{
	uint64_t value = 0;
	for (int i = 0; i < 9 && *at < end; i++) {
		uint8_t byte = *(*at)++;
		if (i == 8) {
			*ret_value = value << 8 | byte;
			return true;
		}
		value = value << 7 | (byte & 0x7f);
		if ((byte & 0x80) == 0) {
			*ret_value = value;
			return true;
		}
	}
	return false;
}

static uint64_t bytes_of(uint64_t type)
{
	static const uint8_t numbers[BLOB] = {0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0};
	return type < BLOB ? numbers[type] : (type - BLOB) / 2;
}

/* 0 if it is none. */
static uint64_t integer(const uint8_t *at, uint64_t type)
{
	uint64_t value = type == 9; /* these two have no bytes: 8 is 0, 9 is 1 */
	for (uint64_t i = 0; i < bytes_of(type); i++) {
		value = value << 8 | at[i];
	}
	return type <= 6 || type == 9 ? value : 0;
}

static bool is_lineage(const struct search *search, uint64_t type, const uint8_t *epoch)
{
	return type == BLOB + 2 * STORE_EPOCH_BYTES &&
		(search->state_page == 0 ||
			memcmp(epoch, search->store->epoch, STORE_EPOCH_BYTES) == 0);
}

/* The number of the commit that wrote the page, if it is of this lineage; else 0. */
static uint64_t commit_of(const struct search *search, const uint8_t *page)
{
	const uint8_t *end = page + search->store->page_size;
	const uint8_t *at = page + (page[LEAF_HEADER_BYTES] << 8 | page[LEAF_HEADER_BYTES + 1]);
	uint64_t skipped = 0;
	uint64_t header_bytes = 0;
	uint64_t types[COLUMNS];
	/* The length of the payload, and the rowid. */
	if (page[0] != LEAF || !varint(&at, end, &skipped) || !varint(&at, end, &skipped)) {
		return 0;
	}
	const uint8_t *body = at;
	if (!varint(&at, end, &header_bytes) || header_bytes > (uint64_t)(end - body)) {
		return 0;
	}
	body += header_bytes;
	for (int i = 0; i < COLUMNS; i++) {
		if (!varint(&at, end, &types[i])) {
			return 0;
		}
	}
	for (int i = 0; i <= COLUMN_COMMIT; i++) {
		if (bytes_of(types[i]) > (uint64_t)(end - body) ||
			(i == COLUMN_EPOCH && !is_lineage(search, types[i], body))) {
			return 0;
		}
		body += i < COLUMN_COMMIT ? bytes_of(types[i]) : 0;
	}
	return integer(body, types[COLUMN_COMMIT]);
}

/* ---- the frames ---- */

/* 0, -ENODATA where the file ends before, or another negative errno. */
static int read_at(const struct search *search, void *bytes, size_t len, uint64_t offset)
{
	ssize_t got = pread(search->fd, bytes, len, (off_t)offset);
	return got == (ssize_t)len ? 0 : got < 0 ? -errno : -ENODATA;
}

/* The order of the words stands in the header, which may be what is damaged. */
static bool is_whole(const struct search *search)
{
	uint32_t page_size = search->store->page_size;
	return wal_frame_sums_up(false, search->frame, page_size, search->before) ||
		wal_frame_sums_up(true, search->frame, page_size, search->before);
}

/*
 * Whether such a frame may belong to the state: one of its page; or, without a state, any of this generation,
 * since behind it there may be more of a life with litefunnel that was ended.
 */
static bool may_count(const struct search *search, struct wal_frame frame)
{
	return search->state_page != 0 ? frame.page_no == search->state_page
				       : !search->has_header ||
			memcmp(frame.salt, search->header.salt, sizeof(frame.salt)) == 0;
}

/* What stands before the first frame that is looked at, which are counted from 1. */
static int begin(struct search *search, uint64_t first)
{
	uint8_t header[WAL_HEADER_BYTES];
	int rc = read_at(search, header, sizeof(header), 0);
	if (rc != 0) {
		return rc;
	}
	search->has_header = wal_header_parse(header, &search->header);
	search->before[0] = search->header.checksum[0];
	search->before[1] = search->header.checksum[1];
	if (first > 1) {
		rc = read_at(search, header, WAL_FRAME_HEADER_BYTES,
			wal_frame_offset(search->store->page_size, first - 1));
		struct wal_frame frame = wal_frame_parse(header);
		memcpy(search->before, frame.checksum, sizeof(search->before));
	}
	return rc;
}

static int look(struct search *search, uint64_t first, uint64_t *ret_last)
{
	uint32_t page_size = search->store->page_size;
	uint8_t *page = search->frame + WAL_FRAME_HEADER_BYTES;
	uint64_t acknowledged = search->store->commit_no + 2; /* one may be in the making */
	int rc = begin(search, first);
	for (uint64_t i = first; rc == 0; i++) {
		uint64_t offset = wal_frame_offset(page_size, i);
		rc = read_at(search, search->frame, WAL_FRAME_HEADER_BYTES, offset);
		struct wal_frame frame = wal_frame_parse(search->frame);
		if (rc == 0 && may_count(search, frame)) {
			rc = read_at(search, page, page_size, offset + WAL_FRAME_HEADER_BYTES);
			uint64_t commit_no = rc == 0 ? commit_of(search, page) : 0;
			if (commit_no >= acknowledged && commit_no > *ret_last &&
				is_whole(search)) {
				*ret_last = commit_no;
			}
		}
		memcpy(search->before, frame.checksum, sizeof(search->before));
	}
	return rc == -ENODATA ? 0 : rc;
}

static int find(struct store *store, uint64_t *ret_last)
{
	struct wal_index index;
	char path[4096];
	struct search search = {.store = store, .state_page = state_page(store)};
	if (!wal_index(store, &index)) {
		return 0;
	}
	snprintf(path, sizeof(path), "%s-wal", store->path);
	search.fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (search.fd < 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	search.frame = calloc(1, WAL_FRAME_HEADER_BYTES + (size_t)store->page_size);
	int rc = search.frame != NULL ? look(&search, index.header.frames + 1ull, ret_last)
				      : -ENOMEM;
	free(search.frame);
	close(search.fd);
	return rc;
}

/*
 * Who has a replica restores, and who has none may still save what can be read, or keep what is left. Under
 * NORMAL a machine that goes down does the same, and that was agreed to.
 */
int wal_check_damage(struct store *store, char ret_error[STORE_ERROR_BYTES])
{
	uint64_t lost = 0;
	int rc = find(store, &lost);
	if (rc < 0) {
		snprintf(
			ret_error, STORE_ERROR_BYTES, "%.400s-wal: %s", store->path, strerror(-rc));
		return -1;
	}
	store->foreign.lost = lost;
	if (lost == 0 || !store->sync_full) {
		return 0;
	}
	snprintf(ret_error, STORE_ERROR_BYTES,
		"%.120s-wal is damaged: what counts ends with commit %llu, and acknowledged ones up to "
		"%llu stand behind the damage. Restore from the replica; or do without them: keep a "
		"copy, then sqlite3 %.120s 'PRAGMA wal_checkpoint(TRUNCATE)', and start again",
		store->path, (unsigned long long)store->commit_no, (unsigned long long)lost,
		store->path);
	return -1;
}
