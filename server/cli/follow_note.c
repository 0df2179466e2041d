/* SPDX-License-Identifier: MIT */

/* A small file of "KEY: VALUE" lines, replaced as a whole. It knows how, not what for. */

#include "server/cli/follow_note.h"

#include "server/base/cleanup.h"
#include "server/cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void put_hex(FILE *file, const char *prefix, const char *key, const void *bytes, size_t len)
{
	fprintf(file, "%s%s: ", prefix, key);
	text_hex(file, bytes, len);
	fputc('\n', file);
}

static void put_point(FILE *file, const char *prefix, const struct follow_point *point)
{
	const struct restore_point *at = &point->at;
	fprintf(file, "%stxid: %016" PRIx64 "\n%scommit: %" PRIu64 "\n%scommitted: %" PRId64 "\n",
		prefix, at->txid, prefix, at->commit, prefix, at->committed_ms);
	fprintf(file, "%spages: %" PRIu32 "\n", prefix, point->pages);
	put_hex(file, prefix, "epoch", at->epoch, at->known ? sizeof(at->epoch) : 0);
	put_hex(file, prefix, "digest", at->digest, at->has_digest ? sizeof(at->digest) : 0);
}

static void put_mark(FILE *file, const char *prefix, const struct copy_mark *mark)
{
	put_hex(file, prefix, "salt", mark->salt, sizeof(mark->salt));
	fprintf(file, "%sframe: %" PRIu32 "\n", prefix, mark->frame);
}

static int write_text(FILE *file, const struct follow_note *note, const char *replica)
{
	put_point(file, "", &note->at);
	put_mark(file, "", &note->where);
	fprintf(file, "replica: %s\nfollowing: yes\n", replica);
	if (note->has_next) {
		put_point(file, "next_", &note->next);
		put_mark(file, "next_", &note->mark);
	}
	return fflush(file) == 0 && fdatasync(fileno(file)) == 0 ? 0 : -errno;
}

static int sync_dir(const char *dir)
{
	CLEANUP_FD int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

int follow_note_write(
	const struct place *place, const struct follow_note *note, const char *replica)
{
	CLEANUP_FREE char *tmp = NULL;
	if (asprintf(&tmp, "%s.tmp", place->restored) < 0) {
		tmp = NULL;
		return -ENOMEM;
	}
	FILE *file = fopen(tmp, "we");
	if (file == NULL) {
		return -errno;
	}
	int rc = write_text(file, note, replica);
	rc = fclose(file) != 0 && rc == 0 ? -errno : rc;
	rc = rc == 0 && rename(tmp, place->restored) != 0 ? -errno : rc;
	return rc == 0 ? sync_dir(place->dir) : rc;
}

/* ---- reading ---- */

static bool take_bytes(const char *value, void *ret_bytes, size_t len, bool *ret_has)
{
	*ret_has = strlen(value) == 2 * len && text_from_hex(value, 2 * len, ret_bytes);
	return *ret_has || value[0] == '\0';
}

static bool take_in_point(
	const char *key, const char *value, struct follow_point *point, struct copy_mark *mark)
{
	struct restore_point *at = &point->at;
	bool has = false;
	if (strcmp(key, "txid") == 0) {
		return sscanf(value, "%" SCNx64, &at->txid) == 1;
	}
	if (strcmp(key, "commit") == 0) {
		return sscanf(value, "%" SCNu64, &at->commit) == 1;
	}
	if (strcmp(key, "committed") == 0) {
		return sscanf(value, "%" SCNd64, &at->committed_ms) == 1;
	}
	if (strcmp(key, "pages") == 0) {
		return sscanf(value, "%" SCNu32, &point->pages) == 1;
	}
	if (strcmp(key, "frame") == 0) {
		return sscanf(value, "%" SCNu32, &mark->frame) == 1;
	}
	if (strcmp(key, "salt") == 0) {
		return take_bytes(value, mark->salt, sizeof(mark->salt), &has);
	}
	if (strcmp(key, "epoch") == 0) {
		return take_bytes(value, at->epoch, sizeof(at->epoch), &at->known);
	}
	return strcmp(key, "digest") != 0 ||
		take_bytes(value, at->digest, sizeof(at->digest), &at->has_digest);
}

static bool take_line(char *line, struct follow_note *note, bool *following)
{
	static const char next[] = "next_";
	line[strcspn(line, "\n")] = '\0';
	char *colon = strstr(line, ": ");
	if (colon == NULL) {
		return false;
	}
	const char *value = colon + 2;
	*colon = '\0';
	if (strcmp(line, "following") == 0) {
		*following = strcmp(value, "yes") == 0;
		return true;
	}
	if (strncmp(line, next, strlen(next)) != 0) {
		return take_in_point(line, value, &note->at, &note->where);
	}
	note->has_next = true;
	return take_in_point(line + strlen(next), value, &note->next, &note->mark);
}

bool follow_note_read(const struct place *place, struct follow_note *ret_note)
{
	char line[4096];
	bool following = false;
	bool good = true;
	*ret_note = (struct follow_note){.has_next = false};
	FILE *file = fopen(place->restored, "re");
	if (file == NULL) {
		return false;
	}
	while (good && fgets(line, sizeof(line), file) != NULL) {
		good = take_line(line, ret_note, &following);
	}
	fclose(file);
	return good && following && ret_note->at.at.txid > 0;
}
