/* SPDX-License-Identifier: MIT */

/* What is known of a segment, as text and back. */

#include "server/ship/record.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct record example(bool has_digest)
{
	struct record record = {.commit_first = 1,
		.commit_last = UINT64_MAX,
		.committed_ms = 1795343655247,
		.has_digest = has_digest,
		.full = !has_digest};
	memset(record.epoch, 0xe0, sizeof record.epoch);
	memset(record.writer, 0x0a, sizeof record.writer);
	memset(record.sha256, 0x5a, sizeof record.sha256);
	if (has_digest) {
		memset(record.digest_before, 0xdb, sizeof record.digest_before);
		memset(record.digest_after, 0xda, sizeof record.digest_after);
	}
	return record;
}

struct text {
	char lines[2000];
	struct record copy;
};

static void take(void *ctx, const char *key, const char *value)
{
	struct text *text = ctx;
	size_t len = strlen(text->lines);
	assert_true(strlen(value) < RECORD_VALUE_BYTES);
	snprintf(text->lines + len, sizeof text->lines - len, "%s: %s\n", key, value);
	assert_int_equal(record_set(&text->copy, key, value), 0);
}

static void test_there_and_back(void **state)
{
	(void)state;
	for (int has_digest = 0; has_digest < 2; has_digest++) {
		struct record record = example(has_digest != 0);
		struct text text = {0};
		record_each(&record, take, &text);
		assert_true(record_complete(&text.copy));
		text.copy.keys = 0;
		assert_memory_equal(&text.copy, &record, sizeof record);
	}
}

static void test_the_text(void **state)
{
	struct record record = example(true);
	struct text text = {0};
	(void)state;
	record_each(&record, take, &text);
	assert_string_equal(text.lines,
		"epoch: e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0\n"
		"writer: 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\n"
		"commit-first: 1\n"
		"commit-last: 18446744073709551615\n"
		"committed-ms: 1795343655247\n"
		"sha256: 5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
		"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\n"
		"previous: 00000000000000000000000000000000"
		"00000000000000000000000000000000\n"
		"full: no\n"
		"digest-before: dbdbdbdbdbdbdbdbdbdbdbdbdbdbdbdb\n"
		"digest-after: dadadadadadadadadadadadadadadada\n");
}

static void test_values_that_are_refused(void **state)
{
	static const char *const wrong[][2] = {
		{"epoch", ""},
		{"epoch", "e0"},
		{"epoch", "E0E0E0E0E0E0E0E0E0E0E0E0E0E0E0E0"},
		{"epoch", "e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0g0"},
		{"sha256", "e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0e0"},
		{"commit-first", ""},
		{"commit-first", "-1"},
		{"commit-first", "+1"},
		{"commit-first", "0x10"},
		{"commit-first", "1 "},
		{"commit-first", "18446744073709551616"},
		{"committed-ms", "9223372036854775808"},
		{"committed-ms", "-1"},
		{"full", "true"},
		{"full", ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		struct record record = {0};
		if (record_set(&record, wrong[i][0], wrong[i][1]) != -EINVAL) {
			fail_msg("taken: %s \"%s\"", wrong[i][0], wrong[i][1]);
		}
		assert_int_equal(record.keys, 0);
	}
}

static void test_keys_of_the_future_are_ignored(void **state)
{
	struct record record = {0};
	(void)state;
	assert_int_equal(record_set(&record, "compressed-by", "whatever"), 0);
	assert_int_equal(record.keys, 0);
}

static void leave_out(void *ctx, const char *key, const char *value)
{
	struct {
		struct record record;
		const char *without;
	} *it = ctx;
	if (strcmp(key, it->without) != 0) {
		assert_int_equal(record_set(&it->record, key, value), 0);
	}
}

static void test_each_missing_key_is_missed(void **state)
{
	static const char *const keys[] = {"epoch", "writer", "commit-first", "commit-last",
		"committed-ms", "sha256", "previous", "full", "digest-before", "digest-after"};
	struct record record = example(true);
	(void)state;
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		struct {
			struct record record;
			const char *without;
		} it = {.without = keys[i]};
		record_each(&record, leave_out, &it);
		assert_false(record_complete(&it.record));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back),
		cmocka_unit_test(test_the_text),
		cmocka_unit_test(test_values_that_are_refused),
		cmocka_unit_test(test_keys_of_the_future_are_ignored),
		cmocka_unit_test(test_each_missing_key_is_missed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
