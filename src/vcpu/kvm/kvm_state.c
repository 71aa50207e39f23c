/*
 * struct x86_state to and from KVM. Order matters when loading: CPUID was set
 * at creation; then special registers (modes) before general ones, XCR0 before
 * the FPU image that depends on it, events and activity last.
 */
#include "vcpu/kvm/kvm.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "host/clock.h"

/* ---- segments -------------------------------------------------------------- */

static struct kvm_segment seg_to_kvm(const struct x86_seg *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & ATTR_TYPE,
		.s = !!(s->attr & ATTR_S),
		.dpl = (uint8_t)ATTR_DPL(s->attr),
		.present = !!(s->attr & ATTR_P),
		.avl = !!(s->attr & ATTR_AVL),
		.l = !!(s->attr & ATTR_L),
		.db = !!(s->attr & ATTR_DB),
		.g = !!(s->attr & ATTR_G),
		.unusable = !!(s->attr & ATTR_UNUSABLE),
	};
}

static struct x86_seg seg_from_kvm(const struct kvm_segment *k)
{
	return (struct x86_seg){
		.base = k->base,
		.limit = k->limit,
		.sel = k->selector,
		.attr = (uint16_t)(k->type | k->s << 4 | k->dpl << 5 |
				   k->present << 7 | k->unusable << 11 |
				   k->avl << 12 | k->l << 13 | k->db << 14 |
				   k->g << 15),
	};
}

/* ---- model-specific registers ---------------------------------------------- */

#define MEMBER(m) offsetof(struct x86_state, m)

/* clang-format off */
static const struct {
	uint32_t msr;
	size_t offset;
	bool is_optional; /* not every KVM has it */
} msrs[] = {
	{ MSR_STAR, MEMBER(star), false },
	{ MSR_LSTAR, MEMBER(lstar), false },
	{ MSR_CSTAR, MEMBER(cstar), false },
	{ MSR_FMASK, MEMBER(fmask), false },
	{ MSR_KERNEL_GS_BASE, MEMBER(kernel_gs_base), false },
	{ MSR_SYSENTER_CS, MEMBER(sysenter_cs), false },
	{ MSR_SYSENTER_ESP, MEMBER(sysenter_esp), false },
	{ MSR_SYSENTER_EIP, MEMBER(sysenter_eip), false },
	{ MSR_PAT, MEMBER(pat), false },
	{ MSR_TSC_AUX, MEMBER(tsc_aux), true },
	{ MSR_TSC_ADJUST, MEMBER(tsc_adjust), true },
	{ MSR_MISC_ENABLE, MEMBER(misc_enable), true },
	{ MSR_SPEC_CTRL, MEMBER(spec_ctrl), true },
	{ MSR_DEBUGCTL, MEMBER(debugctl), true },
	{ MSR_MTRR_DEF_TYPE, MEMBER(mtrr_def), true },
	{ MSR_MTRR_FIX64K, MEMBER(mtrr_fix[0]), true },
	{ MSR_MTRR_FIX16K_0, MEMBER(mtrr_fix[1]), true },
	{ MSR_MTRR_FIX16K_1, MEMBER(mtrr_fix[2]), true },
	{ MSR_MTRR_FIX4K_0, MEMBER(mtrr_fix[3]), true },
	{ MSR_MTRR_FIX4K_0 + 1, MEMBER(mtrr_fix[4]), true },
	{ MSR_MTRR_FIX4K_0 + 2, MEMBER(mtrr_fix[5]), true },
	{ MSR_MTRR_FIX4K_0 + 3, MEMBER(mtrr_fix[6]), true },
	{ MSR_MTRR_FIX4K_0 + 4, MEMBER(mtrr_fix[7]), true },
	{ MSR_MTRR_FIX4K_0 + 5, MEMBER(mtrr_fix[8]), true },
	{ MSR_MTRR_FIX4K_0 + 6, MEMBER(mtrr_fix[9]), true },
	{ MSR_MTRR_FIX4K_0 + 7, MEMBER(mtrr_fix[10]), true },
	/* KVM's own (Documentation/virt/kvm/x86/msr.rst) */
	{ 0x4b564d00, MEMBER(pv_wall_clock), true },
	{ 0x4b564d01, MEMBER(pv_system_time), true },
	{ 0x4b564d03, MEMBER(pv_steal_time), true },
	{ 0x4b564d04, MEMBER(pv_eoi), true },
};
/* clang-format on */

int kvm_set_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };
	int r = ioctl(kv->fd, KVM_SET_MSRS, &m);

	return r == 1 ? 0 : r < 0 ? -errno : -EINVAL;
}

int kvm_get_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index } };
	int r = ioctl(kv->fd, KVM_GET_MSRS, &m);

	*value = m.entry.data;
	return r == 1 ? 0 : r < 0 ? -errno : -EINVAL;
}

/*
 * Writing the TSC MSR will not do: KVM takes a value that is within a second of
 * what it expects for an attempt to make CPUs equal, and changes nothing. Older
 * than Linux 5.16, there is no other way.
 */
int kvm_set_tsc_offset(struct kvm_vcpu *kv, int64_t offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)&offset,
	};

	if (!kvm_ioctl(kv->fd, KVM_SET_DEVICE_ATTR, &attr))
		return 0;
	return kvm_set_msr(kv, MSR_TSC, clock_tsc() + (uint64_t)offset);
}

static int get_msrs(struct kvm_vcpu *kv, struct x86_state *st)
{
	uint64_t tsc;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
		uint64_t *member = (void *)((char *)st + msrs[i].offset);

		r = kvm_get_msr(kv, msrs[i].msr, member);
		if (r && !msrs[i].is_optional)
			return r;
	}
	for (uint32_t i = 0; i < NR_MTRR_VAR * 2; i++)
		kvm_get_msr(kv, MSR_MTRR_PHYSBASE0 + i,
			    &st->mtrr_var[i / 2][i % 2]);
	r = kvm_get_msr(kv, MSR_TSC, &tsc);
	st->tsc_offset = (int64_t)(tsc - clock_tsc());
	return r;
}

/* Not those that are so already: KVM complains of some in its log, even of
 * zeros, and the clock's begins anew. */
static int change_msr(struct kvm_vcpu *kv, uint32_t msr, uint64_t value)
{
	uint64_t old;

	if (!kvm_get_msr(kv, msr, &old) && old == value)
		return 0;
	return kvm_set_msr(kv, msr, value);
}

static int set_msrs(struct kvm_vcpu *kv, const struct x86_state *st)
{
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(msrs); i++) {
		uint64_t value;

		memcpy(&value, (const char *)st + msrs[i].offset,
		       sizeof(value));
		r = change_msr(kv, msrs[i].msr, value);
		if (r && !msrs[i].is_optional)
			return r;
	}
	for (uint32_t i = 0; i < NR_MTRR_VAR * 2; i++)
		kvm_set_msr(kv, MSR_MTRR_PHYSBASE0 + i,
			    st->mtrr_var[i / 2][i % 2]);
	return 0;
}

/* ---- general and special registers ------------------------------------------ */

/* In the order of enum gpr. */
static const size_t gpr_offset[NR_GPR] = {
	offsetof(struct kvm_regs, rax), offsetof(struct kvm_regs, rcx),
	offsetof(struct kvm_regs, rdx), offsetof(struct kvm_regs, rbx),
	offsetof(struct kvm_regs, rsp), offsetof(struct kvm_regs, rbp),
	offsetof(struct kvm_regs, rsi), offsetof(struct kvm_regs, rdi),
	offsetof(struct kvm_regs, r8),  offsetof(struct kvm_regs, r9),
	offsetof(struct kvm_regs, r10), offsetof(struct kvm_regs, r11),
	offsetof(struct kvm_regs, r12), offsetof(struct kvm_regs, r13),
	offsetof(struct kvm_regs, r14), offsetof(struct kvm_regs, r15),
};

static int get_regs(struct kvm_vcpu *kv, struct x86_state *st)
{
	struct kvm_regs regs;
	int r = kvm_ioctl(kv->fd, KVM_GET_REGS, &regs);

	for (unsigned i = 0; !r && i < NR_GPR; i++)
		memcpy(&st->gpr[i], (char *)&regs + gpr_offset[i], 8);
	st->rip = regs.rip;
	st->rflags = regs.rflags;
	return r;
}

static int set_regs(struct kvm_vcpu *kv, const struct x86_state *st)
{
	struct kvm_regs regs = { .rip = st->rip, .rflags = st->rflags };

	for (unsigned i = 0; i < NR_GPR; i++)
		memcpy((char *)&regs + gpr_offset[i], &st->gpr[i], 8);
	return kvm_ioctl(kv->fd, KVM_SET_REGS, &regs);
}

static int get_sregs(struct kvm_vcpu *kv, struct x86_state *st)
{
	struct kvm_sregs s;
	int r = kvm_ioctl(kv->fd, KVM_GET_SREGS, &s);

	if (r)
		return r;
	st->seg[SEG_ES] = seg_from_kvm(&s.es);
	st->seg[SEG_CS] = seg_from_kvm(&s.cs);
	st->seg[SEG_SS] = seg_from_kvm(&s.ss);
	st->seg[SEG_DS] = seg_from_kvm(&s.ds);
	st->seg[SEG_FS] = seg_from_kvm(&s.fs);
	st->seg[SEG_GS] = seg_from_kvm(&s.gs);
	st->ldtr = seg_from_kvm(&s.ldt);
	st->tr = seg_from_kvm(&s.tr);
	st->gdtr = (struct x86_dtr){ s.gdt.base, s.gdt.limit };
	st->idtr = (struct x86_dtr){ s.idt.base, s.idt.limit };
	st->cr0 = s.cr0;
	st->cr2 = s.cr2;
	st->cr3 = s.cr3;
	st->cr4 = s.cr4;
	st->efer = s.efer;
	return 0;
}

static int set_sregs(struct kvm_vcpu *kv, const struct x86_state *st)
{
	struct kvm_sregs s;
	int r = kvm_ioctl(kv->fd, KVM_GET_SREGS, &s); /* apic_base, cr8 stay */

	if (r)
		return r;
	s.es = seg_to_kvm(&st->seg[SEG_ES]);
	s.cs = seg_to_kvm(&st->seg[SEG_CS]);
	s.ss = seg_to_kvm(&st->seg[SEG_SS]);
	s.ds = seg_to_kvm(&st->seg[SEG_DS]);
	s.fs = seg_to_kvm(&st->seg[SEG_FS]);
	s.gs = seg_to_kvm(&st->seg[SEG_GS]);
	s.ldt = seg_to_kvm(&st->ldtr);
	s.tr = seg_to_kvm(&st->tr);
	s.gdt.base = st->gdtr.base;
	s.gdt.limit = st->gdtr.limit;
	s.idt.base = st->idtr.base;
	s.idt.limit = st->idtr.limit;
	s.cr0 = st->cr0;
	s.cr2 = st->cr2;
	s.cr3 = st->cr3;
	s.cr4 = st->cr4;
	s.efer = st->efer;
	memset(s.interrupt_bitmap, 0, sizeof(s.interrupt_bitmap));
	return kvm_ioctl(kv->fd, KVM_SET_SREGS, &s);
}

/* ---- FPU, debug registers ---------------------------------------------------- */

static int get_fpu(struct vcpu *vcpu, struct x86_state *st)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct kvm_xcrs xcrs = { .nr_xcrs = 0 };
	struct kvm_xsave xsave;
	int r = kvm_ioctl(kv->fd, KVM_GET_XSAVE, &xsave);

	if (!r && kvm_vm_of(vcpu->set)->has_xcrs)
		r = kvm_ioctl(kv->fd, KVM_GET_XCRS, &xcrs);
	memcpy(st->xsave, &xsave, sizeof(st->xsave));
	st->xcr0 = xcrs.nr_xcrs ? xcrs.xcrs[0].value : XCR0_X87;
	return r;
}

static int set_fpu(struct vcpu *vcpu, const struct x86_state *st)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct kvm_xcrs xcrs = {
		.nr_xcrs = 1,
		.xcrs[0] = { .xcr = 0, .value = st->xcr0 },
	};
	struct kvm_xsave xsave;
	int r = 0;

	if (kvm_vm_of(vcpu->set)->has_xcrs)
		r = kvm_ioctl(kv->fd, KVM_SET_XCRS, &xcrs);
	memcpy(&xsave, st->xsave, sizeof(st->xsave));
	return r ? r : kvm_ioctl(kv->fd, KVM_SET_XSAVE, &xsave);
}

static int get_debug(struct kvm_vcpu *kv, struct x86_state *st)
{
	struct kvm_debugregs d;
	int r = kvm_ioctl(kv->fd, KVM_GET_DEBUGREGS, &d);

	memcpy(st->dr, d.db, sizeof(d.db));
	st->dr[6] = d.dr6;
	st->dr[7] = d.dr7;
	return r;
}

static int set_debug(struct kvm_vcpu *kv, const struct x86_state *st)
{
	struct kvm_debugregs d = { .dr6 = st->dr[6], .dr7 = st->dr[7] };

	memcpy(d.db, st->dr, sizeof(d.db));
	return kvm_ioctl(kv->fd, KVM_SET_DEBUGREGS, &d);
}

/* ---- between instructions ------------------------------------------------------ */

static int get_events(struct vcpu *vcpu, struct x86_state *st)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_vcpu_events e;
	int r = kvm_ioctl(kv->fd, KVM_GET_VCPU_EVENTS, &e);

	if (r)
		return r;
	st->nmi_pending = e.nmi.pending;
	st->nmi_masked = e.nmi.masked;
	st->shadow_sti = e.interrupt.shadow & KVM_X86_SHADOW_INT_STI;
	st->shadow_ss = e.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS;
	st->event = (struct x86_event){ .valid = false };
	if (e.exception.injected)
		st->event = (struct x86_event){
			.valid = true,
			.vector = e.exception.nr,
			.has_error = e.exception.has_error_code,
			.error = e.exception.error_code,
		};
	else if (e.interrupt.injected)
		st->event = (struct x86_event){
			.valid = true,
			.vector = e.interrupt.nr,
			.is_soft = e.interrupt.soft,
		};
	kvm_ioctl(kv->fd, KVM_GET_MP_STATE, &mp);
	st->activity = mp.mp_state == KVM_MP_STATE_HALTED     ? ACT_HALTED
		       : mp.mp_state == KVM_MP_STATE_RUNNABLE ? ACT_RUNNING
							      : ACT_WAIT_SIPI;
	if (!kvm_vm_of(vcpu->set)->has_irqchip)
		st->activity = kv->activity;
	return 0;
}

static int set_events(struct vcpu *vcpu, const struct x86_state *st)
{
	static const uint32_t activities[] = {
		[ACT_RUNNING] = KVM_MP_STATE_RUNNABLE,
		[ACT_HALTED] = KVM_MP_STATE_HALTED,
		[ACT_WAIT_SIPI] = KVM_MP_STATE_UNINITIALIZED,
		[ACT_SHUTDOWN] = KVM_MP_STATE_RUNNABLE,
	};
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct kvm_mp_state mp = { .mp_state = activities[st->activity] };
	bool is_exception = st->event.valid && st->event.vector < 32;
	struct kvm_vcpu_events e = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING |
			 KVM_VCPUEVENT_VALID_SHADOW,
		.nmi = { .pending = st->nmi_pending, .masked = st->nmi_masked },
		.interrupt.shadow =
			(uint8_t)((st->shadow_sti ? KVM_X86_SHADOW_INT_STI
						  : 0) |
				  (st->shadow_ss ? KVM_X86_SHADOW_INT_MOV_SS
						 : 0)),
	};
	int r;

	if (is_exception) {
		e.exception.injected = 1;
		e.exception.nr = st->event.vector;
		e.exception.has_error_code = st->event.has_error;
		e.exception.error_code = st->event.error;
	} else if (st->event.valid) {
		e.interrupt.injected = 1;
		e.interrupt.nr = st->event.vector;
		e.interrupt.soft = st->event.is_soft;
	}
	/* What KVM_RUN would have said of this state. */
	kv->activity = st->activity;
	kv->run->if_flag = !!(st->rflags & FLAG_IF);
	kv->run->ready_for_interrupt_injection =
		kv->run->if_flag && !e.interrupt.shadow && !st->event.valid;
	r = kvm_ioctl(kv->fd, KVM_SET_VCPU_EVENTS, &e);
	if (!r && kvm_vm_of(vcpu->set)->has_irqchip)
		r = kvm_ioctl(kv->fd, KVM_SET_MP_STATE, &mp);
	return r;
}

int kvm_get_state(struct vcpu *vcpu, struct x86_state *st)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	int r;

	memset(st, 0, sizeof(*st));
	r = get_regs(kv, st);
	if (!r)
		r = get_sregs(kv, st);
	if (!r)
		r = get_fpu(vcpu, st);
	if (!r)
		r = get_debug(kv, st);
	if (!r)
		r = get_msrs(kv, st);
	return r ? r : get_events(vcpu, st);
}

int kvm_set_state(struct vcpu *vcpu, const struct x86_state *st)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	int r = set_sregs(kv, st);

	kv->must_complete = false;
	kv->is_clock_set = false;
	if (!r)
		r = set_regs(kv, st);
	if (!r)
		r = set_fpu(vcpu, st);
	if (!r)
		r = set_debug(kv, st);
	if (!r)
		r = set_msrs(kv, st);
	if (!r && !vcpu->set->clock) /* which sets it when the CPU runs */
		r = kvm_set_tsc_offset(kv, st->tsc_offset);
	return r ? r : set_events(vcpu, st);
}
