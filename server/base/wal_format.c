/* SPDX-License-Identifier: MIT */

#include "server/base/wal_format.h"

uint32_t wal_get32(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t get32_little(const uint8_t *at)
{
	return (uint32_t)at[3] << 24 | (uint32_t)at[2] << 16 | (uint32_t)at[1] << 8 | at[0];
}

void wal_put32(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

uint64_t wal_frame_offset(uint32_t page_size, uint64_t frame)
{
	return WAL_HEADER_BYTES + (frame - 1) * (WAL_FRAME_HEADER_BYTES + (uint64_t)page_size);
}

void wal_checksum(bool big_endian, const uint8_t *bytes, size_t len, uint32_t sum[2])
{
	uint32_t s0 = sum[0];
	uint32_t s1 = sum[1];
	if (big_endian) {
		for (size_t i = 0; i < len; i += 8) {
			s0 += wal_get32(bytes + i) + s1;
			s1 += wal_get32(bytes + i + 4) + s0;
		}
	} else {
		for (size_t i = 0; i < len; i += 8) {
			s0 += get32_little(bytes + i) + s1;
			s1 += get32_little(bytes + i + 4) + s0;
		}
	}
	sum[0] = s0;
	sum[1] = s1;
}

bool wal_header_parse(const uint8_t bytes[WAL_HEADER_BYTES], struct wal_header *ret_header)
{
	uint32_t magic = wal_get32(bytes);
	uint32_t sum[2] = {0, 0};
	wal_checksum(magic == WAL_MAGIC_BIG, bytes, 24, sum);
	*ret_header = (struct wal_header){
		.big_endian = magic == WAL_MAGIC_BIG,
		.page_size = wal_get32(bytes + 8),
		.salt = {wal_get32(bytes + 16), wal_get32(bytes + 20)},
		.checksum = {sum[0], sum[1]},
	};
	return (magic == WAL_MAGIC_LITTLE || magic == WAL_MAGIC_BIG) &&
		sum[0] == wal_get32(bytes + 24) && sum[1] == wal_get32(bytes + 28);
}

struct wal_frame wal_frame_parse(const uint8_t bytes[WAL_FRAME_HEADER_BYTES])
{
	return (struct wal_frame){
		.page_no = wal_get32(bytes),
		.commit = wal_get32(bytes + 4),
		.salt = {wal_get32(bytes + 8), wal_get32(bytes + 12)},
		.checksum = {wal_get32(bytes + 16), wal_get32(bytes + 20)},
	};
}

bool wal_frame_sums_up(
	bool big_endian, const uint8_t *frame, uint32_t page_size, const uint32_t before[2])
{
	uint32_t sum[2] = {before[0], before[1]};
	wal_checksum(big_endian, frame, 8, sum);
	wal_checksum(big_endian, frame + WAL_FRAME_HEADER_BYTES, page_size, sum);
	return sum[0] == wal_get32(frame + 16) && sum[1] == wal_get32(frame + 20);
}
