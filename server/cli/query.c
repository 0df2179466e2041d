/* SPDX-License-Identifier: MIT */

/*
 * litefunnel query: one statement that only reads, on the file itself. It needs no daemon and talks
 * to none; the handle is read-only, so that nothing here can write whatever the statement is.
 */

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/param.h"
#include "server/cli/print.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
	"usage: litefunnel query DB SQL [PARAM...] [options]\n"
	"\n"
	"Reads the database directly, read-only, beside a daemon or without one, and sees all that\n"
	"was acknowledged before. Rows are printed as they come.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  PARAM           5, -1.5: a number, if it prints back exactly as typed, else text\n"
	"                  NULL, x'00ff': as in SQL\n"
	"                  @FILE: the content of a file, a blob\n"
	"                  :name=VALUE: by name\n"
	"  --text          every PARAM is text, just as it is\n"
	"  --header on|off names above the rows [on if stdout is a terminal]\n"
	"  --json          an array of objects\n"
	"  --ndjson        an object a line\n"
	"  --help          this text\n"
	"\n"
	"On a terminal columns are aligned. Elsewhere a row is a line with tabs between the values;\n"
	"\\t \\n \\r \\\\ \\0 in a value are written so, NULL is \\N, a blob x'00ff'. In JSON a blob is\n"
	"{\"blob\": base64}, text that is no UTF-8 {\"text\": base64}, infinity 1e999.\n"
	"\n"
	"Exit codes: 0 done, 1 failed, 2 usage.\n";

enum { OPTION_HELP, OPTION_TEXT, OPTION_HEADER, OPTION_JSON, OPTION_NDJSON };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"text", no_argument, NULL, OPTION_TEXT},
	{"header", required_argument, NULL, OPTION_HEADER},
	{"json", no_argument, NULL, OPTION_JSON},
	{"ndjson", no_argument, NULL, OPTION_NDJSON},
	{NULL, 0, NULL, 0},
};

struct query {
	struct connect connect;
	const char *sql;
	enum print_format format;
	bool header;
	bool text;
};

/* ---- the command line ---- */

static int take_option(struct query *query, int option)
{
	switch (option) {
	case OPTION_TEXT:
		query->text = true;
		return 0;
	case OPTION_JSON:
		query->format = PRINT_JSON;
		return 0;
	case OPTION_NDJSON:
		query->format = PRINT_NDJSON;
		return 0;
	default:
		query->header = strcmp(optarg, "on") == 0;
		return query->header || strcmp(optarg, "off") == 0
			? 0
			: cli_usage("query", "--header %s: use on or off", optarg);
	}
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct query *query, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD || take_option(query, option) != 0) {
			return CLI_USAGE;
		}
	}
	query->connect.db = options_db_before_sql(options);
	query->sql = options_shift(options);
	if (query->connect.db == NULL) {
		return CLI_USAGE;
	}
	return query->sql != NULL ? -1 : cli_usage("query", "no SQL (give a statement)");
}

/* ---- the statement ---- */

static void finalize(sqlite3_stmt **stmt)
{
	sqlite3_finalize(*stmt);
}

static int sql_failed(sqlite3 *reader)
{
	return cli_fail("query", "%s", sqlite3_errmsg(reader));
}

static int prepare(const struct query *query, sqlite3 *reader, sqlite3_stmt **ret_stmt)
{
	CLEANUP(finalize) sqlite3_stmt *second = NULL;
	const char *tail = NULL;
	if (sqlite3_prepare_v2(reader, query->sql, -1, ret_stmt, &tail) != SQLITE_OK) {
		return sql_failed(reader);
	}
	if (*ret_stmt == NULL) {
		return cli_fail("query", "there is no statement in \"%s\"", query->sql);
	}
	/* A comment or a semicolon is no second statement. */
	while (second == NULL && *tail != '\0') {
		if (sqlite3_prepare_v2(reader, tail, -1, &second, &tail) != SQLITE_OK) {
			return cli_fail(
				"query", "one statement only, but there is more: %.60s", tail);
		}
	}
	if (second != NULL) {
		return cli_fail("query", "one statement only, but there is more: %.60s",
			sqlite3_sql(second));
	}
	if (!sqlite3_stmt_readonly(*ret_stmt)) {
		return cli_fail("query", "this statement writes (use: litefunnel exec)");
	}
	return CLI_DONE;
}

static int parameter_index(sqlite3_stmt *stmt, const char *name)
{
	static const char prefixes[] = ":@$";
	CLEANUP_FREE char *full = malloc(strlen(name) + 2);
	int index = 0;
	if (full == NULL) {
		return 0;
	}
	strcpy(full + 1, name);
	for (const char *prefix = prefixes; index == 0 && *prefix != '\0'; prefix++) {
		full[0] = *prefix;
		index = sqlite3_bind_parameter_index(stmt, full);
	}
	return index;
}

static int bind_value(sqlite3_stmt *stmt, int index, const struct print_value *value)
{
	switch (value->type) {
	case LF_INTEGER:
		return sqlite3_bind_int64(stmt, index, value->integer);
	case LF_FLOAT:
		return sqlite3_bind_double(stmt, index, value->real);
	case LF_TEXT:
		return sqlite3_bind_text64(
			stmt, index, value->data, value->len, SQLITE_STATIC, SQLITE_UTF8);
	case LF_BLOB:
		return sqlite3_bind_blob64(stmt, index, value->data, value->len, SQLITE_STATIC);
	default:
		return sqlite3_bind_null(stmt, index);
	}
}

static int bind_params(sqlite3 *reader, sqlite3_stmt *stmt, const struct params *params)
{
	unsigned wanted = (unsigned)sqlite3_bind_parameter_count(stmt);
	if (params->count != wanted) {
		return cli_fail("query",
			"the statement has %u parameters, but %u values were given", wanted,
			params->count);
	}
	for (unsigned i = 0; i < params->count; i++) {
		const struct param *param = &params->list[i];
		int index = param->name != NULL ? parameter_index(stmt, param->name) : (int)i + 1;
		if (index == 0) {
			return cli_fail("query", "the statement has no parameter :%s", param->name);
		}
		if (bind_value(stmt, index, &param->value) != SQLITE_OK) {
			return sql_failed(reader);
		}
	}
	return CLI_DONE;
}

/* ---- its rows ---- */

static struct print_value column_value(sqlite3_stmt *stmt, int column)
{
	struct print_value value = {.type = (enum lf_type)sqlite3_column_type(stmt, column)};
	if (value.type == LF_INTEGER) {
		value.integer = sqlite3_column_int64(stmt, column);
	} else if (value.type == LF_FLOAT) {
		value.real = sqlite3_column_double(stmt, column);
	} else if (value.type != LF_NULL) {
		const void *data = value.type == LF_TEXT
			? (const void *)sqlite3_column_text(stmt, column)
			: sqlite3_column_blob(stmt, column);
		value.data = data != NULL ? data : ""; /* NULL for an empty blob */
		value.len = (size_t)sqlite3_column_bytes(stmt, column);
	}
	return value;
}

static int begin_rows(const struct query *query, sqlite3_stmt *stmt, struct printer *printer)
{
	int columns = sqlite3_column_count(stmt);
	CLEANUP_FREE const char **names = calloc((size_t)columns + 1, sizeof(*names));
	if (names == NULL) {
		return -ENOMEM;
	}
	for (int i = 0; i < columns; i++) {
		names[i] = sqlite3_column_name(stmt, i);
	}
	return printer_init(
		printer, stdout, query->format, query->header, (unsigned)columns, names);
}

static int print_rows(
	const struct query *query, sqlite3 *reader, sqlite3_stmt *stmt, struct printer *printer)
{
	int columns = sqlite3_column_count(stmt);
	CLEANUP_FREE struct print_value *values = calloc((size_t)columns + 1, sizeof(*values));
	int rc = values != NULL ? begin_rows(query, stmt, printer) : -ENOMEM;
	int step = SQLITE_DONE;
	while (rc == 0 && (step = sqlite3_step(stmt)) == SQLITE_ROW) {
		for (int i = 0; i < columns; i++) {
			values[i] = column_value(stmt, i);
		}
		rc = printer_row(printer, values);
	}
	if (rc == 0 && step != SQLITE_DONE) {
		fflush(stdout); /* what came before stands above the reason for its end */
		return sql_failed(reader);
	}
	rc = rc == 0 ? printer_end(printer) : rc;
	if (rc == -ENOMEM) {
		return cli_fail("query", "out of memory");
	}
	return print_flush("query") == 0 ? CLI_DONE : CLI_FAILED;
}

static int run(const struct query *query, const struct params *params)
{
	CLEANUP(connect_close) lf_db *db = NULL;
	sqlite3 *reader = NULL;
	struct printer printer = {0};
	int code = connect_open(&query->connect, &db);
	if (code != CLI_DONE) {
		return code;
	}
	if (lf_reader(db, &reader) < 0) {
		return cli_fail("query", "%s", lf_errmsg(db));
	}
	CLEANUP(finalize) sqlite3_stmt *stmt = NULL; /* before the client, whose handle it uses */
	code = prepare(query, reader, &stmt);
	code = code == CLI_DONE ? bind_params(reader, stmt, params) : code;
	code = code == CLI_DONE ? print_rows(query, reader, stmt, &printer) : code;
	printer_finish(&printer);
	return code;
}

int cli_query(int argc, char **argv)
{
	struct options options;
	struct params params = {0};
	char error[PARAM_ERROR_BYTES];
	/* A socket that is never used: the path of the database may be longer than one may be. */
	struct query query = {.connect = {.command = "query", .socket = "none"}};
	query.format = print_format_for(stdout);
	query.header = query.format == PRINT_TABLE;
	options_init(&options, "query", table, argc, argv);
	int code = parse(&query, &options);
	if (code >= 0) {
		return code;
	}
	if (params_read(&params, (const char *const *)options.values, options.count, query.text,
		    error) == 0) {
		code = run(&query, &params);
	} else {
		code = cli_fail("query", "%s", error);
	}
	params_finish(&params);
	return code;
}
