/* SPDX-License-Identifier: MIT */

/*
 * The digest of a whole file. It is an XOR, so each thread takes a run of pages and the parts are
 * put together in any order.
 */

#include "server/ship/digest_file.h"

#include "server/base/cleanup.h"
#include "server/ship/ltx.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 4, RUN_BYTES = 1024 * 1024 };

struct part {
	pthread_t thread;
	bool started;
	int fd;
	uint32_t page_size;
	uint32_t first; /* pages, from 1 */
	uint32_t end;
	struct digest digest;
	int rc;
};

static int read_fully(int fd, uint8_t *bytes, size_t len, off_t offset)
{
	while (len > 0) {
		ssize_t n = pread(fd, bytes, len, offset);
		if (n == 0) {
			return -ENODATA;
		}
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		size_t got = n > 0 ? (size_t)n : 0;
		bytes += got;
		len -= got;
		offset += (off_t)got;
	}
	return 0;
}

static int digest_run(struct part *part, struct digester *digester, uint8_t *bytes, uint32_t first,
	uint32_t count)
{
	uint32_t lock_page = ltx_lock_page(part->page_size);
	int rc = read_fully(part->fd, bytes, (size_t)count * part->page_size,
		(off_t)(first - 1) * part->page_size);
	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		if (first + i != lock_page) {
			struct digest page = digest_page(digester, first + i,
				bytes + (size_t)i * part->page_size, part->page_size);
			digest_toggle(&part->digest, &page);
		}
	}
	return rc;
}

static void *digest_part(void *ctx)
{
	struct part *part = ctx;
	struct digester *digester = NULL;
	uint8_t *bytes = malloc(RUN_BYTES);
	uint32_t run = RUN_BYTES / part->page_size;
	part->rc = bytes == NULL ? -ENOMEM : digester_new(&digester);
	for (uint32_t first = part->first; part->rc == 0 && first < part->end;) {
		uint32_t count = part->end - first < run ? part->end - first : run;
		part->rc = digest_run(part, digester, bytes, first, count);
		first += count;
	}
	digester_free(digester);
	free(bytes);
	return NULL;
}

int digest_file(const char *path, uint32_t page_size, uint32_t pages, struct digest *ret_digest)
{
	struct part parts[THREADS] = {0};
	int rc = 0;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		return -errno;
	}
	for (unsigned i = 0; i < THREADS; i++) {
		parts[i] = (struct part){.fd = fd,
			.page_size = page_size,
			.first = (uint32_t)((uint64_t)pages * i / THREADS) + 1,
			.end = (uint32_t)((uint64_t)pages * (i + 1) / THREADS) + 1};
		parts[i].started =
			pthread_create(&parts[i].thread, NULL, digest_part, &parts[i]) == 0;
	}
	memset(ret_digest, 0, sizeof *ret_digest);
	for (unsigned i = 0; i < THREADS; i++) {
		if (parts[i].started) {
			pthread_join(parts[i].thread, NULL);
		} else {
			digest_part(&parts[i]);
		}
		rc = rc == 0 ? parts[i].rc : rc;
		digest_toggle(ret_digest, &parts[i].digest);
	}
	return rc;
}
