/* SPDX-License-Identifier: MIT */

/*
 * Requests until they have an answer that counts: around one exchange stands a loop that decides by
 * a table whether the same request may help again.
 *
 * Secrets stay in the credentials and in the signature's key: errors name hosts, codes and
 * sentences of the store, never a header that was sent.
 */

#include "server/ship/s3_client.h"

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/ship/backoff.h"
#include "server/ship/s3_credentials.h"
#include "server/ship/s3_http.h"
#include "server/ship/s3_xml.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	TRIES = 5,
	PAUSE_FIRST_MS = 50,
	PAUSE_MAX_MS = 2000,
	PAUSE_STEP_MS = 50, /* how soon an interruption is seen */
	CLOCK_WRONG_SECONDS = 60,
};

struct s3_client {
	struct replica *owner;
	struct s3_http *http;
	struct s3_credentials credentials;
	bool have_credentials;
	int64_t clock_offset_s; /* the store's time minus ours */
};

/* What an exchange came to. */
enum outcome {
	OUTCOME_ANSWERED, /* 0 of s3_client_send */
	OUTCOME_AGAIN,
	OUTCOME_DENIED,
	OUTCOME_RESIGN, /* clock or credentials may be put right */
	OUTCOME_PASSED_UP,
};

int s3_client_new(
	const struct s3_place *place, struct replica *owner, struct s3_client **ret_client)
{
	struct s3_client *client = calloc(1, sizeof *client);
	if (client == NULL) {
		return -ENOMEM;
	}
	client->owner = owner;
	int rc = s3_http_new(place, owner, &client->http);
	if (rc != 0) {
		free(client);
		return rc;
	}
	*ret_client = client;
	return 0;
}

void s3_client_free(struct s3_client *client)
{
	if (client != NULL) {
		s3_http_free(client->http);
		s3_credentials_wipe(&client->credentials);
		free(client);
	}
}

/* ---- requests ---- */

void s3_request_init(struct s3_request *request, enum replica_request counts_as, const char *method,
	const char *key)
{
	*request = (struct s3_request){.counts_as = counts_as, .method = method, .fd = -1};
	int len = snprintf(request->key, sizeof request->key, "%s", key);
	assert(len >= 0 && (size_t)len < sizeof request->key);
	(void)len;
}

void s3_request_param(struct s3_request *request, const char *name, const char *value)
{
	assert(request->param_count < S3_PARAMS_MAX);
	request->params[request->param_count++] = (struct s3_param){name, value};
}

void s3_request_header(struct s3_request *request, const char *name, const char *format, ...)
{
	assert(request->header_count < S3_HEADERS_MAX);
	struct s3_header *header = &request->headers[request->header_count++];
	snprintf(header->name, sizeof header->name, "%s", name);
	va_list args;
	va_start(args, format);
	vsnprintf(header->value, sizeof header->value, format, args);
	va_end(args);
}

/* ---- what it came to ---- */

static const struct {
	const char *code;
	enum outcome outcome;
} known_codes[] = {
	{"RequestTimeTooSkewed", OUTCOME_RESIGN},
	{"ExpiredToken", OUTCOME_RESIGN},
	{"TokenRefreshRequired", OUTCOME_RESIGN},
	{"InvalidToken", OUTCOME_RESIGN},
	{"InvalidAccessKeyId", OUTCOME_RESIGN},
	{"SignatureDoesNotMatch", OUTCOME_RESIGN},
	{"AccessDenied", OUTCOME_RESIGN},
	/* Something between us and the store has changed bytes, or let some go. */
	{"RequestTimeout", OUTCOME_AGAIN},
	{"IncompleteBody", OUTCOME_AGAIN},
	{"BadDigest", OUTCOME_AGAIN},
	{"XAmzContentSHA256Mismatch", OUTCOME_AGAIN},
	{"SlowDown", OUTCOME_AGAIN},
	{"ConditionalRequestConflict", OUTCOME_AGAIN},
	{"OperationAborted", OUTCOME_AGAIN},
	{"NoSuchBucket", OUTCOME_DENIED},
	{"InvalidPart", OUTCOME_ANSWERED},
	{"InvalidPartOrder", OUTCOME_ANSWERED},
};

static enum outcome outcome_of_status(long status, const char *code)
{
	for (size_t i = 0; i < sizeof known_codes / sizeof known_codes[0]; i++) {
		if (strcmp(code, known_codes[i].code) == 0) {
			return known_codes[i].outcome;
		}
	}
	switch (status) {
	case 404:
	case 412:
	case 416:
	case 501:
		return OUTCOME_ANSWERED;
	case 401:
	case 403:
		return OUTCOME_RESIGN;
	case 408:
	case 409:
	case 425:
	case 429:
		return OUTCOME_AGAIN;
	default:
		return status >= 500 ? OUTCOME_AGAIN : OUTCOME_DENIED;
	}
}

/* Bytes that a terminal or a log could stumble over. */
static void make_printable(char *text)
{
	for (; *text != '\0'; text++) {
		if ((unsigned char)*text < ' ' || *text == 127) {
			*text = ' ';
		}
	}
}

static enum outcome judge_answer(
	const struct s3_client *client, struct s3_answer *answer, struct replica_error *error)
{
	char message[200] = "";
	if (answer->status / 100 == 2) {
		return OUTCOME_ANSWERED;
	}
	s3_xml_find(answer->body, answer->body_len, "Code", answer->code, sizeof answer->code);
	s3_xml_find(answer->body, answer->body_len, "Message", message, sizeof message);
	make_printable(answer->code);
	make_printable(message);
	bool moved = answer->status / 100 == 3;
	replica_fail(client->owner, error, 0, "the store answers %ld %s%s%s%s", answer->status,
		answer->code, message[0] != '\0' ? ": " : "", message,
		moved ? " (redirects are not followed: set region or endpoint)" : "");
	return outcome_of_status(answer->status, answer->code);
}

/* *ret_rc is set with OUTCOME_PASSED_UP only. */
static enum outcome exchange_once(struct s3_client *client, struct s3_exchange *exchange,
	struct replica_error *error, int *ret_rc)
{
	uint64_t received = exchange->answer->received;
	*exchange->answer = (struct s3_answer){.received = received, .content_length = -1};
	exchange->credentials = &client->credentials;
	exchange->clock_offset_s = client->clock_offset_s;
	int result = s3_http_exchange(client->http, exchange);
	switch (result) {
	case S3_ANSWERED:
		return judge_answer(client, exchange->answer, error);
	case S3_BROKEN:
	case S3_UNTRUSTED:
		replica_fail(client->owner, error, 0, "%s", exchange->why);
		return result == S3_BROKEN ? OUTCOME_AGAIN : OUTCOME_DENIED;
	case S3_SINK_ENDED:
		*ret_rc = exchange->sink_result;
		return OUTCOME_PASSED_UP;
	default:
		*ret_rc = result;
		return OUTCOME_PASSED_UP;
	}
}

/* ---- trying again ---- */

static int load_credentials(struct s3_client *client, struct replica_error *error)
{
	char why[200];
	int rc = s3_credentials_load(&client->credentials, why, sizeof why);
	client->have_credentials = rc == 0;
	return rc == 0 ? 0 : replica_fail(client->owner, error, REPLICA_DENIED, "%s", why);
}

/* True if the clock or the credentials are others now, so that the store may think better of it. */
static bool put_right(struct s3_client *client, const struct s3_exchange *exchange)
{
	int64_t ours = (int64_t)(clock_wall_us() / 1000000) + client->clock_offset_s;
	int64_t wrong = exchange->store_time_s > 0 ? exchange->store_time_s - ours : 0;
	if (wrong > CLOCK_WRONG_SECONDS || wrong < -CLOCK_WRONG_SECONDS) {
		client->clock_offset_s += wrong;
		log_warn("the clock differs from that of the store",
			log_str("replica", client->owner->url),
			log_int("seconds", client->clock_offset_s));
		return true;
	}
	struct s3_credentials before = client->credentials;
	struct replica_error ignored;
	bool changed = load_credentials(client, &ignored) == 0 &&
		!s3_credentials_equal(&before, &client->credentials);
	s3_credentials_wipe(&before);
	return changed;
}

static void pause_before(struct s3_client *client, int try, uint64_t at_least_ms)
{
	uint64_t rest = backoff_ms((unsigned)try, PAUSE_FIRST_MS, PAUSE_MAX_MS);
	rest = at_least_ms < PAUSE_MAX_MS && at_least_ms > rest ? at_least_ms : rest;
	while (rest > 0 && !client->owner->interrupted) {
		uint64_t step = rest < PAUSE_STEP_MS ? rest : PAUSE_STEP_MS;
		poll(NULL, 0, (int)step);
		rest -= step;
	}
}

int s3_client_send(struct s3_client *client, const struct s3_request *request,
	struct s3_answer *ret_answer, struct replica_error *ret_error)
{
	int rc = 0;
	bool resigned = false;
	*ret_answer = (struct s3_answer){0};
	if (!client->have_credentials && (rc = load_credentials(client, ret_error)) != 0) {
		return rc;
	}
	for (int try = 0;; try++) {
		struct s3_exchange exchange = {.request = request, .answer = ret_answer};
		enum outcome outcome = exchange_once(client, &exchange, ret_error, &rc);
		if (outcome == OUTCOME_RESIGN) {
			bool again = !resigned && put_right(client, &exchange);
			resigned = true;
			outcome = again ? OUTCOME_AGAIN : OUTCOME_DENIED;
		}
		switch (outcome) {
		case OUTCOME_ANSWERED:
			*ret_error = (struct replica_error){0};
			return 0;
		case OUTCOME_DENIED:
			return REPLICA_DENIED;
		case OUTCOME_PASSED_UP:
			return rc;
		default:
			break;
		}
		ret_error->retry_after_ms = exchange.retry_after_ms;
		if (try + 1 == TRIES || client->owner->interrupted || ret_answer->received > 0) {
			return REPLICA_AGAIN;
		}
		pause_before(client, try, exchange.retry_after_ms);
	}
}
