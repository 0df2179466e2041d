/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A growing run of bytes that remembers its first failure.
 *
 * Every writer in proto/ appends to one of these and checks nothing: when memory runs out or `max`
 * would be passed, the buffer goes into its failed state, later appends do nothing, and the owner
 * asks once at the end. `data` is owned by the buffer; buffer_take() hands it to the caller.
 */

#include <msgpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buffer {
	uint8_t *data;
	size_t len;  /* bytes written */
	size_t cap;  /* bytes allocated */
	size_t max;  /* 0 = no limit beyond memory */
	bool failed; /* sticky: out of memory, or over max */
};

void buffer_init(struct buffer *buf, size_t max);
void buffer_finish(struct buffer *buf);

/* Forgets the content and the failure, keeps the memory. */
void buffer_clear(struct buffer *buf);

/* Cuts back to a length noted earlier; does not undo a failure. */
void buffer_truncate(struct buffer *buf, size_t len);

void buffer_append(struct buffer *buf, const void *data, size_t len);

/*
 * Room for len more bytes, for a caller that fills them itself (NULL if failed): not yet counted.
 */
uint8_t *buffer_reserve(struct buffer *buf, size_t len);

/* Appends a short string; inline, so that a literal is a few stores. */
static inline void buffer_append_short(
	struct buffer *buf, uint8_t header, const char *str, size_t len)
{
	uint8_t *at = !buf->failed && buf->max == 0 && buf->cap - buf->len > len
		? buf->data + buf->len
		: buffer_reserve(buf, len + 1);
	if (at != NULL) {
		at[0] = header;
		memcpy(at + 1, str, len);
		buf->len += len + 1;
	}
}

/* Removes [from, to). */
void buffer_cut(struct buffer *buf, size_t from, size_t to);

/* The bytes, to be freed with free(); the buffer is empty afterwards. NULL if it failed. */
uint8_t *buffer_take(struct buffer *buf, size_t *ret_len);

/* msgpack-c's writer callback and a packer on top of it. */
int buffer_msgpack_write(void *buf, const char *data, size_t len);
void buffer_packer(struct buffer *buf, msgpack_packer *ret_packer);

/* The integers of frames and counts that are patched in afterwards. */
void be32_put(uint8_t *at, uint32_t value);
uint32_t be32_get(const uint8_t *at);

/*
 * An array or map whose count is not known yet: begin writes a five byte header and returns where
 * it stands, end puts the count in.
 */
size_t pack_array_begin(struct buffer *buf);
void pack_array_end(struct buffer *buf, size_t at, uint32_t count);

/* Strings and binaries in one call each. */
void pack_str(msgpack_packer *packer, const char *str, size_t len);
static inline void pack_cstr(msgpack_packer *packer, const char *str)
{
	size_t len = strlen(str);
	if (len < 32) {
		buffer_append_short(packer->data, (uint8_t)(0xa0u | len), str, len);
	} else {
		pack_str(packer, str, len);
	}
}
void pack_bin(msgpack_packer *packer, const void *data, size_t len);

/* A pair of a map. */
void pack_key_str(msgpack_packer *packer, const char *key, const char *text);
static inline void pack_key_uint(msgpack_packer *packer, const char *key, uint64_t number)
{
	pack_cstr(packer, key);
	msgpack_pack_uint64(packer, number);
}
void pack_key_bool(msgpack_packer *packer, const char *key, bool value);
