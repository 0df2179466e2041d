/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A request from submit to answer, and how it is put on the wire. The engine decides when; this
 * knows only what a request consists of.
 */

#include "client/batch.h"
#include "client/reply.h"
#include "proto/buffer.h"

#include <sys/queue.h>

enum pending_kind {
	PENDING_WRITE,
	PENDING_READ,  /* ping, show, describe: may be sent any number of times */
	PENDING_ADMIN, /* never sent twice */
	/* Of a lease: see lease.h. A step is also whatever else may be asked of an open one. */
	PENDING_BEGIN,
	PENDING_STEP,
	PENDING_COMMIT,
	PENDING_ROLLBACK,
};

/* In life order; engine.c has the drawing. */
enum pending_state {
	PENDING_QUEUED,   /* to be written to this connection, or to the next */
	PENDING_WRITTEN,  /* in the output of this connection, perhaps already sent */
	PENDING_WAITING,  /* answered with retry:true: queued again at retry_at_ms */
	PENDING_ANSWERED, /* the reply waits to be collected */
};

struct pending {
	TAILQ_ENTRY(pending) link; /* engine::open or engine::answered */
	uint64_t ticket;
	enum pending_kind kind;
	enum pending_state state;
	char method[MESSAGE_METHOD_MAX + 1];

	struct buffer
		body; /* a write's `batch`, a commit's `lease`, else the pairs of its params */
	unsigned body_keys;  /* how many pairs */
	struct buffer guard; /* a write's `if_commit` value, or nothing */
	size_t nodes;        /* MessagePack values in both */
	char *key;           /* NULL: none */
	char class_name[CLASS_NAME_MAX + 1];
	bool ack_shipped;

	uint64_t lease;        /* 0: of none */
	uint64_t lease_number; /* what the daemon knows it by */
	bool lease_over;       /* nothing of it is kept, but for a commit in doubt */

	uint64_t seq; /* 0: none yet, or it needs none */
	uint32_t id;  /* on this connection, while WRITTEN */

	uint64_t deadline_at_ms;
	uint32_t deadline_ms;
	uint64_t first_sent_ms; /* meaningful if `lost` or `sent` */
	uint64_t retry_at_ms;
	unsigned retries;
	uint64_t out_begin; /* where its frame lies in the connection's output stream */
	uint64_t out_end;
	bool sent;          /* wholly handed to this connection, and not answered on it */
	bool lost;          /* wholly handed to an earlier one that broke before it answered */
	bool cancel_wanted; /* a cancel notice follows the request */

	struct lf_reply *retry_reply; /* the last answer with retry:true, or NULL */
	struct lf_reply *reply;       /* made at submit, so that no outcome lacks memory */
};

TAILQ_HEAD(pending_list, pending);

/* What a new request consists of. The body, and the guard if there is one, are taken over. */
struct pending_spec {
	enum pending_kind kind;
	const char *method;
	struct buffer *body;
	unsigned body_keys;
	struct buffer *guard; /* NULL: none */
	size_t nodes;
	const char *key; /* "" or NULL: none */
	const char *class_name;
	bool ack_shipped;
	uint32_t deadline_ms;
	uint64_t lease;
	uint64_t lease_number;
	bool lease_over; /* it is answered at once that its lease is gone */
};

/* Whether what it does stays: it is numbered, and its outcome may be UNKNOWN by itself. */
bool pending_keeps(const struct pending *pending);

/* 0 or -ENOMEM; the body is emptied only with 0. */
int pending_new(const struct pending_spec *spec, struct pending **ret_pending);
void pending_free(struct pending *pending);

/* Appends its request frame with the id that it has. Failure shows in the buffer. */
void pending_pack(const struct pending *pending, struct buffer *out, uint64_t done,
	uint64_t deadline_left_ms, size_t *ret_nodes);
void pending_pack_cancel(const struct pending *pending, struct buffer *out);
