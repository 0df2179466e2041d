/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The replicas that a command is about: one URL, or those that the settings name for a database. The
 * settings come from --config or LITEFUNNEL_CONFIG, else, for /var/lib/litefunnel/NAME/NAME.db, from
 * /etc/litefunnel/NAME.conf; LITEFUNNEL_REPLICA wins over the file.
 */

#include "server/base/notice.h"

#include <stdbool.h>
#include <stddef.h>

enum { REPLICAS_MAX = NOTICE_REPLICAS_MAX };

struct replicas {
	char *text; /* the URLs, cut at the spaces */
	const char *urls[REPLICAS_MAX];
	size_t count;
};

/* True for scheme://…, which no path of a database is. */
bool replicas_is_url(const char *arg);

/*
 * Whether a setting is replicas that there can be; nothing is asked of them. 0, or a negative errno, and
 * the error says what is wrong with which.
 */
/* Keys in a URL would stand in the arguments of the shipper, for everybody to read. */
bool replicas_have_keys(const char *text);
int replicas_check(const char *text, char *ret_error, size_t size);

/* 0, or an exit code, said so on stderr. `config` may be NULL. */
int replicas_find(
	const char *command, const char *arg, const char *config, struct replicas *ret_replicas);
void replicas_finish(struct replicas *replicas);
