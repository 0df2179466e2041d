/* SPDX-License-Identifier: MIT */

/*
 * The life of a watch. What it keeps true: the changes of one watch are in the order of commits, and
 * between two of them nothing is left out that the daemon would have told; if something may have been,
 * a LF_CHANGE_MISSED says so. No I/O.
 */

#include "client/watch.h"

#include "client/engine.h"
#include "proto/frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void engine_watches_init(struct engine *engine)
{
	TAILQ_INIT(&engine->watches);
	TAILQ_INIT(&engine->changes);
	engine->changes_count = 0;
	engine->next_watch = 1;
}

static void watch_free(struct engine *engine, struct watch *watch)
{
	TAILQ_REMOVE(&engine->watches, watch, link);
	buffer_finish(&watch->wish);
	free(watch);
}

void engine_watches_finish(struct engine *engine)
{
	struct watch *watch;
	struct lf_change *change;
	while ((watch = TAILQ_FIRST(&engine->watches)) != NULL) {
		watch_free(engine, watch);
	}
	while ((change = TAILQ_FIRST(&engine->changes)) != NULL) {
		TAILQ_REMOVE(&engine->changes, change, link);
		lf_change_free(change);
	}
	engine->changes_count = 0;
}

int engine_watch_add(
	struct engine *engine, struct buffer *wish, unsigned wish_keys, struct watch **ret_watch)
{
	struct watch *watch = calloc(1, sizeof(*watch));
	if (watch == NULL) {
		return -ENOMEM;
	}
	watch->number = engine->next_watch++;
	watch->wish = *wish;
	watch->wish_keys = wish_keys;
	buffer_init(wish, 0);
	TAILQ_INSERT_TAIL(&engine->watches, watch, link);
	*ret_watch = watch;
	return 0;
}

struct watch *engine_watch_find(const struct engine *engine, uint64_t number)
{
	struct watch *watch;
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->number == number) {
			break;
		}
	}
	return watch;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static int ask(struct engine *engine, struct watch *watch)
{
	struct buffer *out = &engine->out;
	msgpack_packer packer;
	size_t mark = message_begin_request(out, engine->next_id, "watch");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, watch->wish_keys + (watch->begun ? 1u : 0u));
	buffer_append(out, watch->wish.data, watch->wish.len);
	if (watch->begun) {
		pack_cstr(&packer, "since");
		msgpack_pack_map(&packer, 2);
		pack_cstr(&packer, "epoch");
		pack_bin(&packer, watch->epoch, sizeof(watch->epoch));
		pack_cstr(&packer, "commit");
		msgpack_pack_uint64(&packer, watch->seen);
	}
	frame_end(out, mark);
	if (engine_packed(out, mark) != 0) {
		return -ENOMEM;
	}
	watch->id = engine->next_id++;
	watch->state = WATCH_ASKED;
	return 0;
}

int engine_watches_ask(struct engine *engine)
{
	struct watch *watch;
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->state == WATCH_WANTED && ask(engine, watch) != 0) {
			return -ENOMEM;
		}
	}
	return 0;
}

bool engine_watches_wanted(const struct engine *engine)
{
	const struct watch *watch;
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->state == WATCH_WANTED) {
			return true;
		}
	}
	return false;
}

void engine_watches_disconnected(struct engine *engine)
{
	struct watch *watch;
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->state != WATCH_REFUSED) {
			watch->state = WATCH_WANTED;
		}
	}
}

void engine_watch_remove(struct engine *engine, struct watch *watch)
{
	msgpack_packer packer;
	size_t mark = engine->out.len;
	if (watch->state == WATCH_ON) {
		/* Its answer is to nobody. Without memory it stays at the daemon, and is not heard. */
		(void)message_begin_request(&engine->out, engine->next_id++, "unwatch");
		buffer_packer(&engine->out, &packer);
		msgpack_pack_map(&packer, 1);
		pack_cstr(&packer, "watch");
		msgpack_pack_uint64(&packer, watch->remote);
		frame_end(&engine->out, mark);
		(void)engine_packed(&engine->out, mark);
	}
	watch_free(engine, watch);
}

/* ---- being told ------------------------------------------------------------------------------ */

static void gap(struct watch *watch, uint64_t from, uint64_t to)
{
	watch->gap_from = watch->gap_from != 0 ? watch->gap_from : from;
	watch->gap_to = to;
}

/* Puts a change into the list; one that does not fit widens the watch's gap instead. */
static void put(struct engine *engine, struct watch *watch, const struct lf_change *what)
{
	struct lf_change *change = NULL;
	engine->settled++; /* whoever waits has reason to look */
	if (watch->gap_from == 0 && engine->changes_count < WATCH_CHANGES_MAX) {
		change = malloc(sizeof(*change));
	}
	if (change == NULL && what->kind != LF_CHANGE_ENDED) {
		gap(watch, what->from, what->to);
	}
	if (change == NULL) {
		lf_reply_free(what->notice);
		return;
	}
	*change = *what;
	TAILQ_INSERT_TAIL(&engine->changes, change, link);
	engine->changes_count++;
}

bool engine_watch_answered(struct engine *engine, uint32_t id, struct lf_reply *reply)
{
	struct watch *watch;
	int64_t remote = 0;
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->state == WATCH_ASKED && watch->id == id) {
			break;
		}
	}
	if (watch == NULL) {
		return false;
	}
	engine->answered_here = true;
	engine->settled++;
	if (reply->outcome == LF_OK && reply->epoch != NULL &&
		lf_reply_field_int64(reply, "watch", &remote)) {
		watch->state = WATCH_ON;
		watch->remote = (uint64_t)remote;
		if (!watch->begun || memcmp(watch->epoch, reply->epoch, 16) != 0) {
			/* Of another lineage: a `missed` from its first commit on follows. */
			watch->seen = watch->begun ? 0 : reply->commit;
			memcpy(watch->epoch, reply->epoch, 16);
			watch->begun = true;
		}
	} else {
		struct lf_change ended = {.watch = watch->number, .kind = LF_CHANGE_ENDED};
		watch->state = WATCH_REFUSED;
		(void)snprintf(
			watch->why, sizeof(watch->why), "%s: %s", reply->code, reply->message);
		memcpy(ended.message, watch->why, sizeof(ended.message));
		if (watch->begun) {
			put(engine, watch, &ended);
		}
	}
	lf_reply_free(reply);
	return true;
}

static uint64_t number_of(const struct message *message, const char *key)
{
	const struct field *field = message_field(message, key);
	uint64_t value = 0;
	return field != NULL && object_uint64(field->value, &value) ? value : 0;
}

static const msgpack_object_array *names_of(const struct message *message, const char *key)
{
	const struct field *field = message_field(message, key);
	if (field == NULL || field->value->type != MSGPACK_OBJECT_ARRAY) {
		return NULL;
	}
	answer_terminate(&field->value->via.array);
	return &field->value->via.array;
}

bool engine_watch_notice(
	struct engine *engine, const struct message *message, struct lf_reply *notice)
{
	bool missed = span_equal(message->method, "missed");
	uint64_t remote = number_of(message, "watch");
	struct watch *watch;
	if (!missed && !span_equal(message->method, "commit")) {
		return false;
	}
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->state == WATCH_ON && watch->remote == remote) {
			break;
		}
	}
	uint64_t to = number_of(message, missed ? "to" : "commit");
	if (watch == NULL || to <= watch->seen) {
		lf_reply_free(notice); /* one that was ended meanwhile */
		return true;
	}
	struct lf_change change = {
		.watch = watch->number,
		.kind = missed ? LF_CHANGE_MISSED : LF_CHANGE_COMMIT,
		.from = missed ? number_of(message, "from") : to,
		.to = to,
		.tables = names_of(message, "tables"),
		.channels = names_of(message, "channels"),
		.notice = notice,
	};
	const struct field *schema = message_field(message, "schema");
	(void)(schema != NULL && object_bool(schema->value, &change.schema));
	watch->seen = to;
	put(engine, watch, &change);
	return true;
}

/* What did not fit is told as soon as there is room, before anything newer of that watch. */
static void tell_gaps(struct engine *engine)
{
	struct watch *watch;
	TAILQ_FOREACH(watch, &engine->watches, link)
	{
		if (watch->gap_from == 0) {
			continue;
		}
		struct lf_change missed = {.watch = watch->number,
			.kind = LF_CHANGE_MISSED,
			.from = watch->gap_from,
			.to = watch->gap_to};
		watch->gap_from = 0;
		put(engine, watch, &missed); /* at worst it is the gap again */
	}
}

struct lf_change *engine_take_change(struct engine *engine)
{
	struct lf_change *change = TAILQ_FIRST(&engine->changes);
	if (change == NULL) {
		tell_gaps(engine);
		change = TAILQ_FIRST(&engine->changes);
	}
	if (change != NULL) {
		TAILQ_REMOVE(&engine->changes, change, link);
		engine->changes_count--;
		tell_gaps(engine);
	}
	return change;
}

/* ---- reading a change ------------------------------------------------------------------------ */

void lf_change_free(lf_change *change)
{
	if (change != NULL) {
		lf_reply_free(change->notice);
		free(change);
	}
}

enum lf_change_kind lf_change_kind(const lf_change *change)
{
	return change->kind;
}

uint64_t lf_change_watch(const lf_change *change)
{
	return change->watch;
}

uint64_t lf_change_from(const lf_change *change)
{
	return change->from;
}

uint64_t lf_change_commit(const lf_change *change)
{
	return change->to;
}

bool lf_change_schema(const lf_change *change)
{
	return change->schema;
}

const char *lf_change_message(const lf_change *change)
{
	return change->message;
}

static const char *name_at(const msgpack_object_array *names, size_t index)
{
	struct span name;
	if (names == NULL || index >= names->size || !object_str(&names->ptr[index], &name)) {
		return NULL;
	}
	return name.len > 0 ? (const char *)name.data : "";
}

size_t lf_change_tables(const lf_change *change)
{
	return change->tables != NULL ? change->tables->size : 0;
}

const char *lf_change_table(const lf_change *change, size_t index)
{
	return name_at(change->tables, index);
}

size_t lf_change_channels(const lf_change *change)
{
	return change->channels != NULL ? change->channels->size : 0;
}

const char *lf_change_channel(const lf_change *change, size_t index)
{
	return name_at(change->channels, index);
}
