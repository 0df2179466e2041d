/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * The digest of a database file that nobody writes to, read from its bytes by a few threads. Opens
 * and closes the file, so not for a process that has it open through SQLite.
 */

#include "server/ship/digest.h"

#include <stdint.h>

/* 0, -ENODATA if the file is shorter than `pages`, or another negative errno. */
int digest_file(const char *path, uint32_t page_size, uint32_t pages, struct digest *ret_digest);
