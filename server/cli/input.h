/* SPDX-License-Identifier: MIT */
#pragma once

/* Lines of a file descriptor that may be a terminal, a pipe or a file; read when poll() says so. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { INPUT_LINE_BYTES_MAX = 256 * 1024 * 1024 };

enum input_condition {
	INPUT_MORE = 1, /* no whole line yet: input_fill() when there is something to read */
	INPUT_END = 2,
};

struct input {
	int fd;
	char *data;
	size_t cap;
	size_t at; /* the first byte that was not handed out */
	size_t len;
	size_t scanned; /* no newline before */
	uint64_t lines; /* handed out so far: the number of the last one */
	bool end;
};

void input_init(struct input *input, int fd);
void input_finish(struct input *input);

/* Reads once. 0, or negative: -ENOMEM, -EFBIG (a line beyond the limit), what read() said. */
int input_fill(struct input *input);

/* The next line without its newline, valid until input_fill(). 0 or a condition. */
int input_line(struct input *input, const char **ret_line, size_t *ret_len);
