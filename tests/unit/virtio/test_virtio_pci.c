/* Virtio over PCI: the status machine, registers, interrupts, moving BARs,
 * state; with virtio-rng and virtio-blk behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/endian.h"
#include "device/virtio/devices.h"
#include "device/virtio/pci_transport.h"
#include "fake_blk.h"
#include "state/stream.h"
#include "virtio_driver.h"

#define EVENT_IDX BIT(29)
#define INDIRECT  BIT(28)
#define ACK       VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER    VIRTIO_CONFIG_S_DRIVER
#define OK        VIRTIO_CONFIG_S_FEATURES_OK
#define GO        VIRTIO_CONFIG_S_DRIVER_OK
#define FAILED    VIRTIO_CONFIG_S_FAILED
#define BROKEN    VIRTIO_CONFIG_S_NEEDS_RESET
#define VECTOR    8 /* data of vector 0 */

struct fixture {
	struct fake_pc pc;
	struct device *dev;
	struct vdrv drv;
};

static int setup_with(void **state, const struct device_class *cls,
		      const char *options, uint8_t vector)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	fake_pc_init(&f->pc);
	f->dev = fake_pc_add(&f->pc, cls, options);
	fake_pc_assign(&f->pc);
	vdrv_probe(&f->drv, &f->pc, virtio_pci_function(f->dev), vector);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, &virtio_rng_device, NULL, VECTOR);
}

static int setup_intx(void **state)
{
	return setup_with(state, &virtio_rng_device, NULL, VDRV_NO_MSIX);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->dev->cls->destroy(f->dev);
	fake_pc_finish(&f->pc);
	free(f);
	return 0;
}

/* Ask for (len) random bytes in a buffer of its own, and wait. */
static uint32_t ask_random(struct vdrv *d, bool is_indirect)
{
	struct vdrv_queue *q = &d->queue[0];
	struct vdrv_buf buf = { vdrv_alloc(d, 64), 64 };
	uint32_t len = 0;

	assert_true(vdrv_add(q, &buf, 0, 1, is_indirect) >= 0);
	vdrv_kick(q);
	assert_true(vdrv_wait(q, &len, 2000) >= 0);
	return len;
}

static void identity_is_modern(void **state)
{
	struct fixture *f = *state;
	const struct pci_dev *pci = virtio_pci_function(f->dev);

	assert_int_equal(load_le16(pci->config + PCI_VENDOR_ID), 0x1af4);
	assert_int_equal(load_le16(pci->config + PCI_DEVICE_ID), 0x1044);
	assert_int_equal(pci->config[PCI_REVISION_ID], 1);
	assert_int_equal(f->drv.nr_queues, 1);
	assert_int_equal(f->drv.notify_step, 4);
}

static void c10_round_trip(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 4; i++) {
		uint64_t want =
			(i & 1 ? EVENT_IDX : 0) | (i & 2 ? INDIRECT : 0);

		assert_true(vdrv_start(&f->drv, want, 0));
		assert_int_equal(f->drv.features,
				 want | BIT(VIRTIO_F_VERSION_1));
		for (unsigned n = 0; n < 200; n++)
			assert_int_equal(ask_random(&f->drv, i & 2), 64);
	}
}

static void status_climbs_one_bit_at_a_time(void **state)
{
	static const struct {
		uint8_t before, write, after;
	} steps[] = {
		{ 0, DRIVER, 0 },
		{ 0, OK, 0 },
		{ 0, GO, 0 },
		{ 0, 0x30, 0 },
		{ 0, BROKEN, 0 },
		{ 0, ACK, ACK },
		{ 0, ACK | DRIVER, ACK | DRIVER },
		{ ACK, DRIVER, ACK }, /* takes a bit back */
		{ ACK, ACK | GO, ACK },
		{ ACK, ACK | DRIVER | 0x20, ACK | DRIVER },
		{ ACK | DRIVER, ACK | DRIVER | GO, ACK | DRIVER },
		{ ACK | DRIVER, ACK | DRIVER | OK, ACK | DRIVER }, /* none */
		{ ACK, FAILED | ACK, FAILED | ACK },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		assert_true(vdrv_reset(&f->drv));
		vdrv_write(&f->drv, VIRTIO_PCI_COMMON_STATUS, 1,
			   steps[i].before);
		assert_int_equal(vdrv_status(&f->drv), steps[i].before);
		vdrv_write(&f->drv, VIRTIO_PCI_COMMON_STATUS, 1,
			   steps[i].write);
		assert_int_equal(vdrv_status(&f->drv), steps[i].after);
	}
}

static void accept_features(struct vdrv *d, uint64_t features)
{
	for (unsigned i = 0; i < 2; i++) {
		vdrv_write(d, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		vdrv_write(d, VIRTIO_PCI_COMMON_GF, 4,
			   (uint32_t)(features >> 32 * i));
	}
	vdrv_set_status(d, OK);
}

static void features_are_checked(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	for (unsigned bit = 0; bit < 64; bit++) {
		bool is_offered = bit == 28 || bit == 29 || bit == 32;

		assert_true(vdrv_reset(d));
		vdrv_set_status(d, ACK);
		vdrv_set_status(d, DRIVER);
		accept_features(d, BIT(VIRTIO_F_VERSION_1) | BIT(bit));
		assert_int_equal(!!(vdrv_status(d) & OK), is_offered);
		/* It may try again. */
		accept_features(d, BIT(VIRTIO_F_VERSION_1));
		assert_true(vdrv_status(d) & OK);
		/* But not change its mind. */
		vdrv_write(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
		vdrv_write(d, VIRTIO_PCI_COMMON_GF, 4, INDIRECT);
		if (bit != 28)
			assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_GF, 4),
					 is_offered && bit < 32 ? BIT(bit) : 0);
	}
	assert_true(vdrv_reset(d));
	vdrv_set_status(d, ACK);
	vdrv_set_status(d, DRIVER);
	accept_features(d, INDIRECT);
	assert_false(vdrv_status(d) & OK);
}

static void c11_queues_are_registered_again_after_reset(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	char text[512];

	for (unsigned i = 0; i < 8; i++) {
		assert_true(vdrv_start(d, EVENT_IDX, (uint16_t)(4 << i % 5)));
		/* What was written is what is read. */
		vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4),
				 d->queue[0].desc);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_AVAILLO, 4),
				 d->queue[0].avail);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_USEDLO, 4),
				 d->queue[0].used);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_SIZE, 2),
				 4 << i % 5);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2),
				 1);
		assert_int_equal(ask_random(d, false), 64);
		f->dev->cls->describe(f->dev, text, sizeof(text));
		assert_non_null(strstr(text, "queue 0: running"));
		f->dev->cls->describe(f->dev, text, 20);
		assert_true(strlen(text) < 20);
		/* The other memory has nothing to do with it any more. */
		d->next_gpa += 0x10000;
		assert_true(vdrv_reset(d));
		vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2),
				 0);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4),
				 0);
	}
}

static void geometry_is_fixed_once_enabled(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	static const unsigned regs[] = {
		VIRTIO_PCI_COMMON_Q_DESCLO,  VIRTIO_PCI_COMMON_Q_DESCHI,
		VIRTIO_PCI_COMMON_Q_AVAILLO, VIRTIO_PCI_COMMON_Q_AVAILHI,
		VIRTIO_PCI_COMMON_Q_USEDLO,  VIRTIO_PCI_COMMON_Q_USEDHI,
	};

	assert_true(vdrv_start(d, 0, 16));
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 64);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 16);
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
		uint32_t before = vdrv_read(d, regs[i], 4);

		vdrv_write(d, regs[i], 4, 0x5000);
		assert_int_equal(vdrv_read(d, regs[i], 4), before);
	}
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	assert_int_equal(ask_random(d, false), 64);

	/* Sizes that cannot be. */
	assert_true(vdrv_reset(d));
	assert_true(vdrv_negotiate(d, 0));
	for (unsigned i = 0; i < 0x10000; i += 3) {
		vdrv_write(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, i);
		assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 64);
	}
	/* A queue that is not there. */
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	assert_int_equal(vdrv_status(d) & BROKEN, 0);
}

static void bad_geometry_needs_a_reset(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	assert_true(vdrv_reset(d));
	assert_true(vdrv_negotiate(d, 0));
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x100008);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_true(vdrv_status(d) & BROKEN);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	vdrv_set_status(d, GO);
	assert_false(vdrv_status(d) & GO);
	assert_true(vdrv_start(d, 0, 0));
	assert_int_equal(ask_random(d, false), 64);
}

static void vectors_that_do_not_exist_are_none(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	vdrv_write(d, VIRTIO_PCI_COMMON_MSIX, 2, 1);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_MSIX, 2), 1);
	vdrv_write(d, VIRTIO_PCI_COMMON_MSIX, 2, 2);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
	vdrv_write(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 7);
	assert_int_equal(vdrv_read(d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
}

static void c14_completion_sends_the_queues_vector(void **state)
{
	struct fixture *f = *state;

	assert_true(vdrv_start(&f->drv, 0, 0));
	for (unsigned i = 1; i <= 50; i++) {
		ask_random(&f->drv, false);
		assert_true(fake_pc_msi_wait(&f->pc, VECTOR + 1, 2000));
		assert_int_equal(fake_pc_msi_count(&f->pc, VECTOR + 1), i);
	}
	assert_int_equal(fake_pc_msi_count(&f->pc, VECTOR), 0);
	/* Masked: it waits in the pending bit. */
	pci_config_write(f->pc.pci, f->drv.bdf, f->drv.msix_cap + 2, 2,
			 PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	ask_random(&f->drv, false);
	assert_false(fake_pc_msi_wait(&f->pc, VECTOR + 1, 20));
	pci_config_write(f->pc.pci, f->drv.bdf, f->drv.msix_cap + 2, 2,
			 PCI_MSIX_FLAGS_ENABLE);
	assert_true(fake_pc_msi_wait(&f->pc, VECTOR + 1, 2000));
}

static void c16_routed_vector_is_signalled_by_eventfd(void **state)
{
	struct fixture *f = *state;
	struct pollfd p = { .events = POLLIN };
	uint64_t count;
	int64_t end;

	f->pc.can_route = true;
	assert_true(vdrv_start(&f->drv, 0, 0));
	ask_random(&f->drv, false);
	end = vdrv_now_ms() + 2000;
	do
		p.fd = __atomic_load_n(&f->pc.routed_fd[VECTOR + 1],
				       __ATOMIC_SEQ_CST);
	while (p.fd < 0 && vdrv_now_ms() < end);
	assert_int_equal(poll(&p, 1, 2000), 1);
	assert_int_equal(read(p.fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 1);
	ask_random(&f->drv, false);
	assert_int_equal(poll(&p, 1, 2000), 1);
	assert_int_equal(fake_pc_msi_count(&f->pc, VECTOR + 1), 0);
}

static bool intx_is_up(struct fixture *f)
{
	bool is_up = false;

	for (unsigned i = 16; i < 20; i++)
		is_up |= __atomic_load_n(&f->pc.gsi[i], __ATOMIC_SEQ_CST);
	return is_up;
}

static void c14_intx_until_the_isr_is_read(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	int64_t end;

	assert_true(vdrv_start(d, 0, 0));
	for (unsigned i = 0; i < 20; i++) {
		assert_false(intx_is_up(f));
		ask_random(d, false);
		end = vdrv_now_ms() + 2000;
		while (!intx_is_up(f))
			assert_true(vdrv_now_ms() < end);
		assert_int_equal(bus_read(f->pc.mmio, 0, d->isr, 1), 1);
		assert_false(intx_is_up(f));
		assert_int_equal(bus_read(f->pc.mmio, 0, d->isr, 1), 0);
	}
	/* A broken ring interrupts for configuration. */
	vdrv_desc(&d->queue[0], 0, 0, 4, 1, 0);
	vdrv_offer(&d->queue[0], 0);
	vdrv_publish(&d->queue[0]);
	vdrv_ring(&d->queue[0]);
	assert_true(vdrv_wait_status(d, BROKEN, 100));
	end = vdrv_now_ms() + 2000;
	while (!intx_is_up(f))
		assert_true(vdrv_now_ms() < end);
	assert_int_equal(bus_read(f->pc.mmio, 0, d->isr, 1), 2);
	assert_false(intx_is_up(f));
}

static void c12_kicks_are_counted_and_wait_for_the_driver(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	const struct virtio_dev *vdev = (const struct virtio_dev *)f->dev;
	struct vdrv_buf buf;
	uint64_t before;

	/* Kicks before DRIVER_OK do nothing (3.1.1); then it looks. */
	assert_true(vdrv_reset(d));
	assert_true(vdrv_negotiate(d, 0));
	vdrv_queue_setup(d, 0, 0);
	buf = (struct vdrv_buf){ vdrv_alloc(d, 64), 64 };
	vdrv_add(&d->queue[0], &buf, 0, 1, false);
	vdrv_ring(&d->queue[0]);
	assert_int_equal(vdrv_wait(&d->queue[0], NULL, 20), -1);
	vdrv_set_status(d, GO);
	assert_true(vdrv_wait(&d->queue[0], NULL, 2000) >= 0);

	before = vdev->queue[0].ring.nr_kicks - d->queue[0].nr_kicks;
	for (unsigned i = 0; i < 100; i++)
		ask_random(d, false);
	f->dev->cls->quiesce(f->dev);
	assert_int_equal(vdev->queue[0].ring.nr_kicks,
			 before + d->queue[0].nr_kicks);
	assert_true(vdev->queue[0].ring.nr_chains >= 101);
	f->dev->cls->resume(f->dev);
	/* Odd widths reach the same eventfd through the BAR. */
	vdrv_add(&d->queue[0], &buf, 0, 1, false);
	bus_write(f->pc.mmio, 0, d->notify, 4, 0);
	assert_true(vdrv_wait(&d->queue[0], NULL, 2000) >= 0);
	bus_write(f->pc.mmio, 0, d->notify + 0x100, 2, 0);
	bus_write(f->pc.mmio, 0, d->notify + 1, 1, 0);
}

/* The driver adds the next request in the very moment in which the device finds
 * no more and asks for kicks again. */
static void c13_no_kick_is_lost(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_queue *q = &d->queue[0];

	for (unsigned event = 0; event < 2; event++) {
		struct vdrv_buf buf;

		assert_true(vdrv_start(d, event ? EVENT_IDX : 0, 0));
		buf = (struct vdrv_buf){ vdrv_alloc(d, 64), 1 };
		vdrv_want_interrupt(q, false);
		for (unsigned i = 0; i < 100000; i++) {
			int64_t end = 0;
			unsigned spins = 0;

			vdrv_add(q, &buf, 0, 1, false);
			vdrv_kick(q);
			while (vdrv_take(q, NULL) < 0) {
				if (++spins % 1024)
					continue;
				if (!end)
					end = vdrv_now_ms() + 5000;
				assert_true(vdrv_now_ms() < end);
			}
		}
		print_message("# %llu kicks, %llu saved\n",
			      (unsigned long long)q->nr_kicks,
			      (unsigned long long)q->nr_saved_kicks);
	}
}

static void count_writes(void *opaque, const struct bus_range *r)
{
	uint64_t *nr = opaque;

	if (!strncmp(r->name, "virtio", 6))
		*nr += r->nr_writes;
}

/* Kicks end in the eventfd, without the device's registers and its lock. */
static void c15_kicks_pass_the_device_by(struct fixture *f)
{
	uint64_t before = 0, after = 0;

	bus_for_each(f->pc.mmio, count_writes, &before);
	for (unsigned i = 0; i < 10; i++)
		ask_random(&f->drv, false);
	bus_for_each(f->pc.mmio, count_writes, &after);
	assert_int_equal(after, before);
}

static void c15_doorbells_follow_the_bar(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	uint64_t old = d->notify, base = d->common;
	uint16_t bdf = d->bdf;

	assert_true(vdrv_start(d, 0, 0));
	c15_kicks_pass_the_device_by(f);
	pci_config_write(f->pc.pci, bdf, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_false(bus_write(f->pc.mmio, 0, old, 2, 0));
	pci_config_write(f->pc.pci, bdf, PCI_BASE_ADDRESS_4, 4,
			 (uint32_t)base + 0x1000000);
	pci_config_write(f->pc.pci, bdf, PCI_COMMAND, 2,
			 PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
	assert_false(bus_write(f->pc.mmio, 0, old, 2, 0));
	d->common += 0x1000000;
	d->notify += 0x1000000;
	c15_kicks_pass_the_device_by(f);
	/* Moved while it decodes. */
	pci_config_write(f->pc.pci, bdf, PCI_BASE_ADDRESS_4, 4, (uint32_t)base);
	d->common -= 0x1000000;
	d->notify -= 0x1000000;
	c15_kicks_pass_the_device_by(f);
}

static void no_dma_without_bus_master(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_buf buf;

	assert_true(vdrv_start(d, 0, 0));
	buf = (struct vdrv_buf){ vdrv_alloc(d, 64), 64 };
	pci_config_write(f->pc.pci, d->bdf, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	vdrv_add(&d->queue[0], &buf, 0, 1, false);
	vdrv_ring(&d->queue[0]);
	assert_int_equal(vdrv_wait(&d->queue[0], NULL, 20), -1);
	pci_config_write(f->pc.pci, d->bdf, PCI_COMMAND, 2,
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(vdrv_wait(&d->queue[0], NULL, 2000) >= 0);
}

static uint32_t window(struct fixture *f, uint32_t offset, unsigned len,
		       bool is_write, uint32_t value)
{
	unsigned at = f->drv.window;
	uint16_t bdf = f->drv.bdf;

	pci_config_write(f->pc.pci, bdf, at + VIRTIO_PCI_CAP_BAR, 1, 4);
	pci_config_write(f->pc.pci, bdf, at + VIRTIO_PCI_CAP_OFFSET, 4, offset);
	pci_config_write(f->pc.pci, bdf, at + VIRTIO_PCI_CAP_LENGTH, 4, len);
	if (is_write)
		pci_config_write(f->pc.pci, bdf, at + 16, len, value);
	return pci_config_read(f->pc.pci, bdf, at + 16, len);
}

static void window_in_configuration_space(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	/* With the BAR out of reach. */
	pci_config_write(f->pc.pci, d->bdf, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(window(f, VIRTIO_PCI_COMMON_NUMQ, 2, false, 0), 1);
	assert_int_equal(window(f, VIRTIO_PCI_COMMON_STATUS, 1, true, ACK),
			 ACK);
	window(f, VIRTIO_PCI_COMMON_STATUS, 1, true, ACK | DRIVER);
	window(f, VIRTIO_PCI_COMMON_DFSELECT, 4, true, 1);
	assert_int_equal(window(f, VIRTIO_PCI_COMMON_DF, 4, false, 0), 1);
	assert_int_equal(window(f, VIRTIO_PCI_COMMON_STATUS, 1, true, 0), 0);
	/* Nonsense in it does nothing. */
	window(f, 0x7fff, 4, true, ~0u);
	window(f, 0xfffffffc, 4, true, ~0u);
	window(f, 0x8000, 4, true, ~0u);
	window(f, VIRTIO_PCI_COMMON_STATUS, 3, true, ~0u);
	pci_config_write(f->pc.pci, d->bdf, d->window + VIRTIO_PCI_CAP_BAR, 1,
			 9);
	pci_config_write(f->pc.pci, d->bdf, d->window + 16, 4, ~0u);
	assert_int_equal(window(f, VIRTIO_PCI_COMMON_STATUS, 1, false, 0), 0);
	pci_config_write(f->pc.pci, d->bdf, PCI_COMMAND, 2,
			 PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
	assert_true(vdrv_start(d, 0, 0));
	ask_random(d, false);
}

/* Bring the device into state (n) of those that a driver can reach. */
static void reach(struct vdrv *d, unsigned n)
{
	struct vdrv_queue *q = &d->queue[0];

	assert_true(vdrv_reset(d));
	switch (n) {
	case 0:
		return;
	case 1:
		vdrv_set_status(d, ACK);
		return;
	case 2:
		vdrv_set_status(d, ACK | DRIVER);
		return;
	case 3:
		vdrv_negotiate(d, ~0ULL);
		return;
	case 4:
		vdrv_negotiate(d, ~0ULL);
		vdrv_queue_setup(d, 0, 0);
		return;
	case 5:
		assert_true(vdrv_start(d, ~0ULL, 0));
		return;
	case 6:
		assert_true(vdrv_start(d, ~0ULL, 0));
		vdrv_set_status(d, FAILED);
		return;
	default:
		assert_true(vdrv_start(d, ~0ULL, 0));
		vdrv_offer(q, 0xfff0);
		vdrv_publish(q);
		vdrv_ring(q);
		assert_true(vdrv_wait_status(d, BROKEN, 1000));
	}
}

/* Every register by every width in every state, with values that may hurt;
 * then the device still works. */
static void c9_registers_in_every_state(void **state)
{
	static const uint64_t values[] = {
		0,        1,          2,          0xff,        0x8000, 0xffff,
		0x100000, 0x7fffffff, 0xffffffff, 0x100000001, ~0ULL,
	};
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	for (unsigned n = 0; n < 8; n++) {
		reach(d, n);
		for (unsigned i = 0; i < 0x5100 * 4; i++) {
			unsigned size = 1 << i % 4;
			unsigned at = i / 4;
			uint64_t value =
				values[(i * 7 + n) % ARRAY_SIZE(values)];

			/* Each part, and a little behind it. */
			if (at % 0x1000 > 0x60 && at < 0x4000)
				continue;
			bus_write(f->pc.mmio, 0, d->common + at, size, value);
			bus_read(f->pc.mmio, 0, d->common + at, size);
		}
		/* The table of vectors was written, too. */
		pci_config_write(f->pc.pci, d->bdf, d->msix_cap + 2, 2, 0);
		vdrv_probe(d, &f->pc, virtio_pci_function(f->dev), VECTOR);
		assert_true(vdrv_start(d, ~0ULL, 0));
		if (f->dev->cls == &virtio_rng_device)
			assert_int_equal(ask_random(d, false), 64);
	}
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void c9_random_register_writes(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	uint64_t x = 88172645463325252ULL;

	for (unsigned i = 0; i < 60000; i++) {
		unsigned size = 1 << next_random(&x) % 4;
		uint64_t at = next_random(&x) % 0x3c, value = next_random(&x);

		if (i % 500 == 0)
			reach(d, next_random(&x) % 8);
		if (next_random(&x) % 4 == 0)
			at = next_random(&x) % 0x5000;
		if (next_random(&x) % 2)
			value &= 0xf;
		bus_write(f->pc.mmio, 0, d->common + at, size, value);
		bus_read(f->pc.mmio, 0, d->common + at, size);
		if (i % 97 == 0)
			pci_config_write(f->pc.pci, d->bdf,
					 d->window + next_random(&x) % 20, 1,
					 (uint32_t)value);
	}
	pci_config_write(f->pc.pci, d->bdf, d->msix_cap + 2, 2, 0);
	vdrv_probe(d, &f->pc, virtio_pci_function(f->dev), VECTOR);
	assert_true(vdrv_start(d, ~0ULL, 0));
	assert_int_equal(ask_random(d, false), 64);
}

/* State. */

static void save(struct device *dev, uint8_t **data, size_t *len)
{
	struct stream s;

	stream_init_save(&s);
	dev->cls->state(dev, &s);
	assert_int_equal(stream_error(&s), 0);
	*len = s.len;
	*data = malloc(s.len);
	assert_non_null(*data);
	memcpy(*data, s.data, s.len);
	stream_finish(&s);
}

static int load(struct device *dev, const uint8_t *data, size_t len)
{
	struct stream s;
	int ret;

	stream_init_load(&s, data, len);
	dev->cls->state(dev, &s);
	ret = stream_error(&s);
	stream_finish(&s);
	return ret;
}

/* Put a fresh device in the place of the old one, as after a migration. */
static void exchange(struct fixture *f, const uint8_t *data, size_t len)
{
	const struct device_class *cls = f->dev->cls;

	cls->destroy(f->dev);
	f->dev = fake_pc_add(&f->pc, cls, NULL);
	assert_int_equal(load(f->dev, data, len), 0);
	cls->resume(f->dev);
}

static void state_goes_on_amid_traffic(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	struct vdrv_queue *q = &d->queue[0];
	uint8_t *data;
	size_t len;

	for (unsigned round = 0; round < 10; round++) {
		uint64_t before = fake_pc_msi_count(&f->pc, VECTOR + 1);
		struct vdrv_buf buf;

		assert_true(vdrv_start(d, round & 1 ? ~0ULL : INDIRECT, 0));
		for (unsigned i = 0; i < 70; i++)
			ask_random(d, i & 1);
		f->dev->cls->quiesce(f->dev);
		/* Kicked, but quiet: nothing happens until it goes on. */
		buf = (struct vdrv_buf){ vdrv_alloc(d, 64), 64 };
		vdrv_add(q, &buf, 0, 1, false);
		vdrv_ring(q);
		assert_int_equal(vdrv_wait(q, NULL, 10), -1);
		save(f->dev, &data, &len);
		exchange(f, data, len);
		free(data);
		assert_true(vdrv_wait(q, NULL, 2000) >= 0);
		for (unsigned i = 0; i < 70; i++)
			ask_random(d, i & 1);
		f->dev->cls->quiesce(f->dev);
		f->dev->cls->resume(f->dev);
		/* With event indices, nobody asked for more than one. */
		assert_int_equal(fake_pc_msi_count(&f->pc, VECTOR + 1),
				 before + (round & 1 ? 1 : 141));
	}
}

static void state_of_all_statuses(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	uint8_t *data;
	size_t len;

	for (unsigned n = 0; n < 8; n++) {
		uint8_t status;

		reach(d, n);
		status = vdrv_status(d);
		f->dev->cls->quiesce(f->dev);
		save(f->dev, &data, &len);
		exchange(f, data, len);
		free(data);
		assert_int_equal(vdrv_status(d), status);
		assert_true(vdrv_start(d, 0, 0));
		ask_random(d, false);
	}
}

static void c9_flipped_state_is_refused_or_harmless(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;
	const struct device_class *cls = f->dev->cls;
	unsigned nr_refused = 0;
	uint8_t *data;
	size_t len;

	assert_true(vdrv_start(d, ~0ULL, 0));
	ask_random(d, false);
	cls->quiesce(f->dev);
	save(f->dev, &data, &len);
	for (size_t bit = 0; bit < len * 8; bit++) {
		/* Much of configuration space is not taken over anyway. */
		if (bit / 8 > 400 && bit / 8 < len - 400 && bit % 61)
			continue;
		data[bit / 8] ^= 1 << bit % 8;
		if (load(f->dev, data, len))
			nr_refused++;
		cls->resume(f->dev);
		vdrv_ring(&d->queue[0]);
		cls->quiesce(f->dev);
		data[bit / 8] ^= 1 << bit % 8;
	}
	for (size_t short_len = 0; short_len < len; short_len += 7)
		assert_int_not_equal(load(f->dev, data, short_len), 0);
	assert_true(nr_refused > 100);
	assert_int_equal(load(f->dev, data, len), 0);
	cls->resume(f->dev);
	ask_random(d, false);
	free(data);
}

static void machine_reset_is_power_on(void **state)
{
	struct fixture *f = *state;
	struct vdrv *d = &f->drv;

	assert_true(vdrv_start(d, ~0ULL, 0));
	ask_random(d, false);
	f->dev->cls->reset(f->dev);
	/* BARs do not decode, so nothing answers. */
	assert_int_equal(vdrv_status(d), 0xff);
	fake_pc_assign(&f->pc);
	vdrv_probe(d, &f->pc, virtio_pci_function(f->dev), VECTOR);
	assert_int_equal(vdrv_status(d), 0);
	assert_true(vdrv_start(d, ~0ULL, 0));
	ask_random(d, false);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(identity_is_modern),
		T(c10_round_trip),
		T(status_climbs_one_bit_at_a_time),
		T(features_are_checked),
		T(c11_queues_are_registered_again_after_reset),
		T(geometry_is_fixed_once_enabled),
		T(bad_geometry_needs_a_reset),
		T(vectors_that_do_not_exist_are_none),
		T(c14_completion_sends_the_queues_vector),
		T(c16_routed_vector_is_signalled_by_eventfd),
		cmocka_unit_test_setup_teardown(c14_intx_until_the_isr_is_read,
						setup_intx, teardown),
		T(c12_kicks_are_counted_and_wait_for_the_driver),
		T(c13_no_kick_is_lost),
		T(c15_doorbells_follow_the_bar),
		T(no_dma_without_bus_master),
		T(window_in_configuration_space),
		T(c9_registers_in_every_state),
		T(c9_random_register_writes),
		T(state_goes_on_amid_traffic),
		T(state_of_all_statuses),
		T(c9_flipped_state_is_refused_or_harmless),
		T(machine_reset_is_power_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
