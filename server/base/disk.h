/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * How much room is left where the database lies, and the reserve: a file of real blocks that is given
 * up when there is none, so that what must still be written can be.
 *
 * Room is low when less than the floor is free, and stays so until the floor, an eighth of it, and
 * the reserve if it is gone, are free again; then the reserve is made anew. On a small file system
 * the floor is a sixteenth of it at most, and the reserve a sixty-fourth.
 *
 * Belongs to one thread.
 */

#include <stdbool.h>
#include <stdint.h>

struct disk {
	const char *dir;
	const char *reserve_path;
	uint64_t next_look_us;
	uint64_t next_glance_us;
	uint64_t total;
	uint64_t free;    /* to us; at the last look */
	uint64_t floor;   /* in effect */
	uint64_t needed;  /* free bytes at which it is no longer low */
	uint64_t reserve; /* bytes that the reserve holds now */
	bool low;
	bool no_reserve; /* it cannot be had here */
};

enum disk_change { DISK_SAME, DISK_LOW, DISK_WELL };

/* Looks at nothing yet; the strings stay the caller's. */
void disk_init(struct disk *disk, const char *dir, const char *reserve_path);

/* Looks, at most every few milliseconds, and makes the reserve when there is room for it. */
enum disk_change disk_look(
	struct disk *disk, uint64_t now_us, uint64_t floor_max, uint64_t reserve_max);

/* The same look for those who may do nothing about it: true if less than the floor is free. */
bool disk_is_short(struct disk *disk, uint64_t now_us);

/* A write has found no room: gives up the reserve; low from now on. True: there was one. */
bool disk_is_full(struct disk *disk);

/* Before a start: gives up the reserve if less is free than it holds. True: it did. */
bool disk_make_room(const char *dir, const char *reserve_path);
