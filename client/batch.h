/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A batch while it is being built. Finished steps lie in `steps` as MessagePack; the open step is
 * kept in parts, because the counts in front of its values are known only when it ends, and because
 * lf_submit() takes a const batch: it closes the open step in a copy.
 */

#include "client/litefunnel.h"
#include "proto/buffer.h"

enum {
	BATCH_KEY_MAX = 255,
	CLASS_NAME_MAX = 15,
	BATCH_BYTES_MAX = 256 * 1024 * 1024, /* no frame can be longer */
};

enum row_form {
	ROW_EMPTY = 0,
	ROW_LIST, /* values in order */
	ROW_MAP,  /* values by name */
};

struct step {
	bool open;
	bool script;
	bool many;         /* lf_batch_row() was called: params is an array of rows */
	bool name_pending; /* a name waits for its value */
	bool truncate;
	bool sliced; /* lf_batch_sliced() was called */
	bool rows_max_set;
	const char *expect; /* "changes", "rows", or NULL */
	int64_t expect_count;
	uint32_t rows_max;
	enum row_form form;  /* of the row that is being filled */
	uint32_t row_values; /* in that row */
	uint32_t rows_count; /* finished rows */
	size_t nodes;        /* MessagePack values in sql, rows and row */
};

struct lf_batch {
	int failure; /* the first one, a negative errno value */
	struct buffer steps;
	size_t steps_count; /* finished ones: the open one is not counted */
	size_t nodes;       /* MessagePack values in `steps` */

	struct step step;
	struct buffer sql;  /* of the open step, packed */
	struct buffer rows; /* its finished rows, each with its header */
	struct buffer row;  /* values of the row being filled, without a header */

	char key[BATCH_KEY_MAX + 1]; /* "" = none */
	char class_name[CLASS_NAME_MAX + 1];
	uint32_t deadline_ms;
	bool ack_shipped;

	bool guarded; /* lf_batch_if_commit() was called */
	uint8_t guard_epoch[16];
	uint64_t guard_commit;
	struct buffer guard_tables; /* names, packed */
	size_t guard_tables_count;
};

/*
 * The value of `batch` in a write request: the same batch gives the same bytes each time, in the
 * shortest encoding, so that another process that sends it with the same key sends what the daemon
 * has hashed. The caller clears `ret_bytes` first. 0, or the batch's failure, -EINVAL (no step),
 * -ENOMEM, -EMSGSIZE.
 */
int builder_encode(const struct lf_batch *batch, struct buffer *ret_bytes, size_t *ret_nodes);

/*
 * The keys `sql`, `params` and `opts` with their values, for the params of a `step`: the batch must be one
 * step. cursor_rows > 0 asks for a cursor. 0, or as above; -EINVAL also for options beside a cursor.
 */
int builder_encode_step(const struct lf_batch *batch, uint32_t cursor_rows,
	struct buffer *ret_pairs, unsigned *ret_keys, size_t *ret_nodes);

/* The value of `if_commit`, as above; nothing if there is no guard. 0 or -ENOMEM. */
int builder_encode_guard(const struct lf_batch *batch, struct buffer *ret_bytes, size_t *ret_nodes);

/* ---- between batch.c and batch_encode.c ---- */

/* Puts the open step, if there is one, behind the finished ones. 0 or what the batch fails with. */
int builder_close_step(lf_batch *batch);

void builder_row_header(struct buffer *to, enum row_form form, uint32_t values);

/*
 * A buffer fails for want of memory or because no frame could hold it; only one of them is ENOMEM.
 */
int builder_buffer_error(const struct buffer *buf, size_t more);

/* One of the three request classes. */
bool builder_class_valid(const char *name);
