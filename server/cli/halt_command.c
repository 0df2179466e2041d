/* SPDX-License-Identifier: MIT */

/*
 * halt is the subreaper of its command: whatever that leaves behind becomes halt's own child, so that nothing is forgotten
 * which may still write. Only processes below halt are ever ended.
 */

#include "server/cli/halt_command.h"

#include "server/cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	NOT_RUN = 125,
	KILL_MS = 5000,
	LOOK_MS = 50,
	CHILDREN_MAX = 1024,
};

static const int kept[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};

static void kept_signals(sigset_t *ret_signals)
{
	sigemptyset(ret_signals);
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		sigaddset(ret_signals, kept[i]);
	}
}

void halt_command_block(struct halt_command *command)
{
	sigset_t signals;
	kept_signals(&signals);
	sigprocmask(SIG_BLOCK, &signals, &command->before);
}

int halt_command_signal(void)
{
	sigset_t pending;
	sigpending(&pending);
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		if (kept[i] != SIGCHLD && sigismember(&pending, kept[i])) {
			return kept[i];
		}
	}
	return 0;
}

/* ---- what it has started ---- */

/* The children of one thread, behind those that are there already. */
static size_t children_of_thread(
	pid_t pid, const char *thread, pid_t children[CHILDREN_MAX], size_t count)
{
	char path[PATH_MAX];
	intmax_t child = 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/task/%s/children", (int)pid, thread);
	FILE *file = fopen(path, "re");
	while (file != NULL && count < CHILDREN_MAX && fscanf(file, "%" SCNdMAX, &child) == 1) {
		children[count++] = (pid_t)child;
	}
	if (file != NULL) {
		(void)fclose(file);
	}
	return count;
}

/* The children of a process: at most CHILDREN_MAX. */
static size_t children_of(pid_t pid, pid_t children[CHILDREN_MAX])
{
	char path[64];
	size_t count = 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	DIR *dir = opendir(path);
	for (struct dirent *entry = NULL; dir != NULL && (entry = readdir(dir)) != NULL;) {
		if (entry->d_name[0] != '.') {
			count = children_of_thread(pid, entry->d_name, children, count);
		}
	}
	if (dir != NULL) {
		(void)closedir(dir);
	}
	return count;
}

static bool has_open(pid_t pid, const struct stat *db)
{
	char path[PATH_MAX];
	struct stat opened;
	bool found = false;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	for (struct dirent *entry = NULL;
		dir != NULL && !found && (entry = readdir(dir)) != NULL;) {
		(void)snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, entry->d_name);
		found = stat(path, &opened) == 0 && opened.st_dev == db->st_dev &&
			opened.st_ino == db->st_ino;
	}
	if (dir != NULL) {
		(void)closedir(dir);
	}
	return found;
}

/* The first process below this one that has the database open, or 0. */
static pid_t find_user(pid_t below, const struct stat *db)
{
	pid_t *children = calloc(CHILDREN_MAX, sizeof(*children));
	size_t count = children != NULL ? children_of(below, children) : 0;
	pid_t found = 0;
	for (size_t i = 0; i < count && found == 0; i++) {
		found = has_open(children[i], db) ? children[i] : find_user(children[i], db);
	}
	free(children);
	return found;
}

static void signal_children(int signo)
{
	pid_t *children = calloc(CHILDREN_MAX, sizeof(*children));
	size_t count = children != NULL ? children_of(getpid(), children) : 0;
	for (size_t i = 0; i < count; i++) {
		(void)kill(children[i], signo);
	}
	free(children);
}

/* ---- waiting ---- */

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Until a signal comes, at most that long. What is not the children's is passed on to the command. */
static void wait_ms(int64_t ms, pid_t pid)
{
	sigset_t signals;
	struct timespec left = {ms / 1000, ms % 1000 * 1000000};
	kept_signals(&signals);
	int signo = sigtimedwait(&signals, NULL, &left);
	if (signo == SIGTERM || signo == SIGHUP) {
		(void)kill(pid, signo); /* SIGINT comes to it from the terminal itself */
	}
}

/* The command's wait status once it has ended; false: it has not until then. */
static bool wait_for(pid_t pid, int64_t until_ms, int *ret_status)
{
	for (;;) {
		if (waitpid(pid, ret_status, WNOHANG) == pid) {
			return true;
		}
		int64_t left_ms = until_ms - now_ms();
		if (left_ms <= 0) {
			return false;
		}
		wait_ms(left_ms, pid);
	}
}

/* Ends all that is left: each one's children become ours as it ends. */
static void end_children(int64_t until_ms)
{
	while (now_ms() < until_ms + KILL_MS) { /* what cannot be killed is not waited for */
		pid_t ended = waitpid(-1, NULL, WNOHANG);
		if (ended < 0) {
			return; /* there are none */
		}
		if (ended == 0) {
			struct timespec pause = {0, LOOK_MS * 1000000L};
			signal_children(now_ms() < until_ms ? SIGTERM : SIGKILL);
			(void)nanosleep(&pause, NULL);
		}
	}
}

/* Waits for those that it has left behind and that have the database open. False: they did not end in time. */
static bool wait_for_users(const char *db, int64_t until_ms)
{
	struct stat file;
	pid_t told = 0;
	if (stat(db, &file) != 0) {
		return true;
	}
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0) {
		}
		pid_t user = find_user(getpid(), &file);
		if (user == 0 || now_ms() >= until_ms) {
			return user == 0;
		}
		if (user != told) {
			fprintf(stderr,
				"litefunnel halt: process %d, which the command has started, still has the "
				"database open\n",
				(int)user);
			told = user;
		}
		wait_ms(LOOK_MS, user);
	}
}

/* ---- the command ---- */

static pid_t start(const struct halt_command *command)
{
	pid_t pid = fork();
	if (pid != 0) {
		return pid;
	}
	sigprocmask(SIG_SETMASK, &command->before, NULL);
	setenv("LITEFUNNEL_DB", command->db, 1);
	execvp(command->argv[0], command->argv);
	int error = errno;
	fprintf(stderr, "litefunnel halt: %s: %s\n", command->argv[0], strerror(error));
	_exit(NOT_RUN);
}

int halt_command_run(const struct halt_command *command, bool *ret_failed)
{
	int status = 0;
	*ret_failed = true;
	(void)prctl(PR_SET_CHILD_SUBREAPER, 1);
	int64_t until_ms = now_ms() + command->for_ms;
	pid_t pid = start(command);
	if (pid < 0) {
		cli_fail("halt", "%s", strerror(errno));
		return NOT_RUN;
	}
	bool ended = wait_for(pid, until_ms, &status);
	if (ended && wait_for_users(command->db, until_ms)) {
		*ret_failed = false;
		return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	cli_fail("halt", "%s has had its time (--for): it is ended, with all that it has started",
		command->argv[0]);
	int64_t kill_ms = now_ms() + KILL_MS;
	if (!ended) {
		(void)kill(pid, SIGTERM);
		(void)wait_for(pid, kill_ms, &status);
	}
	end_children(kill_ms);
	return NOT_RUN;
}
