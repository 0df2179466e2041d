/* SPDX-License-Identifier: MIT */

/* One search for the worst, by bytes times time, until all together are within their bound. */

#include "server/funnel/hoard.h"

#include "server/base/clock.h"
#include "server/base/log.h"

enum {
	UNREAD_MAX = 64 * 1024 * 1024,     /* of one connection, at which it is given up */
	UNREAD_ALL_MAX = 64 * 1024 * 1024, /* of all together, at which the worst of them is */
	UNREAD_LOOK = 4 * 1024 * 1024,
	BEGUN_ALL_MAX = 256 * 1024 * 1024, /* bytes of requests that are not whole; … */
	FRAMES_MIN = 4,                    /* … so many of the largest always */
	JUST_BEGUN_US = 20 * 1000,         /* what came this moment has been there for that long */
};

/* What a peer holds, and since when; 0: it does not hold it, or takes it back as it can. */
struct held {
	size_t bytes;
	uint64_t for_us;
};

typedef struct held held_by(const struct peer *peer, uint64_t now_us);

static struct held unread(const struct peer *peer, uint64_t now_us)
{
	uint64_t since_us = peer->stalled_since_us;
	bool stalls = since_us != 0 && now_us >= since_us;
	return (struct held){peer_out_pending(peer), stalls ? now_us - since_us + 1 : 0};
}

static struct held begun(const struct peer *peer, uint64_t now_us)
{
	size_t bytes = peer->state < PEER_CLOSING ? peer_begun(peer) : 0;
	return (struct held){bytes, bytes > 0 ? now_us - peer->frame_since_us + JUST_BEGUN_US : 0};
}

/* Who holds most for longest, if all together are beyond the bound; or NULL. */
static struct peer *find_worst(struct funnel *funnel, held_by *by, uint64_t now_us, uint64_t max)
{
	struct peer *worst = NULL;
	double most = 0;
	uint64_t all = 0;
	list_for_each(node, &funnel->peers) {
		struct peer *peer = container_of(node, struct peer, node);
		struct held held = by(peer, now_us);
		double much = (double)held.bytes * (double)held.for_us;
		all += held.bytes;
		if (much > most) {
			worst = peer;
			most = much;
		}
	}
	return all > max ? worst : NULL;
}

void hoard_give_up(struct peer *peer)
{
	log_warn("client does not read: closed", log_int("pid", peer->credentials->pid),
		log_str("who", peer->credentials->text),
		log_uint("unread", peer_out_pending(peer)));
	peer_move(peer, PEER_CLOSED);
}

bool hoard_is_too_much(const struct peer *peer)
{
	return peer_out_pending(peer) > UNREAD_MAX;
}

void hoard_bound_unread(struct funnel *funnel)
{
	struct peer *worst = NULL;
	uint64_t now_us = clock_now_us();
	if (funnel->delivered < UNREAD_LOOK) {
		return;
	}
	funnel->delivered = 0;
	while ((worst = find_worst(funnel, unread, now_us, UNREAD_ALL_MAX)) != NULL) {
		hoard_give_up(worst);
	}
}

void hoard_bound_begun(struct funnel *funnel, uint64_t now_us)
{
	struct peer *worst = NULL;
	uint64_t max = FRAMES_MIN * config_number(funnel->options->config, SETTING_FRAME_BYTES_MAX);
	max = max > BEGUN_ALL_MAX ? max : BEGUN_ALL_MAX;
	while ((worst = find_worst(funnel, begun, now_us, max)) != NULL) {
		log_warn("too much is sent that is not whole: closed",
			log_int("pid", worst->credentials->pid),
			log_str("who", worst->credentials->text),
			log_uint("begun", peer_begun(worst)));
		peer_close(worst, FAILURE_OVERLOADED,
			"too much is on its way to the daemon that is not whole: try again later");
		/* Whoever reads no answers either would keep it until the stall is over. */
		if (worst->state != PEER_CLOSED) {
			peer_move(worst, PEER_CLOSED);
		}
	}
}
