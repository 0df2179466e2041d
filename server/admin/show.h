/* SPDX-License-Identifier: MIT */
#pragma once

/* The tables that `show` answers with. */

#include "server/funnel/funnel.h"

/* See struct funnel_options. */
bool show_table(struct funnel *funnel, struct span what, struct span like,
	const struct credentials *who, struct buffer *out, const char **ret_names);
