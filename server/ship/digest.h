/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The digest of a database: the XOR, over all its pages but the lock page, of the first 16 bytes of
 * SHA-256(page number as 4 bytes big-endian || page). It does not depend on the order, so a change
 * of one page costs two hashes: the old content out, the new content in.
 */

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_BYTES = 16 };

struct digest {
	uint8_t bytes[DIGEST_BYTES];
};

/* What hashes; one thread's at a time. -ENOMEM. */
struct digester;
int digester_new(struct digester **ret_digester);
void digester_free(struct digester *digester);

/* What one page adds to the digest of its database. */
struct digest digest_page(
	struct digester *digester, uint32_t page_no, const void *page, size_t page_size);

/* Takes a part into a digest, or out of it again: the same thing. */
void digest_toggle(struct digest *digest, const struct digest *part);
