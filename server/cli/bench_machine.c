/* SPDX-License-Identifier: MIT */

/* Asks the system about itself, and the disk how long a sync takes. What it cannot tell is empty. */

#include "server/cli/bench_machine.h"

#include "server/cli/bench_target.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { SYNCS = 101, PAGE = 4096 };

static const struct {
	long magic;
	const char *name;
} filesystems[] = {
	{0xef53, "ext4"},
	{0x58465342, "xfs"},
	{0x9123683e, "btrfs"},
	{0x2fc12fc1, "zfs"},
	{0x01021994, "tmpfs"},
	{0x794c7630, "overlayfs"},
	{0xf2f52010, "f2fs"},
};

static int by_size(const void *a, const void *b)
{
	double left = *(const double *)a;
	double right = *(const double *)b;
	return (left > right) - (left < right);
}

static double median_sync_us(const char *directory)
{
	static const char page[PAGE];
	double took_us[SYNCS] = {0};
	char path[4096];
	snprintf(path, sizeof(path), "%s/litefunnel-bench-XXXXXX", directory);
	int fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0) {
		return 0;
	}
	unlink(path);
	for (int i = 0; i < SYNCS; i++) {
		uint64_t began_ns = target_now_ns();
		if (pwrite(fd, page, sizeof(page), 0) != (ssize_t)sizeof(page) ||
			fdatasync(fd) != 0) {
			break;
		}
		took_us[i] = (double)(target_now_ns() - began_ns) / 1e3;
	}
	close(fd);
	qsort(took_us, SYNCS, sizeof(took_us[0]), by_size);
	return took_us[SYNCS / 2];
}

static void name_processor(struct bench_machine *machine)
{
	char line[256];
	FILE *file = fopen("/proc/cpuinfo", "re");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
		if (sscanf(line, "model name : %127[^\n]", machine->processor) == 1) {
			break;
		}
	}
	if (file != NULL) {
		fclose(file);
	}
}

static void name_filesystem(struct bench_machine *machine, const char *directory)
{
	struct statfs status;
	if (statfs(directory, &status) != 0) {
		return;
	}
	snprintf(machine->filesystem, sizeof(machine->filesystem), "type %lx",
		(unsigned long)status.f_type);
	for (size_t i = 0; i < sizeof(filesystems) / sizeof(filesystems[0]); i++) {
		if (filesystems[i].magic == (long)status.f_type) {
			snprintf(machine->filesystem, sizeof(machine->filesystem), "%s",
				filesystems[i].name);
		}
	}
}

void bench_machine_look(struct bench_machine *machine, const char *directory)
{
	struct utsname name;
	struct sysinfo info;
	cpu_set_t cores;
	*machine = (struct bench_machine){0};
	if (sched_getaffinity(0, sizeof(cores), &cores) == 0) {
		machine->cores = (unsigned)CPU_COUNT(&cores);
	}
	if (sysinfo(&info) == 0) {
		machine->memory_gib =
			(double)info.totalram * info.mem_unit / (1024.0 * 1024 * 1024);
	}
	if (uname(&name) == 0) {
		snprintf(machine->kernel, sizeof(machine->kernel), "%s %s", name.sysname,
			name.release);
	}
	if (getloadavg(&machine->load, 1) != 1) {
		machine->load = 0;
	}
	name_processor(machine);
	name_filesystem(machine, directory);
	machine->sync_us = median_sync_us(directory);
}
