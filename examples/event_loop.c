/* SPDX-License-Identifier: MIT */

/*
 * litefunnel inside somebody else's event loop, here libevent's.
 *
 * Shows: lf_fd(), lf_events(), lf_timeout_ms() and lf_process(), with a timer of the application
 * that goes on ticking while 2000 writes are on their way; nothing in the program ever blocks.
 *
 *	example_event_loop /srv/app/app.db
 *
 * Exits 0 if all writes were answered and are in the database, 1 if not.
 */

#include <event2/event.h>
#include <litefunnel.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdio.h>

enum { WRITES = 2000, TICK_MS = 10 };

struct app {
	struct event_base *base;
	struct event *socket_event; /* NULL while there is no connection */
	struct event *timer_event;  /* for lf_timeout_ms() */
	struct event *tick_event;   /* the application's own work */
	lf_db *db;
	lf_batch *batch;
	int64_t run;
	int submitted;
	int answered;
	int failed;
	int ticks;
};

static void app_watch(struct app *app);

static void app_collect(struct app *app)
{
	lf_reply *reply = NULL;
	while (lf_next(app->db, &reply) == 0) {
		if (lf_reply_outcome(reply) != LF_OK) {
			(void)fprintf(stderr, "write: %s\n", lf_reply_message(reply));
			app->failed++;
		}
		app->answered++;
		lf_reply_free(reply);
	}
}

static void app_submit(struct app *app)
{
	uint64_t ticket = 0;
	while (app->submitted < WRITES) {
		lf_batch_clear(app->batch);
		lf_batch_step(app->batch, "INSERT INTO example_event(run, number) VALUES (?, ?)");
		lf_bind_int64(app->batch, app->run);
		lf_bind_int64(app->batch, app->submitted);
		int r = lf_submit(app->db, app->batch, &ticket);
		if (r == 1) {
			return; /* the window is full: go on when answers have come */
		}
		if (r != 0) {
			(void)fprintf(stderr, "submit: %s\n", lf_errmsg(app->db));
			app->failed++;
		}
		app->submitted++;
	}
}

/* One turn of the client: whatever woke us, it knows by itself what there is to do. */
static void app_turn(struct app *app)
{
	if (lf_process(app->db) != 0) {
		(void)fprintf(stderr, "process: %s\n", lf_errmsg(app->db));
	}
	app_collect(app);
	app_submit(app);
	if (app->answered >= WRITES || app->failed > 0) {
		(void)event_base_loopbreak(app->base);
		return;
	}
	app_watch(app);
}

static void on_ready(evutil_socket_t fd, short what, void *userdata)
{
	(void)fd;
	(void)what;
	app_turn(userdata);
}

static void on_tick(evutil_socket_t fd, short what, void *userdata)
{
	struct app *app = userdata;
	(void)fd;
	(void)what;
	app->ticks++;
}

/* The fd and what it waits for may have changed with each call: watch anew. */
static void app_watch(struct app *app)
{
	int fd = lf_fd(app->db);
	int timeout_ms = lf_timeout_ms(app->db);
	if (app->socket_event != NULL) {
		event_free(app->socket_event);
		app->socket_event = NULL;
	}
	if (fd >= 0) {
		int events = lf_events(app->db);
		short what = (short)(((events & POLLIN) != 0 ? EV_READ : 0) |
			((events & POLLOUT) != 0 ? EV_WRITE : 0));
		app->socket_event = event_new(app->base, fd, what, on_ready, app);
		if (app->socket_event == NULL || event_add(app->socket_event, NULL) != 0) {
			app->failed++;
		}
	}
	(void)event_del(app->timer_event);
	if (timeout_ms >= 0) {
		struct timeval after = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
		(void)event_add(app->timer_event, &after);
	}
}

static int begin_run(lf_db *db, int64_t *ret_run)
{
	lf_reply *reply = NULL;
	int r = lf_exec(
		db, "CREATE TABLE IF NOT EXISTS example_event(run INTEGER, number INTEGER)", NULL);
	if (r == LF_OK) {
		r = lf_exec(
			db, "CREATE TABLE IF NOT EXISTS example_run(id INTEGER PRIMARY KEY)", NULL);
	}
	if (r == LF_OK) {
		r = lf_exec(db, "INSERT INTO example_run DEFAULT VALUES", &reply);
	}
	*ret_run = r == LF_OK ? lf_reply_rowid(reply, 0) : 0;
	lf_reply_free(reply);
	return r == LF_OK ? 0 : 1;
}

static int verify(lf_db *db, int64_t run)
{
	static const char sql[] =
		"SELECT count(*), count(DISTINCT number) FROM example_event WHERE run = ?";
	sqlite3 *reader = NULL;
	sqlite3_stmt *stmt = NULL;
	int failed = 1;
	if (lf_reader(db, &reader) < 0) {
		(void)fprintf(stderr, "read: %s\n", lf_errmsg(db));
		return 1;
	}
	if (sqlite3_prepare_v2(reader, sql, -1, &stmt, NULL) == SQLITE_OK &&
		sqlite3_bind_int64(stmt, 1, run) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
		failed = sqlite3_column_int(stmt, 0) != WRITES ||
			sqlite3_column_int(stmt, 1) != WRITES;
	}
	(void)sqlite3_finalize(stmt);
	return failed;
}

static int app_run(struct app *app)
{
	const struct timeval tick = {0, TICK_MS * 1000};
	app->base = event_base_new();
	app->batch = lf_batch_new();
	if (app->base == NULL || app->batch == NULL) {
		return 1;
	}
	app->timer_event = event_new(app->base, -1, 0, on_ready, app);
	app->tick_event = event_new(app->base, -1, EV_PERSIST, on_tick, app);
	if (app->timer_event == NULL || app->tick_event == NULL) {
		return 1;
	}
	(void)event_add(app->tick_event, &tick);
	app_turn(app);
	(void)event_base_dispatch(app->base);
	(void)printf("%d writes, %d ticks meanwhile\n", app->answered, app->ticks);
	return app->failed > 0 || app->answered != WRITES;
}

static void app_finish(struct app *app)
{
	if (app->socket_event != NULL) {
		event_free(app->socket_event);
	}
	if (app->timer_event != NULL) {
		event_free(app->timer_event);
	}
	if (app->tick_event != NULL) {
		event_free(app->tick_event);
	}
	if (app->base != NULL) {
		event_base_free(app->base);
	}
	lf_batch_free(app->batch);
	lf_close(app->db);
}

int main(int argc, char **argv)
{
	struct app app = {0};
	if (argc != 2) {
		(void)fprintf(stderr, "usage: %s DB\n", argv[0]);
		return 2;
	}
	if (lf_open(argv[1], NULL, &app.db) != 0) {
		(void)fprintf(stderr, "cannot open %s\n", argv[1]);
		return 1;
	}
	/* Preparing may block; from app_run() on nothing does. */
	int failed = begin_run(app.db, &app.run) != 0 || app_run(&app) != 0 ||
		verify(app.db, app.run) != 0;
	app_finish(&app);
	return failed ? 1 : 0;
}
