/* SPDX-License-Identifier: MIT */

/*
 * A shared page with sequence locks: an odd number says that somebody writes. What they guard is
 * copied as atomic words, so that a reader who is overtaken reads nonsense but does no wrong, sees
 * that it was overtaken, and reads again.
 */

#include "server/base/notice.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define WORDS(type) ((sizeof(type) + 7) / 8)

struct box {
	_Atomic uint64_t sequence;
	_Atomic uint64_t words[];
};

#define BOX(name, type)                                                                            \
	struct {                                                                                   \
		_Atomic uint64_t sequence;                                                         \
		_Atomic uint64_t words[WORDS(type)];                                               \
	} name

struct shared {
	char build[NOTICE_BUILD_BYTES];
	BOX(notice, struct notice);
	BOX(report, struct ship_report);
	BOX(replicas[NOTICE_REPLICAS_MAX], struct replica_report);
	_Atomic uint64_t wanted_spooled;
	_Atomic uint64_t wanted_shipped;
	_Atomic bool stopping;
	_Atomic int64_t paused_ms;
	_Atomic bool gate_closed;
	_Atomic bool gate_entered;
	_Atomic bool shipper_idle;
};

struct board {
	struct shared *shared;
	struct board_fds fds;
};

const char *replica_state_name(enum replica_state state)
{
	static const char *const names[] = {"starting", "shipping", "failing", "refused"};
	return names[state];
}

/* ---- boxes ---- */

/* The room for one value, whose size is a whole number of words by construction. */
#define ROOM(type)                                                                                 \
	union {                                                                                    \
		type value;                                                                        \
		uint64_t words[WORDS(type)];                                                       \
	}

static void box_put(void *at, const uint64_t *words, size_t count)
{
	struct box *box = at;
	uint64_t sequence = atomic_load_explicit(&box->sequence, memory_order_relaxed);
	atomic_store_explicit(&box->sequence, sequence + 1, memory_order_relaxed);
	/* Each store is a release: who sees a new word also sees the odd number before it. */
	for (size_t i = 0; i < count; i++) {
		atomic_store_explicit(&box->words[i], words[i], memory_order_release);
	}
	atomic_store_explicit(&box->sequence, sequence + 2, memory_order_release);
}

static bool box_get(const void *at, uint64_t *ret_words, size_t count)
{
	struct box *box = (struct box *)(uintptr_t)at;
	for (;;) {
		uint64_t before = atomic_load_explicit(&box->sequence, memory_order_acquire);
		for (size_t i = 0; i < count; i++) {
			ret_words[i] = atomic_load_explicit(&box->words[i], memory_order_acquire);
		}
		uint64_t after = atomic_load_explicit(&box->sequence, memory_order_acquire);
		if (before == after && before % 2 == 0) {
			return before != 0;
		}
		sched_yield();
	}
}

/* A writer that died inside leaves an odd number behind. */
static void box_clear(void *at, size_t count)
{
	struct box *box = at;
	for (size_t i = 0; i < count; i++) {
		atomic_store_explicit(&box->words[i], 0, memory_order_relaxed);
	}
	atomic_store_explicit(&box->sequence, 0, memory_order_release);
}

void board_tell(struct board *board, const struct notice *notice)
{
	ROOM(struct notice) room = {.words = {0}};
	room.value = *notice;
	box_put(&board->shared->notice, room.words, WORDS(struct notice));
}

bool board_notice(const struct board *board, struct notice *ret_notice)
{
	ROOM(struct notice) room;
	bool told = box_get(&board->shared->notice, room.words, WORDS(struct notice));
	*ret_notice = room.value;
	return told;
}

void board_report(struct board *board, const struct ship_report *report)
{
	ROOM(struct ship_report) room = {.words = {0}};
	room.value = *report;
	box_put(&board->shared->report, room.words, WORDS(struct ship_report));
}

struct ship_report board_ship_report(const struct board *board)
{
	ROOM(struct ship_report) room;
	(void)box_get(&board->shared->report, room.words, WORDS(struct ship_report));
	return room.value;
}

void board_report_replica(struct board *board, size_t index, const struct replica_report *report)
{
	ROOM(struct replica_report) room = {.words = {0}};
	assert(index < NOTICE_REPLICAS_MAX);
	room.value = *report;
	box_put(&board->shared->replicas[index], room.words, WORDS(struct replica_report));
}

struct replica_report board_replica_report(const struct board *board, size_t index)
{
	ROOM(struct replica_report) room;
	assert(index < NOTICE_REPLICAS_MAX);
	(void)box_get(&board->shared->replicas[index], room.words, WORDS(struct replica_report));
	return room.value;
}

void board_forget_reports(struct board *board)
{
	box_clear(&board->shared->report, WORDS(struct ship_report));
	for (size_t i = 0; i < NOTICE_REPLICAS_MAX; i++) {
		box_clear(&board->shared->replicas[i], WORDS(struct replica_report));
	}
	atomic_store(&board->shared->gate_closed, false);
	atomic_store(&board->shared->shipper_idle, false);
}

/* ---- wishes ---- */

static void raise_to(_Atomic uint64_t *number, uint64_t value)
{
	uint64_t now = atomic_load(number);
	while (now < value && !atomic_compare_exchange_weak(number, &now, value)) {
	}
}

void board_want_spooled(struct board *board, uint64_t commit_no)
{
	raise_to(&board->shared->wanted_spooled, commit_no);
}

void board_want_shipped(struct board *board, uint64_t commit_no)
{
	raise_to(&board->shared->wanted_shipped, commit_no);
}

uint64_t board_wanted_spooled(const struct board *board)
{
	return atomic_load(&board->shared->wanted_spooled);
}

uint64_t board_wanted_shipped(const struct board *board)
{
	return atomic_load(&board->shared->wanted_shipped);
}

void board_stop(struct board *board)
{
	atomic_store(&board->shared->stopping, true);
	board_wake_shipper(board);
}

bool board_stopping(const struct board *board)
{
	return atomic_load(&board->shared->stopping);
}

void board_pause(struct board *board, int64_t since_ms)
{
	atomic_store(&board->shared->paused_ms, since_ms);
	board_wake_shipper(board);
}

int64_t board_paused_ms(const struct board *board)
{
	return atomic_load(&board->shared->paused_ms);
}

bool board_paused(const struct board *board)
{
	return board_paused_ms(board) != 0;
}

/* ---- the gate: each side says what it wants, then looks at the other ---- */

bool board_gate_enter(struct board *board)
{
	atomic_store(&board->shared->gate_entered, true);
	if (!atomic_load(&board->shared->gate_closed)) {
		return true;
	}
	board_gate_leave(board);
	return false;
}

void board_gate_leave(struct board *board)
{
	atomic_store(&board->shared->gate_entered, false);
}

void board_gate_close(struct board *board)
{
	atomic_store(&board->shared->gate_closed, true);
}

void board_gate_open(struct board *board)
{
	atomic_store(&board->shared->gate_closed, false);
}

bool board_gate_entered(const struct board *board)
{
	return atomic_load(&board->shared->gate_entered);
}

/* ---- waking and sleeping ---- */

static void signal_fd(int fd)
{
	static const uint64_t one = 1;
	ssize_t written = write(fd, &one, sizeof(one));
	(void)written; /* a counter that is full wakes, too */
}

static void drain_fd(int fd)
{
	uint64_t count = 0;
	ssize_t got = read(fd, &count, sizeof(count));
	(void)got;
}

void board_wake_shipper(struct board *board)
{
	signal_fd(board->fds.shipper);
}

void board_nudge_shipper(struct board *board)
{
	if (atomic_load(&board->shared->shipper_idle) &&
		atomic_exchange(&board->shared->shipper_idle, false)) {
		signal_fd(board->fds.shipper);
	}
}

void board_wake_loop(struct board *board)
{
	signal_fd(board->fds.loop);
}

void board_wake_writer(struct board *board)
{
	signal_fd(board->fds.gate);
}

int board_sleep(
	struct board *board, int parent_fd, int timeout_ms, bool idle, const struct notice *seen)
{
	struct pollfd fds[] = {
		{.fd = board->fds.shipper, .events = POLLIN},
		{.fd = parent_fd, .events = POLLIN},
	};
	struct notice now;
	atomic_store(&board->shared->shipper_idle, idle);
	if (idle && board_notice(board, &now) && memcmp(&now, seen, sizeof(now)) != 0) {
		timeout_ms = 0; /* it was told while we lay down */
	}
	int ready = poll(fds, 2, timeout_ms);
	atomic_store(&board->shared->shipper_idle, false);
	if (ready > 0 && fds[0].revents != 0) {
		drain_fd(board->fds.shipper);
	}
	return ready > 0 && fds[1].revents != 0 ? -EPIPE : 0;
}

bool board_wait_gate(struct board *board, int timeout_ms)
{
	struct pollfd fd = {.fd = board->fds.gate, .events = POLLIN};
	if (poll(&fd, 1, timeout_ms) <= 0) {
		return false;
	}
	drain_fd(board->fds.gate);
	return true;
}

/* ---- making ---- */

static int find_build_id(struct dl_phdr_info *info, size_t size, void *ctx)
{
	char *out = ctx;
	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		if (header->p_type != PT_NOTE) {
			continue;
		}
		const uint8_t *at = (const uint8_t *)(info->dlpi_addr + header->p_vaddr);
		const uint8_t *end = at + header->p_memsz;
		while (at + sizeof(ElfW(Nhdr)) <= end) {
			const ElfW(Nhdr) *note = (const ElfW(Nhdr) *)(const void *)at;
			const uint8_t *name = at + sizeof(*note);
			const uint8_t *bytes = name + ((note->n_namesz + 3u) & ~3u);
			if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
				memcmp(name, "GNU", 4) == 0) {
				for (size_t n = 0; n < note->n_descsz && n < 20; n++) {
					static const char digits[] = "0123456789abcdef";
					out[2 * n] = digits[bytes[n] >> 4];
					out[2 * n + 1] = digits[bytes[n] & 15];
				}
				return 1;
			}
			at = bytes + ((note->n_descsz + 3u) & ~3u);
		}
	}
	return 1; /* the first object is the program itself */
}

void build_id(char ret_id[NOTICE_BUILD_BYTES])
{
	memset(ret_id, 0, NOTICE_BUILD_BYTES);
	dl_iterate_phdr(find_build_id, ret_id);
	if (ret_id[0] == 0) {
		strncpy(ret_id, LITEFUNNEL_VERSION, NOTICE_BUILD_BYTES - 1);
	}
}

int chain_break(const char *spool)
{
	int fd = open(spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) {
		return errno == ENOENT ? 0 : -errno;
	}
	int rc = unlinkat(fd, CHAIN_POSITION, 0) != 0 && errno != ENOENT ? -errno : 0;
	rc = rc == 0 && fsync(fd) != 0 ? -errno : rc;
	close(fd);
	return rc;
}

static int map(struct board *board)
{
	void *at = mmap(NULL, sizeof(struct shared), PROT_READ | PROT_WRITE, MAP_SHARED,
		board->fds.memory, 0);
	if (at == MAP_FAILED) {
		return -errno;
	}
	board->shared = at;
	return 0;
}

static struct board *board_empty(void)
{
	struct board *board = calloc(1, sizeof(*board));
	if (board != NULL) {
		board->fds = (struct board_fds){-1, -1, -1, -1};
	}
	return board;
}

int board_new(struct board **ret_board)
{
	struct board *board = board_empty();
	if (board == NULL) {
		return -ENOMEM;
	}
	/* The shipper gets copies of these. */
	board->fds.memory = memfd_create("litefunnel-board", MFD_CLOEXEC);
	board->fds.shipper = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	board->fds.loop = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	board->fds.gate = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	int rc = board->fds.memory < 0 || board->fds.shipper < 0 || board->fds.loop < 0 ||
			board->fds.gate < 0 ||
			ftruncate(board->fds.memory, sizeof(struct shared)) != 0
		? -errno
		: map(board);
	if (rc != 0) {
		board_free(board);
		return rc;
	}
	build_id(board->shared->build);
	*ret_board = board;
	return 0;
}

int board_attach(
	int memory_fd, int shipper_fd, int funnel_fd, int gate_fd, struct board **ret_board)
{
	char build[NOTICE_BUILD_BYTES];
	struct board *board = board_empty();
	if (board == NULL) {
		return -ENOMEM;
	}
	board->fds = (struct board_fds){memory_fd, shipper_fd, funnel_fd, gate_fd};
	off_t size = lseek(memory_fd, 0, SEEK_END);
	int rc = size == (off_t)sizeof(struct shared) ? map(board) : -EPROTO;
	build_id(build);
	if (rc == 0 && memcmp(build, board->shared->build, sizeof(build)) != 0) {
		rc = -EPROTO;
	}
	if (rc != 0) {
		board_free(board);
		return rc;
	}
	*ret_board = board;
	return 0;
}

void board_free(struct board *board)
{
	if (board == NULL) {
		return;
	}
	if (board->shared != NULL) {
		munmap(board->shared, sizeof(struct shared));
	}
	int fds[] = {board->fds.memory, board->fds.shipper, board->fds.loop, board->fds.gate};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i] >= 0) {
			close(fds[i]);
		}
	}
	free(board);
}

struct board_fds board_fds(const struct board *board)
{
	return board->fds;
}
