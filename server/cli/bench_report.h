/* SPDX-License-Identifier: MIT */
#pragma once

/* What was measured, for people and as JSON. */

#include "server/cli/bench_machine.h"
#include "server/cli/bench_run.h"

struct report {
	const struct bench_options *options;
	struct bench_machine machine;
	struct bench_run **runs; /* in the order in which they ran */
	unsigned count;
};

/* The head, before the first run; then each run when it has ended; nothing with --json. */
void report_head(const struct report *report);
void report_run(const struct report *report, const struct bench_run *run);

/* With --compare: medians and ratios. */
void report_compare(const struct report *report);

/* One object. 0 or -ENOMEM. */
int report_json(const struct report *report);

/* The middle of `count` values, with the least and the most of them; sorts them. */
struct spread {
	double median;
	double min;
	double max;
};
struct spread spread_of(double *values, unsigned count);

/* How many times as many rows a second: mode against base, round by round. False: one is missing. */
bool report_ratio(const struct report *report, enum bench_mode mode, enum bench_mode base,
	struct spread *ret_ratio);
