/* SPDX-License-Identifier: MIT */

/*
 * Compaction and retention, on a replica in a directory and a small model of a database: whatever
 * is merged and removed, every restore point that is left brings back what the database was then.
 */

#include "server/ship/compact.h"
#include "server/ship/digest.h"
#include "server/ship/ltx.h"
#include "server/ship/plan.h"
#include "server/ship/retain.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	PAGE_BYTES = 512,
	PAGES_MAX = 64,
	POINTS_MAX = 20000,
	SECOND = 1000,
	MINUTE = 60 * SECOND,
	HOUR = 60 * MINUTE,
};
static const int64_t day = 24 * INT64_C(3600000);
static const int64_t start_ms = 1795305600000; /* a midnight */

/* What the database was at the end of each segment. */
struct point {
	struct digest digest;
	uint32_t pages;
};

struct bed {
	char root[64];
	struct replica *replica;
	struct replica_error error;
	struct compact *compact;
	struct retain_options retain;
	struct digester *digester;
	uint32_t random;
	uint8_t pages[PAGES_MAX][PAGE_BYTES];
	uint32_t count; /* of pages */
	struct digest digest;
	uint64_t txid;
	uint8_t sha256[RECORD_SHA256_BYTES];
	uint8_t epoch;
	struct point *points;
};

static uint32_t draw(struct bed *bed, uint32_t limit)
{
	bed->random = bed->random * 1664525U + 1013904223U;
	return (bed->random >> 8) % limit;
}

static void bed_make(struct bed *bed)
{
	char url[80];
	*bed = (struct bed){.root = "/dev/shm/litefunnel-compact-XXXXXX", .random = 7, .epoch = 1};
	assert_non_null(mkdtemp(bed->root));
	snprintf(url, sizeof url, "file://%s", bed->root);
	assert_int_equal(replica_open(url, &bed->replica, &bed->error), 0);
	struct compact_options options = {
		.replica = bed->replica, .writer = "us", .dir = bed->root};
	assert_int_equal(compact_new(&options, &bed->compact), 0);
	bed->retain = (struct retain_options){
		.replica = bed->replica, .writer = "us", .retention_ms = (uint64_t)(7 * day)};
	assert_int_equal(digester_new(&bed->digester), 0);
	bed->points = calloc(POINTS_MAX, sizeof *bed->points);
	assert_non_null(bed->points);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

static void bed_remove(struct bed *bed)
{
	compact_free(bed->compact);
	replica_free(bed->replica);
	digester_free(bed->digester);
	free(bed->points);
	nftw(bed->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- segments ---- */

static int write_fd(void *ctx, const void *bytes, size_t len)
{
	return write(*(int *)ctx, bytes, len) == (ssize_t)len ? 0 : -EIO;
}

static void hash_fd(int fd, uint8_t sha256[RECORD_SHA256_BYTES], uint64_t *ret_size)
{
	static uint8_t bytes[1 << 20];
	ssize_t len = pread(fd, bytes, sizeof bytes, 0);
	assert_true(len > 0 && (size_t)len < sizeof bytes);
	EVP_Digest(bytes, (size_t)len, sha256, NULL, EVP_sha256(), NULL);
	*ret_size = (uint64_t)len;
}

/* Creates a file with the pages whose flag is set. */
static int put(struct bed *bed, int level, uint64_t min, uint64_t max, const bool *which,
	struct record record, int64_t now_ms)
{
	struct ltx_header header = {.page_size = PAGE_BYTES,
		.commit = bed->count,
		.min_txid = min,
		.max_txid = max,
		.timestamp_ms = now_ms,
		.wal_offset = 32};
	struct ltx_writer *writer = NULL;
	uint64_t size;
	int fd = memfd_create("segment", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ltx_writer_new(&header, write_fd, &fd, &writer), 0);
	for (uint32_t i = 0; i < bed->count; i++) {
		if (which[i]) {
			assert_int_equal(ltx_writer_page(writer, i + 1, bed->pages[i]), 0);
		}
	}
	assert_int_equal(ltx_writer_finish(writer), 0);
	ltx_writer_free(writer);
	hash_fd(fd, record.sha256, &size);
	record.epoch[0] = bed->epoch;
	record.commit_first = min * 10;
	record.commit_last = max * 10 + 9;
	record.committed_ms = now_ms - 1;
	record.has_digest = true;
	memcpy(record.digest_after, bed->digest.bytes, RECORD_DIGEST_BYTES);
	int rc = replica_put(bed->replica, level, min, max, fd, size, now_ms, &record, &bed->error);
	close(fd);
	if (level == 0) {
		memcpy(bed->sha256, record.sha256, sizeof bed->sha256);
	}
	return rc;
}

static void toggle(struct bed *bed, uint32_t page)
{
	struct digest part = digest_page(bed->digester, page + 1, bed->pages[page], PAGE_BYTES);
	digest_toggle(&bed->digest, &part);
}

/* Some pages change; now and then the database grows or shrinks. */
static void change(struct bed *bed, bool *which)
{
	uint32_t before = bed->count;
	uint32_t kind = draw(bed, 10);
	uint32_t count = kind == 0 ? before + draw(bed, 9)
		: kind == 1        ? before - draw(bed, 9)
				   : before;
	count = count < 8 ? 8 : count > PAGES_MAX ? PAGES_MAX : count;
	for (uint32_t page = 0; page < PAGES_MAX; page++) {
		which[page] = page < count && (page >= before || draw(bed, 8) == 0);
		if (page < before && (which[page] || page >= count)) {
			toggle(bed, page);
		}
		if (which[page]) {
			memset(bed->pages[page], (int)draw(bed, 256), PAGE_BYTES);
			memcpy(bed->pages[page], &bed->random, sizeof bed->random);
			toggle(bed, page);
		}
	}
	bed->count = count;
}

/* The next segment of level 0; `full`: an image. */
static void ship(struct bed *bed, bool full, int64_t now_ms)
{
	bool which[PAGES_MAX];
	struct record record = {.writer = "us", .full = full};
	memcpy(record.digest_before, bed->digest.bytes, RECORD_DIGEST_BYTES);
	memcpy(record.previous, bed->sha256, RECORD_SHA256_BYTES);
	change(bed, which);
	if (full) {
		memset(record.digest_before, 0, RECORD_DIGEST_BYTES);
		memset(which, 1, sizeof which);
	}
	bed->txid++;
	assert_true(bed->txid < POINTS_MAX);
	assert_int_equal(put(bed, 0, bed->txid, bed->txid, which, record, now_ms), 0);
	bed->points[bed->txid] = (struct point){bed->digest, bed->count};
}

static void snapshot(struct bed *bed, int64_t now_ms)
{
	bool which[PAGES_MAX];
	struct record record = {.writer = "us", .full = true};
	memset(which, 1, sizeof which);
	assert_int_equal(put(bed, REPLICA_SNAPSHOT_LEVEL, 1, bed->txid, which, record, now_ms), 0);
}

/* ---- restoring ---- */

struct database {
	uint8_t pages[PAGES_MAX][PAGE_BYTES];
	uint32_t count;
};

static long read_fd(void *ctx, void *bytes, size_t len)
{
	return read(*(int *)ctx, bytes, len);
}

static void apply(struct bed *bed, const struct replica_file *file, struct database *database)
{
	struct ltx_reader *reader = NULL;
	char why[LTX_ERROR_BYTES];
	uint32_t page_no;
	const uint8_t *page;
	int fd = memfd_create("restore", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(
		replica_get(bed->replica, file, 0, UINT64_MAX, write_fd, &fd, &bed->error), 0);
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(ltx_reader_new(read_fd, &fd, &reader, why), 0);
	uint32_t before = database->count;
	database->count = ltx_reader_header(reader)->commit;
	for (uint32_t i = before; i < database->count; i++) {
		memset(database->pages[i], 0xee, PAGE_BYTES); /* must come in this file */
	}
	for (;;) {
		assert_int_equal(ltx_reader_next(reader, &page_no, &page, why), 0);
		if (page == NULL) {
			break;
		}
		memcpy(database->pages[page_no - 1], page, PAGE_BYTES);
	}
	ltx_reader_free(reader);
	close(fd);
}

static int look(void *ctx, struct plan_file *file, struct replica_error *error)
{
	struct bed *bed = ctx;
	file->looked = true;
	return replica_look(bed->replica, file->file.level, file->file.min_txid,
		file->file.max_txid, NULL, &file->record, &file->known, error);
}

/* Restores to a point; how many files that took. */
static size_t restore(struct bed *bed, struct plan *plan, uint64_t txid)
{
	static struct database database;
	struct digest digest = {{0}};
	assert_int_equal(plan_find(plan, txid), 0);
	database.count = 0;
	for (size_t i = 0; i < plan_steps(plan); i++) {
		apply(bed, &plan_step(plan, i)->file, &database);
	}
	for (uint32_t i = 0; i < database.count; i++) {
		struct digest part =
			digest_page(bed->digester, i + 1, database.pages[i], PAGE_BYTES);
		digest_toggle(&digest, &part);
	}
	assert_int_equal(database.count, bed->points[txid].pages);
	assert_memory_equal(&digest, &bed->points[txid].digest, sizeof digest);
	return plan_steps(plan);
}

/* Every end of a file that is not older than `since_ms`; every `stride`th of them. How many. */
static size_t restore_points(struct bed *bed, int64_t since_ms, size_t stride)
{
	static bool seen[POINTS_MAX];
	struct plan *plan = NULL;
	size_t count = 0;
	assert_int_equal(plan_new(look, bed, &plan), 0);
	assert_int_equal(plan_read(plan, bed->replica, &bed->error), 0);
	memset(seen, 0, sizeof seen);
	for (size_t i = 0; i < plan_files(plan); i++) {
		const struct replica_file *file = &plan_file(plan, i)->file;
		if (file->created_ms >= since_ms && !seen[file->max_txid]) {
			seen[file->max_txid] = true;
			if (count % stride == 0 || file->max_txid == bed->txid) {
				assert_true(restore(bed, plan, file->max_txid) < 300);
			}
			count++;
		}
	}
	plan_free(plan);
	return count;
}

static size_t files_of(struct bed *bed, int level)
{
	struct plan *plan = NULL;
	size_t count = 0;
	assert_int_equal(plan_new(look, bed, &plan), 0);
	assert_int_equal(plan_read(plan, bed->replica, &bed->error), 0);
	for (size_t i = 0; i < plan_files(plan); i++) {
		count += plan_file(plan, i)->file.level == level;
	}
	plan_free(plan);
	return count;
}

static int pass(struct bed *bed, int64_t now_ms)
{
	return compact_pass(bed->compact, bed->txid, now_ms, &bed->error);
}

/* ---- the tests ---- */

static void test_levels_are_filled_and_level_0_is_emptied(void **state)
{
	struct bed bed;
	int64_t now = start_ms;
	(void)state;
	bed_make(&bed);
	ship(&bed, true, now);
	for (int i = 0; i < 3 * HOUR / (5 * SECOND) / 4; i++) {
		now += 5 * SECOND;
		ship(&bed, false, now);
		assert_int_equal(pass(&bed, now), 0);
	}
	/* What is not covered: the base, five minutes and what is not yet merged. */
	size_t level0 = files_of(&bed, 0);
	assert_true(level0 >= 60 && level0 <= 1 + 60 + 2 * 6 + 1);
	assert_true(files_of(&bed, 1) >= 85 && files_of(&bed, 1) <= 92);
	assert_true(files_of(&bed, 2) >= 8 && files_of(&bed, 2) <= 10);
	assert_int_equal(files_of(&bed, 3), 1);
	restore_points(&bed, 0, 1);
	/* Nothing is asked while nothing comes: but level 0 is emptied once more. */
	now += HOUR;
	assert_int_equal(pass(&bed, now), 0);
	assert_int_equal(pass(&bed, now + 6 * MINUTE), 0);
	assert_int_equal(files_of(&bed, 0), 2); /* the base, and the newest */
	struct replica_stats before = replica_stats(bed.replica);
	for (int i = 0; i < 100; i++) {
		now += HOUR;
		assert_int_equal(pass(&bed, now), 0);
	}
	struct replica_stats after = replica_stats(bed.replica);
	assert_memory_equal(&before, &after, sizeof before);
	restore_points(&bed, 0, 1);
	bed_remove(&bed);
}

/* 90 days: every point of the last seven can be restored, and little else is kept. */
/* At any moment: what is removed takes nothing from the points that are left. */
static void test_every_point_that_is_left_can_be_restored(void **state)
{
	struct bed bed;
	int64_t now = start_ms;
	(void)state;
	bed_make(&bed);
	ship(&bed, true, now);
	for (int i = 0; i < 90; i++) {
		now += 5 * SECOND;
		ship(&bed, false, now);
		assert_int_equal(pass(&bed, now), 0);
		if (i > 60) {
			restore_points(&bed, 0, 1);
		}
	}
	bed_remove(&bed);
}

static void test_ninety_days(void **state)
{
	struct bed bed;
	size_t restored = 0;
	(void)state;
	bed_make(&bed);
	ship(&bed, true, start_ms);
	for (int today = 0; today < 90; today++) {
		int64_t midnight = start_ms + today * day;
		for (int64_t now = midnight + 3 * HOUR; now <= midnight + day; now += 3 * HOUR) {
			for (int i = 4; i >= 0; i--) {
				ship(&bed, false, now - i * 10 * SECOND);
			}
			assert_int_equal(pass(&bed, now), 0);
			assert_int_equal(pass(&bed, now + 6 * MINUTE), 0);
		}
		int64_t now = midnight + day;
		struct retain_result result;
		snapshot(&bed, now);
		assert_int_equal(retain_pass(&bed.retain, bed.txid, now, &result, &bed.error), 0);
		assert_true(today < 8 || result.removed > 0);
		bool whole = today == 7 || today == 45 || today == 89;
		restored += restore_points(&bed, now - 7 * day, whole ? 1 : 16);
	}
	/* Eight days of eight files at three levels, and a day of grace. */
	assert_true(files_of(&bed, REPLICA_SNAPSHOT_LEVEL) <= 8);
	assert_true(files_of(&bed, 0) <= 2);
	assert_true(files_of(&bed, 1) <= 9 * 8 + 1);
	assert_true(restored > 90 * 40);
	bed_remove(&bed);
}

static void test_a_backlog_is_merged_in_bounded_runs(void **state)
{
	struct bed bed;
	(void)state;
	bed_make(&bed);
	ship(&bed, true, start_ms);
	for (int i = 0; i < 300; i++) {
		ship(&bed, false, start_ms + i);
	}
	assert_int_equal(pass(&bed, start_ms + HOUR), 0);
	assert_int_equal(files_of(&bed, 1), 5); /* 64 each */
	assert_int_equal(files_of(&bed, 2), 1);
	assert_int_equal(files_of(&bed, 3), 1);
	restore_points(&bed, 0, 1);
	bed_remove(&bed);
}

/* An image holds everything: it is no part of a run, and a run may end before it. */
static void test_images_stay_where_they_are(void **state)
{
	struct bed bed;
	(void)state;
	bed_make(&bed);
	ship(&bed, true, start_ms);
	for (int i = 1; i < 30; i++) {
		ship(&bed, i % 10 == 0, start_ms + i);
	}
	assert_int_equal(pass(&bed, start_ms + HOUR), 0);
	assert_int_equal(files_of(&bed, 1), 3);
	assert_int_equal(pass(&bed, start_ms + 2 * HOUR), 0);
	assert_int_equal(files_of(&bed, 0), 3 + 1);
	restore_points(&bed, 0, 1);
	bed_remove(&bed);
}

static void test_epochs_are_not_mixed(void **state)
{
	struct bed bed;
	(void)state;
	bed_make(&bed);
	ship(&bed, true, start_ms);
	for (int i = 1; i < 20; i++) {
		bed.epoch = (uint8_t)(1 + i / 10);
		ship(&bed, false, start_ms + i);
	}
	assert_int_equal(pass(&bed, start_ms + HOUR), 0);
	assert_int_equal(files_of(&bed, 1), 2);
	restore_points(&bed, 0, 1);
	bed_remove(&bed);
}

/* Somebody else's number is there: nothing is merged, nothing is removed. */
static void test_a_fenced_daemon_touches_nothing(void **state)
{
	struct bed bed;
	struct retain_result result;
	bool which[PAGES_MAX];
	struct record record = {.writer = "them"};
	(void)state;
	bed_make(&bed);
	ship(&bed, true, start_ms);
	for (int i = 1; i < 10; i++) {
		ship(&bed, false, start_ms + i);
	}
	snapshot(&bed, start_ms);
	snapshot(&bed, start_ms); /* the same again: our own */
	memset(which, 0, sizeof which);
	assert_int_equal(put(&bed, 0, 11, 11, which, record, start_ms + 11), 0);
	assert_int_equal(pass(&bed, start_ms + HOUR), REPLICA_EXISTS);
	assert_int_equal(
		retain_pass(&bed.retain, bed.txid, start_ms + 90 * day, &result, &bed.error),
		REPLICA_EXISTS);
	assert_int_equal(files_of(&bed, 0), 11);
	assert_int_equal(files_of(&bed, 1), 0);
	bed_remove(&bed);
}

/* What does not fit, or is not what its record says, ends it loudly. */
static void test_what_is_wrong_is_not_merged(void **state)
{
	struct bed bed;
	char path[200];
	char name[LTX_NAME_BYTES];
	(void)state;
	for (int kind = 0; kind < 3; kind++) {
		bed_make(&bed);
		ship(&bed, true, start_ms);
		for (int i = 1; i < 10; i++) {
			ship(&bed, false, start_ms + i);
			if (i == 5 && kind == 0) {
				bed.digest.bytes[0] ^= 1;
			}
		}
		ltx_name(6, 6, name);
		snprintf(path, sizeof path, "%s/ltx/0/%s", bed.root, name);
		if (kind == 1) {
			int fd = open(path, O_WRONLY | O_CLOEXEC);
			assert_true(fd >= 0 && pwrite(fd, "x", 1, 130) == 1);
			close(fd);
		}
		if (kind == 2) {
			assert_int_equal(truncate(path, 120), 0);
		}
		assert_int_equal(pass(&bed, start_ms + HOUR), REPLICA_CORRUPT);
		assert_int_equal(files_of(&bed, 1), 0);
		assert_int_equal(files_of(&bed, 0), 10);
		bed_remove(&bed);
	}
}

/* The newest snapshot stays however old it is, and one that is no point lets nothing go. */
static void test_the_last_snapshots_stay(void **state)
{
	struct bed bed;
	struct retain_result result;
	char path[200];
	char name[LTX_NAME_BYTES];
	(void)state;
	bed_make(&bed);
	ship(&bed, true, start_ms);
	for (int i = 0; i < 4; i++) {
		ship(&bed, false, start_ms + i * day);
		snapshot(&bed, start_ms + i * day);
	}
	ltx_name(1, 5, name);
	snprintf(path, sizeof path, "%s/ltx/9/%s.record", bed.root, name);
	assert_int_equal(truncate(path, 10), 0);
	int64_t later = start_ms + 90 * day;
	assert_int_equal(
		retain_pass(&bed.retain, bed.txid, later, &result, &bed.error), REPLICA_CORRUPT);
	assert_int_equal(result.removed, 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(retain_pass(&bed.retain, bed.txid, later, &result, &bed.error), 0);
	assert_int_equal(files_of(&bed, REPLICA_SNAPSHOT_LEVEL), 1);
	assert_int_equal(files_of(&bed, 0), 2); /* from the snapshot before on */
	restore_points(&bed, start_ms + 3 * day, 1);
	bed_remove(&bed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_levels_are_filled_and_level_0_is_emptied),
		cmocka_unit_test(test_every_point_that_is_left_can_be_restored),
		cmocka_unit_test(test_ninety_days),
		cmocka_unit_test(test_a_backlog_is_merged_in_bounded_runs),
		cmocka_unit_test(test_images_stay_where_they_are),
		cmocka_unit_test(test_epochs_are_not_mixed),
		cmocka_unit_test(test_a_fenced_daemon_touches_nothing),
		cmocka_unit_test(test_what_is_wrong_is_not_merged),
		cmocka_unit_test(test_the_last_snapshots_stay),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
