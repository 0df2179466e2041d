/* SPDX-License-Identifier: MIT */

/*
 * Everything lies in a directory of its own, made for the run and removed with it: no file that was
 * there before is opened. The daemon is this program, started as anybody would start it; of the
 * environment's settings no process of a run gets any.
 */

#include "server/cli/bench_arena.h"

#include "server/cli/bench_workload.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	READY_MS = 60000,
	NOT_STARTED = 125,
	DIRECTORY_BYTES_MAX = 107 - (int)sizeof("/litefunnel-bench-XXXXXX/bench.db-funnel") + 1,
};

static int failed(char *ret_error, const char *what, const char *why)
{
	snprintf(ret_error, ARENA_ERROR_BYTES, "%.300s: %.200s", what, why);
	return -1;
}

/* ---- the database ---- */

static int sync_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	int rc = fd >= 0 ? fsync(fd) : -1;
	if (fd >= 0) {
		close(fd);
	}
	return rc;
}

static int make_database(struct arena *arena, const struct bench_options *options, char *ret_error)
{
	sqlite3 *handle = NULL;
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
	int rc = sqlite3_open_v2(arena->db, &handle, flags, NULL);
	rc = rc == SQLITE_OK ? workload_create(handle, options) : rc;
	if (rc != SQLITE_OK) {
		failed(ret_error, arena->db, sqlite3_errmsg(handle));
	}
	sqlite3_close(handle); /* the last one: all that is in the WAL goes into the file */
	if (rc == SQLITE_OK && sync_file(arena->db) != 0) {
		return failed(ret_error, arena->db, strerror(errno));
	}
	return rc == SQLITE_OK ? 0 : -1;
}

/* ---- the daemon ---- */

void arena_forget_settings(void)
{
	char name[256];
	for (size_t i = 0; environ[i] != NULL;) {
		size_t len = strcspn(environ[i], "=");
		if (strncmp(environ[i], "LITEFUNNEL_", 11) == 0 && len < sizeof(name)) {
			memcpy(name, environ[i], len);
			name[len] = '\0';
			unsetenv(name);
		} else {
			i++;
		}
	}
	unsetenv("NOTIFY_SOCKET");
	unsetenv("LISTEN_FDS");
}

static _Noreturn void become_daemon(
	const struct arena *arena, const struct bench_options *options, int out, pid_t parent)
{
	char set[BENCH_SETTINGS_MAX][512];
	const char *argv[BENCH_SETTINGS_MAX + 8] = {"litefunnel", "serve", arena->db, "--sync",
		options->sync_full ? "full" : "normal", "--log-level", "warn"};
	size_t count = 7;
	for (unsigned i = 0; i < options->settings_count; i++) {
		snprintf(set[i], sizeof(set[i]), "--%s", options->settings[i]);
		for (char *at = set[i]; *at != '\0' && *at != '='; at++) {
			*at = *at == '_' ? '-' : *at;
		}
		argv[count++] = set[i];
	}
	setpgid(0, 0); /* a Ctrl-C is for us */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() == parent) {
		dup2(out, STDOUT_FILENO);
		execv("/proc/self/exe", (char *const *)(uintptr_t)argv);
		fprintf(stderr, "litefunnel bench: cannot start the daemon: %s\n", strerror(errno));
	}
	_exit(NOT_STARTED);
}

/* It says so on stdout when it takes clients. */
static bool wait_ready(int fd)
{
	char line[16] = "";
	size_t len = 0;
	struct pollfd pollfd = {fd, POLLIN, 0};
	while (len < 5 && poll(&pollfd, 1, READY_MS) > 0) {
		ssize_t got = read(fd, line + len, sizeof(line) - 1 - len);
		if (got <= 0) {
			break;
		}
		len += (size_t)got;
	}
	return strncmp(line, "ready", 5) == 0;
}

static int start_daemon(struct arena *arena, const struct bench_options *options, char *ret_error)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) != 0) {
		return failed(ret_error, "pipe", strerror(errno));
	}
	pid_t self = getpid();
	arena->daemon = fork();
	if (arena->daemon == 0) {
		become_daemon(arena, options, fds[1], self);
	}
	close(fds[1]);
	bool ready = arena->daemon > 0 && wait_ready(fds[0]);
	close(fds[0]);
	if (arena->daemon < 0) {
		arena->daemon = 0;
		return failed(ret_error, "fork", strerror(errno));
	}
	return ready ? 0 : failed(ret_error, arena->db, "the daemon did not start");
}

int arena_stop(struct arena *arena, char ret_error[ARENA_ERROR_BYTES])
{
	int status = 0;
	if (arena->daemon == 0) {
		return 0;
	}
	kill(arena->daemon, SIGTERM);
	while (waitpid(arena->daemon, &status, 0) < 0 && errno == EINTR) {
	}
	arena->daemon = 0;
	return status == 0 ? 0 : failed(ret_error, arena->db, "the daemon ended badly");
}

/* ---- both ---- */

int arena_init(struct arena *arena, const struct bench_options *options, bool daemon,
	char ret_error[ARENA_ERROR_BYTES])
{
	*arena = (struct arena){.daemon = 0};
	if (daemon && strlen(options->directory) > DIRECTORY_BYTES_MAX) {
		return failed(ret_error, options->directory,
			"too deep for a Unix socket (107 bytes): use a shorter --db");
	}
	snprintf(arena->directory, sizeof(arena->directory), "%s/litefunnel-bench-XXXXXX",
		options->directory);
	if (mkdtemp(arena->directory) == NULL) {
		return failed(ret_error, options->directory, strerror(errno));
	}
	arena->made = true;
	snprintf(arena->db, sizeof(arena->db), "%s/bench.db", arena->directory);
	int rc = make_database(arena, options, ret_error);
	return rc == 0 && daemon ? start_daemon(arena, options, ret_error) : rc;
}

/* What the daemon leaves beside the database, its directories included. */
static void remove_all(int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *entry = NULL;
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
			continue;
		}
		if (unlinkat(fd, entry->d_name, 0) != 0) {
			remove_all(fd, entry->d_name);
		}
	}
	if (dir != NULL) {
		closedir(dir);
	}
	unlinkat(parent, name, AT_REMOVEDIR);
}

void arena_finish(struct arena *arena)
{
	char error[ARENA_ERROR_BYTES];
	(void)arena_stop(arena, error);
	if (arena->made) {
		remove_all(AT_FDCWD, arena->directory);
		arena->made = false;
	}
}

/* ---- what a process has used ---- */

uint64_t arena_cpu_us(pid_t pid)
{
	clockid_t clock;
	struct timespec used = {0, 0};
	if (pid > 0 && clock_getcpuclockid(pid, &clock) == 0) {
		clock_gettime(clock, &used);
	}
	return (uint64_t)used.tv_sec * 1000000 + (uint64_t)used.tv_nsec / 1000;
}

uint64_t arena_peak_bytes(pid_t pid)
{
	char path[64];
	char line[256];
	unsigned long long kib = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *file = fopen(path, "re");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "VmHWM: %llu", &kib) == 1) {
			break;
		}
	}
	if (file != NULL) {
		fclose(file);
	}
	return kib * 1024;
}
