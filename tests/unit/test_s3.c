/* SPDX-License-Identifier: MIT */

/* What surrounds a request to a bucket: URLs, credentials, times, and what comes as XML. */

#include "server/ship/s3_credentials.h"
#include "server/ship/s3_place.h"
#include "server/ship/s3_time.h"
#include "server/ship/s3_xml.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- URLs ---- */

static void test_urls(void **state)
{
	static const struct {
		const char *rest;
		const char *scheme;
		const char *host;
		const char *region;
		const char *prefix;
		bool path_style;
	} cases[] = {
		{"bucket/app", "https", "bucket.s3.us-east-1.amazonaws.com", "us-east-1", "app",
			false},
		{"bucket/a/b/?region=eu-central-1", "https", "bucket.s3.eu-central-1.amazonaws.com",
			"eu-central-1", "a/b", false},
		{"my.bucket/app", "https", "s3.us-east-1.amazonaws.com", "us-east-1", "app", true},
		{"bucket/app?force-path-style=true", "https", "s3.us-east-1.amazonaws.com",
			"us-east-1", "app", true},
		{"bucket/a%20b%2f?endpoint=http://127.0.0.1:9000", "http", "127.0.0.1:9000",
			"us-east-1", "a b", true},
		{"bucket/app?endpoint=http%3A%2F%2Flocalhost%3A9000/", "http", "localhost:9000",
			"us-east-1", "app", true},
		{"bucket/app?endpoint=play.min.io&force-path-style=false", "https",
			"bucket.play.min.io", "us-east-1", "app", false},
		{"bucket/app?endpoint=https://x.r2.cloudflarestorage.com", "https",
			"x.r2.cloudflarestorage.com", "auto", "app", true},
		{"bucket/app?endpoint=https://s3.us-west-004.backblazeb2.com", "https",
			"s3.us-west-004.backblazeb2.com", "us-west-004", "app", true},
		{"bucket/app?endpoint=http://minio.lan:9000&insecure=true", "http",
			"minio.lan:9000", "us-east-1", "app", true},
	};
	(void)state;
	unsetenv("AWS_REGION");
	unsetenv("AWS_DEFAULT_REGION");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct s3_place place;
		const char *fault = s3_place_parse(cases[i].rest, &place);
		if (fault != NULL) {
			fail_msg("%s: %s", cases[i].rest, fault);
		}
		assert_string_equal(place.scheme, cases[i].scheme);
		assert_string_equal(place.host, cases[i].host);
		assert_string_equal(place.region, cases[i].region);
		assert_string_equal(place.prefix, cases[i].prefix);
		assert_int_equal(place.path_style, cases[i].path_style);
	}
}

static void test_urls_that_are_refused(void **state)
{
	static const char *const wrong[] = {"", "b", "bucket", "bucket/", "bucket///",
		"bu cket/app", "key:secret@bucket/app", "bucket/app?endpoint=http://10.0.0.1:9000",
		"bucket/app?endpoint=http://127.0.0.1@evil.example",
		"bucket/app?endpoint=http://minio:9000&insecure=no",
		"bucket/app?endpoint=https://host/base", "bucket/app?endpoint=ftp://host",
		"bucket/app?endpoint=", "bucket/app?endpoint=https://",
		"bucket/app?access-key-id=AKIA", "bucket/app?regoin=eu", "bucket/app?region",
		"bucket/app?region=eu%0d%0a", "bucket/app?force-path-style=maybe",
		"bucket/app?timeout-ms=5", "bucket/app?timeout-ms=10s", "bucket/a%zz"};
	struct s3_place place;
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		const char *fault = s3_place_parse(wrong[i], &place);
		if (fault == NULL) {
			fail_msg("taken: %s", wrong[i]);
		}
	}
}

static void test_the_region_of_the_environment(void **state)
{
	struct s3_place place;
	(void)state;
	setenv("AWS_DEFAULT_REGION", "eu-west-1", 1);
	assert_null(s3_place_parse("bucket/app", &place));
	assert_string_equal(place.region, "eu-west-1");
	setenv("AWS_REGION", "eu-west-2", 1);
	assert_null(s3_place_parse("bucket/app", &place));
	assert_string_equal(place.host, "bucket.s3.eu-west-2.amazonaws.com");
	assert_null(s3_place_parse("bucket/app?region=eu-west-3", &place));
	assert_string_equal(place.region, "eu-west-3");
	unsetenv("AWS_REGION");
	unsetenv("AWS_DEFAULT_REGION");
}

/* ---- credentials ---- */

static void forget_environment(void)
{
	static const char *const names[] = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
		"AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID_FILE", "AWS_SECRET_ACCESS_KEY_FILE",
		"AWS_SESSION_TOKEN_FILE", "CREDENTIALS_DIRECTORY", "AWS_SHARED_CREDENTIALS_FILE",
		"AWS_PROFILE", "HOME"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		unsetenv(names[i]);
	}
}

static const char *write_file(const char *dir, const char *name, const char *text)
{
	static char path[300];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	return path;
}

static int load(struct s3_credentials *credentials)
{
	char error[200] = "";
	int rc = s3_credentials_load(credentials, error, sizeof error);
	assert_true(rc == 0 || error[0] != '\0');
	return rc;
}

static void test_credentials(void **state)
{
	char dir[] = "/tmp/litefunnel-s3-XXXXXX";
	struct s3_credentials found;
	(void)state;
	assert_non_null(mkdtemp(dir));
	forget_environment();
	assert_int_equal(load(&found), -ENOENT);

	setenv("AWS_SHARED_CREDENTIALS_FILE",
		write_file(dir, "shared",
			"# comment\n[other]\naws_access_key_id = no\n[default]\n"
			"aws_access_key_id=file-key\n aws_secret_access_key =  file/secret+=  \n"
			"[prod]\naws_access_key_id = prod-key\naws_secret_access_key = prod\n"
			"aws_session_token=tok=en\n"),
		1);
	assert_int_equal(load(&found), 0);
	assert_string_equal(found.access_key, "file-key");
	assert_string_equal(found.secret_key, "file/secret+=");
	assert_string_equal(found.session_token, "");
	setenv("AWS_PROFILE", "prod", 1);
	assert_int_equal(load(&found), 0);
	assert_string_equal(found.access_key, "prod-key");
	assert_string_equal(found.session_token, "tok=en");

	setenv("CREDENTIALS_DIRECTORY", dir, 1);
	write_file(dir, "aws_access_key_id", "systemd-key\n");
	assert_int_equal(load(&found), -EINVAL); /* half of it */
	write_file(dir, "aws_secret_access_key", "systemd-secret\n");
	assert_int_equal(load(&found), 0);
	assert_string_equal(found.secret_key, "systemd-secret");

	setenv("AWS_ACCESS_KEY_ID", "env-key", 1);
	setenv("AWS_SECRET_ACCESS_KEY_FILE", write_file(dir, "secret", " from-file \n"), 1);
	assert_int_equal(load(&found), 0);
	assert_string_equal(found.access_key, "env-key");
	assert_string_equal(found.secret_key, "from-file");
	setenv("AWS_SECRET_ACCESS_KEY_FILE", "/nonexistent", 1);
	assert_int_equal(load(&found), -EINVAL);
	setenv("AWS_SECRET_ACCESS_KEY", "two\nlines", 1);
	assert_int_equal(load(&found), -EINVAL);
	forget_environment();
	char command[100];
	snprintf(command, sizeof command, "rm -rf %s", dir);
	assert_int_equal(system(command), 0);
}

/* ---- times ---- */

static void test_times(void **state)
{
	static const struct {
		int64_t ms;
		const char *text;
	} cases[] = {{1795343655247, "2026-11-22T10:34:15.247Z"},
		{1795343655000, "2026-11-22T10:34:15Z"}, {1795343655240, "2026-11-22T10:34:15.24Z"},
		{1795343655007, "2026-11-22T10:34:15.007Z"}};
	char text[S3_TIME_BYTES];
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		s3_time_format(cases[i].ms, text);
		assert_string_equal(text, cases[i].text);
		assert_true(s3_time_parse(cases[i].text) == cases[i].ms);
	}
	assert_true(s3_time_parse("2026-11-22T10:34:15.247999999Z") == 1795343655247);
	assert_true(s3_time_parse("2026-11-22T10:34:15+01:00") == 0);
	assert_true(s3_time_parse("yesterday") == 0);
	assert_true(s3_time_parse("") == 0);
}

/* ---- XML ---- */

/* All events as text. */
static void events(const char *document, size_t len, char ret_text[4096])
{
	struct s3_xml xml;
	enum s3_xml_event event;
	size_t at = 0;
	ret_text[0] = '\0';
	s3_xml_init(&xml, document, len);
	do {
		event = s3_xml_next(&xml);
		const char *what = event == S3_XML_OPEN ? "<"
			: event == S3_XML_CLOSE         ? ">"
			: event == S3_XML_END           ? "."
							: "!";
		bool named = event == S3_XML_OPEN || event == S3_XML_CLOSE;
		at += (size_t)snprintf(ret_text + at, 4096 - at, "%s%s%s%s", what,
			named ? xml.name : "", event == S3_XML_CLOSE ? "=" : "",
			event == S3_XML_CLOSE ? xml.text : "");
	} while (event != S3_XML_END && event != S3_XML_BAD && at < 4000);
}

static void test_documents(void **state)
{
	static const char *const cases[][2] = {
		{"<a>x</a>", "<a>a=x."},
		{"<?xml version=\"1.0\"?>\n<a xmlns=\"http://x/\"><s3:b>1</s3:b><c/></a>\n",
			"<a<b>b=1<c>c=>a=."},
		{"<a>&lt;&amp;&#65;&#x42;&quot;&apos;&gt;&#233;</a>", "<a>a=<&AB\"'>\xc3\xa9."},
		{"<a><!-- <b> -->x</a>", "<a>a=x."},
		{"", "."},
		{"  ", "."},
		{"<a>", "<a!"},
		{"</a>", "!"},
		{"<a></a></a>", "<a>a=!"},
		{"<a", "!"},
		{"<>x</>", "!"},
		{"<a>&nbsp;</a>", "<a!"},
		{"<a>&", "<a!"},
		{"<a>&#0;</a>", "<a!"},
		{"<a>&#x110000;</a>", "<a!"},
		{"<!DOCTYPE a><a/>", "!"},
		{"<a><![CDATA[x]]></a>", "<a!"},
		{"<?xml", "!"},
		{"<a><!-- x</a>", "<a!"},
	};
	char text[4096];
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		size_t len = strlen(cases[i][0]);
		char *exact = malloc(len + 1); /* so that a sanitizer sees a step too far */
		assert_non_null(exact);
		memcpy(exact, cases[i][0], len);
		events(exact, len, text);
		assert_string_equal(text, cases[i][1]);
		free(exact);
	}
}

static void test_documents_that_are_too_much(void **state)
{
	static char document[20000];
	char text[4096];
	(void)state;
	for (int i = 0; i < 17; i++) {
		document[3 * i] = '<';
		document[3 * i + 1] = 'a';
		document[3 * i + 2] = '>';
	}
	events(document, 51, text);
	assert_non_null(strchr(text, '!'));
	memset(document, 'x', sizeof document);
	document[0] = '<';
	document[1] = 'a';
	document[2] = '>';
	events(document, sizeof document, text);
	assert_string_equal(text, "<a!");
	memset(document, 'x', sizeof document);
	document[0] = '<';
	document[100] = '>';
	events(document, sizeof document, text);
	assert_string_equal(text, "!");
}

/* Every byte of a list changed, every length cut: it ends, within its bounds. */
static void test_broken_documents_end(void **state)
{
	static const char list[] = "<L><C><Key>a&amp;b</Key><Size>3</Size></C><T>&#65;</T><E/></L>";
	char changed[sizeof list];
	char text[4096];
	(void)state;
	for (size_t at = 0; at < sizeof list - 1; at++) {
		events(list, at, text);
		for (int byte = 0; byte < 256; byte++) {
			memcpy(changed, list, sizeof list);
			changed[at] = (char)byte;
			events(changed, sizeof list - 1, text);
		}
	}
}

static void test_find(void **state)
{
	static const char error[] = "<Error><Code>SlowDown</Code><Message>a</Message></Error>";
	char text[5];
	(void)state;
	s3_xml_find(error, sizeof error - 1, "Code", text, sizeof text);
	assert_string_equal(text, "Slow");
	s3_xml_find(error, sizeof error - 1, "Resource", text, sizeof text);
	assert_string_equal(text, "");
	s3_xml_find("gateway timeout", 15, "Code", text, sizeof text);
	assert_string_equal(text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_urls),
		cmocka_unit_test(test_urls_that_are_refused),
		cmocka_unit_test(test_the_region_of_the_environment),
		cmocka_unit_test(test_credentials),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_documents),
		cmocka_unit_test(test_documents_that_are_too_much),
		cmocka_unit_test(test_broken_documents_end),
		cmocka_unit_test(test_find),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
