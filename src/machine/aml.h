/*
 * A writer of AML (ACPI 6.4, chapter 20): each function appends one term.
 * Packages whose length comes first are opened and closed:
 *
 *	size_t dev = aml_device(b, "COM1");
 *	aml_name_eisaid(b, "_HID", "PNP0501");
 *	aml_end(b, dev);
 */
#ifndef MACHINE_AML_H
#define MACHINE_AML_H

#include "base/base.h"

/** A bounded output buffer; (overflow) is set, and writing stops, when it is
 * full. Used for tables of all kinds. */
struct aml_buf {
	uint8_t *data;
	size_t len, size;
	bool overflow;
};

/** Append raw bytes and little-endian values. */
void aml_bytes(struct aml_buf *b, const void *data, size_t len);
void aml_u8(struct aml_buf *b, uint8_t v);
void aml_u16(struct aml_buf *b, uint16_t v);
void aml_u32(struct aml_buf *b, uint32_t v);
void aml_u64(struct aml_buf *b, uint64_t v);

/** Open a term with a package length. Give the result to aml_end(). Names are
 * up to four letters; aml_scope() also takes "\\_SB". */
size_t aml_scope(struct aml_buf *b, const char *name);
size_t aml_device(struct aml_buf *b, const char *name);
size_t aml_package(struct aml_buf *b, uint8_t nr);
size_t aml_method(struct aml_buf *b, const char *name, unsigned nr_args);
void aml_end(struct aml_buf *b, size_t term);

/** An integer in its shortest form, a string, a name. */
void aml_int(struct aml_buf *b, uint64_t v);
void aml_string(struct aml_buf *b, const char *s);

/** Name(NAME, value) for the kinds of value that there are. With
 * aml_name_begin() the value is whatever follows. */
void aml_name_begin(struct aml_buf *b, const char *name);
void aml_name_int(struct aml_buf *b, const char *name, uint64_t v);
void aml_name_string(struct aml_buf *b, const char *name, const char *s);
void aml_name_eisaid(struct aml_buf *b, const char *name, const char *id);

/** Name(NAME, ResourceTemplate() { ... }), closed by aml_end_resources(). */
size_t aml_resources(struct aml_buf *b, const char *name);
void aml_end_resources(struct aml_buf *b, size_t term);
/** Resource descriptors (ACPI 6.4, 6.4.2 and 6.4.3). */
void aml_io(struct aml_buf *b, uint16_t base, uint8_t len);
void aml_irq(struct aml_buf *b, unsigned irq);
void aml_memory32(struct aml_buf *b, uint32_t base, uint32_t len);
void aml_word_bus(struct aml_buf *b, uint16_t first, uint16_t last);
void aml_word_io(struct aml_buf *b, uint16_t first, uint16_t last);
void aml_dword_memory(struct aml_buf *b, uint32_t first, uint32_t last);
void aml_qword_memory(struct aml_buf *b, uint64_t first, uint64_t last);

/** Return(Arg n), to be used in a method. */
void aml_return_arg(struct aml_buf *b, unsigned n);

#endif
