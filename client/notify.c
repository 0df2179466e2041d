/* SPDX-License-Identifier: MIT */

/* The public calls about watching: they conduct the engine and wait. */

#include "client/client.h"

#include <errno.h>

/* Appends a key and its names, if there are any. */
static unsigned pack_names(struct buffer *wish, const char *key, const char *const *names)
{
	msgpack_packer packer;
	size_t count = 0;
	while (names != NULL && names[count] != NULL) {
		count++;
	}
	if (count == 0) {
		return 0;
	}
	buffer_packer(wish, &packer);
	pack_cstr(&packer, key);
	msgpack_pack_array(&packer, count);
	for (size_t i = 0; i < count; i++) {
		pack_cstr(&packer, names[i]);
	}
	return 1;
}

int lf_watch(lf_db *db, const char *const *tables, const char *const *channels, uint64_t *ret_watch)
{
	struct watch *watch = NULL;
	struct buffer wish;
	db_enter(db);
	buffer_init(&wish, FRAME_MAX_BEFORE_HELLO);
	unsigned keys = pack_names(&wish, "tables", tables);
	keys += pack_names(&wish, "channels", channels);
	int r = wish.failed ? -ENOMEM : engine_watch_add(&db->engine, &wish, keys, &watch);
	buffer_finish(&wish);
	if (r != 0) {
		return db_error(db, r, "out of memory, or more names than a request holds");
	}
	uint64_t until_ms = db_now_ms() + db->engine.config.deadline_ms;
	while (watch->state != WATCH_ON && watch->state != WATCH_REFUSED) {
		uint64_t now_ms = db_now_ms();
		if (now_ms >= until_ms) {
			engine_watch_remove(&db->engine, watch);
			return db_error(
				db, -ETIMEDOUT, "nobody answered in time: %s", db->engine.why);
		}
		db_turn_and_wait(db, (int)(until_ms - now_ms));
	}
	if (watch->state == WATCH_REFUSED) {
		r = db_error(db, -EACCES, "%s", watch->why);
		engine_watch_remove(&db->engine, watch);
		return r;
	}
	*ret_watch = watch->number;
	return 0;
}

int lf_unwatch(lf_db *db, uint64_t number)
{
	db_enter(db);
	struct watch *watch = engine_watch_find(&db->engine, number);
	if (watch == NULL) {
		return db_error(db, -ENOENT, "there is no such watch");
	}
	engine_watch_remove(&db->engine, watch);
	return 0;
}

int lf_next_change(lf_db *db, int timeout_ms, lf_change **ret_change)
{
	uint64_t until_ms = db_now_ms() + (timeout_ms > 0 ? (uint64_t)timeout_ms : 0);
	db_enter(db);
	*ret_change = engine_take_change(&db->engine);
	while (*ret_change == NULL && timeout_ms != 0) {
		uint64_t now_ms = db_now_ms();
		if (timeout_ms > 0 && now_ms >= until_ms) {
			break;
		}
		db_turn_and_wait(db, timeout_ms < 0 ? -1 : (int)(until_ms - now_ms));
		*ret_change = engine_take_change(&db->engine);
	}
	return *ret_change != NULL ? 0 : 1;
}
