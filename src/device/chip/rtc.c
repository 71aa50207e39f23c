/*
 * Theory of operation
 *
 * Motorola MC146818A, as it is in a PC: 128 bytes of which the first 14 are the
 * clock's, and the century at 0x32 (where ACPI's FADT says it is).
 *
 * The time is guest time plus a base, so nothing ticks. Only while the guest
 * stopped the clock to set it are the bytes of CMOS the time itself; letting it
 * run again computes a new base from them.
 *
 * Flags are brought up to date by catch_up(), when someone looks at them and
 * when a timer expires: from the last second it saw and the present one follow
 * update and alarm, from the last tick of 32.768 kHz the periodic flag. The
 * timers are armed only for interrupts that are enabled.
 */
#include "device/chip/rtc.h"

#include <errno.h>
#include <time.h>

#include "base/bits.h"
#include "device/chip/ticks.h"
#include "state/stream.h"

#define PORT_BASE 0x70
#define CMOS_SIZE 128
#define RTC_HZ    32768

enum reg {
	REG_SECOND,
	REG_SECOND_ALARM,
	REG_MINUTE,
	REG_MINUTE_ALARM,
	REG_HOUR,
	REG_HOUR_ALARM,
	REG_WEEKDAY,
	REG_DAY,
	REG_MONTH,
	REG_YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D,
	REG_CENTURY = 0x32,
};

#define A_UIP      BIT(7)
#define A_DIVIDER  MASK(6, 4)
#define A_RESET    (BIT(6) | BIT(5)) /* the divider stands */
#define A_RATE     MASK(3, 0)

#define B_SET      BIT(7)
#define B_PERIODIC BIT(6)
#define B_ALARM    BIT(5)
#define B_UPDATE   BIT(4)
#define B_SQUARE   BIT(3)
#define B_BINARY   BIT(2)
#define B_24H      BIT(1)

#define C_IRQ      BIT(7)
#define C_PERIODIC BIT(6)
#define C_ALARM    BIT(5)
#define C_UPDATE   BIT(4)

#define D_VALID    BIT(7)

#define HOUR_PM    BIT(7)
/* In an alarm byte: any value matches. */
#define ALARM_ANY       0xc0

#define SECONDS_PER_DAY 86400
/* An update is announced this long before it happens. */
#define UIP_NS (244 * NSEC_PER_USEC)
/* Seconds beyond are nonsense and only have to be safe. */
#define BASE_LIMIT (1LL << 48)

struct rtc {
	struct device dev;
	uint8_t cmos[CMOS_SIZE];
	uint8_t index;
	int64_t base;        /* second of the wall clock at guest time 0... */
	int64_t base_ns;     /* ...and ns into it */
	int64_t last_second; /* up to which flags are right */
	uint64_t last_tick;
	struct irq_line irq;
	struct vtimer second_timer, periodic_timer;
};

static bool is_stopped(const struct rtc *rtc)
{
	return rtc->cmos[REG_B] & B_SET ||
	       (rtc->cmos[REG_A] & A_RESET) == A_RESET;
}

static int64_t wall_second(struct rtc *rtc)
{
	int64_t now = vclock_now(rtc->dev.env->clock);

	return rtc->base + (now + rtc->base_ns) / NSEC_PER_SEC;
}

/* How far into the second. */
static int64_t wall_phase_ns(struct rtc *rtc)
{
	int64_t now = vclock_now(rtc->dev.env->clock);

	return (now + rtc->base_ns) % NSEC_PER_SEC;
}

/* Let it be (phase_ns) into (second). */
static void set_wall(struct rtc *rtc, int64_t second, int64_t phase_ns)
{
	int64_t now = vclock_now(rtc->dev.env->clock);

	rtc->base_ns =
		(phase_ns + NSEC_PER_SEC - now % NSEC_PER_SEC) % NSEC_PER_SEC;
	rtc->base = second - (now + rtc->base_ns) / NSEC_PER_SEC;
	rtc->last_second = second;
}

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Values and bytes, in the guest's choice of format. */

static uint8_t encode(const struct rtc *rtc, unsigned n)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return (uint8_t)n;
	return (uint8_t)(n / 10 % 10 << 4 | n % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t v)
{
	if (rtc->cmos[REG_B] & B_BINARY)
		return v;
	return (v >> 4) * 10 + (v & 0xf);
}

static uint8_t encode_hour(const struct rtc *rtc, unsigned hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *rtc, uint8_t v)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, v);
	return decode(rtc, v & ~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

/* Make the bytes show the time. */
static void time_to_cmos(struct rtc *rtc)
{
	time_t t = wall_second(rtc);
	uint8_t *cmos = rtc->cmos;
	struct tm tm;

	if (!gmtime_r(&t, &tm))
		return;
	cmos[REG_SECOND] = encode(rtc, (unsigned)tm.tm_sec);
	cmos[REG_MINUTE] = encode(rtc, (unsigned)tm.tm_min);
	cmos[REG_HOUR] = encode_hour(rtc, (unsigned)tm.tm_hour);
	cmos[REG_WEEKDAY] = encode(rtc, (unsigned)tm.tm_wday + 1);
	cmos[REG_DAY] = encode(rtc, (unsigned)tm.tm_mday);
	cmos[REG_MONTH] = encode(rtc, (unsigned)tm.tm_mon + 1);
	cmos[REG_YEAR] = encode(rtc, (unsigned)(tm.tm_year + 1900) % 100);
	cmos[REG_CENTURY] =
		encode(rtc, (unsigned)(tm.tm_year + 1900) / 100 % 100);
}

/* Make the time what the bytes show, (phase_ns) into that second. */
static void cmos_to_time(struct rtc *rtc, int64_t phase_ns)
{
	const uint8_t *cmos = rtc->cmos;
	struct tm tm = {
		.tm_sec = (int)decode(rtc, cmos[REG_SECOND]),
		.tm_min = (int)decode(rtc, cmos[REG_MINUTE]),
		.tm_hour = (int)decode_hour(rtc, cmos[REG_HOUR]),
		.tm_mday = (int)decode(rtc, cmos[REG_DAY]),
		.tm_mon = (int)decode(rtc, cmos[REG_MONTH]) - 1,
		.tm_year = (int)(decode(rtc, cmos[REG_YEAR]) +
				 decode(rtc, cmos[REG_CENTURY]) * 100) -
			   1900,
	};

	set_wall(rtc, timegm(&tm), phase_ns);
}

/* Flags and interrupts. */

static bool alarm_matches(uint8_t alarm, unsigned want, unsigned value)
{
	return alarm >= ALARM_ANY || want == value;
}

/* The first second after (after) at which the alarm goes off, or INT64_MAX.
 * Hours and minutes that do not match are skipped as a whole. */
static int64_t next_alarm(const struct rtc *rtc, int64_t after)
{
	const uint8_t *cmos = rtc->cmos;
	unsigned second = decode(rtc, cmos[REG_SECOND_ALARM]);
	unsigned minute = decode(rtc, cmos[REG_MINUTE_ALARM]);
	unsigned hour = decode_hour(rtc, cmos[REG_HOUR_ALARM]);
	int64_t t = after + 1, end = t + SECONDS_PER_DAY;

	while (t < end) {
		int64_t day = floor_div(t, SECONDS_PER_DAY) * SECONDS_PER_DAY;
		unsigned at = (unsigned)(t - day);

		if (!alarm_matches(cmos[REG_HOUR_ALARM], hour, at / 3600))
			t = day + (at / 3600 + 1LL) * 3600;
		else if (!alarm_matches(cmos[REG_MINUTE_ALARM], minute,
					at / 60 % 60))
			t = day + (at / 60 + 1LL) * 60;
		else if (cmos[REG_SECOND_ALARM] >= ALARM_ANY ||
			 second == at % 60)
			return t;
		else if (second < 60 && second > at % 60)
			t += second - at % 60;
		else
			t = day + (at / 60 + 1LL) * 60;
	}
	return INT64_MAX;
}

/* Ticks of RTC_HZ in a period, or 0. */
static uint64_t periodic_ticks(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (!rate || (rtc->cmos[REG_A] & A_RESET) == A_RESET)
		return 0;
	/* The two fastest rates repeat slower ones (table 5). */
	return BIT((rate <= 2 ? rate + 7 : rate) - 1);
}

static void catch_up(struct rtc *rtc)
{
	uint64_t tick = vclock_ticks(rtc->dev.env->clock, RTC_HZ);
	uint64_t period = periodic_ticks(rtc);

	if (period && tick / period != rtc->last_tick / period)
		rtc->cmos[REG_C] |= C_PERIODIC;
	rtc->last_tick = tick;
	if (is_stopped(rtc))
		return;
	if (wall_second(rtc) > rtc->last_second) {
		rtc->cmos[REG_C] |= C_UPDATE;
		if (next_alarm(rtc, rtc->last_second) <= wall_second(rtc))
			rtc->cmos[REG_C] |= C_ALARM;
	}
	rtc->last_second = wall_second(rtc);
}

static void update_irq(struct rtc *rtc)
{
	uint8_t enabled = rtc->cmos[REG_B] & (B_PERIODIC | B_ALARM | B_UPDATE);

	if (rtc->cmos[REG_C] & enabled)
		rtc->cmos[REG_C] |= C_IRQ;
	else
		rtc->cmos[REG_C] &= ~C_IRQ;
	irq_set(rtc->irq, rtc->cmos[REG_C] & C_IRQ);
}

static void arm(struct rtc *rtc)
{
	struct vclock *clock = rtc->dev.env->clock;
	int64_t second = INT64_MAX;
	uint64_t period = periodic_ticks(rtc);

	if (!is_stopped(rtc) && rtc->cmos[REG_B] & B_UPDATE)
		second = wall_second(rtc) + 1;
	else if (!is_stopped(rtc) && rtc->cmos[REG_B] & B_ALARM)
		second = next_alarm(rtc, wall_second(rtc));
	if (second != INT64_MAX)
		vtimer_arm(clock, &rtc->second_timer,
			   (second - rtc->base) * NSEC_PER_SEC - rtc->base_ns);
	else
		vtimer_disarm(clock, &rtc->second_timer);
	if (period && rtc->cmos[REG_B] & B_PERIODIC)
		vtimer_arm(clock, &rtc->periodic_timer,
			   ticks_to_ns((vclock_ticks(clock, RTC_HZ) / period +
					1) * period,
				       RTC_HZ));
	else
		vtimer_disarm(clock, &rtc->periodic_timer);
}

static void timer_expired(void *opaque)
{
	struct rtc *rtc = opaque;

	catch_up(rtc);
	update_irq(rtc);
	arm(rtc);
}

/* Registers. */

static bool is_time(unsigned index)
{
	return index == REG_SECOND || index == REG_MINUTE ||
	       index == REG_HOUR ||
	       (index >= REG_WEEKDAY && index <= REG_YEAR) ||
	       index == REG_CENTURY;
}

static uint8_t read_a(struct rtc *rtc)
{
	bool is_updating =
		!is_stopped(rtc) && wall_phase_ns(rtc) >= NSEC_PER_SEC - UIP_NS;

	return rtc->cmos[REG_A] | (is_updating ? A_UIP : 0);
}

static uint8_t read_c(struct rtc *rtc)
{
	uint8_t value;

	catch_up(rtc);
	update_irq(rtc);
	value = rtc->cmos[REG_C];
	rtc->cmos[REG_C] = 0;
	update_irq(rtc);
	return value;
}

static uint8_t read_cmos(struct rtc *rtc, unsigned index)
{
	if (index == REG_A)
		return read_a(rtc);
	if (index == REG_C)
		return read_c(rtc);
	if (index == REG_D)
		return D_VALID;
	if (is_time(index) && !is_stopped(rtc))
		time_to_cmos(rtc);
	return rtc->cmos[index];
}

/* A or B changes, and with them whether and how the clock runs. */
static void write_control(struct rtc *rtc, unsigned index, uint8_t value)
{
	int64_t phase_ns = wall_phase_ns(rtc);
	bool was_stopped = is_stopped(rtc);
	bool was_reset = (rtc->cmos[REG_A] & A_RESET) == A_RESET;

	catch_up(rtc);
	if (!was_stopped)
		time_to_cmos(rtc);
	rtc->cmos[index] = value;
	/* Out of its reset the divider is half a second before an update. */
	if (was_reset && (rtc->cmos[REG_A] & A_RESET) != A_RESET)
		phase_ns = NSEC_PER_SEC / 2;
	if (was_stopped && !is_stopped(rtc))
		cmos_to_time(rtc, phase_ns);
}

static void write_cmos(struct rtc *rtc, unsigned index, uint8_t value)
{
	if (index == REG_A) {
		write_control(rtc, index, value & ~A_UIP);
	} else if (index == REG_B) {
		if (value & B_SET)
			value &= ~B_UPDATE;
		write_control(rtc, index, value);
	} else if (index == REG_C || index == REG_D) {
		return;
	} else if (is_time(index) && !is_stopped(rtc)) {
		catch_up(rtc);
		time_to_cmos(rtc);
		rtc->cmos[index] = value;
		cmos_to_time(rtc, wall_phase_ns(rtc));
	} else {
		if (index <= REG_HOUR_ALARM)
			catch_up(rtc);
		rtc->cmos[index] = value;
	}
	if (index > REG_B)
		return;
	update_irq(rtc);
	arm(rtc);
}

static uint64_t rtc_read(void *dev, unsigned cpu, uint64_t offset,
			 unsigned size)
{
	struct rtc *rtc = dev;

	return offset ? read_cmos(rtc, rtc->index) : 0xff;
}

static void rtc_write(void *dev, unsigned cpu, uint64_t offset, unsigned size,
		      uint64_t value)
{
	struct rtc *rtc = dev;

	if (offset)
		write_cmos(rtc, rtc->index, (uint8_t)value);
	else
		rtc->index = value & (CMOS_SIZE - 1); /* bit 7 masks NMI */
}

static const struct bus_ops rtc_ops = { .read = rtc_read,
					.write = rtc_write,
					.max_size = 1 };

/* The machine's side. */

void rtc_set_cmos(struct device *dev, unsigned index, uint8_t value)
{
	struct rtc *rtc = container_of(dev, struct rtc, dev);

	vm_assert(index > REG_D && index < CMOS_SIZE && index != REG_CENTURY);
	pthread_mutex_lock(&dev->lock);
	rtc->cmos[index] = value;
	pthread_mutex_unlock(&dev->lock);
}

static void set_word(struct rtc *rtc, unsigned index, uint64_t value)
{
	value = MIN(value, UINT16_MAX);
	rtc->cmos[index] = (uint8_t)value;
	rtc->cmos[index + 1] = (uint8_t)(value >> 8);
}

/* Sizes of memory where BIOSes have put them. */
static void set_ram(struct rtc *rtc, uint64_t low, uint64_t high)
{
	uint64_t above_1m = low > MiB ? (low - MiB) / KiB : 0;
	uint64_t above_16m = low > 16 * MiB ? (low - 16 * MiB) / (64 * KiB) : 0;
	uint64_t above_4g = MIN(high / (64 * KiB), 0xffffff);

	set_word(rtc, 0x15, MIN(low / KiB, 640));
	set_word(rtc, 0x17, above_1m);
	set_word(rtc, 0x30, above_1m);
	set_word(rtc, 0x34, above_16m);
	rtc->cmos[0x5b] = (uint8_t)above_4g;
	rtc->cmos[0x5c] = (uint8_t)(above_4g >> 8);
	rtc->cmos[0x5d] = (uint8_t)(above_4g >> 16);
}

static void rtc_state(struct device *dev, struct stream *s)
{
	struct rtc *rtc = container_of(dev, struct rtc, dev);

	stream_begin(s, STREAM_TAG('R', 'T', 'C', ' '), 1);
	stream_bytes(s, rtc->cmos, sizeof(rtc->cmos));
	stream_u8(s, &rtc->index);
	stream_i64(s, &rtc->base);
	stream_i64(s, &rtc->base_ns);
	stream_i64(s, &rtc->last_second);
	stream_u64(s, &rtc->last_tick);
	stream_check(s, rtc->index < CMOS_SIZE);
	stream_check(s, rtc->base >= -BASE_LIMIT && rtc->base <= BASE_LIMIT);
	stream_check(s, rtc->base_ns >= 0 && rtc->base_ns < NSEC_PER_SEC);
	stream_check(s, rtc->last_second >= -BASE_LIMIT &&
				rtc->last_second <= BASE_LIMIT);
	stream_end(s);
	if (!s->is_loading || stream_error(s))
		return;
	irq_set(rtc->irq, rtc->cmos[REG_C] & C_IRQ);
	arm(rtc);
}

/* It has a battery: only what interrupts is reset. */
static void rtc_reset(struct device *dev)
{
	struct rtc *rtc = container_of(dev, struct rtc, dev);

	pthread_mutex_lock(&dev->lock);
	rtc->cmos[REG_B] &= ~(B_PERIODIC | B_ALARM | B_UPDATE | B_SQUARE);
	rtc->cmos[REG_C] = 0;
	rtc->index = 0;
	update_irq(rtc);
	arm(rtc);
	pthread_mutex_unlock(&dev->lock);
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *rtc = container_of(dev, struct rtc, dev);

	vtimer_disarm(dev->env->clock, &rtc->second_timer);
	vtimer_disarm(dev->env->clock, &rtc->periodic_timer);
	device_finish(dev);
	free(rtc);
}

const struct device_class rtc_class = {
	.name = "rtc",
	.help = "MC146818 real-time clock",
	.destroy = rtc_destroy,
	.reset = rtc_reset,
	.state = rtc_state,
};

int rtc_create(struct device **dev, const struct device_env *env,
	       const struct rtc_opts *opts, struct err *err)
{
	struct rtc *rtc = calloc(1, sizeof(*rtc));
	int r;

	if (!rtc)
		return err_set(err, ENOMEM, NULL, "cannot make the RTC:");
	device_init(&rtc->dev, &rtc_class, env);
	rtc->irq = opts->irq;
	rtc->base = floor_div(opts->wall_ns, NSEC_PER_SEC);
	rtc->base_ns = opts->wall_ns - rtc->base * NSEC_PER_SEC;
	vtimer_init(env->clock, &rtc->second_timer, timer_expired, rtc,
		    &rtc->dev.lock);
	vtimer_init(env->clock, &rtc->periodic_timer, timer_expired, rtc,
		    &rtc->dev.lock);
	rtc->cmos[REG_A] = 0x26; /* 32.768 kHz, 1024 Hz periodic */
	rtc->cmos[REG_B] = B_24H;
	rtc->last_second = wall_second(rtc);
	set_ram(rtc, opts->ram_low, opts->ram_high);
	rtc->cmos[0x5f] = (uint8_t)(opts->nr_cpus ? opts->nr_cpus - 1 : 0);
	rtc_reset(&rtc->dev);
	r = device_map(&rtc->dev, env->pio, PORT_BASE, 2, &rtc_ops, err);
	if (r) {
		rtc_destroy(&rtc->dev);
		return r;
	}
	*dev = &rtc->dev;
	return 0;
}
