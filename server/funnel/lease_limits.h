/* SPDX-License-Identifier: MIT */
#pragma once

/* How long a lease may be held: by its class and label, and by who holds it. */

#include "server/funnel/credentials.h"
#include "server/funnel/request.h"

enum { LEASE_LIMITS_TOLD_BYTES = 160 };

struct lease_limits {
	uint64_t idle_us;
	uint64_t total_us;
	bool listed; /* they stand in `lease_limits` */
};

/*
 * The first entry of the setting `lease_limits` that matches; else lease_idle and lease_total. The loop's.
 * `label` is that of the lease.
 */
struct lease_limits lease_limits(const struct credentials *credentials, const char *label,
	enum request_class class, const struct config *config);

/* What whoever comes behind them is told; returns `text`. */
const char *lease_limits_told(
	const struct lease_limits *limits, char text[LEASE_LIMITS_TOLD_BYTES]);
