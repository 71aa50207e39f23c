#include "machine/smbios.h"

#include <errno.h>

#include "base/endian.h"
#include "machine/aml.h"

/* clang-format off */
#define ENTRY_21_AT    0x00 /* SMBIOS 2.1: 32-bit */
#define ENTRY_30_AT    0x20 /* SMBIOS 3.0: 64-bit */
#define TABLES_AT      0x100
#define VERSION_MAJOR  3
#define VERSION_MINOR  2

#define HANDLE_BIOS    0x0000
#define HANDLE_SYSTEM  0x0100
#define HANDLE_CHASSIS 0x0300
#define HANDLE_CPU     0x0400
#define HANDLE_ARRAY   0x1000
#define HANDLE_MEMORY  0x1100
#define HANDLE_MAPPED  0x1300
#define HANDLE_BOOT    0x2000
#define HANDLE_END     0x7f00
#define UNKNOWN_HANDLE 0xfffe /* no error information */
#define NO_HANDLE      0xffff
/* clang-format on */

/* Tables under construction, and what the entry points say of them. */
struct smbios {
	struct aml_buf b;
	size_t start;
	const char *strings[8];
	unsigned nr_strings, nr, largest;
};

static void begin(struct smbios *s, uint8_t type, uint16_t handle)
{
	s->start = s->b.len;
	s->nr_strings = 0;
	aml_u8(&s->b, type);
	aml_u8(&s->b, 0); /* length, set in end() */
	aml_u16(&s->b, handle);
}

/* A string field: its number in the list behind the formatted part. */
static void string(struct smbios *s, const char *text)
{
	vm_assert(s->nr_strings < ARRAY_SIZE(s->strings));
	s->strings[s->nr_strings++] = text;
	aml_u8(&s->b, (uint8_t)s->nr_strings);
}

static void end(struct smbios *s)
{
	struct aml_buf *b = &s->b;

	if (!b->overflow)
		b->data[s->start + 1] = (uint8_t)(b->len - s->start);
	for (unsigned i = 0; i < s->nr_strings; i++)
		aml_bytes(b, s->strings[i], strlen(s->strings[i]) + 1);
	if (!s->nr_strings)
		aml_u8(b, 0);
	aml_u8(b, 0);
	s->nr++;
	s->largest = MAX(s->largest, (unsigned)(b->len - s->start));
}

static void put_bios(struct smbios *s) /* 7.1 */
{
	struct aml_buf *b = &s->b;

	begin(s, 0, HANDLE_BIOS);
	string(s, "ringer");
	string(s, "1.0");
	aml_u16(b, 0xf000); /* segment */
	string(s, "01/01/2024");
	aml_u8(b, 0);       /* 64 KiB */
	aml_u64(b, BIT(3)); /* characteristics: not given */
	aml_u8(b, BIT(0));  /* ACPI */
	aml_u8(b, BIT(4));  /* it is a virtual machine */
	aml_u8(b, 1);       /* BIOS release */
	aml_u8(b, 0);
	aml_u8(b, 0xff); /* no embedded controller */
	aml_u8(b, 0xff);
	aml_u16(b, 0);
	end(s);
}

static void put_system(struct smbios *s) /* 7.2 */
{
	struct aml_buf *b = &s->b;

	begin(s, 1, HANDLE_SYSTEM);
	string(s, "ringer");
	string(s, "ringer PC");
	string(s, "1.0");
	aml_u8(b, 0);  /* serial number */
	aml_u64(b, 0); /* UUID: not set */
	aml_u64(b, 0);
	aml_u8(b, 6); /* woken by the power switch */
	aml_u8(b, 0);
	aml_u8(b, 0);
	end(s);
}

static void put_chassis(struct smbios *s) /* 7.4 */
{
	struct aml_buf *b = &s->b;

	begin(s, 3, HANDLE_CHASSIS);
	string(s, "ringer");
	aml_u8(b, 1); /* other */
	aml_u8(b, 0); /* version, serial number, asset tag */
	aml_u8(b, 0);
	aml_u8(b, 0);
	for (unsigned i = 0; i < 3; i++)
		aml_u8(b, 3); /* boot-up, power, thermal state: safe */
	aml_u8(b, 2);         /* security: unknown */
	aml_u32(b, 0);        /* OEM */
	aml_u8(b, 0);         /* height, power cords, contained elements */
	aml_u8(b, 0);
	aml_u8(b, 0);
	aml_u8(b, 0);
	aml_u8(b, 0); /* SKU */
	end(s);
}

static void put_cpu(struct smbios *s, unsigned socket, unsigned cores,
		    unsigned threads) /* 7.5 */
{
	struct aml_buf *b = &s->b;
	char name[16];

	snprintf(name, sizeof(name), "CPU %u", socket);
	begin(s, 4, (uint16_t)(HANDLE_CPU + socket));
	string(s, name);
	aml_u8(b, 3); /* central processor */
	aml_u8(b, 1); /* family: other */
	string(s, "ringer");
	aml_u64(b, 0); /* CPUID signature: see CPUID */
	string(s, "virtual");
	aml_u8(b, 0);  /* voltage */
	aml_u16(b, 0); /* clocks: unknown */
	aml_u16(b, 0);
	aml_u16(b, 0);
	aml_u8(b, 0x41); /* populated, enabled */
	aml_u8(b, 1);    /* upgrade: other */
	for (unsigned i = 0; i < 3; i++)
		aml_u16(b, NO_HANDLE); /* caches */
	aml_u8(b, 0);                  /* serial, asset tag, part number */
	aml_u8(b, 0);
	aml_u8(b, 0);
	aml_u8(b, (uint8_t)MIN(cores, 0xffu));
	aml_u8(b, (uint8_t)MIN(cores, 0xffu));
	aml_u8(b, (uint8_t)MIN(cores * threads, 0xffu));
	aml_u16(b, BIT(2)); /* 64-bit capable */
	aml_u16(b, 1);      /* family 2 */
	aml_u16(b, (uint16_t)cores);
	aml_u16(b, (uint16_t)cores);
	aml_u16(b, (uint16_t)(cores * threads));
	end(s);
}

static void put_array(struct smbios *s, uint64_t size) /* 7.17 */
{
	struct aml_buf *b = &s->b;

	begin(s, 16, HANDLE_ARRAY);
	aml_u8(b, 1);           /* where: other */
	aml_u8(b, 3);           /* system memory */
	aml_u8(b, 3);           /* no error correction */
	aml_u32(b, 0x80000000); /* see the extended capacity */
	aml_u16(b, UNKNOWN_HANDLE);
	aml_u16(b, 1);
	aml_u64(b, size);
	end(s);
}

static void put_memory(struct smbios *s, uint64_t size) /* 7.18 */
{
	struct aml_buf *b = &s->b;
	uint64_t mib = size / MiB;

	begin(s, 17, HANDLE_MEMORY);
	aml_u16(b, HANDLE_ARRAY);
	aml_u16(b, UNKNOWN_HANDLE);
	aml_u16(b, 0xffff); /* widths: unknown */
	aml_u16(b, 0xffff);
	aml_u16(b, (uint16_t)MIN(mib, 0x7fff)); /* 7fff: see below */
	aml_u8(b, 9);                           /* DIMM */
	aml_u8(b, 0);
	string(s, "DIMM 0");
	aml_u8(b, 0);
	aml_u8(b, 7); /* RAM */
	aml_u16(b, BIT(1));
	aml_u16(b, 0); /* speed */
	string(s, "ringer");
	aml_u8(b, 0); /* serial, asset tag, part number */
	aml_u8(b, 0);
	aml_u8(b, 0);
	aml_u8(b, 0); /* rank */
	aml_u32(b, (uint32_t)(mib >= 0x7fff ? mib : 0));
	aml_u16(b, 0);
	aml_u16(b, 0); /* voltages */
	aml_u16(b, 0);
	aml_u16(b, 0);
	end(s);
}

static void put_mapped(struct smbios *s, unsigned i, uint64_t base,
		       uint64_t end_gpa) /* 7.20 */
{
	struct aml_buf *b = &s->b;

	begin(s, 19, (uint16_t)(HANDLE_MAPPED + i));
	aml_u32(b, 0xffffffff); /* see the extended addresses */
	aml_u32(b, 0xffffffff);
	aml_u16(b, HANDLE_ARRAY);
	aml_u8(b, 1);
	aml_u64(b, base);
	aml_u64(b, end_gpa - 1);
	end(s);
}

static void put_last(struct smbios *s) /* 7.33, 7.45 */
{
	struct aml_buf *b = &s->b;

	begin(s, 32, HANDLE_BOOT);
	for (unsigned i = 0; i < 6; i++)
		aml_u8(b, 0);
	aml_u8(b, 0); /* no errors */
	end(s);
	begin(s, 127, HANDLE_END);
	end(s);
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return (uint8_t)-sum;
}

static void write_entries(uint8_t *buf, const struct smbios *s) /* 5.2 */
{
	static const char sm[4] = { '_', 'S', 'M', '_' };
	static const char dmi[5] = { '_', 'D', 'M', 'I', '_' };
	static const char sm3[5] = { '_', 'S', 'M', '3', '_' };
	uint8_t *e = buf + ENTRY_21_AT;
	uint16_t len = (uint16_t)(s->b.len - TABLES_AT);

	memcpy(e, sm, sizeof(sm));
	e[5] = 31;
	e[6] = VERSION_MAJOR;
	e[7] = VERSION_MINOR;
	store_le16(e + 8, (uint16_t)s->largest);
	memcpy(e + 16, dmi, sizeof(dmi));
	store_le16(e + 22, len);
	store_le32(e + 24, MEM_SMBIOS + TABLES_AT);
	store_le16(e + 28, (uint16_t)s->nr);
	e[30] = VERSION_MAJOR << 4 | VERSION_MINOR;
	e[21] = checksum(e + 16, 15);
	e[4] = checksum(e, 31);

	e = buf + ENTRY_30_AT;
	memcpy(e, sm3, sizeof(sm3));
	e[6] = 24;
	e[7] = VERSION_MAJOR;
	e[8] = VERSION_MINOR;
	e[10] = 1; /* revision of the entry point */
	store_le32(e + 12, len);
	store_le64(e + 16, MEM_SMBIOS + TABLES_AT);
	e[5] = checksum(e, 24);
}

int smbios_build(const struct smbios_config *c, uint8_t *buf, struct err *err)
{
	struct smbios s = { .b = { .data = buf, .size = MEM_SMBIOS_SIZE } };

	memset(buf, 0, MEM_SMBIOS_SIZE);
	s.b.len = TABLES_AT;
	put_bios(&s);
	put_system(&s);
	put_chassis(&s);
	for (unsigned i = 0; i < c->cpus.sockets; i++)
		put_cpu(&s, i, c->cpus.cores, c->cpus.threads);
	put_array(&s, c->mem_size);
	put_memory(&s, c->mem_size);
	put_mapped(&s, 0, 0, c->map->low_end);
	if (c->map->high_end > MEM_HIGH)
		put_mapped(&s, 1, MEM_HIGH, c->map->high_end);
	put_last(&s);
	if (s.b.overflow)
		return err_set(err, ENOSPC, NULL,
			       "SMBIOS tables are too large");
	write_entries(buf, &s);
	return 0;
}
