/* SPDX-License-Identifier: MIT */
#pragma once

/* A store and a queue for commit groups, with tables that batches can fail on in every way. */

#include "server/funnel/group.h"
#include "tests/unit/bed.h"

extern struct bed bed;
extern struct queue *queue;
extern struct group_result result; /* of the last run */
extern struct group_limits limits;
extern struct list answered; /* all requests that were answered, until the end of the test */
extern struct credentials writer;
extern struct credentials reader;

/* A batch of the statements that a text holds, one on each line. */
struct request *batch(const char *text);
struct request *with_seq(struct request *request, uint64_t seq);
struct request *push(struct request *request);
struct request *insert(int value); /* into t, pushed */

/* One group. */
int run(void);

void is_ok(const struct request *request);
void is_failed(const struct request *request, enum failure_code code, int sqlite);
int64_t count_of(const char *table);

int group_set_up(void **state);
int group_tear_down(void **state);
#define GROUP_TEST(test) cmocka_unit_test_setup_teardown(test, group_set_up, group_tear_down)
