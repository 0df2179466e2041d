/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * LTX, the format of a segment: a header, pages in ascending order as LZ4 blocks, an index, a
 * trailer. Written as Litestream 0.5.16 and later read it (page flag 1, an LZ4 block behind its
 * size; no database checksums); read as any Litestream 0.5 wrote it (also LZ4 frames, page flag 0).
 * All integers are big-endian. Both directions are one forward pass in bounded memory, except the
 * index, which takes 8 bytes a page while a file is written.
 *
 * A file whose min_txid is 1 is a snapshot: it must hold every page but the lock page.
 *
 * Results: 0; a positive ltx_condition, with a sentence in the error; negative errno, or what the
 * sink or source returned.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	LTX_HEADER_BYTES = 100,
	LTX_TRAILER_BYTES = 16,
	LTX_NAME_BYTES = 38, /* 16 digits, -, 16 digits, .ltx, NUL */
	LTX_ERROR_BYTES = 200,
};

enum ltx_condition {
	LTX_CORRUPT = 1, /* not LTX, cut short, a checksum that is wrong, pages out of order … */
};

struct ltx_header {
	uint32_t page_size; /* a power of two, 512 to 65536 */
	uint32_t commit;    /* pages of the database after this file */
	uint64_t min_txid;  /* from 1 */
	uint64_t max_txid;
	int64_t timestamp_ms; /* since 1970 */
	int64_t wal_offset;   /* of the WAL bytes that it came from; 32 and size 0 if it has none */
	int64_t wal_size;
	uint32_t salt1;
	uint32_t salt2;
};

/* The page that holds SQLite's lock bytes (at 1 GiB); it is in no file and reads as zeros. */
uint32_t ltx_lock_page(uint32_t page_size);

/* "%016x-%016x.ltx", and back; false: not the name of a segment. */
void ltx_name(uint64_t min_txid, uint64_t max_txid, char ret_name[LTX_NAME_BYTES]);
bool ltx_name_parse(const char *name, uint64_t *ret_min_txid, uint64_t *ret_max_txid);

/* ---- writing ---- */

struct ltx_writer;

/* Takes all bytes, in order: 0 or negative errno. */
typedef int (*ltx_sink)(void *ctx, const void *bytes, size_t len);

int ltx_writer_new(
	const struct ltx_header *header, ltx_sink sink, void *ctx, struct ltx_writer **ret_writer);
void ltx_writer_free(struct ltx_writer *writer);

/* Page numbers ascend; the lock page and pages above `commit` are the caller's error (-EINVAL). */
int ltx_writer_page(struct ltx_writer *writer, uint32_t page_no, const void *page);

/* Ends the file: index and trailer. -EINVAL if it is a snapshot and pages are missing. */
int ltx_writer_finish(struct ltx_writer *writer);

/* ---- reading ---- */

struct ltx_reader;

/* Fills at most `len` bytes: how many, 0 at the end, or negative errno. */
typedef long (*ltx_source)(void *ctx, void *bytes, size_t len);

/* Reads and checks the header. LTX_CORRUPT with a sentence. */
int ltx_reader_new(ltx_source source, void *ctx, struct ltx_reader **ret_reader,
	char ret_error[LTX_ERROR_BYTES]);
void ltx_reader_free(struct ltx_reader *reader);
const struct ltx_header *ltx_reader_header(const struct ltx_reader *reader);

/*
 * The next page: *ret_page is the reader's until the next call. *ret_page NULL: that was the last
 * one, and index, trailer, and the file's checksum have been read and found right. Nothing of a
 * file may be believed before that.
 */
int ltx_reader_next(struct ltx_reader *reader, uint32_t *ret_page_no, const uint8_t **ret_page,
	char ret_error[LTX_ERROR_BYTES]);
