/*
 * Image locks: one byte of the image, far beyond what any file system holds,
 * read-locked by those that read it and write-locked by the one that writes.
 * Open-file-description locks (fcntl(2), F_OFD_SETLK) belong to the descriptor
 * that was opened, so two machines in one process exclude each other too, and
 * the kernel drops them when a process dies.
 */
#include "block/blk_impl.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define LOCK_BYTE 0x4000000000000000LL

/* Does the open file that (fdinfo) describes hold our byte? Its lines of locks
 * end in the range (proc(5)). */
static bool holds_lock(const char *fdinfo)
{
	char line[256], range[48];
	bool found = false;
	FILE *f = fopen(fdinfo, "re");

	if (!f)
		return false;
	snprintf(range, sizeof(range), " %lld %lld", LOCK_BYTE, LOCK_BYTE);
	while (!found && fgets(line, sizeof(line), f))
		found = !strncmp(line, "lock:", 5) && strstr(line, range);
	fclose(f);
	return found;
}

/* Does process (pid) have the file (image) open and locked? */
static bool is_holder(const char *pid, const struct stat *image)
{
	char path[320];
	struct dirent *entry;
	struct stat st;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (entry = readdir(dir))) {
		if (fstatat(dirfd(dir), entry->d_name, &st, 0) ||
		    st.st_dev != image->st_dev || st.st_ino != image->st_ino)
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid,
			 entry->d_name);
		found = holds_lock(path);
	}
	closedir(dir);
	return found;
}

/* /proc/locks names no process for these locks, but each process's descriptors
 * tell what they hold. 0 where none of those that we may see does. */
static pid_t find_holder(int fd)
{
	struct dirent *entry;
	struct stat image;
	pid_t pid = 0;
	DIR *dir;

	if (fstat(fd, &image))
		return 0;
	dir = opendir("/proc");
	if (!dir)
		return 0;
	while (!pid && (entry = readdir(dir))) {
		if (isdigit((unsigned char)entry->d_name[0]) &&
		    is_holder(entry->d_name, &image))
			pid = strtol(entry->d_name, NULL, 10);
	}
	closedir(dir);
	return pid;
}

int image_lock(int fd, bool is_writer, const char *path, struct err *err)
{
	struct flock lock = {
		.l_type = is_writer ? F_WRLCK : F_RDLCK,
		.l_whence = SEEK_SET,
		.l_start = LOCK_BYTE,
		.l_len = 1,
	};
	char hint[sizeof(err->hint)];
	pid_t pid;

	if (!fcntl(fd, F_OFD_SETLK, &lock))
		return 0;
	if (errno != EAGAIN && errno != EACCES) {
		log_warn("disk '%s' cannot be locked against other machines: "
			 "%s",
			 path, strerror(errno));
		return 0;
	}
	pid = find_holder(fd);
	if (pid)
		snprintf(hint, sizeof(hint),
			 "process %d %s it: stop that machine, or use a copy",
			 (int)pid, is_writer ? "uses" : "writes to");
	else
		snprintf(hint, sizeof(hint),
			 "stop that machine, or use a copy");
	return err_set(err, EBUSY, hint,
		       "disk '%s' is in use by another machine", path);
}
