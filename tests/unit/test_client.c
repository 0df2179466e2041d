/* SPDX-License-Identifier: MIT */

/*
 * The public calls against a scripted daemon behind a real socket. Each script is a forked process
 * that plays one conversation and exits 0 if it heard what it expected. The reader is tested with
 * plain SQLite files in the place of a served database.
 */

#include "client/litefunnel.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "tests/unit/cmocka_all.h"
#include "tests/unit/fail_alloc.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];
static char db_path[96];
static char socket_path[96];

/* ---- the scripted daemon --------------------------------------------------------------------- */

struct daemon {
	int listener;
	int fd;
	struct frame_reader reader;
	msgpack_zone zone;
	struct message message; /* the last one heard */
};

#define DEMAND(condition)                                                                          \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			(void)fprintf(stderr, "line %d: %s\n", __LINE__, #condition);              \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static void daemon_accept(struct daemon *daemon)
{
	daemon->fd = accept(daemon->listener, NULL, NULL);
	DEMAND(daemon->fd >= 0);
	frame_reader_init(&daemon->reader, FRAME_MAX_LIMIT);
	(void)msgpack_zone_init(&daemon->zone, 4096);
}

static void daemon_drop(struct daemon *daemon)
{
	(void)close(daemon->fd);
	frame_reader_finish(&daemon->reader);
	msgpack_zone_destroy(&daemon->zone);
}

/* Hears the next message; false at the end of the stream. */
static bool daemon_hear(struct daemon *daemon)
{
	const uint8_t *payload = NULL;
	size_t len = 0;
	while (frame_reader_next(&daemon->reader, &payload, &len) != 0) {
		uint8_t *room = NULL;
		size_t bytes = 0;
		DEMAND(frame_reader_room(&daemon->reader, 4096, &room, &bytes) == 0);
		ssize_t got = recv(daemon->fd, room, bytes, 0);
		if (got <= 0) {
			return false;
		}
		frame_reader_fed(&daemon->reader, (size_t)got);
	}
	DEMAND(message_parse(payload, len, &daemon->zone, &daemon->message) == 0);
	return true;
}

static uint64_t heard_uint(const struct daemon *daemon, const char *key)
{
	const struct field *field = message_field(&daemon->message, key);
	uint64_t value = 0;
	if (field != NULL) {
		DEMAND(object_uint64(field->value, &value));
	}
	return value;
}

static void daemon_expect(struct daemon *daemon, const char *method)
{
	DEMAND(daemon_hear(daemon));
	DEMAND(span_equal(daemon->message.method, method));
}

static void daemon_say(struct daemon *daemon, struct buffer *buf, size_t mark)
{
	frame_end(buf, mark);
	DEMAND(!buf->failed);
	for (size_t at = 0; at < buf->len;) {
		ssize_t sent = send(daemon->fd, buf->data + at, buf->len - at, MSG_NOSIGNAL);
		if (sent < 0) {
			break; /* the client is gone: for the script to notice when it reads */
		}
		at += (size_t)sent;
	}
	buffer_finish(buf);
}

static void daemon_hello(struct daemon *daemon)
{
	uint8_t epoch[16] = {7};
	struct buffer buf;
	msgpack_packer packer;
	daemon_expect(daemon, "hello");
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, daemon->message.id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 6);
	pack_cstr(&packer, "server");
	pack_cstr(&packer, "litefunnel/9");
	pack_cstr(&packer, "role");
	pack_cstr(&packer, "write");
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, epoch, 16);
	pack_cstr(&packer, "commit");
	msgpack_pack_int(&packer, 1);
	pack_cstr(&packer, "features");
	msgpack_pack_array(&packer, 2);
	pack_cstr(&packer, "write");
	pack_cstr(&packer, "keys");
	pack_cstr(&packer, "limits");
	msgpack_pack_map(&packer, 1);
	pack_cstr(&packer, "rows");
	msgpack_pack_int(&packer, 77);
	daemon_say(daemon, &buf, mark);
}

/* The answer to a write: one step with a row of each type. */
static void daemon_answer(struct daemon *daemon, uint64_t commit)
{
	static const char *const columns[] = {"i", "", "t", "e", "b", "n"};
	uint8_t epoch[16] = {7};
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, daemon->message.id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 8);
	pack_cstr(&packer, "commit");
	msgpack_pack_uint64(&packer, commit);
	pack_cstr(&packer, "epoch");
	pack_bin(&packer, epoch, 16);
	pack_cstr(&packer, "durability");
	pack_cstr(&packer, "full");
	pack_cstr(&packer, "queued_us");
	msgpack_pack_int(&packer, 1);
	pack_cstr(&packer, "exec_us");
	msgpack_pack_int(&packer, 2);
	pack_cstr(&packer, "commit_us");
	msgpack_pack_int(&packer, 3);
	pack_cstr(&packer, "group");
	msgpack_pack_int(&packer, 4);
	pack_cstr(&packer, "steps");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_map(&packer, 6);
	pack_cstr(&packer, "changes");
	msgpack_pack_int(&packer, 5);
	pack_cstr(&packer, "total");
	msgpack_pack_int(&packer, 6);
	pack_cstr(&packer, "rowid");
	msgpack_pack_int64(&packer, INT64_MIN);
	pack_cstr(&packer, "columns");
	msgpack_pack_array(&packer, 6);
	for (int i = 0; i < 6; i++) {
		pack_cstr(&packer, columns[i]);
	}
	pack_cstr(&packer, "types");
	msgpack_pack_array(&packer, 6);
	pack_cstr(&packer, "INTEGER");
	for (int i = 0; i < 5; i++) {
		msgpack_pack_nil(&packer);
	}
	pack_cstr(&packer, "rows");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_array(&packer, 6);
	msgpack_pack_int64(&packer, INT64_MAX);
	msgpack_pack_double(&packer, -1.5);
	pack_str(&packer, "a\0\xff", 3);
	pack_str(&packer, "", 0);
	pack_bin(&packer, "\0\1", 2);
	msgpack_pack_nil(&packer);
	daemon_say(daemon, &buf, mark);
}

static void daemon_answer_empty(struct daemon *daemon)
{
	struct buffer buf;
	msgpack_packer packer;
	buffer_init(&buf, 0);
	size_t mark = message_begin_result(&buf, daemon->message.id);
	buffer_packer(&buf, &packer);
	msgpack_pack_map(&packer, 1);
	pack_cstr(&packer, "commit");
	msgpack_pack_int(&packer, 3);
	daemon_say(daemon, &buf, mark);
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)unlink(path);
	(void)strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

static pid_t play(void (*script)(struct daemon *daemon))
{
	int listener = listen_at(socket_path);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct daemon daemon = {.listener = listener, .fd = -1};
		fail_alloc_at(0);
		(void)alarm(20);
		script(&daemon);
		_exit(0);
	}
	(void)close(listener);
	return pid;
}

static void played(pid_t pid)
{
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	(void)unlink(socket_path);
}

/* ---- helpers --------------------------------------------------------------------------------- */

static lf_db *open_db(uint32_t deadline_ms, bool no_retry)
{
	struct lf_options options = LF_OPTIONS_INIT;
	lf_db *db = NULL;
	options.deadline_ms = deadline_ms;
	options.no_retry = no_retry;
	assert_int_equal(lf_open(db_path, &options, &db), 0);
	return db;
}

static lf_batch *make_batch(void)
{
	lf_batch *batch = lf_batch_new();
	lf_batch_step(batch, "INSERT INTO t VALUES (?)");
	lf_bind_int64(batch, 1);
	return batch;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void serve_one(struct daemon *daemon)
{
	daemon_accept(daemon);
	daemon_hello(daemon);
	daemon_expect(daemon, "write");
	DEMAND(heard_uint(daemon, "seq") == 1);
	daemon_answer(daemon, 42);
	daemon_expect(daemon, "bye");
	DEMAND(!daemon_hear(daemon));
}

static void write_and_read_the_reply(void **state)
{
	pid_t pid = play(serve_one);
	lf_db *db = open_db(5000, false);
	lf_reply *reply = NULL;
	size_t len = 0;
	(void)state;
	assert_string_equal(lf_server_role(db), "");
	assert_int_equal(lf_exec(db, "SELECT 1", &reply), LF_OK);
	assert_int_equal(lf_reply_outcome(reply), LF_OK);
	assert_int_equal(lf_reply_applied(reply), LF_APPLIED_YES);
	assert_string_equal(lf_reply_code(reply), "");
	assert_int_equal(lf_reply_commit(reply), 42);
	assert_int_equal(lf_reply_epoch(reply)[0], 7);
	assert_string_equal(lf_reply_durability(reply), "full");
	assert_int_equal(lf_reply_queued_us(reply), 1);
	assert_int_equal(lf_reply_exec_us(reply), 2);
	assert_int_equal(lf_reply_commit_us(reply), 3);
	assert_int_equal(lf_reply_group(reply), 4);
	assert_false(lf_reply_repeat(reply));
	assert_int_equal(lf_reply_steps(reply), 1);
	assert_int_equal(lf_reply_changes(reply, 0), 5);
	assert_int_equal(lf_reply_total(reply, 0), 6);
	assert_true(lf_reply_rowid(reply, 0) == INT64_MIN);
	assert_int_equal(lf_reply_columns(reply, 0), 6);
	assert_string_equal(lf_reply_column(reply, 0, 0), "i");
	assert_string_equal(lf_reply_column(reply, 0, 1), "");
	assert_string_equal(lf_reply_column(reply, 0, 5), "n");
	assert_string_equal(lf_reply_decltype(reply, 0, 0), "INTEGER");
	assert_null(lf_reply_decltype(reply, 0, 1));
	assert_int_equal(lf_reply_rows(reply, 0), 1);
	assert_int_equal(lf_reply_type(reply, 0, 0, 0), LF_INTEGER);
	assert_true(lf_reply_int64(reply, 0, 0, 0) == INT64_MAX);
	assert_int_equal(lf_reply_type(reply, 0, 0, 1), LF_FLOAT);
	assert_true(lf_reply_double(reply, 0, 0, 1) == -1.5);
	assert_int_equal(lf_reply_int64(reply, 0, 0, 1), -1);
	assert_int_equal(lf_reply_type(reply, 0, 0, 2), LF_TEXT);
	assert_memory_equal(lf_reply_text(reply, 0, 0, 2, &len), "a\0\xff", 3);
	assert_int_equal(len, 3);
	assert_non_null(lf_reply_text(reply, 0, 0, 3, &len));
	assert_int_equal(len, 0);
	assert_int_equal(lf_reply_type(reply, 0, 0, 4), LF_BLOB);
	assert_memory_equal(lf_reply_blob(reply, 0, 0, 4, &len), "\0\1", 2);
	assert_int_equal(lf_reply_type(reply, 0, 0, 5), LF_NULL);
	assert_null(lf_reply_text(reply, 0, 0, 5, NULL));
	/* Out of range reads as nothing. */
	assert_int_equal(lf_reply_type(reply, 0, 0, 6), LF_NULL);
	assert_int_equal(lf_reply_int64(reply, 0, 1, 0), 0);
	assert_null(lf_reply_column(reply, 0, 6));
	assert_int_equal(lf_reply_changes(reply, 1), 0);
	assert_int_equal(lf_reply_rows(reply, 9), 0);
	int64_t value = 0;
	assert_true(lf_reply_field_int64(reply, "group", &value));
	assert_int_equal(value, 4);
	assert_false(lf_reply_field_int64(reply, "none", &value));
	lf_reply_free(reply);
	assert_string_equal(lf_server_version(db), "litefunnel/9");
	assert_string_equal(lf_server_role(db), "write");
	assert_true(lf_server_feature(db, "keys"));
	assert_false(lf_server_feature(db, "leases"));
	assert_int_equal(lf_server_limit(db, "rows"), 77);
	assert_int_equal(lf_server_limit(db, "none"), 0);
	assert_string_equal(lf_errmsg(db), "");
	lf_close(db);
	played(pid);
}

static void lose_the_answer(struct daemon *daemon)
{
	uint8_t session[16];
	struct span span;
	for (int i = 0; i < 3; i++) {
		daemon_accept(daemon);
		daemon_hello(daemon);
		DEMAND(object_bin(message_field(&daemon->message, "session")->value, &span));
		DEMAND(i == 0 || memcmp(session, span.data, 16) == 0);
		memcpy(session, span.data, 16);
		daemon_expect(daemon, "write");
		DEMAND(heard_uint(daemon, "seq") == 1);
		if (i == 2) {
			daemon_answer(daemon, 9);
			(void)daemon_hear(daemon);
		}
		daemon_drop(daemon);
	}
}

static void a_restart_is_not_noticed(void **state)
{
	pid_t pid = play(lose_the_answer);
	lf_db *db = open_db(5000, false);
	lf_batch *batch = make_batch();
	lf_reply *reply = NULL;
	(void)state;
	assert_int_equal(lf_write(db, batch, &reply), LF_OK);
	assert_int_equal(lf_reply_commit(reply), 9);
	lf_reply_free(reply);
	lf_batch_free(batch);
	lf_close(db);
	played(pid);
}

static void drop_the_write(struct daemon *daemon)
{
	daemon_accept(daemon);
	daemon_hello(daemon);
	daemon_expect(daemon, "write");
	DEMAND(message_field(&daemon->message, "seq") == NULL);
	daemon_drop(daemon);
}

static void without_retry_a_lost_answer_is_unknown(void **state)
{
	pid_t pid = play(drop_the_write);
	lf_db *db = open_db(5000, true);
	lf_reply *reply = NULL;
	(void)state;
	assert_int_equal(lf_exec(db, "SELECT 1", &reply), LF_UNKNOWN);
	assert_string_equal(lf_reply_code(reply), "unknown");
	assert_int_equal(lf_reply_applied(reply), LF_APPLIED_UNKNOWN);
	lf_reply_free(reply);
	lf_close(db);
	played(pid);
}

static void nobody_there_is_failed(void **state)
{
	lf_db *db = open_db(50, false);
	lf_reply *reply = NULL;
	(void)state;
	(void)unlink(socket_path);
	assert_int_equal(lf_ping(db, &reply), LF_FAILED);
	assert_string_equal(lf_reply_code(reply), "deadline");
	assert_int_equal(lf_reply_applied(reply), LF_APPLIED_NO);
	assert_non_null(strstr(lf_reply_message(reply), socket_path));
	assert_non_null(strstr(lf_errmsg(db), "cannot connect"));
	lf_reply_free(reply);
	assert_int_equal(lf_exec(db, "SELECT 1", NULL), LF_FAILED);
	lf_close(db);
}

static void answer_two_then_close(struct daemon *daemon)
{
	daemon_accept(daemon);
	daemon_hello(daemon);
	daemon_expect(daemon, "write");
	struct message first = daemon->message;
	daemon_expect(daemon, "write");
	daemon_answer(daemon, 2);
	daemon->message = first;
	daemon_answer(daemon, 1);
	/* Reads nothing more: the client's next bytes meet a closed socket. */
	daemon_drop(daemon);
}

static void last_answers_are_read_after_a_failed_send(void **state)
{
	pid_t pid = play(answer_two_then_close);
	lf_db *db = open_db(300, true);
	lf_batch *batch = make_batch();
	lf_reply *reply = NULL;
	uint64_t tickets[3];
	(void)state;
	assert_int_equal(lf_submit(db, batch, &tickets[0]), 0);
	assert_int_equal(lf_submit(db, batch, &tickets[1]), 0);
	assert_int_equal(lf_flush(db, 2000), 0);
	played(pid);
	assert_int_equal(lf_submit(db, batch, &tickets[2]), 0);
	/* On a busy machine the flush itself may have met the answers: then only the third waits. */
	assert_true(lf_pending(db) == 3 || lf_pending(db) == 1);
	assert_int_equal(lf_wait(db, tickets[0], &reply), LF_OK);
	lf_reply_free(reply);
	assert_int_equal(lf_next(db, &reply), 0);
	assert_int_equal(lf_reply_ticket(reply), tickets[1]);
	lf_reply_free(reply);
	assert_int_equal(lf_next(db, &reply), 1);
	assert_int_equal(lf_wait(db, tickets[2], &reply), LF_FAILED);
	assert_string_equal(lf_reply_code(reply), "deadline");
	lf_reply_free(reply);
	assert_int_equal(lf_wait(db, tickets[2], &reply), -ENOENT);
	assert_int_equal(lf_wait(db, 0, &reply), -ENOENT);
	assert_int_equal(lf_cancel(db, 99), -ENOENT);
	lf_batch_free(batch);
	lf_close(db);
}

static void serve_many(struct daemon *daemon)
{
	daemon_accept(daemon);
	daemon_hello(daemon);
	for (uint64_t i = 1; i <= 3000; i++) {
		daemon_expect(daemon, "write");
		DEMAND(heard_uint(daemon, "seq") == i);
		daemon_answer_empty(daemon);
	}
	(void)daemon_hear(daemon);
}

/* Only lf_fd(), lf_events(), lf_timeout_ms() and lf_process(), as in another event loop. */
static void foreign_loop(void **state)
{
	pid_t pid = play(serve_many);
	lf_db *db = open_db(10000, false);
	lf_batch *batch = make_batch();
	uint64_t ticket = 0;
	size_t submitted = 0;
	size_t answered = 0;
	(void)state;
	assert_int_equal(lf_fd(db), -1);
	assert_int_equal(lf_timeout_ms(db), -1);
	while (answered < 3000) {
		lf_reply *reply = NULL;
		while (submitted < 3000 && lf_submit(db, batch, &ticket) == 0) {
			submitted++;
		}
		struct pollfd pollfd = {.fd = lf_fd(db), .events = (short)lf_events(db)};
		(void)poll(&pollfd, 1, lf_timeout_ms(db));
		assert_int_equal(lf_process(db), 0);
		while (lf_next(db, &reply) == 0) {
			assert_int_equal(lf_reply_outcome(reply), LF_OK);
			answered++;
			lf_reply_free(reply);
		}
	}
	assert_int_equal(lf_pending(db), 0);
	lf_batch_free(batch);
	lf_close(db);
	played(pid);
}

static void serve_requests(struct daemon *daemon)
{
	static const char *const methods[] = {"ping", "show", "describe", "reload"};
	daemon_accept(daemon);
	daemon_hello(daemon);
	for (int i = 0; i < 4; i++) {
		daemon_expect(daemon, methods[i]);
		daemon_answer_empty(daemon);
	}
	(void)daemon_hear(daemon);
}

static void other_requests(void **state)
{
	pid_t pid = play(serve_requests);
	lf_db *db = open_db(5000, false);
	lf_reply *reply = NULL;
	char longest[66];
	(void)state;
	assert_int_equal(lf_ping(db, &reply), LF_OK);
	assert_int_equal(lf_reply_commit(reply), 3);
	lf_reply_free(reply);
	assert_int_equal(lf_show(db, "config", NULL, NULL), LF_OK);
	assert_int_equal(lf_describe(db, "SELECT 1", NULL), LF_OK);
	assert_int_equal(lf_admin(db, "reload", NULL), LF_OK);
	memset(longest, 'x', 65);
	longest[65] = '\0';
	assert_int_equal(lf_admin(db, longest, NULL), -EINVAL);
	assert_int_equal(lf_admin(db, "", NULL), -EINVAL);
	assert_int_equal(lf_show(db, NULL, NULL, NULL), -EINVAL);
	lf_close(db);
	played(pid);
}

static void serve_parent_and_child(struct daemon *daemon)
{
	struct daemon child = *daemon;
	daemon_accept(daemon);
	daemon_hello(daemon);
	daemon_expect(daemon, "write");
	daemon_accept(&child);
	daemon_hello(&child);
	DEMAND(message_field(&child.message, "seen") != NULL);
	daemon_expect(&child, "write");
	DEMAND(heard_uint(&child, "seq") == 1);
	daemon_answer(&child, 2);
	daemon_expect(&child, "bye");
	DEMAND(!daemon_hear(&child));
	daemon_answer(daemon, 1); /* the parent's connection saw nothing of all that */
	daemon_expect(daemon, "bye");
	DEMAND(!daemon_hear(daemon));
}

static void child_after_fork(lf_db *db, uint64_t ticket)
{
	lf_reply *reply = NULL;
	if (lf_fd(db) != -1 || lf_timeout_ms(db) != 0) {
		_exit(2);
	}
	if (lf_wait(db, ticket, &reply) != LF_UNKNOWN) {
		_exit(3);
	}
	lf_reply_free(reply);
	if (lf_exec(db, "SELECT 1", &reply) != LF_OK || lf_reply_commit(reply) != 2) {
		_exit(4);
	}
	lf_reply_free(reply);
	lf_close(db);
	_exit(0);
}

static void fork_in_the_middle(void **state)
{
	pid_t pid = play(serve_parent_and_child);
	lf_db *db = open_db(5000, false);
	lf_batch *batch = make_batch();
	lf_reply *reply = NULL;
	uint64_t ticket = 0;
	(void)state;
	assert_int_equal(lf_submit(db, batch, &ticket), 0);
	assert_int_equal(lf_flush(db, 5000), 0);
	while (lf_server_role(db)[0] == '\0') {
		(void)poll(NULL, 0, 1);
		assert_int_equal(lf_process(db), 0);
	}
	pid_t child = fork();
	if (child == 0) {
		child_after_fork(db, ticket);
	}
	played(child);
	assert_int_equal(lf_wait(db, ticket, &reply), LF_OK);
	assert_int_equal(lf_reply_commit(reply), 1);
	lf_reply_free(reply);
	lf_batch_free(batch);
	lf_close(db);
	played(pid);
}

static void flush_gives_up(void **state)
{
	lf_db *db = open_db(5000, false);
	lf_batch *batch = make_batch();
	uint64_t ticket = 0;
	(void)state;
	(void)unlink(socket_path);
	assert_int_equal(lf_flush(db, 0), 0);
	assert_int_equal(lf_submit(db, batch, &ticket), 0);
	assert_int_equal(lf_flush(db, 20), -ETIMEDOUT);
	assert_non_null(strstr(lf_errmsg(db), "not all was sent"));
	lf_batch_free(batch);
	lf_close(db); /* with a request in flight: abandoned */
}

/* ---- opening --------------------------------------------------------------------------------- */

static void socket_is_found(void **state)
{
	struct lf_options options = LF_OPTIONS_INIT;
	char expected[256];
	char path[256];
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(
		path, sizeof(path), "%s/../%s/not-there.db", folder, strrchr(folder, '/') + 1);
	(void)snprintf(expected, sizeof(expected), "%s/not-there.db-funnel", folder);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_string_equal(lf_socket_path(db), expected);
	lf_close(db);
	assert_int_equal(lf_open("no such folder/x.db", NULL, &db), 0);
	assert_string_equal(lf_socket_path(db), "no such folder/x.db-funnel");
	lf_close(db);
	assert_int_equal(setenv("LITEFUNNEL_SOCKET", "/from/environment", 1), 0);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_string_equal(lf_socket_path(db), "/from/environment");
	lf_close(db);
	options.socket_path = "/from/option";
	assert_int_equal(lf_open(path, &options, &db), 0);
	assert_string_equal(lf_socket_path(db), "/from/option");
	lf_close(db);
	assert_int_equal(unsetenv("LITEFUNNEL_SOCKET"), 0);
}

static void options_are_checked(void **state)
{
	struct lf_options options = LF_OPTIONS_INIT;
	char longest[130];
	char path[120];
	lf_db *db = NULL;
	(void)state;
	memset(longest, 'x', 129);
	longest[129] = '\0';
	assert_int_equal(lf_open(NULL, NULL, &db), -EINVAL);
	assert_int_equal(lf_open("", NULL, &db), -EINVAL);
	options.label = longest;
	assert_int_equal(lf_open(db_path, &options, &db), -EINVAL);
	options.label = longest + 1;
	options.request_class = "fast";
	assert_int_equal(lf_open(db_path, &options, &db), -EINVAL);
	options.request_class = "bulk";
	assert_int_equal(lf_open(db_path, &options, &db), 0);
	lf_close(db);
	options.size = offsetof(struct lf_options, label); /* an old program's: it knows no class */
	options.request_class = "fast";
	assert_int_equal(lf_open(db_path, &options, &db), 0);
	lf_close(db);
	options.size = 0;
	assert_int_equal(lf_open(db_path, &options, &db), -EINVAL);
	memset(path, 'p', 108);
	path[0] = '/';
	path[108] = '\0';
	options = (struct lf_options)LF_OPTIONS_INIT;
	options.socket_path = path;
	assert_int_equal(lf_open(db_path, &options, &db), -ENAMETOOLONG);
	path[107] = '\0';
	assert_int_equal(lf_open(db_path, &options, &db), 0);
	lf_close(db);
	lf_close(NULL);
}

static void wrong_batches_are_not_sent(void **state)
{
	lf_db *db = open_db(100, false);
	lf_batch *batch = lf_batch_new();
	lf_reply *reply = NULL;
	(void)state;
	assert_int_equal(lf_write(db, batch, &reply), -EINVAL);
	assert_true(lf_errmsg(db)[0] != '\0');
	lf_bind_int64(batch, 1);
	assert_int_equal(lf_write(db, batch, &reply), -EINVAL);
	assert_int_equal(lf_pending(db), 0);
	lf_batch_free(batch);
	lf_close(db);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void serve_whoever_comes(struct daemon *daemon)
{
	bool over = false;
	while (!over) {
		daemon_accept(daemon);
		while (daemon_hear(daemon)) {
			if (span_equal(daemon->message.method, "hello")) {
				/* heard already: answer it as daemon_hello() would */
				struct buffer buf;
				msgpack_packer packer;
				buffer_init(&buf, 0);
				size_t mark = message_begin_result(&buf, daemon->message.id);
				buffer_packer(&buf, &packer);
				msgpack_pack_map(&packer, 0);
				daemon_say(daemon, &buf, mark);
			} else {
				over = over || span_equal(daemon->message.method, "shutdown");
				daemon_answer(daemon, 1);
			}
		}
		daemon_drop(daemon);
	}
}

/* Whatever fails: -ENOMEM before anything was sent, or an outcome. */
static int write_short_of_memory(unsigned which)
{
	lf_db *db = NULL;
	lf_reply *reply = NULL;
	fail_alloc_at(which);
	int r = lf_open(db_path, NULL, &db);
	if (r == 0) {
		r = lf_exec(db, "INSERT INTO t VALUES (1)", &reply);
		assert_true(r == -ENOMEM || r == LF_OK);
		assert_true((reply != NULL) == (r >= 0));
		lf_reply_free(reply);
		lf_close(db);
	}
	return r;
}

static void every_allocation_may_fail(void **state)
{
	pid_t pid = play(serve_whoever_comes);
	(void)state;
	assert_int_equal(write_short_of_memory(0), LF_OK);
	unsigned count = fail_alloc_count;
	assert_true(count > 10);
	for (unsigned i = 1; i <= count; i++) {
		int r = write_short_of_memory(i);
		assert_true(r == LF_OK || r == -ENOMEM);
	}
	fail_alloc_at(0);
	lf_db *db = open_db(1000, false);
	assert_int_equal(lf_admin(db, "shutdown", NULL), LF_OK);
	lf_close(db);
	played(pid);
}

/* ---- reading --------------------------------------------------------------------------------- */

/* A database file as the daemon would leave it. epoch < 0: one that was never served. */
static void make_database(const char *path, int epoch, int commit, int value)
{
	sqlite3 *handle = NULL;
	char sql[512];
	assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
	(void)snprintf(sql, sizeof(sql),
		"PRAGMA journal_mode = WAL; CREATE TABLE t(v); INSERT INTO t VALUES (%d);", value);
	assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	if (epoch >= 0) {
		(void)snprintf(sql, sizeof(sql),
			"CREATE TABLE _lf_state(id INTEGER PRIMARY KEY, format, epoch, commit_no);"
			"INSERT INTO _lf_state VALUES (1, 1, x'%032x', %d);",
			(unsigned)epoch, commit);
		assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	}
	assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

static void change_database(const char *path, const char *sql)
{
	sqlite3 *handle = NULL;
	assert_int_equal(sqlite3_open(path, &handle), SQLITE_OK);
	assert_int_equal(sqlite3_exec(handle, sql, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_close(handle), SQLITE_OK);
}

/* With its WAL, as a restore does it: one left behind would bring the old rows into the new file.
 */
static void remove_database(const char *path)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	char name[256];
	for (int i = 0; i < 3; i++) {
		(void)snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		(void)unlink(name);
	}
}

static int read_value(sqlite3 *handle)
{
	sqlite3_stmt *stmt = NULL;
	assert_int_equal(sqlite3_prepare_v2(handle, "SELECT v FROM t", -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	int value = sqlite3_column_int(stmt, 0);
	assert_int_equal(sqlite3_finalize(stmt), SQLITE_OK);
	return value;
}

static void reader_follows_the_file(void **state)
{
	char odd[160];
	char other[160];
	sqlite3 *first = NULL;
	sqlite3 *handle = NULL;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(odd, sizeof(odd), "%s/a b%%41?mode=rw#\xc3\xa4.db", folder);
	(void)snprintf(other, sizeof(other), "%s/other.db", folder);
	assert_int_equal(lf_open(odd, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), -EIO);
	assert_non_null(strstr(lf_errmsg(db), "No such file"));
	make_database(odd, 5, 10, 1);
	assert_int_equal(lf_reader(db, &first), 0);
	assert_int_equal(read_value(first), 1);
	assert_int_equal(sqlite3_exec(first, "DELETE FROM t", NULL, NULL, NULL), SQLITE_READONLY);
	change_database(odd, "UPDATE t SET v = 2");
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_ptr_equal(handle, first);
	assert_int_equal(read_value(handle), 2);
	/* Another file under the name. */
	make_database(other, 5, 11, 3);
	remove_database(odd);
	assert_int_equal(rename(other, odd), 0);
	assert_int_equal(lf_reader(db, &handle), 1);
	assert_int_equal(read_value(handle), 3);
	assert_int_equal(lf_reader(db, &handle), 0);
	/* Another epoch in the same file, noticed by another call first. */
	change_database(odd, "UPDATE _lf_state SET epoch = x'00000000000000000000000000000006'");
	uint64_t commit = 0;
	uint8_t epoch[16];
	assert_int_equal(lf_snapshot(db, epoch, &commit), 0);
	assert_int_equal(commit, 11);
	assert_int_equal(epoch[15], 6);
	assert_int_equal(lf_reader(db, &handle), 1);
	assert_int_equal(lf_reader(db, &handle), 0);
	/* Gone and back. */
	remove_database(odd);
	assert_int_equal(lf_reader(db, &handle), -EIO);
	make_database(odd, 6, 12, 4);
	assert_int_equal(lf_reader(db, &handle), 1);
	assert_int_equal(read_value(handle), 4);
	lf_close(db);
}

static void reader_of_a_database_never_served(void **state)
{
	char path[128];
	sqlite3 *handle = NULL;
	uint64_t commit = 0;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/plain.db", folder);
	make_database(path, -1, 0, 1);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_int_equal(read_value(handle), 1);
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_int_equal(lf_snapshot(db, NULL, &commit), -EIO);
	assert_int_equal(lf_wait_commit(db, NULL, 1, 5), -ETIMEDOUT);
	lf_close(db);
}

static void reader_refuses_what_is_no_database(void **state)
{
	char path[128];
	sqlite3 *handle = NULL;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/text.db", folder);
	FILE *file = fopen(path, "w");
	(void)fputs("this is not a database, and long enough for SQLite to look at it twice........"
		    "..............................",
		file);
	(void)fclose(file);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), -EIO);
	assert_non_null(strstr(lf_errmsg(db), "not a database"));
	lf_close(db);
}

static void commits_are_waited_for(void **state)
{
	char path[128];
	uint8_t mine[16] = {[15] = 5};
	uint8_t strange[16] = {[15] = 9};
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/wait.db", folder);
	make_database(path, 5, 10, 1);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_wait_commit(db, mine, 10, 0), 0);
	assert_int_equal(lf_wait_commit(db, NULL, 9, 0), 0);
	assert_int_equal(lf_wait_commit(db, strange, 10, 1000), -ESTALE);
	assert_int_equal(lf_wait_commit(db, mine, 11, 10), -ETIMEDOUT);
	pid_t pid = fork();
	if (pid == 0) {
		(void)poll(NULL, 0, 50);
		change_database(path, "UPDATE _lf_state SET commit_no = 11");
		_exit(0);
	}
	assert_int_equal(lf_wait_commit(db, mine, 11, 5000), 0);
	played(pid);
	lf_close(db);
}

/* Locks of this process on the file, from the kernel's list. */
static int locks_held(const char *path)
{
	struct stat found;
	char line[256];
	char pattern[64];
	int count = 0;
	assert_int_equal(stat(path, &found), 0);
	(void)snprintf(pattern, sizeof(pattern), " %d ", (int)getpid());
	char inode[32];
	(void)snprintf(inode, sizeof(inode), ":%llu ", (unsigned long long)found.st_ino);
	FILE *locks = fopen("/proc/locks", "r");
	while (locks != NULL && fgets(line, sizeof(line), locks) != NULL) {
		count += strstr(line, pattern) != NULL && strstr(line, inode) != NULL ? 1 : 0;
	}
	if (locks != NULL) {
		(void)fclose(locks);
	}
	return count;
}

static void reader_in_a_forked_child(void **state)
{
	char path[128];
	char shm[160];
	sqlite3 *handle = NULL;
	lf_db *db = NULL;
	(void)state;
	(void)snprintf(path, sizeof(path), "%s/fork.db", folder);
	(void)snprintf(shm, sizeof(shm), "%s-shm", path);
	make_database(path, 5, 10, 1);
	assert_int_equal(lf_open(path, NULL, &db), 0);
	assert_int_equal(lf_reader(db, &handle), 0);
	int of_parent = locks_held(shm);
	assert_true(of_parent > 0);
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *own = NULL;
		int r = lf_reader(db, &own);
		bool locked = locks_held(shm) > 0 && locks_held(path) > 0;
		bool read = r == 1 && read_value(own) == 1;
		lf_close(db);
		_exit(locked && read ? 0 : 1);
	}
	played(pid);
	assert_int_equal(locks_held(shm), of_parent);
	assert_int_equal(lf_reader(db, &handle), 0);
	assert_int_equal(read_value(handle), 1);
	lf_close(db);
}

/* ---- running --------------------------------------------------------------------------------- */

static int make_folder(void **state)
{
	(void)state;
	(void)strcpy(folder, "/tmp/lf-client-XXXXXX");
	if (mkdtemp(folder) == NULL) {
		return -1;
	}
	(void)snprintf(db_path, sizeof(db_path), "%s/app.db", folder);
	(void)snprintf(socket_path, sizeof(socket_path), "%s/app.db-funnel", folder);
	return unsetenv("LITEFUNNEL_SOCKET");
}

static int remove_folder(void **state)
{
	char command[128];
	(void)state;
	(void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(write_and_read_the_reply),
		cmocka_unit_test(a_restart_is_not_noticed),
		cmocka_unit_test(without_retry_a_lost_answer_is_unknown),
		cmocka_unit_test(nobody_there_is_failed),
		cmocka_unit_test(last_answers_are_read_after_a_failed_send),
		cmocka_unit_test(foreign_loop),
		cmocka_unit_test(other_requests),
		cmocka_unit_test(fork_in_the_middle),
		cmocka_unit_test(flush_gives_up),
		cmocka_unit_test(socket_is_found),
		cmocka_unit_test(options_are_checked),
		cmocka_unit_test(wrong_batches_are_not_sent),
		cmocka_unit_test(every_allocation_may_fail),
		cmocka_unit_test(reader_follows_the_file),
		cmocka_unit_test(reader_of_a_database_never_served),
		cmocka_unit_test(reader_refuses_what_is_no_database),
		cmocka_unit_test(commits_are_waited_for),
		cmocka_unit_test(reader_in_a_forked_child),
	};
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
