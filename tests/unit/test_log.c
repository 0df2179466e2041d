/* SPDX-License-Identifier: MIT */

/* Lines of the log, byte by byte: both formats, quoting, levels, and lines that are too long. */

#include "server/base/clock.h"
#include "server/base/log.h"
#include "tests/unit/cmocka_all.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int pipe_fds[2];

static uint64_t fixed_us(void)
{
	return 1700000000123456;
}

#define STAMP "2023-11-14T22:13:20.123Z"

/* What has been written since the last time. */
static const char *lines(void)
{
	static char text[65536];
	/* A byte of our own ends what is there, so that an empty pipe does not block. */
	assert_int_equal(write(pipe_fds[1], "$", 1), 1);
	ssize_t len = read(pipe_fds[0], text, sizeof(text) - 1);
	assert_true(len > 0);
	text[len - 1] = 0;
	return text;
}

static void test_logfmt(void **state)
{
	(void)state;
	log_setup(pipe_fds[1], LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	log_write(LOG_LEVEL_INFO, "started", (const struct log_field[]){{0}});
	assert_string_equal(lines(), "ts=" STAMP " level=info event=started\n");
	log_warn("two words", log_str("plain", "abc"), log_str("empty", ""),
		log_str("space", "a b"), log_str("null", NULL), log_int("less", -5),
		log_uint("more", 7));
	assert_string_equal(lines(),
		"ts=" STAMP " level=warn event=\"two words\" plain=abc empty=\"\" space=\"a b\" "
		"null=\"\" less=-5 more=7\n");
	log_error("x", log_str("a", "say \"hi\""), log_str("b", "back\\slash"),
		log_str("c", "new\nline"), log_str("d", "k=v"), log_int("least", INT64_MIN));
	assert_string_equal(lines(),
		"ts=" STAMP " level=error event=x a=\"say \\\"hi\\\"\" b=\"back\\\\slash\" "
		"c=\"new\\u000aline\" d=\"k=v\" least=-9223372036854775808\n");
}

/* A value that a client chose must not look like two fields or two lines. */
static void test_control_bytes_are_quoted(void **state)
{
	(void)state;
	for (int byte = 1; byte < 32; byte++) {
		char value[] = {'a', (char)byte, 'b', 0};
		char expected[128];
		log_setup(pipe_fds[1], LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
		log_info("e", log_str("v", value));
		(void)snprintf(expected, sizeof(expected),
			"ts=" STAMP " level=info event=e v=\"a\\u%04xb\"\n", byte);
		assert_string_equal(lines(), expected);
	}
}

static void test_json_is_json(void **state)
{
	(void)state;
	log_setup(pipe_fds[1], LOG_LEVEL_INFO, LOG_FORMAT_JSON);
	log_info("two words", log_str("path", "a\"b\\c\x01\x1f"), log_int("n", -1));
	const char *line = lines();
	json_t *json = json_loads(line, 0, NULL);
	assert_non_null(json);
	assert_string_equal(json_string_value(json_object_get(json, "ts")), STAMP);
	assert_string_equal(json_string_value(json_object_get(json, "level")), "info");
	assert_string_equal(json_string_value(json_object_get(json, "event")), "two words");
	assert_string_equal(json_string_value(json_object_get(json, "path")), "a\"b\\c\x01\x1f");
	assert_int_equal(json_integer_value(json_object_get(json, "n")), -1);
	json_decref(json);
}

static void test_below_the_level_nothing_happens(void **state)
{
	(void)state;
	for (int level = LOG_LEVEL_DEBUG; level <= LOG_LEVEL_ERROR; level++) {
		int count = 0;
		log_setup(pipe_fds[1], (enum log_level)level, LOG_FORMAT_LOGFMT);
		log_debug("d", log_int("n", 1));
		log_info("i", log_int("n", 1));
		log_warn("w", log_int("n", 1));
		log_error("e", log_int("n", 1));
		for (const char *at = lines(); (at = strchr(at, '\n')) != NULL; at++) {
			count++;
		}
		assert_int_equal(count, 4 - level);
	}
}

/* Every length around the limit: one line, ended, and it says so when it was cut. */
static void test_long_lines_are_cut_and_say_so(void **state)
{
	(void)state;
	for (int format = LOG_FORMAT_LOGFMT; format <= LOG_FORMAT_JSON; format++) {
		log_setup(pipe_fds[1], LOG_LEVEL_INFO, (enum log_format)format);
		for (size_t len = 3900; len < 4200; len++) {
			char *value = malloc(len + 1);
			memset(value, 'v', len);
			value[len] = 0;
			value[len - 1] = '\x01'; /* the cut must not go through an escape */
			log_info("long", log_str("v", value));
			const char *line = lines();
			size_t got = strlen(line);
			assert_true(got <= 4096);
			assert_int_equal(line[got - 1], '\n');
			assert_ptr_equal(strchr(line, '\n'), line + got - 1);
			bool cut = strstr(line, "truncated") != NULL;
			assert_true(cut || got > len);
			if (format == LOG_FORMAT_JSON) {
				json_t *json = json_loads(line, 0, NULL);
				if (json == NULL) {
					fail_msg("%zu bytes: no JSON: …%s", len, line + got - 60);
				}
				json_decref(json);
			}
			free(value);
		}
	}
}

static void *chatter(void *ctx)
{
	for (int i = 0; i < 200; i++) {
		log_info("chat", log_str("who", ctx), log_int("i", i));
	}
	return NULL;
}

/* A line is one write: threads never mix theirs. */
static void test_lines_of_threads_stay_whole(void **state)
{
	static char names[][2] = {"a", "b"};
	pthread_t threads[2];
	(void)state;
	log_setup(pipe_fds[1], LOG_LEVEL_INFO, LOG_FORMAT_LOGFMT);
	pthread_create(&threads[0], NULL, chatter, names[0]);
	pthread_create(&threads[1], NULL, chatter, names[1]);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	static const char head[] = "ts=" STAMP " level=info event=chat who=";
	int count = 0;
	const char *line = lines();
	while (*line != 0) {
		assert_memory_equal(line, head, sizeof(head) - 1);
		line = strchr(line, '\n') + 1;
		count++;
	}
	assert_int_equal(count, 400);
}

int main(void)
{
	static const struct clock_source source = {fixed_us, fixed_us};
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_logfmt),
		cmocka_unit_test(test_control_bytes_are_quoted),
		cmocka_unit_test(test_json_is_json),
		cmocka_unit_test(test_below_the_level_nothing_happens),
		cmocka_unit_test(test_long_lines_are_cut_and_say_so),
		cmocka_unit_test(test_lines_of_threads_stay_whole),
	};
	clock_set_source(&source);
	if (pipe(pipe_fds) != 0) {
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
