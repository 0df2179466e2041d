/* SPDX-License-Identifier: MIT */

/* Counts by user. It knows neither what is counted nor how long it lives. */

#include "server/store/shares.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

void shares_finish(struct shares *shares)
{
	free(shares->users);
	*shares = (struct shares){0};
}

static struct share *find(const struct shares *shares, uint32_t uid)
{
	for (size_t i = 0; i < shares->users_count; i++) {
		if (shares->users[i].uid == uid) {
			return &shares->users[i];
		}
	}
	return NULL;
}

int shares_add(struct shares *shares, uint32_t uid, int64_t more)
{
	struct share *share = find(shares, uid);
	if (share == NULL && shares->users_count == shares->users_cap) {
		size_t cap = shares->users_cap == 0 ? 4 : shares->users_cap * 2;
		struct share *users = reallocarray(shares->users, cap, sizeof(*users));
		if (users == NULL) {
			return -ENOMEM;
		}
		shares->users = users;
		shares->users_cap = cap;
	}
	if (share == NULL) {
		share = &shares->users[shares->users_count++];
		*share = (struct share){.uid = uid};
	}
	assert(more >= 0 || share->count >= (uint64_t)-more);
	share->count += (uint64_t)more;
	shares->total += (uint64_t)more;
	return 0;
}

bool shares_have_room(const struct shares *shares, uint32_t uid, uint64_t max)
{
	if (shares->total >= max) {
		return false;
	}
	const struct share *share = find(shares, uid);
	uint64_t own = share != NULL ? share->count : 0;
	return max < SHARES_MIN || shares->total < max - max / 4 || own < max / 16;
}
