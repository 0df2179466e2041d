/* SPDX-License-Identifier: MIT */

/*
 * The socket to the drill's child. It knows nothing of what is ordered. An order fits the socket's
 * buffer, so it is sent whole or not at all.
 */

#include "server/funnel/drill_process.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* What has arrived of the report. False: nothing more will come. */
static bool receive(struct drill_process *process)
{
	while (process->got < sizeof(process->report)) {
		ssize_t n = recv(process->fd, (uint8_t *)&process->report + process->got,
			sizeof(process->report) - process->got, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
		}
		process->got += (size_t)n;
	}
	process->reported = true;
	return true;
}

static void arrived(void *ctx, unsigned ready)
{
	struct drill_process *process = ctx;
	(void)ready;
	bool lives = !process->reported && receive(process);
	if (!lives || process->reported) {
		process->ended = !lives;
		(void)loop_watch_set(process->watch, 0); /* until the next order */
		process->news(process->ctx);
	}
}

int drill_process_take(struct drill_process *process, pid_t pid, int fd)
{
	process->pid = pid;
	process->fd = fd;
	process->reported = false;
	process->ended = false;
	process->got = 0;
	process->watch = loop_watch_new(process->loop, fd, arrived, process);
	if (process->watch == NULL) {
		drill_process_end(process);
		return -ENOMEM;
	}
	return 0;
}

int drill_process_order(struct drill_process *process, const struct drill_order *order)
{
	ssize_t n = send(process->fd, order, sizeof(*order), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n != (ssize_t)sizeof(*order)) {
		return n < 0 ? -errno : -EIO;
	}
	process->got = 0;
	process->reported = false;
	return loop_watch_set(process->watch, LOOP_READ);
}

void drill_process_end(struct drill_process *process)
{
	if (process->pid == 0) {
		return;
	}
	loop_watch_free(process->watch);
	process->watch = NULL;
	close(process->fd);
	kill(process->pid, SIGKILL);
	while (waitpid(process->pid, NULL, 0) < 0 && errno == EINTR) {
	}
	process->pid = 0;
	process->fd = -1;
}
