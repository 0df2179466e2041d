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

static const struct {
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
} cases[] = {
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

static void test_every_case(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char reason[CHAIN_REASON_BYTES] = "";
		struct chain_local local = {
			.has_position = cases[i].spool_txid > 0,
			.first_txid = cases[i].spool_first,
			.commit_no = cases[i].commit,
			.has_parent = cases[i].restored,
			.parent_txid = 7,
			.continue_litestream = cases[i].continues,
		};
		struct chain_head head = {
			.txid = cases[i].head_txid,
			.known = cases[i].head_txid > 0 && cases[i].head_epoch != NOBODY,
			.ours = cases[i].head_ours,
		};
		fill(local.epoch, OURS);
		fill(local.parent, PARENT);
		fill(local.position.epoch, cases[i].spool_stale ? PARENT : OURS);
		fill(head.record.epoch, cases[i].head_epoch);
		local.position.txid = cases[i].spool_txid;
		head.record.commit_last = cases[i].head_commit;
		enum chain_action action = chain_decide(&local, &head, reason);
		if (action != cases[i].action || strstr(reason, cases[i].says) == NULL) {
			fail_msg("%s: action %d, \"%s\"", cases[i].name, (int)action, reason);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_case)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
