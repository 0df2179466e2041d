/* SPDX-License-Identifier: MIT */

/*
 * See hand_funnel.h. Everything here is the product's own but the loop: its settings are small, so
 * that a short input reaches every limit.
 */

#include "tests/fuzz/hand_funnel.h"

#include "server/admin/show.h"
#include "server/base/config.h"
#include "server/base/log.h"
#include "server/funnel/funnel.h"
#include "tests/fuzz/hand_loop.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct sockaddr_un hand_address;
socklen_t hand_address_len;

static struct config config;

static void check(bool holds)
{
	if (!holds) {
		abort();
	}
}

static int set_all(struct config *to, char error[CONFIG_ERROR_BYTES])
{
	static const char *const values[][2] = {
		{"in_flight_max", "6"},
		{"frame_bytes_max", "64KiB"},
		{"output_bytes_max", "64KiB"},
		{"rows_max", "50"},
		{"result_bytes_max", "40KiB"},
		{"queue_max", "12"},
		{"queue_bytes_max", "64KiB"},
		{"connections_max", "3"},
		{"connections_reserved", "0"},
		{"commit_group_max", "5"},
		{"checkpoint_frames", "20"},
		{"exec_timeout", "5ms"},
		{"deadline", "2s"},
		{"hello_timeout", "1s"},
		{"frame_timeout", "3s"},
		{"stall_timeout", "2s"},
		{"drain_timeout", "1s"},
		{"session_ttl", "24h"},
		{"disk_floor", "0"},
		{"reserve_bytes", "0"},
		{"slow", "0"},
		{"log_level", "error"},
	};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < sizeof(values) / sizeof(values[0]); i++) {
		rc = config_set(to, values[i][0], values[i][1], SETTING_FROM_OPTION, error);
	}
	return rc;
}

static int reload(void *ctx, struct config *fresh, char error[CONFIG_ERROR_BYTES])
{
	(void)ctx;
	return set_all(fresh, error);
}

static void notify(void *ctx, const char *what)
{
	(void)ctx;
	(void)what;
}

static void poisoned(void *ctx, const char *reason)
{
	(void)ctx;
	(void)fprintf(stderr, "poisoned: %s\n", reason);
	abort(); /* nothing here fails a commit */
}

static char dir[64];
static char path[80];
static char reserve[96];
static struct store *store;

static void remove_files(void)
{
	static const char *const suffixes[] = {"", "-wal", "-shm", "-reserve"};
	char name[96];
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		(void)snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
		(void)unlink(name);
	}
}

static void clean_up(void)
{
	store_close(store);
	store = NULL;
	remove_files();
	(void)rmdir(dir);
	config_finish(&config);
}

static void prepare(void)
{
	char error[CONFIG_ERROR_BYTES] = "";
	(void)snprintf(dir, sizeof(dir), "%s/litefunnel-fuzz-XXXXXX",
		access("/dev/shm", W_OK) == 0 ? "/dev/shm" : P_tmpdir);
	check(mkdtemp(dir) != NULL);
	(void)snprintf(path, sizeof(path), "%s/app.db", dir);
	(void)snprintf(reserve, sizeof(reserve), "%s-reserve", path);
	check(config_init(&config) == 0 && set_all(&config, error) == 0);
	log_setup(STDERR_FILENO, LOG_LEVEL_ERROR, LOG_FORMAT_LOGFMT);
	(void)signal(SIGPIPE, SIG_IGN);
	(void)atexit(clean_up);
}

static void fresh_store(void)
{
	static const char schema[] =
		"CREATE TABLE t(a UNIQUE, b); CREATE TABLE p(a INTEGER PRIMARY KEY);"
		"CREATE TABLE c(a REFERENCES p DEFERRABLE INITIALLY DEFERRED);"
		"CREATE TABLE once(k INTEGER PRIMARY KEY); CREATE TABLE f(a);"
		"CREATE TRIGGER g BEFORE INSERT ON f WHEN new.a = 3 BEGIN SELECT RAISE(ROLLBACK, 'g'); END;"
		"INSERT INTO p VALUES (1), (2)";
	char error[STORE_ERROR_BYTES] = "";
	struct store_options options = {.path = path,
		.foreign_keys = true,
		.extensions = "",
		.cache_bytes = 1 << 20,
		.heap_bytes_max = 32 << 20,
		.statements_max = 50,
		.sql_bytes_max = 20000,
		.session_window = 12};
	sqlite3 *db = NULL;
	store_close(store);
	store = NULL;
	remove_files();
	check(sqlite3_open(path, &db) == SQLITE_OK);
	check(sqlite3_exec(db, schema, NULL, NULL, NULL) == SQLITE_OK);
	check(sqlite3_close(db) == SQLITE_OK);
	if (store_open(&options, &store, error) != 0) {
		(void)fprintf(stderr, "%s\n", error);
		abort();
	}
}

static int listen_anywhere(void)
{
	struct sockaddr_un any = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	check(fd >= 0 && bind(fd, (struct sockaddr *)&any, sizeof(any.sun_family)) == 0);
	check(listen(fd, 16) == 0);
	hand_address_len = sizeof(hand_address);
	check(getsockname(fd, (struct sockaddr *)&hand_address, &hand_address_len) == 0);
	return fd;
}

/* The lowest descriptor that is free. */
static int free_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	check(fd >= 0 && close(fd) == 0);
	return fd;
}

void hand_funnel_run(bool fresh, void (*script)(void *ctx))
{
	if (dir[0] == 0) {
		prepare();
	}
	if (fresh || store == NULL) {
		fresh_store();
	}
	int fd = free_fd();
	struct funnel_options options = {
		.store = store,
		.config = &config,
		.db = path,
		.socket = "",
		.reserve = reserve,
		.listen_fd = listen_anywhere(),
		.show = show_table,
		.reload = reload,
		.notify = notify,
		.poisoned = poisoned,
	};
	hand_begin();
	hand_script = script;
	check(funnel_run(&options) >= 0);
	check(free_fd() == fd);
}
