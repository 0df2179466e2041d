/* SPDX-License-Identifier: MIT */

/* A private directory below the one for temporary files. Holds files only, no directories. */

#include "server/cli/scratch.h"

#include "server/base/cleanup.h"
#include "server/cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int scratch_begin(struct scratch *scratch, const char *command, const char *where)
{
	const char *tmpdir = getenv("TMPDIR");
	if (where == NULL) {
		where = tmpdir != NULL && tmpdir[0] != '\0' ? tmpdir : "/var/tmp";
	}
	*scratch = (struct scratch){0};
	if (asprintf(&scratch->dir, "%s/litefunnel.XXXXXX", where) < 0) {
		scratch->dir = NULL;
		return cli_fail(command, "out of memory");
	}
	if (mkdtemp(scratch->dir) == NULL) {
		int code = cli_fail(command, "cannot make a directory in %s: %s (cure: --dir)",
			where, strerror(errno));
		free(scratch->dir);
		scratch->dir = NULL;
		return code;
	}
	if (asprintf(&scratch->file, "%s/restored.db", scratch->dir) < 0) {
		scratch->file = NULL;
		return cli_fail(command, "out of memory");
	}
	return CLI_DONE;
}

static void empty(const char *dir)
{
	DIR *list = opendir(dir);
	for (struct dirent *entry = NULL; list != NULL && (entry = readdir(list)) != NULL;) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			unlinkat(dirfd(list), entry->d_name, 0);
		}
	}
	if (list != NULL) {
		closedir(list);
	}
}

/* 0 if it is a directory that nobody else could have made, or could change. */
static int check_ours(const char *dir)
{
	struct stat status;
	if (lstat(dir, &status) != 0) {
		return -errno;
	}
	return S_ISDIR(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & 0077) == 0
		? 0
		: -EEXIST;
}

int scratch_begin_at(struct scratch *scratch, const char *dir)
{
	*scratch = (struct scratch){0};
	int rc = mkdir(dir, 0700) == 0 ? 0 : -errno;
	if (rc == -EEXIST) {
		rc = check_ours(dir);
		if (rc == 0) {
			empty(dir);
		}
	}
	if (rc != 0) {
		return rc;
	}
	scratch->dir = strdup(dir);
	if (scratch->dir == NULL || asprintf(&scratch->file, "%s/restored.db", dir) < 0) {
		scratch->file = NULL;
		return -ENOMEM;
	}
	return 0;
}

void scratch_finish(struct scratch *scratch)
{
	if (scratch->dir != NULL) {
		empty(scratch->dir);
		rmdir(scratch->dir);
	}
	free(scratch->dir);
	free(scratch->file);
	*scratch = (struct scratch){0};
}

uint64_t scratch_free_bytes(const struct scratch *scratch)
{
	struct statvfs fs;
	return statvfs(scratch->dir, &fs) == 0 ? (uint64_t)fs.f_bavail * fs.f_frsize : UINT64_MAX;
}
