/* SPDX-License-Identifier: MIT */

/*
 * The growing run of bytes: what it holds after each operation, and that its first failure sticks
 * and loses nothing.
 */

#include "proto/buffer.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/fail_alloc.h"

#include <stdlib.h>
#include <string.h>

static void append_grows(void **state)
{
	struct buffer buf;
	uint8_t big[10000];
	(void)state;
	memset(big, 'x', sizeof(big));
	buffer_init(&buf, 0);
	buffer_append(&buf, "", 0);
	assert_null(buf.data);
	buffer_append(&buf, "abc", 3);
	buffer_append(&buf, big, sizeof(big));
	buffer_append(&buf, NULL, 0);
	buffer_append(&buf, "def", 3);
	assert_false(buf.failed);
	assert_int_equal(buf.len, 10006);
	assert_memory_equal(buf.data, "abcx", 4);
	assert_memory_equal(buf.data + 10002, "xdef", 4);
	buffer_finish(&buf);
	assert_null(buf.data);
}

static void reserve_counts_nothing(void **state)
{
	struct buffer buf;
	(void)state;
	buffer_init(&buf, 0);
	uint8_t *at = buffer_reserve(&buf, 1000);
	assert_non_null(at);
	assert_int_equal(buf.len, 0);
	assert_true(buf.cap >= 1000);
	assert_ptr_equal(buffer_reserve(&buf, 1000), at);
	buffer_finish(&buf);
}

static void clear_and_truncate(void **state)
{
	struct buffer buf;
	(void)state;
	buffer_init(&buf, 0);
	buffer_append(&buf, "abcdef", 6);
	buffer_truncate(&buf, 7);
	assert_int_equal(buf.len, 6);
	buffer_truncate(&buf, 2);
	assert_int_equal(buf.len, 2);
	size_t cap = buf.cap;
	buffer_clear(&buf);
	assert_int_equal(buf.len, 0);
	assert_int_equal(buf.cap, cap);
	buffer_finish(&buf);
}

static void cut(void **state)
{
	static const struct {
		size_t from;
		size_t to;
		const char *left;
	} cases[] = {
		{0, 2, "cdef"},
		{2, 4, "abef"},
		{4, 6, "abcd"},
		{0, 6, ""},
		{3, 3, "abcdef"},
		{4, 3, "abcdef"},
		{2, 7, "abcdef"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct buffer buf;
		buffer_init(&buf, 0);
		buffer_append(&buf, "abcdef", 6);
		buffer_cut(&buf, cases[i].from, cases[i].to);
		assert_int_equal(buf.len, strlen(cases[i].left));
		assert_memory_equal(buf.data, cases[i].left, buf.len);
		buffer_finish(&buf);
	}
}

static void take_hands_over(void **state)
{
	struct buffer buf;
	size_t len = 99;
	(void)state;
	buffer_init(&buf, 0);
	assert_null(buffer_take(&buf, &len));
	assert_int_equal(len, 0);
	buffer_append(&buf, "abc", 3);
	uint8_t *data = buffer_take(&buf, &len);
	assert_int_equal(len, 3);
	assert_memory_equal(data, "abc", 3);
	assert_null(buf.data);
	buffer_append(&buf, "d", 1); /* goes on as a new one */
	assert_int_equal(buf.len, 1);
	free(data);
	buffer_finish(&buf);
}

/* The limit is exact, wherever the memory happens to end. */
static void max_is_exact(void **state)
{
	static const size_t limits[] = {1, 100, 255, 256, 257, 1000};
	(void)state;
	for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		struct buffer buf;
		size_t len = 0;
		buffer_init(&buf, limits[i]);
		for (size_t n = 0; n < limits[i]; n++) {
			buffer_append(&buf, "x", 1);
		}
		assert_false(buf.failed);
		assert_int_equal(buf.len, limits[i]);
		buffer_append(&buf, "y", 1);
		assert_true(buf.failed);
		assert_int_equal(buf.len, limits[i]);
		assert_null(buffer_reserve(&buf, 1));
		assert_null(buffer_take(&buf, &len));
		buffer_clear(&buf);
		assert_false(buf.failed);
		buffer_append(&buf, "z", 1);
		assert_int_equal(buf.len, 1);
		buffer_finish(&buf);
	}
}

static void max_in_one_step(void **state)
{
	struct buffer buf;
	(void)state;
	buffer_init(&buf, 10);
	assert_null(buffer_reserve(&buf, 11));
	assert_true(buf.failed);
	buffer_clear(&buf);
	buffer_append(&buf, "abc", 3);
	assert_null(buffer_reserve(&buf, SIZE_MAX)); /* no sum may wrap */
	assert_true(buf.failed);
	buffer_truncate(&buf, 1);
	assert_true(buf.failed); /* cutting back undoes no failure */
	buffer_finish(&buf);
	buffer_init(&buf, 0);
	assert_null(buffer_reserve(&buf, SIZE_MAX));
	assert_true(buf.failed);
	buffer_finish(&buf);
}

static void out_of_memory_sticks(void **state)
{
	struct buffer buf;
	msgpack_packer packer;
	(void)state;
	buffer_init(&buf, 0);
	buffer_append(&buf, "abc", 3);
	uint8_t *big = buffer_reserve(&buf, 200);
	assert_non_null(big);
	fail_alloc_at(1);
	assert_null(buffer_reserve(&buf, 100000));
	assert_true(buf.failed);
	assert_int_equal(buf.len, 3);
	assert_memory_equal(buf.data, "abc", 3);
	buffer_append(&buf, "d", 1);
	assert_int_equal(buf.len, 3);
	buffer_packer(&buf, &packer);
	assert_int_equal(
		msgpack_pack_int(&packer, 1), 0); /* the packer is not told: ask at the end */
	size_t at = pack_array_begin(&buf);
	pack_array_end(&buf, at, 5);
	assert_int_equal(buf.len, 3);
	assert_memory_equal(buf.data, "abc", 3);
	fail_alloc_at(0);
	buffer_finish(&buf);
}

static void integers(void **state)
{
	static const uint32_t values[] = {0, 1, 0xff, 0x100, 0x12345678, 0xffffffff};
	uint8_t bytes[4];
	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		be32_put(bytes, values[i]);
		assert_int_equal(be32_get(bytes), values[i]);
	}
	be32_put(bytes, 0x12345678);
	assert_memory_equal(bytes, "\x12\x34\x56\x78", 4);
}

static void packs(void **state)
{
	static const uint8_t want[] = {
		0xdd, 0, 0, 0, 3, 0xa2, 'a', 0, 0xa3, 'x', 'y', 'z', 0xc4, 2, 1, 2};
	struct buffer buf;
	msgpack_packer packer;
	(void)state;
	buffer_init(&buf, 0);
	buffer_packer(&buf, &packer);
	size_t at = pack_array_begin(&buf);
	pack_str(&packer, "a\0", 2);
	pack_cstr(&packer, "xyz");
	pack_bin(&packer, "\1\2", 2);
	pack_array_end(&buf, at, 3);
	assert_int_equal(buf.len, sizeof(want));
	assert_memory_equal(buf.data, want, sizeof(want));
	buffer_clear(&buf);
	pack_str(&packer, "", 0);
	pack_bin(&packer, "", 0);
	assert_int_equal(buf.len, 3);
	assert_memory_equal(buf.data, "\xa0\xc4\0", 3);
	buffer_finish(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(append_grows),
		cmocka_unit_test(reserve_counts_nothing),
		cmocka_unit_test(clear_and_truncate),
		cmocka_unit_test(cut),
		cmocka_unit_test(take_hands_over),
		cmocka_unit_test(max_is_exact),
		cmocka_unit_test(max_in_one_step),
		cmocka_unit_test(out_of_memory_sticks),
		cmocka_unit_test(integers),
		cmocka_unit_test(packs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
