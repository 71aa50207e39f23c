/*
 * What a bare-metal test guest has: TAP on the debug console, traps that can
 * be expected, other CPUs, user mode. Every guest runs under every accelerator
 * and must see the same.
 */
#ifndef TESTS_GUEST_LIB_GUEST_H
#define TESTS_GUEST_LIB_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* clang-format off */
/* Selectors of lib/start.S. */
enum {
	KERNEL_CS = 0x08, KERNEL_DS = 0x10, KERNEL_CS32 = 0x18,
	KERNEL_DS32 = 0x20, USER_CS32 = 0x2b, USER_DS = 0x33, USER_CS = 0x3b,
	CS1 = 0x41, DS1 = 0x49, CS2 = 0x52, DS2 = 0x5a, TSS_SEL = 0x60,
	FREE_SEL = 0x70,
};
/* clang-format on */

/** Registers at a trap, as trap_entry pushes them. */
struct trap_frame {
	uint64_t rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13,
		r14, r15;
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

/** The test; prints with ok() and returns. */
void guest_main(void);

/** One line of TAP; returns (good). */
bool ok(bool good, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** A line that begins with "# ". */
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/** End the machine with isa-debug-exit. */
void guest_exit(unsigned value) __attribute__((noreturn));

/** Call (fn) for traps and interrupts of (vector); NULL for none. */
void trap_set(unsigned vector, void (*fn)(struct trap_frame *f));

/* The last trap that TRAP_OF caught. */
extern struct trap_frame last_trap;
extern uint64_t last_cr2;
extern uint64_t trap_resume;

/**
 * Run (insns), a string of assembly, and give the vector of the exception that
 * it raised, or -1; (last_trap) tells more. It may change RAX, RBX, RCX and
 * RDX, which begin as (a), (b), (c), (d); other inputs go in the rest, as in
 * asm. R8 is taken: it keeps RSP.
 */
#define TRAP_IN(insns, a, b, c, d, ...)                                \
	({                                                             \
		int64_t vector_ = -1;                                  \
		uint64_t a_ = (a), b_ = (b), c_ = (c), d_ = (d);       \
		__asm__ volatile("lea 1f(%%rip), %%r8\n\t"             \
				 "mov %%r8, trap_resume\n\t"           \
				 "mov %%rsp, %%r8\n\t" insns "\n\t"    \
				 "jmp 2f\n"                            \
				 "1:\n\t"                              \
				 "mov %%r8, %%rsp\n\t"                 \
				 "mov last_trap+120, %[vector]\n"      \
				 "2:\n\t"                              \
				 "movq $0, trap_resume"                \
				 : [vector] "+&r"(vector_), "+&a"(a_), \
				   "+&b"(b_), "+&c"(c_), "+&d"(d_)     \
				 : __VA_ARGS__                         \
				 : "r8", "memory", "cc");              \
		(int)vector_;                                          \
	})
#define TRAP_OF(insns, ...) TRAP_IN(insns, 0, 0, 0, 0, ##__VA_ARGS__)

/** Run (fn) at CPL 3 (or with the given selectors) and give what it returned;
 * -1000 - vector if it raised an exception. */
int64_t user_run(int64_t (*fn)(void), uint16_t cs, uint16_t ss);
#define user(fn) user_run(fn, USER_CS, USER_DS)

/** Start CPU with APIC id (id) in (fn); returns when it runs. */
bool cpu_start(unsigned id, void (*fn)(void));

/** Set the gate of (vector): DPL, IST and type (14 interrupt, 15 trap). */
void idt_set(unsigned vector, void *entry, unsigned dpl, unsigned ist,
	     unsigned type);
extern uint64_t idt[512];
extern uint64_t gdt[];
/** The 64-bit TSS: rsp0 at byte 4, ist1 at byte 36, I/O map base at 102. */
extern uint8_t tss[104 + 8193];
extern uint64_t pml4[512], pdpt[512], pds[2048];
extern uint8_t trap_stubs[];

/** Map (gva) to (gpa) by a 4 KiB page with (flags) of the entry. */
void page_map(uint64_t gva, uint64_t gpa, uint64_t flags);

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint16_t inw(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static inline uint64_t rdmsr(uint32_t msr)
{
	uint32_t lo, hi;

	__asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
	return (uint64_t)hi << 32 | lo;
}
static inline void wrmsr(uint32_t msr, uint64_t v)
{
	__asm__ volatile("wrmsr" ::"a"((uint32_t)v), "d"((uint32_t)(v >> 32)),
			 "c"(msr)
			 : "memory");
}
static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}
#define CR_ACCESSORS(n)                                                  \
	static inline uint64_t read_cr##n(void)                          \
	{                                                                \
		uint64_t v;                                              \
		__asm__ volatile("mov %%cr" #n ", %0" : "=r"(v));        \
		return v;                                                \
	}                                                                \
	static inline void write_cr##n(uint64_t v)                       \
	{                                                                \
		__asm__ volatile("mov %0, %%cr" #n ::"r"(v) : "memory"); \
	}
CR_ACCESSORS(0)
CR_ACCESSORS(2)
CR_ACCESSORS(3)
CR_ACCESSORS(4)
CR_ACCESSORS(8)

static inline void invlpg(uint64_t gva)
{
	__asm__ volatile("invlpg (%0)" ::"r"(gva) : "memory");
}
static inline volatile uint32_t *mmio(uint64_t gpa)
{
	return (volatile uint32_t *)gpa;
}

#endif
