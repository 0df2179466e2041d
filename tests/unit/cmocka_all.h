/* SPDX-License-Identifier: MIT */
#pragma once

/* cmocka.h leaves these four to its user, in this order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
