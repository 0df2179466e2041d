/* SPDX-License-Identifier: MIT */

/*
 * The whole program on frail ground: a test that shares a page of memory with it decides which
 * allocation fails (its own, msgpack-c's, libevent's and SQLite's, of all threads), and how little
 * one call moves through a socket. It knows nothing of the daemon. Nothing happens until the page
 * says so, and without LF_FRAIL, the page's path, nothing ever does.
 */

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* The page, as tests/support/frail.py lays it out. */
struct page {
	_Atomic uint64_t armed;   /* 0: nothing is counted, nothing fails */
	_Atomic uint64_t fail_at; /* the allocation that fails, from 1; 0: none */
	_Atomic uint64_t sticky;  /* … and all after it */
	_Atomic uint64_t calls;
	_Atomic uint64_t failed;
	_Atomic uint64_t io_bytes; /* at most so many at once through a socket; 0: any number */
	_Atomic uint64_t moved;    /* calls of sockets */
};

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *at, size_t size);
void *__real_reallocarray(void *at, size_t count, size_t size);
char *__real_strdup(const char *text);
int __real_vasprintf(char **ret_text, const char *format, va_list args);
ssize_t __real_send(int fd, const void *data, size_t len, int flags);
ssize_t __real_recv(int fd, void *room, size_t len, int flags);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *at, size_t size);
void *__wrap_reallocarray(void *at, size_t count, size_t size);
char *__wrap_strdup(const char *text);
int __wrap_vasprintf(char **ret_text, const char *format, va_list args);
int __wrap___vasprintf_chk(char **ret_text, int flag, const char *format, va_list args);
ssize_t __wrap_send(int fd, const void *data, size_t len, int flags);
ssize_t __wrap_recv(int fd, void *room, size_t len, int flags);

static struct page *page;
static sqlite3_mem_methods sqlite;

static bool fails(void)
{
	if (page == NULL || page->armed == 0) {
		return false;
	}
	uint64_t call = atomic_fetch_add(&page->calls, 1) + 1;
	uint64_t at = page->fail_at;
	bool now = at != 0 && (call == at || (page->sticky != 0 && call > at));
	if (now) {
		atomic_fetch_add(&page->failed, 1);
		errno = ENOMEM;
	}
	return now;
}

/* ---- the C library's ---- */

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
	return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *at, size_t size)
{
	return fails() ? NULL : __real_realloc(at, size);
}

void *__wrap_reallocarray(void *at, size_t count, size_t size)
{
	return fails() ? NULL : __real_reallocarray(at, count, size);
}

char *__wrap_strdup(const char *text)
{
	return fails() ? NULL : __real_strdup(text);
}

int __wrap_vasprintf(char **ret_text, const char *format, va_list args)
{
	if (fails()) {
		*ret_text = NULL;
		return -1;
	}
	return __real_vasprintf(ret_text, format, args);
}

int __wrap___vasprintf_chk(char **ret_text, int flag, const char *format, va_list args)
{
	(void)flag;
	return __wrap_vasprintf(ret_text, format, args);
}

/* ---- SQLite's ---- */

static void *sqlite_malloc(int size)
{
	return fails() ? NULL : sqlite.xMalloc(size);
}

static void *sqlite_realloc(void *at, int size)
{
	return fails() ? NULL : sqlite.xRealloc(at, size);
}

/* ---- sockets ---- */

/* How much of `len` may go now; 0: this call is interrupted. Every third is. */
static size_t share(size_t len)
{
	size_t most = page == NULL || page->armed == 0 ? 0 : page->io_bytes;
	if (most == 0) {
		return len;
	}
	return atomic_fetch_add(&page->moved, 1) % 3 == 2 ? 0 : len < most ? len : most;
}

ssize_t __wrap_send(int fd, const void *data, size_t len, int flags)
{
	size_t now = share(len);
	if (now == 0 && len > 0) {
		errno = EINTR;
		return -1;
	}
	return __real_send(fd, data, now, flags);
}

ssize_t __wrap_recv(int fd, void *room, size_t len, int flags)
{
	size_t now = share(len);
	if (now == 0 && len > 0) {
		errno = EINTR;
		return -1;
	}
	return __real_recv(fd, room, now, flags);
}

/* ---- before main() ---- */

__attribute__((constructor)) static void install(void)
{
	const char *path = getenv("LF_FRAIL");
	int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (fd < 0) {
		return;
	}
	void *at = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite);
	sqlite3_mem_methods ours = sqlite;
	ours.xMalloc = sqlite_malloc;
	ours.xRealloc = sqlite_realloc;
	if (at == MAP_FAILED || sqlite3_config(SQLITE_CONFIG_MALLOC, &ours) != SQLITE_OK) {
		perror("frail");
		_exit(2);
	}
	event_set_mem_functions(__wrap_malloc, __wrap_realloc, free);
	page = at;
}
