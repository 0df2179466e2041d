/* SPDX-License-Identifier: MIT */

/*
 * A page that the kernel clears in a forked child. A call of the library looks at the process ten
 * times, and getpid() is a system call each time.
 */

#include "client/fork_mark.h"

#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096 };

void fork_mark_init(struct fork_mark *mark)
{
	void *page =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page != MAP_FAILED && madvise(page, PAGE_BYTES, MADV_WIPEONFORK) != 0) {
		munmap(page, PAGE_BYTES);
		page = MAP_FAILED;
	}
	mark->page = page != MAP_FAILED ? page : NULL;
	fork_mark_set(mark);
}

void fork_mark_finish(struct fork_mark *mark)
{
	if (mark->page != NULL) {
		munmap(mark->page, PAGE_BYTES);
		mark->page = NULL;
	}
}

bool fork_mark_forked(const struct fork_mark *mark)
{
	return mark->page != NULL ? mark->page[0] == 0 : mark->pid != getpid();
}

void fork_mark_set(struct fork_mark *mark)
{
	mark->pid = getpid();
	if (mark->page != NULL) {
		mark->page[0] = 1;
	}
}
