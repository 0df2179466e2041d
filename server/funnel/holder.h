/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who had the writer, for those who waited: "database is locked" names the statement that failed,
 * this names the one responsible. The writer notes every turn that was long enough to be felt; a
 * request that has waited long is told the one that it waited for longest.
 */

#include "server/funnel/request.h"

#include <inttypes.h>

/* How a text is shown to whom it is not: 16 digits of its hash. */
#define HOLDER_DIGEST_FORMAT "#%016" PRIx64

enum { HOLDER_SQL_BYTES = 120, HOLDERS_MAX = 32 };

/* What a request is known by to whoever waits for it. */
struct known_by {
	char label[PEER_NAME_MAX + 1];
	bool has_sql;
	uint64_t digest;                /* of the whole text */
	char sql[HOLDER_SQL_BYTES + 4]; /* its beginning; "…" behind it if it is cut */
};

struct holder {
	const char *what; /* "write", "chunk", "checkpoint", "another process" */
	pid_t pid;        /* 0: not known */
	uint32_t uid;
	struct known_by known;
	enum request_class class;
	uint64_t number; /* of the request, or 0 */
	uint64_t began_us;
	uint64_t ended_us;
};

/* What a request is, for people: "write", "describe", "bye", or the task's name. */
const char *request_what(const struct request *request);

/* By the label of its client and its first statement, or as its task says. In any thread. */
void request_known_by(const struct request *request, struct known_by *ret_known);

/* A statement, or the one that follows the last. */
void known_by_text(struct known_by *known, struct bytes text);

/* Whether one user may read the other's SQL. */
bool request_may_see(const struct credentials *who, uint32_t uid);

void holder_of(const struct request *request, struct holder *ret_holder);

struct queue;

/* Whoever has the writer this moment, for one that waits in vain; NULL: nobody. The loop's; to be freed. */
struct holder *holder_running(struct queue *queue);

/* To be freed; NULL without memory. */
struct holder *holder_copy(const struct holder *holder);

/* The last turns that were felt. The writer's. */
struct holders {
	struct holder recent[HOLDERS_MAX];
	unsigned next;
};

/* The one that had the writer longest in that time, but for the request of that number; or NULL. */
const struct holder *holders_blame(
	const struct holders *holders, uint64_t from_us, uint64_t to_us, uint64_t number);

/* The newest one, if it is of that name and was not over at began_us; else a new one. */
struct holder *holders_extend(
	struct holders *holders, const char *what, uint64_t began_us, uint64_t ended_us);

/* Room for a turn that ended now, its beginning set; the oldest is forgotten for it. */
struct holder *holders_note(struct holders *holders, uint64_t began_us, uint64_t ended_us);
