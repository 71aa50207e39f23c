/* The software TLB's life, and questions about guest-virtual memory that only
 * a few files ask; the rest is in cpu.h. */
#ifndef VCPU_INTERP_MMU_H
#define VCPU_INTERP_MMU_H

#include "vcpu/interp/cpu.h"

/** Make an empty TLB for (cpu), with s as it is. 0 or -ENOMEM. */
int mmu_create(struct cpu *cpu);
void mmu_destroy(struct cpu *cpu);

/** Is alignment checked, and (gva) not aligned as (len) bytes have to be? */
bool mem_is_misaligned(const struct cpu *cpu, uint64_t gva, unsigned len);

/** Where supervisor code at (gva)'s page would be fetched from, or NULL; leaves
 * accessed bits alone and raises nothing. */
const uint8_t *mem_code_peek(struct cpu *cpu, uint64_t gva);

/** May the page of (gva) be read (written) with the current privilege? Leaves
 * accessed and dirty bits alone and raises nothing. */
bool mem_is_open(struct cpu *cpu, uint64_t gva, bool is_write);

#endif
