/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who has how many of what is bounded for all: so that one user, whose programs go wrong or mean
 * ill, does not take the last of it from everybody else.
 *
 * Users are few, so they stand in an array; and they stay, with 0, so that to take a change back
 * never asks for memory.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shares {
	struct share {
		uint32_t uid;
		uint64_t count;
	} * users;
	size_t users_count;
	size_t users_cap;
	uint64_t total;
};

void shares_finish(struct shares *shares);

/* So many more of this user's, or fewer. 0, or -ENOMEM for a user who never had any. */
int shares_add(struct shares *shares, uint32_t uid, int64_t more);

/*
 * Whether this user may have another, of so many in all. The last quarter is for users who have less
 * than a sixteenth; a limit below SHARES_MIN is everybody's to the last.
 */
enum { SHARES_MIN = 64 };
bool shares_have_room(const struct shares *shares, uint32_t uid, uint64_t max);
