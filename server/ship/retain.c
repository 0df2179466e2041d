/* SPDX-License-Identifier: MIT */

/* Which files of a replica nobody needs any more; see retain.h for the rule. */

#include "server/ship/retain.h"

#include "server/ship/catalog.h"
#include "server/ship/replica_inside.h"

#include <inttypes.h>
#include <stdint.h>

/* What a pass carries along. */
struct pass {
	const struct retain_options *options;
	struct retain_result *result;
	struct replica_error *error;
};

static int drop(const struct pass *pass, const struct replica_file *file)
{
	int rc = replica_delete(pass->options->replica, file, pass->error);
	if (rc == 0) {
		pass->result->removed++;
		pass->result->removed_bytes += file->size;
	}
	return rc;
}

/* The snapshot from which on all are kept; there is at least one. */
static size_t first_kept(const struct catalog *snapshots, int64_t old_ms)
{
	size_t kept = 0;
	for (size_t i = 0; i < snapshots->count; i++) {
		if (snapshots->files[i].created_ms <= old_ms) {
			kept = i;
		}
	}
	return kept;
}

/* The snapshot must be there and be what its record says, as far as a look can tell. */
static int check_snapshot(const struct pass *pass, const struct replica_file *snapshot)
{
	struct replica_file there;
	struct record record;
	bool known = false;
	struct replica *replica = pass->options->replica;
	int rc = replica_look(replica, snapshot->level, snapshot->min_txid, snapshot->max_txid,
		&there, &record, &known, pass->error);
	if (rc == 0 &&
		(there.size != snapshot->size || snapshot->min_txid != 1 ||
			(known && !record.has_digest))) {
		return replica_fail(replica, pass->error, REPLICA_CORRUPT,
			"the snapshot %016" PRIx64 " is no restore point: nothing is removed",
			snapshot->max_txid);
	}
	return rc;
}

/* Files of a level that end below `floor`; the last of a level stays. */
static int drop_below(const struct pass *pass, int level, uint64_t floor)
{
	struct catalog catalog;
	int rc = catalog_read(pass->options->replica, level, 0, SIZE_MAX, &catalog, pass->error);
	for (size_t i = 0; rc == 0 && i + 1 < catalog.count; i++) {
		if (catalog.files[i].max_txid < floor) {
			rc = drop(pass, &catalog.files[i]);
		}
	}
	catalog_finish(&catalog);
	return rc;
}

static int retain(const struct pass *pass, const struct catalog *snapshots, int64_t old_ms)
{
	size_t kept = snapshots->count > 0 ? first_kept(snapshots, old_ms) : 0;
	if (kept == 0) {
		return 0;
	}
	uint64_t floor = snapshots->files[kept - 1].max_txid;
	int rc = check_snapshot(pass, &snapshots->files[kept]);
	/* From below: whatever breaks off a pass, what is left has its snapshot. */
	for (int level = 0; rc == 0 && level < REPLICA_SNAPSHOT_LEVEL; level++) {
		rc = drop_below(pass, level, floor);
	}
	for (size_t i = 0; rc == 0 && i < kept; i++) {
		rc = drop(pass, &snapshots->files[i]);
	}
	return rc;
}

int retain_pass(const struct retain_options *options, uint64_t confirmed, int64_t now_ms,
	struct retain_result *ret_result, struct replica_error *ret_error)
{
	struct catalog snapshots;
	const struct pass pass = {options, ret_result, ret_error};
	*ret_result = (struct retain_result){0};
	int rc = catalog_ours(options->replica, NULL, confirmed, options->writer, ret_error);
	rc = rc == 0 ? catalog_read(options->replica, REPLICA_SNAPSHOT_LEVEL, 0, SIZE_MAX,
			       &snapshots, ret_error)
		     : rc;
	if (rc != 0) {
		return rc;
	}
	rc = retain(&pass, &snapshots, now_ms - (int64_t)options->retention_ms);
	catalog_finish(&snapshots);
	return rc;
}
