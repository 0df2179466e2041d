/* SPDX-License-Identifier: MIT */

/*
 * The k-th failure: a scripted run is repeated, and each time the next call of a kind fails, once
 * or from then on, until the run comes through untouched. Each time the answers must be of the
 * right class, and afterwards, with the files as they were left and with the files as a loss of
 * power could have left them, nothing that was acknowledged is missing and nothing is there that
 * was said to have failed. Each run is a process of its own, so that a crash is a finding and not
 * the end.
 */

#include "tests/crash/findings.h"
#include "tests/crash/image.h"
#include "tests/crash/memory.h"
#include "tests/crash/world.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS_PER_RUN = 60, BUSY_MAX = 3, MEMORY_POWER_LOSS_EVERY = 16 };

static const char help[] =
	"Usage: faults [OPTION…]\n"
	"\n"
	"  --what NAME    only these failures: open, read, write, truncate, sync, delete, size,\n"
	"                 shm_map, shm_lock, malloc, or io: all but malloc (all)\n"
	"  --stride N     every N-th call only (1)\n"
	"  --first N      begin with the N-th call\n"
	"  --last N       end with the N-th call\n"
	"  --seed N       of the script, and where a stride begins (1)\n"
	"  --trap         SIGTRAP where the failure strikes: for gdb, with --first and --last\n"
	"  --must-find    success means that something was found\n"
	"  --only KIND    of this kind: \"lost\", \"twice\", \"half\", \"ghosts\", \"wrong answers\" …\n"
	"  --dir DIR      for the files (/dev/shm)\n"
	"\n"
	"Exit: 0 nothing found, 1 something found, 2 the machine itself failed.\n";

struct variant {
	const char *name;
	struct vfs_fault fault;
	bool memory; /* the fault is of the heap */
};

#define BOTH(name, ...)                                                                            \
	{name, {__VA_ARGS__}, false},                                                              \
	{                                                                                          \
		name " for ever", {__VA_ARGS__, .sticky = true}, false                             \
	}

static const struct variant variants[] = {
	BOTH("sync", .op = VFS_SYNC, .code = SQLITE_IOERR_FSYNC),
	BOTH("write EIO", .op = VFS_WRITE, .code = SQLITE_IOERR_WRITE),
	BOTH("write ENOSPC", .op = VFS_WRITE, .code = SQLITE_FULL),
	BOTH("write half, EIO", .op = VFS_WRITE, .code = SQLITE_IOERR_WRITE, .partial = true),
	BOTH("write half, ENOSPC", .op = VFS_WRITE, .code = SQLITE_FULL, .partial = true),
	BOTH("read", .op = VFS_READ, .code = SQLITE_IOERR_READ),
	BOTH("truncate", .op = VFS_TRUNCATE, .code = SQLITE_IOERR_TRUNCATE),
	BOTH("open", .op = VFS_OPEN, .code = SQLITE_CANTOPEN),
	BOTH("delete", .op = VFS_DELETE, .code = SQLITE_IOERR_DELETE),
	BOTH("size", .op = VFS_SIZE, .code = SQLITE_IOERR_FSTAT),
	BOTH("shm_map", .op = VFS_SHM_MAP, .code = SQLITE_IOERR_SHMMAP),
	BOTH("shm_lock busy", .op = VFS_SHM_LOCK, .code = SQLITE_BUSY),
	BOTH("shm_lock EIO", .op = VFS_SHM_LOCK, .code = SQLITE_IOERR_SHMLOCK),
	{"malloc", {0}, true},
	{"malloc for ever", {.sticky = true}, true},
};

struct options {
	const char *what;
	uint64_t stride;
	uint64_t first;
	uint64_t last;
	uint64_t seed;
	bool trap;
	bool must_find;
	const char *dir;
};

/* What a run tells its parent. */
struct report {
	uint64_t fired;
	uint64_t transient;
	uint64_t unknown;
	uint64_t refused;
	uint64_t counts[FOUND_KINDS];
};

static struct {
	struct options options;
	char dir[256];
	char path[300];
	struct tape tape;
	struct report totals;
	uint64_t runs;
} machine;

/* ---- the script ---- */

static const struct world_options world_options = {
	.sync_full = true, .cache_bytes = 65536, .checkpoint_frames = 12, .group_max = 1000};

struct script {
	unsigned groups;
	unsigned batches;
	unsigned reopen_at;
	struct batch_mix mix;
};

static const struct script script_io = {
	.groups = 22,
	.batches = 5,
	.reopen_at = 11,
	.mix = {.bad_percent = 15,
		.keyed_percent = 80,
		.large_rows = 14,
		.ddl = true,
		.no_killers = true},
};

/* Twelve requests, more or less; small, for there are many allocations. */
static const struct script script_memory = {
	.groups = 6,
	.batches = 3,
	.reopen_at = 4,
	.mix = {.bad_percent = 20,
		.keyed_percent = 80,
		.large_rows = 2,
		.ddl = true,
		.no_killers = true},
};

static uint64_t fired(const struct variant *variant)
{
	return variant->memory ? memory_failed() : crash_vfs_fired().times;
}

/* The class of what happened in a group in which the fault struck for the first time. */
static void check_class(const struct world *world, const struct variant *variant)
{
	struct vfs_fired what = crash_vfs_fired();
	bool of_commit = what.in_commit && what.file == FILE_WAL &&
		(variant->fault.code & 0xff) == SQLITE_IOERR &&
		(variant->fault.op == VFS_WRITE || variant->fault.op == VFS_SYNC);
	if (of_commit && !world->unknown) {
		found(FOUND_ANSWER, "an I/O error of COMMIT was answered");
	}
	if (!what.in_commit && !variant->fault.sticky && world->unknown) {
		found(FOUND_ANSWER, "the outcome is called unknown although COMMIT had not begun");
	}
}

/* One group, a checkpoint, and what can be said about a fault in the first. */
static enum world_end play_one(
	struct world *world, const struct variant *variant, const uint32_t *ids, size_t count)
{
	bool before = fired(variant) > 0;
	enum world_end end = world_play(world, ids, count);
	if (!before && fired(variant) > 0 && !variant->memory) {
		check_class(world, variant);
	}
	if (end != WORLD_GOES_ON) {
		return end;
	}
	end = world_checkpoint(world);
	if (end == WORLD_GOES_ON) {
		world_settle(world);
	}
	return end;
}

static enum world_end play_random(struct world *world, const struct script *script,
	const struct variant *variant, struct random *random)
{
	uint32_t ids[16];
	size_t count = 1 + random_below(random, script->batches);
	struct batch_mix mix = script->mix;
	if (count == 1) {
		mix.no_killers = false; /* its end is certain when it is alone */
	}
	for (size_t i = 0; i < count; i++) {
		ids[i] = history_add(world->history, &mix, random);
	}
	if (count > 1 && world->history->count > 12 && random_chance(random, 30)) {
		uint32_t earlier = (uint32_t)world->history->count - 10;
		if (batch_may_be_asked(world->history, &world->history->batches[earlier])) {
			ids[count++] = earlier;
		}
	}
	return play_one(world, variant, ids, count);
}

/* Opens the store; under a fault it may refuse, with a sentence. */
static bool open_store(struct world *world)
{
	char error[STORE_ERROR_BYTES];
	bool opened = world_open(world, error);
	if (!opened && error[0] == 0) {
		found(FOUND_ANSWER, "the store does not open and does not say why");
	}
	if (!opened && !world->faulty) {
		found(FOUND_REFUSED, "%s", error);
	}
	return opened;
}

/* True if the store is still alive at the end. */
static bool play_script(struct world *world, const struct script *script,
	const struct variant *variant, struct random *random, uint8_t *ret_epoch)
{
	uint32_t setup = 1;
	unsigned busy = 0;
	if (!open_store(world)) {
		return false;
	}
	memcpy(ret_epoch, store_epoch(world->store), STORE_EPOCH_BYTES);
	for (unsigned i = 0; i < 3; i++) {
		(void)history_add_session(world->history, random);
	}
	for (unsigned tries = 0; world->history->batches[1].commit_no == 0; tries++) {
		if (play_one(world, variant, &setup, 1) == WORLD_STOPPED || tries == BUSY_MAX) {
			return false;
		}
	}
	for (unsigned i = 0; i < script->groups && busy < BUSY_MAX; i++) {
		if (i == script->reopen_at) {
			world_close(world, false);
			if (!open_store(world)) {
				return false;
			}
		}
		enum world_end end = play_random(world, script, variant, random);
		if (end == WORLD_STOPPED) {
			return false;
		}
		busy += end == WORLD_BUSY;
	}
	return true;
}

/* ---- afterwards ---- */

/* The disk is well again: whoever has no answer asks again, and the same store serves them. */
static void go_on(struct world *world, struct random *random)
{
	world->faulty = false;
	if (world_ask_again(world, 20, random) != WORLD_GOES_ON) {
		found(FOUND_ANSWER, "the store does not go on after the fault");
	}
}

static void start_again(
	struct world *world, const struct expected *expected, bool poisoned, struct random *random)
{
	world->faulty = false;
	world->poisoned = poisoned;
	if (!open_store(world)) {
		return;
	}
	world_check_recovered(world, expected);
	(void)world_ask_again(world, 20, random);
	world_close(world, false);
}

/* The same end, but the power goes away too. */
static void lose_power(const struct world *world, const struct expected *expected,
	const struct image *base, uint64_t seed)
{
	struct random random;
	struct image image = {0};
	struct history history = {0};
	struct world other = *world;
	struct cutter *cutter = cutter_new(base, &machine.tape);
	cutter_advance(cutter, machine.tape.count);
	cutter_image(cutter, seed, &image);
	cutter_free(cutter);
	history_copy(&history, world->history);
	other.history = &history;
	other.tape = NULL;
	image_write(&image, world->path);
	random_seed(&random, seed);
	start_again(&other, expected, world->poisoned, &random);
	history_finish(&history);
	image_finish(&image);
}

/*
 * The process is gone. Its files are opened as they are, and as a loss of power could have left
 * them; `commit_max` is 0 where the store never opened.
 */
static void end_of_process(const struct world *world, uint64_t k, const uint8_t *epoch,
	uint64_t commit_max, uint64_t power_losses)
{
	struct image empty = {0};
	struct random random;
	struct cutter *cutter = cutter_new(&empty, &machine.tape);
	cutter_advance(cutter, machine.tape.count);
	struct expected expected = {.acked = cutter_acked(cutter),
		.sent = cutter_sent(cutter) > 0 ? cutter_sent(cutter) : 2,
		.commit_max = commit_max > 0 ? commit_max : cutter_acked(cutter) + 2,
		.epoch = epoch};
	cutter_free(cutter);
	crash_vfs_tape(NULL);
	random_seed(&random, k);
	struct history kept = {0};
	struct world again = *world;
	history_copy(&kept, world->history);
	again.history = &kept;
	again.tape = NULL;
	start_again(&again, &expected, world->poisoned, &random);
	history_finish(&kept);
	for (uint64_t i = 0; i < power_losses; i++) {
		lose_power(world, &expected, &empty, k * 2 + i);
	}
}

/* ---- one run ---- */

extern const char __executable_start; /* the linker's */

static void check_leaks(int64_t sqlite_before)
{
	const void *where = NULL;
	size_t live = memory_live(&where);
	if (live > 0) {
		found(FOUND_LEAK, "%zu allocations, one of them made at %#tx (see addr2line)", live,
			(const char *)where - &__executable_start);
	}
	if (sqlite3_memory_used() != sqlite_before) {
		found(FOUND_LEAK, "%lld bytes of SQLite's",
			(long long)(sqlite3_memory_used() - sqlite_before));
	}
}

static void set_fault(const struct variant *variant, uint64_t k)
{
	struct vfs_fault fault = variant->fault;
	fault.at = k;
	fault.trap = machine.options.trap;
	memory_fail_at(variant->memory ? k : 0, variant->fault.sticky);
	crash_vfs_fault(variant->memory ? NULL : &fault);
}

static void run(const struct variant *variant, uint64_t k, struct report *ret_report)
{
	const struct script *script = variant->memory ? &script_memory : &script_io;
	struct history history;
	struct random random;
	struct image empty = {0};
	uint8_t epoch[STORE_EPOCH_BYTES] = {0};
	struct world world = {.options = &world_options,
		.path = machine.path,
		.history = &history,
		.tape = &machine.tape,
		.faulty = true};
	int64_t sqlite_before = sqlite3_memory_used();

	history_init(&history);
	random_seed(&random, machine.options.seed);
	crash_vfs_seed(machine.options.seed);
	world_clock_reset();
	tape_clear(&machine.tape);
	image_write(&empty, machine.path);
	crash_vfs_tape(&machine.tape);
	crash_vfs_probe(world_in_commit, &world);
	set_fault(variant, k);
	bool alive = play_script(&world, script, variant, &random, epoch);
	ret_report->fired = fired(variant);
	ret_report->transient = world.transient;
	ret_report->unknown = world.unknown;
	ret_report->refused = world.store == NULL;
	crash_vfs_fault(NULL);
	memory_watch(false);
	uint64_t commit_max = 0;
	if (world.store != NULL) {
		if (alive) {
			/* No allocation is counted any more. */
			world_watch_product(NULL);
			go_on(&world, &random);
		}
		commit_max = store_commit_no(world.store) + 1;
		world_close(&world, true);
	}
	world_watch_product(NULL);
	check_leaks(sqlite_before);
	/* A lack of memory changes little of what is written: some of its ends are enough. */
	end_of_process(&world, k, epoch, commit_max,
		!variant->memory                           ? 2
			: k % MEMORY_POWER_LOSS_EVERY == 0 ? 1
							   : 0);
	history_finish(&history);
}

/* False: the fault did not strike any more. */
static bool run_apart(const struct variant *variant, uint64_t k)
{
	int ends[2];
	int status = 0;
	struct report report = {0};
	findings_context("%s, call %llu, seed %llu", variant->name, (unsigned long long)k,
		(unsigned long long)machine.options.seed);
	if (pipe(ends) < 0) {
		perror("pipe");
		exit(2);
	}
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		uint64_t inherited[FOUND_KINDS];
		findings_take(inherited);
		alarm(SECONDS_PER_RUN);
		world_watch_product(memory_watch);
		run(variant, k, &report);
		findings_take(report.counts);
		for (unsigned i = 0; i < FOUND_KINDS; i++) {
			report.counts[i] -= inherited[i];
		}
		_exit(write(ends[1], &report, sizeof(report)) != sizeof(report));
	}
	close(ends[1]);
	bool told = read(ends[0], &report, sizeof(report)) == sizeof(report);
	close(ends[0]);
	waitpid(pid, &status, 0);
	machine.runs++;
	if (!told || status != 0) {
		found(FOUND_DIED, "the process ended with status %d", status);
		return true;
	}
	for (unsigned i = 0; i < FOUND_KINDS; i++) {
		findings_add((enum finding)i, report.counts[i]);
	}
	machine.totals.transient += report.transient;
	machine.totals.unknown += report.unknown;
	machine.totals.refused += report.refused;
	return report.fired > 0;
}

static bool wanted(const struct variant *variant, const char *what)
{
	return what == NULL || (strcmp(what, "io") == 0 && !variant->memory) ||
		strncmp(variant->name, what, strlen(what)) == 0;
}

static void run_variant(const struct variant *variant)
{
	const struct options *options = &machine.options;
	uint64_t first = options->first > 0 ? options->first : 1 + options->seed % options->stride;
	uint64_t k = first;
	while (k <= options->last && run_apart(variant, k)) {
		k += options->stride;
		if (options->must_find && findings_total() > 0) {
			return;
		}
	}
	printf("faults: %s: calls %llu to %llu\n", variant->name, (unsigned long long)first,
		(unsigned long long)k);
}

/* ---- the program ---- */

static void usage(const char *what)
{
	fprintf(stderr, "faults: %s (see --help)\n", what);
	exit(2);
}

static uint64_t parse_number(const char *text)
{
	char *end = NULL;
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	if (errno != 0 || end == text || *end != 0) {
		usage("a number is expected");
	}
	return number;
}

static void take_option(int option, struct options *options)
{
	switch (option) {
	case 'w':
		options->what = optarg;
		break;
	case 't':
		options->stride = parse_number(optarg);
		break;
	case 'f':
		options->first = parse_number(optarg);
		break;
	case 'l':
		options->last = parse_number(optarg);
		break;
	case 's':
		options->seed = parse_number(optarg);
		break;
	case 'T':
		options->trap = true;
		memory_trap();
		break;
	case 'm':
		options->must_find = true;
		break;
	case 'o':
		if (!findings_only(optarg)) {
			usage("--only: no such kind");
		}
		break;
	case 'd':
		options->dir = optarg;
		break;
	case 'h':
		fputs(help, stdout);
		exit(0);
	default:
		usage("unknown option");
	}
}

static void parse_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{"what", required_argument, NULL, 'w'},
		{"stride", required_argument, NULL, 't'},
		{"first", required_argument, NULL, 'f'},
		{"last", required_argument, NULL, 'l'},
		{"seed", required_argument, NULL, 's'},
		{"trap", no_argument, NULL, 'T'},
		{"must-find", no_argument, NULL, 'm'},
		{"only", required_argument, NULL, 'o'},
		{"dir", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	*options = (struct options){.stride = 1, .seed = 1, .last = UINT64_MAX, .dir = "/dev/shm"};
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		take_option(option, options);
	}
	if (options->stride == 0) {
		usage("--stride is at least 1");
	}
}

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct image empty = {0};
	parse_options(argc, argv, &machine.options);
	snprintf(machine.dir, sizeof(machine.dir), "%s/faults-XXXXXX", machine.options.dir);
	if (mkdtemp(machine.dir) == NULL) {
		perror(machine.dir);
		return 2;
	}
	snprintf(machine.path, sizeof(machine.path), "%s/faults.db", machine.dir);
	memory_install();
	world_set_up();
	findings_watch_signals();
	double began = now();
	bool any = false;
	for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
		if (wanted(&variants[i], machine.options.what) &&
			!(machine.options.must_find && findings_total() > 0)) {
			any = true;
			run_variant(&variants[i]);
		}
	}
	image_write(&empty, machine.path);
	rmdir(machine.dir);
	tape_finish(&machine.tape);
	if (!any) {
		usage("--what: no such failure");
	}
	printf("faults: %llu runs in %.1f s, %llu batches told to retry, %llu runs ended unknown, "
	       "%llu starts refused: ",
		(unsigned long long)machine.runs, now() - began,
		(unsigned long long)machine.totals.transient,
		(unsigned long long)machine.totals.unknown,
		(unsigned long long)machine.totals.refused);
	findings_print();
	bool something = findings_total() > 0;
	return something == machine.options.must_find ? 0 : 1;
}
