/* SPDX-License-Identifier: MIT */

/*
 * The file of parts: header, table of pages, contents, again and again. The header carries a hash of
 * the whole part, so that after a crash a torn one is recognised, as is an old one behind the last.
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

enum { MAGIC = 0x4c465432 /* LFT2 */, KEEP_BYTES = 256 * 1024 * 1024 };

struct parts {
	int fd;
	uint32_t page_size;
	uint64_t end;    /* where the next part begins */
	uint8_t *buffer; /* a part is put together here */
	size_t room;
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
	struct parts *parts = calloc(1, sizeof(*parts));
	if (parts == NULL) {
		return -ENOMEM;
	}
	snprintf(path, sizeof(path), "%s/parts", spool_dir(spool));
	parts->page_size = page_size;
	parts->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (parts->fd < 0) {
		int rc = -errno;
		free(parts);
		return rc;
	}
	*ret_parts = parts;
	return 0;
}

void parts_free(struct parts *parts)
{
	if (parts != NULL) {
		close(parts->fd);
		free(parts->buffer);
		free(parts);
	}
}

static int reserve(struct parts *parts, size_t bytes)
{
	if (bytes > parts->room) {
		uint8_t *bigger = realloc(parts->buffer, bytes);
		if (bigger == NULL) {
			return -ENOMEM;
		}
		parts->buffer = bigger;
		parts->room = bytes;
	}
	return 0;
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

static uint64_t hash_of(const struct part_header *header, const uint8_t *rest, size_t len)
{
	uint64_t of_header = XXH3_64bits(header, offsetof(struct part_header, hash));
	return XXH3_64bits_withSeed(rest, len, of_header);
}

/* A part at most: more pages become several, each of which stands for itself. */
static int append_some(struct parts *parts, const struct position *at, struct part_page *pages,
	size_t count, int (*read_page)(void *ctx, uint32_t page_no, uint8_t *page), void *ctx)
{
	size_t contents = 0;
	for (size_t i = 0; i < count; i++) {
		contents += !pages[i].cut;
	}
	size_t table = sizeof(struct part_header) + count * sizeof(struct part_entry);
	size_t bytes = table + contents * parts->page_size;
	int rc = reserve(parts, bytes);
	if (rc != 0) {
		return rc;
	}
	uint8_t *next = parts->buffer + table;
	struct part_entry *entries = (void *)(parts->buffer + sizeof(struct part_header));
	for (size_t i = 0; rc == 0 && i < count; i++) {
		entries[i] = (struct part_entry){pages[i].page_no, pages[i].cut};
		if (!pages[i].cut) {
			pages[i].offset = parts->end + (uint64_t)(next - parts->buffer);
			rc = read_page(ctx, pages[i].page_no, next);
			next += parts->page_size;
		}
	}
	if (rc != 0) {
		return rc;
	}
	struct part_header header;
	memset(&header, 0, sizeof(header));
	header.magic = MAGIC;
	header.count = (uint32_t)count;
	header.bytes = bytes;
	memcpy(&header.at, at, sizeof(*at));
	header.hash = hash_of(&header, parts->buffer + sizeof(header), bytes - sizeof(header));
	memcpy(parts->buffer, &header, sizeof(header));
	rc = write_at(parts->fd, parts->buffer, bytes, parts->end);
	parts->end += rc == 0 ? bytes : 0;
	return rc;
}

int parts_append(struct parts *parts, const struct position *at, struct part_page *pages,
	size_t count, int (*read_page)(void *ctx, uint32_t page_no, uint8_t *page), void *ctx)
{
	int rc = append_some(parts, at, pages, count, read_page, ctx);
	return rc == 0 && fdatasync(parts->fd) != 0 ? -errno : rc;
}

void parts_reset(struct parts *parts)
{
	if (parts->end > KEEP_BYTES) {
		int cut = ftruncate(parts->fd, 0);
		(void)cut; /* only room is at stake */
		free(parts->buffer);
		parts->buffer = NULL;
		parts->room = 0;
	}
	parts->end = 0;
}

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
	rc = reserve(parts, header.bytes);
	rc = rc == 0 ? read_at(parts, parts->buffer, header.bytes, parts->end) : rc;
	if (rc != 0) {
		return rc;
	}
	if (header.hash !=
		hash_of(&header, parts->buffer + sizeof(header), header.bytes - sizeof(header))) {
		return SPOOL_MISSING;
	}
	CLEANUP_FREE struct part_page *pages = calloc(header.count + 1, sizeof(*pages));
	if (pages == NULL) {
		return -ENOMEM;
	}
	const struct part_entry *entries = (void *)(parts->buffer + sizeof(header));
	uint64_t offset = parts->end + sizeof(header) + header.count * sizeof(struct part_entry);
	for (size_t i = 0; i < header.count; i++) {
		pages[i] = (struct part_page){entries[i].page_no, entries[i].cut != 0, offset};
		offset += entries[i].cut != 0 ? 0 : parts->page_size;
	}
	rc = fn(ctx, &header.at, pages, header.count);
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
