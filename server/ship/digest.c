/* SPDX-License-Identifier: MIT */

/*
 * The digest of a database, page by page. It knows nothing of files: who calls it decides which
 * pages there are.
 */

#include "server/ship/digest.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct digester {
	EVP_MD_CTX *context;
};

int digester_new(struct digester **ret_digester)
{
	struct digester *digester = calloc(1, sizeof *digester);
	if (digester == NULL) {
		return -ENOMEM;
	}
	/* Looking the algorithm up costs more than hashing a page: it is done once, here. */
	digester->context = EVP_MD_CTX_new();
	if (digester->context == NULL ||
		EVP_DigestInit_ex(digester->context, EVP_sha256(), NULL) != 1) {
		digester_free(digester);
		return -ENOMEM;
	}
	*ret_digester = digester;
	return 0;
}

void digester_free(struct digester *digester)
{
	if (digester != NULL) {
		EVP_MD_CTX_free(digester->context);
		free(digester);
	}
}

struct digest digest_page(
	struct digester *digester, uint32_t page_no, const void *page, size_t page_size)
{
	const uint8_t number[4] = {(uint8_t)(page_no >> 24), (uint8_t)(page_no >> 16),
		(uint8_t)(page_no >> 8), (uint8_t)page_no};
	uint8_t sha256[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *context = digester->context;
	int ok = EVP_DigestInit_ex(context, NULL, NULL) == 1 &&
		EVP_DigestUpdate(context, number, sizeof number) == 1 &&
		EVP_DigestUpdate(context, page, page_size) == 1 &&
		EVP_DigestFinal_ex(context, sha256, NULL) == 1;
	assert(ok); /* nothing in it can fail once the algorithm is there */
	(void)ok;
	struct digest part;
	memcpy(part.bytes, sha256, sizeof part.bytes);
	return part;
}

void digest_toggle(struct digest *digest, const struct digest *part)
{
	for (size_t i = 0; i < sizeof digest->bytes; i++) {
		digest->bytes[i] ^= part->bytes[i];
	}
}
