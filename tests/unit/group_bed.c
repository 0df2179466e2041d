/* SPDX-License-Identifier: MIT */

#include "tests/unit/group_bed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bed bed;
struct queue *queue;
struct group_result result;
struct group_limits limits;
struct list answered;
struct credentials writer = {.references = 1000000, .role = ROLE_DDL, .text = "uid 1"};
struct credentials reader = {.references = 1000000, .role = ROLE_QUERY, .text = "uid 2"};

static void wake(void *ctx)
{
	(void)ctx;
}

/* ---- requests ---- */

enum { STEPS_MAX = 8 };

struct request *batch(const char *text)
{
	void *room = NULL;
	size_t len = strlen(text);
	struct request *request =
		request_new(REQUEST_WRITE, STEPS_MAX * sizeof(struct step) + len + 1, &room);
	char *copy = (char *)room + STEPS_MAX * sizeof(struct step);
	memcpy(copy, text, len + 1);
	request->steps = room;
	for (char *line = copy; *line != 0;) {
		char *end = line + strcspn(line, "\n");
		bool last = *end == 0;
		*end = 0;
		request->steps[request->steps_count++] = bed_step_of(line);
		line = last ? end : end + 1;
	}
	request->credentials = credentials_ref(&writer);
	request->class = CLASS_NORMAL;
	request->deadline_us = UINT64_MAX;
	request->received_us = bed_now_us;
	return request;
}

struct request *with_seq(struct request *request, uint64_t seq)
{
	request->identity = (struct identity){.kind = IDENTITY_SEQ, .uid = 1, .seq = seq};
	request->identity.session[0] = 1;
	request->identity.hash[0] = (uint8_t)request->steps[0].sql_hash;
	return request;
}

struct request *push(struct request *request)
{
	const struct queue_limits wide = {100000, 1u << 30};
	assert_int_equal(queue_push(queue, request, &wide), 0);
	return request;
}

struct request *insert(int value)
{
	char sql[64];
	(void)snprintf(sql, sizeof(sql), "INSERT INTO t VALUES (%d)", value);
	return push(batch(sql));
}

int run(void)
{
	struct list fresh;
	char *reason = NULL;
	list_init(&fresh);
	int rc = group_run(bed.store, queue, &limits, &fresh, &result, &reason);
	assert_false(store_in_transaction(bed.store));
	queue_answer(queue, &fresh);
	queue_collect(queue, &answered);
	free(reason);
	return rc;
}

void is_ok(const struct request *request)
{
	if (request->outcome != OUTCOME_OK) {
		fail_msg("%s: outcome %d: %s", (const char *)request->steps[0].sql.data,
			request->outcome,
			request->failure.message != NULL ? request->failure.message : "");
	}
	assert_int_equal(request->payload.data[0], PAYLOAD_STEPS);
}

void is_failed(const struct request *request, enum failure_code code, int sqlite)
{
	if (request->outcome != OUTCOME_FAILED || request->failure.code != code ||
		request->failure.sqlite != sqlite) {
		fail_msg("%s: outcome %d, %s %d %s", (const char *)request->steps[0].sql.data,
			request->outcome, failure_code_name(request->failure.code),
			request->failure.sqlite,
			request->failure.message != NULL ? request->failure.message : "");
	}
	assert_int_equal(request->failure.applied, APPLIED_NO);
}

int64_t count_of(const char *table)
{
	char sql[128];
	(void)snprintf(sql, sizeof(sql), "SELECT count(*) FROM %s", table);
	return bed_number(bed.store, sql);
}

int group_set_up(void **state)
{
	(void)state;
	bed_make(&bed);
	bed_script(bed.store,
		"CREATE TABLE t(a INTEGER PRIMARY KEY); CREATE TABLE plain(a INTEGER PRIMARY KEY);"
		"CREATE TABLE harsh(a UNIQUE ON CONFLICT ROLLBACK); INSERT INTO harsh VALUES (1);"
		"CREATE TABLE watched(a); CREATE TRIGGER w BEFORE INSERT ON watched BEGIN "
		"SELECT RAISE(ROLLBACK, 'watched') WHERE NEW.a = 1; END;"
		"CREATE TABLE p(a INTEGER PRIMARY KEY); INSERT INTO p VALUES (1);"
		"CREATE TABLE c(p REFERENCES p DEFERRABLE INITIALLY DEFERRED)");
	limits = (struct group_limits){
		4096, 32 << 20, 1000000000, 1000000000, 4 << 20, 100000, NULL, false};
	list_init(&answered);
	return queue_new(wake, NULL, &queue);
}

int group_tear_down(void **state)
{
	(void)state;
	bed_tick_us = 0;
	list_for_each_safe(node, &answered) {
		request_free(container_of(node, struct request, node));
	}
	queue_free(queue);
	bed_remove(&bed);
	return 0;
}
