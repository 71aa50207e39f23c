#include "base/log.h"

#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define GUEST_LINES_PER_SECOND 10
/* How long a line of ringer's own waits for stderr's reader. */
#define PATIENCE_MS 100
/* Of a message; more is cut. */
#define TEXT_MAX 512

/* Of the process, as stderr is. */
static int max_level = LOG_WARN;
static pthread_mutex_t write_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned nr_lost; /* lines; of write_lock */

void log_set_level(enum log_level level)
{
	__atomic_store_n(&max_level, level, __ATOMIC_RELAXED);
}

static bool is_printed(enum log_level level)
{
	return (int)level <= __atomic_load_n(&max_level, __ATOMIC_RELAXED);
}

static bool is_writable(int timeout_ms)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

	return poll(&p, 1, timeout_ms) == 1 && (p.revents & POLLOUT);
}

/*
 * One write per line, so that threads do not mix theirs. Nobody may be reading
 * the pipe or terminal that stderr is, and a CPU must not stand still for that:
 * a line for which there is no room is dropped and counted. (A pipe that can be
 * written takes PIPE_BUF bytes at once, more than any line has.)
 */
static void write_line(const char *line, int patience_ms)
{
	char text[768];
	int len;

	is_writable(patience_ms);
	pthread_mutex_lock(&write_lock);
	len = nr_lost ? snprintf(text, sizeof(text),
				 "ringer: lines lost here: %u\n", nr_lost)
		      : 0;
	len += snprintf(text + len, sizeof(text) - (size_t)len, "%s", line);
	if (is_writable(0) && write(STDERR_FILENO, text, (size_t)len) == len)
		nr_lost = 0;
	else
		nr_lost++;
	pthread_mutex_unlock(&write_lock);
}

/* What a guest had a part in must not reach the terminal as control
 * characters. */
static void print_line(enum log_level level, const char *prefix,
		       int patience_ms, char *text)
{
	static const char *const names[] = { "error: ", "warning: ", "",
					     "debug: " };
	char line[TEXT_MAX + 128];

	for (char *p = text; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
	snprintf(line, sizeof(line), "ringer: %s%s%s\n", names[level], prefix,
		 text);
	write_line(line, patience_ms);
}

void log_print(enum log_level level, const char *fmt, ...)
{
	char text[TEXT_MAX] = "";
	va_list args;

	if (!is_printed(level))
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	print_line(level, "", PATIENCE_MS, text);
}

void log_guest(struct log_limit *limit, const char *device, const char *fmt,
	       ...)
{
	char prefix[96], text[TEXT_MAX] = "";
	struct timespec now;
	va_list args;

	if (!is_printed(LOG_WARN))
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec != limit->second) {
		limit->second = now.tv_sec;
		limit->in_second = 0;
	}
	if (limit->in_second >= GUEST_LINES_PER_SECOND) {
		limit->suppressed++;
		return;
	}
	limit->in_second++;
	if (limit->suppressed)
		snprintf(prefix, sizeof(prefix),
			 "%s: guest (%u more): ", device, limit->suppressed);
	else
		snprintf(prefix, sizeof(prefix), "%s: guest: ", device);
	limit->suppressed = 0;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	print_line(LOG_WARN, prefix, 0, text);
}
