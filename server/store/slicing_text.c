/* SPDX-License-Identifier: MIT */

/*
 * Finds the table and the condition of a statement by its words outside of parentheses. The words
 * that it looks for are reserved in SQLite: bare, they can be nothing else there. It knows no schema.
 */

#include "server/store/inside.h"
#include "server/store/slicing.h"
#include "server/store/sql_text.h"

#include <string.h>

struct reading {
	struct sql_text text;
	struct token token;  /* the one at hand */
	struct token before; /* the one before it */
	struct slicing_text *result;
	struct store_error *error;
};

static int refuse(struct reading *reading, const char *why)
{
	return store_error_set(reading->error, STORE_BAD_REQUEST, 0, "cannot be sliced: %s", why);
}

static void next(struct reading *reading)
{
	reading->before = reading->token;
	reading->token = sql_next(&reading->text);
	if (reading->token.kind != TOKEN_END) {
		reading->result->end = reading->token.at + reading->token.len;
	}
}

static bool is(const struct reading *reading, const char *word)
{
	return token_is(reading->text.sql, &reading->token, word);
}

static bool is_mark(const struct reading *reading, char mark)
{
	return reading->token.kind == TOKEN_MARK && reading->token.first == mark;
}

static bool is_any(const struct reading *reading, const char *const *words)
{
	for (; *words != NULL; words++) {
		if (is(reading, *words)) {
			return true;
		}
	}
	return false;
}

/* Goes on to the next token outside of parentheses. False: the text is broken. */
static bool next_outside(struct reading *reading)
{
	do {
		next(reading);
		if (reading->token.kind == TOKEN_BROKEN) {
			return false;
		}
	} while (reading->token.depth > 0 && reading->token.kind != TOKEN_END);
	return true;
}

/* `table` or `schema.table`: the table's name. */
static struct token read_name(struct reading *reading)
{
	struct token name = reading->token;
	next(reading);
	if (is_mark(reading, '.')) {
		next(reading);
		name = reading->token;
		next(reading);
	}
	return name;
}

/* `table`, `schema.table`, either with `AS name`; for a SELECT the AS may be left out. */
static int read_table(struct reading *reading, bool bare_alias)
{
	static const char *const not_alias[] = {"where", "on", "join", "left", "right", "full",
		"inner", "cross", "natural", "outer", "group", "having", "order", "limit", "union",
		"except", "intersect", "window", "indexed", "not", "set", "returning", "using",
		NULL};
	struct slicing_text *result = reading->result;
	struct bytes sql = reading->text.sql;
	if (!token_is_name(&reading->token)) {
		return refuse(reading,
			"it must read its rows from one table, not from a subquery (name the table, or put "
			"what the subquery gives into one first)");
	}
	struct token name = read_name(reading);
	if (is_mark(reading, '(') && reading->token.depth == 0 && bare_alias) {
		return refuse(reading,
			"it must read its rows from a table, not from a function (put what it gives into "
			"one first)");
	}
	struct token as = name;
	bool named = is(reading, "as");
	if (named) {
		next(reading);
	}
	if (named ||
		(bare_alias && token_is_name(&reading->token) && !is_any(reading, not_alias))) {
		as = reading->token;
		next(reading);
	}
	if (is(reading, "indexed") || is(reading, "not")) {
		return refuse(reading,
			"leave INDEXED BY and NOT INDEXED out: the rows are walked along the key");
	}
	if (!token_name(sql, &name, result->table, sizeof(result->table))) {
		return refuse(reading, "the table's name is too long");
	}
	result->as = (struct bytes){(const char *)sql.data + as.at, as.len};
	result->hint_at = as.at + as.len;
	return 0;
}

/* What makes one run over all rows another thing than many runs over some. */
static int check_word(struct reading *reading)
{
	static const char *const whole[] = {"limit", "order", "group", "having", "window", "union",
		"except", "intersect", NULL};
	if (is(reading, "returning")) {
		return refuse(reading, "leave RETURNING out: nobody waits for the rows");
	}
	if (is(reading, "from") && !token_is(reading->text.sql, &reading->before, "distinct")) {
		return refuse(reading,
			"UPDATE … FROM looks at all rows at once: write the value as a subquery in SET");
	}
	if (is_any(reading, whole)) {
		return refuse(reading,
			"LIMIT, ORDER BY, GROUP BY, windows and compound SELECTs look at all rows at "
			"once: put what they give into a table first");
	}
	return 0;
}

/* From the word behind the table to the end: the condition. */
static int read_condition(struct reading *reading)
{
	struct slicing_text *result = reading->result;
	struct token last = reading->before;
	bool behind = false;
	while (reading->token.kind != TOKEN_END) {
		if (reading->token.kind == TOKEN_BROKEN) {
			return refuse(reading, "its text is not understood");
		}
		bool outside = reading->token.depth == 0;
		if (outside && !behind && is(reading, "where")) {
			result->where_at = reading->token.at + reading->token.len;
		} else if (outside && result->kind == SLICING_INSERT && is(reading, "on")) {
			behind = true; /* ON CONFLICT: what follows is no condition on the rows */
			result->where_end = last.at + last.len;
		} else if (outside && !behind) {
			int rc = check_word(reading);
			if (rc != 0) {
				return rc;
			}
		} else if (outside && is(reading, "returning")) {
			return check_word(reading);
		}
		result->params_behind |=
			behind && reading->token.kind == TOKEN_PARAM && reading->token.len == 1;
		last = reading->token;
		next(reading);
	}
	if (!behind) {
		result->where_end = last.at + last.len;
	}
	return 0;
}

/* INTO, and the table. */
static int read_into(struct reading *reading)
{
	struct slicing_text *result = reading->result;
	if (!is(reading, "into")) {
		return 0; /* for SQLite to say */
	}
	next(reading);
	struct token name = read_name(reading);
	return token_name(reading->text.sql, &name, result->into, sizeof(result->into))
		? 0
		: refuse(reading, "the table's name is too long");
}

/* INSERT INTO … SELECT … FROM: the table is the one that is read. */
static int read_select(struct reading *reading)
{
	int into = read_into(reading);
	if (into != 0) {
		return into;
	}
	while (!is(reading, "select")) {
		if (reading->token.kind == TOKEN_END || is(reading, "values") ||
			is(reading, "default") || !next_outside(reading)) {
			return refuse(reading,
				"of INSERTs only INSERT … SELECT is long: send rows as a batch");
		}
	}
	reading->result->select_at = reading->token.at;
	next(reading);
	if (is(reading, "distinct")) {
		return refuse(reading,
			"DISTINCT looks at all rows at once: put what it gives into a table first");
	}
	while (!(is(reading, "from") && reading->token.depth == 0 &&
		!token_is(reading->text.sql, &reading->before, "distinct"))) {
		if (reading->token.kind == TOKEN_END || reading->token.kind == TOKEN_BROKEN) {
			return refuse(reading, "its SELECT reads no table");
		}
		if (is(reading, "over") && reading->before.kind == TOKEN_MARK &&
			reading->before.first == ')') {
			return refuse(reading,
				"window functions look at all rows at once: put what they give into a table first");
		}
		next(reading);
	}
	next(reading);
	int rc = read_table(reading, true);
	if (rc == 0 && reading->token.kind != TOKEN_END && !is(reading, "where") &&
		!is(reading, "on")) {
		rc = check_word(reading);
		return rc != 0
			? rc
			: refuse(reading,
				  "it joins tables: read one, and look up the others by subqueries");
	}
	return rc;
}

/* The statement's own first word: behind WITH, where there is one. */
static int read_verb(struct reading *reading)
{
	static const char *const verbs[] = {"update", "delete", "insert", "replace", NULL};
	next(reading);
	if (is(reading, "with")) {
		static const char *const behind[] = {"update", "delete", "insert", NULL};
		while (!is_any(reading, behind)) {
			if (reading->token.kind == TOKEN_END || !next_outside(reading)) {
				break;
			}
		}
	}
	return is_any(reading, verbs)
		? 0
		: refuse(reading, "it is no UPDATE, DELETE or INSERT … SELECT");
}

/* OR IGNORE and OR ABORT hold for one row; the others reach further. */
static int read_conflict(struct reading *reading)
{
	if (!is(reading, "or")) {
		return 0;
	}
	next(reading);
	bool insert = reading->result->kind == SLICING_INSERT;
	if (!is(reading, "ignore") && !is(reading, "abort") &&
		!(insert && is(reading, "replace"))) {
		return refuse(reading,
			insert ? "OR FAIL and OR ROLLBACK reach beyond a slice: use OR ABORT, OR IGNORE or OR REPLACE"
			       : "OR REPLACE, OR FAIL and OR ROLLBACK reach beyond a row: use OR ABORT or OR IGNORE");
	}
	next(reading);
	return 0;
}

/* Whether WITH, which stands before the verb, names something like the table. */
static bool named_by_with(struct bytes sql, const struct slicing_text *result)
{
	struct sql_text text = {.sql = {sql.data, result->verb_at}};
	char name[SLICING_NAME_BYTES];
	for (struct token token = sql_next(&text); token.kind != TOKEN_END;
		token = sql_next(&text)) {
		if (token.depth == 0 && token_is_name(&token) &&
			(!token_name(text.sql, &token, name, sizeof(name)) ||
				sqlite3_stricmp(name, result->table) == 0)) {
			return true;
		}
	}
	return false;
}

static int read_statement(struct reading *reading)
{
	int rc = read_verb(reading);
	if (rc != 0) {
		return rc;
	}
	struct slicing_text *result = reading->result;
	result->kind = is(reading, "update") ? SLICING_UPDATE
		: is(reading, "delete")      ? SLICING_DELETE
					     : SLICING_INSERT;
	result->verb_at = reading->token.at;
	next(reading);
	rc = read_conflict(reading);
	if (rc != 0) {
		return rc;
	}
	if (result->kind == SLICING_DELETE) {
		next(reading); /* FROM */
	}
	rc = result->kind == SLICING_INSERT ? read_select(reading) : read_table(reading, false);
	rc = rc == 0 ? read_condition(reading) : rc;
	result->as_with = rc == 0 && named_by_with(reading->text.sql, result);
	return rc;
}

int slicing_read(struct bytes sql, struct slicing_text *ret_text, struct store_error *error)
{
	struct reading reading = {.text = {.sql = sql}, .result = ret_text, .error = error};
	*ret_text = (struct slicing_text){0};
	return read_statement(&reading);
}
