/* SPDX-License-Identifier: MIT */

/*
 * Who has the writer, who waits for it, and what each class has had. The holder stands first: it is
 * what everybody asks for.
 */

#include "server/admin/table.h"
#include "server/base/clock.h"
#include "server/funnel/holder.h"
#include "server/store/shm.h"

#include <stdio.h>
#include <stdlib.h>

enum { WAITS_MAX = 1000 }; /* rows; a longer queue is not read by people */

/* ---- classes ---- */

const char *const classes_columns[9] = {"class", "waiting", "served_total", "writer_us_total",
	"turns_total", "waited_us_total", "waited_us_max", "slice_ms", "refused_total"};

void show_classes(struct funnel *funnel, struct table *table)
{
	struct queue_facts facts = funnel_facts(funnel).queue;
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		const struct class_facts *class = &facts.classes[i];
		const char *name = request_class_name((enum request_class)i);
		if (!table_wants(table, name)) {
			continue;
		}
		table_row(table, sizeof(classes_columns) / sizeof(classes_columns[0]));
		table_text(table, name);
		table_number(table, class->waiting);
		table_number(table, class->served);
		table_number(table, class->writer_us);
		table_number(table, class->turns);
		table_number(table, class->waited_us);
		table_number(table, class->waited_us_max);
		table_number(table, config_number(funnel_config(funnel), SETTING_SLICE_MS));
		table_number(table, class->refused);
	}
}

/* ---- waits ---- */

const char *const waits_columns[13] = {"position", "id", "state", "what", "class", "pid", "uid",
	"user", "client", "label", "age_ms", "digest", "sql"};

/* The oldest of what waits, by class. */
struct waiting {
	const struct request *requests[WAITS_MAX];
	size_t count;
};

static void collect(void *ctx, struct request *request)
{
	struct waiting *waiting = ctx;
	if (request->kind == REQUEST_BYE) {
		return; /* whoever sent it has gone, and waits for nothing */
	}
	if (waiting->count < WAITS_MAX) {
		waiting->requests[waiting->count++] = request;
	}
}

static void wait_row(struct table *table, const struct request *request, size_t position,
	const char *state, uint64_t since_us)
{
	const struct credentials *credentials = request->credentials;
	struct known_by known;
	char digest[32];
	uint64_t now_us = clock_now_us();
	bool visible = request_may_see(table->who, request->identity.uid);
	request_known_by(request, &known);
	if (!table_wants(table, known.label)) {
		return;
	}
	(void)snprintf(digest, sizeof(digest), HOLDER_DIGEST_FORMAT, known.digest);
	table_row(table, sizeof(waits_columns) / sizeof(waits_columns[0]));
	table_number(table, position);
	table_number(table, request->number);
	table_text(table, state);
	table_text(table, request_what(request));
	table_text(table, request_class_name(request->class));
	table_number(table, credentials != NULL ? (uint64_t)credentials->pid : 0);
	table_number(table, request->identity.uid);
	table_text(table, credentials != NULL ? credentials->text : NULL);
	table_text(table, credentials != NULL ? credentials->client : NULL);
	table_text(table, credentials != NULL ? known.label : NULL);
	table_number(table, now_us > since_us ? (now_us - since_us) / 1000 : 0);
	table_text(table, known.has_sql ? digest : NULL);
	table_text(table, known.has_sql && visible ? known.sql : NULL);
}

/* Whoever writes past us, or has us paused: then nobody has the writer, and yet all wait. */
static void row_of_others(struct funnel *funnel, struct table *table)
{
	struct funnel_facts facts = funnel_facts(funnel);
	char command[SHM_COMMAND_BYTES];
	pid_t pid = shm_foreign_writer(facts.db, command);
	bool paused = facts.queue.held_us != 0;
	uint64_t now_us = clock_now_us();
	/* Since when the writer waits for it; before it has tried nobody knows. */
	uint64_t since_us = pid > 0 ? facts.writer.lookout.busy_since_us : facts.queue.held_us;
	if (table->like != NULL || (pid <= 0 && !paused)) {
		return;
	}
	table_row(table, sizeof(waits_columns) / sizeof(waits_columns[0]));
	table_number(table, 0);
	table_text(table, NULL);
	table_text(table, pid > 0 ? "foreign" : "paused");
	table_text(table, pid > 0 ? "another process" : facts.pause_holder->what);
	table_text(table, NULL);
	table_number(table, (uint64_t)(pid > 0 ? pid : facts.pause_holder->pid));
	table_text(table, NULL);
	table_text(table, pid > 0 ? NULL : facts.pause_by);
	table_text(table, NULL);
	table_text(table, pid > 0 ? command : facts.pause_holder->known.label);
	if (since_us != 0) {
		table_number(table, now_us > since_us ? (now_us - since_us) / 1000 : 0);
	} else {
		table_text(table, NULL);
	}
	table_text(table, NULL);
	table_text(table, NULL);
}

void show_waits(struct funnel *funnel, struct table *table)
{
	struct waiting *waiting = calloc(1, sizeof(*waiting));
	size_t position = 0;
	uint64_t since_us = 0;
	const struct request *running = funnel_running(funnel, &since_us);
	if (running != NULL && running->kind != REQUEST_BYE) {
		wait_row(table, running, 0, "running", since_us);
	} else {
		row_of_others(funnel, table);
	}
	if (waiting == NULL) {
		return;
	}
	/* Nothing of these is freed, or changed but by the writer, before the loop goes on. */
	funnel_each_waiting(funnel, collect, waiting);
	for (unsigned class = 0; class < CLASS_COUNT; class ++) {
		for (size_t i = 0; i < waiting->count; i++) {
			if (waiting->requests[i]->class == class) {
				wait_row(table, waiting->requests[i], ++position, "waiting",
					waiting->requests[i]->received_us);
			}
		}
	}
	free(waiting);
}
