/* SPDX-License-Identifier: MIT */

/*
 * Binding. Names are resolved once a step, through a sorted table, because SQLite's own look-up walks
 * all parameters for each name: a batch of many rows with many names would hold the writer for
 * minutes. Values are bound where they lie; they live as
 * long as the step. A cursor's are copied.
 */

#include "server/store/bind.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void binder_finish(struct binder *binder)
{
	free(binder->names);
	free(binder->places);
	free(binder->stamps);
	*binder = (struct binder){0};
}

static int bind_value(
	sqlite3_stmt *stmt, int place, const struct value *value, sqlite3_destructor_type keep)
{
	switch (value->type) {
	case VALUE_INTEGER:
		return sqlite3_bind_int64(stmt, place, value->integer);
	case VALUE_FLOAT:
		return sqlite3_bind_double(stmt, place, value->real);
	case VALUE_TEXT:
		return sqlite3_bind_text64(stmt, place,
			value->bytes.len > 0 ? value->bytes.data : "", value->bytes.len, keep,
			SQLITE_UTF8);
	case VALUE_BLOB:
		return value->bytes.len > 0 ? sqlite3_bind_blob64(stmt, place, value->bytes.data,
						      value->bytes.len, keep)
					    : sqlite3_bind_zeroblob(stmt, place, 0);
	default:
		return sqlite3_bind_null(stmt, place);
	}
}

/* Room for `count` elements in an array that keeps what it has; new ones are zero. */
static int ensure(void **array, size_t *cap, size_t count, size_t size)
{
	if (count <= *cap) {
		return 0;
	}
	uint8_t *bigger = reallocarray(*array, count, size);
	if (bigger == NULL) {
		return -ENOMEM;
	}
	memset(bigger + *cap * size, 0, (count - *cap) * size);
	*array = bigger;
	*cap = count;
	return 0;
}

static int compare(const void *left, const void *right)
{
	const struct name_place *a = left;
	const struct name_place *b = right;
	size_t len = a->len < b->len ? a->len : b->len;
	int order = memcmp(a->name, b->name, len);
	return order != 0 ? order : (a->len > b->len) - (a->len < b->len);
}

/* The statement's names, sorted. */
static int read_names(struct binder *binder, const struct stmt *stmt)
{
	if (ensure((void **)&binder->names, &binder->names_cap, stmt->params,
		    sizeof(*binder->names)) < 0 ||
		ensure((void **)&binder->stamps, &binder->stamps_cap, (size_t)stmt->params + 1,
			sizeof(*binder->stamps)) < 0) {
		return -ENOMEM;
	}
	binder->names_count = 0;
	for (int place = 1; place <= (int)stmt->params; place++) {
		const char *name = sqlite3_bind_parameter_name(stmt->handle, place);
		if (name != NULL && strchr(":@$", name[0]) != NULL) {
			binder->names[binder->names_count++] =
				(struct name_place){name + 1, strlen(name + 1), place};
		}
	}
	qsort(binder->names, binder->names_count, sizeof(*binder->names), compare);
	return 0;
}

/* The place of a name, or 0. */
static int place_of(const struct binder *binder, struct bytes name)
{
	struct name_place key = {.name = name.data, .len = name.len};
	const struct name_place *found =
		bsearch(&key, binder->names, binder->names_count, sizeof(*binder->names), compare);
	return found != NULL ? found->place : 0;
}

static bool same_names(const struct bytes *left, const struct bytes *right, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (left[i].len != right[i].len ||
			memcmp(left[i].data, right[i].data, left[i].len) != 0) {
			return false;
		}
	}
	return true;
}

/* Finds the places of one run's names; each must be there, and none twice. */
static int resolve(
	struct binder *binder, const struct bytes *names, uint32_t count, struct store_error *error)
{
	if (ensure((void **)&binder->places, &binder->places_cap, count, sizeof(*binder->places)) <
		0) {
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	binder->stamp++;
	for (uint32_t i = 0; i < count; i++) {
		int place = place_of(binder, names[i]);
		if (place == 0 || binder->stamps[place] == binder->stamp) {
			return store_error_set(error, STORE_BAD_REQUEST, 0,
				"the statement has no %sparameter named \"%.*s\"",
				place == 0 ? "" : "second ",
				(int)(names[i].len < 200 ? names[i].len : 200),
				(const char *)names[i].data);
		}
		binder->stamps[place] = binder->stamp;
		binder->places[i] = place;
	}
	return 0;
}

static int find_places(struct binder *binder, const struct stmt *stmt, const struct step *step,
	uint32_t run, struct store_error *error)
{
	const struct bytes *names = step->names + (size_t)run * step->values_per_run;
	if (run == 0 && read_names(binder, stmt) < 0) {
		return store_error_set(error, STORE_RESOURCE, SQLITE_NOMEM, "out of memory");
	}
	if (run > 0 && same_names(names, names - step->values_per_run, step->values_per_run)) {
		return 0; /* mostly: the places of the run before */
	}
	return resolve(binder, names, step->values_per_run, error);
}

int bind_run(struct binder *binder, sqlite3 *handle, const struct authorizer *authorizer,
	const struct stmt *stmt, const struct step *step, uint32_t run, struct store_error *error)
{
	size_t first = (size_t)run * step->values_per_run;
	int rc = step->names != NULL ? find_places(binder, stmt, step, run, error) : 0;
	for (uint32_t i = 0; rc == 0 && i < step->values_per_run; i++) {
		int place = step->names != NULL ? binder->places[i] : (int)i + 1;
		int bound = bind_value(stmt->handle, place, &step->values[first + i],
			binder->copies ? SQLITE_TRANSIENT : SQLITE_STATIC);
		if (bound != SQLITE_OK) {
			rc = stmt_failed(handle, authorizer, bound, error);
		}
	}
	return rc;
}
