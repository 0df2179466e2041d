/* SPDX-License-Identifier: MIT */

/* A private directory below the one for temporary files. Holds files only, no directories. */

#include "server/cli/scratch.h"

#include "server/base/cleanup.h"
#include "server/cli/cli.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
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

void scratch_finish(struct scratch *scratch)
{
	DIR *list = scratch->dir != NULL ? opendir(scratch->dir) : NULL;
	for (struct dirent *entry = NULL; list != NULL && (entry = readdir(list)) != NULL;) {
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
			unlinkat(dirfd(list), entry->d_name, 0);
		}
	}
	if (list != NULL) {
		closedir(list);
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
