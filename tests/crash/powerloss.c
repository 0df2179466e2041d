/* SPDX-License-Identifier: MIT */

/*
 * The power-loss machine. A workload runs on a taped disk; the tape is cut at random places; from
 * each cut an image is made that a loss of power could have left; the store's own recovery opens
 * it; and then everything that was acknowledged must be there, once and whole, and every request
 * that is asked again must get the answer that it got, or be executed now for the first time.
 *
 * The recovery is taped too, so that the power can go away again in the middle of it (--nested). A
 * seed gives the same images again.
 */

#include "tests/crash/findings.h"
#include "tests/crash/image.h"
#include "tests/crash/world.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	LEVELS_MAX = 4,
	NESTED_CUTS = 3,
	CUTS_MAX = 512,
	PREFILL = 1700, /* groups after which remembered answers have begun to move */
	SECONDS_PER_IMAGE = 20,
	AFTER_CHECKPOINT = 12,
};

enum syncing { SYNCING_FULL, SYNCING_NORMAL, SYNCING_OFF };

struct options {
	uint64_t seed;
	uint64_t images;
	uint64_t seconds; /* 0: no limit */
	enum syncing sync;
	unsigned nested;
	bool bias_checkpoint;
	bool all_long;
	bool must_find;
	bool fork;
	int64_t only_round;
	int64_t only_image;
	const char *dir;
};

static const char help[] =
	"Usage: powerloss [OPTION…]\n"
	"\n"
	"  --images N          crash images to try (1000)\n"
	"  --seed N            where to begin (1)\n"
	"  --seconds N         stop then, whatever is left\n"
	"  --sync MODE         full, normal or off (full)\n"
	"  --nested N          cut the recovery too, N levels deep (0)\n"
	"  --bias checkpoint   cut only in and right after checkpoints\n"
	"  --long              every round begins with 1,700 groups, so that old answers move\n"
	"  --round N, --image N  only that one, as a finding names them\n"
	"  --fork              each image in a process of its own (always so unless --sync full)\n"
	"  --must-find         success means that something was found\n"
	"  --only KIND         of this kind: \"lost\", \"twice\", \"half\", \"ghosts\", \"wrong answers\" …\n"
	"  --dir DIR           for the files (/dev/shm)\n"
	"\n"
	"Exit: 0 nothing found, 1 something found, 2 the machine itself failed.\n";

/* What one round is like; all of it follows from its seed. */
struct round {
	uint64_t seed;
	unsigned groups;
	unsigned batches; /* of a group, at most */
	unsigned prefill;
	unsigned images;
	uint32_t page_size; /* of a database that was there before, or 0 */
	bool readers;
	struct batch_mix mix;
	struct world_options world;
};

static struct {
	struct options options;
	char dir[256];
	char paths[LEVELS_MAX + 1][300];
	struct tape tapes[LEVELS_MAX + 1];
	struct history histories[LEVELS_MAX + 2];
	struct image images[LEVELS_MAX + 2];
	struct round round;
	uint64_t images_done;
	uint64_t nested_done;
	uint64_t commits;
	uint64_t cuts_in_checkpoint;
} machine;

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

/* ---- a round ---- */

static void plan(struct round *round, uint64_t seed)
{
	static const uint32_t page_sizes[] = {512, 1024, 4096, 16384, 65536};
	struct random random;
	random_seed(&random, seed);
	*round = (struct round){
		.seed = seed,
		.groups = 20 + random_below(&random, 60),
		.batches = 1 + random_below(&random, 12),
		.images = 150,
		.readers = random_chance(&random, 40),
		.mix = {.bad_percent = random_below(&random, 25),
			.keyed_percent = 50 + random_below(&random, 50),
			.large_rows = random_chance(&random, 10) ? 40 : 4,
			.ddl = random_chance(&random, 50)},
		.world = {.sync_full = machine.options.sync != SYNCING_NORMAL,
			.cache_bytes = random_chance(&random, 50) ? 65536 : 2 << 20,
			.checkpoint_frames = 8 + random_below(&random, 120),
			.group_max = random_chance(&random, 80) ? 1000 : 3},
	};
	if (machine.options.nested > 0) {
		round->images = 20; /* each becomes many */
	}
	if (random_chance(&random, 40)) {
		round->page_size = page_sizes[random_below(&random, 5)];
	}
	if (round->page_size > 4096) {
		/* Images are written whole: keep them small. */
		round->world.checkpoint_frames =
			8 + round->world.checkpoint_frames * 1024 / round->page_size;
		round->groups = 20;
	}
	if (random_chance(&random, 6) || machine.options.all_long) {
		round->prefill = PREFILL;
		round->mix.large_rows = 4;
		round->mix.ddl = false;
		round->images += 100;
		round->page_size = 0;
	}
}

static _Noreturn void give_up(const char *what)
{
	fprintf(stderr, "powerloss: %s\n", what);
	exit(2);
}

/* A database that somebody made before litefunnel came. */
static void make_database(const char *path, uint32_t page_size, bool wal)
{
	sqlite3 *handle = NULL;
	char sql[256];
	snprintf(sql, sizeof(sql),
		"PRAGMA page_size = %u; PRAGMA journal_mode = %s; CREATE TABLE old(x);"
		"INSERT INTO old VALUES (1);",
		page_size, wal ? "wal" : "delete");
	if (sqlite3_open(path, &handle) != SQLITE_OK ||
		sqlite3_exec(handle, sql, NULL, NULL, NULL) != SQLITE_OK) {
		give_up(sqlite3_errmsg(handle));
	}
	sqlite3_close(handle);
}

static void open_or_find(struct world *world)
{
	char error[STORE_ERROR_BYTES];
	if (!world_open(world, error)) {
		found(FOUND_REFUSED, "%s", error);
	}
}

static void play_group(
	struct world *world, const struct batch_mix *mix, unsigned batches, struct random *random)
{
	uint32_t ids[64];
	size_t count = 1 + random_below(random, batches);
	for (size_t i = 0; i < count; i++) {
		bool again = world->history->count > 3 && random_chance(random, 8);
		size_t earlier =
			2 + random_below(random, (uint32_t)world->history->count - 2 + !again);
		if (again &&
			batch_may_be_asked(world->history, &world->history->batches[earlier])) {
			ids[i] = (uint32_t)earlier;
		} else {
			ids[i] = history_add(world->history, mix, random);
		}
	}
	if (world_play(world, ids, count) != WORLD_GOES_ON) {
		found(FOUND_ANSWER, "the store stopped without a cause");
	}
	(void)world_checkpoint(world);
	if (random_chance(random, 30)) {
		world_settle(world);
	}
}

/* Once in a while: time passes, a client leaves, a reader comes or goes, the daemon restarts. */
static void disturb(struct world *world, const struct round *round, struct random *random)
{
	if (random_chance(random, 5)) {
		world_clock_jump(61);
	}
	if (random_chance(random, 2)) {
		uint32_t index = random_below(random, (uint32_t)world->history->sessions_count);
		if (!world->history->sessions[index].gone) {
			(void)world_say_goodbye(world, index);
			(void)history_add_session(world->history, random);
		}
	}
	if (round->readers && random_chance(random, 20)) {
		world_reader(world, world->reader == NULL);
	}
	if (random_chance(random, 2)) {
		world_close(world, random_chance(random, 50));
		open_or_find(world);
	}
}

/* The workload of a round. The place on the tape from which cuts make sense. */
static size_t play_round(struct world *world, const struct round *round, struct random *random)
{
	uint32_t setup = 1;
	size_t from = 0;
	struct batch_mix small = {.keyed_percent = 100, .large_rows = 1};
	for (unsigned i = 0; i < 6; i++) {
		(void)history_add_session(world->history, random);
	}
	(void)world_play(world, &setup, 1);
	for (unsigned i = 0; i < round->prefill; i++) {
		play_group(world, &small, 2, random);
		from = world->tape->count;
	}
	for (unsigned i = 0; i < round->groups && world->store != NULL; i++) {
		disturb(world, round, random);
		if (world->store != NULL) {
			play_group(world, &round->mix, round->batches, random);
		}
	}
	return from;
}

/* ---- cuts ---- */

static int ascending(const void *a, const void *b)
{
	size_t left = *(const size_t *)a;
	size_t right = *(const size_t *)b;
	return left < right ? -1 : left > right;
}

/* The places in and shortly after checkpoints. */
static size_t *places_of_checkpoints(const struct tape *tape, size_t from, size_t *ret_count)
{
	size_t *places = malloc((tape->count + 1) * sizeof(*places));
	size_t count = 0;
	size_t begun = 0;
	size_t after = 0;
	if (places == NULL) {
		give_up("out of memory");
	}
	for (size_t i = 0; i < tape->count; i++) {
		const struct tape_entry *entry = &tape->entries[i];
		if (entry->kind == TAPE_CHECKPOINT && entry->number == 1) {
			begun = i;
		} else if (entry->kind == TAPE_CHECKPOINT) {
			after = i > begun + 1 ? AFTER_CHECKPOINT : after;
			begun = 0;
		}
		if (i >= from && (begun != 0 || after > 0)) {
			places[count++] = i;
		}
		after -= begun == 0 && after > 0;
	}
	*ret_count = count;
	return places;
}

static void draw_cuts(
	const struct tape *tape, size_t from, struct random *random, size_t *cuts, size_t count)
{
	size_t *places = NULL;
	size_t places_count = 0;
	if (machine.options.bias_checkpoint) {
		places = places_of_checkpoints(tape, from, &places_count);
	}
	for (size_t i = 0; i < count; i++) {
		cuts[i] = places_count > 0
			? places[random_below(random, (uint32_t)places_count)]
			: from + random_below(random, (uint32_t)(tape->count - from + 1));
	}
	qsort(cuts, count, sizeof(*cuts), ascending);
	free(places);
}

/* What was so when the tape of a level began. */
struct known {
	uint64_t commit_no; /* on the disk */
	size_t sent;        /* batches, as in history_cut() */
	uint8_t epoch[STORE_EPOCH_BYTES];
};

static void try_cuts(
	unsigned level, size_t from, const struct known *known, uint64_t seed, size_t count);

/* ---- one image ---- */

/* What a level hands to the next, beside the history and the image. */
struct cut {
	unsigned level;
	uint64_t seed;
	struct expected expected;
};

/* Recovers the image of that level, checks it, lives on in it, and perhaps crashes again. */
static void try_image(const struct cut *cut)
{
	unsigned level = cut->level;
	bool again = level <= machine.options.nested;
	struct tape *tape = again ? &machine.tapes[level] : NULL;
	struct world world = {
		.options = &machine.round.world,
		.path = machine.paths[level],
		.history = &machine.histories[level],
		.tape = tape,
	};
	struct random random;
	uint64_t before = findings_total();

	random_seed(&random, cut->seed);
	image_write(&machine.images[level], world.path);
	if (again) {
		tape_clear(tape);
	}
	crash_vfs_tape(tape);
	open_or_find(&world);
	if (world.store == NULL) {
		crash_vfs_tape(NULL);
		return;
	}
	struct known known = {
		.commit_no = store_commit_no(world.store) - 1, .sent = cut->expected.sent};
	memcpy(known.epoch, store_epoch(world.store), sizeof(known.epoch));
	world_check_recovered(&world, &cut->expected);
	(void)world_ask_again(&world, 16, &random);
	for (unsigned i = 0; again && i < 4; i++) {
		play_group(&world, &machine.round.mix, 4, &random);
	}
	world_close(&world, true);
	crash_vfs_tape(NULL);
	machine.images_done++;
	machine.nested_done += level > 1;
	if (again && findings_total() == before) {
		try_cuts(level, 0, &known, random_next(&random), NESTED_CUTS);
	}
}

/* In a process of its own: an image that is not sound may do anything to it. */
static void try_image_apart(const struct cut *cut)
{
	int counts[2];
	uint64_t found_there[FOUND_KINDS] = {0};
	int status = 0;
	if (pipe(counts) < 0) {
		give_up("pipe");
	}
	fflush(stdout);
	pid_t pid = fork();
	if (pid == 0) {
		uint64_t inherited[FOUND_KINDS];
		findings_take(inherited);
		alarm(SECONDS_PER_IMAGE);
		try_image(cut);
		findings_take(found_there);
		for (unsigned i = 0; i < FOUND_KINDS; i++) {
			found_there[i] -= inherited[i];
		}
		_exit(write(counts[1], found_there, sizeof(found_there)) < 0);
	}
	close(counts[1]);
	bool told = read(counts[0], found_there, sizeof(found_there)) == sizeof(found_there);
	close(counts[0]);
	if (waitpid(pid, &status, 0) != pid || !told || status != 0) {
		findings_add(FOUND_DIED, 1);
	}
	for (unsigned i = 0; i < FOUND_KINDS; i++) {
		findings_add((enum finding)i, told ? found_there[i] : 0);
	}
	machine.images_done++;
}

/* The newest commit that can be on any image of this tape. */
static uint64_t newest_commit(const struct tape *tape, const struct known *known)
{
	uint64_t newest = known->commit_no;
	for (size_t i = 0; i < tape->count; i++) {
		if (tape->entries[i].kind == TAPE_ACKED && tape->entries[i].number > newest) {
			newest = tape->entries[i].number;
		}
	}
	return newest;
}

/* Cuts the tape of a level at some places, none before `from`. */
static void try_cuts(
	unsigned level, size_t from, const struct known *known, uint64_t seed, size_t count)
{
	const struct tape *tape = &machine.tapes[level];
	size_t cuts[CUTS_MAX];
	struct random random;
	random_seed(&random, seed);
	draw_cuts(tape, from, &random, cuts, count);
	struct cutter *cutter = cutter_new(&machine.images[level], tape);
	for (size_t i = 0; i < count; i++) {
		struct cut cut = {.level = level + 1,
			.seed = random_part(seed, i),
			.expected = {
				.commit_max = newest_commit(tape, known), .epoch = known->epoch}};
		bool skipped = machine.options.only_image >= 0
			? machine.options.only_image != (int64_t)i
			: machine.images_done >= machine.options.images;
		if (level == 0 && skipped) {
			continue;
		}
		cutter_advance(cutter, cuts[i]);
		cutter_image(cutter, cut.seed, &machine.images[level + 1]);
		cut.expected.acked = cutter_acked(cutter) > known->commit_no ? cutter_acked(cutter)
									     : known->commit_no;
		cut.expected.sent = cutter_sent(cutter) > 0 ? cutter_sent(cutter) : known->sent;
		history_copy(&machine.histories[level + 1], &machine.histories[level]);
		if (level == 0) {
			findings_context("seed %llu round %lld image %zu (cut at %zu of %zu)",
				(unsigned long long)machine.options.seed,
				(long long)machine.options.only_round, i, cuts[i], tape->count);
		}
		if (machine.options.fork && level == 0) {
			try_image_apart(&cut);
		} else {
			try_image(&cut);
		}
	}
	cutter_free(cutter);
}

/* ---- rounds ---- */

static void run_round(uint64_t index, uint64_t images)
{
	struct round *round = &machine.round;
	struct tape *tape = &machine.tapes[0];
	struct random random;
	struct world world = {
		.options = &round->world,
		.path = machine.paths[0],
		.history = &machine.histories[0],
		.tape = tape,
	};
	struct image empty = {0};
	struct known known = {.sent = 2};

	plan(round, random_part(machine.options.seed, index));
	random_seed(&random, random_part(round->seed, 0));
	crash_vfs_seed(round->seed);
	world_clock_reset();
	findings_context("seed %llu round %llu, while it runs",
		(unsigned long long)machine.options.seed, (unsigned long long)index);
	history_finish(world.history);
	history_init(world.history);
	tape_clear(tape);
	image_write(&empty, world.path);
	if (round->page_size != 0) {
		make_database(world.path, round->page_size, random_chance(&random, 50));
	}
	image_read(&machine.images[0], world.path);
	crash_vfs_tape(tape);
	crash_vfs_ignore_syncs(machine.options.sync == SYNCING_OFF);
	open_or_find(&world);
	if (world.store == NULL) {
		crash_vfs_tape(NULL);
		return;
	}
	memcpy(known.epoch, store_epoch(world.store), sizeof(known.epoch));
	size_t from = play_round(&world, round, &random);
	if (world.store != NULL) {
		world_check(&world);
		machine.commits += store_commit_no(world.store);
		world_close(&world, true);
	}
	crash_vfs_tape(NULL);
	try_cuts(0, from, &known, random_part(round->seed, 1),
		images < round->images ? (size_t)images : round->images);
}

static void run_rounds(void)
{
	const struct options *options = &machine.options;
	double limit = options->seconds > 0 ? now() + (double)options->seconds : 0;
	bool one = options->only_round >= 0;
	for (uint64_t i = one ? (uint64_t)options->only_round : 0;
		machine.images_done < options->images && (limit == 0 || now() < limit); i++) {
		machine.options.only_round = (int64_t)i;
		/* A single image is drawn as it was among all of its round. */
		run_round(i, one ? UINT64_MAX : options->images - machine.images_done);
		if (one || (options->must_find && findings_total() > 0)) {
			return;
		}
		if (machine.images_done == 0 && i >= 20) {
			give_up("no image could be made in 20 rounds");
		}
	}
}

/* ---- the program ---- */

static void make_directory(void)
{
	snprintf(machine.dir, sizeof(machine.dir), "%s/powerloss-XXXXXX", machine.options.dir);
	if (mkdtemp(machine.dir) == NULL) {
		perror(machine.dir);
		exit(2);
	}
	for (unsigned i = 0; i <= LEVELS_MAX; i++) {
		snprintf(machine.paths[i], sizeof(machine.paths[i]), "%s/level%u.db", machine.dir,
			i);
	}
}

static void remove_directory(void)
{
	struct image empty = {0};
	for (unsigned i = 0; i <= LEVELS_MAX; i++) {
		image_write(&empty, machine.paths[i]);
	}
	rmdir(machine.dir);
}

static void clean_up(void)
{
	for (unsigned i = 0; i <= LEVELS_MAX + 1; i++) {
		history_finish(&machine.histories[i]);
		image_finish(&machine.images[i]);
	}
	for (unsigned i = 0; i <= LEVELS_MAX; i++) {
		tape_finish(&machine.tapes[i]);
	}
	remove_directory();
}

static void usage(const char *what)
{
	fprintf(stderr, "powerloss: %s (see --help)\n", what);
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

static enum syncing parse_sync(const char *text)
{
	if (strcmp(text, "normal") == 0) {
		return SYNCING_NORMAL;
	}
	if (strcmp(text, "off") == 0) {
		return SYNCING_OFF;
	}
	if (strcmp(text, "full") != 0) {
		usage("--sync is full, normal or off");
	}
	return SYNCING_FULL;
}

static void take_option(int option, struct options *options)
{
	switch (option) {
	case 's':
		options->seed = parse_number(optarg);
		break;
	case 'i':
		options->images = parse_number(optarg);
		break;
	case 't':
		options->seconds = parse_number(optarg);
		break;
	case 'y':
		options->sync = parse_sync(optarg);
		break;
	case 'n':
		options->nested = (unsigned)parse_number(optarg);
		break;
	case 'b':
		options->bias_checkpoint = strcmp(optarg, "checkpoint") == 0;
		break;
	case 'r':
		options->only_round = (int64_t)parse_number(optarg);
		break;
	case 'I':
		options->only_image = (int64_t)parse_number(optarg);
		break;
	case 'l':
		options->all_long = true;
		break;
	case 'f':
		options->fork = true;
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
		{"seed", required_argument, NULL, 's'},
		{"images", required_argument, NULL, 'i'},
		{"seconds", required_argument, NULL, 't'},
		{"sync", required_argument, NULL, 'y'},
		{"nested", required_argument, NULL, 'n'},
		{"bias", required_argument, NULL, 'b'},
		{"round", required_argument, NULL, 'r'},
		{"image", required_argument, NULL, 'I'},
		{"long", no_argument, NULL, 'l'},
		{"fork", no_argument, NULL, 'f'},
		{"must-find", no_argument, NULL, 'm'},
		{"only", required_argument, NULL, 'o'},
		{"dir", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	*options = (struct options){
		.seed = 1, .images = 1000, .only_round = -1, .only_image = -1, .dir = "/dev/shm"};
	for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
		take_option(option, options);
	}
	if (options->nested >= LEVELS_MAX) {
		usage("--nested is at most 3");
	}
	options->fork |= options->sync != SYNCING_FULL;
}

static void report(double seconds)
{
	printf("powerloss: seed %llu, %llu images (%llu nested) in %.1f s, %.0f/s, "
	       "%llu commits taped: ",
		(unsigned long long)machine.options.seed, (unsigned long long)machine.images_done,
		(unsigned long long)machine.nested_done, seconds,
		(double)machine.images_done / seconds, (unsigned long long)machine.commits);
	findings_print();
}

int main(int argc, char **argv)
{
	parse_options(argc, argv, &machine.options);
	make_directory();
	world_set_up();
	findings_watch_signals();
	double began = now();
	run_rounds();
	report(now() - began);
	clean_up();
	bool something = findings_total() > 0;
	if (machine.options.must_find) {
		return something ? 0 : 1;
	}
	return something ? 1 : 0;
}
