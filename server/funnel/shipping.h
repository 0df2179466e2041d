/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The loop's side of shipping: keeps the shipper running, and holds back the answers of those who
 * asked for ack: "shipped" until the replicas have what they wrote.
 */

#include "server/base/notice.h"
#include "server/funnel/loop.h"
#include "server/funnel/request.h"

#include <sys/types.h>

struct shipping;

struct shipping_options {
	struct loop *loop;
	struct board *board;
	pid_t pid; /* of the shipper that runs already */
	int fd;    /* tells of its end; becomes shipping's */
	/* Starts another one. 0 or negative errno. */
	int (*start)(void *ctx, pid_t *ret_pid, int *ret_fd);
	void *start_ctx;
	/* More has been shipped, or time may be up for somebody: shipping_collect() is due. */
	void (*arrived)(void *ctx);
	void *ctx;
};

int shipping_new(const struct shipping_options *options, struct shipping **ret_shipping);
void shipping_free(struct shipping *shipping); /* leaves the process; accepts NULL */

/* The process, for whoever waits for its end after the loop's. */
pid_t shipping_release(struct shipping *shipping, int *ret_fd);

/*
 * Holds shipping, for so long (0: until it is resumed): what is committed stays in the spool. A second
 * pause changes the time of the first. Resume says for how many milliseconds it was held.
 */
void shipping_pause(struct shipping *shipping, uint64_t for_ms, const char *by);
uint64_t shipping_resume(struct shipping *shipping, const char *by);

/* Commits up to this one are on all replicas that `ack` waits for; `all`: on every replica. */
uint64_t shipping_commit(const struct shipping *shipping, bool all);

/* Holds the request until its commit is shipped, or its deadline. */
void shipping_hold(struct shipping *shipping, struct request *request);
bool shipping_holds(const struct shipping *shipping); /* any at all */

/* What need not be held any longer: shipped, and too late. `all`: everything else is late, too. */
void shipping_collect(struct shipping *shipping, uint64_t now_us, bool all,
	struct list *ret_shipped, struct list *ret_late);
