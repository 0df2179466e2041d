/* SPDX-License-Identifier: MIT */

/*
 * What a start does about a database that is not there: it runs `litefunnel restore`, waits, and
 * passes a request to stop on to it.
 */

#include "server/cli/missing.h"

#include "server/base/cleanup.h"
#include "server/base/log.h"
#include "server/cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void run_restore(const struct place *place, const char *replicas, pid_t parent)
{
	char *const argv[] = {(char[]){"litefunnel"}, (char[]){"restore"},
		(char[]){"--if-replica-exists"}, place->db, NULL};
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	/* stdout is for `ready`. */
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == parent &&
		setenv("LITEFUNNEL_REPLICA", replicas, 1) == 0 &&
		dup2(STDERR_FILENO, STDOUT_FILENO) >= 0) {
		execv("/proc/self/exe", argv);
	}
	_exit(CLI_UNREACHABLE);
}

/* The child's status; SIGTERM and SIGINT are passed on, and *ret_stopped tells that one came. */
static int wait_for(pid_t child, int *ret_stopped)
{
	sigset_t set;
	int status = 0;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	while (waitpid(child, &status, WNOHANG) == 0) {
		int signo = sigwaitinfo(&set, NULL);
		if (signo == SIGTERM || signo == SIGINT) {
			*ret_stopped = signo;
			kill(child, SIGTERM);
		}
	}
	return status;
}

int missing_restore(const struct place *place, const char *replicas)
{
	sigset_t child_set;
	sigset_t before;
	int stopped = 0;
	if (replicas[strspn(replicas, " \t")] == '\0') {
		return cli_usage("serve", "--restore-if-missing needs a replica: --replica URL");
	}
	log_info("there is no database: restoring it", log_str("db", place->db));
	sigemptyset(&child_set);
	sigaddset(&child_set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_set, &before);
	pid_t parent = getpid();
	pid_t child = fork();
	if (child == 0) {
		run_restore(place, replicas, parent);
	}
	int status = child > 0 ? wait_for(child, &stopped) : 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (child < 0) {
		return cli_fail("serve", "cannot start the restore: %s", strerror(errno));
	}
	if (stopped != 0) {
		return cli_fail("serve", "stopped while %s was restored", place->db);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != CLI_DONE) {
		cli_fail("serve",
			"%s does not exist, and was not restored (cure: see above; or litefunnel "
			"restore with other options)",
			place->db);
		return WIFEXITED(status) ? WEXITSTATUS(status) : CLI_FAILED;
	}
	return CLI_DONE;
}

void missing_forget(const struct place *place)
{
	CLEANUP_FREE char *to = NULL;
	if (asprintf(&to, "%s/restored", place->ship) < 0) {
		to = NULL;
	}
	if (mkdir(place->ship, 0750) != 0 && errno != EEXIST) {
		log_warn("cannot make the spool", log_str("path", place->ship),
			log_str("error", strerror(errno)));
	}
	if (to == NULL || rename(place->restored, to) != 0) {
		log_warn("cannot move the marker", log_str("path", place->restored),
			log_str("error", strerror(errno)));
		(void)unlink(place->restored);
	}
}
