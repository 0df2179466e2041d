/* SPDX-License-Identifier: MIT */

/* Conversions between bytes, numbers and characters. Pure: knows no database and no terminal. */

#include "server/cli/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 ---- */

static bool continues(const unsigned char *at, size_t count)
{
	for (size_t i = 1; i < count; i++) {
		if ((at[i] & 0xc0) != 0x80) {
			return false;
		}
	}
	return true;
}

size_t text_utf8(const char *data, size_t len, uint32_t *ret_code_point)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	const unsigned char *at = (const unsigned char *)data;
	size_t count = at[0] < 0x80 ? 1
		: at[0] < 0xc2      ? 0
		: at[0] < 0xe0      ? 2
		: at[0] < 0xf0      ? 3
		: at[0] < 0xf5      ? 4
				    : 0;
	if (count == 0 || count > len || !continues(at, count)) {
		return 0;
	}
	uint32_t code = count == 1 ? at[0] : at[0] & (0xffu >> (count + 1));
	for (size_t i = 1; i < count; i++) {
		code = code << 6 | (at[i] & 0x3fu);
	}
	if (code < least[count] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
		return 0;
	}
	*ret_code_point = code;
	return count;
}

bool text_is_utf8(const char *data, size_t len)
{
	uint32_t code = 0;
	size_t step = 0;
	for (size_t at = 0; at < len; at += step) {
		step = text_utf8(data + at, len - at, &code);
		if (step == 0) {
			return false;
		}
	}
	return true;
}

/* ---- numbers ---- */

void text_from_real(double value, char ret_text[TEXT_REAL_BYTES])
{
	if (isnan(value) || isinf(value)) {
		const char *word = isnan(value) ? "NaN" : value < 0 ? "-Inf" : "Inf";
		snprintf(ret_text, TEXT_REAL_BYTES, "%s", word);
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(ret_text, TEXT_REAL_BYTES - 2, "%.*g", digits, value);
		double back = strtod(ret_text, NULL);
		if (memcmp(&back, &value, sizeof(back)) == 0) {
			break;
		}
	}
	if (strpbrk(ret_text, ".e") == NULL) {
		memcpy(ret_text + strlen(ret_text), ".0", 3);
	}
}

/* ---- JSON ---- */

/* Needs no escape and no check: true for most of what is ever printed. */
static bool is_plain(const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char byte = (unsigned char)data[i];
		if (byte < 0x20 || byte > 0x7e || byte == '"' || byte == '\\') {
			return false;
		}
	}
	return true;
}

static void json_run(FILE *out, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char byte = (unsigned char)data[i];
		if (byte == '"' || byte == '\\') {
			fputc('\\', out);
		}
		if (byte < 0x20) {
			fprintf(out, "\\u%04x", byte);
		} else {
			fputc(byte, out);
		}
	}
}

void text_json(FILE *out, const char *data, size_t len)
{
	uint32_t code = 0;
	fputc('"', out);
	if (is_plain(data, len)) {
		fwrite(data, 1, len, out);
	} else {
		for (size_t at = 0; at < len;) {
			size_t step = text_utf8(data + at, len - at, &code);
			if (step == 0) {
				fputs("\xef\xbf\xbd", out);
			} else {
				json_run(out, data + at, step);
			}
			at += step > 0 ? step : 1;
		}
	}
	fputc('"', out);
}

void text_json_cstr(FILE *out, const char *text)
{
	text_json(out, text, strlen(text));
}

/* ---- base64, hex ---- */

static const char base64_digits[] =
	"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void text_base64(FILE *out, const void *data, size_t len)
{
	const unsigned char *at = data;
	for (; len >= 3; len -= 3, at += 3) {
		uint32_t bits = (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
		fputc(base64_digits[bits >> 18], out);
		fputc(base64_digits[bits >> 12 & 63], out);
		fputc(base64_digits[bits >> 6 & 63], out);
		fputc(base64_digits[bits & 63], out);
	}
	if (len > 0) {
		uint32_t bits = (uint32_t)at[0] << 16 | (len > 1 ? (uint32_t)at[1] << 8 : 0);
		fputc(base64_digits[bits >> 18], out);
		fputc(base64_digits[bits >> 12 & 63], out);
		fputc(len > 1 ? base64_digits[bits >> 6 & 63] : '=', out);
		fputc('=', out);
	}
}

static int base64_value(char digit)
{
	const char *at = digit != '\0' ? strchr(base64_digits, digit) : NULL;
	return at != NULL ? (int)(at - base64_digits) : -1;
}

bool text_from_base64(const char *text, size_t len, void *ret_data, size_t *ret_len)
{
	unsigned char *to = ret_data;
	uint32_t bits = 0;
	size_t padding = 0;

	while (padding < 2 && padding < len && text[len - padding - 1] == '=') {
		padding++;
	}
	if (len % 4 != 0) {
		return false;
	}
	for (size_t i = 0; i < len - padding; i++) {
		int value = base64_value(text[i]);
		if (value < 0) {
			return false;
		}
		bits = bits << 6 | (uint32_t)value;
		if (i % 4 > 0) { /* 6 * 2 bits hold one byte, 6 * 4 hold three */
			*to++ = (unsigned char)(bits >> (6 - 2 * (i % 4)));
		}
	}
	*ret_len = (size_t)(to - (unsigned char *)ret_data);
	return true;
}

static int hex_value(char digit)
{
	static const char digits[] = "0123456789abcdef0123456789ABCDEF";
	const char *at = digit != '\0' ? strchr(digits, digit) : NULL;
	return at != NULL ? (int)((at - digits) % 16) : -1;
}

bool text_from_hex(const char *text, size_t len, void *ret_data)
{
	unsigned char *to = ret_data;
	if (len % 2 != 0) {
		return false;
	}
	for (size_t i = 0; i < len; i += 2) {
		int high = hex_value(text[i]);
		int low = hex_value(text[i + 1]);
		if (high < 0 || low < 0) {
			return false;
		}
		*to++ = (unsigned char)(high * 16 + low);
	}
	return true;
}

void text_hex(FILE *out, const void *data, size_t len)
{
	const unsigned char *at = data;
	for (size_t i = 0; i < len; i++) {
		fprintf(out, "%02x", at[i]);
	}
}
