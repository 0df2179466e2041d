/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who is at the other end of a connection: uid and groups as the kernel tells them, the role that
 * follows from the settings. Taken once, when the connection is accepted; pids are for people only.
 */

#include "server/base/config.h"
#include "server/store/store.h"

#include <sys/types.h>

enum { PEER_NAME_MAX = 128 };

struct credentials {
	unsigned references; /* the loop's */
	uid_t uid;
	gid_t gid;
	pid_t pid;
	bool overflow;     /* a uid that our user namespace has no name for */
	bool foreign_root; /* uid 0, but of another user namespace */
	unsigned groups_count;
	gid_t *groups; /* supplementary groups */
	enum role role;
	char client[PEER_NAME_MAX + 1]; /* from hello: its name and version … */
	char label[PEER_NAME_MAX + 1];  /* … and what it says that it does */
	char text[256];                 /* "uid 1001 (app), groups 1001 33", for messages */
};

/* Asks the kernel about a connected socket. 0, or negative errno. */
int credentials_read(int fd, struct credentials **ret_credentials);
/* A copy with another role, for what comes from now on; requests under way keep theirs. */
struct credentials *credentials_with_role(const struct credentials *credentials, enum role role);

/* Of a user whose connection is gone, for work that goes on without it. NULL: no memory. */
struct credentials *credentials_of_uid(uid_t uid, enum role role);

struct credentials *credentials_ref(struct credentials *credentials);
void credentials_unref(struct credentials *credentials); /* accepts NULL */

/* Whether "app", "1001", "@web", "@33" or "*" is this one. */
bool credentials_match(const struct credentials *credentials, const char *who);

/* The highest role that matches. Names that the system does not know match nobody. */
enum role credentials_role(const struct credentials *credentials, const struct config *config);

/* Calls `unknown` for each user and group in roles_… and classes that the system does not know. */
void credentials_find_unknown(const struct config *config,
	void (*unknown)(void *ctx, const char *setting, const char *name), void *ctx);
