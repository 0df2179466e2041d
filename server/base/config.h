/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Settings: one table for the command line, the environment, the config file and the documents.
 *
 * A setting `group_max` is the option --group-max, the variable LITEFUNNEL_GROUP_MAX (or, for a
 * value that stands in a file of its own, LITEFUNNEL_GROUP_MAX_FILE) and the line `group_max = …`
 * of a config file. The first of these that is given wins, in this order; then the default.
 *
 * Numbers may be read from any thread while a reload changes them; texts belong to the thread that
 * reloads.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum setting_type {
	SETTING_TYPE_TEXT,
	SETTING_TYPE_BOOL,         /* on, off */
	SETTING_TYPE_NUMBER,       /* 1000 */
	SETTING_TYPE_BYTES,        /* 8MiB */
	SETTING_TYPE_MS,           /* 500ms, 30s, 5m, 1h */
	SETTING_TYPE_LEASE_LIMITS, /* class:bulk=1s/10s: times for each, separated by commas */
	SETTING_TYPE_CLASSES, /* alice=bulk, @web=interactive: a class for each, separated by commas */
	SETTING_TYPE_CHOICE, /* one of several words; the number is its place in the list */
};

enum setting_id {
	SETTING_SOCKET,
	SETTING_SOCKET_GROUP,
	SETTING_SYNC,
	SETTING_FOREIGN_KEYS,
	SETTING_EXTENSIONS,
	SETTING_CACHE_BYTES,
	SETTING_HEAP_BYTES_MAX,
	SETTING_STATEMENT_CACHE_MAX,
	SETTING_ROLES_ADMIN,
	SETTING_ROLES_DDL,
	SETTING_ROLES_WRITE,
	SETTING_ROLES_QUERY,
	SETTING_ROLES_STATS,
	SETTING_COMMIT_GROUP_MAX,
	SETTING_COMMIT_GROUP_BYTES_MAX,
	SETTING_COMMIT_GROUP_MAX_US,
	SETTING_CLASSES,
	SETTING_SLICE_MS,
	SETTING_OFFENDER_ALONE,
	SETTING_QUEUE_MAX,
	SETTING_QUEUE_BYTES_MAX,
	SETTING_CONNECTIONS_MAX,
	SETTING_CONNECTIONS_RESERVED,
	SETTING_IN_FLIGHT_MAX,
	SETTING_FRAME_BYTES_MAX,
	SETTING_OUTPUT_BYTES_MAX,
	SETTING_ROWS_MAX,
	SETTING_RESULT_BYTES_MAX,
	SETTING_HELLO_TIMEOUT,
	SETTING_FRAME_TIMEOUT,
	SETTING_STALL_TIMEOUT,
	SETTING_DEADLINE,
	SETTING_EXEC_TIMEOUT,
	SETTING_EXEC_OPS_MAX,
	SETTING_LEASE_IDLE,
	SETTING_LEASE_TOTAL,
	SETTING_LEASE_LIMITS,
	SETTING_DRAIN_TIMEOUT,
	SETTING_SESSIONS_MAX,
	SETTING_SESSION_WINDOW,
	SETTING_SESSION_TTL,
	SETTING_KEYS_MAX,
	SETTING_KEY_TTL,
	SETTING_CHECKPOINT_FRAMES,
	SETTING_WAL_WARN_BYTES,
	SETTING_DISK_FLOOR,
	SETTING_RESERVE_BYTES,
	SETTING_REPLICA,
	SETTING_SHIP_LINGER,
	SETTING_SHIP_TIMEOUT,
	SETTING_SPOOL_MAX,
	SETTING_SNAPSHOT_EVERY,
	SETTING_RETENTION,
	SETTING_COMPACT_EVERY,
	SETTING_CONTINUE_LITESTREAM,
	SETTING_ACK_SHIPPED,
	SETTING_DRILL_EVERY,
	SETTING_DRILL_TIMEOUT,
	SETTING_DRILL_DIR,
	SETTING_DRILL_ASSERTIONS,
	SETTING_DRILL_HEARTBEAT,
	SETTING_DRILL_HEARTBEAT_FAIL,
	SETTING_SLOW,
	SETTING_WAITED_LONG,
	SETTING_LOG_LEVEL,
	SETTING_LOG_FORMAT,
	SETTING_COUNT,
};

enum setting_source {
	SETTING_FROM_DEFAULT,
	SETTING_FROM_FILE,
	SETTING_FROM_ENVIRONMENT,
	SETTING_FROM_OPTION,
};

/* The numbers of SETTING_TYPE_CHOICE settings. */
enum sync_mode { SYNC_FULL, SYNC_NORMAL };

struct setting {
	const char *name;
	enum setting_type type;
	const char *fallback; /* the default, as a user would write it */
	uint64_t min;
	uint64_t max;
	const char *choices; /* "full|normal" */
	bool reloads;        /* takes effect on `litefunnel reload`; others need a restart */
	const char *help;
};

struct config_value {
	char *text; /* as given */
	_Atomic uint64_t number;
	enum setting_source source;
};

struct config {
	struct config_value values[SETTING_COUNT];
	char *file; /* the config file, or NULL */
};

enum { CONFIG_ERROR_BYTES = 512 };

extern const struct setting settings[SETTING_COUNT];

/* NULL: there is none of that name. */
const struct setting *setting_find(const char *name);

/* Writes the sentence to ret_error. Always -EINVAL. */
__attribute__((format(printf, 2, 3))) int config_fail(
	char ret_error[CONFIG_ERROR_BYTES], const char *format, ...);

/* "1s/10s": as in the setting lease_limits. False: it is not, or out of bounds; nothing is set then. */
bool config_parse_lease_limits(const char *text, uint64_t *ret_idle_ms, uint64_t *ret_total_ms);

/* All defaults. 0 or -ENOMEM. */
int config_init(struct config *config);
void config_finish(struct config *config);

/*
 * One setting from one source. A source never replaces a stronger one. 0; -ENOMEM; -EINVAL with a
 * sentence in ret_error that names the setting, the value and what is allowed.
 */
int config_set(struct config *config, const char *name, const char *value,
	enum setting_source source, char ret_error[CONFIG_ERROR_BYTES]);

/* The file's lines; an unknown key, a section or a line that is no setting is an error. */
int config_read_file(struct config *config, const char *path, char ret_error[CONFIG_ERROR_BYTES]);

/*
 * LITEFUNNEL_<KEY> and LITEFUNNEL_<KEY>_FILE. An unknown variable of that prefix is an error, but for
 * those of commands and tests, and those that Kubernetes sets for a service of our name.
 */
int config_read_environment(struct config *config, char ret_error[CONFIG_ERROR_BYTES]);

/*
 * Takes over the reloadable values of `fresh` and calls `changed` for each that differs; `applied`
 * is false for one that differs but needs a restart.
 */
void config_reload(struct config *config, struct config *fresh,
	void (*changed)(void *ctx, const struct setting *setting, bool applied), void *ctx);

static inline uint64_t config_number(const struct config *config, enum setting_id id)
{
	return atomic_load_explicit(
		&((struct config *)(uintptr_t)config)->values[id].number, memory_order_relaxed);
}

static inline const char *config_text(const struct config *config, enum setting_id id)
{
	return config->values[id].text;
}

/* "default", "file", "environment", "option". */
const char *setting_source_name(enum setting_source source);

/* The options of all settings for a --help, and all settings as a commented sample file. */
void config_print_options(FILE *out);
void config_print_sample(FILE *out);
