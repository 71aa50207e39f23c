/* Streams to files, sockets and nowhere. */
#include "chr_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static void unknown_streams_are_refused(void **state)
{
	static const char *const specs[] = { "", "tty",
					     "file:", "unix:", "stdio2" };
	struct err err;
	struct loop *loop;
	struct chr *chr;

	assert_int_equal(loop_create(&loop, "test", &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
		memset(&err, 0, sizeof(err));
		assert_int_equal(chr_open(&chr, specs[i], loop, NULL, &err),
				 -EINVAL);
		assert_non_null(strstr(err.what, "unknown stream"));
	}
	memset(&err, 0, sizeof(err));
	assert_int_equal(chr_open(&chr, "file:/tmp", loop, NULL, &err),
			 -EISDIR);
	assert_non_null(strstr(err.what, "'/tmp'"));
	memset(&err, 0, sizeof(err));
	assert_int_equal(
		chr_open(&chr, "unix:/nonexistent/s", loop, NULL, &err),
		-ENOENT);
	loop_destroy(loop);
	chr_close(NULL);
}

static void none_takes_everything(void **state)
{
	struct recorder *r = recorder_open("none");
	unsigned columns = 1, rows = 1;

	chr_write(r->chr, (const uint8_t *)"x", 1);
	chr_resume(r->chr);
	run_ms(r, 2);
	assert_int_equal(chr_dropped(r->chr), 0);
	chr_size(r->chr, &columns, &rows);
	assert_int_equal(columns + rows, 0);
	recorder_close(r);
}

/* All of it is in the file after close; opening starts it anew. */
static void file_holds_what_was_written(void **state)
{
	char path[] = "/tmp/ringer-chr-XXXXXX", spec[64];
	struct recorder *r;
	struct stat st;
	char line[32];
	FILE *f;

	close(mkstemp(path));
	snprintf(spec, sizeof(spec), "file:%s", path);
	r = recorder_open(spec);
	for (int i = 0; i < 20000; i++) {
		snprintf(line, sizeof(line), "line %d\n", i);
		chr_write(r->chr, (const uint8_t *)line, strlen(line));
	}
	assert_int_equal(chr_dropped(r->chr), 0);
	recorder_close(r);
	f = fopen(path, "r");
	for (int i = 0; i < 20000; i++) {
		int n = -1;

		assert_int_equal(fscanf(f, "line %d\n", &n), 1);
		assert_int_equal(n, i);
	}
	assert_int_equal(fgetc(f), EOF);
	fclose(f);

	recorder_close(recorder_open(spec));
	stat(path, &st);
	assert_int_equal(st.st_size, 0);
	unlink(path);
}

static void full_disk_stalls_nobody(void **state)
{
	struct recorder *r = recorder_open("file:/dev/full");

	chr_write(r->chr, (const uint8_t *)"abc", 3);
	run_until(r, chr_dropped(r->chr) == 3);
	recorder_close(r);
}

/* --- sockets ------------------------------------------------------------ */

static char path[64], spec[80];

static int socket_setup(void **state)
{
	snprintf(path, sizeof(path), "/tmp/ringer-chr-%d.sock", (int)getpid());
	snprintf(spec, sizeof(spec), "unix:%s", path);
	return 0;
}

static int dial(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	memcpy(addr.sun_path, path, strlen(path));
	assert_int_equal(
		connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void expect(struct recorder *r, int fd, const char *text)
{
	size_t len = 0, want = strlen(text);
	char buf[64];
	ssize_t n;

	for (int i = 0; len < want && i < 1000; i++) {
		run_ms(r, 1);
		n = read(fd, buf + len, want - len);
		if (n > 0)
			len += n;
	}
	assert_int_equal(len, want);
	assert_memory_equal(buf, text, want);
}

static void say(struct recorder *r, const char *text)
{
	chr_write(r->chr, (const uint8_t *)text, strlen(text));
}

static void socket_both_ways_and_again(void **state)
{
	struct recorder *r = recorder_open(spec);
	struct stat st;
	int first, second;

	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	say(r, "early ");
	first = dial();
	expect(r, first, "early ");
	say(r, "hello");
	expect(r, first, "hello");
	assert_int_equal(write(first, "one", 3), 3);
	assert_got(r, "one");

	/* The second waits its turn. */
	second = dial();
	assert_int_equal(write(second, "two", 3), 3);
	run_ms(r, 10);
	assert_got(r, "one");
	close(first);
	assert_got(r, "onetwo");
	say(r, "again");
	expect(r, second, "again");
	close(second);
	run_ms(r, 5);
	say(r, "kept");
	run_ms(r, 5);
	second = dial();
	expect(r, second, "kept");
	assert_int_equal(chr_dropped(r->chr), 0);

	say(r, "last");
	recorder_close(r);
	{
		char buf[8];

		assert_int_equal(read(second, buf, 8), 4);
		assert_int_equal(read(second, buf, 8), 0);
	}
	close(second);
	assert_int_equal(stat(path, &st), -1);
}

/* A client that wrote and left is read to its end, however slow the guest; one
 * that only stopped sending still gets output. */
static void socket_half_open_and_slow(void **state)
{
	struct recorder *r = recorder_open(spec);
	uint8_t buf[10000];
	uint64_t wakeups;
	int fd = dial();

	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = i * 13;
	r->limit = 0;
	assert_int_equal(write(fd, buf, sizeof(buf)), sizeof(buf));
	shutdown(fd, SHUT_WR);
	run_ms(r, 5);
	say(r, "answer");
	expect(r, fd, "answer");
	close(fd);
	run_ms(r, 5);
	wakeups = loop_stats(r->loop)->wakeups;
	run_ms(r, 20);
	assert_true(loop_stats(r->loop)->wakeups - wakeups < 10);
	while (r->limit < sizeof(buf)) {
		r->limit += 100;
		chr_resume(r->chr);
		run_until(r, r->len == r->limit);
	}
	assert_memory_equal(r->got, buf, sizeof(buf));
	fd = dial();
	say(r, "next");
	expect(r, fd, "next");

	/* Half closed, then gone, with nothing left to say: the loop rests. */
	shutdown(fd, SHUT_WR);
	run_ms(r, 5);
	wakeups = loop_stats(r->loop)->wakeups;
	run_ms(r, 20);
	assert_true(loop_stats(r->loop)->wakeups - wakeups < 10);
	close(fd);
	recorder_close(r);
}

/* Without a client the last 64 KiB are kept. */
static void socket_keeps_the_newest(void **state)
{
	struct recorder *r = recorder_open(spec);
	uint8_t *all = malloc(200000), *got = malloc(200000);
	size_t len = 0;
	int fd;

	for (size_t i = 0; i < 200000; i++)
		all[i] = i * 5 + i / 999;
	for (size_t i = 0; i < 200000; i += 500)
		chr_write(r->chr, all + i, 500);
	assert_int_equal(chr_dropped(r->chr), 200000 - 64 * KiB);
	fd = dial();
	for (int i = 0; len < 64 * KiB && i < 1000; i++) {
		ssize_t n;

		run_ms(r, 1);
		n = read(fd, got + len, 200000 - len);
		if (n > 0)
			len += n;
	}
	assert_int_equal(len, 64 * KiB);
	assert_memory_equal(got, all + 200000 - len, len);
	close(fd);
	recorder_close(r);
	free(all);
	free(got);
}

static void socket_that_is_stale_or_taken(void **state)
{
	struct recorder *r = recorder_open(spec);
	struct err err = { 0 };
	char kept[80];
	struct chr *other;
	FILE *f;

	assert_int_equal(chr_open(&other, spec, r->loop, NULL, &err),
			 -EADDRINUSE);
	/* As after a crash: the name remains, nobody listens. */
	snprintf(kept, sizeof(kept), "%s.kept", path);
	assert_int_equal(link(path, kept), 0);
	recorder_close(r);
	assert_int_equal(rename(kept, path), 0);
	r = recorder_open(spec);
	close(dial());
	recorder_close(r);

	/* A file that is no socket is not ours to remove. */
	f = fopen(path, "w");
	fclose(f);
	r = recorder_open("none");
	memset(&err, 0, sizeof(err));
	assert_int_equal(chr_open(&other, spec, r->loop, NULL, &err),
			 -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0);
	unlink(path);
	recorder_close(r);
}

/* Other threads write while the loop serves a client. */
struct shouter {
	struct chr *chr;
	pthread_t thread;
};

static void *shout(void *opaque)
{
	struct shouter *s = opaque;

	for (int i = 0; i < 2000; i++) {
		chr_write(s->chr, (const uint8_t *)"0123456789", 10);
		if (!(i % 100))
			chr_resume(s->chr);
	}
	return NULL;
}

static void writers_on_other_threads(void **state)
{
	struct recorder *r = recorder_open(spec);
	struct shouter shouters[3];
	int fd = dial();
	size_t len = 0;
	char buf[4096];

	for (int i = 0; i < 3; i++) {
		shouters[i].chr = r->chr;
		pthread_create(&shouters[i].thread, NULL, shout, &shouters[i]);
	}
	for (int i = 0; len + chr_dropped(r->chr) < 60000 && i < 3000; i++) {
		ssize_t n;

		run_ms(r, 1);
		while ((n = read(fd, buf, sizeof(buf))) > 0)
			len += n;
	}
	for (int i = 0; i < 3; i++)
		pthread_join(shouters[i].thread, NULL);
	assert_int_equal(len + chr_dropped(r->chr), 60000);
	close(fd);
	recorder_close(r);
}

#define SOCKET_TEST(fn) cmocka_unit_test_setup(fn, socket_setup)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown_streams_are_refused),
		cmocka_unit_test(none_takes_everything),
		cmocka_unit_test(file_holds_what_was_written),
		cmocka_unit_test(full_disk_stalls_nobody),
		SOCKET_TEST(socket_both_ways_and_again),
		SOCKET_TEST(socket_half_open_and_slow),
		SOCKET_TEST(socket_keeps_the_newest),
		SOCKET_TEST(socket_that_is_stale_or_taken),
		SOCKET_TEST(writers_on_other_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
