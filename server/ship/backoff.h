/* SPDX-License-Identifier: MIT */
#pragma once

/* How long to wait before something that failed is tried again. */

#include <stdint.h>

/*
 * Full jitter: anything from nothing to a bound, which is `first_ms` after the first failure in a row
 * (failures = 0), doubles with each, and is never above `max_ms`. Any thread.
 */
uint64_t backoff_ms(unsigned failures, uint64_t first_ms, uint64_t max_ms);
