/* SPDX-License-Identifier: MIT */

/*
 * New settings in a running daemon: read whole before anything changes, then told to whatever keeps
 * something of them. What a setting means is not known here.
 */

#include "server/base/log.h"
#include "server/funnel/conduct.h"

#include <unistd.h>

void funnel_apply_times(struct funnel *funnel)
{
	const struct config *config = funnel->options->config;
	queue_set_times(funnel->queue, config_number(config, SETTING_SLICE_MS) * 1000,
		config_number(config, SETTING_OFFENDER_ALONE) * 1000);
}

struct reloading {
	struct buffer *out;
	uint32_t count;
};

static void setting_changed(void *ctx, const struct setting *setting, bool applied)
{
	struct reloading *reloading = ctx;
	msgpack_packer packer;
	if (!applied) {
		log_warn("a changed setting needs a restart", log_str("setting", setting->name));
		return;
	}
	log_info("setting changed", log_str("setting", setting->name));
	buffer_packer(reloading->out, &packer);
	pack_cstr(&packer, setting->name);
	reloading->count++;
}

/* Roles may have changed: also for connections that are open. */
void funnel_assign_roles(struct funnel *funnel)
{
	list_for_each_safe(node, &funnel->peers) {
		struct peer *peer = container_of(node, struct peer, node);
		enum role role = credentials_role(peer->credentials, funnel->options->config);
		if (role == peer->credentials->role) {
			peer_grant_class(peer);
			continue;
		}
		struct credentials *credentials = credentials_with_role(peer->credentials, role);
		if (credentials == NULL || (role == ROLE_NONE && peer->state == PEER_OPEN)) {
			peer_close(
				peer, FAILURE_DENIED, "the settings roles_… give no role any more");
		}
		if (credentials != NULL) {
			credentials_unref(peer->credentials);
			peer->credentials = credentials;
			peer_grant_class(peer);
		}
	}
}

int funnel_reload(struct funnel *funnel, struct buffer *out, char ret_error[CONFIG_ERROR_BYTES])
{
	struct config *config = funnel->options->config;
	struct config fresh;
	int rc = config_init(&fresh);
	rc = rc == 0 ? funnel->options->reload(funnel->options->ctx, &fresh, ret_error) : rc;
	if (rc == 0) {
		struct reloading reloading = {.out = out};
		size_t at = pack_array_begin(out);
		config_reload(config, &fresh, setting_changed, &reloading);
		funnel_apply_times(funnel);
		if (funnel->drills != NULL) {
			drill_desk_reload(funnel->drills);
		}
		pack_array_end(out, at, reloading.count);
		log_setup(STDERR_FILENO, (enum log_level)config_number(config, SETTING_LOG_LEVEL),
			(enum log_format)config_number(config, SETTING_LOG_FORMAT));
	}
	config_finish(&fresh);
	return rc;
}

void funnel_hang_up(void *ctx)
{
	struct funnel *funnel = ctx;
	char error[CONFIG_ERROR_BYTES] = "";
	struct buffer names;
	buffer_init(&names, 0);
	funnel->options->notify(funnel->options->ctx, "reloading");
	if (funnel_reload(funnel, &names, error) < 0) {
		log_error("reload failed; nothing was changed", log_str("error", error));
	} else {
		funnel_assign_roles(funnel);
	}
	funnel->options->notify(funnel->options->ctx, "ready");
	buffer_finish(&names);
	funnel_settle(funnel);
}
