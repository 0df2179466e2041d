/* SPDX-License-Identifier: MIT */

/*
 * Collects what is written, through SQLite's preupdate hook: one call for each row, so most of the
 * work is to find out cheaply that the table is known already. Nothing is looked up in the hook; a
 * shadow table is recognised when somebody asks, or at the commit.
 */

#define SQLITE_ENABLE_PREUPDATE_HOOK 1
#include "server/store/touched.h"

#include "server/store/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, without regard to case. */
static uint64_t hash_name(const char *name, size_t len)
{
	uint64_t hash = 14695981039346656037u;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)name[i];
		hash = (hash ^ (c >= 'A' && c <= 'Z' ? c + 32u : c)) * 1099511628211u;
	}
	return hash;
}

static struct touched_table **bucket_of(struct touched *touched, const char *name, size_t len)
{
	return &touched->buckets[hash_name(name, len) % TOUCHED_BUCKETS];
}

static struct touched_table *find(struct touched *touched, const char *name, size_t len)
{
	struct touched_table *table = *bucket_of(touched, name, len);
	while (table != NULL &&
		(strlen(table->name) != len ||
			sqlite3_strnicmp(table->name, name, (int)len) != 0)) {
		table = table->next_in_bucket;
	}
	return table;
}

static struct touched_table *find_or_add(struct touched *touched, const char *name, size_t len)
{
	struct touched_table *table = find(touched, name, len);
	if (table == NULL && (table = calloc(1, sizeof(*table) + len + 1)) != NULL) {
		struct touched_table **bucket = bucket_of(touched, name, len);
		memcpy(table->name, name, len);
		table->next_in_bucket = *bucket;
		*bucket = table;
		touched->count++;
	}
	return table;
}

static bool is_internal(const char *name)
{
	return sqlite3_strnicmp(name, "_lf_", 4) == 0 || sqlite3_strnicmp(name, "sqlite_", 7) == 0;
}

static void row_changes(void *ctx, sqlite3 *handle, int action, const char *database,
	const char *name, sqlite3_int64 before, sqlite3_int64 after)
{
	struct touched *touched = ctx;
	struct touched_table *table = touched->last;
	(void)handle;
	(void)action;
	(void)before;
	(void)after;
	if (table != NULL && table->batch == touched->batch && strcmp(table->name, name) == 0) {
		return;
	}
	if (strcmp(database, "main") != 0 || is_internal(name)) {
		return;
	}
	table = find_or_add(touched, name, strlen(name));
	if (table == NULL) {
		touched->of_batch.all = true; /* no memory to be exact in */
		return;
	}
	touched->last = table;
	if (table->batch != touched->batch) {
		table->batch = touched->batch;
		table->next_in_batch = touched->of_batch.tables;
		touched->of_batch.tables = table;
	}
}

static void free_channels(struct touched_set *set)
{
	while (set->channels != NULL) {
		struct touched_channel *channel = set->channels;
		set->channels = channel->next;
		free(channel);
	}
	set->channels_count = 0;
}

static bool names_channel(const struct touched_set *set, const char *name, size_t len)
{
	for (const struct touched_channel *at = set->channels; at != NULL; at = at->next) {
		if (strlen(at->name) == len && memcmp(at->name, name, len) == 0) {
			return true;
		}
	}
	return false;
}

static void add_channel(struct touched_set *set, struct touched_channel *channel)
{
	channel->next = set->channels;
	set->channels = channel;
	set->channels_count++;
}

/* lf_notify(channel): whoever watches it is told, once, when and if the transaction commits. */
static void sql_notify(sqlite3_context *context, int count, sqlite3_value **values)
{
	struct touched *touched = sqlite3_user_data(context);
	struct touched_set *set = &touched->of_batch;
	bool text = sqlite3_value_type(values[0]) == SQLITE_TEXT; /* before it is converted */
	const char *name = (const char *)sqlite3_value_text(values[0]);
	size_t len = (size_t)sqlite3_value_bytes(values[0]);
	(void)count;
	if (!text || name == NULL || len == 0 || len > TOUCHED_CHANNEL_BYTES_MAX ||
		memchr(name, 0, len) != NULL) {
		sqlite3_result_error(context,
			"lf_notify: a channel is a text of 1 to 255 bytes without NUL", -1);
		return;
	}
	/* Somebody is to be told: so there must be a commit, also if nothing else is written. */
	touched->store->dirty = true;
	if (names_channel(set, name, len)) {
		return;
	}
	struct touched_channel *channel = malloc(sizeof(*channel) + len + 1);
	if (channel == NULL || set->channels_count >= TOUCHED_CHANNELS_MAX) {
		free(channel);
		set->channels_lost = true;
		return;
	}
	memcpy(channel->name, name, len);
	channel->name[len] = 0;
	add_channel(set, channel);
}

void touched_install(struct touched *touched, struct store *store)
{
	touched->store = store;
	(void)sqlite3_preupdate_hook(store->handle, row_changes, touched);
	(void)sqlite3_create_function(
		store->handle, "lf_notify", 1, SQLITE_UTF8, touched, sql_notify, NULL, NULL);
}

int touched_prepare(struct touched *touched)
{
	int rc = own_prepare(touched->store,
		"SELECT 1 FROM pragma_table_list(?1) WHERE schema = 'main' AND type = 'shadow'",
		&touched->is_shadow);
	return rc != SQLITE_OK
		? rc
		: own_prepare(touched->store,
			  "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE"
			  " AND " SQL_SHOWS_OTHERS,
			  &touched->shows_others);
}

void touched_uninstall(struct touched *touched)
{
	sqlite3_finalize(touched->is_shadow);
	sqlite3_finalize(touched->shows_others);
	touched->is_shadow = NULL;
	touched->shows_others = NULL;
}

static void forget_tables(struct touched *touched)
{
	for (size_t i = 0; i < TOUCHED_BUCKETS; i++) {
		while (touched->buckets[i] != NULL) {
			struct touched_table *table = touched->buckets[i];
			touched->buckets[i] = table->next_in_bucket;
			free(table);
		}
	}
	touched->count = 0;
	touched->last = NULL;
	touched->forget = false;
}

void touched_finish(struct touched *touched)
{
	touched_uninstall(touched);
	touched_rolled_back(touched);
	forget_tables(touched);
}

void touched_everything(struct touched *touched, uint64_t commit_no)
{
	touched->floor = commit_no;
	touched->newest = commit_no;
	touched->forget = true;
}

/* ---- the life of a transaction ---- */

void touched_batch_begin(struct touched *touched)
{
	free_channels(&touched->of_batch);
	touched->of_batch = (struct touched_set){0};
	touched->batch++;
}

/* Nothing points to a table now: what is known of them may be dropped or looked up anew. */
static void tidy(struct touched *touched)
{
	if (touched->count > TOUCHED_TABLES_MAX) {
		touched_everything(touched, touched->newest);
	}
	if (touched->forget) {
		forget_tables(touched);
	}
	for (size_t i = 0; touched->unlearn && i < TOUCHED_BUCKETS; i++) {
		struct touched_table *table = touched->buckets[i];
		for (; table != NULL; table = table->next_in_bucket) {
			table->owner = NULL;
			table->shows = SHOWS_UNKNOWN;
		}
	}
	touched->unlearn = false;
}

void touched_begin(struct touched *touched)
{
	touched_rolled_back(touched);
	tidy(touched);
}

void touched_batch_keep(struct touched *touched)
{
	struct touched_set *batch = &touched->of_batch;
	struct touched_set *kept = &touched->of_transaction;
	for (struct touched_table *table = batch->tables; table != NULL;
		table = table->next_in_batch) {
		if (table->transaction != touched->transaction) {
			table->transaction = touched->transaction;
			table->next_in_transaction = kept->tables;
			kept->tables = table;
		}
	}
	while (batch->channels != NULL) {
		struct touched_channel *channel = batch->channels;
		batch->channels = channel->next;
		bool known = names_channel(kept, channel->name, strlen(channel->name));
		if (known || kept->channels_count >= TOUCHED_CHANNELS_MAX) {
			kept->channels_lost |= !known;
			free(channel);
		} else {
			add_channel(kept, channel);
		}
	}
	kept->all |= batch->all;
	kept->channels_lost |= batch->channels_lost;
	touched_batch_begin(touched);
}

void touched_batch_unsay(struct touched *touched)
{
	free_channels(&touched->of_batch);
	touched->of_batch.channels_lost = false;
}

/* ---- savepoints ---- */

uint64_t touched_name(const char *savepoint)
{
	return hash_name(savepoint, strlen(savepoint));
}

void touched_savepoint(struct touched *touched, uint64_t name)
{
	touched_batch_keep(touched);
	struct touched_mark *mark = malloc(sizeof(*mark));
	if (mark != NULL) { /* without one, more is told than happened */
		*mark = (struct touched_mark){
			touched->marks, name, touched->of_transaction.channels_count};
		touched->marks = mark;
	}
}

static void drop_mark(struct touched *touched)
{
	struct touched_mark *mark = touched->marks;
	touched->marks = mark->outer;
	free(mark);
}

static bool is_marked(const struct touched *touched, uint64_t name)
{
	const struct touched_mark *mark = touched->marks;
	while (mark != NULL && mark->name != name) {
		mark = mark->outer;
	}
	return mark != NULL;
}

void touched_release(struct touched *touched, uint64_t name)
{
	for (bool found = !is_marked(touched, name); !found;) {
		found = touched->marks->name == name;
		drop_mark(touched);
	}
}

void touched_rewind(struct touched *touched, uint64_t name)
{
	struct touched_set *set = &touched->of_transaction;
	touched_batch_keep(touched);
	if (!is_marked(touched, name)) {
		return;
	}
	while (touched->marks->name != name) {
		drop_mark(touched);
	}
	while (set->channels_count > touched->marks->channels_count) {
		struct touched_channel *channel = set->channels;
		set->channels = channel->next;
		set->channels_count--;
		free(channel);
	}
}

void touched_schema(struct touched *touched)
{
	touched->of_batch.all = true;
	touched->unlearn =
		true; /* also if it is undone: something may have been learnt meanwhile */
}

/* ---- shadow tables ---- */

/* Whether a statement gives a row for that name. */
static int look_up(struct touched *touched, sqlite3_stmt *stmt, const char *name, bool *ret_found)
{
	authorizer_enter(&touched->store->authorizer, ROLE_SELF);
	sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC);
	int rc = sqlite3_step(stmt);
	*ret_found = rc == SQLITE_ROW;
	sqlite3_reset(stmt);
	sqlite3_clear_bindings(stmt);
	return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : -EIO;
}

/* The table that its changes count for. NULL: it cannot be told now. */
static struct touched_table *owner_of(struct touched *touched, struct touched_table *table)
{
	const char *underscore = strrchr(table->name, '_');
	bool shadow = false;
	if (table->owner != NULL) {
		return table->owner;
	}
	/* SQLite's rule is that its name is the virtual table's, '_', and more. */
	if (underscore != NULL && look_up(touched, touched->is_shadow, table->name, &shadow) < 0) {
		return NULL;
	}
	table->owner = shadow
		? find_or_add(touched, table->name, (size_t)(underscore - table->name))
		: table;
	return table->owner;
}

void touched_committed(struct touched *touched, uint64_t commit_no)
{
	struct touched_set *set = &touched->of_transaction;
	for (struct touched_table *table = set->tables; table != NULL;
		table = table->next_in_transaction) {
		struct touched_table *owner = owner_of(touched, table);
		table->commit_no = commit_no;
		if (owner != NULL) {
			owner->commit_no = commit_no;
		} else {
			set->all = true;
		}
	}
	if (set->all) {
		touched_everything(touched, commit_no);
	} else if (set->tables != NULL) {
		touched->newest = commit_no;
	}
}

void touched_tell(
	struct touched *touched, uint64_t commit_no, const struct store_observer *observer)
{
	struct touched_set *set = &touched->of_transaction;
	const char *channels[TOUCHED_CHANNELS_MAX];
	const char *tables[TOUCHED_TOLD_MAX];
	struct store_changes changes = {
		.commit_no = commit_no, .all = set->all, .channels_lost = set->channels_lost};
	for (struct touched_table *table = set->tables; table != NULL;
		table = table->next_in_transaction) {
		const char *name = table->owner != NULL ? table->owner->name : table->name;
		bool twice = false;
		for (size_t i = 0; i < changes.tables_count && !twice; i++) {
			twice = tables[i] == name;
		}
		if (changes.tables_count == TOUCHED_TOLD_MAX) {
			changes.all = true;
			break;
		}
		if (!twice) {
			tables[changes.tables_count++] = name;
		}
	}
	for (struct touched_channel *at = set->channels; at != NULL; at = at->next) {
		channels[changes.channels_count++] = at->name;
	}
	if (changes.all || changes.channels_lost ||
		changes.tables_count + changes.channels_count > 0) {
		observer->committed(observer->ctx, &changes, tables, channels);
	}
}

void touched_rolled_back(struct touched *touched)
{
	free_channels(&touched->of_transaction);
	while (touched->marks != NULL) {
		drop_mark(touched);
	}
	touched->of_transaction = (struct touched_set){0};
	touched->transaction++;
	touched_batch_begin(touched);
}

/* ---- asking ---- */

/* Whether a kept batch of this transaction has written to what counts for that table. */
static int in_transaction(
	struct touched *touched, const struct touched_table *wanted, bool *ret_found)
{
	*ret_found = touched->of_transaction.all;
	for (struct touched_table *table = touched->of_transaction.tables;
		table != NULL && !*ret_found; table = table->next_in_transaction) {
		struct touched_table *owner = owner_of(touched, table);
		if (owner == NULL) {
			return -EIO;
		}
		*ret_found = owner == wanted || table == wanted;
	}
	return 0;
}

int touched_when(struct touched *touched, const char *name, uint64_t *ret_commit_no)
{
	bool found = false;
	if (is_internal(name)) {
		return -ENOENT;
	}
	int rc = sqlite3_table_column_metadata(
		touched->store->handle, "main", name, NULL, NULL, NULL, NULL, NULL, NULL);
	if (rc != SQLITE_OK) {
		return (rc & 0xff) == SQLITE_ERROR ? -ENOENT : -EIO;
	}
	struct touched_table *table = find_or_add(touched, name, strlen(name));
	struct touched_table *owner = table != NULL ? owner_of(touched, table) : NULL;
	if (owner == NULL || in_transaction(touched, owner, &found) < 0) {
		return -EIO;
	}
	if (table->shows == SHOWS_UNKNOWN) {
		bool others = false;
		if (look_up(touched, touched->shows_others, table->name, &others) < 0) {
			return -EIO;
		}
		table->shows = others ? SHOWS_OTHERS : SHOWS_ITSELF;
	}
	if (table->shows == SHOWS_OTHERS) {
		*ret_commit_no = touched_any(touched); /* whichever they are */
		return 0;
	}
	*ret_commit_no = found                      ? UINT64_MAX
		: owner->commit_no > touched->floor ? owner->commit_no
						    : touched->floor;
	return 0;
}

uint64_t touched_any(const struct touched *touched)
{
	bool now = touched->of_transaction.all || touched->of_transaction.tables != NULL;
	return now ? UINT64_MAX : touched->newest;
}
