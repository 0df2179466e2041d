/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * One line an event, on stderr: logfmt for people and journald, or JSON for machines.
 *
 *	log_info("listening", log_str("socket", path), log_uint("connections_max", max));
 *
 * An event's name is a few lower-case words that never change; what varies is in the fields. A
 * function logs an error or returns it, never both. Safe from any thread; a line is one write().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };
enum log_format { LOG_FORMAT_LOGFMT, LOG_FORMAT_JSON };

struct log_field {
	const char *key; /* NULL ends a list of fields */
	const char *text;
	int64_t number;
};

static inline struct log_field log_str(const char *key, const char *text)
{
	return (struct log_field){key, text != NULL ? text : "", 0};
}

static inline struct log_field log_int(const char *key, int64_t number)
{
	return (struct log_field){key, NULL, number};
}

static inline struct log_field log_uint(const char *key, uint64_t number)
{
	return (struct log_field){key, NULL, (int64_t)number};
}

/* Where lines go from now on; the fd stays the caller's. Default: stderr, info, logfmt. */
void log_setup(int fd, enum log_level level, enum log_format format);

/* `fields` ends with a key of NULL. Below the level nothing happens. */
void log_write(enum log_level level, const char *event, const struct log_field *fields);

#define LOG_FIELDS(...)       ((const struct log_field[]){__VA_ARGS__, {0}})
#define log_debug(event, ...) log_write(LOG_LEVEL_DEBUG, event, LOG_FIELDS(__VA_ARGS__))
#define log_info(event, ...)  log_write(LOG_LEVEL_INFO, event, LOG_FIELDS(__VA_ARGS__))
#define log_warn(event, ...)  log_write(LOG_LEVEL_WARN, event, LOG_FIELDS(__VA_ARGS__))
#define log_error(event, ...) log_write(LOG_LEVEL_ERROR, event, LOG_FIELDS(__VA_ARGS__))
