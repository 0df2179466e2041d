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

struct request *request_new(enum request_kind kind, size_t extra, void **ret_extra)
{
	size_t head = (sizeof(struct request) + 15) & ~(size_t)15;
	if (extra > SIZE_MAX - head) {
		return NULL;
	}
	struct request *request = malloc(head + extra);
	if (request == NULL) {
		return NULL;
	}
	memset(request, 0, sizeof(*request));
	request->kind = kind;
	request->bytes = head + extra;
	failure_init(&request->failure);
	list_init(&request->node);
	list_init(&request->arrival);
	list_init(&request->in_flight);
	*ret_extra = (uint8_t *)request + head;
	return request;
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
	buffer_finish(&request->payload);
	buffer_finish(&request->reply);
	free(request);
}
