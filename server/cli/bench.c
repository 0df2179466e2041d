/* SPDX-License-Identifier: MIT */

/*
 * litefunnel bench: what the funnel is good for, on the user's own machine. This file says which runs
 * are made, and in which order:
 *
 *	bench_options.c    the load that is asked for    bench_machine.c    where
 *	bench_run.c        one run, its processes        bench_arena.c      their database and daemon
 *	bench_worker.c     what a process does           bench_workload.c   its requests
 *	bench_funnel.c, bench_direct.c                   where they go
 *	bench_histogram.c  how long they took            bench_report.c, bench_json.c
 *
 * It opens no database that it has not made.
 */

#include "server/cli/bench_arena.h"
#include "server/cli/bench_options.h"
#include "server/cli/bench_report.h"
#include "server/cli/cli.h"
#include "server/cli/print.h"

#include <stdio.h>
#include <stdlib.h>

/* 0, or -1 and -2 as bench_run(). */
static int run_mode(struct report *report, enum bench_mode mode, unsigned round,
	unsigned batch_rows, char *ret_error)
{
	struct bench_options options = *report->options;
	struct bench_run *run = calloc(1, sizeof(*run));
	if (run == NULL) {
		snprintf(ret_error, RUN_TEXT_BYTES, "out of memory");
		return -1;
	}
	if (mode == BENCH_RAW) { /* alone, and as fast as it goes */
		options.rate = 0;
		options.readers = 0;
		options.bulk = false;
	}
	int rc = bench_run(
		&options, mode, mode == BENCH_RAW ? batch_rows : options.rows, run, ret_error);
	run->round = round;
	if (rc != 0) {
		free(run);
		return rc;
	}
	report->runs[report->count++] = run;
	report_run(report, run);
	return 0;
}

/* Every mode in every round, so that each has its neighbours. */
static int run_all(struct report *report, char *ret_error)
{
	const struct bench_options *options = report->options;
	unsigned batch_rows = 0;
	unsigned rounds = options->compare ? options->rounds : 1;
	int rc = options->modes[BENCH_RAW] ? bench_best_batch(options, &batch_rows, ret_error) : 0;
	for (unsigned round = 1; rc == 0 && round <= rounds; round++) {
		for (enum bench_mode mode = 0; rc == 0 && mode < BENCH_MODES; mode++) {
			rc = options->modes[mode]
				? run_mode(report, mode, round, batch_rows, ret_error)
				: 0;
		}
	}
	return rc;
}

static bool all_right(const struct report *report)
{
	for (unsigned i = 0; i < report->count; i++) {
		if (report->runs[i]->check == CHECK_WRONG) {
			return false;
		}
	}
	return true;
}

static int print_rest(const struct report *report)
{
	if (report->options->compare) {
		report_compare(report);
	}
	if (report->options->json && report_json(report) != 0) {
		return cli_fail("bench", "out of memory");
	}
	if (print_flush("bench") != 0) {
		return CLI_FAILED;
	}
	return all_right(report) ? CLI_DONE
				 : cli_fail("bench", "a database does not hold what was answered");
}

int cli_bench(int argc, char **argv)
{
	char error[RUN_TEXT_BYTES] = "";
	struct bench_options options;
	struct report report = {.options = &options};
	int code = bench_options_parse(&options, argc, argv);
	if (code >= 0) {
		return code;
	}
	report.runs = calloc((size_t)options.rounds * BENCH_MODES, sizeof(*report.runs));
	if (report.runs == NULL) {
		return cli_fail("bench", "out of memory");
	}
	arena_forget_settings();
	bench_catch_signals();
	bench_machine_look(&report.machine, options.directory);
	report_head(&report);
	int rc = run_all(&report, error);
	code = rc == 0     ? print_rest(&report)
		: rc == -2 ? cli_fail("bench", "interrupted")
			   : cli_fail("bench", "%s", error);
	for (unsigned i = 0; i < report.count; i++) {
		free(report.runs[i]);
	}
	free(report.runs);
	return code;
}
