/* SPDX-License-Identifier: MIT */
#pragma once

/* Moments and durations, as people write and read them. Milliseconds since 1970. */

#include <stdbool.h>
#include <stdint.h>

enum { WHEN_TEXT_BYTES = 40 };

/*
 * "2026-11-22T10:42:07Z", also with a blank for T, a fraction, an offset (+01:00), or without zone
 * (local time); "10:42" or "10:42:07" (the last time it was that late, local); "2 hours ago",
 * "90s ago"; "now". False: it is none of these.
 */
bool when_parse(const char *text, int64_t now_ms, int64_t *ret_ms);

/* "2026-11-22T10:42:07.123Z". */
void when_text(int64_t ms, char ret_text[WHEN_TEXT_BYTES]);

/* "3 s", "12 min", "5 h", "9 days", for a length of time. */
void when_span(int64_t ms, char ret_text[WHEN_TEXT_BYTES]);
