/* SPDX-License-Identifier: MIT */

/*
 * A whole funnel, with its queue, writer and store, under up to four clients whose every move the
 * input decides: what they send and in which pieces, when they read, leave or stay silent, when the
 * writer works, when time passes and when a signal comes. The first byte of a move says which, and
 * of whom; move() lists them.
 *
 * Besides not crashing, this must hold: what the daemon sends is whole frames of good messages; no
 * request is answered twice, and none stays unanswered on a connection that lives; errors say what
 * clients decide by; a numbered or keyed write is never executed a second time; a drain ends; no
 * descriptor stays open.
 */

#include "proto/buffer.h"
#include "proto/frame.h"
#include "proto/message.h"
#include "tests/fuzz/hand_funnel.h"
#include "tests/fuzz/hand_loop.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef STORE_FRESH_EVERY
#define STORE_FRESH_EVERY 512 /* inputs; 1 makes each input stand alone */
#endif

enum {
	CLIENTS = 4,
	IDS_MAX = 200, /* requests of one connection that are followed */
	MOVES_MAX = 300,
	SESSIONS = 2,
	SEQS = 32,
	DRAIN_TURNS_MAX = 1000,
	SQLITE_CONSTRAINT_CODE = 19,
};

/* What is known of a request that was sent: how many answers are due, and which write it was. */
struct asked {
	uint8_t due;
	uint8_t once; /* 1 + its place in `once`, 0: none of those */
};

struct client {
	int fd;
	struct frame_reader reader;
	struct asked asked[IDS_MAX];
	uint32_t ids;
	uint8_t hellos;
	uint8_t session; /* 1 + its slot, from hello; 0: none */
	uint8_t piece;   /* how many bytes go out at a time; 0: all */
	bool wild;       /* it sent bytes of its own making: its ids are not known */
	bool told_off;   /* `closing` has come */
	bool half_open;  /* it has shut down its sending side */
};

static struct {
	const uint8_t *data;
	size_t left;
} input;

static struct client clients[CLIENTS];
static struct buffer out;
static uint64_t execution;
static uint64_t received; /* bytes, by all clients */
static bool may_stall;    /* who does not read while time passes is closed without a word */
static bool told_to_end;

/* Writes that must take effect once, by session and seq, and by key; and how often they were told OK. */
static struct {
	uint8_t told;
	bool free; /* it may be done again: its session was forgotten */
} once[(SESSIONS + 1) * SEQS];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define check(holds) check_at((holds), #holds, __LINE__)

static void check_at(bool holds, const char *text, int line)
{
	if (!holds) {
		(void)fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, line, text);
		abort();
	}
}

static uint8_t next_byte(void)
{
	if (input.left == 0) {
		return 0;
	}
	input.left--;
	return *input.data++;
}

/* ---- what clients receive ---- */

static void check_once(
	const struct asked *asked, const msgpack_object *error, const msgpack_object *result)
{
	int64_t sqlite = 0;
	bool repeat = false;
	if (asked->once == 0 || once[asked->once - 1].free) {
		return;
	}
	if (error->type == MSGPACK_OBJECT_NIL) {
		const msgpack_object *object = object_get(result, "repeat");
		(void)(object != NULL && object_bool(object, &repeat));
		check(repeat || once[asked->once - 1].told++ == 0);
	} else if (object_get(error, "sqlite") != NULL &&
		object_int64(object_get(error, "sqlite"), &sqlite)) {
		check((sqlite & 0xff) != SQLITE_CONSTRAINT_CODE);
	}
}

static void check_error(const msgpack_object *error)
{
	struct span word;
	bool retry = false;
	const msgpack_object *applied = object_get(error, "applied");
	const msgpack_object *again = object_get(error, "retry");
	const msgpack_object *code = object_get(error, "code");
	check(code != NULL && object_str(code, &word) && word.len > 0);
	check(again != NULL && object_bool(again, &retry));
	check(applied != NULL && object_str(applied, &word));
	check(span_equal(word, "no") || span_equal(word, "yes") || span_equal(word, "unknown"));
}

static void take_reply(struct client *client, const struct message *message)
{
	bool failed = message->error->type != MSGPACK_OBJECT_NIL;
	if (failed) {
		check_error(message->error);
	} else {
		check(message->result->type == MSGPACK_OBJECT_MAP);
	}
	if (!client->wild) {
		check(message->id < client->ids && client->asked[message->id].due > 0);
		client->asked[message->id].due--;
		check_once(&client->asked[message->id], message->error, message->result);
	}
}

static void take_frame(struct client *client, const uint8_t *payload, size_t len)
{
	struct message message;
	msgpack_zone zone;
	check(!client->told_off); /* `closing` is the last word */
	check(msgpack_zone_init(&zone, 4096));
	check(message_parse(payload, len, &zone, &message) == 0);
	check(message.type != MESSAGE_REQUEST);
	if (message.type == MESSAGE_REPLY) {
		take_reply(client, &message);
	} else {
		client->told_off |= span_equal(message.method, "closing");
	}
	msgpack_zone_destroy(&zone);
}

static void forget(struct client *client)
{
	if (client->fd >= 0) {
		close(client->fd);
	}
	frame_reader_finish(&client->reader);
	*client = (struct client){.fd = -1};
}

/* The daemon says why it closes, if somebody listens. */
static void closed(struct client *client, bool reset)
{
	check(client->told_off || client->wild || client->half_open || reset || may_stall ||
		told_to_end);
	forget(client);
}

/* Everything that has come. */
static void receive(struct client *client)
{
	while (client->fd >= 0) {
		uint8_t *room = NULL;
		const uint8_t *payload = NULL;
		size_t bytes = 0;
		check(frame_reader_room(&client->reader, 16384, &room, &bytes) == 0);
		ssize_t got = read(client->fd, room, bytes);
		if (got <= 0) {
			if (got == 0 || errno != EAGAIN) {
				closed(client, got < 0);
			}
			return;
		}
		received += (uint64_t)got;
		frame_reader_fed(&client->reader, (size_t)got);
		int condition = 0;
		while ((condition = frame_reader_next(&client->reader, &payload, &bytes)) == 0) {
			take_frame(client, payload, bytes);
		}
		check(condition == FRAME_MORE);
	}
}

/* ---- what clients send ---- */

static bool connected(struct client *client)
{
	if (client->fd >= 0) {
		return true;
	}
	client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	check(client->fd >= 0);
	if (connect(client->fd, (struct sockaddr *)&hand_address, hand_address_len) != 0) {
		forget(client); /* it is draining */
		return false;
	}
	frame_reader_init(&client->reader, FRAME_MAX_LIMIT);
	hand_turn();
	return true;
}

/* A client that the daemon does not read any more loses what it sends; that is its affair. */
static void put(struct client *client, const uint8_t *data, size_t len)
{
	size_t at = 0;
	if (!connected(client) || client->half_open) {
		return;
	}
	while (client->fd >= 0 && at < len) {
		size_t piece =
			client->piece != 0 && client->piece < len - at ? client->piece : len - at;
		ssize_t sent = write(client->fd, data + at, piece);
		if (sent <= 0) {
			client->wild = true; /* the stream has a hole now */
			return;
		}
		at += (size_t)sent;
		hand_turn();
	}
}

/* A request of our own making begins in `out`: params are to follow. -1: no more of them. */
static int begin(struct client *client, const char *method, bool same_id, uint32_t params)
{
	msgpack_packer packer;
	if (client->ids >= IDS_MAX || !connected(client)) {
		return -1;
	}
	if (!same_id || client->ids == 0) {
		client->ids++;
	}
	client->asked[client->ids - 1].once = 0;
	buffer_clear(&out);
	(void)message_begin_request(&out, client->ids - 1, method);
	buffer_packer(&out, &packer);
	msgpack_pack_map(&packer, params);
	return (int)client->ids - 1;
}

static void send_request(struct client *client)
{
	client->asked[client->ids - 1].due++;
	frame_end(&out, 0);
	put(client, out.data, out.len);
}

static void pack_session(msgpack_packer *packer, unsigned slot)
{
	uint8_t session[16] = {(uint8_t)(slot + 1)};
	memcpy(session + 8, &execution, sizeof(execution));
	pack_cstr(packer, "session");
	pack_bin(packer, session, sizeof(session));
}

static void say_hello(struct client *client, unsigned extra)
{
	static const char *const classes[] = {"interactive", "normal", "bulk", "none"};
	msgpack_packer packer;
	uint8_t how = next_byte();
	bool session = (how & 4) == 0;
	if (begin(client, "hello", false, session ? 4 : 3) < 0) {
		return;
	}
	client->hellos++;
	client->session = session ? (how >> 3 & 1) + 1 : 0;
	buffer_packer(&out, &packer);
	pack_key_uint(&packer, "proto", (how & 16) != 0 ? how : 1);
	pack_key_str(&packer, "client", "fuzz/1");
	pack_key_str(&packer, "class", classes[how & 3 & extra]);
	if (session) {
		pack_session(&packer, how >> 3 & 1);
	}
	send_request(client);
}

static const char *const statements[] = {
	"INSERT INTO t VALUES (?1, ?2)",
	"INSERT OR ROLLBACK INTO t VALUES (?1, ?2)",
	"INSERT INTO c VALUES (?1)",
	"SELECT * FROM t",
	"DELETE FROM t WHERE a > ?1",
	"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
	"INSERT INTO t SELECT ?1, ?2 RETURNING a",
	"SELECT zeroblob(30000)",
	"PRAGMA foreign_keys = off",
	"COMMIT",
	"CREATE TABLE IF NOT EXISTS s(a, b)",
	"DROP TABLE IF EXISTS s",
	"INSERT INTO s VALUES (?1, ?2)",
	"INSERT INTO f VALUES (?1)",
	"UPDATE p SET a = a + ?1",
	"INSERT INTO t VALUES (?1, ?2); -- ",
};

enum { STATEMENTS = sizeof(statements) / sizeof(statements[0]) };

static void pack_step(msgpack_packer *packer)
{
	uint8_t what = next_byte();
	uint8_t how = next_byte();
	msgpack_pack_array(packer, 3);
	pack_cstr(packer, statements[what % STATEMENTS]);
	msgpack_pack_array(packer, how & 3);
	for (unsigned i = 0; i < (how & 3u); i++) {
		msgpack_pack_int(packer, what >> 4);
	}
	msgpack_pack_map(packer, (how >> 2 & 1) + (how >> 3 & 1));
	if ((how & 4) != 0) {
		pack_key_uint(packer, "rows", how >> 4);
	}
	if ((how & 8) != 0) {
		pack_key_bool(packer, (how & 16) != 0 ? "truncate" : "script", true);
	}
}

/* Any batch: some steps, perhaps with a deadline, a seq, a `done`, a key. */
static void write_batch(struct client *client, unsigned extra)
{
	msgpack_packer packer;
	uint8_t how = next_byte();
	uint8_t number = next_byte();
	bool seq = (how & 1) != 0;
	bool key = (how & 2) != 0;
	bool deadline = (how & 4) != 0;
	unsigned steps = how >> 6;
	if (begin(client, "write", (how & 32) != 0, 1u + seq + seq + key + deadline) < 0) {
		return;
	}
	buffer_packer(&out, &packer);
	if (seq) {
		pack_key_uint(&packer, "seq", SEQS + number); /* not those of write_once() */
		pack_key_uint(&packer, "done", SEQS + (number > extra ? number - extra : 0));
	}
	if (key) {
		pack_key_str(&packer, "key", (number & 1) != 0 ? "other" : "key");
	}
	if (deadline) {
		pack_key_uint(&packer, "deadline_ms", number);
	}
	pack_cstr(&packer, "batch");
	msgpack_pack_array(&packer, steps);
	for (unsigned i = 0; i < steps; i++) {
		pack_step(&packer);
	}
	send_request(client);
}

/* A write that a second execution would betray, since its row is unique. */
static void write_once(struct client *client, bool by_key)
{
	msgpack_packer packer;
	char key[32];
	unsigned slot = by_key ? SESSIONS : client->session - 1u;
	unsigned place = slot * SEQS + next_byte() % (SEQS - 1) + 1;
	if (client->hellos != 1 || slot > SESSIONS) {
		return; /* whose seq it would be is not sure */
	}
	int id = begin(client, "write", false, 2);
	if (id < 0) {
		return;
	}
	client->asked[id].once = (uint8_t)(place + 1);
	buffer_packer(&out, &packer);
	if (by_key) {
		(void)snprintf(key, sizeof(key), "%llx.%u", (unsigned long long)execution, place);
		pack_key_str(&packer, "key", key);
	} else {
		pack_key_uint(&packer, "seq", place % SEQS);
	}
	pack_cstr(&packer, "batch");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_array(&packer, 2);
	pack_cstr(&packer, "INSERT INTO once VALUES (?1)");
	msgpack_pack_array(&packer, 1);
	msgpack_pack_uint64(&packer, execution * 1000 + place);
	send_request(client);
}

/* The memory of its session goes, or may go: which one that is, only a single hello tells. */
static void may_forget(const struct client *client)
{
	bool sure = client->hellos == 1;
	for (unsigned i = 0; i < SESSIONS * SEQS; i++) {
		once[i].free |= !sure || i / SEQS + 1 == client->session;
	}
}

static void ask(struct client *client, const char *method, const char *key, const char *text)
{
	msgpack_packer packer;
	if (begin(client, method, false, key != NULL) < 0) {
		return;
	}
	if (key != NULL) {
		buffer_packer(&out, &packer);
		pack_key_str(&packer, key, text);
	}
	send_request(client);
}

static void ask_something(struct client *client, unsigned extra)
{
	static const char *const tables[] = {"clients", "queue", "config", "stats", "nothing"};
	uint8_t what = next_byte();
	switch ((what & 3) + 4 * (extra & 1)) {
	case 0:
		ask(client, "ping", NULL, NULL);
		break;
	case 1:
		may_forget(client);
		ask(client, "bye", NULL, NULL);
		break;
	case 2:
		ask(client, "show", "what", tables[(what >> 2) % 5]);
		break;
	case 3:
		ask(client, "describe", "sql", statements[(what >> 2) % STATEMENTS]);
		break;
	case 4:
		ask(client, "reload", NULL, NULL);
		break;
	case 5:
		told_to_end = told_to_end || (what >> 2) == 0;
		ask(client, (what >> 2) == 0 ? "shutdown" : "nothing", NULL, NULL);
		break;
	default:
		ask(client, "show", "like", "%");
		break;
	}
}

static void cancel(struct client *client)
{
	msgpack_packer packer;
	if (!connected(client)) {
		return;
	}
	buffer_clear(&out);
	(void)message_begin_notice(&out, "cancel");
	buffer_packer(&out, &packer);
	msgpack_pack_map(&packer, 1);
	pack_key_uint(&packer, "id", next_byte());
	frame_end(&out, 0);
	put(client, out.data, out.len);
}

/* Bytes of the input itself, as a frame or as they are. */
static void send_bytes(struct client *client, bool frame)
{
	size_t len = next_byte();
	len = (len & 128) != 0 ? (len & 127) * 16 : len;
	len = len < input.left ? len : input.left;
	if (!connected(client)) {
		return;
	}
	client->wild = true;
	client->hellos = 2;
	for (unsigned i = 0; i < SESSIONS * SEQS; i++) {
		once[i].free = true; /* it may say anything of any session */
	}
	buffer_clear(&out);
	size_t mark = frame ? frame_begin(&out) : 0;
	buffer_append(&out, input.data, len);
	if (frame) {
		frame_end(&out, mark);
	}
	input.data += len;
	input.left -= len;
	put(client, out.data, out.len);
}

/* ---- moves ---- */

static void leave(struct client *client, unsigned extra)
{
	if (client->fd < 0) {
		return;
	}
	if ((extra & 1) != 0) {
		(void)shutdown(client->fd, SHUT_WR);
		client->half_open = true;
	} else {
		forget(client);
	}
	hand_turn();
}

static void disturb(unsigned extra)
{
	uint8_t how = next_byte();
	hand_io = (struct hand_io){
		.bytes_max = how & 15, .interrupts = (how & 16) != 0, .blocked = (extra & 1) != 0};
}

static void receive_all(void)
{
	for (size_t i = 0; i < CLIENTS; i++) {
		receive(&clients[i]);
	}
}

static void move(void)
{
	uint8_t what = next_byte();
	struct client *client = &clients[what >> 4 & 3];
	unsigned extra = what >> 6;
	switch (what & 15) {
	case 0:
		send_bytes(client, false);
		break;
	case 1:
		send_bytes(client, true);
		break;
	case 2:
		say_hello(client, extra);
		break;
	case 3:
	case 4:
		write_batch(client, extra);
		break;
	case 5:
		write_once(client, (extra & 1) != 0);
		break;
	case 6:
		ask_something(client, extra);
		break;
	case 7:
		cancel(client);
		break;
	case 8:
	case 9:
		hand_let_writer_work();
		break;
	case 10:
		receive(client);
		break;
	case 11:
		leave(client, extra);
		break;
	case 12:
		may_stall |= extra != 0;
		hand_pass_us((uint64_t)next_byte() * (extra != 0 ? 40000 : 100));
		break;
	case 13:
		client->piece = next_byte();
		break;
	case 14:
		disturb(extra);
		break;
	default:
		hand_role = (enum role)(next_byte() % (ROLE_ADMIN + 1));
		if (extra == 3) {
			hand_signal(SIGHUP);
		}
		break;
	}
	hand_turn();
}

/* Everything that was asked has its answer by now. */
static void settle(void)
{
	for (int quiet = 0; quiet < 2 && !hand_stopped(); quiet++) {
		uint64_t before = received;
		hand_turn();
		hand_let_writer_work();
		hand_turn();
		receive_all();
		quiet = received == before ? quiet : 0;
	}
	for (size_t i = 0; i < CLIENTS; i++) {
		struct client *client = &clients[i];
		bool followed = client->fd >= 0 && !client->wild && !client->told_off;
		for (size_t id = 0; followed && !told_to_end && id < client->ids; id++) {
			check(client->asked[id].due == 0);
		}
	}
}

static void play(void *ctx)
{
	(void)ctx;
	for (int i = 0; i < MOVES_MAX && input.left > 0 && !hand_stopped(); i++) {
		move();
	}
	hand_io = (struct hand_io){0}; /* megabytes byte by byte would take minutes */
	settle();
	told_to_end = true;
	hand_signal(SIGTERM);
	for (int i = 0; !hand_stopped(); i++) {
		check(i < DRAIN_TURNS_MAX);
		hand_turn();
		hand_let_writer_work();
		hand_turn();
		receive_all();
		hand_pass_us(100000);
	}
	for (size_t i = 0; i < CLIENTS; i++) {
		forget(&clients[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	input.data = data;
	input.left = size;
	may_stall = false;
	told_to_end = false;
	memset(once, 0, sizeof(once));
	for (size_t i = 0; i < CLIENTS; i++) {
		clients[i] = (struct client){.fd = -1};
	}
	buffer_init(&out, 0);
	hand_funnel_run(execution++ % STORE_FRESH_EVERY == 0, play);
	buffer_finish(&out);
	return 0;
}
