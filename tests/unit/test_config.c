/* SPDX-License-Identifier: MIT */

/* Settings: the table itself, each type and unit, the order of the sources, files, reload. */

#include "server/base/config.h"
#include "tests/unit/cmocka_all.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[512];

static const char *in_dir(const char *name)
{
	static char path[640];
	(void)snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static const char *write_file(const char *name, const char *text)
{
	const char *path = in_dir(name);
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	(void)fputs(text, file);
	(void)fclose(file);
	return path;
}

/* ---- the table ---- */

static void test_the_table_is_complete_and_its_defaults_are_good(void **state)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES];
	(void)state;
	assert_int_equal(config_init(&config), 0);
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		const struct setting *setting = &settings[i];
		assert_non_null(setting->name);
		assert_true(setting->name[0] != 0);
		assert_true(setting->help[0] != 0);
		for (const char *at = setting->name; *at != 0; at++) {
			assert_true(islower((unsigned char)*at) || *at == '_');
		}
		for (size_t j = 0; j < i; j++) {
			assert_string_not_equal(settings[j].name, setting->name);
		}
		assert_string_equal(config_text(&config, (enum setting_id)i), setting->fallback);
		assert_int_equal(config.values[i].source, SETTING_FROM_DEFAULT);
		/* The limits themselves are allowed, what is beyond is not. */
		if (setting->type == SETTING_TYPE_NUMBER || setting->type == SETTING_TYPE_BYTES ||
			setting->type == SETTING_TYPE_MS) {
			const char *unit = setting->type == SETTING_TYPE_MS ? "ms" : "";
			const struct {
				uint64_t number;
				int want;
			} cases[] = {{setting->min, 0}, {setting->max, 0},
				{setting->max + 1, -EINVAL}, {setting->min - 1, -EINVAL}};
			for (size_t j = 0; j < (setting->min > 0 ? 4 : 3); j++) {
				char text[64];
				(void)snprintf(text, sizeof(text), "%llu%s",
					(unsigned long long)cases[j].number, unit);
				assert_int_equal(config_set(&config, setting->name, text,
							 SETTING_FROM_OPTION, error),
					cases[j].want);
			}
			assert_int_equal(config_number(&config, (enum setting_id)i), setting->max);
		}
	}
	config_finish(&config);
}

/* ---- values ---- */

static void test_values(void **state)
{
	static const struct {
		const char *name;
		const char *text;
		int want;
		uint64_t number;
	} cases[] = {
		{"rows_max", "1", 0, 1},
		{"rows_max", "12345", 0, 12345},
		{"rows_max", "0", -EINVAL, 0},
		{"rows_max", "-1", -EINVAL, 0},
		{"rows_max", "+1", -EINVAL, 0},
		{"rows_max", " 1", -EINVAL, 0},
		{"rows_max", "", -EINVAL, 0},
		{"rows_max", "1k", -EINVAL, 0},
		{"rows_max", "1.5", -EINVAL, 0},
		{"rows_max", "0x10", -EINVAL, 0},
		{"rows_max", "99999999999999999999999", -EINVAL, 0},
		{"result_bytes_max", "2048", 0, 2048},
		{"result_bytes_max", "2048b", 0, 2048},
		{"result_bytes_max", "2k", 0, 2048},
		{"result_bytes_max", "2KiB", 0, 2048},
		{"result_bytes_max", "2 kib", 0, 2048},
		{"result_bytes_max", "3m", 0, 3 << 20},
		{"result_bytes_max", "3MiB", 0, 3 << 20},
		{"result_bytes_max", "1MB", -EINVAL, 0},
		{"result_bytes_max", "1x", -EINVAL, 0},
		{"result_bytes_max", "KiB", -EINVAL, 0},
		{"result_bytes_max", "18446744073709551615k", -EINVAL, 0},
		{"result_bytes_max", "18014398509481985k", -EINVAL, 0}, /* 2^64 + 1024 */
		{"cache_bytes", "1g", 0, 1ull << 30},
		{"cache_bytes", "1GiB", 0, 1ull << 30},
		{"deadline", "500ms", 0, 500},
		{"deadline", "30s", 0, 30000},
		{"deadline", "5m", 0, 300000},
		{"deadline", "1h", 0, 3600000},
		{"deadline", "1d", 0, 86400000},
		{"deadline", "1 D", 0, 86400000},
		{"deadline", "30", -EINVAL, 0}, /* of what? */
		{"deadline", "30 sec", -EINVAL, 0},
		{"deadline", "2d", -EINVAL, 0},
		{"deadline", "0", -EINVAL, 0},
		{"slow", "0", 0, 0},
		{"slow", "0s", 0, 0},
		{"foreign_keys", "on", 0, 1},
		{"foreign_keys", "OFF", 0, 0},
		{"foreign_keys", "yes", 0, 1},
		{"foreign_keys", "no", 0, 0},
		{"foreign_keys", "True", 0, 1},
		{"foreign_keys", "false", 0, 0},
		{"foreign_keys", "1", 0, 1},
		{"foreign_keys", "0", 0, 0},
		{"foreign_keys", "2", -EINVAL, 0},
		{"foreign_keys", "", -EINVAL, 0},
		{"sync", "full", 0, SYNC_FULL},
		{"sync", "normal", 0, SYNC_NORMAL},
		{"sync", "off", -EINVAL, 0},
		{"sync", "ful", -EINVAL, 0},
		{"sync", "full|normal", -EINVAL, 0},
		{"sync", "", -EINVAL, 0},
		{"log_level", "debug", 0, 0},
		{"log_level", "error", 0, 3},
		{"log_format", "json", 0, 1},
		{"socket", "", 0, 0},
		{"socket", "any text = \"at all\"", 0, 0},
		{"no_such", "1", -EINVAL, 0},
		{"ROWS_MAX", "1", -EINVAL, 0},
		{"rows-max", "1", -EINVAL, 0},
		{"", "1", -EINVAL, 0},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config config;
		char error[CONFIG_ERROR_BYTES] = "";
		assert_int_equal(config_init(&config), 0);
		int rc = config_set(
			&config, cases[i].name, cases[i].text, SETTING_FROM_OPTION, error);
		if (rc != cases[i].want) {
			fail_msg("%s = \"%s\": %d %s", cases[i].name, cases[i].text, rc, error);
		}
		for (size_t j = 0; j < SETTING_COUNT; j++) {
			if (strcmp(settings[j].name, cases[i].name) != 0) {
				continue;
			}
			/* A refused value leaves what was there, and says what was wrong. */
			assert_string_equal(config_text(&config, (enum setting_id)j),
				rc == 0 ? cases[i].text : settings[j].fallback);
			assert_true(rc != 0 ||
				config_number(&config, (enum setting_id)j) == cases[i].number);
			assert_true(rc == 0 || strstr(error, cases[i].name) != NULL);
		}
		assert_true(rc == 0 || strstr(error, cases[i].name) != NULL);
		config_finish(&config);
	}
}

static void test_a_long_value_fits_its_error(void **state)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES];
	char text[4096];
	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	assert_int_equal(config_init(&config), 0);
	assert_int_equal(config_set(&config, "rows_max", text, SETTING_FROM_FILE, error), -EINVAL);
	assert_true(strlen(error) < CONFIG_ERROR_BYTES);
	assert_int_equal(config_set(&config, text, "1", SETTING_FROM_FILE, error), -EINVAL);
	assert_true(strlen(error) < CONFIG_ERROR_BYTES);
	config_finish(&config);
}

/* ---- sources ---- */

static void test_the_stronger_source_wins_in_any_order(void **state)
{
	(void)state;
	for (int first = SETTING_FROM_DEFAULT; first <= SETTING_FROM_OPTION; first++) {
		for (int second = SETTING_FROM_DEFAULT; second <= SETTING_FROM_OPTION; second++) {
			struct config config;
			char error[CONFIG_ERROR_BYTES];
			assert_int_equal(config_init(&config), 0);
			assert_int_equal(config_set(&config, "rows_max", "11",
						 (enum setting_source)first, error),
				0);
			assert_int_equal(config_set(&config, "rows_max", "22",
						 (enum setting_source)second, error),
				0);
			bool second_wins = second >= first;
			assert_int_equal(
				config_number(&config, SETTING_ROWS_MAX), second_wins ? 22 : 11);
			assert_int_equal(config.values[SETTING_ROWS_MAX].source,
				second_wins ? second : first);
			/* A wrong value is wrong even where it would not win. */
			assert_int_equal(
				config_set(&config, "rows_max", "no", SETTING_FROM_DEFAULT, error),
				-EINVAL);
			config_finish(&config);
		}
	}
	assert_string_equal(setting_source_name(SETTING_FROM_DEFAULT), "default");
	assert_string_equal(setting_source_name(SETTING_FROM_FILE), "file");
	assert_string_equal(setting_source_name(SETTING_FROM_ENVIRONMENT), "environment");
	assert_string_equal(setting_source_name(SETTING_FROM_OPTION), "option");
}

static void test_files(void **state)
{
	static const struct {
		const char *text;
		int want;
		const char *says; /* in the error */
	} cases[] = {
		{"", 0, ""},
		{"# nothing\n; nothing\n\n", 0, ""},
		{"rows_max = 5\n", 0, ""},
		{"rows_max=5\n", 0, ""},
		{"rows_max = 5", 0, ""},
		{"rows_max = 5\r\nslow = 2s\r\n", 0, ""},
		{"rows_max = 5\nroes_max = 6\n", -EINVAL, ":2: unknown setting \"roes_max\""},
		{"rows_max = many\n", -EINVAL, ":1: rows_max = \"many\": use a number"},
		{"rows_max = 0\n", -EINVAL, "outside 1 to"},
		{"[main]\nrows_max = 5\n", -EINVAL, "no sections"},
		{"rows_max = 5\nwhat is this\n", -EINVAL, ":2: not a line of the form"},
		{"sync =\n", -EINVAL, "use one of full|normal"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config config;
		char error[CONFIG_ERROR_BYTES] = "";
		const char *path = write_file("conf", cases[i].text);
		assert_int_equal(config_init(&config), 0);
		int rc = config_read_file(&config, path, error);
		if (rc != cases[i].want || strstr(error, cases[i].says) == NULL) {
			fail_msg("%s: %d %s", cases[i].text, rc, error);
		}
		if (rc == 0) {
			assert_string_equal(config.file, path);
			bool given = strstr(cases[i].text, "rows_max") != NULL;
			assert_int_equal(
				config_number(&config, SETTING_ROWS_MAX), given ? 5 : 100000);
			assert_int_equal(config.values[SETTING_ROWS_MAX].source,
				given ? SETTING_FROM_FILE : SETTING_FROM_DEFAULT);
		} else {
			assert_null(config.file);
			assert_non_null(strstr(error, "conf"));
		}
		config_finish(&config);
	}
}

static void test_a_missing_file_is_an_error(void **state)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES];
	(void)state;
	assert_int_equal(config_init(&config), 0);
	assert_int_equal(config_read_file(&config, in_dir("none"), error), -EINVAL);
	assert_non_null(strstr(error, "No such file"));
	assert_int_equal(config_read_file(&config, dir, error), -EINVAL);
	config_finish(&config);
}

/* A value with what the file format gives a meaning of its own must arrive as it was written. */
static void test_text_values_of_a_file(void **state)
{
	static const struct {
		const char *line;
		const char *value;
	} cases[] = {
		{"roles_write = app, @web, 1001\n", "app, @web, 1001"},
		{"roles_write = *\n", "*"},
		{"socket = /run/a b/funnel\n", "/run/a b/funnel"},
		{"socket = /run/x=y\n", "/run/x=y"},
		{"socket = /run/x:y\n", "/run/x:y"},
		{"socket = /run/x#y\n", "/run/x#y"},
		{"socket = \n", ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct config config;
		char error[CONFIG_ERROR_BYTES] = "";
		assert_int_equal(config_init(&config), 0);
		assert_int_equal(
			config_read_file(&config, write_file("conf", cases[i].line), error), 0);
		enum setting_id id = cases[i].line[0] == 's' ? SETTING_SOCKET : SETTING_ROLES_WRITE;
		assert_string_equal(config_text(&config, id), cases[i].value);
		config_finish(&config);
	}
}

/* A line longer than the reader's buffer must not be taken for two, nor be cut in silence. */
static void test_a_long_line_is_read_whole_or_refused(void **state)
{
	(void)state;
	for (size_t len = 150; len < 1200; len += 7) {
		struct config config;
		char error[CONFIG_ERROR_BYTES] = "";
		char text[2048] = "roles_write = ";
		size_t head = strlen(text);
		memset(text + head, 'u', len);
		text[head + len] = '\n';
		text[head + len + 1] = 0;
		assert_int_equal(config_init(&config), 0);
		int rc = config_read_file(&config, write_file("conf", text), error);
		if (rc == 0 && strlen(config_text(&config, SETTING_ROLES_WRITE)) != len) {
			fail_msg("of %zu bytes of a value %zu were read", len,
				strlen(config_text(&config, SETTING_ROLES_WRITE)));
		}
		config_finish(&config);
	}
}

static int read_environment(struct config *config, char *error)
{
	assert_int_equal(config_init(config), 0);
	return config_read_environment(config, error);
}

static void test_environment(void **state)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES] = "";
	(void)state;
	/* Each setting has its variable. */
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		char name[96] = "LITEFUNNEL_";
		size_t len = strlen(name);
		for (const char *at = settings[i].name; *at != 0; at++) {
			name[len++] = (char)toupper((unsigned char)*at);
		}
		name[len] = 0;
		setenv(name, settings[i].fallback, 1);
		assert_int_equal(read_environment(&config, error), 0);
		for (size_t j = 0; j < SETTING_COUNT; j++) {
			assert_int_equal(config.values[j].source,
				j == i ? SETTING_FROM_ENVIRONMENT : SETTING_FROM_DEFAULT);
		}
		config_finish(&config);
		unsetenv(name);
	}
	setenv("LITEFUNNEL_ROWS_MAX", "oops", 1);
	assert_int_equal(read_environment(&config, error), -EINVAL);
	assert_non_null(strstr(error, "LITEFUNNEL_ROWS_MAX: rows_max = \"oops\""));
	config_finish(&config);
	unsetenv("LITEFUNNEL_ROWS_MAX");
}

static void test_unknown_variables(void **state)
{
	static const struct {
		const char *name;
		const char *value;
		bool good;
	} variables[] = {
		{"LITEFUNNEL_QUEUE_MX", "5", false},
		{"LITEFUNNEL_queue_max", "5", false},
		{"LITEFUNNEL_QUEUE_MX_FILE", "/dev/null", false},
		{"LITEFUNNEL_SUPPORT", "5", false},
		{"LITEFUNNEL_", "", false},
		{"LITEFUNNEL_DB", "x", true},
		{"LITEFUNNEL_CONFIG", "x", true},
		{"LITEFUNNELS", "5", true},
		/* What Kubernetes says of services called litefunnel and litefunnel-web. */
		{"LITEFUNNEL_SERVICE_HOST", "10.0.0.11", true},
		{"LITEFUNNEL_SERVICE_PORT", "80", true},
		{"LITEFUNNEL_SERVICE_PORT_HTTP", "80", true},
		{"LITEFUNNEL_PORT", "tcp://10.0.0.11:80", true},
		{"LITEFUNNEL_PORT_80_TCP", "tcp://10.0.0.11:80", true},
		{"LITEFUNNEL_PORT_80_TCP_ADDR", "10.0.0.11", true},
		{"LITEFUNNEL_WEB_SERVICE_HOST", "10.0.0.12", true},
		{"LITEFUNNEL_WEB_PORT_80_TCP_PROTO", "tcp", true},
	};
	struct config config;
	(void)state;
	for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
		char error[CONFIG_ERROR_BYTES] = "";
		setenv(variables[i].name, variables[i].value, 1);
		int rc = read_environment(&config, error);
		if (rc != (variables[i].good ? 0 : -EINVAL)) {
			fail_msg("%s: %d \"%s\"", variables[i].name, rc, error);
		}
		assert_true(variables[i].good || strstr(error, variables[i].name) != NULL);
		config_finish(&config);
		unsetenv(variables[i].name);
	}
}

static void test_environment_names_files(void **state)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES] = "";
	(void)state;
	setenv("LITEFUNNEL_ROWS_MAX_FILE", write_file("value", "77\r\nsecond line\n"), 1);
	assert_int_equal(read_environment(&config, error), 0);
	assert_int_equal(config_number(&config, SETTING_ROWS_MAX), 77);
	config_finish(&config);
	/* The variable itself wins over its file. */
	setenv("LITEFUNNEL_ROWS_MAX", "88", 1);
	assert_int_equal(read_environment(&config, error), 0);
	assert_int_equal(config_number(&config, SETTING_ROWS_MAX), 88);
	config_finish(&config);
	unsetenv("LITEFUNNEL_ROWS_MAX");
	write_file("value", "");
	assert_int_equal(read_environment(&config, error), -EINVAL);
	assert_non_null(strstr(error, "is empty"));
	config_finish(&config);
	write_file("value", "x\n");
	assert_int_equal(read_environment(&config, error), -EINVAL);
	assert_non_null(strstr(error, "LITEFUNNEL_ROWS_MAX_FILE"));
	config_finish(&config);
	(void)unlink(in_dir("value"));
	assert_int_equal(read_environment(&config, error), -EINVAL);
	assert_non_null(strstr(error, "cannot read"));
	config_finish(&config);
	unsetenv("LITEFUNNEL_ROWS_MAX_FILE");
}

/* ---- reload ---- */

struct changes {
	char text[1024];
};

static void note_change(void *ctx, const struct setting *setting, bool applied)
{
	struct changes *changes = ctx;
	size_t len = strlen(changes->text);
	(void)snprintf(changes->text + len, sizeof(changes->text) - len, "%s%s ", setting->name,
		applied ? "" : "(restart)");
}

static void test_reload_takes_over_what_may_change(void **state)
{
	struct config config;
	struct config fresh;
	struct changes changes = {""};
	char error[CONFIG_ERROR_BYTES];
	(void)state;
	assert_int_equal(config_init(&config), 0);
	assert_int_equal(config_init(&fresh), 0);
	config_reload(&config, &fresh, note_change, &changes);
	assert_string_equal(changes.text, "");
	/* The same number in other words is no change. */
	assert_int_equal(config_set(&fresh, "deadline", "30000ms", SETTING_FROM_FILE, error), 0);
	config_reload(&config, &fresh, note_change, &changes);
	assert_string_equal(changes.text, "");
	config_set(&fresh, "rows_max", "9", SETTING_FROM_FILE, error);
	config_set(&fresh, "sync", "normal", SETTING_FROM_FILE, error);
	config_set(&fresh, "roles_write", "app", SETTING_FROM_FILE, error);
	config_reload(&config, &fresh, note_change, &changes);
	assert_string_equal(changes.text, "sync(restart) roles_write rows_max ");
	assert_int_equal(config_number(&config, SETTING_ROWS_MAX), 9);
	assert_string_equal(config_text(&config, SETTING_ROWS_MAX), "9");
	assert_int_equal(config.values[SETTING_ROWS_MAX].source, SETTING_FROM_FILE);
	assert_string_equal(config_text(&config, SETTING_ROLES_WRITE), "app");
	assert_int_equal(config_number(&config, SETTING_SYNC), SYNC_FULL);
	assert_string_equal(config_text(&config, SETTING_SYNC), "full");
	/* What needs a restart is said again, what was taken over is not. */
	config_finish(&fresh);
	assert_int_equal(config_init(&fresh), 0);
	config_set(&fresh, "rows_max", "9", SETTING_FROM_FILE, error);
	config_set(&fresh, "sync", "normal", SETTING_FROM_FILE, error);
	config_set(&fresh, "roles_write", "app", SETTING_FROM_FILE, error);
	changes.text[0] = 0;
	config_reload(&config, &fresh, note_change, &changes);
	assert_string_equal(changes.text, "sync(restart) ");
	/* A setting that is no longer given goes back to its default. */
	config_finish(&fresh);
	assert_int_equal(config_init(&fresh), 0);
	changes.text[0] = 0;
	config_reload(&config, &fresh, note_change, &changes);
	assert_string_equal(changes.text, "roles_write rows_max ");
	assert_int_equal(config_number(&config, SETTING_ROWS_MAX), 100000);
	assert_int_equal(config.values[SETTING_ROWS_MAX].source, SETTING_FROM_DEFAULT);
	config_finish(&fresh);
	config_finish(&config);
}

/* ---- what is printed ---- */

static char *printed(void (*print)(FILE *out))
{
	static char *text;
	static size_t len;
	FILE *out = open_memstream(&text, &len);
	assert_non_null(out);
	print(out);
	(void)fclose(out);
	return text;
}

/* The sample holds every setting, and with its '#' taken away it is a good config file. */
static void test_the_sample_is_a_config_file(void **state)
{
	struct config config;
	char error[CONFIG_ERROR_BYTES] = "";
	char *text = printed(config_print_sample);
	char *options = printed(config_print_options);
	(void)state;
	for (size_t i = 0; i < SETTING_COUNT; i++) {
		char line[256];
		(void)snprintf(line, sizeof(line), "\n#%s =%s%s\n", settings[i].name,
			settings[i].fallback[0] != 0 ? " " : "", settings[i].fallback);
		char *at = strstr(text, line);
		assert_true(at != NULL);
		at[1] = ' ';
		(void)snprintf(line, sizeof(line), "  --%s ", settings[i].name);
		for (char *c = line; *c != 0; c++) {
			*c = *c == '_' ? '-' : *c;
		}
		assert_non_null(strstr(options, line));
	}
	for (const char *at = options; *at != 0;) {
		size_t len = strcspn(at, "\n");
		assert_true(len <= 100);
		at += len + (at[len] == '\n');
	}
	assert_int_equal(config_init(&config), 0);
	/* inih takes an indented line for more of the value before it. */
	for (char *at = text; (at = strstr(at, "\n ")) != NULL;) {
		memmove(at + 1, at + 2, strlen(at + 2) + 1);
	}
	if (config_read_file(&config, write_file("sample", text), error) != 0) {
		fail_msg("%s", error);
	}
	config_finish(&config);
	free(text);
	free(options);
}

static int set_up(void **state)
{
	const char *base = getenv("TMPDIR");
	(void)state;
	(void)snprintf(
		dir, sizeof(dir), "%s/litefunnel-unit-XXXXXX", base != NULL ? base : P_tmpdir);
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	(void)unlink(in_dir("conf"));
	(void)unlink(in_dir("sample"));
	(void)unlink(in_dir("value"));
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_table_is_complete_and_its_defaults_are_good),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_a_long_value_fits_its_error),
		cmocka_unit_test(test_the_stronger_source_wins_in_any_order),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_a_missing_file_is_an_error),
		cmocka_unit_test(test_text_values_of_a_file),
		cmocka_unit_test(test_a_long_line_is_read_whole_or_refused),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_unknown_variables),
		cmocka_unit_test(test_environment_names_files),
		cmocka_unit_test(test_reload_takes_over_what_may_change),
		cmocka_unit_test(test_the_sample_is_a_config_file),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
