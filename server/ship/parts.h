/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Parts: pages made durable in the spool because the WAL that holds them is about to start over,
 * before they are in a segment. One file, appended to, and used again from its start once a segment
 * has taken everything in. A part that is not whole, or belongs to an earlier segment, ends it.
 */

#include "server/ship/spool.h"

struct parts;

struct part_page {
	uint32_t page_no;
	bool cut;        /* the database has become shorter than this page: there is no content */
	uint64_t offset; /* of the content in the file; parts_append() sets it */
};

int parts_open(const struct spool *spool, uint32_t page_size, struct parts **ret_parts);
void parts_free(struct parts *parts); /* accepts NULL */

/*
 * Appends a part and makes it durable: the chain then stands at `at`, whose txid is that of the
 * last segment and whose digest lacks the old content of every page since. read_page() fills in
 * the content of pages that are not cut: 0 or a result that is passed up.
 */
int parts_append(struct parts *parts, const struct position *at, struct part_page *pages,
	size_t count, int (*read_page)(void *ctx, uint32_t page_no, uint8_t *page), void *ctx);

/* Everything is in a segment: the next part is the first again. */
void parts_reset(struct parts *parts);

/* The content of a page at an offset that parts_append() or parts_load() gave. */
int parts_read(const struct parts *parts, uint64_t offset, uint8_t *page);

/* Calls fn for each part that follows segment `txid`, in order: 0, or what fn or reading returned. */
int parts_load(struct parts *parts, uint64_t txid,
	int (*fn)(
		void *ctx, const struct position *at, const struct part_page *pages, size_t count),
	void *ctx);
