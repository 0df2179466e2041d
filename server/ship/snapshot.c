/* SPDX-License-Identifier: MIT */

/* One thread that comes and goes with each image; what it shares is two numbers and a flag. */

#include "server/ship/snapshot.h"

#include "server/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct snapshot {
	struct board *board;
	pthread_t thread;
	bool has_thread;
	_Atomic bool building;
	_Atomic bool stopping;
	_Atomic int result;
	struct image_plan plan; /* the thread's while it builds */
	enum snapshot_kind kind;
	struct uploader *uploader;
};

int snapshot_new(struct board *board, struct snapshot **ret_snapshot)
{
	struct snapshot *snapshot = calloc(1, sizeof(*snapshot));
	if (snapshot == NULL) {
		return -ENOMEM;
	}
	snapshot->board = board;
	*ret_snapshot = snapshot;
	return 0;
}

static void join(struct snapshot *snapshot)
{
	if (snapshot->has_thread) {
		pthread_join(snapshot->thread, NULL);
		snapshot->has_thread = false;
	}
}

void snapshot_free(struct snapshot *snapshot)
{
	if (snapshot != NULL) {
		atomic_store(&snapshot->stopping, true);
		join(snapshot);
		free(snapshot);
	}
}

bool snapshot_building(struct snapshot *snapshot)
{
	return atomic_load(&snapshot->building);
}

int snapshot_take_result(struct snapshot *snapshot)
{
	return atomic_exchange(&snapshot->result, 0);
}

static int progress(void *ctx, uint64_t pages, uint64_t of)
{
	struct snapshot *snapshot = ctx;
	uploader_progress(snapshot->uploader, pages * 100 / of);
	return atomic_load(&snapshot->stopping) || board_stopping(snapshot->board) ? -ECANCELED : 0;
}

static void *build(void *ctx)
{
	struct snapshot *snapshot = ctx;
	struct record record;
	uint64_t txid = snapshot->plan.at.txid;
	int rc = image_build(&snapshot->plan, &record);
	board_gate_open(snapshot->board);
	if (rc == 0 && snapshot->kind == SNAPSHOT_LACKING) {
		uploader_supply(snapshot->uploader);
	} else if (rc == 0) {
		uploader_offer_snapshot(snapshot->uploader, txid);
	} else if (rc < 0 && rc != -ECANCELED) {
		log_warn("an image could not be made", log_str("error", strerror(-rc)));
	}
	atomic_store(&snapshot->result, rc);
	atomic_store(&snapshot->building, false);
	board_wake_shipper(snapshot->board);
	return NULL;
}

int snapshot_start(struct snapshot *snapshot, const struct image_plan *plan,
	enum snapshot_kind kind, struct uploader *uploader)
{
	join(snapshot); /* the last one is done: it said so */
	snapshot->plan = *plan;
	snapshot->plan.progress = progress;
	snapshot->plan.ctx = snapshot;
	snapshot->kind = kind;
	snapshot->uploader = uploader;
	atomic_store(&snapshot->building, true);
	int rc = -pthread_create(&snapshot->thread, NULL, build, snapshot);
	snapshot->has_thread = rc == 0;
	atomic_store(&snapshot->building, rc == 0);
	return rc;
}
