/*
 * Where running machines are found: one folder each in the runtime directory,
 *
 *   $XDG_RUNTIME_DIR/ringer/NAME/   (else /run/ringer, else /tmp/ringer-UID)
 *     lock            held (flock) as long as the machine lives
 *     control.sock    its control socket
 *
 * A folder whose lock is free is what a killed machine left; it is cleared by
 * whoever finds it.
 */
#ifndef CONTROL_RUNDIR_H
#define CONTROL_RUNDIR_H

#include "base/base.h"
#include "base/err.h"

#define RUNDIR_NAME_MAX 31

/** A machine's folder, open and locked. */
struct rundir {
	char name[RUNDIR_NAME_MAX + 1];
	int parent_fd, dir_fd, lock_fd;
};

/** Is (name) fit for a machine? Letters, digits, '.', '_', '-', not first '.'
 * or '-', at most RUNDIR_NAME_MAX of them. */
bool rundir_name_ok(const char *name);

/** Make and lock the folder of (name). -EEXIST (err: which pid has it) when a
 * machine of that name runs. */
int rundir_create(struct rundir *dir, const char *name, struct err *err);
/** Remove the folder and give up the lock. */
void rundir_remove(struct rundir *dir);

/** A listening control socket in (dir), or -errno. */
int rundir_listen(const struct rundir *dir, struct err *err);
/** A connection to the machine (name), or -errno with (err). */
int rundir_connect(const char *name, struct err *err);

/** Call (fn) with the name and pid of every running machine, sorted by name.
 * Stops when (fn) returns non-zero, and returns that. */
int rundir_for_each(int (*fn)(void *opaque, const char *name, long pid),
		    void *opaque);

#endif
