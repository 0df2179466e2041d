/* SPDX-License-Identifier: MIT */

/*
 * Facts as tables: columns, and rows of text and numbers. Column names are an interface: programs
 * read them, so they are added to and never changed.
 */

#include "server/admin/show.h"

#include "server/base/clock.h"
#include "server/store/store.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A table that is being packed. */
struct table {
	struct buffer *out;
	msgpack_packer packer;
	uint32_t rows;
	const char *like; /* a pattern for the first column, or NULL */
	bool admin;       /* may see other clients' SQL */
};

static void word(struct table *table, const char *value)
{
	pack_cstr(&table->packer, value);
}

static void number(struct table *table, uint64_t value)
{
	msgpack_pack_uint64(&table->packer, value);
}

static bool wanted(const struct table *table, const char *name)
{
	return table->like == NULL || fnmatch(table->like, name, 0) == 0;
}

static void row(struct table *table, unsigned columns)
{
	msgpack_pack_array(&table->packer, columns);
	table->rows++;
}

/* ---- clients ---- */

static const char *const clients_columns[] = {"pid", "uid", "user", "client", "label", "role",
	"class", "state", "in_flight", "requests", "out_bytes", "age_s"};

static void client_row(void *ctx, const struct peer *peer)
{
	static const char *const states[] = {"greeting", "open", "closing", "closed"};
	struct table *table = ctx;
	if (!wanted(table, peer->client)) {
		return;
	}
	row(table, sizeof(clients_columns) / sizeof(clients_columns[0]));
	number(table, (uint64_t)peer->credentials->pid);
	number(table, peer->credentials->uid);
	word(table, peer->credentials->text);
	word(table, peer->client);
	word(table, peer->label);
	word(table, role_name(peer->credentials->role));
	word(table, request_class_name(peer->class));
	word(table, states[peer->state]);
	number(table, peer->in_flight_count);
	number(table, peer->requests);
	number(table, peer_out_pending(peer));
	number(table, (clock_now_us() - peer->connected_us) / 1000000);
}

static void show_clients(struct funnel *funnel, struct table *table)
{
	funnel_each_peer(funnel, client_row, table);
}

/* ---- queue ---- */

static const char *const queue_columns[] = {"class", "waiting"};

static void show_queue(struct funnel *funnel, struct table *table)
{
	struct queue_facts facts = funnel_facts(funnel).queue;
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		const char *name = request_class_name((enum request_class)i);
		if (wanted(table, name)) {
			row(table, 2);
			word(table, name);
			number(table, facts.classes[i].waiting);
		}
	}
}

/* ---- chunks ---- */

static const char *const chunks_columns[] = {"name", "uid", "state", "rows", "of", "changes",
	"slices", "rows_per_s", "eta_s", "limit", "slice_ms", "longest_us", "busy_us", "table",
	"key", "commit", "started_at", "ended_at", "error", "sql"};

static void chunk_row(void *ctx, const struct chunk_view *view)
{
	struct table *table = ctx;
	const struct chunk_facts *facts = &view->facts;
	if (!wanted(table, facts->name)) {
		return;
	}
	row(table, sizeof(chunks_columns) / sizeof(chunks_columns[0]));
	word(table, facts->name);
	number(table, facts->uid);
	word(table, chunk_state_name(facts->state));
	number(table, facts->rows);
	number(table, facts->of);
	number(table, facts->changes);
	number(table, facts->slices);
	number(table, view->rows_per_s);
	number(table, view->eta_ms / 1000);
	number(table, facts->rate);
	number(table, facts->slice_us / 1000);
	number(table, facts->longest_us);
	number(table, facts->busy_us);
	word(table, facts->table);
	word(table, facts->key);
	number(table, facts->commit_no);
	number(table, facts->started_s);
	number(table, facts->ended_s);
	if (table->admin) {
		word(table, facts->error);
		word(table, facts->sql);
	} else {
		msgpack_pack_nil(&table->packer);
		msgpack_pack_nil(&table->packer);
	}
}

static void show_chunks(struct funnel *funnel, struct table *table)
{
	funnel_each_chunk(funnel, chunk_row, table);
}

/* ---- config ---- */

static const char *const config_columns[] = {
	"name", "value", "default", "source", "reloads", "help"};

static void show_config(struct funnel *funnel, struct table *table)
{
	const struct config *config = funnel_config(funnel);
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		if (wanted(table, settings[i].name)) {
			row(table, sizeof(config_columns) / sizeof(config_columns[0]));
			word(table, settings[i].name);
			word(table, config->values[i].text);
			word(table, settings[i].fallback);
			word(table, setting_source_name(config->values[i].source));
			number(table, settings[i].reloads);
			word(table, settings[i].help);
		}
	}
}

/* ---- stats ---- */

static const char *const stats_columns[] = {"name", "value"};

static void fact_uint(struct table *table, const char *name, uint64_t value)
{
	if (wanted(table, name)) {
		row(table, 2);
		word(table, name);
		number(table, value);
	}
}

static void fact_text(struct table *table, const char *name, const char *value)
{
	if (wanted(table, name)) {
		row(table, 2);
		word(table, name);
		word(table, value);
	}
}

static uint64_t wal_bytes(const char *db)
{
	char path[4096];
	struct stat status;
	snprintf(path, sizeof(path), "%s-wal", db);
	return stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void show_stats(struct funnel *funnel, struct table *table)
{
	struct funnel_facts facts = funnel_facts(funnel);
	char epoch[2 * STORE_EPOCH_BYTES + 1];
	uint64_t now_us = clock_now_us();
	for (size_t i = 0; i < STORE_EPOCH_BYTES; i++) {
		snprintf(epoch + 2 * i, 3, "%02x", facts.epoch[i]);
	}
	fact_text(table, "state", funnel_state_name(facts.state));
	fact_text(table, "version", LITEFUNNEL_VERSION);
	fact_text(table, "sqlite", store_engine_version());
	fact_text(table, "db", facts.db);
	fact_text(table, "socket", facts.socket);
	fact_text(table, "sync", facts.sync_full ? "full" : "normal");
	fact_text(table, "encoding", facts.encoding);
	fact_text(table, "epoch", epoch);
	fact_uint(table, "pid", (uint64_t)getpid());
	fact_uint(table, "page_size", facts.page_size);
	fact_uint(table, "commit", facts.writer.commit_no);
	fact_uint(table, "uptime_s", (now_us - facts.started_us) / 1000000);
	fact_uint(table, "started_at", facts.started_wall_us / 1000000);
	fact_uint(table, "clients", facts.peers);
	fact_uint(table, "connections_total", facts.connections);
	fact_uint(table, "connections_refused_total", facts.refused);
	fact_uint(table, "queue_batches", facts.queue.count);
	fact_uint(table, "queue_bytes", facts.queue.bytes);
	fact_uint(table, "running_batches", facts.queue.taken);
	fact_uint(table, "longest_wait_us",
		facts.queue.oldest_us != 0 ? now_us - facts.queue.oldest_us : 0);
	fact_uint(table, "batches_total", facts.writer.batches);
	fact_uint(table, "batches_failed_total", facts.writer.failed);
	fact_uint(table, "commits_total", facts.writer.commits);
	fact_uint(table, "replays_total", facts.writer.replays);
	fact_uint(table, "exec_us_total", facts.writer.exec_us);
	fact_uint(table, "commit_us_total", facts.writer.commit_us);
	fact_uint(table, "group_batches_max", facts.writer.group_max);
	fact_uint(table, "busy_total", facts.writer.busy);
	fact_uint(table, "sessions", facts.dedupe.sessions);
	fact_uint(table, "session_replies", facts.dedupe.replies);
	fact_uint(table, "keys", facts.dedupe.keys);
	fact_uint(table, "repeats_total", facts.dedupe.repeats);
	fact_uint(table, "wal_frames", facts.writer.checkpoint.wal_frames);
	fact_uint(table, "wal_bytes", wal_bytes(facts.db));
	fact_uint(table, "wal_backfilled", facts.writer.checkpoint.backfilled);
	fact_uint(table, "checkpoints_total", facts.writer.checkpoint.checkpoints);
	fact_uint(table, "checkpoint_restarts_total", facts.writer.checkpoint.restarts);
	fact_uint(table, "checkpoints_pinned_total", facts.writer.checkpoint.pinned);
	fact_uint(table, "wal_large", facts.writer.lookout.wal_large);
	fact_uint(table, "disk_low", facts.writer.lookout.disk_low);
	fact_uint(table, "disk_low_total", facts.writer.lookout.disk_low_total);
	fact_uint(table, "disk_free_bytes", facts.writer.lookout.disk_free);
	fact_uint(table, "disk_floor_bytes", facts.writer.lookout.disk_floor);
	fact_uint(table, "reserve_bytes", facts.writer.lookout.reserve);
	fact_text(table, "trouble", facts.writer.lookout.trouble);
	if (facts.board != NULL) {
		struct ship_report report = board_ship_report(facts.board);
		fact_uint(table, "ship_spooled_commit", report.spooled_commit);
		fact_uint(table, "ship_segment", report.segments);
		fact_uint(table, "ship_spool_bytes", report.spool_bytes);
		fact_text(table, "ship_trouble", report.trouble);
		fact_uint(table, "gate_waits", facts.gate.waits);
		fact_uint(table, "gate_waited_us", facts.gate.waited_us);
		fact_uint(table, "gate_waited_us_max", facts.gate.waited_max_us);
		fact_uint(table, "gate_skipped", facts.gate.skipped);
		fact_uint(table, "gate_breaks", facts.gate.breaks);
	}
}

/* ---- the tables ---- */

#define COLUMNS(list) list, sizeof(list) / sizeof((list)[0])

/* ---- replicas ---- */

static const char *const replicas_columns[] = {"url", "state", "acks", "commit", "behind", "lag_ms",
	"segment", "waiting", "percent", "requests", "bytes_sent", "failing_s", "error"};

/* How long ago the oldest commit was made that the replica does not have. */
static uint64_t lag_ms(
	const struct replica_report *report, const struct ship_report *ship, uint64_t now_ms)
{
	int64_t since_ms =
		report->waiting_since_ms != 0 ? report->waiting_since_ms : ship->uncut_since_ms;
	return since_ms != 0 && now_ms > (uint64_t)since_ms ? now_ms - (uint64_t)since_ms : 0;
}

static void replica_row(struct table *table, const struct replica_report *report,
	const struct ship_report *ship, const struct notice *notice)
{
	uint64_t now_ms = clock_wall_us() / 1000;
	bool behind = report->commit_no < notice->commit_no;
	row(table, sizeof(replicas_columns) / sizeof(replicas_columns[0]));
	word(table, report->url);
	word(table, replica_state_name(report->state));
	number(table, report->acks);
	number(table, report->commit_no);
	number(table, behind ? notice->commit_no - report->commit_no : 0);
	number(table, behind ? lag_ms(report, ship, now_ms) : 0);
	number(table, report->txid);
	number(table, report->waiting);
	number(table, report->percent);
	number(table, report->requests);
	number(table, report->bytes_sent);
	number(table,
		report->failing_since_ms > 0 ? (now_ms - (uint64_t)report->failing_since_ms) / 1000
					     : 0);
	word(table, report->error);
}

static void show_replicas(struct funnel *funnel, struct table *table)
{
	struct funnel_facts facts = funnel_facts(funnel);
	struct notice notice;
	if (facts.board == NULL) {
		return;
	}
	(void)board_notice(facts.board, &notice);
	struct ship_report ship = board_ship_report(facts.board);
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		struct replica_report report = board_replica_report(facts.board, i);
		if (report.url[0] != 0 && wanted(table, report.url)) {
			replica_row(table, &report, &ship, &notice);
		}
	}
}

static const struct {
	const char *name;
	const char *const *columns;
	unsigned columns_count;
	void (*fill)(struct funnel *funnel, struct table *table);
} tables[] = {
	{"clients", COLUMNS(clients_columns), show_clients},
	{"queue", COLUMNS(queue_columns), show_queue},
	{"chunks", COLUMNS(chunks_columns), show_chunks},
	{"config", COLUMNS(config_columns), show_config},
	{"stats", COLUMNS(stats_columns), show_stats},
	{"replicas", COLUMNS(replicas_columns), show_replicas},
};

bool show_table(struct funnel *funnel, struct span what, struct span like, bool admin,
	struct buffer *out, const char **ret_names)
{
	char pattern[128];
	struct table table = {.out = out, .admin = admin};
	*ret_names = "clients, queue, chunks, config, stats, replicas";
	if (like.data != NULL && like.len < sizeof(pattern)) {
		memcpy(pattern, like.data, like.len);
		pattern[like.len] = 0;
		table.like = pattern;
	}
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		if (!span_equal(what, tables[i].name)) {
			continue;
		}
		buffer_packer(out, &table.packer);
		msgpack_pack_map(&table.packer, 2);
		word(&table, "columns");
		msgpack_pack_array(&table.packer, tables[i].columns_count);
		for (unsigned column = 0; column < tables[i].columns_count; column++) {
			word(&table, tables[i].columns[column]);
		}
		word(&table, "rows");
		size_t at = pack_array_begin(out);
		tables[i].fill(funnel, &table);
		pack_array_end(out, at, table.rows);
		return true;
	}
	return false;
}
