/* SPDX-License-Identifier: MIT */

/* A line reader that never waits longer than one read(), and never grows beyond one line. */

#include "server/cli/input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_BYTES = 65536 };

void input_init(struct input *input, int fd)
{
	*input = (struct input){.fd = fd};
}

void input_finish(struct input *input)
{
	free(input->data);
	*input = (struct input){.fd = -1};
}

/* Room for another read behind what is held. */
static int make_room(struct input *input)
{
	if (input->at > 0) {
		memmove(input->data, input->data + input->at, input->len - input->at);
		input->len -= input->at;
		input->scanned -= input->at;
		input->at = 0;
	}
	if (input->cap - input->len >= READ_BYTES) {
		return 0;
	}
	if (input->len > INPUT_LINE_BYTES_MAX) {
		return -EFBIG;
	}
	size_t cap = 2 * input->cap + READ_BYTES;
	char *data = realloc(input->data, cap);
	if (data == NULL) {
		return -ENOMEM;
	}
	input->data = data;
	input->cap = cap;
	return 0;
}

int input_fill(struct input *input)
{
	int rc = make_room(input);
	if (rc != 0) {
		return rc;
	}
	ssize_t count = read(input->fd, input->data + input->len, input->cap - input->len);
	if (count < 0) {
		return errno == EINTR || errno == EAGAIN ? 0 : -errno;
	}
	input->len += (size_t)count;
	input->end = count == 0;
	return 0;
}

int input_line(struct input *input, const char **ret_line, size_t *ret_len)
{
	size_t unscanned = input->len - input->scanned;
	char *newline =
		unscanned > 0 ? memchr(input->data + input->scanned, '\n', unscanned) : NULL;
	size_t end = newline != NULL ? (size_t)(newline - input->data) : input->len;

	input->scanned = end;
	if (newline == NULL && !input->end) {
		return INPUT_MORE;
	}
	if (newline == NULL && input->at == input->len) {
		return INPUT_END;
	}
	*ret_line = input->data + input->at;
	*ret_len = end - input->at;
	input->at = newline != NULL ? end + 1 : end;
	input->scanned = input->at;
	input->lines++;
	return 0;
}
