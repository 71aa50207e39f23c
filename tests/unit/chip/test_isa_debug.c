#include "chip_test.h"

#include "device/chip/isa_debug.h"
#include "fake_chr.h"

static const struct board_range ranges[] = { { false, 0xe9, 1 },
					     { false, 0x500, 8 },
					     { 0 } };

/* As "--device NAME,text" does. */
static int try_make(struct board *b, const struct device_class *cls,
		    const char *text, struct device **dev, struct err *err)
{
	uint64_t opts[8] = { 0 };
	int r;

	assert_true(cls->opts_size <= sizeof(opts));
	assert_int_equal(opt_defaults(cls->opts, opts, err), 0);
	r = opt_parse(cls->opts, cls->name, text, opts, err);
	if (!r)
		r = cls->create(dev, &b->env, opts, err);
	opt_free(cls->opts, opts);
	return r;
}

static struct device *make(struct board *b, const struct device_class *cls,
			   const char *text)
{
	struct device *dev;

	assert_int_equal(try_make(b, cls, text, &dev, NULL), 0);
	return dev;
}

static void debugcon_writes(void **state)
{
	struct device *dev, *other;
	struct err err = { 0 };
	struct board b;

	board_init(&b, 0);
	dev = make(&b, &debugcon_class, "chr=none");
	assert_int_equal(board_in(&b, 0xe9, 1), 0xe9);
	for (unsigned i = 0; i < 10000; i++)
		board_out(&b, 0xe9, 1, 'a');
	/* The port is taken; the stream opened for it is closed again. */
	assert_int_equal(try_make(&b, &debugcon_class, "", &other, &err),
			 -EEXIST);
	err = (struct err){ 0 };
	assert_int_equal(try_make(&b, &debugcon_class,
				  "iobase=0x402,chr=broken", &other, &err),
			 -EIO);
	assert_int_equal(board_in(&b, 0x402, 1), 0xff);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void a35_debug_exit_has_a_status(void **state)
{
	struct device *dev, *other;
	struct err err = { 0 };
	struct board b;

	board_init(&b, 0);
	dev = make(&b, &debugexit_class, NULL);
	board_out(&b, 0x501, 1, 0x10);
	assert_int_equal(b.event, MACHINE_EXIT);
	assert_int_equal(b.event_value, 0x21);
	other = make(&b, &debugexit_class, "iobase=0xf4,iosize=0x04");
	board_out(&b, 0xf4, 4, 0);
	assert_int_equal(b.event_value, 1);
	assert_int_equal(b.nr_events, 2);
	board_in(&b, 0xf4, 4);
	assert_int_equal(b.nr_events, 2);
	dev->cls->destroy(dev);
	other->cls->destroy(other);
	assert_int_equal(try_make(&b, &debugexit_class, "iosize=9", &dev, &err),
			 -EINVAL);
	board_finish(&b);
}

static void pvpanic_reports(void **state)
{
	struct device *dev;
	struct board b;

	board_init(&b, 0);
	dev = make(&b, &pvpanic_class, NULL);
	assert_int_equal(board_in(&b, 0x505, 1), 3);
	board_out(&b, 0x505, 1, 4);
	assert_int_equal(b.nr_events, 0);
	board_out(&b, 0x505, 1, 2);
	assert_int_equal(b.event, MACHINE_PANICKED);
	assert_int_equal(b.event_value, 2);
	board_out(&b, 0x505, 1, 1);
	assert_int_equal(b.event_value, 1);
	assert_int_equal(b.nr_events, 2);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static struct device *make_debugcon(struct board *b)
{
	return make(b, &debugcon_class, NULL);
}

static struct device *make_debugexit(struct board *b)
{
	return make(b, &debugexit_class, NULL);
}

static struct device *make_pvpanic(struct board *b)
{
	return make(b, &pvpanic_class, NULL);
}

static void isa_debug_survives(void **state)
{
	struct device *(*const makers[])(struct board * b) = { make_debugcon,
							       make_debugexit,
							       make_pvpanic };
	struct board a, b;

	board_init(&a, 0);
	board_init(&b, 0);
	for (unsigned i = 0; i < ARRAY_SIZE(makers); i++) {
		struct device *dev = makers[i](&a), *to = makers[i](&b);

		board_fuzz(&a, ranges, FUZZ_ACCESSES, i);
		assert_int_equal(board_move(&a, dev, &b, to), 0);
		board_fuzz(&b, ranges, 1000, i);
		to->cls->reset(to);
		to->cls->destroy(to);
		board_corrupt(&a, dev, makers[i], ranges);
	}
	board_finish(&a);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(debugcon_writes),
		cmocka_unit_test(a35_debug_exit_has_a_status),
		cmocka_unit_test(pvpanic_reports),
		cmocka_unit_test(isa_debug_survives),
	};

	return cmocka_run_group_tests_name("isa_debug", tests, NULL, NULL);
}
