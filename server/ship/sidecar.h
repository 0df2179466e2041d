/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The record of a segment as a file beside it, NAME.record, with a line "KEY: VALUE" each; all in
 * one directory, which is given open.
 *
 * It stands before its segment does, so a crash can leave one without, and two daemons may race for
 * a number. Which segment wins is decided by the segment's own name alone; the sidecar follows:
 *
 *	sidecar_propose()   the name was free: it is ours, until a segment says otherwise
 *	                    the name was taken: ours waits under a name of its own
 *	(the segment is created under its name, or it is there already)
 *	sidecar_settle()    ours takes the name if it had to wait, or is withdrawn
 *
 * Daemons that race hold a lock on the directory meanwhile, where the file system has locks; where
 * it has none, a loser that withdraws could take the winner's sidecar away in its last moment.
 *
 * Results: 0 or negative errno.
 */

#include "server/ship/record.h"

enum { SIDECAR_NAME_BYTES = 80 };

struct sidecar {
	char name[SIDECAR_NAME_BYTES];    /* NAME.record */
	char waiting[SIDECAR_NAME_BYTES]; /* "": it has the name */
	char text[2048];
	size_t len;
};

int sidecar_propose(
	int dir, const char *segment, const struct record *record, struct sidecar *ret_sidecar);

/* `won`: the segment under the name is the one that it describes. */
int sidecar_settle(int dir, struct sidecar *sidecar, bool won);

/* *ret_known false: there is none. -EBADMSG: what is there is no record. */
int sidecar_read(int dir, const char *segment, struct record *ret_record, bool *ret_known);

/* Missing is 0. */
int sidecar_remove(int dir, const char *segment);

/* A name that no segment has and that nobody else uses: ".PREFIX-RANDOM". */
void sidecar_private_name(const char *prefix, char ret_name[SIDECAR_NAME_BYTES]);
