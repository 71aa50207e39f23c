#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define GUEST_LINES_PER_SECOND 10

/* Of the process, as stderr is. */
static int max_level = LOG_WARN;

void log_set_level(enum log_level level)
{
	__atomic_store_n(&max_level, level, __ATOMIC_RELAXED);
}

static bool is_printed(enum log_level level)
{
	return (int)level <= __atomic_load_n(&max_level, __ATOMIC_RELAXED);
}

/* One write per line, so that threads do not mix theirs. What a guest had a
 * part in must not reach the terminal as control characters. */
static void print_line(enum log_level level, const char *prefix,
		       const char *fmt, va_list args)
{
	static const char *const names[] = { "error: ", "warning: ", "",
					     "debug: " };
	char text[512];
	int len;

	len = vsnprintf(text, sizeof(text), fmt, args);
	if (len < 0)
		return;
	for (char *p = text; *p; p++) {
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	}
	fprintf(stderr, "ringer: %s%s%s\n", names[level], prefix, text);
}

void log_print(enum log_level level, const char *fmt, ...)
{
	va_list args;

	if (!is_printed(level))
		return;
	va_start(args, fmt);
	print_line(level, "", fmt, args);
	va_end(args);
}

void log_guest(struct log_limit *limit, const char *device, const char *fmt,
	       ...)
{
	char prefix[96];
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
	print_line(LOG_WARN, prefix, fmt, args);
	va_end(args);
}
