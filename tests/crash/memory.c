/* SPDX-License-Identifier: MIT */

/* Stands between the product and the heap. One thread. */

#include "tests/crash/memory.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 1 << 16 };

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *at, size_t size);
void *__real_reallocarray(void *at, size_t count, size_t size);
char *__real_strdup(const char *text);
int __real_vasprintf(char **ret_text, const char *format, va_list args);
void __real_free(void *at);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *at, size_t size);
void *__wrap_reallocarray(void *at, size_t count, size_t size);
char *__wrap_strdup(const char *text);
int __wrap_vasprintf(char **ret_text, const char *format, va_list args);
int __wrap___vasprintf_chk(char **ret_text, int flag, const char *format, va_list args);
void __wrap_free(void *at);

static struct {
	uint64_t fail_at;
	bool sticky;
	uint64_t calls;
	uint64_t failed;
	bool inside;
	bool trap;
	size_t live;
	struct {
		void *at;
		const void *where;
	} slots[SLOTS]; /* open addressing; a freed place keeps DELETED */
	sqlite3_mem_methods sqlite;
} heap;

static char deleted;
#define DELETED ((void *)&deleted)

void memory_fail_at(uint64_t at, bool sticky)
{
	heap.fail_at = at;
	heap.sticky = sticky;
	heap.calls = 0;
	heap.failed = 0;
	heap.live = 0;
	memset(heap.slots, 0, sizeof(heap.slots));
}

void memory_watch(bool inside)
{
	heap.inside = inside;
}

void memory_trap(void)
{
	heap.trap = true;
}

uint64_t memory_calls(void)
{
	return heap.calls;
}

uint64_t memory_failed(void)
{
	return heap.failed;
}

static bool fails(void)
{
	if (!heap.inside) {
		return false;
	}
	uint64_t call = ++heap.calls;
	bool now =
		heap.fail_at != 0 && (call == heap.fail_at || (heap.sticky && call > heap.fail_at));
	heap.failed += now;
	if (now && heap.failed == 1 && heap.trap) {
		raise(SIGTRAP);
	}
	return now;
}

static size_t place(const void *at)
{
	return ((uintptr_t)at >> 4) * 0x9e3779b1u % SLOTS;
}

static void *note(void *at, const void *where)
{
	if (at == NULL || !heap.inside || heap.live > SLOTS / 2) {
		return at;
	}
	size_t i = place(at);
	while (heap.slots[i].at != NULL && heap.slots[i].at != DELETED) {
		i = (i + 1) % SLOTS;
	}
	heap.slots[i].at = at;
	heap.slots[i].where = where;
	heap.live++;
	return at;
}

static void forget(void *at)
{
	size_t i = place(at);
	if (at == NULL || heap.live == 0) {
		return;
	}
	while (heap.slots[i].at != NULL && heap.slots[i].at != at) {
		i = (i + 1) % SLOTS;
	}
	if (heap.slots[i].at == at) {
		heap.slots[i].at = DELETED;
		heap.live--;
	}
}

size_t memory_live(const void **ret_where)
{
	*ret_where = NULL;
	for (size_t i = 0; i < SLOTS; i++) {
		if (heap.slots[i].at != NULL && heap.slots[i].at != DELETED) {
			*ret_where = heap.slots[i].where;
		}
	}
	return heap.live;
}

/* ---- the C library's ---- */

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : note(__real_malloc(size), __builtin_return_address(0));
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fails() ? NULL : note(__real_calloc(count, size), __builtin_return_address(0));
}

void *__wrap_realloc(void *at, size_t size)
{
	if (fails()) {
		return NULL;
	}
	forget(at);
	return note(__real_realloc(at, size), __builtin_return_address(0));
}

void *__wrap_reallocarray(void *at, size_t count, size_t size)
{
	if (fails()) {
		return NULL;
	}
	forget(at);
	return note(__real_reallocarray(at, count, size), __builtin_return_address(0));
}

char *__wrap_strdup(const char *text)
{
	return fails() ? NULL : note(__real_strdup(text), __builtin_return_address(0));
}

int __wrap_vasprintf(char **ret_text, const char *format, va_list args)
{
	if (fails()) {
		*ret_text = NULL;
		return -1;
	}
	int len = __real_vasprintf(ret_text, format, args);
	note(*ret_text, __builtin_return_address(0));
	return len;
}

int __wrap___vasprintf_chk(char **ret_text, int flag, const char *format, va_list args)
{
	(void)flag;
	return __wrap_vasprintf(ret_text, format, args);
}

void __wrap_free(void *at)
{
	forget(at);
	__real_free(at);
}

/* ---- SQLite's ---- */

static void *sqlite_malloc(int size)
{
	return fails() ? NULL : heap.sqlite.xMalloc(size);
}

static void *sqlite_realloc(void *at, int size)
{
	return fails() ? NULL : heap.sqlite.xRealloc(at, size);
}

void memory_install(void)
{
	sqlite3_config(SQLITE_CONFIG_GETMALLOC, &heap.sqlite);
	sqlite3_mem_methods ours = heap.sqlite;
	ours.xMalloc = sqlite_malloc;
	ours.xRealloc = sqlite_realloc;
	if (sqlite3_config(SQLITE_CONFIG_MALLOC, &ours) != SQLITE_OK) {
		fprintf(stderr, "memory: SQLite is already running\n");
		exit(2);
	}
}
