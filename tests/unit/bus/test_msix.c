#include "pci_fixture.h"

#define NR_VECTORS 3

struct fixture {
	struct world w;
	struct fn *f;
	unsigned cap;
};

static struct fn *new_fn(struct world *w, unsigned nr)
{
	struct fn *f = fn_new('m', false);

	fn_bar(f, 0, 0x10000, false, true);
	assert_int_equal(msix_init(&f->pci, nr, 0, 0x2000), 0);
	assert_int_equal(pci_dev_add(&f->pci, w->root, 1, 0), 0);
	return f;
}

static int setup(void **state)
{
	static struct fixture x;

	world_init(&x.w);
	x.f = new_fn(&x.w, NR_VECTORS);
	x.cap = x.f->pci.config[PCI_CAPABILITY_LIST];
	*state = &x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;

	fn_free(x->f);
	world_finish(&x->w);
	return 0;
}

static void set_control(struct fixture *x, uint16_t flags)
{
	pci_config_write(x->w.root, 8, x->cap + PCI_MSIX_FLAGS, 2, flags);
}

static void set_entry(struct fixture *x, unsigned n, uint64_t addr,
		      uint32_t data, bool is_masked)
{
	msix_write(&x->f->pci, n * 16, 8, addr);
	msix_write(&x->f->pci, n * 16 + 8, 4, data);
	msix_write(&x->f->pci, n * 16 + 12, 4, is_masked);
}

static uint64_t pending(struct fixture *x)
{
	return msix_read(&x->f->pci, NR_VECTORS * 16, 8);
}

static void capability_and_registers(void **state)
{
	struct fixture *x = *state;
	struct pci_dev *dev = &x->f->pci;

	assert_int_equal(msix_size(3), 56);
	assert_int_equal(msix_size(65), 65 * 16 + 16);
	assert_int_equal(pci_config_read(x->w.root, 8, x->cap, 1),
			 PCI_CAP_ID_MSIX);
	assert_int_equal(pci_config_read(x->w.root, 8, x->cap + 2, 2), 2);
	assert_int_equal(pci_config_read(x->w.root, 8, x->cap + 4, 4), 0x2000);
	assert_int_equal(pci_config_read(x->w.root, 8, x->cap + 8, 4), 0x2030);
	/* Masked at power-on; reserved bits stay zero. */
	assert_int_equal(msix_read(dev, 12, 4), 1);
	msix_write(dev, 0, 4, 0xfee01003);
	msix_write(dev, 4, 4, 0x12);
	assert_int_equal(msix_read(dev, 0, 8), 0x12fee01000);
	msix_write(dev, 8, 8, 0xfffffffe00004321);
	assert_int_equal(msix_read(dev, 8, 8), 0x4321);
	/* Other sizes, other places. */
	msix_write(dev, 0, 2, 0);
	msix_write(dev, 2, 4, 0);
	msix_write(dev, 48, 8, ~0ULL);
	msix_write(dev, 56, 8, ~0ULL);
	assert_int_equal(msix_read(dev, 0, 4), 0xfee01000);
	assert_int_equal(msix_read(dev, 1, 1), 0);
	assert_int_equal(msix_read(dev, 48, 8), 0);
	assert_int_equal(msix_read(dev, 1 << 20, 4), 0);
	assert_int_equal(msix_init(&x->f->pci, 0, 0, 0), -EINVAL);
	assert_int_equal(msix_init(&x->f->pci, 2049, 0, 0), -EINVAL);
}

static void vectors_are_sent_when_enabled(void **state)
{
	struct fixture *x = *state;
	struct fake_chip *chip = &x->w.chip;

	set_entry(x, 1, 0xfee00000, 0x41, false);
	msix_notify(&x->f->pci, 1);
	assert_int_equal(chip->nr_msis, 0);
	assert_false(msix_is_enabled(&x->f->pci));
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	assert_true(msix_is_enabled(&x->f->pci));
	/* What came while it was off is not pending. */
	assert_int_equal(chip->nr_msis, 0);
	msix_notify(&x->f->pci, 1);
	assert_int_equal(chip->nr_msis, 1);
	assert_int_equal(chip->last.addr, 0xfee00000);
	assert_int_equal(chip->last.data, 0x41);
	msix_notify(&x->f->pci, NR_VECTORS);
	msix_notify(&x->f->pci, ~0u);
	assert_int_equal(chip->nr_msis, 1);
	assert_int_equal(x->f->pci.nr_msix, 1);
}

static void masked_vectors_are_pending(void **state)
{
	struct fixture *x = *state;
	struct fake_chip *chip = &x->w.chip;

	set_entry(x, 0, 0xfee00000, 0x40, true);
	set_entry(x, 2, 0xfee00000, 0x42, false);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	msix_notify(&x->f->pci, 0);
	msix_notify(&x->f->pci, 0);
	assert_int_equal(pending(x), 1);
	assert_int_equal(chip->nr_msis, 0);
	/* Unmasked: once, with the message as it is now. */
	set_entry(x, 0, 0xfee01000, 0x50, false);
	assert_int_equal(chip->nr_msis, 1);
	assert_int_equal(chip->last.data, 0x50);
	assert_int_equal(pending(x), 0);

	/* The function's mask. */
	set_control(x, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	msix_notify(&x->f->pci, 0);
	msix_notify(&x->f->pci, 2);
	assert_int_equal(pending(x), 5);
	assert_int_equal(msix_read(&x->f->pci, NR_VECTORS * 16, 4), 5);
	assert_int_equal(msix_read(&x->f->pci, NR_VECTORS * 16 + 4, 4), 0);
	assert_int_equal(chip->nr_msis, 1);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(chip->nr_msis, 3);
	assert_int_equal(pending(x), 0);

	msix_write(&x->f->pci, 12, 4, 1);
	msix_notify(&x->f->pci, 0);
	pci_dev_reset(&x->f->pci);
	assert_int_equal(pending(x), 0);
	assert_false(msix_is_enabled(&x->f->pci));
}

static void intx_is_silent_with_msix(void **state)
{
	struct fixture *x = *state;

	pci_intx_set(&x->f->pci, true);
	assert_true(x->w.chip.gsi[17]);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	assert_false(x->w.chip.gsi[17]);
	set_control(x, 0);
	assert_true(x->w.chip.gsi[17]);
}

static uint64_t drain(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void signal_fd(int fd)
{
	static const uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void c16_routes_follow_the_guest(void **state)
{
	struct fixture *x = *state;
	struct fake_chip *chip = &x->w.chip;
	bool is_routed = false;
	int fd;

	chip->can_route = true;
	fd = msix_eventfd(&x->f->pci, 1, &is_routed);
	assert_true(fd >= 0 && is_routed);
	assert_int_equal(chip->nr_routes, 0);
	set_entry(x, 1, 0xfee00000, 0x41, false);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(chip->routed_fd, fd);
	assert_int_equal(chip->route.data, 0x41);
	/* Through the eventfd, not by us. */
	msix_notify(&x->f->pci, 1);
	assert_int_equal(chip->nr_msis, 0);
	assert_int_equal(drain(fd), 1);
	assert_int_equal(x->f->pci.nr_msix, 1);

	/* Another message while open; the same again is no news. */
	msix_write(&x->f->pci, 24, 4, 0x51);
	assert_int_equal(chip->route.data, 0x51);
	assert_int_equal(chip->nr_routes, 2);
	msix_write(&x->f->pci, 24, 4, 0x51);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(chip->nr_routes, 2);

	/* Masked: no route; signals wait in the eventfd or as pending. */
	msix_write(&x->f->pci, 28, 4, 1);
	assert_int_equal(chip->routed_fd, -1);
	signal_fd(fd);
	assert_int_equal(pending(x), 2);
	msix_write(&x->f->pci, 28, 4, 0);
	assert_int_equal(chip->routed_fd, fd);
	assert_int_equal(drain(fd), 1);
	assert_int_equal(pending(x), 0);

	/* The same eventfd on a second call; an unrouted chip says so. */
	assert_int_equal(msix_eventfd(&x->f->pci, 1, &is_routed), fd);
	chip->can_route = false;
	assert_true(msix_eventfd(&x->f->pci, 0, &is_routed) >= 0);
	assert_false(is_routed);
	assert_int_equal(msix_eventfd(&x->f->pci, NR_VECTORS, &is_routed),
			 -EINVAL);
	chip->can_route = true;
	pci_dev_reset(&x->f->pci);
	assert_int_equal(chip->routed_fd, -1);
}

static void state_continues(void **state)
{
	struct fixture *x = *state;
	struct fixture y = { 0 };
	struct stream s, l;
	bool is_routed;
	int fd;

	set_entry(x, 0, 0xfee00000, 0x40, false);
	set_entry(x, 2, 0xfee00000, 0x42, true);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	msix_notify(&x->f->pci, 2);
	stream_init_save(&s);
	pci_dev_state(&x->f->pci, &s);
	assert_int_equal(stream_error(&s), 0);
	assert_int_equal(pending(x), 4);

	world_init(&y.w);
	y.f = new_fn(&y.w, NR_VECTORS);
	y.w.chip.can_route = true;
	fd = msix_eventfd(&y.f->pci, 0, &is_routed);
	assert_int_equal(y.w.chip.routed_fd, -1);
	stream_init_load(&l, s.data, s.len);
	pci_dev_state(&y.f->pci, &l);
	assert_int_equal(stream_error(&l), 0);
	assert_int_equal(y.w.chip.routed_fd, fd);
	assert_int_equal(y.w.chip.route.data, 0x40);
	assert_int_equal(pending(&y), 4);
	msix_write(&y.f->pci, 2 * 16 + 12, 4, 0);
	assert_int_equal(y.w.chip.nr_msis, 1);
	assert_int_equal(y.w.chip.last.data, 0x42);
	fn_free(y.f);

	/* A device with another number of vectors refuses it. */
	y.f = new_fn(&y.w, NR_VECTORS + 1);
	stream_init_load(&l, s.data, s.len);
	pci_dev_state(&y.f->pci, &l);
	assert_int_equal(stream_error(&l), -EINVAL);
	fn_free(y.f);
	world_finish(&y.w);
	stream_finish(&s);
}

/* No notification is lost, however the mask moves meanwhile. */
struct storm {
	struct fixture *x;
	unsigned nr;
};

static void *storm_main(void *opaque)
{
	struct storm *s = opaque;

	for (unsigned i = 0; i < s->nr; i++)
		msix_notify(&s->x->f->pci, 0);
	return NULL;
}

static void mask_against_notify(void **state)
{
	struct fixture *x = *state;
	struct storm s = { x, 20000 };
	pthread_t t;

	set_entry(x, 0, 0xfee00000, 0x40, false);
	set_control(x, PCI_MSIX_FLAGS_ENABLE);
	pthread_create(&t, NULL, storm_main, &s);
	for (unsigned i = 0; i < 5000; i++)
		msix_write(&x->f->pci, 12, 4, i % 2 == 0);
	pthread_join(t, NULL);
	assert_int_equal(pending(x), 0);
	assert_in_range(x->w.chip.nr_msis, 1, s.nr);
	x->w.chip.nr_msis = 0;
	msix_notify(&x->f->pci, 0);
	assert_int_equal(x->w.chip.nr_msis, 1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(capability_and_registers),
		T(vectors_are_sent_when_enabled),
		T(masked_vectors_are_pending),
		T(intx_is_silent_with_msix),
		T(c16_routes_follow_the_guest),
		T(state_continues),
		T(mask_against_notify),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
