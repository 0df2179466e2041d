/* SPDX-License-Identifier: MIT */

/*
 * Counts in a file of two hundred bytes, in the machine's own byte order: it never leaves it. Writers
 * take turns by a lock on the file; a reader takes none, since it must not wait for a process that was
 * stopped with the lock in its hand, and knows a torn read by the hash.
 */

#include "server/base/usage.h"

#include "server/base/cleanup.h"
#include "server/base/notice.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

enum {
	MAGIC = 0x4c465531, /* LFU1 */
	PATH_BYTES = 4200,
	LOCK_TRIES = 50,
	LOCK_AGAIN_US = 200,
	READ_TRIES = 100,
};

struct usage_meter {
	int fd;
};

struct usage_file {
	uint32_t magic;
	uint32_t size;
	int64_t day; /* since 1970 */
	int64_t month;
	struct usage usage;
	uint64_t hash; /* of what stands before it */
};

/* A URL is shown up to a length, and found again by what is shown. */
static int name_file(const char *spool, const char *url, char ret_path[PATH_BYTES])
{
	uint64_t hash = XXH3_64bits(url, strnlen(url, NOTICE_URL_BYTES - 1));
	int len = snprintf(ret_path, PATH_BYTES, "%s/usage-%016" PRIx64, spool, hash);
	return len > 0 && len < PATH_BYTES ? 0 : -ENAMETOOLONG;
}

static uint64_t hash_of(const struct usage_file *file)
{
	return XXH3_64bits(file, offsetof(struct usage_file, hash));
}

/* False: there is nothing, or it is not whole. */
static bool load(int fd, struct usage_file *ret_file)
{
	return pread(fd, ret_file, sizeof(*ret_file), 0) == (ssize_t)sizeof(*ret_file) &&
		ret_file->magic == MAGIC && ret_file->size == sizeof(*ret_file) &&
		ret_file->hash == hash_of(ret_file);
}

/* What belongs to another day or month is over. */
static void turn_to(struct usage_file *file, int64_t now_ms)
{
	time_t seconds = (time_t)(now_ms / 1000);
	struct tm tm = {.tm_year = 70};
	gmtime_r(&seconds, &tm);
	int64_t day = seconds / (24 * 60 * 60);
	int64_t month = (int64_t)tm.tm_year * 12 + tm.tm_mon;
	if (file->day != day) {
		memset(&file->usage.today, 0, sizeof(file->usage.today));
	}
	if (file->month != month) {
		memset(&file->usage.month, 0, sizeof(file->usage.month));
	}
	file->day = day;
	file->month = month;
}

static void add(struct usage_counts *to, const struct usage_counts *counts)
{
	for (size_t i = 0; i < USAGE_KINDS; i++) {
		to->requests[i] += counts->requests[i];
	}
	to->bytes_sent += counts->bytes_sent;
	to->bytes_received += counts->bytes_received;
}

int usage_meter_open(const char *spool, const char *url, struct usage_meter **ret_meter)
{
	char path[PATH_BYTES];
	int rc = name_file(spool, url, path);
	struct usage_meter *meter = rc == 0 ? calloc(1, sizeof(*meter)) : NULL;
	if (meter == NULL) {
		return rc != 0 ? rc : -ENOMEM;
	}
	meter->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (meter->fd < 0) {
		rc = -errno;
		free(meter);
		return rc;
	}
	*ret_meter = meter;
	return 0;
}

void usage_meter_close(struct usage_meter *meter)
{
	if (meter != NULL) {
		close(meter->fd);
		free(meter);
	}
}

static int lock(const struct usage_meter *meter)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(meter->fd, LOCK_EX | LOCK_NB) == 0) {
			return 0;
		}
		if (errno != EWOULDBLOCK && errno != EINTR) {
			return -errno;
		}
		usleep(LOCK_AGAIN_US);
	}
	return -EAGAIN;
}

int usage_meter_add(struct usage_meter *meter, const struct usage_counts *counts, int64_t now_ms)
{
	struct usage_file file;
	int rc = lock(meter);
	if (rc != 0) {
		return rc;
	}
	if (!load(meter->fd, &file)) {
		memset(&file, 0, sizeof(file));
	}
	turn_to(&file, now_ms);
	add(&file.usage.today, counts);
	add(&file.usage.month, counts);
	file.magic = MAGIC;
	file.size = sizeof(file);
	file.hash = hash_of(&file);
	ssize_t written = pwrite(meter->fd, &file, sizeof(file), 0);
	rc = written == (ssize_t)sizeof(file) ? 0 : written < 0 ? -errno : -EIO;
	(void)flock(meter->fd, LOCK_UN);
	return rc;
}

struct usage usage_read(const char *spool, const char *url, int64_t now_ms)
{
	char path[PATH_BYTES];
	struct usage_file file;
	bool whole = false;
	CLEANUP_FD int fd = name_file(spool, url, path) == 0
		? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
		: -1;
	for (int i = 0; fd >= 0 && !whole && i < READ_TRIES; i++) {
		whole = load(fd, &file);
	}
	if (!whole) {
		return (struct usage){.today = {.bytes_sent = 0}};
	}
	turn_to(&file, now_ms);
	return file.usage;
}
