/* SPDX-License-Identifier: MIT */

/* The signature, against the examples that AWS has published for S3. */

#include "server/ship/sigv4.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char welcome[] = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
static const struct sigv4_header host = {"host", "examplebucket.s3.amazonaws.com"};
static const struct sigv4_header date = {"x-amz-date", "20130524T000000Z"};
static const struct sigv4_header hash_of_nothing = {"x-amz-content-sha256", empty};

static void assert_signature(const char *method, const char *path, const char *query,
	const struct sigv4_header *headers, size_t count, const char *payload_sha256,
	const char *names, const char *signature)
{
	char value[SIGV4_AUTHORIZATION_BYTES];
	char want[SIGV4_AUTHORIZATION_BYTES];
	struct sigv4_request request = {.method = method,
		.path = path,
		.query = query,
		.headers = headers,
		.header_count = count,
		.payload_sha256 = payload_sha256,
		.timestamp = "20130524T000000Z",
		.region = "us-east-1",
		.access_key = "AKIAIOSFODNN7EXAMPLE",
		.secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"};
	assert_int_equal(sigv4_authorization(&request, value), 0);
	snprintf(want, sizeof want,
		"AWS4-HMAC-SHA256 "
		"Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
		"SignedHeaders=%s,Signature=%s",
		names, signature);
	assert_string_equal(value, want);
}

static void test_published_examples(void **state)
{
	(void)state;
	const struct sigv4_header get[] = {host, {"range", "bytes=0-9"}, hash_of_nothing, date};
	assert_signature("GET", "/test.txt", "", get, 4, empty,
		"host;range;x-amz-content-sha256;x-amz-date",
		"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
	const struct sigv4_header put[] = {{"date", "Fri, 24 May 2013 00:00:00 GMT"}, host,
		{"x-amz-content-sha256", welcome}, date,
		{"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
	assert_signature("PUT", "/test%24file.text", "", put, 5, welcome,
		"date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
		"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
	const struct sigv4_header list[] = {host, hash_of_nothing, date};
	assert_signature("GET", "/", "lifecycle=", list, 3, empty,
		"host;x-amz-content-sha256;x-amz-date",
		"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
	assert_signature("GET", "/", "max-keys=2&prefix=J", list, 3, empty,
		"host;x-amz-content-sha256;x-amz-date",
		"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_encoding(void **state)
{
	char text[64];
	(void)state;
	assert_int_equal(sigv4_encode("aZ09-._~", false, text, sizeof text), 8);
	assert_string_equal(text, "aZ09-._~");
	sigv4_encode("a/b c+d=&?%\xc3\xa9", true, text, sizeof text);
	assert_string_equal(text, "a/b%20c%2Bd%3D%26%3F%25%C3%A9");
	sigv4_encode("a/b", false, text, sizeof text);
	assert_string_equal(text, "a%2Fb");
	text[0] = '\0';
	assert_int_equal(sigv4_encode("", false, text, sizeof text), 0);
	assert_string_equal(text, "");
	assert_int_equal(sigv4_encode("abc///", false, text, 6), 12);
	assert_string_equal(text, "abc");
}

static void test_times(void **state)
{
	char text[SIGV4_TIMESTAMP_BYTES];
	(void)state;
	sigv4_timestamp(1369353600, text);
	assert_string_equal(text, "20130524T000000Z");
	sigv4_timestamp(1709210096, text);
	assert_string_equal(text, "20240229T123456Z");
}

static void test_what_does_not_fit(void **state)
{
	char value[SIGV4_AUTHORIZATION_BYTES];
	char longer[3000];
	(void)state;
	memset(longer, 'k', sizeof longer - 1);
	longer[sizeof longer - 1] = '\0';
	struct sigv4_request request = {.method = "GET",
		.path = "/",
		.query = "",
		.payload_sha256 = empty,
		.timestamp = "20130524T000000Z",
		.region = "us-east-1",
		.access_key = longer,
		.secret_key = "s"};
	assert_int_equal(sigv4_authorization(&request, value), -ENOSPC);
	request.access_key = "a";
	request.secret_key = longer;
	assert_int_equal(sigv4_authorization(&request, value), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_published_examples),
		cmocka_unit_test(test_encoding),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_what_does_not_fit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
