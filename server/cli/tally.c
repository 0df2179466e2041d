/* SPDX-License-Identifier: MIT */

/* Counts lines and puts the count into words. Knows neither lines nor outcomes. */

#include "server/cli/tally.h"

#include "server/cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void add(struct tally_lines *lines, uint64_t line)
{
	size_t last = lines->count - 1;
	if (lines->more == 0 && lines->count > 0 && lines->runs[last].last + 1 == line) {
		lines->runs[last].last = line;
	} else if (lines->count < TALLY_RUNS_MAX) {
		lines->runs[lines->count].first = line;
		lines->runs[lines->count++].last = line;
	} else {
		lines->more++;
	}
}

void tally_add_applied(struct tally *tally, uint64_t line)
{
	tally->applied++;
	if (tally->not_begun != 0) {
		add(&tally->beyond, line);
	}
}

void tally_add_unshipped(struct tally *tally, uint64_t line)
{
	tally->unshipped++;
	add(&tally->unshipped_lines, line);
}

void tally_add_failed(struct tally *tally, uint64_t line, int code)
{
	tally->first_code = tally->failed == 0 ? code : tally->first_code;
	tally->failed++;
	add(&tally->failed_lines, line);
}

void tally_add_partly(struct tally *tally, uint64_t line)
{
	tally->partly++;
	tally_add_failed(tally, line, CLI_PARTLY);
}

void tally_add_unknown(struct tally *tally, uint64_t line)
{
	tally->unknown++;
	add(&tally->unknown_lines, line);
}

void tally_add_not_begun(struct tally *tally, uint64_t line)
{
	tally->not_begun = tally->not_begun == 0 ? line : tally->not_begun;
}

/* ---- words ---- */

static void print_lines(FILE *out, const char *what, const struct tally_lines *lines)
{
	if (lines->count == 0) {
		return;
	}
	bool one = lines->count == 1 && lines->more == 0 &&
		lines->runs[0].first == lines->runs[0].last;
	fprintf(out, "; %s: line%s ", what, one ? "" : "s");
	for (size_t i = 0; i < lines->count; i++) {
		uint64_t first = lines->runs[i].first;
		uint64_t last = lines->runs[i].last;
		fprintf(out, "%s%" PRIu64, i > 0 ? ", " : "", first);
		if (last > first) {
			fprintf(out, "-%" PRIu64, last);
		}
	}
	if (lines->more > 0) {
		fprintf(out, " and %" PRIu64 " more", lines->more);
	}
}

/* So that the printed command can be copied into a shell. */
static void print_quoted(FILE *out, const char *text)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
				    "/._-+:,@%";
	if (text[strspn(text, plain)] == '\0') {
		fputs(text, out);
		return;
	}
	fputc('\'', out);
	for (; *text != '\0'; text++) {
		if (*text == '\'') {
			fputs("'\\''", out);
		} else {
			fputc(*text, out);
		}
	}
	fputc('\'', out);
}

/* How to go on. A lone failed line with nothing behind it can be corrected in place. */
static void print_way_on(FILE *out, const struct tally *tally, const char *db)
{
	uint64_t next = tally->not_begun != 0 ? tally->not_begun : tally->lines + 1;
	const struct tally_lines *failed = &tally->failed_lines;
	bool in_place = tally->failed == 1 && failed->runs[0].first + 1 == next;
	if (tally->unknown > 0) {
		fputs("; look in the database what became of the unknown", out);
	}
	if (tally->failed > 0) {
		fprintf(out, "; correct what failed%s", in_place ? "" : " and send it by itself");
	}
	if (tally->unshipped > 0) {
		fputs("; to wait for the replicas: litefunnel sync ", out);
		print_quoted(out, db);
	}
	if (tally->ended && tally->not_begun == 0 && !in_place) {
		return;
	}
	fprintf(out, "; %s: tail -n +%" PRIu64 " FILE | litefunnel exec ",
		in_place ? "then go on with" : "the rest", in_place ? failed->runs[0].first : next);
	print_quoted(out, db);
	fputs(" -", out);
}

static int code_of(const struct tally *tally)
{
	bool left = tally->failed > 0 || tally->not_begun != 0 || tally->interrupted ||
		tally->input_error != 0 || tally->output_error;
	if (tally->unknown > 0) {
		return CLI_UNKNOWN;
	}
	if (!left) {
		return tally->unshipped > 0 ? CLI_PARTLY : CLI_DONE;
	}
	return tally->applied > 0 || tally->partly > 0 ? CLI_PARTLY
		: tally->failed > 0                    ? tally->first_code
						       : CLI_FAILED;
}

int tally_end(const struct tally *tally, const char *db, bool json)
{
	int code = code_of(tally);
	FILE *out = code == CLI_DONE ? stdout : stderr;
	if (code == CLI_DONE && json) {
		return code;
	}
	if (tally->input_error != 0) {
		cli_fail("exec", "cannot read on behind line %" PRIu64 ": %s", tally->lines,
			strerror(-tally->input_error));
	}
	if (code != CLI_DONE) {
		fprintf(out, "litefunnel exec: %s", tally->interrupted ? "interrupted; " : "");
	}
	fprintf(out, "%" PRIu64 " line%s applied", tally->applied, tally->applied == 1 ? "" : "s");
	if (code != CLI_DONE) {
		print_lines(out, tally->partly > 0 ? "failed, some in part" : "failed",
			&tally->failed_lines);
		print_lines(out, "unknown", &tally->unknown_lines);
		print_lines(out, "committed, but not shipped in time (not to be sent again)",
			&tally->unshipped_lines);
		print_lines(out, "applied behind the first that was not begun", &tally->beyond);
		print_way_on(out, tally, db);
	}
	fputc('\n', out);
	return code;
}
