/* SPDX-License-Identifier: MIT */

/*
 * Pages of segments into a file. What it keeps true: after a segment the file has exactly the pages
 * that the segment says, each of them from this segment or one before it; the lock page is zeros.
 */

#include "server/ship/apply.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int apply_init(struct apply *apply, int fd)
{
	*apply = (struct apply){.fd = fd, .run = malloc(APPLY_RUN_BYTES)};
	return apply->run == NULL ? -ENOMEM : 0;
}

void apply_finish(struct apply *apply)
{
	free(apply->run);
	*apply = (struct apply){.fd = -1};
}

__attribute__((format(printf, 2, 3))) static int damaged(
	char ret_error[APPLY_ERROR_BYTES], const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error, APPLY_ERROR_BYTES, format, args);
	va_end(args);
	return APPLY_DAMAGED;
}

static int flush(struct apply *apply)
{
	const uint8_t *at = apply->run;
	off_t offset = (off_t)(apply->run_first - 1) * apply->page_size;
	while (apply->run_bytes > 0) {
		ssize_t n = pwrite(apply->fd, at, apply->run_bytes, offset);
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		size_t written = n > 0 ? (size_t)n : 0;
		at += written;
		offset += (off_t)written;
		apply->run_bytes -= written;
	}
	return 0;
}

static int write_page(struct apply *apply, uint32_t page_no, const uint8_t *page)
{
	if (apply->fd < 0) {
		return 0;
	}
	uint32_t next = apply->run_first + (uint32_t)(apply->run_bytes / apply->page_size);
	if (apply->run_bytes > 0 &&
		(page_no != next || apply->run_bytes + apply->page_size > APPLY_RUN_BYTES)) {
		int rc = flush(apply);
		if (rc != 0) {
			return rc;
		}
	}
	if (apply->run_bytes == 0) {
		apply->run_first = page_no;
	}
	memcpy(apply->run + apply->run_bytes, page, apply->page_size);
	apply->run_bytes += apply->page_size;
	return 0;
}

static int check_header(const struct apply *apply, const struct replica_file *file, bool full,
	const struct ltx_header *header, char *ret_error)
{
	if (header->min_txid != file->min_txid || header->max_txid != file->max_txid) {
		return damaged(ret_error, "its header says %016" PRIx64 "-%016" PRIx64,
			header->min_txid, header->max_txid);
	}
	if (apply->page_size != 0 && apply->page_size != header->page_size) {
		return damaged(ret_error, "its pages have %u bytes, those before %u",
			header->page_size, apply->page_size);
	}
	if (header->commit == 0) {
		return damaged(ret_error, "it leaves no page");
	}
	if (apply->bytes_max > 0 &&
		(uint64_t)header->commit * header->page_size > apply->bytes_max) {
		return -ENOSPC;
	}
	if (!full && apply->fd >= 0 && header->min_txid > apply->max_txid + 1) {
		return damaged(ret_error, "it does not follow %016" PRIx64, apply->max_txid);
	}
	return 0;
}

/* All pages of the segment. *ret_new counts those above `known`, which the file did not have. */
static int apply_pages(struct apply *apply, struct ltx_reader *reader, uint32_t known,
	apply_page see, void *ctx, uint32_t *ret_new, char *ret_error)
{
	char error[LTX_ERROR_BYTES] = "";
	uint32_t page_no = 0;
	const uint8_t *page = NULL;
	for (;;) {
		int rc = ltx_reader_next(reader, &page_no, &page, error);
		if (rc == 0 && page == NULL) {
			return apply->fd >= 0 ? flush(apply) : 0;
		}
		if (rc == 0) {
			*ret_new += page_no > known;
			if (see != NULL) {
				see(ctx, page_no, page, apply->page_size);
			}
			rc = write_page(apply, page_no, page);
		}
		if (rc != 0) {
			return rc == LTX_CORRUPT ? damaged(ret_error, "%s", error) : rc;
		}
	}
}

static int apply_body(struct apply *apply, struct ltx_reader *reader, bool full, apply_page see,
	void *ctx, char *ret_error)
{
	const struct ltx_header *header = ltx_reader_header(reader);
	uint32_t lock_page = ltx_lock_page(header->page_size);
	uint32_t known = full ? 0 : apply->pages;
	uint32_t count = 0;
	apply->page_size = header->page_size;
	apply->run_bytes = 0;
	int rc = apply_pages(apply, reader, known, see, ctx, &count, ret_error);
	if (rc != 0) {
		return rc;
	}
	uint32_t wanted = header->commit > known ? header->commit - known : 0;
	wanted -= wanted > 0 && lock_page > known && lock_page <= header->commit;
	if (count < wanted && (full || apply->fd >= 0)) {
		return damaged(
			ret_error, "%u of %u new pages are missing in it", wanted - count, wanted);
	}
	apply->pages = header->commit;
	apply->max_txid = header->max_txid;
	if (apply->fd >= 0 && ftruncate(apply->fd, (off_t)apply->pages * apply->page_size) != 0) {
		return -errno;
	}
	return 0;
}

int apply_segment(struct apply *apply, const struct replica_file *file, bool full,
	ltx_source source, void *source_ctx, apply_page page, void *page_ctx,
	char ret_error[APPLY_ERROR_BYTES])
{
	char error[LTX_ERROR_BYTES] = "";
	struct ltx_reader *reader = NULL;
	full = full || file->min_txid == 1;
	int rc = ltx_reader_new(source, source_ctx, &reader, error);
	if (rc == LTX_CORRUPT) {
		return damaged(ret_error, "%s", error);
	}
	if (rc == 0) {
		rc = check_header(apply, file, full, ltx_reader_header(reader), ret_error);
	}
	if (rc == 0) {
		rc = apply_body(apply, reader, full, page, page_ctx, ret_error);
	}
	ltx_reader_free(reader);
	return rc;
}
