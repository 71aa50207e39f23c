/* How fast is a processor in software here? A short guest tells. */
#include <errno.h>
#include <stdlib.h>

#include "vcpu/interp/interp.h"
#include "vcpu/interp/mem.h"

#include <time.h>

#define RAM_SIZE   (2 * MiB)
#define CODE_GPA   0x1000
#define PML4_GPA   0x2000
#define PDPT_GPA   0x3000
#define PD_GPA     0x4000
#define ITERATIONS 20000
#define NR_INSNS   (8 * ITERATIONS + 1)
#define MAX_RUN_NS (20 * NSEC_PER_MSEC)

/* A loop of loads, stores, arithmetic and a branch. */
static const uint8_t code[] = {
	0x8b, 0x04, 0x1e,             /* mov eax, [rsi + rbx] */
	0x01, 0xc8,                   /* add eax, ecx */
	0x89, 0x04, 0x1e,             /* mov [rsi + rbx], eax */
	0x83, 0xc3, 0x04,             /* add ebx, 4 */
	0x81, 0xe3, 0xff, 0x0f, 0, 0, /* and ebx, 0xfff */
	0x48, 0x8d, 0x14, 0x18,       /* lea rdx, [rax + rbx] */
	0xff, 0xc9,                   /* dec ecx */
	0x75, 0xe7,                   /* jnz */
	0xf4,                         /* hlt */
};

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

/* A clock that the guest has no means to read. */
static int64_t clock_now(void *opaque)
{
	return 0;
}

static void clock_arm(void *opaque, int64_t host_ns)
{
}

static uint64_t clock_tsc(void *opaque)
{
	return 0;
}

static const struct vclock_host no_clock = { .now = clock_now,
					     .arm = clock_arm,
					     .tsc = clock_tsc };

static void guest_make(struct gmem *mem, struct x86_state *st)
{
	const uint64_t pml4e = PDPT_GPA | PTE_P | PTE_W;
	const uint64_t pdpte = PD_GPA | PTE_P | PTE_W;
	const uint64_t pde = PTE_P | PTE_W | PTE_PS;

	gmem_load(mem, CODE_GPA, code, sizeof(code));
	gmem_load(mem, PML4_GPA, &pml4e, 8);
	gmem_load(mem, PDPT_GPA, &pdpte, 8);
	gmem_load(mem, PD_GPA, &pde, 8);
	x86_state_reset(st, true);
	st->cr0 |= CR0_PE | CR0_PG;
	st->cr3 = PML4_GPA;
	st->cr4 |= CR4_PAE;
	st->efer = EFER_LME | EFER_LMA;
	st->seg[SEG_CS] = (struct x86_seg){
		.limit = 0xffffffff,
		.attr = ATTR_P | ATTR_S | ATTR_CODE | ATTR_RW | ATTR_ACCESSED |
			ATTR_L | ATTR_G,
		.sel = 8,
	};
	st->seg[SEG_SS].attr =
		ATTR_P | ATTR_S | ATTR_RW | ATTR_ACCESSED | ATTR_DB | ATTR_G;
	st->seg[SEG_SS].limit = 0xffffffff;
	st->rip = CODE_GPA;
	st->gpr[RSI] = 0x100000;
	st->gpr[RCX] = ITERATIONS;
}

/* Run it again and again for a while; returns instructions a second. */
static int64_t guest_time(struct vcpu *vcpu, const struct x86_state *st)
{
	const struct accel_ops *ops = vcpu->set->ops;
	int64_t start = now_ns(), ns = 0;
	uint64_t insns = 0;
	struct exit exit;

	while (ns < MAX_RUN_NS) {
		ops->set_state(vcpu, st);
		if (ops->run(vcpu, &exit) || exit.reason != EXIT_HLT)
			return -EIO;
		insns += NR_INSNS;
		ns = now_ns() - start;
	}
	return (int64_t)((unsigned __int128)insns * NSEC_PER_SEC /
			 (uint64_t)ns);
}

/* The set has one CPU, on this thread, with nothing around it. */
static int64_t guest_run(struct vcpus *vs, struct err *err)
{
	struct x86_state *st = aligned_alloc(64, sizeof(*st));
	int64_t speed;
	int r;

	if (!st)
		return err_set(err, ENOMEM, NULL, "cannot try the processor:");
	r = vs->ops->vm_create(vs, err);
	if (r) {
		speed = r;
		goto out;
	}
	r = vs->ops->vcpu_create(vs->vcpu, err);
	if (r) {
		speed = r;
		goto out_vm;
	}
	guest_make(vs->mem, st);
	speed = guest_time(vs->vcpu, st);
	if (speed < 0)
		err_set(err, 0, NULL, "the processor did not run a loop");
	vs->ops->vcpu_destroy(vs->vcpu);
out_vm:
	vs->ops->vm_destroy(vs);
out:
	free(st);
	return speed;
}

int64_t software_probe(const struct accel_ops *ops, struct err *err)
{
	struct vcpus *vs = calloc(1, sizeof(*vs));
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	struct gmem mem;
	int64_t speed;
	int r;

	gmem_init(&mem);
	if (!vs || !vcpu) {
		speed = err_set(err, ENOMEM, NULL, "cannot try the processor:");
		goto out;
	}
	r = gmem_add(&mem, "probe", 0, RAM_SIZE, 0, err);
	if (r) {
		speed = r;
		goto out;
	}
	vs->clock = vclock_create(&no_clock, 1000000);
	if (!vs->clock) {
		speed = err_set(err, ENOMEM, NULL, "cannot try the processor:");
		goto out;
	}
	vs->ops = ops;
	vs->mem = &mem;
	vs->vcpu = vcpu;
	vs->nr = 1;
	vcpu->set = vs;
	cpuid_policy_init(&vs->cpuid,
			  &(struct cpuid_config){ .topology = { 1, 1, 1 },
						  .is_software = true,
						  .phys_bits = 40 });
	speed = guest_run(vs, err);
	vclock_destroy(vs->clock);
out:
	gmem_finish(&mem);
	free(vcpu);
	free(vs);
	return speed;
}
