#include "guest.h"

#include <stdarg.h>

#define DEBUG_PORT 0xe9
#define EXIT_PORT  0x501

struct trap_frame last_trap;
uint64_t last_cr2, trap_resume;
uint64_t idt[512] __attribute__((aligned(16)));
uint8_t tss[104 + 8193] __attribute__((aligned(16)));

static void (*handlers[256])(struct trap_frame *f);
static unsigned nr_tests, nr_failed;
static uint8_t user_stack[16384] __attribute__((aligned(16)));
static uint8_t kernel_stack[16384] __attribute__((aligned(16)));
static volatile bool in_user;
static void (*volatile ap_fn)(void);
static volatile bool ap_is_up;
static uint8_t ap_stacks[8][8192] __attribute__((aligned(16)));

extern uint8_t ap_trampoline[], ap_trampoline_end[], user_return[];
extern uint64_t ap_stack;
extern uint64_t gdt_pointer[];
int64_t user_call(int64_t (*fn)(void), uint64_t cs, uint64_t ss, void *stack);
void guest_start(void);
void ap_main(void);
void trap_handle(struct trap_frame *f);

void *memcpy(void *to, const void *from, size_t n)
{
	void *r = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
	return r;
}

void *memset(void *to, int c, size_t n)
{
	void *r = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return r;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const uint8_t *p = a, *q = b;

	for (; n && *p == *q; n--)
		p++, q++;
	return n ? *p - *q : 0;
}

/* ---- output --------------------------------------------------------------- */

static void put(char c)
{
	outb(DEBUG_PORT, (uint8_t)c);
}

static void put_text(const char *s)
{
	while (*s)
		put(*s++);
}

static void put_number(uint64_t v, unsigned base)
{
	char buf[24];
	int n = 0;

	do
		buf[n++] = "0123456789abcdef"[v % base];
	while (v /= base);
	while (n)
		put(buf[--n]);
}

/* %s %c %d %u %x, each also with l or ll (a 64-bit value). */
static void put_format(const char *fmt, va_list ap)
{
	for (; *fmt; fmt++) {
		bool is_long = false;
		uint64_t v;

		if (*fmt != '%') {
			put(*fmt);
			continue;
		}
		while (*++fmt == 'l')
			is_long = true;
		if (*fmt == 's') {
			put_text(va_arg(ap, const char *));
			continue;
		}
		if (*fmt == 'd') {
			int64_t d =
				is_long ? va_arg(ap, int64_t) : va_arg(ap, int);

			if (d < 0)
				put('-');
			put_number(d < 0 ? -(uint64_t)d : (uint64_t)d, 10);
			continue;
		}
		v = is_long ? va_arg(ap, uint64_t) : va_arg(ap, unsigned);
		if (*fmt == 'c')
			put((char)v);
		else
			put_number(v, *fmt == 'x' ? 16 : 10);
	}
}

bool ok(bool good, const char *fmt, ...)
{
	va_list ap;

	put_text(good ? "ok " : "not ok ");
	put_number(++nr_tests, 10);
	put_text(" - ");
	va_start(ap, fmt);
	put_format(fmt, ap);
	va_end(ap);
	put('\n');
	nr_failed += !good;
	return good;
}

void note(const char *fmt, ...)
{
	va_list ap;

	put_text("# ");
	va_start(ap, fmt);
	put_format(fmt, ap);
	va_end(ap);
	put('\n');
}

void guest_exit(unsigned value)
{
	outl(EXIT_PORT, value);
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* ---- traps ------------------------------------------------------------------ */

void trap_set(unsigned vector, void (*fn)(struct trap_frame *f))
{
	handlers[vector] = fn;
}

static void leave_user(struct trap_frame *f, int64_t result)
{
	in_user = false;
	f->rax = (uint64_t)result;
	f->rip = (uint64_t)user_return;
	f->cs = KERNEL_CS;
	f->ss = KERNEL_DS;
	f->rflags = 2;
	f->rsp = (uint64_t)kernel_stack;
}

void trap_handle(struct trap_frame *f)
{
	if (handlers[f->vector]) {
		handlers[f->vector](f);
		return;
	}
	last_trap = *f;
	last_cr2 = read_cr2();
	if (in_user) {
		leave_user(f, f->vector == 0x80 ? (int64_t)f->rax
						: -1000 - (int64_t)f->vector);
		return;
	}
	if (f->vector < 32 && trap_resume) {
		f->rip = trap_resume;
		return;
	}
	note("vector %lu error 0x%lx at 0x%lx, cr2 0x%lx", f->vector, f->error,
	     f->rip, read_cr2());
	put_text("Bail out! unexpected trap\n");
	guest_exit(99);
}

void idt_set(unsigned vector, void *entry, unsigned dpl, unsigned ist,
	     unsigned type)
{
	uint64_t a = (uint64_t)entry;

	idt[vector * 2] = (a & 0xffff) | (uint64_t)KERNEL_CS << 16 |
			  (uint64_t)(ist & 7) << 32 |
			  (uint64_t)(0x80 | dpl << 5 | type) << 40 |
			  (a >> 16 & 0xffff) << 48;
	idt[vector * 2 + 1] = a >> 32;
}

static void load_idt(void)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} p = { sizeof(idt) - 1, (uint64_t)idt };

	__asm__ volatile("lidt %0" ::"m"(p));
}

static void tables_init(void)
{
	uint64_t base = (uint64_t)tss, limit = sizeof(tss) - 1;

	for (unsigned i = 0; i < 256; i++)
		idt_set(i, trap_stubs + 16 * i, i == 0x80 ? 3 : 0, 0, 14);
	load_idt();
	*(uint64_t *)(void *)(tss + 4) =
		(uint64_t)kernel_stack + sizeof(kernel_stack);
	*(uint16_t *)(void *)(tss + 102) = sizeof(tss); /* no I/O map */
	gdt[TSS_SEL / 8] = (limit & 0xffff) | (base & 0xffffff) << 16 |
			   0x89ULL << 40 | (base >> 24 & 0xff) << 56;
	gdt[TSS_SEL / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" ::"r"(TSS_SEL));
}

/* ---- privilege, CPUs, pages ---------------------------------------------------- */

int64_t user_run(int64_t (*fn)(void), uint16_t cs, uint16_t ss)
{
	/* fn returns to this, which gives its result back by INT 0x80. */
	static const uint8_t ret_code[] = { 0xcd, 0x80 };
	uint64_t *top = (void *)(user_stack + sizeof(user_stack) - 16);

	*--top = (uint64_t)ret_code;
	in_user = true;
	return user_call(fn, cs, ss, top);
}

void ap_main(void)
{
	load_idt();
	ap_is_up = true;
	ap_fn();
	for (;;)
		__asm__ volatile("cli; hlt");
}

static void icr_write(uint32_t id, uint32_t low)
{
	volatile uint32_t *apic = mmio(0xfee00000);

	if (rdmsr(0x1b) & 0x400) {
		wrmsr(0x830, (uint64_t)id << 32 | low);
		return;
	}
	apic[0x310 / 4] = id << 24;
	apic[0x300 / 4] = low;
	while (apic[0x300 / 4] & 0x1000)
		;
}

bool cpu_start(unsigned id, void (*fn)(void))
{
	memcpy((void *)0x8000, ap_trampoline,
	       (size_t)(ap_trampoline_end - ap_trampoline));
	ap_is_up = false;
	ap_fn = fn;
	ap_stack = (uint64_t)ap_stacks[id & 7] + sizeof(ap_stacks[0]);
	icr_write(id, 0x4500); /* INIT */
	for (volatile int i = 0; i < 100000; i++)
		;
	icr_write(id, 0x4608); /* SIPI to 0x8000 */
	for (uint64_t i = 0; i < 400000000 && !ap_is_up; i++)
		__asm__ volatile("pause");
	return ap_is_up;
}

void page_map(uint64_t gva, uint64_t gpa, uint64_t flags)
{
	static uint64_t pool[32][512] __attribute__((aligned(4096)));
	static unsigned used;
	uint64_t *table = pml4;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = &table[gva >> shift & 511];

		if (!(*e & 1) || (*e & 0x80)) {
			uint64_t *next = pool[used++ % 32];

			for (unsigned i = 0; i < 512; i++)
				next[i] =
					*e & 1 ? (*e & ~0x80ULL) + i * 4096 : 0;
			*e = (uint64_t)next | 7;
		}
		table = (void *)(*e & 0xffffffffff000ULL);
	}
	table[gva >> 12 & 511] = gpa | flags;
	invlpg(gva);
}

void guest_start(void)
{
	tables_init();
	guest_main();
	put_text("1..");
	put_number(nr_tests, 10);
	put('\n');
	guest_exit(nr_failed ? 1 : 0);
}
