/* SPDX-License-Identifier: MIT */

/*
 * The buckets: values below 128 have one each; above, each doubling is divided into 128. Knows
 * nothing of what is measured.
 */

#include "server/cli/bench_histogram.h"

#include <math.h>
#include <string.h>

#define SUB_COUNT (UINT64_C(1) << HISTOGRAM_SUB_BITS)
#define TOP_NS    ((UINT64_C(1) << HISTOGRAM_TOP_BITS) - 1)

/* One process adds, so loading and storing apart is enough, and costs no locked instruction. */
static void raise_by(_Atomic uint64_t *counter, uint64_t by)
{
	uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, now + by, memory_order_relaxed);
}

static uint64_t value_of(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static unsigned bucket_of(uint64_t ns)
{
	if (ns < SUB_COUNT) {
		return (unsigned)ns;
	}
	unsigned top_bit = 63u - (unsigned)__builtin_clzll(ns);
	unsigned shift = top_bit - HISTOGRAM_SUB_BITS;
	return ((shift + 1) << HISTOGRAM_SUB_BITS) + (unsigned)((ns >> shift) - SUB_COUNT);
}

static uint64_t highest_of(unsigned bucket)
{
	if (bucket < SUB_COUNT) {
		return bucket;
	}
	unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
	uint64_t sub = bucket & (SUB_COUNT - 1);
	return ((SUB_COUNT + sub + 1) << shift) - 1;
}

void histogram_init(struct histogram *histogram)
{
	memset(histogram, 0, sizeof(*histogram));
	atomic_store_explicit(&histogram->min_ns, UINT64_MAX, memory_order_relaxed);
}

static void widen(struct histogram *histogram, uint64_t min_ns, uint64_t max_ns)
{
	if (min_ns < value_of(&histogram->min_ns)) {
		atomic_store_explicit(&histogram->min_ns, min_ns, memory_order_relaxed);
	}
	if (max_ns > value_of(&histogram->max_ns)) {
		atomic_store_explicit(&histogram->max_ns, max_ns, memory_order_relaxed);
	}
}

void histogram_add(struct histogram *histogram, uint64_t ns)
{
	raise_by(&histogram->buckets[bucket_of(ns < TOP_NS ? ns : TOP_NS)], 1);
	raise_by(&histogram->sum_ns, ns);
	raise_by(&histogram->count, 1);
	widen(histogram, ns, ns);
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		raise_by(&into->buckets[i], value_of(&from->buckets[i]));
	}
	raise_by(&into->sum_ns, value_of(&from->sum_ns));
	raise_by(&into->count, value_of(&from->count));
	widen(into, value_of(&from->min_ns), value_of(&from->max_ns));
}

uint64_t histogram_quantile_ns(const struct histogram *histogram, double part)
{
	uint64_t max_ns = value_of(&histogram->max_ns);
	uint64_t wanted = (uint64_t)ceil(part * (double)value_of(&histogram->count));
	uint64_t seen = 0;
	wanted = wanted > 0 ? wanted : 1;
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += value_of(&histogram->buckets[i]);
		if (seen >= wanted) {
			uint64_t highest = highest_of(i);
			return highest < max_ns ? highest : max_ns;
		}
	}
	return max_ns;
}

uint64_t histogram_mean_ns(const struct histogram *histogram)
{
	uint64_t count = value_of(&histogram->count);
	return count > 0 ? value_of(&histogram->sum_ns) / count : 0;
}
