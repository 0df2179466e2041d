/* SPDX-License-Identifier: MIT */

/*
 * When which level is due, and which files make a run. How a run becomes a file is compact_run.c.
 * It keeps in mind how far each level has come, so a pass that finds nothing new asks for nothing.
 */

#include "server/ship/compact.h"

#include "server/ship/catalog.h"
#include "server/ship/compact_run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	LIST_MAX = 256,     /* files looked at together */
	EXPIRE_MAX = 20000, /* of one pass; the rest waits */
	KEEP_LEVEL0_MS = 5 * 60 * 1000,
};
static const uint64_t default_every_ms[COMPACT_LEVELS] = {30000, 5 * 60000, 60 * 60000};
static const uint64_t run_bytes_max = UINT64_C(256) << 20;

/* What is kept in mind of a level, 1 to 3. */
struct level {
	int64_t due_ms;
	uint64_t top; /* the greatest number in it */
	bool top_known;
	uint64_t below; /* how far the level below was when this one was done; 0: not yet */
};

struct compact {
	struct compact_options options;
	struct level levels[COMPACT_LEVELS + 1]; /* [0]: top is what is confirmed */
	/* Of level 0. It must be there, or somebody has emptied the replica. */
	struct replica_file known;
	int64_t expire_ms; /* when level 0 is to be looked at; 0: when level 1 has grown */
};

int compact_new(const struct compact_options *options, struct compact **ret_compact)
{
	struct compact *compact = calloc(1, sizeof *compact);
	if (compact == NULL) {
		return -ENOMEM;
	}
	compact->options = *options;
	for (int i = 0; i < COMPACT_LEVELS; i++) {
		if (compact->options.every_ms[i] == 0) {
			compact->options.every_ms[i] = default_every_ms[i];
		}
	}
	if (compact->options.keep_level0_ms == 0) {
		compact->options.keep_level0_ms = KEEP_LEVEL0_MS;
	}
	*ret_compact = compact;
	return 0;
}

void compact_free(struct compact *compact)
{
	free(compact);
}

/* ---- one level ---- */

static int find_top(struct compact *compact, int level, struct replica_error *error)
{
	struct level *it = &compact->levels[level];
	struct catalog catalog;
	if (it->top_known) {
		return 0;
	}
	int rc = catalog_read(compact->options.replica, level, 0, SIZE_MAX, &catalog, error);
	if (rc == 0) {
		for (size_t i = 0; i < catalog.count; i++) {
			uint64_t max = catalog.files[i].max_txid;
			it->top = max > it->top ? max : it->top;
		}
		it->top_known = true;
		catalog_finish(&catalog);
	}
	return rc;
}

/*
 * The first run of files behind *from: they follow each other, have records of one epoch, and none
 * holds every page. *from moves behind what needs no second look. An empty run: there is none.
 */
static int find_run(struct compact *compact, int level, uint64_t confirmed, uint64_t *from,
	struct run *ret_run, struct replica_error *error)
{
	struct catalog catalog;
	struct replica *replica = compact->options.replica;
	int rc = catalog_read(replica, level - 1, *from, LIST_MAX, &catalog, error);
	bool ended = false;
	*ret_run = (struct run){0};
	for (size_t i = 0; rc == 0 && !ended && i < catalog.count; i++) {
		struct run_file file = {.file = catalog.files[i]};
		if (file.file.max_txid > confirmed) {
			break;
		}
		rc = replica_look(replica, level - 1, file.file.min_txid, file.file.max_txid,
			&file.file, &file.record, &file.known, error);
		enum run_fit fit = rc == 0 ? run_fits(ret_run, &file) : RUN_ENDS;
		if (fit == RUN_TAKES && ret_run->count > 0 &&
			ret_run->bytes + file.file.size > run_bytes_max) {
			fit = RUN_ENDS;
		}
		switch (fit) {
		case RUN_TAKES:
			ret_run->files[ret_run->count++] = file;
			ret_run->bytes += file.file.size;
			ended = ret_run->count == MERGE_INPUTS_MAX;
			break;
		case RUN_SKIPS:
			*from = file.file.min_txid + 1;
			break;
		case RUN_ENDS:
			ended = true;
			break;
		case RUN_BREAKS:
			rc = run_broken(replica, &file, error);
			break;
		}
	}
	catalog_finish(&catalog);
	return rc;
}

/* Merges all that is behind the top of a level. */
static int compact_level(
	struct compact *compact, int level, uint64_t confirmed, struct replica_error *error)
{
	struct level *it = &compact->levels[level];
	int rc = find_top(compact, level, error);
	uint64_t from = it->top + 1;
	while (rc == 0) {
		struct run *run = malloc(sizeof *run);
		uint64_t before = from;
		if (run == NULL) {
			return -ENOMEM;
		}
		rc = find_run(compact, level, confirmed, &from, run, error);
		bool found = rc == 0 && run->count > 0;
		if (found) {
			rc = run_merge(&compact->options, level, run, error);
			it->top = run->files[run->count - 1].file.max_txid;
			from = it->top + 1;
		}
		free(run);
		if (!found && from == before) {
			break;
		}
	}
	if (rc != 0) {
		it->top_known = false;
	}
	return rc;
}

/* ---- level 0 ---- */

/* The file of the catalog that holds `file`, or NULL. */
static const struct replica_file *cover_of(
	const struct catalog *catalog, const struct replica_file *file)
{
	for (size_t i = 0; i < catalog->count; i++) {
		if (catalog->files[i].min_txid <= file->min_txid &&
			catalog->files[i].max_txid >= file->max_txid) {
			return &catalog->files[i];
		}
		if (catalog->files[i].min_txid > file->min_txid) {
			break;
		}
	}
	return NULL;
}

/* Behind the last file from `first` on that the cover holds; the newest of the level is never in it. */
static size_t group_end(
	const struct catalog *level0, size_t first, const struct replica_file *cover)
{
	size_t end = first;
	while (end + 1 < level0->count && level0->files[end].max_txid <= cover->max_txid) {
		end++;
	}
	return end;
}

/*
 * Removes what level 1 covers and is old enough: all that one file of level 1 covers or nothing, and the
 * newest of it first. A way to a point leads through all before it, so what is left where a pass breaks
 * off can still be restored.
 */
static int expire(struct compact *compact, int64_t now_ms, const struct catalog *level0,
	const struct catalog *level1, struct replica_error *error)
{
	int64_t keep_ms = (int64_t)compact->options.keep_level0_ms;
	int rc = 0;
	compact->expire_ms = 0;
	for (size_t i = 0; rc == 0 && i + 1 < level0->count;) {
		const struct replica_file *cover = cover_of(level1, &level0->files[i]);
		if (cover == NULL) {
			i++;
			continue;
		}
		size_t end = group_end(level0, i, cover);
		int64_t newest_ms = level0->files[end - 1].created_ms;
		if (newest_ms > now_ms - keep_ms) {
			compact->expire_ms = newest_ms + keep_ms;
			break;
		}
		for (size_t at = end; rc == 0 && at > i; at--) {
			rc = replica_delete(
				compact->options.replica, &level0->files[at - 1], error);
		}
		i = end;
	}
	if (rc != 0) {
		compact->expire_ms = now_ms;
	}
	return rc;
}

static int expire_level0(struct compact *compact, int64_t now_ms, struct replica_error *error)
{
	struct catalog level0 = {0};
	struct catalog level1 = {0};
	struct replica *replica = compact->options.replica;
	int rc = catalog_read(replica, 0, 0, EXPIRE_MAX, &level0, error);
	rc = rc == 0 ? catalog_read(replica, 1, 0, EXPIRE_MAX, &level1, error) : rc;
	rc = rc == 0 ? expire(compact, now_ms, &level0, &level1, error) : rc;
	if (level0.count > 0) {
		compact->known = level0.files[level0.count - 1]; /* it is never removed */
	}
	catalog_finish(&level0);
	catalog_finish(&level1);
	return rc;
}

/* ---- the pass ---- */

static bool due(const struct compact *compact, int level, int64_t now_ms)
{
	return now_ms >= compact->levels[level].due_ms &&
		compact->levels[level].below != compact->levels[level - 1].top;
}

static int pass(struct compact *compact, int64_t now_ms, struct replica_error *error)
{
	uint64_t confirmed = compact->levels[0].top;
	int rc = 0;
	for (int level = 1; rc == 0 && level <= COMPACT_LEVELS; level++) {
		struct level *it = &compact->levels[level];
		int64_t every_ms = (int64_t)compact->options.every_ms[level - 1];
		if (!due(compact, level, now_ms)) {
			continue;
		}
		rc = compact_level(compact, level, confirmed, error);
		if (rc == 0) {
			it->below = compact->levels[level - 1].top;
			it->due_ms = now_ms / every_ms * every_ms + every_ms;
			if (level == 1 && compact->expire_ms == 0) {
				compact->expire_ms =
					now_ms + (int64_t)compact->options.keep_level0_ms;
			}
		}
	}
	if (rc == 0 && compact->expire_ms != 0 && now_ms >= compact->expire_ms) {
		rc = expire_level0(compact, now_ms, error);
	}
	return rc;
}

void compact_forget_known(struct compact *compact)
{
	compact->known = (struct replica_file){0};
}

void compact_forget(struct compact *compact)
{
	memset(compact->levels, 0, sizeof compact->levels);
	compact->expire_ms = 0;
	compact_forget_known(compact);
}

int compact_pass(struct compact *compact, uint64_t confirmed, int64_t now_ms,
	struct replica_error *ret_error)
{
	bool any = compact->expire_ms != 0 && now_ms >= compact->expire_ms;
	compact->levels[0].top = confirmed;
	for (int level = 1; level <= COMPACT_LEVELS; level++) {
		any = any || due(compact, level, now_ms);
	}
	if (!any || confirmed == 0) {
		return 0;
	}
	int rc = catalog_ours(compact->options.replica, &compact->known, confirmed,
		compact->options.writer, ret_error);
	rc = rc == 0 ? pass(compact, now_ms, ret_error) : rc;
	if (rc != 0 && ret_error->gone) {
		compact_forget(compact);
	}
	return rc;
}
