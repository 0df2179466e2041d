/* SPDX-License-Identifier: MIT */

/* Lists, held in memory. A callback of a list must not send requests itself, so they come first. */

#include "server/ship/catalog.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the callback returns when it has enough. No result has this number. */
enum { ENOUGH = 1 << 20 };

static int add(void *ctx, const struct replica_file *file)
{
	struct catalog *catalog = ctx;
	if (catalog->count == catalog->limit) {
		return ENOUGH;
	}
	if (catalog->count == catalog->room) {
		size_t room = catalog->room == 0 ? 64 : catalog->room * 2;
		struct replica_file *files = reallocarray(catalog->files, room, sizeof files[0]);
		if (files == NULL) {
			return -ENOMEM;
		}
		catalog->files = files;
		catalog->room = room;
	}
	catalog->files[catalog->count++] = *file;
	return 0;
}

int catalog_read(struct replica *replica, int level, uint64_t from, size_t limit,
	struct catalog *ret_catalog, struct replica_error *ret_error)
{
	struct catalog catalog = {.limit = limit};
	*ret_catalog = (struct catalog){0};
	int rc = replica_list(replica, level, from, add, &catalog, ret_error);
	if (rc != 0 && rc != ENOUGH) {
		catalog_finish(&catalog);
		return rc;
	}
	*ret_catalog = catalog;
	return 0;
}

void catalog_finish(struct catalog *catalog)
{
	free(catalog->files);
	*catalog = (struct catalog){0};
}

static int check_writer(struct replica *replica, const struct replica_file *file,
	const uint8_t writer[RECORD_ID_BYTES], struct replica_error *error)
{
	struct record record;
	bool known = false;
	int rc = replica_look(
		replica, 0, file->min_txid, file->max_txid, NULL, &record, &known, error);
	if (rc == 0 && (!known || memcmp(record.writer, writer, sizeof record.writer) != 0)) {
		snprintf(error->text, sizeof error->text, "%s: somebody else has shipped to it",
			replica_url(replica));
		return REPLICA_EXISTS;
	}
	return rc;
}

/* The list does not show it. Some stores list late: the file itself has the last word. */
static int check_known(
	struct replica *replica, const struct replica_file *known, struct replica_error *error)
{
	struct record record;
	bool any = false;
	int rc = replica_look(
		replica, 0, known->min_txid, known->max_txid, NULL, &record, &any, error);
	if (rc == REPLICA_MISSING) {
		snprintf(error->text, sizeof error->text,
			"%s has lost segments that were shipped to it", replica_url(replica));
		error->gone = true;
		return REPLICA_AGAIN;
	}
	return rc;
}

int catalog_ours(struct replica *replica, struct replica_file *known, uint64_t confirmed,
	const uint8_t writer[RECORD_ID_BYTES], struct replica_error *ret_error)
{
	struct catalog found;
	bool must = known != NULL && known->max_txid != 0;
	uint64_t from = must ? known->min_txid : known != NULL ? confirmed : confirmed + 1;
	int rc = catalog_read(replica, 0, from, SIZE_MAX, &found, ret_error);
	size_t newer = 0;
	while (newer < found.count && found.files[newer].max_txid <= confirmed) {
		newer++;
	}
	if (rc == 0 && newer < found.count) {
		rc = check_writer(replica, &found.files[newer], writer, ret_error);
	}
	if (rc == 0 && must &&
		(found.count == 0 || found.files[0].min_txid != known->min_txid ||
			found.files[0].max_txid != known->max_txid)) {
		rc = check_known(replica, known, ret_error);
	}
	if (rc == 0 && known != NULL && newer > 0) {
		*known = found.files[newer - 1];
	}
	catalog_finish(&found);
	return rc;
}
