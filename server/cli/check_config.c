/* SPDX-License-Identifier: MIT */

/* litefunnel check-config: reads a config file as `serve` would, and starts nothing. */

#include "server/base/cleanup.h"
#include "server/base/config.h"
#include "server/cli/cli.h"
#include "server/cli/options.h"
#include "server/cli/print.h"
#include "server/cli/replicas.h"
#include "server/cli/text.h"
#include "server/funnel/credentials.h"

#include <string.h>

static const char help[] =
	"usage: litefunnel check-config FILE [--print] [--json]\n"
	"       litefunnel check-config --sample\n"
	"\n"
	"Says whether a config file is good: every line a known setting with a value that is\n"
	"allowed. The environment and options, which win over the file, are not looked at. Warns of\n"
	"users and groups that this machine does not know: nobody has their roles.\n"
	"\n"
	"  --print         print all settings as the file and the defaults make them\n"
	"  --json          print an object {\"ok\", \"error\", \"warnings\"}, with --print also \"settings\"\n"
	"  --sample        print a file with every setting, its meaning and its default\n"
	"  --help          this text\n"
	"\n"
	"Exit codes: 0 good, 1 not good, 2 usage.\n";

enum { OPTION_HELP, OPTION_PRINT, OPTION_JSON, OPTION_SAMPLE };

static const struct option table[] = {
	{"help", no_argument, NULL, OPTION_HELP},
	{"print", no_argument, NULL, OPTION_PRINT},
	{"json", no_argument, NULL, OPTION_JSON},
	{"sample", no_argument, NULL, OPTION_SAMPLE},
	{NULL, 0, NULL, 0},
};

struct check {
	const char *file;
	bool print;
	bool json;
	bool sample;
};

/* -1: go on. Otherwise the exit code. */
static int parse(struct check *check, struct options *options)
{
	for (int option = options_next(options); option != OPTIONS_END;
		option = options_next(options)) {
		if (option == OPTION_HELP) {
			fputs(help, stdout);
			return CLI_DONE;
		}
		if (option == OPTIONS_BAD) {
			return CLI_USAGE;
		}
		check->print = check->print || option == OPTION_PRINT;
		check->json = check->json || option == OPTION_JSON;
		check->sample = check->sample || option == OPTION_SAMPLE;
	}
	check->file = options_shift(options);
	if (check->sample) {
		return check->file == NULL ? -1
					   : cli_usage("check-config", "--sample takes no file");
	}
	if (check->file == NULL) {
		return cli_usage("check-config", "which file?");
	}
	return options_finish(options) != 0 ? CLI_USAGE : -1;
}

static void print_settings(const struct config *config)
{
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		const char *text = config->values[i].text;
		printf("%s =%s%s%s\n", settings[i].name, text[0] != '\0' ? " " : "", text,
			config->values[i].source == SETTING_FROM_FILE ? "  ; from the file" : "");
	}
}

static void json_settings(const struct config *config)
{
	fputs(",\"settings\":[", stdout);
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		fputs(i > 0 ? ",{\"name\":" : "{\"name\":", stdout);
		text_json_cstr(stdout, settings[i].name);
		fputs(",\"value\":", stdout);
		text_json_cstr(stdout, config->values[i].text);
		fputs(",\"default\":", stdout);
		text_json_cstr(stdout, settings[i].fallback);
		printf(",\"source\":\"%s\",\"reloads\":%s}",
			setting_source_name(config->values[i].source),
			settings[i].reloads ? "true" : "false");
	}
	fputc(']', stdout);
}

struct warnings {
	bool json;
	size_t count;
};

static void warn_of_unknown(void *ctx, const char *setting, const char *name)
{
	struct warnings *warnings = ctx;
	char text[CONFIG_ERROR_BYTES];
	snprintf(text, sizeof(text), "%s: this machine knows no %s \"%.200s\"", setting,
		name[0] == '@' ? "group" : "user", name[0] == '@' ? name + 1 : name);
	if (warnings->json) {
		fputs(warnings->count > 0 ? "," : "", stdout);
		text_json_cstr(stdout, text);
	} else {
		cli_fail("check-config", "warning: %s", text);
	}
	warnings->count++;
}

static void print_warnings(const struct config *config, bool json)
{
	struct warnings warnings = {.json = json};
	credentials_find_unknown(config, warn_of_unknown, &warnings);
}

static void print_result(const struct check *check, const struct config *config, const char *error)
{
	bool good = error[0] == '\0';
	if (check->json) {
		printf("{\"ok\":%s,\"error\":", good ? "true" : "false");
		text_json_cstr(stdout, error);
		fputs(",\"warnings\":[", stdout);
		if (good) {
			print_warnings(config, true);
		}
		fputc(']', stdout);
		if (good && check->print) {
			json_settings(config);
		}
		fputs("}\n", stdout);
	} else if (good && check->print) {
		print_settings(config);
	} else if (good) {
		printf("%s is good\n", check->file);
	} else {
		cli_fail("check-config", "%s", error);
	}
}

int cli_check_config(int argc, char **argv)
{
	CLEANUP(config_finish) struct config config = {0};
	struct check check = {0};
	struct options options;
	char error[CONFIG_ERROR_BYTES] = "";
	options_init(&options, "check-config", table, argc, argv);
	int code = parse(&check, &options);
	if (code >= 0) {
		return code;
	}
	if (check.sample) {
		config_print_sample(stdout);
		return print_flush("check-config") == 0 ? CLI_DONE : CLI_FAILED;
	}
	int rc = config_init(&config);
	rc = rc == 0 ? config_read_file(&config, check.file, error) : rc;
	if (rc == 0) {
		char why[300] = "";
		rc = replicas_check(config_text(&config, SETTING_REPLICA), why, sizeof(why));
		if (rc < 0) {
			snprintf(error, sizeof(error), "%.200s: %.300s", check.file, why);
		}
	}
	if (rc < 0 && error[0] == '\0') {
		return cli_fail("check-config", "%s", strerror(-rc));
	}
	if (rc == 0 && !check.json) {
		print_warnings(&config, false);
	}
	print_result(&check, &config, error);
	return print_flush("check-config") == 0 && rc == 0 ? CLI_DONE : CLI_FAILED;
}
