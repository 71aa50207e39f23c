/*
 * The KVM accelerator's own state and the contracts between its files.
 *
 *   kvm.c         machine: descriptors, memory slots, probe, accel_ops
 *   kvm_vcpu.c    a CPU: CPUID, the run loop, exits, events
 *   kvm_state.c   struct x86_state to and from KVM
 *   kvm_irq.c     in-kernel interrupt chips: lines, MSIs, irqfd, ioeventfd
 *
 * Linux Documentation/virt/kvm/api.rst; section numbers are of that text.
 */
#ifndef VCPU_KVM_KVM_H
#define VCPU_KVM_KVM_H

#include <linux/kvm.h>
#include <pthread.h>

#include "vcpu/vcpu.h"

#define KVM_MAX_MSI_ROUTES 256

/** An eventfd that leads to a message. */
struct kvm_msi_route {
	int fd; /* -1: free */
	struct msi_msg msg;
};

/** A machine. */
struct kvm_vm {
	int kvm_fd, vm_fd;
	size_t run_size;
	bool has_irqchip;
	bool has_xcrs; /* the processor has XSAVE */
	bool is_clock_set;
	int64_t clock_offset; /* vclock_tsc_offset() that KVM was told */
	pthread_mutex_t lock; /* guards routes and the clock; innermost */
	struct kvm_msi_route route[KVM_MAX_MSI_ROUTES];
	struct kvm_cpuid2 *supported; /* what this KVM can show */
	uint64_t nr_msi, nr_lines, nr_irqfds, nr_ioeventfds;
	struct stats_group stats_group;
};

/** A CPU. */
struct kvm_vcpu {
	int fd;
	struct kvm_run *run;
	bool must_complete; /* an exit's instruction is not finished yet */
	uint8_t activity;   /* enum x86_activity, without in-kernel chips */
	bool is_clock_set;
	int64_t clock_offset;
};

static inline struct kvm_vm *kvm_vm_of(const struct vcpus *vs)
{
	return vs->accel;
}

static inline struct kvm_vcpu *kvm_vcpu_of(const struct vcpu *vcpu)
{
	return vcpu->accel;
}

/** ioctl() that retries EINTR; -errno on failure. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

/** kvm_vcpu.c: members of accel_ops, see vcpu/accel.h. */
int kvm_vcpu_create(struct vcpu *vcpu, struct err *err);
void kvm_vcpu_destroy(struct vcpu *vcpu);
int kvm_vcpu_run(struct vcpu *vcpu, struct exit *exit);
void kvm_vcpu_kick(struct vcpu *vcpu);

/** kvm_state.c: members of accel_ops. */
int kvm_get_state(struct vcpu *vcpu, struct x86_state *st);
int kvm_set_state(struct vcpu *vcpu, const struct x86_state *st);
/** Read or set one MSR; 0 or -errno. */
int kvm_get_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t *value);
int kvm_set_msr(struct kvm_vcpu *kv, uint32_t index, uint64_t value);
/** Make the CPU's TSC the host's plus (offset); 0 or -errno. */
int kvm_set_tsc_offset(struct kvm_vcpu *kv, int64_t offset);

/* kvm_irq.c */
extern const struct irqchip_ops kvm_irqchip_ops;
extern const struct doorbell_ops kvm_doorbell_ops;
/** Make the in-kernel chips; -errno where this KVM has none. */
int kvm_irqchip_create(struct kvm_vm *kvm);
/** Power-on state of all in-kernel chips. */
void kvm_irqchip_reset(struct vcpus *vs);
/** Power-on state of the CPU's in-kernel LAPIC; 0 or -errno. */
int kvm_lapic_reset(struct vcpu *vcpu);

#endif
