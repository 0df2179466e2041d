/* SPDX-License-Identifier: MIT */

/*
 * The end of the daemon: the drain, in which all that was taken is answered; the closing, in which the
 * last bytes are read; and how long either may take. No answer of what was committed is left behind.
 */

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/funnel/conduct.h"
#include "server/funnel/listener.h"

enum { CLOSING_US = 1000 * 1000 }; /* without a byte that was taken: nobody reads */

static uint64_t drain_limit_us(const struct funnel *funnel)
{
	return config_number(funnel->options->config, SETTING_DRAIN_TIMEOUT) * 1000;
}

/* Bytes of answers that no client has taken yet. */
static size_t unsent(const struct funnel *funnel)
{
	size_t bytes = 0;
	list_for_each(node, &((struct funnel *)(uintptr_t)funnel)->peers) {
		bytes += peer_out_pending(container_of(node, struct peer, node));
	}
	return bytes;
}

/* Whatever still waits is refused; everybody is told; the last bytes get a moment. */
static void close_all(struct funnel *funnel)
{
	struct list waiting;
	list_init(&waiting);
	funnel_collect(funnel); /* nobody's answer is left behind */
	funnel_release_shipped(funnel, true);
	funnel_move(funnel, FUNNEL_CLOSING);
	/* What waits is refused first: the turn of a lease that ends would be theirs. */
	list_for_each(node, &funnel->peers) {
		leases_refuse_waiting(container_of(node, struct peer, node));
	}
	list_for_each(node, &funnel->peers) {
		leases_abandon(container_of(node, struct peer, node));
	}
	queue_stop(funnel->queue, &waiting);
	funnel_refuse_all(funnel, &waiting, FAILURE_SHUTTING_DOWN, "the daemon is shutting down");
	list_for_each_safe(node, &funnel->peers) {
		struct peer *peer = container_of(node, struct peer, node);
		peer_close(peer, FAILURE_SHUTTING_DOWN, "the daemon is shutting down");
	}
	funnel->closing_until_us = clock_now_us() + drain_limit_us(funnel);
	funnel->unsent = unsent(funnel);
	loop_timer_start(funnel->limit, CLOSING_US);
}

void funnel_check_drained(struct funnel *funnel)
{
	struct queue_facts facts = queue_facts(funnel->queue);
	/* What waits for the end of a pause is not begun behind the back of whoever asked for it. */
	bool none_begins = facts.count == 0 || facts.held_us != 0;
	if (funnel->state == FUNNEL_DRAINING && none_begins && facts.taken == 0 &&
		!facts.answered &&
		(funnel->shipping == NULL || !shipping_holds(funnel->shipping))) {
		funnel->drained = true;
		close_all(funnel);
	}
}

void funnel_drain(struct funnel *funnel)
{
	if (funnel->state != FUNNEL_RUNNING) {
		return;
	}
	funnel_move(funnel, FUNNEL_DRAINING);
	funnel->options->notify(funnel->options->ctx, "stopping");
	if (funnel->options->listen_inherited) {
		listener_pause(funnel->listener); /* who comes now waits for the next daemon */
	} else {
		listener_free(funnel->listener); /* … or is refused at once, and tries again */
		funnel->listener = NULL;
	}
	queue_close(funnel->queue);
	chunk_desk_close(funnel->chunks);
	if (funnel->drills != NULL) {
		drill_desk_close(funnel->drills);
	}
	funnel_flush(funnel);
	loop_timer_start(funnel->limit, drain_limit_us(funnel));
	/* Not funnel_check_drained() at once: whoever asked gets its answer first. */
	loop_wake(funnel->loop);
}

void funnel_limit_passed(void *ctx)
{
	struct funnel *funnel = ctx;
	if (funnel->state == FUNNEL_DRAINING) {
		log_warn("the drain ran out of time", log_str("setting", "drain_timeout"));
		close_all(funnel);
		funnel_settle(funnel);
		return;
	}
	size_t left = unsent(funnel);
	if (left < funnel->unsent && clock_now_us() < funnel->closing_until_us) {
		funnel->unsent = left; /* somebody still reads what was done for him */
		loop_timer_start(funnel->limit, CLOSING_US);
	} else {
		loop_stop(funnel->loop);
	}
}

void funnel_terminate(void *ctx)
{
	struct funnel *funnel = ctx;
	if (funnel->state == FUNNEL_RUNNING) {
		funnel_drain(funnel);
	} else if (funnel->state == FUNNEL_DRAINING) {
		log_warn("second signal: not waiting for what is queued",
			log_str("db", funnel->options->db));
		close_all(funnel);
		funnel_settle(funnel);
	} else {
		loop_stop(funnel->loop);
	}
}
