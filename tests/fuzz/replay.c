/* SPDX-License-Identifier: MIT */

/*
 * A main for a fuzz harness without a fuzzer: each argument is a file, or a directory of files, and
 * each file goes through the harness once. So a corpus is a test like any other.
 */

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
	enum { INPUT_BYTES_MAX = 1024 * 1024 };
	FILE *file = fopen(path, "re");
	uint8_t *data = malloc(INPUT_BYTES_MAX);
	if (file == NULL || data == NULL) {
		perror(path);
		exit(2);
	}
	size_t size = fread(data, 1, INPUT_BYTES_MAX, file);
	(void)fclose(file);
	/* A copy of the exact size, so that a sanitizer sees a read too far. */
	uint8_t *exact = malloc(size > 0 ? size : 1);
	if (exact == NULL) {
		perror(path);
		exit(2);
	}
	memcpy(exact, data, size);
	free(data);
	(void)LLVMFuzzerTestOneInput(exact, size);
	free(exact);
	return 1;
}

static int replay(const char *path)
{
	char name[4096];
	int count = 0;
	DIR *dir = opendir(path);
	if (dir == NULL) {
		return replay_file(path);
	}
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
		if (entry->d_name[0] != '.') {
			(void)snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
			count += replay_file(name);
		}
	}
	(void)closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	int count = 0;
	for (int i = 1; i < argc; i++) {
		count += replay(argv[i]);
	}
	printf("%d inputs\n", count);
	return count > 0 ? 0 : 1;
}
