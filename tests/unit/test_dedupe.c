/* SPDX-License-Identifier: MIT */

/*
 * Exactly once, on a real file: what is remembered, and what is left of it after a rollback and a
 * restart.
 */

#include "tests/unit/remembered.h"

/* ---- the simple cases ---- */

static void test_no_identity_is_always_new(void **state)
{
	struct bed *bed = *state;
	struct identity none = {.kind = IDENTITY_NONE};
	bed_begin(bed->store);
	assert_int_equal(ask(bed, none, NULL), DEDUPE_NEW);
	assert_int_equal(
		dedupe_remember(store_dedupe(bed->store), &none, (struct bytes){"x", 1}), 0);
	assert_false(dedupe_has_pending(store_dedupe(bed->store)));
	store_rollback(bed->store);
}

static void test_a_seq_is_answered_again(void **state)
{
	struct bed *bed = *state;
	uint64_t commit_no = 0;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	uint64_t first = store_commit_no(bed->store);
	assert_int_equal(commit(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	for (int round = 0; round < 3; round++) {
		bed_begin(bed->store);
		assert_int_equal(ask(bed, seq_of('a', 1, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, first);
		assert_int_equal(ask(bed, seq_of('a', 2, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, first + 1);
		assert_int_equal(ask(bed, seq_of('a', 3, 0), NULL), DEDUPE_NEW);
		assert_int_equal(ask(bed, seq_of('b', 1, 0), NULL), DEDUPE_NEW);
		store_rollback(bed->store);
		if (round < 2) {
			restart(bed);
		}
	}
	struct dedupe_stats stats = dedupe_stats(store_dedupe(bed->store));
	assert_int_equal(stats.sessions, 1);
	assert_int_equal(stats.replies, 2);
	assert_int_equal(stats.repeats, 2); /* since this start */
}

static void test_another_uid_is_another_session(void **state)
{
	struct bed *bed = *state;
	struct identity other = seq_of('a', 1, 0);
	other.uid = UID + 1;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, other), DEDUPE_NEW);
	struct identity key = key_of("k");
	assert_int_equal(commit(bed, key), DEDUPE_NEW);
	key.uid++;
	assert_int_equal(commit(bed, key), DEDUPE_NEW);
	restart(bed);
	assert_int_equal(peek(bed, other), DEDUPE_REPEAT);
	assert_int_equal(peek(bed, key), DEDUPE_REPEAT);
	other.uid = UINT32_MAX; /* as good as any */
	assert_int_equal(commit(bed, other), DEDUPE_NEW);
	restart(bed);
	assert_int_equal(peek(bed, other), DEDUPE_REPEAT);
}

static void test_other_content_is_a_mismatch(void **state)
{
	struct bed *bed = *state;
	struct identity seq = seq_of('a', 1, 0);
	struct identity key = key_of("k");
	assert_int_equal(commit(bed, seq), DEDUPE_NEW);
	assert_int_equal(commit(bed, key), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		/* Each byte of the hash counts. */
		for (size_t i = 0; i < sizeof(seq.hash); i++) {
			seq.hash[i] ^= 1;
			key.hash[i] ^= 1;
			assert_int_equal(peek(bed, seq), DEDUPE_MISMATCH);
			assert_int_equal(peek(bed, key), DEDUPE_MISMATCH);
			seq.hash[i] ^= 1;
			key.hash[i] ^= 1;
		}
		restart(bed);
	}
	assert_int_equal(peek(bed, seq), DEDUPE_REPEAT);
	assert_int_equal(peek(bed, key), DEDUPE_REPEAT);
}

static void test_payloads_of_every_size(void **state)
{
	static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 65536, 1000000};
	enum { COUNT = sizeof(sizes) / sizeof(sizes[0]) };
	struct bed *bed = *state;
	char *bytes = malloc(sizes[COUNT - 1]);
	for (size_t i = 0; i < sizes[COUNT - 1]; i++) {
		bytes[i] = (char)(i * 7 + i / 251);
	}
	bed_begin(bed->store);
	for (size_t i = 0; i < COUNT; i++) {
		char name[] = {(char)('0' + i), 0};
		struct identity seq = seq_of('a', i + 1, 0);
		struct identity key = key_of(name);
		struct bytes payload = {bytes + i, sizes[i] - (i < sizes[i] ? i : 0)};
		assert_int_equal(dedupe_remember(store_dedupe(bed->store), &seq, payload), 0);
		assert_int_equal(dedupe_remember(store_dedupe(bed->store), &key, payload), 0);
	}
	/* In the same transaction, after the commit, and after a restart. */
	for (int stage = 0; stage < 3; stage++) {
		for (size_t i = 0; i < 2 * COUNT; i++) {
			struct dedupe_reply reply;
			size_t size = sizes[i / 2] - (i / 2 < sizes[i / 2] ? i / 2 : 0);
			char name[] = {(char)('0' + i / 2), 0};
			struct identity identity =
				i % 2 == 0 ? seq_of('a', i / 2 + 1, 0) : key_of(name);
			assert_int_equal(dedupe_check(store_dedupe(bed->store), &identity, &reply),
				DEDUPE_REPEAT);
			assert_int_equal(reply.payload_len, size);
			assert_memory_equal(reply.payload, bytes + i / 2, size);
			free(reply.payload);
		}
		if (stage == 0) {
			bed_commit(bed->store);
		} else if (stage == 1) {
			restart(bed);
		}
	}
	free(bytes);
}

static void test_a_repeat_in_the_same_transaction(void **state)
{
	struct bed *bed = *state;
	uint64_t commit_no = 0;
	uint64_t next = store_commit_no(bed->store) + 1;
	bed_begin(bed->store);
	for (uint64_t seq = 1; seq <= 20; seq++) {
		assert_int_equal(run(bed, seq_of('a', seq, 0)), DEDUPE_NEW);
		assert_int_equal(ask(bed, seq_of('a', seq, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, next);
	}
	assert_int_equal(run(bed, key_of("k")), DEDUPE_NEW);
	assert_int_equal(ask(bed, key_of("k"), &commit_no), DEDUPE_REPEAT);
	assert_int_equal(commit_no, next);
	/* Early ones too, after the record has grown and moved. */
	assert_int_equal(ask(bed, seq_of('a', 1, 0), NULL), DEDUPE_REPEAT);
	bed_commit(bed->store);
	assert_int_equal(store_commit_no(bed->store), next);
	bed_begin(bed->store);
	for (uint64_t seq = 1; seq <= 20; seq++) {
		assert_int_equal(ask(bed, seq_of('a', seq, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, next);
	}
	store_rollback(bed->store);
	assert_int_equal(rows_of(bed, "_lf_group"), 1);
}

/* ---- the window and `done` ---- */

static void test_the_windows_edges(void **state)
{
	struct bed *bed = *state;
	const uint64_t max = 5000;
	assert_int_equal(commit(bed, seq_of('a', max, 0)), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', max - WINDOW - 1, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', max - WINDOW, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', max - WINDOW + 1, 0)), DEDUPE_NEW);
		assert_int_equal(peek(bed, seq_of('a', max, 0)), DEDUPE_REPEAT);
		assert_int_equal(peek(bed, seq_of('a', max + 1, 0)), DEDUPE_NEW);
		assert_int_equal(peek(bed, seq_of('a', (uint64_t)INT64_MAX, 0)), DEDUPE_NEW);
		restart(bed);
	}
	/* Out of order, down to the edge; then each step up takes one away below. */
	assert_int_equal(commit(bed, seq_of('a', max - WINDOW + 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('a', max - WINDOW + 2, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, seq_of('a', max - WINDOW + 1, 0)), DEDUPE_REPEAT);
	assert_int_equal(commit(bed, seq_of('a', max + 1, 0)), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', max - WINDOW + 1, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', max - WINDOW + 2, 0)), DEDUPE_REPEAT);
		restart(bed);
	}
}

static void test_the_largest_seq(void **state)
{
	struct bed *bed = *state;
	const uint64_t max = INT64_MAX;
	assert_int_equal(commit(bed, seq_of('a', max, 0)), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', max, 0)), DEDUPE_REPEAT);
		assert_int_equal(peek(bed, seq_of('a', max - WINDOW, 0)), DEDUPE_EXPIRED);
		restart(bed);
	}
}

static void test_done_gives_answers_up(void **state)
{
	struct bed *bed = *state;
	for (uint64_t seq = 1; seq <= 10; seq++) {
		assert_int_equal(commit(bed, seq_of('a', seq, 0)), DEDUPE_NEW);
	}
	assert_int_equal(commit(bed, seq_of('a', 11, 5)), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', 5, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', 6, 0)), DEDUPE_REPEAT);
		assert_int_equal(dedupe_stats(store_dedupe(bed->store)).replies, 6);
		restart(bed);
	}
	/* `done` never goes back, but with its transaction, and holds for a repeat that carries it too. */
	assert_int_equal(peek(bed, seq_of('a', 5, 2)), DEDUPE_EXPIRED);
	assert_int_equal(peek(bed, seq_of('a', 11, 10)), DEDUPE_REPEAT);
	assert_int_equal(peek(bed, seq_of('a', 6, 0)), DEDUPE_REPEAT);
	bed_begin(bed->store);
	assert_int_equal(ask(bed, seq_of('a', 11, 10), NULL), DEDUPE_REPEAT);
	assert_int_equal(ask(bed, seq_of('a', 6, 0), NULL), DEDUPE_EXPIRED);
	bed_commit(bed->store);
	assert_int_equal(peek(bed, seq_of('a', 6, 0)), DEDUPE_EXPIRED);
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).replies, 1);
	/* What is done cannot be asked: also where it says so itself. */
	assert_int_equal(peek(bed, seq_of('a', 12, 12)), DEDUPE_EXPIRED);
	assert_int_equal(peek(bed, seq_of('n', 3, 3)), DEDUPE_EXPIRED);
	assert_int_equal(peek(bed, seq_of('n', 3, UINT64_MAX)), DEDUPE_EXPIRED);
	assert_int_equal(peek(bed, seq_of('n', 3, 2)), DEDUPE_NEW);
}

static void test_gaps_may_be_filled(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 10, 0)), DEDUPE_NEW);
	for (uint64_t seq = 9; seq > 0; seq--) {
		assert_int_equal(commit(bed, seq_of('a', seq, 0)), DEDUPE_NEW);
	}
	restart(bed);
	for (uint64_t seq = 1; seq <= 10; seq++) {
		assert_int_equal(peek(bed, seq_of('a', seq, 0)), DEDUPE_REPEAT);
	}
	uint64_t max_seq = 0;
	uint8_t id[DEDUPE_SESSION_BYTES];
	memset(id, 'a', sizeof(id));
	assert_true(dedupe_peek(store_dedupe(bed->store), UID, id, &max_seq));
	assert_int_equal(max_seq, 10);
}

/* ---- limits ---- */

static void test_full_of_sessions_and_keys(void **state)
{
	struct bed *bed = *state;
	struct dedupe_limits few = limits;
	few.sessions_max = 2;
	few.keys_max = 2;
	dedupe_set_limits(store_dedupe(bed->store), &few);
	bed_begin(bed->store);
	assert_int_equal(run(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, key_of("1")), DEDUPE_NEW);
	bed_commit(bed->store);
	bed_begin(bed->store);
	assert_int_equal(run(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, seq_of('c', 1, 0)), DEDUPE_FULL);
	assert_int_equal(run(bed, seq_of('b', 2, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, key_of("2")), DEDUPE_NEW);
	assert_int_equal(run(bed, key_of("3")), DEDUPE_FULL);
	assert_int_equal(run(bed, key_of("1")), DEDUPE_REPEAT);
	bed_commit(bed->store);
	bed_reopen(bed);
	dedupe_set_limits(store_dedupe(bed->store), &few);
	assert_int_equal(peek(bed, seq_of('c', 1, 0)), DEDUPE_FULL);
	assert_int_equal(peek(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, key_of("3")), DEDUPE_FULL);
	assert_int_equal(peek(bed, key_of("2")), DEDUPE_REPEAT);
	few.sessions_max = 3;
	few.keys_max = 3;
	dedupe_set_limits(store_dedupe(bed->store), &few);
	assert_int_equal(commit(bed, seq_of('c', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, key_of("3")), DEDUPE_NEW);
}

/* ---- rollback ---- */

static void test_a_rollback_forgets_everything(void **state)
{
	struct bed *bed = *state;
	struct dedupe *dedupe = store_dedupe(bed->store);
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq = 0;
	memset(id, 'a', sizeof(id));
	for (uint64_t seq = 1; seq <= 3; seq++) {
		assert_int_equal(commit(bed, seq_of('a', seq, 0)), DEDUPE_NEW);
	}
	struct dedupe_stats before = dedupe_stats(dedupe);
	bed_begin(bed->store);
	/* Far ahead: within the transaction the window has moved … */
	assert_int_equal(run(bed, seq_of('a', 9000, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, seq_of('a', 9500, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, seq_of('a', 9200, 0)), DEDUPE_NEW);
	assert_int_equal(ask(bed, seq_of('a', 4, 0), NULL), DEDUPE_EXPIRED);
	assert_int_equal(run(bed, key_of("k")), DEDUPE_NEW);
	assert_true(dedupe_has_pending(dedupe));
	store_rollback(bed->store);
	/* … and now it is where it was. */
	assert_false(dedupe_has_pending(dedupe));
	assert_true(dedupe_peek(dedupe, UID, id, &max_seq));
	assert_int_equal(max_seq, 3);
	for (int round = 0; round < 2; round++) {
		for (uint64_t seq = 1; seq <= 3; seq++) {
			assert_int_equal(peek(bed, seq_of('a', seq, 0)), DEDUPE_REPEAT);
		}
		assert_int_equal(peek(bed, seq_of('a', 4, 0)), DEDUPE_NEW);
		assert_int_equal(peek(bed, seq_of('a', 9000, 0)), DEDUPE_NEW);
		assert_int_equal(peek(bed, key_of("k")), DEDUPE_NEW);
		struct dedupe_stats after = dedupe_stats(store_dedupe(bed->store));
		assert_int_equal(after.sessions, before.sessions);
		assert_int_equal(after.replies, before.replies);
		assert_int_equal(after.keys, before.keys);
		restart(bed);
	}
}

/* hello must not call a session known whose only request was never committed. */
static void test_a_rollback_takes_a_new_session_with_it(void **state)
{
	struct bed *bed = *state;
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq = 1;
	memset(id, 'n', sizeof(id));
	bed_begin(bed->store);
	assert_int_equal(run(bed, seq_of('n', 1, 0)), DEDUPE_NEW);
	store_rollback(bed->store);
	assert_int_equal(peek(bed, seq_of('n', 1, 0)), DEDUPE_NEW);
	assert_false(dedupe_peek(store_dedupe(bed->store), UID, id, &max_seq));
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).sessions, 0);
}

/* Whatever the transaction loses, SQLite has to lose the tables' side by itself. */
static void test_a_transaction_that_sqlite_threw_away(void **state)
{
	struct bed *bed = *state;
	struct shown shown = {.error = {.row = -1}};
	bed_script(bed->store,
		"CREATE TABLE t(a UNIQUE ON CONFLICT ROLLBACK); "
		"INSERT INTO t VALUES (1)");
	bed_begin(bed->store);
	assert_int_equal(run(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, key_of("k")), DEDUPE_NEW);
	struct step step = bed_step_of("INSERT INTO t VALUES (1)");
	assert_int_equal(bed_step(bed->store, ROLE_DDL, &step, &shown), STORE_SQL);
	bed_shown_clear(&shown);
	assert_false(store_in_transaction(bed->store));
	store_rollback(bed->store);
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, key_of("k")), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_REPEAT);
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).keys, 1);
}

/* Random transactions, some rolled back, some restarts: always as the model says. */
static void test_a_random_life_agrees_with_a_model(void **state)
{
	enum { SESSIONS = 3, SEQS = 400, ROUNDS = 1200, SMALL = 16 };
	struct bed *bed = *state;
	bool known[SESSIONS][SEQS + 1] = {{false}};
	uint64_t max[SESSIONS] = {0};
	uint64_t done[SESSIONS] = {0};
	unsigned seed = 4711;
	bed->options.session_window = SMALL;
	bed_reopen(bed);
	for (int round = 0; round < ROUNDS; round++) {
		bool now[SESSIONS][SEQS + 1];
		uint64_t max_now[SESSIONS];
		uint64_t done_before[SESSIONS];
		memcpy(done_before, done, sizeof(done));
		memcpy(now, known, sizeof(now));
		memcpy(max_now, max, sizeof(max_now));
		bed_begin(bed->store);
		for (unsigned i = (unsigned)rand_r(&seed) % 5 + 1; i > 0; i--) {
			unsigned s = (unsigned)rand_r(&seed) % SESSIONS;
			uint64_t low = max_now[s] > SMALL + 2 ? max_now[s] - SMALL - 2 : 0;
			uint64_t seq = low + 1 + (unsigned)rand_r(&seed) % (SMALL + 4);
			seq = seq > SEQS ? SEQS : seq;
			if ((unsigned)rand_r(&seed) % 8 == 0) {
				/* A client says `done` only of what was committed. */
				uint64_t upto = done[s];
				while (upto < SEQS && known[s][upto + 1]) {
					upto++;
				}
				done[s] = upto;
			}
			uint64_t floor = max_now[s] > SMALL ? max_now[s] - SMALL : 0;
			floor = done[s] > floor ? done[s] : floor;
			int want = now[s][seq] && seq > done[s] ? DEDUPE_REPEAT
				: seq <= floor                  ? DEDUPE_EXPIRED
								: DEDUPE_NEW;
			int got = run(bed, seq_of((char)('a' + s), seq, done[s]));
			/* Below the window it may still be there until the commit. */
			if (got != want && !(seq <= floor && got == DEDUPE_EXPIRED)) {
				fail_msg("round %d session %u seq %llu max %llu done %llu: %d, "
					 "not %d",
					round, s, (unsigned long long)seq,
					(unsigned long long)max_now[s], (unsigned long long)done[s],
					got, want);
			}
			if (got == DEDUPE_NEW) {
				now[s][seq] = true;
				max_now[s] = seq > max_now[s] ? seq : max_now[s];
			}
		}
		if ((unsigned)rand_r(&seed) % 4 == 0) {
			store_rollback(bed->store);
			memcpy(done, done_before, sizeof(done));
		} else {
			bed_commit(bed->store);
			memcpy(known, now, sizeof(now));
			memcpy(max, max_now, sizeof(max_now));
		}
		if (round % 60 == 59) {
			bed_reopen(bed);
			/* What a repeat alone said of `done` was never written: say it again. */
			for (unsigned s = 0; s < SESSIONS; s++) {
				bed_begin(bed->store);
				(void)ask(bed, seq_of((char)('a' + s), SEQS + 1, done[s]), NULL);
				bed_commit(bed->store);
			}
		}
	}
}

/* ---- keys ---- */

static void test_keys_are_bytes(void **state)
{
	static char longest[DEDUPE_KEY_BYTES_MAX + 1];
	struct bed *bed = *state;
	memset(longest, 'k', sizeof(longest) - 1);
	struct identity with_nul = key_of("a");
	with_nul.key = (struct bytes){"a\0b", 3};
	assert_int_equal(commit(bed, key_of(longest)), DEDUPE_NEW);
	assert_int_equal(commit(bed, key_of("a")), DEDUPE_NEW);
	bed_begin(bed->store);
	struct dedupe_reply reply;
	assert_int_equal(dedupe_check(store_dedupe(bed->store), &with_nul, &reply), DEDUPE_NEW);
	store_rollback(bed->store);
	longest[254] = 'x';
	assert_int_equal(peek(bed, key_of(longest)), DEDUPE_NEW);
	longest[254] = 'k';
	assert_int_equal(peek(bed, key_of(longest)), DEDUPE_REPEAT);
	assert_int_equal(peek(bed, key_of("A")), DEDUPE_NEW);
}

/* ---- files that are not as they should be ---- */

static void load_must_fail(struct bed *bed, const char *damage)
{
	char error[STORE_ERROR_BYTES] = "";
	sqlite3 *handle = NULL;
	bed_close(bed);
	assert_int_equal(sqlite3_open(bed->path, &handle), SQLITE_OK);
	assert_int_equal(sqlite3_exec(handle, damage, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(handle);
	if (store_open(&bed->options, &bed->store, error) != -EINVAL) {
		fail_msg("opened after: %s", damage);
	}
	assert_true(strlen(error) > 0);
	bed->store = NULL;
}

static void test_rows_that_make_no_sense_are_refused(void **state)
{
	static const char *const damages[] = {
		"UPDATE _lf_group SET replies = substr(replies, 1, length(replies) - 1)",
		"UPDATE _lf_group SET replies = replies || x'0000'",
		"UPDATE _lf_group SET replies = 'text'",
		"INSERT INTO _lf_session VALUES (1, x'00', 1, 0, 1, zeroblob(16), x'')",
		"INSERT INTO _lf_session VALUES (1, zeroblob(16), 1, 0, 1, zeroblob(15), x'')",
	};
	struct bed *bed = *state;
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
		load_must_fail(bed, damages[i]);
		bed_remove(bed);
		bed_make(bed);
	}
}

/* A remembered answer whose row is gone is an error, never a second execution. */
static void test_an_answer_that_cannot_be_read_is_an_error(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	bed_begin(bed->store);
	assert_int_equal(own_exec(bed->store, "DELETE FROM _lf_group"), SQLITE_OK);
	assert_int_equal(ask(bed, seq_of('a', 1, 0), NULL), -EIO);
	store_rollback(bed->store);
	assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_REPEAT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_no_identity_is_always_new),
		TEST(test_a_seq_is_answered_again),
		TEST(test_another_uid_is_another_session),
		TEST(test_other_content_is_a_mismatch),
		TEST(test_payloads_of_every_size),
		TEST(test_a_repeat_in_the_same_transaction),
		TEST(test_the_windows_edges),
		TEST(test_the_largest_seq),
		TEST(test_done_gives_answers_up),
		TEST(test_gaps_may_be_filled),
		TEST(test_full_of_sessions_and_keys),
		TEST(test_a_rollback_forgets_everything),
		TEST(test_a_rollback_takes_a_new_session_with_it),
		TEST(test_a_transaction_that_sqlite_threw_away),
		TEST(test_a_random_life_agrees_with_a_model),
		TEST(test_keys_are_bytes),
		TEST(test_rows_that_make_no_sense_are_refused),
		TEST(test_an_answer_that_cannot_be_read_is_an_error),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
