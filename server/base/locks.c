/* SPDX-License-Identifier: MIT */

/* Reads /proc/locks and /proc/PID: what is there is shown, what may not be seen is left out. */

#include "server/base/locks.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* One line: "1: POSIX  ADVISORY  READ 7 fe:00:123 120 128", or with "->" before POSIX: it waits. */
static bool parse(const char *line, dev_t dev, ino_t ino, struct lock_seen *ret_lock)
{
	char kind[8] = "";
	char mode[8] = "";
	char last[24] = "";
	unsigned major = 0;
	unsigned minor = 0;
	unsigned long long inode = 0;
	unsigned long long first = 0;
	int pid = 0;
	const char *text = strchr(line, ':');
	if (text == NULL) {
		return false;
	}
	text += 1 + strspn(text + 1, " ");
	bool waits = strncmp(text, "->", 2) == 0;
	text += waits ? 2 : 0;
	if (sscanf(text, "%7s %*s %7s %d %x:%x:%llu %llu %23s", kind, mode, &pid, &major, &minor,
		    &inode, &first, last) != 8 ||
		(strcmp(kind, "POSIX") != 0 && strcmp(kind, "OFDLCK") != 0) || inode != ino ||
		(dev != 0 && dev != makedev(major, minor))) {
		return false;
	}
	*ret_lock = (struct lock_seen){.pid = pid,
		.write = strcmp(mode, "WRITE") == 0,
		.waits = waits,
		.first = first,
		.last = strcmp(last, "EOF") == 0 ? UINT64_MAX : strtoull(last, NULL, 10)};
	return true;
}

int locks_each(dev_t dev, ino_t ino, void (*fn)(void *ctx, const struct lock_seen *lock), void *ctx)
{
	char line[256];
	struct lock_seen lock;
	FILE *file = fopen("/proc/locks", "re");
	if (file == NULL) {
		return -errno;
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		if (parse(line, dev, ino, &lock)) {
			fn(ctx, &lock);
		}
	}
	fclose(file);
	return 0;
}

void locks_name_process(pid_t pid, char ret_name[LOCKS_NAME_BYTES])
{
	char path[64];
	char command[32] = "?";
	struct stat status = {0};
	if (pid <= 0) {
		snprintf(ret_name, LOCKS_NAME_BYTES, "a process of another pid namespace");
		return;
	}
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	FILE *file = fopen(path, "re");
	if (file != NULL) {
		if (fgets(command, sizeof(command), file) != NULL) {
			command[strcspn(command, "\n")] = 0;
		}
		fclose(file);
	}
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	if (stat(path, &status) == 0) {
		snprintf(ret_name, LOCKS_NAME_BYTES, "pid %d (%s, uid %u)", (int)pid, command,
			(unsigned)status.st_uid);
	} else {
		snprintf(ret_name, LOCKS_NAME_BYTES, "pid %d", (int)pid);
	}
}

/* Whether that descriptor of that process may write: its flags stand in fdinfo, in octal. */
static bool may_write(const char *pid, const char *fd)
{
	char path[600];
	char line[128];
	unsigned long flags = 0;
	snprintf(path, sizeof(path), "/proc/%.200s/fdinfo/%.200s", pid, fd);
	FILE *file = fopen(path, "re");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		if (strncmp(line, "flags:", 6) == 0) {
			flags = strtoul(line + 6, NULL, 8);
			break;
		}
	}
	if (file != NULL) {
		fclose(file);
	}
	return (flags & O_ACCMODE) != O_RDONLY;
}

static bool has_open(const char *pid, const char *const *paths, size_t count)
{
	char name[600];
	char target[4096];
	bool found = false;
	snprintf(name, sizeof(name), "/proc/%.200s/fd", pid);
	DIR *fds = opendir(name);
	for (struct dirent *fd; fds != NULL && !found && (fd = readdir(fds)) != NULL;) {
		ssize_t len = readlinkat(dirfd(fds), fd->d_name, target, sizeof(target) - 1);
		target[len > 0 ? len : 0] = 0;
		for (size_t i = 0; len > 0 && i < count && !found; i++) {
			found = strcmp(target, paths[i]) == 0 && may_write(pid, fd->d_name);
		}
	}
	if (fds != NULL) {
		closedir(fds);
	}
	return found;
}

pid_t locks_find_writer(const char *const *paths, size_t count)
{
	pid_t found = 0;
	DIR *processes = opendir("/proc");
	for (struct dirent *entry;
		processes != NULL && found == 0 && (entry = readdir(processes)) != NULL;) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : 0;
		if (pid > 0 && pid != getpid() && has_open(entry->d_name, paths, count)) {
			found = pid;
		}
	}
	if (processes != NULL) {
		closedir(processes);
	}
	return found;
}
