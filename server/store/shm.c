/* SPDX-License-Identifier: MIT */

/*
 * Reads locks off the kernel's list. Where the list leaves somebody out, because his pid has no number
 * in our namespace, F_GETLK on SQLite's own descriptor still tells that the byte is held. It takes no
 * lock and opens no file of the database. The layout of the wal-index is SQLite's, and documented.
 */

#include "server/store/shm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Offsets in the wal-index: its header, then what checkpoints and readers share, then the locks. */
enum {
	OFFSET_MAX_FRAME = 16,
	OFFSET_BACKFILLED = 96,
	OFFSET_MARKS = 100,
	OFFSET_LOCKS = 120,
	INDEX_BYTES = 128,
	LOCK_BYTES = 8,
	FIRST_READ_LOCK = 3,
};

static const char *const kind_names[] = {"write", "checkpoint", "recover", "read"};

const char *shm_lock_kind_name(enum shm_lock_kind kind)
{
	return kind_names[kind];
}

/* ---- the file ---- */

/* The descriptor that SQLite has open in this process, or -1. It is not ours to close. */
static int find_fd(const struct stat *shm)
{
	DIR *dir = opendir("/proc/self/fd");
	int found = -1;
	if (dir == NULL) {
		return -1;
	}
	for (struct dirent *entry = NULL; found < 0 && (entry = readdir(dir)) != NULL;) {
		struct stat st;
		char *end = NULL;
		long fd = strtol(entry->d_name, &end, 10);
		/* By its name: the other descriptors are not ours to touch, another thread may close them. */
		if (end != entry->d_name && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
			st.st_ino == shm->st_ino && st.st_dev == shm->st_dev) {
			found = (int)fd;
		}
	}
	closedir(dir);
	return found;
}

static uint32_t word_at(const uint8_t *index, size_t offset)
{
	uint32_t word = 0;
	memcpy(&word, index + offset, sizeof(word));
	return word;
}

/* ---- processes ---- */

static void read_command(pid_t pid, char ret_command[SHM_COMMAND_BYTES])
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	FILE *file = fopen(path, "re");
	ret_command[0] = 0;
	if (file == NULL) {
		return;
	}
	if (fgets(ret_command, SHM_COMMAND_BYTES, file) != NULL) {
		ret_command[strcspn(ret_command, "\n")] = 0;
	}
	fclose(file);
}

/* How many namespaces of pids a process is in, as seen from here: more than we are is another one. */
static int namespaces(const char *process)
{
	char path[64];
	char line[512];
	int count = 0;
	snprintf(path, sizeof(path), "/proc/%s/status", process);
	FILE *file = fopen(path, "re");
	if (file == NULL) {
		return 0;
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		if (strncmp(line, "NSpid:", 6) == 0) {
			for (char *rest = line + 6; strtok_r(rest, " \t\n", &rest) != NULL;) {
				count++;
			}
			break;
		}
	}
	fclose(file);
	return count;
}

static void describe(struct shm_lock *lock)
{
	char name[16];
	if (lock->pid > 0) {
		snprintf(name, sizeof(name), "%d", (int)lock->pid);
		read_command(lock->pid, lock->command);
		lock->other_namespace = namespaces(name) > namespaces("self");
	} else {
		lock->other_namespace = true;
	}
}

/* ---- locks ---- */

/* The list is read in pieces: one that moves in it meanwhile is met twice. */
static bool is_known(const struct shm_facts *facts, const struct shm_lock *lock)
{
	for (size_t i = 0; lock->pid > 0 && i < facts->count; i++) {
		const struct shm_lock *known = &facts->locks[i];
		if (known->pid == lock->pid && known->kind == lock->kind &&
			known->slot == lock->slot) {
			return true;
		}
	}
	return false;
}

static void add(struct shm_facts *facts, const uint8_t *index, unsigned byte, pid_t pid)
{
	struct shm_lock *lock = &facts->locks[facts->count];
	struct shm_lock seen = {.pid = pid,
		.kind = byte < FIRST_READ_LOCK ? (enum shm_lock_kind)byte : SHM_READ,
		.slot = byte < FIRST_READ_LOCK ? 0 : byte - FIRST_READ_LOCK};
	if (facts->count >= SHM_LOCKS_MAX || is_known(facts, &seen)) {
		return;
	}
	facts->count++;
	*lock = seen;
	if (lock->kind == SHM_READ) {
		lock->mark = lock->slot > 0 ? word_at(index, OFFSET_MARKS + 4 * lock->slot) : 0;
		/* Slot 0 reads the database alone: while it is held nothing may be copied into it. */
		uint64_t from = lock->slot > 0 && lock->mark > facts->backfilled
			? lock->mark
			: facts->backfilled;
		lock->pinned = facts->frames > from ? facts->frames - from : 0;
	}
	describe(lock);
}

/* "12: POSIX  ADVISORY  READ 1234 fd:01:5678 124 124", and not "12: -> …", who only waits. */
static bool parse_line(const char *line, const struct stat *shm, pid_t *ret_pid,
	unsigned *ret_first, unsigned *ret_last)
{
	unsigned major_no = 0;
	unsigned minor_no = 0;
	uint64_t inode = 0;
	uint64_t first = 0;
	uint64_t last = 0;
	int pid = 0;
	if (sscanf(line, "%*d: POSIX %*s %*s %d %x:%x:%" SCNu64 " %" SCNu64 " %" SCNu64, &pid,
		    &major_no, &minor_no, &inode, &first, &last) != 6 ||
		inode != shm->st_ino || pid == getpid()) {
		return false;
	}
	/* Filesystems without a device of their own are told here by another number than by stat(). */
	bool same = major_no == major(shm->st_dev) && minor_no == minor(shm->st_dev);
	bool anonymous = major_no == 0 && major(shm->st_dev) == 0;
	if ((!same && !anonymous) || first < OFFSET_LOCKS || first >= OFFSET_LOCKS + LOCK_BYTES) {
		return false;
	}
	*ret_pid = pid;
	*ret_first = (unsigned)first - OFFSET_LOCKS;
	*ret_last =
		last < OFFSET_LOCKS + LOCK_BYTES ? (unsigned)last - OFFSET_LOCKS : LOCK_BYTES - 1;
	return true;
}

/* What the kernel lists; a bit of *ret_seen for each byte that somebody was named for. */
static int read_list(
	const struct stat *shm, const uint8_t *index, struct shm_facts *facts, unsigned *ret_seen)
{
	char line[256];
	FILE *file = fopen("/proc/locks", "re");
	if (file == NULL) {
		return -errno;
	}
	while (fgets(line, sizeof(line), file) != NULL) {
		pid_t pid = 0;
		unsigned first = 0;
		unsigned last = 0;
		if (parse_line(line, shm, &pid, &first, &last)) {
			for (unsigned byte = first; byte <= last; byte++) {
				add(facts, index, byte, pid);
				*ret_seen |= 1u << byte;
			}
		}
	}
	fclose(file);
	return 0;
}

/* Bytes that are held by somebody whom the list does not show. */
static void ask_bytes(int fd, const uint8_t *index, struct shm_facts *facts, unsigned seen)
{
	for (unsigned byte = 0; byte < LOCK_BYTES; byte++) {
		struct flock lock = {.l_type = F_WRLCK,
			.l_whence = SEEK_SET,
			.l_start = OFFSET_LOCKS + (off_t)byte,
			.l_len = 1};
		if ((seen & (1u << byte)) == 0 && fcntl(fd, F_GETLK, &lock) == 0 &&
			lock.l_type != F_UNLCK) {
			add(facts, index, byte, lock.l_pid > 0 ? lock.l_pid : 0);
		}
	}
}

int shm_look(const char *db, struct shm_facts *ret_facts)
{
	uint8_t index[INDEX_BYTES];
	char path[4096];
	struct stat shm;
	unsigned seen = 0;
	*ret_facts = (struct shm_facts){0};
	snprintf(path, sizeof(path), "%s-shm", db);
	if (stat(path, &shm) != 0) {
		return -errno;
	}
	int fd = find_fd(&shm);
	if (fd < 0 || pread(fd, index, sizeof(index), 0) != (ssize_t)sizeof(index)) {
		return -ENOENT;
	}
	ret_facts->frames = word_at(index, OFFSET_MAX_FRAME);
	ret_facts->backfilled = word_at(index, OFFSET_BACKFILLED);
	int rc = read_list(&shm, index, ret_facts, &seen);
	ask_bytes(fd, index, ret_facts, seen);
	return rc;
}

pid_t shm_foreign_writer(const char *db, char ret_command[SHM_COMMAND_BYTES])
{
	struct shm_facts facts;
	ret_command[0] = 0;
	if (shm_look(db, &facts) != 0) {
		return 0;
	}
	for (size_t i = 0; i < facts.count; i++) {
		if (facts.locks[i].kind == SHM_WRITE) {
			memcpy(ret_command, facts.locks[i].command, SHM_COMMAND_BYTES);
			return facts.locks[i].pid;
		}
	}
	return 0;
}
