/* SPDX-License-Identifier: MIT */

/*
 * The fence around libevent: readiness, timers, signals and a wake-up from other threads, and
 * nothing else of it. No bufferevents: buffers and their limits are the peer's.
 */

#include "server/funnel/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <unistd.h>

enum { SIGNALS_MAX = 8 };

struct loop_watch {
	struct event *event;
	struct loop *loop;
	loop_watch_fn *fn;
	void *ctx;
	int fd;
	unsigned want;
};

struct loop_timer {
	struct event *event;
	loop_fn *fn;
	void *ctx;
};

struct callback {
	struct event *event;
	loop_fn *fn;
	void *ctx;
};

struct on_signal {
	int number;
	loop_fn *fn;
	void *ctx;
};

struct loop {
	struct event_base *base;
	int wake_fd;
	bool stopped;
	pthread_mutex_t helm; /* held by the thread that runs the loop */
	_Atomic bool wanted;  /* its own thread waits for it */
	struct callback wake;
	loop_turn_fn *turn;
	void *turn_ctx;
	sigset_t signals_set;
	int signals_fd;
	struct event *signals_event;
	struct on_signal signals[SIGNALS_MAX];
	unsigned signals_count;
};

int loop_new(struct loop **ret_loop)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	struct event_config *config = event_config_new();
	if (loop == NULL || config == NULL) {
		free(loop);
		if (config != NULL) {
			event_config_free(config);
		}
		return -ENOMEM;
	}
	pthread_mutex_init(&loop->helm, NULL);
	sigemptyset(&loop->signals_set);
	loop->signals_fd = -1;
	/* Our own threads meet at an eventfd and at the helm; libevent needs no locks. */
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	loop->base = event_base_new_with_config(config);
	event_config_free(config);
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->base == NULL || loop->wake_fd < 0) {
		loop_free(loop);
		return -ENOMEM;
	}
	*ret_loop = loop;
	return 0;
}

static void callback_finish(struct callback *callback)
{
	if (callback->event != NULL) {
		event_free(callback->event);
	}
}

void loop_free(struct loop *loop)
{
	if (loop == NULL) {
		return;
	}
	callback_finish(&loop->wake);
	if (loop->signals_event != NULL) {
		event_free(loop->signals_event);
	}
	if (loop->base != NULL) {
		event_base_free(loop->base);
	}
	if (loop->wake_fd >= 0) {
		close(loop->wake_fd);
	}
	if (loop->signals_fd >= 0) {
		close(loop->signals_fd);
	}
	pthread_mutex_destroy(&loop->helm);
	free(loop);
}

/* With the helm: until the loop is stopped or, if another's thread minds it, wanted back. */
static int dispatch(struct loop *loop)
{
	bool again = false;
	while (!loop->stopped && !atomic_load_explicit(&loop->wanted, memory_order_relaxed)) {
		int rc = event_base_loop(loop->base, again ? EVLOOP_NONBLOCK : EVLOOP_ONCE);
		if (rc != 0) {
			return rc < 0 ? -EIO : 0;
		}
		again = !loop->stopped && loop->turn != NULL && loop->turn(loop->turn_ctx);
		if (again) {
			sched_yield();
		}
	}
	return 0;
}

int loop_run(struct loop *loop)
{
	pthread_mutex_lock(&loop->helm);
	int rc = dispatch(loop);
	pthread_mutex_unlock(&loop->helm);
	return rc;
}

void loop_lend(struct loop *loop)
{
	pthread_mutex_unlock(&loop->helm);
}

void loop_take_back(struct loop *loop)
{
	if (pthread_mutex_trylock(&loop->helm) == 0) {
		return;
	}
	atomic_store_explicit(&loop->wanted, true, memory_order_relaxed);
	loop_wake(loop);
	pthread_mutex_lock(&loop->helm);
	atomic_store_explicit(&loop->wanted, false, memory_order_relaxed);
}

void loop_mind(struct loop *loop)
{
	if (pthread_mutex_trylock(&loop->helm) == 0) {
		(void)dispatch(loop); /* an error shows again where its own thread runs it */
		pthread_mutex_unlock(&loop->helm);
	}
}

void loop_on_turn(struct loop *loop, loop_turn_fn *fn, void *ctx)
{
	loop->turn = fn;
	loop->turn_ctx = ctx;
}

void loop_stop(struct loop *loop)
{
	loop->stopped = true;
	event_base_loopbreak(loop->base);
}

static void watch_ready(evutil_socket_t fd, short what, void *ctx)
{
	struct loop_watch *watch = ctx;
	(void)fd;
	watch->fn(watch->ctx,
		(what & EV_READ ? LOOP_READ : 0u) | (what & EV_WRITE ? LOOP_WRITE : 0u));
}

struct loop_watch *loop_watch_new(struct loop *loop, int fd, loop_watch_fn *fn, void *ctx)
{
	struct loop_watch *watch = calloc(1, sizeof(*watch));
	if (watch == NULL) {
		return NULL;
	}
	*watch = (struct loop_watch){.loop = loop, .fn = fn, .ctx = ctx, .fd = fd};
	watch->event = event_new(loop->base, fd, EV_READ | EV_PERSIST, watch_ready, watch);
	if (watch->event == NULL) {
		free(watch);
		return NULL;
	}
	return watch;
}

int loop_watch_set(struct loop_watch *watch, unsigned want)
{
	if (want == watch->want) {
		return 0;
	}
	event_del(watch->event);
	watch->want = want;
	if (want == 0) {
		return 0;
	}
	short events = (short)(EV_PERSIST | (want & LOOP_READ ? EV_READ : 0) |
		(want & LOOP_WRITE ? EV_WRITE : 0));
	if (event_assign(watch->event, watch->loop->base, watch->fd, events, watch_ready, watch) <
			0 ||
		event_add(watch->event, NULL) < 0) {
		return -ENOMEM;
	}
	return 0;
}

void loop_watch_free(struct loop_watch *watch)
{
	if (watch != NULL) {
		event_free(watch->event);
		free(watch);
	}
}

static void timer_fired(evutil_socket_t fd, short what, void *ctx)
{
	struct loop_timer *timer = ctx;
	(void)fd;
	(void)what;
	timer->fn(timer->ctx);
}

struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *ctx)
{
	struct loop_timer *timer = calloc(1, sizeof(*timer));
	if (timer == NULL) {
		return NULL;
	}
	*timer = (struct loop_timer){.fn = fn, .ctx = ctx};
	timer->event = event_new(loop->base, -1, 0, timer_fired, timer);
	if (timer->event == NULL) {
		free(timer);
		return NULL;
	}
	return timer;
}

void loop_timer_start(struct loop_timer *timer, uint64_t us)
{
	struct timeval after = {
		.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
	event_add(timer->event, &after);
}

void loop_timer_stop(struct loop_timer *timer)
{
	event_del(timer->event);
}

bool loop_timer_running(const struct loop_timer *timer)
{
	return event_pending(timer->event, EV_TIMEOUT, NULL) != 0;
}

void loop_timer_free(struct loop_timer *timer)
{
	if (timer != NULL) {
		event_free(timer->event);
		free(timer);
	}
}

static void signals_arrived(evutil_socket_t fd, short what, void *ctx)
{
	struct loop *loop = ctx;
	struct signalfd_siginfo info;
	(void)what;
	while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		for (unsigned i = 0; i < loop->signals_count; i++) {
			if (loop->signals[i].number == (int)info.ssi_signo) {
				loop->signals[i].fn(loop->signals[i].ctx);
			}
		}
	}
}

int loop_on_signal(struct loop *loop, int number, loop_fn *fn, void *ctx)
{
	if (loop->signals_count == SIGNALS_MAX) {
		return -ENOSPC;
	}
	sigaddset(&loop->signals_set, number);
	int fd = signalfd(loop->signals_fd, &loop->signals_set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0) {
		return -errno;
	}
	loop->signals_fd = fd;
	loop->signals[loop->signals_count++] = (struct on_signal){number, fn, ctx};
	if (loop->signals_event == NULL) {
		loop->signals_event =
			event_new(loop->base, fd, EV_READ | EV_PERSIST, signals_arrived, loop);
		if (loop->signals_event == NULL || event_add(loop->signals_event, NULL) < 0) {
			return -ENOMEM;
		}
	}
	return 0;
}

static void woken(evutil_socket_t fd, short what, void *ctx)
{
	struct loop *loop = ctx;
	uint64_t count = 0;
	(void)what;
	if (read(fd, &count, sizeof(count)) == (ssize_t)sizeof(count)) {
		loop->wake.fn(loop->wake.ctx);
	}
}

int loop_on_wake(struct loop *loop, loop_fn *fn, void *ctx)
{
	loop->wake = (struct callback){
		event_new(loop->base, loop->wake_fd, EV_READ | EV_PERSIST, woken, loop), fn, ctx};
	return loop->wake.event != NULL && event_add(loop->wake.event, NULL) == 0 ? 0 : -ENOMEM;
}

void loop_wake(struct loop *loop)
{
	uint64_t one = 1;
	ssize_t written = write(loop->wake_fd, &one, sizeof(one));
	(void)written; /* it can only be full of earlier wakes */
}
