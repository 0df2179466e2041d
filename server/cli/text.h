/* SPDX-License-Identifier: MIT */
#pragma once

/* Bytes and numbers as characters: UTF-8, base64, JSON strings, numbers that survive the way back. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { TEXT_REAL_BYTES = 40 };

/*
 * The length of the UTF-8 sequence at `data`, 1 to 4, with its code point; 0 if there is none that
 * is valid. `len` is at least 1.
 */
size_t text_utf8(const char *data, size_t len, uint32_t *ret_code_point);
bool text_is_utf8(const char *data, size_t len);

/* The shortest decimal form that reads back as the same number: 0.1, 3.0, 1e+100, Inf, -Inf. */
void text_from_real(double value, char ret_text[TEXT_REAL_BYTES]);

/* A JSON string, quotes included. Bytes that are no UTF-8 become U+FFFD. */
void text_json(FILE *out, const char *data, size_t len);
void text_json_cstr(FILE *out, const char *text);

void text_base64(FILE *out, const void *data, size_t len);
/* Decodes into ret_data, which has room for len bytes. False: not base64. */
bool text_from_base64(const char *text, size_t len, void *ret_data, size_t *ret_len);

/* "00ff" into ret_data, which has room for len / 2 bytes. False: not pairs of hex digits. */
bool text_from_hex(const char *text, size_t len, void *ret_data);
void text_hex(FILE *out, const void *data, size_t len);
