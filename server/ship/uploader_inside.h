/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What the files of an uploader share: uploader.c has its states, its thread and its life,
 * uploader_look.c finds out what a replica holds, uploader_ship.c brings it segments,
 * uploader_snapshot.c snapshots.
 */

#include "server/ship/keeper.h"
#include "server/ship/replica.h"
#include "server/ship/uploader.h"

#include <pthread.h>

enum { UPLOADER_BACKOFF_MAX_MS = 20000 };

struct uploader {
	struct uploader_options options;
	char *url;
	_Atomic bool used; /* the spool knows that the replica has had something */
	struct replica *replica;
	pthread_t thread;
	pthread_t snapshot_thread;
	bool has_snapshot_thread;
	struct keeper *keeper; /* compaction and retention, beside it too */

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;
	enum uploader_state state;
	bool stopping;
	uint64_t begun_anew;  /* how often it had lost what it held */
	bool bare;            /* what it holds leads to nothing until a snapshot has arrived */
	uint64_t held_commit; /* of the newest segment that it has */
	int64_t held_ms;
	struct chain_head head;
	int64_t snapshot_ms;
	uint64_t confirmed;
	bool apart; /* what it holds is not of this chain: an image comes next */
	uint64_t newest;
	struct replica *snapshot_replica; /* while a snapshot goes up */
	uint64_t snapshot; /* txid of the image that is to go up as a snapshot; 0: none */
	struct replica_report report;

	unsigned failures; /* in a row; the thread's own */
	int64_t logged_ms;
};

int64_t uploader_now_ms(void);

/* The lock is held. */
void uploader_publish(struct uploader *uploader);
void uploader_move(struct uploader *uploader, enum uploader_state state);

/* It is known to have this commit; 0: nothing. Told with the next uploader_publish(). */
void uploader_note_had(struct uploader *uploader, uint64_t commit_no, int64_t committed_ms);
void uploader_works_again(struct uploader *uploader);

/* Sleeps, unless somebody wants the thread to end. The lock is held. */
void uploader_sleep_ms(struct uploader *uploader, uint64_t ms);

bool uploader_stopping(struct uploader *uploader);

/* A request failed in a way that may pass: says so once in a while, waits, with full jitter. */
void uploader_wait_out(struct uploader *uploader, const struct replica_error *error);

/*
 * A replica has lost what it held. It gets all pages again; but a directory may be that of a disk which is
 * not mounted, and then it waits until somebody says so.
 */
void uploader_lost(void *ctx, bool wholly, bool partly);

/* An error that says so, with the cure. False: it may be filled anew. */
bool uploader_emptied(struct uploader *uploader, struct replica_error *error);

/* A snapshot has arrived. The lock is held. */
void uploader_restorable(struct uploader *uploader, const struct record *record);

/* Finds out what the replica holds, for the conductor: 0, or a replica_condition. */
int uploader_look(struct uploader *uploader, struct replica_error *error);

/* Brings what follows `confirmed`, or finds that it is not to be had. */
void uploader_ship_next(struct uploader *uploader, uint64_t confirmed);

/* 0: shipped; else a replica_condition, or SPOOL_MISSING as -ENOENT. */
int uploader_ship_file(struct uploader *uploader, int level, enum spool_kind kind,
	const struct spool_file *file, struct replica *replica, struct record *ret_record,
	struct replica_error *error);
