/* SPDX-License-Identifier: MIT */

/*
 * How long answers are remembered: trims, byes, times to live, and what each of them leaves behind.
 */

#include "server/store/many.h"
#include "tests/unit/remembered.h"

/* ---- trimming ---- */

static void test_trim_moves_live_answers(void **state)
{
	struct bed *bed = *state;
	uint64_t commit_no = 0;
	uint64_t first = store_commit_no(bed->store) + 1;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('d', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('d', 2, 1)), DEDUPE_NEW); /* gives its first up */
	fill(bed, GROUPS_UNTIL_TRIM - 4);
	assert_int_equal(rows_of(bed, "_lf_group"), GROUPS_UNTIL_TRIM);
	assert_int_equal(rows_of(bed, "_lf_session"), 0);
	fill(bed, 1);
	assert_int_equal(rows_of(bed, "_lf_group"), GROUPS_UNTIL_TRIM + 1 - TRIMMED);
	/* a: itself, 1, 2; d: itself, 2; f: itself. */
	assert_int_equal(rows_of(bed, "_lf_session"), 6);
	for (int round = 0; round < 3; round++) {
		bed_begin(bed->store);
		assert_int_equal(ask(bed, seq_of('a', 1, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, first);
		assert_int_equal(ask(bed, seq_of('a', 2, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, first + 1);
		assert_int_equal(ask(bed, seq_of('d', 1, 0), NULL), DEDUPE_EXPIRED);
		assert_int_equal(ask(bed, seq_of('d', 2, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, first + 3);
		store_rollback(bed->store);
		restart(bed);
	}
	struct identity other = seq_of('a', 1, 0);
	other.hash[15] ^= 1;
	assert_int_equal(peek(bed, other), DEDUPE_MISMATCH);
}

/* The next trim cuts what has meanwhile become nobody's, and keeps the rest. */
static void test_moved_answers_go_when_they_are_done(void **state)
{
	struct bed *bed = *state;
	for (uint64_t seq = 1; seq <= 4; seq++) {
		assert_int_equal(commit(bed, seq_of('a', seq, 0)), DEDUPE_NEW);
	}
	fill(bed, GROUPS_UNTIL_TRIM - 4 + 1);
	assert_int_equal(bed_number(bed->store,
				 "SELECT count(*) FROM _lf_session WHERE session = "
				 "x'61616161616161616161616161616161'"),
		5);
	restart(bed);
	assert_int_equal(commit(bed, seq_of('a', 5, 3)), DEDUPE_NEW);
	/* Until the row of seq 5 is trimmed, the session's rows stay. */
	fill(bed, GROUPS_UNTIL_TRIM);
	assert_int_equal(bed_number(bed->store,
				 "SELECT count(*) FROM _lf_session WHERE session = "
				 "x'61616161616161616161616161616161' AND seq BETWEEN 1 AND 3"),
		0);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', 3, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', 4, 0)), DEDUPE_REPEAT);
		assert_int_equal(peek(bed, seq_of('a', 5, 0)), DEDUPE_REPEAT);
		restart(bed);
	}
}

/* A session whose answers are all given up is still known, with its highest number. */
static void test_trim_keeps_max_seq_and_done(void **state)
{
	struct bed *bed = *state;
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq = 0;
	memset(id, 'a', sizeof(id));
	assert_int_equal(commit(bed, seq_of('a', 7000, 0)), DEDUPE_NEW);
	bed_begin(bed->store);
	assert_int_equal(ask(bed, seq_of('a', 7001, 7000), NULL), DEDUPE_NEW);
	bed_commit(bed->store);
	fill(bed, GROUPS_UNTIL_TRIM + TRIMMED);
	assert_int_equal(bed_number(bed->store,
				 "SELECT count(*) FROM _lf_session WHERE session = "
				 "x'61616161616161616161616161616161'"),
		1);
	for (int round = 0; round < 2; round++) {
		assert_true(dedupe_peek(store_dedupe(bed->store), UID, id, &max_seq));
		assert_int_equal(max_seq, 7000);
		assert_int_equal(peek(bed, seq_of('a', 7000, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', 6999, 0)), DEDUPE_EXPIRED);
		assert_int_equal(peek(bed, seq_of('a', 7001, 0)), DEDUPE_NEW);
		restart(bed);
	}
}

/* A trim that is rolled back has moved nothing; the next transaction trims anew. */
static void test_a_rollback_takes_back_a_trim(void **state)
{
	struct bed *bed = *state;
	for (uint64_t seq = 1; seq <= 3; seq++) {
		assert_int_equal(commit(bed, seq_of('a', seq, 0)), DEDUPE_NEW);
	}
	fill(bed, GROUPS_UNTIL_TRIM - 3);
	for (int round = 0; round < 2; round++) {
		bed_begin(bed->store);
		assert_int_equal(run(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
		assert_int_equal(
			dedupe_write(store_dedupe(bed->store), store_commit_no(bed->store) + 1), 0);
		assert_true(rows_of(bed, "_lf_session") > 0);
		store_rollback(bed->store);
		assert_int_equal(rows_of(bed, "_lf_session"), 0);
		assert_int_equal(rows_of(bed, "_lf_group"), GROUPS_UNTIL_TRIM);
		for (uint64_t seq = 1; seq <= 3; seq++) {
			assert_int_equal(peek(bed, seq_of('a', seq, 0)), DEDUPE_REPEAT);
		}
		assert_int_equal(peek(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	}
	assert_int_equal(commit(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	assert_int_equal(rows_of(bed, "_lf_group"), GROUPS_UNTIL_TRIM + 1 - TRIMMED);
	for (int round = 0; round < 2; round++) {
		for (uint64_t seq = 1; seq <= 3; seq++) {
			assert_int_equal(peek(bed, seq_of('a', seq, 0)), DEDUPE_REPEAT);
		}
		restart(bed);
	}
}

/* In the long run the tables hold a bounded number of rows. */
static void test_the_tables_stay_bounded(void **state)
{
	struct bed *bed = *state;
	for (int round = 0; round < 4; round++) {
		fill(bed, 1000);
		assert_true(rows_of(bed, "_lf_group") <= GROUPS_UNTIL_TRIM);
		restart(bed);
	}
	assert_int_equal(rows_of(bed, "_lf_session"), 1);
	assert_true(rows_of(bed, "_lf_group") >= GROUPS_UNTIL_TRIM - TRIMMED);
}

/* One answer asked for again by every commit: it survives trim after trim. */
static void test_an_answer_outlives_many_trims(void **state)
{
	struct bed *bed = *state;
	uint64_t commit_no = 0;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	uint64_t first = store_commit_no(bed->store);
	for (int round = 0; round < 12; round++) {
		fill(bed, 250);
		bed_begin(bed->store);
		assert_int_equal(ask(bed, seq_of('a', 1, 0), &commit_no), DEDUPE_REPEAT);
		assert_int_equal(commit_no, first);
		store_rollback(bed->store);
	}
}

/* ---- forgetting ---- */

/* The bye of a session, in a transaction that commits something. */
static void bye(struct bed *bed, char session)
{
	static uint64_t seq;
	struct identity identity = seq_of(session, 1, 0);
	bed_begin(bed->store);
	assert_int_equal(dedupe_forget(store_dedupe(bed->store), UID, identity.session), 0);
	assert_int_equal(dedupe_forget(store_dedupe(bed->store), UID, identity.session),
		0); /* twice does no harm */
	seq++;
	assert_int_equal(run(bed, seq_of('z', seq, seq - 1)), DEDUPE_NEW);
	bed_commit(bed->store);
}

static void test_bye_forgets_the_session(void **state)
{
	struct bed *bed = *state;
	struct dedupe *dedupe = store_dedupe(bed->store);
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq = 0;
	memset(id, 'a', sizeof(id));
	assert_int_equal(dedupe_forget(dedupe, UID, id), 0); /* of what is not known: nothing */
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	bye(bed, 'a');
	assert_false(dedupe_peek(dedupe, UID, id, &max_seq));
	assert_int_equal(dedupe_stats(dedupe).sessions, 2);
	assert_int_equal(peek(bed, seq_of('b', 1, 0)), DEDUPE_REPEAT);
	assert_int_equal(commit(bed, seq_of('b', 2, 0)), DEDUPE_NEW);
	assert_int_equal(dedupe_stats(dedupe).sessions, 2);
}

/* The group runs again after a rollback: until then a repeat must still be known as one. */
static void test_a_rollback_takes_back_a_bye(void **state)
{
	struct bed *bed = *state;
	struct identity identity = seq_of('a', 1, 0);
	assert_int_equal(commit(bed, identity), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		bed_begin(bed->store);
		assert_int_equal(ask(bed, identity, NULL), DEDUPE_REPEAT);
		assert_int_equal(run(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
		assert_int_equal(dedupe_forget(store_dedupe(bed->store), UID, identity.session), 0);
		store_rollback(bed->store);
		assert_int_equal(peek(bed, identity), DEDUPE_REPEAT);
	}
	fill(bed, 3);
	assert_int_equal(peek(bed, identity), DEDUPE_REPEAT);
	restart(bed);
	assert_int_equal(peek(bed, identity), DEDUPE_REPEAT);
}

static void test_bye_takes_moved_rows_away(void **state)
{
	static const char rows[] = "SELECT count(*) FROM _lf_session WHERE session = "
				   "x'61616161616161616161616161616161' AND seq > 0";
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	fill(bed, GROUPS_UNTIL_TRIM);
	assert_int_equal(bed_number(bed->store, rows), 1);
	bye(bed, 'a');
	assert_int_equal(bed_number(bed->store, rows), 0);
	restart(bed);
	assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(bed_number(bed->store, rows), 0);
}

/* Nor does a restart bring it back from the rows of its groups, which stay until they are old. */
static void test_a_forgotten_session_stays_forgotten(void **state)
{
	struct bed *bed = *state;
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq = 0;
	memset(id, 'a', sizeof(id));
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	bye(bed, 'a');
	for (int round = 0; round < 3; round++) {
		assert_false(dedupe_peek(store_dedupe(bed->store), UID, id, &max_seq));
		assert_int_equal(dedupe_stats(store_dedupe(bed->store)).sessions, 1);
		restart(bed);
	}
	fill(bed, GROUPS_UNTIL_TRIM + TRIMMED);
	restart(bed);
	assert_false(dedupe_peek(store_dedupe(bed->store), UID, id, &max_seq));
}

/* The same id, used anew after its bye, has new answers, also after a restart. */
static void test_a_session_begun_anew_has_new_answers(void **state)
{
	struct bed *bed = *state;
	struct identity other = seq_of('a', 1, 0);
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	bye(bed, 'a');
	other.hash[0] ^= 1;
	assert_int_equal(commit(bed, other), DEDUPE_NEW);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, other), DEDUPE_REPEAT);
		assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_MISMATCH);
		restart(bed);
	}
}

/*
 * A session that is begun anew after bye, in the same transaction as the one that forgets it: what
 * is remembered then must still be there afterwards.
 */
static void test_what_comes_after_bye_is_remembered(void **state)
{
	struct bed *bed = *state;
	uint8_t id[DEDUPE_SESSION_BYTES];
	memset(id, 'a', sizeof(id));
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	bed_begin(bed->store);
	assert_int_equal(dedupe_forget(store_dedupe(bed->store), UID, id), 0);
	assert_int_equal(run(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	bed_commit(bed->store);
	assert_int_equal(peek(bed, seq_of('a', 2, 0)), DEDUPE_REPEAT);
}

/* ---- ages ---- */

static void test_sessions_expire_by_their_ttl(void **state)
{
	struct bed *bed = *state;
	struct dedupe *dedupe = store_dedupe(bed->store);
	uint8_t id[DEDUPE_SESSION_BYTES];
	uint64_t max_seq = 0;
	memset(id, 'u', sizeof(id));
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('u', 1, 0)), DEDUPE_NEW);
	bed_now_us += limits.session_ttl_us - 1;
	assert_true(dedupe_peek(dedupe, UID, id, &max_seq));          /* hello is a use */
	assert_int_equal(commit(bed, seq_of('x', 1, 0)), DEDUPE_NEW); /* sweeps: none is due */
	assert_int_equal(dedupe_stats(dedupe).sessions, 3);
	bed_now_us += MINUTE - 2; /* the next sweep is a moment away */
	assert_int_equal(commit(bed, seq_of('x', 2, 0)), DEDUPE_NEW);
	assert_int_equal(dedupe_stats(dedupe).sessions, 3);
	bed_now_us += 2;
	assert_int_equal(commit(bed, seq_of('x', 3, 0)), DEDUPE_NEW);
	assert_int_equal(dedupe_stats(dedupe).sessions, 2);
	assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, seq_of('u', 1, 0)), DEDUPE_REPEAT);
}

/* A restart begins the time to live anew: the daemon's own running time is what counts. */
static void test_a_restart_renews_the_ttl(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, key_of("k")), DEDUPE_NEW);
	bed_close(bed);
	bed_now_us += 100 * 24 * HOUR;
	bed_open(bed);
	dedupe_set_limits(store_dedupe(bed->store), &limits);
	bed_now_us += limits.session_ttl_us - 1;
	assert_int_equal(commit(bed, seq_of('x', 1, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_REPEAT);
	assert_int_equal(peek(bed, key_of("k")), DEDUPE_REPEAT);
}

static void save(struct bed *bed, struct identity identity, uint64_t rows, bool over)
{
	struct many_progress progress = {.rows = rows};
	struct store_error error = {.row = -1};
	bed_begin(bed->store);
	assert_int_equal(store_many_save(bed->store, &identity, &progress, over, &error), 0);
	bed_commit(bed->store);
}

static uint64_t saved(struct bed *bed, struct identity identity)
{
	struct many_progress progress;
	struct store_error error = {.row = -1};
	bed_begin(bed->store);
	assert_int_equal(store_many_read(bed->store, &identity, &progress, &error), 0);
	store_rollback(bed->store);
	return progress.rows;
}

/* How far a request is that is applied in slices: by the time that the daemon has run, not by what clocks say. */
static void test_progress_is_not_forgotten_because_the_clock_was_set(void **state)
{
	struct bed *bed = *state;
	save(bed, seq_of('a', 1, 0), 7, false);
	for (int round = 0; round < 2; round++) {
		bed_wall_ahead_us += 1000 * 24 * HOUR;
		save(bed, seq_of('b', 1, 0), 1, true);
		assert_int_equal(saved(bed, seq_of('a', 1, 0)), 7);
		restart(bed);
	}
	bed_now_us += 91 * 24 * HOUR;
	save(bed, seq_of('c', 1, 0), 3, false);
	save(bed, seq_of('b', 1, 0), 1, true);
	assert_int_equal(saved(bed, seq_of('a', 1, 0)), 0);
	assert_int_equal(saved(bed, seq_of('c', 1, 0)), 3);
}

/* A session with answers in the running transaction does not expire under it. */
static void test_ttl_spares_what_is_pending(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	bed_begin(bed->store);
	assert_int_equal(run(bed, seq_of('a', 2, 0)), DEDUPE_NEW);
	assert_int_equal(run(bed, seq_of('n', 1, 0)), DEDUPE_NEW);
	bed_now_us += limits.session_ttl_us + 1;
	bed_commit(bed->store);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_REPEAT);
		assert_int_equal(peek(bed, seq_of('a', 2, 0)), DEDUPE_REPEAT);
		assert_int_equal(peek(bed, seq_of('n', 1, 0)), DEDUPE_REPEAT);
		restart(bed);
	}
}

/* Expiry, trim and rollback in one transaction: the list of moves names no session that is gone. */
static void test_ttl_and_trim_in_one_rolled_back_transaction(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	fill(bed, GROUPS_UNTIL_TRIM - 2);
	bed_now_us += limits.session_ttl_us / 2;
	assert_int_equal(peek(bed, seq_of('b', 1, 0)), DEDUPE_REPEAT);
	bed_now_us += limits.session_ttl_us / 2 + 1;
	for (int round = 0; round < 2; round++) {
		bed_begin(bed->store);
		assert_int_equal(run(bed, seq_of('c', 1, 0)), DEDUPE_NEW);
		assert_int_equal(
			dedupe_write(store_dedupe(bed->store), store_commit_no(bed->store) + 1), 0);
		store_rollback(bed->store);
	}
	assert_int_equal(peek(bed, seq_of('b', 1, 0)), DEDUPE_REPEAT);
	assert_int_equal(commit(bed, seq_of('c', 1, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	restart(bed);
	assert_int_equal(peek(bed, seq_of('b', 1, 0)), DEDUPE_REPEAT);
	assert_int_equal(peek(bed, seq_of('c', 1, 0)), DEDUPE_REPEAT);
}

/*
 * A session that expired in a transaction that was rolled back, and is used again: its moved rows
 * are doomed, but not what it does now.
 */
static void test_an_expired_session_that_comes_back(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	bed_now_us += limits.session_ttl_us + MINUTE + 1;
	bed_begin(bed->store);
	assert_int_equal(run(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	assert_int_equal(
		dedupe_write(store_dedupe(bed->store), store_commit_no(bed->store) + 1), 0);
	store_rollback(bed->store);
	assert_int_equal(commit(bed, seq_of('a', 5, 0)), DEDUPE_NEW);
	fill(bed, GROUPS_UNTIL_TRIM + TRIMMED);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(peek(bed, seq_of('a', 5, 0)), DEDUPE_REPEAT);
		restart(bed);
	}
}

static void test_keys_expire_by_their_ttl(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, key_of("old")), DEDUPE_NEW);
	bed_now_us += 12 * HOUR;
	assert_int_equal(commit(bed, key_of("new")), DEDUPE_NEW);
	bed_now_us += 12 * HOUR - 1;
	assert_int_equal(commit(bed, seq_of('x', 1, 0)), DEDUPE_NEW); /* a sweep: not yet */
	assert_int_equal(peek(bed, key_of("old")), DEDUPE_REPEAT);
	bed_now_us += MINUTE + 2 * SECOND;
	assert_int_equal(commit(bed, seq_of('x', 2, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, key_of("old")), DEDUPE_NEW);
	assert_int_equal(peek(bed, key_of("new")), DEDUPE_REPEAT);
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).keys, 1);
	assert_int_equal(rows_of(bed, "_lf_key"), 1);
}

static void test_keys_from_before_a_restart_live_on(void **state)
{
	struct bed *bed = *state;
	assert_int_equal(commit(bed, key_of("old")), DEDUPE_NEW);
	bed_now_us += 23 * HOUR;
	restart(bed);
	bed_now_us += 23 * HOUR;
	assert_int_equal(commit(bed, key_of("new")), DEDUPE_NEW);
	assert_int_equal(peek(bed, key_of("old")), DEDUPE_REPEAT);
	bed_now_us += HOUR + MINUTE;
	assert_int_equal(commit(bed, seq_of('x', 1, 0)), DEDUPE_NEW);
	assert_int_equal(peek(bed, key_of("old")), DEDUPE_NEW);
	assert_int_equal(peek(bed, key_of("new")), DEDUPE_REPEAT);
	restart(bed);
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).keys, 1);
}

/* A sweep takes a bounded number, and what is rolled back is swept again. */
static void test_sweeps_are_bounded_and_may_be_rolled_back(void **state)
{
	enum { KEYS = 1500, SWEPT = 1000 };
	struct bed *bed = *state;
	struct dedupe_limits many = limits;
	many.keys_max = 10000;
	dedupe_set_limits(store_dedupe(bed->store), &many);
	bed_begin(bed->store);
	for (int i = 0; i < KEYS; i++) {
		char name[32];
		(void)snprintf(name, sizeof(name), "key-%d", i);
		assert_int_equal(run(bed, key_of(name)), DEDUPE_NEW);
	}
	bed_commit(bed->store);
	bed_now_us += 25 * HOUR;
	bed_begin(bed->store);
	assert_int_equal(run(bed, key_of("x")), DEDUPE_NEW);
	assert_int_equal(
		dedupe_write(store_dedupe(bed->store), store_commit_no(bed->store) + 1), 0);
	assert_int_equal(rows_of(bed, "_lf_key"), KEYS - SWEPT + 1);
	store_rollback(bed->store);
	assert_int_equal(rows_of(bed, "_lf_key"), KEYS);
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).keys, KEYS);
	for (int left = KEYS - SWEPT; left >= 0; left -= SWEPT) {
		bed_now_us += MINUTE;
		assert_int_equal(commit(bed, seq_of('x', (uint64_t)left + 1, 0)), DEDUPE_NEW);
		assert_int_equal(rows_of(bed, "_lf_key"), left);
		assert_int_equal(dedupe_stats(store_dedupe(bed->store)).keys, left);
	}
	bed_now_us += MINUTE;
	assert_int_equal(commit(bed, seq_of('y', 1, 0)), DEDUPE_NEW);
	assert_int_equal(rows_of(bed, "_lf_key"), 0);
	assert_int_equal(dedupe_stats(store_dedupe(bed->store)).keys, 0);
}

/* Nobody commits any more, because everybody is refused: room is made all the same. */
static void test_full_tables_make_room_by_themselves(void **state)
{
	struct bed *bed = *state;
	struct dedupe_limits few = limits;
	few.sessions_max = 1;
	few.keys_max = 1;
	dedupe_set_limits(store_dedupe(bed->store), &few);
	assert_int_equal(commit(bed, seq_of('a', 1, 0)), DEDUPE_NEW);
	assert_int_equal(commit(bed, key_of("a")), DEDUPE_NEW);
	assert_int_equal(commit(bed, seq_of('b', 1, 0)), DEDUPE_FULL);
	assert_int_equal(commit(bed, key_of("b")), DEDUPE_FULL);
	bed_now_us += 25 * HOUR;
	/* The one who finds it full may be refused once more, but not the next. */
	if (commit(bed, seq_of('b', 1, 0)) != DEDUPE_NEW) {
		assert_int_equal(commit(bed, seq_of('b', 1, 0)), DEDUPE_NEW);
	}
	bed_now_us += MINUTE;
	if (commit(bed, key_of("b")) != DEDUPE_NEW) {
		assert_int_equal(commit(bed, key_of("b")), DEDUPE_NEW);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_trim_moves_live_answers),
		TEST(test_moved_answers_go_when_they_are_done),
		TEST(test_trim_keeps_max_seq_and_done),
		TEST(test_a_rollback_takes_back_a_trim),
		TEST(test_the_tables_stay_bounded),
		TEST(test_an_answer_outlives_many_trims),
		TEST(test_bye_forgets_the_session),
		TEST(test_a_rollback_takes_back_a_bye),
		TEST(test_bye_takes_moved_rows_away),
		TEST(test_a_forgotten_session_stays_forgotten),
		TEST(test_a_session_begun_anew_has_new_answers),
		TEST(test_what_comes_after_bye_is_remembered),
		TEST(test_sessions_expire_by_their_ttl),
		TEST(test_a_restart_renews_the_ttl),
		TEST(test_progress_is_not_forgotten_because_the_clock_was_set),
		TEST(test_ttl_spares_what_is_pending),
		TEST(test_ttl_and_trim_in_one_rolled_back_transaction),
		TEST(test_an_expired_session_that_comes_back),
		TEST(test_keys_expire_by_their_ttl),
		TEST(test_keys_from_before_a_restart_live_on),
		TEST(test_sweeps_are_bounded_and_may_be_rolled_back),
		TEST(test_full_tables_make_room_by_themselves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
