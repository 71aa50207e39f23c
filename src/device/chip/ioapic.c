/* Intel 82093AA (order 290566), with the EOI register of version 0x20 (Intel
 * I/O Controller Hub 9, 13.5). */
#include "device/chip/ioapic.h"

#include <errno.h>

#include "base/bits.h"
#include "base/log.h"
#include "state/stream.h"

#define RANGE_SIZE 0x1000
#define VERSION    (0x20 | (IOAPIC_NR_PINS - 1) << 16)

/* Memory-mapped registers... */
enum reg { REG_SELECT = 0x00, REG_WINDOW = 0x10, REG_EOI = 0x40 };

/* ...and those behind the window. */
enum index { INDEX_ID, INDEX_VERSION, INDEX_ARB, INDEX_TABLE = 0x10 };

/* A redirection entry. */
#define ENTRY_VECTOR(e) ((uint8_t)(e))
#define ENTRY_MODE(e)   bits_get(e, 8, 3)
#define ENTRY_LOGICAL   BIT(11)
#define ENTRY_STATUS    BIT(12)
#define ENTRY_LOW       BIT(13) /* active low: the wires here are logical */
#define ENTRY_REMOTE    BIT(14) /* level: accepted, and no EOI since */
#define ENTRY_LEVEL     BIT(15)
#define ENTRY_MASKED    BIT(16)
#define ENTRY_READ_ONLY (ENTRY_STATUS | ENTRY_REMOTE)
/* Destination 63:56, and 55:49 above it for more than 255 APICs (the KVM
 * paravirtual interface, KVM_FEATURE_MSI_EXT_DEST_ID). */
#define ENTRY_BITS (MASK(63, 49) | MASK(16, 0))

enum delivery { MODE_FIXED, MODE_LOWEST };

struct ioapic {
	struct device dev;
	struct ioapic_opts opts;
	uint8_t id, select;
	uint32_t lines; /* levels of the pins */
	uint64_t table[IOAPIC_NR_PINS];
	struct log_limit log;
};

/* As SDM volume 3, 10.11 lays a message out. */
static struct msi_msg entry_message(uint64_t e)
{
	return (struct msi_msg){
		.addr = 0xfee00000 | bits_get(e, 56, 8) << 12 |
			bits_get(e, 49, 7) << 5 |
			(e & ENTRY_LOGICAL ? BIT(2) : 0),
		.data = (uint32_t)((e & MASK(10, 0)) | (e & ENTRY_LEVEL) |
				   BIT(14)),
	};
}

static void send_pin(struct ioapic *io, unsigned n)
{
	uint64_t *e = &io->table[n];
	struct msi_msg msg = entry_message(*e);

	/* What has no EOI has no remote IRR. */
	if (*e & ENTRY_LEVEL && ENTRY_MODE(*e) <= MODE_LOWEST)
		*e |= ENTRY_REMOTE;
	io->opts.send(io->opts.opaque, &msg);
}

/* Send a level-triggered pin that is up and not yet accepted. */
static void update_pin(struct ioapic *io, unsigned n)
{
	uint64_t e = io->table[n];

	if (e & ENTRY_LEVEL && io->lines & BIT(n) &&
	    !(e & (ENTRY_MASKED | ENTRY_REMOTE)))
		send_pin(io, n);
}

static void write_entry(struct ioapic *io, unsigned index, uint32_t value)
{
	unsigned n = index / 2, shift = index % 2 * 32;
	uint64_t old = io->table[n], writable = ENTRY_BITS & ~ENTRY_READ_ONLY;
	uint64_t e;

	writable &= (uint64_t)UINT32_MAX << shift;
	e = (old & ~writable) | ((uint64_t)value << shift & writable);
	/* An edge-triggered pin does not wait for an EOI: Linux turns a pin to
	 * edge and back to make it forget one. */
	if (!(e & ENTRY_LEVEL))
		e &= ~ENTRY_REMOTE;
	io->table[n] = e;
	update_pin(io, n);
}

static uint32_t read_window(struct ioapic *io)
{
	unsigned index = io->select;

	switch (index) {
	case INDEX_ID:
	case INDEX_ARB:
		return (uint32_t)io->id << 24;
	case INDEX_VERSION:
		return VERSION;
	}
	index -= INDEX_TABLE;
	if (index < 2 * IOAPIC_NR_PINS)
		return (uint32_t)(io->table[index / 2] >> index % 2 * 32);
	return 0;
}

static void write_window(struct ioapic *io, uint32_t value)
{
	unsigned index = io->select;

	if (index == INDEX_ID) {
		io->id = value >> 24 & 0xf;
		return;
	}
	index -= INDEX_TABLE;
	if (index < 2 * IOAPIC_NR_PINS)
		write_entry(io, index, value);
	else
		log_guest(&io->log, io->dev.id, "wrote 0x%x to register 0x%x",
			  value, io->select);
}

static void end_vector(struct ioapic *io, uint8_t vector)
{
	for (unsigned n = 0; n < IOAPIC_NR_PINS; n++) {
		uint64_t *e = &io->table[n];

		if (ENTRY_VECTOR(*e) != vector || !(*e & ENTRY_REMOTE))
			continue;
		*e &= ~ENTRY_REMOTE;
		update_pin(io, n);
	}
}

static uint64_t ioapic_read(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size)
{
	struct ioapic *io = dev;

	switch (offset) {
	case REG_SELECT:
		return io->select;
	case REG_WINDOW:
		return read_window(io);
	}
	return 0;
}

static void ioapic_write(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size, uint64_t value)
{
	struct ioapic *io = dev;

	switch (offset) {
	case REG_SELECT:
		io->select = (uint8_t)value;
		break;
	case REG_WINDOW:
		write_window(io, (uint32_t)value);
		break;
	case REG_EOI:
		end_vector(io, (uint8_t)value);
		break;
	}
}

static const struct bus_ops ioapic_ops = {
	.read = ioapic_read, .write = ioapic_write, .min_size = 4, .max_size = 4
};

/* The machine's side. */

void ioapic_set_pin(struct device *dev, unsigned n, bool level)
{
	struct ioapic *io = container_of(dev, struct ioapic, dev);
	bool was;

	if (n >= IOAPIC_NR_PINS)
		return;
	pthread_mutex_lock(&dev->lock);
	was = io->lines & BIT(n);
	if (level)
		io->lines |= BIT(n);
	else
		io->lines &= ~BIT(n);
	if (io->table[n] & ENTRY_LEVEL)
		update_pin(io, n);
	else if (level && !was && !(io->table[n] & ENTRY_MASKED))
		send_pin(io, n); /* an edge on a masked pin is lost */
	pthread_mutex_unlock(&dev->lock);
}

void ioapic_eoi(struct device *dev, uint8_t vector)
{
	struct ioapic *io = container_of(dev, struct ioapic, dev);

	pthread_mutex_lock(&dev->lock);
	end_vector(io, vector);
	pthread_mutex_unlock(&dev->lock);
}

static void ioapic_state(struct device *dev, struct stream *s)
{
	struct ioapic *io = container_of(dev, struct ioapic, dev);

	stream_begin(s, STREAM_TAG('I', 'O', 'A', 'P'), 1);
	stream_u8(s, &io->id);
	stream_u8(s, &io->select);
	stream_u32(s, &io->lines);
	stream_check(s, !(io->lines & ~MASK(IOAPIC_NR_PINS - 1, 0)));
	for (unsigned n = 0; n < IOAPIC_NR_PINS; n++) {
		uint64_t *e = &io->table[n];

		stream_u64(s, e);
		stream_check(s, !(*e & ~ENTRY_BITS));
		stream_check(s, *e & ENTRY_LEVEL || !(*e & ENTRY_REMOTE));
	}
	stream_end(s);
}

static void ioapic_reset(struct device *dev)
{
	struct ioapic *io = container_of(dev, struct ioapic, dev);

	pthread_mutex_lock(&dev->lock);
	io->id = io->opts.id;
	io->select = 0;
	for (unsigned n = 0; n < IOAPIC_NR_PINS; n++)
		io->table[n] = ENTRY_MASKED;
	pthread_mutex_unlock(&dev->lock);
}

static void ioapic_destroy(struct device *dev)
{
	device_finish(dev);
	free(container_of(dev, struct ioapic, dev));
}

const struct device_class ioapic_class = {
	.name = "ioapic",
	.help = "I/O APIC",
	.destroy = ioapic_destroy,
	.reset = ioapic_reset,
	.state = ioapic_state,
};

int ioapic_create(struct device **dev, const struct device_env *env,
		  const struct ioapic_opts *opts, struct err *err)
{
	struct ioapic *io = calloc(1, sizeof(*io));
	int r;

	if (!io)
		return err_set(err, ENOMEM, NULL, "cannot make the I/O APIC:");
	device_init(&io->dev, &ioapic_class, env);
	io->opts = *opts;
	ioapic_reset(&io->dev);
	r = device_map(&io->dev, env->mmio, opts->base, RANGE_SIZE, &ioapic_ops,
		       err);
	if (r) {
		ioapic_destroy(&io->dev);
		return r;
	}
	*dev = &io->dev;
	return 0;
}
