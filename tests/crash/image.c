/* SPDX-License-Identifier: MIT */

/*
 * From a tape to crash images. Names and contents are kept apart, as a file system does: a new
 * name may be lost while the content is synced, and a deleted one may come back with what it held.
 */

#include "tests/crash/image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SECTOR = 512, NAMES_PENDING_MAX = 64 };

/* What is known about a write that has not simply been synced. */
enum hope {
	HOPE_OPEN,   /* any fate */
	HOPE_DOOMED, /* left behind by a failed sync: any fate, and later syncs do not help it */
	HOPE_SYNCED, /* synced, but it lies over a doomed one */
};

struct inode {
	struct content content; /* on the disk */
	size_t *pending;        /* tape entries since the last sync */
	enum hope *hopes;
	size_t pending_count;
	size_t pending_cap;
	bool has_doomed;
};

/* Which inode a name leads to, or -1. */
struct name {
	int on_disk;
	int pending[NAMES_PENDING_MAX]; /* since the directory was synced, in order */
	size_t pending_count;
};

struct cutter {
	const struct tape *tape;
	size_t at;
	uint64_t acked;
	uint64_t sent;
	struct inode *inodes;
	size_t inodes_count;
	struct name names[FILE_COUNT];
};

static _Noreturn void give_up(const char *what)
{
	perror(what);
	exit(2);
}

static void *checked(void *at)
{
	if (at == NULL) {
		give_up("image: out of memory");
	}
	return at;
}

/* ---- contents ---- */

static void content_resize(struct content *content, size_t len)
{
	if (len > content->cap) {
		content->cap = len + len / 2 + 65536;
		content->data = checked(realloc(content->data, content->cap));
	}
	if (len > content->len) {
		memset(content->data + content->len, 0, len - content->len);
	}
	content->len = len;
}

static void content_put(struct content *content, size_t offset, const void *data, size_t len)
{
	if (offset + len > content->len) {
		content_resize(content, offset + len);
	}
	memcpy(content->data + offset, data, len);
}

static void content_copy(struct content *to, const struct content *from)
{
	to->len = 0;
	content_resize(to, from->len);
	if (from->len > 0) {
		memcpy(to->data, from->data, from->len);
	}
}

void image_finish(struct image *image)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		free(image->content[i].data);
	}
	*image = (struct image){0};
}

static void write_whole(const char *path, const struct content *content)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
	size_t done = 0;
	if (fd < 0) {
		give_up(path);
	}
	while (done < content->len) {
		ssize_t written = write(fd, content->data + done, content->len - done);
		if (written < 0) {
			give_up(path);
		}
		done += (size_t)written;
	}
	close(fd);
}

void image_write(const struct image *image, const char *path)
{
	char name[4096];
	snprintf(name, sizeof(name), "%s-shm", path);
	unlink(name);
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		snprintf(name, sizeof(name), "%s%s", path, db_file_suffix[i]);
		if (image->exists[i]) {
			write_whole(name, &image->content[i]);
		} else {
			unlink(name);
		}
	}
}

void image_read(struct image *image, const char *path)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		char name[4096];
		struct stat status;
		snprintf(name, sizeof(name), "%s%s", path, db_file_suffix[i]);
		int fd = open(name, O_RDONLY | O_CLOEXEC);
		image->exists[i] = fd >= 0;
		image->content[i].len = 0;
		if (fd >= 0) {
			if (fstat(fd, &status) < 0) {
				give_up(name);
			}
			content_resize(&image->content[i], (size_t)status.st_size);
			if (read(fd, image->content[i].data, (size_t)status.st_size) !=
				status.st_size) {
				give_up(name);
			}
			close(fd);
		}
	}
}

/* ---- along the tape ---- */

static int inode_add(struct cutter *cutter, const struct content *content)
{
	cutter->inodes = checked(
		reallocarray(cutter->inodes, cutter->inodes_count + 1, sizeof(*cutter->inodes)));
	struct inode *inode = &cutter->inodes[cutter->inodes_count];
	*inode = (struct inode){0};
	if (content != NULL) {
		content_copy(&inode->content, content);
	}
	return (int)cutter->inodes_count++;
}

struct cutter *cutter_new(const struct image *base, const struct tape *tape)
{
	struct cutter *cutter = checked(calloc(1, sizeof(*cutter)));
	cutter->tape = tape;
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		cutter->names[i].on_disk =
			base->exists[i] ? inode_add(cutter, &base->content[i]) : -1;
	}
	return cutter;
}

void cutter_free(struct cutter *cutter)
{
	if (cutter == NULL) {
		return;
	}
	for (size_t i = 0; i < cutter->inodes_count; i++) {
		free(cutter->inodes[i].content.data);
		free(cutter->inodes[i].pending);
		free(cutter->inodes[i].hopes);
	}
	free(cutter->inodes);
	free(cutter);
}

uint64_t cutter_acked(const struct cutter *cutter)
{
	return cutter->acked;
}

uint64_t cutter_sent(const struct cutter *cutter)
{
	return cutter->sent;
}

/* Where the name leads in the running system, whatever the disk says. */
static int name_now(const struct name *name)
{
	return name->pending_count > 0 ? name->pending[name->pending_count - 1] : name->on_disk;
}

static void name_set(struct name *name, int inode)
{
	if (name->pending_count == NAMES_PENDING_MAX) {
		/* The oldest has long been written back. */
		name->on_disk = name->pending[0];
		memmove(name->pending, name->pending + 1,
			(NAMES_PENDING_MAX - 1) * sizeof(name->pending[0]));
		name->pending_count--;
	}
	name->pending[name->pending_count++] = inode;
}

static void inode_pend(struct inode *inode, size_t entry)
{
	if (inode->pending_count == inode->pending_cap) {
		inode->pending_cap = inode->pending_cap * 2 + 64;
		inode->pending = checked(
			reallocarray(inode->pending, inode->pending_cap, sizeof(*inode->pending)));
		inode->hopes = checked(
			reallocarray(inode->hopes, inode->pending_cap, sizeof(*inode->hopes)));
	}
	inode->hopes[inode->pending_count] = HOPE_OPEN;
	inode->pending[inode->pending_count++] = entry;
}

static void apply(struct content *content, const struct tape *tape, const struct tape_entry *entry)
{
	if (entry->kind == TAPE_TRUNCATE) {
		content_resize(content, (size_t)entry->number);
	} else {
		content_put(content, (size_t)entry->number, tape->bytes + entry->at, entry->len);
	}
}

/* A sync brings everything to the disk, but for what an earlier, failed sync has given up. */
static void inode_sync(const struct tape *tape, struct inode *inode)
{
	for (size_t i = 0; i < inode->pending_count; i++) {
		if (!inode->has_doomed) {
			apply(&inode->content, tape, &tape->entries[inode->pending[i]]);
		} else if (inode->hopes[i] == HOPE_OPEN) {
			inode->hopes[i] = HOPE_SYNCED;
		}
	}
	if (!inode->has_doomed) {
		inode->pending_count = 0;
	}
}

static void inode_sync_failed(struct inode *inode)
{
	for (size_t i = 0; i < inode->pending_count; i++) {
		if (inode->hopes[i] == HOPE_OPEN) {
			inode->hopes[i] = HOPE_DOOMED;
			inode->has_doomed = true;
		}
	}
}

static void sync_names(struct cutter *cutter)
{
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		struct name *name = &cutter->names[i];
		name->on_disk = name_now(name);
		name->pending_count = 0;
	}
}

static void advance_one(struct cutter *cutter, size_t index)
{
	const struct tape_entry *entry = &cutter->tape->entries[index];
	struct name *name = &cutter->names[entry->file];
	int now = name_now(name);
	struct inode *inode = now >= 0 ? &cutter->inodes[now] : NULL;
	switch (entry->kind) {
	case TAPE_CREATE:
		name_set(name, inode_add(cutter, NULL));
		break;
	case TAPE_DELETE:
		name_set(name, -1);
		break;
	case TAPE_DIR_SYNC:
		sync_names(cutter);
		break;
	case TAPE_WRITE:
	case TAPE_TRUNCATE:
		inode_pend(inode, index);
		break;
	case TAPE_SYNC:
		inode_sync(cutter->tape, inode);
		break;
	case TAPE_SYNC_FAILED:
		inode_sync_failed(inode);
		break;
	case TAPE_ACKED:
		cutter->acked = entry->number;
		break;
	case TAPE_SENT:
		cutter->sent = entry->number;
		break;
	case TAPE_CHECKPOINT:
		break;
	}
}

void cutter_advance(struct cutter *cutter, size_t entries)
{
	while (cutter->at < entries) {
		advance_one(cutter, cutter->at++);
	}
}

/* ---- an image ---- */

/* How likely each fate is in one image, in percent; what remains is written as it was meant. */
struct fates {
	uint32_t dropped;
	uint32_t torn;
	uint32_t garbled;
	bool shuffled;
};

static struct fates choose_fates(struct random *random)
{
	switch (random_below(random, 8)) {
	case 0:
		return (struct fates){.dropped = 100};
	case 1:
		return (struct fates){0};
	case 2:
		return (struct fates){.dropped = 50};
	case 3:
		return (struct fates){.torn = 50, .shuffled = true};
	case 4:
		return (struct fates){.garbled = 30};
	default:
		return (struct fates){.dropped = random_below(random, 60),
			.torn = random_below(random, 60),
			.garbled = random_below(random, 40),
			.shuffled = random_chance(random, 50)};
	}
}

/* Each sector of the write gets there, or does not. */
static void put_torn(struct content *content, const struct tape *tape,
	const struct tape_entry *entry, struct random *random)
{
	bool prefix = random_chance(random, 50);
	size_t end = (size_t)entry->number + entry->len;
	size_t at = (size_t)entry->number;
	while (at < end) {
		size_t next = (at / SECTOR + 1) * SECTOR;
		next = next < end ? next : end;
		bool kept = random_chance(random, 60);
		if (kept) {
			content_put(content, at, tape->bytes + entry->at + (at - entry->number),
				next - at);
		} else if (prefix) {
			return;
		}
		at = next;
	}
}

static void put_garbled(
	struct content *content, const struct tape_entry *entry, struct random *random)
{
	uint8_t *noise = checked(malloc(entry->len > 0 ? entry->len : 1));
	random_bytes(random, noise, entry->len);
	content_put(content, (size_t)entry->number, noise, entry->len);
	free(noise);
}

static void put_fate(struct content *content, const struct tape *tape,
	const struct tape_entry *entry, const struct fates *fates, struct random *random)
{
	uint32_t dice = random_below(random, 100);
	if (dice < fates->dropped) {
		return;
	}
	if (entry->kind == TAPE_WRITE && random_chance(random, fates->torn)) {
		put_torn(content, tape, entry, random);
	} else if (entry->kind == TAPE_WRITE && random_chance(random, fates->garbled)) {
		put_garbled(content, entry, random);
	} else {
		apply(content, tape, entry);
	}
}

static void shuffle(size_t *order, size_t count, struct random *random)
{
	for (size_t i = count; i > 1; i--) {
		size_t other = random_below(random, (uint32_t)i);
		size_t kept = order[i - 1];
		order[i - 1] = order[other];
		order[other] = kept;
	}
}

static void put_pending(struct content *content, const struct tape *tape, const struct inode *inode,
	const struct fates *fates, struct random *random)
{
	size_t count = inode->pending_count;
	size_t *order = checked(malloc((count + 1) * sizeof(*order)));
	for (size_t i = 0; i < count; i++) {
		order[i] = i;
	}
	if (fates->shuffled && !inode->has_doomed) {
		shuffle(order, count, random);
	}
	for (size_t i = 0; i < count; i++) {
		const struct tape_entry *entry = &tape->entries[inode->pending[order[i]]];
		if (inode->hopes[order[i]] == HOPE_SYNCED) {
			apply(content, tape, entry);
		} else {
			put_fate(content, tape, entry, fates, random);
		}
	}
	free(order);
}

void cutter_image(const struct cutter *cutter, uint64_t seed, struct image *ret_image)
{
	struct random random;
	random_seed(&random, seed);
	for (unsigned i = 0; i < FILE_COUNT; i++) {
		const struct name *name = &cutter->names[i];
		struct fates fates = choose_fates(&random);
		size_t names = random_below(&random, (uint32_t)name->pending_count + 1);
		int inode = names > 0 ? name->pending[names - 1] : name->on_disk;
		ret_image->exists[i] = inode >= 0;
		if (inode >= 0) {
			content_copy(&ret_image->content[i], &cutter->inodes[inode].content);
			put_pending(&ret_image->content[i], cutter->tape, &cutter->inodes[inode],
				&fates, &random);
		}
	}
}
