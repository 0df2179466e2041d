/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The lock on the file DB-halt: somebody else's program has the database, under `litefunnel halt`. It is an open file
 * description lock (fcntl(2), F_OFD_SETLK), so that CMD and what it starts hold it, too, should halt itself be killed; and
 * it can be asked for without being taken. The daemon stays paused for as long as it is held, also if it is started
 * anew meanwhile.
 */

#include <stdbool.h>
#include <sys/types.h>

/* 0 and a descriptor that children inherit; -EWOULDBLOCK: *ret_holder has it; or -errno. */
int halt_lock_take(const char *db, int *ret_fd, pid_t *ret_holder);

/* Of all who hold it by inheritance, too. */
void halt_lock_release(const char *db, int fd);

/* Whether anybody holds it, or it cannot be told; and whose pid was written into it, or 0. */
bool halt_lock_is_held(const char *db, pid_t *ret_holder);
