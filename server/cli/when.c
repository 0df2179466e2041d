/* SPDX-License-Identifier: MIT */

/* Moments as text. It asks nobody for the time but takes it, so that a test can say what now is. */

#include "server/cli/when.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define SECOND_MS INT64_C(1000)
#define MINUTE_MS (60 * SECOND_MS)
#define HOUR_MS   (60 * MINUTE_MS)
#define DAY_MS    (24 * HOUR_MS)

/* Exactly `digits` of them. */
static bool take_number(const char **at, unsigned digits, int *ret_number)
{
	int number = 0;
	for (unsigned i = 0; i < digits; i++) {
		if (!isdigit((unsigned char)(*at)[i])) {
			return false;
		}
		number = number * 10 + ((*at)[i] - '0');
	}
	*at += digits;
	*ret_number = number;
	return true;
}

static bool take_char(const char **at, const char *any_of)
{
	if (**at == '\0' || strchr(any_of, **at) == NULL) {
		return false;
	}
	++*at;
	return true;
}

/* "10:42", "10:42:07", "10:42:07.5" */
static bool take_clock(const char **at, struct tm *tm, int *ret_ms)
{
	*ret_ms = 0;
	tm->tm_sec = 0;
	if (!take_number(at, 2, &tm->tm_hour) || !take_char(at, ":") ||
		!take_number(at, 2, &tm->tm_min)) {
		return false;
	}
	if (take_char(at, ":")) {
		if (!take_number(at, 2, &tm->tm_sec)) {
			return false;
		}
		if (take_char(at, ".,")) {
			int weight = 100;
			if (!isdigit((unsigned char)**at)) {
				return false;
			}
			for (; isdigit((unsigned char)**at); ++*at, weight /= 10) {
				*ret_ms += (**at - '0') * weight;
			}
		}
	}
	return tm->tm_hour <= 23 && tm->tm_min <= 59 && tm->tm_sec <= 60;
}

/* "Z", "+01:00", "-0530" or nothing. *ret_local: nothing. */
static bool take_zone(const char **at, int64_t *ret_ms, bool *ret_local)
{
	int hours = 0;
	int minutes = 0;
	*ret_ms = 0;
	*ret_local = false;
	if (**at == '\0') {
		*ret_local = true;
		return true;
	}
	if (take_char(at, "Zz")) {
		return **at == '\0';
	}
	int sign = **at == '-' ? -1 : 1;
	if (!take_char(at, "+-") || !take_number(at, 2, &hours)) {
		return false;
	}
	(void)take_char(at, ":");
	if (!take_number(at, 2, &minutes) || hours > 23 || minutes > 59) {
		return false;
	}
	*ret_ms = sign * (hours * HOUR_MS + minutes * MINUTE_MS);
	return **at == '\0';
}

static bool parse_date(const char *at, int64_t *ret_ms)
{
	struct tm tm = {.tm_isdst = -1};
	int64_t zone_ms = 0;
	bool local = false;
	int ms = 0;
	if (!take_number(&at, 4, &tm.tm_year) || !take_char(&at, "-") ||
		!take_number(&at, 2, &tm.tm_mon) || !take_char(&at, "-") ||
		!take_number(&at, 2, &tm.tm_mday)) {
		return false;
	}
	if (take_char(&at, "Tt ") && !take_clock(&at, &tm, &ms)) {
		return false;
	}
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 ||
		!take_zone(&at, &zone_ms, &local)) {
		return false;
	}
	const int day = tm.tm_mday;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	time_t seconds = local ? mktime(&tm) : timegm(&tm);
	*ret_ms = (int64_t)seconds * 1000 + ms - zone_ms;
	return tm.tm_mday == day; /* not the 30th of February */
}

static bool parse_clock(const char *at, int64_t now_ms, int64_t *ret_ms)
{
	struct tm tm;
	int ms = 0;
	time_t now = (time_t)(now_ms / 1000);
	if (localtime_r(&now, &tm) == NULL || !take_clock(&at, &tm, &ms) || *at != '\0') {
		return false;
	}
	tm.tm_isdst = -1;
	int64_t then_ms = (int64_t)mktime(&tm) * 1000 + ms;
	if (then_ms > now_ms) {
		tm.tm_mday--;
		tm.tm_isdst = -1;
		then_ms = (int64_t)mktime(&tm) * 1000 + ms;
	}
	*ret_ms = then_ms;
	return true;
}

static bool unit_ms(const char *unit, size_t len, int64_t *ret_ms)
{
	static const struct {
		const char *name;
		int64_t ms;
	} units[] = {{"s", SECOND_MS}, {"sec", SECOND_MS}, {"second", SECOND_MS}, {"m", MINUTE_MS},
		{"min", MINUTE_MS}, {"minute", MINUTE_MS}, {"h", HOUR_MS}, {"hour", HOUR_MS},
		{"d", DAY_MS}, {"day", DAY_MS}, {"w", 7 * DAY_MS}, {"week", 7 * DAY_MS}};
	if (len > 1 && (unit[len - 1] == 's' || unit[len - 1] == 'S')) {
		len--;
	}
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strlen(units[i].name) == len && strncasecmp(unit, units[i].name, len) == 0) {
			*ret_ms = units[i].ms;
			return true;
		}
	}
	return false;
}

/* "2 hours ago", "90s ago", "1 day 2 hours ago" */
static bool parse_ago(const char *at, int64_t now_ms, int64_t *ret_ms)
{
	int64_t span_ms = 0;
	bool any = false;
	for (;;) {
		at += strspn(at, " ");
		if (any && strcasecmp(at, "ago") == 0) {
			*ret_ms = now_ms - span_ms;
			return true;
		}
		char *end = NULL;
		int64_t one_ms = 0;
		if (!isdigit((unsigned char)*at)) {
			return false;
		}
		unsigned long number = strtoul(at, &end, 10);
		at = end + strspn(end, " ");
		size_t len = 0;
		while (isalpha((unsigned char)at[len])) {
			len++;
		}
		if (number > 1000000 || !unit_ms(at, len, &one_ms)) {
			return false;
		}
		span_ms += (int64_t)number * one_ms;
		at += len;
		any = true;
	}
}

bool when_parse(const char *text, int64_t now_ms, int64_t *ret_ms)
{
	if (strcasecmp(text, "now") == 0) {
		*ret_ms = now_ms;
		return true;
	}
	return parse_date(text, ret_ms) || parse_clock(text, now_ms, ret_ms) ||
		parse_ago(text, now_ms, ret_ms);
}

void when_text(int64_t ms, char ret_text[WHEN_TEXT_BYTES])
{
	time_t seconds = (time_t)(ms / 1000);
	struct tm tm;
	size_t len = gmtime_r(&seconds, &tm) == NULL
		? 0
		: strftime(ret_text, WHEN_TEXT_BYTES, "%Y-%m-%dT%H:%M:%S", &tm);
	if (len == 0) {
		snprintf(ret_text, WHEN_TEXT_BYTES, "%" PRId64 " ms", ms);
	} else if (ms % 1000 != 0) {
		snprintf(ret_text + len, WHEN_TEXT_BYTES - len, ".%03dZ", (int)(ms % 1000));
	} else {
		snprintf(ret_text + len, WHEN_TEXT_BYTES - len, "Z");
	}
}

void when_span(int64_t ms, char ret_text[WHEN_TEXT_BYTES])
{
	if (ms < 10 * SECOND_MS) {
		snprintf(ret_text, WHEN_TEXT_BYTES, "%.1f s", (double)ms / 1000);
	} else if (ms < 2 * MINUTE_MS) {
		snprintf(ret_text, WHEN_TEXT_BYTES, "%" PRId64 " s", ms / SECOND_MS);
	} else if (ms < 2 * HOUR_MS) {
		snprintf(ret_text, WHEN_TEXT_BYTES, "%" PRId64 " min", ms / MINUTE_MS);
	} else if (ms < 2 * DAY_MS) {
		snprintf(ret_text, WHEN_TEXT_BYTES, "%" PRId64 " h", ms / HOUR_MS);
	} else {
		snprintf(ret_text, WHEN_TEXT_BYTES, "%" PRId64 " days", ms / DAY_MS);
	}
}
