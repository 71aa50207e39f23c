#include "lib/pc.h"

extern uint64_t start_info;

void apic_send(uint32_t id, uint32_t low)
{
	if (apic_is_x2()) {
		wrmsr(0x830, (uint64_t)id << 32 | low);
		return;
	}
	*mmio(APIC_BASE + APIC_ICR2) = id << 24;
	*mmio(APIC_BASE + APIC_ICR) = low;
	while (*mmio(APIC_BASE + APIC_ICR) & 0x1000)
		;
}

void ioapic_route(unsigned pin, uint32_t low)
{
	ioapic_write(0x10 + 2 * pin, APIC_MASKED);
	ioapic_write(0x11 + 2 * pin, 0);
	ioapic_write(0x10 + 2 * pin, low);
}

void pic_init(uint8_t base)
{
	outb(0x20, 0x11);
	outb(0xa0, 0x11);
	outb(0x21, base);
	outb(0xa1, base + 8);
	outb(0x21, 4);
	outb(0xa1, 2);
	outb(0x21, 1);
	outb(0xa1, 1);
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
}

void pit_start(unsigned hz)
{
	unsigned count = hz ? PIT_HZ / hz : 0;

	/* Mode 2, or mode 0 with a count that never comes: stopped. */
	outb(0x43, hz ? 0x34 : 0x30);
	if (!hz)
		return;
	outb(0x40, (uint8_t)count);
	outb(0x40, (uint8_t)(count >> 8));
}

/* Tables may be anywhere, unaligned. */
static uint64_t load(const uint8_t *at, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, at, size);
	return v;
}

const void *acpi_find(const char *signature)
{
	const uint8_t *info = (const uint8_t *)start_info, *rsdp, *root;
	bool is_xsdt;

	/* Xen's start_info of PVH: rsdp_paddr is at byte 32. */
	rsdp = (const uint8_t *)load(info + 32, 8);
	if (!rsdp)
		return NULL;
	is_xsdt = rsdp[15] >= 2 && load(rsdp + 24, 8);
	root = (const uint8_t *)(is_xsdt ? load(rsdp + 24, 8)
					 : load(rsdp + 16, 4));
	for (unsigned at = 36, step = is_xsdt ? 8 : 4;
	     at + step <= load(root + 4, 4); at += step) {
		const uint8_t *table = (const uint8_t *)load(root + at, step);

		if (!memcmp(table, signature, 4))
			return table;
	}
	return NULL;
}

uint64_t acpi_ecam(void)
{
	const uint8_t *mcfg = acpi_find("MCFG");

	return mcfg ? load(mcfg + 44, 8) : 0;
}

uint32_t pm_read(void)
{
	static uint16_t port;

	if (!port) {
		const uint8_t *fadt = acpi_find("FACP");

		port = fadt ? (uint16_t)load(fadt + 76, 4) : 0x608;
	}
	return inl(port) & 0xffffff;
}

void stopwatch_start(struct stopwatch *w)
{
	w->last = pm_read();
	w->ticks = 0;
}

uint64_t stopwatch_us(struct stopwatch *w)
{
	uint32_t now = pm_read();

	w->ticks += (now - w->last) & 0xffffff;
	w->last = now;
	return w->ticks * 1000000 / PM_HZ;
}

void delay_us(uint64_t us)
{
	struct stopwatch w;

	stopwatch_start(&w);
	while (stopwatch_us(&w) < us)
		__asm__ volatile("pause");
}
