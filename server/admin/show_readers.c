/* SPDX-License-Identifier: MIT */

/*
 * Who has locks on the database beside the daemon: the readers, and above all the one for whose sake
 * the WAL cannot be copied; and whoever writes past us.
 */

#include "server/admin/table.h"
#include "server/base/clock.h"
#include "server/store/shm.h"

#include <stdio.h>

const char *const readers_columns[8] = {
	"pid", "command", "namespace", "lock", "slot", "frames_pinned", "behind_s", "mark"};

void show_readers(struct funnel *funnel, struct table *table)
{
	struct shm_facts facts;
	if (shm_look(funnel_facts(funnel).db, &facts) != 0) {
		return;
	}
	for (size_t i = 0; i < facts.count; i++) {
		const struct shm_lock *lock = &facts.locks[i];
		bool reads = lock->kind == SHM_READ;
		if (!table_wants(table, lock->command)) {
			continue;
		}
		table_row(table, sizeof(readers_columns) / sizeof(readers_columns[0]));
		if (lock->pid > 0) {
			table_number(table, (uint64_t)lock->pid);
		} else {
			table_text(table, NULL);
		}
		table_text(table, lock->command[0] != 0 ? lock->command : NULL);
		table_text(table, lock->other_namespace ? "another pid namespace" : "");
		table_text(table, shm_lock_kind_name(lock->kind));
		table_number(table, lock->slot);
		table_number(table, lock->pinned);
		table_number(table, reads ? funnel_wal_age(funnel, lock->mark) / 1000000 : 0);
		table_number(table, lock->mark);
	}
}

void show_who_pins(struct funnel *funnel, char *ret_text, size_t bytes)
{
	struct shm_facts facts;
	const struct shm_lock *worst = NULL;
	ret_text[0] = 0;
	if (shm_look(funnel_facts(funnel).db, &facts) != 0) {
		return;
	}
	for (size_t i = 0; i < facts.count; i++) {
		const struct shm_lock *lock = &facts.locks[i];
		if (lock->kind == SHM_READ && lock->pinned > 0 &&
			(worst == NULL || lock->pinned > worst->pinned)) {
			worst = lock;
		}
	}
	if (worst == NULL) {
		return;
	}
	char who[128];
	if (worst->pid > 0) {
		snprintf(who, sizeof(who), "pid %d (%s)%s", (int)worst->pid, worst->command,
			worst->other_namespace ? " in another pid namespace" : "");
	} else {
		snprintf(who, sizeof(who), "a process in another pid namespace");
	}
	snprintf(ret_text, bytes, "%s: %llu pages for %llu s", who,
		(unsigned long long)worst->pinned,
		(unsigned long long)(funnel_wal_age(funnel, worst->mark) / 1000000));
}
