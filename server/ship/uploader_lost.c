/* SPDX-License-Identifier: MIT */

/*
 * A replica that somebody has emptied while it was shipped to. What it gets from then on leads to nothing
 * without a snapshot, so until one has arrived nothing counts as shipped. Segments go on, behind their
 * numbers: those who have the old ones elsewhere lose nothing, and nobody's fence is touched.
 */

#include "server/ship/uploader_inside.h"

#include "server/base/log.h"

#include <stdio.h>
#include <string.h>

/* All pages are due. The lock is held. */
static void begin_anew(struct uploader *uploader, const char *what)
{
	if (uploader->bare) {
		return;
	}
	log_warn(what, log_str("replica", uploader->report.url));
	uploader->bare = true;
	uploader->begun_anew++;
	uploader->used = false;
	uploader->snapshot_ms = 0;
	uploader->report.commit_no = 0;
	uploader_note_had(uploader, 0, 0);
	uploader->report.percent = 0;
	uploader_publish(uploader);
}

/* Its directory is not there, and only somebody else knows why. The lock is held. */
static void name_it(struct uploader *uploader, const struct replica_error *error)
{
	struct replica_report *report = &uploader->report;
	if (report->gone) {
		return;
	}
	log_warn("replica fails", log_str("replica", report->url), log_str("error", error->text));
	report->gone = true;
	if (report->state != REPLICA_FAILING) {
		report->state = REPLICA_FAILING;
		report->failing_since_ms = uploader_now_ms();
	}
	snprintf(report->error, sizeof(report->error), "%s", error->text);
	uploader_publish(uploader);
}

/* It is there again, and nothing was to be shipped meanwhile. The lock is held. */
static void take_back(struct uploader *uploader)
{
	if (uploader->report.gone && uploader->state == UPLOADER_SHIPPING &&
		uploader->newest <= uploader->confirmed) {
		uploader->report.gone = false;
		uploader->report.state = REPLICA_SHIPPING;
		uploader->report.failing_since_ms = 0;
		uploader->report.error[0] = 0;
		uploader_publish(uploader);
	}
}

void uploader_lost(void *ctx, bool wholly, bool partly)
{
	struct uploader *uploader = ctx;
	struct replica_error error = {.text = ""};
	bool waits = wholly && uploader_emptied(uploader, &error);
	pthread_mutex_lock(&uploader->lock);
	if (waits) {
		name_it(uploader, &error);
	} else if (wholly || partly) {
		begin_anew(uploader,
			wholly ? "the replica was emptied; it gets all pages again"
			       : "the replica has lost segments; it gets all pages again");
	} else {
		take_back(uploader);
	}
	pthread_mutex_unlock(&uploader->lock);
	if (wholly || partly) {
		uploader->options.changed(uploader->options.ctx);
	}
}

void uploader_restorable(struct uploader *uploader, const struct record *record)
{
	struct replica_report *report = &uploader->report;
	bool newer = uploader->held_commit > record->commit_last;
	uploader->bare = false;
	report->percent = 100;
	if (report->commit_no < record->commit_last || newer) {
		report->commit_no = newer ? uploader->held_commit : record->commit_last;
		uploader_note_had(uploader, report->commit_no,
			newer ? uploader->held_ms : record->committed_ms);
	}
	uploader_publish(uploader);
}
