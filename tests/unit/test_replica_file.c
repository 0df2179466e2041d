/* SPDX-License-Identifier: MIT */

/*
 * A replica in a directory: what is put is there whole, once, with the record that belongs to it;
 * also after a crash between any two steps, and when several daemons want the same number.
 */

#include "server/ship/ltx.h"
#include "server/ship/replica.h"
#include "tests/unit/cmocka_all.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SEGMENT_BYTES = 300000 };
static const int64_t created_ms = 1795343655247;

struct place {
	char root[64];
	struct replica *replica;
	struct replica_error error;
};

static void place_make(struct place *place)
{
	char url[80];
	*place = (struct place){.root = "/dev/shm/litefunnel-replica-XXXXXX"};
	assert_non_null(mkdtemp(place->root));
	snprintf(url, sizeof url, "file://%s/b", place->root);
	assert_int_equal(replica_open(url, &place->replica, &place->error), 0);
	assert_string_equal(replica_url(place->replica), url);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

static void place_remove(struct place *place)
{
	replica_free(place->replica);
	nftw(place->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static const char *path_of(const struct place *place, uint64_t txid, const char *suffix)
{
	static char path[256];
	char name[LTX_NAME_BYTES];
	ltx_name(txid, txid, name);
	snprintf(path, sizeof path, "%s/b/ltx/0/%s%s", place->root, name, suffix);
	return path;
}

/* A segment of bytes that `seed` decides, and its record. */
struct segment {
	int fd;
	uint64_t size;
	struct record record;
};

static void segment_make(struct segment *segment, uint8_t seed, uint8_t writer)
{
	static uint8_t bytes[SEGMENT_BYTES];
	memset(bytes, seed, sizeof bytes);
	*segment = (struct segment){.size = sizeof bytes};
	segment->fd = memfd_create("segment", MFD_CLOEXEC);
	assert_true(segment->fd >= 0);
	assert_int_equal(write(segment->fd, bytes, sizeof bytes), sizeof bytes);
	memset(segment->record.writer, writer, RECORD_ID_BYTES);
	segment->record.commit_last = seed;
	EVP_Digest(bytes, sizeof bytes, segment->record.sha256, NULL, EVP_sha256(), NULL);
}

static int put(struct place *place, uint64_t txid, const struct segment *segment)
{
	return replica_put(place->replica, 0, txid, txid, segment->fd, segment->size, created_ms,
		&segment->record, &place->error);
}

struct bytes {
	uint8_t bytes[SEGMENT_BYTES + 1];
	size_t len;
	int result;
};

static int take(void *ctx, const void *bytes, size_t len)
{
	struct bytes *taken = ctx;
	assert_true(taken->len + len <= sizeof taken->bytes);
	memcpy(taken->bytes + taken->len, bytes, len);
	taken->len += len;
	return taken->result;
}

/* What stands under the number is `segment`, bytes, record and time. */
static void assert_there(struct place *place, uint64_t txid, const struct segment *segment)
{
	static struct bytes taken;
	uint8_t sha256[RECORD_SHA256_BYTES];
	struct replica_file file;
	struct record record;
	bool known;
	assert_int_equal(
		replica_look(place->replica, 0, txid, txid, &file, &record, &known, &place->error),
		0);
	assert_true(known);
	assert_true(file.created_ms == created_ms);
	assert_int_equal(file.size, segment->size);
	assert_memory_equal(record.writer, segment->record.writer, sizeof record.writer);
	taken = (struct bytes){0};
	assert_int_equal(
		replica_get(place->replica, &file, 0, UINT64_MAX, take, &taken, &place->error), 0);
	EVP_Digest(taken.bytes, taken.len, sha256, NULL, EVP_sha256(), NULL);
	assert_memory_equal(sha256, segment->record.sha256, sizeof sha256);
	assert_memory_equal(sha256, record.sha256, sizeof sha256);
}

/* Nothing but segments and their sidecars. */
static void assert_clean(const struct place *place, int files)
{
	char command[200];
	int count = 0;
	snprintf(command, sizeof command, "ls -A %s/b/ltx/0 | wc -l", place->root);
	FILE *pipe = popen(command, "re");
	assert_non_null(pipe);
	assert_int_equal(fscanf(pipe, "%d", &count), 1);
	pclose(pipe);
	assert_int_equal(count, files);
}

static void test_put_and_get(void **state)
{
	struct place place;
	struct segment segment;
	struct stat st;
	(void)state;
	place_make(&place);
	segment_make(&segment, 1, 1);
	assert_int_equal(put(&place, 5, &segment), 0);
	assert_there(&place, 5, &segment);
	assert_clean(&place, 2);
	assert_int_equal(stat(path_of(&place, 5, ""), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	struct replica_stats stats = replica_stats(place.replica);
	assert_int_equal(stats.requests[REQUEST_PUT], 1);
	assert_int_equal(stats.bytes_sent, SEGMENT_BYTES);
	close(segment.fd);
	place_remove(&place);
}

static void test_parts_of_a_file(void **state)
{
	static struct bytes taken;
	struct place place;
	struct segment segment;
	struct replica_file file = {.min_txid = 1, .max_txid = 1};
	(void)state;
	place_make(&place);
	segment_make(&segment, 1, 1);
	assert_int_equal(put(&place, 1, &segment), 0);
	static const struct {
		uint64_t offset;
		uint64_t len;
		size_t want;
	} parts[] = {{0, 10, 10}, {SEGMENT_BYTES - 3, 10, 3}, {SEGMENT_BYTES, 10, 0},
		{SEGMENT_BYTES + 9, UINT64_MAX, 0}, {100, 200000, 200000}, {7, 0, 0}};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
		taken = (struct bytes){0};
		assert_int_equal(replica_get(place.replica, &file, parts[i].offset, parts[i].len,
					 take, &taken, &place.error),
			0);
		assert_int_equal(taken.len, parts[i].want);
	}
	taken = (struct bytes){.result = 42};
	assert_int_equal(
		replica_get(place.replica, &file, 0, UINT64_MAX, take, &taken, &place.error), 42);
	file.size = SEGMENT_BYTES + 1;
	assert_int_equal(
		replica_get(place.replica, &file, 0, UINT64_MAX, take, &taken, &place.error),
		REPLICA_CORRUPT);
	file.max_txid = 2;
	assert_int_equal(
		replica_get(place.replica, &file, 0, UINT64_MAX, take, &taken, &place.error),
		REPLICA_MISSING);
	close(segment.fd);
	place_remove(&place);
}

static void test_a_number_is_given_once(void **state)
{
	struct place place;
	struct segment ours;
	struct segment other;
	(void)state;
	place_make(&place);
	segment_make(&ours, 1, 1);
	segment_make(&other, 2, 2);
	assert_int_equal(put(&place, 1, &ours), 0);
	assert_int_equal(put(&place, 1, &ours), 0); /* the answer was lost */
	assert_int_equal(put(&place, 1, &other), REPLICA_EXISTS);
	assert_non_null(strstr(place.error.text, "another daemon"));
	memcpy(other.record.writer, ours.record.writer, RECORD_ID_BYTES);
	assert_int_equal(put(&place, 1, &other), REPLICA_EXISTS);
	assert_there(&place, 1, &ours);
	assert_clean(&place, 2);
	close(ours.fd);
	close(other.fd);
	place_remove(&place);
}

/* It comes from the spool: what was hashed is what must be sent. */
static void test_bytes_that_changed_are_not_sent(void **state)
{
	struct place place;
	struct segment segment;
	(void)state;
	place_make(&place);
	segment_make(&segment, 1, 1);
	assert_int_equal(pwrite(segment.fd, "x", 1, 200000), 1);
	assert_int_equal(put(&place, 1, &segment), -EIO);
	assert_int_equal(ftruncate(segment.fd, SEGMENT_BYTES - 1), 0);
	assert_int_equal(put(&place, 1, &segment), -EIO);
	assert_clean(&place, 0);
	close(segment.fd);
	place_remove(&place);
}

/* A crash left a sidecar without its segment; the number is free. */
static void test_a_sidecar_alone_holds_no_number(void **state)
{
	struct place place;
	struct segment dead;
	struct segment ours;
	(void)state;
	place_make(&place);
	segment_make(&dead, 1, 1);
	segment_make(&ours, 2, 2);
	assert_int_equal(put(&place, 1, &dead), 0);
	assert_int_equal(unlink(path_of(&place, 1, "")), 0);
	assert_int_equal(put(&place, 1, &ours), 0);
	assert_there(&place, 1, &ours);
	assert_clean(&place, 2);
	close(dead.fd);
	close(ours.fd);
	place_remove(&place);
}

/* And a crash just before our sidecar took the name from such a one: we know our bytes. */
static void test_a_crash_before_the_sidecar_has_its_name(void **state)
{
	struct place place;
	struct segment dead;
	struct segment ours;
	char kept[256];
	(void)state;
	place_make(&place);
	segment_make(&dead, 1, 1);
	segment_make(&ours, 2, 2);
	assert_int_equal(put(&place, 2, &dead), 0);
	snprintf(kept, sizeof kept, "%s", path_of(&place, 2, ".record"));
	assert_int_equal(put(&place, 1, &ours), 0);
	assert_int_equal(rename(kept, path_of(&place, 1, ".record")), 0);
	assert_int_equal(unlink(path_of(&place, 2, "")), 0);
	assert_int_equal(put(&place, 1, &ours), 0);
	assert_there(&place, 1, &ours);
	assert_int_equal(unlink(path_of(&place, 1, ".record")), 0);
	assert_int_equal(put(&place, 1, &dead), REPLICA_EXISTS);
	assert_int_equal(put(&place, 1, &ours), 0);
	assert_there(&place, 1, &ours);
	assert_clean(&place, 2);
	close(dead.fd);
	close(ours.fd);
	place_remove(&place);
}

static void test_records_that_are_none(void **state)
{
	static const char *const texts[] = {"no record", "epoch: 1\n", "full: yes\n", "\n", "\1\n"};
	struct place place;
	struct segment segment;
	struct record record;
	bool known;
	(void)state;
	place_make(&place);
	segment_make(&segment, 1, 1);
	assert_int_equal(replica_put(place.replica, 0, 1, 1, segment.fd, segment.size, created_ms,
				 NULL, &place.error),
		0);
	assert_int_equal(
		replica_look(place.replica, 0, 1, 1, NULL, &record, &known, &place.error), 0);
	assert_false(known);
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		FILE *file = fopen(path_of(&place, 1, ".record"), "we");
		assert_non_null(file);
		fputs(texts[i], file);
		fclose(file);
		assert_int_equal(
			replica_look(place.replica, 0, 1, 1, NULL, &record, &known, &place.error),
			REPLICA_CORRUPT);
	}
	assert_int_equal(replica_look(place.replica, 0, 1, 2, NULL, &record, &known, &place.error),
		REPLICA_MISSING);
	close(segment.fd);
	place_remove(&place);
}

struct names {
	char text[500];
	int stop_after;
};

static int add_name(void *ctx, const struct replica_file *file)
{
	struct names *names = ctx;
	size_t len = strlen(names->text);
	assert_true(file->created_ms == created_ms && file->size == SEGMENT_BYTES);
	snprintf(names->text + len, sizeof names->text - len, "%u-%u ", (unsigned)file->min_txid,
		(unsigned)file->max_txid);
	return --names->stop_after == 0 ? 7 : 0;
}

static void test_lists_are_in_order(void **state)
{
	static const uint64_t ranges[][2] = {{300, 300}, {2, 9}, {2, 2}, {17, 17}, {16, 255}};
	struct place place;
	struct segment segment;
	char path[200];
	(void)state;
	place_make(&place);
	segment_make(&segment, 1, 1);
	struct names names = {0};
	assert_int_equal(replica_list(place.replica, 1, 0, add_name, &names, &place.error), 0);
	for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
		assert_int_equal(
			replica_put(place.replica, 1, ranges[i][0], ranges[i][1], segment.fd,
				segment.size, created_ms, &segment.record, &place.error),
			0);
	}
	snprintf(path, sizeof path, "%s/b/ltx/1/manifest.txt", place.root);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(replica_list(place.replica, 1, 0, add_name, &names, &place.error), 0);
	assert_string_equal(names.text, "2-2 2-9 16-255 17-17 300-300 ");
	names = (struct names){0};
	assert_int_equal(replica_list(place.replica, 1, 17, add_name, &names, &place.error), 0);
	assert_string_equal(names.text, "17-17 300-300 ");
	names = (struct names){.stop_after = 1};
	assert_int_equal(replica_list(place.replica, 1, 0, add_name, &names, &place.error), 7);
	assert_string_equal(names.text, "2-2 ");
	close(segment.fd);
	place_remove(&place);
}

static void test_delete(void **state)
{
	struct place place;
	struct segment segment;
	struct replica_file file = {.min_txid = 3, .max_txid = 3};
	(void)state;
	place_make(&place);
	assert_int_equal(replica_delete(place.replica, &file, &place.error), 0);
	segment_make(&segment, 1, 1);
	assert_int_equal(put(&place, 3, &segment), 0);
	assert_int_equal(put(&place, 4, &segment), 0);
	assert_int_equal(replica_delete(place.replica, &file, &place.error), 0);
	assert_clean(&place, 2);
	assert_int_equal(replica_delete(place.replica, &file, &place.error), 0);
	assert_there(&place, 4, &segment);
	close(segment.fd);
	place_remove(&place);
}

static void test_probe_and_generations(void **state)
{
	struct place place;
	char path[200];
	bool has;
	(void)state;
	place_make(&place);
	assert_int_equal(replica_has_generations(place.replica, &has, &place.error), 0);
	assert_false(has);
	assert_int_equal(replica_probe(place.replica, &place.error), 0);
	assert_clean(&place, 0);
	snprintf(path, sizeof path, "%s/b/generations", place.root);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(replica_has_generations(place.replica, &has, &place.error), 0);
	assert_true(has);
	place_remove(&place);
}

static void test_interrupted(void **state)
{
	struct place place;
	struct segment segment;
	(void)state;
	place_make(&place);
	segment_make(&segment, 1, 1);
	replica_interrupt(place.replica);
	assert_int_equal(put(&place, 1, &segment), REPLICA_AGAIN);
	assert_non_null(strstr(place.error.text, "interrupted"));
	close(segment.fd);
	place_remove(&place);
}

static void test_urls(void **state)
{
	static const char *const wrong[] = {"", "/backup", "file:/backup", "file://backup/app",
		"file:///", "file:////", "file:///a?b=c", "file:///a#b", "file:///a%2",
		"file:///a%zz", "file:///a%00b", "sftp://host/app", "FILE:///a"};
	struct replica *replica = NULL;
	struct replica_error error;
	(void)state;
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
		assert_int_equal(replica_open(wrong[i], &replica, &error), -EINVAL);
		assert_true(strlen(error.text) > 20);
	}
	char root[] = "/dev/shm/litefunnel-replica-XXXXXX";
	char url[100];
	char path[100];
	bool has;
	assert_non_null(mkdtemp(root));
	snprintf(url, sizeof url, "file://%s/a%%20b%%3f///", root);
	assert_int_equal(replica_open(url, &replica, &error), 0);
	assert_int_equal(replica_probe(replica, &error), 0);
	assert_int_equal(replica_has_generations(replica, &has, &error), 0);
	snprintf(path, sizeof path, "%s/a b?/ltx/0", root);
	assert_int_equal(access(path, F_OK), 0);
	replica_free(replica);
	nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Several processes want the same numbers; orphaned sidecars lie in the way of some. */
static void one_contender(struct place *place, uint8_t writer, int rounds, int result)
{
	struct segment segment;
	segment_make(&segment, writer, writer);
	for (int round = 1; round <= rounds; round++) {
		int rc = put(place, (uint64_t)round, &segment);
		uint8_t won = rc == 0;
		if ((rc != 0 && rc != REPLICA_EXISTS) || write(result, &won, 1) != 1) {
			_exit(1);
		}
	}
	_exit(0);
}

static void test_one_of_many_wins(void **state)
{
	enum { CONTENDERS = 4, ROUNDS = 60 };
	struct place place;
	struct segment dead;
	uint8_t won[CONTENDERS][ROUNDS];
	pid_t pids[CONTENDERS];
	int pipes[CONTENDERS][2];
	(void)state;
	place_make(&place);
	segment_make(&dead, 99, 99);
	for (uint64_t round = 1; round <= ROUNDS; round += 2) {
		assert_int_equal(put(&place, round, &dead), 0);
		assert_int_equal(unlink(path_of(&place, round, "")), 0);
	}
	for (int i = 0; i < CONTENDERS; i++) {
		assert_int_equal(pipe2(pipes[i], O_CLOEXEC), 0);
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0) {
			one_contender(&place, (uint8_t)(i + 1), ROUNDS, pipes[i][1]);
		}
	}
	for (int i = 0; i < CONTENDERS; i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
		assert_int_equal(read(pipes[i][0], won[i], ROUNDS), ROUNDS);
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
	for (int round = 0; round < ROUNDS; round++) {
		int winners = 0;
		for (int i = 0; i < CONTENDERS; i++) {
			struct segment segment;
			if (won[i][round] != 0) {
				segment_make(&segment, (uint8_t)(i + 1), (uint8_t)(i + 1));
				assert_there(&place, (uint64_t)round + 1, &segment);
				close(segment.fd);
				winners++;
			}
		}
		assert_int_equal(winners, 1);
	}
	assert_clean(&place, 2 * ROUNDS);
	close(dead.fd);
	place_remove(&place);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put_and_get),
		cmocka_unit_test(test_parts_of_a_file),
		cmocka_unit_test(test_a_number_is_given_once),
		cmocka_unit_test(test_bytes_that_changed_are_not_sent),
		cmocka_unit_test(test_a_sidecar_alone_holds_no_number),
		cmocka_unit_test(test_a_crash_before_the_sidecar_has_its_name),
		cmocka_unit_test(test_records_that_are_none),
		cmocka_unit_test(test_lists_are_in_order),
		cmocka_unit_test(test_delete),
		cmocka_unit_test(test_probe_and_generations),
		cmocka_unit_test(test_interrupted),
		cmocka_unit_test(test_urls),
		cmocka_unit_test(test_one_of_many_wins),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
