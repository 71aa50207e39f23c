/*
 * The fast path of the software TLB, inlined into handlers; see mmu.c.
 *
 * One comparison decides: a tag is the page's address and, in its low bits,
 * the number of the context that it was filled in. The tag that an access
 * looks for is made from its last byte and the entry is found by its first,
 * so that accesses over a page's end miss too. Non-canonical addresses never
 * have an entry.
 */
#ifndef VCPU_INTERP_MEM_H
#define VCPU_INTERP_MEM_H

#include "vcpu/interp/cpu.h"

#define PAGE_MASK     (~(PAGE_SIZE - 1))
#define TLB_INVALID   (~0ULL)
#define TLB_NEVER     1 /* a context that no entry has */
#define MEM_SIZE_MASK 0xffff
#define MEM_SS        0x10000 /* with a size: a bad address is #SS, not #GP */
#define MEM_UNALIGNED 0x20000 /* with a size: never #AC */

/** What the fast path does not do; (size) may have MEM_SS. */
uint64_t mem_load_slow(struct cpu *cpu, uint64_t gva, unsigned size);
void mem_store_slow(struct cpu *cpu, uint64_t gva, unsigned size,
		    uint64_t value);
/** mem_host() behind a TLB miss: as mem_host(), also for (size) with MEM_SS. */
void *mem_host_slow(struct cpu *cpu, uint64_t gva, unsigned size,
		    bool is_write);

static inline struct tlb_entry *tlb_slot(const struct cpu *cpu, uint64_t gva)
{
	return &cpu->tlb[gva >> PAGE_SHIFT & (TLB_SIZE - 1)];
}

/* The tag that an access to [gva, gva + size) needs. */
static inline uint64_t tlb_tag(const struct cpu *cpu, uint64_t gva,
			       unsigned size)
{
	return ((gva + size - 1) & PAGE_MASK) | cpu->context[gva >> 63];
}

/* The host address for a read, or for a write, or NULL on a miss. */
static inline void *tlb_read(const struct cpu *cpu, uint64_t gva, unsigned size)
{
	struct tlb_entry *e = tlb_slot(cpu, gva);

	return likely(e->read == tlb_tag(cpu, gva, size))
		       ? (void *)(gva + e->addend)
		       : NULL;
}

/* Note a store to (hva): if it is code that runs, its block ends. */
static inline void code_check(struct cpu *cpu, const void *hva)
{
	if (unlikely(((uint64_t)hva & PAGE_MASK) == cpu->code_page))
		cpu->exit_block = true;
}

static inline void *tlb_write(struct cpu *cpu, uint64_t gva, unsigned size)
{
	struct tlb_entry *e = tlb_slot(cpu, gva);
	void *hva = (void *)(gva + e->addend);

	if (unlikely(e->write != tlb_tag(cpu, gva, size)))
		return NULL;
	code_check(cpu, hva);
	return hva;
}

/* Loads and stores of host memory as one access, whatever the alignment. */
static inline uint64_t host_load(const void *hva, unsigned size)
{
	switch (size) {
	case 1:
		return *(const volatile uint8_t *)hva;
	case 2:
		return *(const volatile uint16_t *)hva;
	case 4:
		return *(const volatile uint32_t *)hva;
	default:
		return *(const volatile uint64_t *)hva;
	}
}

static inline void host_store(void *hva, unsigned size, uint64_t value)
{
	switch (size) {
	case 1:
		*(volatile uint8_t *)hva = (uint8_t)value;
		break;
	case 2:
		*(volatile uint16_t *)hva = (uint16_t)value;
		break;
	case 4:
		*(volatile uint32_t *)hva = (uint32_t)value;
		break;
	default:
		*(volatile uint64_t *)hva = value;
	}
}

/* Load or store 1, 2, 4 or 8 bytes; (flags) is 0 or MEM_SS. */
static inline uint64_t mem_load_fast(struct cpu *cpu, uint64_t gva,
				     unsigned size, unsigned flags)
{
	void *hva = tlb_read(cpu, gva, size);

	if (likely(hva))
		return host_load(hva, size);
	return mem_load_slow(cpu, gva, size | flags);
}

static inline void mem_store_fast(struct cpu *cpu, uint64_t gva, unsigned size,
				  unsigned flags, uint64_t value)
{
	void *hva = tlb_write(cpu, gva, size);

	if (likely(hva))
		host_store(hva, size, value);
	else
		mem_store_slow(cpu, gva, size | flags, value);
}

/* mem_code() with its fast path inlined. */
static inline const uint8_t *mem_code_fast(struct cpu *cpu, uint64_t gva)
{
	struct tlb_entry *e = tlb_slot(cpu, gva);
	uint64_t page = gva & PAGE_MASK;

	if (likely(e->exec == (page | cpu->code_context[gva >> 63])))
		return (const uint8_t *)(page + e->addend);
	return mem_code(cpu, gva);
}

/* Copy without libc, whose memcpy() may use vector registers. */
static inline void copy_bytes(void *to, const void *from, size_t len)
{
#ifdef __clang_analyzer__ /* which does not see through assembly */
	__builtin_memcpy(to, from, len);
#endif
	__asm__ volatile("rep movsb"
			 : "+D"(to), "+S"(from), "+c"(len)
			 :
			 : "memory");
}

static inline void zero_bytes(void *to, size_t len)
{
	__asm__ volatile("rep stosb" : "+D"(to), "+c"(len) : "a"(0) : "memory");
}

#endif
