/* The CPUID policy: never more than the host has, topology, leaf by leaf. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "arch/cpuid.h"

#define ANY_STATE (&(struct x86_state){ .xcr0 = XCR0_X87 })

static struct cpuid_regs host(uint32_t leaf, uint32_t index)
{
	struct cpuid_regs r;

	asm volatile("cpuid"
		     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
		     : "a"(leaf), "c"(index));
	return r;
}

static void make(struct cpuid_policy *p, unsigned sockets, unsigned cores,
		 unsigned threads, bool pv)
{
	struct cpuid_config config = {
		.topology = { sockets, cores, threads },
		.pv = pv,
		.is_software = true,
		.tsc_khz = 2593907,
		.phys_bits = 40,
	};

	cpuid_policy_init(p, &config);
}

static struct cpuid_regs ask(const struct cpuid_policy *p, uint32_t leaf,
			     uint32_t index, uint32_t id)
{
	return cpuid_lookup(p, leaf, index, id, ANY_STATE);
}

static void vendor_and_model_are_the_hosts(void **state)
{
	struct cpuid_policy p;
	struct cpuid_regs r, h = host(0, 0);

	make(&p, 1, 1, 1, true);
	r = ask(&p, 0, 0, 0);
	assert_int_equal(r.ebx, h.ebx);
	assert_int_equal(r.ecx, h.ecx);
	assert_int_equal(r.edx, h.edx);
	assert_int_equal(ask(&p, 1, 0, 0).eax, host(1, 0).eax);
	for (uint32_t leaf = 0x80000002; leaf < 0x80000005; leaf++)
		assert_int_equal(ask(&p, leaf, 0, 0).eax, host(leaf, 0).eax);
}

/* What native emulation runs must be there on the host. */
static void instruction_features_are_a_subset_of_the_hosts(void **state)
{
	const uint32_t ecx1 = 0x5ad83a03u & ~(1u << 17 | 1u << 27);
	struct cpuid_policy p;
	struct cpuid_regs r, h;

	make(&p, 1, 1, 1, true);
	r = ask(&p, 1, 0, 0);
	h = host(1, 0);
	assert_int_equal(r.ecx & ecx1 & ~h.ecx, 0);
	r = ask(&p, 7, 0, 0);
	h = host(7, 0);
	/* all but FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP */
	assert_int_equal(r.ebx & ~h.ebx & ~0x00100683u, 0);
	assert_int_equal(r.ecx & ~h.ecx & ~(1u << 22), 0);
	r = ask(&p, 7, 1, 0);
	assert_int_equal(r.eax & ~host(7, 1).eax, 0);
}

static void hidden_features_are_hidden(void **state)
{
	struct cpuid_policy p;
	struct cpuid_regs r;

	make(&p, 1, 1, 1, true);
	r = ask(&p, 1, 0, 0);
	/* DTES64 MONITOR DS-CPL VMX SMX EIST TM2 PDCM */
	assert_int_equal(r.ecx & 0x000081fcu, 0);
	/* VME DS ACPI TM PBE */
	assert_int_equal(r.edx & 0xa0600002u, 0);
	r = ask(&p, 7, 0, 0);
	/* SGX HLE RTM MPX PT */
	assert_int_equal(r.ebx & 0x02004814u, 0);
	/* UMIP PKU OSPKE WAITPKG CET LA57 ENQCMD SGX_LC PKS */
	assert_int_equal(r.ecx & 0xe00100bcu, 0);
	/* UINTR AMX CET-IBT hybrid PCONFIG CORE_CAPABILITIES */
	assert_int_equal(r.edx & 0x43548020u, 0);
	for (uint32_t leaf = 0; leaf < 0x20; leaf++) {
		static const uint32_t empty[] = { 5,    9,    0xa,  0xf,
						  0x10, 0x12, 0x14, 0x18 };

		for (unsigned i = 0; i < sizeof(empty) / sizeof(*empty); i++)
			if (leaf == empty[i])
				assert_int_equal(ask(&p, leaf, 0, 0).eax, 0);
	}
	/* XSAVES, XGETBV with ECX 1 */
	assert_int_equal(ask(&p, 0xd, 1, 0).eax & 0xc, 0);
	/* SVM */
	assert_int_equal(ask(&p, 0x80000001, 0, 0).ecx & 4, 0);
}

static void speculation_bits_spare_the_guest_its_work_arounds(void **state)
{
	struct cpuid_policy p;
	uint32_t edx;

	make(&p, 1, 1, 1, false);
	edx = ask(&p, 7, 0, 0).edx;
	assert_true(edx & 1u << 26);                  /* IBRS */
	assert_true(edx & 1u << 29);                  /* ARCH_CAPABILITIES */
	assert_true(edx & 1u << 31);                  /* SSBD */
	assert_true(ask(&p, 1, 0, 0).ecx & 1u << 17); /* PCID */
	assert_true(ask(&p, 7, 0, 0).ebx & 1u << 10); /* INVPCID */
}

static void xsave_sizes_follow_xcr0(void **state)
{
	struct cpuid_policy p;
	struct x86_state st = { .xcr0 = XCR0_X87 | XCR0_SSE,
				.cr4 = CR4_OSXSAVE };
	struct cpuid_regs r;
	uint64_t mask;

	make(&p, 1, 1, 1, true);
	mask = cpuid_xcr0_mask(&p);
	assert_true(mask & XCR0_X87);
	assert_int_equal(mask & ~(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512),
			 0);
	assert_true(cpuid_lookup(&p, 1, 0, 0, &st).ecx & 1u << 27);
	assert_false(ask(&p, 1, 0, 0).ecx & 1u << 27);
	r = cpuid_lookup(&p, 0xd, 0, 0, &st);
	assert_int_equal(r.ebx, 576);
	assert_int_equal(r.eax, mask);
	if (mask & XCR0_AVX) {
		st.xcr0 |= XCR0_AVX;
		r = cpuid_lookup(&p, 0xd, 0, 0, &st);
		assert_int_equal(r.ebx, 576 + 256);
		assert_int_equal(cpuid_lookup(&p, 0xd, 1, 0, &st).ebx,
				 576 + 256);
	}
	st.xcr0 = mask;
	r = cpuid_lookup(&p, 0xd, 0, 0, &st);
	assert_int_equal(r.ebx, r.ecx);
	assert_true(r.ecx <= XSAVE_SIZE);
}

/* (A22) APIC ids and every leaf that speaks of topology agree. */
static void a22_topology(void **state)
{
	static const struct cpu_topology all[] = {
		{ 1, 1, 1 }, { 1, 4, 1 }, { 2, 2, 2 }, { 1, 3, 2 }, { 4, 1, 1 },
	};

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++) {
		const struct cpu_topology *t = &all[i];
		unsigned n = t->sockets * t->cores * t->threads;
		struct cpuid_policy p;
		uint32_t ids[64], smt, package;

		make(&p, t->sockets, t->cores, t->threads, true);
		smt = ask(&p, 0xb, 0, 0).eax;
		package = ask(&p, 0xb, 1, 0).eax;
		assert_int_equal(ask(&p, 0xb, 0, 0).ebx, t->threads);
		assert_int_equal(ask(&p, 0xb, 1, 0).ebx, t->threads * t->cores);
		assert_int_equal(ask(&p, 0xb, 0, 0).ecx, 0x100);
		assert_int_equal(ask(&p, 0xb, 1, 0).ecx, 0x201);
		assert_int_equal(ask(&p, 0xb, 2, 0).ebx, 0);
		for (unsigned cpu = 0; cpu < n; cpu++) {
			uint32_t id = ids[cpu] = cpuid_apic_id(t, cpu);

			for (unsigned k = 0; k < cpu; k++)
				assert_int_not_equal(ids[k], id);
			assert_int_equal(id & ((1u << smt) - 1),
					 cpu % t->threads);
			assert_int_equal(id >> package,
					 cpu / (t->threads * t->cores));
			assert_int_equal(ask(&p, 0xb, 1, id).edx, id);
			assert_int_equal(ask(&p, 1, 0, id).ebx >> 24, id);
		}
		assert_int_equal(!!(ask(&p, 1, 0, 0).edx & 1u << 28),
				 t->threads * t->cores > 1);
	}
}

static void tsc_frequency_is_the_machines(void **state)
{
	struct cpuid_policy p;
	struct cpuid_regs r;
	double khz;

	make(&p, 1, 1, 1, true);
	assert_true(ask(&p, 0x80000007, 0, 0).edx & 1u << 8);
	r = ask(&p, 0x40000010, 0, 0);
	assert_int_equal(r.eax, 2593907);
	if (cpuid_is_amd(&p))
		return;
	r = ask(&p, 0x15, 0, 0);
	assert_true((uint64_t)r.ecx / 1000 * r.ebx <= UINT32_MAX);
	khz = (double)r.ecx / 1000 * r.ebx / r.eax;
	assert_true(khz > 2593907 * 0.99999 && khz < 2593907 * 1.00001);
	assert_int_equal(ask(&p, 0x16, 0, 0).eax, 2593);
}

/* (A27) With pv the guest finds KVM's signature, without it a plain PC. */
static void a27_pv_leaves(void **state)
{
	struct cpuid_policy p;
	struct cpuid_regs r;

	make(&p, 1, 1, 1, true);
	r = ask(&p, 0x40000000, 0, 0);
	assert_memory_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
	assert_true(ask(&p, 0x40000001, 0, 0).eax & KVM_FEAT_CLOCKSOURCE2);
	assert_true(ask(&p, 1, 0, 0).ecx & 1u << 31);
	make(&p, 1, 1, 1, false);
	assert_false(ask(&p, 1, 0, 0).ecx & 1u << 31);
	r = ask(&p, 0x40000000, 0, 0);
	assert_memory_not_equal(&r.ebx, "KVMKVMKVM\0\0\0", 12);
}

static void leaves_out_of_range_answer_as_the_maker_says(void **state)
{
	struct cpuid_policy p;
	struct cpuid_regs a, b;
	uint32_t max;

	make(&p, 1, 2, 1, true);
	max = ask(&p, 0, 0, 0).eax;
	a = ask(&p, 0x12345678, 1, 1);
	b = ask(&p, max, 1, 1);
	if (cpuid_is_amd(&p))
		memset(&b, 0, sizeof(b));
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(ask(&p, 0x80000008, 0, 0).eax & 0xffff, 0x3028);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vendor_and_model_are_the_hosts),
		cmocka_unit_test(
			instruction_features_are_a_subset_of_the_hosts),
		cmocka_unit_test(hidden_features_are_hidden),
		cmocka_unit_test(
			speculation_bits_spare_the_guest_its_work_arounds),
		cmocka_unit_test(xsave_sizes_follow_xcr0),
		cmocka_unit_test(a22_topology),
		cmocka_unit_test(tsc_frequency_is_the_machines),
		cmocka_unit_test(a27_pv_leaves),
		cmocka_unit_test(leaves_out_of_range_answer_as_the_maker_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
