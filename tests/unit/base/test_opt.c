#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/opt.h"

struct disk_opts {
	char *path;
	bool is_ro;
	unsigned queues;
	uint64_t size;
	int cache;
};

static const char *const caches[] = { "writeback", "writethrough", "none",
				      NULL };

static const struct opt_desc descs[] = {
	{ .name = "path",
	  .type = OPT_STR,
	  .offset = offsetof(struct disk_opts, path),
	  .help = "file with the contents" },
	{ .name = "readonly",
	  .type = OPT_BOOL,
	  .offset = offsetof(struct disk_opts, is_ro),
	  .help = "refuse writes" },
	{ .name = "queues",
	  .type = OPT_UINT,
	  .offset = offsetof(struct disk_opts, queues),
	  .help = "number of queues",
	  .def = "1",
	  .min = 1,
	  .max = 64 },
	{ .name = "size",
	  .type = OPT_SIZE,
	  .offset = offsetof(struct disk_opts, size),
	  .help = "bytes",
	  .def = "16",
	  .min = MiB,
	  .max = 64 * GiB,
	  .unit = MiB },
	{ .name = "cache",
	  .type = OPT_CHOICE,
	  .offset = offsetof(struct disk_opts, cache),
	  .help = "host caching",
	  .def = "none",
	  .choices = caches },
	OPT_END
};

/* Which text gives which values. */
static const struct {
	const char *text, *path;
	bool is_ro;
	unsigned queues;
	uint64_t size;
	int cache;
} good[] = {
	{ NULL, NULL, false, 1, 16 * MiB, 2 },
	{ "", NULL, false, 1, 16 * MiB, 2 },
	{ "path=a", "a", false, 1, 16 * MiB, 2 },
	{ "path=", "", false, 1, 16 * MiB, 2 },
	{ "path=a,,b=c,queues=64", "a,b=c", false, 64, 16 * MiB, 2 },
	{ "readonly", NULL, true, 1, 16 * MiB, 2 },
	{ "readonly=on,size=1G", NULL, true, 1, GiB, 2 },
	{ "readonly=yes", NULL, true, 1, 16 * MiB, 2 },
	{ "readonly=false", NULL, false, 1, 16 * MiB, 2 },
	{ "size=0x20,cache=writeback", NULL, false, 1, 32 * MiB, 0 },
	{ "size=2048k", NULL, false, 1, 2 * MiB, 2 },
};

static void good_options_fill_struct(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct disk_opts o;
		struct err err = { 0 };

		memset(&o, 0xa5, sizeof(o));
		assert_int_equal(opt_defaults(descs, &o, &err), 0);
		assert_int_equal(
			opt_parse(descs, "--disk", good[i].text, &o, &err), 0);
		assert_int_equal(o.is_ro, good[i].is_ro);
		assert_int_equal(o.queues, good[i].queues);
		assert_int_equal(o.size, good[i].size);
		assert_int_equal(o.cache, good[i].cache);
		if (good[i].path)
			assert_string_equal(o.path, good[i].path);
		else
			assert_null(o.path);
		opt_free(descs, &o);
		assert_null(o.path);
	}
}

/* Which text is refused in which words. */
static const struct {
	const char *text, *what, *hint;
} bad[] = {
	{ "pth=a", "--disk: unknown key 'pth'", "did you mean 'path'?" },
	{ "zzzzzz=1", "--disk: unknown key 'zzzzzz'",
	  "one of: path, readonly, queues, size, cache" },
	{ "path=a,", "--disk: unknown key ''",
	  "one of: path, readonly, queues, size, cache" },
	{ "path", "--disk: path needs a value", "file with the contents" },
	{ "path=a,path=b", "--disk: path is given twice", "" },
	{ "queues=0", "--disk: queues=0 is not within 1 to 64",
	  "number of queues" },
	{ "queues=65", "--disk: queues=65 is not within 1 to 64",
	  "number of queues" },
	{ "queues=-1", "--disk: queues=-1 is not a number",
	  "number of queues" },
	{ "queues= 1", "--disk: queues= 1 is not a number",
	  "number of queues" },
	{ "queues=1x", "--disk: queues=1x is not a number",
	  "number of queues" },
	{ "queues=", "--disk: queues= is not a number", "number of queues" },
	{ "queues=99999999999999999999",
	  "--disk: queues=99999999999999999999 is not a number",
	  "number of queues" },
	{ "size=1KB", "--disk: size=1KB is not a size",
	  "a size is a number with K, M, G or T after it" },
	{ "size=99999999999T", "--disk: size=99999999999T is not a size",
	  "a size is a number with K, M, G or T after it" },
	{ "size=65G", "--disk: size=65G is not within 1M to 64G", "bytes" },
	{ "readonly=maybe", "--disk: readonly=maybe is not on or off",
	  "use on or off" },
	{ "cache=writethru", "--disk: cache=writethru is not a choice",
	  "did you mean 'writethrough'?" },
	{ "cache=x", "--disk: cache=x is not a choice",
	  "one of: writeback, writethrough, none" },
};

static void bad_options_say_why(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct disk_opts o;
		struct err err = { 0 };

		assert_int_equal(opt_defaults(descs, &o, &err), 0);
		assert_int_equal(
			opt_parse(descs, "--disk", bad[i].text, &o, &err),
			-EINVAL);
		assert_string_equal(err.what, bad[i].what);
		assert_string_equal(err.hint, bad[i].hint);
		opt_free(descs, &o);
	}
}

static void nearest_needs_likeness(void **state)
{
	static const char *const names[] = { "run", "restore", "console",
					     NULL };
	char *huge = malloc(100000);

	assert_string_equal(opt_nearest(names, "rum"), "run");
	assert_string_equal(opt_nearest(names, "resotre"), "restore");
	assert_null(opt_nearest(names, "banana"));
	assert_null(opt_nearest(names, ""));
	assert_non_null(huge);
	memset(huge, 'x', 99999);
	huge[99999] = 0;
	assert_null(opt_nearest(names, huge));
	free(huge);
}

static void first_error_wins(void **state)
{
	struct err err = { 0 };

	assert_int_equal(err_set(&err, ENOENT, "look", "cannot open 'x':"),
			 -ENOENT);
	assert_string_equal(err.what,
			    "cannot open 'x': No such file or directory");
	assert_int_equal(err_set(&err, EIO, NULL, "second"), -EIO);
	assert_string_equal(err.hint, "look");
	assert_int_equal(err_set(NULL, EIO, NULL, "nobody listens"), -EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_options_fill_struct),
		cmocka_unit_test(bad_options_say_why),
		cmocka_unit_test(nearest_needs_likeness),
		cmocka_unit_test(first_error_wins),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
