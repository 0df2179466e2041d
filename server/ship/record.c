/* SPDX-License-Identifier: MIT */

/*
 * Records as keys and values of text, by one table. It knows nothing of where they travel.
 */

#include "server/ship/record.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum kind { KIND_HEX, KIND_NUMBER, KIND_MS, KIND_FLAG };

struct field {
	const char *key;
	enum kind kind;
	bool of_digest; /* only there if has_digest */
	size_t offset;
	size_t size;
};

#define FIELD(key, kind, member)                                                                   \
	{                                                                                          \
		key, kind, false, offsetof(struct record, member),                                 \
			sizeof(((struct record *)0)->member)                                       \
	}
#define DIGEST(key, member)                                                                        \
	{                                                                                          \
		key, KIND_HEX, true, offsetof(struct record, member),                              \
			sizeof(((struct record *)0)->member)                                       \
	}

static const struct field fields[] = {
	FIELD("epoch", KIND_HEX, epoch),
	FIELD("writer", KIND_HEX, writer),
	FIELD("commit-first", KIND_NUMBER, commit_first),
	FIELD("commit-last", KIND_NUMBER, commit_last),
	FIELD("committed-ms", KIND_MS, committed_ms),
	FIELD("sha256", KIND_HEX, sha256),
	FIELD("previous", KIND_HEX, previous),
	FIELD("full", KIND_FLAG, full),
	DIGEST("digest-before", digest_before),
	DIGEST("digest-after", digest_after),
};

enum { FIELDS = sizeof fields / sizeof fields[0] };

static void to_hex(const uint8_t *bytes, size_t size, char *ret_text)
{
	for (size_t i = 0; i < size; i++) {
		snprintf(ret_text + 2 * i, 3, "%02x", bytes[i]);
	}
}

static void format(const struct field *field, const void *at, char ret_value[RECORD_VALUE_BYTES])
{
	switch (field->kind) {
	case KIND_HEX:
		to_hex(at, field->size, ret_value);
		break;
	case KIND_NUMBER:
		snprintf(ret_value, RECORD_VALUE_BYTES, "%" PRIu64, *(const uint64_t *)at);
		break;
	case KIND_MS:
		snprintf(ret_value, RECORD_VALUE_BYTES, "%" PRId64, *(const int64_t *)at);
		break;
	case KIND_FLAG:
		snprintf(ret_value, RECORD_VALUE_BYTES, "%s", *(const bool *)at ? "yes" : "no");
		break;
	}
}

void record_each(const struct record *record,
	void (*fn)(void *ctx, const char *key, const char *value), void *ctx)
{
	for (size_t i = 0; i < FIELDS; i++) {
		if (!fields[i].of_digest || record->has_digest) {
			char value[RECORD_VALUE_BYTES];
			format(&fields[i], (const char *)record + fields[i].offset, value);
			fn(ctx, fields[i].key, value);
		}
	}
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9') {
		return c - '0';
	}
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_hex(const char *text, uint8_t *ret_bytes, size_t size)
{
	if (strlen(text) != 2 * size) {
		return -EINVAL;
	}
	for (size_t i = 0; i < size; i++) {
		int high = hex_digit(text[2 * i]);
		int low = hex_digit(text[2 * i + 1]);
		if (high < 0 || low < 0) {
			return -EINVAL;
		}
		ret_bytes[i] = (uint8_t)(high << 4 | low);
	}
	return 0;
}

/* Decimal digits and nothing else, at most `max`. */
static int parse_number(const char *text, uint64_t max, uint64_t *ret_number)
{
	uint64_t number = 0;
	if (*text == '\0') {
		return -EINVAL;
	}
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9') {
			return -EINVAL;
		}
		uint64_t digit = (uint64_t)(*text - '0');
		if (number > (max - digit) / 10) {
			return -EINVAL;
		}
		number = number * 10 + digit;
	}
	*ret_number = number;
	return 0;
}

static int parse_flag(const char *text, bool *ret_flag)
{
	*ret_flag = strcmp(text, "yes") == 0;
	return *ret_flag || strcmp(text, "no") == 0 ? 0 : -EINVAL;
}

static int parse(const struct field *field, const char *text, void *at)
{
	uint64_t number;
	switch (field->kind) {
	case KIND_HEX:
		return parse_hex(text, at, field->size);
	case KIND_NUMBER:
		return parse_number(text, UINT64_MAX, at);
	case KIND_MS:
		if (parse_number(text, INT64_MAX, &number) < 0) {
			return -EINVAL;
		}
		*(int64_t *)at = (int64_t)number;
		return 0;
	case KIND_FLAG:
		return parse_flag(text, at);
	}
	return -EINVAL;
}

int record_set(struct record *record, const char *key, const char *value)
{
	for (size_t i = 0; i < FIELDS; i++) {
		if (strcmp(key, fields[i].key) == 0) {
			if (parse(&fields[i], value, (char *)record + fields[i].offset) < 0) {
				return -EINVAL;
			}
			record->keys |= UINT32_C(1) << i;
			record->has_digest = record->has_digest || fields[i].of_digest;
			return 0;
		}
	}
	return 0;
}

bool record_complete(const struct record *record)
{
	for (size_t i = 0; i < FIELDS; i++) {
		bool wanted = !fields[i].of_digest || record->has_digest;
		if (wanted && (record->keys & UINT32_C(1) << i) == 0) {
			return false;
		}
	}
	return true;
}
