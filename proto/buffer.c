/* SPDX-License-Identifier: MIT */

/*
 * The bytes that are on their way out: appended by the packers, patched, cut and handed over.
 */

#include "proto/buffer.h"

#include <stdlib.h>
#include <string.h>

void buffer_init(struct buffer *buf, size_t max)
{
	*buf = (struct buffer){.max = max};
}

void buffer_finish(struct buffer *buf)
{
	free(buf->data);
	*buf = (struct buffer){0};
}

void buffer_clear(struct buffer *buf)
{
	buf->len = 0;
	buf->failed = false;
}

void buffer_truncate(struct buffer *buf, size_t len)
{
	if (len < buf->len) {
		buf->len = len;
	}
}

uint8_t *buffer_reserve(struct buffer *buf, size_t len)
{
	if (buf->failed) {
		return NULL;
	}
	size_t max = buf->max != 0 ? buf->max : SIZE_MAX / 4;
	if (buf->len > max || len > max - buf->len) {
		buf->failed = true;
		return NULL;
	}
	if (len <= buf->cap - buf->len) {
		return buf->data + buf->len;
	}
	size_t need = buf->len + len;
	size_t cap = buf->cap < 256 ? 256 : buf->cap;
	while (cap < need) {
		cap *= 2;
	}
	uint8_t *data = realloc(buf->data, cap);
	if (data == NULL) {
		buf->failed = true;
		return NULL;
	}
	buf->data = data;
	buf->cap = cap;
	return buf->data + buf->len;
}

void buffer_append(struct buffer *buf, const void *data, size_t len)
{
	if (len == 0) {
		return;
	}
	uint8_t *at = buffer_reserve(buf, len);
	if (at != NULL) {
		memcpy(at, data, len);
		buf->len += len;
	}
}

void buffer_cut(struct buffer *buf, size_t from, size_t to)
{
	if (from >= to || to > buf->len) {
		return;
	}
	memmove(buf->data + from, buf->data + to, buf->len - to);
	buf->len -= to - from;
}

uint8_t *buffer_take(struct buffer *buf, size_t *ret_len)
{
	if (buf->failed) {
		return NULL;
	}
	uint8_t *data = buf->data;
	*ret_len = buf->len;
	buf->data = NULL;
	buf->len = 0;
	buf->cap = 0;
	return data;
}

int buffer_msgpack_write(void *buf, const char *data, size_t len)
{
	buffer_append(buf, data, len);
	return 0;
}

void buffer_packer(struct buffer *buf, msgpack_packer *ret_packer)
{
	msgpack_packer_init(ret_packer, buf, buffer_msgpack_write);
}

void be32_put(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

uint32_t be32_get(const uint8_t *at)
{
	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

size_t pack_array_begin(struct buffer *buf)
{
	static const uint8_t header[5] = {0xdd};
	size_t at = buf->len;
	buffer_append(buf, header, sizeof(header));
	return at;
}

void pack_array_end(struct buffer *buf, size_t at, uint32_t count)
{
	if (!buf->failed) {
		be32_put(buf->data + at + 1, count);
	}
}

void pack_str(msgpack_packer *packer, const char *str, size_t len)
{
	msgpack_pack_str(packer, len);
	msgpack_pack_str_body(packer, str, len);
}

void pack_bin(msgpack_packer *packer, const void *data, size_t len)
{
	msgpack_pack_bin(packer, len);
	msgpack_pack_bin_body(packer, data, len);
}

void pack_key_str(msgpack_packer *packer, const char *key, const char *text)
{
	pack_cstr(packer, key);
	pack_cstr(packer, text);
}

void pack_key_bool(msgpack_packer *packer, const char *key, bool value)
{
	pack_cstr(packer, key);
	if (value) {
		msgpack_pack_true(packer);
	} else {
		msgpack_pack_false(packer);
	}
}
