/* SPDX-License-Identifier: MIT */

/*
 * Builds a line in a buffer of fixed size and writes it in one call. What does not fit is cut,
 * never lost silently: the line then ends with "truncated".
 */

#include "server/base/log.h"

#include "server/base/clock.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static _Atomic int log_fd = STDERR_FILENO;
static _Atomic int log_level = LOG_LEVEL_INFO;
static _Atomic int log_format = LOG_FORMAT_LOGFMT;

struct line {
	char text[4096];
	size_t len;
};

enum { LINE_TAIL = 32 }; /* kept free for the end of a line that was cut */

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_setup(int fd, enum log_level level, enum log_format format)
{
	log_fd = fd;
	log_level = (int)level;
	log_format = (int)format;
}

static void put(struct line *line, const char *text, size_t len)
{
	size_t room = sizeof(line->text) - LINE_TAIL - line->len;
	if (len > room) {
		len = room;
	}
	memcpy(line->text + line->len, text, len);
	line->len += len;
}

static void puts_line(struct line *line, const char *text)
{
	put(line, text, strlen(text));
}

__attribute__((format(printf, 2, 3))) static void printf_line(
	struct line *line, const char *format, ...)
{
	char text[64];
	va_list args;
	va_start(args, format);
	int len = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	put(line, text, len > 0 ? (size_t)len : 0);
}

/* JSON string syntax serves both formats: logfmt quotes the same way. */
static void put_quoted(struct line *line, const char *text)
{
	put(line, "\"", 1);
	for (const unsigned char *at = (const unsigned char *)text; *at != 0; at++) {
		if (*at == '"' || *at == '\\') {
			char escaped[2] = {'\\', (char)*at};
			put(line, escaped, 2);
		} else if (*at < 0x20) {
			printf_line(line, "\\u%04x", *at);
		} else {
			put(line, (const char *)at, 1);
		}
	}
	put(line, "\"", 1);
}

static bool needs_quotes(const char *text)
{
	return *text == 0 || strpbrk(text, " \"=\\\t\r\n") != NULL;
}

static void put_field(struct line *line, const struct log_field *field, bool json)
{
	if (json) {
		put(line, ",", 1);
		put_quoted(line, field->key);
		put(line, ":", 1);
	} else {
		printf_line(line, " %s=", field->key);
	}
	if (field->text == NULL) {
		printf_line(line, "%lld", (long long)field->number);
	} else if (json || needs_quotes(field->text)) {
		put_quoted(line, field->text);
	} else {
		puts_line(line, field->text);
	}
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
	if ((int)level < log_level) {
		return;
	}
	bool json = log_format == LOG_FORMAT_JSON;
	struct line line = {.len = 0};
	uint64_t now_us = clock_wall_us();
	time_t seconds = (time_t)(now_us / 1000000);
	struct tm utc;
	gmtime_r(&seconds, &utc);
	char stamp[32];
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);

	printf_line(&line,
		json ? "{\"ts\":\"%s.%03uZ\",\"level\":\"%s\",\"event\":"
		     : "ts=%s.%03uZ level=%s event=",
		stamp, (unsigned)(now_us / 1000 % 1000), level_names[level]);
	if (json || needs_quotes(event)) {
		put_quoted(&line, event);
	} else {
		puts_line(&line, event);
	}
	for (; fields->key != NULL; fields++) {
		put_field(&line, fields, json);
	}
	if (line.len == sizeof(line.text) - LINE_TAIL) {
		/* The cut may have gone through a string: close it. */
		static const char tail[] = "\" truncated=1";
		static const char json_tail[] = "\",\"truncated\":1";
		memcpy(line.text + line.len, json ? json_tail : tail,
			json ? sizeof(json_tail) - 1 : sizeof(tail) - 1);
		line.len += json ? sizeof(json_tail) - 1 : sizeof(tail) - 1;
	}
	if (json) {
		line.text[line.len++] = '}';
	}
	line.text[line.len++] = '\n';
	ssize_t written = write(log_fd, line.text, line.len);
	(void)written; /* there is nowhere left to say that the log cannot be written */
}
