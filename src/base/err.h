/*
 * How a host failure travels: as -errno, with the words for the person who
 * has to mend it in a struct err that the caller owns.
 *
 * Guest misbehaviour is no host failure (see log_guest() in base/log.h), and
 * a bug of ours is caught by vm_assert().
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/base.h"

/** What went wrong ("cannot open disk 'x': No such file or directory") and
 * what to do about it; (hint) is empty where there is nothing to say. */
struct err {
	char what[320];
	char hint[200];
};

/**
 * Write the message (fmt) and the (hint), which may be NULL, into (err), which
 * may be NULL, and return -(errnum). Adds ": strerror(errnum)" when (errnum)
 * is positive and the message ends in a colon. The first message wins: an
 * (err) that already has one is left as it is.
 */
int err_set(struct err *err, int errnum, const char *hint, const char *fmt, ...)
	PRINTF_LIKE(4, 5);

/** Print (err) to stderr in the form "ringer: error: WHAT" and, on a second
 * line, "  hint: HINT". */
void err_print(const struct err *err);

/** Stop the process with a message when (cond) is false: a bug of ours, never
 * something that a guest, an image or a client can bring about. Kept in every
 * build; (cond) has no side effects. */
#define vm_assert(cond)                                              \
	do {                                                         \
		if (unlikely(!(cond)))                               \
			vm_bug(__FILE__, __LINE__, __func__, #cond); \
	} while (0)

/** What vm_assert() calls. */
void vm_bug(const char *file, int line, const char *func,
	    const char *what) NORETURN;

#endif
