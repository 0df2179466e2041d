/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Where requests go: through a daemon (bench_funnel.c), or into a handle of this process
 * (bench_direct.c). A target belongs to the process that opened it.
 */

#include "server/cli/bench_workload.h"

enum { TARGET_NAME_BYTES = 24, TARGET_ERROR_BYTES = 256 };

struct answer {
	uint64_t start_ns; /* as the request was submitted with */
	enum bench_kind kind;
	unsigned rows;
	bool done;        /* applied; else `error` says why not */
	bool unknown;     /* nobody can tell whether it was applied */
	uint64_t changed; /* rows */
	char error[TARGET_NAME_BYTES];
};

/* Conditions of target_next(). */
enum { TARGET_NOTHING = 1 };

struct target;

struct target_kind {
	int (*open)(const struct bench_options *options, enum bench_mode mode, const char *db,
		bool import, struct target **ret_target, char *ret_error);
	void (*close)(struct target *target);
	/* How many requests it takes before the first of them must be answered. */
	unsigned (*depth)(const struct bench_options *options, bool import);
	/* Takes a request. 0, or a negative errno value. */
	int (*submit)(struct target *target, const struct work *work, uint64_t start_ns);
	/*
	 * The next answer; waits for it until `until_ns`. 0, TARGET_NOTHING, or a negative errno
	 * value.
	 */
	int (*next)(struct target *target, uint64_t until_ns, struct answer *ret_answer);
};

/* ret_error has TARGET_ERROR_BYTES, and says why open() failed. */
extern const struct target_kind target_funnel;
extern const struct target_kind target_direct;

/* The monotonic clock. */
uint64_t target_now_ns(void);
