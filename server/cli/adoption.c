/* SPDX-License-Identifier: MIT */

/*
 * What `adopt` and `leave` share. It must not know SQLite: it is used before the database is opened
 * and after it is closed. As both run as root in directories of other users, it keeps true that no
 * link is followed, and that nothing is believed which another user could have written.
 */

#include "server/cli/adoption.h"

#include "server/base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODE_FILE 0666U
#define MODE_DIR  03777U

__attribute__((format(printf, 2, 3))) static int refuse(char *ret_error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ret_error, ADOPTION_ERROR_BYTES, format, args);
	va_end(args);
	return ADOPTION_REFUSED;
}

/* ---- the account -------------------------------------------------------------------------- */

int account_init(struct account *account, bool json, bool dry_run)
{
	*account = (struct account){.json = json, .dry_run = dry_run};
	account->list = json_array();
	account->notes = json_array();
	return account->list == NULL || account->notes == NULL ? -ENOMEM : 0;
}

void account_finish(struct account *account, const char *db, const char *error)
{
	if (account->json) {
		json_t *root = json_pack("{s:s, s:b, s:O, s:O, s:s*}", "db", db, "dry_run",
			(int)account->dry_run, "changes", account->list, "notes", account->notes,
			"error", error);
		if (root != NULL) {
			json_dumpf(root, stdout, JSON_COMPACT);
			putchar('\n');
		}
		json_decref(root);
	}
	json_decref(account->list);
	json_decref(account->notes);
	*account = (struct account){0};
}

__attribute__((format(printf, 4, 0))) static void account_line(
	struct account *account, json_t *list, const char *prefix, const char *format, va_list args)
{
	char line[PLACE_TEXT_BYTES];

	vsnprintf(line, sizeof(line), format, args);
	if (account->json) {
		json_array_append_new(list, json_string(line));
		return;
	}
	printf("%s%s\n", prefix, line);
	fflush(stdout);
}

void account_change(struct account *account, const char *format, ...)
{
	va_list args;

	account->changes++;
	va_start(args, format);
	account_line(account, account->list, account->dry_run ? "would " : "", format, args);
	va_end(args);
}

void account_note(struct account *account, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	account_line(account, account->notes, "note: ", format, args);
	va_end(args);
}

/* ---- owners ------------------------------------------------------------------------------- */

struct owner owner_of(const struct stat *st)
{
	return (struct owner){st->st_uid, st->st_gid,
		st->st_mode & (S_ISDIR(st->st_mode) ? MODE_DIR : MODE_FILE)};
}

static bool number_of(const char *text, uint32_t *ret_number)
{
	char *end = NULL;
	if (text[0] < '0' || text[0] > '9') {
		return false;
	}
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || number >= UINT32_MAX) {
		return false;
	}
	*ret_number = (uint32_t)number;
	return true;
}

int owner_find_user(const char *text, uid_t *ret_uid, gid_t *ret_gid)
{
	const struct passwd *user = getpwnam(text);
	uint32_t uid = 0;
	if (user == NULL && number_of(text, &uid)) {
		user = getpwuid(uid);
		*ret_uid = uid;
		*ret_gid = user != NULL ? user->pw_gid : uid;
		return 0;
	}
	if (user == NULL) {
		return -ENOENT;
	}
	*ret_uid = user->pw_uid;
	*ret_gid = user->pw_gid;
	return 0;
}

int owner_find_group(const char *text, gid_t *ret_gid)
{
	const struct group *group = getgrnam(text);
	uint32_t gid = 0;
	if (group != NULL) {
		*ret_gid = group->gr_gid;
		return 0;
	}
	if (!number_of(text, &gid)) {
		return -ENOENT;
	}
	*ret_gid = gid;
	return 0;
}

const char *owner_user_name(uid_t uid, char *buffer, size_t bytes)
{
	const struct passwd *user = getpwuid(uid);
	if (user != NULL) {
		snprintf(buffer, bytes, "%s", user->pw_name);
	} else {
		snprintf(buffer, bytes, "%u", uid);
	}
	return buffer;
}

const char *owner_group_name(gid_t gid, char *buffer, size_t bytes)
{
	const struct group *group = getgrgid(gid);
	if (group != NULL) {
		snprintf(buffer, bytes, "%s", group->gr_name);
	} else {
		snprintf(buffer, bytes, "%u", gid);
	}
	return buffer;
}

static void account_owner(struct account *account, const char *path, const struct owner *was,
	const struct owner *want)
{
	char names[4][64];
	if (was->uid != want->uid || was->gid != want->gid) {
		account_change(account, "chown %s:%s %s (was %s:%s)",
			owner_user_name(want->uid, names[0], sizeof(names[0])),
			owner_group_name(want->gid, names[1], sizeof(names[1])), path,
			owner_user_name(was->uid, names[2], sizeof(names[2])),
			owner_group_name(was->gid, names[3], sizeof(names[3])));
	}
	if (was->mode != want->mode) {
		account_change(account, "chmod %04o %s (was %04o)", want->mode, path, was->mode);
	}
}

static int owner_change(int fd, const struct owner *was, const struct owner *want)
{
	char self[64];
	struct stat st;

	/* chown() may clear setgid, so the mode comes second; fchmod() does not take O_PATH. */
	if ((was->uid != want->uid || was->gid != want->gid) &&
		fchownat(fd, "", want->uid, want->gid, AT_EMPTY_PATH) != 0) {
		return -errno;
	}
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (chmod(self, want->mode) != 0 || fstat(fd, &st) != 0) {
		return -errno;
	}
	/* The kernel drops setgid silently when the caller is not in the group. */
	return (st.st_mode & 07777) == want->mode ? 0 : -EPERM;
}

int owner_apply(struct account *account, const char *path, const struct owner *was,
	const struct owner *want, char *ret_error)
{
	struct stat st;
	CLEANUP_FD int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0) {
		if (errno == ENOENT) {
			return 0;
		}
		int r = -errno;
		refuse(ret_error, "%s: %s", path, strerror(-r));
		return r;
	}
	if (fstat(fd, &st) != 0) {
		return -errno;
	}
	if (!S_ISDIR(st.st_mode) && (!S_ISREG(st.st_mode) || st.st_nlink != 1)) {
		return refuse(ret_error,
			"%s is not a regular file with one name (cure: move it away)", path);
	}
	struct owner found = owner_of(&st);
	account_owner(account, path, was != NULL ? was : &found, want);
	if (account->dry_run ||
		(found.uid == want->uid && found.gid == want->gid &&
			(st.st_mode & 07777) == want->mode)) {
		return 0;
	}
	int r = owner_change(fd, &found, want);
	if (r < 0) {
		refuse(ret_error, "%s: %s%s", path, strerror(-r),
			r == -EPERM ? " (cure: run as root)" : "");
	}
	return r;
}

int owner_set_directory(const char *path, const struct owner *want)
{
	struct stat st;
	CLEANUP_FD int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) != 0) {
		return -errno;
	}
	struct owner was = owner_of(&st);
	return owner_change(fd, &was, want);
}

/* ---- the memory --------------------------------------------------------------------------- */

static json_t *owner_to_json(const struct owner *owner)
{
	char mode[8];
	snprintf(mode, sizeof(mode), "%04o", owner->mode & 07777U);
	return json_pack("{s:I, s:I, s:s}", "uid", (json_int_t)owner->uid, "gid",
		(json_int_t)owner->gid, "mode", mode);
}

static bool owner_from_json(json_t *json, mode_t allowed, struct owner *ret)
{
	json_int_t uid = -1;
	json_int_t gid = -1;
	const char *mode = NULL;
	char *end = NULL;

	if (json_unpack(json, "{s:I, s:I, s:s}", "uid", &uid, "gid", &gid, "mode", &mode) != 0 ||
		uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX) {
		return false;
	}
	unsigned long bits = strtoul(mode, &end, 8);
	if (mode[0] == '\0' || *end != '\0' || (bits & ~(unsigned long)allowed) != 0) {
		return false;
	}
	*ret = (struct owner){(uid_t)uid, (gid_t)gid, (mode_t)bits};
	return true;
}

static bool adoption_from_json(json_t *root, struct adoption *ret)
{
	json_t *dir = NULL;
	json_t *db = NULL;
	const char *journal_mode = NULL;
	int format = 0;

	if (json_unpack(root, "{s:i, s:o, s:o, s:s}", "format", &format, "directory", &dir,
		    "database", &db, "journal_mode", &journal_mode) != 0 ||
		format != 1 ||
		(strcmp(journal_mode, "wal") != 0 && strcmp(journal_mode, "delete") != 0)) {
		return false;
	}
	snprintf(ret->journal_mode, sizeof(ret->journal_mode), "%s", journal_mode);
	return owner_from_json(dir, MODE_DIR, &ret->dir) &&
		owner_from_json(db, MODE_FILE, &ret->db);
}

int adoption_read(const struct place *place, struct adoption *ret, char *ret_error)
{
	struct stat st;
	json_error_t where;
	int fd = open(place->adopted, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	*ret = (struct adoption){0};
	if (fd < 0 && errno == ENOENT) {
		return ADOPTION_NONE;
	}
	if (fd < 0) {
		return refuse(ret_error, "%s: %s", place->adopted, strerror(errno));
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1 ||
		(st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & 022) != 0) {
		close(fd);
		return refuse(ret_error,
			"%s was not written by this user or root (cure: remove it, and restore "
			"owner and modes by hand)",
			place->adopted);
	}
	json_t *root = json_loadfd(fd, JSON_REJECT_DUPLICATES, &where);
	close(fd);
	bool good = root != NULL && adoption_from_json(root, ret);
	json_decref(root);
	return good ? 0
		    : refuse(ret_error,
			      "%s cannot be understood (cure: remove it, and restore owner and "
			      "modes by hand)",
			      place->adopted);
}

static int write_file(const char *path, const char *text)
{
	size_t len = strlen(text);
	CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		return -errno;
	}
	ssize_t n = write(fd, text, len);
	if (n != (ssize_t)len || fsync(fd) != 0) {
		return n >= 0 && n != (ssize_t)len ? -EIO : -errno;
	}
	return 0;
}

int adoption_write(const struct place *place, const struct adoption *adoption, char *ret_error)
{
	char tmp[PATH_MAX];
	json_t *root = json_pack("{s:i, s:o, s:o, s:s}", "format", 1, "directory",
		owner_to_json(&adoption->dir), "database", owner_to_json(&adoption->db),
		"journal_mode", adoption->journal_mode);
	CLEANUP_FREE char *text = root != NULL ? json_dumps(root, JSON_INDENT(2)) : NULL;

	json_decref(root);
	if (text == NULL) {
		return -ENOMEM;
	}
	snprintf(tmp, sizeof(tmp), "%s.tmp", place->adopted);
	unlink(tmp);
	int r = write_file(tmp, text);
	if (r == 0 && rename(tmp, place->adopted) != 0) {
		r = -errno;
	}
	if (r < 0) {
		unlink(tmp);
		refuse(ret_error, "%s: %s", place->adopted, strerror(-r));
	}
	return r;
}

/* ---- who uses it -------------------------------------------------------------------------- */

static bool is_file_of(const struct place *place, const struct stat *opened)
{
	const char *const paths[] = {place->db, place->wal, place->shm};
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		struct stat st;
		if (lstat(paths[i], &st) == 0 && st.st_dev == opened->st_dev &&
			st.st_ino == opened->st_ino) {
			return true;
		}
	}
	return false;
}

static bool fd_writes(const char *pid, const char *fd)
{
	char path[PATH_MAX];
	char line[128];
	unsigned flags = O_RDWR; /* where the kernel does not tell, fear the worst */

	snprintf(path, sizeof(path), "/proc/%s/fdinfo/%s", pid, fd);
	FILE *info = fopen(path, "re");
	if (info == NULL) {
		return true;
	}
	while (fgets(line, sizeof(line), info) != NULL) {
		if (sscanf(line, "flags: %o", &flags) == 1) {
			break;
		}
	}
	fclose(info);
	return (flags & O_ACCMODE) != O_RDONLY;
}

static bool process_opens(const struct place *place, const char *pid, bool readers)
{
	char path[PATH_MAX];
	bool opens = false;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	DIR *fds = opendir(path);
	if (fds == NULL) {
		return false;
	}
	for (const struct dirent *entry = readdir(fds); entry != NULL && !opens;
		entry = readdir(fds)) {
		struct stat st;
		opens = entry->d_name[0] != '.' &&
			fstatat(dirfd(fds), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) &&
			is_file_of(place, &st) && (readers || fd_writes(pid, entry->d_name));
	}
	closedir(fds);
	return opens;
}

static void name_process(const char *pid, char *ret_who, size_t who_bytes)
{
	char path[PATH_MAX];
	char comm[32] = "";

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	FILE *file = fopen(path, "re");
	if (file != NULL) {
		if (fgets(comm, sizeof(comm), file) == NULL) {
			comm[0] = '\0';
		}
		fclose(file);
	}
	comm[strcspn(comm, "\n")] = '\0';
	snprintf(ret_who, who_bytes, "pid %s (%s)", pid, comm[0] != '\0' ? comm : "?");
}

unsigned adoption_openers(const struct place *place, bool readers, char *ret_who, size_t who_bytes)
{
	unsigned count = 0;
	char self[24];
	DIR *proc = opendir("/proc");

	ret_who[0] = '\0';
	if (proc == NULL) {
		return 0;
	}
	snprintf(self, sizeof(self), "%ld", (long)getpid());
	for (const struct dirent *entry = readdir(proc); entry != NULL; entry = readdir(proc)) {
		const char *pid = entry->d_name;
		if (pid[0] < '0' || pid[0] > '9' || strcmp(pid, self) == 0 ||
			!process_opens(place, pid, readers)) {
			continue;
		}
		if (count++ == 0) {
			name_process(pid, ret_who, who_bytes);
		}
	}
	closedir(proc);
	return count;
}

bool adoption_socket_listens(const struct place *place)
{
	char line[PATH_MAX];
	bool listens = false;
	FILE *file = fopen("/proc/net/unix", "re");

	if (file == NULL) {
		return false;
	}
	while (!listens && fgets(line, sizeof(line), file) != NULL) {
		unsigned flags = 0;
		int at = 0;
		/* address: references protocol flags type state inode path */
		if (sscanf(line, "%*s %*s %*s %x %*s %*s %*s %n", &flags, &at) < 1 || at == 0) {
			continue;
		}
		line[strcspn(line, "\n")] = '\0';
		listens = (flags & 0x10000U) != 0 && strcmp(line + at, place->socket) == 0;
	}
	fclose(file);
	return listens;
}

int adoption_journal_mode(const struct place *place, char ret_mode[16], char *ret_error)
{
	unsigned char header[20];
	CLEANUP_FD int fd = open(place->db, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	ret_mode[0] = '\0';
	if (fd < 0) {
		return refuse(ret_error, "%s: %s", place->db, strerror(errno));
	}
	ssize_t n = pread(fd, header, sizeof(header), 0);
	if (n == 0) {
		return 0;
	}
	if (n != (ssize_t)sizeof(header) || memcmp(header, "SQLite format 3", 16) != 0) {
		return refuse(ret_error, "%s is not a SQLite 3 database (cure: the right path)",
			place->db);
	}
	snprintf(ret_mode, 16, "%s", header[18] == 2 ? "wal" : "delete");
	return 0;
}
