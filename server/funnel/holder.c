/* SPDX-License-Identifier: MIT */

/* Names whoever had the writer. What one user's SQL says is not told to another. */

#include "server/funnel/holder.h"

#include "server/funnel/queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { SAME_US = 50000 }; /* a pause in which nobody else could have had the writer for long */

const char *request_what(const struct request *request)
{
	static const char *const names[] = {[REQUEST_WRITE] = "write",
		[REQUEST_DESCRIBE] = "describe",
		[REQUEST_BYE] = "bye",
		[REQUEST_SYNC] = "sync",
		[REQUEST_LEASE] = "lease",
		[REQUEST_COMMIT] = "commit"};
	return request->kind == REQUEST_TASK ? request->task.what : names[request->kind];
}

bool request_may_see(const struct credentials *who, uint32_t uid)
{
	return who != NULL && (who->role >= ROLE_ADMIN || who->uid == uid);
}

void known_by_text(struct known_by *known, struct bytes text)
{
	size_t len = text.len;
	known->has_sql = len > 0;
	if (len == 0) {
		return;
	}
	known->digest = XXH3_64bits(text.data, text.len);
	if (len > HOLDER_SQL_BYTES) {
		const char *data = text.data;
		len = HOLDER_SQL_BYTES;
		while (len > 0 && ((unsigned char)data[len] & 0xc0) == 0x80) {
			len--; /* not within a character */
		}
	}
	memcpy(known->sql, text.data, len);
	memcpy(known->sql + len, len < text.len ? "…" : "", len < text.len ? sizeof("…") : 1);
}

void request_known_by(const struct request *request, struct known_by *ret_known)
{
	*ret_known = (struct known_by){.has_sql = false};
	if (request->kind == REQUEST_TASK && request->task.known_by != NULL) {
		request->task.known_by(request, ret_known);
		return;
	}
	if (request->credentials != NULL) {
		memcpy(ret_known->label, request->credentials->label, sizeof(ret_known->label));
	}
	known_by_text(
		ret_known, request->steps_count > 0 ? request->steps[0].sql : request->task.text);
}

void holder_of(const struct request *request, struct holder *ret_holder)
{
	ret_holder->what = request_what(request);
	ret_holder->pid = request->credentials != NULL ? request->credentials->pid : 0;
	ret_holder->uid = request->identity.uid;
	ret_holder->class = request->class;
	ret_holder->number = request->number;
	request_known_by(request, &ret_holder->known);
}

struct holder *holder_running(struct queue *queue)
{
	const struct request *running = queue_running(queue, NULL);
	struct holder *holder = running != NULL ? calloc(1, sizeof(*holder)) : NULL;
	if (holder != NULL) {
		holder_of(running, holder);
	}
	return holder;
}

struct holder *holder_copy(const struct holder *holder)
{
	struct holder *copy = malloc(sizeof(*copy));
	if (copy != NULL) {
		*copy = *holder;
	}
	return copy;
}

struct holder *holders_note(struct holders *holders, uint64_t began_us, uint64_t ended_us)
{
	struct holder *holder = &holders->recent[holders->next];
	holders->next = (holders->next + 1) % HOLDERS_MAX;
	*holder = (struct holder){.began_us = began_us, .ended_us = ended_us};
	return holder;
}

struct holder *holders_extend(
	struct holders *holders, const char *what, uint64_t began_us, uint64_t ended_us)
{
	struct holder *newest = &holders->recent[(holders->next + HOLDERS_MAX - 1) % HOLDERS_MAX];
	if (newest->what != what || newest->ended_us + SAME_US < began_us) {
		newest = holders_note(holders, began_us, ended_us);
		newest->what = what;
	}
	newest->ended_us = ended_us;
	return newest;
}

const struct holder *holders_blame(
	const struct holders *holders, uint64_t from_us, uint64_t to_us, uint64_t number)
{
	const struct holder *found = NULL;
	uint64_t longest_us = 0;
	for (size_t i = 0; i < HOLDERS_MAX; i++) {
		const struct holder *holder = &holders->recent[i];
		uint64_t began_us = holder->began_us > from_us ? holder->began_us : from_us;
		uint64_t ended_us = holder->ended_us < to_us ? holder->ended_us : to_us;
		if (holder->what != NULL && holder->number != number && ended_us > began_us &&
			ended_us - began_us > longest_us) {
			longest_us = ended_us - began_us;
			found = holder;
		}
	}
	return found;
}
