/* SPDX-License-Identifier: MIT */

/*
 * replica_cli URL: a replica's functions by lines of standard input, so that a test in Python can
 * drive them through one handle. Each command is answered by one line: the result, then what it
 * brought or the error, separated by tabs.
 *
 *	put LEVEL MIN MAX FILE TIMESTAMP_MS WRITER     WRITER: a byte in hexadecimal, or - for no record
 *	get LEVEL MIN MAX OFFSET LENGTH FILE           LENGTH - is the rest
 *	look LEVEL MIN MAX        list LEVEL FROM      delete LEVEL MIN MAX
 *	probe                     generations          stats
 */

#include "server/base/cleanup.h"
#include "server/ship/replica.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { WORDS_MAX = 8 };

static const char *result_name(int rc)
{
	static const char *const names[] = {
		"OK", "AGAIN", "EXISTS", "MISSING", "DENIED", "CORRUPT", "UNFENCED"};
	if (rc < 0) {
		return strerror(-rc);
	}
	return (size_t)rc < sizeof names / sizeof names[0] ? names[rc] : "?";
}

static void hash_file(int fd, uint64_t size, uint8_t sha256[RECORD_SHA256_BYTES])
{
	char bytes[65536];
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
	for (uint64_t at = 0; at < size;) {
		ssize_t got = pread(fd, bytes, sizeof bytes, (off_t)at);
		if (got <= 0) {
			break;
		}
		EVP_DigestUpdate(hash, bytes, (size_t)got);
		at += (uint64_t)got;
	}
	EVP_DigestFinal_ex(hash, sha256, NULL);
	EVP_MD_CTX_free(hash);
}

struct command {
	struct replica *replica;
	char *words[WORDS_MAX];
	int level;
	uint64_t min;
	uint64_t max;
	struct replica_error error;
};

static int do_put(struct command *command)
{
	struct stat st;
	struct record record = {.commit_first = command->min, .commit_last = command->max};
	CLEANUP_FD int fd = open(command->words[4], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0) {
		return -errno;
	}
	int64_t timestamp_ms = strtoll(command->words[5], NULL, 10);
	bool has_record = command->words[6][0] != '-';
	memset(record.writer, (int)strtol(command->words[6], NULL, 16), sizeof record.writer);
	record.committed_ms = timestamp_ms;
	hash_file(fd, (uint64_t)st.st_size, record.sha256);
	return replica_put(command->replica, command->level, command->min, command->max, fd,
		(uint64_t)st.st_size, timestamp_ms, has_record ? &record : NULL, &command->error);
}

static int write_out(void *ctx, const void *bytes, size_t len)
{
	return fwrite(bytes, 1, len, ctx) == len ? 0 : -EIO;
}

static int do_get(struct command *command)
{
	struct replica_file file = {
		.level = command->level, .min_txid = command->min, .max_txid = command->max};
	FILE *out = fopen(command->words[6], "we");
	if (out == NULL) {
		return -errno;
	}
	uint64_t len =
		command->words[5][0] == '-' ? UINT64_MAX : strtoull(command->words[5], NULL, 10);
	int rc = replica_get(command->replica, &file, strtoull(command->words[4], NULL, 10), len,
		write_out, out, &command->error);
	fclose(out);
	return rc;
}

static void add_value(void *ctx, const char *key, const char *value)
{
	char *line = ctx;
	size_t len = strlen(line);
	snprintf(line + len, 2048 - len, "\t%s=%s", key, value);
}

static int do_look(struct command *command, char line[2048])
{
	struct replica_file file;
	struct record record;
	bool known;
	int rc = replica_look(command->replica, command->level, command->min, command->max, &file,
		&record, &known, &command->error);
	if (rc == 0) {
		snprintf(line, 2048, "\tsize=%" PRIu64 "\tcreated_ms=%" PRId64 "\tknown=%d",
			file.size, file.created_ms, known);
		if (known) {
			record_each(&record, add_value, line);
		}
	}
	return rc;
}

static int show_file(void *ctx, const struct replica_file *file)
{
	(void)ctx;
	printf("%d %" PRIx64 " %" PRIx64 " %" PRIu64 " %" PRId64 "\t", file->level, file->min_txid,
		file->max_txid, file->size, file->created_ms);
	return 0;
}

static void show_stats(const struct replica *replica, char line[2048])
{
	struct replica_stats stats = replica_stats(replica);
	snprintf(line, 2048,
		"\tput=%" PRIu64 "\tget=%" PRIu64 "\thead=%" PRIu64 "\tlist=%" PRIu64
		"\tdelete=%" PRIu64 "\tsent=%" PRIu64 "\treceived=%" PRIu64,
		stats.requests[REQUEST_PUT], stats.requests[REQUEST_GET],
		stats.requests[REQUEST_HEAD], stats.requests[REQUEST_LIST],
		stats.requests[REQUEST_DELETE], stats.bytes_sent, stats.bytes_received);
}

static int run(struct command *command, char line[2048])
{
	const char *what = command->words[0];
	struct replica_file file = {
		.level = command->level, .min_txid = command->min, .max_txid = command->max};
	bool has;
	if (strcmp(what, "put") == 0) {
		return do_put(command);
	}
	if (strcmp(what, "get") == 0) {
		return do_get(command);
	}
	if (strcmp(what, "look") == 0) {
		return do_look(command, line);
	}
	if (strcmp(what, "list") == 0) {
		return replica_list(command->replica, command->level, command->min, show_file, NULL,
			&command->error);
	}
	if (strcmp(what, "delete") == 0) {
		return replica_delete(command->replica, &file, &command->error);
	}
	if (strcmp(what, "probe") == 0) {
		return replica_probe(command->replica, &command->error);
	}
	if (strcmp(what, "generations") == 0) {
		int rc = replica_has_generations(command->replica, &has, &command->error);
		snprintf(line, 2048, "\t%d", has);
		return rc;
	}
	show_stats(command->replica, line);
	return 0;
}

int main(int argc, char **argv)
{
	char input[4096];
	static char nothing[1];
	struct command command = {0};
	if (argc != 2) {
		fprintf(stderr, "usage: replica_cli URL\n");
		return 2;
	}
	int rc = replica_open(argv[1], &command.replica, &command.error);
	printf("%s\t%s\n", result_name(rc), command.error.text);
	fflush(stdout);
	while (rc == 0 && fgets(input, sizeof input, stdin) != NULL) {
		char line[2048] = "";
		char *rest = NULL;
		input[strcspn(input, "\n")] = '\0';
		memset(command.words, 0, sizeof command.words);
		for (int i = 0; i < WORDS_MAX; i++) {
			command.words[i] = strtok_r(i == 0 ? input : NULL, " ", &rest);
			command.words[i] = command.words[i] != NULL ? command.words[i] : nothing;
		}
		command.level = (int)strtol(command.words[1], NULL, 10);
		command.min = strtoull(command.words[2], NULL, 10);
		command.max = strtoull(command.words[3], NULL, 10);
		int result = run(&command, line);
		printf("%s%s%s%s\n", result_name(result), line, result != 0 ? "\t" : "",
			result != 0 ? command.error.text : "");
		fflush(stdout);
	}
	replica_free(command.replica);
	return 0;
}
