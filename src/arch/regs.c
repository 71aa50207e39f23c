/*
 * The state of a CPU: after power-on and INIT, and on the wire.
 *
 * A loaded state is hostile until it is checked: later stages index arrays by
 * what is in it, hand it to the host's XRSTOR, and rely on what the
 * architecture promises (no paging without protection, no privilege that SS
 * and CS disagree about, addresses that are canonical).
 */
#include "arch/regs.h"

#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "state/stream.h"

#define STATE_TAG     STREAM_TAG('C', 'P', 'U', ' ')
#define STATE_VERSION 1

/* RFLAGS bits that can be set; CR4 bits that any accelerator may offer. */
#define RFLAGS_VALID                                                         \
	(FLAGS_STATUS | FLAG_ONE | FLAG_TF | FLAG_IF | FLAG_DF | FLAG_IOPL | \
	 FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC | FLAG_VIF | FLAG_VIP |       \
	 FLAG_ID)
#define CR0_VALID                                                       \
	(CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | \
	 CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR4_VALID                                                             \
	(CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | \
	 CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE |     \
	 CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP)
#define EFER_VALID   (EFER_SCE | EFER_LME | EFER_LMA | EFER_NX)

#define ATTR_CODE_16 0x9b /* present, code, readable, accessed */
#define ATTR_DATA_16 0x93 /* present, data, writable, accessed */

/* Places in an XSAVE image (SDM volume 1, 13.4) */
#define XSAVE_FCW       0
#define XSAVE_MXCSR     24
#define XSAVE_MXCSR_ALL 28
#define XSAVE_BV        512
#define XSAVE_COMP_BV   520
#define XSAVE_HDR_END   576
#define FCW_INIT        0x037f
#define MXCSR_INIT      0x1f80
#define MXCSR_VALID     0xffff

static void reset_seg(struct x86_seg *seg, uint16_t sel, uint64_t base,
		      uint16_t attr)
{
	*seg = (struct x86_seg){
		.base = base, .limit = 0xffff, .attr = attr, .sel = sel
	};
}

/* What power-on and INIT have in common (SDM table 10-1). */
static void reset_common(struct x86_state *st, bool is_bsp)
{
	memset(st->gpr, 0, sizeof(st->gpr));
	st->gpr[RDX] = 0x600; /* family 6, as every CPU of today says */
	st->rip = 0xfff0;
	st->rflags = FLAG_ONE;
	reset_seg(&st->seg[SEG_CS], 0xf000, 0xffff0000, ATTR_CODE_16);
	for (unsigned i = 0; i < NR_SEG; i++)
		if (i != SEG_CS)
			reset_seg(&st->seg[i], 0, 0, ATTR_DATA_16);
	reset_seg(&st->ldtr, 0, 0, ATTR_P | SYS_LDT);
	reset_seg(&st->tr, 0, 0, ATTR_P | SYS_TSS_BUSY);
	st->gdtr = st->idtr = (struct x86_dtr){ .base = 0, .limit = 0xffff };
	st->cr2 = st->cr3 = st->cr4 = st->efer = 0;
	memset(st->pdpte, 0, sizeof(st->pdpte));
	memset(st->dr, 0, sizeof(st->dr));
	st->dr[6] = DR6_FIXED;
	st->dr[7] = DR7_FIXED;
	st->activity = is_bsp ? ACT_RUNNING : ACT_WAIT_SIPI;
	st->nmi_pending = st->nmi_masked = false;
	st->shadow_sti = st->shadow_ss = false;
	st->event.valid = false;
}

void x86_state_reset(struct x86_state *st, bool is_bsp)
{
	memset(st, 0, sizeof(*st));
	reset_common(st, is_bsp);
	st->cr0 = CR0_CD | CR0_NW | CR0_ET;
	st->xcr0 = XCR0_X87;
	st->pat = 0x0007040600070406;
	/* Fast strings on; branch trace and precise events unavailable. */
	st->misc_enable = BIT(0) | BIT(11) | BIT(12);
	st->feat_ctl = BIT(0); /* locked, nothing enabled */
	/* As after FNINIT, which is what hosts' hypervisors give too. */
	store_le16(st->xsave + XSAVE_FCW, FCW_INIT);
	store_le32(st->xsave + XSAVE_MXCSR, MXCSR_INIT);
	store_le32(st->xsave + XSAVE_MXCSR_ALL, MXCSR_VALID);
	store_le64(st->xsave + XSAVE_BV, XCR0_X87 | XCR0_SSE);
}

void x86_state_init(struct x86_state *st, bool is_bsp)
{
	uint64_t cache = st->cr0 & (CR0_CD | CR0_NW);

	reset_common(st, is_bsp);
	st->cr0 = cache | CR0_ET;
}

void x86_state_sipi(struct x86_state *st, uint8_t vector)
{
	st->seg[SEG_CS].sel = (uint16_t)(vector << 8);
	st->seg[SEG_CS].base = (uint64_t)vector << 12;
	st->rip = 0;
	st->activity = ACT_RUNNING;
}

static void stream_seg(struct stream *s, struct x86_seg *seg)
{
	stream_u64(s, &seg->base);
	stream_u32(s, &seg->limit);
	stream_u16(s, &seg->attr);
	stream_u16(s, &seg->sel);
}

static void stream_dtr(struct stream *s, struct x86_dtr *dtr)
{
	stream_u64(s, &dtr->base);
	stream_u16(s, &dtr->limit);
}

static void stream_u64s(struct stream *s, uint64_t *v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		stream_u64(s, &v[i]);
}

static void stream_msrs(struct stream *s, struct x86_state *st)
{
	uint64_t *const msrs[] = {
		&st->star,
		&st->lstar,
		&st->cstar,
		&st->fmask,
		&st->kernel_gs_base,
		&st->sysenter_cs,
		&st->sysenter_esp,
		&st->sysenter_eip,
		&st->pat,
		&st->tsc_aux,
		&st->tsc_adjust,
		&st->misc_enable,
		&st->spec_ctrl,
		&st->debugctl,
		&st->feat_ctl,
		&st->mcg_status,
		&st->mtrr_def,
		&st->pv_wall_clock,
		&st->pv_system_time,
		&st->pv_steal_time,
		&st->pv_eoi,
		&st->pv_poll_control,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++)
		stream_u64(s, msrs[i]);
	stream_u64s(s, st->mtrr_fix, ARRAY_SIZE(st->mtrr_fix));
	for (unsigned i = 0; i < NR_MTRR_VAR; i++)
		stream_u64s(s, st->mtrr_var[i], 2);
	stream_i64(s, &st->tsc_offset);
}

static void stream_state(struct stream *s, struct x86_state *st)
{
	stream_u64s(s, st->gpr, NR_GPR);
	stream_u64(s, &st->rip);
	stream_u64(s, &st->rflags);
	for (unsigned i = 0; i < NR_SEG; i++)
		stream_seg(s, &st->seg[i]);
	stream_seg(s, &st->ldtr);
	stream_seg(s, &st->tr);
	stream_dtr(s, &st->gdtr);
	stream_dtr(s, &st->idtr);
	stream_u64(s, &st->cr0);
	stream_u64(s, &st->cr2);
	stream_u64(s, &st->cr3);
	stream_u64(s, &st->cr4);
	stream_u64(s, &st->efer);
	stream_u64(s, &st->xcr0);
	stream_u64s(s, st->pdpte, ARRAY_SIZE(st->pdpte));
	stream_u64s(s, st->dr, ARRAY_SIZE(st->dr));
	stream_msrs(s, st);
	stream_u8(s, &st->activity);
	stream_bool(s, &st->nmi_pending);
	stream_bool(s, &st->nmi_masked);
	stream_bool(s, &st->shadow_sti);
	stream_bool(s, &st->shadow_ss);
	stream_bool(s, &st->event.valid);
	stream_bool(s, &st->event.has_error);
	stream_bool(s, &st->event.is_soft);
	stream_u8(s, &st->event.vector);
	stream_u32(s, &st->event.error);
	stream_bytes(s, st->xsave, sizeof(st->xsave));
}

static bool check_control(const struct x86_state *st)
{
	bool is_paging = st->cr0 & CR0_PG;
	bool is_long = st->efer & EFER_LMA;

	return !(st->cr0 & ~CR0_VALID) && !(st->cr4 & ~CR4_VALID) &&
	       !(st->efer & ~EFER_VALID) &&
	       (!is_paging || (st->cr0 & CR0_PE)) &&
	       (!(st->cr0 & CR0_NW) || (st->cr0 & CR0_CD)) &&
	       is_long == (is_paging && (st->efer & EFER_LME)) &&
	       (!is_long || (st->cr4 & CR4_PAE)) &&
	       (!(st->cr4 & CR4_PCIDE) || is_long) &&
	       !(st->cr3 & ~PTE_ADDR & ~CR3_PCID) && !(st->dr[6] >> 32) &&
	       !(st->dr[7] >> 32);
}

/* (SDM volume 1, 13.3) */
static bool check_xcr0(uint64_t xcr0)
{
	uint64_t zmm = xcr0 & XCR0_AVX512;

	return (xcr0 & XCR0_X87) &&
	       !(xcr0 & ~(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)) &&
	       (!(xcr0 & XCR0_AVX) || (xcr0 & XCR0_SSE)) &&
	       (!zmm || (zmm == XCR0_AVX512 && (xcr0 & XCR0_AVX)));
}

/* The host's XRSTOR must take the image (SDM volume 1, 13.8.1). */
static bool check_xsave(const struct x86_state *st)
{
	uint64_t bv = load_le64(st->xsave + XSAVE_BV);

	for (unsigned i = XSAVE_COMP_BV; i < XSAVE_HDR_END; i++)
		if (st->xsave[i])
			return false;
	return !(load_le32(st->xsave + XSAVE_MXCSR) & ~MXCSR_VALID) &&
	       !(bv & ~(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512));
}

static bool check_seg(const struct x86_seg *seg, bool is_wide)
{
	return is_wide ? is_canonical(seg->base, 48) : !(seg->base >> 32);
}

static bool check_segs(const struct x86_state *st)
{
	const struct x86_seg *cs = &st->seg[SEG_CS], *ss = &st->seg[SEG_SS];
	bool is_long = st->efer & EFER_LMA;

	for (unsigned i = 0; i < NR_SEG; i++)
		if (!check_seg(&st->seg[i], i == SEG_FS || i == SEG_GS))
			return false;
	if (!check_seg(&st->ldtr, is_long) || !check_seg(&st->tr, is_long) ||
	    !is_canonical(st->gdtr.base, 48) ||
	    !is_canonical(st->idtr.base, 48))
		return false;
	if ((cs->attr & ATTR_L) && (!is_long || (cs->attr & ATTR_DB)))
		return false;
	if (!(st->cr0 & CR0_PE))
		return x86_cpl(st) == 0 && !(st->rflags & FLAG_VM);
	if (st->rflags & FLAG_VM)
		return !is_long && x86_cpl(st) == 3;
	/* CS is code; its DPL is the CPL unless it is conforming. Firmware
	 * runs with its real-mode CS for a while after setting PE. */
	if (ATTR_DPL(cs->attr) > ATTR_DPL(ss->attr))
		return false;
	return (cs->attr & ATTR_CE) || !(cs->attr & ATTR_CODE) ||
	       ATTR_DPL(cs->attr) == ATTR_DPL(ss->attr);
}

static bool check_rip(const struct x86_state *st)
{
	return x86_is_long64(st) ? is_canonical(st->rip, 48) : !(st->rip >> 32);
}

static bool check_msrs(const struct x86_state *st)
{
	const uint64_t bases[] = { st->lstar, st->cstar, st->kernel_gs_base,
				   st->sysenter_esp, st->sysenter_eip };

	for (unsigned i = 0; i < ARRAY_SIZE(bases); i++)
		if (!is_canonical(bases[i], 48))
			return false;
	for (unsigned i = 0; i < 8; i++) {
		uint8_t type = st->pat >> (8 * i) & 0xff;

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return !(st->tsc_aux >> 32) && !(st->fmask >> 32);
}

static bool state_is_valid(const struct x86_state *st)
{
	const struct x86_event *ev = &st->event;

	return st->activity <= ACT_SHUTDOWN && check_control(st) &&
	       check_xcr0(st->xcr0) && check_xsave(st) && check_segs(st) &&
	       check_rip(st) && check_msrs(st) &&
	       !(st->rflags & ~RFLAGS_VALID) && (st->rflags & FLAG_ONE) &&
	       (!ev->has_error || ev->vector < 32);
}

int x86_state_save(const struct x86_state *st, struct stream *s)
{
	/* One function goes both ways; saving does not write to (copy). */
	struct x86_state copy = *st;

	stream_begin(s, STATE_TAG, STATE_VERSION);
	stream_state(s, &copy);
	stream_end(s);
	return stream_error(s);
}

int x86_state_load(struct x86_state *st, struct stream *s)
{
	struct x86_state loaded;

	memset(&loaded, 0, sizeof(loaded));
	stream_begin(s, STATE_TAG, STATE_VERSION);
	stream_state(s, &loaded);
	stream_end(s);
	if (!stream_error(s))
		stream_check(s, state_is_valid(&loaded));
	if (stream_error(s))
		return -EINVAL;
	*st = loaded;
	return 0;
}
