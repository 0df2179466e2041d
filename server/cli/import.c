/* SPDX-License-Identifier: MIT */

/*
 * litefunnel import: which file goes into which columns. How it gets there stands in pour.c.
 */

#include "server/base/cleanup.h"
#include "server/cli/cli.h"
#include "server/cli/connect.h"
#include "server/cli/pour.h"
#include "server/cli/text.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static const char help[] =
	"usage: litefunnel import DB TABLE FILE [options]\n"
	"\n"
	"Puts the records of a file into a table, in pieces of a few milliseconds each, with everybody's\n"
	"writes between. How far it is stands in the database, moved together with each piece: after\n"
	"any end, of this command or of the daemon, the same command (without --again) goes on exactly\n"
	"there. It is all or nothing only piece by piece.\n"
	"\n"
	"  DB              path of the database; or set LITEFUNNEL_DB\n"
	"  FILE            CSV (RFC 4180), TSV or NDJSON, in UTF-8; - is stdin (with --name it goes on,\n"
	"                  too, if it is sent from its start again)\n"
	"  --format F      csv, tsv or ndjson [by the file's suffix, else csv]\n"
	"  --header        the first record of a CSV or TSV file names the columns\n"
	"  --map LIST      field=column,...: a field of the header, a number from 1 on, or a key of\n"
	"                  NDJSON goes to that column; `field=` leaves it out. Without --header there\n"
	"                  are as many fields as in the first record\n"
	"  --on-conflict C abort [default], ignore or replace: a row that exists already; ignore leaves\n"
	"                  out, as SQLite's OR IGNORE does, what breaks NOT NULL or CHECK, too\n"
	"  --rejects FILE  bad records go there, a JSON object a line with line, error and record;\n"
	"                  without it the first one ends the import\n"
	"  --name NAME     what the mark is called [made of the file's identity, size and time]; an\n"
	"                  input that begins otherwise than what was imported with it is refused\n"
	"  --again         once more, from the start, whatever the mark says; to go on after an end of\n"
	"                  that, leave it out\n"
	"  --json          print the end as an object\n"
	"  --deadline T    give up after 30s, 5m without an answer [10m]; waits for a daemon that restarts\n"
	"  --socket PATH   the daemon's socket [LITEFUNNEL_SOCKET, or DB-funnel]\n"
	"  --help          this text\n"
	"\n"
	"Values become what the column's affinity makes of them. In CSV nothing between two commas is\n"
	"NULL, \"\" is the empty text, and a quote inside a value that has none around it stays; in TSV\n"
	"\\N is NULL. Empty lines are skipped. A number in NDJSON that fits neither 64 bits nor a double\n"
	"is taken as text, as in CSV: a column of INTEGER or REAL affinity makes the nearest REAL of it.\n"
	"\n"
	"Exit codes: 0 done, 1 failed and nothing applied, 2 usage, 3 unknown outcome, 4 daemon not\n"
	"reachable, 5 partly applied: the last line says how far, and how to go on.\n";

enum {
	OPTION_HELP,
	OPTION_FORMAT,
	OPTION_HEADER,
	OPTION_MAP,
	OPTION_ON_CONFLICT,
	OPTION_REJECTS,
	OPTION_NAME,
	OPTION_AGAIN,
	OPTION_JSON
};

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"format", required_argument, NULL, OPTION_FORMAT},
	{"header", no_argument, NULL, OPTION_HEADER},
	{"map", required_argument, NULL, OPTION_MAP},
	{"on-conflict", required_argument, NULL, OPTION_ON_CONFLICT},
	{"rejects", required_argument, NULL, OPTION_REJECTS},
	{"name", required_argument, NULL, OPTION_NAME},
	{"again", no_argument, NULL, OPTION_AGAIN},
	{"json", no_argument, NULL, OPTION_JSON},
	CONNECT_OPTIONS,
	{NULL, 0, NULL, 0},
};

enum { DEADLINE_MS = 600000, NAME_BYTES_MAX = 255 };

struct import {
	struct connect connect;
	const char *table;
	const char *file;
	const char *format_name;
	enum records_format format;
	bool header;
	char *map; /* cut into its parts while it is read */
	const char *conflict;
	const char *rejects;
	const char *name;
	char own_name[32];
	bool again;
	bool json;

	lf_db *db;
	int fd;
	uint64_t size;
	struct records records;
	/* The fields of a record: their names (NULL: none), and the columns they go to ("": none;
	 * NULL: nobody has said). */
	char **fields;
	char **targets;
	size_t count;
	size_t table_columns; /* 0: the fields have names */
	int *place;
	char *sql;
	size_t columns;
};

/* ---- the command line ---- */

static int take_choice(const char *option, const char *const *choices, int *ret_index)
{
	for (int i = 0; choices[i] != NULL; i++) {
		if (strcmp(optarg, choices[i]) == 0) {
			*ret_index = i;
			return 0;
		}
	}
	return cli_usage("import", "%s %s: see --help for what it may be", option, optarg);
}

static const char *const formats[] = {"csv", "tsv", "ndjson", NULL};
static const char *const conflicts[] = {"abort", "ignore", "replace", NULL};

static int take_option(struct import *import, int option)
{
	int choice = 0;
	int rc = 0;
	switch (option) {
	case OPTION_FORMAT:
		rc = take_choice("--format", formats, &choice);
		import->format = (enum records_format)choice;
		import->format_name = optarg;
		return rc;
	case OPTION_HEADER:
		import->header = true;
		return 0;
	case OPTION_MAP:
		import->map = optarg;
		return 0;
	case OPTION_ON_CONFLICT:
		rc = take_choice("--on-conflict", conflicts, &choice);
		import->conflict = conflicts[choice];
		return rc;
	case OPTION_REJECTS:
		import->rejects = optarg;
		return 0;
	case OPTION_NAME:
		import->name = optarg;
		return optarg[0] != '\0' && strlen(optarg) <= NAME_BYTES_MAX
			? 0
			: cli_usage("import", "--name: a name has 1 to 255 bytes");
	case OPTION_AGAIN:
		import->again = true;
		return 0;
	case OPTION_JSON:
		import->json = true;
		return 0;
	default:
		return connect_option(&import->connect, option);
	}
}

static bool ends_with(const char *text, const char *suffix)
{
	size_t len = strlen(text);
	size_t suffix_len = strlen(suffix);
	return len >= suffix_len && strcmp(text + len - suffix_len, suffix) == 0;
}

/* -1: go on. Otherwise the exit code. */
static int parse(struct import *import, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD || take_option(import, option) != 0) {
			return CLI_USAGE;
		}
	}
	import->connect.db = options_db(options, 2);
	import->table = options_shift(options);
	import->file = options_shift(options);
	if (import->connect.db == NULL) {
		return CLI_USAGE;
	}
	if (import->file == NULL) {
		return cli_usage("import", "which table and file?");
	}
	if (options_finish(options) != 0) {
		return CLI_USAGE;
	}
	if (import->format_name == NULL) {
		import->format = ends_with(import->file, ".tsv") ? RECORDS_TSV
			: ends_with(import->file, ".ndjson") || ends_with(import->file, ".jsonl")
			? RECORDS_NDJSON
			: RECORDS_CSV;
	}
	if (import->header && import->format == RECORDS_NDJSON) {
		return cli_usage("import", "--header: NDJSON has its names in each record");
	}
	import->connect.deadline_ms =
		import->connect.deadline_ms != 0 ? import->connect.deadline_ms : DEADLINE_MS;
	return -1;
}

/* ---- the file ---- */

static int open_file(struct import *import)
{
	struct stat status;
	bool standard = strcmp(import->file, "-") == 0;
	import->fd = standard ? STDIN_FILENO : open(import->file, O_RDONLY | O_CLOEXEC);
	if (import->fd < 0 || fstat(import->fd, &status) != 0) {
		return cli_fail("import", "%s: %s", import->file, strerror(errno));
	}
	if (S_ISDIR(status.st_mode)) {
		return cli_fail("import", "%s is a directory", import->file);
	}
	import->size = S_ISREG(status.st_mode) ? (uint64_t)status.st_size : 0;
	if (import->name == NULL) {
		/* Another file, or the same with other content, is another import. */
		uint64_t identity[] = {status.st_dev, status.st_ino, (uint64_t)status.st_size,
			(uint64_t)status.st_mtim.tv_sec, (uint64_t)status.st_mtim.tv_nsec,
			XXH3_64bits(import->table, strlen(import->table)), 0};
		if (!S_ISREG(status.st_mode)) {
			identity[6] = (uint64_t)getpid(); /* a stream cannot be met again */
		}
		snprintf(import->own_name, sizeof(import->own_name), "import-%016" PRIx64,
			(uint64_t)XXH3_64bits(identity, sizeof(identity)));
		import->name = import->own_name;
	}
	records_init(&import->records, import->fd, import->format);
	return 0;
}

/* ---- the daemon ---- */

/* A query of one text and perhaps one number. Its reply, or the exit code. */
static int ask(struct import *import, const char *sql, const char *text, lf_reply **ret_reply)
{
	lf_batch *batch = lf_batch_new();
	if (batch == NULL) {
		return cli_fail("import", "out of memory");
	}
	lf_batch_step(batch, sql);
	lf_bind_text(batch, text, -1);
	int result = lf_write(import->db, batch, ret_reply);
	lf_batch_free(batch);
	return result == LF_OK ? 0
			       : connect_report(&import->connect, import->db, result, *ret_reply);
}

/* Where the mark stands, and how the file began that it speaks of; "": nobody has noted it. */
static int read_mark(
	struct import *import, uint64_t *ret_position, char ret_sign[RECORDS_SIGN_BYTES])
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int code = ask(import, "SELECT lf_mark(?1), lf_mark_note(?1)", import->name, &reply);
	ret_sign[0] = '\0';
	if (code == 0) {
		size_t len = 0;
		const char *sign = lf_reply_type(reply, 0, 0, 1) == LF_TEXT
			? lf_reply_text(reply, 0, 0, 1, &len)
			: "";
		*ret_position = (uint64_t)lf_reply_int64(reply, 0, 0, 0);
		snprintf(ret_sign, RECORDS_SIGN_BYTES, "%.*s", (int)len, sign);
	}
	return code;
}

static int too_short(const struct import *import, int rc)
{
	return cli_fail("import", "%s: %s", import->file,
		rc == -ENODATA ? "it is shorter than what was imported of it (--again?)"
			       : strerror(-rc));
}

/* A name is taken for the same input only if that begins as it did. */
static int check_same(struct import *import, uint64_t position, const char *sign)
{
	char here[RECORDS_SIGN_BYTES];
	if (position == 0 || sign[0] == '\0') {
		return 0;
	}
	int rc = records_sign(&import->records, position, here);
	if (rc != 0) {
		return too_short(import, rc);
	}
	return strcmp(here, sign) == 0
		? 0
		: cli_fail("import",
			  "%s is not what was begun with the name %s: what was imported of that "
			  "begins otherwise (cure: another --name; or --again, from the start)",
			  import->file, import->name);
}

static int forget_mark(struct import *import)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	return ask(import, "SELECT lf_mark(?1, lf_mark(?1), NULL)", import->name, &reply);
}

/* ---- columns ---- */

static int no_memory(void)
{
	return cli_fail("import", "out of memory");
}

/* The fields as the first record has them; NDJSON: its keys. */
static int fields_of_record(struct import *import, const struct record *record, bool named)
{
	import->count = record->count;
	import->fields = calloc(record->count + 1, sizeof(*import->fields));
	import->targets = calloc(record->count + 1, sizeof(*import->targets));
	if (import->fields == NULL || import->targets == NULL) {
		return no_memory();
	}
	for (size_t i = 0; named && i < record->count; i++) {
		const struct print_value *value = &record->values[i];
		import->fields[i] = record->names != NULL ? strdup(record->names[i])
			: value->type == LF_TEXT          ? strndup(value->data, value->len)
							  : strdup("");
		if (import->fields[i] == NULL) {
			return no_memory();
		}
		if (import->fields[i][0] != '\0' &&
			(import->targets[i] = strdup(import->fields[i])) == NULL) {
			return no_memory();
		}
	}
	return 0;
}

/* Without names: the columns of the table, in order. */
static int targets_of_table(struct import *import)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int code = ask(import, "SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0",
		import->table, &reply);
	if (code != 0) {
		return code;
	}
	size_t columns = lf_reply_rows(reply, 0);
	if (columns == 0) {
		return cli_fail("import", "there is no table \"%s\"", import->table);
	}
	if (import->targets == NULL) {
		import->targets = calloc(columns + 1, sizeof(*import->targets));
		import->fields = calloc(columns + 1, sizeof(*import->fields));
		import->count = columns;
	}
	import->table_columns = columns;
	for (size_t i = 0; import->targets != NULL && i < import->count && i < columns; i++) {
		size_t len = 0;
		const char *name = lf_reply_text(reply, 0, i, 0, &len);
		import->targets[i] = strndup(name, len);
		if (import->targets[i] == NULL) {
			return no_memory();
		}
	}
	return import->targets != NULL && import->fields != NULL ? 0 : no_memory();
}

/* The field that a name of --map means, or -1. */
static int find_field(const struct import *import, const char *name)
{
	char *end = NULL;
	unsigned long number = strtoul(name, &end, 10);
	for (size_t i = 0; i < import->count; i++) {
		if (import->fields[i] != NULL && strcmp(import->fields[i], name) == 0) {
			return (int)i;
		}
	}
	return *end == '\0' && number >= 1 && number <= import->count ? (int)number - 1 : -1;
}

static int no_field(const struct import *import, const char *name)
{
	if (import->table_columns > 0 && name[strspn(name, "0")] != '\0' &&
		name[strspn(name, "0123456789")] == '\0') {
		return cli_fail("import", "%s: the first record: %zu values instead of %s",
			import->file, import->count, name);
	}
	return cli_usage("import",
		"--map: the file has no field \"%s\": fields are numbered from 1 on%s", name,
		import->header ? ", or named as in the first record" : "");
}

static int apply_map(struct import *import)
{
	char *rest = import->map;
	for (char *part = NULL; rest != NULL && (part = strsep(&rest, ",")) != NULL;) {
		char *column = strchr(part, '=');
		if (column == NULL) {
			return cli_usage("import", "--map %s: use field=column", part);
		}
		*column++ = '\0';
		int field = find_field(import, part);
		if (field < 0) {
			return no_field(import, part);
		}
		char *target = strdup(column);
		if (target == NULL) {
			return no_memory();
		}
		free(import->targets[field]);
		import->targets[field] = target;
	}
	return 0;
}

/* Each field goes to a column of its own, or was left out by somebody. */
static int check_targets(const struct import *import)
{
	for (size_t i = 0; i < import->count; i++) {
		const char *target = import->targets[i];
		if (target == NULL && import->table_columns > 0) {
			return cli_fail("import",
				"%s: the first record has %zu values, and the table %zu columns "
				"(cure: --map %zu=column, or %zu= to leave it out)",
				import->file, import->count, import->table_columns, i + 1, i + 1);
		}
		if (target == NULL) {
			return cli_fail("import",
				"%s: field %zu has no name (cure: --map %zu=column, or %zu= to "
				"leave it out)",
				import->file, i + 1, i + 1, i + 1);
		}
		for (size_t j = 0; j < i && target[0] != '\0'; j++) {
			if (strcasecmp(import->targets[j], target) == 0) {
				return cli_fail("import",
					"%s: fields %zu and %zu both go to the column \"%s\" "
					"(cure: --map %zu=column, or %zu= to leave it out)",
					import->file, j + 1, i + 1, target, i + 1, i + 1);
			}
		}
	}
	return 0;
}

static void quote(FILE *out, const char *name)
{
	fputc('"', out);
	for (; *name != '\0'; name++) {
		fputs(*name == '"' ? "\"\"" : (char[]){*name, '\0'}, out);
	}
	fputc('"', out);
}

/* The INSERT, and where each field goes in it. */
static int make_statement(struct import *import)
{
	size_t len = 0;
	FILE *out = open_memstream(&import->sql, &len);
	import->place = calloc(import->count + 1, sizeof(*import->place));
	if (out == NULL || import->place == NULL) {
		return no_memory();
	}
	fprintf(out, "INSERT OR %s INTO ", import->conflict);
	quote(out, import->table);
	for (size_t i = 0; i < import->count; i++) {
		import->place[i] = POUR_SKIP;
		if (import->targets[i][0] != '\0') {
			import->place[i] = (int)import->columns++;
			fputs(import->columns == 1 ? "(" : ", ", out);
			quote(out, import->targets[i]);
		}
	}
	fputs(") VALUES (", out);
	for (size_t i = 0; i < import->columns; i++) {
		fputs(i == 0 ? "?" : ", ?", out);
	}
	fputc(')', out);
	if (fclose(out) != 0) {
		return no_memory();
	}
	return import->columns > 0 && import->columns <= POUR_COLUMNS_MAX
		? 0
		: cli_usage("import", "there must be 1 to %d columns", POUR_COLUMNS_MAX);
}

/*
 * Reads the first record where it says what the fields are, or with --map how many; then everything is
 * ready to go.
 */
static int find_columns(struct import *import)
{
	struct record record;
	int code = 0;
	bool telling = import->header || import->format == RECORDS_NDJSON;
	int rc = telling || import->map != NULL ? records_next(&import->records, &record)
						: RECORDS_END;
	if (telling || rc != RECORDS_END) {
		if (rc != 0) {
			return cli_fail("import", "%s: the first record: %s", import->file,
				rc == RECORDS_END           ? "there is none"
					: rc == RECORDS_BAD ? import->records.why
					: rc == -EFBIG
					? "it is larger than 16 MiB (a quote that is not closed?)"
					: strerror(-rc));
		}
		bool named = import->header || record.names != NULL;
		code = fields_of_record(import, &record, named);
		code = code == 0 && !named ? targets_of_table(import) : code;
		if (!import->header) {
			records_rewind(&import->records, record.from, record.line);
		}
	} else {
		code = targets_of_table(import);
	}
	code = code == 0 ? apply_map(import) : code;
	code = code == 0 ? check_targets(import) : code;
	return code == 0 ? make_statement(import) : code;
}

/* Compiled by the daemon before anything is sent: a wrong table or column is no bad record. */
static int check_statement(struct import *import)
{
	CLEANUP(connect_free_reply) lf_reply *reply = NULL;
	int result = lf_describe(import->db, import->sql, &reply);
	int code =
		result == LF_OK ? 0 : connect_report(&import->connect, import->db, result, reply);
	if (result == LF_FAILED && strstr(lf_reply_message(reply), "no column named") != NULL) {
		fputs("A field goes to another column with --map field=column, and to none with "
		      "--map field=.\n",
			stderr);
	}
	return code;
}

/* ---- the end ---- */

static void print_json(const struct import *import, const struct pour_result *result)
{
	printf("{\"rows\":%" PRIu64 ",\"rejected\":%" PRIu64 ",\"position\":%" PRIu64, result->rows,
		result->rejected, result->position);
	if (result->line > 0) {
		printf(",\"line\":%" PRIu64, result->line);
	}
	printf(",\"complete\":%s%s%s,\"name\":", result->complete ? "true" : "false",
		result->line == 0 ? ",\"before\":true" : "",
		result->unshipped ? ",\"shipped\":false" : "");
	text_json_cstr(stdout, import->name);
	if (result->why[0] != '\0') {
		fputs(",\"error\":", stdout);
		text_json_cstr(stdout, result->why);
	}
	fputs("}\n", stdout);
}

static int report(const struct import *import, const struct pour_result *result)
{
	if (import->json) {
		print_json(import, result);
	}
	if (result->complete && !import->json) {
		printf("%" PRIu64 " rows imported", result->rows);
		if (result->rejected > 0) {
			printf(", %" PRIu64 " rejected: see %s", result->rejected, import->rejects);
		}
		fputc('\n', stdout);
	}
	if (print_flush("import") != 0) {
		return CLI_FAILED;
	}
	if (result->complete && result->unshipped) {
		cli_fail("import",
			"all of it is committed, but was not shipped in time: `litefunnel sync %s` "
			"waits for it",
			import->connect.db);
	}
	if (result->complete) {
		return result->unshipped ? CLI_PARTLY : CLI_DONE;
	}
	fprintf(stderr,
		"litefunnel import: %s%s%" PRIu64 " rows imported, up to line %" PRIu64
		"; go on with the same command and --name %s%s\n",
		result->why[0] != '\0' ? result->why : "interrupted", "; ", result->rows,
		result->line - 1, import->name,
		import->again ? ", without --again, which begins once more" : "");
	bool partly = result->position > 0 && result->code != CLI_UNKNOWN;
	return partly ? CLI_PARTLY : result->code != 0 ? result->code : CLI_FAILED;
}

/* All of it was imported by an earlier run. */
static int report_before(const struct import *import)
{
	if (import->json) {
		struct pour_result result = {.position = import->size, .complete = true};
		print_json(import, &result);
	} else {
		printf("this file was imported before, with the name %s: --again imports it once more\n",
			import->name);
	}
	return print_flush("import") == 0 ? CLI_DONE : CLI_FAILED;
}

static int go(struct import *import)
{
	uint64_t position = 0;
	char sign[RECORDS_SIGN_BYTES];
	int code = import->again ? forget_mark(import) : 0;
	code = code == 0 ? read_mark(import, &position, sign) : code;
	code = code == 0 ? check_same(import, position, sign) : code;
	code = code == 0 ? find_columns(import) : code;
	code = code == 0 ? check_statement(import) : code;
	if (code != 0) {
		return code;
	}
	if (position > 0 && position == import->size) {
		return report_before(import);
	}
	int rc = position > import->records.at ? records_skip(&import->records, position) : 0;
	if (rc != 0) {
		return too_short(import, rc);
	}
	struct pour_options options = {
		.connect = &import->connect,
		.db = import->db,
		.records = &import->records,
		.sql = import->sql,
		.columns = import->columns,
		.place = import->place,
		.places = import->count,
		.names = (const char *const *)import->fields,
		.mark = import->name,
		.position = position,
		.size = import->size,
		.rejects = import->rejects,
	};
	struct pour_result result;
	return pour_run(&options, &result) != 0 ? no_memory() : report(import, &result);
}

static void finish(struct import *import)
{
	for (size_t i = 0; i < import->count; i++) {
		free(import->fields != NULL ? import->fields[i] : NULL);
		free(import->targets != NULL ? import->targets[i] : NULL);
	}
	free(import->fields);
	free(import->targets);
	free(import->place);
	free(import->sql);
	records_finish(&import->records);
	if (import->fd > STDIN_FILENO) {
		close(import->fd);
	}
	connect_close(&import->db);
}

int cli_import(int argc, char **argv)
{
	struct import import = {
		.connect = {.command = "import"}, .conflict = conflicts[0], .fd = -1};
	struct options options;
	options_init(&options, "import", table, argc, argv);
	int code = parse(&import, &options);
	if (code >= 0) {
		return code;
	}
	code = open_file(&import);
	code = code == 0 ? connect_open(&import.connect, &import.db) : code;
	code = code == 0 ? go(&import) : code;
	finish(&import);
	return code;
}
