#include "vcpu/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "host/clock.h"

#define API_VERSION 12
#define MAX_CPUID   256
/* Intel's VMX wants these pages for real mode; they lie below the BIOS. */
#define TSS_ADDR      0xfffbd000UL
#define IDENTITY_ADDR 0xfffbc000UL

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int r;

	do
		r = ioctl(fd, request, arg);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : 0;
}

/* ---- machine ------------------------------------------------------------------- */

static int open_kvm(struct err *err)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set(err, errno,
			       errno == EACCES ? "add yourself to group kvm"
					       : "use --accel interp",
			       "cannot open /dev/kvm:");
	if (ioctl(fd, KVM_GET_API_VERSION, 0) != API_VERSION ||
	    ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0) {
		close(fd);
		return err_set(err, ENOTSUP, "use --accel interp",
			       "/dev/kvm is too old");
	}
	return fd;
}

static int get_supported(struct kvm_vm *kvm)
{
	size_t size = sizeof(*kvm->supported) +
		      MAX_CPUID * sizeof(kvm->supported->entries[0]);

	kvm->supported = calloc(1, size);
	if (!kvm->supported)
		return -ENOMEM;
	kvm->supported->nent = MAX_CPUID;
	return kvm_ioctl(kvm->kvm_fd, KVM_GET_SUPPORTED_CPUID, kvm->supported);
}

/* The part of a machine that the probe needs, too. */
static int vm_open(struct kvm_vm *kvm, struct err *err)
{
	uint64_t identity = IDENTITY_ADDR;
	int r;

	pthread_mutex_init(&kvm->lock, NULL);
	kvm->kvm_fd = open_kvm(err);
	if (kvm->kvm_fd < 0)
		return kvm->kvm_fd;
	kvm->vm_fd = ioctl(kvm->kvm_fd, KVM_CREATE_VM, 0);
	if (kvm->vm_fd < 0) {
		r = err_set(err, errno, "use --accel interp",
			    "kvm: cannot make a machine:");
		close(kvm->kvm_fd);
		return r;
	}
	ioctl(kvm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	ioctl(kvm->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDR);
	kvm->run_size = (size_t)ioctl(kvm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	return 0;
}

static void vm_close(struct kvm_vm *kvm)
{
	free(kvm->supported);
	close(kvm->vm_fd);
	close(kvm->kvm_fd);
	pthread_mutex_destroy(&kvm->lock);
}

static int map_region(const struct kvm_vm *kvm, uint32_t slot,
		      const struct gmem_region *r)
{
	struct kvm_userspace_memory_region m = {
		.slot = slot,
		.flags = r->flags & GMEM_RO ? KVM_MEM_READONLY : 0U,
		.guest_phys_addr = r->gpa,
		.memory_size = r->size,
		.userspace_addr = (uintptr_t)r->hva,
	};

	return kvm_ioctl(kvm->vm_fd, KVM_SET_USER_MEMORY_REGION, &m);
}

static int vm_create(struct vcpus *vs, struct err *err)
{
	struct kvm_vm *kvm = calloc(1, sizeof(*kvm));
	int r;

	if (!kvm)
		return err_set(err, ENOMEM, NULL, "kvm:");
	r = vm_open(kvm, err);
	if (r)
		goto err_free;
	r = get_supported(kvm);
	if (r) {
		err_set(err, -r, NULL, "kvm: cannot read CPUID:");
		goto err_close;
	}
	kvm->has_xcrs =
		ioctl(kvm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
	if (vs->ops->irqchip) {
		r = kvm_irqchip_create(kvm);
		if (r == -ENOTSUP)
			log_info("kvm: no interrupt chips in this kernel");
		else if (r) {
			err_set(err, -r, "use --accel kvm-user",
				"kvm: cannot make interrupt chips:");
			goto err_close;
		}
		kvm->has_irqchip = !r;
	}
	for (unsigned i = 0; i < vs->mem->nr_regions; i++) {
		r = map_region(kvm, i, &vs->mem->region[i]);
		if (r) {
			err_set(err, -r, NULL, "kvm: cannot map memory '%s':",
				vs->mem->region[i].name);
			goto err_close;
		}
	}
	vs->has_irqchip = kvm->has_irqchip;
	vs->accel = kvm;
	return 0;

err_close:
	vm_close(kvm);
err_free:
	free(kvm);
	return r;
}

static void vm_destroy(struct vcpus *vs)
{
	struct kvm_vm *kvm = kvm_vm_of(vs);

	stats_remove(&kvm->stats_group);
	vm_close(kvm);
	free(kvm);
	vs->accel = NULL;
}

static const struct stat_desc stat_descs[] = {
	STAT(struct kvm_vm, nr_msi),
	STAT(struct kvm_vm, nr_lines),
	STAT(struct kvm_vm, nr_irqfds),
	STAT(struct kvm_vm, nr_ioeventfds),
	{ .name = NULL },
};

static void add_stats(struct vcpus *vs)
{
	struct kvm_vm *kvm = kvm_vm_of(vs);

	stats_add(vs->stats, &kvm->stats_group, "kvm", stat_descs, kvm);
}

/* ---- probe ----------------------------------------------------------------------- */

/*
 * A /dev/kvm that opens proves nothing: without hardware behind it, ring 0 may
 * run a hundred times slower than a software processor. So a long-mode guest
 * at ring 0 counts in memory for a moment:
 *
 *   0x0000  loop: inc rax; mov [0x8000], rax; mov rbx, [0x8000]; jmp loop
 *   0x1000  PML4 -> 0x2000 PDPT -> 0x3000 PD -> one 2 MiB page
 */
#define PROBE_MEM  (64 * KiB)
#define PROBE_NS   (20 * NSEC_PER_MSEC)
#define PROBE_LOOP 4 /* instructions in a turn */

static const uint8_t probe_code[] = {
	0x48, 0xff, 0xc0,                         /* inc rax */
	0x48, 0x89, 0x04, 0x25, 0x00, 0x80, 0, 0, /* mov [0x8000], rax */
	0x48, 0x8b, 0x1c, 0x25, 0x00, 0x80, 0, 0, /* mov rbx, [0x8000] */
	0xeb, 0xeb,                               /* jmp to the start */
};

static void probe_state(struct kvm_sregs *s)
{
	struct kvm_segment cs = { .limit = ~0U,
				  .selector = 8,
				  .type = 11,
				  .present = 1,
				  .s = 1,
				  .l = 1,
				  .g = 1 };
	struct kvm_segment ds = cs;

	ds.type = 3;
	ds.selector = 16;
	ds.l = 0;
	ds.db = 1;
	s->cs = cs;
	s->ds = s->es = s->fs = s->gs = s->ss = ds;
	s->cr3 = 0x1000;
	s->cr4 = CR4_PAE;
	s->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
	s->efer = EFER_LME | EFER_LMA;
}

/* Run the loaded guest until the timer's signal; turns of the loop. */
static int64_t probe_run(int vcpu_fd)
{
	struct kvm_regs regs;
	int64_t start = clock_now_ns(), spent;
	timer_t timer;
	struct sigevent sev = { .sigev_notify = SIGEV_THREAD_ID,
				.sigev_signo = SIGUSR1 };
	struct itimerspec when = { .it_value.tv_nsec = PROBE_NS,
				   .it_interval.tv_nsec = PROBE_NS };
	int r;

	sev._sigev_un._tid = gettid();
	if (timer_create(CLOCK_MONOTONIC, &sev, &timer))
		return -errno;
	timer_settime(timer, 0, &when, NULL);
	r = ioctl(vcpu_fd, KVM_RUN, 0) < 0 ? -errno : 0;
	timer_delete(timer);
	spent = clock_now_ns() - start;
	if (r != -EINTR)
		return r ? r : -EIO; /* it has no reason to exit */
	r = kvm_ioctl(vcpu_fd, KVM_GET_REGS, &regs);
	if (r)
		return r;
	return (int64_t)(regs.rax * PROBE_LOOP * NSEC_PER_SEC /
			 (uint64_t)MAX(spent, 1));
}

static int64_t probe_vcpu(const struct kvm_vm *kvm, int fd)
{
	struct kvm_regs regs = { .rip = 0, .rflags = FLAG_ONE };
	struct kvm_sregs sregs;
	struct kvm_run *run = mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd, 0);
	int64_t r;

	if (run == MAP_FAILED)
		return -errno;
	r = kvm_ioctl(fd, KVM_GET_SREGS, &sregs);
	probe_state(&sregs);
	if (!r)
		r = kvm_ioctl(fd, KVM_SET_SREGS, &sregs);
	if (!r)
		r = kvm_ioctl(fd, KVM_SET_REGS, &regs);
	if (!r)
		r = probe_run(fd);
	munmap(run, kvm->run_size);
	return r;
}

static void probe_load(uint8_t *mem)
{
	const uint64_t pml4e = 0x2000 | PTE_P | PTE_W;
	const uint64_t pdpte = 0x3000 | PTE_P | PTE_W;
	const uint64_t pde = PTE_P | PTE_W | PTE_PS;

	memcpy(mem, probe_code, sizeof(probe_code));
	memcpy(mem + 0x1000, &pml4e, 8);
	memcpy(mem + 0x2000, &pdpte, 8);
	memcpy(mem + 0x3000, &pde, 8);
}

/* Nothing to do: that it came ends KVM_RUN. */
static void probe_tick(int sig)
{
}

static int64_t probe_machine(const struct kvm_vm *kvm, uint8_t *mem)
{
	struct gmem_region region = { .size = PROBE_MEM, .hva = mem };
	struct sigaction sa = { .sa_handler = probe_tick }, old;
	sigset_t set, old_set;
	int64_t r;
	int fd;

	probe_load(mem);
	r = map_region(kvm, 0, &region);
	if (r)
		return r;
	fd = ioctl(kvm->vm_fd, KVM_CREATE_VCPU, 0);
	if (fd < 0)
		return -errno;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaction(SIGUSR1, &sa, &old);
	pthread_sigmask(SIG_UNBLOCK, &set, &old_set);
	r = probe_vcpu(kvm, fd);
	pthread_sigmask(SIG_SETMASK, &old_set, NULL);
	sigaction(SIGUSR1, &old, NULL);
	close(fd);
	return r;
}

static int64_t probe(struct err *err)
{
	struct kvm_vm kvm = { .kvm_fd = -1 };
	uint8_t *mem;
	int64_t r = vm_open(&kvm, err);

	if (r)
		return r;
	mem = mmap(NULL, PROBE_MEM, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED) {
		r = -errno;
	} else {
		r = probe_machine(&kvm, mem);
		munmap(mem, PROBE_MEM);
	}
	vm_close(&kvm);
	if (r < 0)
		err_set(err, (int)-r, NULL, "kvm: its probe guest failed:");
	return r;
}

/* ---- the accelerators -------------------------------------------------------------- */

const struct accel_ops accel_kvm = {
	.name = "kvm",
	.probe = probe,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.run = kvm_vcpu_run,
	.kick = kvm_vcpu_kick,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.irqchip = &kvm_irqchip_ops,
	.irqchip_reset = kvm_irqchip_reset,
	.doorbell = &kvm_doorbell_ops,
	.add_stats = add_stats,
};

/* The same with the machine's own interrupt chips. */
const struct accel_ops accel_kvm_user = {
	.name = "kvm-user",
	.probe = probe,
	.vm_create = vm_create,
	.vm_destroy = vm_destroy,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.run = kvm_vcpu_run,
	.kick = kvm_vcpu_kick,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.doorbell = &kvm_doorbell_ops,
	.add_stats = add_stats,
};
