/*
 * The process's standard input and output.
 *
 * A terminal is put into raw mode, so that every key reaches the guest, and
 * what its keys say is read even while the guest takes no input: Ctrl-a x must
 * work on a guest that hangs. So typed bytes that find the buffer full are
 * lost, as in a terminal's own. A pipe or a file loses nothing: it is read only
 * while there is room, and all its bytes are data.
 *
 * The terminal belongs to the process, not to a machine; hence the one piece of
 * global state here, which also lets a signal handler put the terminal right.
 */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "chr/chr_impl.h"

#define ESCAPE           0x01 /* Ctrl-a */
#define TTY_PATIENCE_MS  1000
#define FILE_PATIENCE_MS 10000

struct chr_stdio {
	struct chr chr;
	struct writer writer;
	struct loop_fd in;
	struct loop_work read_file; /* where epoll takes no (in) */
	bool is_tty, is_file, is_eof, saw_escape;
	unsigned patience_ms;
	struct loop_fd signals;
	sigset_t old_mask;
};

/* Who has the terminal, and whether its mode is to be restored. */
enum { STDIO_FREE, STDIO_TAKEN, STDIO_RAW };
static _Atomic int stdio_state;
static struct termios saved_termios; /* written before STDIO_RAW is set */

static struct chr_stdio *to_stdio(struct chr *chr)
{
	return container_of(chr, struct chr_stdio, chr);
}

void chr_restore_terminal(void)
{
	if (atomic_load(&stdio_state) == STDIO_RAW)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved_termios);
}

/* Output stays as it was: our own messages go to the same terminal. */
static void make_raw(void)
{
	struct termios raw = saved_termios;

	raw.c_iflag &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR |
			 ICRNL | IXON);
	raw.c_lflag &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

static void stdio_size(unsigned *columns, unsigned *rows)
{
	struct winsize size;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) ||
	    !ioctl(STDIN_FILENO, TIOCGWINSZ, &size)) {
		*columns = size.ws_col;
		*rows = size.ws_row;
	}
}

/* --- input -------------------------------------------------------------- */

static void print_help(void)
{
	fputs("\nCtrl-a x       end the machine\n"
	      "Ctrl-a h       this help\n"
	      "Ctrl-a Ctrl-a  send one Ctrl-a\n",
	      stderr);
}

/* Act on the escape keys in (buf) and take them out of it. */
static size_t filter_keys(struct chr_stdio *s, uint8_t *buf, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t key = buf[i];

		if (!s->saw_escape && key == ESCAPE) {
			s->saw_escape = true;
			continue;
		}
		if (!s->saw_escape || key == ESCAPE)
			buf[n++] = key;
		else if (key == 'x' && s->chr.keys.quit)
			s->chr.keys.quit(s->chr.keys.opaque);
		else if (key == 'h' || key == '?')
			print_help();
		s->saw_escape = false;
	}
	return n;
}

/* One read into the buffer. */
static void read_in(struct chr_stdio *s)
{
	size_t room = fifo_room(&s->chr.in);
	uint8_t buf[1024];
	ssize_t n;

	n = read(s->in.fd, buf,
		 s->is_tty ? sizeof(buf) : MIN(sizeof(buf), room));
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		s->is_eof = true;
		return;
	}
	if (s->is_tty)
		n = filter_keys(s, buf, n);
	fifo_put(&s->chr.in, buf, MIN((size_t)n, room));
}

static void watch_in(struct chr_stdio *s)
{
	bool wants = !s->is_eof && (s->is_tty || fifo_room(&s->chr.in));

	if (!s->is_file)
		loop_watch(s->chr.loop, &s->in, wants ? EPOLLIN : 0);
	else if (wants)
		loop_post(s->chr.loop, &s->read_file);
}

static void in_ready(void *opaque, uint32_t events)
{
	struct chr_stdio *s = opaque;

	if (!s->is_eof && (s->is_tty || fifo_room(&s->chr.in)))
		read_in(s);
	watch_in(s);
	chr_deliver(&s->chr);
}

static void run_read_file(void *opaque)
{
	in_ready(opaque, EPOLLIN);
}

static void stdio_input(struct chr *chr)
{
	watch_in(to_stdio(chr));
}

/* --- signals ------------------------------------------------------------ */

static void signals_ready(void *opaque, uint32_t events)
{
	struct chr_stdio *s = opaque;
	struct signalfd_siginfo info;
	unsigned columns = 0, rows = 0;

	if (read(s->signals.fd, &info, sizeof(info)) != sizeof(info))
		return;
	if (info.ssi_signo == SIGCONT) {
		/* A shell sets the mode that it likes while we are stopped. */
		if (s->is_tty && tcgetpgrp(STDIN_FILENO) == getpgrp())
			make_raw();
		return;
	}
	stdio_size(&columns, &rows);
	if (s->chr.has_user && s->chr.user.resized)
		s->chr.user.resized(s->chr.user.opaque, columns, rows);
}

/* The threads of a process all have these blocked (thread_create()), so they
 * can only arrive here. */
static int watch_signals(struct chr_stdio *s)
{
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigaddset(&set, SIGCONT);
	s->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signals.fd < 0)
		return -errno;
	r = loop_watch(s->chr.loop, &s->signals, EPOLLIN);
	if (r < 0) {
		close(s->signals.fd);
		s->signals.fd = -1;
		return r;
	}
	pthread_sigmask(SIG_BLOCK, &set, &s->old_mask);
	return 0;
}

static void unwatch_signals(struct chr_stdio *s)
{
	if (s->signals.fd < 0)
		return;
	loop_unwatch(&s->signals);
	close(s->signals.fd);
	pthread_sigmask(SIG_SETMASK, &s->old_mask, NULL);
}

/* --- opening and closing ------------------------------------------------ */

static void stdio_output(struct chr *chr)
{
	writer_wake(&to_stdio(chr)->writer);
}

static void stdio_close(struct chr *chr)
{
	struct chr_stdio *s = to_stdio(chr);

	loop_unwatch(&s->in);
	loop_unpost(chr->loop, &s->read_file);
	unwatch_signals(s);
	writer_stop(&s->writer, s->patience_ms);
	chr_restore_terminal();
	atomic_store(&stdio_state, STDIO_FREE);
	chr_fini(chr);
	free(s);
}

static const struct chr_ops stdio_ops = {
	.output = stdio_output,
	.input = stdio_input,
	.size = stdio_size,
	.close = stdio_close,
};

/* epoll takes neither files nor /dev/null, which never make a reader wait, nor
 * a descriptor that is closed, which has no input. */
static int start_input(struct chr_stdio *s)
{
	int r = loop_watch(s->chr.loop, &s->in, EPOLLIN);

	if (r == -EPERM) {
		s->is_file = true;
		loop_post(s->chr.loop, &s->read_file);
		return 0;
	}
	if (r == -EBADF) {
		s->is_eof = true;
		return 0;
	}
	if (r == 0 && s->is_tty && !tcgetattr(STDIN_FILENO, &saved_termios)) {
		atomic_store(&stdio_state, STDIO_RAW);
		make_raw();
	}
	return r;
}

static int start(struct chr_stdio *s, struct loop *loop, struct err *err)
{
	bool is_out_tty = isatty(STDOUT_FILENO);
	int r;

	s->is_tty = isatty(STDIN_FILENO);
	s->patience_ms = is_out_tty ? TTY_PATIENCE_MS : FILE_PATIENCE_MS;
	r = chr_init(&s->chr, &stdio_ops, loop, CHR_BUFFER,
		     is_out_tty ? CHR_BUFFER : CHR_FILE_BUFFER);
	if (!r && (s->is_tty || is_out_tty))
		r = watch_signals(s);
	if (!r)
		r = start_input(s);
	if (!r)
		r = writer_start(&s->writer, &s->chr, STDOUT_FILENO, err);
	return r;
}

int chr_stdio_open(struct chr **chr, struct loop *loop,
		   const struct chr_keys *keys, struct err *err)
{
	struct chr_stdio *s;
	int r, expected = STDIO_FREE;

	if (!atomic_compare_exchange_strong(&stdio_state, &expected,
					    STDIO_TAKEN))
		return err_set(err, EBUSY,
			       "give the other stream a file or "
			       "a socket",
			       "stdio is in use by another stream");
	s = calloc(1, sizeof(*s));
	if (!s) {
		atomic_store(&stdio_state, STDIO_FREE);
		return err_set(err, ENOMEM, NULL, "cannot open stdio:");
	}
	if (keys)
		s->chr.keys = *keys;
	s->in.fd = STDIN_FILENO;
	s->in.fn = in_ready;
	s->signals.fd = -1;
	s->signals.fn = signals_ready;
	s->read_file.fn = run_read_file;
	s->in.opaque = s->signals.opaque = s->read_file.opaque = s;
	r = start(s, loop, err);
	if (r < 0) {
		err_set(err, -r, NULL, "cannot open stdio:");
		stdio_close(&s->chr);
		return r;
	}
	*chr = &s->chr;
	return 0;
}
