/* SPDX-License-Identifier: MIT */

/* Counts, and tells the first few of each kind in full. */

#include "tests/crash/findings.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TOLD_MAX = 5 };

static const char *const names[FOUND_KINDS] = {
	"lost", "twice", "half", "ghosts", "corrupt", "refused", "wrong answers", "died", "leaks"};

static uint64_t counts[FOUND_KINDS];
static unsigned only = FOUND_KINDS;
static char context[512];

void findings_context(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(context, sizeof(context), format, args);
	va_end(args);
}

bool findings_only(const char *name)
{
	for (only = 0; only < FOUND_KINDS && strcmp(names[only], name) != 0; only++) {
	}
	return only < FOUND_KINDS;
}

void found(enum finding finding, const char *format, ...)
{
	if ((only < FOUND_KINDS && finding != only) || counts[finding]++ >= TOLD_MAX) {
		return;
	}
	va_list args;
	va_start(args, format);
	printf("FOUND %s: %s: ", names[finding], context);
	vprintf(format, args);
	printf("\n");
	fflush(stdout);
	va_end(args);
}

uint64_t findings_total(void)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < FOUND_KINDS; i++) {
		total += counts[i];
	}
	return total;
}

void findings_add(enum finding finding, uint64_t count)
{
	counts[finding] += count;
}

void findings_take(uint64_t ret_counts[FOUND_KINDS])
{
	memcpy(ret_counts, counts, sizeof(counts));
}

void findings_print(void)
{
	for (unsigned i = 0; i < FOUND_KINDS; i++) {
		printf("%s%llu %s", i > 0 ? ", " : "", (unsigned long long)counts[i], names[i]);
	}
	printf("\n");
	fflush(stdout);
}

static void struck(int number)
{
	static const char text[] = "FOUND died: ";
	(void)!write(STDOUT_FILENO, text, sizeof(text) - 1);
	(void)!write(STDOUT_FILENO, context, strlen(context));
	(void)!write(STDOUT_FILENO, "\n", 1);
	signal(number, SIG_DFL);
	raise(number);
}

void findings_watch_signals(void)
{
	static const int fatal[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
	for (unsigned i = 0; i < sizeof(fatal) / sizeof(fatal[0]); i++) {
		signal(fatal[i], struck);
	}
}
