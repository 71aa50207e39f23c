/* The example of docs/adding-a-device.md, on a board. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/log.h"
#include "board.h"
#include "countdown.h"

#define PORT 0x700
#define GSI  11
#define US   1000 /* ns */

static const struct board_range ranges[] = { { false, PORT, 4 }, { 0 } };

/* As "--device countdown" does. */
static struct device *make(struct board *b)
{
	struct countdown_opts opts = { 0 };
	struct device *dev = NULL;

	assert_int_equal(opt_defaults(countdown_class.opts, &opts, NULL), 0);
	assert_int_equal(countdown_class.create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static void interrupts_at_the_end(void **state)
{
	struct device *dev;
	struct board b;

	board_init(&b, 0);
	dev = make(&b);
	board_out(&b, PORT, 4, 500);
	board_run(&b, 200 * US);
	assert_int_equal(board_in(&b, PORT, 4), 300);
	assert_int_equal(b.rises[GSI], 0);
	board_run(&b, 300 * US);
	assert_int_equal(board_in(&b, PORT, 4), 0);
	assert_int_equal(b.rises[GSI], 1);

	board_out(&b, PORT, 4, 500);
	board_out(&b, PORT, 4, 0);
	board_out(&b, PORT, 4, UINT32_MAX);
	board_run(&b, 5000000000LL * US);
	assert_int_equal(b.rises[GSI], 1);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void goes_on_elsewhere(void **state)
{
	struct device *dev, *to;
	struct board a, b;

	board_init(&a, 0);
	board_init(&b, 1000000);
	dev = make(&a);
	to = make(&b);
	board_out(&a, PORT, 4, 500);
	board_run(&a, 200 * US);
	assert_int_equal(board_move(&a, dev, &b, to), 0);
	board_run(&b, 299 * US);
	assert_int_equal(b.rises[GSI], 0);
	board_run(&b, 1 * US);
	assert_int_equal(b.rises[GSI], 1);
	to->cls->reset(to);
	dev->cls->destroy(dev);
	to->cls->destroy(to);
	board_finish(&a);
	board_finish(&b);
}

static void survives(void **state)
{
	struct board b;

	board_init(&b, 0);
	board_corrupt(&b, make(&b), make, ranges);
	board_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(interrupts_at_the_end),
		cmocka_unit_test(goes_on_elsewhere),
		cmocka_unit_test(survives),
	};

	log_set_level(LOG_ERROR); /* the guest makes many mistakes here */
	return cmocka_run_group_tests_name("countdown", tests, NULL, NULL);
}
