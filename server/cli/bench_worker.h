/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The processes of a run, and the memory that they share with the one that started them. Each has a
 * slot of its own, in which it alone writes.
 */

#include "server/cli/bench_histogram.h"
#include "server/cli/bench_target.h"

#include <sys/types.h>

enum { SLOT_ERRORS_MAX = 8 };

enum worker_role { WORKER_WRITES, WORKER_READS, WORKER_IMPORTS };

struct error_count {
	char name[TARGET_NAME_BYTES];
	_Atomic uint64_t count;
};

struct slot {
	enum worker_role role;
	unsigned number; /* among those of its role */
	pid_t pid;

	/* While it was measured. */
	_Atomic uint64_t requests;
	_Atomic uint64_t rows;
	uint64_t cpu_us;
	uint64_t written_bytes;
	bool written_known;
	struct error_count errors[SLOT_ERRORS_MAX];
	struct histogram
		latency; /* also of what was begun then and ended later, also of failures */

	/* From its start to its end. */
	uint64_t changed[KINDS];
	uint64_t unknown;
	uint64_t committed; /* requests */
	uint64_t ended_ns;
	bool finished;
	char failure[TARGET_ERROR_BYTES]; /* why it could not go on; "" */
};

struct stage {
	/* Set before the start. */
	const struct bench_options *options;
	const struct target_kind *target;
	enum bench_mode mode;
	unsigned batch_rows; /* of a request */
	const char *db;
	uint64_t begin_ns;
	uint64_t measure_ns; /* begin, and end, of what counts */
	uint64_t end_ns;
	_Atomic bool stop; /* end at once */
	unsigned slots_count;
	struct slot slots[];
};

/*
 * The whole life of a worker: opens its target, closes ready_fd, waits for the end of go_fd, works
 * until stage->end_ns, ends its process.
 */
_Noreturn void worker_main(
	struct stage *stage, struct slot *slot, int ready_fd, int go_fd, pid_t parent);

/* Bytes that the process has handed to the disk, so far. False: this system does not tell. */
bool worker_written_bytes(pid_t pid, uint64_t *ret_bytes);
