/* SPDX-License-Identifier: MIT */

/*
 * Cuts SQL into tokens by SQLite's own rules. It need not judge: what it is given has been compiled,
 * and what is made of it will be compiled again.
 */

#include "server/store/sql_text.h"

#include "server/store/stmt.h"

#include <ctype.h>
#include <string.h>

static bool is_word(char c)
{
	return isalnum((unsigned char)c) || c == '_' || c == '$' || ((unsigned char)c & 0x80) != 0;
}

/* The end of what is quoted from `at` on, doubled quotes inside; 0: it has none. */
static size_t quoted_end(struct bytes sql, size_t at)
{
	const char *text = sql.data;
	char quote = text[at] == '[' ? ']' : text[at];
	for (size_t i = at + 1; i < sql.len; i++) {
		if (text[i] != quote) {
			continue;
		}
		if (quote == ']' || i + 1 >= sql.len || text[i + 1] != quote) {
			return i + 1;
		}
		i++;
	}
	return 0;
}

static size_t word_end(struct bytes sql, size_t at)
{
	const char *text = sql.data;
	while (at < sql.len && is_word(text[at])) {
		at++;
	}
	return at;
}

/* Numbers with a point or a signed exponent: their end matters little, but no word begins inside. */
static size_t number_end(struct bytes sql, size_t at)
{
	const char *text = sql.data;
	while (at < sql.len &&
		(is_word(text[at]) || text[at] == '.' ||
			((text[at] == '+' || text[at] == '-') &&
				(text[at - 1] == 'e' || text[at - 1] == 'E')))) {
		at++;
	}
	return at;
}

static size_t param_end(struct bytes sql, size_t at)
{
	const char *text = sql.data;
	size_t end = word_end(sql, at + 1);
	/* Tcl's $a::b(c): nobody's habit here, and its parenthesis is none. */
	bool tcl = end < sql.len && (text[end] == '(' || text[end] == ':') && text[at] != '?';
	return tcl ? 0 : end;
}

/* The end of the token that begins at `at`, and its kind. */
static size_t token_end(struct bytes sql, size_t at, enum token_kind *ret_kind)
{
	const char *text = sql.data;
	char c = text[at];
	if (c == '\'' || c == '"' || c == '`' || c == '[') {
		*ret_kind = TOKEN_QUOTED;
		return quoted_end(sql, at);
	}
	if ((c == 'x' || c == 'X') && at + 1 < sql.len && text[at + 1] == '\'') {
		*ret_kind = TOKEN_OTHER;
		return quoted_end(sql, at + 1);
	}
	if (isdigit((unsigned char)c) ||
		(c == '.' && at + 1 < sql.len && isdigit((unsigned char)text[at + 1]))) {
		*ret_kind = TOKEN_OTHER;
		return number_end(sql, at);
	}
	if (c == '?' || c == ':' || c == '@' || c == '#' || c == '$') {
		*ret_kind = TOKEN_PARAM;
		return param_end(sql, at);
	}
	*ret_kind = is_word(c) ? TOKEN_WORD : TOKEN_MARK;
	return is_word(c) ? word_end(sql, at) : at + 1;
}

struct token sql_next(struct sql_text *text)
{
	struct token token = {.kind = TOKEN_END, .at = sql_skip_space(text->sql, text->at)};
	token.depth = text->depth;
	if (token.at >= text->sql.len) {
		return token;
	}
	size_t end = token_end(text->sql, token.at, &token.kind);
	token.first = ((const char *)text->sql.data)[token.at];
	if (token.kind == TOKEN_MARK && token.first == '(') {
		text->depth++;
	} else if (token.kind == TOKEN_MARK && token.first == ')') {
		end = text->depth > 0 ? end : 0;
		text->depth -= text->depth > 0;
		token.depth = text->depth;
	}
	if (end == 0) {
		token.kind = TOKEN_BROKEN;
		return token;
	}
	token.len = end - token.at;
	text->at = end;
	return token;
}

bool token_is(struct bytes sql, const struct token *token, const char *word)
{
	return token->kind == TOKEN_WORD && token->len == strlen(word) &&
		sqlite3_strnicmp((const char *)sql.data + token->at, word, (int)token->len) == 0;
}

bool token_is_name(const struct token *token)
{
	return token->kind == TOKEN_WORD || token->kind == TOKEN_QUOTED;
}

bool token_name(struct bytes sql, const struct token *token, char *ret_name, size_t size)
{
	const char *text = (const char *)sql.data + token->at;
	size_t len = 0;
	if (token->kind == TOKEN_WORD) {
		if (token->len >= size) {
			return false;
		}
		memcpy(ret_name, text, token->len);
		ret_name[token->len] = 0;
		return true;
	}
	for (size_t i = 1; i + 1 < token->len; i++) {
		if (len + 1 >= size) {
			return false;
		}
		ret_name[len++] = text[i];
		i += text[i] == text[0]; /* a doubled quote is one */
	}
	ret_name[len] = 0;
	return true;
}
