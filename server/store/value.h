/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * A value on its way into or out of the database: SQLite's five storage classes, owned by whoever
 * made it. What comes out of a row lives until the next row.
 */

#include <stddef.h>
#include <stdint.h>

enum value_type { VALUE_NULL, VALUE_INTEGER, VALUE_FLOAT, VALUE_TEXT, VALUE_BLOB };

struct bytes {
	const void *data;
	size_t len;
};

struct value {
	enum value_type type;
	union {
		int64_t integer;
		double real;
		struct bytes bytes; /* TEXT: UTF-8 by agreement, not terminated */
	};
};
