/*
 * What CPUID says to the guest: made once per machine from the host's own
 * leaves, less what the machine cannot do or what would cost the guest (see
 * "The machine shown to the guest" in docs/devices.md).
 */
#ifndef ARCH_CPUID_H
#define ARCH_CPUID_H

#include "arch/regs.h"

/** Sockets, cores in each, threads in each core. */
struct cpu_topology {
	unsigned sockets, cores, threads;
};

/** What the answers depend on. */
struct cpuid_config {
	struct cpu_topology topology;
	bool pv;          /* KVM's paravirtual leaves and the hypervisor bit */
	bool is_software; /* interp or bt: drop what they do not do */
	uint32_t tsc_khz;
	uint64_t phys_bits; /* physical address width */
};

/** What CPUID answers, or a part of it. */
struct cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};

/** One leaf. (has_index): ECX selects a subleaf. */
struct cpuid_leaf {
	uint32_t leaf, index;
	bool has_index;
	struct cpuid_regs r;
};

/** All that a machine's CPUs answer to CPUID, but for what differs by CPU and
 * by its state: cpuid_lookup() adds that. Read-only once made. */
struct cpuid_policy {
	struct cpuid_config config;
	unsigned nr;
	struct cpuid_leaf leaf[96];
};

/* The crystal clock of leaf 0x15. Guests take it for the input of the local
 * APIC's timer, so that is what it is (KVM's too). */
#define CPUID_CRYSTAL_HZ 1000000000U

/* KVM_CPUID_FEATURES bits offered with (pv). */
/* clang-format off */
#define KVM_FEAT_NOP_IO_DELAY      BIT(1)
#define KVM_FEAT_CLOCKSOURCE2      BIT(3)
#define KVM_FEAT_STEAL_TIME        BIT(5)
#define KVM_FEAT_PV_EOI            BIT(6)
#define KVM_FEAT_PV_UNHALT         BIT(7)
#define KVM_FEAT_PV_TLB_FLUSH      BIT(9)
#define KVM_FEAT_PV_SEND_IPI       BIT(11)
#define KVM_FEAT_POLL_CONTROL      BIT(12)
#define KVM_FEAT_CLOCK_STABLE      BIT(24)
/* clang-format on */

/** Build the answers for (config) from the host's CPUID. */
void cpuid_policy_init(struct cpuid_policy *p,
		       const struct cpuid_config *config);

/**
 * The answer for (leaf, index) on the CPU with (apic_id) and state (st):
 * APIC ids, OSXSAVE, and the sizes in leaf 0xD follow CR4 and XCR0. Leaves out
 * of range answer as Intel's do: the highest basic leaf's.
 */
struct cpuid_regs cpuid_lookup(const struct cpuid_policy *p, uint32_t leaf,
			       uint32_t index, uint32_t apic_id,
			       const struct x86_state *st);

/** Is the CPU shown to the guest AMD's (or Hygon's)? Where the two makers
 * differ, the guest is given what its CPUID promises. */
bool cpuid_is_amd(const struct cpuid_policy *p);

/** The APIC id of CPU (index) in (t): fields are powers of two wide. */
uint32_t cpuid_apic_id(const struct cpu_topology *t, unsigned index);

/** The stored answer for (leaf, index), all zeros where there is none. */
struct cpuid_regs cpuid_get(const struct cpuid_policy *p, uint32_t leaf,
			    uint32_t index);

/** The bits of XCR0 that the guest may set. */
uint64_t cpuid_xcr0_mask(const struct cpuid_policy *p);

#endif
