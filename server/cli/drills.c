/* SPDX-License-Identifier: MIT */

/* Drills in words. Columns are found by their names: more may be added on either side. */

#include "server/cli/drills.h"

#include "server/cli/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct print_value drills_cell(const lf_reply *table, size_t row, const char *name)
{
	for (unsigned column = 0; column < lf_reply_columns(table, 0); column++) {
		if (strcmp(lf_reply_column(table, 0, column), name) == 0) {
			return answer_value(table, 0, row, column);
		}
	}
	return (struct print_value){.type = LF_NULL, .data = ""};
}

enum drill_verdict drills_verdict(const lf_reply *drills, size_t row)
{
	char name[16];
	enum drill_verdict verdict = DRILL_INCONCLUSIVE;
	struct print_value text = drills_cell(drills, row, "verdict");
	snprintf(name, sizeof name, "%.*s", (int)text.len, (const char *)text.data);
	(void)drill_verdict_parse(name, &verdict);
	return verdict;
}

enum drill_verdict drills_worst(const lf_reply *drills)
{
	bool unclear = lf_reply_rows(drills, 0) == 0;
	for (size_t row = 0; row < lf_reply_rows(drills, 0); row++) {
		enum drill_verdict verdict = drills_verdict(drills, row);
		if (verdict == DRILL_FAIL) {
			return DRILL_FAIL;
		}
		unclear |= verdict == DRILL_INCONCLUSIVE;
	}
	return unclear ? DRILL_INCONCLUSIVE : DRILL_PASS;
}

static void print_one(const lf_reply *drills, size_t row)
{
	struct print_value url = drills_cell(drills, row, "replica");
	struct print_value reason = drills_cell(drills, row, "reason");
	struct print_value tables = drills_cell(drills, row, "tables");
	int64_t commit = drills_cell(drills, row, "commit").integer;
	int64_t behind = drills_cell(drills, row, "behind").integer;
	int64_t violations = drills_cell(drills, row, "violations").integer;
	printf("%s%s%.*s\n", drill_verdict_name(drills_verdict(drills, row)),
		reason.len > 0 ? ": " : "", (int)reason.len, (const char *)reason.data);
	printf("replica  %.*s\n", (int)url.len, (const char *)url.data);
	if (drills_cell(drills, row, "segment").integer > 0) {
		printf("restored commit %" PRId64 " in %.1f s (RTO), %.1f MiB of database\n",
			commit, (double)drills_cell(drills, row, "rto_ms").integer / 1000,
			(double)drills_cell(drills, row, "database_bytes").integer / 1048576);
	}
	if (behind > 0) {
		printf("behind   %" PRId64 " commits, %.1f s when it began (RPO)\n", behind,
			(double)drills_cell(drills, row, "rpo_ms").integer / 1000);
	} else {
		puts("behind   nothing when it began (RPO)");
	}
	if (violations > 0) {
		printf("orphans  %" PRId64 " rows without their parent (foreign_key_check)\n",
			violations);
	}
	if (tables.len > 0) {
		printf("rows     %.*s\n", (int)tables.len, (const char *)tables.data);
	}
}

void drills_print(const lf_reply *drills)
{
	for (size_t row = 0; row < lf_reply_rows(drills, 0); row++) {
		print_one(drills, row);
	}
}

void drills_json(const lf_reply *drills)
{
	putchar('[');
	for (size_t row = 0; row < lf_reply_rows(drills, 0); row++) {
		fputs(row > 0 ? ",{" : "{", stdout);
		for (unsigned column = 0; column < lf_reply_columns(drills, 0); column++) {
			const char *name = lf_reply_column(drills, 0, column);
			struct print_value value = answer_value(drills, 0, row, column);
			fputs(column > 0 ? "," : "", stdout);
			text_json_cstr(stdout, name);
			fputc(':', stdout);
			if (strcmp(name, "tables") == 0 && value.len > 0) {
				printf("%.*s", (int)value.len, (const char *)value.data);
			} else {
				print_json_value(stdout, &value);
			}
		}
		putchar('}');
	}
	putchar(']');
}
