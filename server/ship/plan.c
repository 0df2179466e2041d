/* SPDX-License-Identifier: MIT */

/*
 * Which files of a replica make a restore: a search from a snapshot towards a point, in
 * Litestream's order of preference, that comes back from dead ends. It knows names and records, and
 * nothing of what is in the files; who finds one damaged marks it `bad` and searches again.
 */

#include "server/ship/plan_inside.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	FILE_BYTES_MIN = 116, /* a header and a trailer */
	LEARN_MAX = 5000,     /* looks at a broken replica */
	NOTHING = -1,
};

int plan_new(plan_look look, void *ctx, struct plan **ret_plan)
{
	struct plan *plan = calloc(1, sizeof *plan);
	if (plan == NULL) {
		return -ENOMEM;
	}
	plan->look = look;
	plan->ctx = ctx;
	*ret_plan = plan;
	return 0;
}

void plan_free(struct plan *plan)
{
	if (plan != NULL) {
		free(plan->files);
		free(plan->furthest);
		free(plan->dead);
		free(plan->points);
		free(plan->way.files);
		free(plan->best.files);
		free(plan);
	}
}

int plan_add(struct plan *plan, const struct replica_file *file)
{
	assert(!plan->sorted && file->level >= 0 && file->level <= REPLICA_LEVEL_MAX);
	if (plan->count == plan->room) {
		size_t room = plan->room == 0 ? 256 : plan->room * 2;
		struct plan_file *files = realloc(plan->files, room * sizeof *files);
		if (files == NULL) {
			return -ENOMEM;
		}
		plan->files = files;
		plan->room = room;
	}
	if (plan->count >= PLAN_FILES_MAX) {
		return -E2BIG;
	}
	plan->files[plan->count++] = (struct plan_file){
		.file = *file,
		/* A snapshot that does not begin at the beginning is none. */
		.bad = file->size < FILE_BYTES_MIN ||
			(file->level == REPLICA_SNAPSHOT_LEVEL && file->min_txid != 1),
	};
	return 0;
}

static int add_listed(void *ctx, const struct replica_file *file)
{
	return plan_add(ctx, file);
}

int plan_read(struct plan *plan, struct replica *replica, struct replica_error *ret_error)
{
	int rc = 0;
	/* Upwards: what compaction moves up in the meantime is seen twice rather than not at all. */
	for (int level = 0; rc == 0 && level <= REPLICA_LEVEL_MAX; level++) {
		rc = replica_list(replica, level, 0, add_listed, plan, ret_error);
	}
	return rc;
}

size_t plan_files(const struct plan *plan)
{
	return plan->count;
}

struct plan_file *plan_file(struct plan *plan, size_t index)
{
	return &plan->files[index];
}

/* ---- order ---- */

static int compare_numbers(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

static int by_level(const void *a, const void *b)
{
	const struct replica_file *x = &((const struct plan_file *)a)->file;
	const struct replica_file *y = &((const struct plan_file *)b)->file;
	if (x->level != y->level) {
		return x->level < y->level ? -1 : 1;
	}
	int order = compare_numbers(x->min_txid, y->min_txid);
	return order != 0 ? order : compare_numbers(x->max_txid, y->max_txid);
}

static int by_end(const void *a, const void *b, void *ctx)
{
	const struct plan *plan = ctx;
	const size_t x = *(const size_t *)a;
	const size_t y = *(const size_t *)b;
	int order = compare_numbers(plan->files[x].file.max_txid, plan->files[y].file.max_txid);
	return order != 0 ? order : compare_numbers(x, y);
}

static void find_points(struct plan *plan)
{
	size_t count = 0;
	for (size_t i = 0; i < plan->count; i++) {
		if (!plan->files[i].bad) {
			plan->points[count++] = i;
		}
	}
	qsort_r(plan->points, count, sizeof *plan->points, by_end, plan);
	for (size_t i = 0; i < count; i++) {
		uint64_t end = plan->files[plan->points[i]].file.max_txid;
		size_t kept = plan->point_count;
		if (kept == 0 || plan->files[plan->points[kept - 1]].file.max_txid != end) {
			plan->points[plan->point_count++] = plan->points[i];
		}
	}
}

int plan_sort(struct plan *plan)
{
	if (plan->sorted) {
		return 0;
	}
	plan->furthest = calloc(plan->count + 1, sizeof *plan->furthest);
	plan->dead = calloc(plan->count + 1, sizeof *plan->dead);
	plan->points = calloc(plan->count + 1, sizeof *plan->points);
	if (plan->furthest == NULL || plan->dead == NULL || plan->points == NULL) {
		return -ENOMEM;
	}
	if (plan->count > 0) {
		qsort(plan->files, plan->count, sizeof *plan->files, by_level);
	}
	size_t at = 0;
	for (int level = 0; level <= REPLICA_LEVEL_MAX; level++) {
		uint64_t furthest = 0;
		for (; at < plan->count && plan->files[at].file.level == level; at++) {
			uint64_t end = plan->files[at].file.max_txid;
			furthest = end > furthest ? end : furthest;
			plan->furthest[at] = furthest;
		}
		plan->level_end[level] = at;
	}
	find_points(plan);
	plan->sorted = true;
	return 0;
}

/* ---- the way ---- */

bool plan_is_point(const struct plan_file *file)
{
	return !file->looked || !file->known || file->record.has_digest;
}

bool plan_fits(const struct plan_file *before, const struct plan_file *after)
{
	if (!before->looked || !before->known || !after->looked || !after->known ||
		after->record.full || !before->record.has_digest) {
		return true;
	}
	if (after->file.min_txid != before->file.max_txid + 1) {
		return true; /* they overlap: what was before `after` is not the end of `before` */
	}
	return memcmp(before->record.digest_after, after->record.digest_before,
		       RECORD_DIGEST_BYTES) == 0;
}

/* The file of the lowest level that ends there, or NULL. */
static const struct plan_file *ends_at(const struct plan *plan, uint64_t txid)
{
	size_t low = 0;
	size_t high = plan->point_count;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (plan->files[plan->points[middle]].file.max_txid < txid) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	const struct plan_file *file =
		low < plan->point_count ? &plan->files[plan->points[low]] : NULL;
	return file != NULL && file->file.max_txid == txid && !file->bad ? file : NULL;
}

/*
 * What overlaps with the file before it cannot be compared with that one, but with the one that
 * ends where it begins, if that is still there and known.
 */
static bool fits_overlapping(
	const struct plan *plan, const struct plan_file *before, const struct plan_file *after)
{
	if (after->file.min_txid > before->file.max_txid) {
		return true;
	}
	const struct plan_file *ends = ends_at(plan, after->file.min_txid - 1);
	return ends == NULL || plan_fits(ends, after);
}

static bool usable(const struct plan *plan, size_t file, const struct plan_file *before)
{
	return !plan->dead[file] && !plan->files[file].bad &&
		(before == NULL ||
			(plan_fits(before, &plan->files[file]) &&
				fits_overlapping(plan, before, &plan->files[file])));
}

/* Litestream's preference: further; then more; then a higher level. */
static bool better(const struct plan *plan, size_t file, long than)
{
	if (than == NOTHING) {
		return true;
	}
	const struct replica_file *a = &plan->files[file].file;
	const struct replica_file *b = &plan->files[than].file;
	if (a->max_txid != b->max_txid) {
		return a->max_txid > b->max_txid;
	}
	return a->min_txid != b->min_txid ? a->min_txid < b->min_txid : a->level > b->level;
}

/* The best file of a level that goes on after `have`, not beyond `txid`. */
static long choose_of_level(const struct plan *plan, int level, const struct plan_file *before,
	uint64_t txid, long best)
{
	uint64_t have = before != NULL ? before->file.max_txid : 0;
	size_t first = level == 0 ? 0 : plan->level_end[level - 1];
	size_t low = first;
	size_t high = plan->level_end[level];
	while (low < high) { /* the first file that begins too late */
		size_t middle = low + (high - low) / 2;
		if (plan->files[middle].file.min_txid <= have + 1) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	for (size_t i = low; i > first && plan->furthest[i - 1] > have; i--) {
		const struct replica_file *file = &plan->files[i - 1].file;
		if (file->max_txid > have && file->max_txid <= txid &&
			usable(plan, i - 1, before) && better(plan, i - 1, best)) {
			best = (long)(i - 1);
		}
	}
	return best;
}

/* Where a way may begin that no snapshot begins: a segment that is known to hold every page. */
static long choose_full(const struct plan *plan, uint64_t txid)
{
	long best = NOTHING;
	for (size_t i = 0; i < plan->count; i++) {
		const struct plan_file *file = &plan->files[i];
		if (file->looked && file->known && file->record.full &&
			file->file.max_txid <= txid && usable(plan, i, NULL) &&
			better(plan, i, best)) {
			best = (long)i;
		}
	}
	return best;
}

static long choose(const struct plan *plan, const struct plan_file *before, uint64_t txid)
{
	long best = NOTHING;
	if (before == NULL) {
		best = choose_of_level(plan, REPLICA_SNAPSHOT_LEVEL, NULL, txid, best);
		if (best != NOTHING) {
			return best;
		}
	}
	for (int level = REPLICA_SNAPSHOT_LEVEL - 1; level >= 0; level--) {
		best = choose_of_level(plan, level, before, txid, best);
	}
	return best == NOTHING && before == NULL ? choose_full(plan, txid) : best;
}

static int push(struct way *way, size_t file)
{
	if (way->count == way->room) {
		size_t room = way->room == 0 ? 64 : way->room * 2;
		size_t *files = realloc(way->files, room * sizeof *files);
		if (files == NULL) {
			return -ENOMEM;
		}
		way->files = files;
		way->room = room;
	}
	way->files[way->count++] = file;
	return 0;
}

/* The way up to its last restore point, if that is further than the best so far. */
static int remember(struct plan *plan)
{
	const struct way *way = &plan->way;
	size_t count = way->count;
	while (count > 0 && !plan_is_point(&plan->files[way->files[count - 1]])) {
		count--;
	}
	const struct way *best = &plan->best;
	if (count == 0 ||
		(best->count > 0 &&
			plan->files[best->files[best->count - 1]].file.max_txid >=
				plan->files[way->files[count - 1]].file.max_txid)) {
		return 0;
	}
	plan->best.count = 0;
	int rc = 0;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = push(&plan->best, way->files[i]);
	}
	return rc;
}

int plan_find(struct plan *plan, uint64_t txid)
{
	int rc = plan_sort(plan);
	if (rc != 0) {
		return rc;
	}
	memset(plan->dead, 0, plan->count * sizeof *plan->dead);
	plan->way.count = plan->best.count = 0;
	for (;;) {
		struct way *way = &plan->way;
		const struct plan_file *last =
			way->count > 0 ? &plan->files[way->files[way->count - 1]] : NULL;
		if (last != NULL && last->file.max_txid == txid) {
			plan->best.count = 0;
			return remember(plan);
		}
		long next = choose(plan, last, txid);
		if (next != NOTHING) {
			rc = push(way, (size_t)next);
		} else {
			rc = remember(plan);
		}
		if (rc != 0) {
			return rc;
		}
		if (next == NOTHING && way->count == 0) {
			return PLAN_BROKEN;
		}
		if (next == NOTHING) {
			plan->dead[way->files[--way->count]] = true;
		}
	}
}

size_t plan_steps(const struct plan *plan)
{
	return plan->best.count;
}

struct plan_file *plan_step(struct plan *plan, size_t index)
{
	return &plan->files[plan->best.files[index]];
}

/* ---- looking ---- */

int plan_know(struct plan *plan, struct plan_file *file, struct replica_error *ret_error)
{
	if (file->looked || file->bad) {
		return 0;
	}
	int rc = plan->look(plan->ctx, file, ret_error);
	file->bad = rc == REPLICA_CORRUPT;
	return file->bad ? 0 : rc;
}

int plan_learn(struct plan *plan, uint64_t txid, struct replica_error *ret_error)
{
	int rc = plan_sort(plan);
	size_t looks = 0;
	for (size_t i = plan->count; rc == 0 && i > 0 && looks < LEARN_MAX; i--) {
		struct plan_file *file = &plan->files[i - 1];
		if (file->looked || file->bad || file->file.max_txid > txid) {
			continue;
		}
		looks++;
		rc = plan_know(plan, file, ret_error);
		if (rc == REPLICA_MISSING) {
			file->bad = true;
			rc = 0;
		}
	}
	return rc;
}
