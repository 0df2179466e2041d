/* SPDX-License-Identifier: MIT */
#pragma once

/* Times as S3 writes them: 2026-11-22T10:42:30.577Z. */

#include <stdint.h>

enum { S3_TIME_BYTES = 32 };

void s3_time_format(int64_t ms, char ret_text[S3_TIME_BYTES]);

/* Milliseconds since 1970; 0: it is none. Digits behind the third are cut off. */
int64_t s3_time_parse(const char *text);
