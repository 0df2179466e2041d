/* SPDX-License-Identifier: MIT */

/*
 * A copy that follows its replica: store/copy.h takes pages, ship/follow.h brings them, and the note
 * beside the copy says where it stands. This file joins them, waits, and tells people.
 *
 * What it keeps true: before a commit can count, the note says what it is; so the copy may be killed
 * at any moment and knows afterwards where it stands.
 */

#include "server/cli/follow.h"

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/cli/cli.h"
#include "server/cli/print.h"
#include "server/cli/recover.h"
#include "server/cli/text.h"
#include "server/cli/when.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	WAIT_MAX_MS = 10 * 1000, /* between looks at a replica that fails */
	SAY_EVERY_US = 60 * 1000 * 1000,
	END_SECONDS = 10, /* then the process ends wherever it is: it may */
};

struct session {
	struct following *following;
	struct copy *copy;
	struct follow *follow;
	size_t replica;
	const char *url;
	unsigned failures; /* in a row */
	uint64_t good_us;  /* when the copy had all that the replica has */
	uint64_t said_us;
	uint64_t moved; /* commits of the copy, since that */
	char said[REPLICA_ERROR_BYTES];

	pthread_mutex_t lock; /* guards what follows, and `follow` against being freed */
	pthread_cond_t wake;
	_Atomic bool stopping;
};

/* ---- what is said ---- */

static int64_t now_ms(void)
{
	return (int64_t)(clock_wall_us() / 1000);
}

/* How far the copy is behind what the replica holds, as far as that is known. */
struct lag {
	bool known;
	double seconds;
	uint64_t commits;
};

static struct lag lag_of(const struct session *session, const struct follow_news *news, int rc)
{
	const struct restore_point *at = &session->following->note.at.at;
	struct lag lag = {.known = rc == 0};
	if (rc != 0) {
		lag.seconds = (double)(clock_now_us() - session->good_us) / 1e6;
	} else if (news->more) {
		lag.seconds = (double)(now_ms() - at->committed_ms) / 1e3;
		lag.known = news->newest_commit > 0;
		lag.commits =
			news->newest_commit > at->commit ? news->newest_commit - at->commit : 0;
	}
	return lag;
}

static void print_event(const struct session *session, const char *event,
	const struct follow_news *news, int rc, const char *error)
{
	const struct lag lag = lag_of(session, news, rc);
	printf("{\"event\":\"%s\"", event);
	fputs(",\"output\":", stdout);
	text_json_cstr(stdout, session->following->place->db);
	fputs(",\"replica\":", stdout);
	text_json_cstr(stdout, session->url);
	recover_point_json(&session->following->note.at.at);
	printf(",\"delay_seconds\":%.3f",
		(double)(now_ms() - session->following->note.at.at.committed_ms) / 1e3);
	printf(",\"lag_seconds\":%.3f,\"lag_commits\":", lag.seconds);
	if (lag.known) {
		printf("%" PRIu64, lag.commits);
	} else {
		fputs("null", stdout);
	}
	printf(",\"files\":%zu,\"bytes\":%" PRIu64 ",\"from_snapshot\":%s,\"error\":", news->files,
		news->bytes, news->anew ? "true" : "false");
	text_json_cstr(stdout, error);
	fputs("}\n", stdout);
	fflush(stdout);
}

static void print_line(const struct session *session, const char *event,
	const struct follow_news *news, int rc, const char *error)
{
	char point[RECOVER_POINT_BYTES];
	const struct lag lag = lag_of(session, news, rc);
	recover_point_text(&session->following->note.at.at, point);
	if (rc != 0) {
		printf("%s: %s; the copy stays at %s\n", event, error, point);
	} else if (lag.known) {
		printf("%s: %s, %.1f s and %" PRIu64 " commits behind\n", event, point, lag.seconds,
			lag.commits);
	} else {
		printf("%s: %s, %.1f s behind\n", event, point, lag.seconds);
	}
	fflush(stdout);
}

static void say(struct session *session, const char *event, const struct follow_news *news, int rc,
	const char *error)
{
	session->said_us = clock_now_us();
	session->moved = 0;
	if (session->following->json) {
		print_event(session, event, news, rc, error);
	} else {
		print_line(session, event, news, rc, error);
	}
}

/* Every step that moved is an event; people are told of the remarkable ones, and now and then. */
static void say_step(struct session *session, const struct follow_news *news)
{
	bool again = session->said[0] != '\0';
	session->said[0] = '\0';
	session->moved += news->files > 0;
	if (again) {
		say(session, "goes on", news, 0, "");
	} else if (news->files > 0 && news->new_epoch) {
		say(session, "new epoch", news, 0, "");
	} else if (news->files > 0 && news->anew) {
		say(session, "from a snapshot", news, 0, "");
	} else if (news->files > 0 && session->following->json) {
		say(session, "applied", news, 0, "");
	} else if (session->moved > 0 && clock_now_us() - session->said_us > SAY_EVERY_US) {
		say(session, "follows", news, 0, "");
	}
}

static void say_failure(
	struct session *session, const struct follow_news *news, int rc, const char *error)
{
	if (strcmp(session->said, error) != 0) {
		snprintf(session->said, sizeof(session->said), "%s", error);
		say(session, "waits", news, rc, error);
	}
}

/* ---- the copy, for ship/follow.h ---- */

static int copy_begins(void *ctx)
{
	struct session *session = ctx;
	return copy_begin(session->copy);
}

static int copy_reads(void *ctx, uint32_t page_no, uint8_t *page)
{
	struct session *session = ctx;
	return copy_read(session->copy, page_no, page);
}

static int copy_adds(void *ctx, uint32_t page_no, const uint8_t *page)
{
	struct session *session = ctx;
	return copy_add(session->copy, page_no, page);
}

static void copy_abandons(void *ctx)
{
	struct session *session = ctx;
	copy_abandon(session->copy);
}

static bool copy_stops(void *ctx)
{
	struct session *session = ctx;
	return session->stopping;
}

static int write_note(struct session *session)
{
	session->following->note.where = copy_where(session->copy);
	return follow_note_write(
		session->following->place, &session->following->note, session->url);
}

/* No mark of an older WAL may be in the note when the WAL starts over. */
static int checkpoint(struct session *session)
{
	bool due = false;
	int rc = copy_checkpoint(session->copy, false, &due);
	rc = rc == 0 && due ? write_note(session) : rc;
	return rc == 0 && due ? copy_checkpoint(session->copy, true, &due) : rc;
}

static int copy_commits(void *ctx, const struct follow_point *reached)
{
	struct session *session = ctx;
	struct follow_note *note = &session->following->note;
	note->next = *reached;
	note->mark = copy_end(session->copy);
	note->has_next = true;
	int rc = write_note(session);
	if (rc != 0) {
		copy_abandon(session->copy);
		return rc;
	}
	rc = copy_commit(session->copy, reached->pages);
	if (rc == 0) {
		note->at = *reached;
		note->has_next = false;
		rc = checkpoint(session);
	}
	return rc;
}

/* ---- beginning ---- */

static int use_replica(struct session *session, size_t index)
{
	const struct follow_copy copy = {
		.begin = copy_begins,
		.read = copy_reads,
		.add = copy_adds,
		.commit = copy_commits,
		.abandon = copy_abandons,
		.stopping = copy_stops,
		.ctx = session,
		.page_size = copy_page_size(session->copy),
	};
	struct replica_error error = {.text = ""};
	struct follow *follow = NULL;
	const char *url = session->following->replicas->urls[index];
	int rc = follow_new(url, &copy, &session->following->note.at, &follow, &error);
	if (rc != 0) {
		cli_fail("restore", "%s", error.text[0] != '\0' ? error.text : strerror(-rc));
		return CLI_FAILED;
	}
	pthread_mutex_lock(&session->lock);
	follow_free(session->follow);
	session->follow = follow;
	pthread_mutex_unlock(&session->lock);
	session->replica = index;
	session->url = url;
	return CLI_DONE;
}

/* After a crash: whether the commit that was under way counts. */
static void settle(struct session *session)
{
	struct follow_note *note = &session->following->note;
	if (note->has_next && copy_has(session->copy, &note->mark)) {
		note->at = note->next;
		note->where = note->mark;
	}
	note->has_next = false;
}

/*
 * If the WAL does not end where it was left, somebody else may have written; the content tells. An
 * empty one proves nothing: SQLite removes it when the last who may write closes the database.
 */
static int compare(struct session *session)
{
	struct follow_note *note = &session->following->note;
	const struct copy_mark where = copy_where(session->copy);
	bool equal = true;
	int rc = 0;
	if (note->at.pages != copy_pages(session->copy)) {
		equal = false;
	} else if (!session->following->fresh &&
		(where.frame == 0 || where.frame != note->where.frame ||
			memcmp(where.salt, note->where.salt, sizeof(where.salt)) != 0)) {
		rc = follow_verify(session->follow, &equal);
	}
	if (!equal) {
		follow_doubt(session->follow);
	}
	return rc;
}

static int open_copy(struct session *session)
{
	char error[COPY_ERROR_BYTES] = "";
	const char *db = session->following->place->db;
	int rc = copy_open(db, &session->copy, error);
	if (rc != 0) {
		return cli_fail("restore", "%s: %s", db, error);
	}
	settle(session);
	int code = use_replica(session, session->following->replica);
	if (code == CLI_DONE && compare(session) != 0) {
		return cli_fail("restore", "%s: %s", db, copy_error(session->copy));
	}
	rc = code == CLI_DONE ? write_note(session) : 0;
	return rc == 0
		? code
		: cli_fail("restore", "%s: %s", session->following->place->restored, strerror(-rc));
}

/* ---- waiting ---- */

static void pause_for(struct session *session, uint64_t ms)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_mutex_lock(&session->lock);
	while (!session->stopping &&
		pthread_cond_timedwait(&session->wake, &session->lock, &until) == 0) {
	}
	pthread_mutex_unlock(&session->lock);
}

static uint64_t wait_ms(const struct session *session)
{
	uint64_t ms = session->following->interval_ms;
	for (unsigned i = 1; i < session->failures && ms < WAIT_MAX_MS; i++) {
		ms *= 2;
	}
	return session->failures > 0 && ms > WAIT_MAX_MS ? WAIT_MAX_MS : ms;
}

/* ---- signals ---- */

/* Takes the signals for the whole process. A replica that does not answer must not hold up the end. */
static void *wait_for_signal(void *ctx)
{
	struct session *session = ctx;
	sigset_t set;
	int number = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigwait(&set, &number);
	pthread_mutex_lock(&session->lock);
	session->stopping = true;
	if (session->follow != NULL) {
		follow_interrupt(session->follow);
	}
	pthread_cond_broadcast(&session->wake);
	pthread_mutex_unlock(&session->lock);
	sleep(END_SECONDS);
	_exit(CLI_DONE);
}

static int watch_signals(struct session *session)
{
	pthread_t thread;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	int rc = pthread_create(&thread, NULL, wait_for_signal, session);
	if (rc == 0) {
		pthread_detach(thread);
	}
	return rc;
}

/* ---- the loop ---- */

/* What no other time and no other replica mends. */
static bool is_fatal(int rc)
{
	return rc == COPY_FOREIGN || rc == COPY_UNFIT ||
		(rc < 0 && rc != -ENOSPC && rc != -EDQUOT && rc != -EAGAIN && rc != -ENOMEM);
}

static int step(struct session *session)
{
	struct follow_news news;
	struct replica_error error;
	int rc = follow_step(session->follow, &news, &error);
	if (session->stopping) {
		return CLI_DONE;
	}
	if (rc == 0) {
		session->failures = 0;
		session->good_us = news.more ? session->good_us : clock_now_us();
		say_step(session, &news);
		if (!news.more) {
			pause_for(session, wait_ms(session));
		}
		return CLI_DONE;
	}
	const char *why = error.text[0] != '\0' ? error.text : copy_error(session->copy);
	if (is_fatal(rc)) {
		return cli_fail("restore", "%s: %s", session->following->place->db,
			why[0] != '\0' ? why : strerror(-rc));
	}
	session->failures++;
	say_failure(session, &news, rc, why);
	size_t count = session->following->replicas->count;
	int code = count > 1 && rc > 0 ? use_replica(session, (session->replica + 1) % count)
				       : CLI_DONE;
	pause_for(session, wait_ms(session));
	return code;
}

static int run(struct session *session)
{
	const struct follow_news none = {.files = 0};
	int code = open_copy(session);
	if (code != CLI_DONE) {
		return code;
	}
	session->good_us = clock_now_us();
	say(session, "follows", &none, 0, "");
	while (code == CLI_DONE && !session->stopping) {
		code = step(session);
	}
	if (code == CLI_DONE) {
		(void)checkpoint(session);
		session->following->note.has_next = false;
		code = write_note(session) == 0 ? CLI_DONE : CLI_FAILED;
		say(session, "ends", &none, 0, "");
	}
	return code;
}

int follow_run(struct following *following)
{
	static struct session
		session; /* the thread of the signals looks at it until the very end */
	pthread_condattr_t monotonic;
	session.following = following;
	pthread_mutex_init(&session.lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&session.wake, &monotonic);
	pthread_condattr_destroy(&monotonic);
	if (watch_signals(&session) != 0) {
		return cli_fail("restore", "no thread for signals");
	}
	int code = run(&session);
	pthread_mutex_lock(&session.lock);
	follow_free(session.follow);
	session.follow = NULL;
	pthread_mutex_unlock(&session.lock);
	copy_close(session.copy);
	session.copy = NULL;
	return code;
}
