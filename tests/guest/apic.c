/* Interrupt controllers and what wakes the CPU: local APIC in both modes, its
 * timer, priorities, 8259s, IOAPIC, HPET, RTC, NMI, shadows (C14). */
#include "lib/pc.h"

#define VECTOR 0x51

static volatile unsigned hits, nmis, order_len;
static volatile uint8_t order[8];
static volatile uint64_t hit_rip;

static void on_irq(struct trap_frame *f)
{
	hits++;
	hit_rip = f->rip;
	if (order_len < 8)
		order[order_len++] = (uint8_t)f->vector;
	apic_eoi();
}

/* Does not say that it is done. */
static void on_irq_open(struct trap_frame *f)
{
	hits++;
	if (order_len < 8)
		order[order_len++] = (uint8_t)f->vector;
}

static void on_pic(struct trap_frame *f)
{
	hits++;
	if (f->vector >= 0x28)
		outb(0xa0, 0x20);
	outb(0x20, 0x20);
}

static void clear(void)
{
	hits = 0;
	order_len = 0;
}

static void self_ipi(uint8_t vector)
{
	apic_send(0, 0x44000 | vector);
}

/* Let what is pending in; the port accesses give every kind of processor an
 * occasion. */
static void window(void)
{
	__asm__ volatile(
		"sti; nop; in $0x61, %%al; nop; in $0x61, %%al; nop; cli" ::
			: "rax", "memory");
}

/* ---- registers ---------------------------------------------------------------- */

static void test_registers(const char *mode)
{
	uint32_t version = apic_read(APIC_VERSION);

	ok((version & 0xf0) == 0x10 && (version >> 16 & 0xff) >= 5,
	   "c14_%s_version_0x%x", mode, version);
	ok(apic_read(APIC_ID) == 0, "c14_%s_id_is_0", mode);
	apic_write(APIC_SVR, 0x1ef);
	ok((apic_read(APIC_SVR) & 0x1ff) == 0x1ef, "c14_%s_svr", mode);
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR);
	apic_write(APIC_LINT1, 0x10000);
	apic_write(APIC_LVT_ERROR, 0x100e1);
	ok(apic_read(APIC_LVT_TIMER) == (APIC_MASKED | VECTOR) &&
		   apic_read(APIC_LVT_ERROR) == 0x100e1,
	   "c14_%s_lvt_entries_are_kept", mode);
	apic_write(APIC_DIVIDE, 0xb);
	ok(apic_read(APIC_DIVIDE) == 0xb, "c14_%s_divide", mode);
	apic_write(APIC_TPR, 0x35);
	ok(apic_read(APIC_TPR) == 0x35 && read_cr8() == 3, "c14_%s_tpr_is_cr8",
	   mode);
	ok(apic_read(APIC_PPR) == 0x35, "c14_%s_ppr_follows_tpr", mode);
	write_cr8(9);
	ok(apic_read(APIC_TPR) == 0x90, "c14_%s_cr8_is_tpr", mode);
	write_cr8(0);
	apic_write(APIC_ESR, 0);
	apic_write(APIC_ESR, 0);
	ok(apic_read(APIC_ESR) == 0, "c14_%s_no_errors", mode);
}

static void test_xapic_registers(void)
{
	apic_write(APIC_LDR, 0x02ffffff);
	ok(apic_read(APIC_LDR) == 0x02000000, "c14_ldr_has_eight_bits");
	apic_write(APIC_DFR, 0xffffffff);
	ok(apic_read(APIC_DFR) == 0xffffffff, "c14_dfr_is_flat");
	apic_write(APIC_VERSION, 0);
	ok(apic_read(APIC_VERSION) != 0, "c14_version_is_read_only");
	/* Logical destinations reach by LDR. */
	clear();
	apic_send(2, 0x4800 | VECTOR);
	window();
	ok(hits == 1, "c14_a_logical_destination_matches");
	apic_send(4, 0x4800 | VECTOR);
	window();
	ok(hits == 1, "c14_another_does_not");
	apic_send(0xff, 0x4000 | VECTOR);
	window();
	ok(hits == 2, "c14_broadcast_reaches_all");
}

/* ---- IPIs, priorities ------------------------------------------------------------- */

static void test_priorities(const char *mode)
{
	clear();
	self_ipi(VECTOR);
	ok(hits == 0 && apic_test(APIC_IRR, VECTOR),
	   "c14_%s_an_ipi_waits_in_irr_for_if", mode);
	window();
	ok(hits == 1 && !apic_test(APIC_IRR, VECTOR) &&
		   !apic_test(APIC_ISR, VECTOR),
	   "c14_%s_delivered_and_done", mode);

	clear();
	write_cr8(VECTOR >> 4);
	self_ipi(VECTOR);
	window();
	ok(hits == 0, "c14_%s_tpr_holds_its_own_class", mode);
	write_cr8((VECTOR >> 4) - 1);
	window();
	ok(hits == 1, "c14_%s_a_lower_tpr_lets_it_in", mode);
	write_cr8(0);

	clear();
	self_ipi(0x41);
	self_ipi(0x61);
	self_ipi(VECTOR);
	self_ipi(VECTOR);
	window();
	window();
	ok(order_len == 3 && order[0] == 0x61 && order[1] == VECTOR &&
		   order[2] == 0x41,
	   "c14_%s_the_highest_comes_first_and_two_are_one", mode);

	/* In service: lower and equal classes wait, higher ones do not. */
	clear();
	trap_set(VECTOR, on_irq_open);
	self_ipi(VECTOR);
	window();
	ok(hits == 1 && apic_test(APIC_ISR, VECTOR) &&
		   apic_read(APIC_PPR) == (VECTOR & 0xf0),
	   "c14_%s_in_service_until_eoi", mode);
	self_ipi(VECTOR);
	self_ipi(0x41);
	window();
	ok(hits == 1, "c14_%s_equal_and_lower_wait_for_eoi", mode);
	self_ipi(0x61);
	window();
	ok(hits == 2 && order[1] == 0x61, "c14_%s_higher_does_not", mode);
	ok(apic_test(APIC_ISR, VECTOR), "c14_%s_eoi_ended_the_highest", mode);
	apic_eoi();
	window();
	ok(hits == 3 && order[2] == VECTOR, "c14_%s_eoi_lets_the_next_in",
	   mode);
	apic_eoi();
	window();
	ok(hits == 4 && order[3] == 0x41, "c14_%s_and_the_next", mode);
	trap_set(VECTOR, on_irq);
}

/* ---- timer ---------------------------------------------------------------------- */

static void test_timer(const char *mode)
{
	uint32_t first, second;

	clear();
	apic_write(APIC_DIVIDE, 0xb);
	apic_write(APIC_LVT_TIMER, VECTOR);
	apic_write(APIC_INITIAL, 0xffffffff);
	first = apic_read(APIC_CURRENT);
	second = apic_read(APIC_CURRENT);
	ok(second <= first && second > 0, "c14_%s_the_timer_counts_down", mode);
	apic_write(APIC_INITIAL, 0);
	ok(apic_read(APIC_CURRENT) == 0, "c14_%s_zero_stops_it", mode);
	apic_write(APIC_INITIAL, 20000);
	ok(WAIT_FOR(hits, 1000), "c14_%s_one_shot_fires", mode);
	ok(apic_read(APIC_CURRENT) == 0, "c14_%s_and_stops_at_0", mode);
	delay_us(2000);
	window();
	ok(hits == 1, "c14_%s_once", mode);

	clear();
	apic_write(APIC_INITIAL, 1000);
	__asm__ volatile("sti; hlt; cli" ::: "memory");
	ok(hits == 1, "c14_%s_hlt_wakes_up", mode);

	clear();
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR);
	apic_write(APIC_INITIAL, 1000);
	delay_us(3000);
	window();
	ok(hits == 0 && !apic_test(APIC_IRR, VECTOR),
	   "c14_%s_masked_it_is_lost", mode);

	clear();
	apic_write(APIC_LVT_TIMER, 0x20000 | VECTOR);
	apic_write(APIC_INITIAL, 1000000);
	ok(WAIT_FOR(hits >= 3, 3000), "c14_%s_periodic_repeats", mode);
	ok(apic_read(APIC_CURRENT) > 0, "c14_%s_and_counts_on", mode);
	apic_write(APIC_INITIAL, 0);
	window();
	clear();
	delay_us(3000);
	window();
	ok(hits == 0, "c14_%s_until_it_is_stopped", mode);
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR);
}

static void test_deadline(void)
{
	if (!cpuid_bit(1, 2, 24))
		return;
	clear();
	apic_write(APIC_LVT_TIMER, 0x40000 | VECTOR);
	__asm__ volatile("mfence");
	ok(rdmsr(0x6e0) == 0, "c14_tsc_deadline_starts_disarmed");
	wrmsr(0x6e0, rdtsc() + 1000000);
	ok(WAIT_FOR(hits, 1000), "c14_tsc_deadline_fires");
	ok(rdmsr(0x6e0) == 0, "c14_and_disarms_itself");
	wrmsr(0x6e0, 1);
	ok(WAIT_FOR(hits == 2, 100), "c14_a_deadline_of_the_past_is_now");
	wrmsr(0x6e0, rdtsc() + (1ULL << 40));
	ok(rdmsr(0x6e0) != 0, "c14_tsc_deadline_reads_back");
	wrmsr(0x6e0, 0);
	window();
	ok(hits == 2, "c14_zero_disarms");
	apic_write(APIC_INITIAL, 1000);
	ok(apic_read(APIC_CURRENT) == 0,
	   "c14_no_initial_count_in_deadline_mode");
	wrmsr(0x6e0, rdtsc() + (1ULL << 40));
	apic_write(APIC_LVT_TIMER, APIC_MASKED | VECTOR);
	ok(rdmsr(0x6e0) == 0, "c14_leaving_the_mode_disarms");
}

/* ---- 8259, IOAPIC ---------------------------------------------------------------- */

static void test_pic(void)
{
	pic_init(0x20);
	for (unsigned v = 0x20; v < 0x30; v++)
		trap_set(v, on_pic);
	ioapic_route(0, APIC_MASKED);
	ioapic_route(2, APIC_MASKED);
	outb(0x21, 0x5a);
	ok(inb(0x21) == 0x5a, "c14_pic_mask_reads_back");
	outb(0x21, 0xff);
	apic_write(APIC_LINT0, 0x700);
	pit_start(1000);
	clear();
	delay_us(3000);
	window();
	ok(hits == 0, "c14_pic_mask_holds");
	outb(0x20, 0x0a);
	ok(inb(0x20) & 1, "c14_pic_irr_shows_the_request");
	outb(0x21, 0xfe);
	ok(WAIT_FOR(hits >= 3, 1000), "c14_pit_through_pic_and_lint0");
	apic_write(APIC_LINT0, 0x10700);
	window();
	clear();
	delay_us(3000);
	window();
	ok(hits == 0, "c14_lint0_mask_holds");
	clear();
	apic_write(APIC_LINT0, 0x700);
	__asm__ volatile("sti; hlt; cli" ::: "memory");
	ok(hits >= 1, "c14_hlt_wakes_up_by_extint");
	outb(0x21, 0xff);
	apic_write(APIC_LINT0, 0x10700);
	window();
}

static void test_ioapic(void)
{
	ok((ioapic_read(1) >> 16 & 0xff) == 23, "c14_ioapic_has_24_pins");
	ioapic_write(0x11 + 2 * 5, 0x01000000);
	ioapic_write(0x10 + 2 * 5, 0x1f000 | 0x77);
	ok(ioapic_read(0x11 + 2 * 5) == 0x01000000 &&
		   ioapic_read(0x10 + 2 * 5) == 0x1a077,
	   "c14_status_bits_of_an_entry_are_read_only");
	ioapic_route(5, APIC_MASKED);
	clear();
	pit_start(1000);
	ioapic_route(2, VECTOR);
	ok(WAIT_FOR(hits >= 3, 1000), "c14_pit_through_the_ioapic");
	ioapic_route(2, APIC_MASKED | VECTOR);
	window();
	clear();
	delay_us(3000);
	window();
	ok(hits == 0, "c14_a_masked_pin_is_quiet");
}

static volatile unsigned irr_seen, level_wanted;

/* A level interrupt stays up until the HPET's status is cleared. */
static void on_level(struct trap_frame *f)
{
	unsigned pin = level_wanted >> 8;

	hits++;
	irr_seen += ioapic_read(0x10 + 2 * pin) >> 14 & 1;
	if (hits >= (level_wanted & 0xff))
		*mmio(0xfed00020) = 1;
	apic_eoi();
}

/* Start timer 0 with (config), and (general) for the whole HPET, a millisecond
 * from now: it stands while it is told, so that nothing is too late. */
static void hpet_start(uint64_t config, uint64_t general)
{
	volatile uint64_t *hpet = (void *)0xfed00000;
	uint64_t ms = 1000000000000 / (hpet[0] >> 32);

	hpet[2] = 0;
	hpet[0x1e] = 0;
	hpet[0x20] = config;
	hpet[0x21] = ms;
	if (config & 8)
		hpet[0x21] = ms; /* the period behind the first */
	hpet[2] = general;
}

static void test_hpet(void)
{
	volatile uint64_t *hpet = (void *)0xfed00000;
	uint64_t caps = hpet[0], period = caps >> 32, routes, t = 0, from = 0;
	uint32_t pm = 0, pm_end = 0;
	unsigned pin = 0;
	uint64_t us;

	ok(period > 0 && period <= 100000000, "c14_hpet_period_%lu_fs", period);
	ok((caps >> 8 & 0x1f) >= 2 && caps >> 13 & 1,
	   "c14_hpet_has_3_timers_of_64_bits");
	hpet[2] = 0;
	hpet[0x1e] = 0x123456789a;
	ok(hpet[0x1e] == 0x123456789a, "c14_hpet_counter_is_set_when_halted");
	hpet[0x1e] = 0;
	hpet[2] = 1;
	READ_WITH_PM(hpet[0x1e], from, pm);
	delay_us(20000);
	READ_WITH_PM(hpet[0x1e], t, pm_end);
	us = pm_us(pm, pm_end);
	t = (t - from) * (period / 1000) / 1000000;
	ok(t > us - us / 50 - 100 && t < us + us / 50 + 100,
	   "c14_hpet_agrees_with_the_pm_timer (%lu us, %lu us)", t, us);

	/* Timer 0 one-shot at an edge, then at a level. */
	routes = hpet[0x20] >> 32;
	for (pin = 16; pin < 24 && !(routes >> pin & 1); pin++)
		;
	if (pin == 24)
		return;
	trap_set(VECTOR, on_irq);
	ioapic_route(pin, VECTOR);
	clear();
	hpet_start(4 | pin << 9, 1);
	ok(WAIT_FOR(hits, 1000), "c14_hpet_timer_interrupts_by_an_edge");
	hpet[0x20] = 0;
	window();

	trap_set(VECTOR, on_level);
	ioapic_route(pin, 0x8000 | VECTOR);
	level_wanted = pin << 8 | 3;
	clear();
	irr_seen = 0;
	hpet[4] = 1;
	hpet_start(6 | pin << 9, 1);
	ok(WAIT_FOR(hits >= 3, 1000),
	   "c14_a_level_interrupt_repeats_until_it_is_cleared");
	window();
	ok(hits == 3, "c14_and_not_after (%u)", hits);
	ok(irr_seen == 3, "c14_remote_irr_is_set_until_eoi");
	ok(!(ioapic_read(0x10 + 2 * pin) & 1 << 14), "c14_and_clear_after");
	hpet[0x20] = 0;
	ioapic_route(pin, APIC_MASKED);
	trap_set(VECTOR, on_irq);

	/* Periodic, with the accumulator set through bit 6. */
	ioapic_route(pin, VECTOR);
	clear();
	hpet_start(0x4c | pin << 9, 1);
	ok(WAIT_FOR(hits >= 3, 1000), "c14_hpet_periodic");
	hpet[0x20] = 0;
	ioapic_route(pin, APIC_MASKED);

	/* Legacy replacement: timer 0 takes the PIT's pin. */
	pit_start(0);
	ioapic_route(2, VECTOR);
	clear();
	hpet_start(4, 3);
	ok(WAIT_FOR(hits, 1000), "c14_hpet_legacy_replacement");
	hpet[2] = 0;
	hpet[0x20] = 0;
	ioapic_route(2, APIC_MASKED);
	window();
}

static volatile uint8_t rtc_c;

static uint8_t cmos_read(uint8_t reg)
{
	outb(0x70, reg);
	return inb(0x71);
}

static void cmos_write(uint8_t reg, uint8_t v)
{
	outb(0x70, reg);
	outb(0x71, v);
}

static void on_rtc(struct trap_frame *f)
{
	rtc_c = cmos_read(0x0c);
	on_irq(f);
}

static void test_rtc(void)
{
	trap_set(0x58, on_rtc);
	ioapic_route(8, 0x58);
	clear();
	cmos_write(0x0a, 0x26); /* 1024 Hz */
	cmos_write(0x0b, 0x42);
	cmos_read(0x0c);
	ok(WAIT_FOR(hits >= 3, 1000), "c14_rtc_periodic");
	ok((rtc_c & 0xc0) == 0xc0, "c14_rtc_register_c_says_so");
	cmos_write(0x0b, 2);
	cmos_read(0x0c);
	window();
	clear();
	delay_us(3000);
	window();
	ok(hits == 0, "c14_rtc_is_quiet_when_told");
	ioapic_route(8, APIC_MASKED);
}

/* ---- NMI, shadows ------------------------------------------------------------------ */

static volatile bool nmi_nested;

static void on_nmi(struct trap_frame *f)
{
	nmis++;
	if (nmis > 1)
		return;
	/* Another one has to wait for the IRET of this. */
	apic_send(0, 0x4400);
	__asm__ volatile("nop; nop; nop");
	nmi_nested = nmis != 1;
}

static void on_nmi_count(struct trap_frame *f)
{
	nmis++;
}

static void test_nmi(void)
{
	trap_set(2, on_nmi);
	nmis = 0;
	apic_send(0, 0x4400);
	__asm__ volatile("nop; nop; nop; nop");
	ok(nmis >= 1, "c14_nmi_comes_without_if");
	ok(!nmi_nested, "c14_nmi_is_masked_in_its_handler");
	ok(nmis == 2, "c14_the_next_comes_after_iret (%u)", nmis);
	trap_set(2, on_nmi_count);
	nmis = 0;
	pit_start(1000);
	ioapic_route(2, 0x400);
	ok(WAIT_FOR(nmis >= 2, 1000), "c14_nmi_through_the_ioapic");
	ioapic_route(2, APIC_MASKED);
	pit_start(0);
	delay_us(1500);
	trap_set(2, NULL);
}

static void test_shadows(void)
{
	uint64_t after;

	clear();
	self_ipi(VECTOR);
	__asm__ volatile("sti; nop; 1: nop; cli; lea 1b(%%rip), %0"
			 : "=r"(after)::"memory");
	ok(hits == 1 && hit_rip == after, "c14_sti_holds_for_one_instruction");
	clear();
	self_ipi(VECTOR);
	__asm__ volatile("sti; cli; nop" ::: "memory");
	ok(hits == 0, "c14_sti_cli_lets_nothing_in");
	__asm__ volatile("pushfq; orq $0x200, (%%rsp); popfq; 1: nop; cli;"
			 "lea 1b(%%rip), %0"
			 : "=r"(after)::"memory", "cc");
	ok(hits == 1 && hit_rip == after, "c14_popf_has_no_shadow");
	/* HLT in STI's shadow does not sleep through what is pending. */
	clear();
	self_ipi(VECTOR);
	__asm__ volatile("sti; hlt; cli" ::: "memory");
	ok(hits == 1, "c14_sti_hlt_sees_what_is_pending");
}

/* ---- x2APIC ----------------------------------------------------------------------- */

static void test_x2apic(void)
{
	uint64_t base = rdmsr(0x1b);

	ok((base & 0xffffff000) == APIC_BASE && base & 0x800 && base & 0x100,
	   "c14_apic_base_names_the_boot_processor");
	ok(TRAP_IN("wrmsr", (uint32_t)base | 0x200, 0, 0x1b, 0) == 13,
	   "c14_reserved_bits_of_apic_base_are_gp");
	ok(TRAP_IN("rdmsr", 0, 0, 0x802, 0) == 13,
	   "c14_no_x2apic_registers_in_xapic_mode");
	if (!cpuid_bit(1, 2, 21))
		return;
	apic_write(APIC_LDR, 0x02000000);
	wrmsr(0x1b, base | 0x400);
	ok(apic_is_x2(), "c14_x2apic_mode");
	test_registers("x2apic");
	ok(rdmsr(0x80d) == 1, "c14_x2apic_ldr_comes_from_the_id");
	ok(TRAP_IN("rdmsr", 0, 0, 0x80e, 0) == 13, "c14_x2apic_has_no_dfr");
	ok(TRAP_IN("wrmsr", 0, 0, 0x802, 0) == 13, "c14_x2apic_id_is_fixed");
	ok(TRAP_IN("wrmsr", 0x100, 0, 0x808, 0) == 13,
	   "c14_x2apic_reserved_bits_are_gp");
	ok(TRAP_IN("wrmsr", 1, 0, 0x80b, 0) == 13,
	   "c14_x2apic_eoi_takes_0_alone");
	test_priorities("x2apic");
	test_timer("x2apic");
	clear();
	wrmsr(0x83f, VECTOR);
	window();
	ok(hits == 1, "c14_x2apic_self_ipi_register");
	ok(TRAP_IN("wrmsr", (uint32_t)base, 0, 0x1b, 0) == 13,
	   "c14_x2apic_does_not_go_back_to_xapic");
	wrmsr(0x1b, base & ~0x800ULL);
	ok(!cpuid_bit(1, 3, 9), "c14_cpuid_hides_a_disabled_apic");
	ok(TRAP_IN("wrmsr", (uint32_t)base | 0xc00, 0, 0x1b, 0) == 13,
	   "c14_disabled_does_not_go_to_x2apic");
	wrmsr(0x1b, base);
	ok(!apic_is_x2() && !(apic_read(APIC_SVR) & 0x100) &&
		   apic_read(APIC_LVT_TIMER) == APIC_MASKED,
	   "c14_enabling_it_again_starts_from_reset");
	apic_write(APIC_SVR, 0x1ff);
}

void guest_main(void)
{
	static const uint8_t vectors[] = { 0x41, VECTOR, 0x61 };

	for (unsigned i = 0; i < sizeof(vectors); i++)
		trap_set(vectors[i], on_irq);
	pic_init(0x20);
	pit_start(0);
	test_registers("xapic");
	test_xapic_registers();
	test_priorities("xapic");
	test_timer("xapic");
	test_deadline();
	test_shadows();
	test_pic();
	test_ioapic();
	test_hpet();
	test_rtc();
	test_nmi();
	test_x2apic();
}
