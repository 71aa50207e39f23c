/* A host block device as a disk (E12), on a loop device; needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/loop.h>

#include "block/blk.h"
#include "storm.h"

#define SIZE (8 * MiB)

static char image[64], device[32];
static int device_fd = -1;

/* 0 when (device) is a block device with (image) behind it. */
static int attach(void)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), fd, n, r;

	if (control < 0)
		return -1;
	storm_make_file(image, SIZE, 1);
	n = ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	snprintf(device, sizeof(device), "/dev/loop%d", n);
	device_fd = open(device, O_RDWR | O_CLOEXEC);
	fd = open(image, O_RDWR | O_CLOEXEC);
	r = n < 0 || device_fd < 0 || ioctl(device_fd, LOOP_SET_FD, fd);
	close(fd);
	if (r)
		unlink(image);
	return r;
}

static void detach(void)
{
	ioctl(device_fd, LOOP_CLR_FD);
	close(device_fd);
	unlink(image);
}

static void storm_device(const char *engine, bool direct)
{
	struct blk_options options = {
		.path = device,
		.is_writable = true,
		.direct = direct,
		.engine = engine,
	};
	struct storm storm = {
		.nr_queues = 4,
		.depth = 8,
		.nr_requests = 500,
		.model = malloc(SIZE),
	};
	struct err err = { 0 };
	int fd = open(device, O_RDWR);

	storm_fill(storm.model, SIZE, 2);
	assert_int_equal(pwrite(fd, storm.model, SIZE, 0), SIZE);
	fsync(fd);
	close(fd);
	assert_int_equal(blk_open(&storm.blk, &options, &err), 0);
	assert_int_equal(blk_info(storm.blk)->size, SIZE);
	storm_run(&storm);
	blk_close(storm.blk);
	assert_int_equal(storm.nr_done, 2000);
	assert_int_equal(storm.nr_errors, 0);
	assert_int_equal(storm.nr_mismatches, 0);
	free(storm.model);
}

static void e12_storm_io_uring(void **state)
{
	storm_device("io_uring", false);
}

static void e12_storm_threads(void **state)
{
	storm_device("threads", false);
}

static void e12_storm_direct(void **state)
{
	storm_device("io_uring", true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(e12_storm_io_uring),
		cmocka_unit_test(e12_storm_threads),
		cmocka_unit_test(e12_storm_direct),
	};
	int r;

	if (attach()) {
		printf("1..0 # SKIP no loop device\n");
		return 0;
	}
	r = cmocka_run_group_tests(tests, NULL, NULL);
	detach();
	return r;
}
