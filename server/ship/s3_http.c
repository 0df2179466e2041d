/* SPDX-License-Identifier: MIT */

/*
 * One curl handle, whose connections are kept, and one exchange at a time. Redirects are not
 * followed, nothing but the endpoint's scheme is spoken, certificates are verified. An exchange that
 * does not move is ended, and so is one that its owner interrupts.
 */

#include "server/ship/s3_http.h"

#include "server/base/clock.h"
#include "server/ship/sigv4.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum {
	CONNECT_MS_MAX = 10000,
	SLOWEST_BYTES_PER_MS = 16,  /* below, a transfer counts as hung */
	ANSWER_BYTES_MAX = 4 << 20, /* a list of 1,000 keys takes a tenth */
	QUERY_BYTES = 20 * 1024,    /* a token of a list may be long */
	URL_BYTES = QUERY_BYTES + 4 * 1024,
};

static const char empty_sha256[] =
	"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

struct s3_http {
	struct s3_place place;
	struct replica *owner;
	CURL *curl;
	char *answer;
	size_t answer_len;
	size_t answer_room;
};

/* What the callbacks of one exchange need. */
struct transit {
	struct s3_http *http;
	struct s3_exchange *exchange;
	uint64_t sent;
	uint64_t moved_bytes; /* as of moved_us */
	uint64_t moved_us;
	bool too_large;
	bool hung;
};

static void global_init(void)
{
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

int s3_http_new(const struct s3_place *place, struct replica *owner, struct s3_http **ret_http)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, global_init);
	struct s3_http *http = calloc(1, sizeof *http);
	if (http == NULL) {
		return -ENOMEM;
	}
	http->place = *place;
	http->owner = owner;
	http->curl = curl_easy_init();
	if (http->curl == NULL) {
		free(http);
		return -ENOMEM;
	}
	*ret_http = http;
	return 0;
}

void s3_http_free(struct s3_http *http)
{
	if (http != NULL) {
		curl_easy_cleanup(http->curl);
		free(http->answer);
		free(http);
	}
}

/* ---- callbacks of libcurl ---- */

static size_t give_body(char *to, size_t size, size_t count, void *ctx)
{
	struct transit *transit = ctx;
	const struct s3_request *request = transit->exchange->request;
	uint64_t rest = request->body_len - transit->sent;
	size_t len = size * count < rest ? size * count : (size_t)rest;
	if (len == 0) {
		return 0;
	}
	if (request->body != NULL) {
		memcpy(to, request->body + transit->sent, len);
	} else {
		off_t at = (off_t)(request->body_offset + transit->sent);
		ssize_t got = pread(request->fd, to, len, at);
		if (got <= 0) {
			return CURL_READFUNC_ABORT;
		}
		len = (size_t)got;
	}
	transit->sent += len;
	transit->http->owner->bytes_sent += len;
	return len;
}

/* A connection that was kept turned out dead: libcurl sends the body once more. */
static int seek_body(void *ctx, curl_off_t offset, int origin)
{
	struct transit *transit = ctx;
	if (origin != SEEK_SET || (uint64_t)offset > transit->exchange->request->body_len) {
		return CURL_SEEKFUNC_FAIL;
	}
	transit->sent = (uint64_t)offset;
	return CURL_SEEKFUNC_OK;
}

static bool keep_answer(struct s3_http *http, const char *bytes, size_t len)
{
	size_t need = http->answer_len + len + 1;
	if (need > ANSWER_BYTES_MAX) {
		return false;
	}
	if (need > http->answer_room) {
		size_t room = need < 4096 ? 4096 : need * 2;
		char *answer = realloc(http->answer, room);
		if (answer == NULL) {
			return false;
		}
		http->answer = answer;
		http->answer_room = room;
	}
	memcpy(http->answer + http->answer_len, bytes, len);
	http->answer_len += len;
	http->answer[http->answer_len] = '\0';
	return true;
}

static long status_of(struct s3_http *http)
{
	long status = 0;
	curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

static size_t take_body(char *bytes, size_t size, size_t count, void *ctx)
{
	struct transit *transit = ctx;
	size_t len = size * count;
	transit->http->owner->bytes_received += len;
	transit->exchange->answer->status = status_of(transit->http);
	if (transit->exchange->request->sink == NULL ||
		transit->exchange->answer->status / 100 != 2) {
		transit->too_large = !keep_answer(transit->http, bytes, len);
		return transit->too_large ? 0 : len;
	}
	transit->exchange->sink_result =
		transit->exchange->request->sink(transit->exchange->request->sink_ctx, bytes, len);
	transit->exchange->answer->received += len;
	return transit->exchange->sink_result == 0 ? len : 0;
}

/* "bytes 100-199/300" */
static void take_range(struct s3_answer *answer, const char *value)
{
	int64_t start;
	int64_t end;
	int64_t total;
	if (sscanf(value, "bytes %" SCNd64 "-%" SCNd64 "/%" SCNd64, &start, &end, &total) == 3) {
		answer->range_start = start;
		answer->range_total = total;
	}
}

static void take_etag(struct s3_answer *answer, const char *value)
{
	size_t len = strlen(value);
	if (len >= 2 && value[0] == '"' && value[len - 1] == '"') {
		value++;
		len -= 2;
	}
	snprintf(answer->etag, sizeof answer->etag, "%.*s", (int)len, value);
}

static void take_header(struct transit *transit, const char *name, const char *value)
{
	struct s3_answer *answer = transit->exchange->answer;
	static const char meta[] = "x-amz-meta-";
	if (strcasecmp(name, "etag") == 0) {
		take_etag(answer, value);
	} else if (strcasecmp(name, "content-length") == 0) {
		answer->content_length = strtoll(value, NULL, 10);
	} else if (strcasecmp(name, "content-range") == 0) {
		take_range(answer, value);
	} else if (strcasecmp(name, "last-modified") == 0) {
		time_t when = curl_getdate(value, NULL);
		answer->last_modified_ms = when > 0 ? (int64_t)when * 1000 : 0;
	} else if (strcasecmp(name, "date") == 0) {
		transit->exchange->store_time_s = curl_getdate(value, NULL);
	} else if (strcasecmp(name, "retry-after") == 0) {
		long seconds = strtol(value, NULL, 10);
		transit->exchange->retry_after_ms =
			seconds > 0 && seconds < 3600 ? (uint64_t)seconds * 1000 : 0;
	} else if (strcasecmp(name, "x-amz-server-side-encryption") == 0) {
		answer->encrypted = strcasecmp(value, "AES256") != 0;
	} else if (strcasecmp(name, "x-amz-server-side-encryption-customer-algorithm") == 0) {
		answer->encrypted = true;
	} else if (strncasecmp(name, meta, strlen(meta)) == 0 &&
		transit->exchange->request->metadata != NULL) {
		transit->exchange->request->metadata(
			transit->exchange->request->metadata_ctx, name + strlen(meta), value);
	}
}

static size_t take_header_line(char *bytes, size_t size, size_t count, void *ctx)
{
	char line[1024];
	size_t len = size * count;
	if (len >= sizeof line) {
		return len; /* nothing that is wanted is so long */
	}
	memcpy(line, bytes, len);
	line[len] = '\0';
	line[strcspn(line, "\r\n")] = '\0';
	char *colon = strchr(line, ':');
	if (colon == NULL) {
		return len;
	}
	*colon = '\0';
	char *value = colon + 1 + strspn(colon + 1, " \t");
	for (char *p = line; *p != '\0'; p++) {
		*p = (char)(*p >= 'A' && *p <= 'Z' ? *p + 'a' - 'A' : *p);
	}
	take_header(ctx, line, value);
	return len;
}

/* Ends an exchange that does not move, or that is to be interrupted. */
static int look_at_progress(
	void *ctx, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up)
{
	struct transit *transit = ctx;
	uint64_t moved = (uint64_t)down + (uint64_t)up;
	uint64_t now_us = clock_now_us();
	(void)down_total;
	(void)up_total;
	if (moved != transit->moved_bytes) {
		transit->moved_bytes = moved;
		transit->moved_us = now_us;
	}
	uint64_t still_ms = (now_us - transit->moved_us) / 1000;
	transit->hung = still_ms > (uint64_t)transit->http->place.timeout_ms;
	return transit->hung || transit->http->owner->interrupted;
}

/* ---- the request ---- */

/* Sorted, encoded: what is sent is what is signed. */
static void make_query(const struct s3_request *request, char *ret_query, size_t size)
{
	size_t at = 0;
	ret_query[0] = '\0';
	for (size_t i = 0; i < request->param_count && at < size; i++) {
		at += (size_t)snprintf(ret_query + at, size - at, "%s%s=", i == 0 ? "" : "&",
			request->params[i].name);
		if (at < size) {
			at += sigv4_encode(
				request->params[i].value, false, ret_query + at, size - at);
		}
	}
}

static void make_path(
	const struct s3_http *http, const struct s3_request *request, char *ret_path, size_t size)
{
	const struct s3_place *place = &http->place;
	size_t at = 0;
	if (place->path_style) {
		at = (size_t)snprintf(ret_path, size, "/%s", place->bucket);
	}
	if (request->key[0] != '\0' || at == 0) {
		at += (size_t)snprintf(ret_path + at, size - at, "/");
	}
	sigv4_encode(request->key, true, ret_path + at, size - at);
}

static int compare_headers(const void *a, const void *b)
{
	return strcmp(
		((const struct sigv4_header *)a)->name, ((const struct sigv4_header *)b)->name);
}

static bool add_line(struct curl_slist **list, const char *name, const char *value)
{
	char line[S3_TOKEN_BYTES + 128];
	snprintf(line, sizeof line, "%s: %s", name, value);
	struct curl_slist *longer = curl_slist_append(*list, line);
	*list = longer != NULL ? longer : *list;
	return longer != NULL;
}

/* Signs, and makes the list of headers: the caller's, those of the signature, and no "Expect". */
static int make_headers(
	struct transit *transit, const char *path, const char *query, struct curl_slist **ret_list)
{
	const struct s3_exchange *exchange = transit->exchange;
	const struct s3_request *request = exchange->request;
	const struct s3_credentials *credentials = exchange->credentials;
	struct sigv4_header headers[S3_HEADERS_MAX + 4];
	char timestamp[SIGV4_TIMESTAMP_BYTES];
	char authorization[SIGV4_AUTHORIZATION_BYTES];
	const char *sha256 = request->body_sha256[0] != '\0' ? request->body_sha256 : empty_sha256;
	size_t count = 0;
	sigv4_timestamp((int64_t)(clock_wall_us() / 1000000) + exchange->clock_offset_s, timestamp);
	headers[count++] = (struct sigv4_header){"host", transit->http->place.host};
	headers[count++] = (struct sigv4_header){"x-amz-content-sha256", sha256};
	headers[count++] = (struct sigv4_header){"x-amz-date", timestamp};
	if (credentials->session_token[0] != '\0') {
		headers[count++] =
			(struct sigv4_header){"x-amz-security-token", credentials->session_token};
	}
	for (size_t i = 0; i < request->header_count; i++) {
		headers[count++] =
			(struct sigv4_header){request->headers[i].name, request->headers[i].value};
	}
	qsort(headers, count, sizeof headers[0], compare_headers);
	struct sigv4_request to_sign = {.method = request->method,
		.path = path,
		.query = query,
		.headers = headers,
		.header_count = count,
		.payload_sha256 = sha256,
		.timestamp = timestamp,
		.region = transit->http->place.region,
		.access_key = credentials->access_key,
		.secret_key = credentials->secret_key};
	int rc = sigv4_authorization(&to_sign, authorization);
	bool made = rc == 0 && add_line(ret_list, "Authorization", authorization);
	for (size_t i = 0; made && i < count; i++) {
		made = add_line(ret_list, headers[i].name, headers[i].value);
	}
	made = made && curl_slist_append(*ret_list, "Expect:") != NULL;
	return rc != 0 ? rc : made ? 0 : -ENOMEM;
}

static void set_body(struct transit *transit)
{
	CURL *curl = transit->http->curl;
	const struct s3_request *request = transit->exchange->request;
	bool has_body = request->body != NULL || request->fd >= 0;
	if (strcmp(request->method, "HEAD") == 0) {
		curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
	} else if (has_body || strcmp(request->method, "PUT") == 0 ||
		strcmp(request->method, "POST") == 0) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)request->body_len);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, give_body);
		curl_easy_setopt(curl, CURLOPT_READDATA, transit);
		curl_easy_setopt(curl, CURLOPT_SEEKFUNCTION, seek_body);
		curl_easy_setopt(curl, CURLOPT_SEEKDATA, transit);
		curl_easy_setopt(curl, CURLOPT_UPLOAD_BUFFERSIZE, 256L * 1024);
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
}

static void set_transport(struct transit *transit)
{
	const struct s3_http *http = transit->http;
	CURL *curl = http->curl;
	const char *authorities = getenv("AWS_CA_BUNDLE");
	long timeout_ms = http->place.timeout_ms;
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, http->place.scheme);
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
		timeout_ms < CONNECT_MS_MAX ? timeout_ms : (long)CONNECT_MS_MAX);
	curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L * 1024);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	if (authorities != NULL) {
		curl_easy_setopt(curl, CURLOPT_CAINFO, authorities);
	}
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, look_at_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, transit);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, transit);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header_line);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, transit);
	/* A drip keeps moving; what is sent bounds how long it may. Answers are bounded by moving. */
	if (transit->exchange->request->sink == NULL) {
		curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS,
			timeout_ms * 2 +
				(long)(transit->exchange->request->body_len /
					SLOWEST_BYTES_PER_MS));
	} else {
		long per_second = SLOWEST_BYTES_PER_MS * 1000 / 16;
		curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, per_second);
		curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
			timeout_ms / 1000 > 0 ? timeout_ms / 1000 : 1L);
	}
}

/* 0 and what libcurl says, or negative errno. */
static int perform(struct transit *transit, CURLcode *ret_code)
{
	struct s3_http *http = transit->http;
	const struct s3_request *request = transit->exchange->request;
	char why[CURL_ERROR_SIZE] = "";
	char path[sizeof http->place.bucket + 3 * S3_KEY_BYTES_MAX + 8];
	char query[QUERY_BYTES];
	char url[URL_BYTES];
	struct curl_slist *headers = NULL;
	make_path(http, request, path, sizeof path);
	make_query(request, query, sizeof query);
	snprintf(url, sizeof url, "%s://%s%s%s%s", http->place.scheme, http->place.host, path,
		query[0] != '\0' ? "?" : "", query);
	int rc = make_headers(transit, path, query, &headers);
	if (rc == 0) {
		CURL *curl = http->curl;
		curl_easy_reset(curl); /* connections are kept */
		curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
		curl_easy_setopt(curl, CURLOPT_URL, url);
		curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
		set_transport(transit);
		set_body(transit);
		transit->moved_us = clock_now_us();
		*ret_code = curl_easy_perform(curl);
		curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, NULL);
		snprintf(transit->exchange->why, sizeof transit->exchange->why, "%s", why);
	}
	curl_slist_free_all(headers);
	return rc;
}

/* ---- the exchange ---- */

static int broken(struct transit *transit, CURLcode code)
{
	struct s3_exchange *exchange = transit->exchange;
	const char *sentence = exchange->why[0] != '\0' ? exchange->why : curl_easy_strerror(code);
	int result = S3_BROKEN;
	if (exchange->sink_result != 0) {
		return S3_SINK_ENDED;
	}
	switch (code) {
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_URL_MALFORMAT:
	case CURLE_UNSUPPORTED_PROTOCOL:
		result = S3_UNTRUSTED;
		break;
	case CURLE_ABORTED_BY_CALLBACK:
		sentence = transit->hung ? "no answer" : "interrupted";
		break;
	case CURLE_WRITE_ERROR:
		sentence = transit->too_large ? "the answer is too large" : sentence;
		break;
	default:
		break;
	}
	if (sentence != exchange->why) {
		snprintf(exchange->why, sizeof exchange->why, "%s", sentence);
	}
	return result;
}

int s3_http_exchange(struct s3_http *http, struct s3_exchange *exchange)
{
	struct transit transit = {.http = http, .exchange = exchange};
	struct s3_answer *answer = exchange->answer;
	CURLcode code = CURLE_OK;
	http->answer_len = 0;
	if (http->answer != NULL) {
		http->answer[0] = '\0';
	}
	replica_asks(http->owner, exchange->request->counts_as);
	int rc = perform(&transit, &code);
	if (rc < 0) {
		return rc;
	}
	if (code != CURLE_OK) {
		return broken(&transit, code);
	}
	answer->status = status_of(http);
	answer->body = http->answer != NULL ? http->answer : (char *)"";
	answer->body_len = http->answer_len;
	return S3_ANSWERED;
}
