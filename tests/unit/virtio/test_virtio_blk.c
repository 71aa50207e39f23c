/* virtio-blk behind its PCI function: what it does to a disk, how it survives
 * resets amid requests, what it costs in kicks and interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"
#include "fake_blk.h"
#include "host/loop.h"
#include "state/stream.h"
#include "virtio_driver.h"

#define EVENT_IDX BIT(29)
#define INDIRECT  BIT(28)
#define ALL       (~0ULL)
#define VECTOR    16
#define DISK_SIZE (8 * MiB)
#define SECTOR    512
#define NR_QUEUES 4

struct fixture {
	struct fake_pc pc;
	struct fake_blk *disk;
	struct virtio_blk_options options;
	struct device *dev;
	struct vdrv drv;
	char path[32]; /* of an image file; empty: (disk) */
	uint64_t x;    /* random numbers */
};

/* So many times, and ten times as many in a soak. */
static unsigned times(unsigned n)
{
	return getenv("RINGER_SOAK") ? 10 * n : n;
}

static uint64_t next_random(struct fixture *f)
{
	f->x ^= f->x << 13;
	f->x ^= f->x >> 7;
	f->x ^= f->x << 17;
	return f->x;
}

static void make_device(struct fixture *f)
{
	struct err err = { 0 };

	if (virtio_blk_device.create(&f->dev, &f->pc.env, &f->options, &err))
		fail_msg("%s", err.what);
}

static struct fixture *fixture_create(void)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->x = 88172645463325252ULL;
	fake_pc_init(&f->pc);
	f->options = (struct virtio_blk_options){ .queues = NR_QUEUES,
						  .queue_size = 64,
						  .iothread = true };
	return f;
}

static void fixture_start(struct fixture *f, void **state)
{
	make_device(f);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
	*state = f;
}

static int setup(void **state)
{
	struct fixture *f = fixture_create();

	f->disk = fake_blk_create(DISK_SIZE, false);
	f->options.blk = fake_blk_get(f->disk);
	fixture_start(f, state);
	return 0;
}

static int setup_main_loop(void **state)
{
	struct fixture *f = fixture_create();

	f->disk = fake_blk_create(DISK_SIZE, false);
	f->options.blk = fake_blk_get(f->disk);
	f->options.iothread = false;
	fixture_start(f, state);
	return 0;
}

/* So few entries that all of them are in flight at times. */
static int setup_small(void **state)
{
	struct fixture *f = fixture_create();

	f->disk = fake_blk_create(DISK_SIZE, false);
	f->options.blk = fake_blk_get(f->disk);
	f->options.queue_size = 8;
	fixture_start(f, state);
	return 0;
}

static int setup_read_only(void **state)
{
	struct fixture *f = fixture_create();

	f->disk = fake_blk_create(DISK_SIZE, true);
	f->options.blk = fake_blk_get(f->disk);
	fixture_start(f, state);
	return 0;
}

static int setup_file(void **state)
{
	struct fixture *f = fixture_create();
	int fd;

	strncpy(f->path, "/tmp/ringer-blk-XXXXXX", sizeof(f->path) - 1);
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
	f->options.file = f->path;
	f->options.writable = true;
	fixture_start(f, state);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->dev->cls->destroy(f->dev);
	if (f->disk)
		fake_blk_destroy(f->disk);
	fake_pc_finish(&f->pc);
	if (f->path[0])
		unlink(f->path);
	free(f);
	return 0;
}

/* A request in guest memory: header, data and status in buffers of their own. */
struct request {
	uint64_t header, data, status;
};

static struct request request_alloc(struct vdrv *d, uint32_t max)
{
	struct request r;

	r.header = vdrv_alloc(d, sizeof(struct virtio_blk_outhdr));
	r.data = vdrv_alloc(d, max + 1);
	r.status = vdrv_alloc(d, 1);
	return r;
}

static void set_header(struct vdrv *d, const struct request *r, uint32_t type,
		       uint64_t sector)
{
	const struct virtio_blk_outhdr h = { .type = type, .sector = sector };

	memcpy(vdrv_mem(d, r->header, sizeof(h)), &h, sizeof(h));
	*(uint8_t *)vdrv_mem(d, r->status, 1) = 0xee;
}

static int request_add(struct vdrv_queue *q, const struct request *r,
		       uint32_t type, uint64_t sector, uint32_t len,
		       bool is_indirect)
{
	struct vdrv_buf bufs[3] = { { r->header, 16 } };
	bool is_in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	unsigned n = 1;

	set_header(q->drv, r, type, sector);
	if (len)
		bufs[n++] = (struct vdrv_buf){ r->data, len };
	bufs[n] = (struct vdrv_buf){ r->status, 1 };
	return vdrv_add(q, bufs, is_in ? 1 : n, is_in ? n : 1, is_indirect);
}

static uint8_t status_of(struct vdrv *d, const struct request *r)
{
	return *(uint8_t *)vdrv_mem(d, r->status, 1);
}

/* Do one request on queue (i) and wait for it. */
static uint8_t do_request(struct fixture *f, unsigned i,
			  const struct request *r, uint32_t type,
			  uint64_t sector, uint32_t len)
{
	struct vdrv_queue *q = &f->drv.queue[i];

	assert_true(request_add(q, r, type, sector, len,
				f->drv.features & INDIRECT) >= 0);
	vdrv_kick(q);
	assert_true(vdrv_wait(q, NULL, 5000) >= 0);
	return status_of(&f->drv, r);
}

static uint8_t do_range(struct fixture *f, const struct request *r,
			uint32_t type, uint64_t sector, uint32_t nr,
			uint32_t flags)
{
	const struct virtio_blk_discard_write_zeroes s = { .sector = sector,
							   .num_sectors = nr,
							   .flags = flags };

	memcpy(vdrv_mem(&f->drv, r->data, sizeof(s)), &s, sizeof(s));
	return do_request(f, 0, r, type, 0, sizeof(s));
}

static void configuration_describes_the_disk(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

#define CONFIG(member) offsetof(struct virtio_blk_config, member)
	assert_int_equal(vdrv_config(d, 0, 4), DISK_SIZE / SECTOR);
	assert_int_equal(vdrv_config(d, 4, 4), 0);
	assert_int_equal(vdrv_config(d, CONFIG(seg_max), 4), 62);
	assert_int_equal(vdrv_config(d, CONFIG(blk_size), 4), 512);
	assert_int_equal(vdrv_config(d, CONFIG(num_queues), 2), NR_QUEUES);
	assert_int_equal(vdrv_config(d, CONFIG(wce), 1), 1);
	assert_int_equal(vdrv_config(d, CONFIG(max_discard_seg), 4), 1);
	assert_int_equal(d->nr_queues, NR_QUEUES);
	/* Behind its end there is nothing. */
	assert_int_equal(vdrv_config(d, d->device_len, 4), 0);
	assert_int_equal(vdrv_config(d, 0x800, 4), 0);
}

/* Random operations on all queues, one at a time, against a copy. */
static void e3_operations_match_a_twin(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	uint8_t *twin = calloc(1, DISK_SIZE), *mem;
	bool *is_unknown = calloc(DISK_SIZE / SECTOR, sizeof(bool));
	struct request r;

	assert_non_null(twin);
	assert_non_null(is_unknown);
	assert_true(vdrv_start(d, ALL, 0));
	r = request_alloc(d, 64 * SECTOR);
	mem = vdrv_mem(d, r.data, 64 * SECTOR);
	for (unsigned i = 0; i < 4000; i++) {
		uint32_t nr = 1 + next_random(f) % 64;
		uint64_t sector =
			next_random(f) % (DISK_SIZE / SECTOR - nr + 1);
		uint8_t *at = twin + sector * SECTOR;
		unsigned queue = next_random(f) % NR_QUEUES, type;

		type = next_random(f) % 16;
		if (type < 6) {
			memset(mem, (int)i, nr * SECTOR);
			memcpy(mem, &i, sizeof(i));
			memcpy(at, mem, nr * SECTOR);
			assert_int_equal(do_request(f, queue, &r,
						    VIRTIO_BLK_T_OUT, sector,
						    nr * SECTOR),
					 0);
			memset(is_unknown + sector, false, nr);
		} else if (type < 13) {
			memset(mem, 0xcc, nr * SECTOR);
			assert_int_equal(do_request(f, queue, &r,
						    VIRTIO_BLK_T_IN, sector,
						    nr * SECTOR),
					 0);
			for (unsigned s = 0; s < nr; s++) {
				if (!is_unknown[sector + s])
					assert_memory_equal(mem + s * SECTOR,
							    at + s * SECTOR,
							    SECTOR);
			}
		} else if (type == 13) {
			assert_int_equal(do_request(f, queue, &r,
						    VIRTIO_BLK_T_FLUSH, 0, 0),
					 0);
		} else if (type == 14) {
			assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_DISCARD,
						  sector, nr, 0),
					 0);
			memset(is_unknown + sector, true, nr);
		} else {
			assert_int_equal(
				do_range(f, &r, VIRTIO_BLK_T_WRITE_ZEROES,
					 sector, nr, next_random(f) & 1),
				0);
			memset(at, 0, nr * SECTOR);
			memset(is_unknown + sector, false, nr);
		}
	}
	/* Below, the bytes are where they belong. */
	f->dev->cls->quiesce(f->dev);
	for (uint64_t s = 0; s < DISK_SIZE / SECTOR; s++) {
		uint8_t block[SECTOR];
		int fd;

		if (is_unknown[s])
			continue;
		if (f->disk) {
			memcpy(block, fake_blk_data(f->disk) + s * SECTOR,
			       SECTOR);
		} else {
			fd = open(f->path, O_RDONLY);
			assert_int_equal(pread(fd, block, SECTOR, s * SECTOR),
					 SECTOR);
			close(fd);
		}
		assert_memory_equal(block, twin + s * SECTOR, SECTOR);
	}
	f->dev->cls->resume(f->dev);
	free(twin);
	free(is_unknown);
}

static void e3_get_id(void **state)
{
	struct fixture *f = *state;
	struct request r;

	assert_true(vdrv_start(&f->drv, ALL, 0));
	r = request_alloc(&f->drv, 64);
	assert_int_equal(do_request(f, 1, &r, VIRTIO_BLK_T_GET_ID, 0, 20), 0);
	assert_memory_equal(vdrv_mem(&f->drv, r.data, 20), "disk", 5);
	assert_int_equal(do_request(f, 1, &r, VIRTIO_BLK_T_GET_ID, 0, 19), 1);
	assert_int_equal(do_request(f, 1, &r, VIRTIO_BLK_T_GET_ID, 0, 21), 1);
}

static void e3_bad_requests_are_refused(void **state)
{
	/* clang-format off */
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		uint8_t status;
	} cases[] = {
		{ VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR, 512, 1 },
		{ VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR - 1, 1024, 1 },
		{ VIRTIO_BLK_T_IN, DISK_SIZE / SECTOR - 1, 512, 0 },
		{ VIRTIO_BLK_T_IN, ~0ULL, 512, 1 },
		{ VIRTIO_BLK_T_IN, ~0ULL / 512, 512, 1 },
		{ VIRTIO_BLK_T_IN, ~0ULL / 512 + 1, 512, 1 },
		{ VIRTIO_BLK_T_IN, 1ULL << 55, 512, 1 },
		{ VIRTIO_BLK_T_IN, 0, 511, 1 },
		{ VIRTIO_BLK_T_IN, 0, 513, 1 },
		{ VIRTIO_BLK_T_IN, 0, 1, 1 },
		{ VIRTIO_BLK_T_IN, 0, 0, 0 },
		{ VIRTIO_BLK_T_OUT, DISK_SIZE / SECTOR, 512, 1 },
		{ VIRTIO_BLK_T_OUT, ~0ULL, 512, 1 },
		{ VIRTIO_BLK_T_OUT, 0, 511, 1 },
		{ VIRTIO_BLK_T_OUT, 0, 513, 1 },
		{ VIRTIO_BLK_T_OUT, 0, 0, 0 },
		{ VIRTIO_BLK_T_SCSI_CMD, 0, 512, 2 },
		{ 3, 0, 512, 2 },
		{ 5, 0, 512, 2 },
		{ VIRTIO_BLK_T_SECURE_ERASE, 0, 16, 2 },
		{ VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_BARRIER, 0, 512, 2 },
		{ ~0u, 0, 512, 2 },
		{ VIRTIO_BLK_T_DISCARD, 0, 15, 1 },
		{ VIRTIO_BLK_T_DISCARD, 0, 32, 1 },
		{ VIRTIO_BLK_T_DISCARD, 0, 0, 1 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 17, 1 },
	};
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t nr, flags;
		uint8_t status;
	} ranges[] = {
		{ VIRTIO_BLK_T_DISCARD, 0, 8, 1, 2 },
		{ VIRTIO_BLK_T_DISCARD, 0, 8, 2, 2 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2, 2 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, ~0u, 2 },
		{ VIRTIO_BLK_T_DISCARD, DISK_SIZE / SECTOR, 1, 0, 1 },
		{ VIRTIO_BLK_T_DISCARD, 1, DISK_SIZE / SECTOR, 0, 1 },
		{ VIRTIO_BLK_T_DISCARD, ~0ULL, 2, 0, 1 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, ~0u, 0, 1 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 1ULL << 55, 8, 0, 1 },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, 0, 0 },
	};
	/* clang-format on */
	struct fixture *f = *state;
	struct request r;

	assert_true(vdrv_start(&f->drv, ALL & ~INDIRECT, 0));
	r = request_alloc(&f->drv, 4096);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t status = do_request(f, i % NR_QUEUES, &r, cases[i].type,
					    cases[i].sector, cases[i].len);

		if (status != cases[i].status)
			fail_msg("case %zu: status %u", i, status);
	}
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		uint8_t status =
			do_range(f, &r, ranges[i].type, ranges[i].sector,
				 ranges[i].nr, ranges[i].flags);

		if (status != ranges[i].status)
			fail_msg("range %zu: status %u", i, status);
	}
	for (uint64_t i = 0; i < DISK_SIZE; i++)
		assert_int_equal(fake_blk_data(f->disk)[i], 0);
	assert_int_equal(vdrv_status(&f->drv) & 0x40, 0);
}

static void e3_what_is_not_negotiated_is_not_there(void **state)
{
	struct fixture *f = *state;
	struct request r;

	assert_true(vdrv_start(&f->drv, 0, 0));
	r = request_alloc(&f->drv, 4096);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_FLUSH, 0, 0), 2);
	assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_DISCARD, 0, 8, 0), 2);
	assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
			 2);
}

static void e3_read_only(void **state)
{
	struct fixture *f = *state;
	struct request r;

	assert_true(vdrv_start(&f->drv, ALL, 0));
	assert_true(f->drv.features & BIT(VIRTIO_BLK_F_RO));
	r = request_alloc(&f->drv, 4096);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_OUT, 0, 512), 1);
	assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_DISCARD, 0, 8, 0), 2);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_IN, 0, 512), 0);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_FLUSH, 0, 0), 0);
	/* Also for a driver that did not listen. */
	assert_true(vdrv_start(&f->drv, 0, 0));
	r = request_alloc(&f->drv, 4096);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_OUT, 0, 512), 1);
}

/* The header's and the data's bytes in any split of descriptors, the status
 * behind the data in the same one (2.7.4: no framing may be assumed). */
static void e3_framing_does_not_matter(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_queue *q = &d->queue[0];
	struct request r;
	uint32_t len;

	assert_true(vdrv_start(d, ALL & ~INDIRECT, 0));
	r = request_alloc(d, 1024);
	for (unsigned cut = 1; cut < 16; cut++) {
		/* A write: header in two, with data behind its second part. */
		uint64_t all = vdrv_alloc(d, 16 + 1024);
		struct vdrv_buf out[] = {
			{ all, cut },
			{ all + cut, 16 - cut + 100 },
			{ all + 116, 1024 - 100 },
			{ r.status, 1 },
		};
		struct virtio_blk_outhdr h = { .type = VIRTIO_BLK_T_OUT,
					       .sector = 8 + cut };

		memcpy(vdrv_mem(d, all, 16), &h, 16);
		memset(vdrv_mem(d, all + 16, 1024), 0xa0 + (int)cut, 1024);
		assert_true(vdrv_add(q, out, 3, 1, false) >= 0);
		vdrv_ring(q);
		assert_true(vdrv_wait(q, &len, 2000) >= 0);
		assert_int_equal(len, 1);
		assert_int_equal(status_of(d, &r), 0);

		/* A read: status is the last byte of the data's buffer. */
		set_header(d, &r, VIRTIO_BLK_T_IN, 8 + cut);
		struct vdrv_buf in[] = {
			{ r.header, cut },
			{ r.header + cut, 16 - cut },
			{ r.data, 7 + cut },
			{ r.data + 7 + cut, 1024 - 7 - cut + 1 },
		};

		memset(vdrv_mem(d, r.data, 1025), 0xee, 1025);
		assert_true(vdrv_add(q, in, 2, 2, false) >= 0);
		vdrv_ring(q);
		assert_true(vdrv_wait(q, &len, 2000) >= 0);
		assert_int_equal(len, 1025);
		assert_memory_equal(vdrv_mem(d, r.data, 1024),
				    vdrv_mem(d, all + 16, 1024), 1024);
		assert_int_equal(*(uint8_t *)vdrv_mem(d, r.data + 1024, 1), 0);
	}
}

static unsigned log_length(struct fixture *f)
{
	struct fake_blk_entry e;
	unsigned n = 0;

	while (fake_blk_log(f->disk, n, &e))
		n++;
	return n;
}

/* Is the log from entry (from) on: (op), and with (is_flushed) a flush? */
static void expect_log(struct fixture *f, unsigned from, enum blk_op op,
		       bool is_flushed)
{
	struct fake_blk_entry e;

	assert_true(fake_blk_log(f->disk, from, &e));
	assert_int_equal(e.op, op);
	assert_int_equal(log_length(f), from + (is_flushed ? 2 : 1));
	if (!is_flushed)
		return;
	assert_true(fake_blk_log(f->disk, from + 1, &e));
	assert_int_equal(e.op, BLK_FLUSH);
}

/* Each kind of change, and how durable it must be when it is done. */
static void check_durability(struct fixture *f, bool is_write_through)
{
	struct request r = request_alloc(&f->drv, 4096);
	unsigned n = log_length(f);

	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_OUT, 0, 512), 0);
	expect_log(f, n, BLK_WRITE, is_write_through);
	n = log_length(f);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_IN, 0, 512), 0);
	expect_log(f, n, BLK_READ, false);
	if (!(f->drv.features & BIT(VIRTIO_BLK_F_DISCARD)))
		return;
	n = log_length(f);
	assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_DISCARD, 0, 8, 0), 0);
	expect_log(f, n, BLK_DISCARD, is_write_through);
	n = log_length(f);
	assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 0),
			 0);
	expect_log(f, n, BLK_WRITE_ZEROES, is_write_through);
}

static void set_wce(struct fixture *f, uint8_t wce)
{
	bus_write(f->pc.mmio, 0, f->drv.device + CONFIG(wce), 1, wce);
}

static void writes_are_durable_when_the_driver_counts_on_it(void **state)
{
	const uint64_t flush = BIT(VIRTIO_BLK_F_FLUSH);
	const uint64_t wce = BIT(VIRTIO_BLK_F_CONFIG_WCE);
	struct fixture *f = *state;

	assert_true(vdrv_start(&f->drv, 0, 0));
	check_durability(f, true);
	assert_true(vdrv_start(
		&f->drv,
		BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES), 0));
	check_durability(f, true);
	assert_true(vdrv_start(&f->drv, flush, 0));
	check_durability(f, false);
	assert_true(vdrv_start(&f->drv, ALL, 0));
	check_durability(f, false);
	set_wce(f, 0);
	assert_int_equal(vdrv_config(&f->drv, CONFIG(wce), 1), 0);
	check_durability(f, true);
	set_wce(f, 2); /* no such mode */
	assert_int_equal(vdrv_config(&f->drv, CONFIG(wce), 1), 0);
	set_wce(f, 1);
	check_durability(f, false);
	set_wce(f, 0);
	/* A reset makes it as it was. */
	assert_true(vdrv_start(&f->drv, ALL, 0));
	assert_int_equal(vdrv_config(&f->drv, CONFIG(wce), 1), 1);
	check_durability(f, false);
	/* Only one that may change it can. */
	assert_true(vdrv_start(&f->drv, ALL & ~wce, 0));
	set_wce(f, 0);
	check_durability(f, false);
	/* Nothing else in configuration space can be written. */
	for (unsigned at = 0; at < 0x100; at++) {
		if (at != CONFIG(wce))
			bus_write(f->pc.mmio, 0, f->drv.device + at, 1, 0x55);
	}
	configuration_describes_the_disk(state);
}

static void failures_reach_the_guest(void **state)
{
	struct fixture *f = *state;
	struct request r;

	assert_true(vdrv_start(&f->drv, ALL, 0));
	r = request_alloc(&f->drv, 4096);
	fake_blk_fail(f->disk, BLK_WRITE, -ENOSPC);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_OUT, 0, 512), 1);
	fake_blk_fail(f->disk, BLK_WRITE, 0);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_OUT, 0, 512), 0);
	fake_blk_fail(f->disk, BLK_DISCARD, -ENOTSUP);
	assert_int_equal(do_range(f, &r, VIRTIO_BLK_T_DISCARD, 0, 8, 0), 2);
	/* A write whose flush fails is not done; nor is any flush after it. */
	set_wce(f, 0);
	fake_blk_fail(f->disk, BLK_FLUSH, -EIO);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_OUT, 0, 512), 1);
	fake_blk_fail(f->disk, BLK_FLUSH, 0);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_FLUSH, 0, 0), 1);
}

/* Many in flight on all queues, the driver asleep between interrupts. */

#define SLOTS        32
#define SLOT_SECTORS 16

struct slot {
	struct request r;
	uint64_t sector;
	uint32_t type, nr;
	bool is_busy;
	uint8_t fill;    /* what the disk has there, in all sectors */
	unsigned filled; /* so many sectors of it */
};

struct traffic {
	struct fixture *f;
	struct slot slot[NR_QUEUES][SLOTS];
	struct slot *by_head[NR_QUEUES][VDRV_MAX_SIZE];
	unsigned busy[NR_QUEUES];
	uint64_t nr_done;
};

static void traffic_init(struct traffic *t, struct fixture *f)
{
	memset(t, 0, sizeof(*t));
	t->f = f;
	for (unsigned q = 0; q < NR_QUEUES; q++) {
		for (unsigned i = 0; i < SLOTS; i++) {
			struct slot *s = &t->slot[q][i];

			s->r = request_alloc(&f->drv, SLOT_SECTORS * SECTOR);
			s->sector = (q * SLOTS + i) * SLOT_SECTORS;
		}
	}
}

static void traffic_fill(struct traffic *t, unsigned q)
{
	struct fixture *f = t->f;
	struct vdrv *d = &f->drv;
	unsigned want = (unsigned)(next_random(f) % SLOTS);
	bool is_indirect = d->features & INDIRECT && next_random(f) & 1;

	for (unsigned i = 0; i < SLOTS && t->busy[q] <= want; i++) {
		struct slot *s = &t->slot[q][i];
		int head;

		if (s->is_busy)
			continue;
		if (d->queue[q].nr_free < (is_indirect ? 1 : 3))
			break;
		s->nr = 1 + (unsigned)(next_random(f) % SLOT_SECTORS);
		s->type =
			next_random(f) & 1 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
		if (s->type == VIRTIO_BLK_T_OUT) {
			s->fill = (uint8_t)next_random(f);
			s->filled = s->nr;
			memset(vdrv_mem(d, s->r.data, s->nr * SECTOR), s->fill,
			       s->nr * SECTOR);
		} else if (s->filled) {
			s->nr = MIN(s->nr, s->filled);
		}
		head = request_add(&d->queue[q], &s->r, s->type, s->sector,
				   s->nr * SECTOR, is_indirect);
		assert_true(head >= 0);
		s->is_busy = true;
		t->by_head[q][head] = s;
		t->busy[q]++;
	}
	vdrv_kick(&d->queue[q]);
}

static void check_slot(struct traffic *t, struct slot *s, uint32_t len)
{
	struct vdrv *d = &t->f->drv;
	const uint8_t *mem = vdrv_mem(d, s->r.data, s->nr * SECTOR);

	assert_int_equal(status_of(d, &s->r), 0);
	if (s->type == VIRTIO_BLK_T_OUT) {
		assert_int_equal(len, 1);
		return;
	}
	assert_int_equal(len, s->nr * SECTOR + 1);
	for (unsigned i = 0; s->filled && i < s->nr * SECTOR; i += 61)
		assert_int_equal(mem[i], s->fill);
}

static unsigned traffic_reap(struct traffic *t, unsigned q)
{
	struct vdrv_queue *vq = &t->f->drv.queue[q];
	unsigned n = 0;
	uint32_t len;
	int head;

	while ((head = vdrv_take(vq, &len)) >= 0) {
		struct slot *s = t->by_head[q][head];

		assert_non_null(s);
		t->by_head[q][head] = NULL;
		check_slot(t, s, len);
		s->is_busy = false;
		t->busy[q]--;
		n++;
	}
	t->nr_done += n;
	return n;
}

/* Sleep until queue (q) interrupts; a completion without is a lost one. */
static void traffic_sleep(struct traffic *t, unsigned q)
{
	struct vdrv_queue *vq = &t->f->drv.queue[q];

	while (t->busy[q]) {
		if (!vdrv_want_interrupt(vq, true) &&
		    !fake_pc_msi_wait(&t->f->pc, VECTOR + 1 + q, 5000))
			fail_msg("queue %u: %u requests in flight, no "
				 "interrupt in 5 s; used: %d",
				 q, t->busy[q], vdrv_take(vq, NULL));
		vdrv_want_interrupt(vq, false);
		if (traffic_reap(t, q))
			return;
	}
}

static void run_traffic(struct fixture *f, uint64_t features, uint64_t nr)
{
	struct traffic *t = malloc(sizeof(*t));
	struct vdrv *d = &f->drv;
	uint64_t kicks = 0, saved = 0, interrupts = 0;
	int64_t start = vdrv_now_ms();

	assert_non_null(t);
	assert_true(vdrv_start(d, features, 0));
	traffic_init(t, f);
	for (unsigned q = 0; q < NR_QUEUES; q++)
		interrupts -= fake_pc_msi_count(&f->pc, VECTOR + 1 + q);
	while (t->nr_done < nr) {
		unsigned q = next_random(f) % NR_QUEUES;

		traffic_fill(t, q);
		if (next_random(f) % 4 == 0)
			traffic_sleep(t, q);
		else
			traffic_reap(t, q);
	}
	for (unsigned q = 0; q < NR_QUEUES; q++) {
		while (t->busy[q])
			traffic_sleep(t, q);
		kicks += d->queue[q].nr_kicks;
		saved += d->queue[q].nr_saved_kicks;
		interrupts += fake_pc_msi_count(&f->pc, VECTOR + 1 + q);
	}
	print_message("# %llu requests in %lld ms: %llu kicks (%llu saved), "
		      "%llu interrupts\n",
		      (unsigned long long)t->nr_done,
		      (long long)(vdrv_now_ms() - start),
		      (unsigned long long)kicks, (unsigned long long)saved,
		      (unsigned long long)interrupts);
	if (features & EVENT_IDX) {
		assert_true(kicks < t->nr_done);
		assert_true(interrupts < t->nr_done);
	}
	free(t);
}

static void e10_no_completion_is_lost(void **state)
{
	struct fixture *f = *state;

	run_traffic(f, ALL, times(100000));
	run_traffic(f, ALL & ~EVENT_IDX & ~INDIRECT, 10000);
	fake_blk_delay(f->disk, 100);
	run_traffic(f, ALL, 2000);
}

struct wakeups {
	struct loop *loop;
	uint64_t nr;
};

static void read_wakeups(void *opaque)
{
	struct wakeups *w = opaque;

	w->nr = loop_stats(w->loop)->wakeups;
}

static uint64_t main_wakeups(struct fixture *f)
{
	struct wakeups w = { .loop = f->pc.loop };

	loop_call(w.loop, read_wakeups, &w);
	return w.nr;
}

static void c20_main_loop_sleeps_through_requests(void **state)
{
	struct fixture *f = *state;
	uint64_t before;

	assert_true(vdrv_start(&f->drv, ALL, 0));
	before = main_wakeups(f);
	run_traffic(f, ALL, 2000);
	/* Asking wakes it. */
	assert_true(main_wakeups(f) - before <= 2);
}

static void e10_full_queues(void **state)
{
	struct fixture *f = *state;

	fake_blk_delay(f->disk, 20);
	run_traffic(f, ALL, 5000);
	run_traffic(f, INDIRECT, 5000);
}

static void c13_event_index_saves_kicks(void **state)
{
	struct fixture *f = *state;
	struct vdrv_queue *q = &f->drv.queue[0];
	struct request r[32];

	/* The disk answers slowly, so that a queue of requests forms. */
	fake_blk_delay(f->disk, 200);
	assert_true(vdrv_start(&f->drv, EVENT_IDX, 0));
	for (unsigned i = 0; i < 16; i++)
		r[i] = request_alloc(&f->drv, 512);
	for (unsigned n = 0; n < 50; n++) {
		for (unsigned i = 0; i < 16; i++)
			assert_true(request_add(q, &r[i], VIRTIO_BLK_T_IN, i,
						512, false) >= 0);
		vdrv_kick(q);
		for (unsigned i = 0; i < 16; i++)
			assert_true(vdrv_wait(q, NULL, 2000) >= 0);
	}
	assert_true(q->nr_kicks <= 50);
}

/* Lifetimes. */

static void reset_waits_for_what_is_in_flight(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_queue *q = &d->queue[0];
	struct request r[8];
	int64_t end;

	assert_true(vdrv_start(d, ALL, 0));
	memset(fake_blk_data(f->disk), 0x77, 1 << 20);
	fake_blk_hold(f->disk, true);
	for (unsigned i = 0; i < 8; i++) {
		r[i] = request_alloc(d, 4096);
		request_add(q, &r[i], VIRTIO_BLK_T_IN, i * 8, 4096, false);
	}
	vdrv_ring(q);
	end = vdrv_now_ms() + 2000;
	while (fake_blk_waiting(f->disk) < 8)
		assert_true(vdrv_now_ms() < end);
	vdrv_write(d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	/* Not before they came home; and nothing else is taken. */
	assert_int_not_equal(vdrv_status(d), 0);
	vdrv_write(d, VIRTIO_PCI_COMMON_STATUS, 1, 1);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	vdrv_write(d, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_not_equal(vdrv_status(d), 0);
	fake_blk_hold(f->disk, false);
	while (vdrv_status(d))
		assert_true(vdrv_now_ms() < end);
	/* The driver was told of none, and its memory is its own again. */
	assert_int_equal(vdrv_take(q, NULL), -1);
	for (unsigned i = 0; i < 8; i++)
		memset(vdrv_mem(d, r[i].data, 4096), 0x11, 4096);
	assert_true(vdrv_start(d, ALL, 0));
	r[0] = request_alloc(d, 4096);
	assert_int_equal(do_request(f, 0, &r[0], VIRTIO_BLK_T_IN, 0, 512), 0);
}

static void start_some(struct fixture *f, unsigned queue)
{
	struct vdrv_queue *q = &f->drv.queue[queue];
	unsigned nr = (unsigned)(next_random(f) % 12);

	for (unsigned i = 0; i < nr; i++) {
		struct request r = request_alloc(&f->drv, 4096);
		uint32_t type =
			next_random(f) & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;

		request_add(q, &r, type, next_random(f) % 1000, 4096,
			    next_random(f) & 1);
	}
	if (f->drv.features & EVENT_IDX)
		vdrv_ring(q);
	else
		vdrv_kick(q);
}

static void destroy_and_make(struct fixture *f)
{
	f->dev->cls->destroy(f->dev);
	make_device(f);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
}

static void machine_reset(struct fixture *f)
{
	f->dev->cls->reset(f->dev);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
}

static void move_to_another(struct fixture *f)
{
	struct stream s, l;

	f->dev->cls->quiesce(f->dev);
	stream_init_save(&s);
	f->dev->cls->state(f->dev, &s);
	assert_int_equal(stream_error(&s), 0);
	f->dev->cls->destroy(f->dev);
	make_device(f);
	stream_init_load(&l, s.data, s.len);
	f->dev->cls->state(f->dev, &l);
	assert_int_equal(stream_error(&l), 0);
	stream_finish(&l);
	stream_finish(&s);
	f->dev->cls->resume(f->dev);
}

/* All ways to end or interrupt a life, amid requests that take their time. */
static void lifetime_storm(void **state)
{
	struct fixture *f = *state;
	struct request r;

	fake_blk_delay(f->disk, 300);
	for (unsigned n = 0; n < times(1000); n++) {
		uint64_t features = next_random(f) & 1 ? ALL : ALL & ~EVENT_IDX;

		assert_true(vdrv_start(&f->drv, features, 0));
		for (unsigned q = 0; q < NR_QUEUES; q++)
			start_some(f, q);
		switch (next_random(f) % 8) {
		case 0:
			destroy_and_make(f);
			break;
		case 1:
			machine_reset(f);
			break;
		case 2:
			move_to_another(f);
			start_some(f, 0);
			break;
		case 3:
			f->dev->cls->quiesce(f->dev);
			start_some(f, 0);
			f->dev->cls->resume(f->dev);
			start_some(f, 1);
			break;
		case 4: /* broken, with requests in flight */
			vdrv_offer(&f->drv.queue[0], 0xffff);
			vdrv_publish(&f->drv.queue[0]);
			vdrv_ring(&f->drv.queue[0]);
			break;
		default:
			assert_true(vdrv_reset(&f->drv));
		}
	}
	assert_true(vdrv_start(&f->drv, ALL, 0));
	r = request_alloc(&f->drv, 4096);
	assert_int_equal(do_request(f, 0, &r, VIRTIO_BLK_T_IN, 0, 512), 0);
}

static void state_goes_on_amid_traffic(void **state)
{
	struct fixture *f = *state;
	struct traffic *t = malloc(sizeof(*t));
	struct vdrv *d = &f->drv;

	assert_non_null(t);
	fake_blk_delay(f->disk, 50);
	assert_true(vdrv_start(d, ALL, 0));
	set_wce(f, 0);
	traffic_init(t, f);
	for (unsigned n = 0; n < 200; n++) {
		for (unsigned q = 0; q < NR_QUEUES; q++)
			traffic_fill(t, q);
		move_to_another(f);
		for (unsigned q = 0; q < NR_QUEUES; q++) {
			if (n % 3 == 0)
				traffic_sleep(t, q);
			else
				traffic_reap(t, q);
		}
	}
	for (unsigned q = 0; q < NR_QUEUES; q++) {
		while (t->busy[q])
			traffic_sleep(t, q);
	}
	assert_int_equal(vdrv_config(d, CONFIG(wce), 1), 0);
	free(t);
}

static void options_are_checked(void **state)
{
	static const struct {
		const char *text, *what;
	} bad[] = {
		{ "", "needs a disk" },
		{ "file=/nonexistent/disk", "/nonexistent/disk" },
		{ "queue-size=100", "queue-size" },
		{ "queue-size=2", "queue-size" },
		{ "queues=99", "queues" },
		{ "engine=fast", "engine" },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct virtio_blk_options o = { 0 };
		struct err err = { 0 };
		struct device *dev;
		int ret;

		assert_int_equal(opt_defaults(virtio_blk_device.opts, &o, &err),
				 0);
		ret = opt_parse(virtio_blk_device.opts, "virtio-blk",
				bad[i].text, &o, &err);
		if (!ret)
			ret = virtio_blk_device.create(&dev, &f->pc.env, &o,
						       &err);
		assert_true(ret < 0);
		if (!strstr(err.what, bad[i].what))
			fail_msg("%s: %s", bad[i].text, err.what);
		opt_free(virtio_blk_device.opts, &o);
	}
}

int main(void)
{
#define T(fn)     cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define T2(fn, s) cmocka_unit_test_setup_teardown(fn, s, teardown)
	const struct CMUnitTest tests[] = {
		T(configuration_describes_the_disk),
		T(e3_operations_match_a_twin),
		T2(e3_operations_match_a_twin, setup_file),
		T(e3_get_id),
		T(e3_bad_requests_are_refused),
		T(e3_what_is_not_negotiated_is_not_there),
		T2(e3_read_only, setup_read_only),
		T(e3_framing_does_not_matter),
		T(writes_are_durable_when_the_driver_counts_on_it),
		T(failures_reach_the_guest),
		T(e10_no_completion_is_lost),
		T2(e10_full_queues, setup_small),
		T(c20_main_loop_sleeps_through_requests),
		T(c13_event_index_saves_kicks),
		T(reset_waits_for_what_is_in_flight),
		T(lifetime_storm),
		T2(lifetime_storm, setup_main_loop),
		T(state_goes_on_amid_traffic),
		T(options_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
