/*
 * The tables, in the order in which they are laid out:
 *
 *	RSDP -> RSDT, XSDT -> FADT -> DSDT, FACS
 *	                      MADT  interrupt controllers
 *	                      HPET
 *	                      MCFG  PCI Express configuration space
 *
 * All that the DSDT says is static data; it has hardly any code.
 */
#include "machine/acpi.h"

#include <errno.h>

#include "base/bits.h"
#include "base/endian.h"
#include "device/chip/pm.h"
#include "machine/aml.h"
#include "machine/pc.h"

/* clang-format off */

/* FADT fields and flags (5.2.9) */
#define FADT_BOOT_LEGACY    BIT(0) /* ISA devices */
#define FADT_BOOT_8042      BIT(1)
#define FADT_BOOT_NO_VGA    BIT(2)
#define FADT_WBINVD         BIT(0)
#define FADT_C1             BIT(2) /* HLT */
#define FADT_SLEEP_BUTTON   BIT(5) /* there is no fixed one */
#define FADT_RESET          BIT(10)
#define FADT_PLATFORM_CLOCK BIT(15) /* trust the PM timer and HPET */

/* MADT entries (5.2.12) */
#define MADT_PCAT      BIT(0) /* 8259s are there too */
#define MADT_ENABLED   BIT(0)
#define ISO_EDGE_HIGH  0x5
#define ISO_LEVEL_HIGH 0xd

#define HPET_BLOCK_ID  0x8086a201 /* three timers, 64 bits, legacy routing */
/* clang-format on */

struct gas {
	uint8_t space, width, offset, access;
	uint64_t addr;
} __attribute__((packed));

struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt, length;
	uint64_t xsdt;
	uint8_t checksum_all, reserved[3];
} __attribute__((packed));

struct fadt {
	uint32_t facs, dsdt;
	uint8_t reserved, profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr;
	uint32_t gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
	uint8_t gpe0_len, gpe1_len, gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct gas reset;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt;
	struct gas x_pm_tmr, x_gpe0, x_gpe1, sleep_control, sleep_status;
	uint64_t hypervisor;
} __attribute__((packed));

_Static_assert(sizeof(struct fadt) == 276 - 36, "FADT of ACPI 6");

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

/* Start a table: returns where. */
static size_t table_begin(struct aml_buf *b, const char *signature,
			  uint8_t revision)
{
	struct acpi_header h = {
		.revision = revision,
		.oem_id = { 'R', 'I', 'N', 'G', 'E', 'R' },
		.oem_table_id = { 'R', 'I', 'N', 'G', 'E', 'R', 'P', 'C' },
		.oem_revision = 1,
		.creator_id = { 'R', 'N', 'G', 'R' },
		.creator_revision = 1,
	};
	size_t at;

	while (b->len % 16)
		aml_u8(b, 0);
	at = b->len;
	memcpy(h.signature, signature, sizeof(h.signature));
	aml_bytes(b, &h, sizeof(h));
	return at;
}

static void table_end(struct aml_buf *b, size_t at)
{
	uint8_t *t = b->data + at;

	if (b->overflow)
		return;
	store_le32(t + offsetof(struct acpi_header, length),
		   (uint32_t)(b->len - at));
	t[offsetof(struct acpi_header, checksum)] =
		(uint8_t)-sum(t, b->len - at);
}

/*
 * DSDT
 */

/* _HID, _UID and that it is there. */
static size_t pnp_begin(struct aml_buf *b, const char *name, const char *hid,
			unsigned uid)
{
	size_t dev = aml_device(b, name);

	aml_name_eisaid(b, "_HID", hid);
	aml_name_int(b, "_UID", uid);
	aml_name_int(b, "_STA", 0xf);
	return dev;
}

static void put_coms(struct aml_buf *b, unsigned nr)
{
	static const uint16_t ports[PC_NR_COMS] = PC_COM_PORTS;
	static const uint8_t irqs[PC_NR_COMS] = PC_COM_IRQS;

	for (unsigned i = 0; i < nr; i++) {
		const char name[] = { 'C', 'O', 'M', (char)('1' + i), 0 };
		size_t dev = pnp_begin(b, name, "PNP0501", i + 1);
		size_t crs = aml_resources(b, "_CRS");

		aml_io(b, ports[i], 8);
		aml_irq(b, irqs[i]);
		aml_end_resources(b, crs);
		aml_end(b, dev);
	}
}

/* A device without more than ports and, unless negative, an interrupt. */
static void put_ports(struct aml_buf *b, const char *name, const char *hid,
		      uint16_t port, uint8_t len, int irq)
{
	size_t dev = pnp_begin(b, name, hid, 0);
	size_t crs = aml_resources(b, "_CRS");

	aml_io(b, port, len);
	if (irq >= 0)
		aml_irq(b, (unsigned)irq);
	aml_end_resources(b, crs);
	aml_end(b, dev);
}

static void put_keyboard(struct aml_buf *b)
{
	size_t dev = pnp_begin(b, "KBD", "PNP0303", 0);
	size_t crs = aml_resources(b, "_CRS");

	aml_io(b, PC_PORT_I8042, 1);
	aml_io(b, PC_PORT_I8042 + 4, 1);
	aml_irq(b, PC_IRQ_KEYBOARD);
	aml_end_resources(b, crs);
	aml_end(b, dev);
	dev = pnp_begin(b, "MOU", "PNP0F13", 0);
	crs = aml_resources(b, "_CRS");
	aml_irq(b, PC_IRQ_MOUSE);
	aml_end_resources(b, crs);
	aml_end(b, dev);
}

/* Devices of hypervisors, with a string for an identity. */
static void put_virtual(struct aml_buf *b, const char *name, const char *hid,
			uint16_t port, uint8_t len)
{
	size_t dev = aml_device(b, name);
	size_t crs;

	aml_name_string(b, "_HID", hid);
	aml_name_int(b, "_STA", 0xf);
	crs = aml_resources(b, "_CRS");
	aml_io(b, port, len);
	aml_end_resources(b, crs);
	aml_end(b, dev);
}

/* Function 0 of slot 31, and what is behind it. */
static void put_isa(struct aml_buf *b, const struct acpi_config *c)
{
	size_t isa = aml_device(b, "ISA");

	aml_name_int(b, "_ADR", 0x1f0000);
	put_coms(b, c->nr_coms);
	put_ports(b, "RTC", "PNP0B00", PC_PORT_RTC, 2, PC_IRQ_RTC);
	put_ports(b, "TIMR", "PNP0100", PC_PORT_PIT, 4, PC_IRQ_PIT);
	put_ports(b, "SPKR", "PNP0800", 0x61, 1, -1);
	put_keyboard(b);
	if (c->has_pvpanic)
		put_virtual(b, "PEVT", "QEMU0001", PC_PORT_PVPANIC, 1);
	if (c->has_fwcfg)
		put_virtual(b, "FWCF", "QEMU0002", PC_PORT_FWCFG, 12);
	aml_end(b, isa);
}

/* INTx of every slot: the pin, rotated by the slot, at a GSI of its own. */
static void put_prt(struct aml_buf *b)
{
	size_t table;

	aml_name_begin(b, "_PRT");
	table = aml_package(b, 128);
	for (unsigned slot = 0; slot < 32; slot++) {
		for (unsigned pin = 0; pin < 4; pin++) {
			size_t entry = aml_package(b, 4);

			aml_int(b, slot << 16 | 0xffff);
			aml_int(b, pin);
			aml_int(b, 0);
			aml_int(b, PC_GSI_INTX + (slot + pin) % 4);
			aml_end(b, entry);
		}
	}
	aml_end(b, table);
}

static void put_host_bridge(struct aml_buf *b, const struct acpi_config *c)
{
	const struct memmap *map = c->map;
	size_t pci = aml_device(b, "PCI0"), crs, osc;

	aml_name_eisaid(b, "_HID", "PNP0A08");
	aml_name_eisaid(b, "_CID", "PNP0A03");
	aml_name_int(b, "_UID", 0);
	aml_name_int(b, "_SEG", 0);
	aml_name_int(b, "_BBN", 0);
	aml_name_int(b, "_CCA", 1);
	crs = aml_resources(b, "_CRS");
	aml_word_bus(b, 0, MEM_NR_BUSES - 1);
	aml_io(b, 0xcf8, 8);
	aml_word_io(b, 0, 0xcf7);
	aml_word_io(b, 0xd00, 0xffff);
	aml_dword_memory(b, MEM_VGA, MEM_VGA + MEM_VGA_SIZE - 1);
	aml_dword_memory(b, MEM_PCI32, MEM_PCI32 + MEM_PCI32_SIZE - 1);
	if (map->pci64_size)
		aml_qword_memory(b, map->pci64,
				 map->pci64 + map->pci64_size - 1);
	aml_end_resources(b, crs);
	put_prt(b);
	/* The system may use all PCI Express features that it asks for. */
	osc = aml_method(b, "_OSC", 4);
	aml_return_arg(b, 3);
	aml_end(b, osc);
	put_isa(b, c);
	aml_end(b, pci);
}

/* What belongs to nobody else, so that nothing is placed over it. */
static void put_reserved(struct aml_buf *b)
{
	size_t dev = pnp_begin(b, "MRES", "PNP0C02", 0);
	size_t crs = aml_resources(b, "_CRS");

	aml_memory32(b, MEM_ECAM, MEM_ECAM_SIZE);
	aml_io(b, PM_BASE, PM_SIZE);
	aml_io(b, PC_PORT_DEBUGCON, 1);
	aml_end_resources(b, crs);
	aml_end(b, dev);
}

static void put_hpet_device(struct aml_buf *b)
{
	size_t dev = pnp_begin(b, "HPET", "PNP0103", 0);
	size_t crs = aml_resources(b, "_CRS");

	aml_memory32(b, MEM_HPET, 0x400);
	aml_end_resources(b, crs);
	aml_end(b, dev);
}

static void put_cpus(struct aml_buf *b, unsigned nr)
{
	static const char hex[] = "0123456789ABCDEF";

	for (unsigned i = 0; i < nr; i++) {
		const char name[] = { 'C', 'P', hex[i / 16 % 16], hex[i % 16],
				      0 };
		size_t dev = aml_device(b, name);

		aml_name_string(b, "_HID", "ACPI0007");
		aml_name_int(b, "_UID", i);
		aml_end(b, dev);
	}
}

/* The sleep type of soft-off for both control registers. */
static void put_s5(struct aml_buf *b)
{
	size_t s5;

	aml_name_begin(b, "\\_S5");
	s5 = aml_package(b, 4);
	aml_int(b, PM_SLP_TYP_S5);
	aml_int(b, PM_SLP_TYP_S5);
	aml_int(b, 0);
	aml_int(b, 0);
	aml_end(b, s5);
}

static size_t put_dsdt(struct aml_buf *b, const struct acpi_config *c)
{
	size_t table = table_begin(b, "DSDT", 2);
	size_t sb = aml_scope(b, "\\_SB");

	put_host_bridge(b, c);
	put_reserved(b);
	put_hpet_device(b);
	put_cpus(b, c->nr_cpus);
	aml_end(b, sb);
	put_s5(b);
	table_end(b, table);
	return table;
}

/*
 * The other tables
 */

static struct gas gas_port(uint16_t port, uint8_t width)
{
	return (struct gas){ .space = 1,
			     .width = width,
			     .access = width >= 32   ? 3
				       : width >= 16 ? 2
						     : 1,
			     .addr = port };
}

static size_t put_fadt(struct aml_buf *b, uint64_t dsdt)
{
	size_t table = table_begin(b, "FACP", 6);
	struct fadt f = {
		.facs = MEM_FACS,
		.dsdt = (uint32_t)dsdt,
		.x_dsdt = dsdt,
		.x_facs = MEM_FACS,
		.profile = 1, /* desktop */
		.sci_int = PM_SCI_GSI,
		.smi_cmd = PM_SMI_CMD,
		.acpi_enable = PM_ACPI_ENABLE,
		.acpi_disable = PM_ACPI_DISABLE,
		.pm1a_evt = PM_BASE + PM_EVENT,
		.pm1a_cnt = PM_BASE + PM_CONTROL,
		.pm_tmr = PM_BASE + PM_TIMER,
		.gpe0 = PM_BASE + PM_GPE0,
		.pm1_evt_len = 4,
		.pm1_cnt_len = 2,
		.pm_tmr_len = 4,
		.gpe0_len = 16,
		.p_lvl2_lat = 0xfff, /* no C2, no C3 */
		.p_lvl3_lat = 0xfff,
		.century = 0x32,
		.boot_arch =
			FADT_BOOT_LEGACY | FADT_BOOT_8042 | FADT_BOOT_NO_VGA,
		.flags = FADT_WBINVD | FADT_C1 | FADT_SLEEP_BUTTON |
			 FADT_RESET | FADT_PLATFORM_CLOCK,
		.reset = gas_port(PM_RESET_PORT, 8),
		.reset_value = PM_RESET_VALUE,
		.minor = 3,
		.x_pm1a_evt = gas_port(PM_BASE + PM_EVENT, 32),
		.x_pm1a_cnt = gas_port(PM_BASE + PM_CONTROL, 16),
		.x_pm_tmr = gas_port(PM_BASE + PM_TIMER, 32),
		.x_gpe0 = gas_port(PM_BASE + PM_GPE0, 128),
	};

	/* Its registers are bytes, whatever the block's width. */
	f.x_gpe0.access = 1;
	aml_bytes(b, &f, sizeof(f));
	table_end(b, table);
	return table;
}

static void put_override(struct aml_buf *b, uint8_t irq, uint32_t gsi,
			 uint16_t flags)
{
	aml_u8(b, 2);
	aml_u8(b, 10);
	aml_u8(b, 0); /* ISA */
	aml_u8(b, irq);
	aml_u32(b, gsi);
	aml_u16(b, flags);
}

static void put_madt_cpu(struct aml_buf *b, uint32_t uid, uint32_t apic_id)
{
	if (apic_id < 255) {
		aml_u8(b, 0);
		aml_u8(b, 8);
		aml_u8(b, (uint8_t)uid);
		aml_u8(b, (uint8_t)apic_id);
		aml_u32(b, MADT_ENABLED);
	} else {
		aml_u8(b, 9);
		aml_u8(b, 16);
		aml_u16(b, 0);
		aml_u32(b, apic_id);
		aml_u32(b, MADT_ENABLED);
		aml_u32(b, uid);
	}
}

static size_t put_madt(struct aml_buf *b, const struct acpi_config *c)
{
	size_t table = table_begin(b, "APIC", 5);

	aml_u32(b, MEM_LAPIC);
	aml_u32(b, MADT_PCAT);
	for (unsigned i = 0; i < c->nr_cpus; i++)
		put_madt_cpu(b, i, c->apic_ids[i]);
	aml_u8(b, 1); /* IOAPIC */
	aml_u8(b, 12);
	aml_u8(b, PC_IOAPIC_ID);
	aml_u8(b, 0);
	aml_u32(b, MEM_IOAPIC);
	aml_u32(b, 0); /* its first GSI */
	put_override(b, PC_IRQ_PIT, PC_GSI_PIT, 0);
	put_override(b, PM_SCI_GSI, PM_SCI_GSI, ISO_LEVEL_HIGH);
	aml_u8(b, 4); /* NMI: LINT1 of all CPUs */
	aml_u8(b, 6);
	aml_u8(b, 0xff);
	aml_u16(b, 0);
	aml_u8(b, 1);
	table_end(b, table);
	return table;
}

static size_t put_hpet(struct aml_buf *b)
{
	size_t table = table_begin(b, "HPET", 1);
	const struct gas base = { .space = 0, .width = 64, .addr = MEM_HPET };

	aml_u32(b, HPET_BLOCK_ID);
	aml_bytes(b, &base, sizeof(base));
	aml_u8(b, 0);     /* number */
	aml_u16(b, 0x80); /* shortest period worth setting */
	aml_u8(b, 0);
	table_end(b, table);
	return table;
}

static size_t put_mcfg(struct aml_buf *b)
{
	size_t table = table_begin(b, "MCFG", 1);

	aml_u64(b, 0);
	aml_u64(b, MEM_ECAM);
	aml_u16(b, 0); /* segment */
	aml_u8(b, 0);
	aml_u8(b, MEM_NR_BUSES - 1);
	aml_u32(b, 0);
	table_end(b, table);
	return table;
}

static void write_rsdp(uint8_t *buf, uint64_t rsdt, uint64_t xsdt)
{
	struct rsdp r = {
		.signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
		.oem_id = { 'R', 'I', 'N', 'G', 'E', 'R' },
		.revision = 2,
		.rsdt = (uint32_t)rsdt,
		.length = sizeof(r),
		.xsdt = xsdt,
	};

	r.checksum = (uint8_t)-sum((uint8_t *)&r, 20);
	r.checksum_all = (uint8_t)-sum((uint8_t *)&r, sizeof(r));
	memcpy(buf, &r, sizeof(r));
}

int acpi_build(const struct acpi_config *c, uint8_t *buf, struct err *err)
{
	struct aml_buf b = { .data = buf, .size = MEM_ACPI_SIZE };
	uint64_t table[4], dsdt, rsdt, xsdt;
	size_t at;

	memset(buf, 0, MEM_ACPI_SIZE);
	b.len = sizeof(struct rsdp);
	dsdt = MEM_ACPI + put_dsdt(&b, c);
	table[0] = MEM_ACPI + put_fadt(&b, dsdt);
	table[1] = MEM_ACPI + put_madt(&b, c);
	table[2] = MEM_ACPI + put_hpet(&b);
	table[3] = MEM_ACPI + put_mcfg(&b);
	at = table_begin(&b, "RSDT", 1);
	rsdt = MEM_ACPI + at;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		aml_u32(&b, (uint32_t)table[i]);
	table_end(&b, at);
	at = table_begin(&b, "XSDT", 1);
	xsdt = MEM_ACPI + at;
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		aml_u64(&b, table[i]);
	table_end(&b, at);
	write_rsdp(buf, rsdt, xsdt);
	if (b.overflow)
		return err_set(err, ENOSPC, NULL,
			       "ACPI tables for %u CPUs are too large",
			       c->nr_cpus);
	return 0;
}

void acpi_facs(uint8_t *buf)
{
	static const char signature[4] = { 'F', 'A', 'C', 'S' };

	memset(buf, 0, 64);
	memcpy(buf, signature, sizeof(signature));
	store_le32(buf + 4, 64);
	buf[32] = 2; /* version */
}
