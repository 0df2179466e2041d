/* SPDX-License-Identifier: MIT */

/*
 * Connections counted by user. This file only says who must go; what keeps two users from pushing
 * each other out for ever is that nobody is displaced by a user who then has as many as he.
 */

#include "server/funnel/seats.h"

#include "server/funnel/peer.h"

#include <errno.h>
#include <stdlib.h>

struct seats_user {
	struct list node;  /* seats::users */
	struct list peers; /* by peer::seat, the oldest first */
	uid_t uid;
	size_t count;
};

void seats_init(struct seats *seats)
{
	list_init(&seats->users);
	seats->taken = 0;
}

static struct seats_user *find_user(const struct seats *seats, uid_t uid)
{
	list_for_each(node, &((struct seats *)(uintptr_t)seats)->users) {
		struct seats_user *user = container_of(node, struct seats_user, node);
		if (user->uid == uid) {
			return user;
		}
	}
	return NULL;
}

int seats_take(struct seats *seats, struct peer *peer)
{
	struct seats_user *user = find_user(seats, peer->credentials->uid);
	if (user == NULL) {
		user = calloc(1, sizeof(*user));
		if (user == NULL) {
			return -ENOMEM;
		}
		user->uid = peer->credentials->uid;
		list_init(&user->peers);
		list_push_back(&seats->users, &user->node);
	}
	list_push_back(&user->peers, &peer->seat);
	user->count++;
	seats->taken++;
	return 0;
}

void seats_leave(struct seats *seats, struct peer *peer)
{
	if (list_empty(&peer->seat)) {
		return;
	}
	struct seats_user *user = find_user(seats, peer->credentials->uid);
	list_remove(&peer->seat);
	seats->taken--;
	if (--user->count == 0) {
		list_remove(&user->node);
		free(user);
	}
}

static struct seats_user *user_with_most(const struct seats *seats)
{
	struct seats_user *most = NULL;
	list_for_each(node, &((struct seats *)(uintptr_t)seats)->users) {
		struct seats_user *user = container_of(node, struct seats_user, node);
		if (most == NULL || user->count > most->count) {
			most = user;
		}
	}
	return most;
}

static bool is_idle(const struct peer *peer)
{
	return peer->in_flight_count == 0 && list_empty(&peer->leases) &&
		peer_out_pending(peer) == 0;
}

/* The newest that is closing already, else the newest that is idle, or NULL. */
static struct peer *least_missed(const struct seats_user *user, const struct peer *but)
{
	struct peer *idle = NULL;
	for (struct list *node = user->peers.prev; node != &user->peers; node = node->prev) {
		struct peer *peer = container_of(node, struct peer, seat);
		if (peer->state == PEER_CLOSING) {
			return peer;
		}
		if (idle == NULL && peer != but && is_idle(peer)) {
			idle = peer;
		}
	}
	return idle;
}

struct peer *seats_one_too_many(
	const struct seats *seats, struct peer *newcomer, size_t max, size_t reserved)
{
	bool admin = newcomer->credentials->role == ROLE_ADMIN;
	if (seats->taken <= max || (admin && seats->taken <= max + reserved)) {
		return NULL;
	}
	const struct seats_user *own = find_user(seats, newcomer->credentials->uid);
	const struct seats_user *most = user_with_most(seats);
	struct peer *leaver = NULL;
	if (most->count > own->count) {
		leaver = least_missed(most, NULL);
		return leaver != NULL ? leaver : container_of(most->peers.prev, struct peer, seat);
	}
	if (admin && reserved > 0) {
		leaver = least_missed(own, newcomer);
	}
	return leaver != NULL ? leaver : newcomer;
}
