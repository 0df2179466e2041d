/* SPDX-License-Identifier: MIT */
#pragma once

/* How far a stream of batches came, and how to go on with the rest of it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TALLY_RUNS_MAX = 16 };

/* Line numbers, as runs; those beyond the first so many are only counted. */
struct tally_lines {
	struct {
		uint64_t first;
		uint64_t last;
	} runs[TALLY_RUNS_MAX];
	size_t count;
	uint64_t more;
};

struct tally {
	uint64_t applied;
	uint64_t failed;
	uint64_t partly; /* of those that failed: some of their rows are applied */
	uint64_t unknown;
	uint64_t unshipped; /* of those that were applied */
	uint64_t lines;     /* of the input, that were looked at */
	uint64_t not_begun; /* the first such line, 0: none */
	struct tally_lines failed_lines;
	struct tally_lines unknown_lines;
	struct tally_lines unshipped_lines;
	struct tally_lines beyond; /* applied behind `not_begun` */
	int first_code;            /* exit code of the first failure */
	int input_error;           /* negative errno, or 0 */
	bool output_error;
	bool interrupted;
	bool ended; /* the input did: nothing is left of it */
};

/* In the order of lines. */
void tally_add_applied(struct tally *tally, uint64_t line);
void tally_add_unshipped(struct tally *tally, uint64_t line); /* applied, and that */
void tally_add_failed(struct tally *tally, uint64_t line, int code);
void tally_add_partly(struct tally *tally, uint64_t line);
void tally_add_unknown(struct tally *tally, uint64_t line);
void tally_add_not_begun(struct tally *tally, uint64_t line);

/*
 * Says it: if all is well on stdout (nothing with `json`), else on stderr. Returns the exit code.
 */
int tally_end(const struct tally *tally, const char *db, bool json);
