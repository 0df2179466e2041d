/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What connections hold of the daemon's memory: answers that they do not read, and requests that they have begun and do not
 * end. Each alone is bounded by its peer; here all of them together are, by closing whoever has held most for longest.
 * Who reads slowly, or sends as fast as it can, is done before it is that.
 */

#include "server/funnel/conduct.h"

/* After answers were handed out. */
void hoard_bound_unread(struct funnel *funnel);

/* Now and then. */
void hoard_bound_begun(struct funnel *funnel, uint64_t now_us);

/* It asks for much and reads nothing: closed without a word; its answers are remembered. */
void hoard_give_up(struct peer *peer);

/* Whether it alone has left too much unread. */
bool hoard_is_too_much(const struct peer *peer);
