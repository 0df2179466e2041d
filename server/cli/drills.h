/* SPDX-License-Identifier: MIT */
#pragma once

/* Drills as the daemon tells of them: the answers to `drill` and to `show drills`. */

#include "client/litefunnel.h"
#include "server/base/drill.h"
#include "server/cli/answer.h"

#include <stdbool.h>
#include <stddef.h>

/* A value by the name of its column; NULL if there is no such column. */
struct print_value drills_cell(const lf_reply *table, size_t row, const char *name);
enum drill_verdict drills_verdict(const lf_reply *drills, size_t row);

/* The worst verdict among the rows: a fail, then an inconclusive one. */
enum drill_verdict drills_worst(const lf_reply *drills);

/* Some lines for each; an array of objects. */
void drills_print(const lf_reply *drills);
void drills_json(const lf_reply *drills);
