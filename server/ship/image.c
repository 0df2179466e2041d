/* SPDX-License-Identifier: MIT */

/* Reads a whole database, once, in order, and hashes it on the way. */

#include "server/ship/image.h"

#include "server/base/cleanup.h"
#include "server/ship/wal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PROGRESS_PAGES = 1024 };

struct reading {
	const struct image_plan *plan;
	int db_fd;
	struct wal *wal;
	struct digester *digester;
	struct digest digest;
	uint8_t *page;
};

static int read_db(const struct reading *reading, uint32_t page_no)
{
	size_t size = reading->plan->at.page_size;
	size_t done = 0;
	while (done < size) {
		ssize_t got = pread(reading->db_fd, reading->page + done, size - done,
			(off_t)(page_no - 1) * (off_t)size + (off_t)done);
		if (got < 0 && errno == EINTR) {
			continue;
		}
		if (got <= 0) {
			return got == 0 ? IMAGE_LATER : -errno;
		}
		done += (size_t)got;
	}
	return 0;
}

static int read_page(const struct reading *reading, uint32_t page_no)
{
	const struct image_plan *plan = reading->plan;
	const uint64_t *frame = page_map_get(&plan->frames, page_no);
	if (frame != NULL) {
		struct wal_frame header;
		int rc = wal_page(reading->wal, plan->at.salt, *frame, reading->page, &header);
		if (rc != WAL_GONE) {
			return rc == 0 && header.page_no != page_no ? IMAGE_LATER : rc;
		}
	}
	return read_db(reading, page_no);
}

static int write_pages(struct reading *reading, struct ltx_writer *writer)
{
	const struct image_plan *plan = reading->plan;
	uint32_t lock_page = ltx_lock_page(plan->at.page_size);
	int rc = 0;
	for (uint32_t page_no = 1; rc == 0 && page_no <= plan->at.pages; page_no++) {
		if (page_no == lock_page) {
			continue;
		}
		rc = read_page(reading, page_no);
		rc = rc == 0 ? ltx_writer_page(writer, page_no, reading->page) : rc;
		if (rc == 0) {
			struct digest part = digest_page(
				reading->digester, page_no, reading->page, plan->at.page_size);
			digest_toggle(&reading->digest, &part);
		}
		if (rc == 0 && page_no % PROGRESS_PAGES == 0) {
			rc = plan->progress(plan->ctx, page_no, plan->at.pages);
		}
	}
	return rc == 0 ? ltx_writer_finish(writer) : rc;
}

static struct record record_of(const struct image_plan *plan, const struct digest *digest)
{
	struct record record = {
		.commit_first = plan->commit_first,
		.commit_last = plan->at.commit_no,
		.committed_ms = plan->at.committed_ms,
		.has_digest = true,
		.full = true,
	};
	memcpy(record.epoch, plan->at.epoch, sizeof(record.epoch));
	memcpy(record.writer, plan->writer, sizeof(record.writer));
	memcpy(record.previous, plan->previous, sizeof(record.previous));
	memcpy(record.digest_after, digest->bytes, sizeof(record.digest_after));
	return record;
}

static int write_file(struct reading *reading, struct record *ret_record)
{
	const struct image_plan *plan = reading->plan;
	struct outgoing *outgoing = NULL;
	struct ltx_writer *writer = NULL;
	struct ltx_header header = {
		.page_size = plan->at.page_size,
		.commit = plan->at.pages,
		.min_txid = plan->min_txid,
		.max_txid = plan->at.txid,
		.timestamp_ms = plan->timestamp_ms,
		.wal_offset = 32,
		.salt1 = plan->at.salt[0],
		.salt2 = plan->at.salt[1],
	};
	int rc = spool_create(plan->spool, SPOOL_IMAGES, &outgoing);
	rc = rc == 0 ? ltx_writer_new(&header, outgoing_write, outgoing, &writer) : rc;
	rc = rc == 0 ? write_pages(reading, writer) : rc;
	ltx_writer_free(writer);
	if (rc == 0 && plan->check &&
		memcmp(&reading->digest, &plan->at.digest, sizeof(reading->digest)) != 0) {
		rc = IMAGE_DIFFERS;
	}
	if (rc != 0) {
		outgoing_abandon(outgoing);
		return rc;
	}
	*ret_record = record_of(plan, &reading->digest);
	return outgoing_commit(outgoing, plan->min_txid, plan->at.txid, ret_record);
}

int image_build(struct image_plan *plan, struct record *ret_record)
{
	struct reading reading = {.plan = plan};
	reading.db_fd = open(plan->db, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	int rc = reading.db_fd >= 0 ? 0 : -errno;
	reading.page = malloc(plan->at.page_size);
	rc = rc == 0 && reading.page == NULL ? -ENOMEM : rc;
	rc = rc == 0 ? digester_new(&reading.digester) : rc;
	rc = rc == 0 ? wal_new(plan->db, plan->at.page_size, &reading.wal) : rc;
	if (rc == 0) {
		int opened = wal_refresh(reading.wal);
		rc = opened < 0 ? opened : 0; /* no WAL: everything is in the database file */
		rc = rc == 0 && opened == 0 && plan->sync_wal ? wal_sync(reading.wal) : rc;
	}
	rc = rc == 0 ? write_file(&reading, ret_record) : rc;
	wal_free(reading.wal);
	digester_free(reading.digester);
	free(reading.page);
	if (reading.db_fd >= 0) {
		close(reading.db_fd);
	}
	page_map_finish(&plan->frames);
	return rc;
}
