/*
 * Segments: loads, far transfers, call gates, and the instructions that look
 * at descriptors (SDM volume 3, chapters 3 and 5).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "box.h"

static int setup(void **state)
{
	*state = box_create(false);
	return 0;
}

static int teardown(void **state)
{
	box_destroy(*state);
	return 0;
}

GUEST(int3, 32, "int3");
GUEST(mov_ds, 32, "mov %ax, %ds; hlt");
GUEST(mov_ss, 32, "mov %ax, %ss; hlt");

struct sel_case {
	uint16_t sel;
	int vector; /* -1: fine */
	uint32_t error;
};

static void check_load(struct box *b, const struct sel_case *c, unsigned n,
		       const uint8_t *code, enum seg seg)
{
	for (unsigned i = 0; i < n; i++) {
		box_protected(b);
		b->st.gpr[RAX] = c[i].sel;
		box_write(b, BOX_CODE, code, 3);
		assert_int_equal(box_run(b), c[i].vector);
		if (c[i].vector >= 0) {
			assert_int_equal(box_stack(b, 0, 4), c[i].error);
			assert_int_equal(box_stack(b, 1, 4), BOX_CODE);
			assert_int_equal(b->st.seg[seg].sel, DATA0);
		} else {
			assert_int_equal(b->st.seg[seg].sel, c[i].sel);
		}
	}
}

static void data_segment_loads(void **state)
{
	static const struct sel_case cases[] = {
		{ 0, -1, 0 },
		{ 3, -1, 0 },
		{ DATA0, -1, 0 },
		{ DATA3, -1, 0 },
		{ DATA_RO, -1, 0 },
		{ CODE0, -1, 0 },
		{ CONFORMING | 3, -1, 0 },
		{ DATA0 | 3, EXC_GP, DATA0 },
		{ 0x200, EXC_GP, 0x200 },
		{ TSS, EXC_GP, TSS },
		{ CODE_XO, EXC_GP, CODE_XO },
		{ DATA_NP, EXC_NP, DATA_NP },
		{ 0x10 | 4, EXC_GP, 0x14 }, /* there is no LDT */
	};
	struct box *b = *state;

	b->st.ldtr.attr = ATTR_UNUSABLE;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct sel_case c = cases[i];

		box_protected(b);
		seg_set_null(&b->st.ldtr, 0);
		b->st.gpr[RAX] = c.sel;
		BOX_LOAD(b, BOX_CODE, mov_ds);
		assert_int_equal(box_run(b), c.vector);
		if (c.vector >= 0)
			assert_int_equal(box_stack(b, 0, 4), c.error);
		else
			assert_int_equal(b->st.seg[SEG_DS].sel, c.sel);
	}
	/* the accessed bit was set in memory */
	assert_int_equal(box_peek(b, BOX_GDT + CODE_XO + 5, 1), 0x98);
	box_protected(b);
	b->st.gpr[RAX] = DATA3;
	BOX_LOAD(b, BOX_CODE, mov_ds);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(box_peek(b, BOX_GDT + (DATA3 & ~3) + 5, 1), 0xf3);
}

static void stack_segment_loads(void **state)
{
	static const struct sel_case cases[] = {
		{ DATA0, -1, 0 },
		{ 0x30 & ~3, EXC_GP, 0x30 },
		{ 0, EXC_GP, 0 },
		{ DATA0 | 1, EXC_GP, DATA0 },
		{ DATA3, EXC_GP, DATA3 & ~3 },
		{ DATA_RO, EXC_GP, DATA_RO },
		{ CODE0, EXC_GP, CODE0 },
		{ DATA_NP, EXC_SS, DATA_NP },
		{ 0x200, EXC_GP, 0x200 },
	};

	check_load(*state, cases, ARRAY_SIZE(cases), mov_ss, SEG_SS);
}

GUEST(use_null, 32, "mov %ax, %ds; mov 0x1000, %ecx; hlt");
GUEST(use_ro, 32, "mov %ax, %ds; mov %ecx, 0x15000; hlt");
GUEST(use_down, 32, "mov %ax, %ds; mov 0x8000, %ecx; mov 8, %ecx; hlt");

static void segments_are_used_as_loaded(void **state)
{
	struct box *b = *state;

	box_protected(b);
	b->st.gpr[RAX] = 0;
	BOX_LOAD(b, BOX_CODE, use_null);
	assert_int_equal(box_run(b), EXC_GP);
	box_protected(b);
	b->st.gpr[RAX] = DATA_RO;
	BOX_LOAD(b, BOX_CODE, use_ro);
	assert_int_equal(box_run(b), EXC_GP);
	/* expand-down: above the limit is inside */
	box_protected(b);
	b->st.gpr[RAX] = DATA_DOWN;
	BOX_LOAD(b, BOX_CODE, use_down);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 1, 4), BOX_CODE + 8);
}

GUEST(unreal, 16, "mov %ax, %ds; mov 0x1234, %cx; hlt");

static void real_mode_segments_are_paragraphs(void **state)
{
	struct box *b = *state;

	box_real(b);
	b->st.gpr[RAX] = 0x1400;
	box_poke(b, 0x14000 + 0x1234, 2, 0xabcd);
	BOX_LOAD(b, BOX_CODE, unreal);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RCX] & 0xffff, 0xabcd);
	assert_int_equal(b->st.seg[SEG_DS].base, 0x14000);
}

GUEST(null_ss_64, 64, "mov %ax, %ss; hlt");

static void null_stack_segments_are_for_64_bit_kernels(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.gpr[RAX] = 0;
	BOX_LOAD(b, BOX_CODE, null_ss_64);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(x86_cpl(&b->st), 0);
	box_long(b);
	b->st.gpr[RAX] = 1;
	assert_int_equal(box_run(b), EXC_GP);
	box_long(b);
	box_level(b, 3, true);
	b->st.gpr[RAX] = 3;
	BOX_LOAD(b, BOX_USER, null_ss_64);
	assert_int_equal(box_run(b), EXC_GP);
}

GUEST(les, 32, "les 0x14000, %ecx; hlt");
GUEST(push_pop, 32, "push %ds; pop %es; hlt");
GUEST(pop_bad, 32, "pop %es; hlt");

static void far_pointers_and_stack_forms(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_poke(b, 0x14000, 4, 0x11223344);
	box_poke(b, 0x14004, 2, DATA3);
	BOX_LOAD(b, BOX_CODE, les);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RCX], 0x11223344);
	assert_int_equal(b->st.seg[SEG_ES].sel, DATA3);
	/* a bad selector leaves the register alone */
	box_protected(b);
	box_poke(b, 0x14004, 2, 0x200);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(b->st.gpr[RCX], 0);
	box_protected(b);
	b->st.seg[SEG_DS].sel = DATA3;
	BOX_LOAD(b, BOX_CODE, push_pop);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.seg[SEG_ES].sel, DATA3);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 0x800);
	/* and RSP */
	box_protected(b);
	box_poke(b, BOX_STACK0 - 0x800, 4, DATA_NP);
	BOX_LOAD(b, BOX_CODE, pop_bad);
	assert_int_equal(box_run(b), EXC_NP);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 0x800 - 16);
}

/* ---- Far transfers ------------------------------------------------------- */

/* LJMP or LCALL to (sel):(offset). */
static void far_insn(struct box *b, uint64_t gpa, uint8_t opcode, uint16_t sel,
		     uint32_t offset)
{
	box_poke(b, gpa, 1, opcode);
	box_poke(b, gpa + 1, 4, offset);
	box_poke(b, gpa + 5, 2, sel);
}

static void far_jumps_check_code_segments(void **state)
{
	static const struct sel_case cases[] = {
		{ CODE0, EXC_BP, BOX_USER + 1 },
		{ CONFORMING, EXC_BP, BOX_USER + 1 },
		{ CONFORMING | 3, EXC_BP, BOX_USER + 1 },
		{ 0, EXC_GP, 0 },
		{ 0x200, EXC_GP, 0x200 },
		{ DATA0, EXC_GP, DATA0 },
		{ CODE0 | 1, EXC_GP, CODE0 },
		{ CODE3, EXC_GP, CODE3 & ~3 },
		{ CODE_NP, EXC_NP, CODE_NP },
		{ LDT, EXC_GP, LDT },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		for (unsigned call = 0; call < 2; call++) {
			box_protected(b);
			far_insn(b, BOX_CODE, call ? 0x9a : 0xea, cases[i].sel,
				 BOX_USER);
			BOX_LOAD(b, BOX_USER, int3);
			assert_int_equal(box_run(b), cases[i].vector);
			assert_int_equal(box_stack(b, 0, 4), cases[i].error);
			if (call && cases[i].vector == EXC_BP) {
				assert_int_equal(box_stack(b, 3, 4),
						 BOX_CODE + 7);
				assert_int_equal(box_stack(b, 4, 4), CODE0);
			}
		}
	}
	/* outside the limit */
	box_protected(b);
	box_segment(b, CODE1 & ~3, 0, 0xfff, 0x9a, 4);
	far_insn(b, BOX_CODE, 0xea, CODE1 & ~3, 0x1000);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), 0);
}

static void conforming_code_keeps_the_level(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_level(b, 3, false);
	far_insn(b, BOX_USER, 0xea, CONFORMING, BOX_CODE);
	BOX_LOAD(b, BOX_CODE, int3);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 1, 4), CONFORMING | 3);
	assert_int_equal(box_stack(b, 4, 4), DATA3);
}

GUEST(lret_n, 32, "lret $8");

/* (A1, A2) Ring 3 calls rings 0, 1 and 2 through gates and comes back. */
static void a1_call_gates_to_every_ring(void **state)
{
	static const uint16_t code[] = { CODE0, CODE1 & ~3, CODE2 & ~3 };
	static const uint32_t stack[] = { BOX_STACK0, BOX_STACK1, BOX_STACK2 };
	struct box *b = *state;

	for (unsigned ring = 0; ring < 3; ring++) {
		uint32_t sp = BOX_STACK3 - 0x800;

		box_protected(b);
		box_level(b, 3, false);
		box_call_gate(b, GATE, code[ring], BOX_CODE, 0xec, 2);
		box_poke(b, sp, 4, 0x11111111);
		box_poke(b, sp + 4, 4, 0x22222222);
		far_insn(b, BOX_USER, 0x9a, GATE | 3, 0xdead);
		BOX_LOAD(b, BOX_USER + 7, int3);
		BOX_LOAD(b, BOX_CODE, lret_n);
		assert_int_equal(box_run(b), EXC_BP);
		/* back at CPL 3, behind the call, parameters released */
		assert_int_equal(box_stack(b, 0, 4), BOX_USER + 8);
		assert_int_equal(box_stack(b, 1, 4), CODE3);
		assert_int_equal(box_stack(b, 3, 4), sp + 8);
		/* the inner stack: EIP CS parameters ESP SS */
		if (ring) {
			uint32_t at = stack[ring] - 24;

			assert_int_equal(box_peek(b, at, 4), BOX_USER + 7);
			assert_int_equal(box_peek(b, at + 8, 4), 0x11111111);
			assert_int_equal(box_peek(b, at + 12, 4), 0x22222222);
			assert_int_equal(box_peek(b, at + 16, 4), sp);
			assert_int_equal(box_peek(b, at + 20, 4), DATA3);
		}
	}
}

/* (A1) What only ring 0 may do is #GP in rings 1 to 3. */
static void a1_privileged_instructions(void **state)
{
	static const uint8_t insns[][4] = {
		{ 0xf4 },             /* hlt */
		{ 0x0f, 0x20, 0xc0 }, /* mov %cr0, %eax */
		{ 0x0f, 0x22, 0xc0 }, /* mov %eax, %cr0 */
		{ 0x0f, 0x21, 0xc0 }, /* mov %dr0, %eax */
		{ 0x0f, 0x06 },       /* clts */
		{ 0x0f, 0x08 },       /* invd */
		{ 0x0f, 0x09 },       /* wbinvd */
		{ 0x0f, 0x30 },       /* wrmsr */
		{ 0x0f, 0x32 },       /* rdmsr */
		{ 0x0f, 0x01, 0x10 }, /* lgdt (%eax) */
		{ 0x0f, 0x01, 0x18 }, /* lidt (%eax) */
		{ 0x0f, 0x00, 0xd0 }, /* lldt %ax */
		{ 0x0f, 0x00, 0xd8 }, /* ltr %ax */
		{ 0x0f, 0x01, 0xf0 }, /* lmsw %ax */
		{ 0x0f, 0x01, 0x38 }, /* invlpg (%eax) */
		{ 0x0f, 0x35 },       /* sysexit */
		{ 0xfa },             /* cli */
		{ 0xfb },             /* sti */
		{ 0xec },             /* in */
	};
	struct box *b = *state;

	for (unsigned ring = 1; ring < 4; ring++) {
		for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
			box_protected(b);
			box_level(b, ring, false);
			b->st.gpr[RAX] = BOX_DATA;
			b->st.gpr[RDX] = 0x100;
			box_write(b, BOX_USER, insns[i], 4);
			assert_int_equal(box_run(b), EXC_GP);
			assert_int_equal(box_stack(b, 0, 4), 0);
			assert_int_equal(box_stack(b, 1, 4), BOX_USER);
		}
	}
}

static void call_gates_are_checked(void **state)
{
	static const struct {
		uint16_t cs, sel;
		uint8_t access, opcode;
		int vector;
		uint32_t error;
	} cases[] = {
		/* the gate's DPL and the selector's RPL */
		{ CODE0, GATE | 3, 0x8c, 0x9a, EXC_GP, GATE },
		{ CODE0, GATE | 3, 0x6c, 0x9a, EXC_NP, GATE },
		{ 0, GATE | 3, 0xec, 0x9a, EXC_GP, 0 },
		{ 0x200, GATE | 3, 0xec, 0x9a, EXC_GP, 0x200 },
		{ DATA0, GATE | 3, 0xec, 0x9a, EXC_GP, DATA0 },
		{ CODE_NP, GATE | 3, 0xec, 0x9a, EXC_NP, CODE_NP },
		/* JMP does not change the level */
		{ CODE0, GATE | 3, 0xec, 0xea, EXC_GP, CODE0 },
		{ CODE3 & ~3, GATE | 3, 0xec, 0xea, EXC_BP, BOX_CODE + 1 },
		{ CONFORMING, GATE | 3, 0xec, 0x9a, EXC_BP, BOX_CODE + 1 },
		/* 16 bits */
		{ CODE0, GATE | 3, 0xe4, 0x9a, EXC_BP, 1 },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		box_protected(b);
		box_level(b, 3, false);
		box_call_gate(b, GATE, cases[i].cs, BOX_CODE, cases[i].access,
			      0);
		far_insn(b, BOX_USER, cases[i].opcode, cases[i].sel, 0);
		BOX_LOAD(b, BOX_CODE, int3);
		BOX_LOAD(b, BOX_CODE & 0xffff, int3);
		assert_int_equal(box_run(b), cases[i].vector);
		assert_int_equal(box_stack(b, 0, 4), cases[i].error);
	}
}

GUEST(call_gate64, 64, "lcall *0x14000; int3");
GUEST(lretq, 64, "lretq");

static void call_gate_in_long_mode(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_level(b, 3, true);
	box_call_gate(b, GATE, CODE0_64, BOX_CODE, 0xec, 0);
	box_poke(b, BOX_GDT + GATE + 8, 8, 0);
	box_poke(b, 0x14000, 4, 0);
	box_poke(b, 0x14004, 2, GATE | 3);
	BOX_LOAD(b, BOX_USER, call_gate64);
	BOX_LOAD(b, BOX_CODE, lretq);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 1, 8), CODE3_64);
	assert_int_equal(box_stack(b, 3, 8), BOX_STACK3 - 0x800);
	assert_int_equal(box_stack(b, 0, 8), BOX_USER + 8);
	/* EIP CS RSP SS, eight bytes each, on the stack of level 0 */
	box_poke(b, BOX_CODE, 1, 0xcc);
	b->st.rip = BOX_USER;
	box_level(b, 3, true);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 3, 8), BOX_STACK0 - 32);
	assert_int_equal(box_stack(b, 4, 8), 0);
	/* the second half's type must be zero */
	box_level(b, 3, true);
	box_poke(b, BOX_GDT + GATE + 8, 8, 0x0000090000000000);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), GATE);
	/* and the target 64-bit code */
	box_level(b, 3, true);
	box_poke(b, BOX_GDT + GATE + 8, 8, 0);
	box_call_gate(b, GATE, CODE0, BOX_CODE, 0xec, 0);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), CODE0);
	/* tasks are no more */
	box_long(b);
	box_poke(b, 0x14004, 2, SEL_TSS2);
	BOX_LOAD(b, BOX_CODE, call_gate64);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), SEL_TSS2);
}

GUEST(lret32, 32, "lret");

static void far_returns_are_checked(void **state)
{
	static const struct {
		uint16_t cs, ss;
		int vector;
		uint32_t error;
	} cases[] = {
		{ CODE0, 0, EXC_BP, BOX_USER + 1 },
		{ 0, 0, EXC_GP, 0 },
		{ DATA0, 0, EXC_GP, DATA0 },
		{ CODE_NP, 0, EXC_NP, CODE_NP },
		{ CODE0 | 1, 0, EXC_GP, CODE0 },
		{ CODE3, DATA3, EXC_BP, BOX_USER + 1 },
		{ CODE1, DATA1, EXC_BP, BOX_USER + 1 },
		{ CODE3, DATA0, EXC_GP, DATA0 },
		{ CODE3, 0, EXC_GP, 0 },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		const uint32_t frame[] = { BOX_USER, cases[i].cs, BOX_STACK3,
					   cases[i].ss };

		box_protected(b);
		b->st.gpr[RSP] = BOX_STACK0 - 0x100;
		box_write(b, BOX_STACK0 - 0x100, frame, sizeof(frame));
		BOX_LOAD(b, BOX_CODE, lret32);
		BOX_LOAD(b, BOX_USER, int3);
		assert_int_equal(box_run(b), cases[i].vector);
		assert_int_equal(box_stack(b, 0, 4), cases[i].error);
	}
	/* inward is not allowed */
	box_protected(b);
	box_level(b, 3, false);
	box_poke(b, BOX_STACK3 - 0x800, 4, BOX_CODE);
	box_poke(b, BOX_STACK3 - 0x7fc, 4, CODE0);
	BOX_LOAD(b, BOX_USER, lret32);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), CODE0);
}

GUEST(to_protected, 16,
      "mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
      "ljmpl $0x08, $0x12000");
GUEST(in_protected, 32, "mov $0x10, %ax; mov %ax, %ds; mov %ax, %ss; hlt");

static void real_to_protected_mode(void **state)
{
	struct box *b = *state;
	struct x86_dtr idtr;

	box_protected(b);
	box_real(b);
	idtr = b->st.idtr;
	b->st.gdtr = (struct x86_dtr){ BOX_GDT, 0xff };
	BOX_LOAD(b, BOX_CODE, to_protected);
	BOX_LOAD(b, BOX_USER, in_protected);
	assert_int_equal(box_run(b), -1);
	assert_true(b->st.cr0 & CR0_PE);
	assert_int_equal(b->st.seg[SEG_CS].limit, 0xffffffff);
	assert_int_equal(b->st.idtr.limit, idtr.limit);
}

/* ---- Looking ------------------------------------------------------------- */

GUEST(lar_lsl, 32,
      "lar %ax, %ebx; pushf; lsl %ax, %ecx; pushf; verr %ax; pushf\n"
      "verw %ax; pushf; hlt");

/* (A7) The guest's own descriptors answer. */
static void a7_lar_lsl_verr_verw(void **state)
{
	static const struct {
		uint16_t sel;
		unsigned cpl;
		unsigned zf; /* LAR LSL VERR VERW from bit 3 down */
		uint32_t rights, limit;
	} cases[] = {
		{ DATA3, 3, 0xf, 0xcff300, 0xffffffff },
		{ CODE3, 3, 0xe, 0xcffb00, 0xffffffff },
		{ DATA0, 3, 0, 0, 0 },
		{ DATA0, 0, 0xf, 0xcf9300, 0xffffffff },
		{ DATA0 | 3, 0, 0, 0, 0 },
		{ CONFORMING, 3, 0xe, 0xcf9e00, 0xffffffff },
		{ CODE_XO, 0, 0xc, 0xcf9800, 0xffffffff },
		{ DATA_RO, 0, 0xe, 0xcf9000, 0xffffffff },
		{ TSS, 0, 0xc, 0x008b00, 0x2ff },
		{ LDT, 0, 0xc, 0x008200, 0xff },
		{ TASK_GATE_SEL, 0, 0x8, 0x00e500, 0 },
		{ 0, 0, 0, 0, 0 },
		{ 0x200, 0, 0, 0, 0 },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		uint32_t sp;
		unsigned zf = 0;

		box_protected(b);
		/* accessed, as if they had been loaded */
		b->ram[BOX_GDT + DATA0 + 5] |= 1;
		b->ram[BOX_GDT + (DATA3 & ~3) + 5] |= 1;
		b->ram[BOX_GDT + (CODE3 & ~3) + 5] |= 1;
		box_level(b, cases[i].cpl, false);
		sp = (uint32_t)b->st.gpr[RSP];
		b->st.gpr[RAX] = cases[i].sel;
		b->st.gpr[RBX] = b->st.gpr[RCX] = 0;
		BOX_LOAD(b, BOX_USER, lar_lsl);
		box_run(b);
		for (unsigned n = 0; n < 4; n++)
			zf = zf << 1 |
			     (box_peek(b, sp - 4 - 4 * n, 4) >> 6 & 1);
		assert_int_equal(zf, cases[i].zf);
		assert_int_equal(b->st.gpr[RBX], cases[i].rights);
		assert_int_equal(b->st.gpr[RCX], cases[i].limit);
	}
}

GUEST(arpl, 32, "arpl %cx, %ax; hlt");

static void arpl_raises_rpl(void **state)
{
	struct box *b = *state;

	box_protected(b);
	b->st.gpr[RAX] = 0x18;
	b->st.gpr[RCX] = 3;
	BOX_LOAD(b, BOX_CODE, arpl);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RAX], 0x1b);
	assert_true(b->st.rflags & FLAG_ZF);
	b->st.rip = BOX_CODE;
	b->st.gpr[RCX] = 1;
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RAX], 0x1b);
	assert_false(b->st.rflags & FLAG_ZF);
	/* not in real mode */
	box_real(b);
	BOX_LOAD(b, BOX_CODE, arpl);
	assert_int_equal(box_run(b), EXC_UD);
}

GUEST(store_tables, 64,
      "sgdt 0x14000; sidt 0x14010; sldt %eax; str %ecx\n"
      "smsw %rbx; mov %cs, %edx; hlt");

/* (A7) The unprivileged instructions that would show the host's tables show
 * the guest's, at CPL 3 as well. */
static void a7_store_instructions_show_the_guests_tables(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_level(b, 3, true);
	b->st.ldtr.sel = LDT;
	BOX_LOAD(b, BOX_USER, store_tables);
	assert_int_equal(box_run(b), EXC_GP); /* HLT at CPL 3 */
	assert_int_equal(box_peek(b, 0x14000, 2), BOX_GDT_LIMIT);
	assert_int_equal(box_peek(b, 0x14002, 8), BOX_GDT);
	assert_int_equal(box_peek(b, 0x14010, 2), 0xfff);
	assert_int_equal(box_peek(b, 0x14012, 8), BOX_IDT);
	assert_int_equal(b->st.gpr[RAX], LDT);
	assert_int_equal(b->st.gpr[RCX], TSS);
	assert_int_equal(b->st.gpr[RBX], b->st.cr0);
	assert_int_equal(b->st.gpr[RDX], CODE3_64);
	assert_int_equal(b->cpu->trap_counts[OP_SIDT], 1);
}

GUEST(load_tables, 32, "lgdt 0x14000; lidt 0x14010; lldt %ax; ltr %cx; hlt");

static void system_registers_are_loaded_and_checked(void **state)
{
	static const struct {
		uint16_t ldt, tr;
		int vector;
		uint32_t error;
	} cases[] = {
		{ LDT, SEL_TSS2, -1, 0 },
		{ 0, SEL_TSS16, -1, 0 },
		{ DATA0, SEL_TSS2, EXC_GP, DATA0 },
		{ LDT | 4, SEL_TSS2, EXC_GP, LDT | 4 },
		{ 0x200, SEL_TSS2, EXC_GP, 0x200 },
		{ LDT, 0, EXC_GP, 0 },
		{ LDT, TSS, EXC_GP, TSS }, /* busy */
		{ LDT, LDT, EXC_GP, LDT },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		box_protected(b);
		box_poke(b, 0x14000, 2, 0xff);
		box_poke(b, 0x14002, 4, BOX_GDT);
		box_poke(b, 0x14010, 2, 0x7ff);
		box_poke(b, 0x14012, 4, BOX_IDT);
		b->st.gpr[RAX] = cases[i].ldt;
		b->st.gpr[RCX] = cases[i].tr;
		BOX_LOAD(b, BOX_CODE, load_tables);
		assert_int_equal(box_run(b), cases[i].vector);
		assert_int_equal(b->st.idtr.limit, 0x7ff);
		if (cases[i].vector < 0)
			assert_int_equal(b->st.tr.sel, cases[i].tr);
		else
			assert_int_equal(box_stack(b, 0, 4), cases[i].error);
	}
	/* a descriptor that is not there */
	box_protected(b);
	box_segment(b, LDT, BOX_LDT, 0xff, 0x02, 0);
	b->st.gpr[RAX] = LDT;
	assert_int_equal(box_run(b), EXC_NP);
	assert_int_equal(box_stack(b, 0, 4), LDT);
}

GUEST(ldt_use, 32, "lldt %ax; mov %cx, %ds; mov 0, %ebx; hlt");

static void ldt_segments(void **state)
{
	struct box *b = *state;

	box_protected(b);
	/* data at BOX_DATA, 16 bytes */
	box_poke(b, BOX_LDT + 8, 8, 0x000092014000000f);
	box_poke(b, BOX_DATA, 4, 0xfeedface);
	b->st.gpr[RAX] = LDT;
	b->st.gpr[RCX] = 8 | 4;
	BOX_LOAD(b, BOX_CODE, ldt_use);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RBX], 0xfeedface);
}

GUEST(fsbase, 64,
      "mov $0x14000, %eax; wrfsbase %rax; mov %fs:8, %rbx\n"
      "rdfsbase %rcx; mov $0x8000000000000000, %rax; wrgsbase %rax; hlt");
GUEST(swapgs, 64, "swapgs; rdgsbase %rax; hlt");

static void fs_and_gs_bases(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_poke(b, 0x14008, 8, 0x1122334455667788);
	BOX_LOAD(b, BOX_CODE, fsbase);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(b->st.gpr[RBX], 0x1122334455667788);
	assert_int_equal(b->st.gpr[RCX], 0x14000);
	box_long(b);
	b->st.cr4 &= ~CR4_FSGSBASE;
	assert_int_equal(box_run(b), EXC_UD);
	box_long(b);
	b->st.kernel_gs_base = 0xffff800000000000;
	b->st.seg[SEG_GS].base = 0x1234;
	BOX_LOAD(b, BOX_CODE, swapgs);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RAX], 0xffff800000000000);
	assert_int_equal(b->st.kernel_gs_base, 0x1234);
	box_long(b);
	box_level(b, 3, true);
	BOX_LOAD(b, BOX_USER, swapgs);
	assert_int_equal(box_run(b), EXC_GP);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(data_segment_loads),
		T(stack_segment_loads),
		T(segments_are_used_as_loaded),
		T(real_mode_segments_are_paragraphs),
		T(null_stack_segments_are_for_64_bit_kernels),
		T(far_pointers_and_stack_forms),
		T(far_jumps_check_code_segments),
		T(conforming_code_keeps_the_level),
		T(a1_call_gates_to_every_ring),
		T(a1_privileged_instructions),
		T(call_gates_are_checked),
		T(call_gate_in_long_mode),
		T(far_returns_are_checked),
		T(real_to_protected_mode),
		T(a7_lar_lsl_verr_verw),
		T(arpl_raises_rpl),
		T(a7_store_instructions_show_the_guests_tables),
		T(system_registers_are_loaded_and_checked),
		T(ldt_segments),
		T(fs_and_gs_bases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
