/* SPDX-License-Identifier: MIT */

/* Credentials of a Unix socket's peer, and the lists of the settings `roles_…`. */

#include "server/funnel/credentials.h"

#include "server/base/cleanup.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

enum { GROUPS_MAX = 65536 };

/* The uid that stands for all that have no name here. */
static uid_t overflow_uid(void)
{
	unsigned uid = 65534;
	FILE *file = fopen("/proc/sys/kernel/overflowuid", "re");
	if (file != NULL) {
		if (fscanf(file, "%u", &uid) != 1) {
			uid = 65534;
		}
		fclose(file);
	}
	return uid;
}

static int read_uid_map(const char *process, char *ret_text, size_t bytes)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%s/uid_map", process);
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		return -errno;
	}
	size_t len = fread(ret_text, 1, bytes - 1, file);
	ret_text[len] = 0;
	fclose(file);
	return len > 0 ? 0 : -EIO;
}

/*
 * Whether a process that is root to us lives in another user namespace. Its mapping tells, and unlike
 * /proc/PID/ns/user it may be read without privilege. A process that is gone is none of ours.
 */
static int in_other_user_namespace(pid_t pid, bool *ret_other)
{
	char name[16];
	char ours[512];
	char theirs[512];
	snprintf(name, sizeof(name), "%d", (int)pid);
	int rc = read_uid_map("self", ours, sizeof(ours));
	rc = rc == 0 ? read_uid_map(name, theirs, sizeof(theirs)) : rc;
	*ret_other = rc != 0 || strcmp(ours, theirs) != 0;
	/* Without a descriptor or memory for the question nobody is judged. */
	return rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM ? rc : 0;
}

static int read_groups(int fd, struct credentials *credentials)
{
	gid_t some[64];
	socklen_t bytes = sizeof(some);
	gid_t *groups = some;
	CLEANUP_FREE gid_t *many = NULL;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, some, &bytes) != 0) {
		if (errno != ERANGE || bytes > GROUPS_MAX * sizeof(gid_t)) {
			return -errno;
		}
		many = malloc(bytes);
		if (many == NULL) {
			return -ENOMEM;
		}
		groups = many;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, many, &bytes) != 0) {
			return -errno;
		}
	}
	if (bytes == 0) {
		return 0;
	}
	credentials->groups = malloc(bytes);
	if (credentials->groups == NULL) {
		return -ENOMEM;
	}
	memcpy(credentials->groups, groups, bytes);
	credentials->groups_count = (unsigned)(bytes / sizeof(gid_t));
	return 0;
}

static void describe(struct credentials *credentials)
{
	char *text = credentials->text;
	size_t room = sizeof(credentials->text);
	struct passwd entry;
	struct passwd *found = NULL;
	char space[1024];
	getpwuid_r(credentials->uid, &entry, space, sizeof(space), &found);
	int len = snprintf(text, room, "uid %u (%s), groups %u", credentials->uid,
		found != NULL ? entry.pw_name : "no name", credentials->gid);
	for (unsigned i = 0; i < credentials->groups_count && len > 0 && (size_t)len < room - 16;
		i++) {
		if (credentials->groups[i] != credentials->gid) {
			len += snprintf(
				text + len, room - (size_t)len, " %u", credentials->groups[i]);
		}
	}
}

int credentials_read(int fd, struct credentials **ret_credentials)
{
	struct ucred peer;
	socklen_t bytes = sizeof(peer);
	struct credentials *credentials = calloc(1, sizeof(*credentials));
	if (credentials == NULL) {
		return -ENOMEM;
	}
	credentials->references = 1;
	int rc = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 ? 0 : -errno;
	rc = rc == 0 ? read_groups(fd, credentials) : rc;
	if (rc == 0 && peer.uid == 0) {
		rc = in_other_user_namespace(peer.pid, &credentials->foreign_root);
	}
	if (rc < 0) {
		credentials_unref(credentials);
		return rc;
	}
	credentials->uid = peer.uid;
	credentials->gid = peer.gid;
	credentials->pid = peer.pid;
	credentials->overflow = peer.uid == overflow_uid();
	describe(credentials);
	*ret_credentials = credentials;
	return 0;
}

struct credentials *credentials_with_role(const struct credentials *credentials, enum role role)
{
	size_t bytes = credentials->groups_count * sizeof(*credentials->groups);
	struct credentials *copy = malloc(sizeof(*copy));
	gid_t *groups = malloc(bytes > 0 ? bytes : 1);
	if (copy == NULL || groups == NULL) {
		free(copy);
		free(groups);
		return NULL;
	}
	*copy = *credentials;
	if (bytes > 0) {
		memcpy(groups, credentials->groups, bytes);
	}
	copy->groups = groups;
	copy->references = 1;
	copy->role = role;
	return copy;
}

struct credentials *credentials_of_uid(uid_t uid, enum role role)
{
	struct credentials *credentials = calloc(1, sizeof(*credentials));
	if (credentials != NULL) {
		credentials->references = 1;
		credentials->uid = uid;
		credentials->role = role;
		snprintf(credentials->text, sizeof(credentials->text), "uid %u", uid);
	}
	return credentials;
}

struct credentials *credentials_ref(struct credentials *credentials)
{
	credentials->references++;
	return credentials;
}

void credentials_unref(struct credentials *credentials)
{
	if (credentials != NULL && --credentials->references == 0) {
		free(credentials->groups);
		free(credentials);
	}
}

static bool parse_id(const char *text, unsigned *ret_id)
{
	char *end = NULL;
	errno = 0;
	unsigned long id = strtoul(text, &end, 10);
	*ret_id = (unsigned)id;
	return errno == 0 && end != text && *end == 0 && id < UINT32_MAX;
}

/* A uid or the name of a user. False: the system knows none of that name. */
static bool find_user(const char *name, uid_t *ret_uid)
{
	char space[1024];
	struct passwd entry;
	struct passwd *found = NULL;
	if (parse_id(name, ret_uid)) {
		return true;
	}
	if (getpwnam_r(name, &entry, space, sizeof(space), &found) != 0 || found == NULL) {
		return false;
	}
	*ret_uid = entry.pw_uid;
	return true;
}

static bool find_group(const char *name, gid_t *ret_gid)
{
	char space[16384];
	struct group entry;
	struct group *found = NULL;
	if (parse_id(name, ret_gid)) {
		return true;
	}
	if (getgrnam_r(name, &entry, space, sizeof(space), &found) != 0 || found == NULL) {
		return false;
	}
	*ret_gid = entry.gr_gid;
	return true;
}

static bool matches_user(const struct credentials *credentials, const char *name)
{
	uid_t uid = 0;
	return find_user(name, &uid) && credentials->uid == uid;
}

static bool matches_group(const struct credentials *credentials, const char *name)
{
	gid_t gid = 0;
	if (!find_group(name, &gid)) {
		return false;
	}
	bool member = credentials->gid == gid;
	for (unsigned i = 0; i < credentials->groups_count; i++) {
		member |= credentials->groups[i] == gid;
	}
	return member;
}

bool credentials_match(const struct credentials *credentials, const char *who)
{
	return who[0] == '@' ? matches_group(credentials, who + 1)
			     : strcmp(who, "*") == 0 || matches_user(credentials, who);
}

/* "deploy, 1001, @web, *" */
static bool in_list(const struct credentials *credentials, const char *list)
{
	CLEANUP_FREE char *copy = strdup(list);
	char *rest = copy;
	bool found = false;
	for (char *word = NULL; !found && (word = strsep(&rest, ", ")) != NULL;) {
		found = word[0] != 0 && credentials_match(credentials, word);
	}
	return found;
}

enum role credentials_role(const struct credentials *credentials, const struct config *config)
{
	static const struct {
		enum setting_id setting;
		enum role role;
	} lists[] = {
		{SETTING_ROLES_ADMIN, ROLE_ADMIN},
		{SETTING_ROLES_DDL, ROLE_DDL},
		{SETTING_ROLES_WRITE, ROLE_WRITE},
		{SETTING_ROLES_QUERY, ROLE_QUERY},
		{SETTING_ROLES_STATS, ROLE_STATS},
	};
	if (credentials->overflow || credentials->foreign_root) {
		return ROLE_NONE;
	}
	if (credentials->uid == 0 || credentials->uid == geteuid()) {
		return ROLE_ADMIN;
	}
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		if (in_list(credentials, config_text(config, lists[i].setting))) {
			return lists[i].role;
		}
	}
	return ROLE_NONE;
}

/* "*", "app", "@web"; of the setting classes also "label:web-*" and "role:query". */
static bool is_somebody(const char *who)
{
	unsigned id = 0;
	if (who[0] == '@') {
		return find_group(who + 1, &id);
	}
	return strcmp(who, "*") == 0 || strchr(who, ':') != NULL || find_user(who, &id);
}

void credentials_find_unknown(const struct config *config,
	void (*unknown)(void *ctx, const char *setting, const char *name), void *ctx)
{
	static const enum setting_id lists[] = {SETTING_ROLES_ADMIN, SETTING_ROLES_DDL,
		SETTING_ROLES_WRITE, SETTING_ROLES_QUERY, SETTING_ROLES_STATS, SETTING_CLASSES};
	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		CLEANUP_FREE char *copy = strdup(config_text(config, lists[i]));
		char *rest = copy;
		for (char *word = NULL; (word = strsep(&rest, ", ")) != NULL;) {
			char *sign = lists[i] == SETTING_CLASSES ? strrchr(word, '=') : NULL;
			if (sign != NULL) {
				*sign = 0;
			}
			if (word[0] != 0 && !is_somebody(word)) {
				unknown(ctx, settings[lists[i]].name, word);
			}
		}
	}
}
