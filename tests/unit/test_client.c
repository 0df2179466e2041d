/* SPDX-License-Identifier: MIT */

/* The public calls that write, and opening, against a scripted daemon behind a real socket. */

#include "tests/unit/fail_alloc.h"
#include "tests/unit/scripted_daemon.h"

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
	};
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
