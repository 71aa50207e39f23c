/*
 * FPU, SSE and AVX: when they may be used, which exceptions they raise, state
 * images, gathers and masked moves that fault half way. What the instructions
 * compute is test_diff's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"
#include "vcpu/interp/cpu.h"

#define AREA   RIG_DATA
#define AREA2  (RIG_DATA + 0x2000)
#define PAGE_B 0x46000
#define RIGHTS (PTE_P | PTE_W | PTE_U)

static struct rig rig;
static struct x86_state *const st = &rig.st[0];

static int setup(void **state)
{
	rig_create(&rig, &ACCEL, 1, 4 * MiB);
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(&rig);
	return 0;
}

/* cmocka sets signal handlers for each test: the processor's have to come
 * after, inside of it. */
static void renew(void)
{
	rig_destroy(&rig);
	rig_create(&rig, &ACCEL, 1, 4 * MiB);
}

static bool has(enum insn_feature feature)
{
	return insn_has_feature(&cpu_of(&rig.vcpu[0])->features, feature);
}

static void use_is_checked(void **state)
{
	static const struct {
		uint64_t cr0, cr4_clear, xcr0;
		const char *code;
		unsigned len;
		int vector;
	} cases[] = {
		{ CR0_TS, 0, 7, "\xd9\xe8", 2, EXC_NM }, /* fld1 */
		{ CR0_EM, 0, 7, "\xd9\xe8", 2, EXC_NM },
		{ 0, 0, 7, "\xd9\xe8", 2, -1 },
		{ CR0_TS, 0, 7, "\x9b", 1, EXC_NM }, /* fwait */
		{ CR0_EM, 0, 7, "\x9b", 1, -1 },
		{ CR0_TS, 0, 7, "\x0f\xef\xc0", 3, EXC_NM }, /* pxor mm0 */
		{ CR0_EM, 0, 7, "\x0f\xef\xc0", 3, EXC_UD },
		{ CR0_TS, 0, 7, "\x0f\x57\xc0", 3, EXC_NM }, /* xorps xmm0 */
		{ CR0_EM, 0, 7, "\x0f\x57\xc0", 3, EXC_UD },
		{ 0, CR4_OSFXSR, 7, "\x0f\x57\xc0", 3, EXC_UD },
		{ 0, 0, 7, "\x0f\x57\xc0", 3, -1 },
		/* vxorps xmm0 */
		{ 0, 0, 7, "\xc5\xf8\x57\xc0", 4, -1 },
		{ CR0_TS, 0, 7, "\xc5\xf8\x57\xc0", 4, EXC_NM },
		{ 0, 0, 3, "\xc5\xf8\x57\xc0", 4, EXC_UD },
		{ 0, CR4_OSXSAVE, 7, "\xc5\xf8\x57\xc0", 4, EXC_UD },
		/* vpxord zmm0, kmovq k1, rax */
		{ 0, 0, 7, "\x62\xf1\x7d\x48\xef\xc0", 6, EXC_UD },
		{ 0, 0, 7, "\xc4\xe1\xfb\x92\xc8", 5, EXC_UD },
		/* andn eax: a general register, but VEX */
		{ CR0_TS, CR4_OSXSAVE, 1, "\xc4\xe2\x78\xf2\xc0", 5, -1 },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		rig_mode(&rig, 0, RIG_LONG, 0);
		st->cr0 |= cases[i].cr0;
		st->cr4 &= ~cases[i].cr4_clear;
		st->xcr0 = cases[i].xcr0;
		rig_code(&rig, cases[i].code, cases[i].len);
		assert_int_equal(rig_run(&rig, 0).vector, cases[i].vector);
	}
	/* VEX does not exist in real mode, whatever CR4 says. */
	rig_mode(&rig, 0, RIG_REAL, 0);
	st->cr4 |= CR4_OSXSAVE;
	st->xcr0 = 7;
	assert_int_equal(RIG_RUN(&rig, 0xc5, 0xf8, 0x57, 0xc0).vector, EXC_UD);
}

static void exceptions_arrive(void **state)
{
	struct rig_exception e;

	renew();
	/* fldcw [rbx]; fld1; fldz; fdivp; fnop */
	rig_mode(&rig, 0, RIG_LONG, 0);
	rig_write(&rig, AREA, 2, 0x37b);
	st->gpr[RBX] = AREA;
	e = RIG_RUN(&rig, 0xd9, 0x2b, 0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xd9,
		    0xd0);
	assert_int_equal(e.vector, EXC_MF);
	assert_int_equal(e.rip, RIG_CODE + 8);
	/* fwait sees it too */
	st->rip = RIG_CODE;
	e = RIG_RUN(&rig, 0x9b);
	assert_int_equal(e.vector, EXC_MF);
	/* and without NE nothing happens. */
	st->rip = RIG_CODE;
	st->cr0 &= ~CR0_NE;
	assert_int_equal(RIG_RUN(&rig, 0x9b).vector, -1);

	/* ldmxcsr [rbx]; divss xmm0, xmm1 with zeros */
	for (unsigned i = 0; i < 2; i++) {
		rig_mode(&rig, 0, RIG_LONG, 0);
		rig_write(&rig, AREA, 4, 0x1f80 & ~0x80U);
		st->gpr[RBX] = AREA;
		if (i)
			st->cr4 &= ~CR4_OSXMMEXCPT;
		e = RIG_RUN(&rig, 0x0f, 0xae, 0x13, 0xf3, 0x0f, 0x5e, 0xc1);
		assert_int_equal(e.vector, i ? EXC_UD : EXC_XM);
		assert_int_equal(e.rip, RIG_CODE + 3);
	}
}

/* XMM0 to XMM15 and YMM uppers from a pattern. */
static void fill_vectors(void)
{
	for (unsigned i = 0; i < 256; i++) {
		st->xsave[160 + i] = (uint8_t)(i ^ 0x5a);
		st->xsave[576 + i] = (uint8_t)(i ^ 0xa5);
	}
	st->xsave[512] = 7;
}

static void xsave_stores_what_is_asked_for(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->xcr0 = 7;
	fill_vectors();
	memset(gmem_at(&rig.mem, AREA, 0x1000), 0xee, 0x1000);
	rig_write(&rig, AREA + 512, 8, 1);
	st->gpr[RBX] = AREA;
	st->gpr[RAX] = ~3ULL; /* AVX, and all that the guest does not have */
	st->gpr[RDX] = ~0ULL;
	assert_int_equal(RIG_RUN(&rig, 0x48, 0x0f, 0xae, 0x23).vector, -1);
	assert_int_equal(rig_read(&rig, AREA, 8), 0xeeeeeeeeeeeeeeee);
	assert_int_equal(rig_read(&rig, AREA + 24, 4), 0x1f80);
	assert_int_equal(rig_read(&rig, AREA + 160, 8), 0xeeeeeeeeeeeeeeee);
	assert_int_equal(rig_read(&rig, AREA + 512, 8), 5);
	assert_int_equal(rig_read(&rig, AREA + 576, 1), 0xa5);
	assert_int_equal(rig_read(&rig, AREA + 576 + 255, 1), 0xff ^ 0xa5);
	/* Nothing behind AVX: no component that XCR0 does not have. */
	for (unsigned i = 832; i < 0x1000; i += 8)
		assert_int_equal(rig_read(&rig, AREA + i, 8),
				 0xeeeeeeeeeeeeeeee);
}

static void xsavec_and_xrstor_round_trip(void **state)
{
	if (!has(FEAT_XSAVEC))
		return;
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->xcr0 = 7;
	fill_vectors();
	memset(gmem_at(&rig.mem, AREA, 0x1000), 0, 0x1000);
	st->gpr[RBX] = AREA;
	st->gpr[RSI] = AREA2;
	st->gpr[RAX] = 7;
	/* xsavec [rbx]; vzeroall; xrstor [rbx]; fxsave [rsi] */
	assert_int_equal(RIG_RUN(&rig, 0x48, 0x0f, 0xc7, 0x23, 0xc5, 0xfc, 0x77,
				 0x48, 0x0f, 0xae, 0x2b, 0x48, 0x0f, 0xae, 0x06)
				 .vector,
			 -1);
	assert_int_equal(rig_read(&rig, AREA + 520, 8), 1ULL << 63 | 7);
	for (unsigned i = 0; i < 256; i++) {
		assert_int_equal(rig_read(&rig, AREA2 + 160 + i, 1), i ^ 0x5a);
		assert_int_equal(st->xsave[576 + i], i ^ 0xa5);
	}
}

static void xrstor_initializes_and_refuses(void **state)
{
	static const struct {
		unsigned at;
		uint64_t value;
		int vector;
	} cases[] = {
		{ 512, 0, -1 },
		{ 512, 1 << 3, EXC_GP }, /* no such component */
		{ 520, 1, EXC_GP },      /* not compacted, but a mask */
		{ 528, 1, EXC_GP },      /* reserved */
		{ 24, 0x10000, EXC_GP }, /* in MXCSR */
		{ 520, 1ULL << 63 | 1 << 3, EXC_GP },
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		rig_mode(&rig, 0, RIG_LONG, 0);
		st->xcr0 = 7;
		fill_vectors();
		memset(gmem_at(&rig.mem, AREA, 0x1000), 0, 0x1000);
		rig_write(&rig, AREA + 24, 4, 0x1f80);
		rig_write(&rig, AREA + cases[i].at, 8, cases[i].value);
		st->gpr[RBX] = AREA;
		st->gpr[RAX] = 7;
		assert_int_equal(RIG_RUN(&rig, 0x48, 0x0f, 0xae, 0x2b).vector,
				 cases[i].vector);
		/* An empty XSTATE_BV means initial state. */
		assert_int_equal(st->xsave[161],
				 cases[i].vector < 0 ? 0 : 1 ^ 0x5a);
	}
	/* Misaligned */
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->gpr[RBX] = AREA + 16;
	assert_int_equal(RIG_RUN(&rig, 0x48, 0x0f, 0xae, 0x2b).vector, EXC_GP);
}

static void xsave_needs_its_whole_area(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->xcr0 = 7;
	fill_vectors();
	memset(gmem_at(&rig.mem, PAGE_B - 0x1000, 0x1000), 0, 0x1000);
	rig_write(&rig, RIG_PT + (PAGE_B >> 12) * 8, 8, 0);
	st->gpr[RBX] = PAGE_B - 640; /* the AVX part leaves the page */
	st->gpr[RAX] = 7;
	assert_int_equal(RIG_RUN(&rig, 0x48, 0x0f, 0xae, 0x23).vector, EXC_PF);
	assert_int_equal(st->cr2, PAGE_B);
	assert_int_equal(rig_read(&rig, PAGE_B - 640 + 160, 8), 0);
	rig_write(&rig, RIG_PT + (PAGE_B >> 12) * 8, 8, PAGE_B | RIGHTS);
}

static uint32_t *xmm(unsigned n)
{
	return (uint32_t *)(void *)&st->xsave[160 + 16 * n];
}

static void gather_keeps_what_it_has(void **state)
{
	if (!has(FEAT_AVX2))
		return;
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->xcr0 = 7;
	st->xsave[512] = 7;
	rig_write(&rig, RIG_PT + (PAGE_B >> 12) * 8, 8, 0);
	for (unsigned i = 0; i < 4; i++) {
		xmm(0)[i] = 0x100 + i;               /* destination */
		xmm(1)[i] = i == 1 ? 0 : 0x80000000; /* mask */
		xmm(2)[i] = i == 3 ? 0x1000 : i * 4; /* index */
		rig_write(&rig, PAGE_B - 0x1000 + i * 4, 4, 0xaa00 + i);
	}
	st->gpr[RBX] = PAGE_B - 0x1000;
	/* vpgatherdd xmm0, [rbx + xmm2], xmm1 */
	assert_int_equal(
		RIG_RUN(&rig, 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x13).vector,
		EXC_PF);
	assert_int_equal(st->cr2, PAGE_B);
	assert_int_equal(xmm(0)[0], 0xaa00);
	assert_int_equal(xmm(0)[1], 0x101);
	assert_int_equal(xmm(0)[2], 0xaa02);
	assert_int_equal(xmm(0)[3], 0x103);
	assert_int_equal(xmm(1)[0], 0);
	assert_int_equal(xmm(1)[3], 0xffffffff);
	/* With the page there it goes on. */
	rig_write(&rig, RIG_PT + (PAGE_B >> 12) * 8, 8, PAGE_B | RIGHTS);
	rig_write(&rig, PAGE_B, 4, 0xbb);
	st->rip = RIG_CODE;
	assert_int_equal(rig_run(&rig, 0).vector, -1);
	assert_int_equal(xmm(0)[3], 0xbb);
	assert_int_equal(xmm(0)[0], 0xaa00);
	assert_int_equal(xmm(1)[3], 0);
}

static void masked_moves_touch_what_is_selected(void **state)
{
	renew();
	if (!has(FEAT_AVX))
		return;
	for (unsigned selected = 0; selected < 4; selected++) {
		int vector = selected < 2 ? -1 : EXC_PF;

		rig_mode(&rig, 0, RIG_LONG, 0);
		st->xcr0 = 7;
		st->xsave[512] = 7;
		rig_write(&rig, RIG_PT + (PAGE_B >> 12) * 8, 8, 0);
		rig_write(&rig, PAGE_B - 8, 8, 0x1111111122222222);
		for (unsigned i = 0; i < 4; i++) {
			xmm(0)[i] = i + 1;
			xmm(1)[i] = i == selected ? 0x80000000 : 0;
		}
		st->gpr[RBX] = PAGE_B - 8;
		/* vmaskmovps [rbx], xmm1, xmm0; vmaskmovps xmm2, xmm1, [rbx] */
		assert_int_equal(RIG_RUN(&rig, 0xc4, 0xe2, 0x71, 0x2e, 0x03,
					 0xc4, 0xe2, 0x71, 0x2c, 0x13)
					 .vector,
				 vector);
		if (vector == EXC_PF) {
			assert_int_equal(st->cr2, PAGE_B);
			continue;
		}
		assert_int_equal(rig_read(&rig, PAGE_B - 8, 4),
				 selected ? 0x22222222 : 1);
		assert_int_equal(rig_read(&rig, PAGE_B - 4, 4),
				 selected ? 2 : 0x11111111);
		assert_int_equal(xmm(2)[selected], selected + 1);
	}
	rig_write(&rig, RIG_PT + (PAGE_B >> 12) * 8, 8, PAGE_B | RIGHTS);
}

/* C code between instructions must not find, nor leave, anything in the
 * registers: a device's handler runs with the host's. */
static uint64_t device_read(void *dev, unsigned cpu, uint64_t offset,
			    unsigned size)
{
	double d[4] = { 1, 2, 3, 4 };

	for (volatile int i = 0; i < 4; i++)
		d[i] *= d[3 - i] + offset;
	return (uint64_t)d[0] + (uint64_t)d[1];
}

static const struct bus_ops device_ops = { .read = device_read };

static void devices_do_not_disturb_the_state(void **state)
{
	bus_map(rig.vs.mmio, 0x20000000, 0x1000, "dev", &device_ops, NULL,
		NULL);
	rig_mode(&rig, 0, RIG_LONG, 0);
	st->xcr0 = 7;
	fill_vectors();
	st->gpr[RBX] = 0x20000000;
	st->gpr[RSI] = AREA;
	/* fld1; movups xmm5, xmm5; mov eax, [rbx]; fxsave [rsi] */
	assert_int_equal(RIG_RUN(&rig, 0xd9, 0xe8, 0x0f, 0x10, 0xed, 0x8b, 0x03,
				 0x48, 0x0f, 0xae, 0x06)
				 .vector,
			 -1);
	assert_int_equal(rig_read(&rig, AREA + 4, 1), 0x80);
	assert_int_equal(rig_read(&rig, AREA + 40, 2), 0x3fff);
	for (unsigned i = 0; i < 256; i++) {
		assert_int_equal(rig_read(&rig, AREA + 160 + i, 1), i ^ 0x5a);
		assert_int_equal(st->xsave[576 + i], i ^ 0xa5);
	}
	bus_unmap(rig.vs.mmio, 0x20000000);
}

static void host_addresses_do_not_leak(void **state)
{
	rig_mode(&rig, 0, RIG_LONG, 0);
	memset(gmem_at(&rig.mem, AREA, 0x1000), 0xee, 0x1000);
	st->gpr[RBX] = AREA;
	/* fld1; fnstenv [rbx]; fxsave [rbx + 0x200]; fnsave [rbx + 0x100] */
	assert_int_equal(RIG_RUN(&rig, 0xd9, 0xe8, 0xd9, 0x33, 0x48, 0x0f, 0xae,
				 0x83, 0, 2, 0, 0, 0xdd, 0xb3, 0, 1, 0, 0)
				 .vector,
			 -1);
	assert_int_equal(rig_read(&rig, AREA + 12, 8), 0);
	assert_int_equal(rig_read(&rig, AREA + 20, 8), 0);
	assert_int_equal(rig_read(&rig, AREA + 0x100 + 12, 8), 0);
	assert_int_equal(rig_read(&rig, AREA + 0x200 + 8, 8), 0);
	assert_int_equal(rig_read(&rig, AREA + 0x200 + 16, 8), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(use_is_checked),
		cmocka_unit_test(exceptions_arrive),
		cmocka_unit_test(xsave_stores_what_is_asked_for),
		cmocka_unit_test(xsavec_and_xrstor_round_trip),
		cmocka_unit_test(xrstor_initializes_and_refuses),
		cmocka_unit_test(xsave_needs_its_whole_area),
		cmocka_unit_test(gather_keeps_what_it_has),
		cmocka_unit_test(masked_moves_touch_what_is_selected),
		cmocka_unit_test(devices_do_not_disturb_the_state),
		cmocka_unit_test(host_addresses_do_not_leak),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
