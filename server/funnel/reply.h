/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What goes back: the results of steps as they are packed while they run, the form in which an
 * answer is remembered, and the frames. The only place that knows the wire's codes and keys of
 * results.
 *
 * A payload, as stored: one byte that says what follows, then MessagePack.
 */

#include "server/funnel/request.h"

enum payload_kind {
	PAYLOAD_STEPS = 'S',     /* an array of step results */
	PAYLOAD_STEPS_CUT = 'L', /* the same; rows were too large to keep and have been left out */
	PAYLOAD_COMMIT = 'C',    /* the end of a lease: what it is stands in the request */
	PAYLOAD_ERROR = 'E',     /* an error map */
	PAYLOAD_RESULT = 'R',    /* a whole result map; never stored */
};

enum { PAYLOAD_STORED_MAX = 64 * 1024 };

/* What every answer of a commit group has in common. */
struct reply_facts {
	const uint8_t *epoch;
	const char *durability; /* "full", "normal" */
};

/* Packs the results of a batch's steps into request->payload, step by step. */
struct packing {
	struct buffer *payload;
	size_t bytes_max;
	size_t steps_at; /* the header of the array of steps */
	uint32_t steps;
	/* The running step. */
	size_t map_at;
	size_t rows_at; /* 0: the step has no columns */
	uint32_t rows;
	size_t nodes; /* values of the answer so far: a client takes no more than a frame may hold */
	/* Where the rows of each step lie, for a payload that must be cut. */
	struct buffer spans;
};

void packing_init(struct packing *packing, struct buffer *payload, size_t bytes_max);
void packing_finish(struct packing *packing);

void packing_begin_step(struct packing *packing);
/* Fits struct step_sink; ctx is the packing. row() answers 1 when the caps allow no more. */
void packing_columns(void *ctx, const struct columns *columns);
int packing_row(void *ctx, const struct value *values, unsigned count);
void packing_end_step(struct packing *packing, const struct step_result *result);

/* False: what is not rows has already grown past the limits. */
bool packing_fits(const struct packing *packing);

/* All steps are in. False: out of memory. */
bool packing_end(struct packing *packing);

/*
 * The payload in the form to be stored: itself, or without its rows if it is too large. `spare` is
 * used for the latter.
 */
struct bytes packing_stored(struct packing *packing, struct buffer *spare);

/* What a condition of the store means on the wire. */
void reply_fail_from_store(struct request *request, const struct store_error *error, int64_t step);

/* request->failure as a payload: what is stored of a batch that failed for good. */
bool reply_pack_failure(const struct failure *failure, struct buffer *payload);

/* The answer to `describe`, into request->payload. */
void reply_pack_description(struct packing *packing, const struct description *description);

/* True for a request whose reply is a result, not an error. */
bool reply_is_result(const struct request *request);

/*
 * Turns request->reply, the frame of a result, into the error `not_shipped` that carries it: it was
 * applied, but the replicas do not have it yet.
 */
void reply_not_shipped(
	struct request *request, const struct reply_facts *facts, const char *message);
/* The answers of an open lease, into request->payload. */
void reply_pack_begin(struct request *request, uint64_t lease, uint64_t commit_no);
void reply_pack_lease_step(struct packing *packing, bool has_cursor, uint64_t cursor, bool more);
void reply_pack_fetch(struct packing *packing, bool more);

/* The frame for a request whose outcome stands, into request->reply. */
void reply_build(struct request *request, const struct reply_facts *facts);

/* The frame for a request that has failed, into request->reply. */
void reply_failed(struct request *request);

/* A frame with an error for a request that never got that far. */
void reply_error(struct buffer *out, uint32_t id, const struct failure *failure);

/* The notice before a connection is closed. */
void reply_closing(struct buffer *out, enum failure_code code, const char *message);
