/* SPDX-License-Identifier: MIT */

/* libsystemd's notification and activation, and nothing else of it. */

#include "server/base/notify.h"

#include "server/base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

/* The pipe of `litefunnel run`: used once. */
static void tell_supervisor(void)
{
	const char *text = getenv("LITEFUNNEL_READY_FD");
	if (text != NULL) {
		int fd = atoi(text);
		ssize_t written = write(fd, "ready\n", 6);
		(void)written; /* a supervisor that went away needs no answer */
		close(fd);
		unsetenv("LITEFUNNEL_READY_FD");
	}
}

void notify_ready(const char *db, const char *socket)
{
	static int told;
	sd_notifyf(0, "READY=1\nSTATUS=serving %s", db);
	if (!told) {
		told = 1;
		tell_supervisor();
		printf("ready: serving %s on %s\n", db, socket);
		fflush(stdout);
	}
}

void notify_stopping(void)
{
	sd_notify(0, "STOPPING=1");
}

void notify_reloading(void)
{
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_now_us());
}

void notify_alive(void)
{
	sd_notify(0, "WATCHDOG=1");
}

uint64_t notify_alive_interval_us(void)
{
	uint64_t limit_us = 0;
	return sd_watchdog_enabled(0, &limit_us) > 0 ? limit_us / 3 : 0;
}

int notify_listen_fd(void)
{
	int count = sd_listen_fds(1);
	if (count == 0) {
		return -1;
	}
	int fd = SD_LISTEN_FDS_START;
	if (count != 1 || sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
		return -EINVAL;
	}
	return fd;
}
