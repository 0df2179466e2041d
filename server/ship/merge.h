/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Several segments in a row become one that does the same: of each page the newest version, none
 * above the size that the database had at the end. One pass over all of them side by side, in
 * memory that depends on their number only, about 200 KiB each.
 *
 * 0; LTX_CORRUPT with a sentence: an input is broken, or they do not follow each other; negative
 * errno, or what the sink returned. Nothing that was given to the sink may be believed before 0.
 */

#include "server/ship/ltx.h"

#include <stddef.h>

enum { MERGE_INPUTS_MAX = 64 };

int merge_segments(const int *fds, size_t count, ltx_sink sink, void *ctx,
	struct ltx_header *ret_header, char ret_error[LTX_ERROR_BYTES]);
