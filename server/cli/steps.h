/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A batch as JSON:
 *
 *	[["INSERT INTO t VALUES (?, ?)", [1, {"blob": "AAE="}]], ["DELETE …", {"id": 2}, {"expect":
 *	{"changes": 1}}]]
 *
 * an array of steps, each [sql], [sql, params] or [sql, params, opts]; or an object {"batch": […],
 * "key": "…", "deadline_ms": 1000, "class": "bulk", "ack": "committed"}. Params are an array, or an
 * object of names; opts are many, expect, rows, truncate and script. A value is null, a bool (0 or
 * 1), a number (integers are exact to 64 bits), a string, {"blob": base64} or {"text": base64}.
 */

#include "client/litefunnel.h"

#include <stddef.h>

enum { STEPS_ERROR_BYTES = 512 };

/*
 * Fills the empty `batch`. 0; -EINVAL with a sentence in ret_error; -ENOMEM. Failures that the batch
 * itself remembers show when it is sent.
 */
int steps_read(const char *json, size_t len, lf_batch *batch, char ret_error[STEPS_ERROR_BYTES]);
