/* Messages for the person at the terminal, on stderr, one line each. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/base.h"

/** From the least to the most talkative. */
enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/** Print messages up to (level); LOG_WARN until this is called. */
void log_set_level(enum log_level level);

/** Print one line "ringer: [level: ]MESSAGE" to stderr. Any thread. It waits a
 * tenth of a second for room in a pipe or terminal that nobody reads; then the
 * line is lost, which the next one that is printed says. */
void log_print(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define log_error(...) log_print(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_print(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_print(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_DEBUG, __VA_ARGS__)

/** How many lines one source of guest misbehaviour may still print; zeroed
 * storage is ready for use. */
struct log_limit {
	int64_t second;
	unsigned in_second;
	unsigned suppressed;
};

/**
 * Say that the guest did something wrong to (device). At most ten lines a
 * second for each (limit); what was suppressed is counted in the next line, so
 * that a guest cannot fill the host's disk. It never waits for stderr: what has
 * no room is lost. Call with the device's lock held.
 */
void log_guest(struct log_limit *limit, const char *device, const char *fmt,
	       ...) PRINTF_LIKE(3, 4);

#endif
