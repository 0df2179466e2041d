/* SPDX-License-Identifier: MIT */

/*
 * The file of parts: header, table of pages, contents, again and again. The header carries a hash of
 * the whole part, so that after a crash a torn one is recognised, as is an old one behind the last. A
 * part may be as large as a transaction: it goes through one buffer, written and read.
 */

#include "server/ship/parts.h"

#include "server/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum {
	MAGIC = 0x4c465432 /* LFT2 */,
	KEEP_BYTES = 256 * 1024 * 1024,
	BUFFER_BYTES = 1024 * 1024,
};

struct parts {
	int fd;
	uint32_t page_size;
	uint64_t end; /* where the next part begins */
	XXH3_state_t *hash;
	uint8_t buffer[BUFFER_BYTES];
};

struct part_header {
	uint32_t magic;
	uint32_t count;
	uint64_t bytes; /* of the whole part */
	struct position at;
	uint64_t hash; /* of the header without it, and of everything behind it */
};

struct part_entry {
	uint32_t page_no;
	uint32_t cut;
};

int parts_open(const struct spool *spool, uint32_t page_size, struct parts **ret_parts)
{
	char path[4200];
	struct parts *parts = malloc(sizeof(*parts));
	if (parts == NULL) {
		return -ENOMEM;
	}
	snprintf(path, sizeof(path), "%s/parts", spool_dir(spool));
	parts->page_size = page_size;
	parts->end = 0;
	parts->hash = XXH3_createState();
	parts->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (parts->fd < 0 || parts->hash == NULL) {
		int rc = parts->fd < 0 ? -errno : -ENOMEM;
		parts_free(parts);
		return rc;
	}
	*ret_parts = parts;
	return 0;
}

void parts_free(struct parts *parts)
{
	if (parts != NULL) {
		if (parts->fd >= 0) {
			close(parts->fd);
		}
		XXH3_freeState(parts->hash);
		free(parts);
	}
}

static int write_at(int fd, const uint8_t *bytes, size_t len, uint64_t offset)
{
	while (len > 0) {
		ssize_t written = pwrite(fd, bytes, len, (off_t)offset);
		if (written < 0 && errno == EINTR) {
			continue;
		}
		if (written <= 0) {
			return written == 0 ? -EIO : -errno;
		}
		bytes += written;
		offset += (uint64_t)written;
		len -= (size_t)written;
	}
	return 0;
}

/* ---- writing ---- */

/* What follows the header: hashed first, the header's own fields as the seed. */
static void hash_begin(struct parts *parts, const struct part_header *header)
{
	XXH3_64bits_reset_withSeed(
		parts->hash, XXH3_64bits(header, offsetof(struct part_header, hash)));
}

/* A part on its way into the file, behind the place of its header. */
struct pouring {
	struct parts *parts;
	uint64_t at; /* in the file, of the buffer's first byte */
	size_t len;
};

static int pour(struct pouring *pouring)
{
	struct parts *parts = pouring->parts;
	XXH3_64bits_update(parts->hash, parts->buffer, pouring->len);
	int rc = write_at(parts->fd, parts->buffer, pouring->len, pouring->at);
	pouring->at += pouring->len;
	pouring->len = 0;
	return rc;
}

/* Room for so many bytes in the buffer, which are then part of it; NULL: they could not be written. */
static uint8_t *take_room(struct pouring *pouring, size_t bytes, int *ret_rc)
{
	*ret_rc = pouring->len + bytes > BUFFER_BYTES ? pour(pouring) : 0;
	uint8_t *room = pouring->parts->buffer + pouring->len;
	pouring->len += *ret_rc == 0 ? bytes : 0;
	return *ret_rc == 0 ? room : NULL;
}

static int pour_table(struct pouring *pouring, const struct part_page *pages, size_t count)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		const struct part_entry entry = {pages[i].page_no, pages[i].cut};
		uint8_t *room = take_room(pouring, sizeof(entry), &rc);
		if (room != NULL) {
			memcpy(room, &entry, sizeof(entry));
		}
	}
	return rc;
}

static int pour_contents(struct pouring *pouring, struct part_page *pages, size_t count,
	int (*read_page)(void *ctx, uint32_t page_no, uint8_t *page), void *ctx)
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (!pages[i].cut) {
			size_t page_size = pouring->parts->page_size;
			uint8_t *room = take_room(pouring, page_size, &rc);
			pages[i].offset = pouring->at + pouring->len - page_size;
			rc = room != NULL ? read_page(ctx, pages[i].page_no, room) : rc;
		}
	}
	return rc == 0 ? pour(pouring) : rc;
}

/* The header comes last: until it is there, the part is not. */
static int append(struct parts *parts, const struct position *at, struct part_page *pages,
	size_t count, int (*read_page)(void *ctx, uint32_t page_no, uint8_t *page), void *ctx)
{
	struct part_header header;
	struct pouring pouring = {.parts = parts, .at = parts->end + sizeof(header)};
	memset(&header, 0, sizeof(header));
	header.magic = MAGIC;
	header.count = (uint32_t)count;
	header.bytes = sizeof(header) + count * sizeof(struct part_entry);
	for (size_t i = 0; i < count; i++) {
		header.bytes += pages[i].cut ? 0 : parts->page_size;
	}
	memcpy(&header.at, at, sizeof(*at));
	hash_begin(parts, &header);
	int rc = pour_table(&pouring, pages, count);
	rc = rc == 0 ? pour_contents(&pouring, pages, count, read_page, ctx) : rc;
	if (rc == 0) {
		header.hash = XXH3_64bits_digest(parts->hash);
		rc = write_at(parts->fd, (const uint8_t *)&header, sizeof(header), parts->end);
	}
	parts->end += rc == 0 ? header.bytes : 0;
	return rc;
}

int parts_append(struct parts *parts, const struct position *at, struct part_page *pages,
	size_t count, int (*read_page)(void *ctx, uint32_t page_no, uint8_t *page), void *ctx)
{
	int rc = append(parts, at, pages, count, read_page, ctx);
	return rc == 0 && fdatasync(parts->fd) != 0 ? -errno : rc;
}

void parts_reset(struct parts *parts)
{
	if (parts->end > KEEP_BYTES) {
		int cut = ftruncate(parts->fd, 0);
		(void)cut; /* only room is at stake */
	}
	parts->end = 0;
}

/* ---- reading ---- */

static int read_at(const struct parts *parts, void *bytes, size_t len, uint64_t offset)
{
	size_t done = 0;
	while (done < len) {
		ssize_t got = pread(
			parts->fd, (uint8_t *)bytes + done, len - done, (off_t)(offset + done));
		if (got < 0 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			return got == 0 ? SPOOL_MISSING : -errno;
		}
		done += (size_t)got;
	}
	return 0;
}

int parts_read(const struct parts *parts, uint64_t offset, uint8_t *page)
{
	int rc = read_at(parts, page, parts->page_size, offset);
	return rc == SPOOL_MISSING ? -EIO : rc;
}

/* Whether what follows the header is what was written: 0, or SPOOL_MISSING. */
static int check(struct parts *parts, const struct part_header *header)
{
	uint64_t end = parts->end + header->bytes;
	hash_begin(parts, header);
	for (uint64_t at = parts->end + sizeof(*header); at < end;) {
		size_t len = end - at < BUFFER_BYTES ? (size_t)(end - at) : BUFFER_BYTES;
		int rc = read_at(parts, parts->buffer, len, at);
		if (rc != 0) {
			return rc;
		}
		XXH3_64bits_update(parts->hash, parts->buffer, len);
		at += len;
	}
	return XXH3_64bits_digest(parts->hash) == header->hash ? 0 : SPOOL_MISSING;
}

/* The table of a part that was checked. */
static int read_table(
	const struct parts *parts, const struct part_header *header, struct part_page *pages)
{
	uint64_t table = parts->end + sizeof(*header);
	uint64_t offset = table + header->count * sizeof(struct part_entry);
	for (size_t i = 0; i < header->count; i++) {
		struct part_entry entry;
		int rc = read_at(parts, &entry, sizeof(entry), table + i * sizeof(entry));
		if (rc != 0) {
			return rc;
		}
		pages[i] = (struct part_page){entry.page_no, entry.cut != 0, offset};
		offset += entry.cut != 0 ? 0 : parts->page_size;
	}
	return 0;
}

static int load_one(struct parts *parts, uint64_t txid, uint64_t file_bytes,
	int (*fn)(
		void *ctx, const struct position *at, const struct part_page *pages, size_t count),
	void *ctx)
{
	struct part_header header;
	int rc = read_at(parts, &header, sizeof(header), parts->end);
	if (rc != 0) {
		return rc;
	}
	if (header.magic != MAGIC || header.at.txid != txid ||
		header.bytes > file_bytes - parts->end ||
		header.bytes < sizeof(header) + header.count * sizeof(struct part_entry)) {
		return SPOOL_MISSING;
	}
	rc = check(parts, &header);
	if (rc != 0) {
		return rc;
	}
	CLEANUP_FREE struct part_page *pages = calloc(header.count + 1, sizeof(*pages));
	if (pages == NULL) {
		return -ENOMEM;
	}
	rc = read_table(parts, &header, pages);
	rc = rc == 0 ? fn(ctx, &header.at, pages, header.count) : rc;
	parts->end += header.bytes;
	return rc;
}

int parts_load(struct parts *parts, uint64_t txid,
	int (*fn)(
		void *ctx, const struct position *at, const struct part_page *pages, size_t count),
	void *ctx)
{
	off_t size = lseek(parts->fd, 0, SEEK_END);
	int rc = size < 0 ? -errno : 0;
	parts->end = 0;
	while (rc == 0) {
		rc = load_one(parts, txid, (uint64_t)size, fn, ctx);
	}
	rc = rc == SPOOL_MISSING ? 0 : rc;
	/* What is whole may still stand in the page cache only: it counts as secured from here on. */
	return rc == 0 && fdatasync(parts->fd) != 0 ? -errno : rc;
}
