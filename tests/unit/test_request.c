/* SPDX-License-Identifier: MIT */

/* Requests: how they are made and unmade, and the names of classes. */

#include "server/funnel/request.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/fail_alloc.h"

#include <stdlib.h>
#include <string.h>

static void test_a_new_request_is_empty(void **state)
{
	static const size_t extras[] = {0, 1, 15, 16, 17, 1000, 100000};
	(void)state;
	for (size_t i = 0; i < sizeof(extras) / sizeof(extras[0]); i++) {
		void *room = NULL;
		struct request *request = request_new(REQUEST_BYE, extras[i], &room);
		assert_non_null(request);
		assert_int_equal((uintptr_t)room % 16, 0);
		assert_true((uint8_t *)room >= (uint8_t *)(request + 1));
		memset(room, 0xa5, extras[i]); /* all of it is ours */
		assert_int_equal(request->kind, REQUEST_BYE);
		assert_int_equal(request->outcome, OUTCOME_OPEN);
		assert_int_equal(request->failure.step, -1);
		assert_int_equal(request->failure.row, -1);
		assert_int_equal(request->identity.kind, IDENTITY_NONE);
		assert_true(list_empty(&request->node));
		assert_true(list_empty(&request->in_flight));
		assert_true(request->bytes >= sizeof(*request) + extras[i]);
		assert_true(request->bytes < sizeof(*request) + extras[i] + 64);
		request_free(request);
	}
	request_free(NULL);
}

static void test_no_memory(void **state)
{
	void *room = NULL;
	(void)state;
	assert_null(request_new(REQUEST_WRITE, SIZE_MAX, &room));
	assert_null(request_new(REQUEST_WRITE, SIZE_MAX - 100, &room));
	fail_alloc_at(1);
	assert_null(request_new(REQUEST_WRITE, 100, &room));
	fail_alloc_at(0);
}

/* What comes from the shelf looks like new, whatever lay there; large ones never lie there. */
static void test_the_shelf(void **state)
{
	struct request_shelf shelf;
	void *room = NULL;
	(void)state;
	request_shelf_init(&shelf);
	for (unsigned round = 0; round < 3; round++) {
		struct request *requests[3];
		for (unsigned i = 0; i < 3; i++) {
			size_t extra = i < 2 ? 200 : 5000;
			requests[i] = request_from(&shelf, REQUEST_WRITE, extra, &room);
			assert_non_null(requests[i]);
			memset(room, 0xa5, extra);
			assert_int_equal(requests[i]->payload.len, 0);
			assert_int_equal(requests[i]->reply.len, 0);
			assert_int_equal(requests[i]->outcome, OUTCOME_OPEN);
			assert_null(requests[i]->waited_for);
			assert_int_equal(requests[i]->cost_us, 0);
			requests[i]->outcome = OUTCOME_OK;
			requests[i]->cost_us = 7;
			requests[i]->payload.failed = true;
			requests[i]->payload.max = 1;
			requests[i]->waited_for = calloc(1, 10);
			buffer_append(&requests[i]->reply, "reply", 5);
		}
		for (unsigned i = 0; i < 3; i++) {
			request_free(requests[i]);
		}
		assert_true(shelf.count <= 2);
	}
	fail_alloc_at(1);
	struct request *kept = request_from(&shelf, REQUEST_WRITE, 200, &room);
	fail_alloc_at(0);
	request_free(kept); /* with a shelf in use it needed no memory; a sanitizer has none */
	request_shelf_finish(&shelf);
	assert_int_equal(shelf.count, 0);
}

/* Everything that it came to own goes with it: the sanitizer's leak check is the judge. */
static void test_freeing_frees_what_it_owns(void **state)
{
	void *room = NULL;
	struct list list;
	struct list flight;
	struct credentials *credentials = calloc(1, sizeof(*credentials));
	(void)state;
	credentials->references = 1;
	credentials->groups = malloc(8);
	list_init(&list);
	list_init(&flight);
	struct request *request = request_new(REQUEST_WRITE, 10, &room);
	list_push_back(&list, &request->node);
	list_push_back(&flight, &request->in_flight);
	request->credentials = credentials_ref(credentials);
	failure_set(&request->failure, FAILURE_SQL, "%d", 1);
	buffer_append(&request->payload, "payload", 7);
	buffer_append(&request->reply, "reply", 5);
	request_free(request);
	assert_true(list_empty(&list));
	assert_true(list_empty(&flight));
	assert_int_equal(credentials->references, 1);
	credentials_unref(credentials);
}

static void test_classes(void **state)
{
	static const char *const names[CLASS_COUNT] = {"interactive", "normal", "bulk"};
	static const char *const wrong[] = {"", "Normal", "norma", "normall", "bulk ", "0"};
	enum request_class class = CLASS_BULK;
	(void)state;
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		struct span name = {(const uint8_t *)names[i], strlen(names[i])};
		assert_string_equal(request_class_name((enum request_class)i), names[i]);
		assert_true(request_class_parse(name, &class));
		assert_int_equal(class, i);
	}
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct span name = {(const uint8_t *)wrong[i], strlen(wrong[i])};
		assert_false(request_class_parse(name, &class));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_new_request_is_empty),
		cmocka_unit_test(test_no_memory),
		cmocka_unit_test(test_the_shelf),
		cmocka_unit_test(test_freeing_frees_what_it_owns),
		cmocka_unit_test(test_classes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
