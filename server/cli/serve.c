/* SPDX-License-Identifier: MIT */

/*
 * litefunnel serve: from a command line to a running funnel, and back to a process that has left
 * everything as its readers need it. It refuses to start where it could not keep its promises.
 */

#include "server/admin/show.h"
#include "server/base/child.h"
#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/base/config.h"
#include "server/base/disk.h"
#include "server/base/large_stack.h"
#include "server/base/log.h"
#include "server/base/notify.h"
#include "server/base/place.h"
#include "server/cli/children.h"
#include "server/cli/cli.h"
#include "server/cli/missing.h"
#include "server/cli/replicas.h"
#include "server/funnel/credentials.h"
#include "server/funnel/funnel.h"
#include "server/funnel/listener.h"
#include "server/store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel serve DB [--create] [--restore-if-missing] [--config FILE] [options]\n"
	"\n"
	"Owns the only writable handle of the SQLite database DB (or LITEFUNNEL_DB) and takes\n"
	"batches of writes on the Unix socket DB-funnel. Runs in the foreground until SIGTERM, then\n"
	"answers what is queued and stops. SIGHUP reads the settings again.\n"
	"\n"
	"  --create        make the database if there is none\n"
	"  --restore-if-missing\n"
	"                  restore it from its replica if there is none; with --create too, make\n"
	"                  it only if the replica answers and holds nothing\n"
	"  --config FILE   read settings from FILE (or LITEFUNNEL_CONFIG)\n"
	"  --help          this text\n"
	"\n"
	"Every setting below is also a line `name = value` of the file, with underscores, and a\n"
	"variable LITEFUNNEL_NAME. An option wins over the environment, and that over the file.\n"
	"\n";

/* Places in the table of options: the settings come first. */
enum {
	OPTION_CREATE = SETTING_COUNT,
	OPTION_RESTORE_IF_MISSING,
	OPTION_CONFIG,
	OPTION_HELP,
	OPTIONS,
};

/* What getopt_long() answers for the first of them: no setting may be taken for its '?'. */
enum { OPTION_FIRST = 256 };

struct serving {
	struct config config;
	struct place place;
	char *config_path; /* or NULL */
	struct given {     /* options of the command line, for a reload */
		enum setting_id setting;
		const char *value;
	} given[256];
	size_t given_count;
	bool create;
	bool restore_if_missing;
	int lock_fd;
	int listen_fd;
	bool bound;           /* the socket is ours to remove, … */
	struct stat bound_at; /* … as long as it is this one */
	struct board *board;  /* NULL: nothing is shipped */
	pid_t shipper_pid;
	int shipper_fd;
};

/* ---- settings ---- */

/* The long options: all settings, with dashes, and a few that are none. */
static void fill_options(struct option *options, char names[][64])
{
	for (int i = 0; i < SETTING_COUNT; i++) {
		snprintf(names[i], 64, "%s", settings[i].name);
		for (char *at = names[i]; *at != 0; at++) {
			*at = *at == '_' ? '-' : *at;
		}
		options[i] = (struct option){names[i], required_argument, NULL, OPTION_FIRST + i};
	}
	const struct option others[] = {
		{"create", no_argument, NULL, OPTION_CREATE},
		{"restore-if-missing", no_argument, NULL, OPTION_RESTORE_IF_MISSING},
		{"config", required_argument, NULL, OPTION_CONFIG},
		{"help", no_argument, NULL, OPTION_HELP},
	};
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		options[others[i].val] = others[i];
		options[others[i].val].val += OPTION_FIRST;
	}
	options[OPTIONS] = (struct option){0};
}

/* Fills `config` from the options, the environment and the file, in this order of strength. */
static int read_settings(void *ctx, struct config *config, char ret_error[CONFIG_ERROR_BYTES])
{
	const struct serving *serving = ctx;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < serving->given_count; i++) {
		const struct given *given = &serving->given[i];
		rc = config_set(config, settings[given->setting].name, given->value,
			SETTING_FROM_OPTION, ret_error);
	}
	rc = rc == 0 ? config_read_environment(config, ret_error) : rc;
	if (rc == 0 && serving->config_path != NULL) {
		rc = config_read_file(config, serving->config_path, ret_error);
	}
	return rc;
}

/* A role or a class that nobody has: most likely a slip of the pen, or a user that was removed. */
static void warn_of_unknown(void *ctx, const char *setting, const char *name)
{
	(void)ctx;
	log_warn("a setting names a user or group that this machine does not know",
		log_str("setting", setting), log_str("name", name));
}

static int reload_settings(void *ctx, struct config *config, char ret_error[CONFIG_ERROR_BYTES])
{
	int rc = read_settings(ctx, config, ret_error);
	if (rc == 0) {
		credentials_find_unknown(config, warn_of_unknown, NULL);
	}
	return rc;
}

/* -1: go on. Otherwise the exit code. */
static int parse_options(struct serving *serving, int argc, char **argv, const char **ret_db)
{
	struct option options[OPTIONS + 1];
	char names[SETTING_COUNT][64];
	int option = 0;
	fill_options(options, names);
	const char *config_path = getenv("LITEFUNNEL_CONFIG");
	opterr = 0;
	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == '?') {
			return cli_usage(
				"serve", "unknown option or missing value: %s", argv[optind - 1]);
		}
		option -= OPTION_FIRST;
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			config_print_options(stdout);
			return CLI_DONE;
		}
		if (option == OPTION_CREATE) {
			serving->create = true;
		} else if (option == OPTION_RESTORE_IF_MISSING) {
			serving->restore_if_missing = true;
		} else if (option == OPTION_CONFIG) {
			config_path = optarg;
		} else if (serving->given_count <
			sizeof(serving->given) / sizeof(serving->given[0])) {
			serving->given[serving->given_count++] =
				(struct given){(enum setting_id)option, optarg};
		}
	}
	*ret_db = optind < argc ? argv[optind++] : getenv("LITEFUNNEL_DB");
	if (*ret_db == NULL || (*ret_db)[0] == 0) {
		return cli_usage("serve", "which database? Give its path, or set LITEFUNNEL_DB");
	}
	if (optind < argc) {
		return cli_usage(
			"serve", "one database only, but there is also \"%s\"", argv[optind]);
	}
	if (config_path != NULL && config_path[0] != 0) {
		serving->config_path = realpath(config_path, NULL);
		if (serving->config_path == NULL) {
			return cli_usage(
				"serve", "cannot read %s: %s", config_path, strerror(errno));
		}
	}
	return -1;
}

/* ---- the place ---- */

static int claim_place(struct serving *serving, const char *db)
{
	const char *socket = config_text(&serving->config, SETTING_SOCKET);
	char error[PLACE_TEXT_BYTES] = "";
	struct place_report report = {0};
	if (replicas_have_keys(config_text(&serving->config, SETTING_REPLICA))) {
		return cli_usage("serve",
			"replica: keys do not belong into a URL, and a @ is written %%40: use AWS_ACCESS_KEY_ID and "
			"AWS_SECRET_ACCESS_KEY, or a file of credentials");
	}
	if (place_resolve(db, socket[0] != 0 ? socket : NULL, &serving->place, error,
		    sizeof(error)) != 0) {
		return cli_fail("serve", "%s", error);
	}
	int rc = place_check(&serving->place, geteuid(), getegid(), &report);
	if (rc == PLACE_MISSING && serving->restore_if_missing) {
		int code = missing_restore(
			&serving->place, config_text(&serving->config, SETTING_REPLICA));
		if (code != CLI_DONE) {
			return code;
		}
		rc = place_check(&serving->place, geteuid(), getegid(), &report);
		if (rc == PLACE_MISSING && !serving->create) {
			return cli_fail("serve",
				"%s does not exist, and its replica holds nothing: use --create too "
				"for a new database",
				serving->place.db);
		}
	}
	if (rc == PLACE_MISSING && !serving->create) {
		return cli_fail("serve", "%s does not exist: use --create for a new database",
			serving->place.db);
	}
	if (rc != 0 && rc != PLACE_MISSING) {
		return cli_fail("serve", "%s", report.error[0] != 0 ? report.error : strerror(-rc));
	}
	if (report.warning[0] != 0) {
		log_warn("place", log_str("warning", report.warning));
	}
	if (place_lock(&serving->place, &serving->lock_fd, error, sizeof(error)) != 0) {
		return cli_fail("serve", "%s", error);
	}
	return CLI_DONE;
}

static int listen_there(struct serving *serving)
{
	char error[PLACE_TEXT_BYTES] = "";
	serving->listen_fd = notify_listen_fd();
	if (serving->listen_fd == -EINVAL) {
		return cli_fail(
			"serve", "systemd passed something other than one listening Unix socket");
	}
	if (serving->listen_fd < 0) {
		serving->listen_fd = listener_bind(serving->place.socket,
			config_text(&serving->config, SETTING_SOCKET_GROUP), error, sizeof(error));
		if (serving->listen_fd < 0) {
			return cli_fail("serve", "%s", error);
		}
		serving->bound = lstat(serving->place.socket, &serving->bound_at) == 0;
	}
	return CLI_DONE;
}

/* ---- the funnel's questions ---- */

static void notify(void *ctx, const char *what)
{
	const struct serving *serving = ctx;
	if (strcmp(what, "ready") == 0) {
		notify_ready(serving->place.db, serving->place.socket);
	} else if (strcmp(what, "stopping") == 0) {
		notify_stopping();
	} else if (strcmp(what, "reloading") == 0) {
		notify_reloading();
	} else {
		notify_alive();
	}
}

/*
 * Nobody may be told anything about this commit before the disk has been asked again. The marker
 * makes the next start check the database and write the WAL's content anew; leaving the process is
 * the only way to forget what SQLite believes.
 */
static void poisoned(void *ctx, const char *reason)
{
	const struct serving *serving = ctx;
	int fd = open(serving->place.poisoned,
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
	if (fd >= 0) {
		ssize_t written = reason != NULL ? write(fd, reason, strlen(reason)) : 0;
		(void)written; /* the file's existence is the message */
		fsync(fd);
		close(fd);
		int dir = open(serving->place.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (dir >= 0) {
			fsync(dir);
			close(dir);
		}
	}
	log_error("stopping, to find out at the next start what is on the disk",
		log_str("db", serving->place.db), log_str("error", reason));
	_exit(CLI_UNKNOWN);
}

/* Whether the marker says that another state of the database took the place of the one served. */
static bool was_replaced(const char *marker)
{
	static const char word[] = "foreign:";
	char text[sizeof(word)] = "";
	CLEANUP_FD int fd = open(marker, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 && read(fd, text, sizeof(word) - 1) == sizeof(word) - 1 &&
		strcmp(text, word) == 0;
}

struct opening {
	const struct store_options *options;
	struct store **ret_store;
	char *ret_error;
	int rc;
};

static void *open_main(void *ctx)
{
	struct opening *opening = ctx;
	opening->rc = store_open(opening->options, opening->ret_store, opening->ret_error);
	return NULL;
}

/* To open it compiles what its schema says. */
static int open_on_large_stack(const struct store_options *options, struct store **ret_store,
	char ret_error[STORE_ERROR_BYTES])
{
	struct opening opening = {options, ret_store, ret_error, -ENOMEM};
	struct large_stack stack;
	pthread_t thread;
	int rc = large_stack_start(&stack, &thread, open_main, &opening);
	if (rc != 0) {
		return rc;
	}
	pthread_join(thread, NULL);
	large_stack_free(&stack);
	return opening.rc;
}

static int open_store(struct serving *serving, struct store **ret_store)
{
	const struct config *config = &serving->config;
	char error[STORE_ERROR_BYTES] = "out of memory";
	struct stat status;
	struct store_options options = {
		.path = serving->place.db,
		.create = serving->create,
		.sync_full = config_number(config, SETTING_SYNC) == SYNC_FULL,
		.foreign_keys = config_number(config, SETTING_FOREIGN_KEYS) != 0,
		.extensions = config_text(config, SETTING_EXTENSIONS),
		.cache_bytes = config_number(config, SETTING_CACHE_BYTES),
		.heap_bytes_max = config_number(config, SETTING_HEAP_BYTES_MAX),
		.statements_max = config_number(config, SETTING_STATEMENT_CACHE_MAX),
		.session_window = (uint32_t)config_number(config, SETTING_SESSION_WINDOW),
		.restored = lstat(serving->place.restored, &status) == 0 ||
			was_replaced(serving->place.poisoned),
		.poisoned = lstat(serving->place.poisoned, &status) == 0,
	};
	if (options.poisoned && chain_break(serving->place.ship) != 0) {
		return cli_fail(
			"serve", "%s cannot be changed: %s", serving->place.ship, strerror(errno));
	}
	if (options.poisoned) {
		log_warn("the last run stopped at an I/O error: checking the database",
			log_str("db", options.path));
	}
	if (disk_make_room(serving->place.dir, serving->place.reserve)) {
		log_warn("the disk is full; the reserve is given up for the start",
			log_str("reserve", serving->place.reserve));
	}
	if (open_on_large_stack(&options, ret_store, error) != 0) {
		return cli_fail("serve", "%s", error);
	}
	if (options.poisoned && unlink(serving->place.poisoned) != 0) {
		log_warn("cannot remove the marker", log_str("path", serving->place.poisoned));
	}
	if (options.restored) {
		log_info("restored to another state: a new epoch begins",
			log_str("db", options.path));
		missing_forget(&serving->place);
	}
	return CLI_DONE;
}

/* ---- shipping ---- */

static int start_shipper(void *ctx, pid_t *ret_pid, int *ret_fd)
{
	struct serving *serving = ctx;
	return shipper_start(&serving->config, serving->place.db, serving->place.ship,
		serving->board, ret_pid, ret_fd);
}

static int start_drill(void *ctx, pid_t *ret_pid, int *ret_fd)
{
	(void)ctx;
	return drill_child_start(ret_pid, ret_fd);
}

static void release_shipper(void *ctx, pid_t pid, int fd)
{
	struct serving *serving = ctx;
	serving->shipper_pid = pid;
	serving->shipper_fd = fd;
}

/* Before SQLite is opened: whatever the child opens and closes, no lock of ours falls with it. */
static int set_up_shipping(struct serving *serving)
{
	if (config_text(&serving->config, SETTING_REPLICA)[0] == 0) {
		return CLI_DONE;
	}
	int rc = board_new(&serving->board);
	rc = rc == 0 ? start_shipper(serving, &serving->shipper_pid, &serving->shipper_fd) : rc;
	return rc == 0 ? CLI_DONE
		       : cli_fail("serve", "the shipper cannot be started: %s", strerror(-rc));
}

/* What is committed and not on every replica, once there is no more time. */
static void tell_unshipped(const struct serving *serving)
{
	struct notice notice;
	(void)board_notice(serving->board, &notice);
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		struct replica_report report = board_replica_report(serving->board, i);
		if (report.url[0] != 0 && report.commit_no < notice.commit_no) {
			log_warn("not everything is shipped; the spool keeps it",
				log_str("replica", report.url),
				log_uint("shipped_commit", report.commit_no),
				log_uint("commit", notice.commit_no),
				log_str("error", report.error));
		}
	}
}

/* The last commits go out, if it can be done in time. */
static void finish_shipping(struct serving *serving)
{
	uint64_t timeout_ms = config_number(&serving->config, SETTING_SHIP_TIMEOUT);
	if (serving->shipper_pid > 0) {
		board_stop(serving->board);
		if (child_wait(serving->shipper_pid, serving->shipper_fd, (int)timeout_ms) != 0) {
			kill(serving->shipper_pid, SIGKILL);
			(void)child_wait(serving->shipper_pid, serving->shipper_fd, -1);
		}
		close(serving->shipper_fd);
		tell_unshipped(serving);
	}
	board_free(serving->board);
}

/* A file that was taken away since the last look: without it the next start would miss commits. */
static int last_look(struct store *store, const char *db)
{
	struct store_recheck recheck;
	if (store_doubt(store) != STORE_DOUBT_NONE) {
		return CLI_DONE; /* it was said */
	}
	store_look_around(store);
	if (store_doubt(store) != STORE_DOUBT_FILES) {
		return CLI_DONE;
	}
	store_recheck(store, &recheck);
	log_error("a file of the database is gone", log_str("db", db),
		log_str("error", recheck.text));
	return CLI_UNKNOWN;
}

/* Large answers go back to the system, however many there were at a time. */
static void set_up_memory(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
	(void)mallopt(M_TRIM_THRESHOLD, 8 << 20);
}

static int serve(struct serving *serving)
{
	struct store *store = NULL;
	set_up_memory();
	int code = open_store(serving, &store);
	if (code != CLI_DONE) {
		return code;
	}
	struct funnel_options options = {
		.store = store,
		.config = &serving->config,
		.db = serving->place.db,
		.socket = serving->place.socket,
		.reserve = serving->place.reserve,
		.listen_fd = serving->listen_fd,
		.listen_inherited = !serving->bound,
		.show = show_table,
		.reload = reload_settings,
		.notify = notify,
		.alive_us = notify_alive_interval_us(),
		.poisoned = poisoned,
		.board = serving->board,
		.spool = serving->place.ship,
		.shipper_pid = serving->shipper_pid,
		.shipper_fd = serving->shipper_fd,
		.start_shipper = start_shipper,
		.start_drill = start_drill,
		.release_shipper = release_shipper,
		.ctx = serving,
	};
	int rc = funnel_run(&options);
	serving->listen_fd = -1; /* closed with the funnel */
	if (rc == -ETIMEDOUT) {
		/* A batch still runs, and nobody has been told that it did: leaving undoes it. */
		log_warn("stopping in the middle of a batch", log_str("db", serving->place.db));
		_exit(CLI_DONE);
	}
	code = last_look(store, serving->place.db);
	store_close(store);
	return rc < 0 ? cli_fail("serve", "cannot run: %s", strerror(-rc)) : code;
}

/* ---- the process ---- */

/* SQLite must never get a file descriptor that a stray printf could write to. */
static void fill_standard_descriptors(void)
{
	int fd = 0;
	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0) {
		close(fd);
	}
}

/* For good: the funnel's loop reads them. A SIGTERM before or behind it must not kill either. */
static void block_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void set_up_process(const struct config *config)
{
	struct rlimit files;
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	sigaction(SIGPIPE, &ignore, NULL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		rlim_t wanted = config_number(config, SETTING_CONNECTIONS_MAX) +
			config_number(config, SETTING_CONNECTIONS_RESERVED) + 64;
		if (files.rlim_cur < wanted) {
			files.rlim_cur = wanted < files.rlim_max ? wanted : files.rlim_max;
			setrlimit(RLIMIT_NOFILE, &files);
		}
	}
}

static void finish(struct serving *serving)
{
	finish_shipping(serving);
	if (serving->listen_fd >= 0) {
		close(serving->listen_fd);
	}
	struct stat there;
	if (serving->bound && lstat(serving->place.socket, &there) == 0 &&
		there.st_ino == serving->bound_at.st_ino &&
		there.st_dev == serving->bound_at.st_dev) {
		unlink(serving->place.socket); /* while the lock is still ours */
	}
	if (serving->lock_fd >= 0) {
		close(serving->lock_fd);
	}
	place_finish(&serving->place);
	config_finish(&serving->config);
	free(serving->config_path);
}

int cli_serve(int argc, char **argv)
{
	struct serving serving = {
		.lock_fd = -1, .listen_fd = -1, .shipper_pid = -1, .shipper_fd = -1};
	char error[CONFIG_ERROR_BYTES] = "out of memory";
	const char *db = NULL;
	fill_standard_descriptors();
	block_signals();
	umask(0027);
	int code = parse_options(&serving, argc, argv, &db);
	if (code < 0 &&
		(config_init(&serving.config) < 0 ||
			read_settings(&serving, &serving.config, error) < 0)) {
		code = cli_usage("serve", "%s", error);
	}
	if (code < 0) {
		log_setup(STDERR_FILENO,
			(enum log_level)config_number(&serving.config, SETTING_LOG_LEVEL),
			(enum log_format)config_number(&serving.config, SETTING_LOG_FORMAT));
		credentials_find_unknown(&serving.config, warn_of_unknown, NULL);
		set_up_process(&serving.config);
		code = claim_place(&serving, db);
		code = code == CLI_DONE ? listen_there(&serving) : code;
		code = code == CLI_DONE ? set_up_shipping(&serving) : code;
		code = code == CLI_DONE ? serve(&serving) : code;
	}
	finish(&serving);
	return code;
}
