/* SPDX-License-Identifier: MIT */

/*
 * Draws batches, writes their messages, and adds up their effects. It never looks into a database:
 * it is the other side of every comparison.
 */

#include "tests/crash/history.h"

#include "proto/frame.h"
#include "proto/message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TABLES_MAX = 6, RECENT = 200, IDLE_SESSIONS = 2 };

static void *grown(void *at, size_t *cap, size_t needed, size_t size)
{
	if (needed <= *cap) {
		return at;
	}
	*cap = needed * 2 + 256;
	void *bigger = reallocarray(at, *cap, size);
	if (bigger == NULL) {
		perror("history");
		exit(2);
	}
	return bigger;
}

static struct batch *add(struct history *history, enum batch_kind kind)
{
	history->batches =
		grown(history->batches, &history->cap, history->count + 1, sizeof(struct batch));
	struct batch *batch = &history->batches[history->count];
	*batch = (struct batch){.id = (uint32_t)history->count, .kind = kind};
	history->count++;
	return batch;
}

void history_init(struct history *history)
{
	*history = (struct history){0};
	(void)add(history, BATCH_SELECT); /* nobody has the id 0 */
	(void)add(history, BATCH_SETUP);
}

void history_finish(struct history *history)
{
	free(history->batches);
	free(history->sessions);
	*history = (struct history){0};
}

void history_copy(struct history *to, const struct history *from)
{
	to->batches = grown(to->batches, &to->cap, from->count, sizeof(*to->batches));
	memcpy(to->batches, from->batches, from->count * sizeof(*to->batches));
	to->count = from->count;
	to->sessions = grown(
		to->sessions, &to->sessions_cap, from->sessions_count + 1, sizeof(*to->sessions));
	if (from->sessions_count > 0) {
		memcpy(to->sessions, from->sessions, from->sessions_count * sizeof(*to->sessions));
	}
	to->sessions_count = from->sessions_count;
	to->tables = from->tables;
}

uint32_t history_add_session(struct history *history, struct random *random)
{
	history->sessions = grown(history->sessions, &history->sessions_cap,
		history->sessions_count + 1, sizeof(*history->sessions));
	struct session *session = &history->sessions[history->sessions_count];
	*session = (struct session){.uid = 1000 + random_below(random, 3), .next_seq = 1};
	random_bytes(random, session->id, sizeof(session->id));
	return (uint32_t)history->sessions_count++;
}

/* ---- drawing ---- */

/* An earlier batch of the kinds that can be undone by another one, or 0. */
static uint32_t draw_target(const struct history *history, bool table, struct random *random)
{
	size_t first = history->count > RECENT ? history->count - RECENT : 1;
	for (unsigned tries = 0; tries < 20; tries++) {
		size_t at = first + random_below(random, (uint32_t)(history->count - first));
		const struct batch *batch = &history->batches[at];
		bool fits = table ? batch->kind == BATCH_TABLE
				  : batch->kind == BATCH_MANY || batch->kind == BATCH_LARGE;
		/* Answered already: it will not run after what removes it. */
		if (fits && batch->answered && batch->commit_no != 0 && batch->remover == 0) {
			return (uint32_t)at;
		}
	}
	return 0;
}

static enum batch_kind draw_kind(const struct batch_mix *mix, struct random *random)
{
	static const enum batch_kind good[] = {BATCH_ONE, BATCH_ONE, BATCH_ONE, BATCH_MANY,
		BATCH_MANY, BATCH_STEPS, BATCH_STEPS, BATCH_TRANSFER, BATCH_TRANSFER,
		BATCH_RETURNING, BATCH_FAMILY, BATCH_REMOVE, BATCH_REMOVE, BATCH_LARGE,
		BATCH_SELECT, BATCH_TABLE, BATCH_DROP};
	size_t count = sizeof(good) / sizeof(good[0]) - (mix->ddl ? 0 : 2);
	if (random_chance(random, mix->bad_percent)) {
		enum batch_kind kind = BATCH_LAST_STEP_FAILS +
			random_below(random, BATCH_KINDS - BATCH_LAST_STEP_FAILS);
		bool killer = kind == BATCH_OR_ROLLBACK || kind == BATCH_RAISE_ROLLBACK;
		return killer && mix->no_killers ? BATCH_LAST_STEP_FAILS : kind;
	}
	return good[random_below(random, (uint32_t)count)];
}

/* What it needs may not be there yet: then it becomes a plain one. */
static void draw_details(struct history *history, struct batch *batch, const struct batch_mix *mix,
	struct random *random)
{
	batch->parts = 1;
	switch (batch->kind) {
	case BATCH_MANY:
	case BATCH_STEPS:
	case BATCH_RETURNING:
		batch->parts = 2 + random_below(random, 5);
		batch->target = random_below(random, COUNTERS);
		break;
	case BATCH_LARGE:
		batch->parts = 1 + random_below(random, mix->large_rows);
		break;
	case BATCH_TRANSFER:
		batch->target = random_below(random, ACCOUNTS);
		break;
	case BATCH_TABLE:
		if (history->tables >= TABLES_MAX) {
			batch->kind = BATCH_ONE;
		} else {
			history->tables++;
		}
		break;
	case BATCH_REMOVE:
	case BATCH_DROP:
		batch->target = draw_target(history, batch->kind == BATCH_DROP, random);
		if (batch->target == 0) {
			batch->kind = BATCH_ONE;
		} else {
			history->batches[batch->target].remover = batch->id;
			history->tables -= batch->kind == BATCH_DROP;
		}
		break;
	default:
		break;
	}
}

/* Everything up to here has been answered for good: the client will not ask again. */
static void move_done(struct history *history, uint32_t index, const struct batch *batch)
{
	struct session *session = &history->sessions[index];
	if (batch->answered && batch->seq == session->done + 1) {
		session->done = batch->seq;
	}
}

static void draw_identity(struct history *history, struct batch *batch, const struct batch_mix *mix,
	struct random *random)
{
	if (!random_chance(random, mix->keyed_percent) || batch->kind == BATCH_ORPHAN) {
		return; /* an orphan that is asked again may find its parent */
	}
	if (random_chance(random, 25)) {
		batch->identity = IDENTITY_KEY;
		return;
	}
	uint32_t index = random_below(random, (uint32_t)history->sessions_count);
	if (index < IDLE_SESSIONS && history->count > IDLE_FROM) {
		index = IDLE_SESSIONS; /* those are never heard of again: their answers stay */
	}
	struct session *session = &history->sessions[index];
	uint64_t oldest = 0;
	size_t first = history->count > RECENT ? history->count - RECENT : 1;
	for (size_t i = first; i < history->count; i++) {
		const struct batch *other = &history->batches[i];
		if (other->identity == IDENTITY_SEQ && other->session == index && other != batch) {
			move_done(history, index, other);
			oldest = oldest == 0 && !other->answered ? other->seq : oldest;
		}
	}
	if (session->gone || (oldest != 0 && session->next_seq - oldest >= SESSION_WINDOW)) {
		batch->identity = IDENTITY_KEY;
		return;
	}
	batch->identity = IDENTITY_SEQ;
	batch->session = index;
	batch->seq = session->next_seq++;
	/* Most never say `done`: their answers must be kept for the whole window. */
	batch->done = index % 3 == 0 && random_chance(random, 50) ? session->done : 0;
	session->told = batch->done > session->told ? batch->done : session->told;
}

uint32_t history_add(struct history *history, const struct batch_mix *mix, struct random *random)
{
	enum batch_kind kind = draw_kind(mix, random);
	if (history->batches[history->count - 1].kind == BATCH_ORPHAN &&
		random_chance(random, 60)) {
		kind = BATCH_FAMILY; /* it brings the parent that the orphan should have had */
	}
	struct batch *batch = add(history, kind);
	draw_details(history, batch, mix, random);
	draw_identity(history, batch, mix, random);
	return batch->id;
}

/* ---- what is so ---- */

bool batch_succeeds(const struct batch *batch)
{
	return batch->kind < BATCH_LAST_STEP_FAILS;
}

uint32_t batch_rows(const struct batch *batch)
{
	return batch->kind == BATCH_SETUP || batch->kind == BATCH_SELECT ? 0 : batch->parts;
}

static bool committed(const struct batch *batch, uint64_t commit_no)
{
	return batch->commit_no != 0 && batch->commit_no <= commit_no;
}

static bool removed(const struct history *history, const struct batch *batch, uint64_t commit_no)
{
	return batch->remover != 0 && committed(&history->batches[batch->remover], commit_no);
}

static bool applied(const struct batch *batch, uint64_t commit_no)
{
	return committed(batch, commit_no) && batch_succeeds(batch);
}

uint32_t batch_rows_in(const struct history *history, const struct batch *batch, uint64_t commit_no)
{
	/* What is dropped of a table batch is the table: its row stays. */
	bool gone = batch->kind != BATCH_TABLE && removed(history, batch, commit_no);
	return applied(batch, commit_no) && !gone ? batch_rows(batch) : 0;
}

bool batch_may_be_expired(const struct history *history, const struct batch *batch)
{
	if (batch->identity != IDENTITY_SEQ) {
		return false;
	}
	const struct session *session = &history->sessions[batch->session];
	return batch->seq <= session->told || batch->seq + SESSION_WINDOW < session->next_seq;
}

bool batch_may_be_asked(const struct history *history, const struct batch *batch)
{
	return batch->identity != IDENTITY_NONE && !batch->gone &&
		(batch->identity != IDENTITY_SEQ || !history->sessions[batch->session].gone);
}

/* What the sessions know follows from what is left of the batches. */
static void recount_sessions(struct history *history)
{
	for (size_t i = 0; i < history->sessions_count; i++) {
		history->sessions[i].next_seq = 1;
		history->sessions[i].told = 0;
	}
	for (size_t i = 1; i < history->count; i++) {
		const struct batch *batch = &history->batches[i];
		if (batch->identity == IDENTITY_SEQ) {
			struct session *session = &history->sessions[batch->session];
			session->next_seq = batch->seq + 1;
			session->told = batch->done > session->told ? batch->done : session->told;
		}
	}
	for (size_t i = 0; i < history->sessions_count; i++) {
		history->sessions[i].done = history->sessions[i].told;
	}
}

void history_cut(struct history *history, size_t sent, uint64_t acked, uint64_t commit_no)
{
	history->count = sent < history->count ? sent : history->count;
	history->tables = 0;
	for (size_t i = 1; i < history->count; i++) {
		struct batch *batch = &history->batches[i];
		if (batch->commit_no > commit_no) {
			batch->commit_no = 0;
		}
		batch->answered =
			batch->answered && batch->commit_no != 0 && batch->commit_no <= acked;
		if (batch->remover >= history->count) {
			batch->remover = 0;
		}
		history->tables += batch->kind == BATCH_TABLE && batch->remover == 0;
	}
	recount_sessions(history);
}

static uint32_t account_to(const struct batch *batch)
{
	return (batch->target + 1 + batch->id % (ACCOUNTS - 1)) % ACCOUNTS;
}

static int64_t amount(const struct batch *batch)
{
	return 1 + batch->id % 7;
}

void history_totals(const struct history *history, uint64_t commit_no, struct totals *ret_totals)
{
	*ret_totals = (struct totals){0};
	for (unsigned i = 0; i < ACCOUNTS; i++) {
		ret_totals->accounts[i] = MONEY;
	}
	for (size_t i = 1; i < history->count; i++) {
		const struct batch *batch = &history->batches[i];
		if (!applied(batch, commit_no)) {
			continue;
		}
		if (batch->kind == BATCH_STEPS) {
			ret_totals->counters[batch->target]++;
		} else if (batch->kind == BATCH_TRANSFER) {
			ret_totals->accounts[batch->target] -= amount(batch);
			ret_totals->accounts[account_to(batch)] += amount(batch);
		}
		ret_totals->parents += batch->kind == BATCH_FAMILY;
		ret_totals->tables +=
			batch->kind == BATCH_TABLE && !removed(history, batch, commit_no);
	}
}

size_t batch_pad(const struct batch *batch, uint32_t part, uint8_t ret_pad[PAD_MAX])
{
	struct random random;
	random_seed(&random, (uint64_t)batch->id << 16 | part);
	uint32_t len = batch->kind == BATCH_LARGE ? 3000 + random_below(&random, PAD_MAX - 3000)
						  : 10 + random_below(&random, 120);
	random_bytes(&random, ret_pad, len);
	return len;
}

/* ---- messages ---- */

static const char setup_sql[] =
	"CREATE TABLE rows("
	" id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, part INTEGER NOT NULL, pad);"
	"CREATE INDEX rows_batch ON rows(batch, part);"
	"CREATE INDEX rows_pad ON rows(substr(pad, 1, 8));"
	"CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);"
	"CREATE TABLE account(id INTEGER PRIMARY KEY, money INTEGER NOT NULL CHECK (money >= 0));"
	"CREATE TABLE uniq(a INTEGER PRIMARY KEY);"
	"CREATE TABLE parent(id INTEGER PRIMARY KEY);"
	"CREATE TABLE child(id INTEGER PRIMARY KEY,"
	" parent REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED);"
	"CREATE TABLE guarded(a);"
	"CREATE TRIGGER guard BEFORE INSERT ON guarded BEGIN"
	" SELECT RAISE(ROLLBACK, 'guarded') WHERE NEW.a < 0; END;"
	"INSERT INTO uniq VALUES (1);"
	"INSERT INTO counter SELECT value, 0 FROM json_each('[0,1,2,3,4,5,6,7]');"
	"INSERT INTO account SELECT value, 1000000 FROM json_each('[0,1,2,3,4,5,6,7]');";

static const char insert_sql[] = "INSERT INTO rows(batch, part, pad) VALUES (?1, ?2, ?3)";

static void pack_row(msgpack_packer *packer, const struct batch *batch, uint32_t part)
{
	uint8_t pad[PAD_MAX];
	size_t len = batch_pad(batch, part, pad);
	msgpack_pack_array(packer, 3);
	msgpack_pack_uint32(packer, batch->id);
	msgpack_pack_uint32(packer, part);
	pack_bin(packer, pad, len);
}

static void pack_insert(msgpack_packer *packer, const struct batch *batch, uint32_t part)
{
	msgpack_pack_array(packer, 2);
	pack_cstr(packer, insert_sql);
	pack_row(packer, batch, part);
}

/* One step without params. */
__attribute__((format(printf, 2, 3))) static void pack_sql(
	msgpack_packer *packer, const char *format, ...)
{
	char sql[2048];
	va_list args;
	va_start(args, format);
	vsnprintf(sql, sizeof(sql), format, args);
	va_end(args);
	msgpack_pack_array(packer, 1);
	pack_cstr(packer, sql);
}

static void pack_many(msgpack_packer *packer, const struct batch *batch)
{
	msgpack_pack_array(packer, 3);
	pack_cstr(packer, insert_sql);
	msgpack_pack_array(packer, batch->parts);
	for (uint32_t i = 0; i < batch->parts; i++) {
		pack_row(packer, batch, i);
	}
	msgpack_pack_map(packer, 1);
	pack_key_bool(packer, "many", true);
}

static void pack_script(msgpack_packer *packer, const char *sql)
{
	msgpack_pack_array(packer, 3);
	pack_cstr(packer, sql);
	msgpack_pack_nil(packer);
	msgpack_pack_map(packer, 1);
	pack_key_bool(packer, "script", true);
}

static void pack_move(msgpack_packer *packer, uint32_t account, int64_t money)
{
	char sql[128];
	snprintf(sql, sizeof(sql), "UPDATE account SET money = money + (%lld) WHERE id = %u",
		(long long)money, account);
	msgpack_pack_array(packer, 3);
	pack_cstr(packer, sql);
	msgpack_pack_nil(packer);
	msgpack_pack_map(packer, 1);
	pack_cstr(packer, "expect");
	msgpack_pack_map(packer, 1);
	pack_key_uint(packer, "changes", 1);
}

/* Rows one by one, with room for `more` steps. */
static void pack_inserts(msgpack_packer *packer, const struct batch *batch, unsigned more)
{
	msgpack_pack_array(packer, batch->parts + more);
	for (uint32_t i = 0; i < batch->parts; i++) {
		pack_insert(packer, batch, i);
	}
}

static void pack_good(msgpack_packer *packer, const struct batch *batch)
{
	switch (batch->kind) {
	case BATCH_SETUP:
		msgpack_pack_array(packer, 1);
		pack_script(packer, setup_sql);
		break;
	case BATCH_MANY:
	case BATCH_LARGE:
		msgpack_pack_array(packer, 1);
		pack_many(packer, batch);
		break;
	case BATCH_STEPS:
		pack_inserts(packer, batch, 1);
		pack_sql(packer, "UPDATE counter SET n = n + 1 WHERE id = %u", batch->target);
		break;
	case BATCH_RETURNING:
		pack_inserts(packer, batch, 1);
		pack_sql(packer,
			"UPDATE rows SET part = part WHERE batch = %u RETURNING batch, part",
			batch->id);
		break;
	case BATCH_TRANSFER:
		msgpack_pack_array(packer, 3);
		pack_move(packer, batch->target, -amount(batch));
		pack_insert(packer, batch, 0);
		pack_move(packer, account_to(batch), amount(batch));
		break;
	case BATCH_FAMILY:
		msgpack_pack_array(packer, 3);
		pack_sql(packer, "INSERT INTO child(parent) VALUES (%u)", batch->id);
		pack_insert(packer, batch, 0);
		pack_sql(packer, "INSERT INTO parent VALUES (%u)", batch->id);
		break;
	case BATCH_REMOVE:
		msgpack_pack_array(packer, 2);
		pack_insert(packer, batch, 0);
		pack_sql(packer, "DELETE FROM rows WHERE batch = %u", batch->target);
		break;
	case BATCH_TABLE:
		msgpack_pack_array(packer, 2);
		pack_insert(packer, batch, 0);
		pack_sql(packer, "CREATE TABLE made_%u(x)", batch->id);
		break;
	case BATCH_DROP:
		msgpack_pack_array(packer, 2);
		pack_sql(packer, "DROP TABLE made_%u", batch->target);
		pack_insert(packer, batch, 0);
		break;
	case BATCH_SELECT:
		msgpack_pack_array(packer, 1);
		pack_sql(packer, "SELECT count(*) FROM uniq");
		break;
	default:
		msgpack_pack_array(packer, 1);
		pack_insert(packer, batch, 0);
		break;
	}
}

static void pack_bad(msgpack_packer *packer, const struct batch *batch)
{
	switch (batch->kind) {
	case BATCH_OR_ROLLBACK:
		pack_inserts(packer, batch, 1);
		pack_sql(packer, "INSERT OR ROLLBACK INTO uniq VALUES (1)");
		break;
	case BATCH_RAISE_ROLLBACK:
		msgpack_pack_array(packer, 1);
		pack_sql(packer, "INSERT INTO guarded VALUES (-1)");
		break;
	case BATCH_OR_FAIL:
		msgpack_pack_array(packer, 1);
		pack_sql(packer, "INSERT OR FAIL INTO uniq VALUES (%u), (1)", batch->id + 1000);
		break;
	case BATCH_ORPHAN:
		msgpack_pack_array(packer, 1);
		pack_sql(packer, "INSERT INTO child(parent) VALUES (%u)", batch->id + 1);
		break;
	case BATCH_GUARD:
		msgpack_pack_array(packer, 2);
		pack_insert(packer, batch, 0);
		pack_move(packer, 99, 1);
		break;
	default:
		pack_inserts(packer, batch, 1);
		pack_sql(packer, "INSERT INTO uniq VALUES (1)");
		break;
	}
}

void batch_message(const struct history *history, const struct batch *batch, struct buffer *out)
{
	msgpack_packer packer;
	unsigned keys = 1u + (batch->identity != IDENTITY_NONE) + (batch->done > 0);
	(void)history;
	size_t mark = message_begin_request(out, batch->id, "write");
	buffer_packer(out, &packer);
	msgpack_pack_map(&packer, keys);
	pack_cstr(&packer, "batch");
	if (batch_succeeds(batch)) {
		pack_good(&packer, batch);
	} else {
		pack_bad(&packer, batch);
	}
	if (batch->identity == IDENTITY_SEQ) {
		pack_key_uint(&packer, "seq", batch->seq);
	} else if (batch->identity == IDENTITY_KEY) {
		char key[32];
		snprintf(key, sizeof(key), "key-%u", batch->id);
		pack_key_str(&packer, "key", key);
	}
	if (batch->done > 0) {
		pack_key_uint(&packer, "done", batch->done);
	}
	frame_end(out, mark);
}
