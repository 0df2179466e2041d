/* SPDX-License-Identifier: MIT */

/*
 * Transfers between accounts, each a lease: read, decide, write, commit.
 *
 * Shows: a transaction whose statements depend on what was read in it, a savepoint, a key that makes a
 * whole lease happen once, so that it can simply be done over whatever went wrong, and a long result that
 * is read piece by piece. (One UPDATE with lf_expect_changes() in a batch would do here, and nobody would
 * have to wait for it; leases are for what a batch cannot say.)
 *
 *	example_transfer /srv/app/app.db [COUNT]
 *
 * Exits 0 if every transfer was made once and no money was lost.
 */

#include <litefunnel.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { ACCOUNTS = 10, PIECE_ROWS = 7, TRIES_MAX = 100 };

static int report(const lf_db *db, const char *what, int result, const lf_reply *reply)
{
	(void)fprintf(
		stderr, "%s: %s\n", what, result < 0 ? lf_errmsg(db) : lf_reply_message(reply));
	return 1;
}

static int create_tables(lf_db *db)
{
	lf_batch *batch = lf_batch_new();
	lf_reply *reply = NULL;
	if (batch == NULL) {
		return 1;
	}
	lf_batch_script(batch,
		"CREATE TABLE IF NOT EXISTS example_account(id INTEGER PRIMARY KEY, money INTEGER, "
		"refused INTEGER DEFAULT 0);"
		"CREATE TABLE IF NOT EXISTS example_transfer(name TEXT, amount INTEGER)");
	for (int i = 0; i < ACCOUNTS; i++) {
		lf_batch_step(batch,
			"INSERT INTO example_account(id, money) VALUES (?, 1000) ON CONFLICT DO NOTHING");
		lf_bind_int64(batch, i);
	}
	int r = lf_write(db, batch, &reply);
	int failed = r == LF_OK ? 0 : report(db, "create", r, reply);
	lf_reply_free(reply);
	lf_batch_free(batch);
	return failed;
}

/* A statement with up to two numbers and a text, as a step of the lease. */
static int run(
	lf_lease *lease, const char *sql, int64_t first, int64_t second, lf_reply **ret_reply)
{
	lf_batch *step = lf_batch_new();
	if (step == NULL) {
		return -1;
	}
	lf_batch_step(step, sql);
	lf_bind_int64(step, first);
	lf_bind_int64(step, second);
	int r = lf_lease_step(lease, step, ret_reply);
	lf_batch_free(step);
	return r;
}

static int note(lf_lease *lease, const char *name, int64_t amount)
{
	lf_batch *step = lf_batch_new();
	if (step == NULL) {
		return -1;
	}
	lf_batch_step(step, "INSERT INTO example_transfer(name, amount) VALUES (?, ?)");
	lf_bind_text(step, name, -1);
	lf_bind_int64(step, amount);
	int r = lf_lease_step(lease, step, NULL);
	lf_batch_free(step);
	return r;
}

/* What a transfer consists of; any failure means that it is to be done over. */
static int transfer_steps(
	lf_lease *lease, const char *name, int64_t from, int64_t to, int64_t amount)
{
	static const char take[] = "UPDATE example_account SET money = money - ?2 WHERE id = ?1";
	static const char give[] = "UPDATE example_account SET money = money + ?2 WHERE id = ?1";
	lf_reply *reply = NULL;
	int r = note(lease, name, amount);
	r = r == LF_OK ? lf_lease_exec(lease, "SAVEPOINT moved", NULL) : r;
	r = r == LF_OK ? run(lease, give, to, amount, NULL) : r;
	r = r == LF_OK ? run(lease, take, from, amount, NULL) : r;
	r = r == LF_OK ? run(lease, "SELECT money FROM example_account WHERE id = ?1 AND ?2", from,
				 1, &reply)
		       : r;
	if (r == LF_OK && lf_reply_int64(reply, 0, 0, 0) < 0) {
		r = lf_lease_exec(lease, "ROLLBACK TO moved", NULL);
		r = r == LF_OK ? run(lease,
					 "UPDATE example_account SET refused = refused + ?2 "
					 "WHERE id = ?1",
					 from, 1, NULL)
			       : r;
	}
	lf_reply_free(reply);
	return r;
}

/* A key names it, so that doing it over is safe, also after UNKNOWN. */
static int transfer(lf_db *db, const char *name, int64_t from, int64_t to, int64_t amount)
{
	struct lf_lease_options options = LF_LEASE_OPTIONS_INIT;
	options.label = "transfer";
	options.key = name;
	for (int tries = 0; tries < TRIES_MAX; tries++) {
		lf_lease *lease = NULL;
		lf_reply *reply = NULL;
		int r = lf_lease_begin(db, &options, &lease, NULL);
		if (r < 0) {
			return report(db, "begin", r, NULL);
		}
		r = r == LF_OK ? transfer_steps(lease, name, from, to, amount) : r;
		/* If an earlier commit was done and its answer lost, this says so and undoes the rest. */
		r = r == LF_OK ? lf_lease_commit(lease, &reply) : r;
		lf_reply_free(reply);
		lf_lease_free(lease);
		if (r == LF_OK) {
			return 0;
		}
	}
	(void)fprintf(stderr, "%s: in vain\n", name);
	return 1;
}

/* Whether all is there, read in pieces that are never all in memory. */
static int check(lf_db *db, const char *mine, int count)
{
	static const char sql[] =
		"SELECT name, money FROM (SELECT NULL AS name, money FROM example_account UNION ALL "
		"SELECT name, NULL FROM example_transfer WHERE name GLOB ?1 || '*')";
	lf_batch *step = lf_batch_new();
	lf_lease *lease = NULL;
	lf_reply *reply = NULL;
	uint64_t cursor = 0;
	int64_t money = 0;
	int made = 0;
	if (step == NULL || lf_lease_begin(db, NULL, &lease, NULL) != LF_OK) {
		lf_batch_free(step);
		return 1;
	}
	lf_batch_step(step, sql);
	lf_bind_text(step, mine, -1);
	int r = lf_lease_read(lease, step, PIECE_ROWS, &cursor, &reply);
	for (;;) {
		for (size_t i = 0; r == LF_OK && i < lf_reply_rows(reply, 0); i++) {
			made += lf_reply_type(reply, 0, i, 0) == LF_TEXT;
			money += lf_reply_int64(reply, 0, i, 1);
		}
		lf_reply_free(reply);
		reply = NULL;
		if (r != LF_OK || cursor == 0) {
			break;
		}
		r = lf_lease_fetch(lease, &cursor, PIECE_ROWS, &reply);
	}
	lf_batch_free(step);
	lf_lease_free(lease); /* nothing was written: that rolls it back */
	(void)printf("%d transfers of %d, %lld in all accounts\n", made, count, (long long)money);
	return r == LF_OK && made == count && money == ACCOUNTS * 1000 ? 0 : 1;
}

int main(int argc, char **argv)
{
	lf_db *db = NULL;
	int count = argc == 3 ? atoi(argv[2]) : 20;
	char mine[64];
	char name[96];
	if (argc < 2 || argc > 3 || count < 1) {
		(void)fprintf(stderr, "usage: %s DB [COUNT]\n", argv[0]);
		return 2;
	}
	if (lf_open(argv[1], NULL, &db) != 0) {
		(void)fprintf(stderr, "cannot open %s\n", argv[1]);
		return 1;
	}
	(void)snprintf(mine, sizeof(mine), "%lld-%ld/", (long long)time(NULL), (long)getpid());
	int failed = create_tables(db);
	for (int i = 0; failed == 0 && i < count; i++) {
		(void)snprintf(name, sizeof(name), "%s%d", mine, i);
		failed = transfer(db, name, i % ACCOUNTS, (i * 3 + 1) % ACCOUNTS, 70 + i % 400);
	}
	failed = failed != 0 ? failed : check(db, mine, count);
	lf_close(db);
	return failed;
}
