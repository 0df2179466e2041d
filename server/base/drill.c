/* SPDX-License-Identifier: MIT */

/* The names of verdicts, for every side that speaks of them. */

#include "server/base/drill.h"

#include <string.h>

static const char *const names[DRILL_VERDICTS] = {"pass", "fail", "inconclusive"};

const char *drill_verdict_name(enum drill_verdict verdict)
{
	return names[verdict];
}

bool drill_verdict_parse(const char *name, enum drill_verdict *ret_verdict)
{
	for (int i = 0; i < DRILL_VERDICTS; i++) {
		if (strcmp(name, names[i]) == 0) {
			*ret_verdict = (enum drill_verdict)i;
			return true;
		}
	}
	return false;
}
