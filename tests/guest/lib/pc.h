/*
 * What the test guests know of the PC around the CPU: interrupt controllers,
 * timers, ACPI tables.
 */
#ifndef TESTS_GUEST_LIB_PC_H
#define TESTS_GUEST_LIB_PC_H

#include "lib/guest.h"

#define APIC_BASE   0xfee00000ULL
#define IOAPIC_BASE 0xfec00000ULL
#define PM_HZ       3579545
#define PIT_HZ      1193182

/* clang-format off */
/* Registers of a local APIC, as offsets in its page. */
enum {
	APIC_ID = 0x20, APIC_VERSION = 0x30, APIC_TPR = 0x80, APIC_PPR = 0xa0,
	APIC_EOI = 0xb0, APIC_LDR = 0xd0, APIC_DFR = 0xe0, APIC_SVR = 0xf0,
	APIC_ISR = 0x100, APIC_TMR = 0x180, APIC_IRR = 0x200, APIC_ESR = 0x280,
	APIC_ICR = 0x300, APIC_ICR2 = 0x310, APIC_LVT_TIMER = 0x320,
	APIC_LVT_PERF = 0x340, APIC_LINT0 = 0x350, APIC_LINT1 = 0x360,
	APIC_LVT_ERROR = 0x370, APIC_INITIAL = 0x380, APIC_CURRENT = 0x390,
	APIC_DIVIDE = 0x3e0,
};
/* clang-format on */
#define APIC_MASKED 0x10000U

/** Is the local APIC in x2APIC mode? The accessors serve both modes. */
static inline bool apic_is_x2(void)
{
	return rdmsr(0x1b) & 0x400;
}
static inline uint32_t apic_read(unsigned reg)
{
	return apic_is_x2() ? (uint32_t)rdmsr(0x800 + reg / 16)
			    : *mmio(APIC_BASE + reg);
}
static inline void apic_write(unsigned reg, uint32_t v)
{
	if (apic_is_x2())
		wrmsr(0x800 + reg / 16, v);
	else
		*mmio(APIC_BASE + reg) = v;
}
static inline void apic_eoi(void)
{
	apic_write(APIC_EOI, 0);
}
/** Is the bit of (vector) set in APIC_ISR, APIC_TMR or APIC_IRR? */
static inline bool apic_test(unsigned reg, unsigned vector)
{
	return apic_read(reg + vector / 32 * 16) >> vector % 32 & 1;
}
/** Send what (low), the low half of the ICR, says to APIC (id). */
void apic_send(uint32_t id, uint32_t low);

static inline uint32_t ioapic_read(unsigned reg)
{
	*mmio(IOAPIC_BASE) = reg;
	return *mmio(IOAPIC_BASE + 0x10);
}
static inline void ioapic_write(unsigned reg, uint32_t v)
{
	*mmio(IOAPIC_BASE) = reg;
	*mmio(IOAPIC_BASE + 0x10) = v;
}
/** Set the redirection of (pin) to APIC 0 with the low half (low). */
void ioapic_route(unsigned pin, uint32_t low);

/** Start the 8259s at vectors (base) and (base) + 8, everything masked. */
void pic_init(uint8_t base);
/** Let channel 0 of the PIT interrupt (hz) times a second; 0 stops it. */
void pit_start(unsigned hz);

/** The ACPI table with (signature), or NULL. */
const void *acpi_find(const char *signature);
/** Where bus 0 of PCI Express configuration space is, or 0. */
uint64_t acpi_ecam(void);
/** The ACPI PM timer, in its 24 bits. */
uint32_t pm_read(void);

/** Elapsed time by the PM timer. Look at it more than once a second. */
struct stopwatch {
	uint32_t last;
	uint64_t ticks;
};
void stopwatch_start(struct stopwatch *w);
uint64_t stopwatch_us(struct stopwatch *w);
void delay_us(uint64_t us);

/** Read (counter) and the PM timer at one moment, as nearly as a host that
 * takes the CPU away now and then allows. */
#define READ_WITH_PM(counter, value, pm)                     \
	do {                                                 \
		uint64_t best_ = ~0ULL;                      \
		for (unsigned i_ = 0; i_ < 20; i_++) {       \
			uint64_t from_ = (counter);          \
			uint32_t pm_ = pm_read();            \
			uint64_t took_ = (counter)-from_;    \
			if (took_ < best_) {                 \
				best_ = took_;               \
				(value) = from_ + took_ / 2; \
				(pm) = pm_;                  \
			}                                    \
		}                                            \
	} while (0)
/** Microseconds from PM timer value (from) to (to), less than 4 s apart. */
static inline uint64_t pm_us(uint32_t from, uint32_t to)
{
	return (uint64_t)((to - from) & 0xffffff) * 1000000 / PM_HZ;
}

/** Wait until (condition) for up to (ms) with interrupts on; off after. */
#define WAIT_FOR(condition, ms)                                          \
	({                                                               \
		struct stopwatch w_;                                     \
		stopwatch_start(&w_);                                    \
		__asm__ volatile("sti" ::: "memory");                    \
		while (!(condition) && stopwatch_us(&w_) < (ms)*1000ULL) \
			;                                                \
		__asm__ volatile("cli" ::: "memory");                    \
		(condition);                                             \
	})

static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "a"(leaf), "c"(sub));
}
/** Bit (bit) of CPUID's register (reg), EAX to EDX being 0 to 3. */
static inline bool cpuid_bit(uint32_t leaf, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}
/** Does CPUID name KVM's paravirtual interface? */
static inline bool is_kvm(void)
{
	uint32_t r[4];

	cpuid(0x40000000, 0, r);
	return r[1] == 0x4b4d564b && r[2] == 0x564b4d56 && r[3] == 0x4d;
}

#endif
