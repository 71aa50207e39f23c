/*
 * Guest code that tries to reach what is not its own: the translator's tables
 * must give it what the page tables do, and nothing else.
 *
 * Every piece of code runs under interp and translated, on two machines with
 * the same memory; exceptions, registers, flags, FPU state and memory must be
 * equal. Each is a loop that alternates between an address which is good and
 * one which is the case: so the page of the good one has an entry, and the
 * code was translated under the assumption that fails next.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <cpuid.h>
#include <pthread.h>

#include "base/bits.h"
#include "rig.h"
#include "vcpu/bt/bt.h"

#define RAM          (4 * MiB)
#define WINDOW       0x100000 /* gva of eight pages: see below */
#define FRAMES       0x140000 /* gpa; no two neighbours are neighbours there */
#define PAGES        8
#define IST          0x1f000
#define HIGH         0xffff800000000000ULL
#define RIGHTS       ((uint64_t)(PTE_P | PTE_W | PTE_U))

#define MAX_FAILURES 8

/* The pages of the window. */
enum {
	PAGE_GOOD,
	PAGE_SECOND, /* what is behind the good one: depends on the case */
	PAGE_THIRD,
	PAGE_FOURTH,
	PAGE_ABSENT,
	PAGE_READ_ONLY,
	PAGE_UNTOUCHED,
	PAGE_SYSTEM, /* the supervisor's */
};
#define GVA(page) (WINDOW + (uint64_t)(page)*PAGE_SIZE)

static struct rig rigs[2];            /* interp, bt */
static struct x86_state templates[2]; /* of CPL 0, 3 */
static unsigned nr_cases, nr_failures;
static uint64_t rng_state = 88172645463325252ULL;

static struct bt *bt(void)
{
	return bt_of(rigs[1].vcpu[0].accel);
}

static uint64_t rnd(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 0x2545f4914f6cdd1dULL;
}

/* ---- Guest code ---------------------------------------------------------- */

#define I(text) ".byte 2f - 1f\n1: " text "\n2:\n"
/* A list of pieces of code, each behind its length. */
#define CODES(name, text)                                                     \
	asm(".pushsection .rodata\n" #name ":\n.intel_syntax noprefix\n" text \
	    ".att_syntax\n.byte 0\n.popsection");                             \
	extern const uint8_t name[]

/* With one operand at rbx; r13, r14 are the loop's, r12 keeps rsp. */
/* clang-format off */
CODES(scalars,
      I("mov al, [rbx]") I("mov ax, [rbx]") I("mov eax, [rbx]")
      I("mov rax, [rbx]") I("mov r9, [rbx]") I("movzx eax, byte ptr [rbx]")
      I("movsx rdx, word ptr [rbx]") I("mov ah, [rbx]") I("cmp rax, [rbx]")
      I("imul rdx, [rbx]") I("mul dword ptr [rbx]") I("bt dword ptr [rbx], 5")
      I("test byte ptr [rbx], 7") I("movbe rax, [rbx]") I("popcnt rax, [rbx]")
      I("cmovc edx, [rbx]") I("mov [rbx], al") I("mov [rbx], dh")
      I("mov [rbx], ax") I("mov [rbx], eax") I("mov [rbx], rax")
      I("mov [rbx], r10") I("mov qword ptr [rbx], -3") I("movnti [rbx], rax")
      I("setc [rbx]") I("add [rbx], al") I("adc [rbx], ax") I("sub [rbx], eax")
      I("xor [rbx], rax") I("lock xadd [rbx], rax") I("xchg [rbx], dx")
      I("lock cmpxchg [rbx], edx") I("lock cmpxchg8b [rbx]")
      I("lock cmpxchg16b [rbx]") I("not byte ptr [rbx]") I("shld [rbx], rdx, 3")
      I("lock inc dword ptr [rbx]") I("lock bts qword ptr [rbx], 9")
      I("rol word ptr [rbx], 1") I("shl qword ptr [rbx], cl")
      I("rcr dword ptr [rbx], cl"));
CODES(others,
      I("mov r9, rbx; mov rax, [r9]") I("mov r11, rbx; add [r11], r11")
      I("mov rbp, rbx; add [rbp], rax") I("mov rbp, rbx; mov al, [rbp - 8]")
      I("lea rdi, [rbx - 0x40]; mov esi, 8; mov rdx, [rdi + rsi * 8]")
      I("lea r10, [rbx - 8]; mov r11d, 1; mov [r10 + r11 * 8], eax")
      I("mov ds:[rbx], eax") I("mov cs:[rbx], eax") I("mov eax, ss:[rbx]")
      I("mov r12, rsp; mov rsp, rbx; push rax; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; push 5; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; pushw ax; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; pushfq; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; push r8; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; pop rdx; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; pop r9; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; mov rdx, [rsp + 8]; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; mov [rsp + 4], edx; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; mov [rsp + 5], edx; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; mov rdx, [rsp + 4]; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; call 3f; 3: mov rsp, r12")
      I("mov r12, rsp; mov rbp, rbx; leave; mov rsp, r12")
      I("push [rbx]; pop rdx") I("push rdx; pop [rbx]")
      I("fld tbyte ptr [rbx]; fstp st(0)") I("fld1; fstp tbyte ptr [rbx]")
      I("fld qword ptr [rbx]; fstp st(0)") I("fld1; fstp qword ptr [rbx]")
      I("fild word ptr [rbx]; fstp st(0)") I("fld1; fbstp [rbx]")
      I("fld1; fadd dword ptr [rbx]; fstp st(0)") I("fnstsw [rbx]")
      I("fnstenv [rbx]") I("fld1; fistp word ptr [rbx]") I("fnstcw [rbx]")
      I("movups xmm0, [rbx]") I("movups [rbx], xmm1") I("movaps xmm0, [rbx]")
      I("movaps [rbx], xmm1") I("movdqu xmm9, [rbx]") I("addps xmm0, [rbx]")
      I("movsd xmm0, [rbx]") I("movsd [rbx], xmm1") I("movss xmm0, [rbx]")
      I("movhps xmm0, [rbx]") I("movlps [rbx], xmm1")
      I("cvtsi2sd xmm3, dword ptr [rbx]") I("pinsrw xmm0, [rbx], 3")
      I("ucomisd xmm1, [rbx]") I("movntps [rbx], xmm1") I("lddqu xmm0, [rbx]")
      I("pcmpistri xmm0, [rbx], 8") I("movq mm0, [rbx]; emms")
      I("stmxcsr [rbx]") I("pmovzxbw xmm0, [rbx]") I("pextrb [rbx], xmm0, 1"));
CODES(avx2,
      I("vmovdqu ymm0, [rbx]") I("vmovdqu [rbx], ymm1")
      I("vmovups ymm12, [rbx]") I("vmovaps ymm0, [rbx]")
      I("vmovdqa [rbx], ymm1") I("vaddpd ymm0, ymm1, [rbx]")
      I("vpaddd xmm0, xmm1, [rbx]") I("vbroadcastss ymm0, [rbx]")
      I("vcvtph2ps xmm0, qword ptr [rbx]") I("vcvtph2ps ymm0, [rbx]")
      I("vcvtps2ph [rbx], xmm0, 0") I("vextracti128 [rbx], ymm0, 1")
      I("vmaskmovps ymm0, ymm1, [rbx]") I("vpmaskmovq [rbx], ymm1, ymm0")
      I("vpmovzxbd ymm0, [rbx]") I("vbroadcastf128 ymm0, [rbx]")
      I("mulx rax, rdx, [rbx]") I("pext rax, rdx, [rbx]"));
CODES(avx512,
      I("vmovdqu64 zmm0, [rbx]") I("vmovdqu64 [rbx], zmm17")
      I("vmovdqa64 zmm0, [rbx]") I("vmovntps [rbx], zmm1")
      I("vmovdqu8 zmm0{k1}, [rbx]") I("vmovdqu16 [rbx]{k1}, zmm1")
      I("vmovups ymm20{k1}{z}, [rbx]") I("vmovapd [rbx]{k2}, zmm1")
      I("vaddps zmm0, zmm1, dword ptr [rbx]{1to16}")
      I("vpaddq zmm0{k1}, zmm1, [rbx]") I("vpcompressd [rbx]{k1}, zmm1")
      I("vpexpandd zmm0{k1}, [rbx]") I("vpmovqb [rbx]{k1}, zmm1")
      I("kmovq k3, [rbx]") I("vpmovdw [rbx], zmm1")
      I("vbroadcasti32x4 zmm0{k1}, [rbx]"));

/* With several off one base. */
CODES(runs,
      I("mov r12, rsp; mov rsp, rbx; push rax; push rdx; push rsi;"
	"push rdi; pop rdi; pop rsi; pop rdx; pop rax; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; push rax; push r8; push 7;"
	"push rdi; call 3f; 3: mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; pop rdi; pop rsi; pop r8;"
	"pop rbp; mov rsp, r12")
      I("mov r12, rsp; mov rsp, rbx; sub rsp, 0x28; mov [rsp], rax;"
	"mov [rsp + 8], rdx; mov [rsp + 0x24], edx; add rsp, 0x28;"
	"push rax; mov rsp, r12")
      I("mov rax, [rbx + 8]; mov rdx, [rbx + 16]; mov rsi, [rbx]")
      I("mov rax, [rbx]; mov [rbx + 8], rdx; add [rbx + 16], rax")
      I("mov [rbx], rax; mov [rbx + 8], rdx; mov rsi, [rbx + 4]")
      I("movups xmm0, [rbx]; movups [rbx + 16], xmm1; mov al, [rbx + 40]")
      I("mov rax, [rbx]; add rbx, 8; mov rdx, [rbx]; add rbx, 8;"
	"mov [rbx], rax; lea rbx, [rbx - 16]")
      I("mov eax, [rbx - 8]; mov edx, [rbx + 120]; mov esi, [rbx + 4]")
      I("mov [rbx - 100], eax; mov [rbx + 100], edx; mov esi, [rbx + 4]")
      I("mov r9, rbx; mov rax, [r9]; mov r10, [r9 + 8];"
	"mov [r9 + 16], r10; mov [r9 + 24], rax")
      I("sub qword ptr [rbx], 1; jz 3f; mov rax, [rbx + 8];"
	"3: add rax, [rbx + 16]")
      I("mov al, [rbx]; mov ah, [rbx + 1]; mov dl, [rbx + 2]")
      I("mov rbp, rbx; mov rax, [rbp - 8]; mov [rbp - 16], rax;"
	"fld qword ptr [rbp]; fstp tbyte ptr [rbp + 16]")
      I("mov r15, rbx; mov rax, [r15]; mov r15, [r15 + 8]; add rax, r15")
      I("mul qword ptr [rbx]; mov [rbx + 8], rax; mov [rbx + 16], rdx")
      I("lock add [rbx + 8], rax; xchg [rbx + 16], rdx; adc [rbx], eax")
      I("mov rax, [rbx]; lea rbx, [rbx + 40]; mov rdx, [rbx - 40];"
	"sub rbx, 40; mov rsi, [rbx + 1]")
      I("cmp byte ptr [rbx], 9; mov rdx, [rbx + 300]; ja 3f;"
	"mov [rbx + 511], al; 3: mov [rbx + 8], eax"));
/* clang-format on */
/* The loop: at its start, (n) times, rbx and r14 in turn. No flag changes. */
static unsigned loop_make(uint8_t *to, const uint8_t *body, unsigned len)
{
	static const uint8_t tail[] = {
		0x4c, 0x87, 0xf3,       /* xchg rbx, r14 */
		0x4d, 0x8d, 0x6d, 0xff, /* lea r13, [r13 - 1] */
		0x4c, 0x87, 0xe9,       /* xchg rcx, r13 */
		0xe3, 0x05,             /* jrcxz 1f */
		0x4c, 0x87, 0xe9,       /* xchg rcx, r13 */
		0xeb, 0,                /* jmp (start) */
		0x4c, 0x87, 0xe9,       /* 1: xchg rcx, r13 */
	};

	memcpy(to, body, len);
	memcpy(to + len, tail, sizeof(tail));
	to[len + 16] = (uint8_t) - (int)(len + 17);
	return len + (unsigned)sizeof(tail);
}

/* ---- Two machines -------------------------------------------------------- */

static void poke(uint64_t gpa, unsigned size, uint64_t value)
{
	for (unsigned k = 0; k < 2; k++)
		rig_write(&rigs[k], gpa, size, value);
}

static uint64_t frame(unsigned page)
{
	return FRAMES + (page ^ 3) * PAGE_SIZE;
}

static void page_set(unsigned page, uint64_t rights)
{
	poke(RIG_PT + (GVA(page) >> 12) * 8, 8,
	     rights ? frame(page) | rights : 0);
}

static void window_map(void)
{
	for (unsigned i = 0; i < PAGES; i++)
		page_set(i, RIGHTS);
	page_set(PAGE_ABSENT, 0);
	page_set(PAGE_READ_ONLY, PTE_P | PTE_U);
	page_set(PAGE_SYSTEM, PTE_P | PTE_W);
}

static void fpu_fill(uint8_t *x)
{
	uint64_t header = cpuid_xcr0_mask(&rigs[0].vs.cpuid);
	uint16_t fcw = 0x37f;
	uint32_t mxcsr = 0x1f80;

	for (unsigned i = 160; i < 416; i += 8) {
		double d = (double)(int64_t)rnd() / 1e6;

		memcpy(x + i, &d, 8);
	}
	for (unsigned i = 576; i < 2696; i++)
		x[i] = i - 832 < 256 ? 0 : (uint8_t)rnd();
	memcpy(x, &fcw, 2);
	memcpy(x + 24, &mxcsr, 4);
	memcpy(x + 512, &header, 8);
}

static void machine_make(unsigned k)
{
	struct rig *rig = &rigs[k];

	rig_create(rig, k ? &accel_bt : &accel_interp, 1, RAM);
	rig_mode(rig, 0, RIG_LONG, 0);
	for (unsigned v = 0; v < 32; v++)
		rig_write(rig, RIG_IDT + v * 16 + 4, 1, 1);
	rig_write(rig, RIG_TSS + 36, 8, IST);
	for (unsigned i = 2; i < 512; i++)
		rig_write(rig, RIG_PD + i * 8, 8, 0);
	/* The last page of the lower half, and of all */
	rig_write(rig, RIG_PML4 + 255 * 8, 8, RIG_PDPT | RIGHTS);
	rig_write(rig, RIG_PML4 + 511 * 8, 8, RIG_PDPT | RIGHTS);
	rig_write(rig, RIG_PDPT + 511 * 8, 8, RIG_PD | RIGHTS);
	rig_write(rig, RIG_PD + 511 * 8, 8, RIG_PT | RIGHTS);
	/* All again: the kernel's, and 4 GiB further */
	rig_write(rig, RIG_PML4 + 256 * 8, 8, RIG_PDPT | PTE_P | PTE_W);
	rig_write(rig, RIG_PDPT + 4 * 8, 8, RIG_PD | RIGHTS);
}

static int setup(void **state)
{
	for (unsigned k = 0; k < 2; k++)
		machine_make(k);
	for (unsigned n = 0; n < 2; n++) {
		struct rig *rig = &rigs[0];

		rig_mode(rig, 0, RIG_LONG, n * 3);
		templates[n] = rig->st[0];
		fpu_fill(templates[n].xsave);
	}
	/* rig_mode() made the IDT anew. */
	for (unsigned v = 0; v < 32; v++)
		rig_write(&rigs[0], RIG_IDT + v * 16 + 4, 1, 1);
	for (unsigned i = 0; i < PAGES * PAGE_SIZE; i += 8)
		poke(FRAMES + i, 8, rnd());
	window_map();
	nr_cases = nr_failures = 0;
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rigs[0]);
	rig_destroy(&rigs[1]);
	return 0;
}

/* A state to start from at level (cpl). */
static void state_make(struct x86_state *st, unsigned cpl)
{
	*st = templates[cpl == 3];
	for (unsigned i = 0; i < NR_GPR; i++)
		if (i != RSP)
			st->gpr[i] = rnd();
	st->gpr[RCX] = rnd() & 15;
	st->rflags = (rnd() & FLAGS_STATUS) | FLAG_ONE;
}

/* ---- Comparing ----------------------------------------------------------- */

static const struct {
	uint64_t gpa, size;
} compared[] = {
	{ FRAMES, PAGES *PAGE_SIZE },
	{ RIG_STACK - PAGE_SIZE, 2 * PAGE_SIZE },
	{ RIG_PML4, 4 * PAGE_SIZE },
	{ 0x1fe000, 2 * PAGE_SIZE },
	{ 0, PAGE_SIZE },
};

static void *at(unsigned k, uint64_t gpa)
{
	return gmem_at(&rigs[k].mem, gpa, 1);
}

static unsigned differs(const char *what, uint64_t a, uint64_t b)
{
	if (a == b)
		return 0;
	printf("#   %s: interp %llx, bt %llx\n", what, (unsigned long long)a,
	       (unsigned long long)b);
	return 1;
}

static unsigned compare_memory(uint64_t gpa, uint64_t size)
{
	const uint8_t *a = at(0, gpa);
	uint8_t *b = at(1, gpa);

	if (!memcmp(a, b, size))
		return 0;
	for (uint64_t i = 0; i < size; i++)
		if (differs("memory", a[i], b[i])) {
			printf("#   at %llx\n", (unsigned long long)(gpa + i));
			break;
		}
	memcpy(b, a, size);
	return 1;
}

static unsigned compare_fpu(uint8_t *a, uint8_t *b)
{
	/* FIP, FDP and FOP are not kept. */
	memset(a + 6, 0, 18);
	memset(b + 6, 0, 18);
	for (unsigned i = 0; i < 2696; i++)
		if (a[i] != b[i] && (i < 416 || i >= 576) &&
		    (i < 832 || i >= 1088)) {
			differs("FPU state", a[i], b[i]);
			printf("#   at %u\n", i);
			return 1;
		}
	return 0;
}

static unsigned compare(const struct rig_exception e[2])
{
	struct x86_state *a = &rigs[0].st[0], *b = &rigs[1].st[0];
	static const char *const names[] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
	};
	unsigned bad = 0;

	bad += differs("vector", (uint64_t)e[0].vector, (uint64_t)e[1].vector);
	bad += differs("error code", e[0].error, e[1].error);
	bad += differs("rip then", e[0].rip, e[1].rip);
	bad += differs("rsp then", e[0].rsp, e[1].rsp);
	bad += differs("flags then", e[0].rflags, e[1].rflags);
	bad += differs("cs then", e[0].cs, e[1].cs);
	bad += differs("cr2", a->cr2, b->cr2);
	bad += differs("rip", a->rip, b->rip);
	bad += differs("flags", a->rflags, b->rflags);
	for (unsigned i = 0; i < NR_GPR; i++)
		bad += differs(names[i], a->gpr[i], b->gpr[i]);
	bad += compare_fpu(a->xsave, b->xsave);
	for (unsigned i = 0; i < ARRAY_SIZE(compared); i++)
		bad += compare_memory(compared[i].gpa, compared[i].size);
	return bad;
}

/* Run from (st), with (code) where it is or as it was; how interp ended. */
static struct rig_exception run(const struct x86_state *st, const uint8_t *code,
				unsigned len)
{
	struct rig_exception e[2];

	nr_cases++;
	for (unsigned k = 0; k < 2; k++) {
		if (code)
			rig_code(&rigs[k], code, len);
		rigs[k].st[0] = *st;
		e[k] = rig_run(&rigs[k], 0);
	}
	if (compare(e) && nr_failures++ < MAX_FAILURES) {
		printf("#   CPL %u, rbx %llx, r14 %llx, rax %llx:",
		       st->seg[SEG_CS].sel & 3,
		       (unsigned long long)st->gpr[RBX],
		       (unsigned long long)st->gpr[R14],
		       (unsigned long long)st->gpr[RAX]);
		for (unsigned i = 0; i < len; i++)
			printf(" %02x", code[i]);
		printf("\n");
	}
	return e[0];
}

/* Alternate between rbx = (good) and (bad). */
static struct rig_exception alternate(const uint8_t *body, unsigned len,
				      unsigned cpl, uint64_t good, uint64_t bad)
{
	struct x86_state st;
	uint8_t code[160];

	state_make(&st, cpl);
	st.gpr[RBX] = good;
	st.gpr[R14] = bad;
	st.gpr[R13] = 4;
	len = loop_make(code, body, len);
	return run(&st, code, len);
}

typedef void (*code_fn)(const uint8_t *body, unsigned len, unsigned cpl);

static void for_each(const uint8_t *list, code_fn fn)
{
	for (; *list; list += 1 + *list)
		for (unsigned cpl = 0; cpl <= 3; cpl += 3)
			fn(list + 1, *list, cpl);
}

static bool has_avx2(void)
{
	return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
	return __builtin_cpu_supports("avx512vbmi2") &&
	       __builtin_cpu_supports("avx512bw");
}

static void for_each_single(code_fn fn)
{
	for_each(scalars, fn);
	for_each(others, fn);
	if (has_avx2())
		for_each(avx2, fn);
	if (has_avx512())
		for_each(avx512, fn);
}

static void conclude(void)
{
	printf("# %u cases, %llu faults, %llu steps\n", nr_cases,
	       (unsigned long long)bt()->stats.faults,
	       (unsigned long long)bt()->stats.steps);
	assert_int_equal(nr_failures, 0);
}

/* ---- Addresses ----------------------------------------------------------- */

static void at_bad_pages(const uint8_t *body, unsigned len, unsigned cpl)
{
	static const unsigned pages[] = { PAGE_ABSENT, PAGE_READ_ONLY,
					  PAGE_UNTOUCHED, PAGE_SYSTEM };
	const uint64_t good = GVA(PAGE_GOOD) + 0x140;

	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++)
		alternate(body, len, cpl, good, GVA(pages[i]) + 0x140);
	/* No table, the kernel's half, its end, nothing at all */
	alternate(body, len, cpl, good, GVA(PAGE_GOOD) + GiB);
	alternate(body, len, cpl, good, good + HIGH);
	alternate(body, len, cpl, good, 0xffffffffff600040);
	alternate(body, len, cpl, good, 0x7f0000000040);
	alternate(body, len, cpl, good + HIGH, good);
}

static void a25_faults_of_pages_are_as_interp(void **state)
{
	for_each_single(at_bad_pages);
	for_each(runs, at_bad_pages);
	conclude();
}

static void at_bad_bits(const uint8_t *body, unsigned len, unsigned cpl)
{
	const uint64_t good = GVA(PAGE_GOOD) + 0x140;

	for (unsigned bit = 47; bit < 64; bit++) {
		alternate(body, len, cpl, good, good ^ BIT(bit));
		if (cpl == 0)
			alternate(body, len, cpl, good + HIGH,
				  (good + HIGH) ^ BIT(bit));
	}
}

static void a25_noncanonical_addresses_fault(void **state)
{
	struct rig_exception e;

	e = alternate((const uint8_t *)"\x8b\x03", 2, 3, GVA(PAGE_GOOD),
		      GVA(PAGE_GOOD) ^ BIT(50));
	assert_int_equal(e.vector, EXC_GP);
	e = alternate((const uint8_t *)"\x8b\x03", 2, 3, GVA(PAGE_GOOD),
		      GVA(PAGE_GOOD) + HIGH);
	assert_int_equal(e.vector, EXC_PF);
	for_each_single(at_bad_bits);
	for_each(runs, at_bad_bits);
	conclude();
}

/* The kernel looks at its half and goes to level 3, which looks there too. */
static void after_the_kernel(const uint8_t *body, unsigned len, unsigned cpl)
{
	static const uint8_t kernel[] = {
		0x48, 0x8b, 0x03, /* mov rax, [rbx] */
		0x48, 0x89, 0x03, /* mov [rbx], rax */
		0x48, 0xcf,       /* iretq */
	};
	const uint64_t user = RIG_CODE + PAGE_SIZE;
	const uint64_t frame_at = RIG_STACK - 0x100;
	const uint64_t words[] = { user, RIG_UCS64 | 3, FLAG_ONE, RIG_STACK,
				   RIG_UDS | 3 };
	struct rig_exception e;
	struct x86_state st;

	if (cpl)
		return;
	for (unsigned k = 0; k < 2; k++)
		assert_int_equal(gmem_load(&rigs[k].mem, user, body, len), 0);
	poke(user + len, 1, 0xf4);
	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		poke(frame_at + i * 8, 8, words[i]);
	state_make(&st, 0);
	st.gpr[RSP] = frame_at;
	st.gpr[RBX] = GVA(PAGE_GOOD) + 0x140 + HIGH;
	e = run(&st, kernel, sizeof(kernel));
	/* With no element to touch there is only the HLT. */
	if (e.vector == EXC_PF)
		assert_true(e.error & PFERR_U && rigs[1].st[0].cr2 >= HIGH);
	else
		assert_int_equal(e.vector, EXC_GP);
}

static void a25_the_kernels_half_is_not_the_users(void **state)
{
	for_each_single(after_the_kernel);
	for_each(runs, after_the_kernel);
	conclude();
}

/* Access, change the entry, INVLPG, access. */
static void after_invlpg(const uint8_t *body, unsigned len, unsigned cpl)
{
	static const uint8_t change[] = { 0x4d, 0x89, 0x07, /* mov [r15], r8 */
					  0x0f, 0x01, 0x3b }; /* invlpg [rbx] */
	const uint64_t entries[] = { 0, frame(PAGE_FOURTH) | RIGHTS,
				     frame(PAGE_SECOND) | PTE_P | PTE_U };
	uint8_t code[160];
	struct x86_state st;

	if (cpl)
		return;
	memcpy(code, body, len);
	memcpy(code + len, change, sizeof(change));
	memcpy(code + len + sizeof(change), body, len);
	for (unsigned i = 0; i < ARRAY_SIZE(entries); i++) {
		state_make(&st, 0);
		page_set(PAGE_SECOND, RIGHTS);
		st.gpr[RBX] = GVA(PAGE_SECOND) + 0x140;
		st.gpr[R15] = RIG_PT + (GVA(PAGE_SECOND) >> 12) * 8;
		st.gpr[R8] = entries[i];
		run(&st, code, 2 * len + (unsigned)sizeof(change));
	}
}

static void b7_invlpg_takes_the_table_entry(void **state)
{
	for_each_single(after_invlpg);
	conclude();
}

/* ---- Page ends ----------------------------------------------------------- */

static const struct {
	uint64_t first, second;
} variants[] = {
	{ RIGHTS, RIGHTS },        { RIGHTS, 0 }, { RIGHTS, PTE_P | PTE_U },
	{ PTE_P | PTE_U, RIGHTS }, { 0, RIGHTS },
};

static unsigned variant;

static void at_page_end(const uint8_t *body, unsigned len, unsigned cpl)
{
	const uint64_t good = GVA(PAGE_FOURTH) + 0x140;

	/* Level 0 and 3 take turns. */
	for (int off = -66; off <= 8; off++)
		if ((off & 1) == !cpl)
			alternate(body, len, cpl, good,
				  GVA(PAGE_SECOND) + (uint64_t)(int64_t)off);
}

static void run_at_page_end(const uint8_t *body, unsigned len, unsigned cpl)
{
	const uint64_t good = GVA(PAGE_FOURTH) + 0x440;

	for (int off = -140; off <= 140; off++)
		if ((off & 1) == !cpl)
			alternate(body, len, cpl, good,
				  GVA(PAGE_SECOND) + (uint64_t)(int64_t)off);
	/* Aligned, at both levels */
	for (int off = -512; off <= 64; off += 8)
		alternate(body, len, cpl, good,
			  GVA(PAGE_SECOND) + (uint64_t)(int64_t)off);
}

static void for_each_variant(code_fn fn, bool is_run)
{
	for (variant = 0; variant < ARRAY_SIZE(variants); variant++) {
		page_set(PAGE_GOOD, variants[variant].first);
		page_set(PAGE_SECOND, variants[variant].second);
		if (is_run)
			for_each(runs, fn);
		else
			for_each_single(fn);
	}
}

static void a25_accesses_over_a_page_end_are_exact(void **state)
{
	for_each_variant(at_page_end, false);
	assert_true(bt()->stats.page_ends > 0);
	conclude();
}

static void a25_runs_over_a_page_end_are_exact(void **state)
{
	for_each_variant(run_at_page_end, true);
	conclude();
}

/* The ends of the lower half and of all addresses. */
static void at_half_end(const uint8_t *body, unsigned len, unsigned cpl)
{
	static const uint64_t ends[] = { BIT(47), 0, HIGH };
	const uint64_t good = GVA(PAGE_FOURTH) + 0x140;

	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++)
		for (int off = -66; off <= 2; off += 1 + 2 * (i > 0))
			alternate(body, len, cpl, good,
				  ends[i] + (uint64_t)(int64_t)off);
}

static void a25_ends_of_the_address_space_are_exact(void **state)
{
	for_each_single(at_half_end);
	for_each(runs, at_half_end);
	conclude();
}

/* ---- More than one place ------------------------------------------------- */

/* clang-format off */
CODES(bits,
      I("bt [rbx], ax") I("bts [rbx], eax") I("btr [rbx], rax")
      I("btc [rbx], eax") I("bt [rbx], rax") I("lock bts [rbx], rax")
      I("lock btc [rbx], ax") I("mov r9, rax; bts [rbx], r9")
      I("mov r8, rbx; bt [r8], eax") I("mov rcx, rax; btc [rbx], rcx"));
/* clang-format on */
static uint64_t rnd_bit(unsigned n)
{
	uint64_t v = rnd();

	switch (n & 7) {
	case 0:
		return BIT(35) + (v & 0xfffff);
	case 1:
		return v;
	case 2:
		return (uint64_t)(int32_t)v;
	case 3:
		return -BIT(35) + (v & 0xffff);
	case 4: /* about a page's end */
		return (uint64_t)((int64_t)(v % 1024) - 512 + 0x8000 * 2);
	default:
		return (uint64_t)((int64_t)(v % BIT(21)) - (int64_t)BIT(20));
	}
}

static void with_bit_numbers(const uint8_t *body, unsigned len, unsigned cpl)
{
	uint8_t code[160];
	struct x86_state st;

	for (unsigned n = 0; n < 400; n++) {
		unsigned total = loop_make(code, body, len);

		state_make(&st, cpl);
		/* In a large page, or in the window */
		st.gpr[RBX] = n & 8 ? GVA(PAGE_GOOD) + 0x140 : 0x300000;
		if (n & 16)
			st.gpr[RBX] += rnd() & 15;
		st.gpr[R14] = st.gpr[RBX];
		st.gpr[R13] = 3;
		st.gpr[RAX] = rnd_bit(n);
		run(&st, code, total);
	}
}

static void a25_bit_strings_reach_what_is_mapped(void **state)
{
	struct x86_state st;

	/* bts [rbx], rax: 4 GiB further is the same memory. */
	state_make(&st, 3);
	st.gpr[RBX] = GVA(PAGE_GOOD);
	st.gpr[RAX] = BIT(35) + 70;
	poke(frame(PAGE_GOOD), 8, 0);
	poke(frame(PAGE_GOOD) + 8, 8, 0);
	run(&st, (const uint8_t *)"\x48\x0f\xab\x03", 4);
	assert_int_equal(rig_read(&rigs[1], frame(PAGE_GOOD) + 8, 8), 64);
	for_each(bits, with_bit_numbers);
	assert_int_equal(compare_memory(2 * MiB, 2 * MiB), 0);
	conclude();
}

/* clang-format off */
CODES(spread,
      I("xlatb") I("maskmovdqu xmm0, xmm1") I("maskmovq mm0, mm1; emms")
      I("vmaskmovps ymm0, ymm1, [rbx]") I("vmaskmovpd [rbx], ymm1, ymm0")
      I("vpmaskmovd [rbx], xmm1, xmm0")
      I("vmovaps ymm3, ymm1; vpgatherdd ymm0, [rbx + ymm2 * 4], ymm3")
      I("vmovaps ymm3, ymm1; vgatherqpd ymm0, [rbx + ymm2], ymm3")
      I("vmovaps xmm3, xmm1; vpgatherqd xmm0, [rbx + ymm2], xmm3"));
CODES(spread512,
      I("kmovq k3, k1; vpgatherdd zmm0{k3}, [rbx + zmm2]")
      I("kmovq k3, k1; vpscatterdd [rbx + zmm2]{k3}, zmm1")
      I("kmovq k3, k1; vpscatterqq [rbx + zmm2 * 8]{k3}, zmm1")
      I("vmovdqu32 [rbx]{k1}, zmm1") I("vmovdqu8 zmm0{k1}, [rbx]")
      I("vpcompressd [rbx]{k1}, zmm1") I("vpexpandq zmm0{k1}, [rbx]"));
/* clang-format on */
static void put32(uint8_t *x, unsigned at32, uint32_t value)
{
	memcpy(x + at32, &value, 4);
}

/* Elements at places of their own, some with pages and some without. */
static void with_elements(const uint8_t *body, unsigned len, unsigned cpl)
{
	struct x86_state st;
	uint8_t code[160];

	for (unsigned n = 0; n < 60; n++) {
		unsigned total = loop_make(code, body, len);
		uint64_t k1 = rnd() & rnd();

		state_make(&st, cpl);
		st.gpr[RBX] = GVA(PAGE_SECOND + n % 4) - rnd() % 80;
		st.gpr[RDI] = st.gpr[RBX];
		st.gpr[R14] = st.gpr[RBX];
		st.gpr[R13] = 2;
		/* Masks in 1, indexes in 2: legacy, AVX, AVX-512 parts */
		for (unsigned i = 0; i < 16; i++) {
			static const unsigned parts[] = { 160, 576, 1152 };
			unsigned part = i < 4 ? 0 : i < 8 ? 1 : 2;
			unsigned size = part == 2 ? 32 : 16;
			unsigned in = (i - (part == 2 ? 8 : part * 4)) * 4;
			int32_t index = (int32_t)(rnd() % 0x900) - 0x480;

			if (n & 1) /* 64-bit ones */
				index = i & 1 ? 0 : index & 0x7ff;
			put32(st.xsave, parts[part] + 2 * size + in,
			      (uint32_t)index);
			put32(st.xsave, parts[part] + size + in,
			      rnd() & 1 ? 0x80808080 : 0);
		}
		memcpy(st.xsave + 1088 + 8, &k1, 8);
		run(&st, code, total);
	}
}

static void a25_elements_are_checked_one_by_one(void **state)
{
	page_set(PAGE_THIRD, 0);
	if (has_avx2())
		for_each(spread, with_elements);
	page_set(PAGE_THIRD, PTE_P | PTE_U);
	if (has_avx2())
		for_each(spread, with_elements);
	if (has_avx512())
		for_each(spread512, with_elements);
	conclude();
}

/* clang-format off */
CODES(strings,
      I("rep movsb") I("rep movsq") I("rep stosb") I("rep stosq") I("rep movsd")
      I("repne scasb") I("repe cmpsb") I("rep lodsw") I("std; rep movsb; cld")
      I("std; rep stosq; cld") I("movsq") I("stosd") I("lodsb") I("cmpsq"));
/* clang-format on */
static void over_pages(const uint8_t *body, unsigned len, unsigned cpl)
{
	struct x86_state st;

	for (unsigned n = 0; n < 40; n++) {
		state_make(&st, cpl);
		st.gpr[RSI] = GVA(n % 5) + rnd() % 0x1100 - 0x80;
		st.gpr[RDI] = GVA(n / 5 % 6) + rnd() % 0x1100 - 0x80;
		if (n & 1) {
			st.gpr[RSI] &= ~7ULL;
			st.gpr[RDI] &= ~7ULL;
		}
		st.gpr[RCX] = rnd() % 0x2400;
		if (n % 11 == 10)
			st.gpr[n & 1 ? RSI : RDI] ^= BIT(47 + n % 17);
		run(&st, body, len);
	}
}

static void strings_stop_where_a_page_is_missing(void **state)
{
	for_each(strings, over_pages);
	page_set(PAGE_SECOND, 0);
	for_each(strings, over_pages);
	page_set(PAGE_SECOND, PTE_P | PTE_U);
	for_each(strings, over_pages);
	conclude();
}

/* ---- Branches ------------------------------------------------------------ */

#define TARGET (RIG_CODE + 2 * PAGE_SIZE)

/* clang-format off */
CODES(branches,
      I("jmp rbx") I("mov r9, rbx; jmp r9") I("mov [r15], rbx; jmp [r15]")
      I("mov r9, r15; mov [r9 + 4], rbx; jmp [r9 + 4]") I("push rbx; ret")
      I("push rbx; ret 24") I("push rax; push rdx; push rbx; ret")
      I("mov r8, rbx; push rax; push rcx; pop rcx; push r8; ret"));
/* clang-format on */
/* These leave a return address below RSP before they find out. */
/* clang-format off */
CODES(calls,
      I("call rbx") I("mov r9, rbx; call r9") I("mov [r15], rbx; call [r15]")
      I("mov [r15], rbx; push rdx; push rax; call [r15]"));
/* clang-format on */
/* To (bad), having been to its canonical twin. */
static struct rig_exception branch(const uint8_t *body, unsigned len,
				   unsigned cpl, uint64_t bad)
{
	/* mov rbx, r14; mov rsp, r12; jmp (start) */
	static const uint8_t back[] = { 0x4c, 0x89, 0xf3, 0x4c, 0x89, 0xe4,
					0xe9, 0,    0,    0,    0 };
	const uint32_t disp = (uint32_t)(RIG_CODE - (TARGET + sizeof(back)));
	struct x86_state st;

	for (unsigned i = 0; i < sizeof(back); i++)
		poke(TARGET + i, 1, back[i]);
	poke(TARGET + 7, 4, disp);
	state_make(&st, cpl);
	st.gpr[RBX] = TARGET;
	st.gpr[R14] = bad;
	st.gpr[R12] = st.gpr[RSP];
	st.gpr[R15] = GVA(PAGE_GOOD) + 0x40;
	return run(&st, body, len);
}

static void to_bad_bits(const uint8_t *body, unsigned len, unsigned cpl)
{
	for (unsigned bit = 47; bit < 64; bit++) {
		struct rig_exception e =
			branch(body, len, cpl, TARGET ^ BIT(bit));

		assert_int_equal(e.vector, EXC_GP);
		assert_int_equal(e.error, 0);
	}
	assert_int_equal(branch(body, len, cpl, GVA(PAGE_ABSENT)).vector,
			 EXC_PF);
	if (cpl)
		assert_int_equal(branch(body, len, cpl, TARGET + HIGH).vector,
				 EXC_PF);
}

static void a25_branches_to_noncanonical_addresses_fault(void **state)
{
	for_each(branches, to_bad_bits);
	for_each(calls, to_bad_bits);
	assert_true(bt()->stats.fault_targets > 0);
	conclude();
}

/* Code that runs and branches over the end of the lower half. */
static void a25_code_ends_with_the_lower_half(void **state)
{
	static const struct {
		uint8_t code[8];
		unsigned len;
	} ends[] = {
		{ { 0x90, 0x90, 0x90, 0x90 }, 4 },
		{ { 0xeb, 0x20 }, 2 },
		{ { 0x8b, 0x05, 8, 0, 0, 0 }, 6 },
		{ { 0xe9, 0, 0, 1, 0 }, 5 },
		{ { 0x48, 0x8b }, 2 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(ends); i++)
		for (unsigned n = 0; n < 4; n++) {
			unsigned len = ends[i].len;
			struct x86_state st;

			for (unsigned b = 0; b < len; b++)
				poke(2 * MiB - len + b, 1, ends[i].code[b]);
			state_make(&st, n & 1 ? 3 : 0);
			st.rip = (n & 2 && !(n & 1) ? 0 : BIT(47)) - len;
			run(&st, NULL, 0);
		}
	conclude();
}

/* ---- Forged addresses ---------------------------------------------------- */

static uint64_t forged;

static void at_forged(const uint8_t *body, unsigned len, unsigned cpl)
{
	struct rig_exception e;

	alternate(body, len, cpl, GVA(PAGE_GOOD) + 0x140, forged);
	e = alternate(body, len, cpl, forged, forged);
	if (forged < BIT(47) && e.vector != EXC_PF) {
		printf("# forged %llx: vector %d\n", (unsigned long long)forged,
		       e.vector);
		nr_failures++;
	}
}

/* clang-format off */
CODES(reach,
      I("mov eax, [rbx]") I("mov [rbx], rax") I("lock add [rbx], rax")
      I("mov rax, [rbx]; mov rdx, [rbx + 8]; mov rsi, [rbx + 16]")
      I("mov [rbx], rax; mov [rbx + 8], rax") I("movups [rbx], xmm0")
      I("mov rsp, rbx; push rax; push rax; push rax; push rax")
      I("mov rsp, rbx; pop rax; pop rdx; pop rsi") I("jmp rbx")
      I("mov rsp, rbx; call rbx") I("mov rdi, rbx; stosq") I("bts [rbx], eax"));
/* clang-format on */
/* Addresses of the host, as they are and less the difference of a page that
 * the guest has. */
static void a20_host_addresses_lead_nowhere(void **state)
{
	struct bt *b = bt();
	uint64_t here = (uint64_t)&here & ~15ULL;
	uint64_t delta = (uint64_t)at(1, frame(PAGE_GOOD)) - GVA(PAGE_GOOD);
	const struct tables *t = &b->tables;
	const uint64_t places[] = {
		(uint64_t)b,
		(uint64_t)&b->table,
		(uint64_t)&b->host_rsp,
		(uint64_t)b->cpu.s.gpr,
		(uint64_t)b->stack + 0x1000,
		(uint64_t)t->base,
		(uint64_t)(t->base + (GVA(PAGE_GOOD) >> 12) * 8),
		(uint64_t)(t->base + KIND_SIZE + (GVA(PAGE_GOOD) >> 12) * 8),
		(uint64_t)(t->base + TABLE_SIZE),
		(uint64_t)b->code.rx,
		(uint64_t)b->code.rx + b->code.first,
		(uint64_t)b->code.rw,
		(uint64_t)b->code.rw + b->code.first,
		(uint64_t)b->code.pages,
		(uint64_t)b->code.entries,
		(uint64_t)at(1, 0),
		(uint64_t)at(1, 0) + RAM,
		(uint64_t)&rigs & ~15ULL,
		here,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
		const uint64_t ways[] = { places[i], places[i] - delta,
					  places[i] + HIGH,
					  places[i] - delta + HIGH,
					  places[i] ^ BIT(47) };

		for (unsigned n = 0; n < ARRAY_SIZE(ways); n++) {
			forged = ways[n];
			/* What the guest has there itself proves nothing. */
			if (forged - 8 * MiB < BIT(47) - 16 * MiB ||
			    forged >= BIT(47))
				for_each(reach, at_forged);
		}
	}
	conclude();
}

/* ---- Kicks --------------------------------------------------------------- */

/* clang-format off */
CODES(mixture,
      I("3: mov rax, [rbx + 8]; add rax, [rbx + 16];"
	"adc [rbx], rax; push rax; push rcx; push rdx; push r9;"
	"pop r9; pop rdx; pop rcx; pop rsi; call 4f;"
	"lock xadd [rbx + 24], rax; jmp 5f; 4: add rsi, rax;"
	"pushfq; pop r8; xor rdx, r8; ret;"
	"5: fld qword ptr [rbx + 32]; fadd qword ptr [rbx + 40];"
	"fstp tbyte ptr [rbx + 48]; movups xmm0, [rbx + 64];"
	"paddq xmm0, xmm1; paddq xmm1, xmm0;"
	"movups [rbx + 67], xmm0; test cl, 31; jnz 6f;"
	"lea rsi, [rbx + 0x80]; lea rdi, [rbx + 0xc3];"
	"mov r10d, ecx; mov ecx, 5; rep movsq; mov ecx, r10d;"
	"add dword ptr [rbx + 0xffe - 0x140], esi;"
	"6: rol qword ptr [rbx + 0x83], 3; lea r11, [r11 + rdx];"
	"xor r11, rsi; mov [rbx + 0x88], r11; dec ecx; jnz 3b"));
/* clang-format on */
struct kicker {
	struct vcpu *vcpu;
	atomic_bool stop;
	uint64_t nr;
};

/* Its sleep lets it run where there is no other CPU for it. */
static void *kick_always(void *opaque)
{
	struct kicker *k = opaque;

	for (; !atomic_load(&k->stop); k->nr++) {
		struct timespec t = { .tv_nsec = (long)(k->nr * 7919 % 9001) };

		vcpu_request(k->vcpu, VCPU_REQ_WAKE);
		accel_bt.kick(k->vcpu);
		nanosleep(&t, NULL);
	}
	return NULL;
}

/* Once by interp; translated again and again while the kicks come. */
static void kicked_runs(unsigned cpl, double seconds)
{
	static uint8_t before[PAGES * PAGE_SIZE];
	struct timespec start, now;
	struct rig_exception e[2];
	struct x86_state st, end;

	state_make(&st, cpl);
	st.gpr[RBX] = GVA(PAGE_GOOD) + 0x140;
	st.gpr[RCX] = 20000;
	memcpy(before, at(0, FRAMES), sizeof(before));
	rigs[0].st[0] = st;
	rig_code(&rigs[0], mixture + 1, mixture[0]);
	rig_code(&rigs[1], mixture + 1, mixture[0]);
	e[0] = rig_run(&rigs[0], 0);
	/* HLT is privileged. */
	assert_int_equal(e[0].vector, cpl ? EXC_GP : -1);
	end = rigs[0].st[0];
	assert_int_equal(end.gpr[RCX], 0);
	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		memcpy(at(1, FRAMES), before, sizeof(before));
		rigs[0].st[0] = end;
		rigs[1].st[0] = st;
		e[1] = rig_run(&rigs[1], 0);
		nr_cases++;
		nr_failures += !!compare(e);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (!nr_failures &&
		 (double)(now.tv_sec - start.tv_sec) +
				 (double)(now.tv_nsec - start.tv_nsec) / 1e9 <
			 seconds);
}

static void a25_kicks_at_any_moment_change_nothing(void **state)
{
	struct kicker kicker = { .vcpu = &rigs[1].vcpu[0] };
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, kick_always, &kicker),
			 0);
	kicked_runs(0, 1);
	kicked_runs(3, 1);
	atomic_store(&kicker.stop, true);
	pthread_join(thread, NULL);
	printf("# %llu requests, %llu kicks taken\n",
	       (unsigned long long)kicker.nr,
	       (unsigned long long)bt()->stats.kicks);
	assert_true(bt()->stats.kicks > 100);
	conclude();
}

int main(void)
{
#ifdef __SANITIZE_ADDRESS__
	/* Its instrumented code uses the registers that are compared. */
	printf("1..0 # SKIP not under the address sanitizer\n");
	return 0;
#endif
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a25_faults_of_pages_are_as_interp),
		TEST(a25_noncanonical_addresses_fault),
		TEST(a25_the_kernels_half_is_not_the_users),
		TEST(b7_invlpg_takes_the_table_entry),
		TEST(a25_accesses_over_a_page_end_are_exact),
		TEST(a25_runs_over_a_page_end_are_exact),
		TEST(a25_ends_of_the_address_space_are_exact),
		TEST(a25_bit_strings_reach_what_is_mapped),
		TEST(a25_elements_are_checked_one_by_one),
		TEST(strings_stop_where_a_page_is_missing),
		TEST(a25_branches_to_noncanonical_addresses_fault),
		TEST(a25_code_ends_with_the_lower_half),
		TEST(a20_host_addresses_lead_nowhere),
		TEST(a25_kicks_at_any_moment_change_nothing),
	};
	struct err err = { .what = "" };

	if (accel_bt.probe(&err) < 0) {
		printf("1..0 # SKIP %s\n", err.what);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
