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

int catalog_ours(struct replica *replica, uint64_t confirmed, const uint8_t writer[RECORD_ID_BYTES],
	struct replica_error *ret_error)
{
	struct catalog newer;
	struct record record;
	bool known = false;
	int rc = catalog_read(replica, 0, confirmed + 1, 1, &newer, ret_error);
	if (rc != 0 || newer.count == 0) {
		return rc;
	}
	const struct replica_file file = newer.files[0];
	catalog_finish(&newer);
	rc = replica_look(
		replica, 0, file.min_txid, file.max_txid, NULL, &record, &known, ret_error);
	if (rc == 0 && (!known || memcmp(record.writer, writer, sizeof record.writer) != 0)) {
		snprintf(ret_error->text, sizeof ret_error->text,
			"%s: somebody else has shipped to it", replica_url(replica));
		return REPLICA_EXISTS;
	}
	return rc;
}
