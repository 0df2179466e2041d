/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Images made beside capture, one at a time, in a thread of its own. The conductor closes the gate
 * and plans; the thread builds, opens the gate, and hands the image to the replica's uploader.
 */

#include "server/base/notice.h"
#include "server/ship/image.h"
#include "server/ship/uploader.h"

#include <stdbool.h>

struct snapshot;

enum snapshot_kind {
	SNAPSHOT_LACKING, /* stands in for the segments that the replica has missed */
	SNAPSHOT_DUE,     /* of level 9 */
};

int snapshot_new(struct board *board, struct snapshot **ret_snapshot);
void snapshot_free(struct snapshot *snapshot); /* breaks off what is being built; accepts NULL */

/* The gate is closed; after 0 the plan's map is the thread's, and the gate its to open. */
int snapshot_start(struct snapshot *snapshot, const struct image_plan *plan,
	enum snapshot_kind kind, struct uploader *uploader);

bool snapshot_building(struct snapshot *snapshot);

/* The result of the last image, once: 0, an image_condition or negative errno. */
int snapshot_take_result(struct snapshot *snapshot);
