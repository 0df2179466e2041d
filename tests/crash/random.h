/* SPDX-License-Identifier: MIT */
#pragma once

/* Numbers that follow from a seed (splitmix64), so that every run can be had again. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *random)
{
	uint64_t z = random->state += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline void random_seed(struct random *random, uint64_t seed)
{
	random->state = seed;
	random->state = random_next(random);
}

/* A seed of its own for the `index`-th part of something with that seed. */
static inline uint64_t random_part(uint64_t seed, uint64_t index)
{
	struct random random = {seed ^ (index + 1) * 0xd1342543de82ef95u};
	return random_next(&random);
}

/* 0 <= result < bound */
static inline uint32_t random_below(struct random *random, uint32_t bound)
{
	return (uint32_t)((random_next(random) >> 32) * bound >> 32);
}

static inline bool random_chance(struct random *random, uint32_t percent)
{
	return random_below(random, 100) < percent;
}

static inline void random_bytes(struct random *random, void *to, size_t len)
{
	uint8_t *at = to;
	while (len > 0) {
		uint64_t word = random_next(random);
		size_t part = len < sizeof(word) ? len : sizeof(word);
		memcpy(at, &word, part);
		at += part;
		len -= part;
	}
}
