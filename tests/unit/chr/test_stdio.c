/* stdio on a terminal, on pipes and on files. */
#include "chr_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Standard input and output while a test has others in their place. */
static int saved[3];

static void replace_stdio(int in, int out)
{
	fflush(NULL);
	for (int i = 0; i < 3; i++)
		saved[i] = fcntl(i, F_DUPFD_CLOEXEC, 10);
	dup2(in, 0);
	dup2(out, 1);
}

static int restore_stdio(void **state)
{
	if (!saved[0])
		return 0;
	fflush(NULL);
	for (int i = 0; i < 3; i++) {
		dup2(saved[i], i);
		close(saved[i]);
	}
	saved[0] = 0;
	return 0;
}

/* A terminal as standard input and output; returns its other end. */
static int open_terminal(struct termios *before)
{
	int slave, master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

	assert_true(master >= 0);
	assert_int_equal(grantpt(master) | unlockpt(master), 0);
	slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(slave >= 0);
	tcgetattr(slave, before);
	replace_stdio(slave, slave);
	close(slave);
	return master;
}

static void type(int master, const char *text, size_t len)
{
	assert_int_equal(write(master, text, len), len);
}
#define TYPE(master, text) type(master, text, sizeof(text) - 1)

static void terminal_keys(void **state)
{
	struct termios before, during;
	struct recorder *r;
	int master = open_terminal(&before);

	r = recorder_open("stdio");
	tcgetattr(0, &during);
	assert_false(during.c_lflag & (ICANON | ECHO | ISIG));
	assert_int_equal(during.c_oflag, before.c_oflag);

	TYPE(master, "ab\r\x03"); /* Ctrl-c is the guest's */
	assert_got(r, "ab\r\x03");
	TYPE(master, "\x01\x01"
		     "c\x01");
	TYPE(master, "zd\x01"
		     "be");
	assert_got(r, "ab\r\x03\x01"
		      "cde");
	assert_int_equal(r->nr_quits, 0);
	TYPE(master, "\x01");
	run_ms(r, 5);
	TYPE(master, "xf");
	assert_got(r, "ab\r\x03\x01"
		      "cdef");
	assert_int_equal(r->nr_quits, 1);

	chr_write(r->chr, (const uint8_t *)"out", 3);
	recorder_close(r);
	tcgetattr(0, &during);
	assert_int_equal(during.c_lflag, before.c_lflag);
	assert_int_equal(during.c_iflag, before.c_iflag);
	restore_stdio(NULL);
	{
		char buf[8];

		assert_int_equal(read(master, buf, sizeof(buf)), 3);
		assert_memory_equal(buf, "out", 3);
	}
	close(master);
}

static void help_goes_to_stderr(void **state)
{
	struct termios before;
	struct recorder *r;
	int fds[2], master = open_terminal(&before);
	char buf[512];
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], 2);
	r = recorder_open("stdio");
	TYPE(master, "\x01h.");
	assert_got(r, ".");
	n = read(fds[0], buf, sizeof(buf) - 1);
	recorder_close(r);
	restore_stdio(NULL);
	assert_true(n > 0);
	buf[n] = '\0';
	assert_non_null(strstr(buf, "Ctrl-a x"));
	close(fds[0]);
	close(fds[1]);
	close(master);
}

/* A guest that takes nothing cannot keep Ctrl-a x away. */
static void quit_works_on_a_deaf_guest(void **state)
{
	struct termios before;
	struct recorder *r;
	int master = open_terminal(&before);
	char *flood = malloc(100000);
	size_t typed = 0;

	r = recorder_open("stdio");
	r->limit = 0;
	TYPE(master, "xyz");
	run_ms(r, 5);
	memset(flood, '-', 100000);
	fcntl(master, F_SETFL, O_NONBLOCK);
	while (typed < 100000) {
		ssize_t n = write(master, flood + typed, 100000 - typed);

		typed += MAX(n, 0);
		run_ms(r, 1);
	}
	fcntl(master, F_SETFL, 0);
	TYPE(master, "\x01x");
	run_until(r, r->nr_quits == 1);
	assert_int_equal(r->len, 0);
	r->limit = 3;
	chr_resume(r->chr);
	assert_got(r, "xyz");
	recorder_close(r);
	restore_stdio(NULL);
	free(flood);
	close(master);
}

static void window_changes_arrive(void **state)
{
	struct winsize size = { .ws_col = 132, .ws_row = 43 };
	struct termios before, during;
	unsigned columns, rows;
	struct recorder *r;
	int master = open_terminal(&before);

	r = recorder_open("stdio");
	ioctl(master, TIOCSWINSZ, &size);
	kill(getpid(), SIGWINCH);
	run_until(r, r->nr_resizes == 1);
	assert_int_equal(r->columns, 132);
	assert_int_equal(r->rows, 43);
	chr_size(r->chr, &columns, &rows);
	assert_int_equal(columns, 132);
	assert_int_equal(rows, 43);

	chr_restore_terminal();
	tcgetattr(0, &during);
	assert_int_equal(during.c_lflag, before.c_lflag);
	recorder_close(r);
	restore_stdio(NULL);
	close(master);
}

/* A stopped terminal takes nothing: the guest writes on, the end comes soon. */
static void stuck_terminal_stalls_nobody(void **state)
{
	struct termios before;
	struct recorder *r;
	int master = open_terminal(&before);
	uint8_t *buf = calloc(1, MiB);
	int64_t start_ns;

	r = recorder_open("stdio");
	start_ns = clock_now_ns();
	for (int i = 0; i < 10; i++)
		chr_write(r->chr, buf, MiB);
	assert_true(clock_now_ns() - start_ns < NSEC_PER_SEC);
	assert_true(chr_dropped(r->chr) > 9 * MiB);
	start_ns = clock_now_ns();
	recorder_close(r);
	assert_true(clock_now_ns() - start_ns < 3 * NSEC_PER_SEC);
	restore_stdio(NULL);
	free(buf);
	close(master);
}

static void terminal_that_hangs_up(void **state)
{
	struct termios before;
	struct recorder *r;
	int master = open_terminal(&before);

	r = recorder_open("stdio");
	close(master);
	run_ms(r, 10);
	chr_write(r->chr, (const uint8_t *)"x", 1);
	assert_true(loop_stats(r->loop)->wakeups < 50);
	recorder_close(r);
	restore_stdio(NULL);
}

/* --- pipes and files ---------------------------------------------------- */

static void pipe_input_is_data(void **state)
{
	struct recorder *r;
	int in[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);

	assert_int_equal(pipe(in), 0);
	replace_stdio(in[0], null);
	r = recorder_open("stdio");
	r->limit = 2;
	TYPE(in[1], "\x01x\x01h");
	run_until(r, r->len == 2);
	r->limit = 100;
	chr_resume(r->chr);
	assert_got(r, "\x01x\x01h");
	assert_int_equal(r->nr_quits, 0);
	close(in[1]);
	run_ms(r, 10);
	assert_true(loop_stats(r->loop)->wakeups < 50);
	recorder_close(r);
	restore_stdio(NULL);
	close(in[0]);
	close(null);
}

/* More than all buffers hold passes a guest that reads byte by byte. */
static void file_input_loses_nothing(void **state)
{
	char path[] = "/tmp/ringer-chr-XXXXXX";
	struct recorder *r;
	uint8_t *model = malloc(200000);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), fd = mkstemp(path);

	for (int i = 0; i < 200000; i++)
		model[i] = i * 7 + i / 256;
	assert_int_equal(write(fd, model, 200000), 200000);
	lseek(fd, 0, SEEK_SET);
	replace_stdio(fd, null);
	r = recorder_open("stdio");
	for (r->limit = 0; r->limit < 200000;) {
		r->limit += 1 + r->limit % 1999;
		chr_resume(r->chr);
		run_until(r, r->len == MIN(r->limit, 200000));
	}
	run_ms(r, 5);
	recorder_close(r);
	restore_stdio(NULL);
	close(fd);
	close(null);
	unlink(path);
	free(model);
}

static void no_input_at_all(void **state)
{
	struct recorder *r;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	replace_stdio(null, null);
	r = recorder_open("stdio");
	run_ms(r, 10);
	assert_int_equal(r->len, 0);
	recorder_close(r);
	restore_stdio(NULL);
	close(null);
}

struct drain {
	int fd;
	unsigned delay_ms;
	size_t len;
	uint8_t *buf;
};

static void *drain_slowly(void *opaque)
{
	struct drain *drain = opaque;
	struct timespec delay = { .tv_nsec = drain->delay_ms * NSEC_PER_MSEC };
	ssize_t n;

	nanosleep(&delay, NULL);
	while ((n = read(drain->fd, drain->buf + drain->len, 16384)) > 0)
		drain->len += n;
	return NULL;
}

/* A pipe's slow reader gets everything that fits the buffer, at the latest when
 * the stream is closed; and the pipe's descriptor is left as it was. */
static void slow_pipe_reader_gets_all(void **state)
{
	struct drain drain = { .delay_ms = 200, .buf = malloc(2 * MiB) };
	uint8_t *model = malloc(MiB);
	struct recorder *r;
	pthread_t thread;
	int out[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (size_t i = 0; i < MiB; i++)
		model[i] = i * 31 + i / 1024;
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	drain.fd = out[0];
	pthread_create(&thread, NULL, drain_slowly, &drain);
	replace_stdio(null, out[1]);
	close(out[1]);
	r = recorder_open("stdio");
	for (size_t i = 0; i < MiB; i += 1024)
		chr_write(r->chr, model + i, 1024);
	assert_int_equal(chr_dropped(r->chr), 0);
	assert_false(fcntl(1, F_GETFL) & O_NONBLOCK);
	recorder_close(r);
	restore_stdio(NULL);
	pthread_join(thread, NULL);
	assert_int_equal(drain.len, MiB);
	assert_memory_equal(drain.buf, model, MiB);
	free(drain.buf);
	free(model);
	close(out[0]);
	close(null);
}

/* Beyond the buffer the oldest goes, and is counted to the byte. */
static void dropped_bytes_are_counted(void **state)
{
	struct drain drain = { .buf = malloc(4 * MiB) };
	uint32_t value;
	struct recorder *r;
	pthread_t thread;
	uint64_t dropped;
	int out[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	replace_stdio(null, out[1]);
	close(out[1]);
	r = recorder_open("stdio");
	for (value = 0; value < 3 * MiB / 4; value++)
		chr_write(r->chr, (const uint8_t *)&value, 4);
	dropped = chr_dropped(r->chr);
	assert_true(dropped > MiB && dropped < 2 * MiB + 1);
	drain.fd = out[0];
	pthread_create(&thread, NULL, drain_slowly, &drain);
	recorder_close(r);
	restore_stdio(NULL);
	pthread_join(thread, NULL);
	assert_int_equal(drain.len + dropped, 3 * MiB);
	memcpy(&value, drain.buf + drain.len - 4, 4);
	assert_int_equal(value, 3 * MiB / 4 - 1);
	free(drain.buf);
	close(out[0]);
	close(null);
}

static void pipe_reader_that_left(void **state)
{
	struct recorder *r;
	uint8_t buf[100] = { 0 };
	int out[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	replace_stdio(null, out[1]);
	close(out[1]);
	close(out[0]);
	r = recorder_open("stdio");
	for (int i = 0; i < 10; i++)
		chr_write(r->chr, buf, sizeof(buf));
	run_until(r, chr_dropped(r->chr) == 1000);
	recorder_close(r);
	restore_stdio(NULL);
	close(null);
}

static void one_stdio_at_a_time(void **state)
{
	struct recorder *r;
	struct err err = { 0 };
	struct chr *other;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	replace_stdio(null, null);
	r = recorder_open("stdio");
	assert_int_equal(chr_open(&other, "stdio", r->loop, NULL, &err),
			 -EBUSY);
	recorder_close(r);
	recorder_close(recorder_open("stdio"));
	restore_stdio(NULL);
	close(null);
}

#define TEST(fn) cmocka_unit_test_teardown(fn, restore_stdio)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(terminal_keys),
		TEST(help_goes_to_stderr),
		TEST(quit_works_on_a_deaf_guest),
		TEST(window_changes_arrive),
		TEST(stuck_terminal_stalls_nobody),
		TEST(terminal_that_hangs_up),
		TEST(pipe_input_is_data),
		TEST(file_input_loses_nothing),
		TEST(no_input_at_all),
		TEST(slow_pipe_reader_gets_all),
		TEST(dropped_bytes_are_counted),
		TEST(pipe_reader_that_left),
		TEST(one_stdio_at_a_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
