/* SPDX-License-Identifier: MIT */

/*
 * Segments: what is written has the bytes that Litestream 0.5.17 writes, what is read is right or
 * refused. Files for the reader are also put together here by hand, byte by byte, with a checksum
 * of the test's own, so that writer and reader cannot agree on a mistake.
 */

#include "server/ship/crc64.h"
#include "server/ship/ltx.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* ---- files in memory ---- */

struct blob {
	uint8_t *bytes;
	size_t len;
	size_t limit; /* the sink fails behind it; 0: never */
	size_t at;    /* of the source */
	size_t piece; /* the source gives so many bytes at a time */
};

static void blob_add(struct blob *blob, const void *bytes, size_t len)
{
	blob->bytes = realloc(blob->bytes, blob->len + len + 1);
	assert_non_null(blob->bytes);
	memcpy(blob->bytes + blob->len, bytes, len);
	blob->len += len;
}

static int blob_sink(void *ctx, const void *bytes, size_t len)
{
	struct blob *blob = ctx;
	if (blob->limit != 0 && blob->len + len > blob->limit) {
		return -ENOSPC;
	}
	blob_add(blob, bytes, len);
	return 0;
}

static long blob_source(void *ctx, void *bytes, size_t len)
{
	struct blob *blob = ctx;
	size_t part = blob->len - blob->at;
	part = part < len ? part : len;
	part = blob->piece != 0 && part > blob->piece ? blob->piece : part;
	memcpy(bytes, blob->bytes + blob->at, part);
	blob->at += part;
	return (long)part;
}

static void blob_finish(struct blob *blob)
{
	free(blob->bytes);
	*blob = (struct blob){0};
}

/* Half of a page is text that repeats, half is noise; every fourth page is only noise. */
static void fill_page(uint8_t *page, size_t size, uint32_t page_no)
{
	uint32_t random = page_no * 2654435761U + 1;
	for (size_t i = 0; i < size; i++) {
		random = random * 1664525U + 1013904223U;
		bool noise = page_no % 4 == 0 || i < size / 2;
		page[i] = noise ? (uint8_t)(random >> 24) : (uint8_t)(i % 7 + page_no);
	}
}

static struct ltx_header header_of(uint32_t page_size, uint32_t commit, uint64_t txid)
{
	return (struct ltx_header){.page_size = page_size,
		.commit = commit,
		.min_txid = txid,
		.max_txid = txid,
		.timestamp_ms = 1795343655247,
		.wal_offset = 32};
}

static void write_pages(
	struct blob *blob, const struct ltx_header *header, const uint32_t *pages, size_t count)
{
	uint8_t page[65536];
	struct ltx_writer *writer = NULL;
	assert_int_equal(ltx_writer_new(header, blob_sink, blob, &writer), 0);
	for (size_t i = 0; i < count; i++) {
		fill_page(page, header->page_size, pages[i]);
		assert_int_equal(ltx_writer_page(writer, pages[i], page), 0);
	}
	assert_int_equal(ltx_writer_finish(writer), 0);
	ltx_writer_free(writer);
}

/* Reads a file whole. `same`: every page must hold what fill_page() makes. The number of pages. */
static int read_all(struct blob *blob, bool same, size_t *ret_count)
{
	char error[LTX_ERROR_BYTES] = "";
	struct ltx_reader *reader = NULL;
	size_t count = 0;
	blob->at = 0;
	int rc = ltx_reader_new(blob_source, blob, &reader, error);
	while (rc == 0) {
		uint32_t page_no;
		const uint8_t *page;
		rc = ltx_reader_next(reader, &page_no, &page, error);
		if (rc != 0 || page == NULL) {
			break;
		}
		if (same) {
			uint8_t want[65536];
			size_t page_size = ltx_reader_header(reader)->page_size;
			fill_page(want, page_size, page_no);
			assert_memory_equal(page, want, page_size);
		}
		count++;
	}
	assert_true(rc == 0 || error[0] != '\0' || rc < 0);
	ltx_reader_free(reader);
	*ret_count = count;
	return rc;
}

/* ---- a second writer, by hand ---- */

static uint64_t slow_crc(uint64_t crc, const uint8_t *bytes, size_t len)
{
	crc = ~crc;
	while (len-- > 0) {
		crc ^= *bytes++;
		for (int bit = 0; bit < 8; bit++) {
			crc = (crc & 1) != 0 ? (crc >> 1) ^ UINT64_C(0xD800000000000000) : crc >> 1;
		}
	}
	return ~crc;
}

struct hand {
	struct blob blob;
	struct blob index;
	uint64_t crc;
};

static void hand_big(struct hand *hand, uint64_t value, int bytes, bool hashed)
{
	for (int i = bytes - 1; i >= 0; i--) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		blob_add(&hand->blob, &byte, 1);
		if (hashed) {
			hand->crc = slow_crc(hand->crc, &byte, 1);
		}
	}
}

static void hand_little(struct hand *hand, uint32_t value)
{
	for (int i = 0; i < 4; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));
		blob_add(&hand->blob, &byte, 1);
	}
}

static void hand_header(struct hand *hand, const struct ltx_header *header, uint32_t flags)
{
	uint64_t pre_apply = (flags & 2) == 0 && header->min_txid != 1 ? 1ULL << 63 | 5 : 0;
	hand_big(hand, 0x4c545831, 4, true);
	hand_big(hand, flags, 4, true);
	hand_big(hand, header->page_size, 4, true);
	hand_big(hand, header->commit, 4, true);
	hand_big(hand, header->min_txid, 8, true);
	hand_big(hand, header->max_txid, 8, true);
	hand_big(hand, (uint64_t)header->timestamp_ms, 8, true);
	hand_big(hand, pre_apply, 8, true);
	hand_big(hand, (uint64_t)header->wal_offset, 8, true);
	hand_big(hand, (uint64_t)header->wal_size, 8, true);
	for (int i = 0; i < 36; i++) {
		hand_big(hand, i == 35 ? 7 : 0, 1, true); /* the reserved bytes may be anything */
	}
}

static void hand_varint(struct hand *hand, uint64_t value)
{
	for (;; value >>= 7) {
		uint8_t byte = (uint8_t)(value >= 0x80 ? value | 0x80 : value);
		blob_add(&hand->index, &byte, 1);
		if (value < 0x80) {
			break;
		}
	}
}

/* Literals only: a token, more length, the bytes. */
static void hand_block(struct hand *hand, const uint8_t *page, size_t size)
{
	size_t more = size - 15;
	hand_big(hand, 1 + more / 255 + 1 + size, 4, true);
	hand_big(hand, 0xf0, 1, false);
	for (size_t i = 0; i < more / 255; i++) {
		hand_big(hand, 255, 1, false);
	}
	hand_big(hand, more % 255, 1, false);
	blob_add(&hand->blob, page, size);
}

static void hand_frame(struct hand *hand, const uint8_t *page, size_t size)
{
	static const uint8_t start[] = {0x04, 0x22, 0x4d, 0x18, 0x64, 0x40, 0xa7};
	blob_add(&hand->blob, start, sizeof start);
	hand_little(hand, (uint32_t)size | 0x80000000U);
	blob_add(&hand->blob, page, size);
	hand_little(hand, 0);
	hand_little(hand, XXH32(page, size, 0));
}

static void hand_page(struct hand *hand, uint32_t page_no, size_t size, bool block)
{
	uint8_t page[65536];
	size_t start = hand->blob.len;
	fill_page(page, size, page_no);
	hand_big(hand, page_no, 4, true);
	hand_big(hand, block ? 1 : 0, 2, true);
	if (block) {
		hand_block(hand, page, size);
	} else {
		hand_frame(hand, page, size);
	}
	hand->crc = slow_crc(hand->crc, page, size);
	hand_varint(hand, page_no);
	hand_varint(hand, start);
	hand_varint(hand, hand->blob.len - start);
}

static void hand_end(struct hand *hand, uint64_t post_apply)
{
	hand_big(hand, 0, 6, true);
	hand_varint(hand, 0);
	blob_add(&hand->blob, hand->index.bytes, hand->index.len);
	hand->crc = slow_crc(hand->crc, hand->index.bytes, hand->index.len);
	hand_big(hand, hand->index.len, 8, true);
	hand_big(hand, post_apply, 8, true);
	hand_big(hand, hand->crc | 1ULL << 63, 8, false);
}

static void hand_finish(struct hand *hand)
{
	blob_finish(&hand->blob);
	blob_finish(&hand->index);
}

/* ---- the tests ---- */

static void test_the_checksum_is_go_iso(void **state)
{
	uint8_t bytes[200];
	(void)state;
	assert_true(crc64(0, "123456789", 9) == UINT64_C(0xb90956c775a41001));
	fill_page(bytes, sizeof bytes, 1);
	for (size_t start = 0; start < 20; start++) {
		for (size_t len = 0; len < 180; len++) {
			uint64_t want = slow_crc(0, bytes + start, len);
			assert_true(crc64(0, bytes + start, len) == want);
			uint64_t half = crc64(0, bytes + start, len / 3);
			assert_true(crc64(half, bytes + start + len / 3, len - len / 3) == want);
		}
	}
}

static void test_names(void **state)
{
	char name[LTX_NAME_BYTES];
	uint64_t min;
	uint64_t max;
	(void)state;
	ltx_name(0x1f, UINT64_MAX, name);
	assert_string_equal(name, "000000000000001f-ffffffffffffffff.ltx");
	assert_true(ltx_name_parse(name, &min, &max));
	assert_true(min == 0x1f && max == UINT64_MAX);
	static const char *const wrong[] = {"", "000000000000001f-000000000000001f.ltx.tmp",
		"000000000000001f-000000000000001f.lt", "000000000000001F-000000000000001f.ltx",
		"000000000000001f_000000000000001f.ltx", "000000000000002f-000000000000001f.ltx",
		"0000000000000000-000000000000001f.ltx", "000000000000001g-000000000000001f.ltx",
		"000000000000001f-000000000000001f.LTX", ".00000000000001f-000000000000001f.ltx"};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_false(ltx_name_parse(wrong[i], &min, &max));
	}
}

static void test_the_lock_page(void **state)
{
	(void)state;
	assert_int_equal(ltx_lock_page(4096), 262145);
	assert_int_equal(ltx_lock_page(65536), 16385);
	assert_int_equal(ltx_lock_page(512), 2097153);
}

/* The first bytes of a file that Litestream 0.5.17 wrote. */
static void test_bytes_of_a_header(void **state)
{
	static const uint8_t want[80] = {0x4c, 0x54, 0x58, 0x31, 0, 0, 0, 2, 0, 0, 0x10, 0, 0, 0, 0,
		2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x01, 0xa2, 0x02, 0xd2,
		0x21, 0x4f};
	static const uint32_t pages[] = {1, 2};
	struct blob blob = {0};
	(void)state;
	struct ltx_header header = header_of(4096, 2, 1);
	header.wal_offset = 0;
	write_pages(&blob, &header, pages, 2);
	assert_memory_equal(blob.bytes, want, sizeof want);
	assert_memory_equal(blob.bytes + 100, ((uint8_t[]){0, 0, 0, 1, 0, 1}), 6);
	blob_finish(&blob);
}

/* Its end, recomputed from the file alone: end mark, index, size of the index, checksum. */
static void test_index_and_trailer(void **state)
{
	static const uint32_t pages[] = {2, 300, 70000};
	struct blob blob = {0};
	struct hand expected = {0};
	(void)state;
	struct ltx_header header = header_of(512, 70000, 9);
	write_pages(&blob, &header, pages, 3);
	size_t at = 100;
	for (int i = 0; i < 3; i++) {
		const uint8_t *size = blob.bytes + at + 6;
		size_t frame = 10 + ((size_t)size[2] << 8 | size[3]);
		hand_varint(&expected, pages[i]);
		hand_varint(&expected, at);
		hand_varint(&expected, frame);
		at += frame;
	}
	hand_varint(&expected, 0);
	assert_memory_equal(blob.bytes + at, ((uint8_t[6]){0}), 6);
	assert_memory_equal(blob.bytes + at + 6, expected.index.bytes, expected.index.len);
	at += 6 + expected.index.len;
	assert_int_equal(blob.bytes[at + 7], expected.index.len);
	assert_memory_equal(blob.bytes + at + 8, ((uint8_t[8]){0}), 8);
	assert_int_equal(blob.bytes[at + 16] & 0x80, 0x80);
	assert_int_equal(blob.len, at + 24);
	hand_finish(&expected);
	blob_finish(&blob);
}

static void test_all_page_sizes(void **state)
{
	(void)state;
	for (uint32_t page_size = 512; page_size <= 65536; page_size *= 2) {
		static const uint32_t all[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
		static const uint32_t some[] = {2, 4, 11};
		struct blob blob = {0};
		size_t count;
		struct ltx_header header = header_of(page_size, 9, 1);
		write_pages(&blob, &header, all, 9);
		assert_int_equal(read_all(&blob, true, &count), 0);
		assert_int_equal(count, 9);
		blob_finish(&blob);
		header = header_of(page_size, 11, 5);
		write_pages(&blob, &header, some, 3);
		for (blob.piece = 0; blob.piece < 3; blob.piece++) {
			assert_int_equal(read_all(&blob, true, &count), 0);
			assert_int_equal(count, 3);
		}
		blob_finish(&blob);
	}
}

static void test_a_file_of_no_pages(void **state)
{
	struct blob blob = {0};
	size_t count;
	(void)state;
	struct ltx_header header = header_of(4096, 7, 3);
	write_pages(&blob, &header, NULL, 0);
	assert_int_equal(blob.len, 100 + 6 + 1 + 8 + 16);
	assert_int_equal(read_all(&blob, true, &count), 0);
	assert_int_equal(count, 0);
	blob_finish(&blob);
}

/* Blocks that nobody compressed, frames of Litestream before 0.5.16, and both in one file. */
static void test_files_of_other_writers(void **state)
{
	(void)state;
	for (int kinds = 0; kinds < 8; kinds++) {
		for (uint32_t page_size = 512; page_size <= 65536; page_size *= 4) {
			struct hand hand = {0};
			struct ltx_header header = header_of(page_size, 3, 1);
			size_t count;
			hand_header(&hand, &header, 2);
			for (uint32_t page = 1; page <= 3; page++) {
				hand_page(&hand, page, page_size, (kinds >> page & 1) != 0);
			}
			hand_end(&hand, 0);
			hand.blob.piece = kinds % 2 == 0 ? 0 : 1000;
			assert_int_equal(read_all(&hand.blob, true, &count), 0);
			assert_int_equal(count, 3);
			hand_finish(&hand);
		}
	}
}

static void test_checksums_of_the_database(void **state)
{
	uint64_t db = 1ULL << 63;
	size_t count;
	(void)state;
	for (uint32_t page = 1; page <= 2; page++) {
		uint8_t bytes[4 + 1024] = {0, 0, 0, (uint8_t)page};
		fill_page(bytes + 4, 1024, page);
		db = 1ULL << 63 | (db ^ slow_crc(0, bytes, sizeof bytes));
	}
	for (int wrong = 0; wrong < 2; wrong++) {
		struct hand hand = {0};
		struct ltx_header header = header_of(1024, 2, 1);
		hand_header(&hand, &header, 0);
		hand_page(&hand, 1, 1024, true);
		hand_page(&hand, 2, 1024, true);
		hand_end(&hand, db ^ (uint64_t)wrong);
		assert_int_equal(read_all(&hand.blob, true, &count), wrong ? LTX_CORRUPT : 0);
		hand_finish(&hand);
	}
	struct hand hand = {0};
	struct ltx_header header = header_of(1024, 2, 4);
	hand_header(&hand, &header, 0);
	hand_page(&hand, 2, 1024, true);
	hand_end(&hand, db);
	assert_int_equal(read_all(&hand.blob, true, &count), 0);
	hand_finish(&hand);
}

/* Each is right but for what its name says, checksum included. */
static void test_files_that_are_refused(void **state)
{
	static const struct {
		const char *what;
		uint64_t txid;
		uint32_t commit;
		uint32_t flags;
		uint32_t pages[3];
		uint64_t post_apply;
	} cases[] = {
		{"pages that descend", 2, 9, 2, {3, 2}, 0},
		{"a page twice", 2, 9, 2, {3, 3}, 0},
		{"a page above commit", 2, 9, 2, {10}, 0},
		{"the lock page", 2, 2097160, 2, {2097153}, 0},
		{"a snapshot with a hole", 1, 3, 2, {1, 3}, 0},
		{"a snapshot that begins late", 1, 3, 2, {2, 3}, 0},
		{"a snapshot that ends early", 1, 3, 2, {1, 2}, 0},
		{"a database of no pages", 2, 0, 2, {0}, 0},
		{"TXID 0", 0, 3, 2, {1}, 0},
		{"LZ4 of revision 1", 2, 3, 3, {1}, 0},
		{"an unknown flag", 2, 3, 6, {1}, 0},
		{"a checksum where none may be", 2, 3, 2, {1}, 1ULL << 63},
		{"no checksum where one must be", 2, 3, 0, {1}, 0},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct hand hand = {0};
		struct ltx_header header = header_of(512, cases[i].commit, cases[i].txid);
		size_t count;
		hand_header(&hand, &header, cases[i].flags);
		for (int page = 0; page < 3 && cases[i].pages[page] != 0; page++) {
			hand_page(&hand, cases[i].pages[page], 512, true);
		}
		hand_end(&hand, cases[i].post_apply);
		if (read_all(&hand.blob, false, &count) != LTX_CORRUPT) {
			fail_msg("taken: %s", cases[i].what);
		}
		hand_finish(&hand);
	}
}

static void test_headers_that_are_refused(void **state)
{
	static const struct ltx_header wrong[] = {
		{.page_size = 256, .commit = 1, .min_txid = 2, .max_txid = 2},
		{.page_size = 131072, .commit = 1, .min_txid = 2, .max_txid = 2},
		{.page_size = 1000, .commit = 1, .min_txid = 2, .max_txid = 2},
		{.page_size = 512, .commit = 1, .min_txid = 3, .max_txid = 2},
		{.page_size = 512, .commit = 1, .min_txid = 2, .max_txid = 2, .wal_offset = -1},
		{.page_size = 512, .commit = 1, .min_txid = 2, .max_txid = 2, .wal_size = 1},
		{.page_size = 512, .commit = 1, .min_txid = 2, .max_txid = 2, .salt2 = 1},
		{.page_size = 512, .commit = 0, .min_txid = 2, .max_txid = 2},
		{.page_size = 512, .commit = 1, .min_txid = 0, .max_txid = 2},
	};
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct ltx_writer *writer = NULL;
		struct blob blob = {0};
		assert_int_equal(ltx_writer_new(&wrong[i], blob_sink, &blob, &writer), -EINVAL);
		assert_null(writer);
	}
}

static void test_a_writer_refuses_what_no_reader_takes(void **state)
{
	static const uint8_t page[65536];
	struct blob blob = {0};
	struct ltx_writer *writer = NULL;
	(void)state;
	struct ltx_header header = header_of(65536, 16386, 1);
	assert_int_equal(ltx_writer_new(&header, blob_sink, &blob, &writer), 0);
	assert_int_equal(ltx_writer_page(writer, 2, page), -EINVAL);
	for (uint32_t page_no = 1; page_no < 16385; page_no++) {
		assert_int_equal(ltx_writer_page(writer, page_no, page), 0);
	}
	assert_int_equal(ltx_writer_page(writer, 16385, page), -EINVAL);
	assert_int_equal(ltx_writer_finish(writer), -EINVAL);
	assert_int_equal(ltx_writer_page(writer, 16386, page), 0);
	assert_int_equal(ltx_writer_page(writer, 16387, page), -EINVAL);
	assert_int_equal(ltx_writer_finish(writer), 0);
	ltx_writer_free(writer);
	size_t count;
	assert_int_equal(read_all(&blob, false, &count), 0);
	assert_int_equal(count, 16385);
	blob_finish(&blob);
}

/*
 * Each byte changed in each bit, each length cut. The checksum covers a page by its content, so a
 * change that decompresses to the same content is not refused, and need not be: that is what the
 * SHA-256 of a record is for.
 */
static void test_every_byte_changed(void **state)
{
	static const uint32_t pages[] = {1, 2, 3, 4};
	struct blob blob = {0};
	size_t count;
	size_t same = 0;
	(void)state;
	struct ltx_header header = header_of(512, 4, 1);
	write_pages(&blob, &header, pages, 4);
	for (size_t at = 0; at < blob.len; at++) {
		for (int bit = 0; bit < 8; bit++) {
			blob.bytes[at] ^= (uint8_t)(1 << bit);
			int rc = read_all(&blob, false, &count);
			if (rc == 0) {
				assert_int_equal(read_all(&blob, true, &count), 0);
				assert_int_equal(count, 4);
				same++;
			}
			blob.bytes[at] ^= (uint8_t)(1 << bit);
		}
	}
	assert_true(same < blob.len * 8 / 50);
	size_t len = blob.len;
	for (blob.len = 0; blob.len < len; blob.len++) {
		assert_int_equal(read_all(&blob, false, &count), LTX_CORRUPT);
	}
	blob_add(&blob, "", 1);
	assert_int_equal(read_all(&blob, false, &count), LTX_CORRUPT);
	blob_finish(&blob);
}

static void test_every_byte_of_a_frame_changed(void **state)
{
	struct hand hand = {0};
	size_t count;
	(void)state;
	struct ltx_header header = header_of(512, 2, 1);
	hand_header(&hand, &header, 2);
	hand_page(&hand, 1, 512, false);
	hand_page(&hand, 2, 512, false);
	hand_end(&hand, 0);
	for (size_t at = 0; at < hand.blob.len; at++) {
		for (int change = 1; change < 256; change += 51) {
			hand.blob.bytes[at] ^= (uint8_t)change;
			assert_int_equal(read_all(&hand.blob, false, &count), LTX_CORRUPT);
			hand.blob.bytes[at] ^= (uint8_t)change;
		}
	}
	hand_finish(&hand);
}

/* A sink that fails ends the file, and a source that fails is passed up. */
static void test_failures_of_sink_and_source(void **state)
{
	uint8_t page[65536];
	struct blob blob = {.limit = 100000};
	struct ltx_writer *writer = NULL;
	(void)state;
	struct ltx_header header = header_of(65536, 40, 1);
	assert_int_equal(ltx_writer_new(&header, blob_sink, &blob, &writer), 0);
	int rc = 0;
	for (uint32_t page_no = 1; page_no <= 40 && rc == 0; page_no++) {
		fill_page(page, sizeof page, 4);
		rc = ltx_writer_page(writer, page_no, page);
	}
	assert_int_equal(rc, -ENOSPC);
	assert_int_equal(ltx_writer_finish(writer), -ENOSPC);
	ltx_writer_free(writer);
	blob_finish(&blob);
}

static long failing_source(void *ctx, void *bytes, size_t len)
{
	struct blob *blob = ctx;
	if (blob->at >= 700) {
		return -EIO;
	}
	return blob_source(ctx, bytes, len < 100 ? len : 100);
}

static void test_a_source_that_fails(void **state)
{
	static const uint32_t pages[] = {1, 2, 3, 4};
	struct blob blob = {0};
	struct ltx_reader *reader = NULL;
	char error[LTX_ERROR_BYTES] = "";
	uint32_t page_no;
	const uint8_t *page;
	(void)state;
	struct ltx_header header = header_of(512, 4, 1);
	write_pages(&blob, &header, pages, 4);
	assert_int_equal(ltx_reader_new(failing_source, &blob, &reader, error), 0);
	int rc;
	do {
		rc = ltx_reader_next(reader, &page_no, &page, error);
	} while (rc == 0 && page != NULL);
	assert_int_equal(rc, -EIO);
	assert_int_equal(ltx_reader_next(reader, &page_no, &page, error), -EIO);
	ltx_reader_free(reader);
	blob_finish(&blob);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_checksum_is_go_iso),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_the_lock_page),
		cmocka_unit_test(test_bytes_of_a_header),
		cmocka_unit_test(test_index_and_trailer),
		cmocka_unit_test(test_all_page_sizes),
		cmocka_unit_test(test_a_file_of_no_pages),
		cmocka_unit_test(test_files_of_other_writers),
		cmocka_unit_test(test_checksums_of_the_database),
		cmocka_unit_test(test_files_that_are_refused),
		cmocka_unit_test(test_headers_that_are_refused),
		cmocka_unit_test(test_a_writer_refuses_what_no_reader_takes),
		cmocka_unit_test(test_every_byte_changed),
		cmocka_unit_test(test_every_byte_of_a_frame_changed),
		cmocka_unit_test(test_failures_of_sink_and_source),
		cmocka_unit_test(test_a_source_that_fails),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
