/* SPDX-License-Identifier: MIT */

/*
 * litefunnel run: the supervisor, made to be PID 1 of a container. It starts the funnel, then CMD,
 * and ends with CMD. It must not touch the database or the socket, and keeps true that CMD is never
 * disturbed by a funnel that dies and comes back, and that the funnel drains after CMD has ended.
 *
 *	RUN_STARTING --ready--> RUN_WORKING --CMD ended--> RUN_DRAINING --funnel ended--> RUN_DONE
 *	      '------ SIGTERM, or the funnel ended --------------^
 */

#include "server/base/cleanup.h"
#include "server/base/clock.h"
#include "server/base/config.h"
#include "server/base/log.h"
#include "server/base/place.h"
#include "server/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static const char help[] =
	"usage: litefunnel run DB [serve options] -- CMD [ARG...]\n"
	"\n"
	"Starts `litefunnel serve DB` and, when that accepts clients, CMD, with LITEFUNNEL_DB and\n"
	"LITEFUNNEL_SOCKET in its environment. Ends when CMD ends, after the funnel has drained,\n"
	"with CMD's exit code. Made to be the first process of a container.\n"
	"\n"
	"  DB              path of the database, or LITEFUNNEL_DB\n"
	"  serve options   everything that `litefunnel serve --help` lists\n"
	"  --help          this text\n"
	"\n"
	"Signals TERM, INT, HUP, QUIT, USR1, USR2 and WINCH go to CMD. From the second TERM on, "
	"CMD\n"
	"has the time of drain_timeout left before it is killed. A funnel that dies is started\n"
	"again, after 0.1 s and up to 10 s; CMD keeps running and its writes wait. Orphans are\n"
	"reaped. What the funnel says goes to stderr, stdout is CMD's alone.\n"
	"\n"
	"Exit codes: CMD's own, 128 + N if signal N ended it, 126 if it cannot be executed, 127 "
	"if\n"
	"it is not found, 125 if litefunnel itself failed (then CMD was not started).\n";

enum {
	RUN_FAILED = 125, /* our own failure, as docker and env say it */
	RUN_NOT_EXECUTABLE = 126,
	RUN_NOT_FOUND = 127,
};

#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 10000
#define STEADY_MS      10000 /* a funnel that lived so long starts the back-off anew */
#define KILL_GRACE_MS  5000  /* beyond the funnel's own drain_timeout */
#define PROMPT_MS      2000  /* after a second SIGTERM to the funnel */

enum run_state { RUN_STARTING, RUN_WORKING, RUN_DRAINING, RUN_DONE };

struct run {
	const char *db_arg; /* NULL: the funnel takes it from the environment as well */
	int options_count;
	char **options;
	char **cmd_argv;
	struct place place;
	uint64_t drain_ms;

	enum run_state state;
	int exit_code;
	pid_t self;
	pid_t funnel; /* 0: none */
	pid_t cmd;
	int signal_fd;
	int ready_fd; /* -1 when it has said so */
	unsigned terms;
	uint64_t funnel_since_ms;
	uint64_t backoff_ms;
	/* Moments, 0: none. */
	uint64_t restart_at_ms;
	uint64_t kill_funnel_at_ms;
	uint64_t kill_cmd_at_ms;
};

static const int forwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};

static uint64_t now_ms(void)
{
	return clock_now_us() / 1000;
}

static void run_move(struct run *run, enum run_state next)
{
	static const bool allowed[][RUN_DONE + 1] = {
		[RUN_STARTING] = {[RUN_WORKING] = true, [RUN_DRAINING] = true, [RUN_DONE] = true},
		[RUN_WORKING] = {[RUN_DRAINING] = true, [RUN_DONE] = true},
		[RUN_DRAINING] = {[RUN_DONE] = true},
		[RUN_DONE] = {false},
	};
	if (!allowed[run->state][next]) {
		abort();
	}
	run->state = next;
}

/* ---- children ----------------------------------------------------------------------------- */

static void child_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In a process group of its own, so that Ctrl-C reaches CMD and leaves the funnel to drain. */
static void funnel_exec(const struct run *run, int ready_fd)
{
	char fd_text[16];
	int count = 0;
	char **argv = calloc((size_t)run->options_count + 4, sizeof(*argv));

	if (argv == NULL) {
		_exit(RUN_FAILED);
	}
	argv[count++] = (char[]){"litefunnel"};
	argv[count++] = (char[]){"serve"};
	if (run->db_arg != NULL) {
		argv[count++] = (char *)(uintptr_t)run->db_arg;
	}
	for (int i = 0; i < run->options_count; i++) {
		argv[count++] = run->options[i];
	}
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != run->self) {
		_exit(RUN_FAILED); /* we were gone before that could tell */
	}
	child_signals();
	int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null_fd >= 0) {
		dup2(null_fd, STDIN_FILENO);
	}
	dup2(STDERR_FILENO, STDOUT_FILENO);
	fcntl(ready_fd, F_SETFD, 0);
	snprintf(fd_text, sizeof(fd_text), "%d", ready_fd);
	setenv("LITEFUNNEL_READY_FD", fd_text, 1);
	/* The service manager's channel belongs to us and CMD. */
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	execv("/proc/self/exe", argv);
	fprintf(stderr, "litefunnel run: cannot start the funnel: %s\n", strerror(errno));
	_exit(RUN_FAILED);
}

static int funnel_start(struct run *run)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) {
		return -errno;
	}
	pid_t pid = fork();
	if (pid == 0) {
		funnel_exec(run, fds[1]);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -errno;
	}
	if (run->ready_fd >= 0) {
		close(run->ready_fd);
	}
	run->ready_fd = fds[0];
	run->funnel = pid;
	run->funnel_since_ms = now_ms();
	run->restart_at_ms = 0;
	return 0;
}

static int cmd_start(struct run *run)
{
	pid_t pid = fork();
	if (pid < 0) {
		return -errno;
	}
	if (pid > 0) {
		run->cmd = pid;
		return 0;
	}
	child_signals();
	setenv("LITEFUNNEL_DB", run->place.db, 1);
	setenv("LITEFUNNEL_SOCKET", run->place.socket, 1);
	execvp(run->cmd_argv[0], run->cmd_argv);
	int error = errno;
	fprintf(stderr, "litefunnel run: %s: %s\n", run->cmd_argv[0], strerror(error));
	_exit(error == ENOENT ? RUN_NOT_FOUND : RUN_NOT_EXECUTABLE);
}

/* ---- the end ------------------------------------------------------------------------------ */

static void drain(struct run *run, int exit_code)
{
	run->exit_code = exit_code;
	run->restart_at_ms = 0;
	run->kill_cmd_at_ms = 0;
	if (run->funnel == 0) {
		run_move(run, RUN_DONE);
		return;
	}
	run_move(run, RUN_DRAINING);
	kill(run->funnel, SIGTERM);
	run->kill_funnel_at_ms = now_ms() + run->drain_ms + KILL_GRACE_MS;
}

static int code_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void funnel_ended(struct run *run, int status)
{
	uint64_t now = now_ms();

	run->funnel = 0;
	run->kill_funnel_at_ms = 0;
	if (run->state == RUN_DRAINING) {
		if (status != 0) {
			log_warn("funnel ended badly", log_int("code", code_of(status)));
		}
		run_move(run, RUN_DONE);
		return;
	}
	if (run->state == RUN_STARTING) { /* it has said why */
		fprintf(stderr,
			"litefunnel run: the funnel did not start (code %d), so CMD was "
			"not started\n",
			code_of(status));
		drain(run, RUN_FAILED);
		return;
	}
	if (now - run->funnel_since_ms >= STEADY_MS || run->backoff_ms == 0) {
		run->backoff_ms = BACKOFF_MIN_MS;
	}
	run->restart_at_ms = now + run->backoff_ms;
	log_warn("funnel ended", log_int("code", code_of(status)),
		log_uint("again_in_ms", run->backoff_ms));
	run->backoff_ms =
		run->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : run->backoff_ms * 2;
}

/* ---- events ------------------------------------------------------------------------------- */

static void on_children(struct run *run)
{
	int status = 0;
	for (pid_t pid = waitpid(-1, &status, WNOHANG); pid > 0;
		pid = waitpid(-1, &status, WNOHANG)) {
		if (pid == run->funnel) {
			funnel_ended(run, status);
		} else if (pid == run->cmd) {
			run->cmd = 0;
			drain(run, code_of(status));
		} /* else an orphan, reaped */
	}
}

static void on_term_while_draining(struct run *run)
{
	uint64_t prompt_at = now_ms() + PROMPT_MS;
	if (run->funnel == 0) {
		return;
	}
	kill(run->funnel, SIGTERM);
	if (prompt_at < run->kill_funnel_at_ms) {
		run->kill_funnel_at_ms = prompt_at;
	}
}

static void on_signal(struct run *run, int signo, bool from_terminal)
{
	bool ends = signo == SIGTERM || signo == SIGINT || signo == SIGQUIT;

	switch (run->state) {
	case RUN_STARTING:
		if (ends) {
			drain(run, 128 + signo);
		}
		break;
	case RUN_WORKING:
		/* The terminal sends to the whole process group, and CMD is in it. */
		if (!from_terminal) {
			kill(run->cmd, signo);
		}
		if (signo == SIGTERM && ++run->terms == 2) {
			run->kill_cmd_at_ms = now_ms() + run->drain_ms;
		}
		break;
	case RUN_DRAINING:
		if (ends) {
			on_term_while_draining(run);
		}
		break;
	case RUN_DONE:
		break;
	}
}

static void on_signal_fd(struct run *run)
{
	struct signalfd_siginfo info;
	while (read(run->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD) {
			on_children(run);
		} else {
			on_signal(run, (int)info.ssi_signo, info.ssi_code == SI_KERNEL);
		}
	}
}

static void on_ready_fd(struct run *run)
{
	char text[64];
	ssize_t n = read(run->ready_fd, text, sizeof(text));
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		return;
	}
	close(run->ready_fd);
	run->ready_fd = -1;
	if (n < 5 || memcmp(text, "ready", 5) != 0) {
		return; /* its end follows as SIGCHLD */
	}
	if (run->state == RUN_WORKING) {
		log_info("funnel back", log_int("pid", run->funnel));
	}
	if (run->state != RUN_STARTING) {
		return;
	}
	int r = cmd_start(run);
	if (r < 0) {
		fprintf(stderr, "litefunnel run: cannot start CMD: %s\n", strerror(-r));
		drain(run, RUN_FAILED);
		return;
	}
	run_move(run, RUN_WORKING);
}

static void on_time(struct run *run)
{
	uint64_t now = now_ms();

	if (run->restart_at_ms != 0 && now >= run->restart_at_ms) {
		run->restart_at_ms = 0;
		int r = funnel_start(run);
		if (r < 0) {
			log_error("cannot start the funnel", log_str("error", strerror(-r)));
			run->restart_at_ms = now + BACKOFF_MAX_MS;
		}
	}
	if (run->kill_cmd_at_ms != 0 && now >= run->kill_cmd_at_ms && run->cmd != 0) {
		run->kill_cmd_at_ms = 0;
		log_warn("cmd killed", log_int("pid", run->cmd));
		kill(run->cmd, SIGKILL);
	}
	if (run->kill_funnel_at_ms != 0 && now >= run->kill_funnel_at_ms && run->funnel != 0) {
		run->kill_funnel_at_ms = 0;
		log_warn("funnel killed", log_int("pid", run->funnel));
		kill(run->funnel, SIGKILL);
	}
}

static int time_left(const struct run *run)
{
	const uint64_t moments[] = {
		run->restart_at_ms, run->kill_cmd_at_ms, run->kill_funnel_at_ms};
	uint64_t now = now_ms();
	uint64_t first = UINT64_MAX;

	for (size_t i = 0; i < sizeof(moments) / sizeof(moments[0]); i++) {
		if (moments[i] != 0 && moments[i] < first) {
			first = moments[i];
		}
	}
	if (first == UINT64_MAX) {
		return -1;
	}
	uint64_t left = first > now ? first - now : 0;
	return left > 3600000 ? 3600000 : (int)left;
}

static int supervise(struct run *run)
{
	int r = funnel_start(run);
	if (r < 0) {
		fprintf(stderr, "litefunnel run: cannot start the funnel: %s\n", strerror(-r));
		return RUN_FAILED;
	}
	while (run->state != RUN_DONE) {
		struct pollfd fds[] = {{.fd = run->signal_fd, .events = POLLIN},
			{.fd = run->ready_fd, .events = POLLIN}};
		if (poll(fds, 2, time_left(run)) < 0 && errno != EINTR) {
			fprintf(stderr, "litefunnel run: poll: %s\n", strerror(errno));
			return RUN_FAILED;
		}
		if (fds[1].revents != 0) {
			on_ready_fd(run); /* first: ready and dead at once is a restart */
		}
		if (fds[0].revents != 0) {
			on_signal_fd(run);
		}
		on_time(run);
	}
	return run->exit_code;
}

static int take_signals(struct run *run)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (size_t i = 0; i < sizeof(forwarded) / sizeof(forwarded[0]); i++) {
		sigaddset(&set, forwarded[i]);
	}
	/* Whoever started us may have left SIGCHLD ignored: then nobody could be waited for. */
	signal(SIGCHLD, SIG_DFL);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) {
		return -errno;
	}
	run->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (run->signal_fd < 0) {
		return -errno;
	}
	run->self = getpid();
	if (run->self != 1 && prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) {
		return -errno;
	}
	return 0;
}

/* ---- the command line --------------------------------------------------------------------- */

/* The value of `--name value` or `--name=value` at `i`; NULL if it is another option. */
static const char *option_value(const struct run *run, int i, const char *name)
{
	const char *text = run->options[i];
	size_t len = strlen(name);

	if (strncmp(text, "--", 2) != 0 || strncmp(text + 2, name, len) != 0) {
		return NULL;
	}
	if (text[2 + len] == '=') {
		return text + 2 + len + 1;
	}
	return text[2 + len] == '\0' && i + 1 < run->options_count ? run->options[i + 1] : NULL;
}

/* What run itself must know of the funnel's settings: where it listens and how long it drains. */
static int read_settings(struct run *run, struct config *config, char *ret_error)
{
	static const struct {
		const char *option;
		const char *setting;
	} wanted[] = {{"socket", "socket"}, {"drain-timeout", "drain_timeout"}};
	int r = config_read_environment(config, ret_error);

	for (int i = 0; i < run->options_count && r == 0; i++) {
		const char *file = option_value(run, i, "config");
		if (file != NULL) {
			r = config_read_file(config, file, ret_error);
		}
		for (size_t k = 0; k < sizeof(wanted) / sizeof(wanted[0]) && r == 0; k++) {
			const char *value = option_value(run, i, wanted[k].option);
			if (value != NULL) {
				r = config_set(config, wanted[k].setting, value,
					SETTING_FROM_OPTION, ret_error);
			}
		}
	}
	return r;
}

static int prepare(struct run *run)
{
	struct config config;
	char error[PLACE_TEXT_BYTES] = "";
	const char *db = run->db_arg != NULL ? run->db_arg : getenv("LITEFUNNEL_DB");

	int r = config_init(&config);
	if (r == 0) {
		r = read_settings(run, &config, error);
	}
	if (r == 0) {
		run->drain_ms = config_number(&config, SETTING_DRAIN_TIMEOUT);
		r = place_resolve(db, config_text(&config, SETTING_SOCKET), &run->place, error,
			sizeof(error));
	}
	config_finish(&config);
	if (r == 0) {
		r = take_signals(run);
	}
	if (r != 0) {
		fprintf(stderr, "litefunnel run: %s\n", error[0] != '\0' ? error : strerror(-r));
	}
	return r;
}

static int usage(const char *what)
{
	fprintf(stderr, "litefunnel run: %s\n", what);
	return CLI_USAGE;
}

static int parse(struct run *run, int argc, char **argv)
{
	int dashes = 1;

	while (dashes < argc && strcmp(argv[dashes], "--") != 0) {
		if (strcmp(argv[dashes], "--help") == 0) {
			fputs(help, stdout);
			return -1;
		}
		dashes++;
	}
	if (dashes + 1 >= argc) {
		return usage("no command (give it behind the options: -- CMD ...)");
	}
	run->cmd_argv = argv + dashes + 1;
	run->options = argv + 1;
	run->options_count = dashes - 1;
	if (run->options_count > 0 && run->options[0][0] != '-') {
		run->db_arg = run->options[0];
		run->options++;
		run->options_count--;
	} else if (getenv("LITEFUNNEL_DB") == NULL) {
		return usage("no database (give its path first, or set LITEFUNNEL_DB)");
	}
	return 0;
}

int cli_run(int argc, char **argv)
{
	struct run run = {.signal_fd = -1, .ready_fd = -1};

	int r = parse(&run, argc, argv);
	if (r != 0) {
		return r < 0 ? CLI_DONE : r;
	}
	r = prepare(&run) != 0 ? RUN_FAILED : supervise(&run);
	place_finish(&run.place);
	close_fd(&run.signal_fd);
	close_fd(&run.ready_fd);
	return r;
}
