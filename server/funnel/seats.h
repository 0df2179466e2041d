/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who may stay connected when there is no room for all. As long as there is, everybody may, and one
 * user may have everything. Then a user who has fewer connections than another gets one of that
 * one's: with n users each can have an n-th, whatever the others do. Administrators have a few seats
 * more, to look at a daemon that is full of their own connections.
 *
 * Everything belongs to the loop's thread.
 */

#include "server/base/list.h"

#include <stddef.h>

struct peer;

struct seats {
	struct list users; /* struct seats_user, of who is connected */
	size_t taken;
};

void seats_init(struct seats *seats);

/* 0, or -ENOMEM and the peer has no seat. */
int seats_take(struct seats *seats, struct peer *peer);
void seats_leave(struct seats *seats, struct peer *peer); /* harmless if it has none */

/*
 * Who must go now that `newcomer` has taken its seat: nobody (NULL), the newcomer itself, or one whom
 * it displaces. Of a user the newest goes first whom it costs nothing.
 */
struct peer *seats_one_too_many(
	const struct seats *seats, struct peer *newcomer, size_t max, size_t reserved);
