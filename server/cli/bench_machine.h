/* SPDX-License-Identifier: MIT */
#pragma once

/* What a figure was measured on: without it, it says little. */

struct bench_machine {
	unsigned cores;
	double memory_gib;
	char kernel[160];
	char processor[128];
	char filesystem[32]; /* of the databases */
	double sync_us;      /* one page overwritten and fdatasync: the median */
	double load;         /* of the last minute, before we began */
};

void bench_machine_look(struct bench_machine *machine, const char *directory);
