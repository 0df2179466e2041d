/* SPDX-License-Identifier: MIT */

/* RFC 3339 in UTC, to the millisecond; trailing zeros are dropped as Litestream drops them. */

#include "server/ship/s3_time.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

void s3_time_format(int64_t ms, char ret_text[S3_TIME_BYTES])
{
	struct tm tm;
	time_t seconds = (time_t)(ms / 1000);
	int rest = (int)(ms % 1000);
	gmtime_r(&seconds, &tm);
	size_t len = strftime(ret_text, S3_TIME_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
	if (rest > 0) {
		len += (size_t)snprintf(ret_text + len, S3_TIME_BYTES - len, ".%03d", rest);
		while (ret_text[len - 1] == '0') {
			len--;
		}
	}
	snprintf(ret_text + len, S3_TIME_BYTES - len, "Z");
}

int64_t s3_time_parse(const char *text)
{
	struct tm tm = {0};
	const char *at = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	int ms = 0;
	if (at == NULL) {
		return 0;
	}
	if (*at == '.') {
		int unit = 100;
		for (at++; *at >= '0' && *at <= '9'; at++) {
			ms += (*at - '0') * unit;
			unit /= 10;
		}
	}
	return *at == 'Z' ? (int64_t)timegm(&tm) * 1000 + ms : 0;
}
