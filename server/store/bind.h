/* SPDX-License-Identifier: MIT */
#pragma once

/* Gives the values of a step to the parameters of its statement, by place or by name. */

#include "server/store/stmt.h"

struct name_place {
	const char *name; /* without its prefix; SQLite's memory */
	size_t len;
	int place;
};

/* Scratch memory, kept from step to step. */
struct binder {
	struct name_place *names; /* of the statement at hand, sorted */
	size_t names_count;
	size_t names_cap;
	int *places; /* of the names of the first run */
	size_t places_cap;
	uint64_t *stamps; /* which run set a parameter last */
	size_t stamps_cap;
	uint64_t stamp;
	bool copies; /* values are bound as copies: the statement outlives the step */
};

void binder_finish(struct binder *binder);

/* Binds run number `run` of the step; begin with run 0. 0 or a condition. */
int bind_run(struct binder *binder, sqlite3 *handle, const struct authorizer *authorizer,
	const struct stmt *stmt, const struct step *step, uint32_t run, struct store_error *error);
