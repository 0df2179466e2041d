/* SPDX-License-Identifier: MIT */

/*
 * Reads an LTX file in one forward pass and believes nothing before the end: pages must ascend, a
 * snapshot must be whole, and the checksum of the file must be right. The index is checked for its
 * shape and hashed, not compared: a restore does not use it, and keeping pages in mind to compare
 * would cost memory by the size of the database.
 *
 * An error sticks: a file that was refused stays refused.
 */

#include "server/ship/crc64.h"
#include "server/ship/ltx.h"
#include "server/ship/ltx_format.h"
#include "server/ship/ltx_input.h"

#include <errno.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>

struct ltx_reader {
	struct ltx_header header;
	bool checksums;  /* of the database, in the trailer */
	bool ended;      /* index and trailer have been found right */
	int result;      /* not 0: what ended it */
	uint64_t crc;    /* of the file so far */
	uint64_t db_crc; /* of a snapshot's pages so far */
	uint32_t last_page;
	char error[LTX_ERROR_BYTES];
	struct ltx_input input;
	uint8_t page[LTX_PAGE_SIZE_MAX];
	uint8_t room[LZ4_COMPRESSBOUND(LTX_PAGE_SIZE_MAX)];
};

static int corrupt(struct ltx_reader *reader, const char *fault)
{
	snprintf(reader->error, sizeof reader->error, "%s", fault);
	return LTX_CORRUPT;
}

/* Gives a result of the input its sentence. */
static int input_result(struct ltx_reader *reader, int rc, const char *fault)
{
	return rc == LTX_CORRUPT ? corrupt(reader, fault) : rc;
}

/* Bytes that the checksum of the file covers as they are. */
static int take_hashed(struct ltx_reader *reader, void *ret_bytes, size_t len)
{
	int rc = ltx_input_take(&reader->input, ret_bytes, len);
	if (rc == 0) {
		reader->crc = crc64(reader->crc, ret_bytes, len);
	}
	return input_result(reader, rc, "it is cut short");
}

static int read_header(struct ltx_reader *reader)
{
	uint8_t bytes[LTX_HEADER_BYTES];
	int rc = take_hashed(reader, bytes, sizeof bytes);
	return rc != 0
		? rc
		: ltx_header_decode(bytes, &reader->header, &reader->checksums, reader->error);
}

int ltx_reader_new(ltx_source source, void *ctx, struct ltx_reader **ret_reader,
	char ret_error[LTX_ERROR_BYTES])
{
	struct ltx_reader *reader = malloc(sizeof *reader);
	if (reader == NULL) {
		snprintf(ret_error, LTX_ERROR_BYTES, "out of memory");
		return -ENOMEM;
	}
	memset(reader, 0, offsetof(struct ltx_reader, input));
	reader->db_crc = LTX_CHECKSUM_FLAG;
	ltx_input_init(&reader->input, source, ctx);
	int rc = read_header(reader);
	if (rc != 0) {
		memcpy(ret_error, reader->error, LTX_ERROR_BYTES);
		ltx_reader_free(reader);
		return rc;
	}
	*ret_reader = reader;
	return 0;
}

void ltx_reader_free(struct ltx_reader *reader)
{
	if (reader != NULL) {
		ltx_input_finish(&reader->input);
		free(reader);
	}
}

const struct ltx_header *ltx_reader_header(const struct ltx_reader *reader)
{
	return &reader->header;
}

/* What is wrong with a page of that number here, or NULL. */
static const char *page_fault(const struct ltx_reader *reader, uint32_t page_no)
{
	const struct ltx_header *header = &reader->header;
	if (page_no <= reader->last_page) {
		return "its pages do not ascend";
	}
	if (page_no > header->commit) {
		return "it holds a page above the size of its database";
	}
	if (page_no == ltx_lock_page(header->page_size)) {
		return "it holds the page of SQLite's lock bytes";
	}
	if (header->min_txid == 1 &&
		page_no != ltx_next_page(header->page_size, reader->last_page)) {
		return "it is a snapshot, and pages are missing";
	}
	return NULL;
}

static int read_payload(struct ltx_reader *reader, bool is_block)
{
	size_t page_size = reader->header.page_size;
	int rc;
	if (is_block) {
		uint8_t size[LTX_PAGE_SIZE_FIELD_BYTES];
		rc = take_hashed(reader, size, sizeof size);
		if (rc != 0) {
			return rc;
		}
		rc = ltx_input_block(
			&reader->input, reader->room, ltx_get32(size), reader->page, page_size);
	} else {
		rc = ltx_input_frame(&reader->input, reader->page, page_size);
	}
	if (rc == 0) {
		reader->crc = crc64(reader->crc, reader->page, page_size);
	}
	return input_result(reader, rc, "a page cannot be decompressed");
}

/* A snapshot that tracks the checksum of its database can be held against it. */
static void add_to_database(struct ltx_reader *reader, uint32_t page_no)
{
	if (reader->checksums && reader->header.min_txid == 1) {
		uint8_t number[4];
		ltx_put32(number, page_no);
		uint64_t crc = crc64(0, number, sizeof number);
		crc = crc64(crc, reader->page, reader->header.page_size);
		reader->db_crc = LTX_CHECKSUM_FLAG | (reader->db_crc ^ crc);
	}
}

static int read_varint(struct ltx_reader *reader, uint64_t *ret_value, uint64_t *bytes_read)
{
	*ret_value = 0;
	for (int i = 0; i < LTX_VARINT_BYTES; i++) {
		uint8_t byte;
		int rc = take_hashed(reader, &byte, 1);
		if (rc != 0) {
			return rc;
		}
		(*bytes_read)++;
		*ret_value |= (uint64_t)(byte & 0x7f) << (7 * i);
		if ((byte & 0x80) == 0) {
			return 0;
		}
	}
	return corrupt(reader, "its index has a number that is too long");
}

static int read_index(struct ltx_reader *reader)
{
	uint64_t index_bytes = 0;
	for (;;) {
		uint64_t page_no;
		uint64_t ignored;
		int rc = read_varint(reader, &page_no, &index_bytes);
		if (rc != 0) {
			return rc;
		}
		if (page_no == 0) {
			break;
		}
		rc = read_varint(reader, &ignored, &index_bytes);
		rc = rc == 0 ? read_varint(reader, &ignored, &index_bytes) : rc;
		if (rc != 0) {
			return rc;
		}
	}
	uint8_t size[8];
	int rc = take_hashed(reader, size, sizeof size);
	if (rc == 0 && ltx_get64(size) != index_bytes) {
		rc = corrupt(reader, "its index has not the length that it says");
	}
	return rc;
}

/* The rules of the checksum that the database must have after the file was applied. */
static bool post_apply_right(const struct ltx_reader *reader, uint64_t post_apply)
{
	if (!reader->checksums) {
		return post_apply == 0;
	}
	return reader->header.min_txid == 1 ? post_apply == reader->db_crc
					    : (post_apply & LTX_CHECKSUM_FLAG) != 0;
}

static int read_trailer(struct ltx_reader *reader)
{
	uint8_t bytes[8];
	int rc = take_hashed(reader, bytes, sizeof bytes);
	if (rc != 0) {
		return rc;
	}
	if (!post_apply_right(reader, ltx_get64(bytes))) {
		return corrupt(reader, "the checksum of its database is wrong");
	}
	uint64_t want = reader->crc | LTX_CHECKSUM_FLAG;
	rc = ltx_input_take(&reader->input, bytes, sizeof bytes);
	if (rc != 0) {
		return input_result(reader, rc, "it is cut short");
	}
	if (ltx_get64(bytes) != want) {
		return corrupt(reader, "its checksum is wrong");
	}
	rc = ltx_input_ended(&reader->input);
	return input_result(reader, rc, "something follows its end");
}

static int read_end(struct ltx_reader *reader)
{
	const struct ltx_header *header = &reader->header;
	if (header->min_txid == 1 &&
		reader->last_page != ltx_last_page(header->page_size, header->commit)) {
		return corrupt(reader, "it is a snapshot, and its last pages are missing");
	}
	int rc = read_index(reader);
	rc = rc == 0 ? read_trailer(reader) : rc;
	reader->ended = rc == 0;
	return rc;
}

static int read_page(struct ltx_reader *reader)
{
	uint8_t head[LTX_PAGE_HEADER_BYTES];
	int rc = take_hashed(reader, head, sizeof head);
	if (rc != 0) {
		return rc;
	}
	uint32_t page_no = ltx_get32(head);
	uint32_t flags = (uint32_t)head[4] << 8 | head[5];
	if (page_no == 0 && flags == 0) {
		return read_end(reader);
	}
	const char *fault = page_fault(reader, page_no);
	if (fault == NULL && (flags & ~(uint32_t)LTX_PAGE_IS_BLOCK) != 0) {
		fault = "a page has flags that no version of Litestream 0.5 sets";
	}
	if (fault != NULL) {
		return corrupt(reader, fault);
	}
	rc = read_payload(reader, (flags & LTX_PAGE_IS_BLOCK) != 0);
	if (rc == 0) {
		reader->last_page = page_no;
		add_to_database(reader, page_no);
	}
	return rc;
}

int ltx_reader_next(struct ltx_reader *reader, uint32_t *ret_page_no, const uint8_t **ret_page,
	char ret_error[LTX_ERROR_BYTES])
{
	*ret_page_no = 0;
	*ret_page = NULL;
	if (reader->result == 0 && !reader->ended) {
		reader->result = read_page(reader);
	}
	if (reader->result != 0) {
		memcpy(ret_error, reader->error, LTX_ERROR_BYTES);
		return reader->result;
	}
	if (!reader->ended) {
		*ret_page_no = reader->last_page;
		*ret_page = reader->page;
	}
	return 0;
}
