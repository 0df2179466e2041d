/* SPDX-License-Identifier: MIT */

/* What is done with a replica: every case that a start can meet. */

#include "tests/unit/cmocka_all.h"

#include "server/ship/chain.h"

#include <string.h>

enum who { NOBODY, OURS, PARENT, OTHER };

static void fill(uint8_t *epoch, enum who who)
{
	memset(epoch, (int)who, RECORD_ID_BYTES);
}

struct chain_case {
	const char *name;
	uint64_t spool_txid;  /* 0: no position */
	uint64_t spool_first; /* first segment in the spool */
	bool spool_stale;     /* the position is of an earlier epoch */
	bool restored;
	bool continues;
	uint64_t commit; /* of the database */
	uint64_t head_txid;
	enum who head_epoch; /* NOBODY: written by Litestream */
	uint64_t head_commit;
	bool head_ours; /* its writer is one of this spool's */
	enum chain_action action;
	const char *says; /* part of the reason */
};

static const struct chain_case cases[] = {
	{"first start", 0, 0, false, false, false, 1, 0, OURS, 0, false, CHAIN_BEGIN, "no chain"},
	{"restart", 7, 5, false, false, false, 70, 7, OURS, 70, true, CHAIN_CONTINUE, ""},
	{"behind, in the spool", 7, 5, false, false, false, 70, 4, OURS, 40, true, CHAIN_CONTINUE,
		"wait in the spool"},
	{"behind, not in the spool", 7, 5, false, false, false, 70, 3, OURS, 30, true, CHAIN_IMAGE,
		"no longer"},
	{"behind, spool empty", 7, 0, false, false, false, 70, 3, OURS, 30, true, CHAIN_IMAGE,
		"no longer"},
	{"emptied", 7, 5, false, false, false, 70, 0, OURS, 0, false, CHAIN_IMAGE, "no longer"},
	{"emptied, all in the spool", 7, 1, false, false, false, 70, 0, OURS, 0, false,
		CHAIN_CONTINUE, "wait in the spool"},
	{"spool lost", 0, 0, false, false, false, 70, 7, OURS, 65, false, CHAIN_BEGIN,
		"spool does not know"},
	{"spool lost, replica ahead", 0, 0, false, false, false, 70, 7, OURS, 71, false,
		CHAIN_REFUSE, "ahead of the database"},
	{"a copy has shipped", 7, 5, false, false, false, 90, 8, OURS, 71, false, CHAIN_REFUSE,
		"another daemon"},
	{"a copy has shipped the same number", 7, 5, false, false, false, 90, 7, OURS, 70, false,
		CHAIN_REFUSE, "another daemon"},
	{"a copy has shipped a number before", 7, 5, false, false, false, 90, 6, OURS, 60, false,
		CHAIN_REFUSE, "another daemon"},
	{"replica ahead", 7, 5, false, false, false, 70, 9, OURS, 90, false, CHAIN_REFUSE,
		"ahead of the database"},
	{"another database", 0, 0, false, false, false, 5, 7, OTHER, 70, false, CHAIN_REFUSE,
		"another database"},
	{"another database, with a spool", 9, 9, false, false, false, 50, 7, OTHER, 70, false,
		CHAIN_REFUSE, "another database"},
	{"restored from it", 0, 0, false, true, false, 50, 7, PARENT, 70, false, CHAIN_BEGIN,
		"restored from it"},
	{"restored from it, somebody went on", 0, 0, false, true, false, 90, 8, PARENT, 71, false,
		CHAIN_REFUSE, "gone on since"},
	{"restored from another", 0, 0, false, true, false, 50, 7, OTHER, 70, false, CHAIN_REFUSE,
		"another database"},
	{"new epoch, its own replica", 7, 5, true, false, false, 70, 7, PARENT, 70, true,
		CHAIN_BEGIN, "new epoch"},
	{"new epoch, somebody went on", 7, 5, true, false, false, 70, 8, PARENT, 75, false,
		CHAIN_REFUSE, "another database"},
	{"Litestream's", 0, 0, false, false, false, 5, 7, NOBODY, 0, false, CHAIN_REFUSE,
		"did not write"},
	{"Litestream's, taken over", 0, 0, false, false, true, 5, 7, NOBODY, 0, false, CHAIN_BEGIN,
		"continues"},
};

/* A chain began at LATE, where the spool had none, and the replica answers after that. */
enum { LATE = 70 };
static const struct chain_case late_cases[] = {
	{"late, behind a lost spool", 3, 1, false, false, false, 90, 7, OURS, 65, false,
		CHAIN_BEGIN, "spool does not know"},
	{"late, with a number of the chain's", 9, 1, false, false, false, 90, 7, OURS, 70, false,
		CHAIN_BEGIN, "spool does not know"},
	{"late, of this spool", 9, 1, false, false, false, 90, 7, OURS, 65, true, CHAIN_BEGIN,
		"spool does not know"},
	{"late, and a copy has shipped since", 9, 1, false, false, false, 90, 7, OURS, 71, false,
		CHAIN_REFUSE, "another daemon"},
	{"late, and ahead", 9, 1, false, false, false, 90, 12, OURS, 91, false, CHAIN_REFUSE,
		"ahead of the database"},
	{"late, and empty", 3, 1, false, false, false, 90, 0, OURS, 0, false, CHAIN_CONTINUE,
		"wait in the spool"},
	{"late, of another database", 3, 1, false, false, false, 90, 7, OTHER, 65, false,
		CHAIN_REFUSE, "another database"},
};

static void try(const struct chain_case *tried, size_t count, uint64_t begun)
{
	for (size_t i = 0; i < count; i++) {
		char reason[CHAIN_REASON_BYTES] = "";
		struct chain_local local = {
			.has_position = tried[i].spool_txid > 0,
			.first_txid = tried[i].spool_first,
			.commit_no = tried[i].commit,
			.begun_commit = begun,
			.has_parent = tried[i].restored,
			.parent_txid = 7,
			.continue_litestream = tried[i].continues,
		};
		struct chain_head head = {
			.txid = tried[i].head_txid,
			.known = tried[i].head_txid > 0 && tried[i].head_epoch != NOBODY,
			.ours = tried[i].head_ours,
		};
		fill(local.epoch, OURS);
		fill(local.parent, PARENT);
		fill(local.position.epoch, tried[i].spool_stale ? PARENT : OURS);
		fill(head.record.epoch, tried[i].head_epoch);
		local.position.txid = tried[i].spool_txid;
		head.record.commit_last = tried[i].head_commit;
		enum chain_action action = chain_decide(&local, &head, reason);
		if (action != tried[i].action || strstr(reason, tried[i].says) == NULL) {
			fail_msg("%s: action %d, \"%s\"", tried[i].name, (int)action, reason);
		}
	}
}

static void test_every_case(void **state)
{
	(void)state;
	try(cases, sizeof(cases) / sizeof(cases[0]), 0);
}

static void test_every_case_of_a_replica_that_comes_late(void **state)
{
	(void)state;
	try(late_cases, sizeof(late_cases) / sizeof(late_cases[0]), LATE);
}

/* Between the replica's epoch and this one there was another, of which the spool's chain is now. */
static void test_two_epochs_ago(void **state)
{
	(void)state;
	for (uint64_t past = 6; past <= 8; past++) {
		char reason[CHAIN_REASON_BYTES] = "";
		struct chain_local local = {.has_position = true, .first_txid = 9, .commit_no = 90};
		struct chain_head head = {.txid = 7, .known = true, .past_txid = past};
		fill(local.epoch, OURS);
		fill(local.position.epoch, PARENT);
		fill(head.record.epoch, OTHER);
		local.position.txid = 9;
		head.record.commit_last = 70;
		assert_int_equal(chain_decide(&local, &head, reason),
			past >= 7 ? CHAIN_BEGIN : CHAIN_REFUSE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_case),
		cmocka_unit_test(test_every_case_of_a_replica_that_comes_late),
		cmocka_unit_test(test_two_epochs_ago),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
