/* SPDX-License-Identifier: MIT */

/* What may be asked of the funnel, without changing it: for `show` and `status`. */

#include "server/funnel/conduct.h"
#include "server/funnel/lease.h"

struct funnel_facts funnel_facts(struct funnel *funnel)
{
	return (struct funnel_facts){
		.state = funnel->state,
		.db = funnel->options->db,
		.socket = funnel->options->socket,
		.epoch = funnel->epoch,
		.page_size = funnel->page_size,
		.encoding = funnel->encoding,
		.sync_full = funnel->sync_full,
		.started_us = funnel->started_us,
		.started_wall_us = funnel->started_wall_us,
		.connections = funnel->connections,
		.refused = funnel->refused,
		.displaced = funnel->displaced,
		.peers = funnel->seats.taken,
		.queue = queue_facts(funnel->queue),
		.writer = writer_stats(funnel->writer),
		.dedupe = dedupe_stats(funnel->dedupe),
		.board = funnel->options->board,
		.spool = funnel->options->spool,
		.gate = funnel->gate != NULL ? gate_stats(funnel->gate) : (struct gate_stats){0},
		.drills = funnel->drills != NULL ? drill_desk_facts(funnel->drills)
						 : (struct drill_facts){0},
		.pause_until_us = funnel->pause_until_us,
		.pause_by = funnel->pause_by,
		.pause_holder = &funnel->pause_holder,
	};
}

const struct request *funnel_running(struct funnel *funnel, uint64_t *ret_since_us)
{
	return queue_running(funnel->queue, ret_since_us);
}

void funnel_each_waiting(
	struct funnel *funnel, void (*fn)(void *ctx, struct request *request), void *ctx)
{
	queue_each(funnel->queue, fn, ctx);
}

uint64_t funnel_wal_age(struct funnel *funnel, uint64_t frame)
{
	return writer_wal_age(funnel->writer, frame);
}

struct gate_arrears funnel_arrears(struct funnel *funnel, const struct replica_report *report)
{
	return gate_arrears(funnel->gate, report);
}

const struct config *funnel_config(const struct funnel *funnel)
{
	return funnel->options->config;
}

void funnel_each_peer(
	struct funnel *funnel, void (*fn)(void *ctx, const struct peer *peer), void *ctx)
{
	list_for_each(node, &funnel->peers) {
		fn(ctx, container_of(node, struct peer, node));
	}
}

void funnel_each_lease(struct funnel *funnel, void (*fn)(void *ctx, struct lease *lease), void *ctx)
{
	list_for_each(node, &funnel->peers) {
		struct peer *peer = container_of(node, struct peer, node);
		list_for_each(at, &peer->leases) {
			fn(ctx, container_of(at, struct lease, node));
		}
	}
}

void funnel_each_chunk(
	struct funnel *funnel, void (*fn)(void *ctx, const struct chunk_view *view), void *ctx)
{
	chunk_desk_each(funnel->chunks, fn, ctx);
}

void funnel_each_drill(
	struct funnel *funnel, void (*fn)(void *ctx, const struct drill_record *record), void *ctx)
{
	if (funnel->drills != NULL) {
		drill_desk_each(funnel->drills, fn, ctx);
	}
}
