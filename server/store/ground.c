/* SPDX-License-Identifier: MIT */

/*
 * Whether the ground still holds: the database, -wal and -shm are the files that were opened, nobody
 * else has written to the database's file, and SQLite's locks on them are there. It asks stat() and
 * /proc only; to open and close one of the files would itself drop the locks.
 */

#include "server/base/clock.h"
#include "server/base/locks.h"
#include "server/store/inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	LIST_US = 900000,
	LOCK_TRIES = 5,
	SHARED_BYTES = 510,
	WRITE_BYTE = 120,
	LAST_READ_BYTE = 127,
	DMS_BYTE = 128
};

#define PENDING_FIRST 1073741824ull
#define SHARED_FIRST  1073741826ull /* of the bytes that say "in use" in SQLite's database files */

static const char *const suffixes[GROUND_FILES] = {"", "-wal", "-shm"};

static void path_of(const struct store *store, enum ground_file file, char path[4096])
{
	snprintf(path, 4096, "%s%s", store->path, suffixes[file]);
}

static bool look(const struct store *store, enum ground_file file, struct stat *ret_status)
{
	char path[4096];
	path_of(store, file, path);
	return lstat(path, ret_status) == 0;
}

/* ---- locks ---- */

struct held {
	uint64_t first;
	uint64_t last;
	bool found;
};

static void is_ours(void *ctx, const struct lock_seen *lock)
{
	struct held *held = ctx;
	held->found |= lock->pid == getpid() && !lock->waits && lock->first <= held->first &&
		lock->last >= held->last;
}

/* The table of the kernel is not read at one moment: a lock may be overlooked, but not often. */
static bool listed(
	const struct ground *ground, enum ground_file file, uint64_t first, uint64_t bytes)
{
	struct held held = {first, first + bytes - 1, false};
	const struct ground_identity *identity = &ground->files[file];
	for (int tries = 0; tries < LOCK_TRIES && !held.found; tries++) {
		if (locks_each(ground->any_device ? 0 : identity->dev, identity->ino, is_ours,
			    &held) < 0) {
			return true; /* it cannot be told */
		}
	}
	return held.found;
}

/* Our descriptor of a file, also of one that has lost its name. */
static int find_descriptor(const struct ground_identity *identity, nlink_t *ret_links)
{
	char path[320];
	struct stat status;
	int found = -1;
	DIR *fds = opendir("/proc/self/fd");
	for (struct dirent *fd; fds != NULL && found < 0 && (fd = readdir(fds)) != NULL;) {
		snprintf(path, sizeof(path), "/proc/self/fd/%s", fd->d_name);
		if (stat(path, &status) == 0 && status.st_dev == identity->dev &&
			status.st_ino == identity->ino) {
			found = atoi(fd->d_name);
			*ret_links = status.st_nlink;
		}
	}
	if (fds != NULL) {
		closedir(fds);
	}
	return found;
}

/*
 * Asks for a lock of the open file description, which the process's own POSIX locks refuse. Whose lock
 * it is that refuses is told of the first one only: a reader's may stand before ours.
 */
static enum lock_answer {
	LOCK_OURS,
	LOCK_NONE,
	LOCK_PERHAPS
} ask(const struct ground *ground, enum ground_file file, uint64_t first, uint64_t bytes)
{
	struct flock lock = {.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = (off_t)first,
		.l_len = (off_t)bytes};
	if (ground->fds[file] < 0 || fcntl(ground->fds[file], F_OFD_GETLK, &lock) != 0) {
		return LOCK_PERHAPS;
	}
	return lock.l_type == F_UNLCK    ? LOCK_NONE
		: lock.l_pid == getpid() ? LOCK_OURS
					 : LOCK_PERHAPS;
}

/* To read /proc/locks holds up everybody's locks for a moment: only where it must be. */
static bool locked(struct ground *ground, enum ground_file file, uint64_t first, uint64_t bytes)
{
	enum lock_answer answer = ask(ground, file, first, bytes);
	if (answer != LOCK_PERHAPS) {
		return answer == LOCK_OURS;
	}
	uint64_t now_us = clock_now_us();
	if (now_us < ground->next_list_us) {
		return true;
	}
	ground->next_list_us = now_us + LIST_US;
	return listed(ground, file, first, bytes);
}

static bool locks_hold(struct ground *ground)
{
	return !ground->locks_seen ||
		(locked(ground, GROUND_DB, SHARED_FIRST, SHARED_BYTES) &&
			locked(ground, GROUND_SHM, DMS_BYTE, 1));
}

/* Where they cannot be seen now, they will not be missed later. */
static void find_locks(struct ground *ground)
{
	nlink_t links = 0;
	for (unsigned i = 0; i < GROUND_FILES; i++) {
		ground->fds[i] = find_descriptor(&ground->files[i], &links);
	}
	enum lock_answer db = ask(ground, GROUND_DB, SHARED_FIRST, SHARED_BYTES);
	enum lock_answer shm = ask(ground, GROUND_SHM, DMS_BYTE, 1);
	ground->locks_seen = db == LOCK_OURS && shm == LOCK_OURS;
	if (db == LOCK_NONE || shm == LOCK_NONE) {
		return; /* a VFS that needs none */
	}
	for (int any = 0; any < 2 && !ground->locks_seen; any++) {
		ground->any_device = any != 0;
		ground->locks_seen = listed(ground, GROUND_DB, SHARED_FIRST, SHARED_BYTES) &&
			listed(ground, GROUND_SHM, DMS_BYTE, 1);
	}
}

/* Who holds a lock that refuses ours of that kind; our own refuse nothing. -1: nobody. */
static pid_t refuses(int fd, short type, uint64_t first, uint64_t last)
{
	struct flock lock = {.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = (off_t)first,
		.l_len = (off_t)(last - first + 1)};
	if (fd < 0 || fcntl(fd, F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) {
		return -1;
	}
	return lock.l_pid > 0 ? lock.l_pid : 0;
}

pid_t store_find_blocker(struct store *store, char ret_file[STORE_ERROR_BYTES])
{
	static const struct {
		enum ground_file file;
		short type;
		uint64_t first;
		uint64_t last;
	} places[] = {
		{GROUND_SHM, F_WRLCK, WRITE_BYTE, WRITE_BYTE},
		/* Readers hold their marks: in the way is only who shares them with nobody. */
		{GROUND_SHM, F_RDLCK, WRITE_BYTE + 1, LAST_READ_BYTE},
		{GROUND_DB, F_WRLCK, PENDING_FIRST, SHARED_FIRST - 1},
	};
	for (size_t i = 0; store->ground.watched && i < sizeof(places) / sizeof(places[0]); i++) {
		pid_t pid = refuses(store->ground.fds[places[i].file], places[i].type,
			places[i].first, places[i].last);
		if (pid >= 0) {
			snprintf(ret_file, STORE_ERROR_BYTES, "%.400s%s", store->path,
				suffixes[places[i].file]);
			return pid;
		}
	}
	return -1;
}

/* ---- the files ---- */

/* How much of the WAL somebody has copied into the database, or has begun to. */
static uint32_t checkpoint_mark(struct store *store)
{
	struct wal_index index;
	if (!wal_index(store, &index)) {
		return 0;
	}
	return index.backfilled > index.attempted ? index.backfilled : index.attempted;
}

void ground_note(struct store *store)
{
	struct stat status;
	if (store->ground.watched && look(store, GROUND_DB, &status)) {
		store->ground.changed = status.st_mtim;
		store->ground.bytes = status.st_size;
		store->ground.mark = checkpoint_mark(store);
	}
}

void ground_begin(struct store *store)
{
	struct ground *ground = &store->ground;
	struct stat status;
	ground->watched = true;
	for (unsigned i = 0; i < GROUND_FILES; i++) {
		ground->watched &= look(store, (enum ground_file)i, &status);
		ground->files[i] = (struct ground_identity){status.st_dev, status.st_ino};
	}
	if (ground->watched) {
		find_locks(ground);
	}
	ground_note(store);
}

static void describe_moved(struct store *store, enum ground_file file, bool replaced)
{
	char link[64];
	char now[512] = "?";
	nlink_t links = 0;
	int fd = find_descriptor(&store->ground.files[file], &links);
	char *text = store->doubt.text;
	int len = snprintf(text, STORE_ERROR_BYTES, "%.160s%s was ", store->path, suffixes[file]);
	text += len;
	size_t room = STORE_ERROR_BYTES - (size_t)len;
	const char *by = replaced ? " (another file stands in its place)" : "";
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t bytes = fd >= 0 ? readlink(link, now, sizeof(now) - 1) : -1;
	now[bytes > 0 ? bytes : 0] = 0;
	if (file != GROUND_DB) {
		snprintf(text, room, "%s under the running daemon%s",
			links == 0 ? "deleted" : "moved", by);
	} else if (links > 0) {
		snprintf(text, room,
			"moved to %.160s under the running daemon%s: move it back, or stop the daemon "
			"and begin with what is there",
			now, by);
	} else {
		snprintf(text, room,
			"deleted under the running daemon%s: save it before you stop the daemon: "
			"`cp /proc/%d/fd/%d COPY`",
			by, (int)getpid(), fd);
	}
}

static bool files_hold(struct store *store, struct stat *ret_db)
{
	for (unsigned i = 0; i < GROUND_FILES; i++) {
		struct stat status;
		const struct ground_identity *identity = &store->ground.files[i];
		bool there = look(store, (enum ground_file)i, &status);
		if (!there || status.st_ino != identity->ino || status.st_dev != identity->dev) {
			store->doubt.file = (enum ground_file)i;
			describe_moved(store, (enum ground_file)i, there);
			return false;
		}
		if (i == GROUND_DB) {
			*ret_db = status;
		}
	}
	return true;
}

bool ground_files_hold(struct store *store)
{
	struct stat status;
	return files_hold(store, &status);
}

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Only our checkpoints write to the database's own file. */
static void look_at_content(struct store *store, const struct stat *status)
{
	struct ground *ground = &store->ground;
	struct wal_index index;
	if (same_time(&status->st_mtim, &ground->changed) && status->st_size == ground->bytes) {
		return;
	}
	if (checkpoint_mark(store) > ground->mark ||
		(wal_index(store, &index) && foreign_restart(store, &index))) {
		/* A checkpoint that another process has made: the content is the same. */
		foreign_note_salt(store);
		store->foreign_count++;
		ground_note(store);
		return;
	}
	store->doubt.kind = STORE_DOUBT_WRITTEN;
	store->doubt.in_file = true;
	snprintf(store->doubt.text, STORE_ERROR_BYTES,
		"the file %.300s was changed by another process than the daemon", store->path);
}

void ground_look_at_content(struct store *store)
{
	struct stat status;
	if (store->ground.watched && store->doubt.kind == STORE_DOUBT_NONE &&
		look(store, GROUND_DB, &status) &&
		status.st_ino == store->ground.files[GROUND_DB].ino) {
		look_at_content(store, &status);
	}
}

void store_look_around(struct store *store)
{
	struct stat status;
	store->looked_us = clock_now_us();
	if (!store_in_transaction(store)) {
		foreign_look_behind_halt(store);
	}
	if (!store->ground.watched || store->doubt.kind != STORE_DOUBT_NONE) {
		return;
	}
	if (!files_hold(store, &status)) {
		store->doubt.kind = STORE_DOUBT_FILES;
	} else if (!locks_hold(&store->ground)) {
		store->doubt.kind = STORE_DOUBT_LOCKS;
		snprintf(store->doubt.text, STORE_ERROR_BYTES,
			"SQLite's locks on %.300s are gone: something in this process has opened and "
			"closed the file",
			store->path);
	} else {
		look_at_content(store, &status);
	}
}
