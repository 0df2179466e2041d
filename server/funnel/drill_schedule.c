/* SPDX-License-Identifier: MIT */

/*
 * Times are those of the wall clock, for they outlive a daemon; a clock that was set back makes a
 * drill come late by one period at most.
 */

#include "server/funnel/drill_schedule.h"

#include "server/base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
	FIRST_MS = 10 * 60 * 1000, /* a start is no moment for a drill */
	AGAIN_MS = 60 * 60 * 1000, /* after one that told nothing */
	UNSHIPPED_MS = 5000,       /* to look again at a replica that has nothing yet */
};

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Milliseconds until the next drill of a replica. */
static uint64_t due_ms(
	const struct drill_record *last, uint64_t every_ms, uint64_t up_ms, uint64_t now_ms)
{
	uint64_t first_ms = least(every_ms, FIRST_MS);
	uint64_t left_ms = up_ms < first_ms ? first_ms - up_ms : 0;
	if (last == NULL) {
		return left_ms;
	}
	uint64_t period_ms =
		last->verdict == DRILL_INCONCLUSIVE ? least(every_ms, AGAIN_MS) : every_ms;
	uint64_t next_ms = (uint64_t)last->ended_ms + period_ms;
	uint64_t wait_ms = next_ms > now_ms ? least(next_ms - now_ms, period_ms) : 0;
	return wait_ms > left_ms ? wait_ms : left_ms;
}

uint64_t drill_next(const struct config *config, const struct board *board, uint64_t started_us,
	const struct drill_memory *memory, size_t *ret_replica)
{
	uint64_t every_ms = config_number(config, SETTING_DRILL_EVERY);
	uint64_t up_ms = (clock_now_us() - started_us) / 1000;
	uint64_t soonest_ms = UINT64_MAX;
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX && every_ms > 0; i++) {
		struct replica_report report = board_replica_report(board, i);
		uint64_t ms = due_ms(drill_memory_of(memory, report.url), every_ms, up_ms,
			clock_wall_us() / 1000);
		if (report.commit_no == 0 || report.state == REPLICA_REFUSED) {
			ms = ms > UNSHIPPED_MS ? ms : UNSHIPPED_MS;
		}
		if (ms < soonest_ms) {
			soonest_ms = ms;
			*ret_replica = i;
		}
	}
	return soonest_ms < UINT64_MAX / 1000 ? soonest_ms * 1000 : UINT64_MAX;
}

void drill_measure_lag(
	const struct board *board, struct gate *gate, size_t replica, struct drill_record *record)
{
	struct replica_report report = board_replica_report(board, replica);
	struct gate_arrears arrears = gate_arrears(gate, &report);
	record->behind = arrears.behind;
	record->rpo_ms = (int64_t)arrears.lag_ms;
}

uint64_t drill_wal_bytes_max(const struct config *config, const struct board *board)
{
	struct notice notice;
	uint64_t warn = config_number(config, SETTING_WAL_WARN_BYTES);
	(void)board_notice(board, &notice);
	uint64_t half = (uint64_t)notice.pages * notice.page_size / 2;
	return half > warn ? half : warn;
}

/* ---- the order ---- */

/* The next URL of the setting, and its length; the shipper parts them the same way. */
static const char *next_url(const char **at, size_t *ret_len)
{
	static const char gaps[] = " \t,";
	const char *url = *at + strspn(*at, gaps);
	*ret_len = strcspn(url, gaps);
	*at = url + *ret_len;
	return url;
}

size_t drill_replicas(const struct config *config)
{
	const char *at = config_text(config, SETTING_REPLICA);
	size_t count = 0;
	size_t len = 0;
	while (next_url(&at, &len)[0] != 0) {
		count++;
	}
	return count < NOTICE_REPLICAS_MAX ? count : NOTICE_REPLICAS_MAX;
}

static int take_url(const struct config *config, size_t replica, char ret_url[DRILL_URL_BYTES])
{
	const char *at = config_text(config, SETTING_REPLICA);
	size_t len = 0;
	const char *url = next_url(&at, &len);
	while (replica-- > 0) {
		url = next_url(&at, &len);
	}
	if (len == 0 || len >= DRILL_URL_BYTES) {
		return -ENAMETOOLONG;
	}
	memcpy(ret_url, url, len);
	ret_url[len] = 0;
	return 0;
}

/* One directory for each database, so that what a kill has left is found and removed. */
static int name_dir(const struct config *config, const char *db, const char *spool,
	char ret_dir[DRILL_PATH_BYTES])
{
	const char *where = config_text(config, SETTING_DRILL_DIR);
	const char *slash = strrchr(db, '/');
	struct stat status;
	int len = 0;
	if (where[0] == 0) {
		len = snprintf(ret_dir, DRILL_PATH_BYTES, "%s/drill", spool);
	} else if (stat(db, &status) == 0) {
		len = snprintf(ret_dir, DRILL_PATH_BYTES, "%s/%s-drill-%llx-%llx", where,
			slash != NULL ? slash + 1 : db, (unsigned long long)status.st_dev,
			(unsigned long long)status.st_ino);
	} else {
		return -errno;
	}
	return len > 0 && len < DRILL_PATH_BYTES ? 0 : -ENAMETOOLONG;
}

static int take_text(char *to, size_t bytes, const char *text)
{
	int len = snprintf(to, bytes, "%s", text);
	return len >= 0 && (size_t)len < bytes ? 0 : -ENAMETOOLONG;
}

int drill_fill_order(const struct config *config, size_t replica, const char *db, const char *spool,
	struct drill_order *order)
{
	int rc = take_url(config, replica, order->replica);
	order->keep_free = config_number(config, SETTING_DISK_FLOOR);
	rc = rc == 0 ? name_dir(config, db, spool, order->dir) : rc;
	rc = rc == 0 ? take_text(order->db, sizeof(order->db), db) : rc;
	rc = rc == 0 ? take_text(order->spool, sizeof(order->spool), spool) : rc;
	rc = rc == 0 ? take_text(order->assertions, sizeof(order->assertions),
			       config_text(config, SETTING_DRILL_ASSERTIONS))
		     : rc;
	rc = rc == 0 ? take_text(order->heartbeat, sizeof(order->heartbeat),
			       config_text(config, SETTING_DRILL_HEARTBEAT))
		     : rc;
	return rc == 0 ? take_text(order->heartbeat_fail, sizeof(order->heartbeat_fail),
				 config_text(config, SETTING_DRILL_HEARTBEAT_FAIL))
		       : rc;
}
