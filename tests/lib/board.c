#include "board.h"

#include <stdlib.h>

#include "base/bits.h"

static int64_t host_now(void *opaque)
{
	const struct board *b = opaque;

	return b->host_ns;
}

static void host_arm(void *opaque, int64_t host_ns)
{
	struct board *b = opaque;

	b->armed_ns = host_ns;
}

static uint64_t host_tsc(void *opaque)
{
	const struct board *b = opaque;

	return (uint64_t)b->host_ns * (BOARD_TSC_KHZ / 1000000);
}

static void set_gsi(void *chip, unsigned n, bool level)
{
	struct board *b = chip;

	vm_assert(n < BOARD_NR_GSIS);
	b->rises[n] += level && !b->level[n];
	b->level[n] = level;
}

static void send_msi(void *chip, const struct msi_msg *msg)
{
	struct board *b = chip;

	b->nr_msi++;
	b->msi = *msg;
}

static const struct irqchip_ops chip_ops = { .set_gsi = set_gsi,
					     .send_msi = send_msi };

static void event(void *opaque, enum machine_event e, int value)
{
	struct board *b = opaque;

	b->nr_events++;
	b->event = e;
	b->event_value = value;
}

void board_init(struct board *b, int64_t host_ns)
{
	const struct vclock_host host = {
		.now = host_now, .arm = host_arm, .tsc = host_tsc, .opaque = b
	};
	int r;

	*b = (struct board){ .host_ns = host_ns, .armed_ns = INT64_MAX };
	gmem_init(&b->mem);
	r = gmem_add(&b->mem, "ram", 0, BOARD_RAM_SIZE, 0, NULL);
	vm_assert(!r);
	b->dma.mem = &b->mem;
	b->pio = bus_create("pio", true);
	b->mmio = bus_create("mmio", false);
	b->irqchip = (struct irqchip){ .ops = &chip_ops, .chip = b };
	b->env = (struct device_env){
		.pio = b->pio,
		.mmio = b->mmio,
		.clock = vclock_create(&host, BOARD_TSC_KHZ),
		.irqchip = &b->irqchip,
		.dma = &b->dma,
		.event = event,
		.event_opaque = b,
	};
	vm_assert(b->pio && b->mmio && b->env.clock);
	vclock_start(b->env.clock, false);
}

void board_finish(struct board *b)
{
	bus_destroy(b->pio);
	bus_destroy(b->mmio);
	vclock_destroy(b->env.clock);
	gmem_finish(&b->mem);
}

struct irq_line board_line(struct board *b, unsigned n)
{
	return irq_gsi_line(&b->irqchip, n);
}

void board_run(struct board *b, int64_t ns)
{
	int64_t end = b->host_ns + ns;

	while (b->armed_ns <= end) {
		b->host_ns = MAX(b->host_ns, b->armed_ns);
		vclock_expire(b->env.clock);
	}
	b->host_ns = end;
}

uint64_t board_in(struct board *b, uint16_t port, unsigned size)
{
	return bus_read(b->pio, 0, port, size);
}

void board_out(struct board *b, uint16_t port, unsigned size, uint64_t value)
{
	bus_write(b->pio, 0, port, size, value);
}

int board_move(struct board *from, struct device *from_dev, struct board *to,
	       struct device *to_dev)
{
	struct stream out, in;
	int r;

	vclock_stop(from->env.clock);
	vclock_stop(to->env.clock);
	stream_init_save(&out);
	r = vclock_save(from->env.clock, &out);
	vm_assert(!r);
	from_dev->cls->state(from_dev, &out);
	vm_assert(!stream_error(&out));
	stream_init_load(&in, out.data, out.len);
	r = vclock_load(to->env.clock, &in);
	vm_assert(!r);
	to_dev->cls->state(to_dev, &in);
	r = stream_error(&in);
	vm_assert(r || in.pos == in.len);
	stream_finish(&out);
	vclock_start(to->env.clock, false);
	return r;
}

static uint32_t random_next(uint64_t *state)
{
	*state = *state * 6364136223846793005 + 1442695040888963407;
	return (uint32_t)(*state >> 33);
}

static void access_once(struct board *b, const struct board_range *r,
			uint64_t *rng)
{
	unsigned size = 1u << random_next(rng) % 4;
	uint64_t addr = r->base + random_next(rng) % r->len;
	struct bus *bus = r->is_mmio ? b->mmio : b->pio;
	unsigned cpu = random_next(rng) % 4;
	uint64_t value = (uint64_t)random_next(rng) << 32 | random_next(rng);

	/* Aligned and small values reach deeper. */
	if (random_next(rng) % 4)
		addr &= ~(uint64_t)(size - 1);
	if (r->is_mmio && random_next(rng) % 2)
		addr &= ~0xfULL;
	if (random_next(rng) % 2)
		value &= random_next(rng) % 2 ? 0x1f : 0xff;
	if (random_next(rng) % 2)
		bus_write(bus, cpu, addr, size, value & size_mask(size));
	else
		bus_read(bus, cpu, addr, size);
}

void board_fuzz(struct board *b, const struct board_range *ranges, unsigned nr,
		unsigned seed)
{
	unsigned nr_ranges = 0;
	uint64_t rng = seed;

	while (ranges[nr_ranges].len)
		nr_ranges++;
	for (unsigned i = 0; i < nr; i++) {
		access_once(b, &ranges[random_next(&rng) % nr_ranges], &rng);
		if (random_next(&rng) % 16 == 0)
			board_run(b, random_next(&rng) % 200000);
	}
}

static void try_image(struct board *b, const struct stream *image,
		      struct device *(*make)(struct board *b),
		      const struct board_range *ranges, unsigned seed)
{
	struct device *dev = make(b);
	struct stream in;

	stream_init_load(&in, image->data, image->len);
	dev->cls->state(dev, &in);
	if (!stream_error(&in)) {
		board_fuzz(b, ranges, 1000, seed);
		dev->cls->reset(dev);
	}
	dev->cls->destroy(dev);
}

void board_corrupt(struct board *b, struct device *dev,
		   struct device *(*make)(struct board *b),
		   const struct board_range *ranges)
{
	static const uint8_t flips[] = { 0x01, 0x08, 0x40, 0x80, 0xff };
	struct stream image;

	stream_init_save(&image);
	dev->cls->state(dev, &image);
	vm_assert(!stream_error(&image));
	dev->cls->destroy(dev);
	for (size_t at = 0; at < image.len; at++) {
		for (unsigned i = 0; i < ARRAY_SIZE(flips); i++) {
			image.data[at] ^= flips[i];
			try_image(b, &image, make, ranges, (unsigned)at);
			image.data[at] ^= flips[i];
		}
	}
	/* Nothing of it may be missing either. */
	for (size_t len = 0; len < image.len; len++) {
		struct stream in;

		dev = make(b);
		stream_init_load(&in, image.data, len);
		dev->cls->state(dev, &in);
		vm_assert(stream_error(&in));
		dev->cls->destroy(dev);
	}
	stream_finish(&image);
}
