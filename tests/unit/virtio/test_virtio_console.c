/* virtio-console over a socket, and virtio-rng. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <linux/virtio_console.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"
#include "state/stream.h"
#include "virtio_driver.h"

#define ALL    (~0ULL)
#define VECTOR 4

struct fixture {
	struct fake_pc pc;
	struct device *dev;
	struct vdrv drv;
	char dir[32], path[48], options[64];
	int fd; /* the other end */
};

static void connect_peer(struct fixture *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strncpy(addr.sun_path, f->path, sizeof(addr.sun_path) - 1);
	f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(f->fd >= 0);
	assert_int_equal(connect(f->fd, (void *)&addr, sizeof(addr)), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	fake_pc_init(&f->pc);
	strncpy(f->dir, "/tmp/ringer-con-XXXXXX", sizeof(f->dir) - 1);
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/sock", f->dir);
	snprintf(f->options, sizeof(f->options), "chardev=unix:%s", f->path);
	f->dev = fake_pc_add(&f->pc, &virtio_console_device, f->options);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
	connect_peer(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->fd);
	f->dev->cls->destroy(f->dev);
	fake_pc_finish(&f->pc);
	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static void read_peer(struct fixture *f, void *buf, size_t len)
{
	struct pollfd p = { .fd = f->fd, .events = POLLIN };
	uint8_t *to = buf;

	while (len) {
		ssize_t n;

		assert_int_equal(poll(&p, 1, 5000), 1);
		n = read(f->fd, to, len);
		assert_true(n > 0);
		to += n;
		len -= (size_t)n;
	}
}

static void send_text(struct fixture *f, const char *text, unsigned pieces)
{
	struct vdrv *d = &f->drv;
	uint32_t len = (uint32_t)strlen(text), part = len / pieces;
	uint64_t gpa = vdrv_alloc(d, len);
	struct vdrv_buf bufs[8];

	memcpy(vdrv_mem(d, gpa, len), text, len);
	for (unsigned i = 0; i < pieces; i++)
		bufs[i] = (struct vdrv_buf){ gpa + i * part,
					     i + 1 < pieces ? part
							    : len - i * part };
	assert_true(vdrv_add(&d->queue[1], bufs, pieces, 0, false) >= 0);
	vdrv_kick(&d->queue[1]);
	assert_true(vdrv_wait(&d->queue[1], NULL, 2000) >= 0);
}

static void output_reaches_the_stream(void **state)
{
	struct fixture *f = *state;
	char text[64] = "";

	assert_true(vdrv_start(&f->drv, ALL, 0));
	for (unsigned i = 1; i <= 5; i++) {
		send_text(f, "hello from the guest", i);
		read_peer(f, text, 20);
		assert_string_equal(text, "hello from the guest");
	}
}

static uint64_t offer_rx(struct vdrv *d, uint32_t len)
{
	struct vdrv_buf buf = { vdrv_alloc(d, len), len };

	assert_true(vdrv_add(&d->queue[0], &buf, 0, 1, false) >= 0);
	vdrv_kick(&d->queue[0]);
	return buf.gpa;
}

static void input_reaches_the_guest(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	uint64_t gpa;
	uint32_t len;

	assert_true(vdrv_start(d, ALL, 0));
	gpa = offer_rx(d, 16);
	assert_int_equal(write(f->fd, "abc", 3), 3);
	assert_true(vdrv_wait(&d->queue[0], &len, 2000) >= 0);
	assert_int_equal(len, 3);
	assert_memory_equal(vdrv_mem(d, gpa, 3), "abc", 3);
	assert_true(fake_pc_msi_wait(&f->pc, VECTOR + 1, 2000));
}

/* 64 KiB with buffers that come late and small; none is lost or doubled. */
static void input_waits_for_room(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_queue *q = &d->queue[0];
	static uint8_t all[65536];
	uint64_t gpa[64];
	size_t sent = 0, got = 0;
	unsigned first = 0, next = 0;

	for (size_t i = 0; i < sizeof(all); i++)
		all[i] = (uint8_t)(i * 7 + i / 251);
	/* Before there is a driver. */
	sent += (size_t)write(f->fd, all, 3000);
	usleep(5000);
	assert_true(vdrv_start(d, ALL, 0));
	for (unsigned i = 0; i < 64; i++)
		gpa[i] = vdrv_alloc(d, 100);
	while (got < sizeof(all)) {
		uint32_t len;

		if (sent < sizeof(all)) {
			ssize_t n = send(f->fd, all + sent,
					 MIN(1000, sizeof(all) - sent),
					 MSG_DONTWAIT);

			sent += n > 0 ? (size_t)n : 0;
		}
		while (next - first < 1 + got % 60) {
			struct vdrv_buf buf = { gpa[next % 64],
						1 + (uint32_t)got % 100 };

			assert_true(vdrv_add(q, &buf, 0, 1, false) >= 0);
			next++;
		}
		vdrv_kick(q);
		assert_true(vdrv_wait(q, &len, 5000) >= 0);
		do {
			assert_memory_equal(vdrv_mem(d, gpa[first % 64], len),
					    all + got, len);
			got += len;
			first++;
		} while (vdrv_take(q, &len) >= 0);
	}
	assert_int_equal(got, sizeof(all));
}

static void size_is_offered(void **state)
{
	struct fixture *f = *state;
	struct virtio_dev *vdev = (struct virtio_dev *)f->dev;
	const uint16_t size[2] = { 132, 43 };
	uint8_t before;

	assert_true(vdrv_start(&f->drv, ALL, 0));
	assert_true(f->drv.features & BIT(VIRTIO_CONSOLE_F_SIZE));
	/* A socket has none. */
	assert_int_equal(vdrv_config(&f->drv, 0, 4), 0);
	before = (uint8_t)vdrv_read(&f->drv, 0x15, 1);
	virtio_config_set(vdev, 0, size, sizeof(size), true);
	assert_int_equal(vdrv_config(&f->drv, 0, 2), 132);
	assert_int_equal(vdrv_config(&f->drv, 2, 2), 43);
	assert_int_not_equal(vdrv_read(&f->drv, 0x15, 1), before);
	assert_true(fake_pc_msi_wait(&f->pc, VECTOR, 2000));
	bus_write(f->pc.mmio, 0, f->drv.device, 4, 0x12345678);
	assert_int_equal(vdrv_config(&f->drv, 0, 2), 132);
}

static void huge_output_does_not_hold_the_loop(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_buf bufs[16];
	int64_t start;

	assert_true(vdrv_start(d, ALL, 0));
	for (unsigned i = 0; i < 16; i++)
		bufs[i] = (struct vdrv_buf){ 0, FAKE_PC_RAM_SIZE };
	start = vdrv_now_ms();
	for (unsigned i = 0; i < 4; i++) {
		assert_true(vdrv_add(&d->queue[1], bufs, 16, 0, false) >= 0);
		vdrv_ring(&d->queue[1]);
		assert_true(vdrv_wait(&d->queue[1], NULL, 5000) >= 0);
	}
	assert_true(vdrv_now_ms() - start < 500);
}

static void state_keeps_what_was_typed(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct stream s, l;
	uint64_t gpa;
	uint32_t len;

	assert_true(vdrv_start(d, ALL, 0));
	send_text(f, "before", 1);
	assert_int_equal(write(f->fd, "typed ahead", 11), 11);
	usleep(20000);
	f->dev->cls->quiesce(f->dev);
	stream_init_save(&s);
	f->dev->cls->state(f->dev, &s);
	assert_int_equal(stream_error(&s), 0);
	f->dev->cls->destroy(f->dev);
	close(f->fd);
	f->dev = fake_pc_add(&f->pc, &virtio_console_device, f->options);
	stream_init_load(&l, s.data, s.len);
	f->dev->cls->state(f->dev, &l);
	assert_int_equal(stream_error(&l), 0);
	stream_finish(&l);
	stream_finish(&s);
	connect_peer(f);
	f->dev->cls->resume(f->dev);
	gpa = offer_rx(d, 64);
	assert_true(vdrv_wait(&d->queue[0], &len, 2000) >= 0);
	assert_int_equal(len, 11);
	assert_memory_equal(vdrv_mem(d, gpa, 11), "typed ahead", 11);
	send_text(f, "after", 1);
}

static void resets_amid_traffic(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	for (unsigned i = 0; i < 300; i++) {
		assert_true(vdrv_start(d, i & 1 ? ALL : 0, 0));
		offer_rx(d, 8);
		offer_rx(d, 8);
		assert_int_equal(send(f->fd, "xyzzy", 5, MSG_DONTWAIT), 5);
		send_text(f, "out", 1);
		if (i % 7 == 0)
			f->dev->cls->quiesce(f->dev);
		if (i % 7 == 0)
			f->dev->cls->resume(f->dev);
		assert_true(vdrv_reset(d));
	}
}

/* virtio-rng */

static int setup_rng(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	fake_pc_init(&f->pc);
	f->dev = fake_pc_add(&f->pc, &virtio_rng_device, NULL);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), VECTOR);
	*state = f;
	return 0;
}

static int teardown_rng(void **state)
{
	struct fixture *f = *state;

	f->dev->cls->destroy(f->dev);
	fake_pc_finish(&f->pc);
	free(f);
	return 0;
}

static void random_bytes_are_random(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	unsigned seen[256] = { 0 };
	uint64_t gpa;
	uint32_t len;

	assert_true(vdrv_start(d, ALL, 0));
	gpa = vdrv_alloc(d, MiB);
	for (unsigned i = 0; i < 64; i++) {
		struct vdrv_buf buf = { gpa, i < 32 ? 1024 : 1 * MiB };
		const uint8_t *mem = vdrv_mem(d, gpa, 1024);

		assert_true(vdrv_add(&d->queue[0], &buf, 0, 1, i & 1) >= 0);
		vdrv_kick(&d->queue[0]);
		assert_true(vdrv_wait(&d->queue[0], &len, 2000) >= 0);
		/* One request gets no more, whatever it asks for. */
		assert_int_equal(len, 1024);
		for (unsigned k = 0; k < len; k++)
			seen[mem[k]]++;
	}
	for (unsigned i = 0; i < 256; i++)
		assert_true(seen[i] > 128 && seen[i] < 512);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(output_reaches_the_stream),
		T(input_reaches_the_guest),
		T(input_waits_for_room),
		T(size_is_offered),
		T(huge_output_does_not_hold_the_loop),
		T(state_keeps_what_was_typed),
		T(resets_amid_traffic),
		cmocka_unit_test_setup_teardown(random_bytes_are_random,
						setup_rng, teardown_rng),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
