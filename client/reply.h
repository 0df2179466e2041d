/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A reply: either a message of the daemon, which it owns and points into, or an outcome that the
 * library found by itself (a deadline, a cancel), which needs no memory beyond the struct.
 */

#include "client/litefunnel.h"
#include "proto/message.h"

enum {
	REPLY_TEXT_MAX = 480,
	REPLY_CODE_MAX = 32,
};

struct reply_step {
	int64_t changes;
	int64_t total;
	int64_t rowid;
	bool truncated;
	const msgpack_object_array *columns; /* NULL: none */
	const msgpack_object_array *types;
	const msgpack_object_array *rows;
};

struct lf_reply {
	uint64_t ticket;
	enum lf_outcome outcome;
	enum lf_applied applied;
	bool retry;
	int64_t retry_after_ms; /* -1: the daemon named none */
	int sqlite;
	int64_t failed_step;
	int64_t failed_row;
	const char *code;
	const char *message;

	const msgpack_object *result; /* the result map, or NULL */
	const msgpack_object *error;  /* the error map, or NULL */
	const char *durability;
	const char *server; /* of hello */
	const char *role;   /* of hello */
	const uint8_t *epoch;
	uint64_t commit;
	uint64_t queued_us;
	uint64_t exec_us;
	uint64_t commit_us;
	uint64_t group;
	bool repeat;
	bool rows_lost;
	int open;                 /* of a lease: 1 it goes on, 0 it is over, -1 not said */
	struct reply_step *steps; /* in the zone */
	size_t steps_count;

	uint8_t *payload; /* our copy of the frame; the objects point into it */
	msgpack_zone zone;
	bool zone_made;
	char text[REPLY_TEXT_MAX]; /* `message` of outcomes found by the library */
	char code_text[REPLY_CODE_MAX];
};

/* An empty one, so that an outcome later on cannot fail for want of memory. NULL: none now. */
struct lf_reply *answer_new(void);

/*
 * Copies a frame's payload and takes it apart, in *spare, which is NULL then, or in a new reply: *ret_message says what it is, and points into the
 * reply. The fields of the reply are filled in if it is MESSAGE_REPLY. Free it with
 * lf_reply_free() in any case of success. 0, -ENOMEM, or MESSAGE_BROKEN / MESSAGE_BAD_REQUEST.
 */
int answer_parse(const uint8_t *payload, size_t len, struct lf_reply **spare,
	struct message *ret_message, struct lf_reply **ret_reply);

/* Ends each string of the array in a NUL, in the payload: once all of it is unpacked. */
void answer_terminate(const msgpack_object_array *array);

/* Fills in an outcome of our own. */
void answer_local(struct lf_reply *reply, enum lf_outcome outcome, const char *code,
	enum lf_applied applied, const char *format, ...) __attribute__((format(printf, 5, 6)));
