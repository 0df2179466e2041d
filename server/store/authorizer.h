/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * Who may do what, statement by statement: SQLite asks before it compiles each action, and again
 * when it compiles a cached statement anew inside sqlite3_step(). So the role stands in a context
 * that is set before every prepare and every step.
 */

#include "server/store/store.h"

#include <sqlite3.h>

/* What a statement does to the transaction as a whole. */
enum control {
	CONTROL_NONE,
	CONTROL_BEGIN,
	CONTROL_COMMIT,
	CONTROL_ROLLBACK,
	CONTROL_SAVEPOINT,
	CONTROL_RELEASE,
	CONTROL_REWIND, /* ROLLBACK TO: it goes on from a savepoint */
};

struct authorizer {
	enum role role;
	/* A lease runs: its client may control its own transaction and make TEMP objects. */
	bool lease;
	/* What the statement being compiled was seen to do. The caller clears these before. */
	bool saw_ddl;
	bool saw_changes; /* asks for changes() somewhere, triggers included */
	bool saw_temp;    /* changes the TEMP schema */
	bool saw_lease;   /* may run in a lease only */
	enum control control;
	uint64_t savepoint; /* which one the last three are about: touched_name() of its name */
	/* Told of each action while a statement is looked at, with the trigger or view that it stands in; or NULL. */
	void (*observe)(
		void *ctx, int action, const char *first, const char *second, const char *inner);
	void *observe_ctx;
	struct compiling *compiling; /* compiler_prepare() runs; or NULL */
	bool compiled_long;          /* it took long, lately */
	bool made_view;              /* one was, since they were looked at */
	bool lease_foreign_keys;     /* what the lease has them at */
	/* A PRAGMA that is answered without being executed: its name, or "". */
	char answered[32];
	/* The first refusal. */
	enum role needed; /* ROLE_NONE: no role is enough */
	char denied[160]; /* what was refused, or "" */
};

/* Installs the callback; `authorizer` must outlive the handle. */
int authorizer_install(struct authorizer *authorizer, sqlite3 *handle);

/* Sets the role and forgets what was seen. Returns the role that was set before. */
enum role authorizer_enter(struct authorizer *authorizer, enum role role);
