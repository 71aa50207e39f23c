/* Device memory by vector and floating-point instructions (C2, B9, B10): apart
 * from io.c, for KVM's emulator knows but a few of them. */
#include "lib/pc.h"

#define SCRATCH 0xfed00128ULL /* the HPET's comparator 1: 64 bits */

static uint32_t buf[4];

static void test_eight_bytes(void)
{
	volatile uint64_t *reg = (void *)SCRATCH;
	uint64_t value = 0x0123456789abcdef, got = 0;

	*(volatile uint64_t *)0xfed00010 = 0; /* the HPET stands */
	*(volatile uint64_t *)0xfed00120 = 0;
	__asm__ volatile("movq %1, %%xmm0; movq %%xmm0, %0"
			 : "=m"(*reg)
			 : "m"(value));
	ok(*reg == value, "c2_an_sse_store");
	__asm__ volatile("movq %1, %%xmm1; movq %%xmm1, %0"
			 : "=m"(got)
			 : "m"(*reg));
	ok(got == value, "c2_an_sse_load");
	__asm__ volatile("pxor %%xmm0, %%xmm0; movd %1, %%xmm2;"
			 "paddd %%xmm2, %%xmm0; movd %%xmm0, %0"
			 : "=m"(*(volatile uint32_t *)SCRATCH)
			 : "m"(*(volatile uint32_t *)(SCRATCH + 4)));
	ok(*reg == 0x0123456701234567, "c2_four_bytes_by_sse");
	__asm__ volatile("fninit; fildl %1; fistpll %0"
			 : "=m"(got)
			 : "m"(*(volatile uint32_t *)SCRATCH));
	ok(got == 0x01234567, "c2_an_x87_load");
	__asm__ volatile("fildll %1; fistpl %0"
			 : "=m"(*(volatile uint32_t *)SCRATCH)
			 : "m"((uint64_t){ 77 }));
	ok(*reg == 0x012345670000004d, "c2_an_x87_store");
}

static void test_sixteen_bytes(void)
{
	uint64_t ecam = acpi_ecam(), v[2] = { 0, 0 }, was;
	volatile uint64_t *rom = (void *)0xfffffff0;

	if (ecam) {
		__asm__ volatile("movups (%1), %%xmm2; movups %%xmm2, %0"
				 : "=m"(buf)
				 : "r"(ecam));
		ok(buf[0] == *mmio(ecam) && buf[1] == *mmio(ecam + 4) &&
			   buf[2] == *mmio(ecam + 8) &&
			   buf[3] == *mmio(ecam + 12),
		   "c2_sixteen_bytes_at_once");
		__asm__ volatile("pxor %%xmm2, %%xmm2; por (%1), %%xmm2;"
				 "movups %%xmm2, %0"
				 : "=m"(buf)
				 : "r"(ecam));
		ok(buf[0] == *mmio(ecam) && buf[3] == *mmio(ecam + 12),
		   "c2_an_operand_in_device_memory");
	}
	__asm__ volatile("movups (%1), %%xmm0; movups %%xmm0, %0"
			 : "=m"(v)
			 : "r"(0xd0000000ULL));
	ok(v[0] == ~0ULL && v[1] == ~0ULL, "b9_all_ones_without_a_device");
	was = *rom;
	__asm__ volatile("pxor %%xmm0, %%xmm0; movups %%xmm0, %0"
			 : "=m"(*(uint64_t(*)[2])rom));
	ok(*rom == was, "b10_a_store_to_rom_is_dropped");
}

void guest_main(void)
{
	test_eight_bytes();
	test_sixteen_bytes();
}
