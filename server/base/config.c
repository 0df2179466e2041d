/* SPDX-License-Identifier: MIT */

/*
 * The table of settings and their values. What a setting does stands where it is used; what it is
 * called, its unit, its limits and its help stand here and nowhere else: --help, the sample file and
 * the manual are made from, or tested against, this table. Files and variables are read in
 * config_read.c.
 */

#include "server/base/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define KIB    (1024ull)
#define MIB    (1024ull * 1024)
#define GIB    (1024ull * 1024 * 1024)
#define DAY_MS (24ull * 3600 * 1000)

#define TEXT(n, fallback, reloads, help)                                                           \
	{                                                                                          \
		n, SETTING_TYPE_TEXT, fallback, 0, 0, NULL, reloads, help                          \
	}
#define BOOL(n, fallback, reloads, help)                                                           \
	{                                                                                          \
		n, SETTING_TYPE_BOOL, fallback, 0, 1, "off|on", reloads, help                      \
	}
#define NUMBER(n, fallback, min, max, reloads, help)                                               \
	{                                                                                          \
		n, SETTING_TYPE_NUMBER, fallback, min, max, NULL, reloads, help                    \
	}
#define BYTES(n, fallback, min, max, reloads, help)                                                \
	{                                                                                          \
		n, SETTING_TYPE_BYTES, fallback, min, max, NULL, reloads, help                     \
	}
#define MS(n, fallback, min, max, reloads, help)                                                   \
	{                                                                                          \
		n, SETTING_TYPE_MS, fallback, min, max, NULL, reloads, help                        \
	}
#define CHOICE(n, fallback, choices, reloads, help)                                                \
	{                                                                                          \
		n, SETTING_TYPE_CHOICE, fallback, 0, 0, choices, reloads, help                     \
	}

const struct setting settings[SETTING_COUNT] = {
	[SETTING_SOCKET] = TEXT("socket", "", false,
		"the Unix socket; default: the database's real path + \"-funnel\""),
	[SETTING_SOCKET_GROUP] = TEXT("socket_group", "", false,
		"group that may connect; default: the group of the database's directory"),
	[SETTING_SYNC] = CHOICE("sync", "full", "full|normal", false,
		"full: an answered write survives a power loss. normal: commits stay atomic, but the "
		"last moments may be lost with the power"),
	[SETTING_FOREIGN_KEYS] = BOOL(
		"foreign_keys", "on", false, "enforce foreign keys (SQLite's own default is off)"),
	[SETTING_EXTENSIONS] = TEXT("extensions", "", false,
		"shared libraries that the daemon loads into SQLite, separated by commas"),
	[SETTING_CACHE_BYTES] = BYTES(
		"cache_bytes", "16MiB", 64 * KIB, 64 * GIB, false, "page cache of the writer"),
	[SETTING_HEAP_BYTES_MAX] = BYTES("heap_bytes_max", "512MiB", 16 * MIB, 64 * GIB, false,
		"memory of SQLite, its cache included; a statement that needs more fails (a large "
		"CREATE INDEX sorts in memory)"),
	[SETTING_STATEMENT_CACHE_MAX] = NUMBER("statement_cache_max", "1000", 1, 100000, false,
		"prepared statements that are kept"),
	[SETTING_ROLES_ADMIN] = TEXT("roles_admin", "", true,
		"who is admin beside root and the daemon's user: users, uids, @groups, @gids, or *, "
		"separated by commas; the same for the roles below; the highest match wins"),
	[SETTING_ROLES_DDL] = TEXT("roles_ddl", "*", true, "who may also change the schema"),
	[SETTING_ROLES_WRITE] = TEXT("roles_write", "", true, "who may write rows"),
	[SETTING_ROLES_QUERY] = TEXT("roles_query", "", true, "who may only run SELECT"),
	[SETTING_ROLES_STATS] = TEXT("roles_stats", "", true, "who may only look at show tables"),
	[SETTING_COMMIT_GROUP_MAX] = NUMBER("commit_group_max", "4096", 1, 100000, true,
		"batches that may share one transaction"),
	[SETTING_COMMIT_GROUP_BYTES_MAX] = BYTES("commit_group_bytes_max", "32MiB", 4 * KIB, GIB,
		true, "bytes of requests that may share one transaction"),
	[SETTING_COMMIT_GROUP_MAX_US] = NUMBER("commit_group_max_us", "10000", 100, 10000000, true,
		"microseconds after which a transaction takes in no further batch"),
	[SETTING_CLASSES] = {"classes", SETTING_TYPE_CLASSES, "", 0, 0, NULL, true,
		"who has which class, as WHO=interactive, WHO=normal or WHO=bulk, separated by commas; "
		"WHO is a user, uid, @group, @gid, label:PATTERN, role:ROLE or *; the first match is "
		"also the highest class that he may ask for; without one he may ask for any, and has "
		"normal"},
	[SETTING_SLICE_MS] = NUMBER("slice_ms", "10", 1, 1000, true,
		"milliseconds for which work of the class bulk may hold the writer at once while others "
		"wait"),
	[SETTING_OFFENDER_ALONE] = MS("offender_alone", "1m", 0, DAY_MS, true,
		"how long the batches of a connection run alone, and last in their class, after one "
		"was stopped at a limit of execution"),
	[SETTING_QUEUE_MAX] = NUMBER("queue_max", "10000", 1, 10000000, true,
		"batches that may wait; more are answered overloaded, and so is a user who would hold "
		"over eight times what is left for others"),
	[SETTING_QUEUE_BYTES_MAX] = BYTES("queue_bytes_max", "64MiB", 64 * KIB, 64 * GIB, true,
		"bytes of batches that may wait"),
	[SETTING_CONNECTIONS_MAX] = NUMBER("connections_max", "1000", 1, 1000000, true,
		"open connections; when all are taken, a user who has fewer than another gets "
		"one of that one's"),
	[SETTING_CONNECTIONS_RESERVED] = NUMBER("connections_reserved", "4", 0, 1000, true,
		"connections beyond these that only admins get, to look at a daemon that has no "
		"other left; when they are taken too, a new one takes the place of an idle one"),
	[SETTING_IN_FLIGHT_MAX] = NUMBER("in_flight_max", "1024", 1, 100000, true,
		"unanswered requests of one connection; at the limit it is not read any further"),
	[SETTING_FRAME_BYTES_MAX] =
		BYTES("frame_bytes_max", "8MiB", 64 * KIB, 256 * MIB, true, "one request"),
	[SETTING_OUTPUT_BYTES_MAX] = BYTES("output_bytes_max", "512KiB", 64 * KIB, GIB, true,
		"answers that wait for one connection to read them; at the limit it is not read any "
		"further"),
	[SETTING_ROWS_MAX] =
		NUMBER("rows_max", "100000", 1, 100000000, true, "rows that one step may return"),
	[SETTING_RESULT_BYTES_MAX] = BYTES("result_bytes_max", "4MiB", KIB, 256 * MIB, true,
		"bytes that the answer to one batch may take"),
	[SETTING_HELLO_TIMEOUT] = MS("hello_timeout", "5s", 10, DAY_MS, true,
		"a new connection must have said hello by then"),
	[SETTING_FRAME_TIMEOUT] = MS("frame_timeout", "30s", 10, DAY_MS, true,
		"a request that has begun to arrive must be whole by then"),
	[SETTING_STALL_TIMEOUT] = MS("stall_timeout", "30s", 10, DAY_MS, true,
		"a connection that takes nothing of a waiting answer for so long is closed"),
	[SETTING_DEADLINE] = MS("deadline", "30s", 1, DAY_MS, true,
		"how long a request may wait in the queue if it does not say so itself"),
	[SETTING_EXEC_TIMEOUT] =
		MS("exec_timeout", "30s", 1, DAY_MS, true, "how long one batch may run"),
	[SETTING_EXEC_OPS_MAX] = NUMBER("exec_ops_max", "0", 0, UINT64_C(1) << 50, true,
		"instructions of SQLite's virtual machine that one batch may run, which does not "
		"depend on how busy the machine is; 0: no limit"),
	[SETTING_LEASE_IDLE] = MS("lease_idle", "5s", 1, DAY_MS, true,
		"how long a lease may wait for its client while others wait for the writer; ten times as "
		"long while nobody does"),
	[SETTING_LEASE_TOTAL] = MS("lease_total", "30s", 1, DAY_MS, true,
		"how long a lease may last, counted likewise"),
	[SETTING_LEASE_LIMITS] = {"lease_limits", SETTING_TYPE_LEASE_LIMITS, "", 0, 0, NULL, true,
		"other times than these two for some leases, as WHO=IDLE/TOTAL, separated by commas, such "
		"as label:console*=1m/10m or class:bulk=1s/10s; WHO is as in classes, or class:CLASS; "
		"the first match holds, for leases that begin later"},
	[SETTING_DRAIN_TIMEOUT] = MS("drain_timeout", "10s", 0, DAY_MS, true,
		"on SIGTERM: how long what is queued may take, and then, who reads his answers"),
	[SETTING_SESSIONS_MAX] = NUMBER("sessions_max", "10000", 1, 10000000, true,
		"sessions whose answers are remembered; a new one beyond is answered overloaded; of 64 and "
		"more the last quarter is for users who have less than a sixteenth"),
	[SETTING_SESSION_WINDOW] = NUMBER("session_window", "1024", 1, 65536, false,
		"answers remembered of one session; for a database it may shrink but not grow"),
	[SETTING_SESSION_TTL] = MS("session_ttl", "1h", 1000, 30 * DAY_MS, true,
		"a session lives so long after its last use, in the daemon's own running time"),
	[SETTING_KEYS_MAX] = NUMBER("keys_max", "1000000", 1, 1000000000, true,
		"free keys that are remembered; a new one beyond is answered overloaded; of 64 and more the "
		"last quarter is for users who have less than a sixteenth"),
	[SETTING_KEY_TTL] = MS("key_ttl", "24h", 1000, 365 * DAY_MS, true,
		"a free key is remembered so long, in the daemon's own running time"),
	[SETTING_CHECKPOINT_FRAMES] = NUMBER("checkpoint_frames", "1000", 1, 10000000, true,
		"pages in the WAL at which it is copied into the database"),
	[SETTING_WAL_WARN_BYTES] = BYTES("wal_warn_bytes", "256MiB", 0, 1024 * GIB, true,
		"size of the WAL at which the log and `status` warn; 0: never"),
	[SETTING_DISK_FLOOR] = BYTES("disk_floor", "256MiB", 0, 1024 * GIB, true,
		"free bytes below which batches that write are refused, retryably; on a small file "
		"system a sixteenth of it at most"),
	[SETTING_RESERVE_BYTES] = BYTES("reserve_bytes", "64MiB", 0, 64 * GIB, true,
		"size of DB-reserve, which is given up when the disk is full so that checkpoints can "
		"go on; on a small file system a sixty-fourth of it at most; 0: none"),
	[SETTING_REPLICA] = TEXT("replica", "", false,
		"where the database is shipped to, URLs separated by spaces: file:///directory or "
		"s3://bucket/prefix?endpoint=…&region=…; ack: \"shipped\" waits for the first, or "
		"for those that say ack=1"),
	[SETTING_SHIP_LINGER] = MS("ship_linger", "500ms", 10, DAY_MS, false,
		"how long commits may gather before they are shipped, unless somebody waits for it"),
	[SETTING_SHIP_TIMEOUT] = MS("ship_timeout", "30s", 0, DAY_MS, true,
		"on SIGTERM: how long shipping what is committed may take; the spool keeps the rest"),
	[SETTING_SPOOL_MAX] = BYTES("spool_max", "10GiB", 16 * MIB, 1024 * GIB, false,
		"segments that wait beside the database while no replica takes them; beyond, they are "
		"dropped and a whole snapshot follows later"),
	[SETTING_SNAPSHOT_EVERY] = MS("snapshot_every", "24h", 1000, 365 * DAY_MS, false,
		"how often a replica gets the whole database again"),
	[SETTING_RETENTION] = MS("retention", "168h", 1000, 3650 * DAY_MS, false,
		"how far back a replica can be restored"),
	[SETTING_COMPACT_EVERY] = MS("compact_every", "30s", 10, DAY_MS, false,
		"how often new segments of a replica are merged into a larger one; of those, again after "
		"10 and after 120 times as long. Whatever is merged is removed after 10 times as long"),
	[SETTING_CONTINUE_LITESTREAM] = BOOL("continue_litestream", "off", false,
		"take over a replica that Litestream has written"),
	[SETTING_ACK_SHIPPED] = TEXT("ack_shipped", "", true,
		"classes (interactive, normal, bulk) whose writes wait until they are shipped, even if "
		"they do not ask for it"),
	[SETTING_DRILL_EVERY] = MS("drill_every", "168h", 0, 365 * DAY_MS, true,
		"how often each replica is restored and compared with the database; 0: never"),
	[SETTING_DRILL_TIMEOUT] = MS("drill_timeout", "6h", 1000, 30 * DAY_MS, true,
		"a drill that takes longer is ended, and inconclusive"),
	[SETTING_DRILL_DIR] = TEXT("drill_dir", "", true,
		"where drills restore to, with room for 1.2 times the database; default: the spool's "
		"directory, DB-ship"),
	[SETTING_DRILL_ASSERTIONS] = TEXT("drill_assertions", "", true,
		"a file of SELECTs, each ended by a semicolon, that are asked of what a drill has restored: "
		"each must yield a row, and no row whose first column is 0 or NULL"),
	[SETTING_DRILL_HEARTBEAT] = TEXT("drill_heartbeat", "", true,
		"an http or https URL that is asked for after each drill that passed"),
	[SETTING_DRILL_HEARTBEAT_FAIL] = TEXT("drill_heartbeat_fail", "", true,
		"the same after each that failed; healthchecks.io: drill_heartbeat with /fail behind it"),
	[SETTING_SLOW] =
		MS("slow", "1s", 0, DAY_MS, true, "a batch that took longer is logged; 0: none"),
	[SETTING_WAITED_LONG] = MS("waited_long", "100ms", 1, DAY_MS, true,
		"a request that waited longer is told for whom"),
	[SETTING_LOG_LEVEL] =
		CHOICE("log_level", "info", "debug|info|warn|error", true, "what is logged"),
	[SETTING_LOG_FORMAT] =
		CHOICE("log_format", "logfmt", "logfmt|json", true, "how it is logged"),
};

static const char *const source_names[] = {"default", "file", "environment", "option"};

const char *setting_source_name(enum setting_source source)
{
	return source_names[source];
}

int config_fail(char ret_error[CONFIG_ERROR_BYTES], const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(ret_error, CONFIG_ERROR_BYTES, format, args);
	va_end(args);
	return -EINVAL;
}

const struct setting *setting_find(const char *name)
{
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		if (strcmp(settings[i].name, name) == 0) {
			return &settings[i];
		}
	}
	return NULL;
}

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit units_bytes[] = {{"", 1}, {"b", 1}, {"k", KIB}, {"kib", KIB}, {"m", MIB},
	{"mib", MIB}, {"g", GIB}, {"gib", GIB}, {NULL, 0}};
static const struct unit units_ms[] = {
	{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", DAY_MS}, {NULL, 0}};
static const struct unit units_none[] = {{"", 1}, {NULL, 0}};

static const struct unit *units_of(enum setting_type type)
{
	return type == SETTING_TYPE_BYTES ? units_bytes
		: type == SETTING_TYPE_MS ? units_ms
					  : units_none;
}

static bool parse_quantity(const struct unit *units, const char *text, uint64_t *ret_number)
{
	char *end = NULL;
	if (!isdigit((unsigned char)text[0])) {
		return false;
	}
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	while (*end == ' ') {
		end++;
	}
	if (units == units_ms && number == 0 && *end == 0) {
		*ret_number = 0; /* nothing needs no unit */
		return true;
	}
	for (; units->name != NULL; units++) {
		if (strcasecmp(units->name, end) == 0) {
			return errno == 0 &&
				!__builtin_mul_overflow(number, units->factor, ret_number);
		}
	}
	return false;
}

/* The place of `text` in "a|b|c". */
static bool parse_choice(const char *choices, const char *text, uint64_t *ret_number)
{
	size_t len = strlen(text);
	uint64_t place = 0;
	for (const char *at = choices; at != NULL; place++) {
		const char *bar = strchr(at, '|');
		size_t word = bar != NULL ? (size_t)(bar - at) : strlen(at);
		if (word == len && strncmp(at, text, len) == 0) {
			*ret_number = place;
			return true;
		}
		at = bar != NULL ? bar + 1 : NULL;
	}
	return false;
}

static bool parse_bool(const char *text, uint64_t *ret_number)
{
	static const char *const words[][2] = {
		{"off", "on"}, {"no", "yes"}, {"false", "true"}, {"0", "1"}};
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		for (uint64_t value = 0; value < 2; value++) {
			if (strcasecmp(words[i][value], text) == 0) {
				*ret_number = value;
				return true;
			}
		}
	}
	return false;
}

bool config_parse_lease_limits(const char *text, uint64_t *ret_idle_ms, uint64_t *ret_total_ms)
{
	char idle[32];
	const char *slash = strchr(text, '/');
	uint64_t idle_ms = 0;
	uint64_t total_ms = 0;
	if (slash == NULL || slash == text || (size_t)(slash - text) >= sizeof(idle)) {
		return false;
	}
	memcpy(idle, text, (size_t)(slash - text));
	idle[slash - text] = 0;
	if (!parse_quantity(units_ms, idle, &idle_ms) ||
		!parse_quantity(units_ms, slash + 1, &total_ms) || idle_ms < 1 ||
		idle_ms > DAY_MS || total_ms < 1 || total_ms > DAY_MS) {
		return false;
	}
	*ret_idle_ms = idle_ms;
	*ret_total_ms = total_ms;
	return true;
}

static bool parse_lease_limits(const char *text)
{
	char value[64];
	uint64_t ignored = 0;
	while (*text != 0) {
		size_t word = strcspn(text, ", ");
		size_t sign = word;
		while (sign > 0 && text[sign - 1] != '=') {
			sign--;
		}
		size_t len = word - sign;
		if (word > 0 && (sign < 2 || len >= sizeof(value))) {
			return false;
		}
		memcpy(value, text + sign, len < sizeof(value) ? len : 0);
		value[len < sizeof(value) ? len : 0] = 0;
		if (word > 0 && !config_parse_lease_limits(value, &ignored, &ignored)) {
			return false;
		}
		text += word + (text[word] != 0);
	}
	return true;
}

static bool parse_classes(const char *text)
{
	static const char *const classes[] = {"interactive", "normal", "bulk"};
	while (*text != 0) {
		size_t word = strcspn(text, ", ");
		bool good = word == 0;
		for (size_t i = 0; !good && i < sizeof(classes) / sizeof(classes[0]); i++) {
			size_t len = strlen(classes[i]);
			good = word > len + 1 && text[word - len - 1] == '=' &&
				strncmp(text + word - len, classes[i], len) == 0;
		}
		if (!good) {
			return false;
		}
		text += word + (text[word] != 0);
	}
	return true;
}

static int parse(const struct setting *setting, const char *text, uint64_t *ret_number,
	char ret_error[CONFIG_ERROR_BYTES])
{
	switch (setting->type) {
	case SETTING_TYPE_TEXT:
		*ret_number = 0;
		return 0;
	case SETTING_TYPE_CLASSES:
		*ret_number = 0;
		return parse_classes(text)
			? 0
			: config_fail(ret_error,
				  "%s = \"%s\": use WHO=interactive, WHO=normal or WHO=bulk, "
				  "separated by commas",
				  setting->name, text);
	case SETTING_TYPE_LEASE_LIMITS:
		*ret_number = 0;
		return parse_lease_limits(text)
			? 0
			: config_fail(ret_error,
				  "%s = \"%s\": use WHO=IDLE/TOTAL with times such as 500ms, 5s or 1h, "
				  "separated by commas",
				  setting->name, text);
	case SETTING_TYPE_BOOL:
		return parse_bool(text, ret_number)
			? 0
			: config_fail(ret_error, "%s = \"%s\": use on or off", setting->name, text);
	case SETTING_TYPE_CHOICE:
		return parse_choice(setting->choices, text, ret_number)
			? 0
			: config_fail(ret_error, "%s = \"%s\": use one of %s", setting->name, text,
				  setting->choices);
	default:
		break;
	}
	if (!parse_quantity(units_of(setting->type), text, ret_number)) {
		return config_fail(ret_error, "%s = \"%s\": use a number%s", setting->name, text,
			setting->type == SETTING_TYPE_BYTES ? " of bytes, such as 8MiB"
				: setting->type == SETTING_TYPE_MS
				? " with a unit, such as 500ms, 30s, 5m or 1h"
				: "");
	}
	if (*ret_number < setting->min || *ret_number > setting->max) {
		return config_fail(ret_error, "%s = \"%s\": outside %llu to %llu%s", setting->name,
			text, (unsigned long long)setting->min, (unsigned long long)setting->max,
			setting->type == SETTING_TYPE_MS ? " ms" : "");
	}
	return 0;
}

int config_set(struct config *config, const char *name, const char *value,
	enum setting_source source, char ret_error[CONFIG_ERROR_BYTES])
{
	const struct setting *setting = setting_find(name);
	if (setting == NULL) {
		return config_fail(ret_error,
			"unknown setting \"%s\": `litefunnel serve --help` lists them", name);
	}
	struct config_value *slot = &config->values[setting - settings];
	uint64_t number = 0;
	int rc = parse(setting, value, &number, ret_error);
	if (rc < 0 || source < slot->source) {
		return rc;
	}
	char *text = strdup(value);
	if (text == NULL) {
		return -ENOMEM;
	}
	free(slot->text);
	slot->text = text;
	slot->number = number;
	slot->source = source;
	return 0;
}

int config_init(struct config *config)
{
	char error[CONFIG_ERROR_BYTES];
	memset(config, 0, sizeof(*config));
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		int rc = config_set(config, settings[i].name, settings[i].fallback,
			SETTING_FROM_DEFAULT, error);
		if (rc < 0) {
			config_finish(config);
			return rc;
		}
	}
	return 0;
}

void config_finish(struct config *config)
{
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		free(config->values[i].text);
		config->values[i].text = NULL;
	}
	free(config->file);
	config->file = NULL;
}

void config_reload(struct config *config, struct config *fresh,
	void (*changed)(void *ctx, const struct setting *setting, bool applied), void *ctx)
{
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		struct config_value *now = &config->values[i];
		struct config_value *then = &fresh->values[i];
		bool same = settings[i].type == SETTING_TYPE_TEXT ||
				settings[i].type == SETTING_TYPE_CLASSES ||
				settings[i].type == SETTING_TYPE_LEASE_LIMITS
			? strcmp(now->text, then->text) == 0
			: now->number == then->number;
		if (same) {
			continue;
		}
		if (settings[i].reloads) {
			char *text = now->text;
			now->text = then->text;
			then->text = text;
			now->number = then->number;
			now->source = then->source;
		}
		changed(ctx, &settings[i], settings[i].reloads);
	}
}

/* Prints `text` in lines of at most `width` columns, each but the first behind `indent`. */
static void print_wrapped(FILE *out, const char *text, const char *indent, size_t width)
{
	size_t column = 0;
	while (*text != 0) {
		size_t word = strcspn(text, " ");
		if (column > 0 && column + 1 + word > width) {
			fprintf(out, "\n%s", indent);
			column = 0;
		}
		column += (size_t)fprintf(out, "%s%.*s", column > 0 ? " " : "", (int)word, text);
		text += word + strspn(text + word, " ");
	}
}

void config_print_options(FILE *out)
{
	static const char *const shapes[] = {
		"TEXT", "on|off", "N", "BYTES", "TIME", "TEXT", "TEXT", ""};
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		char option[96];
		const struct setting *setting = &settings[i];
		const char *shape = setting->type == SETTING_TYPE_CHOICE ? setting->choices
									 : shapes[setting->type];
		snprintf(option, sizeof(option), "--%s %s", setting->name, shape);
		for (char *at = option; *at != 0 && *at != ' '; at++) {
			*at = *at == '_' ? '-' : *at;
		}
		fprintf(out, "  %s\n      ", option);
		print_wrapped(out, setting->help, "      ", 74);
		if (setting->fallback[0] != 0) {
			fprintf(out, " [%s]", setting->fallback);
		}
		fputc('\n', out);
	}
}

void config_print_sample(FILE *out)
{
	fputs("# litefunnel.conf: every setting, with its default.\n"
	      "# An option on the command line wins over the environment, and that over this file.\n"
	      "# Settings marked (reload) take effect on `litefunnel reload DB`, others on a restart.\n",
		out);
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		const struct setting *setting = &settings[i];
		fputs("\n# ", out);
		print_wrapped(out, setting->help, "# ", 94);
		fprintf(out, "%s\n", setting->reloads ? " (reload)" : "");
		if (setting->choices != NULL) {
			fprintf(out, "# one of: %s\n", setting->choices);
		}
		fprintf(out, "#%s =%s%s\n", setting->name, setting->fallback[0] != 0 ? " " : "",
			setting->fallback);
	}
}
