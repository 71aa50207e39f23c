#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/stats.h"

/* What (fn) prints to stderr. */
static void capture(void (*fn)(void), char *buf, size_t size)
{
	int saved = dup(STDERR_FILENO);
	int fd = memfd_create("stderr", MFD_CLOEXEC);
	ssize_t n;

	assert_true(saved >= 0 && fd >= 0);
	assert_true(dup2(fd, STDERR_FILENO) >= 0);
	fn();
	fflush(stderr);
	assert_true(dup2(saved, STDERR_FILENO) >= 0);
	n = pread(fd, buf, size - 1, 0);
	assert_true(n >= 0);
	buf[n] = 0;
	close(saved);
	close(fd);
}

static void print_levels(void)
{
	log_error("one %d", 1);
	log_info("not by default");
	log_set_level(LOG_DEBUG);
	log_debug("two\033[31m\n");
	log_set_level(LOG_WARN);
}

static void levels_and_control_characters(void **state)
{
	char buf[512];

	capture(print_levels, buf, sizeof(buf));
	assert_string_equal(buf, "ringer: error: one 1\n"
				 "ringer: debug: two?[31m?\n");
}

static void misbehave(void)
{
	struct log_limit limit = { 0 };

	for (unsigned i = 0; i < 1000; i++)
		log_guest(&limit, "disk0", "bad ring %u", i);
	/* As if a second had passed. */
	limit.second--;
	log_guest(&limit, "disk0", "again");
}

static void guest_lines_are_limited(void **state)
{
	char buf[8192];
	unsigned lines = 0;

	capture(misbehave, buf, sizeof(buf));
	for (const char *p = buf; *p; p++)
		lines += *p == '\n';
	/* A second may begin on the way. */
	assert_in_range(lines, 11, 21);
	assert_non_null(strstr(buf, "disk0: guest: bad ring 0\n"));
	assert_non_null(strstr(buf, " more): again\n"));
}

static void fill_a_pipe(void)
{
	struct log_limit limit = { 0 };
	char text[4096] = { 0 };
	int fds[2];
	ssize_t n;

	assert_int_equal(pipe(fds), 0);
	assert_true(fcntl(fds[1], F_SETPIPE_SZ, 4096) >= 0);
	assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
	assert_int_equal(write(fds[1], text, 1000), 1000);
	/* Nobody reads: the pipe's only page is in use. */
	for (unsigned i = 0; i < 3; i++)
		log_guest(&limit, "disk0", "bad ring %u", i);
	log_warn("three and one");
	assert_int_equal(read(fds[0], text, 1000), 1000);
	log_guest(&limit, "disk0", "heard again");
	n = read(fds[0], text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = 0;
	assert_string_equal(text,
			    "ringer: lines lost here: 4\n"
			    "ringer: warning: disk0: guest: heard again\n");
	close(fds[0]);
	close(fds[1]);
}

static void an_unread_pipe_does_not_block(void **state)
{
	char buf[64];

	capture(fill_a_pipe, buf, sizeof(buf));
	assert_string_equal(buf, "");
}

static void statistics_are_listed(void **state)
{
	struct counters {
		uint64_t reads, writes;
	} counters = { 0 };
	static const struct stat_desc descs[] = {
		STAT(struct counters, reads),
		STAT(struct counters, writes),
		{ 0 },
	};
	struct stats stats;
	struct stats_group group = { 0 };

	stats_init(&stats);
	stats_remove(&group);
	stats_add(&stats, &group, "disk0", descs, &counters);
	counters.reads++;
	stat_add(&counters.writes, 5);
	assert_int_equal(stats_read(&group, &descs[0]), 1);
	assert_int_equal(stats_read(&group, &descs[1]), 5);
	assert_string_equal(group.name, "disk0");
	stats_remove(&group);
	stats_remove(&group);
	assert_true(list_is_empty(&stats.groups));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(levels_and_control_characters),
		cmocka_unit_test(guest_lines_are_limited),
		cmocka_unit_test(an_unread_pipe_does_not_block),
		cmocka_unit_test(statistics_are_listed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
