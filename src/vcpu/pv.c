/*
 * KVM's paravirtual interface: what the guest shares with us in its memory.
 *
 * The guest names addresses and may put anything there at any time: every
 * access looks the address up anew, and nothing that is read back is trusted
 * beyond a bit. Structures are those of Linux' asm/kvm_para.h and
 * asm/pvclock-abi.h.
 *
 * Versions: the guest reads a structure between two reads of its version and
 * starts over if they differ or are odd; we make it odd, write, make it even.
 */
#include "vcpu/pv.h"

#include <string.h>
#include <time.h>

#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01
#define MSR_KVM_STEAL_TIME      0x4b564d03
#define MSR_KVM_PV_EOI          0x4b564d04
#define MSR_KVM_POLL_CONTROL    0x4b564d05
#define KVM_ENABLED             BIT(0)

#define KVM_HC_VAPIC_POLL_IRQ   1
#define KVM_HC_KICK_CPU         5
#define KVM_HC_CLOCK_PAIRING    9
#define KVM_HC_SEND_IPI         10
#define KVM_EFAULT              14
#define KVM_EINVAL              22
#define KVM_EOPNOTSUPP          95
#define KVM_ENOSYS              1000

#define PREEMPTED               1
#define PREEMPTED_FLUSH_TLB     2
#define CLOCK_TSC_STABLE        1
#define ICR_DEST_MASK           (3U << 18) /* destination shorthand */

/* Steal time is brought up to date at most this often. */
#define STEAL_PERIOD_NS NSEC_PER_MSEC

struct clock_page {
	uint32_t version, pad;
	uint64_t tsc_timestamp, system_time;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad2[2];
};

struct wall_clock {
	uint32_t version, sec, nsec;
};

struct steal_page {
	uint64_t steal;
	uint32_t version, flags;
	uint8_t preempted, pad[47];
};

struct clock_pairing {
	int64_t sec, nsec;
	uint64_t tsc;
	uint32_t flags, pad[9];
};

/* Guest RAM that may be written, or NULL. What is not aligned as the structure
 * is, a guest gets nothing from. */
static void *ram_at(struct vcpu *vcpu, uint64_t gpa, uint64_t len,
		    unsigned align)
{
	struct gmem *mem = vcpu->set->mem;
	struct gmem_region *region = gmem_find(mem, gpa);

	if (!region || (region->flags & GMEM_RO) || gpa & (align - 1))
		return NULL;
	return gmem_at(mem, gpa, len);
}

static void version_begin(uint32_t *version)
{
	__atomic_store_n(version, (*version + 1) | 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void version_end(uint32_t *version)
{
	__atomic_store_n(version, *version + 1, __ATOMIC_RELEASE);
}

/* ---- Clock --------------------------------------------------------------- */

/* ns = ((ticks << shift) * mul) >> 32, a negative shift to the right. */
static void clock_scale(uint64_t hz, uint32_t *mul, int8_t *shift)
{
	uint64_t num = NSEC_PER_SEC, den = hz;

	*shift = 0;
	for (; num >= den; den <<= 1)
		++*shift;
	for (; num * 2 < den; num <<= 1)
		--*shift;
	*mul = (uint32_t)(((unsigned __int128)num << 32) / den);
}

/* The moment that the clock pages start from: a new one whenever the clock was
 * stopped, which also takes out what the two had drifted apart. */
static struct pv_moment clock_moment(struct vcpus *vs)
{
	struct pv_moment m;

	pthread_mutex_lock(&vs->lock);
	m = vs->moment;
	if (!m.is_valid || m.tsc_offset != vclock_tsc_offset(vs->clock)) {
		m.is_valid = true;
		m.tsc_offset = vclock_tsc_offset(vs->clock);
		m.tsc = vclock_tsc(vs->clock);
		m.ns = vclock_tsc_to_ns(vs->clock, m.tsc);
		vs->moment = m;
	}
	pthread_mutex_unlock(&vs->lock);
	return m;
}

void pv_clock_update(struct vcpu *vcpu, struct x86_state *st)
{
	struct vclock *clock = vcpu->set->clock;
	uint64_t gpa = st->pv_system_time & ~KVM_ENABLED;
	uint32_t khz = vclock_tsc_khz(clock);
	struct clock_page *page;
	struct pv_moment m;

	if (!(st->pv_system_time & KVM_ENABLED) || !khz)
		return;
	page = ram_at(vcpu, gpa, sizeof(*page), 8);
	if (!page)
		return;
	m = clock_moment(vcpu->set);
	version_begin(&page->version);
	page->tsc_timestamp = m.tsc + st->tsc_adjust;
	page->system_time = (uint64_t)m.ns;
	clock_scale(khz * 1000ULL, &page->mul, &page->shift);
	page->flags = CLOCK_TSC_STABLE;
	version_end(&page->version);
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*page));
}

static int64_t wall_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* The wall time at which guest time was zero. */
static void write_wall_clock(struct vcpu *vcpu, uint64_t gpa)
{
	struct wall_clock *wall = ram_at(vcpu, gpa, sizeof(*wall), 4);
	int64_t boot = wall_now_ns() - vclock_now(vcpu->set->clock);

	if (!wall)
		return;
	version_begin(&wall->version);
	wall->sec = (uint32_t)(boot / NSEC_PER_SEC);
	wall->nsec = (uint32_t)(boot % NSEC_PER_SEC);
	version_end(&wall->version);
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*wall));
}

/* ---- Steal time ---------------------------------------------------------- */

static struct steal_page *steal_page(struct vcpu *vcpu, struct x86_state *st,
				     uint64_t *gpa)
{
	*gpa = st->pv_steal_time & ~MASK(5, 0);
	if (!(st->pv_steal_time & KVM_ENABLED))
		return NULL;
	return ram_at(vcpu, *gpa, sizeof(struct steal_page), 64);
}

static int64_t thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* While a CPU runs, guest time that its thread did not spend on a host CPU is
 * stolen. Guest time stands still in a pause, so that is none. */
void pv_steal_update(struct vcpu *vcpu, struct x86_state *st)
{
	struct vcpu_pv *pv = &vcpu->pv;
	uint64_t gpa;
	struct steal_page *page = steal_page(vcpu, st, &gpa);
	int64_t now, cpu, stolen;

	if (!page)
		return;
	if (__atomic_load_n(&page->preempted, __ATOMIC_ACQUIRE) &&
	    (__atomic_exchange_n(&page->preempted, 0, __ATOMIC_ACQ_REL) &
	     PREEMPTED_FLUSH_TLB))
		atomic_fetch_or(&vcpu->requests, VCPU_REQ_TLB);
	now = vclock_now(vcpu->set->clock);
	if (pv->mark_ns && now - pv->mark_ns < STEAL_PERIOD_NS)
		return;
	cpu = thread_cpu_ns();
	stolen = (now - pv->mark_ns) - (cpu - pv->mark_cpu_ns);
	if (pv->mark_ns && stolen > 0) {
		vcpu->stats.steal_ns += (uint64_t)stolen;
		version_begin(&page->version);
		page->steal += (uint64_t)stolen;
		version_end(&page->version);
	}
	pv->mark_ns = now ? now : 1;
	pv->mark_cpu_ns = cpu;
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*page));
}

void pv_set_preempted(struct vcpu *vcpu, struct x86_state *st)
{
	uint64_t gpa;
	struct steal_page *page = steal_page(vcpu, st, &gpa);

	vcpu->pv.mark_ns = 0;
	if (!page)
		return;
	__atomic_store_n(&page->preempted, PREEMPTED, __ATOMIC_RELEASE);
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*page));
}

/* ---- End of interrupt ---------------------------------------------------- */

static uint32_t *eoi_word(struct vcpu *vcpu, struct x86_state *st,
			  uint64_t *gpa)
{
	*gpa = st->pv_eoi & ~MASK(1, 0);
	if (!(st->pv_eoi & KVM_ENABLED))
		return NULL;
	return ram_at(vcpu, *gpa, sizeof(uint32_t), 4);
}

void pv_eoi_offer(struct vcpu *vcpu, struct x86_state *st)
{
	uint64_t gpa;
	uint32_t *word = eoi_word(vcpu, st, &gpa);

	if (!word)
		return;
	__atomic_fetch_or(word, 1, __ATOMIC_RELAXED);
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*word));
	st->pv_eoi |= PV_EOI_OFFERED;
}

bool pv_eoi_taken(struct vcpu *vcpu, struct x86_state *st)
{
	uint64_t gpa;
	uint32_t *word = eoi_word(vcpu, st, &gpa);
	bool was_offered = st->pv_eoi & PV_EOI_OFFERED;

	st->pv_eoi &= ~PV_EOI_OFFERED;
	if (!was_offered || !word)
		return false;
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*word));
	return !(__atomic_fetch_and(word, ~1U, __ATOMIC_RELAXED) & 1);
}

/* ---- MSRs ---------------------------------------------------------------- */

bool pv_owns_msr(uint32_t msr)
{
	return msr >= MSR_KVM_WALL_CLOCK_NEW && msr <= MSR_KVM_POLL_CONTROL;
}

int pv_msr_read(struct vcpu *vcpu, struct x86_state *st, uint32_t msr,
		uint64_t *value)
{
	if (!vcpu->set->cpuid.config.pv)
		return -1;
	switch (msr) {
	case MSR_KVM_WALL_CLOCK_NEW:
		*value = st->pv_wall_clock;
		return 0;
	case MSR_KVM_SYSTEM_TIME_NEW:
		*value = st->pv_system_time;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*value = st->pv_steal_time;
		return 0;
	case MSR_KVM_PV_EOI:
		*value = st->pv_eoi & ~PV_EOI_OFFERED;
		return 0;
	case MSR_KVM_POLL_CONTROL:
		*value = st->pv_poll_control;
		return 0;
	default:
		return -1;
	}
}

int pv_msr_write(struct vcpu *vcpu, struct x86_state *st, uint32_t msr,
		 uint64_t value)
{
	if (!vcpu->set->cpuid.config.pv)
		return -1;
	switch (msr) {
	case MSR_KVM_WALL_CLOCK_NEW:
		st->pv_wall_clock = value;
		write_wall_clock(vcpu, value);
		return 0;
	case MSR_KVM_SYSTEM_TIME_NEW:
		st->pv_system_time = value;
		pv_clock_update(vcpu, st);
		return 0;
	case MSR_KVM_STEAL_TIME:
		if (value & MASK(5, 1))
			return -1;
		st->pv_steal_time = value;
		vcpu->pv.mark_ns = 0;
		pv_steal_update(vcpu, st);
		return 0;
	case MSR_KVM_PV_EOI:
		if (value & MASK(1, 1))
			return -1;
		/* An offer in the old word is taken back first. */
		if (pv_eoi_taken(vcpu, st) && vcpu->intc.ops)
			vcpu->intc.ops->eoi(vcpu->intc.dev);
		st->pv_eoi = value;
		return 0;
	case MSR_KVM_POLL_CONTROL:
		if (value & ~KVM_ENABLED)
			return -1;
		st->pv_poll_control = value;
		return 0;
	default:
		return -1;
	}
}

/* ---- Hypercalls ---------------------------------------------------------- */

static struct vcpu *find_cpu(struct vcpu *vcpu, uint64_t apic_id)
{
	const struct cpu_topology *t = &vcpu->set->cpuid.config.topology;

	for (unsigned i = 0; i < vcpu->set->nr; i++)
		if (cpuid_apic_id(t, i) == apic_id)
			return &vcpu->set->vcpu[i];
	return NULL;
}

static int64_t hc_kick(struct vcpu *vcpu, uint64_t apic_id)
{
	struct vcpu *target = find_cpu(vcpu, apic_id);

	if (target)
		vcpu_request(target, VCPU_REQ_UNHALT);
	return 0;
}

/* Bit (n) of the map of two words of (width) bits is APIC id (first) + n. */
static int64_t hc_send_ipi(struct vcpu *vcpu, const uint64_t map[2],
			   unsigned width, uint64_t first, uint64_t icr)
{
	struct intc *intc = &vcpu->intc;
	int64_t sent = 0;

	if ((icr & ICR_DEST_MASK) || icr >> 32)
		return -KVM_EINVAL;
	if (!intc->ops)
		return 0;
	for (unsigned n = 0; n < 2 * width; n++) {
		if (!(map[n / width] >> (n % width) & 1) ||
		    !find_cpu(vcpu, first + n))
			continue;
		intc->ops->send_ipi(intc->dev, (uint32_t)(first + n),
				    (uint32_t)icr);
		sent++;
	}
	return sent;
}

/* The wall clock and the TSC at one moment. */
static int64_t hc_clock_pairing(struct vcpu *vcpu, struct x86_state *st,
				uint64_t gpa, uint64_t type)
{
	struct clock_pairing *pair = ram_at(vcpu, gpa, sizeof(*pair), 8);
	int64_t now = wall_now_ns();

	if (type)
		return -KVM_EOPNOTSUPP;
	if (!pair)
		return -KVM_EFAULT;
	*pair = (struct clock_pairing){
		.sec = now / NSEC_PER_SEC,
		.nsec = now % NSEC_PER_SEC,
		.tsc = vclock_tsc(vcpu->set->clock) + st->tsc_adjust,
	};
	gmem_mark_written(vcpu->set->mem, gpa, sizeof(*pair));
	return 0;
}

static int64_t hc_log(struct vcpu *vcpu, uint64_t gpa, uint64_t len)
{
	char text[PV_LOG_MAX + 1];
	uint64_t n = MIN(len, (uint64_t)PV_LOG_MAX);

	if (gmem_read(vcpu->set->mem, gpa, text, n))
		return -KVM_EFAULT;
	for (uint64_t i = 0; i < n; i++)
		if (text[i] < ' ' || text[i] > '~')
			text[i] = '.';
	text[n] = '\0';
	log_guest(&vcpu->pv.log, "hypercall", "vcpu%u says: %s", vcpu->index,
		  text);
	return 0;
}

void pv_hypercall(struct vcpu *vcpu, struct x86_state *st)
{
	bool is_64 = x86_is_long64(st);
	uint64_t mask = is_64 ? ~0ULL : 0xffffffff;
	uint64_t a0 = st->gpr[RBX] & mask, a1 = st->gpr[RCX] & mask;
	uint64_t a2 = st->gpr[RDX] & mask, a3 = st->gpr[RSI] & mask;
	int64_t r;

	switch (st->gpr[RAX] & mask) {
	case KVM_HC_VAPIC_POLL_IRQ:
		r = 0;
		break;
	case KVM_HC_KICK_CPU:
		r = hc_kick(vcpu, a1);
		break;
	case KVM_HC_CLOCK_PAIRING:
		r = hc_clock_pairing(vcpu, st, a0, a1);
		break;
	case KVM_HC_SEND_IPI:
		r = hc_send_ipi(vcpu, (uint64_t[]){ a0, a1 }, is_64 ? 64 : 32,
				a2, a3);
		break;
	case PV_HC_LOG:
		r = hc_log(vcpu, a0, a1);
		break;
	default:
		r = -KVM_ENOSYS;
	}
	st->gpr[RAX] = (uint64_t)r & mask;
}
