/* SPDX-License-Identifier: MIT */

/*
 * The layer under SQLite: passes on, writes down, fails on order. It must not know what the
 * database holds; what it keeps true is that the tape, played from the state at its beginning,
 * gives the files.
 */

#include "tests/crash/crash_vfs.h"

#include "tests/crash/random.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SECTOR = 512 };

struct crash_file {
	sqlite3_file base;
	enum db_file kind;
	/* The file of the VFS below follows. */
};

static struct {
	sqlite3_vfs vfs;
	sqlite3_vfs *below;
	int (*open_directory)(const char *, int *);
	struct tape *tape;
	bool ignore_syncs;
	bool dead;
	struct random random;
	struct vfs_fault fault;
	bool fault_set;
	uint64_t calls[VFS_OP_COUNT];
	struct vfs_fired fired;
	bool (*in_commit)(void *ctx);
	void *ctx;
} layer;

const char *const db_file_suffix[FILE_COUNT] = {"", "-wal", "-journal"};

const char *vfs_op_name(enum vfs_op op)
{
	static const char *const names[VFS_OP_COUNT] = {"open", "read", "write", "truncate", "sync",
		"delete", "size", "shm_map", "shm_lock"};
	return names[op];
}

/* ---- the tape ---- */

/* Not from the heap: allocations in there are counted, and may be about to fail. */
static void *grown(void *at, size_t *cap, size_t needed, size_t size)
{
	if (needed <= *cap) {
		return at;
	}
	size_t bigger_cap = needed * 2 + 65536;
	void *bigger = at == NULL ? mmap(NULL, bigger_cap * size, PROT_READ | PROT_WRITE,
					    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
				  : mremap(at, *cap * size, bigger_cap * size, MREMAP_MAYMOVE);
	if (bigger == MAP_FAILED) {
		fprintf(stderr, "crash_vfs: out of memory for the tape\n");
		exit(2);
	}
	*cap = bigger_cap;
	return bigger;
}

static void tape_add(
	enum tape_kind kind, enum db_file file, uint64_t number, const void *data, size_t len)
{
	struct tape *tape = layer.tape;
	if (tape == NULL || file == FILE_OTHER) {
		return;
	}
	tape->entries = grown(tape->entries, &tape->cap, tape->count + 1, sizeof(*tape->entries));
	tape->bytes = grown(tape->bytes, &tape->bytes_cap, tape->bytes_len + len, 1);
	tape->entries[tape->count++] = (struct tape_entry){
		.kind = kind, .file = file, .number = number, .len = len, .at = tape->bytes_len};
	if (len > 0) {
		memcpy(tape->bytes + tape->bytes_len, data, len);
		tape->bytes_len += len;
	}
}

void tape_clear(struct tape *tape)
{
	tape->count = 0;
	tape->bytes_len = 0;
}

void tape_finish(struct tape *tape)
{
	if (tape->entries != NULL) {
		munmap(tape->entries, tape->cap * sizeof(*tape->entries));
	}
	if (tape->bytes != NULL) {
		munmap(tape->bytes, tape->bytes_cap);
	}
	*tape = (struct tape){0};
}

void tape_mark(struct tape *tape, enum tape_kind kind, uint64_t number)
{
	struct tape *before = layer.tape;
	if (tape != NULL) {
		layer.tape = tape;
		tape_add(kind, FILE_DB, number, NULL, 0);
		layer.tape = before;
	}
}

/* ---- faults ---- */

/* Whether this call is to fail. */
static bool struck(enum vfs_op op, enum db_file file)
{
	if (layer.dead) {
		return true;
	}
	if (file == FILE_OTHER) {
		return false;
	}
	uint64_t call = ++layer.calls[op];
	if (!layer.fault_set || layer.fault.op != op || call < layer.fault.at ||
		(call > layer.fault.at && !layer.fault.sticky)) {
		return false;
	}
	if (layer.fired.times++ == 0) {
		layer.fired.file = file;
		if (layer.fault.trap) {
			raise(SIGTRAP);
		}
		layer.fired.in_commit = layer.in_commit != NULL && layer.in_commit(layer.ctx);
	}
	return true;
}

static int code(void)
{
	return layer.dead ? SQLITE_IOERR : layer.fault.code;
}

/* ---- files ---- */

static sqlite3_file *below(sqlite3_file *file)
{
	return (sqlite3_file *)((struct crash_file *)(void *)file + 1);
}

static enum db_file kind_of(sqlite3_file *file)
{
	return ((struct crash_file *)(void *)file)->kind;
}

static int file_close(sqlite3_file *file)
{
	return below(file)->pMethods->xClose(below(file));
}

static int file_read(sqlite3_file *file, void *to, int len, sqlite3_int64 offset)
{
	if (struck(VFS_READ, kind_of(file))) {
		if (!layer.dead && layer.fault.partial) {
			memset(to, 0, (size_t)len);
			(void)below(file)->pMethods->xRead(below(file), to, len / 2, offset);
		}
		return code();
	}
	return below(file)->pMethods->xRead(below(file), to, len, offset);
}

/* Where a write stops half-way: before its last sector, for much of a page may be as it was. */
static int half(int len)
{
	return len > SECTOR ? (len - 1) / SECTOR * SECTOR : len / 2;
}

static int file_write(sqlite3_file *file, const void *data, int len, sqlite3_int64 offset)
{
	bool fails = struck(VFS_WRITE, kind_of(file));
	bool partly = fails && !layer.dead && layer.fault.partial;
	int written = partly ? half(len) : fails ? 0 : len;
	if (written > 0) {
		tape_add(TAPE_WRITE, kind_of(file), (uint64_t)offset, data, (size_t)written);
		int rc = below(file)->pMethods->xWrite(below(file), data, written, offset);
		if (rc != SQLITE_OK) {
			return rc;
		}
	}
	return fails ? code() : SQLITE_OK;
}

static int file_truncate(sqlite3_file *file, sqlite3_int64 size)
{
	if (struck(VFS_TRUNCATE, kind_of(file))) {
		return code();
	}
	tape_add(TAPE_TRUNCATE, kind_of(file), (uint64_t)size, NULL, 0);
	return below(file)->pMethods->xTruncate(below(file), size);
}

static int file_sync(sqlite3_file *file, int flags)
{
	if (struck(VFS_SYNC, kind_of(file))) {
		tape_add(TAPE_SYNC_FAILED, kind_of(file), 0, NULL, 0);
		return code();
	}
	if (layer.ignore_syncs) {
		return SQLITE_OK;
	}
	tape_add(TAPE_SYNC, kind_of(file), 0, NULL, 0);
	return below(file)->pMethods->xSync(below(file), flags);
}

static int file_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
	return struck(VFS_SIZE, kind_of(file))
		? code()
		: below(file)->pMethods->xFileSize(below(file), ret_size);
}

static int file_lock(sqlite3_file *file, int level)
{
	return below(file)->pMethods->xLock(below(file), level);
}

static int file_unlock(sqlite3_file *file, int level)
{
	return below(file)->pMethods->xUnlock(below(file), level);
}

static int file_check_lock(sqlite3_file *file, int *ret_reserved)
{
	return below(file)->pMethods->xCheckReservedLock(below(file), ret_reserved);
}

static int file_control(sqlite3_file *file, int op, void *arg)
{
	return below(file)->pMethods->xFileControl(below(file), op, arg);
}

static int file_sector_size(sqlite3_file *file)
{
	return below(file)->pMethods->xSectorSize(below(file));
}

static int file_characteristics(sqlite3_file *file)
{
	return below(file)->pMethods->xDeviceCharacteristics(below(file));
}

static int file_shm_map(
	sqlite3_file *file, int region, int size, int extend, void volatile **ret_map)
{
	if (struck(VFS_SHM_MAP, kind_of(file))) {
		*ret_map = NULL;
		return code();
	}
	return below(file)->pMethods->xShmMap(below(file), region, size, extend, ret_map);
}

static int file_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
	/* Only taking a lock can fail: letting go is what a dying process does too. */
	if ((flags & SQLITE_SHM_LOCK) != 0 && !layer.dead && struck(VFS_SHM_LOCK, kind_of(file))) {
		return code();
	}
	return below(file)->pMethods->xShmLock(below(file), offset, count, flags);
}

static void file_shm_barrier(sqlite3_file *file)
{
	below(file)->pMethods->xShmBarrier(below(file));
}

static int file_shm_unmap(sqlite3_file *file, int delete)
{
	return below(file)->pMethods->xShmUnmap(below(file), delete);
}

/* Version 2: SQLite does without memory-mapped reads, as the daemon asks it to. */
static const sqlite3_io_methods methods = {
	.iVersion = 2,
	.xClose = file_close,
	.xRead = file_read,
	.xWrite = file_write,
	.xTruncate = file_truncate,
	.xSync = file_sync,
	.xFileSize = file_size,
	.xLock = file_lock,
	.xUnlock = file_unlock,
	.xCheckReservedLock = file_check_lock,
	.xFileControl = file_control,
	.xSectorSize = file_sector_size,
	.xDeviceCharacteristics = file_characteristics,
	.xShmMap = file_shm_map,
	.xShmLock = file_shm_lock,
	.xShmBarrier = file_shm_barrier,
	.xShmUnmap = file_shm_unmap,
};

/* ---- the file system ---- */

static int vfs_open(
	sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *file, int flags, int *ret_flags)
{
	struct crash_file *crash_file = (struct crash_file *)(void *)file;
	int exists = 0;
	(void)vfs;
	file->pMethods = NULL;
	crash_file->kind = (flags & SQLITE_OPEN_MAIN_DB) != 0 ? FILE_DB
		: (flags & SQLITE_OPEN_WAL) != 0              ? FILE_WAL
		: (flags & SQLITE_OPEN_MAIN_JOURNAL) != 0     ? FILE_JOURNAL
							      : FILE_OTHER;
	if (struck(VFS_OPEN, crash_file->kind)) {
		return code();
	}
	if (name != NULL) {
		layer.below->xAccess(layer.below, name, SQLITE_ACCESS_EXISTS, &exists);
	}
	int rc = layer.below->xOpen(layer.below, name, below(file), flags, ret_flags);
	if (below(file)->pMethods != NULL) {
		file->pMethods = &methods;
	}
	if (rc == SQLITE_OK && !exists) {
		tape_add(TAPE_CREATE, crash_file->kind, 0, NULL, 0);
	}
	return rc;
}

static enum db_file kind_by_name(const char *name)
{
	for (unsigned i = FILE_WAL; i < FILE_COUNT; i++) {
		size_t len = strlen(name);
		size_t suffix = strlen(db_file_suffix[i]);
		if (len > suffix && strcmp(name + len - suffix, db_file_suffix[i]) == 0) {
			return (enum db_file)i;
		}
	}
	return FILE_OTHER;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync_dir)
{
	enum db_file kind = kind_by_name(name);
	int exists = 0;
	(void)vfs;
	if (struck(VFS_DELETE, kind)) {
		return code();
	}
	layer.below->xAccess(layer.below, name, SQLITE_ACCESS_EXISTS, &exists);
	if (exists) {
		tape_add(TAPE_DELETE, kind, 0, NULL, 0);
	}
	return layer.below->xDelete(layer.below, name, sync_dir);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *ret_answer)
{
	(void)vfs;
	return layer.below->xAccess(layer.below, name, flags, ret_answer);
}

static int vfs_full_pathname(sqlite3_vfs *vfs, const char *name, int bytes, char *ret_name)
{
	(void)vfs;
	return layer.below->xFullPathname(layer.below, name, bytes, ret_name);
}

static int vfs_randomness(sqlite3_vfs *vfs, int bytes, char *to)
{
	(void)vfs;
	random_bytes(&layer.random, to, (size_t)bytes);
	return bytes;
}

static int vfs_sleep(sqlite3_vfs *vfs, int us)
{
	(void)vfs;
	return us; /* nobody else is here to wait for */
}

static int vfs_last_error(sqlite3_vfs *vfs, int bytes, char *to)
{
	(void)vfs;
	return layer.below->xGetLastError(layer.below, bytes, to);
}

static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *ret_time)
{
	(void)vfs;
	return ((int (*)(sqlite3_vfs *, sqlite3_int64 *))layer.below->xCurrentTimeInt64)(
		layer.below, ret_time);
}

/* The unix VFS opens the directory for one purpose only: to sync it. */
static int open_directory(const char *name, int *ret_fd)
{
	tape_add(TAPE_DIR_SYNC, FILE_DB, 0, NULL, 0);
	return layer.open_directory(name, ret_fd);
}

void crash_vfs_install(void)
{
	layer.below = sqlite3_vfs_find("unix");
	layer.open_directory = (int (*)(const char *, int *))layer.below->xGetSystemCall(
		layer.below, "openDirectory");
	layer.below->xSetSystemCall(
		layer.below, "openDirectory", (sqlite3_syscall_ptr)open_directory);
	layer.vfs = (sqlite3_vfs){
		.iVersion = 2,
		.szOsFile = (int)sizeof(struct crash_file) + layer.below->szOsFile,
		.mxPathname = layer.below->mxPathname,
		.zName = "crash",
		.xOpen = vfs_open,
		.xDelete = vfs_delete,
		.xAccess = vfs_access,
		.xFullPathname = vfs_full_pathname,
		.xRandomness = vfs_randomness,
		.xSleep = vfs_sleep,
		.xGetLastError = vfs_last_error,
		.xCurrentTimeInt64 = vfs_time,
	};
	sqlite3_vfs_register(&layer.vfs, 1);
}

void crash_vfs_tape(struct tape *tape)
{
	layer.tape = tape;
}

void crash_vfs_ignore_syncs(bool ignore)
{
	layer.ignore_syncs = ignore;
}

void crash_vfs_seed(uint64_t seed)
{
	random_seed(&layer.random, seed);
	sqlite3_randomness(0, NULL); /* forget what was taken before */
}

void crash_vfs_fault(const struct vfs_fault *fault)
{
	layer.fault_set = fault != NULL;
	layer.fault = fault != NULL ? *fault : (struct vfs_fault){0};
	layer.fired = (struct vfs_fired){0};
	memset(layer.calls, 0, sizeof(layer.calls));
}

struct vfs_fired crash_vfs_fired(void)
{
	return layer.fired;
}

uint64_t crash_vfs_calls(enum vfs_op op)
{
	return layer.calls[op];
}

void crash_vfs_probe(bool (*in_commit)(void *ctx), void *ctx)
{
	layer.in_commit = in_commit;
	layer.ctx = ctx;
}

void crash_vfs_die(bool dead)
{
	layer.dead = dead;
}
