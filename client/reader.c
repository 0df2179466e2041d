/* SPDX-License-Identifier: MIT */

/*
 * Local reads: the database file itself, read-only, beside the daemon and without its help. The one
 * file of the library that knows SQLite.
 *
 * It never opens with immutable=1, which would ignore the WAL, and so the newest commits.
 */

#include "client/client.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum {
	BUSY_MS = 5000,
	OPEN_TRIES = 10, /* while the file is being replaced under our hands */
	POLL_FIRST_MS = 1,
	POLL_MAX_MS = 20,
	EPOCH_BYTES = 16,
};

struct snapshot {
	bool known; /* false: the database has no _lf_state */
	uint8_t epoch[EPOCH_BYTES];
	uint64_t commit;
};

struct local_reader {
	sqlite3 *handle;     /* NULL: not open */
	sqlite3_stmt *state; /* names the snapshot; NULL: there is no _lf_state */
	dev_t dev;
	ino_t ino;
	struct snapshot opened; /* the lineage that the handle was opened on */
	bool changed;           /* lf_reader() has yet to say that the handle is another */
	bool ever_open;
};

static void reader_close(struct local_reader *reader)
{
	(void)sqlite3_finalize(reader->state);
	/* _v2: statements that the caller still has stay valid to be finalized. */
	(void)sqlite3_close_v2(reader->handle);
	reader->state = NULL;
	reader->handle = NULL;
}

void local_reader_free(struct local_reader *reader)
{
	if (reader != NULL) {
		reader_close(reader);
		free(reader);
	}
}

/*
 * SQLite forbids to use a handle across fork(). It is closed nevertheless, and not just forgotten:
 * SQLite keeps the locks of a file for the whole process, and a child that opened the file while
 * the parent's handle is on record would believe to hold the parent's locks. Then nothing kept the
 * daemon from starting over with the -shm that the child has mapped. Closing is harmless here: the
 * handle is read-only, is told not to checkpoint, and POSIX locks are not inherited, so that the
 * child can release none of the parent's.
 */
void local_reader_forked(struct local_reader *reader)
{
	if (reader == NULL || reader->handle == NULL) {
		return;
	}
	(void)sqlite3_db_config(reader->handle, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	reader_close(reader);
	reader->changed = true;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int reader_error(struct lf_db *db, const struct local_reader *reader)
{
	int code = sqlite3_extended_errcode(reader->handle);
	const char *cure = "";
	switch (code & 0xff) {
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
		cure = " (this user needs read permission on the database, its -wal and its -shm, "
		       "and the daemon must have run once)";
		break;
	case SQLITE_BUSY:
		cure = " (the daemon is recovering the database, or another program holds it)";
		break;
	default:
		break;
	}
	return db_error(db, -EIO, "cannot read %s: %s (%d)%s", db->path,
		sqlite3_errmsg(reader->handle), code, cure);
}

/* "file:" + path + "?mode=ro" with everything escaped that a URI could take for its own. */
static char *make_uri(const char *path)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				    "0123456789-._~/";
	static const char hex[] = "0123456789ABCDEF";
	char *uri = malloc(3 * strlen(path) + sizeof("file:?mode=ro"));
	if (uri == NULL) {
		return NULL;
	}
	char *at = stpcpy(uri, "file:");
	for (; *path != '\0'; path++) {
		unsigned char byte = (unsigned char)*path;
		if (strchr(plain, byte) != NULL) {
			*at++ = (char)byte;
		} else {
			*at++ = '%';
			*at++ = hex[byte >> 4];
			*at++ = hex[byte & 15];
		}
	}
	(void)stpcpy(at, "?mode=ro");
	return uri;
}

/*
 * The statement that names the snapshot. Without the table it is left NULL: such a database reads
 * well, it just was never served.
 */
static int prepare_state(struct lf_db *db, struct local_reader *reader)
{
	static const char table[] = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND "
				    "name = '_lf_state'";
	sqlite3_stmt *stmt = NULL;
	int r = sqlite3_prepare_v2(reader->handle, table, -1, &stmt, NULL);
	if (r == SQLITE_OK) {
		r = sqlite3_step(stmt);
	}
	(void)sqlite3_finalize(stmt);
	if (r == SQLITE_DONE) {
		return 0;
	}
	if (r == SQLITE_ROW) {
		r = sqlite3_prepare_v3(reader->handle, "SELECT epoch, commit_no FROM _lf_state", -1,
			SQLITE_PREPARE_PERSISTENT, &reader->state, NULL);
	}
	return r == SQLITE_OK ? 0 : reader_error(db, reader);
}

static int read_snapshot(
	struct lf_db *db, struct local_reader *reader, struct snapshot *ret_snapshot)
{
	*ret_snapshot = (struct snapshot){0};
	if (reader->state == NULL) {
		int r = prepare_state(db, reader);
		if (r != 0 || reader->state == NULL) {
			return r;
		}
	}
	int r = sqlite3_step(reader->state);
	if (r == SQLITE_ROW) {
		const void *epoch = sqlite3_column_blob(reader->state, 0);
		ret_snapshot->known = sqlite3_column_bytes(reader->state, 0) == EPOCH_BYTES;
		if (ret_snapshot->known) {
			memcpy(ret_snapshot->epoch, epoch, EPOCH_BYTES);
			ret_snapshot->commit = (uint64_t)sqlite3_column_int64(reader->state, 1);
		}
	}
	int error = r == SQLITE_ROW || r == SQLITE_DONE ? 0 : reader_error(db, reader);
	(void)sqlite3_reset(reader->state);
	return error;
}

static int open_handle(struct lf_db *db, struct local_reader *reader, const struct stat *found)
{
	char *uri = make_uri(db->path);
	if (uri == NULL) {
		return db_error(db, -EIO, "out of memory");
	}
	int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
	int r = sqlite3_open_v2(uri, &reader->handle, flags, NULL);
	free(uri);
	if (r != SQLITE_OK) {
		return reader_error(db, reader);
	}
	(void)sqlite3_extended_result_codes(reader->handle, 1);
	(void)sqlite3_busy_timeout(reader->handle, BUSY_MS);
	reader->dev = found->st_dev;
	reader->ino = found->st_ino;
	return read_snapshot(db, reader, &reader->opened);
}

static int stat_database(struct lf_db *db, struct stat *ret_found)
{
	if (stat(db->path, ret_found) == 0) {
		return 0;
	}
	return db_error(db, -EIO, "cannot read %s: %s%s", db->path, strerrordesc_np(errno),
		errno == ENOENT ? " (the daemon creates it: litefunnel serve --create)" : "");
}

static bool same_file(const struct local_reader *reader, const struct stat *found)
{
	return reader->dev == found->st_dev && reader->ino == found->st_ino;
}

static bool same_epoch(const struct snapshot *a, const struct snapshot *b)
{
	return a->known == b->known && memcmp(a->epoch, b->epoch, EPOCH_BYTES) == 0;
}

static int reopen(struct lf_db *db, struct local_reader *reader, struct stat *found)
{
	for (int i = 0; i < OPEN_TRIES; i++) {
		reader_close(reader);
		reader->changed = reader->ever_open;
		int r = open_handle(db, reader, found);
		if (r != 0) {
			reader_close(reader);
			return r;
		}
		/* SQLite opened by name: only if the name did not move meanwhile is it that file.
		 */
		r = stat_database(db, found);
		if (r != 0) {
			reader_close(reader);
			return r;
		}
		if (same_file(reader, found)) {
			reader->ever_open = true;
			return 0;
		}
	}
	reader_close(reader);
	return db_error(db, -EIO, "cannot read %s: the file is replaced all the time", db->path);
}

/* A handle on the file that now has the database's name, and what it sees. */
static int refresh(struct lf_db *db, struct snapshot *ret_snapshot)
{
	struct stat found;
	int r = stat_database(db, &found);
	if (r != 0) {
		return r;
	}
	if (db->reader == NULL) {
		db->reader = calloc(1, sizeof(*db->reader));
		if (db->reader == NULL) {
			return db_error(db, -EIO, "out of memory");
		}
	}
	struct local_reader *reader = db->reader;
	if (reader->handle != NULL && same_file(reader, &found)) {
		r = read_snapshot(db, reader, ret_snapshot);
		if (r != 0 || same_epoch(ret_snapshot, &reader->opened)) {
			return r;
		}
	}
	r = reopen(db, reader, &found);
	*ret_snapshot = reader->opened;
	return r;
}

/* ---- public ---------------------------------------------------------------------------------- */

int lf_reader(lf_db *db, struct sqlite3 **ret_reader)
{
	struct snapshot snapshot;
	db_enter(db);
	int r = refresh(db, &snapshot);
	if (r != 0) {
		return r;
	}
	int changed = db->reader->changed ? 1 : 0;
	db->reader->changed = false;
	*ret_reader = db->reader->handle;
	return changed;
}

int lf_snapshot(lf_db *db, uint8_t *ret_epoch, uint64_t *ret_commit)
{
	struct snapshot snapshot;
	db_enter(db);
	int r = refresh(db, &snapshot);
	if (r != 0) {
		return r;
	}
	if (!snapshot.known) {
		return db_error(
			db, -EIO, "%s has no _lf_state: no litefunnel ever served it", db->path);
	}
	if (ret_epoch != NULL) {
		memcpy(ret_epoch, snapshot.epoch, EPOCH_BYTES);
	}
	if (ret_commit != NULL) {
		*ret_commit = snapshot.commit;
	}
	return 0;
}

/*
 * A commit is visible before it is acknowledged, so the first look nearly always suffices; the
 * polling is for numbers that came some other way.
 */
int lf_wait_commit(lf_db *db, const uint8_t *epoch, uint64_t commit, int timeout_ms)
{
	struct snapshot snapshot;
	uint64_t until_ms = db_now_ms() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);
	int pause_ms = POLL_FIRST_MS;

	db_enter(db);
	for (;;) {
		int r = refresh(db, &snapshot);
		if (r != 0) {
			return r;
		}
		if (snapshot.known && epoch != NULL &&
			memcmp(epoch, snapshot.epoch, EPOCH_BYTES) != 0) {
			return db_error(db, -ESTALE,
				"commit %llu is of another epoch than %s has now",
				(unsigned long long)commit, db->path);
		}
		if (snapshot.known && snapshot.commit >= commit) {
			return 0;
		}
		uint64_t now_ms = db_now_ms();
		if (timeout_ms >= 0 && now_ms >= until_ms) {
			return db_error(db, -ETIMEDOUT,
				"commit %llu is not there yet, the newest is %llu",
				(unsigned long long)commit, (unsigned long long)snapshot.commit);
		}
		struct timespec pause = {.tv_nsec = (long)pause_ms * 1000000};
		(void)nanosleep(&pause, NULL);
		pause_ms = 2 * pause_ms < POLL_MAX_MS ? 2 * pause_ms : POLL_MAX_MS;
	}
}
