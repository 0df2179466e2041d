/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Why a request failed: what the client is told. Clients decide by `applied` and `retry` alone;
 * codes and messages are for people and for finer distinctions.
 */

#include <stdbool.h>
#include <stdint.h>

/* Why a request failed, as the wire names it. The table of what each means stands in failure.c. */
enum failure_code {
	FAILURE_NONE,
	FAILURE_BAD_REQUEST,
	FAILURE_UNKNOWN_METHOD,
	FAILURE_UNSUPPORTED_PROTO,
	FAILURE_TOO_LARGE,
	FAILURE_DENIED,
	FAILURE_NOT_FOUND,
	FAILURE_SQL,
	FAILURE_GUARD,
	FAILURE_DEADLINE,
	FAILURE_CANCELLED,
	FAILURE_OVERLOADED,
	FAILURE_SNAPSHOT_CHANGED,
	FAILURE_EPOCH_CHANGED,
	FAILURE_LEASE_EXPIRED,
	FAILURE_LEASE_GONE,
	FAILURE_KEY_MISMATCH,
	FAILURE_SESSION_EXPIRED,
	FAILURE_DISK_LOW,
	FAILURE_FOREIGN_WRITER,
	FAILURE_SHUTTING_DOWN,
	FAILURE_NOT_SHIPPED,
	FAILURE_INTERNAL,
};

enum applied { APPLIED_NO, APPLIED_YES, APPLIED_UNKNOWN };

enum { DISK_RETRY_AFTER_MS = 500 };

struct failure {
	enum failure_code code;
	enum applied applied;
	bool retry;
	uint32_t retry_after_ms; /* 0: not said */
	int sqlite;              /* extended result code, or 0 */
	int64_t step;            /* -1: none in particular */
	int64_t row;
	int open;      /* of a lease: whether it goes on; -1: there is none */
	char *message; /* owned */
};

const char *failure_code_name(enum failure_code code);

/* No failure. */
void failure_init(struct failure *failure);
void failure_clear(struct failure *failure);

/* A failure with what its code means by default for applied, retry and sqlite. */
__attribute__((format(printf, 3, 4))) void failure_set(
	struct failure *failure, enum failure_code code, const char *format, ...);
