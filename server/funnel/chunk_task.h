/* SPDX-License-Identifier: MIT */
#pragma once

/* What the writer does for chunks: the orders of clients, and slices. */

#include "server/funnel/chunk_board.h"
#include "server/funnel/request.h"

/* What a message asks for; it lies in its request, with its texts behind it. */
struct chunk_ask {
	struct chunk_board *board;
	bool control; /* else it begins one */
	enum chunk_op op;
	bool any; /* the client may also mean another user's */
	struct bytes name;
	struct bytes by;
	uint64_t slice_ms;
	uint64_t rate; /* UINT64_MAX: as it is */
	uint64_t keep_s;
	uint8_t hash[16];

	/* The loop's, of one that waits for the end. */
	uint64_t id;       /* of the chunk */
	uint64_t until_us; /* or for so long */
	uint64_t told_us;
};

/* What the loop wants of a slice that waits or runs. */
enum chunk_wish {
	WISH_GO_ON,
	WISH_STEP_ASIDE, /* what runs is undone: an order for the chunk waits */
	WISH_END,        /* … and the chunk fails */
};

/* The task of a slice; under the lock of the board. */
struct chunk_run {
	struct chunk_board *board;
	uint64_t id;
	enum chunk_wish wish;
	struct store *store; /* while a slice runs */
};

enum task_end chunk_task_order(struct request *request, struct store *store, uint64_t budget_us);
enum task_end chunk_task_slice(struct request *request, struct store *store, uint64_t budget_us);

/* The writer, after any commit: chunks that have ended by what somebody else did are told to have. */
void chunk_task_catch_up(struct chunk_board *board, struct store *store);

/* In the loop: the slice ends soon, as it is wished; also the one of that request that waits. */
void chunk_run_wish(struct chunk_run *run, enum chunk_wish wish);

/* The keys that answers and notices about a chunk have in common, as one map. */
void chunk_pack(struct buffer *out, const struct chunk_view *view);
