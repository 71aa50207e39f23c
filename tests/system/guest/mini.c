/*
 * A guest in 4 KiB for what is around a machine: a multiboot kernel whose
 * command line is its program, words separated by spaces. It prints to COM1.
 *
 *	info          what the boot loader gave it
 *	say W, com2 W, debug W    print W to COM1, COM2 or the debug console
 *	echo          give back what COM1 receives, until a 'q'
 *	count         count at 0x2000 for ever
 *	fill H        fill 0x1000 to 0x2000 with the byte H, then watch it
 *	clocks        print the clocks side by side, again and again
 *	button        sleep until the power button, then power off
 *	exit V, poweroff, reset, kbdreset, triple, panic, nowhere, hang
 */
#include <stdint.h>

#define COM1 0x3f8
#define COM2 0x2f8
#define PM   0x600 /* ACPI: event at 0, control at 4, timer at 8 */

/* With PLAIN the header says where everything goes, and no ELF is needed. */
#ifdef PLAIN
#define HEADER                                                 \
	".long 0x1badb002, 0x10002, -(0x1badb002 + 0x10002)\n" \
	".long header, 0x100000, data_end, bss_end, start\n"
#else
#define HEADER ".long 0x1badb002, 2, -(0x1badb002 + 2)\n"
#endif
__asm__(".section .multiboot, \"a\"\nheader:\n" HEADER ".text\n"
	".globl start\nstart:\n"
	"mov $stack + 8192, %esp\n"
	"push %ebx\n"
	"push %eax\n"
	"call mini\n");

struct info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline;
	uint32_t mods_count, mods_addr, syms[4];
	uint32_t mmap_length, mmap_addr, drives[2], config, loader_name;
};

struct module {
	uint32_t start, end, string, reserved;
};

struct mmap {
	uint32_t size;
	uint64_t base, len;
	uint32_t type;
} __attribute__((packed));

/* Xen's and KVM's struct pvclock_vcpu_time_info. */
struct pvclock {
	uint32_t version, pad;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

char stack[8192] __attribute__((aligned(16)));
static struct pvclock pvclock __attribute__((aligned(64)));
void mini(uint32_t magic, const struct info *info);

static void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static void outw(uint16_t port, uint16_t v)
{
	__asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port));
}
static void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static uint8_t inb(uint16_t port)
{
	uint8_t v;

	__asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static uint16_t inw(uint16_t port)
{
	uint16_t v;

	__asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}
static uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port));
	return v;
}

/* ---- text ------------------------------------------------------------------ */

static void put(uint16_t port, char c)
{
	if (port == COM1 || port == COM2)
		while (!(inb(port + 5) & 0x20))
			;
	outb(port, (uint8_t)c);
}

/* Up to a space or the end of the text. */
static void put_word(uint16_t port, const char *s)
{
	while (*s && *s != ' ')
		put(port, *s++);
}

static void print(const char *s)
{
	while (*s)
		put(COM1, *s++);
}

static void print_hex(uint64_t v)
{
	print(" 0x");
	for (int shift = 60; shift >= 0; shift -= 4)
		if (v >> shift || !shift)
			put(COM1, "0123456789abcdef"[v >> shift & 15]);
}

static uint32_t number(const char *s, unsigned base)
{
	uint32_t v = 0;

	for (; *s && *s != ' '; s++)
		v = v * base + (uint32_t)(*s <= '9' ? *s - '0' : *s - 'a' + 10);
	return v;
}

static int is_word(const char *s, const char *word)
{
	while (*word && *s == *word)
		s++, word++;
	return !*word && (!*s || *s == ' ');
}

/* ---- what it can do ---------------------------------------------------------- */

static void print_info(uint32_t magic, const struct info *info)
{
	const struct module *m = (const void *)info->mods_addr;
	const char *at = (const char *)info->mmap_addr;

	print("magic");
	print_hex(magic);
	print(" flags");
	print_hex(info->flags);
	print(" lower");
	print_hex(info->mem_lower);
	print(" upper");
	print_hex(info->mem_upper);
	print("\ncommand line: ");
	print((const char *)info->cmdline);
	print("\nloader: ");
	print((const char *)info->loader_name);
	for (uint32_t i = 0; i < info->mods_count; i++) {
		uint32_t sum = 0;

		for (const uint8_t *p = (const uint8_t *)m[i].start;
		     p < (const uint8_t *)m[i].end; p++)
			sum += *p;
		print("\nmodule: ");
		print((const char *)m[i].string);
		print(": bytes");
		print_hex(m[i].end - m[i].start);
		print(" sum");
		print_hex(sum);
		print(m[i].start % 4096 ? " unaligned" : " aligned");
	}
	while (at < (const char *)info->mmap_addr + info->mmap_length) {
		const struct mmap *e = (const void *)at;

		print("\nmemory:");
		print_hex(e->base);
		print_hex(e->len);
		print_hex(e->type);
		at += e->size + 4;
	}
	print("\n");
}

static void echo(void)
{
	char c;

	print("echo:\n");
	do {
		while (!(inb(COM1 + 5) & 1))
			;
		c = (char)inb(COM1);
		put(COM1, c);
	} while (c != 'q');
	print("\n");
}

static void fill(uint8_t pattern)
{
	volatile uint8_t *page = (volatile uint8_t *)0x1000;

	for (unsigned i = 0; i < 4096; i++)
		page[i] = pattern;
	print("filled\n");
	for (;;)
		for (unsigned i = 0; i < 4096; i++)
			if (page[i] != pattern) {
				print("another wrote here\n");
				page[i] = pattern;
			}
}

static uint64_t rdtsc(void)
{
	uint64_t v;

	__asm__ volatile("rdtsc" : "=A"(v));
	return v;
}

static void wrmsr(uint32_t msr, uint32_t v)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"(v), "d"(0));
}

static uint64_t pvclock_ns(uint64_t tsc)
{
	volatile struct pvclock *p = &pvclock;
	uint64_t delta, ns;
	uint32_t version;

	do {
		version = p->version;
		delta = tsc - p->tsc;
		if (p->shift >= 0)
			delta <<= p->shift;
		else
			delta >>= -p->shift;
		ns = p->ns + (delta >> 32) * p->mul +
		     ((delta & 0xffffffff) * p->mul >> 32);
	} while ((version & 1) || version != p->version);
	return ns;
}

/* Lines "clocks: kvm-clock-ns tsc pm-timer": the PM timer's ticks, counted on
 * over its 24 bits, are at the same moment as the TSC within 100 us. */
static void clocks(void)
{
	uint32_t last = 0, first, printed = 0;
	uint64_t ticks = 0, tsc;

	wrmsr(0x4b564d01, (uint32_t)&pvclock | 1);
	for (;;) {
		first = inl(PM + 8) & 0xffffff;
		tsc = rdtsc();
		ticks += (first - last) & 0xffffff;
		last = first;
		if (((inl(PM + 8) - first) & 0xffffff) > 358 ||
		    (uint32_t)ticks - printed < 500000)
			continue;
		printed = (uint32_t)ticks;
		print("clocks:");
		print_hex(pvclock_ns(tsc));
		print_hex(tsc);
		print_hex(ticks);
		print("\n");
	}
}

static void button(void)
{
	outb(0xb2, 2); /* ACPI on */
	outw(PM, 0xffff);
	print("waiting\n");
	while (!(inw(PM) & 0x100))
		;
	print("the power button\n");
	outw(PM + 4, 0x2000);
}

static void triple(void)
{
	static const uint16_t no_idt[3];

	__asm__ volatile("lidt %0; int3" ::"m"(no_idt));
}

static void run(const char *s, uint32_t magic, const struct info *info)
{
	const char *arg = s;

	while (*arg && *arg != ' ')
		arg++;
	while (*arg == ' ')
		arg++;
	if (is_word(s, "info")) {
		print_info(magic, info);
	} else if (is_word(s, "say")) {
		put_word(COM1, arg);
		print("\n");
	} else if (is_word(s, "com2")) {
		put_word(COM2, arg);
		put(COM2, '\n');
	} else if (is_word(s, "debug")) {
		put_word(0xe9, arg);
		put(0xe9, '\n');
	} else if (is_word(s, "echo")) {
		echo();
	} else if (is_word(s, "count")) {
		for (;;)
			++*(volatile uint64_t *)0x2000;
	} else if (is_word(s, "fill")) {
		fill((uint8_t)number(arg, 16));
	} else if (is_word(s, "clocks")) {
		clocks();
	} else if (is_word(s, "button")) {
		button();
	} else if (is_word(s, "exit")) {
		outl(0x501, number(arg, 10));
	} else if (is_word(s, "poweroff")) {
		outw(PM + 4, 0x2000);
	} else if (is_word(s, "reset")) {
		outb(0xcf9, 6);
	} else if (is_word(s, "kbdreset")) {
		outb(0x64, 0xfe);
	} else if (is_word(s, "triple")) {
		triple();
	} else if (is_word(s, "panic")) {
		outb(0x505, 1);
	} else if (is_word(s, "nowhere")) {
		*(volatile uint32_t *)0xd0000000 = 1;
		print("nothing happened\n");
	} else if (is_word(s, "hang")) {
		for (;;)
			__asm__ volatile("cli; hlt");
	}
}

void mini(uint32_t magic, const struct info *info)
{
	for (const char *s = (const char *)info->cmdline; *s; s++)
		if (*s == ' ')
			run(s + 1, magic, info);
	for (;;)
		__asm__ volatile("cli; hlt");
}
