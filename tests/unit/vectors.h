/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Reads proto/vectors: hexadecimal with '#' comments, "# expect: X" and "# level: X" among them.
 * VECTORS_DIR is given by the build.
 */

#include "tests/unit/cmocka_all.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VECTOR_BYTES_MAX = 64 * 1024 };

struct vector {
	const char *name;
	char expect[32]; /* "" for good ones */
	char level[32];
	uint8_t bytes[VECTOR_BYTES_MAX]; /* the frame, header included */
	size_t len;
};

typedef void (*vector_fn)(const struct vector *vector);

/* "# key: value" into ret_value; lines of other kinds are left alone. */
static void vector_note(const char *line, const char *key, char *ret_value, size_t size)
{
	size_t len = strlen(key);
	if (strncmp(line, "# ", 2) == 0 && strncmp(line + 2, key, len) == 0 &&
		strncmp(line + 2 + len, ": ", 2) == 0) {
		(void)snprintf(ret_value, size, "%s", line + 2 + len + 2);
		ret_value[strcspn(ret_value, "\n")] = '\0';
	}
}

static void vector_line(struct vector *vector, char *line)
{
	unsigned value = 0;
	int used = 0;
	vector_note(line, "expect", vector->expect, sizeof(vector->expect));
	vector_note(line, "level", vector->level, sizeof(vector->level));
	line[strcspn(line, "#\n")] = '\0';
	for (char *at = line; sscanf(at, " %2x%n", &value, &used) == 1; at += used) {
		assert_true(vector->len < sizeof(vector->bytes));
		vector->bytes[vector->len++] = (uint8_t)value;
	}
}

static void vector_read(struct vector *vector, const char *path)
{
	char line[256];
	FILE *file = fopen(path, "re");
	assert_non_null(file);
	vector->len = 0;
	vector->expect[0] = '\0';
	vector->level[0] = '\0';
	while (fgets(line, sizeof(line), file) != NULL) {
		vector_line(vector, line);
	}
	(void)fclose(file);
}

/* Calls fn for each file of VECTORS_DIR/folder; the number of files. */
static size_t vectors_each(const char *folder, vector_fn fn)
{
	static struct vector vector;
	char path[4096];
	size_t count = 0;
	(void)snprintf(path, sizeof(path), "%s/%s", VECTORS_DIR, folder);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
		size_t len = strlen(entry->d_name);
		if (len < 5 || strcmp(entry->d_name + len - 4, ".hex") != 0) {
			continue;
		}
		(void)snprintf(path, sizeof(path), "%s/%s/%s", VECTORS_DIR, folder, entry->d_name);
		vector.name = entry->d_name;
		vector_read(&vector, path);
		fn(&vector);
		count++;
	}
	(void)closedir(dir);
	return count;
}
