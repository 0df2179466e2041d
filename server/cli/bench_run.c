/* SPDX-License-Identifier: MIT */

/*
 * Starts the processes of a run, lets them all begin at one moment, looks at the daemon when the
 * measured time begins and ends, and adds up. It measures from outside: no process of the run does
 * anything for it but count.
 */

#include "server/cli/bench_run.h"

#include "client/litefunnel.h"
#include "server/cli/bench_arena.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

/* The daemon at one moment. */
struct moment {
	uint64_t cpu_us;
	uint64_t written_bytes;
	uint64_t commits;
	uint64_t batches;
	uint64_t exec_us;
	uint64_t commit_us;
	bool written_known;
};

struct running {
	const struct bench_options *options;
	enum bench_mode mode;
	struct arena arena;
	struct stage *stage;
	size_t stage_bytes;
	lf_db *db; /* to the daemon; or NULL */
	struct moment before;
	struct moment after;
	char *error;
};

static void interrupt(int number)
{
	(void)number;
	interrupted = 1;
}

void bench_catch_signals(void)
{
	struct sigaction action = {.sa_handler = interrupt};
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

bool bench_interrupted(void)
{
	return interrupted != 0;
}

static int failed(struct running *running, const char *what, const char *why)
{
	snprintf(running->error, RUN_TEXT_BYTES, "%.300s: %.200s", what, why);
	return -1;
}

/* ---- the processes ---- */

static int make_stage(struct running *running, unsigned batch_rows)
{
	const struct bench_options *options = running->options;
	unsigned writers = running->mode == BENCH_RAW ? 1 : options->writers;
	unsigned count = writers + options->readers + options->bulk;
	running->stage_bytes = sizeof(struct stage) + count * sizeof(struct slot);
	struct stage *stage = mmap(NULL, running->stage_bytes, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (stage == MAP_FAILED) {
		return failed(running, "mmap", strerror(errno));
	}
	bool direct = running->mode == BENCH_DIRECT || running->mode == BENCH_RAW;
	stage->options = options;
	stage->target = direct ? &target_direct : &target_funnel;
	stage->mode = running->mode;
	stage->batch_rows = batch_rows;
	stage->db = running->arena.db;
	stage->slots_count = count;
	for (unsigned i = 0; i < count; i++) {
		struct slot *slot = &stage->slots[i];
		slot->role = i < writers                 ? WORKER_WRITES
			: i < writers + options->readers ? WORKER_READS
							 : WORKER_IMPORTS;
		slot->number = slot->role == WORKER_WRITES ? i
			: slot->role == WORKER_READS       ? i - writers
							   : 0;
		histogram_init(&slot->latency);
	}
	running->stage = stage;
	return 0;
}

/* Ctrl-C is for the parent, which then tells the workers. */
static _Noreturn void become_worker(
	struct stage *stage, struct slot *slot, const int ready[2], const int go[2], pid_t parent)
{
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	close(ready[0]);
	close(go[1]);
	worker_main(stage, slot, ready[1], go[0], parent);
}

static int start_workers(struct running *running, const int ready[2], const int go[2])
{
	pid_t self = getpid();
	for (unsigned i = 0; i < running->stage->slots_count; i++) {
		struct slot *slot = &running->stage->slots[i];
		pid_t pid = fork();
		if (pid == 0) {
			become_worker(running->stage, slot, ready, go, self);
		}
		if (pid < 0) {
			return failed(running, "fork", strerror(errno));
		}
		slot->pid = pid;
	}
	return 0;
}

/* All have closed their end: they are ready, or gone. */
static void wait_for_workers(int ready_fd)
{
	char byte = 0;
	while (read(ready_fd, &byte, 1) < 0 && errno == EINTR && !interrupted) {
	}
}

static int reap_workers(struct running *running)
{
	int rc = 0;
	for (unsigned i = 0; i < running->stage->slots_count; i++) {
		struct slot *slot = &running->stage->slots[i];
		int status = 0;
		while (slot->pid > 0 && waitpid(slot->pid, &status, 0) < 0 && errno == EINTR) {
			atomic_store(&running->stage->stop, interrupted != 0);
		}
		if (rc == 0 && !slot->finished) {
			rc = failed(running, "a process of the run failed",
				slot->failure[0] != '\0' ? slot->failure : "it ended early");
		}
	}
	return rc;
}

/* ---- the daemon ---- */

static uint64_t stat_of(const lf_reply *stats, const char *name)
{
	for (size_t row = 0; row < lf_reply_rows(stats, 0); row++) {
		size_t len = 0;
		const char *text = lf_reply_text(stats, 0, row, 0, &len);
		if (len == strlen(name) && memcmp(text, name, len) == 0) {
			return (uint64_t)lf_reply_int64(stats, 0, row, 1);
		}
	}
	return 0;
}

static void look(struct running *running, struct moment *moment)
{
	lf_reply *stats = NULL;
	if (running->db == NULL) {
		return;
	}
	moment->cpu_us = arena_cpu_us(running->arena.daemon);
	moment->written_known = worker_written_bytes(running->arena.daemon, &moment->written_bytes);
	if (lf_show(running->db, "stats", NULL, &stats) == LF_OK) {
		moment->commits = stat_of(stats, "commits_total");
		moment->batches = stat_of(stats, "batches_total");
		moment->exec_us = stat_of(stats, "exec_us_total");
		moment->commit_us = stat_of(stats, "commit_us_total");
	}
	lf_reply_free(stats);
}

/* ---- the time ---- */

static void print_progress(const struct stage *stage, double seconds, uint64_t *last_rows)
{
	uint64_t rows = 0;
	uint64_t max_ns = 0;
	for (unsigned i = 0; i < stage->slots_count; i++) {
		const struct slot *slot = &stage->slots[i];
		if (slot->role == WORKER_WRITES) {
			uint64_t slot_max_ns = atomic_load(&slot->latency.max_ns);
			rows += atomic_load(&slot->rows);
			max_ns = slot_max_ns > max_ns ? slot_max_ns : max_ns;
		}
	}
	fprintf(stderr, "%-14s %4.0f s  %9llu rows/s  longest %.1f ms\n",
		bench_mode_name(stage->mode), seconds, (unsigned long long)(rows - *last_rows),
		(double)max_ns / 1e6);
	*last_rows = rows;
}

static void sleep_until(struct stage *stage, uint64_t until_ns)
{
	struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
	while (!interrupted &&
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
	}
	atomic_store(&stage->stop, interrupted != 0);
}

static void watch(struct running *running)
{
	struct stage *stage = running->stage;
	uint64_t last_rows = 0;
	sleep_until(stage, stage->measure_ns);
	look(running, &running->before);
	for (uint64_t at_ns = stage->measure_ns + 1000000000;
		running->options->progress && at_ns < stage->end_ns && !interrupted;
		at_ns += 1000000000) {
		sleep_until(stage, at_ns);
		print_progress(stage, (double)(at_ns - stage->measure_ns) / 1e9, &last_rows);
	}
	sleep_until(stage, stage->end_ns);
	look(running, &running->after);
}

/* From the first process to the last. */
static int run_workers(struct running *running)
{
	struct stage *stage = running->stage;
	int ready[2] = {-1, -1};
	int go[2] = {-1, -1};
	if (pipe2(ready, O_CLOEXEC) != 0 || pipe2(go, O_CLOEXEC) != 0) {
		return failed(running, "pipe", strerror(errno));
	}
	int rc = start_workers(running, ready, go);
	close(ready[1]);
	close(go[0]);
	if (rc == 0) {
		wait_for_workers(ready[0]);
	}
	atomic_store(&stage->stop, rc != 0 || interrupted != 0);
	stage->begin_ns = target_now_ns();
	stage->measure_ns = stage->begin_ns + (uint64_t)(running->options->warmup_seconds * 1e9);
	stage->end_ns = stage->measure_ns + (uint64_t)(running->options->seconds * 1e9);
	close(ready[0]);
	close(go[1]); /* now */
	if (rc == 0) {
		watch(running);
	}
	int reaped = reap_workers(running);
	return rc != 0 ? rc : reaped;
}

/* ---- adding up ---- */

static void add_error(struct bench_run *run, const char *name, uint64_t count)
{
	unsigned i = 0;
	while (i < run->errors_count && strcmp(run->errors[i].name, name) != 0) {
		i++;
	}
	if (i == RUN_ERRORS_MAX) {
		i--;
	}
	if (i == run->errors_count) {
		snprintf(run->errors[i].name, sizeof(run->errors[i].name), "%s", name);
		run->errors_count++;
	}
	run->errors[i].count += count;
}

static void add_slot(struct bench_run *run, struct run_side *side, const struct slot *slot)
{
	side->requests += atomic_load(&slot->requests);
	side->rows += atomic_load(&slot->rows);
	histogram_merge(&side->latency, &slot->latency);
	run->cpu_clients_s += (double)slot->cpu_us / 1e6;
	for (unsigned i = 0; i < SLOT_ERRORS_MAX && slot->errors[i].name[0] != '\0'; i++) {
		add_error(run, slot->errors[i].name, atomic_load(&slot->errors[i].count));
	}
}

static struct run_side *side_of(struct bench_run *run, enum worker_role role)
{
	return role == WORKER_WRITES   ? &run->writes
		: role == WORKER_READS ? &run->reads
				       : &run->imports;
}

/* Each process's part, of what all would have had with equal parts. */
static void find_shares(const struct stage *stage, struct bench_run *run, enum worker_role role)
{
	struct run_side *side = side_of(run, role);
	unsigned count = 0;
	uint64_t least = UINT64_MAX;
	uint64_t most = 0;
	for (unsigned i = 0; i < stage->slots_count; i++) {
		uint64_t requests = atomic_load(&stage->slots[i].requests);
		if (stage->slots[i].role == role) {
			least = requests < least ? requests : least;
			most = requests > most ? requests : most;
			count++;
		}
	}
	if (side->requests > 0) {
		double mean = (double)side->requests / count;
		side->share_min = (double)least / mean;
		side->share_max = (double)most / mean;
	}
}

static void add_up(struct running *running, struct bench_run *run)
{
	const struct stage *stage = running->stage;
	const struct moment *before = &running->before;
	const struct moment *after = &running->after;
	run->seconds = running->options->seconds;
	run->written_known = true;
	for (unsigned i = 0; i < stage->slots_count; i++) {
		const struct slot *slot = &stage->slots[i];
		add_slot(run, side_of(run, slot->role), slot);
		run->written_known = run->written_known && slot->written_known;
		run->written_bytes += slot->written_bytes;
	}
	find_shares(stage, run, WORKER_WRITES);
	find_shares(stage, run, WORKER_READS);
	if (running->db == NULL) {
		run->commits = run->writes.requests + run->imports.requests;
		run->commits_requests = run->commits;
		return;
	}
	run->written_known = before->written_known && after->written_known;
	run->written_bytes = after->written_bytes - before->written_bytes;
	run->cpu_daemon_s = (double)(after->cpu_us - before->cpu_us) / 1e6;
	run->commits = after->commits - before->commits;
	run->commits_requests = after->batches - before->batches;
	run->writer_exec_s = (double)(after->exec_us - before->exec_us) / 1e6;
	run->writer_commit_s = (double)(after->commit_us - before->commit_us) / 1e6;
	run->daemon_peak_bytes = arena_peak_bytes(running->arena.daemon);
}

/* ---- the count at the end ---- */

static int check(struct running *running, struct bench_run *run)
{
	uint64_t changed[KINDS] = {0};
	uint64_t unknown = 0;
	bool right = false;
	sqlite3 *handle = NULL;
	for (unsigned i = 0; i < running->stage->slots_count; i++) {
		const struct slot *slot = &running->stage->slots[i];
		unknown += slot->unknown;
		for (int kind = 0; kind < KINDS; kind++) {
			changed[kind] += slot->changed[kind];
		}
	}
	if (unknown > 0) {
		run->check = CHECK_UNKNOWN;
		snprintf(run->check_text, sizeof(run->check_text),
			"%llu requests have an unknown outcome", (unsigned long long)unknown);
		return 0;
	}
	int rc = sqlite3_open_v2(
		running->arena.db, &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	rc = rc == SQLITE_OK ? workload_check(handle, running->options, changed, &right,
				       run->check_text, sizeof(run->check_text))
			     : rc;
	run->check = right ? CHECK_RIGHT : CHECK_WRONG;
	if (rc != SQLITE_OK) {
		failed(running, running->arena.db, sqlite3_errmsg(handle));
	}
	sqlite3_close(handle);
	return rc == SQLITE_OK ? 0 : -1;
}

/* ---- the run ---- */

static int connect_daemon(struct running *running)
{
	if (running->arena.daemon == 0) {
		return 0;
	}
	int rc = lf_open(running->arena.db, NULL, &running->db);
	return rc == 0 ? 0 : failed(running, running->arena.db, strerror(-rc));
}

static int run_all(struct running *running, unsigned batch_rows, struct bench_run *run)
{
	bool funnel = running->mode == BENCH_FUNNEL || running->mode == BENCH_FUNNEL_NO_KEYS;
	if (arena_init(&running->arena, running->options, funnel, running->error) != 0 ||
		make_stage(running, batch_rows) != 0 || connect_daemon(running) != 0 ||
		run_workers(running) != 0) {
		return -1;
	}
	add_up(running, run);
	lf_close(running->db);
	running->db = NULL;
	return arena_stop(&running->arena, running->error) == 0 ? check(running, run) : -1;
}

int bench_run(const struct bench_options *options, enum bench_mode mode, unsigned batch_rows,
	struct bench_run *ret_run, char ret_error[RUN_TEXT_BYTES])
{
	struct running running = {.options = options, .mode = mode, .error = ret_error};
	memset(ret_run, 0, sizeof(*ret_run));
	ret_run->mode = mode;
	ret_run->batch_rows = batch_rows;
	histogram_init(&ret_run->writes.latency);
	histogram_init(&ret_run->reads.latency);
	histogram_init(&ret_run->imports.latency);
	int rc = run_all(&running, batch_rows, ret_run);
	lf_close(running.db);
	arena_finish(&running.arena);
	if (running.stage != NULL) {
		munmap(running.stage, running.stage_bytes);
	}
	return bench_interrupted() ? -2 : rc;
}

int bench_best_batch(
	const struct bench_options *options, unsigned *ret_rows, char ret_error[RUN_TEXT_BYTES])
{
	static const unsigned sizes[] = {100, 1000, 10000};
	struct bench_options trial = *options;
	struct bench_run *run = calloc(1, sizeof(*run));
	uint64_t best = 0;
	int rc = run != NULL ? 0 : -1;
	trial.readers = 0;
	trial.bulk = false;
	trial.rate = 0;
	trial.progress = false;
	trial.warmup_seconds = 0.1;
	trial.seconds = options->seconds < 0.5 ? options->seconds : 0.5;
	for (size_t i = 0; rc == 0 && i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		rc = bench_run(&trial, BENCH_RAW, sizes[i], run, ret_error);
		if (rc == 0 && (i == 0 || run->writes.rows > best)) {
			best = run->writes.rows;
			*ret_rows = sizes[i];
		}
	}
	free(run);
	return rc;
}
