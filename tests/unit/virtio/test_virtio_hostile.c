/*
 * A driver that means harm, against every device: each case ends in
 * DEVICE_NEEDS_RESET within 100 ms or does nothing at all, and after a reset
 * the device works.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"
#include "fake_blk.h"
#include "host/loop.h"
#include "virtio_driver.h"

#define ALL      (~0ULL)
#define VECTOR   4
#define NEXT     1
#define WRITE    2
#define INDIR    4
#define HOLE     (1 * GiB)
#define LIMIT_MS 100
/* A busy host may stop us in between: so often it is forgiven. */
#define MAX_SLOW 2

/* What a racing driver writes while the device copies is its own problem. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "race:vring_read\nrace:vring_write\nrace:table_fetch\n"
	       "race:chr_write\nrace:fake_blk.c\nrace:fifo_put\n";
}

enum kind { BLK, CONSOLE_TX, CONSOLE_RX, RNG };

struct fixture {
	enum kind kind;
	struct fake_pc pc;
	struct fake_blk *disk;
	struct device *dev;
	struct vdrv drv;
	struct vdrv_queue *q; /* the one under attack */
	uint64_t buf;         /* a page of memory */
	char dir[32], path[48];
	int fd;
	unsigned nr_slow; /* what took longer than LIMIT_MS */
};

static void add_blk(struct fixture *f)
{
	struct virtio_blk_options o = { .queues = 2,
					.queue_size = 64,
					.iothread = true };
	int ret;

	f->disk = fake_blk_create(1 * MiB, false);
	o.blk = fake_blk_get(f->disk);
	ret = virtio_blk_device.create(&f->dev, &f->pc.env, &o, NULL);
	assert_int_equal(ret, 0);
}

static void add_console(struct fixture *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char options[64];

	strncpy(f->dir, "/tmp/ringer-bad-XXXXXX", sizeof(f->dir) - 1);
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	snprintf(options, sizeof(options), "chardev=unix:%s", f->path);
	f->dev = fake_pc_add(&f->pc, &virtio_console_device, options);
	strncpy(addr.sun_path, f->path, sizeof(addr.sun_path) - 1);
	f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(f->fd >= 0);
	assert_int_equal(connect(f->fd, (void *)&addr, sizeof(addr)), 0);
}

static struct fixture *fixture_create(enum kind kind)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->kind = kind;
	f->fd = -1;
	fake_pc_init(&f->pc);
	if (kind == BLK)
		add_blk(f);
	else if (kind == RNG)
		f->dev = fake_pc_add(&f->pc, &virtio_rng_device, NULL);
	else
		add_console(f);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
	f->q = &f->drv.queue[kind == CONSOLE_TX ? 1 : 0];
	return f;
}

static void fixture_destroy(struct fixture *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->dev->cls->destroy(f->dev);
	if (f->disk)
		fake_blk_destroy(f->disk);
	fake_pc_finish(&f->pc);
	if (f->dir[0]) {
		unlink(f->path);
		rmdir(f->dir);
	}
	free(f);
}

#define KIND(name, kind)                       \
	static int setup_##name(void **state)  \
	{                                      \
		*state = fixture_create(kind); \
		return 0;                      \
	}
KIND(blk, BLK)
KIND(console_tx, CONSOLE_TX)
KIND(console_rx, CONSOLE_RX)
KIND(rng, RNG)

static int teardown(void **state)
{
	fixture_destroy(*state);
	return 0;
}

static void start(struct fixture *f)
{
	assert_true(vdrv_start(&f->drv, ALL, 0));
	f->buf = vdrv_alloc(&f->drv, PAGE_SIZE);
}

/* The peer's side: swallow what came, send a byte where the queue waits. */
static void poke_peer(struct fixture *f)
{
	char buf[4096];

	if (f->fd < 0)
		return;
	while (recv(f->fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		continue;
	if (f->kind == CONSOLE_RX)
		(void)!send(f->fd, "x", 1, MSG_DONTWAIT);
}

/* After all that: a new life, in which one request works. */
static void check_usable(struct fixture *f)
{
	struct vdrv *d = &f->drv;
	struct vdrv_buf bufs[3];
	unsigned nr_out = 0, nr_in = 1;

	start(f);
	bufs[0] = (struct vdrv_buf){ f->buf, 16 };
	if (f->kind == BLK) {
		memset(vdrv_mem(d, f->buf, 16), 0, 16);
		bufs[1] = (struct vdrv_buf){ f->buf + 16, 513 };
		nr_out = 1;
	} else if (f->kind == CONSOLE_TX) {
		nr_out = 1;
		nr_in = 0;
	}
	assert_true(vdrv_add(f->q, bufs, nr_out, nr_in, false) >= 0);
	vdrv_ring(f->q);
	poke_peer(f);
	assert_true(vdrv_wait(f->q, NULL, 2000) >= 0);
	assert_false(vdrv_status(d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	if (f->kind == BLK)
		assert_int_equal(*(uint8_t *)vdrv_mem(d, f->buf + 528, 1), 0);
}

/* The cases. Each leaves something for the device to find when it is kicked,
 * or writes registers by itself. */

static void offer(struct fixture *f, uint16_t head)
{
	vdrv_offer(f->q, head);
	vdrv_publish(f->q);
}

/* One buffer of a kind that the queue could take, but for its address. */
static void offer_buffer(struct fixture *f, uint64_t gpa, uint32_t len)
{
	bool is_in = f->kind == CONSOLE_RX || f->kind == RNG;

	if (f->kind == BLK) {
		memset(vdrv_mem(&f->drv, f->buf, 16), 0, 16);
		vdrv_desc(f->q, 0, f->buf, 16, NEXT, 1);
		vdrv_desc(f->q, 1, gpa, len, WRITE | NEXT, 2);
		vdrv_desc(f->q, 2, f->buf + 32, 1, WRITE, 0);
	} else {
		vdrv_desc(f->q, 0, gpa, len, is_in ? WRITE : 0, 0);
	}
	offer(f, 0);
}

#define BUFFER_CASE(name, gpa, len)         \
	static void name(struct fixture *f) \
	{                                   \
		offer_buffer(f, gpa, len);  \
	}

BUFFER_CASE(buffer_in_hole, HOLE, 512)
BUFFER_CASE(buffer_in_own_bar, f->drv.common, 512)
BUFFER_CASE(buffer_in_own_doorbells, f->drv.notify, 512)
BUFFER_CASE(buffer_in_local_apic, 0xfee00000, 512)
BUFFER_CASE(buffer_in_ioapic, 0xfec00000, 512)
BUFFER_CASE(buffer_in_ecam, FAKE_PC_ECAM, 512)
BUFFER_CASE(buffer_ends_in_hole, FAKE_PC_RAM_SIZE + 1 * MiB - 256, 512)
BUFFER_CASE(buffer_starts_in_hole, 4 * GiB - 256, 512)
BUFFER_CASE(buffer_is_all_of_4g, 0, ~0u)
BUFFER_CASE(buffer_at_2_63, 1ULL << 63, 512)
BUFFER_CASE(buffer_at_2_52, 1ULL << 52, 512)
BUFFER_CASE(buffer_wraps, ~0ULL - 255, 512)
BUFFER_CASE(buffer_ends_at_2_64, ~0ULL - 511, 512)
BUFFER_CASE(buffer_wraps_into_ram, ~0ULL - 4095, 8192)
BUFFER_CASE(buffer_last_byte, ~0ULL, 1)
BUFFER_CASE(buffer_in_two_regions, FAKE_PC_RAM_SIZE - 256, 512)
BUFFER_CASE(buffer_is_the_table, f->q->desc, 512)
BUFFER_CASE(buffer_is_the_available_ring, f->q->avail, 512)
BUFFER_CASE(buffer_is_the_used_ring, f->q->used, 512)

static void write_to_rom(struct fixture *f)
{
	vdrv_desc(f->q, 0, FAKE_PC_ROM, 16, WRITE, 0);
	offer(f, 0);
}

static void loop_of_one(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 1, NEXT, 0);
	offer(f, 0);
}

static void loop_of_two(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 1, NEXT, 1);
	vdrv_desc(f->q, 1, f->buf, 1, NEXT, 0);
	offer(f, 0);
}

static void loop_of_nothing(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 0, NEXT, 0);
	offer(f, 0);
}

static void loop_into_the_middle(struct fixture *f)
{
	for (unsigned i = 0; i < f->q->size; i++)
		vdrv_desc(f->q, i, f->buf, 1, NEXT, i + 1);
	vdrv_desc(f->q, f->q->size - 1, f->buf, 1, NEXT, 7);
	offer(f, 0);
}

static void loop_of_writables(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 1, WRITE | NEXT, 1);
	vdrv_desc(f->q, 1, f->buf, 1, WRITE | NEXT, 0);
	offer(f, 0);
}

static void head_is_size(struct fixture *f)
{
	offer(f, f->q->size);
}

static void head_is_65535(struct fixture *f)
{
	offer(f, 0xffff);
}

static void next_is_size(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 16, NEXT, f->q->size);
	offer(f, 0);
}

static void next_is_65535(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 16, NEXT, 0xffff);
	offer(f, 0);
}

static void readable_behind_writable(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 16, WRITE | NEXT, 1);
	vdrv_desc(f->q, 1, f->buf, 16, 0, 0);
	offer(f, 0);
}

#define INDEX_CASE(name, delta)                       \
	static void name(struct fixture *f)           \
	{                                             \
		f->q->avail_idx += (uint16_t)(delta); \
		vdrv_publish(f->q);                   \
	}

INDEX_CASE(index_jumps_by_size_plus_one, f->q->size + 1)
INDEX_CASE(index_jumps_by_32768, 32768)
INDEX_CASE(index_jumps_by_65535, 65535)
INDEX_CASE(index_goes_back, -2)

/* A whole ring of the same head: more than can be in flight by descriptors. */
static void same_head_everywhere(struct fixture *f)
{
	offer_buffer(f, f->buf + 64, 512);
	for (unsigned i = 1; i < f->q->size; i++)
		vdrv_offer(f->q, 0);
	vdrv_publish(f->q);
}

static void empty_chain(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 0, 0, 0);
	offer(f, 0);
}

static void empty_writable_chain(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 0, WRITE, 0);
	offer(f, 0);
}

static void wrong_direction(struct fixture *f)
{
	bool is_in = f->kind == CONSOLE_RX || f->kind == RNG;

	vdrv_desc(f->q, 0, f->buf, 64, is_in ? 0 : WRITE, 0);
	offer(f, 0);
}

static void all_flags_set(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 64, 0xffff, 0);
	offer(f, 0);
}

static void unknown_flags(struct fixture *f)
{
	vdrv_desc(f->q, 0, f->buf, 64, 0xfff8, 0);
	offer(f, 0);
}

/* Many pieces: as long as the queue, or longer than the device takes. */
static void longest_chain(struct fixture *f)
{
	for (unsigned i = 0; i < f->q->size; i++)
		vdrv_desc(f->q, i, f->buf, 1, i + 1 < f->q->size ? NEXT : 0,
			  i + 1);
	offer(f, 0);
}

static void indirect(struct fixture *f, uint64_t table, uint32_t len,
		     uint16_t flags)
{
	vdrv_desc(f->q, 0, table, len, INDIR | flags, 1);
	offer(f, 0);
}

static void indirect_nested(struct fixture *f)
{
	vdrv_desc_at(&f->drv, f->q->indirect, 0, f->q->indirect, 16, INDIR, 0);
	indirect(f, f->q->indirect, 16, 0);
}

static void indirect_is_the_ring(struct fixture *f)
{
	indirect(f, f->q->desc, 16, 0);
}

static void indirect_and_next(struct fixture *f)
{
	indirect(f, f->q->indirect, 16, NEXT);
}

static void indirect_of_nothing(struct fixture *f)
{
	indirect(f, f->q->indirect, 0, 0);
}

static void indirect_of_15(struct fixture *f)
{
	indirect(f, f->q->indirect, 15, 0);
}

static void indirect_of_17(struct fixture *f)
{
	indirect(f, f->q->indirect, 17, 0);
}

static void indirect_longer_than_queue(struct fixture *f)
{
	indirect(f, f->q->indirect, (f->q->size + 1) * 16, 0);
}

static void indirect_of_4g(struct fixture *f)
{
	indirect(f, f->q->indirect, 0xfffffff0, 0);
}

static void indirect_in_hole(struct fixture *f)
{
	indirect(f, HOLE, 16, 0);
}

static void indirect_in_bar(struct fixture *f)
{
	indirect(f, f->drv.common, 16, 0);
}

static void indirect_wraps(struct fixture *f)
{
	indirect(f, ~0ULL - 15, 32, 0);
}

static void indirect_ends_in_hole(struct fixture *f)
{
	uint64_t gpa = FAKE_PC_RAM_SIZE + 1 * MiB - 16;

	vdrv_desc_at(&f->drv, gpa, 0, f->buf, 16, NEXT, 1);
	indirect(f, gpa, 32, 0);
}

static void indirect_loops(struct fixture *f)
{
	vdrv_desc_at(&f->drv, f->q->indirect, 0, f->buf, 1, NEXT, 1);
	vdrv_desc_at(&f->drv, f->q->indirect, 1, f->buf, 1, NEXT, 0);
	indirect(f, f->q->indirect, 32, 0);
}

static void indirect_next_is_beyond(struct fixture *f)
{
	vdrv_desc_at(&f->drv, f->q->indirect, 0, f->buf, 1, NEXT, 2);
	indirect(f, f->q->indirect, 32, 0);
}

static void indirect_was_not_negotiated(struct fixture *f)
{
	assert_true(vdrv_start(&f->drv, 0, 0));
	f->buf = vdrv_alloc(&f->drv, PAGE_SIZE);
	vdrv_desc_at(&f->drv, f->q->indirect, 0, f->buf, 16, 0, 0);
	indirect(f, f->q->indirect, 16, 0);
}

/* Registers. */

#define REGISTER_CASE(name, offset, size, value)          \
	static void name(struct fixture *f)               \
	{                                                 \
		vdrv_write(&f->drv, offset, size, value); \
	}

REGISTER_CASE(size_changed_alive, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8)
REGISTER_CASE(size_zero_alive, VIRTIO_PCI_COMMON_Q_SIZE, 2, 0)
REGISTER_CASE(size_65535_alive, VIRTIO_PCI_COMMON_Q_SIZE, 2, 65535)
REGISTER_CASE(table_moved_alive, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x5000)
REGISTER_CASE(available_moved_alive, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, ~0u)
REGISTER_CASE(used_moved_alive, VIRTIO_PCI_COMMON_Q_USEDLO, 4, 0)
REGISTER_CASE(enabled_twice, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1)
REGISTER_CASE(disabled_alive, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0)
REGISTER_CASE(status_loses_bits, VIRTIO_PCI_COMMON_STATUS, 1, 1)
REGISTER_CASE(status_by_four_bytes, VIRTIO_PCI_COMMON_STATUS, 4, 0)
REGISTER_CASE(status_needs_reset_by_driver, VIRTIO_PCI_COMMON_STATUS, 1, 0x4f)
REGISTER_CASE(features_changed_alive, VIRTIO_PCI_COMMON_GF, 4, 0)
REGISTER_CASE(queue_selected_beyond, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0xffff)
REGISTER_CASE(vector_beyond, VIRTIO_PCI_COMMON_Q_MSIX, 2, 0x7ff)
REGISTER_CASE(config_vector_beyond, VIRTIO_PCI_COMMON_MSIX, 2, 0x7ff)
REGISTER_CASE(read_only_register, VIRTIO_PCI_COMMON_NUMQ, 2, 99)
REGISTER_CASE(behind_the_structure, 0x3c, 4, ~0u)
REGISTER_CASE(across_two_registers, VIRTIO_PCI_COMMON_Q_DESCLO + 2, 4, ~0u)

static void configuration_scribbled(struct fixture *f)
{
	for (unsigned i = 0; i < 0x1000; i++)
		bus_write(f->pc.mmio, 0, f->drv.device + i, 1 << i % 4,
			  0xa5a5a5a5a5a5a5a5);
}

static void doorbells_beyond(struct fixture *f)
{
	for (unsigned i = 0; i < 0x1000; i++)
		bus_write(f->pc.mmio, 0, f->drv.notify + i, 1 << i % 4, i);
}

static void failed_and_kicked(struct fixture *f)
{
	vdrv_set_status(&f->drv, VIRTIO_CONFIG_S_FAILED);
	offer_buffer(f, HOLE, 512);
}

static void set_up_with(struct fixture *f, uint64_t desc, uint64_t avail,
			uint64_t used)
{
	struct vdrv *d = &f->drv;
	const uint64_t addr[] = { desc, avail, used };

	assert_true(vdrv_reset(d));
	assert_true(vdrv_negotiate(d, ALL));
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, f->q->index);
	for (unsigned i = 0; i < 6; i++)
		vdrv_write(d, VIRTIO_PCI_COMMON_Q_DESCLO + 4 * i, 4,
			   (uint32_t)(addr[i / 2] >> 32 * (i % 2)));
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	vdrv_set_status(d, VIRTIO_CONFIG_S_DRIVER_OK);
}

#define SETUP_CASE(name, desc, avail, used)        \
	static void name(struct fixture *f)        \
	{                                          \
		set_up_with(f, desc, avail, used); \
	}

SETUP_CASE(table_misaligned, 0x100008, 0x102000, 0x103000)
SETUP_CASE(available_misaligned, 0x100000, 0x102001, 0x103000)
SETUP_CASE(used_misaligned, 0x100000, 0x102000, 0x103002)
SETUP_CASE(table_in_hole, HOLE, 0x102000, 0x103000)
SETUP_CASE(available_in_hole, 0x100000, HOLE, 0x103000)
SETUP_CASE(used_in_hole, 0x100000, 0x102000, HOLE)
SETUP_CASE(used_in_rom, 0x100000, 0x102000, FAKE_PC_ROM)
SETUP_CASE(table_in_own_bar, FAKE_PC_WINDOW64, 0x102000, 0x103000)
SETUP_CASE(table_ends_in_hole, FAKE_PC_RAM_SIZE + 1 * MiB - 16, 0x102000,
	   0x103000)
SETUP_CASE(used_wraps, 0x100000, 0x102000, ~0ULL - 7)
SETUP_CASE(table_at_2_64, ~0ULL - 15, 0x102000, 0x103000)
SETUP_CASE(all_areas_are_one, 0x100000, 0x100000, 0x100000)
SETUP_CASE(used_is_available, 0x100000, 0x102000, 0x102000)

/* BROKEN: by whoever sees it. SPARED: nothing happened. EITHER: depends on
 * the device; what must hold is what holds for all. */
enum outcome { BROKEN, SPARED, EITHER };

/* clang-format off: table */
static const struct {
	const char *name;
	void (*make)(struct fixture *f);
	enum outcome outcome;
} cases[] = {
#define C(fn, outcome)           \
	{                        \
#fn, fn, outcome \
	}
	C(buffer_in_hole, BROKEN),
	C(buffer_in_own_bar, BROKEN),
	C(buffer_in_own_doorbells, BROKEN),
	C(buffer_in_local_apic, BROKEN),
	C(buffer_in_ioapic, BROKEN),
	C(buffer_in_ecam, BROKEN),
	C(buffer_ends_in_hole, BROKEN),
	C(buffer_starts_in_hole, BROKEN),
	C(buffer_is_all_of_4g, BROKEN),
	C(buffer_at_2_63, BROKEN),
	C(buffer_at_2_52, BROKEN),
	C(buffer_wraps, BROKEN),
	C(buffer_ends_at_2_64, BROKEN),
	C(buffer_wraps_into_ram, BROKEN),
	C(buffer_last_byte, BROKEN),
	C(buffer_in_two_regions, SPARED),
	C(buffer_is_the_table, EITHER),
	C(buffer_is_the_available_ring, EITHER),
	C(buffer_is_the_used_ring, EITHER),
	C(write_to_rom, BROKEN),
	C(loop_of_one, BROKEN),
	C(loop_of_two, BROKEN),
	C(loop_of_nothing, BROKEN),
	C(loop_into_the_middle, BROKEN),
	C(loop_of_writables, BROKEN),
	C(head_is_size, BROKEN),
	C(head_is_65535, BROKEN),
	C(next_is_size, BROKEN),
	C(next_is_65535, BROKEN),
	C(readable_behind_writable, BROKEN),
	C(index_jumps_by_size_plus_one, BROKEN),
	C(index_jumps_by_32768, BROKEN),
	C(index_jumps_by_65535, BROKEN),
	C(index_goes_back, BROKEN),
	C(same_head_everywhere, EITHER),
	C(empty_chain, EITHER),
	C(empty_writable_chain, EITHER),
	C(wrong_direction, EITHER),
	C(all_flags_set, BROKEN),
	C(unknown_flags, EITHER),
	C(longest_chain, EITHER),
	C(indirect_nested, BROKEN),
	C(indirect_is_the_ring, BROKEN),
	C(indirect_and_next, BROKEN),
	C(indirect_of_nothing, BROKEN),
	C(indirect_of_15, BROKEN),
	C(indirect_of_17, BROKEN),
	C(indirect_longer_than_queue, BROKEN),
	C(indirect_of_4g, BROKEN),
	C(indirect_in_hole, BROKEN),
	C(indirect_in_bar, BROKEN),
	C(indirect_wraps, BROKEN),
	C(indirect_ends_in_hole, BROKEN),
	C(indirect_loops, BROKEN),
	C(indirect_next_is_beyond, BROKEN),
	C(indirect_was_not_negotiated, BROKEN),
	C(size_changed_alive, SPARED),
	C(size_zero_alive, SPARED),
	C(size_65535_alive, SPARED),
	C(table_moved_alive, SPARED),
	C(available_moved_alive, SPARED),
	C(used_moved_alive, SPARED),
	C(enabled_twice, SPARED),
	C(disabled_alive, SPARED),
	C(status_loses_bits, SPARED),
	C(status_by_four_bytes, SPARED),
	C(status_needs_reset_by_driver, SPARED),
	C(features_changed_alive, SPARED),
	C(queue_selected_beyond, SPARED),
	C(vector_beyond, SPARED),
	C(config_vector_beyond, SPARED),
	C(read_only_register, SPARED),
	C(behind_the_structure, SPARED),
	C(across_two_registers, SPARED),
	C(configuration_scribbled, SPARED),
	C(doorbells_beyond, SPARED),
	C(failed_and_kicked, SPARED),
	C(table_misaligned, BROKEN),
	C(available_misaligned, BROKEN),
	C(used_misaligned, BROKEN),
	C(table_in_hole, BROKEN),
	C(available_in_hole, BROKEN),
	C(used_in_hole, BROKEN),
	C(used_in_rom, BROKEN),
	C(table_in_own_bar, BROKEN),
	C(table_ends_in_hole, BROKEN),
	C(used_wraps, BROKEN),
	C(table_at_2_64, BROKEN),
	C(all_areas_are_one, EITHER),
	C(used_is_available, EITHER),
#undef C
};
/* clang-format on */

static bool is_broken(struct fixture *f)
{
	return vdrv_status(&f->drv) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void run_case(struct fixture *f, size_t i)
{
	uint64_t interrupts;
	int64_t before;

	start(f);
	interrupts = fake_pc_msi_count(&f->pc, VECTOR);
	cases[i].make(f);
	vdrv_ring(f->q);
	poke_peer(f);
	switch (cases[i].outcome) {
	case BROKEN:
		before = vdrv_now_ms();
		if (!vdrv_wait_status(&f->drv, VIRTIO_CONFIG_S_NEEDS_RESET,
				      5000))
			fail_msg("%s: status %#x", cases[i].name,
				 vdrv_status(&f->drv));
		f->nr_slow += vdrv_now_ms() - before > LIMIT_MS;
		/* The driver is told, if it was there already. */
		if (vdrv_status(&f->drv) & VIRTIO_CONFIG_S_DRIVER_OK &&
		    fake_pc_msi_count(&f->pc, VECTOR) == interrupts)
			assert_true(fake_pc_msi_wait(&f->pc, VECTOR, 1000));
		break;
	case SPARED:
		/* Another request goes through it, and then it is still well. */
		if (!(vdrv_status(&f->drv) & VIRTIO_CONFIG_S_FAILED) &&
		    f->kind != CONSOLE_RX) {
			offer_buffer(f, f->buf + 64, 512);
			vdrv_ring(f->q);
		}
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
		if (is_broken(f))
			fail_msg("%s: is broken", cases[i].name);
		break;
	case EITHER:
		nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
		break;
	}
	check_usable(f);
}

static void c9_hostile_cases(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		run_case(f, i);
	assert_true(f->nr_slow <= MAX_SLOW);
	print_message("# %zu cases\n", ARRAY_SIZE(cases));
}

/* One more device that must not notice. */
static void c9_neighbours_do_not_notice(void **state)
{
	struct fixture *f = *state, *g = *state;
	struct device *other = fake_pc_add(&f->pc, &virtio_rng_device, NULL);
	struct vdrv d;
	struct vdrv_buf buf;

	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
	vdrv_probe(&d, &f->pc, virtio_pci_function(other), 32);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i += 5) {
		start(g);
		assert_true(vdrv_reset(&d));
		d.next_gpa = 16 * MiB;
		assert_true(vdrv_negotiate(&d, ALL));
		vdrv_queue_setup(&d, 0, 0);
		vdrv_set_status(&d, VIRTIO_CONFIG_S_DRIVER_OK);
		cases[i].make(g);
		vdrv_ring(g->q);
		buf = (struct vdrv_buf){ vdrv_alloc(&d, 64), 64 };
		assert_true(vdrv_add(&d.queue[0], &buf, 0, 1, false) >= 0);
		vdrv_kick(&d.queue[0]);
		assert_true(vdrv_wait(&d.queue[0], NULL, 2000) >= 0);
	}
	other->cls->destroy(other);
}

/* A second CPU writes to descriptors and indices while the device reads. */

struct racer {
	struct fixture *f;
	pthread_t thread;
	atomic_bool is_ending;
};

static uint64_t xorshift(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static uint64_t some_gpa(struct fixture *f, uint64_t *x)
{
	const uint64_t known[] = {
		f->buf,     f->buf + 16, f->buf + 100, f->q->indirect,
		f->q->desc, HOLE,        ~0ULL - 100,  f->drv.common,
	};

	return known[xorshift(x) % (xorshift(x) % 4 ? 4 : 8)];
}

static void *race(void *opaque)
{
	static const uint32_t lens[] = { 0,   1,    16, 32, 511,     512,
					 513, 4096, 48, 17, 1 << 20, ~0u };
	struct racer *r = opaque;
	struct fixture *f = r->f;
	struct vdrv_queue *q = f->q;
	uint64_t x = 2463534242;

	while (!r->is_ending) {
		uint64_t table = xorshift(&x) & 1 ? q->desc : q->indirect;
		uint16_t *heads = vdrv_mem(&f->drv, q->avail, 4 + 2 * q->size);

		vdrv_desc_at(&f->drv, table, xorshift(&x) % 8, some_gpa(f, &x),
			     lens[xorshift(&x) % 12],
			     (uint16_t)(xorshift(&x) % 8), xorshift(&x) % 9);
		__atomic_store_n(&heads[2 + xorshift(&x) % q->size],
				 (uint16_t)(xorshift(&x) % 9),
				 __ATOMIC_RELAXED);
		if (xorshift(&x) % 64 == 0)
			__atomic_store_n(&heads[1], (uint16_t)xorshift(&x),
					 __ATOMIC_RELAXED);
		else
			__atomic_fetch_add(&heads[1], 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void c9_racing_driver(void **state)
{
	struct fixture *f = *state;
	unsigned ms = getenv("RINGER_SOAK") ? 20000 : 400, nr_broken = 0;
	struct racer r = { .f = f };
	int64_t end;

	/* Memory is placed the same in every life, so it can go on. */
	start(f);
	assert_int_equal(pthread_create(&r.thread, NULL, race, &r), 0);
	end = vdrv_now_ms() + ms;
	while (vdrv_now_ms() < end) {
		vdrv_ring(f->q);
		poke_peer(f);
		if (!is_broken(f))
			continue;
		nr_broken++;
		assert_true(vdrv_reset(&f->drv));
		assert_true(vdrv_negotiate(&f->drv, ALL));
		for (unsigned i = 0; i < f->drv.nr_queues; i++) {
			struct vdrv *d = &f->drv;
			struct vdrv_queue *q = &d->queue[i];
			const uint64_t addr[] = { q->desc, q->avail, q->used };

			vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
			for (unsigned k = 0; k < 6; k++)
				vdrv_write(d,
					   VIRTIO_PCI_COMMON_Q_DESCLO + 4 * k,
					   4,
					   (uint32_t)(addr[k / 2] >>
						      32 * (k % 2)));
			vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		}
		vdrv_set_status(&f->drv, VIRTIO_CONFIG_S_DRIVER_OK);
	}
	r.is_ending = true;
	pthread_join(r.thread, NULL);
	print_message("# broken %u times\n", nr_broken);
	assert_true(nr_broken > 0);
	check_usable(f);
}

/* A driver that never stops adding must not keep the loop for itself. */

static void *flood(void *opaque)
{
	struct racer *r = opaque;
	uint16_t *idx = vdrv_mem(&r->f->drv, r->f->q->avail + 2, 2);
	uint16_t *used = vdrv_mem(&r->f->drv, r->f->q->used + 2, 2);

	while (!r->is_ending) {
		uint16_t n = __atomic_load_n(used, __ATOMIC_ACQUIRE);

		__atomic_store_n(idx, n + r->f->q->size - 1, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void nothing(void *opaque)
{
}

static void c9_flood_leaves_the_loop_to_others(void **state)
{
	struct fixture *f = *state;
	struct virtio_dev *vdev = (struct virtio_dev *)f->dev;
	struct racer r = { .f = f };
	int64_t end;

	start(f);
	offer_buffer(f, f->buf, 64);
	for (unsigned i = 1; i < f->q->size; i++)
		vdrv_offer(f->q, 0);
	assert_int_equal(pthread_create(&r.thread, NULL, flood, &r), 0);
	end = vdrv_now_ms() + 300;
	while (vdrv_now_ms() < end) {
		int64_t before = vdrv_now_ms();

		vdrv_ring(f->q);
		loop_call(vdev->loop, nothing, NULL);
		f->nr_slow += vdrv_now_ms() - before > LIMIT_MS;
		poke_peer(f);
	}
	r.is_ending = true;
	pthread_join(r.thread, NULL);
	assert_true(f->nr_slow <= MAX_SLOW);
	/* It did get something, and no more than its share at a time. */
	pthread_mutex_lock(&vdev->queue[f->q->index].lock);
	assert_true(vdev->queue[f->q->index].ring.nr_chains > 100);
	assert_true(vdev->queue[f->q->index].budget <= f->q->size);
	pthread_mutex_unlock(&vdev->queue[f->q->index].lock);
	check_usable(f);
}

int main(void)
{
#define T(fn, kind)                                                  \
	{                                                            \
#fn " (" #kind ")", fn, setup_##kind, teardown, NULL \
	}
#define ALL_KINDS(fn) \
	T(fn, blk), T(fn, console_tx), T(fn, console_rx), T(fn, rng)
	const struct CMUnitTest tests[] = {
		ALL_KINDS(c9_hostile_cases),
		ALL_KINDS(c9_neighbours_do_not_notice),
		ALL_KINDS(c9_racing_driver),
		ALL_KINDS(c9_flood_leaves_the_loop_to_others),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
