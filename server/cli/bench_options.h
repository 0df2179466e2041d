/* SPDX-License-Identifier: MIT */
#pragma once

/* The load that `litefunnel bench` is asked for. */

#include <stdbool.h>
#include <stdint.h>

enum bench_mode {
	BENCH_FUNNEL,
	BENCH_FUNNEL_NO_KEYS, /* without exactly-once */
	BENCH_DIRECT,
	BENCH_RAW,
	BENCH_MODES,
};

enum bench_workload {
	WORKLOAD_INSERT,
	WORKLOAD_UPDATE,
	WORKLOAD_UPSERT,
	WORKLOAD_TPCB,
	WORKLOAD_JOBS,
	WORKLOAD_MIXED,
	WORKLOADS,
};

enum { BENCH_SETTINGS_MAX = 32 };

struct bench_options {
	bool modes[BENCH_MODES];
	enum bench_workload workload;
	unsigned writers;
	unsigned readers;
	unsigned depth;
	unsigned rows;
	unsigned row_bytes;
	uint64_t table_rows;
	double rate; /* requests a second of all writers; 0: as many as they can */
	double seconds;
	double warmup_seconds;
	unsigned rounds;
	bool bulk;
	bool sync_full;
	bool compare;
	bool json;
	bool progress;
	const char *directory;                    /* fresh databases are made below it */
	const char *settings[BENCH_SETTINGS_MAX]; /* of the daemon, as name=value */
	unsigned settings_count;
};

/* -1: go on. Otherwise the exit code; said so, on stderr or as help. */
int bench_options_parse(struct bench_options *bench, int argc, char **argv);

const char *bench_mode_name(enum bench_mode mode);
const char *bench_workload_name(enum bench_workload workload);
