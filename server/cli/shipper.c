/* SPDX-License-Identifier: MIT */

/*
 * litefunnel shipper: the child that serve starts, never called by people. Its settings are those of
 * the daemon, handed over as options; its descriptors are those of the board.
 */

#include "server/ship/shipper.h"
#include "server/base/child.h"
#include "server/base/config.h"
#include "server/base/log.h"
#include "server/cli/children.h"
#include "server/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the shipper must know of the daemon's settings. */
static const enum setting_id handed_over[] = {SETTING_SYNC, SETTING_REPLICA, SETTING_SHIP_LINGER,
	SETTING_SPOOL_MAX, SETTING_DISK_FLOOR, SETTING_SNAPSHOT_EVERY, SETTING_RETENTION,
	SETTING_COMPACT_EVERY, SETTING_CONTINUE_LITESTREAM, SETTING_LOG_LEVEL, SETTING_LOG_FORMAT};

enum { HANDED_OVER = sizeof(handed_over) / sizeof(handed_over[0]), FIXED = 4 };

int shipper_start(const struct config *config, const char *db, const char *spool,
	const struct board *board, pid_t *ret_pid, int *ret_fd)
{
	struct board_fds fds = board_fds(board);
	const int inherited[] = {fds.memory, fds.shipper, fds.loop, fds.gate};
	const char *argv[FIXED + HANDED_OVER + 1] = {"litefunnel", "shipper", db, spool};
	char *options[HANDED_OVER] = {NULL};
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < HANDED_OVER; i++) {
		const struct setting *setting = &settings[handed_over[i]];
		if (asprintf(&options[i], "%s=%s", setting->name,
			    config_text(config, handed_over[i])) < 0) {
			options[i] = NULL;
			rc = -ENOMEM;
		}
		argv[FIXED + i] = options[i];
	}
	rc = rc == 0 ? child_start(argv, inherited, 4, ret_pid, ret_fd) : rc;
	for (size_t i = 0; i < HANDED_OVER; i++) {
		free(options[i]);
	}
	return rc;
}

static int read_settings(struct config *config, int argc, char **argv)
{
	char error[CONFIG_ERROR_BYTES];
	for (int i = 0; i < argc; i++) {
		char *value = strchr(argv[i], '=');
		if (value == NULL) {
			return -EINVAL;
		}
		*value = 0;
		int rc = config_set(config, argv[i], value + 1, SETTING_FROM_OPTION, error);
		*value = '=';
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

/* It has secrets in its memory, and ends when the funnel says so, not when a terminal does. */
static void set_up_process(void)
{
	struct sigaction ignore = {.sa_handler = SIG_IGN};
	const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGPIPE};
	struct rlimit no_core = {0, 0};
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
		sigaction(ignored[i], &ignore, NULL);
	}
	setrlimit(RLIMIT_CORE, &no_core);
	prctl(PR_SET_NAME, "shipper");
	prctl(PR_SET_DUMPABLE, 0); /* nobody but root may look into its memory */
	umask(0027);
}

int cli_shipper(int argc, char **argv)
{
	struct config config;
	struct board *board = NULL;
	if (argc < FIXED - 1 || config_init(&config) != 0 ||
		read_settings(&config, argc - 3, argv + 3) != 0) {
		return cli_usage("shipper", "it is started by `litefunnel serve`, not by hand");
	}
	child_bind_to_parent();
	set_up_process();
	log_setup(STDERR_FILENO, (enum log_level)config_number(&config, SETTING_LOG_LEVEL),
		(enum log_format)config_number(&config, SETTING_LOG_FORMAT));
	int rc = board_attach(CHILD_FD_FIRST + 1, CHILD_FD_FIRST + 2, CHILD_FD_FIRST + 3,
		CHILD_FD_FIRST + 4, &board);
	if (rc != 0) {
		return cli_fail("shipper", "it does not fit the daemon that started it: %s",
			rc == -EPROTO ? "another build" : strerror(-rc));
	}
	struct shipper_options options = {
		.db = argv[1],
		.spool = argv[2],
		.replicas = config_text(&config, SETTING_REPLICA),
		.board = board,
		.parent_fd = CHILD_FD_FIRST,
		.sync_wal = config_number(&config, SETTING_SYNC) != SYNC_FULL,
		.continue_litestream = config_number(&config, SETTING_CONTINUE_LITESTREAM) != 0,
		.linger_ms = config_number(&config, SETTING_SHIP_LINGER),
		.spool_bytes_max = config_number(&config, SETTING_SPOOL_MAX),
		.disk_floor = config_number(&config, SETTING_DISK_FLOOR),
		.snapshot_every_ms = config_number(&config, SETTING_SNAPSHOT_EVERY),
		.retention_ms = config_number(&config, SETTING_RETENTION),
		.compact_every_ms = config_number(&config, SETTING_COMPACT_EVERY),
	};
	rc = shipper_run(&options);
	board_free(board);
	config_finish(&config);
	return rc == 0 || rc == -ECANCELED ? CLI_DONE : CLI_FAILED;
}
