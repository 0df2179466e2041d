/* SPDX-License-Identifier: MIT */
#pragma once

/* Batches from stdin, a line each, many on the way at once. */

#include "server/cli/connect.h"

enum { LINES_IN_FLIGHT = 256, LINES_IN_FLIGHT_MAX = 1000 };

struct lines_options {
	const struct connect *connect;
	unsigned in_flight;
	bool json;
	bool keep_going; /* past failures */
	bool ack_shipped;
};

/* Writes them all. An exit code; what to say is said. */
int lines_run(const struct lines_options *options);
