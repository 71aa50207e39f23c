#include "machine/aml.h"

#include "base/endian.h"
#include "base/err.h"

/* Opcodes (ACPI 6.4, table 20.2). */
enum aml_op {
	AML_ZERO = 0x00,
	AML_ONE = 0x01,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_WORD = 0x0b,
	AML_DWORD = 0x0c,
	AML_STRING = 0x0d,
	AML_QWORD = 0x0e,
	AML_SCOPE = 0x10,
	AML_BUFFER = 0x11,
	AML_PACKAGE = 0x12,
	AML_METHOD = 0x14,
	AML_EXT = 0x5b,
	AML_ARG0 = 0x68,
	AML_EXT_DEVICE = 0x82,
	AML_RETURN = 0xa4,
};

/* Package lengths are always written in this many bytes, so that a term can
 * be closed without moving its contents: 20 bits are enough. */
#define PKG_LENGTH_SIZE 3

void aml_bytes(struct aml_buf *b, const void *data, size_t len)
{
	if (b->overflow || len > b->size - b->len) {
		b->overflow = true;
		return;
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
}

void aml_u8(struct aml_buf *b, uint8_t v)
{
	aml_bytes(b, &v, sizeof(v));
}

void aml_u16(struct aml_buf *b, uint16_t v)
{
	aml_bytes(b, &v, sizeof(v));
}

void aml_u32(struct aml_buf *b, uint32_t v)
{
	aml_bytes(b, &v, sizeof(v));
}

void aml_u64(struct aml_buf *b, uint64_t v)
{
	aml_bytes(b, &v, sizeof(v));
}

/* A name of four letters, padded with underscores; a leading backslash is the
 * root. */
static void put_name(struct aml_buf *b, const char *name)
{
	char seg[4] = { '_', '_', '_', '_' };

	if (*name == '\\')
		aml_u8(b, (uint8_t)*name++);
	vm_assert(strlen(name) <= sizeof(seg));
	for (unsigned i = 0; name[i]; i++)
		seg[i] = name[i];
	aml_bytes(b, seg, sizeof(seg));
}

static size_t open_term(struct aml_buf *b)
{
	size_t at = b->len;

	aml_bytes(b, "\0\0\0", PKG_LENGTH_SIZE);
	return at;
}

void aml_end(struct aml_buf *b, size_t term)
{
	size_t len = b->len - term;

	if (b->overflow)
		return;
	vm_assert(len < 1 << 20);
	/* 20.2.4: bits 7:6 count the bytes that follow the first. */
	b->data[term] = (uint8_t)((PKG_LENGTH_SIZE - 1) << 6 | (len & 0xf));
	b->data[term + 1] = (uint8_t)(len >> 4);
	b->data[term + 2] = (uint8_t)(len >> 12);
}

size_t aml_scope(struct aml_buf *b, const char *name)
{
	size_t term;

	aml_u8(b, AML_SCOPE);
	term = open_term(b);
	put_name(b, name);
	return term;
}

size_t aml_device(struct aml_buf *b, const char *name)
{
	size_t term;

	aml_u8(b, AML_EXT);
	aml_u8(b, AML_EXT_DEVICE);
	term = open_term(b);
	put_name(b, name);
	return term;
}

size_t aml_package(struct aml_buf *b, uint8_t nr)
{
	size_t term;

	aml_u8(b, AML_PACKAGE);
	term = open_term(b);
	aml_u8(b, nr);
	return term;
}

size_t aml_method(struct aml_buf *b, const char *name, unsigned nr_args)
{
	size_t term;

	aml_u8(b, AML_METHOD);
	term = open_term(b);
	put_name(b, name);
	aml_u8(b, (uint8_t)nr_args);
	return term;
}

void aml_int(struct aml_buf *b, uint64_t v)
{
	if (v <= AML_ONE) {
		aml_u8(b, (uint8_t)v);
	} else if (v <= UINT8_MAX) {
		aml_u8(b, AML_BYTE);
		aml_u8(b, (uint8_t)v);
	} else if (v <= UINT16_MAX) {
		aml_u8(b, AML_WORD);
		aml_u16(b, (uint16_t)v);
	} else if (v <= UINT32_MAX) {
		aml_u8(b, AML_DWORD);
		aml_u32(b, (uint32_t)v);
	} else {
		aml_u8(b, AML_QWORD);
		aml_u64(b, v);
	}
}

void aml_string(struct aml_buf *b, const char *s)
{
	aml_u8(b, AML_STRING);
	aml_bytes(b, s, strlen(s) + 1);
}

void aml_name_begin(struct aml_buf *b, const char *name)
{
	aml_u8(b, AML_NAME);
	put_name(b, name);
}

void aml_name_int(struct aml_buf *b, const char *name, uint64_t v)
{
	aml_name_begin(b, name);
	aml_int(b, v);
}

void aml_name_string(struct aml_buf *b, const char *name, const char *s)
{
	aml_name_begin(b, name);
	aml_string(b, s);
}

static uint32_t hex_digit(char c)
{
	return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* "PNP0501": three letters of five bits, four hex digits, big-endian
 * (ACPI 6.4, 6.1.5). */
void aml_name_eisaid(struct aml_buf *b, const char *name, const char *id)
{
	uint32_t v = 0;

	vm_assert(strlen(id) == 7);
	for (int i = 0; i < 3; i++)
		v = v << 5 | ((uint32_t)(id[i] - '@') & 0x1f);
	for (int i = 3; i < 7; i++)
		v = v << 4 | hex_digit(id[i]);
	aml_name_begin(b, name);
	aml_u8(b, AML_DWORD);
	aml_u32(b, __builtin_bswap32(v));
}

/* The length of a buffer's contents stands before them: always a word. */
size_t aml_resources(struct aml_buf *b, const char *name)
{
	size_t term;

	aml_name_begin(b, name);
	aml_u8(b, AML_BUFFER);
	term = open_term(b);
	aml_u8(b, AML_WORD);
	aml_u16(b, 0);
	return term;
}

void aml_end_resources(struct aml_buf *b, size_t term)
{
	size_t contents = term + PKG_LENGTH_SIZE + 3;

	aml_u8(b, 0x79); /* end tag, with a checksum that is not given */
	aml_u8(b, 0);
	if (!b->overflow)
		store_le16(b->data + contents - 2,
			   (uint16_t)(b->len - contents));
	aml_end(b, term);
}

void aml_io(struct aml_buf *b, uint16_t base, uint8_t len)
{
	aml_u8(b, 0x47);
	aml_u8(b, 1); /* decodes 16 bits */
	aml_u16(b, base);
	aml_u16(b, base);
	aml_u8(b, 1);
	aml_u8(b, len);
}

/* Edge-triggered, active high, as ISA's are. */
void aml_irq(struct aml_buf *b, unsigned irq)
{
	aml_u8(b, 0x22);
	aml_u16(b, (uint16_t)(1 << irq));
}

void aml_memory32(struct aml_buf *b, uint32_t base, uint32_t len)
{
	aml_u8(b, 0x86);
	aml_u16(b, 9);
	aml_u8(b, 1); /* read and write */
	aml_u32(b, base);
	aml_u32(b, len);
}

/* The types, and flags of 6.4.3.5, of an address space descriptor. Produced
 * for the bus below, with fixed ends. */
enum space_type { SPACE_MEMORY, SPACE_IO, SPACE_BUS };
#define SPACE_FLAGS 0x0c

/* Of the type: memory is writable and not cached, ports are the whole range. */
static uint8_t space_type_flags(enum space_type type)
{
	return type == SPACE_MEMORY ? 0x01 : type == SPACE_IO ? 0x03 : 0;
}

static void put_space(struct aml_buf *b, unsigned size, enum space_type type,
		      uint64_t first, uint64_t last)
{
	const uint64_t field[] = { 0, first, last, 0, last - first + 1 };

	aml_u8(b, size == 2 ? 0x88 : size == 4 ? 0x87 : 0x8a);
	aml_u16(b, (uint16_t)(3 + ARRAY_SIZE(field) * size));
	aml_u8(b, (uint8_t)type);
	aml_u8(b, SPACE_FLAGS);
	aml_u8(b, space_type_flags(type));
	for (unsigned i = 0; i < ARRAY_SIZE(field); i++)
		aml_bytes(b, &field[i], size);
}

void aml_word_bus(struct aml_buf *b, uint16_t first, uint16_t last)
{
	put_space(b, 2, SPACE_BUS, first, last);
}

void aml_word_io(struct aml_buf *b, uint16_t first, uint16_t last)
{
	put_space(b, 2, SPACE_IO, first, last);
}

void aml_dword_memory(struct aml_buf *b, uint32_t first, uint32_t last)
{
	put_space(b, 4, SPACE_MEMORY, first, last);
}

void aml_qword_memory(struct aml_buf *b, uint64_t first, uint64_t last)
{
	put_space(b, 8, SPACE_MEMORY, first, last);
}

void aml_return_arg(struct aml_buf *b, unsigned n)
{
	aml_u8(b, AML_RETURN);
	aml_u8(b, (uint8_t)(AML_ARG0 + n));
}
