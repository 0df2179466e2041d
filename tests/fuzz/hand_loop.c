/* SPDX-License-Identifier: MIT */

/*
 * See hand_loop.h. Watches are looked at by poll(), in the order in which they were made; the
 * writer's thread is held wherever it waits on a condition, whatever it waits for, so this file
 * knows nothing of queues and groups.
 */

#include "tests/fuzz/hand_loop.h"

#include "server/base/clock.h"
#include "server/base/config.h"
#include "server/base/list.h"
#include "server/funnel/credentials.h"
#include "server/funnel/loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>

enum {
	WATCHES_MAX = 64,
	TURNS_MAX = 2000000, /* what four sockets hold, byte by byte, and as many interruptions */
	SIGNALS_MAX = 8,
	CLOCK_STEP_US = 100, /* each look at the clock takes that long: what never ends, ends */
};

struct loop_watch {
	struct list node;
	int fd;
	loop_watch_fn *fn;
	void *ctx;
	unsigned want;
};

struct loop_timer {
	struct list node; /* in `timers` while it runs */
	uint64_t due_us;
	loop_fn *fn;
	void *ctx;
};

struct callback {
	loop_fn *fn;
	void *ctx;
	int number;
};

/* One at a time. */
struct loop {
	struct list watches;
	struct list timers;
	struct callback wake;
	struct callback signals[SIGNALS_MAX];
	size_t signals_count;
	atomic_bool woken;
	bool stopped;
};

static struct loop loop_of_hand;

void (*hand_script)(void *ctx);
void *hand_script_ctx;
struct hand_io hand_io;
enum role hand_role = ROLE_ADMIN;

/* ---- time ---- */

static _Atomic uint64_t clock_us = UINT64_C(1000000000);

static uint64_t now_us(void)
{
	return atomic_fetch_add(&clock_us, CLOCK_STEP_US) + CLOCK_STEP_US;
}

static const struct clock_source clocks = {now_us, now_us};

/* ---- the writer, held ---- */

typedef void *thread_fn(void *ctx);

int __real_pthread_create(
	pthread_t *thread, const pthread_attr_t *attributes, thread_fn *fn, void *ctx);
int __real_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __real_pthread_cond_timedwait(
	pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until);
int __wrap_pthread_create(
	pthread_t *thread, const pthread_attr_t *attributes, thread_fn *fn, void *ctx);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_timedwait(
	pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until);

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	thread_fn *fn; /* what it runs */
	void *ctx;
	bool waits;           /* it stands at `cond` */
	bool gone;            /* it has come home */
	pthread_cond_t *cond; /* where it stands, and what guards that */
	pthread_mutex_t *mutex;
	atomic_bool may_go; /* until it waits again */
	atomic_bool free;   /* it is not held any more */
} writer = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Thread_local bool is_writer;

static void set_waits(bool waits, pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	pthread_mutex_lock(&writer.lock);
	writer.waits = waits;
	writer.cond = cond;
	writer.mutex = mutex;
	if (waits) {
		atomic_store(&writer.may_go, false);
	}
	pthread_cond_signal(&writer.changed);
	pthread_mutex_unlock(&writer.lock);
}

static void *writer_main(void *ctx)
{
	(void)ctx;
	is_writer = true;
	void *result = writer.fn(writer.ctx);
	pthread_mutex_lock(&writer.lock);
	writer.gone = true;
	pthread_cond_signal(&writer.changed);
	pthread_mutex_unlock(&writer.lock);
	return result;
}

int __wrap_pthread_create(
	pthread_t *thread, const pthread_attr_t *attributes, thread_fn *fn, void *ctx)
{
	writer.fn = fn;
	writer.ctx = ctx;
	return __real_pthread_create(thread, attributes, writer_main, NULL);
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	int rc = 0;
	set_waits(true, cond, mutex);
	do {
		rc = __real_pthread_cond_wait(cond, mutex);
	} while (rc == 0 && !atomic_load(&writer.may_go) && !atomic_load(&writer.free));
	return rc;
}

int __wrap_pthread_cond_timedwait(
	pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
	if (!is_writer) {
		/*
		 * The loop waits for the writer's end. Its limit is of real time, and a busy machine
		 * may be late; a thread that never ends is a hang.
		 */
		return __real_pthread_cond_wait(cond, mutex);
	}
	set_waits(true, cond, mutex);
	return __real_pthread_cond_timedwait(cond, mutex, until);
}

/* False: it is gone. */
static bool wait_until_it_waits(void)
{
	pthread_mutex_lock(&writer.lock);
	while (!writer.waits && !writer.gone) {
		(void)__real_pthread_cond_wait(&writer.changed, &writer.lock);
	}
	bool waits = !writer.gone;
	pthread_mutex_unlock(&writer.lock);
	return waits;
}

/* It may go on from where it stands. */
static void release(atomic_bool *permission)
{
	if (!wait_until_it_waits()) {
		return;
	}
	pthread_mutex_lock(&writer.lock);
	pthread_cond_t *cond = writer.cond;
	pthread_mutex_t *mutex = writer.mutex;
	writer.waits = false;
	pthread_mutex_unlock(&writer.lock);
	pthread_mutex_lock(mutex);
	atomic_store(permission, true);
	pthread_cond_broadcast(cond);
	pthread_mutex_unlock(mutex);
}

void hand_let_writer_work(void)
{
	struct loop *loop = &loop_of_hand;
	release(&writer.may_go);
	(void)wait_until_it_waits();
	if (atomic_exchange(&loop->woken, false) && !loop->stopped) {
		loop->wake.fn(loop->wake.ctx);
	}
}

/* ---- the daemon's reads and writes ---- */

ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_recv(int fd, void *room, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *data, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *room, size_t len, int flags);

static bool interrupted(void)
{
	static bool turn;
	turn = hand_io.interrupts && !turn;
	if (turn) {
		errno = EINTR;
	}
	return turn;
}

static size_t at_most(size_t len)
{
	return hand_io.bytes_max != 0 && len > hand_io.bytes_max ? hand_io.bytes_max : len;
}

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	if (hand_io.blocked) {
		errno = EAGAIN;
		return -1;
	}
	return interrupted() ? -1 : __real_send(fd, data, at_most(len), flags);
}

ssize_t __wrap_recv(int fd, void *room, size_t len, int flags)
{
	return interrupted() ? -1 : __real_recv(fd, room, at_most(len), flags);
}

/* ---- who a connection is ---- */

enum role __wrap_credentials_role(
	const struct credentials *credentials, const struct config *config);

enum role __wrap_credentials_role(
	const struct credentials *credentials, const struct config *config)
{
	(void)credentials;
	(void)config;
	return hand_role;
}

/* ---- turning ---- */

void hand_begin(void)
{
	clock_set_source(&clocks);
	hand_io = (struct hand_io){0};
	hand_role = ROLE_ADMIN;
	writer.waits = false;
	writer.gone = false;
	atomic_store(&writer.may_go, false);
	atomic_store(&writer.free, false);
}

bool hand_stopped(void)
{
	return loop_of_hand.stopped;
}

/* The first watch that is ready for something it wants, behind the last one that was called. */
static struct loop_watch *next_ready(struct loop *loop, unsigned *ret_ready)
{
	struct pollfd polled[WATCHES_MAX];
	struct loop_watch *watches[WATCHES_MAX];
	nfds_t count = 0;
	list_for_each(node, &loop->watches) {
		struct loop_watch *watch = container_of(node, struct loop_watch, node);
		unsigned want = hand_io.blocked ? watch->want & ~(unsigned)LOOP_WRITE : watch->want;
		if (want != 0 && count < WATCHES_MAX) {
			watches[count] = watch;
			polled[count++] = (struct pollfd){.fd = watch->fd,
				.events = (short)((want & LOOP_READ ? POLLIN : 0) |
					(want & LOOP_WRITE ? POLLOUT : 0))};
		}
	}
	if (poll(polled, count, 0) <= 0) {
		return NULL;
	}
	for (nfds_t i = 0; i < count; i++) {
		/* As libevent does: the end of a connection is something to read and to write. */
		unsigned ready =
			(polled[i].revents & (POLLIN | POLLHUP | POLLERR) ? LOOP_READ : 0u) |
			(polled[i].revents & (POLLOUT | POLLHUP | POLLERR) ? LOOP_WRITE : 0u);
		*ret_ready = ready & watches[i]->want;
		if (*ret_ready != 0) {
			return watches[i];
		}
	}
	return NULL;
}

void hand_turn(void)
{
	struct loop *loop = &loop_of_hand;
	struct loop_watch *watch = NULL;
	unsigned ready = 0;
	int turns = 0;
	while (!loop->stopped && (watch = next_ready(loop, &ready)) != NULL) {
		/* Whoever has had its turn stands last. */
		list_remove(&watch->node);
		list_push_back(&loop->watches, &watch->node);
		watch->fn(watch->ctx, ready);
		if (++turns > TURNS_MAX) {
			abort(); /* the loop is busy for ever */
		}
	}
}

void hand_pass_us(uint64_t us)
{
	struct loop *loop = &loop_of_hand;
	uint64_t until_us = atomic_fetch_add(&clock_us, us) + us;
	for (int turns = 0; !loop->stopped; turns++) {
		struct loop_timer *due = NULL;
		list_for_each(node, &loop->timers) {
			struct loop_timer *timer = container_of(node, struct loop_timer, node);
			if (timer->due_us <= until_us &&
				(due == NULL || timer->due_us < due->due_us)) {
				due = timer;
			}
		}
		if (due == NULL || turns > TURNS_MAX) {
			return;
		}
		list_remove(&due->node);
		due->fn(due->ctx);
	}
}

void hand_signal(int number)
{
	struct loop *loop = &loop_of_hand;
	for (size_t i = 0; i < loop->signals_count && !loop->stopped; i++) {
		if (loop->signals[i].number == number) {
			loop->signals[i].fn(loop->signals[i].ctx);
		}
	}
}

/* ---- server/funnel/loop.h ---- */

int loop_new(struct loop **ret_loop)
{
	struct loop *loop = &loop_of_hand;
	loop->signals_count = 0;
	loop->stopped = false;
	atomic_store(&loop->woken, false);
	list_init(&loop->watches);
	list_init(&loop->timers);
	*ret_loop = loop;
	return 0;
}

void loop_free(struct loop *loop)
{
	if (loop != NULL && !(list_empty(&loop->watches) && list_empty(&loop->timers))) {
		abort(); /* somebody still waits for what will not come */
	}
}

int loop_run(struct loop *loop)
{
	(void)loop;
	hand_script(hand_script_ctx);
	release(&writer.free);
	return 0;
}

void loop_stop(struct loop *loop)
{
	loop->stopped = true;
}

/* When the writer works is the hand's to say: nobody stands in for it. */
void loop_on_turn(struct loop *loop, loop_turn_fn *fn, void *ctx)
{
	(void)loop;
	(void)fn;
	(void)ctx;
}

void loop_lend(struct loop *loop)
{
	(void)loop;
}

void loop_take_back(struct loop *loop)
{
	(void)loop;
}

void loop_mind(struct loop *loop)
{
	(void)loop;
}

struct loop_watch *loop_watch_new(struct loop *loop, int fd, loop_watch_fn *fn, void *ctx)
{
	struct loop_watch *watch = calloc(1, sizeof(*watch));
	if (watch != NULL) {
		*watch = (struct loop_watch){.fd = fd, .fn = fn, .ctx = ctx};
		list_push_back(&loop->watches, &watch->node);
	}
	return watch;
}

int loop_watch_set(struct loop_watch *watch, unsigned want)
{
	watch->want = want;
	return 0;
}

void loop_watch_free(struct loop_watch *watch)
{
	if (watch != NULL) {
		list_remove(&watch->node);
		free(watch);
	}
}

struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *ctx)
{
	struct loop_timer *timer = calloc(1, sizeof(*timer));
	(void)loop;
	if (timer != NULL) {
		*timer = (struct loop_timer){.fn = fn, .ctx = ctx};
		list_init(&timer->node);
	}
	return timer;
}

void loop_timer_start(struct loop_timer *timer, uint64_t us)
{
	list_remove(&timer->node);
	timer->due_us = atomic_load(&clock_us) + us;
	list_push_back(&loop_of_hand.timers, &timer->node);
}

void loop_timer_stop(struct loop_timer *timer)
{
	list_remove(&timer->node);
}

bool loop_timer_running(const struct loop_timer *timer)
{
	return !list_empty(&timer->node);
}

void loop_timer_free(struct loop_timer *timer)
{
	if (timer != NULL) {
		list_remove(&timer->node);
		free(timer);
	}
}

int loop_on_signal(struct loop *loop, int number, loop_fn *fn, void *ctx)
{
	if (loop->signals_count == SIGNALS_MAX) {
		return -ENOSPC;
	}
	loop->signals[loop->signals_count++] = (struct callback){fn, ctx, number};
	return 0;
}

int loop_on_wake(struct loop *loop, loop_fn *fn, void *ctx)
{
	loop->wake = (struct callback){fn, ctx, 0};
	return 0;
}

void loop_wake(struct loop *loop)
{
	atomic_store(&loop->woken, true);
}
