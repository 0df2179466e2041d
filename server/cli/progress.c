/* SPDX-License-Identifier: MIT */

/* The progress bar. It knows nothing of what is done. */

#include "server/cli/progress.h"

#include "server/base/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

enum { SHOW_US = 200000, BAR = 30 };

void progress_init(struct progress *progress, const char *what)
{
	*progress = (struct progress){.what = what, .began_us = clock_now_us()};
	progress->off = isatty(STDERR_FILENO) == 0;
}

static void show_bar(uint64_t done, uint64_t of)
{
	uint64_t part = done < of ? done * BAR / of : BAR;
	fputs(" [", stderr);
	for (uint64_t i = 0; i < BAR; i++) {
		fputc(i < part ? '#' : '.', stderr);
	}
	fprintf(stderr, "] %3" PRIu64 " %%", done < of ? done * 100 / of : 100);
}

static void show_left(uint64_t ms)
{
	uint64_t s = ms / 1000;
	if (s >= 3600) {
		fprintf(stderr, ", %" PRIu64 ":%02" PRIu64 " h left", s / 3600, s / 60 % 60);
	} else if (s >= 60) {
		fprintf(stderr, ", %" PRIu64 ":%02" PRIu64 " min left", s / 60, s % 60);
	} else {
		fprintf(stderr, ", %" PRIu64 " s left", s);
	}
}

void progress_show(struct progress *progress, uint64_t done, uint64_t of, const char *unit,
	uint64_t rate, uint64_t left_ms)
{
	uint64_t now_us = clock_now_us();
	if (progress->off || (progress->shown_us != 0 && now_us < progress->shown_us + SHOW_US)) {
		return;
	}
	progress->shown_us = now_us;
	fprintf(stderr, "\r\033[K%s", progress->what);
	if (of > 0) {
		show_bar(done, of);
	}
	fprintf(stderr, " %" PRIu64 " %s", done, unit);
	if (rate > 0) {
		fprintf(stderr, ", %" PRIu64 "/s", rate);
	}
	if (left_ms > 0) {
		show_left(left_ms);
	}
	fflush(stderr);
}

void progress_end(struct progress *progress)
{
	if (progress->shown_us != 0) {
		fputs("\r\033[K", stderr);
		fflush(stderr);
		progress->shown_us = 0;
	}
}
