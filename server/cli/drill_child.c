/* SPDX-License-Identifier: MIT */

/*
 * litefunnel drill-child: what the daemon starts for a drill, never called by people. It takes orders
 * over its socket and reports on each. What is kept true: the database itself is only ever read, and
 * only in DRILL_STEP_HASH; everything else comes from the replica.
 */

#include "server/base/child.h"
#include "server/base/cleanup.h"
#include "server/cli/children.h"
#include "server/cli/cli.h"
#include "server/cli/drill_run.h"
#include "server/ship/digest_file.h"
#include "server/ship/heartbeat.h"
#include "server/ship/replica.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	NICENESS = 10,
	/* linux/ioprio.h: the class "best effort", at its lowest level. */
	IO_PROCESS = 1,
	IO_LOWEST = 2 << 13 | 7,
};

#define MEMORY_BYTES_MAX (512ull * 1024 * 1024)

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#endif

/* It goes behind the daemon, and behind whoever else wants the machine. */
static void set_up_process(void)
{
	const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE};
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	struct rlimit no_core = {0, 0};
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
		sigaction(ignored[i], &ignore, NULL);
	}
	setrlimit(RLIMIT_CORE, &no_core);
#ifndef SANITIZED /* whose shadow counts as memory */
	struct rlimit memory = {MEMORY_BYTES_MAX, MEMORY_BYTES_MAX};
	setrlimit(RLIMIT_DATA, &memory);
#endif
	prctl(PR_SET_NAME, "drill");
	prctl(PR_SET_DUMPABLE, 0); /* nobody but root may look into its memory */
	setpriority(PRIO_PROCESS, 0, NICENESS);
	(void)syscall(SYS_ioprio_set, IO_PROCESS, 0, IO_LOWEST);
	umask(0077);
}

/* ---- the socket ---- */

/* All of it. 0, or -EPIPE when the daemon is gone. */
static int transfer(void *bytes, size_t len, bool sends)
{
	uint8_t *at = bytes;
	while (len > 0) {
		struct pollfd fd = {.fd = CHILD_FD_FIRST, .events = sends ? POLLOUT : POLLIN};
		if (poll(&fd, 1, -1) < 0 && errno != EINTR) {
			return -errno;
		}
		ssize_t n = sends ? send(CHILD_FD_FIRST, at, len, MSG_NOSIGNAL)
				  : recv(CHILD_FD_FIRST, at, len, 0);
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
			return -EPIPE;
		}
		at += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/* ---- the live side ---- */

/* A database file's own word for its page size; the number of pages is what there is. */
static int read_shape(const char *path, uint32_t *ret_page_size, uint32_t *ret_pages)
{
	uint8_t header[100];
	struct stat status;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status) != 0) {
		return -errno;
	}
	if (pread(fd, header, sizeof header, 0) != (ssize_t)sizeof header) {
		return -ENODATA;
	}
	uint32_t word = (uint32_t)header[16] << 8 | header[17];
	*ret_page_size = word == 1 ? 65536 : word;
	if (*ret_page_size < 512 || (*ret_page_size & (*ret_page_size - 1)) != 0 ||
		status.st_size % *ret_page_size != 0) {
		return -ENODATA;
	}
	*ret_pages = (uint32_t)(status.st_size / *ret_page_size);
	return 0;
}

static void hash(const struct drill_order *order, struct drill_report *report)
{
	struct digest digest;
	uint32_t page_size = 0;
	uint32_t pages = 0;
	int rc = read_shape(order->db, &page_size, &pages);
	rc = rc == 0 ? digest_file(order->db, page_size, pages, &digest) : rc;
	if (rc == 0) {
		memcpy(report->digest, digest.bytes, DRILL_DIGEST_BYTES);
		return;
	}
	report->verdict = DRILL_INCONCLUSIVE;
	snprintf(report->reason, sizeof report->reason, "%.400s: %s", order->db,
		rc == -ENODATA ? "not a whole database" : strerror(-rc));
}

/* ---- the replica ---- */

static void send_heartbeat(const struct drill_order *order, struct drill_report *report)
{
	const char *url = report->verdict == DRILL_PASS ? order->heartbeat
		: report->verdict == DRILL_FAIL         ? order->heartbeat_fail
							: "";
	char error[HEARTBEAT_ERROR_BYTES] = "";
	if (url[0] != 0 && heartbeat(url, error) != 0) {
		snprintf(report->heartbeat_error, sizeof report->heartbeat_error, "%s", error);
	}
}

static void fill(const struct drill_run *run, struct drill_report *report)
{
	const struct restore_result *result = &run->recover.result;
	char *tables = run->tables != NULL ? json_dumps(run->tables, JSON_COMPACT) : NULL;
	report->verdict = run->verdict;
	memcpy(report->reason, run->reason, sizeof report->reason);
	report->commit_no = result->point.commit;
	report->txid = result->point.txid;
	report->rto_ms = (int64_t)(run->recover.took_us / 1000);
	report->files = result->files;
	report->bytes = result->bytes;
	report->database_bytes = (uint64_t)result->page_size * result->pages;
	report->violations = run->violations;
	report->assertions = run->asked;
	if (tables != NULL && strlen(tables) < sizeof report->tables) {
		strcpy(report->tables, tables);
	}
	free(tables);
}

static void restore(const struct drill_order *order, struct drill_report *report)
{
	struct scratch scratch = {0};
	struct replicas replicas = {.urls = {order->replica}, .count = 1};
	struct drill_run run = {
		.replicas = &replicas,
		.target = {.kind = PLAN_COMMIT, .number = order->commit_no},
		.script = order->assertions[0] != 0 ? order->assertions : NULL,
		.has_digest = true,
		.scratch = &scratch,
		.keep_free = order->keep_free,
		.quiet = true,
	};
	memcpy(run.digest, order->digest, sizeof run.digest);
	replica_count_usage(order->spool);
	int rc = scratch_begin_at(&scratch, order->dir);
	if (rc == 0) {
		setenv("SQLITE_TMPDIR", order->dir,
			1); /* what an assertion sorts stays there, too */
		drill_run(&run);
		fill(&run, report);
		send_heartbeat(order, report);
	} else {
		report->verdict = DRILL_INCONCLUSIVE;
		snprintf(report->reason, sizeof report->reason,
			"cannot make the directory %.400s: %s (cure: setting drill_dir)",
			order->dir, strerror(-rc));
	}
	json_decref(run.tables);
	scratch_finish(&scratch);
}

int cli_drill_child(int argc, char **argv)
{
	(void)argv;
	if (argc != 1 || fcntl(CHILD_FD_FIRST, F_GETFD) < 0) {
		return cli_usage("drill-child", "it is started by `litefunnel serve`, not by hand");
	}
	child_bind_to_parent();
	set_up_process();
	CLEANUP_FREE struct drill_order *order = calloc(1, sizeof *order);
	CLEANUP_FREE struct drill_report *report = calloc(1, sizeof *report);
	while (order != NULL && report != NULL && transfer(order, sizeof *order, false) == 0) {
		memset(report, 0, sizeof *report);
		report->step = order->step;
		if (order->step == DRILL_STEP_HASH) {
			hash(order, report);
		} else {
			restore(order, report);
		}
		if (transfer(report, sizeof *report, true) != 0) {
			break;
		}
	}
	return CLI_DONE;
}

int drill_child_start(pid_t *ret_pid, int *ret_fd)
{
	static const char *const argv[] = {"litefunnel", "drill-child", NULL};
	return child_start(argv, NULL, 0, ret_pid, ret_fd);
}
