/* Ports and device memory: every size, string instructions, faults in their
 * midst, what nobody answers for (C1, C2, B9, B10). */
#include "lib/pc.h"

#define GVA     0x40000000ULL /* page, then nothing */
#define SCRATCH 0xfed00128ULL /* the HPET's comparator 1: 64 bits */

static uint8_t page[4096] __attribute__((aligned(4096)));
static uint32_t buf[64];
extern uint64_t start_info;

struct regs {
	uint64_t a, c, s, d;
};

/* Run (insns) on port (p) with (r), which is updated as far as it got. The
 * vector of the exception, or -1. */
#define STRING(insns, p, r)                                                 \
	({                                                                  \
		int64_t v_ = -1;                                            \
		__asm__ volatile("lea 1f(%%rip), %%r8\n\t"                  \
				 "mov %%r8, trap_resume\n\t" insns "\n\t"   \
				 "jmp 2f\n"                                 \
				 "1: mov last_trap+120, %[v]\n"             \
				 "2: movq $0, trap_resume\n\t"              \
				 "cld"                                      \
				 : [v] "+&r"(v_), "+a"((r).a), "+c"((r).c), \
				   "+S"((r).s), "+D"((r).d)                 \
				 : "d"((uint16_t)(p))                       \
				 : "r8", "memory", "cc");                   \
		(int)v_;                                                    \
	})

/* ---- ports --------------------------------------------------------------------- */

static void pci_select(unsigned devfn, unsigned reg)
{
	outl(0xcf8, 0x80000000 | devfn << 8 | (reg & 0xfc));
}

static void test_sizes(void)
{
	uint32_t id;

	pci_select(0, 0);
	id = inl(0xcfc);
	ok(id != 0xffffffff && (id & 0xffff) == 0x8086,
	   "c1_a_host_bridge_is_there (%x)", id);
	ok(inw(0xcfc) == (id & 0xffff) && inw(0xcfe) == id >> 16,
	   "c1_two_bytes_at_a_time");
	ok(inb(0xcfc) == (id & 0xff) && inb(0xcfd) == (id >> 8 & 0xff) &&
		   inb(0xcfe) == (id >> 16 & 0xff) && inb(0xcff) == id >> 24,
	   "c1_one_byte_at_a_time");
	ok(inl(0xcf8) == 0x80000000, "c1_the_address_register_reads_back");
	outb(0xcf8, 0x40);
	ok(inl(0xcf8) == 0x80000000, "c1_it_takes_four_bytes_alone");
	outb(0x70, 0x50);
	outb(0x71, 0x5a);
	outb(0x70, 0x51);
	outb(0x71, 0xa5);
	outb(0x70, 0x50);
	ok(inb(0x71) == 0x5a, "c1_cmos_keeps_a_byte");
	outw(0x70, 0x3350);
	outb(0x70, 0x50);
	ok(inb(0x71) == 0x33, "c1_a_word_to_two_ports_is_two_bytes");
	ok(inb(0x2f0) == 0xff && inw(0x2f0) == 0xffff &&
		   inl(0x2f0) == 0xffffffff,
	   "b9_a_port_without_a_device_reads_all_ones");
	outl(0x2f0, 0);
	ok(true, "b9_and_drops_what_is_written");
}

/* Channel 2 of the PIT stands still at 0x1234: reads give 34, 12, 34, ... */
static void pit_still(void)
{
	outb(0x61, inb(0x61) & ~3);
	outb(0x43, 0xb0);
	outb(0x42, 0x34);
	outb(0x42, 0x12);
}

static void test_ins(void)
{
	uint8_t *b = (uint8_t *)buf;
	struct regs r;

	pit_still();
	r = (struct regs){ 0, 5, 0, (uint64_t)b };
	ok(STRING("rep insb", 0x42, r) == -1 && r.c == 0 &&
		   r.d == (uint64_t)b + 5,
	   "c1_rep_insb_counts");
	ok(b[0] == 0x34 && b[1] == 0x12 && b[2] == 0x34 && b[4] == 0x34,
	   "c1_rep_insb_reads_in_order");
	pit_still();
	r = (struct regs){ 0, 4, 0, (uint64_t)b + 3 };
	STRING("std; rep insb", 0x42, r);
	ok(b[3] == 0x34 && b[2] == 0x12 && b[0] == 0x12 &&
		   r.d == (uint64_t)b - 1,
	   "c1_rep_insb_backwards");
	pci_select(0, 0);
	r = (struct regs){ 0, 16, 0, (uint64_t)buf };
	STRING("rep insl", 0xcfc, r);
	ok(buf[0] == inl(0xcfc) && buf[15] == buf[0] &&
		   r.d == (uint64_t)(buf + 16),
	   "c1_rep_insl");
	r = (struct regs){ 0, 3, 0, (uint64_t)buf };
	STRING("rep insw", 0xcfe, r);
	ok(buf[0] == (buf[1] & 0xffff) * 0x10001 && r.d == (uint64_t)buf + 6,
	   "c1_rep_insw");

	/* The page ends after three bytes; nothing read is lost. */
	pit_still();
	memset(page, 0, sizeof(page));
	r = (struct regs){ 0, 6, 0, GVA + 4093 };
	ok(STRING("rep insb", 0x42, r) == 14 && last_cr2 == GVA + 4096 &&
		   last_trap.error == 2,
	   "c1_rep_insb_faults_where_memory_ends");
	ok(r.c == 3 && r.d == GVA + 4096, "c1_it_stopped_exactly (%lu)", r.c);
	ok(page[4093] == 0x34 && page[4094] == 0x12 && page[4095] == 0x34,
	   "c1_what_it_read_is_there");
	r.d = (uint64_t)b;
	ok(STRING("rep insb", 0x42, r) == -1 && b[0] == 0x12 && b[1] == 0x34,
	   "c1_it_goes_on_without_a_loss");
	r = (struct regs){ 0, 0, 0, GVA + 4096 };
	ok(STRING("rep insb", 0x42, r) == -1, "c1_a_count_of_zero_is_nothing");
}

static void test_outs(void)
{
	static const uint8_t text[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
	struct regs r;
	uint8_t *end = page + 4096;

	pci_select(0x1f << 3, 0x3c); /* the ISA bridge's interrupt line */
	r = (struct regs){ 0, 5, (uint64_t)text, 0 };
	ok(STRING("rep outsb", 0xcfc, r) == -1 && r.c == 0 &&
		   r.s == (uint64_t)text + 5 && inb(0xcfc) == 5,
	   "c1_rep_outsb_counts_and_writes");
	r = (struct regs){ 0, 4, (uint64_t)text + 7, 0 };
	STRING("std; rep outsb", 0xcfc, r);
	ok(r.s == (uint64_t)text + 3 && inb(0xcfc) == 5,
	   "c1_rep_outsb_backwards");
	r = (struct regs){ 0, 2, (uint64_t)text, 0 };
	STRING("rep outsl", 0xcfc, r);
	ok(r.s == (uint64_t)text + 8 && inb(0xcfc) == 5, "c1_rep_outsl");
	end[-3] = 0x21;
	end[-2] = 0x22;
	end[-1] = 0x23;
	r = (struct regs){ 0, 6, GVA + 4093, 0 };
	ok(STRING("rep outsb", 0xcfc, r) == 14 && last_cr2 == GVA + 4096 &&
		   last_trap.error == 0,
	   "c1_rep_outsb_faults_where_memory_ends");
	ok(r.c == 3 && r.s == GVA + 4096 && inb(0xcfc) == 0x23,
	   "c1_it_wrote_what_there_was");
	outb(0xcfc, 0);
}

/* ---- PCI configuration space ------------------------------------------------------ */

static void test_ecam(void)
{
	uint64_t ecam = acpi_ecam();
	unsigned found = 0, bad = 0;
	volatile uint8_t *line = (void *)(ecam + (0x1f << 15) + 0x3c);
	uint32_t id;

	if (!ok(ecam != 0, "c2_mcfg_names_ecam (%lx)", ecam))
		return;
	for (unsigned devfn = 0; devfn < 256; devfn++) {
		for (unsigned reg = 0; reg < 64; reg += 4) {
			uint32_t v;

			pci_select(devfn, reg);
			v = inl(0xcfc);
			bad += v != *mmio(ecam + (devfn << 12) + reg);
			found += !reg && v != 0xffffffff;
			if (v == 0xffffffff)
				break;
		}
	}
	ok(found >= 2 && !bad, "c2_ecam_and_cf8_agree (%u functions)", found);
	id = *mmio(ecam);
	ok(*(volatile uint16_t *)(ecam + 2) == id >> 16 &&
		   *(volatile uint8_t *)(ecam + 1) == (id >> 8 & 0xff),
	   "c2_ecam_in_smaller_sizes");
	*line = 0x0b;
	pci_select(0x1f << 3, 0x3c);
	ok(inb(0xcfc) == 0x0b, "c2_written_by_ecam_and_read_by_cf8");
	outb(0xcfc, 0x0a);
	ok(*line == 0x0a, "c2_and_the_other_way");
	*line = 0;
}

/* ---- device memory by every instruction -------------------------------------------- */

static void test_mmio(void)
{
	volatile uint64_t *reg = (void *)SCRATCH;
	volatile uint32_t *low = mmio(SCRATCH);
	uint64_t v, old, hi;
	uint8_t flag;

	*(volatile uint64_t *)0xfed00010 = 0; /* the HPET stands */
	*(volatile uint64_t *)0xfed00120 = 0;
	*reg = 0x1122334455667788;
	ok(*reg == 0x1122334455667788, "c2_eight_bytes");
	ok(low[0] == 0x55667788 && low[1] == 0x11223344, "c2_four_bytes");
	low[1] = 0xaabbccdd;
	ok(*reg == 0xaabbccdd55667788, "c2_half_a_register");
	*reg = 0x1000;
	__asm__ volatile("lock addl $5, %0" : "+m"(*low)::"cc");
	ok(*reg == 0x1005, "c2_lock_add");
	__asm__ volatile("lock incq %0" : "+m"(*reg)::"cc");
	ok(*reg == 0x1006, "c2_lock_inc");
	__asm__ volatile("orl $0x70000, %0; andl $~4, %0; xorl $1, %0; subl "
			 "$1, %0; negl %0; notl %0"
			 : "+m"(*low)::"cc");
	ok(*low == 0x71001, "c2_read_modify_write (%x)", *low);
	v = 0x4242;
	__asm__ volatile("xchgq %0, %1" : "+r"(v), "+m"(*reg)::"memory");
	ok(v == 0x71001 && *reg == 0x4242, "c2_xchg");
	v = 8;
	__asm__ volatile("lock xaddl %k0, %1" : "+r"(v), "+m"(*low)::"cc");
	ok(v == 0x4242 && *low == 0x424a, "c2_lock_xadd");
	old = 0x424a;
	v = 0x999;
	__asm__ volatile("lock cmpxchgq %3, %1; setz %2"
			 : "+a"(old), "+m"(*reg), "=q"(flag)
			 : "r"(v)
			 : "cc");
	ok(flag && *reg == 0x999, "c2_lock_cmpxchg");
	old = 1;
	__asm__ volatile("lock cmpxchgq %3, %1; setz %2"
			 : "+a"(old), "+m"(*reg), "=q"(flag)
			 : "r"(v)
			 : "cc");
	ok(!flag && old == 0x999 && *reg == 0x999, "c2_cmpxchg_that_fails");
	__asm__ volatile("lock btsl $30, %0; setc %1"
			 : "+m"(*low), "=q"(flag)::"cc");
	ok(!flag && *low == 0x40000999, "c2_lock_bts");
	__asm__ volatile("shll $1, %0; rorl $4, %0" : "+m"(*low)::"cc");
	ok(*low == 0x28000133, "c2_shifts (%x)", *low);
	*reg = 0xfffffffffffffff0;
	__asm__ volatile("movslq %1, %0" : "=r"(v) : "m"(*low));
	ok(v == 0xfffffffffffffff0, "c2_movsx");
	__asm__ volatile("movl %1, %%eax; mull %1"
			 : "=d"(hi)
			 : "m"(*low)
			 : "rax", "cc");
	ok((uint32_t)hi == 0xffffffe0, "c2_mul_from_memory");
	__asm__ volatile("pushq %1; popq %0" : "=r"(v) : "m"(*reg));
	ok(v == *reg, "c2_push_from_device_memory");
	__asm__ volatile("pushq %1; popq %0" : "=m"(*reg) : "r"(0x1234567ULL));
	ok(*reg == 0x1234567, "c2_pop_to_device_memory");
	__asm__ volatile("cmpq $0x1234567, %1; setz %0"
			 : "=q"(flag)
			 : "m"(*reg)
			 : "cc");
	ok(flag, "c2_cmp");
	__asm__ volatile("testl $0x1000000, %1; setnz %0"
			 : "=q"(flag)
			 : "m"(*low)
			 : "cc");
	ok(flag, "c2_test");
}

static void test_string_mmio(void)
{
	uint64_t ecam = acpi_ecam();
	struct regs r;
	unsigned bad = 0;

	r = (struct regs){ 0, 16, ecam, (uint64_t)buf };
	STRING("rep movsl", 0, r);
	for (unsigned i = 0; i < 16; i++)
		bad += buf[i] != *mmio(ecam + 4 * i);
	ok(!bad && r.s == ecam + 64, "c2_rep_movs_from_device_memory");
	buf[0] = 0x77665544;
	buf[1] = 0x33221100;
	r = (struct regs){ 0, 2, (uint64_t)buf, SCRATCH };
	STRING("rep movsl", 0, r);
	ok(*(volatile uint64_t *)SCRATCH == 0x3322110077665544,
	   "c2_rep_movs_to_device_memory");
	r = (struct regs){ 0x5050, 2, 0, SCRATCH };
	STRING("rep stosl", 0, r);
	ok(*(volatile uint64_t *)SCRATCH == 0x0000505000005050,
	   "c2_rep_stos_to_device_memory");
	r = (struct regs){ 0, 2, SCRATCH, 0 };
	STRING("rep lodsl", 0, r);
	ok(r.a == 0x5050, "c2_rep_lods_from_device_memory");
	r = (struct regs){ 0, 2, (uint64_t)buf, SCRATCH };
	buf[0] = 0x5050;
	buf[1] = 1;
	STRING("repe cmpsl; setc %%al", 0, r);
	ok(r.c == 0 && (uint8_t)r.a == 1, "c2_rep_cmps_with_device_memory");
}

/* ---- nobody there ------------------------------------------------------------------- */

/* The end of RAM below 4 GiB, from the memory map of PVH; 0: not told. */
static uint64_t ram_end(void)
{
	const uint32_t *info = (const uint32_t *)start_info;
	const uint64_t *map;
	uint64_t end = 0;

	if (info[1] < 1)
		return 0;
	map = (const uint64_t *)(info[10] | (uint64_t)info[11] << 32);
	for (unsigned i = 0; i < info[12]; i++, map += 3)
		if ((uint32_t)map[2] == 1 && map[0] < 1ULL << 32 &&
		    map[0] + map[1] > end)
			end = map[0] + map[1];
	return end;
}

static void test_unmapped(void)
{
	volatile uint64_t *hole = (void *)0xd0000000, *last;
	uint64_t end = ram_end();

	ok(*hole == ~0ULL && *(volatile uint32_t *)hole == 0xffffffff &&
		   *(volatile uint16_t *)hole == 0xffff &&
		   *(volatile uint8_t *)hole == 0xff,
	   "b9_memory_without_a_device_reads_all_ones");
	*hole = 0;
	__asm__ volatile("lock incl %0"
			 : "+m"(*(volatile uint32_t *)hole)::"cc");
	ok(*hole == ~0ULL, "b9_and_drops_what_is_written");
	if (!end || end >= 0xc0000000)
		return;
	last = (void *)(end - 4);
	*(volatile uint32_t *)last = 0x600d;
	ok(*last == 0xffffffff0000600d,
	   "b9_across_the_end_of_ram_each_half_has_its_own (%lx)", *last);
	*last = 0x1111111122222222;
	ok(*(volatile uint32_t *)last == 0x22222222,
	   "b9_a_store_across_the_end_keeps_its_half");
	/* A page table out there is no page table. */
	pml4[300] = end | 7;
	ok(TRAP_OF("mov (%[p]), %%rax", [p] "r"(0xffff960000000000)) == 14,
	   "b9_a_page_table_without_memory_faults");
	pml4[300] = 0;
}

static void test_rom(void)
{
	volatile uint64_t *rom = (void *)0xfffffff0;
	uint64_t was = *rom;
	struct regs r;

	*rom = ~was;
	ok(*rom == was, "b10_a_write_to_rom_is_dropped");
	__asm__ volatile("lock incq %0; lock xaddq %1, %0"
			 : "+m"(*rom)
			 : "r"(5ULL)
			 : "cc");
	ok(*rom == was, "b10_a_locked_one_too");
	r = (struct regs){ ~was, 1, 0, (uint64_t)rom };
	STRING("rep stosq", 0, r);
	ok(*rom == was && r.c == 0, "b10_a_string_of_them_too");
}

void guest_main(void)
{
	page_map(GVA, (uint64_t)page, 3);
	page_map(GVA + 4096, 0, 0);
	pic_init(0x20);
	test_sizes();
	test_ins();
	test_outs();
	test_ecam();
	test_mmio();
	test_string_mmio();
	test_unmapped();
	test_rom();
}
