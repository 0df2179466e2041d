/* SPDX-License-Identifier: MIT */

/* The codes of failures and what each means unless it is said otherwise. */

#include "server/funnel/failure.h"
#include "proto/scan.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
	const char *name;
	enum applied applied;
	bool retry;
	int sqlite; /* a fitting code where SQLite itself gave none */
} codes[] = {
	[FAILURE_NONE] = {"", APPLIED_NO, false, 0},
	[FAILURE_BAD_REQUEST] = {"bad_request", APPLIED_NO, false, 0},
	[FAILURE_UNKNOWN_METHOD] = {"unknown_method", APPLIED_NO, false, 0},
	[FAILURE_UNSUPPORTED_PROTO] = {"unsupported_proto", APPLIED_NO, false, 0},
	[FAILURE_TOO_LARGE] = {"too_large", APPLIED_NO, false, 0},
	[FAILURE_DENIED] = {"denied", APPLIED_NO, false, 23},
	[FAILURE_NOT_FOUND] = {"not_found", APPLIED_NO, false, 0},
	[FAILURE_SQL] = {"sql", APPLIED_NO, false, 0},
	[FAILURE_GUARD] = {"guard", APPLIED_NO, false, 0},
	[FAILURE_DEADLINE] = {"deadline", APPLIED_NO, true, 5},
	[FAILURE_CANCELLED] = {"cancelled", APPLIED_NO, false, 0},
	[FAILURE_OVERLOADED] = {"overloaded", APPLIED_NO, true, 5},
	[FAILURE_SNAPSHOT_CHANGED] = {"snapshot_changed", APPLIED_NO, false, 517},
	[FAILURE_EPOCH_CHANGED] = {"epoch_changed", APPLIED_NO, false, 517},
	[FAILURE_LEASE_EXPIRED] = {"lease_expired", APPLIED_NO, false, 5},
	[FAILURE_LEASE_GONE] = {"lease_gone", APPLIED_NO, false, 0},
	[FAILURE_KEY_MISMATCH] = {"key_mismatch", APPLIED_NO, false, 0},
	[FAILURE_SESSION_EXPIRED] = {"session_expired", APPLIED_UNKNOWN, false, 0},
	[FAILURE_DISK_LOW] = {"disk_low", APPLIED_NO, true, 13},
	[FAILURE_FOREIGN_WRITER] = {"foreign_writer", APPLIED_NO, true, 5},
	[FAILURE_SHUTTING_DOWN] = {"shutting_down", APPLIED_NO, true, 5},
	[FAILURE_NOT_SHIPPED] = {"not_shipped", APPLIED_YES, false, 0},
	[FAILURE_INTERNAL] = {"internal", APPLIED_NO, true, 0},
};

const char *failure_code_name(enum failure_code code)
{
	return codes[code].name;
}

void failure_init(struct failure *failure)
{
	*failure = (struct failure){.step = -1, .row = -1, .open = -1};
}

void failure_clear(struct failure *failure)
{
	free(failure->message);
	failure_init(failure);
}

/* SQLite quotes what it was given, also a text that is none; on the wire a message is UTF-8. */
static void replace_what_is_no_text(char *message, size_t len)
{
	uint8_t *at = (uint8_t *)message;
	uint8_t *end = at + len;
	if (utf8_valid(at, len)) {
		return;
	}
	while (at < end) {
		size_t step = 1;
		while (step <= 4 && step <= (size_t)(end - at) && !utf8_valid(at, step)) {
			step++;
		}
		if (step > 4 || step > (size_t)(end - at)) {
			*at = '?';
			step = 1;
		}
		at += step;
	}
}

void failure_set(struct failure *failure, enum failure_code code, const char *format, ...)
{
	va_list args;
	failure_clear(failure);
	failure->code = code;
	failure->applied = codes[code].applied;
	failure->retry = codes[code].retry;
	failure->sqlite = codes[code].sqlite;
	va_start(args, format);
	int len = vasprintf(&failure->message, format, args);
	va_end(args);
	if (len < 0) {
		failure->message = NULL;
	} else {
		replace_what_is_no_text(failure->message, (size_t)len);
	}
}
