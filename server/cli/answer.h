/* SPDX-License-Identifier: MIT */
#pragma once

/* What a daemon answered, on stdout. */

#include "client/litefunnel.h"
#include "server/cli/print.h"

struct print_value answer_value(const lf_reply *reply, size_t step, size_t row, size_t column);

/*
 * The rows of one step. 0, -ENOMEM or -EIO.
 */
int answer_rows(const lf_reply *reply, size_t step, enum print_format format, bool header);

/*
 * One JSON object in one line: outcome, and commit and steps or code, message and applied. With
 * `line` above 0 it begins with that.
 */
void answer_json(const lf_reply *reply, uint64_t line);

/* The same for what failed before it was sent. */
void answer_json_refused(const char *code, const char *message, uint64_t line);
