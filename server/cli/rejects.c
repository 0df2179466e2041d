/* SPDX-License-Identifier: MIT */

/*
 * What this file keeps true: a file that is no file of rejects, such as the input itself, is never
 * touched; and a record stands in it once, however often an import is begun again.
 */

#include "server/cli/rejects.h"

#include "server/cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char line_begin[] = "{\"line\":";
enum { BEGIN_LEN = sizeof(line_begin) - 1 };

static bool is_same_file(int one, int other)
{
	struct stat a;
	struct stat b;
	return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
		a.st_ino == b.st_ino;
}

struct kept {
	off_t bytes; /* from the beginning, up to the first line that goes */
	bool scattered; /* lines behind that stay, too: a piece was read before an earlier one was refused */
};

/* Whether the line speaks of a record before that one, whole. */
static bool stays(const char *text, ssize_t len, uint64_t before_line, bool *ret_known)
{
	uint64_t number = 0;
	*ret_known = sscanf(text, "{\"line\":%" SCNu64 ",", &number) == 1;
	return *ret_known && text[len - 1] == '\n' && number < before_line;
}

/* Which part of the file stays; `to`, or NULL, gets it. 0, REJECTS_OTHER or negative errno. */
static int sift(FILE *file, uint64_t before_line, struct kept *ret_kept, FILE *to)
{
	char *text = NULL;
	size_t size = 0;
	ssize_t len = 0;
	bool cut = false;
	int rc = 0;
	*ret_kept = (struct kept){.bytes = 0};
	rewind(file);
	errno = 0;
	while (rc == 0 && (len = getline(&text, &size, file)) > 0) {
		bool known = false;
		bool stay = stays(text, len, before_line, &known);
		if (!known && ret_kept->bytes == 0 && !cut &&
			strncmp(text, line_begin, len < BEGIN_LEN ? (size_t)len : BEGIN_LEN) != 0) {
			rc = REJECTS_OTHER;
		} else if (stay && to != NULL && fwrite(text, 1, (size_t)len, to) != (size_t)len) {
			rc = -EIO;
		}
		ret_kept->bytes += stay && !cut ? len : 0;
		ret_kept->scattered |= stay && cut;
		cut |= !stay;
	}
	if (len < 0 && !feof(file)) {
		rc = errno != 0 ? -errno : -EIO; /* what could not be read is not cut off */
	}
	free(text);
	return rc;
}

/* Another file in its place, with the lines that stay. */
static int rewrite(FILE **file, const char *path, uint64_t before_line)
{
	struct kept ignored;
	struct stat status;
	char *name = NULL;
	if (asprintf(&name, "%s.XXXXXX", path) < 0) {
		return -ENOMEM;
	}
	int fd = mkostemp(name, O_APPEND | O_CLOEXEC);
	FILE *to = fd >= 0 ? fdopen(fd, "a+") : NULL;
	int rc = to != NULL ? sift(*file, before_line, &ignored, to) : -errno;
	if (rc == 0 &&
		(fflush(to) != 0 || fstat(fileno(*file), &status) != 0 ||
			fchmod(fd, status.st_mode & 07777) != 0 || rename(name, path) != 0)) {
		rc = -errno;
	}
	if (rc == 0) {
		fclose(*file);
		*file = to;
	} else if (fd >= 0) {
		(void)unlink(name);
		(void)(to != NULL ? fclose(to) : close(fd));
	}
	free(name);
	return rc;
}

int rejects_open(struct rejects *rejects, const char *path, const struct records *records)
{
	struct kept kept = {.bytes = 0};
	int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	if (fd < 0) {
		return -errno;
	}
	FILE *file = fdopen(fd, "a+");
	if (file == NULL) {
		int rc = -errno;
		close(fd);
		return rc;
	}
	int rc = is_same_file(fd, records->fd) ? REJECTS_OTHER
					       : sift(file, records->line, &kept, NULL);
	if (rc == 0 && kept.scattered) {
		rc = rewrite(&file, path, records->line);
	} else if (rc == 0 && ftruncate(fd, kept.bytes) != 0) {
		rc = -errno;
	}
	/* From reading to writing: the stream wants to be told. */
	if (rc == 0 && fseek(file, 0, SEEK_END) != 0) {
		rc = -errno;
	}
	if (rc != 0) {
		fclose(file);
		return rc;
	}
	rejects->file = file;
	return 0;
}

void rejects_close(struct rejects *rejects)
{
	if (rejects->file != NULL) {
		fclose(rejects->file);
	}
	free(rejects->skipped);
	*rejects = (struct rejects){0};
}

int rejects_write(
	struct rejects *rejects, uint64_t line, const char *why, const char *raw, size_t raw_len)
{
	FILE *file = rejects->file;
	fprintf(file, "%s%" PRIu64 ",\"error\":", line_begin, line);
	text_json_cstr(file, why);
	fputs(",\"record\":", file);
	text_json(file, raw, raw_len);
	fputs("}\n", file);
	return fflush(file) == 0 ? 0 : -errno;
}

bool rejects_skips(const struct rejects *rejects, uint64_t line)
{
	for (size_t i = 0; i < rejects->skipped_count; i++) {
		if (rejects->skipped[i] == line) {
			return true;
		}
	}
	return false;
}

int rejects_skip(struct rejects *rejects, uint64_t line)
{
	if (rejects->skipped_count == rejects->skipped_cap) {
		size_t cap = 2 * rejects->skipped_cap + 16;
		uint64_t *skipped = reallocarray(rejects->skipped, cap, sizeof(*skipped));
		if (skipped == NULL) {
			return -ENOMEM;
		}
		rejects->skipped = skipped;
		rejects->skipped_cap = cap;
	}
	rejects->skipped[rejects->skipped_count++] = line;
	return 0;
}

void rejects_forget_before(struct rejects *rejects, uint64_t line)
{
	size_t kept = 0;
	for (size_t i = 0; i < rejects->skipped_count; i++) {
		if (rejects->skipped[i] >= line) {
			rejects->skipped[kept++] = rejects->skipped[i];
		}
	}
	rejects->skipped_count = kept;
}
