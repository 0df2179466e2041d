/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The file of records that were not taken, a JSON object a line: line, error, record. And which of them
 * may be met again when a part of the input is read anew.
 */

#include "server/cli/records.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct rejects {
	FILE *file; /* NULL: there is none */
	uint64_t *skipped;
	size_t skipped_count;
	size_t skipped_cap;
};

enum { REJECTS_OTHER = 1 }; /* the file holds something else, and is left as it is */

/*
 * Opens the file, or makes it. Lines that speak of records from where the input stands are of a run that
 * did not commit them, and are cut off. 0, REJECTS_OTHER or negative errno.
 */
int rejects_open(struct rejects *rejects, const char *path, const struct records *records);
void rejects_close(struct rejects *rejects); /* also one that is all zero */

/* 0 or negative errno. */
int rejects_write(
	struct rejects *rejects, uint64_t line, const char *why, const char *raw, size_t raw_len);

/* The record of that line is in the file, and not to be sent when it is met again. 0 or -ENOMEM. */
int rejects_skip(struct rejects *rejects, uint64_t line);
bool rejects_skips(const struct rejects *rejects, uint64_t line);
void rejects_forget_before(struct rejects *rejects, uint64_t line); /* those are not met again */
