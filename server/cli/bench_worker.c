/* SPDX-License-Identifier: MIT */

/*
 * What a process of a run does. It keeps true that a request which is late counts from when it should
 * have begun: with --rate the moments are fixed before, whatever the answers do, so a stall shows in
 * every request that it held up.
 */

#include "server/cli/bench_worker.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { IMPORT_ROWS = 1000, IMPORT_ROWS_DIRECT = 10000 };

struct worker {
	struct stage *stage;
	struct slot *slot;
	uint64_t interval_ns; /* between two requests; 0: no pause */
	uint64_t due_ns;
	bool measuring;
	uint64_t cpu_us; /* when the measuring began */
	uint64_t written_bytes;
};

static uint64_t cpu_us(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return ((uint64_t)usage.ru_utime.tv_sec + (uint64_t)usage.ru_stime.tv_sec) * 1000000 +
		(uint64_t)usage.ru_utime.tv_usec + (uint64_t)usage.ru_stime.tv_usec;
}

bool worker_written_bytes(pid_t pid, uint64_t *ret_bytes)
{
	char path[64];
	char line[128];
	bool found = false;
	snprintf(path, sizeof(path), "/proc/%d/io", (int)pid);
	FILE *file = fopen(path, "re");
	while (file != NULL && !found && fgets(line, sizeof(line), file) != NULL) {
		unsigned long long bytes = 0;
		found = sscanf(line, "write_bytes: %llu", &bytes) == 1;
		*ret_bytes = bytes;
	}
	if (file != NULL) {
		fclose(file);
	}
	return found;
}

static void add(_Atomic uint64_t *counter, uint64_t by)
{
	uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, now + by, memory_order_relaxed);
}

static _Noreturn void give_up(struct worker *worker, const char *why)
{
	snprintf(worker->slot->failure, sizeof(worker->slot->failure), "%s", why);
	_exit(EXIT_FAILURE);
}

/* ---- counting ---- */

static void count_error(struct slot *slot, const char *name)
{
	for (unsigned i = 0; i < SLOT_ERRORS_MAX; i++) {
		struct error_count *error = &slot->errors[i];
		bool last = i == SLOT_ERRORS_MAX - 1;
		if (error->name[0] == '\0') {
			snprintf(error->name, sizeof(error->name), "%s", last ? "others" : name);
		}
		if (last || strcmp(error->name, name) == 0) {
			add(&error->count, 1);
			return;
		}
	}
}

/* The measured time begins, or ends, with the first look at the clock after it. */
static void watch_time(struct worker *worker, uint64_t now_ns)
{
	struct slot *slot = worker->slot;
	if (!worker->measuring && now_ns >= worker->stage->measure_ns && slot->ended_ns == 0) {
		worker->measuring = true;
		worker->cpu_us = cpu_us();
		slot->written_known = worker_written_bytes(getpid(), &worker->written_bytes);
	}
	if (worker->measuring && now_ns >= worker->stage->end_ns) {
		uint64_t bytes = 0;
		worker->measuring = false;
		slot->ended_ns = now_ns;
		slot->cpu_us = cpu_us() - worker->cpu_us;
		slot->written_known = slot->written_known && worker_written_bytes(getpid(), &bytes);
		slot->written_bytes = bytes - worker->written_bytes;
	}
}

static void count_answer(struct worker *worker, const struct answer *answer)
{
	struct slot *slot = worker->slot;
	uint64_t now_ns = target_now_ns();
	watch_time(worker, now_ns);
	slot->changed[answer->kind] += answer->changed;
	slot->unknown += answer->unknown;
	slot->committed += answer->done;
	if (now_ns < worker->stage->measure_ns) {
		return;
	}
	histogram_add(&slot->latency, now_ns - answer->start_ns);
	if (!answer->done) {
		count_error(slot, answer->error);
	} else if (now_ns < worker->stage->end_ns) {
		add(&slot->requests, 1);
		add(&slot->rows, answer->rows);
	}
}

/* ---- writing ---- */

static bool over(const struct worker *worker, uint64_t now_ns)
{
	return now_ns >= worker->stage->end_ns ||
		atomic_load_explicit(&worker->stage->stop, memory_order_relaxed);
}

/* Fills up to `depth` requests in flight with those that are due. */
static void submit_due(struct worker *worker, struct target *target, struct workload *workload,
	unsigned depth, unsigned *in_flight)
{
	uint64_t now_ns = target_now_ns();
	while (*in_flight < depth && worker->due_ns <= now_ns && !over(worker, now_ns)) {
		uint64_t start_ns = worker->interval_ns > 0 ? worker->due_ns : now_ns;
		int rc = worker->stage->target->submit(target, workload_next(workload), start_ns);
		if (rc != 0) {
			give_up(worker, strerror(-rc));
		}
		worker->due_ns += worker->interval_ns;
		(*in_flight)++;
		now_ns = target_now_ns();
	}
}

static void sleep_until(uint64_t until_ns)
{
	struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static void write_on(struct worker *worker, struct target *target, struct workload *workload)
{
	const struct stage *stage = worker->stage;
	unsigned depth = stage->target->depth(stage->options, worker->slot->role == WORKER_IMPORTS);
	unsigned in_flight = 0;
	uint64_t now_ns = target_now_ns();
	while (!over(worker, now_ns) || in_flight > 0) {
		struct answer answer;
		submit_due(worker, target, workload, depth, &in_flight);
		bool paced = worker->interval_ns > 0 && in_flight < depth && !over(worker, now_ns);
		uint64_t until_ns = paced ? worker->due_ns : UINT64_MAX;
		int rc = in_flight > 0 ? stage->target->next(target, until_ns, &answer)
				       : TARGET_NOTHING;
		if (rc == 0) {
			in_flight--;
			count_answer(worker, &answer);
		} else if (rc < 0) {
			give_up(worker, strerror(-rc));
		} else if (in_flight == 0) {
			sleep_until(
				worker->due_ns < stage->end_ns ? worker->due_ns : stage->end_ns);
		}
		now_ns = target_now_ns();
		watch_time(worker, now_ns);
	}
}

static void write_rows(struct worker *worker, int ready_fd, int go_fd)
{
	struct stage *stage = worker->stage;
	const struct bench_options *options = stage->options;
	bool import = worker->slot->role == WORKER_IMPORTS;
	unsigned rows = import && stage->target == &target_direct ? IMPORT_ROWS_DIRECT
		: import                                          ? IMPORT_ROWS
								  : stage->batch_rows;
	struct target *target = NULL;
	struct workload workload;
	char byte = 0;
	if (workload_init(&workload, options, worker->slot->number, rows, import) != 0) {
		give_up(worker, "out of memory");
	}
	int rc = stage->target->open(
		options, stage->mode, stage->db, import, &target, worker->slot->failure);
	if (rc != 0) {
		_exit(EXIT_FAILURE);
	}
	close(ready_fd);
	while (read(go_fd, &byte, 1) < 0 && errno == EINTR) {
	}
	if (options->rate > 0 && worker->slot->role == WORKER_WRITES) {
		/* The workers' moments lie between each other, not on each other. */
		worker->interval_ns = (uint64_t)(1e9 * options->writers / options->rate);
		worker->interval_ns = worker->interval_ns > 0 ? worker->interval_ns : 1;
		worker->due_ns = stage->begin_ns +
			worker->interval_ns * worker->slot->number / options->writers;
	}
	write_on(worker, target, &workload);
	stage->target->close(target);
	workload_finish(&workload);
}

/* ---- reading ---- */

static sqlite3_stmt *open_reader(struct worker *worker, sqlite3 **ret_handle)
{
	sqlite3_stmt *stmt = NULL;
	int rc = sqlite3_open_v2(
		worker->stage->db, ret_handle, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL);
	sqlite3_busy_timeout(*ret_handle, 5000);
	rc = rc == SQLITE_OK ? sqlite3_prepare_v2(*ret_handle,
				       "SELECT body FROM bench_row WHERE id = ?1", -1, &stmt, NULL)
			     : rc;
	if (rc != SQLITE_OK) {
		give_up(worker, sqlite3_errmsg(*ret_handle));
	}
	return stmt;
}

static void read_rows(struct worker *worker, int ready_fd, int go_fd)
{
	const struct bench_options *options = worker->stage->options;
	struct workload random; /* for its random numbers */
	sqlite3 *handle = NULL;
	sqlite3_stmt *stmt = open_reader(worker, &handle);
	char byte = 0;
	if (workload_init(&random, options, 1000 + worker->slot->number, 1, false) != 0) {
		give_up(worker, "out of memory");
	}
	close(ready_fd);
	while (read(go_fd, &byte, 1) < 0 && errno == EINTR) {
	}
	for (uint64_t now_ns = target_now_ns(); !over(worker, now_ns); now_ns = target_now_ns()) {
		uint64_t id = workload_random(&random, options->table_rows);
		sqlite3_bind_int64(stmt, 1, (sqlite3_int64)id);
		int rc = sqlite3_step(stmt);
		sqlite3_reset(stmt);
		struct answer answer = {
			.start_ns = now_ns, .rows = 1, .done = rc == SQLITE_ROW, .error = "read"};
		count_answer(worker, &answer);
	}
	watch_time(worker, target_now_ns());
	sqlite3_finalize(stmt);
	sqlite3_close(handle);
	workload_finish(&random);
}

_Noreturn void worker_main(
	struct stage *stage, struct slot *slot, int ready_fd, int go_fd, pid_t parent)
{
	struct worker worker = {.stage = stage, .slot = slot};
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) {
		_exit(EXIT_FAILURE);
	}
	if (slot->role == WORKER_READS) {
		read_rows(&worker, ready_fd, go_fd);
	} else {
		write_rows(&worker, ready_fd, go_fd);
	}
	slot->finished = true;
	_exit(EXIT_SUCCESS);
}
