/* SPDX-License-Identifier: MIT */

/*
 * Writes an LTX file in one forward pass. Bytes are gathered and go to the sink in large pieces.
 * Pages lie one behind the other, so the index needs only each one's number and length until the
 * end: eight bytes a page.
 *
 * An error sticks: what follows it does nothing and returns it again.
 */

#include "server/ship/crc64.h"
#include "server/ship/ltx.h"
#include "server/ship/ltx_format.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>

enum {
	FLUSH_BYTES = 64 * 1024,
	/* Of one page: an incompressible one grows. */
	FRAME_BYTES_MAX = LTX_PAGE_HEADER_BYTES + LTX_PAGE_SIZE_FIELD_BYTES +
		LZ4_COMPRESSBOUND(LTX_PAGE_SIZE_MAX),
	INDEX_FIRST = 1024,
};

struct index_entry {
	uint32_t page_no;
	uint32_t frame_bytes;
};

struct ltx_writer {
	struct ltx_header header;
	ltx_sink sink;
	void *ctx;
	int error; /* 0, or what ended it */
	uint64_t crc;
	uint32_t last_page;
	struct index_entry *index;
	size_t index_count;
	size_t index_room;
	size_t buffered;
	uint8_t buffer[FLUSH_BYTES + FRAME_BYTES_MAX];
};

static int writer_flush(struct ltx_writer *writer)
{
	int rc = 0;
	if (writer->buffered > 0) {
		rc = writer->sink(writer->ctx, writer->buffer, writer->buffered);
		writer->buffered = 0;
	}
	return rc;
}

/* Makes room for one more frame: a large piece goes out when it is whole. */
static int writer_room(struct ltx_writer *writer)
{
	return writer->buffered >= FLUSH_BYTES ? writer_flush(writer) : 0;
}

/* Appends bytes that the checksum covers as they are. */
static void writer_append(struct ltx_writer *writer, const void *bytes, size_t len)
{
	memcpy(writer->buffer + writer->buffered, bytes, len);
	writer->crc = crc64(writer->crc, bytes, len);
	writer->buffered += len;
}

int ltx_writer_new(
	const struct ltx_header *header, ltx_sink sink, void *ctx, struct ltx_writer **ret_writer)
{
	if (!ltx_header_valid(header)) {
		return -EINVAL;
	}
	struct ltx_writer *writer = calloc(1, sizeof *writer);
	if (writer == NULL) {
		return -ENOMEM;
	}
	writer->header = *header;
	writer->sink = sink;
	writer->ctx = ctx;
	uint8_t bytes[LTX_HEADER_BYTES];
	ltx_header_encode(header, bytes);
	writer_append(writer, bytes, sizeof bytes);
	*ret_writer = writer;
	return 0;
}

void ltx_writer_free(struct ltx_writer *writer)
{
	if (writer != NULL) {
		free(writer->index);
		free(writer);
	}
}

static int index_add(struct ltx_writer *writer, uint32_t page_no, size_t frame_bytes)
{
	if (writer->index_count == writer->index_room) {
		size_t room = writer->index_room == 0 ? INDEX_FIRST : writer->index_room * 2;
		struct index_entry *index =
			reallocarray(writer->index, room, sizeof writer->index[0]);
		if (index == NULL) {
			return -ENOMEM;
		}
		writer->index = index;
		writer->index_room = room;
	}
	writer->index[writer->index_count++] = (struct index_entry){page_no, (uint32_t)frame_bytes};
	return 0;
}

static bool page_allowed(const struct ltx_writer *writer, uint32_t page_no)
{
	const struct ltx_header *header = &writer->header;
	if (header->min_txid == 1 &&
		page_no != ltx_next_page(header->page_size, writer->last_page)) {
		return false;
	}
	return page_no > writer->last_page && page_no <= header->commit &&
		page_no != ltx_lock_page(header->page_size);
}

static int write_page(struct ltx_writer *writer, uint32_t page_no, const void *page)
{
	int rc = writer_room(writer);
	if (rc < 0) {
		return rc;
	}
	int page_size = (int)writer->header.page_size;
	uint8_t *frame = writer->buffer + writer->buffered;
	uint8_t *payload = frame + LTX_PAGE_HEADER_BYTES + LTX_PAGE_SIZE_FIELD_BYTES;
	int payload_bytes = LZ4_compress_default(
		page, (char *)payload, page_size, LZ4_COMPRESSBOUND(LTX_PAGE_SIZE_MAX));
	if (payload_bytes <= 0) {
		return -EIO;
	}
	ltx_put32(frame, page_no);
	frame[4] = 0;
	frame[5] = LTX_PAGE_IS_BLOCK;
	ltx_put32(frame + LTX_PAGE_HEADER_BYTES, (uint32_t)payload_bytes);
	writer->crc = crc64(writer->crc, frame, (size_t)(payload - frame));
	writer->crc = crc64(writer->crc, page, writer->header.page_size);
	size_t frame_bytes = (size_t)(payload - frame) + (size_t)payload_bytes;
	writer->buffered += frame_bytes;
	writer->last_page = page_no;
	return index_add(writer, page_no, frame_bytes);
}

int ltx_writer_page(struct ltx_writer *writer, uint32_t page_no, const void *page)
{
	if (writer->error != 0) {
		return writer->error;
	}
	/* A page that may not stand there is the caller's error; the file is still whole. */
	if (!page_allowed(writer, page_no)) {
		return -EINVAL;
	}
	writer->error = write_page(writer, page_no, page);
	return writer->error;
}

static size_t put_varint(uint8_t *to, uint64_t value)
{
	size_t len = 0;
	while (value >= 0x80) {
		to[len++] = (uint8_t)(value | 0x80);
		value >>= 7;
	}
	to[len++] = (uint8_t)value;
	return len;
}

static int write_index(struct ltx_writer *writer)
{
	uint64_t offset = LTX_HEADER_BYTES;
	uint64_t index_bytes = 0;
	for (size_t i = 0; i < writer->index_count; i++) {
		uint8_t entry[3 * LTX_VARINT_BYTES];
		size_t len = put_varint(entry, writer->index[i].page_no);
		len += put_varint(entry + len, offset);
		len += put_varint(entry + len, writer->index[i].frame_bytes);
		int rc = writer_room(writer);
		if (rc < 0) {
			return rc;
		}
		writer_append(writer, entry, len);
		index_bytes += len;
		offset += writer->index[i].frame_bytes;
	}
	uint8_t end[1 + 8] = {0};
	ltx_put64(end + 1, index_bytes + 1);
	writer_append(writer, end, sizeof end);
	return 0;
}

static int finish(struct ltx_writer *writer)
{
	static const uint8_t end_of_pages[LTX_PAGE_HEADER_BYTES];
	int rc = writer_room(writer);
	if (rc < 0) {
		return rc;
	}
	writer_append(writer, end_of_pages, sizeof end_of_pages);
	rc = write_index(writer);
	if (rc < 0) {
		return rc;
	}
	uint8_t trailer[LTX_TRAILER_BYTES] = {0};
	writer_append(writer, trailer, 8); /* no checksum of the database */
	ltx_put64(trailer, writer->crc | LTX_CHECKSUM_FLAG);
	memcpy(writer->buffer + writer->buffered, trailer, 8);
	writer->buffered += 8;
	return writer_flush(writer);
}

int ltx_writer_finish(struct ltx_writer *writer)
{
	const struct ltx_header *header = &writer->header;
	if (writer->error != 0) {
		return writer->error;
	}
	if (header->min_txid == 1 &&
		writer->last_page != ltx_last_page(header->page_size, header->commit)) {
		return -EINVAL;
	}
	writer->error = finish(writer);
	return writer->error;
}
