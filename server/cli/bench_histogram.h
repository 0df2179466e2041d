/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How long things took, in nanoseconds: log-linear buckets, as HDR histograms have them. A value is
 * known to within 1/128 of itself, from 1 ns to 9 minutes; longer counts as the longest. The
 * smallest and the largest value, the sum and the number are exact.
 *
 * It has a fixed size and no pointers, so that it may lie in memory that processes share. One of
 * them adds; the others may read meanwhile and see a moment of it.
 */

#include <stdatomic.h>
#include <stdint.h>

enum {
	HISTOGRAM_SUB_BITS = 7, /* 128 buckets for each doubling */
	HISTOGRAM_TOP_BITS = 39,
	HISTOGRAM_BUCKETS = (HISTOGRAM_TOP_BITS - HISTOGRAM_SUB_BITS + 1) << HISTOGRAM_SUB_BITS,
};

struct histogram {
	_Atomic uint64_t count;
	_Atomic uint64_t sum_ns;
	_Atomic uint64_t min_ns; /* UINT64_MAX: empty */
	_Atomic uint64_t max_ns;
	_Atomic uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_init(struct histogram *histogram);
void histogram_add(struct histogram *histogram, uint64_t ns);
void histogram_merge(struct histogram *into, const struct histogram *from);

/*
 * The value below or at which `part` (0.0 to 1.0) of all values lie: the upper end of a bucket, but
 * never above the largest value. 0 if there are none.
 */
uint64_t histogram_quantile_ns(const struct histogram *histogram, double part);
uint64_t histogram_mean_ns(const struct histogram *histogram);
