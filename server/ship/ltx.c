/* SPDX-License-Identifier: MIT */

/*
 * Names and headers of LTX files: pure functions. What Litestream would refuse is neither written
 * nor believed.
 */

#include "server/ship/ltx.h"

#include "server/ship/ltx_format.h"

#include <inttypes.h>
#include <stdio.h>

enum {
	FLAG_NO_CHECKSUM = 2, /* no checksums of the whole database */
	LOCK_BYTE = 0x40000000,
};

static const uint8_t magic[4] = {'L', 'T', 'X', '1'};

uint32_t ltx_lock_page(uint32_t page_size)
{
	return LOCK_BYTE / page_size + 1;
}

uint32_t ltx_last_page(uint32_t page_size, uint32_t commit)
{
	return commit == ltx_lock_page(page_size) ? commit - 1 : commit;
}

uint32_t ltx_next_page(uint32_t page_size, uint32_t page_no)
{
	return page_no + 1 == ltx_lock_page(page_size) ? page_no + 2 : page_no + 1;
}

void ltx_name(uint64_t min_txid, uint64_t max_txid, char ret_name[LTX_NAME_BYTES])
{
	snprintf(ret_name, LTX_NAME_BYTES, "%016" PRIx64 "-%016" PRIx64 ".ltx", min_txid, max_txid);
}

static bool parse_txid(const char *text, uint64_t *ret_txid)
{
	uint64_t txid = 0;
	for (int i = 0; i < 16; i++) {
		char digit = text[i];
		if (digit >= '0' && digit <= '9') {
			txid = txid << 4 | (uint64_t)(digit - '0');
		} else if (digit >= 'a' && digit <= 'f') {
			txid = txid << 4 | (uint64_t)(digit - 'a' + 10);
		} else {
			return false;
		}
	}
	*ret_txid = txid;
	return true;
}

bool ltx_name_parse(const char *name, uint64_t *ret_min_txid, uint64_t *ret_max_txid)
{
	return strlen(name) == LTX_NAME_BYTES - 1 && name[16] == '-' &&
		strcmp(name + 33, ".ltx") == 0 && parse_txid(name, ret_min_txid) &&
		parse_txid(name + 17, ret_max_txid) && *ret_min_txid >= 1 &&
		*ret_min_txid <= *ret_max_txid;
}

static bool page_size_valid(uint32_t page_size)
{
	return page_size >= 512 && page_size <= LTX_PAGE_SIZE_MAX &&
		(page_size & (page_size - 1)) == 0;
}

static const char *header_fault(const struct ltx_header *header)
{
	if (!page_size_valid(header->page_size)) {
		return "the page size is not a power of two from 512 to 65536";
	}
	/* Litestream's own rules for a file of no pages contradict each other. */
	if (header->commit == 0) {
		return "it says that the database has no pages";
	}
	if (header->min_txid == 0 || header->min_txid > header->max_txid) {
		return "its TXIDs are no range";
	}
	if (header->wal_offset < 0 || header->wal_size < 0) {
		return "a WAL offset or size is negative";
	}
	if (header->wal_offset == 0 &&
		(header->wal_size != 0 || header->salt1 != 0 || header->salt2 != 0)) {
		return "it has a WAL size or salts without a WAL offset";
	}
	return NULL;
}

bool ltx_header_valid(const struct ltx_header *header)
{
	return header_fault(header) == NULL;
}

void ltx_header_encode(const struct ltx_header *header, uint8_t ret_bytes[LTX_HEADER_BYTES])
{
	memset(ret_bytes, 0, LTX_HEADER_BYTES);
	memcpy(ret_bytes, magic, sizeof magic);
	ltx_put32(ret_bytes + 4, FLAG_NO_CHECKSUM);
	ltx_put32(ret_bytes + 8, header->page_size);
	ltx_put32(ret_bytes + 12, header->commit);
	ltx_put64(ret_bytes + 16, header->min_txid);
	ltx_put64(ret_bytes + 24, header->max_txid);
	ltx_put64(ret_bytes + 32, (uint64_t)header->timestamp_ms);
	ltx_put64(ret_bytes + 48, (uint64_t)header->wal_offset);
	ltx_put64(ret_bytes + 56, (uint64_t)header->wal_size);
	ltx_put32(ret_bytes + 64, header->salt1);
	ltx_put32(ret_bytes + 68, header->salt2);
}

/* The rules of the checksum that the database must have before the file is applied. */
static const char *pre_apply_fault(uint64_t pre_apply, bool snapshot, bool checksums)
{
	if (snapshot || !checksums) {
		return pre_apply == 0 ? NULL
				      : "it has a checksum of the database where none may be";
	}
	return (pre_apply & LTX_CHECKSUM_FLAG) != 0 ? NULL : "it lacks a checksum of the database";
}

int ltx_header_decode(const uint8_t bytes[LTX_HEADER_BYTES], struct ltx_header *ret_header,
	bool *ret_checksums, char ret_error[LTX_ERROR_BYTES])
{
	uint32_t flags = ltx_get32(bytes + 4);
	struct ltx_header header = {
		.page_size = ltx_get32(bytes + 8),
		.commit = ltx_get32(bytes + 12),
		.min_txid = ltx_get64(bytes + 16),
		.max_txid = ltx_get64(bytes + 24),
		.timestamp_ms = (int64_t)ltx_get64(bytes + 32),
		.wal_offset = (int64_t)ltx_get64(bytes + 48),
		.wal_size = (int64_t)ltx_get64(bytes + 56),
		.salt1 = ltx_get32(bytes + 64),
		.salt2 = ltx_get32(bytes + 68),
	};
	bool checksums = (flags & FLAG_NO_CHECKSUM) == 0;
	const char *fault = header_fault(&header);
	if (memcmp(bytes, magic, sizeof magic) != 0) {
		fault = "it is no LTX file";
	} else if ((flags & ~(uint32_t)FLAG_NO_CHECKSUM) != 0) {
		fault = "its header has flags that no version of Litestream 0.5 sets";
	} else if (fault == NULL) {
		fault = pre_apply_fault(ltx_get64(bytes + 40), header.min_txid == 1, checksums);
	}
	if (fault != NULL) {
		snprintf(ret_error, LTX_ERROR_BYTES, "%s", fault);
		return LTX_CORRUPT;
	}
	*ret_header = header;
	*ret_checksums = checksums;
	return 0;
}
