/* SPDX-License-Identifier: MIT */

/*
 * The files beside a database, and whether that place is safe. It must not know SQLite or libevent,
 * and must never open the database or its -shm (closing them would drop SQLite's locks). It keeps
 * true that a daemon starts only where nobody but itself and root can write the database or replace
 * a file of it, and only once.
 */

#include "server/base/place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define CURE_VOLUME                                                                                \
	"cure: a local disk; in a container a named volume, and mount the directory, not the file"

__attribute__((format(printf, 3, 4))) static int refuse(
	char *ret_error, size_t error_bytes, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ret_error, error_bytes, format, args);
	va_end(args);
	return PLACE_REFUSED;
}

/* ---- the paths ---------------------------------------------------------------------------- */

static char *join(const char *a, const char *b, const char *c)
{
	char *path = NULL;
	return asprintf(&path, "%s%s%s", a, b, c) < 0 ? NULL : path;
}

static int absolute(const char *path, char **ret_path)
{
	if (path[0] == '/') {
		*ret_path = strdup(path);
		return *ret_path == NULL ? -ENOMEM : 0;
	}
	char *cwd = getcwd(NULL, 0);
	if (cwd == NULL) {
		return -errno;
	}
	*ret_path = join(cwd, strcmp(cwd, "/") == 0 ? "" : "/", path);
	free(cwd);
	return *ret_path == NULL ? -ENOMEM : 0;
}

/* Clients may name the database through a link; the daemon that they look for never does. */
static int default_socket(const char *db, char **ret_path)
{
	struct stat st;
	char *real = lstat(db, &st) == 0 && S_ISLNK(st.st_mode) ? realpath(db, NULL) : NULL;

	*ret_path = join(real != NULL ? real : db, "-funnel", "");
	free(real);
	return *ret_path == NULL ? -ENOMEM : 0;
}

static int resolve_socket(
	const char *option, struct place *place, char *ret_error, size_t error_bytes)
{
	const char *given = option;
	if (given == NULL || given[0] == '\0') {
		given = getenv("LITEFUNNEL_SOCKET");
	}
	int r = given != NULL && given[0] != '\0' ? absolute(given, &place->socket)
						  : default_socket(place->db, &place->socket);
	if (r < 0) {
		return r;
	}
	size_t len = strlen(place->socket);
	if (len > PLACE_SOCKET_BYTES_MAX) {
		return refuse(ret_error, error_bytes,
			"the socket path %s has %zu bytes, a Unix socket may have %d (cure: "
			"--socket with a shorter path, and LITEFUNNEL_SOCKET for the clients)",
			place->socket, len, PLACE_SOCKET_BYTES_MAX);
	}
	return 0;
}

static int resolve_name(
	const char *db_arg, struct place *place, char *ret_error, size_t error_bytes)
{
	const char *slash = strrchr(db_arg, '/');
	const char *name = slash != NULL ? slash + 1 : db_arg;

	if (db_arg[0] == '\0') {
		return refuse(ret_error, error_bytes, "the database path is empty (cure: a path)");
	}
	if (db_arg[0] == ':' || strncmp(db_arg, "file:", 5) == 0) {
		return refuse(ret_error, error_bytes,
			"%s is not the path of a file (cure: a plain path, no URI, no :memory:)",
			db_arg);
	}
	if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		return refuse(ret_error, error_bytes,
			"%s is a directory (cure: the path of the database file in it)", db_arg);
	}
	if (strlen(name) + strlen("-funnel.lock") > NAME_MAX) {
		return refuse(ret_error, error_bytes,
			"the file name %s is too long: names are built from it (cure: a name of at "
			"most %zu bytes)",
			name, (size_t)NAME_MAX - strlen("-funnel.lock"));
	}
	place->name = strdup(name);
	return place->name == NULL ? -ENOMEM : 0;
}

static int resolve_dir(const char *db_arg, struct place *place, char *ret_error, size_t error_bytes)
{
	size_t len = strlen(db_arg) - strlen(place->name);
	char *given = len == 0 ? strdup(".") : strndup(db_arg, len);
	if (given == NULL) {
		return -ENOMEM;
	}
	place->dir = realpath(given, NULL);
	int r = 0;
	if (place->dir == NULL && errno == ENOMEM) {
		r = -ENOMEM;
	} else if (place->dir == NULL) {
		r = refuse(ret_error, error_bytes,
			"the directory %s of the database: %s (cure: %s)", given, strerror(errno),
			errno == EACCES ? "be in the group that may read it" : "make it first");
	}
	free(given);
	return r;
}

static int resolve_files(struct place *place)
{
	place->db = join(place->dir, strcmp(place->dir, "/") == 0 ? "" : "/", place->name);
	if (place->db == NULL) {
		return -ENOMEM;
	}
	place->wal = join(place->db, "-wal", "");
	place->shm = join(place->db, "-shm", "");
	place->lock = join(place->db, "-funnel.lock", "");
	place->ship = join(place->db, "-ship", "");
	place->reserve = join(place->db, "-reserve", "");
	place->poisoned = join(place->db, "-poisoned", "");
	place->restored = join(place->db, "-restored", "");
	place->adopted = join(place->db, "-adopted", "");
	return place->wal == NULL || place->shm == NULL || place->lock == NULL ||
			place->ship == NULL || place->reserve == NULL || place->poisoned == NULL ||
			place->restored == NULL || place->adopted == NULL
		? -ENOMEM
		: 0;
}

int place_resolve(const char *db_arg, const char *socket_option, struct place *ret, char *ret_error,
	size_t error_bytes)
{
	struct place place = {0};

	int r = resolve_name(db_arg, &place, ret_error, error_bytes);
	if (r == 0) {
		r = resolve_dir(db_arg, &place, ret_error, error_bytes);
	}
	if (r == 0) {
		r = resolve_files(&place);
	}
	if (r == 0) {
		r = resolve_socket(socket_option, &place, ret_error, error_bytes);
	}
	if (r != 0) {
		place_finish(&place);
		if (r < 0) {
			snprintf(ret_error, error_bytes, "%s: %s", db_arg, strerror(-r));
		}
	}
	*ret = place;
	return r;
}

void place_finish(struct place *place)
{
	free(place->dir);
	free(place->name);
	free(place->db);
	free(place->wal);
	free(place->shm);
	free(place->socket);
	free(place->lock);
	free(place->ship);
	free(place->reserve);
	free(place->poisoned);
	free(place->restored);
	free(place->adopted);
	*place = (struct place){0};
}

/* ---- the filesystem ----------------------------------------------------------------------- */

enum place_fs place_fs_by_name(const char *fstype)
{
	static const char *const remote[] = {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs",
		"9p", "v9fs", "virtiofs", "fuse", "fuseblk", "vboxsf", "vmhgfs", "prl_fs", "drvfs",
		"afs", "coda", "ceph", "lustre", "gpfs", "glusterfs", "ocfs2", "gfs2", "beegfs",
		"orangefs", "panfs", "ncpfs"};

	if (strncmp(fstype, "fuse.", 5) == 0) {
		return PLACE_FS_REMOTE;
	}
	for (size_t i = 0; i < sizeof(remote) / sizeof(remote[0]); i++) {
		if (strcmp(fstype, remote[i]) == 0) {
			return PLACE_FS_REMOTE;
		}
	}
	return strcmp(fstype, "overlay") == 0 || strcmp(fstype, "aufs") == 0 ? PLACE_FS_OVERLAY
									     : PLACE_FS_LOCAL;
}

enum place_fs place_fs_by_magic(uint64_t magic)
{
	/* Written out: linux/magic.h lacks half of them. */
	switch (magic) {
	case 0x6969:     /* NFS */
	case 0x517b:     /* SMB */
	case 0xfe534d42: /* SMB2 */
	case 0xff534d42: /* CIFS */
	case 0x01021997: /* 9p, also gVisor's and WSL's */
	case 0x65735546: /* FUSE, also virtiofs */
	case 0x786f4256: /* VirtualBox */
	case 0xbacbacbc: /* VMware */
	case 0x7c7c6673: /* Parallels */
	case 0x5346414f: /* AFS */
	case 0x6b414653: /* kAFS */
	case 0x73757245: /* Coda */
	case 0x00c36400: /* Ceph */
	case 0x0bd00bd0: /* Lustre */
	case 0x47504653: /* GPFS */
	case 0x7461636f: /* OCFS2 */
	case 0x01161970: /* GFS2 */
	case 0x19830326: /* BeeGFS */
	case 0x20030528: /* OrangeFS */
	case 0xaad7aaea: /* PanFS */
	case 0x564c:     /* NCP */
		return PLACE_FS_REMOTE;
	case 0x794c7630: /* overlay */
	case 0x61756673: /* aufs */
		return PLACE_FS_OVERLAY;
	default:
		return PLACE_FS_LOCAL;
	}
}

/* mountinfo writes space, tab, newline and backslash of a path as \ooo. */
static void unescape(char *text)
{
	char *out = text;
	for (const char *in = text; *in != '\0'; in++) {
		if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' &&
			in[3] >= '0' && in[3] <= '7') {
			*out++ = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
			in += 3;
		} else {
			*out++ = *in;
		}
	}
	*out = '\0';
}

static bool is_above(const char *mount_point, const char *path)
{
	size_t len = strlen(mount_point);
	if (len == 1 && mount_point[0] == '/') {
		return true;
	}
	return strncmp(mount_point, path, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

/* "36 35 98:0 /root /point opts [optional…] - fstype source superopts" */
static bool mount_line(
	char *line, uint64_t *ret_id, const char **ret_point, const char **ret_fstype)
{
	char *rest = NULL;
	char *fstype = strstr(line, " - ");
	if (fstype == NULL) {
		return false;
	}
	*fstype = '\0';
	fstype += 3;
	fstype[strcspn(fstype, " \n")] = '\0';

	char *id = strtok_r(line, " ", &rest);
	char *point = NULL;
	for (int field = 0; field < 4; field++) {
		point = strtok_r(NULL, " ", &rest);
	}
	if (id == NULL || point == NULL || fstype[0] == '\0') {
		return false;
	}
	unescape(point);
	*ret_id = strtoull(id, NULL, 10);
	*ret_point = point;
	*ret_fstype = fstype;
	return true;
}

bool place_fs_by_mountinfo(
	FILE *mountinfo, uint64_t mount_id, const char *path, char *ret_fstype, size_t fstype_bytes)
{
	char *line = NULL;
	size_t line_bytes = 0;
	size_t best = 0;
	bool found = false;

	while (getline(&line, &line_bytes, mountinfo) > 0) {
		uint64_t id = 0;
		const char *point = NULL;
		const char *fstype = NULL;
		if (!mount_line(line, &id, &point, &fstype)) {
			continue;
		}
		bool better = mount_id != 0 ? id == mount_id
					    : is_above(point, path) && strlen(point) >= best;
		if (better) {
			best = strlen(point);
			snprintf(ret_fstype, fstype_bytes, "%s", fstype);
			found = true;
		}
	}
	free(line);
	return found;
}

/* 0 where the kernel does not tell. */
static uint64_t mount_id_of(const char *path)
{
	struct statx stx;
	if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &stx) != 0 ||
		(stx.stx_mask & STATX_MNT_ID) == 0) {
		return 0;
	}
	return stx.stx_mnt_id;
}

static int check_filesystem(const struct place *place, struct place_report *ret)
{
	struct statfs fs;
	uint64_t mount_id = mount_id_of(place->dir);

	if (statfs(place->dir, &fs) != 0) {
		return -errno;
	}
	FILE *mountinfo = fopen("/proc/self/mountinfo", "re");
	if (mountinfo != NULL) {
		if (!place_fs_by_mountinfo(
			    mountinfo, mount_id, place->dir, ret->fstype, sizeof(ret->fstype))) {
			ret->fstype[0] = '\0';
		}
		fclose(mountinfo);
	}
	/* f_type is signed and, on 32 bits, sign-extended. */
	enum place_fs by_magic = place_fs_by_magic((uint32_t)fs.f_type);
	enum place_fs by_name = place_fs_by_name(ret->fstype);
	if (by_magic == PLACE_FS_REMOTE || by_name == PLACE_FS_REMOTE) {
		return refuse(ret->error, sizeof(ret->error),
			"%s is on %s, a network, shared or FUSE filesystem, where SQLite's WAL is "
			"corrupted (" CURE_VOLUME ")",
			place->dir, ret->fstype[0] != '\0' ? ret->fstype : "a remote filesystem");
	}
	if ((fs.f_flags & ST_RDONLY) != 0) {
		return refuse(ret->error, sizeof(ret->error),
			"%s is mounted read-only (cure: mount it read-write)", place->dir);
	}
	if (by_magic == PLACE_FS_OVERLAY || by_name == PLACE_FS_OVERLAY) {
		snprintf(ret->warning, sizeof(ret->warning),
			"%s is on an overlay filesystem: the database is lost with the container "
			"(cure: a named volume, and mount the directory, not the file)",
			place->dir);
	}
	const char *const files[] = {place->db, place->wal, place->shm};
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		uint64_t file_id = mount_id_of(files[i]);
		if (file_id != 0 && mount_id != 0 && file_id != mount_id) {
			return refuse(ret->error, sizeof(ret->error),
				"%s is mounted as a single file, so its -wal and -shm are not the "
				"ones others see (cure: mount the directory, not the file)",
				files[i]);
		}
	}
	return 0;
}

/* ---- who may write ------------------------------------------------------------------------ */

static int check_dir(const struct place *place, uid_t uid, gid_t gid, const struct stat *dir,
	struct place_report *ret)
{
	char *error = ret->error;
	size_t size = sizeof(ret->error);
	bool group_writes = (dir->st_mode & S_IWGRP) != 0;

	if ((dir->st_mode & S_IWOTH) != 0) {
		return refuse(error, size,
			"anybody may write the directory %s (mode %04o), so anybody could replace "
			"the database's files (cure: a directory of its own: mkdir DIR; mv %s* "
			"DIR; "
			"litefunnel adopt DIR/%s)",
			place->dir, dir->st_mode & 07777U, place->name, place->name);
	}
	if (group_writes && dir->st_gid != gid) {
		return refuse(error, size,
			"the group %u may write the directory %s (mode %04o), so its members could "
			"replace the database's files (cure: litefunnel adopt %s)",
			dir->st_gid, place->dir, dir->st_mode & 07777U, place->db);
	}
	if (dir->st_uid != uid && dir->st_uid != 0) {
		return refuse(error, size,
			"the directory %s belongs to uid %u, not to the daemon's uid %u, so that "
			"uid could replace the database's files (cure: litefunnel adopt %s)",
			place->dir, dir->st_uid, uid, place->db);
	}
	if (uid != 0 && dir->st_uid != uid && !group_writes) {
		return refuse(error, size,
			"the daemon (uid %u) may not make files in %s, which belongs to uid %u "
			"(cure: litefunnel adopt %s)",
			uid, place->dir, dir->st_uid, place->db);
	}
	return 0;
}

static int check_kind(const struct place *place, const struct stat *db, struct place_report *ret)
{
	char *error = ret->error;
	size_t size = sizeof(ret->error);

	if (S_ISLNK(db->st_mode)) {
		char *real = realpath(place->db, NULL);
		refuse(error, size, "%s is a symbolic link (cure: name the file itself: %s)",
			place->db, real != NULL ? real : "its target is not there");
		free(real);
		return PLACE_REFUSED;
	}
	if (!S_ISREG(db->st_mode)) {
		return refuse(error, size,
			"%s is not a regular file (cure: the path of a database file)", place->db);
	}
	if (db->st_nlink > 1) {
		return refuse(error, size,
			"%s has %lu hard links, and each name would have a -wal of its own (cure: "
			"remove the others: find %s -xdev -samefile %s)",
			place->db, (unsigned long)db->st_nlink, place->dir, place->db);
	}
	return 0;
}

static int check_db(
	const struct place *place, uid_t uid, const struct stat *db, struct place_report *ret)
{
	char *error = ret->error;
	size_t size = sizeof(ret->error);

	if (db->st_uid != uid) {
		return refuse(error, size,
			"%s belongs to uid %u, the daemon runs as uid %u: only the daemon may "
			"write "
			"it (cure: litefunnel adopt %s)",
			place->db, db->st_uid, uid, place->db);
	}
	if ((db->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		return refuse(error, size,
			"%s has mode %04o: others than the daemon may write it (cure: litefunnel "
			"adopt %s)",
			place->db, db->st_mode & 07777U, place->db);
	}
	return 0;
}

/* Readers must be able to open all three files or none. */
static int check_sidecar(const struct place *place, const char *path, const struct stat *dir,
	const struct stat *db, uid_t uid, gid_t gid, struct place_report *ret)
{
	char *error = ret->error;
	size_t size = sizeof(ret->error);
	struct stat st;

	if (lstat(path, &st) != 0) {
		if (errno != ENOENT) {
			return -errno;
		}
		/* SQLite as root gives a new file the group of the database; others cannot. */
		gid_t born = (dir->st_mode & S_ISGID) != 0 ? dir->st_gid : gid;
		if (uid != 0 && born != db->st_gid) {
			return refuse(error, size,
				"%s has the group %u, but its -wal and -shm would be made with the "
				"group %u and lock readers out (cure: litefunnel adopt %s)",
				place->db, db->st_gid, born, place->db);
		}
		return 0;
	}
	if (!S_ISREG(st.st_mode) || st.st_nlink > 1) {
		return refuse(error, size,
			"%s is not a regular file with one name (cure: find out who made it, then "
			"move it away while nobody uses the database)",
			path);
	}
	if (st.st_uid != db->st_uid || st.st_gid != db->st_gid ||
		(st.st_mode & 0777) != (db->st_mode & 0777)) {
		return refuse(error, size,
			"%s is %u:%u %04o, the database is %u:%u %04o: they must agree (cure: "
			"litefunnel adopt %s)",
			path, st.st_uid, st.st_gid, st.st_mode & 07777U, db->st_uid, db->st_gid,
			db->st_mode & 07777U, place->db);
	}
	return 0;
}

/* SQLite would delete the -wal of an empty database, and with it the only copy of commits. */
static int check_missing(const struct place *place, struct place_report *ret)
{
	struct stat st;
	if (lstat(place->wal, &st) == 0 && st.st_size > 0) {
		return refuse(ret->error, sizeof(ret->error),
			"%s is missing, but its -wal is there and may hold commits (cure: put the "
			"database back beside it, or move %s away)",
			place->db, place->wal);
	}
	snprintf(ret->error, sizeof(ret->error), "%s does not exist (cure: --create)", place->db);
	return PLACE_MISSING;
}

int place_check_ground(const struct place *place, struct place_report *ret)
{
	struct stat db;

	*ret = (struct place_report){0};
	int r = check_filesystem(place, ret);
	if (r != 0) {
		return r;
	}
	if (lstat(place->db, &db) != 0) {
		return errno == ENOENT ? check_missing(place, ret) : -errno;
	}
	r = check_kind(place, &db, ret);
	if (r == 0) {
		ret->dev = db.st_dev;
		ret->ino = db.st_ino;
	}
	return r;
}

int place_check(
	const struct place *place, uid_t daemon_uid, gid_t daemon_gid, struct place_report *ret)
{
	struct stat dir;
	struct stat db;

	int ground = place_check_ground(place, ret);
	if (ground != 0 && ground != PLACE_MISSING) {
		return ground;
	}
	if (stat(place->dir, &dir) != 0) {
		return -errno;
	}
	int r = check_dir(place, daemon_uid, daemon_gid, &dir, ret);
	if (r != 0 || ground == PLACE_MISSING) {
		return r != 0 ? r : ground;
	}
	if (lstat(place->db, &db) != 0) {
		return -errno;
	}
	r = check_db(place, daemon_uid, &db, ret);
	if (r == 0) {
		r = check_sidecar(place, place->wal, &dir, &db, daemon_uid, daemon_gid, ret);
	}
	if (r == 0) {
		r = check_sidecar(place, place->shm, &dir, &db, daemon_uid, daemon_gid, ret);
	}
	return r;
}

/* ---- the lock ----------------------------------------------------------------------------- */

/* 0 if nobody has written one. */
static pid_t lock_pid(int fd)
{
	char text[24] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	long pid = n > 0 ? strtol(text, NULL, 10) : 0;
	return pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

/* Of one width, and in one write: nobody ever reads an empty file or half a number. */
static int lock_write_pid(int fd)
{
	char text[24];
	int len = snprintf(text, sizeof(text), "%-10ld\n", (long)getpid());

	ssize_t n = pwrite(fd, text, (size_t)len, 0);
	return n == len ? 0 : n < 0 ? -errno : -EIO;
}

static bool same_file(int fd, const char *path)
{
	struct stat held;
	struct stat named;
	return fstat(fd, &held) == 0 && lstat(path, &named) == 0 && held.st_dev == named.st_dev &&
		held.st_ino == named.st_ino;
}

static int lock_refused(const struct place *place, int fd, char *ret_error, size_t error_bytes)
{
	pid_t pid = lock_pid(fd);
	char who[32] = "pid unknown";
	if (pid != 0) {
		snprintf(who, sizeof(who), "pid %ld", (long)pid);
	}
	refuse(ret_error, error_bytes,
		"another litefunnel (%s) serves this database, %s (cure: use that one, or stop it: "
		"litefunnel shutdown %s; one that is stopping already has to end first)",
		who, place->db, place->db);
	return PLACE_LOCKED;
}

int place_lock(const struct place *place, int *ret_fd, char *ret_error, size_t error_bytes)
{
	struct stat st;
	int r = 0;
	int fd = open(place->lock,
		O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK, 0640);
	if (fd < 0) {
		return refuse(ret_error, error_bytes, "%s: %s (cure: litefunnel adopt %s)",
			place->lock, strerror(errno), place->db);
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 1) {
		r = refuse(ret_error, error_bytes,
			"%s is not a regular file with one name (cure: remove it)", place->lock);
	} else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
		r = errno == EWOULDBLOCK ? lock_refused(place, fd, ret_error, error_bytes) : -errno;
	} else if (!same_file(fd, place->lock)) {
		r = refuse(ret_error, error_bytes,
			"%s was replaced while it was taken (cure: start again; nobody should "
			"remove this file)",
			place->lock);
	} else {
		r = lock_write_pid(fd);
	}
	if (r != 0) {
		close(fd);
		if (r < 0) {
			snprintf(ret_error, error_bytes, "%s: %s", place->lock, strerror(-r));
		}
		return r;
	}
	*ret_fd = fd;
	return 0;
}
