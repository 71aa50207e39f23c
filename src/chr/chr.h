/*
 * Character streams: what is behind a serial port or a console. Bytes from
 * outside arrive through (receive), on the loop; bytes to outside are taken at
 * once and never make the caller wait.
 */
#ifndef CHR_CHR_H
#define CHR_CHR_H

#include "base/base.h"
#include "base/err.h"

struct loop;
struct chr;

/** What a stream tells its one user, on the loop's thread. */
struct chr_user {
	/* How many bytes can be taken now; 0 stops reading until chr_resume. */
	size_t (*can_receive)(void *opaque);
	void (*receive)(void *opaque, const uint8_t *buf, size_t len);
	/* The terminal's size changed, in characters. May be NULL. */
	void (*resized)(void *opaque, unsigned columns, unsigned rows);
	void *opaque;
};

/** What the escape keys of a terminal do (Ctrl-a x, ...); any may be NULL. */
struct chr_keys {
	void (*quit)(void *opaque);
	void *opaque;
};

/**
 * Open a stream by its (spec): "stdio", "none", "file:PATH" (which starts the
 * file anew; output only) or "unix:PATH" (a listening socket; one client at a
 * time, the next one when it leaves). On the loop's thread or before it runs.
 *
 * stdio puts a terminal into raw mode until chr_close(), understands Ctrl-a x
 * (quit), Ctrl-a h (help) and Ctrl-a Ctrl-a, and works without a terminal: then
 * every byte is data, and end of file is no more input. One in a process, which
 * has SIGWINCH and SIGCONT blocked meanwhile; -EBUSY for another.
 */
int chr_open(struct chr **chr, const char *spec, struct loop *loop,
	     const struct chr_keys *keys, struct err *err);
/** Close it; no other call is under way. What was written goes out first; a
 * reader that takes nothing for ten seconds, or a second where it is a terminal
 * or a socket, loses the rest. NULL is fine. */
void chr_close(struct chr *chr);

/** Give a terminal back the mode that stdio found it in. For a process that
 * ends without chr_close(): async-signal-safe, and nothing if not needed. */
void chr_restore_terminal(void);

/** Connect the one user; NULL disconnects, and on return it is not called any
 * more. Any thread. Input that came before is kept. */
void chr_set_user(struct chr *chr, const struct chr_user *user);

/** Take (len) bytes to the outside. What cannot be written yet is kept, up to
 * 64 KiB, or 1 MiB for files and pipes; beyond that the oldest is dropped and
 * counted, so that a stuck reader never stops the guest. Any thread. */
void chr_write(struct chr *chr, const uint8_t *buf, size_t len);
/** How many bytes of chr_write() were dropped so far. Any thread. */
uint64_t chr_dropped(struct chr *chr);

/** (can_receive) may have grown: read again. Any thread. */
void chr_resume(struct chr *chr);

/** The terminal's size, or 0 x 0 when there is none. */
void chr_size(struct chr *chr, unsigned *columns, unsigned *rows);

#endif
