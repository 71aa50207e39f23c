/* Two CPUs: start, topology, IPIs, NMI, TLB shootdown (A19, A22, C14). */
#include "lib/pc.h"

#define VECTOR 0x51
#define GVA    0x40000000ULL

static volatile unsigned hits[2], nmis, ap_id, starts, go, done;
static volatile uint64_t seen, rounds;
static volatile uint64_t page[2][512] __attribute__((aligned(4096)));

static unsigned my_id(void)
{
	return apic_read(APIC_ID) >> (apic_is_x2() ? 0 : 24);
}

static void on_ipi(struct trap_frame *f)
{
	hits[my_id() & 1]++;
	apic_eoi();
}

/* What it sends back says that it came. */
static void on_echo(struct trap_frame *f)
{
	hits[my_id() & 1]++;
	apic_eoi();
	if (my_id())
		apic_send(0, 0x4000 | VECTOR);
}

static void on_nmi(struct trap_frame *f)
{
	nmis++;
}

static void on_flush(struct trap_frame *f)
{
	invlpg(GVA);
	done++;
	apic_eoi();
}

static bool wait(volatile unsigned *what, unsigned value)
{
	return WAIT_FOR(*what == value, 5000);
}

/* ---- start ------------------------------------------------------------------- */

static void ap_idle(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	ap_id = r[1] >> 24;
	apic_write(APIC_SVR, 0x1ff);
	starts++;
	for (;;)
		__asm__ volatile("sti; hlt");
}

static void test_start(void)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	ok(r[1] >> 24 == 0, "a19_the_boot_processor_has_apic_id_0");
	cpuid(0xb, 1, r);
	ok((r[1] & 0xffff) == 2, "a22_leaf_b_counts_two_cpus (%u)",
	   r[1] & 0xffff);
	ok(rdmsr(0x1b) & 0x100, "a19_it_is_marked_as_such");
	ok(cpu_start(1, ap_idle), "a19_init_sipi_starts_a_cpu");
	ok(wait(&starts, 1) && ap_id == 1, "a19_it_has_apic_id_1");
	ok(cpu_start(1, ap_idle), "a19_it_starts_again_after_init");
	ok(wait(&starts, 2), "a19_and_runs");
	apic_send(1, 0x4608);
	delay_us(2000);
	ok(starts == 2, "a19_sipi_without_init_is_ignored");
}

/* ---- IPIs ---------------------------------------------------------------------- */

static void test_ipis(void)
{
	unsigned i;

	trap_set(VECTOR, on_ipi);
	hits[1] = 0;
	for (i = 1; i <= 200; i++) {
		apic_send(1, 0x4000 | VECTOR);
		if (!wait(&hits[1], i))
			break;
	}
	ok(i == 201, "c14_200_ipis_wake_the_other_cpu (%u)", i - 1);
	trap_set(VECTOR, on_echo);
	hits[0] = hits[1] = 0;
	for (i = 1; i <= 200; i++) {
		apic_send(1, 0x4000 | VECTOR);
		if (!wait(&hits[0], i))
			break;
	}
	ok(i == 201 && hits[1] == 200, "c14_200_ipis_there_and_back (%u)",
	   i - 1);
	trap_set(VECTOR, on_ipi);
	hits[0] = hits[1] = 0;
	apic_send(0, 0xc4000 | VECTOR); /* all but self */
	ok(wait(&hits[1], 1) && hits[0] == 0, "c14_all_but_self");
	apic_send(0, 0x84000 | VECTOR);
	ok(wait(&hits[1], 2) && wait(&hits[0], 1), "c14_all");
	apic_send(0, 0x44000 | VECTOR);
	ok(wait(&hits[0], 2) && hits[1] == 2, "c14_self");
	apic_write(APIC_DFR, 0xffffffff);
	apic_write(APIC_LDR, 0x01000000);
	apic_send(2, 0x4800 | VECTOR);
	delay_us(1000);
	ok(hits[1] == 2, "c14_no_logical_id_no_ipi");
	trap_set(2, on_nmi);
	apic_send(1, 0x4400);
	ok(wait(&nmis, 1), "c14_nmi_wakes_the_other_cpu");
	delay_us(1000);
	ok(nmis == 1, "c14_once");
}

/* ---- TLB ------------------------------------------------------------------------ */

static void ap_reader(void)
{
	apic_write(APIC_SVR, 0x1ff);
	__asm__ volatile("sti");
	starts++;
	while (go != 2) {
		seen = *(volatile uint64_t *)GVA;
		rounds++;
	}
	starts++;
	for (;;)
		__asm__ volatile("hlt");
}

static uint64_t *find_pte(uint64_t gva)
{
	uint64_t *table = pml4;

	for (unsigned shift = 39; shift > 12; shift -= 9)
		table = (void *)(table[gva >> shift & 511] &
				 0xffffffffff000ULL);
	return &table[gva >> 12 & 511];
}

static void test_shootdown(void)
{
	uint64_t *pte, from;
	unsigned bad = 0;

	page[0][0] = 100;
	page[1][0] = 101;
	page_map(GVA, (uint64_t)page[0], 3);
	pte = find_pte(GVA);
	trap_set(VECTOR, on_flush);
	starts = 0;
	cpu_start(1, ap_reader);
	wait(&starts, 1);
	for (unsigned i = 1; i <= 100 && !bad; i++) {
		*pte = (uint64_t)page[i & 1] | 3;
		apic_send(1, 0x4000 | VECTOR);
		if (!wait(&done, i))
			bad = i;
		/* What it reads from now on is the new page. */
		from = rounds;
		while (rounds - from < 2)
			__asm__ volatile("pause");
		for (unsigned k = 0; k < 100; k++)
			if (seen != 100 + (i & 1))
				bad = i;
	}
	ok(!bad, "b7_100_tlb_shootdowns (%u)", bad);
	go = 2;
	ok(wait(&starts, 2), "b7_the_reader_ended");
}

/* ---- x2APIC ---------------------------------------------------------------------- */

static void ap_x2apic(void)
{
	wrmsr(0x1b, rdmsr(0x1b) | 0x400);
	apic_write(APIC_SVR, 0x1ff);
	starts++;
	for (;;)
		__asm__ volatile("sti; hlt");
}

static void test_x2apic(void)
{
	if (!cpuid_bit(1, 2, 21))
		return;
	trap_set(VECTOR, on_echo);
	starts = hits[0] = hits[1] = 0;
	wrmsr(0x1b, rdmsr(0x1b) | 0x400);
	ok(cpu_start(1, ap_x2apic) && wait(&starts, 1),
	   "a19_x2apic_starts_a_cpu");
	apic_send(1, 0x4000 | VECTOR);
	ok(wait(&hits[0], 1), "c14_x2apic_ipi_there_and_back");
	hits[0] = hits[1] = 0;
	apic_send(2, 0x4800 | VECTOR); /* cluster 0, bit 1 */
	ok(wait(&hits[0], 1) && hits[1] == 1, "c14_x2apic_logical_id");
	apic_send(0xffffffff, 0x4400);
	ok(WAIT_FOR(nmis == 3, 2000), "c14_x2apic_broadcast_nmi (%u)", nmis);
}

void guest_main(void)
{
	uint32_t r[4];

	pic_init(0x20);
	apic_write(APIC_SVR, 0x1ff);
	cpuid(1, 0, r);
	if (is_kvm())
		ok(!(r[2] & 1 << 3), "a19_monitor_is_hidden");
	test_start();
	test_ipis();
	test_shootdown();
	test_x2apic();
}
