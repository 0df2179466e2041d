/* SPDX-License-Identifier: MIT */

/* Names whoever had the writer. What one user's SQL says is not told to another. */

#include "server/funnel/holder.h"

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

struct bytes request_text(const struct request *request)
{
	return request->steps_count > 0 ? request->steps[0].sql : request->task.text;
}

bool request_may_see(const struct credentials *who, uint32_t uid)
{
	return who != NULL && (who->role >= ROLE_ADMIN || who->uid == uid);
}

void request_text_for(struct bytes text, bool visible, char ret_text[HOLDER_SQL_BYTES + 4])
{
	const char *data = text.data;
	size_t len = text.len;
	if (!visible) {
		snprintf(ret_text, HOLDER_SQL_BYTES, HOLDER_DIGEST_FORMAT,
			(uint64_t)XXH3_64bits(text.data, text.len));
		return;
	}
	if (len > HOLDER_SQL_BYTES) {
		len = HOLDER_SQL_BYTES;
		while (len > 0 && ((unsigned char)data[len] & 0xc0) == 0x80) {
			len--; /* not within a character */
		}
	}
	if (len > 0) {
		memcpy(ret_text, data, len);
	}
	memcpy(ret_text + len, len < text.len ? "…" : "", len < text.len ? sizeof("…") : 1);
}

void holder_of(const struct request *request, struct holder *ret_holder)
{
	struct bytes text = request_text(request);
	ret_holder->what = request_what(request);
	ret_holder->pid = 0;
	ret_holder->label[0] = 0;
	ret_holder->uid = request->identity.uid;
	ret_holder->class = request->class;
	ret_holder->number = request->number;
	ret_holder->has_sql = text.len > 0;
	if (request->credentials != NULL) {
		ret_holder->pid = request->credentials->pid;
		memcpy(ret_holder->label, request->credentials->label, sizeof(ret_holder->label));
	}
	if (text.len > 0) {
		ret_holder->digest = XXH3_64bits(text.data, text.len);
		request_text_for(text, true, ret_holder->sql);
	}
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
