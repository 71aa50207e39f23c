/*
 * CPUID policy: what is kept of the host's answers is an allow-list, so that a
 * feature of a CPU to come is hidden until someone has thought about it.
 *
 * Kept: x86-64-v3 and AVX-512, where the host's kernel lets programs use them.
 * Added whatever the host says, because the machine implements them itself:
 * paging and APIC features, and the bits that tell a guest that the known
 * speculation bugs need no work-around (IBRS, ARCH_CAPABILITIES). Hidden: what
 * would cost the guest or us (see docs/devices.md).
 *
 * Layouts: SDM volume 2, CPUID; AMD APM volume 3, appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "arch/cpuid.h"

#include <string.h>

#include "base/err.h"

#define LEAF_EXT_MAX   0x80000000U
#define LEAF_PV        0x40000000U
#define LEAF_PV_FEAT   0x40000001U
#define LEAF_PV_TSC    0x40000010U
#define MAX_BASIC      0x1f
#define MAX_BASIC_AMD  0x10
#define MAX_EXT        0x80000008U
#define MAX_EXT_AMD    0x80000021U
#define XSAVE_BASE     576 /* legacy region and header */
#define XCR0_SUPPORTED (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)

enum reg { EAX, EBX, ECX, EDX };

/* Features of one register: those passed through when the host has them, those
 * set regardless, and those that need AVX or AVX-512 state in XCR0. */
struct feature_mask {
	uint32_t leaf, index;
	enum reg reg;
	uint32_t pass, force, avx, avx512;
};

#define B(n) ((uint32_t)BIT(n))

static const struct feature_mask masks[] = {
	/* SSE3 PCLMUL SSSE3 FMA CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX
	 * F16C RDRAND; ours: PCID x2APIC TSC-deadline */
	{ 1, 0, ECX,
	  B(0) | B(1) | B(9) | B(12) | B(13) | B(19) | B(20) | B(22) | B(23) |
		  B(25) | B(26) | B(28) | B(29) | B(30),
	  B(17) | B(21) | B(24), B(12) | B(28) | B(29), 0 },
	/* FPU CX8 SEP CMOV CLFSH MMX FXSR SSE SSE2 self-snoop; ours: DE PSE
	 * TSC MSR PAE MCE APIC MTRR PGE MCA PAT PSE36 */
	{ 1, 0, EDX,
	  B(0) | B(8) | B(11) | B(15) | B(19) | B(23) | B(24) | B(25) | B(26) |
		  B(27),
	  B(2) | B(3) | B(4) | B(5) | B(6) | B(7) | B(9) | B(12) | B(13) |
		  B(14) | B(16) | B(17),
	  0, 0 },
	/* BMI1 AVX2 FDP-on-exception-only BMI2 no-FCS/FDS AVX512F AVX512DQ
	 * RDSEED ADX IFMA CLFLUSHOPT CLWB AVX512CD SHA AVX512BW AVX512VL;
	 * ours: FSGSBASE TSC_ADJUST SMEP ERMS INVPCID SMAP */
	{ 7, 0, EBX,
	  B(3) | B(5) | B(6) | B(8) | B(13) | B(16) | B(17) | B(18) | B(19) |
		  B(21) | B(23) | B(24) | B(28) | B(29) | B(30) | B(31),
	  B(0) | B(1) | B(7) | B(9) | B(10) | B(20), B(5),
	  B(16) | B(17) | B(21) | B(28) | B(30) | B(31) },
	/* VBMI VBMI2 GFNI VAES VPCLMUL VNNI BITALG VPOPCNTDQ MOVDIRI; ours:
	 * RDPID */
	{ 7, 0, ECX,
	  B(1) | B(6) | B(8) | B(9) | B(10) | B(11) | B(12) | B(14) | B(27),
	  B(22), B(9) | B(10), B(1) | B(6) | B(11) | B(12) | B(14) },
	/* SERIALIZE AVX512_FP16; ours: FSRM IBRS+IBPB STIBP L1D_FLUSH
	 * ARCH_CAPABILITIES SSBD */
	{ 7, 0, EDX, B(14) | B(23),
	  B(4) | B(26) | B(27) | B(28) | B(29) | B(31), 0, B(23) },
	/* AVX-VNNI AVX512_BF16, fast short string operations */
	{ 7, 1, EAX, B(4) | B(5) | B(10) | B(11) | B(12), 0, B(4), B(5) },
	/* XSAVEOPT XSAVEC */
	{ 0xd, 1, EAX, B(0) | B(1), 0, 0, 0 },
	/* LZCNT SSE4A MISALIGNSSE PREFETCHW; ours: LAHF */
	{ 0x80000001, 0, ECX, B(5) | B(6) | B(7) | B(8), B(0), 0, 0 },
	/* MMXEXT; ours: SYSCALL NX 1G-pages RDTSCP LM */
	{ 0x80000001, 0, EDX, B(22), B(11) | B(20) | B(26) | B(27) | B(29), 0,
	  0 },
	/* LFENCE serializes, null selectors clear the base */
	{ 0x80000021, 0, EAX, B(2) | B(6), 0, 0, 0 },
};

static struct cpuid_regs host_cpuid_raw(uint32_t leaf, uint32_t index)
{
	struct cpuid_regs r;

	asm volatile("cpuid"
		     : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx)
		     : "a"(leaf), "c"(index));
	return r;
}

static struct cpuid_regs host_cpuid(uint32_t leaf, uint32_t index)
{
	if (leaf > host_cpuid_raw(leaf & LEAF_EXT_MAX, 0).eax)
		return (struct cpuid_regs){ 0 };
	return host_cpuid_raw(leaf, index);
}

static uint64_t host_xcr0(void)
{
	uint32_t lo, hi;
	uint64_t xcr0;

	if (!(host_cpuid(1, 0).ecx & B(27)))
		return XCR0_X87 | XCR0_SSE;
	asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	xcr0 = ((uint64_t)hi << 32 | lo) & XCR0_SUPPORTED;
	if ((xcr0 & XCR0_AVX512) != XCR0_AVX512 || !(xcr0 & XCR0_AVX))
		xcr0 &= ~XCR0_AVX512;
	return xcr0;
}

static uint32_t *reg_of(struct cpuid_regs *r, enum reg reg)
{
	uint32_t *const regs[] = { &r->eax, &r->ebx, &r->ecx, &r->edx };

	return regs[reg];
}

/* The host's features in (reg) of (leaf, index), filtered. */
static uint32_t features(uint32_t leaf, uint32_t index, enum reg reg)
{
	struct cpuid_regs r = host_cpuid(leaf, index);
	uint64_t xcr0 = host_xcr0();

	for (unsigned i = 0; i < ARRAY_SIZE(masks); i++) {
		const struct feature_mask *m = &masks[i];
		uint32_t pass = m->pass;

		if (m->leaf != leaf || m->index != index || m->reg != reg)
			continue;
		if (!(xcr0 & XCR0_AVX))
			pass &= ~m->avx;
		if (!(xcr0 & XCR0_AVX512))
			pass &= ~m->avx512;
		return (*reg_of(&r, reg) & pass) | m->force;
	}
	return 0;
}

static void add(struct cpuid_policy *p, uint32_t leaf, int index,
		struct cpuid_regs r)
{
	vm_assert(p->nr < ARRAY_SIZE(p->leaf));
	p->leaf[p->nr++] = (struct cpuid_leaf){
		.leaf = leaf,
		.index = index < 0 ? 0 : (uint32_t)index,
		.has_index = index >= 0,
		.r = r,
	};
}

/* Bits needed to number (n) things. */
static unsigned width_of(unsigned n)
{
	return n <= 1 ? 0 : 32 - (unsigned)__builtin_clz(n - 1);
}

static unsigned smt_width(const struct cpu_topology *t)
{
	return width_of(t->threads);
}

static unsigned package_width(const struct cpu_topology *t)
{
	return width_of(t->threads) + width_of(t->cores);
}

uint32_t cpuid_apic_id(const struct cpu_topology *t, unsigned index)
{
	unsigned thread = index % t->threads;
	unsigned core = index / t->threads % t->cores;
	unsigned socket = index / t->threads / t->cores;

	return socket << package_width(t) | core << smt_width(t) | thread;
}

static void add_basic(struct cpuid_policy *p, bool is_amd)
{
	const struct cpuid_config *c = &p->config;
	struct cpuid_regs r = host_cpuid(0, 0);
	unsigned ids = 1U << package_width(&c->topology);

	r.eax = is_amd ? MAX_BASIC_AMD : MAX_BASIC;
	add(p, 0, -1, r);
	r = host_cpuid(1, 0);
	r.ebx = 8 << 8 | MIN(ids, 255U) << 16; /* 64-byte CLFLUSH */
	r.ecx = features(1, 0, ECX) | (c->pv ? B(31) : 0);
	r.edx = features(1, 0, EDX) | (ids > 1 ? B(28) : 0);
	add(p, 1, -1, r);
	if (!is_amd)
		add(p, 2, -1, host_cpuid(2, 0));
	/* ARAT: the APIC timer never stops. */
	add(p, 6, -1, (struct cpuid_regs){ .eax = B(2) });
	add(p, 7, 0,
	    (struct cpuid_regs){ .eax = c->is_software ? 2 : 1,
				 .ebx = features(7, 0, EBX),
				 .ecx = features(7, 0, ECX),
				 .edx = features(7, 0, EDX) });
	add(p, 7, 1, (struct cpuid_regs){ .eax = features(7, 1, EAX) });
	/* BHI_CTRL: guests that clear the branch history by loops at each
	 * system call leave that to the processor, which has none. */
	if (c->is_software)
		add(p, 7, 2, (struct cpuid_regs){ .edx = B(4) });
}

/* Caches, with the guest's topology for who shares them: leaf 4, or AMD's
 * 0x8000001D, which has the same layout. */
static void add_caches(struct cpuid_policy *p, uint32_t leaf)
{
	const struct cpu_topology *t = &p->config.topology;

	for (int i = 0; i < 8; i++) {
		struct cpuid_regs r = host_cpuid(leaf, (uint32_t)i);
		unsigned level = r.eax >> 5 & 7;
		unsigned width = level > 2 ? package_width(t) : smt_width(t);

		if (!(r.eax & 0x1f))
			break;
		r.eax = (r.eax & 0x3fff) | ((1U << width) - 1) << 14;
		if (leaf == 4)
			r.eax |= MIN((1U << width_of(t->cores)) - 1, 63U) << 26;
		add(p, leaf, i, r);
	}
}

/* Leaves 0xB and 0x1F: EAX is the shift to the next level's id. */
static void add_topology(struct cpuid_policy *p, uint32_t leaf)
{
	const struct cpu_topology *t = &p->config.topology;

	add(p, leaf, 0,
	    (struct cpuid_regs){
		    .eax = smt_width(t), .ebx = t->threads, .ecx = 1 << 8 });
	add(p, leaf, 1,
	    (struct cpuid_regs){ .eax = package_width(t),
				 .ebx = t->threads * t->cores,
				 .ecx = 2 << 8 | 1 });
}

uint64_t cpuid_xcr0_mask(const struct cpuid_policy *p)
{
	struct cpuid_regs r = cpuid_get(p, 0xd, 0);

	return ((uint64_t)r.edx << 32 | r.eax) & XCR0_SUPPORTED;
}

static uint32_t xsave_size(const struct cpuid_policy *p, uint64_t xcr0)
{
	uint32_t size = XSAVE_BASE;

	for (unsigned i = 2; i < 8; i++) {
		struct cpuid_regs r = cpuid_get(p, 0xd, i);

		if (xcr0 & BIT(i))
			size = MAX(size, r.ebx + r.eax);
	}
	return size;
}

static uint32_t xsavec_size(const struct cpuid_policy *p, uint64_t xcr0)
{
	uint32_t size = XSAVE_BASE;

	for (unsigned i = 2; i < 8; i++) {
		struct cpuid_regs r = cpuid_get(p, 0xd, i);

		if (!(xcr0 & BIT(i)))
			continue;
		if (r.ecx & B(1))
			size = ALIGN_UP(size, 64);
		size += r.eax;
	}
	return size;
}

static void add_xsave(struct cpuid_policy *p)
{
	uint64_t xcr0 = host_xcr0();
	struct cpuid_regs *r;

	if (!(cpuid_get(p, 1, 0).ecx & B(26)))
		return;
	add(p, 0xd, 0, (struct cpuid_regs){ .eax = (uint32_t)xcr0 });
	r = &p->leaf[p->nr - 1].r;
	add(p, 0xd, 1, (struct cpuid_regs){ .eax = features(0xd, 1, EAX) });
	for (int i = 2; i < 8; i++)
		if (xcr0 & BIT(i))
			add(p, 0xd, i, host_cpuid(0xd, (uint32_t)i));
	r->ecx = xsave_size(p, xcr0);
}

/*
 * TSC as a multiple of the crystal (leaf 0x15) and in MHz (0x16). Guests
 * multiply the crystal's kHz with the numerator in 32 bits: of the fractions
 * that allow it the best is taken, and none if it is off by over 10 ppm, so
 * that guests measure instead.
 */
static void add_tsc(struct cpuid_policy *p)
{
	const uint64_t crystal = CPUID_CRYSTAL_HZ / 1000;
	uint64_t khz = p->config.tsc_khz, best = UINT64_MAX, num = 0, den = 1;

	for (uint64_t d = 1; d * khz / crystal < UINT32_MAX / crystal; d++) {
		uint64_t n = (d * khz + crystal / 2) / crystal;
		int64_t off = (int64_t)(n * crystal - d * khz);
		uint64_t ppb = (uint64_t)(off < 0 ? -off : off) * 1000000000 /
			       (d * khz + 1);

		if (n && ppb < best) {
			best = ppb;
			num = n;
			den = d;
		}
		if (!best || !khz)
			break;
	}
	if (best <= 10000)
		add(p, 0x15, -1,
		    (struct cpuid_regs){ .eax = (uint32_t)den,
					 .ebx = (uint32_t)num,
					 .ecx = CPUID_CRYSTAL_HZ });
	add(p, 0x16, -1,
	    (struct cpuid_regs){ .eax = (uint32_t)khz / 1000,
				 .ebx = (uint32_t)khz / 1000,
				 .ecx = 100 });
}

static void add_pv(struct cpuid_policy *p)
{
	/* "KVMKVMKVM\0\0\0" */
	add(p, LEAF_PV, -1,
	    (struct cpuid_regs){ LEAF_PV_TSC, 0x4b4d564b, 0x564b4d56, 0x4d });
	add(p, LEAF_PV_FEAT, -1,
	    (struct cpuid_regs){
		    .eax = KVM_FEAT_NOP_IO_DELAY | KVM_FEAT_CLOCKSOURCE2 |
			   KVM_FEAT_STEAL_TIME | KVM_FEAT_PV_EOI |
			   KVM_FEAT_PV_UNHALT | KVM_FEAT_PV_TLB_FLUSH |
			   KVM_FEAT_PV_SEND_IPI | KVM_FEAT_POLL_CONTROL |
			   KVM_FEAT_CLOCK_STABLE });
	add(p, LEAF_PV_TSC, -1,
	    (struct cpuid_regs){ .eax = p->config.tsc_khz,
				 .ebx = CPUID_CRYSTAL_HZ / 1000 });
}

static void add_extended(struct cpuid_policy *p, bool is_amd)
{
	const struct cpuid_config *c = &p->config;
	struct cpuid_regs r = host_cpuid(LEAF_EXT_MAX, 0);
	unsigned cpus = c->topology.threads * c->topology.cores;

	r.eax = is_amd ? MAX_EXT_AMD : MAX_EXT;
	add(p, LEAF_EXT_MAX, -1, r);
	r = host_cpuid(0x80000001, 0);
	if (!is_amd)
		r.eax = r.ebx = 0;
	r.ecx = features(0x80000001, 0, ECX);
	r.edx = features(0x80000001, 0, EDX);
	if (is_amd) { /* CMP_LEGACY, TOPOEXT; EDX repeats leaf 1's bits */
		r.ecx |= (cpus > 1 ? B(1) : 0) | B(22);
		r.edx |= features(1, 0, EDX) & 0x0183f3ff;
	}
	add(p, 0x80000001, -1, r);
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000006; leaf++)
		add(p, leaf, -1, host_cpuid(leaf, 0));
	/* The TSC runs at one rate in every state. */
	add(p, 0x80000007, -1, (struct cpuid_regs){ .edx = B(8) });
	r = (struct cpuid_regs){ .eax = (uint32_t)c->phys_bits | 48 << 8 };
	if (is_amd) { /* IBPB IBRS STIBP SSBD; ids and CPUs in a package */
		r.ebx = B(12) | B(14) | B(15) | B(24);
		r.ecx = package_width(&c->topology) << 12 | (cpus - 1);
	}
	add(p, 0x80000008, -1, r);
	if (!is_amd)
		return;
	add(p, 0x80000019, -1, host_cpuid(0x80000019, 0));
	add(p, 0x8000001a, -1, host_cpuid(0x8000001a, 0));
	add_caches(p, 0x8000001d);
	add(p, 0x8000001e, -1,
	    (struct cpuid_regs){ .ebx = (c->topology.threads - 1) << 8 });
	r = (struct cpuid_regs){ .eax = features(0x80000021, 0, EAX) };
	add(p, 0x80000021, -1, r);
}

bool cpuid_is_amd(const struct cpuid_policy *p)
{
	uint32_t end = p->leaf[0].r.ecx;

	return end == 0x444d4163 /* Authentic"cAMD" */ ||
	       end == 0x656e6975 /* HygonGen"uine" */;
}

void cpuid_policy_init(struct cpuid_policy *p,
		       const struct cpuid_config *config)
{
	uint32_t end = host_cpuid(0, 0).ecx;
	bool is_amd = end == 0x444d4163 || end == 0x656e6975;
	struct cpu_topology *t = &p->config.topology;

	memset(p, 0, sizeof(*p));
	p->config = *config;
	t->sockets = MAX(t->sockets, 1U);
	t->cores = MAX(t->cores, 1U);
	t->threads = MAX(t->threads, 1U);
	if (!p->config.phys_bits)
		p->config.phys_bits = host_cpuid(0x80000008, 0).eax & 0xff;
	add_basic(p, is_amd);
	if (!is_amd)
		add_caches(p, 4);
	add_topology(p, 0xb);
	add_xsave(p);
	if (!is_amd) {
		add_tsc(p);
		add_topology(p, 0x1f);
	}
	if (config->pv)
		add_pv(p);
	add_extended(p, is_amd);
}

static const struct cpuid_leaf *find(const struct cpuid_policy *p,
				     uint32_t leaf, uint32_t index)
{
	for (unsigned i = 0; i < p->nr; i++) {
		const struct cpuid_leaf *l = &p->leaf[i];

		if (l->leaf == leaf && (!l->has_index || l->index == index))
			return l;
	}
	return NULL;
}

struct cpuid_regs cpuid_get(const struct cpuid_policy *p, uint32_t leaf,
			    uint32_t index)
{
	const struct cpuid_leaf *l = find(p, leaf, index);

	return l ? l->r : (struct cpuid_regs){ 0 };
}

static bool is_in_range(const struct cpuid_policy *p, uint32_t leaf)
{
	if (leaf <= cpuid_get(p, 0, 0).eax)
		return true;
	if (leaf >= LEAF_EXT_MAX)
		return leaf <= cpuid_get(p, LEAF_EXT_MAX, 0).eax;
	return p->config.pv && leaf >= LEAF_PV && leaf <= LEAF_PV_TSC;
}

struct cpuid_regs cpuid_lookup(const struct cpuid_policy *p, uint32_t leaf,
			       uint32_t index, uint32_t apic_id,
			       const struct x86_state *st)
{
	const struct cpu_topology *t = &p->config.topology;
	struct cpuid_regs r = { 0 };

	if (!is_in_range(p, leaf)) {
		if (cpuid_is_amd(p))
			return r;
		leaf = cpuid_get(p, 0, 0).eax;
	}
	r = cpuid_get(p, leaf, index);
	switch (leaf) {
	case 1:
		r.ebx |= apic_id << 24;
		if (st->cr4 & CR4_OSXSAVE)
			r.ecx |= B(27);
		break;
	case 0xb:
	case 0x1f: /* also for a level that does not exist */
		r.ecx |= index & 0xff;
		r.edx = apic_id;
		break;
	case 0xd:
		if (index == 0 && r.eax)
			r.ebx = xsave_size(p, st->xcr0);
		else if (index == 1 && (r.eax & B(1)))
			r.ebx = xsavec_size(p, st->xcr0);
		break;
	case 0x8000001e:
		r.eax = apic_id;
		r.ebx |= (apic_id & ((1U << package_width(t)) - 1)) >>
			 smt_width(t);
		r.ecx = apic_id >> package_width(t);
		break;
	}
	return r;
}
