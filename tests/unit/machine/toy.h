/*
 * An accelerator whose instructions are single letters, so that the life of a
 * machine can be tested without a processor. A program is the kernel: a Linux
 * image whose 64-bit entry is at the first letter.
 *
 *	O pp v	out: byte (v) to port (pp)
 *	I pp	in: a byte from port (pp) into RAX
 *	+ aaaa	add one to the byte at (aaaa), here again: for ever
 *	= aaaa v	store (v) at (aaaa)
 *	? aaaa v	triple fault unless the byte at (aaaa) is (v)
 *	L	loop: stay here until told otherwise
 *	H	halt
 *	T	triple fault
 *	U	reach for an address where nothing is
 *	E	fail
 */
#ifndef TESTS_TOY_H
#define TESTS_TOY_H

#include "vcpu/vcpu.h"

extern const struct accel_ops accel_toy;

/** A kernel file with (program), (len) letters, at (path), which is at least
 * 32 bytes; the result is its descriptor. */
int toy_kernel(char *path, const void *program, size_t len);

#endif
