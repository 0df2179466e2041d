/* SPDX-License-Identifier: MIT */
#pragma once

/* Which class a client's requests have: what it asks for, within what the setting `classes` says. */

#include "server/funnel/credentials.h"
#include "server/funnel/request.h"

/* What a client is given. */
struct class_grant {
	enum request_class highest;  /* what it may ask for */
	enum request_class fallback; /* if it asks for nothing */
};

/* By uid, groups, label and role: the first entry of the list that matches. */
struct class_grant class_grant(const struct credentials *credentials, const struct config *config);

/* Whether WHO of such a list is this client: a user, uid, @group, @gid, label:PATTERN, role:ROLE or *. */
bool class_who_matches(const struct credentials *credentials, const char *label, const char *who);

/* The class asked for, or CLASS_COUNT for none, within the grant. */
enum request_class class_within(const struct class_grant *grant, enum request_class asked);
