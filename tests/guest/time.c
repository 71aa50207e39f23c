/* Time: the TSC and its MSRs, KVM's clock page, wall clock, steal time and
 * end-of-interrupt word (F1, F2, F4, C8). */
#include "lib/pc.h"

#define VECTOR          0x51
#define MSR_WALL_CLOCK  0x4b564d00
#define MSR_SYSTEM_TIME 0x4b564d01
#define MSR_STEAL_TIME  0x4b564d03
#define MSR_PV_EOI      0x4b564d04

/* asm/pvclock-abi.h, asm/kvm_para.h */
static volatile struct {
	uint32_t version, pad;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
} clock __attribute__((aligned(64)));
static volatile struct {
	uint32_t version, sec, nsec;
} wall __attribute__((aligned(64)));
static volatile struct {
	uint64_t steal;
	uint32_t version, flags;
	uint8_t preempted, pad[47];
} steal __attribute__((aligned(64)));
static volatile uint32_t eoi_word __attribute__((aligned(64)));

static bool is_near(uint64_t a, uint64_t b, unsigned percent)
{
	uint64_t off = a > b ? a - b : b - a;

	return off <= b * percent / 100 + 1000;
}

/* ---- TSC ------------------------------------------------------------------------- */

static int64_t user_rdtsc(void)
{
	return rdtsc() != 0;
}

static uint64_t tsc_khz(void)
{
	uint32_t r[4];

	cpuid(0, 0, r);
	if (r[0] >= 0x15) {
		cpuid(0x15, 0, r);
		if (r[0] && r[1] && r[2])
			return (uint64_t)r[2] * r[1] / r[0] / 1000;
	}
	if (!is_kvm())
		return 0;
	cpuid(0x40000000, 0, r);
	if (r[0] < 0x40000010)
		return 0;
	cpuid(0x40000010, 0, r);
	return r[0];
}

static void test_tsc(void)
{
	uint64_t last = rdtsc(), t, from = 0, khz = tsc_khz(), us;
	uint32_t lo, hi, pm = 0, pm_end = 0;
	unsigned bad = 0, aux;

	for (unsigned i = 0; i < 10000; i++) {
		t = rdtsc();
		bad += t < last;
		last = t;
	}
	ok(!bad, "f1_rdtsc_never_goes_back");
	t = rdmsr(0x10);
	ok(t >= last && rdtsc() >= t, "f1_the_msr_is_the_same_counter");
	if (khz) {
		READ_WITH_PM(rdtsc(), from, pm);
		delay_us(50000);
		READ_WITH_PM(rdtsc(), t, pm_end);
		us = pm_us(pm, pm_end);
		t = (t - from) * 1000 / khz;
		ok(is_near(t, us, 1),
		   "f1_the_tsc_runs_at_what_cpuid_says (%lu of %lu us)", t, us);
	}
	if (cpuid_bit(0x80000001, 3, 27)) {
		wrmsr(0xc0000103, 0x1234);
		__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
		ok(aux == 0x1234 && ((uint64_t)hi << 32 | lo) >= last,
		   "f1_rdtscp_gives_tsc_aux");
	}
	if (cpuid_bit(7, 2, 22)) {
		__asm__ volatile("rdpid %0" : "=r"(t));
		ok(t == 0x1234, "f1_rdpid_gives_it_too");
	}
	ok(user(user_rdtsc) == 1, "f1_rdtsc_at_cpl_3");
	write_cr4(read_cr4() | 4);
	ok(user(user_rdtsc) == -1013, "f1_tsd_refuses_it");
	ok(TRAP_OF("rdtsc") == -1, "f1_but_not_at_cpl_0");
	write_cr4(read_cr4() & ~4ULL);
}

static void test_tsc_writes(void)
{
	uint64_t before, adjust, day = 1ULL << 46;
	bool has_adjust = cpuid_bit(7, 1, 1);

	adjust = has_adjust ? rdmsr(0x3b) : 0;
	before = rdtsc();
	wrmsr(0x10, before + day);
	ok(rdtsc() - before - day < day / 16, "f1_the_tsc_can_be_set");
	if (has_adjust) {
		ok(rdmsr(0x3b) - adjust - day + (1ULL << 40) < 1ULL << 41,
		   "f1_tsc_adjust_follows");
		before = rdtsc();
		wrmsr(0x3b, rdmsr(0x3b) - day);
		ok(rdtsc() - before + day < day / 16,
		   "f1_tsc_adjust_moves_the_tsc");
		wrmsr(0x3b, adjust);
	} else {
		wrmsr(0x10, rdtsc() - day);
	}
}

/* ---- KVM's clock ------------------------------------------------------------------- */

static uint64_t clock_ns(void)
{
	uint64_t delta, ns, lo, hi;
	uint32_t version;

	do {
		version = clock.version & ~1U;
		__asm__ volatile("" ::: "memory");
		delta = rdtsc() - clock.tsc;
		if (clock.shift < 0)
			delta >>= -clock.shift;
		else
			delta <<= clock.shift;
		__asm__("mulq %3"
			: "=a"(lo), "=d"(hi)
			: "a"(delta), "r"((uint64_t)clock.mul)
			: "cc");
		ns = clock.ns + (hi << 32 | lo >> 32);
		__asm__ volatile("" ::: "memory");
	} while (clock.version != version);
	return ns;
}

static void test_clock(void)
{
	uint64_t last, t, from = 0, us;
	uint32_t pm = 0, pm_end = 0;
	unsigned bad = 0;

	ok(rdmsr(MSR_SYSTEM_TIME) == 0, "f2_the_clock_is_off_at_first");
	wrmsr(MSR_SYSTEM_TIME, (uint64_t)&clock | 1);
	ok(rdmsr(MSR_SYSTEM_TIME) == ((uint64_t)&clock | 1),
	   "f2_its_msr_reads_back");
	clock_ns();
	ok(clock.version && !(clock.version & 1) && clock.mul,
	   "f2_the_page_is_filled");
	ok(clock.flags & 1, "f2_the_stable_bit_is_set");
	last = clock_ns();
	for (unsigned i = 0; i < 2000; i++) {
		t = clock_ns();
		bad += t < last;
		last = t;
	}
	ok(!bad, "f2_the_clock_never_goes_back");
	READ_WITH_PM(clock_ns(), from, pm);
	delay_us(50000);
	READ_WITH_PM(clock_ns(), t, pm_end);
	us = pm_us(pm, pm_end);
	t = (t - from) / 1000;
	ok(is_near(t, us, 1), "f2_it_agrees_with_the_pm_timer (%lu of %lu us)",
	   t, us);
	t = clock_ns();
	wrmsr(0x10, rdtsc() + (1ULL << 45));
	delay_us(100);
	t = clock_ns() - t;
	ok(t < 1000000000, "f2_setting_the_tsc_does_not_move_it (%lu ns)", t);
	wrmsr(0x10, rdtsc() - (1ULL << 45));
	wrmsr(MSR_SYSTEM_TIME, 0);
	t = clock.tsc;
	delay_us(100);
	ok(clock.tsc == t, "f2_and_it_can_be_taken_away");
	wrmsr(MSR_SYSTEM_TIME, (uint64_t)&clock | 1);
}

/* Seconds since 1970 by the RTC, which is in BCD and UTC. */
static uint64_t rtc_seconds(void)
{
	static const uint8_t regs[] = { 0, 2, 4, 7, 8, 9 };
	uint64_t v[6], y, m;

	for (;;) {
		bool same = true;

		for (unsigned pass = 0; pass < 2; pass++) {
			for (unsigned i = 0; i < 6; i++) {
				uint8_t b;

				outb(0x70, regs[i]);
				b = inb(0x71);
				b = (b >> 4) * 10 + (b & 15);
				same = same && (!pass || v[i] == b);
				v[i] = b;
			}
		}
		if (same)
			break;
	}
	/* Days since 1970-01-01 with years that begin in March. */
	y = v[5] + 2000 - (v[4] <= 2);
	m = (v[4] + 9) % 12;
	return (365 * y + y / 4 - y / 100 + y / 400 + (m * 306 + 5) / 10 +
		v[3] - 1 - 719468) *
		       86400 +
	       v[2] * 3600 + v[1] * 60 + v[0];
}

static void test_wall_clock(void)
{
	uint64_t now, rtc;

	wrmsr(MSR_WALL_CLOCK, (uint64_t)&wall);
	ok(wall.version && !(wall.version & 1) && wall.nsec < 1000000000,
	   "f2_wall_clock_is_written");
	now = wall.sec + (wall.nsec + clock_ns()) / 1000000000;
	rtc = rtc_seconds();
	ok(now + 2 >= rtc && now <= rtc + 2,
	   "f2_wall_clock_agrees_with_the_rtc (%lu, %lu)", now, rtc);
}

static void test_steal(void)
{
	uint64_t last;

	ok(TRAP_IN("wrmsr", (uint32_t)(uint64_t)&steal | 3, 0, MSR_STEAL_TIME,
		   0) == 13,
	   "f4_reserved_bits_of_its_msr_are_gp");
	wrmsr(MSR_STEAL_TIME, (uint64_t)&steal | 1);
	ok(rdmsr(MSR_STEAL_TIME) == ((uint64_t)&steal | 1),
	   "f4_steal_time_is_registered");
	last = steal.steal;
	delay_us(5000);
	ok(!(steal.version & 1) && steal.steal >= last && !steal.preempted,
	   "f4_its_page_is_sane");
	wrmsr(MSR_STEAL_TIME, 0);
}

/* ---- KVM's end of interrupt ---------------------------------------------------------- */

static volatile unsigned hits, offers;

static void on_irq(struct trap_frame *f)
{
	bool taken;

	hits++;
	__asm__ volatile("btrl $0, %0; setc %1"
			 : "+m"(eoi_word), "=q"(taken)::"cc");
	offers += taken;
	if (!taken)
		apic_eoi();
}

static void test_pv_eoi(void)
{
	trap_set(VECTOR, on_irq);
	apic_write(APIC_SVR, 0x1ff);
	wrmsr(MSR_PV_EOI, (uint64_t)&eoi_word | 1);
	ok(rdmsr(MSR_PV_EOI) == ((uint64_t)&eoi_word | 1),
	   "c8_pv_eoi_is_registered");
	for (unsigned i = 1; i <= 100; i++) {
		apic_send(0, 0x44000 | VECTOR);
		if (!WAIT_FOR(hits == i, 1000))
			break;
	}
	ok(hits == 100, "c8_100_interrupts_end_with_or_without_it (%u)", hits);
	note("%u of them without an exit", offers);
	ok(!apic_test(APIC_ISR, VECTOR), "c8_none_is_in_service");
	wrmsr(MSR_PV_EOI, 0);
	offers = 0;
	apic_send(0, 0x44000 | VECTOR);
	ok(WAIT_FOR(hits == 101, 1000) && !offers, "c8_off_it_is_not_offered");
}

void guest_main(void)
{
	uint32_t r[4];

	pic_init(0x20);
	test_tsc();
	test_tsc_writes();
	if (!is_kvm())
		return;
	cpuid(0x40000001, 0, r);
	if (r[0] & 1 << 3) {
		test_clock();
		test_wall_clock();
	}
	if (r[0] & 1 << 5)
		test_steal();
	if (r[0] & 1 << 6)
		test_pv_eoi();
}
