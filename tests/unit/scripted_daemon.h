/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * For tests of the public calls: a folder, and a scripted daemon behind a real socket in it. Each
 * script is a forked process that plays one conversation and exits 0 if it heard what it expected.
 */

#include "client/litefunnel.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "tests/unit/cmocka_all.h"

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

/* ---- the folder ---- */

static inline int make_folder(void **state)
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

static inline int remove_folder(void **state)
{
	char command[128];
	(void)state;
	(void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

/* ---- the scripted daemon ---- */

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

static inline void daemon_accept(struct daemon *daemon)
{
	daemon->fd = accept(daemon->listener, NULL, NULL);
	DEMAND(daemon->fd >= 0);
	frame_reader_init(&daemon->reader, FRAME_MAX_LIMIT);
	(void)msgpack_zone_init(&daemon->zone, 4096);
}

static inline void daemon_drop(struct daemon *daemon)
{
	(void)close(daemon->fd);
	frame_reader_finish(&daemon->reader);
	msgpack_zone_destroy(&daemon->zone);
}

/* Hears the next message; false at the end of the stream. */
static inline bool daemon_hear(struct daemon *daemon)
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

static inline uint64_t heard_uint(const struct daemon *daemon, const char *key)
{
	const struct field *field = message_field(&daemon->message, key);
	uint64_t value = 0;
	if (field != NULL) {
		DEMAND(object_uint64(field->value, &value));
	}
	return value;
}

static inline void daemon_expect(struct daemon *daemon, const char *method)
{
	DEMAND(daemon_hear(daemon));
	DEMAND(span_equal(daemon->message.method, method));
}

static inline void daemon_say(struct daemon *daemon, struct buffer *buf, size_t mark)
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

static inline void daemon_hello(struct daemon *daemon)
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
static inline void daemon_answer(struct daemon *daemon, uint64_t commit)
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

static inline void daemon_answer_empty(struct daemon *daemon)
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

static inline int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	(void)unlink(path);
	(void)strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

static inline pid_t play(void (*script)(struct daemon *daemon))
{
	int listener = listen_at(socket_path);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct daemon daemon = {.listener = listener, .fd = -1};
		(void)alarm(20);
		script(&daemon);
		_exit(0);
	}
	(void)close(listener);
	return pid;
}

static inline void played(pid_t pid)
{
	int status = 0;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	(void)unlink(socket_path);
}

/* ---- what tests open and send ---- */

static inline lf_db *open_db(uint32_t deadline_ms, bool no_retry)
{
	struct lf_options options = LF_OPTIONS_INIT;
	lf_db *db = NULL;
	options.deadline_ms = deadline_ms;
	options.no_retry = no_retry;
	assert_int_equal(lf_open(db_path, &options, &db), 0);
	return db;
}

static inline lf_batch *make_batch(void)
{
	lf_batch *batch = lf_batch_new();
	lf_batch_step(batch, "INSERT INTO t VALUES (?)");
	lf_bind_int64(batch, 1);
	return batch;
}
