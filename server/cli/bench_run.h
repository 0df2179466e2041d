/* SPDX-License-Identifier: MIT */
#pragma once

/* One run: a fresh database, its processes, and what came of it. */

#include "server/cli/bench_histogram.h"
#include "server/cli/bench_worker.h"

enum { RUN_TEXT_BYTES = 512, RUN_ERRORS_MAX = 16 };

struct run_side {
	uint64_t requests;
	uint64_t rows;
	struct histogram latency;
	double share_min; /* of the mean of all processes */
	double share_max;
};

struct run_error {
	char name[TARGET_NAME_BYTES];
	uint64_t count;
};

struct bench_run {
	enum bench_mode mode;
	unsigned round;
	unsigned batch_rows;
	double seconds; /* that were measured */
	struct run_side writes;
	struct run_side reads;
	struct run_side imports;
	struct run_error errors[RUN_ERRORS_MAX];
	unsigned errors_count;
	double cpu_clients_s;
	double cpu_daemon_s;
	double writer_exec_s; /* of the daemon's writer, in real time */
	double writer_commit_s;
	bool written_known;
	uint64_t written_bytes;
	uint64_t commits;
	uint64_t commits_requests; /* in these commits */
	uint64_t daemon_peak_bytes;
	enum { CHECK_RIGHT, CHECK_WRONG, CHECK_UNKNOWN } check;
	char check_text[RUN_TEXT_BYTES];
};

/*
 * 0 and a result, or -1 and the reason; -2: interrupted. batch_rows: rows of a request or, with
 * BENCH_RAW, of a transaction.
 */
int bench_run(const struct bench_options *options, enum bench_mode mode, unsigned batch_rows,
	struct bench_run *ret_run, char ret_error[RUN_TEXT_BYTES]);

/* The batch of `raw` that gives most rows a second on this machine, by short trials. */
int bench_best_batch(
	const struct bench_options *options, unsigned *ret_rows, char ret_error[RUN_TEXT_BYTES]);

/* SIGINT and SIGTERM end a run early and clean; true once one of them came. */
void bench_catch_signals(void);
bool bench_interrupted(void);
