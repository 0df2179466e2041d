/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The words of a statement that SQLite has already accepted: where each stands, how deep in
 * parentheses, and whether it is a bare word. No grammar: for that there is SQLite.
 */

#include "server/store/value.h"

#include <stdbool.h>
#include <stddef.h>

enum token_kind {
	TOKEN_END,
	TOKEN_WORD, /* a bare word: a keyword, or a name without quotes */
	TOKEN_QUOTED, /* "name", `name` or [name]; also 'text', which SQLite takes for a name at times */
	TOKEN_PARAM,  /* ?, ?1, :a, @a, $a */
	TOKEN_MARK,   /* a single other character */
	TOKEN_OTHER,  /* a number or a blob */
	TOKEN_BROKEN, /* nothing that this file understands */
};

struct token {
	enum token_kind kind;
	size_t at;
	size_t len;
	unsigned depth; /* of the parentheses around it */
	char first;     /* its first character */
};

struct sql_text {
	struct bytes sql;
	size_t at;
	unsigned depth;
};

/* The next token. A parenthesis has the depth of what stands outside of it. */
struct token sql_next(struct sql_text *text);

/* Whether the token is that bare word, in any case. */
bool token_is(struct bytes sql, const struct token *token, const char *word);

/* Whether it can stand for a name. */
bool token_is_name(const struct token *token);

/* The name without its quotes: at most `size` bytes with the NUL. False: it does not fit. */
bool token_name(struct bytes sql, const struct token *token, char *ret_name, size_t size);
