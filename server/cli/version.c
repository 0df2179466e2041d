/* SPDX-License-Identifier: MIT */

/* litefunnel version: what this program is made of, and what is known to be wrong with it. */

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/options.h"
#include "server/cli/print.h"

#include <jansson.h>
#include <msgpack.h>
#include <sqlite3.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel version [--json]\n"
	"\n"
	"Prints the versions of litefunnel and of the libraries that it runs with, and whether this\n"
	"SQLite has the WAL-reset bug.\n"
	"\n"
	"  --json          an object\n"
	"  --help          this text\n";

enum { OPTION_HELP, OPTION_JSON };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"json", no_argument, NULL, OPTION_JSON},
	{NULL, 0, NULL, 0},
};

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

/* Options of SQLite on which what a statement may say, or what a crash may cost, depends. */
static const char *const sqlite_options[] = {"THREADSAFE", "DEFAULT_SYNCHRONOUS",
	"DEFAULT_WAL_SYNCHRONOUS", "DEFAULT_FOREIGN_KEYS", "DQS", "ENABLE_COLUMN_METADATA",
	"ENABLE_DBSTAT_VTAB", "ENABLE_FTS3", "ENABLE_FTS5", "ENABLE_GEOPOLY", "ENABLE_JSON1",
	"ENABLE_MATH_FUNCTIONS", "ENABLE_RTREE", "ENABLE_STAT4", "ENABLE_UPDATE_DELETE_LIMIT",
	"ENABLE_PREUPDATE_HOOK", "LIKE_DOESNT_MATCH_BLOBS", "MAX_VARIABLE_NUMBER",
	"OMIT_LOAD_EXTENSION", "SECURE_DELETE", "USE_URI"};

/*
 * In 3.7.0 to 3.51.2 two connections that commit and checkpoint in the same moment can corrupt a
 * database. It was mended in 3.51.3 and, backwards, in 3.50.7 and 3.44.6.
 */
static bool has_wal_reset_bug(int version)
{
	bool mended = (version >= 3050007 && version < 3051000) ||
		(version >= 3044006 && version < 3045000);
	return version >= 3007000 && version < 3051003 && !mended;
}

static const char *sanitizers(void)
{
#if defined(__SANITIZE_ADDRESS__)
	return "address";
#elif defined(__SANITIZE_THREAD__)
	return "thread";
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
	return "address";
#elif __has_feature(thread_sanitizer)
	return "thread";
#endif
#endif
	return "none";
}

static json_t *build_facts(void)
{
#ifdef __OPTIMIZE__
	bool optimized = true;
#else
	bool optimized = false;
#endif
#ifdef NDEBUG
	bool assertions = false;
#else
	bool assertions = true;
#endif
#ifdef _FORTIFY_SOURCE
	int fortify = _FORTIFY_SOURCE + 0;
#else
	int fortify = 0;
#endif
	return json_pack("{s:s, s:b, s:b, s:i, s:s}", "compiler", COMPILER, "optimized",
		(int)optimized, "assertions", (int)assertions, "fortify_source", fortify,
		"sanitizer", sanitizers());
}

/* The options that are set, as SQLite spells them: "THREADSAFE=1". */
static json_t *sqlite_option_list(void)
{
	json_t *list = json_array();
	const char *option = NULL;
	for (int i = 0; (option = sqlite3_compileoption_get(i)) != NULL; i++) {
		size_t len = strcspn(option, "=");
		for (size_t k = 0; k < sizeof(sqlite_options) / sizeof(sqlite_options[0]); k++) {
			if (strlen(sqlite_options[k]) == len &&
				strncmp(sqlite_options[k], option, len) == 0) {
				json_array_append_new(list, json_string(option));
			}
		}
	}
	return list;
}

static json_t *facts(void)
{
	return json_pack("{s:s, s:{s:s, s:s, s:b, s:o}, s:s, s:s, s:o}", "litefunnel",
		LITEFUNNEL_VERSION, "sqlite", "version", sqlite3_libversion(), "source_id",
		sqlite3_sourceid(), "wal_reset_bug",
		(int)has_wal_reset_bug(sqlite3_libversion_number()), "options",
		sqlite_option_list(), "msgpack", msgpack_version(), "jansson",
		jansson_version_str(), "build", build_facts());
}

static void print_people(json_t *all)
{
	json_t *sqlite = json_object_get(all, "sqlite");
	json_t *build = json_object_get(all, "build");
	json_t *option = NULL;
	size_t index = 0;
	printf("litefunnel %s\n", LITEFUNNEL_VERSION);
	printf("SQLite %s (%s)\n", sqlite3_libversion(), sqlite3_sourceid());
	puts(json_is_true(json_object_get(sqlite, "wal_reset_bug"))
			? "  has the WAL-reset bug of 3.7.0 to 3.51.2, which needs two connections that write:\n"
			  "  out of reach as long as the daemon is the only writer"
			: "  does not have the WAL-reset bug");
	fputs("  options:", stdout);
	json_array_foreach(json_object_get(sqlite, "options"), index, option)
	{
		printf(" %s", json_string_value(option));
	}
	printf("\nmsgpack-c %s, jansson %s\n", msgpack_version(), jansson_version_str());
	printf("built by %s, optimized: %s, assertions: %s, _FORTIFY_SOURCE: %lld, sanitizer: %s\n",
		COMPILER, json_is_true(json_object_get(build, "optimized")) ? "yes" : "no",
		json_is_true(json_object_get(build, "assertions")) ? "yes" : "no",
		(long long)json_integer_value(json_object_get(build, "fortify_source")),
		sanitizers());
}

static void json_free(json_t **json)
{
	json_decref(*json);
}

int cli_version(int argc, char **argv)
{
	struct options options;
	bool json = false;
	options_init(&options, "version", table, argc, argv);
	for (int option = options_next(&options); option != OPTIONS_END;
		option = options_next(&options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD) {
			return CLI_USAGE;
		}
		json = true;
	}
	if (options_finish(&options) != 0) {
		return CLI_USAGE;
	}
	CLEANUP(json_free) json_t *all = facts();
	if (all == NULL) {
		return cli_fail("version", "out of memory");
	}
	if (json) {
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
	} else {
		print_people(all);
	}
	return print_flush("version") == 0 ? CLI_DONE : CLI_FAILED;
}
