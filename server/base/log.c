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

enum {
	LINE_BYTES = 8192,
	LINE_TAIL = 32,     /* kept free for the end of the line */
	VALUE_BYTES = 1000, /* of one text; escaped it may be six times that */
};

struct line {
	char text[LINE_BYTES];
	size_t len;
	bool full; /* the last piece did not fit */
	bool cut;  /* something is missing: the line says so */
};

static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_setup(int fd, enum log_level level, enum log_format format)
{
	log_fd = fd;
	log_level = (int)level;
	log_format = (int)format;
}

static void put(struct line *line, const char *text, size_t len)
{
	if (len > sizeof(line->text) - LINE_TAIL - line->len) {
		line->full = true;
		return;
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
	const unsigned char *at = (const unsigned char *)text;
	const unsigned char *end = at + strnlen(text, VALUE_BYTES);
	for (; at < end; at++) {
		if (*at == '"' || *at == '\\') {
			char escaped[2] = {'\\', (char)*at};
			put(line, escaped, 2);
		} else if (*at < 0x20 || *at == 0x7f) {
			printf_line(line, "\\u%04x", *at);
		} else {
			put(line, (const char *)at, 1);
		}
	}
	line->cut |= *at != 0;
	put(line, "\"", 1);
}

/* Whatever could be taken for another field, or for an order to a terminal. */
static bool needs_quotes(const char *text)
{
	for (const char *at = text; *at != 0; at++) {
		if ((unsigned char)*at <= 0x20 || *at == 0x7f || strchr("\"=\\", *at) != NULL) {
			return true;
		}
	}
	return *text == 0 || strlen(text) > VALUE_BYTES;
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
	for (; fields->key != NULL && !line.full; fields++) {
		size_t whole = line.len;
		put_field(&line, fields, json);
		if (line.full) {
			line.len = whole; /* no halves */
			line.cut = true;
		}
	}
	if (line.cut) {
		const char *tail = json ? ",\"truncated\":1" : " truncated=1";
		memcpy(line.text + line.len, tail, strlen(tail));
		line.len += strlen(tail);
	}
	if (json) {
		line.text[line.len++] = '}';
	}
	line.text[line.len++] = '\n';
	ssize_t written = write(log_fd, line.text, line.len);
	(void)written; /* there is nowhere left to say that the log cannot be written */
}
