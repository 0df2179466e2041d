/* SPDX-License-Identifier: MIT */

/* The list of the setting `classes`: "deploy=bulk, label:web-*=interactive, role:query=normal". */

#include "server/funnel/class.h"

#include "server/base/cleanup.h"

#include <fnmatch.h>
#include <string.h>

bool class_who_matches(const struct credentials *credentials, const char *label, const char *who)
{
	if (strncmp(who, "label:", 6) == 0) {
		return fnmatch(who + 6, label, 0) == 0;
	}
	if (strncmp(who, "role:", 5) == 0) {
		return strcmp(who + 5, role_name(credentials->role)) == 0;
	}
	return credentials_match(credentials, who);
}

struct class_grant class_grant(const struct credentials *credentials, const struct config *config)
{
	struct class_grant grant = {.highest = CLASS_INTERACTIVE, .fallback = CLASS_NORMAL};
	CLEANUP_FREE char *copy = strdup(config_text(config, SETTING_CLASSES));
	char *rest = copy;
	for (char *word = NULL; (word = strsep(&rest, ", ")) != NULL;) {
		char *sign = strrchr(word, '=');
		if (sign == NULL) {
			continue;
		}
		*sign = 0;
		if (class_who_matches(credentials, credentials->label, word)) {
			(void)request_class_parse(
				(struct span){(const uint8_t *)sign + 1, strlen(sign + 1)},
				&grant.highest);
			grant.fallback = grant.highest;
			break;
		}
	}
	return grant;
}

enum request_class class_within(const struct class_grant *grant, enum request_class asked)
{
	enum request_class class = asked < CLASS_COUNT ? asked : grant->fallback;
	return class > grant->highest ? class : grant->highest;
}
