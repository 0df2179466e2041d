/* SPDX-License-Identifier: MIT */

/*
 * The public calls about leases: what each request consists of. When it is sent, and what becomes of it,
 * the engine knows. Every request gets a ticket, also one for a lease that is over, so that callers
 * look at outcomes only.
 */

#include "client/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_NODES = 32, LEASE_TABLES_MAX = 1000 };

struct lf_lease {
	struct lf_db *db;
	uint64_t id;     /* among all of this client */
	uint64_t number; /* on the wire */
	char key[BATCH_KEY_MAX + 1];
};

/* ---- submitting ------------------------------------------------------------------------------ */

static int out_of_memory(struct lf_db *db)
{
	return db_error(db, -ENOMEM, "out of memory");
}

/* Takes the pairs over. As lf_submit(). */
static int submit(struct lf_lease *lease, struct pending_spec *spec, uint64_t *ret_ticket)
{
	struct lf_db *db = lease->db;
	spec->lease = lease->id;
	spec->lease_number = lease->number;
	spec->lease_over = !engine_lease_open(&db->engine, lease->id);
	int r = spec->body->failed ? -ENOMEM
				   : engine_submit(&db->engine, db_now_ms(), spec, ret_ticket);
	buffer_finish(spec->body);
	return r == -ENOMEM ? out_of_memory(db) : r;
}

static void begin_pairs(const struct lf_lease *lease, struct buffer *body)
{
	msgpack_packer packer;
	buffer_init(body, BATCH_BYTES_MAX);
	buffer_packer(body, &packer);
	pack_key_uint(&packer, "lease", lease->number);
}

/* A request of `lease` and up to two numbers. */
static int submit_plain(struct lf_lease *lease, enum pending_kind kind, const char *method,
	uint64_t cursor, uint32_t rows, uint64_t *ret_ticket)
{
	struct buffer body;
	msgpack_packer packer;
	struct pending_spec spec = {
		.kind = kind, .method = method, .body = &body, .body_keys = 1, .nodes = 6};
	begin_pairs(lease, &body);
	buffer_packer(&body, &packer);
	if (cursor != 0) {
		pack_key_uint(&packer, "cursor", cursor);
		spec.body_keys++;
	}
	if (rows != 0) {
		pack_key_uint(&packer, "rows", rows);
		spec.body_keys++;
	}
	return submit(lease, &spec, ret_ticket);
}

static int submit_step(
	struct lf_lease *lease, const lf_batch *step, uint32_t cursor_rows, uint64_t *ret_ticket)
{
	struct buffer body;
	unsigned keys = 0;
	struct pending_spec spec = {.kind = PENDING_STEP, .method = "step", .body = &body};
	begin_pairs(lease, &body);
	int r = builder_encode_step(step, cursor_rows, &body, &keys, &spec.nodes);
	if (r != 0) {
		buffer_finish(&body);
		return db_error(lease->db, r,
			r == -EINVAL ? "a lease takes one step at a time, and a cursor none of its "
				       "options"
				     : "the step could not be built");
	}
	spec.body_keys = 1 + keys;
	spec.nodes += 2;
	spec.deadline_ms = step->deadline_ms;
	return submit(lease, &spec, ret_ticket);
}

static int submit_commit(struct lf_lease *lease, uint64_t *ret_ticket)
{
	struct buffer body;
	msgpack_packer packer;
	struct pending_spec spec = {.kind = PENDING_COMMIT,
		.method = "commit",
		.body = &body,
		.nodes = 1,
		.key = lease->key};
	buffer_init(&body, BATCH_BYTES_MAX);
	buffer_packer(&body, &packer);
	msgpack_pack_uint64(&packer, lease->number);
	int r = submit(lease, &spec, ret_ticket);
	if (r == 0) {
		engine_lease_close(&lease->db->engine, lease->id);
	}
	return r;
}

static int submit_rollback(struct lf_lease *lease, uint64_t *ret_ticket)
{
	int r = submit_plain(lease, PENDING_ROLLBACK, "rollback", 0, 0, ret_ticket);
	if (r == 0) {
		engine_lease_close(&lease->db->engine, lease->id);
	}
	return r;
}

/* ---- begin ----------------------------------------------------------------------------------- */

/*
 * Whoever does the same keyed lease again must send the same commit, whose content is the number: so it
 * is made of the key. Others count, below all of those.
 */
static uint64_t number_of_key(const char *key)
{
	uint64_t hash = UINT64_C(14695981039346656037);
	for (const char *at = key; *at != '\0'; at++) {
		hash = (hash ^ (uint8_t)*at) * UINT64_C(1099511628211);
	}
	return (hash >> 2) | UINT64_C(1) << 62;
}

static unsigned pack_at(msgpack_packer *packer, const struct lf_lease_options *options)
{
	size_t tables = 0;
	if (options->at_epoch == NULL) {
		return 0;
	}
	while (options->at_tables != NULL && options->at_tables[tables] != NULL) {
		tables++;
	}
	pack_cstr(packer, "at");
	msgpack_pack_map(packer, tables > 0 ? 3 : 2);
	pack_cstr(packer, "epoch");
	pack_bin(packer, options->at_epoch, 16);
	pack_key_uint(packer, "commit", options->at_commit);
	if (tables > 0) {
		pack_cstr(packer, "tables");
		msgpack_pack_array(packer, tables);
	}
	for (size_t i = 0; i < tables; i++) {
		pack_cstr(packer, options->at_tables[i]);
	}
	return 1;
}

static void pack_switch(msgpack_packer *packer, const char *name, enum lf_switch value)
{
	if (value != LF_AS_IS) {
		pack_cstr(packer, name);
		if (value == LF_ON) {
			msgpack_pack_true(packer);
		} else {
			msgpack_pack_false(packer);
		}
	}
}

static unsigned pack_set(msgpack_packer *packer, const struct lf_lease_options *options)
{
	unsigned switches = (options->foreign_keys != LF_AS_IS ? 1u : 0u) +
		(options->defer_foreign_keys != LF_AS_IS ? 1u : 0u) +
		(options->recursive_triggers != LF_AS_IS ? 1u : 0u);
	if (switches == 0) {
		return 0;
	}
	pack_cstr(packer, "set");
	msgpack_pack_map(packer, switches);
	pack_switch(packer, "foreign_keys", options->foreign_keys);
	pack_switch(packer, "defer_foreign_keys", options->defer_foreign_keys);
	pack_switch(packer, "recursive_triggers", options->recursive_triggers);
	return 1;
}

static unsigned pack_options(msgpack_packer *packer, const struct lf_lease_options *options)
{
	unsigned keys = pack_at(packer, options) + pack_set(packer, options);
	if (options->label != NULL) {
		pack_key_str(packer, "label", options->label);
		keys++;
	}
	if (options->request_class != NULL) {
		pack_key_str(packer, "class", options->request_class);
		keys++;
	}
	return keys;
}

/* A caller that was compiled with a shorter struct left the rest at its default. */
static bool read_options(
	const struct lf_lease_options *options, struct lf_lease_options *ret_options)
{
	*ret_options = (struct lf_lease_options)LF_LEASE_OPTIONS_INIT;
	if (options != NULL) {
		size_t size =
			options->size < sizeof(*options) ? options->size : sizeof(*ret_options);
		memcpy(ret_options, options, size);
	}
	size_t tables = 0;
	while (ret_options->at_tables != NULL && tables <= LEASE_TABLES_MAX &&
		ret_options->at_tables[tables] != NULL) {
		tables++;
	}
	return (ret_options->key == NULL || strlen(ret_options->key) <= BATCH_KEY_MAX) &&
		(ret_options->label == NULL || strlen(ret_options->label) <= ENGINE_LABEL_MAX) &&
		(ret_options->request_class == NULL ||
			builder_class_valid(ret_options->request_class)) &&
		ret_options->at_commit <= INT64_MAX && tables <= LEASE_TABLES_MAX;
}

static int submit_begin(
	struct lf_lease *lease, const struct lf_lease_options *options, uint64_t *ret_ticket)
{
	struct buffer body;
	msgpack_packer packer;
	struct pending_spec spec = {.kind = PENDING_BEGIN,
		.method = "begin",
		.body = &body,
		.nodes = OPTION_NODES + LEASE_TABLES_MAX,
		.deadline_ms = options->deadline_ms};
	begin_pairs(lease, &body);
	buffer_packer(&body, &packer);
	spec.body_keys = 1 + pack_options(&packer, options);
	int r = submit(lease, &spec, ret_ticket);
	if (r != 0) {
		engine_lease_close(&lease->db->engine, lease->id);
	}
	return r;
}

int lf_lease_submit_begin(lf_db *db, const struct lf_lease_options *options, lf_lease **ret_lease,
	uint64_t *ret_ticket)
{
	struct lf_lease_options given;
	db_enter(db);
	if (!read_options(options, &given)) {
		return db_error(db, -EINVAL,
			"lf_lease_begin: a label has at most 128 bytes, a key 255, and a class is "
			"interactive, normal or bulk");
	}
	lf_lease *lease = calloc(1, sizeof(*lease));
	if (lease == NULL) {
		return out_of_memory(db);
	}
	int r = engine_lease_new(&db->engine, &lease->id);
	if (r == 0) {
		lease->db = db;
		lease->number = lease->id;
		if (given.key != NULL && given.key[0] != '\0') {
			memcpy(lease->key, given.key, strlen(given.key) + 1);
			lease->number = number_of_key(given.key);
		}
		r = submit_begin(lease, &given, ret_ticket);
	} else {
		r = db_error(db, r, "this client has an open lease already: use another lf_db");
	}
	if (r != 0) {
		free(lease);
		return r;
	}
	*ret_lease = lease;
	return 0;
}

/* ---- waiting --------------------------------------------------------------------------------- */

/* The answer to what was submitted with that result. */
static int wait_for(struct lf_db *db, int submitted, uint64_t ticket, lf_reply **ret_reply)
{
	return submitted != 0 ? submitted : db_wait_ticket(db, ticket, ret_reply);
}

/* The same, and what it says of a cursor: 0 if there is none any more. */
static int wait_for_rows(struct lf_db *db, int submitted, uint64_t ticket, uint64_t cursor,
	uint64_t *ret_cursor, lf_reply **ret_reply)
{
	lf_reply *reply = NULL;
	int64_t more = 0;
	int64_t named = (int64_t)cursor;
	int r = wait_for(db, submitted, ticket, &reply);
	if (r == LF_OK && lf_reply_field_int64(reply, "more", &more) && more != 0) {
		(void)lf_reply_field_int64(reply, "cursor", &named);
		*ret_cursor = (uint64_t)named;
	} else if (r >= 0) {
		*ret_cursor = 0;
	}
	if (ret_reply != NULL && r >= 0) {
		*ret_reply = reply;
	} else {
		lf_reply_free(reply);
	}
	return r;
}

int lf_lease_begin(lf_db *db, const struct lf_lease_options *options, lf_lease **ret_lease,
	lf_reply **ret_reply)
{
	lf_lease *lease = NULL;
	uint64_t ticket = 0;
	int r;
	while ((r = lf_lease_submit_begin(db, options, &lease, &ticket)) == 1) {
		db_turn_and_wait(db, -1);
	}
	r = wait_for(db, r, ticket, ret_reply);
	if (r == LF_OK) {
		*ret_lease = lease;
	} else {
		lf_lease_free(lease);
	}
	return r;
}

int lf_lease_submit_step(lf_lease *lease, const lf_batch *step, uint64_t *ret_ticket)
{
	db_enter(lease->db);
	return submit_step(lease, step, 0, ret_ticket);
}

int lf_lease_step(lf_lease *lease, const lf_batch *step, lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	while ((r = lf_lease_submit_step(lease, step, &ticket)) == 1) {
		db_turn_and_wait(lease->db, -1);
	}
	return wait_for(lease->db, r, ticket, ret_reply);
}

int lf_lease_exec(lf_lease *lease, const char *sql, lf_reply **ret_reply)
{
	lf_batch *batch = lf_batch_new();
	db_enter(lease->db);
	if (batch == NULL) {
		return out_of_memory(lease->db);
	}
	lf_batch_step(batch, sql);
	int r = lf_lease_step(lease, batch, ret_reply);
	lf_batch_free(batch);
	return r;
}

int lf_lease_read(lf_lease *lease, const lf_batch *step, uint32_t rows, uint64_t *ret_cursor,
	lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	db_enter(lease->db);
	if (rows == 0) {
		return db_error(lease->db, -EINVAL, "lf_lease_read: rows is at least 1");
	}
	while ((r = submit_step(lease, step, rows, &ticket)) == 1) {
		db_turn_and_wait(lease->db, -1);
	}
	return wait_for_rows(lease->db, r, ticket, 0, ret_cursor, ret_reply);
}

int lf_lease_fetch(lf_lease *lease, uint64_t *cursor, uint32_t rows, lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	db_enter(lease->db);
	if (rows == 0 || *cursor == 0) {
		return db_error(lease->db, -EINVAL, "lf_lease_fetch: no rows, or no cursor");
	}
	while ((r = submit_plain(lease, PENDING_STEP, "fetch", *cursor, rows, &ticket)) == 1) {
		db_turn_and_wait(lease->db, -1);
	}
	return wait_for_rows(lease->db, r, ticket, *cursor, cursor, ret_reply);
}

int lf_lease_close(lf_lease *lease, uint64_t cursor, lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	db_enter(lease->db);
	if (cursor == 0) {
		return db_error(lease->db, -EINVAL, "lf_lease_close: there is no cursor");
	}
	while ((r = submit_plain(lease, PENDING_STEP, "close", cursor, 0, &ticket)) == 1) {
		db_turn_and_wait(lease->db, -1);
	}
	return wait_for(lease->db, r, ticket, ret_reply);
}

/* ---- the end --------------------------------------------------------------------------------- */

int lf_lease_submit_commit(lf_lease *lease, uint64_t *ret_ticket)
{
	db_enter(lease->db);
	return submit_commit(lease, ret_ticket);
}

int lf_lease_commit(lf_lease *lease, lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	while ((r = lf_lease_submit_commit(lease, &ticket)) == 1) {
		db_turn_and_wait(lease->db, -1);
	}
	return wait_for(lease->db, r, ticket, ret_reply);
}

int lf_lease_submit_rollback(lf_lease *lease, uint64_t *ret_ticket)
{
	db_enter(lease->db);
	return submit_rollback(lease, ret_ticket);
}

int lf_lease_rollback(lf_lease *lease, lf_reply **ret_reply)
{
	uint64_t ticket = 0;
	int r;
	while ((r = lf_lease_submit_rollback(lease, &ticket)) == 1) {
		db_turn_and_wait(lease->db, -1);
	}
	return wait_for(lease->db, r, ticket, ret_reply);
}

bool lf_lease_open(const lf_lease *lease)
{
	return !fork_mark_forked(&lease->db->mark) &&
		engine_lease_open(&lease->db->engine, lease->id);
}

void lf_lease_free(lf_lease *lease)
{
	if (lease == NULL) {
		return;
	}
	db_enter(lease->db);
	if (engine_lease_open(&lease->db->engine, lease->id)) {
		engine_lease_leave(&lease->db->engine, lease->id, lease->number);
		(void)lf_process(lease->db);
	}
	free(lease);
}
