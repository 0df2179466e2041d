/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What `adopt` and `leave` share: owners and modes, the memory of what was before, who has the
 * database open, and the printed account of each change.
 */

#include "server/base/place.h"

#include <jansson.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

enum { ADOPTION_ERROR_BYTES = PLACE_TEXT_BYTES };

/* Each change as it is made: a line, or an element of the JSON object that finish prints. */
struct account {
	bool json;
	bool dry_run;
	unsigned changes;
	json_t *list;
	json_t *notes;
};

int account_init(struct account *account, bool json, bool dry_run);
/* Prints the JSON object, if that is asked for. `error` may be NULL. */
void account_finish(struct account *account, const char *db, const char *error);
__attribute__((format(printf, 2, 3))) void account_change(
	struct account *account, const char *format, ...);
__attribute__((format(printf, 2, 3))) void account_note(
	struct account *account, const char *format, ...);

struct owner {
	uid_t uid;
	gid_t gid;
	mode_t mode; /* permission bits and setgid, no more */
};

/* What was before. A database that adopt made itself has no owner of before. */
struct adoption {
	struct owner dir;
	struct owner db;
	char journal_mode[16];
};

enum adoption_condition {
	ADOPTION_NONE = 1,    /* nothing is remembered */
	ADOPTION_REFUSED = 2, /* the text says why */
};

/* Only a file that belongs to this user or root, and that nobody else may write, is believed. */
int adoption_read(const struct place *place, struct adoption *ret, char *ret_error);
int adoption_write(const struct place *place, const struct adoption *adoption, char *ret_error);

/*
 * Processes that have the database, its -wal or its -shm open: for writing, or, with `readers`, at
 * all. Their number, with the first of them in ret_who ("pid 7 (python3)"). Root sees everybody's,
 * others their own.
 */
unsigned adoption_openers(const struct place *place, bool readers, char *ret_who, size_t who_bytes);

/* True if a process listens on the socket, asked of /proc so that no activation is triggered. */
bool adoption_socket_listens(const struct place *place);

/* "wal" or "delete" by the header, "" for an empty file. ADOPTION_REFUSED: not a database. */
int adoption_journal_mode(const struct place *place, char ret_mode[16], char *ret_error);

/*
 * Gives `path` this owner, and accounts for what changed: from `was`, or, if that is NULL, from
 * what is found. A missing file is no error. Follows no link and touches no file of several names.
 * ADOPTION_REFUSED or -errno, with the text.
 */
int owner_apply(struct account *account, const char *path, const struct owner *was,
	const struct owner *want, char *ret_error);
/* The same for a directory, without a word: to close it for a moment. 0 or -errno. */
int owner_set_directory(const char *path, const struct owner *want);
struct owner owner_of(const struct stat *st);

/* A name or number. -ENOENT if there is none of that name. */
int owner_find_user(const char *text, uid_t *ret_uid, gid_t *ret_gid);
int owner_find_group(const char *text, gid_t *ret_gid);
/* "name" or the number. Valid until the next call with the same buffer. */
const char *owner_user_name(uid_t uid, char *buffer, size_t bytes);
const char *owner_group_name(gid_t gid, char *buffer, size_t bytes);
