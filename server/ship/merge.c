/* SPDX-License-Identifier: MIT */

/* Merges segments page by page. It knows files, not replicas, records or levels. */

#include "server/ship/merge.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

struct input {
	int fd;
	off_t at;
	struct ltx_reader *reader;
	uint32_t page_no;    /* the one it stands at */
	const uint8_t *page; /* NULL: it has ended, and was right */
};

static long read_input(void *ctx, void *bytes, size_t len)
{
	struct input *input = ctx;
	ssize_t got = pread(input->fd, bytes, len, input->at);
	if (got < 0) {
		return -errno;
	}
	input->at += got;
	return got;
}

static int open_inputs(
	struct input *inputs, const int *fds, size_t count, char error[LTX_ERROR_BYTES])
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		inputs[i].fd = fds[i];
		rc = ltx_reader_new(read_input, &inputs[i], &inputs[i].reader, error);
		rc = rc == 0 ? ltx_reader_next(
				       inputs[i].reader, &inputs[i].page_no, &inputs[i].page, error)
			     : rc;
	}
	return rc;
}

/* The header of the whole; LTX_CORRUPT if they do not follow each other. */
static int make_header(const struct input *inputs, size_t count, struct ltx_header *ret_header,
	char error[LTX_ERROR_BYTES])
{
	const struct ltx_header *first = ltx_reader_header(inputs[0].reader);
	const struct ltx_header *last = ltx_reader_header(inputs[count - 1].reader);
	for (size_t i = 1; i < count; i++) {
		const struct ltx_header *before = ltx_reader_header(inputs[i - 1].reader);
		const struct ltx_header *after = ltx_reader_header(inputs[i].reader);
		if (after->min_txid != before->max_txid + 1 ||
			after->page_size != before->page_size) {
			snprintf(error, LTX_ERROR_BYTES,
				"segments do not follow each other, or differ in page size");
			return LTX_CORRUPT;
		}
	}
	*ret_header = (struct ltx_header){
		.page_size = last->page_size,
		.commit = last->commit,
		.min_txid = first->min_txid,
		.max_txid = last->max_txid,
		.timestamp_ms = last->timestamp_ms,
	};
	return 0;
}

/* The newest of those that stand at the lowest page; `count` if all have ended. */
static size_t choose(const struct input *inputs, size_t count)
{
	size_t best = count;
	for (size_t i = count; i > 0; i--) {
		const struct input *input = &inputs[i - 1];
		if (input->page != NULL &&
			(best == count || input->page_no < inputs[best].page_no)) {
			best = i - 1;
		}
	}
	return best;
}

static int skip_page(
	struct input *inputs, size_t count, uint32_t page_no, char error[LTX_ERROR_BYTES])
{
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (inputs[i].page != NULL && inputs[i].page_no == page_no) {
			rc = ltx_reader_next(
				inputs[i].reader, &inputs[i].page_no, &inputs[i].page, error);
		}
	}
	return rc;
}

static int write_pages(struct input *inputs, size_t count, uint32_t commit,
	struct ltx_writer *writer, char error[LTX_ERROR_BYTES])
{
	size_t best;
	while ((best = choose(inputs, count)) < count) {
		uint32_t page_no = inputs[best].page_no;
		int rc =
			page_no <= commit ? ltx_writer_page(writer, page_no, inputs[best].page) : 0;
		rc = rc == 0 ? skip_page(inputs, count, page_no, error) : rc;
		if (rc != 0) {
			return rc;
		}
	}
	return ltx_writer_finish(writer);
}

int merge_segments(const int *fds, size_t count, ltx_sink sink, void *ctx,
	struct ltx_header *ret_header, char ret_error[LTX_ERROR_BYTES])
{
	struct input inputs[MERGE_INPUTS_MAX] = {0};
	struct ltx_writer *writer = NULL;
	assert(count > 0 && count <= MERGE_INPUTS_MAX);
	int rc = open_inputs(inputs, fds, count, ret_error);
	rc = rc == 0 ? make_header(inputs, count, ret_header, ret_error) : rc;
	rc = rc == 0 ? ltx_writer_new(ret_header, sink, ctx, &writer) : rc;
	rc = rc == 0 ? write_pages(inputs, count, ret_header->commit, writer, ret_error) : rc;
	ltx_writer_free(writer);
	for (size_t i = 0; i < count; i++) {
		ltx_reader_free(inputs[i].reader);
	}
	return rc;
}
