/* SPDX-License-Identifier: MIT */
#pragma once

/* A write whose one step of many rows may be applied in slices: `atomic:false`. */

#include "server/funnel/request.h"

/* In the writer's thread: the next slice (task::run). */
enum task_end many_task_slice(struct request *request, struct store *store, uint64_t budget_us);
