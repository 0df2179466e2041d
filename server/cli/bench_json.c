/* SPDX-License-Identifier: MIT */

/* The figures as one JSON object: the machine, the load, each run, and the ratios. */

#include "server/cli/bench_report.h"

#include <errno.h>
#include <jansson.h>
#include <sqlite3.h>
#include <stdio.h>

static json_t *machine_json(const struct bench_machine *machine)
{
	return json_pack("{s:i, s:s, s:f, s:s, s:s, s:s, s:f, s:f}", "cores", (int)machine->cores,
		"processor", machine->processor, "memory_gib", machine->memory_gib, "kernel",
		machine->kernel, "sqlite", sqlite3_libversion(), "filesystem", machine->filesystem,
		"sync_us", machine->sync_us, "load", machine->load);
}

static json_t *load_json(const struct bench_options *options)
{
	json_t *settings = json_array();
	for (unsigned i = 0; i < options->settings_count; i++) {
		json_array_append_new(settings, json_string(options->settings[i]));
	}
	return json_pack("{s:s, s:i, s:i, s:i, s:i, s:I, s:f, s:i, s:b, s:s, s:f, s:f, s:o}",
		"workload", bench_workload_name(options->workload), "writers",
		(int)options->writers, "depth", (int)options->depth, "rows", (int)options->rows,
		"row_bytes", (int)options->row_bytes, "table_rows", (json_int_t)options->table_rows,
		"rate", options->rate, "readers", (int)options->readers, "bulk", (int)options->bulk,
		"sync", options->sync_full ? "full" : "normal", "seconds", options->seconds,
		"warmup", options->warmup_seconds, "settings", settings);
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

static json_t *side_json(const struct run_side *side, double seconds)
{
	const struct histogram *latency = &side->latency;
	return json_pack("{s:I, s:I, s:f, s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:{s:f, s:f}}",
		"requests", (json_int_t)side->requests, "rows", (json_int_t)side->rows,
		"requests_s", (double)side->requests / seconds, "rows_s",
		(double)side->rows / seconds, "latency_ms", "mean", ms(histogram_mean_ns(latency)),
		"p50", ms(histogram_quantile_ns(latency, 0.5)), "p90",
		ms(histogram_quantile_ns(latency, 0.9)), "p99",
		ms(histogram_quantile_ns(latency, 0.99)), "p99.9",
		ms(histogram_quantile_ns(latency, 0.999)), "max", ms(atomic_load(&latency->max_ns)),
		"shares", "min", side->share_min, "max", side->share_max);
}

static json_t *errors_json(const struct bench_run *run)
{
	json_t *errors = json_object();
	for (unsigned i = 0; i < run->errors_count; i++) {
		json_object_set_new(errors, run->errors[i].name,
			json_integer((json_int_t)run->errors[i].count));
	}
	return errors;
}

static json_t *run_json(const struct report *report, const struct bench_run *run)
{
	static const char *const verdicts[] = {"right", "wrong", "unknown"};
	uint64_t rows = run->writes.rows + run->imports.rows;
	json_t *object = json_pack("{s:s, s:i, s:i, s:f, s:o, s:o, s:{s:f, s:f}, s:I, s:f, s:I, "
				   "s:{s:f, s:f}, s:{s:s, s:s}}",
		"mode", bench_mode_name(run->mode), "round", (int)run->round, "batch_rows",
		(int)run->batch_rows, "seconds", run->seconds, "writes",
		side_json(&run->writes, run->seconds), "errors", errors_json(run), "cpu_s",
		"clients", run->cpu_clients_s, "daemon", run->cpu_daemon_s, "commits",
		(json_int_t)run->commits, "group",
		run->commits > 0 ? (double)run->commits_requests / (double)run->commits : 0.0,
		"daemon_peak_bytes", (json_int_t)run->daemon_peak_bytes, "writer_s", "batches",
		run->writer_exec_s, "commits", run->writer_commit_s, "count", "verdict",
		verdicts[run->check], "text", run->check_text);
	json_object_set_new(object, "written_bytes_per_row",
		run->written_known && rows > 0
			? json_real((double)run->written_bytes / (double)rows)
			: json_null());
	if (report->options->readers > 0) {
		json_object_set_new(object, "reads", side_json(&run->reads, run->seconds));
	}
	if (report->options->bulk) {
		json_object_set_new(object, "import", side_json(&run->imports, run->seconds));
	}
	return object;
}

static json_t *ratios_json(const struct report *report)
{
	json_t *ratios = json_array();
	for (enum bench_mode mode = 0; mode < BENCH_MODES; mode++) {
		for (enum bench_mode base = BENCH_DIRECT; base < BENCH_MODES; base++) {
			struct spread ratio;
			if (mode == base || !report_ratio(report, mode, base, &ratio)) {
				continue;
			}
			json_array_append_new(ratios,
				json_pack("{s:s, s:s, s:f, s:f, s:f}", "mode",
					bench_mode_name(mode), "of", bench_mode_name(base),
					"median", ratio.median, "min", ratio.min, "max",
					ratio.max));
		}
	}
	return ratios;
}

int report_json(const struct report *report)
{
	json_t *runs = json_array();
	for (unsigned i = 0; i < report->count; i++) {
		json_array_append_new(runs, run_json(report, report->runs[i]));
	}
	json_t *whole = json_pack("{s:o, s:o, s:o, s:o}", "machine", machine_json(&report->machine),
		"load", load_json(report->options), "runs", runs, "ratios", ratios_json(report));
	int rc = whole != NULL && json_dumpf(whole, stdout, JSON_COMPACT) == 0 ? 0 : -ENOMEM;
	json_decref(whole);
	putchar('\n');
	return rc;
}
