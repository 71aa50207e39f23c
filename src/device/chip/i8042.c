/*
 * The keyboard controller of the PC/AT (IBM PC AT Technical Reference, 1-56)
 * with the auxiliary port of the PS/2. The devices answer every command, so
 * that a probing driver meets no silence; no keys are pressed.
 *
 * A20 is a bit that reads back: memory does not wrap.
 */
#include "device/chip/i8042.h"

#include <errno.h>

#include "base/bits.h"
#include "state/stream.h"

#define PORT_DATA   0x60
#define PORT_STATUS 0x64
#define PORT_SYSTEM 0x92

#define QUEUE_SIZE  16

enum status {
	STATUS_FULL = BIT(0), /* a byte is to be read */
	STATUS_SELF_TEST = BIT(2),
	STATUS_COMMAND = BIT(3), /* the last write was to the status port */
	STATUS_UNLOCKED = BIT(4),
	STATUS_MOUSE = BIT(5), /* the byte is the mouse's */
};

enum config {
	CONFIG_IRQ_KEYBOARD = BIT(0),
	CONFIG_IRQ_MOUSE = BIT(1),
	CONFIG_SELF_TEST = BIT(2),
	CONFIG_NO_KEYBOARD = BIT(4),
	CONFIG_NO_MOUSE = BIT(5),
	CONFIG_TRANSLATE = BIT(6),
};

/* The output port, and port 0x92 in bits 0 and 1. */
enum output { OUTPUT_NO_RESET = BIT(0), OUTPUT_A20 = BIT(1) };
enum system { SYSTEM_RESET = BIT(0), SYSTEM_A20 = BIT(1) };

/* Written to the status port. */
enum command {
	CMD_READ_RAM = 0x20,  /* to 0x3f; byte 0 is the configuration */
	CMD_WRITE_RAM = 0x60, /* to 0x7f */
	CMD_DISABLE_MOUSE = 0xa7,
	CMD_ENABLE_MOUSE = 0xa8,
	CMD_TEST_MOUSE = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_TEST_KEYBOARD = 0xab,
	CMD_DISABLE_KEYBOARD = 0xad,
	CMD_ENABLE_KEYBOARD = 0xae,
	CMD_READ_INPUT = 0xc0,
	CMD_READ_OUTPUT = 0xd0,
	CMD_WRITE_OUTPUT = 0xd1,
	CMD_WRITE_KEYBOARD_BUFFER = 0xd2,
	CMD_WRITE_MOUSE_BUFFER = 0xd3,
	CMD_WRITE_MOUSE = 0xd4,
	CMD_PULSE = 0xf0, /* to 0xff: output bits that are 0 here */
};

/* Answers of both devices. */
enum answer { ANSWER_TESTED = 0xaa, ANSWER_ACK = 0xfa, ANSWER_RESEND = 0xfe };

enum port { KEYBOARD, MOUSE, NR_PORTS };

/* A device on one of the two cables. */
struct ps2 {
	uint8_t queue[QUEUE_SIZE], head, count;
	uint8_t pending; /* a command that waits for its byte, or 0 */
	bool is_reporting;
	uint8_t scan_set;         /* keyboard */
	uint8_t rate, resolution; /* mouse */
	bool is_scaled, is_remote;
};

struct i8042 {
	struct device dev;
	struct i8042_opts opts;
	struct ps2 ps2[NR_PORTS];
	uint8_t ram[32]; /* the first byte is the configuration */
	uint8_t status;  /* without STATUS_FULL, STATUS_MOUSE */
	uint8_t output;
	uint8_t command; /* one that waits for its byte, or 0 */
	/* The byte at the data port. */
	uint8_t data;
	bool is_full, is_from_mouse;
};

/* Bytes on their way to the guest. */

static void ps2_put(struct ps2 *p, uint8_t byte)
{
	if (p->count == QUEUE_SIZE)
		return;
	p->queue[(p->head + p->count) % QUEUE_SIZE] = byte;
	p->count++;
}

static uint8_t ps2_get(struct ps2 *p)
{
	uint8_t byte = p->queue[p->head];

	p->head = (p->head + 1) % QUEUE_SIZE;
	p->count--;
	return byte;
}

static void update_irqs(struct i8042 *kc)
{
	uint8_t config = kc->ram[0];

	irq_set(kc->opts.keyboard, kc->is_full && !kc->is_from_mouse &&
					   config & CONFIG_IRQ_KEYBOARD);
	irq_set(kc->opts.mouse,
		kc->is_full && kc->is_from_mouse && config & CONFIG_IRQ_MOUSE);
}

/* Fill the data port from a device that has something. */
static void refill(struct i8042 *kc)
{
	uint8_t config = kc->ram[0];

	for (unsigned i = 0; i < NR_PORTS && !kc->is_full; i++) {
		struct ps2 *p = &kc->ps2[i];
		uint8_t off = i == MOUSE ? CONFIG_NO_MOUSE : CONFIG_NO_KEYBOARD;

		if (!p->count || config & off)
			continue;
		kc->data = ps2_get(p);
		kc->is_full = true;
		kc->is_from_mouse = i == MOUSE;
	}
	update_irqs(kc);
}

/* The controller's own answer replaces what the guest has not read. */
static void answer(struct i8042 *kc, uint8_t byte, bool is_mouse)
{
	/* Low first: it is a new edge. */
	kc->is_full = false;
	update_irqs(kc);
	kc->data = byte;
	kc->is_full = true;
	kc->is_from_mouse = is_mouse;
}

/* The devices. */

static void keyboard_defaults(struct ps2 *p)
{
	p->scan_set = 2;
	p->is_reporting = true;
}

static void keyboard_argument(struct ps2 *p, uint8_t command, uint8_t byte)
{
	ps2_put(p, ANSWER_ACK);
	if (command != 0xf0)
		return;
	if (!byte)
		ps2_put(p, p->scan_set);
	else if (byte <= 3)
		p->scan_set = byte;
}

static void keyboard_write(struct ps2 *p, uint8_t byte, bool is_translated)
{
	uint8_t command = p->pending;

	p->pending = 0;
	if (command && byte < 0xed) {
		keyboard_argument(p, command, byte);
		return;
	}
	switch (byte) {
	case 0xed: /* LEDs */
	case 0xf0: /* scan code set */
	case 0xf3: /* repeat rate */
		p->pending = byte;
		ps2_put(p, ANSWER_ACK);
		break;
	case 0xee: /* echo */
		ps2_put(p, byte);
		break;
	case 0xf2: /* identify: MF2, 0x83 if it were not for the translation */
		ps2_put(p, ANSWER_ACK);
		ps2_put(p, 0xab);
		ps2_put(p, is_translated ? 0x41 : 0x83);
		break;
	case 0xf4:
		p->is_reporting = true;
		ps2_put(p, ANSWER_ACK);
		break;
	case 0xf5:
	case 0xf6:
		keyboard_defaults(p);
		p->is_reporting = byte == 0xf6;
		ps2_put(p, ANSWER_ACK);
		break;
	case 0xf7 ... 0xfa: /* all keys repeat, and the like */
		ps2_put(p, ANSWER_ACK);
		break;
	case 0xff:
		p->head = p->count = 0;
		keyboard_defaults(p);
		ps2_put(p, ANSWER_ACK);
		ps2_put(p, ANSWER_TESTED);
		break;
	default:
		ps2_put(p, ANSWER_RESEND);
		break;
	}
}

static void mouse_defaults(struct ps2 *p)
{
	p->rate = 100;
	p->resolution = 2;
	p->is_scaled = p->is_remote = p->is_reporting = false;
}

static void mouse_status(struct ps2 *p)
{
	ps2_put(p,
		p->is_scaled << 4 | p->is_reporting << 5 | p->is_remote << 6);
	ps2_put(p, p->resolution);
	ps2_put(p, p->rate);
}

static void mouse_write(struct ps2 *p, uint8_t byte)
{
	uint8_t command = p->pending;

	p->pending = 0;
	ps2_put(p, ANSWER_ACK);
	if (command == 0xf3) {
		p->rate = byte;
		return;
	}
	if (command == 0xe8) {
		p->resolution = byte & 3;
		return;
	}
	switch (byte) {
	case 0xe6:
	case 0xe7:
		p->is_scaled = byte == 0xe7;
		break;
	case 0xe8: /* resolution */
	case 0xf3: /* sample rate */
		p->pending = byte;
		break;
	case 0xe9:
		mouse_status(p);
		break;
	case 0xea:
	case 0xf0:
		p->is_remote = byte == 0xf0;
		break;
	case 0xeb: /* a packet: nothing moved */
		ps2_put(p, 0x08);
		ps2_put(p, 0);
		ps2_put(p, 0);
		break;
	case 0xf2: /* identify: a plain mouse */
		ps2_put(p, 0);
		break;
	case 0xf4:
	case 0xf5:
		p->is_reporting = byte == 0xf4;
		break;
	case 0xf6:
		mouse_defaults(p);
		break;
	case 0xff:
		p->head = p->count = 0;
		mouse_defaults(p);
		ps2_put(p, ANSWER_ACK);
		ps2_put(p, ANSWER_TESTED);
		ps2_put(p, 0);
		break;
	default: /* replace the acknowledgement */
		if (p->count)
			p->queue[(p->head + p->count - 1) % QUEUE_SIZE] =
				ANSWER_RESEND;
		break;
	}
}

/* The controller. */

static void write_output(struct i8042 *kc, uint8_t value)
{
	kc->output = value;
	if (!(value & OUTPUT_NO_RESET)) {
		kc->output |= OUTPUT_NO_RESET;
		device_event(&kc->dev, MACHINE_RESET, 0);
	}
}

static void self_test(struct i8042 *kc)
{
	kc->status |= STATUS_SELF_TEST;
	kc->ram[0] = CONFIG_SELF_TEST | CONFIG_NO_KEYBOARD | CONFIG_NO_MOUSE |
		     CONFIG_TRANSLATE;
	answer(kc, 0x55, false);
}

static void set_config(struct i8042 *kc, uint8_t bit, bool on)
{
	kc->ram[0] = on ? kc->ram[0] | bit : kc->ram[0] & ~bit;
}

static void run_command(struct i8042 *kc, uint8_t command)
{
	kc->status |= STATUS_COMMAND;
	kc->command = 0;
	switch (command) {
	case CMD_READ_RAM ... CMD_READ_RAM + 31:
		answer(kc, kc->ram[command & 31], false);
		break;
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + 31:
	case CMD_WRITE_OUTPUT ... CMD_WRITE_MOUSE:
		kc->command = command;
		break;
	case CMD_DISABLE_MOUSE:
	case CMD_ENABLE_MOUSE:
		set_config(kc, CONFIG_NO_MOUSE, command == CMD_DISABLE_MOUSE);
		break;
	case CMD_DISABLE_KEYBOARD:
	case CMD_ENABLE_KEYBOARD:
		set_config(kc, CONFIG_NO_KEYBOARD,
			   command == CMD_DISABLE_KEYBOARD);
		break;
	case CMD_SELF_TEST:
		self_test(kc);
		break;
	case CMD_TEST_MOUSE:
	case CMD_TEST_KEYBOARD:
		answer(kc, 0, false);
		break;
	case CMD_READ_INPUT: /* not locked */
		answer(kc, 0x80, false);
		break;
	case CMD_READ_OUTPUT:
		answer(kc, kc->output, false);
		break;
	case CMD_PULSE ... 0xff:
		if (!(command & OUTPUT_NO_RESET))
			device_event(&kc->dev, MACHINE_RESET, 0);
		break;
	}
}

static void write_data(struct i8042 *kc, uint8_t value)
{
	uint8_t command = kc->command;

	kc->status &= ~STATUS_COMMAND;
	kc->command = 0;
	switch (command) {
	case CMD_WRITE_RAM ... CMD_WRITE_RAM + 31:
		kc->ram[command & 31] = value;
		break;
	case CMD_WRITE_OUTPUT:
		write_output(kc, value);
		break;
	case CMD_WRITE_KEYBOARD_BUFFER:
	case CMD_WRITE_MOUSE_BUFFER:
		answer(kc, value, command == CMD_WRITE_MOUSE_BUFFER);
		break;
	case CMD_WRITE_MOUSE:
		/* Talking to a device connects it. */
		set_config(kc, CONFIG_NO_MOUSE, false);
		mouse_write(&kc->ps2[MOUSE], value);
		break;
	default:
		set_config(kc, CONFIG_NO_KEYBOARD, false);
		keyboard_write(&kc->ps2[KEYBOARD], value,
			       kc->ram[0] & CONFIG_TRANSLATE);
		break;
	}
}

static uint64_t data_read(void *dev, unsigned cpu, uint64_t offset,
			  unsigned size)
{
	struct i8042 *kc = dev;
	uint8_t value = kc->data;

	kc->is_full = false;
	/* Low first: the next byte is a new edge. */
	update_irqs(kc);
	refill(kc);
	return value;
}

static void data_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		       uint64_t value)
{
	write_data(dev, (uint8_t)value);
	refill(dev);
}

static uint64_t status_read(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size)
{
	const struct i8042 *kc = dev;

	return kc->status | STATUS_UNLOCKED | (kc->is_full ? STATUS_FULL : 0) |
	       (kc->is_full && kc->is_from_mouse ? STATUS_MOUSE : 0);
}

static void status_write(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size, uint64_t value)
{
	run_command(dev, (uint8_t)value);
	refill(dev);
}

static uint64_t system_read(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size)
{
	const struct i8042 *kc = dev;

	return kc->output & OUTPUT_A20 ? SYSTEM_A20 : 0;
}

static void system_write(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size, uint64_t value)
{
	struct i8042 *kc = dev;

	kc->output = (kc->output & ~OUTPUT_A20) |
		     (value & SYSTEM_A20 ? OUTPUT_A20 : 0);
	if (value & SYSTEM_RESET)
		device_event(&kc->dev, MACHINE_RESET, 0);
}

static const struct bus_ops data_ops = { .read = data_read,
					 .write = data_write,
					 .max_size = 1 };
static const struct bus_ops status_ops = { .read = status_read,
					   .write = status_write,
					   .max_size = 1 };
static const struct bus_ops system_ops = { .read = system_read,
					   .write = system_write,
					   .max_size = 1 };

static void ps2_state(struct ps2 *p, struct stream *s)
{
	stream_bytes(s, p->queue, sizeof(p->queue));
	stream_u8(s, &p->head);
	stream_u8(s, &p->count);
	stream_check(s, p->head < QUEUE_SIZE && p->count <= QUEUE_SIZE);
	stream_u8(s, &p->pending);
	stream_bool(s, &p->is_reporting);
	stream_u8(s, &p->scan_set);
	stream_u8(s, &p->rate);
	stream_u8(s, &p->resolution);
	stream_bool(s, &p->is_scaled);
	stream_bool(s, &p->is_remote);
	/* Indices also when they could not be loaded. */
	p->head %= QUEUE_SIZE;
	p->count = MIN(p->count, QUEUE_SIZE);
}

static void i8042_state(struct device *dev, struct stream *s)
{
	struct i8042 *kc = container_of(dev, struct i8042, dev);

	stream_begin(s, STREAM_TAG('8', '0', '4', '2'), 1);
	for (unsigned i = 0; i < NR_PORTS; i++)
		ps2_state(&kc->ps2[i], s);
	stream_bytes(s, kc->ram, sizeof(kc->ram));
	stream_u8(s, &kc->status);
	stream_u8(s, &kc->output);
	stream_u8(s, &kc->command);
	stream_u8(s, &kc->data);
	stream_bool(s, &kc->is_full);
	stream_bool(s, &kc->is_from_mouse);
	stream_end(s);
	if (s->is_loading && !stream_error(s))
		update_irqs(kc);
}

static void i8042_reset(struct device *dev)
{
	struct i8042 *kc = container_of(dev, struct i8042, dev);

	pthread_mutex_lock(&dev->lock);
	memset(kc->ps2, 0, sizeof(kc->ps2));
	keyboard_defaults(&kc->ps2[KEYBOARD]);
	mouse_defaults(&kc->ps2[MOUSE]);
	memset(kc->ram, 0, sizeof(kc->ram));
	/* As firmware leaves it: tested, translating, nobody listening. */
	kc->ram[0] = CONFIG_SELF_TEST | CONFIG_NO_MOUSE | CONFIG_TRANSLATE;
	kc->status = STATUS_SELF_TEST;
	kc->output = OUTPUT_NO_RESET | OUTPUT_A20;
	kc->command = kc->data = 0;
	kc->is_full = kc->is_from_mouse = false;
	update_irqs(kc);
	pthread_mutex_unlock(&dev->lock);
}

static void i8042_destroy(struct device *dev)
{
	device_finish(dev);
	free(container_of(dev, struct i8042, dev));
}

const struct device_class i8042_class = {
	.name = "i8042",
	.help = "keyboard controller",
	.destroy = i8042_destroy,
	.reset = i8042_reset,
	.state = i8042_state,
};

int i8042_create(struct device **dev, const struct device_env *env,
		 const struct i8042_opts *opts, struct err *err)
{
	struct i8042 *kc = calloc(1, sizeof(*kc));
	int r;

	if (!kc)
		return err_set(err, ENOMEM, NULL,
			       "cannot make the keyboard controller:");
	device_init(&kc->dev, &i8042_class, env);
	kc->opts = *opts;
	i8042_reset(&kc->dev);
	r = device_map(&kc->dev, env->pio, PORT_DATA, 1, &data_ops, err);
	if (!r)
		r = device_map(&kc->dev, env->pio, PORT_STATUS, 1, &status_ops,
			       err);
	if (!r)
		r = device_map(&kc->dev, env->pio, PORT_SYSTEM, 1, &system_ops,
			       err);
	if (r) {
		i8042_destroy(&kc->dev);
		return r;
	}
	*dev = &kc->dev;
	return 0;
}
