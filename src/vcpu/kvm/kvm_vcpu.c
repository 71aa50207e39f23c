#include "vcpu/kvm/kvm.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/clock.h"

/* KVM's clock is set to within this, unless the host is very busy. */
#define CLOCK_ERROR_NS (100 * 1000)
#define CLOCK_TRIES    10

/* ---- CPUID ------------------------------------------------------------------ */

static const struct kvm_cpuid_entry2 *
supported_leaf(const struct kvm_vm *kvm, uint32_t leaf, uint32_t index)
{
	const struct kvm_cpuid2 *s = kvm->supported;

	for (uint32_t i = 0; i < s->nent; i++)
		if (s->entries[i].function == leaf &&
		    (!(s->entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) ||
		     s->entries[i].index == index))
			return &s->entries[i];
	return NULL;
}

/* What KVM does by its own LAPICs alone. */
#define LAPIC_FEATURES                                                 \
	(KVM_FEAT_PV_EOI | KVM_FEAT_PV_UNHALT | KVM_FEAT_PV_SEND_IPI | \
	 KVM_FEAT_POLL_CONTROL)

/* Leaves whose bits say what the CPU can do: only what KVM can, too. */
static void restrict_leaf(const struct kvm_vm *kvm, struct kvm_cpuid_entry2 *e)
{
	const struct kvm_cpuid_entry2 *s =
		supported_leaf(kvm, e->function, e->index);
	/* Made by KVM itself, whatever GET_SUPPORTED_CPUID lists: x2APIC, TSC
	 * deadline timer (with in-kernel LAPICs), the hypervisor bit. */
	uint32_t own = kvm->has_irqchip ? BIT(21) | BIT(24) | BIT(31) : BIT(31);

	switch (e->function) {
	case 1:
		e->ecx &= (s ? s->ecx : 0) | own;
		e->edx &= (s ? s->edx : 0) | BIT(28);
		if (!kvm->has_irqchip)
			e->ecx &= ~(uint32_t)(BIT(21) | BIT(24));
		break;
	case 7:
		e->ebx &= s ? s->ebx : 0;
		e->ecx &= s ? s->ecx : 0;
		e->edx &= s ? s->edx : 0;
		if (e->index)
			e->eax &= s ? s->eax : 0;
		break;
	case 0xd:
		if (e->index == 1)
			e->eax &= s ? s->eax : 0;
		break;
	case 0x40000001:
		e->eax &= s ? s->eax : 0;
		if (!kvm->has_irqchip)
			e->eax &= ~(uint32_t)LAPIC_FEATURES;
		break;
	case 0x80000001:
		e->ecx &= s ? s->ecx : 0;
		e->edx &= s ? s->edx : 0;
		break;
	case 0x80000008:
		e->ebx &= s ? s->ebx : 0;
		break;
	}
}

static int set_cpuid(struct vcpu *vcpu)
{
	const struct kvm_vm *kvm = kvm_vm_of(vcpu->set);
	const struct cpuid_policy *p = &vcpu->set->cpuid;
	struct x86_state *st = aligned_alloc(64, sizeof(*st));
	struct kvm_cpuid2 *table =
		calloc(1, sizeof(*table) + p->nr * sizeof(table->entries[0]));
	uint32_t apic_id = cpuid_apic_id(&p->config.topology, vcpu->index);
	int r = -ENOMEM;

	if (!table || !st)
		goto out;
	x86_state_reset(st, true);
	for (unsigned i = 0; i < p->nr; i++) {
		const struct cpuid_leaf *l = &p->leaf[i];
		struct kvm_cpuid_entry2 *e = &table->entries[table->nent++];
		struct cpuid_regs v =
			cpuid_lookup(p, l->leaf, l->index, apic_id, st);

		*e = (struct kvm_cpuid_entry2){
			.function = l->leaf,
			.index = l->index,
			.flags = l->has_index ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX
					      : 0U,
			.eax = v.eax,
			.ebx = v.ebx,
			.ecx = v.ecx,
			.edx = v.edx,
		};
		restrict_leaf(kvm, e);
	}
	r = kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_SET_CPUID2, table);
out:
	free(table);
	free(st);
	return r;
}

/* ---- creation ---------------------------------------------------------------- */

static void kick_handler(int sig)
{
}

/* A kick interrupts KVM_RUN by this signal; nothing else uses it. */
static void unblock_kicks(void)
{
	struct sigaction sa = { .sa_handler = kick_handler };
	sigset_t set;

	sigaction(SIGUSR1, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int kvm_vcpu_create(struct vcpu *vcpu, struct err *err)
{
	struct kvm_vm *kvm = kvm_vm_of(vcpu->set);
	struct kvm_vcpu *kv = calloc(1, sizeof(*kv));
	uint32_t apic_id =
		cpuid_apic_id(&vcpu->set->cpuid.config.topology, vcpu->index);
	int r;

	if (!kv)
		return err_set(err, ENOMEM, NULL, "kvm: no CPU:");
	unblock_kicks();
	kv->fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, (unsigned long)apic_id);
	if (kv->fd < 0) {
		r = err_set(err, errno, "fewer CPUs, or --accel interp",
			    "kvm: cannot make CPU %u:", vcpu->index);
		goto err_free;
	}
	kv->run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		       kv->fd, 0);
	if (kv->run == MAP_FAILED) {
		r = err_set(err, errno, NULL,
			    "kvm: cannot map CPU %u:", vcpu->index);
		goto err_close;
	}
	vcpu->accel = kv;
	r = set_cpuid(vcpu);
	if (r) {
		err_set(err, -r, NULL,
			"kvm: CPUID of CPU %u was refused:", vcpu->index);
		goto err_unmap;
	}
	/* KVM's table of LAPICs, made while it creates a CPU, lacks that CPU:
	 * setting the state has it made again. */
	r = kvm->has_irqchip ? kvm_lapic_reset(vcpu) : 0;
	if (r) {
		err_set(err, -r, NULL,
			"kvm: cannot set the LAPIC of CPU %u:", vcpu->index);
		goto err_unmap;
	}
	return 0;

err_unmap:
	vcpu->accel = NULL;
	munmap(kv->run, kvm->run_size);
err_close:
	close(kv->fd);
err_free:
	free(kv);
	return r;
}

void kvm_vcpu_destroy(struct vcpu *vcpu)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);

	munmap(kv->run, kvm_vm_of(vcpu->set)->run_size);
	close(kv->fd);
	free(kv);
	vcpu->accel = NULL;
}

/* Called after the request's bit is set. The CPU clears immediate_exit, then
 * looks at requests: it sees the bit, or KVM_RUN sees this. */
void kvm_vcpu_kick(struct vcpu *vcpu)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);

	__atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vcpu->thread, SIGUSR1);
}

/* ---- time ---------------------------------------------------------------------- */

/* Set KVM's clock to the machine's. Nothing says when KVM took the value, but
 * it was between the two readings: of an interrupted call's, another is made. */
static void set_kvmclock(const struct kvm_vm *kvm, struct vclock *clock)
{
	for (int i = 0; i < CLOCK_TRIES; i++) {
		int64_t before = vclock_now(clock);
		struct kvm_clock_data data = { .clock = (uint64_t)before };

		if (kvm_ioctl(kvm->vm_fd, KVM_SET_CLOCK, &data) ||
		    vclock_now(clock) - before < CLOCK_ERROR_NS)
			break;
	}
}

/* Guest time stood still while the machine was paused: move KVM's clock and
 * this CPU's TSC to where the machine's clock is. */
static void sync_clock(struct vcpu *vcpu)
{
	struct kvm_vm *kvm = kvm_vm_of(vcpu->set);
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct vclock *clock = vcpu->set->clock;
	int64_t offset = clock ? vclock_tsc_offset(clock) : 0;
	uint64_t adjust = 0;

	if (!clock || (kv->is_clock_set && kv->clock_offset == offset))
		return;
	kv->is_clock_set = true;
	kv->clock_offset = offset;
	/* What the guest itself added stays. */
	kvm_get_msr(kv, MSR_TSC_ADJUST, &adjust);
	kvm_set_tsc_offset(kv, offset + (int64_t)adjust);
	pthread_mutex_lock(&kvm->lock);
	if (!kvm->is_clock_set || kvm->clock_offset != offset) {
		kvm->is_clock_set = true;
		kvm->clock_offset = offset;
		set_kvmclock(kvm, clock);
	}
	pthread_mutex_unlock(&kvm->lock);
	/* Tell the guest's soft lockup detector that it was paused. */
	ioctl(kv->fd, KVM_KVMCLOCK_CTRL, 0);
}

/* KVM finishes the instruction of the last exit when it is entered again; then
 * the state is between instructions. */
static void complete_instruction(struct kvm_vcpu *kv)
{
	if (!kv->must_complete)
		return;
	__atomic_store_n(&kv->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	ioctl(kv->fd, KVM_RUN, 0);
	kv->must_complete = false;
}

/* ---- events, where the machine's own chips are used ------------------------------ */

static void inject_interrupt(struct vcpu *vcpu)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	const struct intc *intc = &vcpu->intc;
	struct kvm_interrupt irq;
	int vector;

	kv->run->request_interrupt_window = 0;
	if (!intc->ops)
		return;
	kv->run->cr8 = intc->ops->get_tpr(intc->dev);
	if (intc->ops->pending(intc->dev) < 0)
		return;
	if (!kv->run->ready_for_interrupt_injection || !kv->run->if_flag) {
		kv->run->request_interrupt_window = 1;
		return;
	}
	vector = intc->ops->acknowledge(intc->dev);
	if (vector < 0)
		return;
	irq.irq = (uint32_t)vector;
	kvm_ioctl(kv->fd, KVM_INTERRUPT, &irq);
	vcpu->stats.interrupts++;
}

/* INIT and SIPI as the startup protocol has them (SDM volume 3, 8.4.4). */
static void handle_startup(struct vcpu *vcpu)
{
	const struct intc *intc = &vcpu->intc;
	struct x86_state *st;
	uint32_t req = vcpu_take_requests(vcpu, VCPU_REQ_INIT | VCPU_REQ_SIPI);

	if (!req)
		return;
	complete_instruction(vcpu->accel);
	st = aligned_alloc(64, sizeof(*st));
	if (!st || kvm_get_state(vcpu, st))
		goto out;
	if (req & VCPU_REQ_INIT) {
		x86_state_init(st, vcpu->index == 0);
		if (intc->ops)
			intc->ops->reset(intc->dev);
	}
	if (req & VCPU_REQ_SIPI && st->activity == ACT_WAIT_SIPI)
		x86_state_sipi(st, vcpu->sipi_vector);
	kvm_set_state(vcpu, st);
out:
	free(st);
}

/* Does the CPU execute instructions now? */
static bool is_running(struct vcpu *vcpu, bool has_nmi)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	const struct intc *intc = &vcpu->intc;

	handle_startup(vcpu);
	if (kv->activity == ACT_HALTED &&
	    (has_nmi || (kv->run->if_flag && intc->ops &&
			 intc->ops->pending(intc->dev) >= 0)))
		kv->activity = ACT_RUNNING;
	return kv->activity == ACT_RUNNING;
}

/* ---- exits -------------------------------------------------------------------------- */

static bool do_pio(struct vcpu *vcpu, struct kvm_run *run)
{
	struct access a = {
		.addr = run->io.port,
		.size = run->io.size,
		.count = run->io.count,
		.is_write = run->io.direction == KVM_EXIT_IO_OUT,
		.data = (char *)run + run->io.data_offset,
	};

	vcpu_pio(vcpu, &a);
	return false;
}

static bool do_mmio(struct vcpu *vcpu, struct kvm_run *run, struct exit *exit)
{
	struct access a = {
		.addr = run->mmio.phys_addr,
		.size = (uint8_t)run->mmio.len,
		.count = 1,
		.is_write = run->mmio.is_write,
		.data = run->mmio.data,
	};
	struct kvm_vcpu_events e;

	if (vcpu_mmio(vcpu, &a))
		return false;
	if (vcpu->set->unmapped == UNMAPPED_KILL) {
		exit->reason = EXIT_UNMAPPED;
		exit->access = a;
		return true;
	}
	/* The instruction completes before the exception: KVM has no way to
	 * undo it. */
	if (!kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_GET_VCPU_EVENTS, &e)) {
		e.exception.injected = 1;
		e.exception.nr = EXC_GP;
		e.exception.has_error_code = 1;
		e.exception.error_code = 0;
		kvm_ioctl(kvm_vcpu_of(vcpu)->fd, KVM_SET_VCPU_EVENTS, &e);
	}
	return false;
}

static bool do_error(struct exit *exit, const char *what, uint64_t detail)
{
	exit->reason = EXIT_ERROR;
	snprintf(exit->text, sizeof(exit->text), "kvm: %s (0x%llx)", what,
		 (unsigned long long)detail);
	return true;
}

/* CR8 is the upper half of a byte: what did not change is left alone. */
static void fetch_tpr(struct vcpu *vcpu, uint8_t cr8)
{
	const struct intc *intc = &vcpu->intc;

	if (intc->ops && intc->ops->get_tpr(intc->dev) != cr8)
		intc->ops->set_tpr(intc->dev, cr8);
}

/* True: leave run() with (exit). */
static bool handle_kvm_exit(struct vcpu *vcpu, struct exit *exit)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	struct kvm_run *run = kv->run;

	kv->must_complete = false;
	if (!kvm_vm_of(vcpu->set)->has_irqchip)
		fetch_tpr(vcpu, (uint8_t)run->cr8);
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		kv->must_complete = true;
		return do_pio(vcpu, run);
	case KVM_EXIT_MMIO:
		kv->must_complete = true;
		return do_mmio(vcpu, run, exit);
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_SET_TPR: /* lowered: fetched above */
		return false;
	case KVM_EXIT_HLT: /* unless an interrupt came before */
		kv->activity = ACT_HALTED;
		return false;
	case KVM_EXIT_SHUTDOWN:
		exit->reason = EXIT_SHUTDOWN;
		return true;
	case KVM_EXIT_INTERNAL_ERROR:
		return do_error(exit,
				"internal error: an instruction that it "
				"cannot emulate",
				run->internal.suberror);
	case KVM_EXIT_FAIL_ENTRY:
		return do_error(exit, "entry failed",
				run->fail_entry.hardware_entry_failure_reason);
	default:
		return do_error(exit, "unknown exit", run->exit_reason);
	}
}

int kvm_vcpu_run(struct vcpu *vcpu, struct exit *exit)
{
	struct kvm_vcpu *kv = kvm_vcpu_of(vcpu);
	bool has_irqchip = kvm_vm_of(vcpu->set)->has_irqchip, has_nmi;

	sync_clock(vcpu);
	for (;;) {
		__atomic_store_n(&kv->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		vcpu_take_requests(vcpu, VCPU_REQ_WAKE | VCPU_REQ_TLB);
		if (atomic_load(&vcpu->requests) &
		    (VCPU_REQ_PAUSE | VCPU_REQ_STOP)) {
			complete_instruction(kv);
			exit->reason = EXIT_KICK;
			return 0;
		}
		has_nmi = vcpu_take_requests(vcpu, VCPU_REQ_NMI);
		if (!has_irqchip && !is_running(vcpu, has_nmi)) {
			exit->reason = EXIT_HLT;
			return 0;
		}
		if (has_nmi)
			ioctl(kv->fd, KVM_NMI, 0);
		if (!has_irqchip)
			inject_interrupt(vcpu);
		if (ioctl(kv->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN) {
				kv->must_complete = false;
				continue;
			}
			return -errno;
		}
		if (handle_kvm_exit(vcpu, exit))
			return 0;
	}
}
