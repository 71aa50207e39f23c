/*
 * KVM's paravirtual interface, for the software processors: clock, steal time,
 * EOI, kick, IPI, TLB flush. Linux Documentation/virt/kvm/x86/{msr,cpuid,
 * hypercalls}.rst.
 */
#ifndef VCPU_PV_H
#define VCPU_PV_H

#include "vcpu/vcpu.h"

/** In (pv_eoi), whose MSR has a reserved bit there: an EOI is on offer. Only
 * while the CPU runs. */
#define PV_EOI_OFFERED BIT(1)

/*
 * Hypercall of our own: RBX is the guest-physical address of a text, RCX its
 * length; up to PV_LOG_MAX bytes are printed in the log of the machine, at the
 * rate that a misbehaving guest has. RAX: 0, or -14 when it is not memory.
 */
#define PV_HC_LOG  0x52494e47 /* "RING" */
#define PV_LOG_MAX 200

/** Is (msr) one of KVM's? Read or write it on (st): 0, or -1 for #GP. */
bool pv_owns_msr(uint32_t msr);
int pv_msr_read(struct vcpu *vcpu, struct x86_state *st, uint32_t msr,
		uint64_t *value);
int pv_msr_write(struct vcpu *vcpu, struct x86_state *st, uint32_t msr,
		 uint64_t value);

/** VMCALL or VMMCALL: number in RAX, arguments in RBX, RCX, RDX, RSI; result
 * in RAX. CPL is 0. */
void pv_hypercall(struct vcpu *vcpu, struct x86_state *st);

/** Write this CPU's clock page anew: at registration, after resume and load. */
void pv_clock_update(struct vcpu *vcpu, struct x86_state *st);
/** Add what this thread waited for a host CPU to the guest's steal time; also
 * clears the preempted flag. Called when the thread enters the guest. */
void pv_steal_update(struct vcpu *vcpu, struct x86_state *st);
/** Mark this CPU preempted (halted) for other CPUs' lock and flush decisions. */
void pv_set_preempted(struct vcpu *vcpu, struct x86_state *st);

/** Offer the paravirtual EOI for the interrupt just injected, and later see
 * whether the guest used it: true means that the EOI is to be done. Looking
 * takes the offer back: the guest then sends its EOI the long way. */
void pv_eoi_offer(struct vcpu *vcpu, struct x86_state *st);
bool pv_eoi_taken(struct vcpu *vcpu, struct x86_state *st);

#endif
