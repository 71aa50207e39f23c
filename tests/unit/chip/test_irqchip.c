/* All interrupt controllers together, with four CPUs that only count. */
#include "chip_test.h"

#include "device/chip/hpet.h"
#include "device/chip/ioapic.h"
#include "device/chip/irqchip.h"
#include "device/chip/lapic.h"
#include "device/chip/pit.h"
#include "device/chip/rtc.h"

#define NR_CPUS      4

#define TPR          0x080
#define PPR          0x0a0
#define EOI          0x0b0
#define LDR          0x0d0
#define DFR          0x0e0
#define SVR          0x0f0
#define ISR          0x100
#define IRR          0x200
#define ESR          0x280
#define ICR          0x300
#define ICR_HI       0x310
#define LVT_TIMER    0x320
#define LVT_LINT0    0x350
#define LVT_LINT1    0x360
#define LVT_ERROR    0x370
#define TIMER_INIT   0x380
#define TIMER_NOW    0x390
#define TIMER_DIV    0x3e0

#define MSR_BASE     0x1b
#define MSR_DEADLINE 0x6e0
#define X2(reg)      (0x800 + ((reg) >> 4))

struct cpu {
	unsigned nr[CPU_SMI + 1];
	uint8_t sipi;
	struct intc intc;
};

struct machine {
	struct board b;
	struct device *dev;
	struct irqchip irqchip;
	struct cpu cpu[NR_CPUS];
};

static const struct board_range ranges[] = {
	{ true, LAPIC_BASE, 0x1000 }, { true, LAPIC_BASE, 0x400 },
	{ true, IOAPIC_BASE, 0x50 },  { false, 0x20, 2 },
	{ false, 0xa0, 2 },           { 0 }
};

static void cpu_signal(void *opaque, enum cpu_signal s, uint8_t vector)
{
	struct cpu *cpu = opaque;

	cpu->nr[s]++;
	if (s == CPU_SIPI)
		cpu->sipi = vector;
}

static struct device *make(struct board *b)
{
	static const uint32_t ids[NR_CPUS] = { 0, 1, 2, 3 };
	const struct irqchip_opts opts = { .nr_cpus = NR_CPUS,
					   .apic_ids = ids };
	struct device *dev;

	assert_int_equal(irqchip_create(&dev, &b->env, &opts, NULL), 0);
	return dev;
}

static void machine_connect(struct machine *m)
{
	m->irqchip = irqchip_get(m->dev);
	for (unsigned i = 0; i < NR_CPUS; i++)
		m->cpu[i].intc =
			irqchip_connect(m->dev, i,
					(struct cpu_port){ .signal = cpu_signal,
							   .cpu = &m->cpu[i] });
}

static void machine_init(struct machine *m)
{
	*m = (struct machine){ .dev = NULL };
	board_init(&m->b, 123);
	m->dev = make(&m->b);
	machine_connect(m);
}

static void machine_finish(struct machine *m)
{
	m->dev->cls->destroy(m->dev);
	board_finish(&m->b);
}

static uint32_t get(struct machine *m, unsigned cpu, unsigned reg)
{
	return (uint32_t)bus_read(m->b.mmio, cpu, LAPIC_BASE + reg, 4);
}

static void set(struct machine *m, unsigned cpu, unsigned reg, uint32_t value)
{
	bus_write(m->b.mmio, cpu, LAPIC_BASE + reg, 4, value);
}

static int pending(struct machine *m, unsigned cpu)
{
	return m->cpu[cpu].intc.ops->pending(m->cpu[cpu].intc.dev);
}

static int acknowledge(struct machine *m, unsigned cpu)
{
	return m->cpu[cpu].intc.ops->acknowledge(m->cpu[cpu].intc.dev);
}

static int rdmsr(struct machine *m, unsigned cpu, uint32_t msr, uint64_t *v)
{
	return m->cpu[cpu].intc.ops->read_msr(m->cpu[cpu].intc.dev, msr, v);
}

static int wrmsr(struct machine *m, unsigned cpu, uint32_t msr, uint64_t v)
{
	return m->cpu[cpu].intc.ops->write_msr(m->cpu[cpu].intc.dev, msr, v);
}

static void enable_all(struct machine *m)
{
	for (unsigned i = 0; i < NR_CPUS; i++) {
		set(m, i, SVR, 0x1ff);
		set(m, i, LDR, 1u << (24 + i));
	}
}

static void enable_x2apic(struct machine *m)
{
	for (unsigned i = 0; i < NR_CPUS; i++) {
		uint64_t base = 0;

		assert_int_equal(rdmsr(m, i, MSR_BASE, &base), 0);
		assert_int_equal(wrmsr(m, i, MSR_BASE, base | 0x400), 0);
		assert_int_equal(wrmsr(m, i, X2(SVR), 0x1ff), 0);
	}
}

static void set_gsi(struct machine *m, unsigned gsi, bool level)
{
	m->irqchip.ops->set_gsi(m->irqchip.chip, gsi, level);
}

static void send_msi(struct machine *m, uint64_t addr, uint32_t data)
{
	const struct msi_msg msg = { .addr = addr, .data = data };

	m->irqchip.ops->send_msi(m->irqchip.chip, &msg);
}

/* Which CPUs have (vector) pending, as bits; they take and end it. */
static unsigned take(struct machine *m, int vector)
{
	unsigned cpus = 0;

	for (unsigned i = 0; i < NR_CPUS; i++) {
		if (pending(m, i) < 0)
			continue;
		assert_int_equal(acknowledge(m, i), vector);
		m->cpu[i].intc.ops->eoi(m->cpu[i].intc.dev);
		assert_int_equal(pending(m, i), -1);
		cpus |= 1u << i;
	}
	return cpus;
}

static void init_pic(struct machine *m)
{
	static const uint8_t words[] = { 0x11, 0x30, 4, 1, 0 };

	for (unsigned i = 0; i < sizeof(words); i++)
		board_out(&m->b, i ? 0x21 : 0x20, 1, words[i]);
}

static void set_pin(struct machine *m, unsigned n, uint64_t entry)
{
	bus_write(m->b.mmio, 0, IOAPIC_BASE, 4, 0x11 + 2 * n);
	bus_write(m->b.mmio, 0, IOAPIC_BASE + 0x10, 4, entry >> 32);
	bus_write(m->b.mmio, 0, IOAPIC_BASE, 4, 0x10 + 2 * n);
	bus_write(m->b.mmio, 0, IOAPIC_BASE + 0x10, 4, (uint32_t)entry);
}

static void c14_pic_through_lint0(void **state)
{
	struct machine m;

	machine_init(&m);
	init_pic(&m);
	set_gsi(&m, 4, true);
	/* The boot CPU is in virtual wire mode, the others are not. */
	assert_true(pending(&m, 0) >= 0);
	assert_int_equal(pending(&m, 1), -1);
	assert_int_equal(m.cpu[0].nr[CPU_WAKE], 1);
	assert_int_equal(acknowledge(&m, 0), 0x34);
	assert_int_equal(pending(&m, 0), -1);
	assert_int_equal(acknowledge(&m, 0), -1);
	set_gsi(&m, 4, false);
	set_gsi(&m, 4, true);
	assert_int_equal(pending(&m, 0), -1);
	board_out(&m.b, 0x20, 1, 0x20);
	assert_true(pending(&m, 0) >= 0);
	/* Masking LINT0 cuts the wire. */
	set(&m, 0, SVR, 0x1ff);
	set(&m, 0, LVT_LINT0, 0x10700);
	assert_int_equal(pending(&m, 0), -1);
	set(&m, 0, LVT_LINT0, 0x700);
	assert_int_equal(acknowledge(&m, 0), 0x34);
	/* LINT0 as a fixed vector: by edge. */
	board_out(&m.b, 0x20, 1, 0x20);
	set(&m, 0, LVT_LINT0, 0x40);
	set_gsi(&m, 1, true);
	assert_int_equal(pending(&m, 0), 0x40);
	/* With the APIC off altogether the wire goes straight through. */
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE), 0);
	assert_int_equal(acknowledge(&m, 0), 0x31);
	assert_int_equal(get(&m, 0, SVR), UINT32_MAX);
	machine_finish(&m);
}

static void c14_ioapic_level_to_eoi(void **state)
{
	struct machine m;

	machine_init(&m);
	enable_all(&m);
	set_pin(&m, 16, 0x0200000000008050);
	set_gsi(&m, 16, true);
	assert_int_equal(pending(&m, 0), -1);
	assert_int_equal(pending(&m, 2), 0x50);
	assert_int_equal(m.cpu[2].nr[CPU_WAKE], 1);
	assert_int_equal(acknowledge(&m, 2), 0x50);
	assert_int_equal(get(&m, 2, ISR + 0x20), 1 << 16);
	/* Still asserted at the EOI: again, and the CPU hears of it. */
	set(&m, 2, EOI, 0);
	assert_int_equal(pending(&m, 2), 0x50);
	assert_int_equal(m.cpu[2].nr[CPU_WAKE], 2);
	acknowledge(&m, 2);
	set_gsi(&m, 16, false);
	set(&m, 2, EOI, 0);
	assert_int_equal(pending(&m, 2), -1);
	/* With the broadcast suppressed the guest writes the I/O APIC. */
	set(&m, 2, SVR, 0x11ff);
	set_gsi(&m, 16, true);
	acknowledge(&m, 2);
	set(&m, 2, EOI, 0);
	assert_int_equal(pending(&m, 2), -1);
	bus_write(m.b.mmio, 2, IOAPIC_BASE + 0x40, 4, 0x50);
	assert_int_equal(pending(&m, 2), 0x50);
	/* An edge-triggered one does not tell the I/O APIC. */
	set(&m, 2, SVR, 0x1ff);
	set_pin(&m, 3, 0x0200000000000051);
	set_gsi(&m, 3, true);
	assert_int_equal(acknowledge(&m, 2), 0x51);
	set(&m, 2, EOI, 0);
	assert_int_equal(acknowledge(&m, 2), 0x50);
	machine_finish(&m);
}

static void c14_timer_gsi_reaches_both_pins(void **state)
{
	struct machine m;

	machine_init(&m);
	enable_all(&m);
	set(&m, 0, LVT_LINT0, 0x10700);
	set_pin(&m, 2, 0x60);
	set_gsi(&m, 0, true);
	assert_int_equal(take(&m, 0x60), 1);
	set_pin(&m, 2, 0x10060);
	set_pin(&m, 0, 0x61);
	set_gsi(&m, 0, false);
	set_gsi(&m, 0, true);
	assert_int_equal(take(&m, 0x61), 1);
	set_gsi(&m, 2, true);
	set_gsi(&m, 100, true);
	assert_int_equal(take(&m, 0), 0);
	machine_finish(&m);
}

static void c14_msi_delivery(void **state)
{
	struct machine m;

	machine_init(&m);
	/* Disabled by software an APIC takes no vectors. */
	send_msi(&m, 0xfee01000, 0x41);
	assert_int_equal(take(&m, 0x41), 0);
	enable_all(&m);
	send_msi(&m, 0xfee01000, 0x41);
	assert_int_equal(take(&m, 0x41), 2);
	send_msi(&m, 0xfeeff000, 0x42);
	assert_int_equal(take(&m, 0x42), 15);
	send_msi(&m, 0xfee0c004, 0x43); /* logical: CPUs 2 and 3 */
	assert_int_equal(take(&m, 0x43), 12);
	send_msi(&m, 0xfee01000, 0x0400); /* NMI */
	assert_int_equal(m.cpu[1].nr[CPU_NMI], 1);
	send_msi(&m, 0xfee09000, 0x44); /* nobody */
	send_msi(&m, 0xfed00000, 0x44); /* not for APICs */
	send_msi(&m, 0x1fee00000, 0x44);
	assert_int_equal(take(&m, 0x44), 0);
	/* A vector below 16 is an error, which can be an interrupt. */
	set(&m, 0, LVT_ERROR, 0xfe);
	send_msi(&m, 0xfee00000, 0x05);
	assert_int_equal(take(&m, 0xfe), 1);
	set(&m, 0, ESR, 0);
	assert_int_equal(get(&m, 0, ESR), 0x40);
	assert_int_equal(m.irqchip.ops->route_msi(m.irqchip.chip, 0, NULL),
			 -ENOTSUP);
	machine_finish(&m);
}

static void c14_lowest_priority(void **state)
{
	struct machine m;
	unsigned cpus = 0;

	machine_init(&m);
	enable_all(&m);
	set(&m, 0, TPR, 0x20);
	set(&m, 1, TPR, 0x10);
	set(&m, 2, TPR, 0x30);
	set(&m, 3, TPR, 0x20);
	send_msi(&m, 0xfee0f004, 0x0145);
	assert_int_equal(take(&m, 0x45), 2);
	/* The redirection hint of a fixed message does the same. */
	send_msi(&m, 0xfee0f00c, 0x0046);
	assert_int_equal(take(&m, 0x46), 2);
	/* Equals take turns. */
	set(&m, 1, TPR, 0x20);
	for (unsigned i = 0; i < 8; i++) {
		send_msi(&m, 0xfee0f004, 0x0147);
		cpus |= take(&m, 0x47);
	}
	assert_int_equal(cpus, 0xb);
	machine_finish(&m);
}

static void c14_priority_and_wake(void **state)
{
	struct machine m;
	struct intc *intc = &m.cpu[0].intc;

	machine_init(&m);
	enable_all(&m);
	send_msi(&m, 0xfee00000, 0x41);
	send_msi(&m, 0xfee00000, 0x52);
	send_msi(&m, 0xfee00000, 0x58);
	assert_int_equal(pending(&m, 0), 0x58);
	/* It was told once, and looks by itself after that. */
	assert_int_equal(m.cpu[0].nr[CPU_WAKE], 1);
	assert_int_equal(acknowledge(&m, 0), 0x58);
	assert_int_equal(get(&m, 0, PPR), 0x50);
	assert_int_equal(pending(&m, 0), -1); /* 0x52 is of the same class */
	send_msi(&m, 0xfee00000, 0x61);
	assert_int_equal(acknowledge(&m, 0), 0x61);
	intc->ops->eoi(intc->dev);
	assert_int_equal(pending(&m, 0), -1);
	intc->ops->eoi(intc->dev);
	assert_int_equal(pending(&m, 0), 0x52);
	assert_int_equal(m.cpu[0].nr[CPU_WAKE], 3);
	/* CR8 holds it back and lets it go. */
	intc->ops->set_tpr(intc->dev, 5);
	assert_int_equal(pending(&m, 0), -1);
	assert_int_equal(intc->ops->get_tpr(intc->dev), 5);
	assert_int_equal(get(&m, 0, TPR), 0x50);
	intc->ops->set_tpr(intc->dev, 4);
	assert_int_equal(acknowledge(&m, 0), 0x52);
	assert_int_equal(m.cpu[0].nr[CPU_WAKE], 4);
	assert_int_equal(acknowledge(&m, 0), -1);
	intc->ops->eoi(intc->dev);
	assert_int_equal(pending(&m, 0), -1);
	assert_int_equal(get(&m, 0, IRR + 0x20), 1 << 1);
	/* An EOI of nothing is nothing. */
	set(&m, 0, TPR, 0);
	assert_int_equal(take(&m, 0x41), 1);
	intc->ops->eoi(intc->dev);
	machine_finish(&m);
}

static void c14_ipis(void **state)
{
	struct machine m;

	machine_init(&m);
	enable_all(&m);
	set(&m, 0, ICR_HI, 3u << 24);
	set(&m, 0, ICR, 0x4045);
	assert_int_equal(take(&m, 0x45), 8);
	set(&m, 1, ICR, 0x44046); /* self */
	assert_int_equal(take(&m, 0x46), 2);
	set(&m, 1, ICR, 0x84047); /* all */
	assert_int_equal(take(&m, 0x47), 15);
	set(&m, 1, ICR, 0xc4048); /* others */
	assert_int_equal(take(&m, 0x48), 13);
	set(&m, 2, ICR_HI, 0x05000000); /* logical */
	set(&m, 2, ICR, 0x4849);
	assert_int_equal(take(&m, 0x49), 5);
	set(&m, 2, ICR_HI, 0xff000000); /* broadcast */
	set(&m, 2, ICR, 0x404a);
	assert_int_equal(take(&m, 0x4a), 15);
	assert_int_equal(get(&m, 2, ICR_HI), 0xff000000);
	/* Start the others: INIT, its end, SIPI; an NMI. */
	set(&m, 0, ICR, 0xc4500);
	set(&m, 0, ICR, 0xc8500);
	set(&m, 0, ICR, 0xc4699);
	set(&m, 0, ICR, 0xc4400);
	set(&m, 0, ICR, 0xc4200);
	for (unsigned i = 1; i < NR_CPUS; i++) {
		assert_int_equal(m.cpu[i].nr[CPU_INIT], 1);
		assert_int_equal(m.cpu[i].nr[CPU_SIPI], 1);
		assert_int_equal(m.cpu[i].sipi, 0x99);
		assert_int_equal(m.cpu[i].nr[CPU_NMI], 1);
		assert_int_equal(m.cpu[i].nr[CPU_SMI], 1);
	}
	assert_int_equal(m.cpu[0].nr[CPU_INIT], 0);
	/* Illegal vectors and modes go nowhere. */
	set(&m, 0, ICR, 0x84005);
	set(&m, 0, ICR, 0x84742);
	set(&m, 0, ICR, 0x84342);
	assert_int_equal(take(&m, 0), 0);
	set(&m, 0, ESR, 0);
	assert_int_equal(get(&m, 0, ESR), 0x20);
	set(&m, 0, ESR, 0);
	assert_int_equal(get(&m, 0, ESR), 0);
	/* The paravirtual one. */
	m.cpu[0].intc.ops->send_ipi(m.cpu[0].intc.dev, 2, 0x4b);
	assert_int_equal(take(&m, 0x4b), 4);
	m.cpu[0].intc.ops->send_ipi(m.cpu[0].intc.dev, 2, 0x400);
	assert_int_equal(m.cpu[2].nr[CPU_NMI], 2);
	m.cpu[0].intc.ops->send_ipi(m.cpu[0].intc.dev, 2, 0x500);
	assert_int_equal(m.cpu[2].nr[CPU_INIT], 1);
	machine_finish(&m);
}

static void c14_cluster_addressing(void **state)
{
	struct machine m;

	machine_init(&m);
	enable_all(&m);
	for (unsigned i = 0; i < NR_CPUS; i++) {
		set(&m, i, DFR, 0x0fffffff);
		set(&m, i, LDR, (i / 2) << 28 | 1u << (24 + i % 2));
		assert_int_equal(get(&m, i, DFR), 0x0fffffff);
	}
	set(&m, 0, ICR_HI, 0x13000000);
	set(&m, 0, ICR, 0x4845);
	assert_int_equal(take(&m, 0x45), 12);
	set(&m, 0, ICR_HI, 0x02000000);
	set(&m, 0, ICR, 0x4846);
	assert_int_equal(take(&m, 0x46), 2);
	machine_finish(&m);
}

static void c14_x2apic(void **state)
{
	struct machine m;
	uint64_t v = 0;

	machine_init(&m);
	/* Its registers are MSRs only once it is on, and MMIO only before. */
	assert_int_equal(rdmsr(&m, 1, X2(0x20), &v), -1);
	enable_x2apic(&m);
	assert_int_equal(get(&m, 1, 0x20), UINT32_MAX);
	set(&m, 1, TPR, 0x90);
	assert_int_equal(rdmsr(&m, 1, X2(TPR), &v), 0);
	assert_int_equal(v, 0);
	assert_int_equal(rdmsr(&m, 3, X2(0x20), &v), 0);
	assert_int_equal(v, 3);
	assert_int_equal(rdmsr(&m, 3, X2(LDR), &v), 0);
	assert_int_equal(v, 8);
	/* One write sends: physical, logical, broadcast, self. */
	assert_int_equal(wrmsr(&m, 0, X2(ICR), 2ULL << 32 | 0x45), 0);
	assert_int_equal(take(&m, 0x45), 4);
	assert_int_equal(wrmsr(&m, 0, X2(ICR), 10ULL << 32 | 0x846), 0);
	assert_int_equal(take(&m, 0x46), 10);
	assert_int_equal(wrmsr(&m, 0, X2(ICR), 0xffffffff00000047), 0);
	assert_int_equal(take(&m, 0x47), 15);
	assert_int_equal(wrmsr(&m, 0, X2(ICR), 0x100ffULL << 32 | 0x848), 0);
	assert_int_equal(take(&m, 0x48), 0); /* another cluster */
	assert_int_equal(wrmsr(&m, 3, X2(0x3f0), 0x49), 0);
	assert_int_equal(take(&m, 0x49), 8);
	/* Messages reach it as before. */
	send_msi(&m, 0xfee02000, 0x4a);
	assert_int_equal(take(&m, 0x4a), 4);
	/* #GP for what there is not, and for reserved bits. */
	assert_int_equal(wrmsr(&m, 0, X2(EOI), 1), -1);
	assert_int_equal(wrmsr(&m, 0, X2(EOI), 0), 0);
	assert_int_equal(wrmsr(&m, 0, X2(TPR), 0x100), -1);
	assert_int_equal(wrmsr(&m, 0, X2(ESR), 1), -1);
	assert_int_equal(wrmsr(&m, 0, X2(0x20), 0), -1);
	assert_int_equal(wrmsr(&m, 0, X2(LDR), 0), -1);
	assert_int_equal(wrmsr(&m, 0, X2(DFR), 0), -1);
	assert_int_equal(wrmsr(&m, 0, X2(ICR_HI), 0), -1);
	assert_int_equal(rdmsr(&m, 0, X2(DFR), &v), -1);
	assert_int_equal(rdmsr(&m, 0, X2(EOI), &v), -1);
	assert_int_equal(rdmsr(&m, 0, X2(0x3f0), &v), -1);
	assert_int_equal(rdmsr(&m, 0, 0x8ff, &v), -1);
	assert_int_equal(rdmsr(&m, 0, 0x7ff, &v), -1);
	assert_int_equal(rdmsr(&m, 0, 0x10800, &v), -1);
	assert_int_equal(wrmsr(&m, 0, X2(LVT_TIMER), 1 << 20), -1);
	/* Modes change in one direction only, but for off. */
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE | 0x800), -1);
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE | 0x400), -1);
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE | 0xc01), -1);
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE), 0);
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE | 0xc00), -1);
	assert_int_equal(wrmsr(&m, 0, MSR_BASE, LAPIC_BASE | 0x800), 0);
	assert_int_equal(rdmsr(&m, 0, MSR_BASE, &v), 0);
	assert_int_equal(v, LAPIC_BASE | 0x900); /* BSP stays */
	assert_int_equal(get(&m, 0, SVR), 0xff);
	machine_finish(&m);
}

static void c14_timer(void **state)
{
	struct machine m;

	machine_init(&m);
	enable_all(&m);
	set(&m, 0, TIMER_DIV, 0x3); /* by 16 */
	set(&m, 0, LVT_TIMER, 0x40);
	set(&m, 0, TIMER_INIT, 1000);
	board_run(&m.b, 8000);
	assert_int_equal(get(&m, 0, TIMER_NOW), 500);
	/* Another divisor keeps what is left. */
	set(&m, 0, TIMER_DIV, 0xb); /* by 1 */
	assert_int_equal(get(&m, 0, TIMER_NOW), 500);
	board_run(&m.b, 499);
	assert_int_equal(pending(&m, 0), -1);
	board_run(&m.b, 1);
	assert_int_equal(take(&m, 0x40), 1);
	assert_int_equal(get(&m, 0, TIMER_NOW), 0);
	board_run(&m.b, NSEC_PER_SEC);
	assert_int_equal(take(&m, 0x40), 0);
	/* Periodic; masked it counts without interrupting. */
	set(&m, 0, LVT_TIMER, 0x20041);
	set(&m, 0, TIMER_INIT, 1000000);
	board_run(&m.b, 1500000);
	assert_int_equal(take(&m, 0x41), 1);
	assert_int_equal(get(&m, 0, TIMER_NOW), 500000);
	set(&m, 0, LVT_TIMER, 0x30041);
	board_run(&m.b, 5000000);
	assert_int_equal(take(&m, 0x41), 0);
	assert_int_equal(get(&m, 0, TIMER_NOW), 500000);
	set(&m, 0, LVT_TIMER, 0x20041);
	for (unsigned i = 0; i < 100; i++) {
		board_run(&m.b, 1000000);
		assert_int_equal(take(&m, 0x41), 1);
	}
	set(&m, 0, TIMER_INIT, 0);
	board_run(&m.b, NSEC_PER_SEC);
	assert_int_equal(take(&m, 0x41), 0);
	/* A period of nothing much is bounded. */
	set(&m, 0, TIMER_INIT, 1);
	m.cpu[0].nr[CPU_WAKE] = 0;
	for (unsigned i = 0; i < 1000; i++) {
		board_run(&m.b, NSEC_PER_MSEC);
		take(&m, 0x41);
	}
	assert_int_equal(m.cpu[0].nr[CPU_WAKE], 1000);
	machine_finish(&m);
}

static void c14_tsc_deadline(void **state)
{
	struct machine m;
	uint64_t tsc, v = 1;

	machine_init(&m);
	enable_all(&m);
	/* Not in that mode: ignored. */
	assert_int_equal(wrmsr(&m, 0, MSR_DEADLINE, 5), 0);
	assert_int_equal(rdmsr(&m, 0, MSR_DEADLINE, &v), 0);
	assert_int_equal(v, 0);
	set(&m, 0, LVT_TIMER, 0x40042);
	tsc = vclock_tsc(m.b.env.clock) + 2000000; /* a millisecond */
	assert_int_equal(wrmsr(&m, 0, MSR_DEADLINE, tsc), 0);
	rdmsr(&m, 0, MSR_DEADLINE, &v);
	assert_true(v == tsc);
	set(&m, 0, TIMER_INIT, 1000); /* not the timer that it is */
	assert_int_equal(get(&m, 0, TIMER_NOW), 0);
	board_run(&m.b, 999999);
	assert_int_equal(pending(&m, 0), -1);
	board_run(&m.b, 1);
	assert_int_equal(take(&m, 0x42), 1);
	rdmsr(&m, 0, MSR_DEADLINE, &v);
	assert_int_equal(v, 0);
	/* In the past: at once. Disarmed: never. */
	wrmsr(&m, 0, MSR_DEADLINE, tsc);
	board_run(&m.b, 0);
	assert_int_equal(take(&m, 0x42), 1);
	wrmsr(&m, 0, MSR_DEADLINE, vclock_tsc(m.b.env.clock) + 1000);
	wrmsr(&m, 0, MSR_DEADLINE, 0);
	board_run(&m.b, NSEC_PER_SEC);
	assert_int_equal(take(&m, 0x42), 0);
	/* Another mode disarms too; the far future is far. */
	wrmsr(&m, 0, MSR_DEADLINE, vclock_tsc(m.b.env.clock) + 1000);
	set(&m, 0, LVT_TIMER, 0x42);
	board_run(&m.b, NSEC_PER_SEC);
	set(&m, 0, LVT_TIMER, 0x40042);
	wrmsr(&m, 0, MSR_DEADLINE, UINT64_MAX);
	board_run(&m.b, NSEC_PER_SEC);
	assert_int_equal(take(&m, 0x42), 0);
	machine_finish(&m);
}

static void c14_software_disable_and_init(void **state)
{
	struct machine m;
	struct intc *intc = &m.cpu[1].intc;

	machine_init(&m);
	enable_all(&m);
	set(&m, 1, LVT_TIMER, 0x42);
	set(&m, 1, SVR, 0xff);
	assert_int_equal(get(&m, 1, LVT_TIMER), 0x10042);
	set(&m, 1, LVT_TIMER, 0x43);
	assert_int_equal(get(&m, 1, LVT_TIMER), 0x10043);
	send_msi(&m, 0xfee01000, 0x0400);
	assert_int_equal(m.cpu[1].nr[CPU_NMI], 1);
	/* LINT1 is the NMI button; the boot CPU listens from the start. */
	irqchip_nmi(m.dev);
	assert_int_equal(m.cpu[0].nr[CPU_NMI], 1);
	assert_int_equal(m.cpu[2].nr[CPU_NMI], 0);
	set(&m, 0, LVT_LINT1, 0x10400);
	irqchip_nmi(m.dev);
	assert_int_equal(m.cpu[0].nr[CPU_NMI], 1);
	/* INIT keeps the mode and forgets the rest. */
	set(&m, 1, SVR, 0x1ff);
	set(&m, 1, TPR, 0x70);
	send_msi(&m, 0xfee01000, 0x45);
	intc->ops->reset(intc->dev);
	assert_int_equal(get(&m, 1, TPR), 0);
	assert_int_equal(get(&m, 1, SVR), 0xff);
	assert_int_equal(pending(&m, 1), -1);
	assert_int_equal(get(&m, 1, LVT_LINT0), 0x10000);
	m.dev->cls->reset(m.dev);
	assert_int_equal(get(&m, 0, LVT_LINT0), 0x700);
	machine_finish(&m);
}

static void c14_moves_in_service(void **state)
{
	struct machine a, b;
	uint64_t v = 0, tsc;

	machine_init(&a);
	machine_init(&b);
	b.b.host_ns = 1LL << 44;
	enable_all(&a);
	init_pic(&a);
	/* CPU 0 serves one of the 8259s, and LINT0 is asserted again. */
	set(&a, 0, LVT_LINT0, 0x700);
	set_gsi(&a, 4, true);
	assert_int_equal(acknowledge(&a, 0), 0x34);
	set_gsi(&a, 1, true);
	/* CPU 1 serves a level, with another vector waiting; its timer runs. */
	set_pin(&a, 16, 0x0100000000008050);
	set_gsi(&a, 16, true);
	assert_int_equal(acknowledge(&a, 1), 0x50);
	send_msi(&a, 0xfee01000, 0x51);
	set(&a, 1, LVT_TIMER, 0x200e0);
	set(&a, 1, TIMER_DIV, 0xb);
	set(&a, 1, TIMER_INIT, 3000000);
	/* CPU 2 is an x2APIC with a deadline. */
	wrmsr(&a, 2, MSR_BASE, LAPIC_BASE | 0xc00);
	wrmsr(&a, 2, X2(LVT_TIMER), 0x400e1);
	tsc = vclock_tsc(a.b.env.clock) + 10000000;
	wrmsr(&a, 2, MSR_DEADLINE, tsc);
	board_run(&a.b, 4000000);
	acknowledge(&a, 1);
	assert_int_equal(board_move(&a.b, a.dev, &b.b, b.dev), 0);
	/* Nobody sleeps through it. */
	assert_true(b.cpu[0].nr[CPU_WAKE] && b.cpu[1].nr[CPU_WAKE] == 0);
	assert_int_equal(acknowledge(&b, 0), 0x31);
	assert_int_equal(get(&b, 1, TIMER_NOW), 2000000);
	assert_int_equal(get(&b, 1, PPR), 0xe0);
	board_run(&b.b, 1999999);
	assert_int_equal(get(&b, 1, IRR + 0x70), 0);
	board_run(&b.b, 1);
	assert_int_equal(get(&b, 1, IRR + 0x70), 1);
	set(&b, 1, EOI, 0);
	assert_int_equal(acknowledge(&b, 1), 0xe0);
	set(&b, 1, EOI, 0);
	set(&b, 1, EOI, 0); /* 0x50, to the I/O APIC: the line is up */
	assert_int_equal(acknowledge(&b, 1), 0x51);
	set(&b, 1, EOI, 0);
	assert_int_equal(acknowledge(&b, 1), 0x50);
	rdmsr(&b, 2, MSR_DEADLINE, &v);
	assert_true(v == 0 || v == tsc);
	assert_int_equal(pending(&b, 2), 0xe1);
	machine_finish(&a);
	machine_finish(&b);
}

/* The timers of a PC on their way to a CPU, wired as a machine does. */
static void f12_timers_reach_the_cpu(void **state)
{
	struct device *hpet, *pit, *rtc;
	struct hpet_opts hpet_opts = { .base = HPET_BASE };
	struct pit_opts pit_opts;
	struct rtc_opts rtc_opts = { .wall_ns = 0 };
	struct machine m;

	machine_init(&m);
	m.b.irqchip = irqchip_get(m.dev);
	hpet_opts.legacy[HPET_LEGACY_PIT] = irq_gsi_line(&m.b.irqchip, 0);
	hpet_opts.legacy[HPET_LEGACY_RTC] = irq_gsi_line(&m.b.irqchip, 8);
	assert_int_equal(hpet_create(&hpet, &m.b.env, &hpet_opts, NULL), 0);
	pit_opts.irq = hpet_legacy_line(hpet, HPET_LEGACY_PIT);
	rtc_opts.irq = hpet_legacy_line(hpet, HPET_LEGACY_RTC);
	assert_int_equal(pit_create(&pit, &m.b.env, &pit_opts, NULL), 0);
	assert_int_equal(rtc_create(&rtc, &m.b.env, &rtc_opts, NULL), 0);
	/* The PIT through the 8259s, then through the I/O APIC. */
	init_pic(&m);
	board_out(&m.b, 0x43, 1, 0x34);
	board_out(&m.b, 0x40, 1, 0xa9);
	board_out(&m.b, 0x40, 1, 0x04);
	board_run(&m.b, 1100 * NSEC_PER_USEC);
	assert_int_equal(acknowledge(&m, 0), 0x30);
	board_out(&m.b, 0x21, 1, 0xff);
	enable_all(&m);
	set_pin(&m, 2, 0x40);
	set_pin(&m, 8, 0x0100000000000041);
	for (unsigned i = 0; i < 10; i++) {
		board_run(&m.b, NSEC_PER_MSEC);
		assert_int_equal(take(&m, 0x40), 1);
	}
	/* The HPET takes the wire over, and the RTC has its own again. */
	bus_write(m.b.mmio, 0, HPET_BASE + 0x100, 8, 4);
	bus_write(m.b.mmio, 0, HPET_BASE + 0x108, 8, 500000); /* 5 ms */
	bus_write(m.b.mmio, 0, HPET_BASE + 0x10, 8, 3);
	board_run(&m.b, 4900 * NSEC_PER_USEC);
	assert_int_equal(take(&m, 0x40), 0);
	board_run(&m.b, 100 * NSEC_PER_USEC);
	assert_int_equal(take(&m, 0x40), 1);
	bus_write(m.b.mmio, 0, HPET_BASE + 0x10, 8, 1);
	take(&m, 0x40);
	set_pin(&m, 2, 0x10040);
	board_out(&m.b, 0x70, 1, 0x0b);
	board_out(&m.b, 0x71, 1, 0x12);
	board_run(&m.b, NSEC_PER_SEC);
	assert_int_equal(take(&m, 0x41), 2);
	rtc->cls->destroy(rtc);
	pit->cls->destroy(pit);
	hpet->cls->destroy(hpet);
	machine_finish(&m);
}

static void c14_number_of_cpus_must_match(void **state)
{
	static const uint32_t ids[2] = { 0, 1 };
	const struct irqchip_opts opts = { .nr_cpus = 2, .apic_ids = ids };
	struct machine m;
	struct device *other;
	struct board b;

	machine_init(&m);
	board_init(&b, 0);
	assert_int_equal(irqchip_create(&other, &b.env, &opts, NULL), 0);
	assert_int_equal(board_move(&m.b, m.dev, &b, other), -EINVAL);
	other->cls->destroy(other);
	board_finish(&b);
	machine_finish(&m);
}

/* Random messages, MSRs and CPU calls between the register accesses. */
static void storm(struct machine *m, unsigned rounds)
{
	uint32_t r = 12345;
	uint64_t v;

	for (unsigned i = 0; i < rounds; i++) {
		unsigned cpu = i % NR_CPUS;
		struct intc *intc = &m->cpu[cpu].intc;

		r = r * 1664525 + 1013904223;
		board_fuzz(&m->b, ranges, 2, r);
		send_msi(m, 0xfee00000 | (r & 0xff) << 12 | (r >> 8 & 0xf),
			 r >> 12);
		set_gsi(m, r >> 20 & 31, r >> 30 & 1);
		wrmsr(m, cpu, 0x800 + (r >> 16 & 0x3f), r & 0x400ff);
		wrmsr(m, cpu, 0x830, (uint64_t)(r & 7) << 32 | r >> 4);
		rdmsr(m, cpu, 0x800 + (r >> 8 & 0x3f), &v);
		if (r % 64 == 0)
			wrmsr(m, cpu, MSR_BASE,
			      LAPIC_BASE | (r >> 5 & 3) << 10);
		wrmsr(m, cpu, MSR_DEADLINE, r);
		if (pending(m, cpu) >= 0)
			acknowledge(m, cpu);
		intc->ops->eoi(intc->dev);
		intc->ops->set_tpr(intc->dev, r >> 9 & 0xf);
	}
}

static void c14_survives(void **state)
{
	struct machine m;

	machine_init(&m);
	enable_all(&m);
	board_fuzz(&m.b, ranges, FUZZ_ACCESSES, 1);
	storm(&m, 50000);
	m.dev->cls->reset(m.dev);
	enable_all(&m);
	set(&m, 1, LVT_TIMER, 0x200e0);
	set(&m, 1, TIMER_INIT, 3000);
	send_msi(&m, 0xfee01000, 0x51);
	acknowledge(&m, 1);
	board_corrupt(&m.b, m.dev, make, ranges);
	board_finish(&m.b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(c14_pic_through_lint0),
		cmocka_unit_test(c14_ioapic_level_to_eoi),
		cmocka_unit_test(c14_timer_gsi_reaches_both_pins),
		cmocka_unit_test(c14_msi_delivery),
		cmocka_unit_test(c14_lowest_priority),
		cmocka_unit_test(c14_priority_and_wake),
		cmocka_unit_test(c14_ipis),
		cmocka_unit_test(c14_cluster_addressing),
		cmocka_unit_test(c14_x2apic),
		cmocka_unit_test(c14_timer),
		cmocka_unit_test(c14_tsc_deadline),
		cmocka_unit_test(c14_software_disable_and_init),
		cmocka_unit_test(c14_moves_in_service),
		cmocka_unit_test(f12_timers_reach_the_cpu),
		cmocka_unit_test(c14_number_of_cpus_must_match),
		cmocka_unit_test(c14_survives),
	};

	return cmocka_run_group_tests_name("irqchip", tests, NULL, NULL);
}
