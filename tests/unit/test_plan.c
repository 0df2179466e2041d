/* SPDX-License-Identifier: MIT */

/* Which files make a restore: replicas drawn as lists of files, ways as the names expected. */

#include "server/ship/plan.h"
#include "tests/unit/cmocka_all.h"

#include <stdio.h>
#include <string.h>

/* A replica as text: "L:min-max" each; "!" behind it: gone or damaged. */
struct drawn {
	struct plan *plan;
	unsigned looks;
	int (*record)(struct plan_file *file);
};

/* Commit numbers are ten times the segment's; a digest is the number of the state. */
static int plain_record(struct plan_file *file)
{
	struct record *record = &file->record;
	memset(record, 0, sizeof *record);
	file->known = true;
	record->commit_first = 10 * file->file.min_txid - 9;
	record->commit_last = 10 * file->file.max_txid;
	record->committed_ms = 1000 * (int64_t)file->file.max_txid;
	record->has_digest = true;
	record->full = file->file.min_txid == 1;
	record->digest_before[0] = (uint8_t)(file->file.min_txid - 1);
	record->digest_after[0] = (uint8_t)file->file.max_txid;
	record->epoch[0] = 1;
	return 0;
}

static int look(void *ctx, struct plan_file *file, struct replica_error *ret_error)
{
	struct drawn *drawn = ctx;
	(void)ret_error;
	drawn->looks++;
	int rc = drawn->record(file);
	file->looked = rc == 0;
	return rc;
}

static void draw(struct drawn *drawn, const char *text, int (*record)(struct plan_file *file))
{
	*drawn = (struct drawn){.record = record};
	assert_int_equal(plan_new(look, drawn, &drawn->plan), 0);
	for (int used = 0; *text != '\0'; text += used) {
		struct replica_file file = {.size = 500};
		unsigned long min = 0;
		unsigned long max = 0;
		assert_int_equal(sscanf(text, " %d:%lu-%lu%n", &file.level, &min, &max, &used), 3);
		file.min_txid = min;
		file.max_txid = max;
		file.created_ms = 1000 * (int64_t)max;
		assert_int_equal(plan_add(drawn->plan, &file), 0);
	}
}

static const char *way(struct plan *plan)
{
	static char text[400];
	size_t len = 0;
	text[0] = '\0';
	for (size_t i = 0; i < plan_steps(plan); i++) {
		const struct replica_file *file = &plan_step(plan, i)->file;
		len += (size_t)snprintf(text + len, sizeof text - len, "%s%d:%lu-%lu",
			i > 0 ? " " : "", file->level, (unsigned long)file->min_txid,
			(unsigned long)file->max_txid);
	}
	return text;
}

static const struct {
	const char *files;
	uint64_t txid;
	int rc;
	const char *way;
} ways[] = {
	{"0:1-1 0:2-2 0:3-3", 3, 0, "0:1-1 0:2-2 0:3-3"},
	{"0:1-1 0:2-2 0:3-3", 2, 0, "0:1-1 0:2-2"},
	{"0:4-4 0:5-5 1:1-3", 5, 0, "1:1-3 0:4-4 0:5-5"},
	{"9:1-4 9:1-8 0:5-5 0:9-9 1:5-8", 9, 0, "9:1-8 0:9-9"},
	{"9:1-4 9:1-8 0:5-5 0:9-9 1:5-8", 7, PLAN_BROKEN, "9:1-4 0:5-5"},
	{"9:1-4 1:3-6 2:2-7 0:8-8", 8, 0, "9:1-4 2:2-7 0:8-8"},
	/* The furthest, then the one that begins earlier, then the higher level. */
	{"9:1-1 1:2-5 2:2-5 0:2-2 0:3-3", 5, 0, "9:1-1 2:2-5"},
	{"0:1-1 0:2-2 0:4-4 1:2-3", 4, 0, "0:1-1 1:2-3 0:4-4"},
	{"0:1-1 0:2-2 0:4-4", 4, PLAN_BROKEN, "0:1-1 0:2-2"},
	{"0:2-2 0:3-3", 3, PLAN_BROKEN, ""},
	/* The furthest first leads nowhere: back, and by the shorter ones. */
	{"9:1-2 1:3-6 0:3-3 0:4-4 0:5-5", 5, 0, "9:1-2 0:3-3 0:4-4 0:5-5"},
	/* No way goes on from the newest snapshot, but one does from an older one. */
	{"9:1-2 9:1-5 0:3-3 1:4-7", 7, 0, "9:1-5 1:4-7"},
	{"9:2-5 0:1-1 0:2-2", 2, 0, "0:1-1 0:2-2"},
};

static void test_ways(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
		struct drawn drawn;
		draw(&drawn, ways[i].files, plain_record);
		int rc = plan_find(drawn.plan, ways[i].txid);
		if (rc != ways[i].rc || strcmp(way(drawn.plan), ways[i].way) != 0) {
			fail_msg("%s to %lu: %d, %s", ways[i].files, (unsigned long)ways[i].txid,
				rc, way(drawn.plan));
		}
		assert_int_equal(drawn.looks, 0);
		plan_free(drawn.plan);
	}
}

static int foreign_merge(struct plan_file *file)
{
	plain_record(file);
	if (file->file.level == 1) {
		file->record.digest_before[0] = 77;
	}
	return 0;
}

static int full_at_four(struct plan_file *file)
{
	plain_record(file);
	file->record.full = file->file.min_txid == 4;
	return 0;
}

static void test_what_does_not_fit_is_gone_around(void **state)
{
	struct drawn drawn;
	struct replica_error error = {0};
	(void)state;
	draw(&drawn, "0:1-1 0:2-2 0:3-3 0:4-4 1:2-3", foreign_merge);
	assert_int_equal(plan_find(drawn.plan, 4), 0);
	assert_string_equal(way(drawn.plan), "0:1-1 1:2-3 0:4-4");
	assert_int_equal(plan_learn(drawn.plan, 4, &error), 0);
	assert_int_equal(plan_find(drawn.plan, 4), 0);
	assert_string_equal(way(drawn.plan), "0:1-1 0:2-2 0:3-3 0:4-4");
	plan_step(drawn.plan, 2)->bad = true;
	assert_int_equal(plan_find(drawn.plan, 4), PLAN_BROKEN);
	assert_string_equal(way(drawn.plan), "0:1-1 0:2-2");
	plan_free(drawn.plan);

	draw(&drawn, "0:2-2 0:3-3 0:4-4 0:5-5", full_at_four);
	assert_int_equal(plan_find(drawn.plan, 5), PLAN_BROKEN);
	assert_int_equal(plan_learn(drawn.plan, 5, &error), 0);
	assert_int_equal(plan_find(drawn.plan, 5), 0);
	assert_string_equal(way(drawn.plan), "0:4-4 0:5-5");
	plan_free(drawn.plan);
}

static uint64_t aim(struct drawn *drawn, enum plan_target_kind kind, uint64_t number)
{
	struct replica_error error = {0};
	uint64_t txid = 0;
	struct plan_target target = {.kind = kind, .number = number, .time_ms = (int64_t)number};
	int rc = plan_aim(drawn->plan, &target, &txid, &error);
	assert_true(rc == 0 || (rc == PLAN_NONE && error.text[0] != '\0'));
	return rc == 0 ? txid : 0;
}

/* Segments 5 and on are of another epoch, which began at commit 25. */
static int two_epochs(struct plan_file *file)
{
	plain_record(file);
	if (file->file.max_txid >= 5) {
		file->record.epoch[0] = 2;
		file->record.commit_last = 25 + file->file.max_txid - 5;
		file->record.commit_first = file->record.commit_last;
	}
	return 0;
}

static int fuzzy_base(struct plan_file *file)
{
	plain_record(file);
	file->record.has_digest = file->file.max_txid != 1;
	return 0;
}

static int of_litestream(struct plan_file *file)
{
	file->known = false;
	return 0;
}

static int third_is_corrupt(struct plan_file *file)
{
	plain_record(file);
	return file->file.max_txid == 3 ? REPLICA_CORRUPT : 0;
}

/* Which records are lost ('l') or damaged ('d'), segment by segment. */
static const char *harm;

static int harmed(struct plan_file *file)
{
	two_epochs(file);
	char what = harm[file->file.max_txid - 1];
	file->known = what != 'l';
	if (what == 'l') {
		file->record = (struct record){0};
	}
	return what == 'd' ? REPLICA_CORRUPT : 0;
}

/* Epoch 1: commits 1 to 40 in segments 1 to 4. Epoch 2, from 25 on: one commit each in 5 to 8. */
static const struct {
	const char *harm;
	uint64_t commit;
	uint64_t txid;
	uint64_t doubt;
} doubts[] = {
	{"........", 27, 7, 0},
	{".....l..", 25, 5, 0},
	{".....l..", 26, 5, 6},
	{".....d..", 26, 5, 6},
	{".....d..", 27, 7, 0},
	{".....dl.", 26, 5, 6},
	{".....ld.", 28, 8, 0},
	{".......l", 27, 7, 0},
	{".......l", 28, 7, 8},
	{".......d", 1000, 7, 8},
	{"......ll", 26, 6, 0},
	{"......ll", 27, 6, 7},
	{".....lll", 27, 0, 0}, /* nobody's but Litestream's, for all that can be seen */
	{".l......", 10, 1, 0},
	{".l......", 19, 1, 0}, /* the one behind begins at 21: the lost one ends at 20 */
	{".l......", 20, 1, 2},
	{".d......", 19, 1, 0},
	{".ld.....", 15, 1, 2}, /* of two, who knows where the first one ends */
	{"l.......", 10, 0, 0},
	{"....l...", 24, 2, 0}, /* the new epoch has begun at 25 */
	{"....l...", 25, 2, 5},
	{"....d...", 25, 2, 5},
	{"...ll...", 25, 2, 4},
	{"dddddddd", 25, 0, 0},
};

static void test_a_commit_that_may_be_in_a_segment_without_a_record(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof doubts / sizeof doubts[0]; i++) {
		struct drawn drawn;
		harm = doubts[i].harm;
		draw(&drawn, "0:1-1 0:2-2 0:3-3 0:4-4 0:5-5 0:6-6 0:7-7 0:8-8", harmed);
		uint64_t txid = aim(&drawn, PLAN_COMMIT, doubts[i].commit);
		const struct plan_file *file = plan_doubt(drawn.plan);
		uint64_t doubt = file != NULL && txid != 0 ? file->file.max_txid : 0;
		if (txid != doubts[i].txid || doubt != doubts[i].doubt) {
			fail_msg("%s, commit %lu: %lu, in doubt %lu", harm,
				(unsigned long)doubts[i].commit, (unsigned long)txid,
				(unsigned long)doubt);
		}
		plan_free(drawn.plan);
	}
}

static void test_targets(void **state)
{
	struct drawn drawn;
	static const char files[] = "0:1-1 0:2-2 0:3-3 0:4-4 0:5-5 0:6-6 0:7-7 0:8-8";
	(void)state;
	draw(&drawn, files, plain_record);
	assert_int_equal(aim(&drawn, PLAN_LATEST, 0), 8);
	assert_int_equal(aim(&drawn, PLAN_TXID, 3), 3);
	assert_int_equal(aim(&drawn, PLAN_TXID, 9), 0);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 35), 3);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 1000), 8);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 9), 0);
	assert_int_equal(aim(&drawn, PLAN_TIME, 999), 0);
	assert_int_equal(aim(&drawn, PLAN_TIME, 1000), 1);
	assert_int_equal(aim(&drawn, PLAN_TIME, 6999), 6);
	plan_free(drawn.plan);

	draw(&drawn, files, two_epochs);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 27), 7);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 39), 8);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 24), 2);
	plan_free(drawn.plan);

	draw(&drawn, "0:1-1", fuzzy_base);
	assert_int_equal(aim(&drawn, PLAN_LATEST, 0), 0);
	plan_free(drawn.plan);

	draw(&drawn, files, of_litestream);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 5), 0);
	assert_int_equal(aim(&drawn, PLAN_TIME, 5000), 5);
	plan_free(drawn.plan);

	draw(&drawn, files, third_is_corrupt);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 29), 2);
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 41), 4);
	plan_free(drawn.plan);
}

static void test_a_target_takes_few_looks(void **state)
{
	struct drawn drawn;
	(void)state;
	assert_int_equal((drawn = (struct drawn){.record = plain_record}).looks, 0);
	assert_int_equal(plan_new(look, &drawn, &drawn.plan), 0);
	for (uint64_t i = 1; i <= 20000; i++) {
		struct replica_file file = {.min_txid = i, .max_txid = i, .size = 500};
		assert_int_equal(plan_add(drawn.plan, &file), 0);
	}
	assert_int_equal(aim(&drawn, PLAN_COMMIT, 123456), 12345);
	assert_in_range(drawn.looks, 1, 40);
	assert_int_equal(plan_find(drawn.plan, 12345), 0);
	assert_int_equal(plan_steps(drawn.plan), 12345);
	plan_free(drawn.plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ways),
		cmocka_unit_test(test_what_does_not_fit_is_gone_around),
		cmocka_unit_test(test_targets),
		cmocka_unit_test(test_a_commit_that_may_be_in_a_segment_without_a_record),
		cmocka_unit_test(test_a_target_takes_few_looks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
