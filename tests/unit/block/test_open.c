/* Opening disks: what can be wrong, who may share an image, which engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "block/blk.h"
#include "host/loop.h"
#include "storm.h"

enum mode { READ_ONLY, WRITABLE, OVERLAY };

static int try_open(struct blk **blk, const char *path, enum mode mode,
		    struct err *err)
{
	struct blk_options options = {
		.path = path,
		.is_writable = mode == WRITABLE,
		.is_read_only = mode == READ_ONLY,
	};

	memset(err, 0, sizeof(*err));
	return blk_open(blk, &options, err);
}

static void assert_refused(const char *path, enum mode mode, int errnum,
			   const char *what)
{
	struct err err;
	struct blk *blk = NULL;

	assert_int_equal(try_open(&blk, path, mode, &err), -errnum);
	assert_null(blk);
	if (!strstr(err.what, path) || !strstr(err.what, what))
		fail_msg("unexpected message: %s", err.what);
}

static struct blk *must_open(const char *path, enum mode mode)
{
	struct err err;
	struct blk *blk = NULL;

	if (try_open(&blk, path, mode, &err) < 0)
		fail_msg("%s", err.what);
	return blk;
}

static void errors_say_why(void **state)
{
	char path[64];
	int mode;

	for (mode = READ_ONLY; mode <= OVERLAY; mode++) {
		assert_refused("/nonexistent/x.img", mode, ENOENT,
			       "No such file");
		assert_refused("/tmp", mode, EISDIR, "is a directory");
		assert_refused("/dev/null", mode, EINVAL, "neither a file");
		storm_make_file(path, 0, 0);
		assert_refused(path, mode, EINVAL, "has no bytes");
		unlink(path);
		assert_int_equal(mkfifo(path, 0600), 0);
		assert_refused(path, mode, EINVAL, "neither a file");
		unlink(path);
	}
}

static void direct_refused_by_file_system(void **state)
{
	struct blk_options options = {
		.path = "/proc/self/cmdline",
		.is_read_only = true,
		.direct = true,
	};
	struct err err = { 0 };
	struct blk *blk;

	assert_int_equal(blk_open(&blk, &options, &err), -EINVAL);
	assert_non_null(strstr(err.hint, "direct"));
}

/* Run (fn) in a process of its own, for what cannot be undone. */
static int in_child(int (*fn)(const char *path), const char *path)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(fn(path));
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int open_as_nobody(const char *path)
{
	struct blk *blk;
	struct err err;

	if (!getuid() && setuid(65534))
		return 1;
	if (try_open(&blk, path, WRITABLE, &err) != -EACCES)
		return 2;
	if (!strstr(err.what, "Permission denied") ||
	    !strstr(err.hint, "overlay"))
		return 3;
	if (try_open(&blk, path, OVERLAY, &err))
		return 4;
	return 0;
}

static void permission(void **state)
{
	char path[64];

	storm_make_file(path, 4096, 0);
	chmod(path, 0444);
	assert_int_equal(in_child(open_as_nobody, path), 0);
	unlink(path);
}

static void facts_of_a_disk(void **state)
{
	char path[64];
	struct blk *blk;

	storm_make_file(path, 64 * KiB, 0);
	blk = must_open(path, READ_ONLY);
	assert_true(blk_info(blk)->is_read_only);
	assert_int_equal(blk_info(blk)->size, 64 * KiB);
	assert_string_equal(blk_info(blk)->id, strrchr(path, '/') + 1);
	blk_close(blk);
	blk_close(NULL);
	unlink(path);
}

static void read_only_disk_takes_no_write(void **state)
{
	struct blk_queue *queue;
	struct err err = { 0 };
	struct loop *loop;
	uint8_t buf[512];
	struct blk *blk;
	char path[64];

	storm_make_file(path, 64 * KiB, 0);
	blk = must_open(path, READ_ONLY);
	assert_int_equal(loop_create(&loop, "test", &err), 0);
	assert_int_equal(blk_queue_open(&queue, blk, loop, 8, &err), 0);
	assert_int_equal(storm_one(queue, BLK_READ, 0, buf, 512), 0);
	assert_int_equal(storm_one(queue, BLK_WRITE, 0, buf, 512), -EROFS);
	assert_int_equal(storm_one(queue, BLK_DISCARD, 0, NULL, 512), -EROFS);
	assert_int_equal(storm_one(queue, BLK_FLUSH, 0, NULL, 0), 0);
	blk_queue_close(queue);
	blk_close(blk);
	loop_destroy(loop);
	unlink(path);
}

static void a33_one_writer_or_many_readers(void **state)
{
	struct blk *first, *second;
	char path[64];

	storm_make_file(path, 64 * KiB, 0);
	first = must_open(path, WRITABLE);
	assert_refused(path, WRITABLE, EBUSY, "is in use by another machine");
	assert_refused(path, READ_ONLY, EBUSY, "is in use by another machine");
	assert_refused(path, OVERLAY, EBUSY, "is in use by another machine");
	blk_close(first);

	first = must_open(path, READ_ONLY);
	second = must_open(path, OVERLAY);
	assert_refused(path, WRITABLE, EBUSY, "is in use by another machine");
	blk_close(first);
	assert_refused(path, WRITABLE, EBUSY, "is in use by another machine");
	blk_close(second);
	blk_close(must_open(path, WRITABLE));
	unlink(path);
}

static int hold_forever(const char *path)
{
	struct blk *blk;
	struct err err;

	if (try_open(&blk, path, WRITABLE, &err))
		return 1;
	kill(getpid(), SIGSTOP);
	pause();
	return 0;
}

/* The hint names the holder; a holder that is killed holds nothing. */
static void a33_holder_is_named(void **state)
{
	char path[64], pid_text[32];
	struct blk *blk;
	struct err err;
	int status;
	pid_t pid;

	storm_make_file(path, 64 * KiB, 0);
	pid = fork();
	if (!pid)
		_exit(hold_forever(path));
	waitpid(pid, &status, WUNTRACED);
	assert_true(WIFSTOPPED(status));
	assert_int_equal(try_open(&blk, path, WRITABLE, &err), -EBUSY);
	snprintf(pid_text, sizeof(pid_text), "process %d ", (int)pid);
	if (!strstr(err.hint, pid_text))
		fail_msg("hint without %s: %s", pid_text, err.hint);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	blk_close(must_open(path, WRITABLE));
	unlink(path);
}

static void unknown_engine(void **state)
{
	struct blk_options options = { .is_writable = true, .engine = "warp" };
	struct err err = { 0 };
	struct blk *blk;
	char path[64];

	storm_make_file(path, 4096, 0);
	options.path = path;
	assert_int_equal(blk_open(&blk, &options, &err), -EINVAL);
	assert_non_null(strstr(err.what, "'warp'"));
	unlink(path);
}

static int refused_errno;

/* From now on this process has no io_uring, as in many containers. */
static int refuse_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
			 offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | refused_errno),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(filter), filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int use_without_uring(const char *path)
{
	struct blk_options options = {
		.path = path,
		.is_writable = true,
		.engine = "io_uring",
	};
	struct storm storm = {
		.nr_queues = 1,
		.depth = 8,
		.nr_requests = 500,
		.model = malloc(MiB),
	};
	struct err err = { 0 };

	storm_fill(storm.model, MiB, 0);
	if (refuse_uring())
		return 1;
	if (blk_open(&storm.blk, &options, &err) != -refused_errno ||
	    !strstr(err.what, "io_uring"))
		return 2;
	options.engine = "auto";
	memset(&err, 0, sizeof(err));
	if (blk_open(&storm.blk, &options, &err))
		return 3;
	if (strcmp(blk_info(storm.blk)->engine, "threads"))
		return 4;
	storm_run(&storm);
	blk_close(storm.blk);
	free(storm.model);
	return storm.nr_done != 500 || storm.nr_errors || storm.nr_mismatches;
}

static void e9_fallback_to_threads(void **state)
{
	static const int errnums[] = { EPERM, ENOSYS, ENOMEM };

	for (size_t i = 0; i < ARRAY_SIZE(errnums); i++) {
		char path[64];

		storm_make_file(path, MiB, 0);
		refused_errno = errnums[i];
		assert_int_equal(in_child(use_without_uring, path), 0);
		unlink(path);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_say_why),
		cmocka_unit_test(direct_refused_by_file_system),
		cmocka_unit_test(permission),
		cmocka_unit_test(facts_of_a_disk),
		cmocka_unit_test(read_only_disk_takes_no_write),
		cmocka_unit_test(a33_one_writer_or_many_readers),
		cmocka_unit_test(a33_holder_is_named),
		cmocka_unit_test(unknown_engine),
		cmocka_unit_test(e9_fallback_to_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
