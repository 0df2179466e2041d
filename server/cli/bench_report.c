/* SPDX-License-Identifier: MIT */

/*
 * The figures for people. Ratios are taken round by round, between runs that were neighbours in time,
 * so that a machine which gets slower or faster meanwhile moves both sides of them.
 */

#include "server/cli/bench_report.h"

#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS_MAX = 1000 };

static const struct quantile {
	const char *name;
	double part;
} quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}};

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* "1,234,567" */
static const char *count_text(double number, char text[32])
{
	char digits[32];
	size_t out = 0;
	snprintf(digits, sizeof(digits), "%.0f", number);
	size_t len = strlen(digits);
	for (size_t i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0) {
			text[out++] = ',';
		}
		text[out++] = digits[i];
	}
	text[out] = '\0';
	return text;
}

void report_head(const struct report *report)
{
	const struct bench_options *options = report->options;
	const struct bench_machine *machine = &report->machine;
	if (options->json) {
		return;
	}
	printf("load     %s, %u writer%s, depth %u, %u row%s of %u bytes a request, sync %s",
		bench_workload_name(options->workload), options->writers,
		options->writers == 1 ? "" : "s", options->depth, options->rows,
		options->rows == 1 ? "" : "s", options->row_bytes,
		options->sync_full ? "full" : "normal");
	if (options->rate > 0) {
		printf(", %g requests/s", options->rate);
	}
	if (options->readers > 0) {
		printf(", %u readers", options->readers);
	}
	printf("%s\nmachine  %u cores (%s), %.0f GiB, %s, SQLite %s\n",
		options->bulk ? ", beside an import" : "", machine->cores, machine->processor,
		machine->memory_gib, machine->kernel, sqlite3_libversion());
	printf("disk     %s, a page and its fdatasync take %.0f us; load of the machine %.1f\n",
		machine->filesystem, machine->sync_us, machine->load);
	fflush(stdout);
}

static void print_latency(const char *name, const struct histogram *histogram)
{
	printf("  %-11s", name);
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		printf("%s %.3f  ", quantiles[i].name,
			ms(histogram_quantile_ns(histogram, quantiles[i].part)));
	}
	printf("max %.3f ms\n", ms(atomic_load(&histogram->max_ns)));
}

static void print_side(const char *name, const struct run_side *side, double seconds)
{
	char requests[32];
	char rows[32];
	count_text((double)side->requests / seconds, requests);
	count_text((double)side->rows / seconds, rows);
	printf("  %-11s%s requests/s, %s rows/s\n", name, requests, rows);
}

static void print_costs(const struct bench_run *run)
{
	uint64_t rows = run->writes.rows + run->imports.rows;
	printf("  cpu        clients %.2f s, daemon %.2f s, in %.2f s\n", run->cpu_clients_s,
		run->cpu_daemon_s, run->seconds);
	if (run->written_known && rows > 0) {
		printf("  written    %.0f bytes a row\n",
			(double)run->written_bytes / (double)rows);
	}
	if (run->commits > 0) {
		char commits[32];
		printf("  commits    %s/s, %.1f requests each\n",
			count_text((double)run->commits / run->seconds, commits),
			(double)run->commits_requests / (double)run->commits);
	}
	if (run->daemon_peak_bytes > 0) {
		printf("  writer     %.2f s in batches, %.2f s in commits\n", run->writer_exec_s,
			run->writer_commit_s);
		printf("  memory     daemon %.1f MiB at most\n",
			(double)run->daemon_peak_bytes / (1024.0 * 1024));
	}
}

static void print_errors(const struct bench_run *run)
{
	printf("  errors     %s", run->errors_count == 0 ? "none" : "");
	for (unsigned i = 0; i < run->errors_count; i++) {
		printf("%s%llu %s", i > 0 ? ", " : "", (unsigned long long)run->errors[i].count,
			run->errors[i].name);
	}
	putchar('\n');
}

void report_run(const struct report *report, const struct bench_run *run)
{
	static const char *const verdicts[] = {"right: ", "WRONG: ", "not possible: "};
	const struct bench_options *options = report->options;
	if (options->json) {
		return;
	}
	printf("\n%s", bench_mode_name(run->mode));
	if (run->mode == BENCH_RAW) {
		printf(", %u rows a transaction", run->batch_rows);
	}
	if (options->compare) {
		printf(", round %u of %u", run->round, options->rounds);
	}
	putchar('\n');
	print_side("writes", &run->writes, run->seconds);
	print_latency("", &run->writes.latency);
	if (run->mode != BENCH_RAW) {
		printf("  shares     %.2f to %.2f of the mean of a process\n",
			run->writes.share_min, run->writes.share_max);
	}
	print_errors(run);
	if (options->readers > 0) {
		print_side("reads", &run->reads, run->seconds);
		print_latency("", &run->reads.latency);
	}
	if (options->bulk) {
		print_side("import", &run->imports, run->seconds);
	}
	print_costs(run);
	printf("  count      %s%s\n", verdicts[run->check], run->check_text);
	fflush(stdout);
}

/* ---- comparing ---- */

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a;
	double right = *(const double *)b;
	return (left > right) - (left < right);
}

struct spread spread_of(double *values, unsigned count)
{
	if (count == 0) {
		return (struct spread){0, 0, 0};
	}
	qsort(values, count, sizeof(*values), by_size);
	double upper = values[count / 2];
	double lower = values[(count - 1) / 2];
	return (struct spread){(lower + upper) / 2, values[0], values[count - 1]};
}

static const struct bench_run *find_run(
	const struct report *report, enum bench_mode mode, unsigned round)
{
	for (unsigned i = 0; i < report->count; i++) {
		if (report->runs[i]->mode == mode && report->runs[i]->round == round) {
			return report->runs[i];
		}
	}
	return NULL;
}

static double rows_s(const struct bench_run *run)
{
	return (double)run->writes.rows / run->seconds;
}

bool report_ratio(const struct report *report, enum bench_mode mode, enum bench_mode base,
	struct spread *ret_ratio)
{
	double values[ROUNDS_MAX];
	unsigned count = 0;
	for (unsigned round = 1; round <= report->options->rounds; round++) {
		const struct bench_run *run = find_run(report, mode, round);
		const struct bench_run *other = find_run(report, base, round);
		if (run != NULL && other != NULL && other->writes.rows > 0) {
			values[count++] = rows_s(run) / rows_s(other);
		}
	}
	*ret_ratio = spread_of(values, count);
	return count > 0;
}

typedef double figure_fn(const struct bench_run *run);

static double reads_s(const struct bench_run *run)
{
	return (double)run->reads.rows / run->seconds;
}

static double p50_ms(const struct bench_run *run)
{
	return ms(histogram_quantile_ns(&run->writes.latency, 0.5));
}

static double p99_ms(const struct bench_run *run)
{
	return ms(histogram_quantile_ns(&run->writes.latency, 0.99));
}

static double p999_ms(const struct bench_run *run)
{
	return ms(histogram_quantile_ns(&run->writes.latency, 0.999));
}

static double max_ms(const struct bench_run *run)
{
	return ms(atomic_load(&run->writes.latency.max_ns));
}

static double share_min(const struct bench_run *run)
{
	return run->writes.share_min;
}

static double share_max(const struct bench_run *run)
{
	return run->writes.share_max;
}

static struct spread figure(const struct report *report, enum bench_mode mode, figure_fn *fn)
{
	double values[ROUNDS_MAX];
	unsigned count = 0;
	for (unsigned round = 1; round <= report->options->rounds; round++) {
		const struct bench_run *run = find_run(report, mode, round);
		if (run != NULL) {
			values[count++] = fn(run);
		}
	}
	return spread_of(values, count);
}

static void print_ratio(
	const struct report *report, enum bench_mode mode, enum bench_mode base, int width)
{
	struct spread ratio;
	char text[64] = "";
	if (mode != base && report_ratio(report, mode, base, &ratio)) {
		snprintf(text, sizeof(text), "%.2f (%.2f to %.2f)", ratio.median, ratio.min,
			ratio.max);
	}
	printf("  %-*s", width, text);
}

void report_compare(const struct report *report)
{
	const struct bench_options *options = report->options;
	if (options->json) {
		return;
	}
	printf("\nmedians of %u rounds of %g s; ratios of rows/s, round by round (least to most)\n",
		options->rounds, options->seconds);
	printf("%-15s %10s %8s %8s %8s %8s  %-12s  %-20s  %-20s%s\n", "mode", "rows/s", "p50 ms",
		"p99", "p99.9", "max", "shares", "of direct", "of raw",
		options->readers > 0 ? "      reads/s" : "");
	for (enum bench_mode mode = 0; mode < BENCH_MODES; mode++) {
		char rows[32];
		char reads[32];
		if (!options->modes[mode]) {
			continue;
		}
		printf("%-15s %10s %8.3f %8.3f %8.3f %8.1f  %.2f to %.2f", bench_mode_name(mode),
			count_text(figure(report, mode, rows_s).median, rows),
			figure(report, mode, p50_ms).median, figure(report, mode, p99_ms).median,
			figure(report, mode, p999_ms).median, figure(report, mode, max_ms).max,
			figure(report, mode, share_min).min, figure(report, mode, share_max).max);
		print_ratio(report, mode, BENCH_DIRECT, 20);
		print_ratio(report, mode, BENCH_RAW, 20);
		if (options->readers > 0) {
			printf(" %12s", count_text(figure(report, mode, reads_s).median, reads));
		}
		putchar('\n');
	}
	printf("max and shares are the worst of all rounds\n");
}
