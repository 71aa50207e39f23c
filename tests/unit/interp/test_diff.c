/*
 * Random instructions with random operands and state, under the processor and
 * on the host's CPU: registers, flags, FPU state, memory and exceptions must
 * come out the same.
 *
 *   test_diff [cases [seed]]	or DIFF_CASES and DIFF_SEED
 *
 * Both sides see the same addresses: a window of pages, in low memory so that
 * 32-bit code reaches it, with code, data, a read-only page, and nothing
 * around it. Operands are steered into the window after decoding; what cannot
 * be steered is not run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "host_cpu.h"
#include "rig.h"
#include "vcpu/insn/decode.h"
#include "vcpu/interp/cpu.h"

#define WINDOW       0x80000000ULL /* 2 GiB */
#define CODE         (WINDOW + 0x10000)
#define CODE_PAGES   2
#define DATA         (WINDOW + 0x20000)
#define DATA_PAGES   4 /* and one that is read-only */
#define WINDOW_SIZE  0x80000
#define CODE_GPA     0x100000
#define DATA_GPA     0x110000
#define WINDOW_PD    0xa000
#define WINDOW_PT    0xb000

#define MAX_FAILURES 10
#define FLAGS_SEEN   (FLAGS_STATUS | FLAG_DF | FLAG_AC | FLAG_IF | FLAG_TF)

static struct rig rig;
static struct insn_features features;
static uint64_t cases = 1000000, seed = 1, rng_state, xsave_mask;
static uint8_t *guest_code, *guest_data;
static uint8_t *const host_code = (uint8_t *)CODE;
static uint8_t *const host_data = (uint8_t *)DATA;

/** One instruction and what it starts from. */
struct test {
	enum insn_mode mode;
	uint8_t bytes[16];
	struct insn insn;
	struct x86_state st;
};

static unsigned counts[NR_OPS], exceptions[32];

/* ---- Random values ------------------------------------------------------- */

static uint64_t rnd(void)
{
	rng_state ^= rng_state << 13;
	rng_state ^= rng_state >> 7;
	rng_state ^= rng_state << 17;
	return rng_state * 0x2545f4914f6cdd1dULL;
}

static unsigned rnd_below(unsigned n)
{
	return (unsigned)((rnd() >> 32) * n >> 32);
}

static bool chance(unsigned percent)
{
	return rnd_below(100) < percent;
}

static uint64_t rnd_value(void)
{
	switch (rnd_below(6)) {
	case 0:
		return rnd_below(64);
	case 1:
		return (uint64_t) - (int64_t)rnd_below(64);
	case 2:
		return 1ULL << rnd_below(64);
	case 3:
		return (1ULL << rnd_below(64)) - 1;
	case 4:
		return rnd() >> rnd_below(64);
	default:
		return rnd();
	}
}

/* An address for a memory operand. */
static uint64_t rnd_target(void)
{
	uint64_t at = rnd_below((DATA_PAGES + 1) * PAGE_SIZE);

	if (chance(25)) /* about a page's end, also the window's */
		at = rnd_below(DATA_PAGES + 3) * PAGE_SIZE - rnd_below(96);
	if (chance(60))
		at &= ~(uint64_t)((8 << rnd_below(4)) - 1);
	return DATA + at;
}

/* Floating-point values of which many are ordinary. */
static uint64_t rnd_double(void)
{
	static const uint64_t special[] = {
		0,
		0x8000000000000000,
		0x7ff0000000000000,
		0xfff8000000000000,
		0x7ff0000000000001,
		1,
		0x3ff0000000000000,
		0x000fffffffffffff,
	};
	double d;
	uint64_t v;

	if (chance(15))
		return special[rnd_below(ARRAY_SIZE(special))];
	d = (double)(int64_t)rnd_value() / (1 + rnd_below(1000));
	memcpy(&v, &d, 8);
	return v;
}

static uint64_t rnd_float2(void)
{
	float f[2];
	uint64_t v;

	for (unsigned i = 0; i < 2; i++)
		f[i] = (float)(int32_t)rnd() / (float)(1 + rnd_below(1000));
	memcpy(&v, f, 8);
	return chance(80) ? v : rnd();
}

static uint64_t rnd_vector(void)
{
	switch (rnd_below(4)) {
	case 0:
		return rnd_double();
	case 1:
		return rnd_float2();
	case 2:
		return rnd_value();
	default:
		return rnd();
	}
}

/* ---- State ---------------------------------------------------------------- */

static void put(uint8_t *x, unsigned at, uint64_t value)
{
	memcpy(x + at, &value, 8);
}

static void st_randomize(uint8_t *x, unsigned i)
{
	long double v =
		(long double)(int64_t)rnd_value() / (1 + rnd_below(1000));
	uint8_t *st = x + 32 + 16 * i;

	memset(st, 0, 16);
	if (chance(80)) {
		memcpy(st, &v, 10);
	} else {
		put(st, 0, rnd());
		put(st, 8, rnd() & 0xffff);
	}
}

/* A fresh FPU state, all of it. */
static void fpu_randomize(uint8_t *x)
{
	memset(x, 0, XSAVE_SIZE);
	put(x, 0, 0x37f);
	for (unsigned i = 0; i < 8; i++)
		st_randomize(x, i);
	x[4] = (uint8_t)rnd();
	for (unsigned i = 160; i < 416; i += 8)
		put(x, i, rnd_vector());
	put(x, 24, 0xffff00001f80);
	for (unsigned i = 576; i < 2696; i += 8)
		put(x, i, rnd_vector());
	/* What is between the components belongs to none. */
	memset(x + 832, 0, 1088 - 832);
	put(x, 512, xsave_mask);
}

/* Change a little of it. */
static void fpu_stir(uint8_t *x)
{
	static const unsigned areas[][2] = {
		{ 160, 32 },  { 576, 32 },   { 1088, 8 },
		{ 1152, 64 }, { 1664, 128 },
	};
	uint16_t fcw = 0x37f;

	for (unsigned i = 0; i < 6; i++) {
		unsigned a = rnd_below(xsave_mask & XCR0_AVX512 ? 5 : 2);

		put(x, areas[a][0] + 8 * rnd_below(areas[a][1]), rnd_vector());
	}
	st_randomize(x, rnd_below(8));
	if (chance(50)) {
		if (chance(30))
			fcw = (uint16_t)((rnd() & 0xf3f) | 0x40);
		memcpy(x, &fcw, 2);
		/* TOP, condition codes, no exceptions */
		x[2] = 0;
		x[3] = (uint8_t)(rnd() & 0x7f);
		x[4] = (uint8_t)(chance(50) ? rnd() : 0xffU << rnd_below(8));
	}
	if (chance(50)) {
		uint32_t mxcsr = 0x1f80;

		if (chance(30))
			mxcsr = (uint32_t)(rnd() & 0xe040) | 0x1f80;
		if (chance(10))
			mxcsr = (uint32_t)(rnd() & 0xffff);
		memcpy(x + 24, &mxcsr, 4);
	}
	put(x, 512, xsave_mask);
}

/* ---- Instructions ----------------------------------------------------------- */

static unsigned add_prefixes(uint8_t *b, bool is_64)
{
	static const uint8_t segs[] = { 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65 };
	unsigned n = 0;

	if (chance(5))
		b[n++] = segs[rnd_below(is_64 ? 6 : 4)];
	if (chance(6))
		b[n++] = 0x67;
	if (chance(25))
		b[n++] = 0x66;
	if (chance(15))
		b[n++] = chance(50) ? 0xf2 : 0xf3;
	if (chance(5))
		b[n++] = 0xf0;
	return n;
}

static unsigned add_vex(uint8_t *b, bool is_64)
{
	unsigned n = 0;

	if (chance(30)) {
		b[n++] = 0xc5;
		b[n++] = (uint8_t)rnd();
	} else {
		b[n++] = 0xc4;
		b[n++] = (uint8_t)((rnd() & 0xe0) | (1 + rnd_below(3)));
		b[n++] = (uint8_t)rnd();
	}
	if (!is_64)
		b[1] |= 0xc0;
	if (chance(50))
		b[n - 1] |= 0x78; /* vvvv: none */
	return n;
}

static unsigned add_evex(uint8_t *b, bool is_64)
{
	static const uint8_t maps[] = { 1, 1, 2, 2, 3, 3, 5, 6 };

	b[0] = 0x62;
	b[1] = (uint8_t)((rnd() & 0xf0) | maps[rnd_below(8)]);
	b[2] = (uint8_t)(rnd() | 4);
	b[3] = (uint8_t)rnd();
	if (!is_64)
		b[1] |= 0xc0;
	if (chance(50)) {
		b[2] |= 0x78;
		b[3] |= 8;
	}
	if (chance(60))
		b[3] &= 0x6f; /* no broadcast, no zeroing */
	return 4;
}

/* Bytes that may be an instruction. */
static void generate(struct test *t)
{
	bool is_64 = t->mode == MODE_64;
	unsigned n = add_prefixes(t->bytes, is_64), kind = rnd_below(100);

	if (is_64 && chance(50) && kind < 65)
		t->bytes[n++] = (uint8_t)(0x40 | (rnd() & 15));
	if (kind < 25) {
		;
	} else if (kind < 55) {
		t->bytes[n++] = 0x0f;
	} else if (kind < 60) {
		t->bytes[n++] = 0x0f;
		t->bytes[n++] = chance(70) ? 0x38 : 0x3a;
	} else if (kind < 65) {
		t->bytes[n++] = (uint8_t)(0xd8 | rnd_below(8));
	} else {
		if (chance(90))
			n = 0;
		n += kind < 83 ? add_vex(t->bytes + n, is_64)
			       : add_evex(t->bytes + n, is_64);
	}
	while (n < 16)
		t->bytes[n++] = (uint8_t)rnd();
}

/* What both sides can run, at level 3, with the same result every time. */
static bool is_wanted(const struct insn *i)
{
	if (!insn_has_feature(&features, i->feature) ||
	    ((i->flags & INSN_EVEX) &&
	     !insn_has_feature(&features, FEAT_AVX512F)))
		return false;
	switch (i->op) {
	case OP_NATIVE:
		return i->feature != FEAT_RDRAND && i->feature != FEAT_RDSEED;
	case OP_ADD ... OP_SCAS:
		break;
	case OP_NOP:
	case OP_UD:
	case OP_FWAIT:
	case OP_FXSAVE:
	case OP_FXRSTOR:
	case OP_XSAVE:
	case OP_XSAVEOPT:
	case OP_XSAVEC:
	case OP_XRSTOR:
	case OP_GATHER:
	case OP_SCATTER:
	case OP_MASKMOV:
		return true;
	default:
		return false;
	}
	switch (i->op) {
	case OP_XCHG:
		/* PAUSE or not, with REX.B: makers differ. */
		return i->map || i->opcode != 0x90 ||
		       !(i->prefixes & PREFIX_F3);
	case OP_JMP_FAR ... OP_SYSEXIT:
		return false;
	case OP_JMP:
	case OP_JCC:
	case OP_CALL:
	case OP_JCXZ:
	case OP_LOOP:
	case OP_LOOPE:
	case OP_LOOPNE:
	case OP_JMP_IND:
	case OP_CALL_IND:
	case OP_RET:
		return i->opsize >= 4;
	default:
		return true;
	}
}

/* Change four bytes of the instruction. */
static void patch(struct test *t, unsigned at, uint64_t value)
{
	for (unsigned i = 0; i < 4; i++)
		t->bytes[at + i] = (uint8_t)(value >> (8 * i));
}

static uint64_t segment_base(const struct test *t, unsigned seg)
{
	return t->mode == MODE_64 && seg >= SEG_FS ? t->st.seg[seg].base : 0;
}

/* Without a register in its address: put the address into the bytes. */
static bool steer_disp(struct test *t, uint64_t target)
{
	const struct insn *i = &t->insn;
	unsigned at = i->modrm_off + 1U;

	if (!i->modrm_off) { /* moffs */
		memset(&t->bytes[i->op_off + 1], 0, i->addrsize);
		patch(t, i->op_off + 1U, target);
		if (i->addrsize == 2)
			return false;
	} else {
		if ((i->modrm & 7) == 4)
			at++;
		if (i->flags & INSN_RIPREL)
			target -= t->st.rip + i->len;
		patch(t, at, target);
	}
	return insn_decode(&t->insn, t->bytes, 15, t->mode) == INSN_OK;
}

/* Small indexes for gathers. */
static void steer_vector_index(struct test *t)
{
	const struct insn *i = &t->insn;
	uint8_t *x = t->st.xsave;
	unsigned r = i->index;

	for (unsigned n = 0; n < 8; n++) {
		unsigned at = r >= 16 ? 1664 + (r - 16) * 64 + n * 8
			      : n < 2 ? 160 + r * 16 + n * 8
			      : n < 4 ? 576 + r * 16 + (n - 2) * 8
				      : 1152 + r * 32 + (n - 4) * 8;
		uint64_t a = (uint64_t)((int64_t)rnd_below(2000) - 1000);
		uint64_t b = (uint64_t)((int64_t)rnd_below(2000) - 1000);

		if (i->opcode & 1)
			put(x, at, a);
		else
			put(x, at, (uint32_t)a | b << 32);
	}
}

static bool steer_operand(struct test *t)
{
	struct insn *i = &t->insn;
	uint64_t target = rnd_target(), *gpr = t->st.gpr, disp;
	bool is_vsib = i->op == OP_GATHER || i->op == OP_SCATTER;
	unsigned scale;

	if (i->addrsize == 2)
		return false;
	target -= segment_base(t, i->seg);
	if (i->addrsize == 4 && segment_base(t, i->seg))
		return false;
	if (is_vsib)
		steer_vector_index(t);
	if (i->base == INSN_NONE && (i->index == INSN_NONE || is_vsib)) {
		if (segment_base(t, i->seg))
			return false;
		return steer_disp(t, target);
	}
	disp = (uint64_t)i->disp;
	if (i->index == INSN_NONE || is_vsib) {
		gpr[i->base] = target - disp;
	} else if (i->base != INSN_NONE && i->base != i->index) {
		gpr[i->base] = target - disp - (gpr[i->index] << i->scale_log2);
	} else {
		scale = (1U << i->scale_log2) + (i->base == i->index);
		/* Only without a wrap can it be divided. */
		if ((int64_t)disp > (int64_t)target || (int64_t)disp < 0)
			return false;
		gpr[i->index] = (target - disp) / scale;
	}
	if (i->addrsize == 4 && i->base != INSN_NONE && chance(50) &&
	    t->mode == MODE_64)
		gpr[i->base] ^= rnd() << 32;
	return true;
}

/* Write the same to both memories. */
static bool poke(uint64_t gva, uint64_t value, unsigned size)
{
	uint64_t at = gva - DATA;

	if (at > DATA_PAGES * PAGE_SIZE - size)
		return false;
	memcpy(host_data + at, &value, size);
	memcpy(guest_data + at, &value, size);
	return true;
}

/* Would a branch to (target) run pieces of the instruction again? */
static bool is_inside(const struct test *t, uint64_t target)
{
	return target - t->st.rip < sizeof(t->bytes);
}

static uint64_t rnd_code_target(const struct test *t)
{
	uint64_t target;

	if (chance(3) && t->mode == MODE_64)
		return 0x800000000000ULL << rnd_below(4);
	do
		target = CODE + rnd_below(CODE_PAGES * PAGE_SIZE);
	while (is_inside(t, target));
	return target;
}

static uint64_t effective(const struct test *t)
{
	const struct insn *i = &t->insn;
	uint64_t ea = (uint64_t)i->disp;

	if (i->flags & INSN_RIPREL)
		ea += t->st.rip + i->len;
	if (i->base != INSN_NONE)
		ea += t->st.gpr[i->base];
	if (i->index != INSN_NONE)
		ea += t->st.gpr[i->index] << i->scale_log2;
	ea &= size_mask(i->addrsize);
	return ea + segment_base(t, i->seg);
}

static bool steer_branch(struct test *t)
{
	struct insn *i = &t->insn;

	if (i->op == OP_RET || i->op == OP_CALL_IND || i->op == OP_CALL)
		t->st.gpr[RSP] = rnd_target();
	if (i->op == OP_RET) {
		return poke(t->st.gpr[RSP], rnd_code_target(t), i->opsize);
	} else if (i->form == FORM_IMM) {
		if (i->map == 1 || i->opcode == 0xe8 || i->opcode == 0xe9) {
			patch(t, i->len - 4U,
			      (uint64_t)((int)rnd_below(2000) - 1000));
			insn_decode(&t->insn, t->bytes, 15, t->mode);
		}
		return !is_inside(t, t->st.rip + i->len + (uint64_t)i->imm);
	} else if (i->flags & INSN_MEM) {
		if (i->base == RSP || i->index == RSP)
			return false;
		return poke(effective(t), rnd_code_target(t), i->opsize);
	} else {
		t->st.gpr[i->rm] = rnd_code_target(t);
		if (i->rm == RSP)
			return i->op == OP_JMP_IND;
	}
	return true;
}

static void steer_string(struct test *t)
{
	uint64_t *gpr = t->st.gpr;

	gpr[RSI] = rnd_target();
	gpr[RDI] = chance(30) ? gpr[RSI] + rnd_below(32) : rnd_target();
	gpr[RCX] = chance(80) ? rnd_below(40) : rnd_below(6000);
	if (t->insn.addrsize == 4 && t->mode == MODE_64) {
		gpr[RSI] ^= rnd() << 32;
		gpr[RDI] ^= rnd() << 32;
		gpr[RCX] ^= rnd() << 32;
	}
	/* Long runs of the same, for REPE. */
	if (chance(30)) {
		uint64_t fill = chance(50) ? 0 : gpr[RAX] & 0xff;

		for (unsigned i = 0; i < 24; i++) {
			poke(gpr[RDI] + i, fill, 1);
			poke(gpr[RSI] + i, fill, 1);
		}
	}
}

static bool steer_stack(struct test *t)
{
	struct insn *i = &t->insn;
	uint64_t *gpr = t->st.gpr;

	if ((i->flags & INSN_MEM) && (i->base == RSP || i->index == RSP))
		return i->op == OP_PUSH; /* both are the same register */
	gpr[RSP] = rnd_target();
	if (i->op == OP_LEAVE || i->op == OP_ENTER)
		gpr[RBP] = rnd_target();
	if (i->op == OP_ENTER && i->imm > 0x4000)
		return false;
	if (i->op == OP_POPF)
		return poke(gpr[RSP],
			    (rnd() & (FLAGS_STATUS | FLAG_DF | FLAG_AC)) |
				    FLAG_IF | FLAG_ONE,
			    i->opsize);
	return true;
}

static bool is_xsave(const struct insn *i)
{
	return i->op >= OP_XSAVE && i->op <= OP_XRSTOR;
}

/* Components that the guest has too, and an area that may be loaded. */
static bool steer_xsave(struct test *t)
{
	const struct insn *i = &t->insn;
	uint64_t at, bv = rnd() & xsave_mask, comp;

	if (i->base == RAX || i->base == RDX || i->index == RAX ||
	    i->index == RDX)
		return false;
	t->st.gpr[RDX] = 0;
	t->st.gpr[RAX] = chance(30) ? xsave_mask : rnd() & xsave_mask;
	at = effective(t);
	if (chance(90)) {
		/* Aligned, if the address allows that. */
		if (i->base == INSN_NONE || i->base == i->index)
			return false;
		t->st.gpr[i->base] -= at & 63;
		at &= ~63ULL;
	}
	/* Outside 64-bit mode not all of the area is used, but is checked. */
	if (t->mode == MODE_32 && at - DATA > PAGE_SIZE)
		return false;
	if (at - DATA > 3 * PAGE_SIZE)
		return true;
	comp = chance(60) ? 0 : 1ULL << 63 | bv | (rnd() & xsave_mask);
	poke(at + 24, chance(90) ? 0x1f80 : rnd(), 4);
	poke(at + 512, chance(95) ? bv : xsave_mask, 8);
	poke(at + 520, comp, 8);
	for (unsigned n = 16; n < 64; n += 8)
		poke(at + 512 + n, chance(99) ? 0 : 1, 8);
	return true;
}

/* Values that an instruction does something interesting with. */
static void steer_values(struct test *t)
{
	struct insn *i = &t->insn;
	uint64_t *gpr = t->st.gpr, rm = 0, at;
	bool uses_rdx =
		(i->flags & INSN_MEM) && (i->base == RDX || i->index == RDX);
	bool uses_rax =
		(i->flags & INSN_MEM) && (i->base == RAX || i->index == RAX);

	if (i->flags & INSN_MEM) {
		at = effective(t) - DATA;
		if (at < DATA_PAGES * PAGE_SIZE - 16)
			memcpy(&rm, host_data + at, 8);
	} else if (i->rm < NR_GPR) {
		rm = gpr[i->rm];
	}
	switch (i->op) {
	case OP_DIV:
	case OP_IDIV:
		if (chance(70) && !uses_rdx && !uses_rax && i->rm != RDX) {
			gpr[RDX] = 0;
			gpr[RAX] &= 0xff7fff7f7fff7f7fULL;
		}
		break;
	case OP_CMPXCHG:
		if (chance(50) && !uses_rax)
			gpr[RAX] = rm;
		break;
	case OP_CMPXCHG8B:
		if (chance(50) && !uses_rax && !uses_rdx) {
			gpr[RAX] = rm;
			gpr[RDX] = rm >> 32;
		}
		break;
	default:
		break;
	}
}

/* Make (t)'s operands lie where both sides may touch them. */
static bool steer(struct test *t)
{
	struct insn *i = &t->insn;
	bool is_bt = i->op >= OP_BT && i->op <= OP_BTC;

	if (i->op == OP_LEA)
		return true;
	/* Which comes first, the segment's fault or the FPU's? */
	if (i->seg == SEG_CS && (i->flags & (INSN_X87 | INSN_VECTOR)))
		return false;
	if (t->mode == MODE_32 && i->seg >= SEG_FS)
		return false;
	if (is_bt && (i->flags & INSN_MEM) && i->form == FORM_RM_REG) {
		if (i->reg == i->base || i->reg == i->index)
			return false;
		t->st.gpr[i->reg] = (uint64_t)((int)rnd_below(4000) - 2000);
	}
	if (i->op >= OP_PUSH && i->op <= OP_LEAVE && !steer_stack(t))
		return false;
	if (i->op >= OP_MOVS && i->op <= OP_SCAS)
		steer_string(t);
	if (i->op == OP_XLAT)
		t->st.gpr[RBX] = rnd_target() - segment_base(t, i->seg);
	if ((i->flags & INSN_MEM) && !steer_operand(t))
		return false;
	if (is_xsave(i) && !steer_xsave(t))
		return false;
	if ((i->flags & INSN_BRANCH) && !steer_branch(t))
		return false;
	if (i->op == OP_XLAT && i->addrsize < 8 && segment_base(t, i->seg))
		return false;
	steer_values(t);
	return true;
}

static void test_make(struct test *t)
{
	struct x86_state *st = &t->st;

	do {
		/* The code may straddle its two pages. */
		st->rip = CODE + 0x800;
		if (chance(10))
			st->rip = CODE + PAGE_SIZE - rnd_below(16);
		t->mode = chance(75) ? MODE_64 : MODE_32;
		generate(t);
		if (insn_decode(&t->insn, t->bytes, 15, t->mode) ||
		    !is_wanted(&t->insn))
			continue;
		for (unsigned i = 0; i < NR_GPR; i++)
			st->gpr[i] = rnd_value();
		if (t->mode == MODE_32) {
			for (unsigned i = 0; i < 8; i++)
				st->gpr[i] = (uint32_t)st->gpr[i];
		}
		st->rflags = (rnd() & FLAGS_STATUS) | FLAG_ONE | FLAG_IF;
		if (chance(20))
			st->rflags |= FLAG_DF;
		if (chance(3))
			st->rflags |= FLAG_AC;
		if (steer(t))
			break;
	} while (true);
	if (t->mode == MODE_32)
		for (unsigned i = 0; i < 8; i++)
			st->gpr[i] = (uint32_t)st->gpr[i];
}

/* ---- Running and comparing ----------------------------------------------------- */

static void print_test(const struct test *t, const struct x86_state *in)
{
	printf("# %s-bit", t->mode == MODE_64 ? "64" : "32");
	for (unsigned i = 0; i < t->insn.len; i++)
		printf(" %02x", t->bytes[i]);
	printf("  (%s)\n#", insn_op_name(t->insn.op));
	for (unsigned i = 0; i < NR_GPR; i++)
		printf(" r%u=%llx", i, (unsigned long long)in->gpr[i]);
	printf(" rip=%llx fl=%llx fcw=%02x%02x mxcsr=%02x%02x\n",
	       (unsigned long long)in->rip, (unsigned long long)in->rflags,
	       in->xsave[1], in->xsave[0], in->xsave[25], in->xsave[24]);
}

static unsigned differs(const char *what, uint64_t guest, uint64_t host)
{
	if (guest == host)
		return 0;
	printf("#   %s: guest %llx, host %llx\n", what,
	       (unsigned long long)guest, (unsigned long long)host);
	return 1;
}

/* The last x87 instruction's opcode and addresses are not kept. */
static void forget_pointers(uint8_t *x)
{
	memset(x + 6, 0, 18);
	memset(x + 28, 0, 4);
	for (unsigned i = 0; i < 8; i++)
		memset(x + 32 + 16 * i + 10, 0, 6);
}

static unsigned compare_fpu(struct x86_state *guest, struct x86_state *host,
			    bool is_mmx, bool is_fault)
{
	unsigned bad = 0;

	forget_pointers(guest->xsave);
	forget_pointers(host->xsave);
	/* An MMX instruction that faults may have reset TOP. */
	if (is_mmx && is_fault)
		memcpy(guest->xsave, host->xsave, 160);
	for (unsigned i = 0; i < 2696; i += 8) {
		uint64_t g, h;

		if ((i >= 416 && i < 576) || (i >= 832 && i < 1088))
			continue;
		memcpy(&g, guest->xsave + i, 8);
		memcpy(&h, host->xsave + i, 8);
		if (g != h) {
			printf("#   fpu+%u: guest %016llx, host %016llx\n", i,
			       (unsigned long long)g, (unsigned long long)h);
			bad = 1;
		}
	}
	return bad;
}

/* Is byte (i) of memory one of the pointers in a state image? FNSTENV and
 * FNSAVE have them in several places. */
static bool is_pointer(const struct test *t, unsigned at)
{
	const struct insn *i = &t->insn;

	if (i->op == OP_FXSAVE || is_xsave(i))
		return at + DATA - effective(t) - 6 < 18;
	return (i->flags & INSN_X87) && !i->map &&
	       (i->opcode == 0xd9 || i->opcode == 0xdd) &&
	       (i->flags & INSN_MEM) && (i->modrm >> 3 & 7) >= 6;
}

static unsigned compare_memory(const struct test *t)
{
	unsigned bad = 0;

	if (!memcmp(guest_data, host_data, DATA_PAGES * PAGE_SIZE))
		return 0;
	for (unsigned i = 0; i < DATA_PAGES * PAGE_SIZE; i++) {
		if (guest_data[i] == host_data[i])
			continue;
		/* A fault may leave half of an 80-bit number stored, or some
		 * of PUSHA's. */
		if (!is_pointer(t, i) && t->insn.mem_size != 10 &&
		    t->insn.op != OP_PUSHA && bad++ < 4)
			printf("#   %llx: guest %02x, host %02x\n", DATA + i,
			       guest_data[i], host_data[i]);
		guest_data[i] = host_data[i];
	}
	return bad;
}

static unsigned compare(const struct test *t, struct x86_state *guest,
			const struct rig_exception *e, struct x86_state *host,
			const struct host_result *r)
{
	static const char *const names[] = {
		"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
		"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
	};
	unsigned bad = 0, nr = t->mode == MODE_64 ? 16 : 8;
	uint64_t mask = t->mode == MODE_64 ? ~0ULL : 0xffffffff;

	/* A bad header, or memory that is not there: either comes first. */
	if (t->insn.op == OP_XRSTOR && e->vector == EXC_GP &&
	    r->vector == EXC_PF)
		return 0;
	guest->gpr[RSP] = e->rsp;
	bad += differs("vector", (uint64_t)e->vector, (uint64_t)r->vector);
	/* Low memory is here, but not level 3's; the kernel's is on the host. */
	if (!bad && e->has_error && t->insn.mem_size <= 64 &&
	    !is_xsave(&t->insn) && !(t->insn.flags & INSN_ELEMENTS) &&
	    !(e->vector == EXC_PF &&
	      (guest->cr2 < 2 * MiB || guest->cr2 >> 63)))
		bad += differs("error code", e->error, r->error);
	/* Which byte of a long operand is touched first, CPUs decide. */
	if (!bad && e->vector == EXC_PF && t->insn.mem_size <= 64 &&
	    !is_xsave(&t->insn) && !(t->insn.flags & INSN_ELEMENTS))
		bad += differs("cr2",
			       guest->cr2 & ~(t->insn.mem_size > 8 ? 4095 : 0),
			       r->cr2 & ~(t->insn.mem_size > 8 ? 4095 : 0));
	bad += differs("rip", e->rip, host->rip);
	bad += differs("flags", e->rflags & FLAGS_SEEN,
		       host->rflags & FLAGS_SEEN);
	/* POPA may have popped some when it faults. */
	if (t->insn.op == OP_POPA && e->vector != EXC_BP)
		nr = 0;
	for (unsigned i = 0; i < nr; i++)
		bad += differs(names[i], guest->gpr[i] & mask,
			       host->gpr[i] & mask);
	/* XRSTOR may have loaded something when it finds MXCSR bad. */
	if (t->insn.op == OP_XRSTOR && e->vector != EXC_BP)
		memcpy(guest->xsave, host->xsave, XSAVE_SIZE);
	bad += compare_fpu(guest, host,
			   (t->insn.flags & INSN_X87) && t->insn.map,
			   e->vector != EXC_BP);
	bad += compare_memory(t);
	if (e->vector >= 0 && e->vector < 32)
		exceptions[e->vector]++;
	return bad;
}

static void code_put(const struct test *t)
{
	uint64_t at = t->st.rip - CODE;

	memcpy(host_code + at, t->bytes, t->insn.len);
	memcpy(guest_code + at, t->bytes, t->insn.len);
	gmem_mark_written(&rig.mem, CODE_GPA + at, t->insn.len);
}

static void code_remove(const struct test *t)
{
	uint64_t at = t->st.rip - CODE;

	memset(host_code + at, 0xcc, t->insn.len);
	memset(guest_code + at, 0xcc, t->insn.len);
	gmem_mark_written(&rig.mem, CODE_GPA + at, t->insn.len);
}

static bool test_run(struct test *t, struct x86_state *next)
{
	static struct x86_state in, host;
	struct x86_state *guest = &rig.st[0];
	struct rig_exception e;
	struct host_result r;
	bool is_32 = t->mode == MODE_32;
	unsigned bad;

	counts[t->insn.op]++;
	in = t->st;
	host = t->st;
	*guest = t->st;
	if (is_32) {
		guest->seg[SEG_CS].attr &= (uint16_t)~ATTR_L;
		guest->seg[SEG_CS].attr |= ATTR_DB;
	}
	code_put(t);
	r = host_cpu_run(&host, is_32);
	e = rig_run(&rig, 0);
	code_remove(t);
	bad = compare(t, guest, &e, &host, &r);
	if (bad) {
		printf("#   vector %d, %d\n", e.vector, r.vector);
		print_test(t, &in);
	}
	memcpy(next->xsave, host.xsave, XSAVE_SIZE);
	return !bad;
}

/* ---- The window ------------------------------------------------------------------- */

static void window_make(void)
{
	void *p =
		mmap((void *)WINDOW, WINDOW_SIZE, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	const uint64_t rights = PTE_P | PTE_W | PTE_U;

	assert_true(p == (void *)WINDOW);
	assert_int_equal(mprotect(host_code, CODE_PAGES * PAGE_SIZE,
				  PROT_READ | PROT_WRITE | PROT_EXEC),
			 0);
	assert_int_equal(mprotect(host_data, (DATA_PAGES + 1) * PAGE_SIZE,
				  PROT_READ | PROT_WRITE),
			 0);
	memset(host_code, 0xcc, CODE_PAGES * PAGE_SIZE);
	for (unsigned i = 0; i < (DATA_PAGES + 1) * PAGE_SIZE; i += 8)
		put(host_data, i, rnd_vector());
	guest_code = gmem_at(&rig.mem, CODE_GPA, CODE_PAGES * PAGE_SIZE);
	guest_data = gmem_at(&rig.mem, DATA_GPA, (DATA_PAGES + 1) * PAGE_SIZE);
	/* Stores to some pages take the way of those that have code. */
	for (uint64_t i = 0; i < DATA_PAGES; i += 2)
		rig.mem.region[0].page_flags[DATA_GPA / PAGE_SIZE + i] |=
			GMEM_PAGE_CODE;
	memcpy(guest_code, host_code, CODE_PAGES * PAGE_SIZE);
	memcpy(guest_data, host_data, (DATA_PAGES + 1) * PAGE_SIZE);
	mprotect(host_data + DATA_PAGES * PAGE_SIZE, PAGE_SIZE, PROT_READ);

	/* Nothing else is mapped for level 3. */
	rig_write(&rig, RIG_PD, 8, RIG_PT | PTE_P | PTE_W);
	for (unsigned i = 1; i < 512; i++)
		rig_write(&rig, RIG_PD + i * 8, 8, 0);
	rig_write(&rig, RIG_PDPT + 16, 8, WINDOW_PD | rights);
	rig_write(&rig, WINDOW_PD, 8, WINDOW_PT | rights);
	for (unsigned i = 0; i < CODE_PAGES; i++)
		rig_write(&rig, WINDOW_PT + (0x10 + i) * 8, 8,
			  (CODE_GPA + i * PAGE_SIZE) | rights);
	for (unsigned i = 0; i <= DATA_PAGES; i++)
		rig_write(&rig, WINDOW_PT + (0x20 + i) * 8, 8,
			  (DATA_GPA + i * PAGE_SIZE) | PTE_NX |
				  (i < DATA_PAGES ? rights : PTE_P | PTE_U));
}

static void state_make(struct test *t)
{
	uint64_t fs, gs;

	rig_mode(&rig, 0, RIG_LONG, 3);
	t->st = rig.st[0];
	t->st.cr0 |= CR0_AM;
	__asm__("rdfsbase %0; rdgsbase %1" : "=r"(fs), "=r"(gs));
	t->st.seg[SEG_FS].base = fs;
	t->st.seg[SEG_GS].base = gs;
	fpu_randomize(t->st.xsave);
}

static void interp_equals_host(void **state)
{
	static struct test t;
	unsigned failures = 0, nr_ops = 0;

	rng_state = seed * 0x9e3779b97f4a7c15ULL | 1;
	rig_create(&rig, &ACCEL, 1, 2 * MiB);
	cpuid_features(&rig.vs.cpuid, &features);
	xsave_mask = cpuid_xcr0_mask(&rig.vs.cpuid);
	window_make();
	host_cpu_begin(xsave_mask);
	state_make(&t);
	for (uint64_t n = 0; n < cases && failures < MAX_FAILURES; n++) {
		fpu_stir(t.st.xsave);
		test_make(&t);
		if (!test_run(&t, &t.st))
			failures++;
	}
	host_cpu_end();
	for (unsigned i = 0; i < NR_OPS; i++)
		nr_ops += counts[i] > 0;
	printf("# %llu cases, seed %llu, %u operations, %u native; "
	       "#PF %u, #GP %u, #UD %u, #AC %u, #MF %u, #XM %u, #DE %u\n",
	       (unsigned long long)cases, (unsigned long long)seed, nr_ops,
	       counts[OP_NATIVE], exceptions[14], exceptions[13], exceptions[6],
	       exceptions[17], exceptions[16], exceptions[19], exceptions[0]);
	rig_destroy(&rig);
	munmap((void *)WINDOW, WINDOW_SIZE);
	assert_int_equal(failures, 0);
}

static uint64_t setting(int argc, char **argv, int n, const char *name,
			uint64_t value)
{
	if (argc > n)
		return strtoull(argv[n], NULL, 0);
	return getenv(name) ? strtoull(getenv(name), NULL, 0) : value;
}

int main(int argc, char **argv)
{
#ifdef __SANITIZE_ADDRESS__
	/* Its instrumented code uses the registers that are compared. */
	printf("1..0 # SKIP not under the address sanitizer\n");
	return 0;
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(interp_equals_host),
	};

	cases = setting(argc, argv, 1, "DIFF_CASES", cases);
	seed = setting(argc, argv, 2, "DIFF_SEED", seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
