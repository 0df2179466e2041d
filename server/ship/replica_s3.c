/* SPDX-License-Identifier: MIT */

/*
 * A replica in a bucket: PREFIX/%04x/NAME, as Litestream lays it out, with the record of a segment
 * as metadata of its object. All but the creation of objects, which is replica_s3_put.c.
 */

#include "server/ship/replica_s3.h"

#include "server/ship/s3_time.h"
#include "server/ship/s3_xml.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EMPTY_PAGES_MAX = 100 };

/* What a sink returns to end a transfer that must not be believed. No result has this number. */
enum { NOT_THE_RANGE = 1 << 20 };

static void bucket_free(struct replica *replica)
{
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	s3_client_free(bucket->client);
	free(bucket);
}

void replica_s3_key(const struct replica_bucket *bucket, int level, const char *name,
	char ret_key[S3_KEY_BYTES_MAX])
{
	snprintf(ret_key, S3_KEY_BYTES_MAX, "%s/%04x/%s", bucket->place.prefix, (unsigned)level,
		name);
}

/* Says that an answer was none that was hoped for. */
static int unexpected(const struct replica_bucket *bucket, const struct s3_answer *answer,
	const char *what, struct replica_error *error)
{
	return replica_fail(&bucket->replica, error,
		answer->status == 404 ? REPLICA_MISSING : REPLICA_DENIED,
		"%s: the store answers %ld %s", what, answer->status, answer->code);
}

/* ---- what is known of an object ---- */

static void take_metadata(void *ctx, const char *key, const char *value)
{
	static const char ours[] = "litefunnel-";
	struct s3_object *object = ctx;
	if (strcmp(key, "litestream-timestamp") == 0) {
		object->created_ms = s3_time_parse(value);
	} else if (strncmp(key, ours, strlen(ours)) == 0) {
		object->known = true;
		if (record_set(&object->record, key + strlen(ours), value) < 0) {
			object->broken = true;
		}
	}
}

int replica_s3_head(struct replica_bucket *bucket, const char *key, struct s3_object *ret_object,
	struct replica_error *error)
{
	struct s3_request request;
	struct s3_answer answer;
	*ret_object = (struct s3_object){0};
	s3_request_init(&request, REQUEST_HEAD, "HEAD", key);
	request.metadata = take_metadata;
	request.metadata_ctx = ret_object;
	int rc = s3_client_send(bucket->client, &request, &answer, error);
	if (rc != 0) {
		return rc;
	}
	if (answer.status != 200 || answer.content_length < 0) {
		return unexpected(bucket, &answer, key, error);
	}
	ret_object->size = (uint64_t)answer.content_length;
	if (ret_object->created_ms == 0) {
		ret_object->created_ms = answer.last_modified_ms;
	}
	ret_object->broken =
		ret_object->broken || (ret_object->known && !record_complete(&ret_object->record));
	snprintf(ret_object->etag, sizeof ret_object->etag, "%s", answer.etag);
	ret_object->encrypted = answer.encrypted;
	return 0;
}

static int bucket_look(struct replica *replica, int level, const char *name,
	struct replica_file *ret_file, struct record *ret_record, bool *ret_known,
	struct replica_error *ret_error)
{
	char key[S3_KEY_BYTES_MAX];
	struct s3_object object;
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	replica_s3_key(bucket, level, name, key);
	int rc = replica_s3_head(bucket, key, &object, ret_error);
	if (rc != 0) {
		return rc;
	}
	if (object.broken) {
		return replica_fail(replica, ret_error, REPLICA_CORRUPT,
			"the record of %s cannot be read", name);
	}
	ret_file->size = object.size;
	ret_file->created_ms = object.created_ms;
	*ret_record = object.record;
	*ret_known = object.known;
	return 0;
}

/* ---- reading ---- */

/* A transfer, over as many requests as it takes. */
struct transfer {
	replica_sink sink;
	void *ctx;
	const struct s3_answer *answer; /* of the request under way */
	uint64_t offset;                /* of the next byte that is wanted */
	uint64_t end;                   /* UINT64_MAX until it is known */
	uint64_t size;                  /* of the object, 0 until it is known */
	char etag[80];
};

/* The object must be the one that it was, and the range the one that was asked for. */
static bool range_right(struct transfer *transfer)
{
	const struct s3_answer *answer = transfer->answer;
	bool whole = answer->status == 200; /* then its start is 0 */
	int64_t length = whole ? answer->content_length : answer->range_total;
	if ((!whole && answer->status != 206) || length < 0 ||
		(uint64_t)answer->range_start != transfer->offset) {
		return false;
	}
	uint64_t total = (uint64_t)length;
	if (transfer->size != 0 && total != transfer->size) {
		return false;
	}
	if (transfer->etag[0] != '\0' && strcmp(transfer->etag, answer->etag) != 0) {
		return false;
	}
	transfer->size = total;
	transfer->end = transfer->end < total ? transfer->end : total;
	memcpy(transfer->etag, answer->etag, sizeof transfer->etag);
	return true;
}

static int take_bytes(void *ctx, const void *bytes, size_t len)
{
	struct transfer *transfer = ctx;
	const struct s3_answer *answer = transfer->answer;
	if (answer->received == 0 && !range_right(transfer)) {
		return NOT_THE_RANGE;
	}
	if (len > transfer->end - transfer->offset) {
		if (answer->status != 200) {
			return NOT_THE_RANGE;
		}
		len = (size_t)(transfer->end - transfer->offset); /* a store without ranges */
	}
	int rc = len == 0 ? 0 : transfer->sink(transfer->ctx, bytes, len);
	transfer->offset += len;
	return rc;
}

static int read_once(struct replica_bucket *bucket, const char *key, struct transfer *transfer,
	struct replica_error *error)
{
	struct s3_request request;
	struct s3_answer answer;
	s3_request_init(&request, REQUEST_GET, "GET", key);
	if (transfer->end == UINT64_MAX) {
		s3_request_header(&request, "range", "bytes=%" PRIu64 "-", transfer->offset);
	} else {
		s3_request_header(&request, "range", "bytes=%" PRIu64 "-%" PRIu64, transfer->offset,
			transfer->end - 1);
	}
	request.sink = take_bytes;
	request.sink_ctx = transfer;
	transfer->answer = &answer;
	int rc = s3_client_send(bucket->client, &request, &answer, error);
	if (rc == NOT_THE_RANGE) {
		return replica_fail(&bucket->replica, error, REPLICA_CORRUPT,
			"%s is not what it was, or the store sends other bytes than were asked for",
			key);
	}
	if (rc == 0 && answer.status == 416) {
		bool shrunk = transfer->size != 0;
		transfer->end = transfer->offset; /* nothing lies there */
		return shrunk ? replica_fail(&bucket->replica, error, REPLICA_CORRUPT,
					"%s is shorter than it was", key)
			      : 0;
	}
	if (rc == 0 && answer.status / 100 != 2) {
		return unexpected(bucket, &answer, key, error);
	}
	return rc;
}

int replica_s3_read(struct replica_bucket *bucket, const char *key, uint64_t size, uint64_t offset,
	uint64_t len, replica_sink sink, void *ctx, struct replica_error *error)
{
	struct transfer transfer = {.sink = sink,
		.ctx = ctx,
		.offset = offset,
		.size = size,
		.end = len > UINT64_MAX - offset ? UINT64_MAX : offset + len};
	if (size != 0 && transfer.end > size) {
		transfer.end = size;
	}
	while (transfer.offset < transfer.end) {
		uint64_t before = transfer.offset;
		int rc = read_once(bucket, key, &transfer, error);
		bool broke = transfer.offset == before;
		if (rc == 0 && transfer.offset < transfer.end && transfer.end != UINT64_MAX) {
			rc = replica_fail(
				&bucket->replica, error, REPLICA_AGAIN, "%s ended too early", key);
		}
		if (rc == 0 && transfer.end == UINT64_MAX) {
			return 0; /* an object of no bytes */
		}
		/* Only a transfer that brought something is taken up: the client has tried already. */
		if (rc != 0 && (rc != REPLICA_AGAIN || broke || bucket->replica.interrupted)) {
			return rc;
		}
	}
	return 0;
}

static int bucket_get(struct replica *replica, int level, const char *name, uint64_t size,
	uint64_t offset, uint64_t len, replica_sink sink, void *ctx,
	struct replica_error *ret_error)
{
	char key[S3_KEY_BYTES_MAX];
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	replica_s3_key(bucket, level, name, key);
	return replica_s3_read(bucket, key, size, offset, len, sink, ctx, ret_error);
}

/* ---- listing ---- */

/* One page of a list, and what is known of the pages before. */
struct page {
	struct replica *replica;
	int level;
	uint64_t from;
	int (*fn)(void *ctx, const struct replica_file *file);
	void *ctx;
	uint64_t count;
	struct replica_file last; /* names must ascend, or a page could come for ever */
	bool truncated;
	char token[S3_XML_TEXT_BYTES];
};

/* One object of it. Names that are none of segments are passed over. */
static int take_object(
	struct page *page, const char *key, struct replica_file *file, struct replica_error *error)
{
	const char *slash = strrchr(key, '/');
	if (slash == NULL || !ltx_name_parse(slash + 1, &file->min_txid, &file->max_txid) ||
		file->min_txid < page->from) {
		return 0;
	}
	bool ascends = file->min_txid > page->last.min_txid ||
		(file->min_txid == page->last.min_txid && file->max_txid > page->last.max_txid);
	if (!ascends) {
		return replica_fail(page->replica, error, REPLICA_CORRUPT,
			"the store lists names out of order");
	}
	file->level = page->level;
	page->last = *file;
	page->count++;
	return page->fn(page->ctx, file);
}

static int read_page(struct page *page, const struct s3_answer *answer, struct replica_error *error)
{
	char key[S3_XML_TEXT_BYTES] = "";
	struct replica_file file = {0};
	struct s3_xml xml;
	int rc = 0;
	page->truncated = false;
	page->token[0] = '\0';
	s3_xml_init(&xml, answer->body, answer->body_len);
	for (;;) {
		enum s3_xml_event event = s3_xml_next(&xml);
		if (event == S3_XML_END || event == S3_XML_BAD || rc != 0) {
			break;
		}
		if (event == S3_XML_OPEN) {
			continue;
		}
		if (strcmp(xml.name, "Key") == 0) {
			snprintf(key, sizeof key, "%s", xml.text);
		} else if (strcmp(xml.name, "Size") == 0) {
			file.size = strtoull(xml.text, NULL, 10);
		} else if (strcmp(xml.name, "LastModified") == 0) {
			file.created_ms = s3_time_parse(xml.text);
		} else if (strcmp(xml.name, "IsTruncated") == 0) {
			page->truncated = strcmp(xml.text, "true") == 0;
		} else if (strcmp(xml.name, "NextContinuationToken") == 0) {
			snprintf(page->token, sizeof page->token, "%s", xml.text);
		} else if (strcmp(xml.name, "Contents") == 0) {
			rc = take_object(page, key, &file, error);
		}
	}
	bool broken = xml.bad || (page->truncated && page->token[0] == '\0');
	return rc == 0 && broken ? replica_fail(page->replica, error, REPLICA_CORRUPT,
					   "the store's list cannot be read")
				 : rc;
}

/* One request of a list. `start_after` may be "". */
static int list_once(struct replica_bucket *bucket, const char *prefix, const char *start_after,
	const char *token, const char *max_keys, struct s3_answer *answer,
	struct replica_error *error)
{
	struct s3_request request;
	s3_request_init(&request, REQUEST_LIST, "GET", "");
	if (token[0] != '\0') {
		s3_request_param(&request, "continuation-token", token);
	}
	s3_request_param(&request, "list-type", "2");
	s3_request_param(&request, "max-keys", max_keys);
	s3_request_param(&request, "prefix", prefix);
	if (start_after[0] != '\0') {
		s3_request_param(&request, "start-after", start_after);
	}
	int rc = s3_client_send(bucket->client, &request, answer, error);
	if (rc == 0 && answer->status != 200) {
		return unexpected(bucket, answer, "list", error);
	}
	return rc;
}

static int bucket_list(struct replica *replica, int level, uint64_t from,
	int (*fn)(void *ctx, const struct replica_file *file), void *ctx,
	struct replica_error *ret_error)
{
	char prefix[S3_KEY_BYTES_MAX];
	char start_after[S3_KEY_BYTES_MAX + 32] = "";
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	struct page page = {.replica = replica, .level = level, .from = from, .fn = fn, .ctx = ctx};
	replica_s3_key(bucket, level, "", prefix);
	if (from > 1) {
		/* Names of it and above are longer, so they come after. */
		snprintf(start_after, sizeof start_after, "%s%016" PRIx64, prefix, from);
	}
	int empty_pages = 0;
	do {
		struct s3_answer answer;
		uint64_t before = page.count;
		int rc = list_once(
			bucket, prefix, start_after, page.token, "1000", &answer, ret_error);
		rc = rc == 0 ? read_page(&page, &answer, ret_error) : rc;
		if (rc != 0) {
			return rc;
		}
		empty_pages = page.count > before ? 0 : empty_pages + 1;
		if (empty_pages > EMPTY_PAGES_MAX) {
			return replica_fail(replica, ret_error, REPLICA_CORRUPT,
				"the store's list does not end");
		}
	} while (page.truncated);
	return 0;
}

static int bucket_has_generations(
	struct replica *replica, bool *ret_has, struct replica_error *ret_error)
{
	char prefix[S3_KEY_BYTES_MAX];
	char key[16];
	struct s3_answer answer;
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	snprintf(prefix, sizeof prefix, "%s/generations/", bucket->place.prefix);
	int rc = list_once(bucket, prefix, "", "", "1", &answer, ret_error);
	if (rc == 0) {
		s3_xml_find(answer.body, answer.body_len, "Key", key, sizeof key);
		*ret_has = key[0] != '\0';
	}
	return rc;
}

/* ---- the rest ---- */

static int bucket_remove(
	struct replica *replica, int level, const char *name, struct replica_error *ret_error)
{
	char key[S3_KEY_BYTES_MAX];
	struct s3_request request;
	struct s3_answer answer;
	struct replica_bucket *bucket = (struct replica_bucket *)replica;
	replica_s3_key(bucket, level, name, key);
	s3_request_init(&request, REQUEST_DELETE, "DELETE", key);
	int rc = s3_client_send(bucket->client, &request, &answer, ret_error);
	if (rc == 0 && answer.status / 100 != 2 && answer.status != 404) {
		return unexpected(bucket, &answer, key, ret_error);
	}
	return rc;
}

static const struct replica_kind bucket_kind = {
	.free = bucket_free,
	.probe = replica_s3_probe,
	.put = replica_s3_put,
	.get = bucket_get,
	.look = bucket_look,
	.list = bucket_list,
	.remove = bucket_remove,
	.has_generations = bucket_has_generations,
};

int replica_s3_open(const char *rest, struct replica **ret_replica, struct replica_error *ret_error)
{
	struct replica_bucket *bucket = calloc(1, sizeof *bucket);
	if (bucket == NULL) {
		return -ENOMEM;
	}
	bucket->replica.kind = &bucket_kind;
	const char *fault = s3_place_parse(rest, &bucket->place);
	if (fault != NULL) {
		/* The URL is not repeated: a key may stand in it. */
		snprintf(ret_error->text, sizeof ret_error->text, "s3://...: %s", fault);
		free(bucket);
		return -EINVAL;
	}
	if (asprintf(&bucket->replica.url, "s3://%s", rest) < 0) {
		bucket->replica.url = NULL;
	} else if (s3_client_new(&bucket->place, &bucket->replica, &bucket->client) == 0) {
		*ret_replica = &bucket->replica;
		return 0;
	}
	free(bucket->replica.url);
	free(bucket);
	return -ENOMEM;
}
