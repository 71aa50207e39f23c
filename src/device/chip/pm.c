/*
 * ACPI 6.4, 4.8 (fixed hardware), with the registers where Intel's ICH9 has
 * them (13.8.3). The timer is guest time; it sets its status when its top bit
 * changes, which is only noticed when someone looks, or by a timer of ours
 * while the guest wants an interrupt for it.
 *
 * There is no system management mode: writing PM_ACPI_ENABLE to the command
 * port has the effect that firmware's handler would have.
 */
#include "device/chip/pm.h"

#include <errno.h>

#include "base/bits.h"
#include "base/endian.h"
#include "base/log.h"
#include "bus/pci.h"
#include "device/chip/ticks.h"
#include "state/stream.h"

#define GPE_BYTES  8 /* of status, then as many of enable */
#define SMI_EN     0x30

#define TIMER_BITS 24
#define TIMER_HALF BIT(TIMER_BITS - 1)

/* Events, in PM1 status and enable. */
enum event {
	EVENT_TIMER = BIT(0),
	EVENT_GLOBAL = BIT(5),
	EVENT_POWER_BUTTON = BIT(8),
	EVENT_SLEEP_BUTTON = BIT(9),
	EVENT_RTC = BIT(10),
};
#define EVENTS                                             \
	(EVENT_TIMER | EVENT_GLOBAL | EVENT_POWER_BUTTON | \
	 EVENT_SLEEP_BUTTON | EVENT_RTC)
#define STATUS_WAKE        BIT(15)

#define CONTROL_SCI_ENABLE BIT(0)
#define CONTROL_SLP_TYP(v) bits_get(v, 10, 3)
#define CONTROL_SLP_ENABLE BIT(13)
/* Kept: SCI_EN is set by the command port only. */
#define CONTROL_WRITABLE (MASK(12, 10) | BIT(1))
/* What ICH9's own firmware calls S5. */
#define SLP_TYP_S5_ICH 7

/* RST_CNT, ICH9 13.7.5. */
#define RESET_HARD BIT(1)
#define RESET_NOW  BIT(2)
#define RESET_FULL BIT(3)

struct pm {
	struct device dev;
	struct irq_line sci;
	uint16_t status, enable, control;
	uint8_t gpe[2 * GPE_BYTES];
	uint32_t smi_enable;
	uint8_t apm[2]; /* command and scratch ports */
	uint8_t reset;
	uint64_t last_half; /* how often the top bit had changed */
	struct vtimer timer;
	struct log_limit log;
};

static uint64_t ticks_now(struct pm *pm)
{
	return vclock_ticks(pm->dev.env->clock, PM_TIMER_HZ);
}

static void catch_up(struct pm *pm)
{
	uint64_t half = ticks_now(pm) / TIMER_HALF;

	if (half != pm->last_half)
		pm->status |= EVENT_TIMER;
	pm->last_half = half;
}

/* Bring the interrupt and the timer for the next one up to date. */
static void update(struct pm *pm)
{
	struct vclock *clock = pm->dev.env->clock;
	bool level;

	catch_up(pm);
	level = pm->status & pm->enable & EVENTS;
	for (unsigned i = 0; i < GPE_BYTES; i++)
		level |= (pm->gpe[i] & pm->gpe[GPE_BYTES + i]) != 0;
	irq_set(pm->sci, level);
	if (pm->enable & EVENT_TIMER && !(pm->status & EVENT_TIMER))
		vtimer_arm(clock, &pm->timer,
			   ticks_to_ns((pm->last_half + 1) * TIMER_HALF,
				       PM_TIMER_HZ));
	else
		vtimer_disarm(clock, &pm->timer);
}

static void timer_expired(void *opaque)
{
	update(opaque);
}

static void write_control(struct pm *pm, uint16_t value)
{
	unsigned type = CONTROL_SLP_TYP(value);

	pm->control =
		(pm->control & CONTROL_SCI_ENABLE) | (value & CONTROL_WRITABLE);
	if (!(value & CONTROL_SLP_ENABLE))
		return;
	if (type == PM_SLP_TYP_S5 || type == SLP_TYP_S5_ICH)
		device_event(&pm->dev, MACHINE_POWEROFF, 0);
	else
		log_guest(&pm->log, pm->dev.id,
			  "wants to sleep in a way that there is not: %u",
			  type);
}

/* One 16-bit register; wider and narrower accesses are made of these. */
static uint16_t reg_read(struct pm *pm, unsigned reg)
{
	switch (reg) {
	case PM_EVENT:
		catch_up(pm);
		return pm->status;
	case PM_EVENT + 2:
		return pm->enable;
	case PM_CONTROL:
		return pm->control;
	case PM_GPE0 ... PM_GPE0 + 2 * GPE_BYTES - 1:
		return load_le16(&pm->gpe[reg - PM_GPE0]);
	case SMI_EN:
		return (uint16_t)pm->smi_enable;
	case SMI_EN + 2:
		return (uint16_t)(pm->smi_enable >> 16);
	}
	return 0;
}

/* The bits (written) of (reg) become (value). */
static void reg_write(struct pm *pm, unsigned reg, uint16_t value,
		      uint16_t written)
{
	uint16_t old = reg_read(pm, reg), new = (old & ~written) | value;

	switch (reg) {
	case PM_EVENT: /* writing 1 clears */
		pm->status &= ~(value & (EVENTS | STATUS_WAKE));
		break;
	case PM_EVENT + 2:
		pm->enable = new &EVENTS;
		break;
	case PM_CONTROL:
		write_control(pm, new);
		break;
	case PM_GPE0 ... PM_GPE0 + GPE_BYTES - 1:
		store_le16(&pm->gpe[reg - PM_GPE0], old & ~value);
		break;
	case PM_GPE0 + GPE_BYTES... PM_GPE0 + 2 * GPE_BYTES - 1:
		store_le16(&pm->gpe[reg - PM_GPE0], new);
		break;
	case SMI_EN:
		pm->smi_enable = (pm->smi_enable & 0xffff0000) | new;
		break;
	case SMI_EN + 2:
		pm->smi_enable = (uint16_t)pm->smi_enable | (uint32_t) new
								    << 16;
		break;
	}
}

static uint64_t pm_read(void *dev, unsigned cpu, uint64_t offset, unsigned size)
{
	struct pm *pm = dev;
	uint64_t value;

	/* Whole, so that no carry comes between its halves. */
	if ((offset & ~3ULL) == PM_TIMER)
		value = (ticks_now(pm) & MASK(TIMER_BITS - 1, 0)) >>
			(offset & 3) * 8;
	else
		value = (reg_read(pm, (unsigned)offset & ~1u) |
			 (uint32_t)reg_read(pm, ((unsigned)offset & ~1u) + 2)
				 << 16) >>
			(offset & 1) * 8;
	return value & size_mask(size);
}

static void pm_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		     uint64_t value)
{
	struct pm *pm = dev;
	unsigned shift = (offset & 1) * 8;
	uint64_t written = size_mask(size) << shift;

	value <<= shift;
	for (unsigned reg = (unsigned)offset & ~1u; written; reg += 2) {
		reg_write(pm, reg, (uint16_t)value, (uint16_t)written);
		value >>= 16;
		written >>= 16;
	}
	update(pm);
}

static uint64_t apm_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	const struct pm *pm = dev;

	return pm->apm[offset];
}

static void apm_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct pm *pm = dev;

	pm->apm[offset] = (uint8_t)value;
	if (offset)
		return;
	if (value == PM_ACPI_ENABLE)
		pm->control |= CONTROL_SCI_ENABLE;
	else if (value == PM_ACPI_DISABLE)
		pm->control &= ~CONTROL_SCI_ENABLE;
}

/* The reset port; PCI lends it without a lock. */
static uint8_t read_reset_port(void *opaque)
{
	struct pm *pm = opaque;

	return __atomic_load_n(&pm->reset, __ATOMIC_RELAXED);
}

static void write_reset_port(void *opaque, uint8_t value)
{
	struct pm *pm = opaque;
	uint8_t kept = value & (RESET_HARD | RESET_FULL);

	__atomic_store_n(&pm->reset, kept, __ATOMIC_RELAXED);
	if (value & RESET_NOW)
		device_event(&pm->dev, MACHINE_RESET, 0);
}

static uint64_t reset_read(void *dev, unsigned cpu, uint64_t offset,
			   unsigned size)
{
	return read_reset_port(dev);
}

static void reset_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
			uint64_t value)
{
	write_reset_port(dev, (uint8_t)value);
}

static const struct bus_ops pm_ops = { .read = pm_read,
				       .write = pm_write,
				       .max_size = 4 };
static const struct bus_ops apm_ops = { .read = apm_read,
					.write = apm_write,
					.max_size = 1 };
static const struct bus_ops reset_ops = { .read = reset_read,
					  .write = reset_write,
					  .max_size = 1 };

/* The machine's side. */

void pm_powerbutton(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pthread_mutex_lock(&dev->lock);
	pm->status |= EVENT_POWER_BUTTON;
	update(pm);
	pthread_mutex_unlock(&dev->lock);
}

void pm_raise_gpe(struct device *dev, unsigned n)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	vm_assert(n < GPE_BYTES * 8);
	pthread_mutex_lock(&dev->lock);
	pm->gpe[n / 8] |= BIT(n % 8);
	update(pm);
	pthread_mutex_unlock(&dev->lock);
}

static void pm_state(struct device *dev, struct stream *s)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	stream_begin(s, STREAM_TAG('P', 'M', ' ', ' '), 1);
	stream_u16(s, &pm->status);
	stream_u16(s, &pm->enable);
	stream_u16(s, &pm->control);
	stream_bytes(s, pm->gpe, sizeof(pm->gpe));
	stream_u32(s, &pm->smi_enable);
	stream_bytes(s, pm->apm, sizeof(pm->apm));
	stream_u8(s, &pm->reset);
	stream_u64(s, &pm->last_half);
	stream_check(s, !(pm->status & ~(EVENTS | STATUS_WAKE)) &&
				!(pm->enable & ~EVENTS));
	stream_check(s,
		     !(pm->control & ~(CONTROL_WRITABLE | CONTROL_SCI_ENABLE)));
	stream_end(s);
	if (s->is_loading && !stream_error(s))
		update(pm);
}

static void pm_reset(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	pthread_mutex_lock(&dev->lock);
	pm->last_half = ticks_now(pm) / TIMER_HALF;
	pm->status = pm->enable = pm->control = 0;
	memset(pm->gpe, 0, sizeof(pm->gpe));
	memset(pm->apm, 0, sizeof(pm->apm));
	pm->smi_enable = 0;
	pm->reset = 0;
	update(pm);
	pthread_mutex_unlock(&dev->lock);
}

static void pm_destroy(struct device *dev)
{
	struct pm *pm = container_of(dev, struct pm, dev);

	vtimer_disarm(dev->env->clock, &pm->timer);
	if (dev->env->pci)
		pci_host_set_reset_port(dev->env->pci, NULL, NULL, NULL);
	device_finish(dev);
	free(pm);
}

const struct device_class pm_class = {
	.name = "pm",
	.help = "ACPI power management",
	.destroy = pm_destroy,
	.reset = pm_reset,
	.state = pm_state,
};

int pm_create(struct device **dev, const struct device_env *env,
	      const struct pm_opts *opts, struct err *err)
{
	struct pm *pm = calloc(1, sizeof(*pm));
	int r;

	if (!pm)
		return err_set(err, ENOMEM, NULL,
			       "cannot make the power management:");
	device_init(&pm->dev, &pm_class, env);
	pm->sci = opts->sci;
	vtimer_init(env->clock, &pm->timer, timer_expired, pm, &pm->dev.lock);
	pm_reset(&pm->dev);
	r = device_map(&pm->dev, env->pio, PM_BASE, PM_SIZE, &pm_ops, err);
	if (!r)
		r = device_map(&pm->dev, env->pio, PM_SMI_CMD, 2, &apm_ops,
			       err);
	if (!r && env->pci)
		pci_host_set_reset_port(env->pci, read_reset_port,
					write_reset_port, pm);
	else if (!r)
		r = device_map(&pm->dev, env->pio, PM_RESET_PORT, 1, &reset_ops,
			       err);
	if (r) {
		pm_destroy(&pm->dev);
		return r;
	}
	*dev = &pm->dev;
	return 0;
}
