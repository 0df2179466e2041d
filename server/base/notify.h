/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Word to whoever started this process: systemd by its protocol, `litefunnel run` by the pipe that
 * LITEFUNNEL_READY_FD names. Nobody listening is fine.
 */

#include <stdint.h>

/* Accepting clients; at the first time also one line on stdout. */
void notify_ready(const char *db, const char *socket);
void notify_stopping(void);
void notify_reloading(void);
void notify_alive(void);

/* How often notify_alive() is due, in microseconds; 0: never. */
uint64_t notify_alive_interval_us(void);

/* The listening socket that systemd passed, or -1. -EINVAL: something else was passed. */
int notify_listen_fd(void);
