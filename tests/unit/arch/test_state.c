/* struct x86_state: power-on values, the round trip, and what is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "arch/regs.h"
#include "state/stream.h"

/* Save (in), load it into (out); what loading says. */
static int round_trip(const struct x86_state *in, struct x86_state *out)
{
	struct stream save, load;
	int r;

	stream_init_save(&save);
	assert_int_equal(x86_state_save(in, &save), 0);
	stream_init_load(&load, save.data, save.len);
	r = x86_state_load(out, &load);
	stream_finish(&load);
	stream_finish(&save);
	return r;
}

/* A CPU in 64-bit mode at CPL 3. */
static void make_user(struct x86_state *st)
{
	x86_state_reset(st, true);
	st->cr0 = CR0_PE | CR0_ET | CR0_PG | CR0_WP;
	st->cr3 = 0x1000;
	st->cr4 = CR4_PAE | CR4_PGE | CR4_OSXSAVE;
	st->efer = EFER_LME | EFER_LMA | EFER_NX | EFER_SCE;
	for (unsigned i = 0; i < NR_SEG; i++)
		st->seg[i] = (struct x86_seg){ .limit = 0xffffffff,
					       .attr = 0xc0f3,
					       .sel = 0x2b };
	st->seg[SEG_CS].attr = 0xa0fb;
	st->seg[SEG_CS].sel = 0x33;
	st->seg[SEG_GS].base = 0xffff888000000000;
	st->rip = 0x7fff12345678;
	st->rflags = FLAG_ONE | FLAG_IF;
	st->tsc_offset = -12345;
}

static void reset_is_the_architectures(void **state)
{
	struct x86_state st;

	x86_state_reset(&st, true);
	assert_int_equal(st.rip, 0xfff0);
	assert_int_equal(st.seg[SEG_CS].base, 0xffff0000);
	assert_int_equal(st.rflags, 2);
	assert_int_equal(st.cr0, 0x60000010);
	assert_int_equal(st.dr[6], 0xffff0ff0);
	assert_int_equal(st.dr[7], 0x400);
	assert_int_equal(st.idtr.limit, 0xffff);
	assert_int_equal(st.activity, ACT_RUNNING);
	x86_state_reset(&st, false);
	assert_int_equal(st.activity, ACT_WAIT_SIPI);
}

static void init_keeps_what_it_should(void **state)
{
	struct x86_state st;

	make_user(&st);
	st.lstar = 0x1234;
	st.pat = 0x0606060606060606;
	st.xsave[100] = 7;
	x86_state_init(&st, false);
	assert_int_equal(st.lstar, 0x1234);
	assert_int_equal(st.pat, 0x0606060606060606);
	assert_int_equal(st.xsave[100], 7);
	assert_int_equal(st.cr0, CR0_ET);
	assert_int_equal(st.efer, 0);
	x86_state_sipi(&st, 0x9a);
	assert_int_equal(st.seg[SEG_CS].base, 0x9a000);
	assert_int_equal(st.seg[SEG_CS].sel, 0x9a00);
	assert_int_equal(st.activity, ACT_RUNNING);
}

static void round_trip_is_exact(void **state)
{
	struct x86_state st, copy;

	x86_state_reset(&st, true);
	memset(&copy, 0xff, sizeof(copy));
	assert_int_equal(round_trip(&st, &copy), 0);
	assert_memory_equal(st.gpr, copy.gpr, sizeof(st.gpr));
	make_user(&st);
	for (unsigned i = 0; i < NR_GPR; i++)
		st.gpr[i] = 0x1111111111111111ULL * i;
	st.mtrr_var[7][1] = 0xabc000;
	st.pv_steal_time = 0x12341;
	st.event = (struct x86_event){ true, true, false, 14, 6 };
	st.shadow_ss = true;
	for (unsigned i = 576; i < XSAVE_SIZE; i++)
		st.xsave[i] = (uint8_t)i;
	memset(&copy, 0, sizeof(copy));
	assert_int_equal(round_trip(&st, &copy), 0);
	assert_memory_equal(st.gpr, copy.gpr, sizeof(st.gpr));
	assert_memory_equal(st.seg, copy.seg, sizeof(st.seg));
	assert_memory_equal(st.xsave, copy.xsave, XSAVE_SIZE);
	assert_int_equal(copy.mtrr_var[7][1], 0xabc000);
	assert_int_equal(copy.pv_steal_time, 0x12341);
	assert_true(copy.shadow_ss);
	assert_int_equal(copy.event.error, 6);
	assert_int_equal(copy.tsc_offset, -12345);
}

/* Each turns a good state into one that no CPU can be in. */
static void bad_paging(struct x86_state *st)
{
	st->cr0 &= ~CR0_PE;
}
static void bad_lma(struct x86_state *st)
{
	st->efer &= ~EFER_LMA;
}
static void bad_pae(struct x86_state *st)
{
	st->cr4 &= ~CR4_PAE;
}
static void bad_cr4(struct x86_state *st)
{
	st->cr4 |= CR4_LA57;
}
static void bad_cr0(struct x86_state *st)
{
	st->cr0 |= BIT(40);
}
static void bad_cr3(struct x86_state *st)
{
	st->cr3 |= BIT(60);
}
static void bad_rip(struct x86_state *st)
{
	st->rip = 0x8000000000000000;
}
static void bad_flags(struct x86_state *st)
{
	st->rflags |= BIT(40);
}
static void bad_v86(struct x86_state *st)
{
	st->rflags |= FLAG_VM;
}
static void bad_cpl(struct x86_state *st)
{
	st->seg[SEG_SS].attr &= ~0x60;
}
static void bad_cs(struct x86_state *st)
{
	st->seg[SEG_CS].attr |= ATTR_DB;
}
static void bad_base(struct x86_state *st)
{
	st->seg[SEG_FS].base = 0x0123456789abcdef;
}
static void bad_gdt(struct x86_state *st)
{
	st->gdtr.base = 0x0123456789abcdef;
}
static void bad_lstar(struct x86_state *st)
{
	st->lstar = 0x0123456789abcdef;
}
static void bad_xcr0(struct x86_state *st)
{
	st->xcr0 = XCR0_X87 | XCR0_AVX;
}
static void bad_xcr0_pkru(struct x86_state *st)
{
	st->xcr0 |= BIT(9);
}
static void bad_xsave_bv(struct x86_state *st)
{
	st->xsave[513] = 2; /* PKRU */
}
static void bad_xsave_compact(struct x86_state *st)
{
	st->xsave[527] = 0x80;
}
static void bad_mxcsr(struct x86_state *st)
{
	st->xsave[26] = 1;
}
static void bad_activity(struct x86_state *st)
{
	st->activity = 9;
}
static void bad_pat(struct x86_state *st)
{
	st->pat = 2;
}
static void bad_event(struct x86_state *st)
{
	st->event.has_error = true;
	st->event.vector = 80;
}

static void impossible_states_are_refused(void **state)
{
	static void (*const bad[])(struct x86_state * st) = {
		bad_paging,   bad_lma,           bad_pae,   bad_cr4,
		bad_cr0,      bad_cr3,           bad_rip,   bad_flags,
		bad_v86,      bad_cpl,           bad_cs,    bad_base,
		bad_gdt,      bad_lstar,         bad_xcr0,  bad_xcr0_pkru,
		bad_xsave_bv, bad_xsave_compact, bad_mxcsr, bad_activity,
		bad_pat,      bad_event,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct x86_state st, out, before;

		make_user(&st);
		x86_state_reset(&out, true);
		before = out;
		bad[i](&st);
		assert_int_equal(round_trip(&st, &out), -EINVAL);
		assert_memory_equal(&out, &before, sizeof(out));
	}
}

static void short_input_is_refused(void **state)
{
	struct x86_state st, out;
	struct stream save, load;

	make_user(&st);
	stream_init_save(&save);
	assert_int_equal(x86_state_save(&st, &save), 0);
	for (size_t len = 0; len < save.len; len += 37) {
		stream_init_load(&load, save.data, len);
		assert_int_equal(x86_state_load(&out, &load), -EINVAL);
		stream_finish(&load);
	}
	stream_finish(&save);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_is_the_architectures),
		cmocka_unit_test(init_keeps_what_it_should),
		cmocka_unit_test(round_trip_is_exact),
		cmocka_unit_test(impossible_states_are_refused),
		cmocka_unit_test(short_input_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
