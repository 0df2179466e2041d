/* SPDX-License-Identifier: MIT */

/* Making and unmaking requests and failures. What becomes of them is decided elsewhere. */

#include "server/funnel/request.h"

#include <stdarg.h>
#include <stdio.h>
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

void failure_clear(struct failure *failure)
{
	free(failure->message);
	*failure = (struct failure){.step = -1, .row = -1};
}

void failure_set(struct failure *failure, enum failure_code code, const char *format, ...)
{
	va_list args;
	failure_clear(failure);
	failure->code = code;
	va_start(args, format);
	if (vasprintf(&failure->message, format, args) < 0) {
		failure->message = NULL;
	}
	va_end(args);
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
	request->failure.step = -1;
	request->failure.row = -1;
	list_init(&request->node);
	list_init(&request->in_flight);
	*ret_extra = (uint8_t *)request + head;
	return request;
}

void request_free(struct request *request)
{
	if (request == NULL) {
		return;
	}
	list_remove(&request->node);
	list_remove(&request->in_flight);
	credentials_unref(request->credentials);
	failure_clear(&request->failure);
	buffer_finish(&request->payload);
	buffer_finish(&request->reply);
	free(request);
}
