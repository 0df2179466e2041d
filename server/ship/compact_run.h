/* SPDX-License-Identifier: MIT */
#pragma once

/* A run of files of one level, and how it becomes one file of the next. */

#include "server/ship/compact.h"
#include "server/ship/merge.h"

struct run_file {
	struct replica_file file;
	struct record record;
	bool known;
};

struct run {
	struct run_file files[MERGE_INPUTS_MAX];
	size_t count;
	uint64_t bytes;
};

enum run_fit {
	RUN_TAKES,
	RUN_SKIPS,  /* nothing was taken yet, and no run begins with this one */
	RUN_ENDS,   /* the run ends before it */
	RUN_BREAKS, /* it claims to follow and does not */
};

enum run_fit run_fits(const struct run *run, const struct run_file *file);

/* The error of RUN_BREAKS. */
int run_broken(const struct replica *replica, const struct run_file *file,
	struct replica_error *ret_error);

/* Fetches, checks, merges, and creates the file at `level`. */
int run_merge(const struct compact_options *options, int level, const struct run *run,
	struct replica_error *ret_error);
