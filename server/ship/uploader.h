/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One replica's thread: finds out what is in the replica, then brings it whatever the spool has
 * behind that, in order, for as long as it takes. It decides nothing: what the replica may get is
 * said by the conductor (shipper.c), which asks for the head and answers with a start.
 *
 *	LOOKING ──head found──▶ WAITING ──uploader_begin()──▶ SHIPPING ──file is missing──▶ LACKING
 *	   │                       └── uploader_refuse() ──▶ REFUSED ◀── fenced ──┘   ▲       │
 *	   └── retries for ever                                                       └───────┘
 *	                                                          uploader_supply(): the image is there
 */

#include "server/base/notice.h"
#include "server/ship/chain.h"
#include "server/ship/spool.h"

struct uploader;

enum uploader_state {
	UPLOADER_LOOKING,
	UPLOADER_WAITING,
	UPLOADER_SHIPPING,
	UPLOADER_LACKING, /* needs an image from uploader_confirmed() + 1 on */
	UPLOADER_REFUSED,
};

struct uploader_options {
	const char *url; /* with ack=1 or without */
	bool acks;
	size_t index; /* of its report on the board */
	struct board *board;
	struct spool *spool;
	uint8_t writer[RECORD_ID_BYTES];
	uint64_t retention_ms;
	uint64_t compact_every_ms;
	/* Called, in the uploader's thread, when its state or what is confirmed has changed. */
	void (*changed)(void *ctx);
	void *ctx;
};

/* A URL that is none makes an uploader that is REFUSED. Negative errno, with a sentence. */
int uploader_start(const struct uploader_options *options, struct uploader **ret_uploader,
	char ret_error[NOTICE_TEXT_BYTES]);

/* Ends the thread, in the middle of a transfer if need be. Accepts NULL. */
void uploader_free(struct uploader *uploader);

enum uploader_state uploader_state(struct uploader *uploader);
bool uploader_fails(struct uploader *uploader); /* the last request did */
bool uploader_gone(struct uploader *uploader);  /* its directory is not there */

/*
 * It has not said yet what it holds, and may soon, or may hold a chain of ours: a new one is better
 * begun behind that. One that fails and never got anything from this spool is not waited for.
 */
bool uploader_awaited(struct uploader *uploader);
struct chain_head uploader_head(struct uploader *uploader);
uint64_t uploader_confirmed(
	struct uploader *uploader); /* number of the newest segment that it has */

/* When it last got a snapshot, since 1970; 0: never. After LOOKING. */
int64_t uploader_snapshot_ms(struct uploader *uploader);

/*
 * The conductor's answers. `apart`: what it holds is not of this chain, and only an image may follow
 * it. The epoch is the database's: commit numbers of another say nothing.
 */
void uploader_begin(struct uploader *uploader, uint64_t confirmed, bool apart,
	const uint8_t epoch[RECORD_ID_BYTES]);
void uploader_refuse(struct uploader *uploader, const char *reason);

/* There is more in the spool: segments up to `newest`. */
void uploader_offer(struct uploader *uploader, uint64_t newest);

/* The image that it lacked is in the spool. */
void uploader_supply(struct uploader *uploader);

/* Ships a snapshot of level 9 from the images of the spool, then removes it there. */
void uploader_offer_snapshot(struct uploader *uploader, uint64_t txid);
void uploader_progress(struct uploader *uploader, uint64_t percent); /* of its first image */
