/*
 * Exceptions and interrupts: gates, stack switches, error codes, double and
 * triple faults, IRET, task switches (SDM volume 3, chapters 6 and 7).
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

GUEST(int80, 32, "int $0x80");
GUEST(int3, 32, "int3");
GUEST(int1, 32, ".byte 0xf1");
GUEST(ud, 32, "nop; ud2");
GUEST(hlt, 32, "hlt");
GUEST(int40, 32, "int $0x40");
GUEST(nops, 32, "nop; nop; nop; hlt");
GUEST(iret32, 32, "iretl");
GUEST(iret16, 32, "iretw");
GUEST(iret64, 64, "iretq");

/* ---- Real mode ----------------------------------------------------------- */

static void real_mode_int_pushes_words(void **state)
{
	struct box *b = *state;

	box_real(b);
	b->st.rflags |= FLAG_IF | FLAG_CF;
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), 0x80);
	assert_int_equal(box_stack(b, 0, 2), 2);
	assert_int_equal(box_stack(b, 1, 2), BOX_CODE / 16);
	assert_int_equal(box_stack(b, 2, 2), 2 | FLAG_IF | FLAG_CF);
	assert_int_equal(b->st.gpr[RSP], 0x800 - 6);
	assert_false(b->st.rflags & FLAG_IF);
}

static void real_mode_fault_returns_to_the_instruction(void **state)
{
	struct box *b = *state;

	box_real(b);
	BOX_LOAD(b, BOX_CODE, ud);
	assert_int_equal(box_run(b), EXC_UD);
	assert_int_equal(box_stack(b, 0, 2), 1);
	/* no error code in real mode */
	assert_int_equal(b->st.gpr[RSP], 0x800 - 6);
}

static void real_mode_short_idt_shuts_down(void **state)
{
	struct box *b = *state;

	box_real(b);
	b->st.idtr.limit = 3;
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), -2);
	assert_int_equal(b->st.activity, ACT_SHUTDOWN);
	b->st.activity = ACT_RUNNING;
}

/* ---- Protected mode ------------------------------------------------------ */

/* (A3) INT at CPL 3 switches to the stack of the TSS, IRET goes back. */
static void a3_int_from_user_and_back(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_level(b, 3, false);
	BOX_LOAD(b, BOX_USER, int80);
	BOX_LOAD(b, BOX_USER + 2, int3);
	BOX_LOAD(b, BOX_HANDLERS + 0x800, iret32);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(x86_cpl(&b->st), 0);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 20);
	assert_int_equal(box_stack(b, 0, 4), BOX_USER + 3);
	assert_int_equal(box_stack(b, 1, 4), CODE3);
	assert_int_equal(box_stack(b, 3, 4), BOX_STACK3 - 0x800);
	assert_int_equal(box_stack(b, 4, 4), DATA3);
	assert_int_equal(b->st.seg[SEG_SS].sel, DATA0);
}

static void int_of_a_privileged_gate_is_gp(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_level(b, 3, false);
	BOX_LOAD(b, BOX_USER, int40);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), 0x40 * 8 + 2);
	assert_int_equal(box_stack(b, 1, 4), BOX_USER);
	/* the fault sets RF in the saved flags */
	assert_true(box_stack(b, 3, 4) & FLAG_RF);
}

static void int1_does_not_look_at_the_gates_dpl(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_level(b, 3, false);
	b->st.dr[7] |= 0;
	BOX_LOAD(b, BOX_USER, int1);
	assert_int_equal(box_run(b), EXC_DB);
	assert_int_equal(box_stack(b, 0, 4), BOX_USER + 1);
}

static void gate_not_present_is_np_with_idt_bit(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_gate(b, 0x80, CODE0, BOX_HANDLERS, 0x6e, 0);
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), EXC_NP);
	assert_int_equal(box_stack(b, 0, 4), 0x80 * 8 + 2);
	/* an exception's own gate: EXT is set, and #NP of #UD is #NP */
	box_protected(b);
	box_gate(b, EXC_UD, CODE0, BOX_HANDLERS, 0x0e, 0);
	BOX_LOAD(b, BOX_CODE, ud);
	assert_int_equal(box_run(b), EXC_NP);
	assert_int_equal(box_stack(b, 0, 4), EXC_UD * 8 + 3);
}

static void gate_selectors_are_checked(void **state)
{
	static const struct {
		uint16_t sel;
		int vector;
		uint32_t error;
	} cases[] = {
		{ 0, EXC_GP, 0 },
		{ 0x200, EXC_GP, 0x200 },
		{ DATA0, EXC_GP, DATA0 },
		{ CODE_NP, EXC_NP, CODE_NP },
		{ CODE1 & ~3, EXC_GP, CODE1 & ~3 },
		{ TSS, EXC_GP, TSS },
		{ CONFORMING, 0x80, 0 },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		box_protected(b);
		box_gate(b, 0x80, cases[i].sel, BOX_HANDLERS + 0x800, 0xee, 0);
		BOX_LOAD(b, BOX_CODE, int80);
		assert_int_equal(box_run(b), cases[i].vector);
		if (cases[i].vector < 32)
			assert_int_equal(box_stack(b, 0, 4), cases[i].error);
	}
}

static void trap_gates_leave_if_alone(void **state)
{
	struct box *b = *state;

	box_protected(b);
	b->st.rflags |= FLAG_IF | FLAG_NT;
	box_gate(b, 0x80, CODE0, BOX_HANDLERS + 0x800, 0x8f, 0);
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), 0x80);
	assert_true(b->st.rflags & FLAG_IF);
	assert_false(b->st.rflags & FLAG_NT);
}

static void gates_of_16_bits_push_words(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_gate(b, 0x80, CODE0, BOX_HANDLERS + 0x800, 0x86, 0);
	BOX_LOAD(b, BOX_CODE, int80);
	/* the offset's upper half does not count */
	assert_int_equal(box_run(b), 0x80);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 0x800 - 6);
	assert_int_equal(box_stack(b, 1, 2), CODE0);
}

/* (A2) The stack of the TSS is checked: what is wrong with it is #TS or #SS
 * with its selector. */
static void a2_bad_inner_stacks(void **state)
{
	static const struct {
		uint16_t sel;
		int vector;
		uint32_t error;
	} cases[] = {
		{ 0, EXC_TS, 1 },
		{ 0x200, EXC_TS, 0x201 },
		{ DATA3, EXC_TS, (DATA3 & ~3) | 1 },
		{ DATA_RO, EXC_TS, DATA_RO | 1 },
		{ CODE0, EXC_TS, CODE0 | 1 },
		{ DATA_NP, EXC_SS, DATA_NP | 1 },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		box_protected(b);
		box_level(b, 3, false);
		/* the report comes through a task gate: it needs no stack */
		box_poke(b, BOX_TSS + 8, 2, cases[i].sel);
		box_gate(b, cases[i].vector, SEL_TSS2, 0, 0x85, 0);
		memset(b->ram + BOX_TSS2, 0, 0x68);
		box_poke(b, BOX_TSS2 + 0x20, 4,
			 BOX_HANDLERS + 16u * (unsigned)cases[i].vector);
		box_poke(b, BOX_TSS2 + 0x24, 4, 2);
		box_poke(b, BOX_TSS2 + 0x38, 4, BOX_STACK0);
		box_poke(b, BOX_TSS2 + 0x4c, 2, CODE0);
		box_poke(b, BOX_TSS2 + 0x50, 2, DATA0);
		BOX_LOAD(b, BOX_USER, ud);
		assert_int_equal(box_run(b), cases[i].vector);
		assert_int_equal(box_stack(b, 0, 4), cases[i].error);
	}
}

/* (A2) A gate to ring 1 from ring 3 and, from there, to ring 0. */
static void a2_gates_to_ring_1(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_level(b, 3, false);
	box_gate(b, 0x80, CODE1 & ~3, BOX_CODE, 0xee, 0);
	BOX_LOAD(b, BOX_USER, int80);
	BOX_LOAD(b, BOX_CODE, int3);
	assert_int_equal(box_run(b), EXC_BP);
	/* what ring 0 found: ring 1's segments and stack */
	assert_int_equal(box_stack(b, 1, 4), CODE1);
	assert_int_equal(box_stack(b, 3, 4), BOX_STACK1 - 20);
	assert_int_equal(box_stack(b, 4, 4), DATA1);
	assert_int_equal(box_peek(b, BOX_STACK1 - 4, 4), DATA3);
}

/* ---- Double and triple faults -------------------------------------------- */

static void contributory_faults_double(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_gate(b, EXC_GP, CODE0, 0, 0x0e, 0); /* not present */
	box_level(b, 3, false);
	BOX_LOAD(b, BOX_USER, hlt);
	assert_int_equal(box_run(b), EXC_DF);
	assert_int_equal(box_stack(b, 0, 4), 0);
	assert_int_equal(box_stack(b, 1, 4), BOX_USER);
}

static void benign_faults_are_served_one_after_the_other(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_gate(b, EXC_UD, 0x200, 0, 0x8e, 0);
	BOX_LOAD(b, BOX_CODE, ud);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), 0x201);
	assert_int_equal(box_stack(b, 1, 4), BOX_CODE + 1);
}

static void third_fault_shuts_down(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_gate(b, EXC_GP, CODE0, 0, 0x0e, 0);
	box_gate(b, EXC_DF, CODE0, 0, 0x0e, 0);
	box_level(b, 3, false);
	BOX_LOAD(b, BOX_USER, hlt);
	assert_int_equal(box_run(b), -2);
	b->st.activity = ACT_RUNNING;
}

/* An unreachable stack in long mode: #PF, while that is delivered #PF again,
 * which is #DF; that one has a stack of its own. */
static void page_faults_double_and_ist_saves_the_day(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_gate(b, EXC_DF, CODE0_64, BOX_HANDLERS + 16 * EXC_DF, 0x8e, 3);
	b->st.gpr[RSP] = 0x40000000;
	BOX_LOAD(b, BOX_CODE, ud);
	assert_int_equal(box_run(b), EXC_DF);
	assert_int_equal(b->st.gpr[RSP], BOX_IST + 0x200 - 48);
	assert_int_equal(box_stack(b, 0, 8), 0);
	assert_int_equal(box_stack(b, 1, 8), BOX_CODE + 1);
	assert_int_equal(box_stack(b, 4, 8), 0x40000000);
	assert_int_equal(b->st.cr2, 0x40000000 - 8);
}

/* A #AC that raises #AC for ever must not hang the host. */
static void endless_nesting_ends(void **state)
{
	struct box *b = *state;

	box_protected(b);
	b->st.cr0 |= CR0_AM;
	b->st.rflags |= FLAG_AC;
	box_gate(b, EXC_AC, CODE3 & ~3, BOX_HANDLERS, 0xee, 0);
	box_gate(b, EXC_UD, CODE3 & ~3, BOX_HANDLERS, 0xee, 0);
	box_level(b, 3, false);
	b->st.gpr[RSP] += 1;
	BOX_LOAD(b, BOX_USER, ud);
	assert_int_equal(box_run(b), -2);
	b->st.activity = ACT_RUNNING;
}

/* ---- Long mode ----------------------------------------------------------- */

static void long_mode_aligns_the_stack_and_pushes_ss(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.gpr[RSP] -= 3;
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), 0x80);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 0x810 - 40);
	assert_int_equal(box_stack(b, 3, 8), BOX_STACK0 - 0x803);
	assert_int_equal(box_stack(b, 4, 8), DATA0);
}

static void long_mode_inner_stack_has_a_null_ss(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_level(b, 3, true);
	BOX_LOAD(b, BOX_USER, int80);
	assert_int_equal(box_run(b), 0x80);
	assert_int_equal(b->st.seg[SEG_SS].sel, 0);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 40);
	assert_int_equal(box_stack(b, 4, 8), DATA3);
	assert_int_equal(box_stack(b, 1, 8), CODE3_64);
}

static void long_mode_gates_want_64_bit_code(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_gate(b, 0x80, CODE0, BOX_HANDLERS, 0x8e, 0);
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), CODE0);
	/* and no 16-bit or task gates */
	box_long(b);
	box_gate(b, 0x80, CODE0_64, BOX_HANDLERS, 0x86, 0);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), 0x80 * 8 + 2);
	/* nor an offset that is not canonical */
	box_long(b);
	box_gate(b, 0x80, CODE0_64, 0x0001000000000000, 0x8e, 0);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), 0);
}

static void bad_ist_and_rsp_are_ss_and_ts(void **state)
{
	struct box *b = *state;

	box_long(b);
	box_level(b, 3, true);
	box_poke(b, BOX_TSS + 4, 8, 0x1234000000000000);
	box_gate(b, EXC_SS, CODE0_64, BOX_HANDLERS + 16 * EXC_SS, 0x8e, 1);
	BOX_LOAD(b, BOX_USER, ud);
	assert_int_equal(box_run(b), EXC_SS);
	assert_int_equal(box_stack(b, 0, 8), 1);

	box_long(b);
	box_gate(b, 0x80, CODE0_64, BOX_HANDLERS, 0x8e, 7);
	b->st.tr.limit = 36 + 6 * 8;
	BOX_LOAD(b, BOX_CODE, int80);
	assert_int_equal(box_run(b), EXC_TS);
	assert_int_equal(box_stack(b, 0, 8), TSS);
}

/* ---- Interrupts ---------------------------------------------------------- */

static void interrupts_wait_for_if(void **state)
{
	struct box *b = *state;

	box_long(b);
	BOX_LOAD(b, BOX_CODE, nops);
	b->irq = 0x55;
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->acks, 0);
	box_long(b);
	b->st.rflags |= FLAG_IF;
	assert_int_equal(box_run(b), 0x55);
	assert_int_equal(b->acks, 1);
	/* no RF, no error code */
	assert_int_equal(box_stack(b, 2, 8), FLAG_IF | 2);
	assert_int_equal(b->vcpu.stats.interrupts, 1);
}

/* An interrupt on vector 13 is none of #GP's. */
static void low_vectors_can_be_interrupts(void **state)
{
	struct box *b = *state;

	box_protected(b);
	b->st.rflags |= FLAG_IF;
	BOX_LOAD(b, BOX_CODE, nops);
	b->irq = EXC_GP;
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), BOX_CODE);
	assert_int_equal(box_stack(b, 1, 4), CODE0);
}

GUEST(sti_nop, 64, "sti; nop; nop; hlt");
GUEST(sti_sti, 64, "sti; sti; nop; hlt");
GUEST(mov_ss, 64, "mov %ax, %ss; nop; nop; hlt");

static void sti_and_mov_ss_hold_interrupts_for_one_instruction(void **state)
{
	struct box *b = *state;

	box_long(b);
	BOX_LOAD(b, BOX_CODE, sti_nop);
	b->irq = 0x55;
	assert_int_equal(box_run(b), 0x55);
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE + 2);
	/* only the STI that sets IF does */
	box_long(b);
	BOX_LOAD(b, BOX_CODE, sti_sti);
	b->irq = 0x55;
	assert_int_equal(box_run(b), 0x55);
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE + 2);
	box_long(b);
	b->st.gpr[RAX] = DATA0;
	BOX_LOAD(b, BOX_CODE, mov_ss);
	assert_int_equal(box_run(b), -1);
	box_long(b);
	b->st.gpr[RAX] = DATA0;
	b->st.rflags |= FLAG_IF;
	b->st.shadow_ss = true;
	b->irq = 0x55;
	assert_int_equal(box_run(b), 0x55);
	/* MOV SS ran in the shadow and made one: behind NOP it comes */
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE + 3);
}

GUEST(iretq_twice, 64, "iretq; hlt");

/* NMIs are held from one's delivery to IRET. */
static void nmi_is_masked_until_iret(void **state)
{
	struct box *b = *state;

	box_long(b);
	BOX_LOAD(b, BOX_CODE, nops);
	b->st.nmi_pending = true;
	assert_int_equal(box_run(b), EXC_NMI);
	assert_true(b->st.nmi_masked);
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE);
	/* a second one waits... */
	b->st.nmi_pending = true;
	b->st.rip = BOX_USER;
	BOX_LOAD(b, BOX_USER, iretq_twice);
	/* ...and comes behind IRET, at the address that it went back to */
	assert_int_equal(box_run(b), EXC_NMI);
	assert_int_equal(box_stack(b, 0, 8), BOX_CODE);
	assert_false(b->st.nmi_pending);
}

static void iret_that_faults_unmasks_nmi_too(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.nmi_masked = true;
	BOX_LOAD(b, BOX_CODE, iret64);
	box_poke(b, b->st.gpr[RSP] + 8, 8, 0x200);
	assert_int_equal(box_run(b), EXC_GP);
	assert_false(b->st.nmi_masked);
}

/* ---- IRET ---------------------------------------------------------------- */

static void push_iret(struct box *b, unsigned size, uint64_t ip, uint16_t cs,
		      uint64_t flags, uint64_t sp, uint16_t ss)
{
	const uint64_t items[] = { ip, cs, flags, sp, ss };
	uint64_t at = BOX_STACK0 - 0x900;

	for (unsigned i = 0; i < 5; i++)
		box_poke(b, at + i * size, size, items[i]);
	b->st.gpr[RSP] = at;
}

static void iret_checks_selectors(void **state)
{
	static const struct {
		uint16_t cs, ss;
		int vector;
		uint32_t error;
	} cases[] = {
		{ 0, DATA0, EXC_GP, 0 },
		{ 0x200, DATA0, EXC_GP, 0x200 },
		{ DATA0, DATA0, EXC_GP, DATA0 },
		{ CODE0 | 3, DATA3, EXC_GP, CODE0 },
		{ CODE3 & ~3, DATA3, EXC_GP, CODE3 & ~3 },
		{ CODE_NP, DATA0, EXC_NP, CODE_NP },
		{ CODE3, 0, EXC_GP, 0 },
		{ CODE3, DATA0, EXC_GP, DATA0 },
		{ CODE3, DATA0 | 3, EXC_GP, DATA0 },
		{ CODE3, DATA3 & ~3, EXC_GP, DATA3 & ~3 },
		{ CODE3, CODE3, EXC_GP, CODE3 & ~3 },
		{ CODE3, DATA3, EXC_BP, BOX_USER + 1 },
	};
	struct box *b = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		box_protected(b);
		push_iret(b, 4, BOX_USER, cases[i].cs, 2, BOX_STACK3,
			  cases[i].ss);
		BOX_LOAD(b, BOX_CODE, iret32);
		BOX_LOAD(b, BOX_USER, int3);
		assert_int_equal(box_run(b), cases[i].vector);
		assert_int_equal(box_stack(b, 0, 4), cases[i].error);
	}
}

/* (A7) IOPL and IF come from IRET's stack only where the level may. */
static void a7_iret_flags(void **state)
{
	struct box *b = *state;
	uint64_t saved;

	box_protected(b);
	push_iret(b, 4, BOX_USER, CODE3,
		  FLAG_IOPL | FLAG_IF | FLAG_ID | FLAG_AC | 2, BOX_STACK3,
		  DATA3);
	BOX_LOAD(b, BOX_CODE, iret32);
	BOX_LOAD(b, BOX_USER, int3);
	assert_int_equal(box_run(b), EXC_BP);
	saved = box_stack(b, 2, 4);
	assert_int_equal(saved, FLAG_IOPL | FLAG_IF | FLAG_ID | FLAG_AC | 2);
	/* from CPL 3 with IOPL 0: neither */
	box_protected(b);
	box_level(b, 3, false);
	b->st.rflags |= FLAG_IF;
	b->st.gpr[RSP] = BOX_STACK3 - 0x100;
	box_poke(b, BOX_STACK3 - 0x100, 4, BOX_USER + 0x100);
	box_poke(b, BOX_STACK3 - 0xfc, 4, CODE3);
	box_poke(b, BOX_STACK3 - 0xf8, 4, FLAG_IOPL | FLAG_CF | 2);
	BOX_LOAD(b, BOX_USER, iret32);
	BOX_LOAD(b, BOX_USER + 0x100, int3);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 2, 4), FLAG_IF | FLAG_CF | 2);
}

static void iret_outward_drops_privileged_segments(void **state)
{
	struct box *b = *state;

	box_protected(b);
	push_iret(b, 4, BOX_USER, CODE3, 2, BOX_STACK3, DATA3);
	b->st.seg[SEG_ES] = b->st.seg[SEG_SS];
	BOX_LOAD(b, BOX_CODE, iret32);
	BOX_LOAD(b, BOX_USER, int3);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(b->st.seg[SEG_ES].sel, 0);
	assert_int_equal(b->st.seg[SEG_DS].sel, 0);
}

/* ESPFIX: a return to a 16-bit stack leaves ESP's upper half. */
static void iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp(void **state)
{
	struct box *b = *state;

	box_protected(b);
	push_iret(b, 4, BOX_USER, CODE3, 2, 0x12347000, DATA16_3);
	BOX_LOAD(b, BOX_CODE, iret32);
	BOX_LOAD(b, BOX_USER, int3);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 3, 4),
			 ((BOX_STACK0 - 0x900) & 0xffff0000) | 0x7000);
}

static void iretq_needs_canonical_rip_and_takes_null_ss_inside(void **state)
{
	struct box *b = *state;

	box_long(b);
	push_iret(b, 8, 0x0000800000000000, CODE0_64, 2, BOX_STACK0, DATA0);
	BOX_LOAD(b, BOX_CODE, iret64);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), 0);
	assert_int_equal(box_stack(b, 1, 8), BOX_CODE);
	box_long(b);
	push_iret(b, 8, BOX_USER, CODE0_64, 2, BOX_STACK0 - 0x40, 0);
	BOX_LOAD(b, BOX_USER, int3);
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(box_stack(b, 3, 8), BOX_STACK0 - 0x40);
	/* a null SS is nothing for CPL 3 */
	box_long(b);
	push_iret(b, 8, BOX_USER, CODE3_64, 2, BOX_STACK3, 3);
	assert_int_equal(box_run(b), EXC_GP);
}

static void iret_from_64_bits_to_compatibility_code(void **state)
{
	struct box *b = *state;

	box_long(b);
	push_iret(b, 8, BOX_USER, CODE3, 2, BOX_STACK3, DATA3);
	BOX_LOAD(b, BOX_CODE, iret64);
	BOX_LOAD(b, BOX_USER, int80);
	assert_int_equal(box_run(b), 0x80);
	assert_int_equal(box_stack(b, 1, 8), CODE3);
	assert_int_equal(box_stack(b, 0, 8), BOX_USER + 2);
}

static void nested_task_flag_is_gp_in_long_mode(void **state)
{
	struct box *b = *state;

	box_long(b);
	b->st.rflags |= FLAG_NT;
	BOX_LOAD(b, BOX_CODE, iret64);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 8), 0);
}

/* ---- Virtual-8086 mode --------------------------------------------------- */

GUEST(v86_int, 16, "int $0x80");

static void v86_round_trip(void **state)
{
	struct box *b = *state;
	uint64_t at = BOX_STACK0 - 0x900;
	const uint32_t frame[] = {
		0,      BOX_USER / 16,   FLAG_VM | FLAG_IOPL | 2,
		0x100,  BOX_STACK3 / 16, 0x1111,
		0x2222, 0x3333,          0x4444
	};

	box_protected(b);
	box_write(b, at, frame, sizeof(frame));
	b->st.gpr[RSP] = at;
	BOX_LOAD(b, BOX_CODE, iret32);
	BOX_LOAD(b, BOX_USER, v86_int);
	assert_int_equal(box_run(b), 0x80);
	assert_int_equal(b->st.gpr[RSP], BOX_STACK0 - 36);
	assert_int_equal(box_stack(b, 0, 4), 2);
	assert_int_equal(box_stack(b, 1, 4), BOX_USER / 16);
	assert_true(box_stack(b, 2, 4) & FLAG_VM);
	assert_int_equal(box_stack(b, 3, 4), 0x100);
	assert_int_equal(box_stack(b, 4, 4), BOX_STACK3 / 16);
	assert_int_equal(box_stack(b, 5, 4), 0x1111); /* ES DS FS GS */
	assert_int_equal(box_stack(b, 6, 4), 0x2222);
	assert_int_equal(box_stack(b, 7, 4), 0x3333);
	assert_int_equal(box_stack(b, 8, 4), 0x4444);
	assert_false(b->st.rflags & FLAG_VM);
	assert_int_equal(b->st.seg[SEG_DS].sel, 0);
}

static void v86_int_needs_iopl_3(void **state)
{
	struct box *b = *state;

	box_protected(b);
	box_v86(b);
	BOX_LOAD(b, BOX_USER, v86_int);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), 0);
}

/* ---- Task switches ------------------------------------------------------- */

GUEST(jmp_tss, 32, "ljmp $0xb0, $0");
GUEST(call_tss, 32, "lcall $0xb0, $0; mov $0x77, %ecx; hlt");
GUEST(call_tss16, 32, "lcall $0xc0, $0; hlt");
GUEST(task_iret, 32, "mov $0x66, %edx; iretl");

static void make_task(struct box *b, uint32_t eip, uint16_t cs, uint16_t ss)
{
	memset(b->ram + BOX_TSS2, 0, 0x68);
	box_poke(b, BOX_TSS2 + 0x20, 4, eip);
	box_poke(b, BOX_TSS2 + 0x24, 4, 2);
	box_poke(b, BOX_TSS2 + 0x28, 4, 0xaaaa5555);
	box_poke(b, BOX_TSS2 + 0x38, 4, BOX_STACK3);
	box_poke(b, BOX_TSS2 + 0x4c, 2, cs);
	box_poke(b, BOX_TSS2 + 0x50, 2, ss);
	box_poke(b, BOX_TSS2 + 0x54, 2, DATA0);
}

static void task_jump_moves_the_busy_bit(void **state)
{
	struct box *b = *state;

	box_protected(b);
	make_task(b, BOX_USER, CODE0, DATA0);
	BOX_LOAD(b, BOX_CODE, jmp_tss);
	BOX_LOAD(b, BOX_USER, int3);
	b->st.gpr[RBX] = 0x1234;
	assert_int_equal(box_run(b), EXC_BP);
	assert_int_equal(b->st.gpr[RAX], 0xaaaa5555);
	assert_int_equal(b->st.tr.sel, SEL_TSS2);
	assert_true(b->st.cr0 & CR0_TS);
	assert_int_equal(box_peek(b, BOX_GDT + TSS + 5, 1), 0x89);
	assert_int_equal(box_peek(b, BOX_GDT + SEL_TSS2 + 5, 1), 0x8b);
	/* the old task as it was left */
	assert_int_equal(box_peek(b, BOX_TSS + 0x20, 4), BOX_CODE + 7);
	assert_int_equal(box_peek(b, BOX_TSS + 0x34, 4), 0x1234);
	assert_int_equal(box_peek(b, BOX_TSS + 0x4c, 2), CODE0);
}

static void task_call_nests_and_iret_returns(void **state)
{
	struct box *b = *state;

	box_protected(b);
	make_task(b, BOX_USER, CODE0, DATA0);
	BOX_LOAD(b, BOX_CODE, call_tss);
	BOX_LOAD(b, BOX_USER, task_iret);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RCX], 0x77);
	assert_int_equal(b->st.gpr[RDX], 0x600);
	assert_int_equal(b->st.tr.sel, TSS);
	assert_int_equal(box_peek(b, BOX_GDT + SEL_TSS2 + 5, 1), 0x89);
	assert_int_equal(box_peek(b, BOX_GDT + TSS + 5, 1), 0x8b);
	assert_int_equal(box_peek(b, BOX_TSS2, 2), TSS);
	assert_int_equal(box_peek(b, BOX_TSS2 + 0x40 - 0x10, 4), 0x66);
	assert_false(b->st.rflags & FLAG_NT);
}

static void task_of_16_bits(void **state)
{
	struct box *b = *state;

	box_protected(b);
	memset(b->ram + BOX_TSS16, 0, 0x2c);
	box_segment(b, CODE1 & ~3, BOX_USER, 0xffff, 0x9a, 0);
	box_poke(b, BOX_TSS16 + 0x0e, 2, 0);
	box_poke(b, BOX_TSS16 + 0x10, 2, 2);
	box_poke(b, BOX_TSS16 + 0x12, 2, 0xbeef);
	box_poke(b, BOX_TSS16 + 0x1a, 2, 0x7000);
	box_poke(b, BOX_TSS16 + 0x24, 2, CODE1 & ~3);
	box_poke(b, BOX_TSS16 + 0x26, 2, DATA0);
	BOX_LOAD(b, BOX_CODE, call_tss16);
	BOX_LOAD(b, BOX_USER, hlt);
	assert_int_equal(box_run(b), -1);
	assert_int_equal(b->st.gpr[RAX] & 0xffff, 0xbeef);
	assert_int_equal(b->st.tr.sel, SEL_TSS16);
	assert_true(b->st.rflags & FLAG_NT);
	assert_int_equal(box_peek(b, BOX_TSS16, 2), TSS);
}

/* A fault in the new task's segments is reported there. */
static void task_with_a_bad_segment_faults_in_the_new_task(void **state)
{
	struct box *b = *state;

	box_protected(b);
	make_task(b, BOX_USER, CODE0, DATA0);
	box_poke(b, BOX_TSS2 + 0x54, 2, 0x200); /* DS */
	BOX_LOAD(b, BOX_CODE, jmp_tss);
	assert_int_equal(box_run(b), EXC_TS);
	assert_int_equal(box_stack(b, 0, 4), 0x200);
	assert_int_equal(box_stack(b, 1, 4), BOX_USER);
	assert_int_equal(b->st.tr.sel, SEL_TSS2);
	/* too short a TSS is the old task's fault */
	box_protected(b);
	box_segment(b, SEL_TSS2, BOX_TSS2, 0x66, 0x89, 0);
	assert_int_equal(box_run(b), EXC_TS);
	assert_int_equal(box_stack(b, 0, 4), SEL_TSS2);
	assert_int_equal(box_stack(b, 1, 4), BOX_CODE);
	assert_int_equal(b->st.tr.sel, TSS);
	/* busy */
	box_protected(b);
	box_segment(b, SEL_TSS2, BOX_TSS2, 0x67, 0x8b, 0);
	assert_int_equal(box_run(b), EXC_GP);
	assert_int_equal(box_stack(b, 0, 4), SEL_TSS2);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(real_mode_int_pushes_words),
		T(real_mode_fault_returns_to_the_instruction),
		T(real_mode_short_idt_shuts_down),
		T(a3_int_from_user_and_back),
		T(int_of_a_privileged_gate_is_gp),
		T(int1_does_not_look_at_the_gates_dpl),
		T(gate_not_present_is_np_with_idt_bit),
		T(gate_selectors_are_checked),
		T(trap_gates_leave_if_alone),
		T(gates_of_16_bits_push_words),
		T(a2_bad_inner_stacks),
		T(a2_gates_to_ring_1),
		T(contributory_faults_double),
		T(benign_faults_are_served_one_after_the_other),
		T(third_fault_shuts_down),
		T(page_faults_double_and_ist_saves_the_day),
		T(endless_nesting_ends),
		T(long_mode_aligns_the_stack_and_pushes_ss),
		T(long_mode_inner_stack_has_a_null_ss),
		T(long_mode_gates_want_64_bit_code),
		T(bad_ist_and_rsp_are_ss_and_ts),
		T(interrupts_wait_for_if),
		T(low_vectors_can_be_interrupts),
		T(sti_and_mov_ss_hold_interrupts_for_one_instruction),
		T(nmi_is_masked_until_iret),
		T(iret_that_faults_unmasks_nmi_too),
		T(iret_checks_selectors),
		T(a7_iret_flags),
		T(iret_outward_drops_privileged_segments),
		T(iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp),
		T(iretq_needs_canonical_rip_and_takes_null_ss_inside),
		T(iret_from_64_bits_to_compatibility_code),
		T(nested_task_flag_is_gp_in_long_mode),
		T(v86_round_trip),
		T(v86_int_needs_iopl_3),
		T(task_jump_moves_the_busy_bit),
		T(task_call_nests_and_iret_returns),
		T(task_of_16_bits),
		T(task_with_a_bad_segment_faults_in_the_new_task),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
