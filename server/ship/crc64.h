/* SPDX-License-Identifier: MIT */
#pragma once

/*
 * CRC-64/GO-ISO: reflected, polynomial 0xD800000000000000, all ones before and after. The checksum
 * of LTX. `crc` is the finished value of what came before (0 at the start), so calls chain. Any
 * thread.
 */

#include <stddef.h>
#include <stdint.h>

uint64_t crc64(uint64_t crc, const void *bytes, size_t len);
