/* SPDX-License-Identifier: MIT */

/*
 * Matches commits with wishes and packs the notices. What it keeps true for each watch: notices come in
 * the order of commits, and each commit that it wants to hear of is either in a `commit` or in the
 * range of a `missed`.
 */

#include "server/funnel/watch.h"

#include "proto/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { OUT_BYTES_MAX = 256 * 1024 /* unread bytes at which a watcher is a slow one */ };

struct watch {
	struct list node; /* watches::all */
	struct peer *peer;
	uint64_t id;
	uint64_t after; /* commits up to here are told, missed, or older than the watch */
	struct feed_gap missed;
	bool everything;
	size_t tables_count;
	size_t channels_count;
	const char *names[]; /* sorted: tables without regard to case, then channels */
};

static int compare_tables(const void *left, const void *right)
{
	return strcasecmp(*(const char *const *)left, *(const char *const *)right);
}

static int compare_channels(const void *left, const void *right)
{
	return strcmp(*(const char *const *)left, *(const char *const *)right);
}

void watches_init(struct watches *watches, struct feed *feed,
	void (*touch)(void *ctx, struct peer *peer), void *ctx)
{
	*watches = (struct watches){.feed = feed, .next_id = 1, .touch = touch, .ctx = ctx};
	list_init(&watches->all);
}

static void watch_free(struct watches *watches, struct watch *watch)
{
	list_remove(&watch->node);
	watches->lagging -= watch->missed.from != 0;
	feed_unsubscribe(watches->feed);
	free(watch);
}

void watches_finish(struct watches *watches)
{
	list_for_each_safe(node, &watches->all) {
		watch_free(watches, container_of(node, struct watch, node));
	}
}

static void note_missed(struct watches *watches, struct watch *watch, uint64_t from, uint64_t to)
{
	if (watch->missed.from == 0) {
		watch->missed.from = from;
		watches->lagging++;
	}
	watch->missed.to = to;
}

/* ---- wishes ---- */

static size_t count_of(const msgpack_object *names)
{
	return names != NULL ? names->via.array.size : 0;
}

static size_t bytes_of(const msgpack_object *names)
{
	size_t bytes = 0;
	for (size_t i = 0; i < count_of(names); i++) {
		bytes += names->via.array.ptr[i].via.str.size + 1;
	}
	return bytes;
}

static char *copy_names(const char **names, const msgpack_object *from, char *to)
{
	for (size_t i = 0; i < count_of(from); i++) {
		const msgpack_object_str *name = &from->via.array.ptr[i].via.str;
		memcpy(to, name->ptr, name->size);
		to[name->size] = 0;
		names[i] = to;
		to += name->size + 1;
	}
	return to;
}

static struct watch *watch_new(const struct watch_wish *wish)
{
	size_t tables = count_of(wish->tables);
	size_t channels = count_of(wish->channels);
	struct watch *watch = malloc(sizeof(*watch) + (tables + channels) * sizeof(char *) +
		bytes_of(wish->tables) + bytes_of(wish->channels));
	if (watch == NULL) {
		return NULL;
	}
	memset(watch, 0, sizeof(*watch));
	watch->tables_count = tables;
	watch->channels_count = channels;
	watch->everything = tables + channels == 0;
	char *to = copy_names(watch->names, wish->tables, (char *)&watch->names[tables + channels]);
	(void)copy_names(watch->names + tables, wish->channels, to);
	qsort(watch->names, tables, sizeof(char *), compare_tables);
	qsort(watch->names + tables, channels, sizeof(char *), compare_channels);
	return watch;
}

int watches_add(struct watches *watches, struct peer *peer, const struct watch_wish *wish,
	uint64_t *ret_id, uint64_t *ret_commit_no)
{
	size_t count = 0;
	size_t names = count_of(wish->tables) + count_of(wish->channels);
	list_for_each(node, &watches->all) {
		const struct watch *watch = container_of(node, struct watch, node);
		if (watch->peer == peer) {
			count++;
			names += watch->tables_count + watch->channels_count;
		}
	}
	if (count >= WATCHES_MAX || names > WATCH_NAMES_MAX) {
		return -EMFILE;
	}
	struct watch *watch = watch_new(wish);
	if (watch == NULL) {
		return -ENOMEM;
	}
	watch->peer = peer;
	watch->id = watches->next_id++;
	watch->after = feed_subscribe(watches->feed);
	if (wish->since && (wish->other_epoch || wish->since_commit < watch->after)) {
		note_missed(watches, watch, wish->other_epoch ? 1 : wish->since_commit + 1,
			watch->after);
	}
	list_push_back(&watches->all, &watch->node);
	*ret_id = watch->id;
	*ret_commit_no = watch->after;
	return 0;
}

bool watches_remove(struct watches *watches, const struct peer *peer, uint64_t id)
{
	list_for_each_safe(node, &watches->all) {
		struct watch *watch = container_of(node, struct watch, node);
		if (watch->peer == peer && watch->id == id) {
			watch_free(watches, watch);
			return true;
		}
	}
	return false;
}

void watches_drop(struct watches *watches, const struct peer *peer)
{
	list_for_each_safe(node, &watches->all) {
		struct watch *watch = container_of(node, struct watch, node);
		if (watch->peer == peer) {
			watch_free(watches, watch);
		}
	}
}

/* ---- telling ---- */

static bool can_take(const struct watch *watch)
{
	return watch->peer->state == PEER_OPEN && peer_out_pending(watch->peer) < OUT_BYTES_MAX;
}

/* Tells what was missed, if there is something and room for it. */
static void tell_missed(struct watches *watches, struct watch *watch)
{
	msgpack_packer packer;
	struct buffer *out = &watch->peer->out;
	if (watch->missed.from == 0 || !can_take(watch)) {
		return;
	}
	size_t mark = message_begin_notice(out, "missed");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, 3);
	pack_key_uint(&packer, "watch", watch->id);
	pack_key_uint(&packer, "from", watch->missed.from);
	pack_key_uint(&packer, "to", watch->missed.to);
	frame_end(out, mark);
	watch->missed = (struct feed_gap){0};
	watches->lagging--;
	watches->touch(watches->ctx, watch->peer);
}

void watches_begin(struct watches *watches, struct peer *peer, uint64_t id)
{
	list_for_each(node, &watches->all) {
		struct watch *watch = container_of(node, struct watch, node);
		if (watch->peer == peer && watch->id == id) {
			tell_missed(watches, watch);
		}
	}
}

static bool wants_table(const struct watch *watch, const char *name)
{
	return watch->everything ||
		bsearch(&name, watch->names, watch->tables_count, sizeof(char *), compare_tables) !=
		NULL;
}

static bool wants_channel(const struct watch *watch, const char *name)
{
	return watch->everything ||
		bsearch(&name, watch->names + watch->tables_count, watch->channels_count,
			sizeof(char *), compare_channels) != NULL;
}

/* Packs an array of the names that it wants. */
static void pack_names(struct buffer *out, const struct watch *watch,
	bool (*wants)(const struct watch *watch, const char *name), const char *const *names,
	size_t count)
{
	msgpack_packer packer;
	uint32_t packed = 0;
	size_t at = pack_array_begin(out);
	buffer_packer(out, &packer);
	for (size_t i = 0; i < count; i++) {
		if (wants(watch, names[i])) {
			pack_cstr(&packer, names[i]);
			packed++;
		}
	}
	pack_array_end(out, at, packed);
}

static void tell_commit(
	struct watches *watches, struct watch *watch, const struct feed_event *event)
{
	const struct store_changes *changes = &event->changes;
	struct buffer *out = &watch->peer->out;
	msgpack_packer packer;
	bool tables_all = changes->all && (watch->everything || watch->tables_count > 0);
	size_t mark = message_begin_notice(out, "commit");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, tables_all ? 5 : 4);
	pack_key_uint(&packer, "watch", watch->id);
	pack_key_uint(&packer, "commit", changes->commit_no);
	pack_cstr(&packer, "tables");
	/* A change of the schema changes whatever is watched, also what has just come to be. */
	bool its_own = tables_all && !watch->everything;
	pack_names(out, watch, wants_table, its_own ? watch->names : event->names,
		its_own ? watch->tables_count : changes->tables_count);
	pack_cstr(&packer, "channels");
	pack_names(out, watch, wants_channel, event->names + changes->tables_count,
		changes->channels_count);
	if (tables_all) {
		pack_key_bool(&packer, "schema", true);
	}
	frame_end(out, mark);
	watches->touch(watches->ctx, watch->peer);
}

static bool is_wanted(const struct watch *watch, const struct feed_event *event)
{
	const struct store_changes *changes = &event->changes;
	bool wanted = watch->everything || (changes->all && watch->tables_count > 0) ||
		(changes->channels_lost && watch->channels_count > 0);
	for (size_t i = 0; i < changes->tables_count && !wanted; i++) {
		wanted = wants_table(watch, event->names[i]);
	}
	for (size_t i = 0; i < changes->channels_count && !wanted; i++) {
		wanted = wants_channel(watch, event->names[changes->tables_count + i]);
	}
	return wanted;
}

static void tell(struct watches *watches, struct watch *watch, const struct feed_event *event)
{
	uint64_t commit_no = event->changes.commit_no;
	if (commit_no <= watch->after || !is_wanted(watch, event)) {
		return;
	}
	bool lost =
		event->changes.channels_lost && (watch->everything || watch->channels_count > 0);
	tell_missed(watches, watch);
	if (lost || watch->missed.from != 0 || !can_take(watch)) {
		note_missed(watches, watch, commit_no, commit_no);
		tell_missed(watches, watch);
	} else {
		tell_commit(watches, watch, event);
	}
	watch->after = commit_no;
}

void watches_collect(struct watches *watches)
{
	struct list events;
	struct feed_gap gap;
	list_init(&events);
	feed_collect(watches->feed, &events, &gap);
	list_for_each_safe(node, &events) {
		struct feed_event *event = container_of(node, struct feed_event, node);
		list_for_each(at, &watches->all) {
			tell(watches, container_of(at, struct watch, node), event);
		}
		free(event);
	}
	list_for_each(at, &watches->all) {
		struct watch *watch = container_of(at, struct watch, node);
		if (gap.from != 0 && gap.to > watch->after) {
			note_missed(watches, watch,
				gap.from > watch->after ? gap.from : watch->after + 1, gap.to);
			watch->after = gap.to;
			tell_missed(watches, watch);
		}
	}
}

void watches_catch_up(struct watches *watches)
{
	if (watches->lagging == 0) {
		return;
	}
	list_for_each(node, &watches->all) {
		tell_missed(watches, container_of(node, struct watch, node));
	}
}
