/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * What a PARAM of a command line means:
 *
 *	5, -1.5        a number, if it prints back exactly as typed; so 007, +1, 1.50, 1e5 are text
 *	NULL, x'00ff'  as in SQL (NULL in capitals)
 *	@FILE          the content of FILE, as a blob
 *	:name=VALUE    VALUE, by the same rules, for the parameter :name, @name or $name
 *	all else       text, byte for byte
 *
 * With `text` everything is text, as it is: for values that come from elsewhere.
 */

#include "client/litefunnel.h"
#include "server/cli/print.h"

enum { PARAM_ERROR_BYTES = 512, PARAM_BYTES_MAX = 256 * 1024 * 1024 };

struct param {
	char *name; /* without the colon, or NULL */
	struct print_value value;
	char *owned; /* what value.data points into, if it is ours */
};

struct params {
	struct param *list;
	unsigned count;
};

/* 0; -ENOMEM; -EINVAL with a sentence. params_finish() in any case. */
int params_read(struct params *params, const char *const *texts, int count, bool text,
	char ret_error[PARAM_ERROR_BYTES]);
void params_finish(struct params *params);

/* Binds one value to the open step of a batch. */
void param_bind(lf_batch *batch, const struct print_value *value);
