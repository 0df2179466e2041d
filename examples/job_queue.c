/* SPDX-License-Identifier: MIT */

/*
 * A job queue on a plain table, with worker processes that die.
 *
 * Shows: enqueueing a job in the same batch as the business row it belongs to; claiming with one
 * UPDATE … RETURNING; sleeping until the table has changed, without polling; a claim that ends by
 * time when its worker is gone; and finishing under a guard, so that a worker that came too late
 * changes nothing.
 *
 *	example_job_queue /srv/app/app.db [--workers 4] [--jobs 200] [--kill 5]
 *
 * Workers are killed with SIGKILL while they work, and replaced. Exits 0 if every job was finished
 * exactly once and none was worked on by two processes at the same time, 1 if not.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <litefunnel.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	CLAIM_MS = 1000, /* a claim that is not finished by then is another worker's */
	WORK_MS = 5,
	WORKERS_MAX = 64,
	WORKER_DONE = 0,
	WORKER_FAILED = 1,
};

/* SQLite's clock in milliseconds: the daemon's, so all workers agree on it. */
#define NOW_MS "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"

static const char *db_path;
static long workers = 4;
static long jobs = 200;
static long kills = 5;

static int64_t monotonic_ms(void)
{
	struct timespec now;
	(void)clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void complain(const char *what, const lf_db *db, const lf_reply *reply)
{
	(void)fprintf(
		stderr, "%s: %s\n", what, reply != NULL ? lf_reply_message(reply) : lf_errmsg(db));
}

/* Writes, complains unless it was applied, and frees the batch. NULL, or the reply. */
static lf_reply *write_batch(lf_db *db, lf_batch *batch, const char *what)
{
	lf_reply *reply = NULL;
	int r = lf_write(db, batch, &reply);
	lf_batch_free(batch);
	if (r == LF_OK) {
		return reply;
	}
	complain(what, db, reply);
	lf_reply_free(reply);
	return NULL;
}

static int64_t read_int64(lf_db *db, const char *sql, int64_t run)
{
	sqlite3 *reader = NULL;
	sqlite3_stmt *stmt = NULL;
	int64_t value = -1;
	if (lf_reader(db, &reader) < 0) {
		complain("read", db, NULL);
		return -1;
	}
	if (sqlite3_prepare_v2(reader, sql, -1, &stmt, NULL) == SQLITE_OK &&
		sqlite3_bind_int64(stmt, 1, run) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
		value = sqlite3_column_int64(stmt, 0);
	}
	(void)sqlite3_finalize(stmt);
	return value;
}

/* ---- the queue ------------------------------------------------------------------------------- */

static int create_tables(lf_db *db)
{
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return 1;
	}
	lf_batch_script(batch,
		"CREATE TABLE IF NOT EXISTS example_run(id INTEGER PRIMARY KEY);"
		"CREATE TABLE IF NOT EXISTS example_order(id INTEGER PRIMARY KEY, run INTEGER, "
		"amount INTEGER);"
		"CREATE TABLE IF NOT EXISTS example_job(id INTEGER PRIMARY KEY, run INTEGER, "
		"order_id INTEGER, state TEXT NOT NULL DEFAULT 'ready', claim INTEGER NOT NULL "
		"DEFAULT 0, "
		"claimed_until INTEGER);"
		"CREATE INDEX IF NOT EXISTS example_job_open ON example_job(run, id) "
		"WHERE state <> 'done';"
		"CREATE TABLE IF NOT EXISTS example_invoice(order_id INTEGER PRIMARY KEY, amount "
		"INTEGER)");
	lf_reply *reply = write_batch(db, batch, "create");
	lf_reply_free(reply);
	return reply == NULL;
}

/* The order and its job are there together or not at all: no job without order, none forgotten. */
static int enqueue(lf_db *db, int64_t run, int64_t amount)
{
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return 1;
	}
	lf_batch_step(batch, "INSERT INTO example_order(run, amount) VALUES (?, ?)");
	lf_bind_int64(batch, run);
	lf_bind_int64(batch, amount);
	lf_batch_step(
		batch, "INSERT INTO example_job(run, order_id) VALUES (?, last_insert_rowid())");
	lf_bind_int64(batch, run);
	lf_reply *reply = write_batch(db, batch, "enqueue");
	lf_reply_free(reply);
	return reply == NULL;
}

struct job {
	int64_t id;
	int64_t order_id;
	int64_t claim; /* rises with each claim: the guard when it is finished */
};

/*
 * Takes the oldest job that is ready, or whose claim has run out. 1 and a job, 0: none now, -1.
 *
 * The daemon runs one statement at a time, so two workers never get the same row. Should the answer
 * be UNKNOWN, the claim just runs out.
 */
static int claim(lf_db *db, int64_t run, struct job *ret_job)
{
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return -1;
	}
	lf_batch_step(batch,
		"UPDATE example_job SET state = 'claimed', claim = claim + 1, "
		"claimed_until = " NOW_MS " + ?2 WHERE id = (SELECT id FROM example_job "
		"WHERE run = ?1 AND state <> 'done' AND (state = 'ready' OR claimed_until < " NOW_MS
		") "
		"ORDER BY id LIMIT 1) RETURNING id, order_id, claim");
	lf_bind_int64(batch, run);
	lf_bind_int64(batch, CLAIM_MS);
	lf_reply *reply = write_batch(db, batch, "claim");
	if (reply == NULL) {
		return -1;
	}
	int found = lf_reply_rows(reply, 0) == 1 ? 1 : 0;
	ret_job->id = lf_reply_int64(reply, 0, 0, 0);
	ret_job->order_id = lf_reply_int64(reply, 0, 0, 1);
	ret_job->claim = lf_reply_int64(reply, 0, 0, 2);
	lf_reply_free(reply);
	return found;
}

/* What the job does, and that it is done, in one batch. 0: done, 1: it is another's by now, -1. */
static int finish(lf_db *db, const struct job *job)
{
	lf_batch *batch = lf_batch_new();
	lf_reply *reply = NULL;
	if (batch == NULL) {
		return -1;
	}
	lf_batch_step(batch,
		"UPDATE example_job SET state = 'done' WHERE id = ? AND claim = ? "
		"AND state = 'claimed'");
	lf_bind_int64(batch, job->id);
	lf_bind_int64(batch, job->claim);
	lf_expect_changes(batch, 1);
	lf_batch_step(batch,
		"INSERT INTO example_invoice(order_id, amount) "
		"SELECT id, amount FROM example_order WHERE id = ?");
	lf_bind_int64(batch, job->order_id);
	lf_expect_changes(batch, 1);
	int r = lf_write(db, batch, &reply);
	int result = 0;
	if (r != LF_OK) {
		result = r == LF_FAILED && strcmp(lf_reply_code(reply), "guard") == 0 ? 1 : -1;
		if (result < 0) {
			complain("finish", db, reply);
		}
	}
	lf_reply_free(reply);
	lf_batch_free(batch);
	return result;
}

/* ---- a worker -------------------------------------------------------------------------------- */

/*
 * The witness that two processes never work on one job at a time: a lock that the kernel takes away
 * from a killed process. Not a part of the queue, only of the proof.
 */
static int witness(int lock_fd, int64_t job, short type)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)job, .l_len = 1};
	return fcntl(lock_fd, F_SETLK, &lock);
}

static int work_on(lf_db *db, const struct job *job, int64_t claimed_ms, int lock_fd)
{
	if (monotonic_ms() - claimed_ms > CLAIM_MS / 2) {
		return 0; /* the answer took so long that the claim may run out under our hands */
	}
	if (witness(lock_fd, job->id, F_WRLCK) != 0) {
		(void)fprintf(stderr, "job %" PRId64 " is worked on by two\n", job->id);
		return -1;
	}
	(void)poll(NULL, 0, WORK_MS);
	int r = finish(db, job);
	(void)witness(lock_fd, job->id, F_UNLCK);
	return r < 0 ? -1 : 0;
}

/*
 * Others hold what is left. Sleeps until the table changes, or until a claim that is held now has run
 * out by its time, of which no commit tells.
 */
static int wait_for_change(lf_db *db)
{
	lf_change *change = NULL;
	int r = lf_next_change(db, CLAIM_MS, &change);
	/* One reason to look is enough: what came before this look is dealt with by it. */
	while (r == 0) {
		bool ended = lf_change_kind(change) == LF_CHANGE_ENDED;
		lf_change_free(change);
		if (ended) {
			return -1;
		}
		r = lf_next_change(db, 0, &change);
	}
	return r < 0 ? -1 : 0;
}

static int worker(int64_t run, int lock_fd)
{
	static const char *const tables[] = {"example_job", NULL};
	lf_db *db = NULL;
	uint64_t watch = 0;
	int result = WORKER_FAILED;
	if (lf_open(db_path, NULL, &db) != 0) {
		return WORKER_FAILED;
	}
	/* Before the first look, so that nothing happens unseen between a look and a sleep. */
	if (lf_watch(db, tables, NULL, &watch) != 0) {
		complain("watch", db, NULL);
		lf_close(db);
		return WORKER_FAILED;
	}
	for (;;) {
		struct job job;
		int64_t claimed_ms = monotonic_ms();
		int found = claim(db, run, &job);
		if (found < 0 || (found == 1 && work_on(db, &job, claimed_ms, lock_fd) < 0)) {
			break;
		}
		if (found == 1) {
			continue;
		}
		int64_t open = read_int64(db,
			"SELECT count(*) FROM example_job WHERE run = ? AND state <> 'done'", run);
		if (open <= 0) {
			result = open == 0 ? WORKER_DONE : WORKER_FAILED;
			break;
		}
		if (wait_for_change(db) != 0) {
			complain("watch", db, NULL);
			break;
		}
	}
	lf_close(db);
	return result;
}

static pid_t start_worker(int64_t run, int lock_fd)
{
	pid_t pid = fork();
	if (pid == 0) {
		_exit(worker(run, lock_fd));
	}
	return pid;
}

/* ---- the master ------------------------------------------------------------------------------ */

/* Kills and replaces workers, then waits for all of them. 0 if none failed by itself. */
static int supervise(int64_t run, int lock_fd)
{
	pid_t pids[WORKERS_MAX];
	int failed = 0;
	for (long i = 0; i < workers; i++) {
		pids[i] = start_worker(run, lock_fd);
	}
	for (long i = 0; i < kills; i++) {
		int status = 0;
		long victim = random() % workers;
		(void)poll(NULL, 0, (int)(random() % 20));
		(void)kill(pids[victim], SIGKILL);
		(void)waitpid(pids[victim], &status, 0);
		failed |= WIFEXITED(status) && WEXITSTATUS(status) != WORKER_DONE;
		pids[victim] = start_worker(run, lock_fd);
	}
	for (long i = 0; i < workers; i++) {
		int status = 0;
		(void)waitpid(pids[i], &status, 0);
		failed |= !WIFEXITED(status) || WEXITSTATUS(status) != WORKER_DONE;
	}
	return failed;
}

static int verify(lf_db *db, int64_t run)
{
	int64_t open = read_int64(
		db, "SELECT count(*) FROM example_job WHERE run = ? AND state <> 'done'", run);
	int64_t done = read_int64(
		db, "SELECT count(*) FROM example_job WHERE run = ? AND state = 'done'", run);
	int64_t invoices = read_int64(db,
		"SELECT count(*) FROM example_order AS o JOIN example_invoice AS i "
		"ON i.order_id = o.id AND i.amount = o.amount WHERE o.run = ?",
		run);
	int64_t again =
		read_int64(db, "SELECT count(*) FROM example_job WHERE run = ? AND claim > 1", run);
	(void)printf("%" PRId64 " jobs done, %" PRId64 " open, %" PRId64 " invoices, %" PRId64
		     " claimed again after their worker was killed\n",
		done, open, invoices, again);
	return open != 0 || done != jobs || invoices != jobs;
}

static int run_queue(lf_db *db, int lock_fd)
{
	lf_reply *reply = NULL;
	if (create_tables(db) != 0) {
		return 1;
	}
	if (lf_exec(db, "INSERT INTO example_run DEFAULT VALUES", &reply) != LF_OK) {
		complain("begin", db, reply);
		lf_reply_free(reply);
		return 1;
	}
	int64_t run = lf_reply_rowid(reply, 0);
	lf_reply_free(reply);
	for (int64_t i = 0; i < jobs; i++) {
		if (enqueue(db, run, 100 + i) != 0) {
			return 1;
		}
	}
	srandom((unsigned)run);
	int failed = supervise(run, lock_fd);
	return verify(db, run) != 0 || failed;
}

static int parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{"workers", required_argument, NULL, 'w'},
		{"jobs", required_argument, NULL, 'j'},
		{"kill", required_argument, NULL, 'k'},
		{NULL, 0, NULL, 0},
	};
	int c;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		char *end = NULL;
		long value = c == '?' ? -1 : strtol(optarg, &end, 10);
		if (value < 0 || end == optarg || *end != '\0') {
			return -1;
		}
		*(c == 'w' ? &workers : c == 'j' ? &jobs : &kills) = value;
	}
	if (optind != argc - 1 || workers < 1 || workers > WORKERS_MAX) {
		return -1;
	}
	db_path = argv[optind];
	return 0;
}

int main(int argc, char **argv)
{
	lf_db *db = NULL;
	if (parse_options(argc, argv) != 0) {
		(void)fprintf(stderr, "usage: %s DB [--workers 1..%d] [--jobs N] [--kill N]\n",
			argv[0], WORKERS_MAX);
		return 2;
	}
	FILE *locks = tmpfile();
	if (locks == NULL || lf_open(db_path, NULL, &db) != 0) {
		(void)fprintf(stderr, "cannot open %s\n", db_path);
		if (locks != NULL) {
			(void)fclose(locks);
		}
		return 1;
	}
	int failed = run_queue(db, fileno(locks));
	lf_close(db);
	(void)fclose(locks);
	return failed != 0 ? 1 : 0;
}
