/* SPDX-License-Identifier: MIT */

/*
 * Sidecars: written whole under a private name, fsynced, then given their name by link(), which
 * never overwrites. A sidecar replaces another one only when the segment between them has been
 * decided, and then only the winner does.
 */

#include "server/ship/sidecar.h"

#include "server/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

void sidecar_private_name(const char *prefix, char ret_name[SIDECAR_NAME_BYTES])
{
	uint64_t random = 0;
	while (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
	}
	snprintf(ret_name, SIDECAR_NAME_BYTES, ".%s-%016" PRIx64, prefix, random);
}

static void add_line(void *ctx, const char *key, const char *value)
{
	struct sidecar *sidecar = ctx;
	int len = snprintf(sidecar->text + sidecar->len, sizeof sidecar->text - sidecar->len,
		"%s: %s\n", key, value);
	sidecar->len += (size_t)len;
}

static int write_file(int dir, const char *name, const char *text, size_t len)
{
	CLEANUP_FD int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
	if (fd < 0) {
		return -errno;
	}
	ssize_t written = write(fd, text, len);
	if (written != (ssize_t)len) {
		return written < 0 ? -errno : -ENOSPC;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

/* Reads what fits; 0: missing. Records are far shorter. */
static ssize_t read_file(int dir, const char *name, char *ret_text, size_t size)
{
	CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	ssize_t len = read(fd, ret_text, size);
	return len < 0 ? -errno : len;
}

int sidecar_propose(
	int dir, const char *segment, const struct record *record, struct sidecar *ret_sidecar)
{
	struct sidecar *sidecar = ret_sidecar;
	*sidecar = (struct sidecar){0};
	snprintf(sidecar->name, sizeof sidecar->name, "%s.record", segment);
	sidecar_private_name("record", sidecar->waiting);
	record_each(record, add_line, sidecar);
	int rc = write_file(dir, sidecar->waiting, sidecar->text, sidecar->len);
	if (rc < 0) {
		(void)unlinkat(dir, sidecar->waiting, 0);
		return rc;
	}
	if (linkat(dir, sidecar->waiting, dir, sidecar->name, 0) == 0) {
		(void)unlinkat(dir, sidecar->waiting, 0);
		sidecar->waiting[0] = '\0';
	} else if (errno != EEXIST) {
		rc = -errno;
		(void)unlinkat(dir, sidecar->waiting, 0);
	}
	return rc;
}

/* Takes back a sidecar that has the name, unless the winner's has taken its place already. */
static int withdraw(int dir, const struct sidecar *sidecar)
{
	char text[sizeof sidecar->text];
	ssize_t len = read_file(dir, sidecar->name, text, sizeof text);
	if (len != (ssize_t)sidecar->len || memcmp(text, sidecar->text, sidecar->len) != 0) {
		return len < 0 ? (int)len : 0;
	}
	return unlinkat(dir, sidecar->name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int sidecar_settle(int dir, struct sidecar *sidecar, bool won)
{
	bool waits = sidecar->waiting[0] != '\0';
	if (won && waits) {
		return renameat(dir, sidecar->waiting, dir, sidecar->name) < 0 ? -errno : 0;
	}
	if (!won && waits) {
		return unlinkat(dir, sidecar->waiting, 0) < 0 ? -errno : 0;
	}
	return won ? 0 : withdraw(dir, sidecar);
}

/* One line, its newline cut off. */
static int parse_line(char *line, struct record *record)
{
	char *colon = strstr(line, ": ");
	if (colon == NULL) {
		return -EBADMSG;
	}
	*colon = '\0';
	return record_set(record, line, colon + 2) < 0 ? -EBADMSG : 0;
}

int sidecar_read(int dir, const char *segment, struct record *ret_record, bool *ret_known)
{
	char name[SIDECAR_NAME_BYTES];
	char text[8192];
	*ret_record = (struct record){0};
	*ret_known = false;
	snprintf(name, sizeof name, "%s.record", segment);
	ssize_t len = read_file(dir, name, text, sizeof text);
	if (len <= 0) {
		return (int)len;
	}
	if (memchr(text, '\0', (size_t)len) != NULL || text[len - 1] != '\n') {
		return -EBADMSG;
	}
	text[len - 1] = '\0';
	char *rest = NULL;
	for (char *line = strtok_r(text, "\n", &rest); line != NULL;
		line = strtok_r(NULL, "\n", &rest)) {
		int rc = parse_line(line, ret_record);
		if (rc < 0) {
			return rc;
		}
	}
	*ret_known = record_complete(ret_record);
	return *ret_known ? 0 : -EBADMSG;
}

int sidecar_remove(int dir, const char *segment)
{
	char name[SIDECAR_NAME_BYTES];
	snprintf(name, sizeof name, "%s.record", segment);
	return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}
