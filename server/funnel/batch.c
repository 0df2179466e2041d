/* SPDX-License-Identifier: MIT */

/*
 * Decodes batches. Two passes over the unpacked objects: the first checks and counts, the second
 * fills one allocation that holds the steps, their values, and one copy of the bytes that both
 * point into. It touches no socket and no database.
 */

#include "server/funnel/batch.h"

#include "proto/scan.h"

#include <math.h>
#include <string.h>
#include <xxhash.h>

/* What the first pass found. */
struct sizes {
	size_t steps;
	size_t values;
	size_t names;
};

/* Where the second pass writes. */
struct filling {
	struct step *step;
	struct value *value;
	struct bytes *name;
	const uint8_t *from; /* the bytes that the objects point into … */
	uint8_t *to;         /* … and their copy */
};

static bool bad(struct failure *failure, size_t step, const char *what)
{
	failure_set(failure, FAILURE_BAD_REQUEST, "%s", what);
	failure->step = (int64_t)step;
	return false;
}

/* ---- first pass ---- */

static bool check_value(const msgpack_object *object)
{
	switch (object->type) {
	case MSGPACK_OBJECT_NIL:
	case MSGPACK_OBJECT_BOOLEAN:
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
	case MSGPACK_OBJECT_STR:
	case MSGPACK_OBJECT_BIN:
		return true;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return object->via.u64 <= INT64_MAX;
	default:
		return false;
	}
}

static bool check_row(const msgpack_object *row, size_t *ret_values, bool *ret_named)
{
	*ret_named = row->type == MSGPACK_OBJECT_MAP;
	*ret_values = *ret_named ? row->via.map.size : row->via.array.size;
	if (!*ret_named && row->type != MSGPACK_OBJECT_ARRAY) {
		return false;
	}
	for (size_t i = 0; i < *ret_values; i++) {
		struct span name;
		const msgpack_object *value =
			*ret_named ? &row->via.map.ptr[i].val : &row->via.array.ptr[i];
		if (!check_value(value) ||
			(*ret_named && !object_str(&row->via.map.ptr[i].key, &name))) {
			return false;
		}
	}
	return true;
}

static const char bad_values[] =
	"values are an array, or a map of names without prefix, of nil, bool, integers from -2^63 to "
	"2^63-1, floats, strings and binaries";

static bool check_rows(
	const msgpack_object *rows, struct sizes *sizes, size_t step, struct failure *failure)
{
	size_t first = 0;
	bool first_named = false;
	if (rows->type != MSGPACK_OBJECT_ARRAY) {
		return bad(failure, step, "with many:true the params are an array of rows");
	}
	for (uint32_t i = 0; i < rows->via.array.size; i++) {
		size_t values = 0;
		bool named = false;
		if (!check_row(&rows->via.array.ptr[i], &values, &named)) {
			bad(failure, step, bad_values);
			failure->row = i;
			return false;
		}
		if (i > 0 && (values != first || named != first_named)) {
			bad(failure, step, "a row has another number of values than the first");
			failure->row = i;
			return false;
		}
		first = values;
		first_named = named;
		sizes->values += values;
		sizes->names += named ? values : 0;
	}
	return true;
}

static bool check_sql(const msgpack_object *object, size_t step, struct failure *failure)
{
	struct span sql;
	if (!object_str(object, &sql) || sql.len == 0 || sql.len > SQL_BYTES_MAX) {
		return bad(failure, step, "the SQL of a step is a string of 1 to 1000000 bytes");
	}
	if (memchr(sql.data, 0, sql.len) != NULL || !utf8_valid(sql.data, sql.len)) {
		return bad(failure, step, "SQL is UTF-8 without NUL");
	}
	return true;
}

static bool parse_expect(const msgpack_object *object, struct step *step)
{
	if (object->type != MSGPACK_OBJECT_MAP) {
		return false;
	}
	for (uint32_t i = 0; i < object->via.map.size; i++) {
		const msgpack_object_kv *pair = &object->via.map.ptr[i];
		struct span key;
		int64_t number = 0;
		if (!object_str(&pair->key, &key) || !object_int64(&pair->val, &number) ||
			number < 0) {
			return false;
		}
		if (span_equal(key, "changes") && step->expect_changes < 0) {
			step->expect_changes = number;
		} else if (span_equal(key, "rows") && step->expect_rows < 0) {
			step->expect_rows = number;
		} else {
			return false; /* unknown, or given twice */
		}
	}
	return object->via.map.size > 0; /* an empty guard guards nothing: a mistake */
}

/* False: an option that is not known, or has a value that it cannot have. */
static bool parse_option(struct span key, const msgpack_object *value, struct step *step)
{
	uint64_t rows = 0;
	if (span_equal(key, "many")) {
		return object_bool(value, &step->many);
	}
	if (span_equal(key, "script")) {
		return object_bool(value, &step->script);
	}
	if (span_equal(key, "truncate")) {
		return object_bool(value, &step->truncate);
	}
	if (span_equal(key, "atomic")) {
		bool atomic = true;
		bool good = object_bool(value, &atomic);
		step->sliced = !atomic;
		return good;
	}
	if (span_equal(key, "expect")) {
		return parse_expect(value, step);
	}
	if (span_equal(key, "rows") && object_uint64(value, &rows) && rows < UINT32_MAX) {
		step->rows_max = (uint32_t)rows;
		step->rows_asked = true;
		return true;
	}
	if (span_equal(key, "cursor") && object_uint64(value, &rows) && rows > 0 &&
		rows < UINT32_MAX) {
		step->cursor_rows = (uint32_t)rows;
		return true;
	}
	return false;
}

/* Whether the key at `index`, a string, stands among those before it. */
static bool stands_twice(const msgpack_object *map, uint32_t index)
{
	const msgpack_object_str *key = &map->via.map.ptr[index].key.via.str;
	for (uint32_t i = 0; i < index; i++) {
		const msgpack_object_str *other = &map->via.map.ptr[i].key.via.str;
		if (other->size == key->size && memcmp(other->ptr, key->ptr, key->size) == 0) {
			return true;
		}
	}
	return false;
}

static bool parse_options(
	const msgpack_object *object, struct step *step, size_t place, struct failure *failure)
{
	*step = (struct step){
		.runs = 1, .expect_changes = -1, .expect_rows = -1, .rows_max = UINT32_MAX};
	if (object == NULL || object->type == MSGPACK_OBJECT_NIL) {
		return true;
	}
	if (object->type != MSGPACK_OBJECT_MAP) {
		return bad(failure, place, "the options of a step are a map");
	}
	for (uint32_t i = 0; i < object->via.map.size; i++) {
		struct span key;
		const msgpack_object_kv *pair = &object->via.map.ptr[i];
		if (!object_str(&pair->key, &key) || stands_twice(object, i) ||
			!parse_option(key, &pair->val, step)) {
			/* Never ignored: an option that is not understood may be a guard. */
			return bad(failure, place,
				"the options of a step are many, atomic, expect {changes, rows}, rows, "
				"truncate and script, and in a lease cursor (rows, from 1 on), each "
				"with a value of its type");
		}
	}
	return true;
}

static const msgpack_object *part(const msgpack_object *step, uint32_t index)
{
	return index < step->via.array.size ? &step->via.array.ptr[index] : NULL;
}

static bool has_params(const msgpack_object *params)
{
	return params != NULL && params->type != MSGPACK_OBJECT_NIL;
}

static bool check_step(
	const msgpack_object *object, size_t place, struct sizes *sizes, struct failure *failure)
{
	struct step options;
	if (object->type != MSGPACK_OBJECT_ARRAY || object->via.array.size < 1 ||
		object->via.array.size > 3) {
		return bad(
			failure, place, "a step is [sql], [sql, params] or [sql, params, options]");
	}
	const msgpack_object *params = part(object, 1);
	if (!check_sql(part(object, 0), place, failure) ||
		!parse_options(part(object, 2), &options, place, failure)) {
		return false;
	}
	if (options.script &&
		(options.many || has_params(params) || options.rows_max != UINT32_MAX ||
			options.expect_rows >= 0)) {
		return bad(failure, place, "a script takes no params and returns no rows");
	}
	if (options.cursor_rows > 0 &&
		(options.many || options.script || options.truncate ||
			options.expect_changes >= 0 || options.expect_rows >= 0 ||
			options.rows_max != UINT32_MAX)) {
		return bad(failure, place, "a cursor goes with no other option");
	}
	if (options.sliced &&
		(!options.many || options.truncate || options.expect_changes >= 0 ||
			options.expect_rows >= 0 || options.rows_max != UINT32_MAX)) {
		return bad(failure, place, "atomic:false goes with many:true and no other option");
	}
	if (options.many) {
		return has_params(params)
			? check_rows(params, sizes, place, failure)
			: bad(failure, place, "with many:true the params are an array of rows");
	}
	size_t values = 0;
	bool named = false;
	if (has_params(params) && !check_row(params, &values, &named)) {
		return bad(failure, place, bad_values);
	}
	sizes->values += values;
	sizes->names += named ? values : 0;
	return true;
}

static bool has_cursor(const msgpack_object *step)
{
	const msgpack_object *options = part(step, 2);
	return options != NULL && object_get(options, "cursor") != NULL;
}

/* ---- second pass ---- */

static struct bytes copied(const struct filling *filling, const void *data, size_t len)
{
	if (len == 0) {
		return (struct bytes){filling->to, 0}; /* msgpack-c leaves such a pointer stale */
	}
	return (struct bytes){filling->to + ((const uint8_t *)data - filling->from), len};
}

static struct value convert(const struct filling *filling, const msgpack_object *object)
{
	switch (object->type) {
	case MSGPACK_OBJECT_BOOLEAN:
		return (struct value){
			.type = VALUE_INTEGER, .integer = object->via.boolean ? 1 : 0};
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return (struct value){.type = VALUE_INTEGER, .integer = (int64_t)object->via.u64};
	case MSGPACK_OBJECT_NEGATIVE_INTEGER:
		return (struct value){.type = VALUE_INTEGER, .integer = object->via.i64};
	case MSGPACK_OBJECT_FLOAT32:
	case MSGPACK_OBJECT_FLOAT64:
		return isnan(object->via.f64)
			? (struct value){.type = VALUE_NULL}
			: (struct value){.type = VALUE_FLOAT, .real = object->via.f64};
	case MSGPACK_OBJECT_STR:
		return (struct value){.type = VALUE_TEXT,
			.bytes = copied(filling, object->via.str.ptr, object->via.str.size)};
	case MSGPACK_OBJECT_BIN:
		return (struct value){.type = VALUE_BLOB,
			.bytes = copied(filling, object->via.bin.ptr, object->via.bin.size)};
	default:
		return (struct value){.type = VALUE_NULL};
	}
}

static void fill_row(struct filling *filling, const msgpack_object *row)
{
	if (row->type == MSGPACK_OBJECT_MAP) {
		for (uint32_t i = 0; i < row->via.map.size; i++) {
			const msgpack_object_kv *pair = &row->via.map.ptr[i];
			*filling->name++ =
				copied(filling, pair->key.via.str.ptr, pair->key.via.str.size);
			*filling->value++ = convert(filling, &pair->val);
		}
	} else {
		for (uint32_t i = 0; i < row->via.array.size; i++) {
			*filling->value++ = convert(filling, &row->via.array.ptr[i]);
		}
	}
}

static void fill_step(struct filling *filling, const msgpack_object *object, size_t place)
{
	struct step *step = filling->step++;
	struct failure ignored = {0};
	const msgpack_object *sql = part(object, 0);
	const msgpack_object *params = part(object, 1);

	(void)parse_options(part(object, 2), step, place, &ignored); /* checked in the first pass */
	step->sql = copied(filling, sql->via.str.ptr, sql->via.str.size);
	step->sql_hash = XXH3_64bits(step->sql.data, step->sql.len);
	step->values = filling->value;
	step->names = filling->name;
	const msgpack_object *first = params;
	if (step->many) {
		step->runs = params->via.array.size;
		first = step->runs > 0 ? &params->via.array.ptr[0] : NULL;
		for (uint32_t i = 0; i < step->runs; i++) {
			fill_row(filling, &params->via.array.ptr[i]);
		}
	} else if (has_params(params)) {
		fill_row(filling, params);
	}
	size_t values = (size_t)(filling->value - step->values);
	step->values_per_run = step->runs > 0 ? (uint32_t)(values / step->runs) : 0;
	if (first == NULL || first->type != MSGPACK_OBJECT_MAP) {
		step->names = NULL;
	}
}

/* ---- guards ---- */

static bool bad_guard(struct failure *failure, const char *name)
{
	failure_set(failure, FAILURE_BAD_REQUEST,
		"%s: the snapshot is {epoch, commit} as the database or an answer gave them, and "
		"tables, if given, are 1 to 1000 names",
		name);
	return false;
}

static bool check_tables(const msgpack_object *tables, size_t *ret_bytes)
{
	if (tables->type != MSGPACK_OBJECT_ARRAY || tables->via.array.size < 1 ||
		tables->via.array.size > GUARD_TABLES_MAX) {
		return false;
	}
	for (uint32_t i = 0; i < tables->via.array.size; i++) {
		struct span name;
		if (!object_str(&tables->via.array.ptr[i], &name) || name.len == 0 ||
			memchr(name.data, 0, name.len) != NULL) {
			return false;
		}
		*ret_bytes += name.len + 1;
	}
	return true;
}

/* The keys of a map that are not understood would be guards that nobody keeps. */
static bool only_keys(const msgpack_object *map, const char *const *keys, size_t count)
{
	if (map->type != MSGPACK_OBJECT_MAP || map->via.map.size > count) {
		return false;
	}
	for (uint32_t i = 0; i < map->via.map.size; i++) {
		struct span key;
		bool known = false;
		if (!object_str(&map->via.map.ptr[i].key, &key) || stands_twice(map, i)) {
			return false;
		}
		for (size_t k = 0; k < count && !known; k++) {
			known = span_equal(key, keys[k]);
		}
		if (!known) {
			return false;
		}
	}
	return true;
}

/* What a guard says, where the message has it. */
struct guard_parts {
	const msgpack_object *snapshot; /* NULL: there is no guard */
	const msgpack_object *tables;   /* or NULL */
	size_t bytes;                   /* what a copy takes */
};

static bool check_guard(
	const struct message *message, struct guard_parts *ret_parts, struct failure *failure)
{
	static const char *const keys[] = {"tables", "at"};
	static const char *const snapshot_keys[] = {"epoch", "commit", "tables"};
	/* Of a write {tables, at: {epoch, commit}}, of a lease {epoch, commit, tables}. */
	const struct field *field = message_field(message, "if_commit");
	const struct field *at = message_field(message, "at");
	bool lease = field == NULL;
	struct span epoch;
	uint64_t commit_no = 0;
	*ret_parts = (struct guard_parts){0};
	field = lease ? at : field;
	if (field == NULL) {
		return true;
	}
	const msgpack_object *snapshot = lease ? at->value : object_get(field->value, "at");
	const msgpack_object *tables = object_get(field->value, "tables");
	const msgpack_object *lineage = snapshot != NULL ? object_get(snapshot, "epoch") : NULL;
	const msgpack_object *number = snapshot != NULL ? object_get(snapshot, "commit") : NULL;
	ret_parts->bytes = STORE_EPOCH_BYTES;
	if ((!lease && !only_keys(field->value, keys, 2)) || snapshot == NULL ||
		!only_keys(snapshot, snapshot_keys, lease ? 3 : 2) || lineage == NULL ||
		number == NULL || !object_bin(lineage, &epoch) || epoch.len != STORE_EPOCH_BYTES ||
		!object_uint64(number, &commit_no) || commit_no > INT64_MAX ||
		(tables != NULL && !check_tables(tables, &ret_parts->bytes))) {
		return bad_guard(failure, lease ? "at" : "if_commit");
	}
	if (tables != NULL) {
		ret_parts->bytes += tables->via.array.size * sizeof(struct bytes);
	}
	ret_parts->snapshot = snapshot;
	ret_parts->tables = tables;
	return true;
}

/* Copies it into `room`, which is aligned and has the bytes that check_guard() asked for. */
static void fill_guard(struct guard *guard, const struct guard_parts *parts, uint8_t *room)
{
	struct bytes *names = (struct bytes *)(void *)room;
	struct span epoch = {0};
	if (parts->snapshot == NULL) {
		return;
	}
	guard->tables = names;
	guard->tables_count = parts->tables != NULL ? parts->tables->via.array.size : 0;
	uint8_t *to = (uint8_t *)(names + guard->tables_count);
	(void)object_bin(object_get(parts->snapshot, "epoch"), &epoch);
	(void)object_uint64(object_get(parts->snapshot, "commit"), &guard->commit_no);
	memcpy(to, epoch.data, STORE_EPOCH_BYTES);
	guard->epoch = to;
	to += STORE_EPOCH_BYTES;
	for (size_t i = 0; i < guard->tables_count; i++) {
		const msgpack_object_str *name = &parts->tables->via.array.ptr[i].via.str;
		memcpy(to, name->ptr, name->size);
		to[name->size] = 0;
		names[i] = (struct bytes){to, name->size};
		to += name->size + 1;
	}
}

/* ---- identity ---- */

/* The content is the bytes of the batch, and of its guard, as they were sent. */
static void hash_content(
	struct request *request, const struct field *batch, const struct field *guard)
{
	XXH128_canonical_t canonical;
	XXH128_hash_t hash = XXH3_128bits(batch->raw.data, batch->raw.len);
	if (guard != NULL) {
		XXH128_hash_t of_guard = XXH3_128bits(guard->raw.data, guard->raw.len);
		XXH128_hash_t both[] = {hash, of_guard};
		hash = XXH3_128bits(both, sizeof(both));
	}
	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(request->identity.hash, canonical.digest, sizeof(request->identity.hash));
}

static bool decode_identity(const struct message *message, struct request *request,
	uint8_t *key_room, struct failure *failure)
{
	const struct field *seq = message_field(message, "seq");
	const struct field *key = message_field(message, "key");
	const struct field *done = message_field(message, "done");
	struct identity *identity = &request->identity;

	if (seq != NULL && key != NULL) {
		failure_set(failure, FAILURE_BAD_REQUEST, "seq and key exclude each other");
		return false;
	}
	if (done != NULL && !object_uint64(done->value, &identity->done)) {
		failure_set(failure, FAILURE_BAD_REQUEST, "done is an unsigned integer");
		return false;
	}
	if (seq != NULL) {
		if (!object_uint64(seq->value, &identity->seq) || identity->seq == 0 ||
			identity->seq > INT64_MAX) {
			failure_set(
				failure, FAILURE_BAD_REQUEST, "seq is an integer from 1 to 2^63-1");
			return false;
		}
		identity->kind = IDENTITY_SEQ;
	}
	if (key != NULL) {
		struct span text;
		if (!object_str(key->value, &text) || text.len == 0 ||
			text.len > DEDUPE_KEY_BYTES_MAX) {
			failure_set(
				failure, FAILURE_BAD_REQUEST, "key is a string of 1 to 255 bytes");
			return false;
		}
		memcpy(key_room, text.data, text.len);
		identity->key = (struct bytes){key_room, text.len};
		identity->kind = IDENTITY_KEY;
	}
	return true;
}

/* ---- whole requests ---- */

static struct request *no_memory(struct failure *failure)
{
	failure_set(failure, FAILURE_INTERNAL, "out of memory");
	failure->retry = true;
	return NULL;
}

/* How far it is stands in the database under what names the request: it must have a name. */
static bool check_sliced(const struct request *request, struct failure *failure)
{
	for (size_t i = 0; i < request->steps_count; i++) {
		if (request->steps[i].sliced &&
			(request->steps_count > 1 || request->guard.epoch != NULL ||
				request->identity.kind == IDENTITY_NONE)) {
			return bad(failure, i,
				"atomic:false is for a batch of one step, with seq or key and without "
				"if_commit");
		}
	}
	return true;
}

struct request *batch_decode(
	const struct message *message, struct request_shelf *shelf, struct failure *failure)
{
	const struct field *batch = message_field(message, "batch");
	struct sizes sizes = {0};
	if (batch == NULL || batch->value->type != MSGPACK_OBJECT_ARRAY ||
		batch->value->via.array.size == 0 ||
		batch->value->via.array.size > BATCH_STEPS_MAX) {
		failure_set(failure, FAILURE_BAD_REQUEST, "batch is an array of 1 to 10000 steps");
		return NULL;
	}
	const msgpack_object *objects = batch->value->via.array.ptr;
	sizes.steps = batch->value->via.array.size;
	for (size_t i = 0; i < sizes.steps; i++) {
		if (!check_step(&objects[i], i, &sizes, failure)) {
			return NULL;
		}
		if (has_cursor(&objects[i])) {
			(void)bad(failure, i, "a cursor needs a lease");
			return NULL;
		}
	}

	struct guard_parts guard;
	if (!check_guard(message, &guard, failure)) {
		return NULL;
	}

	size_t guard_room = (guard.bytes + 15) & ~(size_t)15;
	size_t extra = guard_room + sizes.steps * sizeof(struct step) +
		sizes.values * sizeof(struct value) + sizes.names * sizeof(struct bytes) +
		batch->raw.len + DEDUPE_KEY_BYTES_MAX;
	void *room = NULL;
	struct request *request = request_from(shelf, REQUEST_WRITE, extra, &room);
	if (request == NULL) {
		return no_memory(failure);
	}
	fill_guard(&request->guard, &guard, room);
	struct filling filling = {.step = (struct step *)(void *)((uint8_t *)room + guard_room),
		.from = batch->raw.data};
	filling.value = (struct value *)(void *)(filling.step + sizes.steps);
	filling.name = (struct bytes *)(void *)(filling.value + sizes.values);
	filling.to = (uint8_t *)(filling.name + sizes.names);
	memcpy(filling.to, batch->raw.data, batch->raw.len);
	if (!decode_identity(message, request, filling.to + batch->raw.len, failure)) {
		request_free(request);
		return NULL;
	}
	if (request->identity.kind != IDENTITY_NONE) {
		hash_content(request, batch, message_field(message, "if_commit"));
	}
	request->steps = filling.step;
	request->steps_count = sizes.steps;
	for (size_t i = 0; i < sizes.steps; i++) {
		fill_step(&filling, &objects[i], i);
	}
	if (!check_sliced(request, failure)) {
		request_free(request);
		return NULL;
	}
	return request;
}

struct request *describe_decode(const struct message *message, struct failure *failure)
{
	const struct field *sql = message_field(message, "sql");
	void *room = NULL;
	if (sql == NULL || !check_sql(sql->value, 0, failure)) {
		failure_set(failure, FAILURE_BAD_REQUEST, "sql is a string of UTF-8 without NUL");
		return NULL;
	}
	size_t len = sql->value->via.str.size;
	struct request *request = request_new(REQUEST_DESCRIBE, sizeof(struct step) + len, &room);
	if (request == NULL) {
		return no_memory(failure);
	}
	uint8_t *text = (uint8_t *)room + sizeof(struct step);
	memcpy(text, sql->value->via.str.ptr, len);
	request->steps = room;
	request->steps_count = 1;
	*request->steps = (struct step){.sql = {text, len}};
	return request;
}

struct request *statement_decode(
	const struct message *message, size_t extra, void **ret_extra, struct failure *failure)
{
	const struct field *sql = message_field(message, "sql");
	const struct field *params = message_field(message, "params");
	const msgpack_object nothing = {.type = MSGPACK_OBJECT_NIL};
	struct sizes sizes = {0};
	if (sql == NULL) {
		failure_set(failure, FAILURE_BAD_REQUEST, "sql is missing");
		return NULL;
	}
	msgpack_object parts[2] = {*sql->value, params != NULL ? *params->value : nothing};
	msgpack_object step = {.type = MSGPACK_OBJECT_ARRAY, .via.array = {2, parts}};
	if (!check_step(&step, 0, &sizes, failure)) {
		failure->step = -1;
		return NULL;
	}
	/* Both lie in one frame: copied with whatever stands between them. */
	struct span first = sql->raw;
	struct span last = params != NULL ? params->raw : sql->raw;
	const uint8_t *from = first.data < last.data ? first.data : last.data;
	const uint8_t *first_end = first.data + first.len;
	const uint8_t *last_end = last.data + last.len;
	size_t bytes = (size_t)((first_end > last_end ? first_end : last_end) - from);

	size_t room_bytes = (extra + 15) & ~(size_t)15;
	void *room = NULL;
	struct request *request = request_new(REQUEST_TASK,
		room_bytes + sizeof(struct step) + sizes.values * sizeof(struct value) +
			sizes.names * sizeof(struct bytes) + bytes,
		&room);
	if (request == NULL) {
		return no_memory(failure);
	}
	*ret_extra = room;
	struct filling filling = {.step = (void *)((uint8_t *)room + room_bytes), .from = from};
	filling.value = (struct value *)(void *)(filling.step + 1);
	filling.name = (struct bytes *)(void *)(filling.value + sizes.values);
	filling.to = (uint8_t *)(filling.name + sizes.names);
	memcpy(filling.to, from, bytes);
	request->steps = filling.step;
	request->steps_count = 1;
	fill_step(&filling, &step, 0);
	hash_content(request, sql, params);
	return request;
}

/* ---- leases ---- */

struct request *begin_decode(const struct message *message, struct failure *failure)
{
	struct guard_parts guard;
	void *room = NULL;
	if (!check_guard(message, &guard, failure)) {
		return NULL;
	}
	struct request *request = request_new(REQUEST_LEASE, guard.bytes, &room);
	if (request == NULL) {
		return no_memory(failure);
	}
	fill_guard(&request->guard, &guard, room);
	return request;
}

/* The bytes that hold all of these; whatever lies between them is copied, too. */
static struct span span_of(const struct field *const *fields, size_t count)
{
	const uint8_t *from = NULL;
	const uint8_t *to = NULL;
	for (size_t i = 0; i < count; i++) {
		if (fields[i] == NULL) {
			continue;
		}
		const uint8_t *end = fields[i]->raw.data + fields[i]->raw.len;
		from = from == NULL || fields[i]->raw.data < from ? fields[i]->raw.data : from;
		to = to == NULL || end > to ? end : to;
	}
	return (struct span){from, (size_t)(to - from)};
}

struct request *step_decode(const struct message *message, struct failure *failure)
{
	const struct field *fields[] = {message_field(message, "sql"),
		message_field(message, "params"), message_field(message, "opts")};
	msgpack_object parts[3] = {{.type = MSGPACK_OBJECT_NIL}, {.type = MSGPACK_OBJECT_NIL},
		{.type = MSGPACK_OBJECT_NIL}};
	msgpack_object step = {
		.type = MSGPACK_OBJECT_ARRAY, .via.array = {.size = 3, .ptr = parts}};
	struct sizes sizes = {.steps = 1};
	void *room = NULL;
	for (size_t i = 0; i < 3; i++) {
		parts[i] = fields[i] != NULL ? *fields[i]->value : parts[i];
	}
	if (!check_step(&step, 0, &sizes, failure)) {
		failure->step = -1;
		return NULL;
	}
	struct span raw = span_of(fields, 3);
	size_t extra = sizeof(struct step) + sizes.values * sizeof(struct value) +
		sizes.names * sizeof(struct bytes) + raw.len;
	struct request *request = request_new(REQUEST_LEASE, extra, &room);
	if (request == NULL) {
		return no_memory(failure);
	}
	struct filling filling = {.step = room, .from = raw.data};
	filling.value = (struct value *)(void *)(filling.step + 1);
	filling.name = (struct bytes *)(void *)(filling.value + sizes.values);
	filling.to = (uint8_t *)(filling.name + sizes.names);
	memcpy(filling.to, raw.data, raw.len);
	request->steps = filling.step;
	request->steps_count = 1;
	request->lease.op = LEASE_OP_STEP;
	fill_step(&filling, &step, 0);
	if (request->steps->sliced) {
		failure_set(failure, FAILURE_BAD_REQUEST,
			"atomic:false: all of a lease is applied together");
		request_free(request);
		return NULL;
	}
	return request;
}

struct request *commit_decode(
	const struct message *message, uint64_t lease, struct failure *failure)
{
	static const char what[] = "commit of a lease";
	void *room = NULL;
	struct request *request = request_new(REQUEST_LEASE, DEDUPE_KEY_BYTES_MAX, &room);
	if (request == NULL) {
		return no_memory(failure);
	}
	request->lease.op = LEASE_OP_COMMIT;
	if (!decode_identity(message, request, room, failure)) {
		request_free(request);
		return NULL;
	}
	XXH128_canonical_t canonical;
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_withSeed(what, sizeof(what), lease));
	memcpy(request->identity.hash, canonical.digest, sizeof(request->identity.hash));
	return request;
}
