/* SPDX-License-Identifier: MIT */

/* How often a keeper asks a replica that fails. */

#include "server/base/clock.h"
#include "server/ship/backoff.h"
#include "server/ship/keeper.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status;
	(void)type;
	(void)walk;
	return remove(path);
}

struct bed {
	char root[64];
	char level0[96]; /* a file, where the replica has a directory */
	struct spool *spool;
	struct keeper *keeper;
	sem_t passed; /* once for each pass that asks something */
};

static struct keeper_facts facts(void *ctx)
{
	struct bed *bed = ctx;
	sem_post(&bed->passed);
	return (struct keeper_facts){.ours = true, .confirmed = 3};
}

static void lost(void *ctx, bool wholly, bool partly)
{
	(void)ctx;
	assert_false(wholly || partly);
}

static void bed_make(struct bed *bed)
{
	char path[96];
	char url[96];
	*bed = (struct bed){.root = "/dev/shm/litefunnel-keeper-XXXXXX"};
	assert_non_null(mkdtemp(bed->root));
	snprintf(path, sizeof path, "%s/ltx", bed->root);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(bed->level0, sizeof bed->level0, "%s/ltx/0", bed->root);
	int fd = open(bed->level0, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	snprintf(path, sizeof path, "%s/spool", bed->root);
	assert_int_equal(spool_open(path, &bed->spool), 0);
	assert_int_equal(sem_init(&bed->passed, 0, 0), 0);
	snprintf(url, sizeof url, "file://%s", bed->root);
	struct keeper_options options = {
		.url = url,
		.spool = bed->spool,
		.compact_every_ms = 1,
		.facts = facts,
		.lost = lost,
		.ctx = bed,
	};
	assert_int_equal(keeper_start(&options, &bed->keeper), 0);
}

static void bed_free(struct bed *bed)
{
	keeper_free(bed->keeper);
	spool_free(bed->spool);
	sem_destroy(&bed->passed);
	nftw(bed->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void wait_for_passes(struct bed *bed, int count)
{
	for (int i = 0; i < count; i++) {
		while (sem_wait(&bed->passed) != 0) {
			assert_int_equal(errno, EINTR);
		}
	}
}

/*
 * Periods of a millisecond: without a back-off five passes take less than ten. With it they take up
 * to 1.5 s, and 30 ms or less in one of 200,000 runs.
 */
static void test_a_replica_that_fails_is_asked_less_and_less(void **state)
{
	struct bed bed;
	(void)state;
	bed_make(&bed);
	wait_for_passes(&bed, 1);
	uint64_t began_us = clock_now_us();
	wait_for_passes(&bed, 4);
	assert_true(clock_now_us() - began_us > 30 * 1000);
	bed_free(&bed);
}

static void test_the_bound_doubles_up_to_its_limit(void **state)
{
	(void)state;
	for (unsigned failures = 0; failures < 100; failures++) {
		uint64_t bound_ms = failures < 4 ? 100u << failures : 1000;
		uint64_t longest_ms = 0;
		for (int i = 0; i < 1000; i++) {
			uint64_t ms = backoff_ms(failures, 100, 1000);
			assert_true(ms <= bound_ms);
			longest_ms = ms > longest_ms ? ms : longest_ms;
		}
		assert_true(longest_ms > bound_ms / 2);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_replica_that_fails_is_asked_less_and_less),
		cmocka_unit_test(test_the_bound_doubles_up_to_its_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
