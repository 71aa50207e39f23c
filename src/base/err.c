#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int err_set(struct err *err, int errnum, const char *hint, const char *fmt, ...)
{
	va_list args;
	size_t len;

	if (!err || err->what[0])
		return -errnum;
	va_start(args, fmt);
	vsnprintf(err->what, sizeof(err->what), fmt, args);
	va_end(args);
	len = strlen(err->what);
	if (errnum > 0 && len && err->what[len - 1] == ':')
		snprintf(err->what + len, sizeof(err->what) - len, " %s",
			 strerrordesc_np(errnum));
	snprintf(err->hint, sizeof(err->hint), "%s", hint ? hint : "");
	return -errnum;
}

void err_print(const struct err *err)
{
	fprintf(stderr, "ringer: error: %s\n", err->what);
	if (err->hint[0])
		fprintf(stderr, "  hint: %s\n", err->hint);
}

void vm_bug(const char *file, int line, const char *func, const char *what)
{
	fprintf(stderr, "ringer: bug: %s:%d: %s: %s does not hold\n", file,
		line, func, what);
	abort();
}
