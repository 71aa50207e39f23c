#include "control/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static const char socket_name[] = "control.sock";

bool rundir_name_ok(const char *name)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyz"
				 "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	size_t len = strlen(name);

	return len > 0 && len <= RUNDIR_NAME_MAX && strspn(name, ok) == len &&
	       name[0] != '.' && name[0] != '-';
}

/* Open (path), made if it is missing, and see that nobody else can write it. */
static int open_private(const char *path)
{
	struct stat st;
	int fd;

	if (mkdir(path, 0700) && errno != EEXIST)
		return -errno;
	fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || st.st_uid != geteuid() || (st.st_mode & 022)) {
		close(fd);
		return -EPERM;
	}
	return fd;
}

static int open_parent(struct err *err)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	char path[PATH_MAX];
	int fd;

	if (xdg && xdg[0] == '/') {
		snprintf(path, sizeof(path), "%s/ringer", xdg);
		fd = open_private(path);
		if (fd >= 0)
			return fd;
	}
	fd = open_private("/run/ringer");
	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), "/tmp/ringer-%u", (unsigned)geteuid());
	fd = open_private(path);
	if (fd < 0)
		return err_set(err, -fd,
			       "set XDG_RUNTIME_DIR to a folder of yours",
			       "cannot use the runtime directory '%s':", path);
	return fd;
}

/* The machine's pid, written in its lock file; 0 when it says none. */
static long read_pid(int lock_fd)
{
	char text[24] = "";

	if (pread(lock_fd, text, sizeof(text) - 1, 0) <= 0)
		return 0;
	return strtol(text, NULL, 10);
}

/* Is the machine in (dir_fd) alive? Then its pid is in (*pid). */
static bool is_alive(int dir_fd, long *pid)
{
	int fd = openat(dir_fd, "lock", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	bool alive;

	if (fd < 0)
		return false;
	alive = flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
	*pid = read_pid(fd);
	close(fd);
	return alive;
}

static int lock_dir(struct rundir *dir, struct err *err)
{
	char pid[24];
	int n;

	dir->lock_fd = openat(dir->dir_fd, "lock",
			      O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (dir->lock_fd < 0)
		return err_set(err, errno, NULL,
			       "cannot lock machine '%s':", dir->name);
	if (flock(dir->lock_fd, LOCK_EX | LOCK_NB)) {
		long owner = read_pid(dir->lock_fd);

		close(dir->lock_fd);
		return err_set(err, EEXIST, "choose another one with --name",
			       "a machine called '%s' is running (pid %ld)",
			       dir->name, owner);
	}
	n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());
	if (ftruncate(dir->lock_fd, 0) ||
	    pwrite(dir->lock_fd, pid, (size_t)n, 0) != n) {
		n = errno;
		close(dir->lock_fd);
		return err_set(err, n, NULL,
			       "cannot lock machine '%s':", dir->name);
	}
	return 0;
}

int rundir_create(struct rundir *dir, const char *name, struct err *err)
{
	int r;

	if (!rundir_name_ok(name))
		return err_set(err, EINVAL,
			       "use up to 31 letters, digits, '.', '_' or '-'",
			       "'%s' is no name for a machine", name);
	snprintf(dir->name, sizeof(dir->name), "%s", name);
	dir->parent_fd = open_parent(err);
	if (dir->parent_fd < 0)
		return dir->parent_fd;
	if (mkdirat(dir->parent_fd, name, 0700) && errno != EEXIST) {
		r = err_set(err, errno, NULL,
			    "cannot make folder of '%s':", name);
		goto err_parent;
	}
	dir->dir_fd = openat(dir->parent_fd, name,
			     O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir->dir_fd < 0) {
		r = err_set(err, errno, NULL,
			    "cannot open folder of '%s':", name);
		goto err_parent;
	}
	r = lock_dir(dir, err);
	if (r)
		goto err_dir;
	return 0;

err_dir:
	close(dir->dir_fd);
err_parent:
	close(dir->parent_fd);
	return r;
}

static void clear_folder(int parent_fd, int dir_fd, const char *name)
{
	unlinkat(dir_fd, socket_name, 0);
	unlinkat(dir_fd, "lock", 0);
	unlinkat(parent_fd, name, AT_REMOVEDIR);
}

void rundir_remove(struct rundir *dir)
{
	clear_folder(dir->parent_fd, dir->dir_fd, dir->name);
	close(dir->lock_fd);
	close(dir->dir_fd);
	close(dir->parent_fd);
}

/* A socket address is short; a path through /proc is short and exact. */
static void socket_addr(struct sockaddr_un *addr, int dir_fd)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d/%s",
		 dir_fd, socket_name);
}

int rundir_listen(const struct rundir *dir, struct err *err)
{
	struct sockaddr_un addr;
	int r, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
			   0);

	if (fd < 0)
		return err_set(err, errno, NULL, "cannot make a socket:");
	unlinkat(dir->dir_fd, socket_name, 0);
	socket_addr(&addr, dir->dir_fd);
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(fd, 8)) {
		r = err_set(err, errno, NULL,
			    "cannot listen on the control socket of '%s':",
			    dir->name);
		close(fd);
		return r;
	}
	return fd;
}

int rundir_connect(const char *name, struct err *err)
{
	struct sockaddr_un addr;
	int parent_fd, dir_fd, r, fd = -1;

	if (!rundir_name_ok(name))
		return err_set(err, ENOENT, "ringer list shows what runs",
			       "no machine called '%s' is running", name);
	parent_fd = open_parent(err);
	if (parent_fd < 0)
		return parent_fd;
	dir_fd = openat(parent_fd, name,
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	close(parent_fd);
	if (dir_fd >= 0) {
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		socket_addr(&addr, dir_fd);
		if (fd >= 0 &&
		    connect(fd, (const struct sockaddr *)&addr, sizeof(addr))) {
			r = errno;
			close(fd);
			fd = -1;
			errno = r;
		}
		r = errno;
		close(dir_fd);
		errno = r;
	}
	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ECONNREFUSED)
		return err_set(err, ENOENT, "ringer list shows what runs",
			       "no machine called '%s' is running", name);
	return err_set(err, errno, NULL, "cannot reach machine '%s':", name);
}

int rundir_for_each(int (*fn)(void *opaque, const char *name, long pid),
		    void *opaque)
{
	int r = 0, n, parent_fd = open_parent(NULL);
	struct dirent **entries;
	char path[40];

	if (parent_fd < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", parent_fd);
	n = scandir(path, &entries, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		const char *name = entries[i]->d_name;
		int dir_fd = -1;
		long pid = 0;

		if (!r && rundir_name_ok(name))
			dir_fd = openat(parent_fd, name,
					O_RDONLY | O_DIRECTORY | O_NOFOLLOW |
						O_CLOEXEC);
		if (dir_fd >= 0) {
			if (is_alive(dir_fd, &pid))
				r = fn(opaque, name, pid);
			else
				clear_folder(parent_fd, dir_fd, name);
			close(dir_fd);
		}
		free(entries[i]);
	}
	if (n >= 0)
		free(entries);
	close(parent_fd);
	return r;
}
