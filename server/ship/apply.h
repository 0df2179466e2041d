/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A database file that grows out of segments, one after the other. It checks what a segment says
 * of itself and against the one before; where the bytes come from is not its concern.
 */

#include "server/ship/ltx.h"
#include "server/ship/replica.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum apply_condition {
	APPLY_DAMAGED = 200, /* the segment is not what it should be; the sentence says how */
};

enum { APPLY_RUN_BYTES = 1024 * 1024, APPLY_ERROR_BYTES = LTX_ERROR_BYTES + 100 };

struct apply {
	int fd;             /* or -1: look at the segments, write nothing */
	uint32_t page_size; /* 0: nothing was applied yet */
	uint32_t pages;
	uint64_t max_txid;
	uint64_t bytes_max; /* a database that is larger is -ENOSPC; 0: no limit */

	uint8_t *run; /* pages that follow each other, not yet written */
	size_t run_bytes;
	uint32_t run_first;
};

/* -ENOMEM. The fd stays the caller's. */
int apply_init(struct apply *apply, int fd);
void apply_finish(struct apply *apply);

/* Sees each page of a segment before it is written. */
typedef void (*apply_page)(void *ctx, uint32_t page_no, const uint8_t *page, uint32_t page_size);

/*
 * Reads a whole segment from `source` and writes its pages. `full` says that it must hold every
 * page although it does not begin at 1. 0, APPLY_DAMAGED, or negative errno: of writing, or what
 * the source returned. After anything but 0 the file's content is worth nothing.
 */
int apply_segment(struct apply *apply, const struct replica_file *file, bool full,
	ltx_source source, void *source_ctx, apply_page page, void *page_ctx,
	char ret_error[APPLY_ERROR_BYTES]);
