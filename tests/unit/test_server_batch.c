/* SPDX-License-Identifier: MIT */

/* Batches as they arrive: what is decoded, what is refused and where; and all of it is copied. */

#include "proto/frame.h"
#include "proto/scan.h"
#include "server/funnel/batch.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/fail_alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- making messages: a small notation for MessagePack ---- */

/*
 * JSON's look, with x'…' for binaries, %nan and %inf for floats, and numbers as they are:
 * {"batch": [["INSERT", [1, 2.5, x'00ff']]], "seq": 7}
 */
static const char *put(struct buffer *buf, const char *at);

static const char *past(const char *at)
{
	return at + strspn(at, " \n\t,:");
}

static const char *put_container(struct buffer *buf, const char *at, char end)
{
	uint32_t count = 0;
	size_t mark = buf->len;
	uint8_t header[5] = {end == ']' ? 0xdd : 0xdf, 0, 0, 0, 0};
	buffer_append(buf, header, sizeof(header));
	for (at = past(at + 1); *at != end; at = past(at)) {
		at = put(buf, at);
		count++;
	}
	be32_put(buf->data + mark + 1, end == ']' ? count : count / 2);
	return at + 1;
}

static const char *put_bytes(struct buffer *buf, const char *at)
{
	uint8_t bytes[256];
	size_t len = 0;
	unsigned value = 0;
	msgpack_packer packer;
	buffer_packer(buf, &packer);
	for (at += 2; *at != '\''; at += 2) {
		assert_int_equal(sscanf(at, "%2x", &value), 1);
		bytes[len++] = (uint8_t)value;
	}
	pack_bin(&packer, bytes, len);
	return at + 1;
}

static const char *put_number(struct buffer *buf, const char *at)
{
	msgpack_packer packer;
	char *end = NULL;
	size_t len = strcspn(at, " ,:]}");
	buffer_packer(buf, &packer);
	if (memchr(at, '.', len) != NULL) {
		msgpack_pack_double(&packer, strtod(at, &end));
	} else if (*at == '-') {
		msgpack_pack_int64(&packer, strtoll(at, &end, 10));
	} else {
		msgpack_pack_uint64(&packer, strtoull(at, &end, 10));
	}
	assert_ptr_equal(end, at + len);
	return end;
}

static const char *put(struct buffer *buf, const char *at)
{
	static const struct {
		const char *word;
		uint8_t bytes[9];
		size_t len;
	} words[] = {
		{"nil", {0xc0}, 1}, {"true", {0xc3}, 1}, {"false", {0xc2}, 1},
		{"%nan", {0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0}, 9},
		{"%inf", {0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0}, 9},
		{"%half", {0xca, 0x3f, 0, 0, 0}, 5}, /* 0.5 as a float32 */
	};
	msgpack_packer packer;
	at = past(at);
	buffer_packer(buf, &packer);
	if (*at == '[') {
		return put_container(buf, at, ']');
	}
	if (*at == '{') {
		return put_container(buf, at, '}');
	}
	if (*at == '"') {
		size_t len = strcspn(at + 1, "\"");
		pack_str(&packer, at + 1, len);
		return at + len + 2;
	}
	if (at[0] == 'x' && at[1] == '\'') {
		return put_bytes(buf, at);
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strncmp(at, words[i].word, strlen(words[i].word)) == 0) {
			buffer_append(buf, words[i].bytes, words[i].len);
			return at + strlen(words[i].word);
		}
	}
	return put_number(buf, at);
}

/* A request's whole way: packed, parsed, decoded; then the bytes it came from are destroyed. */
static struct request *decode_bytes(
	const char *method, const void *params, size_t len, struct failure *failure)
{
	struct buffer buf;
	struct message message;
	msgpack_zone zone;
	buffer_init(&buf, 0);
	size_t mark = message_begin_request(&buf, 7, method);
	buffer_append(&buf, params, len);
	frame_end(&buf, mark);
	assert_true(msgpack_zone_init(&zone, 1024));
	int rc = message_parse(
		buf.data + FRAME_HEADER_BYTES, buf.len - FRAME_HEADER_BYTES, &zone, &message);
	if (rc != 0) {
		fail_msg("%s", message.reason);
	}
	failure_init(failure);
	struct request *request = strcmp(method, "write") == 0
		? batch_decode(&message, NULL, failure)
		: describe_decode(&message, failure);
	memset(buf.data, 0xa5, buf.len);
	msgpack_zone_destroy(&zone);
	buffer_finish(&buf);
	return request;
}

static struct request *decode(const char *method, const char *params, struct failure *failure)
{
	struct buffer buf;
	buffer_init(&buf, 0);
	(void)put(&buf, params);
	struct request *request = decode_bytes(method, buf.data, buf.len, failure);
	buffer_finish(&buf);
	return request;
}

static struct request *write_of(const char *params)
{
	struct failure failure;
	struct request *request = decode("write", params, &failure);
	if (request == NULL) {
		fail_msg("%s: %s", params, failure.message);
	}
	return request;
}

static bool is_bytes(struct bytes bytes, const char *want)
{
	return bytes.len == strlen(want) && memcmp(bytes.data, want, bytes.len) == 0;
}

/* ---- what is decoded ---- */

static void test_values(void **state)
{
	(void)state;
	struct request *request = write_of(
		"{\"batch\": [[\"INSERT\", [nil, true, false, 0, -1, 9223372036854775807, "
		"-9223372036854775808, 2.5, %half, %nan, %inf, \"text\", \"\", x'00ff', x'']]]}");
	assert_int_equal(request->kind, REQUEST_WRITE);
	assert_int_equal(request->steps_count, 1);
	const struct step *step = &request->steps[0];
	assert_true(is_bytes(step->sql, "INSERT"));
	assert_int_equal(step->runs, 1);
	assert_int_equal(step->values_per_run, 15);
	assert_null(step->names);
	const struct value *values = step->values;
	static const enum value_type types[] = {VALUE_NULL, VALUE_INTEGER, VALUE_INTEGER,
		VALUE_INTEGER, VALUE_INTEGER, VALUE_INTEGER, VALUE_INTEGER, VALUE_FLOAT,
		VALUE_FLOAT, VALUE_NULL, VALUE_FLOAT, VALUE_TEXT, VALUE_TEXT, VALUE_BLOB,
		VALUE_BLOB};
	for (size_t i = 0; i < 15; i++) {
		assert_int_equal(values[i].type, types[i]);
	}
	assert_int_equal(values[1].integer, 1);
	assert_int_equal(values[2].integer, 0);
	assert_int_equal(values[4].integer, -1);
	assert_true(values[5].integer == INT64_MAX);
	assert_true(values[6].integer == INT64_MIN);
	assert_true(values[7].real == 2.5);
	assert_true(values[8].real == 0.5);
	assert_true(isinf(values[10].real));
	assert_true(is_bytes(values[11].bytes, "text"));
	assert_int_equal(values[12].bytes.len, 0);
	assert_int_equal(values[13].bytes.len, 2);
	assert_memory_equal(values[13].bytes.data, "\x00\xff", 2);
	assert_int_equal(values[14].bytes.len, 0);
	request_free(request);
}

static void test_names_and_options(void **state)
{
	(void)state;
	struct request *request = write_of(
		"{\"batch\": [[\"a\"], [\"b\", nil], [\"c\", nil, nil], [\"d\", {\"x\": 1, \"y\": \"z\"}], "
		"[\"e\", [], {\"expect\": {\"changes\": 1, \"rows\": 0}, \"rows\": 10, \"truncate\": true}], "
		"[\"f\", nil, {\"script\": true}], [\"g\", nil, {}], [\"h\", {}], "
		"[\"i\", [5], {\"many\": false}]]}");
	assert_int_equal(request->steps_count, 9);
	for (size_t i = 0; i < 3; i++) {
		const struct step *step = &request->steps[i];
		assert_int_equal(step->values_per_run, 0);
		assert_int_equal(step->runs, 1);
		assert_int_equal(step->expect_changes, -1);
		assert_int_equal(step->expect_rows, -1);
		assert_int_equal(step->rows_max, UINT32_MAX);
		assert_false(step->many || step->truncate || step->script);
	}
	const struct step *named = &request->steps[3];
	assert_int_equal(named->values_per_run, 2);
	assert_true(is_bytes(named->names[0], "x"));
	assert_true(is_bytes(named->names[1], "y"));
	assert_int_equal(named->values[0].integer, 1);
	assert_true(is_bytes(named->values[1].bytes, "z"));
	const struct step *guarded = &request->steps[4];
	assert_int_equal(guarded->expect_changes, 1);
	assert_int_equal(guarded->expect_rows, 0);
	assert_int_equal(guarded->rows_max, 10);
	assert_true(guarded->truncate);
	assert_null(guarded->names);
	assert_true(request->steps[5].script);
	assert_int_equal(request->steps[8].values[0].integer, 5);
	/* The same text has the same hash, another one another. */
	assert_true(request->steps[0].sql_hash != request->steps[1].sql_hash);
	request_free(request);
}

static void test_many(void **state)
{
	(void)state;
	struct request *request =
		write_of("{\"batch\": [[\"a\", [[1, 2], [3, 4], [5, 6]], {\"many\": true}], "
			 "[\"b\", [], {\"many\": true}], [\"c\", [[], []], {\"many\": true}], "
			 "[\"d\", [{\"k\": 1}, {\"l\": 2}], {\"many\": true}], [\"e\", [7]]]}");
	const struct step *step = request->steps;
	assert_true(step[0].many);
	assert_int_equal(step[0].runs, 3);
	assert_int_equal(step[0].values_per_run, 2);
	for (int i = 0; i < 6; i++) {
		assert_int_equal(step[0].values[i].integer, i + 1);
	}
	assert_int_equal(step[1].runs, 0);
	assert_int_equal(step[1].values_per_run, 0);
	assert_int_equal(step[2].runs, 2);
	assert_int_equal(step[2].values_per_run, 0);
	assert_int_equal(step[3].runs, 2);
	assert_true(is_bytes(step[3].names[0], "k"));
	assert_true(is_bytes(step[3].names[1], "l"));
	assert_int_equal(step[4].values[0].integer, 7); /* what follows has its own values */
	assert_null(step[4].names);
	request_free(request);
}

static void test_identities(void **state)
{
	(void)state;
	struct request *none = write_of("{\"batch\": [[\"a\"]]}");
	assert_int_equal(none->identity.kind, IDENTITY_NONE);
	struct request *seq = write_of("{\"batch\": [[\"a\"]], \"seq\": 7, \"done\": 5}");
	assert_int_equal(seq->identity.kind, IDENTITY_SEQ);
	assert_int_equal(seq->identity.seq, 7);
	assert_int_equal(seq->identity.done, 5);
	struct request *key = write_of("{\"key\": \"the key\", \"batch\": [[\"a\"]]}");
	assert_int_equal(key->identity.kind, IDENTITY_KEY);
	assert_true(is_bytes(key->identity.key, "the key"));
	/* The hash is of the batch's bytes: no other param has a part in it. */
	assert_memory_equal(seq->identity.hash, key->identity.hash, 16);
	struct request *same = write_of("{\"seq\": 8, \"deadline_ms\": 5, \"batch\": [[\"a\"]]}");
	assert_memory_equal(seq->identity.hash, same->identity.hash, 16);
	struct request *other = write_of("{\"seq\": 8, \"batch\": [[\"b\"]]}");
	assert_memory_not_equal(seq->identity.hash, other->identity.hash, 16);
	struct request *params = write_of("{\"seq\": 8, \"batch\": [[\"a\", [1]]]}");
	assert_memory_not_equal(seq->identity.hash, params->identity.hash, 16);
	struct request *most = write_of("{\"seq\": 9223372036854775807, \"batch\": [[\"a\"]], "
					"\"done\": 18446744073709551615}");
	assert_true(most->identity.seq == INT64_MAX);
	struct request *all[] = {none, seq, key, same, other, params, most};
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		request_free(all[i]);
	}
}

/* ---- what is refused ---- */

static void test_refusals(void **state)
{
	static const struct {
		const char *params;
		int step; /* -1: none is named */
		int row;
	} cases[] = {
		{"{}", -1, -1},
		{"{\"batch\": nil}", -1, -1},
		{"{\"batch\": {}}", -1, -1},
		{"{\"batch\": []}", -1, -1},
		{"{\"batch\": \"a\"}", -1, -1},
		{"{\"batch\": [\"a\"]}", 0, -1},
		{"{\"batch\": [[\"a\"], []]}", 1, -1},
		{"{\"batch\": [[\"a\"], {}]}", 1, -1},
		{"{\"batch\": [[\"a\", nil, nil, nil]]}", 0, -1},
		{"{\"batch\": [[nil]]}", 0, -1},
		{"{\"batch\": [[x'61']]}", 0, -1},
		{"{\"batch\": [[\"\"]]}", 0, -1},
		{"{\"batch\": [[\"a\", 1]]}", 0, -1},
		{"{\"batch\": [[\"a\", \"b\"]]}", 0, -1},
		{"{\"batch\": [[\"a\", [[]]]]}", 0, -1},
		{"{\"batch\": [[\"a\", [{}]]]}", 0, -1},
		{"{\"batch\": [[\"a\", [9223372036854775808]]]}", 0, -1},
		{"{\"batch\": [[\"a\", [18446744073709551615]]]}", 0, -1},
		{"{\"batch\": [[\"a\", {1: 2}]]}", 0, -1},
		{"{\"batch\": [[\"a\", {\"x\": []}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, []]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"unknown\": true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"Expect\": {\"rows\": 1}}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {1: true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"truncate\": 1}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"truncate\": true, \"truncate\": true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"rows\": -1}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"rows\": 4294967295}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"rows\": 1.0}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": 1}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": {}}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": {\"changes\": -1}}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": {\"changes\": 1.0}}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": {\"changes\": 1, \"changes\": 1}}]]}", 0,
			-1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": {\"change\": 1}}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"expect\": {\"rows\": 18446744073709551615}}]]}", 0,
			-1},
		{"{\"batch\": [[\"a\", nil, {\"many\": true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", {}, {\"many\": true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", [1], {\"many\": true}]]}", 0, 0},
		{"{\"batch\": [[\"a\", [[1], [1, 2]], {\"many\": true}]]}", 0, 1},
		{"{\"batch\": [[\"a\", [[1], {\"x\": 1}], {\"many\": true}]]}", 0, 1},
		{"{\"batch\": [[\"a\", [[], {}], {\"many\": true}]]}", 0, 1},
		{"{\"batch\": [[\"a\", [[1], [2], [[]]], {\"many\": true}]]}", 0, 2},
		{"{\"batch\": [[\"a\", [1], {\"script\": true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"script\": true, \"many\": true}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"script\": true, \"rows\": 1}]]}", 0, -1},
		{"{\"batch\": [[\"a\", nil, {\"script\": true, \"expect\": {\"rows\": 1}}]]}", 0,
			-1},
		{"{\"batch\": [[\"a\"]], \"seq\": 1, \"key\": \"k\"}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"seq\": 0}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"seq\": -1}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"seq\": nil}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"seq\": 9223372036854775808}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"seq\": 1, \"done\": -1}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"seq\": 1, \"done\": \"x\"}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"key\": \"\"}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"key\": x'61'}", -1, -1},
		{"{\"batch\": [[\"a\"]], \"key\": 1}", -1, -1},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct failure failure;
		struct request *request = decode("write", cases[i].params, &failure);
		if (request != NULL || failure.code != FAILURE_BAD_REQUEST ||
			failure.step != cases[i].step || failure.row != cases[i].row ||
			failure.message == NULL || failure.applied != APPLIED_NO || failure.retry) {
			fail_msg("%s: %s step %d row %d %s", cases[i].params,
				request != NULL ? "decoded" : failure_code_name(failure.code),
				(int)failure.step, (int)failure.row,
				failure.message != NULL ? failure.message : "");
		}
		failure_clear(&failure);
	}
}

/* ---- limits ---- */

static struct request *one_sql(const char *sql, size_t len, struct failure *failure)
{
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 1);
	pack_cstr(&packer, "batch");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_array(&packer, 1);
	pack_str(&packer, sql, len);
	struct request *request = decode_bytes("write", buf.data, buf.len, failure);
	buffer_finish(&buf);
	return request;
}

static void test_sql_is_text(void **state)
{
	static const struct {
		const char *sql;
		size_t len;
		bool good;
	} cases[] = {
		{"x", 1, true},
		{"\xc3\xa9 \xf0\x9f\x98\x80", 7, true},
		{"a\0b", 3, false},
		{"a\0", 2, false},
		{"\xff", 1, false},
		{"\xc3", 1, false},
		{"\xed\xa0\x80", 3, false},
		{"\xc0\x80", 2, false},
		{"\xf4\x90\x80\x80", 4, false},
	};
	struct failure failure;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct request *request = one_sql(cases[i].sql, cases[i].len, &failure);
		assert_int_equal(request != NULL, cases[i].good);
		request_free(request);
		failure_clear(&failure);
	}
	char *longest = malloc(SQL_BYTES_MAX + 1);
	memset(longest, 'x', SQL_BYTES_MAX + 1);
	struct request *most = one_sql(longest, SQL_BYTES_MAX, &failure);
	assert_non_null(most);
	assert_int_equal(most->steps[0].sql.len, SQL_BYTES_MAX);
	request_free(most);
	assert_null(one_sql(longest, SQL_BYTES_MAX + 1, &failure));
	failure_clear(&failure);
	free(longest);
}

static void test_steps_and_keys_have_limits(void **state)
{
	(void)state;
	for (uint32_t steps = BATCH_STEPS_MAX; steps <= BATCH_STEPS_MAX + 1; steps++) {
		struct buffer buf;
		struct failure failure;
		msgpack_packer packer;
		buffer_init(&buf, 0);
		buffer_packer(&buf, &packer);
		msgpack_pack_map(&packer, 1);
		pack_cstr(&packer, "batch");
		msgpack_pack_array(&packer, steps);
		for (uint32_t i = 0; i < steps; i++) {
			msgpack_pack_array(&packer, 2);
			pack_cstr(&packer, "s");
			msgpack_pack_array(&packer, 1);
			msgpack_pack_uint32(&packer, i);
		}
		struct request *request = decode_bytes("write", buf.data, buf.len, &failure);
		assert_int_equal(request != NULL, steps <= BATCH_STEPS_MAX);
		if (request != NULL) {
			assert_int_equal(request->steps[steps - 1].values[0].integer, steps - 1);
			assert_true(request->bytes >= buf.len); /* what it counts in the queue */
		}
		request_free(request);
		failure_clear(&failure);
		buffer_finish(&buf);
	}
	char params[400];
	char key[258];
	memset(key, 'k', sizeof(key) - 1);
	for (size_t len = 254; len <= 257; len++) {
		struct failure failure;
		(void)snprintf(params, sizeof(params), "{\"batch\": [[\"a\"]], \"key\": \"%.*s\"}",
			(int)len, key);
		struct request *request = decode("write", params, &failure);
		assert_int_equal(request != NULL, len <= DEDUPE_KEY_BYTES_MAX);
		assert_true(request == NULL || request->identity.key.len == len);
		request_free(request);
		failure_clear(&failure);
	}
}

/* ---- describe ---- */

static void test_describe(void **state)
{
	static const char *const wrong[] = {"{}", "{\"sql\": nil}", "{\"sql\": \"\"}",
		"{\"sql\": x'61'}", "{\"sql\": 5}", "{\"sql\": [\"a\"]}", "{\"SQL\": \"a\"}"};
	struct failure failure;
	(void)state;
	struct request *request = decode("describe", "{\"sql\": \"SELECT 1\"}", &failure);
	assert_non_null(request);
	assert_int_equal(request->kind, REQUEST_DESCRIBE);
	assert_int_equal(request->steps_count, 1);
	assert_true(is_bytes(request->steps[0].sql, "SELECT 1"));
	request_free(request);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_null(decode("describe", wrong[i], &failure));
		assert_int_equal(failure.code, FAILURE_BAD_REQUEST);
		failure_clear(&failure);
	}
}

/* ---- memory ---- */

static void test_guards(void **state)
{
	(void)state;
	struct request *plain = write_of("{\"batch\": [[\"A\"]], \"seq\": 1}");
	struct request *guarded = write_of(
		"{\"batch\": [[\"A\"]], \"seq\": 1, \"if_commit\": {\"tables\": [\"t\", \"long name\"],"
		" \"at\": {\"epoch\": x'000102030405060708090a0b0c0d0e0f', \"commit\": 42}}}");
	struct request *all =
		write_of("{\"batch\": [[\"A\"]], \"seq\": 1, \"if_commit\": {\"at\":"
			 " {\"epoch\": x'000102030405060708090a0b0c0d0e0f', \"commit\": 42}}}");
	assert_null(plain->guard.epoch);
	assert_int_equal(guarded->guard.commit_no, 42);
	assert_memory_equal(guarded->guard.epoch, "\0\1\2\3", 4);
	assert_int_equal(guarded->guard.tables_count, 2);
	assert_string_equal(guarded->guard.tables[0].data, "t");
	assert_string_equal(guarded->guard.tables[1].data, "long name");
	assert_true(is_bytes(guarded->steps[0].sql, "A"));
	assert_non_null(all->guard.epoch);
	assert_int_equal(all->guard.tables_count, 0);
	/* The guard is a part of the content. */
	assert_memory_not_equal(plain->identity.hash, guarded->identity.hash, 16);
	assert_memory_not_equal(all->identity.hash, guarded->identity.hash, 16);
	request_free(plain);
	request_free(guarded);
	request_free(all);
}

static void test_no_memory(void **state)
{
	static const char params[] = "\x81\xa5"
				     "batch\x91\x92\xa1"
				     "a\x91\x01";
	struct buffer buf;
	struct message message;
	msgpack_zone zone;
	(void)state;
	buffer_init(&buf, 0);
	size_t mark = message_begin_request(&buf, 7, "write");
	buffer_append(&buf, params, sizeof(params) - 1);
	frame_end(&buf, mark);
	assert_true(msgpack_zone_init(&zone, 4096));
	assert_int_equal(message_parse(buf.data + FRAME_HEADER_BYTES, buf.len - FRAME_HEADER_BYTES,
				 &zone, &message),
		0);
	struct failure failure;
	failure_init(&failure);
	fail_alloc_at(1);
	assert_null(batch_decode(&message, NULL, &failure));
	fail_alloc_at(0);
	assert_int_equal(failure.code, FAILURE_INTERNAL);
	assert_true(failure.retry);
	assert_int_equal(failure.applied, APPLIED_NO);
	failure_clear(&failure);
	struct request *request = batch_decode(&message, NULL, &failure);
	assert_non_null(request);
	request_free(request);
	msgpack_zone_destroy(&zone);
	buffer_finish(&buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_names_and_options),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_identities),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_sql_is_text),
		cmocka_unit_test(test_steps_and_keys_have_limits),
		cmocka_unit_test(test_describe),
		cmocka_unit_test(test_guards),
		cmocka_unit_test(test_no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
