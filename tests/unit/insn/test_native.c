/*
 * Native emulation against the real thing: instructions are run by a stub and,
 * as they are, by a trampoline that loads all registers; general registers,
 * flags, the XSAVE image and memory must come out the same, or both must fault.
 * Built with -mgeneral-regs-only, so that the FPU registers stay what the test
 * made them.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cpuid.h>
#include <sys/mman.h>

#include "vcpu/insn/native.h"
#include "vcpu/insn/native_encode.h"

/* x87, SSE, AVX, AVX-512; set to what the host has */
static uint64_t xsave_mask = 0xe7;

/** What an instruction sees and leaves, but for memory. */
struct machine {
	uint64_t gpr[NR_GPR];
	uint64_t flags;
	uint8_t *code;
	uint64_t host_rsp, tmp;
	uint8_t xsave[4096] __attribute__((aligned(64))); /* before */
	uint8_t after[4096] __attribute__((aligned(64)));
};

/* Runs (m)->code, which ends in a jump to machine_back, with (m)'s registers. */
void machine_run(struct machine *m, uint64_t mask);
void machine_back(void);
struct machine *machine_current;

__asm__(".text\n"
	"machine_run:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push "
	"%r15\n"
	"	mov %rdi, machine_current(%rip)\n"
	"	push %rsi\n"
	"	mov %rsp, 144(%rdi)\n"
	"	mov %esi, %eax\n"
	"	xor %edx, %edx\n"
	"	xrstor64 192(%rdi)\n"
	"	push 128(%rdi)\n"
	"	popfq\n"
	"	mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx\n"
	"	mov 24(%rdi), %rbx; mov 32(%rdi), %rsp; mov 40(%rdi), %rbp\n"
	"	mov 48(%rdi), %rsi; mov 64(%rdi), %r8; mov 72(%rdi), %r9\n"
	"	mov 80(%rdi), %r10; mov 88(%rdi), %r11; mov 96(%rdi), %r12\n"
	"	mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
	"	push %rax\n" /* RSP: a few bytes of stack */
	"	mov 136(%rdi), %rax\n"
	"	mov 56(%rdi), %rdi\n"
	"	xchg %rax, (%rsp)\n"
	"	ret\n"
	"machine_back:\n"
	"	xchg %rax, machine_current(%rip)\n"
	"	mov %rcx, 8(%rax); mov %rdx, 16(%rax); mov %rbx, 24(%rax)\n"
	"	mov %rsp, 32(%rax); mov %rbp, 40(%rax); mov %rsi, 48(%rax)\n"
	"	mov %rdi, 56(%rax); mov %r8, 64(%rax); mov %r9, 72(%rax)\n"
	"	mov %r10, 80(%rax); mov %r11, 88(%rax); mov %r12, 96(%rax)\n"
	"	mov %r13, 104(%rax); mov %r14, 112(%rax); mov %r15, 120(%rax)\n"
	"	mov %rax, %rdi\n"
	"	mov machine_current(%rip), %rax\n"
	"	mov %rax, 0(%rdi)\n"
	"	mov 144(%rdi), %rsp\n"
	"	pushfq\n"
	"	pop 128(%rdi)\n"
	"	pop %rax\n"
	"	xor %edx, %edx\n"
	"	xsave64 4288(%rdi)\n"
	"	cld\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

_Static_assert(offsetof(struct machine, flags) == 128, "machine_run");
_Static_assert(offsetof(struct machine, code) == 136, "machine_run");
_Static_assert(offsetof(struct machine, host_rsp) == 144, "machine_run");
_Static_assert(offsetof(struct machine, xsave) == 192, "machine_run");
_Static_assert(offsetof(struct machine, after) == 4288, "machine_run");

static void fpu_load(const uint8_t *image)
{
	__asm__ volatile("xrstor64 %0"
			 :
			 : "m"(*image), "a"((uint32_t)xsave_mask), "d"(0)
			 : "memory");
}

static void fpu_save(uint8_t *image)
{
	__asm__ volatile("xsave64 %0"
			 : "+m"(*image)
			 : "a"((uint32_t)xsave_mask), "d"(0)
			 : "memory");
}

/* ---- A page of memory, faults -------------------------------------------- */

static uint8_t *page;    /* operands of the real instruction; RSI points in */
static uint8_t *page2;   /* ... of the stub */
static uint8_t *code;    /* executable */
static uint8_t *no_page; /* no access */
static sigjmp_buf escape;
static volatile int caught; /* trap number */

static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	caught = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
	siglongjmp(escape, 1);
}

static struct native *native;

/* cmocka sets handlers for each test: ours come after, inside of it. */
static void begin(void)
{
	static uint8_t altstack[1 << 16];
	const stack_t ss = { .ss_sp = altstack, .ss_size = sizeof(altstack) };
	struct sigaction sa = {
		.sa_sigaction = on_signal,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER,
	};
	struct err err = { 0 };
	uint8_t *all = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(all != MAP_FAILED);
	page = all;
	page2 = all + 4096;
	code = all + 2 * 4096;
	no_page = all + 3 * 4096;
	mprotect(no_page, 4096, PROT_NONE);
	sigaltstack(&ss, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
	assert_int_equal(native_create(&native, &err), 0);
}

static void end(void)
{
	native_destroy(native);
	munmap(page, 4 * 4096);
}

/* ---- Comparing ----------------------------------------------------------- */

static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static void random_machine(struct machine *m)
{
	uint64_t *words = (uint64_t *)(void *)m->xsave;

	for (int n = 0; n < NR_GPR; n++)
		m->gpr[n] = random64() >> (random64() & 56);
	m->gpr[RSI] = (uint64_t)page + 1024;
	m->gpr[RDI] = 128;
	m->gpr[RSP] = (uint64_t)code + 3072;
	m->flags = 0x202 | (random64() & FLAGS_STATUS);
	for (int n = 0; n < 512; n++)
		words[n] = random64();
	/* legacy area: x87 control, status, tags; MXCSR; then the header */
	words[0] = 0x37f | (random64() & 7) << 27 | (random64() & 0xff) << 32;
	words[1] = words[2] = 0;
	words[3] = 0x1f80 | 0xffffULL << 32;
	for (int n = 0; n < 8; n++) /* x87 registers: often sane numbers */
		if (n & 1) {
			words[4 + 2 * n] |= 1ULL << 63;
			words[5 + 2 * n] = 0x3fff + (random64() & 31);
		}
	memset(m->xsave + 512, 0, 64);
	words[64] = xsave_mask;
}

/* What a run cannot determine: the addresses of the last x87 instruction, and
 * how the CPU stores components in their initial state. */
static void normalize(uint8_t *xsave)
{
	if (!(xsave[512] & 1)) {
		xsave[0] = 0x7f;
		xsave[1] = 0x03;
	}
	memset(xsave + 6, 0, 18);
	memset(xsave + 464, 0, 112);
}

/** How a comparison went. */
enum outcome { SAME, FAULTED, DIFFERENT };

static bool machines_equal(const struct machine *real,
			   const struct x86_state *st)
{
	return memcmp(real->gpr, st->gpr, sizeof(real->gpr)) == 0 &&
	       ((real->flags ^ st->rflags) & FLAGS_STATUS) == 0;
}

static int run_real(struct machine *m, const uint8_t *bytes, unsigned len)
{
	uint64_t back = (uint64_t)machine_back;

	memcpy(code, bytes, len);
	memcpy(code + len, "\xff\x25\0\0\0\0", 6); /* jmp [rip] */
	memcpy(code + len + 6, &back, 8);
	m->code = code;
	memset(m->after, 0, sizeof(m->after));
	caught = -1;
	if (sigsetjmp(escape, 1) == 0)
		machine_run(m, xsave_mask);
	return caught;
}

static uint64_t operand_offset(const struct insn *i, const struct machine *m)
{
	uint64_t gva = (uint64_t)i->disp;

	if (i->base != INSN_NONE)
		gva += m->gpr[i->base];
	if (i->index != INSN_NONE)
		gva += m->gpr[i->index] << i->scale_log2;
	return gva - (uint64_t)page;
}

static enum outcome compare(const struct insn *i,
			    const struct native_stub *stub)
{
	static struct machine real, start;
	static struct x86_state st;
	static uint8_t image[4096] __attribute__((aligned(64)));
	enum native_result result;
	uint64_t offset;
	int trap;

	random_machine(&start);
	for (int n = 0; n < 4096; n += 8) {
		uint64_t word = random64();

		memcpy(page + n, &word, 8);
	}
	memcpy(page2, page, 4096);
	offset = i->flags & INSN_MEM ? operand_offset(i, &start) : 0;
	if (offset > 4096 - 512)
		return FAULTED;

	real = start;
	trap = run_real(&real, i->bytes, i->len);

	memcpy(st.gpr, start.gpr, sizeof(st.gpr));
	st.rflags = start.flags;
	fpu_load(start.xsave);
	result = native_run(stub, &st, page2 + offset);
	memset(image, 0, sizeof(image));
	fpu_save(image);
	__asm__ volatile("fninit");

	if (trap >= 0 || result != NATIVE_DONE) {
		static const int traps[] = { -1, 6, 13, 17, 0, 16, 19, 14 };

		if (traps[result] != trap)
			return DIFFERENT;
		return memcmp(st.gpr, start.gpr, sizeof(st.gpr)) == 0 &&
				       st.rflags == start.flags
			       ? FAULTED
			       : DIFFERENT;
	}
	if (!machines_equal(&real, &st))
		return DIFFERENT;
	normalize(real.after);
	normalize(image);
	if (memcmp(real.after, image, sizeof(image)) != 0)
		return DIFFERENT;
	/* the environment has addresses of instructions */
	if ((i->flags & INSN_X87) && i->mem_size >= 14)
		return SAME;
	return memcmp(page, page2, 4096) == 0 ? SAME : DIFFERENT;
}

static void print_bytes(const struct insn *i)
{
	printf("#");
	for (unsigned n = 0; n < i->len; n++)
		printf(" %02x", i->bytes[n]);
	printf("\n");
}

static unsigned nr_same, nr_faulted, nr_different;

/* Decode (bytes) and, if a stub may run it, compare. */
static void try(const uint8_t *bytes)
{
	const struct native_stub *stub;
	struct insn i;

	if (insn_decode(&i, bytes, INSN_MAX_LEN, MODE_64) != INSN_OK)
		return;
	if (i.feature == FEAT_RDRAND || i.feature == FEAT_RDSEED)
		return;
	if ((i.flags & INSN_MEM) &&
	    (i.base != RSI || (i.index != RDI && i.index != INSN_NONE)))
		return;
	stub = native_get(native, &i);
	if (!stub)
		return;
	switch (compare(&i, stub)) {
	case SAME:
		nr_same++;
		break;
	case FAULTED:
		nr_faulted++;
		break;
	case DIFFERENT:
		if (nr_different++ < 20)
			print_bytes(&i);
		break;
	}
}

static unsigned soak(unsigned n)
{
	return getenv("RINGER_SOAK") ? 40 * n : n;
}

/* ModRM and what follows: a register, or memory at RSI. */
static void put_operand(uint8_t *b)
{
	uint64_t r = random64();

	switch (r & 7) {
	case 0:
	case 1:
	case 2:
		b[0] = 0xc0 | (r >> 8 & 0x3f);
		break;
	case 3:
		b[0] = 0x06 | (r >> 8 & 0x38);
		break;
	case 4:
		b[0] = 0x46 | (r >> 8 & 0x38);
		b[1] = (r >> 16) & 0x70;
		break;
	case 5: /* [rsi + rdi] */
		b[0] = 0x04 | (r >> 8 & 0x38);
		b[1] = 0x3e;
		break;
	default:
		b[0] = 0x86 | (r >> 8 & 0x38);
		b[1] = (r >> 16) & 0xf0;
		b[2] = b[3] = b[4] = 0;
		break;
	}
}

static void check_result(unsigned at_least)
{
	printf("# %u the same, %u with the same fault\n", nr_same, nr_faulted);
	assert_int_equal(nr_different, 0);
	assert_true(nr_same > at_least);
	nr_same = nr_faulted = nr_different = 0;
}

static void legacy_instructions(void **state)
{
	static const uint8_t pp[] = { 0, 0x66, 0xf3, 0xf2 };

	begin();
	for (unsigned n = 0; n < soak(192 * 1024); n++) {
		uint8_t b[32] = { 0 }, *p = b;
		uint64_t r = random64();
		unsigned map = n >> 8 & 3;

		memcpy(b + 8, &r, 8);
		if (map == 0)
			map = r & 1;
		if (pp[r >> 8 & 3])
			*p++ = pp[r >> 8 & 3];
		if (r >> 10 & 1)
			*p++ = 0x40 | (r >> 16 & 0xf);
		if (map)
			*p++ = 0x0f;
		if (map > 1)
			*p++ = map == 2 ? 0x38 : 0x3a;
		*p++ = n & 0xff;
		put_operand(p);
		try(b);
	}
	check_result(5000);
	end();
}

static void x87_instructions(void **state)
{
	begin();
	for (unsigned n = 0; n < 8 * 256 * 3; n++) {
		uint8_t b[32] = { 0xd8 | (n & 7), n >> 3 & 0xff };

		if (b[1] < 0xc0)
			b[1] = (b[1] & 0x38) | 6;
		try(b);
	}
	check_result(5000);
	end();
}

static void vex_instructions(void **state)
{
	begin();
	for (unsigned n = 0; n < soak(192 * 1024); n++) {
		uint64_t r = random64();
		uint8_t b[32] = { 0xc4, (r & 0xe0) | (1 + n % 3), r >> 8,
				  r >> 16 };

		if (r >> 24 & 1)
			b[2] |= 0x78;
		put_operand(b + 4);
		try(b);
	}
	check_result(9000);
	end();
}

static void evex_instructions(void **state)
{
	static const uint8_t maps[] = { 1, 2, 2, 3, 5, 6 };

	begin();
	for (unsigned n = 0; n < soak(512 * 1024); n++) {
		uint64_t r = random64();
		uint8_t b[32] = { 0x62, (r & 0xf0) | maps[n % 6], r >> 8 | 4,
				  r >> 16, r >> 24 };

		if (r >> 32 & 1)
			b[2] |= 0x78;
		if (r >> 32 & 2)
			b[3] |= 0x08;
		if (!(r >> 32 & 12))
			b[3] &= 0x6f;
		put_operand(b + 5);
		try(b);
	}
	check_result(9000);
	end();
}

/* ---- Forms and faults, one by one ---------------------------------------- */

static struct native_code encode(const char *bytes, unsigned len,
				 enum insn_mode mode)
{
	struct native_code out;
	struct insn i;

	assert_int_equal(insn_decode(&i, (const uint8_t *)bytes, len, mode),
			 INSN_OK);
	assert_int_equal(i.len, len);
	assert_true(native_encode(&out, &i));
	return out;
}

#define CHECK_CODE(mode, in, out)                                        \
	do {                                                             \
		struct native_code c = encode(in, sizeof(in) - 1, mode); \
		assert_int_equal(c.len, sizeof(out) - 1);                \
		assert_memory_equal(c.bytes, out, sizeof(out) - 1);      \
	} while (0)

static void encoding(void **state)
{
	/* fs movups xmm9, [r12 + r13 * 2 + 8] */
	CHECK_CODE(MODE_64, "\x64\x47\x0f\x10\x4c\x6c\x08", "\x44\x0f\x10\x0e");
	/* movaps xmm0, [rip + 1000h]; a 67 prefix */
	CHECK_CODE(MODE_64, "\x67\x0f\x28\x05\0\x10\0\0", "\x0f\x28\x06");
	/* popcnt ax, [bx + si] and popcnt eax, [eax] in 16-bit code */
	CHECK_CODE(MODE_16, "\xf3\x0f\xb8\x00", "\x66\xf3\x0f\xb8\x06");
	CHECK_CODE(MODE_16, "\x66\x67\xf3\x0f\xb8\x00", "\xf3\x0f\xb8\x06");
	/* fnstenv [di]: 14 bytes */
	CHECK_CODE(MODE_16, "\xd9\x35", "\x66\xd9\x36");
	CHECK_CODE(MODE_32, "\xd9\x30", "\xd9\x36");
	/* paddb xmm1, [esi + 10h] */
	CHECK_CODE(MODE_32, "\x66\x0f\xfc\x4e\x10", "\x66\x0f\xfc\x0e");
	/* lock add [ebx], esp: RSP is RDI in the stub */
	CHECK_CODE(MODE_32, "\xf0\x01\x23", "\xf0\x01\x3e");
	/* vmovups ymm8, [rax]; two-byte VEX becomes three-byte */
	CHECK_CODE(MODE_64, "\xc5\x7c\x10\x00", "\xc4\x61\x7c\x10\x06");
	/* vcvtsi2ss xmm0, xmm0, [eax] with W in 32-bit code */
	CHECK_CODE(MODE_32, "\xc4\xe1\xfa\x2a\x00", "\xc4\xe1\x7a\x2a\x06");
	/* vaddps zmm1 {k2}, zmm3, [r9 + 40h]{1to16} */
	CHECK_CODE(MODE_64, "\x62\xd1\x64\x5a\x58\x49\x10",
		   "\x62\xf1\x64\x5a\x58\x0e");
	/* shlx rsp, [rbx], rsi: the address in RAX, RSP in RDI */
	CHECK_CODE(MODE_64, "\xc4\xe2\xc9\xf7\x23", "\xc4\xe2\xc9\xf7\x38");
}

static void not_native(void **state)
{
	static const char *const others[] = {
		"\x90",             /* nop */
		"\x0f\x05",         /* syscall */
		"\xf4",             /* hlt */
		"\xe8\0\0\0\0",     /* call */
		"\x0f\xab\x06",     /* bts [rsi], eax */
		"\x0f\xae\x26",     /* xsave [rsi] */
		"\x66\x0f\xf7\xc1", /* maskmovdqu */
		"\x50",             /* push rax */
		"\xa4",             /* movsb */
		"\x0f\x22\xc0",     /* mov cr0, rax */
	};
	struct insn i;

	begin();
	for (unsigned n = 0; n < sizeof(others) / sizeof(*others); n++) {
		uint8_t b[INSN_MAX_LEN] = { 0 };

		memcpy(b, others[n], n == 3 ? 5 : strlen(others[n]));
		assert_int_equal(insn_decode(&i, b, sizeof(b), MODE_64), 0);
		assert_null(native_get(native, &i));
	}
	end();
}

static const struct native_stub *stub_of(const char *bytes)
{
	uint8_t b[INSN_MAX_LEN] = { 0 };
	struct insn i;

	memcpy(b, bytes, strlen(bytes));
	assert_int_equal(insn_decode(&i, b, sizeof(b), MODE_64), INSN_OK);
	return native_get(native, &i);
}

static void faults(void **state)
{
	struct x86_state st = { .rflags = 0x40202 | FLAG_CF };
	const struct x86_state before = st;
	const uint32_t mxcsr = 0x1f80, mxcsr_divide = 0x1d80;
	struct insn ud = { .op = OP_NATIVE, .map = 1, .opcode = 0x0b };
	const uint16_t cw = 0x37f, cw_divide = 0x37b;

	begin();
	/* movaps xmm0, [rsi] */
	assert_int_equal(native_run(stub_of("\x0f\x28\x06"), &st, page + 1),
			 NATIVE_GP);
	assert_int_equal(native_run(stub_of("\x0f\x28\x06"), &st, page),
			 NATIVE_DONE);
	/* div ecx */
	assert_int_equal(native_run(stub_of("\xf7\xf1"), &st, NULL), NATIVE_DE);
	/* divps xmm0, xmm0 with zeros, divide exception unmasked */
	__asm__ volatile("ldmxcsr %0; xorps %%xmm0, %%xmm0"
			 :
			 : "m"(mxcsr_divide));
	__asm__ volatile(
		"pcmpeqd %%xmm1, %%xmm1; psrld $25, %%xmm1; pslld $23, %%xmm1"
		:
		:);
	assert_int_equal(native_run(stub_of("\x0f\x5e\xc8"), &st, NULL),
			 NATIVE_XM);
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	/* fld1; fldz; fdivp pends, the next one faults */
	__asm__ volatile("fninit; fldcw %0; fld1; fldz" : : "m"(cw_divide));
	assert_int_equal(native_run(stub_of("\xde\xf9"), &st, NULL),
			 NATIVE_DONE);
	assert_int_equal(native_run(stub_of("\xd9\xe8"), &st, NULL), NATIVE_MF);
	__asm__ volatile("fninit; fldcw %0" : : "m"(cw));
	assert_int_equal(native_run(native_get(native, &ud), &st, NULL),
			 NATIVE_UD);
	assert_memory_equal(&st, &before, sizeof(st));
	end();
}

/* A page fault in a stub is its result; any other is for the handler before
 * ours. */
static void chained_faults(void **state)
{
	struct x86_state st = { 0 };
	const struct native_stub *stub;

	begin();
	stub = stub_of("\x0f\x10\x06");
	assert_int_equal(native_run(stub, &st, no_page), NATIVE_PF);
	caught = -1;
	if (sigsetjmp(escape, 1) == 0)
		*(volatile uint8_t *)no_page = 1;
	assert_int_equal(caught, EXC_PF);
	assert_int_equal(native_run(stub, &st, page), NATIVE_DONE);
	end();
}

/* Only status flags go in and come out; the rest of RFLAGS is the guest's. */
static void flags_kept(void **state)
{
	struct x86_state st = { .rflags = FLAG_TF | FLAG_AC | FLAG_DF |
					  FLAG_NT | FLAG_IF | FLAG_ONE |
					  FLAG_CF };
	uint64_t others = st.rflags & ~FLAGS_STATUS, now;

	begin();
	st.gpr[RAX] = 5;
	/* adc eax, eax */
	assert_int_equal(native_run(stub_of("\x11\xc0"), &st, NULL),
			 NATIVE_DONE);
	assert_int_equal(st.gpr[RAX], 11);
	assert_int_equal(st.rflags & ~FLAGS_STATUS, others);
	assert_int_equal(st.rflags & FLAG_CF, 0);
	__asm__ volatile("pushfq; pop %0" : "=r"(now));
	assert_int_equal(now & (FLAG_TF | FLAG_AC | FLAG_DF | FLAG_NT), 0);
	/* vector moves leave them alone */
	st.rflags |= FLAGS_STATUS;
	native_run(stub_of("\x0f\x28\xc8"), &st, NULL);
	assert_int_equal(st.rflags, others | FLAGS_STATUS);
	end();
}

static void registers(void **state)
{
	struct x86_state st = { 0 };
	uint64_t cell = 7, wide[2] = { 1, 2 };
	uint64_t *aligned;

	begin();
	aligned = (uint64_t *)(void *)page;
	/* xadd [rsi], rsp */
	st.gpr[RSP] = 0x123456789;
	native_run(stub_of("\x48\x0f\xc1\x26"), &st, &cell);
	assert_int_equal(st.gpr[RSP], 7);
	assert_int_equal(cell, 0x123456790);
	/* imul rsp, rsp, 3; mov r12, rsp */
	native_run(stub_of("\x48\x6b\xe4\x03"), &st, NULL);
	native_run(stub_of("\x49\x89\xe4"), &st, NULL);
	assert_int_equal(st.gpr[R12], 21);
	/* mov ah, bl; xchg ch, al */
	st.gpr[RAX] = 0x1111;
	st.gpr[RBX] = 0x22;
	st.gpr[RCX] = 0x3344;
	native_run(stub_of("\x88\xdc"), &st, NULL);
	assert_int_equal(st.gpr[RAX], 0x2211);
	native_run(stub_of("\x86\xc5"), &st, NULL);
	assert_int_equal(st.gpr[RAX], 0x2233);
	assert_int_equal(st.gpr[RCX], 0x1144);
	/* lock cmpxchg16b [rsi] */
	memcpy(aligned, wide, sizeof(wide));
	st.gpr[RAX] = 1;
	st.gpr[RDX] = 2;
	st.gpr[RBX] = 3;
	st.gpr[RCX] = 4;
	native_run(stub_of("\xf0\x48\x0f\xc7\x0e"), &st, aligned);
	assert_true(st.rflags & FLAG_ZF);
	assert_int_equal(aligned[0], 3);
	assert_int_equal(aligned[1], 4);
	/* fld1; fucomip; fnstsw ax */
	__asm__ volatile("fninit; fldz");
	native_run(stub_of("\xd9\xe8"), &st, NULL);
	native_run(stub_of("\xdf\xe9"), &st, NULL);
	assert_int_equal(st.rflags & (FLAG_ZF | FLAG_CF), 0);
	native_run(stub_of("\xdf\xe0"), &st, NULL);
	assert_int_equal(st.gpr[RAX] & 0x3800, 0x3800);
	__asm__ volatile("fninit");
	end();
}

/* More stubs than fit: they start over, and all still work. */
static void starts_over(void **state)
{
	unsigned generation, runs = 0;
	struct x86_state st = { 0 };

	begin();
	generation = native_generation(native);
	for (unsigned n = 0; n < 9000; n++) {
		/* add eax, imm32 */
		uint8_t b[6] = { 0x81, 0xc0, n & 0xff, n >> 8 };
		const struct native_stub *stub;
		struct insn i;

		assert_int_equal(insn_decode(&i, b, 6, MODE_64), INSN_OK);
		stub = native_get(native, &i);
		assert_ptr_equal(stub, native_get(native, &i));
		st.gpr[RAX] = 1;
		assert_int_equal(native_run(stub, &st, NULL), NATIVE_DONE);
		runs += st.gpr[RAX] == n + 1;
	}
	assert_int_equal(runs, 9000);
	assert_int_not_equal(native_generation(native), generation);
	end();
}

static bool host_has_xsave(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	__asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	xsave_mask &= a;
	return true;
}

int main(void)
{
#ifdef __SANITIZE_ADDRESS__
	/* Its instrumented code uses the registers that are compared. */
	printf("1..0 # SKIP not under the address sanitizer\n");
	return 0;
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(encoding),
		cmocka_unit_test(not_native),
		cmocka_unit_test(faults),
		cmocka_unit_test(chained_faults),
		cmocka_unit_test(flags_kept),
		cmocka_unit_test(registers),
		cmocka_unit_test(starts_over),
		cmocka_unit_test(x87_instructions),
		cmocka_unit_test(legacy_instructions),
		cmocka_unit_test(vex_instructions),
		cmocka_unit_test(evex_instructions),
	};
	unsigned nr_tests = sizeof(tests) / sizeof(*tests);

	if (!host_has_xsave()) {
		puts("1..0 # SKIP the host has no XSAVE");
		return 0;
	}
	/* without AVX, AVX-512: without the last ones */
	if (!(xsave_mask & XCR0_AVX))
		nr_tests--;
	if ((xsave_mask & XCR0_AVX512) != XCR0_AVX512)
		nr_tests--;
	return _cmocka_run_group_tests("native", tests, nr_tests, NULL, NULL);
}
