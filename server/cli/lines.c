/* SPDX-License-Identifier: MIT */

/*
 * Batches from stdin. It reads, sends and prints in one loop that waits for all three, so that
 * lines that come slowly are answered at once and lines that come fast travel together. Results are
 * printed in the order of the lines. What it keeps true: at the end each line is known to be
 * applied, failed, unknown or not begun, and the last line that is printed says so.
 */

#include "server/cli/lines.h"

#include "server/base/clock.h"
#include "server/cli/answer.h"
#include "server/cli/cli.h"
#include "server/cli/input.h"
#include "server/cli/steps.h"
#include "server/cli/tally.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BYTES_IN_FLIGHT_MAX = 32 * 1024 * 1024,
	PROGRESS_US = 500000,
};

struct slot {
	uint64_t line;
	uint64_t ticket; /* 0: not submitted */
	size_t bytes;
	bool decided;
	lf_reply *reply; /* what became of it; or, if it never was sent: */
	const char *refused_code;
	char *refused;
};

struct stream {
	const struct lines_options *options;
	lf_db *db;
	lf_batch *batch;
	struct input input;
	struct tally tally;
	struct slot *slots; /* a ring: lines that were read and not printed */
	unsigned head;
	unsigned count;
	size_t bytes;
	bool held;     /* the newest slot waits to be submitted */
	bool stopping; /* nothing more is read */
	uint64_t progress_us;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int signo)
{
	(void)signo;
	interrupted = 1;
}

static struct slot *slot_at(const struct stream *stream, unsigned index)
{
	return &stream->slots[(stream->head + index) % stream->options->in_flight];
}

static void slot_finish(struct slot *slot)
{
	lf_reply_free(slot->reply);
	free(slot->refused);
	*slot = (struct slot){0};
}

/* ---- what became of a line ---- */

/* Withdraws, newest first, what was read after the slot at `index` and has not begun. */
static void stop_behind(struct stream *stream, unsigned index)
{
	stream->stopping = true;
	for (unsigned i = stream->count; i-- > index + 1;) {
		struct slot *slot = slot_at(stream, i);
		if (!slot->decided && slot->ticket != 0) {
			(void)lf_cancel(stream->db, slot->ticket);
		} else if (!slot->decided) {
			slot->decided = true; /* neither reply nor refusal: not begun */
			stream->held = false;
		}
	}
}

static bool not_begun(const struct stream *stream, const struct slot *slot)
{
	if (slot->reply == NULL) {
		return slot->refused_code == NULL;
	}
	return stream->stopping && lf_reply_outcome(slot->reply) == LF_FAILED &&
		strcmp(lf_reply_code(slot->reply), "cancelled") == 0;
}

static void decided(struct stream *stream, unsigned index)
{
	struct slot *slot = slot_at(stream, index);
	bool good = slot->reply != NULL && lf_reply_outcome(slot->reply) == LF_OK;
	slot->decided = true;
	if (!good && !stream->options->keep_going && !stream->stopping) {
		stop_behind(stream, index);
	}
}

static void refuse(struct stream *stream, unsigned index, const char *code, const char *why)
{
	struct slot *slot = slot_at(stream, index);
	slot->refused_code = code;
	slot->refused = strdup(why);
	decided(stream, index);
}

/* ---- printing ---- */

static const char *message_of(const struct slot *slot)
{
	if (slot->reply != NULL) {
		return lf_reply_message(slot->reply);
	}
	return slot->refused != NULL ? slot->refused : "out of memory";
}

/* Of a batch that may be applied in slices: so many of its rows are. 0: all or none. */
static int64_t rows_applied(const struct slot *slot)
{
	bool told = slot->reply != NULL && lf_reply_outcome(slot->reply) == LF_UNKNOWN &&
		lf_reply_failed_row(slot->reply) > 0 && !lf_reply_retry(slot->reply);
	return told ? lf_reply_failed_row(slot->reply) : 0;
}

static void complain(const struct stream *stream, const struct slot *slot, bool unknown)
{
	bool first = stream->tally.failed + stream->tally.unknown == 1;
	int64_t step = slot->reply != NULL ? lf_reply_failed_step(slot->reply) : -1;
	int64_t rows = rows_applied(slot);
	char where[64] = "";
	if (stream->options->json || (!first && !stream->options->keep_going)) {
		return;
	}
	if (rows > 0) {
		snprintf(
			where, sizeof(where), ", %" PRId64 " rows are applied, not the next", rows);
	} else if (step > 0) {
		snprintf(where, sizeof(where), ", step %" PRId64, step + 1);
	}
	cli_fail("exec", "line %" PRIu64 "%s: %s%s", slot->line, where,
		unknown ? "outcome unknown: " : "", message_of(slot));
}

static void print_json(const struct slot *slot)
{
	if (slot->reply != NULL) {
		answer_json(slot->reply, slot->line);
	} else if (slot->refused_code == NULL) {
		answer_json_refused("cancelled", "not sent", slot->line);
	} else {
		answer_json_refused(slot->refused_code, message_of(slot), slot->line);
	}
}

static void print_slot(struct stream *stream, const struct slot *slot)
{
	int result = slot->reply != NULL ? (int)lf_reply_outcome(slot->reply) : LF_FAILED;
	if (stream->options->json) {
		print_json(slot);
	}
	if (not_begun(stream, slot)) {
		tally_add_not_begun(&stream->tally, slot->line);
	} else if (result == LF_OK) {
		tally_add_applied(&stream->tally, slot->line);
		if (connect_unshipped(slot->reply)) {
			tally_add_unshipped(&stream->tally, slot->line);
		}
	} else if (rows_applied(slot) > 0) {
		tally_add_partly(&stream->tally, slot->line);
		complain(stream, slot, false);
	} else if (result == LF_UNKNOWN) {
		tally_add_unknown(&stream->tally, slot->line);
		complain(stream, slot, true);
	} else {
		tally_add_failed(&stream->tally, slot->line, connect_code(result, slot->reply));
		complain(stream, slot, false);
	}
}

/* All that is decided, up to the first line that is not. */
static void print_decided(struct stream *stream)
{
	while (stream->count > 0 && slot_at(stream, 0)->decided) {
		struct slot *slot = slot_at(stream, 0);
		print_slot(stream, slot);
		stream->bytes -= slot->bytes;
		slot_finish(slot);
		stream->head = (stream->head + 1) % stream->options->in_flight;
		stream->count--;
	}
	if (ferror(stdout) && !stream->stopping) {
		stream->stopping = true;
	}
}

static void print_progress(struct stream *stream, bool last)
{
	uint64_t now_us = clock_now_us();
	bool shown = stream->progress_us != 0;
	if (stream->options->json || !isatty(STDERR_FILENO)) {
		return;
	}
	if (last) {
		fputs(shown ? "\r\033[K" : "", stderr);
	} else if (now_us >= stream->progress_us + PROGRESS_US) {
		fprintf(stderr, "\r%" PRIu64 " lines applied", stream->tally.applied);
		stream->progress_us = now_us;
	}
}

/* ---- sending ---- */

/* The batch of the newest slot. 0; -ENOMEM is fatal. */
static int submit(struct stream *stream)
{
	unsigned index = stream->count - 1;
	struct slot *slot = slot_at(stream, index);
	int rc = lf_submit(stream->db, stream->batch, &slot->ticket);
	stream->held = rc == 1;
	if (rc == -EINVAL) {
		refuse(stream, index, "bad_request",
			"params mix names and places, or a guard stands beside another");
	} else if (rc == -EMSGSIZE) {
		refuse(stream, index, "too_large", lf_errmsg(stream->db));
	}
	return rc == -ENOMEM ? rc : 0;
}

static bool is_empty(const char *line, size_t len)
{
	size_t blank = 0;
	while (blank < len && strchr(" \t\r", line[blank]) != NULL && line[blank] != '\0') {
		blank++;
	}
	return blank == len || line[blank] == '#';
}

static int take_line(struct stream *stream, const char *line, size_t len)
{
	char error[STEPS_ERROR_BYTES];
	unsigned index = stream->count++;
	*slot_at(stream, index) = (struct slot){.line = stream->input.lines, .bytes = len};
	stream->bytes += len;
	lf_batch_clear(stream->batch);
	int rc = steps_read(line, len, stream->batch, error);
	if (rc == -EINVAL) {
		refuse(stream, index, "bad_request", error);
		return 0;
	}
	if (stream->options->ack_shipped) {
		lf_batch_ack_shipped(stream->batch);
	}
	return rc != 0 ? rc : submit(stream);
}

static bool has_room(const struct stream *stream)
{
	return !stream->stopping && !stream->held && stream->count < stream->options->in_flight &&
		stream->bytes < BYTES_IN_FLIGHT_MAX;
}

/* Sends the lines that are there. 0, INPUT_MORE, INPUT_END, or negative. */
static int take_lines(struct stream *stream)
{
	const char *line = NULL;
	size_t len = 0;
	int rc = stream->held ? submit(stream) : 0;
	while (rc == 0 && has_room(stream)) {
		rc = input_line(&stream->input, &line, &len);
		if (rc == 0 && !is_empty(line, len)) {
			rc = take_line(stream, line, len);
		}
	}
	return rc;
}

static void collect(struct stream *stream)
{
	lf_reply *reply = NULL;
	(void)lf_process(stream->db); /* out of memory shows in the answers */
	while (lf_next(stream->db, &reply) == 0) {
		unsigned index = 0;
		while (index < stream->count &&
			slot_at(stream, index)->ticket != lf_reply_ticket(reply)) {
			index++;
		}
		if (index == stream->count) {
			lf_reply_free(reply); /* not ours: cannot be */
			continue;
		}
		slot_at(stream, index)->reply = reply;
		decided(stream, index);
	}
	print_decided(stream);
}

/* ---- the loop ---- */

static void wait_for_either(struct stream *stream, bool want_input)
{
	struct pollfd fds[] = {
		{.fd = want_input ? stream->input.fd : -1, .events = POLLIN},
		{.fd = lf_fd(stream->db), .events = (short)lf_events(stream->db)},
	};
	int timeout_ms = lf_timeout_ms(stream->db);
	struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
	sigset_t none;
	sigemptyset(&none);
	fflush(stdout);
	int ready = ppoll(fds, 2, timeout_ms >= 0 ? &timeout : NULL, &none);
	if (ready > 0 && fds[0].revents != 0) {
		int rc = input_fill(&stream->input);
		if (rc != 0) {
			stream->tally.input_error = rc;
			stream->stopping = true;
		}
	}
}

static int run(struct stream *stream)
{
	for (;;) {
		int rc = take_lines(stream);
		if (rc < 0) {
			return rc;
		}
		collect(stream);
		print_progress(stream, false);
		if (interrupted != 0) {
			stream->stopping = true;
			stream->tally.interrupted = true;
		}
		bool ended = rc == INPUT_END || stream->stopping;
		if (ended && stream->count == 0) {
			return 0;
		}
		bool more = rc == INPUT_MORE && has_room(stream);
		if (more || stream->count > 0) {
			wait_for_either(stream, more);
		}
	}
}

/* Signals come only while we wait; a second one ends us as usual. */
static void take_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		sigaction(signals[i], &action, NULL);
		sigaddset(&set, signals[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN); /* the end of our reader must not be the end of the account */
}

int lines_run(const struct lines_options *options)
{
	struct stream stream = {.options = options};
	int code = connect_open(options->connect, &stream.db);
	if (code != CLI_DONE) {
		return code;
	}
	input_init(&stream.input, STDIN_FILENO);
	stream.batch = lf_batch_new();
	stream.slots = calloc(options->in_flight, sizeof(*stream.slots));
	take_signals();
	int rc = stream.batch == NULL || stream.slots == NULL ? -ENOMEM : run(&stream);
	print_progress(&stream, true);
	stream.tally.input_error = rc < 0 ? rc : stream.tally.input_error;
	stream.tally.lines = stream.input.lines;
	stream.tally.ended = stream.input.end && stream.input.at == stream.input.len;
	if (print_flush("exec") != 0) {
		stream.tally.output_error = true;
	}
	code = tally_end(&stream.tally, options->connect->db, options->json);
	while (stream.count > 0) {
		slot_finish(slot_at(&stream, --stream.count));
	}
	free(stream.slots);
	lf_batch_free(stream.batch);
	input_finish(&stream.input);
	connect_close(&stream.db);
	return code;
}
