/* SPDX-License-Identifier: MIT */

/* Making and unmaking requests. What becomes of them is decided elsewhere. */

#include "server/funnel/request.h"

#include <stdlib.h>
#include <string.h>

static const char *const class_names[CLASS_COUNT] = {"interactive", "normal", "bulk"};

const char *request_class_name(enum request_class class)
{
	return class_names[class];
}

bool request_class_parse(struct span name, enum request_class *ret_class)
{
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		if (span_equal(name, class_names[i])) {
			*ret_class = (enum request_class)i;
			return true;
		}
	}
	return false;
}

/* ---- the shelf ---- */

enum {
	BLOCK_BYTES = 2048,  /* of one on the shelf: a batch of one step and some hundred bytes */
	ANSWER_BYTES = 1024, /* a buffer that has grown past this is not kept with it */
	SHELF_BLOCKS = 4096,
};

/* A sanitizer is to see the end of each request. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHELF_USED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SHELF_USED 0
#endif
#endif
#ifndef SHELF_USED
#define SHELF_USED 1
#endif

void request_shelf_init(struct request_shelf *shelf)
{
	list_init(&shelf->blocks);
	shelf->count = 0;
}

static void discard(struct request *request)
{
	buffer_finish(&request->payload);
	buffer_finish(&request->reply);
	free(request);
}

void request_shelf_finish(struct request_shelf *shelf)
{
	list_for_each_safe(node, &shelf->blocks) {
		discard(container_of(node, struct request, node));
	}
	request_shelf_init(shelf);
}

/* Takes the memory of a request that is over; what it owned is gone but for the buffers. */
static void shelve(struct request_shelf *shelf, struct request *request)
{
	if (shelf == NULL || shelf->count == SHELF_BLOCKS) {
		discard(request);
		return;
	}
	struct buffer *buffers[] = {&request->payload, &request->reply};
	for (size_t i = 0; i < 2; i++) {
		if (buffers[i]->cap > ANSWER_BYTES) {
			buffer_finish(buffers[i]);
		}
	}
	list_push_front(&shelf->blocks, &request->node); /* still warm, so first to go again */
	shelf->count++;
}

static struct request *unshelve(struct request_shelf *shelf)
{
	if (list_empty(&shelf->blocks)) {
		struct request *fresh = malloc(BLOCK_BYTES);
		if (fresh != NULL) {
			buffer_init(&fresh->payload, 0);
			buffer_init(&fresh->reply, 0);
		}
		return fresh;
	}
	struct request *request = container_of(shelf->blocks.next, struct request, node);
	list_remove(&request->node);
	shelf->count--;
	return request;
}

/* ---- */

static void begin(struct request *request, enum request_kind kind, size_t bytes)
{
	struct buffer payload = request->payload;
	struct buffer reply = request->reply;
	memset(request, 0, sizeof(*request));
	request->payload = (struct buffer){.data = payload.data, .cap = payload.cap};
	request->reply = (struct buffer){.data = reply.data, .cap = reply.cap};
	request->kind = kind;
	request->bytes = bytes;
	failure_init(&request->failure);
	list_init(&request->node);
	list_init(&request->arrival);
	list_init(&request->in_flight);
}

struct request *request_from(
	struct request_shelf *shelf, enum request_kind kind, size_t extra, void **ret_extra)
{
	size_t head = (sizeof(struct request) + 15) & ~(size_t)15;
	if (extra > SIZE_MAX - head) {
		return NULL;
	}
	if (!SHELF_USED || head + extra > BLOCK_BYTES) {
		shelf = NULL;
	}
	struct request *request = shelf != NULL ? unshelve(shelf) : malloc(head + extra);
	if (request == NULL) {
		return NULL;
	}
	if (shelf == NULL) {
		buffer_init(&request->payload, 0);
		buffer_init(&request->reply, 0);
	}
	begin(request, kind, head + extra);
	request->shelf = shelf;
	*ret_extra = (uint8_t *)request + head;
	return request;
}

struct request *request_new(enum request_kind kind, size_t extra, void **ret_extra)
{
	return request_from(NULL, kind, extra, ret_extra);
}

void request_free(struct request *request)
{
	if (request == NULL) {
		return;
	}
	if (request->task.ended != NULL) {
		request->task.ended(request);
	}
	list_remove(&request->node);
	list_remove(&request->arrival);
	list_remove(&request->in_flight);
	credentials_unref(request->credentials);
	failure_clear(&request->failure);
	free(request->waited_for);
	shelve(request->shelf, request);
}
