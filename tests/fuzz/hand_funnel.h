/* SPDX-License-Identifier: MIT */
#pragma once

/* A funnel whose loop is turned by hand (hand_loop.h), with a store on a file in memory. */

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Where it listens, while it runs. */
extern struct sockaddr_un hand_address;
extern socklen_t hand_address_len;

/*
 * Runs a funnel from its start to its end; `script` is the course of events, and ends with a drain.
 * The database is that of the last run, or a new one. Descriptors that the script opens it closes.
 */
void hand_funnel_run(bool fresh, void (*script)(void *ctx));
