/* SPDX-License-Identifier: MIT */

/* The list of the setting `lease_limits`: "label:console*=1m/10m, class:bulk=1s/10s". */

#include "server/funnel/lease_limits.h"

#include "server/base/cleanup.h"
#include "server/funnel/class.h"

#include <stdio.h>
#include <string.h>

static bool matches(const struct credentials *credentials, const char *label,
	enum request_class class, const char *who)
{
	return strncmp(who, "class:", 6) == 0 ? strcmp(who + 6, request_class_name(class)) == 0
					      : class_who_matches(credentials, label, who);
}

struct lease_limits lease_limits(const struct credentials *credentials, const char *label,
	enum request_class class, const struct config *config)
{
	uint64_t idle_ms = config_number(config, SETTING_LEASE_IDLE);
	uint64_t total_ms = config_number(config, SETTING_LEASE_TOTAL);
	CLEANUP_FREE char *copy = strdup(config_text(config, SETTING_LEASE_LIMITS));
	char *rest = copy;
	bool listed = false;
	for (char *word = NULL; (word = strsep(&rest, ", ")) != NULL;) {
		char *sign = strrchr(word, '=');
		if (sign == NULL) {
			continue;
		}
		*sign = 0;
		if (matches(credentials, label, class, word)) {
			(void)config_parse_lease_limits(sign + 1, &idle_ms, &total_ms);
			listed = true;
			break;
		}
	}
	return (struct lease_limits){
		.idle_us = idle_ms * 1000, .total_us = total_ms * 1000, .listed = listed};
}

const char *lease_limits_told(const struct lease_limits *limits, char text[LEASE_LIMITS_TOLD_BYTES])
{
	snprintf(text, LEASE_LIMITS_TOLD_BYTES,
		"the lease has come to its limit: %g s of waiting for its client, %g s in all (%s)",
		(double)limits->idle_us / 1e6, (double)limits->total_us / 1e6,
		limits->listed ? "setting lease_limits" : "settings lease_idle, lease_total");
	return text;
}
