/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The event loop of one thread, and the only file of the funnel that knows libevent.
 *
 * Everything runs in the thread that calls loop_run(), except loop_wake(), which any thread may
 * call. A callback may free its own watch or timer and any other.
 *
 * That thread may lend the loop while it does something that can take long. Another one then minds
 * it: it runs what is ready in its place, so that there is one thread in the loop at any time.
 */

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct loop_watch;
struct loop_timer;

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

typedef void loop_watch_fn(void *ctx, unsigned ready);
typedef void loop_fn(void *ctx);
typedef bool loop_turn_fn(void *ctx);

int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop);

/* Until loop_stop(). 0, or -EIO. */
int loop_run(struct loop *loop);

/*
 * What loop_run() calls when everything that was ready together has been handled. True: it is to be
 * called again at once, although nothing may be ready then; others get the processor first.
 */
void loop_on_turn(struct loop *loop, loop_turn_fn *fn, void *ctx);
void loop_stop(struct loop *loop);

/* Its own thread, in what loop_on_turn() calls: nothing of the loop is touched until it is back. */
void loop_lend(struct loop *loop);
void loop_take_back(struct loop *loop);

/* Another thread: if the loop is lent, runs it until it is taken back or stopped. */
void loop_mind(struct loop *loop);

/*
 * Calls fn when fd is ready for what loop_watch_set() asks for; at first nothing. NULL: no memory.
 */
struct loop_watch *loop_watch_new(struct loop *loop, int fd, loop_watch_fn *fn, void *ctx);
int loop_watch_set(struct loop_watch *watch, unsigned want);
void loop_watch_free(struct loop_watch *watch); /* accepts NULL; does not close the fd */

/* One shot; starting it again moves it. */
struct loop_timer *loop_timer_new(struct loop *loop, loop_fn *fn, void *ctx);
void loop_timer_start(struct loop_timer *timer, uint64_t us);
void loop_timer_stop(struct loop_timer *timer);
bool loop_timer_running(const struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer); /* accepts NULL */

/*
 * Calls fn in the loop when that signal has arrived; those that arrive before it is called count once.
 * All threads must block it, from before it may arrive to the end of the process: it is read from a
 * file (signalfd(2)), and no handler interrupts anybody. Lives as long as the loop.
 */
int loop_on_signal(struct loop *loop, int number, loop_fn *fn, void *ctx);

/* What loop_wake() calls in the loop; calls that come close together may become one. */
int loop_on_wake(struct loop *loop, loop_fn *fn, void *ctx);
void loop_wake(struct loop *loop);
