/* SPDX-License-Identifier: MIT */

/*
 * The writer's half of SQLite's wal-index. What it keeps true: entries are made before the header
 * counts them, and the header is written twice, the second copy first, with barriers: a reader that
 * finds both equal and the checksum right has a state that was published.
 *
 * The layout is SQLite's, and documented (walformat.html): blocks of 32 KiB, each with the page
 * numbers of its frames and a hash table over them; the first one begins with two headers and what
 * checkpoints and readers share, and so holds fewer frames.
 */

#include "server/store/wal_index.h"

#include "server/base/wal_format.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
	BLOCK_BYTES = 32768,
	HEAD_BYTES = 136, /* of the first block, before its page numbers */
	SLOTS = 8192,
	FRAMES = 4096, /* of a block */
	FRAMES_FIRST = FRAMES - HEAD_BYTES / 4,
	HASH_FACTOR = 383,
};

_Static_assert(sizeof(struct wal_index_header) == 48, "SQLite's header has 48 bytes");

/* In the order of this machine. */
static void checksum_add(const void *bytes, size_t len, uint32_t sum[2])
{
	const uint8_t *at = bytes;
	for (size_t i = 0; i < len; i += 8) {
		uint32_t words[2];
		memcpy(words, at + i, sizeof words);
		sum[0] += words[0] + sum[1];
		sum[1] += words[1] + sum[0];
	}
}

void wal_index_finish(struct wal_index *index)
{
	free(index->blocks); /* the mappings are SQLite's */
	*index = (struct wal_index){0};
}

static int map(struct wal_index *index, int block)
{
	while (index->count <= block) {
		void volatile *mapped = NULL;
		void **more = reallocarray(
			index->blocks, (size_t)index->count + 1, sizeof(*index->blocks));
		if (more == NULL) {
			return SQLITE_NOMEM;
		}
		index->blocks = more;
		int rc = index->file->pMethods->xShmMap(
			index->file, index->count, BLOCK_BYTES, 1, &mapped);
		if (rc != SQLITE_OK || mapped == NULL) {
			return rc != SQLITE_OK ? rc : SQLITE_IOERR;
		}
		index->blocks[index->count++] = (void *)mapped;
	}
	return SQLITE_OK;
}

/* ---- the header ---- */

int wal_index_read(struct wal_index *index, struct wal_index_header *ret_header)
{
	struct wal_index_header second;
	uint32_t sum[2] = {0, 0};
	int rc = map(index, 0);
	if (rc != SQLITE_OK) {
		return rc;
	}
	memcpy(ret_header, index->blocks[0], sizeof(*ret_header));
	index->file->pMethods->xShmBarrier(index->file);
	memcpy(&second, (uint8_t *)index->blocks[0] + sizeof(second), sizeof(second));
	checksum_add(ret_header, offsetof(struct wal_index_header, checksum), sum);
	bool right = memcmp(ret_header, &second, sizeof(second)) == 0 && ret_header->valid != 0 &&
		memcmp(sum, ret_header->checksum, sizeof(sum)) == 0;
	return right ? SQLITE_OK : SQLITE_BUSY_RECOVERY;
}

void wal_index_publish(struct wal_index *index, struct wal_index_header *header)
{
	header->version = WAL_VERSION;
	header->valid = 1;
	header->changes++;
	header->checksum[0] = header->checksum[1] = 0;
	checksum_add(header, offsetof(struct wal_index_header, checksum), header->checksum);
	memcpy((uint8_t *)index->blocks[0] + sizeof(*header), header, sizeof(*header));
	index->file->pMethods->xShmBarrier(index->file);
	memcpy(index->blocks[0], header, sizeof(*header));
}

/* ---- entries ---- */

static int block_of(uint32_t frame)
{
	return (int)((frame + FRAMES - FRAMES_FIRST - 1) / FRAMES);
}

/* A block's table of page numbers and its slots; the frame before its first. */
struct view {
	uint32_t *pages;
	uint16_t *slots;
	uint32_t before;
};

static struct view view_of(const struct wal_index *index, int block)
{
	uint8_t *bytes = index->blocks[block];
	struct view view = {.slots = (void *)(bytes + FRAMES * sizeof(uint32_t))};
	view.pages = (void *)(bytes + (block == 0 ? HEAD_BYTES : 0));
	view.before = block == 0 ? 0 : FRAMES_FIRST + (uint32_t)(block - 1) * FRAMES;
	return view;
}

static uint32_t first_slot(uint32_t page_no)
{
	return page_no * HASH_FACTOR & (SLOTS - 1);
}

/* Entries from `place` on are of a writer that did not get to publish them. */
static void forget_from(const struct view *view, uint32_t place)
{
	for (size_t i = 0; i < SLOTS; i++) {
		if (view->slots[i] >= place) {
			view->slots[i] = 0;
		}
	}
	memset(view->pages + place - 1, 0,
		(size_t)((uint8_t *)view->slots - (uint8_t *)(view->pages + place - 1)));
}

int wal_index_append(struct wal_index *index, uint32_t frame, uint32_t page_no)
{
	int block = block_of(frame);
	int rc = map(index, block);
	if (rc != SQLITE_OK) {
		return rc;
	}
	struct view view = view_of(index, block);
	uint32_t place = frame - view.before; /* counted from 1; 0 is a free slot */
	if (place == 1 || view.pages[place - 1] != 0) {
		forget_from(&view, place);
	}
	uint32_t slot = first_slot(page_no);
	while (view.slots[slot] != 0) {
		slot = (slot + 1) & (SLOTS - 1);
	}
	view.pages[place - 1] = page_no;
	__atomic_store_n(&view.slots[slot], (uint16_t)place, __ATOMIC_RELEASE);
	return SQLITE_OK;
}

int wal_index_find(struct wal_index *index, uint32_t frames, uint32_t page_no, uint32_t *ret_frame)
{
	*ret_frame = 0;
	for (int block = frames > 0 ? block_of(frames) : -1; block >= 0; block--) {
		int rc = map(index, block);
		if (rc != SQLITE_OK) {
			return rc;
		}
		struct view view = view_of(index, block);
		uint32_t slot = first_slot(page_no);
		for (int i = 0; i < SLOTS && view.slots[slot] != 0; i++) {
			uint32_t frame = view.before + view.slots[slot];
			if (frame <= frames && view.pages[view.slots[slot] - 1] == page_no) {
				*ret_frame = frame > *ret_frame ? frame : *ret_frame;
			}
			slot = (slot + 1) & (SLOTS - 1);
		}
		if (*ret_frame != 0) {
			return SQLITE_OK;
		}
	}
	return SQLITE_OK;
}
