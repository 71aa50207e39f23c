#include "chip_test.h"

#include "device/chip/uart.h"
#include "fake_chr.h"

#define IRQ  4

#define DATA 0x3f8
#define IER  0x3f9
#define IIR  0x3fa
#define LCR  0x3fb
#define MCR  0x3fc
#define LSR  0x3fd
#define MSR  0x3fe
#define SCR  0x3ff

static const struct board_range ranges[] = { { false, UART_COM1, 8 }, { 0 } };

/* Of the test that runs; fresh devices share it. */
static struct chr *stream;

static struct device *make(struct board *b)
{
	const struct uart_opts opts = { .port = UART_COM1,
					.irq = board_line(b, IRQ),
					.chr = stream };
	struct device *dev;

	assert_int_equal(uart_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static int setup(void **state)
{
	return chr_open(&stream, "none", NULL, NULL, NULL);
}

static int teardown(void **state)
{
	chr_close(stream);
	return 0;
}

static uint8_t in(struct board *b, uint16_t port)
{
	return (uint8_t)board_in(b, port, 1);
}

static void out(struct board *b, uint16_t port, uint8_t value)
{
	board_out(b, port, 1, value);
}

static void f12_uart_sends(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	assert_int_equal(in(&b, LSR), 0x60);
	for (const char *p = "hello\n"; *p; p++)
		out(&b, DATA, (uint8_t)*p);
	assert_int_equal(stream->out_len, 6);
	assert_memory_equal(stream->out, "hello\n", 6);
	assert_int_equal(in(&b, LSR), 0x60);
	/* The divisor is not data. */
	out(&b, LCR, 0x83);
	out(&b, DATA, 1);
	out(&b, IER, 0);
	assert_int_equal(in(&b, DATA), 1);
	assert_int_equal(in(&b, IER), 0);
	out(&b, LCR, 0x03);
	assert_int_equal(in(&b, LCR), 0x03);
	assert_int_equal(stream->out_len, 6);
	dev->cls->destroy(dev);
	board_finish(&b);
}

/* What drivers/tty/serial/8250 does to find out what it has. */
static void uart_is_probed_as_16550a(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	/* Does it exist? */
	out(&b, IER, 0);
	assert_int_equal(in(&b, IER) & 0xf, 0);
	out(&b, IER, 0xf);
	assert_int_equal(in(&b, IER) & 0xf, 0xf);
	out(&b, IER, 0);
	/* Loopback. */
	out(&b, MCR, 0x1a);
	assert_int_equal(in(&b, MSR) & 0xf0, 0x90);
	out(&b, MCR, 0x0b);
	assert_int_equal(in(&b, MSR) & 0xf0, 0xb0);
	/* FIFOs. */
	out(&b, LCR, 0);
	out(&b, IIR, 1);
	assert_int_equal(in(&b, IIR) >> 6, 3);
	/* No enhanced features: it is an IIR at all times. */
	out(&b, LCR, 0x80);
	assert_int_not_equal(in(&b, IIR), 0);
	out(&b, LCR, 0xbf);
	assert_int_not_equal(in(&b, IIR), 0);
	out(&b, LCR, 0);
	/* No bugs of THRE: enabling it interrupts each time. */
	for (unsigned i = 0; i < 2; i++) {
		out(&b, IER, 2);
		assert_true(b.level[IRQ]);
		assert_int_equal(in(&b, IIR) & 0xf, 2);
		assert_false(b.level[IRQ]);
		assert_int_equal(in(&b, IIR) & 0xf, 1);
		out(&b, IER, 0);
	}
	/* Scratch. */
	out(&b, SCR, 0xa5);
	assert_int_equal(in(&b, SCR), 0xa5);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void uart_transmit_interrupt(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	out(&b, IER, 2);
	assert_int_equal(in(&b, IIR), 2);
	out(&b, DATA, 'a');
	assert_true(b.level[IRQ]);
	out(&b, DATA, 'b');
	assert_int_equal(in(&b, IIR), 2);
	assert_int_equal(in(&b, IIR), 1);
	assert_false(b.level[IRQ]);
	assert_int_equal(b.rises[IRQ], 2);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void uart_receives_with_trigger_and_timeout(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	out(&b, LCR, 0x83);
	out(&b, DATA, 1); /* 115200 baud */
	out(&b, IER, 0);
	out(&b, LCR, 0x03);
	out(&b, IIR, 0x81); /* trigger at 8 */
	out(&b, IER, 1);
	assert_int_equal(fake_chr_feed(stream, "1234567", 7), 7);
	assert_int_equal(in(&b, LSR), 0x61);
	assert_int_equal(in(&b, IIR), 0xc1);
	assert_int_equal(fake_chr_feed(stream, "8", 1), 1);
	assert_true(b.level[IRQ]);
	assert_int_equal(in(&b, IIR), 0xc4);
	assert_int_equal(in(&b, DATA), '1');
	assert_false(b.level[IRQ]);
	/* Four characters at 115200 baud are 347 us. */
	board_run(&b, 340 * NSEC_PER_USEC);
	assert_false(b.level[IRQ]);
	board_run(&b, 10 * NSEC_PER_USEC);
	assert_true(b.level[IRQ]);
	assert_int_equal(in(&b, IIR), 0xcc);
	assert_int_equal(in(&b, DATA), '2');
	assert_false(b.level[IRQ]);
	for (char c = '3'; c <= '8'; c++)
		assert_int_equal(in(&b, DATA), c);
	assert_int_equal(in(&b, LSR), 0x60);
	assert_int_equal(in(&b, DATA), 0);
	board_run(&b, NSEC_PER_SEC);
	assert_int_equal(b.rises[IRQ], 2);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void uart_holds_the_stream_back(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	/* Without FIFO one at a time. */
	assert_int_equal(fake_chr_feed(stream, "xyz", 3), 1);
	assert_int_equal(stream->nr_resumes, 0);
	assert_int_equal(in(&b, DATA), 'x');
	assert_int_equal(stream->nr_resumes, 1);
	out(&b, IIR, 1);
	assert_int_equal(fake_chr_feed(stream, "0123456789abcdefghij", 20), 16);
	assert_int_equal(in(&b, DATA), '0');
	assert_int_equal(in(&b, DATA), '1');
	assert_int_equal(stream->nr_resumes, 2);
	assert_int_equal(fake_chr_feed(stream, "ghij", 4), 2);
	out(&b, IIR, 3); /* clear */
	assert_int_equal(in(&b, LSR), 0x60);
	assert_int_equal(stream->nr_resumes, 3);
	/* In loopback nothing comes from outside. */
	out(&b, MCR, 0x10);
	assert_int_equal(fake_chr_feed(stream, "k", 1), 0);
	out(&b, MCR, 0);
	assert_int_equal(stream->nr_resumes, 4);
	dev->cls->destroy(dev);
	assert_false(stream->has_user);
	board_finish(&b);
}

static void uart_loopback_and_overrun(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	out(&b, MCR, 0x10);
	out(&b, IIR, 1);
	out(&b, IER, 4);
	for (unsigned i = 0; i < 17; i++)
		out(&b, DATA, (uint8_t)i);
	assert_int_equal(stream->out_len, 0);
	assert_int_equal(in(&b, IIR), 0xc6);
	assert_int_equal(in(&b, LSR), 0x63);
	assert_int_equal(in(&b, LSR), 0x61);
	assert_int_equal(in(&b, IIR), 0xc1);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(in(&b, DATA), i);
	/* Modem lines: deltas, and RI only as it drops. */
	out(&b, IER, 8);
	in(&b, MSR);
	out(&b, MCR, 0x1f);
	assert_int_equal(in(&b, MSR), 0xfb);
	assert_int_equal(in(&b, MSR), 0xf0);
	out(&b, MCR, 0x1b);
	assert_int_equal(in(&b, IIR), 0xc0);
	assert_true(b.level[IRQ]);
	assert_int_equal(in(&b, MSR), 0xb4);
	assert_false(b.level[IRQ]);
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void uart_without_stream(void **state)
{
	const struct uart_opts opts = { .port = UART_COM2 };
	struct device *dev, *second;
	struct err err = { 0 };
	struct board b;

	board_init(&b, 0);
	assert_int_equal(uart_create(&dev, &b.env, &opts, NULL), 0);
	board_out(&b, UART_COM2, 1, 'a');
	assert_int_equal(board_in(&b, UART_COM2 + 6, 1), 0);
	assert_int_equal(uart_create(&second, &b.env, &opts, &err), -EEXIST);
	assert_non_null(strstr(err.what, "uart"));
	dev->cls->destroy(dev);
	board_finish(&b);
}

static void uart_moves_with_half_full_fifo(void **state)
{
	struct board a, b;
	struct device *from, *to;
	struct chr *old = stream;

	board_init(&a, 0);
	board_init(&b, 1LL << 40);
	from = make(&a);
	chr_open(&stream, "none", NULL, NULL, NULL);
	to = make(&b);
	out(&a, LCR, 0x83);
	out(&a, DATA, 1);
	out(&a, IER, 0);
	out(&a, LCR, 0x03);
	out(&a, IIR, 0xc1);
	out(&a, IER, 3);
	assert_int_equal(in(&a, IIR), 0xc2);
	fake_chr_feed(old, "abcdef", 6);
	in(&a, DATA);
	board_run(&a, 200 * NSEC_PER_USEC);
	out(&a, DATA, 'T');
	assert_int_equal(board_move(&a, from, &b, to), 0);
	assert_int_equal(stream->nr_resumes, 1);
	assert_true(b.level[IRQ]);
	assert_int_equal(in(&b, IIR), 0xc2);
	board_run(&b, 140 * NSEC_PER_USEC);
	assert_int_equal(in(&b, IIR), 0xc1);
	board_run(&b, 10 * NSEC_PER_USEC);
	assert_int_equal(in(&b, IIR), 0xcc);
	fake_chr_feed(stream, "gh", 2);
	for (const char *p = "bcdefgh"; *p; p++)
		assert_int_equal(in(&b, DATA), *p);
	assert_false(b.level[IRQ]);
	from->cls->destroy(from);
	to->cls->destroy(to);
	chr_close(old);
	board_finish(&a);
	board_finish(&b);
}

static void uart_survives(void **state)
{
	struct board b;
	struct device *dev;

	board_init(&b, 0);
	dev = make(&b);
	board_fuzz(&b, ranges, FUZZ_ACCESSES, 1);
	for (unsigned i = 0; i < 20000; i++) {
		board_fuzz(&b, ranges, 3, i);
		fake_chr_feed(stream, "0123456789abcdefghij", i % 20);
	}
	dev->cls->reset(dev);
	out(&b, IIR, 0x81);
	fake_chr_feed(stream, "12345", 5);
	board_corrupt(&b, dev, make, ranges);
	board_finish(&b);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(f12_uart_sends),
		TEST(uart_is_probed_as_16550a),
		TEST(uart_transmit_interrupt),
		TEST(uart_receives_with_trigger_and_timeout),
		TEST(uart_holds_the_stream_back),
		TEST(uart_loopback_and_overrun),
		TEST(uart_without_stream),
		TEST(uart_moves_with_half_full_fifo),
		TEST(uart_survives),
	};

	return cmocka_run_group_tests_name("uart", tests, NULL, NULL);
}
