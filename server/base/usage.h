/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a replica has been asked, today and this month, for the bill: a small file in the spool's
 * directory for each replica, to which every process of the daemon adds. It survives the death of any of
 * them; after a power loss it may tell a little less.
 *
 * Days and months are those of UTC.
 */

#include <stddef.h>
#include <stdint.h>

enum usage_kind { USAGE_PUT, USAGE_GET, USAGE_LIST, USAGE_DELETE, USAGE_KINDS };

struct usage_counts {
	uint64_t requests[USAGE_KINDS]; /* retries included; a question for one file is a GET */
	uint64_t bytes_sent;
	uint64_t bytes_received;
};

struct usage {
	struct usage_counts today;
	struct usage_counts month;
};

struct usage_meter;

/* The URL as people see it, without secrets: it is the name. One thread's. 0 or negative errno. */
int usage_meter_open(const char *spool, const char *url, struct usage_meter **ret_meter);
void usage_meter_close(struct usage_meter *meter); /* accepts NULL */

/* Adds. -EAGAIN: another process has it in hand for longer than is worth waiting; try it later. */
int usage_meter_add(struct usage_meter *meter, const struct usage_counts *counts, int64_t now_ms);

/* What has been counted up to now; never waits. Zeros if nothing was. */
struct usage usage_read(const char *spool, const char *url, int64_t now_ms);
