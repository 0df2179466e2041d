/* SPDX-License-Identifier: MIT */

/*
 * A child that dies is started again, at once the first time and then ever later; what it said is
 * forgotten, and nobody is answered "shipped" on the word of a process that is gone.
 */

#include "server/funnel/shipping.h"

#include "server/base/clock.h"
#include "server/base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	RESTART_US = 100 * 1000,
	RESTART_MAX_US = 10 * 1000 * 1000,
	SOUND_US = 60 * 1000 * 1000, /* one that has lived so long was not doomed from the start */
};

struct shipping {
	struct shipping_options options;
	pid_t pid;
	int fd;
	uint64_t started_us;
	uint64_t restart_us;
	struct loop_watch *end;  /* of the child */
	struct loop_watch *news; /* on the board */
	struct loop_timer *restart;
	struct loop_timer *pause_end;
	struct list held;
};

static int watch_child(struct shipping *shipping);

static void start_again(void *ctx)
{
	struct shipping *shipping = ctx;
	int rc =
		shipping->options.start(shipping->options.start_ctx, &shipping->pid, &shipping->fd);
	rc = rc == 0 ? watch_child(shipping) : rc;
	if (rc != 0) {
		log_error("the shipper cannot be started", log_str("error", strerror(-rc)));
		loop_timer_start(shipping->restart, shipping->restart_us);
	}
}

static void child_ended(void *ctx, unsigned ready)
{
	struct shipping *shipping = ctx;
	int status = 0;
	(void)ready;
	loop_watch_free(shipping->end);
	shipping->end = NULL;
	close(shipping->fd);
	shipping->fd = -1;
	/* Its end of the pair is closed; whatever it still is, it is no shipper any more. */
	kill(shipping->pid, SIGKILL);
	while (waitpid(shipping->pid, &status, 0) < 0 && errno == EINTR) {
	}
	shipping->pid = -1;
	board_forget_reports(shipping->options.board);
	uint64_t lived_us = clock_now_us() - shipping->started_us;
	if (lived_us > SOUND_US) {
		shipping->restart_us = RESTART_US;
	}
	log_error("the shipper has ended; writes go on, and it is started again",
		log_int("status",
			WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status)),
		log_uint("in_ms", shipping->restart_us / 1000));
	loop_timer_start(shipping->restart, shipping->restart_us);
	shipping->restart_us = shipping->restart_us * 2 < RESTART_MAX_US ? shipping->restart_us * 2
									 : RESTART_MAX_US;
}

static int watch_child(struct shipping *shipping)
{
	shipping->started_us = clock_now_us();
	shipping->end = loop_watch_new(shipping->options.loop, shipping->fd, child_ended, shipping);
	return shipping->end != NULL ? loop_watch_set(shipping->end, LOOP_READ) : -ENOMEM;
}

/* ---- pause ---- */

static int64_t wall_ms(void)
{
	return (int64_t)(clock_wall_us() / 1000);
}

void shipping_pause(struct shipping *shipping, uint64_t for_ms, const char *by)
{
	struct board *board = shipping->options.board;
	loop_timer_stop(shipping->pause_end);
	if (for_ms > 0) {
		loop_timer_start(shipping->pause_end, for_ms * 1000);
	}
	if (!board_paused(board)) {
		board_pause(board, wall_ms());
	}
	log_warn("shipping is paused: what is committed now is in the spool only",
		log_str("by", by), log_uint("for_ms", for_ms));
}

uint64_t shipping_resume(struct shipping *shipping, const char *by)
{
	struct board *board = shipping->options.board;
	int64_t since_ms = board_paused_ms(board);
	if (since_ms == 0) {
		return 0;
	}
	loop_timer_stop(shipping->pause_end);
	board_pause(board, 0);
	int64_t ms = wall_ms() - since_ms;
	log_info("shipping is resumed", log_str("by", by), log_int("paused_ms", ms));
	return ms > 0 ? (uint64_t)ms : 1;
}

static void pause_is_over(void *ctx)
{
	(void)shipping_resume(ctx, "its own time");
}

/* ---- life ---- */

static void news_arrived(void *ctx, unsigned ready)
{
	struct shipping *shipping = ctx;
	uint64_t count = 0;
	(void)ready;
	ssize_t got = read(board_fds(shipping->options.board).loop, &count, sizeof(count));
	(void)got;
	shipping->options.arrived(shipping->options.ctx);
}

int shipping_new(const struct shipping_options *options, struct shipping **ret_shipping)
{
	struct shipping *shipping = calloc(1, sizeof(*shipping));
	if (shipping == NULL) {
		return -ENOMEM;
	}
	shipping->options = *options;
	shipping->pid = options->pid;
	shipping->fd = options->fd;
	shipping->restart_us = RESTART_US;
	list_init(&shipping->held);
	shipping->restart = loop_timer_new(options->loop, start_again, shipping);
	shipping->pause_end = loop_timer_new(options->loop, pause_is_over, shipping);
	shipping->news = loop_watch_new(
		options->loop, board_fds(options->board).loop, news_arrived, shipping);
	int rc = shipping->restart != NULL && shipping->pause_end != NULL && shipping->news != NULL
		? loop_watch_set(shipping->news, LOOP_READ)
		: -ENOMEM;
	rc = rc == 0 ? watch_child(shipping) : rc;
	*ret_shipping = shipping; /* also on failure: it has taken over the process */
	return rc;
}

void shipping_free(struct shipping *shipping)
{
	if (shipping == NULL) {
		return;
	}
	list_for_each_safe(node, &shipping->held) {
		list_remove(node);
		request_free(container_of(node, struct request, node));
	}
	loop_watch_free(shipping->end);
	loop_watch_free(shipping->news);
	loop_timer_free(shipping->restart);
	loop_timer_free(shipping->pause_end);
	if (shipping->fd >= 0) {
		close(shipping->fd);
	}
	free(shipping);
}

pid_t shipping_release(struct shipping *shipping, int *ret_fd)
{
	pid_t pid = shipping->pid;
	*ret_fd = shipping->fd;
	loop_watch_free(shipping->end);
	shipping->end = NULL;
	shipping->fd = -1;
	shipping->pid = -1;
	return pid;
}

uint64_t shipping_commit(const struct shipping *shipping, bool all)
{
	uint64_t least = UINT64_MAX;
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		struct replica_report report = board_replica_report(shipping->options.board, i);
		if (report.url[0] != 0 && (all || report.acks)) {
			least = report.commit_no < least ? report.commit_no : least;
		}
	}
	return least != UINT64_MAX ? least : 0;
}

void shipping_hold(struct shipping *shipping, struct request *request)
{
	board_want_shipped(shipping->options.board, request->commit_no);
	board_wake_shipper(shipping->options.board);
	list_push_back(&shipping->held, &request->node);
}

bool shipping_holds(const struct shipping *shipping)
{
	return !list_empty(&shipping->held);
}

void shipping_collect(struct shipping *shipping, uint64_t now_us, bool all,
	struct list *ret_shipped, struct list *ret_late)
{
	if (list_empty(&shipping->held)) {
		return;
	}
	uint64_t acked = shipping_commit(shipping, false);
	uint64_t everywhere = shipping_commit(shipping, true);
	list_for_each_safe(node, &shipping->held) {
		struct request *request = container_of(node, struct request, node);
		bool there =
			request->commit_no <= (request->ack == ACK_EVERYWHERE ? everywhere : acked);
		if (there || all || now_us >= request->deadline_us) {
			list_remove(node);
			list_push_back(there ? ret_shipped : ret_late, node);
		}
	}
}
