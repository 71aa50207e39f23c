/* The private overlay: it takes every write, and the image keeps its bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/blk.h"
#include "host/loop.h"
#include "storm.h"

/* Regions of 16 MiB have flags of their own: some whole ones and a rest. */
#define SIZE (50 * MiB)

struct fixture {
	char path[64];
	uint8_t *image;
	struct stat st;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	storm_make_file(f->path, SIZE, 1);
	f->image = malloc(SIZE);
	storm_fill(f->image, SIZE, 1);
	stat(f->path, &f->st);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	free(f->image);
	free(f);
	return 0;
}

static struct blk *open_overlay(const struct fixture *f, const char *engine)
{
	struct blk_options options = { .path = f->path, .engine = engine };
	struct err err = { 0 };
	struct blk *blk;

	assert_int_equal(blk_open(&blk, &options, &err), 0);
	assert_false(blk_info(blk)->is_read_only);
	assert_int_equal(blk_info(blk)->size, SIZE);
	assert_string_equal(blk_info(blk)->format, "raw");
	return blk;
}

static void assert_disk_is(struct blk *blk, const uint8_t *model)
{
	uint8_t *buf = malloc(SIZE);
	struct blk_queue *queue;
	struct err err = { 0 };
	struct loop *loop;

	assert_int_equal(loop_create(&loop, "test", &err), 0);
	assert_int_equal(blk_queue_open(&queue, blk, loop, 8, &err), 0);
	assert_int_equal(storm_one(queue, BLK_READ, 0, buf, SIZE), 0);
	assert_int_equal(memcmp(buf, model, SIZE), 0);
	blk_queue_close(queue);
	loop_destroy(loop);
	free(buf);
}

static void assert_image_is_unchanged(const struct fixture *f)
{
	struct stat st;
	uint8_t *buf = malloc(SIZE);
	FILE *file = fopen(f->path, "r");

	assert_int_equal(fread(buf, 1, SIZE, file), SIZE);
	assert_int_equal(memcmp(buf, f->image, SIZE), 0);
	fclose(file);
	free(buf);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mtim.tv_sec, f->st.st_mtim.tv_sec);
	assert_int_equal(st.st_mtim.tv_nsec, f->st.st_mtim.tv_nsec);
}

static void storm_overlay(struct fixture *f, const char *engine)
{
	struct storm storm = {
		.nr_queues = 4,
		.depth = 16,
		.nr_requests = 15000,
		.seed = 7,
		.model = malloc(SIZE),
	};

	memcpy(storm.model, f->image, SIZE);
	storm.blk = open_overlay(f, engine);
	storm_run(&storm);
	assert_int_equal(storm.nr_done, 60000);
	assert_int_equal(storm.nr_errors, 0);
	assert_int_equal(storm.nr_mismatches, 0);
	assert_int_equal(storm.nr_twice, 0);
	/* One read of many thousand runs */
	assert_disk_is(storm.blk, storm.model);
	blk_close(storm.blk);
	assert_image_is_unchanged(f);
	free(storm.model);
}

static void overlay_storm_io_uring(void **state)
{
	storm_overlay(*state, "io_uring");
}

static void overlay_storm_threads(void **state)
{
	storm_overlay(*state, "threads");
}

static void overlay_is_thrown_away(void **state)
{
	struct fixture *f = *state;
	struct blk *blk = open_overlay(f, "auto");
	struct storm storm = {
		.blk = blk,
		.nr_queues = 1,
		.depth = 4,
		.nr_requests = 200,
		.model = malloc(SIZE),
	};

	memcpy(storm.model, f->image, SIZE);
	storm_run(&storm);
	blk_close(blk);
	blk = open_overlay(f, "auto");
	assert_disk_is(blk, f->image);
	blk_close(blk);
	free(storm.model);
}

/* Clear ranges that cut regions, cover them, and end the disk. */
static void overlay_clears_regions(void **state)
{
	static const struct {
		uint64_t offset, len;
		enum blk_op op;
	} clears[] = {
		{ 512, 512, BLK_DISCARD },
		{ 16 * MiB - 512, 16 * MiB + 1024, BLK_DISCARD },
		{ 40 * MiB, 10 * MiB, BLK_WRITE_ZEROES },
		{ 0, SIZE, BLK_DISCARD },
	};
	struct fixture *f = *state;
	struct blk *blk = open_overlay(f, "auto");
	uint8_t *model = malloc(SIZE), sector[512];
	struct blk_queue *queue;
	struct err err = { 0 };
	struct loop *loop;

	memcpy(model, f->image, SIZE);
	assert_int_equal(loop_create(&loop, "test", &err), 0);
	assert_int_equal(blk_queue_open(&queue, blk, loop, 8, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(clears); i++) {
		assert_int_equal(storm_one(queue, clears[i].op,
					   clears[i].offset, NULL,
					   clears[i].len),
				 0);
		memset(model + clears[i].offset, 0, clears[i].len);
		assert_disk_is(blk, model);
		/* and writing into what was cleared */
		storm_fill(sector, 512, i);
		assert_int_equal(storm_one(queue, BLK_WRITE, clears[i].offset,
					   sector, 512),
				 0);
		memcpy(model + clears[i].offset, sector, 512);
		assert_disk_is(blk, model);
	}
	assert_int_equal(storm_one(queue, BLK_FLUSH, 0, NULL, 0), 0);
	blk_queue_close(queue);
	blk_close(blk);
	loop_destroy(loop);
	assert_image_is_unchanged(f);
	free(model);
}

/* Without a place on disk the writes are kept in memory. */
static void overlay_in_memory(void **state)
{
	struct fixture *f = *state;
	struct storm storm = {
		.nr_queues = 2,
		.depth = 8,
		.nr_requests = 1000,
		.model = malloc(SIZE),
	};

	setenv("TMPDIR", "/nonexistent", 1);
	storm.blk = open_overlay(f, "auto");
	unsetenv("TMPDIR");
	memcpy(storm.model, f->image, SIZE);
	storm_run(&storm);
	assert_int_equal(storm.nr_mismatches + storm.nr_errors, 0);
	assert_disk_is(storm.blk, storm.model);
	blk_close(storm.blk);
	free(storm.model);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(overlay_storm_io_uring, setup,
						teardown),
		cmocka_unit_test_setup_teardown(overlay_storm_threads, setup,
						teardown),
		cmocka_unit_test_setup_teardown(overlay_is_thrown_away, setup,
						teardown),
		cmocka_unit_test_setup_teardown(overlay_clears_regions, setup,
						teardown),
		cmocka_unit_test_setup_teardown(overlay_in_memory, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
