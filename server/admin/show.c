/* SPDX-License-Identifier: MIT */

/*
 * Facts as tables: columns, and rows of text and numbers. Column names are an interface: programs
 * read them, so they are added to and never changed.
 */

#include "server/admin/show.h"

#include "server/admin/table.h"
#include "server/base/clock.h"
#include "server/base/usage.h"
#include "server/funnel/holder.h"
#include "server/funnel/lease.h"
#include "server/store/store.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- clients ---- */

static const char *const clients_columns[] = {"pid", "uid", "user", "client", "label", "role",
	"class", "state", "in_flight", "requests", "out_bytes", "age_s"};

static void client_row(void *ctx, const struct peer *peer)
{
	static const char *const states[] = {"greeting", "open", "closing", "closed"};
	struct table *table = ctx;
	if (!table_wants(table, peer->credentials->client)) {
		return;
	}
	table_row(table, sizeof(clients_columns) / sizeof(clients_columns[0]));
	table_number(table, (uint64_t)peer->credentials->pid);
	table_number(table, peer->credentials->uid);
	table_text(table, peer->credentials->text);
	table_text(table, peer->credentials->client);
	table_text(table, peer->credentials->label);
	table_text(table, role_name(peer->credentials->role));
	table_text(table, request_class_name(peer->class));
	table_text(table, states[peer->state]);
	table_number(table, peer->in_flight_count);
	table_number(table, peer->requests);
	table_number(table, peer_out_pending(peer));
	table_number(table, (clock_now_us() - peer->connected_us) / 1000000);
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
		if (table_wants(table, name)) {
			table_row(table, 2);
			table_text(table, name);
			table_number(table, facts.classes[i].waiting);
		}
	}
}

/* ---- chunks ---- */

static const char *const chunks_columns[] = {"name", "uid", "state", "rows", "of", "changes",
	"slices", "rows_per_s", "eta_s", "limit", "slice_ms", "longest_us", "busy_us", "table",
	"key", "commit", "started_at", "ended_at", "error", "sql"};

static void number_if(struct table *table, bool known, uint64_t value)
{
	if (known) {
		table_number(table, value);
	} else {
		table_text(table, NULL);
	}
}

static void chunk_row(void *ctx, const struct chunk_view *view)
{
	struct table *table = ctx;
	const struct chunk_facts *facts = &view->facts;
	if (!table_wants(table, facts->name)) {
		return;
	}
	table_row(table, sizeof(chunks_columns) / sizeof(chunks_columns[0]));
	table_text(table, facts->name);
	table_number(table, facts->uid);
	table_text(table, chunk_state_name(facts->state));
	table_number(table, facts->rows);
	table_number(table, facts->of);
	table_number(table, facts->changes);
	table_number(table, facts->slices);
	number_if(table, view->rows_per_s > 0, view->rows_per_s);
	number_if(table, view->eta_ms > 0, view->eta_ms / 1000);
	table_number(table, facts->rate);
	table_number(table, facts->slice_us / 1000);
	table_number(table, facts->longest_us);
	table_number(table, facts->busy_us);
	table_text(table, facts->table);
	table_text(table, facts->key);
	table_number(table, facts->commit_no);
	table_number(table, facts->started_s);
	number_if(table, facts->ended_s != 0, facts->ended_s);
	if (table->who->role >= ROLE_ADMIN) {
		table_text(table, facts->error);
		table_text(table, facts->sql);
	} else {
		msgpack_pack_nil(&table->packer);
		msgpack_pack_nil(&table->packer);
	}
}

static void show_chunks(struct funnel *funnel, struct table *table)
{
	funnel_each_chunk(funnel, chunk_row, table);
}

/* ---- leases ---- */

static const char *const leases_columns[] = {"lease", "pid", "uid", "user", "label", "class",
	"state", "age_ms", "idle_ms", "steps", "sql"};

static uint64_t ms_since(uint64_t us)
{
	uint64_t now_us = clock_now_us();
	return us != 0 && now_us > us ? (now_us - us) / 1000 : 0;
}

static void lease_row(void *ctx, struct lease *lease)
{
	static const char *const states[] = {"waiting", "open", "ended"};
	struct table *table = ctx;
	struct lease_facts facts = lease_facts(lease);
	if (facts.state == LEASE_ENDED || !table_wants(table, facts.known.label)) {
		return;
	}
	table_row(table, sizeof(leases_columns) / sizeof(leases_columns[0]));
	table_number(table, lease->number);
	table_number(table, (uint64_t)lease->credentials->pid);
	table_number(table, lease->credentials->uid);
	table_text(table, lease->credentials->text);
	table_text(table, facts.known.label);
	table_text(table, request_class_name(lease->class));
	table_text(table, states[facts.state]);
	table_number(table, ms_since(facts.begun_us));
	table_number(table, ms_since(facts.idle_us));
	table_number(table, facts.steps);
	table_text(table,
		facts.known.has_sql && request_may_see(table->who, lease->credentials->uid)
			? facts.known.sql
			: NULL);
}

static void show_leases(struct funnel *funnel, struct table *table)
{
	funnel_each_lease(funnel, lease_row, table);
}

/* ---- config ---- */

static const char *const config_columns[] = {
	"name", "value", "default", "source", "reloads", "help"};

/* The path of such a URL is what keeps others from calling it. */
static bool is_secret(size_t setting)
{
	return setting == SETTING_DRILL_HEARTBEAT || setting == SETTING_DRILL_HEARTBEAT_FAIL;
}

static void show_config(struct funnel *funnel, struct table *table)
{
	const struct config *config = funnel_config(funnel);
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		if (table_wants(table, settings[i].name)) {
			table_row(table, sizeof(config_columns) / sizeof(config_columns[0]));
			table_text(table, settings[i].name);
			table_text(table,
				is_secret(i) && table->who->role < ROLE_ADMIN
					? "(for admins)"
					: config->values[i].text);
			table_text(table, settings[i].fallback);
			table_text(table, setting_source_name(config->values[i].source));
			table_number(table, settings[i].reloads);
			table_text(table, settings[i].help);
		}
	}
}

/* ---- stats ---- */

static const char *const stats_columns[] = {"name", "value"};

static void fact_uint(struct table *table, const char *name, uint64_t value)
{
	if (table_wants(table, name)) {
		table_row(table, 2);
		table_text(table, name);
		table_number(table, value);
	}
}

static void fact_text(struct table *table, const char *name, const char *value)
{
	if (table_wants(table, name)) {
		table_row(table, 2);
		table_text(table, name);
		table_text(table, value);
	}
}

static uint64_t wal_bytes(const char *db)
{
	char path[4096];
	struct stat status;
	snprintf(path, sizeof(path), "%s-wal", db);
	return stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void drill_facts(struct table *table, const struct drill_facts *drills)
{
	const struct drill_record *last = drills->last;
	const struct drill_record *pass = drills->last_pass;
	fact_text(table, "drill_state", drills->state);
	fact_text(table, "drill_waits_for", drills->waits_for);
	fact_uint(table, "drills_passed_total", drills->count[DRILL_PASS]);
	fact_uint(table, "drills_failed_total", drills->count[DRILL_FAIL]);
	fact_uint(table, "drills_inconclusive_total", drills->count[DRILL_INCONCLUSIVE]);
	fact_uint(table, "drill_held_us_max", drills->held_max_us);
	fact_uint(
		table, "drill_last_success_at", pass != NULL ? (uint64_t)pass->ended_ms / 1000 : 0);
	fact_uint(table, "drill_last_at", last != NULL ? (uint64_t)last->ended_ms / 1000 : 0);
	if (last != NULL) {
		fact_text(table, "drill_last_verdict", drill_verdict_name(last->verdict));
		fact_uint(table, "drill_last_took_ms", (uint64_t)(last->ended_ms - last->began_ms));
		fact_uint(table, "drill_last_rpo_ms", (uint64_t)last->rpo_ms);
		fact_uint(table, "drill_last_rto_ms", (uint64_t)last->rto_ms);
	}
}

static void show_stats(struct funnel *funnel, struct table *table)
{
	struct funnel_facts facts = funnel_facts(funnel);
	char epoch[2 * STORE_EPOCH_BYTES + 1];
	char pins[256];
	uint64_t now_us = clock_now_us();
	for (size_t i = 0; i < STORE_EPOCH_BYTES; i++) {
		snprintf(epoch + 2 * i, 3, "%02x", facts.epoch[i]);
	}
	fact_text(table, "state", funnel_state_name(facts.state));
	bool paused = facts.queue.held_us != 0;
	fact_uint(table, "paused", paused);
	fact_uint(table, "paused_s", paused ? (now_us - facts.queue.held_us) / 1000000 : 0);
	fact_uint(table, "pause_left_s",
		facts.pause_until_us > now_us ? (facts.pause_until_us - now_us + 999999) / 1000000
					      : 0);
	fact_text(table, "paused_by", paused ? facts.pause_by : "");
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
	fact_uint(table, "connections_displaced_total", facts.displaced);
	fact_uint(table, "queue_batches", facts.queue.count);
	fact_uint(table, "queue_bytes", facts.queue.bytes);
	fact_uint(table, "running_batches", facts.queue.taken);
	fact_uint(table, "longest_wait_us",
		facts.queue.oldest_us != 0 ? now_us - facts.queue.oldest_us : 0);
	fact_uint(table, "queue_refused_total", facts.queue.refused);
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
	show_who_pins(funnel, pins, sizeof(pins));
	fact_text(table, "wal_pinned_by", pins);
	fact_uint(table, "wal_backfilled", facts.writer.checkpoint.backfilled);
	fact_uint(table, "checkpoints_total", facts.writer.checkpoint.checkpoints);
	fact_uint(table, "checkpoint_restarts_total", facts.writer.checkpoint.restarts);
	fact_uint(table, "checkpoint_parts_total", facts.writer.checkpoint.parts);
	fact_uint(table, "checkpoints_pinned_total", facts.writer.checkpoint.pinned);
	fact_uint(table, "wal_large", facts.writer.lookout.wal_large);
	fact_uint(table, "disk_low", facts.writer.lookout.disk_low);
	fact_uint(table, "disk_low_total", facts.writer.lookout.disk_low_total);
	fact_uint(table, "disk_free_bytes", facts.writer.lookout.disk_free);
	fact_uint(table, "disk_floor_bytes", facts.writer.lookout.disk_floor);
	fact_uint(table, "reserve_bytes", facts.writer.lookout.reserve);
	fact_uint(table, "stopped", facts.writer.lookout.stopped);
	fact_uint(table, "foreign_total", facts.writer.lookout.foreign_total);
	fact_text(table, "trouble", facts.writer.lookout.trouble);
	if (facts.board != NULL) {
		struct ship_report report = board_ship_report(facts.board);
		fact_uint(table, "ship_spooled_commit", report.spooled_commit);
		fact_uint(table, "ship_segment", report.segments);
		fact_uint(table, "ship_spool_bytes", report.spool_bytes);
		fact_text(table, "ship_trouble", report.trouble);
		int64_t paused_ms = board_paused_ms(facts.board);
		int64_t now_ms = (int64_t)(clock_wall_us() / 1000);
		fact_uint(table, "ship_paused", paused_ms != 0);
		fact_uint(table, "ship_paused_s",
			paused_ms != 0 && now_ms > paused_ms ? (uint64_t)(now_ms - paused_ms) / 1000
							     : 0);
		fact_uint(table, "gate_waits", facts.gate.waits);
		fact_uint(table, "gate_waited_us", facts.gate.waited_us);
		fact_uint(table, "gate_waited_us_max", facts.gate.waited_max_us);
		fact_uint(table, "gate_skipped", facts.gate.skipped);
		fact_uint(table, "gate_breaks", facts.gate.breaks);
		drill_facts(table, &facts.drills);
	}
}

/* ---- the tables ---- */

#define COLUMNS(list) list, sizeof(list) / sizeof((list)[0])

/* ---- replicas ---- */

static const char *const replicas_columns[] = {"url", "state", "acks", "commit", "behind", "lag_ms",
	"segment", "waiting", "percent", "requests", "bytes_sent", "failing_s", "error",
	"requests_today", "bytes_today", "received_today", "puts_today", "gets_today",
	"lists_today", "deletes_today", "requests_month", "bytes_month", "received_month",
	"puts_month", "gets_month", "lists_month", "deletes_month"};

static void usage_cells(struct table *table, const struct usage_counts *counts)
{
	uint64_t requests = 0;
	for (size_t i = 0; i < USAGE_KINDS; i++) {
		requests += counts->requests[i];
	}
	table_number(table, requests);
	table_number(table, counts->bytes_sent + counts->bytes_received);
	table_number(table, counts->bytes_received);
	for (size_t i = 0; i < USAGE_KINDS; i++) {
		table_number(table, counts->requests[i]);
	}
}

static void replica_row(struct table *table, const struct replica_report *report,
	const struct gate_arrears *arrears, const struct usage *usage)
{
	uint64_t now_ms = clock_wall_us() / 1000;
	table_row(table, sizeof(replicas_columns) / sizeof(replicas_columns[0]));
	table_text(table, report->url);
	table_text(table, replica_state_name(report->state));
	table_number(table, report->acks);
	table_number(table, report->commit_no);
	table_number(table, arrears->behind);
	table_number(table, arrears->lag_ms);
	table_number(table, report->txid);
	table_number(table, report->waiting);
	table_number(table, report->percent);
	table_number(table, report->requests);
	table_number(table, report->bytes_sent);
	table_number(table,
		report->failing_since_ms > 0 ? (now_ms - (uint64_t)report->failing_since_ms) / 1000
					     : 0);
	table_text(table, report->error);
	usage_cells(table, &usage->today);
	usage_cells(table, &usage->month);
}

static void show_replicas(struct funnel *funnel, struct table *table)
{
	struct funnel_facts facts = funnel_facts(funnel);
	if (facts.board == NULL) {
		return;
	}
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		struct replica_report report = board_replica_report(facts.board, i);
		if (report.url[0] != 0 && table_wants(table, report.url)) {
			struct usage usage = usage_read(
				facts.spool, report.url, (int64_t)(clock_wall_us() / 1000));
			struct gate_arrears arrears = funnel_arrears(funnel, &report);
			replica_row(table, &report, &arrears, &usage);
		}
	}
}

/* ---- drills ---- */

static void drill_row(void *ctx, const struct drill_record *record)
{
	struct table *table = ctx;
	if (table_wants(table, record->replica)) {
		table->rows++;
		drill_pack_row(&table->packer, record);
	}
}

static void show_drills(struct funnel *funnel, struct table *table)
{
	funnel_each_drill(funnel, drill_row, table);
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
	{"waits", COLUMNS(waits_columns), show_waits},
	{"readers", COLUMNS(readers_columns), show_readers},
	{"classes", COLUMNS(classes_columns), show_classes},
	{"leases", COLUMNS(leases_columns), show_leases},
	{"config", COLUMNS(config_columns), show_config},
	{"stats", COLUMNS(stats_columns), show_stats},
	{"replicas", COLUMNS(replicas_columns), show_replicas},
	{"drills", COLUMNS(drill_columns), show_drills},
};

bool show_table(struct funnel *funnel, struct span what, struct span like,
	const struct credentials *who, struct buffer *out, const char **ret_names)
{
	char pattern[128];
	struct table table = {.out = out, .who = who};
	*ret_names =
		"clients, queue, waits, readers, classes, chunks, leases, config, stats, replicas, "
		"drills";
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
		table_text(&table, "columns");
		msgpack_pack_array(&table.packer, tables[i].columns_count);
		for (unsigned column = 0; column < tables[i].columns_count; column++) {
			table_text(&table, tables[i].columns[column]);
		}
		table_text(&table, "rows");
		size_t at = pack_array_begin(out);
		tables[i].fill(funnel, &table);
		pack_array_end(out, at, table.rows);
		return true;
	}
	return false;
}
