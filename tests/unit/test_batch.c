/* SPDX-License-Identifier: MIT */

/*
 * The batch builder: which calls give which bytes, that they are the same each time, and that every
 * misuse and every failed allocation is remembered instead of sent.
 */

#include "client/batch.h"
#include "proto/scan.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/fail_alloc.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void one_step(lf_batch *b)
{
	lf_batch_step(b, "A");
}

static void values(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_bind_null(b);
	lf_bind_int64(b, -1);
	lf_bind_int64(b, INT64_MAX);
	lf_bind_double(b, 0.5);
	lf_bind_double(b, NAN);
	lf_bind_text(b, "xyz", 2);
	lf_bind_text(b, "", -1);
	lf_bind_blob(b, "\x00\xff", 2);
	lf_bind_text(b, NULL, -1);
}

static void names(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_bind_name(b, "n");
	lf_bind_int64(b, 1);
	lf_bind_name(b, "m");
	lf_bind_null(b);
}

static void rows(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_bind_int64(b, 1);
	lf_batch_row(b);
	lf_bind_int64(b, 2);
}

static void rows_with_last_call(lf_batch *b)
{
	rows(b);
	lf_batch_row(b);
}

static void rows_in_slices(lf_batch *b)
{
	rows(b);
	lf_batch_sliced(b);
}

static void empty_rows(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_batch_row(b);
	lf_batch_row(b);
}

static void script(lf_batch *b)
{
	lf_batch_script(b, "A;B");
}

static void all_opts(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_expect_changes(b, 1);
	lf_rows_max(b, 5, true);
	lf_batch_step(b, "B");
	lf_expect_rows(b, 0);
	lf_rows_max(b, 6, false);
}

static void two_steps(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_bind_int64(b, 1);
	lf_batch_step(b, "B");
}

static void after_clear(lf_batch *b)
{
	all_opts(b);
	lf_bind_name(b, "left");
	lf_batch_key(b, "k");
	lf_batch_class(b, "bulk");
	lf_batch_class(b, "none such");
	lf_batch_clear(b);
	lf_batch_step(b, "A");
}

static const struct {
	void (*build)(lf_batch *batch);
	const char *hex;
} table[] = {
	{one_step, "9191a141"},
	{values, "9192a14199c0ffcf7fffffffffffffffcb3fe0000000000000c0a27879a0c40200ffc0"},
	{names, "9192a14182a16e01a16dc0"},
	{rows,
		"9193a14192910191"
		"0281a46d616e79c3"},
	{rows_with_last_call,
		"9193a1419291019102"
		"81a46d616e79c3"},
	{rows_in_slices,
		"9193a1419291019102"
		"82a46d616e79c3a661746f6d6963c2"},
	{empty_rows, "9193a14192909081a46d616e79c3"},
	{script, "9193a3413b42c081a6736372697074c3"},
	{all_opts,
		"9293a141c083a665787065637481a76368616e67657301a4726f777305a87472756e63617465c3"
		"93a142c082a665787065637481a4726f777300a4726f777306"},
	{two_steps, "9292a141910191a142"},
	{after_clear, "9191a141"},
};

static void to_hex(const struct buffer *buf, char *ret_hex, size_t bytes)
{
	assert_true(buf->len * 2 < bytes);
	for (size_t i = 0; i < buf->len; i++) {
		(void)snprintf(ret_hex + 2 * i, 3, "%02x", buf->data[i]);
	}
}

static void calls_give_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		lf_batch *batch = lf_batch_new();
		char hex[2][1024] = {"", ""};
		size_t scanned = 0;
		size_t len = 0;
		table[i].build(batch);
		for (int again = 0; again < 2; again++) {
			struct buffer buf;
			size_t nodes = 0;
			buffer_init(&buf, 0);
			assert_int_equal(builder_encode(batch, &buf, &nodes), 0);
			to_hex(&buf, hex[again], sizeof(hex[again]));
			scanned = 0;
			assert_int_equal(scan_value(buf.data, buf.len, 16, &scanned, &len), 0);
			assert_int_equal(len, buf.len);
			assert_int_equal(nodes, scanned); /* the daemon's limit counts these */
			buffer_finish(&buf);
		}
		assert_string_equal(hex[0], table[i].hex);
		assert_string_equal(hex[1], table[i].hex);
		lf_batch_free(batch);
	}
}

static void many_rows_use_wide_headers(void **state)
{
	lf_batch *batch = lf_batch_new();
	struct buffer buf;
	size_t nodes = 0;
	size_t scanned = 0;
	size_t len = 0;
	(void)state;
	buffer_init(&buf, 0);
	for (int step = 0; step < 20; step++) {
		lf_batch_step(batch, "INSERT INTO t VALUES (?, ?)");
		for (int row = 0; row < 4000; row++) {
			lf_bind_int64(batch, row);
			lf_bind_text(batch, "text", -1);
			lf_batch_row(batch);
		}
	}
	assert_int_equal(lf_batch_steps(batch), 20);
	assert_int_equal(builder_encode(batch, &buf, &nodes), 0);
	assert_int_equal(scan_value(buf.data, buf.len, 16, &scanned, &len), 0);
	assert_int_equal(nodes, scanned);
	assert_int_equal(nodes, 1 + 20 * (1 + 1 + 1 + 4000 * 3 + 3));
	buffer_finish(&buf);
	lf_batch_free(batch);
}

/* ---- misuse ---------------------------------------------------------------------------------- */

static void nothing(lf_batch *b)
{
	(void)b;
}

static void value_first(lf_batch *b)
{
	lf_bind_int64(b, 1);
	lf_batch_step(b, "A");
}

static void row_first(lf_batch *b)
{
	lf_batch_row(b);
}

static void option_first(lf_batch *b)
{
	lf_expect_changes(b, 1);
}

static void value_in_script(lf_batch *b)
{
	lf_batch_script(b, "A");
	lf_bind_null(b);
}

static void mixed_names(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_bind_null(b);
	lf_bind_name(b, "n");
}

static void mixed_values(lf_batch *b)
{
	names(b);
	lf_bind_null(b);
}

static void name_without_value(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_bind_name(b, "n");
}

static void name_then_step(lf_batch *b)
{
	name_without_value(b);
	lf_batch_step(b, "B");
}

static void name_then_row(lf_batch *b)
{
	name_without_value(b);
	lf_batch_row(b);
}

static void two_names(lf_batch *b)
{
	name_without_value(b);
	lf_bind_name(b, "m");
}

static void two_guards(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_expect_rows(b, 1);
	lf_expect_changes(b, 1);
}

static void negative_guard(lf_batch *b)
{
	lf_batch_step(b, "A");
	lf_expect_rows(b, -1);
}

static void no_sql(lf_batch *b)
{
	lf_batch_step(b, NULL);
}

static void long_key(lf_batch *b)
{
	char key[258];
	memset(key, 'k', sizeof(key));
	key[256] = '\0';
	one_step(b);
	lf_batch_key(b, key);
}

static void empty_key(lf_batch *b)
{
	one_step(b);
	lf_batch_key(b, "");
}

static void wrong_class(lf_batch *b)
{
	one_step(b);
	lf_batch_class(b, "fast");
}

static void misuse_is_remembered(void **state)
{
	static void (*const builds[])(lf_batch *) = {nothing, value_first, row_first, option_first,
		value_in_script, mixed_names, mixed_values, name_without_value, name_then_step,
		name_then_row, two_names, two_guards, negative_guard, no_sql, long_key, empty_key,
		wrong_class};
	(void)state;
	for (size_t i = 0; i < sizeof(builds) / sizeof(builds[0]); i++) {
		lf_batch *batch = lf_batch_new();
		struct buffer buf;
		size_t nodes = 0;
		buffer_init(&buf, 0);
		builds[i](batch);
		assert_int_equal(builder_encode(batch, &buf, &nodes), -EINVAL);
		buffer_finish(&buf);
		lf_batch_free(batch);
	}
}

static void longest_key_fits(void **state)
{
	lf_batch *batch = lf_batch_new();
	char key[256];
	(void)state;
	memset(key, 'k', sizeof(key));
	key[255] = '\0';
	one_step(batch);
	lf_batch_key(batch, key);
	assert_int_equal(batch->failure, 0);
	assert_string_equal(batch->key, key);
	lf_batch_free(batch);
}

static void too_large_is_no_lack_of_memory(void **state)
{
	lf_batch *batch = lf_batch_new();
	(void)state;
	one_step(batch);
	/* The length is refused before a byte is read. */
	lf_bind_blob(batch, "x", (size_t)BATCH_BYTES_MAX + 1);
	assert_int_equal(batch->failure, -EMSGSIZE);
	lf_batch_free(batch);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static int build_all(void)
{
	struct buffer buf;
	size_t nodes = 0;
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return -ENOMEM;
	}
	buffer_init(&buf, 0);
	values(batch);
	names(batch);
	for (int i = 0; i < 100; i++) {
		rows_with_last_call(batch);
	}
	script(batch);
	int r = builder_encode(batch, &buf, &nodes);
	buffer_finish(&buf);
	lf_batch_free(batch);
	return r;
}

static void every_allocation_may_fail(void **state)
{
	(void)state;
	fail_alloc_at(0);
	assert_int_equal(build_all(), 0);
	unsigned count = fail_alloc_count;
	assert_true(count > 5);
	for (unsigned i = 1; i <= count; i++) {
		fail_alloc_at(i);
		assert_int_equal(build_all(), -ENOMEM);
	}
	fail_alloc_at(0);
}

static void guards(void **state)
{
	static const uint8_t epoch[16] = "0123456789abcdef";
	static const char want[] = "\x82\xa6tables\x92\xa1t\xa1u\xa2"
				   "at\x82\xa5"
				   "epoch\xc4\x10"
				   "0123456789abcdef\xa6"
				   "commit\x2a";
	struct buffer bytes;
	size_t nodes = 0;
	lf_batch *batch = lf_batch_new();
	(void)state;
	buffer_init(&bytes, 0);
	one_step(batch);
	assert_int_equal(builder_encode_guard(batch, &bytes, &nodes), 0);
	assert_int_equal(bytes.len + nodes, 0);
	lf_batch_if_commit(batch, epoch, 42);
	lf_batch_if_table(batch, "t");
	lf_batch_if_table(batch, "u");
	assert_int_equal(builder_encode_guard(batch, &bytes, &nodes), 0);
	assert_int_equal(bytes.len, sizeof(want) - 1);
	assert_memory_equal(bytes.data, want, bytes.len);
	assert_int_equal(nodes, 11);
	/* A cleared batch has none; a table without a snapshot is a mistake that is remembered. */
	lf_batch_clear(batch);
	buffer_clear(&bytes);
	one_step(batch);
	assert_int_equal(builder_encode_guard(batch, &bytes, &nodes), 0);
	assert_int_equal(bytes.len, 0);
	lf_batch_if_table(batch, "t");
	assert_int_equal(builder_encode(batch, &bytes, &nodes), -EINVAL);
	buffer_finish(&bytes);
	lf_batch_free(batch);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_give_bytes),
		cmocka_unit_test(guards),
		cmocka_unit_test(many_rows_use_wide_headers),
		cmocka_unit_test(misuse_is_remembered),
		cmocka_unit_test(longest_key_fits),
		cmocka_unit_test(too_large_is_no_lack_of_memory),
		cmocka_unit_test(every_allocation_may_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
