/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What an lf_db consists of: the engine, its socket, and the local reader.
 */

#include "client/engine.h"
#include "client/fork_mark.h"
#include "client/litefunnel.h"
#include "client/transport.h"

#include <sys/types.h>

enum { DB_ERRMSG_MAX = 512 };

struct local_reader;

struct lf_db {
	struct engine engine;
	struct transport transport;
	struct fork_mark mark;       /* whose client this is: a forked child's is another */
	char *path;                  /* absolute */
	struct local_reader *reader; /* NULL until the first read */
	char errmsg[DB_ERRMSG_MAX];
};

/* First in every public function: notices a fork, and forgets the last error. */
void db_enter(struct lf_db *db);

/* Remembers words for lf_errmsg() and returns `result`. */
int db_error(struct lf_db *db, int result, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * Everything that can be done without waiting; if it brought no answer, sleeps until there is
 * reason for more, at most max_ms (-1: no limit).
 */
void db_turn_and_wait(struct lf_db *db, int max_ms);

/* Waits for the answer to a request that was submitted. Returns its outcome. */
int db_wait_ticket(struct lf_db *db, uint64_t ticket, lf_reply **ret_reply);

/*
 * Sends a request that is no write, its params as `keys` pairs in `body`, which is finished, and waits
 * for the answer: as lf_ping(). deadline_ms 0: the client's.
 */
int db_ask(struct lf_db *db, enum pending_kind kind, const char *method, struct buffer *body,
	unsigned keys, size_t nodes, uint32_t deadline_ms, lf_reply **ret_reply);

/* CLOCK_BOOTTIME in milliseconds. */
uint64_t db_now_ms(void);

/* reader.c: frees the handle; in a forked child it lets go of the parent's. Both accept NULL. */
void local_reader_free(struct local_reader *reader);
void local_reader_forked(struct local_reader *reader);
