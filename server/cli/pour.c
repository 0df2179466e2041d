/* SPDX-License-Identifier: MIT */

/*
 * What this file keeps true: pieces are applied in the order of the file or not at all, for each
 * requires the mark to stand where it begins. When one fails, those behind it fail at the mark; the
 * bad record goes to the rejects, and the file is read anew from where the failed piece began. Where one
 * record was bad more may be: that piece is sifted (sift.h). If that comes to nothing, it is done over
 * without, a piece for each bad record.
 */

#include "server/cli/pour.h"

#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/rejects.h"
#include "server/cli/sift.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
	WINDOW = 3,
	ROWS_FIRST = 200,
	ROWS_MAX = 20000,
	BYTES_MAX = 512 * 1024,
	VALUES_MAX = 200000,
	AIM_US = 2000, /* how long a piece is to run */
};

/* The steps of a piece. */
enum { STEP_MARK, STEP_ROWS };

static const char mark_sql[] = "SELECT 1 WHERE lf_mark(?) = ?";
static const char move_sql[] = "SELECT lf_mark(?, ?, ?, ?)";

struct piece {
	uint64_t ticket;
	uint64_t from;
	uint64_t to;
	uint64_t at;     /* of its first record: a header may lie before it */
	uint64_t line;   /* of that */
	uint64_t *lines; /* of each row */
	size_t rows;
	uint64_t next_line; /* behind it */
};

struct pour {
	const struct pour_options *options;
	struct pour_result *result;
	struct progress progress;
	lf_batch *batch;
	struct print_value *row;     /* of the table */
	struct piece pieces[WINDOW]; /* a ring */
	unsigned head;
	unsigned count;
	uint64_t next_from; /* where the next piece begins */
	struct sift sift;
	bool sifting;
	uint64_t sift_to;  /* what begins before is sifted */
	uint64_t plain_to; /* … but not what begins before that */
	size_t target_rows;
	size_t rows_most; /* more than that would take longer than the daemon allows */
	bool ended;       /* the file is read */
	bool failed;      /* what is on its way is of no interest any more */
	struct rejects rejects;
	uint64_t bad_line_max; /* bad records up to here are in the rejects */
	uint64_t began_us;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int signo)
{
	(void)signo;
	interrupted = 1;
}

__attribute__((format(printf, 3, 4))) static void stop(
	struct pour *pour, int code, const char *format, ...)
{
	va_list args;
	if (pour->result->why[0] != '\0') {
		return;
	}
	va_start(args, format);
	vsnprintf(pour->result->why, sizeof(pour->result->why), format, args);
	va_end(args);
	pour->result->code = code;
}

static bool stopped(const struct pour *pour)
{
	return pour->result->why[0] != '\0';
}

/* The record goes to the rejects. False: there is no file for it, or it cannot be written. */
static bool reject(
	struct pour *pour, uint64_t line, const char *why, const char *raw, size_t raw_len)
{
	if (pour->rejects.file == NULL) {
		stop(pour, CLI_FAILED, "line %" PRIu64 ": %s", line, why);
		return false;
	}
	int rc = rejects_write(&pour->rejects, line, why, raw, raw_len);
	if (rc != 0) {
		stop(pour, CLI_FAILED, "%s: %s", pour->options->rejects, strerror(-rc));
		return false;
	}
	pour->result->rejected++;
	return true;
}

/* ---- a piece ---- */

static int name_at(const struct pour_options *options, const char *name)
{
	for (size_t i = 0; i < options->places; i++) {
		if (options->names[i] != NULL && strcmp(options->names[i], name) == 0) {
			return (int)i;
		}
	}
	return POUR_SKIP;
}

/* Puts the values of a record where the table wants them. False: it does not fit; `why`. */
static bool arrange(struct pour *pour, const struct record *record, char *why, size_t why_len)
{
	const struct pour_options *options = pour->options;
	for (size_t i = 0; i < options->columns; i++) {
		pour->row[i] = (struct print_value){.type = LF_NULL};
	}
	if (record->names == NULL && record->count != options->places) {
		snprintf(why, why_len, "%zu values instead of %zu", record->count, options->places);
		return false;
	}
	for (size_t i = 0; i < record->count; i++) {
		int at = record->names != NULL ? name_at(options, record->names[i]) : (int)i;
		if (at == POUR_SKIP) {
			snprintf(why, why_len, "the first record has no \"%.100s\"",
				record->names[i]);
			return false;
		}
		if (options->place[at] != POUR_SKIP) {
			pour->row[options->place[at]] = record->values[i];
		}
	}
	return true;
}

static size_t row_bytes(const struct pour *pour)
{
	size_t bytes = 0;
	for (size_t i = 0; i < pour->options->columns; i++) {
		bytes += 9 + pour->row[i].len;
	}
	return bytes;
}

static void bind_text(lf_batch *batch, const char *text)
{
	lf_bind_text(batch, text, -1);
}

static void bind_row(struct pour *pour)
{
	for (size_t i = 0; i < pour->options->columns; i++) {
		const struct print_value *value = &pour->row[i];
		if (value->type == LF_INTEGER) {
			lf_bind_int64(pour->batch, value->integer);
		} else if (value->type == LF_FLOAT) {
			lf_bind_double(pour->batch, value->real);
		} else if (value->type == LF_NULL) {
			lf_bind_null(pour->batch);
		} else {
			lf_bind_text(pour->batch, value->data, (ssize_t)value->len);
		}
	}
}

/* The row goes into the piece's batch, or is sent as a step of its own. 0 or negative errno. */
static int add_row(struct pour *pour, const struct piece *piece)
{
	if (!pour->sifting) {
		if (piece->rows > 0) {
			lf_batch_row(pour->batch);
		}
		bind_row(pour);
		return 0;
	}
	lf_batch_clear(pour->batch);
	lf_batch_step(pour->batch, pour->options->sql);
	bind_row(pour);
	return sift_row(&pour->sift, pour->batch);
}

static size_t rows_wanted(const struct pour *pour)
{
	if (!pour->sifting) {
		return pour->target_rows;
	}
	return pour->options->records->at < pour->sift_to ? SIFT_ROWS : 0;
}

/* Records into the piece, up to its limits. 0 or negative errno. */
static int take_records(struct pour *pour, struct piece *piece)
{
	size_t bytes = 0;
	char why[RECORDS_WHY_BYTES];
	struct records *records = pour->options->records;
	while (piece->rows < rows_wanted(pour) && bytes < BYTES_MAX &&
		piece->rows * pour->options->columns < VALUES_MAX && !stopped(pour)) {
		struct record record;
		int rc = records_next(records, &record);
		if (rc < 0) {
			return rc;
		}
		if (rc == RECORDS_END) {
			pour->ended = true;
			break;
		}
		piece->to = record.to;
		piece->next_line = records->line;
		if (rejects_skips(&pour->rejects, record.line)) {
			continue;
		}
		bool good = rc == 0 && arrange(pour, &record, why, sizeof(why));
		if (!good) {
			if (record.line > pour->bad_line_max &&
				reject(pour, record.line, rc != 0 ? records->why : why, record.raw,
					record.raw_len)) {
				pour->bad_line_max = record.line;
			}
			continue;
		}
		rc = add_row(pour, piece);
		if (rc != 0) {
			return rc;
		}
		bytes += row_bytes(pour);
		piece->lines[piece->rows++] = record.line;
	}
	return 0;
}

/* The mark moves behind the piece, with how the file begins: so another one is told from it. */
static int bind_move(struct pour *pour, const struct piece *piece)
{
	char sign[RECORDS_SIGN_BYTES];
	int rc = records_sign(pour->options->records, piece->to, sign);
	lf_batch_step(pour->batch, move_sql);
	bind_text(pour->batch, pour->options->mark);
	lf_bind_int64(pour->batch, (int64_t)piece->from);
	lf_bind_int64(pour->batch, (int64_t)piece->to);
	bind_text(pour->batch, sign);
	return rc;
}

/* An empty piece that begins where the last one ends. */
static struct piece *next_piece(struct pour *pour)
{
	struct piece *piece = &pour->pieces[(pour->head + pour->count) % WINDOW];
	uint64_t *lines = piece->lines;
	*piece = (struct piece){.from = pour->next_from,
		.to = pour->next_from,
		.at = pour->options->records->at,
		.line = pour->options->records->line,
		.lines = lines};
	return piece;
}

/* The next piece, sent. 0, 1: nothing is left to send, or negative errno. */
static int send_piece(struct pour *pour)
{
	struct piece *piece = next_piece(pour);
	lf_batch_clear(pour->batch);
	lf_batch_class(pour->batch, "bulk");
	lf_batch_step(pour->batch, mark_sql);
	bind_text(pour->batch, pour->options->mark);
	lf_bind_int64(pour->batch, (int64_t)piece->from);
	lf_expect_rows(pour->batch, 1);
	lf_batch_step(pour->batch, pour->options->sql);
	int rc = take_records(pour, piece);
	if (rc != 0 || stopped(pour)) {
		return rc != 0 ? rc : 1;
	}
	if (piece->to == piece->from) {
		return 1;
	}
	if (piece->rows == 0) {
		/* Nothing but rejects: only the mark moves. */
		lf_batch_clear(pour->batch);
		lf_batch_class(pour->batch, "bulk");
	}
	rc = bind_move(pour, piece);
	rc = rc != 0 ? rc : lf_submit(pour->options->db, pour->batch, &piece->ticket);
	if (rc != 0) {
		return rc == 1 ? -EAGAIN : rc; /* the window is wider than ours */
	}
	pour->next_from = piece->to;
	pour->count++;
	return 0;
}

/* ---- what became of a piece ---- */

static void adapt(struct pour *pour, const struct piece *piece, uint64_t exec_us)
{
	uint64_t wish = (uint64_t)piece->rows * AIM_US / (exec_us + 1);
	uint64_t most = 2 * (uint64_t)pour->target_rows;
	uint64_t least = pour->target_rows / 4 + 1;
	wish = wish > most ? most : wish < least ? least : wish;
	pour->target_rows = wish < pour->rows_most ? (size_t)wish : pour->rows_most;
}

static void applied(struct pour *pour, const struct piece *piece, const lf_reply *reply)
{
	struct pour_result *result = pour->result;
	result->position = piece->to;
	result->line = piece->next_line;
	result->unshipped = connect_unshipped(reply); /* with the last one all are */
	if (piece->rows > 0) {
		result->rows += (uint64_t)lf_reply_changes(reply, STEP_ROWS);
		if (!lf_reply_repeat(reply)) {
			adapt(pour, piece, lf_reply_exec_us(reply));
		}
	}
	records_done(pour->options->records, piece->to);
	rejects_forget_before(&pour->rejects, piece->next_line);
}

/* Reads the file anew from where the failed piece began. */
static void go_back(struct pour *pour, const struct piece *piece)
{
	records_rewind(pour->options->records, piece->at, piece->line);
	pour->next_from = piece->from;
	pour->ended = false;
}

/* The raw bytes of a row that was refused, found once more. */
static int reject_row(struct pour *pour, const struct piece *piece, size_t row, const char *why)
{
	struct records *records = pour->options->records;
	struct record record;
	records_rewind(records, piece->at, piece->line);
	for (;;) {
		int rc = records_next(records, &record);
		if (rc < 0 || rc == RECORDS_END) {
			return rc < 0 ? rc : -EIO;
		}
		if (record.line == piece->lines[row]) {
			(void)reject(pour, record.line, why, record.raw, record.raw_len);
			return rejects_skip(&pour->rejects, record.line);
		}
	}
}

static bool mark_stands_at(struct pour *pour, uint64_t position)
{
	lf_reply *reply = NULL;
	lf_batch *batch = lf_batch_new();
	lf_batch_step(batch, "SELECT lf_mark(?)");
	bind_text(batch, pour->options->mark);
	bool stands = lf_write(pour->options->db, batch, &reply) == LF_OK &&
		(uint64_t)lf_reply_int64(reply, 0, 0, 0) == position;
	lf_reply_free(reply);
	lf_batch_free(batch);
	return stands;
}

static int piece_failed(struct pour *pour, const struct piece *piece, const lf_reply *reply)
{
	const char *code = lf_reply_code(reply);
	int64_t step = lf_reply_failed_step(reply);
	int64_t row = lf_reply_failed_row(reply);
	pour->failed = true;
	if (row < 0 && piece->rows == 1) {
		row = 0; /* a step of one row has no number for it */
	}
	bool takes_too_long = strcmp(code, "deadline") == 0 && !lf_reply_retry(reply);
	if (takes_too_long && piece->rows > 1) {
		pour->rows_most = piece->rows / 2; /* it will not be quicker later */
		pour->target_rows = pour->rows_most;
		return 0;
	}
	if (strcmp(code, "too_large") == 0 && piece->rows > 1) {
		pour->target_rows = piece->rows / 2;
		return 0;
	}
	if (strcmp(code, "too_large") == 0 && step < 0) {
		step = STEP_ROWS; /* no frame holds it */
	}
	if (strcmp(code, "guard") == 0 && step == STEP_MARK) {
		if (mark_stands_at(pour, piece->from)) {
			return 0; /* it overtook the one before, which had found no room in the queue */
		}
		stop(pour, CLI_FAILED,
			"another import with the name %s is at work, or its mark was moved",
			pour->options->mark);
	} else if (step == STEP_ROWS && row >= 0 && (size_t)row < piece->rows &&
		(strcmp(code, "sql") == 0 || strcmp(code, "too_large") == 0)) {
		if (piece->rows > 1 && piece->from >= pour->plain_to &&
			pour->rejects.file != NULL) {
			pour->sift_to = piece->to;
			pour->target_rows = ROWS_FIRST;
		}
		return reject_row(pour, piece, (size_t)row, lf_reply_message(reply));
	} else {
		stop(pour,
			strcmp(code, "deadline") == 0 && !takes_too_long ? CLI_UNREACHABLE
									 : CLI_FAILED,
			"%s", lf_reply_message(reply));
	}
	return 0;
}

/* Waits for the oldest piece. */
static int collect(struct pour *pour)
{
	struct piece *piece = &pour->pieces[pour->head];
	lf_reply *reply = NULL;
	int result = lf_wait(pour->options->db, piece->ticket, &reply);
	int rc = 0;
	if (result < 0) {
		rc = result;
	} else if (pour->failed) {
		/* Behind one that has failed: refused at the mark, whatever else. */
	} else if (result == LF_OK) {
		applied(pour, piece, reply);
	} else if (result == LF_UNKNOWN) {
		pour->failed = true;
		stop(pour, CLI_UNKNOWN, "%s", lf_reply_message(reply));
	} else {
		rc = piece_failed(pour, piece, reply);
		go_back(pour, piece);
	}
	lf_reply_free(reply);
	pour->head = (pour->head + 1) % WINDOW;
	pour->count--;
	if (pour->count == 0) {
		pour->failed = false;
	}
	return rc;
}

/* ---- a piece with bad records ---- */

/* The refused rows go to the rejects, in one walk. 0 or negative errno. */
static int reject_refused(struct pour *pour, const struct piece *piece)
{
	const struct sift *sift = &pour->sift;
	struct records *records = pour->options->records;
	struct record record = {0};
	uint64_t at = records->at;
	uint64_t line = records->line;
	int rc = 0;
	records_rewind(records, piece->at, piece->line);
	for (size_t i = 0; i < sift->refused_count && !stopped(pour); i++) {
		const struct sift_refusal *refusal = &sift->refused[i];
		while (record.line != piece->lines[refusal->row]) {
			rc = records_next(records, &record);
			if (rc < 0 || rc == RECORDS_END) {
				return rc < 0 ? rc : -EIO;
			}
		}
		(void)reject(pour, record.line, refusal->why, record.raw, record.raw_len);
		rc = rejects_skip(&pour->rejects, record.line);
		if (rc != 0) {
			return rc;
		}
	}
	records_rewind(records, at, line);
	return 0;
}

static void sifted(struct pour *pour, const struct piece *piece, enum sift_end end)
{
	struct pour_result *result = pour->result;
	if (end == SIFT_UNKNOWN) {
		stop(pour, CLI_UNKNOWN, "the outcome of the last piece is unknown");
	} else if (end == SIFT_BROKEN) {
		pour->plain_to = pour->sift_to;
		pour->sift_to = 0;
		go_back(pour, piece);
	} else {
		result->position = piece->to;
		result->line = piece->next_line;
		result->rows += pour->sift.changes;
		result->unshipped = pour->sift.unshipped;
		records_done(pour->options->records, piece->to);
		pour->next_from = piece->to;
		rejects_forget_before(&pour->rejects, piece->next_line);
	}
}

/* The rows of the piece, and the commit. 0 or negative errno. */
static int sift_rows(struct pour *pour, struct piece *piece, enum sift_end *ret_end)
{
	int rc = sift_begin(&pour->sift, pour->options->db, pour->options->mark, piece->from);
	*ret_end = SIFT_BROKEN;
	rc = rc == 0 ? take_records(pour, piece) : rc;
	rc = rc == 0 ? sift_look(&pour->sift) : rc;
	if (rc != 0 || stopped(pour) || pour->sift.broken) {
		return rc;
	}
	rc = reject_refused(pour, piece);
	if (rc != 0 || stopped(pour)) {
		return rc;
	}
	lf_batch_clear(pour->batch);
	rc = bind_move(pour, piece);
	return rc == 0 ? sift_commit(&pour->sift, pour->batch, ret_end) : rc;
}

static int sift_piece(struct pour *pour)
{
	struct piece *piece = next_piece(pour);
	enum sift_end end = SIFT_BROKEN;
	pour->sifting = true;
	int rc = sift_rows(pour, piece, &end);
	pour->sifting = false;
	sift_finish(&pour->sift);
	if (rc == 0 && !stopped(pour)) {
		sifted(pour, piece, end);
	}
	return rc;
}

/* ---- the loop ---- */

static void show(struct pour *pour)
{
	const struct pour_result *result = pour->result;
	uint64_t passed_us = clock_now_us() - pour->began_us + 1;
	uint64_t done = result->position - pour->options->position;
	uint64_t left =
		pour->options->size > result->position ? pour->options->size - result->position : 0;
	uint64_t of =
		done > 0 && pour->options->size > 0 ? result->rows + result->rows * left / done : 0;
	progress_show(&pour->progress, result->rows, of, "rows", result->rows * 1000000 / passed_us,
		done > 0 ? left * (passed_us / 1000) / done : 0);
}

static int run(struct pour *pour)
{
	for (;;) {
		int rc = 0;
		if (pour->count == 0 && !pour->ended && !stopped(pour) && interrupted == 0 &&
			pour->next_from < pour->sift_to) {
			rc = sift_piece(pour);
			if (rc < 0) {
				return rc;
			}
			show(pour);
			continue;
		}
		while (rc == 0 && !pour->ended && !pour->failed && !stopped(pour) &&
			interrupted == 0 && pour->count < WINDOW) {
			rc = send_piece(pour);
		}
		if (rc < 0) {
			return rc;
		}
		show(pour);
		if (pour->count > 0) {
			rc = collect(pour);
			if (rc < 0) {
				return rc;
			}
		} else if (pour->ended || stopped(pour) || interrupted != 0) {
			return 0;
		}
	}
}

static int set_up(struct pour *pour)
{
	const struct pour_options *options = pour->options;
	pour->batch = lf_batch_new();
	pour->row = calloc(options->columns + 1, sizeof(*pour->row));
	if (pour->batch == NULL || pour->row == NULL) {
		return -ENOMEM;
	}
	for (unsigned i = 0; i < WINDOW; i++) {
		pour->pieces[i].lines = calloc(ROWS_MAX, sizeof(uint64_t));
		if (pour->pieces[i].lines == NULL) {
			return -ENOMEM;
		}
	}
	if (options->rejects != NULL) {
		int rc = rejects_open(&pour->rejects, options->rejects, options->records);
		if (rc == REJECTS_OTHER) {
			stop(pour, CLI_FAILED,
				"%s is no file of rejects, and is left as it is (cure: --rejects "
				"with a name of its own)",
				options->rejects);
		} else if (rc != 0) {
			stop(pour, CLI_FAILED, "%s: %s", options->rejects, strerror(-rc));
		}
	}
	return 0;
}

int pour_run(const struct pour_options *options, struct pour_result *ret_result)
{
	struct pour pour = {.options = options,
		.result = ret_result,
		.next_from = options->position,
		.target_rows = ROWS_FIRST,
		.rows_most = ROWS_MAX,
		.began_us = clock_now_us()};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
	*ret_result =
		(struct pour_result){.position = options->position, .line = options->records->line};
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	progress_init(&pour.progress, "import");
	int rc = set_up(&pour);
	rc = rc == 0 ? run(&pour) : rc;
	progress_end(&pour.progress);
	ret_result->complete = rc == 0 && pour.ended && !stopped(&pour);
	ret_result->interrupted = interrupted != 0 && !ret_result->complete;
	if (rc < 0 && rc != -ENOMEM) {
		stop(&pour, CLI_FAILED, "%s",
			rc == -EFBIG
				? "a record is larger than 16 MiB (a quote that is not closed?)"
				: strerror(-rc));
		rc = 0;
	}
	for (unsigned i = 0; i < WINDOW; i++) {
		free(pour.pieces[i].lines);
	}
	rejects_close(&pour.rejects);
	free(pour.row);
	lf_batch_free(pour.batch);
	return rc;
}
