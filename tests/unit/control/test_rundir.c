/* The runtime directory: names, locks, what a killed machine leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/rundir.h"

static char runtime[64];

static int setup(void **state)
{
	snprintf(runtime, sizeof(runtime), "/tmp/test_rundir.XXXXXX");
	assert_non_null(mkdtemp(runtime));
	return setenv("XDG_RUNTIME_DIR", runtime, 1);
}

static int teardown(void **state)
{
	char path[100];

	snprintf(path, sizeof(path), "%s/ringer", runtime);
	rmdir(path);
	return rmdir(runtime);
}

static void names_are_checked(void **state)
{
	static const char *const good[] = { "a", "vm-1", "x.y_z",
					    "0123456789012345678901234567890" };
	static const char *const bad[] = {
		"",     ".",        "..",
		"-x",   "a/b",      "a b",
		"\x01", "\xc3\xa4", "01234567890123456789012345678901"
	};

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(rundir_name_ok(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(rundir_name_ok(bad[i]));
}

static int count_one(void *opaque, const char *name, long pid)
{
	unsigned *n = opaque;

	assert_int_equal(pid, getpid());
	return ++*n > 100;
}

static void one_machine_has_a_name(void **state)
{
	struct err err = { "", "" };
	struct rundir a, b, c;
	unsigned n = 0;

	assert_int_equal(rundir_create(&a, "one", NULL), 0);
	assert_int_equal(rundir_create(&b, "two", NULL), 0);
	assert_int_equal(rundir_create(&c, "one", &err), -EEXIST);
	assert_non_null(strstr(err.what, "'one' is running"));
	assert_int_equal(rundir_for_each(count_one, &n), 0);
	assert_int_equal(n, 2);
	rundir_remove(&a);
	assert_int_equal(rundir_create(&c, "one", NULL), 0);
	rundir_remove(&b);
	rundir_remove(&c);
	n = 0;
	rundir_for_each(count_one, &n);
	assert_int_equal(n, 0);
}

static void what_a_killed_machine_left_is_cleared(void **state)
{
	struct rundir a;
	char path[100];
	unsigned n = 0;

	assert_int_equal(rundir_create(&a, "dead", NULL), 0);
	/* As the kernel does it for a killed process: the lock goes. */
	close(a.lock_fd);
	close(a.dir_fd);
	close(a.parent_fd);
	rundir_for_each(count_one, &n);
	assert_int_equal(n, 0);
	snprintf(path, sizeof(path), "%s/ringer/dead", runtime);
	assert_int_equal(access(path, F_OK), -1);
}

static void connecting_to_nobody_says_so(void **state)
{
	struct err err = { "", "" };

	assert_int_equal(rundir_connect("nobody", &err), -ENOENT);
	assert_string_equal(err.what, "no machine called 'nobody' is running");
	assert_true(err.hint[0]);
	assert_int_equal(rundir_connect("../etc", NULL), -ENOENT);
}

static void a_folder_that_others_can_write_is_not_used(void **state)
{
	struct rundir a;
	char path[100];
	struct stat st;

	snprintf(path, sizeof(path), "%s/ringer", runtime);
	mkdir(path, 0700);
	chmod(path, 0777);
	assert_int_equal(rundir_create(&a, "elsewhere", NULL), 0);
	snprintf(path, sizeof(path), "%s/ringer/elsewhere", runtime);
	assert_int_equal(stat(path, &st), -1);
	rundir_remove(&a);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_checked),
		cmocka_unit_test_setup_teardown(one_machine_has_a_name, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			what_a_killed_machine_left_is_cleared, setup, teardown),
		cmocka_unit_test_setup_teardown(connecting_to_nobody_says_so,
						setup, teardown),
		cmocka_unit_test_setup_teardown(
			a_folder_that_others_can_write_is_not_used, setup,
			teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
