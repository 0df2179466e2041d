/* SPDX-License-Identifier: MIT */

/*
 * Files that must survive a power loss once somebody relies on them. It knows how they become
 * durable, not what they mean.
 */

#include "server/ship/spool.h"

#include "server/base/cleanup.h"
#include "server/base/notice.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { BUFFER_BYTES = 256 * 1024, NAME_BYTES = 80, POSITION_MAGIC = 0x4c465031 /* LFP1 */ };

static const char *const kind_names[] = {"segments", "images"};

struct spool {
	char *dir;
	int fd;
	int lock_fd;
	int kind_fds[2];
};

struct outgoing {
	const struct spool *spool;
	enum spool_kind kind;
	int fd;
	char tmp[NAME_BYTES];
	EVP_MD_CTX *sha256;
	size_t len;
	uint8_t buffer[BUFFER_BYTES];
};

/* ---- the directory ---- */

static int open_dir(int at, const char *name)
{
	if (mkdirat(at, name, 0750) != 0 && errno != EEXIST) {
		return -errno;
	}
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 ? fd : -errno;
}

/* What a shipper that died has left half-made. */
static void remove_unfinished(int dir_fd)
{
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	for (struct dirent *entry = NULL; dir != NULL && (entry = readdir(dir)) != NULL;) {
		size_t len = strlen(entry->d_name);
		if (len > 4 && strcmp(entry->d_name + len - 4, ".tmp") == 0) {
			unlinkat(dir_fd, entry->d_name, 0);
		}
	}
	if (dir != NULL) {
		closedir(dir);
	} else if (fd >= 0) {
		close(fd);
	}
}

static int set_up(struct spool *spool, const char *dir)
{
	spool->dir = strdup(dir);
	spool->fd = spool->dir != NULL ? open_dir(AT_FDCWD, dir) : -ENOMEM;
	if (spool->fd < 0) {
		return spool->fd;
	}
	spool->lock_fd = openat(spool->fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (spool->lock_fd < 0) {
		return -errno;
	}
	if (flock(spool->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		return errno == EWOULDBLOCK ? SPOOL_LOCKED : -errno;
	}
	remove_unfinished(spool->fd);
	for (size_t i = 0; i < 2; i++) {
		spool->kind_fds[i] = open_dir(spool->fd, kind_names[i]);
		if (spool->kind_fds[i] < 0) {
			return spool->kind_fds[i];
		}
		remove_unfinished(spool->kind_fds[i]);
	}
	return fsync(spool->fd) == 0 ? 0 : -errno;
}

int spool_open(const char *dir, struct spool **ret_spool)
{
	struct spool *spool = calloc(1, sizeof(*spool));
	if (spool == NULL) {
		return -ENOMEM;
	}
	spool->fd = spool->lock_fd = spool->kind_fds[0] = spool->kind_fds[1] = -1;
	int rc = set_up(spool, dir);
	if (rc != 0) {
		spool_free(spool);
		return rc;
	}
	*ret_spool = spool;
	return 0;
}

void spool_free(struct spool *spool)
{
	if (spool == NULL) {
		return;
	}
	int fds[] = {spool->fd, spool->lock_fd, spool->kind_fds[0], spool->kind_fds[1]};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0) {
			close(fds[i]);
		}
	}
	free(spool->dir);
	free(spool);
}

const char *spool_dir(const struct spool *spool)
{
	return spool->dir;
}

/* ---- small files ---- */

static int write_all(int fd, const void *bytes, size_t len)
{
	const uint8_t *at = bytes;
	while (len > 0) {
		ssize_t written = write(fd, at, len);
		if (written < 0 && errno == EINTR) {
			continue;
		}
		if (written <= 0) {
			return written == 0 ? -EIO : -errno;
		}
		at += written;
		len -= (size_t)written;
	}
	return 0;
}

/* A whole small file, durable under its name; the directory is the caller's to sync. */
static int put_small(int dir_fd, const char *name, const void *bytes, size_t len)
{
	char tmp[NAME_BYTES + 8];
	snprintf(tmp, sizeof(tmp), "%s.tmp", name);
	CLEANUP_FD int fd =
		openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	int rc = fd >= 0 ? write_all(fd, bytes, len) : -errno;
	rc = rc == 0 && fsync(fd) != 0 ? -errno : rc;
	rc = rc == 0 && renameat(dir_fd, tmp, dir_fd, name) != 0 ? -errno : rc;
	return rc;
}

struct position_file {
	uint32_t magic;
	uint32_t size;
	struct position position;
	uint64_t hash;
};

/* In the machine's own byte order: it never leaves it. */
int spool_position_write(struct spool *spool, const struct position *position)
{
	struct position_file file;
	memset(&file, 0, sizeof(file));
	file.magic = POSITION_MAGIC;
	file.size = sizeof(file);
	memcpy(&file.position, position, sizeof(*position));
	file.hash = XXH3_64bits(&file, offsetof(struct position_file, hash));
	int rc = put_small(spool->fd, CHAIN_POSITION, &file, sizeof(file));
	return rc == 0 && fsync(spool->fd) != 0 ? -errno : rc;
}

int spool_position_read(struct spool *spool, struct position *ret_position)
{
	struct position_file file = {0};
	CLEANUP_FD int fd = openat(spool->fd, CHAIN_POSITION, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return errno == ENOENT ? SPOOL_MISSING : -errno;
	}
	ssize_t got = read(fd, &file, sizeof(file));
	if (got < 0) {
		return -errno;
	}
	if (got != (ssize_t)sizeof(file) || file.magic != POSITION_MAGIC ||
		file.size != sizeof(file) ||
		file.hash != XXH3_64bits(&file, offsetof(struct position_file, hash))) {
		return SPOOL_MISSING; /* a chain that cannot be told from none is none */
	}
	memcpy(ret_position, &file.position, sizeof(*ret_position));
	return 0;
}

struct grave {
	uint8_t epoch[RECORD_ID_BYTES];
	uint64_t txid;
};
enum { GRAVES_MAX = 64 };

static size_t read_graves(const struct spool *spool, struct grave *ret_graves)
{
	CLEANUP_FD int fd = openat(spool->fd, "past", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t got = fd >= 0 ? read(fd, ret_graves, GRAVES_MAX * sizeof(*ret_graves)) : 0;
	return got > 0 ? (size_t)got / sizeof(*ret_graves) : 0;
}

int spool_bury(struct spool *spool, const struct position *position)
{
	struct grave graves[GRAVES_MAX];
	size_t count = read_graves(spool, graves);
	size_t kept = 0;
	struct grave grave = {.txid = position->txid};
	memcpy(grave.epoch, position->epoch, sizeof(grave.epoch));
	for (size_t i = 0; i < count; i++) {
		if (memcmp(graves[i].epoch, grave.epoch, sizeof(grave.epoch)) != 0) {
			graves[kept++] = graves[i];
		} else if (graves[i].txid >= grave.txid) {
			return 0;
		}
	}
	if (kept == GRAVES_MAX) {
		kept--;
		memmove(graves, graves + 1, kept * sizeof(*graves));
	}
	graves[kept++] = grave;
	int rc = put_small(spool->fd, "past", graves, kept * sizeof(*graves));
	return rc == 0 && fsync(spool->fd) != 0 ? -errno : rc;
}

uint64_t spool_buried_txid(struct spool *spool, const uint8_t epoch[RECORD_ID_BYTES])
{
	struct grave graves[GRAVES_MAX];
	size_t count = read_graves(spool, graves);
	for (size_t i = 0; i < count; i++) {
		if (memcmp(graves[i].epoch, epoch, RECORD_ID_BYTES) == 0) {
			return graves[i].txid;
		}
	}
	return 0;
}

/* The file is read whole: a thousand starts are 16 KB. The oldest are forgotten. */
enum { WRITERS_MAX = 1024 };

static size_t read_writers(const struct spool *spool, uint8_t *ret_writers)
{
	CLEANUP_FD int fd = openat(spool->fd, "writers", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t got = fd >= 0 ? read(fd, ret_writers, WRITERS_MAX * RECORD_ID_BYTES) : 0;
	return got > 0 ? (size_t)got / RECORD_ID_BYTES : 0;
}

int spool_add_writer(struct spool *spool, const uint8_t writer[RECORD_ID_BYTES])
{
	uint8_t writers[WRITERS_MAX * RECORD_ID_BYTES];
	size_t count = read_writers(spool, writers);
	if (count == WRITERS_MAX) {
		count--;
		memmove(writers, writers + RECORD_ID_BYTES, count * RECORD_ID_BYTES);
	}
	memcpy(writers + count * RECORD_ID_BYTES, writer, RECORD_ID_BYTES);
	int rc = put_small(spool->fd, "writers", writers, (count + 1) * RECORD_ID_BYTES);
	return rc == 0 && fsync(spool->fd) != 0 ? -errno : rc;
}

bool spool_has_writer(struct spool *spool, const uint8_t writer[RECORD_ID_BYTES])
{
	uint8_t writers[WRITERS_MAX * RECORD_ID_BYTES];
	size_t count = read_writers(spool, writers);
	for (size_t i = 0; i < count; i++) {
		if (memcmp(writers + i * RECORD_ID_BYTES, writer, RECORD_ID_BYTES) == 0) {
			return true;
		}
	}
	return false;
}

static void used_name(const char *url, char ret_name[SPOOL_USED_BYTES])
{
	snprintf(ret_name, SPOOL_USED_BYTES, "used-%016" PRIx64,
		(uint64_t)XXH3_64bits(url, strlen(url)));
}

int spool_mark_used(struct spool *spool, const char *url)
{
	char name[SPOOL_USED_BYTES];
	if (spool_was_used(spool, url, name)) {
		return 0;
	}
	int rc = put_small(spool->fd, name, url, strlen(url));
	return rc == 0 && fsync(spool->fd) != 0 ? -errno : rc;
}

bool spool_was_used(struct spool *spool, const char *url, char ret_name[SPOOL_USED_BYTES])
{
	used_name(url, ret_name);
	return faccessat(spool->fd, ret_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* In the machine's own byte order, as it never leaves it; the hash tells a torn one. */
struct had_file {
	struct spool_had had;
	uint64_t hash;
};

static int open_had(struct spool *spool, const char *url, int flags)
{
	char name[SPOOL_USED_BYTES];
	snprintf(name, sizeof(name), "had-%016" PRIx64, (uint64_t)XXH3_64bits(url, strlen(url)));
	return openat(spool->fd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0640);
}

int spool_note_had(struct spool *spool, const char *url, const struct spool_had *had)
{
	CLEANUP_FD int fd = open_had(spool, url, O_WRONLY | O_CREAT);
	struct had_file file = {.had = *had, .hash = XXH3_64bits(had, sizeof(*had))};
	ssize_t written = fd >= 0 ? pwrite(fd, &file, sizeof(file), 0) : -1;
	return written == (ssize_t)sizeof(file) ? 0 : written < 0 ? -errno : -EIO;
}

struct spool_had spool_had(struct spool *spool, const char *url)
{
	CLEANUP_FD int fd = open_had(spool, url, O_RDONLY);
	struct had_file file;
	bool whole = fd >= 0 && pread(fd, &file, sizeof(file), 0) == (ssize_t)sizeof(file) &&
		file.hash == XXH3_64bits(&file.had, sizeof(file.had));
	return whole ? file.had : (struct spool_had){.commit_no = 0};
}

/* ---- files on their way out ---- */

int spool_create(struct spool *spool, enum spool_kind kind, struct outgoing **ret_outgoing)
{
	static _Atomic unsigned counter;
	struct outgoing *outgoing = malloc(sizeof(*outgoing));
	if (outgoing == NULL) {
		return -ENOMEM;
	}
	outgoing->spool = spool;
	outgoing->kind = kind;
	outgoing->len = 0;
	snprintf(outgoing->tmp, sizeof(outgoing->tmp), "%u.tmp", counter++);
	outgoing->fd = openat(spool->kind_fds[kind], outgoing->tmp,
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	int rc = outgoing->fd < 0 ? -errno : 0;
	outgoing->sha256 = EVP_MD_CTX_new();
	if (rc == 0 &&
		(outgoing->sha256 == NULL ||
			EVP_DigestInit_ex(outgoing->sha256, EVP_sha256(), NULL) != 1)) {
		rc = -ENOMEM;
	}
	if (rc != 0) {
		outgoing_abandon(outgoing);
		return rc;
	}
	*ret_outgoing = outgoing;
	return 0;
}

static int flush(struct outgoing *outgoing)
{
	if (EVP_DigestUpdate(outgoing->sha256, outgoing->buffer, outgoing->len) != 1) {
		return -EIO;
	}
	int rc = write_all(outgoing->fd, outgoing->buffer, outgoing->len);
	outgoing->len = 0;
	return rc;
}

int outgoing_write(void *ctx, const void *bytes, size_t len)
{
	struct outgoing *outgoing = ctx;
	const uint8_t *at = bytes;
	while (len > 0) {
		size_t room = BUFFER_BYTES - outgoing->len;
		size_t part = len < room ? len : room;
		memcpy(outgoing->buffer + outgoing->len, at, part);
		outgoing->len += part;
		at += part;
		len -= part;
		int rc = outgoing->len == BUFFER_BYTES ? flush(outgoing) : 0;
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static void outgoing_free(struct outgoing *outgoing)
{
	if (outgoing->fd >= 0) {
		close(outgoing->fd);
	}
	EVP_MD_CTX_free(outgoing->sha256);
	free(outgoing);
}

void outgoing_abandon(struct outgoing *outgoing)
{
	if (outgoing != NULL) {
		unlinkat(outgoing->spool->kind_fds[outgoing->kind], outgoing->tmp, 0);
		outgoing_free(outgoing);
	}
}

struct lines {
	char text[2048];
	size_t len;
};

static void add_line(void *ctx, const char *key, const char *value)
{
	struct lines *lines = ctx;
	size_t room = sizeof(lines->text) - lines->len;
	int len = snprintf(lines->text + lines->len, room, "%s: %s\n", key, value);
	lines->len += len > 0 && (size_t)len < room ? (size_t)len : 0;
}

static void record_name(uint64_t min_txid, uint64_t max_txid, char ret_name[LTX_NAME_BYTES + 8])
{
	ltx_name(min_txid, max_txid, ret_name);
	strcpy(ret_name + strlen(ret_name) - strlen("ltx"), "record");
}

int outgoing_commit(
	struct outgoing *outgoing, uint64_t min_txid, uint64_t max_txid, struct record *record)
{
	char name[LTX_NAME_BYTES];
	char sidecar[LTX_NAME_BYTES + 8];
	struct lines lines = {.len = 0};
	int dir_fd = outgoing->spool->kind_fds[outgoing->kind];
	ltx_name(min_txid, max_txid, name);
	record_name(min_txid, max_txid, sidecar);
	int rc = flush(outgoing);
	rc = rc == 0 && fsync(outgoing->fd) != 0 ? -errno : rc;
	if (rc == 0 && EVP_DigestFinal_ex(outgoing->sha256, record->sha256, NULL) != 1) {
		rc = -EIO;
	}
	if (rc == 0) {
		record_each(record, add_line, &lines);
		rc = put_small(dir_fd, sidecar, lines.text, lines.len);
	}
	rc = rc == 0 && renameat(dir_fd, outgoing->tmp, dir_fd, name) != 0 ? -errno : rc;
	rc = rc == 0 && fsync(dir_fd) != 0 ? -errno : rc;
	if (rc != 0) {
		outgoing_abandon(outgoing);
		return rc;
	}
	outgoing_free(outgoing);
	return 0;
}

/* ---- files that are there ---- */

static int by_number(const void *a, const void *b)
{
	const struct spool_file *left = a;
	const struct spool_file *right = b;
	return left->min_txid != right->min_txid
		? (left->min_txid > right->min_txid) - (left->min_txid < right->min_txid)
		: (left->max_txid > right->max_txid) - (left->max_txid < right->max_txid);
}

int spool_list(
	struct spool *spool, enum spool_kind kind, struct spool_file **ret_files, size_t *ret_count)
{
	struct spool_file *files = NULL;
	size_t count = 0;
	size_t room = 0;
	int fd = openat(spool->kind_fds[kind], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (dir == NULL) {
		int rc = -errno;
		if (fd >= 0) {
			close(fd);
		}
		return rc;
	}
	int rc = 0;
	for (struct dirent *entry = NULL; rc == 0 && (entry = readdir(dir)) != NULL;) {
		struct spool_file file = {0};
		struct stat status;
		if (!ltx_name_parse(entry->d_name, &file.min_txid, &file.max_txid) ||
			fstatat(fd, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
			continue;
		}
		file.bytes = (uint64_t)status.st_size;
		if (count == room) {
			room = room > 0 ? 2 * room : 64;
			struct spool_file *more = realloc(files, room * sizeof(*files));
			if (more == NULL) {
				rc = -ENOMEM;
				break;
			}
			files = more;
		}
		files[count++] = file;
	}
	closedir(dir);
	if (rc != 0) {
		free(files);
		return rc;
	}
	if (count > 0) {
		qsort(files, count, sizeof(*files), by_number);
	}
	*ret_files = files;
	*ret_count = count;
	return 0;
}

static int record_read(int dir_fd, const char *name, struct record *ret_record)
{
	char text[4096];
	CLEANUP_FD int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return errno == ENOENT ? SPOOL_MISSING : -errno;
	}
	ssize_t got = read(fd, text, sizeof(text) - 1);
	if (got < 0) {
		return -errno;
	}
	text[got] = 0;
	*ret_record = (struct record){0};
	char *rest = text;
	for (char *line = NULL; (line = strsep(&rest, "\n")) != NULL;) {
		char *value = strstr(line, ": ");
		if (value != NULL) {
			*value = 0;
			(void)record_set(ret_record, line, value + 2);
		}
	}
	return record_complete(ret_record) ? 0 : SPOOL_MISSING;
}

int spool_get(struct spool *spool, enum spool_kind kind, uint64_t min_txid, uint64_t max_txid,
	int *ret_fd, uint64_t *ret_bytes, struct record *ret_record)
{
	char name[LTX_NAME_BYTES];
	char sidecar[LTX_NAME_BYTES + 8];
	struct stat status;
	ltx_name(min_txid, max_txid, name);
	record_name(min_txid, max_txid, sidecar);
	int rc = record_read(spool->kind_fds[kind], sidecar, ret_record);
	if (rc != 0) {
		return rc;
	}
	int fd = openat(spool->kind_fds[kind], name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return errno == ENOENT ? SPOOL_MISSING : -errno;
	}
	if (fstat(fd, &status) != 0) {
		rc = -errno;
		close(fd);
		return rc;
	}
	*ret_fd = fd;
	*ret_bytes = (uint64_t)status.st_size;
	return 0;
}

int spool_remove(struct spool *spool, enum spool_kind kind, uint64_t min_txid, uint64_t max_txid)
{
	char name[LTX_NAME_BYTES];
	char sidecar[LTX_NAME_BYTES + 8];
	ltx_name(min_txid, max_txid, name);
	record_name(min_txid, max_txid, sidecar);
	int dir_fd = spool->kind_fds[kind];
	if (unlinkat(dir_fd, name, 0) != 0 && errno != ENOENT) {
		return -errno;
	}
	(void)unlinkat(dir_fd, sidecar, 0);
	return 0;
}
