/* SPDX-License-Identifier: MIT */

/*
 * Room on the disk and the reserve. It must not know what the room is for. It keeps true: the reserve
 * is whole or not there; where it is missing although it is wanted, room is low.
 */

#include "server/base/disk.h"

#include "server/base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { LOOK_US = 20000, FLOOR_PART = 16, RESERVE_PART = 64 };

void disk_init(struct disk *disk, const char *dir, const char *reserve_path)
{
	*disk = (struct disk){.dir = dir, .reserve_path = reserve_path};
}

static bool look(const char *dir, uint64_t *ret_free, uint64_t *ret_total)
{
	struct statvfs fs;
	if (statvfs(dir, &fs) != 0) {
		return false;
	}
	*ret_free = (uint64_t)fs.f_bavail * fs.f_frsize;
	*ret_total = (uint64_t)fs.f_blocks * fs.f_frsize;
	return true;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t reserve_size(const char *path)
{
	struct stat status;
	return lstat(path, &status) == 0 && S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
}

/* 0; -ENOSPC; another error: no reserve is possible here. */
static int make_reserve(const char *path, uint64_t bytes)
{
	CLEANUP_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		return -errno;
	}
	/* Blocks that the file has already are kept, those beyond are given back. */
	int rc = ftruncate(fd, (off_t)bytes) == 0 ? posix_fallocate(fd, 0, (off_t)bytes) : errno;
	if (rc != 0) {
		unlink(path);
	}
	return -rc;
}

/* Makes the reserve as large as it should be; `free` and `reserve` follow. */
static void keep_reserve(struct disk *disk, uint64_t wanted)
{
	if (wanted == 0) {
		unlink(disk->reserve_path);
		disk->reserve = 0;
		return;
	}
	int rc = make_reserve(disk->reserve_path, wanted);
	disk->reserve = rc == 0 ? wanted : 0;
	disk->no_reserve = rc != 0 && rc != -ENOSPC;
	(void)look(disk->dir, &disk->free, &disk->total);
}

enum disk_change disk_look(
	struct disk *disk, uint64_t now_us, uint64_t floor_max, uint64_t reserve_max)
{
	bool first = disk->total == 0;
	bool was_low = disk->low;
	if (now_us < disk->next_look_us || !look(disk->dir, &disk->free, &disk->total)) {
		return DISK_SAME;
	}
	disk->next_look_us = now_us + LOOK_US;
	disk->floor = least(floor_max, disk->total / FLOOR_PART);
	uint64_t wanted = disk->no_reserve ? 0 : least(reserve_max, disk->total / RESERVE_PART);
	if (first) {
		disk->reserve = reserve_size(disk->reserve_path);
	}
	uint64_t missing = wanted > disk->reserve ? wanted - disk->reserve : 0;
	disk->needed = disk->floor + missing + (was_low ? disk->floor / 8 : 0);
	if (disk->free >= disk->needed && disk->reserve != wanted) {
		keep_reserve(disk, wanted);
		missing = disk->no_reserve ? 0 : wanted - disk->reserve;
	}
	disk->low = disk->free < disk->floor + (was_low ? disk->floor / 8 : 0) || missing > 0;
	if (disk->low && !was_low) {
		disk->needed += disk->floor / 8;
	}
	return disk->low == was_low ? DISK_SAME : disk->low ? DISK_LOW : DISK_WELL;
}

bool disk_is_short(struct disk *disk, uint64_t now_us)
{
	uint64_t total = 0;
	if (now_us >= disk->next_glance_us && look(disk->dir, &disk->free, &total)) {
		disk->next_glance_us = now_us + LOOK_US;
	}
	return disk->low || disk->free < disk->floor;
}

bool disk_is_full(struct disk *disk)
{
	bool had = disk->reserve > 0 && unlink(disk->reserve_path) == 0;
	disk->needed = disk->floor + disk->reserve + disk->floor / 8;
	disk->reserve = 0;
	disk->low = true;
	return had;
}

bool disk_make_room(const char *dir, const char *reserve_path)
{
	uint64_t free = 0;
	uint64_t total = 0;
	uint64_t reserve = reserve_size(reserve_path);
	return reserve > 0 && look(dir, &free, &total) && free < reserve &&
		unlink(reserve_path) == 0;
}
