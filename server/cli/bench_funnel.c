/* SPDX-License-Identifier: MIT */

/*
 * The client library, as an application uses it that keeps some requests in flight: submit, let it
 * move bytes, take answers as they come.
 */

#include "server/cli/bench_target.h"

#include "client/litefunnel.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IMPORT_DEPTH = 8 };

struct flight {
	uint64_t ticket;
	uint64_t start_ns;
	enum bench_kind kind;
	unsigned rows;
};

struct target {
	lf_db *db;
	lf_batch *batch;
	char *text;
	unsigned text_bytes;
	struct flight *flights; /* in the order of submission */
	size_t count;
};

static unsigned funnel_depth(const struct bench_options *options, bool import)
{
	return import ? IMPORT_DEPTH : options->depth;
}

static void funnel_close(struct target *target)
{
	if (target == NULL) {
		return;
	}
	lf_batch_free(target->batch);
	lf_close(target->db);
	free(target->text);
	free(target->flights);
	free(target);
}

static int funnel_open(const struct bench_options *options, enum bench_mode mode, const char *db,
	bool import, struct target **ret_target, char *ret_error)
{
	struct lf_options how = LF_OPTIONS_INIT;
	struct target *target = calloc(1, sizeof(*target));
	if (target == NULL) {
		return -ENOMEM;
	}
	how.client = "litefunnel-bench/" LITEFUNNEL_VERSION;
	how.label = import ? "import" : "bench";
	how.request_class = import ? "bulk" : options->bulk ? "interactive" : NULL;
	how.no_retry = mode == BENCH_FUNNEL_NO_KEYS;
	target->text_bytes = options->row_bytes;
	target->text = malloc(options->row_bytes + 1);
	target->flights = calloc(funnel_depth(options, import), sizeof(*target->flights));
	target->batch = lf_batch_new();
	int rc = target->text == NULL || target->flights == NULL || target->batch == NULL
		? -ENOMEM
		: lf_open(db, &how, &target->db);
	rc = rc == 0 ? lf_ping(target->db, NULL) : rc;
	if (rc != 0) {
		snprintf(ret_error, TARGET_ERROR_BYTES, "%s: %s", db,
			rc == -ENAMETOOLONG
				? "the socket's path is longer than 107 bytes: use a shorter --db"
				: "no connection to the daemon");
		funnel_close(target);
		return -EIO;
	}
	memset(target->text, 'f', options->row_bytes);
	*ret_target = target;
	return 0;
}

/* ---- submitting ---- */

static void bind_act(struct target *target, const struct act *act)
{
	for (unsigned i = 0; i < act->values_count; i++) {
		lf_bind_int64(target->batch, act->values[i]);
	}
	if (act->text) {
		lf_bind_text(target->batch, target->text, (ssize_t)target->text_bytes);
	}
}

/* Acts of one statement in a row are one step with many rows of values. */
static void build(struct target *target, const struct work *work)
{
	enum bench_statement open = STATEMENTS;
	lf_batch_clear(target->batch);
	for (size_t i = 0; i < work->count; i++) {
		const struct act *act = &work->acts[i];
		if (act->statement == open && !workload_returns_rows(open)) {
			lf_batch_row(target->batch);
		} else {
			open = act->statement;
			lf_batch_step(target->batch, workload_sql(open));
		}
		bind_act(target, act);
	}
}

static int funnel_submit(struct target *target, const struct work *work, uint64_t start_ns)
{
	struct flight *flight = &target->flights[target->count];
	build(target, work);
	int rc = lf_submit(target->db, target->batch, &flight->ticket);
	if (rc != 0) {
		return rc < 0 ? rc : -EAGAIN;
	}
	flight->start_ns = start_ns;
	flight->kind = work->kind;
	flight->rows = work->rows;
	target->count++;
	return 0;
}

/* ---- answers ---- */

static struct flight land(struct target *target, uint64_t ticket)
{
	size_t at = 0;
	while (at + 1 < target->count && target->flights[at].ticket != ticket) {
		at++;
	}
	struct flight flight = target->flights[at];
	target->count--;
	memmove(target->flights + at, target->flights + at + 1,
		(target->count - at) * sizeof(*target->flights));
	return flight;
}

static void read_answer(struct target *target, const lf_reply *reply, struct answer *ret_answer)
{
	struct flight flight = land(target, lf_reply_ticket(reply));
	enum lf_outcome outcome = lf_reply_outcome(reply);
	*ret_answer = (struct answer){
		.start_ns = flight.start_ns,
		.kind = flight.kind,
		.rows = flight.rows,
		.done = outcome == LF_OK,
		.unknown = outcome == LF_UNKNOWN,
	};
	for (size_t i = 0; outcome == LF_OK && i < lf_reply_steps(reply); i++) {
		ret_answer->changed += (uint64_t)lf_reply_changes(reply, i);
	}
	if (outcome != LF_OK) {
		snprintf(ret_answer->error, sizeof(ret_answer->error), "%s",
			outcome == LF_UNKNOWN ? "unknown" : lf_reply_code(reply));
	}
}

/* Until the socket is ready, or the library's own time has come, or ours. */
static void wait_ready(const struct target *target, uint64_t until_ns)
{
	struct pollfd pollfd = {lf_fd(target->db), (short)lf_events(target->db), 0};
	uint64_t now_ns = target_now_ns();
	uint64_t left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	int library_ms = lf_timeout_ms(target->db);
	if (library_ms >= 0 && (uint64_t)library_ms * 1000000 < left_ns) {
		left_ns = (uint64_t)library_ms * 1000000;
	}
	struct timespec left = {(time_t)(left_ns / 1000000000), (long)(left_ns % 1000000000)};
	(void)ppoll(&pollfd, 1, &left, NULL);
}

static int funnel_next(struct target *target, uint64_t until_ns, struct answer *ret_answer)
{
	lf_reply *reply = NULL;
	if (until_ns == UINT64_MAX && lf_next(target->db, &reply) != 0) {
		int rc = lf_wait(target->db, target->flights[0].ticket, &reply);
		if (rc < 0) {
			return rc;
		}
	}
	while (reply == NULL && lf_next(target->db, &reply) != 0) {
		int rc = lf_process(target->db);
		if (rc != 0) {
			return rc;
		}
		if (lf_next(target->db, &reply) == 0) {
			break;
		}
		if (target->count == 0 || target_now_ns() >= until_ns) {
			return TARGET_NOTHING;
		}
		wait_ready(target, until_ns);
	}
	read_answer(target, reply, ret_answer);
	lf_reply_free(reply);
	return 0;
}

const struct target_kind target_funnel = {
	funnel_open, funnel_close, funnel_depth, funnel_submit, funnel_next};
