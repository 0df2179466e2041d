/* SPDX-License-Identifier: MIT */

/*
 * Deficit round robin within a user, least time used among users, owed time between classes. It
 * knows no clock, no lock and no database. What it keeps true: requests of a line leave in the order
 * in which they came; whoever waits is served in bounded time; a turn of bulk work is bounded while
 * anybody of a higher class waits.
 *
 * Clients mostly wait for their answer before they send again, so at the end of a commit group all
 * lines are empty, and order alone would give each user what it can keep in flight. Therefore a
 * commit group ends when a user's requests have run out and the others have had as much: he is
 * answered, sends more, and nobody gains by having many connections.
 */

#include "server/funnel/schedule.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum {
	QUANTUM_US = 200,          /* of a line, in each round */
	DEBT_US_MAX = 1000 * 1000, /* what is beyond is forgiven */
	SAVED_US_MAX = 5000,    /* nor may a user who asked for less than he could save up more */
	FIRST_ESTIMATE_US = 50, /* of a request, before anything is known */
	COMMIT_US = 200,        /* about what a turn costs beside its requests */
	PASSED_OVER_MAX = 16,   /* turns that others may go before a line that runs alone */
	TENANTS_MAX = 1024,     /* beyond it those that have nothing open are forgotten */
	ROOM_FACTOR = 8,
	OWED_PART =
		3, /* a waiting class is owed 1 µs for so many of higher ones: a quarter of all */
};

void schedule_init(struct schedule *schedule)
{
	*schedule = (struct schedule){.slice_us = 10000};
	list_init(&schedule->tenants);
	for (size_t i = 0; i < SCHEDULE_BUCKETS; i++) {
		list_init(&schedule->lines[i]);
	}
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_init(&schedule->ranks[i].ready);
		list_init(&schedule->ranks[i].dry);
		schedule->ranks[i].average_us = FIRST_ESTIMATE_US;
	}
}

void schedule_set_times(struct schedule *schedule, uint64_t slice_us, uint64_t alone_us)
{
	schedule->slice_us = (int64_t)slice_us;
	schedule->alone_us = alone_us;
}

/* ---- users and connections ---- */

static void free_line(struct line *line)
{
	line->tenant->lines--;
	list_remove(&line->by_id);
	list_remove(&line->node);
	free(line);
}

static void free_tenant(struct schedule *schedule, struct tenant *tenant)
{
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_remove(&tenant->shares[i].node);
	}
	list_remove(&tenant->node);
	schedule->tenants_count--;
	free(tenant);
}

void schedule_finish(struct schedule *schedule)
{
	for (size_t i = 0; i < SCHEDULE_BUCKETS; i++) {
		list_for_each_safe(node, &schedule->lines[i]) {
			free_line(container_of(node, struct line, by_id));
		}
	}
	list_for_each_safe(node, &schedule->tenants) {
		free_tenant(schedule, container_of(node, struct tenant, node));
	}
}

static struct tenant *find_tenant(struct schedule *schedule, uint32_t uid)
{
	list_for_each(node, &schedule->tenants) {
		struct tenant *tenant = container_of(node, struct tenant, node);
		if (tenant->uid == uid) {
			return tenant;
		}
	}
	return NULL;
}

static struct tenant *make_tenant(struct schedule *schedule, uint32_t uid)
{
	struct tenant *tenant = calloc(1, sizeof(*tenant));
	if (tenant == NULL) {
		return NULL;
	}
	if (schedule->tenants_count >= TENANTS_MAX) {
		list_for_each_safe(node, &schedule->tenants) {
			struct tenant *old = container_of(node, struct tenant, node);
			if (old->lines == 0) {
				free_tenant(schedule, old);
			}
		}
	}
	tenant->uid = uid;
	for (unsigned i = 0; i < CLASS_COUNT; i++) {
		list_init(&tenant->shares[i].node);
		list_init(&tenant->shares[i].lines);
	}
	list_push_back(&schedule->tenants, &tenant->node);
	schedule->tenants_count++;
	return tenant;
}

static struct list *bucket_of(struct schedule *schedule, uint64_t peer_id)
{
	return &schedule->lines[peer_id % SCHEDULE_BUCKETS];
}

static struct line *find_line(struct schedule *schedule, const struct request *request)
{
	struct list *bucket = bucket_of(schedule, request->peer_id);
	list_for_each(node, bucket) {
		struct line *line = container_of(node, struct line, by_id);
		if (line->peer_id == request->peer_id && line->class == request->class &&
			line->tenant->uid == request->identity.uid) {
			return line;
		}
	}
	return NULL;
}

static struct line *make_line(struct schedule *schedule, const struct request *request)
{
	struct tenant *tenant = find_tenant(schedule, request->identity.uid);
	struct line *line = calloc(1, sizeof(*line));
	if (line != NULL && tenant == NULL) {
		tenant = make_tenant(schedule, request->identity.uid);
	}
	if (line == NULL || tenant == NULL) {
		free(line);
		return NULL;
	}
	line->tenant = tenant;
	line->peer_id = request->peer_id;
	line->class = request->class;
	line->gone = request->peer_id >= TASK_PEER; /* it lives as long as its task */
	list_init(&line->node);
	list_init(&line->waiting);
	list_push_back(bucket_of(schedule, line->peer_id), &line->by_id);
	tenant->lines++;
	return line;
}

static struct share *share_of(struct line *line)
{
	return &line->tenant->shares[line->class];
}

static struct rank *rank_of(struct schedule *schedule, const struct line *line)
{
	return &schedule->ranks[line->class];
}

/* Puts a share where its counts say that it belongs. */
static void place(struct rank *rank, struct share *share)
{
	list_remove(&share->node);
	if (share->waiting > 0) {
		list_push_back(&rank->ready, &share->node);
	} else if (share->taken > 0) {
		list_push_back(&rank->dry, &share->node);
	}
}

/* Who has used least. Few users have something open at once. */
static struct share *least(const struct list *shares)
{
	struct share *found = NULL;
	for (struct list *node = shares->next; node != shares; node = node->next) {
		struct share *share = container_of(node, struct share, node);
		if (found == NULL || share->spent_us < found->spent_us) {
			found = share;
		}
	}
	return found;
}

/* The least that anybody present has used; if nobody is, where they had got to. */
static int64_t clock_of(const struct rank *rank)
{
	const struct share *ready = least(&rank->ready);
	const struct share *dry = least(&rank->dry);
	if (ready == NULL || (dry != NULL && dry->spent_us < ready->spent_us)) {
		ready = dry;
	}
	return ready != NULL ? ready->spent_us : rank->clock_us;
}

bool schedule_fits(
	struct schedule *schedule, uint32_t uid, size_t bytes, size_t count_free, size_t bytes_free)
{
	const struct tenant *tenant = find_tenant(schedule, uid);
	return tenant == NULL || tenant->count == 0 ||
		(tenant->count / ROOM_FACTOR < count_free &&
			(tenant->bytes + bytes) / ROOM_FACTOR <= bytes_free);
}

/* ---- coming and going ---- */

/* The line has one more that waits: at its end, or, given back, at its head. */
static void enter(struct schedule *schedule, struct request *request, bool back)
{
	struct line *line = request->line;
	struct share *share = share_of(line);
	struct rank *rank = rank_of(schedule, line);
	if (list_empty(&line->waiting)) {
		if (back) {
			list_push_front(&share->lines, &line->node);
		} else {
			list_push_back(&share->lines, &line->node);
		}
		share->lines_count++;
	}
	if (back) {
		list_push_front(&line->waiting, &request->node);
	} else {
		list_push_back(&line->waiting, &request->node);
	}
	line->tenant->count++;
	line->tenant->bytes += request->bytes;
	rank->waiting++;
	if (share->waiting++ == 0) {
		place(rank, share);
	}
}

/* The opposite. */
static void leave(struct schedule *schedule, struct request *request)
{
	struct line *line = request->line;
	struct share *share = share_of(line);
	struct rank *rank = rank_of(schedule, line);
	list_remove(&request->node);
	if (list_empty(&line->waiting)) {
		list_remove(&line->node);
		share->lines_count--;
		if (line->credit_us > 0) {
			line->credit_us = 0; /* who asks for nothing saves nothing */
		}
	}
	line->tenant->count--;
	line->tenant->bytes -= request->bytes;
	rank->waiting--;
	if (--share->waiting == 0) {
		place(rank, share);
	}
}

/* One of its requests is no more: the line may go too. */
static void let_go(struct request *request)
{
	struct line *line = request->line;
	request->line = NULL;
	if (--line->requests == 0 && line->gone) {
		free_line(line);
	}
}

int schedule_add(struct schedule *schedule, struct request *request)
{
	struct line *line = find_line(schedule, request);
	if (line == NULL) {
		line = make_line(schedule, request);
	}
	if (line == NULL) {
		return -ENOMEM;
	}
	struct share *share = share_of(line);
	struct rank *rank = rank_of(schedule, line);
	if (share->waiting == 0 && share->taken == 0) {
		int64_t least_us = clock_of(rank) - SAVED_US_MAX;
		share->spent_us = share->spent_us > least_us ? share->spent_us : least_us;
	}
	request->line = line;
	line->requests++;
	enter(schedule, request, false);
	return 0;
}

void schedule_remove(struct schedule *schedule, struct request *request)
{
	leave(schedule, request);
	let_go(request);
}

void schedule_forget(struct schedule *schedule, uint64_t peer_id)
{
	list_for_each_safe(node, bucket_of(schedule, peer_id)) {
		struct line *line = container_of(node, struct line, by_id);
		if (line->peer_id == peer_id) {
			line->gone = true;
			if (line->requests == 0) {
				free_line(line);
			}
		}
	}
}

/* ---- between classes ---- */

static bool higher_waits(const struct schedule *schedule, enum request_class class)
{
	for (unsigned i = 0; i < (unsigned)class; i++) {
		if (schedule->ranks[i].waiting > 0) {
			return true;
		}
	}
	return false;
}

/*
 * Whether a lower class is owed a turn now: enough time for all that waits in it, or for half a slice.
 * So a single small batch waits for a moment only, and a flood comes in pieces that are worth a commit.
 */
static bool is_due(const struct schedule *schedule, enum request_class class)
{
	const struct rank *rank = &schedule->ranks[class];
	if (rank->waiting == 0) {
		return false;
	}
	int64_t need_us = schedule->slice_us / 2;
	int64_t all_us = (int64_t)rank->waiting * rank->average_us + COMMIT_US;
	return rank->owed_us >= (all_us < need_us ? all_us : need_us);
}

/* The class that the open turn serves next, or CLASS_COUNT. */
static enum request_class next_class(const struct schedule *schedule)
{
	const struct turn *turn = &schedule->turn;
	enum request_class next = CLASS_COUNT;
	for (enum request_class class = turn->first; class <= turn->last; class ++) {
		if (schedule->ranks[class].waiting > 0 &&
			(next == CLASS_COUNT || is_due(schedule, class))) {
			next = class;
		}
	}
	return next;
}

void schedule_open(struct schedule *schedule, uint64_t now_us)
{
	struct turn *turn = &schedule->turn;
	if (turn->open) {
		return;
	}
	uint64_t number = turn->number + 1;
	bool others_wait = higher_waits(schedule, CLASS_BULK);
	*turn = (struct turn){.open = true, .number = number, .last = CLASS_NORMAL};
	if (schedule->ranks[CLASS_BULK].waiting > 0 &&
		(!others_wait || is_due(schedule, CLASS_BULK))) {
		turn->first = CLASS_BULK;
		turn->last = CLASS_BULK;
		turn->yields = !others_wait;
		turn->until_us = others_wait ? now_us + (uint64_t)schedule->slice_us / 2 : 0;
	}
}

void schedule_close(struct schedule *schedule)
{
	schedule->turn.open = false;
}

static bool is_over(const struct schedule *schedule, uint64_t now_us)
{
	const struct turn *turn = &schedule->turn;
	return turn->closed || (turn->until_us != 0 && now_us >= turn->until_us) ||
		(turn->yields && turn->count > 0 && higher_waits(schedule, turn->first));
}

/* ---- within a class ---- */

/* Whether a line that runs alone lets others go first, once more. */
static bool steps_back(const struct schedule *schedule, struct line *line, uint64_t now_us)
{
	if (line->alone_until_us <= now_us) {
		return false;
	}
	if (line->passed_turn != schedule->turn.number) {
		line->passed_turn = schedule->turn.number;
		line->passed_over++;
	}
	return line->passed_over <= PASSED_OVER_MAX;
}

/*
 * The line whose turn it is. In a round each gets a quantum; if nobody has credit after it, the one
 * that is least in debt goes, for the writer is never idle while somebody waits.
 */
static struct line *next_line(const struct schedule *schedule, struct share *share, uint64_t now_us)
{
	struct line *best = NULL;
	bool best_steps_back = true;
	for (size_t i = 0; i < share->lines_count; i++) {
		struct line *line = container_of(share->lines.next, struct line, node);
		bool back = steps_back(schedule, line, now_us);
		if (!back && line->credit_us > 0) {
			return line;
		}
		line->credit_us += QUANTUM_US;
		if (best == NULL || (best_steps_back && !back) ||
			(best_steps_back == back && line->credit_us > best->credit_us)) {
			best = line;
			best_steps_back = back;
		}
		list_remove(&line->node);
		list_push_back(&share->lines, &line->node);
	}
	list_remove(&best->node);
	list_push_front(&share->lines, &best->node);
	return best;
}

static int64_t estimate(const struct rank *rank, const struct share *share)
{
	return share->average_us > 0 ? share->average_us : rank->average_us;
}

static int64_t group_us(const struct schedule *schedule, const struct share *share)
{
	return share->group_turn == schedule->turn.number ? share->group_us : 0;
}

/*
 * Whether the commit group should end for the sake of a user whose requests have run out: this one
 * has used as much as he in all, and would now use more in this group too.
 */
static bool has_had_enough(
	const struct schedule *schedule, const struct rank *rank, const struct share *share)
{
	const struct share *dry = least(&rank->dry);
	return dry != NULL && dry->spent_us <= share->spent_us &&
		group_us(schedule, share) + estimate(rank, share) > group_us(schedule, dry);
}

/* What the open turn would take next, or NULL. */
static struct request *look(struct schedule *schedule, uint64_t now_us)
{
	if (is_over(schedule, now_us)) {
		return NULL;
	}
	enum request_class class = next_class(schedule);
	if (class == CLASS_COUNT) {
		return NULL;
	}
	struct rank *rank = &schedule->ranks[class];
	struct share *share = least(&rank->ready);
	if (has_had_enough(schedule, rank, share)) {
		schedule->turn.closed = true;
		return NULL;
	}
	struct line *line = next_line(schedule, share, now_us);
	return container_of(line->waiting.next, struct request, node);
}

static void spend(struct schedule *schedule, struct request *request, int64_t us)
{
	struct line *line = request->line;
	struct share *share = share_of(line);
	line->credit_us -= us;
	share->group_us = group_us(schedule, share) + us;
	share->group_turn = schedule->turn.number;
	share->spent_us += us;
	if (request->owed) {
		rank_of(schedule, line)->owed_us -= us;
	}
}

static void take(struct schedule *schedule, struct request *request)
{
	struct line *line = request->line;
	struct share *share = share_of(line);
	struct rank *rank = rank_of(schedule, line);
	if (schedule->turn.count++ == 0) {
		rank->facts.turns++;
	}
	line->passed_over = 0;
	request->owed = higher_waits(schedule, line->class);
	request->estimate_us = estimate(rank, share);
	request->taken = true;
	share->taken++;
	leave(schedule, request);
	spend(schedule, request, request->estimate_us);
}

struct request *schedule_next_task(struct schedule *schedule, uint64_t now_us)
{
	schedule_open(schedule, now_us);
	struct request *request = look(schedule, now_us);
	if (request == NULL || request->task.what == NULL) {
		return NULL;
	}
	take(schedule, request);
	schedule->turn.closed = true;
	return request;
}

struct request *schedule_next(struct schedule *schedule, uint64_t now_us)
{
	struct request *request = look(schedule, now_us);
	if (request == NULL) {
		return NULL;
	}
	bool alone = request->line->alone_until_us > now_us;
	if (request->task.what != NULL || (alone && schedule->turn.count > 0)) {
		schedule->turn.closed = true; /* it has the next one */
		return NULL;
	}
	take(schedule, request);
	schedule->turn.closed = alone;
	return request;
}

/* ---- afterwards ---- */

/* It is no longer with the writer. */
static void untake(struct schedule *schedule, struct request *request)
{
	struct share *share = share_of(request->line);
	struct rank *rank = rank_of(schedule, request->line);
	if (--share->taken == 0 && share->waiting == 0) {
		rank->clock_us =
			rank->clock_us > share->spent_us ? rank->clock_us : share->spent_us;
		place(rank, share);
	}
}

void schedule_return(struct schedule *schedule, struct request *request)
{
	spend(schedule, request, -request->estimate_us);
	request->estimate_us = 0;
	request->taken = false;
	untake(schedule, request);
	enter(schedule, request, true);
}

static void owe(struct schedule *schedule, enum request_class served, int64_t cost_us)
{
	for (unsigned i = (unsigned)served + 1; i < CLASS_COUNT; i++) {
		struct rank *rank = &schedule->ranks[i];
		if (rank->waiting > 0 && rank->owed_us < schedule->slice_us) {
			rank->owed_us += cost_us / OWED_PART + 1;
		}
	}
}

/* A moving average that is never 0. */
static int64_t learn(int64_t average_us, int64_t us)
{
	return (7 * average_us + us + 7) / 8;
}

void schedule_charge(struct schedule *schedule, struct request *request, uint64_t now_us)
{
	struct line *line = request->line;
	struct share *share = share_of(line);
	struct rank *rank = rank_of(schedule, line);
	int64_t cost_us = (int64_t)request->cost_us;
	spend(schedule, request, cost_us - request->estimate_us);
	request->estimate_us = 0;
	if (line->credit_us < -DEBT_US_MAX) {
		line->credit_us = -DEBT_US_MAX;
	}
	int64_t most_us = clock_of(rank) + DEBT_US_MAX;
	share->spent_us = share->spent_us < most_us ? share->spent_us : most_us;
	if (rank->owed_us < -DEBT_US_MAX) {
		rank->owed_us = -DEBT_US_MAX;
	}
	if (request->offended) {
		line->alone_until_us = now_us + schedule->alone_us;
	}
	/* A lone giant says little about the next one. */
	int64_t capped_us = cost_us < schedule->slice_us ? cost_us : schedule->slice_us;
	rank->average_us = learn(rank->average_us, capped_us);
	share->average_us = learn(estimate(rank, share), capped_us);
	rank->facts.writer_us += request->cost_us;
	owe(schedule, line->class, cost_us);
}

void schedule_leave(struct schedule *schedule, struct request *request)
{
	struct rank *rank = rank_of(schedule, request->line);
	uint64_t waited_us = request->taken_us > request->received_us
		? request->taken_us - request->received_us
		: 0;
	rank->facts.served++;
	rank->facts.waited_us += waited_us;
	if (waited_us > rank->facts.waited_us_max) {
		rank->facts.waited_us_max = waited_us;
	}
	untake(schedule, request);
	let_go(request);
}
