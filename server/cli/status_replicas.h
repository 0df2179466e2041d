/* SPDX-License-Identifier: MIT */
#pragma once

/* The part of `status` that is about replicas, from the answer to `show replicas`. */

#include "client/litefunnel.h"

#include <stdbool.h>
#include <stddef.h>

/* False: something is wrong with one of them, and ret_reason says what. */
bool status_replicas_well(const lf_reply *replicas, char *ret_reason, size_t bytes);

/* A line for each, and the command that restores from the first. */
void status_replicas_print(const lf_reply *replicas, const char *db);
void status_replicas_json(const lf_reply *replicas);
